/*-------------------------------------------------------------------------
 *
 * scheduler_work.c
 *	  What a scheduler writes: claims, the ends of runs whose process is gone,
 *	  alerts, and what else has its time.
 *
 * Claims are made in batches, because a transaction costs more than a claim.
 * An error undoes the whole batch; then its jobs are claimed one by one, and
 * the one that fails is broken, with the error as the reason, unless the error
 * may go away by itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "etl_patterns.h"
#include "worker/scheduler.h"

/* So many jobs are claimed in one transaction; fewer while workers are idle. */
#define MAX_BATCH	200
#define FIRST_BATCH 20

/* After so long a job is tried again that somebody else has locked. */
#define LOCKED_DELAY (50 * USECS_PER_SEC / 1000)
/* Likewise one with a full queue, or whose claim failed. */
#define CLAIM_DELAY (1 * USECS_PER_SEC)
/* Likewise a run that another one keeps from running, at first and at most. */
#define REFUSED_DELAY	  (100 * USECS_PER_SEC / 1000)
#define MAX_REFUSED_DELAY (5 * USECS_PER_SEC)
/* Likewise one whose worker ended before it began; so often at most. */
#define DEATH_DELAY (500 * USECS_PER_SEC / 1000)
#define MAX_DEATHS	3

/* So many rows are written or deleted in one transaction. */
#define MAX_ROWS   200
#define MAX_PURGED 1000

/* The claim of one job. */
typedef struct Claim
{
	int64 job_id;
	TimestampTz now;
	EtlJob *job; /* as it is after the claim; NULL: was not to be had */
	bool is_gone;
	List *runs;
	const char *reason; /* to break it for */
	int64 delay;		/* if it was not to be had */
} Claim;

/* A run whose process is gone, or was to become one. */
typedef struct Gone
{
	int64 job_run_id;
	int64 job_id;
	EtlEnding ending;
	bool written;
	EtlActiveRun active;
} Gone;

typedef struct Batch
{
	TimestampTz now;
	int n;
	union
	{
		Claim claims[MAX_BATCH];
		int64 ids[MAX_ROWS];
	};
} Batch;

static void claim_one(Claim *claim);
static void claim_batch(void *arg);
static void claim_one_only(void *arg);
static void claim_alone(Claim *claim);
static void break_job(void *arg);
static void accept_claim(Claim *claim);

/* ------------------------------------------------------------------ */
/* claims                                                               */

/*
 * Claim slots that are due of some jobs; false if there were none.  The runs
 * are known afterwards.
 */
bool
etl_work_claim(TimestampTz now)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "etl_patterns claims",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old_context = MemoryContextSwitchTo(context);
	Batch *batch = palloc0(sizeof(Batch));
	int max = etl_known_next_ready() == NULL ? FIRST_BATCH : MAX_BATCH;
	ErrorData *error = NULL;
	EtlKnownJob *job;
	bool found;

	while (batch->n < max && (job = etl_known_next_claim()) != NULL &&
		   job->claim_at <= now)
	{
		batch->claims[batch->n].job_id = job->job_id;
		batch->claims[batch->n].now = now;
		batch->claims[batch->n].delay = LOCKED_DELAY;
		batch->n++;
		etl_known_claim_at(job, 0);
	}
	found = batch->n > 0;
	if (found)
		error = etl_scheduler_try(claim_batch, batch);
	for (int i = 0; i < batch->n; i++)
	{
		Claim *claim = &batch->claims[i];

		if (error != NULL)
			claim_alone(claim);
		accept_claim(claim);
	}
	MemoryContextSwitchTo(old_context);
	MemoryContextDelete(context);
	return found;
}

static void
claim_batch(void *arg)
{
	Batch *batch = arg;

	for (int i = 0; i < batch->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		claim_one(&batch->claims[i]);
		/* runs that are ready need not wait for the rest */
		if (MyLatch->is_set)
			etl_scheduler_serve_workers();
	}
}

