/*-------------------------------------------------------------------------
 *
 * columns.c
 *	  Which columns of a target are supplied, and what the others get.
 *
 * As COPY does: a column that is not supplied gets its default, a column
 * without a default gets NULL, an identity column takes the value that is
 * supplied whether it is GENERATED ALWAYS or BY DEFAULT, and generated
 * columns are left to the writer.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/append.h"

#include "access/transam.h"
#include "catalog/pg_proc.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

static bool is_constant(const Node *node);
static void plan_missing(EtlColumns *columns, Relation target);
static bool is_volatile_user_function(Oid funcid, void *context);

/*
 * Notes the supplied columns and prepares the defaults of the others, in the
 * current memory context.  The column list is trusted to name ordinary
 * columns once each; etl_sink_check_privileges() has seen to it.
 */
EtlColumns *
etl_columns_create(Relation target, const AttrNumber *attnums, int natts)
{
	EtlColumns *columns = palloc0(sizeof(EtlColumns));
	int nmax = RelationGetDescr(target)->natts;

	columns->natts = natts;
	columns->attnums = palloc(sizeof(AttrNumber) * (natts + 1));
	if (natts > 0)
		memcpy(columns->attnums, attnums, sizeof(AttrNumber) * natts);
	columns->null_attnums = palloc(sizeof(AttrNumber) * (nmax + 1));
	columns->default_attnums = palloc(sizeof(AttrNumber) * (nmax + 1));
	columns->default_exprs = palloc(sizeof(ExprState *) * (nmax + 1));
	columns->estate = CreateExecutorState();
	plan_missing(columns, target);
	return columns;
}

void
etl_columns_free(EtlColumns *columns)
{
	FreeExecutorState(columns->estate);
	pfree(columns->attnums);
	pfree(columns->null_attnums);
	pfree(columns->default_attnums);
	pfree(columns->default_exprs);
	pfree(columns);
}

/*
 * Do the columns that are not supplied get the same in each row, without a
 * look at anything?  Then notes it, by attribute number - 1, in the current
 * memory context.
 */
bool
etl_columns_constants(EtlColumns *columns, Datum *values, bool *isnull)
{
	ExprContext *econtext = GetPerTupleExprContext(columns->estate);

	for (int i = 0; i < columns->n_null; i++)
	{
		values[columns->null_attnums[i] - 1] = (Datum) 0;
		isnull[columns->null_attnums[i] - 1] = true;
	}
	for (int i = 0; i < columns->n_default; i++)
	{
		ExprState *state = columns->default_exprs[i];
		int att = columns->default_attnums[i] - 1;
		int16 len;
		bool byval;

		if (!is_constant((const Node *) state->expr))
			return false;
		values[att] = ExecEvalExpr(state, econtext, &isnull[att]);
		get_typlenbyval(exprType((const Node *) state->expr), &len, &byval);
		if (!isnull[att])
			values[att] = datumCopy(values[att], byval, len);
	}
	ResetPerTupleExprContext(columns->estate);
	return true;
}

/*
 * Is an expression the same in each row of a statement, and certain to have a
 * value?  Apart from constants now() and its like are, and casts between the
 * types of time.
 */
static bool
is_constant(const Node *node)
{
	if (IsA(node, Const) || IsA(node, SQLValueFunction))
		return true;
	if (IsA(node, RelabelType))
		return is_constant((const Node *) ((const RelabelType *) node)->arg);
	if (!IsA(node, FuncExpr))
		return false;
	switch (((const FuncExpr *) node)->funcid)
	{
		case F_NOW:
		case F_TRANSACTION_TIMESTAMP:
		case F_STATEMENT_TIMESTAMP:
			return true;
		case F_TIMESTAMP_TIMESTAMPTZ:
		case F_DATE_TIMESTAMPTZ:
		case F_TIME_TIMESTAMPTZ:
		case F_TIMESTAMPTZ_TIMESTAMPTZ_INT4:
		case F_TIMESTAMP_TIMESTAMP_INT4:
			return is_constant(linitial(((const FuncExpr *) node)->args));
		default:
			return false;
	}
}

/*
 * Completes a slot whose supplied columns were filled, up to the defaults,
 * and stores it.  Cannot fail.
 */
void
etl_columns_fill_nulls(EtlColumns *columns, TupleTableSlot *slot)
{
	for (int i = 0; i < columns->n_null; i++)
	{
		slot->tts_values[columns->null_attnums[i] - 1] = (Datum) 0;
		slot->tts_isnull[columns->null_attnums[i] - 1] = true;
	}
	ExecStoreVirtualTuple(slot);
}

/*
 * Computes the defaults of one stored row in the current memory context,
 * which must live as long as the batch.  Runs users' code.
 */
void
etl_columns_fill_defaults(EtlColumns *columns, TupleTableSlot *slot)
{
	ExprContext *econtext = GetPerTupleExprContext(columns->estate);

	for (int i = 0; i < columns->n_default; i++)
	{
		int att = columns->default_attnums[i] - 1;

		slot->tts_values[att] = ExecEvalExpr(columns->default_exprs[i],
											 econtext, &slot->tts_isnull[att]);
	}
	ResetPerTupleExprContext(columns->estate);
}

/* Sorts the columns that are not supplied into those with a default or not. */
static void
plan_missing(EtlColumns *columns, Relation target)
{
	TupleDesc desc = RelationGetDescr(target);
	bool *supplied = palloc0(sizeof(bool) * (desc->natts + 1));

	for (int i = 0; i < columns->natts; i++)
		supplied[columns->attnums[i]] = true;

	for (AttrNumber attnum = 1; attnum <= desc->natts; attnum++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, attnum - 1);
		Expr *expr = NULL;

		if (supplied[attnum])
			continue;
		if (!att->attisdropped && !att->attgenerated)
			expr = (Expr *) build_column_default(target, attnum);
		if (expr != NULL)
		{
			MemoryContext oldcontext;
			int i = columns->n_default++;

			oldcontext = MemoryContextSwitchTo(columns->estate->es_query_cxt);
			expr = expression_planner(expr);
			columns->default_exprs[i] = ExecInitExpr(expr, NULL);
			columns->default_attnums[i] = attnum;
			if (etl_calls_user_function((Node *) expr, NULL))
				columns->defaults_read_tables = true;
			MemoryContextSwitchTo(oldcontext);
		}
		/* Even where a default follows: the row is stored before. */
		columns->null_attnums[columns->n_null++] = attnum;
	}
	pfree(supplied);
}

/* Does the expression call a function that might look at the target? */
bool
etl_calls_user_function(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (check_functions_in_node(node, is_volatile_user_function, context))
		return true;
	return expression_tree_walker(node, etl_calls_user_function, context);
}

/* Those of the server itself, such as nextval() and random(), do not. */
static bool
is_volatile_user_function(Oid funcid, void *context pg_attribute_unused())
{
	return funcid >= FirstNormalObjectId &&
		   func_volatile(funcid) == PROVOLATILE_VOLATILE;
}
