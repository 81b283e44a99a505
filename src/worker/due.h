/*-------------------------------------------------------------------------
 *
 * due.h
 *	  What is due of a role's jobs, for a client that runs them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_DUE_H
#define ETL_DUE_H

#include "worker/job.h"

/* A run that waits and is due. */
typedef struct EtlDueRun
{
	int64 job_run_id;
	TimestampTz due_at;
	bool is_backfill;
} EtlDueRun;

/* Numbers of rows. */
typedef struct EtlIds
{
	int64 *ids;
	int n;
	int size;
} EtlIds;

typedef struct EtlDue
{
	MemoryContext context; /* all of this is */
	Oid role;
	TimestampTz now; /* slots up to this are claimed */
	EtlIds lost;	 /* runs whose process is gone */
	EtlIds late;	 /* runs that need an alert */
	EtlIds claims;	 /* jobs to look at */
	EtlDueRun *runs; /* in the order in which they are to be run */
	int nruns;
	int size;
} EtlDue;

/* in due.c */
extern EtlDue *etl_due_make(void);
extern void etl_due_find_runs(EtlDue *due);
extern void etl_due_find_jobs(EtlDue *due);
extern void etl_due_claim(const EtlDue *due, int64 job_id);

#endif /* ETL_DUE_H */
