/*-------------------------------------------------------------------------
 *
 * claim.c
 *	  From slots to runs: what is due, and what becomes of it.
 *
 * A claim takes the slots of one job that are due, in order, gives each of
 * them a row, and moves the job's next_slot past them, in one transaction.
 * The job's row is locked meanwhile, so that a slot is claimed once, whoever
 * does it.  A slot that has a row already, by a backfill or because the clock
 * was set back, is passed over.
 *
 * Slots that are later than etl_patterns.missed_after were missed; "catchup"
 * decides about them.  About the others "overlap" decides.  Where a job has
 * MAX_WAITING runs that wait, further slots stay where they are: they are not
 * lost, and there is a bound to what one job can pile up.  Backfills do not
 * count: there may be thousands of them, and all others go before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "etl_patterns.h"
#include "worker/job.h"

/* So many runs of one job wait at most. */
#define MAX_WAITING 100

/* So many slots that were missed get a row of their own. */
#define MAX_SINGLE_ROWS 1000

/* A claim that is being made. */
typedef struct Claim
{
	EtlJob *job;
	EtlSchedule *schedule;
	TimestampTz now;
	int waiting;		/* runs of the job that wait */
	List *predecessors; /* runs of earlier slots that have not ended */
	List *runs;			/* that are new, and wait */
	TimestampTz slot;	/* not claimed yet */
	bool more;			/* there is such a slot */
} Claim;

/* The clock that jobs go by. */
TimestampTz
etl_job_now(void)
{
	return GetCurrentTimestamp() + etl_clock_offset * USECS_PER_SEC;
}

/* The first slot of a job after a moment. */
static bool
next_slot(const EtlJob *job, const EtlSchedule *schedule, TimestampTz after,
		  TimestampTz *slot)
{
	return etl_schedule_next(schedule, job->start_at, after, slot);
}

/*
 * Let a job go on with its first slot after a moment; false if there is none.
 * The caller stores it.
 */
bool
etl_job_set_next_slot(EtlJob *job, TimestampTz after)
{
	job->next_slot = 0;
	return next_slot(job, etl_job_schedule(job), after, &job->next_slot);
}

/* ------------------------------------------------------------------ */
/* a claim                                                              */

/* What slots have made of the job, and has not ended. */
static void
look_at_predecessors(Claim *claim)
{
	EtlJobRunScan *scan = etl_job_run_scan_unfinished_from(claim->job->job_id,
														   ETL_ORIGIN_SCHEDULE,
														   ETL_ORIGIN_SCHEDULE);
	EtlJobRun *run;

	while ((run = etl_job_run_scan_next(scan)) != NULL)
	{
		if (run->status == ETL_RUN_WAITING)
			claim->waiting++;
		claim->predecessors = lappend(claim->predecessors, run);
	}
	etl_job_run_scan_end(scan);
}

/* Count what else of the job waits, as far as it matters. */
static void
count_waiting(Claim *claim, EtlRunOrigin first, EtlRunOrigin last)
{
	EtlJobRunScan *scan;
	EtlJobRun *run;

	if (claim->waiting >= MAX_WAITING)
		return;
	scan = etl_job_run_scan_unfinished_from(claim->job->job_id, first, last);
	while (claim->waiting < MAX_WAITING &&
		   (run = etl_job_run_scan_next(scan)) != NULL)
	{
		if (run->status == ETL_RUN_WAITING)
			claim->waiting++;
		pfree(run);
	}
	etl_job_run_scan_end(scan);
}

/*
 * What there is of the job that has not ended.  Backfills, of which there may
 * be very many, are not read: their word is between these.
 */
static void
look_at_unfinished(Claim *claim)
{
	look_at_predecessors(claim);
	count_waiting(claim, ETL_ORIGIN_EVENT, ETL_ORIGIN_MANUAL);
	count_waiting(claim, ETL_ORIGIN_AFTER, ETL_ORIGIN_AFTER);
}

/* Go on to the next slot. */
static void
step(Claim *claim)
{
	CHECK_FOR_INTERRUPTS();
	claim->more = next_slot(claim->job, claim->schedule, claim->slot,
							&claim->slot);
}

static bool
is_missed(const Claim *claim)
{
	return claim->more &&
		   claim->slot < claim->now - etl_missed_after * USECS_PER_SEC;
}

static bool
is_due(const Claim *claim)
{
	return claim->more && claim->slot <= claim->now;
}

