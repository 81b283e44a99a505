/*-------------------------------------------------------------------------
 *
 * schedule_next.c
 *	  The slots of a schedule.
 *
 * A cron schedule names local times.  What they are in real time is worked out
 * period by period: from one change of the zone's offset to the next, local
 * time is real time plus a constant, and the next local time that matches is
 * found field by field: months that do not match are stepped over whole, and
 * of a day that does the hour and minute are read off bit sets.
 *
 * Where the offset changes, the rules are those of Vixie cron:
 *
 * - A schedule of fixed times (neither minute nor hour begins with "*") has one
 *	 slot for each local time that it names.  A time that the clock jumps over
 *	 has its slot at the end of the gap; of a time that comes twice the first
 *	 counts.
 * - Any other follows elapsed time: it has a slot whenever a clock on the wall
 *	 shows a time that matches, however often that is.
 *
 * Slots that fall on the same moment are one.  Every loop ends: the search
 * goes SEARCH_YEARS far, and each step leads to a later day or period.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "flow/flow.h"
#include "worker/schedule.h"

PG_FUNCTION_INFO_V1(etl_schedule_next_runs);

/*
 * The rarest days are those of 29 February on one day of the week, up to 40
 * years apart.
 */
#define SEARCH_YEARS 100

/* The offset of a zone changes by less than two days. */
#define LONGEST_CHANGE (2 * (int64) SECS_PER_DAY)

