/*-------------------------------------------------------------------------
 *
 * append_guarded.c
 *	  Writing to a heap so that each row error costs its row and no more.
 *
 * A batch passes two stages.
 *
 * Checking, where nothing has been written yet: defaults, NOT NULL, CHECK,
 * generated columns and the partition constraint of the target.  The rows
 * share one subtransaction; a failing row is rejected and the next one goes
 * on from there, so nothing is done twice.  Tables with BEFORE ROW triggers
 * are checked at writing, since a trigger may mend or spoil a row.
 *
 * Writing, in attempts, each with its own subtransaction and writer.  When an
 * attempt fails at row k, the rows before k are written again, then k is
 * rejected, then the next attempt starts after it with about twice the
 * distance between the last failures.  A row is so written about three times
 * at the most.  Where the row is not known (table_multi_insert() itself
 * failed) the attempt is repeated one by one.  Where nothing can fail there
 * is no subtransaction at all.
 *
 * Invariants:
 *	- A row is rejected only when every row of the batch before it that will
 *	  be written has been written; so the outcome is that of inserting the
 *	  rows one after the other, whatever the size of the batch.
 *	- AFTER ROW triggers fire row by row for the same reason.
 *
 * After a unique violation the rows of the next batches are looked up in the
 * unique indexes before they are inserted, since each row that is written and
 * rolled back leaves a dead tuple.  The whole attempt is looked up first where
 * no row can change what becomes of a later one, but by having its key;
 * elsewhere each row just before it is inserted.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/append.h"

#include "access/genam.h"
#include "access/detoast.h"
#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "commands/trigger.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* Batches without a duplicate after which probing stops. */
#define PROBE_BATCHES 2

/* A run over the rows, or an attempt to write them, in a guard. */
typedef struct GuardedRun
{
	EtlHeapSink *sink;
	int first;
	int end;
	bool one_by_one;
	void (*visit)(EtlHeapSink *sink, int row);
} GuardedRun;

static void note_indexes(EtlHeapSink *sink);
static void visit_rows(EtlHeapSink *sink, MemoryContext context,
					   void (*visit)(EtlHeapSink *, int));
static void run_visit(void *arg);
static void visit_default(EtlHeapSink *sink, int row);
static void visit_check(EtlHeapSink *sink, int row);
static void visit_suspect(EtlHeapSink *sink, int row);
static void open_check(EtlHeapSink *sink);
static void check_not_null(EtlHeapSink *sink);
static bool row_has_null(EtlHeapSink *sink, int row);
static Size safe_row_length(Relation target);
static bool rows_always_fit(Relation target);
static bool rows_fit_pages(EtlHeapSink *sink);
static void write_in_attempts(EtlHeapSink *sink);
static bool claim_keys(EtlHeapSink *sink, int row);
static void write_claiming(EtlHeapSink *sink);
static void tune_probing(EtlHeapSink *sink);
static void write_suspects(EtlHeapSink *sink);
static bool attempt(EtlHeapSink *sink, int first, int end, bool one_by_one,
					ErrorData **edata);
static void run_attempt(void *arg);
static void reject_row(EtlHeapSink *sink, int row, ErrorData *edata);

/* Finds out what can fail; again when the supplied columns have changed. */
void
etl_heap_guarded_setup(EtlHeapSink *sink)
{
	Relation target = sink->base.target;
	TupleDesc desc = RelationGetDescr(target);
	bool before_row = target->trigdesc != NULL &&
					  target->trigdesc->trig_insert_before_row;

	sink->has_not_null = false;
	for (int i = 0; i < desc->natts; i++)
		if (TupleDescAttr(desc, i)->attnotnull)
			sink->has_not_null = true;
	sink->has_generated = desc->constr != NULL &&
						  desc->constr->has_generated_stored;
	sink->prechecks = !before_row && !(sink->partitioned && sink->has_generated);
	note_indexes(sink);
	sink->always_fit = rows_always_fit(target);

	if (sink->attempt_context == NULL)
	{
		sink->attempt_context = AllocSetContextCreate(sink->context,
													  "etl attempt",
													  ALLOCSET_DEFAULT_SIZES);
		sink->check_context = AllocSetContextCreate(sink->context,
													"etl row checks",
													ALLOCSET_DEFAULT_SIZES);
		sink->attempt_rows = sink->base.batch_limit;
	}
	else
	{
		MemoryContextReset(sink->check_context);
		sink->check_estate = NULL;
	}
}

