/*-------------------------------------------------------------------------
 *
 * run_due.c
 *	  CALL etl_run_due_jobs(): jobs run by any client, without our workers.
 *
 * What a scheduler does continually is done once here, for the jobs of the
 * calling role: runs whose process is gone are found, slots and files that are
 * due become runs, and what is due is run, one run after the other, until
 * nothing is.  Slots are claimed up to the moment of the call, so that it
 * ends; retries and jobs that run after others are taken as they become due.
 *
 * Each run is what it is in a worker: a transaction that says it is running;
 * the command at top level, with the run's success in its last transaction; or
 * else a transaction that says how it failed (run_state.c has the locks).
 *
 * Transactions
 *
 * A procedure cannot catch an error in a subtransaction and let the command
 * commit, too.  So an error ends the transaction, as it does at top level, and
 * what the server's main loop does then is done here (recover()).  That the
 * procedure survives it is due to these:
 *
 * - Its portal is active: neither a commit nor an abort drops it.  Its snapshot
 *	 goes with the transaction and is forgotten; ActivePortal is that portal
 *	 again when the error arrives here.
 * - It has no SPI connection, which an abort would take away; nor may anybody
 *	 above have one, so that it must not be called by a procedure or DO.
 * - What is to outlive a transaction is in memory contexts below the portal's.
 * - Between two steps no transaction is open.  At the end one is again, also
 *	 when an error is thrown on.
 *
 * The session is that of the role that has logged in, and not less: a command
 * could RESET ROLE.  What a command sets is undone by caller_session.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "etl_patterns.h"
#include "flow/flow.h"
#include "worker/caller_session.h"
#include "worker/due.h"
#include "worker/execute.h"
#include "worker/job.h"

/* One call. */
typedef struct DueCall
{
	MemoryContext context; /* as long as the call */
	MemoryContext step;	   /* as long as a step, or all those of a run */
	TimestampTz end;	   /* no run begins later; 0: none */
	int runs_left;		   /* -1: any number */
	EtlCallerSession *session;
	EtlDue *due;

	/* the row of the current step */
	int64 id;

	/* the current run */
	EtlActiveRun active;
	EtlRunBegin begun;
	const char *obstacle; /* why its job cannot run any more */
	ErrorData *error;
	bool stopped;	/* by somebody, and not by its timeout */
	bool ends_call; /* that was the caller */
} DueCall;

typedef void (*Step)(DueCall *call);

PG_FUNCTION_INFO_V1(etl_run_due_jobs);

static void check_can_commit(FunctionCallInfo fcinfo);
static void check_is_primary(void);
static void check_role(void);
static bool check_armed(void);
static DueCall *make_call(FunctionCallInfo fcinfo);
static void run_all(DueCall *call);
static bool is_over(const DueCall *call);

static ErrorData *do_step(DueCall *call, Step step, bool sync);
static void commit(bool sync);
static ErrorData *recover(DueCall *call);
static void complain(DueCall *call, ErrorData *error, const char *what);

static void find_runs(DueCall *call);
static void find_jobs(DueCall *call);
static void mark_lost(DueCall *call);
static void give_alert(DueCall *call);
static void claim(DueCall *call);
static void break_job(DueCall *call);
static void claim_all(DueCall *call);
static void do_for_each(DueCall *call, const EtlIds *ids, Step step,
						const char *what);

static void run_one(DueCall *call, int64 job_run_id);
static void try_run(DueCall *call);
static void begin_run(DueCall *call);
static void run_command(DueCall *call);
static ErrorData *execute(DueCall *call);
static void end_run(void *arg);
static void fail_run(DueCall *call);
static void drop_temp(DueCall *call);
static void tell_failure(const DueCall *call);

/* There is a call in this session. */
static bool is_calling = false;

/* The limit of one run's time. */
static bool timeout_registered = false;
static TimeoutId timeout_id;
static volatile sig_atomic_t timed_out = false;

static void start_timeout(const EtlJob *job);
static void stop_timeouts(void);
static void time_is_up(void);

/* ------------------------------------------------------------------ */
/* the call                                                             */

/*
 * etl_run_due_jobs(max_runs, max_runtime): run what is due.
 */
