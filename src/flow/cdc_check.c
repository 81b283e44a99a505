/*-------------------------------------------------------------------------
 *
 * cdc_check.c
 *	  What must hold of a table of a pipeline: its target, its sink, and no
 *	  circles.
 *
 * What only the sink can know, its own options among that, it checks itself.
 *
 * Locks: AccessShareLock on the target; on circles, when a table is added, so
 * that two that are added at the same time do not make one between them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "etl_patterns.h"
#include "flow/cdc_apply.h"
#include "flow/cdc_check.h"
#include "flow/flow.h"
#include "flow/merge.h"

/* What the lock is on: no pipeline has such a number. */
#define LOCK_CIRCLES 0xFFF3

/* What a sink needs to do to its target. */
typedef struct Needs
{
	const char *apply;
	AclMode mode;
} Needs;

static const Needs needs[] = {{"mirror", ACL_SELECT | ACL_INSERT | ACL_UPDATE |
											 ACL_DELETE | ACL_TRUNCATE},
							  {"scd2", ACL_SELECT | ACL_INSERT | ACL_UPDATE |
										   ACL_DELETE},
							  {"append", ACL_INSERT},
							  {"changelog", ACL_INSERT},
							  {"function", ACL_NO_RIGHTS}};

static void check_target_kind(const EtlCdcTable *table, Relation target);
static void check_target_rights(const EtlCdcPipeline *pipeline,
								const EtlCdcTable *table, Relation target);
static void check_sink_as_owner(const EtlCdcPipeline *pipeline,
								const EtlCdcTable *table, Relation target,
								const EtlSourceRelation *source);
static EtlSourceRelation *describe_source(const EtlCdcPipeline *pipeline,
										  const EtlCdcTable *table,
										  List **computed);
static void check_computed(const EtlCdcTable *table, Relation target,
						   List *computed);

/*
 * Everything about a table whose source was found: its target, its sink and
 * its options; and, with_source, what becomes of the source's columns.
 */
void
etl_cdc_check_table(const EtlCdcPipeline *pipeline, const EtlCdcTable *table,
					bool with_source)
{
	EtlSourceRelation *source = NULL;
	List *computed = NIL;
	Relation target;

	if (get_rel_name(table->target) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("target with OID %u does not exist", table->target)));
	target = relation_open(table->target, AccessShareLock);
	check_target_kind(table, target);
	check_target_rights(pipeline, table, target);
	if (!JB_ROOT_IS_OBJECT(table->apply_options))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("parameter \"%s\" must be a JSON object",
							   "apply_options")));
	if (table->row_filter != NULL)
		etl_check_expression(table->row_filter, "row_filter",
							 "status <> 'draft'");
	if (with_source)
		source = describe_source(pipeline, table, &computed);
	check_computed(table, target, computed);
	check_sink_as_owner(pipeline, table, target, source);
	relation_close(target, NoLock);
}

/* ------------------------------------------------------------------ */
/* target                                                               */

/* Throw with a detail and, maybe, a hint. */
pg_noreturn static void
refuse_target(Relation target, const char *detail, const char *hint)
{
	ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
					errmsg("table %s cannot be the target of a pipeline",
						   etl_relation_name(target)),
					errdetail_internal("%s", detail),
					hint == NULL ? 0 : errhint("%s", hint)));
}

/*
 * What it holds and how far the pipeline is must be committed together, and
 * must survive a crash together.
 */
