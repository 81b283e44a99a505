/*-------------------------------------------------------------------------
 *
 * database_hook.c
 *	  What users' commands mean for launcher and schedulers.
 *
 * A database that is dropped, renamed, moved or copied must have no sessions,
 * and a scheduler is one.  So before such a command the hook ends the
 * scheduler of the database, its idle workers and the processes of its
 * pipelines.  A worker that has a run is
 * left alone, as any session: then the command says that the database is in
 * use, or ends it WITH (FORCE).
 *
 * Nobody can come back in between, because the hook has locked the database
 * first, as the command itself will: who connects waits for that lock before
 * it counts as connected, and the launcher starts nothing where it could not
 * be had (see launcher.c).  It ends with the transaction, so that a command
 * that fails, or whose process dies, blocks nothing.  The command itself waits
 * for sessions that are about to go.
 *
 * Slots on other servers would stay behind, where they keep WAL for ever.  So a
 * database whose pipelines have some is dropped WITH (FORCE) only.  Slots of
 * this server go with the database, but not with the extension: while pipelines
 * have slots, its tables cannot be dropped, by whatever command.
 *
 * The counters of runs are not part of any transaction: they go when the drop
 * is asked for, and do not come back if it is rolled back.
 *
 * The hook does this only for who could go on with the command: it must be no
 * way to disturb others.  All other checks, and all errors, are the command's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "replication/slot.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "compat.h"
#include "etl_patterns.h"
#include "ledger/stat_runs.h"
#include "worker/cdc_control.h"
#include "worker/shared.h"

/* So often, and for so many milliseconds each, pipelines are waited for. */
#define PIPELINE_TRIES 100
#define PIPELINE_WAIT  50

static ProcessUtility_hook_type next_process_utility = NULL;
static object_access_hook_type next_object_access = NULL;

static void process_utility(PlannedStmt *pstmt, const char *query,
							bool read_only_tree, ProcessUtilityContext context,
							ParamListInfo params, QueryEnvironment *env,
							DestReceiver *dest, QueryCompletion *completion);
static void object_access(ObjectAccessType access, Oid classId, Oid objectId,
						  int subId, void *arg);
static bool is_our_relation(Oid relid, const char *name);
static void refuse_slots(void);
static void refuse_remote_slots(const DropdbStmt *stmt);
static void before_command(Node *command, bool alone);
static bool has_option(List *options, const char *name);
static void vacate(const char *name);
static void vacate_template(List *options);
static void end_sessions(Oid database);
static void end_pipelines(Oid database);
static bool may_create_databases(void);
static bool is_template(Oid database);

/* Looks at each utility command from now on, and passes it on. */
void
etl_database_hook_install(void)
{
	next_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	next_object_access = object_access_hook;
	object_access_hook = object_access;
}

/* ------------------------------------------------------------------ */
/* objects                                                              */

/*
 * The table of pipelines goes only when they have no slots.  Statistics of runs
 * go with the extension, and with a database.
 */
static void
object_access(ObjectAccessType access, Oid classId, Oid objectId, int subId,
			  void *arg)
{
	if (access == OAT_DROP && classId == RelationRelationId && subId == 0)
	{
		if (is_our_relation(objectId, "cdc_pipeline"))
			refuse_slots();
		else if (is_our_relation(objectId, "stat_runs"))
			etl_stat_reset();
	}
	else if (access == OAT_DROP && classId == DatabaseRelationId)
		etl_stat_drop_database(objectId);
	if (next_object_access != NULL)
		next_object_access(access, classId, objectId, subId, arg);
}

static bool
is_our_relation(Oid relid, const char *name)
{
	char *found = get_rel_name(relid);

	return found != NULL && strcmp(found, name) == 0 &&
		   get_rel_namespace(relid) == get_namespace_oid(ETL_SCHEMA, true);
}

/* Throw if pipelines of this database have slots. */
static void
refuse_slots(void)
{
	StringInfoData names;
	ListCell *lc;

	initStringInfo(&names);
	foreach(lc, etl_cdc_pipelines())
	{
		const EtlCdcPipeline *pipeline = lfirst(lc);

		if (etl_cdc_holds_slot(pipeline))
			appendStringInfo(&names, "%s\"%s\"", names.len > 0 ? ", " : "",
							 pipeline->name);
	}
	if (names.len > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop extension \"%s\" because CDC pipelines have replication slots",
						"etl_patterns"),
				 errdetail("These have: %s.", names.data),
				 errhint("Drop the pipelines first, all of them with SELECT etl_cdc_drop(pipeline) FROM %s.cdc_pipeline.",
						 ETL_SCHEMA)));
}

/* ------------------------------------------------------------------ */
/* commands                                                             */

static void
process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *env, DestReceiver *dest,
				QueryCompletion *completion)
{
	before_command(pstmt->utilityStmt,
				   !IsInTransactionBlock(context == PROCESS_UTILITY_TOPLEVEL));

	if (next_process_utility != NULL)
		next_process_utility(pstmt, query, read_only_tree, context, params, env,
							 dest, completion);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params,
								env, dest, completion);
}

/*
 * Prepares for the command.  What is to be told is told when the transaction
 * commits; alone: the command is a transaction of its own.
 */
