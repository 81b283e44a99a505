/*-------------------------------------------------------------------------
 *
 * sink.c
 *	  Which sink serves a target, and what all sinks have in common.
 *
 * A new sink is one new file and one line in the table below.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/append.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/pg_am.h"
#include "foreign/fdwapi.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"

/* A batch of copied rows holds no more bytes, so that its memory stays small. */
#define MAX_BATCH_BYTES (1024 * 1024)

/* The first that says yes serves. */
static const EtlSinkOps *const sinks[] = {
	&etl_append_heap_ops,
	&etl_append_sql_ops,
};

static void check_foreign_table(Relation target);
static void check_columns(Relation target, const AttrNumber *attnums, int natts);
static void check_column_acl(Relation target, AttrNumber attnum, AclMode mode);
static void check_conflict_acl(Relation target, const AttrNumber *attnums,
							   int natts, const EtlSinkOptions *options);

/*
 * May the current role insert these columns into this target, and can anyone?
 * Throws what an INSERT would throw, before any row is read.
 */
void
etl_sink_check_privileges(Relation target, const AttrNumber *attnums, int natts,
						  const EtlSinkOptions *options)
{
	Oid relid = RelationGetRelid(target);

	etl_sink_check_kind(target);
	check_columns(target, attnums, natts);

	if (pg_class_aclcheck(relid, GetUserId(), ACL_INSERT) != ACLCHECK_OK)
	{
		if (natts == 0 &&
			pg_attribute_aclcheck_all(relid, GetUserId(), ACL_INSERT,
									  ACLMASK_ANY) != ACLCHECK_OK)
			aclcheck_error(ACLCHECK_NO_PRIV,
						   get_relkind_objtype(target->rd_rel->relkind),
						   RelationGetRelationName(target));
		for (int i = 0; i < natts; i++)
			check_column_acl(target, attnums[i], ACL_INSERT);
	}
	if (options->on_conflict != ETL_CONFLICT_ERROR)
		check_conflict_acl(target, attnums, natts, options);

	if (!target->rd_islocaltemp)
		PreventCommandIfReadOnly("INSERT");
	PreventCommandIfParallelMode("INSERT");
}

/*
 * Does a rollback of what is written now take the table's storage with it?
 * Then nobody else can see the rows before the commit, frozen or not.
 */
bool
etl_sink_may_freeze(Relation target)
{
	SubTransactionId now = GetCurrentSubTransactionId();

	return target->rd_createSubid == now ||
		   etl_rd_new_storage_subid(target) == now;
}

/*
 * May rows go into the target as if they had always been there?  As with
 * COPY's FREEZE nothing in this transaction may read it with a snapshot from
 * before.
 */
void
etl_sink_check_freeze(Relation target)
{
	if (target->rd_rel->relkind != RELKIND_RELATION ||
		target->rd_rel->relam != HEAP_TABLE_AM_OID)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot freeze rows of \"%s\"",
						RelationGetRelationName(target)),
				 errdetail("Only the rows of a plain table can be frozen.")));
	InvalidateCatalogSnapshot();
	if (!ThereAreNoPriorRegisteredSnapshots() || !ThereAreNoReadyPortals())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg(
					 "cannot freeze rows because of prior transaction activity"),
				 errhint(
					 "Close all cursors, and call the function at the top level.")));
	if (!etl_sink_may_freeze(target))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot freeze rows because table \"%s\" was not created or truncated in the current subtransaction",
						RelationGetRelationName(target)),
				 errhint("Begin a transaction, truncate the table, then load.")));
}

/*
 * Opens a sink for rows of the given columns.  reject is called at flush for
 * each row that fails, if options->guarded; it must not touch the sink.  The
 * sink lives in the current memory context.  BEFORE STATEMENT triggers fire.
 */
EtlSink *
etl_sink_open(Relation target, const AttrNumber *attnums, int natts,
			  const EtlSinkOptions *options, EtlSinkRejectCall reject,
			  void *reject_arg)
{
	EtlSink *sink;
	int i = 0;

	while (!sinks[i]->serves(target, options))
	{
		if (++i == lengthof(sinks))
			elog(ERROR, "no sink serves relation \"%s\"",
				 RelationGetRelationName(target));
	}
	sink = sinks[i]->open(target, attnums, natts, options);
	sink->ops = sinks[i];
	sink->reject = reject;
	sink->reject_arg = reject_arg;
	return sink;
}

/* The slot of the next row, with what it held before. */
static TupleTableSlot *
take_slot(EtlSink *sink)
{
	if (sink->batch_rows >= sink->batch_limit)
		elog(ERROR, "batch of %d rows was not flushed", sink->batch_rows);
	if (unlikely(sink->slots[sink->batch_rows] == NULL))
	{
		MemoryContext oldcontext;

		oldcontext = MemoryContextSwitchTo(GetMemoryChunkContext(sink->slots));
		/* A thousand pins of one descriptor would take longer than all else. */
		if (sink->slot_desc == NULL)
			sink->slot_desc = CreateTupleDescCopyConstr(
				RelationGetDescr(sink->target));
		if (sink->slot_ops == NULL)
			sink->slot_ops = table_slot_callbacks(sink->target);
		sink->slots[sink->batch_rows] = MakeSingleTupleTableSlot(sink->slot_desc,
																 sink->slot_ops);
		MemoryContextSwitchTo(oldcontext);
	}
	return sink->slots[sink->batch_rows++];
}

