/*-------------------------------------------------------------------------
 *
 * schedule.c
 *	  The text of a schedule.
 *
 *		0 4 * * mon-fri			cron: minute, hour, day of month, month, day
 *								of week
 *		@daily					short for a cron schedule
 *		every 10 minutes		elapsed time
 *		at 2030-01-31 18:00		once
 *		after <job>				no time of its own: when that job has succeeded
 *		on <event>				... when the event is signalled
 *		on file:<glob>			... when a file arrives
 *
 * Nothing is guessed and no setting of the session has a say, neither DateStyle
 * nor IntervalStyle nor TimeZone: a text that is stored must mean the same when
 * it is read again.  What is not understood is refused with its place.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "compat.h"
#include "mb/pg_wchar.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "worker/schedule.h"

#define HINT_FORMS                                                         \
	"Write five cron fields (\"0 4 * * mon-fri\"), \"every 10 minutes\", " \
	"\"at 2030-01-31 18:00\", \"after <job>\", \"on <event>\" or "         \
	"\"on file:/dir/*.csv\"."
#define HINT_EVERY                                                         \
	"Write a length of time of at least 1 second, for example \"every 30 " \
	"seconds\" or \"every 1 hour 30 minutes\"."
#define HINT_AT                                                                 \
	"Write year, month, day and time, for example \"at 2030-01-31 18:00\", or " \
	"with an offset \"at 2030-01-31 18:00+01\"."

/* The text and the place in it that is read next. */
typedef struct Reader
{
	const char *text;
	const char *at;
} Reader;

/* A field of cron. */
typedef struct Field
{
	const char *name;
	const char *plural;
	int min;
	int max;				  /* that "*" goes to */
	int highest;			  /* that may be written */
	const char *const *words; /* for the values from min on, or NULL */
	const char *hint;
} Field;

/* What was read of a field. */
typedef struct FieldSet
{
	uint64 values;
	bool star;			 /* begins with "*" */
	bool last_day;		 /* L */
	uint8 last_weekdays; /* nL */
} FieldSet;

static const char *const month_words[] = {"jan", "feb", "mar", "apr", "may",
										  "jun", "jul", "aug", "sep", "oct",
										  "nov", "dec", NULL};
static const char *const weekday_words[] = {"sun", "mon", "tue", "wed",
											"thu", "fri", "sat", NULL};

#define FIELD_DAY	  2
#define FIELD_WEEKDAY 4
#define NUM_FIELDS	  5

static const Field fields[NUM_FIELDS] = {
	{"minute", "minutes", 0, 59, 59, NULL,
	 "Minutes are 0 to 59, for example \"0,30\" or \"*/15\"."},
	{"hour", "hours", 0, 23, 23, NULL,
	 "Hours are 0 to 23, for example \"9-17\" or \"*/2\"."},
	{"day of month", "days of the month", 1, 31, 31, NULL,
	 "Days of the month are 1 to 31, and L for the last one, for example "
	 "\"1,15\" or \"L\"."},
	{"month", "months", 1, 12, 12, month_words,
	 "Months are 1 to 12, or jan to dec, for example \"1,7\" or \"mar-oct\"."},
	{"day of week", "days of the week", 0, 6, 7, weekday_words,
	 "Days of the week are 0 (Sunday) to 7 (Sunday again), or sun to sat, for "
	 "example \"mon-fri\", or \"5L\" for the last Friday of the month."},
};

static const struct
{
	const char *word;
	const char *cron;
} shorthands[] = {
	{"@hourly", "0 * * * *"},	{"@daily", "0 0 * * *"},
	{"@midnight", "0 0 * * *"}, {"@weekly", "0 0 * * 0"},
	{"@monthly", "0 0 1 * *"},	{"@yearly", "0 0 1 1 *"},
	{"@annually", "0 0 1 1 *"},
};

/*
 * The characters that the syntax knows are ASCII; what else there is in a text
 * must not depend on the locale.
 */
