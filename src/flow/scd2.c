/*-------------------------------------------------------------------------
 *
 * scd2.c
 *	  etl_scd2_merge(): keep the history of a table's rows.
 *
 * Locks: see merge_spec.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "flow/flow.h"
#include "flow/merge.h"

PG_FUNCTION_INFO_V1(etl_scd2_merge);

/* The parameters of etl_scd2_merge(), in order. */
enum
{
	ARG_TARGET,
	ARG_SOURCE,
	ARG_KEYS,
	ARG_SEQUENCE_BY,
	ARG_EFFECTIVE_AT,
	ARG_TRACKED,
	ARG_OVERWRITE,
	ARG_FIXED,
	ARG_PREVIOUS,
	ARG_DELETE_WHEN,
	ARG_ABSENT,
	ARG_ABSENT_SCOPE,
	ARG_DUPLICATES,
	ARG_NULL_KEYS,
	ARG_LATE,
	ARG_CHANGE_LOG,
	ARG_VALID_FROM,
	ARG_VALID_TO,
	ARG_IS_CURRENT,
	ARG_OPEN_END,
	ARG_BOUNDS,
	ARG_MAX_CLOSE_FRACTION,
	ARG_DRY_RUN
};

static const char *const bounds_words[] = {"[)", "[]", NULL};

static void read_names(FunctionCallInfo fcinfo, EtlMergeNames *names);
static void read_options(FunctionCallInfo fcinfo, EtlMergeCall *call);
static void check_call(EtlMerge *merge);
static Datum result_row(EtlMerge *merge, TupleDesc desc);

/* From the arguments of etl_scd2_merge(). */
void
etl_scd2_read(FunctionCallInfo fcinfo, EtlMergeCall *call)
{
	EtlMergeNames *names = &call->names;

	etl_merge_read_relations(fcinfo, call);
	etl_refuse_null(fcinfo, ARG_VALID_FROM, "valid_from");
	etl_refuse_null(fcinfo, ARG_VALID_TO, "valid_to");
	call->operation = "scd2_merge";
	call->versioned = true;
	call->decide = etl_decide_scd2;
	call->check = check_call;
	read_names(fcinfo, names);
	read_options(fcinfo, call);

	if (names->sequence_by != NULL && names->effective_at != NULL &&
		call->absent == ETL_ABSENT_IGNORE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg(
					 "parameters \"sequence_by\" and \"effective_at\" cannot be used together"),
				 errhint(
					 "With \"sequence_by\" each row takes effect at the time that it bears.")));
}

static void
read_names(FunctionCallInfo fcinfo, EtlMergeNames *names)
{
	names->sequence_by = etl_arg_name(fcinfo, ARG_SEQUENCE_BY);
	names->effective_at = etl_arg_text(fcinfo, ARG_EFFECTIVE_AT);
	names->tracked_given = !PG_ARGISNULL(ARG_TRACKED);
	names->tracked = etl_arg_names(fcinfo, ARG_TRACKED);
	names->overwrite = etl_arg_names(fcinfo, ARG_OVERWRITE);
	names->fixed = etl_arg_names(fcinfo, ARG_FIXED);
	if (!PG_ARGISNULL(ARG_PREVIOUS))
		names->previous = PG_GETARG_JSONB_P(ARG_PREVIOUS);
	names->delete_when = etl_arg_text(fcinfo, ARG_DELETE_WHEN);
	names->scope = etl_arg_names(fcinfo, ARG_ABSENT_SCOPE);
	names->valid_from = etl_arg_name(fcinfo, ARG_VALID_FROM);
	names->valid_to = etl_arg_name(fcinfo, ARG_VALID_TO);
	names->is_current = etl_arg_name(fcinfo, ARG_IS_CURRENT);
	names->open_end = etl_arg_text(fcinfo, ARG_OPEN_END);
}

static void
read_options(FunctionCallInfo fcinfo, EtlMergeCall *call)
{
	call->absent = etl_option_word("absent", etl_arg_text(fcinfo, ARG_ABSENT),
								   etl_close_words);
	call->duplicates = etl_option_word("duplicates",
									   etl_arg_text(fcinfo, ARG_DUPLICATES),
									   etl_duplicates_words);
	call->null_keys = etl_option_word("null_keys",
									  etl_arg_text(fcinfo, ARG_NULL_KEYS),
									  etl_null_keys_words);
	call->late = etl_option_word("late", etl_arg_text(fcinfo, ARG_LATE),
								 etl_late_words);
	call->change_log = etl_arg_bool(fcinfo, ARG_CHANGE_LOG);
	call->closed_bounds = etl_option_word("bounds",
										  etl_arg_text(fcinfo, ARG_BOUNDS),
										  bounds_words) == 1;
	call->max_delete_fraction = etl_arg_fraction(fcinfo, ARG_MAX_CLOSE_FRACTION,
												 "max_close_fraction");
	call->dry_run = etl_arg_bool(fcinfo, ARG_DRY_RUN);
}

/* What can be told only when the columns are known. */
static void
check_call(EtlMerge *merge)
{
	if (merge->closed_bounds &&
		merge->columns[merge->valid_from].ops.type != DATEOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("bounds '[]' require validity columns of type date"),
				 errdetail("Column \"%s\" is of type %s.",
						   merge->columns[merge->valid_from].name,
						   format_type_be(
							   merge->columns[merge->valid_from].ops.type))));
	if (merge->n_scope > 0 && merge->absent == ETL_ABSENT_IGNORE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg(
					 "parameter \"absent_scope\" requires absent => 'close'")));
}

static Datum
result_row(EtlMerge *merge, TupleDesc desc)
{
	const EtlMergeCounts *counts = &merge->counts;
	Datum values[13];
	bool nulls[13] = {0};
	int n = 0;

	values[n++] = Int64GetDatum(merge->run->run_id);
	values[n++] = Int64GetDatum(counts->read);
	values[n++] = Int64GetDatum(counts->inserted);
	values[n++] = Int64GetDatum(counts->opened);
	values[n++] = Int64GetDatum(counts->closed);
	values[n++] = Int64GetDatum(counts->corrected);
	values[n++] = Int64GetDatum(counts->overwritten);
	values[n++] = Int64GetDatum(counts->unchanged);
	values[n++] = Int64GetDatum(counts->deleted);
	values[n++] = Int64GetDatum(counts->revived);
	values[n++] = Int64GetDatum(counts->late);
	values[n++] = Int64GetDatum(counts->duplicates);
	values[n++] = Int64GetDatum(counts->rejected);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/*
 * etl_scd2_merge(target, source, keys, ...): see docs/merge.md.
 */
Datum
etl_scd2_merge(PG_FUNCTION_ARGS)
{
	TupleDesc desc = etl_result_desc(fcinfo);
	EtlMergeCall call = {0};
	EtlMerge *merge;

	etl_scd2_read(fcinfo, &call);
	merge = etl_merge_begin(&call, NULL);
	etl_merge_set_input(merge, &call.names, call.tombstones);
	etl_merge_perform(&call, merge);
	etl_merge_close(merge);
	PG_RETURN_DATUM(result_row(merge, desc));
}
