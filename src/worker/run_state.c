/*-------------------------------------------------------------------------
 *
 * run_state.c
 *	  From waiting to the end: what becomes of a run.
 *
 * Whoever runs an attempt holds session-level locks that no command gives
 * back: one on the run, which tells others that it is alive, and unless its
 * job may overlap one on the job, which keeps others from running it.  They
 * are never waited for.  A row that says "running" while its lock is free is
 * that of a process that is gone.
 *
 * The end of a run is written by the process that runs it, and by others only
 * when it is gone.  Rows are locked in this order: the job, then the run.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "utils/guc.h"

#include "etl_patterns.h"
#include "worker/job.h"

/* Kinds of advisory locks. */
#define JOB_LOCK 0xE71A
#define RUN_LOCK 0xE71B

/* The message of an error by which a user ends a query. */
#define CANCEL_MESSAGE "canceling statement due to user request"

/* ------------------------------------------------------------------ */
/* locks                                                                */

/*
 * The lock of one row of a state table, by its number.  No user's function
 * makes advisory locks of these kinds.
 */
static void
set_lock(EtlStayingLock *lock, const char *table, int64 id)
{
	Oid relid = etl_ledger_relid(table);

	SET_LOCKTAG_OBJECT(lock->object, MyDatabaseId, relid, (uint32) id,
					   (uint16) (id >> 32));
	SET_LOCKTAG_ADVISORY(lock->advisory, MyDatabaseId, (uint32) (id >> 32),
						 (uint32) id,
						 strcmp(table, "job") == 0 ? JOB_LOCK : RUN_LOCK);
}

static void
release(const LOCKTAG *tag)
{
	if (etl_lock_held_by_me(tag, ExclusiveLock))
		LockRelease(tag, ExclusiveLock, true);
}

/* Does this session have it? */
static bool
have_lock(const EtlStayingLock *lock)
{
	return etl_lock_held_by_me(&lock->object, ExclusiveLock) ||
		   etl_lock_held_by_me(&lock->advisory, ExclusiveLock);
}

static void
unlock(const EtlStayingLock *lock)
{
	release(&lock->object);
	release(&lock->advisory);
}

