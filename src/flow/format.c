/*-------------------------------------------------------------------------
 *
 * format.c
 *	  How the bytes of a file become fields: the parameters that every function
 *	  which reads CSV files has, and what follows from them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "flow/flow.h"

/* The words of header and compression, in the order of their enums. */
static const char *const header_words[] = {"match", "skip", "none", NULL};
static const char *const compression_words[] = {"auto", "none", "gzip", "zstd",
												NULL};

/* The parameters, counted from the first of them. */
enum
{
	ARG_HEADER,
	ARG_DELIMITER,
	ARG_QUOTE,
	ARG_ESCAPE,
	ARG_NULL_STRINGS,
	ARG_TRIM,
	ARG_SKIP_LINES,
	ARG_ENCODING,
	ARG_COMPRESSION
};

/*
 * Fill the dialect from option values (escape NULL: as the quote; encoding
 * NULL: the client's).  Errors name the parameter.
 */
void
etl_dialect_set(EtlCsvDialect *dialect, const char *delimiter,
				const char *quote, const char *escape, List *null_strings,
				bool trim, const char *encoding)
{
	ListCell *lc;

	dialect->delimiter = etl_option_char("delimiter", delimiter);
	dialect->quote = etl_option_char("quote", quote);
	dialect->escape = escape == NULL ? dialect->quote :
									   etl_option_char("escape", escape);
	dialect->trim = trim;
	if (dialect->delimiter == dialect->quote ||
		dialect->delimiter == dialect->escape)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("delimiter must differ from quote and escape")));

	dialect->encoding = encoding == NULL ? pg_get_client_encoding() :
										   pg_char_to_encoding(encoding);
	if (dialect->encoding < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for parameter \"encoding\": \"%s\"",
						encoding),
				 errhint(
					 "Use the name of an encoding that PostgreSQL knows, such as \"UTF8\" or \"LATIN1\".")));

	dialect->null_count = 0;
	dialect->null_strings = palloc(sizeof(char *) *
								   Max(list_length(null_strings), 1));
	foreach(lc, null_strings)
	{
		const char *word = lfirst(lc);

		if (strpbrk(word, "\r\n") != NULL ||
			strchr(word, dialect->delimiter) != NULL ||
			strchr(word, dialect->quote) != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("null string \"%s\" can never match", word),
					 errdetail(
						 "Null strings are compared with unquoted fields, which hold no delimiter, quote or line break.")));
		if (trim && word[0] != '\0' &&
			(strchr(" \t", word[0]) != NULL ||
			 strchr(" \t", word[strlen(word) - 1]) != NULL))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("null string \"%s\" can never match", word),
					 errdetail(
						 "With \"trim\", blanks around a field are taken away before it is compared.")));
		dialect->null_strings[dialect->null_count++] = word;
	}
}

/* Read the parameters, which stand side by side from the given one on. */
void
etl_format_from_args(EtlFormat *format, FunctionCallInfo fcinfo, int first)
{
	etl_refuse_null(fcinfo, first + ARG_NULL_STRINGS, "null_strings");
	etl_dialect_set(&format->dialect,
					etl_arg_text(fcinfo, first + ARG_DELIMITER),
					etl_arg_text(fcinfo, first + ARG_QUOTE),
					etl_arg_text(fcinfo, first + ARG_ESCAPE),
					etl_arg_texts(fcinfo, first + ARG_NULL_STRINGS),
					etl_arg_bool(fcinfo, first + ARG_TRIM),
					etl_arg_name(fcinfo, first + ARG_ENCODING));
	format->header = etl_option_word("header",
									 etl_arg_text(fcinfo, first + ARG_HEADER),
									 header_words);
	format->compression = etl_option_word("compression",
										  etl_arg_text(fcinfo,
													   first + ARG_COMPRESSION),
										  compression_words);
	format->skip_lines = PG_ARGISNULL(first + ARG_SKIP_LINES) ?
							 0 :
							 PG_GETARG_INT32(first + ARG_SKIP_LINES);
	etl_refuse_negative(format->skip_lines, "skip_lines");
}

/* Throw if the record that names or counts the columns has too many fields. */
void
etl_refuse_too_many_fields(int nfields)
{
	if (nfields > ETL_CSV_MAX_FIELDS)
		ereport(ERROR, (errcode(ERRCODE_TOO_MANY_COLUMNS),
						errmsg("the first record has %d fields", nfields),
						errdetail("A table has at most %d columns.",
								  ETL_CSV_MAX_FIELDS),
						errhint("Check the parameter \"delimiter\".")));
}

/* The fields of the header record as names. */
static List *
read_header_names(EtlCsvReader *reader, const EtlCsvRecord *record)
{
	EtlReject reject = {0};
	EtlField *fields;
	int nfields;
	List *names = NIL;

	if (!etl_csv_split(reader, record, &fields, &nfields, &reject))
		etl_reject_throw(&reject);
	etl_refuse_too_many_fields(nfields);
	for (int i = 0; i < nfields; i++)
		names = lappend(names,
						pstrdup(fields[i].data == NULL ? "" : fields[i].data));
	return names;
}

/*
 * Open the CSV records of a stream and read its header, if it has one.
 * *names is NIL unless the header is to be matched.
 */
EtlCsvReader *
etl_format_open(const EtlFormat *format, EtlStream *stream, List **names)
{
	EtlCsvReader *reader = etl_csv_open(stream, &format->dialect,
										format->skip_lines);
	EtlCsvRecord record;
	EtlCsvNext next;

	*names = NIL;
	if (format->header == ETL_HEADER_NONE)
		return reader;

	while ((next = etl_csv_next(reader, &record)) == ETL_CSV_NEED_FILL)
		etl_csv_fill(reader);
	if (next == ETL_CSV_RECORD && format->header == ETL_HEADER_MATCH)
		*names = read_header_names(reader, &record);
	etl_csv_header_done(reader);
	return reader;
}
