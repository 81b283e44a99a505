/*-------------------------------------------------------------------------
 *
 * scheduler.c
 *	  The process that decides, for one database, what is to run and when.
 *
 * It reads the state tables when it starts and keeps what matters in memory
 * (scheduler_known.c).  Sessions tell it what they have changed, workers that
 * they have done their work; else it sleeps until the next slot, retry or
 * deadline.  A round takes in what there is to know, turns slots that are due
 * into runs (scheduler_work.c) and hands runs out (dispatch.c).
 *
 * It is connected as the bootstrap superuser, and executes nobody's SQL: it
 * reads and writes rows of the state tables.  All it writes is written once
 * more after a crash, so commits need not wait for the disk: what a worker
 * commits later makes them durable, too.
 *
 * Locks: of rows only those that are free.  What somebody else holds is left
 * for later, since a transaction of one role must not stop the jobs of all.
 *
 * Errors: what concerns one job or run is tried in a transaction of its own
 * and does not stop the others.  Any other error ends the process, and the
 * launcher starts a new one, which reads everything anew.  Runs go on
 * meanwhile; their slots are taken over.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/twophase.h"
#include "access/xact.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/procsignal.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "etl_patterns.h"
#include "worker/scheduler.h"

#define HEARTBEAT_INTERVAL (5 * USECS_PER_SEC)
#define REVIEW_INTERVAL	   (60 * USECS_PER_SEC)
#define FILES_INTERVAL	   (1 * USECS_PER_SEC)
#define PURGE_INTERVAL	   (SECS_PER_HOUR * USECS_PER_SEC)

/* Farther than this the clock goes back only if somebody sets it. */
#define CLOCK_STEP (1 * USECS_PER_SEC)

/* With more runs than this they are counted once per heartbeat. */
#define MAX_COUNTED 1000

static EtlSharedDatabase *entry;
static MemoryContext round_context;
static MemoryContext row_context;

static bool is_armed;
static TimestampTz next_heartbeat;
static TimestampTz next_review;
static TimestampTz next_files;
static TimestampTz next_purge;
static TimestampTz last_round;
static bool must_load;	 /* news were lost */
static bool may_be_gone; /* the extension */

static EtlNews *news;
static int nnews;
static List *returned; /* in the memory context of the round */
static int64 ncounted;

static void start_up(int index);
static bool extension_exists(void);
static void leave_if_extension_is_gone(void);
static long run_round(void);
static bool is_on(void);
static void look_whether_armed(void);
static void hand_out(void);
static void take_news(void);
static void load(void);
static void load_all(void *arg);
static void absorb(void);
static void absorb_news(void *arg);
static void absorb_returned(void);
static bool claim_all(TimestampTz now);
static void publish(TimestampTz now, int64 nstarved, bool heartbeat);
static long time_to_wait(bool more);

/* The main function; its argument is the number of the database's entry. */
void
etl_scheduler_main(Datum main_arg)
{
	start_up(DatumGetInt32(main_arg));
	for (;;)
	{
		long timeout;

		ResetLatch(MyLatch);
		if (ProcDiePending) /* an ordinary end, not worth a FATAL */
			proc_exit(1);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (catchupInterruptPending)
			ProcessCatchupInterrupt();

		MemoryContextSwitchTo(round_context);
		timeout = run_round();
		MemoryContextSwitchTo(TopMemoryContext);
		MemoryContextReset(round_context);
		(void) pgstat_report_stat(false);
		if (timeout > 0)
			(void) WaitLatch(MyLatch,
							 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 timeout, PG_WAIT_EXTENSION);
	}
}

