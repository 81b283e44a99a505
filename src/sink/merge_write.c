/*-------------------------------------------------------------------------
 *
 * merge_write.c
 *	  Does what the decisions of a merge ask for.
 *
 * Decisions come key by key, but are not carried out so.  Changes of stored
 * rows are sorted by the place of the row, since walking a table in order is
 * several times as fast as jumping about in it, and by what they do: a row
 * gives up its time before another takes it, and new rows come last.  New rows
 * wait in the order in which they were asked for, and go through a sink.
 *
 * A plain heap is changed directly (merge_write_heap.c), all else by SQL
 * (merge_write_sql.c).
 *
 * Invariants:
 *	- All that a writer opens belongs to the resource owner that was current
 *	  when it was opened: calls may come from within an executor run.
 *	- A writer is opened and finished at one subtransaction level.  After an
 *	  error nothing of it is touched again.
 *	- Queues keep to work_mem, each, and use temporary files beyond it.
 *
 * Locks: the caller holds ShareRowExclusiveLock on the target, so that no
 * stored row changes between the decision and the write.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/merge_write.h"

#include "access/xact.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* "<"(oid, oid), which PostgreSQL gives no name */
#define OID_LESS_OPERATOR 609

static void show_writing(EtlMergeWriter *writer);
static int supplied_columns(EtlMerge *merge, bool kept, AttrNumber *attnums);
static void check_privilege(Relation target, AclMode mode);
static bool is_stored_apart(EtlValueOps *ops, Datum stored, Datum value);
static TupleDesc make_edit_desc(EtlMergeWriter *writer);
static Tuplesortstate *begin_sort(EtlMergeWriter *writer);
static void edit_row(EtlMergeWriter *writer, const EtlStored *stored,
					 EtlEditStep step);
static void queue_edit(EtlMergeWriter *writer, const EtlStored *stored,
					   EtlEditStep step);
static void insert_at_once(EtlMergeWriter *writer, Datum *values);
static bool is_in_place(EtlMerge *merge);
static void flush_if_full(EtlMergeWriter *writer);
static void write_inserts(EtlMergeWriter *writer, bool kept);
static void copy_row(EtlSink *sink, TupleTableSlot *from, TupleTableSlot *row,
					 const AttrNumber *attnums, int natts);

/*
 * May the current role merge into this target?  deletes: it is known that
 * rows may have to be deleted; otherwise that is asked at the first.  The SQL
 * of the general way asks for more, by column, when it runs.
 */
void
etl_merge_check_privileges(EtlMerge *merge, bool deletes)
{
	AttrNumber *attnums = palloc(sizeof(AttrNumber) * (merge->natts + 1));
	EtlSinkOptions options = {.general = merge->general};
	int natts = supplied_columns(merge, true, attnums);

	etl_sink_check_privileges(merge->target, attnums, natts, &options);
	pfree(attnums);
	if (merge->general)
		return;
	check_privilege(merge->target, ACL_SELECT);
	check_privilege(merge->target, ACL_INSERT);
	check_privilege(merge->target, ACL_UPDATE);
	if (deletes)
		check_privilege(merge->target, ACL_DELETE);
}

/* Opens a writer in the current memory context and resource owner. */
EtlMergeWriter *
etl_merge_writer_open(EtlMerge *merge)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "etl merge writer",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	EtlMergeWriter *writer = palloc0(sizeof(EtlMergeWriter));

	writer->merge = merge;
	writer->target = merge->target;
	writer->context = context;
	writer->owner = CurrentResourceOwner;
	if (!merge->dry_run)
	{
		writer->edit_desc = make_edit_desc(writer);
		writer->scratch = MakeSingleTupleTableSlot(writer->edit_desc,
												   &TTSOpsVirtual);
		writer->insert_nulls = palloc(sizeof(bool) * (merge->natts + 1));
		for (int i = 0; i < merge->natts; i++)
			if (merge->columns[i].role == ETL_ROLE_KEPT)
				writer->has_kept = true;
		if (!merge->general && etl_merge_writer_can_heap(merge->target))
			writer->heap = etl_merge_heap_open(writer);
		else
			writer->by_key = etl_merge_sql_by_key(merge->target);
	}
	MemoryContextSwitchTo(oldcontext);
	return writer;
}

/* Says whether stored rows to be changed come in physical order from now on. */
void
etl_merge_writer_in_order(EtlMergeWriter *writer, bool in_order)
{
	writer->in_order = in_order;
}