/* Within a transaction. */
static void
claim_one(Claim *claim)
{
	EtlJob *job = etl_job_by_id(claim->job_id, ETL_ROW_LOCK_SKIP);
	const char *obstacle;

	claim->job = job;
	claim->is_gone = job == NULL &&
					 etl_job_by_id(claim->job_id, ETL_ROW_READ) == NULL;
	if (job == NULL || job->state != ETL_JOB_ACTIVE)
		return;
	obstacle = etl_job_cannot_run(job);
	if (obstacle != NULL)
		etl_job_break(job, obstacle);
	else
		claim->runs = etl_job_claim(job, claim->now);
}

static void
claim_one_only(void *arg)
{
	claim_one(arg);
}

/* One of its batch has failed; it may be this one. */
static void
claim_alone(Claim *claim)
{
	ErrorData *error;

	claim->job = NULL;
	claim->is_gone = false;
	claim->runs = NIL;
	error = etl_scheduler_try(claim_one_only, claim);
	if (error == NULL)
		return;
	claim->job = NULL;
	claim->is_gone = false;
	claim->runs = NIL;
	claim->delay = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ?
					   LOCKED_DELAY :
					   CLAIM_DELAY;
	etl_scheduler_report(error,
						 psprintf("could not claim slots of job " INT64_FORMAT,
								  claim->job_id));
	if (etl_error_is_retried(error->sqlerrcode))
		return;
	claim->reason = error->message;
	error = etl_scheduler_try(break_job, claim);
	if (error != NULL)
		etl_scheduler_report(error, "could not mark the job as broken");
}

static void
break_job(void *arg)
{
	Claim *claim = arg;
	EtlJob *job = etl_job_by_id(claim->job_id, ETL_ROW_LOCK_SKIP);

	if (job != NULL)
		etl_job_break(job, claim->reason);
	claim->job = job;
}

/* It is committed: know the runs, and when to claim next. */
static void
accept_claim(Claim *claim)
{
	EtlKnownJob *job = etl_known_job(claim->job_id);
	ListCell *lc;

	if (job == NULL)
		return;
	if (claim->is_gone)
	{
		etl_known_job_forget(claim->job_id);
		return;
	}
	if (claim->job == NULL)
	{
		etl_known_claim_at(job, claim->now + claim->delay);
		return;
	}
	etl_known_job_set(claim->job);
	if (job->claim_at != 0 && job->claim_at <= claim->now)
		etl_known_claim_at(job, claim->now + CLAIM_DELAY);
	foreach(lc, claim->runs)
		etl_known_run_set(lfirst(lc));
}

/* ------------------------------------------------------------------ */
/* runs without a process                                               */

static void
mark_gone(void *arg)
{
	Gone *gone = arg;

	gone->written = gone->ending == ETL_ENDING_STOP ||
							gone->ending == ETL_ENDING_REPLACE ?
						etl_run_mark_stopped(gone->job_run_id, gone->ending) :
						etl_run_mark_lost(gone->job_run_id, "process gone",
										  gone->ending == ETL_ENDING_TIMEOUT);
	etl_scheduler_read_run(gone->job_run_id);
}

/* The row says that it runs: if nobody does, write its end. */
static void
end_gone(int64 job_run_id, EtlEnding ending)
{
	Gone gone = {.job_run_id = job_run_id, .ending = ending};
	ErrorData *error = etl_scheduler_try(mark_gone, &gone);

	if (error != NULL)
		etl_scheduler_report(error, "could not write the end of a lost job run");
}

/* Other processes run these, or did. */
void
etl_work_foreign(void)
{
	List *ids = NIL;
	dlist_iter iter;
	ListCell *lc;

	dlist_foreach(iter, etl_known_foreign_runs())
	{
		EtlKnownRun *run = dlist_container(EtlKnownRun, foreign_node, iter.cur);
		int64 *id = palloc(sizeof(int64));

		*id = run->job_run_id;
		ids = lappend(ids, id);
	}
	foreach(lc, ids)
	{
		int64 job_run_id = *(int64 *) lfirst(lc);
		EtlKnownRun *run = etl_known_run(job_run_id);

		/* one of ours whose row was locked when its worker ended */
		if (run != NULL)
			end_gone(job_run_id, run->ending);
	}
}

