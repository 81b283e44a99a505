/*-------------------------------------------------------------------------
 *
 * scheduler.h
 *	  What a scheduler knows, and how it hands runs to workers.
 *
 * Only for scheduler.c, scheduler_known.c, scheduler_work.c, scheduler_cdc.c,
 * dispatch.c, job_worker.c and cdc_worker.c.
 *
 * A scheduler keeps in memory what it needs to know when to wake up and what
 * to do next: a few numbers of each job and of each run that has not ended.
 * It is a copy: what counts is in the state tables, and it is read anew after
 * any error.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_SCHEDULER_H
#define ETL_SCHEDULER_H

#include "postgres.h"

#include "lib/ilist.h"
#include "lib/pairingheap.h"
#include "worker/job.h"

typedef struct EtlKnownRun EtlKnownRun;

/* A job that a scheduler knows. */
typedef struct EtlKnownJob
{
	int64 job_id; /* key */
	EtlOverlap overlap;
	EtlJobState state;
	int64 timeout; /* microseconds; 0: none */
	bool has_alert_after;
	Interval alert_after;
	TimestampTz next_slot;
	TimestampTz claim_at; /* when to claim it; 0: not by the clock */
	pairingheap_node claim_node;
	bool is_on_file;
	dlist_node file_node;

	/* its runs that wait and may be begun, and those that may not */
	pairingheap waiting;
	pairingheap backfill; /* after all others */
	dlist_head parked;
	EtlKnownRun *offered; /* the one that is ready, unless runs may overlap */
	int nactive;		  /* runs that run or were handed out */
} EtlKnownJob;

/* Where a run that waits is kept. */
typedef enum EtlRunPlace
{
	ETL_PLACE_NONE,
	ETL_PLACE_WAITING,
	ETL_PLACE_BACKFILL,
	ETL_PLACE_PARKED
} EtlRunPlace;

/* A run that has not ended. */
struct EtlKnownRun
{
	int64 job_run_id; /* key */
	EtlKnownJob *job; /* NULL: dropped */
	Oid role;
	EtlRunOrigin origin;
	EtlRunStatus status; /* waiting or running */
	TimestampTz due_at;
	TimestampTz started_at;
	TimestampTz ready_at; /* waiting: not to be handed out before */
	int slot;			  /* of the worker that has it; -1: none of ours */
	int deaths;			  /* of workers, before they began it */
	int refusals;		  /* by workers, since another run had to end first */
	EtlEnding ending;	  /* why its process is being ended */
	bool is_active;		  /* counted in the job's nactive */
	bool is_ready;		  /* in the queue */
	bool is_starved;	  /* no worker was to be had, and that was written */

	EtlRunPlace place;
	union
	{
		pairingheap_node job_node;
		dlist_node parked_node;
	};
	pairingheap_node ready_node;

	/* when to look at it again; 0: never */
	TimestampTz starved_at;
	TimestampTz alert_at;
	TimestampTz terminate_at;
	TimestampTz deadline; /* the first of them, in the heap */
	pairingheap_node deadline_node;

	dlist_node foreign_node; /* runs in a process that is not our worker */
	bool is_foreign;
};

/* ------------------------------------------------------------------ */
/* in scheduler_known.c                                                 */

extern void etl_known_reset(void);
extern EtlKnownJob *etl_known_job(int64 job_id);
extern void etl_known_job_set(const EtlJob *job);
extern void etl_known_job_forget(int64 job_id);
extern void etl_known_claim_at(EtlKnownJob *job, TimestampTz when);
extern EtlKnownJob *etl_known_next_claim(void);
extern EtlKnownRun *etl_known_run(int64 job_run_id);
extern void etl_known_run_set(const EtlJobRun *run);
extern void etl_known_run_forget(int64 job_run_id);
extern void etl_known_hand_out(EtlKnownRun *run, int slot);
extern void etl_known_returned(EtlKnownRun *run);
extern void etl_known_delay(EtlKnownRun *run, TimestampTz ready_at);
extern EtlKnownRun *etl_known_next_ready(void);
extern void etl_known_set_aside(EtlKnownRun *run);
extern void etl_known_put_back(EtlKnownRun *run);
extern EtlKnownRun *etl_known_next_deadline(void);
extern void etl_known_set_deadline(EtlKnownRun *run);
extern int64 etl_known_active_jobs(void);
extern int64 etl_known_runs(void);
extern int64 etl_known_due_runs(TimestampTz now);
extern dlist_head *etl_known_file_jobs(void);
extern dlist_head *etl_known_foreign_runs(void);

/* ------------------------------------------------------------------ */
/* in scheduler.c: its main function is in shared.h                     */

extern ErrorData *etl_scheduler_try(void (*work)(void *), void *arg);
extern void etl_scheduler_report(const ErrorData *error, const char *what);
extern void etl_scheduler_read_job(int64 job_id);
extern void etl_scheduler_read_run(int64 job_run_id);
extern void etl_scheduler_serve_workers(void);

/* ------------------------------------------------------------------ */
/* in scheduler_work.c                                                  */

extern bool etl_work_claim(TimestampTz now);
extern void etl_work_returned(int64 job_run_id, bool worker_is_gone,
							  bool declined, EtlEnding ending);
extern void etl_work_foreign(void);
extern int64 etl_work_deadlines(TimestampTz now, bool is_on);
extern void etl_work_files(TimestampTz now);
extern bool etl_work_purge(void);

/* ------------------------------------------------------------------ */
/* in dispatch.c                                                        */

/* A run that a worker of ours has no more. */
typedef struct EtlReturned
{
	int64 job_run_id;
	bool worker_is_gone;
	bool declined;	  /* the worker had a reason not to begin it */
	EtlEnding ending; /* of the run */
} EtlReturned;

extern void etl_dispatch_init(void);
extern void etl_dispatch_adopt(void);
extern List *etl_dispatch_look(List *returned);
extern void etl_dispatch(TimestampTz now);
extern TimestampTz etl_dispatch_retry_at(void);
extern void etl_dispatch_terminate(EtlKnownRun *run, TimestampTz now);
extern void etl_dispatch_dismiss(void);
extern void etl_dispatch_complain(int64 nruns);

/* ------------------------------------------------------------------ */
/* in scheduler_cdc.c: the first two in a transaction                   */

extern void etl_pipelines_load(void);
extern void etl_pipeline_read(int64 pipeline_id);
extern void etl_pipelines_serve(bool is_on);
extern long etl_pipelines_wait(bool is_on);
extern void etl_pipelines_dismiss(void);

/* ------------------------------------------------------------------ */
/* in cdc_status.c                                                      */

extern void etl_pipelines_watch_slots(void);

/* ------------------------------------------------------------------ */
/* in cdc_worker.c                                                      */

extern PGDLLEXPORT void etl_cdc_worker_main(Datum main_arg);

/* ------------------------------------------------------------------ */
/* in job_worker.c                                                      */

extern PGDLLEXPORT void etl_job_worker_main(Datum main_arg);

#endif /* ETL_SCHEDULER_H */
