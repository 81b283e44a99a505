/*-------------------------------------------------------------------------
 *
 * tombstone.c
 *	  The keys that upserts deleted, each with the sequence of its delete.
 *
 * A row that arrives late must not bring a deleted key back, and the target
 * has nothing left to compare it with.  So "<target>_tombstones", a plain
 * table of the user's beside the target, keeps what is needed:
 *
 *		key columns, sequence column, deleted_at, run_id
 *
 * with the names and types of the target.  It is made with the caller's
 * rights when it is needed first, and may be read, purged and dropped as any
 * other table.  Whoever owns a table can let code of his run in it, so one
 * that belongs to a stranger is not touched.
 *
 * Tombstones of a merge are collected in a tuplestore, which holds work_mem,
 * and written by one statement at its end.
 *
 * Locks: the caller's on the target keeps two merges from making or writing
 * the table at once.  AccessShareLock on the table until the transaction ends,
 * so that it stays the one that was checked; writing takes RowExclusiveLock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "flow/merge.h"

/* The collected tombstones as the statement sees them. */
#define BURIED "etl_buried"

typedef struct Tombstones
{
	const char *name;		/* of the table, ready for SQL */
	const char *deleted_at; /* its own columns, likewise */
	const char *run_id;
	MemoryContext context;
	TupleDesc desc;			/* the keys, then the sequence */
	Tuplestorestate *store; /* NULL: nothing is buried yet */
} Tombstones;

static Tombstones *describe_tombstones(EtlMerge *merge, const char *name);
static char *table_name(Relation target);
static const char *own_column(EtlMerge *merge, const char *name);
static void check_may_create(Relation target);
static void create_table(EtlMerge *merge, Tombstones *tombs);
static void append_column(StringInfo sql, EtlMerge *merge, int column,
						  int32 typmod);
static void append_collation(StringInfo sql, Oid collation);
static void check_table(EtlMerge *merge, const Tombstones *tombs, Oid relid);
static bool is_trusted(Relation rel, Relation target);
static bool has_columns(Relation rel, EtlMerge *merge, const Tombstones *tombs);
static bool has_column(Relation rel, Relation target, int column);
static bool is_unique(Relation rel, EtlMerge *merge, const Tombstones *tombs);
static bool index_matches(Relation index, Relation rel, EtlMerge *merge,
						  const Tombstones *tombs);
static void bury(EtlMerge *merge, const EtlChange *change);
static char *build_statement(EtlMerge *merge, const Tombstones *tombs);
static char *operator_name(Oid operator);

/*
 * Finds the table with the target's tombstones, or makes it, and lets the
 * merge bury keys in it.  The columns of the merge must have their roles, and
 * one of them is the sequence.  Returns the table's name ready for SQL, or
 * NULL if there is none and none was to be made.
 */
const char *
etl_tombstones_open(EtlMerge *merge, bool create)
{
	char *name = table_name(merge->target);
	Oid schema = RelationGetNamespace(merge->target);
	Oid relid = get_relname_relid(name, schema);
	Tombstones *tombs;

	if (!OidIsValid(relid) && !create)
		return NULL;
	tombs = describe_tombstones(merge, name);
	if (!OidIsValid(relid))
		create_table(merge, tombs);
	else
		check_table(merge, tombs, relid);
	merge->bury = bury;
	merge->bury_arg = tombs;
	return tombs->name;
}

/*
 * Joins the tombstones to a query of the source, which is called etl_s there,
 * so that etl_t.etl_tombstone is the sequence at which a row's key was
 * deleted.  No other name of theirs must be seen by the user's expressions.
 * Keys are compared as the target's columns hold them.
 */
void
etl_tombstones_append_join(StringInfo sql, EtlMerge *merge,
						   const char *tombstones)
{
	const char *separator = ") AS etl_t ON";

	appendStringInfoString(sql, " LEFT JOIN (SELECT ");
	for (int i = 0; i < merge->n_keys; i++)
		appendStringInfo(sql, "%s AS etl_key_%d, ",
						 quote_identifier(merge->columns[merge->keys[i]].name),
						 i + 1);
	appendStringInfo(sql, "%s AS etl_tombstone FROM %s",
					 quote_identifier(merge->columns[merge->sequence].name),
					 tombstones);
	for (int i = 0; i < merge->n_keys; i++)
	{
		EtlMergeColumn *column = &merge->columns[merge->keys[i]];
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(merge->target),
											  merge->keys[i]);
		TypeCacheEntry *type = lookup_type_cache(column->ops.type,
												 TYPECACHE_EQ_OPR);

		appendStringInfo(sql, "%s etl_s.%s::%s", separator,
						 quote_identifier(column->name),
						 format_type_extended(column->ops.type, att->atttypmod,
											  FORMAT_TYPE_TYPEMOD_GIVEN |
												  FORMAT_TYPE_FORCE_QUALIFY));
		append_collation(sql, column->ops.collation);
		appendStringInfo(sql, " %s etl_t.etl_key_%d",
						 operator_name(type->eq_opr), i + 1);
		separator = " AND";
	}
}