/* What keeps a run from running may be one that we do not know. */
static void
read_runs_of_job(void *arg)
{
	EtlJobRunScan *scan = etl_job_run_scan_unfinished_of(*(int64 *) arg);
	EtlJobRun *run;

	for (int i = 0; i < MAX_ROWS; i++)
	{
		run = etl_job_run_scan_next(scan);
		if (run == NULL)
			break;
		etl_known_run_set(run);
	}
	etl_job_run_scan_end(scan);
}

/* No worker comes for it: its job cannot run, or the run has failed. */
static void
fail_unstarted(void *arg)
{
	Gone *gone = arg;
	EtlJob *job = etl_job_by_id(gone->job_id, ETL_ROW_LOCK);
	const char *obstacle = job == NULL ? NULL : etl_job_cannot_run(job);
	ErrorData error = {.elevel = ERROR,
					   .sqlerrcode = ERRCODE_CONNECTION_FAILURE};

	if (job == NULL)
		return;
	if (obstacle != NULL)
		etl_job_break(job, obstacle);
	else if (gone->written &&
			 etl_run_begin(&gone->active, gone->job_run_id) == ETL_BEGIN_OK)
	{
		error.message = "no session could be started for the run";
		error.detail = "The server's log says why.";
		etl_run_fail(&gone->active, &error, false);
	}
	etl_scheduler_read_run(gone->job_run_id);
}

/* The worker of a run ended, and had not begun it. */
static void
see_to_unstarted(EtlKnownRun *run)
{
	Gone gone = {.job_run_id = run->job_run_id,
				 .job_id = run->job == NULL ? 0 : run->job->job_id,
				 .written = ++run->deaths >= MAX_DEATHS};
	ErrorData *error;

	etl_known_delay(run, etl_job_now() + DEATH_DELAY * run->deaths);
	error = etl_scheduler_try(fail_unstarted, &gone);
	etl_run_unlock(&gone.active);
	if (error != NULL)
		etl_scheduler_report(error, "could not write the end of a job run");
}

/*
 * A worker has a run no more, but the run has not ended.  What it is was just
 * read.
 */
void
etl_work_returned(int64 job_run_id, bool worker_is_gone, bool declined,
				  EtlEnding ending)
{
	EtlKnownRun *run = etl_known_run(job_run_id);
	int64 delay = REFUSED_DELAY;
	ErrorData *error;
	int64 job_id;

	if (run->status == ETL_RUN_RUNNING)
	{
		end_gone(job_run_id, ending);
		return;
	}
	if (worker_is_gone && !declined)
	{
		see_to_unstarted(run);
		return;
	}
	for (int i = 0; i < run->refusals && delay < MAX_REFUSED_DELAY; i++)
		delay *= 2;
	run->refusals++;
	etl_known_delay(run, etl_job_now() + delay);
	if (run->job == NULL)
		return;
	job_id = run->job->job_id;
	error = etl_scheduler_try(read_runs_of_job, &job_id);
	if (error != NULL)
		etl_scheduler_report(error, "could not read the runs of a job");
}

/* ------------------------------------------------------------------ */
/* deadlines                                                            */

static void
write_starved(void *arg)
{
	Batch *batch = arg;

	for (int i = 0; i < batch->n; i++)
	{
		EtlJobRun *run = etl_job_run_by_id(batch->ids[i], ETL_ROW_LOCK_SKIP);

		if (run == NULL || run->status != ETL_RUN_WAITING || run->reason != NULL)
			continue;
		run->reason = "no worker is free";
		etl_job_run_update(run);
	}
}

static void
write_alerts(void *arg)
{
	Batch *batch = arg;
	EtlKnownRun *run;

	for (int i = 0; i < batch->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		(void) etl_alert_late(batch->ids[i], batch->now);
		etl_scheduler_read_run(batch->ids[i]);

		/* somebody has the row locked */
		run = etl_known_run(batch->ids[i]);
		if (run == NULL || run->alert_at == 0 || run->alert_at > batch->now)
			continue;
		run->alert_at = batch->now + CLAIM_DELAY;
		etl_known_set_deadline(run);
	}
}

/* Write what a batch is for, and empty it. */
static void
flush(Batch *batch, void (*write)(void *), const char *what)
{
	ErrorData *error;

	if (batch->n == 0)
		return;
	error = etl_scheduler_try(write, batch);
	if (error != NULL)
		etl_scheduler_report(error, what);
	batch->n = 0;
}

