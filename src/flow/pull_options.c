/*-------------------------------------------------------------------------
 *
 * pull_options.c
 *	  From the parameters of a pull to a call of the merge family.
 *
 * What "apply_options" may hold, of which type and with which defaults, is
 * looked up in the declaration of the function that does with a whole source
 * what the pull does with a part of it.  So there is one place where the
 * options are written down; what their words mean is told by the function's
 * own reading of its arguments.
 *
 * Locks: none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "optimizer/optimizer.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "flow/merge.h"
#include "flow/pull.h"

/* The option that belongs to the pull itself. */
#define COLUMNS "columns"

typedef struct MergeFunction
{
	const char *name;
	void (*read)(FunctionCallInfo fcinfo, EtlMergeCall *call);
} MergeFunction;

/* In the order of EtlApply; for an append there is none. */
static const MergeFunction merge_functions[] = {
	[ETL_APPLY_APPEND] = {NULL, NULL},
	[ETL_APPLY_UPSERT] = {"etl_upsert", etl_upsert_read},
	[ETL_APPLY_SCD1] = {"etl_scd1_merge", etl_upsert_read},
	[ETL_APPLY_SCD2] = {"etl_scd2_merge", etl_scd2_read},
	[ETL_APPLY_SCD3] = {"etl_scd3_merge", etl_scd3_read},
};

/* Parameters of these functions that are the pull's own ones. */
static const char *const own_parameters[] = {"target", "source", "keys", NULL};

/* Those that look at what the source lacks. */
static const char *const absence_parameters[] = {"absent", "absent_scope",
												 "max_delete_fraction",
												 "max_close_fraction", NULL};

/* The parameters of one of these functions. */
typedef struct Signature
{
	int n;
	Oid *types;
	char **names;
} Signature;

static void check_object(EtlPull *pull);
static void read_arguments(const MergeFunction *merge, FunctionCallInfo fcinfo,
						   EtlMergeCall *call);
static void function_context(void *arg);
static Oid find_sibling(Oid function, const char *name);
static FunctionCallInfo make_arguments(EtlPull *pull, Oid function);
static void set_defaults(FunctionCallInfo fcinfo, HeapTuple tuple);
static void set_own(FunctionCallInfo fcinfo, const Signature *signature,
					EtlPull *pull);
static void set_options(FunctionCallInfo fcinfo, const Signature *signature,
						EtlPull *pull);
static int find_parameter(const Signature *signature, const char *name);
static bool is_among(const char *const *words, const char *name);
static void refuse_option(const char *name);
pg_noreturn static void refuse_unknown(const char *name,
									   const Signature *signature,
									   EtlPull *pull);
static Datum option_value(const char *name, JsonbValue *value, Oid type);
static Datum scalar_value(const char *name, JsonbValue *value, Oid type);
static Datum array_value(const char *name, JsonbValue *value, Oid element_type);
static void option_context(void *arg);
static List *array_strings(const char *name, JsonbValue *value);
static Datum names_datum(List *names, Oid type);

/*
 * Everything that can be wrong with the options and can be told without
 * opening the relations.
 */
void
etl_pull_check_options(EtlPull *pull)
{
	EtlMergeCall call = {0};

	etl_pull_merge_call(pull, &call);
}

/* The names in the option "columns"; NIL if it is not there. */
List *
etl_pull_option_columns(EtlPull *pull)
{
	JsonbValue *value;
	List *names;

	check_object(pull);
	if (pull->apply_options == NULL)
		return NIL;
	value = getKeyJsonValueFromContainer(&pull->apply_options->root, COLUMNS,
										 strlen(COLUMNS), NULL);
	if (value == NULL || value->type == jbvNull)
		return NIL;
	names = array_strings(COLUMNS, value);
	if (names == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" in parameter \"%s\" must name at least one column",
						COLUMNS, "apply_options")));
	return names;
}

/*
 * The call of the merge family that the pull amounts to, but for its input.
 * An append has no options but "columns"; it inserts what has a new key.
 */
void
etl_pull_merge_call(EtlPull *pull, EtlMergeCall *call)
{
	const MergeFunction *merge = &merge_functions[pull->apply];

	check_object(pull);
	if (merge->name != NULL)
		read_arguments(merge,
					   make_arguments(pull,
									  find_sibling(pull->function, merge->name)),
					   call);
	else
	{
		Signature none = {0};

		set_options(NULL, &none, pull);
		call->target = pull->target_id;
		call->source = pull->source_id;
		call->names.keys = pull->keys;
		call->names.tracked_given = true;
		call->decide = etl_decide_append;
		call->strict = true;
		call->max_delete_fraction = -1;
	}
	call->operation = "incremental_pull";
}

static void
check_object(EtlPull *pull)
{
	if (pull->apply_options != NULL && !JB_ROOT_IS_OBJECT(pull->apply_options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s\" must be a JSON object",
						"apply_options"),
				 errhint("For example {\"delete_when\": \"is_deleted\"}.")));
}

