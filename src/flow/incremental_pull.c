/*-------------------------------------------------------------------------
 *
 * incremental_pull.c
 *	  etl_incremental_pull(): what is new in a source, into a target.
 *
 * The steps of a run, whose order matters: the pipeline is locked and its
 * watermark read; how far it is safe to read is found out, which may take a
 * wait; the target is locked; the rows are read, with a snapshot younger than
 * all that; the watermark and the run are written.  All of it is one
 * transaction.
 *
 * Locks: the pipeline's name and AccessShareLock on the source (with flags
 * RowExclusiveLock), RowExclusiveLock on the target or what a merge takes, all
 * until the end of the transaction.  A backfill does not lock the pipeline.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "flow/pull.h"

/* A drain commits after so many rows, if the pipeline says nothing else. */
#define DRAIN_BATCH_ROWS 100000

PG_FUNCTION_INFO_V1(etl_incremental_pull);
PG_FUNCTION_INFO_V1(etl_incremental_drain);
PG_FUNCTION_INFO_V1(etl_backfill);

static void prepare_run(EtlPull *pull);
static void run_pull(EtlPull *pull);
static bool has_work(EtlPull *pull);
static void check_same_pipeline(EtlPull *pull);
static void refuse_other(EtlPull *pull, const char *what, const char *before,
						 const char *now);
static const char *relation_label(Oid relid);
static void open_relations(EtlPull *pull);
static Relation open_existing(Oid relid, LOCKMODE lockmode);
static void find_rows(EtlPull *pull);
static char *own_literal(EtlPull *pull, const char *text, const char *parameter);
static void set_literals(EtlPull *pull);
static void literal_context(void *arg);
static void apply_rows(EtlPull *pull);
static void move_watermark(EtlPull *pull);
static void finish_run(EtlPull *pull);
static Jsonb *run_detail(EtlPull *pull);
static Jsonb *jsonb_of(StringInfo json);
static Datum result_row(EtlPull *pull, TupleDesc desc);
static bool drain_batch(const char *pipeline, Oid function);

/*
 * etl_incremental_pull(pipeline, source, target, ...): see
 * docs/incremental-pull.md.
 */
Datum
etl_incremental_pull(PG_FUNCTION_ARGS)
{
	TupleDesc desc = etl_result_desc(fcinfo);
	EtlPull *pull = etl_pull_from_args(fcinfo);

	PreventCommandIfReadOnly("etl_incremental_pull()");
	pull->function = fcinfo->flinfo->fn_oid;
	etl_pull_check_call(pull);
	prepare_run(pull);
	etl_watermark_read(&pull->watermark, pull->pipeline, true);
	check_same_pipeline(pull);
	run_pull(pull);
	PG_RETURN_DATUM(result_row(pull, desc));
}

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
	prepare_run(pull);
	run_pull(pull);
	PG_RETURN_DATUM(result_row(pull, desc));
}

/*
 * etl_incremental_drain(pipeline, max_batches, max_runtime): batches, each in
 * a transaction of its own.
 */
Datum
etl_incremental_drain(PG_FUNCTION_ARGS)
{
	bool atomic = !(fcinfo->context != NULL &&
					IsA(fcinfo->context, CallContext) &&
					!castNode(CallContext, fcinfo->context)->atomic);
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
	if (atomic)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg(
					 "etl_incremental_drain() cannot run inside a transaction block"),
				 errdetail("It commits after each batch."),
				 errhint(
					 "CALL it outside of BEGIN ... COMMIT and not from a function, or use etl_incremental_pull().")));
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
	prepare_run(pull);
	run_pull(pull);
	return pull->more;
}

/* ------------------------------------------------------------------ */
/* a run                                                                */

/* Shows that the pull is there, and waits for its turn. */
static void
prepare_run(EtlPull *pull)
{
	pull->run = etl_run_prepare(pull->is_backfill ? "backfill" :
													"incremental_pull",
								pull->pipeline, pull->target_id);
}

/* The call has been checked, and the watermark has been read. */
static void
run_pull(EtlPull *pull)
{
	open_relations(pull);
	etl_pull_set_columns(pull);
	/* A wait must not keep others from it, and it is locked anew to write. */
	relation_close(pull->target, AccessShareLock);
	etl_run_start(pull->run);
	if (pull->flag_column != NULL)
		etl_pull_take_flagged(pull);
	else
		find_rows(pull);
	if (has_work(pull))
		apply_rows(pull);
	move_watermark(pull);
	finish_run(pull);
	if (pull->rows != NULL)
		tuplestore_end(pull->rows);
	if (pull->site != NULL)
		etl_site_close(pull->site);
	relation_close(pull->source, NoLock);
}

