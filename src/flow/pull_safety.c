/*-------------------------------------------------------------------------
 *
 * pull_safety.c
 *	  How far a pull may read without ever missing a row.
 *
 * A row gets its cursor value before it is committed, so that a row with a
 * lower value may appear after one with a higher value has been read.  A pull
 * must not go beyond the value that such a row could have:
 *
 * horizon	  Values are times taken in the writing transaction, so none is
 *			  before that transaction's start.  The limit is the oldest start of
 *			  a transaction in progress, looked up before the snapshot of the
 *			  read: whoever was not in progress then, and is not visible in the
 *			  snapshot, has started later.
 * lock_wait  Values are handed out in order to transactions that hold a lock
 *			  on the table already.  The greatest visible value is looked up,
 *			  then the transactions are waited for that hold such a lock, then
 *			  rows up to that value are read.
 * lag		  Rows are committed within so much time after their value.
 *
 * The order of these steps is what makes them right.  All of it is asked as
 * SQL at the source's site, so that a remote PostgreSQL is treated as this one.
 *
 * Locks: none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"

#include "etl_patterns.h"
#include "flow/pull.h"

/* Without a word from the caller, rows are committed within this time. */
#define DEFAULT_LAG_MINUTES 5

static void refuse(EtlPull *pull, const char *hint);
static bool had_lag(EtlPull *pull);
static EtlSafety automatic(EtlPull *pull);
static void check_choice(EtlPull *pull);
static void check_server(EtlPull *pull);
static void check_sequences(EtlPull *pull);
static void refuse_old_snapshot(EtlPull *pull);
static void set_lag_limit(EtlPull *pull);
static void set_horizon(EtlPull *pull);
static TimestampTz oldest_start(EtlPull *pull, TimestampTz *own);
static void check_activity(EtlPull *pull, char **answer);
static TimestampTz site_clock(EtlPull *pull);
static TimestampTz time_of(EtlPull *pull, const char *text);
static char *limit_of_time(EtlPull *pull, TimestampTz time);
static Timestamp local_limit(TimestampTz time);

/* ------------------------------------------------------------------ */
/* the choice                                                           */

/* Settles the mode, and refuses what could not be safe. */
void
etl_safety_choose(EtlPull *pull)
{
	if (pull->safety == ETL_SAFETY_AUTO)
		pull->safety = automatic(pull);
	check_choice(pull);
	if (pull->safety == ETL_SAFETY_HORIZON ||
		pull->safety == ETL_SAFETY_LOCK_WAIT)
	{
		refuse_old_snapshot(pull);
		check_server(pull);
	}
	if (pull->safety == ETL_SAFETY_LOCK_WAIT)
		check_sequences(pull);
	if (pull->safety == ETL_SAFETY_LAG && pull->lag == NULL)
	{
		pull->lag = palloc0(sizeof(Interval));
		pull->lag->time = DEFAULT_LAG_MINUTES * USECS_PER_MINUTE;
		if (!had_lag(pull))
			ereport(NOTICE,
					(errmsg("pipeline \"%s\" reads rows that are at least %d minutes old",
							pull->pipeline, DEFAULT_LAG_MINUTES),
					 errhint("Set \"lag\" to more than the longest time between a row's \"%s\" and its commit.",
							 pull->cursor.name)));
	}
}

/* Has the pipeline been read so before? */
static bool
had_lag(EtlPull *pull)
{
	const char *chosen = pull->watermark.detail == NULL ?
							 NULL :
							 etl_json_text(pull->watermark.detail, "chosen");

	return chosen != NULL &&
		   strcmp(chosen, etl_safety_words[ETL_SAFETY_LAG]) == 0;
}

/*
 * A lag that nobody has thought about is for rows that appear when they are
 * committed.  A materialized view can be any time behind.
 */
static EtlSafety
automatic(EtlPull *pull)
{
	EtlSite *site = pull->site;

	if (!site->is_local && !site->shows_writers && !site->is_wrapped)
		refuse(pull,
			   "Its rows may appear long after they were written, as those of a materialized view or a function do. Pass safety => 'lag' with a time as the cursor and a \"lag\" above that delay, or safety => 'none' if rows are never committed late.");
	if (pull->cursor.is_time)
		return site->is_local ? ETL_SAFETY_HORIZON : ETL_SAFETY_LAG;
	if (pull->cursor.is_number && site->shows_writers)
		return ETL_SAFETY_LOCK_WAIT;
	refuse(pull,
		   pull->site->shows_writers ?
			   "Pass safety => 'lock_wait' if values are handed out in increasing order under the table's lock, as a column's default does with a sequence, or safety => 'none' if rows are never committed late." :
			   "Pass safety => 'none' if rows are never committed late, or use a cursor column with a time.");
	return ETL_SAFETY_AUTO;
}

