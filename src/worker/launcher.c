/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  The launcher sees to it that each database that has the extension has a
 *	  scheduler.
 *
 * It is connected to no database, so that it cannot see who has the extension:
 * it starts a scheduler in each database to find out.  One that finds nothing
 * gives its entry back and ends.  The database is asked again when CREATE
 * EXTENSION tells the launcher to, and a database that is new is asked once.
 * At most MAX_STARTING look around at the same time, so that the start of a
 * server with many databases is no avalanche.
 *
 * A scheduler that fails is started again, after a second at first and later
 * up to a minute.  Those failures are remembered for each database, not in
 * the entry: where entries are scarce, one that waits gives way.
 *
 * The launcher waits for its latch only.  A database that is locked by a
 * command which wants nobody connected (see database_hook.c) is left alone
 * until the lock can be had; that the lock is gone when its holder is, however
 * that ended, is what makes this safe.  An error ends the launcher.  The
 * postmaster starts another one, which takes over what is in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "etl_patterns.h"
#include "worker/shared.h"

#define LAUNCHER  "etl_patterns launcher"
#define SCHEDULER "etl_patterns scheduler"

/* Schedulers that are on their way at the same time. */
#define MAX_STARTING 2

/* Between two looks at pg_database, when nobody says that it changed. */
#define LOOK_INTERVAL (30 * USECS_PER_SEC)
/* Between two tries while the database is locked. */
#define LOCKED_INTERVAL (USECS_PER_SEC / 2)
/* Between two tries while there is no background worker. */
#define FULL_INTERVAL (2 * USECS_PER_SEC)
/* A scheduler that ran for so long did not fail at its start. */
#define STABLE_TIME		  (60 * USECS_PER_SEC)
#define MAX_RETRY_SECONDS 60

/* A database that a scheduler could connect to. */
typedef struct Known
{
	Oid database;
	NameData name;
	bool seen; /* when last looked */
	bool due;  /* wants a scheduler, at retry_at */
	TimestampTz retry_at;
	int failures;
} Known;

static HTAB *known_databases;

/* Of the workers that were asked for, by entry. */
static BackgroundWorkerHandle **handles;

static TimestampTz next_look; /* at pg_database */
static TimestampTz wake_at;	  /* there is something to do then */
static TimestampTz full_until;
static bool full_logged;

extern PGDLLEXPORT void etl_launcher_main(Datum main_arg);
static void start_up(void);
static void end_launcher(int code, Datum arg);
static void reload_config(void);
static void run_round(TimestampTz now);
static void take_orders(void);
static void look_at_databases(TimestampTz now);
static void all_are_due(void);
static Known *find_known(Oid database);
static void check_entries(TimestampTz now);
static bool never_started(int index);
static void end_scheduler(int index);
static void plan_retry(EtlSharedDatabase *entry, Known *known, TimestampTz now);
static void start_due(TimestampTz now);
static int count_starting(void);
static bool has_scheduler(Oid database);
static bool is_locked(Oid database);
static bool start_scheduler(Known *known, TimestampTz now);
static int take_entry(Oid database, TimestampTz now);
static void wake_by(TimestampTz at);

