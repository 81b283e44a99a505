/*-------------------------------------------------------------------------
 *
 * job_control.c
 *	  Runs that a user asks for, or ends: run now, stop, backfill; and arming.
 *
 * A run that is added waits: who runs it is the scheduler's business, or that
 * of CALL etl_run_due_jobs().  While runs are being added, a lock keeps their
 * job from being dropped (job_check.c); a backfill locks its row as well, so
 * that slots are not claimed meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "commands/extension.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "etl_patterns.h"
#include "flow/flow.h"
#include "worker/job_check.h"
#include "worker/shared.h"

/* One backfill looks at no more slots than this. */
#define MAX_BACKFILL 100000

/* A process that is between two transactions is looked for so often. */
#define MAX_TRIES	   100
#define TRY_AFTER_USEC 10000L

/* Which slots that have run before a backfill runs again. */
typedef enum Reprocess
{
	REPROCESS_NONE,
	REPROCESS_FAILED,
	REPROCESS_ALL
} Reprocess;

static const char *const reprocess_words[] = {"none", "failed", "all", NULL};

PG_FUNCTION_INFO_V1(etl_job_run);
PG_FUNCTION_INFO_V1(etl_job_stop);
PG_FUNCTION_INFO_V1(etl_job_backfill);
PG_FUNCTION_INFO_V1(etl_job_arm);

/* ------------------------------------------------------------------ */
/* run                                                                  */

/* etl_job_run(job): the number of a run that may start at once. */
Datum
etl_job_run(PG_FUNCTION_ARGS)
{
	const char *name;
	EtlJob *job;

	etl_refuse_null(fcinfo, 0, "job");
	PreventCommandIfReadOnly("etl_job_run()");
	name = etl_arg_text(fcinfo, 0);
	job = etl_job_of_caller(name, ETL_ROW_READ);
	etl_job_lock_references(job->job_id, AccessShareLock);
	job = etl_job_of_caller(name, ETL_ROW_READ);
	etl_job_check_not_broken(job);
	etl_job_check_armed();
	PG_RETURN_INT64(
		etl_job_trigger(job, ETL_ORIGIN_MANUAL, etl_job_now(), NULL)->job_run_id);
}

/* ------------------------------------------------------------------ */
/* stop                                                                 */

/* The run that a user names. */
static EtlJobRun *
run_of_caller(int64 job_run_id)
{
	EtlJobRun *run = etl_job_run_by_id(job_run_id, ETL_ROW_READ);

	if (run == NULL || !etl_ledger_is_ours(run->role))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("job run " INT64_FORMAT " does not exist", job_run_id),
				 errhint("The runs that you may stop are in the view %s.job_run.",
						 ETL_SCHEMA)));
	return run;
}

/* Cancel a run: true if its process was told. */
static bool
cancel(const EtlJobRun *run)
{
	/* A command that stops itself ends when it looks at its interrupts. */
	if (run->pid == MyProcPid && run->backend_start == MyStartTimestamp)
		return kill(MyProcPid, SIGINT) == 0;
	return etl_run_cancel(run->job_run_id, ETL_ENDING_STOP);
}

/* etl_job_stop(job_run_id): false if there was nothing to stop. */
Datum
etl_job_stop(PG_FUNCTION_ARGS)
{
	int64 job_run_id;

	etl_refuse_null(fcinfo, 0, "job_run_id");
	PreventCommandIfReadOnly("etl_job_stop()");
	job_run_id = PG_GETARG_INT64(0);
	for (int i = 0; i < MAX_TRIES; i++)
	{
		EtlJobRun *run = run_of_caller(job_run_id);

		CHECK_FOR_INTERRUPTS();
		if (run->status == ETL_RUN_WAITING)
		{
			if (etl_run_stop_waiting(job_run_id, "stopped"))
				PG_RETURN_BOOL(true);
			continue; /* it has begun, or ended */
		}
		if (run->status != ETL_RUN_RUNNING)
			PG_RETURN_BOOL(false);
		if (cancel(run))
			PG_RETURN_BOOL(true);
		if (etl_run_is_lost(job_run_id))
			PG_RETURN_BOOL(false);
		pg_usleep(TRY_AFTER_USEC);
	}
	PG_RETURN_BOOL(false);
}

/* ------------------------------------------------------------------ */
/* backfill                                                             */

/*
 * Is a slot to run?  If so, as which attempt.  What became of it is what its
 * last attempt says that was not skipped.
 */
static bool
is_wanted(const EtlJob *job, TimestampTz slot, Reprocess reprocess, int *attempt)
{
	EtlJobRunScan *scan = etl_job_run_scan_slots(job->job_id, slot, slot);
	EtlRunStatus status = ETL_RUN_SKIPPED;
	bool unfinished = false;
	EtlJobRun *run;

	*attempt = 1;
	while ((run = etl_job_run_scan_next(scan)) != NULL)
	{
		*attempt = run->attempt + 1;
		unfinished |= run->finished_at == 0;
		if (run->status != ETL_RUN_SKIPPED)
			status = run->status;
	}
	etl_job_run_scan_end(scan);

	if (unfinished)
		return false;
	if (status == ETL_RUN_SKIPPED || reprocess == REPROCESS_ALL)
		return true;
	return status != ETL_RUN_SUCCEEDED && reprocess == REPROCESS_FAILED;
}

