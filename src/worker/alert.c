/*-------------------------------------------------------------------------
 *
 * alert.c
 *	  Alerts: what somebody should know of a job or a pipeline.
 *
 * An alert is a row of etl_patterns.alert, written in the transaction of the
 * change that it is about, so that there is one for each change and none for
 * what did not come to be.  The row waits until its owner drains it.  A NOTIFY
 * says that there is one; it is only a hint, whoever misses it finds the row.
 * It holds no names, since every role may LISTEN.
 *
 * No row is waited for: what another session drains is passed over.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "commands/async.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#include "etl_patterns.h"
#include "flow/flow.h"
#include "worker/job.h"

/* Columns of etl_patterns.alert */
enum
{
	ALERT_ID,
	ALERT_ROLE,
	ALERT_KIND,
	ALERT_JOB_ID,
	ALERT_JOB,
	ALERT_RUN_ID,
	ALERT_SLOT,
	ALERT_ERROR_CODE,
	ALERT_MESSAGE,
	ALERT_CREATED_AT,
	ALERT_PIPELINE_ID,
	ALERT_PIPELINE,
	ALERT_NATTS
};

#define ALERT_CHANNEL "etl_alert"

/* A fuller queue than this gets no more from us. */
#define QUEUE_ALMOST_FULL 0.9

static const char *const kind_words[] =
	{"failed", "still_running", "never_started", "broken", "recovered",
	 "paused", "lost",			"slot_retained", NULL};

PG_FUNCTION_INFO_V1(etl_alert_drain);

/* ------------------------------------------------------------------ */
/* giving                                                               */

/*
 * Notify those who listen.  With a full queue the commit would fail, and with
 * it the change that the alert is about, so that it is left alone before that.
 */
static void
notify(int64 alert_id, EtlAlertKind kind)
{
	double used = DatumGetFloat8(
		DirectFunctionCall1(pg_notification_queue_usage, (Datum) 0));
	char *payload;

	if (used > QUEUE_ALMOST_FULL)
		return;
	payload = psprintf("{\"alert_id\": " INT64_FORMAT ", \"kind\": \"%s\"}",
					   alert_id, kind_words[kind]);
	Async_Notify(ALERT_CHANNEL, payload);
	pfree(payload);
}

/* Store an alert whose other columns are set, and say so. */
static void
store(EtlAlertKind kind, Oid role, const char *error_code, const char *message,
	  Datum *values, bool *nulls)
{
	Relation rel = etl_ledger_open("alert", ALERT_NATTS, RowExclusiveLock);
	int64 alert_id = etl_ledger_next_id("alert_id_seq");

	values[ALERT_ID] = Int64GetDatum(alert_id);
	values[ALERT_ROLE] = ObjectIdGetDatum(role);
	values[ALERT_KIND] = CStringGetTextDatum(kind_words[kind]);
	etl_ledger_set_text(&values[ALERT_ERROR_CODE], &nulls[ALERT_ERROR_CODE],
						error_code);
	values[ALERT_MESSAGE] = CStringGetTextDatum(
		message == NULL ? kind_words[kind] : etl_ledger_clip(message));
	values[ALERT_CREATED_AT] = TimestampTzGetDatum(etl_job_now());
	etl_ledger_insert(rel, values, nulls);
	table_close(rel, NoLock);
	notify(alert_id, kind);
}

/*
 * Give an alert of a job, in this transaction.  Of the run, the error and its
 * code each may be NULL.
 */
void
etl_alert(EtlAlertKind kind, const EtlJob *job, const EtlJobRun *run,
		  const char *error_code, const char *message)
{
	Datum values[ALERT_NATTS] = {0};
	bool nulls[ALERT_NATTS] = {0};

	values[ALERT_JOB_ID] = Int64GetDatum(job->job_id);
	values[ALERT_JOB] = CStringGetTextDatum(job->name);
	nulls[ALERT_PIPELINE_ID] = nulls[ALERT_PIPELINE] = true;
	nulls[ALERT_RUN_ID] = nulls[ALERT_SLOT] = run == NULL;
	if (run != NULL)
	{
		values[ALERT_RUN_ID] = Int64GetDatum(run->job_run_id);
		values[ALERT_SLOT] = TimestampTzGetDatum(run->slot);
	}
	store(kind, job->role, error_code, message, values, nulls);
}

