/*-------------------------------------------------------------------------
 *
 * cdc_followed.c
 *	  A table of a pipeline and its sink, from one batch to the next.
 *
 * What a sink knows of its target stays from batch to batch.  It is forgotten
 * when the target may have changed, and with a transaction that was undone.
 *
 * Locks: on a target what its sink asks for, from its first change in a batch
 * to the end of the transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"

#include "flow/cdc_apply.h"

/* The sink of a table as its row has it; all that it knows goes into context. */
EtlApply *
etl_cdc_sink(const EtlCdcTable *table, MemoryContext context)
{
	EtlApply *apply = palloc0(sizeof(EtlApply));

	apply->ops = etl_apply_ops(table->apply);
	apply->pipeline = table->pipeline;
	apply->source = table->source;
	apply->source_relid = table->source_relid;
	apply->target_relid = table->target;
	apply->options = table->apply_options;
	apply->columns = table->columns;
	apply->row_filter = table->row_filter;
	apply->context = apply->batch_context = context;
	return apply;
}

/* A table with its sink, which has done nothing yet. */
EtlCdcFollowed *
etl_cdc_follow_table(EtlCdcApplier *applier, EtlCdcTable *table)
{
	EtlCdcFollowed *followed = palloc0(sizeof(EtlCdcFollowed));
	MemoryContext context = AllocSetContextCreate(applier->table_context,
												  "etl_patterns cdc sink",
												  ALLOCSET_DEFAULT_SIZES);
	EtlApply *apply = etl_cdc_sink(table, context);

	apply->source_db = applier->source_db;
	apply->batch_context = AllocSetContextCreate(applier->table_context,
												 "etl_patterns cdc changes",
												 ALLOCSET_DEFAULT_SIZES);
	followed->table = table;
	followed->apply = apply;
	followed->before_letter = PG_INT64_MAX;
	if (table->copy_snapshot != NULL)
		followed->copy = etl_copy_snapshot_parse(table->copy_snapshot);
	return followed;
}

/*
 * What is read for the owner by a process that may read all must be what the
 * owner may read.
 */
static void
check_source(const EtlCdcTable *table)
{
	Oid relid = table->source_relid;

	if (!OidIsValid(relid) || get_rel_name(relid) == NULL)
		return;
	if (pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(relid, GetUserId(), ACL_SELECT,
								  ACLMASK_ALL) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(relid));
	if (check_enable_rls(relid, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row security of table \"%s\" applies to the pipeline's owner",
						table->source),
				 errhint("Pipelines see all rows: the owner needs BYPASSRLS.")));
}

/* Forget what a sink knows; its transaction is gone. */
void
etl_cdc_discard(EtlCdcFollowed *followed)
{
	EtlApply *apply = followed->apply;

	apply->state = NULL;
	apply->map = NULL;
	apply->target = NULL;
	apply->bytes = 0;
	apply->in_order = apply->defers_triggers = false;
	apply->truncates = apply->restarts_sequences = false;
	MemoryContextReset(apply->context);
	MemoryContextReset(apply->batch_context);
	followed->is_in_batch = followed->is_pending = false;
	followed->copied_as = NULL;
	followed->is_stale = false;
	followed->is_ready = false;
}

/* The first change of a table in the batch. */
void
etl_cdc_begin_table(EtlCdcApplier *applier, EtlCdcFollowed *followed)
{
	EtlApply *apply = followed->apply;
	MemoryContext context;

	check_source(followed->table);
	apply->target = try_table_open(apply->target_relid,
								   apply->ops->lock != NoLock ?
									   apply->ops->lock :
									   RowExclusiveLock);
	if (apply->target == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the target of table \"%s\" does not exist any more",
						apply->source),
				 errhint("Remove the table with etl_cdc_remove_table().")));
	if (followed->is_stale)
	{
		Relation target = apply->target;

		etl_cdc_discard(followed);
		apply->target = target;
	}
	context = MemoryContextSwitchTo(apply->context);
	if (!followed->is_ready)
		apply->ops->check(apply);
	followed->is_ready = true;
	apply->ops->begin(apply);
	applier->any_order |= apply->in_order;

	MemoryContextSwitchTo(applier->batch_context);
	applier->order = lappend(applier->order, followed);
	followed->is_in_batch = true;
	MemoryContextSwitchTo(context);
}

/* All changes of a table are written. */
void
etl_cdc_end_table(EtlCdcApplier *applier, EtlCdcFollowed *followed)
{
	EtlApply *apply = followed->apply;

	apply->ops->end(apply);
	table_close(apply->target, NoLock);
	apply->target = NULL;
	followed->is_in_batch = followed->is_pending = false;
	applier->order = list_delete_ptr(applier->order, followed);
}