/*
 * They run in the order of their slots, which is when they were due, and after
 * all others of the job.
 */
static void
add_backfill(const EtlJob *job, TimestampTz slot, int attempt)
{
	EtlJobRun *run = etl_job_run_make(job, ETL_ORIGIN_BACKFILL, slot);

	run->attempt = attempt;
	etl_job_run_insert(run);
	etl_tell_scheduler(ETL_NEWS_RUN, run->job_run_id);
}

/* Throw if a schedule has no slots, or too many between two times. */
static void
check_range(const EtlJob *job, const EtlSchedule *schedule, TimestampTz slot,
			TimestampTz to)
{
	int64 slots = 0;

	if (schedule->kind >= ETL_SCHEDULE_AFTER)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("job \"%s\" has no slots of its own", job->name),
						errdetail("Its schedule is \"%s\".", job->schedule),
						schedule->kind == ETL_SCHEDULE_AFTER ?
							errhint("Backfill the job that it runs after.") :
							errhint("To run it now, use etl_job_run().")));
	while (etl_schedule_next(schedule, job->start_at, slot, &slot) && slot < to)
	{
		CHECK_FOR_INTERRUPTS();
		if (++slots > MAX_BACKFILL)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("job \"%s\" has more than %d slots in this range",
							job->name, MAX_BACKFILL),
					 errhint("Backfill it in parts.")));
	}
}

/* Add runs for the slots in [from, to): how many. */
static int64
add_backfills(const EtlJob *job, TimestampTz from, TimestampTz to,
			  Reprocess reprocess)
{
	EtlSchedule *schedule = etl_job_schedule(job);
	TimestampTz slot = from - 1;
	MemoryContext slot_context;
	MemoryContext oldcontext;
	int64 added = 0;

	check_range(job, schedule, slot, to);
	slot_context = AllocSetContextCreate(CurrentMemoryContext, "etl backfill",
										 ALLOCSET_DEFAULT_SIZES);
	oldcontext = MemoryContextSwitchTo(slot_context);
	while (etl_schedule_next(schedule, job->start_at, slot, &slot) && slot < to)
	{
		int attempt;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(slot_context);
		if (is_wanted(job, slot, reprocess, &attempt))
		{
			add_backfill(job, slot, attempt);
			added++;
		}
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(slot_context);
	return added;
}

/*
 * etl_job_backfill(job, from, to, reprocess): how many runs were added.  Slots
 * that are still to be claimed come by themselves.
 */
Datum
etl_job_backfill(PG_FUNCTION_ARGS)
{
	TimestampTz from;
	TimestampTz to;
	Reprocess reprocess;
	EtlJob *job;

	etl_refuse_null(fcinfo, 0, "job");
	etl_refuse_null(fcinfo, 1, "from");
	etl_refuse_null(fcinfo, 2, "to");
	PreventCommandIfReadOnly("etl_job_backfill()");
	from = PG_GETARG_TIMESTAMPTZ(1);
	to = PG_GETARG_TIMESTAMPTZ(2);
	reprocess = etl_option_word("reprocess", etl_arg_text(fcinfo, 3),
								reprocess_words);
	if (TIMESTAMP_NOT_FINITE(from) || TIMESTAMP_IS_NOBEGIN(to))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("parameter \"%s\" must not be infinite",
							   TIMESTAMP_NOT_FINITE(from) ? "from" : "to")));
	if (from >= to)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s\" must be later than \"%s\"", "to",
						"from"),
				 errdetail("The slot of \"%s\" belongs to the range, that of \"%s\" does not.",
						   "from", "to")));

	job = etl_job_of_caller(etl_arg_text(fcinfo, 0), ETL_ROW_LOCK);
	etl_job_check_not_broken(job);
	etl_job_check_armed();
	to = Min(to, etl_job_now() + 1);
	if (job->state == ETL_JOB_ACTIVE && job->next_slot != 0)
		to = Min(to, job->next_slot);
	PG_RETURN_INT64(add_backfills(job, from, to, reprocess));
}

/* ------------------------------------------------------------------ */
/* arm                                                                  */

/* etl_job_arm(): the jobs of this database run here. */
Datum
etl_job_arm(PG_FUNCTION_ARGS)
{
	PreventCommandIfReadOnly("etl_job_arm()");
	if (!etl_owns_database(MyDatabaseId, GetUserId()) &&
		!etl_owns_extension(get_extension_oid("etl_patterns", false),
							GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to arm the jobs of this database"),
				 errdetail(
					 "Only superusers and the owners of the database and of the extension may do so.")));
	etl_jobs_arm();
	PG_RETURN_VOID();
}