/* Has the postmaster start the launcher, also after a crash. */
void
etl_launcher_register(void)
{
	BackgroundWorker worker = {0};

	strlcpy(worker.bgw_name, LAUNCHER, BGW_MAXLEN);
	strlcpy(worker.bgw_type, LAUNCHER, BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "etl_patterns", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "etl_launcher_main", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
					   BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	RegisterBackgroundWorker(&worker);
}

/* The launcher's process. */
void
etl_launcher_main(Datum main_arg)
{
	TimestampTz last_round = 0;
	bool was_enabled = true;

	start_up();
	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();

		/* An ordinary end, not worth a FATAL; with 0 it would be for good. */
		if (ProcDiePending)
			proc_exit(1);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
			reload_config();

		/* Plans of before the clock was set back could be far away. */
		if (now < last_round)
			full_until = next_look = 0;
		if (now < last_round || (etl_scheduler_enabled && !was_enabled))
			all_are_due();
		last_round = now;
		was_enabled = etl_scheduler_enabled;

		run_round(now);

		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
														 wake_at) +
							 1,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/* Takes the place of a launcher that there may have been before. */
static void
start_up(void)
{
	HASHCTL ctl = {0};

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGINT, SIG_IGN);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	/* Nobody's settings for sessions are to end it. */
	SetConfigOption("lock_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	etl_no_transaction_timeout(PGC_SUSET, PGC_S_OVERRIDE, GUC_ACTION_SET);
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(Known);
	known_databases = hash_create("databases of " LAUNCHER, 64, &ctl,
								  HASH_ELEM | HASH_BLOBS);
	handles = MemoryContextAllocZero(TopMemoryContext,
									 sizeof(BackgroundWorkerHandle *) *
										 etl_shared->ndatabases);

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	etl_shared->launcher = MyProcPid;
	etl_shared->launcher_latch = MyLatch;
	for (int i = 0; i < etl_shared->ndatabases; i++)
	{
		EtlSharedDatabase *entry = etl_shared_database(i);

		/* Without its handle there is no telling whether it will come. */
		if (entry->state == ETL_DATABASE_STARTING && entry->scheduler == 0)
		{
			entry->generation++;
			entry->state = ETL_DATABASE_FREE;
		}
		else if (entry->state == ETL_DATABASE_FAILED)
			entry->retry_at = 0;
	}
	LWLockRelease(etl_shared->lock);
	before_shmem_exit(end_launcher, (Datum) 0);

	ereport(DEBUG1, (errmsg_internal(LAUNCHER " started")));
}

/* Leaves the schedulers to the next launcher. */
static void
end_launcher(int code, Datum arg)
{
	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	etl_shared->launcher = 0;
	etl_shared->launcher_latch = NULL;
	LWLockRelease(etl_shared->lock);
}

static void
reload_config(void)
{
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
}

/* Does what can be done now, and sets when there is more. */
static void
run_round(TimestampTz now)
{
	wake_at = now + LOOK_INTERVAL;
	take_orders();
	if (now >= next_look)
	{
		look_at_databases(now);
		next_look = now + LOOK_INTERVAL;
	}
	wake_by(next_look);
	check_entries(now);
	if (etl_scheduler_enabled)
		start_due(now);
}

/* Sees which databases may have the extension now. */
static void
take_orders(void)
{
	Oid asked[ETL_ASKED_LEN];
	int nasked;

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	nasked = etl_shared->nasked;
	memcpy(asked, etl_shared->asked, sizeof(asked));
	etl_shared->nasked = 0;
	if (etl_shared->look_around)
		next_look = 0;
	etl_shared->look_around = false;
	LWLockRelease(etl_shared->lock);

	if (nasked > ETL_ASKED_LEN)
	{
		all_are_due();
		next_look = 0;
		return;
	}
	for (int i = 0; i < nasked; i++)
	{
		Known *known = find_known(asked[i]);

		/* One that is not known yet is due when it is seen. */
		if (known == NULL)
			next_look = 0;
		else
		{
			known->due = true;
			known->retry_at = 0;
			known->failures = 0;
		}
	}
}

/* Compares what is known with what there is. */
static void
look_at_databases(TimestampTz now)
{
	Relation rel;
	TableScanDesc scan;
	HeapTuple tuple;
	HASH_SEQ_STATUS seq;
	Known *known;

	hash_seq_init(&seq, known_databases);
	while ((known = hash_seq_search(&seq)) != NULL)
		known->seen = false;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		bool found;

		CHECK_FOR_INTERRUPTS();
		if (!form->datallowconn || form->datistemplate ||
			form->datconnlimit == DATCONNLIMIT_INVALID_DB)
			continue;
		known = hash_search(known_databases, &form->oid, HASH_ENTER, &found);
		if (!found)
		{
			known->due = true;
			known->retry_at = 0;
			known->failures = 0;
		}
		known->name = form->datname;
		known->seen = true;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	pgstat_report_stat(true);

	hash_seq_init(&seq, known_databases);
	while ((known = hash_seq_search(&seq)) != NULL)
		if (!known->seen)
			hash_search(known_databases, &known->database, HASH_REMOVE, NULL);
}

/* Has every database asked anew. */
static void
all_are_due(void)
{
	HASH_SEQ_STATUS seq;
	Known *known;

	hash_seq_init(&seq, known_databases);
	while ((known = hash_seq_search(&seq)) != NULL)
	{
		known->due = true;
		known->retry_at = 0;
	}
}

static Known *
find_known(Oid database)
{
	return hash_search(known_databases, &database, HASH_FIND, NULL);
}

/*
 * Sees which schedulers have ended, and ends those that nobody wants: the
 * switch is off, or the database is gone, a template, or not to be connected
 * to any more.
 */
static void
check_entries(TimestampTz now)
{
	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < etl_shared->ndatabases; i++)
	{
		EtlSharedDatabase *entry = etl_shared_database(i);
		Known *known;

		if (entry->state == ETL_DATABASE_FREE)
			continue;

		if (never_started(i))
		{
			entry->generation++;
			entry->state = ETL_DATABASE_FAILED;
			entry->retry_at = 0;
		}
		known = etl_scheduler_enabled ? find_known(entry->database) : NULL;
		if (entry->state != ETL_DATABASE_FAILED)
		{
			if (known == NULL)
				end_scheduler(i);
		}
		else if (known == NULL)
			entry->state = ETL_DATABASE_FREE;
		else if (entry->retry_at == 0)
			plan_retry(entry, known, now);
	}
	LWLockRelease(etl_shared->lock);
}

