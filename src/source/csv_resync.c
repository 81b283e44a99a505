/*-------------------------------------------------------------------------
 *
 * csv_resync.c
 *	  After a broken quote: where does the next good record start?
 *
 * A quote too many makes the reader take line ends for data, and the record
 * swallows the ones after it.  When the flow has rejected such a record
 * (that is the evidence that COPY would have failed too), we look for the
 * first line inside it that is a record in its own right: quoted as RFC 4180
 * demands, terminated, and with as many fields as the target takes.  There
 * the reader starts again, and the rejected record ends before it.
 *
 * The search costs at most a small multiple of the swallowed bytes, by a
 * budget; a file with many broken quotes is hence read in linear time, since
 * each swallows up to the next one only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "source/csv_private.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"

/* Bytes looked at between two looks at the cancel flag, about. */
#define SCAN_SLICE (1024 * 1024)

/* How a record that starts at a given place looks. */
typedef enum Shape
{
	SHAPE_REGULAR, /* well quoted and terminated */
	SHAPE_IRREGULAR,
	SHAPE_OPEN,	  /* the stream ends inside quotes */
	SHAPE_UNKNOWN /* the buffer ends before it does */
} Shape;

typedef struct ShapeScan
{
	size_t pos; /* in the buffer; afterwards its next record */
	int nfields;
	int max_fields; /* more are irregular */
} ShapeScan;

/* Pass over blanks where the dialect trims them. */
static void
scan_blanks(const EtlCsvReader *reader, ShapeScan *scan)
{
	const EtlCsvFramer *framer = &reader->framer;

	while (reader->dialect.trim && scan->pos < framer->len &&
		   (framer->buf[scan->pos] == ' ' || framer->buf[scan->pos] == '\t') &&
		   framer->buf[scan->pos] != reader->dialect.delimiter)
		scan->pos++;
}

/*
 * scan->pos is behind an opening quote; go behind the closing one.  Anything
 * but SHAPE_REGULAR means that there is none.
 */
static Shape
scan_quoted(const EtlCsvReader *reader, ShapeScan *scan)
{
	const EtlCsvFramer *framer = &reader->framer;
	const EtlCsvDialect *dialect = &reader->dialect;
	Shape at_end = framer->eof ? SHAPE_OPEN : SHAPE_UNKNOWN;

	while (scan->pos < framer->len)
	{
		char c = framer->buf[scan->pos];
		bool last = (scan->pos + 1 >= framer->len);

		if ((scan->pos & (SCAN_SLICE - 1)) == 0)
			CHECK_FOR_INTERRUPTS();
		if (reader->embeds_ascii && IS_HIGHBIT_SET(c))
		{
			scan->pos += etl_csv_char_len(reader, framer->buf + scan->pos,
										  framer->len - scan->pos);
			continue;
		}
		if (c == dialect->quote || c == dialect->escape)
		{
			if (last && !framer->eof)
				return SHAPE_UNKNOWN;
			if (c == dialect->escape && !last &&
				(framer->buf[scan->pos + 1] == dialect->escape ||
				 framer->buf[scan->pos + 1] == dialect->quote))
			{
				scan->pos += 2;
				continue;
			}
			if (c == dialect->quote)
			{
				scan->pos++;
				return SHAPE_REGULAR;
			}
		}
		scan->pos++;
	}
	return at_end;
}

/* Go to the end of an unquoted field; false if there is a quote in it. */
static bool
scan_unquoted(const EtlCsvReader *reader, ShapeScan *scan)
{
	const EtlCsvFramer *framer = &reader->framer;

	while (scan->pos < framer->len)
	{
		char c = framer->buf[scan->pos];

		if (c == reader->dialect.delimiter || c == '\n' || c == '\r')
			return true;
		if (c == reader->dialect.quote)
			return false;
		if (reader->embeds_ascii && IS_HIGHBIT_SET(c))
			scan->pos += etl_csv_char_len(reader, framer->buf + scan->pos,
										  framer->len - scan->pos);
		else
			scan->pos++;
	}
	return true;
}

