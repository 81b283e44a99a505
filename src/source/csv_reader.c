/*-------------------------------------------------------------------------
 *
 * csv_reader.c
 *	  Cuts a stream of bytes into CSV records.
 *
 * Where a record ends is decided exactly as COPY decides it: by the parity
 * of quotes, wherever in a field they stand, with an escape character that
 * counts inside quotes only.  A file that COPY reads without an error hence
 * gives COPY's records.  Where COPY would give up (mixed line ends, a lone
 * carriage return, a quote that never closes) the record at fault is marked
 * and the file goes on.
 *
 * Invariants:
 *	- Between two fills the buffer's contents do not move, so that records
 *	  stay valid.  A buffer that must grow in between is kept until the next
 *	  fill (reader->retired).
 *	- framer.start is the first byte not handed out; buf_offset, line_no and
 *	  row_no belong to it.
 *	- Memory is bounded: past ETL_CSV_LOOKAHEAD bytes a record is followed to
 *	  its end without being kept; only if it does end within COPY's limit is
 *	  the stream rewound and the record read whole.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "source/csv_private.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"

/* Quotes and the like framed between two looks at the cancel flag. */
#define FRAME_STEPS 65536

/* Bytes framed one by one between two looks at the cancel flag, about. */
#define FRAME_SLICE (1024 * 1024)

#define HIGH_BITS UINT64CONST(0x8080808080808080)

/* The first byte above 127 in s[0..len), or len. */
static size_t
find_high(const char *s, size_t len)
{
	size_t i = 0;

	for (; i + 32 <= len; i += 32)
	{
		uint64 w[4];

		memcpy(w, s + i, sizeof(w));
		if ((w[0] | w[1] | w[2] | w[3]) & HIGH_BITS)
			break;
	}
	while (i < len && !IS_HIGHBIT_SET(s[i]))
		i++;
	return i;
}

/*
 * Look for the mark from here on.  Where an earlier search began further on,
 * and what it found is still ahead, only the bytes before it are new.
 */
static void
search_mark(EtlCsvFramer *framer, EtlCsvMark mark, char byte, size_t from)
{
	bool ahead = framer->mark[mark] >= (int64) from;
	size_t stop = ahead ? (size_t) framer->mark_from[mark] : framer->len;
	const char *s = framer->buf + from;
	const char *hit;

	if (mark == ETL_CSV_MARK_HIGH)
		hit = s + find_high(s, stop - from);
	else
	{
		hit = memchr(s, (unsigned char) byte, stop - from);
		if (hit == NULL)
			hit = framer->buf + stop;
	}
	if (!ahead || hit < framer->buf + stop)
		framer->mark[mark] = hit - framer->buf;
	framer->mark_from[mark] = (int64) from;
}

/*
 * Where the byte of this mark comes next at or after from; len if nowhere.
 * The answer is remembered together with where the search began, so that each
 * byte is looked at once per mark, and again only where a broken quote makes
 * the reader go back to it.
 */
static inline size_t
next_mark(EtlCsvFramer *framer, EtlCsvMark mark, char byte, size_t from)
{
	if (framer->mark[mark] < (int64) from ||
		framer->mark_from[mark] > (int64) from)
		search_mark(framer, mark, byte, from);
	return (size_t) framer->mark[mark];
}

/* Forget the marks: the buffer's contents changed. */
static void
reset_marks(EtlCsvFramer *framer)
{
	int i;

	for (i = 0; i < ETL_CSV_NUM_MARKS; i++)
		framer->mark[i] = -1;
}

/*
 * An unquoted carriage return stands at pos.  True if it ends the record; the
 * next one starts at *next.  False: *wait says that the byte after it has not
 * been read yet; otherwise the record is bad and goes on.
 */
