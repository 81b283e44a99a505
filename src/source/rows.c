/*-------------------------------------------------------------------------
 *
 * rows.c
 *	  Rows that are already in the database, from a query or a heap.
 *
 * Rows are handed over one by one as the executor or the scan yields them;
 * nothing is collected.  A query runs with the active snapshot, so that what
 * it sees is the caller's choice: whoever has just waited for a lock pushes a
 * fresh one first.
 *
 * While a query runs the session may be in parallel mode, so the caller's
 * function must not write to the database: it keeps what it wants to write, or
 * asks for a serial query.
 *
 * Locks: AccessShareLock on what a query reads, until the end of the
 * transaction; none for a heap, which the caller has locked.
 *
 *-------------------------------------------------------------------------
 */
#include "source/rows.h"

#include "access/tableam.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/params.h"
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"
#include "storage/bufmgr.h"
#include "tcop/dest.h"
#include "utils/memutils.h"
#include "utils/plancache.h"

/* Hands the rows of a query on. */
typedef struct RowReceiver
{
	DestReceiver pub;
	EtlRowCall call;
	void *arg;
	MemoryContext row_context; /* reset after each row */
	int64 rows;
} RowReceiver;

static void connect(const EtlQuery *query);
static SPIPlanPtr prepare(const EtlQuery *query);
static double planned_rows(SPIPlanPtr plan);
static ParamListInfo params_of(const EtlQuery *query);
static bool receive_row(TupleTableSlot *slot, DestReceiver *self);
static void receive_startup(DestReceiver *self, int operation, TupleDesc desc);
static void receive_nothing(DestReceiver *self);
static void call_row(EtlRowCall call, void *arg, TupleTableSlot *slot,
					 MemoryContext row_context);
static MemoryContext create_row_context(void);

/*
 * The columns of the query's rows, in the current memory context.  Throws if
 * the query is not one that yields rows.
 */
TupleDesc
etl_query_desc(const EtlQuery *query)
{
	return etl_query_plan(query, NULL);
}

/*
 * The same, and how many rows the planner expects; it takes a query that has
 * no parameters.  rows may be NULL: then nothing is planned.
 */
TupleDesc
etl_query_plan(const EtlQuery *query, double *rows)
{
	MemoryContext caller_context = CurrentMemoryContext;
	CachedPlanSource *source;
	TupleDesc desc;
	List *sources;
	SPIPlanPtr plan;

	connect(query);
	plan = prepare(query);
	sources = SPI_plan_get_plan_sources(plan);
	if (list_length(sources) != 1)
		ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR),
						errmsg("query is not a single statement")));
	source = linitial(sources);
	if (source->resultDesc == NULL)
		ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR),
						errmsg("query does not return rows")));

	if (rows != NULL)
		*rows = planned_rows(plan);
	MemoryContextSwitchTo(caller_context);
	desc = CreateTupleDescCopy(source->resultDesc);
	SPI_finish();
	return desc;
}

/* The plan belongs to this SPI connection, and its reference to nobody. */
static double
planned_rows(SPIPlanPtr plan)
{
	CachedPlan *cached = SPI_plan_get_cached_plan(plan);
	PlannedStmt *statement;
	double rows;

	if (cached == NULL)
		elog(ERROR, "query has no plan");
	statement = linitial_node(PlannedStmt, cached->stmt_list);
	rows = statement->planTree->plan_rows;
	ReleaseCachedPlan(cached, NULL);
	return rows;
}

/*
 * Runs the query with the active snapshot, in parallel where the planner
 * likes to, and calls call(arg, slot) for each row; see rows.h.  Returns the
 * number of rows.  The query must not write.
 */
int64
etl_query_rows(const EtlQuery *query, EtlRowCall call, void *arg)
{
	RowReceiver receiver = {0};
	SPIExecuteOptions options = {0};
	SPIPlanPtr plan;
	int rc;

	receiver.pub.receiveSlot = receive_row;
	receiver.pub.rStartup = receive_startup;
	receiver.pub.rShutdown = receive_nothing;
	receiver.pub.rDestroy = receive_nothing;
	receiver.pub.mydest = DestNone;
	receiver.call = call;
	receiver.arg = arg;
	receiver.row_context = create_row_context();

	connect(query);
	options.params = params_of(query);
	options.read_only = true;
	options.must_return_tuples = true;
	options.dest = &receiver.pub;
	plan = prepare(query);
	/* Without parameters there is one plan, which is made only once. */
	if (query->planned != NULL && query->nargs == 0)
		*query->planned = planned_rows(plan);
	rc = SPI_execute_plan_extended(plan, &options);
	if (rc < 0)
		elog(ERROR, "SPI_execute_plan_extended failed: %s",
			 SPI_result_code_string(rc));
	SPI_finish();

	MemoryContextDelete(receiver.row_context);
	return receiver.rows;
}

/*
 * Reads all rows of the heap that the snapshot sees, in the order of their
 * places, and calls call(arg, slot) for each; see rows.h.  Returns the number
 * of rows.
 */
