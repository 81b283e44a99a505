/*-------------------------------------------------------------------------
 *
 * dispatch.c
 *	  Which worker gets which run.
 *
 * Runs that are ready go, first come first served, to a worker of their role
 * that is idle, else to a new one.  Where there is no room for a new one, an
 * idle worker of another role has to leave.  What nobody can take stays in the
 * queue: a run waits for a worker, it is never given up for that.
 *
 * The scheduler gives runs to slots, workers give them back: they make their
 * slot IDLE, or FREE at their exit, and set the scheduler's latch.  A slot's
 * generation tells its users apart, so that a scheduler that looks late, or a
 * worker that starts late, does not take one for the other.
 *
 * Locks: EtlShared.lock.  Nothing here needs a transaction, so that runs are
 * handed out also in the middle of one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/memutils.h"

#include "etl_patterns.h"
#include "worker/scheduler.h"

/* So many workers are started at a time; one that takes longer is no matter. */
#define MAX_STARTING 4
#define START_TIME	 (1 * USECS_PER_SEC)

/* After so long a worker that has not started never will. */
#define MAX_START_TIME (60 * USECS_PER_SEC)

/*
 * After a start that failed nothing is tried for so long; or so long, if a
 * worker has just left: the postmaster has to see that first.
 */
#define RETRY_TIME	 (200 * USECS_PER_SEC / 1000)
#define VACATED_TIME (2 * USECS_PER_SEC / 1000)

/*
 * So long a run waits for a worker of its role that is busy, before another
 * one is started; and before one of another role has to leave for that.  Most
 * runs are short, and a process costs more than many of them.
 */
#define START_PATIENCE (20 * USECS_PER_SEC / 1000)
#define LEAVE_PATIENCE (250 * USECS_PER_SEC / 1000)

/* So many runs are looked at that cannot be handed out now. */
#define MAX_ASIDE 64

/* After so long a process that was terminated, and has not ended, is again. */
#define PROCESS_END_TIME (60 * USECS_PER_SEC)

#define COMPLAINT_INTERVAL (60 * USECS_PER_SEC)

/* What we know of a slot. */
typedef struct Place
{
	/* our run in it */
	int64 job_run_id;
	uint32 generation;
	BackgroundWorkerHandle *handle;

	/* the slot, as it was when we looked */
	EtlSharedSlot seen;
} Place;

static Place *places;
static int nidle;	  /* slots of this database that are IDLE */
static int nstarting; /* STARTING, not for long */
static int nleaving;  /* IDLE, but told to leave */
static int nfree;
static int nvacated; /* places of workers that have left for others */
static TimestampTz vacated_at;
static TimestampTz retry_at; /* when to hand out what could not be */
static TimestampTz start_failed_at;

static List *look_at_place(int index, List *returned);
static bool free_dead_slot(int index);
static bool hand_out(EtlKnownRun *run, TimestampTz now);
static bool give_to_idle(EtlKnownRun *run, TimestampTz now);
static bool give_to_new(EtlKnownRun *run, TimestampTz now);
static bool start_worker(int index);
static bool is_one_of(Oid role, const Oid *roles, int n);
static bool has_worker(Oid role);
static void make_room(const EtlKnownRun *run, TimestampTz now, int nwanted);
static void set_terminate_at(EtlKnownRun *run, TimestampTz since);

void
etl_dispatch_init(void)
{
	places = MemoryContextAllocZero(TopMemoryContext,
									sizeof(Place) * etl_shared->nslots);
}

/* The scheduler's clock and that of shared memory differ in tests. */
static TimestampTz
job_time(TimestampTz real_time)
{
	return real_time + etl_clock_offset * USECS_PER_SEC;
}

/* ------------------------------------------------------------------ */
/* what workers have done                                               */

