/*-------------------------------------------------------------------------
 *
 * shared.c
 *	  The shared memory of launcher, schedulers and workers, and what sessions
 *	  put into it.
 *
 * A session tells news when its transaction commits: before that nobody could
 * see the rows.  Until then they are kept in a list of its own, which forgets
 * what an abort undoes.  A subtransaction that is rolled back takes nothing
 * back: news only say where to look.  So does a scheduler that was told
 * nothing, because a transaction was prepared and committed by another session
 * or because a list was full: it looks at everything once in a while.
 *
 * Locks: EtlShared.lock guards all fields, except what never changes and what
 * only this process writes and reads.  It is taken after the commit is done,
 * where an error would be a panic: nothing there allocates or throws.
 *
 * A latch that is set may belong to a process that has taken the place of the
 * one that was meant.  Each waits in a loop, so that one is woken for nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "etl_patterns.h"
#include "worker/shared.h"

#define TRANCHE "etl_patterns"

EtlShared *etl_shared = NULL;

static shmem_request_hook_type next_shmem_request_hook = NULL;
static shmem_startup_hook_type next_shmem_startup_hook = NULL;

/* What is to be told when the transaction commits. */
typedef struct Pending
{
	EtlNews *news;
	int nnews; /* more than ETL_NEWS_LEN: some are lost */
	int news_len;
	bool dropped;
	Oid asked; /* there is only the own database to ask for */
	bool look_around;
} Pending;

static Pending pending;

/* Of a scheduler: its entry. */
static EtlSharedDatabase *own_entry = NULL;

static void request_shmem(void);
static void start_shmem(void);
static Size databases_offset(void);
static Size slots_offset(int ndatabases);
static Size appliers_offset(int ndatabases, int nslots);
static Size shared_size(void);
static int count_databases(void);
static void detach_scheduler(int code, Datum arg);
static void register_at_commit(void);
static void at_transaction_end(XactEvent event, void *arg);
static void push_to_scheduler(void);
static void push_to_launcher(void);
static bool is_asked(Oid database);

/* Asks for the shared memory.  The settings must have their values. */
void
etl_shared_init(void)
{
	next_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	next_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = start_shmem;
	etl_wal_show = etl_reader_show;
}

/* The entry of a database, by its place. */
EtlSharedDatabase *
etl_shared_database(int index)
{
	Assert(index >= 0 && index < etl_shared->ndatabases);
	return (EtlSharedDatabase *) ((char *) etl_shared + databases_offset()) +
		   index;
}

/* The slot of a worker, by its place. */
EtlSharedSlot *
etl_shared_slot(int index)
{
	Assert(index >= 0 && index < etl_shared->nslots);
	return (EtlSharedSlot *) ((char *) etl_shared +
							  slots_offset(etl_shared->ndatabases)) +
		   index;
}

/* The process of a pipeline, by its place. */
EtlSharedApplier *
etl_shared_applier(int index)
{
	Assert(index >= 0 && index < etl_shared->nappliers);
	return (EtlSharedApplier *) ((char *) etl_shared +
								 appliers_offset(etl_shared->ndatabases,
												 etl_shared->nslots)) +
		   index;
}

/* The entry of a database, or NULL.  The caller holds the lock. */
EtlSharedDatabase *
etl_shared_find_database(Oid database)
{
	for (int i = 0; i < etl_shared->ndatabases; i++)
	{
		EtlSharedDatabase *entry = etl_shared_database(i);

		if (entry->state != ETL_DATABASE_FREE && entry->database == database)
			return entry;
	}
	return NULL;
}

/*
 * Makes the entry this process's, which must have been started as a scheduler
 * by the launcher, and must not have connected yet.  If the launcher has
 * changed its mind in the meantime, the process ends.
 */
EtlSharedDatabase *
etl_scheduler_attach(int index)
{
	EtlSharedDatabase *entry;
	uint32 generation;

	if (etl_shared == NULL || index < 0 || index >= etl_shared->ndatabases)
		elog(ERROR, "there is no entry %d for a scheduler", index);
	entry = etl_shared_database(index);
	memcpy(&generation, MyBgworkerEntry->bgw_extra, sizeof(generation));

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	if (entry->state != ETL_DATABASE_STARTING ||
		entry->generation != generation || entry->scheduler != 0)
	{
		LWLockRelease(etl_shared->lock);
		proc_exit(0);
	}
	entry->scheduler = MyProcPid;
	entry->leave = false;
	entry->latch = MyLatch;
	entry->started_at = entry->heartbeat = GetCurrentTimestamp();
	entry->nnews = 0;
	LWLockRelease(etl_shared->lock);

	own_entry = entry;
	before_shmem_exit(detach_scheduler, (Datum) 0);
	return entry;
}

