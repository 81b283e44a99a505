/*-------------------------------------------------------------------------
 *
 * append_writer.c
 *	  The executor's machinery around table_multi_insert().
 *
 * A writer puts rows of the sink's batch into the target as INSERT would:
 * partition routing, BEFORE ROW triggers, generated columns, constraints,
 * heap, indexes, AFTER ROW triggers.  It owns everything that belongs to a
 * resource owner (relations, pins, tuple descriptors) and to the executor.
 *
 * Invariants:
 *	- A writer lives within one subtransaction.  It is closed before that
 *	  subtransaction is released, and when the subtransaction is rolled back
 *	  its memory is thrown away without a look at it: the resource owner has
 *	  already given back what it held.  Therefore nothing outside, least of
 *	  all the sink's slots, may refer to what a writer owns.
 *	- sink->current_row is the row that is being worked on, or -1 where
 *	  several are written at once, so that an error has its row.
 *
 * Locks: the caller holds RowExclusiveLock on the target; leaf partitions
 * and indexes are locked likewise as they are opened, until commit.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/append.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "utils/memutils.h"

/* Slots that the leaf partitions may keep from batch to batch, all together. */
#define MAX_OWN_SLOTS (8 * ETL_MAX_BATCH_ROWS)

/* One table that rows go to: the target itself or a leaf partition. */
typedef struct HeapLeaf
{
	ResultRelInfo *rri;
	BulkInsertState bistate;
	TupleTableSlot *single; /* a row that is written on its own */
	TupleTableSlot **own;	/* rows in a leaf's form, made on demand */
	TupleDesc own_desc;		/* theirs; a pin for each takes too long */
	int n_own;
	TupleTableSlot **slots; /* rows gathered for one multi-insert */
	int *rows;
	int nrows;
	EtlKeyProbe *probe; /* made on demand */
	bool before_row;
	bool after_row;
	bool in_order; /* each row after all before it is done with */
	bool generated;
	bool only_not_null; /* there are no other constraints */
	bool check_partition;
} HeapLeaf;

struct EtlHeapWriter
{
	EtlHeapSink *sink;
	int flags;
	bool in_statement; /* an AFTER trigger level is open */
	EState *estate;
	ResultRelInfo *root;
	ModifyTableState *mtstate;
	PartitionTupleRouting *proute;
	TransitionCaptureState *capture;
	HeapLeaf *only; /* not partitioned */
	List *leaves;
	List *arbiters; /* the index whose keys may be taken */
	int options;
	int n_own; /* slots that leaves have made */
	CommandId cid;
	bool probe;
	bool claims; /* unique keys are taken as rows get into the heap */
};

static void open_target(EtlHeapWriter *writer, Relation target);
static void drop_left_out_indexes(ResultRelInfo *rri,
								  const EtlSinkOptions *options);
static HeapLeaf *make_leaf(EtlHeapWriter *writer, ResultRelInfo *rri);
static bool triggers_look(EtlHeapWriter *writer, Relation rel);
static HeapLeaf *route(EtlHeapWriter *writer, TupleTableSlot *slot);
static TupleTableSlot *leaf_slot(EtlHeapWriter *writer, HeapLeaf *leaf,
								 TupleTableSlot *slot, bool single);
static bool takes_as_they_are(EtlHeapWriter *writer, bool one_by_one);
static int take_rows(EtlHeapWriter *writer, int first, int end);
static void write_row(EtlHeapWriter *writer, int row, bool one_by_one);
static void check_row(EtlHeapWriter *writer, HeapLeaf *leaf,
					  TupleTableSlot *slot);
static bool has_no_nulls(TupleTableSlot *slot);
static void finish_row(EtlHeapWriter *writer, HeapLeaf *leaf,
					   TupleTableSlot *slot, int row);
static void drop_own_slots(EtlHeapWriter *writer);
static void flush_leaf(EtlHeapWriter *writer, HeapLeaf *leaf);
static void probe_rows(EtlHeapWriter *writer, int first, int end);
static bool probe_row(EtlHeapWriter *writer, HeapLeaf *leaf,
					  TupleTableSlot *slot, int row);
static void claim_keys(EtlHeapWriter *writer, HeapLeaf *leaf,
					   TupleTableSlot *slot, int row);