static void
check_target_kind(const EtlCdcTable *table, Relation target)
{
	const char *name = etl_relation_name(target);

	if (table->target == table->source_relid)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("source and target are the same table %s", name)));
	if (IsSystemRelation(target) ||
		RelationGetNamespace(target) == get_namespace_oid(ETL_SCHEMA, false))
		refuse_target(target, "It belongs to the system, or to this extension.",
					  NULL);
	if (target->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
		refuse_target(target,
					  "What is written to another server is not committed together with the position of the pipeline.",
					  "Follow the changes on that server, into a table there.");
	if (target->rd_rel->relkind != RELKIND_RELATION &&
		target->rd_rel->relkind != RELKIND_PARTITIONED_TABLE &&
		target->rd_rel->relkind != RELKIND_VIEW)
		refuse_target(target, "It is neither a table nor a view.", NULL);
	if (target->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		refuse_target(target, "Other sessions cannot write a temporary table.",
					  NULL);
	if (target->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED)
		refuse_target(target,
					  "It is unlogged: after a crash it would be empty, and the pipeline would not know.",
					  psprintf("Use ALTER TABLE %s SET LOGGED.", name));
}

/* The rights of the pipeline's owner, which its process has. */
static void
check_target_rights(const EtlCdcPipeline *pipeline, const EtlCdcTable *table,
					Relation target)
{
	static const struct
	{
		AclMode mode;
		const char *word;
	} words[] = {{ACL_SELECT, "SELECT"},
				 {ACL_INSERT, "INSERT"},
				 {ACL_UPDATE, "UPDATE"},
				 {ACL_DELETE, "DELETE"},
				 {ACL_TRUNCATE, "TRUNCATE"}};
	const char *name = etl_relation_name(target);
	const char *role = GetUserNameFromId(pipeline->role, false);
	StringInfoData missing;
	AclMode mode = 0;

	for (int i = 0; i < (int) lengthof(needs); i++)
		if (strcmp(needs[i].apply, table->apply) == 0)
			mode = needs[i].mode;
	if (target->rd_rel->relkind == RELKIND_VIEW)
		mode &= ~ACL_TRUNCATE;
	initStringInfo(&missing);
	for (int i = 0; i < (int) lengthof(words); i++)
		if ((mode & words[i].mode) != 0 &&
			pg_class_aclcheck(table->target, pipeline->role, words[i].mode) !=
				ACLCHECK_OK)
			appendStringInfo(&missing, "%s%s", missing.len > 0 ? ", " : "",
							 words[i].word);
	if (missing.len > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for target %s", name),
				 errdetail("The pipeline belongs to role \"%s\", which lacks %s.",
						   role, missing.data),
				 errhint("Grant it with GRANT %s ON %s TO %s.", missing.data,
						 name, quote_identifier(role))));
}

/* ------------------------------------------------------------------ */
/* sink                                                                 */

/*
 * What the sink says of its target and its options; and, if it is known what
 * the source is like, of columns and filter, which are compiled to see.
 */
static void
check_sink(const EtlCdcTable *table, Relation target,
		   const EtlSourceRelation *source)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "etl cdc check",
												  ALLOCSET_SMALL_SIZES);
	EtlApply *apply = etl_cdc_sink(table, context);
	EtlApplyMap *map;
	int n;

	apply->target = target;
	apply->ops->check(apply);
	if (source != NULL)
	{
		map = etl_apply_map(apply, source);
		if (apply->ops->check_source != NULL)
			apply->ops->check_source(apply, source);
		if (strcmp(table->apply, "mirror") == 0)
			(void) etl_apply_keys(apply, map, &n);
		if (strcmp(table->apply, "mirror") == 0 ||
			strcmp(table->apply, "append") == 0)
			(void) etl_apply_columns(apply, map, &n);
	}
	MemoryContextDelete(context);
}

/* The same, as the process of the pipeline will do it. */
static void
check_sink_as_owner(const EtlCdcPipeline *pipeline, const EtlCdcTable *table,
					Relation target, const EtlSourceRelation *source)
{
	int level = NewGUCNestLevel();
	int security_context;
	Oid user;

	GetUserIdAndSecContext(&user, &security_context);
	SetUserIdAndSecContext(pipeline->role, security_context |
											   SECURITY_LOCAL_USERID_CHANGE |
											   SECURITY_RESTRICTED_OPERATION);
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	check_sink(table, target, source);
	AtEOXact_GUC(false, level);
	SetUserIdAndSecContext(user, security_context);
}

/*
 * The source as the stream will describe it, and the columns that it will not
 * have, because they are computed; NULL: there is no such table.
 */
