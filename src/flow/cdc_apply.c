/*-------------------------------------------------------------------------
 *
 * cdc_apply.c
 *	  The loop of a pipeline: from items of the stream to a commit.
 *
 * A batch is one transaction: it holds whole transactions of the source, and
 * the position that they reach is written into the row of the pipeline before
 * the commit.  So whatever happens, the stream goes on where the targets are.
 * A batch takes what has arrived, up to a number of transactions or an amount
 * of memory; it ends as soon as nothing more is there, so that nothing waits.
 * A transaction of the source that is larger than the memory is flushed in
 * pieces.
 *
 * What is of no interest needs no transaction.  Then the position is known to
 * this process only; it is written when it has moved far, because writing
 * moves the end of the WAL, too.  A restart reads a little more again.
 *
 * Errors are thrown.  etl_cdc_applier_abort() forgets the batch, and the
 * stream is to be begun anew, at applied.
 *
 * Locks: RowExclusiveLock on the targets that are written, then the row of the
 * pipeline at the end of the batch.  Who stops a pipeline, or changes one of
 * its tables, writes its row.  A batch that finds the row changed is undone, so
 * that nothing is applied by the old definition once the change has committed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "replication/slot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "flow/cdc_apply.h"
#include "flow/cdc_check.h"

/* A batch that takes more is flushed. */
#define BATCH_BYTES (64 * 1024 * 1024)

/* After so many changes the memory is looked at. */
#define CHANGES_BETWEEN_LOOKS 64

/* The position alone is written when it has moved so far. */
#define SAVE_DISTANCE (16 * 1024 * 1024)

/* Milliseconds between two complaints of a standby that is not there. */
#define COMPLAIN_EVERY 60000

/* Which tables a description of the stream stands for. */
typedef struct Numbered
{
	uint32 number; /* key */
	List *tables;  /* of EtlCdcFollowed */
} Numbered;

/* The only applier of this process, for the callback. */
static EtlCdcApplier *the_applier = NULL;

static void target_changed(Datum arg, Oid relid);
static List *tables_of(EtlCdcApplier *applier,
					   const EtlSourceRelation *relation);
static EtlStreamItem take_item(EtlCdcApplier *applier, bool wait);
static void take_begin(EtlCdcApplier *applier);
static void take_change(EtlCdcApplier *applier);
static void take_commit(EtlCdcApplier *applier);
static bool is_full(const EtlCdcApplier *applier);
static bool is_for(const EtlCdcFollowed *followed, const EtlSourceXact *xact);
static bool commit_batch(EtlCdcApplier *applier);
static void keep_order(EtlCdcApplier *applier, const EtlCdcFollowed *followed,
					   const EtlChangeEvent *event);
static Size batch_bytes(const EtlCdcApplier *applier);
static void forget_copies(EtlCdcApplier *applier);
static void remember_commit(EtlCdcApplier *applier, XLogRecPtr local);

/* ------------------------------------------------------------------ */
/* the pipeline and its tables                                          */

/* An applier of a pipeline, for as long as the process lives. */
EtlCdcApplier *
etl_cdc_applier_create(int64 pipeline_id)
{
	EtlCdcApplier *applier = MemoryContextAllocZero(TopMemoryContext,
													sizeof(EtlCdcApplier));

	Assert(the_applier == NULL);
	applier->pipeline_id = pipeline_id;
	applier->table_context = AllocSetContextCreate(TopMemoryContext,
												   "etl_patterns cdc tables",
												   ALLOCSET_DEFAULT_SIZES);
	applier->batch_context = AllocSetContextCreate(TopMemoryContext,
												   "etl_patterns cdc batch",
												   ALLOCSET_DEFAULT_SIZES);
	applier->error_context = AllocSetContextCreate(TopMemoryContext,
												   "etl_patterns cdc error",
												   ALLOCSET_SMALL_SIZES);
	the_applier = applier;
	CacheRegisterRelcacheCallback(target_changed, (Datum) 0);
	return applier;
}

