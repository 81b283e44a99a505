/*-------------------------------------------------------------------------
 *
 * merge_write_sql.c
 *	  The general way to change rows: a few statements for a whole merge.
 *
 * The edits of each step are shown to one statement as an ephemeral relation:
 *
 *		DELETE FROM target AS t USING etl_edits AS e WHERE ...
 *		UPDATE target AS t SET column = e.column, ... FROM etl_edits AS e WHERE ...
 *
 * so that rewriting, policies, triggers, partition routing and foreign-data
 * wrappers do what they do for any statement, with the rights of the caller.
 *
 * A row of a table is found by its place.  Each stored row is edited once at
 * the most, so that a statement never looks for a row that an earlier one has
 * moved.  Rows of views and of foreign tables are found by their key and the
 * start of their validity.
 *
 * A trigger that returns NULL and a rule may keep a row as it was, on purpose:
 * nothing is made of that, and the merge counts what was decided.  A row that
 * is not changed for another reason is an error: a policy hides it, or someone
 * was faster where there is no lock, as behind a foreign table.
 *
 * Locks: the caller holds ShareRowExclusiveLock on the target; the statements
 * lock whatever else they touch.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/merge_write.h"

#include "access/table.h"
#include "catalog/pg_inherits.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "rewrite/prs2lock.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/typcache.h"

#define EDITS "etl_edits"

static void run_step(EtlMergeWriter *writer, EtlEditStep step,
					 Tuplestorestate *store);
static char *build_statement(EtlMergeWriter *writer, EtlEditStep step);
static bool append_assignments(StringInfo buf, EtlMergeWriter *writer,
							   bool times);
static void append_condition(StringInfo buf, EtlMergeWriter *writer);
static void append_equal(StringInfo buf, EtlMergeWriter *writer, int column,
						 const char *edit);
static void check_changed(EtlMergeWriter *writer, EtlEditStep step,
						  uint64 changed);
static bool may_suppress(EtlMergeWriter *writer, bool deletes);
static bool triggers_suppress(const TriggerDesc *triggers, bool deletes);

/*
 * Are the target's rows, or those of one of its children, without a place that
 * can be relied on?  Only some foreign-data wrappers have one.
 */
bool
etl_merge_sql_by_key(Relation target)
{
	List *children;
	ListCell *lc;
	bool result = false;

	if (target->rd_rel->relkind == RELKIND_VIEW)
		return true;
	children = find_all_inheritors(RelationGetRelid(target), NoLock, NULL);
	foreach(lc, children)
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_FOREIGN_TABLE)
			result = true;
	list_free(children);
	return result;
}

/* Applies the queue, which is sorted by step. */
void
etl_merge_sql_apply(EtlMergeWriter *writer)
{
	TupleTableSlot *edit = MakeSingleTupleTableSlot(writer->edit_desc,
													&TTSOpsMinimalTuple);
	EtlEditStep step = ETL_STEP_DELETE;
	Tuplestorestate *store = NULL;

	while (tuplesort_gettupleslot(writer->edits, true, false, edit, NULL))
	{
		bool isnull;
		EtlEditStep next = (EtlEditStep) DatumGetInt32(
			slot_getattr(edit, ETL_EDIT_STEP + 1, &isnull));

		CHECK_FOR_INTERRUPTS();
		if (store != NULL && next != step)
		{
			run_step(writer, step, store);
			tuplestore_end(store);
			store = NULL;
		}
		if (store == NULL)
			store = tuplestore_begin_heap(true, false, work_mem);
		step = next;
		tuplestore_puttupleslot(store, edit);
	}
	if (store != NULL)
	{
		run_step(writer, step, store);
		tuplestore_end(store);
	}
	ExecDropSingleTupleTableSlot(edit);
}

/* Runs the statement of one step. */
static void
run_step(EtlMergeWriter *writer, EtlEditStep step, Tuplestorestate *store)
{
	char *statement = build_statement(writer, step);
	int rc;

	if (statement == NULL)
		return;
	etl_progress_done(writer->merge->run, writer->n_written);
	writer->n_written += writer->n_edits[step];
	SPI_connect();
	etl_register_rows(EDITS, writer->edit_desc, store);
	rc = SPI_execute(statement, false, 0);
	if (rc == SPI_OK_UPDATE || rc == SPI_OK_DELETE)
		check_changed(writer, step, SPI_processed);
	else if (rc != SPI_OK_REWRITTEN)
		elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(rc));
	SPI_finish();
	pfree(statement);
}

/* The statement's text, or NULL if it has nothing to do. */
static char *
build_statement(EtlMergeWriter *writer, EtlEditStep step)
{
	Relation target = writer->target;
	char *name = etl_relation_name(target);
	StringInfoData buf;

	initStringInfo(&buf);
	if (step == ETL_STEP_DELETE)
		appendStringInfo(&buf, "DELETE FROM %s AS t USING " EDITS " AS e", name);
	else
	{
		appendStringInfo(&buf, "UPDATE %s AS t SET ", name);
		if (!append_assignments(&buf, writer,
								step == ETL_STEP_TIMES ||
									step == ETL_STEP_GROW_TIMES))
			return NULL;
		appendStringInfoString(&buf, " FROM " EDITS " AS e");
	}
	append_condition(&buf, writer);
	return buf.data;
}

