/*-------------------------------------------------------------------------
 *
 * append_query.c
 *	  The statement that append_sql.c runs for each batch.
 *
 *		INSERT INTO target (columns) OVERRIDING SYSTEM VALUE
 *		SELECT columns FROM etl_batch
 *		[ON CONFLICT (keys) DO NOTHING | DO UPDATE SET column = EXCLUDED.column]
 *
 * The columns of the batch are named c1, c2 ... so that no name of the
 * target's can clash with the row number.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/append_sql.h"

#include "access/genam.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"

static void set_row_desc(EtlSqlSink *sink);
static char *build_query(EtlSqlSink *sink);
static void append_source(StringInfo buf, EtlSqlSink *sink, List *keys,
						  bool newest);
static void append_conflict(StringInfo buf, EtlSqlSink *sink, List *keys);
static bool has_other_columns(EtlSqlSink *sink, List *keys);
static EtlTelling choose_telling(Relation target);
static const char *column_name(EtlSqlSink *sink, int i);
static bool is_key(List *keys, const char *name);
static List *primary_key_columns(Relation target);
static bool index_matches(Relation index, Relation target, List *keys);
static bool find_key_index(Relation target, List *keys, bool *nulls_equal,
						   const char **temporal);

/* Plans the statement for the given columns; the plan is kept. */
void
etl_sql_prepare(EtlSqlSink *sink, const AttrNumber *attnums, int natts)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(sink->query_context);
	EphemeralNamedRelationData enr = {0};
	SPIPlanPtr plan;
	char *query;
	int rc;

	sink->natts = natts;
	sink->attnums = palloc(sizeof(AttrNumber) * (natts + 1));
	if (natts > 0)
		memcpy(sink->attnums, attnums, sizeof(AttrNumber) * natts);
	set_row_desc(sink);
	query = build_query(sink);

	enr.md.name = pstrdup(ETL_SQL_BATCH);
	enr.md.tupdesc = sink->row_desc;
	enr.md.enrtype = ENR_NAMED_TUPLESTORE;
	enr.md.enrtuples = sink->base.batch_limit;

	SPI_connect();
	rc = SPI_register_relation(&enr);
	if (rc != SPI_OK_REL_REGISTER)
		elog(ERROR, "SPI_register_relation failed: %s",
			 SPI_result_code_string(rc));
	plan = SPI_prepare(query, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s",
			 SPI_result_code_string(SPI_result));
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "SPI_keepplan failed");
	sink->plan = plan;
	SPI_finish();
	MemoryContextSwitchTo(oldcontext);
}

/*
 * The columns that rows are compared by: the given ones, or those of the
 * primary key.  Throws unless a unique index on exactly these makes ON
 * CONFLICT work; of a view, only the planner can tell.
 */
List *
etl_conflict_keys(Relation target, const EtlSinkOptions *options)
{
	List *keys = options->keys;
	const char *temporal;
	bool nulls_equal;
	ListCell *lc;

	if (target->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot resolve conflicts in foreign table \"%s\"",
						RelationGetRelationName(target)),
				 errhint("Load into a local table and merge from there.")));
	if (keys == NIL)
		keys = primary_key_columns(target);
	foreach(lc, keys)
	{
		if (get_attnum(RelationGetRelid(target), strVal(lfirst(lc))) <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of relation \"%s\" does not exist",
							strVal(lfirst(lc)),
							RelationGetRelationName(target))));
	}
	if (target->rd_rel->relkind != RELKIND_VIEW &&
		!find_key_index(target, keys, &nulls_equal, &temporal))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("there is no unique constraint on the key columns of \"%s\"",
						RelationGetRelationName(target)),
				 temporal != NULL ?
					 errdetail("Index \"%s\" has WITHOUT OVERLAPS: there is no ON CONFLICT for it.",
							   temporal) :
					 0,
				 errhint(
					 "Create a unique index on exactly these columns, not deferrable and not partial, or name the columns of one in \"keys\".")));
	return keys;
}

/* The batch's columns have the target's types. */
static void
set_row_desc(EtlSqlSink *sink)
{
	TupleDesc desc = RelationGetDescr(sink->base.target);

	sink->row_desc = CreateTemplateTupleDesc(sink->natts + 1);
	for (int i = 0; i < sink->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, sink->attnums[i] - 1);

		TupleDescInitEntry(sink->row_desc, i + 1, psprintf("c%d", i + 1),
						   att->atttypid, att->atttypmod, att->attndims);
		TupleDescInitEntryCollation(sink->row_desc, i + 1, att->attcollation);
	}
	TupleDescInitEntry(sink->row_desc, sink->natts + 1, ETL_SQL_ORDER, INT4OID,
					   -1, 0);
}