/* Forget what was handed out, and take over what workers have. */
void
etl_dispatch_adopt(void)
{
	LWLockAcquire(etl_shared->lock, LW_SHARED);
	for (int i = 0; i < etl_shared->nslots; i++)
	{
		places[i].job_run_id = 0;
		places[i].seen = *etl_shared_slot(i);
	}
	LWLockRelease(etl_shared->lock);
	start_failed_at = 0;

	for (int i = 0; i < etl_shared->nslots; i++)
	{
		const EtlSharedSlot *seen = &places[i].seen;
		EtlKnownRun *run;

		if (seen->database != MyDatabaseId ||
			(seen->state != ETL_SLOT_BUSY && seen->state != ETL_SLOT_STARTING))
			continue;
		places[i].job_run_id = seen->job_run_id;
		places[i].generation = seen->generation;
		run = etl_known_run(seen->job_run_id);
		if (run == NULL)
			continue;
		etl_known_hand_out(run, i);
		set_terminate_at(run, seen->since);
	}
}

/*
 * Look at all slots.  Runs that a worker has no more are added to the list:
 * they have ended, or their worker is gone, or would not begin them.
 */
List *
etl_dispatch_look(List *returned)
{
	TimestampTz now = GetCurrentTimestamp();

	if (vacated_at < now - RETRY_TIME)
		nvacated = 0;
	LWLockAcquire(etl_shared->lock, LW_SHARED);
	for (int i = 0; i < etl_shared->nslots; i++)
	{
		const EtlSharedSlot *slot = etl_shared_slot(i);
		const EtlSharedSlot *seen = &places[i].seen;

		if (seen->leave && seen->state != ETL_SLOT_FREE &&
			seen->database == MyDatabaseId &&
			(slot->state == ETL_SLOT_FREE ||
			 slot->generation != seen->generation))
		{
			nvacated++;
			vacated_at = now;
		}
		places[i].seen = *slot;
	}
	LWLockRelease(etl_shared->lock);

	nidle = nstarting = nleaving = nfree = 0;
	for (int i = 0; i < etl_shared->nslots; i++)
	{
		const EtlSharedSlot *seen = &places[i].seen;

		if (places[i].job_run_id != 0)
			returned = look_at_place(i, returned);
		if (seen->state == ETL_SLOT_FREE)
			nfree++;
		if (seen->state == ETL_SLOT_FREE || seen->database != MyDatabaseId)
			continue;
		if (seen->state == ETL_SLOT_IDLE && !seen->leave)
			nidle++;
		if (seen->leave)
			nleaving++;
		if (seen->state == ETL_SLOT_STARTING && seen->since > now - START_TIME)
			nstarting++;
	}
	return returned;
}

/* What has become of our run in a slot? */
static List *
look_at_place(int index, List *returned)
{
	Place *place = &places[index];
	const EtlSharedSlot *seen = &place->seen;
	bool is_gone = seen->generation != place->generation ||
				   seen->state == ETL_SLOT_FREE;
	EtlReturned *result;

	if (!is_gone && seen->state == ETL_SLOT_STARTING)
		is_gone = free_dead_slot(index);
	if (!is_gone && seen->state != ETL_SLOT_IDLE &&
		seen->job_run_id == place->job_run_id)
	{
		EtlKnownRun *run = etl_known_run(place->job_run_id);

		/* somebody else has canceled it */
		if (run != NULL && seen->ending != ETL_ENDING_NONE &&
			run->ending == ETL_ENDING_NONE)
		{
			run->ending = seen->ending;
			set_terminate_at(run, seen->since);
		}
		return returned;
	}

	result = palloc(sizeof(EtlReturned));
	result->job_run_id = place->job_run_id;
	result->worker_is_gone = is_gone;
	result->declined = seen->generation == place->generation && seen->declined;
	place->job_run_id = 0;
	if (place->handle != NULL)
		pfree(place->handle);
	place->handle = NULL;
	return lappend(returned, result);
}

