/*-------------------------------------------------------------------------
 *
 * history.c
 *	  How runs that ended long ago are forgotten.
 *
 * Of each job that exists two runs stay, however old: the last one that ran
 * and the last one that succeeded.  etl_patterns.job_status shows them, and
 * "last" means here what it means there: of the latest slot.  How many runs of
 * which status are gone is counted in job.purged_runs, so that counters built
 * on history never go back.
 *
 * Runs are deleted in batches; within a batch the row of each job is locked,
 * in the order of their numbers, before its runs are.  For a scheduler no lock
 * is waited for: what somebody holds stays until the next time.  And it goes
 * on where it stopped: what is old and stays is looked at once an hour, not
 * once for each thousand that go.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "flow/flow.h"
#include "worker/job.h"

/* So many runs are deleted under one set of locks. */
#define BATCH_RUNS 10000

/* A scheduler looks at so many at a time: most of the oldest may be to stay. */
#define MAX_LOOKS 10000

#define NUM_STATUS (ETL_RUN_STOPPED + 1)

/* The runs of a job that stay. */
typedef struct Kept
{
	int64 job_id;
	int64 last_run; /* 0: none */
	int64 last_success;
} Kept;

/* A run to be deleted. */
typedef struct Victim
{
	int64 job_id;
	int64 job_run_id;
} Victim;

typedef struct Purge
{
	TimestampTz from; /* how far this is */
	TimestampTz start;
	TimestampTz before;
	int64 looks;	/* at runs, that are left */
	bool more;		/* runs to look at */
	int64 job_id;	/* 0: all jobs */
	bool only_ours; /* the caller's, and locks are waited for */
	HTAB *kept;
	Victim *victims;
	int nvictims;
	MemoryContext row_context;
} Purge;

PG_FUNCTION_INFO_V1(etl_job_history_purge);

/* ------------------------------------------------------------------ */
/* what stays                                                           */

/*
 * The number of the last run of a job with no later slot than the given one
 * that ran, or that succeeded; 0 without one.
 */
