/*-------------------------------------------------------------------------
 *
 * csv_part.c
 *	  Reading a CSV file in parts, which begin anywhere in it.
 *
 * Where the escape is the quote, whether a byte stands inside quotes is told by
 * the number of quotes before it, odd or even, and a record ends at each line
 * feed that stands outside.  So the records of a part are known from the
 * parity of all that comes before it, and nothing else.  This holds as long as
 * the reader follows quotes by their parity, which it does but after a broken
 * quote (csv_resync.c); and where line ends are LF or CRLF, and no byte below
 * 128 is part of another character.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "source/csv_private.h"

#include "port/pg_bitutils.h"

#define LOW_BITS  UINT64CONST(0x0101010101010101)
#define LOW_SEVEN UINT64CONST(0x7f7f7f7f7f7f7f7f)

/* Where the next record begins in the (inflated) stream. */
int64
etl_csv_offset(const EtlCsvReader *reader)
{
	return reader->buf_offset + (int64) reader->framer.start;
}

/* The line that it begins with. */
int64
etl_csv_line_no(const EtlCsvReader *reader)
{
	return reader->line_no;
}

/*
 * May the rest of the file be read in parts?  It begins at *offset.  The first
 * line end of the file must be in the buffer, since it tells what the others
 * are.
 */
bool
etl_csv_divide(EtlCsvReader *reader, int64 *offset)
{
	EtlCsvFramer *framer = &reader->framer;

	*offset = etl_csv_offset(reader);
	if (reader->bytewise || reader->skipping || reader->cut)
		return false;
	if (framer->eol == ETL_CSV_EOL_UNKNOWN)
	{
		size_t start = framer->start;
		int64 line_no = reader->line_no;
		int64 row_no = reader->row_no;
		EtlCsvRecord record;

		(void) etl_csv_next(reader, &record);
		etl_csv_go_to(reader, start, line_no, row_no);
	}
	return framer->eol == ETL_CSV_EOL_LF;
}

/*
 * Like etl_csv_resync(), but the caller does not know yet whether the record is
 * rejected: if it is not, etl_csv_resync_undo() brings the reader back.
 */
bool
etl_csv_try_resync(EtlCsvReader *reader, EtlCsvRecord *record, int nfields,
				   EtlCsvPlace *place)
{
	place->start = reader->framer.start;
	place->line_no = reader->line_no;
	place->row_no = reader->row_no;
	place->need = reader->need;
	place->cut = reader->cut;
	place->skipping = reader->skipping;
	return etl_csv_resync(reader, record, nfields);
}

/* Go on behind the record, before the next one is asked for. */
void
etl_csv_resync_undo(EtlCsvReader *reader, const EtlCsvPlace *place)
{
	etl_csv_go_to(reader, place->start, place->line_no, place->row_no);
	reader->need = place->need;
	reader->cut = place->cut;
	reader->skipping = place->skipping;
}

/* Is the number of quotes in buf[0..len) odd? */
bool
etl_csv_quote_parity(const char *buf, size_t len, char quote)
{
	uint64 pattern = LOW_BITS * (unsigned char) quote;
	uint64 hits = 0;
	bool odd = false;
	size_t i = 0;

	for (; i + sizeof(uint64) <= len; i += sizeof(uint64))
	{
		uint64 word;

		/* The high bit of each byte that is a quote; parities add up. */
		memcpy(&word, buf + i, sizeof(word));
		word ^= pattern;
		hits ^= ~(((word & LOW_SEVEN) + LOW_SEVEN) | word | LOW_SEVEN);
	}
	odd = (pg_popcount64(hits) & 1) != 0;
	for (; i < len; i++)
		odd ^= buf[i] == quote;
	return odd;
}

/*
 * The first place in buf[0..len] that is behind a line feed outside quotes;
 * len + 1 if there is none.  *in_quote says whether buf[0] stands inside them,
 * and afterwards the same of what follows buf.
 */
size_t
etl_csv_line_start(const char *buf, size_t len, char quote, bool *in_quote)
{
	const char *s = buf;
	const char *end = buf + len;

	while (s < end)
	{
		const char *q = memchr(s, quote, end - s);
		const char *stop = q != NULL ? q : end;

		if (!*in_quote)
		{
			const char *lf = memchr(s, '\n', stop - s);

			if (lf != NULL)
				return lf + 1 - buf;
		}
		if (q == NULL)
			break;
		*in_quote = !*in_quote;
		s = q + 1;
	}
	return len + 1;
}