/* The database has the extension: this scheduler stays. */
void
etl_scheduler_serve(void)
{
	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	own_entry->state = ETL_DATABASE_SERVED;
	if (etl_shared->launcher_latch != NULL)
		SetLatch(etl_shared->launcher_latch);
	LWLockRelease(etl_shared->lock);
}

/* The database has no extension: nobody is to start this scheduler again. */
void
etl_scheduler_leave(void)
{
	EtlSharedDatabase *entry = own_entry;

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	own_entry = NULL;
	entry->state = ETL_DATABASE_FREE;
	entry->scheduler = 0;
	entry->latch = NULL;
	if (etl_shared->launcher_latch != NULL)
		SetLatch(etl_shared->launcher_latch);
	LWLockRelease(etl_shared->lock);
}

/*
 * Ends a scheduler through no fault of its own, if there is one.  The caller
 * holds the lock, so that the process is still the one that is meant.
 */
void
etl_scheduler_end(EtlSharedDatabase *entry)
{
	if (entry->scheduler == 0)
		return;
	entry->leave = true;
	kill(entry->scheduler, SIGTERM);
}

/* A scheduler's exit for any reason; the launcher decides what comes next. */
static void
detach_scheduler(int code, Datum arg)
{
	if (own_entry == NULL)
		return;

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	own_entry->state = ETL_DATABASE_FAILED;
	own_entry->scheduler = 0;
	own_entry->latch = NULL;
	own_entry->retry_at = 0;
	own_entry = NULL;
	if (etl_shared->launcher_latch != NULL)
		SetLatch(etl_shared->launcher_latch);
	LWLockRelease(etl_shared->lock);
}

/*
 * Tells the scheduler of this database where to look, when and if this
 * transaction commits.
 */
void
etl_tell_scheduler(EtlNewsKind kind, int64 id)
{
	if (etl_shared == NULL || pending.nnews > ETL_NEWS_LEN)
		return;

	register_at_commit();
	for (int i = pending.nnews - 1; i >= Max(0, pending.nnews - 4); i--)
		if (pending.news[i].kind == kind && pending.news[i].id == id)
			return;

	if (pending.nnews == pending.news_len && pending.news_len < ETL_NEWS_LEN)
	{
		int len = Max(16, 2 * pending.news_len);

		if (pending.news == NULL)
			pending.news = MemoryContextAlloc(TopMemoryContext,
											  sizeof(EtlNews) * len);
		else
			pending.news = repalloc(pending.news, sizeof(EtlNews) * len);
		pending.news_len = len;
	}
	if (pending.nnews < ETL_NEWS_LEN)
	{
		pending.news[pending.nnews].kind = kind;
		pending.news[pending.nnews].id = id;
	}
	pending.nnews++;
}

/*
 * Has the scheduler of this database see whether there is something to do for
 * it at all, when this transaction commits.
 */
void
etl_tell_dropped(void)
{
	if (etl_shared == NULL)
		return;

	register_at_commit();
	pending.dropped = true;
}

/*
 * When this transaction commits: the launcher is to ask this database whether
 * it has the extension, or (InvalidOid) to see which databases there are.
 */
void
etl_tell_launcher(Oid database)
{
	if (etl_shared == NULL)
		return;

	Assert(!OidIsValid(database) || database == MyDatabaseId);
	register_at_commit();
	if (OidIsValid(database))
		pending.asked = database;
	else
		pending.look_around = true;
}

/* All that shared memory holds; the sizes are known by now. */
static void
request_shmem(void)
{
	if (next_shmem_request_hook != NULL)
		next_shmem_request_hook();

	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche(TRANCHE, 1);
}

/*
 * Creates it, or finds it.  After a crash of the server it is created anew:
 * all processes that it knew are gone.
 */