/* The slot gets a run. */
static void
add_run(Claim *claim, TimestampTz slot)
{
	EtlJobRun *run;

	if (etl_job_run_exists(claim->job->job_id, slot))
		return;
	run = etl_job_run_make(claim->job, ETL_ORIGIN_SCHEDULE, slot);
	etl_job_run_insert(run);
	claim->waiting++;
	claim->runs = lappend(claim->runs, run);
	claim->predecessors = lappend(claim->predecessors, run);
}

/* The slots from first to slot, so many, are skipped. */
static void
add_skipped(Claim *claim, TimestampTz first, TimestampTz slot, int64 slots,
			const char *reason)
{
	EtlJobRun *run;

	if (etl_job_run_exists(claim->job->job_id, slot))
		return;
	run = etl_job_run_make(claim->job, ETL_ORIGIN_SCHEDULE, slot);
	run->status = ETL_RUN_SKIPPED;
	run->reason = reason;
	run->finished_at = claim->now;
	run->slots = slots;
	if (slots > 1)
		run->first_slot = first;
	etl_job_run_insert(run);
	pfree(run);
}

/* Missed slots are run one after the other, as far as there is room. */
static void
claim_all_missed(Claim *claim)
{
	while (is_missed(claim) && claim->waiting < MAX_WAITING)
	{
		add_run(claim, claim->slot);
		step(claim);
	}
}

/*
 * Missed slots are skipped; with "once" the last one is run, unless a later
 * one is due on time.  Only the last MAX_SINGLE_ROWS are remembered while
 * they are counted.
 */
static void
claim_last_missed(Claim *claim)
{
	TimestampTz *last = palloc(sizeof(TimestampTz) * MAX_SINGLE_ROWS);
	TimestampTz first = claim->slot;
	TimestampTz before = 0;
	int64 missed = 0;
	int64 skipped;

	for (; is_missed(claim); step(claim))
	{
		TimestampTz *place = &last[missed % MAX_SINGLE_ROWS];

		if (missed >= MAX_SINGLE_ROWS)
			before = *place;
		*place = claim->slot;
		missed++;
	}
	skipped = missed;
	if (missed > 0 && claim->job->catchup == ETL_CATCHUP_ONCE && !is_due(claim))
		skipped--;

	if (missed > MAX_SINGLE_ROWS)
		add_skipped(claim, first, before, missed - MAX_SINGLE_ROWS, "missed");
	for (int64 i = Max(missed - MAX_SINGLE_ROWS, 0); i < skipped; i++)
		add_skipped(claim, 0, last[i % MAX_SINGLE_ROWS], 1, "missed");
	if (skipped < missed)
		add_run(claim, last[skipped % MAX_SINGLE_ROWS]);
	if (skipped > 0 && claim->job->has_alert_after)
		etl_alert(ETL_ALERT_NEVER_STARTED, claim->job, NULL, NULL,
				  psprintf(INT64_FORMAT " slots were missed", skipped));
	pfree(last);
}

/* The slot takes the place of what has not ended. */
static void
replace_predecessors(Claim *claim)
{
	ListCell *lc;

	foreach(lc, claim->predecessors)
	{
		EtlJobRun *run = lfirst(lc);

		if (etl_run_stop_waiting(run->job_run_id, "replaced"))
		{
			claim->waiting--;
			claim->runs = list_delete_ptr(claim->runs, run);
		}
		else
			(void) etl_run_cancel(run->job_run_id, ETL_ENDING_REPLACE);
	}
	list_free(claim->predecessors);
	claim->predecessors = NIL;
}

/* A slot that is due on time; false if it must wait to be claimed. */
static bool
claim_due(Claim *claim)
{
	EtlOverlap overlap = claim->job->overlap;

	if (overlap == ETL_OVERLAP_REPLACE)
		replace_predecessors(claim);
	if (overlap == ETL_OVERLAP_FORBID && claim->predecessors != NIL)
		add_skipped(claim, 0, claim->slot, 1, "overlap");
	else if (claim->waiting < MAX_WAITING)
		add_run(claim, claim->slot);
	else
		return false;
	step(claim);
	return true;
}

/*
 * Claim the slots of a job that are due, and store it.  The caller has locked
 * it and has found that it can run.  Returns the runs that now wait because of
 * that.
 */