/*
 * Can nothing fail once a row has passed the checks and fits a page?  And may
 * the keys of many rows be looked up before the first is inserted?  Neither if
 * there are triggers, which may do anything.  With a second constraint a row
 * that is looked up ahead could get the reason of the wrong one.
 */
static void
note_indexes(EtlHeapSink *sink)
{
	Relation target = sink->base.target;
	TriggerDesc *trigdesc = target->trigdesc;
	int maintained = 0;
	int constraints = 0;
	List *indexes;
	ListCell *lc;

	sink->plain = sink->looks_ahead = false;
	if (target->rd_rel->relkind != RELKIND_RELATION)
		return;
	if (trigdesc != NULL &&
		(trigdesc->trig_insert_before_row || trigdesc->trig_insert_after_row))
		return;

	indexes = RelationGetIndexList(target);
	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), RowExclusiveLock);

		if (index->rd_index->indisunique || index->rd_index->indisexclusion)
			constraints++;
		if (!etl_index_is_left_out(&sink->base.options, lfirst_oid(lc)))
			maintained++;
		index_close(index, NoLock);
	}
	list_free(indexes);
	sink->plain = maintained == 0;
	sink->looks_ahead = constraints == 1;
}

/* The first stage: completes and checks the rows of the batch. */
void
etl_heap_guarded_fill(EtlHeapSink *sink)
{
	TupleConstr *constr = RelationGetDescr(sink->base.target)->constr;

	if (sink->columns->n_default > 0)
		visit_rows(sink, sink->base.batch_context, visit_default);
	if (!sink->prechecks)
		return;
	if (sink->partitioned)
	{
		/* An error of routing would come first; see write_suspects(). */
		if (sink->has_not_null)
			check_not_null(sink);
	}
	else if ((constr != NULL && (constr->num_check > 0 || sink->has_generated)) ||
			 sink->base.target->rd_rel->relispartition)
		visit_rows(sink, sink->base.batch_context, visit_check);
	else if (sink->has_not_null)
	{
		check_not_null(sink);
		for (int row = 0; row < sink->base.batch_rows; row++)
			if (sink->states[row] == ETL_ROW_SUSPECT)
			{
				visit_rows(sink, sink->base.batch_context, visit_suspect);
				break;
			}
	}
}

/* The second stage. */
void
etl_heap_guarded_write(EtlHeapSink *sink)
{
	bool fit = sink->plain && (sink->always_fit || rows_fit_pages(sink));

	if (sink->keys != NULL && sink->base.options.left_out->unique)
	{
		Assert(sink->plain);
		etl_keys_hash(sink->keys);
		if (!fit)
		{
			write_claiming(sink);
			return;
		}
		for (int row = 0; row < sink->base.batch_rows; row++)
			if (sink->states[row] == ETL_ROW_PENDING)
				(void) claim_keys(sink, row);
	}
	if (fit)
	{
		etl_heap_writer_write(sink->writer, 0, sink->base.batch_rows, false,
							  false);
		return;
	}
	write_in_attempts(sink);
	if (sink->partitioned)
		write_suspects(sink);
}

/*
 * Visits the rows that are still in the race, in one subtransaction for as
 * long as none fails, and rejects those that do.
 */