/* Connect, and read what there is. */
static void
start_up(int index)
{
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	entry = etl_scheduler_attach(index);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(entry->database, InvalidOid, 0);
	SetConfigOption("application_name", "etl_patterns scheduler", PGC_USERSET,
					PGC_S_OVERRIDE);
	SetConfigOption("synchronous_commit", "off", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("search_path", "pg_catalog", PGC_USERSET, PGC_S_OVERRIDE);
	/* whatever the database or the role has set: rounds are short */
	SetConfigOption("lock_timeout", "0", PGC_USERSET, PGC_S_OVERRIDE);
	etl_no_transaction_timeout(PGC_USERSET, PGC_S_OVERRIDE, GUC_ACTION_SET);
	SetConfigOption("default_transaction_read_only", "off", PGC_USERSET,
					PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed",
					PGC_USERSET, PGC_S_OVERRIDE);

	round_context = AllocSetContextCreate(TopMemoryContext, "etl_patterns round",
										  ALLOCSET_DEFAULT_SIZES);
	row_context = AllocSetContextCreate(TopMemoryContext, "etl_patterns row",
										ALLOCSET_DEFAULT_SIZES);
	/* nor may a row that a session has locked keep all others waiting */
	etl_job_rows_nowait(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	leave_if_extension_is_gone();
	etl_scheduler_serve();
	etl_dispatch_init();
	load();
	next_purge = last_round + REVIEW_INTERVAL;
}

/* ------------------------------------------------------------------ */
/* transactions                                                         */

/*
 * Do something in a transaction of its own; an error undoes it and is
 * returned.  What is allocated stays in the current memory context.
 */
ErrorData *
etl_scheduler_try(void (*work)(void *), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData *volatile error = NULL;

	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		MemoryContextSwitchTo(context);
		work(arg);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(context);
	if (error != NULL)
		leave_if_extension_is_gone();
	return error;
}

/*
 * To the log, since nobody else sees it.  That somebody has a row locked is no
 * trouble: what was to be done with it is tried again.
 */
void
etl_scheduler_report(const ErrorData *error, const char *what)
{
	ereport(error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ? DEBUG1 : WARNING,
			(errcode(error->sqlerrcode), errmsg("%s: %s", what, error->message),
			 error->detail == NULL ? 0 : errdetail_internal("%s", error->detail),
			 error->hint == NULL ? 0 : errhint("%s", error->hint)));
}

static bool
extension_exists(void)
{
	bool exists;

	StartTransactionCommand();
	exists = OidIsValid(get_extension_oid("etl_patterns", true));
	CommitTransactionCommand();
	return exists;
}

/* Without the extension there is nothing to do here any more. */
static void
leave_if_extension_is_gone(void)
{
	MemoryContext context = CurrentMemoryContext;

	if (!extension_exists())
	{
		etl_dispatch_dismiss();
		etl_pipelines_dismiss();
		etl_scheduler_leave();
		proc_exit(0);
	}
	MemoryContextSwitchTo(context);
}

/* ------------------------------------------------------------------ */
/* a round                                                              */

/* Do what there is to do; returns for how many milliseconds there is no more. */
static long
run_round(void)
{
	TimestampTz now = etl_job_now();
	bool heartbeat;
	bool more;
	int64 nstarved;

	if (now < last_round) /* the clock was set back */
	{
		next_heartbeat = next_review = next_files = 0;
		/* what was put off by the old clock would be far away */
		must_load |= now < last_round - CLOCK_STEP;
	}
	last_round = now;
	heartbeat = now >= next_heartbeat;

	Assert(returned == NIL);
	etl_scheduler_serve_workers();
	take_news();
	if (must_load || (now >= next_review && max_prepared_xacts > 0))
		load();
	if (heartbeat || may_be_gone)
	{
		leave_if_extension_is_gone();
		may_be_gone = false;
	}
	if (nnews > 0 || heartbeat)
		absorb();
	absorb_returned();
	if (is_armed && heartbeat)
		etl_work_foreign();
	if (heartbeat)
		etl_pipelines_watch_slots();
	hand_out();

	more = claim_all(now);
	if (is_on() && now >= next_files && !dlist_is_empty(etl_known_file_jobs()))
	{
		etl_work_files(now);
		next_files = now + FILES_INTERVAL;
	}
	nstarved = is_armed ? etl_work_deadlines(now, is_on()) : 0;
	if (is_armed && now >= next_purge && !etl_work_purge())
		next_purge = now + PURGE_INTERVAL;

	/* what was done here may be news by now */
	take_news();
	if (nnews > 0 && !must_load)
		absorb();
	etl_scheduler_serve_workers();
	absorb_returned();
	hand_out();
	etl_pipelines_serve(is_on());
	if (heartbeat)
		next_heartbeat = now + HEARTBEAT_INTERVAL;
	publish(now, nstarved, heartbeat);
	return time_to_wait(more || must_load || may_be_gone);
}

/*
 * Are jobs and pipelines to run?  Whoever makes one arms the database.  While a
 * dump is restored its pipelines are there before we read where they were armed.
 */
static bool
is_on(void)
{
	return is_armed && etl_scheduler_enabled;
}

/*
 * See what workers have done, and give them more to do.  Runs that they have
 * given back must be absorbed before the round ends.
 */
void
etl_scheduler_serve_workers(void)
{
	MemoryContext context = MemoryContextSwitchTo(round_context);

	returned = etl_dispatch_look(returned);
	MemoryContextSwitchTo(context);
	hand_out();
}

/* Give workers more to do. */
static void
hand_out(void)
{
	if (is_on())
		etl_dispatch(etl_job_now());
}

/* What sessions have told since the last time. */
static void
take_news(void)
{
	if (news == NULL)
		news = MemoryContextAlloc(TopMemoryContext,
								  sizeof(EtlNews) * ETL_NEWS_LEN);
	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	nnews = Min(entry->nnews, ETL_NEWS_LEN);
	must_load |= entry->nnews > ETL_NEWS_LEN;
	entry->nnews = 0;
	may_be_gone |= entry->dropped;
	entry->dropped = false;
	memcpy(news, entry->news, sizeof(EtlNews) * nnews);
	LWLockRelease(etl_shared->lock);

	for (int i = 0; i < nnews; i++)
		must_load |= news[i].kind == ETL_NEWS_ALL;
}

/* Read everything anew. */
static void
load(void)
{
	ErrorData *error;

	etl_known_reset();
	error = etl_scheduler_try(load_all, NULL);
	if (error != NULL)
		ReThrowError(error);
	etl_dispatch_adopt();
	if (is_armed)
		etl_work_foreign();
	last_round = etl_job_now();
	next_review = last_round + REVIEW_INTERVAL;
	must_load = false;
	nnews = 0;
}

static void
load_all(void *arg)
{
	MemoryContext context = MemoryContextSwitchTo(row_context);
	EtlJobScan *jobs;
	EtlJobRunScan *runs;
	EtlJob *job;
	EtlJobRun *run;

	look_whether_armed();
	MemoryContextSwitchTo(context);
	etl_pipelines_load();
	jobs = etl_job_scan_all();
	MemoryContextSwitchTo(row_context);
	while ((job = etl_job_scan_next(jobs)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		etl_known_job_set(job);
		MemoryContextReset(row_context);
	}
	etl_job_scan_end(jobs);

	MemoryContextSwitchTo(context);
	runs = etl_job_run_scan_unfinished();
	MemoryContextSwitchTo(row_context);
	while ((run = etl_job_run_scan_next(runs)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (etl_known_job(run->job_id) == NULL)
			etl_scheduler_read_run(run->job_run_id);
		else
			etl_known_run_set(run);
		MemoryContextReset(row_context);
	}
	etl_job_run_scan_end(runs);
	MemoryContextSwitchTo(context);
}

/* Read a job, and know what it is now. */
void
etl_scheduler_read_job(int64 job_id)
{
	MemoryContext context = MemoryContextSwitchTo(row_context);
	EtlJob *job = etl_job_by_id(job_id, ETL_ROW_READ);

	if (job == NULL)
		etl_known_job_forget(job_id);
	else
		etl_known_job_set(job);
	MemoryContextSwitchTo(context);
	MemoryContextReset(row_context);
}

/*
 * A run whose job is not known: of a new job, or of one that was dropped, with
 * all the runs that could be seen then, before it was committed.  Returns the
 * run as it is now.
 */
static EtlJobRun *
find_job_of(EtlJobRun *run)
{
	EtlJob *job = etl_job_by_id(run->job_id, ETL_ROW_READ);

	if (job != NULL)
		etl_known_job_set(job);
	else if (run->status == ETL_RUN_WAITING &&
			 etl_job_run_by_id(run->job_run_id, ETL_ROW_LOCK_SKIP) != NULL)
		(void) etl_run_skip_one(run->job_run_id, "dropped");
	else
		return run;
	return etl_job_run_by_id(run->job_run_id, ETL_ROW_READ);
}

/* Read a run, and know what it is now. */
void
etl_scheduler_read_run(int64 job_run_id)
{
	MemoryContext context = MemoryContextSwitchTo(row_context);
	EtlJobRun *run = etl_job_run_by_id(job_run_id, ETL_ROW_READ);

	/* its row outlives the job's */
	if (run != NULL && run->finished_at == 0 &&
		etl_known_job(run->job_id) == NULL)
		run = find_job_of(run);

	if (run == NULL)
		etl_known_run_forget(job_run_id);
	else
		etl_known_run_set(run);
	MemoryContextSwitchTo(context);
	MemoryContextReset(row_context);
}

/* Read what the news are about, and whether jobs are to run here. */
static void
absorb(void)
{
	ErrorData *error = etl_scheduler_try(absorb_news, NULL);

	if (error != NULL)
		ReThrowError(error);
}

/* Are jobs and pipelines to run here? */
static void
look_whether_armed(void)
{
	is_armed = etl_jobs_armed() == ETL_ARMED_HERE;
}

static void
absorb_news(void *arg)
{
	look_whether_armed();
	for (int i = 0; i < nnews; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (news[i].kind == ETL_NEWS_JOB)
			etl_scheduler_read_job(news[i].id);
		else if (news[i].kind == ETL_NEWS_CDC)
			etl_pipeline_read(news[i].id);
		else
			etl_scheduler_read_run(news[i].id);
	}
}

static void
read_returned(void *arg)
{
	ListCell *lc;

	foreach(lc, (List *) arg)
	{
		EtlReturned *it = lfirst(lc);
		EtlKnownRun *run = etl_known_run(it->job_run_id);

		it->ending = ETL_ENDING_NONE;
		if (run != NULL)
		{
			it->ending = run->ending;
			etl_known_returned(run);
		}
		etl_scheduler_read_run(it->job_run_id);
	}
}

/* Most runs that workers have given back have ended; see to the others. */
static void
absorb_returned(void)
{
	List *list = returned;
	ErrorData *error;
	ListCell *lc;

	returned = NIL;
	if (list == NIL)
		return;
	error = etl_scheduler_try(read_returned, list);
	if (error != NULL)
		ReThrowError(error);
	foreach(lc, list)
	{
		EtlReturned *it = lfirst(lc);

		if (etl_known_run(it->job_run_id) != NULL)
			etl_work_returned(it->job_run_id, it->worker_is_gone, it->declined,
							  it->ending);
	}
}

/* Claim the slots that are due; true if there are more. */
static bool
claim_all(TimestampTz now)
{
	TimestampTz until = now + FILES_INTERVAL;

	while (is_on() && etl_work_claim(etl_job_now()))
	{
		etl_scheduler_serve_workers();
		absorb_returned();
		hand_out();
		CHECK_FOR_INTERRUPTS();
		if (etl_job_now() > until)
			return true;
	}
	return false;
}

/* What others may see of us. */
static void
publish(TimestampTz now, int64 nstarved, bool heartbeat)
{
	int64 nruns = ncounted;

	if (heartbeat || etl_known_runs() <= MAX_COUNTED)
		nruns = ncounted = etl_known_due_runs(now);

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	entry->heartbeat = GetCurrentTimestamp();
	entry->armed = is_armed;
	entry->jobs = etl_known_active_jobs();
	entry->runs_waiting = nruns;
	entry->no_worker += nstarved;
	LWLockRelease(etl_shared->lock);
	if (nstarved > 0)
		etl_dispatch_complain(nstarved);
}

/* Milliseconds until there is something to do by the clock. */
static long
time_to_wait(bool more)
{
	TimestampTz now = etl_job_now();
	TimestampTz until = next_heartbeat;
	EtlKnownRun *run = etl_known_next_deadline();
	long wait = etl_pipelines_wait(is_on());

	if (more)
		return 0;
	if (wait >= 0)
		until = Min(until, TimestampTzPlusMilliseconds(now, wait));
	if (is_armed && run != NULL)
		until = Min(until, run->deadline);
	if (is_armed && next_purge != 0)
		until = Min(until, next_purge);
	if (is_on())
	{
		EtlKnownJob *job = etl_known_next_claim();

		if (job != NULL)
			until = Min(until, job->claim_at);
		run = etl_known_next_ready();
		if (run != NULL)
			until = Min(until, run->ready_at > now ? run->ready_at :
													 etl_dispatch_retry_at());
		if (!dlist_is_empty(etl_known_file_jobs()))
			until = Min(until, next_files);
	}
	return until <= now ? 0 : TimestampDifferenceMilliseconds(now, until);
}
