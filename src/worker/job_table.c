/*-------------------------------------------------------------------------
 *
 * job_table.c
 *	  The rows of etl_patterns.job.
 *
 * They are read as they are now, at every isolation level, and without regard
 * to whose they are: etl_job_of_caller() is for what users name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/tuptable.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#include "etl_patterns.h"
#include "worker/job.h"

/* Columns of etl_patterns.job */
enum
{
	JOB_ID,
	JOB_NAME,
	JOB_ROLE,
	JOB_SCHEDULE,
	JOB_TIMEZONE,
	JOB_COMMAND,
	JOB_OVERLAP,
	JOB_CATCHUP,
	JOB_MAX_ATTEMPTS,
	JOB_RETRY_DELAY,
	JOB_RETRY_MAX_DELAY,
	JOB_TIMEOUT,
	JOB_ALERT_AFTER,
	JOB_START_AT,
	JOB_STATE,
	JOB_REASON,
	JOB_NEXT_SLOT,
	JOB_AFTER_JOB,
	JOB_EVENT,
	JOB_FAILING_SINCE,
	JOB_CREATED_AT,
	JOB_ALTERED_AT,
	JOB_PURGED_RUNS,
	JOB_NATTS
};

const char *const etl_job_state_words[] = {"active", "paused", "broken", "done",
										   NULL};
const char *const etl_overlap_words[] = {"forbid", "queue", "replace", "allow",
										 NULL};
const char *const etl_catchup_words[] = {"skip", "once", "all", NULL};

struct EtlJobScan
{
	MemoryContext context; /* what an index allocates must outlive a row */
	Relation rel;
	Snapshot snapshot;
	SysScanDesc scan;
};

/* A row as a struct, in the current memory context. */
static EtlJob *
job_from_tuple(Relation rel, HeapTuple tuple)
{
	EtlJob *job = palloc0(sizeof(EtlJob));
	Datum values[JOB_NATTS];
	bool nulls[JOB_NATTS];

	heap_deform_tuple(tuple, etl_ledger_desc(rel), values, nulls);
	job->place = tuple->t_self;
	job->job_id = DatumGetInt64(values[JOB_ID]);
	job->name = TextDatumGetCString(values[JOB_NAME]);
	job->role = DatumGetObjectId(values[JOB_ROLE]);
	job->schedule = TextDatumGetCString(values[JOB_SCHEDULE]);
	job->timezone = TextDatumGetCString(values[JOB_TIMEZONE]);
	job->command = TextDatumGetCString(values[JOB_COMMAND]);
	job->overlap = etl_ledger_get_word(values[JOB_OVERLAP], etl_overlap_words);
	job->catchup = etl_ledger_get_word(values[JOB_CATCHUP], etl_catchup_words);
	job->max_attempts = DatumGetInt32(values[JOB_MAX_ATTEMPTS]);
	job->retry_delay = *DatumGetIntervalP(values[JOB_RETRY_DELAY]);
	job->retry_max_delay = *DatumGetIntervalP(values[JOB_RETRY_MAX_DELAY]);
	job->has_timeout = !nulls[JOB_TIMEOUT];
	if (job->has_timeout)
		job->timeout = *DatumGetIntervalP(values[JOB_TIMEOUT]);
	job->has_alert_after = !nulls[JOB_ALERT_AFTER];
	if (job->has_alert_after)
		job->alert_after = *DatumGetIntervalP(values[JOB_ALERT_AFTER]);
	job->start_at = nulls[JOB_START_AT] ?
						DT_NOBEGIN :
						DatumGetTimestampTz(values[JOB_START_AT]);
	job->state = etl_ledger_get_word(values[JOB_STATE], etl_job_state_words);
	job->reason = etl_ledger_get_text(values, nulls, JOB_REASON);
	job->next_slot = etl_ledger_get_time(values, nulls, JOB_NEXT_SLOT);
	if (!nulls[JOB_AFTER_JOB])
		job->after_job = DatumGetInt64(values[JOB_AFTER_JOB]);
	job->event = etl_ledger_get_text(values, nulls, JOB_EVENT);
	job->failing_since = etl_ledger_get_time(values, nulls, JOB_FAILING_SINCE);
	job->created_at = etl_ledger_get_time(values, nulls, JOB_CREATED_AT);
	job->altered_at = etl_ledger_get_time(values, nulls, JOB_ALTERED_AT);
	if (!nulls[JOB_PURGED_RUNS])
		job->purged_runs = DatumGetArrayTypePCopy(values[JOB_PURGED_RUNS]);
	return job;
}