/* Writes what was buried; a key keeps the newest of its tombstones. */
void
etl_tombstones_flush(EtlMerge *merge)
{
	Tombstones *tombs = merge->bury_arg;
	EphemeralNamedRelationData enr = {0};
	Oid type = INT8OID;
	Datum run_id = Int64GetDatum(merge->run->run_id);
	int rc;

	if (tombs == NULL || tombs->store == NULL)
		return;
	enr.md.name = pstrdup(BURIED);
	enr.md.tupdesc = tombs->desc;
	enr.md.enrtype = ENR_NAMED_TUPLESTORE;
	enr.md.enrtuples = (double) tuplestore_tuple_count(tombs->store);
	enr.reldata = tombs->store;

	SPI_connect();
	rc = SPI_register_relation(&enr);
	if (rc != SPI_OK_REL_REGISTER)
		elog(ERROR, "SPI_register_relation failed: %s",
			 SPI_result_code_string(rc));
	rc = SPI_execute_with_args(build_statement(merge, tombs), 1, &type, &run_id,
							   NULL, false, 0);
	if (rc != SPI_OK_INSERT)
		elog(ERROR, "SPI_execute_with_args failed: %s",
			 SPI_result_code_string(rc));
	SPI_finish();
	tuplestore_end(tombs->store);
	tombs->store = NULL;
}

/* Names and columns, in the current memory context. */
static Tombstones *
describe_tombstones(EtlMerge *merge, const char *name)
{
	Tombstones *tombs = palloc0(sizeof(Tombstones));
	TupleDesc target = RelationGetDescr(merge->target);
	char *schema = get_namespace_name(RelationGetNamespace(merge->target));

	tombs->context = CurrentMemoryContext;
	tombs->name = quote_qualified_identifier(schema, name);
	tombs->deleted_at = own_column(merge, "deleted_at");
	tombs->run_id = own_column(merge, "run_id");
	tombs->desc = CreateTemplateTupleDesc(merge->n_keys + 1);
	for (int i = 0; i <= merge->n_keys; i++)
	{
		int column = i < merge->n_keys ? merge->keys[i] : merge->sequence;
		Form_pg_attribute att = TupleDescAttr(target, column);

		TupleDescInitEntry(tombs->desc, i + 1, psprintf("c%d", i + 1),
						   att->atttypid, -1, att->attndims);
		TupleDescInitEntryCollation(tombs->desc, i + 1, att->attcollation);
	}
	return tombs;
}

/*
 * The table is named after the target.  Where that would be too long for a
 * name, targets whose names begin alike must not share it.
 */
static char *
table_name(Relation target)
{
	const char *name = RelationGetRelationName(target);
	char *full = psprintf("%s_tombstones", name);

	if (strlen(full) < NAMEDATALEN)
		return full;
	return makeObjectName(name,
						  psprintf("%08x",
								   hash_bytes((const unsigned char *) name,
											  (int) strlen(name))),
						  "tombstones");
}

/* The name of a column of ours, which none of the target's may have. */
static const char *
own_column(EtlMerge *merge, const char *name)
{
	for (int i = 0; i < merge->natts; i++)
		if ((merge->columns[i].role == ETL_ROLE_KEY || i == merge->sequence) &&
			strcmp(merge->columns[i].name, name) == 0)
			return own_column(merge, psprintf("%s_", name));
	return quote_identifier(name);
}

/* CREATE TABLE would say the same, but not what to do about it. */
static void
check_may_create(Relation target)
{
	Oid schema = RelationGetNamespace(target);

	if (!DatumGetBool(DirectFunctionCall2(has_schema_privilege_id,
										  ObjectIdGetDatum(schema),
										  CStringGetTextDatum("CREATE"))))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to create the tombstones of \"%s\"",
						RelationGetRelationName(target)),
				 errhint("Grant CREATE on schema %s for the first call, or use keep_tombstones => false.",
						 quote_identifier(get_namespace_name(schema)))));
}