void
etl_merge_insert(EtlMergeWriter *writer, Datum *values, bool *nulls, bool kept)
{
	EtlMerge *merge = writer->merge;
	int which = kept && writer->has_kept ? 1 : 0;
	ResourceOwner oldowner = CurrentResourceOwner;

	CHECK_FOR_INTERRUPTS();
	if (merge->dry_run)
		return;
	if (writer->inserts[which] == NULL && writer->sink == NULL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(writer->context);

		CurrentResourceOwner = writer->owner;
		writer->inserts[which] = tuplestore_begin_heap(false, false, work_mem);
		CurrentResourceOwner = oldowner;
		MemoryContextSwitchTo(oldcontext);
	}
	for (int i = 0; i < merge->natts; i++)
	{
		EtlColumnRole role = merge->columns[i].role;

		writer->insert_nulls[i] = nulls[i] || role == ETL_ROLE_NONE ||
								  (role == ETL_ROLE_KEPT && !kept);
	}
	if (writer->sink != NULL)
	{
		insert_at_once(writer, values);
		return;
	}
	tuplestore_putvalues(writer->inserts[which],
						 RelationGetDescr(writer->target), values,
						 writer->insert_nulls);
}

void
etl_merge_update(EtlMergeWriter *writer, const EtlStored *stored, Datum *values,
				 bool *nulls, int flags)
{
	EtlMerge *merge = writer->merge;
	bool times = (flags & ETL_UPDATE_TIMES) != 0;
	TupleDesc desc;
	Datum *new_values;
	bool *new_nulls;

	CHECK_FOR_INTERRUPTS();
	if (merge->dry_run)
		return;
	desc = RelationGetDescr(writer->target);
	new_values = writer->scratch->tts_values + ETL_EDIT_COLUMNS;
	new_nulls = writer->scratch->tts_isnull + ETL_EDIT_COLUMNS;
	for (int i = 0; i < merge->natts; i++)
	{
		bool set = etl_update_sets(merge->columns[i].role, times);

		new_values[i] = set ? values[i] : stored->values[i];
		new_nulls[i] = (set ? nulls[i] : stored->nulls[i]) ||
					   TupleDescAttr(desc, i)->attisdropped;
		if (set && !new_nulls[i] && !stored->nulls[i] &&
			is_stored_apart(&merge->columns[i].ops, stored->values[i], values[i]))
			new_values[i] = stored->values[i];
	}
	if (flags & ETL_UPDATE_GROWS)
		edit_row(writer, stored,
				 times ? ETL_STEP_GROW_TIMES : ETL_STEP_GROW_UPDATE);
	else
		edit_row(writer, stored, times ? ETL_STEP_TIMES : ETL_STEP_UPDATE);
}

/*
 * Is the new value what the row has out of line already?  Where it lies is all
 * that the update then needs to know; otherwise it would be stored once more.
 */
static bool
is_stored_apart(EtlValueOps *ops, Datum stored, Datum value)
{
	return ops->typlen == -1 &&
		   VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(stored)) &&
		   etl_value_same_image(ops, stored, value);
}

void
etl_merge_delete(EtlMergeWriter *writer, const EtlStored *stored)
{
	EtlMerge *merge = writer->merge;
	Datum *values;
	bool *nulls;

	CHECK_FOR_INTERRUPTS();
	if (merge->dry_run)
		return;
	if (writer->heap != NULL && !writer->may_delete)
	{
		check_privilege(writer->target, ACL_DELETE);
		writer->may_delete = true;
	}

	/* Of a row that goes, the key says which it is. */
	values = writer->scratch->tts_values + ETL_EDIT_COLUMNS;
	nulls = writer->scratch->tts_isnull + ETL_EDIT_COLUMNS;
	for (int i = 0; i < merge->natts; i++)
	{
		nulls[i] = true;
		if (writer->by_key && merge->columns[i].role == ETL_ROLE_KEY)
		{
			values[i] = stored->values[i];
			nulls[i] = stored->nulls[i];
		}
	}
	edit_row(writer, stored, ETL_STEP_DELETE);
}

/*
 * Applies all that was asked for, and closes the writer.  In the heap way the
 * foreign keys that edits touch are checked at the very end, when new rows
 * are there, too.
 */
