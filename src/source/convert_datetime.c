/*-------------------------------------------------------------------------
 *
 * convert_datetime.c
 *	  Dates, times and timestamps from ISO 8601 text.
 *
 * With the year first and of four digits, a date means the same under every
 * DateStyle.  Accepted are yyyy-mm-dd, hh:mm:ss with up to six decimals, and
 * both with a blank or a T between; for timestamptz also Z, +hh or +hh:mm at
 * the end.  All else (years before 1 or after 9999, a second 60, 24:00:00,
 * names of months and zones, 'now', decimals beyond the column's precision) is
 * left to the type's input function.  See convert.c for the contract.
 *
 *-------------------------------------------------------------------------
 */
#include "source/convert_types.h"

#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#define DATE_LEN	 10 /* yyyy-mm-dd */
#define TIME_LEN	 8	/* hh:mm:ss */
#define MAX_DECIMALS 6

/* The server takes displacements of less than 16 hours. */
#define MAX_ZONE_HOURS 14

typedef struct IsoDate
{
	int year;
	int month;
	int day;
} IsoDate;

typedef struct IsoTime
{
	int hour;
	int minute;
	int second;
	int microsecond;
} IsoTime;

static bool scan_two(const char *p, int *number);
static bool scan_date(const char *p, IsoDate *date);
static bool scan_time(const char **text, int precision, IsoTime *time);
static bool scan_timestamp(const EtlColumnConverter *column,
						   const EtlField *field, IsoDate *date, IsoTime *time,
						   const char **rest);
static bool scan_zone(const EtlColumnConverter *column, const char *p,
					  int *seconds_east);
static int days_since_2000(const IsoDate *date);
static int64 time_of_day(const IsoTime *time);
static int session_seconds_east(const IsoDate *date, const IsoTime *time);

bool
etl_convert_date(const EtlColumnConverter *column pg_attribute_unused(),
				 const EtlField *field, Datum *value)
{
	IsoDate date;

	if (field->len != DATE_LEN || !scan_date(field->data, &date))
		return false;
	*value = DateADTGetDatum(days_since_2000(&date));
	return true;
}

bool
etl_convert_time(const EtlColumnConverter *column, const EtlField *field,
				 Datum *value)
{
	const char *p = field->data;
	IsoTime time;

	if (field->len < TIME_LEN || !scan_time(&p, column->scale, &time) ||
		p != field->data + field->len)
		return false;
	*value = TimeADTGetDatum(time_of_day(&time));
	return true;
}

bool
etl_convert_timestamp(const EtlColumnConverter *column, const EtlField *field,
					  Datum *value)
{
	IsoDate date;
	IsoTime time;
	const char *rest;

	if (!scan_timestamp(column, field, &date, &time, &rest) || *rest != '\0')
		return false;
	*value = TimestampGetDatum(days_since_2000(&date) * USECS_PER_DAY +
							   time_of_day(&time));
	return true;
}

bool
etl_convert_timestamptz(const EtlColumnConverter *column, const EtlField *field,
						Datum *value)
{
	IsoDate date;
	IsoTime time;
	const char *rest;
	int seconds_east;

	if (!scan_timestamp(column, field, &date, &time, &rest))
		return false;
	if (*rest == '\0')
		seconds_east = session_seconds_east(&date, &time);
	else if (!scan_zone(column, rest, &seconds_east))
		return false;
	*value = TimestampGetDatum(days_since_2000(&date) * USECS_PER_DAY +
							   time_of_day(&time) -
							   seconds_east * USECS_PER_SEC);
	return true;
}

/*
 * Z is a time zone abbreviation that timezone_abbreviations may redefine.
 * Asks the server what it means here.
 */
bool
etl_zulu_is_utc(void)
{
	Datum epoch = DirectFunctionCall3(timestamptz_in,
									  CStringGetDatum("2000-01-01 00:00:00Z"),
									  ObjectIdGetDatum(InvalidOid),
									  Int32GetDatum(-1));

	return DatumGetTimestampTz(epoch) == 0;
}

/* Two digits. */
static inline bool
scan_two(const char *p, int *number)
{
	unsigned tens = (unsigned char) p[0] - '0';
	unsigned ones;

	if (tens > 9)
		return false;
	ones = (unsigned char) p[1] - '0';
	*number = tens * 10 + ones;
	return ones <= 9;
}

/*
 * Reads DATE_LEN bytes, which must be there.  True if it is a day of the
 * (proleptic Gregorian) calendar.
 */
