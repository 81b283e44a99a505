/*-------------------------------------------------------------------------
 *
 * cdc_copy.c
 *	  A table as it is when its changes begin to be followed.
 *
 * The stream of changes has begun before: a reader reports all transactions of
 * the table that commit from some position on.  The copy is made under one
 * snapshot, and that snapshot says afterwards which of them it holds: they are
 * passed over, the others are applied.  For that to have no gap, the snapshot
 * must see every transaction whose commit may have been read before the reader
 * reported this table.  A commit is in the WAL a moment before others can see
 * it, or long before where it waits for a standby.  So those that have written
 * their commit are waited for (settle) before the snapshot is taken; those that
 * are still at work are not, however long that takes.
 *
 * The copy of a table, its snapshot and its new state are one transaction, and
 * so are the copies of tables whose targets foreign keys bind together: only
 * under one snapshot do all rows have what they refer to.  The stream waits
 * meanwhile.  A copy that is interrupted leaves nothing, and the tables that
 * were copied before it stay.
 *
 * Locks: AccessShareLock on the source, RowExclusiveLock on the target, then
 * the row of the pipeline.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heaptoast.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "flow/cdc_apply.h"
#include "flow/cdc_check.h"
#include "source/rows.h"

/* Descriptions of copies have numbers that no stream reaches. */
#define FIRST_NUMBER 0xF0000000

/* Between two looks whether a transaction has ended; milliseconds. */
#define SETTLE_WAIT 2

/* A copy that is being made. */
typedef struct Copy
{
	EtlCdcApplier *applier;
	EtlCdcFollowed *followed;
	EtlSourceRelation *relation;
	AttrNumber *attnums; /* of the source: columns of the description */
	bool is_plain;		 /* rows are in the layout of the description */
	bool truncates;		 /* the target is emptied first */
	Relation source;	 /* here */
	Snapshot snapshot;
	EtlRemoteTable *remote; /* or there */
	EtlChangeEvent event;
} Copy;

/* Of the next description. */
static uint32 number = 0;

static List *next_group(const EtlCdcApplier *applier);
static void settle(void);
static void wait_a_moment(void);
static void read_source(Copy *copy, Relation source);
static void copy_row(void *arg, TupleTableSlot *slot);
pg_noreturn static void source_is_gone(const Copy *copy);
static bool store(EtlCdcApplier *applier, const Copy *copy,
				  const char *snapshot);
static EtlCdcResult finish(EtlCdcApplier *applier, List *copies,
						   const char *snapshot, XLogRecPtr end);

/* ------------------------------------------------------------------ */
/* snapshots as text                                                    */

/* The snapshot that pg_current_snapshot() has written. */
EtlCopySnapshot *
etl_copy_snapshot_parse(const char *text)
{
	EtlCopySnapshot *snapshot = palloc0(sizeof(EtlCopySnapshot));
	int n = 1;
	char *end;

	for (const char *c = text; *c != '\0'; c++)
		n += *c == ',';
	snapshot->xip = palloc(sizeof(uint64) * n);
	snapshot->xmin = strtou64(text, &end, 10);
	if (*end != ':')
		elog(ERROR, "not a snapshot: \"%s\"", text);
	snapshot->xmax = strtou64(end + 1, &end, 10);
	if (*end != ':')
		elog(ERROR, "not a snapshot: \"%s\"", text);
	while (end[0] != '\0' && end[1] != '\0')
		snapshot->xip[snapshot->nxip++] = strtou64(end + 1, &end, 10);
	return snapshot;
}

/*
 * Did the copy see that transaction?  Its number is completed by that of the
 * snapshot: they are less than 2^31 apart.
 */
bool
etl_copy_snapshot_sees(const EtlCopySnapshot *snapshot, TransactionId xid)
{
	uint64 full = snapshot->xmax + (int32) (xid - (uint32) snapshot->xmax);
	int low = 0;
	int high = snapshot->nxip - 1;

	if (full < snapshot->xmin || full >= snapshot->xmax)
		return full < snapshot->xmin;
	while (low <= high)
	{
		int middle = (low + high) / 2;

		if (snapshot->xip[middle] == full)
			return false;
		if (snapshot->xip[middle] < full)
			low = middle + 1;
		else
			high = middle - 1;
	}
	return true;
}