static void
start_shmem(void)
{
	Size size = shared_size();
	bool found;

	if (next_shmem_startup_hook != NULL)
		next_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	etl_shared = ShmemInitStruct("etl_patterns", size, &found);
	if (!found)
	{
		memset(etl_shared, 0, size);
		etl_shared->lock = &GetNamedLWLockTranche(TRANCHE)->lock;
		etl_shared->ndatabases = count_databases();
		etl_shared->nslots = etl_max_running_jobs;
		etl_shared->nappliers = max_worker_processes;
	}
	LWLockRelease(AddinShmemInitLock);
}

static Size
databases_offset(void)
{
	return MAXALIGN(sizeof(EtlShared));
}

static Size
slots_offset(int ndatabases)
{
	return add_size(databases_offset(),
					MAXALIGN(mul_size(sizeof(EtlSharedDatabase), ndatabases)));
}

static Size
appliers_offset(int ndatabases, int nslots)
{
	return add_size(slots_offset(ndatabases),
					MAXALIGN(mul_size(sizeof(EtlSharedSlot), nslots)));
}

static Size
shared_size(void)
{
	return add_size(appliers_offset(count_databases(), etl_max_running_jobs),
					mul_size(sizeof(EtlSharedApplier), max_worker_processes));
}

/*
 * How many schedulers there may be.  They never use up max_worker_processes:
 * this launcher and that of logical replication take one each, and without one
 * more no job would ever run.
 */
static int
count_databases(void)
{
	return Max(1, max_worker_processes - 3);
}

/* Makes sure that the end of this transaction is noticed. */
static void
register_at_commit(void)
{
	static bool registered = false;

	if (!registered)
	{
		RegisterXactCallback(at_transaction_end, NULL);
		registered = true;
	}
}

/* Tells what was collected, or forgets it. */
static void
at_transaction_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (pending.nnews > 0 || pending.dropped)
				push_to_scheduler();
			if (OidIsValid(pending.asked) || pending.look_around)
				push_to_launcher();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			break;
		default:
			return;
	}
	pending.nnews = 0;
	pending.dropped = false;
	pending.asked = InvalidOid;
	pending.look_around = false;
}

/*
 * To the scheduler of this database.  Who has news for one that does not exist
 * knows that there should be one.
 */
static void
push_to_scheduler(void)
{
	EtlSharedDatabase *entry;

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	entry = etl_shared_find_database(MyDatabaseId);
	if (entry == NULL && pending.nnews > 0)
		pending.asked = MyDatabaseId;
	else if (entry != NULL && entry->latch != NULL)
	{
		if (pending.nnews > ETL_NEWS_LEN - entry->nnews)
			entry->nnews = ETL_NEWS_LEN + 1;
		else
		{
			if (pending.nnews > 0)
				memcpy(&entry->news[entry->nnews], pending.news,
					   sizeof(EtlNews) * pending.nnews);
			entry->nnews += pending.nnews;
		}
		entry->dropped |= pending.dropped;
		SetLatch(entry->latch);
	}
	LWLockRelease(etl_shared->lock);
}

/*
 * To the launcher; when there is none, the next one reads it.  If there is a
 * scheduler although the extension is new, then it knows one that is gone.
 */
static void
push_to_launcher(void)
{
	EtlSharedDatabase *entry;

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	entry = OidIsValid(pending.asked) ? etl_shared_find_database(pending.asked) :
										NULL;
	if (entry != NULL)
		etl_scheduler_end(entry);
	if (OidIsValid(pending.asked) && !is_asked(pending.asked))
	{
		if (etl_shared->nasked < ETL_ASKED_LEN)
			etl_shared->asked[etl_shared->nasked] = pending.asked;
		etl_shared->nasked++;
	}
	if (pending.look_around)
		etl_shared->look_around = true;
	if (etl_shared->launcher_latch != NULL)
		SetLatch(etl_shared->launcher_latch);
	LWLockRelease(etl_shared->lock);
}

/* Will the launcher ask the database anyway? */
static bool
is_asked(Oid database)
{
	if (etl_shared->nasked > ETL_ASKED_LEN)
		return true;
	for (int i = 0; i < etl_shared->nasked; i++)
		if (etl_shared->asked[i] == database)
			return true;
	return false;
}
