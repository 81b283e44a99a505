/*-------------------------------------------------------------------------
 *
 * job.h
 *	  Jobs, their slots and their runs: what is stored of them, and how that
 *	  may change.
 *
 * A slot is a moment that a job is to run for.  Each slot becomes a row of
 * etl_patterns.job_run, one per attempt, or one that says why it was skipped.
 * An attempt is waiting, then running, then has ended.  All changes are made
 * here, whoever asks for them: the scheduler, a worker, CALL
 * etl_run_due_jobs(), or a user's function.  They rest on three things:
 *
 * - The row of the job is locked while slots are claimed, so that each slot is
 *	 claimed once.
 * - Who runs an attempt holds a lock on its number (etl_job_run_lock) for as
 *	 long as the session lives.  A row that says "running" while nobody holds
 *	 that lock belongs to a process that is gone: the run is lost.  The lock
 *	 goes with the process, the server, and a failover.
 * - Who runs an attempt of a job that must not overlap holds a lock on the job
 *	 likewise.
 *
 * The end of a run that succeeds is written in the transaction of its command.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_JOB_H
#define ETL_JOB_H

#include "ledger/ledger.h"
#include "nodes/lockoptions.h"
#include "nodes/pg_list.h"
#include "storage/lock.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"
#include "flow/cdc.h"
#include "worker/schedule.h"
#include "worker/shared.h"

/* The words of these are in job_table.c and job_run_table.c, in this order. */
typedef enum EtlJobState
{
	ETL_JOB_ACTIVE,
	ETL_JOB_PAUSED,
	ETL_JOB_BROKEN, /* cannot run; reason says why */
	ETL_JOB_DONE	/* "at": its only slot was claimed */
} EtlJobState;

typedef enum EtlOverlap
{
	ETL_OVERLAP_FORBID,
	ETL_OVERLAP_QUEUE,
	ETL_OVERLAP_REPLACE,
	ETL_OVERLAP_ALLOW
} EtlOverlap;

typedef enum EtlCatchup
{
	ETL_CATCHUP_SKIP,
	ETL_CATCHUP_ONCE,
	ETL_CATCHUP_ALL
} EtlCatchup;

typedef enum EtlRunOrigin
{
	ETL_ORIGIN_SCHEDULE,
	ETL_ORIGIN_MANUAL,
	ETL_ORIGIN_BACKFILL,
	ETL_ORIGIN_AFTER,
	ETL_ORIGIN_EVENT,
	ETL_ORIGIN_FILE
} EtlRunOrigin;

typedef enum EtlRunStatus
{
	ETL_RUN_WAITING,
	ETL_RUN_RUNNING,
	ETL_RUN_SUCCEEDED,
	ETL_RUN_FAILED,
	ETL_RUN_SKIPPED,
	ETL_RUN_LOST,
	ETL_RUN_STOPPED
} EtlRunStatus;

/* One row of etl_patterns.job.  Times that are not known are 0. */
typedef struct EtlJob
{
	int64 job_id;
	const char *name;
	Oid role;
	const char *schedule;
	const char *timezone;
	const char *command;
	bool has_new_command; /* it is to be stored with an update */
	EtlOverlap overlap;
	EtlCatchup catchup;
	int max_attempts;
	Interval retry_delay;
	Interval retry_max_delay;
	bool has_timeout;
	Interval timeout;
	bool has_alert_after;
	Interval alert_after;
	TimestampTz start_at; /* DT_NOBEGIN: none */
	EtlJobState state;
	const char *reason;
	TimestampTz next_slot; /* the first one that is not claimed */
	int64 after_job;	   /* 0: none */
	const char *event;	   /* of "on <event>" */
	TimestampTz failing_since;
	TimestampTz created_at;
	TimestampTz altered_at;
	ArrayType *purged_runs; /* by status: runs that history no longer has */
	ItemPointerData place;
} EtlJob;

/* One row of etl_patterns.job_run.  Likewise. */
typedef struct EtlJobRun
{
	int64 job_run_id;
	int64 job_id;
	const char *job;
	Oid role;
	TimestampTz slot;
	int attempt;
	EtlRunOrigin origin;
	EtlRunStatus status;
	const char *reason;
	TimestampTz due_at; /* waiting: not to be started before */
	TimestampTz started_at;
	TimestampTz finished_at;
	int pid;
	TimestampTz backend_start;
	const char *payload;
	const char *error_code;
	const char *error_message;
	const char *error_detail;
	const char *error_context;
	TimestampTz first_slot; /* skipped: of more than one slot */
	int64 slots;
	TimestampTz alerted_at;
	ItemPointerData place;
} EtlJobRun;