static void
visit_rows(EtlHeapSink *sink, MemoryContext context,
		   void (*visit)(EtlHeapSink *, int))
{
	GuardedRun run = {.sink = sink, .end = sink->base.batch_rows, .visit = visit};
	EtlGuard guard = {0};
	ErrorData *edata;
	MemoryContext oldcontext = MemoryContextSwitchTo(context);

	while (run.first < run.end)
	{
		if (etl_guard_call(&guard, run_visit, &run, &edata))
			break;
		etl_heap_reject(sink, sink->base.current_row, edata);
		run.first = sink->base.current_row + 1;

		/* An expression that threw may have been left in any state. */
		MemoryContextReset(sink->check_context);
		sink->check_estate = NULL;
	}
	etl_guard_release(&guard);
	MemoryContextSwitchTo(oldcontext);
}

static void
run_visit(void *arg)
{
	GuardedRun *run = (GuardedRun *) arg;
	EtlHeapSink *sink = run->sink;

	for (int row = run->first; row < run->end; row++)
	{
		CHECK_FOR_INTERRUPTS();
		if (sink->states[row] == ETL_ROW_REJECTED)
			continue;
		sink->base.current_row = row;
		run->visit(sink, row);
	}
}

static void
visit_default(EtlHeapSink *sink, int row)
{
	TupleTableSlot *slot = sink->base.slots[row];

	if (etl_row_slot_lent(slot) == NULL)
		etl_columns_fill_defaults(sink->columns, slot);
}

/* All that the target demands of a row, with the server's own words. */
static void
visit_check(EtlHeapSink *sink, int row)
{
	TupleTableSlot *slot = sink->base.slots[row];
	EState *estate;

	if (sink->check_estate == NULL)
		open_check(sink);
	estate = sink->check_estate;
	ResetPerTupleExprContext(estate);
	slot->tts_tableOid = RelationGetRelid(sink->base.target);
	if (sink->has_generated)
		ExecComputeStoredGenerated(sink->check_rri, estate, slot, CMD_INSERT);
	if (RelationGetDescr(sink->base.target)->constr != NULL)
		ExecConstraints(sink->check_rri, slot, estate);
	if (sink->base.target->rd_rel->relispartition)
		ExecPartitionCheck(sink->check_rri, slot, estate, true);
}

static void
visit_suspect(EtlHeapSink *sink, int row)
{
	if (sink->states[row] == ETL_ROW_SUSPECT)
	{
		visit_check(sink, row);
		sink->states[row] = ETL_ROW_PENDING;
	}
}

/*
 * An executor state for the checks.  It holds nothing but memory, and is
 * dropped by a reset of its context.
 */
static void
open_check(EtlHeapSink *sink)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(sink->check_context);
	EState *estate = CreateExecutorState();
	ResultRelInfo *rri;

	MemoryContextSwitchTo(estate->es_query_cxt);
	etl_init_target_range_table(estate, sink->base.target,
								sink->columns->attnums, sink->columns->natts);
	rri = makeNode(ResultRelInfo);
	InitResultRelInfo(rri, sink->base.target, 1, NULL, 0);
	sink->check_rri = rri;
	sink->check_estate = estate;
	MemoryContextSwitchTo(oldcontext);
}

/* Marks the rows with a NULL where none may be; cheap, and cannot fail. */
static void
check_not_null(EtlHeapSink *sink)
{
	for (int row = 0; row < sink->base.batch_rows; row++)
		if (sink->states[row] == ETL_ROW_PENDING && row_has_null(sink, row))
			sink->states[row] = ETL_ROW_SUSPECT;
}

static bool
row_has_null(EtlHeapSink *sink, int row)
{
	TupleTableSlot *slot = sink->base.slots[row];
	TupleDesc desc = slot->tts_tupleDescriptor;
	HeapTuple tuple = etl_row_slot_lent(slot);

	if (tuple != NULL)
	{
		if (!HeapTupleHasNulls(tuple))
			return false;
		slot_getallattrs(slot);
	}
	for (int i = 0; i < desc->natts; i++)
		if (slot->tts_isnull[i] && TupleDescAttr(desc, i)->attnotnull)
			return true;
	return false;
}

/*
 * The length of a row that cannot fail for want of room on a page.  Longer ones
 * are toasted, which is a matter of each row; without a TOAST table a page's
 * room is all there is.
 */