static inline bool
is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static inline bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static inline bool
is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static inline void
skip_spaces(Reader *reader)
{
	while (is_space(*reader->at))
		reader->at++;
}

/* Refuse the text for what stands at the given place. */
pg_noreturn static void
refuse(const Reader *reader, const char *at, const char *reason,
	   const char *hint)
{
	int position = pg_mbstrlen_with_len(reader->text, at - reader->text) + 1;

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid schedule: %s", reason),
			 *at != '\0' ? errdetail("At character %d of \"%s\".", position,
									 reader->text) :
						   errdetail("At the end of \"%s\".", reader->text),
			 errhint("%s", hint)));
}

/* The same for what is there instead of what was expected. */
pg_noreturn static void
refuse_here(const Reader *reader, const char *expected, const char *hint)
{
	const char *at = reader->at;

	if (*at == '\0' || is_space(*at))
		refuse(reader, at, psprintf("%s is missing", expected), hint);
	refuse(reader, at,
		   psprintf("unexpected \"%s\" where %s should be",
					pnstrdup(at, Min((size_t) pg_mblen(at), strlen(at))),
					expected),
		   hint);
}

/* The letters at a place, in lower case, for messages and comparisons. */
static char *
word_at(const char *at)
{
	int len = 0;
	char *word;

	while (is_letter(at[len]))
		len++;
	word = pnstrdup(at, len);
	for (int i = 0; i < len; i++)
		word[i] = pg_ascii_tolower((unsigned char) word[i]);
	return word;
}

/* Digits; a number that is far too large is as large as any. */
static int
scan_number(Reader *reader)
{
	int number = 0;

	for (; is_digit(*reader->at); reader->at++)
		number = Min(number * 10 + (*reader->at - '0'), 10000000);
	return number;
}

/* ------------------------------------------------------------------ */
/* cron                                                                 */

static inline bool
is_last_mark(const char *at)
{
	return (*at == 'L' || *at == 'l') && !is_letter(at[1]) && !is_digit(at[1]);
}

/* One of a field's words; "fri" of "friL" is one, too. */
static int
scan_word(Reader *reader, const Field *field)
{
	char *word = word_at(reader->at);

	for (int i = 0; field->words != NULL && field->words[i] != NULL; i++)
	{
		if (strncmp(word, field->words[i], 3) != 0)
			continue;
		if (word[3] == '\0' ||
			(field == &fields[FIELD_WEEKDAY] && is_last_mark(reader->at + 3)))
		{
			reader->at += 3;
			return field->min + i;
		}
	}
	refuse(reader, reader->at, psprintf("unknown %s \"%s\"", field->name, word),
		   field->hint);
}

/* A number or a word. */
static int
scan_value(Reader *reader, const Field *field)
{
	const char *begin = reader->at;
	int value;

	if (is_letter(*begin))
		return scan_word(reader, field);
	if (!is_digit(*begin))
		refuse_here(reader, psprintf("the %s", field->name), field->hint);
	value = scan_number(reader);
	if (value < field->min || value > field->highest)
		refuse(reader, begin,
			   psprintf("%s %s is out of range", field->name,
						pnstrdup(begin, reader->at - begin)),
			   field->hint);
	return value;
}

/* What follows a "/". */
static int
scan_step(Reader *reader, const Field *field)
{
	const char *begin = reader->at;
	int count = field->max - field->min + 1;
	int step;

	if (!is_digit(*begin))
		refuse_here(reader, "the step", field->hint);
	step = scan_number(reader);
	if (step == 0)
		refuse(reader, begin, "a step must not be 0", field->hint);
	if (step > count)
		refuse(reader, begin,
			   psprintf("a step of %s is more than the %d %s",
						pnstrdup(begin, reader->at - begin), count,
						field->plural),
			   "For steps of elapsed time write, for example, \"every 90 "
			   "minutes\".");
	return step;
}