/*
 * How a row is read: as it is, or locked for update, waiting or not.  In a
 * process that must not wait for others the second is an error if somebody
 * holds the row (etl_job_rows_nowait).
 */
typedef enum EtlRowLock
{
	ETL_ROW_READ,
	ETL_ROW_LOCK,
	ETL_ROW_LOCK_SKIP /* as if there were none, if somebody holds it */
} EtlRowLock;

/* ------------------------------------------------------------------ */
/* in job_table.c                                                       */

extern const char *const etl_job_state_words[];
extern const char *const etl_overlap_words[];
extern const char *const etl_catchup_words[];

typedef struct EtlJobScan EtlJobScan;

extern Snapshot etl_job_snapshot(void);
extern void etl_job_snapshot_end(Snapshot snapshot);

extern void etl_job_rows_nowait(bool nowait);
extern HeapTuple etl_job_lock_row(Relation rel, HeapTuple tuple,
								  EtlRowLock lock);
extern EtlJob *etl_job_by_id(int64 job_id, EtlRowLock lock);
extern EtlJob *etl_job_by_name(const char *name, EtlRowLock lock);
extern EtlJob *etl_job_of_caller(const char *name, EtlRowLock lock);
extern EtlJobScan *etl_job_scan_all(void);
extern EtlJobScan *etl_job_scan_event(const char *event);
extern EtlJobScan *etl_job_scan_after(int64 job_id);
extern EtlJob *etl_job_scan_next(EtlJobScan *scan);
extern void etl_job_scan_end(EtlJobScan *scan);
extern void etl_job_insert(EtlJob *job);
extern void etl_job_update(EtlJob *job);
extern void etl_job_delete(EtlJob *job);
extern EtlSchedule *etl_job_schedule(const EtlJob *job);
extern int64 etl_interval_usec(const Interval *interval);

/* ------------------------------------------------------------------ */
/* in job_run_table.c                                                   */

extern const char *const etl_origin_words[];
extern const char *const etl_run_status_words[];

typedef struct EtlJobRunScan EtlJobRunScan;

extern EtlJobRun *etl_job_run_by_id(int64 job_run_id, EtlRowLock lock);
extern EtlJobRun *etl_job_run_again(const EtlJobRun *seen);
extern EtlJobRunScan *etl_job_run_scan_unfinished(void);
extern EtlJobRunScan *etl_job_run_scan_unfinished_of(int64 job_id);
extern EtlJobRunScan *etl_job_run_scan_unfinished_from(int64 job_id,
													   EtlRunOrigin first,
													   EtlRunOrigin last);
extern bool etl_job_run_exists(int64 job_id, TimestampTz slot);
extern EtlJobRunScan *etl_job_run_scan_job(int64 job_id);
extern EtlJobRunScan *etl_job_run_scan_slots(int64 job_id, TimestampTz from,
											 TimestampTz to);
extern EtlJobRunScan *etl_job_run_scan_finished(TimestampTz from,
												TimestampTz before);
extern EtlJobRun *etl_job_run_scan_next(EtlJobRunScan *scan);
extern EtlJobRun *etl_job_run_scan_previous(EtlJobRunScan *scan);
extern void etl_job_run_scan_end(EtlJobRunScan *scan);
extern EtlJobRun *etl_job_run_make(const EtlJob *job, EtlRunOrigin origin,
								   TimestampTz slot);
extern void etl_job_run_insert(EtlJobRun *run);
extern void etl_job_run_update(EtlJobRun *run);
extern void etl_job_run_delete(EtlJobRun *run);

/* ------------------------------------------------------------------ */
/* in claim.c: from slots to runs                                       */

extern TimestampTz etl_job_now(void);
extern bool etl_job_set_next_slot(EtlJob *job, TimestampTz after);
extern List *etl_job_claim(EtlJob *job, TimestampTz now);
extern EtlJobRun *etl_job_trigger(const EtlJob *job, EtlRunOrigin origin,
								  TimestampTz slot, const char *payload);
