/*-------------------------------------------------------------------------
 *
 * encoding.c
 *	  CSV records from the file's encoding to the server's, without throwing.
 *
 * The rules are COPY's: the same encoding is verified; SQL_ASCII on either
 * side means no conversion; everything else goes through the default
 * conversion.  What COPY would throw becomes a reject with COPY's message.
 * There is one exception: a file declared SQL_ASCII is verified in the
 * server's encoding, where COPY would store invalid text.
 * A record of ASCII bytes alone is the same in all encodings and is neither
 * verified nor copied.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "source/csv_private.h"

#include "catalog/namespace.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"

/* Bytes converted between two looks at the cancel flag. */
#define CONVERT_SLICE (256 * 1024)

/* Find out what has to be done with this reader's records, or throw. */
void
etl_csv_encoding_open(EtlCsvReader *reader)
{
	int from = reader->dialect.encoding;
	int to = reader->server_encoding;

	if (!PG_VALID_ENCODING(from))
		elog(ERROR, "invalid encoding number: %d", from);
	reader->embeds_ascii = PG_VALID_FE_ENCODING(from) &&
						   !PG_VALID_BE_ENCODING(from);
	reader->check_encoding = from == PG_SQL_ASCII ? to : from;
	reader->conversion = InvalidOid;
	if (from == to || from == PG_SQL_ASCII || to == PG_SQL_ASCII)
		return;
	reader->conversion = FindDefaultConversionProc(from, to);
	if (!OidIsValid(reader->conversion))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("default conversion function for encoding \"%s\" to \"%s\" does not exist",
						pg_encoding_to_char(from), pg_encoding_to_char(to)),
				 errhint(
					 "Convert the file first, or create a conversion with CREATE DEFAULT CONVERSION.")));
}

/*
 * The length of the character at s in the file's encoding, 1 if it is broken.
 * A lead byte never takes a line end or a quote with it: no encoding has
 * trail bytes below '0', though the server's check lets some of them pass.
 */
int
etl_csv_char_len(const EtlCsvReader *reader, const char *s, size_t len)
{
	int n = pg_encoding_verifymbchar(reader->dialect.encoding, s,
									 (int) Min(len, MAX_MULTIBYTE_CHAR_LEN));
	int i;

	for (i = 1; i < n; i++)
	{
		if ((unsigned char) s[i] < '0')
			return 1;
	}
	return Max(n, 1);
}

/*
 * A buffer of the reader's with room for wanted bytes, of which the first
 * used are kept.
 */
char *
etl_csv_grow(EtlCsvReader *reader, char *buf, size_t *size, size_t used,
			 size_t wanted)
{
	char *fresh;

	if (wanted <= *size)
		return buf;
	wanted = Max(wanted, used + used / 2);
	fresh = MemoryContextAllocHuge(reader->context, wanted);
	if (used > 0)
		memcpy(fresh, buf, used);
	if (buf != NULL)
		pfree(buf);
	*size = wanted;
	return fresh;
}

/*
 * "0xe4 0x0a": the character at s, for a message.  Its length is asked of a
 * copy, because in some encodings the byte after the first tells it, and there
 * may be none.
 */
static void
append_bytes(StringInfo buf, int encoding, const char *s, size_t len)
{
	char head[MAX_MULTIBYTE_CHAR_LEN] = {0};
	size_t n;
	size_t i;

	memcpy(head, s, Min(len, sizeof(head)));
	n = Min((size_t) pg_encoding_mblen(encoding, head), len);
	for (i = 0; i < Min(n, 8); i++)
		appendStringInfo(buf, "%s0x%02x", i > 0 ? " " : "",
						 (unsigned char) s[i]);
}

/*
 * Describe what is wrong at s, as COPY does.  len counts bytes that follow the
 * record, since COPY shows those too.
 */
