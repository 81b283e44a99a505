/*-------------------------------------------------------------------------
 *
 * merge_write_heap.c
 *	  The fast way to change rows: straight in a plain heap table.
 *
 * Does what the executor does for UPDATE and DELETE of a row whose place is
 * known: generated columns, constraints, heap, indexes, and the triggers that
 * stand for foreign keys and deferrable constraints.  Targets with anything
 * else that SQL would heed (policies, other triggers, rules, children) are
 * left to merge_write_sql.c.
 *
 * Invariants:
 *	- Triggers fire when the writer is closed, so that the actions of foreign
 *	  keys cannot change a row that is still to be edited.
 *	- A row's memory is gone when the next one is begun.
 *
 * Locks: the caller's on the target; the indexes are locked likewise
 * (RowExclusiveLock), until commit.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/merge_write.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

/*
 * The executor's state for the updates of a set of columns: which they are
 * decides which generated columns are computed, and what indexes are told.
 */
typedef struct HeapLane
{
	EState *estate;
	ResultRelInfo *rri;
	TupleTableSlot *slot;
	bool generated;
	bool check_partition;
} HeapLane;

struct EtlMergeHeap
{
	EtlMergeWriter *writer;
	HeapLane *times; /* NULL until needed */
	HeapLane *all;	 /* likewise; also deletes */
	bool has_triggers;
	bool updates; /* one was seen, and may be published */
	bool deletes; /* likewise */
};

static bool trigger_serves(const Trigger *trigger);
static HeapLane *get_lane(EtlMergeHeap *heap, bool times);
static Bitmapset *updated_columns(EtlMerge *merge, bool times);
static void update_row(EtlMergeHeap *heap, HeapLane *lane, ItemPointer tid,
					   Datum *values, bool *nulls);
static void delete_row(EtlMergeHeap *heap, HeapLane *lane, ItemPointer tid);
static void check_result(TM_Result result, Relation rel);
static void close_estate(EState *estate);

/* Does this way do for the target all that SQL would? */
bool
etl_merge_writer_can_heap(Relation target)
{
	Oid relid = RelationGetRelid(target);

	if (target->rd_rel->relkind != RELKIND_RELATION ||
		target->rd_rel->relam != HEAP_TABLE_AM_OID || target->rd_rules != NULL)
		return false;
	if (check_enable_rls(relid, InvalidOid, false) == RLS_ENABLED)
		return false;
	if (target->rd_rel->relhassubclass &&
		find_inheritance_children(relid, NoLock) != NIL)
		return false;
	for (int i = 0;
		 target->trigdesc != NULL && i < target->trigdesc->numtriggers; i++)
		if (!trigger_serves(&target->trigdesc->triggers[i]))
			return false;
	return true;
}

/* New rows go through a sink, which sees to their row triggers. */
static bool
trigger_serves(const Trigger *trigger)
{
	if (trigger->tgenabled == TRIGGER_DISABLED)
		return true;
	if (!TRIGGER_FOR_ROW(trigger->tgtype) || trigger->tgoldtable != NULL ||
		trigger->tgnewtable != NULL)
		return false;
	if (!TRIGGER_FOR_UPDATE(trigger->tgtype) &&
		!TRIGGER_FOR_DELETE(trigger->tgtype))
		return true;
	return TRIGGER_FOR_AFTER(trigger->tgtype) &&
		   (trigger->tgfoid == F_UNIQUE_KEY_RECHECK ||
			RI_FKey_trigger_type(trigger->tgfoid) != RI_TRIGGER_NONE);
}

/* Opens an AFTER trigger level, too, which the close ends. */
EtlMergeHeap *
etl_merge_heap_open(EtlMergeWriter *writer)
{
	EtlMergeHeap *heap = palloc0(sizeof(EtlMergeHeap));

	heap->writer = writer;
	heap->has_triggers = writer->target->trigdesc != NULL;
	if (heap->has_triggers)
		AfterTriggerBeginQuery();
	return heap;
}