/* Did a worker that was asked for end before it took its entry? */
static bool
never_started(int index)
{
	EtlSharedDatabase *entry = etl_shared_database(index);
	pid_t pid;

	return entry->state == ETL_DATABASE_STARTING && entry->scheduler == 0 &&
		   (handles[index] == NULL ||
			GetBackgroundWorkerPid(handles[index], &pid) == BGWH_STOPPED);
}

/* The caller holds the lock, so that the process cannot be another one. */
static void
end_scheduler(int index)
{
	EtlSharedDatabase *entry = etl_shared_database(index);

	if (entry->scheduler != 0)
		etl_scheduler_end(entry);
	else if (handles[index] != NULL)
		TerminateBackgroundWorker(handles[index]);
}

/* A scheduler has ended: when is the next one to start? */
static void
plan_retry(EtlSharedDatabase *entry, Known *known, TimestampTz now)
{
	known->due = true;
	known->retry_at = now;
	if (!entry->leave)
	{
		if (now - entry->started_at >= STABLE_TIME)
			known->failures = 0;
		known->retry_at += Min(1 << Min(known->failures, 10), MAX_RETRY_SECONDS) *
						   USECS_PER_SEC;
		known->failures++;
	}
	entry->retry_at = known->retry_at;
}

/*
 * Starts what is due, as far as that is possible now.  There must be no
 * transaction boundary in here: it would end the scan.
 */
static void
start_due(TimestampTz now)
{
	HASH_SEQ_STATUS seq;
	Known *known;
	int nstarting = count_starting();
	bool full = now < full_until;

	hash_seq_init(&seq, known_databases);
	while ((known = hash_seq_search(&seq)) != NULL)
	{
		if (!known->due || has_scheduler(known->database))
			continue;
		if (known->retry_at > now)
		{
			wake_by(known->retry_at);
			continue;
		}
		if (full || nstarting >= MAX_STARTING)
		{
			hash_seq_term(&seq);
			break;
		}
		if (is_locked(known->database))
		{
			known->retry_at = now + LOCKED_INTERVAL;
			wake_by(known->retry_at);
		}
		else if (start_scheduler(known, now))
			nstarting++;
		else
		{
			full = true;
			full_until = now + FULL_INTERVAL;
		}
	}

	if (full)
		wake_by(full_until);
	else if (nstarting < MAX_STARTING)
		full_logged = false;
}

/* Schedulers that do not know yet whether they stay. */
static int
count_starting(void)
{
	int n = 0;

	LWLockAcquire(etl_shared->lock, LW_SHARED);
	for (int i = 0; i < etl_shared->ndatabases; i++)
		if (etl_shared_database(i)->state == ETL_DATABASE_STARTING)
			n++;
	LWLockRelease(etl_shared->lock);
	return n;
}

