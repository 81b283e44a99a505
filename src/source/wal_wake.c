/*-------------------------------------------------------------------------
 *
 * wal_wake.c
 *	  Commits wake the processes that read this server's WAL.
 *
 * PostgreSQL tells only its own WAL senders that there is more WAL.  So every
 * session of a database in which a reader is at work sets the reader's latch
 * when it has committed.  Without any reader that costs the look at a counter.
 * What does not set the latch, such as other databases' WAL, is found when the
 * reader looks by itself.  From 16 on the senders wait for condition variables,
 * which we could wait for, too; but these wake all who wait, at each flush of
 * whatever database, and say nothing of commits that nobody flushes.
 *
 * A transaction that does not wait for its commit to be on disk cannot be read
 * until it is.  Where it ends is told, too, so that the reader can see to it.
 * What a pipeline applies is such a transaction, and nobody may be waiting for
 * it: its own reader is not told, unless the pipeline follows one of its own
 * targets, and other readers are told that it is not urgent.
 *
 * Entries are made and freed under the spinlock; sessions read them without a
 * lock, after their commit, where nothing may be thrown.  At worst they set a
 * latch that belongs to another process by now, which wakes it for nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "source/wal_wake.h"

#define SHMEM_NAME "etl_patterns readers of WAL"

/* One reader. */
typedef struct WakeEntry
{
	Oid database;  /* InvalidOid: the entry is free */
	pid_t applier; /* reads for this process */
	Latch *latch;
	pg_atomic_uint64 unflushed;
	pg_atomic_uint64 deferred; /* likewise, and not urgent */
} WakeEntry;

typedef struct WakeShared
{
	slock_t mutex;
	pg_atomic_uint32 nreaders;
	int nentries; /* as many as there can be background workers */
	WakeEntry entries[FLEXIBLE_ARRAY_MEMBER];
} WakeShared;

static WakeShared *shared = NULL;
static WakeEntry *own_entry = NULL;

/* Does this process apply changes, and may its own reader want them? */
static bool is_applier = false;
static bool is_chained = false;

static shmem_request_hook_type next_shmem_request_hook = NULL;
static shmem_startup_hook_type next_shmem_startup_hook = NULL;

static Size shared_size(void);
static void request_shmem(void);
static void start_shmem(void);
static void free_entry(int code, Datum arg);
static void at_transaction_end(XactEvent event, void *arg);
static void tell_readers(XLogRecPtr commit_end);
static uint64 advance(pg_atomic_uint64 *position, XLogRecPtr commit_end);

/* ------------------------------------------------------------------ */
/* at the start of the server                                           */

/* Asks for the shared memory; sessions inherit the callback. */
void
etl_wal_wake_init(void)
{
	next_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	next_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = start_shmem;
	RegisterXactCallback(at_transaction_end, NULL);
}

static Size
shared_size(void)
{
	return add_size(offsetof(WakeShared, entries),
					mul_size(max_worker_processes, sizeof(WakeEntry)));
}

static void
request_shmem(void)
{
	if (next_shmem_request_hook)
		next_shmem_request_hook();
	RequestAddinShmemSpace(shared_size());
}