/* The second value of a range, when the first is known. */
static void
scan_range_end(Reader *reader, const Field *field, const char *begin, int *from,
			   int *to)
{
	reader->at++;
	*to = scan_value(reader, field);
	if (field == &fields[FIELD_WEEKDAY])
	{
		/* Sunday ends a week as well as it begins one. */
		if (*to == 0 && *from > 0)
			*to = 7;
		else if (*from == 7 && *to < 7)
			*from = 0;
	}
	if (*from > *to)
		refuse(reader, begin,
			   psprintf("the range %s runs backwards",
						pnstrdup(begin, reader->at - begin)),
			   "Write it as two, for example \"22-23,0-5\" for \"22-5\".");
}

/* One element of a list: "*", a value, a range, a step, or a form with L. */
static void
scan_element(Reader *reader, const Field *field, FieldSet *set)
{
	const char *begin = reader->at;
	int from = field->min;
	int to = field->max;
	int step = 1;
	bool range = true;

	if (*begin == '*')
		reader->at++;
	else if (field == &fields[FIELD_DAY] && is_last_mark(begin))
	{
		reader->at++;
		set->last_day = true;
		return;
	}
	else
	{
		from = to = scan_value(reader, field);
		if (field == &fields[FIELD_WEEKDAY] && is_last_mark(reader->at))
		{
			reader->at++;
			set->last_weekdays |= 1 << (from % 7);
			return;
		}
		range = (*reader->at == '-');
		if (range)
			scan_range_end(reader, field, begin, &from, &to);
	}

	if (*reader->at == '/')
	{
		if (!range)
			refuse(reader, reader->at, "a step needs a range or *",
				   psprintf("Write \"%d-%d/...\" for every so many %s from %d "
							"on.",
							from, field->max, field->plural, from));
		reader->at++;
		step = scan_step(reader, field);
	}
	for (int value = from; value <= to; value += step)
		set->values |= UINT64CONST(1)
					   << (field == &fields[FIELD_WEEKDAY] ? value % 7 : value);
}

/* A field: a list of elements. */
static void
scan_field(Reader *reader, const Field *field, FieldSet *set)
{
	memset(set, 0, sizeof(FieldSet));
	set->star = (*reader->at == '*');
	for (;;)
	{
		scan_element(reader, field, set);
		if (*reader->at != ',')
			break;
		reader->at++;
	}
	if (*reader->at != '\0' && !is_space(*reader->at))
		refuse_here(reader, psprintf("the end of the %s", field->name),
					field->hint);
}

/* The five fields of a cron schedule. */
static void
parse_cron(Reader *reader, EtlSchedule *schedule)
{
	FieldSet sets[NUM_FIELDS];

	for (int i = 0; i < NUM_FIELDS; i++)
	{
		skip_spaces(reader);
		if (*reader->at == '\0')
			refuse(reader, reader->at,
				   psprintf("it ends before the %s", fields[i].name),
				   HINT_FORMS);
		scan_field(reader, &fields[i], &sets[i]);
	}
	skip_spaces(reader);
	if (*reader->at != '\0')
		refuse(reader, reader->at, "there are more than five fields",
			   "The fields are minute, hour, day of month, month and day of "
			   "week; for seconds write, for example, \"every 30 seconds\".");

	schedule->kind = ETL_SCHEDULE_CRON;
	schedule->minutes = sets[0].values;
	schedule->hours = (uint32) sets[1].values;
	schedule->days = (uint32) sets[FIELD_DAY].values;
	schedule->last_day = sets[FIELD_DAY].last_day;
	schedule->months = (uint16) sets[3].values;
	schedule->weekdays = (uint8) sets[FIELD_WEEKDAY].values;
	schedule->last_weekdays = sets[FIELD_WEEKDAY].last_weekdays;
	schedule->both_days = sets[FIELD_DAY].star || sets[FIELD_WEEKDAY].star;
	schedule->fixed_time = !sets[0].star && !sets[1].star;
	if (!etl_schedule_has_day(schedule))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid schedule: no year has such a day"),
						errdetail("No day of the calendar is meant by \"%s\".",
								  reader->text),
						errhint("For the last day of a month write L.")));
}

