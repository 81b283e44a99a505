/*-------------------------------------------------------------------------
 *
 * wal_decode.c
 *	  What the decoder of this server's WAL calls for each change.
 *
 * PostgreSQL decodes for an output plugin only, and only for plugins that the
 * administrator allows.  We begin as pgoutput, which is always there, and then
 * put our own functions in the place of its: the rows come to us as they are,
 * and there is nothing to be published.
 *
 * The decoder calls us with a transaction's changes when it has read its
 * commit, inside a transaction of its own that it rolls back, with catalogs as
 * they were.  So nothing may be written or looked up beyond the catalogs: rows
 * are copied into the queue, no more.  Transactions that were rolled back, and
 * savepoints that were, do not come; a prepared one comes when it commits.
 *
 * Of a large transaction the decoder calls with pieces, before it has ended:
 * between the calls for the start and the stop of a stream.  Those are kept in
 * a spool (wal_spool.c), which is the transaction's, until it commits.
 *
 * ALTER TABLE may change rows without a change for each of them.  All that
 * shows is the rows that it writes into a new heap, so we ask for those, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "replication/reorderbuffer.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compat.h"
#include "source/wal_private.h"

/* Before a transaction of this size all that is gathered is sent. */
#define LARGE_XACT (1024 * 1024)

static EtlChangeWriter *writer;
static MemoryContext change_context;
static MemoryContext spool_context;
static EtlWalSpool *spool; /* a piece of a transaction is coming */

/* The transaction that is coming. */
static EtlSourceXact xact;
static MemoryContext xact_context;
static List *rewritten; /* tables of which that was said */
static bool has_begun;	/* it has changes of interest */
static int64 ordinal;
static XLogRecPtr last_commit = InvalidXLogRecPtr;

static void on_begin(LogicalDecodingContext *context, ReorderBufferTXN *txn);
static void on_change(LogicalDecodingContext *context, ReorderBufferTXN *txn,
					  Relation rel, ReorderBufferChange *change);
static void on_rewrite(Oid relid, ReorderBufferChange *change);
static void on_truncate(LogicalDecodingContext *context, ReorderBufferTXN *txn,
						int nrelations, Relation rels[],
						ReorderBufferChange *change);
static bool was_said(Oid source, int nrelations, Relation rels[], int nsaid);
static void on_commit(LogicalDecodingContext *context, ReorderBufferTXN *txn,
					  XLogRecPtr commit_lsn);
static bool fill_event(EtlChangeEvent *event, const EtlWalRelation *known,
					   Relation rel, ReorderBufferChange *change);
static void write_event(EtlChangeEvent *event,
						const ReorderBufferChange *change);
static void set_xact(const ReorderBufferTXN *txn);
static void on_stream_start(LogicalDecodingContext *context,
							ReorderBufferTXN *txn);
static void on_stream_stop(LogicalDecodingContext *context,
						   ReorderBufferTXN *txn);
static void on_stream_abort(LogicalDecodingContext *context,
							ReorderBufferTXN *txn, XLogRecPtr lsn);
static void on_stream_commit(LogicalDecodingContext *context,
							 ReorderBufferTXN *txn, XLogRecPtr commit_lsn);

/* Take the place of the plugin; it keeps what it needs to shut down. */
void
etl_wal_decode_init(LogicalDecodingContext *context, EtlChangeWriter *queue)
{
	OutputPluginCallbacks callbacks = {0};

	callbacks.startup_cb = context->callbacks.startup_cb;
	callbacks.shutdown_cb = context->callbacks.shutdown_cb;
	callbacks.begin_cb = on_begin;
	callbacks.change_cb = on_change;
	callbacks.truncate_cb = on_truncate;
	callbacks.commit_cb = on_commit;
	callbacks.stream_start_cb = on_stream_start;
	callbacks.stream_stop_cb = on_stream_stop;
	callbacks.stream_change_cb = on_change;
	callbacks.stream_truncate_cb = on_truncate;
	callbacks.stream_abort_cb = on_stream_abort;
	callbacks.stream_commit_cb = on_stream_commit;
	context->callbacks = callbacks;
	context->streaming = true;
	context->twophase = false;
	context->reorder->output_rewrites = true;

	writer = queue;
	change_context = AllocSetContextCreate(CurrentMemoryContext,
										   "etl_patterns decoded change",
										   ALLOCSET_DEFAULT_SIZES);
	xact_context = AllocSetContextCreate(CurrentMemoryContext,
										 "etl_patterns decoded transaction",
										 ALLOCSET_SMALL_SIZES);
	spool_context = AllocSetContextCreate(CurrentMemoryContext,
										  "etl_patterns spools",
										  ALLOCSET_SMALL_SIZES);
	etl_wal_spool_init();
}