/* The same of a pipeline. */
void
etl_alert_pipeline(EtlAlertKind kind, const EtlCdcPipeline *pipeline,
				   const char *error_code, const char *message)
{
	Datum values[ALERT_NATTS] = {0};
	bool nulls[ALERT_NATTS] = {0};

	values[ALERT_PIPELINE_ID] = Int64GetDatum(pipeline->pipeline_id);
	values[ALERT_PIPELINE] = CStringGetTextDatum(pipeline->name);
	nulls[ALERT_JOB_ID] = nulls[ALERT_JOB] = true;
	nulls[ALERT_RUN_ID] = nulls[ALERT_SLOT] = true;
	store(kind, pipeline->role, error_code, message, values, nulls);
}

/* ------------------------------------------------------------------ */
/* runs that are late                                                   */

/*
 * When a run that has not ended is late, if it has not begun, or not ended,
 * by then; 0: never, or it was told already.  That it began late and that it
 * takes long are two alerts.  Runs of a backfill are not late, since they wait
 * for all others, nor is what a broken job does not do.
 */
TimestampTz
etl_alert_due(const EtlJob *job, const EtlJobRun *run)
{
	TimestampTz since = 0;

	if (!job->has_alert_after)
		return 0;
	if (run->status == ETL_RUN_RUNNING && run->alerted_at < run->started_at)
		since = run->started_at;
	if (run->status == ETL_RUN_WAITING && run->alerted_at == 0 &&
		run->origin != ETL_ORIGIN_BACKFILL && job->state != ETL_JOB_BROKEN)
		since = run->due_at;
	return since == 0 ? 0 : since + etl_interval_usec(&job->alert_after);
}

