/*-------------------------------------------------------------------------
 *
 * stat_kind.c
 *	  Counters of flows as a kind of the server's cumulative statistics: from
 *	  PostgreSQL 18 on.
 *
 * The server keeps them over a clean restart, and drops them after a crash and
 * with their database, as its own.
 *
 * What has happened waits in this process until the server has it report its
 * statistics, which it does when no transaction is open, about once a second,
 * and at the exit.  So adding touches nothing but memory that is there.
 *
 * The server does not limit how many entries there are, and anybody can invent
 * names.  So whoever makes one more than there should be in a database drops
 * that whose last run ended longest ago.
 *
 * The number of the kind is the one for extensions that have reserved none;
 * numbers are reserved on wiki.postgresql.org/wiki/CustomCumulativeStats, and
 * ours is not there yet.  Another extension may use it as well: then who is
 * loaded first has it.  That must not keep the server from starting, so where
 * it is taken there are no statistics of runs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"

#ifdef ETL_HAS_CUSTOM_STATS

#include "lib/dshash.h"
#include "miscadmin.h"
#include "utils/pgstat_internal.h"

#include "ledger/stat_runs.h"

#define STAT_KIND PGSTAT_KIND_EXPERIMENTAL

/* More than there can be runs within runs. */
#define MAX_PENDING 64

/* A flow, as the server keeps it. */
typedef struct StatShared
{
	PgStatShared_Common header;
	EtlStatEntry entry;
} StatShared;

static bool is_there = false;

/* What this process has not reported yet. */
static EtlStatEntry pending[MAX_PENDING];
static int npending = 0;

static bool report(bool nowait);
static bool report_one(const EtlStatEntry *event, bool nowait);
static void drop_oldest(void);
static bool is_ours(const PgStatShared_HashEntry *place);
static bool is_flow(PgStatShared_HashEntry *place, Datum flow);
static bool is_any_flow(PgStatShared_HashEntry *place, Datum unused);

static const PgStat_KindInfo kind_info = {
	.name = "etl_patterns_runs",
	.fixed_amount = false,
	.accessed_across_databases = false,
	.write_to_file = true,
	.shared_size = sizeof(StatShared),
	.shared_data_off = offsetof(StatShared, entry),
	.shared_data_len = sizeof(EtlStatEntry),
	.flush_static_cb = report,
};

void
etl_stat_init(void)
{
	const PgStat_KindInfo *other = pgstat_get_kind_info(STAT_KIND);

	if (other != NULL)
	{
		ereport(WARNING,
				(errmsg("etl_patterns keeps no statistics of runs because \"%s\" has their ID",
						other->name),
				 errdetail("Custom cumulative statistics \"%s\" were registered with ID %u.",
						   other->name, STAT_KIND)));
		return;
	}
	pgstat_register_kind(STAT_KIND, &kind_info);
	is_there = true;
}

bool
etl_stat_is_there(void)
{
	return is_there;
}

/* ------------------------------------------------------------------ */
/* adding                                                               */

void
etl_stat_make_room(int nevents)
{
	if (npending + nevents > MAX_PENDING)
		(void) report(false);
}

void
etl_stat_add(const EtlStatEntry *event)
{
	int i = 0;

	while (i < npending && pending[i].flow != event->flow)
		i++;
	if (i == MAX_PENDING)
		return; /* room was made: can't happen */
	if (i == npending)
		memset(&pending[npending++], 0, sizeof(EtlStatEntry));
	etl_stat_merge(&pending[i], event);
	pgstat_report_fixed = true;
}

/* Reports what waits; returns whether something is left because of a lock. */
static bool
report(bool nowait)
{
	while (npending > 0)
	{
		if (!report_one(&pending[npending - 1], nowait))
			return true;
		npending--;
	}
	return false;
}

/* False if somebody has the lock. */
static bool
report_one(const EtlStatEntry *event, bool nowait)
{
	bool is_new;
	PgStat_EntryRef *ref = pgstat_get_entry_ref(STAT_KIND, MyDatabaseId,
												event->flow, true, &is_new);

	if (!pgstat_lock_entry(ref, nowait))
		return false;
	etl_stat_merge(&((StatShared *) ref->shared_stats)->entry, event);
	pgstat_unlock_entry(ref);
	if (is_new)
		drop_oldest();
	return true;
}

/* If there are more flows of this database than there should be. */
static void
drop_oldest(void)
{
	dshash_seq_status scan;
	PgStatShared_HashEntry *place;
	TimestampTz oldest_used = PG_INT64_MAX;
	uint64 oldest = 0;
	int n = 0;

	dshash_seq_init(&scan, pgStatLocal.shared_hash, false);
	while ((place = dshash_seq_next(&scan)) != NULL)
	{
		StatShared *stats;
		TimestampTz used;

		if (!is_ours(place))
			continue;
		n++;
		stats = dsa_get_address(pgStatLocal.dsa, place->body);
		LWLockAcquire(&stats->header.lock, LW_SHARED);
		used = etl_stat_last_used(&stats->entry);
		LWLockRelease(&stats->header.lock);
		if (used < oldest_used)
		{
			oldest_used = used;
			oldest = place->key.objid;
		}
	}
	dshash_seq_term(&scan);
	if (n > ETL_STAT_MAX_FLOWS)
		pgstat_drop_matching_entries(is_flow, UInt64GetDatum(oldest));
}

/* ------------------------------------------------------------------ */
/* all of a database                                                    */

/* What this process has just done is there, too. */
int
etl_stat_read(EtlStatEntry *entries, int max)
{
	dshash_seq_status scan;
	PgStatShared_HashEntry *place;
	int n = 0;

	(void) report(false);
	dshash_seq_init(&scan, pgStatLocal.shared_hash, false);
	while (n < max && (place = dshash_seq_next(&scan)) != NULL)
	{
		StatShared *stats;

		if (!is_ours(place))
			continue;
		stats = dsa_get_address(pgStatLocal.dsa, place->body);
		LWLockAcquire(&stats->header.lock, LW_SHARED);
		entries[n] = stats->entry;
		LWLockRelease(&stats->header.lock);

		/* pg_stat_reset() has left it empty */
		if (entries[n].operation != 0)
			n++;
	}
	dshash_seq_term(&scan);
	return n;
}

void
etl_stat_reset(void)
{
	if (!is_there)
		return;
	npending = 0;
	pgstat_drop_matching_entries(is_any_flow, (Datum) 0);
}

/* The server does that. */
void
etl_stat_drop_database(Oid database)
{
}

static bool
is_ours(const PgStatShared_HashEntry *place)
{
	return !place->dropped && place->key.kind == STAT_KIND &&
		   place->key.dboid == MyDatabaseId;
}

static bool
is_flow(PgStatShared_HashEntry *place, Datum flow)
{
	return is_ours(place) && place->key.objid == DatumGetUInt64(flow);
}

static bool
is_any_flow(PgStatShared_HashEntry *place, Datum unused)
{
	return is_ours(place);
}

#endif /* ETL_HAS_CUSTOM_STATS */
