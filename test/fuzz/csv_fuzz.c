/*-------------------------------------------------------------------------
 *
 * csv_fuzz.c
 *	  Random bytes for the CSV reader.
 *
 * The reader is built with a buffer of a few bytes, so that records of any size
 * meet its end, and reads whatever number of bytes the stream likes to give.
 * Each input is read several times, by each of the reader's ways and in other
 * pieces: records, fields and rejects must be the same.  Sanitizers see to the
 * rest.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "etl_patterns.h"
#include "fuzz.h"
#include "source/source.h"

struct EtlStream
{
	const char *data;
	size_t len;
	size_t at;
	uint64 random; /* decides how much is given at once; 0: all */
};

/* What has been read, in brief. */
typedef struct Summary
{
	uint64 hash;
	int64 records;
	int64 fields;
	int64 rejects;
	bool thrown;
} Summary;

int etl_csv_scan_way = ETL_CSV_SCAN_AUTO;

/* ------------------------------------------------------------------ */
/* the stream                                                           */

size_t
etl_stream_read(EtlStream *stream, char *buf, size_t len)
{
	size_t n = Min(len, stream->len - stream->at);

	if (stream->random != 0 && n > 1)
		n = 1 + fuzz_random(&stream->random) % Min(n, 97);
	memcpy(buf, stream->data + stream->at, n);
	stream->at += n;
	return n;
}

void
etl_stream_rewind(EtlStream *stream, int64 offset)
{
	if (offset < 0 || offset > (int64) stream->len)
		abort();
	stream->at = offset;
}

/* ------------------------------------------------------------------ */
/* reading                                                              */

static void
note(Summary *summary, const void *data, size_t len)
{
	const unsigned char *bytes = data;

	for (size_t i = 0; i < len; i++)
		summary->hash = (summary->hash ^ bytes[i]) * UINT64CONST(0x100000001b3);
}

/* The fields of a record, or why it has none. */
static void
note_fields(Summary *summary, bool good, const EtlField *fields, int nfields,
			const EtlReject *reject)
{
	if (!good)
	{
		if (reject->message == NULL)
			fuzz_fail("a reject without a message");
		summary->rejects++;
		note(summary, reject->message, strlen(reject->message));
		return;
	}
	note(summary, &nfields, sizeof(nfields));
	for (int i = 0; i < Min(nfields, ETL_CSV_MAX_FIELDS); i++)
	{
		summary->fields++;
		if (fields[i].data == NULL)
			continue;
		if (fields[i].data[fields[i].len] != '\0')
			fuzz_fail("a field without an end");
		if (strlen(fields[i].data) != (size_t) fields[i].len)
			fuzz_fail("a field with a zero byte");
		if (fuzz_encoding == PG_UTF8 &&
			pg_encoding_verifymbstr(PG_UTF8, fields[i].data, fields[i].len) !=
				fields[i].len)
			fuzz_fail("a field that is not valid");
		note(summary, fields[i].data, fields[i].len + 1);
	}
}

/* Read one record as a load does; wanted is the number of columns. */
static void
read_record(EtlCsvReader *reader, EtlCsvRecord *record, const EtlStream *stream,
			const EtlCsvDialect *dialect, int wanted, Summary *summary)
{
	EtlReject reject = {0};
	EtlField *fields;
	int nfields;
	bool good = etl_csv_split(reader, record, &fields, &nfields, &reject);

	if ((!good || nfields != wanted) && etl_csv_resync(reader, record, wanted))
	{
		memset(&reject, 0, sizeof(reject));
		good = etl_csv_split(reader, record, &fields, &nfields, &reject);
		/* Where characters are not converted the splitter looks at bytes. */
		if (good && PG_VALID_BE_ENCODING(dialect->encoding))
			fuzz_fail("a record cut at a broken quote has none");
	}
	note_fields(summary, good, fields, nfields, &reject);
	(void) etl_csv_text(reader, record);

	if (record->byte_offset < 0 ||
		record->byte_offset + record->raw_len > stream->len)
		fuzz_fail("a record outside of the file");
	if (memcmp(record->raw, stream->data + record->byte_offset,
			   record->raw_len) != 0)
		fuzz_fail("a record is not what the file has");
	note(summary, &record->byte_offset, sizeof(record->byte_offset));
	note(summary, &record->line_no, sizeof(record->line_no));
	note(summary, &record->row_no, sizeof(record->row_no));
	note(summary, &record->raw_len, sizeof(record->raw_len));
	summary->records++;
}

/* Read all of an input, in pieces that the random numbers decide. */
static Summary
read_all(const uint8 *data, size_t len, const EtlCsvDialect *dialect, int skip,
		 int wanted, uint64 random)
{
	static Summary summary;
	EtlStream stream = {(const char *) data, len, 0, random};
	int64 last_offset = -1;
	EtlCsvReader *reader;
	EtlCsvRecord record;
	EtlCsvNext next;
	jmp_buf on_error;

	memset(&summary, 0, sizeof(summary));
	fuzz_on_error = &on_error;
	if (setjmp(on_error) != 0)
	{
		summary.thrown = true;
		fuzz_free_all();
		return summary;
	}
	reader = etl_csv_open(&stream, dialect, skip);
	while ((next = etl_csv_next(reader, &record)) != ETL_CSV_END)
	{
		if (next == ETL_CSV_NEED_FILL)
		{
			etl_csv_fill(reader);
			continue;
		}
		if (record.byte_offset <= last_offset)
			fuzz_fail("a record comes twice");
		last_offset = record.byte_offset;
		read_record(reader, &record, &stream, dialect, wanted, &summary);
	}
	etl_csv_close(reader);
	fuzz_free_all();
	return summary;
}

