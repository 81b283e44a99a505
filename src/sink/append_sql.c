/*-------------------------------------------------------------------------
 *
 * append_sql.c
 *	  The general way into a target: one INSERT ... SELECT for each batch.
 *
 * Serves whatever INSERT can write and append_heap.c does not: views, foreign
 * tables, partitioned tables with foreign partitions, tables with row-level
 * security, other table access methods, and every target with on_conflict.
 * The batch is shown to a prepared statement (append_query.c) as an ephemeral
 * relation, so that rewriting, policies, triggers and foreign-data wrappers
 * do what they do for any INSERT, with the rights of the caller.
 *
 * Each statement has a subtransaction of its own.  When it fails the rows are
 * tried in halves, down to the single row, from first to last: a row is
 * rejected only when all before it are written.
 *
 * Locks: the caller holds RowExclusiveLock on the target; the statement
 * locks whatever else it touches.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/append_sql.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "source/rows.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

/* One execution of the statement over rows [first, end) of the batch. */
typedef struct SqlAttempt
{
	EtlSqlSink *sink;
	int first;
	int end;
	EtlSinkCounts counts;
} SqlAttempt;

static bool sql_serves(Relation target, const EtlSinkOptions *options);
static EtlSink *sql_open(Relation target, const AttrNumber *attnums, int natts,
						 const EtlSinkOptions *options);
static void sql_set_columns(EtlSink *base, const AttrNumber *attnums, int natts);
static void drop_plan(void *arg);
static void sql_flush(EtlSink *base);
static void write_rows(EtlSqlSink *sink);
static void report_rejects(EtlSqlSink *sink);
static void run_attempt(void *arg);
static void add_counts(EtlSqlSink *sink, const EtlSinkCounts *counts);
static Tuplestorestate *store_rows(SqlAttempt *run);
static void count_result(SqlAttempt *run);
static int64 count_new_in_partitions(SPITupleTable *places, int64 nplaces);
static void sql_close(EtlSink *base);

const EtlSinkOps etl_append_sql_ops = {
	.name = "append_sql",
	.serves = sql_serves,
	.open = sql_open,
	.set_columns = sql_set_columns,
	.flush = sql_flush,
	.close = sql_close,
};

/* The last resort; what cannot be written says so when it is planned. */
static bool
sql_serves(Relation target pg_attribute_unused(),
		   const EtlSinkOptions *options pg_attribute_unused())
{
	return true;
}

static EtlSink *
sql_open(Relation target, const AttrNumber *attnums, int natts,
		 const EtlSinkOptions *options)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "etl sql sink",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	EtlSqlSink *sink = palloc0(sizeof(EtlSqlSink));
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));

	sink->context = context;
	sink->base.target = target;
	sink->base.options = *options;
	sink->base.options.keys = copyObject(options->keys);
	sink->base.current_row = -1;
	sink->base.batch_limit = Min(ETL_MAX_BATCH_ROWS,
								 ETL_MAX_BATCH_VALUES /
									 Max(RelationGetDescr(target)->natts, 1));
	sink->base.batch_context = AllocSetContextCreate(context, "etl batch",
													 ALLOCSET_DEFAULT_SIZES);
	sink->base.slots = palloc0(sizeof(TupleTableSlot *) * ETL_MAX_BATCH_ROWS);
	sink->rejected = palloc0(sizeof(bool) * ETL_MAX_BATCH_ROWS);
	sink->rejects = palloc0(sizeof(EtlReject) * ETL_MAX_BATCH_ROWS);
	sink->attempt_context = AllocSetContextCreate(context, "etl attempt",
												  ALLOCSET_DEFAULT_SIZES);
	sink->query_context = AllocSetContextCreate(context, "etl query",
												ALLOCSET_DEFAULT_SIZES);
	sink->attempt_rows = sink->base.batch_limit;

	/* The plan is not in our context, but must not outlive it. */
	callback->func = drop_plan;
	callback->arg = sink;
	MemoryContextRegisterResetCallback(context, callback);

	etl_sql_prepare(sink, attnums, natts);
	MemoryContextSwitchTo(oldcontext);
	return &sink->base;
}

static void
sql_set_columns(EtlSink *base, const AttrNumber *attnums, int natts)
{
	EtlSqlSink *sink = (EtlSqlSink *) base;

	drop_plan(sink);
	MemoryContextReset(sink->query_context);
	etl_sql_prepare(sink, attnums, natts);
}

static void
drop_plan(void *arg)
{
	EtlSqlSink *sink = (EtlSqlSink *) arg;
	SPIPlanPtr plan = sink->plan;

	sink->plan = NULL;
	if (plan != NULL)
		SPI_freeplan(plan);
}

static void
sql_flush(EtlSink *base)
{
	EtlSqlSink *sink = (EtlSqlSink *) base;

	memset(sink->rejected, 0, sizeof(bool) * base->batch_rows);
	write_rows(sink);
	report_rejects(sink);
}

/*
 * Writes the batch in pieces as large as the bad rows allow.  A sink that is
 * not guarded does so too, so that the error it throws is that of a row.
 */