static void
reject_bytes(EtlCsvReader *reader, const char *s, size_t len, EtlReject *reject)
{
	int encoding = reader->check_encoding;
	bool invalid;

	invalid = pg_encoding_verifymbchar(encoding, s,
									   (int) Min(len, MAX_MULTIBYTE_CHAR_LEN)) <
				  0 ||
			  *s == '\0';
	resetStringInfo(&reader->message);
	reject->category = ETL_CATEGORY_ENCODING;
	if (invalid)
	{
		reject->sqlerrcode = ERRCODE_CHARACTER_NOT_IN_REPERTOIRE;
		appendStringInfo(&reader->message,
						 "invalid byte sequence for encoding \"%s\": ",
						 pg_encoding_to_char(encoding));
		append_bytes(&reader->message, encoding, s, len);
	}
	else
	{
		reject->sqlerrcode = ERRCODE_UNTRANSLATABLE_CHARACTER;
		appendStringInfoString(&reader->message,
							   "character with byte sequence ");
		append_bytes(&reader->message, encoding, s, len);
		appendStringInfo(&reader->message,
						 " in encoding \"%s\" has no equivalent in encoding \"%s\"",
						 pg_encoding_to_char(encoding),
						 pg_encoding_to_char(reader->server_encoding));
	}
	reject->message = reader->message.data;
}

/*
 * Convert the record into reader->converted; false if it cannot be.  What
 * grows past the limit for records is refused, so that the length of a field
 * always fits an int.
 */
static bool
convert_record(EtlCsvReader *reader, const EtlCsvRecord *record, size_t *len,
			   EtlReject *reject)
{
	const char *raw = record->raw;
	size_t raw_len = record->raw_len;
	size_t done = 0;
	size_t used = 0;

	while (done < raw_len)
	{
		size_t slice = Min(raw_len - done, CONVERT_SLICE);
		size_t room = slice * MAX_CONVERSION_GROWTH + 1 + MAX_CONVERSION_GROWTH;
		int converted;

		CHECK_FOR_INTERRUPTS();
		reader->converted = etl_csv_grow(reader, reader->converted,
										 &reader->converted_size, used,
										 used + room);
		converted =
			pg_do_encoding_conversion_buf(reader->conversion,
										  reader->dialect.encoding,
										  reader->server_encoding,
										  (unsigned char *) unconstify(char *,
																	   raw) +
											  done,
										  (int) slice,
										  (unsigned char *) reader->converted +
											  used,
										  (int) room, true);
		used += strlen(reader->converted + used);
		done += converted;
		if ((int64) used > ETL_CSV_MAX_RECORD)
		{
			reject->category = ETL_CATEGORY_STRUCTURE;
			reject->sqlerrcode = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
			reject->message =
				"CSV record is longer than 1 GB in the server's encoding";
			return false;
		}

		/* a character may straddle two slices; anything else is an error */
		if ((size_t) converted < slice &&
			(converted == 0 || done - converted + slice == raw_len ||
			 slice - converted >= MAX_MULTIBYTE_CHAR_LEN))
		{
			reject_bytes(reader, raw + done, raw_len - done + record->follows,
						 reject);
			return false;
		}
	}
	*len = used;
	return true;
}

/*
 * The record's text in the server's encoding, not terminated; valid until the
 * next call or fill.  False if it has none: *reject says why.
 */
bool
etl_csv_to_server(EtlCsvReader *reader, const EtlCsvRecord *record,
				  const char **text, size_t *len, EtlReject *reject)
{
	size_t valid;

	*text = record->raw;
	*len = record->raw_len;
	if (!(record->flags & (ETL_CSV_NONASCII | ETL_CSV_NUL)))
		return true;
	if (OidIsValid(reader->conversion) && !(record->flags & ETL_CSV_NUL))
	{
		if (!convert_record(reader, record, len, reject))
			return false;
		*text = reader->converted;
		return true;
	}
	valid = pg_encoding_verifymbstr(reader->check_encoding, record->raw,
									(int) record->raw_len);
	if (valid == record->raw_len)
		return true;
	reject_bytes(reader, record->raw + valid,
				 record->raw_len - valid + record->follows, reject);
	return false;
}

/*
 * The record as NUL-terminated text in the server's encoding, palloc'd, or
 * NULL if it is not valid in the file's encoding.
 */
char *
etl_csv_text(EtlCsvReader *reader, const EtlCsvRecord *record)
{
	EtlReject reject;
	const char *text;
	size_t len;

	memset(&reject, 0, sizeof(reject));
	if (!etl_csv_to_server(reader, record, &text, &len, &reject))
		return NULL;
	if (len >= MaxAllocSize)
		return NULL;
	return pnstrdup(text, len);
}
