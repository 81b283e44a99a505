/*-------------------------------------------------------------------------
 *
 * incremental_pull.c
 *	  etl_incremental_pull(): what is new in a source, into a target; the
 *	  steps of a run, also for those that pull_repeat.c begins.
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
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "flow/pull.h"

PG_FUNCTION_INFO_V1(etl_incremental_pull);

static bool has_work(EtlPull *pull);
static void check_same_pipeline(EtlPull *pull);
static void refuse_other(EtlPull *pull, const char *what, const char *before,
						 const char *now);
static const char *relation_label(Oid relid);
static void open_relations(EtlPull *pull);
pg_noreturn static void refuse_gone(EtlPull *pull, const char *what, Oid relid);
static void find_rows(EtlPull *pull);
static char *own_literal(EtlPull *pull, const char *text, const char *parameter);
static void set_literals(EtlPull *pull);
static void literal_context(void *arg);
static void apply_rows(EtlPull *pull);
static void apply_context(void *arg);
static void move_watermark(EtlPull *pull);
static void finish_run(EtlPull *pull);
static Jsonb *run_detail(EtlPull *pull);
static Jsonb *jsonb_of(StringInfo json);

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
	etl_pull_prepare(pull);
	etl_watermark_read(&pull->watermark, pull->pipeline, true);
	check_same_pipeline(pull);
	etl_pull_run(pull);
	PG_RETURN_DATUM(etl_pull_result(pull, desc));
}

/* ------------------------------------------------------------------ */
/* a run                                                                */

/* Shows that the pull is there, and waits for its turn. */
void
etl_pull_prepare(EtlPull *pull)
{
	pull->run = etl_run_prepare(pull->is_backfill ? "backfill" :
													"incremental_pull",
								pull->pipeline, pull->target_id);
}

/* The call has been checked, and the watermark has been read. */
void
etl_pull_run(EtlPull *pull)
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
			 errhint("Choose another name for the new pipeline, or forget what this one has read with SELECT etl_watermark_reset(%s). To go on from the same place, set it again with etl_watermark_set().",
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
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(pull->source_id)))
		refuse_gone(pull, "source", pull->source_id);
	etl_check_select_privilege(pull->source_id);
	pull->source = try_relation_open(pull->source_id, pull->flag_column == NULL ?
														  AccessShareLock :
														  RowExclusiveLock);
	if (pull->source == NULL)
		refuse_gone(pull, "source", pull->source_id);
	if (RELATION_IS_OTHER_TEMP(pull->source))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot access temporary tables of other sessions")));
	pull->target = try_relation_open(pull->target_id, AccessShareLock);
	if (pull->target == NULL)
		refuse_gone(pull, "target", pull->target_id);
	etl_sink_check_kind(pull->target);
}

/* A regclass, and a call that is remembered, may name what is no more. */
static void
refuse_gone(EtlPull *pull, const char *what, Oid relid)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("the %s of pipeline \"%s\" does not exist", what,
					pull->pipeline),
			 errdetail("It is the relation with OID %u.", relid),
			 OidIsValid(pull->watermark.source) ?
				 errhint("Forget the pipeline with SELECT etl_watermark_reset(%s), and pull with another %s. To go on from the same place, set it again with etl_watermark_set().",
						 quote_literal_cstr(pull->pipeline), what) :
				 0));
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
	char *literal;

	if (text == NULL)
		return NULL;
	error_context_stack = &context;
	literal = etl_plain_literal(pull->cursor.type, text);
	error_context_stack = context.previous;
	return literal;
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
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = apply_context,
		.arg = pull,
	};

	error_context_stack = &context;
	if (pull->apply == ETL_APPLY_APPEND && pull->keys == NIL)
		etl_pull_append(pull);
	else
		etl_pull_merge(pull);
	error_context_stack = context.previous;
}

static void
apply_context(void *arg)
{
	errcontext("pipeline \"%s\"", ((EtlPull *) arg)->pipeline);
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
	if (pull->skipped)
		ereport(NOTICE,
				(errmsg("pipeline \"%s\" gave up waiting and has read nothing",
						pull->pipeline),
				 errhint(
					 "Pull again when that transaction has ended, or with a longer \"max_wait\".")));
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

/* The row that a pull and a backfill return. */
Datum
etl_pull_result(EtlPull *pull, TupleDesc desc)
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
