/*-------------------------------------------------------------------------
 *
 * cdc_scd2.c
 *	  Changes become history: each version starts when its transaction was
 *	  committed at the source.
 *
 * Changes are kept as rows of the target's layout, with their times, and go
 * through a merge (merge.h) at the flush.  All changes of a transaction are one
 * step of the merge (merge_steps.c): of a key only the last one counts, and
 * steps take effect one after the other, whatever the clock says.
 *
 * Clocks of transactions that commit at the same time may disagree with the
 * order of their commits by a little.  Then the later one gets the next
 * microsecond, for all its keys, so that there is a time for the state after
 * each commit.  Where the clock was put back by more than that its word is
 * taken, and only the versions of a key keep their order.
 *
 * A transaction that is flushed in pieces goes on at its time.
 *
 * Locks: ShareRowExclusiveLock on the target; see merge_spec.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "flow/cdc_scd2.h"
#include "flow/flow.h"
#include "sink/change_json.h"

/* A clock that goes back by more was put back. */
#define CLOCK_NOISE (60 * USECS_PER_SEC)

static void scd2_check(EtlApply *apply);
static void scd2_check_source(EtlApply *apply,
							  const EtlSourceRelation *relation);
static void scd2_begin(EtlApply *apply);
static void scd2_add(EtlApply *apply, const EtlSourceXact *xact,
					 const EtlChangeEvent *event);
static void scd2_flush(EtlApply *apply);
static void scd2_end(EtlApply *apply);
static void set_map(EtlApply *apply, EtlScd2 *scd2, EtlApplyMap *map,
					const EtlSourceRelation *relation);
static void set_clock(EtlScd2 *scd2, const EtlSourceXact *xact,
					  const EtlChangeEvent *event);
static void add_new_row(EtlApply *apply, EtlScd2 *scd2, EtlApplyMap *map,
						const EtlChangeEvent *event);
static void add_update(EtlApply *apply, EtlScd2 *scd2, EtlApplyMap *map,
					   const EtlChangeEvent *event);
static void add_delete(EtlApply *apply, EtlScd2 *scd2, EtlApplyMap *map,
					   const EtlChangeEvent *event);
static void add_truncate(EtlApply *apply, EtlScd2 *scd2);
static void add_open_key(void *arg, TupleTableSlot *slot);
static bool same_key(EtlApply *apply, EtlScd2 *scd2);
static void refuse_missing_key(EtlApply *apply, EtlScd2 *scd2);
static void take_missing(EtlApply *apply, EtlScd2 *scd2);
static void take_row(void *arg, TupleTableSlot *slot);
static void put_row(EtlScd2 *scd2, const Datum *values, const bool *nulls,
					const bool *is_set, bool is_delete);
static bytea *lacking(const EtlScd2 *scd2, const bool *is_set);
static void merge_rows(EtlApply *apply, EtlScd2 *scd2);
static void merge_call(EtlApply *apply, EtlScd2 *scd2, EtlMergeCall *call);

const EtlApplyOps etl_apply_scd2 = {
	.name = "scd2",
	.lock = ShareRowExclusiveLock,
	.has_rows = true,
	.check = scd2_check,
	.check_source = scd2_check_source,
	.begin = scd2_begin,
	.add = scd2_add,
	.flush = scd2_flush,
	.end = scd2_end,
};

/* ------------------------------------------------------------------ */
/* checks                                                               */

static void
scd2_check(EtlApply *apply)
{
	EtlScd2 scd2 = {0};

	etl_scd2_options(apply, &scd2);
}

/* Opens a merge of nothing, which looks at all columns and their roles. */
static void
scd2_check_source(EtlApply *apply, const EtlSourceRelation *relation)
{
	EtlMergeCall call = {0};
	EtlRun *run;
	EtlMerge *merge;

	scd2_begin(apply);
	set_map(apply, apply->state, etl_apply_map(apply, relation), relation);
	merge_call(apply, apply->state, &call);
	run = etl_run_prepare("cdc", apply->pipeline, apply->target_relid);
	merge = etl_merge_begin(&call, run);
	etl_merge_check_privileges(merge, false);
	etl_merge_release(merge);
	etl_progress_end(run);
}

/* ------------------------------------------------------------------ */
/* batches                                                              */