/* Changes the row at tid.  The values may be reset when it returns. */
void
etl_merge_heap_edit(EtlMergeHeap *heap, EtlEditStep step, ItemPointer tid,
					Datum *values, bool *nulls)
{
	HeapLane *lane = get_lane(heap, step == ETL_STEP_TIMES ||
										step == ETL_STEP_GROW_TIMES);
	MemoryContext oldcontext;

	/*
	 * Changing rows while the scan that finds them goes on must not show.  As
	 * far as they are concerned all of the merge is the command that its
	 * snapshot was taken for: a row that a function has changed since then
	 * counts as changed meanwhile.
	 */
	(void) GetCurrentCommandId(true);
	lane->estate->es_output_cid = GetActiveSnapshot()->curcid;
	ResetPerTupleExprContext(lane->estate);
	oldcontext = MemoryContextSwitchTo(GetPerTupleMemoryContext(lane->estate));
	if (step == ETL_STEP_DELETE)
		delete_row(heap, lane, tid);
	else
		update_row(heap, lane, tid, values, nulls);
	MemoryContextSwitchTo(oldcontext);
}

/* Applies the queue, which is sorted by place. */
void
etl_merge_heap_apply(EtlMergeHeap *heap)
{
	EtlMergeWriter *writer = heap->writer;
	TupleTableSlot *edit = MakeSingleTupleTableSlot(writer->edit_desc,
													&TTSOpsMinimalTuple);

	while (tuplesort_gettupleslot(writer->edits, true, false, edit, NULL))
	{
		int64 place;
		ItemPointerData tid;

		CHECK_FOR_INTERRUPTS();
		etl_progress_row(writer->merge->run, writer->n_written++);
		slot_getallattrs(edit);
		place = DatumGetInt64(edit->tts_values[ETL_EDIT_PLACE]);
		ItemPointerSet(&tid, (BlockNumber) (place >> 16),
					   (OffsetNumber) (place & 0xFFFF));
		etl_merge_heap_edit(heap,
							(EtlEditStep) DatumGetInt32(
								edit->tts_values[ETL_EDIT_STEP]),
							&tid, edit->tts_values + ETL_EDIT_COLUMNS,
							edit->tts_isnull + ETL_EDIT_COLUMNS);
	}
	ExecDropSingleTupleTableSlot(edit);
}

/* Fires the triggers, after which nothing is left to do. */
void
etl_merge_heap_close(EtlMergeHeap *heap)
{
	if (heap->has_triggers)
	{
		EState *estate = CreateExecutorState();

		AfterTriggerEndQuery(estate);
		close_estate(estate);
	}
	if (heap->times != NULL)
		close_estate(heap->times->estate);
	if (heap->all != NULL)
		close_estate(heap->all->estate);
	pfree(heap);
}

/* The state for updates of some columns, made on demand. */
static HeapLane *
get_lane(EtlMergeHeap *heap, bool times)
{
	EtlMergeWriter *writer = heap->writer;
	Relation target = writer->target;
	HeapLane **place = times ? &heap->times : &heap->all;
	MemoryContext oldcontext;
	HeapLane *lane;

	if (*place != NULL)
		return *place;

	oldcontext = MemoryContextSwitchTo(writer->context);
	lane = palloc0(sizeof(HeapLane));
	lane->estate = CreateExecutorState();
	MemoryContextSwitchTo(lane->estate->es_query_cxt);
	etl_init_range_table(lane->estate, target, ACL_UPDATE, NULL,
						 updated_columns(writer->merge, times));
	lane->rri = makeNode(ResultRelInfo);
	ExecInitResultRelation(lane->estate, lane->rri, 1);
	ExecOpenIndices(lane->rri, false);
	lane->slot = table_slot_create(target, &lane->estate->es_tupleTable);
	lane->generated = target->rd_att->constr != NULL &&
					  target->rd_att->constr->has_generated_stored;
	lane->check_partition = target->rd_rel->relispartition;
	MemoryContextSwitchTo(oldcontext);
	*place = lane;
	return lane;
}

