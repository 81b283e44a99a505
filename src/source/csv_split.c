/*-------------------------------------------------------------------------
 *
 * csv_split.c
 *	  Cuts one CSV record into fields.
 *
 * Most records are split where they were scanned, see csv_plain.c.  Of the
 * others libcsv does those in which it agrees with COPY: unquoted records, and
 * quoted ones in which each quote stands where RFC 4180 wants it.  The rest goes to
 * a splitter of our own with COPY's rules: quotes in mid-field, text behind a
 * closing quote, an escape that differs from the quote, blanks to trim.  The
 * framer's flags tell which is which.
 *
 * libcsv is fed one record at a time.  It writes each field at entry_buf;
 * since the fields of a record need no more room than the record itself, we
 * let entry_buf point into a buffer of that size and move it on behind each
 * field.  So libcsv never allocates, nothing is copied twice, and a callback
 * has nothing to do that could fail.  No error is thrown through libcsv.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "source/csv_private.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"

/* Bytes split between two looks at the cancel flag. */
#define SPLIT_SLICE (1024 * 1024)

/* libcsv must not trim. */
static int
no_space(unsigned char c pg_attribute_unused())
{
	return 0;
}

/* libcsv must not allocate. */
static void *
no_realloc(void *old pg_attribute_unused(), size_t size pg_attribute_unused())
{
	return NULL;
}

static void
no_free(void *old pg_attribute_unused())
{
}

/* Prepare for records of the reader's dialect. */
void
etl_csv_split_open(EtlCsvReader *reader)
{
	struct csv_parser *parser = &reader->parser;

	if (csv_init(parser, 0) != 0)
		elog(ERROR, "could not initialize libcsv");
	csv_set_delim(parser, (unsigned char) reader->dialect.delimiter);
	csv_set_quote(parser, (unsigned char) reader->dialect.quote);
	csv_set_realloc_func(parser, no_realloc);
	csv_set_free_func(parser, no_free);
	reader->fields = palloc(ETL_CSV_MAX_FIELDS * sizeof(EtlField));
	initStringInfo(&reader->message);
	reader->null_lens = palloc(Max(reader->dialect.null_count, 1) *
							   sizeof(size_t));
	for (int i = 0; i < reader->dialect.null_count; i++)
		reader->null_lens[i] = strlen(reader->dialect.null_strings[i]);
	reader->null_is_empty = reader->dialect.null_count == 1 &&
							reader->null_lens[0] == 0;
}

/* Is this text one of the null strings? */
bool
etl_csv_is_null_string(const EtlCsvReader *reader, const char *data, size_t len)
{
	for (int i = 0; i < reader->dialect.null_count; i++)
	{
		if (reader->null_lens[i] == len &&
			memcmp(reader->dialect.null_strings[i], data, len) == 0)
			return true;
	}
	return false;
}

/*
 * Note a field whose text is at data.  Counts on when there are more than any
 * table has columns: nobody wants to know what is in those.
 */
static inline void
add_field(EtlCsvReader *reader, char *data, size_t len, bool quoted)
{
	if (reader->nfields < ETL_CSV_MAX_FIELDS)
	{
		EtlField *field = &reader->fields[reader->nfields];

		data[len] = '\0';
		field->quoted = quoted;
		field->data = data;
		field->len = (int) len;
		if (!quoted && etl_csv_is_null(reader, data, len))
		{
			field->data = NULL;
			field->len = 0;
		}
	}
	reader->nfields++;
}

/* libcsv's callback for a field of a record without quotes. */
static void
plain_field(void *data, size_t len, void *arg)
{
	EtlCsvReader *reader = (EtlCsvReader *) arg;

	add_field(reader, (char *) data, len, false);
	reader->parser.entry_buf += len + 1;
	reader->parser.entry_size -= len + 1;
}

/*
 * The same for a record with quotes.  libcsv does not tell whether the field
 * was quoted, but the record does: the cursor follows the fields through it.
 */
static void
quoted_field(void *data, size_t len, void *arg)
{
	EtlCsvReader *reader = (EtlCsvReader *) arg;
	bool quoted = reader->cursor < reader->cursor_end &&
				  *reader->cursor == reader->dialect.quote;

	reader->cursor += len + 1;
	if (quoted)
	{
		const char *s = (const char *) data;
		const char *end = s + len;

		reader->cursor += 2;
		while (s < end && (s = memchr(s, reader->dialect.quote, end - s)) != NULL)
		{
			reader->cursor++;
			s++;
		}
	}
	add_field(reader, (char *) data, len, quoted);
	reader->parser.entry_buf += len + 1;
	reader->parser.entry_size -= len + 1;
}

