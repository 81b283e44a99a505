/*-------------------------------------------------------------------------
 *
 * append_heap.c
 *	  The direct way into heap tables and partitioned tables of heap tables.
 *
 * Rows go through the executor's insertion machinery (append_writer.c)
 * without a plan, as those of COPY do.  A sink that is not guarded keeps one
 * writer for the whole load.  A guarded sink keeps one for the statement
 * triggers, and for writing where nothing can fail; otherwise each attempt
 * has its own (append_guarded.c).
 *
 * Locks: the caller holds RowExclusiveLock on the target.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/append.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/syscache.h"

static bool heap_serves(Relation target, const EtlSinkOptions *options);
static bool partitions_are_heaps(Relation target);
static EtlSink *heap_open(Relation target, const AttrNumber *attnums, int natts,
						  const EtlSinkOptions *options);
static void open_keys(EtlHeapSink *sink);
static void stop_leaving_out(EtlHeapSink *sink, bool unique_only);
static void mind_keys(EtlHeapSink *sink);
static void open_writer(EtlHeapSink *sink);
static void heap_set_columns(EtlSink *base, const AttrNumber *attnums,
							 int natts);
static bool heap_takes_tuples(EtlSink *base, TupleDesc desc);
static bool heap_takes_formed(EtlSink *base, Datum *values, bool *isnull);
static void set_batch_limit(EtlHeapSink *sink);
static void heap_flush(EtlSink *base);
static void count_rows(EtlHeapSink *sink);
static void heap_close(EtlSink *base);

const EtlSinkOps etl_append_heap_ops = {
	.name = "append_heap",
	.serves = heap_serves,
	.open = heap_open,
	.set_columns = heap_set_columns,
	.takes_tuples = heap_takes_tuples,
	.takes_formed = heap_takes_formed,
	.flush = heap_flush,
	.close = heap_close,
};

/*
 * Rows of transition tables cannot be taken back when an attempt fails, so
 * a guarded load of a table that has them goes through SQL.
 */
static bool
heap_serves(Relation target, const EtlSinkOptions *options)
{
	if (options->general || options->on_conflict != ETL_CONFLICT_ERROR)
		return false;
	if (check_enable_rls(RelationGetRelid(target), InvalidOid, false) ==
		RLS_ENABLED)
		return false;
	if (options->guarded && target->trigdesc != NULL &&
		target->trigdesc->trig_insert_new_table)
		return false;
	switch (target->rd_rel->relkind)
	{
		case RELKIND_RELATION:
			return target->rd_rel->relam == HEAP_TABLE_AM_OID;
		case RELKIND_PARTITIONED_TABLE:
			return partitions_are_heaps(target);
		default:
			return false;
	}
}

/*
 * The leaves are not locked: one that is attached later is looked at when
 * the first row reaches it.
 */
static bool
partitions_are_heaps(Relation target)
{
	List *children = find_all_inheritors(RelationGetRelid(target), NoLock, NULL);
	ListCell *lc;
	bool result = true;

	foreach(lc, children)
	{
		HeapTuple tuple = SearchSysCache1(RELOID,
										  ObjectIdGetDatum(lfirst_oid(lc)));
		Form_pg_class form;

		if (!HeapTupleIsValid(tuple))
			continue;
		form = (Form_pg_class) GETSTRUCT(tuple);
		if (form->relkind != RELKIND_PARTITIONED_TABLE &&
			(form->relkind != RELKIND_RELATION ||
			 form->relam != HEAP_TABLE_AM_OID))
			result = false;
		ReleaseSysCache(tuple);
	}
	list_free(children);
	return result;
}

static EtlSink *
heap_open(Relation target, const AttrNumber *attnums, int natts,
		  const EtlSinkOptions *options)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "etl heap sink",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	EtlHeapSink *sink = palloc0(sizeof(EtlHeapSink));

	sink->context = context;
	sink->base.target = target;
	sink->base.options = *options;
	sink->base.current_row = -1;
	sink->base.batch_context = AllocSetContextCreate(context, "etl batch",
													 ALLOCSET_DEFAULT_SIZES);
	sink->partitioned = target->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	if (!sink->partitioned)
		sink->base.slot_ops = etl_row_slot_ops();
	sink->columns = etl_columns_create(target, attnums, natts);
	set_batch_limit(sink);
	sink->base.slots = palloc0(sizeof(TupleTableSlot *) * ETL_MAX_BATCH_ROWS);
	sink->states = palloc0(sizeof(EtlRowState) * ETL_MAX_BATCH_ROWS);
	sink->rejects = palloc0(sizeof(EtlReject) * ETL_MAX_BATCH_ROWS);
	open_keys(sink);
	if (options->guarded)
		etl_heap_guarded_setup(sink);
	open_writer(sink);
	MemoryContextSwitchTo(oldcontext);
	return &sink->base;
}