static void
before_command(Node *command, bool alone)
{
	switch (nodeTag(command))
	{
		case T_DropdbStmt:
			if (alone)
			{
				refuse_remote_slots((DropdbStmt *) command);
				vacate(((DropdbStmt *) command)->dbname);
			}
			etl_tell_launcher(InvalidOid);
			break;
		case T_CreatedbStmt:
			if (alone)
				vacate_template(((CreatedbStmt *) command)->options);
			etl_tell_launcher(InvalidOid);
			break;
		case T_AlterDatabaseStmt:
		{
			AlterDatabaseStmt *stmt = (AlterDatabaseStmt *) command;

			if (alone && has_option(stmt->options, "tablespace"))
				vacate(stmt->dbname);
			etl_tell_launcher(InvalidOid);
			break;
		}
		case T_RenameStmt:
		{
			RenameStmt *stmt = (RenameStmt *) command;

			if (stmt->renameType == OBJECT_DATABASE && may_create_databases())
				vacate(stmt->subname);
			break;
		}
		case T_DropStmt:
		{
			DropStmt *stmt = (DropStmt *) command;

			if (stmt->removeType == OBJECT_EXTENSION ||
				stmt->removeType == OBJECT_SCHEMA)
				etl_tell_dropped();
			break;
		}
		case T_DropOwnedStmt:
			etl_tell_dropped();
			break;
		default:
			break;
	}
}

/*
 * Pipelines of a database that is to be dropped may have slots on other
 * servers, as far as its scheduler has told.
 */
static void
refuse_remote_slots(const DropdbStmt *stmt)
{
	Oid database = get_database_oid(stmt->dbname, true);
	EtlSharedDatabase *entry;
	int slots = 0;

	if (!OidIsValid(database) || !etl_owns_database(database, GetUserId()))
		return;
	LWLockAcquire(etl_shared->lock, LW_SHARED);
	entry = etl_shared_find_database(database);
	if (entry != NULL)
		slots = entry->remote_slots;
	LWLockRelease(etl_shared->lock);
	if (slots == 0)
		return;
	ereport(has_option(stmt->options, "force") ? WARNING : ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg_plural("CDC pipelines of database \"%s\" have %d replication slot on another server",
						   "CDC pipelines of database \"%s\" have %d replication slots on other servers",
						   slots, stmt->dbname, slots),
			 errdetail("Their names begin with \"etl_%u_\". They keep those servers' WAL until they are dropped.",
					   database),
			 errhint("In that database: SELECT etl_cdc_drop(pipeline) FROM %s.cdc_pipeline. WITH (FORCE) drops the database and leaves the slots.",
					 ETL_SCHEMA)));
}

static bool
has_option(List *options, const char *name)
{
	ListCell *lc;

	foreach(lc, options)
		if (strcmp(lfirst_node(DefElem, lc)->defname, name) == 0)
			return true;
	return false;
}

/* For commands that only the owner of the database may give. */
static void
vacate(const char *name)
{
	Oid database = get_database_oid(name, true);

	if (!OidIsValid(database) || database == MyDatabaseId ||
		!etl_owns_database(database, GetUserId()))
		return;

	LockSharedObject(DatabaseRelationId, database, 0, AccessExclusiveLock);
	end_sessions(database);
}

/* A template may be anybody's who may copy it, and the current database. */
static void
vacate_template(List *options)
{
	const char *name = "template1";
	Oid database;
	ListCell *lc;

	foreach(lc, options)
	{
		DefElem *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "template") == 0 && option->arg != NULL)
			name = defGetString(option);
	}
	database = get_database_oid(name, true);
	if (!OidIsValid(database) || !may_create_databases() ||
		!(is_template(database) || etl_owns_database(database, GetUserId())))
		return;

	LockSharedObject(DatabaseRelationId, database, 0, ShareLock);
	end_sessions(database);
}

/*
 * Ends the scheduler and the idle workers of a database.  The lock makes sure
 * that their processes are still theirs, and that no run is given to a worker
 * that is about to go: one that is idle does nothing but look at its slot.
 */
static void
end_sessions(Oid database)
{
	EtlSharedDatabase *entry;

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	entry = etl_shared_find_database(database);
	if (entry != NULL)
		etl_scheduler_end(entry);
	for (int i = 0; i < etl_shared->nslots; i++)
	{
		EtlSharedSlot *slot = etl_shared_slot(i);

		if (slot->state == ETL_SLOT_IDLE && slot->database == database &&
			slot->pid != 0)
		{
			slot->leave = true;
			SetLatch(slot->latch);
		}
	}
	LWLockRelease(etl_shared->lock);
	end_pipelines(database);
}

/*
 * Ends the processes of a database's pipelines, and waits for them for a while:
 * a database with a slot in use cannot be dropped, and the command does not
 * wait for that.
 */
static void
end_pipelines(Oid database)
{
	bool any = etl_cdc_end_all(database) > 0;

	for (int i = 0; any && i < PIPELINE_TRIES; i++)
	{
		int nslots;
		int nactive;

		if (etl_cdc_end_all(database) == 0 &&
			(!ReplicationSlotsCountDBSlots(database, &nslots, &nactive) ||
			 nactive == 0))
			break;
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 PIPELINE_WAIT, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/* Does the caller have CREATEDB? */
static bool
may_create_databases(void)
{
	HeapTuple tuple;
	bool result = false;

	if (superuser())
		return true;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	return result;
}

static bool
is_template(Oid database)
{
	HeapTuple tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	bool result = false;

	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
		ReleaseSysCache(tuple);
	}
	return result;
}
