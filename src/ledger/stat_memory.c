/*-------------------------------------------------------------------------
 *
 * stat_memory.c
 *	  Counters of flows in shared memory of our own: until PostgreSQL 17.
 *
 * A table of a fixed size for all databases, gone when the server stops.  Its
 * entries that are in use come first.  When it is full, the flow whose last run
 * ended longest ago gives its place away.  Flows of a database that is dropped
 * go with it.
 *
 * Locks: StatMemory.lock guards it all, and is held for a look over keys and a
 * few additions.  It is taken while transactions abort, when nothing else is
 * held: nothing under it allocates or throws.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"

#ifndef ETL_HAS_CUSTOM_STATS

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "ledger/stat_runs.h"

#define SHMEM_NAME "etl_patterns statistics of runs"

typedef struct StatPlace
{
	Oid database;
	EtlStatEntry entry;
} StatPlace;

typedef struct StatMemory
{
	LWLock *lock;
	int nplaces;
	StatPlace places[ETL_STAT_MAX_FLOWS];
} StatMemory;

static StatMemory *shared = NULL;

static shmem_request_hook_type next_shmem_request_hook = NULL;
static shmem_startup_hook_type next_shmem_startup_hook = NULL;

static void request_shmem(void);
static void start_shmem(void);
static StatPlace *find_place(Oid database, uint64 flow);
static StatPlace *oldest_place(void);

void
etl_stat_init(void)
{
	next_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	next_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = start_shmem;
}

static void
request_shmem(void)
{
	if (next_shmem_request_hook != NULL)
		next_shmem_request_hook();
	RequestAddinShmemSpace(sizeof(StatMemory));
	RequestNamedLWLockTranche(SHMEM_NAME, 1);
}

/* Creates it, or finds it.  After a crash it is created anew, too. */
static void
start_shmem(void)
{
	bool found;

	if (next_shmem_startup_hook != NULL)
		next_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct(SHMEM_NAME, sizeof(StatMemory), &found);
	if (!found)
	{
		memset(shared, 0, sizeof(StatMemory));
		shared->lock = &GetNamedLWLockTranche(SHMEM_NAME)->lock;
	}
	LWLockRelease(AddinShmemInitLock);
}

bool
etl_stat_is_there(void)
{
	return shared != NULL;
}

/* There always is. */
void
etl_stat_make_room(int nevents)
{
}

void
etl_stat_add(const EtlStatEntry *event)
{
	StatPlace *place;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	place = find_place(MyDatabaseId, event->flow);
	if (place == NULL)
	{
		place = shared->nplaces < ETL_STAT_MAX_FLOWS ?
					&shared->places[shared->nplaces++] :
					oldest_place();
		memset(place, 0, sizeof(StatPlace));
		place->database = MyDatabaseId;
	}
	etl_stat_merge(&place->entry, event);
	LWLockRelease(shared->lock);
}

int
etl_stat_read(EtlStatEntry *entries, int max)
{
	int n = 0;

	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < shared->nplaces && n < max; i++)
		if (shared->places[i].database == MyDatabaseId)
			entries[n++] = shared->places[i].entry;
	LWLockRelease(shared->lock);
	return n;
}

void
etl_stat_reset(void)
{
	etl_stat_drop_database(MyDatabaseId);
}

void
etl_stat_drop_database(Oid database)
{
	if (shared == NULL)
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = shared->nplaces - 1; i >= 0; i--)
		if (shared->places[i].database == database)
			shared->places[i] = shared->places[--shared->nplaces];
	LWLockRelease(shared->lock);
}

/* The caller holds the lock. */
static StatPlace *
find_place(Oid database, uint64 flow)
{
	for (int i = 0; i < shared->nplaces; i++)
		if (shared->places[i].entry.flow == flow &&
			shared->places[i].database == database)
			return &shared->places[i];
	return NULL;
}

/* Likewise. */
static StatPlace *
oldest_place(void)
{
	StatPlace *oldest = &shared->places[0];

	for (int i = 1; i < shared->nplaces; i++)
		if (etl_stat_last_used(&shared->places[i].entry) <
			etl_stat_last_used(&oldest->entry))
			oldest = &shared->places[i];
	return oldest;
}

#endif /* !ETL_HAS_CUSTOM_STATS */
