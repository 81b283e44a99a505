/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  The only place with #if PG_VERSION_NUM.
 *
 * Everything that differs between the supported majors (15 to 18) is given
 * one name here, so that the rooms read as if there were one PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_COMPAT_H
#define ETL_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "etl_patterns needs PostgreSQL 15 or later"
#endif

/* written in front of the declaration, as PostgreSQL 18 has it */
#ifndef pg_noreturn
#define pg_noreturn pg_attribute_noreturn()
#endif

/* what is called when an assertion fails: for the fuzzer, which has no server */
#if PG_VERSION_NUM >= 160000
#define ETL_ASSERT_PARAMETERS \
	const char *conditionName, const char *fileName, int lineNumber
#else
#define ETL_ASSERT_PARAMETERS                                                \
	const char *conditionName, const char *error_type, const char *fileName, \
		int lineNumber
#endif

/* what a row is formed of: for the fuzzer, too */
#if PG_VERSION_NUM >= 170000
#define ETL_FORM_PARAMETERS \
	TupleDesc desc, const Datum *values, const bool *nulls
#else
#define ETL_FORM_PARAMETERS TupleDesc desc, Datum *values, bool *nulls
#endif

/* ------------------------------------------------------------------ */
/* roles and processes                                                  */

#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/sinvaladt.h"

/* The process that a virtual transaction belongs to, or NULL. */
#if PG_VERSION_NUM >= 170000
#include "storage/procarray.h"
#define etl_vxid_proc(vxid)			   ProcNumberGetProc((vxid).procNumber)
#define etl_lock_held_by_me(tag, mode) LockHeldByMe(tag, mode, false)
#define etl_my_lxid()				   (MyProc->vxid.lxid)
#else
#define etl_vxid_proc(vxid)			   BackendIdGetProc((vxid).backendId)
#define etl_lock_held_by_me(tag, mode) LockHeldByMe(tag, mode)
#define etl_my_lxid()				   (MyProc->lxid)
#endif

/* The processes of the server, by number from 1: use utils/backend_status.h. */
#if PG_VERSION_NUM >= 160000
#define etl_backend_entry(i) pgstat_get_local_beentry_by_index(i)
#else
#define etl_backend_entry(i) pgstat_fetch_stat_local_beentry(i)
#endif

/* ------------------------------------------------------------------ */
/* the JSON parser: a lexer that checks escapes, too                    */

#if PG_VERSION_NUM >= 170000
#define etl_make_json_lexer(text, len, encoding) \
	makeJsonLexContextCstringLen(NULL, text, len, encoding, true)
#else
#define etl_make_json_lexer(text, len, encoding) \
	makeJsonLexContextCstringLen(text, len, encoding, true)
#endif

/* ------------------------------------------------------------------ */
/* statements that a worker runs at top level                           */

#include "tcop/pquery.h"

#if PG_VERSION_NUM >= 180000
#define etl_portal_run(portal, count, is_top_level, dest, completion) \
	PortalRun(portal, count, is_top_level, dest, dest, completion)
#else
#define etl_portal_run(portal, count, is_top_level, dest, completion) \
	PortalRun(portal, count, is_top_level, true, dest, dest, completion)
#endif

/* ------------------------------------------------------------------ */
/* the executor's parts that a sink puts together                       */

#include "access/sysattr.h"
#include "access/tableam.h"
#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_proc.h"
#include "commands/tablecmds.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "parser/parse_relation.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/rel.h"

#if PG_VERSION_NUM >= 160000
#define etl_rd_first_new_storage_subid(rel) ((rel)->rd_firstRelfilelocatorSubid)
#define etl_rd_new_storage_subid(rel)		((rel)->rd_newRelfilelocatorSubid)
#define etl_insert_index_tuples(rri, slot, estate) \
	ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL, false)
#define etl_insert_unless_taken(rri, slot, estate, taken, arbiters)        \
	ExecInsertIndexTuples(rri, slot, estate, false, true, taken, arbiters, \
						  false)
#define etl_truncate_tables(rels, relids, logged, restarts) \
	ExecuteTruncateGuts(rels, relids, logged, DROP_RESTRICT, restarts, false)
#define etl_root_to_child_map(rri, estate) ExecGetRootToChildMap(rri, estate)
#define etl_owns_database(database, role) \
	object_ownercheck(DatabaseRelationId, database, role)
