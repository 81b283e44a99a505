/*-------------------------------------------------------------------------
 *
 * indexes.c
 *	  Leaving indexes out of a load and building them at its end.
 *
 * A load may leave indexes of its target out.  etl_indexes_rebuild() then
 * builds these anew, in the same transaction, into new storage: OID, name,
 * comment and dependencies stay, and a rollback or a crash leaves the old
 * storage as it was.
 *
 * A violation must be found at its row all the same, and a row that an index
 * refuses must not cost more than itself.  So unique indexes are left out
 * together or not at all: if append_keys.c can decide for each of them.
 * Exclusion constraints are always maintained.  In a guarded load nothing is
 * left out that might choke on a row when it is built: expressions,
 * predicates, and access methods whose operator classes look into values.
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
#include "access/htup_details.h"
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
static void choose_indexes(Relation target, bool guarded, EtlLeftOut *left_out);
static bool can_wait(Relation index, bool guarded);
static bool is_unique(Oid indexoid);

/* Is it an index on columns, without conditions? */
bool
etl_index_is_simple(Relation index)
{
	return heap_attisnull(index->rd_indextuple, Anum_pg_index_indexprs, NULL) &&
		   heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL);
}

/* Does a sink with these options leave this index out? */
bool
etl_index_is_left_out(const EtlSinkOptions *options, Oid index)
{
	return options->left_out != NULL &&
		   list_member_oid(options->left_out->indexes, index);
}

/*
 * Which indexes of the target may a load leave to the end?  If none, the
 * result is NULL and *reason is a phrase for the user.
 */
EtlLeftOut *
etl_indexes_leave_out(Relation target, bool guarded, const char **reason)
{
	EtlLeftOut *left_out;

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
		return NULL;

	left_out = palloc0(sizeof(EtlLeftOut));
	choose_indexes(target, guarded, left_out);
	if (left_out->indexes != NIL)
		return left_out;
	*reason = "the target has no index that could be left out";
	return NULL;
}

/* Builds the indexes that were left out of a run. */
void
etl_indexes_rebuild(Relation target, EtlLeftOut *left_out, EtlRun *run)
{
	etl_indexes_build(target, left_out, false, run);
}

/*
 * Builds the indexes that are left out, or the unique ones of them, which are
 * no longer left out from then on.  Without a run this is no phase of its own.
 */
void
etl_indexes_build(Relation target, EtlLeftOut *left_out, bool unique_only,
				  EtlRun *run)
{
	int total = list_length(left_out->indexes);
	List *built = NIL;
	ListCell *lc;

	CheckTableNotInUse(target, "REINDEX");
	foreach(lc, left_out->indexes)
	{
		Oid indexoid = lfirst_oid(lc);
		ReindexParams params = {0};

		CHECK_FOR_INTERRUPTS();
		if (unique_only && !is_unique(indexoid))
			continue;
		if (run != NULL)
			etl_progress_set(run, ETL_PHASE_INDEXES, ETL_UNIT_INDEXES,
							 foreach_current_index(lc), total);
		etl_reindex_index(indexoid, target->rd_rel->relpersistence, &params);
		CommandCounterIncrement();
		built = lappend_oid(built, indexoid);
	}
	foreach(lc, built)
		left_out->indexes = list_delete_oid(left_out->indexes, lfirst_oid(lc));
	list_free(built);
	left_out->unique = false;
}

/* Unique indexes are maintained after all; no row has been written yet. */
void
etl_indexes_keep_unique(EtlLeftOut *left_out)
{
	ListCell *lc;

	foreach(lc, left_out->indexes)
		if (is_unique(lfirst_oid(lc)))
			left_out->indexes = foreach_delete_current(left_out->indexes, lc);
	left_out->unique = false;
}

static bool
is_unique(Oid indexoid)
{
	Relation index = index_open(indexoid, AccessShareLock);
	bool result = index->rd_index->indisunique;

	index_close(index, NoLock);
	return result;
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

/*
 * Unique indexes are left out if all of them can be; in a guarded load only if
 * nothing is left that could refuse a row once its keys are taken.
 */
static void
choose_indexes(Relation target, bool guarded, EtlLeftOut *left_out)
{
	List *indexes = RelationGetIndexList(target);
	List *unique = NIL;
	bool leave_unique = true;
	bool maintains = target->trigdesc != NULL &&
					 (target->trigdesc->trig_insert_before_row ||
					  target->trigdesc->trig_insert_after_row);
	ListCell *lc;

	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);
		bool waits = can_wait(index, guarded);

		if (index->rd_index->indisunique || index->rd_index->indisexclusion)
		{
			leave_unique = leave_unique && waits;
			unique = lappend_oid(unique, lfirst_oid(lc));
		}
		else if (waits)
			left_out->indexes = lappend_oid(left_out->indexes, lfirst_oid(lc));
		else
			maintains = true;
		index_close(index, NoLock);
	}
	if (leave_unique && unique != NIL && !(guarded && maintains))
	{
		left_out->indexes = list_concat(left_out->indexes, unique);
		left_out->unique = true;
	}
	list_free(indexes);
}

static bool
can_wait(Relation index, bool guarded)
{
	Form_pg_index form = index->rd_index;
	Oid am = index->rd_rel->relam;

	if (form->indisexclusion || !form->indisvalid || !form->indisready ||
		!form->indislive)
		return false;
	if (form->indisunique)
		return etl_keys_serve(index);
	return !guarded ||
		   (etl_index_is_simple(index) &&
			(am == BTREE_AM_OID || am == HASH_AM_OID || am == BRIN_AM_OID));
}
