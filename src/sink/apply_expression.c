/*-------------------------------------------------------------------------
 *
 * apply_expression.c
 *	  SQL expressions over the columns of a source.
 *
 * A column's name stands for a parameter, whose number is that of the column.
 * So a compiled expression needs no table, and no text is made for any row.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/apply_expression.h"

#include "catalog/namespace.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_expr.h"
#include "parser/parser.h"

static Node *single_expression(EtlApplyParser *parser, List *raw);
static Node *column_reference(ParseState *pstate, ColumnRef *cref, Node *var);
static void parser_context(void *arg);

/* A column of the source, from 0, or -1. */
int
etl_apply_find_column(TupleDesc desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
		if (strcmp(NameStr(TupleDescAttr(desc, i)->attname), name) == 0)
			return i;
	return -1;
}

/* What stands for a column of the source in an expression. */
Param *
etl_apply_param(TupleDesc desc, int source)
{
	Form_pg_attribute att = TupleDescAttr(desc, source);
	Param *param = makeNode(Param);

	param->paramkind = PARAM_EXTERN;
	param->paramid = source + 1;
	param->paramtype = att->atttypid;
	param->paramtypmod = att->atttypmod;
	param->paramcollid = att->attcollation;
	param->location = -1;
	return param;
}

/*
 * From text to an expression without collations.  Names mean what they mean in
 * pg_catalog, whatever the session's search_path.
 */
Node *
etl_apply_parse(EtlApplyParser *parser, ParseState **pstate)
{
	ErrorContextCallback callback;
	int level = NewGUCNestLevel();
	List *raw;
	Node *expr;

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	callback.callback = parser_context;
	callback.arg = parser;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	*pstate = make_parsestate(NULL);
	(*pstate)->p_sourcetext = parser->text;
	(*pstate)->p_post_columnref_hook = column_reference;
	(*pstate)->p_ref_hook_state = parser;
	raw = raw_parser(parser->text, RAW_PARSE_PLPGSQL_EXPR);
	expr = transformExpr(*pstate, single_expression(parser, raw),
						 EXPR_KIND_OTHER);
	if ((*pstate)->p_hasSubLinks || (*pstate)->p_hasAggs ||
		(*pstate)->p_hasWindowFuncs || expression_returns_set(expr))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("expression has a subquery, an aggregate or a set"),
				 errhint("An expression sees the columns of one row.")));
	error_context_stack = callback.previous;
	AtEOXact_GUC(false, level);
	return expr;
}

/* The text is to be one expression, and no more of a query. */
static Node *
single_expression(EtlApplyParser *parser, List *raw)
{
	SelectStmt *select = (SelectStmt *) linitial_node(RawStmt, raw)->stmt;

	if (IsA(select, SelectStmt) && list_length(select->targetList) == 1 &&
		select->distinctClause == NIL && select->intoClause == NULL &&
		select->fromClause == NIL && select->whereClause == NULL &&
		select->groupClause == NIL && select->havingClause == NULL &&
		select->windowClause == NIL && select->valuesLists == NIL &&
		select->sortClause == NIL && select->limitOffset == NULL &&
		select->limitCount == NULL && select->lockingClause == NIL &&
		select->withClause == NULL && select->op == SETOP_NONE)
	{
		ResTarget *target = linitial_node(ResTarget, select->targetList);

		/* all columns are no expression: the analysis does not expect them */
		if (target->name == NULL && target->indirection == NIL &&
			!(IsA(target->val, ColumnRef) &&
			  IsA(linitial(((ColumnRef *) target->val)->fields), A_Star)))
			return target->val;
	}
	ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR),
					errmsg("\"%s\" is not a single expression", parser->text)));
	return NULL;
}

/* A name in an expression. */
static Node *
column_reference(ParseState *pstate, ColumnRef *cref, Node *var)
{
	EtlApplyParser *parser = pstate->p_ref_hook_state;
	int source = -1;

	if (var == NULL && list_length(cref->fields) == 1 &&
		IsA(linitial(cref->fields), String))
		source = etl_apply_find_column(parser->desc,
									   strVal(linitial(cref->fields)));
	if (source < 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
						errmsg("column \"%s\" of source \"%s\" does not exist",
							   NameListToString(cref->fields), parser->source),
						parser_errposition(pstate, cref->location)));
	parser->uses = bms_add_member(parser->uses, source);
	return (Node *) etl_apply_param(parser->desc, source);
}

static void
parser_context(void *arg)
{
	EtlApplyParser *parser = arg;
	int position = geterrposition();

	/* the place is one in the expression, not in the statement of the user */
	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery(parser->text);
	}
	if (parser->column == NULL)
		errcontext("row_filter of table \"%s\"", parser->table);
	else
		errcontext("expression for column \"%s\" of table \"%s\"",
				   parser->column, parser->table);
}