/* What is to be known while indexes are left out. */
static void
open_keys(EtlHeapSink *sink)
{
	EtlLeftOut *left_out = sink->base.options.left_out;

	if (left_out == NULL || left_out->indexes == NIL)
		return;
	sink->keys = etl_keys_open(sink);
	if (sink->keys != NULL && etl_keys_full(sink->keys))
	{
		/* too many rows are there: nothing has been left out yet */
		etl_keys_close(sink->keys);
		etl_indexes_keep_unique(left_out);
		sink->keys = etl_keys_open(sink);
	}
}

/*
 * Ends the leaving out of indexes, or of the unique ones: builds them from the
 * rows that are there.
 */
static void
stop_leaving_out(EtlHeapSink *sink, bool unique_only)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(sink->context);

	etl_keys_close(sink->keys);
	sink->keys = NULL;
	etl_heap_writer_close(sink->writer);
	etl_indexes_build(sink->base.target, sink->base.options.left_out,
					  unique_only, NULL);
	if (unique_only)
		sink->keys = etl_keys_open(sink);
	if (sink->base.options.guarded)
		etl_heap_guarded_setup(sink);
	open_writer(sink);
	MemoryContextSwitchTo(oldcontext);
}

/* Looks at the batch for what left out indexes cannot take. */
static void
mind_keys(EtlHeapSink *sink)
{
	if (sink->keys != NULL && etl_keys_full(sink->keys))
		stop_leaving_out(sink, true);
	if (sink->keys != NULL && etl_keys_too_long(sink->keys))
		stop_leaving_out(sink, false);
}

/* The writer that lives as long as the sink. */
static void
open_writer(EtlHeapSink *sink)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(sink->context);
	int flags = ETL_WRITER_STATEMENT;

	if (!sink->base.options.guarded || sink->plain)
		flags |= ETL_WRITER_INDEXES;
	else if (sink->base.options.freeze)
		ereport(NOTICE,
				(errmsg("rows of \"%s\" are not frozen",
						RelationGetRelationName(sink->base.target)),
				 errdetail(
					 "They are written in subtransactions, for indexes or triggers may refuse some.")));
	sink->writer = etl_heap_writer_open(sink, flags);
	MemoryContextSwitchTo(oldcontext);
}

static void
heap_set_columns(EtlSink *base, const AttrNumber *attnums, int natts)
{
	EtlHeapSink *sink = (EtlHeapSink *) base;
	MemoryContext oldcontext = MemoryContextSwitchTo(sink->context);

	etl_columns_free(sink->columns);
	sink->columns = etl_columns_create(base->target, attnums, natts);
	set_batch_limit(sink);
	if (base->options.guarded)
		etl_heap_guarded_setup(sink);
	MemoryContextSwitchTo(oldcontext);
}

/*
 * A tuple is the same in the target if all columns are supplied and each is
 * where it was.  Only a table of its own has slots that hold tuples.  What was
 * stored before a column was added is shorter than its table says.
 */
static bool
heap_takes_tuples(EtlSink *base, TupleDesc desc)
{
	EtlHeapSink *sink = (EtlHeapSink *) base;
	TupleDesc target = RelationGetDescr(base->target);

	if (sink->partitioned || base->options.guarded ||
		desc->natts != target->natts || sink->columns->natts != target->natts ||
		(desc->constr != NULL && desc->constr->missing != NULL) ||
		(target->constr != NULL && target->constr->missing != NULL))
		return false;
	for (int i = 0; i < target->natts; i++)
	{
		Form_pg_attribute from = TupleDescAttr(desc, i);
		Form_pg_attribute to = TupleDescAttr(target, i);

		if (from->attisdropped || to->attisdropped ||
			from->atttypid != to->atttypid ||
			(from->atttypmod != to->atttypmod && to->atttypmod >= 0) ||
			from->attlen != to->attlen || from->attbyval != to->attbyval ||
			from->attalign != to->attalign)
			return false;
	}
	return true;
}

/*
 * A whole tuple is checked as it is, but generated columns would have to be
 * put into it.
 */
