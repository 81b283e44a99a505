/*-------------------------------------------------------------------------
 *
 * cdc_table.c
 *	  The rows of etl_patterns.cdc_pipeline and etl_patterns.cdc_table.
 *
 * They are read as they are now, at every isolation level, and without regard
 * to whose they are: etl_cdc_of_caller() is for what users name.  Who changes a
 * pipeline or its tables has its row locked.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"

#include "flow/cdc.h"

/* Columns of etl_patterns.cdc_pipeline */
enum
{
	CDC_ID,
	CDC_NAME,
	CDC_ROLE,
	CDC_SERVER,
	CDC_SNAPSHOT,
	CDC_ON_ERROR,
	CDC_BATCH_TRANSACTIONS,
	CDC_STATE,
	CDC_SLOT_NAME,
	CDC_HAS_SLOT,
	CDC_APPLIED_LSN,
	CDC_APPLIED_AT,
	CDC_SOURCE_COMMITTED_AT,
	CDC_TRANSACTIONS,
	CDC_INSERTS,
	CDC_UPDATES,
	CDC_DELETES,
	CDC_TRUNCATES,
	CDC_READS,
	CDC_ERROR_CODE,
	CDC_ERROR_MESSAGE,
	CDC_ERROR_HINT,
	CDC_ERROR_CHANGE,
	CDC_ERROR_AT,
	CDC_SKIP_LSN,
	CDC_CREATED_AT,
	CDC_RETAINED_ALERT_AT,
	CDC_NATTS
};

/* Columns of etl_patterns.cdc_table */
enum
{
	TABLE_PIPELINE_ID,
	TABLE_SOURCE,
	TABLE_PIPELINE,
	TABLE_SOURCE_RELATION,
	TABLE_ROLE,
	TABLE_TARGET,
	TABLE_APPLY,
	TABLE_APPLY_OPTIONS,
	TABLE_COLUMNS,
	TABLE_ROW_FILTER,
	TABLE_STATE,
	TABLE_COPY_SNAPSHOT,
	TABLE_ROWS_COPIED,
	TABLE_COPIED_AT,
	TABLE_NATTS
};

static const char *const snapshot_words[] = {"initial", "none", NULL};
static const char *const on_error_words[] = {"pause", "dead_letter", NULL};
static const char *const state_words[] = {"stopped", "starting", "copying",
										  "running", "paused",	 "lost",
										  NULL};
static const char *const table_state_words[] = {"new", "followed", NULL};

/* ------------------------------------------------------------------ */
/* pipelines                                                            */

static XLogRecPtr
get_lsn(const Datum *values, const bool *nulls, int column)
{
	return nulls[column] ? InvalidXLogRecPtr : DatumGetLSN(values[column]);
}

static void
set_lsn(Datum *values, bool *nulls, int column, XLogRecPtr lsn)
{
	nulls[column] = XLogRecPtrIsInvalid(lsn);
	values[column] = LSNGetDatum(lsn);
}

static Jsonb *
get_jsonb(const Datum *values, const bool *nulls, int column)
{
	return nulls[column] ? NULL : DatumGetJsonbPCopy(values[column]);
}

static void
set_jsonb(Datum *values, bool *nulls, int column, Jsonb *jsonb)
{
	nulls[column] = jsonb == NULL;
	values[column] = PointerGetDatum(jsonb);
}