/* A transaction is coming; nothing is said of it before it is of interest. */
static void
on_begin(LogicalDecodingContext *context, ReorderBufferTXN *txn)
{
	MemoryContextReset(xact_context);
	rewritten = NIL;
	has_begun = false;
	ordinal = 0;
	set_xact(txn);

	/* it may take long, and be of no interest */
	if ((txn->total_size > LARGE_XACT || rbtxn_is_serialized(txn)) &&
		!etl_change_writer_flush(writer))
		etl_wal_leave();
}

static void
set_xact(const ReorderBufferTXN *txn)
{
	xact.xid = txn->xid;
	xact.commit_lsn = txn->final_lsn;
	xact.end_lsn = txn->end_lsn;
	xact.commit_time = txn->xact_time.commit_time;
}

/* A row was inserted, updated or deleted. */
static void
on_change(LogicalDecodingContext *context, ReorderBufferTXN *txn, Relation rel,
		  ReorderBufferChange *change)
{
	EtlWalRelation *known;
	EtlChangeEvent event = {0};
	MemoryContext old;

	if (OidIsValid(rel->rd_rel->relrewrite))
	{
		on_rewrite(rel->rd_rel->relrewrite, change);
		return;
	}
	known = etl_wal_relation(rel, writer);
	if (known->relation == NULL)
		return;
	old = MemoryContextSwitchTo(change_context);
	if (fill_event(&event, known, rel, change))
		write_event(&event, change);
	MemoryContextSwitchTo(old);
	MemoryContextReset(change_context);
}

/*
 * A row was put into the new heap of a table that is being rewritten.  That is
 * said once of each table in a transaction.
 */
static void
on_rewrite(Oid relid, ReorderBufferChange *change)
{
	static Oid last_relid;
	static TransactionId last_xid;
	MemoryContext old;
	Relation rel;
	EtlChangeEvent event = {0};

	if (spool != NULL)
	{
		/* by a subtransaction that may be rolled back: more often is no harm */
		if (last_relid == relid && last_xid == change->txn->xid)
			return;
		last_relid = relid;
		last_xid = change->txn->xid;
	}
	else if (list_member_oid(rewritten, relid))
		return;
	else
	{
		old = MemoryContextSwitchTo(xact_context);
		rewritten = lappend_oid(rewritten, relid);
		MemoryContextSwitchTo(old);
	}

	/*
	 * The row of pg_class may be gone that is to be seen here, if it is of a
	 * subtransaction that was rolled back.
	 */
	rel = RelationIdGetRelation(relid);
	if (RelationIsValid(rel))
	{
		event.relation = etl_wal_relation(rel, writer)->relation;
		RelationClose(rel);
	}
	else
		event.relation = etl_wal_former_relation(relid);
	if (event.relation == NULL)
		return;
	event.kind = ETL_EVENT_TRUNCATE;
	event.obstacle = ETL_OBSTACLE_REWRITTEN;
	write_event(&event, change);
}

/* The event that a change is; false if it is none. */
static bool
fill_event(EtlChangeEvent *event, const EtlWalRelation *known, Relation rel,
		   ReorderBufferChange *change)
{
	HeapTuple old_row = etl_change_row(change->data.tp.oldtuple);
	HeapTuple new_row = etl_change_row(change->data.tp.newtuple);

	switch (change->action)
	{
		case REORDER_BUFFER_CHANGE_INSERT:
			event->kind = ETL_EVENT_INSERT;
			old_row = NULL;
			break;
		case REORDER_BUFFER_CHANGE_UPDATE:
			event->kind = ETL_EVENT_UPDATE;
			break;
		case REORDER_BUFFER_CHANGE_DELETE:
			event->kind = ETL_EVENT_DELETE;
			new_row = NULL;
			break;
		default:
			return false;
	}
	if (event->kind != ETL_EVENT_DELETE && new_row == NULL)
		elog(ERROR, "change of table \"%s\" at %X/%X has no new row",
			 RelationGetRelationName(rel), LSN_FORMAT_ARGS(change->lsn));

	event->relation = known->relation;
	if (old_row != NULL)
		event->old_row = etl_wal_row(known, rel, old_row);
	if (new_row != NULL)
		event->new_row = etl_wal_row(known, rel, new_row);
	event->old_is_key = known->relation->identity != REPLICA_IDENTITY_FULL;
	return true;
}

