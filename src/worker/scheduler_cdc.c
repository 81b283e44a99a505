/*-------------------------------------------------------------------------
 *
 * scheduler_cdc.c
 *	  Which pipelines have a process, and which are to have one.
 *
 * A pipeline whose row says that it is to run gets a process.  One that ends
 * although it should not is started again after 1, 2, 4, ... 60 seconds, and
 * after 1 again if it had run for a minute.  The process itself writes why it
 * ended; what keeps it from starting is written here, into the same columns.
 *
 * Which process belongs to which pipeline is in shared memory, so that the
 * next scheduler takes them over.  That there is no second process for a
 * pipeline does not depend on it: see etl_cdc_lock().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "flow/cdc.h"
#include "worker/scheduler.h"

#define MAX_RETRY_SECONDS 60

/* take_entry(): not now. */
#define MUST_WAIT -2

/* A process that ran for so long did not fail at its start. */
#define STABLE_TIME (60 * USECS_PER_SEC)

/*
 * A process takes a second place, for its reader, as soon as it has begun.  Until
 * then no other one is started, but no longer than that; looked at so often.
 */
#define PAIRING_TIME (2 * USECS_PER_SEC)
#define PAIRING_LOOK (100 * 1000)

/* After so long a process that has not ended is told once more. */
#define END_TIME (10 * USECS_PER_SEC)

/* A pipeline that is to run, or that has a process. */
typedef struct Known
{
	int64 pipeline_id; /* key */
	Oid role;
	bool wanted;
	bool seen; /* when all were read */
	int failures;
	TimestampTz retry_at;
	TimestampTz told_at; /* to end */
	int index;			 /* of its process; -1: there is none */
	uint32 generation;
	BackgroundWorkerHandle *handle;
} Known;

/* What keeps a pipeline from running. */
typedef struct Obstacle
{
	Known *known;
	int sqlerrcode;
	const char *message;
	const char *hint;
} Obstacle;

static HTAB *pipelines = NULL;

static Known *enter(int64 pipeline_id, bool make);
static void set(const EtlCdcPipeline *pipeline);
static void forget(Known *known);
static void adopt(void);
static bool has_process(Known *known, TimestampTz now);
static void has_ended(Known *known, TimestampTz since, TimestampTz now);
static void tell(Known *known, bool leave, TimestampTz now);
static void start(Known *known, TimestampTz now);
static void look_at_owner(void *arg);
static int take_entry(Known *known, TimestampTz now);
static bool is_pairing(const EtlSharedApplier *entry, TimestampTz now);
static bool start_worker(Known *known);
static void write_obstacle(void *arg);

/* ------------------------------------------------------------------ */
/* what is to run                                                       */

static bool
is_wanted(const EtlCdcPipeline *pipeline)
{
	return pipeline->state == ETL_CDC_STARTING ||
		   pipeline->state == ETL_CDC_COPYING ||
		   pipeline->state == ETL_CDC_RUNNING;
}

static Known *
enter(int64 pipeline_id, bool make)
{
	Known *known;
	bool found;

	if (pipelines == NULL)
	{
		HASHCTL ctl = {0};

		ctl.keysize = sizeof(int64);
		ctl.entrysize = sizeof(Known);
		pipelines = hash_create("CDC pipelines", 64, &ctl,
								HASH_ELEM | HASH_BLOBS);
	}
	if (!make)
		return hash_search(pipelines, &pipeline_id, HASH_FIND, NULL);
	known = hash_search(pipelines, &pipeline_id, HASH_ENTER, &found);
	if (!found)
	{
		memset((char *) known + sizeof(known->pipeline_id), 0,
			   sizeof(Known) - sizeof(known->pipeline_id));
		known->index = -1;
	}
	return known;
}

/* The pipeline is as it was just read. */
static void
set(const EtlCdcPipeline *pipeline)
{
	Known *known = enter(pipeline->pipeline_id, is_wanted(pipeline));

	if (known == NULL)
		return;
	if (!known->wanted || known->role != pipeline->role)
		known->failures = known->retry_at = 0;
	known->wanted = is_wanted(pipeline);
	known->role = pipeline->role;
	known->seen = true;
	tell(known, false, 0);
}

static void
forget(Known *known)
{
	if (known->handle != NULL)
		pfree(known->handle);
	(void) hash_search(pipelines, &known->pipeline_id, HASH_REMOVE, NULL);
}

/* Read a pipeline that somebody has changed. */
void
etl_pipeline_read(int64 pipeline_id)
{
	EtlCdcPipeline *pipeline = etl_cdc_by_id(pipeline_id, false);
	Known *known = enter(pipeline_id, false);

	if (pipeline != NULL)
		set(pipeline);
	else if (known != NULL)
		known->wanted = false;
}

/* Read all pipelines, and find the processes that there are. */
void
etl_pipelines_load(void)
{
	HASH_SEQ_STATUS status;
	Known *known;
	ListCell *lc;

	adopt();
	hash_seq_init(&status, pipelines);
	while ((known = hash_seq_search(&status)) != NULL)
		known->seen = false;
	foreach(lc, etl_cdc_pipelines())
		set(lfirst(lc));
	hash_seq_init(&status, pipelines);
	while ((known = hash_seq_search(&status)) != NULL)
		known->wanted &= known->seen;
}

