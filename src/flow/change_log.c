/*-------------------------------------------------------------------------
 *
 * change_log.c
 *	  Merging versions by way of a log of all changes there ever were.
 *
 * What a late row does to versions depends on what they were made from: two
 * equal rows make one version, and its row does not tell that there were two.
 * So "<target>_changes", a table beside the target (companion.c), keeps each
 * change that was ever received:
 *
 *		change_id, run_id, received_at, change_time, is_delete,
 *		the target's columns that the source has
 *
 * A merge writes its rows into the log first.  Then its input is not the
 * source any more but the log, with all changes of the keys that it has just
 * received, and the versions of these keys are worked out anew from those.
 * So the history is a function of what is in the log, and not of the order
 * in which that came.
 *
 * A log that is made for a target with versions starts with what these say:
 * a change where each one starts, and a delete where one ends and no other
 * starts.  These belong to no run (run_id is null).
 *
 * In the end the log has one change of each key, time and run: rows that
 * turned out to be duplicates or were rejected are deleted again.
 *
 * Locks: those of merge_spec.c; on the log RowExclusiveLock until the
 * transaction ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "flow/companion.h"
#include "flow/merge.h"

/* What statements call the received rows, and those to be deleted again. */
#define RECEIVED "etl_received"
#define SETTLED	 "etl_settled"

typedef struct ChangeLog
{
	EtlMerge *merge;
	const char *name; /* ready for SQL */
	Oid relid;
	bool is_empty; /* before this run */

	/* its own columns */
	const char *change_id;
	const char *run_id;
	const char *received_at;
	const char *change_time;
	const char *is_delete;

	/* those of the target that it has, too, and received rows of these */
	int *columns;
	int n_columns;
	TupleDesc desc; /* the columns, then time and is_delete */
	Tuplestorestate *received;
	int64 n_received;
	int64 n_rejected; /* of the rest */
	Datum *values;	  /* scratch */
	bool *nulls;

	/* this run's changes are those with its run_id between the two */
	int64 first_id;
	int64 last_id;

	TupleDesc settled_desc;
	Tuplestorestate *settled;
} ChangeLog;

static const EtlCompanion companion = {"changes", "logged changes",
									   "change_log => false"};

static void run_logged(void *arg);
static void run_logged_dry(void *arg);
static ChangeLog *describe_log(EtlMerge *merge);
static bool takes_column(const EtlMerge *merge, int column);
static EtlMergeColumn *time_column(ChangeLog *log);
static void open_log(ChangeLog *log);
static void create_log(ChangeLog *log);
static void create_index(ChangeLog *log);
static void append_names(StringInfo sql, ChangeLog *log, const char *qualifier);
static void append_same_key(StringInfo sql, ChangeLog *log, const char *a,
							const char *b);
static const char *equal_operator(const EtlMergeColumn *column);
static void seed_log(ChangeLog *log);
static char *seed_statement(ChangeLog *log);
static char *is_open_condition(ChangeLog *log);
static void check_log(ChangeLog *log);
static const char *find_flaw(ChangeLog *log, Relation rel);
static bool has_own_column(Relation rel, const char *name, Oid type);
static void refuse_policies(Oid relid);
static void receive(ChangeLog *log);
static void receive_change(void *arg, EtlChange *change, TupleTableSlot *slot);
static void write_received(ChangeLog *log);
static int64 spi_int64(int column);
static void read_from_log(ChangeLog *log);
static char *log_query(ChangeLog *log);
static void append_is_new(StringInfo sql, ChangeLog *log, const char *row);
static void note_settled(EtlMerge *merge, const EtlChange *change);
static void delete_settled(ChangeLog *log);
static void refuse_lost(ChangeLog *log);

/*
 * Runs a merge of versions that is ready, by way of its target's log.  Does
 * what etl_merge_execute() does otherwise.
 */
void
etl_change_log_execute(EtlMerge *merge)
{
	if (merge->absent != ETL_ABSENT_IGNORE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg(
					 "parameter \"change_log\" cannot be used with absent => 'close'"),
				 errhint(
					 "Let the source have rows for deletes, and tell them by \"delete_when\".")));
	if (merge->late != ETL_LATE_WEAVE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"change_log\" needs late => 'weave'"),
				 errhint(
					 "With a change log no row is late, whenever it comes.")));
	etl_guard_scope(merge->dry_run ? run_logged_dry : run_logged, merge);
}