/* Does a run of the job wait whose lateness was told? */
static bool
has_late_waiting(int64 job_id)
{
	EtlJobRunScan *scan = etl_job_run_scan_unfinished_of(job_id);
	bool found = false;
	EtlJobRun *run;

	while (!found && (run = etl_job_run_scan_next(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		found = run->status == ETL_RUN_WAITING && run->alerted_at != 0;
	}
	etl_job_run_scan_end(scan);
	return found;
}

/*
 * Give the alert of a run that is late at the given time, and note in the run
 * that it was given.  False if there is nothing to tell, or if another
 * transaction has the run locked: ask again later.
 *
 * Where many runs of a job wait for each other they all become late, but only
 * the first one is told: the others are noted silently.
 */
bool
etl_alert_late(int64 job_run_id, TimestampTz now)
{
	EtlJobRun *run = etl_job_run_by_id(job_run_id, ETL_ROW_LOCK_SKIP);
	EtlJob *job = run == NULL ? NULL : etl_job_by_id(run->job_id, ETL_ROW_READ);
	TimestampTz due = job == NULL ? 0 : etl_alert_due(job, run);
	bool running;
	bool told;
	int64 seconds;

	if (due == 0 || due > now)
		return false;
	running = run->status == ETL_RUN_RUNNING;
	seconds = (now - (running ? run->started_at : run->due_at)) / USECS_PER_SEC;
	told = running || !has_late_waiting(run->job_id);
	if (told)
		etl_alert(running ? ETL_ALERT_STILL_RUNNING : ETL_ALERT_NEVER_STARTED,
				  job, run, NULL,
				  psprintf(running ? "still running " INT64_FORMAT
									 " seconds after its start" :
									 "not started " INT64_FORMAT
									 " seconds after it was due",
						   seconds));
	run->alerted_at = now;
	etl_job_run_update(run);
	return told;
}

/* ------------------------------------------------------------------ */
/* taking                                                               */

/* A scan over all alerts, oldest first. */
typedef struct AlertScan
{
	MemoryContext context; /* what an index allocates must outlive a row */
	Relation rel;
	Relation index;
	Snapshot snapshot;
	SysScanDesc scan;
} AlertScan;

static void
begin_scan(AlertScan *scan)
{
	scan->context = CurrentMemoryContext;
	scan->rel = etl_ledger_open("alert", ALERT_NATTS, RowExclusiveLock);
	scan->index = index_open(etl_ledger_relid("alert_pkey"), AccessShareLock);
	scan->snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan->scan = systable_beginscan_ordered(scan->rel, scan->index,
											scan->snapshot, 0, NULL);
}

/* The next one; NULL at the end. */
static HeapTuple
next_alert(AlertScan *scan)
{
	MemoryContext old_context = MemoryContextSwitchTo(scan->context);
	HeapTuple tuple = systable_getnext_ordered(scan->scan, ForwardScanDirection);

	MemoryContextSwitchTo(old_context);
	return tuple;
}

static void
end_scan(AlertScan *scan)
{
	systable_endscan_ordered(scan->scan);
	UnregisterSnapshot(scan->snapshot);
	index_close(scan->index, AccessShareLock);
	table_close(scan->rel, NoLock);
}

/* A column; 0 for null. */
static Datum
column(AlertScan *scan, HeapTuple tuple, int column)
{
	bool null;

	return heap_getattr(tuple, column + 1, etl_ledger_desc(scan->rel), &null);
}

/* Is it an alert of a role whose rights the caller has? */
static bool
is_ours(AlertScan *scan, HeapTuple tuple)
{
	return etl_ledger_is_ours(DatumGetObjectId(column(scan, tuple, ALERT_ROLE)));
}

/* Delete an alert that a scan found; NULL if another session has it. */
static HeapTuple
take(AlertScan *scan, HeapTuple tuple)
{
	HeapTuple taken = etl_ledger_lock(scan->rel, tuple, LockWaitSkip);

	if (HeapTupleIsValid(taken))
		etl_ledger_delete(scan->rel, &taken->t_self);
	return taken;
}

/*
 * etl_alert_drain(n): delete and return the caller's oldest alerts.  They are
 * back if the caller's transaction does not commit.
 */
Datum
etl_alert_drain(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	int32 left = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT32(0);
	MemoryContext row_context;
	MemoryContext old_context;
	AlertScan scan;
	HeapTuple tuple;

	PreventCommandIfReadOnly("etl_alert_drain()");
	etl_refuse_null(fcinfo, 0, "n");
	if (left <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s\" must be greater than zero", "n")));
	InitMaterializedSRF(fcinfo, 0);
	row_context = AllocSetContextCreate(CurrentMemoryContext, "etl alert",
										ALLOCSET_DEFAULT_SIZES);
	begin_scan(&scan);
	old_context = MemoryContextSwitchTo(row_context);
	while (left > 0 && HeapTupleIsValid(tuple = next_alert(&scan)))
	{
		CHECK_FOR_INTERRUPTS();
		if (is_ours(&scan, tuple) && HeapTupleIsValid(tuple = take(&scan, tuple)))
		{
			tuplestore_puttuple(result->setResult, tuple);
			left--;
		}
		MemoryContextReset(row_context);
	}
	MemoryContextSwitchTo(old_context);
	end_scan(&scan);
	MemoryContextDelete(row_context);
	return (Datum) 0;
}

/*
 * Delete alerts that are older than a time, of one job or all (0), and only
 * the caller's own or those of all roles.
 */
void
etl_alert_purge(TimestampTz before, int64 job_id, bool only_ours)
{
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext,
													  "etl alert",
													  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old_context;
	AlertScan scan;
	HeapTuple tuple;

	begin_scan(&scan);
	old_context = MemoryContextSwitchTo(row_context);
	/* Numbers and times grow together, or almost. */
	while (HeapTupleIsValid(tuple = next_alert(&scan)) &&
		   DatumGetTimestampTz(column(&scan, tuple, ALERT_CREATED_AT)) < before)
	{
		CHECK_FOR_INTERRUPTS();
		if ((job_id == 0 ||
			 DatumGetInt64(column(&scan, tuple, ALERT_JOB_ID)) == job_id) &&
			(!only_ours || is_ours(&scan, tuple)))
			(void) take(&scan, tuple);
		MemoryContextReset(row_context);
	}
	MemoryContextSwitchTo(old_context);
	end_scan(&scan);
	MemoryContextDelete(row_context);
}