static void
add_to_batch(Batch *batch, int64 id, void (*write)(void *), const char *what)
{
	if (batch->n == MAX_ROWS)
		flush(batch, write, what);
	batch->ids[batch->n++] = id;
}

/*
 * See to the runs whose time has come: those that no worker was free for, that
 * are late, and that did not end when they were canceled.  Returns the number
 * of the first kind.
 */
int64
etl_work_deadlines(TimestampTz now, bool is_on)
{
	Batch *starved = NULL;
	Batch *late = NULL;
	EtlKnownRun *run;
	int64 nstarved = 0;

	while ((run = etl_known_next_deadline()) != NULL && run->deadline <= now)
	{
		CHECK_FOR_INTERRUPTS();
		if (starved == NULL)
		{
			starved = palloc0(sizeof(Batch));
			late = palloc0(sizeof(Batch));
			late->now = now;
		}
		if (run->terminate_at != 0 && run->terminate_at <= now)
			etl_dispatch_terminate(run, now);
		if (run->starved_at != 0 && run->starved_at <= now)
		{
			run->starved_at = is_on ? 0 : now + 5 * USECS_PER_SEC;
			if (is_on && run->is_ready)
			{
				run->is_starved = true;
				nstarved++;
				add_to_batch(starved, run->job_run_id, write_starved,
							 "could not write why job runs wait");
			}
		}
		if (run->alert_at != 0 && run->alert_at <= now)
		{
			run->alert_at = now + CLAIM_DELAY;
			add_to_batch(late, run->job_run_id, write_alerts,
						 "could not write that job runs are late");
		}
		etl_known_set_deadline(run);
	}
	if (starved != NULL)
	{
		flush(starved, write_starved, "could not write why job runs wait");
		flush(late, write_alerts, "could not write that job runs are late");
	}
	return nstarved;
}

/* ------------------------------------------------------------------ */
/* files, and history                                                   */

static void
poll_files(void *arg)
{
	Claim *claim = arg;
	const char *obstacle;

	claim->job = etl_job_by_id(claim->job_id, ETL_ROW_LOCK_SKIP);
	if (claim->job == NULL || claim->job->state != ETL_JOB_ACTIVE)
		return;
	obstacle = etl_job_cannot_run(claim->job);
	if (obstacle != NULL)
		etl_job_break(claim->job, obstacle);
	else
		etl_files_poll(claim->job, claim->now);
}

/* Look for the files that jobs wait for. */
void
etl_work_files(TimestampTz now)
{
	List *claims = NIL;
	dlist_iter iter;
	ListCell *lc;

	dlist_foreach(iter, etl_known_file_jobs())
	{
		Claim *claim = palloc0(sizeof(Claim));

		claim->job_id = dlist_container(EtlKnownJob, file_node, iter.cur)->job_id;
		claim->now = now;
		claims = lappend(claims, claim);
	}
	foreach(lc, claims)
	{
		Claim *claim = lfirst(lc);
		ErrorData *error = etl_scheduler_try(poll_files, claim);

		if (error == NULL)
			continue;
		etl_scheduler_report(error,
							 psprintf("could not look for files of job " INT64_FORMAT,
									  claim->job_id));
		claim->reason = error->message;
		if (!etl_error_is_retried(error->sqlerrcode))
			(void) etl_scheduler_try(break_job, claim);
	}
}

typedef struct PurgeState
{
	TimestampTz from; /* how far this is */
	bool more;
} PurgeState;

static void
purge(void *arg)
{
	PurgeState *state = arg;

	state->more = etl_history_purge(&state->from,
									etl_job_now() -
										etl_job_history * USECS_PER_DAY,
									MAX_PURGED);
}

/* Forget some of what is too old; true if there may be more. */
bool
etl_work_purge(void)
{
	static PurgeState state = {.from = DT_NOBEGIN};
	ErrorData *error;

	if (etl_job_history < 0)
		return false;
	state.more = false;
	error = etl_scheduler_try(purge, &state);
	if (error != NULL)
		etl_scheduler_report(error, "could not purge the history of jobs");
	if (error != NULL || !state.more)
		state.from = DT_NOBEGIN;
	return error == NULL && state.more;
}
