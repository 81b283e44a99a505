/*-------------------------------------------------------------------------
 *
 * merge_source.c
 *	  How the rows of a merge's source are read.
 *
 * A plain heap whose columns have the target's types is read as it is.  For
 * anything else there is a query that brings the columns into the target's
 * types and adds what a row needs: its time, whether it deletes, and the
 * tombstone of its key.  Values are cast to a type without its length, and
 * fitted to the length later as an assignment does: what is too long is an
 * error and not cut.  Domains and arrays have their lengths further inside, so
 * that their values are converted by an expression, and not by the query.
 *
 * A merge of a part of its source has a condition in that query, or brings
 * the rows with it.  Then the plan, or the number of the rows, says how many
 * will come, on which depends how the target is read.
 *
 * The query runs as the caller, so that privileges and row security of the
 * source apply.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "optimizer/plancat.h"
#include "parser/parse_coerce.h"
#include "parser/parser.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"

#include "flow/assign.h"
#include "flow/flow.h"
#include "flow/merge.h"

/* What a query calls rows that stand in for the source. */
#define ROWS_NAME "etl_rows"

static Oid target_type(EtlMerge *merge, int column);
static void check_types(EtlMerge *merge);
static AttrNumber source_column(EtlMerge *merge, const char *name,
								const char *parameter);
static EtlMergeColumn *time_column(EtlMerge *merge);
static void check_sequence(EtlMerge *merge, AttrNumber attnum);
static double count_rows(EtlMerge *merge, const EtlMergeNames *names);
static bool can_read_heap(EtlMerge *merge, AttrNumber time);
static bool is_as_stored(Form_pg_attribute att, Oid type);
static void read_by_query(EtlMerge *merge, AttrNumber time,
						  const EtlMergeNames *names, const char *tombstones);
static void append_steps(StringInfo sql, EtlMerge *merge,
						 const EtlMergeNames *names, AttrNumber position);
static void set_query_rows(EtlMerge *merge, const EtlMergeNames *names);
static void append_column(StringInfo sql, EtlMerge *merge, AttrNumber attnum,
						  Oid type);
static void set_fit(EtlMerge *merge);
static bool needs_assignment(Form_pg_attribute from, Form_pg_attribute to);
static void set_assignment(EtlMerge *merge, EtlMergeColumn *column,
						   Form_pg_attribute from, Form_pg_attribute to);
static void set_time_fit(EtlMerge *merge, AttrNumber time);

/*
 * Settles how the source is read.  tombstones is the name, ready for SQL, of
 * a table with the sequences of deleted keys, or NULL.
 */
void
etl_merge_set_input(EtlMerge *merge, const EtlMergeNames *names,
					const char *tombstones)
{
	AttrNumber time = 0;

	check_types(merge);
	if (names->sequence_by != NULL)
	{
		time = source_column(merge, names->sequence_by, "sequence_by");
		check_sequence(merge, time);
		merge->input.time_name = names->sequence_by;
		merge->input.time_typmod = -1;
		if (merge->versioned)
			set_time_fit(merge, time);
	}
	if (names->delete_when != NULL)
		etl_check_expression(names->delete_when, "delete_when", "op = 'D'");

	set_fit(merge);
	merge->input.rows = count_rows(merge, names);
	if (names->delete_when == NULL && tombstones == NULL &&
		names->condition == NULL && names->order_by == NULL &&
		names->rows == NULL && can_read_heap(merge, time))
	{
		merge->input.relation = merge->source;
		merge->input.desc = RelationGetDescr(merge->source);
		merge->input.time = time;
		return;
	}
	read_by_query(merge, time, names, tombstones);
}

/* The type of a column of the target: a domain is not its base type. */
static Oid
target_type(EtlMerge *merge, int column)
{
	return TupleDescAttr(RelationGetDescr(merge->target), column)->atttypid;
}