/* As an UPDATE's list of columns, in the executor's numbering. */
static Bitmapset *
updated_columns(EtlMerge *merge, bool times)
{
	Bitmapset *result = NULL;

	for (int i = 0; i < merge->natts; i++)
		if (etl_update_sets(merge->columns[i].role, times))
			result = bms_add_member(result,
									i + 1 - FirstLowInvalidHeapAttributeNumber);
	return result;
}

static void
update_row(EtlMergeHeap *heap, HeapLane *lane, ItemPointer tid, Datum *values,
		   bool *nulls)
{
	EState *estate = lane->estate;
	ResultRelInfo *rri = lane->rri;
	Relation rel = rri->ri_RelationDesc;
	TupleTableSlot *slot = ExecClearTuple(lane->slot);
	int natts = slot->tts_tupleDescriptor->natts;
	List *recheck = NIL;
	TM_FailureData failure;
	LockTupleMode lockmode;
	EtlIndexUpdates updates;

	if (!heap->updates)
	{
		CheckCmdReplicaIdentity(rel, CMD_UPDATE);
		heap->updates = true;
	}
	memcpy(slot->tts_values, values, sizeof(Datum) * natts);
	memcpy(slot->tts_isnull, nulls, sizeof(bool) * natts);
	ExecStoreVirtualTuple(slot);
	slot->tts_tableOid = RelationGetRelid(rel);

	if (lane->generated)
		ExecComputeStoredGenerated(rri, estate, slot, CMD_UPDATE);
	if (lane->check_partition)
		ExecPartitionCheck(rri, slot, estate, true);
	if (rel->rd_att->constr != NULL)
		ExecConstraints(rri, slot, estate);

	check_result(table_tuple_update(rel, tid, slot, estate->es_output_cid,
									GetActiveSnapshot(), InvalidSnapshot, true,
									&failure, &lockmode, &updates),
				 rel);

	if (rri->ri_NumIndices > 0 && etl_updates_indexes(updates))
		recheck = etl_update_index_tuples(rri, slot, estate, updates);
	if (heap->has_triggers)
		ExecARUpdateTriggers(estate, rri, NULL, NULL, tid, NULL, slot, recheck,
							 NULL, false);
	ExecClearTuple(slot);
}

static void
delete_row(EtlMergeHeap *heap, HeapLane *lane, ItemPointer tid)
{
	Relation rel = lane->rri->ri_RelationDesc;
	TM_FailureData failure;

	if (!heap->deletes)
	{
		CheckCmdReplicaIdentity(rel, CMD_DELETE);
		heap->deletes = true;
	}
	check_result(table_tuple_delete(rel, tid, lane->estate->es_output_cid,
									GetActiveSnapshot(), InvalidSnapshot, true,
									&failure, false),
				 rel);
	if (heap->has_triggers)
		ExecARDeleteTriggers(lane->estate, lane->rri, tid, NULL, NULL, false);
}

/*
 * The lock on the target keeps others away.  They may have come before it,
 * though, after the snapshot of a transaction that keeps its first one.
 */
static void
check_result(TM_Result result, Relation rel)
{
	switch (result)
	{
		case TM_Ok:
			return;
		case TM_Updated:
		case TM_Deleted:
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg(
						 "could not serialize access due to concurrent update"),
					 errhint("Run the transaction again.")));
			break;
		case TM_SelfModified:
			ereport(ERROR,
					(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
					 errmsg("row of table \"%s\" was changed by the transaction itself while it was merged",
							RelationGetRelationName(rel)),
					 errhint(
						 "Look for functions and triggers that write to the table.")));
			break;
		default:
			elog(ERROR, "unexpected result %d of changing a row of \"%s\"",
				 (int) result, RelationGetRelationName(rel));
	}
}

/* Gives back what the executor has opened. */
static void
close_estate(EState *estate)
{
	ExecResetTupleTable(estate->es_tupleTable, false);
	ExecCloseResultRelations(estate);
	ExecCloseRangeTableRelations(estate);
	FreeExecutorState(estate);
}