/*
 * Opens a writer in the current memory context and resource owner.  With
 * ETL_WRITER_STATEMENT the BEFORE STATEMENT triggers fire here and the AFTER
 * STATEMENT triggers at the close.
 */
EtlHeapWriter *
etl_heap_writer_open(EtlHeapSink *sink, int flags)
{
	EtlHeapWriter *writer = palloc0(sizeof(EtlHeapWriter));
	Relation target = sink->base.target;
	MemoryContext oldcontext;
	TriggerDesc *trigdesc;

	writer->sink = sink;
	writer->flags = flags;
	writer->estate = CreateExecutorState();
	oldcontext = MemoryContextSwitchTo(writer->estate->es_query_cxt);
	open_target(writer, target);

	trigdesc = writer->root->ri_TrigDesc;
	if ((flags & ETL_WRITER_STATEMENT) && trigdesc != NULL &&
		(trigdesc->trig_insert_before_statement ||
		 trigdesc->trig_insert_after_statement ||
		 trigdesc->trig_insert_new_table))
	{
		AfterTriggerBeginQuery();
		writer->in_statement = true;
		writer->capture = writer->mtstate->mt_transition_capture =
			MakeTransitionCaptureState(trigdesc, RelationGetRelid(target),
									   CMD_INSERT);
	}

	if (target->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		writer->proute = ExecSetupPartitionTupleRouting(writer->estate, target);
	else
		writer->only = make_leaf(writer, writer->root);

	if (writer->in_statement)
		ExecBSInsertTriggers(writer->estate, writer->root);
	MemoryContextSwitchTo(oldcontext);
	return writer;
}

/*
 * Writes the pending rows of [first, end) and sets their states.  Rows are
 * inserted one by one where that is asked for or a trigger demands it, else
 * many to a page at a time.  With probe, a row whose key is taken is rejected
 * without an error: one by one just before it is inserted, else before any is.
 */
void
etl_heap_writer_write(EtlHeapWriter *writer, int first, int end,
					  bool one_by_one, bool probe)
{
	EtlHeapSink *sink = writer->sink;
	bool own_level = writer->capture == NULL &&
					 !sink->base.options.defers_triggers &&
					 !(writer->flags & ETL_WRITER_EACH_ROW);
	MemoryContext oldcontext;
	ListCell *lc;

	oldcontext = MemoryContextSwitchTo(writer->estate->es_query_cxt);
	writer->cid = writer->estate->es_output_cid = GetCurrentCommandId(true);
	writer->probe = probe && one_by_one;
	writer->claims = sink->keys != NULL && !sink->base.options.guarded;
	if (own_level)
		AfterTriggerBeginQuery();

	if (probe && !one_by_one)
		probe_rows(writer, first, end);
	if (takes_as_they_are(writer, one_by_one))
		first = take_rows(writer, first, end);
	for (int row = first; row < end; row++)
	{
		CHECK_FOR_INTERRUPTS();
		if (sink->states[row] == ETL_ROW_PENDING)
		{
			ResetPerTupleExprContext(writer->estate);
			sink->base.current_row = row;
			write_row(writer, row, one_by_one);
		}
	}
	foreach(lc, writer->leaves)
	{
		HeapLeaf *leaf = (HeapLeaf *) lfirst(lc);

		/* A pin for each of many partitions would be too many. */
		flush_leaf(writer, leaf);
		ReleaseBulkInsertStatePin(leaf->bistate);
	}

	if (writer->n_own > MAX_OWN_SLOTS)
		drop_own_slots(writer);

	sink->base.current_row = -1;
	if (own_level)
		AfterTriggerEndQuery(writer->estate);
	ResetPerTupleExprContext(writer->estate);
	MemoryContextSwitchTo(oldcontext);
}

/* Is there nothing to be done with a row before it is written with others? */
static bool
takes_as_they_are(EtlHeapWriter *writer, bool one_by_one)
{
	return writer->only != NULL && !one_by_one && !writer->only->in_order &&
		   writer->capture == NULL &&
		   (writer->sink->prechecks ||
			(writer->only->rri->ri_RelationDesc->rd_att->constr == NULL &&
			 !writer->only->check_partition));
}

/* Gathers the pending rows of [first, end); returns where it ended. */
static int
take_rows(EtlHeapWriter *writer, int first, int end)
{
	EtlHeapSink *sink = writer->sink;
	HeapLeaf *leaf = writer->only;

	for (int row = first; row < end; row++)
	{
		TupleTableSlot *slot = sink->base.slots[row];

		if (sink->states[row] != ETL_ROW_PENDING)
			continue;
		slot->tts_tableOid = RelationGetRelid(sink->base.target);
		leaf->slots[leaf->nrows] = slot;
		leaf->rows[leaf->nrows++] = row;
	}
	return end;
}

/* Closes a writer whose subtransaction is the current one. */
void
etl_heap_writer_close(EtlHeapWriter *writer)
{
	ListCell *lc;

	if (writer->in_statement)
	{
		MemoryContext oldcontext;

		oldcontext = MemoryContextSwitchTo(writer->estate->es_query_cxt);
		ExecASInsertTriggers(writer->estate, writer->root, writer->capture);
		AfterTriggerEndQuery(writer->estate);
		MemoryContextSwitchTo(oldcontext);
	}

	drop_own_slots(writer);
	foreach(lc, writer->leaves)
	{
		HeapLeaf *leaf = (HeapLeaf *) lfirst(lc);

		if (leaf->probe != NULL)
			etl_key_probe_close(leaf->probe);
		FreeBulkInsertState(leaf->bistate);
		table_finish_bulk_insert(leaf->rri->ri_RelationDesc, writer->options);
		leaf->rri->ri_CopyMultiInsertBuffer = NULL;
	}
	ExecResetTupleTable(writer->estate->es_tupleTable, false);
	if (writer->proute != NULL)
		ExecCleanupTupleRouting(writer->mtstate, writer->proute);
	ExecCloseResultRelations(writer->estate);
	ExecCloseRangeTableRelations(writer->estate);
	FreeExecutorState(writer->estate);
	pfree(writer);
}

/* Sets up the target as the executor's only result relation. */
static void
open_target(EtlHeapWriter *writer, Relation target)
{
	EtlColumns *columns = writer->sink->columns;
	ModifyTableState *mtstate;
	ResultRelInfo *rri = makeNode(ResultRelInfo);

	etl_init_target_range_table(writer->estate, target, columns->attnums,
								columns->natts);
	ExecInitResultRelation(writer->estate, rri, 1);
	writer->root = rri;

	/* A partitioned table has none of its own. */
	if (target->rd_rel->relkind != RELKIND_PARTITIONED_TABLE &&
		(writer->flags & ETL_WRITER_INDEXES))
	{
		ExecOpenIndices(rri, false);
		if (writer->sink->base.options.left_out != NULL)
			drop_left_out_indexes(rri, &writer->sink->base.options);
	}

	if (OidIsValid(writer->sink->base.options.key_index))
		writer->arbiters = list_make1_oid(writer->sink->base.options.key_index);

	mtstate = makeNode(ModifyTableState);
	mtstate->ps.state = writer->estate;
	mtstate->operation = CMD_INSERT;
	mtstate->mt_nrels = 1;
	mtstate->resultRelInfo = rri;
	mtstate->rootResultRelInfo = rri;
	writer->mtstate = mtstate;

	/* The free space map knows nothing of storage made in this transaction. */
	if (target->rd_rel->relkind != RELKIND_PARTITIONED_TABLE &&
		(target->rd_createSubid != InvalidSubTransactionId ||
		 etl_rd_first_new_storage_subid(target) != InvalidSubTransactionId))
		writer->options |= TABLE_INSERT_SKIP_FSM;

	/* Not in a subtransaction that may be rolled back while the storage stays. */
	if (writer->sink->base.options.freeze && etl_sink_may_freeze(target))
		writer->options |= TABLE_INSERT_FROZEN;
}

/* Forgets the indexes that etl_indexes_rebuild() will build anew. */
static void
drop_left_out_indexes(ResultRelInfo *rri, const EtlSinkOptions *options)
{
	int kept = 0;

	for (int i = 0; i < rri->ri_NumIndices; i++)
	{
		Relation index = rri->ri_IndexRelationDescs[i];

		if (etl_index_is_left_out(options, RelationGetRelid(index)))
		{
			index_close(index, NoLock);
			continue;
		}
		rri->ri_IndexRelationDescs[kept] = index;
		rri->ri_IndexRelationInfo[kept] = rri->ri_IndexRelationInfo[i];
		kept++;
	}
	rri->ri_NumIndices = kept;
}

/* Prepares a table to take rows; runs in the executor's context. */
static HeapLeaf *
make_leaf(EtlHeapWriter *writer, ResultRelInfo *rri)
{
	HeapLeaf *leaf = palloc0(sizeof(HeapLeaf));
	Relation rel = rri->ri_RelationDesc;
	TupleConstr *constr = rel->rd_att->constr;

	if (rri->ri_FdwRoutine != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("foreign table \"%s\" was attached as a partition during the load",
						RelationGetRelationName(rel)),
				 errhint("Load again.")));

	leaf->rri = rri;
	leaf->bistate = GetBulkInsertState();
	leaf->single = table_slot_create(rel, &writer->estate->es_tupleTable);
	leaf->slots = palloc(sizeof(TupleTableSlot *) * ETL_MAX_BATCH_ROWS);
	leaf->rows = palloc(sizeof(int) * ETL_MAX_BATCH_ROWS);
	if (rri->ri_TrigDesc != NULL)
	{
		leaf->before_row = rri->ri_TrigDesc->trig_insert_before_row;
		leaf->after_row = rri->ri_TrigDesc->trig_insert_after_row;
		leaf->in_order = leaf->before_row ||
						 ((writer->flags & ETL_WRITER_EACH_ROW) &&
						  triggers_look(writer, rel));
	}
	leaf->generated = constr != NULL && constr->has_generated_stored;
	leaf->only_not_null = constr == NULL || constr->num_check == 0;
	leaf->check_partition = rel->rd_rel->relispartition &&
							(writer->proute == NULL || leaf->before_row);
	rri->ri_CopyMultiInsertBuffer = (struct CopyMultiInsertBuffer *) leaf;
	writer->leaves = lappend(writer->leaves, leaf);
	return leaf;
}