/* Seconds from 1970, where the zones count from, to PostgreSQL's epoch. */
#define EPOCH_SECONDS \
	((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * (int64) SECS_PER_DAY)

/*
 * A time between two changes of a zone's offset.  All times here are in
 * seconds since 1970; local ones, too, as if the zone were UTC.
 */
typedef struct Period
{
	int64 begin;
	int64 end; /* not included; PG_INT64_MAX in the last one */
	int64 offset;
} Period;

/* Division that rounds down, for times before 1970 as well. */
static inline int64
floor_div(int64 dividend, int64 divisor)
{
	int64 quotient = dividend / divisor;

	return (dividend % divisor < 0) ? quotient - 1 : quotient;
}

/* The part of the period that instant is in, from there on. */
static bool
period_at(Period *period, const pg_tz *timezone, int64 instant)
{
	pg_time_t time = instant;
	pg_time_t boundary;
	long int offset;
	long int next_offset;
	int is_dst;
	int next_is_dst;
	int found;

	found = pg_next_dst_boundary(&time, &offset, &is_dst, &boundary,
								 &next_offset, &next_is_dst, timezone);
	if (found < 0)
		return false;
	period->begin = instant;
	period->end = found > 0 ? boundary : PG_INT64_MAX;
	period->offset = offset;
	return true;
}

/* The local time at which a period ends. */
static inline int64
local_end(const Period *period)
{
	return period->end == PG_INT64_MAX ? PG_INT64_MAX :
										 period->end + period->offset;
}

/* ------------------------------------------------------------------ */
/* local times that match                                               */

/* Does the schedule mean this day of a month that it means? */
static bool
day_matches(const EtlSchedule *schedule, int day, int month_days, int weekday)
{
	bool day_ok = (schedule->days >> day & 1) ||
				  (schedule->last_day && day == month_days);
	bool weekday_ok = (schedule->weekdays >> weekday & 1) ||
					  ((schedule->last_weekdays >> weekday & 1) &&
					   day > month_days - 7);

	return schedule->both_days ? day_ok && weekday_ok : day_ok || weekday_ok;
}

/*
 * The first minute of a matching day from the given one on, or -1.  Minutes
 * are counted from midnight.
 */
static int
minute_of_day(const EtlSchedule *schedule, int from)
{
	int hour = from / MINS_PER_HOUR;
	uint64 minutes = schedule->minutes >> (from % MINS_PER_HOUR)
											  << (from % MINS_PER_HOUR);
	uint32 hours;

	if ((schedule->hours >> hour & 1) && minutes != 0)
		return hour * MINS_PER_HOUR + pg_rightmost_one_pos64(minutes);
	hours = schedule->hours & ~((UINT64CONST(2) << hour) - 1);
	if (hours == 0)
		return -1;
	return pg_rightmost_one_pos32(hours) * MINS_PER_HOUR +
		   pg_rightmost_one_pos64(schedule->minutes);
}

/* The first local time in [from, to) that matches. */
static bool
find_local(const EtlSchedule *schedule, int64 from, int64 to, int64 *local)
{
	int64 minutes = floor_div(from + SECS_PER_MINUTE - 1, SECS_PER_MINUTE);
	int64 days = floor_div(minutes, MINS_PER_HOUR * HOURS_PER_DAY);
	int minute = minutes - days * MINS_PER_HOUR * HOURS_PER_DAY;
	int julian = days + UNIX_EPOCH_JDATE;
	int year;
	int month;
	int day;

	j2date(julian, &year, &month, &day);
	while (days * SECS_PER_DAY < to)
	{
		int month_days = day_tab[isleap(year)][month - 1];
		bool month_ok = schedule->months >> month & 1;

		if (month_ok && day_matches(schedule, day, month_days, j2day(julian)))
		{
			minute = minute_of_day(schedule, minute);
			if (minute >= 0)
			{
				*local = days * SECS_PER_DAY + minute * SECS_PER_MINUTE;
				return *local < to;
			}
		}
		minute = 0;
		day = month_ok ? day + 1 : month_days + 1;
		if (day > month_days)
		{
			day = 1;
			month = month % MONTHS_PER_YEAR + 1;
			if (month == 1)
				year++;
			julian = date2j(year, month, day);
		}
		else
			julian++;
		days = julian - UNIX_EPOCH_JDATE;
	}
	return false;
}

/*
 * Does a cron schedule mean any day at all?  Among any 28 years from 1901 to
 * 2099 are all the calendars that there are.
 */
bool
etl_schedule_has_day(const EtlSchedule *schedule)
{
	int64 begin = EPOCH_SECONDS;
	int64 end = (date2j(2028, 1, 1) - UNIX_EPOCH_JDATE) * (int64) SECS_PER_DAY;
	int64 local;

	return find_local(schedule, begin, end, &local);
}

/* ------------------------------------------------------------------ */
/* slots                                                                */

/*
 * The slot of a schedule of fixed times in a period, if it has one: its first
 * local time that was not there before.  seen is where local time has got to
 * in the periods before.
 */
static bool
fixed_slot(const EtlSchedule *schedule, const Period *period, int64 seen,
		   int64 first, int64 *slot)
{
	int64 local_begin = period->begin + period->offset;
	int64 from = Max(seen, first + period->offset);
	int64 local;

	if (period->begin >= first && seen < local_begin &&
		find_local(schedule, seen, local_begin, &local))
	{
		*slot = period->begin;
		return true;
	}
	if (!find_local(schedule, Max(from, local_begin), local_end(period), &local))
		return false;
	*slot = local - period->offset;
	return true;
}

/* The first slot of a cron schedule at or after a moment, up to another. */
static bool
cron_slot(const EtlSchedule *schedule, int64 first, int64 last, int64 *slot)
{
	Period period;
	int64 seen;

	/*
	 * What was seen and what was jumped over depends on the changes before;
	 * those that far back have no effect any more.
	 */
	if (!period_at(&period, schedule->timezone, first - LONGEST_CHANGE))
		return false;
	seen = period.begin + period.offset;
	for (;;)
	{
		Period part = period;

		part.end = Min(part.end, last);
		if (part.end > first)
		{
			if (schedule->fixed_time)
			{
				if (fixed_slot(schedule, &part, seen, first, slot))
					return true;
			}
			else if (find_local(schedule, Max(first, part.begin) + part.offset,
								local_end(&part), slot))
			{
				*slot -= part.offset;
				return true;
			}
		}
		if (period.end >= last)
			return false;
		seen = Max(seen, local_end(&period));
		if (!period_at(&period, schedule->timezone, period.end))
			return false;
	}
}

/*
 * The moment of a local time: the first if it comes twice, the end of the gap
 * if it is jumped over.
 */
bool
etl_schedule_instant(const pg_tz *timezone, int64 local, int64 *instant)
{
	Period period;

	if (!period_at(&period, timezone, local - LONGEST_CHANGE))
		return false;
	while (local_end(&period) <= local)
	{
		if (!period_at(&period, timezone, period.end))
			return false;
	}
	*instant = Max(local - period.offset, period.begin);
	return true;
}

/* The first slot of a cron schedule after a moment. */
static bool
cron_next(const EtlSchedule *schedule, TimestampTz after, TimestampTz *slot)
{
	int64 first;
	int64 last;
	int64 found;

	/* The calendar's own first days are not asked for. */
	after = Max(after, MIN_TIMESTAMP + 4 * USECS_PER_DAY);
	first = floor_div(after, USECS_PER_SEC) + 1 + EPOCH_SECONDS;
	last = Min(first + SEARCH_YEARS * 366 * (int64) SECS_PER_DAY,
			   END_TIMESTAMP / USECS_PER_SEC + EPOCH_SECONDS);
	if (first >= last || !cron_slot(schedule, first, last, &found))
		return false;
	*slot = (found - EPOCH_SECONDS) * USECS_PER_SEC;
	return true;
}

/* The first moment after another that is a multiple of the interval away. */
static bool
every_next(const EtlSchedule *schedule, TimestampTz start, TimestampTz after,
		   TimestampTz *slot)
{
	int64 elapsed;
	int64 distance;

	if (TIMESTAMP_NOT_FINITE(start))
		start = -EPOCH_SECONDS * USECS_PER_SEC;
	start %= schedule->interval; /* as good, and far from all limits */
	after = Max(after, MIN_TIMESTAMP - 1);
	if (pg_sub_s64_overflow(after, start, &elapsed))
		return false;
	elapsed = floor_div(elapsed, schedule->interval) + 1;
	return !pg_mul_s64_overflow(elapsed, schedule->interval, &distance) &&
		   !pg_add_s64_overflow(start, distance, slot) &&
		   IS_VALID_TIMESTAMP(*slot);
}

/*
 * The first slot after a moment, or false if there is none: the schedule has
 * no slots, or none any more.
 *
 * A schedule has no slots before its start, and "every" counts from there;
 * start is -infinity if it has none, which makes "every" count from 1970.
 */
bool
etl_schedule_next(const EtlSchedule *schedule, TimestampTz start,
				  TimestampTz after, TimestampTz *slot)
{
	if (TIMESTAMP_IS_NOEND(start) || TIMESTAMP_IS_NOEND(after))
		return false;
	if (!TIMESTAMP_IS_NOBEGIN(start) && after < start)
		after = start - 1;

	switch (schedule->kind)
	{
		case ETL_SCHEDULE_CRON:
			return cron_next(schedule, after, slot);
		case ETL_SCHEDULE_EVERY:
			return every_next(schedule, start, after, slot);
		case ETL_SCHEDULE_AT:
			*slot = schedule->at;
			return schedule->at > after;
		case ETL_SCHEDULE_AFTER:
		case ETL_SCHEDULE_EVENT:
		case ETL_SCHEDULE_FILE:
			break;
	}
	return false;
}

/* etl_schedule_next_runs(schedule, n, timezone, after, start_at) */
Datum
etl_schedule_next_runs(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	EtlSchedule *schedule;
	TimestampTz start = DT_NOBEGIN;
	TimestampTz slot;
	int n;

	etl_refuse_null(fcinfo, 0, "schedule");
	etl_refuse_null(fcinfo, 1, "n");
	etl_refuse_null(fcinfo, 2, "timezone");
	etl_refuse_null(fcinfo, 3, "after");
	n = PG_GETARG_INT32(1);
	etl_refuse_negative(n, "n");
	slot = PG_GETARG_TIMESTAMPTZ(3);
	if (!PG_ARGISNULL(4))
		start = PG_GETARG_TIMESTAMPTZ(4);
	schedule = etl_schedule_parse(etl_arg_text(fcinfo, 0),
								  etl_arg_text(fcinfo, 2));

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	for (int i = 0; i < n; i++)
	{
		Datum value;
		bool null = false;

		CHECK_FOR_INTERRUPTS();
		if (!etl_schedule_next(schedule, start, slot, &slot))
			break;
		value = TimestampTzGetDatum(slot);
		tuplestore_putvalues(result->setResult, result->setDesc, &value, &null);
	}
	return (Datum) 0;
}
