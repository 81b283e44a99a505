/*-------------------------------------------------------------------------
 *
 * pull_append.c
 *	  Pulled rows into a table, as they are.
 *
 * Columns go by name.  A value is brought into its column's type and length as
 * an assignment does it.
 *
 * Locks: RowExclusiveLock on the target, until the end of the transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "executor/executor.h"
#include "miscadmin.h"

#include "flow/assign.h"
#include "flow/pull.h"

/* A column on its way. */
typedef struct AppendColumn
{
	AttrNumber target;
	ExprState *assign; /* or NULL: as it is */
} AppendColumn;

typedef struct PullAppend
{
	EtlPull *pull;
	EtlSink *sink;
	AppendColumn *columns;
	AttrNumber *source_attnums;
	int natts;
	ExprContext *context; /* for assign */
	MemoryContext run_context;
	int64 rows;
	bool in_place; /* all columns, each as it is and where it is */
	int current;   /* column whose value is assigned, or -1 */
} PullAppend;

static void set_columns(PullAppend *append);
static void append_rows(void *arg);
static void show_copying(PullAppend *append);
static void add_row(void *arg, TupleTableSlot *slot);
static void add_values(PullAppend *append, TupleTableSlot *slot);
static Datum assigned(PullAppend *append, AppendColumn *column, Datum value,
					  bool *isnull);
static void add_stored_rows(PullAppend *append);
static void flush(PullAppend *append);
static void append_context(void *arg);

/*
 * Reads the pull's range, or its rows, into the target and counts.
 */
void
etl_pull_append(EtlPull *pull)
{
	PullAppend append = {
		.pull = pull,
		.run_context = CurrentMemoryContext,
		.current = -1,
	};
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = append_context,
		.arg = &append,
	};

	etl_progress_set(pull->run, ETL_PHASE_WAITING, ETL_UNIT_NONE, 0,
					 ETL_TOTAL_UNKNOWN);
	pull->target = relation_open(pull->target_id, RowExclusiveLock);
	set_columns(&append);
	error_context_stack = &context;
	etl_guard_scope(append_rows, &append);
	error_context_stack = context.previous;
	relation_close(pull->target, NoLock);
}

/* Which column of the source goes where. */
static void
set_columns(PullAppend *append)
{
	EtlPull *pull = append->pull;
	TupleDesc source = RelationGetDescr(pull->source);
	TupleDesc target = RelationGetDescr(pull->target);
	EtlSinkOptions options = {0};
	AttrNumber *attnums;
	ListCell *lc;

	append->columns = palloc(sizeof(AppendColumn) * source->natts);
	append->source_attnums = palloc(sizeof(AttrNumber) * source->natts);
	attnums = palloc(sizeof(AttrNumber) * source->natts);
	append->context = CreateStandaloneExprContext();
	append->in_place = list_length(pull->columns) == target->natts;
	foreach(lc, pull->columns)
	{
		AppendColumn *column = &append->columns[append->natts];
		AttrNumber from = attnameAttNum(pull->source, lfirst(lc), false);
		Form_pg_attribute from_att = TupleDescAttr(source, from - 1);
		Form_pg_attribute to_att;

		column->target = attnameAttNum(pull->target, lfirst(lc), false);
		if (column->target == InvalidAttrNumber) /* it has gone in a wait */
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of relation \"%s\" does not exist",
							(char *) lfirst(lc),
							RelationGetRelationName(pull->target))));
		to_att = TupleDescAttr(target, column->target - 1);
		column->assign = etl_assignment(from_att, to_att);
		append->source_attnums[append->natts] = from;
		attnums[append->natts++] = column->target;
		if (column->assign != NULL || column->target != append->natts)
			append->in_place = false;
	}
	etl_sink_check_privileges(pull->target, attnums, append->natts, &options);
	append->sink = etl_sink_open(pull->target, attnums, append->natts, &options,
								 NULL, NULL);
}

