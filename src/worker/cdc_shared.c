/*-------------------------------------------------------------------------
 *
 * cdc_shared.c
 *	  The processes of CDC pipelines, as everybody sees them.
 *
 * The scheduler asks for a process and gives it an entry; from then on the
 * entry is the process's, until it ends.  It shows there how far it is: what
 * is in the row of the pipeline may be older, because a position alone is no
 * reason to write.
 *
 * Locks: EtlShared.lock, for a few instructions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "utils/timestamp.h"

#include "worker/shared.h"

/* The last part of the lock's name; those of jobs are in run_state.c. */
#define PIPELINE_LOCK 0xE7C3

static EtlSharedApplier *own = NULL;
static int own_index;
static uint32 own_generation;

/* At the exit, when locks are gone: the scheduler decides what comes next. */
static void
detach(int code, Datum arg)
{
	EtlSharedDatabase *entry;

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	if (own->generation == own_generation)
	{
		entry = etl_shared_find_database(own->database);
		if (entry != NULL && entry->latch != NULL)
			SetLatch(entry->latch);
		own->state = ETL_APPLIER_FREE;
		own->pid = 0;
		own->latch = NULL;
	}
	LWLockRelease(etl_shared->lock);
}

/* Make the entry this process's, if it still waits for it; else exit. */
EtlSharedApplier *
etl_applier_attach(int index)
{
	EtlSharedApplier *entry;

	if (etl_shared == NULL || index < 0 || index >= etl_shared->nappliers)
		elog(ERROR, "there is no entry %d for a pipeline", index);
	entry = etl_shared_applier(index);
	memcpy(&own_generation, MyBgworkerEntry->bgw_extra, sizeof(own_generation));

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	if (entry->state != ETL_APPLIER_STARTING ||
		entry->generation != own_generation || entry->pid != 0)
	{
		LWLockRelease(etl_shared->lock);
		proc_exit(0);
	}
	entry->state = ETL_APPLIER_RUNNING;
	entry->pid = MyProcPid;
	entry->latch = MyLatch;
	entry->since = GetCurrentTimestamp();
	LWLockRelease(etl_shared->lock);

	own = entry;
	own_index = index;
	on_shmem_exit(detach, (Datum) 0);
	return entry;
}

/*
 * The reader was asked for: the next pipeline may start.  Before that it would
 * take the place that the reader needs, and this one the place of its reader.
 */
void
etl_applier_paired(void)
{
	EtlSharedDatabase *entry;

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	own->is_paired = true;
	entry = etl_shared_find_database(own->database);
	if (entry != NULL && entry->latch != NULL)
		SetLatch(entry->latch);
	LWLockRelease(etl_shared->lock);
}

/* Where the reader shows how far it is. */
void
etl_applier_place(int *index, uint32 *generation)
{
	*index = own_index;
	*generation = own_generation;
}

/* Called in the reader: the process that applies may be waiting for a lock. */
void
etl_reader_show(const EtlWalControl *control)
{
	EtlSharedApplier *entry = etl_shared_applier(control->place);

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	if (entry->state == ETL_APPLIER_RUNNING &&
		entry->generation == control->generation)
	{
		entry->progress.read = control->read;
		entry->progress.wal_end = control->wal_end;
		entry->progress.read_time = control->read_time;
		entry->progress.reader = MyProcPid;
	}
	LWLockRelease(etl_shared->lock);
}

/* Show how far we are.  Is the pipeline to be read anew? */
bool
etl_applier_publish(const EtlCdcProgress *progress)
{
	bool changed;

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	own->progress = *progress;
	changed = own->changed;
	own->changed = false;
	LWLockRelease(etl_shared->lock);
	return changed;
}

/* The entry of a pipeline of this database, or NULL.  Needs the lock. */
static EtlSharedApplier *
find(int64 pipeline_id)
{
	for (int i = 0; i < etl_shared->nappliers; i++)
	{
		EtlSharedApplier *entry = etl_shared_applier(i);

		if (entry->state != ETL_APPLIER_FREE &&
			entry->database == MyDatabaseId && entry->pipeline_id == pipeline_id)
			return entry;
	}
	return NULL;
}

/* Has a pipeline of this database a process, and how far is it? */
bool
etl_cdc_progress(int64 pipeline_id, EtlCdcProgress *progress)
{
	EtlSharedApplier *entry;
	bool is_running;

	memset(progress, 0, sizeof(EtlCdcProgress));
	if (etl_shared == NULL)
		return false;
	LWLockAcquire(etl_shared->lock, LW_SHARED);
	entry = find(pipeline_id);
	is_running = entry != NULL && entry->pid != 0;
	if (is_running)
		*progress = entry->progress;
	LWLockRelease(etl_shared->lock);
	return is_running;
}

/* Terminate the process of a pipeline of this database; false without one. */
bool
etl_cdc_end(int64 pipeline_id)
{
	EtlSharedApplier *entry;
	bool is_running;

	if (etl_shared == NULL)
		return false;
	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	entry = find(pipeline_id);
	is_running = entry != NULL && entry->pid != 0;
	if (is_running)
		(void) kill(entry->pid, SIGTERM);
	LWLockRelease(etl_shared->lock);
	return is_running;
}

/* Terminate those of all pipelines of a database; how many are there still? */
int
etl_cdc_end_all(Oid database)
{
	int n = 0;

	if (etl_shared == NULL)
		return 0;
	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < etl_shared->nappliers; i++)
	{
		EtlSharedApplier *entry = etl_shared_applier(i);

		if (entry->state == ETL_APPLIER_FREE || entry->database != database)
			continue;
		/* one that comes late finds that it is not wanted any more */
		if (entry->pid == 0)
			entry->state = ETL_APPLIER_FREE;
		else
		{
			n++;
			(void) kill(entry->pid, SIGTERM);
		}
	}
	LWLockRelease(etl_shared->lock);
	return n;
}

/*
 * Take the lock on applying a pipeline: until the session ends, or, not stays,
 * until the transaction does.  False if it is not waited for and not to be had.
 * It is of the kind that no abort gives back, and that no SQL can take.
 */
bool
etl_cdc_lock(int64 pipeline_id, bool stays, bool wait)
{
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (pipeline_id >> 32),
						 (uint32) pipeline_id, PIPELINE_LOCK);
	return LockAcquire(&tag, ExclusiveLock, stays, !wait) !=
		   LOCKACQUIRE_NOT_AVAIL;
}
