/*-------------------------------------------------------------------------
 *
 * wal_local.c
 *	  Reads this server's WAL: the slot, and waiting for more.
 *
 * The slot keeps WAL and old versions of catalogs for us.  It is moved only to
 * where the process that applies says that all is applied and safe.  A new
 * slot is ephemeral until it is usable, so that an error or the end of the
 * process leaves none behind; PostgreSQL lets go of it when the process exits.
 * Standbys get it if those are named that it is to wait for: without, one could
 * have the slot where it is now, and not yet what was applied up to there.
 *
 * All waiting is done where the next page of WAL is asked for.  Commits set
 * the latch (wal_wake.c); a look of our own once in a while finds the WAL of
 * others, so that the slot moves on past that, too.  Whatever is gathered is
 * sent before there is waiting, and after a moment when there is none.
 *
 * Contexts for decoding are made inside a transaction: outside of one the
 * process would be marked as one that reads catalogs by its slot only, and not
 * be heeded where it reads anything else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogutils.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "replication/decode.h"
#include "replication/logical.h"
#include "replication/slot.h"
#include "storage/ipc.h"
#include "storage/sinval.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "source/wal_private.h"
#include "source/wal_wake.h"

#define PLUGIN "pgoutput"

/* Milliseconds */
#define SEND_AFTER	   2	/* what was gathered waits no longer than this */
#define REPORT_EVERY   20	/* positions between which nothing happened */
#define LOOK_EVERY	   1000 /* without being woken */
#define FLUSH_AFTER	   10	/* what others have applied is put on disk */
#define SLOT_IN_USE	   5000 /* how long the last reader may take to end */
#define SLOT_IN_USE_IN 20

/* Records between two looks at the clock. */
#define RECORDS_PER_LOOK 64

static EtlWalControl *control;
static EtlChangeWriter *writer;
static XLogRecPtr processed; /* all records before were decoded */
static XLogRecPtr reported;	 /* the last position that was written */
static XLogRecPtr confirmed; /* the slot was moved to */
static TimestampTz sent_at;	 /* the last time that nothing was gathered */
static TimestampTz reported_at;
static bool is_decoding;		  /* the slot is made */
static bool wants_failover;		  /* standbys are named */
static XLogRecPtr failover_after; /* they have got */

static void create_slot(void);
static void make_way(const char *name);
static void acquire_slot(void);
static void wait_for_last_reader(const char *name);
pg_noreturn static void refuse_lost(const char *message);
static LogicalDecodingContext *start_decoding(void);
static List *plugin_options(void);
static void decode(LogicalDecodingContext *context);
static int read_page(XLogReaderState *state, XLogRecPtr page, int len,
					 XLogRecPtr record, char *buffer);
static void wait_for_wal(XLogRecPtr position);
static long flush_commits(TimestampTz now);
static void look_around(TimestampTz now);
static void see_to_failover(void);
static long report_idle(TimestampTz now);
static void keep_order(void);

/* ------------------------------------------------------------------ */
/* the reader                                                           */

/* Read until there is nobody who wants it; does not come back. */
void
etl_wal_read_local(EtlWalControl *shared_control, EtlChangeWriter *queue,
				   List *tables)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "etl_patterns decoding",
												  ALLOCSET_DEFAULT_SIZES);

	control = shared_control;
	writer = queue;
	MemoryContextSwitchTo(context);
	etl_wal_check_local();
	etl_wal_wake_me();
	if (control->create_slot)
		create_slot();
	else
		acquire_slot();

	MemoryContextSwitchTo(context);
	etl_wal_tables_init(tables);
	decode(start_decoding());
}

/* Nobody wants changes any more. */
void
etl_wal_leave(void)
{
	proc_exit(0);
}

/* ------------------------------------------------------------------ */
/* the slot                                                             */

/*
 * Make the slot, which waits for the end of all transactions that write now.
 * The transaction around it has no snapshot and nothing that others wait for.
 */
static void
create_slot(void)
{
	MemoryContext old = CurrentMemoryContext;
	LogicalDecodingContext *context;

	make_way(control->slot_name);
	StartTransactionCommand();
	MemoryContextSwitchTo(old);
	etl_slot_create(control->slot_name, RS_EPHEMERAL);
	context =
		CreateInitDecodingContext(PLUGIN, NIL, false, InvalidXLogRecPtr,
								  XL_ROUTINE(.page_read = read_page,
											 .segment_open = wal_segment_open,
											 .segment_close = wal_segment_close),
								  NULL, NULL, NULL);
	DecodingContextFindStartpoint(context);
	FreeDecodingContext(context);
	ReplicationSlotPersist();
	CommitTransactionCommand();
	MemoryContextSwitchTo(old);

	SpinLockAcquire(&control->mutex);
	control->consistent = MyReplicationSlot->data.confirmed_flush;
	SpinLockRelease(&control->mutex);
	SetLatch(control->applier_latch);
}