/* Says of which parameters, which are not the pull's own, an error speaks. */
static void
read_arguments(const MergeFunction *merge, FunctionCallInfo fcinfo,
			   EtlMergeCall *call)
{
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = function_context,
		.arg = unconstify(char *, merge->name),
	};

	error_context_stack = &context;
	merge->read(fcinfo, call);
	error_context_stack = context.previous;
}

static void
function_context(void *arg)
{
	errcontext("parameters of %s() in \"apply_options\"", (char *) arg);
}

/* ------------------------------------------------------------------ */
/* arguments                                                            */

/*
 * The function of that name that was installed together with the one that was
 * called: others may have made functions of the same name beside it.
 */
static Oid
find_sibling(Oid function, const char *name)
{
	Oid extension = getExtensionOfObject(ProcedureRelationId, function);
	Oid namespace = get_func_namespace(function);
	CatCList *list = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(name));
	Oid found = InvalidOid;

	for (int i = 0; i < list->n_members && OidIsValid(extension); i++)
	{
		Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(&list->members[i]->tuple);

		if (proc->pronamespace == namespace &&
			getExtensionOfObject(ProcedureRelationId, proc->oid) == extension)
			found = proc->oid;
	}
	ReleaseSysCacheList(list);
	if (!OidIsValid(found))
		elog(ERROR, "function %s was not installed with function %u", name,
			 function);
	return found;
}

/* The arguments with which such a function would be called. */
static FunctionCallInfo
make_arguments(EtlPull *pull, Oid function)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	FunctionCallInfo fcinfo;
	Signature signature;
	char *modes;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);

	/* the columns of the result come after the parameters */
	(void) get_func_arg_info(tuple, &signature.types, &signature.names, &modes);
	signature.n = ((Form_pg_proc) GETSTRUCT(tuple))->pronargs;
	fcinfo = palloc0(SizeForFunctionCallInfo(signature.n));
	InitFunctionCallInfoData(*fcinfo, NULL, signature.n, InvalidOid, NULL, NULL);
	for (int i = 0; i < signature.n; i++)
		fcinfo->args[i].isnull = true;
	set_defaults(fcinfo, tuple);
	ReleaseSysCache(tuple);
	set_own(fcinfo, &signature, pull);
	set_options(fcinfo, &signature, pull);
	return fcinfo;
}

/* The last parameters have defaults, which are constants. */
static void
set_defaults(FunctionCallInfo fcinfo, HeapTuple tuple)
{
	bool isnull;
	Datum value = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_proargdefaults,
								  &isnull);
	List *defaults;
	ListCell *lc;
	int i;

	if (isnull)
		return;
	defaults = castNode(List, stringToNode(TextDatumGetCString(value)));
	i = fcinfo->nargs - list_length(defaults);
	foreach(lc, defaults)
	{
		Node *expr = eval_const_expressions(NULL, lfirst(lc));

		if (!IsA(expr, Const))
			elog(ERROR, "default of parameter %d is not constant", i + 1);
		fcinfo->args[i].value = ((Const *) expr)->constvalue;
		fcinfo->args[i].isnull = ((Const *) expr)->constisnull;
		i++;
	}
}

/* What the pull has parameters of its own for. */
static void
set_own(FunctionCallInfo fcinfo, const Signature *signature, EtlPull *pull)
{
	Datum values[] = {ObjectIdGetDatum(pull->target_id),
					  ObjectIdGetDatum(pull->source_id),
					  names_datum(pull->keys, NAMEOID)};

	for (int i = 0; own_parameters[i] != NULL; i++)
	{
		int parameter = find_parameter(signature, own_parameters[i]);

		if (parameter < 0)
			elog(ERROR, "function has no parameter \"%s\"", own_parameters[i]);
		fcinfo->args[parameter].value = values[i];
		fcinfo->args[parameter].isnull = false;
	}
}

/* What "apply_options" says; fcinfo may be NULL if there are no parameters. */
static void
set_options(FunctionCallInfo fcinfo, const Signature *signature, EtlPull *pull)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue value;
	char *name = NULL;

	if (pull->apply_options == NULL)
		return;
	iterator = JsonbIteratorInit(&pull->apply_options->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		int i;

		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		if (token != WJB_VALUE || strcmp(name, COLUMNS) == 0)
			continue;
		refuse_option(name);
		i = find_parameter(signature, name);
		if (i < 0)
			refuse_unknown(name, signature, pull);
		fcinfo->args[i].isnull = value.type == jbvNull;
		if (value.type != jbvNull)
			fcinfo->args[i].value = option_value(name, &value,
												 signature->types[i]);
	}
	(void) etl_pull_option_columns(pull);
}

/* The place of a parameter, or -1. */
static int
find_parameter(const Signature *signature, const char *name)
{
	for (int i = 0; i < signature->n; i++)
		if (strcmp(signature->names[i], name) == 0)
			return i;
	return -1;
}