static bool
scan_date(const char *p, IsoDate *date)
{
	const uint64 byte = 0xFF;
	uint64 word = etl_load_bytes(p);
	uint64 day = (unsigned char) p[8] | (uint64) (unsigned char) p[9] << 8;
	uint64 digits;
	uint64 pairs;

	/* yyyy-mm-dd without what stands between the numbers */
	digits = (word & 0xFFFFFFFF) | ((word >> 40) & 0xFFFF) << 32 | day << 48;
	if ((word >> 56) != '-' || ((word >> 32) & byte) != '-' ||
		!etl_all_digits(digits))
		return false;
	pairs = etl_digit_pairs(digits);
	date->year = (int) (pairs & byte) * 100 + (int) ((pairs >> 16) & byte);
	date->month = (int) ((pairs >> 32) & byte);
	date->day = (int) ((pairs >> 48) & byte);
	return date->year >= 1 && date->month >= 1 &&
		   date->month <= MONTHS_PER_YEAR && date->day >= 1 &&
		   (date->day <= 28 ||
			date->day <= day_tab[isleap(date->year)][date->month - 1]);
}

/*
 * Reads hh:mm:ss[.ffffff] and moves *text behind it.  At least TIME_LEN bytes
 * and a NUL must be there.  precision is how many decimals the column keeps,
 * or -1 for all.
 */
static bool
scan_time(const char **text, int precision, IsoTime *time)
{
	static const int scales[] = {1000000, 100000, 10000, 1000, 100, 10, 1};
	const char *p = *text;
	int decimals = 0;
	int fraction = 0;

	if (!scan_two(p, &time->hour) || p[2] != ':' ||
		!scan_two(p + 3, &time->minute) || p[5] != ':' ||
		!scan_two(p + 6, &time->second) || time->hour > 23 ||
		time->minute > 59 || time->second > 59)
		return false;

	p += TIME_LEN;
	if (*p == '.')
	{
		for (p++; *p >= '0' && *p <= '9'; p++)
		{
			if (++decimals > MAX_DECIMALS)
				return false;
			fraction = fraction * 10 + (*p - '0');
		}
		if (decimals == 0 || (precision >= 0 && decimals > precision))
			return false;
	}
	time->microsecond = fraction * scales[decimals];
	*text = p;
	return true;
}

/* Reads date and time; *rest is what follows them. */
static bool
scan_timestamp(const EtlColumnConverter *column, const EtlField *field,
			   IsoDate *date, IsoTime *time, const char **rest)
{
	const char *p = field->data;

	if (field->len < DATE_LEN + 1 + TIME_LEN || !scan_date(p, date))
		return false;
	p += DATE_LEN;
	if (*p != ' ' && *p != 'T')
		return false;
	*rest = p + 1;
	return scan_time(rest, column->scale, time);
}

/* Reads Z, +hh or +hh:mm up to the end of the text. */
static bool
scan_zone(const EtlColumnConverter *column, const char *p, int *seconds_east)
{
	bool west = (*p == '-');
	int hours;
	int minutes = 0;

	if (*p == 'Z' && p[1] == '\0' && column->zulu)
	{
		*seconds_east = 0;
		return true;
	}
	if ((*p != '+' && *p != '-') || !scan_two(p + 1, &hours))
		return false;
	p += 3;
	if (*p == ':')
	{
		if (!scan_two(p + 1, &minutes))
			return false;
		p += 3;
	}
	if (*p != '\0' || hours > MAX_ZONE_HOURS || minutes > 59)
		return false;
	*seconds_east = (hours * MINS_PER_HOUR + minutes) * SECS_PER_MINUTE;
	if (west)
		*seconds_east = -*seconds_east;
	return true;
}

/* The day number that the server stores; for the years 1 to 9999. */
static int
days_since_2000(const IsoDate *date)
{
	static const int days_before_month[MONTHS_PER_YEAR] = {0,	31,	 59,  90,
														   120, 151, 181, 212,
														   243, 273, 304, 334};
	const int days_before_2000 = 730119; /* from 0001-01-01 */
	int years = date->year - 1;
	int days = years * 365 + years / 4 - years / 100 + years / 400;

	days += days_before_month[date->month - 1] + date->day - 1;
	if (date->month > 2 && isleap(date->year))
		days++;
	return days - days_before_2000;
}

/* Microseconds since midnight. */
static int64
time_of_day(const IsoTime *time)
{
	int seconds = (time->hour * MINS_PER_HOUR + time->minute) * SECS_PER_MINUTE +
				  time->second;

	return seconds * USECS_PER_SEC + time->microsecond;
}

/* How far the session's time zone is ahead of UTC at that local time. */
static int
session_seconds_east(const IsoDate *date, const IsoTime *time)
{
	struct pg_tm tm = {0};

	tm.tm_year = date->year;
	tm.tm_mon = date->month;
	tm.tm_mday = date->day;
	tm.tm_hour = time->hour;
	tm.tm_min = time->minute;
	tm.tm_sec = time->second;
	return -DetermineTimeZoneOffset(&tm, session_timezone);
}