/*
 * May an AFTER ROW trigger look at the rows of the target?  A foreign key
 * check looks at the other table.
 */
static bool
triggers_look(EtlHeapWriter *writer, Relation rel)
{
	for (int i = 0; i < rel->trigdesc->numtriggers; i++)
	{
		Trigger *trigger = &rel->trigdesc->triggers[i];

		if (TRIGGER_FOR_AFTER(trigger->tgtype) &&
			TRIGGER_FOR_ROW(trigger->tgtype) &&
			TRIGGER_FOR_INSERT(trigger->tgtype) &&
			(RI_FKey_trigger_type(trigger->tgfoid) != RI_TRIGGER_FK ||
			 trigger->tgconstrrelid == RelationGetRelid(rel) ||
			 trigger->tgconstrrelid ==
				 RelationGetRelid(writer->sink->base.target)))
			return true;
	}
	return false;
}

/* Finds the leaf partition of a row of the partitioned target. */
static HeapLeaf *
route(EtlHeapWriter *writer, TupleTableSlot *slot)
{
	ResultRelInfo *rri;

	rri = ExecFindPartition(writer->mtstate, writer->root, writer->proute, slot,
							writer->estate);
	if (rri->ri_CopyMultiInsertBuffer != NULL)
		return (HeapLeaf *) rri->ri_CopyMultiInsertBuffer;
	return make_leaf(writer, rri);
}