static bool
heap_takes_formed(EtlSink *base, Datum *values, bool *isnull)
{
	EtlHeapSink *sink = (EtlHeapSink *) base;
	TupleConstr *constr = RelationGetDescr(base->target)->constr;

	return !sink->partitioned &&
		   (constr == NULL || !constr->has_generated_stored) &&
		   etl_columns_constants(sink->columns, values, isnull);
}

/*
 * A default that may look at the target must see the rows before its own,
 * so these are written first.
 */
static void
set_batch_limit(EtlHeapSink *sink)
{
	int natts = RelationGetDescr(sink->base.target)->natts;

	sink->base.batch_limit = Min(ETL_MAX_BATCH_ROWS,
								 ETL_MAX_BATCH_VALUES / Max(natts, 1));
	if (sink->columns->defaults_read_tables)
		sink->base.batch_limit = 1;
}

static void
heap_flush(EtlSink *base)
{
	EtlHeapSink *sink = (EtlHeapSink *) base;
	int nrows = base->batch_rows;

	for (int row = 0; row < nrows; row++)
	{
		sink->states[row] = ETL_ROW_PENDING;
		if (TTS_EMPTY(base->slots[row])) /* else it holds a tuple */
			etl_columns_fill_nulls(sink->columns, base->slots[row]);
	}

	if (base->options.guarded)
	{
		etl_heap_guarded_fill(sink);
		mind_keys(sink);
		etl_heap_guarded_write(sink);
	}
	else
	{
		if (sink->columns->n_default > 0)
		{
			MemoryContext oldcontext = MemoryContextSwitchTo(base->batch_context);

			for (int row = 0; row < nrows; row++)
			{
				if (etl_row_slot_lent(base->slots[row]) != NULL)
					continue;
				base->current_row = row;
				etl_columns_fill_defaults(sink->columns, base->slots[row]);
			}
			MemoryContextSwitchTo(oldcontext);
		}
		mind_keys(sink);
		if (sink->keys != NULL)
			etl_keys_hash(sink->keys);
		etl_heap_writer_write(sink->writer, 0, nrows, false, false);
	}
	if (sink->keys != NULL)
		etl_keys_settle(sink->keys);
	count_rows(sink);
}

/* Notes that a row failed; edata lives as long as the batch. */
void
etl_heap_reject(EtlHeapSink *sink, int row, const ErrorData *edata)
{
	sink->states[row] = ETL_ROW_REJECTED;
	etl_reject_from_error(&sink->rejects[row], edata);
}

/*
 * Notes that a row's key is taken, in the words of the index that it violates.
 * The key's values are those of the index's columns.
 */
void
etl_heap_reject_duplicate(EtlHeapSink *sink, int row, Relation index,
						  const Datum *values, const bool *isnull)
{
	EtlReject *reject = &sink->rejects[row];
	MemoryContext oldcontext = MemoryContextSwitchTo(sink->base.batch_context);
	char *key = BuildIndexValueDescription(index, unconstify(Datum *, values),
										   unconstify(bool *, isnull));

	memset(reject, 0, sizeof(EtlReject));
	reject->category = ETL_CATEGORY_UNIQUE;
	reject->sqlerrcode = ERRCODE_UNIQUE_VIOLATION;
	reject->message =
		psprintf("duplicate key value violates unique constraint \"%s\"",
				 RelationGetRelationName(index));
	if (key != NULL)
		reject->detail = psprintf("Key %s already exists.", key);
	MemoryContextSwitchTo(oldcontext);
	sink->states[row] = ETL_ROW_REJECTED;
}

/* Counts the rows of the batch and reports those that were rejected. */
static void
count_rows(EtlHeapSink *sink)
{
	EtlSink *base = &sink->base;

	base->current_row = -1;
	for (int row = 0; row < base->batch_rows; row++)
	{
		switch (sink->states[row])
		{
			case ETL_ROW_WRITTEN:
				base->counts.inserted++;
				break;
			case ETL_ROW_SUPPRESSED:
				base->counts.unchanged++;
				break;
			case ETL_ROW_TAKEN:
				break;
			case ETL_ROW_REJECTED:
				base->counts.rejected++;
				base->reject(base->reject_arg, row, &sink->rejects[row]);
				break;
			default:
				elog(ERROR, "row %d of a batch was left in state %d", row,
					 (int) sink->states[row]);
		}
	}
}

static void
heap_close(EtlSink *base)
{
	EtlHeapSink *sink = (EtlHeapSink *) base;

	etl_heap_writer_close(sink->writer);
	if (sink->keys != NULL)
		etl_keys_close(sink->keys);
	etl_columns_free(sink->columns);
	MemoryContextDelete(sink->context);
}