/* The first bytes of an input say how it is to be read. */
void
fuzz_read_input(const uint8 *bytes, size_t len)
{
	static const char delimiters[] = ",;\t|";
	static const int encodings[] = {PG_UTF8, PG_UTF8, PG_UTF8,	 PG_LATIN1,
									PG_SJIS, PG_BIG5, PG_EUC_JP, PG_SQL_ASCII};
	static const char *nulls[] = {"", "\\N", "NULL"};
	EtlCsvDialect dialect = {0};
	static const int ways[] = {ETL_CSV_SCAN_NONE, ETL_CSV_SCAN_PORTABLE,
							   ETL_CSV_SCAN_AUTO};
	Summary right;
	Summary this;
	int wanted;
	int skip;
	uint64 random;

	if (len < 4)
		return;
	dialect.delimiter = delimiters[bytes[0] & 3];
	dialect.quote = (bytes[0] & 4) ? '\'' : '"';
	dialect.escape = (bytes[0] & 8) ? '\\' : dialect.quote;
	dialect.trim = (bytes[0] & 16) != 0;
	dialect.encoding = encodings[(bytes[0] >> 5) & 7];
	dialect.null_count = bytes[1] & 3;
	dialect.null_strings = nulls;
	skip = (bytes[1] >> 2) & 3;
	wanted = 1 + ((bytes[1] >> 4) & 7);
	fuzz_encoding = (bytes[1] & 128) ? PG_SQL_ASCII : PG_UTF8;
	random = 1 + bytes[2] + 256 * bytes[3];

	/* The careful code decides what is right. */
	etl_csv_scan_way = ETL_CSV_SCAN_NONE;
	right = read_all(bytes + 4, len - 4, &dialect, skip, wanted, 0);
	for (int i = 0; i < 2 * lengthof(ways); i++)
	{
		etl_csv_scan_way = ways[i / 2];
		this = read_all(bytes + 4, len - 4, &dialect, skip, wanted,
						i % 2 == 0 ? random : 0);
		if (this.hash != right.hash || this.records != right.records ||
			this.fields != right.fields || this.rejects != right.rejects ||
			this.thrown != right.thrown)
			fuzz_fail("another way to read it gives other records");
	}
}

/* ------------------------------------------------------------------ */
/* inputs                                                               */

/* Something that a CSV file may have, or better had not. */
static size_t
add_token(uint8 *to, size_t room, uint64 *random)
{
	static const struct
	{
		const char *bytes;
		size_t len;
	} tokens[] = {
		{",", 1},
		{",", 1},
		{";", 1},
		{"\t", 1},
		{"|", 1},
		{"\n", 1},
		{"\n", 1},
		{"\r\n", 2},
		{"\r", 1},
		{"\"", 1},
		{"\"", 1},
		{"\"\"", 2},
		{"\",\"", 3},
		{"\"\n", 2},
		{"'", 1},
		{"''", 2},
		{"\\", 1},
		{"\\\"", 2},
		{"\\N", 2},
		{"NULL", 4},
		{"\\.\n", 3},
		{"abc", 3},
		{" ", 1},
		{"12.5", 4},
		{"", 1},
		{"\xc3\xa9", 2},
		{"\xc3", 1},
		{"\xff", 1},
		{"\x83\\", 2},
		{"\x81", 1},
		{"\xef\xbb\xbf", 3},
		{"\xf0\x9f\x98\x80", 4},
		{"a,b,c\n", 6},
		{"1,\"x\",2\n", 8},
	};
	size_t n = fuzz_random(random) % (lengthof(tokens) + 1);
	size_t len;

	if (n == lengthof(tokens))
	{
		/* A run of bytes, about as long as what is looked at together. */
		len = fuzz_random(random) % 200;
		len = Min(room, len);
		memset(to, fuzz_random(random) % 20 == 0 ? '"' : 'x', len);
		return len;
	}
	len = Min(room, tokens[n].len);
	memcpy(to, tokens[n].bytes, len);
	return len;
}

size_t
fuzz_make_input(uint8 *bytes, uint64 *random)
{
	int ntokens = 1 << (fuzz_random(random) % 9);
	size_t len = 0;

	for (; len < 4; len++)
		bytes[len] = (uint8) fuzz_random(random);
	/* Most inputs are UTF-8 with double quotes, as most files are. */
	if (fuzz_random(random) % 2 == 0)
		bytes[0] &= 0x03;
	if (fuzz_random(random) % 8 == 0)
	{
		memcpy(bytes + len, "\xef\xbb\xbf", 3);
		len += 3;
	}
	ntokens = fuzz_random(random) % (4 * ntokens);
	while (ntokens-- > 0 && len < FUZZ_MAX_INPUT)
		len += add_token(bytes + len, FUZZ_MAX_INPUT - len, random);
	return len;
}

void
fuzz_end(void)
{
}