static bool
is_among(const char *const *words, const char *name)
{
	for (int i = 0; words[i] != NULL; i++)
		if (strcmp(words[i], name) == 0)
			return true;
	return false;
}

/* Refuses what the functions have but a pull cannot do. */
static void
refuse_option(const char *name)
{
	if (is_among(own_parameters, name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is a parameter of the pull and not an option in \"apply_options\"",
						name)));
	if (strcmp(name, "dry_run") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("option \"%s\" cannot be used in a pull", name),
				 errhint(
					 "Pull in a transaction and roll it back to see what would happen.")));
	if (is_among(absence_parameters, name))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("option \"%s\" cannot be used in a pull", name),
				 errdetail(
					 "A pull reads a part of its source, so that a key may be absent there and still exist."),
				 errhint(
					 "Keep deleted rows in the source with a mark, and tell it in option \"delete_when\".")));
}

static void
refuse_unknown(const char *name, const Signature *signature, EtlPull *pull)
{
	StringInfoData valid;

	initStringInfo(&valid);
	for (int i = 0; i < signature->n; i++)
		if (!is_among(own_parameters, signature->names[i]) &&
			!is_among(absence_parameters, signature->names[i]) &&
			strcmp(signature->names[i], "dry_run") != 0)
			appendStringInfo(&valid, "\"%s\", ", signature->names[i]);
	appendStringInfo(&valid, "\"%s\"", COLUMNS);
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("unrecognized option \"%s\" in parameter \"%s\"",
						   name, "apply_options"),
					errhint("Valid options for apply => '%s' are: %s.",
							etl_apply_words[pull->apply], valid.data)));
}

/* ------------------------------------------------------------------ */
/* values                                                               */

/* A value that is not null, as the parameter's type. */
static Datum
option_value(const char *name, JsonbValue *value, Oid type)
{
	if (type == JSONBOID)
		return JsonbPGetDatum(JsonbValueToJsonb(value));
	if (OidIsValid(get_element_type(type)))
		return array_value(name, value, get_element_type(type));
	return scalar_value(name, value, type);
}

/* By way of the type's input function. */
static Datum
scalar_value(const char *name, JsonbValue *value, Oid type)
{
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = option_context,
		.arg = unconstify(char *, name),
	};
	char *text = NULL;
	Oid input;
	Oid param;
	Datum result;

	switch (value->type)
	{
		case jbvString:
			text = pnstrdup(value->val.string.val, value->val.string.len);
			break;
		case jbvNumeric:
			text = DatumGetCString(
				DirectFunctionCall1(numeric_out,
									NumericGetDatum(value->val.numeric)));
			break;
		case jbvBool:
			text = value->val.boolean ? "true" : "false";
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" in parameter \"%s\" must be a single value",
							name, "apply_options")));
	}
	getTypeInputInfo(type, &input, &param);
	error_context_stack = &context;
	result = OidInputFunctionCall(input, text, param, -1);
	error_context_stack = context.previous;
	return result;
}

/* Says which option a type's input function has complained about. */
static void
option_context(void *arg)
{
	errcontext("option \"%s\" in parameter \"apply_options\"", (char *) arg);
}

static Datum
array_value(const char *name, JsonbValue *value, Oid element_type)
{
	return names_datum(array_strings(name, value), element_type);
}

/* The elements of an array, all of which must be strings. */
static List *
array_strings(const char *name, JsonbValue *value)
{
	bool is_array = value->type == jbvBinary &&
					JsonContainerIsArray(value->val.binary.data);
	List *strings = NIL;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue element;

	if (is_array)
	{
		iterator = JsonbIteratorInit(value->val.binary.data);
		while ((token = JsonbIteratorNext(&iterator, &element, true)) != WJB_DONE)
		{
			if (token != WJB_ELEM)
				continue;
			if (element.type != jbvString)
			{
				is_array = false;
				break;
			}
			strings = lappend(strings, pnstrdup(element.val.string.val,
												element.val.string.len));
		}
	}
	if (!is_array)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" in parameter \"%s\" must be an array of strings",
						name, "apply_options"),
				 errhint("For example {\"%s\": [\"price\", \"stock\"]}.", name)));
	return strings;
}

/* An array of names or texts. */
static Datum
names_datum(List *names, Oid type)
{
	Datum *elements = palloc(sizeof(Datum) * (list_length(names) + 1));
	int16 typlen;
	bool typbyval;
	char typalign;
	Oid input;
	Oid param;
	ListCell *lc;
	int n = 0;

	getTypeInputInfo(type, &input, &param);
	get_typlenbyvalalign(type, &typlen, &typbyval, &typalign);
	foreach(lc, names)
		elements[n++] = OidInputFunctionCall(input, lfirst(lc), param, -1);
	return PointerGetDatum(
		construct_array(elements, n, type, typlen, typbyval, typalign));
}
