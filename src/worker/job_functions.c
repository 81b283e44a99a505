/*-------------------------------------------------------------------------
 *
 * job_functions.c
 *	  Jobs as users define them: create, alter, drop, pause, resume, and the
 *	  slots to come.
 *
 * All arguments are checked before anything is written (job_check.c, which
 * also tells the locks).  A job that is changed has its row locked, so that
 * nobody claims slots of it meanwhile.  No slot that is due goes unnoticed: it is
 * claimed before the job gets another schedule, and skipped with the reason
 * when it is paused or dropped.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "flow/flow.h"
#include "worker/job_check.h"
#include "worker/shared.h"

PG_FUNCTION_INFO_V1(etl_job_create);
PG_FUNCTION_INFO_V1(etl_job_alter);
PG_FUNCTION_INFO_V1(etl_job_drop);
PG_FUNCTION_INFO_V1(etl_job_pause);
PG_FUNCTION_INFO_V1(etl_job_resume);
PG_FUNCTION_INFO_V1(etl_job_next_runs);

/* The arguments that etl_job_create and etl_job_alter both have, in order. */
enum
{
	ARG_JOB,
	ARG_SCHEDULE,
	ARG_COMMAND,
	ARG_TIMEZONE,
	ARG_OVERLAP,
	ARG_CATCHUP,
	ARG_MAX_ATTEMPTS,
	ARG_RETRY_DELAY,
	ARG_RETRY_MAX_DELAY,
	ARG_TIMEOUT,
	ARG_ALERT_AFTER
};

/* Those that etl_job_create must have. */
static const char *const needed[] =
	{"job",		"schedule",		"command",	   "timezone",		 "overlap",
	 "catchup", "max_attempts", "retry_delay", "retry_max_delay"};

#define CREATE_ENABLED	11
#define CREATE_START_AT 12
#define ALTER_START_AT	11
#define ALTER_NEW_NAME	12

/* ------------------------------------------------------------------ */
/* arguments                                                            */

/* An interval that may be none: 0 means that. */
static void
set_optional_interval(FunctionCallInfo fcinfo, int arg, const char *parameter,
					  Interval *interval, bool *has)
{
	if (PG_ARGISNULL(arg))
		return;
	*interval = *PG_GETARG_INTERVAL_P(arg);
	etl_job_check_interval(interval, parameter);
	*has = etl_interval_usec(interval) != 0;
}

/* An interval that there always is. */
static void
set_interval(FunctionCallInfo fcinfo, int arg, const char *parameter,
			 Interval *interval)
{
	if (PG_ARGISNULL(arg))
		return;
	*interval = *PG_GETARG_INTERVAL_P(arg);
	etl_job_check_interval(interval, parameter);
}

/* The start: "-infinity" is none. */
static void
set_start(FunctionCallInfo fcinfo, int arg, EtlJob *job)
{
	if (PG_ARGISNULL(arg))
		return;
	job->start_at = PG_GETARG_TIMESTAMPTZ(arg);
	if (TIMESTAMP_IS_NOEND(job->start_at))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s\" must not be infinity", "start_at"),
				 errhint("To keep a job from running, use etl_job_pause().")));
}

/* Set the columns of a job whose arguments are not null. */
static void
set_columns(FunctionCallInfo fcinfo, EtlJob *job, int start_arg)
{
	if (!PG_ARGISNULL(ARG_SCHEDULE))
		job->schedule = etl_arg_text(fcinfo, ARG_SCHEDULE);
	if (!PG_ARGISNULL(ARG_COMMAND))
	{
		job->command = etl_arg_text(fcinfo, ARG_COMMAND);
		job->has_new_command = true;
	}
	if (!PG_ARGISNULL(ARG_TIMEZONE))
		job->timezone = etl_arg_text(fcinfo, ARG_TIMEZONE);
	if (!PG_ARGISNULL(ARG_OVERLAP))
		job->overlap = etl_option_word("overlap",
									   etl_arg_text(fcinfo, ARG_OVERLAP),
									   etl_overlap_words);
	if (!PG_ARGISNULL(ARG_CATCHUP))
		job->catchup = etl_option_word("catchup",
									   etl_arg_text(fcinfo, ARG_CATCHUP),
									   etl_catchup_words);
	if (!PG_ARGISNULL(ARG_MAX_ATTEMPTS))
		job->max_attempts = PG_GETARG_INT32(ARG_MAX_ATTEMPTS);
	etl_job_check_max_attempts(job->max_attempts);
	set_interval(fcinfo, ARG_RETRY_DELAY, "retry_delay", &job->retry_delay);
	set_interval(fcinfo, ARG_RETRY_MAX_DELAY, "retry_max_delay",
				 &job->retry_max_delay);
	set_optional_interval(fcinfo, ARG_TIMEOUT, "timeout", &job->timeout,
						  &job->has_timeout);
	set_optional_interval(fcinfo, ARG_ALERT_AFTER, "alert_after",
						  &job->alert_after, &job->has_alert_after);
	set_start(fcinfo, start_arg, job);
	if (!PG_ARGISNULL(ARG_COMMAND))
		etl_job_check_command(job->command);
}