/*
 * The slot of the next row.  The caller fills tts_values and tts_isnull of
 * the supplied columns only, and stores nothing; by-reference values live in
 * sink->batch_context.  It must flush when batch_rows reaches batch_limit:
 * the sink cannot do it, since what rows refer to is the caller's.
 */
TupleTableSlot *
etl_sink_next_slot(EtlSink *sink)
{
	return ExecClearTuple(take_slot(sink));
}

/* Takes back the slot given last: its row is not to be written. */
void
etl_sink_drop_slot(EtlSink *sink)
{
	Assert(sink->batch_rows > 0);
	sink->batch_rows--;
}

/*
 * The next row is a copy of this one: no value is taken out of the tuple and
 * put back.  Returns false, and does nothing, if the slot's rows cannot go in
 * as they are.  The caller knows that each column of the slot is the target's
 * in the same place.
 */
bool
etl_sink_add_tuple(EtlSink *sink, TupleTableSlot *slot)
{
	bool should_free;
	HeapTuple tuple;

	if (slot != sink->seen)
	{
		/* A table that is scanned gives all its rows in one slot. */
		sink->seen = slot;
		sink->takes_seen = TTS_IS_BUFFERTUPLE(slot) &&
						   sink->ops->takes_tuples != NULL &&
						   sink->ops->takes_tuples(sink,
												   slot->tts_tupleDescriptor);
	}
	if (!sink->takes_seen)
		return false;
	tuple = ExecFetchSlotHeapTuple(slot, false, &should_free);
	etl_sink_add_heap_tuple(sink, tuple);
	if (should_free)
		heap_freetuple(tuple);
	return true;
}

/* May tuples of the target's own layout, with all its columns, be added? */
bool
etl_sink_takes_own_tuples(EtlSink *sink)
{
	return sink->ops->takes_tuples != NULL &&
		   sink->ops->takes_tuples(sink, RelationGetDescr(sink->target));
}

/* The next row is a copy of such a tuple. */
void
etl_sink_add_heap_tuple(EtlSink *sink, HeapTuple tuple)
{
	HeapTupleHeader copy = MemoryContextAlloc(sink->batch_context, tuple->t_len);

	memcpy(copy, tuple->t_data, tuple->t_len);
	etl_sink_add_formed(sink, copy, tuple->t_len);
}

/*
 * May whole tuples of the target's own layout be added, in a guarded sink,
 * too?  Then says what the columns get, by attribute number - 1, that are not
 * supplied.
 */
bool
etl_sink_takes_formed(EtlSink *sink, Datum *values, bool *isnull)
{
	return sink->ops->takes_formed != NULL &&
		   sink->ops->takes_formed(sink, values, isnull);
}

/*
 * The next row is this tuple, which is not copied: MAXALIGNed, it stays where it
 * is until the flush, and its head is written to.
 */
void
etl_sink_add_formed(EtlSink *sink, HeapTupleHeader tuple, uint32 len)
{
	sink->batch_bytes += len;
	etl_row_slot_lend(take_slot(sink), tuple, len);
}

/*
 * Puts a copy of a value into a row that etl_sink_next_slot() has given.  The
 * current memory context is the batch's.
 */
void
etl_sink_add_value(EtlSink *sink, TupleTableSlot *row, AttrNumber attnum,
				   Datum value, bool isnull)
{
	Form_pg_attribute att = TupleDescAttr(row->tts_tupleDescriptor, attnum - 1);

	if (!isnull && !att->attbyval)
	{
		value = datumCopy(value, false, att->attlen);
		sink->batch_bytes += datumGetSize(value, false, att->attlen);
	}
	row->tts_values[attnum - 1] = value;
	row->tts_isnull[attnum - 1] = isnull;
}

/* Has the caller to flush now, for the rows or for the memory they take? */
bool
etl_sink_is_full(const EtlSink *sink)
{
	return sink->batch_rows == sink->batch_limit ||
		   sink->batch_bytes > MAX_BATCH_BYTES;
}

/* Other columns from the next row on; the batch must be flushed. */
void
etl_sink_set_columns(EtlSink *sink, const AttrNumber *attnums, int natts)
{
	if (sink->batch_rows > 0)
		elog(ERROR, "columns of a sink changed within a batch");
	sink->ops->set_columns(sink, attnums, natts);
}

/*
 * Writes the batch and empties it; resets batch_context.  Rejects are
 * reported in the order of the rows, after all rows of the batch have been
 * tried.
 */
void
etl_sink_flush(EtlSink *sink)
{
	if (sink->batch_rows > 0)
	{
		sink->ops->flush(sink);
		sink->current_row = -1;
		sink->batch_rows = 0;
		CommandCounterIncrement();
	}
	MemoryContextReset(sink->batch_context);
	sink->batch_bytes = 0;
}