/*
 * A slot of our name may be left of a reader whose pipeline did not get to
 * know of it.
 */
static void
make_way(const char *name)
{
	if (SearchNamedReplicationSlot(name, true) == NULL)
		return;
	wait_for_last_reader(name);
	etl_slot_acquire(name);
	if (MyReplicationSlot->data.database != MyDatabaseId ||
		strcmp(NameStr(MyReplicationSlot->data.plugin), PLUGIN) != 0)
		ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
						errmsg("replication slot \"%s\" exists and is not a "
							   "pipeline's",
							   name),
						errhint("Drop it with pg_drop_replication_slot().")));
	ReplicationSlotRelease();
	ReplicationSlotDrop(name, true);
}

/* Take the slot that there is. */
static void
acquire_slot(void)
{
	if (SearchNamedReplicationSlot(control->slot_name, true) == NULL)
		refuse_lost("replication slot \"%s\" does not exist any more");
	wait_for_last_reader(control->slot_name);
	etl_slot_acquire(control->slot_name);
	if (etl_slot_is_invalidated(MyReplicationSlot))
		refuse_lost("replication slot \"%s\" has lost changes that were still "
					"needed");
}

/*
 * The reader before us may be about to end.  If it does not end soon, taking
 * the slot throws an error that says who has it.
 */
static void
wait_for_last_reader(const char *name)
{
	for (int waited = 0; waited < SLOT_IN_USE; waited += SLOT_IN_USE_IN)
	{
		ReplicationSlot *slot = SearchNamedReplicationSlot(name, true);
		pid_t pid = 0;

		CHECK_FOR_INTERRUPTS();
		if (slot != NULL)
		{
			SpinLockAcquire(&slot->mutex);
			pid = slot->active_pid;
			SpinLockRelease(&slot->mutex);
		}
		if (pid == 0)
			break;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 SLOT_IN_USE_IN, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/* What the pipeline has not got yet is gone. */
static void
refuse_lost(const char *message)
{
	control->slot_lost = true;
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg_internal(message, control->slot_name),
					errhint("Call etl_cdc_resync() to copy the tables anew.")));
}

/* Drop a slot; nothing happens if there is none. */
void
etl_wal_drop_local_slot(const char *slot_name)
{
	if (SearchNamedReplicationSlot(slot_name, true) != NULL)
		ReplicationSlotDrop(slot_name, false);
}

/* Can this server's WAL be decoded?  Throws an error that says what to do. */
void
etl_wal_check_local(void)
{
	if (RecoveryInProgress())
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("changes cannot be followed on a standby "
							   "server")));
	if (wal_level < WAL_LEVEL_LOGICAL)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("following changes needs wal_level \"logical\""),
						errhint("Set wal_level = logical and restart the "
								"server.")));
	if (max_replication_slots == 0)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("following changes needs a replication slot"),
						errhint("Set max_replication_slots to 1 or more and "
								"restart the server.")));
	if (!etl_wal_wake_is_there())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("following changes needs etl_patterns to be "
						"preloaded"),
				 errhint("Add etl_patterns to shared_preload_libraries and "
						 "restart the server.")));
}

/* ------------------------------------------------------------------ */
/* decoding                                                             */

/* Make the context, in the current memory context, at our place. */
static LogicalDecodingContext *
start_decoding(void)
{
	MemoryContext old = CurrentMemoryContext;
	LogicalDecodingContext *context;
	XLogRecPtr start = Max(control->start,
						   MyReplicationSlot->data.confirmed_flush);

	StartTransactionCommand();
	MemoryContextSwitchTo(old);
	context = CreateDecodingContext(start, plugin_options(), false,
									XL_ROUTINE(.page_read = read_page,
											   .segment_open = wal_segment_open,
											   .segment_close = wal_segment_close),
									NULL, NULL, NULL);
	CommitTransactionCommand();
	MemoryContextSwitchTo(old);
	etl_wal_decode_init(context, writer);
	confirmed = MyReplicationSlot->data.confirmed_flush;
	reported = start;
	return context;
}

/* What pgoutput wants to hear at its start; it publishes nothing for us. */
static List *
plugin_options(void)
{
	DefElem *version = makeDefElem("proto_version", (Node *) makeString("1"),
								   -1);
	DefElem *names = makeDefElem("publication_names",
								 (Node *) makeString("etl_patterns"), -1);

	return list_make2(version, names);
}