static void
run_logged(void *arg)
{
	EtlMerge *merge = arg;
	ChangeLog *log = describe_log(merge);

	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	open_log(log);
	receive(log);
	PopActiveSnapshot();

	read_from_log(log);
	etl_merge_execute(merge);
	if (merge->counts.read != log->n_rejected + log->n_received)
		refuse_lost(log);
	delete_settled(log);
}

/* In a subtransaction that is rolled back: only the counts remain. */
static void
run_logged_dry(void *arg)
{
	MemoryContext old_context = CurrentMemoryContext;
	ResourceOwner old_owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(old_context);
	run_logged(arg);
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(old_context);
	CurrentResourceOwner = old_owner;
}

/* Names and columns, in the current memory context. */
static ChangeLog *
describe_log(EtlMerge *merge)
{
	ChangeLog *log = palloc0(sizeof(ChangeLog));
	TupleDesc target = RelationGetDescr(merge->target);
	TupleDesc desc = CreateTemplateTupleDesc(merge->natts + 2);
	int n = 0;

	log->merge = merge;
	log->name = etl_companion_name(&companion, merge->target);
	log->change_id = etl_companion_own_column(merge, "change_id", takes_column);
	log->run_id = etl_companion_own_column(merge, "run_id", takes_column);
	log->received_at = etl_companion_own_column(merge, "received_at",
												takes_column);
	log->change_time = etl_companion_own_column(merge, "change_time",
												takes_column);
	log->is_delete = etl_companion_own_column(merge, "is_delete", takes_column);

	log->columns = palloc(sizeof(int) * (merge->natts + 1));
	for (int i = 0; i < merge->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(target, i);

		if (!takes_column(merge, i))
			continue;
		log->columns[n++] = i;
		TupleDescInitEntry(desc, n, psprintf("c%d", n), att->atttypid,
						   att->atttypmod, att->attndims);
		TupleDescInitEntryCollation(desc, n, att->attcollation);
	}
	log->n_columns = n;
	TupleDescInitEntry(desc, n + 1, "change_time",
					   TupleDescAttr(target, merge->valid_from)->atttypid, -1,
					   0);
	TupleDescInitEntryCollation(desc, n + 1,
								TupleDescAttr(target, merge->valid_from)
									->attcollation);
	TupleDescInitEntry(desc, n + 2, "is_delete", BOOLOID, -1, 0);
	desc->natts = n + 2;
	log->desc = desc;
	log->values = palloc(sizeof(Datum) * (n + 2));
	log->nulls = palloc0(sizeof(bool) * (n + 2));
	log->settled_desc = CreateTemplateTupleDesc(1);
	TupleDescInitEntry(log->settled_desc, 1, "change_id", INT8OID, -1, 0);
	return log;
}

/* The columns that the log shares with the target: those of the source. */
static bool
takes_column(const EtlMerge *merge, int column)
{
	return merge->columns[column].input != 0;
}

static EtlMergeColumn *
time_column(ChangeLog *log)
{
	return &log->merge->columns[log->merge->valid_from];
}

/* ------------------------------------------------------------------ */
/* the log                                                              */

/* Finds the log or makes it. */
static void
open_log(ChangeLog *log)
{
	Relation target = log->merge->target;
	const char *relname = etl_companion_relname(&companion, target);
	Oid schema = RelationGetNamespace(target);

	log->relid = get_relname_relid(relname, schema);
	if (OidIsValid(log->relid))
	{
		check_log(log);
		return;
	}
	create_log(log);
	log->relid = get_relname_relid(relname, schema);
	seed_log(log);
}