/* ------------------------------------------------------------------ */
/* when a snapshot sees what was read                                   */

static void
wait_a_moment(void)
{
	CHECK_FOR_INTERRUPTS();
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 SETTLE_WAIT, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
}

/*
 * Wait until each transaction whose commit is in the WAL now can be seen.  One
 * that is writing its commit holds off checkpoints until its status says that
 * it is committed; after that it may still be taken for running.
 */
static void
settle(void)
{
	VirtualTransactionId *vxids;
	TransactionId *xids;
	Snapshot snapshot;
	int nxids;
	int n;

	vxids = GetVirtualXIDsDelayingChkpt(&n, DELAY_CHKPT_START);
	while (HaveVirtualXIDsDelayingChkpt(vxids, n, DELAY_CHKPT_START))
		wait_a_moment();

	snapshot = GetLatestSnapshot();
	nxids = snapshot->xcnt;
	xids = palloc(sizeof(TransactionId) * Max(nxids, 1));
	memcpy(xids, snapshot->xip, sizeof(TransactionId) * nxids);
	for (int i = 0; i < nxids; i++)
		if (TransactionIdDidCommit(xids[i]))
			while (TransactionIdIsInProgress(xids[i]))
				wait_a_moment();
	pfree(xids);
	pfree(vxids);
}

/* ------------------------------------------------------------------ */
/* rows                                                                 */

/*
 * The source as the stream would describe it; attnums are its columns that the
 * description has, in order.  What is computed when it is read is in no log.
 */
EtlSourceRelation *
etl_cdc_describe(Relation source, AttrNumber **attnums)
{
	EtlSourceRelation *relation = palloc0(sizeof(EtlSourceRelation));
	TupleDesc desc = RelationGetDescr(source);
	Bitmapset *keys = NULL;
	int n = 0;

	relation->relid = RelationGetRelid(source);
	relation->schema = get_namespace_name(RelationGetNamespace(source));
	relation->name = pstrdup(RelationGetRelationName(source));
	relation->identity = source->rd_rel->relreplident;
	keys = RelationGetIndexAttrBitmap(source, INDEX_ATTR_BITMAP_IDENTITY_KEY);

	*attnums = palloc(sizeof(AttrNumber) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped &&
			!etl_is_virtual(TupleDescAttr(desc, i)))
			(*attnums)[n++] = (AttrNumber) (i + 1);
	relation->desc = CreateTemplateTupleDesc(n);
	relation->is_key = palloc0(sizeof(bool) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		int attnum = (*attnums)[i];

		TupleDescCopyEntry(relation->desc, (AttrNumber) (i + 1), desc,
						   (AttrNumber) attnum);
		relation->is_key[i] = relation->identity == REPLICA_IDENTITY_FULL ||
							  bms_is_member(attnum -
												FirstLowInvalidHeapAttributeNumber,
											keys);
	}
	return relation;
}

/* One row of the source becomes a change. */
static void
copy_row(void *arg, TupleTableSlot *slot)
{
	Copy *copy = arg;
	TupleDesc desc = copy->relation->desc;
	EtlChangeEvent *event = &copy->event;
	HeapTuple row;

	slot_getallattrs(slot);
	if (copy->is_plain)
		row = heap_form_tuple(desc, slot->tts_values, slot->tts_isnull);
	else
	{
		Datum *values = palloc(sizeof(Datum) * Max(desc->natts, 1));
		bool *nulls = palloc(sizeof(bool) * Max(desc->natts, 1));

		for (int i = 0; i < desc->natts; i++)
		{
			values[i] = slot->tts_values[copy->attnums[i] - 1];
			nulls[i] = slot->tts_isnull[copy->attnums[i] - 1];
		}
		row = heap_form_tuple(desc, values, nulls);
	}
	if (HeapTupleHasExternal(row))
		row = toast_flatten_tuple(row, desc);

	event->new_row = row;
	event->ordinal++;
	copy->applier->changes[ETL_EVENT_READ]++;
	if (copy->applier->copies_alone)
		etl_cdc_add_alone(copy->applier, copy->followed, event);
	else
		etl_cdc_add(copy->applier, copy->followed, event);
}

