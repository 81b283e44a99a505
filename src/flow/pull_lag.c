/*-------------------------------------------------------------------------
 *
 * pull_lag.c
 *	  etl_pipeline_lag(): how far a pipeline is behind its source.
 *
 * Everything is answered without waiting, and without an error where it cannot
 * be known: the source may be gone or locked, or not to be read, and one
 * pipeline must not hide the others.
 *
 * A source may be a view that calls any function, and whoever looks at the lag
 * of all pipelines may have more rights than their owners.  So it is asked with
 * the rights of the pipeline's role, as a security-restricted operation, and
 * settings that are changed meanwhile are set back.
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
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "flow/pull.h"

PG_FUNCTION_INFO_V1(etl_pipeline_lag);

/* A look at a pipeline's source. */
typedef struct Look
{
	const EtlWatermark *watermark;
	bool done;
	bool waits; /* is there any row? */
	double rows;
	TimestampTz since;
	int pid;
} Look;

static void look_as_role(Look *look);
static void look_at_source(void *arg);
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
	Look look = {.watermark = &watermark};

	etl_watermark_read(&watermark, text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	look_as_role(&look);
	if (look.done)
	{
		nulls[0] = nulls[1] = false;
		values[0] = Int64GetDatum(look.waits ? (int64) look.rows : 0);
		values[1] = Float8GetDatum(
			look.waits ? (double) (now - look.since) / USECS_PER_SEC : 0);
		values[2] = Int32GetDatum(look.pid);
		nulls[2] = look.pid == 0;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/* An error leaves what is not known yet as it is. */
static void
look_as_role(Look *look)
{
	EtlGuard guard = {0};
	ErrorData *error;
	int guc_level;
	int context;
	Oid user;

	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(look->watermark->role)))
		return;
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(look->watermark->role,
						   context | SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION);
	guc_level = NewGUCNestLevel();
	if (etl_guard_call(&guard, look_at_source, look, &error))
		etl_guard_release(&guard);
	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(user, context);
}

static void
look_at_source(void *arg)
{
	Look *look = arg;
	const EtlWatermark *watermark = look->watermark;
	EtlPull *pull;
	List *answer;

	if (!can_look(watermark) ||
		!ConditionalLockRelationOid(watermark->source, AccessShareLock))
		return;
	pull = etl_pull_from_watermark(watermark);
	pull->watermark = *watermark;
	pull->source = relation_open(watermark->source, NoLock);
	pull->site = etl_site_open(pull->source);
	if (!pull->site->is_wrapped)
	{
		if (pull->cursor_column != NULL)
			etl_pull_set_cursor(pull);
		answer = etl_site_ask(pull->site, waiting_rows(pull, "LIMIT 1"), "v");
		look->waits = answer != NIL;
		if (look->waits)
		{
			look->rows = estimate(pull);
			look->since = waiting_since(pull, ((char **) linitial(answer))[0],
										watermark->updated_at);
		}
		look->pid = etl_wait_holder(pull);
		look->done = true;
	}
	etl_site_close(pull->site);
	relation_close(pull->source, NoLock);
}

/*
 * Is there something to be found out, and may the role?  Other servers are
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