int64
etl_heap_rows(Relation rel, Snapshot snapshot, EtlRowCall call, void *arg)
{
	MemoryContext row_context = create_row_context();
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan;
	int64 rows = 0;

	/* A synchronized scan could start in the middle. */
	scan = table_beginscan_strat(rel, snapshot, 0, NULL, true, false);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		rows++;
		call_row(call, arg, slot, row_context);
	}
	table_endscan(scan);

	ExecDropSingleTupleTableSlot(slot);
	MemoryContextDelete(row_context);
	return rows;
}

/*
 * Reads a row again that a scan of the heap has given with this snapshot, into
 * a slot of the relation's kind.  When the slot still pins the row's page,
 * there is nothing to look up and nothing to check: what the snapshot sees
 * stays where it is as long as the page is pinned.
 */
void
etl_heap_fetch(Relation rel, ItemPointer tid, Snapshot snapshot,
			   TupleTableSlot *slot)
{
	BufferHeapTupleTableSlot *heap_slot = (BufferHeapTupleTableSlot *) slot;
	Buffer buffer = heap_slot->buffer;
	HeapTupleData tuple;
	ItemId item;
	Page page;

	if (TTS_EMPTY(slot) || !BufferIsValid(buffer) ||
		BufferGetBlockNumber(buffer) != ItemPointerGetBlockNumber(tid))
	{
		if (!table_tuple_fetch_row_version(rel, tid, snapshot, slot))
			elog(ERROR, "row (%u,%u) of relation \"%s\" has gone",
				 ItemPointerGetBlockNumber(tid),
				 ItemPointerGetOffsetNumber(tid), RelationGetRelationName(rel));
		return;
	}

	page = BufferGetPage(buffer);
	item = PageGetItemId(page, ItemPointerGetOffsetNumber(tid));
	Assert(ItemIdIsNormal(item));
	tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
	tuple.t_len = ItemIdGetLength(item);
	tuple.t_tableOid = RelationGetRelid(rel);
	tuple.t_self = *tid;
	heap_slot->base.tupdata = tuple;
	ExecStoreBufferHeapTuple(&heap_slot->base.tupdata, slot, buffer);
}

/* Lets statements of this SPI connection read a tuplestore by a name. */
void
etl_register_rows(const char *name, TupleDesc desc, Tuplestorestate *store)
{
	EphemeralNamedRelation rows = palloc0(sizeof(EphemeralNamedRelationData));
	int rc;

	rows->md.name = pstrdup(name);
	rows->md.tupdesc = desc;
	rows->md.enrtype = ENR_NAMED_TUPLESTORE;
	rows->md.enrtuples = (double) tuplestore_tuple_count(store);
	rows->reldata = store;
	rc = SPI_register_relation(rows);
	if (rc != SPI_OK_REL_REGISTER)
		elog(ERROR, "SPI_register_relation failed: %s",
			 SPI_result_code_string(rc));
}

/* Connects to SPI, with the rows that the query may name. */
static void
connect(const EtlQuery *query)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (query->rows != NULL)
		etl_register_rows(query->rows_name, query->rows_desc, query->rows);
}

/* Parses the query, for this SPI connection. */
static SPIPlanPtr
prepare(const EtlQuery *query)
{
	SPIPlanPtr plan = SPI_prepare_cursor(query->text, query->nargs, query->types,
										 query->serial ? 0 :
														 CURSOR_OPT_PARALLEL_OK);

	if (plan == NULL)
		elog(ERROR, "SPI_prepare_cursor failed: %s",
			 SPI_result_code_string(SPI_result));
	return plan;
}

/* The query's parameters as the executor wants them; NULL if it has none. */
static ParamListInfo
params_of(const EtlQuery *query)
{
	ParamListInfo params;

	if (query->nargs == 0)
		return NULL;
	params = makeParamList(query->nargs);
	for (int i = 0; i < query->nargs; i++)
	{
		ParamExternData *param = &params->params[i];

		param->value = query->values[i];
		param->isnull = query->nulls != NULL && query->nulls[i] == 'n';
		param->pflags = PARAM_FLAG_CONST; /* for a plan of these values */
		param->ptype = query->types[i];
	}
	return params;
}

/* The executor calls this for each row. */
static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	RowReceiver *receiver = (RowReceiver *) self;

	CHECK_FOR_INTERRUPTS();
	receiver->rows++;
	call_row(receiver->call, receiver->arg, slot, receiver->row_context);
	return true;
}

static void
receive_startup(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
receive_nothing(DestReceiver *self)
{
}

/* What the call allocates goes with the row. */
static void
call_row(EtlRowCall call, void *arg, TupleTableSlot *slot,
		 MemoryContext row_context)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(row_context);

	call(arg, slot);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(row_context);
}

static MemoryContext
create_row_context(void)
{
	return AllocSetContextCreate(CurrentMemoryContext, "etl_patterns row",
								 ALLOCSET_SMALL_SIZES);
}