/* The statement's text. */
static char *
build_query(EtlSqlSink *sink)
{
	Relation target = sink->base.target;
	EtlConflictAction action = sink->base.options.on_conflict;
	List *keys = NIL;
	bool newest;
	StringInfoData buf;

	if (action != ETL_CONFLICT_ERROR)
		keys = etl_conflict_keys(target, &sink->base.options);
	newest = action == ETL_CONFLICT_UPDATE && has_other_columns(sink, keys);

	initStringInfo(&buf);
	appendStringInfo(&buf, "INSERT INTO %s", etl_relation_name(target));
	for (int i = 0; i < sink->natts; i++)
		appendStringInfo(&buf, "%s%s", i == 0 ? " (" : ", ",
						 quote_identifier(column_name(sink, i)));
	if (sink->natts > 0)
		appendStringInfoChar(&buf, ')');
	appendStringInfoString(&buf, " OVERRIDING SYSTEM VALUE ");
	append_source(&buf, sink, keys, newest);

	if (action != ETL_CONFLICT_ERROR)
		append_conflict(&buf, sink, keys);
	sink->telling = newest ? choose_telling(target) : ETL_TELLS_NOTHING;
	if (sink->telling == ETL_TELLS_INSERTED)
		appendStringInfoString(&buf,
							   " RETURNING xmax OPERATOR(pg_catalog.=) '0'::pg_catalog.xid");
	else if (sink->telling == ETL_TELLS_PLACE)
		appendStringInfoString(&buf, " RETURNING tableoid, ctid");
	return buf.data;
}

/*
 * The rows.  A statement may update a row only once, so with newest the last
 * row of each key is taken.  Rows with a NULL in the key conflict with
 * nothing, unless the index says otherwise.
 */
static void
append_source(StringInfo buf, EtlSqlSink *sink, List *keys, bool newest)
{
	bool nulls_equal = false;
	const char *temporal;

	appendStringInfoString(buf, "SELECT ");
	for (int i = 0; i < sink->natts; i++)
		appendStringInfo(buf, "%sc%d", i == 0 ? "" : ", ", i + 1);
	if (!newest)
	{
		appendStringInfoString(buf, " FROM " ETL_SQL_BATCH);
		return;
	}

	(void) find_key_index(sink->base.target, keys, &nulls_equal, &temporal);
	appendStringInfoString(buf,
						   " FROM (SELECT *, pg_catalog.row_number() OVER (PARTITION BY ");
	for (int i = 0, n = 0; i < sink->natts; i++)
		if (is_key(keys, column_name(sink, i)))
			appendStringInfo(buf, "%sc%d", n++ == 0 ? "" : ", ", i + 1);
	appendStringInfoString(buf, " ORDER BY " ETL_SQL_ORDER
								" DESC) AS newest FROM " ETL_SQL_BATCH
								") AS b WHERE newest OPERATOR(pg_catalog.=) 1");
	for (int i = 0; i < sink->natts && !nulls_equal; i++)
		if (is_key(keys, column_name(sink, i)))
			appendStringInfo(buf, " OR c%d IS NULL", i + 1);
	appendStringInfoString(buf, " ORDER BY " ETL_SQL_ORDER);
}

/* What to do about a key that is there, or comes while the load runs. */
static void
append_conflict(StringInfo buf, EtlSqlSink *sink, List *keys)
{
	EtlConflictAction action = sink->base.options.on_conflict;
	bool first = true;
	ListCell *lc;

	foreach(lc, keys)
	{
		const char *key = strVal(lfirst(lc));
		bool supplied = false;

		for (int i = 0; i < sink->natts; i++)
			if (strcmp(column_name(sink, i), key) == 0)
				supplied = true;
		if (!supplied)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
					 errmsg("key column \"%s\" is not among the columns to load",
							key),
					 errhint(
						 "Load the column, or name other columns in \"keys\".")));
		appendStringInfo(buf, "%s%s", first ? " ON CONFLICT (" : ", ",
						 quote_identifier(key));
		first = false;
	}
	appendStringInfoString(buf, ") DO ");
	if (action == ETL_CONFLICT_SKIP || !has_other_columns(sink, keys))
	{
		appendStringInfoString(buf, "NOTHING");
		return;
	}
	appendStringInfoString(buf, "UPDATE SET ");
	first = true;
	for (int i = 0; i < sink->natts; i++)
	{
		const char *name = column_name(sink, i);

		if (is_key(keys, name))
			continue;
		appendStringInfo(buf, "%s%s = EXCLUDED.%s", first ? "" : ", ",
						 quote_identifier(name), quote_identifier(name));
		first = false;
	}
}