static Size
safe_row_length(Relation target)
{
	return OidIsValid(target->rd_rel->reltoastrelid) ? TOAST_TUPLE_THRESHOLD :
													   MaxHeapTupleSize;
}

/*
 * Is a row never too long for a page, whatever it holds?  Long values are moved
 * out of a row one by one until it fits, down to a pointer for each; but not
 * from a table without a TOAST table, whose columns can be many or of a type
 * that is never toasted.
 */
static bool
rows_always_fit(Relation target)
{
	TupleDesc desc = RelationGetDescr(target);
	bool toasts = OidIsValid(target->rd_rel->reltoastrelid);
	Size size = SizeofHeapTupleHeader + BITMAPLEN(desc->natts) + MAXIMUM_ALIGNOF;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		int32 longest = att->attlen;

		if (att->attisdropped)
			continue;
		if (att->attlen == -1 && toasts && att->attstorage != TYPSTORAGE_PLAIN)
			longest = TOAST_POINTER_SIZE;
		else if (att->attlen == -1 && !toasts)
			longest = type_maximum_size(att->atttypid, att->atttypmod);
		if (longest < 0)
			return false;
		size += longest + MAXIMUM_ALIGNOF;
	}
	return size <= (toasts ? TOAST_TUPLE_TARGET_MAIN : MaxHeapTupleSize);
}

/* Is none of the pending rows too long, nor to be toasted? */
static bool
rows_fit_pages(EtlHeapSink *sink)
{
	Size longest = safe_row_length(sink->base.target);

	for (int row = 0; row < sink->base.batch_rows; row++)
	{
		TupleTableSlot *slot = sink->base.slots[row];
		HeapTuple tuple = etl_row_slot_lent(slot);
		Size length;

		if (sink->states[row] != ETL_ROW_PENDING)
			continue;
		if (tuple != NULL)
			length = tuple->t_len;
		else
		{
			slot_getallattrs(slot);
			length = MAXALIGN(SizeofHeapTupleHeader +
							  BITMAPLEN(slot->tts_tupleDescriptor->natts)) +
					 heap_compute_data_size(slot->tts_tupleDescriptor,
											slot->tts_values, slot->tts_isnull);
		}
		if (MAXALIGN(length) > longest)
			return false;
	}
	return true;
}

/* Writes the pending rows of the batch as the head of this file tells. */
static void
write_in_attempts(EtlHeapSink *sink)
{
	int nrows = sink->base.batch_rows;
	int first = 0;
	int failed_row = -1; /* at the end of what is tried, if known */
	ErrorData *failed_error = NULL;
	bool one_by_one = false;

	while (first < nrows)
	{
		int end = Min(first + sink->attempt_rows, nrows);
		bool single;
		ErrorData *edata;

		if (sink->states[first] != ETL_ROW_PENDING)
		{
			first++;
			continue;
		}
		if (failed_row >= 0)
			end = failed_row;
		single = one_by_one || (sink->probe_batches > 0 && !sink->looks_ahead);

		if (attempt(sink, first, end, single, &edata))
		{
			sink->gap += end - first;
			first = end;
			one_by_one = false;
			if (failed_row < 0)
				sink->attempt_rows = Min(sink->attempt_rows * 2,
										 sink->base.batch_limit);
			else
			{
				/* All before it is written as it was when it failed. */
				reject_row(sink, first++, failed_error);
				failed_row = -1;
			}
		}
		else if (sink->base.current_row < 0)
		{
			if (single)
				ReThrowError(edata);
			one_by_one = true;
		}
		else if (sink->base.current_row == first)
		{
			reject_row(sink, first++, edata);
			failed_row = -1;
		}
		else
		{
			failed_row = sink->base.current_row;
			failed_error = edata;
		}
	}
	tune_probing(sink);
}

