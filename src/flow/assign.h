/*-------------------------------------------------------------------------
 *
 * assign.h
 *	  Bringing a value into the type and length of another column.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_ASSIGN_H
#define ETL_ASSIGN_H

#include "catalog/pg_attribute.h"
#include "nodes/execnodes.h"

/* in assign.c */
extern ExprState *etl_assignment(Form_pg_attribute from, Form_pg_attribute to);

#endif /* ETL_ASSIGN_H */
