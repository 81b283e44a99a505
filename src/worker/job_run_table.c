/*-------------------------------------------------------------------------
 *
 * job_run_table.c
 *	  The rows of etl_patterns.job_run.
 *
 * They are read as they are now, at every isolation level, and without regard
 * to whose they are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "executor/tuptable.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#include "worker/job.h"

/* Columns of etl_patterns.job_run */
enum
{
	RUN_ID,
	RUN_JOB_ID,
	RUN_JOB,
	RUN_ROLE,
	RUN_SLOT,
	RUN_ATTEMPT,
	RUN_ORIGIN,
	RUN_STATUS,
	RUN_REASON,
	RUN_DUE_AT,
	RUN_STARTED_AT,
	RUN_FINISHED_AT,
	RUN_PID,
	RUN_BACKEND_START,
	RUN_PAYLOAD,
	RUN_ERROR_CODE,
	RUN_ERROR_MESSAGE,
	RUN_ERROR_DETAIL,
	RUN_ERROR_CONTEXT,
	RUN_FIRST_SLOT,
	RUN_SLOTS,
	RUN_ALERTED_AT,
	RUN_NATTS
};

const char *const etl_origin_words[] = {"schedule", "manual", "backfill",
										"after",	"event",  "file",
										NULL};
const char *const etl_run_status_words[] = {"waiting", "running", "succeeded",
											"failed",  "skipped", "lost",
											"stopped", NULL};

struct EtlJobRunScan
{
	MemoryContext context; /* what an index allocates must outlive a row */
	Relation rel;
	Relation index;
	Snapshot snapshot;
	SysScanDesc scan;
};

/* A row as a struct, in the current memory context. */
static EtlJobRun *
run_from_tuple(Relation rel, HeapTuple tuple)
{
	EtlJobRun *run = palloc0(sizeof(EtlJobRun));
	Datum values[RUN_NATTS];
	bool nulls[RUN_NATTS];

	heap_deform_tuple(tuple, etl_ledger_desc(rel), values, nulls);
	run->place = tuple->t_self;
	run->job_run_id = DatumGetInt64(values[RUN_ID]);
	run->job_id = DatumGetInt64(values[RUN_JOB_ID]);
	run->job = TextDatumGetCString(values[RUN_JOB]);
	run->role = DatumGetObjectId(values[RUN_ROLE]);
	run->slot = DatumGetTimestampTz(values[RUN_SLOT]);
	run->attempt = DatumGetInt32(values[RUN_ATTEMPT]);
	run->origin = etl_ledger_get_word(values[RUN_ORIGIN], etl_origin_words);
	run->status = etl_ledger_get_word(values[RUN_STATUS], etl_run_status_words);
	run->reason = etl_ledger_get_text(values, nulls, RUN_REASON);
	run->due_at = etl_ledger_get_time(values, nulls, RUN_DUE_AT);
	run->started_at = etl_ledger_get_time(values, nulls, RUN_STARTED_AT);
	run->finished_at = etl_ledger_get_time(values, nulls, RUN_FINISHED_AT);
	run->pid = nulls[RUN_PID] ? 0 : DatumGetInt32(values[RUN_PID]);
	run->backend_start = etl_ledger_get_time(values, nulls, RUN_BACKEND_START);
	run->payload = etl_ledger_get_text(values, nulls, RUN_PAYLOAD);
	run->error_code = etl_ledger_get_text(values, nulls, RUN_ERROR_CODE);
	run->error_message = etl_ledger_get_text(values, nulls, RUN_ERROR_MESSAGE);
	run->error_detail = etl_ledger_get_text(values, nulls, RUN_ERROR_DETAIL);
	run->error_context = etl_ledger_get_text(values, nulls, RUN_ERROR_CONTEXT);
	run->first_slot = etl_ledger_get_time(values, nulls, RUN_FIRST_SLOT);
	run->slots = DatumGetInt64(values[RUN_SLOTS]);
	run->alerted_at = etl_ledger_get_time(values, nulls, RUN_ALERTED_AT);
	return run;
}

