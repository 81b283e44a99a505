/*-------------------------------------------------------------------------
 *
 * pull_flags.c
 *	  Rows that a column marks as new.
 *
 * The flags are cleared by the statement that reads the rows, so that what is
 * read is what was cleared, and both are undone together.  A row that another
 * transaction is writing is passed over: it stays flagged and is read later.
 * A writer that comes after us waits for our commit and sets the flag anew.
 *
 * Locks: RowExclusiveLock on the source, and its rows that are taken.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "flow/pull.h"

/* Puts the rows of the statement into a tuplestore, as the source has them. */
typedef struct FlagReceiver
{
	DestReceiver pub;
	EtlPull *pull;
	int flag;			 /* position of the flag */
	int *positions;		 /* of the statement's columns in the source */
	TupleTableSlot *row; /* in the layout of the source */
	int64 rows;
} FlagReceiver;

static AttrNumber find_flag(EtlPull *pull);
static char *statement(EtlPull *pull);
static void init_receiver(FlagReceiver *receiver, EtlPull *pull,
						  AttrNumber flag);
static bool receive_row(TupleTableSlot *slot, DestReceiver *self);
static void receive_startup(DestReceiver *self, int operation, TupleDesc desc);
static void receive_nothing(DestReceiver *self);

/* Takes the flagged rows, at most batch_rows, into pull->rows. */
void
etl_pull_take_flagged(EtlPull *pull)
{
	AttrNumber flag = find_flag(pull);
	SPIExecuteOptions options = {0};
	FlagReceiver receiver = {0};
	SPIPlanPtr plan;
	int rc;

	pull->rows = tuplestore_begin_heap(true, false, work_mem);
	init_receiver(&receiver, pull, flag);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	plan = SPI_prepare(statement(pull), 0, NULL);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s",
			 SPI_result_code_string(SPI_result));
	options.dest = &receiver.pub;
	options.must_return_tuples = true;
	etl_progress_set(pull->run, ETL_PHASE_READING, ETL_UNIT_ROWS, 0,
					 ETL_TOTAL_UNKNOWN);
	rc = SPI_execute_plan_extended(plan, &options);
	if (rc < 0)
		elog(ERROR, "SPI_execute_plan_extended failed: %s",
			 SPI_result_code_string(rc));
	SPI_finish();
	ExecDropSingleTupleTableSlot(receiver.row);

	pull->has_rows = receiver.rows > 0;
	pull->more = pull->batch_rows > 0 && receiver.rows == pull->batch_rows;
}

/* A boolean column of tables that are written in this transaction. */
static AttrNumber
find_flag(EtlPull *pull)
{
	AttrNumber flag = etl_pull_column(pull, pull->flag_column, "flag_column");
	bool all_here;

	if (getBaseType(get_atttype(RelationGetRelid(pull->source), flag)) != BOOLOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" in parameter \"flag_column\" is not of type boolean",
						pull->flag_column)));
	(void) etl_base_tables(pull->source, &all_here, NULL);
	if (!all_here ||
		(pull->source->rd_rel->relkind != RELKIND_RELATION &&
		 pull->source->rd_rel->relkind != RELKIND_PARTITIONED_TABLE))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("the source of a pull with flags must be a table of this database: \"%s\"",
						RelationGetRelationName(pull->source)),
				 errdetail(
					 "Elsewhere the flags and the rows could not be committed together."),
				 errhint(
					 "Pull from the table itself if it is here, or use \"cursor_column\".")));
	return flag;
}

static char *
statement(EtlPull *pull)
{
	const char *table = etl_relation_name(pull->source);
	const char *flag = quote_identifier(pull->flag_column);
	TupleDesc desc = RelationGetDescr(pull->source);
	const char *separator = "";
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "WITH etl_t AS MATERIALIZED (SELECT tableoid, ctid FROM %s"
					 " WHERE %s",
					 table, flag);
	if (pull->batch_rows > 0)
		appendStringInfo(&sql, " LIMIT " INT64_FORMAT, pull->batch_rows);
	appendStringInfo(&sql,
					 " FOR UPDATE SKIP LOCKED) UPDATE %s AS etl_s SET %s = false"
					 " FROM etl_t"
					 " WHERE etl_s.tableoid OPERATOR(pg_catalog.=) etl_t.tableoid"
					 " AND etl_s.ctid OPERATOR(pg_catalog.=) etl_t.ctid RETURNING ",
					 table, flag);
	for (int i = 0; i < desc->natts; i++)
	{
		if (TupleDescAttr(desc, i)->attisdropped)
			continue;
		appendStringInfo(&sql, "%setl_s.%s", separator,
						 quote_identifier(
							 NameStr(TupleDescAttr(desc, i)->attname)));
		separator = ", ";
	}
	return sql.data;
}

static void
init_receiver(FlagReceiver *receiver, EtlPull *pull, AttrNumber flag)
{
	TupleDesc desc = RelationGetDescr(pull->source);
	int n = 0;

	receiver->pub.receiveSlot = receive_row;
	receiver->pub.rStartup = receive_startup;
	receiver->pub.rShutdown = receive_nothing;
	receiver->pub.rDestroy = receive_nothing;
	receiver->pub.mydest = DestNone;
	receiver->pull = pull;
	receiver->flag = flag - 1;
	receiver->positions = palloc(sizeof(int) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped)
			receiver->positions[n++] = i;
	receiver->row = MakeSingleTupleTableSlot(CreateTupleDescCopy(desc),
											 &TTSOpsVirtual);
}

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	FlagReceiver *receiver = (FlagReceiver *) self;
	TupleTableSlot *row = receiver->row;

	CHECK_FOR_INTERRUPTS();
	slot_getallattrs(slot);
	ExecClearTuple(row);
	memset(row->tts_isnull, true,
		   sizeof(bool) * row->tts_tupleDescriptor->natts);
	for (int i = 0; i < slot->tts_tupleDescriptor->natts; i++)
	{
		row->tts_values[receiver->positions[i]] = slot->tts_values[i];
		row->tts_isnull[receiver->positions[i]] = slot->tts_isnull[i];
	}
	ExecStoreVirtualTuple(row);
	if (row->tts_isnull[receiver->flag] ||
		DatumGetBool(row->tts_values[receiver->flag]))
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("flag \"%s\" of relation \"%s\" is set again when it is cleared",
						receiver->pull->flag_column,
						RelationGetRelationName(receiver->pull->source)),
				 errhint(
					 "A trigger that sets it should leave alone an update that changes it from true to false.")));
	tuplestore_puttupleslot(receiver->pull->rows, row);
	etl_progress_row(receiver->pull->run, ++receiver->rows);
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
