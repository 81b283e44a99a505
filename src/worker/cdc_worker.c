/*-------------------------------------------------------------------------
 *
 * cdc_worker.c
 *	  The process that applies the changes of a pipeline.
 *
 * It is connected as the owner of the pipeline, so that triggers, defaults and
 * functions of the targets have no other rights, and starts the process that
 * reads, which has more.  It works until it is terminated, its pipeline is not
 * to run any more, or something fails.  What fails is written into the row of
 * the pipeline; the scheduler starts the process again, if that says so.
 *
 * All that must survive is in the row, written with what was applied.  So the
 * process may be killed at any time.  Commits need not wait for the disk: what
 * a crash of the server takes back is read again, because the source keeps it
 * until it is safe here.
 *
 * Locks: one on the pipeline, until the process ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "replication/slot.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/ps_status.h"
#include "utils/snapmgr.h"

#include "flow/cdc_apply.h"
#include "source/wal.h"
#include "source/wal_wake.h"
#include "worker/scheduler.h"

/* Milliseconds: between looks at the clock; while commits wait for the disk. */
#define IDLE_WAIT  1000
#define FLUSH_WAIT 100

/* An error of a former process is forgotten when this one works for so long. */
#define STABLE_TIME (10 * USECS_PER_SEC)

static EtlCdcApplier *applier;
static EtlWalLink *pair = NULL;
static bool reload;			   /* the pipeline was changed */
static TimestampTz started_at; /* the reader was */

static void connect_as_owner(const EtlSharedApplier *entry);
static void set(const char *name, const char *value);
static ErrorData *follow(void);
static bool load(void);
static bool is_chained(void);
static void set_state(EtlCdcState state);
static void begin_stream(void);
static bool has_slot(void);
static bool is_reported(void);
static void name_source(void);
static void copy_tables(void);
static void apply(XLogRecPtr until);
static void throw_end(void);
static void stop_reader(void);
static void publish(void);
static void wait_for_changes(void);
static void serve_signals(void);
static bool give_up(ErrorData *error);

/* The main function; its argument is the number of the entry. */
void
etl_cdc_worker_main(Datum main_arg)
{
	EtlSharedApplier *entry;
	int64 pipeline_id;
	ErrorData *error;
	bool locked;

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	entry = etl_applier_attach(DatumGetInt32(main_arg));
	pipeline_id = entry->pipeline_id;
	BackgroundWorkerUnblockSignals();
	connect_as_owner(entry);

	StartTransactionCommand();
	locked = etl_cdc_lock(pipeline_id, true, false);
	CommitTransactionCommand();
	if (!locked)
		ereport(FATAL, (errcode(ERRCODE_OBJECT_IN_USE),
						errmsg("another process applies the pipeline")));

	applier = etl_cdc_applier_create(pipeline_id);
	do
	{
		MemoryContextSwitchTo(TopMemoryContext);
		error = follow();
	} while (error != NULL && !give_up(error));
	proc_exit(error == NULL ? 0 : 1);
}

/* ------------------------------------------------------------------ */
/* the session                                                          */

static void
set(const char *name, const char *value)
{
	SetConfigOption(name, value, PGC_SUSET, PGC_S_SESSION);
}

/*
 * The server checks that the role may log in, and may connect.  Functions of
 * users may set what they like while they run.
 */
static void
connect_as_owner(const EtlSharedApplier *entry)
{
	BackgroundWorkerInitializeConnectionByOid(entry->database, entry->role, 0);
	set("search_path", ETL_CDC_SEARCH_PATH);
	set("synchronous_commit", "off");
	/* whatever the database or the role has set */
	set("lock_timeout", "0");
	set("statement_timeout", "0");
	set("idle_in_transaction_session_timeout", "0");
	etl_no_transaction_timeout(PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SET);
	set("default_transaction_read_only", "off");
	set("default_transaction_isolation", "read committed");
	set("default_transaction_deferrable", "off");
	set("session_replication_role", "origin");
}

/* ------------------------------------------------------------------ */
/* the work                                                             */