void
etl_merge_writer_finish(EtlMergeWriter *writer)
{
	ResourceOwner oldowner = CurrentResourceOwner;
	MemoryContext oldcontext = MemoryContextSwitchTo(writer->context);

	CurrentResourceOwner = writer->owner;
	if (!writer->merge->dry_run)
	{
		show_writing(writer);
		if (writer->edits != NULL)
		{
			tuplesort_performsort(writer->edits);
			if (writer->heap != NULL)
				etl_merge_heap_apply(writer->heap);
			else
				etl_merge_sql_apply(writer);
			tuplesort_end(writer->edits);
		}
		CommandCounterIncrement();
		if (writer->sink != NULL)
			etl_sink_close(writer->sink);
		write_inserts(writer, false);
		write_inserts(writer, true);
		if (writer->heap != NULL)
			etl_merge_heap_close(writer->heap);
		ExecDropSingleTupleTableSlot(writer->scratch);
		CommandCounterIncrement();
	}
	CurrentResourceOwner = oldowner;
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(writer->context);
}

/* Shows how many rows there are to be written. */
static void
show_writing(EtlMergeWriter *writer)
{
	int64 rows = writer->n_queued;

	for (int i = 0; i < (int) lengthof(writer->inserts); i++)
		if (writer->inserts[i] != NULL)
			rows += tuplestore_tuple_count(writer->inserts[i]);
	etl_progress_set(writer->merge->run, ETL_PHASE_WRITING, ETL_UNIT_ROWS, 0,
					 (double) rows);
}

/* The columns of new rows, by number. */
static int
supplied_columns(EtlMerge *merge, bool kept, AttrNumber *attnums)
{
	int natts = 0;

	for (int i = 0; i < merge->natts; i++)
	{
		EtlColumnRole role = merge->columns[i].role;

		if (role != ETL_ROLE_NONE && (kept || role != ETL_ROLE_KEPT))
			attnums[natts++] = i + 1;
	}
	return natts;
}

/* The current role needs it on the table as a whole. */
static void
check_privilege(Relation target, AclMode mode)
{
	AclResult result = pg_class_aclcheck(RelationGetRelid(target), GetUserId(),
										 mode);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, get_relkind_objtype(target->rd_rel->relkind),
					   RelationGetRelationName(target));
	if (mode != ACL_SELECT && !target->rd_islocaltemp)
		PreventCommandIfReadOnly(mode == ACL_DELETE ? "DELETE" : "UPDATE");
}

/*
 * The columns are named c1, c2 ... after their place in the target.  Instead
 * of a dropped one there is one that is always null.
 */
static TupleDesc
make_edit_desc(EtlMergeWriter *writer)
{
	TupleDesc target = RelationGetDescr(writer->target);
	int valid_from = writer->merge->valid_from;
	TupleDesc desc = CreateTemplateTupleDesc(ETL_EDIT_COLUMNS + target->natts);

	TupleDescInitEntry(desc, ETL_EDIT_PLACE + 1, "place", INT8OID, -1, 0);
	TupleDescInitEntry(desc, ETL_EDIT_STEP + 1, "step", INT4OID, -1, 0);
	TupleDescInitEntry(desc, ETL_EDIT_TABLE + 1, "tab", OIDOID, -1, 0);
	TupleDescInitEntry(desc, ETL_EDIT_TID + 1, "tid", TIDOID, -1, 0);
	TupleDescInitEntry(desc, ETL_EDIT_OLD_FROM + 1, "old_from", INT4OID, -1, 0);
	for (int i = 0; i < target->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(target, i);
		AttrNumber attnum = ETL_EDIT_COLUMNS + i + 1;
		char name[NAMEDATALEN];

		snprintf(name, sizeof(name), "c%d", i + 1);
		if (att->attisdropped)
		{
			TupleDescInitEntry(desc, attnum, name, INT4OID, -1, 0);
			continue;
		}
		TupleDescInitEntry(desc, attnum, name, att->atttypid, att->atttypmod,
						   att->attndims);
		TupleDescInitEntryCollation(desc, attnum, att->attcollation);
		if (i == valid_from)
		{
			TupleDescInitEntry(desc, ETL_EDIT_OLD_FROM + 1, "old_from",
							   att->atttypid, att->atttypmod, att->attndims);
			TupleDescInitEntryCollation(desc, ETL_EDIT_OLD_FROM + 1,
										att->attcollation);
		}
	}
	return desc;
}