/* A row as a struct, in the current memory context. */
static EtlCdcPipeline *
pipeline_from_tuple(Relation rel, HeapTuple tuple)
{
	EtlCdcPipeline *pipeline = palloc0(sizeof(EtlCdcPipeline));
	Datum values[CDC_NATTS];
	bool nulls[CDC_NATTS];

	heap_deform_tuple(tuple, etl_ledger_desc(rel), values, nulls);
	pipeline->place = tuple->t_self;
	pipeline->pipeline_id = DatumGetInt64(values[CDC_ID]);
	pipeline->name = TextDatumGetCString(values[CDC_NAME]);
	pipeline->role = DatumGetObjectId(values[CDC_ROLE]);
	pipeline->server = etl_ledger_get_text(values, nulls, CDC_SERVER);
	pipeline->snapshot = etl_ledger_get_word(values[CDC_SNAPSHOT],
											 snapshot_words) == 0;
	pipeline->on_error = etl_ledger_get_word(values[CDC_ON_ERROR],
											 on_error_words);
	pipeline->batch_transactions = DatumGetInt32(values[CDC_BATCH_TRANSACTIONS]);
	pipeline->state = etl_ledger_get_word(values[CDC_STATE], state_words);
	pipeline->slot_name = TextDatumGetCString(values[CDC_SLOT_NAME]);
	pipeline->has_slot = DatumGetBool(values[CDC_HAS_SLOT]);
	pipeline->applied = get_lsn(values, nulls, CDC_APPLIED_LSN);
	pipeline->applied_time = etl_ledger_get_time(values, nulls, CDC_APPLIED_AT);
	pipeline->source_time = etl_ledger_get_time(values, nulls,
												CDC_SOURCE_COMMITTED_AT);
	pipeline->transactions = DatumGetInt64(values[CDC_TRANSACTIONS]);
	for (int i = 0; i < (int) lengthof(pipeline->changes); i++)
		pipeline->changes[i] = DatumGetInt64(values[CDC_INSERTS + i]);
	pipeline->error_code = etl_ledger_get_text(values, nulls, CDC_ERROR_CODE);
	pipeline->error_message = etl_ledger_get_text(values, nulls,
												  CDC_ERROR_MESSAGE);
	pipeline->error_hint = etl_ledger_get_text(values, nulls, CDC_ERROR_HINT);
	pipeline->error_change = get_jsonb(values, nulls, CDC_ERROR_CHANGE);
	pipeline->error_at = etl_ledger_get_time(values, nulls, CDC_ERROR_AT);
	pipeline->skip = get_lsn(values, nulls, CDC_SKIP_LSN);
	pipeline->created_at = etl_ledger_get_time(values, nulls, CDC_CREATED_AT);
	pipeline->retained_alert_at = etl_ledger_get_time(values, nulls,
													  CDC_RETAINED_ALERT_AT);
	return pipeline;
}

/* A struct as the columns of a row. */
static void
pipeline_to_values(const EtlCdcPipeline *pipeline, Datum *values, bool *nulls)
{
	memset(nulls, 0, sizeof(bool) * CDC_NATTS);
	values[CDC_ID] = Int64GetDatum(pipeline->pipeline_id);
	values[CDC_NAME] = CStringGetTextDatum(pipeline->name);
	values[CDC_ROLE] = ObjectIdGetDatum(pipeline->role);
	etl_ledger_set_text(&values[CDC_SERVER], &nulls[CDC_SERVER],
						pipeline->server);
	values[CDC_SNAPSHOT] = CStringGetTextDatum(
		snapshot_words[pipeline->snapshot ? 0 : 1]);
	values[CDC_ON_ERROR] = CStringGetTextDatum(
		on_error_words[pipeline->on_error]);
	values[CDC_BATCH_TRANSACTIONS] = Int32GetDatum(pipeline->batch_transactions);
	values[CDC_STATE] = CStringGetTextDatum(state_words[pipeline->state]);
	values[CDC_SLOT_NAME] = CStringGetTextDatum(pipeline->slot_name);
	values[CDC_HAS_SLOT] = BoolGetDatum(pipeline->has_slot);
	set_lsn(values, nulls, CDC_APPLIED_LSN, pipeline->applied);
	etl_ledger_set_time(values, nulls, CDC_APPLIED_AT, pipeline->applied_time);
	etl_ledger_set_time(values, nulls, CDC_SOURCE_COMMITTED_AT,
						pipeline->source_time);
	values[CDC_TRANSACTIONS] = Int64GetDatum(pipeline->transactions);
	for (int i = 0; i < (int) lengthof(pipeline->changes); i++)
		values[CDC_INSERTS + i] = Int64GetDatum(pipeline->changes[i]);
	etl_ledger_set_text(&values[CDC_ERROR_CODE], &nulls[CDC_ERROR_CODE],
						pipeline->error_code);
	etl_ledger_set_text(&values[CDC_ERROR_MESSAGE], &nulls[CDC_ERROR_MESSAGE],
						etl_ledger_clip(pipeline->error_message));
	etl_ledger_set_text(&values[CDC_ERROR_HINT], &nulls[CDC_ERROR_HINT],
						pipeline->error_hint);
	set_jsonb(values, nulls, CDC_ERROR_CHANGE, pipeline->error_change);
	etl_ledger_set_time(values, nulls, CDC_ERROR_AT, pipeline->error_at);
	set_lsn(values, nulls, CDC_SKIP_LSN, pipeline->skip);
	etl_ledger_set_time(values, nulls, CDC_CREATED_AT, pipeline->created_at);
	etl_ledger_set_time(values, nulls, CDC_RETAINED_ALERT_AT,
						pipeline->retained_alert_at);
}