/* Makes the table, with the caller's rights. */
static void
create_table(EtlMerge *merge, Tombstones *tombs)
{
	char persistence = merge->target->rd_rel->relpersistence;
	StringInfoData sql;
	int rc;

	check_may_create(merge->target);
	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE %sTABLE %s (",
					 persistence == RELPERSISTENCE_UNLOGGED ? "UNLOGGED " : "",
					 tombs->name);
	for (int i = 0; i < merge->n_keys; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(merge->target),
											  merge->keys[i]);

		append_column(&sql, merge, merge->keys[i], att->atttypmod);
	}
	/* a delete may have a finer time than the target's column holds */
	append_column(&sql, merge, merge->sequence, -1);
	appendStringInfo(&sql,
					 "%s pg_catalog.timestamptz NOT NULL, "
					 "%s pg_catalog.int8 NOT NULL, PRIMARY KEY (",
					 tombs->deleted_at, tombs->run_id);
	for (int i = 0; i < merge->n_keys; i++)
		appendStringInfo(&sql, "%s%s", i == 0 ? "" : ", ",
						 quote_identifier(merge->columns[merge->keys[i]].name));
	appendStringInfoString(&sql, "))");

	SPI_connect();
	rc = SPI_execute(sql.data, false, 0);
	if (rc != SPI_OK_UTILITY)
		elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(rc));
	resetStringInfo(&sql);
	appendStringInfo(&sql, "COMMENT ON TABLE %s IS %s", tombs->name,
					 quote_literal_cstr(
						 psprintf("keys that were deleted from \"%s\" by etl_upsert(), so that stale rows cannot bring them back",
								  RelationGetRelationName(merge->target))));
	rc = SPI_execute(sql.data, false, 0);
	if (rc != SPI_OK_UTILITY)
		elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(rc));
	SPI_finish();
}

/* One column of the target's, as CREATE TABLE has it. */
static void
append_column(StringInfo sql, EtlMerge *merge, int column, int32 typmod)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(merge->target),
										  column);

	appendStringInfo(sql, "%s %s", quote_identifier(NameStr(att->attname)),
					 format_type_extended(att->atttypid, typmod,
										  FORMAT_TYPE_TYPEMOD_GIVEN |
											  FORMAT_TYPE_FORCE_QUALIFY));
	append_collation(sql, att->attcollation);
	appendStringInfoString(sql, " NOT NULL, ");
}

/* COLLATE and a name, for types that have one. */
static void
append_collation(StringInfo sql, Oid collation)
{
	HeapTuple tuple;
	Form_pg_collation form;

	if (!OidIsValid(collation))
		return;
	tuple = SearchSysCache1(COLLOID, ObjectIdGetDatum(collation));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for collation %u", collation);
	form = (Form_pg_collation) GETSTRUCT(tuple);
	appendStringInfo(sql, " COLLATE %s",
					 quote_qualified_identifier(get_namespace_name(
													form->collnamespace),
												NameStr(form->collname)));
	ReleaseSysCache(tuple);
}

/* Is the relation with that name what we made there, or as good as that? */
static void
check_table(EtlMerge *merge, const Tombstones *tombs, Oid relid)
{
	Relation rel = relation_open(relid, AccessShareLock);

	if (!is_trusted(rel, merge->target))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("relation \"%s\" belongs to another role",
						RelationGetRelationName(rel)),
				 errdetail("The tombstones of \"%s\" must belong to its owner or to you, since their owner can let code run in them.",
						   RelationGetRelationName(merge->target)),
				 errhint("Run ALTER TABLE %s OWNER TO %s, or use keep_tombstones => false.",
						 tombs->name,
						 quote_identifier(
							 GetUserNameFromId(merge->target->rd_rel->relowner,
											   false)))));
	if ((rel->rd_rel->relkind != RELKIND_RELATION &&
		 rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE) ||
		!has_columns(rel, merge, tombs) || !is_unique(rel, merge, tombs))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation \"%s\" cannot hold the tombstones of \"%s\"",
						RelationGetRelationName(rel),
						RelationGetRelationName(merge->target)),
				 errdetail("It must be a table with the target's key columns as its primary key, with the sequence column, and with columns %s and %s.",
						   tombs->deleted_at, tombs->run_id),
				 errhint(
					 "Rename it, drop it if it was made for other keys, or use keep_tombstones => false.")));
	relation_close(rel, NoLock);
}

/*
 * Triggers and policies of a table run with the rights of who writes it.  The
 * caller has trusted the target's owner so far already.
 */
static bool
is_trusted(Relation rel, Relation target)
{
	Oid owner = rel->rd_rel->relowner;

	return has_privs_of_role(owner, target->rd_rel->relowner) ||
		   has_privs_of_role(owner, GetUserId());
}

/* Has a table all columns that tombstones have? */
static bool
has_columns(Relation rel, EtlMerge *merge, const Tombstones *tombs)
{
	for (int i = 0; i < merge->n_keys; i++)
		if (!has_column(rel, merge->target, merge->keys[i]))
			return false;
	return has_column(rel, merge->target, merge->sequence) &&
		   get_attnum(RelationGetRelid(rel), tombs->deleted_at) > 0 &&
		   get_attnum(RelationGetRelid(rel), tombs->run_id) > 0;
}