/* If a worker was asked for that will never come, its slot is free again. */
static bool
free_dead_slot(int index)
{
	Place *place = &places[index];
	EtlSharedSlot *slot = etl_shared_slot(index);
	bool is_dead;
	pid_t pid;

	if (place->seen.pid != 0)
		return false;
	if (place->handle != NULL)
		is_dead = GetBackgroundWorkerPid(place->handle, &pid) == BGWH_STOPPED;
	else
		is_dead = place->seen.since < GetCurrentTimestamp() - MAX_START_TIME;
	if (!is_dead)
		return false;

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	if (slot->generation == place->generation && slot->pid == 0)
		slot->state = ETL_SLOT_FREE;
	place->seen = *slot;
	LWLockRelease(etl_shared->lock);
	return place->seen.state == ETL_SLOT_FREE ||
		   place->seen.generation != place->generation;
}

/* ------------------------------------------------------------------ */
/* handing out                                                          */

/* Hand out what is ready; etl_dispatch_look() has just looked. */
void
etl_dispatch(TimestampTz now)
{
	EtlKnownRun *aside[MAX_ASIDE];
	EtlKnownRun *run;
	Oid wanted[MAX_ASIDE];
	int nwanted = 0;
	int naside = 0;

	retry_at = now + RETRY_TIME;
	while ((run = etl_known_next_ready()) != NULL && run->ready_at <= now)
	{
		if (hand_out(run, now))
			continue;
		if (nidle == 0 || naside == MAX_ASIDE)
			break;
		if (!has_worker(run->role) && !is_one_of(run->role, wanted, nwanted))
			wanted[nwanted++] = run->role;
		make_room(run, now, nwanted);
		etl_known_set_aside(run);
		aside[naside++] = run;
	}
	while (naside > 0)
		etl_known_put_back(aside[--naside]);
}

/* When to try again what could not be handed out, if nothing happens before. */
TimestampTz
etl_dispatch_retry_at(void)
{
	return retry_at;
}

static bool
is_one_of(Oid role, const Oid *roles, int n)
{
	for (int i = 0; i < n; i++)
		if (roles[i] == role)
			return true;
	return false;
}

/* Is there a worker of a role, whatever it does? */
static bool
has_worker(Oid role)
{
	for (int i = 0; i < etl_shared->nslots; i++)
	{
		const EtlSharedSlot *seen = &places[i].seen;

		if (seen->state != ETL_SLOT_FREE && seen->database == MyDatabaseId &&
			seen->role == role && !seen->leave)
			return true;
	}
	return false;
}

static bool
hand_out(EtlKnownRun *run, TimestampTz now)
{
	return give_to_idle(run, now) || give_to_new(run, now);
}

/* Of the workers of its role the one that has been idle for the least time. */
static bool
give_to_idle(EtlKnownRun *run, TimestampTz now)
{
	int best = -1;
	EtlSharedSlot *slot;
	bool given;

	if (nidle == 0)
		return false;
	for (int i = 0; i < etl_shared->nslots; i++)
	{
		const EtlSharedSlot *seen = &places[i].seen;

		if (seen->state == ETL_SLOT_IDLE && seen->database == MyDatabaseId &&
			seen->role == run->role && !seen->leave &&
			(best < 0 || seen->since > places[best].seen.since))
			best = i;
	}
	if (best < 0)
		return false;

	slot = etl_shared_slot(best);
	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	given = slot->state == ETL_SLOT_IDLE && !slot->leave &&
			slot->generation == places[best].seen.generation;
	if (given)
	{
		slot->state = ETL_SLOT_BUSY;
		slot->job_run_id = run->job_run_id;
		slot->ending = ETL_ENDING_NONE;
		slot->declined = false;
		slot->since = GetCurrentTimestamp();
		SetLatch(slot->latch);
	}
	places[best].seen = *slot;
	LWLockRelease(etl_shared->lock);

	nidle--;
	if (!given) /* it has just left */
		return give_to_idle(run, now);
	places[best].job_run_id = run->job_run_id;
	places[best].generation = places[best].seen.generation;
	etl_known_hand_out(run, best);
	set_terminate_at(run, places[best].seen.since);
	return true;
}