/* ------------------------------------------------------------------ */
/* changes                                                              */

/* Make a job active, with the slots from now on that its schedule must have. */
static void
activate(EtlJob *job)
{
	etl_job_check_schedule(job);
	job->state = ETL_JOB_ACTIVE;
	job->reason = NULL;
}

/*
 * Skip the slots that are due and that nobody has claimed; one row stands for
 * all of them.
 */
static void
skip_due(const EtlJob *job, const char *reason)
{
	TimestampTz now = etl_job_now();
	TimestampTz slot = job->next_slot;
	EtlSchedule *schedule;
	EtlJobRun *run = NULL;
	bool more = slot != 0;

	if (job->state != ETL_JOB_ACTIVE || slot == 0 || slot > now ||
		!etl_jobs_are_armed())
		return;
	schedule = etl_job_schedule(job);
	for (; more && slot <= now;
		 more = etl_schedule_next(schedule, job->start_at, slot, &slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (etl_job_run_exists(job->job_id, slot))
			continue;
		if (run == NULL)
			run = etl_job_run_make(job, ETL_ORIGIN_SCHEDULE, slot);
		else
		{
			run->first_slot = run->slots == 1 ? run->slot : run->first_slot;
			run->slot = slot;
			run->slots++;
		}
	}
	if (run == NULL)
		return;
	run->due_at = run->slot;
	run->status = ETL_RUN_SKIPPED;
	run->reason = reason;
	run->finished_at = now;
	etl_job_run_insert(run);
}

/*
 * The slots that are due become runs, before the job gets others; what does
 * not find room is skipped.
 */
static void
claim_due(EtlJob *job)
{
	ListCell *lc;

	if (!etl_jobs_are_armed())
		return;
	foreach(lc, etl_job_claim(job, etl_job_now()))
		etl_tell_scheduler(ETL_NEWS_RUN, ((EtlJobRun *) lfirst(lc))->job_run_id);
	skip_due(job, "altered");
}

/* Skip the runs that a job's clock has made and that wait, retries included. */
static void
skip_waiting_slots(const EtlJob *job, const char *reason)
{
	EtlJobRunScan *scan = etl_job_run_scan_unfinished_of(job->job_id);
	EtlJobRun *run;

	while ((run = etl_job_run_scan_next(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (run->origin == ETL_ORIGIN_SCHEDULE)
			(void) etl_run_skip_one(run->job_run_id, reason);
	}
	etl_job_run_scan_end(scan);
}

/* Write a job that was changed, and say so. */
static void
store(EtlJob *job)
{
	etl_job_update(job);
	etl_tell_scheduler(ETL_NEWS_JOB, job->job_id);
}

/* The job that a user names, locked. */
static EtlJob *
job_to_change(FunctionCallInfo fcinfo, const char *function)
{
	etl_refuse_null(fcinfo, ARG_JOB, "job");
	PreventCommandIfReadOnly(function);
	return etl_job_of_caller(etl_arg_text(fcinfo, ARG_JOB), ETL_ROW_LOCK);
}

/* A job "at" a time that has run cannot be paused or resumed. */
static void
refuse_done(const EtlJob *job)
{
	if (job->state == ETL_JOB_DONE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job \"%s\" is done: its schedule was \"%s\"",
						job->name, job->schedule),
				 errhint(
					 "Give it another schedule with etl_job_alter(), run it once more with etl_job_run(), or drop it.")));
}

/* ------------------------------------------------------------------ */
/* create                                                               */

/*
 * etl_job_create(job, schedule, command, timezone, overlap, catchup,
 * max_attempts, retry_delay, retry_max_delay, timeout, alert_after, enabled,
 * start_at): its number.
 */
Datum
etl_job_create(PG_FUNCTION_ARGS)
{
	EtlJob *job = palloc0(sizeof(EtlJob));

	PreventCommandIfReadOnly("etl_job_create()");
	for (int i = 0; i < (int) lengthof(needed); i++)
		etl_refuse_null(fcinfo, i, needed[i]);
	etl_refuse_null(fcinfo, CREATE_ENABLED, "enabled");

	job->name = etl_arg_text(fcinfo, ARG_JOB);
	job->role = GetUserId();
	job->start_at = DT_NOBEGIN;
	etl_job_check_name(job->name, "job");
	set_columns(fcinfo, job, CREATE_START_AT);
	etl_job_check_owner(job);
	etl_job_check_new_name(job->name);
	if (PG_GETARG_BOOL(CREATE_ENABLED))
		activate(job);
	else
	{
		etl_job_check_schedule(job);
		job->state = ETL_JOB_PAUSED;
		job->next_slot = 0;
	}

	job->created_at = job->altered_at = etl_job_now();
	etl_job_insert(job);
	etl_job_check_armed();
	etl_tell_scheduler(ETL_NEWS_JOB, job->job_id);
	PG_RETURN_INT64(job->job_id);
}

/* ------------------------------------------------------------------ */
/* alter                                                                */

/* Does a text name a job to run after? */
static bool
is_after(const char *schedule)
{
	return schedule != NULL &&
		   etl_schedule_parse(schedule, "UTC")->kind == ETL_SCHEDULE_AFTER;
}

/* The jobs that run after one that has got another name. */
static void
rename_in_schedules(const EtlJob *job)
{
	EtlJobScan *scan = etl_job_scan_after(job->job_id);
	EtlJob *next;

	while ((next = etl_job_scan_next(scan)) != NULL)
	{
		next = etl_job_by_id(next->job_id, ETL_ROW_LOCK);
		if (next == NULL || next->after_job != job->job_id)
			continue;
		next->schedule = psprintf("after %s", job->name);
		store(next);
	}
	etl_job_scan_end(scan);
}

/*
 * A schedule that was changed.  The slots that are due are those of the old
 * one, which "old" still has.
 */
static void
set_schedule(EtlJob *job, EtlJob *old)
{
	if (job->state == ETL_JOB_ACTIVE || job->state == ETL_JOB_DONE)
		activate(job);
	else
	{
		etl_job_check_schedule(job);
		job->next_slot = 0;
	}
	claim_due(old);
	job->place = old->place;
}

/*
 * etl_job_alter(job, schedule, command, timezone, overlap, catchup,
 * max_attempts, retry_delay, retry_max_delay, timeout, alert_after, start_at,
 * new_name): what is null stays.
 */
Datum
etl_job_alter(PG_FUNCTION_ARGS)
{
	char *new_name = etl_arg_text(fcinfo, ALTER_NEW_NAME);
	bool reschedule = !PG_ARGISNULL(ARG_SCHEDULE) ||
					  !PG_ARGISNULL(ARG_TIMEZONE) ||
					  !PG_ARGISNULL(ALTER_START_AT);
	EtlJob *job;
	EtlJob old;

	etl_refuse_null(fcinfo, ARG_JOB, "job");
	PreventCommandIfReadOnly("etl_job_alter()");
	if (new_name != NULL)
		etl_job_check_name(new_name, "new_name");
	if (new_name != NULL || is_after(etl_arg_text(fcinfo, ARG_SCHEDULE)))
		etl_job_lock_chains();
	job = job_to_change(fcinfo, "etl_job_alter()");
	old = *job;

	set_columns(fcinfo, job, ALTER_START_AT);
	if (new_name != NULL && strcmp(new_name, job->name) != 0)
	{
		etl_job_lock_references(job->job_id, AccessExclusiveLock);
		etl_job_lock_name(job->name);
		etl_job_check_new_name(new_name);
		job->name = new_name;
	}
	if (reschedule)
		set_schedule(job, &old);
	if (etl_job_schedule(job)->kind != ETL_SCHEDULE_FILE)
		etl_files_forget(job->job_id);
	job->altered_at = etl_job_now();
	store(job);
	if (job->name != old.name)
		rename_in_schedules(job);
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------ */
/* drop, pause, resume                                                  */

/* Throw if jobs run after this one. */
static void
refuse_followers(const EtlJob *job)
{
	EtlJobScan *scan = etl_job_scan_after(job->job_id);
	StringInfoData names;
	int others = 0;
	EtlJob *next;

	initStringInfo(&names);
	while ((next = etl_job_scan_next(scan)) != NULL)
	{
		if (etl_ledger_is_ours(next->role))
			appendStringInfo(&names, "%sjob \"%s\"", names.len > 0 ? ", " : "",
							 next->name);
		else
			others++;
	}
	etl_job_scan_end(scan);
	if (others > 0)
		appendStringInfo(&names, "%sjobs of other roles (%d)",
						 names.len > 0 ? ", " : "", others);
	if (names.len > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop job \"%s\" because other jobs run after it",
						job->name),
				 errdetail("These do: %s.", names.data),
				 errhint(
					 "Drop those first, or give them another schedule with etl_job_alter(); etl_job_pause() only stops this job.")));
}