/* Take over the processes that another scheduler has started. */
static void
adopt(void)
{
	(void) enter(0, false);
	LWLockAcquire(etl_shared->lock, LW_SHARED);
	for (int i = 0; i < etl_shared->nappliers; i++)
	{
		EtlSharedApplier seen = *etl_shared_applier(i);
		Known *known;

		if (seen.state == ETL_APPLIER_FREE || seen.database != MyDatabaseId)
			continue;
		known = enter(seen.pipeline_id, true);
		if (known->index >= 0)
			continue;
		known->index = i;
		known->generation = seen.generation;
		known->role = seen.role;
	}
	LWLockRelease(etl_shared->lock);
}

/* ------------------------------------------------------------------ */
/* processes                                                            */

/* Start and end processes; no transaction is open. */
void
etl_pipelines_serve(bool is_on)
{
	TimestampTz now = GetCurrentTimestamp();
	List *all = NIL;
	HASH_SEQ_STATUS status;
	Known *known;
	ListCell *lc;

	/* a scan of the table must not be open when a transaction ends */
	hash_seq_init(&status, pipelines);
	while ((known = hash_seq_search(&status)) != NULL)
		all = lappend(all, known);
	foreach(lc, all)
	{
		known = lfirst(lc);
		if (known->retry_at > now + MAX_RETRY_SECONDS * USECS_PER_SEC)
			known->retry_at = now; /* the clock was set back */
		if (has_process(known, now))
		{
			if (!known->wanted && (known->told_at < now - END_TIME))
				tell(known, true, now);
		}
		else if (!known->wanted)
			forget(known);
		else if (is_on && known->retry_at <= now)
			start(known, now);
	}
}

/* Milliseconds until there is something to do; -1: for ever. */
long
etl_pipelines_wait(bool is_on)
{
	TimestampTz now = GetCurrentTimestamp();
	HASH_SEQ_STATUS status;
	long wait = -1;
	Known *known;

	hash_seq_init(&status, pipelines);
	while ((known = hash_seq_search(&status)) != NULL)
	{
		TimestampTz at = known->index >= 0 ? known->told_at + END_TIME :
											 known->retry_at;
		long ms = at <= now ? 0 : TimestampDifferenceMilliseconds(now, at);

		if ((known->index >= 0 && known->wanted) ||
			(known->index < 0 && known->wanted && !is_on))
			continue;
		wait = wait < 0 ? ms : Min(wait, ms);
	}
	return wait;
}

/* The extension is gone. */
void
etl_pipelines_dismiss(void)
{
	(void) etl_cdc_end_all(MyDatabaseId);
}

/* Has a pipeline a process, or will it come?  Else note that it has ended. */
static bool
has_process(Known *known, TimestampTz now)
{
	EtlSharedApplier *entry;
	EtlSharedApplier seen;
	pid_t pid;

	if (known->index < 0)
		return false;
	entry = etl_shared_applier(known->index);
	LWLockAcquire(etl_shared->lock, LW_SHARED);
	seen = *entry;
	LWLockRelease(etl_shared->lock);
	if (seen.generation == known->generation && seen.state != ETL_APPLIER_FREE &&
		(seen.pid != 0 ||
		 (known->handle != NULL ?
			  GetBackgroundWorkerPid(known->handle, &pid) != BGWH_STOPPED :
			  seen.since > now - MAX_RETRY_SECONDS * USECS_PER_SEC)))
		return true;

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	if (entry->generation == known->generation && entry->pid == 0)
		entry->state = ETL_APPLIER_FREE;
	LWLockRelease(etl_shared->lock);
	has_ended(known, seen.generation == known->generation ? seen.since : now,
			  now);
	return false;
}

/* When to start it again. */
static void
has_ended(Known *known, TimestampTz since, TimestampTz now)
{
	int seconds;

	known->index = -1;
	known->told_at = 0;
	if (known->handle != NULL)
		pfree(known->handle);
	known->handle = NULL;
	if (since < now - STABLE_TIME)
		known->failures = 0;
	seconds = Min(1 << Min(known->failures, 6), MAX_RETRY_SECONDS);
	known->failures++;
	known->retry_at = now + seconds * USECS_PER_SEC;
}

/* Tell a process that its pipeline was changed, or that it is to end. */
static void
tell(Known *known, bool leave, TimestampTz now)
{
	EtlSharedApplier *entry;

	if (known->index < 0)
		return;
	entry = etl_shared_applier(known->index);
	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	if (entry->generation == known->generation && entry->pid != 0)
	{
		entry->changed = true;
		if (leave)
			(void) kill(entry->pid, SIGTERM);
		else
			SetLatch(entry->latch);
	}
	LWLockRelease(etl_shared->lock);
	if (leave)
		known->told_at = now;
}

