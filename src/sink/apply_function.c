/*-------------------------------------------------------------------------
 *
 * apply_function.c
 *	  Changes go to a function of the user's.
 *
 * The function gets the changes of a batch as an array of envelopes
 * (change_envelope.c), in their order: as jsonb, or as an array of a row type
 * whose columns are named like the parts of an envelope.  It is called once
 * for each flush, in the transaction of the batch, as the pipeline's owner, so
 * what it writes commits with the position: each change gets to it once.
 *
 * Locks: none of its own; the caller's RowExclusiveLock on the target.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/change_json.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* What the function takes. */
typedef struct Signature
{
	Oid function;
	Oid row_type; /* of the array's elements, or InvalidOid: jsonb */
} Signature;

typedef struct Function
{
	MemoryContext context; /* holds this, for a batch */
	Signature signature;
	FmgrInfo call;
	TupleDesc desc; /* of the row type */
	EtlEnvelopeLayout layout;
	EtlEnvelopes *envelopes;

	/* the batch: jsonb values or rows */
	Datum *changes;
	int n_changes;
	int max_changes;
} Function;

static void function_check(EtlApply *apply);
static void function_check_source(EtlApply *apply,
								  const EtlSourceRelation *relation);
static void function_begin(EtlApply *apply);
static void function_add(EtlApply *apply, const EtlSourceXact *xact,
						 const EtlChangeEvent *event);
static void function_flush(EtlApply *apply);
static void function_end(EtlApply *apply);
static Signature find_function(EtlApply *apply);
static void check_function(const Signature *signature, const char *name);
static Function *make_function(EtlApply *apply, Signature signature);
static void add_change(EtlApply *apply, const EtlEnvelope *envelope);
static Datum changes_datum(const Function *function);

const EtlApplyOps etl_apply_function = {
	.name = "function",
	.check = function_check,
	.check_source = function_check_source,
	.begin = function_begin,
	.add = function_add,
	.flush = function_flush,
	.end = function_end,
};

/* ------------------------------------------------------------------ */
/* the function                                                         */

static void
function_check(EtlApply *apply)
{
	static const char *const options[] = {"function", ETL_ENVELOPE_OPTIONS,
										  NULL};

	etl_apply_check_options(apply, options);
	if (apply->columns != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"columns\" cannot be used with apply \"function\""),
				 errhint(
					 "Options \"include\" and \"exclude\" say which columns the function sees.")));
	(void) make_function(apply, find_function(apply));
}

static void
function_check_source(EtlApply *apply, const EtlSourceRelation *relation)
{
	function_begin(apply);
	etl_envelopes_describe(((Function *) apply->state)->envelopes, relation);
}

/* The function that the option names, which must have one fit signature. */
static Signature
find_function(EtlApply *apply)
{
	char *name = etl_apply_option(apply, "function");
	Signature found = {0};
	FuncCandidateList candidate;
	List *names;

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("apply \"function\" requires option \"function\""),
				 errhint("For example {\"function\": \"public.on_change\"}.")));
	names = etl_qualified_names(name);
	if (list_length(names) < 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"function\" must name a schema: \"%s\"", name),
				 errhint("For example {\"function\": \"public.on_change\"}.")));
	for (candidate = etl_function_candidates(names, 1); candidate != NULL;
		 candidate = candidate->next)
	{
		Oid element = get_element_type(candidate->args[0]);

		if (candidate->args[0] != JSONBOID &&
			(!OidIsValid(element) || !type_is_rowtype(element)))
			continue;
		if (OidIsValid(found.function))
			ereport(ERROR,
					(errcode(ERRCODE_AMBIGUOUS_FUNCTION),
					 errmsg("there is more than one function %s that takes changes",
							name),
					 errhint("Name one that has no namesake.")));
		found.function = candidate->oid;
		found.row_type = element;
	}
	if (!OidIsValid(found.function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("there is no function %s that takes changes", name),
				 errhint(
					 "It must have one parameter: of type jsonb, or an array of a table's row type with the columns of a changelog.")));
	check_function(&found, name);
	return found;
}

static void
check_function(const Signature *signature, const char *name)
{
	HeapTuple tuple = SearchSysCache1(PROCOID,
									  ObjectIdGetDatum(signature->function));
	Form_pg_proc proc;
	bool fits;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", signature->function);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	fits = proc->prokind == PROKIND_FUNCTION && !proc->proretset &&
		   proc->prorettype != TRIGGEROID;
	ReleaseSysCache(tuple);
	if (!fits)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s cannot be called with changes", name),
				 errdetail(
					 "It must be a function that returns no set; what it returns is ignored.")));
	if (!etl_may_execute(signature->function, GetUserId()))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, name);
}