/* One number is enough of a key in the heap way, and sorts fastest. */
static Tuplesortstate *
begin_sort(EtlMergeWriter *writer)
{
	AttrNumber place[] = {ETL_EDIT_PLACE + 1};
	Oid place_operators[] = {Int8LessOperator};
	AttrNumber all[] = {ETL_EDIT_STEP + 1, ETL_EDIT_TABLE + 1,
						ETL_EDIT_PLACE + 1};
	Oid all_operators[] = {Int4LessOperator, OID_LESS_OPERATOR,
						   Int8LessOperator};
	Oid collations[] = {InvalidOid, InvalidOid, InvalidOid};
	bool nulls_first[] = {false, false, false};

	if (writer->heap != NULL)
		return tuplesort_begin_heap(writer->edit_desc, 1, place,
									place_operators, collations, nulls_first,
									work_mem, NULL, TUPLESORT_NONE);
	return tuplesort_begin_heap(writer->edit_desc, 3, all, all_operators,
								collations, nulls_first, work_mem, NULL,
								TUPLESORT_NONE);
}

/* The columns of the target are in the scratch row: now or later? */
static void
edit_row(EtlMergeWriter *writer, const EtlStored *stored, EtlEditStep step)
{
	ResourceOwner oldowner = CurrentResourceOwner;
	TupleTableSlot *scratch = writer->scratch;

	CurrentResourceOwner = writer->owner;
	if (writer->in_order && writer->heap != NULL && step < ETL_STEP_GROW_TIMES)
	{
		ItemPointerData tid = stored->tid;

		etl_merge_heap_edit(writer->heap, step, &tid,
							scratch->tts_values + ETL_EDIT_COLUMNS,
							scratch->tts_isnull + ETL_EDIT_COLUMNS);
	}
	else
		queue_edit(writer, stored, step);
	CurrentResourceOwner = oldowner;
}

/*
 * Completes the scratch row and puts a copy into the queue.  Rows without a
 * place of their own stay in the order of the calls.
 */
static void
queue_edit(EtlMergeWriter *writer, const EtlStored *stored, EtlEditStep step)
{
	TupleTableSlot *scratch = writer->scratch;
	Datum *values = scratch->tts_values;
	bool *nulls = scratch->tts_isnull;
	ItemPointerData tid = stored->tid;
	int valid_from = writer->merge->valid_from;
	int64 place = writer->n_queued++;

	if (writer->edits == NULL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(writer->context);

		writer->edits = begin_sort(writer);
		MemoryContextSwitchTo(oldcontext);
	}
	writer->n_edits[step]++;
	if (!writer->by_key)
		place = ((int64) ItemPointerGetBlockNumberNoCheck(&tid) << 16) |
				ItemPointerGetOffsetNumberNoCheck(&tid);
	if (writer->heap != NULL && step >= ETL_STEP_GROW_TIMES)
		place |= (int64) 1 << 48;

	memset(nulls, true, sizeof(bool) * ETL_EDIT_COLUMNS);
	values[ETL_EDIT_PLACE] = Int64GetDatum(place);
	nulls[ETL_EDIT_PLACE] = false;
	values[ETL_EDIT_STEP] = Int32GetDatum(step);
	nulls[ETL_EDIT_STEP] = false;
	if (writer->heap == NULL)
	{
		values[ETL_EDIT_TABLE] = ObjectIdGetDatum(stored->table);
		nulls[ETL_EDIT_TABLE] = false;
		values[ETL_EDIT_TID] = PointerGetDatum(&tid);
		nulls[ETL_EDIT_TID] = writer->by_key;
		if (writer->by_key && valid_from >= 0)
		{
			values[ETL_EDIT_OLD_FROM] = stored->values[valid_from];
			nulls[ETL_EDIT_OLD_FROM] = stored->nulls[valid_from];
		}
	}

	ExecStoreVirtualTuple(scratch);
	tuplesort_puttupleslot(writer->edits, scratch);
	ExecClearTuple(scratch);
}

/* From now on new rows do not wait.  None of them sets KEPT columns. */
void
etl_merge_writer_at_once(EtlMergeWriter *writer)
{
	EtlMerge *merge = writer->merge;
	EtlSinkOptions options = {.general = merge->general};
	MemoryContext oldcontext = MemoryContextSwitchTo(writer->context);

	writer->sink_attnums = palloc(sizeof(AttrNumber) * (merge->natts + 1));
	writer->sink_natts = supplied_columns(merge, false, writer->sink_attnums);
	writer->in_place = is_in_place(merge);
	etl_sink_check_privileges(writer->target, writer->sink_attnums,
							  writer->sink_natts, &options);
	writer->sink = etl_sink_open(writer->target, writer->sink_attnums,
								 writer->sink_natts, &options, NULL, NULL);
	MemoryContextSwitchTo(oldcontext);
}