static void
write_rows(EtlSqlSink *sink)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(sink->base.batch_context);
	int first = 0;

	while (first < sink->base.batch_rows)
	{
		SqlAttempt run = {.sink = sink, .first = first};
		EtlGuard guard = {0};
		ErrorData *edata;

		CHECK_FOR_INTERRUPTS();
		run.end = Min(first + sink->attempt_rows, sink->base.batch_rows);
		if (etl_guard_call(&guard, run_attempt, &run, &edata))
		{
			etl_guard_release(&guard);
			add_counts(sink, &run.counts);
			first = run.end;
			sink->attempt_rows = Min(sink->attempt_rows * 2,
									 sink->base.batch_limit);
		}
		else if (run.end - first > 1)
			sink->attempt_rows = (run.end - first) / 2;
		else if (!sink->base.options.guarded)
			ReThrowError(edata);
		else
		{
			sink->rejected[first] = true;
			etl_reject_from_error(&sink->rejects[first], edata);
			first++;
		}
		MemoryContextReset(sink->attempt_context);
	}
	MemoryContextSwitchTo(oldcontext);
}

static void
report_rejects(EtlSqlSink *sink)
{
	EtlSink *base = &sink->base;

	base->current_row = -1;
	for (int row = 0; row < base->batch_rows; row++)
		if (sink->rejected[row])
		{
			base->counts.rejected++;
			base->reject(base->reject_arg, row, &sink->rejects[row]);
		}
}

static void
add_counts(EtlSqlSink *sink, const EtlSinkCounts *counts)
{
	sink->base.counts.inserted += counts->inserted;
	sink->base.counts.updated += counts->updated;
	sink->base.counts.unchanged += counts->unchanged;
}

/* Runs the statement over some rows of the batch. */
static void
run_attempt(void *arg)
{
	SqlAttempt *run = (SqlAttempt *) arg;
	EtlSqlSink *sink = run->sink;
	Tuplestorestate *store;
	int rc;

	MemoryContextSwitchTo(sink->attempt_context);
	sink->base.current_row = run->end - run->first == 1 ? run->first : -1;
	store = store_rows(run);

	SPI_connect();
	etl_register_rows(ETL_SQL_BATCH, sink->row_desc, store);
	rc = SPI_execute_plan(sink->plan, NULL, NULL, false, 0);
	if (rc < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(rc));
	count_result(run);
	SPI_finish();
	tuplestore_end(store);
}

/* The supplied columns of the rows and their number, in order. */
static Tuplestorestate *
store_rows(SqlAttempt *run)
{
	EtlSqlSink *sink = run->sink;
	Tuplestorestate *store = tuplestore_begin_heap(true, false, work_mem);
	Datum *values = palloc(sizeof(Datum) * (sink->natts + 1));
	bool *isnull = palloc(sizeof(bool) * (sink->natts + 1));

	isnull[sink->natts] = false;
	for (int row = run->first; row < run->end; row++)
	{
		TupleTableSlot *slot = sink->base.slots[row];

		for (int i = 0; i < sink->natts; i++)
		{
			values[i] = slot->tts_values[sink->attnums[i] - 1];
			isnull[i] = slot->tts_isnull[sink->attnums[i] - 1];
		}
		values[sink->natts] = Int32GetDatum(row);
		tuplestore_putvalues(store, sink->row_desc, values, isnull);
	}
	return store;
}

/*
 * Tells the rows apart.  What the statement did not write was left alone: a
 * key was there and on_conflict is skip, a later row of the batch has the
 * same key, or a trigger dropped it.  It has written more where a rule makes
 * several rows of one; rows are counted as they were read.
 */
static void
count_result(SqlAttempt *run)
{
	int64 nrows = run->end - run->first;
	int64 written = Min((int64) SPI_processed, nrows);

	if (run->sink->telling == ETL_TELLS_PLACE)
		run->counts.inserted = count_new_in_partitions(SPI_tuptable, written);
	else if (run->sink->telling == ETL_TELLS_INSERTED)
		for (int64 i = 0; i < written; i++)
		{
			bool isnull;

			if (DatumGetBool(SPI_getbinval(SPI_tuptable->vals[i],
										   SPI_tuptable->tupdesc, 1, &isnull)))
				run->counts.inserted++;
		}
	else
		run->counts.inserted = written;
	run->counts.updated = written - run->counts.inserted;
	run->counts.unchanged = nrows - written;
}

/* Of the rows at (tableoid, ctid), how many are new? */
static int64
count_new_in_partitions(SPITupleTable *places, int64 nplaces)
{
	Relation leaf = NULL;
	TupleTableSlot *slot = NULL;
	int64 count = 0;

	for (int64 i = 0; i < nplaces; i++)
	{
		bool isnull;
		Oid relid = DatumGetObjectId(
			SPI_getbinval(places->vals[i], places->tupdesc, 1, &isnull));
		Datum tid = SPI_getbinval(places->vals[i], places->tupdesc, 2, &isnull);

		if (leaf == NULL || RelationGetRelid(leaf) != relid)
		{
			if (leaf != NULL)
			{
				ExecDropSingleTupleTableSlot(slot);
				table_close(leaf, NoLock);
			}
			leaf = table_open(relid, AccessShareLock);
			slot = table_slot_create(leaf, NULL);
		}
		if (table_tuple_fetch_row_version(leaf,
										  (ItemPointer) DatumGetPointer(tid),
										  SnapshotAny, slot) &&
			!TransactionIdIsValid(DatumGetTransactionId(
				slot_getsysattr(slot, MaxTransactionIdAttributeNumber, &isnull))))
			count++;
		ExecClearTuple(slot);
	}
	if (leaf != NULL)
	{
		ExecDropSingleTupleTableSlot(slot);
		table_close(leaf, NoLock);
	}
	return count;
}

static void
sql_close(EtlSink *base)
{
	EtlSqlSink *sink = (EtlSqlSink *) base;

	MemoryContextDelete(sink->context);
}