/* Take it for as long as the session lives, if nobody has it. */
static bool
try_lock(const EtlStayingLock *lock)
{
	if (have_lock(lock) || LockAcquire(&lock->object, ExclusiveLock, true,
									   true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	if (LockAcquire(&lock->advisory, ExclusiveLock, true, true) !=
		LOCKACQUIRE_NOT_AVAIL)
		return true;
	release(&lock->object);
	return false;
}

/* The slot of the worker that has a run; NULL without one.  Caller has the lock. */
static EtlSharedSlot *
find_slot(int64 job_run_id)
{
	for (int i = 0; i < etl_shared->nslots; i++)
	{
		EtlSharedSlot *slot = etl_shared_slot(i);

		if (slot->state == ETL_SLOT_BUSY && slot->database == MyDatabaseId &&
			slot->job_run_id == job_run_id)
			return slot;
	}
	return NULL;
}

/* Has a worker the run, whatever its command has done to its locks? */
static bool
worker_has(int64 job_run_id)
{
	bool found;

	if (etl_shared == NULL)
		return false;
	LWLockAcquire(etl_shared->lock, LW_SHARED);
	found = find_slot(job_run_id) != NULL;
	LWLockRelease(etl_shared->lock);
	return found;
}

/* Does nobody have the lock of a run? */
static bool
lock_is_free(int64 job_run_id)
{
	EtlStayingLock lock;

	if (worker_has(job_run_id))
		return false;
	set_lock(&lock, "job_run", job_run_id);
	if (!try_lock(&lock))
		return false;
	unlock(&lock);
	return true;
}

/*
 * The server gives back locks of a session at its exit only by aborting a
 * transaction, and between two of a run's there is none.
 */
static void
release_at_exit(int code, Datum arg)
{
	AbortOutOfAnyTransaction();
	LockReleaseAll(DEFAULT_LOCKMETHOD, true);
}

/* From now on this process may have locks that stay. */
static void
prepare_exit(void)
{
	static bool registered = false;

	if (!registered)
		before_shmem_exit(release_at_exit, (Datum) 0);
	registered = true;
}

/* Give back what etl_run_begin() has locked; after the end was committed. */
void
etl_run_unlock(EtlActiveRun *active)
{
	if (active->job_locked)
		unlock(&active->job_lock);
	if (active->run_locked)
		unlock(&active->run_lock);
	active->job_locked = false;
	active->run_locked = false;
}

/* ------------------------------------------------------------------ */
/* the beginning                                                        */

static EtlRunBegin
begin_locked(EtlActiveRun *active, const EtlJobRun *seen)
{
	EtlJobRun *run = etl_job_run_again(seen);

	if (run == NULL || run->status != ETL_RUN_WAITING)
		return ETL_BEGIN_GONE;
	run->status = ETL_RUN_RUNNING;
	run->reason = NULL;
	run->started_at = etl_job_now();
	run->pid = MyProcPid;
	run->backend_start = MyStartTimestamp;
	etl_job_run_update(run);
	active->run = run;
	return ETL_BEGIN_OK;
}

/*
 * Make a waiting run this process's, in a transaction that is committed before
 * the command runs.  Job and run are in the current memory context, which must
 * outlive that transaction.  Whatever the result, and also after an error,
 * etl_run_unlock() is due.
 */
EtlRunBegin
etl_run_begin(EtlActiveRun *active, int64 job_run_id)
{
	EtlJobRun *run;

	memset(active, 0, sizeof(EtlActiveRun));
	run = etl_job_run_by_id(job_run_id, ETL_ROW_READ);
	if (run == NULL || run->status != ETL_RUN_WAITING)
		return ETL_BEGIN_GONE;
	active->job = etl_job_by_id(run->job_id, ETL_ROW_READ);
	if (active->job == NULL)
	{
		/* was dropped while the run was being inserted */
		(void) etl_run_skip_one(job_run_id, "dropped");
		return ETL_BEGIN_GONE;
	}
	if (active->job->state == ETL_JOB_BROKEN)
	{
		/* likewise, since its job was broken */
		(void) etl_run_skip_one(job_run_id, "broken");
		return ETL_BEGIN_GONE;
	}
	if (active->job->state == ETL_JOB_PAUSED && run->origin != ETL_ORIGIN_MANUAL)
		return ETL_BEGIN_BUSY;

	prepare_exit();
	set_lock(&active->run_lock, "job_run", job_run_id);
	set_lock(&active->job_lock, "job", run->job_id);
	active->run_locked = try_lock(&active->run_lock);
	if (!active->run_locked)
		return ETL_BEGIN_GONE;
	if (active->job->overlap != ETL_OVERLAP_ALLOW)
	{
		active->job_locked = try_lock(&active->job_lock);
		if (!active->job_locked)
			return ETL_BEGIN_BUSY;
	}
	return begin_locked(active, run);
}

static void
set_variable(const char *name, const char *value)
{
	SetConfigOption(name, value, PGC_USERSET, PGC_S_SESSION);
}

/* What the command can ask about its run. */
void
etl_run_set_variables(const EtlActiveRun *active)
{
	const EtlJobRun *run = active->run;

	set_variable(ETL_SCHEMA ".logical_time", etl_plain_time(run->slot));
	set_variable(ETL_SCHEMA ".job_run_id",
				 psprintf(INT64_FORMAT, run->job_run_id));
	set_variable(ETL_SCHEMA ".event_payload",
				 run->payload == NULL ? "" : run->payload);
}

/* ------------------------------------------------------------------ */
/* the end                                                              */

/*
 * The scheduler hears of the end of its workers' runs by shared memory; of
 * others' it is told, background workers that call etl_run_due_jobs() included.
 */
static void
tell_end(const EtlJobRun *run)
{
	if (!worker_has(run->job_run_id))
		etl_tell_scheduler(ETL_NEWS_RUN, run->job_run_id);
}

/* The run, locked, as long as it is this process's; NULL if it is not. */
static EtlJobRun *
lock_own(const EtlActiveRun *active)
{
	EtlJobRun *run = etl_job_run_again(active->run);

	if (run == NULL || run->status != ETL_RUN_RUNNING ||
		run->pid != MyProcPid || run->backend_start != MyStartTimestamp)
		return NULL;
	return run;
}

/* The jobs that run after this one get a run for the same slot. */
static void
trigger_dependents(const EtlJobRun *run)
{
	EtlJobScan *scan = etl_job_scan_after(run->job_id);
	EtlJob *dependent;

	while ((dependent = etl_job_scan_next(scan)) != NULL)
		if (dependent->state == ETL_JOB_ACTIVE &&
			etl_job_may_trigger(run->role, dependent))
			(void) etl_job_trigger(dependent, ETL_ORIGIN_AFTER, run->slot, NULL);
	etl_job_scan_end(scan);
}

/* The first success after a failure is worth telling. */
static void
recover(const EtlJobRun *run)
{
	EtlJob *job = etl_job_by_id(run->job_id, ETL_ROW_LOCK);

	if (job == NULL || job->failing_since == 0)
		return;
	etl_alert(ETL_ALERT_RECOVERED, job, run, NULL, "the job runs again");
	job->failing_since = 0;
	etl_job_update(job);
}

/*
 * The command has done its work: say so in its transaction.  Throws if the run
 * was given up for lost meanwhile, so that its work is not done twice.
 */
void
etl_run_succeed(const EtlActiveRun *active)
{
	EtlJob *job = etl_job_by_id(active->run->job_id, ETL_ROW_READ);
	EtlJobRun *run;

	if (job != NULL && job->failing_since != 0)
		recover(active->run);
	run = lock_own(active);
	if (run == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job run " INT64_FORMAT " is not this process's any more",
						active->run->job_run_id),
				 errdetail(
					 "What it has done is undone, so that it is not done twice.")));
	run->status = ETL_RUN_SUCCEEDED;
	run->reason = NULL;
	run->finished_at = etl_job_now();
	etl_job_run_update(run);
	trigger_dependents(run);
	tell_end(run);
}

