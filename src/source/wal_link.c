/*-------------------------------------------------------------------------
 *
 * wal_link.c
 *	  The pair of processes that follow a source: the one that applies starts
 *	  the one that reads.
 *
 * What they share is one segment of dynamic shared memory, made by the process
 * that applies and mapped by both until their end, so that it is gone with the
 * second of them whatever happened.  Each sees the other's end: the reader is
 * told by a flag, set when the segment is detached, and by the queue, which
 * nobody takes from any more; the process that applies, by the end of the
 * queue.  The reader's latch is set for the flag, the other's for the queue.
 *
 * EtlWalControl.mutex guards the positions, the flag and the latches.  The
 * error is written before the reader detaches from the queue and read after
 * that, so that it needs no lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shm_toc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "source/wal_private.h"

#define READER "etl_patterns cdc reader"

/* The segment, and its parts. */
#define SEGMENT_MAGIC 0x65746c77
#define KEY_CONTROL	  1
#define KEY_TABLES	  2
#define KEY_QUEUE	  3

/* Milliseconds between two times that a reader shows how far it is. */
#define SHOW_EVERY 100

/* A reader that was told to end is terminated after so many milliseconds. */
#define STOP_GRACE 2000

/* A table that is to be read, in the segment. */
typedef struct SharedTable
{
	Oid relid;
	NameData schema;
	NameData name;
} SharedTable;

typedef struct SharedTables
{
	int ntables;
	SharedTable tables[FLEXIBLE_ARRAY_MEMBER];
} SharedTables;

struct EtlWalLink
{
	MemoryContext context;
	dsm_segment *segment;
	EtlWalControl *control;
	BackgroundWorkerHandle *worker;
	shm_mq_handle *queue;
	EtlChangeReader *changes;
	bool has_ended; /* the reader */
};

void (*etl_wal_show)(const EtlWalControl *control) = NULL;

static void make_segment(EtlWalLink *link, const EtlWalControl *settings,
						 List *tables);
static void start_reader(EtlWalLink *link);
static void free_link(EtlWalLink *link);
static void tell_to_end(EtlWalControl *control);
static void on_detach(dsm_segment *segment, Datum arg);
static bool reader_has_ended(EtlWalLink *link, long timeout);
static List *read_tables(const SharedTables *shared);
static void reader_attach(EtlWalControl *control);
static void reader_detach(int code, Datum arg);
static void read_changes(EtlWalControl *control, shm_mq_handle *queue,
						 List *tables);
static void keep_error(EtlWalControl *control);
static const char *whole_message(const ErrorData *error);
static void keep_text(char *place, const char *text);

/* ------------------------------------------------------------------ */
/* the process that applies                                             */

/* Make the segment and start the reader. */
EtlWalLink *
etl_wal_link_start(const EtlWalControl *settings, List *tables)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "etl_patterns cdc link",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EtlWalLink *link = palloc0(sizeof(EtlWalLink));

	link->context = context;
	PG_TRY();
	{
		make_segment(link, settings, tables);
		start_reader(link);
	}
	PG_CATCH();
	{
		if (link->segment != NULL)
			dsm_detach(link->segment);
		MemoryContextSwitchTo(old);
		MemoryContextDelete(context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	return link;
}

/* Fill a new segment; it stays until it is detached. */
static void
make_segment(EtlWalLink *link, const EtlWalControl *settings, List *tables)
{
	Size tables_size = offsetof(SharedTables, tables) +
					   list_length(tables) * sizeof(SharedTable);
	shm_toc_estimator estimator;
	SharedTables *shared;
	Size size;
	shm_toc *toc;
	shm_mq *queue;
	ListCell *lc;

	shm_toc_initialize_estimator(&estimator);
	shm_toc_estimate_chunk(&estimator, sizeof(EtlWalControl));
	shm_toc_estimate_chunk(&estimator, tables_size);
	shm_toc_estimate_chunk(&estimator, ETL_WAL_QUEUE_SIZE);
	shm_toc_estimate_keys(&estimator, 3);
	size = shm_toc_estimate(&estimator);

	link->segment = dsm_create(size, 0);
	dsm_pin_mapping(link->segment);
	toc = shm_toc_create(SEGMENT_MAGIC, dsm_segment_address(link->segment),
						 size);

	link->control = shm_toc_allocate(toc, sizeof(EtlWalControl));
	*link->control = *settings;
	SpinLockInit(&link->control->mutex);
	link->control->stop = false;
	link->control->reader_latch = NULL;
	link->control->applier_latch = MyLatch;
	shm_toc_insert(toc, KEY_CONTROL, link->control);

	shared = shm_toc_allocate(toc, tables_size);
	shared->ntables = 0;
	foreach(lc, tables)
	{
		const EtlWalTable *table = lfirst(lc);
		SharedTable *entry = &shared->tables[shared->ntables++];

		entry->relid = table->relid;
		namestrcpy(&entry->schema, table->schema);
		namestrcpy(&entry->name, table->name);
	}
	shm_toc_insert(toc, KEY_TABLES, shared);

	queue = shm_mq_create(shm_toc_allocate(toc, ETL_WAL_QUEUE_SIZE),
						  ETL_WAL_QUEUE_SIZE);
	shm_mq_set_receiver(queue, MyProc);
	shm_toc_insert(toc, KEY_QUEUE, queue);
	link->queue = shm_mq_attach(queue, link->segment, NULL);
	on_dsm_detach(link->segment, on_detach, PointerGetDatum(link));
}

/* Register the reader: it starts as soon as the postmaster gets to it. */
static void
start_reader(EtlWalLink *link)
{
	BackgroundWorker worker = {0};

	snprintf(worker.bgw_name, BGW_MAXLEN, READER " for %s",
			 link->control->slot_name);
	strlcpy(worker.bgw_type, READER, BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "etl_patterns", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "etl_wal_reader_main", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
					   BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = UInt32GetDatum(dsm_segment_handle(link->segment));
	worker.bgw_notify_pid = MyProcPid;
	if (!RegisterDynamicBackgroundWorker(&worker, &link->worker))
		ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						errmsg("no background worker is free to read changes"),
						errhint("Increase max_worker_processes and restart the "
								"server.")));
	shm_mq_set_handle(link->queue, link->worker);
	link->changes = etl_change_reader_open(link->queue);
}