/* The only pipeline that a scan key finds, locked or not; NULL without one. */
static EtlCdcPipeline *
find_pipeline(const char *index, ScanKey key, bool lock, LockWaitPolicy wait)
{
	Relation rel = etl_ledger_open("cdc_pipeline", CDC_NATTS,
								   lock ? RowExclusiveLock : AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan(rel, etl_ledger_relid(index), true,
										  snapshot, 1, key);
	HeapTuple tuple = systable_getnext(scan);
	EtlCdcPipeline *pipeline = NULL;

	if (HeapTupleIsValid(tuple) && lock)
		tuple = etl_ledger_lock(rel, tuple, wait);
	if (HeapTupleIsValid(tuple))
		pipeline = pipeline_from_tuple(rel, tuple);
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	return pipeline;
}

/* The pipeline of that number, in the current memory context, or NULL. */
EtlCdcPipeline *
etl_cdc_by_id(int64 pipeline_id, bool lock)
{
	ScanKeyData key;

	ScanKeyInit(&key, CDC_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(pipeline_id));
	return find_pipeline("cdc_pipeline_pkey", &key, lock, LockWaitBlock);
}

/* The same with a lock, or NULL if somebody else has it. */
EtlCdcPipeline *
etl_cdc_try_lock(int64 pipeline_id)
{
	ScanKeyData key;

	ScanKeyInit(&key, CDC_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(pipeline_id));
	return find_pipeline("cdc_pipeline_pkey", &key, true, LockWaitSkip);
}

/* The pipeline of that name, whoever's it is, or NULL. */
EtlCdcPipeline *
etl_cdc_by_name(const char *name, bool lock)
{
	ScanKeyData key;

	ScanKeyInit(&key, CDC_NAME + 1, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(name));
	return find_pipeline("cdc_pipeline_pipeline_key", &key, lock, LockWaitBlock);
}

/* The pipeline that a user names.  Of others' nobody learns that they exist. */
EtlCdcPipeline *
etl_cdc_of_caller(const char *name, bool lock)
{
	EtlCdcPipeline *pipeline = etl_cdc_by_name(name, false);

	if (pipeline != NULL && etl_ledger_is_ours(pipeline->role) && lock)
		pipeline = etl_cdc_by_name(name, true);
	if (pipeline == NULL || !etl_ledger_is_ours(pipeline->role))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("CDC pipeline \"%s\" does not exist", name)));
	return pipeline;
}

/* All pipelines. */
List *
etl_cdc_pipelines(void)
{
	Relation rel = etl_ledger_open("cdc_pipeline", CDC_NATTS, AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0,
										  NULL);
	List *pipelines = NIL;
	HeapTuple tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		pipelines = lappend(pipelines, pipeline_from_tuple(rel, tuple));
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	return pipelines;
}

/*
 * The name of the slot of a pipeline.  On another server there may be slots of
 * other systems' pipelines, too.  A row that was copied from elsewhere has the
 * name of a slot that is not ours.
 */
char *
etl_cdc_slot_name(const EtlCdcPipeline *pipeline)
{
	if (pipeline->server == NULL)
		return psprintf("etl_%u_" INT64_FORMAT, MyDatabaseId,
						pipeline->pipeline_id);
	return psprintf("etl_%u_" INT64_FORMAT "_" UINT64_FORMAT, MyDatabaseId,
					pipeline->pipeline_id, GetSystemIdentifier());
}

/* Store a new pipeline; it gets its number, and the name of its slot. */
void
etl_cdc_insert(EtlCdcPipeline *pipeline)
{
	Datum values[CDC_NATTS];
	bool nulls[CDC_NATTS];

	pipeline->pipeline_id = etl_ledger_next_id("cdc_pipeline_id_seq");
	pipeline->slot_name = etl_cdc_slot_name(pipeline);
	pipeline_to_values(pipeline, values, nulls);
	etl_ledger_insert_into("cdc_pipeline", CDC_NATTS, values, nulls);
}

/* Store what was changed in a pipeline that was read with a lock. */
void
etl_cdc_update(EtlCdcPipeline *pipeline)
{
	Datum values[CDC_NATTS];
	bool nulls[CDC_NATTS];

	pipeline_to_values(pipeline, values, nulls);
	etl_ledger_replace_in("cdc_pipeline", CDC_NATTS, &pipeline->place, values,
						  nulls);
}

/* Delete a pipeline that was read with a lock; its tables went before. */
void
etl_cdc_delete(EtlCdcPipeline *pipeline)
{
	etl_ledger_delete_from("cdc_pipeline", CDC_NATTS, &pipeline->place);
}

/* ------------------------------------------------------------------ */
/* tables                                                               */