/* An attempt has ended without success: there is another one, or an alert. */
static void
retry_or_alert(EtlJob *job, const EtlJobRun *run, bool retried)
{
	if (job == NULL)
		return;
	if (retried && run->attempt < job->max_attempts &&
		job->state != ETL_JOB_BROKEN)
	{
		EtlJobRun *next = etl_job_run_make(job, run->origin, run->slot);

		next->attempt = run->attempt + 1;
		next->payload = run->payload;
		next->due_at = etl_job_now() + etl_retry_delay(job, run->attempt);
		etl_job_run_insert(next);
		etl_tell_scheduler(ETL_NEWS_RUN, next->job_run_id);
		return;
	}
	if (job->failing_since != 0)
		return;
	job->failing_since = etl_job_now();
	etl_job_update(job);
	etl_alert(ETL_ALERT_FAILED, job, run, run->error_code, run->error_message);
}

/* Somebody has ended the query, rather than a limit or the command itself. */
static bool
is_cancel(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
		   error->message_id != NULL &&
		   strcmp(error->message_id, CANCEL_MESSAGE) == 0;
}

/* Why a run is being ended from outside, if anybody has said so. */
static EtlEnding
run_ending(int64 job_run_id)
{
	EtlEnding ending = ETL_ENDING_NONE;
	EtlSharedSlot *slot;

	if (etl_shared == NULL)
		return ending;
	LWLockAcquire(etl_shared->lock, LW_SHARED);
	slot = find_slot(job_run_id);
	if (slot != NULL)
		ending = slot->ending;
	LWLockRelease(etl_shared->lock);
	return ending;
}

static const char *
ending_word(EtlEnding ending)
{
	return ending == ETL_ENDING_REPLACE ? "replaced" : "stopped";
}

