/*-------------------------------------------------------------------------
 *
 * names.c
 *	  Names of objects as SQL text needs them: with their schema, and quoted;
 *	  lists of names.
 *
 *-------------------------------------------------------------------------
 */
#include "base/base.h"

#include "access/htup_details.h"
#include "catalog/pg_operator.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

/* The name of a relation, ready for SQL. */
char *
etl_relation_name(Relation rel)
{
	return quote_qualified_identifier(get_namespace_name(
										  RelationGetNamespace(rel)),
									  RelationGetRelationName(rel));
}

/* Is a name in a list of C strings? */
bool
etl_has_name(List *names, const char *name)
{
	ListCell *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

/* An operator's name, ready for SQL. */
char *
etl_operator_name(Oid operator)
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
