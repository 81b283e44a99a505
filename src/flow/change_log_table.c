/*-------------------------------------------------------------------------
 *
 * change_log_table.c
 *	  The table with the changes of a target: see change_log.c.
 *
 * A log that is made for a target with versions starts with what these say:
 * a change where each one starts, and a delete where one ends and no other
 * starts.  These belong to no run (run_id is null).
 *
 * Locks: RowExclusiveLock on the log until the transaction ends.
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
#include "utils/typcache.h"

#include "flow/change_log.h"

const EtlCompanion etl_change_log_companion = {"changes", "logged changes",
											   "change_log => false"};

static EtlMergeColumn *time_column(EtlChangeLog *log);
static void create_log(EtlChangeLog *log);
static void create_index(EtlChangeLog *log);
static const char *equal_operator(const EtlMergeColumn *column);
static void seed_log(EtlChangeLog *log);
static char *seed_statement(EtlChangeLog *log);
static char *is_open_condition(EtlChangeLog *log);
static void check_log(EtlChangeLog *log);
static const char *find_flaw(EtlChangeLog *log, Relation rel);
static bool has_own_column(Relation rel, const char *name, Oid type);
static void refuse_policies(Oid relid);

/* Finds the log or makes it. */
void
etl_change_log_open(EtlChangeLog *log)
{
	Relation target = log->merge->target;

	log->relid = etl_companion_find(&etl_change_log_companion, target,
									RowExclusiveLock);
	if (OidIsValid(log->relid))
	{
		check_log(log);
		return;
	}
	create_log(log);
	log->relid = etl_companion_find(&etl_change_log_companion, target,
									RowExclusiveLock);
	seed_log(log);
}

/* Makes the table, with the caller's rights. */
static void
create_log(EtlChangeLog *log)
{
	Relation target = log->merge->target;
	Form_pg_attribute time = TupleDescAttr(RelationGetDescr(target),
										   log->merge->valid_from);
	StringInfoData sql;

	initStringInfo(&sql);
	etl_companion_begin_create(&etl_change_log_companion, target, &sql);
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
create_index(EtlChangeLog *log)
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
void
etl_change_log_append_names(StringInfo sql, EtlChangeLog *log,
							const char *qualifier)
{
	for (int i = 0; i < log->n_columns; i++)
		appendStringInfo(sql, ", %s%s", qualifier,
						 quote_identifier(
							 log->merge->columns[log->columns[i]].name));
}

/* The condition that rows of two names have the same key. */
void
etl_change_log_append_same_key(StringInfo sql, EtlChangeLog *log, const char *a,
							   const char *b)
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
seed_log(EtlChangeLog *log)
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
seed_statement(EtlChangeLog *log)
{
	EtlMerge *merge = log->merge;
	const char *target = etl_relation_name(merge->target);
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
	etl_change_log_append_names(&sql, log, "");
	appendStringInfo(&sql,
					 ") SELECT pg_catalog.transaction_timestamp(), v.%s, false",
					 from);
	etl_change_log_append_names(&sql, log, "v.");
	appendStringInfo(&sql, " FROM %s AS v WHERE %s", target, is_version.data);

	appendStringInfo(&sql,
					 " UNION ALL SELECT pg_catalog.transaction_timestamp(), %s, true",
					 end);
	etl_change_log_append_names(&sql, log, "v.");
	appendStringInfo(&sql,
					 " FROM %s AS v WHERE %s AND NOT (%s)"
					 " AND NOT EXISTS (SELECT FROM %s AS n WHERE ",
					 target, is_version.data, is_open_condition(log), target);
	etl_change_log_append_same_key(&sql, log, "n", "v");
	appendStringInfo(&sql, " AND n.%s %s %s)", from,
					 equal_operator(time_column(log)), end);
	return sql.data;
}

/* See etl_stored_is_open(). */
static char *
is_open_condition(EtlChangeLog *log)
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
check_log(EtlChangeLog *log)
{
	Relation rel = relation_open(log->relid, NoLock);
	const char *flaw;

	etl_companion_check_owner(&etl_change_log_companion, rel,
							  log->merge->target);
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
find_flaw(EtlChangeLog *log, Relation rel)
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
	etl_companion_refuse_policies(&etl_change_log_companion, relid,
								  "A change log needs all of them.");
}

static EtlMergeColumn *
time_column(EtlChangeLog *log)
{
	return &log->merge->columns[log->merge->valid_from];
}