/*
 * The command has failed, and its transaction is undone: say so in a new one.
 */
void
etl_run_fail(const EtlActiveRun *active, const ErrorData *error, bool timed_out)
{
	EtlJob *job = etl_job_by_id(active->run->job_id, ETL_ROW_LOCK);
	EtlJobRun *run = lock_own(active);
	bool stopped = !timed_out && is_cancel(error);

	if (run == NULL)
		return;
	run->status = stopped ? ETL_RUN_STOPPED : ETL_RUN_FAILED;
	run->finished_at = etl_job_now();
	if (!stopped)
		run->reason = timed_out ? "timeout" : NULL;
	else if (run->reason == NULL)
		run->reason = ending_word(run_ending(run->job_run_id));
	run->error_code = pstrdup(unpack_sql_state(error->sqlerrcode));
	run->error_message = error->message;
	run->error_detail = error->detail;
	run->error_context = error->context;
	etl_job_run_update(run);
	if (!stopped)
		retry_or_alert(job, run,
					   timed_out || etl_error_is_retried(error->sqlerrcode));
	tell_end(run);
}

/* ------------------------------------------------------------------ */
/* runs of other processes                                              */

/*
 * Does the row say that it runs, while no process does?  The row is read last:
 * who gives back the lock has committed the end before.
 */
bool
etl_run_is_lost(int64 job_run_id)
{
	EtlJobRun *run;

	if (!lock_is_free(job_run_id))
		return false;
	run = etl_job_run_by_id(job_run_id, ETL_ROW_READ);
	return run != NULL && run->status == ETL_RUN_RUNNING;
}

/*
 * Write the end of a run whose process is gone, and do as its job says;
 * false if it is not gone, or has ended.
 */
static bool
mark_gone(int64 job_run_id, EtlRunStatus status, const char *reason,
		  const char *message)
{
	EtlJobRun *run = etl_job_run_by_id(job_run_id, ETL_ROW_READ);
	EtlJob *job;

	if (run == NULL || !lock_is_free(job_run_id))
		return false;
	job = etl_job_by_id(run->job_id, ETL_ROW_LOCK);
	run = etl_job_run_by_id(job_run_id, ETL_ROW_LOCK);
	if (run == NULL || run->status != ETL_RUN_RUNNING)
		return false;
	run->status = status;
	run->reason = reason;
	run->finished_at = etl_job_now();
	run->error_message = message;
	etl_job_run_update(run);
	if (status == ETL_RUN_LOST || status == ETL_RUN_FAILED)
		retry_or_alert(job, run, true);
	etl_tell_scheduler(ETL_NEWS_RUN, job_run_id);
	return true;
}

/*
 * The process of a run is gone.  One that was terminated since its time was up
 * has failed by that.
 */
bool
etl_run_mark_lost(int64 job_run_id, const char *reason, bool timed_out)
{
	if (timed_out)
		return mark_gone(job_run_id, ETL_RUN_FAILED, "timeout",
						 "the command did not end when it was canceled");
	return mark_gone(job_run_id, ETL_RUN_LOST, reason,
					 "the process that ran it is gone");
}

/* Likewise; it was terminated since it was to be stopped, and did not. */
bool
etl_run_mark_stopped(int64 job_run_id, EtlEnding ending)
{
	return mark_gone(job_run_id, ETL_RUN_STOPPED, ending_word(ending),
					 "the command did not end when it was canceled");
}

/* End a run that waits; false if it does not wait. */
static bool
end_waiting(int64 job_run_id, EtlRunStatus status, const char *reason)
{
	EtlJobRun *run = etl_job_run_by_id(job_run_id, ETL_ROW_LOCK);

	if (run == NULL || run->status != ETL_RUN_WAITING)
		return false;
	run->status = status;
	run->reason = reason;
	run->finished_at = etl_job_now();
	etl_job_run_update(run);
	etl_tell_scheduler(ETL_NEWS_RUN, job_run_id);
	return true;
}