/* etl_job_drop(job): its history stays. */
Datum
etl_job_drop(PG_FUNCTION_ARGS)
{
	EtlJob *job = job_to_change(fcinfo, "etl_job_drop()");

	etl_job_lock_references(job->job_id, AccessExclusiveLock);
	etl_job_lock_name(job->name);
	refuse_followers(job);
	skip_due(job, "dropped");
	etl_run_skip_waiting(job->job_id, "dropped");
	etl_files_forget(job->job_id);
	etl_job_delete(job);
	etl_tell_scheduler(ETL_NEWS_JOB, job->job_id);
	PG_RETURN_VOID();
}

/* etl_job_pause(job): no slots until it is resumed. */
Datum
etl_job_pause(PG_FUNCTION_ARGS)
{
	EtlJob *job = job_to_change(fcinfo, "etl_job_pause()");

	refuse_done(job);
	if (job->state == ETL_JOB_PAUSED)
		PG_RETURN_VOID();
	skip_due(job, "paused");
	skip_waiting_slots(job, "paused");
	job->state = ETL_JOB_PAUSED;
	job->reason = NULL;
	job->next_slot = 0;
	store(job);
	PG_RETURN_VOID();
}

/* etl_job_resume(job): slots from now on, after a pause or a repair. */
Datum
etl_job_resume(PG_FUNCTION_ARGS)
{
	EtlJob *job = job_to_change(fcinfo, "etl_job_resume()");

	refuse_done(job);
	if (job->state == ETL_JOB_ACTIVE)
		PG_RETURN_VOID();
	etl_job_check_owner(job);
	activate(job);
	store(job);
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------ */
/* next runs                                                            */

/*
 * The first slot to come.  That of an active job is stored; it does not move
 * when the clock does.  Another job has those that it would have if it was
 * resumed now.
 */
static bool
first_slot(const EtlJob *job, const EtlSchedule *schedule, TimestampTz *slot)
{
	if (job->state == ETL_JOB_ACTIVE || job->state == ETL_JOB_DONE)
	{
		*slot = job->next_slot;
		return job->next_slot != 0;
	}
	ereport(NOTICE,
			(errmsg("job \"%s\" is %s", job->name,
					etl_job_state_words[job->state]),
			 errdetail("These are the slots that it has if it is resumed.")));
	return etl_schedule_next(schedule, job->start_at, etl_job_now(), slot);
}

/* etl_job_next_runs(job, n) */
Datum
etl_job_next_runs(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	EtlJob *job;
	EtlSchedule *schedule;
	TimestampTz slot;
	bool more;
	int n;

	etl_refuse_null(fcinfo, 0, "job");
	etl_refuse_null(fcinfo, 1, "n");
	n = PG_GETARG_INT32(1);
	etl_refuse_negative(n, "n");
	job = etl_job_of_caller(etl_arg_text(fcinfo, 0), ETL_ROW_READ);
	schedule = etl_job_schedule(job);

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	more = first_slot(job, schedule, &slot);
	for (int i = 0; i < n && more; i++)
	{
		Datum value = TimestampTzGetDatum(slot);
		bool null = false;

		CHECK_FOR_INTERRUPTS();
		tuplestore_putvalues(result->setResult, result->setDesc, &value, &null);
		more = etl_schedule_next(schedule, job->start_at, slot, &slot);
	}
	return (Datum) 0;
}