#define etl_owns_relation(relid, role) \
	object_ownercheck(RelationRelationId, relid, role)
#define etl_may_execute(function, role)                                   \
	(object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE) == \
	 ACLCHECK_OK)
#define etl_may_use_server(server, role)                                  \
	(object_aclcheck(ForeignServerRelationId, server, role, ACL_USAGE) == \
	 ACLCHECK_OK)
#define etl_may_connect(database, role)                                  \
	(object_aclcheck(DatabaseRelationId, database, role, ACL_CONNECT) == \
	 ACLCHECK_OK)
#define etl_owns_extension(extension, role) \
	object_ownercheck(ExtensionRelationId, extension, role)
#else
#define etl_rd_first_new_storage_subid(rel) ((rel)->rd_firstRelfilenodeSubid)
#define etl_rd_new_storage_subid(rel)		((rel)->rd_newRelfilenodeSubid)
#define etl_insert_index_tuples(rri, slot, estate) \
	ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL)
#define etl_insert_unless_taken(rri, slot, estate, taken, arbiters) \
	ExecInsertIndexTuples(rri, slot, estate, false, true, taken, arbiters)
#define etl_truncate_tables(rels, relids, logged, restarts) \
	ExecuteTruncateGuts(rels, relids, logged, DROP_RESTRICT, restarts)
#define etl_root_to_child_map(rri, estate) ((rri)->ri_RootToPartitionMap)
#define etl_owns_database(database, role)  pg_database_ownercheck(database, role)
#define etl_owns_relation(relid, role)	   pg_class_ownercheck(relid, role)
#define etl_may_execute(function, role) \
	(pg_proc_aclcheck(function, role, ACL_EXECUTE) == ACLCHECK_OK)
#define etl_may_use_server(server, role) \
	(pg_foreign_server_aclcheck(server, role, ACL_USAGE) == ACLCHECK_OK)
#define etl_may_connect(database, role) \
	(pg_database_aclcheck(database, role, ACL_CONNECT) == ACLCHECK_OK)
#define etl_owns_extension(extension, role) \
	pg_extension_ownercheck(extension, role)
#endif

#if PG_VERSION_NUM >= 180000
#define etl_check_index_constraints(rri, slot, estate, conflict, arbiters) \
	ExecCheckIndexConstraints(rri, slot, estate, conflict, NULL, arbiters)
#else
#define etl_check_index_constraints(rri, slot, estate, conflict, arbiters) \
	ExecCheckIndexConstraints(rri, slot, estate, conflict, arbiters)
#endif

#if PG_VERSION_NUM >= 180000
#define etl_index_beginscan(rel, index, snapshot, nkeys) \
	index_beginscan(rel, index, snapshot, NULL, nkeys, 0)
#else
#define etl_index_beginscan(rel, index, snapshot, nkeys) \
	index_beginscan(rel, index, snapshot, nkeys, 0)
#endif

#if PG_VERSION_NUM >= 170000
#define etl_reindex_index(indexoid, persistence, params) \
	reindex_index(NULL, indexoid, false, persistence, params)
#else
#define etl_reindex_index(indexoid, persistence, params) \
	reindex_index(indexoid, false, persistence, params)
#endif

/* What table_tuple_update() says of the indexes, and what is to be done. */
#if PG_VERSION_NUM >= 160000
typedef TU_UpdateIndexes EtlIndexUpdates;
#define etl_updates_indexes(updates) ((updates) != TU_None)
#define etl_update_index_tuples(rri, slot, estate, updates)          \
	ExecInsertIndexTuples(rri, slot, estate, true, false, NULL, NIL, \
						  (updates) == TU_Summarizing)
#else
typedef bool EtlIndexUpdates;
#define etl_updates_indexes(updates) (updates)
#define etl_update_index_tuples(rri, slot, estate, updates) \
	ExecInsertIndexTuples(rri, slot, estate, true, false, NULL, NIL)
#endif

/*
 * Give the executor a range table whose only entry is the target of a change
 * to the given columns (attribute numbers, offset).  The caller has checked
 * the privileges and holds the lock.
 */
static inline void
etl_init_range_table(EState *estate, Relation target, AclMode privileges,
					 Bitmapset *inserted, Bitmapset *updated)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);

	rte->rtekind = RTE_RELATION;
	rte->relid = RelationGetRelid(target);
	rte->relkind = target->rd_rel->relkind;
	rte->rellockmode = RowExclusiveLock;

	/* The executor asks for this very mode, where a stronger one is held. */
	LockRelationOid(rte->relid, RowExclusiveLock);