/*
 * The row in the leaf's form, in a slot of the writer.  The sink's own slot
 * is left alone, so that a trigger's changes do not outlive a rollback.
 */
static TupleTableSlot *
leaf_slot(EtlHeapWriter *writer, HeapLeaf *leaf, TupleTableSlot *slot,
		  bool single)
{
	TupleTableSlot *result = leaf->single;
	TupleConversionMap *map = NULL;
	int natts = slot->tts_tupleDescriptor->natts;

	if (!single)
	{
		if (leaf->own == NULL)
		{
			leaf->own = palloc(sizeof(TupleTableSlot *) * ETL_MAX_BATCH_ROWS);
			leaf->own_desc = CreateTupleDescCopyConstr(
				RelationGetDescr(leaf->rri->ri_RelationDesc));
		}
		if (leaf->nrows == leaf->n_own)
		{
			leaf->own[leaf->n_own++] =
				MakeSingleTupleTableSlot(leaf->own_desc,
										 table_slot_callbacks(
											 leaf->rri->ri_RelationDesc));
			writer->n_own++;
		}
		result = leaf->own[leaf->nrows];
	}

	slot_getallattrs(slot);
	if (writer->proute != NULL)
		map = etl_root_to_child_map(leaf->rri, writer->estate);
	if (map != NULL)
		return execute_attr_map_slot(map->attrMap, slot, result);

	ExecClearTuple(result);
	memcpy(result->tts_values, slot->tts_values, sizeof(Datum) * natts);
	memcpy(result->tts_isnull, slot->tts_isnull, sizeof(bool) * natts);
	return ExecStoreVirtualTuple(result);
}