/* A new worker, if there is room for one. */
static bool
give_to_new(EtlKnownRun *run, TimestampTz now)
{
	TimestampTz may_start_at = start_failed_at +
							   (nvacated > 0 ? VACATED_TIME : RETRY_TIME);
	int index;

	if (nfree == 0 || nstarting >= MAX_STARTING)
		return false;
	if (may_start_at > now)
	{
		retry_at = Min(retry_at, may_start_at);
		return false;
	}
	if (run->ready_at > now - START_PATIENCE && has_worker(run->role))
	{
		retry_at = Min(retry_at, run->ready_at + START_PATIENCE);
		return false;
	}

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	for (index = 0; index < etl_shared->nslots; index++)
	{
		EtlSharedSlot *slot = etl_shared_slot(index);

		if (slot->state != ETL_SLOT_FREE)
			continue;
		slot->state = ETL_SLOT_STARTING;
		slot->generation++;
		slot->database = MyDatabaseId;
		slot->role = run->role;
		slot->pid = 0;
		slot->latch = NULL;
		slot->job_run_id = run->job_run_id;
		slot->ending = ETL_ENDING_NONE;
		slot->leave = false;
		slot->declined = false;
		slot->since = GetCurrentTimestamp();
		places[index].seen = *slot;
		break;
	}
	LWLockRelease(etl_shared->lock);
	if (index == etl_shared->nslots)
	{
		nfree = 0;
		return false;
	}

	nfree--;
	places[index].generation = places[index].seen.generation;
	if (!start_worker(index))
	{
		start_failed_at = now;
		retry_at = Min(retry_at,
					   now + (nvacated > 0 ? VACATED_TIME : RETRY_TIME));
		return false;
	}
	nstarting++;
	if (nvacated > 0)
		nvacated--;
	places[index].job_run_id = run->job_run_id;
	etl_known_hand_out(run, index);
	set_terminate_at(run, places[index].seen.since);
	return true;
}