/* A struct as the columns of a row. */
static void
job_to_values(EtlJob *job, Datum *values, bool *nulls)
{
	memset(nulls, 0, sizeof(bool) * JOB_NATTS);
	values[JOB_ID] = Int64GetDatum(job->job_id);
	values[JOB_NAME] = CStringGetTextDatum(job->name);
	values[JOB_ROLE] = ObjectIdGetDatum(job->role);
	values[JOB_SCHEDULE] = CStringGetTextDatum(job->schedule);
	values[JOB_TIMEZONE] = CStringGetTextDatum(job->timezone);
	values[JOB_COMMAND] = CStringGetTextDatum(job->command);
	values[JOB_OVERLAP] = CStringGetTextDatum(etl_overlap_words[job->overlap]);
	values[JOB_CATCHUP] = CStringGetTextDatum(etl_catchup_words[job->catchup]);
	values[JOB_MAX_ATTEMPTS] = Int32GetDatum(job->max_attempts);
	values[JOB_RETRY_DELAY] = IntervalPGetDatum(&job->retry_delay);
	values[JOB_RETRY_MAX_DELAY] = IntervalPGetDatum(&job->retry_max_delay);
	values[JOB_TIMEOUT] = IntervalPGetDatum(&job->timeout);
	nulls[JOB_TIMEOUT] = !job->has_timeout;
	values[JOB_ALERT_AFTER] = IntervalPGetDatum(&job->alert_after);
	nulls[JOB_ALERT_AFTER] = !job->has_alert_after;
	values[JOB_START_AT] = TimestampTzGetDatum(job->start_at);
	nulls[JOB_START_AT] = TIMESTAMP_IS_NOBEGIN(job->start_at);
	values[JOB_STATE] = CStringGetTextDatum(etl_job_state_words[job->state]);
	etl_ledger_set_text(&values[JOB_REASON], &nulls[JOB_REASON], job->reason);
	etl_ledger_set_time(values, nulls, JOB_NEXT_SLOT, job->next_slot);
	etl_ledger_set_int64(&values[JOB_AFTER_JOB], &nulls[JOB_AFTER_JOB],
						 job->after_job, 0);
	etl_ledger_set_text(&values[JOB_EVENT], &nulls[JOB_EVENT], job->event);
	etl_ledger_set_time(values, nulls, JOB_FAILING_SINCE, job->failing_since);
	etl_ledger_set_time(values, nulls, JOB_CREATED_AT, job->created_at);
	etl_ledger_set_time(values, nulls, JOB_ALTERED_AT, job->altered_at);
	values[JOB_PURGED_RUNS] = PointerGetDatum(job->purged_runs);
	nulls[JOB_PURGED_RUNS] = job->purged_runs == NULL;
}

/* ------------------------------------------------------------------ */
/* scans                                                                */

/*
 * What rows are seen by, if they are looked up and not changed meanwhile.  At
 * isolation level serializable a look by an ordinary snapshot would count as a
 * read by the user: runs at the same time look at the same pages and change
 * them, and would fail because of each other.  There the rows are seen one by
 * one, each as it is committed at that moment.
 */
Snapshot
etl_job_snapshot(void)
{
	if (IsolationIsSerializable())
		return SnapshotSelf;
	return RegisterSnapshot(GetLatestSnapshot());
}

void
etl_job_snapshot_end(Snapshot snapshot)
{
	if (snapshot != SnapshotSelf)
		UnregisterSnapshot(snapshot);
}

/* All rows, or those whose column of an index has a value. */
static EtlJobScan *
begin_scan(const char *index, ScanKey key, LOCKMODE lockmode)
{
	EtlJobScan *scan = palloc(sizeof(EtlJobScan));

	scan->context = CurrentMemoryContext;
	scan->rel = etl_ledger_open("job", JOB_NATTS, lockmode);
	scan->snapshot = index == NULL ? RegisterSnapshot(GetLatestSnapshot()) :
									 etl_job_snapshot();
	scan->scan = systable_beginscan(scan->rel,
									index == NULL ? InvalidOid :
													etl_ledger_relid(index),
									index != NULL, scan->snapshot,
									index == NULL ? 0 : 1, key);
	return scan;
}

/* All jobs. */
EtlJobScan *
etl_job_scan_all(void)
{
	return begin_scan(NULL, NULL, AccessShareLock);
}

/* The jobs "on <event>". */
EtlJobScan *
etl_job_scan_event(const char *event)
{
	ScanKeyData key;

	ScanKeyInit(&key, JOB_EVENT + 1, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(event));
	return begin_scan("job_event_idx", &key, AccessShareLock);
}

/* The jobs "after <job>". */
EtlJobScan *
etl_job_scan_after(int64 job_id)
{
	ScanKeyData key;

	ScanKeyInit(&key, JOB_AFTER_JOB + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(job_id));
	return begin_scan("job_after_job_idx", &key, AccessShareLock);
}

/* The next one, in the current memory context; NULL at the end. */
EtlJob *
etl_job_scan_next(EtlJobScan *scan)
{
	MemoryContext old_context = MemoryContextSwitchTo(scan->context);
	HeapTuple tuple = systable_getnext(scan->scan);

	MemoryContextSwitchTo(old_context);
	return HeapTupleIsValid(tuple) ? job_from_tuple(scan->rel, tuple) : NULL;
}

void
etl_job_scan_end(EtlJobScan *scan)
{
	systable_endscan(scan->scan);
	etl_job_snapshot_end(scan->snapshot);
	table_close(scan->rel, NoLock);
	pfree(scan);
}