#if PG_VERSION_NUM >= 160000
	{
		List *perminfos = NIL;
		RTEPermissionInfo *perminfo = addRTEPermissionInfo(&perminfos, rte);

		perminfo->requiredPerms = privileges;
		perminfo->insertedCols = inserted;
		perminfo->updatedCols = updated;
#if PG_VERSION_NUM >= 180000
		ExecInitRangeTable(estate, list_make1(rte), perminfos,
						   bms_make_singleton(1));
#else
		ExecInitRangeTable(estate, list_make1(rte), perminfos);
#endif
	}
#else
	rte->requiredPerms = privileges;
	rte->insertedCols = inserted;
	rte->updatedCols = updated;
	ExecInitRangeTable(estate, list_make1(rte));
#endif
}

/* The same for an INSERT; attribute numbers are not offset. */
static inline void
etl_init_target_range_table(EState *estate, Relation target,
							const AttrNumber *attnums, int natts)
{
	Bitmapset *inserted = NULL;

	for (int i = 0; i < natts; i++)
		inserted = bms_add_member(inserted,
								  attnums[i] -
									  FirstLowInvalidHeapAttributeNumber);
	etl_init_range_table(estate, target, ACL_INSERT, inserted, NULL);
}

/* ------------------------------------------------------------------ */
/* columns                                                              */

#include "access/tupdesc.h"
#include "catalog/pg_attribute.h"

/* A column that is computed when it is read, and not stored: PostgreSQL 18. */
#if PG_VERSION_NUM >= 180000
#define etl_is_virtual(attribute) \
	((attribute)->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL)
#else
#define etl_is_virtual(attribute) ((void) (attribute), false)
#endif

/*
 * Has no row of a table a null in a column, by attribute number - 1?  From
 * PostgreSQL 18 on a NOT NULL may say nothing of the rows that were there.
 */
#if PG_VERSION_NUM >= 180000
#define etl_has_no_nulls(desc, i) \
	(TupleDescCompactAttr(desc, i)->attnullability == ATTNULLABLE_VALID)
#else
#define etl_has_no_nulls(desc, i) (TupleDescAttr(desc, i)->attnotnull)
#endif

/* ------------------------------------------------------------------ */
/* descriptors that are put together by hand                            */

/* After an attribute was copied into a descriptor. */
static inline void
etl_init_attribute(TupleDesc desc, int index)
{
#if PG_VERSION_NUM >= 180000
	populate_compact_attribute(desc, index);
#else
	TupleDescAttr(desc, index)->attcacheoff = -1;
#endif
}

/*
 * A descriptor of the first attributes of another one.  Its number of
 * attributes must not just be set: PostgreSQL 18 finds them by it.
 */
static inline TupleDesc
etl_first_attributes(TupleDesc desc, int natts)
{
	TupleDesc first = CreateTemplateTupleDesc(natts);

	for (int i = 1; i <= natts; i++)
		TupleDescCopyEntry(first, i, desc, i);
	return first;
}

/* ------------------------------------------------------------------ */
/* input functions                                                      */

#include "fmgr.h"
#if PG_VERSION_NUM >= 160000
#include "nodes/miscnodes.h"
#endif

/*
 * Calls an input function.  Its error is returned where it can be had without
 * being thrown, in the current memory context; NULL if there is none.
 */
static inline ErrorData *
etl_call_input(FmgrInfo *function, char *string, Oid ioparam, int32 typmod,
			   Datum *value)
{
#if PG_VERSION_NUM >= 160000
	ErrorSaveContext context = {.type = T_ErrorSaveContext,
								.details_wanted = true};

	if (!InputFunctionCallSafe(function, string, ioparam, typmod,
							   (Node *) &context, value))
		return context.error_data;
#else
	*value = InputFunctionCall(function, string, ioparam, typmod);
#endif
	return NULL;
}

/* ------------------------------------------------------------------ */
/* names                                                                */

#include "utils/regproc.h"

/* The parts of a name, as a list of String nodes; throws if it is none. */
#if PG_VERSION_NUM >= 160000
#define etl_qualified_names(text) stringToQualifiedNameList(text, NULL)
#else
#define etl_qualified_names(text) stringToQualifiedNameList(text)
#endif