/* Has the input all columns of the target, each in its place and as it is? */
static bool
is_in_place(EtlMerge *merge)
{
	for (int i = 0; i < merge->natts; i++)
	{
		EtlMergeColumn *column = &merge->columns[i];

		if (column->input != i + 1 || column->typmod >= 0 ||
			column->assign != NULL ||
			(column->role != ETL_ROLE_KEY && column->role != ETL_ROLE_PLAIN))
			return false;
	}
	return true;
}

/*
 * Inserts a row of the input as it lies in its slot.  Returns false if that is
 * not possible; new rows are written at once.
 */
bool
etl_merge_insert_slot(EtlMergeWriter *writer, TupleTableSlot *slot)
{
	if (!writer->in_place || !etl_sink_add_tuple(writer->sink, slot))
		return false;
	flush_if_full(writer);
	return true;
}

/* A copy of the values, and insert_nulls, into the batch. */
static void
insert_at_once(EtlMergeWriter *writer, Datum *values)
{
	TupleTableSlot *slot = etl_sink_next_slot(writer->sink);
	MemoryContext oldcontext;

	oldcontext = MemoryContextSwitchTo(writer->sink->batch_context);
	for (int i = 0; i < writer->sink_natts; i++)
	{
		AttrNumber attnum = writer->sink_attnums[i];

		etl_sink_add_value(writer->sink, slot, attnum, values[attnum - 1],
						   writer->insert_nulls[attnum - 1]);
	}
	MemoryContextSwitchTo(oldcontext);
	flush_if_full(writer);
}

static void
flush_if_full(EtlMergeWriter *writer)
{
	if (etl_sink_is_full(writer->sink))
		etl_merge_writer_flush(writer);
}

/* Writes what waits for its batch to be full, to be seen from now on. */
void
etl_merge_writer_flush(EtlMergeWriter *writer)
{
	ResourceOwner oldowner = CurrentResourceOwner;
	MemoryContext oldcontext = MemoryContextSwitchTo(writer->context);

	CurrentResourceOwner = writer->owner;
	etl_sink_flush(writer->sink);
	CurrentResourceOwner = oldowner;
	MemoryContextSwitchTo(oldcontext);
}

/* Writes the new rows of one kind. */
static void
write_inserts(EtlMergeWriter *writer, bool kept)
{
	EtlMerge *merge = writer->merge;
	Tuplestorestate *store = writer->inserts[kept ? 1 : 0];
	EtlSinkOptions options = {.general = merge->general};
	TupleDesc desc;
	TupleTableSlot *queued;
	TupleTableSlot *row;
	AttrNumber *attnums;
	EtlSink *sink;
	int natts;

	if (store == NULL)
		return;
	desc = CreateTupleDescCopy(RelationGetDescr(writer->target));
	queued = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	row = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	attnums = palloc(sizeof(AttrNumber) * (merge->natts + 1));
	natts = supplied_columns(merge, kept, attnums);

	etl_sink_check_privileges(writer->target, attnums, natts, &options);
	sink = etl_sink_open(writer->target, attnums, natts, &options, NULL, NULL);
	while (tuplestore_gettupleslot(store, true, false, queued))
	{
		CHECK_FOR_INTERRUPTS();
		etl_progress_row(merge->run, writer->n_written++);
		copy_row(sink, queued, row, attnums, natts);
		if (sink->batch_rows == sink->batch_limit)
			etl_sink_flush(sink);
	}
	etl_sink_close(sink);
	tuplestore_end(store);
	ExecDropSingleTupleTableSlot(row);
	ExecDropSingleTupleTableSlot(queued);
	pfree(attnums);
}

/* Gives a row to the sink; a copy, since the queue's lasts until the next. */
static void
copy_row(EtlSink *sink, TupleTableSlot *from, TupleTableSlot *row,
		 const AttrNumber *attnums, int natts)
{
	TupleTableSlot *to = etl_sink_next_slot(sink);
	MemoryContext oldcontext = MemoryContextSwitchTo(sink->batch_context);

	ExecStoreMinimalTuple(ExecCopySlotMinimalTuple(from), row, false);
	MemoryContextSwitchTo(oldcontext);
	slot_getallattrs(row);
	for (int i = 0; i < natts; i++)
	{
		to->tts_values[attnums[i] - 1] = row->tts_values[attnums[i] - 1];
		to->tts_isnull[attnums[i] - 1] = row->tts_isnull[attnums[i] - 1];
	}
	ExecClearTuple(row);
}