/* All rows that the snapshot sees. */
static void
read_source(Copy *copy, Relation source)
{
	EtlQuery query = {0};
	StringInfoData sql;

	if (source->rd_rel->relkind == RELKIND_RELATION)
	{
		(void) etl_heap_rows(source, copy->snapshot, copy_row, copy);
		return;
	}
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < copy->relation->desc->natts; i++)
		appendStringInfo(&sql, "%s%s", i > 0 ? ", " : "",
						 quote_identifier(NameStr(
							 TupleDescAttr(copy->relation->desc, i)->attname)));
	appendStringInfo(&sql, " FROM %s", etl_relation_name(source));
	query.text = sql.data;
	query.serial = true;
	for (int i = 0; i < copy->relation->desc->natts; i++)
		copy->attnums[i] = (AttrNumber) (i + 1);
	copy->is_plain = true;
	PushActiveSnapshot(copy->snapshot);
	(void) etl_query_rows(&query, copy_row, copy);
	PopActiveSnapshot();
}

/* ------------------------------------------------------------------ */
/* a copy                                                               */

/* The relations that foreign keys of a table refer to. */
static List *
references_of(Oid relid)
{
	Relation rel = try_table_open(relid, AccessShareLock);
	List *referenced = NIL;
	ListCell *lc;

	if (rel == NULL)
		return NIL;
	foreach(lc, RelationGetFKeyList(rel))
	{
		const ForeignKeyCacheInfo *key = lfirst(lc);

		referenced = list_append_unique_oid(referenced, key->confrelid);
	}
	table_close(rel, NoLock);
	return referenced;
}

/* Does the target of one refer to that of the other? */
bool
etl_cdc_refers_to(const EtlCdcTable *one, const EtlCdcTable *other)
{
	return one->target != other->target &&
		   list_member_oid(references_of(one->target), other->target);
}

static bool
refers_to(const EtlCdcFollowed *one, const EtlCdcFollowed *other)
{
	return etl_cdc_refers_to(one->table, other->table);
}

/* What refers to others goes behind them, where there is no circle. */
static List *
in_order_of_references(List *group)
{
	List *ordered = NIL;

	while (group != NIL)
	{
		EtlCdcFollowed *next = NULL;
		ListCell *lc;
		ListCell *lc2;

		foreach(lc, group)
		{
			bool is_free = true;

			foreach(lc2, group)
				is_free &= !refers_to(lfirst(lc), lfirst(lc2));
			if (!is_free)
				continue;
			next = lfirst(lc);
			break;
		}
		if (next == NULL)
			next = linitial(group);
		ordered = lappend(ordered, next);
		group = list_delete_ptr(group, next);
	}
	return ordered;
}

/*
 * The tables that are to be copied next: one that is new, and with it the new
 * ones whose targets foreign keys bind to it, which have to be copied under one
 * snapshot.
 */
static List *
next_group(const EtlCdcApplier *applier)
{
	List *group = NIL;
	bool grows = true;
	ListCell *lc;
	ListCell *lc2;

	while (grows)
	{
		grows = false;
		foreach(lc, applier->tables)
		{
			EtlCdcFollowed *followed = lfirst(lc);
			bool belongs = group == NIL;

			if (followed->table->state != ETL_CDC_TABLE_NEW ||
				list_member_ptr(group, followed))
				continue;
			foreach(lc2, group)
				belongs |= refers_to(followed, lfirst(lc2)) ||
						   refers_to(lfirst(lc2), followed);
			if (!belongs)
				continue;
			group = lappend(group, followed);
			grows = true;
		}
	}
	return in_order_of_references(group);
}

static void
source_is_gone(const Copy *copy)
{
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
					errmsg("table \"%s\" does not exist any more",
						   copy->followed->table->source),
					errhint("Remove it with etl_cdc_remove_table().")));
}

/*
 * Which targets are emptied first: those that have a copy, and mirrors that
 * refer to them, which could not be emptied otherwise.
 */
static void
find_truncated(List *copies)
{
	bool grows = true;
	ListCell *lc;
	ListCell *lc2;

	while (grows)
	{
		grows = false;
		foreach(lc, copies)
		{
			Copy *copy = lfirst(lc);
			bool truncates = copy->followed->table->copied_at != 0;

			if (copy->truncates)
				continue;
			if (copy->followed->apply->ops == &etl_apply_mirror)
				foreach(lc2, copies)
				{
					const Copy *other = lfirst(lc2);

					truncates |= other->truncates &&
								 refers_to(copy->followed, other->followed);
				}
			copy->truncates = truncates;
			grows |= truncates;
		}
	}
}