/* A relation has changed; InvalidOid: any may have. */
static void
target_changed(Datum arg, Oid relid)
{
	ListCell *lc;

	foreach(lc, the_applier->tables)
	{
		EtlCdcFollowed *followed = lfirst(lc);

		if (!OidIsValid(relid) || followed->apply->target_relid == relid)
			followed->is_stale = true;
	}
}

/* Is the pipeline to run? */
bool
etl_cdc_is_wanted(const EtlCdcPipeline *pipeline)
{
	return pipeline != NULL && (pipeline->state == ETL_CDC_STARTING ||
								pipeline->state == ETL_CDC_COPYING ||
								pipeline->state == ETL_CDC_RUNNING);
}

/*
 * Read the pipeline and its tables, between two batches, in a transaction of
 * the caller's.  False if it is not to run.  The stream must be begun anew.
 */
bool
etl_cdc_applier_load(EtlCdcApplier *applier)
{
	MemoryContext caller_context = CurrentMemoryContext;
	ListCell *lc;

	Assert(!applier->in_xact);
	applier->tables = NIL;
	applier->order = NIL;
	applier->by_number = NULL;
	applier->pipeline = NULL;
	MemoryContextReset(applier->table_context);

	MemoryContextSwitchTo(applier->table_context);
	applier->pipeline = etl_cdc_by_id(applier->pipeline_id, true);
	if (etl_cdc_is_wanted(applier->pipeline))
	{
		applier->saved = applier->pipeline->applied;
		if (applier->saved > applier->applied)
		{
			/* another process has committed that, and not waited for the disk */
			applier->applied = applier->saved;
			remember_commit(applier, etl_cdc_end_of_wal());
		}
		foreach(lc, etl_cdc_tables(applier->pipeline_id))
		{
			EtlCdcFollowed *followed = etl_cdc_follow_table(applier, lfirst(lc));

			etl_cdc_letters_load(applier, followed);
			applier->tables = lappend(applier->tables, followed);
		}
	}
	MemoryContextSwitchTo(caller_context);
	return etl_cdc_is_wanted(applier->pipeline);
}