static void
scd2_begin(EtlApply *apply)
{
	EtlScd2 *scd2 = apply->state;

	if (scd2 == NULL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(apply->context);
		int natts = RelationGetDescr(apply->target)->natts;

		scd2 = palloc0(sizeof(EtlScd2));
		scd2->apply = apply;
		etl_scd2_options(apply, scd2);
		scd2->context = AllocSetContextCreate(apply->context,
											  "etl_patterns scd2 columns",
											  ALLOCSET_SMALL_SIZES);
		scd2->values = palloc(sizeof(Datum) * (natts + 1));
		scd2->nulls = palloc(sizeof(bool) * (natts + 1));
		scd2->is_set = palloc(sizeof(bool) * (natts + 1));
		scd2->old_values = palloc(sizeof(Datum) * (natts + 1));
		scd2->old_nulls = palloc(sizeof(bool) * (natts + 1));
		scd2->old_is_set = palloc(sizeof(bool) * (natts + 1));
		MemoryContextSwitchTo(oldcontext);
		apply->state = scd2;
	}
	scd2->map = NULL; /* another may lie at the same place by now */
	scd2->rows = NULL;
	scd2->read_time = 0;
}

static void
scd2_add(EtlApply *apply, const EtlSourceXact *xact, const EtlChangeEvent *event)
{
	EtlScd2 *scd2 = apply->state;
	EtlApplyMap *map = etl_apply_map(apply, event->relation);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "etl_patterns scd2 change",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);

	scd2->change_context = context;
	if (map != scd2->map || event->relation->number != scd2->number)
		set_map(apply, scd2, map, event->relation);
	set_clock(scd2, xact, event);
	switch (event->kind)
	{
		case ETL_EVENT_INSERT:
		case ETL_EVENT_READ:
			add_new_row(apply, scd2, map, event);
			break;
		case ETL_EVENT_UPDATE:
			add_update(apply, scd2, map, event);
			break;
		case ETL_EVENT_DELETE:
			add_delete(apply, scd2, map, event);
			break;
		case ETL_EVENT_TRUNCATE:
			add_truncate(apply, scd2);
			break;
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
}

static void
scd2_flush(EtlApply *apply)
{
	merge_rows(apply, apply->state);
}

static void
scd2_end(EtlApply *apply)
{
}

/* ------------------------------------------------------------------ */
/* columns                                                              */

/* From here on rows have the columns of this map. */
static void
set_map(EtlApply *apply, EtlScd2 *scd2, EtlApplyMap *map,
		const EtlSourceRelation *relation)
{
	MemoryContext oldcontext;

	merge_rows(apply, scd2);
	scd2->map = NULL;
	MemoryContextReset(scd2->context);
	oldcontext = MemoryContextSwitchTo(scd2->context);
	etl_scd2_columns(apply, scd2, map, relation);
	MemoryContextSwitchTo(oldcontext);
	scd2->map = map;
	scd2->number = relation->number;
}

/* ------------------------------------------------------------------ */
/* changes                                                              */

/* When the change takes effect. */
static void
set_clock(EtlScd2 *scd2, const EtlSourceXact *xact, const EtlChangeEvent *event)
{
	TimestampTz time = xact->commit_time;

	if (event->kind == ETL_EVENT_READ)
		scd2->read_time = time;
	if (scd2->step == xact->commit_lsn)
		return;
	if (time <= scd2->time && scd2->time - time < CLOCK_NOISE)
		time = scd2->time + 1;
	scd2->step = xact->commit_lsn;
	scd2->time = time;
}

static void
add_new_row(EtlApply *apply, EtlScd2 *scd2, EtlApplyMap *map,
			const EtlChangeEvent *event)
{
	if (!etl_apply_filter(apply, map, event->new_row))
	{
		apply->counts.ignored++;
		return;
	}
	etl_apply_row(apply, map, event->new_row, NULL, false, scd2->values,
				  scd2->nulls, scd2->is_set);
	put_row(scd2, scd2->values, scd2->nulls, scd2->is_set, false);
}

/*
 * A row with another key goes on as another history.  A row that passes the
 * filter no more ends.
 */
