/*-------------------------------------------------------------------------
 *
 * apply_expression.h
 *	  SQL expressions over the columns of a source; private to the room.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_APPLY_EXPRESSION_H
#define ETL_APPLY_EXPRESSION_H

#include "sink/apply.h"

#include "parser/parse_node.h"

/* What is parsed, and for what. */
typedef struct EtlApplyParser
{
	const char *table; /* as the user wrote it */
	const char *source;
	TupleDesc desc; /* of the source */
	const char *text;
	const char *column; /* of the target, or NULL: the filter */
	Bitmapset *uses;	/* columns of the source, from 0: what was found */
} EtlApplyParser;

/* in apply_expression.c */
extern int etl_apply_find_column(TupleDesc desc, const char *name);
extern Param *etl_apply_param(TupleDesc desc, int source);
extern Node *etl_apply_parse(EtlApplyParser *parser, ParseState **pstate);

#endif /* ETL_APPLY_EXPRESSION_H */
