/*-------------------------------------------------------------------------
 *
 * pull_call.c
 *	  What a call of etl_incremental_pull() says, and how it is remembered.
 *
 * A call is kept as JSON with the pipeline's watermark, so that a drain or a
 * backfill can repeat it.  Relations are kept in columns of their own, where
 * they follow a renaming.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"

#include "flow/pull.h"

/* The parameters of etl_incremental_pull(), in order. */
enum
{
	ARG_PIPELINE,
	ARG_SOURCE,
	ARG_TARGET,
	ARG_CURSOR_COLUMN,
	ARG_KEYS,
	ARG_APPLY,
	ARG_APPLY_OPTIONS,
	ARG_SAFETY,
	ARG_LOOKBACK,
	ARG_LAG,
	ARG_MAX_WAIT,
	ARG_FLAG_COLUMN,
	ARG_INITIAL_VALUE,
	ARG_END_VALUE,
	ARG_BATCH_ROWS,
	ARG_NULL_CURSOR
};

const char *const etl_safety_words[] = {"auto", "horizon", "lock_wait",
										"lag",	"none",	   NULL};
const char *const etl_apply_words[] = {"append", "upsert", "scd1",
									   "scd2",	 "scd3",   NULL};
static const char *const null_cursor_words[] = {"error", "ignore", "include",
												NULL};

#define KEYS_HINT "Name the columns of the key, for example keys => '{id}'."

static Interval *arg_interval(FunctionCallInfo fcinfo, int arg,
							  const char *parameter);
static void check_interval(const Interval *interval, const char *parameter);
static void check_flag_call(EtlPull *pull);
static void append_text(StringInfo json, const char *key, const char *value);
static void append_interval(StringInfo json, const char *key,
							const Interval *interval);
static Interval *json_interval(Jsonb *object, const char *key);
static void refuse_other_callers(const EtlWatermark *watermark);
static List *json_names(Jsonb *object, const char *key);

/* ------------------------------------------------------------------ */
/* from arguments                                                       */

EtlPull *
etl_pull_from_args(FunctionCallInfo fcinfo)
{
	EtlPull *pull = palloc0(sizeof(EtlPull));

	etl_refuse_null(fcinfo, ARG_PIPELINE, "pipeline");
	etl_refuse_null(fcinfo, ARG_SOURCE, "source");
	etl_refuse_null(fcinfo, ARG_TARGET, "target");
	etl_refuse_null(fcinfo, ARG_APPLY, "apply");
	etl_refuse_null(fcinfo, ARG_SAFETY, "safety");
	etl_refuse_null(fcinfo, ARG_MAX_WAIT, "max_wait");
	etl_refuse_null(fcinfo, ARG_NULL_CURSOR, "null_cursor");

	pull->pipeline = etl_arg_text(fcinfo, ARG_PIPELINE);
	pull->source_id = PG_GETARG_OID(ARG_SOURCE);
	pull->target_id = PG_GETARG_OID(ARG_TARGET);
	pull->cursor_column = etl_arg_name(fcinfo, ARG_CURSOR_COLUMN);
	pull->keys = etl_arg_names(fcinfo, ARG_KEYS);
	pull->apply = etl_option_word("apply", etl_arg_text(fcinfo, ARG_APPLY),
								  etl_apply_words);
	if (!PG_ARGISNULL(ARG_APPLY_OPTIONS))
		pull->apply_options = PG_GETARG_JSONB_P(ARG_APPLY_OPTIONS);
	pull->safety = etl_option_word("safety", etl_arg_text(fcinfo, ARG_SAFETY),
								   etl_safety_words);
	pull->lookback = arg_interval(fcinfo, ARG_LOOKBACK, "lookback");
	pull->lag = arg_interval(fcinfo, ARG_LAG, "lag");
	pull->max_wait = arg_interval(fcinfo, ARG_MAX_WAIT, "max_wait");
	pull->flag_column = etl_arg_name(fcinfo, ARG_FLAG_COLUMN);
	pull->initial_value = etl_arg_text(fcinfo, ARG_INITIAL_VALUE);
	pull->end_value = etl_arg_text(fcinfo, ARG_END_VALUE);
	if (!PG_ARGISNULL(ARG_BATCH_ROWS))
	{
		pull->batch_rows = PG_GETARG_INT64(ARG_BATCH_ROWS);
		if (pull->batch_rows <= 0)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("parameter \"%s\" must be greater than zero",
								   "batch_rows")));
	}
	pull->null_cursor = etl_option_word("null_cursor",
										etl_arg_text(fcinfo, ARG_NULL_CURSOR),
										null_cursor_words);
	pull->typed_safety = pull->safety;
	return pull;
}