Datum
etl_run_due_jobs(PG_FUNCTION_ARGS)
{
	const char *query = debug_query_string;
	DueCall *call;

	check_can_commit(fcinfo);
	check_is_primary();
	check_role();
	call = make_call(fcinfo);
	if (!check_armed())
		PG_RETURN_VOID();

	/* Of each statement of a command, not of the whole call. */
	disable_timeout(STATEMENT_TIMEOUT, false);
	/* Not every background worker has one. */
	if (MessageContext == NULL)
		MessageContext = AllocSetContextCreate(TopMemoryContext,
											   "MessageContext",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(call->context);
	call->session = etl_caller_session_save();
	call->due = etl_due_make();
	is_calling = true;
	PG_TRY();
	{
		commit(true);
		run_all(call);
	}
	PG_FINALLY();
	{
		is_calling = false;
		etl_job_rows_nowait(false);
		debug_query_string = query;
		if (!IsTransactionState())
			StartTransactionCommand();
	}
	PG_END_TRY();
	EnsurePortalSnapshotExists();
	MemoryContextDelete(call->context);
	PG_RETURN_VOID();
}

/* Throw if a commit is not possible, or an abort would hurt somebody else. */
static void
check_can_commit(FunctionCallInfo fcinfo)
{
	if (fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg(
					 "etl_run_due_jobs() cannot run inside a transaction block"),
				 errdetail("It commits before and after each run of a job."),
				 errhint(
					 "CALL it outside of BEGIN ... COMMIT and not from a function.")));
	if (SPI_inside_nonatomic_context())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg(
					 "etl_run_due_jobs() cannot run inside a procedure or a DO block"),
				 errdetail("A job that fails would end the outer one, too."),
				 errhint("CALL it as a statement of its own.")));
	if (is_calling)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg(
					 "etl_run_due_jobs() cannot run inside a job that it runs")));
}

static void
check_is_primary(void)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("jobs do not run on a standby"),
				 errhint("CALL etl_run_due_jobs() on the primary server.")));
	PreventCommandIfReadOnly("etl_run_due_jobs()");
}

/* Throw if a command could become another role by RESET. */
static void
check_role(void)
{
	Oid role = GetAuthenticatedUserId();

	if (GetUserId() == role && GetSessionUserId() == role)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg(
				 "etl_run_due_jobs() must be called as the role that has logged in"),
			 errdetail("By RESET ROLE or RESET SESSION AUTHORIZATION a job's command could go back from \"%s\" to \"%s\".",
					   GetUserNameFromId(GetUserId(), false),
					   GetUserNameFromId(role, false)),
			 errhint("Log in as \"%s\".",
					 GetUserNameFromId(GetUserId(), false))));
}

/* Throw if jobs are not to run here; false if there has not been any. */
static bool
check_armed(void)
{
	EtlArmed armed = etl_jobs_armed();

	if (armed == ETL_ARMED_NOWHERE)
	{
		EtlJobScan *scan = etl_job_scan_all();
		bool found = etl_job_scan_next(scan) != NULL;

		etl_job_scan_end(scan);
		if (!found)
			return false;
	}
	if (armed != ETL_ARMED_HERE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the jobs of this database are not armed here"),
				 armed == ETL_ARMED_NOWHERE ?
					 0 :
					 errdetail(
						 "The database was restored or copied from the one that they ran in."),
				 errhint(
					 "If they are to run here, SELECT etl_job_arm() as the owner of the database.")));
	return true;
}

/* From the arguments; below the portal, so that it outlives transactions. */
static DueCall *
make_call(FunctionCallInfo fcinfo)
{
	MemoryContext context = AllocSetContextCreate(PortalContext, "etl due jobs",
												  ALLOCSET_DEFAULT_SIZES);
	DueCall *call = MemoryContextAllocZero(context, sizeof(DueCall));

	call->context = context;
	call->step = AllocSetContextCreate(context, "etl due step",
									   ALLOCSET_DEFAULT_SIZES);
	call->runs_left = PG_ARGISNULL(0) ? -1 : PG_GETARG_INT32(0);
	if (!PG_ARGISNULL(0) && call->runs_left <= 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("parameter \"%s\" must be greater than zero",
							   "max_runs")));
	if (!PG_ARGISNULL(1))
	{
		TimestampTz now = GetCurrentTimestamp();

		call->end = DatumGetTimestampTz(
			DirectFunctionCall2(timestamptz_pl_interval,
								TimestampTzGetDatum(now), PG_GETARG_DATUM(1)));
		if (call->end <= now)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("parameter \"%s\" must be greater than zero",
								   "max_runtime")));
	}
	return call;
}

/* Until nothing is due. */
static void
run_all(DueCall *call)
{
	bool first = true;
	bool progress = true;

	while (progress && !is_over(call))
	{
		progress = false;
		complain(call, do_step(call, find_runs, false), "could not read runs");
		if (first)
		{
			do_for_each(call, &call->due->lost, mark_lost,
						"could not give up a run that is lost");
			do_for_each(call, &call->due->late, give_alert,
						"could not give an alert");
		}
		complain(call, do_step(call, find_jobs, false), "could not read jobs");
		claim_all(call);
		complain(call, do_step(call, find_runs, false), "could not read runs");
		for (int i = 0; i < call->due->nruns && !is_over(call); i++)
		{
			run_one(call, call->due->runs[i].job_run_id);
			progress |= call->begun == ETL_BEGIN_OK;
		}
		first = false;
	}
}