static EtlSourceRelation *
describe_source(const EtlCdcPipeline *pipeline, const EtlCdcTable *table,
				List **computed)
{
	EtlSourceRelation *relation;
	EtlRemoteTable *remote;
	AttrNumber *attnums;
	Relation source;

	if (pipeline->server == NULL)
	{
		source = table_open(table->source_relid, AccessShareLock);
		relation = etl_cdc_describe(source, &attnums);
		for (int i = 0; i < RelationGetDescr(source)->natts; i++)
		{
			Form_pg_attribute att = TupleDescAttr(RelationGetDescr(source), i);

			if (!att->attisdropped && etl_is_virtual(att))
				*computed = lappend(*computed, pstrdup(NameStr(att->attname)));
		}
		table_close(source, NoLock);
		return relation;
	}
	remote = etl_cdc_remote_open(pipeline, NULL, table->source);
	if (remote == NULL)
		return NULL;
	relation = etl_cdc_remote_relation(remote);
	*computed = etl_cdc_remote_computed(remote);
	etl_cdc_remote_close(remote);
	return relation;
}

/* The column of the source that a column of the target is to have, or NULL. */
static char *
wanted_column(const EtlCdcTable *table, Form_pg_attribute att)
{
	const char *name = NameStr(att->attname);
	JsonbValue value;

	if (att->attisdropped)
		return NULL;
	if (table->columns == NULL || !JB_ROOT_IS_OBJECT(table->columns) ||
		getKeyJsonValueFromContainer(&table->columns->root, name,
									 (int) strlen(name), &value) == NULL)
		return att->attgenerated ? NULL : pstrdup(name);
	return value.type == jbvString ?
			   pnstrdup(value.val.string.val, value.val.string.len) :
			   NULL;
}

/* A column that waits for what does not come would be null without a word. */
static void
check_computed(const EtlCdcTable *table, Relation target, List *computed)
{
	TupleDesc desc = RelationGetDescr(target);

	if (strcmp(table->apply, "changelog") == 0 ||
		strcmp(table->apply, "function") == 0)
		return;
	for (int i = 0; i < desc->natts && computed != NIL; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		const char *name = NameStr(att->attname);
		char *wanted = wanted_column(table, att);

		if (wanted != NULL && etl_has_name(computed, wanted))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("column \"%s\" of source %s is a generated column whose values do not come with changes",
							wanted, table->source),
					 errhint("Make \"%s\" a generated column of %s, too, or compute it in \"columns\" with {\"%s\": {\"expr\": \"...\"}}, or leave it out with {\"%s\": null}.",
							 name, etl_relation_name(target), name, name)));
	}
}

/* ------------------------------------------------------------------ */
/* circles                                                              */

static char *
name_of(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(
										  get_rel_namespace(relid)),
									  get_rel_name(relid));
}

/* Who writes a partition writes the whole. */
static Oid
whole_of(Oid relid)
{
	if (!OidIsValid(relid) || !get_rel_relispartition(relid))
		return relid;
	return llast_oid(get_partition_ancestors(relid));
}

/* The targets that tables of all pipelines here write from a source. */
static List *
targets_of(List *tables, Oid source, List *targets)
{
	ListCell *lc;

	foreach(lc, tables)
	{
		const EtlCdcTable *table = lfirst(lc);

		if (OidIsValid(table->source_relid) &&
			whole_of(table->source_relid) == source)
			targets = list_append_unique_oid(targets, whole_of(table->target));
	}
	return targets;
}

/*
 * Throw if what a table writes would come back to its source, by way of other
 * pipelines of this database.
 */
void
etl_cdc_check_circle(const EtlCdcTable *table)
{
	Oid source = whole_of(table->source_relid);
	List *tables = NIL;
	List *reached;
	ListCell *lc;

	if (!OidIsValid(table->source_relid))
		return;
	LockDatabaseObject(etl_ledger_relid("cdc_pipeline"), 0, LOCK_CIRCLES,
					   ExclusiveLock);
	foreach(lc, etl_cdc_pipelines())
		tables = list_concat(tables,
							 etl_cdc_tables(
								 ((EtlCdcPipeline *) lfirst(lc))->pipeline_id));

	reached = list_make1_oid(whole_of(table->target));
	foreach(lc, reached)
	{
		CHECK_FOR_INTERRUPTS();
		if (lfirst_oid(lc) == source)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("what is written to %s would come back to source %s",
							name_of(table->target), table->source),
					 errdetail(
						 "Pipelines of this database lead from the target to the source."),
					 errhint(
						 "Changes must not go in circles: remove one of these tables from its pipeline with etl_cdc_remove_table().")));
		reached = targets_of(tables, lfirst_oid(lc), reached);
	}
}