/* Can each column be assigned to its namesake? */
static void
check_types(EtlMerge *merge)
{
	TupleDesc desc = merge->source_desc;

	for (int i = 0; i < merge->natts; i++)
	{
		EtlMergeColumn *column = &merge->columns[i];
		Oid wanted = target_type(merge, i);
		Oid type;

		if (column->input == 0)
			continue;
		type = TupleDescAttr(desc, column->input - 1)->atttypid;
		if (!can_coerce_type(1, &type, &wanted, COERCION_ASSIGNMENT))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" is of type %s in the source but of type %s in the target",
							column->name, format_type_be(type),
							format_type_be(wanted)),
					 errhint(
						 "Use a view with the cast that you want as the source.")));
	}
}

static AttrNumber
source_column(EtlMerge *merge, const char *name, const char *parameter)
{
	AttrNumber attnum = etl_merge_source_column(merge, name);

	if (attnum <= 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
						errmsg("column \"%s\" of relation \"%s\" does not exist",
							   name, etl_merge_source_name(merge)),
						errhint("It is named in parameter \"%s\".", parameter)));
	return attnum;
}

/* The column that a row's time or sequence is compared with. */
static EtlMergeColumn *
time_column(EtlMerge *merge)
{
	return &merge->columns[merge->versioned ? merge->valid_from : merge->sequence];
}

static void
check_sequence(EtlMerge *merge, AttrNumber attnum)
{
	EtlMergeColumn *column = time_column(merge);
	Form_pg_attribute att = TupleDescAttr(merge->source_desc, attnum - 1);

	if (!can_coerce_type(1, &att->atttypid, &column->ops.type, COERCION_EXPLICIT))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of type %s in parameter \"sequence_by\" cannot be cast to type %s of column \"%s\"",
						NameStr(att->attname), format_type_be(att->atttypid),
						format_type_be(column->ops.type), column->name),
				 errhint(
					 "Use a view with the cast that you want as the source.")));
	if (!column->ops.has_compare)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("values of type %s of column \"%s\" have no order",
						format_type_be(column->ops.type), column->name)));
}

/* Say where in the expression, not in the statement that calls us. */
static void
show_expression_position(void *arg)
{
	int position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery((const char *) arg);
	}
}

/* What a text says as an expression. */
static List *
parse_expression(const char *text)
{
	ErrorContextCallback callback;
	List *statements;

	callback.callback = show_expression_position;
	callback.arg = unconstify(char *, text);
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	statements = raw_parser(text, RAW_PARSE_PLPGSQL_EXPR);
	error_context_stack = callback.previous;
	return statements;
}

/* One expression, and nothing that would change the query around it. */
void
etl_check_expression(const char *text, const char *parameter,
					 const char *example)
{
	List *statements = parse_expression(text);
	SelectStmt *select = NULL;

	if (list_length(statements) == 1)
		select = (SelectStmt *) linitial_node(RawStmt, statements)->stmt;
	if (select == NULL || !IsA(select, SelectStmt) ||
		list_length(select->targetList) != 1 || select->fromClause != NIL ||
		select->whereClause != NULL || select->groupClause != NIL ||
		select->havingClause != NULL || select->sortClause != NIL ||
		select->windowClause != NIL || select->distinctClause != NIL ||
		select->limitCount != NULL || select->limitOffset != NULL ||
		select->lockingClause != NIL || select->op != SETOP_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("parameter \"%s\" must be an expression over a row of the source: \"%s\"",
						parameter, text),
				 errhint("For example %s.", example)));
}

/* How many rows will come, as far as that is known without a query. */
static double
count_rows(EtlMerge *merge, const EtlMergeNames *names)
{
	double rows = 1000;
	double visible;
	BlockNumber pages;

	if (names->rows != NULL)
		return (double) tuplestore_tuple_count(names->rows);
	if (merge->source->rd_rel->relkind == RELKIND_RELATION ||
		merge->source->rd_rel->relkind == RELKIND_MATVIEW)
		estimate_rel_size(merge->source, NULL, &pages, &rows, &visible);
	return rows;
}

