/*-------------------------------------------------------------------------
 *
 * arm.c
 *	  Where the jobs and pipelines of a database run.
 *
 * A copy of a database must not begin to run jobs by itself.  So the database
 * remembers the system and the database that its jobs are to run on; anywhere
 * else they rest until somebody arms them.  A standby that is promoted is the
 * same system, and goes on.  Pipelines rest likewise; the slots that they had
 * are not here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "worker/cdc_control.h"
#include "worker/job.h"

/* Columns of etl_patterns.run_jobs */
enum
{
	ARMED_SYSTEM,
	ARMED_DATABASE,
	ARMED_ROLE,
	ARMED_AT,
	ARMED_NATTS
};

/* The system that this is, as it is stored. */
static char *
this_system(void)
{
	return psprintf(UINT64_FORMAT, GetSystemIdentifier());
}

/* Where jobs were armed, and the place of that row. */
static EtlArmed
look(Relation rel, ItemPointer place)
{
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0,
										  NULL);
	HeapTuple tuple = systable_getnext(scan);
	EtlArmed armed = ETL_ARMED_NOWHERE;

	if (HeapTupleIsValid(tuple))
	{
		Datum values[ARMED_NATTS];
		bool nulls[ARMED_NATTS];

		heap_deform_tuple(tuple, etl_ledger_desc(rel), values, nulls);
		*place = tuple->t_self;
		armed = ETL_ARMED_ELSEWHERE;
		if (DatumGetObjectId(values[ARMED_DATABASE]) == MyDatabaseId &&
			strcmp(TextDatumGetCString(values[ARMED_SYSTEM]), this_system()) == 0)
			armed = ETL_ARMED_HERE;
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	return armed;
}

/* Where are the jobs of this database to run? */
EtlArmed
etl_jobs_armed(void)
{
	Relation rel = etl_ledger_open("run_jobs", ARMED_NATTS, AccessShareLock);
	ItemPointerData place;
	EtlArmed armed = look(rel, &place);

	table_close(rel, AccessShareLock);
	return armed;
}

/* Are they to run here? */
bool
etl_jobs_are_armed(void)
{
	return etl_jobs_armed() == ETL_ARMED_HERE;
}

/* The slots of a job that was read elsewhere begin now. */
static void
begin_job_anew(int64 job_id)
{
	EtlJob *job = etl_job_by_id(job_id, ETL_ROW_LOCK);

	if (job == NULL || job->state != ETL_JOB_ACTIVE || job->next_slot == 0)
		return;
	if (!etl_job_set_next_slot(job, etl_job_now()))
		job->state = ETL_JOB_DONE;
	etl_job_update(job);
}

/* What was left unfinished elsewhere is not begun here. */
static void
begin_anew(void)
{
	MemoryContext job_context = AllocSetContextCreate(CurrentMemoryContext,
													  "etl arm",
													  ALLOCSET_DEFAULT_SIZES);
	EtlJobScan *scan = etl_job_scan_all();
	MemoryContext outer = MemoryContextSwitchTo(job_context);
	EtlJob *job;

	while ((job = etl_job_scan_next(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		begin_job_anew(job->job_id);
		MemoryContextReset(job_context);
	}
	MemoryContextSwitchTo(outer);
	etl_job_scan_end(scan);
	MemoryContextDelete(job_context);
	etl_run_skip_unfinished("restored");
	etl_cdc_disown_slots();
}

/* Let the jobs of this database run here. */
void
etl_jobs_arm(void)
{
	Relation rel = etl_ledger_open("run_jobs", ARMED_NATTS,
								   ShareRowExclusiveLock);
	ItemPointerData place;
	EtlArmed armed = look(rel, &place);
	Datum values[ARMED_NATTS];
	bool nulls[ARMED_NATTS] = {0};

	values[ARMED_SYSTEM] = CStringGetTextDatum(this_system());
	values[ARMED_DATABASE] = ObjectIdGetDatum(MyDatabaseId);
	values[ARMED_ROLE] = ObjectIdGetDatum(GetUserId());
	values[ARMED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	if (armed == ETL_ARMED_NOWHERE)
		etl_ledger_insert(rel, values, nulls);
	else if (armed == ETL_ARMED_ELSEWHERE)
	{
		etl_ledger_replace(rel, &place, values, nulls);
		begin_anew();
	}
	table_close(rel, NoLock);
	etl_tell_scheduler(ETL_NEWS_ALL, 0);
}
