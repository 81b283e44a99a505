/*-------------------------------------------------------------------------
 *
 * job_worker.c
 *	  The process that executes runs.
 *
 * It is connected as the owner of the jobs, so that nothing in a command can
 * get at anybody else's rights, and executes one run after the other for as
 * long as there are runs of that role.  Between two runs the session is reset
 * as by DISCARD ALL.
 *
 * A run takes three transactions: it becomes this process's; its command, with
 * the success; or, after an error, the failure.  Only the command can be
 * canceled.  Whatever happens to the process, its slot is given back after its
 * locks are, so that the scheduler finds what there is to find.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "commands/discard.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/procsignal.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/ps_status.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "etl_patterns.h"
#include "worker/execute.h"
#include "worker/scheduler.h"

/*
 * Settings of roles and databases, and what DISCARD ALL does not reset, last
 * as long as a session.  So none lasts for ever.
 */
#define MAX_LIFE (60 * USECS_PER_SEC)
#define MAX_RUNS 10000

static EtlSharedSlot *own_slot = NULL;
static uint32 own_generation;
static bool was_superuser;
static TimeoutId run_timeout;
static volatile sig_atomic_t timed_out = false;
static MemoryContext run_context;

static void attach(int index);
static void wake_scheduler(void);
static void detach(int code, Datum arg);
static void give_back(void);
static void decline(void);
static bool take_run(int64 *job_run_id, bool is_late);
static bool wait_for_run(int64 *job_run_id);
static void connect_as_owner(void);
static bool is_same_role(void);
static void execute_run(int64 job_run_id);
static bool begin_run(EtlActiveRun *active, int64 job_run_id);
static bool break_job(EtlActiveRun *active);
static ErrorData *execute_command(EtlActiveRun *active);
static void end_command(void *arg);
static void fail_run(const EtlActiveRun *active, const ErrorData *error);
static void start_transaction(void);
static void set_local(const char *name, const char *value);
static void commit_transaction(void);
static ErrorData *recover_from_error(void);
static void run_timeout_handler(void);
static void show_run(const EtlActiveRun *active);
static void reset_session(void);

/*
 * Only commands can be canceled.  An error forgets what is held off, so this is
 * said again after each.
 */
#define HOLD_CANCEL()  (QueryCancelHoldoffCount = 1)
#define ALLOW_CANCEL() (QueryCancelHoldoffCount = 0)

/* The main function of a worker; its argument is the number of its slot. */
void
etl_job_worker_main(Datum main_arg)
{
	TimestampTz start = GetCurrentTimestamp();
	int64 job_run_id;
	int nruns = 0;

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	attach(DatumGetInt32(main_arg));
	BackgroundWorkerUnblockSignals();
	connect_as_owner();

	HOLD_CANCEL();
	run_timeout = RegisterTimeout(USER_TIMEOUT, run_timeout_handler);
	run_context = AllocSetContextCreate(TopMemoryContext, "etl_patterns run",
										ALLOCSET_DEFAULT_SIZES);
	MessageContext = run_context;

	while (wait_for_run(&job_run_id))
	{
		if (!is_same_role())
		{
			decline();
			break;
		}
		execute_run(job_run_id);
		MemoryContextSwitchTo(TopMemoryContext);
		MemoryContextReset(run_context);
		if (etl_worker_idle_timeout == 0 || ++nruns >= MAX_RUNS ||
			GetCurrentTimestamp() - start > MAX_LIFE)
			break;
		reset_session();
		give_back();
	}
	proc_exit(0);
}

/* ------------------------------------------------------------------ */
/* the slot                                                             */

/* Make the slot this process's, if it still waits for it. */
static void
attach(int index)
{
	EtlSharedSlot *slot;

	if (etl_shared == NULL || index < 0 || index >= etl_shared->nslots)
		elog(ERROR, "there is no slot %d for a worker", index);
	slot = etl_shared_slot(index);
	memcpy(&own_generation, MyBgworkerEntry->bgw_extra, sizeof(own_generation));

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	if (slot->state != ETL_SLOT_STARTING ||
		slot->generation != own_generation || slot->pid != 0)
	{
		LWLockRelease(etl_shared->lock);
		proc_exit(0);
	}
	slot->pid = MyProcPid;
	slot->latch = MyLatch;
	LWLockRelease(etl_shared->lock);

	own_slot = slot;
	on_shmem_exit(detach, (Datum) 0);
}

