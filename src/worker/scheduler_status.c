/*-------------------------------------------------------------------------
 *
 * scheduler_status.c
 *	  etl_scheduler_status(): what shared memory knows of the schedulers; and
 *	  what the install script tells the launcher.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "worker/shared.h"

#define STATUS_COLUMNS 11

static void put_status(int index, ReturnSetInfo *rsinfo);
static void count_workers(Oid database, int *workers, int *idle);

PG_FUNCTION_INFO_V1(etl_scheduler_status);
PG_FUNCTION_INFO_V1(etl_installed);

/* SQL function: one row per database that is served, or is to be. */
Datum
etl_scheduler_status(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; etl_shared != NULL && i < etl_shared->ndatabases; i++)
		put_status(i, (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}

/*
 * SQL function of the install script: the database may have the extension once
 * this transaction has committed.
 */
Datum
etl_installed(PG_FUNCTION_ARGS)
{
	etl_tell_launcher(MyDatabaseId);
	PG_RETURN_VOID();
}

/*
 * Makes a row of an entry, unless it is free or its database was dropped in
 * the meantime.  The lock is held for a copy only.
 */
static void
put_status(int index, ReturnSetInfo *rsinfo)
{
	/* in the order of EtlDatabaseState */
	static const char *const words[] = {"free", "starting", "running", "failed"};
	EtlSharedDatabase entry;
	int workers = 0;
	int workers_idle = 0;
	char *name;
	Datum values[STATUS_COLUMNS];
	bool nulls[STATUS_COLUMNS] = {0};

	LWLockAcquire(etl_shared->lock, LW_SHARED);
	memcpy(&entry, etl_shared_database(index),
		   offsetof(EtlSharedDatabase, news));
	if (entry.state != ETL_DATABASE_FREE)
		count_workers(entry.database, &workers, &workers_idle);
	LWLockRelease(etl_shared->lock);

	if (entry.state == ETL_DATABASE_FREE)
		return;
	name = get_database_name(entry.database);
	if (name == NULL)
		return;

	values[0] = CStringGetTextDatum(name);
	values[1] = CStringGetTextDatum(words[entry.state]);
	values[2] = Int32GetDatum(entry.scheduler);
	nulls[2] = entry.scheduler == 0;
	values[3] = TimestampTzGetDatum(entry.started_at);
	values[4] = TimestampTzGetDatum(entry.heartbeat);
	values[5] = BoolGetDatum(entry.armed);
	values[6] = Int64GetDatum(entry.jobs);
	values[7] = Int64GetDatum(entry.runs_waiting);
	values[8] = Int32GetDatum(workers);
	values[9] = Int32GetDatum(workers_idle);
	values[10] = Int64GetDatum(entry.no_worker);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* The workers of a database.  The caller holds the lock. */
static void
count_workers(Oid database, int *workers, int *idle)
{
	for (int i = 0; i < etl_shared->nslots; i++)
	{
		EtlSharedSlot *slot = etl_shared_slot(i);

		if (slot->state == ETL_SLOT_FREE || slot->database != database)
			continue;
		(*workers)++;
		if (slot->state == ETL_SLOT_IDLE)
			(*idle)++;
	}
}
