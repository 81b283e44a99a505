/*-------------------------------------------------------------------------
 *
 * apply_mirror_heap.c
 *	  A mirror in a plain heap table: rows are found and changed directly.
 *
 * Does what the executor does for INSERT, UPDATE and DELETE of single rows, with
 * everything opened once for a flush: one index scan that is started again for
 * each key, one state for updates and deletes, one sink for inserts.
 *
 * A new row goes into the table without a look whether its key is there: the
 * unique index tells so when the row gets its entry, and then the row is
 * deleted again and the one that is there updated.  Where other unique
 * indexes might object first, the key is looked up before.
 *
 * Others may write to the target, too.  A row that someone else has changed
 * meanwhile is looked up again with a snapshot of its own time.
 *
 * Invariants:
 *	- The scan keeps memory of its own from one key to the next: it runs in the
 *	  context of the flush, never in one that is reset for each row.
 *	- What is looked up is seen: after each command that wrote what may be
 *	  looked up next, the command counter moves, and the snapshot with it.
 *
 * Locks: RowExclusiveLock on the indexes, until commit.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/apply_mirror.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* A row that was written though its key was there. */
typedef struct TakenRow
{
	EtlMirrorOp *op;
	ItemPointerData tid;
} TakenRow;

typedef struct MirrorHeap
{
	EtlMirror *mirror;
	Relation rel;
	MemoryContext context; /* of the flush; holds all of this */
	MemoryContext row_context;
	EState *estate;
	ResultRelInfo *rri;
	Snapshot snapshot; /* ours alone */
	TupleTableSlot *found;
	TupleTableSlot *whole;	/* a row as it came */
	TupleTableSlot *pieced; /* one that keeps some values of the stored one */
	Relation index;
	IndexScanDesc scan;
	ScanKey keys;
	bool has_triggers;
	bool generated;
	bool updates;				/* one was seen, and may be published */
	bool deletes;				/* likewise */
	EtlApplyInserter *inserter; /* on demand */
	bool probes;				/* keys of new rows are looked up before */
	List *taken;				/* of TakenRow */
} MirrorHeap;

static MirrorHeap *heap_open(EtlMirror *mirror);
static void open_scan(MirrorHeap *heap);
static void close_scan(MirrorHeap *heap);
static void heap_close(MirrorHeap *heap);
static void see_writes(MirrorHeap *heap);
static void renew_snapshot(MirrorHeap *heap);
static bool find_row(MirrorHeap *heap, const Datum *key, const bool *nulls);
static bool find_by_index(MirrorHeap *heap, const Datum *key, const bool *nulls);
static bool find_by_scan(MirrorHeap *heap, const Datum *key, const bool *nulls);
static bool is_key_of(MirrorHeap *heap, const Datum *key, const bool *nulls);
static bool changes_guarded(MirrorHeap *heap, EtlMirrorOp **ops, int n_ops);
static bool update_row(MirrorHeap *heap, EtlMirrorOp *op);
static TupleTableSlot *new_version(MirrorHeap *heap, EtlMirrorOp *op);
static bool update_found(MirrorHeap *heap, TupleTableSlot *slot);
static bool delete_row(MirrorHeap *heap, EtlMirrorOp *op);
static bool delete_tid(MirrorHeap *heap, ItemPointer tid);
static bool was_changed(MirrorHeap *heap, TM_Result result);
static void insert_row(MirrorHeap *heap, EtlMirrorOp *op);
static void note_taken(void *arg, void *row, ItemPointer tid);
static void write_inserts(MirrorHeap *heap);
static void replace_taken(MirrorHeap *heap, TakenRow *taken);
static bool is_taken(MirrorHeap *heap, EtlMirrorOp *op);
static void do_op(MirrorHeap *heap, EtlMirrorOp *op);
static void clear_new_key(MirrorHeap *heap, EtlMirrorOp *op);

/*
 * Does ops of different keys in an order that is good.  Returns false, and has
 * done nothing, if only their own order can be right.
 */