static void
refuse(EtlPull *pull, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("safety '%s' is not possible with cursor column \"%s\" of type %s of relation \"%s\"",
					etl_safety_words[pull->safety], pull->cursor.name,
					format_type_be(pull->cursor.type),
					RelationGetRelationName(pull->source)),
			 errhint("%s", hint)));
}

static void
check_choice(EtlPull *pull)
{
	switch (pull->safety)
	{
		case ETL_SAFETY_HORIZON:
			if (!pull->cursor.is_time)
				refuse(pull,
					   "It takes a cursor of type timestamptz, timestamp or date. For a sequence pass safety => 'lock_wait'.");
			if (!pull->site->shows_writers)
				refuse(pull,
					   "The transactions that write this relation cannot be seen from here. Pass safety => 'lag'.");
			break;
		case ETL_SAFETY_LOCK_WAIT:
			if (pull->cursor.is_time)
				refuse(pull,
					   "A time is taken before the table is locked. Pass safety => 'horizon' or 'lag'.");
			if (!pull->site->shows_writers)
				refuse(pull,
					   "The locks on this relation cannot be seen from here. Pass safety => 'none' if rows are never committed late.");
			break;
		case ETL_SAFETY_LAG:
			if (!pull->cursor.is_time)
				refuse(pull,
					   "It takes a cursor of type timestamptz, timestamp or date.");
			break;
		default:
			break;
	}
	if (pull->lag != NULL && pull->safety != ETL_SAFETY_LAG)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"lag\" has no meaning with safety '%s'",
						etl_safety_words[pull->safety]),
				 errhint(pull->cursor.is_time ?
							 "Pass safety => 'lag', too, or leave it out." :
							 "Leave it out.")));
}

/*
 * The snapshot of such a transaction was taken before any limit that can be
 * looked up now.
 */
static void
refuse_old_snapshot(EtlPull *pull)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("safety '%s' is not possible in a transaction of isolation level %s",
						etl_safety_words[pull->safety],
						XactIsoLevel == XACT_SERIALIZABLE ? "SERIALIZABLE" :
															"REPEATABLE READ"),
				 errdetail(
					 "Its snapshot does not show rows that were committed since it began, and they would never be read."),
				 errhint(
					 "Use a transaction of isolation level READ COMMITTED.")));
}

/*
 * Rows that another server has sent here were given their values there, by
 * transactions that are not seen here.
 */
static void
check_server(EtlPull *pull)
{
	StringInfoData sql;
	char **answer;

	initStringInfo(&sql);
	appendStringInfo(&sql, ETL_SQL_FAMILY, pull->site->tables);
	appendStringInfoString(&sql,
						   "SELECT pg_is_in_recovery(), EXISTS (SELECT FROM pg_subscription_rel r"
						   " JOIN family f ON r.srrelid = f.relid)");
	answer = etl_site_ask_server_row(pull->site, sql.data, "vv");
	if (etl_site_yes(answer[0]))
		refuse(pull,
			   "Its server is a standby, where the transactions that write it cannot be seen. Pass safety => 'lag'.");
	if (etl_site_yes(answer[1]))
		refuse(pull,
			   "A subscription writes it, and the transactions that gave its rows their values cannot be seen. Pass safety => 'lag'.");
}