/* A struct as the columns of a row. */
static void
run_to_values(const EtlJobRun *run, Datum *values, bool *nulls)
{
	memset(nulls, 0, sizeof(bool) * RUN_NATTS);
	values[RUN_ID] = Int64GetDatum(run->job_run_id);
	values[RUN_JOB_ID] = Int64GetDatum(run->job_id);
	values[RUN_JOB] = CStringGetTextDatum(run->job);
	values[RUN_ROLE] = ObjectIdGetDatum(run->role);
	values[RUN_SLOT] = TimestampTzGetDatum(run->slot);
	values[RUN_ATTEMPT] = Int32GetDatum(run->attempt);
	values[RUN_ORIGIN] = CStringGetTextDatum(etl_origin_words[run->origin]);
	values[RUN_STATUS] = CStringGetTextDatum(etl_run_status_words[run->status]);
	etl_ledger_set_text(&values[RUN_REASON], &nulls[RUN_REASON], run->reason);
	etl_ledger_set_time(values, nulls, RUN_DUE_AT, run->due_at);
	etl_ledger_set_time(values, nulls, RUN_STARTED_AT, run->started_at);
	etl_ledger_set_time(values, nulls, RUN_FINISHED_AT, run->finished_at);
	values[RUN_PID] = Int32GetDatum(run->pid);
	nulls[RUN_PID] = run->pid == 0;
	etl_ledger_set_time(values, nulls, RUN_BACKEND_START, run->backend_start);
	etl_ledger_set_text(&values[RUN_PAYLOAD], &nulls[RUN_PAYLOAD], run->payload);
	etl_ledger_set_text(&values[RUN_ERROR_CODE], &nulls[RUN_ERROR_CODE],
						run->error_code);
	etl_ledger_set_text(&values[RUN_ERROR_MESSAGE], &nulls[RUN_ERROR_MESSAGE],
						etl_ledger_clip(run->error_message));
	etl_ledger_set_text(&values[RUN_ERROR_DETAIL], &nulls[RUN_ERROR_DETAIL],
						etl_ledger_clip(run->error_detail));
	etl_ledger_set_text(&values[RUN_ERROR_CONTEXT], &nulls[RUN_ERROR_CONTEXT],
						etl_ledger_clip(run->error_context));
	etl_ledger_set_time(values, nulls, RUN_FIRST_SLOT, run->first_slot);
	values[RUN_SLOTS] = Int64GetDatum(run->slots);
	etl_ledger_set_time(values, nulls, RUN_ALERTED_AT, run->alerted_at);
}

/* ------------------------------------------------------------------ */
/* scans                                                                */

/* The rows that keys of an index find, in its order. */
static EtlJobRunScan *
begin_scan(const char *index, ScanKey keys, int nkeys, bool by_id,
		   LOCKMODE lockmode)
{
	EtlJobRunScan *scan = palloc(sizeof(EtlJobRunScan));

	scan->context = CurrentMemoryContext;
	scan->rel = etl_ledger_open("job_run", RUN_NATTS, lockmode);
	scan->index = index_open(etl_ledger_relid(index), AccessShareLock);
	scan->snapshot = by_id ? etl_job_snapshot() :
							 RegisterSnapshot(GetLatestSnapshot());
	scan->scan = systable_beginscan_ordered(scan->rel, scan->index,
											scan->snapshot, nkeys, keys);
	return scan;
}

/* The runs that wait or run. */
EtlJobRunScan *
etl_job_run_scan_unfinished(void)
{
	ScanKeyData key;

	ScanKeyEntryInitialize(&key, SK_ISNULL | SK_SEARCHNULL, RUN_FINISHED_AT + 1,
						   InvalidStrategy, InvalidOid, InvalidOid, InvalidOid,
						   (Datum) 0);
	return begin_scan("job_run_finished_at_idx", &key, 1, false,
					  AccessShareLock);
}

/* Likewise those of one job. */
EtlJobRunScan *
etl_job_run_scan_unfinished_of(int64 job_id)
{
	ScanKeyData keys[2];

	ScanKeyEntryInitialize(&keys[0], SK_ISNULL | SK_SEARCHNULL,
						   RUN_FINISHED_AT + 1, InvalidStrategy, InvalidOid,
						   InvalidOid, InvalidOid, (Datum) 0);
	ScanKeyInit(&keys[1], RUN_JOB_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(job_id));
	return begin_scan("job_run_finished_at_idx", keys, 2, false,
					  AccessShareLock);
}

/*
 * Likewise those whose origin is one from first to last, in the order of their
 * words.
 */