bool
etl_mirror_heap_net(EtlMirror *mirror, EtlMirrorOp **ops, int n_ops)
{
	MirrorHeap *heap = heap_open(mirror);
	EtlMirrorOp **edits = palloc_extended(sizeof(EtlMirrorOp *) *
											  (Size) Max(n_ops, 1),
										  MCXT_ALLOC_HUGE);
	int n_edits = 0;
	bool in_order = false;

	for (int i = 0; i < n_ops; i++)
		if (ops[i]->kind != ETL_EVENT_INSERT)
			edits[n_edits++] = ops[i];
	etl_mirror_sort(mirror, edits, n_edits);
	if (mirror->guarded != NULL)
		in_order = changes_guarded(heap, edits, n_edits);

	for (int i = 0; i < n_edits && !in_order; i++)
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(heap->row_context);
		if (edits[i]->kind == ETL_EVENT_DELETE ? delete_row(heap, edits[i]) :
												 update_row(heap, edits[i]))
			continue;
		etl_mirror_missing(mirror, edits[i]);
		if (edits[i]->kind == ETL_EVENT_UPDATE)
		{
			etl_mirror_check_whole(mirror, edits[i]);
			edits[i]->kind = ETL_EVENT_INSERT;
		}
	}
	if (!in_order && n_edits > 0)
		see_writes(heap);
	for (int i = 0; i < n_ops && !in_order; i++)
		if (ops[i]->kind == ETL_EVENT_INSERT)
			insert_row(heap, ops[i]);
	write_inserts(heap);
	heap_close(heap);
	pfree(edits);
	return !in_order;
}

/* Does ops one after the other; inserts that follow each other together. */
void
etl_mirror_heap_each(EtlMirror *mirror, EtlMirrorOp **ops, int n_ops)
{
	MirrorHeap *heap = heap_open(mirror);

	/* The same key may come twice, and must be seen the second time. */
	for (int i = 0; i < n_ops; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (ops[i]->kind == ETL_EVENT_INSERT)
		{
			if (heap->probes)
				write_inserts(heap);
			insert_row(heap, ops[i]);
			continue;
		}
		write_inserts(heap);
		MemoryContextReset(heap->row_context);
		do_op(heap, ops[i]);
		see_writes(heap);
	}
	write_inserts(heap);
	heap_close(heap);
}

/* An update or a delete. */
static void
do_op(MirrorHeap *heap, EtlMirrorOp *op)
{
	if (op->kind == ETL_EVENT_UPDATE && op->key_changes && op->upsert &&
		heap->mirror->unique)
		clear_new_key(heap, op);
	if (op->kind == ETL_EVENT_DELETE ? delete_row(heap, op) :
									   update_row(heap, op))
		return;
	etl_mirror_missing(heap->mirror, op);
	if (op->kind == ETL_EVENT_UPDATE)
	{
		etl_mirror_check_whole(heap->mirror, op);
		insert_row(heap, op);
		write_inserts(heap);
	}
}

/* A row that has the key that another one gets by an update must go. */
static void
clear_new_key(MirrorHeap *heap, EtlMirrorOp *op)
{
	EtlMirrorOp *other = etl_mirror_new_op(heap->mirror, ETL_EVENT_DELETE);

	etl_mirror_row_key(heap->mirror, op->row, other->key, other->key_nulls);
	if (delete_row(heap, other))
		see_writes(heap);
}

/* ------------------------------------------------------------------ */
/* what a flush opens                                                   */

static MirrorHeap *
heap_open(EtlMirror *mirror)
{
	Relation rel = mirror->apply->target;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "etl mirror flush",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	MirrorHeap *heap = palloc0(sizeof(MirrorHeap));
	Bitmapset *updated = NULL;

	heap->mirror = mirror;
	heap->rel = rel;
	heap->context = context;
	heap->row_context = AllocSetContextCreate(context, "etl mirror row",
											  ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < mirror->natts; i++)
		updated = bms_add_member(updated,
								 mirror->attnums[i] -
									 FirstLowInvalidHeapAttributeNumber);
	heap->estate = CreateExecutorState();
	MemoryContextSwitchTo(heap->estate->es_query_cxt);
	etl_init_range_table(heap->estate, rel, ACL_UPDATE, NULL, updated);
	heap->rri = makeNode(ResultRelInfo);
	ExecInitResultRelation(heap->estate, heap->rri, 1);
	ExecOpenIndices(heap->rri, false);
	heap->found = table_slot_create(rel, &heap->estate->es_tupleTable);
	heap->pieced = table_slot_create(rel, &heap->estate->es_tupleTable);
	heap->whole = ExecAllocTableSlot(&heap->estate->es_tupleTable,
									 RelationGetDescr(rel), &TTSOpsHeapTuple);
	MemoryContextSwitchTo(context);

	heap->has_triggers = rel->trigdesc != NULL;
	heap->generated = rel->rd_att->constr != NULL &&
					  rel->rd_att->constr->has_generated_stored;
	heap->probes = mirror->unique && mirror->guarded != NULL;
	heap->snapshot = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(heap->snapshot);
	if (OidIsValid(mirror->index))
		open_scan(heap);
	MemoryContextSwitchTo(oldcontext);
	return heap;
}