/* Returns false if there is no column to set. */
static bool
append_assignments(StringInfo buf, EtlMergeWriter *writer, bool times)
{
	EtlMerge *merge = writer->merge;
	bool any = false;

	for (int i = 0; i < merge->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(writer->target),
											  i);

		if (!etl_update_sets(merge->columns[i].role, times))
			continue;
		appendStringInfo(buf, "%s%s = e.c%d", any ? ", " : "",
						 quote_identifier(NameStr(att->attname)), i + 1);
		any = true;
	}
	return any;
}

/* Which row is meant. */
static void
append_condition(StringInfo buf, EtlMergeWriter *writer)
{
	EtlMerge *merge = writer->merge;
	bool any = false;

	appendStringInfoString(buf, " WHERE ");
	if (!writer->by_key)
	{
		appendStringInfoString(buf, "t.ctid OPERATOR(pg_catalog.=) e.tid AND "
									"t.tableoid OPERATOR(pg_catalog.=) e.tab");
		return;
	}
	for (int i = 0; i < merge->natts; i++)
		if (merge->columns[i].role == ETL_ROLE_KEY)
		{
			appendStringInfoString(buf, any ? " AND " : "");
			append_equal(buf, writer, i, psprintf("c%d", i + 1));
			any = true;
		}
	if (!any)
		elog(ERROR, "merge into \"%s\" has no key",
			 RelationGetRelationName(writer->target));
	if (merge->valid_from >= 0)
	{
		appendStringInfoString(buf, " AND ");
		append_equal(buf, writer, merge->valid_from, "old_from");
	}
}

/* A column of the stored row is that of the edit, as its type sees it. */
static void
append_equal(StringInfo buf, EtlMergeWriter *writer, int column,
			 const char *edit)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(writer->target),
										  column);
	Oid operator= lookup_type_cache(att->atttypid, TYPECACHE_EQ_OPR)->eq_opr;

	if (!OidIsValid(operator))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("type %s of column \"%s\" has no equality operator",
						format_type_be(att->atttypid), NameStr(att->attname))));
	appendStringInfo(buf, "t.%s %s e.%s",
					 quote_identifier(NameStr(att->attname)),
					 etl_operator_name(operator), edit);
}

/* Were all rows changed, or is there a good reason that they were not? */
static void
check_changed(EtlMergeWriter *writer, EtlEditStep step, uint64 changed)
{
	Relation target = writer->target;
	bool deletes = step == ETL_STEP_DELETE;
	int64 missed = writer->n_edits[step] - (int64) changed;

	if (missed <= 0)
		return;
	if (check_enable_rls(RelationGetRelid(target), InvalidOid, false) ==
		RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row-level security of \"%s\" keeps " INT64_FORMAT
						" of " INT64_FORMAT " rows from being %s",
						RelationGetRelationName(target), missed,
						writer->n_edits[step], deletes ? "deleted" : "updated"),
				 errhint(
					 "The policies for SELECT let the role see these rows; give it policies for UPDATE and DELETE that do, or merge as a role that bypasses them.")));
	if (may_suppress(writer, deletes))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
			 errmsg("could not find " INT64_FORMAT " of " INT64_FORMAT
					" rows of \"%s\" to be %s",
					missed, writer->n_edits[step],
					RelationGetRelationName(target),
					deletes ? "deleted" : "updated"),
			 errdetail(
				 "They were changed while the merge ran, or something keeps them as they are."),
			 errhint(
				 "Look for triggers and foreign keys that change rows of the target, then merge again.")));
}

/* Can a trigger or a rule of the target have left rows as they were? */
static bool
may_suppress(EtlMergeWriter *writer, bool deletes)
{
	RuleLock *rules = writer->target->rd_rules;
	List *children;
	ListCell *lc;
	bool result = false;

	for (int i = 0; rules != NULL && i < rules->numLocks; i++)
		if (rules->rules[i]->event != CMD_SELECT)
			return true;
	children = find_all_inheritors(RelationGetRelid(writer->target),
								   AccessShareLock, NULL);
	foreach(lc, children)
	{
		Relation child = table_open(lfirst_oid(lc), NoLock);

		if (triggers_suppress(child->trigdesc, deletes))
			result = true;
		table_close(child, NoLock);
	}
	list_free(children);
	return result;
}

/* An update that moves a row to another partition deletes and inserts it. */
static bool
triggers_suppress(const TriggerDesc *triggers, bool deletes)
{
	if (triggers == NULL)
		return false;
	if (triggers->trig_delete_before_row || triggers->trig_delete_instead_row)
		return true;
	return !deletes && (triggers->trig_update_before_row ||
						triggers->trig_update_instead_row ||
						triggers->trig_insert_before_row);
}