/* Decode record after record, for ever. */
static void
decode(LogicalDecodingContext *context)
{
	MemoryContext own_context = CurrentMemoryContext;
	int nrecords = 0;

	processed = MyReplicationSlot->data.restart_lsn;
	XLogBeginRead(context->reader, processed);
	sent_at = GetCurrentTimestamp();
	is_decoding = true;
	wants_failover = etl_standbys_are_named();
	failover_after = GetFlushRecPtr(NULL);

	/* what is cached is of now, what is decoded is of then */
	InvalidateSystemCaches();
	for (;;)
	{
		char *message = NULL;

		MemoryContextSwitchTo(own_context);
		CHECK_FOR_INTERRUPTS();
		if (XLogReadRecord(context->reader, &message) == NULL)
			ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
							errmsg("could not read WAL at %X/%X: %s",
								   LSN_FORMAT_ARGS(processed),
								   message != NULL ? message : "no record")));
		LogicalDecodingProcessRecord(context, context->reader);
		processed = context->reader->EndRecPtr;
		if (++nrecords % RECORDS_PER_LOOK == 0)
			keep_order();
	}
}

/* While there is more to decode: send, and see what is new. */
static void
keep_order(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (etl_change_writer_is_empty(writer))
		sent_at = now;
	else if (TimestampDifferenceExceeds(sent_at, now, SEND_AFTER))
	{
		if (!etl_change_writer_flush(writer))
			etl_wal_leave();
		sent_at = now;
	}
	look_around(now);
}

/* ------------------------------------------------------------------ */
/* waiting                                                              */

/* Called for a page of WAL, of which at least so many bytes are needed. */
static int
read_page(XLogReaderState *state, XLogRecPtr page, int len, XLogRecPtr record,
		  char *buffer)
{
	if (page + len > GetFlushRecPtr(NULL))
		wait_for_wal(page + len);
	return read_local_xlog_page(state, page, len, record, buffer);
}

/* Send what there is, then wait until there is WAL up to a position. */
static void
wait_for_wal(XLogRecPtr position)
{
	MemoryContext old = CurrentMemoryContext;

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		long timeout;
		long flush_in;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (!etl_change_writer_flush(writer))
			etl_wal_leave();
		sent_at = now;
		look_around(now);
		flush_in = flush_commits(now);
		if (position <= GetFlushRecPtr(NULL))
			break;

		timeout = Min(report_idle(now), flush_in);
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (catchupInterruptPending)
			ProcessCatchupInterrupt();
		if (is_decoding)
			pgstat_report_stat(false);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 timeout, PG_WAIT_EXTENSION);
	}
	MemoryContextSwitchTo(old);
}

/*
 * Commits that did not wait for the disk are read when they are on it.  What
 * other pipelines have applied has some time; mostly somebody else's commit
 * puts it on disk.  Returns how long.
 */
static long
flush_commits(TimestampTz now)
{
	static TimestampTz deferred_at = 0;
	XLogRecPtr unflushed = etl_wal_wake_unflushed();
	XLogRecPtr deferred = etl_wal_wake_deferred();
	long passed;

	if (unflushed > GetFlushRecPtr(NULL))
		XLogFlush(unflushed);
	if (deferred == InvalidXLogRecPtr)
		return LOOK_EVERY;
	if (deferred_at == 0)
		deferred_at = now;
	passed = TimestampDifferenceMilliseconds(deferred_at, now);
	if (deferred > GetFlushRecPtr(NULL))
	{
		if (passed < FLUSH_AFTER)
			return FLUSH_AFTER - passed;
		XLogFlush(deferred);
	}
	etl_wal_wake_flushed(deferred);
	deferred_at = 0;
	return FLUSH_AFTER; /* there may be another one by now */
}

/* See what the process that applies says, and tell it how far we are. */
static void
look_around(TimestampTz now)
{
	XLogRecPtr flushed = etl_wal_look(control, processed, GetFlushRecPtr(NULL),
									  now);

	if (is_decoding)
		see_to_failover();
	if (is_decoding && flushed > confirmed)
	{
		LogicalConfirmReceivedLocation(flushed);
		confirmed = flushed;
	}
}

/*
 * Have the slot copied to standbys if some are named: from now on it moves to
 * what they have, but it is there already, and so must they be.  When they come
 * to be named there is another reader.
 */
static void
see_to_failover(void)
{
	bool wanted = wants_failover && etl_standbys_are_named();

	if (etl_slot_is_failover() == wanted ||
		(wanted && !etl_standbys_have(failover_after, DEBUG1)))
		return;
	etl_slot_set_failover(wanted);
}

/*
 * Before waiting: write the position that was reached, if it is a new one, but
 * not too often, since that wakes the process that applies.  Returns how long
 * to wait.
 */
static long
report_idle(TimestampTz now)
{
	long passed = TimestampDifferenceMilliseconds(reported_at, now);

	reported = Max(reported, etl_wal_last_commit());
	if (!is_decoding || processed <= reported)
		return LOOK_EVERY;
	if (passed < REPORT_EVERY)
		return REPORT_EVERY - passed;
	if (!etl_change_write_idle(writer, processed) ||
		!etl_change_writer_flush(writer))
		etl_wal_leave();
	reported = processed;
	reported_at = now;
	return LOOK_EVERY;
}
