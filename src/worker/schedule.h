/*-------------------------------------------------------------------------
 *
 * schedule.h
 *	  When a job runs: a schedule's text, and the slots that it has.
 *
 * A slot is the moment that a run is for.  It is a function of the schedule,
 * its start and nothing else: no clock, no catalog and no session setting is
 * read, so that a schedule has the same slots wherever and whenever it is
 * asked, with or without a transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_SCHEDULE_H
#define ETL_SCHEDULE_H

#include "datatype/timestamp.h"
#include "pgtime.h"

typedef enum EtlScheduleKind
{
	ETL_SCHEDULE_CRON,
	ETL_SCHEDULE_EVERY,
	ETL_SCHEDULE_AT,
	ETL_SCHEDULE_AFTER, /* no slots: another job's success */
	ETL_SCHEDULE_EVENT, /* no slots: a signal */
	ETL_SCHEDULE_FILE	/* no slots: a file that arrives */
} EtlScheduleKind;

/* In sets bit n is the value n. */
typedef struct EtlSchedule
{
	EtlScheduleKind kind;
	const pg_tz *timezone; /* lives as long as the process */

	/* cron */
	uint64 minutes;
	uint32 hours;
	uint32 days; /* of the month */
	bool last_day;
	uint16 months;
	uint8 weekdays;		 /* 0 is Sunday */
	uint8 last_weekdays; /* the last one of the month */
	bool both_days;	 /* day of month and of week must both hold, not either */
	bool fixed_time; /* neither minute nor hour begins with "*" */

	int64 interval;	  /* every: microseconds */
	TimestampTz at;	  /* at */
	const char *name; /* after, on: job, event or glob */
} EtlSchedule;

/* in schedule.c */
extern EtlSchedule *etl_schedule_parse(const char *text, const char *timezone);

/* in schedule_next.c */
extern bool etl_schedule_next(const EtlSchedule *schedule, TimestampTz start,
							  TimestampTz after, TimestampTz *slot);
extern bool etl_schedule_has_day(const EtlSchedule *schedule);
extern bool etl_schedule_instant(const pg_tz *timezone, int64 local,
								 int64 *instant);

#endif /* ETL_SCHEDULE_H */