/* Takes one row as far as it gets before it is written with others. */
static void
write_row(EtlHeapWriter *writer, int row, bool one_by_one)
{
	EtlHeapSink *sink = writer->sink;
	EState *estate = writer->estate;
	TupleTableSlot *slot = sink->base.slots[row];
	HeapLeaf *leaf = writer->only;
	bool single;

	slot->tts_tableOid = RelationGetRelid(sink->base.target);
	if (leaf == NULL)
		leaf = route(writer, slot);
	single = one_by_one || leaf->in_order ||
			 (writer->capture != NULL && writer->proute != NULL);
	if (writer->capture != NULL)
		writer->capture->tcs_original_insert_tuple = writer->proute != NULL &&
															 !leaf->before_row ?
														 slot :
														 NULL;
	if (single || writer->proute != NULL)
		slot = leaf_slot(writer, leaf, slot, single);
	slot->tts_tableOid = RelationGetRelid(leaf->rri->ri_RelationDesc);

	if (leaf->in_order)
	{
		ListCell *lc;

		/* A trigger may look at the rows before this one, not after it. */
		foreach(lc, writer->leaves)
			flush_leaf(writer, (HeapLeaf *) lfirst(lc));
		sink->base.current_row = row;
	}
	if (leaf->before_row && !ExecBRInsertTriggers(estate, leaf->rri, slot))
	{
		sink->states[row] = ETL_ROW_SUPPRESSED;
		return;
	}
	check_row(writer, leaf, slot);

	if (!single)
	{
		leaf->slots[leaf->nrows] = slot;
		leaf->rows[leaf->nrows++] = row;
		return;
	}
	if (writer->probe && probe_row(writer, leaf, slot, row))
		return;
	table_tuple_insert(leaf->rri->ri_RelationDesc, slot, writer->cid,
					   writer->options, leaf->bistate);
	finish_row(writer, leaf, slot, row);
}

/* Generated columns and constraints, where they were not seen to before. */
static void
check_row(EtlHeapWriter *writer, HeapLeaf *leaf, TupleTableSlot *slot)
{
	if (writer->sink->prechecks && writer->proute == NULL)
		return;
	if (leaf->generated)
		ExecComputeStoredGenerated(leaf->rri, writer->estate, slot, CMD_INSERT);
	if (leaf->rri->ri_RelationDesc->rd_att->constr != NULL &&
		!(leaf->only_not_null && has_no_nulls(slot)))
		ExecConstraints(leaf->rri, slot, writer->estate);
	if (leaf->check_partition)
		ExecPartitionCheck(leaf->rri, slot, writer->estate, true);
}

/* Does the slot hold a tuple that is known to have a value in each column? */
static bool
has_no_nulls(TupleTableSlot *slot)
{
	HeapTuple tuple = etl_row_slot_lent(slot);

	return tuple != NULL && !HeapTupleHasNulls(tuple) &&
		   HeapTupleHeaderGetNatts(tuple->t_data) ==
			   slot->tts_tupleDescriptor->natts;
}

/* Index entries and AFTER ROW triggers of a row that is in the heap. */
static void
finish_row(EtlHeapWriter *writer, HeapLeaf *leaf, TupleTableSlot *slot, int row)
{
	bool each_row = (writer->flags & ETL_WRITER_EACH_ROW) != 0;
	List *recheck = NIL;

	if (OidIsValid(writer->sink->base.options.key_index) && writer->only != NULL)
	{
		EtlSink *sink = &writer->sink->base;
		bool taken = false;

		recheck = etl_insert_unless_taken(leaf->rri, slot, writer->estate,
										  &taken, writer->arbiters);
		if (taken)
		{
			writer->sink->states[row] = ETL_ROW_TAKEN;
			sink->taken(sink->taken_arg, row, &slot->tts_tid);
			list_free(recheck);
			return;
		}
	}
	else if (leaf->rri->ri_NumIndices > 0)
		recheck = etl_insert_index_tuples(leaf->rri, slot, writer->estate);
	if (writer->claims)
		claim_keys(writer, leaf, slot, row);
	if (writer->sink->keys != NULL)
		writer->sink->base.slots[row]->tts_tid = slot->tts_tid;
	if (leaf->after_row || writer->capture != NULL)
	{
		if (each_row)
			AfterTriggerBeginQuery();
		ExecARInsertTriggers(writer->estate, leaf->rri, slot, recheck,
							 writer->capture);
		if (each_row)
			AfterTriggerEndQuery(writer->estate);
	}
	list_free(recheck);
	writer->sink->states[row] = ETL_ROW_WRITTEN;
}