/*
 * Before the first row: the stream catches up with the snapshot where that is
 * needed, and what rows look like as changes.  False if the stream has ended.
 */
static bool
begin_copies(EtlCdcApplier *applier, List *copies, const char *snapshot,
			 XLogRecPtr end)
{
	List *group = NIL;
	bool catches_up;
	ListCell *lc;

	foreach(lc, copies)
		group = lappend(group, ((Copy *) lfirst(lc))->followed);
	catches_up = etl_cdc_must_catch_up(applier, group);
	if (catches_up && !etl_cdc_catch_up(applier, group, snapshot, end))
		return false;

	find_truncated(copies);
	memset(&applier->xact, 0, sizeof(EtlSourceXact));
	applier->xact.commit_lsn = applier->xact.end_lsn = end;
	applier->xact.commit_time = GetCurrentTimestamp();
	foreach(lc, copies)
	{
		Copy *copy = lfirst(lc);
		EtlChangeEvent *event = &copy->event;

		copy->relation->number = FIRST_NUMBER + number++;
		event->relation = copy->relation;
		event->lsn = end;
		etl_cdc_letters_copied(applier, copy->followed, end);
		if (copy->truncates)
		{
			event->kind = ETL_EVENT_TRUNCATE;
			etl_cdc_add(applier, copy->followed, event);
		}
		event->kind = ETL_EVENT_READ;
	}
	etl_cdc_flush(applier);

	/* a row that fails alone is found by its own triggers */
	if (catches_up && !applier->copies_alone)
		etl_cdc_hold_triggers(applier);
	return true;
}

/* After the last row. */
static void
end_copies(EtlCdcApplier *applier)
{
	if (applier->kept != NIL)
		etl_cdc_apply_kept(applier);
	if (applier->holds_triggers)
		etl_cdc_fire_triggers(applier);
}

/* Tables of this database; returns the snapshot, NULL if the stream has ended. */
static char *
copy_local(EtlCdcApplier *applier, List *copies, XLogRecPtr *end)
{
	Snapshot snapshot;
	ListCell *lc;
	char *text;

	foreach(lc, copies)
	{
		Copy *copy = lfirst(lc);

		copy->source = try_table_open(copy->followed->table->source_relid,
									  AccessShareLock);
		if (copy->source == NULL)
			source_is_gone(copy);
		copy->relation = etl_cdc_describe(copy->source, &copy->attnums);
		copy->is_plain = copy->relation->desc->natts ==
						 RelationGetDescr(copy->source)->natts;
	}
	settle();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	*end = etl_cdc_end_of_wal();
	PushActiveSnapshot(snapshot);
	text = DatumGetCString(
		DirectFunctionCall1(pg_snapshot_out,
							DirectFunctionCall1(pg_current_snapshot, (Datum) 0)));
	PopActiveSnapshot();
	if (!begin_copies(applier, copies, text, *end))
		return NULL;
	foreach(lc, copies)
	{
		Copy *copy = lfirst(lc);

		copy->snapshot = snapshot;
		read_source(copy, copy->source);
		etl_cdc_flush(applier);
		table_close(copy->source, NoLock);
	}
	end_copies(applier);
	UnregisterSnapshot(snapshot);
	return text;
}

/* Tables of another server. */
static char *
copy_remote(EtlCdcApplier *applier, List *copies, XLogRecPtr *end)
{
	List *tables = NIL;
	EtlRemoteTable *first = NULL;
	ListCell *lc;
	char *text;

	foreach(lc, copies)
	{
		Copy *copy = lfirst(lc);

		copy->remote = etl_cdc_remote_open(applier->pipeline, first,
										   copy->followed->table->source);
		if (copy->remote == NULL)
			source_is_gone(copy);
		copy->relation = etl_cdc_remote_relation(copy->remote);
		copy->is_plain = true;
		first = first == NULL ? copy->remote : first;
		tables = lappend(tables, copy->remote);
	}
	text = etl_cdc_remote_snapshot(tables, end);
	if (!begin_copies(applier, copies, text, *end))
		return NULL;
	foreach(lc, copies)
	{
		Copy *copy = lfirst(lc);

		etl_cdc_remote_rows(copy->remote, copy_row, copy);
		etl_cdc_flush(applier);
	}
	end_copies(applier);
	etl_cdc_remote_close(first);
	return text;
}

