/*-------------------------------------------------------------------------
 *
 * companion.c
 *	  A table of the user's beside a target, in which merges keep what they
 *	  need to know later.
 *
 * It is named after the target, is in the same schema, has some of its
 * columns, and is made with the caller's rights when it is needed first.  It
 * may be read and dropped as any other table.  Whoever owns a table can let
 * code of his run in it, so one that belongs to a stranger is not touched.
 *
 * What a merge has to add to it is collected in a tuplestore, which holds
 * work_mem, and written by one statement.
 *
 * Locks: the caller's on the target keeps two merges from making or writing
 * the table at once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "commands/defrem.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/syscache.h"

#include "flow/companion.h"

/*
 * The table is named after the target.  Where that would be too long for a
 * name, targets whose names begin alike must not share it.
 */
char *
etl_companion_relname(const EtlCompanion *companion, Relation target)
{
	const char *name = RelationGetRelationName(target);
	char *full = psprintf("%s_%s", name, companion->suffix);

	if (strlen(full) < NAMEDATALEN)
		return full;
	return makeObjectName(name,
						  psprintf("%08x",
								   hash_bytes((const unsigned char *) name,
											  (int) strlen(name))),
						  companion->suffix);
}

/* The table's name, ready for SQL. */
char *
etl_companion_name(const EtlCompanion *companion, Relation target)
{
	return quote_qualified_identifier(get_namespace_name(
										  RelationGetNamespace(target)),
									  etl_companion_relname(companion, target));
}

/*
 * The table, locked so that it keeps its name until commit; InvalidOid if
 * there is none.
 */
Oid
etl_companion_find(const EtlCompanion *companion, Relation target,
				   LOCKMODE lockmode)
{
	char *schema = get_namespace_name(RelationGetNamespace(target));
	RangeVar *name = makeRangeVar(schema,
								  etl_companion_relname(companion, target), -1);

	return RangeVarGetRelid(name, lockmode, true);
}

/*
 * The name of a column of the table's own, which none of the target's columns
 * may have that are in the table, too.
 */
const char *
etl_companion_own_column(const EtlMerge *merge, const char *name,
						 EtlCompanionTakes takes)
{
	for (int i = 0; i < merge->natts; i++)
		if (takes(merge, i) && strcmp(merge->columns[i].name, name) == 0)
			return etl_companion_own_column(merge, psprintf("%s_", name), takes);
	return pstrdup(name);
}

/* ------------------------------------------------------------------ */
/* making the table                                                     */

/*
 * Starts the command that makes the table.  CREATE TABLE would refuse what is
 * refused here, but would not say what to do about it.
 */
void
etl_companion_begin_create(const EtlCompanion *companion, Relation target,
						   StringInfo sql)
{
	Oid schema = RelationGetNamespace(target);
	char persistence = target->rd_rel->relpersistence;

	if (!DatumGetBool(DirectFunctionCall2(has_schema_privilege_id,
										  ObjectIdGetDatum(schema),
										  CStringGetTextDatum("CREATE"))))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to create the %s of \"%s\"",
						companion->what, RelationGetRelationName(target)),
				 errhint("Grant CREATE on schema %s for the first call, or use %s.",
						 quote_identifier(get_namespace_name(schema)),
						 companion->without)));
	appendStringInfo(sql, "CREATE %sTABLE %s (",
					 persistence == RELPERSISTENCE_UNLOGGED ? "UNLOGGED " : "",
					 etl_companion_name(companion, target));
}

/* One column of the target's, as CREATE TABLE has it. */
void
etl_companion_append_column(StringInfo sql, Relation target, int column,
							int32 typmod)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(target), column);

	appendStringInfo(sql, "%s %s", quote_identifier(NameStr(att->attname)),
					 format_type_extended(att->atttypid, typmod,
										  FORMAT_TYPE_TYPEMOD_GIVEN |
											  FORMAT_TYPE_FORCE_QUALIFY));
	etl_append_collation(sql, att->attcollation);
}

/* Runs a command that returns nothing, as the caller. */
void
etl_companion_command(const char *sql)
{
	int rc;

	SPI_connect();
	rc = SPI_execute(sql, false, 0);
	if (rc != SPI_OK_UTILITY)
		elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(rc));
	SPI_finish();
}

/* ------------------------------------------------------------------ */
/* checking one that exists                                             */

/*
 * Triggers and policies of a table run with the rights of who writes it.  The
 * caller has trusted the target's owner so far already.
 */
void
etl_companion_check_owner(const EtlCompanion *companion, Relation rel,
						  Relation target)
{
	Oid owner = rel->rd_rel->relowner;

	if (has_privs_of_role(owner, target->rd_rel->relowner) ||
		has_privs_of_role(owner, GetUserId()))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("relation \"%s\" belongs to another role",
					RelationGetRelationName(rel)),
			 errdetail("The %s of \"%s\" must belong to its owner or to you, since their owner can let code run in them.",
					   companion->what, RelationGetRelationName(target)),
			 errhint("Run ALTER TABLE %s OWNER TO %s, or use %s.",
					 etl_companion_name(companion, target),
					 quote_identifier(
						 GetUserNameFromId(target->rd_rel->relowner, false)),
					 companion->without)));
}

/* Row security of a relation must not hide rows: detail says why. */
void
etl_companion_refuse_policies(const EtlCompanion *companion, Oid relid,
							  const char *detail)
{
	if (check_enable_rls(relid, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row security hides rows of \"%s\" from you",
						get_rel_name(relid)),
				 errdetail_internal("%s", detail),
				 errhint("Merge as its owner or as a role with BYPASSRLS, or use %s.",
						 companion->without)));
}

/* Has a table a column of the same name and type as this one? */
bool
etl_companion_has_column(Relation rel, Relation target, int column)
{
	Form_pg_attribute wanted = TupleDescAttr(RelationGetDescr(target), column);
	AttrNumber attnum = get_attnum(RelationGetRelid(rel),
								   NameStr(wanted->attname));
	Form_pg_attribute att;

	if (attnum <= 0)
		return false;
	att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
	return att->atttypid == wanted->atttypid &&
		   att->attcollation == wanted->attcollation;
}

/* ------------------------------------------------------------------ */
/* SQL                                                                  */

/* COLLATE and a name, for types that have one. */
void
etl_append_collation(StringInfo sql, Oid collation)
{
	HeapTuple tuple;
	Form_pg_collation form;

	if (!OidIsValid(collation))
		return;
	tuple = SearchSysCache1(COLLOID, ObjectIdGetDatum(collation));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for collation %u", collation);
	form = (Form_pg_collation) GETSTRUCT(tuple);
	appendStringInfo(sql, " COLLATE %s",
					 quote_qualified_identifier(get_namespace_name(
													form->collnamespace),
												NameStr(form->collname)));
	ReleaseSysCache(tuple);
}