/*
 * A heap can be read as it is if its values are there and need no cast, and the
 * caller may read all of it.
 */
static bool
can_read_heap(EtlMerge *merge, AttrNumber time)
{
	Relation source = merge->source;
	TupleDesc desc = RelationGetDescr(source);
	Oid relid = RelationGetRelid(source);

	if ((source->rd_rel->relkind != RELKIND_RELATION &&
		 source->rd_rel->relkind != RELKIND_MATVIEW) ||
		source->rd_rel->relam != HEAP_TABLE_AM_OID ||
		source->rd_rel->relhassubclass || !RelationIsPopulated(source) ||
		pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK ||
		check_enable_rls(relid, InvalidOid, false) == RLS_ENABLED)
		return false;
	for (int i = 0; i < merge->natts; i++)
		if (merge->columns[i].input != 0 &&
			!is_as_stored(TupleDescAttr(desc, merge->columns[i].input - 1),
						  target_type(merge, i)))
			return false;
	return time == 0 || is_as_stored(TupleDescAttr(desc, time - 1),
									 time_column(merge)->ops.type);
}

/* Are the column's stored values what is wanted? */
static bool
is_as_stored(Form_pg_attribute att, Oid type)
{
	return !etl_is_virtual(att) && att->atttypid == type;
}

/* ------------------------------------------------------------------ */
/* the query                                                            */

static void
read_by_query(EtlMerge *merge, AttrNumber time, const EtlMergeNames *names,
			  const char *tombstones)
{
	EtlMergeInput *input = &merge->input;
	AttrNumber position = 0;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < merge->natts; i++)
	{
		EtlMergeColumn *column = &merge->columns[i];

		if (column->input == 0)
			continue;
		append_column(&sql, merge, column->input,
					  column->assign != NULL ? InvalidOid :
											   target_type(merge, i));
		appendStringInfoString(&sql, ", ");
		column->input = ++position;
	}
	if (time != 0)
	{
		append_column(&sql, merge, time, time_column(merge)->ops.type);
		appendStringInfoString(&sql, ", ");
		input->time = ++position;
	}
	if (tombstones != NULL)
	{
		appendStringInfoString(&sql, "etl_t.etl_tombstone, ");
		input->tombstone = ++position;
	}
	if (names->delete_when != NULL)
	{
		/*
		 * A comment at the expression's end must not go on.  IS TRUE takes
		 * nothing but a boolean, and no set, which would multiply the rows.
		 */
		appendStringInfo(&sql, "(%s\n) IS TRUE", names->delete_when);
		input->is_delete = ++position;
	}
	else
		sql.len -= strlen(", "); /* there is a key, and so a column */
	append_steps(&sql, merge, names, position);
	appendStringInfo(&sql, " FROM %s AS etl_s",
					 names->rows != NULL ? ROWS_NAME :
										   etl_relation_name(merge->source));
	if (tombstones != NULL)
		etl_tombstones_append_join(&sql, merge, tombstones);
	if (names->condition != NULL)
		appendStringInfo(&sql, " WHERE (%s)", names->condition);
	if (names->order_by != NULL)
		appendStringInfo(&sql, " ORDER BY etl_s.%s",
						 quote_identifier(names->order_by));
	input->query.text = sql.data;
	set_query_rows(merge, names);
	if (names->condition != NULL)
		input->desc = etl_query_plan(&input->query, &input->rows);
	else
		input->desc = etl_query_desc(&input->query);
}

