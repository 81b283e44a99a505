/*-------------------------------------------------------------------------
 *
 * assign.c
 *	  Bringing a value into the type and length of another column.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "utils/builtins.h"

#include "flow/assign.h"

/*
 * What an INSERT does to a value of one column that goes into another: the
 * value is taken from caseValue_datum of the context that the expression is
 * evaluated in.  NULL if there is nothing to do.  Throws if the types do not
 * go together.
 */
ExprState *
etl_assignment(Form_pg_attribute from, Form_pg_attribute to)
{
	CaseTestExpr *value;
	Node *expr;

	if (from->atttypid == to->atttypid &&
		(from->atttypmod == to->atttypmod || to->atttypmod < 0))
		return NULL;
	value = makeNode(CaseTestExpr);
	value->typeId = from->atttypid;
	value->typeMod = from->atttypmod;
	value->collation = from->attcollation;
	expr = coerce_to_target_type(NULL, (Node *) value, from->atttypid,
								 to->atttypid, to->atttypmod,
								 COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
	if (expr == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" is of type %s in the source but of type %s in the target",
						NameStr(from->attname), format_type_be(from->atttypid),
						format_type_be(to->atttypid)),
				 errhint(
					 "Use a view with the cast that you want as the source.")));
	assign_expr_collations(NULL, expr);
	return ExecInitExpr(expression_planner((Expr *) expr), NULL);
}