static Interval *
arg_interval(FunctionCallInfo fcinfo, int arg, const char *parameter)
{
	Interval *interval;

	if (PG_ARGISNULL(arg))
		return NULL;
	interval = PG_GETARG_INTERVAL_P(arg);
	check_interval(interval, parameter);
	return interval;
}

static void
check_interval(const Interval *interval, const char *parameter)
{
	Interval zero = {0};

	if (DatumGetInt32(DirectFunctionCall2(interval_cmp,
										  IntervalPGetDatum(interval),
										  IntervalPGetDatum(&zero))) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s\" must not be negative", parameter)));
}

/* What goes with what; says nothing about the relations. */
void
etl_pull_check_call(EtlPull *pull)
{
	if (pull->flag_column != NULL)
		check_flag_call(pull);
	else if (pull->cursor_column == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"cursor_column\" must not be null"),
				 errhint(
					 "Name the column that tells new rows from old ones, or one that flags new rows in \"flag_column\".")));
	if (pull->keys == NIL && pull->apply != ETL_APPLY_APPEND)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("apply '%s' requires parameter \"keys\"",
							   etl_apply_words[pull->apply]),
						errhint(KEYS_HINT)));
	if (pull->keys == NIL && pull->lookback != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"lookback\" requires parameter \"keys\""),
				 errdetail(
					 "Rows are read again, and must be told from new ones."),
				 errhint(KEYS_HINT)));
	if (pull->keys == NIL && pull->null_cursor == ETL_NULL_CURSOR_INCLUDE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("null_cursor 'include' requires parameter \"keys\""),
				 errdetail(
					 "Rows without a cursor value are read in every run, and must be told from new ones."),
				 errhint(KEYS_HINT)));
	etl_pull_check_options(pull);
}

static void
check_flag_call(EtlPull *pull)
{
	const char *other = NULL;

	if (pull->cursor_column != NULL)
		other = "cursor_column";
	else if (pull->lookback != NULL)
		other = "lookback";
	else if (pull->lag != NULL)
		other = "lag";
	else if (pull->initial_value != NULL)
		other = "initial_value";
	else if (pull->end_value != NULL)
		other = "end_value";
	else if (pull->safety != ETL_SAFETY_AUTO)
		other = "safety";
	if (other != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameters \"flag_column\" and \"%s\" cannot be used together",
						other),
				 errdetail(
					 "With flags there is no order in which rows are read.")));
}

/* ------------------------------------------------------------------ */
/* remembered                                                           */

/* The members of a JSON object that say what the call was. */
void
etl_pull_append_call(StringInfo json, EtlPull *pull)
{
	appendStringInfoString(json, "\"keys\": ");
	etl_json_append_names(json, pull->keys);
	appendStringInfo(json, ", \"null_cursor\": \"%s\", \"batch_rows\": ",
					 null_cursor_words[pull->null_cursor]);
	if (pull->batch_rows > 0)
		appendStringInfo(json, "\"" INT64_FORMAT "\"", pull->batch_rows);
	else
		appendStringInfoString(json, "null");
	append_text(json, "apply", etl_apply_words[pull->apply]);
	append_text(json, "safety", etl_safety_words[pull->typed_safety]);
	append_interval(json, "lookback", pull->lookback);
	append_interval(json, "lag", pull->lag);
	append_interval(json, "max_wait", pull->max_wait);
	append_text(json, "flag_column", pull->flag_column);
	append_text(json, "initial_value", pull->initial_value);
	append_text(json, "end_value", pull->end_value);
	if (pull->apply_options != NULL)
	{
		appendStringInfoString(json, ", \"apply_options\": ");
		(void) JsonbToCString(json, &pull->apply_options->root,
							  VARSIZE(pull->apply_options));
	}
}

/* A list of C strings as an array. */
void
etl_json_append_names(StringInfo json, List *names)
{
	const char *separator = "";
	ListCell *lc;

	appendStringInfoChar(json, '[');
	foreach(lc, names)
	{
		appendStringInfoString(json, separator);
		escape_json(json, lfirst(lc));
		separator = ", ";
	}
	appendStringInfoChar(json, ']');
}