/* Is there anything to update? */
static bool
has_other_columns(EtlSqlSink *sink, List *keys)
{
	for (int i = 0; i < sink->natts; i++)
		if (!is_key(keys, column_name(sink, i)))
			return true;
	return false;
}

/*
 * A row that ON CONFLICT has updated was locked first and its new version
 * says so in xmax; that of a new row is zero.  Only a heap shows it, and only
 * to those who may read the whole row.  A statement cannot return xmax from
 * a partition, but where the row is.
 */
static EtlTelling
choose_telling(Relation target)
{
	if (pg_class_aclcheck(RelationGetRelid(target), GetUserId(), ACL_SELECT) !=
			ACLCHECK_OK ||
		check_enable_rls(RelationGetRelid(target), InvalidOid, true) ==
			RLS_ENABLED)
		return ETL_TELLS_NOTHING;
	if (target->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		return ETL_TELLS_PLACE;
	if (target->rd_rel->relkind == RELKIND_RELATION &&
		target->rd_rel->relam == HEAP_TABLE_AM_OID)
		return ETL_TELLS_INSERTED;
	return ETL_TELLS_NOTHING;
}

/* The name of a supplied column. */
static const char *
column_name(EtlSqlSink *sink, int i)
{
	TupleDesc desc = RelationGetDescr(sink->base.target);

	return NameStr(TupleDescAttr(desc, sink->attnums[i] - 1)->attname);
}

static bool
is_key(List *keys, const char *name)
{
	ListCell *lc;

	foreach(lc, keys)
		if (strcmp(strVal(lfirst(lc)), name) == 0)
			return true;
	return false;
}

/* The columns of the primary key; throws where there is none. */
static List *
primary_key_columns(Relation target)
{
	List *indexes = RelationGetIndexList(target);
	List *keys = NIL;
	ListCell *lc;

	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_index form = index->rd_index;

		for (int i = 0; form->indisprimary && i < form->indnkeyatts; i++)
		{
			AttrNumber attnum = form->indkey.values[i];
			Form_pg_attribute att = TupleDescAttr(RelationGetDescr(target),
												  attnum - 1);

			keys = lappend(keys, makeString(pstrdup(NameStr(att->attname))));
		}
		index_close(index, NoLock);
	}
	list_free(indexes);
	if (keys == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("relation \"%s\" has no primary key",
						RelationGetRelationName(target)),
				 errhint("Name the columns of a unique index in \"keys\".")));
	return keys;
}

/* Is this index unique, on exactly the keys, and always checked at once? */
static bool
index_matches(Relation index, Relation target, List *keys)
{
	Form_pg_index form = index->rd_index;

	if (!form->indisunique || !form->indimmediate || !form->indisvalid ||
		form->indnkeyatts != list_length(keys) ||
		RelationGetIndexPredicate(index) != NIL ||
		RelationGetIndexExpressions(index) != NIL)
		return false;
	for (int i = 0; i < form->indnkeyatts; i++)
	{
		AttrNumber attnum = form->indkey.values[i];
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(target),
											  attnum - 1);

		if (!is_key(keys, NameStr(att->attname)))
			return false;
	}
	return true;
}

/*
 * Looks for an index that ON CONFLICT (keys) can use.  One with WITHOUT OVERLAPS
 * is none: its name is noted.
 */
static bool
find_key_index(Relation target, List *keys, bool *nulls_equal,
			   const char **temporal)
{
	List *indexes = RelationGetIndexList(target);
	bool found = false;
	ListCell *lc;

	*nulls_equal = false;
	*temporal = NULL;
	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		if (index_matches(index, target, keys) && index->rd_index->indisexclusion)
			*temporal = pstrdup(RelationGetRelationName(index));
		else if (index_matches(index, target, keys))
		{
			found = true;
			if (index->rd_index->indnullsnotdistinct)
				*nulls_equal = true;
		}
		index_close(index, NoLock);
	}
	list_free(indexes);
	return found;
}