/* A schedule that begins with "@". */
static void
parse_shorthand(Reader *reader, EtlSchedule *schedule)
{
	for (int i = 0; i < (int) lengthof(shorthands); i++)
	{
		size_t len = strlen(shorthands[i].word);
		Reader cron = {shorthands[i].cron, shorthands[i].cron};

		if (pg_strncasecmp(reader->at, shorthands[i].word, len) != 0 ||
			(reader->at[len] != '\0' && !is_space(reader->at[len])))
			continue;
		reader->at += len;
		skip_spaces(reader);
		if (*reader->at != '\0')
			refuse_here(reader, "the end", HINT_FORMS);
		parse_cron(&cron, schedule);
		return;
	}
	refuse(reader, reader->at, "unknown word after \"@\"",
		   "Write @hourly, @daily, @weekly, @monthly or @yearly.");
}

/* ------------------------------------------------------------------ */
/* every, at                                                            */

/*
 * "every": an interval as its type reads it.  A month has no length, so it
 * has none either; a minus sign is not taken, since IntervalStyle says how far
 * it reaches.
 */
static void
parse_every(Reader *reader, EtlSchedule *schedule)
{
	char *text = pstrdup(reader->at);
	const char *minus = strchr(reader->at, '-');
	char buffer[256];
	char *parts[MAXDATEFIELDS];
	int types[MAXDATEFIELDS];
	int nparts;
	int kind = 0;
	struct pg_itm_in itm = {0};
	Interval interval;
	int64 days;
	int result;

	if (minus != NULL)
		refuse(reader, minus, "an interval must not have a minus sign",
			   HINT_EVERY);
	if (text[strspn(text, "0123456789. \t")] == '\0')
		refuse(reader, reader->at, "the interval has no unit", HINT_EVERY);

	result = ParseDateTime(text, buffer, sizeof(buffer), parts, types,
						   MAXDATEFIELDS, &nparts);
	if (result == 0)
		result = DecodeInterval(parts, types, nparts, INTERVAL_FULL_RANGE,
								&kind, &itm);
	if (result == DTERR_BAD_FORMAT)
		result = DecodeISO8601Interval(text, &kind, &itm);
	if (result == DTERR_FIELD_OVERFLOW || result == DTERR_INTERVAL_OVERFLOW)
		refuse(reader, reader->at, "the interval is out of range", HINT_EVERY);
	if (result != 0 || kind != DTK_DELTA || itmin2interval(&itm, &interval) != 0)
		refuse(reader, reader->at, psprintf("\"%s\" is not an interval", text),
			   HINT_EVERY);
	if (interval.month != 0)
		refuse(reader, reader->at, "months and years have no fixed length",
			   "Use cron for dates, for example \"0 4 1 * *\" or \"@monthly\".");
	if (pg_mul_s64_overflow(interval.day, USECS_PER_DAY, &days) ||
		pg_add_s64_overflow(days, interval.time, &schedule->interval))
		refuse(reader, reader->at, "the interval is out of range", HINT_EVERY);
	if (schedule->interval < USECS_PER_SEC)
		refuse(reader, reader->at, "the interval is shorter than 1 second",
			   HINT_EVERY);
	schedule->kind = ETL_SCHEDULE_EVERY;
	pfree(text);
}

/* A part of a timestamp: so many digits, in the given range. */
static int
scan_part(Reader *reader, const char *name, int mindigits, int maxdigits,
		  int min, int max)
{
	const char *begin = reader->at;
	int value;
	int digits;

	if (!is_digit(*begin))
		refuse_here(reader, psprintf("the %s", name), HINT_AT);
	value = scan_number(reader);
	digits = reader->at - begin;
	if (digits < mindigits || digits > maxdigits)
		refuse(reader, begin,
			   psprintf("the %s must have %d digits", name, mindigits), HINT_AT);
	if (value < min || value > max)
		refuse(reader, begin,
			   psprintf("%s %s is out of range", name, pnstrdup(begin, digits)),
			   HINT_AT);
	return value;
}