static void
append_text(StringInfo json, const char *key, const char *value)
{
	appendStringInfo(json, ", \"%s\": ", key);
	if (value == NULL)
		appendStringInfoString(json, "null");
	else
		escape_json(json, value);
}

static void
append_interval(StringInfo json, const char *key, const Interval *interval)
{
	append_text(json, key,
				interval == NULL ?
					NULL :
					etl_plain_text(INTERVALOID, IntervalPGetDatum(interval)));
}

/*
 * What is remembered, such as an expression, is the owner's: it must not run
 * with rights that the owner does not have.
 */
static void
refuse_other_callers(const EtlWatermark *watermark)
{
	char *owner = GetUserNameFromId(watermark->role, true);

	if (has_privs_of_role(watermark->role, GetUserId()))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("the call of pipeline \"%s\" can be repeated by its owner only",
					watermark->pipeline),
			 errdetail(
				 "It would run what the owner has passed with your rights."),
			 owner != NULL ?
				 errhint("Use SET ROLE %s, or call etl_incremental_pull() with all its parameters.",
						 quote_identifier(owner)) :
				 errhint(
					 "The owner was dropped. Call etl_incremental_pull() with all its parameters.")));
}

/* The last call of a pipeline. */
EtlPull *
etl_pull_from_watermark(const EtlWatermark *watermark)
{
	EtlPull *pull = palloc0(sizeof(EtlPull));
	Jsonb *call = watermark->detail;
	JsonbValue options;
	char *batch_rows;

	if (!OidIsValid(watermark->source) || call == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pipeline \"%s\" has never run", watermark->pipeline),
				 errhint(
					 "Call etl_incremental_pull() once; the call is remembered.")));
	refuse_other_callers(watermark);
	pull->pipeline = watermark->pipeline;
	pull->source_id = watermark->source;
	pull->target_id = watermark->target;
	pull->cursor_column = watermark->cursor_column;
	pull->keys = json_names(call, "keys");
	pull->apply = etl_option_word("apply", etl_json_text(call, "apply"),
								  etl_apply_words);
	if (getKeyJsonValueFromContainer(&call->root, "apply_options",
									 strlen("apply_options"), &options) != NULL)
		pull->apply_options = JsonbValueToJsonb(&options);
	pull->safety = etl_option_word("safety", etl_json_text(call, "safety"),
								   etl_safety_words);
	pull->typed_safety = pull->safety;
	pull->lookback = json_interval(call, "lookback");
	pull->lag = json_interval(call, "lag");
	pull->max_wait = json_interval(call, "max_wait");
	pull->flag_column = etl_json_text(call, "flag_column");
	pull->initial_value = etl_json_text(call, "initial_value");
	pull->end_value = etl_json_text(call, "end_value");
	batch_rows = etl_json_text(call, "batch_rows");
	if (batch_rows != NULL)
		pull->batch_rows = pg_strtoint64(batch_rows);
	pull->null_cursor = etl_option_word("null_cursor",
										etl_json_text(call, "null_cursor"),
										null_cursor_words);
	return pull;
}

/* A string in a JSON object; NULL if it is null or not there. */
char *
etl_json_text(Jsonb *object, const char *key)
{
	JsonbValue value;

	if (getKeyJsonValueFromContainer(&object->root, key, (int) strlen(key),
									 &value) == NULL ||
		value.type != jbvString)
		return NULL;
	return pnstrdup(value.val.string.val, value.val.string.len);
}

static Interval *
json_interval(Jsonb *object, const char *key)
{
	char *text = etl_json_text(object, key);

	if (text == NULL)
		return NULL;
	return DatumGetIntervalP(etl_plain_value(INTERVALOID, text));
}

static List *
json_names(Jsonb *object, const char *key)
{
	List *names = NIL;
	JsonbValue array;
	JsonbValue *element;

	if (getKeyJsonValueFromContainer(&object->root, key, (int) strlen(key),
									 &array) == NULL ||
		array.type != jbvBinary)
		return NIL;
	for (uint32 i = 0;
		 (element = getIthJsonbValueFromContainer(array.val.binary.data, i)) !=
		 NULL;
		 i++)
		names = lappend(names, pnstrdup(element->val.string.val,
										element->val.string.len));
	return names;
}