static bool
frame_cr(EtlCsvFramer *framer, size_t pos, size_t *next, bool *wait)
{
	*wait = (pos + 1 == framer->len && !framer->eof);
	if (*wait)
		return false;
	*next = pos + 1;
	if (pos + 1 < framer->len && framer->buf[pos + 1] == '\n')
	{
		*next = pos + 2;
		if (framer->eol == ETL_CSV_EOL_UNKNOWN)
			framer->eol = ETL_CSV_EOL_LF;
		return true;
	}
	if (framer->eol == ETL_CSV_EOL_UNKNOWN)
		framer->eol = ETL_CSV_EOL_CR;
	if (framer->eol == ETL_CSV_EOL_CR)
		return true;
	if (!(framer->flags & ETL_CSV_BAD_CR))
		framer->bad_cr = pos - framer->start;
	framer->flags |= ETL_CSV_BAD_CR;
	return false;
}

/*
 * Go on framing with memchr; for dialects whose escape is the quote and
 * encodings in which a byte below 128 is always a character.  True when the
 * record ends at *end and the next one starts at *next.
 */
static bool
frame_fast(EtlCsvFramer *framer, char quote, char delimiter, size_t *end,
		   size_t *next)
{
	const char *buf = framer->buf;
	size_t len = framer->len;

	for (uint32 steps = 1;; steps++)
	{
		size_t q = next_mark(framer, ETL_CSV_MARK_QUOTE, quote, framer->scan);
		size_t lf;
		size_t cr;
		bool wait;

		if (steps % FRAME_STEPS == 0)
			CHECK_FOR_INTERRUPTS();
		if (framer->in_quote)
		{
			framer->scan = q;
			if (q == len || (q + 1 == len && !framer->eof))
				return false;
			framer->scan = q + 1;
			if (q + 1 < len && buf[q + 1] == quote)
			{
				framer->scan = q + 2;
				continue;
			}
			framer->in_quote = false;
			if (q + 1 < len && buf[q + 1] != delimiter && buf[q + 1] != '\n' &&
				buf[q + 1] != '\r')
				framer->flags |= ETL_CSV_ODD;
			continue;
		}

		lf = next_mark(framer, ETL_CSV_MARK_LF, '\n', framer->scan);
		cr = next_mark(framer, ETL_CSV_MARK_CR, '\r', framer->scan);
		if (q < lf && q < cr)
		{
			framer->flags |= ETL_CSV_QUOTED;
			if (q > framer->start && buf[q - 1] != delimiter)
				framer->flags |= ETL_CSV_ODD;
			framer->in_quote = true;
			framer->scan = q + 1;
		}
		else if (lf < cr)
		{
			if (framer->eol == ETL_CSV_EOL_UNKNOWN)
				framer->eol = ETL_CSV_EOL_LF;
			*end = lf;
			*next = lf + 1;
			return true;
		}
		else
		{
			framer->scan = cr;
			if (cr == len)
				return false;
			*end = cr;
			if (frame_cr(framer, cr, next, &wait))
				return true;
			if (wait)
				return false;
			framer->scan = cr + 1;
		}
	}
}

/*
 * The same byte by byte, for an escape that differs from the quote and for
 * encodings whose trail bytes look like ASCII.
 */
static bool
frame_bytewise(EtlCsvReader *reader, EtlCsvFramer *framer, size_t *end,
			   size_t *next)
{
	char quote = reader->dialect.quote;
	char escape = reader->dialect.escape;
	bool own_escape = (escape != quote);
	bool wait;

	for (; framer->scan < framer->len; framer->scan++)
	{
		char c = framer->buf[framer->scan];

		if ((framer->scan & (FRAME_SLICE - 1)) == 0)
			CHECK_FOR_INTERRUPTS();
		if (reader->embeds_ascii && IS_HIGHBIT_SET(c))
		{
			size_t left = framer->len - framer->scan;

			if (left < MAX_MULTIBYTE_CHAR_LEN && !framer->eof)
				return false;
			framer->scan += etl_csv_char_len(reader, framer->buf + framer->scan,
											 left) -
							1;
			framer->escaped = false;
			continue;
		}
		if (own_escape && framer->in_quote && c == escape)
			framer->escaped = !framer->escaped;
		if (c == quote && !framer->escaped)
		{
			framer->in_quote = !framer->in_quote;
			framer->flags |= ETL_CSV_QUOTED | ETL_CSV_ODD;
		}
		if (!own_escape || c != escape)
			framer->escaped = false;
		if (framer->in_quote || (c != '\n' && c != '\r'))
			continue;
		*end = framer->scan;
		if (c == '\n')
		{
			if (framer->eol == ETL_CSV_EOL_UNKNOWN)
				framer->eol = ETL_CSV_EOL_LF;
			*next = framer->scan + 1;
			return true;
		}
		if (frame_cr(framer, framer->scan, next, &wait))
			return true;
		if (wait)
			return false;
	}
	return false;
}