/* What the rows of changes that come in order have beside their columns. */
static void
append_steps(StringInfo sql, EtlMerge *merge, const EtlMergeNames *names,
			 AttrNumber position)
{
	if (names->step_by == NULL)
		return;
	appendStringInfoString(sql, ", ");
	append_column(sql, merge, source_column(merge, names->step_by, "step_by"),
				  INT8OID);
	merge->input.step = ++position;
	appendStringInfoString(sql, ", ");
	append_column(sql, merge, source_column(merge, names->lacks, "lacks"),
				  BYTEAOID);
	merge->input.lacks = ++position;
}

/* Rows that were read already stand in for the source. */
static void
set_query_rows(EtlMerge *merge, const EtlMergeNames *names)
{
	EtlQuery *query = &merge->input.query;

	if (names->rows == NULL)
		return;
	query->rows_name = ROWS_NAME;
	query->rows_desc = CreateTupleDescCopy(merge->source_desc);
	query->rows = names->rows;
}

/* A column of the source, cast to a type without its length, if to any. */
static void
append_column(StringInfo sql, EtlMerge *merge, AttrNumber attnum, Oid type)
{
	Form_pg_attribute att = TupleDescAttr(merge->source_desc, attnum - 1);

	appendStringInfo(sql, "etl_s.%s", quote_identifier(NameStr(att->attname)));
	if (OidIsValid(type) && att->atttypid != type)
		appendStringInfo(sql, "::%s",
						 format_type_extended(type, -1,
											  FORMAT_TYPE_TYPEMOD_GIVEN |
												  FORMAT_TYPE_FORCE_QUALIFY));
}

/* ------------------------------------------------------------------ */
/* lengths                                                              */

/*
 * A column with a length (or a precision) of its own gets each value fitted
 * to it, unless the source's column has the very same.
 */
static void
set_fit(EtlMerge *merge)
{
	TupleDesc target = RelationGetDescr(merge->target);
	TupleDesc source = merge->source_desc;

	for (int i = 0; i < merge->natts; i++)
	{
		EtlMergeColumn *column = &merge->columns[i];
		Form_pg_attribute to = TupleDescAttr(target, i);
		Form_pg_attribute from;
		Oid function;

		if (column->input == 0)
			continue;
		from = TupleDescAttr(source, column->input - 1);
		if (needs_assignment(from, to))
			set_assignment(merge, column, from, to);
		if (column->assign != NULL || to->atttypmod < 0 ||
			(from->atttypid == to->atttypid && from->atttypmod == to->atttypmod))
			continue;
		if (find_typmod_coercion_function(to->atttypid, &function) !=
			COERCION_PATH_FUNC)
			continue;
		fmgr_info(function, &column->fit);
		column->typmod = to->atttypmod;
	}
}

/* May the target's type have a length that its typmod does not tell? */
static bool
needs_assignment(Form_pg_attribute from, Form_pg_attribute to)
{
	if (from->atttypid == to->atttypid && from->atttypmod == to->atttypmod)
		return false;
	return get_typtype(to->atttypid) == TYPTYPE_DOMAIN ||
		   OidIsValid(get_element_type(to->atttypid));
}

static void
set_assignment(EtlMerge *merge, EtlMergeColumn *column, Form_pg_attribute from,
			   Form_pg_attribute to)
{
	column->assign = etl_assignment(from, to);
	if (merge->input.context == NULL)
		merge->input.context = CreateStandaloneExprContext();
}

/* Versions start at times in the precision of their column. */
static void
set_time_fit(EtlMerge *merge, AttrNumber time)
{
	int column = time_column(merge) - merge->columns;
	Form_pg_attribute to = TupleDescAttr(RelationGetDescr(merge->target),
										 column);
	Form_pg_attribute from = TupleDescAttr(merge->source_desc, time - 1);
	Oid function;

	if (to->atttypmod < 0 ||
		(from->atttypid == to->atttypid && from->atttypmod == to->atttypmod) ||
		find_typmod_coercion_function(to->atttypid, &function) !=
			COERCION_PATH_FUNC)
		return;
	fmgr_info(function, &merge->input.time_fit);
	merge->input.time_typmod = to->atttypmod;
}
