/*-------------------------------------------------------------------------
 *
 * plain_text.c
 *	  Values as text that means the same in every session.
 *
 * Text that is kept, or compared with kept text, must not depend on the
 * settings of the session that writes or reads it.
 *
 *-------------------------------------------------------------------------
 */
#include "base/base.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/datetime.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

/* What text depends on, and what it is to be. */
static const char *const plain_settings[][2] = {
	{"datestyle", "ISO, YMD"},	   {"timezone", "UTC"},
	{"intervalstyle", "postgres"}, {"extra_float_digits", "1"},
	{"bytea_output", "hex"},
};

/*
 * Until etl_plain_text_leave(), output and input functions of types write and
 * read plain text.  An error leaves it, too.  Nothing else must run between
 * the two: expressions may depend on the user's own settings.
 */
int
etl_plain_text_enter(void)
{
	int level = NewGUCNestLevel();

	for (int i = 0; i < (int) lengthof(plain_settings); i++)
		(void) set_config_option(plain_settings[i][0], plain_settings[i][1],
								 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
								 true, 0, false);
	return level;
}

void
etl_plain_text_leave(int level)
{
	AtEOXact_GUC(false, level);
}

/* A value as plain text. */
char *
etl_plain_text(Oid type, Datum value)
{
	int level = etl_plain_text_enter();
	char *result;
	Oid output;
	bool is_varlena;

	getTypeOutputInfo(type, &output, &is_varlena);
	result = OidOutputFunctionCall(output, value);
	etl_plain_text_leave(level);
	return result;
}

/* A time as plain text; the same as the above, where it must be quick. */
char *
etl_plain_time(TimestampTz time)
{
	char text[MAXDATELEN + 1];
	struct pg_tm tm;
	fsec_t fsec;

	if (TIMESTAMP_NOT_FINITE(time))
		return etl_plain_text(TIMESTAMPTZOID, TimestampTzGetDatum(time));
	if (timestamp2tm(time, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
						errmsg("timestamp out of range")));
	tm.tm_isdst = 0; /* an offset is known: none */
	EncodeDateTime(&tm, fsec, true, 0, NULL, USE_ISO_DATES, text);
	return pstrdup(text);
}

/*
 * What a caller wrote means what it means in the caller's session: such text
 * as plain text; throws if it stands for no value.
 */
char *
etl_plain_literal(Oid type, const char *text)
{
	Oid input;
	Oid param;

	getTypeInputInfo(type, &input, &param);
	return etl_plain_text(type,
						  OidInputFunctionCall(input, unconstify(char *, text),
											   param, -1));
}

/* The value of a type that a text stands for; throws if it stands for none. */
Datum
etl_plain_value(Oid type, const char *text)
{
	int level = etl_plain_text_enter();
	Datum result;
	Oid input;
	Oid param;

	getTypeInputInfo(type, &input, &param);
	result = OidInputFunctionCall(input, unconstify(char *, text), param, -1);
	etl_plain_text_leave(level);
	return result;
}
