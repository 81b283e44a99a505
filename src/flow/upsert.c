/*-------------------------------------------------------------------------
 *
 * upsert.c
 *	  etl_upsert(), etl_scd1_merge() and etl_scd3_merge(): a row for each key.
 *
 * All three write the newest row of the source over the stored one.  Type 1
 * is an upsert by its other name; type 3 also moves former values into
 * columns of their own.
 *
 * Locks: see merge_spec.c and tombstone.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "flow/flow.h"
#include "flow/merge.h"

PG_FUNCTION_INFO_V1(etl_upsert);
PG_FUNCTION_INFO_V1(etl_scd1_merge);
PG_FUNCTION_INFO_V1(etl_scd3_merge);

/* The parameters of etl_upsert() and etl_scd1_merge(), in order. */
enum
{
	ARG_TARGET,
	ARG_SOURCE,
	ARG_KEYS,
	ARG_UPDATE_COLUMNS,
	ARG_SEQUENCE_BY,
	ARG_DELETE_WHEN,
	ARG_ABSENT,
	ARG_DUPLICATES,
	ARG_NULL_KEYS,
	ARG_KEEP_TOMBSTONES,
	ARG_MAX_DELETE_FRACTION
};

/* Those of etl_scd3_merge(), after the first three. */
enum
{
	ARG_PREVIOUS = ARG_KEYS + 1,
	ARG_CHANGED_AT
};

static bool keeps_tombstones(FunctionCallInfo fcinfo);
static void check_sequence(EtlMerge *merge);
static Datum run_call(EtlMergeCall *call, TupleDesc desc);

/*
 * etl_upsert(target, source, keys, ...): see docs/merge.md.
 */
Datum
etl_upsert(PG_FUNCTION_ARGS)
{
	TupleDesc desc = etl_result_desc(fcinfo);
	EtlMergeCall call = {0};

	etl_upsert_read(fcinfo, &call);
	return run_call(&call, desc);
}

/*
 * etl_scd1_merge(target, source, keys, ...): the same by another name.
 */
Datum
etl_scd1_merge(PG_FUNCTION_ARGS)
{
	TupleDesc desc = etl_result_desc(fcinfo);
	EtlMergeCall call = {0};

	etl_upsert_read(fcinfo, &call);
	call.operation = "scd1_merge";
	return run_call(&call, desc);
}

/*
 * etl_scd3_merge(target, source, keys, previous, changed_at): see
 * docs/merge.md.
 */
Datum
etl_scd3_merge(PG_FUNCTION_ARGS)
{
	TupleDesc desc = etl_result_desc(fcinfo);
	EtlMergeCall call = {0};

	etl_scd3_read(fcinfo, &call);
	return run_call(&call, desc);
}

/* From the arguments of etl_upsert() and etl_scd1_merge(). */
void
etl_upsert_read(FunctionCallInfo fcinfo, EtlMergeCall *call)
{
	EtlMergeNames *names = &call->names;

	etl_merge_read_relations(fcinfo, call);
	call->operation = "upsert";
	call->decide = etl_decide_upsert;
	call->check = check_sequence;
	names->tracked_given = !PG_ARGISNULL(ARG_UPDATE_COLUMNS);
	names->tracked = etl_arg_names(fcinfo, ARG_UPDATE_COLUMNS);
	names->sequence_by = etl_arg_name(fcinfo, ARG_SEQUENCE_BY);
	names->delete_when = etl_arg_text(fcinfo, ARG_DELETE_WHEN);
	call->absent = etl_option_word("absent", etl_arg_text(fcinfo, ARG_ABSENT),
								   etl_absent_words);
	call->duplicates = etl_option_word("duplicates",
									   etl_arg_text(fcinfo, ARG_DUPLICATES),
									   etl_duplicates_words);
	call->null_keys = etl_option_word("null_keys",
									  etl_arg_text(fcinfo, ARG_NULL_KEYS),
									  etl_null_keys_words);
	call->keep_tombstones = keeps_tombstones(fcinfo);
	call->max_delete_fraction = etl_arg_fraction(fcinfo, ARG_MAX_DELETE_FRACTION,
												 "max_delete_fraction");
}

/* From the arguments of etl_scd3_merge(). */
void
etl_scd3_read(FunctionCallInfo fcinfo, EtlMergeCall *call)
{
	EtlMergeNames *names = &call->names;

	etl_merge_read_relations(fcinfo, call);
	call->operation = "scd3_merge";
	call->decide = etl_decide_upsert;
	call->strict = true;
	etl_refuse_null(fcinfo, ARG_PREVIOUS, "previous");
	names->previous = PG_GETARG_JSONB_P(ARG_PREVIOUS);
	if (JB_ROOT_COUNT(names->previous) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"previous\" must name at least one column"),
				 errhint("For example {\"city\": \"previous_city\"}.")));
	names->changed_at = etl_arg_name(fcinfo, ARG_CHANGED_AT);
}

/*
 * Are deleted keys to be remembered?  By default where stale rows could bring
 * them back and it can be told which rows are stale.
 */
static bool
keeps_tombstones(FunctionCallInfo fcinfo)
{
	bool sequence = !PG_ARGISNULL(ARG_SEQUENCE_BY);

	if (PG_ARGISNULL(ARG_KEEP_TOMBSTONES))
		return sequence && !PG_ARGISNULL(ARG_DELETE_WHEN);
	if (PG_GETARG_BOOL(ARG_KEEP_TOMBSTONES) && !sequence)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("keep_tombstones has no meaning without sequence_by"),
				 errhint(
					 "Name the column that tells which row of a key is newer.")));
	return PG_GETARG_BOOL(ARG_KEEP_TOMBSTONES);
}

/* A key is the same in all rows that it could tell apart. */
static void
check_sequence(EtlMerge *merge)
{
	EtlMergeColumn *column;

	if (merge->sequence < 0)
		return;
	column = &merge->columns[merge->sequence];
	for (int i = 0; i < merge->n_keys; i++)
		if (merge->keys[i] == merge->sequence)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("column \"%s\" is a key and cannot be the sequence",
							column->name)));
}

/* Merges, and makes a row of the counts. */
static Datum
run_call(EtlMergeCall *call, TupleDesc desc)
{
	EtlMerge *merge = etl_merge_begin(call, NULL);
	EtlMergeCounts *counts = &merge->counts;
	Datum values[9];
	bool nulls[9] = {0};

	etl_merge_set_input(merge, &call->names, call->tombstones);
	etl_merge_perform(call, merge);
	etl_merge_close(merge);
	values[0] = Int64GetDatum(merge->run->run_id);
	values[1] = Int64GetDatum(counts->read);
	values[2] = Int64GetDatum(counts->inserted);
	values[3] = Int64GetDatum(counts->updated);
	values[4] = Int64GetDatum(counts->unchanged);
	values[5] = Int64GetDatum(counts->deleted + counts->absent);
	values[6] = Int64GetDatum(counts->stale);
	values[7] = Int64GetDatum(counts->duplicates);
	values[8] = Int64GetDatum(counts->rejected);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}