/* Split with libcsv. */
static void
split_libcsv(EtlCsvReader *reader, const char *text, size_t len, int flags)
{
	struct csv_parser *parser = &reader->parser;
	bool quotes = (flags & ETL_CSV_QUOTED) != 0;
	void (*callback)(void *, size_t, void *) = quotes ? quoted_field :
														plain_field;
	size_t done = 0;

	/* Its own test for blanks is faster, if there are none to be trimmed. */
	csv_set_space_func(parser, (flags & (ETL_CSV_BLANKS | ETL_CSV_NONASCII)) ?
								   no_space :
								   NULL);
	parser->entry_buf = (unsigned char *) reader->scratch;
	parser->entry_size = reader->scratch_size;
	reader->cursor = text;
	reader->cursor_end = text + len;
	while (done < len)
	{
		size_t slice = Min(len - done, SPLIT_SLICE);

		if (csv_parse(parser, text + done, slice, callback, NULL, reader) !=
			slice)
			elog(ERROR, "libcsv failed: %s", csv_strerror(csv_error(parser)));
		done += slice;
		if (done < len)
			CHECK_FOR_INTERRUPTS();
	}
	if (csv_fini(parser, callback, NULL, reader) != 0)
		elog(ERROR, "libcsv failed: %s", csv_strerror(csv_error(parser)));
	if (len == 0)
		add_field(reader, reader->scratch, 0, false);
}

/* One field being put together by the exact splitter. */
typedef struct FieldText
{
	char *start;
	char *out;
	char *keep; /* blanks behind this are trimmed */
	bool quoted;
} FieldText;

/*
 * s is behind a quote; append up to the closing one and return the place
 * behind it, or NULL if there is none.
 */
static const char *
split_quoted(const EtlCsvDialect *dialect, const char *s, const char *end,
			 FieldText *field)
{
	field->quoted = true;
	while (s < end)
	{
		char c;

		if (dialect->escape == dialect->quote)
		{
			const char *hit = memchr(s, dialect->quote, end - s);
			size_t run = (hit != NULL ? hit : end) - s;

			memcpy(field->out, s, run);
			field->out += run;
			if (hit == NULL)
				return NULL;
			s = hit;
		}
		c = *s++;

		if (c == dialect->escape && s < end &&
			(*s == dialect->escape || *s == dialect->quote))
			*field->out++ = *s++;
		else if (c == dialect->quote)
		{
			field->keep = field->out;
			return s;
		}
		else
			*field->out++ = c;
		if (((uintptr_t) s & (SPLIT_SLICE - 1)) == 0)
			CHECK_FOR_INTERRUPTS();
	}
	return NULL;
}

/*
 * Append one field that starts at s, by COPY's rules, and return the place
 * where it ends (a delimiter or end), or NULL if a quote is not closed.
 */
static const char *
split_field(const EtlCsvDialect *dialect, const char *s, const char *end,
			FieldText *field)
{
	while (s < end && *s != dialect->delimiter)
	{
		bool blank = dialect->trim && (*s == ' ' || *s == '\t');

		if (*s == dialect->quote)
		{
			s = split_quoted(dialect, s + 1, end, field);
			if (s == NULL)
				return NULL;
			continue;
		}
		if (!blank || field->quoted || field->out > field->start)
			*field->out++ = *s;
		if (!blank)
			field->keep = field->out;
		s++;
		if (((uintptr_t) s & (SPLIT_SLICE - 1)) == 0)
			CHECK_FOR_INTERRUPTS();
	}
	return s;
}

/* Split by COPY's rules; false if a quote is not closed. */
static bool
split_exact(EtlCsvReader *reader, const char *text, size_t len)
{
	const char *s = text;
	const char *end = text + len;
	FieldText field;

	field.start = reader->scratch;
	for (;;)
	{
		field.out = field.keep = field.start;
		field.quoted = false;
		s = split_field(&reader->dialect, s, end, &field);
		if (s == NULL)
			return false;
		add_field(reader, field.start, field.keep - field.start, field.quoted);
		field.start = field.keep + 1;
		if (s == end)
			return true;
		s++;
	}
}