EtlWalControl *
etl_wal_link_control(EtlWalLink *link)
{
	return link->control;
}

EtlChangeReader *
etl_wal_link_changes(EtlWalLink *link)
{
	return link->changes;
}

/* All up to there is applied, and safe on disk: the slot may move. */
void
etl_wal_link_flushed(EtlWalLink *link, XLogRecPtr position)
{
	EtlWalControl *control = link->control;

	SpinLockAcquire(&control->mutex);
	if (position > control->flushed)
		control->flushed = position;
	SpinLockRelease(&control->mutex);
}

bool
etl_wal_link_has_ended(EtlWalLink *link)
{
	pid_t pid;

	return GetBackgroundWorkerPid(link->worker, &pid) == BGWH_STOPPED;
}

/* After the end of the stream: throw the error that the reader ended with. */
void
etl_wal_link_throw(EtlWalLink *link)
{
	EtlWalControl *control = link->control;

	if (control->error_code != 0)
		ereport(ERROR, (errcode(control->error_code),
						errmsg_internal("%s", control->error),
						control->error_hint[0] != '\0' ?
							errhint("%s", control->error_hint) :
							0));
	ereport(ERROR, (errcode(ERRCODE_ADMIN_SHUTDOWN),
					errmsg("the process that reads changes has ended")));
}

/*
 * End the reader and wait until it is gone.  It ends by itself when it is
 * told, but not while it waits for something else; then it is terminated.  If
 * this is interrupted it is terminated, too, and not waited for.
 */
void
etl_wal_link_stop(EtlWalLink *link)
{
	PG_TRY();
	{
		tell_to_end(link->control);
		shm_mq_detach(link->queue);
		if (!reader_has_ended(link, STOP_GRACE))
		{
			TerminateBackgroundWorker(link->worker);
			(void) WaitForBackgroundWorkerShutdown(link->worker);
		}
		link->has_ended = true;
	}
	PG_CATCH();
	{
		free_link(link);
		PG_RE_THROW();
	}
	PG_END_TRY();
	free_link(link);
}

static void
free_link(EtlWalLink *link)
{
	dsm_detach(link->segment);
	MemoryContextDelete(link->context);
}

static void
tell_to_end(EtlWalControl *control)
{
	Latch *latch;

	SpinLockAcquire(&control->mutex);
	control->stop = true;
	latch = control->reader_latch;
	SpinLockRelease(&control->mutex);
	if (latch != NULL)
		SetLatch(latch);
}

/*
 * When the process that applies ends, or gives up the link, for whatever
 * reason: then the reader may be waiting for anything.
 */
static void
on_detach(dsm_segment *segment, Datum arg)
{
	EtlWalLink *link = (EtlWalLink *) DatumGetPointer(arg);

	if (link->has_ended || link->worker == NULL)
		return;
	tell_to_end(link->control);
	TerminateBackgroundWorker(link->worker);
}

/* Wait for the end of the reader; false if it takes longer than that. */
static bool
reader_has_ended(EtlWalLink *link, long timeout)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												  timeout);
	pid_t pid;

	for (;;)
	{
		long left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);

		CHECK_FOR_INTERRUPTS();
		if (GetBackgroundWorkerPid(link->worker, &pid) == BGWH_STOPPED)
			return true;
		if (left <= 0)
			return false;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, left,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/* ------------------------------------------------------------------ */
/* the process that reads                                               */

/*
 * The main function of a reader; its argument is the segment.  It is connected
 * as the bootstrap superuser, and runs no code of users.
 */