/* Makes the table, with the caller's rights. */
static void
create_log(ChangeLog *log)
{
	Relation target = log->merge->target;
	Form_pg_attribute time = TupleDescAttr(RelationGetDescr(target),
										   log->merge->valid_from);
	StringInfoData sql;

	initStringInfo(&sql);
	etl_companion_begin_create(&companion, target, &sql);
	appendStringInfo(&sql,
					 "%s pg_catalog.int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
					 " %s pg_catalog.int8,"
					 " %s pg_catalog.timestamptz NOT NULL,"
					 " %s %s",
					 log->change_id, log->run_id, log->received_at,
					 log->change_time,
					 format_type_extended(time->atttypid, time->atttypmod,
										  FORMAT_TYPE_TYPEMOD_GIVEN |
											  FORMAT_TYPE_FORCE_QUALIFY));
	etl_append_collation(&sql, time->attcollation);
	appendStringInfo(&sql, " NOT NULL, %s pg_catalog.bool NOT NULL",
					 log->is_delete);
	for (int i = 0; i < log->n_columns; i++)
	{
		int column = log->columns[i];

		appendStringInfoString(&sql, ", ");
		etl_companion_append_column(&sql, target, column,
									TupleDescAttr(RelationGetDescr(target),
												  column)
										->atttypmod);
		if (log->merge->columns[column].role == ETL_ROLE_KEY)
			appendStringInfoString(&sql, " NOT NULL");
	}
	appendStringInfoChar(&sql, ')');
	etl_companion_command(sql.data);

	resetStringInfo(&sql);
	appendStringInfo(&sql, "COMMENT ON TABLE %s IS %s", log->name,
					 quote_literal_cstr(
						 psprintf("the changes that etl_scd2_merge() has received for \"%s\", from which it makes the versions there",
								  RelationGetRelationName(target))));
	etl_companion_command(sql.data);
	create_index(log);
}

/* Finds the changes of a key; not where the keys' types have no order. */
static void
create_index(ChangeLog *log)
{
	EtlMerge *merge = log->merge;
	StringInfoData sql;

	if (merge->n_keys + 1 > INDEX_MAX_KEYS)
		return;
	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE INDEX ON %s (", log->name);
	for (int i = 0; i < merge->n_keys; i++)
	{
		EtlMergeColumn *column = &merge->columns[merge->keys[i]];

		if (!column->ops.has_compare)
			return;
		appendStringInfo(&sql, "%s, ", quote_identifier(column->name));
	}
	appendStringInfo(&sql, "%s)", log->change_time);
	etl_companion_command(sql.data);
}

/* The columns that the log shares with the target, each after a comma. */
static void
append_names(StringInfo sql, ChangeLog *log, const char *qualifier)
{
	for (int i = 0; i < log->n_columns; i++)
		appendStringInfo(sql, ", %s%s", qualifier,
						 quote_identifier(
							 log->merge->columns[log->columns[i]].name));
}

/* The condition that rows of two names have the same key. */
static void
append_same_key(StringInfo sql, ChangeLog *log, const char *a, const char *b)
{
	EtlMerge *merge = log->merge;

	for (int i = 0; i < merge->n_keys; i++)
	{
		EtlMergeColumn *column = &merge->columns[merge->keys[i]];
		const char *name = quote_identifier(column->name);

		appendStringInfo(sql, "%s%s.%s %s %s.%s", i == 0 ? "" : " AND ", a,
						 name, equal_operator(column), b, name);
	}
}

static const char *
equal_operator(const EtlMergeColumn *column)
{
	TypeCacheEntry *type = lookup_type_cache(column->ops.type, TYPECACHE_EQ_OPR);

	if (!OidIsValid(type->eq_opr))
		elog(ERROR, "type %u has no equality operator", column->ops.type);
	return etl_operator_name(type->eq_opr);
}

/* ------------------------------------------------------------------ */
/* a new log of a target that has versions                              */

static void
seed_log(ChangeLog *log)
{
	EtlMerge *merge = log->merge;
	Oid type = TupleDescAttr(RelationGetDescr(merge->target), merge->valid_to)
				   ->atttypid;
	int rc;

	refuse_policies(RelationGetRelid(merge->target));
	SPI_connect();
	rc = SPI_execute_with_args(seed_statement(log), merge->open_end_null ? 0 : 1,
							   &type, &merge->open_end, NULL, false, 0);
	if (rc != SPI_OK_INSERT)
		elog(ERROR, "SPI_execute_with_args failed: %s",
			 SPI_result_code_string(rc));
	log->is_empty = SPI_processed == 0;
	if (!log->is_empty)
		ereport(NOTICE,
				(errmsg("made the change log \"%s\" from the versions of \"%s\"",
						get_rel_name(log->relid),
						RelationGetRelationName(merge->target)),
				 errdetail(
					 "It does not know which other changes there have been.")));
	SPI_finish();
}

/*
 *		INSERT INTO log (received_at, change_time, is_delete, columns)
 *		SELECT ..., valid_from, false, columns FROM target
 *		UNION ALL
 *		SELECT ..., end, true, columns FROM target
 *		WHERE it is closed AND none of the same key starts at its end
 *
 * What has no key or no start is no version; a merge of its key says so.
 */
static char *
seed_statement(ChangeLog *log)
{
	EtlMerge *merge = log->merge;
	const char *target = etl_merge_relation_name(merge->target);
	const char *from = quote_identifier(time_column(log)->name);
	const char *to = quote_identifier(merge->columns[merge->valid_to].name);
	char *end = merge->closed_bounds ?
					psprintf("(v.%s OPERATOR(pg_catalog.+) 1)", to) :
					psprintf("v.%s", to);
	StringInfoData is_version;
	StringInfoData sql;

	initStringInfo(&is_version);
	appendStringInfo(&is_version, "v.%s IS NOT NULL", from);
	for (int i = 0; i < merge->n_keys; i++)
		appendStringInfo(&is_version, " AND v.%s IS NOT NULL",
						 quote_identifier(merge->columns[merge->keys[i]].name));

	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO %s (%s, %s, %s", log->name,
					 log->received_at, log->change_time, log->is_delete);
	append_names(&sql, log, "");
	appendStringInfo(&sql,
					 ") SELECT pg_catalog.transaction_timestamp(), v.%s, false",
					 from);
	append_names(&sql, log, "v.");
	appendStringInfo(&sql, " FROM %s AS v WHERE %s", target, is_version.data);

	appendStringInfo(&sql,
					 " UNION ALL SELECT pg_catalog.transaction_timestamp(), %s, true",
					 end);
	append_names(&sql, log, "v.");
	appendStringInfo(&sql,
					 " FROM %s AS v WHERE %s AND NOT (%s)"
					 " AND NOT EXISTS (SELECT FROM %s AS n WHERE ",
					 target, is_version.data, is_open_condition(log), target);
	append_same_key(&sql, log, "n", "v");
	appendStringInfo(&sql, " AND n.%s %s %s)", from,
					 equal_operator(time_column(log)), end);
	return sql.data;
}

/* See etl_stored_is_open(). */
static char *
is_open_condition(ChangeLog *log)
{
	EtlMerge *merge = log->merge;
	EtlMergeColumn *column = &merge->columns[merge->valid_to];
	const char *to = quote_identifier(column->name);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "v.%s IS NULL", to);
	if (!merge->open_end_null)
		appendStringInfo(&sql, " OR v.%s %s $1", to, equal_operator(column));
	if (column->ops.type == DATEOID || column->ops.type == TIMESTAMPOID ||
		column->ops.type == TIMESTAMPTZOID)
		appendStringInfo(&sql, " OR v.%s OPERATOR(pg_catalog.=) 'infinity'::%s",
						 to, format_type_be_qualified(column->ops.type));
	return sql.data;
}

