/*-------------------------------------------------------------------------
 *
 * pull_merge.c
 *	  Pulled rows through a merge.
 *
 * A pull goes through the same steps as the functions of the merge family,
 * with the call that pull_options.c makes of its parameters.
 *
 * Rows that this database's SQL can read are read by the merge's own query,
 * with the range as its condition.  Rows of another server, and those that
 * the caller has read already, are in a tuplestore that stands in for the
 * source in that query.
 *
 * Locks: those of merge_spec.c, taken when the range is known.  The rows are
 * read with a snapshot that is younger than the lock on the target.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "utils/lsyscache.h"

#include "flow/merge.h"
#include "flow/pull.h"

/* Collects the columns of the source that an expression mentions. */
typedef struct Mentions
{
	Relation source;
	Bitmapset *attnums;
} Mentions;

/* Rows that come from another server. */
typedef struct Fetch
{
	TupleDesc desc;
	Tuplestorestate *rows;
	const AttrNumber *attnums; /* what the columns of a row are there */
	int natts;
	Datum *values; /* a row as the source has it */
	bool *nulls;
	EtlRun *run;
	int64 n_rows;
} Fetch;

static Bitmapset *needed_columns(EtlPull *pull, EtlMerge *merge,
								 const EtlMergeNames *names);
static Bitmapset *add_column(Bitmapset *attnums, Relation source,
							 const char *name);
static bool collect_mentions(Node *node, void *arg);
static void add_mention(Mentions *mentions, Node *field);
static void fetch_rows(EtlPull *pull, Bitmapset *needed, Tuplestorestate *rows);
static void keep_row(void *arg, TupleTableSlot *slot);

/*
 * Merges what the pull is to read, or the rows that have been read already.
 * Counts into pull->run.
 */
void
etl_pull_merge(EtlPull *pull)
{
	Tuplestorestate *rows = pull->rows;
	bool fetches = rows == NULL && pull->site->is_remote;
	Bitmapset *needed = NULL;
	EtlMergeCall call = {0};
	EtlMerge *merge;

	etl_pull_merge_call(pull, &call);
	call.names.columns_given = pull->columns != NIL;
	call.names.columns = pull->columns;

	/* the last one is not to depend on how the rows lie */
	if (call.duplicates == ETL_DUPLICATES_LAST)
		call.names.order_by = pull->cursor_column;

	merge = etl_merge_begin(&call, pull->run);
	if (fetches)
	{
		needed = needed_columns(pull, merge, &call.names);
		rows = tuplestore_begin_heap(true, false, work_mem);
	}
	if (rows != NULL)
		call.names.rows = rows;
	else
		call.names.condition = etl_pull_condition(pull);
	etl_merge_set_input(merge, &call.names, call.tombstones);
	if (fetches)
	{
		fetch_rows(pull, needed, rows);
		merge->input.rows = (double) tuplestore_tuple_count(rows);
	}
	else if (pull->batch_rows > 0)
		merge->input.rows = Min(merge->input.rows, (double) pull->batch_rows);

	etl_merge_perform(&call, merge);
	etl_merge_fill_run(merge);
	pull->way = merge->way;
	pull->merge_detail = etl_merge_detail(merge);
	etl_merge_release(merge);
	if (fetches)
		tuplestore_end(rows);
}

/* ------------------------------------------------------------------ */
/* rows of another server                                               */

/*
 * The columns of the source that the merge will look at.  Columns of the
 * input still have their places in the source.
 */
static Bitmapset *
needed_columns(EtlPull *pull, EtlMerge *merge, const EtlMergeNames *names)
{
	Mentions mentions = {0};

	mentions.source = merge->source;
	for (int i = 0; i < merge->natts; i++)
		if (merge->columns[i].input != 0)
			mentions.attnums = bms_add_member(mentions.attnums,
											  merge->columns[i].input);
	mentions.attnums = add_column(mentions.attnums, merge->source,
								  names->sequence_by);
	mentions.attnums = add_column(mentions.attnums, merge->source,
								  names->order_by);
	if (names->delete_when != NULL)
	{
		ListCell *lc;

		foreach(lc, raw_parser(names->delete_when, RAW_PARSE_PLPGSQL_EXPR))
			collect_mentions(lfirst_node(RawStmt, lc)->stmt, &mentions);
	}
	return mentions.attnums;
}

/* A name may be NULL, or that of a column that will be missed later. */
static Bitmapset *
add_column(Bitmapset *attnums, Relation source, const char *name)
{
	AttrNumber attnum = InvalidAttrNumber;

	if (name != NULL)
		attnum = get_attnum(RelationGetRelid(source), name);
	return attnum > 0 ? bms_add_member(attnums, attnum) : attnums;
}

/*
 * Each part of each name may be that of a column: better one too many than
 * one that is missing.
 */
static bool
collect_mentions(Node *node, void *arg)
{
	ListCell *lc;

	if (node == NULL)
		return false;
	if (IsA(node, ColumnRef))
		foreach(lc, ((ColumnRef *) node)->fields)
			add_mention(arg, lfirst(lc));
	return raw_expression_tree_walker(node, collect_mentions, arg);
}

static void
add_mention(Mentions *mentions, Node *field)
{
	TupleDesc desc = RelationGetDescr(mentions->source);

	if (IsA(field, String) && strcmp(strVal(field), "etl_s") != 0)
	{
		mentions->attnums = add_column(mentions->attnums, mentions->source,
									   strVal(field));
		return;
	}
	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped)
			mentions->attnums = bms_add_member(mentions->attnums, i + 1);
}

/* Reads the range; columns that nobody needs are null. */
static void
fetch_rows(EtlPull *pull, Bitmapset *needed, Tuplestorestate *rows)
{
	TupleDesc desc = RelationGetDescr(pull->source);
	AttrNumber *attnums = palloc(sizeof(AttrNumber) * desc->natts);
	Fetch fetch = {0};
	int attnum = -1;

	while ((attnum = bms_next_member(needed, attnum)) >= 0)
		attnums[fetch.natts++] = attnum;
	fetch.desc = desc;
	fetch.rows = rows;
	fetch.attnums = attnums;
	fetch.values = palloc0(sizeof(Datum) * desc->natts);
	fetch.nulls = palloc(sizeof(bool) * desc->natts);
	memset(fetch.nulls, true, sizeof(bool) * desc->natts);

	fetch.run = pull->run;
	etl_progress_set(pull->run, ETL_PHASE_READING, ETL_UNIT_ROWS, 0,
					 ETL_TOTAL_UNKNOWN);
	etl_site_begin(pull->site);
	(void) etl_site_rows(pull->site, etl_pull_condition(pull), attnums,
						 fetch.natts, keep_row, &fetch);
}

static void
keep_row(void *arg, TupleTableSlot *slot)
{
	Fetch *fetch = arg;

	etl_progress_row(fetch->run, ++fetch->n_rows);
	slot_getallattrs(slot);
	for (int i = 0; i < fetch->natts; i++)
	{
		fetch->values[fetch->attnums[i] - 1] = slot->tts_values[i];
		fetch->nulls[fetch->attnums[i] - 1] = slot->tts_isnull[i];
	}
	tuplestore_putvalues(fetch->rows, fetch->desc, fetch->values, fetch->nulls);
}