void
etl_wal_reader_main(Datum main_arg)
{
	dsm_segment *segment;
	shm_toc *toc;
	EtlWalControl *control;
	shm_mq *queue;
	List *tables;

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();

	segment = dsm_attach(DatumGetUInt32(main_arg));
	if (segment == NULL)
		proc_exit(0); /* who started it is gone */
	toc = shm_toc_attach(SEGMENT_MAGIC, dsm_segment_address(segment));
	if (toc == NULL)
		elog(ERROR, "segment of a reader of changes has no magic number");
	MemoryContextSwitchTo(TopMemoryContext);
	control = shm_toc_lookup(toc, KEY_CONTROL, false);
	tables = read_tables(shm_toc_lookup(toc, KEY_TABLES, false));
	queue = shm_toc_lookup(toc, KEY_QUEUE, false);

	reader_attach(control);
	shm_mq_set_sender(queue, MyProc);
	read_changes(control, shm_mq_attach(queue, segment, NULL), tables);
	proc_exit(0);
}

/* The tables to read, as a list of EtlWalTable. */
static List *
read_tables(const SharedTables *shared)
{
	List *tables = NIL;

	for (int i = 0; i < shared->ntables; i++)
	{
		EtlWalTable *table = palloc(sizeof(EtlWalTable));

		table->relid = shared->tables[i].relid;
		table->schema = NameStr(shared->tables[i].schema);
		table->name = NameStr(shared->tables[i].name);
		tables = lappend(tables, table);
	}
	return tables;
}

/* From now on this process can be woken. */
static void
reader_attach(EtlWalControl *control)
{
	SpinLockAcquire(&control->mutex);
	control->reader_latch = MyLatch;
	control->reader = MyProcPid;
	SpinLockRelease(&control->mutex);
	before_shmem_exit(reader_detach, PointerGetDatum(control));
}

static void
reader_detach(int code, Datum arg)
{
	EtlWalControl *control = (EtlWalControl *) DatumGetPointer(arg);

	SpinLockAcquire(&control->mutex);
	control->reader_latch = NULL;
	control->reader = 0;
	SpinLockRelease(&control->mutex);
}

/* Read until told to end; an error ends the process, and is left behind. */
static void
read_changes(EtlWalControl *control, shm_mq_handle *queue, List *tables)
{
	PG_TRY();
	{
		EtlChangeWriter *writer;

		BackgroundWorkerInitializeConnectionByOid(control->database, InvalidOid,
												  0);
		/* a large transaction is decoded in one, too */
		etl_no_transaction_timeout(PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SET);
		pgstat_report_appname(READER);
		writer = etl_change_writer_open(queue);
		if (control->is_remote)
			etl_wal_read_remote(control, writer, tables);
		else
			etl_wal_read_local(control, writer, tables);
	}
	PG_CATCH();
	{
		keep_error(control);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* See what the process that applies says, and tell how far we are. */
XLogRecPtr
etl_wal_look(EtlWalControl *control, XLogRecPtr read, XLogRecPtr wal_end,
			 TimestampTz now)
{
	static TimestampTz shown_at = 0;
	XLogRecPtr flushed;
	bool stop;

	SpinLockAcquire(&control->mutex);
	flushed = control->flushed;
	stop = control->stop;
	control->read = read;
	control->wal_end = wal_end;
	control->read_time = now;
	SpinLockRelease(&control->mutex);
	if (stop)
		etl_wal_leave();
	if (etl_wal_show != NULL &&
		TimestampDifferenceExceeds(shown_at, now, SHOW_EVERY))
	{
		shown_at = now;
		etl_wal_show(control);
	}
	return flushed;
}

/* Leave an error to the process that applies. */
static void
keep_error(EtlWalControl *control)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	ErrorData *error = CopyErrorData();

	MemoryContextSwitchTo(old);
	keep_text(control->error, whole_message(error));
	keep_text(control->error_hint, error->hint);
	pg_write_barrier();
	control->error_code = error->sqlerrcode;
	FreeErrorData(error);
}

/* The message, with what else is there to say. */
static const char *
whole_message(const ErrorData *error)
{
	StringInfoData text;

	if (error->message == NULL ||
		(error->detail == NULL && error->context == NULL))
		return error->message;
	initStringInfo(&text);
	appendStringInfoString(&text, error->message);
	if (error->detail != NULL)
		appendStringInfo(&text, ": %s", error->detail);
	if (error->context != NULL)
		appendStringInfo(&text, " (%s)", error->context);
	return text.data;
}

/* As much of a text as there is room for, in whole characters. */
static void
keep_text(char *place, const char *text)
{
	int len = text != NULL ? strlen(text) : 0;

	len = pg_mbcliplen(text, len, ETL_WAL_MAX_ERROR - 1);
	if (len > 0)
		memcpy(place, text, len);
	place[len] = '\0';
}