/* Takes the unique keys of a row, or rejects it for one that is taken. */
static bool
claim_keys(EtlHeapSink *sink, int row)
{
	Oid refused = etl_keys_claim(sink->keys, row);
	TupleTableSlot *slot = sink->base.slots[row];
	Datum values[INDEX_MAX_KEYS];
	bool isnull[INDEX_MAX_KEYS];
	Relation index;

	if (refused == InvalidOid)
		return true;
	index = index_open(refused, AccessShareLock);
	etl_keys_values(index, slot, values, isnull);
	etl_heap_reject_duplicate(sink, row, index, values, isnull);
	index_close(index, NoLock);
	return false;
}

/*
 * Where unique indexes are left out and a row may still fail, each is written
 * on its own before the next one's keys are looked up.
 */
static void
write_claiming(EtlHeapSink *sink)
{
	for (int row = 0; row < sink->base.batch_rows; row++)
	{
		ErrorData *edata;

		if (sink->states[row] != ETL_ROW_PENDING || !claim_keys(sink, row))
			continue;
		if (!attempt(sink, row, row + 1, true, &edata))
		{
			etl_heap_reject(sink, row, edata);
			etl_keys_release(sink->keys, row);
		}
	}
}

/* Looking before writing pays for as long as there are duplicates. */
static void
tune_probing(EtlHeapSink *sink)
{
	if (sink->probe_batches > 0)
		sink->probe_batches--;
	for (int row = 0; row < sink->base.batch_rows; row++)
		if (sink->states[row] == ETL_ROW_REJECTED &&
			sink->rejects[row].sqlerrcode == ERRCODE_UNIQUE_VIOLATION)
			sink->probe_batches = PROBE_BATCHES;
}

/* Rejects a row of the second stage and tunes the attempts after it. */
static void
reject_row(EtlHeapSink *sink, int row, ErrorData *edata)
{
	etl_heap_reject(sink, row, edata);
	sink->attempt_rows = Min(Max(2 * sink->gap, 1), sink->base.batch_limit);
	sink->gap = 0;
	if (edata->sqlerrcode == ERRCODE_UNIQUE_VIOLATION)
		sink->probe_batches = PROBE_BATCHES;
}

/*
 * Rows of a partitioned table that have a NULL where none may be fail, but
 * perhaps for want of a partition first.  So the writer has the word.
 */
static void
write_suspects(EtlHeapSink *sink)
{
	for (int row = 0; row < sink->base.batch_rows; row++)
	{
		ErrorData *edata;

		if (sink->states[row] != ETL_ROW_SUSPECT)
			continue;
		sink->states[row] = ETL_ROW_PENDING;
		if (!attempt(sink, row, row + 1, true, &edata))
			etl_heap_reject(sink, row, edata);
	}
}

/*
 * Tries to write the pending rows of [first, end).  If that fails everything
 * is as before, and sink->current_row is the row at fault, or -1.
 */
static bool
attempt(EtlHeapSink *sink, int first, int end, bool one_by_one,
		ErrorData **edata)
{
	GuardedRun run = {.sink = sink,
					  .first = first,
					  .end = end,
					  .one_by_one = one_by_one};
	EtlGuard guard = {0};
	MemoryContext oldcontext = MemoryContextSwitchTo(sink->base.batch_context);
	Size size = sizeof(EtlRowState) * (end - first);
	EtlRowState *saved = palloc(size);
	bool ok;

	memcpy(saved, sink->states + first, size);
	sink->base.current_row = -1;
	ok = etl_guard_call(&guard, run_attempt, &run, edata);
	if (ok)
		etl_guard_release(&guard);
	else
		memcpy(sink->states + first, saved, size);
	pfree(saved);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(sink->attempt_context);
	return ok;
}

static void
run_attempt(void *arg)
{
	GuardedRun *run = (GuardedRun *) arg;
	EtlHeapSink *sink = run->sink;
	EtlHeapWriter *writer;

	MemoryContextSwitchTo(sink->attempt_context);
	writer = etl_heap_writer_open(sink,
								  ETL_WRITER_INDEXES | ETL_WRITER_EACH_ROW);
	etl_heap_writer_write(writer, run->first, run->end, run->one_by_one,
						  sink->probe_batches > 0);
	etl_heap_writer_close(writer);
}
