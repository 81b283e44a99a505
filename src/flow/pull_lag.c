/*-------------------------------------------------------------------------
 *
 * pull_lag.c
 *	  etl_pipeline_lag(): how far a pipeline is behind its source.
 *
 * Everything is answered without waiting, and without an error where it cannot
 * be known: the source may be gone, or not the caller's to read, and one
 * pipeline must not hide the others.
 *
 * Locks: AccessShareLock on the source.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"

#include "flow/pull.h"

PG_FUNCTION_INFO_V1(etl_pipeline_lag);

static bool can_look(const EtlWatermark *watermark);
static bool same_column(const EtlWatermark *watermark);
static char *waiting_rows(EtlPull *pull, const char *tail);
static double estimate(EtlPull *pull);
static TimestampTz waiting_since(EtlPull *pull, const char *first,
								 TimestampTz last_run);

/*
 * etl_pipeline_lag(pipeline) -> rows_waiting, seconds_behind, held_by_pid: for
 * the view pipeline_lag; what is not known is null.
 */
Datum
etl_pipeline_lag(PG_FUNCTION_ARGS)
{
	TupleDesc desc = etl_result_desc(fcinfo);
	bool nulls[3] = {true, true, true};
	Datum values[3] = {0};
	TimestampTz now = GetCurrentTimestamp();
	EtlWatermark watermark;
	char **first;
	List *answer;
	EtlPull *pull;
	int pid;

	etl_watermark_read(&watermark, text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	if (!can_look(&watermark))
		PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));

	pull = etl_pull_from_watermark(&watermark);
	pull->watermark = watermark;
	pull->source = relation_open(watermark.source, AccessShareLock);
	pull->site = etl_site_open(pull->source);
	if (pull->site->is_wrapped)
	{
		etl_site_close(pull->site);
		relation_close(pull->source, NoLock);
		PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
	}
	if (pull->cursor_column != NULL)
		etl_pull_set_cursor(pull);

	answer = etl_site_ask(pull->site, waiting_rows(pull, "LIMIT 1"));
	nulls[0] = nulls[1] = false;
	values[0] = Int64GetDatum(0);
	values[1] = Float8GetDatum(0);
	if (answer != NIL)
	{
		first = linitial(answer);
		values[0] = Int64GetDatum((int64) estimate(pull));
		values[1] = Float8GetDatum(
			(double) (now - waiting_since(pull, first[0], watermark.updated_at)) /
			USECS_PER_SEC);
	}
	pid = etl_safety_holder(pull);
	values[2] = Int32GetDatum(pid);
	nulls[2] = pid == 0;

	etl_site_close(pull->site);
	relation_close(pull->source, NoLock);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/*
 * Is there something to be found out, and may the caller?  Other servers are
 * not asked, through views and partitions neither: a look at a view must not
 * hang on a connection.
 */
static bool
can_look(const EtlWatermark *watermark)
{
	Oid source = watermark->source;

	if (!OidIsValid(source) || watermark->detail == NULL)
		return false;
	switch (get_rel_relkind(source))
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
		case RELKIND_VIEW:
		case RELKIND_MATVIEW:
			break;
		default:
			return false;
	}
	if (!same_column(watermark))
		return false;
	return pg_class_aclcheck(source, GetUserId(), ACL_SELECT) == ACLCHECK_OK;
}

/* Is the cursor or the flag what it was when the pipeline last ran? */
static bool
same_column(const EtlWatermark *watermark)
{
	const char *column = watermark->cursor_column;
	Oid source = watermark->source;
	char *type;

	if (column == NULL)
	{
		column = etl_json_text(watermark->detail, "flag_column");
		return column != NULL && get_attnum(source, column) > 0 &&
			   getBaseType(get_atttype(source, get_attnum(source, column))) ==
				   BOOLOID;
	}
	type = etl_json_text(watermark->detail, "cursor_type");
	return type != NULL && get_attnum(source, column) > 0 &&
		   strcmp(type, etl_cursor_type_name(source, column)) == 0;
}

/* A query of the cursor values, or flags, that are beyond the watermark. */
static char *
waiting_rows(EtlPull *pull, const char *tail)
{
	StringInfoData sql;

	initStringInfo(&sql);
	if (pull->cursor_column == NULL)
		appendStringInfo(&sql, "SELECT 1 FROM %s WHERE %s %s", pull->site->from,
						 quote_identifier(pull->flag_column), tail);
	else
	{
		pull->range.low.value = pull->watermark.value;
		etl_pull_append_edge(&sql, pull, tail);
	}
	return sql.data;
}

/* How many there are, as the planner sees it. */
static double
estimate(EtlPull *pull)
{
	EtlQuery query = {.text = waiting_rows(pull, "")};
	double rows;

	(void) etl_query_plan(&query, &rows);
	return rows;
}

/*
 * Since when the first of them has been there: its time, or else since the
 * last run, before which it was not there or could not be read.
 */
static TimestampTz
waiting_since(EtlPull *pull, const char *first, TimestampTz last_run)
{
	Datum value;

	if (pull->cursor_column == NULL || !pull->cursor.is_time)
		return last_run;
	value = etl_plain_value(pull->cursor.type, first);
	switch (pull->cursor.type)
	{
		case TIMESTAMPTZOID:
			return DatumGetTimestampTz(value);
		case TIMESTAMPOID:
			return DatumGetTimestampTz(
				DirectFunctionCall1(timestamp_timestamptz, value));
		default:
			return DatumGetTimestampTz(
				DirectFunctionCall1(date_timestamptz, value));
	}
}
