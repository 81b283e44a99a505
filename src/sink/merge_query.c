/*-------------------------------------------------------------------------
 *
 * merge_query.c
 *	  Merging into anything that can be read and written by SQL.
 *
 * The input is read first and a Bloom filter of its keys is made.  Then the
 * target is read by a query, as the caller, so that row security applies; of
 * its rows those that may have a key of the input are kept, or all of them
 * where keys may be absent.  Both sides meet in merge_group.c.  Whatever the
 * size, memory stays within a few times work_mem.
 *
 * Locks: those of reading.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/bloomfilter.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "sink/merge_group.h"
#include "sink/merge_private.h"
#include "sink/merge_scd2.h"

typedef struct QueryScan
{
	EtlMerge *merge;
	EtlScope *scope; /* or NULL */
	EtlGroups *groups;
	bloom_filter *keys;
	int *columns;  /* of the target, by position in its query */
	int first;	   /* position of the first column */
	Datum *values; /* a row of the target in its layout */
	bool *nulls;
	int64 n_scanned; /* rows of the target */
} QueryScan;

static void add_input(void *arg, EtlChange *change, TupleTableSlot *slot);
static char *target_query(QueryScan *scan);
static void add_target(void *arg, TupleTableSlot *slot);
static bool has_place(Relation target);

void
etl_merge_by_query(EtlMerge *merge, EtlScope *scope)
{
	QueryScan scan = {0};
	EtlQuery query = {0};

	scan.merge = merge;
	scan.scope = scope;
	scan.groups = etl_groups_create(merge);
	scan.keys = bloom_create((int64) Max(merge->input.rows, 1000), work_mem, 0);
	scan.columns = palloc(sizeof(int) * merge->natts);
	scan.values = palloc0(sizeof(Datum) * merge->natts);
	scan.nulls = palloc(sizeof(bool) * merge->natts);
	memset(scan.nulls, true, sizeof(bool) * merge->natts);

	etl_input_scan(merge, NULL, add_input, &scan);
	if (scope != NULL)
		etl_scope_done(scope);
	query.text = target_query(&scan);
	etl_progress_set(merge->run, ETL_PHASE_COMPARING, ETL_UNIT_ROWS, 0,
					 merge->target->rd_rel->reltuples);
	etl_query_rows(&query, add_target, &scan);
	bloom_free(scan.keys);
	etl_groups_decide(scan.groups);
	etl_groups_free(scan.groups);
}

static void
add_input(void *arg, EtlChange *change, TupleTableSlot *slot)
{
	QueryScan *scan = arg;
	uint64 hash = etl_key_hash(scan->merge, change->values);

	if (scan->scope != NULL)
		etl_scope_add(scan->scope, change);
	bloom_add_element(scan->keys, (unsigned char *) &hash, sizeof(hash));
	etl_groups_add_change(scan->groups, hash, change);
}

/* A row of a view or a foreign table is known by its key and start only. */
static bool
has_place(Relation target)
{
	return target->rd_rel->relkind == RELKIND_RELATION ||
		   target->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
}

/* Reads all columns of the target, and where each row is. */
static char *
target_query(QueryScan *scan)
{
	Relation target = scan->merge->target;
	const char *separator = "";
	int n = 0;
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "SELECT ");
	if (has_place(target))
	{
		appendStringInfoString(&buf, "tableoid, ctid");
		separator = ", ";
		scan->first = 2;
	}
	for (int i = 0; i < scan->merge->natts; i++)
	{
		if (scan->merge->columns[i].name == NULL)
			continue;
		appendStringInfo(&buf, "%s%s", separator,
						 quote_identifier(scan->merge->columns[i].name));
		separator = ", ";
		scan->columns[n++] = i;
	}
	appendStringInfo(&buf, " FROM %s", etl_relation_name(target));
	return buf.data;
}

static void
add_target(void *arg, TupleTableSlot *slot)
{
	QueryScan *scan = arg;
	EtlMerge *merge = scan->merge;
	EtlStored stored = {0};

	etl_progress_row(merge->run, ++scan->n_scanned);
	slot_getallattrs(slot);
	stored.table = RelationGetRelid(merge->target);
	ItemPointerSetInvalid(&stored.tid);
	stored.values = scan->values;
	stored.nulls = scan->nulls;
	if (scan->first > 0)
	{
		stored.table = DatumGetObjectId(slot->tts_values[0]);
		stored.tid = *(ItemPointer) DatumGetPointer(slot->tts_values[1]);
	}
	for (int i = scan->first; i < slot->tts_tupleDescriptor->natts; i++)
	{
		scan->values[scan->columns[i - scan->first]] = slot->tts_values[i];
		scan->nulls[scan->columns[i - scan->first]] = slot->tts_isnull[i];
	}

	if (!etl_key_is_null(merge, scan->nulls))
	{
		uint64 hash = etl_key_hash(merge, scan->values);
		bool known = !bloom_lacks_element(scan->keys, (unsigned char *) &hash,
										  sizeof(hash));

		if (!merge->versioned || etl_stored_is_open(merge, &stored))
			merge->counts.open++;
		if (known || (merge->absent != ETL_ABSENT_IGNORE &&
					  etl_scope_has(scan->scope, scan->values, scan->nulls)))
			etl_groups_add_stored(scan->groups, hash, &stored);
	}
}