/* Ask for the worker of a slot; if there is none to be had the slot is freed. */
static bool
start_worker(int index)
{
	Place *place = &places[index];
	BackgroundWorker worker = {0};
	MemoryContext caller_context = MemoryContextSwitchTo(TopMemoryContext);
	bool started;

	if (place->handle != NULL)
		pfree(place->handle);
	place->handle = NULL;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
					   BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = Int32GetDatum(index);
	memcpy(worker.bgw_extra, &place->generation, sizeof(place->generation));
	strlcpy(worker.bgw_library_name, "etl_patterns", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "etl_job_worker_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "etl_patterns job", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "etl_patterns job", BGW_MAXLEN);
	started = RegisterDynamicBackgroundWorker(&worker, &place->handle);
	MemoryContextSwitchTo(caller_context);

	if (!started)
	{
		LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
		etl_shared_slot(index)->state = ETL_SLOT_FREE;
		place->seen = *etl_shared_slot(index);
		LWLockRelease(etl_shared->lock);
	}
	return started;
}

/*
 * An idle worker of another role is to leave, so that one for this run can
 * start.  Workers of the role that are busy are waited for first.  Roles that
 * have no worker at all want so many; as many may be leaving.
 */
static void
make_room(const EtlKnownRun *run, TimestampTz now, int nwanted)
{
	int oldest = -1;

	if (nleaving + nvacated + nstarting >= MAX_STARTING)
		return;
	if (!has_worker(run->role))
	{
		if (nleaving + nvacated >= nwanted)
			return;
	}
	else if (nleaving + nvacated > 0 || run->ready_at > now - LEAVE_PATIENCE)
		return;

	for (int i = 0; i < etl_shared->nslots; i++)
	{
		const EtlSharedSlot *seen = &places[i].seen;

		if (seen->state == ETL_SLOT_IDLE && seen->database == MyDatabaseId &&
			seen->role != run->role && !seen->leave &&
			(oldest < 0 || seen->since < places[oldest].seen.since))
			oldest = i;
	}
	if (oldest < 0)
		return;

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	if (etl_shared_slot(oldest)->generation == places[oldest].seen.generation &&
		etl_shared_slot(oldest)->state == ETL_SLOT_IDLE)
	{
		etl_shared_slot(oldest)->leave = true;
		SetLatch(etl_shared_slot(oldest)->latch);
	}
	places[oldest].seen.leave = true;
	LWLockRelease(etl_shared->lock);
	nidle--;
	nleaving++;
}

/* ------------------------------------------------------------------ */
/* ending                                                               */

/*
 * When to terminate the process of a run that began, or was canceled, at the
 * given time.
 */
static void
set_terminate_at(EtlKnownRun *run, TimestampTz since)
{
	int64 grace = etl_cancel_grace * USECS_PER_SEC;

	run->terminate_at = 0;
	if (run->ending != ETL_ENDING_NONE)
		run->terminate_at = job_time(since) + grace;
	else if (run->job != NULL && run->job->timeout > 0)
		run->terminate_at = job_time(since) + run->job->timeout + grace;
	etl_known_set_deadline(run);
}

/*
 * The time of a run that was canceled is up: terminate its process, unless it
 * began later than we thought.
 */
void
etl_dispatch_terminate(EtlKnownRun *run, TimestampTz now)
{
	Place *place = run->slot < 0 ? NULL : &places[run->slot];
	EtlSharedSlot *slot;
	bool is_up = false;

	run->terminate_at = 0;
	etl_known_set_deadline(run);
	if (place == NULL || place->job_run_id != run->job_run_id)
		return;

	/* under the lock the process cannot go on to another run */
	slot = etl_shared_slot(run->slot);
	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	if (slot->generation == place->generation && slot->state == ETL_SLOT_BUSY &&
		slot->job_run_id == run->job_run_id)
	{
		if (run->ending == ETL_ENDING_NONE)
			run->ending = slot->ending;
		set_terminate_at(run, slot->since);
		is_up = run->terminate_at <= now;
		if (is_up)
		{
			if (run->ending == ETL_ENDING_NONE)
				run->ending = slot->ending = ETL_ENDING_TIMEOUT;
			(void) kill(slot->pid, SIGTERM);
		}
	}
	LWLockRelease(etl_shared->lock);
	if (!is_up)
	{
		run->terminate_at = Max(run->terminate_at, now + USECS_PER_SEC);
		etl_known_set_deadline(run);
		return;
	}

	run->terminate_at = now + PROCESS_END_TIME;
	etl_known_set_deadline(run);
	ereport(LOG, (errmsg("terminating the process of job run " INT64_FORMAT,
						 run->job_run_id),
				  errdetail("It did not end when it was canceled.")));
}

/* The extension is gone: workers end as soon as they are idle. */
void
etl_dispatch_dismiss(void)
{
	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < etl_shared->nslots; i++)
	{
		EtlSharedSlot *slot = etl_shared_slot(i);

		if (slot->state == ETL_SLOT_FREE || slot->database != MyDatabaseId)
			continue;
		slot->leave = true;
		if (slot->latch != NULL)
			SetLatch(slot->latch);
	}
	LWLockRelease(etl_shared->lock);
}

/* Say once in a while what to do about runs that wait for a worker. */
void
etl_dispatch_complain(int64 nruns)
{
	static TimestampTz last_complaint = 0;
	TimestampTz now = GetCurrentTimestamp();
	bool slots_are_used_up = nfree == 0;

	if (last_complaint > now - COMPLAINT_INTERVAL)
		return;
	last_complaint = now;
	ereport(LOG,
			(errmsg_plural("%lld job run waits for a worker",
						   "%lld job runs wait for a worker", (long) nruns,
						   (long long) nruns),
			 slots_are_used_up ?
				 errhint("All \"etl_patterns.max_running_jobs\" are in use.") :
				 errhint(
					 "Consider increasing \"max_worker_processes\": all of them are in use.")));
}