/* ------------------------------------------------------------------ */
/* a log that is there                                                  */

/* Is the relation with that name what we made there, or as good as that? */
static void
check_log(ChangeLog *log)
{
	Relation rel = relation_open(log->relid, RowExclusiveLock);
	const char *flaw;

	etl_companion_check_owner(&companion, rel, log->merge->target);
	flaw = find_flaw(log, rel);
	if (flaw != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation \"%s\" cannot hold the logged changes of \"%s\"",
						RelationGetRelationName(rel),
						RelationGetRelationName(log->merge->target)),
				 errdetail_internal("%s", flaw),
				 errhint(
					 "Alter it if it is the change log, drop it to have it made anew from the versions, or rename it if it is something else.")));
	refuse_policies(log->relid);
	if (IsolationUsesXactSnapshot())
		etl_merge_refuse_stale_snapshot(rel);
	relation_close(rel, NoLock);
}

/* Why it cannot be used, or NULL. */
static const char *
find_flaw(ChangeLog *log, Relation rel)
{
	EtlMerge *merge = log->merge;
	TupleDesc target = RelationGetDescr(merge->target);
	Oid time = TupleDescAttr(target, merge->valid_from)->atttypid;
	const char *names[] = {log->change_id, log->run_id, log->received_at,
						   log->change_time, log->is_delete};
	Oid types[] = {INT8OID, INT8OID, TIMESTAMPTZOID, time, BOOLOID};
	Form_pg_attribute id;

	if (rel->rd_rel->relkind != RELKIND_RELATION &&
		rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return "It is not a table.";
	for (int i = 0; i < (int) lengthof(names); i++)
		if (!has_own_column(rel, names[i], types[i]))
			return psprintf("It has no column \"%s\" of type %s.", names[i],
							format_type_be(types[i]));
	for (int i = 0; i < log->n_columns; i++)
	{
		Form_pg_attribute att = TupleDescAttr(target, log->columns[i]);
		AttrNumber attnum = get_attnum(RelationGetRelid(rel),
									   NameStr(att->attname));

		if (!etl_companion_has_column(rel, merge->target, log->columns[i]) ||
			TupleDescAttr(RelationGetDescr(rel), attnum - 1)->atttypmod !=
				att->atttypmod)
			return psprintf("It has no column \"%s\" of type %s as the target has.",
							NameStr(att->attname),
							format_type_with_typemod(att->atttypid,
													 att->atttypmod));
	}
	id = TupleDescAttr(RelationGetDescr(rel),
					   get_attnum(log->relid, log->change_id) - 1);
	if (!id->attnotnull || (!id->attidentity && !id->atthasdef))
		return psprintf("Column \"%s\" is not an identity column.",
						log->change_id);
	return NULL;
}

static bool
has_own_column(Relation rel, const char *name, Oid type)
{
	AttrNumber attnum = get_attnum(RelationGetRelid(rel), name);

	return attnum > 0 &&
		   TupleDescAttr(RelationGetDescr(rel), attnum - 1)->atttypid == type;
}

/* Versions made from a part of the changes would be wrong. */
static void
refuse_policies(Oid relid)
{
	etl_companion_refuse_policies(&companion, relid,
								  "A change log needs all of them.");
}

/* ------------------------------------------------------------------ */
/* what is new                                                          */

/* Reads the source, rejects what has no key or time, and logs the rest. */
static void
receive(ChangeLog *log)
{
	EtlMerge *merge = log->merge;

	log->received = tuplestore_begin_heap(false, false, work_mem);
	merge->letters = etl_dead_letters_open(merge->run);
	etl_input_scan(merge, receive_change, log);
	etl_dead_letters_close(merge->letters);
	merge->letters = NULL;
	write_received(log);
	tuplestore_end(log->received);

	/* the others will be read, and counted, again */
	log->n_rejected = merge->counts.rejected;
	merge->counts.read = log->n_rejected;
}

static void
receive_change(void *arg, EtlChange *change, TupleTableSlot *slot)
{
	ChangeLog *log = arg;
	int n = log->n_columns;

	for (int i = 0; i < n; i++)
	{
		log->values[i] = change->values[log->columns[i]];
		log->nulls[i] = change->nulls[log->columns[i]];
	}
	log->values[n] = change->time;
	log->values[n + 1] = BoolGetDatum(change->is_delete);
	tuplestore_putvalues(log->received, log->desc, log->values, log->nulls);
	log->n_received++;
}

/*
 *		WITH etl_added AS (INSERT INTO log (run_id, ...)
 *			SELECT $1, ... FROM etl_received RETURNING change_id)
 *		SELECT min(change_id), max(change_id), count(*) FROM etl_added
 *
 * A tuplestore is read in its order, so that the numbers are in the order of
 * arrival.
 */
static void
write_received(ChangeLog *log)
{
	Oid type = INT8OID;
	Datum run_id = Int64GetDatum(log->merge->run->run_id);
	StringInfoData sql;
	int rc;

	log->first_id = 1;
	log->last_id = 0;
	if (log->n_received == 0)
		return;
	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "WITH etl_added AS (INSERT INTO %s AS l (%s, %s, %s, %s",
					 log->name, log->run_id, log->received_at, log->change_time,
					 log->is_delete);
	append_names(&sql, log, "");
	appendStringInfoString(&sql,
						   ") SELECT $1, pg_catalog.transaction_timestamp(),"
						   " r.change_time, r.is_delete");
	for (int i = 0; i < log->n_columns; i++)
		appendStringInfo(&sql, ", r.c%d", i + 1);
	appendStringInfo(&sql,
					 " FROM " RECEIVED " AS r RETURNING l.%s AS id)"
					 " SELECT pg_catalog.min(id), pg_catalog.max(id),"
					 " pg_catalog.count(*) FROM etl_added",
					 log->change_id);

	SPI_connect();
	etl_companion_register(RECEIVED, log->desc, log->received);
	rc = SPI_execute_with_args(sql.data, 1, &type, &run_id, NULL, false, 0);
	if (rc != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "SPI_execute_with_args failed: %s",
			 SPI_result_code_string(rc));
	log->first_id = spi_int64(1);
	log->last_id = spi_int64(2);
	if (spi_int64(3) != log->n_received)
		refuse_lost(log);
	SPI_finish();
}