static int64
last_run(const Purge *purge, int64 job_id, TimestampTz slot, bool succeeded)
{
	EtlJobRunScan *scan = etl_job_run_scan_slots(job_id, DT_NOBEGIN, slot);
	MemoryContext old_context = MemoryContextSwitchTo(purge->row_context);
	int64 found = 0;
	EtlJobRun *run;

	while (found == 0 && (run = etl_job_run_scan_previous(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (run->status == ETL_RUN_SUCCEEDED ||
			(!succeeded && run->finished_at != 0 &&
			 run->status != ETL_RUN_SKIPPED))
			found = run->job_run_id;
		MemoryContextReset(purge->row_context);
	}
	MemoryContextSwitchTo(old_context);
	etl_job_run_scan_end(scan);
	return found;
}

/*
 * The runs of a job that stay.  While a job fails, its last success is of a
 * slot before it began to fail.
 */
static const Kept *
kept_runs(const Purge *purge, int64 job_id)
{
	bool found;
	Kept *kept = hash_search(purge->kept, &job_id, HASH_ENTER, &found);
	EtlJob *job;

	if (found)
		return kept;
	kept->last_run = 0;
	kept->last_success = 0;
	job = etl_job_by_id(job_id, ETL_ROW_READ);
	if (job != NULL)
	{
		kept->last_run = last_run(purge, job_id, DT_NOEND, false);
		kept->last_success = last_run(purge, job_id,
									  job->failing_since == 0 ?
										  DT_NOEND :
										  job->failing_since,
									  true);
	}
	return kept;
}

/* May a run be deleted? */
static bool
is_victim(const Purge *purge, const EtlJobRun *run)
{
	const Kept *kept;

	if (run->finished_at == 0 || run->finished_at >= purge->before)
		return false;
	if (purge->only_ours && !etl_ledger_is_ours(run->role))
		return false;
	if (run->status == ETL_RUN_SKIPPED)
		return true;
	kept = kept_runs(purge, run->job_id);
	return run->job_run_id != kept->last_run &&
		   run->job_run_id != kept->last_success;
}

/* ------------------------------------------------------------------ */
/* what goes                                                            */

/* Add to the counts of runs that a job's history no longer has. */
static void
add_purged(EtlJob *job, const int64 *counts)
{
	Datum sums[NUM_STATUS];
	Datum *old = NULL;
	int nold = 0;

	if (job->purged_runs != NULL && !ARR_HASNULL(job->purged_runs))
		deconstruct_array(job->purged_runs, INT8OID, sizeof(int64),
						  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &old, NULL, &nold);
	for (int i = 0; i < NUM_STATUS; i++)
		sums[i] = Int64GetDatum(counts[i] +
								(i < nold ? DatumGetInt64(old[i]) : 0));
	job->purged_runs = construct_array(sums, NUM_STATUS, INT8OID, sizeof(int64),
									   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
	etl_job_update(job);
}

/* Delete the runs of one job; returns how many. */
static int64
delete_runs(const Purge *purge, const Victim *victims, int nvictims)
{
	int64 job_id = victims[0].job_id;
	bool exists = etl_job_by_id(job_id, ETL_ROW_READ) != NULL;
	EtlJob *job = exists ? etl_job_by_id(job_id, purge->only_ours ?
													 ETL_ROW_LOCK :
													 ETL_ROW_LOCK_SKIP) :
						   NULL;
	int64 counts[NUM_STATUS] = {0};
	int64 deleted = 0;
	MemoryContext old_context;

	if (exists && job == NULL)
		return 0;
	old_context = MemoryContextSwitchTo(purge->row_context);
	for (int i = 0; i < nvictims; i++)
	{
		EtlJobRun *run = etl_job_run_by_id(victims[i].job_run_id,
										   ETL_ROW_LOCK_SKIP);

		CHECK_FOR_INTERRUPTS();
		if (run != NULL)
		{
			counts[run->status] += run->slots;
			deleted++;
			etl_job_run_delete(run);
		}
		MemoryContextReset(purge->row_context);
	}
	MemoryContextSwitchTo(old_context);
	if (job != NULL && deleted > 0)
		add_purged(job, counts);
	return deleted;
}

static int
compare_victims(const void *a, const void *b)
{
	const Victim *x = a;
	const Victim *y = b;

	if (x->job_id != y->job_id)
		return x->job_id < y->job_id ? -1 : 1;
	return x->job_run_id < y->job_run_id ? -1 : x->job_run_id > y->job_run_id;
}

/* Delete what was collected; returns how many runs. */
static int64
delete_victims(Purge *purge)
{
	int64 deleted = 0;
	int end;

	qsort(purge->victims, purge->nvictims, sizeof(Victim), compare_victims);
	for (int i = 0; i < purge->nvictims; i = end)
	{
		end = i + 1;
		while (end < purge->nvictims &&
			   purge->victims[end].job_id == purge->victims[i].job_id)
			end++;
		deleted += delete_runs(purge, &purge->victims[i], end - i);
	}
	purge->nvictims = 0;
	return deleted;
}

/* Is it time to pause?  Only if that is farther than where it began. */
static bool
has_looked_enough(Purge *purge, const EtlJobRun *run)
{
	purge->from = run->finished_at;
	return purge->looks-- <= 0 && purge->from > purge->start;
}

/* Collect the next runs to be deleted, at most so many; false at the end. */
static bool
collect_victims(Purge *purge, EtlJobRunScan *scan, int64 limit)
{
	MemoryContext run_context = AllocSetContextCreate(CurrentMemoryContext,
													  "etl run",
													  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old_context = MemoryContextSwitchTo(run_context);
	EtlJobRun *run = NULL;

	while (purge->nvictims < limit && (run = etl_job_run_scan_next(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (purge->job_id == 0 && has_looked_enough(purge, run))
			break;
		if (is_victim(purge, run))
		{
			Victim *victim = &purge->victims[purge->nvictims++];

			victim->job_id = run->job_id;
			victim->job_run_id = run->job_run_id;
		}
		MemoryContextReset(run_context);
	}
	MemoryContextSwitchTo(old_context);
	MemoryContextDelete(run_context);
	return run != NULL;
}

/* Delete at most so many runs; returns how many. */
static int64
delete_history(Purge *purge, int64 limit)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "etl history",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old_context = MemoryContextSwitchTo(context);
	HASHCTL control = {.keysize = sizeof(int64),
					   .entrysize = sizeof(Kept),
					   .hcxt = context};
	int64 deleted = 0;
	EtlJobRunScan *scan;

	purge->more = true;
	purge->kept = hash_create("etl kept runs", 256, &control,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	purge->victims = palloc(sizeof(Victim) * BATCH_RUNS);
	purge->nvictims = 0;
	purge->row_context = AllocSetContextCreate(context, "etl history row",
											   ALLOCSET_DEFAULT_SIZES);
	scan = purge->job_id == 0 ?
			   etl_job_run_scan_finished(purge->start, purge->before) :
			   etl_job_run_scan_job(purge->job_id);
	while (purge->more && purge->looks >= 0 && deleted < limit)
	{
		purge->more = collect_victims(purge, scan,
									  Min(limit - deleted, BATCH_RUNS));
		deleted += delete_victims(purge);
	}
	etl_job_run_scan_end(scan);
	MemoryContextSwitchTo(old_context);
	MemoryContextDelete(context);
	etl_alert_purge(purge->before, purge->job_id, purge->only_ours);
	return deleted;
}

/*
 * Delete at most so many runs that ended at *from or later and before a time,
 * whoever's they are, and the alerts that are as old.  Returns whether there
 * is more to be done, from *from on.  Waits for nobody.
 */
bool
etl_history_purge(TimestampTz *from, TimestampTz before, int64 limit)
{
	Purge purge = {.start = *from,
				   .from = *from,
				   .before = before,
				   .looks = MAX_LOOKS};
	int64 deleted = delete_history(&purge, limit);

	*from = purge.from;
	/* what somebody has locked, and nothing else, is for the next time */
	return purge.more && (deleted > 0 || purge.from > purge.start);
}

/* etl_job_history_purge(older_than, job): the caller's own history. */
Datum
etl_job_history_purge(PG_FUNCTION_ARGS)
{
	TimestampTz now = etl_job_now();
	Purge purge = {.start = DT_NOBEGIN, .looks = PG_INT64_MAX, .only_ours = true};

	PreventCommandIfReadOnly("etl_job_history_purge()");
	etl_refuse_null(fcinfo, 0, "older_than");
	purge.before = DatumGetTimestampTz(
		DirectFunctionCall2(timestamptz_mi_interval, TimestampTzGetDatum(now),
							PG_GETARG_DATUM(0)));
	if (purge.before > now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s\" must not be negative", "older_than")));
	if (!PG_ARGISNULL(1))
		purge.job_id = etl_job_of_caller(etl_arg_text(fcinfo, 1), ETL_ROW_READ)
						   ->job_id;
	PG_RETURN_INT64(delete_history(&purge, PG_INT64_MAX));
}