/* Say that the record is wrong in its structure. */
static bool
reject_structure(EtlReject *reject, int sqlerrcode, const char *message,
				 const char *detail)
{
	reject->category = ETL_CATEGORY_STRUCTURE;
	reject->sqlerrcode = sqlerrcode;
	reject->message = message;
	reject->detail = detail;
	return false;
}

/*
 * Is something wrong with the record that the framer has already seen?  COPY
 * stumbles over what comes first, and finds an open quote at the very end: so
 * bytes that are not of the encoding go before.
 */
static bool
check_flags(EtlCsvReader *reader, const EtlCsvRecord *record, EtlReject *reject)
{
	EtlCsvRecord before = *record;
	const char *detail = NULL;
	const char *text;
	size_t len;

	if (!(record->flags & (ETL_CSV_CUT | ETL_CSV_UNTERMINATED | ETL_CSV_BAD_CR)))
		return true;
	if (record->flags & ETL_CSV_CUT)
	{
		resetStringInfo(&reader->message);
		appendStringInfo(&reader->message,
						 "Only the first %zu bytes of the record are kept.",
						 record->raw_len);
		detail = reader->message.data;
	}
	else
	{
		if (record->flags & ETL_CSV_BAD_CR)
		{
			before.raw_len = record->bad_cr;
			before.follows = (uint32) Min(record->raw_len - record->bad_cr +
											  record->follows,
										  MAX_MULTIBYTE_CHAR_LEN);
		}
		if (!etl_csv_to_server(reader, &before, &text, &len, reject))
			return false;
		if (record->flags & ETL_CSV_BAD_CR)
			return reject_structure(reject, ERRCODE_BAD_COPY_FILE_FORMAT,
									"unquoted carriage return found in data",
									NULL);
	}
	if (record->flags & ETL_CSV_UNTERMINATED)
		return reject_structure(reject, ERRCODE_BAD_COPY_FILE_FORMAT,
								"unterminated CSV quoted field", detail);
	return reject_structure(reject, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
							"CSV record is longer than 1 GB", detail);
}

/* Split the text into reader->fields; false if a quote is not closed. */
static bool
split_text(EtlCsvReader *reader, const EtlCsvRecord *record, const char *text,
		   size_t len)
{
	const EtlCsvDialect *dialect = &reader->dialect;

	reader->nfields = 0;
	if (dialect->trim || (record->flags & ETL_CSV_ODD) ||
		((record->flags & ETL_CSV_QUOTED) && dialect->escape != dialect->quote))
		return split_exact(reader, text, len);
	split_libcsv(reader, text, len, record->flags);
	return true;
}

/* Make room for the fields of a record of so many bytes. */
static inline void
reserve_fields(EtlCsvReader *reader, size_t len)
{
	size_t size = len + 2 + ETL_FIELD_SLACK;

	if (reader->scratch_size < size)
		reader->scratch = etl_csv_grow(reader, reader->scratch,
									   &reader->scratch_size, 0, size);
}

/*
 * The record's fields, in the server's encoding; they stay valid until the
 * next call or fill.  False if the record is wrong in its quoting or encoding: then
 * *reject says so, with strings that are valid as long.  How many fields
 * there should be is the converter's business: *nfields tells how many there
 * are, but only the first ETL_CSV_MAX_FIELDS of them are in *fields.
 */
bool
etl_csv_split(EtlCsvReader *reader, const EtlCsvRecord *record,
			  EtlField **fields, int *nfields, EtlReject *reject)
{
	const char *text;
	size_t len;

	/* A record that was scanned is well quoted. */
	if (record->raw == reader->plain.raw &&
		(record->flags & (ETL_CSV_ODD | ETL_CSV_NONASCII)) == 0)
	{
		reserve_fields(reader, record->raw_len);
		etl_csv_plain_split(reader, record);
		*fields = reader->fields;
		*nfields = reader->nfields;
		return true;
	}

	memset(reject, 0, sizeof(*reject));
	if (!check_flags(reader, record, reject) ||
		!etl_csv_to_server(reader, record, &text, &len, reject))
		return false;
	reserve_fields(reader, len);
	if (text == reader->plain.raw && (record->flags & ETL_CSV_ODD) == 0)
		etl_csv_plain_split(reader, record);
	else if (!split_text(reader, record, text, len))
		return reject_structure(reject, ERRCODE_BAD_COPY_FILE_FORMAT,
								"unterminated CSV quoted field", NULL);
	*fields = reader->fields;
	*nfields = reader->nfields;
	return true;
}