#include "parser/parse_type.h"

/* The type that a text names, with its modifier; throws if there is none. */
#if PG_VERSION_NUM >= 160000
#define etl_parse_type(text, type, typmod) \
	((void) parseTypeString(text, type, typmod, NULL))
#else
#define etl_parse_type(text, type, typmod) \
	parseTypeString(text, type, typmod, false)
#endif

#include "catalog/namespace.h"

/* The functions of a name that take so many arguments as they are. */
#define etl_function_candidates(names, n) \
	FuncnameGetCandidates(names, n, NIL, false, false, false, true)

/* ------------------------------------------------------------------ */
/* logical decoding: to be used with replication/slot.h and reorderbuffer.h */

/* A row of a change, or NULL. */
#if PG_VERSION_NUM >= 170000
#define etl_change_row(row) (row)
#else
#define etl_change_row(row) ((row) != NULL ? &(row)->tuple : NULL)
#endif

#if PG_VERSION_NUM >= 170000
#define etl_slot_create(name, persistency) \
	ReplicationSlotCreate(name, true, persistency, false, false, false)
#else
#define etl_slot_create(name, persistency) \
	ReplicationSlotCreate(name, true, persistency, false)
#endif

#if PG_VERSION_NUM >= 180000
#define etl_slot_acquire(name) ReplicationSlotAcquire(name, true, false)
#else
#define etl_slot_acquire(name) ReplicationSlotAcquire(name, true)
#endif

/*
 * The slot of this process is copied to standbys, or not any more: since
 * PostgreSQL 17.
 */
#if PG_VERSION_NUM >= 170000
#define etl_slot_is_failover() (MyReplicationSlot->data.failover)
#define etl_slot_set_failover(is_failover)                \
	do                                                    \
	{                                                     \
		SpinLockAcquire(&MyReplicationSlot->mutex);       \
		MyReplicationSlot->data.failover = (is_failover); \
		SpinLockRelease(&MyReplicationSlot->mutex);       \
		ReplicationSlotMarkDirty();                       \
		ReplicationSlotSave();                            \
	} while (0)
#else
#define etl_slot_is_failover()			   false
#define etl_slot_set_failover(is_failover) ((void) (is_failover))
#endif

/*
 * Are there standbys, named in synchronized_standby_slots, that slots wait for?
 * Have they all WAL up to a position?  What is wrong with one goes to the log.
 */
#if PG_VERSION_NUM >= 170000
#define etl_standbys_are_named() (synchronized_standby_slots[0] != '\0')
#define etl_standbys_have(position, elevel) \
	StandbySlotsHaveCaughtup(position, elevel)
#else
#define etl_standbys_are_named()			false
#define etl_standbys_have(position, elevel) ((void) (position), true)
#endif

/* Has the server removed WAL that the slot was to keep? */
#if PG_VERSION_NUM >= 160000
#define etl_slot_is_invalidated(slot) \
	((slot)->data.invalidated != RS_INVAL_NONE)
#else
#define etl_slot_is_invalidated(slot) \
	(XLogRecPtrIsInvalid((slot)->data.restart_lsn))
#endif

/* ------------------------------------------------------------------ */
/* statistics                                                           */

/*
 * Can an extension have a kind of its own among the server's cumulative
 * statistics?  Then ledger/stat_kind.c keeps the counters of runs, else
 * ledger/stat_memory.c.
 */
#if PG_VERSION_NUM >= 180000
#define ETL_HAS_CUSTOM_STATS
#endif

/* ------------------------------------------------------------------ */
/* settings                                                             */

#include "utils/guc.h"
#include "utils/guc_tables.h"

/* The transactions of this process may take their time: PostgreSQL 17. */
#if PG_VERSION_NUM >= 170000
#define etl_no_transaction_timeout(context, source, action)                \
	((void) set_config_option("transaction_timeout", "0", context, source, \
							  action, true, 0, false))
#else
#define etl_no_transaction_timeout(context, source, action) ((void) 0)
#endif

/* All of them, and how many there are. */
static inline struct config_generic **
etl_guc_variables(int *n)
{
#if PG_VERSION_NUM >= 160000
	return get_guc_variables(n);
#else
	*n = GetNumConfigOptions();
	return get_guc_variables();
#endif
}

#endif /* ETL_COMPAT_H */
