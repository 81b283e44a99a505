/*-------------------------------------------------------------------------
 *
 * etl_patterns.h
 *	  What the whole extension knows of itself.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_PATTERNS_H
#define ETL_PATTERNS_H

/* The schema of the state tables; the functions live where the user says. */
#define ETL_SCHEMA "etl_patterns"

/* How merges reach their target: as seems best, or by SQL only. */
typedef enum EtlMergePath
{
	ETL_MERGE_PATH_AUTO,
	ETL_MERGE_PATH_GENERAL
} EtlMergePath;

/* How the bytes of CSV files are looked at. */
typedef enum EtlCsvScanWay
{
	ETL_CSV_SCAN_AUTO,
	ETL_CSV_SCAN_PORTABLE, /* with no special instructions */
	ETL_CSV_SCAN_NONE	   /* by the careful code only */
} EtlCsvScanWay;

/* in etl_patterns.c: settings */
extern int etl_merge_path;
extern int etl_csv_scan_way;
extern int etl_horizon_guard;	/* milliseconds */
extern int etl_bulk_piece_size; /* bytes */
extern bool etl_scheduler_enabled;
extern bool etl_superuser_jobs;
extern int etl_max_running_jobs;
extern int etl_worker_idle_timeout; /* milliseconds */
extern int etl_missed_after;		/* seconds */
extern int etl_cancel_grace;		/* seconds */
extern int etl_file_settle_time;	/* milliseconds */
extern int etl_job_history;			/* days; -1: for ever */
extern int etl_cdc_retained_limit;	/* megabytes; -1: none */
extern int etl_clock_offset;		/* seconds */
extern char *etl_logical_time;
extern char *etl_job_run_id_variable;
extern char *etl_event_payload;

#endif /* ETL_PATTERNS_H */