/* Has a table a column of the same name and type as this one? */
static bool
has_column(Relation rel, Relation target, int column)
{
	Form_pg_attribute wanted = TupleDescAttr(RelationGetDescr(target), column);
	AttrNumber attnum = get_attnum(RelationGetRelid(rel),
								   NameStr(wanted->attname));
	Form_pg_attribute att;

	if (attnum <= 0)
		return false;
	att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
	return att->atttypid == wanted->atttypid &&
		   att->attcollation == wanted->attcollation;
}

/* Is there a unique index for ON CONFLICT to find? */
static bool
is_unique(Relation rel, EtlMerge *merge, const Tombstones *tombs)
{
	List *indexes = RelationGetIndexList(rel);
	bool found = false;
	ListCell *lc;

	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		found |= index_matches(index, rel, merge, tombs);
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return found;
}

/* Is this a primary key of exactly the target's keys? */
static bool
index_matches(Relation index, Relation rel, EtlMerge *merge,
			  const Tombstones *tombs)
{
	Form_pg_index form = index->rd_index;

	if (!form->indisprimary || !form->indimmediate || !form->indisvalid ||
		form->indnkeyatts != merge->n_keys)
		return false;
	for (int i = 0; i < form->indnkeyatts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel),
											  form->indkey.values[i] - 1);
		int column = etl_merge_column(merge, NameStr(att->attname));

		if (column < 0 || merge->columns[column].role != ETL_ROLE_KEY)
			return false;
	}
	return true;
}

/* Told by the decision: keeps the key and sequence of a delete. */
static void
bury(EtlMerge *merge, const EtlChange *change)
{
	Tombstones *tombs = merge->bury_arg;
	Datum *values = palloc(sizeof(Datum) * (merge->n_keys + 1));
	bool *nulls = palloc0(sizeof(bool) * (merge->n_keys + 1));

	if (tombs->store == NULL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(tombs->context);

		tombs->store = tuplestore_begin_heap(false, false, work_mem);
		MemoryContextSwitchTo(oldcontext);
	}
	for (int i = 0; i < merge->n_keys; i++)
	{
		values[i] = change->values[merge->keys[i]];
		nulls[i] = change->nulls[merge->keys[i]];
	}
	values[merge->n_keys] = change->time;
	tuplestore_putvalues(tombs->store, tombs->desc, values, nulls);
	pfree(values);
	pfree(nulls);
}

/*
 *		INSERT INTO tombstones AS t (keys, sequence, deleted_at, run_id)
 *		SELECT c1, c2 ..., transaction_timestamp(), $1 FROM etl_buried
 *		ON CONFLICT (keys) DO UPDATE SET ... WHERE the new one is newer
 */
static char *
build_statement(EtlMerge *merge, const Tombstones *tombs)
{
	const char *sequence = quote_identifier(merge->columns[merge->sequence].name);
	Oid newer = lookup_type_cache(merge->columns[merge->sequence].ops.type,
								  TYPECACHE_GT_OPR)
					->gt_opr;
	StringInfoData keys;
	StringInfoData sql;

	initStringInfo(&keys);
	for (int i = 0; i < merge->n_keys; i++)
		appendStringInfo(&keys, "%s%s", i == 0 ? "" : ", ",
						 quote_identifier(merge->columns[merge->keys[i]].name));

	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO %s AS t (%s, %s, %s, %s) SELECT ",
					 tombs->name, keys.data, sequence, tombs->deleted_at,
					 tombs->run_id);
	for (int i = 0; i <= merge->n_keys; i++)
		appendStringInfo(&sql, "c%d, ", i + 1);
	appendStringInfo(&sql,
					 "pg_catalog.transaction_timestamp(), $1 FROM " BURIED
					 " ON CONFLICT (%s) DO UPDATE SET %s = EXCLUDED.%s,"
					 " %s = EXCLUDED.%s, %s = EXCLUDED.%s"
					 " WHERE EXCLUDED.%s %s t.%s",
					 keys.data, sequence, sequence, tombs->deleted_at,
					 tombs->deleted_at, tombs->run_id, tombs->run_id, sequence,
					 operator_name(newer), sequence);
	return sql.data;
}

/* An operator's name, ready for SQL. */
static char *
operator_name(Oid operator)
{
	HeapTuple tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Form_pg_operator form;
	char *result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	result = psprintf("OPERATOR(%s.%s)",
					  quote_identifier(get_namespace_name(form->oprnamespace)),
					  NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return result;
}