/* Follow the source; NULL if the pipeline is not to run, else an error. */
static ErrorData *
follow(void)
{
	ErrorData *volatile error = NULL;

	PG_TRY();
	{
		bool is_wanted = load();

		while (is_wanted)
		{
			reload = false;
			begin_stream();
			copy_tables();
			apply(InvalidXLogRecPtr);
			stop_reader();
			is_wanted = load();
		}
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(TopMemoryContext);
		error = CopyErrorData();
		EmitErrorReport();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	return error;
}

/* Read the pipeline and its tables; false if it is not to run. */
static bool
load(void)
{
	bool is_wanted;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	is_wanted = etl_cdc_applier_load(applier);
	if (is_wanted)
	{
		char *name = psprintf("etl_patterns cdc: %s", applier->pipeline->name);

		set("application_name", name);
		set_ps_display(applier->pipeline->name);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(TopMemoryContext);
	etl_wal_wake_applier(is_chained());
	if (is_wanted && applier->pipeline->server == NULL)
		etl_cdc_wal_ended(applier, GetXLogInsertRecPtr());
	return is_wanted;
}

/* Does the pipeline follow a table that it writes itself? */
static bool
is_chained(void)
{
	ListCell *lc;
	ListCell *lc2;

	foreach(lc, applier->tables)
	{
		Oid target = ((EtlCdcFollowed *) lfirst(lc))->apply->target_relid;

		foreach(lc2, applier->tables)
		{
			const EtlCdcFollowed *other = lfirst(lc2);

			if (OidIsValid(target) && other->table->source_relid == target)
				return true;
		}
	}
	return false;
}

/* Write the state, unless it is that already or somebody has changed it. */
static void
set_state(EtlCdcState state)
{
	EtlCdcPipeline *pipeline;

	if (applier->pipeline->state == state)
		return;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	pipeline = etl_cdc_by_id(applier->pipeline_id, true);
	if (etl_cdc_is_wanted(pipeline) &&
		ItemPointerEquals(&pipeline->place, &applier->pipeline->place))
	{
		pipeline->state = state;
		etl_cdc_store_progress(applier, pipeline);
		applier->pipeline->state = state;
	}
	else
		reload = true;
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(TopMemoryContext);
}

/* The tables for the reader, each source once. */
static List *
tables_to_read(void)
{
	List *tables = NIL;
	ListCell *lc;

	foreach(lc, applier->tables)
	{
		const EtlCdcTable *row = ((EtlCdcFollowed *) lfirst(lc))->table;
		EtlWalTable *table = palloc0(sizeof(EtlWalTable));
		List *names;

		table->relid = row->source_relid;
		names = etl_qualified_names(row->source);
		table->name = strVal(llast(names));
		table->schema = list_length(names) > 1 ?
							strVal(list_nth(names, list_length(names) - 2)) :
							"public";
		tables = lappend(tables, table);
	}
	return tables;
}

/* Start the reader where the targets are, with a new slot if there is none. */
static void
begin_stream(void)
{
	const EtlCdcPipeline *pipeline = applier->pipeline;
	MemoryContext context = MemoryContextSwitchTo(applier->batch_context);
	EtlWalControl settings = {0};

	started_at = GetCurrentTimestamp();
	settings.database = MyDatabaseId;
	strlcpy(settings.slot_name, pipeline->slot_name, NAMEDATALEN);
	settings.is_remote = pipeline->server != NULL;
	if (settings.is_remote)
		strlcpy(settings.server, pipeline->server, NAMEDATALEN);
	settings.role = pipeline->role;
	settings.create_slot = !pipeline->has_slot;
	etl_applier_place(&settings.place, &settings.generation);
	settings.start = applier->applied;
	pair = etl_wal_link_start(&settings, tables_to_read());
	etl_applier_paired();
	MemoryContextSwitchTo(context);
	MemoryContextReset(applier->batch_context);

	while (!applier->pipeline->has_slot && !has_slot())
		wait_for_changes();
	while (settings.is_remote && !is_reported())
		wait_for_changes();
	if (settings.is_remote)
		name_source();
	etl_cdc_applier_follow(applier, etl_wal_link_changes(pair));
}

/* Is the new slot there?  Then it is written where the pipeline begins. */
static bool
has_slot(void)
{
	EtlWalControl *control = etl_wal_link_control(pair);
	EtlCdcPipeline *pipeline;
	XLogRecPtr consistent;

	SpinLockAcquire(&control->mutex);
	consistent = control->consistent;
	SpinLockRelease(&control->mutex);
	if (consistent == InvalidXLogRecPtr)
	{
		if (etl_wal_link_has_ended(pair))
			etl_wal_link_throw(pair);
		return false;
	}
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	pipeline = etl_cdc_by_id(applier->pipeline_id, true);
	if (etl_cdc_is_wanted(pipeline))
	{
		pipeline->has_slot = true;
		pipeline->applied = consistent;
		if (ItemPointerEquals(&pipeline->place, &applier->pipeline->place))
			etl_cdc_store_progress(applier, pipeline);
		else
			etl_cdc_update(pipeline);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(TopMemoryContext);
	applier->pipeline->has_slot = true;
	applier->applied = applier->saved = consistent;
	return true;
}

/* Does another server send what happens to the tables?  Copies rely on it. */
static bool
is_reported(void)
{
	EtlWalControl *control = etl_wal_link_control(pair);
	bool reports;

	SpinLockAcquire(&control->mutex);
	reports = control->reports;
	SpinLockRelease(&control->mutex);
	if (!reports && etl_wal_link_has_ended(pair))
		etl_wal_link_throw(pair);
	return reports;
}

/* Changes tell the name of the database that they come from. */
static void
name_source(void)
{
	static char name[NAMEDATALEN];
	ListCell *lc;

	strlcpy(name, etl_wal_link_control(pair)->source_db, NAMEDATALEN);
	applier->source_db = name;
	foreach(lc, applier->tables)
		((EtlCdcFollowed *) lfirst(lc))->apply->source_db = name;
}

/* Copy what is new. */
static void
copy_tables(void)
{
	bool is_new = false;
	ListCell *lc;

	foreach(lc, applier->tables)
		is_new |= ((EtlCdcFollowed *) lfirst(lc))->table->state ==
				  ETL_CDC_TABLE_NEW;
	set_state(is_new ? ETL_CDC_COPYING : ETL_CDC_RUNNING);
	while (is_new && !reload)
	{
		EtlCdcResult result;

		serve_signals();
		publish();
		result = etl_cdc_copy(applier);
		if (result == ETL_CDC_ENDED)
			throw_end();
		if (result == ETL_CDC_BEHIND)
			apply(applier->copy_after);
		is_new = result == ETL_CDC_DONE || result == ETL_CDC_BEHIND;
		reload |= result == ETL_CDC_CHANGED;
		pgstat_report_stat(false);
	}
	if (!reload)
		set_state(ETL_CDC_RUNNING);
}

/* What went wrong is not the fault of a change. */
static void
throw_end(void)
{
	etl_cdc_applier_abort(applier);
	etl_wal_link_throw(pair);
}

/*
 * Apply what comes, until the pipeline is to be read anew, or up to a position.
 */
static void
apply(XLogRecPtr until)
{
	while (!reload && (until == InvalidXLogRecPtr || applier->applied < until))
	{
		EtlCdcResult result;

		serve_signals();
		result = etl_cdc_apply(applier);
		if (result == ETL_CDC_ENDED)
			throw_end();
		reload |= result == ETL_CDC_CHANGED ||
				  !etl_cdc_save(applier,
								applier->pipeline->error_message != NULL &&
									GetCurrentTimestamp() >
										started_at + STABLE_TIME);
		publish();
		if (result == ETL_CDC_NOTHING && !reload)
			wait_for_changes();
	}
}

static void
stop_reader(void)
{
	EtlWalLink *old = pair;

	pair = NULL;
	if (old != NULL)
		etl_wal_link_stop(old);
}

/* Tell the reader and everybody else how far we are. */
static void
publish(void)
{
	EtlWalControl *control = etl_wal_link_control(pair);
	static EtlCdcProgress progress;
	XLogRecPtr flushed = etl_cdc_flushed(applier);

	if (flushed != InvalidXLogRecPtr)
		etl_wal_link_flushed(pair, flushed);
	SpinLockAcquire(&control->mutex);
	progress.wal_end = control->wal_end;
	progress.read = control->read;
	progress.flushed = control->flushed;
	progress.read_time = control->read_time;
	progress.reader = control->reader;
	SpinLockRelease(&control->mutex);
	progress.applied = applier->applied;
	if (progress.applied >= progress.read)
		progress.caught_up = progress.read_time;
	reload |= etl_applier_publish(&progress);
	if (control->is_remote && progress.wal_end != InvalidXLogRecPtr)
		etl_cdc_wal_ended(applier, progress.wal_end);
}

/* ------------------------------------------------------------------ */
/* waiting                                                              */

/* Until something comes, or it is time to look. */
static void
wait_for_changes(void)
{
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 applier->ncommits > 0 ? FLUSH_WAIT : IDLE_WAIT,
					 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	serve_signals();
}

static void
serve_signals(void)
{
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		bool named = etl_standbys_are_named();

		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		reload |= etl_standbys_are_named() != named; /* the slot depends on it */
	}
	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
}

/* ------------------------------------------------------------------ */
/* errors                                                               */

/* Somebody has to do something: the pipeline does not go on by itself. */
static void
tell_of_end(EtlCdcState state, const ErrorData *error)
{
	EtlCdcPipeline *pipeline = etl_cdc_by_id(applier->pipeline_id, false);

	if (pipeline != NULL && pipeline->state == state)
		etl_alert_pipeline(state == ETL_CDC_LOST ? ETL_ALERT_LOST :
												   ETL_ALERT_PAUSED,
						   pipeline, unpack_sql_state(error->sqlerrcode),
						   error->message);
}

/*
 * What an error means: false, try again at once, to find what is wrong.  Else
 * it is written into the row, and the process ends.
 */
static bool
give_up(ErrorData *error)
{
	EtlCdcState state = ETL_CDC_STARTING;
	bool is_ours = applier->doing != ETL_CDC_WAITS;
	bool searches = etl_cdc_search(applier, error);

	/* data that cannot be read will not be others the next time */
	applier->cannot_read = !is_ours && ERRCODE_TO_CATEGORY(error->sqlerrcode) ==
										   ERRCODE_DATA_EXCEPTION;
	etl_cdc_applier_abort(applier);
	if (pair != NULL && etl_wal_link_control(pair)->slot_lost)
		state = ETL_CDC_LOST;
	stop_reader();
	if (searches)
		return false;

	if (state != ETL_CDC_LOST && (is_ours || applier->cannot_read) &&
		etl_error_is_row_fault(error))
		state = ETL_CDC_PAUSED;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	etl_cdc_write_error(applier, error, state);
	if (state != ETL_CDC_STARTING)
		tell_of_end(state, error);
	if (state != ETL_CDC_STARTING)
		etl_tell_scheduler(ETL_NEWS_CDC, applier->pipeline_id);
	PopActiveSnapshot();
	CommitTransactionCommand();
	return true;
}