/* Is a limit of the call reached? */
static bool
is_over(const DueCall *call)
{
	CHECK_FOR_INTERRUPTS();
	return call->runs_left == 0 ||
		   (call->end != 0 && GetCurrentTimestamp() >= call->end);
}

/* ------------------------------------------------------------------ */
/* transactions                                                         */

/*
 * Do something in a transaction of its own; an error undoes it, and is
 * returned.
 */
static ErrorData *
do_step(DueCall *call, Step step, bool sync)
{
	ErrorData *volatile error = NULL;

	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		MemoryContextSwitchTo(call->step);
		EnsurePortalSnapshotExists();
		step(call);
		commit(sync);
	}
	PG_CATCH();
	{
		error = recover(call);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(call->step);
	return error;
}

/*
 * Commit.  What could be done once more after a crash need not wait for the
 * disk.
 */
static void
commit(bool sync)
{
	if (!sync)
		(void) set_config_option("synchronous_commit", "off", PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0,
								 false);
	ForgetPortalSnapshots();
	CommitTransactionCommand();
	(void) pgstat_report_stat(false);
}

/*
 * In a PG_CATCH(): end the transaction, whatever is left of it, and return the
 * error.
 */
static ErrorData *
recover(DueCall *call)
{
	ErrorData *error;

	MemoryContextSwitchTo(call->step);
	error = CopyErrorData();
	FlushErrorState();
	ActivePortal->portalSnapshot = NULL;
	AbortOutOfAnyTransaction();
	etl_execute_clean_up();
	MemoryContextSwitchTo(call->step);
	return error;
}

/*
 * An error of ours, not of a command, is a warning, so that it costs one job;
 * but a cancel is for the call.
 */
static void
complain(DueCall *call, ErrorData *error, const char *what)
{
	if (error == NULL)
		return;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(error);
	ereport(WARNING,
			(errcode(error->sqlerrcode), errmsg("%s: %s", what, error->message),
			 error->detail == NULL ? 0 : errdetail_internal("%s", error->detail),
			 error->hint == NULL ? 0 : errhint("%s", error->hint)));
}

/* ------------------------------------------------------------------ */
/* what is due                                                          */

static void
find_runs(DueCall *call)
{
	etl_due_find_runs(call->due);
}

static void
find_jobs(DueCall *call)
{
	etl_due_find_jobs(call->due);
}

/* A step that leaves alone what another session has locked. */
static ErrorData *
do_step_nowait(DueCall *call, Step step)
{
	ErrorData *error;

	etl_job_rows_nowait(true);
	error = do_step(call, step, false);
	etl_job_rows_nowait(false);
	return error;
}

/* A step for each row, so that one that fails does not stop the others. */
static void
do_for_each(DueCall *call, const EtlIds *ids, Step step, const char *what)
{
	for (int i = 0; i < ids->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		call->id = ids->ids[i];
		complain(call, do_step_nowait(call, step), what);
		MemoryContextReset(call->step);
	}
}

static void
mark_lost(DueCall *call)
{
	(void) etl_run_mark_lost(call->id, "process gone", false);
}

static void
give_alert(DueCall *call)
{
	(void) etl_alert_late(call->id, etl_job_now());
}

static void
claim(DueCall *call)
{
	etl_due_claim(call->due, call->id);
}

static void
break_job(DueCall *call)
{
	EtlJob *job = etl_job_by_id(call->id, ETL_ROW_LOCK_SKIP);

	if (job != NULL)
		etl_job_break(job, call->error->message);
}

/* Slots and files of all jobs; a job that no patience mends is broken. */
static void
claim_all(DueCall *call)
{
	for (int i = 0; i < call->due->claims.n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		call->id = call->due->claims.ids[i];
		call->error = do_step_nowait(call, claim);
		complain(call, call->error, "could not claim slots of a job");
		if (call->error != NULL && !etl_error_is_retried(call->error->sqlerrcode))
			complain(call, do_step_nowait(call, break_job),
					 "could not mark a job as broken");
		MemoryContextReset(call->step);
	}
}

/* ------------------------------------------------------------------ */
/* one run                                                              */

/* Run it, if it is still to be had. */
static void
run_one(DueCall *call, int64 job_run_id)
{
	call->id = job_run_id;
	call->error = NULL;
	call->stopped = call->ends_call = false;
	call->begun = ETL_BEGIN_GONE;
	memset(&call->active, 0, sizeof(EtlActiveRun));
	PG_TRY();
	{
		try_run(call);
	}
	PG_CATCH();
	{
		etl_run_unlock(&call->active);
		PG_RE_THROW();
	}
	PG_END_TRY();
	etl_run_unlock(&call->active);
	if (call->ends_call)
		ReThrowError(call->error);
	MemoryContextReset(call->step);
}

