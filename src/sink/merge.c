/*-------------------------------------------------------------------------
 *
 * merge.c
 *	  A merge from its start to its end.
 *
 * The caller has locked the target so that nobody else writes to it
 * (ShareRowExclusiveLock) and has then pushed a new snapshot, with which both
 * sides are read.  What is to be written is gathered while they are read;
 * most of it is written at the end, deletes and updates before inserts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "sink/merge_private.h"

/* A value in a message is cut after so many bytes. */
#define MAX_KEY_TEXT 64

static void check_fraction(EtlMerge *merge);
static Jsonb *change_to_jsonb(EtlMerge *merge, const EtlChange *change);

/* Merges the input into the target; counts into merge->counts. */
void
etl_merge_run(EtlMerge *merge)
{
	merge->group_context = AllocSetContextCreate(CurrentMemoryContext,
												 "etl merge group",
												 ALLOCSET_DEFAULT_SIZES);
	if (!merge->general && !etl_merge_writer_can_heap(merge->target))
		merge->general = true;
	etl_merge_check_privileges(merge, false);
	merge->letters = etl_dead_letters_open(merge->run);
	merge->writer = etl_merge_writer_open(merge);
	etl_merge_scan(merge);
	check_fraction(merge);
	etl_merge_writer_finish(merge->writer);
	etl_dead_letters_close(merge->letters);
	if (merge->input.spool != NULL)
		etl_spool_free(merge->input.spool);
	MemoryContextDelete(merge->group_context);
}

/* The guard against a source that is not what it should be. */
static void
check_fraction(EtlMerge *merge)
{
	int64 gone = merge->versioned ? merge->counts.ended :
									merge->counts.deleted + merge->counts.absent;

	if (merge->max_delete_fraction < 0 ||
		gone <= merge->max_delete_fraction * merge->counts.open)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 errmsg("merge would %s " INT64_FORMAT " of " INT64_FORMAT
					" keys of relation \"%s\"",
					merge->versioned ? "close" : "delete", gone,
					merge->counts.open, RelationGetRelationName(merge->target)),
			 errdetail("Parameter \"%s\" allows a fraction of %g.",
					   merge->versioned ? "max_close_fraction" :
										  "max_delete_fraction",
					   merge->max_delete_fraction),
			 errhint(
				 "Check whether the source is complete; if it is, allow a greater fraction.")));
}

/* The index of a column by its name, or -1. */
int
etl_merge_column(const EtlMerge *merge, const char *name)
{
	for (int i = 0; i < merge->natts; i++)
		if (merge->columns[i].name != NULL &&
			strcmp(merge->columns[i].name, name) == 0)
			return i;
	return -1;
}

/* A key as messages show it: (columns)=(values). */
char *
etl_merge_key_text(EtlMerge *merge, Datum *values, bool *nulls)
{
	StringInfoData names;
	StringInfoData texts;

	initStringInfo(&names);
	initStringInfo(&texts);
	for (int i = 0; i < merge->n_keys; i++)
	{
		EtlMergeColumn *column = &merge->columns[merge->keys[i]];
		char *text = "null";

		if (!nulls[merge->keys[i]])
		{
			Oid output;
			bool is_varlena;

			getTypeOutputInfo(column->ops.type, &output, &is_varlena);
			text = OidOutputFunctionCall(output, values[merge->keys[i]]);
		}
		if (strlen(text) > MAX_KEY_TEXT)
		{
			text[pg_mbcliplen(text, strlen(text), MAX_KEY_TEXT)] = '\0';
			text = psprintf("%s...", text);
		}
		appendStringInfo(&names, "%s%s", i == 0 ? "" : ", ", column->name);
		appendStringInfo(&texts, "%s%s", i == 0 ? "" : ", ", text);
	}
	return psprintf("(%s)=(%s)", names.data, texts.data);
}

/* Makes a dead letter of a row of the input, and counts it. */
void
etl_merge_reject(EtlMerge *merge, EtlChange *change, EtlCategory category,
				 int sqlerrcode, const char *message)
{
	EtlReject reject = {0};
	EtlOrigin origin = {0};

	reject.category = category;
	reject.sqlerrcode = sqlerrcode;
	reject.message = message;
	origin.source_name = merge->input_name;
	origin.byte_offset = -1;
	origin.payload = change_to_jsonb(merge, change);
	if (!merge->dry_run)
	{
		etl_dead_letters_add(merge->letters, &origin, &reject);
		if (etl_dead_letters_full(merge->letters))
			etl_dead_letters_flush(merge->letters);
	}
	change->outcome = ETL_REJECTED;
	etl_merge_count(merge, change);
}

/* A row of the input with the columns that the target has, and its time. */
static Jsonb *
change_to_jsonb(EtlMerge *merge, const EtlChange *change)
{
	TupleDesc target = RelationGetDescr(merge->target);
	TupleDesc desc = CreateTemplateTupleDesc(merge->natts + 1);
	Datum *values = palloc(sizeof(Datum) * (merge->natts + 1));
	bool *nulls = palloc(sizeof(bool) * (merge->natts + 1));
	const char *time_name = merge->versioned ? merge->input.time_name : NULL;
	int n = 0;
	Datum json;

	for (int i = 0; i < merge->natts; i++)
	{
		if (merge->columns[i].input == 0)
			continue;
		values[n] = change->values[i];
		nulls[n] = change->nulls[i];
		TupleDescCopyEntry(desc, ++n, target, i + 1);

		/* Not all that json may hold can be had as jsonb: show its text. */
		if (merge->columns[i].ops.type == JSONOID)
			TupleDescInitEntry(desc, n, merge->columns[i].name, TEXTOID, -1, 0);
		if (time_name != NULL && strcmp(time_name, merge->columns[i].name) == 0)
			time_name = NULL;
	}
	if (time_name != NULL)
	{
		values[n] = change->time;
		nulls[n] = change->no_time;
		TupleDescInitEntry(desc, ++n, time_name,
						   merge->columns[merge->valid_from].ops.type, -1, 0);
	}
	desc = BlessTupleDesc(etl_first_attributes(desc, n));
	json = DirectFunctionCall1(row_to_json,
							   heap_copy_tuple_as_datum(heap_form_tuple(desc,
																		values,
																		nulls),
														desc));
	return DatumGetJsonbP(
		DirectFunctionCall1(jsonb_in,
							CStringGetDatum(TextDatumGetCString(json))));
}

/* Counts a row of the input by its outcome; once for each. */
void
etl_merge_count(EtlMerge *merge, const EtlChange *change)
{
	EtlMergeCounts *counts = &merge->counts;

	switch (change->outcome)
	{
		case ETL_PENDING:
			elog(ERROR, "row of a merge was left without an outcome");
			break;
		case ETL_INSERTED:
			counts->inserted++;
			break;
		case ETL_OPENED:
			counts->opened++;
			break;
		case ETL_UPDATED:
			counts->updated++;
			break;
		case ETL_CORRECTED:
			counts->corrected++;
			break;
		case ETL_OVERWRITTEN:
			counts->overwritten++;
			break;
		case ETL_UNCHANGED:
			counts->unchanged++;
			break;
		case ETL_DELETED:
			counts->deleted++;
			break;
		case ETL_STALE:
			counts->stale++;
			break;
		case ETL_LATE_IGNORED:
			counts->late_ignored++;
			counts->late++;
			break;
		case ETL_LATE:
			counts->late++;
			break;
		case ETL_DUPLICATE:
			counts->duplicates++;
			break;
		case ETL_REJECTED:
			counts->rejected++;
			break;
	}
	if (merge->settled != NULL)
		merge->settled(merge, change);
}