/* The scan that looks for keys; their values are set each time. */
static void
open_scan(MirrorHeap *heap)
{
	EtlMirror *mirror = heap->mirror;
	MemoryContext oldcontext = MemoryContextSwitchTo(heap->context);

	if (heap->index == NULL)
	{
		heap->index = index_open(mirror->index, RowExclusiveLock);
		heap->keys = palloc0(sizeof(ScanKeyData) * mirror->n_index_keys);
		for (int i = 0; i < mirror->n_index_keys; i++)
		{
			Oid type = heap->index->rd_opcintype[i];
			Oid operator= get_opfamily_member(heap->index->rd_opfamily[i], type,
											  type, BTEqualStrategyNumber);

			ScanKeyEntryInitialize(&heap->keys[i], 0, i + 1,
								   BTEqualStrategyNumber, InvalidOid,
								   heap->index->rd_indcollation[i],
								   get_opcode(operator), (Datum) 0);
		}
	}
	heap->scan = etl_index_beginscan(heap->rel, heap->index, heap->snapshot,
									 mirror->n_index_keys);
	MemoryContextSwitchTo(oldcontext);
}

static void
close_scan(MirrorHeap *heap)
{
	ExecClearTuple(heap->found);
	if (heap->scan != NULL)
		index_endscan(heap->scan);
	heap->scan = NULL;
}

static void
heap_close(MirrorHeap *heap)
{
	if (heap->inserter != NULL)
		etl_apply_inserter_close(heap->inserter);
	close_scan(heap);
	if (heap->index != NULL)
		index_close(heap->index, NoLock);
	PopActiveSnapshot();
	UnregisterSnapshot(heap->snapshot);
	ExecResetTupleTable(heap->estate->es_tupleTable, false);
	ExecCloseResultRelations(heap->estate);
	ExecCloseRangeTableRelations(heap->estate);
	FreeExecutorState(heap->estate);
	MemoryContextDelete(heap->context);
}

/* Commands from now on see what was written until now. */
static void
see_writes(MirrorHeap *heap)
{
	CommandCounterIncrement();
	heap->snapshot->curcid = GetCurrentCommandId(false);
}

/* Sees, too, what others have committed meanwhile. */
static void
renew_snapshot(MirrorHeap *heap)
{
	bool scans = heap->scan != NULL;

	close_scan(heap);
	PopActiveSnapshot();
	UnregisterSnapshot(heap->snapshot);
	CommandCounterIncrement();
	heap->snapshot = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(heap->snapshot);
	if (scans)
		open_scan(heap);
}

/* ------------------------------------------------------------------ */
/* finding rows                                                         */

/* Puts a row with this key into heap->found, if there is one. */
static bool
find_row(MirrorHeap *heap, const Datum *key, const bool *nulls)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(heap->context);
	bool found;

	ExecClearTuple(heap->found);
	if (heap->scan != NULL)
		found = find_by_index(heap, key, nulls);
	else
		found = find_by_scan(heap, key, nulls);
	MemoryContextSwitchTo(oldcontext);
	return found;
}

