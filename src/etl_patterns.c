/*-------------------------------------------------------------------------
 *
 * etl_patterns.c
 *	  Module load.
 *
 * Settings, shared memory and worker registration belong here and nothing
 * else does; every pattern has a room of its own below src/.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "compat.h"
#include "etl_patterns.h"
#include "ledger/stat_runs.h"
#include "source/wal_wake.h"
#include "worker/shared.h"

PG_MODULE_MAGIC;

int etl_merge_path = ETL_MERGE_PATH_AUTO;
int etl_csv_scan_way = ETL_CSV_SCAN_AUTO;
int etl_horizon_guard = 100;
int etl_bulk_piece_size = 1024 * 1024;
bool etl_scheduler_enabled = true;
bool etl_superuser_jobs = true;
int etl_max_running_jobs = 32;
int etl_worker_idle_timeout = 2000;
int etl_missed_after = 60;
int etl_cancel_grace = 10;
int etl_file_settle_time = 5000;
int etl_job_history = 30;
int etl_cdc_retained_limit = 10240;
int etl_clock_offset = 0;
char *etl_logical_time;
char *etl_job_run_id_variable;
char *etl_event_payload;

static const struct config_enum_entry merge_path_options[] = {
	{"auto", ETL_MERGE_PATH_AUTO, false},
	{"general", ETL_MERGE_PATH_GENERAL, false},
	{NULL, 0, false},
};

static const struct config_enum_entry csv_scan_options[] = {
	{"auto", ETL_CSV_SCAN_AUTO, false},
	{"portable", ETL_CSV_SCAN_PORTABLE, false},
	{"none", ETL_CSV_SCAN_NONE, false},
	{NULL, 0, false},
};

void _PG_init(void);
static void define_job_settings(void);
static void define_job_variables(void);

/*
 * Define our settings, and reserve their prefix, so that a misspelt one is an
 * error instead of a setting that nobody reads.
 */
void
_PG_init(void)
{
	DefineCustomEnumVariable(ETL_SCHEMA ".merge_path",
							 "Sets how merges read and write their target.",
							 "\"auto\" goes straight to the heap where that is "
							 "possible, \"general\" uses SQL throughout.",
							 &etl_merge_path, ETL_MERGE_PATH_AUTO,
							 merge_path_options, PGC_USERSET, 0, NULL, NULL,
							 NULL);
	DefineCustomEnumVariable(ETL_SCHEMA ".csv_scan",
							 "Sets how the bytes of CSV files are looked at.",
							 "For tests: the records are the same.",
							 &etl_csv_scan_way, ETL_CSV_SCAN_AUTO,
							 csv_scan_options, PGC_USERSET, GUC_NOT_IN_SAMPLE,
							 NULL, NULL, NULL);
	DefineCustomIntVariable(ETL_SCHEMA ".horizon_guard",
							"Sets how old a row must be for a pull with safety "
							"'horizon' to read it while other sessions are "
							"connected.",
							"Covers the time between getting a statement and "
							"showing the start of its transaction.",
							&etl_horizon_guard, 100, 0, 60000, PGC_USERSET,
							GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable(ETL_SCHEMA ".bulk_piece_size",
							"Sets the size of the pieces into which the "
							"workers of a bulk load cut a file.",
							"For tests.", &etl_bulk_piece_size, 1024 * 1024, 16,
							INT_MAX, PGC_USERSET,
							GUC_UNIT_BYTE | GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
	define_job_settings();
	define_job_variables();
	MarkGUCPrefixReserved(ETL_SCHEMA);

	if (process_shared_preload_libraries_in_progress)
	{
		etl_stat_runs_init();
		etl_shared_init();
		etl_wal_wake_init();
		etl_database_hook_install();
		if (!IsBinaryUpgrade)
			etl_launcher_register();
	}
}

/* How jobs run. */
static void
define_job_settings(void)
{
	DefineCustomBoolVariable(ETL_SCHEMA ".scheduler",
							 "Runs jobs by the extension's own workers.", NULL,
							 &etl_scheduler_enabled, true, PGC_SIGHUP, 0, NULL,
							 NULL, NULL);
	DefineCustomBoolVariable(ETL_SCHEMA ".superuser_jobs",
							 "Runs jobs that belong to superusers.", NULL,
							 &etl_superuser_jobs, true, PGC_SIGHUP, 0, NULL,
							 NULL, NULL);
	DefineCustomIntVariable(ETL_SCHEMA ".max_running_jobs",
							"Sets how many jobs may run at once, in all "
							"databases.",
							"Each one also needs one of max_worker_processes.",
							&etl_max_running_jobs, 32, 1, 1000,
							process_shared_preload_libraries_in_progress ?
								PGC_POSTMASTER :
								PGC_SIGHUP,
							0, NULL, NULL, NULL);
	DefineCustomIntVariable(ETL_SCHEMA ".worker_idle_timeout",
							"Sets how long a worker waits for another run of "
							"the same role.",
							"0 gives each run a process of its own.",
							&etl_worker_idle_timeout, 2000, 0, 60000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable(ETL_SCHEMA ".missed_after",
							"Sets how late a slot must be for \"catchup\" to "
							"decide about it.",
							NULL, &etl_missed_after, 60, 1, 86400, PGC_USERSET,
							GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable(ETL_SCHEMA ".cancel_grace",
							"Sets how long a run that was canceled may take to "
							"end before its process is terminated.",
							NULL, &etl_cancel_grace, 10, 0, 3600, PGC_SIGHUP,
							GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable(ETL_SCHEMA ".file_settle_time",
							"Sets how long a file's size and time must stay "
							"the same for it to have arrived.",
							NULL, &etl_file_settle_time, 5000, 0, 86400000,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable(ETL_SCHEMA ".job_history",
							"Sets how many days runs that have ended are kept.",
							"-1 keeps them for ever.", &etl_job_history, 30, -1,
							36500, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(ETL_SCHEMA ".cdc_retained_limit",
							"Sets how much WAL the replication slot of a "
							"pipeline may keep before there is an alert.",
							"-1 allows all.", &etl_cdc_retained_limit, 10240,
							-1, MAX_KILOBYTES, PGC_SIGHUP, GUC_UNIT_MB, NULL,
							NULL, NULL);
	DefineCustomIntVariable(ETL_SCHEMA ".clock_offset",
							"Sets the clock of jobs so many seconds ahead.",
							"For tests.", &etl_clock_offset, 0, INT_MIN,
							INT_MAX, PGC_SUSET, GUC_UNIT_S | GUC_NOT_IN_SAMPLE,
							NULL, NULL, NULL);
}

/*
 * What a command can ask about the run that it is.  Anybody may set these, to
 * try a command by hand.
 */
static void
define_job_variables(void)
{
	DefineCustomStringVariable(ETL_SCHEMA ".logical_time",
							   "Shows the slot that a job runs for.", NULL,
							   &etl_logical_time, "", PGC_USERSET,
							   GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE, NULL,
							   NULL, NULL);
	DefineCustomStringVariable(ETL_SCHEMA ".job_run_id",
							   "Shows the number of the run.", NULL,
							   &etl_job_run_id_variable, "", PGC_USERSET,
							   GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE, NULL,
							   NULL, NULL);
	DefineCustomStringVariable(ETL_SCHEMA ".event_payload",
							   "Shows what came with the event that a job "
							   "runs for: a file's name, for example.",
							   NULL, &etl_event_payload, "", PGC_USERSET,
							   GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE, NULL,
							   NULL, NULL);
}