/*
 * Is what the rows of a copy may refer to as good as there?  If not, it comes
 * in batches of usual size, up to here; the rest comes with the copy.
 */
static bool
is_behind(EtlCdcApplier *applier, List *group)
{
	if (applier->pipeline->server != NULL || !applier->pipeline->snapshot ||
		!etl_cdc_must_catch_up(applier, group))
		return false;
	if (applier->copy_after == InvalidXLogRecPtr)
		applier->copy_after = etl_cdc_end_of_wal();
	return applier->applied < applier->copy_after;
}

/* Copy the next tables that are new, between two batches. */
EtlCdcResult
etl_cdc_copy(EtlCdcApplier *applier)
{
	XLogRecPtr end = InvalidXLogRecPtr;
	List *copies = NIL;
	List *group;
	char *text = NULL;
	ListCell *lc;

	etl_cdc_begin(applier, ETL_CDC_COPIES);
	group = next_group(applier);
	if (group == NIL || is_behind(applier, group))
	{
		etl_cdc_commit(applier);
		return group == NIL ? ETL_CDC_NOTHING : ETL_CDC_BEHIND;
	}
	applier->copy_after = InvalidXLogRecPtr;
	foreach(lc, group)
	{
		Copy *copy = palloc0(sizeof(Copy));

		copy->applier = applier;
		copy->followed = lfirst(lc);
		copies = lappend(copies, copy);
	}
	if (applier->pipeline->snapshot)
	{
		text = applier->pipeline->server == NULL ?
				   copy_local(applier, copies, &end) :
				   copy_remote(applier, copies, &end);
		if (text == NULL)
			return ETL_CDC_ENDED;
	}
	else
		foreach(lc, copies)
			etl_cdc_letters_copied(applier, ((Copy *) lfirst(lc))->followed,
								   applier->position);
	return finish(applier, copies, text, end);
}

/* Write what has become of a table; false if it is not what it was. */
static bool
store(EtlCdcApplier *applier, const Copy *copy, const char *snapshot)
{
	const EtlCdcTable *known = copy->followed->table;
	ListCell *lc;

	foreach(lc, etl_cdc_tables(applier->pipeline_id))
	{
		EtlCdcTable *row = lfirst(lc);

		if (row->target != known->target ||
			strcmp(row->source, known->source) != 0 ||
			row->state != ETL_CDC_TABLE_NEW)
			continue;
		row->state = ETL_CDC_TABLE_FOLLOWED;
		row->copy_snapshot = snapshot;
		row->rows_copied = copy->event.ordinal;
		if (snapshot != NULL)
			row->copied_at = GetCurrentTimestamp();
		etl_cdc_table_update(row);
		return true;
	}
	return false;
}

/* Store that the tables are followed from now on, and commit. */
static EtlCdcResult
finish(EtlCdcApplier *applier, List *copies, const char *snapshot,
	   XLogRecPtr end)
{
	EtlCdcPipeline *pipeline = etl_cdc_finish(applier);
	bool stored = pipeline != NULL;
	MemoryContext context;
	ListCell *lc;

	foreach(lc, copies)
		stored = stored && store(applier, lfirst(lc), snapshot);
	if (!stored)
	{
		/* somebody has removed a table, or changed the pipeline */
		etl_cdc_applier_abort(applier);
		return ETL_CDC_CHANGED;
	}
	if (applier->position == applier->applied)
		etl_cdc_store_progress(applier, pipeline);

	context = MemoryContextSwitchTo(applier->table_context);
	foreach(lc, copies)
	{
		EtlCdcFollowed *followed = ((Copy *) lfirst(lc))->followed;

		if (snapshot != NULL)
		{
			followed->table->copy_snapshot = pstrdup(snapshot);
			followed->copy = etl_copy_snapshot_parse(snapshot);
		}
		followed->copy_end = end;
		followed->table->state = ETL_CDC_TABLE_FOLLOWED;
	}
	MemoryContextSwitchTo(context);
	if (applier->position > applier->applied)
		etl_cdc_commit_position(applier, pipeline);
	else
		etl_cdc_commit(applier);
	applier->copies_alone = false;
	return ETL_CDC_DONE;
}
