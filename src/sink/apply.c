/*-------------------------------------------------------------------------
 *
 * apply.c
 *	  What all sinks of changes have in common: their names, their options,
 *	  and TRUNCATE.
 *
 * Locks: a target that is truncated is locked with AccessExclusiveLock, and so
 * are its partitions, until commit.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/apply.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/pg_inherits.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"

/* A new sink of changes is one new file and one line here. */
static const EtlApplyOps *const sinks[] = {
	&etl_apply_mirror, &etl_apply_append,	&etl_apply_changelog,
	&etl_apply_scd2,   &etl_apply_function,
};

static void add_table(Relation rel, List **rels, List **relids, List **logged);
static void delete_all(EtlApply *apply);

/* The sink of a name. */
const EtlApplyOps *
etl_apply_ops(const char *word)
{
	StringInfoData names;

	for (int i = 0; i < (int) lengthof(sinks); i++)
		if (strcmp(sinks[i]->name, word) == 0)
			return sinks[i];

	initStringInfo(&names);
	for (int i = 0; i < (int) lengthof(sinks); i++)
		appendStringInfo(&names, "%s\"%s\"", i == 0 ? "" : ", ", sinks[i]->name);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for parameter \"%s\": \"%s\"", "apply", word),
			 errhint("Valid values are %s.", names.data)));
	return NULL;
}

/* Throws if there is an option of another name; names end with NULL. */
void
etl_apply_check_options(EtlApply *apply, const char *const *names)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue value;

	if (apply->options == NULL)
		return;
	if (!JB_ROOT_IS_OBJECT(apply->options))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("\"apply_options\" must be a JSON object")));
	iterator = JsonbIteratorInit(&apply->options->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		StringInfoData valid;
		bool known = false;

		if (token != WJB_KEY)
			continue;
		initStringInfo(&valid);
		for (int i = 0; names[i] != NULL; i++)
		{
			if (strlen(names[i]) == (size_t) value.val.string.len &&
				memcmp(names[i], value.val.string.val, value.val.string.len) == 0)
				known = true;
			appendStringInfo(&valid, "%s\"%s\"", i == 0 ? "" : ", ", names[i]);
		}
		if (!known)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unrecognized option for apply \"%s\": \"%s\"",
							apply->ops->name,
							pnstrdup(value.val.string.val, value.val.string.len)),
					 valid.len > 0 ?
						 errhint("Valid options are %s.", valid.data) :
						 errhint("There are no options.")));
	}
}

/* The text of an option, or NULL if it is not given. */
char *
etl_apply_option(EtlApply *apply, const char *name)
{
	JsonbValue value;

	if (apply->options == NULL ||
		getKeyJsonValueFromContainer(&apply->options->root, name,
									 (int) strlen(name), &value) == NULL ||
		value.type == jbvNull)
		return NULL;
	if (value.type != jbvString)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("option \"%s\" must be a string", name)));
	return pnstrdup(value.val.string.val, value.val.string.len);
}

/* Has the current role a right on the target as a whole? */
void
etl_apply_check_privilege(EtlApply *apply, AclMode mode)
{
	AclResult result = pg_class_aclcheck(apply->target_relid, GetUserId(), mode);

	if (result != ACLCHECK_OK)
		aclcheck_error(result,
					   get_relkind_objtype(apply->target->rd_rel->relkind),
					   RelationGetRelationName(apply->target));
}

void
etl_apply_truncate(List *applies)
{
	List *rels = NIL;
	List *relids = NIL;
	List *logged = NIL;
	bool restarts = false;
	bool any = false;
	ListCell *lc;

	foreach(lc, applies)
	{
		EtlApply *apply = lfirst(lc);
		Relation target = apply->target;
		ListCell *lc2;

		if (!apply->truncates)
			continue;
		any = true;
		apply->truncates = false;
		if (target->rd_rel->relkind == RELKIND_VIEW ||
			target->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
		{
			delete_all(apply);
			continue;
		}
		etl_apply_check_privilege(apply, ACL_TRUNCATE);
		restarts |= apply->restarts_sequences;
		apply->restarts_sequences = false;
		LockRelationOid(apply->target_relid, AccessExclusiveLock);
		if (target->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		{
			if (!list_member_oid(relids, apply->target_relid))
				add_table(table_open(apply->target_relid, NoLock), &rels,
						  &relids, &logged);
			continue;
		}
		foreach(lc2, find_all_inheritors(apply->target_relid,
										 AccessExclusiveLock, NULL))
			if (!list_member_oid(relids, lfirst_oid(lc2)))
				add_table(table_open(lfirst_oid(lc2), NoLock), &rels, &relids,
						  &logged);
	}
	if (rels != NIL)
		etl_truncate_tables(rels, relids, logged, restarts);
	foreach(lc, rels)
		table_close((Relation) lfirst(lc), NoLock);
	if (any)
		CommandCounterIncrement();
}

static void
add_table(Relation rel, List **rels, List **relids, List **logged)
{
	*rels = lappend(*rels, rel);
	*relids = lappend_oid(*relids, RelationGetRelid(rel));
	if (RelationIsLogicallyLogged(rel))
		*logged = lappend_oid(*logged, RelationGetRelid(rel));
}

/* What cannot be truncated is emptied. */
static void
delete_all(EtlApply *apply)
{
	char *statement = psprintf("DELETE FROM %s",
							   etl_relation_name(apply->target));
	int rc;

	SPI_connect();
	rc = SPI_execute(statement, false, 0);
	if (rc < 0)
		elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(rc));
	SPI_finish();
}