/* Flushes, fires AFTER STATEMENT triggers and gives back everything. */
void
etl_sink_close(EtlSink *sink)
{
	etl_sink_flush(sink);
	for (int i = 0; i < ETL_MAX_BATCH_ROWS && sink->slots[i] != NULL; i++)
		ExecDropSingleTupleTableSlot(sink->slots[i]);
	sink->ops->close(sink);
}

/* A wrapper that cannot insert is no fault of the rows. */
static void
check_foreign_table(Relation target)
{
	FdwRoutine *routine = GetFdwRoutineForRelation(target, false);

	if (routine->ExecForeignInsert == NULL ||
		(routine->IsForeignRelUpdatable != NULL &&
		 (routine->IsForeignRelUpdatable(target) & (1 << CMD_INSERT)) == 0))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot insert into foreign table \"%s\"",
						RelationGetRelationName(target)),
				 errdetail(
					 "Its foreign-data wrapper or its options do not allow it.")));
}

/*
 * Refuses what INSERT refuses, with a word on the way out.  Asks for no
 * privilege; foreign tables say for themselves whether they take rows.
 */
void
etl_sink_check_kind(Relation target)
{
	const char *name = RelationGetRelationName(target);

	switch (target->rd_rel->relkind)
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
		case RELKIND_VIEW:
			break;
		case RELKIND_FOREIGN_TABLE:
			check_foreign_table(target);
			break;
		case RELKIND_MATVIEW:
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("cannot load into materialized view \"%s\"", name),
					 errhint(
						 "Load into the tables that it reads, then use REFRESH MATERIALIZED VIEW.")));
			break;
		case RELKIND_SEQUENCE:
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("cannot load into sequence \"%s\"", name),
					 errhint(
						 "The target must be a table, a foreign table or an updatable view.")));
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("cannot load into \"%s\"", name),
					 errdetail_relkind_not_supported(target->rd_rel->relkind),
					 errhint(
						 "The target must be a table, a foreign table or an updatable view.")));
	}
	if (!allowSystemTableMods && IsSystemRelation(target))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied: \"%s\" is a system catalog", name)));
	if (RELATION_IS_OTHER_TEMP(target))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot access temporary tables of other sessions")));
}

/* Each column once, and none that the table computes. */
static void
check_columns(Relation target, const AttrNumber *attnums, int natts)
{
	TupleDesc desc = RelationGetDescr(target);
	Bitmapset *seen = NULL;

	for (int i = 0; i < natts; i++)
	{
		Form_pg_attribute att;

		if (attnums[i] < 1 || attnums[i] > desc->natts)
			elog(ERROR, "invalid column number %d of relation \"%s\"",
				 attnums[i], RelationGetRelationName(target));
		att = TupleDescAttr(desc, attnums[i] - 1);
		if (att->attisdropped)
			elog(ERROR, "column number %d of relation \"%s\" was dropped",
				 attnums[i], RelationGetRelationName(target));
		if (att->attgenerated)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
					 errmsg("column \"%s\" is a generated column",
							NameStr(att->attname)),
					 errdetail("Generated columns are computed, not loaded."),
					 errhint("Leave the column out.")));
		if (bms_is_member(attnums[i], seen))
			ereport(ERROR, (errcode(ERRCODE_DUPLICATE_COLUMN),
							errmsg("column \"%s\" specified more than once",
								   NameStr(att->attname))));
		seen = bms_add_member(seen, attnums[i]);
	}
	bms_free(seen);
}

/* The privilege on one column, which that on the table includes. */
static void
check_column_acl(Relation target, AttrNumber attnum, AclMode mode)
{
	Oid relid = RelationGetRelid(target);

	if (pg_class_aclcheck(relid, GetUserId(), mode) != ACLCHECK_OK &&
		pg_attribute_aclcheck(relid, attnum, GetUserId(), mode) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV,
					   get_relkind_objtype(target->rd_rel->relkind),
					   RelationGetRelationName(target));
}

/*
 * ON CONFLICT reads the keys; DO UPDATE writes the other columns too, and to
 * name them as EXCLUDED takes the right to read them.
 */
static void
check_conflict_acl(Relation target, const AttrNumber *attnums, int natts,
				   const EtlSinkOptions *options)
{
	List *keys = etl_conflict_keys(target, options);
	ListCell *lc;
	Bitmapset *key_set = NULL;

	foreach(lc, keys)
	{
		AttrNumber attnum = get_attnum(RelationGetRelid(target),
									   strVal(lfirst(lc)));

		check_column_acl(target, attnum, ACL_SELECT);
		key_set = bms_add_member(key_set, attnum);
	}
	if (options->on_conflict == ETL_CONFLICT_UPDATE)
		for (int i = 0; i < natts; i++)
			if (!bms_is_member(attnums[i], key_set))
			{
				check_column_acl(target, attnums[i], ACL_UPDATE);
				check_column_acl(target, attnums[i], ACL_SELECT);
			}
	bms_free(key_set);
}