/* ------------------------------------------------------------------ */
/* one row                                                              */

/*
 * Is a row that somebody holds an error?  Who works for all roles must not wait
 * for the transaction of one.
 */
static bool rows_nowait = false;

void
etl_job_rows_nowait(bool nowait)
{
	rows_nowait = nowait;
}

/* A row of a job or run that was found, locked or as it is. */
HeapTuple
etl_job_lock_row(Relation rel, HeapTuple tuple, EtlRowLock lock)
{
	switch (lock)
	{
		case ETL_ROW_READ:
			break;
		case ETL_ROW_LOCK:
			return etl_ledger_lock(rel, tuple,
								   rows_nowait ? LockWaitError : LockWaitBlock);
		case ETL_ROW_LOCK_SKIP:
			return etl_ledger_lock(rel, tuple, LockWaitSkip);
	}
	return tuple;
}

/* The only row that a scan key finds, locked or not; NULL without one. */
static EtlJob *
find_job(const char *index, ScanKey key, EtlRowLock lock)
{
	EtlJobScan *scan = begin_scan(index, key,
								  lock == ETL_ROW_READ ? AccessShareLock :
														 RowExclusiveLock);
	HeapTuple tuple = systable_getnext(scan->scan);
	EtlJob *job = NULL;

	if (HeapTupleIsValid(tuple))
		tuple = etl_job_lock_row(scan->rel, tuple, lock);
	if (HeapTupleIsValid(tuple))
		job = job_from_tuple(scan->rel, tuple);
	etl_job_scan_end(scan);
	return job;
}

/* The job of that number, in the current memory context; NULL without one. */
EtlJob *
etl_job_by_id(int64 job_id, EtlRowLock lock)
{
	ScanKeyData key;

	ScanKeyInit(&key, JOB_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(job_id));
	return find_job("job_pkey", &key, lock);
}

/*
 * The job of that name, whoever's it is.  While the row was being locked it
 * may have got another name.
 */
EtlJob *
etl_job_by_name(const char *name, EtlRowLock lock)
{
	ScanKeyData key;
	EtlJob *job;

	ScanKeyInit(&key, JOB_NAME + 1, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(name));
	job = find_job("job_job_key", &key, lock);
	return job != NULL && strcmp(job->name, name) == 0 ? job : NULL;
}

/*
 * The job that a user names.  Of jobs of other roles nobody learns even that
 * they exist.
 */
EtlJob *
etl_job_of_caller(const char *name, EtlRowLock lock)
{
	EtlJob *job = etl_job_by_name(name, ETL_ROW_READ);

	if (job != NULL && etl_ledger_is_ours(job->role) && lock != ETL_ROW_READ)
		job = etl_job_by_name(name, lock);
	if (job == NULL || !etl_ledger_is_ours(job->role))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("job \"%s\" does not exist", name),
				 errhint("The jobs that you may use are in the view %s.job_status.",
						 ETL_SCHEMA)));
	return job;
}

/* Store a new job; it gets its number. */
void
etl_job_insert(EtlJob *job)
{
	Datum values[JOB_NATTS];
	bool nulls[JOB_NATTS];

	job->job_id = etl_ledger_next_id("job_id_seq");
	job_to_values(job, values, nulls);
	etl_ledger_insert_into("job", JOB_NATTS, values, nulls);
}

/*
 * The command as it is stored.  It may be long: written anew with each claim it
 * would be most of what a claim does.
 */
static Datum
stored_command(Relation rel, EtlJob *job)
{
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	Datum command;
	bool null;

	if (!table_tuple_fetch_row_version(rel, &job->place, SnapshotAny, slot))
		elog(ERROR, "job " INT64_FORMAT " is not where it was", job->job_id);
	command = datumCopy(slot_getattr(slot, JOB_COMMAND + 1, &null), false, -1);
	ExecDropSingleTupleTableSlot(slot);
	return command;
}

/* Store what was changed in a job that was read with a lock. */
void
etl_job_update(EtlJob *job)
{
	Relation rel = etl_ledger_open("job", JOB_NATTS, RowExclusiveLock);
	Datum values[JOB_NATTS];
	bool nulls[JOB_NATTS];

	job_to_values(job, values, nulls);
	if (!job->has_new_command)
		values[JOB_COMMAND] = stored_command(rel, job);
	etl_ledger_replace(rel, &job->place, values, nulls);
	table_close(rel, NoLock);
}

/* Delete a job that was read with a lock. */
void
etl_job_delete(EtlJob *job)
{
	etl_ledger_delete_from("job", JOB_NATTS, &job->place);
}

/* ------------------------------------------------------------------ */

/* When a job runs, in the current memory context. */
EtlSchedule *
etl_job_schedule(const EtlJob *job)
{
	return etl_schedule_parse(job->schedule, job->timezone);
}

/* An interval in microseconds: a month has 30 days here, a day 24 hours. */
int64
etl_interval_usec(const Interval *interval)
{
	return interval->time +
		   (interval->day + interval->month * (int64) DAYS_PER_MONTH) *
			   USECS_PER_DAY;
}