static void
add_update(EtlApply *apply, EtlScd2 *scd2, EtlApplyMap *map,
		   const EtlChangeEvent *event)
{
	const bool *unchanged;
	HeapTuple row = etl_event_new_row(event, &unchanged);
	bool moves = false;

	etl_apply_row(apply, map, row, unchanged, false, scd2->values, scd2->nulls,
				  scd2->is_set);
	if (event->old_row != NULL)
	{
		etl_apply_row(apply, map, event->old_row, NULL, event->old_is_key,
					  scd2->old_values, scd2->old_nulls, scd2->old_is_set);
		refuse_missing_key(apply, scd2);
		moves = !same_key(apply, scd2);
	}
	if (moves && lacking(scd2, scd2->is_set) != NULL)
		take_missing(apply, scd2);
	if (moves)
		put_row(scd2, scd2->old_values, scd2->old_nulls, scd2->old_is_set, true);
	if (etl_event_passes(apply, map, row, unchanged))
		put_row(scd2, scd2->values, scd2->nulls, scd2->is_set, false);
	else if (!moves)
		put_row(scd2, scd2->values, scd2->nulls, scd2->is_set, true);
}

static void
add_delete(EtlApply *apply, EtlScd2 *scd2, EtlApplyMap *map,
		   const EtlChangeEvent *event)
{
	if (event->old_row == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("source \"%s\" does not log the keys of deleted rows",
						apply->source),
				 errhint(
					 "Give it a primary key, or use ALTER TABLE ... REPLICA IDENTITY.")));
	etl_apply_row(apply, map, event->old_row, NULL, event->old_is_key,
				  scd2->old_values, scd2->old_nulls, scd2->old_is_set);
	refuse_missing_key(apply, scd2);
	put_row(scd2, scd2->old_values, scd2->old_nulls, scd2->old_is_set, true);
}

/* Deletes all keys that have an open version. */
static void
add_truncate(EtlApply *apply, EtlScd2 *scd2)
{
	EtlQuery query = {0};
	StringInfoData sql;
	Oid types[] = {TIMESTAMPTZOID};
	Datum values[1];
	const char *valid_to = quote_identifier(scd2->names.valid_to);
	ListCell *lc;

	merge_rows(apply, scd2);
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT DISTINCT ");
	foreach(lc, scd2->key_names)
		appendStringInfo(&sql, "%st.%s",
						 foreach_current_index(lc) > 0 ? ", " : "",
						 quote_identifier(lfirst(lc)));

	/* an open end is later than any commit; of others a few too many may be */
	appendStringInfo(&sql,
					 " FROM %s AS t WHERE t.%s IS NULL OR t.%s OPERATOR(pg_catalog.>=) $1",
					 etl_relation_name(apply->target), valid_to, valid_to);
	values[0] = TimestampTzGetDatum(scd2->time);
	query.text = sql.data;
	query.nargs = 1;
	query.types = types;
	query.values = values;
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	(void) etl_query_rows(&query, add_open_key, scd2);
	PopActiveSnapshot();
	scd2->truncated = scd2->step;
	apply->counts.truncated++;
}

static void
add_open_key(void *arg, TupleTableSlot *slot)
{
	EtlScd2 *scd2 = arg;

	slot_getallattrs(slot);
	for (int i = 0; i < scd2->natts; i++)
	{
		scd2->old_nulls[scd2->attnums[i] - 1] = true;
		scd2->old_is_set[scd2->attnums[i] - 1] = true;
	}
	for (int i = 0; i < scd2->n_keys; i++)
	{
		scd2->old_values[scd2->keys[i] - 1] = slot->tts_values[i];
		scd2->old_nulls[scd2->keys[i] - 1] = slot->tts_isnull[i];
	}
	put_row(scd2, scd2->old_values, scd2->old_nulls, scd2->old_is_set, true);
}

/* Has the new row the key of the old one? */
static bool
same_key(EtlApply *apply, EtlScd2 *scd2)
{
	TupleDesc desc = RelationGetDescr(apply->target);

	for (int i = 0; i < scd2->n_keys; i++)
	{
		int key = scd2->keys[i] - 1;
		Form_pg_attribute att = TupleDescAttr(desc, key);
		EtlValueOps ops;

		etl_value_ops_init(&ops, att->atttypid, att->attcollation);
		if (!etl_value_equal(&ops, scd2->values[key], scd2->nulls[key],
							 scd2->old_values[key], scd2->old_nulls[key]))
			return false;
	}
	return true;
}