extern bool etl_job_may_trigger(Oid who, const EtlJob *job);
extern const char *etl_role_cannot_run(Oid role);
extern const char *etl_job_cannot_run(const EtlJob *job);
extern void etl_job_break(EtlJob *job, const char *reason);

/* ------------------------------------------------------------------ */
/* in arm.c                                                             */

typedef enum EtlArmed
{
	ETL_ARMED_NOWHERE, /* there has not been a job yet */
	ETL_ARMED_ELSEWHERE,
	ETL_ARMED_HERE
} EtlArmed;

extern EtlArmed etl_jobs_armed(void);
extern bool etl_jobs_are_armed(void);
extern void etl_jobs_arm(void);

/* ------------------------------------------------------------------ */
/* in run_state.c: from waiting to the end                              */

typedef enum EtlRunBegin
{
	ETL_BEGIN_OK,
	ETL_BEGIN_BUSY, /* another run of the job must end first */
	ETL_BEGIN_GONE	/* is not waiting any more, or its job is gone */
} EtlRunBegin;

/*
 * A lock that a session has whatever its commands do: an abort, which a
 * procedure may ask for, takes away the one, pg_advisory_unlock_all() the
 * other.  Who has either has the lock.
 */
typedef struct EtlStayingLock
{
	LOCKTAG object;
	LOCKTAG advisory;
} EtlStayingLock;

/* An attempt that this process runs, and the locks that say so. */
typedef struct EtlActiveRun
{
	EtlJob *job;
	EtlJobRun *run;
	EtlStayingLock run_lock;
	EtlStayingLock job_lock;
	bool run_locked;
	bool job_locked;
} EtlActiveRun;

extern EtlRunBegin etl_run_begin(EtlActiveRun *active, int64 job_run_id);
extern void etl_run_set_variables(const EtlActiveRun *active);
extern void etl_run_succeed(const EtlActiveRun *active);
extern void etl_run_fail(const EtlActiveRun *active, const ErrorData *error,
						 bool timed_out);
extern void etl_run_unlock(EtlActiveRun *active);
extern bool etl_run_is_lost(int64 job_run_id);
extern bool etl_run_mark_lost(int64 job_run_id, const char *reason,
							  bool timed_out);
extern bool etl_run_mark_stopped(int64 job_run_id, EtlEnding ending);
extern bool etl_run_stop_waiting(int64 job_run_id, const char *reason);
extern bool etl_run_skip_one(int64 job_run_id, const char *reason);
extern int etl_run_pid(int64 job_run_id);
extern bool etl_run_cancel(int64 job_run_id, EtlEnding ending);
extern void etl_run_skip_waiting(int64 job_id, const char *reason);
extern void etl_run_skip_unfinished(const char *reason);

/* ------------------------------------------------------------------ */
/* in retry.c                                                           */

extern bool etl_error_is_retried(int sqlerrcode);
extern int64 etl_retry_delay(const EtlJob *job, int attempt);

/* ------------------------------------------------------------------ */
/* in alert.c                                                           */

/* The words are in alert.c, in this order. */
typedef enum EtlAlertKind
{
	ETL_ALERT_FAILED,
	ETL_ALERT_STILL_RUNNING,
	ETL_ALERT_NEVER_STARTED,
	ETL_ALERT_BROKEN,
	ETL_ALERT_RECOVERED,
	ETL_ALERT_PAUSED,
	ETL_ALERT_LOST,
	ETL_ALERT_SLOT_RETAINED
} EtlAlertKind;

extern void etl_alert(EtlAlertKind kind, const EtlJob *job, const EtlJobRun *run,
					  const char *error_code, const char *message);
extern void etl_alert_pipeline(EtlAlertKind kind, const EtlCdcPipeline *pipeline,
							   const char *error_code, const char *message);
extern TimestampTz etl_alert_due(const EtlJob *job, const EtlJobRun *run);
extern bool etl_alert_late(int64 job_run_id, TimestampTz now);
extern void etl_alert_purge(TimestampTz before, int64 job_id, bool only_ours);

/* ------------------------------------------------------------------ */
/* in file_event.c                                                      */

extern void etl_files_poll(EtlJob *job, TimestampTz now);
extern void etl_files_forget(int64 job_id);

/* ------------------------------------------------------------------ */
/* in history.c                                                         */

extern bool etl_history_purge(TimestampTz *from, TimestampTz before,
							  int64 limit);

#endif /* ETL_JOB_H */