/* Sequences that do not hand out values in the order of the calls. */
static void
check_sequences(EtlPull *pull)
{
	StringInfoData sql;
	List *answer;
	char **row;

	initStringInfo(&sql);
	appendStringInfo(&sql, ETL_SQL_FAMILY, pull->site->tables);
	appendStringInfo(&sql,
					 ", columns(relid, attnum) AS (SELECT a.attrelid, a.attnum"
					 " FROM pg_attribute a JOIN lineage l ON a.attrelid = l.relid"
					 " WHERE quote_ident(a.attname) = %s)"
					 " SELECT s.seqrelid::regclass, s.seqcache > 1, s.seqincrement < 0"
					 " FROM pg_sequence s"
					 " WHERE (s.seqcache > 1 OR s.seqcycle OR s.seqincrement < 0)"
					 " AND s.seqrelid IN ("
					 "SELECT d.objid FROM pg_depend d JOIN columns c"
					 " ON d.refobjid = c.relid AND d.refobjsubid = c.attnum"
					 " WHERE d.classid = 'pg_class'::regclass"
					 " AND d.refclassid = 'pg_class'::regclass"
					 " AND d.deptype IN ('a', 'i')"
					 " UNION SELECT d.refobjid FROM pg_attrdef ad JOIN columns c"
					 " ON ad.adrelid = c.relid AND ad.adnum = c.attnum"
					 " JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass"
					 " AND d.objid = ad.oid AND d.refclassid = 'pg_class'::regclass)"
					 " LIMIT 1",
					 quote_literal_cstr(pull->cursor.sql));
	answer = etl_site_ask_server(pull->site, sql.data, "vvv");
	if (answer == NIL)
		return;
	row = linitial(answer);
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("sequence %s does not hand out values in increasing order",
					row[0]),
			 etl_site_yes(row[1]) ?
				 errdetail(
					 "Each session takes several of its values at once and uses them later.") :
				 0,
			 errhint("Use ALTER SEQUENCE %s %s, or pass safety => 'none' if rows are never committed late.",
					 row[0],
					 etl_site_yes(row[1]) ? "CACHE 1" :
					 etl_site_yes(row[2]) ? "INCREMENT 1" :
											"NO CYCLE")));
}

/* ------------------------------------------------------------------ */
/* limits                                                               */

/* Looks up how far it is safe to read now. */
void
etl_safety_set_limit(EtlPull *pull)
{
	pull->limit = NULL;
	pull->reach = NULL;
	pull->has_holder = false;
	if (pull->is_backfill)
		return;
	if (pull->safety == ETL_SAFETY_LAG)
		set_lag_limit(pull);
	else if (pull->safety == ETL_SAFETY_HORIZON)
		set_horizon(pull);
}

/*
 * Where the snapshot is that of the transaction, everything is counted from
 * its start, which is before the snapshot.
 */
static void
set_lag_limit(EtlPull *pull)
{
	TimestampTz now = IsolationUsesXactSnapshot() && !pull->site->is_remote ?
						  GetCurrentTransactionStartTimestamp() :
						  site_clock(pull);

	now = DatumGetTimestampTz(
		DirectFunctionCall2(timestamptz_mi_interval, TimestampTzGetDatum(now),
							IntervalPGetDatum(pull->lag)));
	pull->limit = limit_of_time(pull, now);
}

static void
set_horizon(EtlPull *pull)
{
	for (;;)
	{
		TimestampTz own;
		TimestampTz limit = oldest_start(pull, &own);

		/*
		 * A prepared transaction shows no start.  One that was prepared before
		 * the look at the starts is found now; the others are among those.
		 */
		if (!etl_wait_has_prepared(pull))
		{
			pull->limit = limit_of_time(pull, limit);
			pull->reach = limit_of_time(pull, own);
			return;
		}
		if (!etl_wait_for_prepared(pull))
		{
			pull->skipped = true;
			return;
		}
	}
}

/*
 * The oldest start of a transaction in progress in the source's database, our
 * own included: what it will write must be beyond the watermark, too.
 * Autovacuum is not, as it writes no rows.  *own: the start of our own.
 */