/*
 * scan->pos is behind a field.  True if the record ends or is seen to be
 * wrong here (*shape); false if another field follows.
 */
static bool
scan_end(const EtlCsvReader *reader, ShapeScan *scan, Shape *shape)
{
	const EtlCsvFramer *framer = &reader->framer;
	size_t left = framer->len - scan->pos;
	const char *s = framer->buf + scan->pos;

	*shape = SHAPE_REGULAR;
	if (left == 0 || (left == 1 && *s == '\r'))
	{
		if (!framer->eof)
			*shape = SHAPE_UNKNOWN;
		else if (left == 1 && framer->eol != ETL_CSV_EOL_CR)
			*shape = SHAPE_IRREGULAR;
		scan->pos += left;
		return true;
	}
	scan->pos++;
	if (*s == reader->dialect.delimiter)
		return false;
	if (*s == '\r' && s[1] == '\n')
		scan->pos++;
	else if (*s != '\n' && (*s != '\r' || framer->eol != ETL_CSV_EOL_CR))
		*shape = SHAPE_IRREGULAR;
	return true;
}

/* What the record that starts at scan->pos looks like. */
static Shape
scan_record(const EtlCsvReader *reader, ShapeScan *scan)
{
	const EtlCsvFramer *framer = &reader->framer;
	Shape shape;

	for (scan->nfields = 1; scan->nfields <= scan->max_fields; scan->nfields++)
	{
		scan_blanks(reader, scan);
		if (scan->pos < framer->len &&
			framer->buf[scan->pos] == reader->dialect.quote)
		{
			scan->pos++;
			shape = scan_quoted(reader, scan);
			if (shape != SHAPE_REGULAR)
				return shape;
			scan_blanks(reader, scan);
		}
		else if (!scan_unquoted(reader, scan))
			return SHAPE_IRREGULAR;
		if (scan_end(reader, scan, &shape))
			return shape;
	}
	return SHAPE_IRREGULAR;
}

/*
 * The same, reading more of the stream where the answer lies behind the
 * buffer; a record longer than ETL_CSV_LOOKAHEAD is never the answer.
 * *budget is charged with the bytes looked at.
 */
static Shape
scan_record_reading(EtlCsvReader *reader, ShapeScan *scan, int64 *budget)
{
	size_t start = scan->pos;
	Shape shape;

	for (;;)
	{
		scan->pos = start;
		shape = scan_record(reader, scan);
		*budget -= (int64) (scan->pos - start);
		if (shape != SHAPE_UNKNOWN ||
			reader->framer.len - start >= ETL_CSV_LOOKAHEAD)
			return shape;
		if (*budget < 0 || !etl_csv_append(reader))
			return SHAPE_IRREGULAR;
	}
}

/* The start of the first line that begins in buf(from..to); 0 if none does. */
static size_t
next_line_start(const EtlCsvFramer *framer, size_t from, size_t to)
{
	size_t pos;

	if (framer->eol != ETL_CSV_EOL_CR)
	{
		const char *hit = memchr(framer->buf + from, '\n', to - from);

		pos = hit ? (size_t) (hit - framer->buf) + 1 : to;
		return pos < to ? pos : 0;
	}
	for (pos = from; pos + 1 < to; pos++)
	{
		if (framer->buf[pos] == '\n' ||
			(framer->buf[pos] == '\r' && framer->buf[pos + 1] != '\n'))
			return pos + 1;
	}
	return 0;
}

/* The first line in buf(start..end) that is a good record; 0 if none is. */
static size_t
find_good_line(EtlCsvReader *reader, size_t start, size_t end, int nfields)
{
	EtlCsvFramer *framer = &reader->framer;
	int64 budget = 16 * (int64) (end - start) + 4 * ETL_CSV_LOOKAHEAD;
	size_t pos = start;

	while (budget > 0 && (pos = next_line_start(framer, pos, end)) != 0)
	{
		ShapeScan scan = {pos, 0, nfields};

		CHECK_FOR_INTERRUPTS();
		if (scan_record_reading(reader, &scan, &budget) == SHAPE_REGULAR &&
			scan.nfields == nfields)
			return pos;
	}
	return 0;
}

