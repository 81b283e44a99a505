/*-------------------------------------------------------------------------
 *
 * csv_plain.c
 *	  Records that a scan of the bytes covers: nearly all there are.
 *
 * A dialect of one escape, which is the quote, lines that end with a line
 * feed, an encoding whose characters hold no ASCII bytes: then csv_scan.c
 * tells where records and fields end.  A record in which something is odd, one
 * that is longer than a scan, and the last one of a buffer are left to the
 * careful code.  Both ways give the same records, and either may go on where
 * the other stopped.
 *
 * Invariants:
 *	- The scan describes the buffer's present contents from scan->start on;
 *	  etl_csv_plain_forget() is called before they change or move.
 *	- What the scan knows of a record counts only if the record begins where the
 *	  scan thinks that one does; else the bytes are scanned anew.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "etl_patterns.h"
#include "source/csv_private.h"

/* May records of this reader be scanned? */
static inline bool
is_able(const EtlCsvReader *reader)
{
	const EtlCsvDialect *dialect = &reader->dialect;

	return etl_csv_scan_way != ETL_CSV_SCAN_NONE && !reader->bytewise &&
		   !dialect->trim && dialect->delimiter != '\0' &&
		   dialect->quote != '\0' && !IS_HIGHBIT_SET(dialect->delimiter) &&
		   !IS_HIGHBIT_SET(dialect->quote);
}

/* Prepares for a reader's records, if they can be scanned. */
static void
open_scan(EtlCsvReader *reader)
{
	reader->scan_tried = true;
	if (!is_able(reader))
		return;
	reader->scan = MemoryContextAlloc(reader->context, sizeof(EtlCsvScan));
	reader->scan->delimiter = reader->dialect.delimiter;
	reader->scan->quote = reader->dialect.quote;
	reader->scan->start = 0;
	reader->scan->len = 0;
}

/* The buffer's contents change. */
void
etl_csv_plain_forget(EtlCsvReader *reader)
{
	if (reader->scan != NULL)
		reader->scan->len = 0;
	reader->plain.raw = NULL;
}

/*
 * Does a record that the scan has seen begin at the given place of the buffer?
 * Passes over those that the careful code has taken.
 */
static bool
find_record(EtlCsvScan *scan, size_t start)
{
	size_t place = start - scan->start;
	int previous;

	if (start < scan->start || place >= scan->len)
		return false;
	while (scan->record < scan->n_records &&
		   scan->ends[scan->records[scan->record]] < place)
		scan->record++;
	if (scan->record == scan->n_records)
		return false;
	previous = scan->record == 0 ? -1 :
								   scan->ends[scan->records[scan->record - 1]];
	return (size_t) (previous + 1) == place;
}

/*
 * The record at framer.start, if it is one of those that are scanned whole.
 * Else nothing has happened, and etl_csv_next() goes its other way.
 */
bool
etl_csv_plain_next(EtlCsvReader *reader, EtlCsvRecord *record)
{
	EtlCsvFramer *framer = &reader->framer;
	EtlCsvScan *scan = reader->scan;
	size_t start = framer->start;
	int64 inner = 0;
	int from;
	int to;

	if (framer->scan != start || framer->eol != ETL_CSV_EOL_LF)
		return false;
	if (scan == NULL)
	{
		if (!reader->scan_tried)
			open_scan(reader);
		if ((scan = reader->scan) == NULL)
			return false;
	}
	if (!find_record(scan, start))
	{
		if (start >= framer->len ||
			!etl_csv_scan_window(scan, framer->buf, start, framer->len))
			return false;
	}

	from = (int) (start - scan->start);
	to = scan->ends[scan->records[scan->record]];
	if (scan->has_odd && etl_csv_scan_any(scan->odd, from, to))
		return false;
	if (framer->len - (start + (to - from)) <= MAX_MULTIBYTE_CHAR_LEN)
		return false; /* too near to the end of the buffer */

	reader->plain.from = from;
	reader->plain.first = scan->record == 0 ?
							  0 :
							  scan->records[scan->record - 1] + 1;
	reader->plain.nfields = scan->records[scan->record] - reader->plain.first +
							1;
	scan->record++;

	record->flags = ETL_CSV_BLANKS;
	if (scan->has_quote)
		record->flags |= ETL_CSV_QUOTED;
	if (scan->has_high && etl_csv_scan_any(scan->high, from, to))
		record->flags |= ETL_CSV_NONASCII;
	framer->start = framer->scan = start + (to - from) + 1;
	if (to > from && framer->buf[scan->start + to - 1] == '\r')
		to--;
	record->raw = reader->plain.raw = framer->buf + start;
	record->raw_len = to - from;
	record->follows = MAX_MULTIBYTE_CHAR_LEN;
	record->bad_cr = 0;
	record->line_no = reader->line_no;
	record->row_no = ++reader->row_no;
	record->byte_offset = reader->buf_offset + (int64) start;
	if (scan->has_inner_lf)
		inner = etl_csv_count_lines(framer, start, start + (to - from));
	if (inner > 0)
		record->flags |= ETL_CSV_MULTILINE;
	reader->line_no += inner + 1;
	reader->need = 0;
	return true;
}

/* Two quotes become one; returns the new length. */
static size_t
unescape(char *data, size_t len, char quote)
{
	const char *end = data + len;
	const char *s = memchr(data, quote, len);
	char *out;

	if (s == NULL)
		return len;
	out = unconstify(char *, s);
	while (s < end)
	{
		const char *next = memchr(s + 2, quote, end - s - 2);
		size_t run = (next == NULL ? end : next) - (s + 1);

		memmove(out, s + 1, run);
		out += run;
		s += run + 1;
	}
	return out - data;
}

/*
 * The fields of a record that etl_csv_plain_next() has given last, and whose
 * text is raw.  The record is copied once; the fields' ends are set in the
 * copy.
 */
void
etl_csv_plain_split(EtlCsvReader *reader, const EtlCsvRecord *record)
{
	const EtlCsvScan *scan = reader->scan;
	const uint16 *ends = scan->ends + reader->plain.first;
	int nfields = reader->plain.nfields;
	int last = Min(nfields, ETL_CSV_MAX_FIELDS) - 1;
	EtlField *field = reader->fields;
	char quote = scan->has_quote ? scan->quote : '\0';
	char *copy = reader->scratch;
	char *data = copy;
	char *base; /* of the scan, as if it had been copied, too */

	memcpy(copy, record->raw, record->raw_len);
	base = copy - reader->plain.from;
	for (int i = 0; i <= last; i++, field++)
	{
		char *end = i == nfields - 1 ? copy + record->raw_len : base + ends[i];
		size_t len = end - data;

		*end = '\0';
		field->quoted = quote != '\0' && *data == quote;
		if (unlikely(field->quoted))
		{
			field->len = (int) unescape(data + 1, len - 2, quote);
			field->data = data + 1;
			field->data[field->len] = '\0';
		}
		else if (etl_csv_is_null(reader, data, len))
		{
			field->data = NULL;
			field->len = 0;
		}
		else
		{
			field->data = data;
			field->len = (int) len;
		}
		data = end + 1;
	}
	reader->nfields = nfields;
}