/* A character that must be there. */
static void
scan_mark(Reader *reader, char mark)
{
	if (*reader->at != mark)
		refuse_here(reader, psprintf("\"%c\"", mark), HINT_AT);
	reader->at++;
}

/* The time of day of a timestamp, if it has one: seconds, and microseconds. */
static int
scan_time(Reader *reader, int *micros)
{
	int seconds;

	*micros = 0;
	if (*reader->at == 'T' || *reader->at == 't')
		reader->at++;
	else
	{
		skip_spaces(reader);
		if (*reader->at == '\0')
			return 0;
	}

	seconds = scan_part(reader, "hour", 2, 2, 0, 23) * SECS_PER_HOUR;
	scan_mark(reader, ':');
	seconds += scan_part(reader, "minute", 2, 2, 0, 59) * SECS_PER_MINUTE;
	if (*reader->at != ':')
		return seconds;
	reader->at++;
	seconds += scan_part(reader, "second", 2, 2, 0, 59);
	if (*reader->at != '.')
		return seconds;
	reader->at++;
	if (!is_digit(*reader->at))
		refuse_here(reader, "the fraction of the second", HINT_AT);
	for (int digit = 100000; is_digit(*reader->at); digit /= 10)
		*micros += digit * (*reader->at++ - '0');
	return seconds;
}

/* The offset from UTC at the end of a timestamp, if there is one. */
static bool
scan_offset(Reader *reader, int *offset)
{
	const char *begin;
	int sign;
	int hours;
	int minutes = 0;

	skip_spaces(reader);
	if (*reader->at == 'Z' || *reader->at == 'z')
	{
		reader->at++;
		*offset = 0;
		return true;
	}
	if (*reader->at != '+' && *reader->at != '-')
		return false;
	begin = reader->at;
	sign = (*reader->at++ == '-') ? -1 : 1;
	if (strspn(reader->at, "0123456789") == 4)
	{
		int both = scan_number(reader);

		hours = both / 100;
		minutes = both % 100;
	}
	else
	{
		hours = scan_part(reader, "offset", 2, 2, 0, 99);
		if (*reader->at == ':')
		{
			reader->at++;
			minutes = scan_part(reader, "offset", 2, 2, 0, 99);
		}
	}
	if (hours > 15 || minutes > 59)
		refuse(reader, begin, "the offset is out of range", HINT_AT);
	*offset = sign * (hours * SECS_PER_HOUR + minutes * SECS_PER_MINUTE);
	return true;
}

/*
 * "at": a timestamp as ISO 8601 has it, in the schedule's time zone where it
 * names no offset.  Words such as "tomorrow" would mean another day each time
 * that they are read.
 */
