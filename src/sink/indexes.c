/*-------------------------------------------------------------------------
 *
 * indexes.c
 *	  Leaving indexes out of a load and building them at its end.
 *
 * A load with defer_indexes does not maintain the plain indexes of its
 * target.  etl_indexes_rebuild() then builds these anew, in the same
 * transaction, into new storage: OID, name, comment and dependencies stay,
 * and a rollback or a crash leaves the old storage as it was.  Unique and
 * exclusion indexes are always maintained, since each row's violation must
 * be found at that row.
 *
 * Locks: the caller holds ShareRowExclusiveLock on the target from before
 * the first row until the end of the transaction, so that nobody else writes
 * rows; a rebuild takes ShareLock on it and AccessExclusiveLock on each
 * index.  Until the rebuild the indexes lack the new rows, so this
 * transaction must not read the target by them: nothing but foreign key
 * checks of the load itself may run in between.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/append.h"

#include "access/genam.h"
#include "catalog/catalog.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "commands/tablecmds.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/nodes.h"
#include "utils/acl.h"
#include "utils/rls.h"

static bool triggers_allow(Relation target);
static bool expressions_allow(Relation target);
static bool is_used_elsewhere(Relation target);
static List *deferrable_indexes(Relation target);

/* Would a load with defer_indexes leave this index out? */
bool
etl_index_is_deferrable(Relation index)
{
	Form_pg_index form = index->rd_index;

	return !form->indisunique && !form->indisexclusion && !form->indisprimary &&
		   form->indisvalid && form->indisready && form->indislive;
}

/*
 * May a load leave the plain indexes of the target to the end?  If not,
 * *reason is a phrase for the user.
 */
bool
etl_indexes_can_defer(Relation target, const char **reason)
{
	List *indexes;

	*reason = NULL;
	if (target->rd_rel->relkind != RELKIND_RELATION ||
		target->rd_rel->relam != HEAP_TABLE_AM_OID)
		*reason = "the target is not a plain table";
	else if (!etl_owns_relation(RelationGetRelid(target), GetUserId()))
		*reason = "only the owner of a table may rebuild its indexes";
	else if (IsSystemRelation(target))
		*reason = "the target is a system catalog";
	else if (check_enable_rls(RelationGetRelid(target), InvalidOid, true) ==
			 RLS_ENABLED)
		*reason = "row-level security applies to the target";
	else if (!triggers_allow(target))
		*reason = "the target has triggers or deferrable constraints";
	else if (!expressions_allow(target))
		*reason = "a default or a check of the target calls a volatile function";
	else if (is_used_elsewhere(target))
		*reason = "the target is in use by an open query of this session";
	if (*reason != NULL)
		return false;

	indexes = deferrable_indexes(target);
	if (indexes == NIL)
		*reason = "the target has no index that could be left out";
	list_free(indexes);
	return *reason == NULL;
}

/* Builds the indexes that were left out of a run. */
void
etl_indexes_rebuild(Relation target, EtlRun *run)
{
	List *indexes = deferrable_indexes(target);
	int total = list_length(indexes);
	ListCell *lc;

	CheckTableNotInUse(target, "REINDEX");
	foreach(lc, indexes)
	{
		ReindexParams params = {0};

		CHECK_FOR_INTERRUPTS();
		etl_progress_set(run, ETL_PHASE_INDEXES, ETL_UNIT_INDEXES,
						 foreach_current_index(lc), total);
		etl_reindex_index(lfirst_oid(lc), target->rd_rel->relpersistence,
						  &params);
		CommandCounterIncrement();
	}
	list_free(indexes);
}

/*
 * Foreign keys that point from the target to other tables are no obstacle:
 * their checks read the other table's index.  Those that are deferrable may
 * still be pending when the indexes are to be built.
 */
static bool
triggers_allow(Relation target)
{
	TriggerDesc *trigdesc = target->trigdesc;

	for (int i = 0; trigdesc != NULL && i < trigdesc->numtriggers; i++)
	{
		Trigger *trigger = &trigdesc->triggers[i];

		if (!TRIGGER_FOR_INSERT(trigger->tgtype))
			continue;
		if (RI_FKey_trigger_type(trigger->tgfoid) != RI_TRIGGER_FK ||
			trigger->tgconstrrelid == RelationGetRelid(target) ||
			trigger->tgdeferrable)
			return false;
	}
	return true;
}

/*
 * Defaults and checks run while rows are written, and a volatile function of
 * the user's may look at the target by an index that lacks them.
 */
static bool
expressions_allow(Relation target)
{
	TupleConstr *constr = RelationGetDescr(target)->constr;

	if (constr == NULL)
		return true;
	for (int i = 0; i < constr->num_defval; i++)
		if (etl_calls_user_function(stringToNode(constr->defval[i].adbin), NULL))
			return false;
	for (int i = 0; i < constr->num_check; i++)
		if (etl_calls_user_function(stringToNode(constr->check[i].ccbin), NULL))
			return false;
	return true;
}

/* What CheckTableNotInUse() would throw for. */
static bool
is_used_elsewhere(Relation target)
{
	int expected = target->rd_isnailed ? 2 : 1;

	return target->rd_refcnt != expected ||
		   AfterTriggerPendingOnRel(RelationGetRelid(target));
}

/* The OIDs of the indexes that a load leaves out. */
static List *
deferrable_indexes(Relation target)
{
	List *indexes = RelationGetIndexList(target);
	List *result = NIL;
	ListCell *lc;

	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		if (etl_index_is_deferrable(index))
			result = lappend_oid(result, lfirst_oid(lc));
		index_close(index, NoLock);
	}
	list_free(indexes);
	return result;
}