/* Wake the scheduler.  The caller holds the lock. */
static void
wake_scheduler(void)
{
	EtlSharedDatabase *entry = etl_shared_find_database(own_slot->database);

	if (entry != NULL && entry->latch != NULL)
		SetLatch(entry->latch);
}

/* At the exit, after transactions and locks are gone. */
static void
detach(int code, Datum arg)
{
	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	if (own_slot->generation == own_generation)
	{
		wake_scheduler();
		own_slot->state = ETL_SLOT_FREE;
		own_slot->pid = 0;
		own_slot->latch = NULL;
		own_slot->job_run_id = 0;
	}
	LWLockRelease(etl_shared->lock);
}

/* The run is over: another may come. */
static void
give_back(void)
{
	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	own_slot->state = ETL_SLOT_IDLE;
	own_slot->job_run_id = 0;
	own_slot->ending = ETL_ENDING_NONE;
	own_slot->since = GetCurrentTimestamp();
	wake_scheduler();
	LWLockRelease(etl_shared->lock);
}

/* The run is not begun, which is nobody's fault. */
static void
decline(void)
{
	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	own_slot->declined = true;
	LWLockRelease(etl_shared->lock);
}

/* The next run, if one has come; false if none will. */
static bool
take_run(int64 *job_run_id, bool is_late)
{
	bool stays = true;

	*job_run_id = 0;
	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	if (own_slot->state != ETL_SLOT_IDLE)
	{
		own_slot->state = ETL_SLOT_BUSY;
		own_slot->since = GetCurrentTimestamp();
		*job_run_id = own_slot->job_run_id;
	}
	else if (own_slot->leave || is_late)
	{
		own_slot->leave = true;
		stays = false;
	}
	LWLockRelease(etl_shared->lock);
	return stays;
}

/* Wait for a run; false if it is time to go. */
static bool
wait_for_run(int64 *job_run_id)
{
	TimestampTz idle_since = GetCurrentTimestamp();
	bool is_late = false;

	for (;;)
	{
		long timeout;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (!take_run(job_run_id, is_late))
			return false;
		if (*job_run_id != 0)
			return true;

		if (catchupInterruptPending)
			ProcessCatchupInterrupt();
		timeout =
			TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
											TimestampTzPlusMilliseconds(idle_since,
																		etl_worker_idle_timeout));
		is_late = timeout <= 0;
		if (!is_late)
			(void) WaitLatch(MyLatch,
							 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 timeout, PG_WAIT_EXTENSION);
	}
}

/* ------------------------------------------------------------------ */
/* the session                                                          */

/* The server checks that the role may log in, and may connect. */
static void
connect_as_owner(void)
{
	BackgroundWorkerInitializeConnectionByOid(own_slot->database,
											  own_slot->role, 0);
	StartTransactionCommand();
	was_superuser = superuser();
	CommitTransactionCommand();
}

/*
 * A session remembers whether its user was a superuser when it began, and what
 * that allows.  So a run after a change belongs into another session.
 */
static bool
is_same_role(void)
{
	bool is_superuser;

	StartTransactionCommand();
	is_superuser = superuser_arg(own_slot->role);
	CommitTransactionCommand();
	return is_superuser == was_superuser;
}

/* Nothing of a run may be seen by the next one. */
static void
reset_session(void)
{
	DiscardStmt *discard = makeNode(DiscardStmt);

	discard->target = DISCARD_ALL;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	/* temporary tables are dropped: that reads catalogs */
	PushActiveSnapshot(GetTransactionSnapshot());
	DiscardCommand(discard, true);
	PopActiveSnapshot();
	CommitTransactionCommand();
	pfree(discard);
	set_ps_display("idle");
	pgstat_report_activity(STATE_IDLE, NULL);
	pgstat_report_stat(true);
}

/* What others see of the process. */
static void
show_run(const EtlActiveRun *active)
{
	char *name = psprintf("etl_patterns job: %s", active->job->name);

	SetConfigOption("application_name", name, PGC_USERSET, PGC_S_SESSION);
	set_ps_display(active->job->name);
}

/* ------------------------------------------------------------------ */
/* a run                                                                */