static void
append_rows(void *arg)
{
	PullAppend *append = arg;
	EtlPull *pull = append->pull;

	show_copying(append);
	if (pull->rows != NULL)
		add_stored_rows(append);
	else
	{
		etl_site_begin(pull->site);
		(void) etl_site_rows(pull->site, etl_pull_condition(pull),
							 append->source_attnums, append->natts, add_row,
							 append);
	}
	flush(append);

	pull->run->rows_read = append->rows;
	pull->run->rows_inserted = append->sink->counts.inserted;
	/* A trigger may have taken rows away. */
	pull->run->rows_unchanged = append->rows - append->sink->counts.inserted;
	pull->way = append->sink->ops->name;
	etl_sink_close(append->sink);
}

static void
show_copying(PullAppend *append)
{
	EtlPull *pull = append->pull;
	double total = pull->rows != NULL ?
					   (double) tuplestore_tuple_count(pull->rows) :
					   pull->site->planned;

	etl_progress_set(pull->run, ETL_PHASE_COPYING, ETL_UNIT_ROWS, 0, total);
}

/* Rows with all columns of the source. */
static void
add_stored_rows(PullAppend *append)
{
	TupleDesc desc = RelationGetDescr(append->pull->source);
	TupleTableSlot *stored = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	TupleDesc part_desc = CreateTemplateTupleDesc(append->natts);
	TupleTableSlot *part;

	for (int i = 0; i < append->natts; i++)
		TupleDescCopyEntry(part_desc, i + 1, desc, append->source_attnums[i]);
	part = MakeSingleTupleTableSlot(part_desc, &TTSOpsVirtual);
	while (tuplestore_gettupleslot(append->pull->rows, true, false, stored))
	{
		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(stored);
		ExecClearTuple(part);
		for (int i = 0; i < append->natts; i++)
		{
			int from = append->source_attnums[i] - 1;

			part->tts_values[i] = stored->tts_values[from];
			part->tts_isnull[i] = stored->tts_isnull[from];
		}
		ExecStoreVirtualTuple(part);
		add_row(append, part);
	}
	ExecDropSingleTupleTableSlot(part);
	ExecDropSingleTupleTableSlot(stored);
}

/* One row into the batch. */
static void
add_row(void *arg, TupleTableSlot *slot)
{
	PullAppend *append = arg;

	/* now the reader knows how many are coming */
	if (append->rows++ == 0)
		show_copying(append);
	if (!append->in_place || !etl_sink_add_tuple(append->sink, slot))
		add_values(append, slot);
	if (etl_sink_is_full(append->sink))
		flush(append);
}

/* The values of a row have to outlive the slot. */
static void
add_values(PullAppend *append, TupleTableSlot *slot)
{
	TupleTableSlot *row = etl_sink_next_slot(append->sink);
	MemoryContext oldcontext;

	slot_getallattrs(slot);
	oldcontext = MemoryContextSwitchTo(append->sink->batch_context);
	for (int i = 0; i < append->natts; i++)
	{
		AppendColumn *column = &append->columns[i];
		Datum value = slot->tts_values[i];
		bool isnull = slot->tts_isnull[i];

		if (column->assign != NULL)
		{
			append->current = i;
			value = assigned(append, column, value, &isnull);
			append->current = -1;
		}
		etl_sink_add_value(append->sink, row, column->target, value, isnull);
	}
	MemoryContextSwitchTo(oldcontext);
}

/* A value as its column takes it, or an error. */
static Datum
assigned(PullAppend *append, AppendColumn *column, Datum value, bool *isnull)
{
	append->context->caseValue_datum = value;
	append->context->caseValue_isNull = *isnull;
	return ExecEvalExpr(column->assign, append->context, isnull);
}

static void
flush(PullAppend *append)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(append->run_context);

	etl_sink_flush(append->sink);
	MemoryContextSwitchTo(oldcontext);
	etl_progress_done(append->pull->run, append->rows);
}

/*
 * Says which column a value does not fit into, and what to do where a row is
 * there already: mostly it has been pulled before, and has changed since.
 */
static void
append_context(void *arg)
{
	PullAppend *append = arg;
	EtlPull *pull = append->pull;

	if (append->current >= 0)
		errcontext("column \"%s\" of relation \"%s\"",
				   (char *) list_nth(pull->columns, append->current),
				   RelationGetRelationName(pull->target));
	if (geterrcode() == ERRCODE_UNIQUE_VIOLATION)
		errhint(
			"If rows change at the source, pass \"keys\" and apply => 'upsert'; if they are only read again, \"keys\".");
}