/* Of an old row the key at least is known. */
static void
refuse_missing_key(EtlApply *apply, EtlScd2 *scd2)
{
	for (int i = 0; i < scd2->n_keys; i++)
		if (!scd2->old_is_set[scd2->keys[i] - 1])
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("source \"%s\" does not log column \"%s\" of deleted rows",
							apply->source, (char *) list_nth(scd2->key_names, i)),
					 errhint(
						 "Use ALTER TABLE ... REPLICA IDENTITY at the source.")));
}

/*
 * A row has moved to another key, and what it lacks is in the history of the
 * old one: that of the changes before, too, which are merged first.
 */
static void
take_missing(EtlApply *apply, EtlScd2 *scd2)
{
	TupleDesc target = RelationGetDescr(apply->target);
	EtlQuery query = {0};
	StringInfoData sql;

	merge_rows(apply, scd2);
	query.types = palloc(sizeof(Oid) * scd2->n_keys);
	query.values = palloc(sizeof(Datum) * scd2->n_keys);
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < scd2->natts; i++)
		appendStringInfo(&sql, "%st.%s", i > 0 ? ", " : "",
						 quote_identifier(
							 NameStr(TupleDescAttr(target, scd2->attnums[i] - 1)
										 ->attname)));
	appendStringInfo(&sql, " FROM %s AS t WHERE ",
					 etl_relation_name(apply->target));
	for (int i = 0; i < scd2->n_keys; i++)
	{
		Form_pg_attribute att = TupleDescAttr(target, scd2->keys[i] - 1);
		Oid equal = lookup_type_cache(att->atttypid, TYPECACHE_EQ_OPR)->eq_opr;

		if (!OidIsValid(equal))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_FUNCTION),
					 errmsg("key column \"%s\" has type %s, which has no equality operator",
							NameStr(att->attname),
							format_type_be(att->atttypid))));
		appendStringInfo(&sql, "%st.%s %s $%d", i > 0 ? " AND " : "",
						 quote_identifier(NameStr(att->attname)),
						 etl_operator_name(equal), i + 1);
		query.types[i] = att->atttypid;
		query.values[i] = scd2->old_values[scd2->keys[i] - 1];
	}
	appendStringInfo(&sql, " ORDER BY t.%s DESC LIMIT 1",
					 quote_identifier(scd2->names.valid_from));
	query.nargs = scd2->n_keys;
	query.text = sql.data;
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	(void) etl_query_rows(&query, take_row, scd2);
	PopActiveSnapshot();
}

/* The values live as long as the change. */
static void
take_row(void *arg, TupleTableSlot *slot)
{
	EtlScd2 *scd2 = arg;
	MemoryContext oldcontext = MemoryContextSwitchTo(scd2->change_context);

	slot_getallattrs(slot);
	for (int i = 0; i < scd2->natts; i++)
	{
		int column = scd2->attnums[i] - 1;
		Form_pg_attribute att = TupleDescAttr(slot->tts_tupleDescriptor, i);

		if (scd2->is_set[column])
			continue;
		scd2->is_set[column] = true;
		scd2->nulls[column] = slot->tts_isnull[i];
		if (!slot->tts_isnull[i])
			scd2->values[column] = datumCopy(slot->tts_values[i], att->attbyval,
											 att->attlen);
	}
	MemoryContextSwitchTo(oldcontext);
}

/* ------------------------------------------------------------------ */
/* rows                                                                 */