static void
start_shmem(void)
{
	bool found;

	if (next_shmem_startup_hook)
		next_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct(SHMEM_NAME, shared_size(), &found);
	if (!found)
	{
		SpinLockInit(&shared->mutex);
		pg_atomic_init_u32(&shared->nreaders, 0);
		shared->nentries = max_worker_processes;
		for (int i = 0; i < shared->nentries; i++)
		{
			shared->entries[i].database = InvalidOid;
			shared->entries[i].latch = NULL;
			pg_atomic_init_u64(&shared->entries[i].unflushed, 0);
			pg_atomic_init_u64(&shared->entries[i].deferred, 0);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

bool
etl_wal_wake_is_there(void)
{
	return shared != NULL;
}

/* ------------------------------------------------------------------ */
/* readers                                                              */

/*
 * Take an entry for this process, which is a background worker connected to a
 * database: so there is one.
 */
void
etl_wal_wake_me(void)
{
	WakeEntry *entry = NULL;

	if (shared == NULL || own_entry != NULL)
		return;
	SpinLockAcquire(&shared->mutex);
	for (int i = 0; i < shared->nentries && entry == NULL; i++)
	{
		if (!OidIsValid(shared->entries[i].database))
			entry = &shared->entries[i];
	}
	if (entry != NULL)
	{
		entry->applier = MyBgworkerEntry->bgw_notify_pid;
		entry->latch = MyLatch;
		pg_atomic_write_u64(&entry->unflushed, InvalidXLogRecPtr);
		pg_atomic_write_u64(&entry->deferred, InvalidXLogRecPtr);
		pg_write_barrier();
		entry->database = MyDatabaseId;
	}
	SpinLockRelease(&shared->mutex);
	if (entry == NULL)
		elog(ERROR, "there are more readers of WAL than background workers");
	pg_atomic_fetch_add_u32(&shared->nreaders, 1);
	own_entry = entry;
	before_shmem_exit(free_entry, (Datum) 0);
}

/* At the exit. */
static void
free_entry(int code, Datum arg)
{
	SpinLockAcquire(&shared->mutex);
	own_entry->database = InvalidOid;
	SpinLockRelease(&shared->mutex);
	pg_atomic_fetch_sub_u32(&shared->nreaders, 1);
}

XLogRecPtr
etl_wal_wake_unflushed(void)
{
	if (own_entry == NULL)
		return InvalidXLogRecPtr;
	return pg_atomic_read_u64(&own_entry->unflushed);
}

XLogRecPtr
etl_wal_wake_deferred(void)
{
	if (own_entry == NULL)
		return InvalidXLogRecPtr;
	return pg_atomic_read_u64(&own_entry->deferred);
}

/* Commits up to there are on disk: the next one is to wake us again. */
void
etl_wal_wake_flushed(XLogRecPtr position)
{
	uint64 known = position;

	if (own_entry != NULL)
		(void) pg_atomic_compare_exchange_u64(&own_entry->deferred, &known,
											  InvalidXLogRecPtr);
}

/* ------------------------------------------------------------------ */
/* sessions                                                             */

void
etl_wal_wake_applier(bool chained)
{
	is_applier = true;
	is_chained = chained;
}

/* Set the latches of the readers of this database. */
void
etl_wal_wake_readers(void)
{
	if (shared == NULL || pg_atomic_read_u32(&shared->nreaders) == 0 ||
		!OidIsValid(MyDatabaseId))
		return;
	for (int i = 0; i < shared->nentries; i++)
	{
		if (shared->entries[i].database != MyDatabaseId)
			continue;
		pg_read_barrier();
		SetLatch(shared->entries[i].latch);
	}
}

/* Tells readers of a commit that wrote something. */
static void
at_transaction_end(XactEvent event, void *arg)
{
	static XLogRecPtr last_commit_end = InvalidXLogRecPtr;

	if (event != XACT_EVENT_COMMIT || XactLastCommitEnd == last_commit_end)
		return;
	last_commit_end = XactLastCommitEnd;
	if (shared != NULL && pg_atomic_read_u32(&shared->nreaders) > 0)
		tell_readers(last_commit_end);
}

/* Tell the readers of this database. */
static void
tell_readers(XLogRecPtr commit_end)
{
	bool is_async = synchronous_commit == SYNCHRONOUS_COMMIT_OFF;

	if (!OidIsValid(MyDatabaseId))
		return;
	for (int i = 0; i < shared->nentries; i++)
	{
		WakeEntry *entry = &shared->entries[i];

		if (entry->database != MyDatabaseId || entry == own_entry ||
			(is_applier && !is_chained && entry->applier == MyProcPid))
			continue;
		pg_read_barrier();
		if (is_async && is_applier && !is_chained)
		{
			if (advance(&entry->deferred, commit_end) != InvalidXLogRecPtr)
				continue; /* it has an eye on that already */
		}
		else if (is_async)
			(void) advance(&entry->unflushed, commit_end);
		SetLatch(entry->latch);
	}
}

/* Move a position forward, whoever else does so; returns the former one. */
static uint64
advance(pg_atomic_uint64 *position, XLogRecPtr commit_end)
{
	uint64 known = pg_atomic_read_u64(position);

	while (known < commit_end &&
		   !pg_atomic_compare_exchange_u64(position, &known, commit_end))
		;
	return known;
}
