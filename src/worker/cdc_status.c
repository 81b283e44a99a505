/*-------------------------------------------------------------------------
 *
 * cdc_status.c
 *	  What shared memory knows of the pipelines of this database, and what
 *	  their slots keep.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "replication/slot.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "etl_patterns.h"
#include "worker/cdc_control.h"
#include "worker/scheduler.h"

#define WORKER_COLUMNS 10

/* It is well again when it keeps no more than this part of the limit. */
#define WELL_AGAIN 0.75

static void put_worker(int index, ReturnSetInfo *rsinfo);
static void look_at_slots(void *arg);
static bool retained_bytes(const char *slot_name, uint64 *bytes);
static void note(int64 pipeline_id, bool is_too_much, uint64 bytes);

PG_FUNCTION_INFO_V1(etl_cdc_workers);

/* ------------------------------------------------------------------ */
/* processes                                                            */

/* SQL function: one row per process that applies a pipeline. */
Datum
etl_cdc_workers(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; etl_shared != NULL && i < etl_shared->nappliers; i++)
		put_worker(i, (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}

static void
put_lsn(XLogRecPtr lsn, Datum *value, bool *null)
{
	*value = LSNGetDatum(lsn);
	*null = XLogRecPtrIsInvalid(lsn);
}

static void
put_time(TimestampTz time, Datum *value, bool *null)
{
	*value = TimestampTzGetDatum(time);
	*null = time == 0;
}

/* Makes a row of a process of this database.  The lock is held for a copy. */
static void
put_worker(int index, ReturnSetInfo *rsinfo)
{
	EtlSharedApplier entry;
	Datum values[WORKER_COLUMNS];
	bool nulls[WORKER_COLUMNS] = {0};

	LWLockAcquire(etl_shared->lock, LW_SHARED);
	entry = *etl_shared_applier(index);
	LWLockRelease(etl_shared->lock);
	if (entry.state == ETL_APPLIER_FREE || entry.database != MyDatabaseId)
		return;

	values[0] = Int64GetDatum(entry.pipeline_id);
	values[1] = Int32GetDatum(entry.pid);
	nulls[1] = entry.pid == 0;
	values[2] = Int32GetDatum(entry.progress.reader);
	nulls[2] = entry.progress.reader == 0;
	put_time(entry.since, &values[3], &nulls[3]);
	put_lsn(entry.progress.wal_end, &values[4], &nulls[4]);
	put_lsn(entry.progress.read, &values[5], &nulls[5]);
	put_lsn(entry.progress.applied, &values[6], &nulls[6]);
	put_lsn(entry.progress.flushed, &values[7], &nulls[7]);
	put_time(entry.progress.read_time, &values[8], &nulls[8]);
	put_time(entry.progress.caught_up, &values[9], &nulls[9]);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* ------------------------------------------------------------------ */
/* slots that keep too much                                             */

/*
 * Look how much WAL the slots of pipelines keep, and tell their owners when
 * that passes the limit, and when it is well again; and count those on other
 * servers, for who drops the database.  For the scheduler; no transaction is
 * open.
 */
void
etl_pipelines_watch_slots(void)
{
	ErrorData *error = etl_scheduler_try(look_at_slots, NULL);

	if (error != NULL)
		etl_scheduler_report(error, "could not look at slots of pipelines");
}

static void
look_at_slots(void *arg)
{
	double limit = etl_cdc_retained_limit * 1024.0 * 1024.0;
	int remote_slots = 0;
	EtlSharedDatabase *entry;
	ListCell *lc;

	foreach(lc, etl_cdc_pipelines())
	{
		const EtlCdcPipeline *pipeline = lfirst(lc);
		bool was_too_much = pipeline->retained_alert_at != 0;
		uint64 bytes = 0;

		remote_slots += pipeline->server != NULL && pipeline->has_slot &&
						etl_cdc_owns_slot(pipeline);
		if (pipeline->server != NULL ||
			!(retained_bytes(pipeline->slot_name, &bytes) || was_too_much))
			continue;
		if (!was_too_much && limit >= 0 && (double) bytes > limit)
			note(pipeline->pipeline_id, true, bytes);
		if (was_too_much && (limit < 0 || (double) bytes <= limit * WELL_AGAIN))
			note(pipeline->pipeline_id, false, bytes);
	}

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	entry = etl_shared_find_database(MyDatabaseId);
	if (entry != NULL)
		entry->remote_slots = remote_slots;
	LWLockRelease(etl_shared->lock);
}

/* How much WAL does a slot of this database keep?  False if there is none. */
static bool
retained_bytes(const char *slot_name, uint64 *bytes)
{
	XLogRecPtr end = GetXLogWriteRecPtr();
	XLogRecPtr restart = InvalidXLogRecPtr;
	ReplicationSlot *slot;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	slot = SearchNamedReplicationSlot(slot_name, false);
	if (slot != NULL && slot->data.database == MyDatabaseId)
	{
		SpinLockAcquire(&slot->mutex);
		restart = slot->data.restart_lsn;
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(ReplicationSlotControlLock);
	*bytes = restart == InvalidXLogRecPtr || restart > end ? 0 : end - restart;
	return slot != NULL;
}

/* Note a change, unless somebody has the pipeline locked: next time, then. */
static void
note(int64 pipeline_id, bool is_too_much, uint64 bytes)
{
	EtlCdcPipeline *pipeline = etl_cdc_try_lock(pipeline_id);

	if (pipeline == NULL || (pipeline->retained_alert_at != 0) == is_too_much)
		return;
	pipeline->retained_alert_at = is_too_much ? GetCurrentTimestamp() : 0;
	etl_cdc_update(pipeline);
	etl_alert_pipeline(is_too_much ? ETL_ALERT_SLOT_RETAINED :
									 ETL_ALERT_RECOVERED,
					   pipeline, NULL,
					   psprintf("the replication slot keeps " UINT64_FORMAT
								" MB of WAL",
								bytes / (1024 * 1024)));
}