/* Keeps a row for the merge. */
static void
put_row(EtlScd2 *scd2, const Datum *values, const bool *nulls,
		const bool *is_set, bool is_delete)
{
	int natts = scd2->natts;
	Datum *row = palloc0(sizeof(Datum) * (natts + ETL_SCD2_ROW_EXTRA));
	bool *row_nulls = palloc0(sizeof(bool) * (natts + ETL_SCD2_ROW_EXTRA));
	bytea *lacks = is_delete ? NULL : lacking(scd2, is_set);
	TimestampTz time = scd2->time;

	/* a copy that is not the first one begins with TRUNCATE */
	if (scd2->read_time != 0 && scd2->has_initial && !is_delete &&
		scd2->truncated != scd2->step)
		time = scd2->initial;
	for (int i = 0; i < natts; i++)
	{
		int column = scd2->attnums[i] - 1;

		row[i] = values[column];
		row_nulls[i] = nulls[column] || !is_set[column];
	}
	row[natts + ETL_SCD2_ROW_TIME] = TimestampTzGetDatum(time);
	row[natts + ETL_SCD2_ROW_IS_DELETE] = BoolGetDatum(is_delete);
	row[natts + ETL_SCD2_ROW_STEP] = Int64GetDatum((int64) scd2->step);
	row[natts + ETL_SCD2_ROW_LACKS] = PointerGetDatum(lacks);
	row_nulls[natts + ETL_SCD2_ROW_LACKS] = lacks == NULL;
	if (scd2->rows == NULL)
	{
		MemoryContext oldcontext;

		oldcontext = MemoryContextSwitchTo(scd2->apply->batch_context);
		scd2->rows = tuplestore_begin_heap(true, false, work_mem);
		MemoryContextSwitchTo(oldcontext);
	}
	tuplestore_putvalues(scd2->rows, scd2->desc, row, row_nulls);
	pfree(row);
	pfree(row_nulls);
}

/* The columns of the target that have no value here, as a bitmap, or NULL. */
static bytea *
lacking(const EtlScd2 *scd2, const bool *is_set)
{
	bytea *lacks = NULL;

	for (int i = 0; i < scd2->natts; i++)
	{
		int column = scd2->attnums[i] - 1;

		if (is_set[column])
			continue;
		if (lacks == NULL)
		{
			/* the mapped columns are in order */
			Size size = VARHDRSZ + scd2->attnums[scd2->natts - 1] / 8 + 1;

			lacks = palloc0(size);
			SET_VARSIZE(lacks, size);
		}
		((bits8 *) VARDATA(lacks))[column / 8] |= 1 << (column % 8);
	}
	return lacks;
}

/* ------------------------------------------------------------------ */
/* merges                                                               */

/* Merges what was kept. */
static void
merge_rows(EtlApply *apply, EtlScd2 *scd2)
{
	Tuplestorestate *rows = scd2->rows;
	MemoryContext context;
	MemoryContext oldcontext;
	EtlMergeCall call = {0};
	EtlMerge *merge;
	EtlRun *run;

	if (rows == NULL)
		return;

	/* Whatever happens now, these rows are not tried again. */
	scd2->rows = NULL;
	context = AllocSetContextCreate(CurrentMemoryContext, "etl_patterns scd2",
									ALLOCSET_DEFAULT_SIZES);
	oldcontext = MemoryContextSwitchTo(context);
	merge_call(apply, scd2, &call);
	call.names.rows = rows;
	run = etl_run_prepare("cdc", apply->pipeline, apply->target_relid);
	merge = etl_merge_begin(&call, run);
	merge->has_effective_at = scd2->read_time != 0;
	merge->effective_at = TimestampTzGetDatum(scd2->read_time);
	merge->open_step = (int64) scd2->open_step;
	etl_merge_set_input(merge, &call.names, NULL);
	etl_merge_perform(&call, merge);
	apply->counts.inserted += merge->counts.inserted + merge->counts.opened;
	apply->counts.updated += merge->counts.corrected + merge->counts.overwritten;
	apply->counts.deleted += merge->counts.deleted;
	etl_merge_release(merge);
	etl_progress_end(run);
	tuplestore_end(rows);
	scd2->open_step = scd2->step;
	scd2->read_time = 0;
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
}

static void
merge_call(EtlApply *apply, EtlScd2 *scd2, EtlMergeCall *call)
{
	call->operation = "cdc";
	call->target = apply->target_relid;
	call->names = scd2->names;
	call->names.keys = scd2->key_names;
	call->names.rows_desc = scd2->desc;
	call->names.rows_label = apply->source;
	call->names.sequence_by = ETL_SCD2_TIME;
	call->names.delete_when = quote_identifier(ETL_SCD2_IS_DELETE);
	call->names.step_by = ETL_SCD2_STEP;
	call->names.lacks = ETL_SCD2_LACKS;
	call->versioned = true;
	call->decide = etl_decide_scd2;
	call->duplicates = ETL_DUPLICATES_LAST;
	call->strict = true;
	call->max_delete_fraction = -1;
}