EtlJobRunScan *
etl_job_run_scan_unfinished_from(int64 job_id, EtlRunOrigin first,
								 EtlRunOrigin last)
{
	ScanKeyData keys[4];

	ScanKeyEntryInitialize(&keys[0], SK_ISNULL | SK_SEARCHNULL,
						   RUN_FINISHED_AT + 1, InvalidStrategy, InvalidOid,
						   InvalidOid, InvalidOid, (Datum) 0);
	ScanKeyInit(&keys[1], RUN_JOB_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(job_id));
	ScanKeyInit(&keys[2], RUN_ORIGIN + 1, BTGreaterEqualStrategyNumber,
				F_TEXT_GE, CStringGetTextDatum(etl_origin_words[first]));
	ScanKeyInit(&keys[3], RUN_ORIGIN + 1, BTLessEqualStrategyNumber, F_TEXT_LE,
				CStringGetTextDatum(etl_origin_words[last]));
	return begin_scan("job_run_finished_at_idx", keys, 4, false,
					  AccessShareLock);
}

/* The runs that ended in [from, before), those that ended first first. */
EtlJobRunScan *
etl_job_run_scan_finished(TimestampTz from, TimestampTz before)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], RUN_FINISHED_AT + 1, BTGreaterEqualStrategyNumber,
				F_TIMESTAMPTZ_GE, TimestampTzGetDatum(from));
	ScanKeyInit(&keys[1], RUN_FINISHED_AT + 1, BTLessStrategyNumber,
				F_TIMESTAMPTZ_LT, TimestampTzGetDatum(before));
	return begin_scan("job_run_finished_at_idx", keys, 2, false,
					  AccessShareLock);
}

/* The runs of a job, by slot and attempt. */
EtlJobRunScan *
etl_job_run_scan_job(int64 job_id)
{
	ScanKeyData key;

	ScanKeyInit(&key, RUN_JOB_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(job_id));
	return begin_scan("job_run_job_id_slot_attempt_key", &key, 1, false,
					  AccessShareLock);
}

/* Likewise those whose slot is in [from, to]. */
EtlJobRunScan *
etl_job_run_scan_slots(int64 job_id, TimestampTz from, TimestampTz to)
{
	ScanKeyData keys[3];

	ScanKeyInit(&keys[0], RUN_JOB_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(job_id));
	ScanKeyInit(&keys[1], RUN_SLOT + 1, BTGreaterEqualStrategyNumber,
				F_TIMESTAMPTZ_GE, TimestampTzGetDatum(from));
	ScanKeyInit(&keys[2], RUN_SLOT + 1, BTLessEqualStrategyNumber,
				F_TIMESTAMPTZ_LE, TimestampTzGetDatum(to));
	return begin_scan("job_run_job_id_slot_attempt_key", keys, 3, false,
					  AccessShareLock);
}

/* The next one in a direction. */
static EtlJobRun *
scan_step(EtlJobRunScan *scan, ScanDirection direction)
{
	MemoryContext old_context = MemoryContextSwitchTo(scan->context);
	HeapTuple tuple = systable_getnext_ordered(scan->scan, direction);

	MemoryContextSwitchTo(old_context);
	return HeapTupleIsValid(tuple) ? run_from_tuple(scan->rel, tuple) : NULL;
}

/* The next one, in the current memory context; NULL at the end. */
EtlJobRun *
etl_job_run_scan_next(EtlJobRunScan *scan)
{
	return scan_step(scan, ForwardScanDirection);
}

/* Likewise backward, from the end. */
EtlJobRun *
etl_job_run_scan_previous(EtlJobRunScan *scan)
{
	return scan_step(scan, BackwardScanDirection);
}

void
etl_job_run_scan_end(EtlJobRunScan *scan)
{
	systable_endscan_ordered(scan->scan);
	etl_job_snapshot_end(scan->snapshot);
	index_close(scan->index, AccessShareLock);
	table_close(scan->rel, NoLock);
	pfree(scan);
}

/* ------------------------------------------------------------------ */
/* one row                                                              */