static TimestampTz
oldest_start(EtlPull *pull, TimestampTz *own)
{
	TimestampTz clock = site_clock(pull);
	TimestampTz limit = clock;
	char **answer;

	answer =
		etl_site_ask_server_row(pull->site,
								"SELECT min(s.start),"
								" (array_agg(a.pid ORDER BY s.start) FILTER (WHERE s.start IS NOT NULL))[1],"
								" min(s.start) FILTER (WHERE a.pid = pg_backend_pid()),"
								" count(*) FILTER (WHERE a.pid <> pg_backend_pid()) > 0,"
								" max(a.pid) FILTER (WHERE a.state = 'disabled'),"
								" current_setting('track_activities')::boolean,"
								" pg_has_role('pg_read_all_stats', 'USAGE')"
								" FROM pg_stat_activity a, LATERAL (SELECT " ETL_SQL_START
								" AS start) s"
								" WHERE a.datid = (SELECT oid FROM pg_database WHERE datname = current_database())"
								" AND a.backend_type <> 'autovacuum worker'",
								"nnnvnvv");
	check_activity(pull, answer);

	/*
	 * Between getting a statement and showing its start a backend may be kept
	 * from running.
	 */
	if (etl_site_yes(answer[3]))
		limit -= etl_horizon_guard * INT64CONST(1000);
	pull->has_holder = false;
	*own = clock;
	if (answer[2] != NULL)
		*own = time_of(pull, answer[2]);
	if (answer[0] != NULL)
	{
		TimestampTz oldest = time_of(pull, answer[0]);

		if (oldest < Min(limit, *own) && answer[1] != NULL)
		{
			pull->has_holder = true;
			pull->holder.pid = etl_wait_pid(answer[1]);
			pull->holder.gid = NULL;
			pull->holder.since = answer[0];
		}
		limit = Min(limit, oldest);
	}
	return limit;
}

/* Does the answer show all transactions? */
static void
check_activity(EtlPull *pull, char **answer)
{
	if (!etl_site_yes(answer[6]))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("safety 'horizon' is not possible: the server of relation \"%s\" does not show when transactions started",
						RelationGetRelationName(pull->source)),
				 errhint(
					 "Grant the role pg_read_all_stats on that server to the user of the connection, or pass safety => 'lag'.")));
	if (!etl_site_yes(answer[5]) || answer[4] != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg(
					 "safety 'horizon' is not possible: the setting \"track_activities\" is off"),
				 answer[4] != NULL ?
					 errdetail("It is off in the session of process %s.",
							   answer[4]) :
					 0,
				 errhint("Set it to on, or pass safety => 'lag'.")));
}

/* The time where the rows are; that of this server, if it cannot be asked. */
static TimestampTz
site_clock(EtlPull *pull)
{
	char **answer;

	if (!pull->site->is_remote)
		return GetCurrentTimestamp();
	answer = etl_site_ask_server_row(pull->site, "SELECT clock_timestamp()",
									 "v");
	return time_of(pull, answer[0]);
}

/* A time that a server has told. */
static TimestampTz
time_of(EtlPull *pull, const char *text)
{
	TimestampTz time = DatumGetTimestampTz(etl_plain_value(TIMESTAMPTZOID, text));

	if (TIMESTAMP_NOT_FINITE(time))
		etl_site_bad_answer(pull->site);
	return time;
}

/*
 * A time as a value of the cursor's column.  It is rounded as the column rounds
 * what it gets: a transaction that has just begun may round down.
 */
static char *
limit_of_time(EtlPull *pull, TimestampTz time)
{
	Datum typmod = Int32GetDatum(pull->cursor.typmod);
	Datum local;

	if (pull->cursor.type == TIMESTAMPTZOID)
		return etl_plain_text(TIMESTAMPTZOID,
							  DirectFunctionCall2(timestamptz_scale,
												  TimestampTzGetDatum(time),
												  typmod));
	local = TimestampGetDatum(local_limit(time));
	if (pull->cursor.type == TIMESTAMPOID)
		return etl_plain_text(TIMESTAMPOID, DirectFunctionCall2(timestamp_scale,
																local, typmod));
	return etl_plain_text(DATEOID, DirectFunctionCall1(timestamp_date, local));
}

/*
 * A time in the session's time zone.  When the clock will be put back, the
 * times before that will come again: they are not over until then.
 */
static Timestamp
local_limit(TimestampTz time)
{
	pg_time_t seconds = timestamptz_to_time_t(time);
	Timestamp result;
	long int offset_before;
	long int offset_after;
	int dst_before;
	int dst_after;
	pg_time_t change;

	result = DatumGetTimestamp(
		DirectFunctionCall1(timestamptz_timestamp, TimestampTzGetDatum(time)));
	if (pg_next_dst_boundary(&seconds, &offset_before, &dst_before, &change,
							 &offset_after, &dst_after, session_timezone) > 0 &&
		offset_after < offset_before)
		result = Min(result, time_t_to_timestamptz(change) +
								 offset_after * USECS_PER_SEC);
	return result;
}