static void
parse_at(Reader *reader, EtlSchedule *schedule)
{
	const char *begin = reader->at;
	const char *day_begin;
	int year;
	int month;
	int day;
	int offset;
	int micros;
	int64 local;
	int64 instant;

	year = scan_part(reader, "year", 4, 6, 1, 294276);
	scan_mark(reader, '-');
	month = scan_part(reader, "month", 2, 2, 1, 12);
	scan_mark(reader, '-');
	day_begin = reader->at;
	day = scan_part(reader, "day", 2, 2, 1, 31);
	if (day > day_tab[isleap(year)][month - 1])
		refuse(reader, day_begin, "the month has no such day", HINT_AT);
	local = (int64) (date2j(year, month, day) - UNIX_EPOCH_JDATE) * SECS_PER_DAY +
			scan_time(reader, &micros);

	if (scan_offset(reader, &offset))
		instant = local - offset;
	else if (*reader->at != '\0')
		refuse_here(reader, "an offset", HINT_AT);
	else if (!etl_schedule_instant(schedule->timezone, local, &instant))
		refuse(reader, begin, "the timestamp is out of range", HINT_AT);
	skip_spaces(reader);
	if (*reader->at != '\0')
		refuse_here(reader, "the end", HINT_AT);

	instant -= (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * (int64) SECS_PER_DAY;
	if (instant >= END_TIMESTAMP / USECS_PER_SEC)
		refuse(reader, begin, "the timestamp is out of range", HINT_AT);
	schedule->kind = ETL_SCHEDULE_AT;
	schedule->at = instant * USECS_PER_SEC + micros;
}

/* ------------------------------------------------------------------ */
/* all                                                                  */

/* "on": an event, or the files that are waited for. */
static void
parse_on(Reader *reader, EtlSchedule *schedule)
{
	schedule->kind = ETL_SCHEDULE_EVENT;
	if (pg_strncasecmp(reader->at, "file:", 5) == 0)
	{
		schedule->kind = ETL_SCHEDULE_FILE;
		reader->at += 5;
		if (*reader->at != '/')
			refuse_here(reader, "an absolute path",
						"Write, for example, \"on file:/dir/*.csv\".");
	}
	schedule->name = pstrdup(reader->at);
}

/* A schedule that begins with a word. */
static void
parse_words(Reader *reader, EtlSchedule *schedule)
{
	static const char *const words[] = {"every", "at", "after", "on", NULL};
	static const char *const wants[] = {"an interval", "a timestamp",
										"the name of a job",
										"the name of an event"};
	char *word = word_at(reader->at);
	const char *end = reader->at + strlen(word);
	int i = 0;

	while (words[i] != NULL && strcmp(word, words[i]) != 0)
		i++;
	if (words[i] == NULL || (*end != '\0' && !is_space(*end)))
		refuse(reader, reader->at, psprintf("unknown word \"%s\"", word),
			   HINT_FORMS);
	reader->at = end;
	skip_spaces(reader);
	if (*reader->at == '\0')
		refuse_here(reader, wants[i], HINT_FORMS);

	switch (i)
	{
		case 0:
			parse_every(reader, schedule);
			break;
		case 1:
			parse_at(reader, schedule);
			break;
		case 2:
			schedule->kind = ETL_SCHEDULE_AFTER;
			schedule->name = pstrdup(reader->at);
			break;
		default:
			parse_on(reader, schedule);
			break;
	}
}

/* The zone of that name. */
static const pg_tz *
find_timezone(const char *name)
{
	pg_tz *timezone = pg_tzset(name);

	if (timezone == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" not recognized", name),
				 errhint("Use a name of pg_timezone_names, for example \"UTC\" "
						 "or \"Europe/Berlin\".")));
	if (!pg_tz_acceptable(timezone))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" appears to use leap seconds", name),
				 errdetail("PostgreSQL does not support leap seconds.")));
	return timezone;
}

/*
 * The schedule that a text describes, in the current memory context.  Throws
 * invalid_parameter_value, with the place in the detail.
 */
EtlSchedule *
etl_schedule_parse(const char *text, const char *timezone)
{
	EtlSchedule *schedule = palloc0(sizeof(EtlSchedule));
	char *trimmed = pstrdup(text);
	int len = strlen(trimmed);
	Reader reader = {trimmed, trimmed};

	while (len > 0 && is_space(trimmed[len - 1]))
		trimmed[--len] = '\0';
	schedule->timezone = find_timezone(timezone);

	skip_spaces(&reader);
	if (*reader.at == '\0')
		refuse(&reader, reader.at, "it is empty", HINT_FORMS);
	if (*reader.at == '@')
		parse_shorthand(&reader, schedule);
	else if (is_letter(*reader.at))
		parse_words(&reader, schedule);
	else
		parse_cron(&reader, schedule);
	return schedule;
}