/* The run of that number, in the current memory context; NULL without one. */
EtlJobRun *
etl_job_run_by_id(int64 job_run_id, EtlRowLock lock)
{
	ScanKeyData key;
	EtlJobRunScan *scan;
	HeapTuple tuple;
	EtlJobRun *run = NULL;

	ScanKeyInit(&key, RUN_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(job_run_id));
	scan = begin_scan("job_run_pkey", &key, 1, true,
					  lock == ETL_ROW_READ ? AccessShareLock : RowExclusiveLock);
	tuple = systable_getnext_ordered(scan->scan, ForwardScanDirection);
	if (HeapTupleIsValid(tuple))
		tuple = etl_job_lock_row(scan->rel, tuple, lock);
	if (HeapTupleIsValid(tuple))
		run = run_from_tuple(scan->rel, tuple);
	etl_job_run_scan_end(scan);
	return run;
}

/* The run that was seen at its place, if it is there; locked. */
static EtlJobRun *
lock_in_place(Relation rel, const EtlJobRun *seen)
{
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	ItemPointerData place = seen->place;
	EtlJobRun *run = NULL;
	bool null;

	/* the table may have been rewritten since */
	if (ItemPointerGetBlockNumber(&place) < RelationGetNumberOfBlocks(rel) &&
		table_tuple_fetch_row_version(rel, &place, snapshot, slot) &&
		DatumGetInt64(slot_getattr(slot, RUN_ID + 1, &null)) == seen->job_run_id)
	{
		HeapTuple tuple = etl_job_lock_row(rel, ExecCopySlotHeapTuple(slot),
										   ETL_ROW_LOCK);

		if (HeapTupleIsValid(tuple))
			run = run_from_tuple(rel, tuple);
	}
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	return run;
}

/*
 * A run that was read or written before, locked and as it is now; NULL if it
 * is gone.  The index is not read unless the row has moved: in a serializable
 * transaction that would be a conflict with all others in which a run ends.
 */
EtlJobRun *
etl_job_run_again(const EtlJobRun *seen)
{
	Relation rel = etl_ledger_open("job_run", RUN_NATTS, RowExclusiveLock);
	EtlJobRun *run = lock_in_place(rel, seen);

	table_close(rel, NoLock);
	return run != NULL ? run : etl_job_run_by_id(seen->job_run_id, ETL_ROW_LOCK);
}

/*
 * Has a slot of a job a row?  Also if another transaction is about to insert
 * one.
 */
bool
etl_job_run_exists(int64 job_id, TimestampTz slot)
{
	Relation rel = etl_ledger_open("job_run", RUN_NATTS, AccessShareLock);
	SnapshotData dirty;
	ScanKeyData keys[2];
	SysScanDesc scan;
	bool found;

	InitDirtySnapshot(dirty);
	ScanKeyInit(&keys[0], RUN_JOB_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(job_id));
	ScanKeyInit(&keys[1], RUN_SLOT + 1, BTEqualStrategyNumber, F_TIMESTAMPTZ_EQ,
				TimestampTzGetDatum(slot));
	scan = systable_beginscan(rel,
							  etl_ledger_relid("job_run_job_id_slot_attempt_key"),
							  true, &dirty, 2, keys);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, NoLock);
	return found;
}

/* A first attempt at a slot, waiting; to be changed and inserted. */
EtlJobRun *
etl_job_run_make(const EtlJob *job, EtlRunOrigin origin, TimestampTz slot)
{
	EtlJobRun *run = palloc0(sizeof(EtlJobRun));

	run->job_id = job->job_id;
	run->job = job->name;
	run->role = job->role;
	run->slot = slot;
	run->attempt = 1;
	run->origin = origin;
	run->status = ETL_RUN_WAITING;
	run->due_at = slot;
	run->slots = 1;
	return run;
}

/* Store a new run; it gets its number. */
void
etl_job_run_insert(EtlJobRun *run)
{
	Datum values[RUN_NATTS];
	bool nulls[RUN_NATTS];

	run->job_run_id = etl_ledger_next_id("job_run_id_seq");
	run_to_values(run, values, nulls);
	etl_ledger_insert_into("job_run", RUN_NATTS, values, nulls);
}

/* Store what was changed in a run that was read with a lock. */
void
etl_job_run_update(EtlJobRun *run)
{
	Datum values[RUN_NATTS];
	bool nulls[RUN_NATTS];

	run_to_values(run, values, nulls);
	etl_ledger_replace_in("job_run", RUN_NATTS, &run->place, values, nulls);
}

/* Delete a run that was read with a lock. */
void
etl_job_run_delete(EtlJobRun *run)
{
	etl_ledger_delete_from("job_run", RUN_NATTS, &run->place);
}