/* A column of the one row of the last result; 0 for null. */
static int64
spi_int64(int column)
{
	bool isnull;
	Datum value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

/* ------------------------------------------------------------------ */
/* the merge                                                            */

/* From now on the merge's input is the log. */
static void
read_from_log(ChangeLog *log)
{
	EtlMerge *merge = log->merge;
	EtlMergeInput *input = &merge->input;
	int n = log->n_columns;

	memset(input, 0, sizeof(EtlMergeInput));
	for (int i = 0; i < n; i++)
	{
		merge->columns[log->columns[i]].input = i + 1;
		merge->columns[log->columns[i]].typmod = -1; /* fits already */
	}
	input->time = n + 1;
	input->is_delete = n + 2;
	input->is_new = n + 3;
	input->number = n + 4;
	input->time_name = "change_time";
	input->rows = (double) log->n_received;

	input->query.nargs = 3;
	input->query.types = palloc(sizeof(Oid) * 3);
	input->query.values = palloc(sizeof(Datum) * 3);
	for (int i = 0; i < 3; i++)
		input->query.types[i] = INT8OID;
	input->query.values[0] = Int64GetDatum(merge->run->run_id);
	input->query.values[1] = Int64GetDatum(log->first_id);
	input->query.values[2] = Int64GetDatum(log->last_id);
	input->query.text = log_query(log);
	CommandCounterIncrement();
	input->desc = etl_query_desc(&input->query);

	merge->from_log = true;
	merge->settled = note_settled;
	merge->settled_arg = log;
	log->settled = tuplestore_begin_heap(false, false, work_mem);
}

/*
 *		SELECT columns, time, is_delete, is_new, change_id FROM log AS l
 *		WHERE EXISTS (a change of this run with the same key)
 */
static char *
log_query(ChangeLog *log)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < log->n_columns; i++)
		appendStringInfo(&sql, "l.%s, ",
						 quote_identifier(
							 log->merge->columns[log->columns[i]].name));
	appendStringInfo(&sql, "l.%s, l.%s, COALESCE(", log->change_time,
					 log->is_delete);
	append_is_new(&sql, log, "l");
	appendStringInfo(&sql, ", false), l.%s FROM %s AS l", log->change_id,
					 log->name);
	if (log->is_empty)
		return sql.data; /* then all of them are new */
	appendStringInfo(&sql, " WHERE EXISTS (SELECT FROM %s AS n WHERE ",
					 log->name);
	append_same_key(&sql, log, "n", "l");
	appendStringInfoString(&sql, " AND ");
	append_is_new(&sql, log, "n");
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