static bool
find_by_index(MirrorHeap *heap, const Datum *key, const bool *nulls)
{
	EtlMirror *mirror = heap->mirror;

	for (int i = 0; i < mirror->n_index_keys; i++)
	{
		int k = mirror->index_keys[i];
		Datum value = key[k];

		heap->keys[i].sk_flags = nulls[k] ? SK_ISNULL | SK_SEARCHNULL : 0;
		if (!nulls[k] && mirror->key_ops[k].typlen == -1 &&
			VARATT_IS_EXTENDED(DatumGetPointer(value)))
		{
			MemoryContext oldcontext = MemoryContextSwitchTo(heap->row_context);

			value = PointerGetDatum(PG_DETOAST_DATUM_PACKED(value));
			MemoryContextSwitchTo(oldcontext);
		}
		heap->keys[i].sk_argument = value;
	}
	index_rescan(heap->scan, heap->keys, mirror->n_index_keys, NULL, 0);
	while (index_getnext_slot(heap->scan, ForwardScanDirection, heap->found))
	{
		CHECK_FOR_INTERRUPTS();
		if (mirror->unique || is_key_of(heap, key, nulls))
			return true;
	}
	return false;
}

/* Without an index all rows are looked at. */
static bool
find_by_scan(MirrorHeap *heap, const Datum *key, const bool *nulls)
{
	TableScanDesc scan = table_beginscan(heap->rel, heap->snapshot, 0, NULL);
	bool found = false;

	while (!found &&
		   table_scan_getnextslot(scan, ForwardScanDirection, heap->found))
	{
		CHECK_FOR_INTERRUPTS();
		found = is_key_of(heap, key, nulls);
	}
	table_endscan(scan);
	return found;
}

static bool
is_key_of(MirrorHeap *heap, const Datum *key, const bool *nulls)
{
	EtlMirror *mirror = heap->mirror;
	MemoryContext oldcontext = MemoryContextSwitchTo(heap->row_context);
	bool result = true;

	for (int i = 0; i < mirror->n_keys && result; i++)
	{
		bool isnull;
		Datum value = slot_getattr(heap->found, mirror->keys[i], &isnull);

		result = etl_value_equal(&mirror->key_ops[i], value, isnull, key[i],
								 nulls[i]);
	}
	MemoryContextSwitchTo(oldcontext);
	return result;
}

/*
 * Does an update change what another unique index holds?  Then a row may take
 * a value that another one still has, though not when it is its turn.
 */
static bool
changes_guarded(MirrorHeap *heap, EtlMirrorOp **ops, int n_ops)
{
	EtlMirror *mirror = heap->mirror;
	TupleDesc desc = RelationGetDescr(heap->rel);

	for (int i = 0; i < n_ops; i++)
	{
		const bool *sets = ops[i]->is_set != NULL ? ops[i]->is_set :
													mirror->sets;
		int attnum = -1;

		if (ops[i]->kind != ETL_EVENT_UPDATE)
			continue;
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(heap->row_context);
		if (!find_row(heap, ops[i]->key, ops[i]->key_nulls))
			continue;
		while ((attnum = bms_next_member(mirror->guarded, attnum)) >= 0)
		{
			Form_pg_attribute att;
			Datum stored;
			Datum value;
			bool stored_null;
			bool isnull;

			if (attnum == 0)
				return true;
			att = TupleDescAttr(desc, attnum - 1);
			if (att->attgenerated)
				return true; /* not known yet */
			if (att->attisdropped || !sets[attnum - 1])
				continue;
			stored = slot_getattr(heap->found, attnum, &stored_null);
			value = heap_getattr(ops[i]->row, attnum, desc, &isnull);
			if (stored_null != isnull ||
				(!isnull &&
				 !datum_image_eq(stored, value, att->attbyval, att->attlen)))
				return true;
		}
	}
	return false;
}

/* ------------------------------------------------------------------ */
/* changing rows                                                        */

/* False if there is no such row. */
static bool
update_row(MirrorHeap *heap, EtlMirrorOp *op)
{
	while (find_row(heap, op->key, op->key_nulls))
	{
		if (update_found(heap, new_version(heap, op)))
			return true;
		renew_snapshot(heap);
	}
	return false;
}

/* The row as it will be, given that it is heap->found now. */
static TupleTableSlot *
new_version(MirrorHeap *heap, EtlMirrorOp *op)
{
	EtlMirror *mirror = heap->mirror;
	TupleTableSlot *slot = heap->pieced;
	const bool *sets = op->is_set != NULL ? op->is_set : mirror->sets;
	TupleDesc desc = RelationGetDescr(heap->rel);

	if (mirror->covers && op->is_set == NULL && !heap->generated)
	{
		ExecStoreHeapTuple(op->row, heap->whole, false);
		heap->whole->tts_tableOid = RelationGetRelid(heap->rel);
		return heap->whole;
	}

	ExecClearTuple(slot);
	slot_getallattrs(heap->found);
	heap_deform_tuple(op->row, desc, slot->tts_values, slot->tts_isnull);
	for (int i = 0; i < desc->natts; i++)
		if (!sets[i])
		{
			slot->tts_values[i] = heap->found->tts_values[i];
			slot->tts_isnull[i] = heap->found->tts_isnull[i];
		}
	ExecStoreVirtualTuple(slot);
	slot->tts_tableOid = RelationGetRelid(heap->rel);
	return slot;
}