static void
try_run(DueCall *call)
{
	ErrorData *error = do_step(call, begin_run, false);

	if (error != NULL)
		call->begun = ETL_BEGIN_GONE;
	complain(call, error, "could not begin a run");
	if (call->begun == ETL_BEGIN_OK)
		run_command(call);
}

/* The first transaction. */
static void
begin_run(DueCall *call)
{
	call->begun = etl_run_begin(&call->active, call->id);
	if (call->begun != ETL_BEGIN_OK)
		return;
	call->obstacle = etl_job_cannot_run(call->active.job);
	etl_caller_session_hide(call->session);
	etl_run_set_variables(&call->active);
}

/* The transactions of the command, and of what follows. */
static void
run_command(DueCall *call)
{
	if (call->runs_left > 0)
		call->runs_left--;
	call->error = execute(call);
	if (call->error != NULL)
	{
		complain(call, do_step(call, fail_run, true),
				 "could not write the end of a run");
		if (!call->ends_call)
			tell_failure(call);
	}
	if (etl_caller_session_may_drop_temp(call->session))
		complain(call, do_step(call, drop_temp, false),
				 "could not drop temporary objects of a job");
}

static ErrorData *
execute(DueCall *call)
{
	const char *query = debug_query_string;
	ErrorData *volatile error = NULL;

	start_timeout(call->active.job);
	PG_TRY();
	{
		if (call->obstacle != NULL)
			ereport(ERROR, (errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
							errmsg("job \"%s\" cannot run: %s",
								   call->active.job->name, call->obstacle)));
		etl_execute(call->active.job->command, end_run, call);
	}
	PG_CATCH();
	{
		error = recover(call);
	}
	PG_END_TRY();
	stop_timeouts();
	MemoryContextSwitchTo(call->step);
	if (error != NULL && timed_out)
		error->message = "canceling the run because of its job's timeout";
	debug_query_string = query;
	pgstat_report_activity(STATE_RUNNING, query);
	return error;
}

/* In the last transaction of a command that has done its work. */
static void
end_run(void *arg)
{
	DueCall *call = arg;

	etl_caller_session_restore(call->session);
	etl_run_succeed(&call->active);
}

/*
 * The transaction after a command that failed.  Who stops a run from another
 * session leaves a reason in its row, and commits it before this transaction
 * can lock the row; without one it was the caller who has canceled, and means
 * the call.
 */
static void
fail_run(DueCall *call)
{
	EtlJobRun *run;
	bool stopped_by_other;

	etl_caller_session_restore(call->session);
	(void) etl_job_by_id(call->active.run->job_id, ETL_ROW_LOCK);
	run = etl_job_run_by_id(call->id, ETL_ROW_LOCK);
	stopped_by_other = run != NULL && run->reason != NULL;
	etl_run_fail(&call->active, call->error, timed_out);
	run = etl_job_run_by_id(call->id, ETL_ROW_READ);
	call->stopped = run != NULL && run->status == ETL_RUN_STOPPED;
	call->ends_call = call->stopped && !stopped_by_other;
}

static void
drop_temp(DueCall *call)
{
	etl_caller_session_drop_temp(call->session);
}

/* The caller hears of it, too. */
static void
tell_failure(const DueCall *call)
{
	const ErrorData *error = call->error;
	const char *job = call->active.job->name;

	if (call->stopped)
		ereport(WARNING, (errcode(error->sqlerrcode),
						  errmsg("job \"%s\" was stopped", job)));
	else
		ereport(WARNING, (errcode(error->sqlerrcode),
						  errmsg("job \"%s\" failed: %s", job, error->message),
						  error->detail == NULL ?
							  0 :
							  errdetail_internal("%s", error->detail)));
}

/* ------------------------------------------------------------------ */
/* timeouts                                                             */

/*
 * Cancel the command when its time is up, and again each time that it has
 * caught that and gone on.
 */
static void
start_timeout(const EtlJob *job)
{
	timed_out = false;
	if (!job->has_timeout)
		return;
	if (!timeout_registered)
		timeout_id = RegisterTimeout(USER_TIMEOUT, time_is_up);
	timeout_registered = true;
	enable_timeout_every(timeout_id,
						 GetCurrentTimestamp() + etl_interval_usec(&job->timeout),
						 Max(etl_cancel_grace, 1) * 1000);
}

/*
 * The command has ended, and with it the limits of its time: what they cancel
 * now is nobody's.
 */
static void
stop_timeouts(void)
{
	disable_timeout(STATEMENT_TIMEOUT, true);
	if (timeout_registered)
		disable_timeout(timeout_id, false);
	if (get_timeout_indicator(STATEMENT_TIMEOUT, true) || timed_out)
		QueryCancelPending = false;
}

/* Runs in a signal handler. */
static void
time_is_up(void)
{
	timed_out = true;
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}
