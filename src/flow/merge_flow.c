/*-------------------------------------------------------------------------
 *
 * merge_flow.c
 *	  What the functions of the merge family have in common: their option
 *	  words, the steps of a merge, and the row in the ledger.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/snapmgr.h"

#include "etl_patterns.h"
#include "flow/flow.h"
#include "flow/merge.h"

static void run_merge(void *arg);

const char *const etl_absent_words[] = {"ignore", "delete", NULL};
const char *const etl_close_words[] = {"ignore", "close", NULL};
const char *const etl_duplicates_words[] = {"error", "last", "dead_letter",
											NULL};
const char *const etl_null_keys_words[] = {"error", "dead_letter", NULL};
const char *const etl_late_words[] = {"weave", "ignore", "dead_letter", NULL};

/* An argument that is a fraction from 0 to 1; -1 for SQL NULL. */
double
etl_arg_fraction(FunctionCallInfo fcinfo, int arg, const char *parameter)
{
	double fraction;

	if (PG_ARGISNULL(arg))
		return -1;
	fraction = PG_GETARG_FLOAT8(arg);
	if (!(fraction >= 0 && fraction <= 1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s\" must be between 0 and 1", parameter)));
	return fraction;
}

/* The arguments that all functions of the family begin with. */
void
etl_merge_read_relations(FunctionCallInfo fcinfo, EtlMergeCall *call)
{
	etl_refuse_null(fcinfo, 0, "target");
	etl_refuse_null(fcinfo, 1, "source");
	etl_refuse_null(fcinfo, 2, "keys");
	call->target = PG_GETARG_OID(0);
	call->source = PG_GETARG_OID(1);
	call->names.keys = etl_arg_names(fcinfo, 2);
	call->max_delete_fraction = -1;
}

/*
 * Opens the merge that a call asks for, with the lock on the target.  Its
 * input is not set yet.  run is the caller's, or NULL: then it gets its own.
 */
EtlMerge *
etl_merge_begin(EtlMergeCall *call, EtlRun *run)
{
	EtlRun *prepared = NULL;
	EtlMerge *merge;

	PreventCommandIfReadOnly(psprintf("etl_%s()", call->operation));
	if (run == NULL)
		run = prepared = etl_run_prepare(call->operation, NULL, call->target);
	else
		etl_progress_set(run, ETL_PHASE_WAITING, ETL_UNIT_NONE, 0,
						 ETL_TOTAL_UNKNOWN);
	merge = etl_merge_open(call->target, call->source, &call->names,
						   call->versioned);
	if (prepared != NULL)
		etl_run_start(prepared);
	merge->run = run;
	merge->decide = call->decide;
	merge->absent = call->absent;
	merge->duplicates = call->duplicates;
	merge->null_keys = call->null_keys;
	merge->late = call->late;
	merge->strict = call->strict;
	merge->closed_bounds = call->closed_bounds;
	merge->dry_run = call->dry_run;
	merge->max_delete_fraction = call->max_delete_fraction;
	merge->general = etl_merge_path == ETL_MERGE_PATH_GENERAL;
	if (call->check != NULL)
		call->check(merge);
	if (call->keep_tombstones)
		call->tombstones = etl_tombstones_open(merge, true);
	return merge;
}

/* Merges, once the input is set. */
void
etl_merge_perform(const EtlMergeCall *call, EtlMerge *merge)
{
	if (call->change_log)
		etl_change_log_execute(merge);
	else
		etl_merge_execute(merge);
	etl_tombstones_flush(merge);
}

/*
 * Runs a merge that is ready.  Both sides are read with a snapshot that is
 * younger than the lock on the target.
 */
void
etl_merge_execute(EtlMerge *merge)
{
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	etl_guard_scope(run_merge, merge);
	PopActiveSnapshot();
}

static void
run_merge(void *arg)
{
	etl_merge_run((EtlMerge *) arg);
}

/* Writes the run's row and closes the relations; their locks stay. */
void
etl_merge_close(EtlMerge *merge)
{
	Datum detail = CStringGetDatum(etl_merge_detail(merge));

	etl_merge_fill_run(merge);
	etl_run_finish(merge->run, merge->dry_run ? "dry_run" : "succeeded",
				   DatumGetJsonbP(DirectFunctionCall1(jsonb_in, detail)));
	etl_merge_release(merge);
}

void
etl_merge_release(EtlMerge *merge)
{
	relation_close(merge->target, NoLock);
	if (merge->source != NULL)
		relation_close(merge->source, NoLock);
}

/* The ledger has fewer words than a merge. */
void
etl_merge_fill_run(EtlMerge *merge)
{
	const EtlMergeCounts *counts = &merge->counts;
	EtlRun *run = merge->run;

	run->rows_read = counts->read;
	run->rows_inserted = counts->inserted + counts->opened;
	run->rows_updated = counts->updated + counts->corrected +
						counts->overwritten + counts->late -
						counts->late_ignored;
	run->rows_deleted = counts->deleted;
	run->rows_unchanged = counts->unchanged + counts->duplicates +
						  counts->stale + counts->late_ignored;
	run->rows_rejected = counts->rejected;
}

/* What a run's detail says of a merge, as the text of a JSON object. */
char *
etl_merge_detail(EtlMerge *merge)
{
	const EtlMergeCounts *counts = &merge->counts;
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"source\": ");
	escape_json(&json, merge->input_name);
	appendStringInfo(&json, ", \"way\": \"%s\", \"keys\": [", merge->way);
	for (int i = 0; i < merge->n_keys; i++)
	{
		if (i > 0)
			appendStringInfoString(&json, ", ");
		escape_json(&json, merge->columns[merge->keys[i]].name);
	}
	appendStringInfo(&json,
					 "], \"duplicates\": " INT64_FORMAT
					 ", \"absent\": " INT64_FORMAT,
					 counts->duplicates, counts->absent);
	if (merge->versioned)
		appendStringInfo(&json,
						 ", \"opened\": " INT64_FORMAT
						 ", \"closed\": " INT64_FORMAT
						 ", \"corrected\": " INT64_FORMAT
						 ", \"overwritten\": " INT64_FORMAT
						 ", \"revived\": " INT64_FORMAT
						 ", \"late\": " INT64_FORMAT
						 ", \"late_ignored\": " INT64_FORMAT,
						 counts->opened, counts->closed, counts->corrected,
						 counts->overwritten, counts->revived, counts->late,
						 counts->late_ignored);
	else
		appendStringInfo(&json, ", \"stale\": " INT64_FORMAT, counts->stale);
	appendStringInfoChar(&json, '}');
	return json.data;
}