/* Is there one, on its way or at work? */
static bool
has_scheduler(Oid database)
{
	EtlSharedDatabase *entry;
	bool result;

	LWLockAcquire(etl_shared->lock, LW_SHARED);
	entry = etl_shared_find_database(database);
	result = entry != NULL && entry->state != ETL_DATABASE_FAILED;
	LWLockRelease(etl_shared->lock);
	return result;
}

/*
 * Would a connection have to wait for a command on the database to end?  The
 * lock is taken for the session, which needs no transaction.
 */
static bool
is_locked(Oid database)
{
	LOCKTAG tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, database, 0);
	if (LockAcquire(&tag, RowExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, RowExclusiveLock, true);
	return false;
}

/* Asks for a scheduler; returns false where there is no place for one. */
static bool
start_scheduler(Known *known, TimestampTz now)
{
	BackgroundWorker worker = {0};
	int index = take_entry(known->database, now);
	bool started = false;

	if (index >= 0)
	{
		EtlSharedDatabase *entry = etl_shared_database(index);

		strlcpy(worker.bgw_name, SCHEDULER, BGW_MAXLEN);
		strlcpy(worker.bgw_type, SCHEDULER, BGW_MAXLEN);
		strlcpy(worker.bgw_library_name, "etl_patterns", BGW_MAXLEN);
		strlcpy(worker.bgw_function_name, "etl_scheduler_main", BGW_MAXLEN);
		worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
						   BGWORKER_BACKEND_DATABASE_CONNECTION;
		worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
		worker.bgw_restart_time = BGW_NEVER_RESTART;
		worker.bgw_main_arg = Int32GetDatum(index);
		memcpy(worker.bgw_extra, &entry->generation, sizeof(uint32));
		worker.bgw_notify_pid = MyProcPid;

		if (handles[index] != NULL)
			pfree(handles[index]);
		handles[index] = NULL;
		started = RegisterDynamicBackgroundWorker(&worker, &handles[index]);
		if (!started)
		{
			LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
			entry->state = ETL_DATABASE_FREE;
			LWLockRelease(etl_shared->lock);
		}
	}

	if (started)
		known->due = false;
	else if (!full_logged)
	{
		full_logged = true;
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker is left for database \"%s\"",
						NameStr(known->name)),
				 errdetail("If it has jobs, they do not run until there is one."),
				 errhint(
					 "Raise max_worker_processes: each database with etl_patterns takes one, and each job that runs.")));
	}
	return started;
}

/*
 * Makes an entry the database's, in state STARTING: its own, a free one, or
 * that of the database whose turn comes last.  Returns its place, or -1.
 */
static int
take_entry(Oid database, TimestampTz now)
{
	EtlSharedDatabase *entry;
	int taken = -1;

	LWLockAcquire(etl_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < etl_shared->ndatabases; i++)
	{
		entry = etl_shared_database(i);
		if (entry->state == ETL_DATABASE_FAILED && entry->database == database)
		{
			taken = i;
			break;
		}
		if (entry->state == ETL_DATABASE_FREE)
			taken = i;
		else if (entry->state == ETL_DATABASE_FAILED && entry->retry_at != 0 &&
				 (taken < 0 ||
				  (etl_shared_database(taken)->state == ETL_DATABASE_FAILED &&
				   etl_shared_database(taken)->retry_at < entry->retry_at)))
			taken = i;
	}
	if (taken >= 0)
	{
		uint32 generation;

		entry = etl_shared_database(taken);
		generation = entry->generation + 1;
		memset(entry, 0, offsetof(EtlSharedDatabase, news));
		entry->state = ETL_DATABASE_STARTING;
		entry->generation = generation;
		entry->database = database;
		entry->started_at = entry->heartbeat = now;
	}
	LWLockRelease(etl_shared->lock);
	return taken;
}

/* The next round is to be no later than that. */
static void
wake_by(TimestampTz at)
{
	if (at < wake_at)
		wake_at = at;
}