/* False if someone else has changed the row meanwhile. */
static bool
update_found(MirrorHeap *heap, TupleTableSlot *slot)
{
	EState *estate = heap->estate;
	Relation rel = heap->rel;
	ItemPointerData tid = heap->found->tts_tid;
	List *recheck = NIL;
	MemoryContext oldcontext;
	TM_FailureData failure;
	LockTupleMode lockmode;
	EtlIndexUpdates updates;

	if (!heap->updates)
	{
		CheckCmdReplicaIdentity(rel, CMD_UPDATE);
		heap->updates = true;
	}
	ResetPerTupleExprContext(estate);
	oldcontext = MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));
	if (heap->generated)
		ExecComputeStoredGenerated(heap->rri, estate, slot, CMD_UPDATE);
	if (rel->rd_rel->relispartition)
		ExecPartitionCheck(heap->rri, slot, estate, true);
	if (rel->rd_att->constr != NULL)
		ExecConstraints(heap->rri, slot, estate);
	estate->es_output_cid = GetCurrentCommandId(true);
	if (was_changed(heap,
					table_tuple_update(rel, &tid, slot, estate->es_output_cid,
									   heap->snapshot, InvalidSnapshot, true,
									   &failure, &lockmode, &updates)))
	{
		MemoryContextSwitchTo(oldcontext);
		return false;
	}
	if (heap->rri->ri_NumIndices > 0 && etl_updates_indexes(updates))
		recheck = etl_update_index_tuples(heap->rri, slot, estate, updates);
	if (heap->has_triggers)
		ExecARUpdateTriggers(estate, heap->rri, NULL, NULL, &tid, NULL, slot,
							 recheck, NULL, false);
	ExecClearTuple(slot);
	MemoryContextSwitchTo(oldcontext);
	return true;
}

/* False if there is no such row. */
static bool
delete_row(MirrorHeap *heap, EtlMirrorOp *op)
{
	while (find_row(heap, op->key, op->key_nulls))
	{
		ItemPointerData tid = heap->found->tts_tid;

		if (delete_tid(heap, &tid))
			return true;
		renew_snapshot(heap);
	}
	return false;
}

/* False if someone else has changed the row meanwhile. */
static bool
delete_tid(MirrorHeap *heap, ItemPointer tid)
{
	TM_FailureData failure;

	if (!heap->deletes)
	{
		CheckCmdReplicaIdentity(heap->rel, CMD_DELETE);
		heap->deletes = true;
	}
	heap->estate->es_output_cid = GetCurrentCommandId(true);
	if (was_changed(heap, table_tuple_delete(heap->rel, tid,
											 heap->estate->es_output_cid,
											 heap->snapshot, InvalidSnapshot,
											 true, &failure, false)))
		return false;
	if (heap->has_triggers)
		ExecARDeleteTriggers(heap->estate, heap->rri, tid, NULL, NULL, false);
	return true;
}

/* Was someone else there first? */
static bool
was_changed(MirrorHeap *heap, TM_Result result)
{
	if (result != TM_Ok && result != TM_Updated && result != TM_Deleted)
		elog(ERROR, "unexpected result %d of changing a row of \"%s\"",
			 (int) result, RelationGetRelationName(heap->rel));
	return result != TM_Ok;
}

/* ------------------------------------------------------------------ */
/* new rows                                                             */