/* Take items from a reader that begins at applied. */
void
etl_cdc_applier_follow(EtlCdcApplier *applier, EtlChangeReader *reader)
{
	HASHCTL ctl = {0};

	applier->reader = reader;
	applier->in_source_xact = false;
	applier->position = applier->applied;
	if (applier->by_number != NULL)
		hash_destroy(applier->by_number);
	ctl.keysize = sizeof(uint32);
	ctl.entrysize = sizeof(Numbered);
	ctl.hcxt = applier->table_context;
	applier->by_number = hash_create("relations of the stream", 64, &ctl,
									 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* The tables that follow a relation of the stream. */
static List *
tables_of(EtlCdcApplier *applier, const EtlSourceRelation *relation)
{
	MemoryContext context;
	Numbered *numbered;
	char *name;
	bool found;
	ListCell *lc;

	numbered = hash_search(applier->by_number, &relation->number, HASH_ENTER,
						   &found);
	if (found)
		return numbered->tables;

	numbered->tables = NIL;
	context = MemoryContextSwitchTo(applier->table_context);
	name = quote_qualified_identifier(relation->schema, relation->name);
	foreach(lc, applier->tables)
	{
		EtlCdcFollowed *followed = lfirst(lc);
		Oid relid = followed->table->source_relid;

		if (OidIsValid(relid) ? relid == relation->relid :
								strcmp(followed->table->source, name) == 0)
			numbered->tables = lappend(numbered->tables, followed);
	}
	MemoryContextSwitchTo(context);
	return numbered->tables;
}

/* ------------------------------------------------------------------ */
/* items                                                                */

/*
 * Apply what has arrived, up to the size of a batch, and commit it.  Only in
 * the middle of a transaction of the source is anything waited for.
 */
EtlCdcResult
etl_cdc_apply(EtlCdcApplier *applier)
{
	for (;;)
	{
		EtlStreamItem item = take_item(applier, applier->in_source_xact);

		if (item == ETL_STREAM_COMMIT && is_full(applier))
			return commit_batch(applier) ? ETL_CDC_DONE : ETL_CDC_CHANGED;
		if (item == ETL_STREAM_NOTHING && !applier->in_source_xact)
		{
			if (applier->in_xact)
				return commit_batch(applier) ? ETL_CDC_DONE : ETL_CDC_CHANGED;
			applier->applied = applier->position;
			return ETL_CDC_NOTHING;
		}
		if (item == ETL_STREAM_END)
		{
			if (applier->in_xact && !applier->in_source_xact &&
				!commit_batch(applier))
				return ETL_CDC_CHANGED;
			return ETL_CDC_ENDED;
		}
	}
}

/*
 * Take items up to a position, without a commit: the caller's transaction is
 * open.  False if the stream has ended.
 */
bool
etl_cdc_take_until(EtlCdcApplier *applier, XLogRecPtr end)
{
	while (applier->position < end || applier->in_source_xact)
		if (take_item(applier, true) == ETL_STREAM_END)
			return false;
	return true;
}

/* Take the next item; what it is. */
static EtlStreamItem
take_item(EtlCdcApplier *applier, bool wait)
{
	EtlStreamItem item;

	CHECK_FOR_INTERRUPTS();
	item = etl_change_reader_next(applier->reader, wait);
	switch (item)
	{
		case ETL_STREAM_BEGIN:
			take_begin(applier);
			break;
		case ETL_STREAM_CHANGE:
			take_change(applier);
			break;
		case ETL_STREAM_COMMIT:
			take_commit(applier);
			break;
		case ETL_STREAM_IDLE:
			applier->position = Max(applier->position,
									etl_change_reader_position(applier->reader));
			break;
		case ETL_STREAM_NOTHING:
		case ETL_STREAM_END:
			break;
	}
	return item;
}

static void
take_begin(EtlCdcApplier *applier)
{
	applier->xact = *etl_change_reader_xact(applier->reader);
	applier->in_source_xact = true;

	/* a commit record begins where the transaction before it ends, or later */
	applier->passes = applier->xact.commit_lsn < applier->pipeline->skip;
}

static void
take_change(EtlCdcApplier *applier)
{
	const EtlChangeEvent *event = etl_change_reader_event(applier->reader);
	bool is_applied = false;
	ListCell *lc;

	if (applier->passes)
		return;
	foreach(lc, tables_of(applier, event->relation))
	{
		EtlCdcFollowed *followed = lfirst(lc);

		if (followed->copied_as != NULL)
			etl_cdc_keep(applier, followed, event);
		if (!is_for(followed, &applier->xact))
			continue;
		etl_cdc_begin(applier, ETL_CDC_APPLIES);
		if (applier->alone != applier->xact.commit_lsn)
			etl_cdc_add(applier, followed, event);
		else if (!etl_cdc_add_alone(applier, followed, event))
			continue;
		is_applied = true;
		if (followed->letters != NULL)
			etl_cdc_overtake(applier, followed, event);
	}
	if (is_applied)
		applier->changes[event->kind]++;
}

static void
take_commit(EtlCdcApplier *applier)
{
	applier->xact = *etl_change_reader_xact(applier->reader);
	applier->in_source_xact = false;
	applier->position = applier->xact.end_lsn;
	if (applier->in_xact)
	{
		applier->xacts++;
		applier->source_time = applier->xact.commit_time;
	}
}

/* Is the batch to be committed?  Whoever looks for a fault wants small ones. */
static bool
is_full(const EtlCdcApplier *applier)
{
	return applier->in_xact &&
		   (applier->xacts >= applier->pipeline->batch_transactions ||
			applier->xact.commit_lsn <= applier->search_until ||
			batch_bytes(applier) >= BATCH_BYTES);
}

/* Are the changes of a transaction for this table, or are they in its copy? */
static bool
is_for(const EtlCdcFollowed *followed, const EtlSourceXact *xact)
{
	if (followed->table->state == ETL_CDC_TABLE_NEW)
		return false;
	return followed->copy == NULL ||
		   (followed->copy_end != InvalidXLogRecPtr &&
			xact->commit_lsn >= followed->copy_end) ||
		   !etl_copy_snapshot_sees(followed->copy, xact->xid);
}

/* ------------------------------------------------------------------ */
/* the batch                                                            */

/* Begin the transaction of the batch, unless it is open. */
void
etl_cdc_begin(EtlCdcApplier *applier, EtlCdcDoing doing)
{
	if (applier->in_xact)
		return;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	/* what users' functions have set must mean nothing to our own expressions */
	if (strcmp(namespace_search_path, ETL_CDC_SEARCH_PATH) != 0)
		(void) set_config_option("search_path", ETL_CDC_SEARCH_PATH, PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SET, true, 0, false);
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(applier->batch_context);
	applier->in_xact = true;
	applier->doing = doing;
	applier->xacts = 0;
	applier->added = 0;
	applier->any_order = false;
	applier->overtaken = NIL;
	memset(applier->changes, 0, sizeof(applier->changes));
}

/* Give a change to the sink of a table. */
void
etl_cdc_add(EtlCdcApplier *applier, EtlCdcFollowed *followed,
			const EtlChangeEvent *event)
{
	EtlApply *apply = followed->apply;
	MemoryContext context = CurrentMemoryContext;
	ErrorContextCallback callback;

	callback.callback = etl_cdc_context;
	callback.arg = followed;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	if (event->obstacle != ETL_OBSTACLE_NONE && apply->ops != &etl_apply_append)
		etl_cdc_refuse_obstacle(applier->pipeline->name, event);
	if (followed->letters != NULL)
		etl_cdc_letters_check(followed, event);
	if (!followed->is_in_batch)
		etl_cdc_begin_table(applier, followed);
	if (applier->any_order)
		keep_order(applier, followed, event);
	followed->is_pending = true;
	MemoryContextSwitchTo(apply->batch_context);
	apply->ops->add(apply, &applier->xact, event);
	error_context_stack = callback.previous;
	MemoryContextSwitchTo(context);

	if (++applier->added >= CHANGES_BETWEEN_LOOKS)
	{
		applier->added = 0;
		if (batch_bytes(applier) >= BATCH_BYTES)
			etl_cdc_flush(applier);
	}
}

/* Flush what a change of this table must not pass. */
static void
keep_order(EtlCdcApplier *applier, const EtlCdcFollowed *followed,
		   const EtlChangeEvent *event)
{
	ListCell *lc;

	foreach(lc, applier->order)
	{
		const EtlCdcFollowed *other = lfirst(lc);

		if (other == followed || !other->is_pending ||
			!(other->apply->in_order || followed->apply->in_order))
			continue;
		if (event->kind == ETL_EVENT_TRUNCATE &&
			other->apply->truncated_at == event->lsn)
			continue; /* by the same command */
		etl_cdc_flush(applier);
		break;
	}
}

/* The memory that the changes of the batch take. */
static Size
batch_bytes(const EtlCdcApplier *applier)
{
	Size bytes = 0;
	ListCell *lc;

	foreach(lc, applier->order)
	{
		EtlApply *apply = ((EtlCdcFollowed *) lfirst(lc))->apply;

		bytes += Max(apply->bytes,
					 MemoryContextMemAllocated(apply->batch_context, true));
	}
	return bytes;
}

/* Have the sink of a table write what it was given. */
void
etl_cdc_flush_one(EtlCdcFollowed *followed)
{
	EtlApply *apply = followed->apply;
	MemoryContext context = MemoryContextSwitchTo(apply->batch_context);
	ErrorContextCallback callback;

	callback.callback = etl_cdc_context;
	callback.arg = followed;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	apply->ops->flush(apply);
	error_context_stack = callback.previous;
	MemoryContextSwitchTo(context);
	MemoryContextReset(apply->batch_context);
	apply->bytes = 0;
	followed->is_pending = false;

	/* what comes next sees it */
	PopActiveSnapshot();
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * The same for all, in the order in which they were first changed.  Triggers
 * fire when all tables are written, so that rows may refer to rows of tables
 * that are written later.
 */
void
etl_cdc_flush(EtlCdcApplier *applier)
{
	List *applies = NIL;
	bool holds_triggers = applier->holds_triggers;
	ListCell *lc;

	foreach(lc, applier->order)
	{
		const EtlCdcFollowed *followed = lfirst(lc);

		if (followed->is_pending)
			applies = lappend(applies, followed->apply);
	}
	if (applies == NIL)
		return;
	etl_apply_truncate(applies);

	if (!holds_triggers)
		etl_cdc_hold_triggers(applier);
	foreach(lc, applier->order)
	{
		EtlCdcFollowed *followed = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		if (!followed->is_pending)
			continue;
		followed->apply->defers_triggers = true;
		etl_cdc_flush_one(followed);
		followed->apply->defers_triggers = false;
	}
	if (!holds_triggers)
		etl_cdc_fire_triggers(applier);
	list_free(applies);
}

/* AFTER triggers of what is flushed from now on wait for the next call. */
void
etl_cdc_hold_triggers(EtlCdcApplier *applier)
{
	AfterTriggerBeginQuery();
	applier->holds_triggers = true;
}

void
etl_cdc_fire_triggers(EtlCdcApplier *applier)
{
	EState *estate = CreateExecutorState();

	applier->holds_triggers = false;
	AfterTriggerEndQuery(estate);
	ExecCloseResultRelations(estate);
	ExecResetTupleTable(estate->es_tupleTable, false);
	FreeExecutorState(estate);
}

/*
 * Write what is left, and lock the pipeline: NULL if somebody has changed it or
 * its tables since they were read.  The caller changes it, and commits.
 */
EtlCdcPipeline *
etl_cdc_finish(EtlCdcApplier *applier)
{
	EtlCdcPipeline *pipeline;

	etl_cdc_flush(applier);
	while (applier->order != NIL)
		etl_cdc_end_table(applier, linitial(applier->order));
	etl_cdc_letters_write(applier);

	pipeline = etl_cdc_by_id(applier->pipeline_id, true);
	if (!etl_cdc_is_wanted(pipeline) ||
		!ItemPointerEquals(&pipeline->place, &applier->pipeline->place))
		return NULL;
	pipeline->transactions += applier->xacts;
	for (int i = 0; i < (int) lengthof(applier->changes); i++)
		pipeline->changes[i] += applier->changes[i];
	if (applier->xacts > 0)
		pipeline->source_time = applier->source_time;
	return pipeline;
}

/* Write the pipeline, which was locked; this change is our own. */
void
etl_cdc_store_progress(EtlCdcApplier *applier, EtlCdcPipeline *pipeline)
{
	etl_cdc_update(pipeline);
	applier->pipeline->place = pipeline->place;
}

/* Commit the transaction of the batch. */
void
etl_cdc_commit(EtlCdcApplier *applier)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextReset(applier->batch_context);
	applier->in_xact = false;
	applier->doing = ETL_CDC_WAITS;
	applier->last_local = XactLastCommitEnd;
}

/* Commit the batch with its position; false if the pipeline was changed. */
static bool
commit_batch(EtlCdcApplier *applier)
{
	EtlCdcPipeline *pipeline = etl_cdc_finish(applier);

	if (pipeline == NULL)
	{
		etl_cdc_applier_abort(applier);
		return false;
	}
	etl_cdc_commit_position(applier, pipeline);
	return true;
}

/* Commit a batch that is finished, with the position that it has reached. */
void
etl_cdc_commit_position(EtlCdcApplier *applier, EtlCdcPipeline *pipeline)
{
	pipeline->applied = applier->position;
	pipeline->applied_time = GetCurrentTimestamp();
	if (applier->search_until == InvalidXLogRecPtr)
	{
		applier->pipeline->error_message = NULL;
		pipeline->error_code = pipeline->error_message = NULL;
		pipeline->error_hint = NULL;
		pipeline->error_change = NULL;
		pipeline->error_at = 0;
	}
	if (pipeline->skip <= applier->position)
		pipeline->skip = InvalidXLogRecPtr;
	applier->pipeline->skip = pipeline->skip;
	etl_cdc_store_progress(applier, pipeline);
	forget_copies(applier);
	etl_cdc_commit(applier);

	applier->applied = applier->saved = applier->position;
	remember_commit(applier, applier->last_local);
	if (applier->search_until < applier->applied)
		applier->search_until = applier->alone = InvalidXLogRecPtr;
}

/* What is applied is committed by local WAL up to there. */
static void
remember_commit(EtlCdcApplier *applier, XLogRecPtr local)
{
	EtlCdcCommit *commit;

	if (applier->ncommits == ETL_CDC_COMMITS)
		applier->ncommits--;
	commit = &applier->commits[applier->ncommits++];
	commit->position = applier->applied;
	commit->local = local;
}

/*
 * No transaction that a copy has seen comes any more when the stream is where
 * the WAL ended then.
 */
static void
forget_copies(EtlCdcApplier *applier)
{
	List *rows = NIL;
	ListCell *lc;
	ListCell *lc2;

	foreach(lc, applier->tables)
	{
		EtlCdcFollowed *followed = lfirst(lc);

		if (followed->copy == NULL || followed->copy_end == InvalidXLogRecPtr ||
			applier->position < followed->copy_end)
			continue;
		followed->copy = NULL;
		if (rows == NIL)
			rows = etl_cdc_tables(applier->pipeline_id);
		foreach(lc2, rows)
		{
			EtlCdcTable *row = lfirst(lc2);

			if (row->target != followed->table->target ||
				strcmp(row->source, followed->table->source) != 0 ||
				row->copy_snapshot == NULL ||
				strcmp(row->copy_snapshot, followed->table->copy_snapshot) != 0)
				continue;
			row->copy_snapshot = NULL;
			etl_cdc_table_update(row);
		}
	}
}

/* Copies whose end is not known were made before the WAL ended here. */
void
etl_cdc_wal_ended(EtlCdcApplier *applier, XLogRecPtr end)
{
	ListCell *lc;

	foreach(lc, applier->tables)
	{
		EtlCdcFollowed *followed = lfirst(lc);

		if (followed->copy_end == InvalidXLogRecPtr)
			followed->copy_end = end;
	}
}

/*
 * Write the position where there was nothing to apply, if it has moved far or
 * a transaction was to be skipped and is.  False if the pipeline was changed.
 */
bool
etl_cdc_save(EtlCdcApplier *applier, bool force)
{
	if (!force && applier->applied < applier->saved + SAVE_DISTANCE &&
		!(applier->pipeline->skip != InvalidXLogRecPtr &&
		  applier->pipeline->skip <= applier->applied))
		return true;
	etl_cdc_begin(applier, ETL_CDC_WAITS);
	return commit_batch(applier);
}

/*
 * Is a commit on all standbys that may take over?  The source must not forget
 * what one of them would have to read.
 */
static bool
is_on_standbys(XLogRecPtr local)
{
	static TimestampTz complained_at = 0;
	TimestampTz now;
	bool complain;

	if (!etl_standbys_are_named())
		return true;
	now = GetCurrentTimestamp();
	complain = TimestampDifferenceExceeds(complained_at, now, COMPLAIN_EVERY);
	if (complain)
		complained_at = now;
	return etl_standbys_have(local, complain ? WARNING : DEBUG1);
}

/*
 * Up to where the source may forget: what was committed here and is safe on
 * disk.
 */
XLogRecPtr
etl_cdc_flushed(EtlCdcApplier *applier)
{
	XLogRecPtr flushed = GetFlushRecPtr(NULL);
	XLogRecPtr position = InvalidXLogRecPtr;
	int n = 0;

	while (n < applier->ncommits && applier->commits[n].local <= flushed &&
		   is_on_standbys(applier->commits[n].local))
		position = applier->commits[n++].position;
	applier->ncommits -= n;
	memmove(applier->commits, &applier->commits[n],
			sizeof(EtlCdcCommit) * applier->ncommits);
	if (applier->ncommits == 0)
		position = applier->applied;
	return position;
}

/* Forget the batch, after an error or because it is not wanted. */
void
etl_cdc_applier_abort(EtlCdcApplier *applier)
{
	ListCell *lc;

	AbortOutOfAnyTransaction();
	MemoryContextSwitchTo(TopMemoryContext);
	applier->in_xact = false;
	applier->holds_triggers = false;
	applier->kept = NIL;
	applier->doing = ETL_CDC_WAITS;
	applier->order = NIL;
	foreach(lc, applier->tables)
		etl_cdc_discard(lfirst(lc));
	MemoryContextReset(applier->batch_context);
}
