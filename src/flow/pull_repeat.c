/*-------------------------------------------------------------------------
 *
 * pull_repeat.c
 *	  Calls that repeat what a pipeline remembers: etl_backfill() reads a range
 *	  of its source once more, etl_incremental_drain() pulls batch by batch.
 *
 * Locks: those of incremental_pull.c.  A backfill does not lock the pipeline;
 * a drain holds locks for one batch at a time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "flow/pull.h"

/* A drain commits after so many rows, if the pipeline says nothing else. */
#define DRAIN_BATCH_ROWS 100000

PG_FUNCTION_INFO_V1(etl_backfill);
PG_FUNCTION_INFO_V1(etl_incremental_drain);

static void check_can_commit(FunctionCallInfo fcinfo);
static bool drain_batch(const char *pipeline, Oid function);

/*
 * etl_backfill(pipeline, low, high): the rows of a range once more.
 */
Datum
etl_backfill(PG_FUNCTION_ARGS)
{
	TupleDesc desc = etl_result_desc(fcinfo);
	EtlWatermark watermark;
	EtlPull *pull;

	etl_refuse_null(fcinfo, 0, "pipeline");
	PreventCommandIfReadOnly("etl_backfill()");
	etl_watermark_read(&watermark, etl_arg_text(fcinfo, 0), false);
	pull = etl_pull_from_watermark(&watermark);
	if (pull->flag_column != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pipeline \"%s\" has no cursor column, and so no ranges",
						pull->pipeline),
				 errhint("Set the column \"%s\" of the rows that are to be read again.",
						 pull->flag_column)));
	if (pull->keys == NIL)
		ereport(WARNING,
				(errmsg("pipeline \"%s\" has no keys: rows that it has read before will be there twice",
						pull->pipeline),
				 errhint(
					 "Pull once with \"keys\", or delete the rows of the range from the target first.")));
	pull->function = fcinfo->flinfo->fn_oid;
	pull->watermark = watermark;
	pull->is_backfill = true;
	pull->safety = ETL_SAFETY_NONE;
	pull->lookback = pull->lag = NULL;
	pull->batch_rows = 0;
	pull->range.low.value = etl_arg_text(fcinfo, 1);
	pull->range.low.inclusive = true;
	pull->end_value = etl_arg_text(fcinfo, 2);
	etl_pull_prepare(pull);
	etl_pull_run(pull);
	PG_RETURN_DATUM(etl_pull_result(pull, desc));
}

/*
 * etl_incremental_drain(pipeline, max_batches, max_runtime): batches, each in
 * a transaction of its own.
 */
Datum
etl_incremental_drain(PG_FUNCTION_ARGS)
{
	int batches = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);
	TimestampTz end = 0;
	MemoryContext context;
	char *pipeline;
	bool more = true;

	etl_refuse_null(fcinfo, 0, "pipeline");
	if (!PG_ARGISNULL(1) && batches <= 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("parameter \"%s\" must be greater than zero",
							   "max_batches")));
	PreventCommandIfReadOnly("etl_incremental_drain()");
	check_can_commit(fcinfo);
	if (!PG_ARGISNULL(2))
		end = DatumGetTimestampTz(
			DirectFunctionCall2(timestamptz_pl_interval,
								TimestampTzGetDatum(GetCurrentTimestamp()),
								PG_GETARG_DATUM(2)));

	/* What is to outlive a commit. */
	context = AllocSetContextCreate(PortalContext, "etl drain",
									ALLOCSET_DEFAULT_SIZES);
	pipeline = MemoryContextStrdup(context,
								   text_to_cstring(PG_GETARG_TEXT_PP(0)));
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	for (int batch = 0; more; batch++)
	{
		MemoryContext batch_context;
		MemoryContext oldcontext;

		if ((batches > 0 && batch == batches) ||
			(end != 0 && batch > 0 && GetCurrentTimestamp() >= end))
			break;
		EnsurePortalSnapshotExists();
		batch_context = AllocSetContextCreate(context, "etl batch",
											  ALLOCSET_DEFAULT_SIZES);
		oldcontext = MemoryContextSwitchTo(batch_context);
		more = drain_batch(pipeline, fcinfo->flinfo->fn_oid);
		MemoryContextSwitchTo(oldcontext);
		SPI_commit();
		MemoryContextDelete(batch_context);
	}
	SPI_finish();
	MemoryContextDelete(context);
	PG_RETURN_VOID();
}

static void
check_can_commit(FunctionCallInfo fcinfo)
{
	if (fcinfo->context != NULL && IsA(fcinfo->context, CallContext) &&
		!castNode(CallContext, fcinfo->context)->atomic)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
			 errmsg(
				 "etl_incremental_drain() cannot run inside a transaction block"),
			 errdetail("It commits after each batch."),
			 errhint(
				 "CALL it outside of BEGIN ... COMMIT and not from a function, or use etl_incremental_pull().")));
}

/* One batch; is there more? */
static bool
drain_batch(const char *pipeline, Oid function)
{
	EtlWatermark watermark;
	EtlPull *pull;

	etl_watermark_read(&watermark, pipeline, true);
	pull = etl_pull_from_watermark(&watermark);
	pull->watermark = watermark;
	pull->function = function;
	pull->is_drain = pull->batch_rows == 0;
	if (pull->is_drain)
		pull->batch_rows = DRAIN_BATCH_ROWS;
	etl_pull_prepare(pull);
	etl_pull_run(pull);
	return pull->more;
}