/* The row is in the table when write_inserts() has been called. */
static void
insert_row(MirrorHeap *heap, EtlMirrorOp *op)
{
	EtlMirror *mirror = heap->mirror;

	/* That of a changed key was made free. */
	if (op->upsert && heap->probes && !op->key_changes)
	{
		MemoryContextReset(heap->row_context);
		if (update_row(heap, op))
			return;
	}
	if (heap->inserter == NULL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(heap->context);
		Oid index = mirror->unique && !heap->probes && !mirror->conflict_fails ?
						mirror->index :
						InvalidOid;

		heap->inserter = etl_apply_inserter_open(mirror->apply, mirror->attnums,
												 mirror->natts, index,
												 note_taken, heap);
		MemoryContextSwitchTo(oldcontext);
	}
	etl_apply_inserter_add(heap->inserter, op->row, op);
}

static void
note_taken(void *arg, void *row, ItemPointer tid)
{
	MirrorHeap *heap = arg;
	MemoryContext oldcontext = MemoryContextSwitchTo(heap->context);
	TakenRow *taken = palloc(sizeof(TakenRow));

	taken->op = row;
	taken->tid = *tid;
	heap->taken = lappend(heap->taken, taken);
	MemoryContextSwitchTo(oldcontext);
}

/* Writes the new rows; those whose key is there become updates. */
static void
write_inserts(MirrorHeap *heap)
{
	List *taken;
	ListCell *lc;

	if (heap->inserter == NULL)
		return;
	etl_apply_inserter_flush(heap->inserter);
	see_writes(heap);
	taken = heap->taken;
	heap->taken = NIL;
	foreach(lc, taken)
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(heap->row_context);
		replace_taken(heap, lfirst(lc));
	}
	list_free_deep(taken);
}

/*
 * The row that was written goes, and the other one changes.  If that cannot be
 * seen it is gone, or was written by a transaction that is still to end.
 */
static void
replace_taken(MirrorHeap *heap, TakenRow *taken)
{
	EtlMirror *mirror = heap->mirror;
	EtlMirrorOp *op = taken->op;
	Datum *key = palloc(sizeof(Datum) * mirror->n_keys);
	bool *nulls = palloc(sizeof(bool) * mirror->n_keys);
	TM_FailureData failure;
	TM_Result result;
	bool replaced = false;

	CheckCmdReplicaIdentity(heap->rel, CMD_DELETE);
	result = table_tuple_delete(heap->rel, &taken->tid,
								GetCurrentCommandId(true), heap->snapshot,
								InvalidSnapshot, true, &failure, false);
	if (result != TM_Ok)
		elog(ERROR, "unexpected result %d of deleting a row of \"%s\"",
			 (int) result, RelationGetRelationName(heap->rel));
	etl_mirror_row_key(mirror, op->row, key, nulls);
	do
	{
		CHECK_FOR_INTERRUPTS();
		renew_snapshot(heap);
		if (find_row(heap, key, nulls))
			replaced = update_found(heap, new_version(heap, op));
	} while (!replaced && is_taken(heap, op));
	if (!replaced)
	{
		EtlApplyInserter *inserter;

		inserter = etl_apply_inserter_open(mirror->apply, mirror->attnums,
										   mirror->natts, InvalidOid, NULL,
										   NULL);
		etl_apply_inserter_add(inserter, op->row, op);
		etl_apply_inserter_close(inserter);
	}
	see_writes(heap);
	pfree(key);
	pfree(nulls);
}

/* Waits for others that write the key, and tells whether it is there then. */
static bool
is_taken(MirrorHeap *heap, EtlMirrorOp *op)
{
	ResultRelInfo *rri = heap->rri;
	List *arbiters = list_make1_oid(heap->mirror->index);
	ItemPointerData tid;
	bool is_free;

	for (int i = 0; i < rri->ri_NumIndices; i++)
		if (RelationGetRelid(rri->ri_IndexRelationDescs[i]) ==
				heap->mirror->index &&
			rri->ri_IndexRelationInfo[i]->ii_UniqueOps == NULL)
			BuildSpeculativeIndexInfo(rri->ri_IndexRelationDescs[i],
									  rri->ri_IndexRelationInfo[i]);
	ExecStoreHeapTuple(op->row, heap->whole, false);
	heap->whole->tts_tableOid = RelationGetRelid(heap->rel);
	ItemPointerSetInvalid(&heap->whole->tts_tid);
	is_free = etl_check_index_constraints(rri, heap->whole, heap->estate, &tid,
										  arbiters);
	ExecClearTuple(heap->whole);
	list_free(arbiters);
	return !is_free;
}
