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
 * with the names and types of the target; see companion.c.  It may be purged
 * as any other table.  What a merge buries is written at its end.
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
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "flow/companion.h"
#include "flow/merge.h"

static const EtlCompanion companion = {"tombstones", "tombstones",
									   "keep_tombstones => false"};

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

static bool takes_column(const EtlMerge *merge, int column);
static Tombstones *describe_tombstones(EtlMerge *merge);
static void create_table(EtlMerge *merge, Tombstones *tombs);
static void check_table(EtlMerge *merge, const Tombstones *tombs, Oid relid);
static bool has_columns(Relation rel, EtlMerge *merge, const Tombstones *tombs);
static bool is_unique(Relation rel, EtlMerge *merge, const Tombstones *tombs);
static bool index_matches(Relation index, Relation rel, EtlMerge *merge,
						  const Tombstones *tombs);
static void bury(EtlMerge *merge, const EtlChange *change);
static char *build_statement(EtlMerge *merge, const Tombstones *tombs);

/*
 * Finds the table with the target's tombstones, or makes it, and lets the
 * merge bury keys in it.  The columns of the merge must have their roles, and
 * one of them is the sequence.  Returns the table's name ready for SQL, or
 * NULL if there is none and none was to be made.
 */
const char *
etl_tombstones_open(EtlMerge *merge, bool create)
{
	Oid relid = etl_companion_find(&companion, merge->target, AccessShareLock);
	Tombstones *tombs;

	if (!OidIsValid(relid) && !create)
		return NULL;
	tombs = describe_tombstones(merge);
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
		etl_append_collation(sql, column->ops.collation);
		appendStringInfo(sql, " %s etl_t.etl_key_%d",
						 etl_operator_name(type->eq_opr), i + 1);
		separator = " AND";
	}
}

/* Writes what was buried; a key keeps the newest of its tombstones. */
void
etl_tombstones_flush(EtlMerge *merge)
{
	Tombstones *tombs = merge->bury_arg;
	Oid type = INT8OID;
	Datum run_id = Int64GetDatum(merge->run->run_id);
	int rc;

	if (tombs == NULL || tombs->store == NULL)
		return;
	SPI_connect();
	etl_register_rows(BURIED, tombs->desc, tombs->store);
	rc = SPI_execute_with_args(build_statement(merge, tombs), 1, &type, &run_id,
							   NULL, false, 0);
	if (rc != SPI_OK_INSERT)
		elog(ERROR, "SPI_execute_with_args failed: %s",
			 SPI_result_code_string(rc));
	SPI_finish();
	tuplestore_end(tombs->store);
	tombs->store = NULL;
}

/* The columns that the table shares with the target. */
static bool
takes_column(const EtlMerge *merge, int column)
{
	return merge->columns[column].role == ETL_ROLE_KEY ||
		   column == merge->sequence;
}

/* Names and columns, in the current memory context. */
static Tombstones *
describe_tombstones(EtlMerge *merge)
{
	Tombstones *tombs = palloc0(sizeof(Tombstones));
	TupleDesc target = RelationGetDescr(merge->target);

	tombs->context = CurrentMemoryContext;
	tombs->name = etl_companion_name(&companion, merge->target);
	tombs->deleted_at = etl_companion_own_column(merge, "deleted_at",
												 takes_column);
	tombs->run_id = etl_companion_own_column(merge, "run_id", takes_column);
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

/* Makes the table, with the caller's rights. */
static void
create_table(EtlMerge *merge, Tombstones *tombs)
{
	StringInfoData sql;

	initStringInfo(&sql);
	etl_companion_begin_create(&companion, merge->target, &sql);
	for (int i = 0; i < merge->n_keys; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(merge->target),
											  merge->keys[i]);

		etl_companion_append_column(&sql, merge->target, merge->keys[i],
									att->atttypmod);
		appendStringInfoString(&sql, " NOT NULL, ");
	}
	/* a delete may have a finer time than the target's column holds */
	etl_companion_append_column(&sql, merge->target, merge->sequence, -1);
	appendStringInfo(&sql,
					 " NOT NULL, %s pg_catalog.timestamptz NOT NULL, "
					 "%s pg_catalog.int8 NOT NULL, PRIMARY KEY (",
					 tombs->deleted_at, tombs->run_id);
	for (int i = 0; i < merge->n_keys; i++)
		appendStringInfo(&sql, "%s%s", i == 0 ? "" : ", ",
						 quote_identifier(merge->columns[merge->keys[i]].name));
	appendStringInfoString(&sql, "))");

	etl_companion_command(sql.data);
	resetStringInfo(&sql);
	appendStringInfo(&sql, "COMMENT ON TABLE %s IS %s", tombs->name,
					 quote_literal_cstr(
						 psprintf("keys that were deleted from \"%s\" by etl_upsert(), so that stale rows cannot bring them back",
								  RelationGetRelationName(merge->target))));
	etl_companion_command(sql.data);
}

/* Is the relation with that name what we made there, or as good as that? */
static void
check_table(EtlMerge *merge, const Tombstones *tombs, Oid relid)
{
	Relation rel = relation_open(relid, NoLock);

	etl_companion_check_owner(&companion, rel, merge->target);
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
	etl_companion_refuse_policies(&companion, relid,
								  "Stale rows would bring back the keys whose tombstones you do not see.");
	if (IsolationUsesXactSnapshot())
	{
		CommandCounterIncrement();
		PushActiveSnapshot(GetTransactionSnapshot());
		etl_merge_refuse_stale_snapshot(rel);
		PopActiveSnapshot();
	}
	relation_close(rel, NoLock);
}

/* Has a table all columns that tombstones have? */
static bool
has_columns(Relation rel, EtlMerge *merge, const Tombstones *tombs)
{
	for (int i = 0; i < merge->n_keys; i++)
		if (!etl_companion_has_column(rel, merge->target, merge->keys[i]))
			return false;
	return etl_companion_has_column(rel, merge->target, merge->sequence) &&
		   get_attnum(RelationGetRelid(rel), tombs->deleted_at) > 0 &&
		   get_attnum(RelationGetRelid(rel), tombs->run_id) > 0;
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

	if (!form->indisprimary || form->indisexclusion || !form->indimmediate ||
		!form->indisvalid || form->indnkeyatts != merge->n_keys)
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
					 etl_operator_name(newer), sequence);
	return sql.data;
}