/* Go on framing with the framer that the dialect and the encoding need. */
static inline bool
frame(EtlCsvReader *reader, EtlCsvFramer *framer, size_t *end, size_t *next)
{
	if (reader->bytewise)
		return frame_bytewise(reader, framer, end, next);
	return frame_fast(framer, reader->dialect.quote, reader->dialect.delimiter,
					  end, next);
}

/* How many lines end in buf[from..to), which lies in one record. */
int64
etl_csv_count_lines(const EtlCsvFramer *framer, size_t from, size_t to)
{
	const char *s = framer->buf + from;
	const char *stop = framer->buf + to;
	const char *hit;
	int64 count = 0;

	while (s < stop && (hit = memchr(s, '\n', stop - s)) != NULL)
	{
		count++;
		s = hit + 1;
	}
	if (framer->eol != ETL_CSV_EOL_CR)
		return count;
	for (s = framer->buf + from;
		 s < stop && (hit = memchr(s, '\r', stop - s)) != NULL; s = hit + 1)
	{
		if (hit + 1 >= framer->buf + framer->len || hit[1] != '\n')
			count++;
	}
	return count;
}

/* Let framing start afresh at the given place of the buffer. */
void
etl_csv_go_to(EtlCsvReader *reader, size_t start, int64 line_no, int64 row_no)
{
	EtlCsvFramer *framer = &reader->framer;

	framer->start = framer->scan = start;
	framer->in_quote = framer->escaped = false;
	framer->flags = 0;
	reader->plain.raw = NULL;
	reader->line_no = line_no;
	reader->row_no = row_no;
	reader->need = 0;
	reader->cut = false;
	reader->skipping = false;
}

/* Hand out buf[start..end) as a record; the next one starts at next. */
static void
emit_record(EtlCsvReader *reader, EtlCsvRecord *record, size_t end, size_t next)
{
	EtlCsvFramer *framer = &reader->framer;
	int64 inner = 0;

	reader->plain.raw = NULL;
	record->raw = framer->buf + framer->start;
	record->raw_len = end - framer->start;
	record->line_no = reader->line_no;
	record->row_no = ++reader->row_no;
	record->byte_offset = reader->buf_offset + (int64) framer->start;
	if (next_mark(framer, ETL_CSV_MARK_NUL, '\0', framer->start) < end)
		framer->flags |= ETL_CSV_NUL;
	if (next_mark(framer, ETL_CSV_MARK_HIGH, 0, framer->start) < end)
		framer->flags |= ETL_CSV_NONASCII;
	if (next_mark(framer, ETL_CSV_MARK_SPACE, ' ', framer->start) < end ||
		next_mark(framer, ETL_CSV_MARK_TAB, '\t', framer->start) < end)
		framer->flags |= ETL_CSV_BLANKS;
	if (framer->flags & ETL_CSV_QUOTED)
		inner = etl_csv_count_lines(framer, framer->start, end);
	if (inner > 0)
		framer->flags |= ETL_CSV_MULTILINE;
	record->flags = framer->flags;
	record->bad_cr = framer->bad_cr;
	record->follows = (uint32) Min(framer->len - end, MAX_MULTIBYTE_CHAR_LEN);

	reader->line_no += inner + (next > end ? 1 : 0);
	reader->need = 0;
	framer->start = framer->scan = next;
	framer->in_quote = framer->escaped = false;
	framer->flags = 0;
}

/*
 * Skip to the start of the next physical line.  False if the buffer holds no
 * line end: everything seen is then dropped.
 */
