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
 * The copy of a table, its snapshot and its new state are one transaction.
 * The stream waits meanwhile.  A copy that is interrupted leaves nothing, and
 * the tables that were copied before it stay.
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
	Snapshot snapshot;
	EtlChangeEvent event;
} Copy;

/* Of the next description. */
static uint32 number = 0;

static EtlCdcFollowed *next_new(const EtlCdcApplier *applier);
static void settle(void);
static void wait_a_moment(void);
static void read_source(Copy *copy, Relation source);
static void copy_row(void *arg, TupleTableSlot *slot);
pg_noreturn static void source_is_gone(const Copy *copy);
static void begin_copy(Copy *copy, XLogRecPtr end, TimestampTz time);
static EtlCdcResult finish(Copy *copy, const char *snapshot, XLogRecPtr end);

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
 * description has, in order.
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
		if (!TupleDescAttr(desc, i)->attisdropped)
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

static EtlCdcFollowed *
next_new(const EtlCdcApplier *applier)
{
	ListCell *lc;

	foreach(lc, applier->tables)
	{
		EtlCdcFollowed *followed = lfirst(lc);

		if (followed->table->state == ETL_CDC_TABLE_NEW)
			return followed;
	}
	return NULL;
}

static void
source_is_gone(const Copy *copy)
{
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
					errmsg("table \"%s\" does not exist any more",
						   copy->followed->table->source),
					errhint("Remove it with etl_cdc_remove_table().")));
}

/* What the rows of a copy look like as changes; the first one may be TRUNCATE. */
static void
begin_copy(Copy *copy, XLogRecPtr end, TimestampTz time)
{
	EtlCdcApplier *applier = copy->applier;
	EtlChangeEvent *event = &copy->event;

	copy->relation->number = FIRST_NUMBER + number++;
	memset(&applier->xact, 0, sizeof(EtlSourceXact));
	applier->xact.commit_lsn = applier->xact.end_lsn = end;
	applier->xact.commit_time = time;
	event->relation = copy->relation;
	event->lsn = end;
	if (copy->followed->table->copied_at != 0)
	{
		event->kind = ETL_EVENT_TRUNCATE;
		etl_cdc_add(applier, copy->followed, event);
	}
	event->kind = ETL_EVENT_READ;
}

/* A table of this database; returns the snapshot. */
static char *
copy_local(Copy *copy, XLogRecPtr *end)
{
	Relation source = try_table_open(copy->followed->table->source_relid,
									 AccessShareLock);
	char *text;

	if (source == NULL)
		source_is_gone(copy);
	copy->relation = etl_cdc_describe(source, &copy->attnums);
	copy->is_plain = copy->relation->desc->natts ==
					 RelationGetDescr(source)->natts;
	settle();
	copy->snapshot = RegisterSnapshot(GetLatestSnapshot());
	*end = GetXLogInsertRecPtr();
	PushActiveSnapshot(copy->snapshot);
	text = DatumGetCString(
		DirectFunctionCall1(pg_snapshot_out,
							DirectFunctionCall1(pg_current_snapshot, (Datum) 0)));
	PopActiveSnapshot();
	begin_copy(copy, *end, GetCurrentTimestamp());
	read_source(copy, source);
	UnregisterSnapshot(copy->snapshot);
	table_close(source, NoLock);
	return text;
}

/* A table of another server. */
static char *
copy_remote(Copy *copy, XLogRecPtr *end)
{
	EtlRemoteTable *table = etl_cdc_remote_open(copy->applier->pipeline,
												copy->followed->table->source);
	TimestampTz time;
	char *text;

	if (table == NULL)
		source_is_gone(copy);
	copy->relation = etl_cdc_remote_relation(table);
	copy->is_plain = true;
	text = etl_cdc_remote_snapshot(table, end, &time);
	begin_copy(copy, *end, time);
	etl_cdc_remote_rows(table, copy_row, copy);
	etl_cdc_remote_close(table);
	return text;
}

/* Copy the next table that is new, between two batches. */
EtlCdcResult
etl_cdc_copy(EtlCdcApplier *applier)
{
	Copy copy = {.applier = applier, .followed = next_new(applier)};
	XLogRecPtr end = InvalidXLogRecPtr;
	char *text = NULL;

	if (copy.followed == NULL)
		return ETL_CDC_NOTHING;
	etl_cdc_begin(applier, ETL_CDC_COPIES);
	if (applier->pipeline->snapshot)
		text = applier->pipeline->server == NULL ? copy_local(&copy, &end) :
												   copy_remote(&copy, &end);
	return finish(&copy, text, end);
}

/* Store that the table is followed from now on, and commit. */
static EtlCdcResult
finish(Copy *copy, const char *snapshot, XLogRecPtr end)
{
	EtlCdcApplier *applier = copy->applier;
	EtlCdcFollowed *followed = copy->followed;
	EtlCdcPipeline *pipeline = etl_cdc_finish(applier);
	EtlCdcTable *row = NULL;
	MemoryContext context;
	ListCell *lc;

	if (pipeline != NULL)
		foreach(lc, etl_cdc_tables(applier->pipeline_id))
		{
			EtlCdcTable *table = lfirst(lc);

			if (table->target == followed->table->target &&
				strcmp(table->source, followed->table->source) == 0 &&
				table->state == ETL_CDC_TABLE_NEW)
				row = table;
		}
	if (row == NULL)
	{
		/* somebody has removed the table, or changed the pipeline */
		etl_cdc_applier_abort(applier);
		return ETL_CDC_CHANGED;
	}
	row->state = ETL_CDC_TABLE_FOLLOWED;
	row->copy_snapshot = snapshot;
	row->rows_copied = copy->event.ordinal;
	if (snapshot != NULL)
		row->copied_at = GetCurrentTimestamp();
	etl_cdc_table_update(row);
	etl_cdc_store_progress(applier, pipeline);

	context = MemoryContextSwitchTo(applier->table_context);
	followed->table->copy_snapshot = snapshot == NULL ? NULL : pstrdup(snapshot);
	followed->copy = snapshot == NULL ? NULL : etl_copy_snapshot_parse(snapshot);
	MemoryContextSwitchTo(context);
	etl_cdc_commit(applier);
	followed->copy_end = end;
	followed->table->state = ETL_CDC_TABLE_FOLLOWED;
	applier->copies_alone = false;
	return ETL_CDC_DONE;
}