/*
 * Tables were truncated.  A table is said to be if it was as a whole; with it
 * come all its partitions.  That only partitions of it were is said, too.
 */
static void
on_truncate(LogicalDecodingContext *context, ReorderBufferTXN *txn,
			int nrelations, Relation rels[], ReorderBufferChange *change)
{
	for (int i = 0; i < nrelations; i++)
	{
		EtlWalRelation *known = etl_wal_relation(rels[i], writer);
		EtlChangeEvent event = {0};
		bool is_whole = known->source == known->relid;

		if (known->relation == NULL ||
			(!is_whole && was_said(known->source, nrelations, rels, i)))
			continue;
		event.kind = ETL_EVENT_TRUNCATE;
		event.relation = known->relation;
		event.cascade = change->data.truncate.cascade;
		event.restart_sequences = change->data.truncate.restart_seqs;
		if (!is_whole)
			event.obstacle = ETL_OBSTACLE_PARTITION_TRUNCATED;
		write_event(&event, change);
	}
}

/*
 * Is the table among those that were truncated as a whole, or was it said of
 * the first few that they are partitions of it?
 */
static bool
was_said(Oid source, int nrelations, Relation rels[], int nsaid)
{
	for (int i = 0; i < nrelations; i++)
	{
		if (RelationGetRelid(rels[i]) == source ||
			(i < nsaid && etl_wal_relation(rels[i], writer)->source == source))
			return true;
	}
	return false;
}

/* Write a change, and before the first that the transaction has begun. */
static void
write_event(EtlChangeEvent *event, const ReorderBufferChange *change)
{
	event->lsn = change->lsn;
	if (spool != NULL)
	{
		event->ordinal = change->txn->xid;
		(void) etl_change_write_event(etl_wal_spool_writer(spool), event);
		return;
	}
	event->ordinal = ++ordinal;
	if (!has_begun && !etl_change_write_begin(writer, &xact))
		etl_wal_leave();
	has_begun = true;
	if (!etl_change_write_event(writer, event))
		etl_wal_leave();
}

static void
on_commit(LogicalDecodingContext *context, ReorderBufferTXN *txn,
		  XLogRecPtr commit_lsn)
{
	if (!has_begun)
		return;
	if (!etl_change_write_commit(writer, &xact))
		etl_wal_leave();
	last_commit = xact.end_lsn;
	has_begun = false;
}

/* ------------------------------------------------------------------ */
/* pieces of large transactions                                         */

static void
on_stream_start(LogicalDecodingContext *context, ReorderBufferTXN *txn)
{
	if (!etl_change_writer_flush(writer))
		etl_wal_leave();
	if (txn->output_plugin_private == NULL)
		txn->output_plugin_private = etl_wal_spool_open(spool_context);
	spool = txn->output_plugin_private;
}

/* Also when the transaction turns out to have been rolled back. */
static void
on_stream_stop(LogicalDecodingContext *context, ReorderBufferTXN *txn)
{
	(void) etl_change_writer_rest(etl_wal_spool_writer(spool));
	spool = NULL;
}

/* The transaction was rolled back, or one within it. */
static void
on_stream_abort(LogicalDecodingContext *context, ReorderBufferTXN *txn,
				XLogRecPtr lsn)
{
	ReorderBufferTXN *top = txn->toptxn != NULL ? txn->toptxn : txn;

	if (top->output_plugin_private == NULL)
		return;
	if (top != txn)
	{
		etl_wal_spool_abort(top->output_plugin_private, txn->xid);
		return;
	}
	etl_wal_spool_close(txn->output_plugin_private);
	txn->output_plugin_private = NULL;
}

/* All of it has come in pieces. */
static void
on_stream_commit(LogicalDecodingContext *context, ReorderBufferTXN *txn,
				 XLogRecPtr commit_lsn)
{
	bool sent;

	if (txn->output_plugin_private == NULL)
		return;
	set_xact(txn);
	if (!etl_wal_spool_send(txn->output_plugin_private, writer, &xact, &sent))
		etl_wal_leave();
	if (sent)
		last_commit = xact.end_lsn;
	etl_wal_spool_close(txn->output_plugin_private);
	txn->output_plugin_private = NULL;
}

XLogRecPtr
etl_wal_last_commit(void)
{
	return last_commit;
}