/*
 * A transaction of our own, around the command's.  What the role, or a command,
 * has set for its transactions is not meant for it.
 */
static void
start_transaction(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	XactReadOnly = false;
	XactIsoLevel = XACT_READ_COMMITTED;
	(void) set_config_option("lock_timeout", "0", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	etl_no_transaction_timeout(PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL);
	MemoryContextSwitchTo(run_context);
	PushActiveSnapshot(GetTransactionSnapshot());
	set_local("lock_timeout", "0");
}

static void
set_local(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

static void
commit_transaction(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(run_context);
}

/* Execute a run, unless it is not to be begun now. */
static void
execute_run(int64 job_run_id)
{
	EtlActiveRun active = {0};
	ErrorData *error;

	MemoryContextSwitchTo(run_context);
	QueryCancelPending = false;
	timed_out = false;
	if (begin_run(&active, job_run_id))
	{
		error = execute_command(&active);
		if (error != NULL)
			fail_run(&active, error);
	}
	etl_run_unlock(&active);
}

/* The run becomes this process's; false if it does not. */
static bool
begin_run(EtlActiveRun *active, int64 job_run_id)
{
	volatile bool begun = false;

	PG_TRY();
	{
		start_transaction();
		set_local("synchronous_commit", "off");
		begun = etl_run_begin(active, job_run_id) == ETL_BEGIN_OK &&
				!break_job(active);
		if (begun)
		{
			etl_run_set_variables(active);
			show_run(active);
		}
		else
			decline();
		commit_transaction();
	}
	PG_CATCH();
	{
		(void) recover_from_error();
		begun = false;
	}
	PG_END_TRY();
	return begun;
}

/*
 * If the job of a run that was just begun cannot run any more, it is broken,
 * and the run was never begun.
 */
static bool
break_job(EtlActiveRun *active)
{
	const char *obstacle = etl_job_cannot_run(active->job);
	EtlJob *job;

	if (obstacle == NULL)
		return false;
	AbortOutOfAnyTransaction();
	etl_run_unlock(active);
	start_transaction();
	job = etl_job_by_id(active->job->job_id, ETL_ROW_LOCK);
	if (job != NULL)
		etl_job_break(job, obstacle);
	return true;
}

/* Execute the command, with its success; or return the error. */
static ErrorData *
execute_command(EtlActiveRun *active)
{
	const EtlJob *job = active->job;
	ErrorData *volatile error = NULL;

	PG_TRY();
	{
		if (job->has_timeout)
			enable_timeout_after(run_timeout,
								 (int) Min(etl_interval_usec(&job->timeout) /
											   1000,
										   INT_MAX));
		ALLOW_CANCEL();
		etl_execute(job->command, end_command, active);
		HOLD_CANCEL();
		disable_timeout(run_timeout, false);
	}
	PG_CATCH();
	{
		error = recover_from_error();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(run_context);
	if (error != NULL && timed_out)
		error->message = "canceling the run because of its job's timeout";
	return error;
}

static void
end_command(void *arg)
{
	etl_run_succeed(arg);
}

/*
 * Write the failure.  If even that fails, the row says that the run is running
 * while nobody holds its lock: then it is lost.
 */
static void
fail_run(const EtlActiveRun *active, const ErrorData *error)
{
	PG_TRY();
	{
		start_transaction();
		etl_run_fail(active, error, timed_out);
		commit_transaction();
	}
	PG_CATCH();
	{
		(void) recover_from_error();
	}
	PG_END_TRY();
}

/* After an error: as good as new, except for the session's settings. */
static ErrorData *
recover_from_error(void)
{
	ErrorData *error;

	HOLD_INTERRUPTS();
	disable_all_timeouts(false);
	QueryCancelPending = false;
	MemoryContextSwitchTo(run_context);
	error = CopyErrorData();
	EmitErrorReport();
	AbortOutOfAnyTransaction();
	etl_execute_clean_up();
	MemoryContextSwitchTo(run_context);
	FlushErrorState();
	HOLD_CANCEL();
	RESUME_INTERRUPTS();
	return error;
}

/* In a signal handler: cancel the command, as statement_timeout does. */
static void
run_timeout_handler(void)
{
	timed_out = true;
	(void) kill(MyProcPid, SIGINT);
}