/*
 * Is there anything to be applied?  The first run of a pipeline goes all the
 * way with no rows, too, so that what is wrong with its options or missing in
 * privileges comes out then.
 */
static bool
has_work(EtlPull *pull)
{
	if (pull->skipped)
		return false;
	return pull->has_rows || !OidIsValid(pull->watermark.source) ||
		   (pull->null_cursor == ETL_NULL_CURSOR_INCLUDE &&
			pull->null_cursor_rows > 0);
}

/* A watermark is good for what it was made with, and for nothing else. */
static void
check_same_pipeline(EtlPull *pull)
{
	const EtlWatermark *watermark = &pull->watermark;
	char *flag;

	if (!OidIsValid(watermark->source))
		return;
	if (watermark->source != pull->source_id)
		refuse_other(pull, "source", relation_label(watermark->source),
					 relation_label(pull->source_id));
	if (watermark->target != pull->target_id)
		refuse_other(pull, "target", relation_label(watermark->target),
					 relation_label(pull->target_id));
	flag = watermark->detail == NULL ?
			   NULL :
			   etl_json_text(watermark->detail, "flag_column");
	if (flag != NULL &&
		(pull->flag_column == NULL || strcmp(flag, pull->flag_column) != 0))
		refuse_other(pull, "flag column", flag,
					 pull->flag_column == NULL ? "none" : pull->flag_column);
	if (watermark->cursor_column != NULL &&
		(pull->cursor_column == NULL ||
		 strcmp(watermark->cursor_column, pull->cursor_column) != 0))
		refuse_other(pull, "cursor column", watermark->cursor_column,
					 pull->cursor_column == NULL ? "none" : pull->cursor_column);
}

static void
refuse_other(EtlPull *pull, const char *what, const char *before,
			 const char *now)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("pipeline \"%s\" has another %s", pull->pipeline, what),
			 errdetail("It is %s, and was to be %s.", before, now),
			 errhint("Choose another name for the new pipeline, or forget what this one has read with SELECT etl_watermark_reset(%s).",
					 quote_literal_cstr(pull->pipeline))));
}

static const char *
relation_label(Oid relid)
{
	const char *name = get_rel_name(relid);

	return name != NULL ? name :
						  psprintf("a relation that was dropped (%u)", relid);
}

static void
open_relations(EtlPull *pull)
{
	if (pull->source_id == pull->target_id)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("source and target are the same relation")));
	etl_check_select_privilege(pull->source_id);
	pull->source = open_existing(pull->source_id, pull->flag_column == NULL ?
													  AccessShareLock :
													  RowExclusiveLock);
	if (RELATION_IS_OTHER_TEMP(pull->source))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot access temporary tables of other sessions")));
	pull->target = open_existing(pull->target_id, AccessShareLock);
	etl_sink_check_kind(pull->target);
}

/* A regclass may name what is no more. */
static Relation
open_existing(Oid relid, LOCKMODE lockmode)
{
	Relation rel = try_relation_open(relid, lockmode);

	if (rel == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("relation with OID %u does not exist", relid)));
	return rel;
}

/* Finds out which rows are to be read. */
static void
find_rows(EtlPull *pull)
{
	pull->site = etl_site_open(pull->source);
	etl_pull_set_cursor(pull);
	set_literals(pull);
	if (pull->lookback != NULL && !pull->cursor.is_time)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg(
					 "parameter \"lookback\" requires a cursor of type timestamptz, timestamp or date"),
				 errdetail("Column \"%s\" is of type %s.", pull->cursor.name,
						   format_type_be(pull->cursor.type))));
	if (!pull->is_backfill)
		etl_safety_choose(pull);
	etl_pull_find_range(pull);
}

/* What the caller wrote means what it means in the caller's session. */
static void
set_literals(EtlPull *pull)
{
	pull->initial_value = own_literal(pull, pull->initial_value,
									  "initial_value");
	pull->end_value = own_literal(pull, pull->end_value,
								  pull->is_backfill ? "high" : "end_value");
	if (pull->is_backfill)
		pull->range.low.value = own_literal(pull, pull->range.low.value, "low");
	pull->watermark.value = own_literal(pull, pull->watermark.value, NULL);
}

static char *
own_literal(EtlPull *pull, const char *text, const char *parameter)
{
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = literal_context,
		.arg = unconstify(char *, parameter),
	};
	Oid type = pull->cursor.type;
	Oid input;
	Oid param;
	Datum value;

	if (text == NULL)
		return NULL;
	error_context_stack = &context;
	getTypeInputInfo(type, &input, &param);
	value = OidInputFunctionCall(input, unconstify(char *, text), param, -1);
	error_context_stack = context.previous;
	return etl_plain_text(type, value);
}