static bool
skip_line(EtlCsvReader *reader)
{
	EtlCsvFramer *framer = &reader->framer;
	size_t pos;

	for (pos = framer->start; pos < framer->len; pos++)
	{
		size_t next = pos + 1;
		bool wait = false;

		if (framer->buf[pos] == '\n')
		{
			if (framer->eol == ETL_CSV_EOL_UNKNOWN)
				framer->eol = ETL_CSV_EOL_LF;
		}
		else if (framer->buf[pos] != '\r' ||
				 !frame_cr(framer, pos, &next, &wait))
		{
			if (wait)
				break;
			continue;
		}
		etl_csv_go_to(reader, next, reader->line_no + 1, reader->row_no);
		return true;
	}
	etl_csv_go_to(reader, pos, reader->line_no, reader->row_no);
	return false;
}

/*
 * The next record; ETL_CSV_NEED_FILL when the buffer holds no further whole
 * one, ETL_CSV_END when the stream does not.
 */
EtlCsvNext
etl_csv_next(EtlCsvReader *reader, EtlCsvRecord *record)
{
	EtlCsvFramer *framer = &reader->framer;
	size_t end;
	size_t next;

	if (reader->skipping && !skip_line(reader))
	{
		reader->skipping = !framer->eof;
		return framer->eof ? ETL_CSV_END : ETL_CSV_NEED_FILL;
	}
	if (reader->cut)
	{
		reader->cut = false;
		framer->flags |= reader->cut_flags | ETL_CSV_CUT;
		emit_record(reader, record, framer->len, framer->len);
		reader->skipping = true;
		return ETL_CSV_RECORD;
	}
	if (etl_csv_plain_next(reader, record))
		return ETL_CSV_RECORD;
	if (frame(reader, framer, &end, &next))
	{
		/* What follows it may have to be shown, wherever the buffer ends. */
		if (framer->len - end < MAX_MULTIBYTE_CHAR_LEN && !framer->eof)
			return ETL_CSV_NEED_FILL;
		emit_record(reader, record, end, next);
		return ETL_CSV_RECORD;
	}
	if (!framer->eof)
		return ETL_CSV_NEED_FILL;
	if (framer->start >= framer->len)
		return ETL_CSV_END;
	if (framer->in_quote)
		framer->flags |= ETL_CSV_UNTERMINATED;
	emit_record(reader, record, framer->len, framer->len);
	return ETL_CSV_RECORD;
}

/* Read until the buffer is full or the stream ends. */
static void
read_buffer(EtlCsvReader *reader)
{
	EtlCsvFramer *framer = &reader->framer;

	etl_csv_plain_forget(reader);
	while (framer->len < reader->size)
	{
		size_t got = etl_stream_read(reader->stream, framer->buf + framer->len,
									 reader->size - framer->len);

		if (got == 0)
		{
			framer->eof = true;
			break;
		}
		framer->len += got;
	}
	reset_marks(framer);
}

/*
 * The record at the start of the buffer is long.  Follow it to its end
 * without keeping it, and decide whether it can be read whole
 * (reader->need) or only its first bytes are kept (reader->cut).  The stream
 * is then put back to where the buffer ends.
 */
static void
look_ahead(EtlCsvReader *reader)
{
	EtlCsvFramer *framer = &reader->framer;
	EtlCsvFramer probe = *framer;
	int64 before = (int64) (framer->scan - framer->start);
	size_t end = 0;
	size_t next = 0;
	bool found = false;

	probe.len = framer->len - framer->scan;
	probe.buf = palloc(probe.len + ETL_CSV_CHUNK + MAX_MULTIBYTE_CHAR_LEN);
	memcpy(probe.buf, framer->buf + framer->scan, probe.len);
	probe.start = probe.scan = 0;
	while (!found && !probe.eof && before <= ETL_CSV_MAX_RECORD)
	{
		size_t got;

		CHECK_FOR_INTERRUPTS();
		memmove(probe.buf, probe.buf + probe.scan, probe.len - probe.scan);
		probe.len -= probe.scan;
		before += (int64) probe.scan;
		probe.scan = 0;
		got = etl_stream_read(reader->stream, probe.buf + probe.len,
							  ETL_CSV_CHUNK);
		probe.len += got;
		probe.eof = (got == 0);
		reset_marks(&probe);
		found = frame(reader, &probe, &end, &next);
	}
	if (!found && probe.eof && !probe.in_quote)
	{
		found = true;
		end = next = probe.len;
	}
	if (found && before + (int64) end <= ETL_CSV_MAX_RECORD)
		reader->need = (size_t) before + next;
	else
	{
		reader->cut = true;
		reader->cut_flags = probe.in_quote ? ETL_CSV_UNTERMINATED : 0;
	}
	pfree(probe.buf);
	etl_stream_rewind(reader->stream, reader->buf_offset + (int64) framer->len);
}