/*
 * The condition that a row is of this run.  The numbers narrow the search, by
 * an index; the run_id makes sure.
 */
static void
append_is_new(StringInfo sql, ChangeLog *log, const char *row)
{
	appendStringInfo(sql,
					 "%s.%s OPERATOR(pg_catalog.=) $1"
					 " AND %s.%s OPERATOR(pg_catalog.>=) $2"
					 " AND %s.%s OPERATOR(pg_catalog.<=) $3",
					 row, log->run_id, row, log->change_id, row, log->change_id);
}

/* Keeps in mind which of this run's changes do not belong into the log. */
static void
note_settled(EtlMerge *merge, const EtlChange *change)
{
	ChangeLog *log = merge->settled_arg;
	Datum number = Int64GetDatum(change->number);
	bool isnull = false;

	if (change->is_new &&
		(change->outcome == ETL_DUPLICATE || change->outcome == ETL_REJECTED))
		tuplestore_putvalues(log->settled, log->settled_desc, &number, &isnull);
}

static void
delete_settled(ChangeLog *log)
{
	int rc;

	if (tuplestore_tuple_count(log->settled) > 0)
	{
		SPI_connect();
		etl_companion_register(SETTLED, log->settled_desc, log->settled);
		rc = SPI_execute(psprintf("DELETE FROM %s AS l USING " SETTLED " AS s"
								  " WHERE l.%s OPERATOR(pg_catalog.=) s.change_id",
								  log->name, log->change_id),
						 false, 0);
		if (rc != SPI_OK_DELETE)
			elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(rc));
		SPI_finish();
	}
	tuplestore_end(log->settled);
}

static void
refuse_lost(ChangeLog *log)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
			 errmsg("relation \"%s\" has not taken in all changes of this run",
					get_rel_name(log->relid)),
			 errhint("Look for triggers of it that suppress or change rows.")));
}