/* All that is known of it, in the current memory context. */
static Function *
make_function(EtlApply *apply, Signature signature)
{
	Function *function = palloc0(sizeof(Function));
	bool wanted[ETL_NUM_PARTS] = {0};

	function->signature = signature;
	fmgr_info(signature.function, &function->call);
	if (OidIsValid(signature.row_type))
	{
		function->desc = lookup_rowtype_tupdesc_copy(signature.row_type, -1);
		BlessTupleDesc(function->desc);
		etl_envelope_layout(&function->layout, function->desc, NULL,
							psprintf("type %s",
									 format_type_be(signature.row_type)));
		for (int i = 0; i < ETL_NUM_PARTS; i++)
			wanted[i] = function->layout.attnums[i] != 0;
	}
	else
		wanted[ETL_PART_ENVELOPE] = true;
	function->envelopes = etl_envelopes_create(apply, wanted);
	return function;
}

/*
 * A function may have been replaced, its rights or its row type changed,
 * since the last batch: all is looked at anew.
 */
static void
function_begin(EtlApply *apply)
{
	MemoryContext context = AllocSetContextCreate(apply->context,
												  "etl_patterns function",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	Function *function = make_function(apply, find_function(apply));

	if (apply->state != NULL)
		MemoryContextDelete(((Function *) apply->state)->context);
	function->context = context;
	apply->state = function;
	MemoryContextSwitchTo(oldcontext);
}

/* ------------------------------------------------------------------ */
/* changes                                                              */

static void
function_add(EtlApply *apply, const EtlSourceXact *xact,
			 const EtlChangeEvent *event)
{
	Function *function = apply->state;
	MemoryContext context = AllocSetContextCreate(apply->batch_context,
												  "etl_patterns envelope",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	EtlEnvelope *envelope = etl_envelope_make(function->envelopes, xact, event);

	if (envelope == NULL)
		apply->counts.ignored++;
	else
		add_change(apply, envelope);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
}

/* Keeps an envelope for the flush, in the form that the function takes. */
static void
add_change(EtlApply *apply, const EtlEnvelope *envelope)
{
	Function *function = apply->state;
	MemoryContext oldcontext = MemoryContextSwitchTo(apply->batch_context);
	Datum change;

	if (OidIsValid(function->signature.row_type))
		change = HeapTupleGetDatum(
			etl_envelope_row(envelope, &function->layout, function->desc));
	else
		change = datumCopy(envelope->values[ETL_PART_ENVELOPE], false, -1);
	if (function->changes == NULL)
	{
		function->max_changes = 64;
		function->changes = palloc(sizeof(Datum) * function->max_changes);
	}
	else if (function->n_changes == function->max_changes)
	{
		function->max_changes *= 2;
		function->changes = repalloc_huge(function->changes,
										  sizeof(Datum) * function->max_changes);
	}
	function->changes[function->n_changes++] = change;
	apply->bytes += VARSIZE_ANY(DatumGetPointer(change)) + sizeof(Datum);
	MemoryContextSwitchTo(oldcontext);
}

/* All changes of the batch as one argument. */
static Datum
changes_datum(const Function *function)
{
	Oid row_type = function->signature.row_type;
	JsonbParseState *state = NULL;

	if (OidIsValid(row_type))
	{
		int16 typlen;
		bool typbyval;
		char typalign;

		get_typlenbyvalalign(row_type, &typlen, &typbyval, &typalign);
		return PointerGetDatum(construct_array(function->changes,
											   function->n_changes, row_type,
											   typlen, typbyval, typalign));
	}
	(void) pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < function->n_changes; i++)
	{
		CHECK_FOR_INTERRUPTS();
		etl_json_push_jsonb(&state, WJB_ELEM,
							DatumGetJsonbP(function->changes[i]));
	}
	return JsonbPGetDatum(
		JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL)));
}

/* What the function returns is ignored, null included. */
static void
function_flush(EtlApply *apply)
{
	Function *function = apply->state;
	LOCAL_FCINFO(fcinfo, 1);
	MemoryContext oldcontext;
	int n = function->n_changes;

	if (n == 0)
		return;
	oldcontext = MemoryContextSwitchTo(apply->batch_context);
	InitFunctionCallInfoData(*fcinfo, &function->call, 1, InvalidOid, NULL,
							 NULL);
	fcinfo->args[0].value = changes_datum(function);
	fcinfo->args[0].isnull = false;

	/* Whatever happens now, these changes are not given again. */
	function->n_changes = function->max_changes = 0;
	function->changes = NULL;
	(void) FunctionCallInvoke(fcinfo);
	CommandCounterIncrement();
	apply->counts.inserted += n;
	MemoryContextSwitchTo(oldcontext);
}

static void
function_end(EtlApply *apply)
{
}