bool
etl_run_stop_waiting(int64 job_run_id, const char *reason)
{
	return end_waiting(job_run_id, ETL_RUN_STOPPED, reason);
}

bool
etl_run_skip_one(int64 job_run_id, const char *reason)
{
	return end_waiting(job_run_id, ETL_RUN_SKIPPED, reason);
}

/* None of the runs of a job that wait now is to be begun. */
void
etl_run_skip_waiting(int64 job_id, const char *reason)
{
	EtlJobRunScan *scan = etl_job_run_scan_unfinished_of(job_id);
	EtlJobRun *run;

	while ((run = etl_job_run_scan_next(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		(void) end_waiting(run->job_run_id, ETL_RUN_SKIPPED, reason);
	}
	etl_job_run_scan_end(scan);
}

/*
 * Nothing that a copy of a database says is unfinished goes on there: neither
 * what waits, nor what runs, elsewhere.
 */
void
etl_run_skip_unfinished(const char *reason)
{
	EtlJobRunScan *scan = etl_job_run_scan_unfinished();
	EtlJobRun *run;

	while ((run = etl_job_run_scan_next(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (!end_waiting(run->job_run_id, ETL_RUN_SKIPPED, reason))
			(void) mark_gone(run->job_run_id, ETL_RUN_SKIPPED, reason, NULL);
	}
	etl_job_run_scan_end(scan);
}

/* The process that has a lock; 0 if there is none. */
static int
lock_holder(const LOCKTAG *tag)
{
	VirtualTransactionId *holders;
	PGPROC *proc;
	int n;

	holders = GetLockConflicts(tag, ExclusiveLock, &n);
	if (n == 0)
		return 0;
	proc = etl_vxid_proc(holders[0]);
	return proc == NULL ? 0 : proc->pid;
}

/*
 * The process that runs a run, which has its lock; 0 if there is none, or it
 * is just between two transactions.
 */
int
etl_run_pid(int64 job_run_id)
{
	EtlStayingLock lock;
	int pid;

	set_lock(&lock, "job_run", job_run_id);
	pid = lock_holder(&lock.advisory);
	return pid != 0 ? pid : lock_holder(&lock.object);
}

/*
 * Leave in the row of a run why it is canceled: a session that runs it by
 * etl_run_due_jobs() tells that from a cancel that its own user sent.
 */
static void
leave_reason(int64 job_run_id, const char *reason)
{
	EtlJobRun *run = etl_job_run_by_id(job_run_id, ETL_ROW_LOCK);

	if (run == NULL || run->status != ETL_RUN_RUNNING)
		return;
	run->reason = reason;
	etl_job_run_update(run);
}

/*
 * Cancel the command of a run that a worker has.  Under the lock the process
 * cannot go on to another run.  It is found also between two transactions.
 */
static bool
cancel_worker(int64 job_run_id, EtlEnding ending)
{
	EtlSharedDatabase *entry;
	EtlSharedSlot *slot;
	bool told = false;

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	slot = find_slot(job_run_id);
	if (slot != NULL)
	{
		if (slot->ending == ETL_ENDING_NONE)
		{
			slot->ending = ending;
			slot->since = GetCurrentTimestamp();
		}
		told = kill(slot->pid, SIGINT) == 0;
		entry = etl_shared_find_database(MyDatabaseId);
		if (entry != NULL && entry->latch != NULL)
			SetLatch(entry->latch);
	}
	LWLockRelease(etl_shared->lock);
	return told;
}

/*
 * Cancel the command of a run; false if nobody runs it.  A scheduler sees why,
 * and terminates a process that does not obey.
 */
bool
etl_run_cancel(int64 job_run_id, EtlEnding ending)
{
	int pid;

	if (etl_shared != NULL && cancel_worker(job_run_id, ending))
		return true;
	pid = etl_run_pid(job_run_id);
	if (pid != 0)
		leave_reason(job_run_id, ending_word(ending));
	return pid != 0 && kill(pid, SIGINT) == 0;
}