/* Bounds the memory of a load into many partitions. */
static void
drop_own_slots(EtlHeapWriter *writer)
{
	ListCell *lc;

	foreach(lc, writer->leaves)
	{
		HeapLeaf *leaf = (HeapLeaf *) lfirst(lc);

		for (int i = 0; i < leaf->n_own; i++)
			ExecDropSingleTupleTableSlot(leaf->own[i]);
		leaf->n_own = 0;
	}
	writer->n_own = 0;
}

/* Writes the rows that a leaf has gathered. */
static void
flush_leaf(EtlHeapWriter *writer, HeapLeaf *leaf)
{
	EtlSink *sink = &writer->sink->base;
	bool done = leaf->rri->ri_NumIndices == 0 && !leaf->after_row &&
				writer->capture == NULL && !writer->claims;
	MemoryContext oldcontext;

	if (leaf->nrows == 0)
		return;

	/* table_multi_insert() leaks. */
	ResetPerTupleExprContext(writer->estate);
	sink->current_row = leaf->nrows == 1 ? leaf->rows[0] : -1;
	oldcontext = MemoryContextSwitchTo(GetPerTupleMemoryContext(writer->estate));
	table_multi_insert(leaf->rri->ri_RelationDesc, leaf->slots, leaf->nrows,
					   writer->cid, writer->options, leaf->bistate);
	MemoryContextSwitchTo(oldcontext);

	for (int i = 0; i < leaf->nrows; i++)
	{
		if (done)
		{
			writer->sink->states[leaf->rows[i]] = ETL_ROW_WRITTEN;
			continue;
		}
		sink->current_row = leaf->rows[i];
		ResetPerTupleExprContext(writer->estate);
		finish_row(writer, leaf, leaf->slots[i], leaf->rows[i]);
	}
	leaf->nrows = 0;
}

/* Rejects those of the pending rows whose key is taken. */
static void
probe_rows(EtlHeapWriter *writer, int first, int end)
{
	EtlHeapSink *sink = writer->sink;

	for (int row = first; row < end; row++)
	{
		CHECK_FOR_INTERRUPTS();
		if (sink->states[row] != ETL_ROW_PENDING)
			continue;
		ResetPerTupleExprContext(writer->estate);
		sink->base.current_row = row;
		(void) probe_row(writer, writer->only, sink->base.slots[row], row);
	}
}

/* Rejects a row if a unique key of it is taken. */
static bool
probe_row(EtlHeapWriter *writer, HeapLeaf *leaf, TupleTableSlot *slot, int row)
{
	if (leaf->probe == NULL)
		leaf->probe = etl_key_probe_open(writer->sink, leaf->rri,
										 writer->estate);
	return etl_key_probe_row(leaf->probe, slot, row);
}

/* Throws what the insertion into a unique index that is left out would throw. */
static void
claim_keys(EtlHeapWriter *writer, HeapLeaf *leaf, TupleTableSlot *slot, int row)
{
	Oid refused = etl_keys_claim(writer->sink->keys, row);
	Relation rel = leaf->rri->ri_RelationDesc;
	Datum values[INDEX_MAX_KEYS];
	bool isnull[INDEX_MAX_KEYS];
	Relation index;
	char *key;

	if (refused == InvalidOid)
		return;
	index = index_open(refused, AccessShareLock);
	etl_keys_values(index, slot, values, isnull);
	key = BuildIndexValueDescription(index, values, isnull);
	ereport(ERROR,
			(errcode(ERRCODE_UNIQUE_VIOLATION),
			 errmsg("duplicate key value violates unique constraint \"%s\"",
					RelationGetRelationName(index)),
			 key ? errdetail("Key %s already exists.", key) : 0,
			 errtableconstraint(rel, RelationGetRelationName(index))));
}
