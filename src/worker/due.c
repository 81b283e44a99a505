/*-------------------------------------------------------------------------
 *
 * due.c
 *	  What is due of a role's jobs, for a client that runs them.
 *
 * A scheduler knows this from what it is told.  A client looks at all jobs,
 * and at all runs that have not ended, once or a few times in each call.  What
 * is found are numbers: whoever acts on one locks the row and looks again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "worker/due.h"

/* Nothing is found yet; in the current memory context. */
EtlDue *
etl_due_make(void)
{
	EtlDue *due = palloc0(sizeof(EtlDue));

	due->context = CurrentMemoryContext;
	due->role = GetUserId();
	due->now = etl_job_now();
	return due;
}

static void
add_id(EtlDue *due, EtlIds *ids, int64 id)
{
	if (ids->n == ids->size)
	{
		ids->size = Max(64, ids->size * 2);
		if (ids->ids == NULL)
			ids->ids = MemoryContextAllocHuge(due->context,
											  ids->size * sizeof(int64));
		else
			ids->ids = repalloc_huge(ids->ids, ids->size * sizeof(int64));
	}
	ids->ids[ids->n++] = id;
}

static void
add_due(EtlDue *due, const EtlJobRun *run)
{
	EtlDueRun *next;

	if (due->nruns == due->size)
	{
		due->size = Max(64, due->size * 2);
		if (due->runs == NULL)
			due->runs = MemoryContextAllocHuge(due->context,
											   due->size * sizeof(EtlDueRun));
		else
			due->runs = repalloc_huge(due->runs, due->size * sizeof(EtlDueRun));
	}
	next = &due->runs[due->nruns++];
	next->job_run_id = run->job_run_id;
	next->due_at = run->due_at;
	next->is_backfill = run->origin == ETL_ORIGIN_BACKFILL;
}

/* Backfills last; else the first that was due comes first. */
static int
compare_due(const void *left, const void *right)
{
	const EtlDueRun *a = left;
	const EtlDueRun *b = right;

	if (a->is_backfill != b->is_backfill)
		return a->is_backfill ? 1 : -1;
	if (a->due_at != b->due_at)
		return a->due_at < b->due_at ? -1 : 1;
	if (a->job_run_id != b->job_run_id)
		return a->job_run_id < b->job_run_id ? -1 : 1;
	return 0;
}

static int
compare_ids(const void *left, const void *right)
{
	int64 a = *(const int64 *) left;
	int64 b = *(const int64 *) right;

	return a < b ? -1 : a > b ? 1 : 0;
}

/* Sort a run of ours by what is to be done with it. */
static void
look_at_run(EtlDue *due, const EtlJobRun *run, TimestampTz now)
{
	if (run->status == ETL_RUN_WAITING && run->due_at <= now)
		add_due(due, run);
	else if (run->status == ETL_RUN_RUNNING && etl_run_is_lost(run->job_run_id))
		add_id(due, &due->lost, run->job_run_id);
	if (run->status == ETL_RUN_RUNNING || run->due_at <= now)
	{
		EtlJob *job = etl_job_by_id(run->job_id, ETL_ROW_READ);
		TimestampTz late_at = job == NULL ? 0 : etl_alert_due(job, run);

		if (late_at != 0 && late_at <= now)
			add_id(due, &due->late, run->job_run_id);
	}
}

/* Which runs of ours are there to begin, to give up, and to speak of? */
void
etl_due_find_runs(EtlDue *due)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext row_context = AllocSetContextCreate(context, "etl due run",
													  ALLOCSET_DEFAULT_SIZES);
	EtlJobRunScan *scan = etl_job_run_scan_unfinished();
	TimestampTz now = etl_job_now();
	EtlJobRun *run;

	due->nruns = due->lost.n = due->late.n = 0;
	MemoryContextSwitchTo(row_context);
	while ((run = etl_job_run_scan_next(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (run->role == due->role)
			look_at_run(due, run, now);
		MemoryContextReset(row_context);
	}
	MemoryContextSwitchTo(context);
	etl_job_run_scan_end(scan);
	MemoryContextDelete(row_context);
	if (due->nruns > 1)
		qsort(due->runs, due->nruns, sizeof(EtlDueRun), compare_due);
}

/* An active job has slots, or one of these to wait for. */
static bool
waits_for_files(const EtlJob *job)
{
	return job->next_slot == 0 && job->after_job == 0 && job->event == NULL;
}

/* Which jobs of ours have slots that are due, or files to look for? */
void
etl_due_find_jobs(EtlDue *due)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext row_context = AllocSetContextCreate(context, "etl due job",
													  ALLOCSET_DEFAULT_SIZES);
	EtlJobScan *scan = etl_job_scan_all();
	EtlJob *job;

	due->claims.n = 0;
	MemoryContextSwitchTo(row_context);
	while ((job = etl_job_scan_next(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (job->role == due->role && job->state == ETL_JOB_ACTIVE &&
			(waits_for_files(job) ||
			 (job->next_slot != 0 && job->next_slot <= due->now) ||
			 etl_job_cannot_run(job) != NULL))
			add_id(due, &due->claims, job->job_id);
		MemoryContextReset(row_context);
	}
	MemoryContextSwitchTo(context);
	etl_job_scan_end(scan);
	MemoryContextDelete(row_context);
	if (due->claims.n > 1)
		qsort(due->claims.ids, due->claims.n, sizeof(int64), compare_ids);
}

/* Slots or files of one job; what another session has locked is its affair. */
void
etl_due_claim(const EtlDue *due, int64 job_id)
{
	EtlJob *job = etl_job_by_id(job_id, ETL_ROW_LOCK_SKIP);
	const char *reason;

	if (job == NULL || job->role != due->role || job->state != ETL_JOB_ACTIVE)
		return;
	reason = etl_job_cannot_run(job);
	if (reason != NULL)
	{
		etl_job_break(job, reason);
		return;
	}
	if (waits_for_files(job))
		etl_files_poll(job, etl_job_now());
	else
		(void) etl_job_claim(job, due->now);
}