/* Is everything in buf[pos..end) well-quoted records of two fields or more? */
static bool
all_are_records(const EtlCsvReader *reader, size_t pos, size_t end)
{
	ShapeScan scan = {pos, 0, INT_MAX};

	while (scan.pos < end)
	{
		CHECK_FOR_INTERRUPTS();
		if (scan_record(reader, &scan) != SHAPE_REGULAR || scan.nfields < 2)
			return false;
	}
	return true;
}

/* Let *record end before pos and the reader go on there. */
static void
cut_record(EtlCsvReader *reader, EtlCsvRecord *record, size_t start, size_t pos)
{
	EtlCsvFramer *framer = &reader->framer;
	size_t end = pos;

	if (framer->buf[end - 1] == '\n')
		end--;
	if (end > start && framer->buf[end - 1] == '\r')
		end--;
	record->raw = framer->buf + start;
	record->raw_len = end - start;
	record->follows = (uint32) Min(framer->len - end, MAX_MULTIBYTE_CHAR_LEN);
	record->flags &= ETL_CSV_NONASCII | ETL_CSV_BAD_CR;
	record->flags |= ETL_CSV_QUOTED | ETL_CSV_ODD | ETL_CSV_BLANKS;
	if (record->bad_cr >= record->raw_len)
		record->flags &= ~ETL_CSV_BAD_CR;
	if (memchr(record->raw, '\0', record->raw_len) != NULL)
		record->flags |= ETL_CSV_NUL;
	etl_csv_go_to(reader, pos,
				  record->line_no + etl_csv_count_lines(framer, start, pos),
				  record->row_no);
}

/*
 * *record, which belongs to the buffer's present contents, was rejected.  If
 * a broken quote made it swallow other records, cut it before the first of
 * them, let etl_csv_next() go on there (handing out again what may have been
 * handed out before) and return true.  What was wrong with the whole record
 * may not be true of what is left of it: etl_csv_split() tells anew, and
 * always finds a quote that is not closed.
 *
 * A record that no quote closes up to the end of the file, and in which no
 * line has nfields fields, is cut after its first line if the lines after it
 * are well-formed records of two fields or more: then each will be a reject
 * of its own.  Otherwise it stays whole: that is what a file looks like that
 * was cut off inside a long text, and one reject can be mended.  If only its
 * first bytes are kept (ETL_CSV_CUT) it is always cut after its first line.
 */
bool
etl_csv_resync(EtlCsvReader *reader, EtlCsvRecord *record, int nfields)
{
	EtlCsvFramer *framer = &reader->framer;
	size_t start;
	size_t end;
	size_t first;
	size_t pos;

	if (!(record->flags & (ETL_CSV_MULTILINE | ETL_CSV_UNTERMINATED)) ||
		record->byte_offset < reader->buf_offset)
		return false;
	start = (size_t) (record->byte_offset - reader->buf_offset);
	end = start + record->raw_len;
	first = next_line_start(framer, start, end);
	if (first == 0)
		return false;
	if (!(record->flags & ETL_CSV_UNTERMINATED))
	{
		ShapeScan scan = {start, 0, INT_MAX};

		if (scan_record(reader, &scan) == SHAPE_REGULAR)
			return false;
	}
	pos = find_good_line(reader, start, end, nfields);
	if (pos == 0 && (record->flags & ETL_CSV_UNTERMINATED) &&
		((record->flags & ETL_CSV_CUT) || all_are_records(reader, first, end)))
		pos = first;
	if (pos == 0)
		return false;
	cut_record(reader, record, start, pos);
	return true;
}
