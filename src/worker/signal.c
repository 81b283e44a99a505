/*-------------------------------------------------------------------------
 *
 * signal.c
 *	  etl_signal(): an event has happened, and jobs "on" it are to run.
 *
 * The runs are inserted in the caller's transaction: an event that is rolled
 * back has not happened, and one that is committed is not lost.  No lock is
 * taken that another signal of the same event would wait for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "flow/flow.h"
#include "worker/job.h"

/*
 * A payload is copied into a row per job and attempt, which is kept as long as
 * history is, and becomes a setting of the session that runs the job.  It is
 * meant to say which data the event is about, not to be that data.
 */
#define MAX_PAYLOAD_LEN (64 * 1024)

PG_FUNCTION_INFO_V1(etl_signal);

/* Would the event start this job, if the caller says so? */
static bool
is_listening(const EtlJob *job, TimestampTz now)
{
	return job->state == ETL_JOB_ACTIVE && job->start_at <= now &&
		   etl_job_may_trigger(GetUserId(), job);
}

/* The jobs that an event starts, in the order of their numbers. */
static List *
listening_jobs(const char *event, TimestampTz now)
{
	EtlJobScan *scan = etl_job_scan_event(event);
	List *jobs = NIL;
	EtlJob *job;

	while ((job = etl_job_scan_next(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (is_listening(job, now))
			jobs = lappend(jobs, job);
	}
	etl_job_scan_end(scan);
	return jobs;
}

/* Throw if a payload is too long. */
static void
check_payload(const char *payload)
{
	size_t len = payload == NULL ? 0 : strlen(payload);

	if (len > MAX_PAYLOAD_LEN)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("payload of an event is too long"),
				 errdetail("It has %zu bytes, and may have %d.", len,
						   MAX_PAYLOAD_LEN),
				 errhint(
					 "Store the data in a table, and let the payload say which rows they are.")));
}

/* etl_signal(event, payload): returns how many runs there will be. */
Datum
etl_signal(PG_FUNCTION_ARGS)
{
	TimestampTz now = etl_job_now();
	char *payload = etl_arg_text(fcinfo, 1);
	int32 runs = 0;
	List *jobs;
	ListCell *lc;

	PreventCommandIfReadOnly("etl_signal()");
	etl_refuse_null(fcinfo, 0, "event");
	check_payload(payload);

	jobs = listening_jobs(etl_arg_text(fcinfo, 0), now);
	if (jobs != NIL && !etl_jobs_are_armed())
	{
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the event starts no job, since jobs do not run here"),
				 errhint(
					 "If they are to run on this server and in this database, call etl_job_arm().")));
		jobs = NIL;
	}
	foreach(lc, jobs)
	{
		CHECK_FOR_INTERRUPTS();
		if (etl_job_trigger(lfirst(lc), ETL_ORIGIN_EVENT, now, payload) != NULL)
			runs++;
	}
	PG_RETURN_INT32(runs);
}