/*
 * Free what no valid record points to any more, and what only a huge record
 * needed.
 */
static void
free_old(EtlCsvReader *reader)
{
	list_free_deep(reader->retired);
	reader->retired = NIL;
	if (reader->scratch_size > ETL_CSV_LOOKAHEAD)
	{
		pfree(reader->scratch);
		reader->scratch = NULL;
		reader->scratch_size = 0;
	}
	if (reader->converted_size > ETL_CSV_LOOKAHEAD)
	{
		pfree(reader->converted);
		reader->converted = NULL;
		reader->converted_size = 0;
	}
}

/*
 * Read more.  All records and fields handed out so far become invalid.  The
 * buffer grows with the record in it and shrinks again after it.
 */
void
etl_csv_fill(EtlCsvReader *reader)
{
	EtlCsvFramer *framer = &reader->framer;
	size_t tail = framer->len - framer->start;
	size_t size = ETL_CSV_CHUNK;

	free_old(reader);
	if (framer->eof || reader->cut)
		return;
	if (tail >= reader->need)
		reader->need = 0;
	if (tail >= ETL_CSV_LOOKAHEAD && reader->need == 0 && !reader->skipping)
	{
		look_ahead(reader);
		if (reader->cut)
			return;
	}
	while (size / 2 < tail && reader->need == 0)
		size *= 2;
	size = Max(size, reader->need + MAX_MULTIBYTE_CHAR_LEN);
	if (size != reader->size)
	{
		char *fresh = MemoryContextAllocHuge(reader->context, size);

		memcpy(fresh, framer->buf + framer->start, tail);
		pfree(framer->buf);
		framer->buf = fresh;
		reader->size = size;
	}
	else if (framer->start > 0)
		memmove(framer->buf, framer->buf + framer->start, tail);
	reader->buf_offset += (int64) framer->start;
	framer->scan -= framer->start;
	framer->start = 0;
	framer->len = tail;
	read_buffer(reader);
}

/*
 * Read more behind what the buffer holds, without moving what records point
 * to.  False at the end of the stream.
 */
bool
etl_csv_append(EtlCsvReader *reader)
{
	EtlCsvFramer *framer = &reader->framer;

	if (framer->eof)
		return false;
	if (framer->len == reader->size)
	{
		MemoryContext old = MemoryContextSwitchTo(reader->context);
		size_t size = reader->size + Max(reader->size / 2, ETL_CSV_CHUNK);
		char *fresh = MemoryContextAllocHuge(reader->context, size);

		memcpy(fresh, framer->buf, framer->len);
		reader->retired = lappend(reader->retired, framer->buf);
		framer->buf = fresh;
		reader->size = size;
		MemoryContextSwitchTo(old);
	}
	read_buffer(reader);
	return true;
}

/* Throw if the file starts with the mark of an encoding that is none of ours. */
static void
check_foreign_bom(const EtlCsvReader *reader)
{
	static const struct
	{
		const char *name;
		int len;
		const char bytes[4];
	} marks[] = {
		{"UTF-32LE", 4, {'\xff', '\xfe', '\0', '\0'}},
		{"UTF-32BE", 4, {'\0', '\0', '\xfe', '\xff'}},
		{"UTF-16LE", 2, {'\xff', '\xfe'}},
		{"UTF-16BE", 2, {'\xfe', '\xff'}},
	};
	const EtlCsvFramer *framer = &reader->framer;
	bool may_be_text = reader->dialect.encoding != PG_UTF8 &&
					   memchr(framer->buf, '\0', Min(framer->len, 4)) == NULL;
	size_t i;

	for (i = 0; i < lengthof(marks) && !may_be_text; i++)
	{
		if (framer->len >= (size_t) marks[i].len &&
			memcmp(framer->buf, marks[i].bytes, marks[i].len) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
					 errmsg("the data is encoded in %s, which is not supported",
							marks[i].name),
					 errhint("Convert it first, for example with \"iconv -f %s -t UTF-8\".",
							 marks[i].name)));
	}
}