/* Start the process of a pipeline, or write what keeps it from starting. */
static void
start(Known *known, TimestampTz now)
{
	Obstacle obstacle = {.known = known};
	ErrorData *error;

	error = etl_scheduler_try(look_at_owner, &obstacle);
	if (error != NULL)
		etl_scheduler_report(error, "could not look at a pipeline's owner");
	if (error == NULL && obstacle.message == NULL)
	{
		known->index = take_entry(known, now);
		if (known->index == MUST_WAIT)
		{
			known->index = -1;
			known->retry_at = now + PAIRING_LOOK;
			return;
		}
		if (known->index >= 0 && start_worker(known))
			return;
		obstacle.sqlerrcode = ERRCODE_CONFIGURATION_LIMIT_EXCEEDED;
		obstacle.message = "no background worker is free for the pipeline";
		obstacle.hint =
			"It is tried again. Consider increasing \"max_worker_processes\": a pipeline takes two of them.";
	}
	has_ended(known, now, now);
	if (obstacle.message == NULL)
		return;
	error = etl_scheduler_try(write_obstacle, &obstacle);
	if (error != NULL)
		etl_scheduler_report(error, "could not write why a pipeline waits");
}

/* Who cannot log in would have no process, and nobody would see why. */
static void
look_at_owner(void *arg)
{
	Obstacle *obstacle = arg;
	const char *reason = etl_role_cannot_run(obstacle->known->role);

	if (reason == NULL)
		return;
	obstacle->sqlerrcode = ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
	obstacle->message = psprintf("the pipeline cannot run: %s", reason);
	obstacle->hint = "Mend that; the pipeline goes on by itself.";
}

/* Has a process, of whatever database, not asked for its reader yet? */
static bool
is_pairing(const EtlSharedApplier *entry, TimestampTz now)
{
	return entry->state != ETL_APPLIER_FREE && !entry->is_paired &&
		   entry->since > now - PAIRING_TIME && entry->since <= now;
}

/*
 * An entry of shared memory for a process; -1 if there is none, MUST_WAIT if
 * another one is to have its reader first.
 */
static int
take_entry(Known *known, TimestampTz now)
{
	int index;

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	for (index = 0; index < etl_shared->nappliers; index++)
		if (is_pairing(etl_shared_applier(index), now))
		{
			LWLockRelease(etl_shared->lock);
			return MUST_WAIT;
		}
	for (index = 0; index < etl_shared->nappliers; index++)
	{
		EtlSharedApplier *entry = etl_shared_applier(index);

		if (entry->state != ETL_APPLIER_FREE)
			continue;
		entry->state = ETL_APPLIER_STARTING;
		entry->generation++;
		entry->database = MyDatabaseId;
		entry->role = known->role;
		entry->pipeline_id = known->pipeline_id;
		entry->pid = 0;
		entry->latch = NULL;
		entry->changed = false;
		entry->is_paired = false;
		entry->since = now;
		memset(&entry->progress, 0, sizeof(EtlCdcProgress));
		known->generation = entry->generation;
		break;
	}
	LWLockRelease(etl_shared->lock);
	return index < etl_shared->nappliers ? index : -1;
}

/* Ask for the process; if it is not to be had the entry is freed. */
static bool
start_worker(Known *known)
{
	MemoryContext context = MemoryContextSwitchTo(TopMemoryContext);
	BackgroundWorker worker = {0};
	bool started;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
					   BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = Int32GetDatum(known->index);
	memcpy(worker.bgw_extra, &known->generation, sizeof(known->generation));
	strlcpy(worker.bgw_library_name, "etl_patterns", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "etl_cdc_worker_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "etl_patterns cdc", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "etl_patterns cdc", BGW_MAXLEN);
	started = RegisterDynamicBackgroundWorker(&worker, &known->handle);
	MemoryContextSwitchTo(context);

	if (!started)
	{
		LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
		etl_shared_applier(known->index)->state = ETL_APPLIER_FREE;
		LWLockRelease(etl_shared->lock);
	}
	return started;
}

/* Into the row, unless it says so already or somebody has it locked. */
static void
write_obstacle(void *arg)
{
	Obstacle *obstacle = arg;
	EtlCdcPipeline *pipeline = etl_cdc_by_id(obstacle->known->pipeline_id,
											 false);

	if (pipeline == NULL || !is_wanted(pipeline) ||
		(pipeline->error_message != NULL &&
		 strcmp(pipeline->error_message, obstacle->message) == 0))
		return;
	pipeline = etl_cdc_try_lock(obstacle->known->pipeline_id);
	if (pipeline == NULL || !is_wanted(pipeline))
		return;
	pipeline->state = ETL_CDC_STARTING;
	pipeline->error_code = pstrdup(unpack_sql_state(obstacle->sqlerrcode));
	pipeline->error_message = obstacle->message;
	pipeline->error_hint = obstacle->hint;
	pipeline->error_change = NULL;
	pipeline->error_at = GetCurrentTimestamp();
	etl_cdc_update(pipeline);
}
