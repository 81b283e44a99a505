/*-------------------------------------------------------------------------
 *
 * watermark.c
 *	  How far each pipeline has read.
 *
 * A pipeline that moves its watermark holds a lock on its name until the
 * transaction ends, so that two runs of one pipeline follow each other and
 * the second one sees where the first one stopped, at every isolation level:
 * the row is read with a snapshot of its own.
 *
 * A watermark belongs to the role that made it.  Another role that does not
 * have that role's rights can neither read nor move it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ledger/ledger.h"

/* Columns of etl_patterns.watermark */
enum
{
	MARK_PIPELINE,
	MARK_ROLE,
	MARK_SOURCE,
	MARK_CURSOR_COLUMN,
	MARK_VALUE,
	MARK_UPDATED_AT,
	MARK_RUN_ID,
	MARK_DETAIL,
	MARK_TARGET,
	MARK_NATTS
};

/*
 * Find a pipeline's row as it is now; NULL if there is none.  The copy lives
 * in the current memory context.
 */
static HeapTuple
find_row(Relation rel, const char *pipeline)
{
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&key, MARK_PIPELINE + 1, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(pipeline));
	scan = systable_beginscan(rel, etl_ledger_relid("watermark_pkey"), true,
							  snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	return tuple;
}

/*
 * Read a pipeline's watermark; with lock, so that it may be moved.  The
 * strings live in the current memory context.  Without a row, exists is false
 * and the watermark is the calling role's.
 */
void
etl_watermark_read(EtlWatermark *watermark, const char *pipeline, bool lock)
{
	Relation rel = etl_ledger_open("watermark", MARK_NATTS,
								   lock ? RowExclusiveLock : AccessShareLock);
	Datum values[MARK_NATTS];
	bool nulls[MARK_NATTS];
	HeapTuple tuple;

	memset(watermark, 0, sizeof(EtlWatermark));
	watermark->pipeline = pipeline;
	watermark->role = GetUserId();

	if (lock)
		LockDatabaseObject(RelationGetRelid(rel),
						   hash_bytes((const unsigned char *) pipeline,
									  (int) strlen(pipeline)),
						   0, ExclusiveLock);

	tuple = find_row(rel, pipeline);
	if (HeapTupleIsValid(tuple))
	{
		heap_deform_tuple(tuple, etl_ledger_desc(rel), values, nulls);
		watermark->exists = true;
		watermark->place = tuple->t_self;
		watermark->role = DatumGetObjectId(values[MARK_ROLE]);
		if (!nulls[MARK_SOURCE])
			watermark->source = DatumGetObjectId(values[MARK_SOURCE]);
		if (!nulls[MARK_CURSOR_COLUMN])
			watermark->cursor_column = pstrdup(
				NameStr(*DatumGetName(values[MARK_CURSOR_COLUMN])));
		if (!nulls[MARK_VALUE])
			watermark->value = TextDatumGetCString(values[MARK_VALUE]);
		watermark->updated_at = DatumGetTimestampTz(values[MARK_UPDATED_AT]);
		if (!nulls[MARK_RUN_ID])
			watermark->run_id = DatumGetInt64(values[MARK_RUN_ID]);
		if (!nulls[MARK_DETAIL])
			watermark->detail = DatumGetJsonbPCopy(values[MARK_DETAIL]);
		if (!nulls[MARK_TARGET])
			watermark->target = DatumGetObjectId(values[MARK_TARGET]);
		if (!etl_ledger_is_ours(watermark->role))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("pipeline \"%s\" belongs to another role", pipeline),
					 errhint(
						 "Choose another name, or become a member of the role that owns the pipeline.")));
	}
	table_close(rel, NoLock);
}

/*
 * The row of a watermark that was read with a lock, NULL if it had none.  The
 * lock does not keep out what the run itself calls, as a trigger of the target.
 */
static HeapTuple
find_same_row(Relation rel, const EtlWatermark *watermark)
{
	HeapTuple tuple = find_row(rel, watermark->pipeline);

	if (HeapTupleIsValid(tuple) != watermark->exists ||
		(HeapTupleIsValid(tuple) &&
		 !ItemPointerEquals(&tuple->t_self,
							unconstify(ItemPointerData *, &watermark->place))))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("pipeline \"%s\" was changed by what its own run has called",
						watermark->pipeline),
				 errhint(
					 "Triggers and functions that a run calls must not pull, set or reset its pipeline.")));
	return tuple;
}

/*
 * Write a watermark that was read with a lock, in the caller's transaction:
 * where the data goes, the watermark goes.
 */
void
etl_watermark_move(const EtlWatermark *watermark)
{
	Relation rel = etl_ledger_open("watermark", MARK_NATTS, RowExclusiveLock);
	HeapTuple old = find_same_row(rel, watermark);
	Datum values[MARK_NATTS] = {0};
	bool nulls[MARK_NATTS] = {0};
	NameData cursor_column;

	values[MARK_PIPELINE] = CStringGetTextDatum(watermark->pipeline);
	values[MARK_ROLE] = ObjectIdGetDatum(watermark->role);
	values[MARK_SOURCE] = ObjectIdGetDatum(watermark->source);
	nulls[MARK_SOURCE] = !OidIsValid(watermark->source);
	nulls[MARK_CURSOR_COLUMN] = watermark->cursor_column == NULL;
	if (watermark->cursor_column != NULL)
	{
		namestrcpy(&cursor_column, watermark->cursor_column);
		values[MARK_CURSOR_COLUMN] = NameGetDatum(&cursor_column);
	}
	etl_ledger_set_text(&values[MARK_VALUE], &nulls[MARK_VALUE],
						watermark->value);
	values[MARK_UPDATED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	etl_ledger_set_int64(&values[MARK_RUN_ID], &nulls[MARK_RUN_ID],
						 watermark->run_id, 0);
	values[MARK_DETAIL] = PointerGetDatum(watermark->detail);
	nulls[MARK_DETAIL] = watermark->detail == NULL;
	values[MARK_TARGET] = ObjectIdGetDatum(watermark->target);
	nulls[MARK_TARGET] = !OidIsValid(watermark->target);

	if (HeapTupleIsValid(old))
		etl_ledger_replace(rel, &old->t_self, values, nulls);
	else
		etl_ledger_insert(rel, values, nulls);
	table_close(rel, NoLock);
}

/* Delete the row of a watermark that was read with a lock. */
void
etl_watermark_forget(const EtlWatermark *watermark)
{
	Relation rel = etl_ledger_open("watermark", MARK_NATTS, RowExclusiveLock);
	HeapTuple old = find_same_row(rel, watermark);

	if (HeapTupleIsValid(old))
		etl_ledger_delete(rel, &old->t_self);
	table_close(rel, NoLock);
}
