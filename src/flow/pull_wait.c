/*-------------------------------------------------------------------------
 *
 * pull_wait.c
 *	  Who keeps a pull from reading on, and waiting for them.
 *
 * Waiting means asking again, since there is nothing to queue for: a lock on
 * the table would stop its writers.  So no wait can become part of a deadlock,
 * and none is longer than max_wait.
 *
 * Locks: none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "flow/pull.h"

/* How long to sleep between two looks, in milliseconds. */
#define FIRST_NAP_MS   1
#define LONGEST_NAP_MS 50

static List *writers(EtlPull *pull, bool prepared_only);
static bool wait_for(EtlPull *pull, List *those);
static char **still_there(EtlPull *pull, List *those);
static int64 wait_left(EtlPull *pull);
static bool nap(EtlPull *pull, long *ms);
static void tell(EtlPull *pull);

/*
 * Is there a prepared transaction that has written to the source?
 */
bool
etl_wait_has_prepared(EtlPull *pull)
{
	return writers(pull, true) != NIL;
}

/*
 * Waits until those have ended that there are now.  Returns false if max_wait
 * is over.
 */
bool
etl_wait_for_prepared(EtlPull *pull)
{
	return wait_for(pull, writers(pull, true)) && wait_left(pull) > 0;
}

/*
 * Waits until no transaction is left that could have a value below the end of
 * the range, which has been found already.  Returns false if max_wait is over.
 */
bool
etl_wait_for_writers(EtlPull *pull)
{
	List *those;

	if (pull->safety != ETL_SAFETY_LOCK_WAIT || pull->is_backfill)
		return true;
	those = writers(pull, false);
	if (those == NIL)
		return true;
	if (!wait_for(pull, those))
		return false;
	/* On older servers, what is prepared goes on under another number. */
	return wait_for(pull, writers(pull, true));
}

/*
 * Waits until the transaction that sets the horizon has ended.  Returns false
 * if max_wait is over.
 */
bool
etl_wait_for_holder(EtlPull *pull)
{
	char *sql = psprintf("SELECT 1 FROM pg_stat_activity a WHERE pid = %d"
						 " AND " ETL_SQL_START " = %s",
						 pull->holder.pid,
						 quote_literal_cstr(pull->holder.since));
	long ms = FIRST_NAP_MS;

	tell(pull);
	for (;;)
	{
		List *answer = etl_site_ask_server(pull->site, sql, "v");

		if (answer == NIL)
			return true;
		list_free_deep(answer);
		if (!nap(pull, &ms))
			return false;
	}
}

/*
 * The pid of a transaction that would keep a pull from reading on now, 0 if
 * there is none or it has none.
 */
int
etl_wait_holder(EtlPull *pull)
{
	const char *chosen = etl_json_text(pull->watermark.detail, "chosen");
	List *answer = NIL;
	char **row;

	if (!pull->site->shows_writers || chosen == NULL)
		return 0;
	if (strcmp(chosen, etl_safety_words[ETL_SAFETY_LOCK_WAIT]) == 0)
		answer = writers(pull, false);
	else if (strcmp(chosen, etl_safety_words[ETL_SAFETY_HORIZON]) == 0)
		answer =
			etl_site_ask_server(pull->site,
								"SELECT NULL, a.pid FROM pg_stat_activity a,"
								" LATERAL (SELECT " ETL_SQL_START " AS start) s"
								" WHERE a.datid = (SELECT oid FROM pg_database WHERE datname = current_database())"
								" AND a.backend_type <> 'autovacuum worker'"
								" AND a.pid <> pg_backend_pid() AND s.start IS NOT NULL"
								" ORDER BY s.start LIMIT 1",
								"nn");
	if (answer == NIL)
		return 0;
	row = linitial(answer);
	return etl_wait_pid(row[1]);
}

/* A pid that a server has told; 0 for nobody. */
int
etl_wait_pid(const char *text)
{
	return text == NULL ? 0 : pg_strtoint32(text);
}

/*
 * The other transactions that hold a lock to write to the source's tables, the
 * oldest first: virtual transaction, pid, gid and start.  Whoever waits for
 * such a lock has no value yet.
 *
 * A table that is about to become a child of the source is not known as such
 * yet, but whoever makes it one holds a lock on its parent.  It is the lock
 * that VACUUM takes, too, which however changes nothing as a rule.
 */
