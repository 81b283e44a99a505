/*-------------------------------------------------------------------------
 *
 * option.c
 *	  Arguments of the SQL functions that are words or single characters.
 *
 * An option is a lower-case text.  What is not understood is an error that
 * names the parameter and what it may be; nothing is guessed.
 *
 *-------------------------------------------------------------------------
 */
#include "base/base.h"

#include "lib/stringinfo.h"

static char *list_words(const char *const *words);

/*
 * The index of value in words, a NULL-terminated list.  value NULL is the
 * SQL null, which no option word may be.
 */
int
etl_option_word(const char *parameter, const char *value,
				const char *const *words)
{
	if (value == NULL)
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("parameter \"%s\" must not be null", parameter),
						errhint("Valid values are %s.", list_words(words))));

	for (int i = 0; words[i] != NULL; i++)
	{
		if (strcmp(value, words[i]) == 0)
			return i;
	}

	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("invalid value for parameter \"%s\": \"%s\"",
						   parameter, value),
					errhint("Valid values are %s.", list_words(words))));
	return -1; /* keep compiler quiet */
}

/*
 * The byte that value is.  Line ends are refused: no dialect could tell them
 * from the end of a record.
 */
char
etl_option_char(const char *parameter, const char *value)
{
	if (value == NULL)
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("parameter \"%s\" must not be null", parameter)));
	if (value[0] == '\0' || value[1] != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a single one-byte character", parameter)));
	if (value[0] == '\n' || value[0] == '\r')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s cannot be newline or carriage return", parameter)));
	return value[0];
}

/* The words as a sentence has them: "a", "b" and "c". */
static char *
list_words(const char *const *words)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; words[i] != NULL; i++)
	{
		if (i > 0)
			appendStringInfoString(&list, words[i + 1] ? ", " : " and ");
		appendStringInfo(&list, "\"%s\"", words[i]);
	}
	return list.data;
}