/* Says which value a type's input function has complained about. */
static void
literal_context(void *arg)
{
	if (arg == NULL)
		errcontext("watermark");
	else
		errcontext("parameter \"%s\"", (char *) arg);
}

static void
apply_rows(EtlPull *pull)
{
	if (pull->apply == ETL_APPLY_APPEND && pull->keys == NIL)
		etl_pull_append(pull);
	else
		etl_pull_merge(pull);
}

/* ------------------------------------------------------------------ */
/* what is left of it                                                   */

static void
move_watermark(EtlPull *pull)
{
	EtlWatermark *watermark = &pull->watermark;
	StringInfoData json;

	pull->run->watermark_low = watermark->value;
	pull->run->watermark_high = watermark->value;
	if (pull->is_backfill)
	{
		pull->run->watermark_low = pull->range.low.value;
		pull->run->watermark_high = pull->end_value;
		return;
	}
	if (pull->flag_column == NULL)
		pull->run->watermark_high = etl_pull_reached(pull);

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	if (pull->is_drain)
		pull->batch_rows = 0;
	etl_pull_append_call(&json, pull);
	appendStringInfoString(&json, ", ");
	etl_pull_append_columns(&json, pull);
	appendStringInfo(&json, ", \"chosen\": \"%s\"}",
					 pull->flag_column != NULL ? "flag" :
												 etl_safety_words[pull->safety]);
	watermark->source = pull->source_id;
	watermark->target = pull->target_id;
	watermark->cursor_column = pull->cursor_column;
	watermark->value = pull->run->watermark_high;
	watermark->run_id = pull->run->run_id;
	watermark->detail = jsonb_of(&json);
	etl_watermark_move(watermark);
}

static void
finish_run(EtlPull *pull)
{
	etl_run_finish(pull->run, pull->skipped ? "skipped" : "succeeded",
				   run_detail(pull));
}

static Jsonb *
run_detail(EtlPull *pull)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"source\": ");
	escape_json(&json, etl_relation_name(pull->source));
	appendStringInfo(&json, ", \"apply\": \"%s\", \"more\": %s",
					 etl_apply_words[pull->apply],
					 pull->more ? "true" : "false");
	if (pull->way != NULL)
		appendStringInfo(&json, ", \"way\": \"%s\"", pull->way);
	if (pull->site != NULL)
		appendStringInfo(&json, ", \"site\": \"%s\", \"safety\": \"%s\"",
						 pull->site->ops->name, etl_safety_words[pull->safety]);
	if (pull->limit != NULL)
	{
		appendStringInfoString(&json, ", \"limit\": ");
		escape_json(&json, pull->limit);
	}
	if (pull->null_cursor_rows > 0)
		appendStringInfo(&json, ", \"null_cursor_rows\": " INT64_FORMAT,
						 pull->null_cursor_rows);
	if (pull->has_holder || pull->has_waited)
	{
		appendStringInfo(&json, ", \"held_by\": {\"pid\": %d", pull->holder.pid);
		if (pull->holder.since != NULL)
			appendStringInfo(&json, ", \"since\": \"%s\"", pull->holder.since);
		if (pull->holder.gid != NULL)
		{
			appendStringInfoString(&json, ", \"gid\": ");
			escape_json(&json, pull->holder.gid);
		}
		appendStringInfoChar(&json, '}');
	}
	if (pull->waited_us > 0)
		appendStringInfo(&json, ", \"waited_ms\": " INT64_FORMAT,
						 pull->waited_us / 1000);
	if (pull->merge_detail != NULL)
		appendStringInfo(&json, ", \"merge\": %s", pull->merge_detail);
	appendStringInfoChar(&json, '}');
	return jsonb_of(&json);
}

static Jsonb *
jsonb_of(StringInfo json)
{
	return DatumGetJsonbP(
		DirectFunctionCall1(jsonb_in, CStringGetDatum(json->data)));
}

static Datum
result_row(EtlPull *pull, TupleDesc desc)
{
	const EtlRun *run = pull->run;
	Datum values[9];
	bool nulls[9] = {0};
	int n = 0;

	values[n++] = Int64GetDatum(run->run_id);
	values[n++] = Int64GetDatum(run->rows_read);
	values[n++] = Int64GetDatum(run->rows_inserted);
	values[n++] = Int64GetDatum(run->rows_updated);
	values[n++] = Int64GetDatum(run->rows_unchanged);
	values[n++] = Int64GetDatum(run->rows_rejected);
	etl_ledger_set_text(&values[n], &nulls[n], run->watermark_low);
	n++;
	etl_ledger_set_text(&values[n], &nulls[n], run->watermark_high);
	n++;
	values[n++] = BoolGetDatum(pull->more);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}