/* Pass over a byte order mark and the lines that the caller does not want. */
static void
skip_preamble(EtlCsvReader *reader, int skip_lines)
{
	EtlCsvFramer *framer = &reader->framer;

	check_foreign_bom(reader);
	if (reader->dialect.encoding == PG_UTF8 && framer->len >= 3 &&
		memcmp(framer->buf, "\xef\xbb\xbf", 3) == 0)
		etl_csv_go_to(reader, 3, 1, 0);
	while (skip_lines > 0)
	{
		if (skip_line(reader))
			skip_lines--;
		else if (framer->eof)
			break;
		else
			etl_csv_fill(reader);
	}
}

/*
 * Records are framed before they are converted, so the characters that
 * structure them must be the same byte in both encodings.
 */
static void
check_dialect(const EtlCsvReader *reader)
{
	const EtlCsvDialect *dialect = &reader->dialect;

	if ((IS_HIGHBIT_SET(dialect->delimiter) || IS_HIGHBIT_SET(dialect->quote) ||
		 IS_HIGHBIT_SET(dialect->escape)) &&
		dialect->encoding != reader->server_encoding)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("delimiter, quote and escape must be ASCII characters when the file's encoding \"%s\" is not the server's",
						pg_encoding_to_char(dialect->encoding)),
				 errhint("Convert the file to the server's encoding first.")));
}

/* A reader of what the stream holds from where it stands. */
static EtlCsvReader *
reader_create(EtlStream *stream, const EtlCsvDialect *dialect)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "etl csv reader",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EtlCsvReader *reader = palloc0(sizeof(EtlCsvReader));

	reader->context = context;
	reader->stream = stream;
	reader->dialect = *dialect;
	reader->server_encoding = GetDatabaseEncoding();
	check_dialect(reader);
	etl_csv_encoding_open(reader);
	reader->bytewise = reader->embeds_ascii || dialect->escape != dialect->quote;
	etl_csv_split_open(reader);
	reader->size = ETL_CSV_CHUNK;
	reader->framer.buf = palloc(reader->size);
	etl_csv_go_to(reader, 0, 1, 0);
	read_buffer(reader);
	MemoryContextSwitchTo(old);
	return reader;
}

/*
 * Start reading records.  The stream stays the caller's and must outlive the
 * reader, and so must the dialect's null strings.  A dialect that cannot work
 * (no conversion from the file's encoding to the server's) is an error here,
 * before anything is handed out.
 */
EtlCsvReader *
etl_csv_open(EtlStream *stream, const EtlCsvDialect *dialect, int skip_lines)
{
	EtlCsvReader *reader = reader_create(stream, dialect);

	skip_preamble(reader, skip_lines);
	return reader;
}

/*
 * The same for parts of a file that etl_csv_divide() found divisible.  To be
 * followed by etl_csv_move_to().
 */
EtlCsvReader *
etl_csv_open_part(EtlStream *stream, const EtlCsvDialect *dialect)
{
	EtlCsvReader *reader = reader_create(stream, dialect);

	reader->framer.eol = ETL_CSV_EOL_LF;
	return reader;
}

/*
 * Go to the given offset of the stream, where a record begins.  Its line is
 * the first, and so is the record.
 */
void
etl_csv_move_to(EtlCsvReader *reader, int64 offset)
{
	free_old(reader);
	etl_stream_rewind(reader->stream, offset);
	reader->framer.len = 0;
	reader->framer.eof = false;
	reader->buf_offset = offset;
	etl_csv_go_to(reader, 0, 1, 0);
	read_buffer(reader);
}

/* The records so far were the header: data records count from 1. */
void
etl_csv_header_done(EtlCsvReader *reader)
{
	reader->row_no = 0;
}

/* Free the reader and all that it handed out; the stream stays open. */
void
etl_csv_close(EtlCsvReader *reader)
{
	MemoryContextDelete(reader->context);
}