List *
etl_job_claim(EtlJob *job, TimestampTz now)
{
	Claim claim = {.job = job, .now = now, .slot = job->next_slot};

	if (job->state != ETL_JOB_ACTIVE || job->next_slot == 0 ||
		job->next_slot > now)
		return NIL;
	claim.schedule = etl_job_schedule(job);
	claim.more = true;
	look_at_unfinished(&claim);

	if (job->catchup == ETL_CATCHUP_ALL)
		claim_all_missed(&claim);
	else if (is_missed(&claim))
		claim_last_missed(&claim);
	if (!is_missed(&claim))
		while (is_due(&claim) && claim_due(&claim))
			;

	job->next_slot = claim.more ? claim.slot : 0;
	if (!claim.more)
		job->state = ETL_JOB_DONE;
	etl_job_update(job);
	return claim.runs;
}

/* ------------------------------------------------------------------ */
/* runs that no clock asks for                                          */

/*
 * A run of a job, now, because of something else than its clock: waiting, and
 * the scheduler is told.  A slot that stands for another job's must not have
 * a row yet, or NULL is returned; others are made unique.  If the job is
 * being dropped meanwhile, the run is skipped when somebody comes to it.
 *
 * Between the look for a row and its insertion nobody else may find the same
 * slot free.  The lock that sees to that is given back at once, not at the
 * transaction's end: from then on others see the row, committed or not.
 */
EtlJobRun *
etl_job_trigger(const EtlJob *job, EtlRunOrigin origin, TimestampTz slot,
				const char *payload)
{
	EtlJobRun *run;
	LOCKTAG slots;

	SET_LOCKTAG_OBJECT(slots, MyDatabaseId,
					   etl_ledger_relid("job_run_job_id_slot_attempt_key"),
					   (uint32) job->job_id, (uint16) (job->job_id >> 32));
	(void) LockAcquire(&slots, ExclusiveLock, false, false);
	while (etl_job_run_exists(job->job_id, slot))
	{
		if (origin == ETL_ORIGIN_AFTER)
		{
			LockRelease(&slots, ExclusiveLock, false);
			return NULL;
		}
		slot++;
	}
	run = etl_job_run_make(job, origin, slot);
	run->due_at = etl_job_now();
	run->payload = payload;
	etl_job_run_insert(run);
	LockRelease(&slots, ExclusiveLock, false);
	etl_tell_scheduler(ETL_NEWS_RUN, run->job_run_id);
	return run;
}

/*
 * May a role make a job run?  If it could do so as the job's owner, or if the
 * owner has joined it.  That an owner is a superuser does not count as joining.
 */
bool
etl_job_may_trigger(Oid who, const EtlJob *job)
{
	return has_privs_of_role(who, job->role) ||
		   is_member_of_role_nosuper(job->role, who);
}

/* ------------------------------------------------------------------ */
/* jobs that cannot run                                                 */

/* Why no session can be had for a role, or NULL. */
const char *
etl_role_cannot_run(Oid role)
{
	HeapTuple tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	bool can_login;

	if (!HeapTupleIsValid(tuple))
		return "its owner does not exist any more";
	can_login = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
	ReleaseSysCache(tuple);
	if (!can_login)
		return "its owner is not permitted to log in";
	if (!superuser_arg(role) && !etl_may_connect(MyDatabaseId, role))
		return "its owner has no CONNECT privilege for the database";
	return NULL;
}

/* Why no session can be had for a job's owner, or NULL. */
const char *
etl_job_cannot_run(const EtlJob *job)
{
	const char *reason = etl_role_cannot_run(job->role);

	if (reason == NULL && !etl_superuser_jobs && superuser_arg(job->role))
		reason = "its owner is a superuser, and \"etl_patterns.superuser_jobs\" is off";
	return reason;
}

/*
 * A job that was read with a lock cannot run: it has no slots until somebody
 * has mended that and resumed it.
 */
void
etl_job_break(EtlJob *job, const char *reason)
{
	if (job->state == ETL_JOB_BROKEN)
	{
		/* runs that were inserted by who did not see that yet */
		etl_run_skip_waiting(job->job_id, "broken");
		return;
	}
	job->state = ETL_JOB_BROKEN;
	job->reason = reason;
	job->next_slot = 0;
	etl_job_update(job);
	etl_run_skip_waiting(job->job_id, "broken");
	etl_alert(ETL_ALERT_BROKEN, job, NULL, NULL, reason);
	etl_tell_scheduler(ETL_NEWS_JOB, job->job_id);
}