static List *
writers(EtlPull *pull, bool prepared_only)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, ETL_SQL_FAMILY, pull->site->tables);
	appendStringInfo(&sql,
					 "SELECT DISTINCT l.virtualtransaction, l.pid, p.gid,"
					 " COALESCE(a.xact_start, p.prepared)"
					 " FROM pg_locks l LEFT JOIN (pg_locks x"
					 " JOIN pg_prepared_xacts p ON p.transaction = x.transactionid)"
					 " ON l.pid IS NULL AND x.virtualtransaction = l.virtualtransaction"
					 " LEFT JOIN pg_stat_activity a ON a.pid = l.pid"
					 " WHERE l.locktype = 'relation' AND l.granted"
					 " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
					 " AND l.relation IN (SELECT relid FROM lineage)"
					 " AND (l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock',"
					 " 'ExclusiveLock', 'AccessExclusiveLock')"
					 " OR (l.mode = 'ShareUpdateExclusiveLock' AND EXISTS (SELECT FROM pg_locks c"
					 " WHERE c.locktype = 'transactionid' AND c.mode = 'ExclusiveLock'"
					 " AND c.virtualtransaction = l.virtualtransaction)))"
					 " AND %s ORDER BY 4, 1",
					 prepared_only ? "l.pid IS NULL" :
									 "l.pid IS DISTINCT FROM pg_backend_pid()");
	return etl_site_ask_server(pull->site, sql.data, "vnnn");
}

/*
 * Waits until these have ended; returns false if max_wait is over.  Tells
 * whom it waits for whenever that changes.
 */
static bool
wait_for(EtlPull *pull, List *those)
{
	MemoryContext outer = CurrentMemoryContext;
	MemoryContext look;
	long ms = FIRST_NAP_MS;
	bool told = false;
	char **writer;

	if (those == NIL)
		return true;
	look = AllocSetContextCreate(outer, "etl wait", ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		int pid;

		MemoryContextReset(look);
		MemoryContextSwitchTo(look);
		writer = still_there(pull, those);
		MemoryContextSwitchTo(outer);
		if (writer == NULL)
			break;
		pid = etl_wait_pid(writer[1]);
		if (!told || pid != pull->holder.pid)
		{
			pull->has_holder = true;
			pull->holder.pid = pid;
			pull->holder.gid = writer[2] == NULL ? NULL : pstrdup(writer[2]);
			pull->holder.since = writer[3] == NULL ? NULL : pstrdup(writer[3]);
			tell(pull);
			told = true;
		}
		if (!nap(pull, &ms))
			break;
	}
	MemoryContextDelete(look);
	return writer == NULL;
}

/*
 * One of them that is still there, as it is now: a session may have prepared
 * its transaction.
 */
static char **
still_there(EtlPull *pull, List *those)
{
	ListCell *lc;
	ListCell *lc2;

	foreach(lc, writers(pull, false))
	{
		char **writer = lfirst(lc);

		foreach(lc2, those)
		{
			const char *other = ((char **) lfirst(lc2))[0];

			if (writer[0] != NULL && other != NULL &&
				strcmp(writer[0], other) == 0)
				return writer;
		}
	}
	return NULL;
}

/* Sleeps a while; returns false, and does not, if max_wait is over. */
static bool
nap(EtlPull *pull, long *ms)
{
	int64 left = wait_left(pull);

	if (left <= 0)
		return false;
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 (long) Min(*ms, left), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	pull->waited_us = GetCurrentTimestamp() - pull->wait_start;
	*ms = Min(*ms * 2, LONGEST_NAP_MS);
	return true;
}

/*
 * How many milliseconds of max_wait are left.  The time of the questions in
 * between counts, too: a server may take long to answer them.
 */
static int64
wait_left(EtlPull *pull)
{
	const Interval *wait = pull->max_wait;
	TimestampTz now = GetCurrentTimestamp();
	double us = (double) wait->time + (double) wait->day * USECS_PER_DAY +
				(double) wait->month * DAYS_PER_MONTH * USECS_PER_DAY;

	if (pull->wait_start == 0)
		pull->wait_start = now;
	us -= (double) (now - pull->wait_start);
	return us < (double) INT_MAX * 1000 ? (int64) ceil(us / 1000) : INT_MAX;
}

/* Says who is waited for. */
static void
tell(EtlPull *pull)
{
	pull->has_waited = true;
	if (pull->holder.gid != NULL)
		ereport(NOTICE,
				(errmsg("pipeline \"%s\" waits for prepared transaction \"%s\"",
						pull->pipeline, pull->holder.gid),
				 errhint("Use COMMIT PREPARED or ROLLBACK PREPARED.")));
	else if (pull->safety == ETL_SAFETY_HORIZON)
		ereport(NOTICE,
				(errmsg("pipeline \"%s\" waits for the transaction of process %d, in progress since %s",
						pull->pipeline, pull->holder.pid, pull->holder.since),
				 errhint("It waits no longer than \"max_wait\".")));
	else
		ereport(NOTICE,
				(errmsg("pipeline \"%s\" waits for the transaction of process %d, which writes to \"%s\"",
						pull->pipeline, pull->holder.pid,
						RelationGetRelationName(pull->source)),
				 errhint("It waits no longer than \"max_wait\".")));
}
