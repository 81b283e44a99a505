/*-------------------------------------------------------------------------
 *
 * job_check.h
 *	  What must hold of a job before it is stored.
 *
 * All of these throw, with the parameter, the reason and a way out.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_JOB_CHECK_H
#define ETL_JOB_CHECK_H

#include "worker/job.h"

/* Names of jobs and of events have no more bytes than this. */
#define ETL_MAX_JOB_NAME 200

/* in job_check.c */
extern void etl_job_check_name(const char *name, const char *parameter);
extern void etl_job_lock_name(const char *name);
extern void etl_job_check_new_name(const char *name);
extern void etl_job_check_command(const char *command);
extern void etl_job_check_interval(const Interval *interval,
								   const char *parameter);
extern void etl_job_check_max_attempts(int max_attempts);
extern void etl_job_check_owner(const EtlJob *job);
extern void etl_job_check_armed(void);
extern void etl_job_check_not_broken(const EtlJob *job);
extern void etl_job_check_schedule(EtlJob *job);
extern void etl_job_lock_chains(void);
extern void etl_job_lock_references(int64 job_id, LOCKMODE lockmode);

#endif /* ETL_JOB_CHECK_H */