/* A row as a struct, in the current memory context. */
static EtlCdcTable *
table_from_tuple(Relation rel, HeapTuple tuple)
{
	EtlCdcTable *table = palloc0(sizeof(EtlCdcTable));
	Datum values[TABLE_NATTS];
	bool nulls[TABLE_NATTS];

	heap_deform_tuple(tuple, etl_ledger_desc(rel), values, nulls);
	table->place = tuple->t_self;
	table->pipeline_id = DatumGetInt64(values[TABLE_PIPELINE_ID]);
	table->source = TextDatumGetCString(values[TABLE_SOURCE]);
	table->pipeline = TextDatumGetCString(values[TABLE_PIPELINE]);
	if (!nulls[TABLE_SOURCE_RELATION])
		table->source_relid = DatumGetObjectId(values[TABLE_SOURCE_RELATION]);
	table->role = DatumGetObjectId(values[TABLE_ROLE]);
	table->target = DatumGetObjectId(values[TABLE_TARGET]);
	table->apply = TextDatumGetCString(values[TABLE_APPLY]);
	table->apply_options = get_jsonb(values, nulls, TABLE_APPLY_OPTIONS);
	table->columns = get_jsonb(values, nulls, TABLE_COLUMNS);
	table->row_filter = etl_ledger_get_text(values, nulls, TABLE_ROW_FILTER);
	table->state = etl_ledger_get_word(values[TABLE_STATE], table_state_words);
	table->copy_snapshot = etl_ledger_get_text(values, nulls,
											   TABLE_COPY_SNAPSHOT);
	table->rows_copied = DatumGetInt64(values[TABLE_ROWS_COPIED]);
	table->copied_at = etl_ledger_get_time(values, nulls, TABLE_COPIED_AT);
	return table;
}

/* A struct as the columns of a row. */
static void
table_to_values(const EtlCdcTable *table, Datum *values, bool *nulls)
{
	memset(nulls, 0, sizeof(bool) * TABLE_NATTS);
	values[TABLE_PIPELINE_ID] = Int64GetDatum(table->pipeline_id);
	values[TABLE_SOURCE] = CStringGetTextDatum(table->source);
	values[TABLE_PIPELINE] = CStringGetTextDatum(table->pipeline);
	values[TABLE_SOURCE_RELATION] = ObjectIdGetDatum(table->source_relid);
	nulls[TABLE_SOURCE_RELATION] = !OidIsValid(table->source_relid);
	values[TABLE_ROLE] = ObjectIdGetDatum(table->role);
	values[TABLE_TARGET] = ObjectIdGetDatum(table->target);
	values[TABLE_APPLY] = CStringGetTextDatum(table->apply);
	set_jsonb(values, nulls, TABLE_APPLY_OPTIONS, table->apply_options);
	set_jsonb(values, nulls, TABLE_COLUMNS, table->columns);
	etl_ledger_set_text(&values[TABLE_ROW_FILTER], &nulls[TABLE_ROW_FILTER],
						table->row_filter);
	values[TABLE_STATE] = CStringGetTextDatum(table_state_words[table->state]);
	etl_ledger_set_text(&values[TABLE_COPY_SNAPSHOT],
						&nulls[TABLE_COPY_SNAPSHOT], table->copy_snapshot);
	values[TABLE_ROWS_COPIED] = Int64GetDatum(table->rows_copied);
	etl_ledger_set_time(values, nulls, TABLE_COPIED_AT, table->copied_at);
}

/* The tables of a pipeline, by the names of their sources. */
List *
etl_cdc_tables(int64 pipeline_id)
{
	Relation rel = etl_ledger_open("cdc_table", TABLE_NATTS, AccessShareLock);
	Relation index = index_open(etl_ledger_relid("cdc_table_pkey"),
								AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	List *tables = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&key, TABLE_PIPELINE_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(pipeline_id));
	scan = systable_beginscan_ordered(rel, index, snapshot, 1, &key);
	while (HeapTupleIsValid(
		tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
		tables = lappend(tables, table_from_tuple(rel, tuple));
	systable_endscan_ordered(scan);
	UnregisterSnapshot(snapshot);
	index_close(index, AccessShareLock);
	table_close(rel, NoLock);
	return tables;
}

/* Store a new table of a pipeline. */
void
etl_cdc_table_insert(EtlCdcTable *table)
{
	Datum values[TABLE_NATTS];
	bool nulls[TABLE_NATTS];

	table_to_values(table, values, nulls);
	etl_ledger_insert_into("cdc_table", TABLE_NATTS, values, nulls);
}

/* Store what was changed in a table; its pipeline is locked. */
void
etl_cdc_table_update(EtlCdcTable *table)
{
	Datum values[TABLE_NATTS];
	bool nulls[TABLE_NATTS];

	table_to_values(table, values, nulls);
	etl_ledger_replace_in("cdc_table", TABLE_NATTS, &table->place, values,
						  nulls);
}

/* Delete a table from its pipeline, which is locked. */
void
etl_cdc_table_delete(EtlCdcTable *table)
{
	etl_ledger_delete_from("cdc_table", TABLE_NATTS, &table->place);
}
