/*-------------------------------------------------------------------------
 *
 * csv_private.h
 *	  What the CSV files (csv_reader.c, csv_plain.c, csv_scan.c, csv_resync.c,
 *	  csv_split.c, encoding.c) share with each other and with nobody else.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_CSV_PRIVATE_H
#define ETL_CSV_PRIVATE_H

#include <csv.h>

#include "source/csv_scan.h"
#include "source/source.h"

#include "utils/memutils.h"

/* Bytes read ahead of the caller. */
#ifndef ETL_CSV_CHUNK
#define ETL_CSV_CHUNK (256 * 1024)
#endif

/* A record that grows past this is looked through before it is kept. */
#ifndef ETL_CSV_LOOKAHEAD
#define ETL_CSV_LOOKAHEAD (16 * 1024 * 1024)
#endif

/* The longest record, as COPY has it. */
#ifndef ETL_CSV_MAX_RECORD
#define ETL_CSV_MAX_RECORD ((int64) MaxAllocSize - 1)
#endif

/* EtlCsvRecord.flags */
#define ETL_CSV_QUOTED 0x01 /* may have quote characters */
#define ETL_CSV_ODD \
	0x02						   /* quotes may stand where RFC 4180
										 * forbids them */
#define ETL_CSV_UNTERMINATED 0x04  /* a quote is open at its end */
#define ETL_CSV_BAD_CR		 0x08  /* holds an unquoted carriage return */
#define ETL_CSV_NUL			 0x10  /* holds a zero byte */
#define ETL_CSV_NONASCII	 0x20  /* holds a byte above 127 */
#define ETL_CSV_MULTILINE	 0x40  /* spans lines through quotes */
#define ETL_CSV_CUT			 0x80  /* only its first bytes are kept */
#define ETL_CSV_BLANKS		 0x100 /* may hold spaces or tabs */

typedef enum EtlCsvEol
{
	ETL_CSV_EOL_UNKNOWN,
	ETL_CSV_EOL_LF, /* LF or CRLF */
	ETL_CSV_EOL_CR	/* any of CR, CRLF, LF */
} EtlCsvEol;

/* The bytes whose next place in the buffer the framer remembers. */
typedef enum EtlCsvMark
{
	ETL_CSV_MARK_LF,
	ETL_CSV_MARK_CR,
	ETL_CSV_MARK_QUOTE,
	ETL_CSV_MARK_NUL,
	ETL_CSV_MARK_HIGH,
	ETL_CSV_MARK_SPACE,
	ETL_CSV_MARK_TAB,
	ETL_CSV_NUM_MARKS
} EtlCsvMark;

/* Cuts buf[0..len) into records; may stop anywhere and go on later. */
typedef struct EtlCsvFramer
{
	char *buf;
	size_t len;
	bool eof;	  /* nothing comes after len */
	size_t start; /* of the record being framed */
	size_t scan;  /* everything before this has been seen */
	bool in_quote;
	bool escaped; /* the byte before scan was an escape */
	uint32 flags;
	size_t bad_cr; /* with ETL_CSV_BAD_CR: the first, from start */
	EtlCsvEol eol;
	int64 mark[ETL_CSV_NUM_MARKS];		/* -1: not known */
	int64 mark_from[ETL_CSV_NUM_MARKS]; /* where the search for it began */
} EtlCsvFramer;

struct EtlCsvReader
{
	MemoryContext context; /* holds the reader itself */
	EtlStream *stream;
	EtlCsvDialect dialect;
	int server_encoding;
	int check_encoding; /* what bytes above 127 must be valid in */
	Oid conversion;		/* InvalidOid where none is needed */
	bool embeds_ascii;	/* trail bytes may look like ASCII */
	bool bytewise;		/* the careful framer is needed */

	EtlCsvFramer framer;
	size_t size;	  /* of framer.buf */
	int64 buf_offset; /* of framer.buf[0] in the stream */
	List *retired;	  /* older buffers that records may point to */
	int64 line_no;	  /* of framer.start */
	int64 row_no;	  /* of the last record handed out */
	size_t need;	  /* known length of the record at start */
	bool cut;		  /* the record at start cannot be kept whole */
	uint32 cut_flags;
	bool skipping; /* to the next line end, after a cut */

	/* what is known of many records at once; see csv_plain.c */
	EtlCsvScan *scan; /* NULL: nothing */
	bool scan_tried;
	struct
	{
		const char *raw; /* of the last record, NULL if it is no such */
		int from;		 /* its place in the scan */
		int first;		 /* of its ends there */
		int nfields;
	} plain;

	/* the splitter's */
	struct csv_parser parser;
	char *scratch; /* the fields' bytes */
	size_t scratch_size;
	char *converted; /* the record in the server's encoding */
	size_t converted_size;
	EtlField *fields;
	size_t *null_lens;	/* of the dialect's null strings */
	bool null_is_empty; /* there is but the empty one */
	int nfields;
	const char *cursor; /* in the text being split by libcsv */
	const char *cursor_end;
	StringInfoData message; /* of the last reject */
};

/* in csv_reader.c */
extern int64 etl_csv_count_lines(const EtlCsvFramer *framer, size_t from,
								 size_t to);
extern bool etl_csv_append(EtlCsvReader *reader);
extern void etl_csv_go_to(EtlCsvReader *reader, size_t start, int64 line_no,
						  int64 row_no);

/* in csv_plain.c */
extern void etl_csv_plain_forget(EtlCsvReader *reader);
extern bool etl_csv_plain_next(EtlCsvReader *reader, EtlCsvRecord *record);
extern void etl_csv_plain_split(EtlCsvReader *reader,
								const EtlCsvRecord *record);

/* in encoding.c */
extern void etl_csv_encoding_open(EtlCsvReader *reader);
extern int etl_csv_char_len(const EtlCsvReader *reader, const char *s,
							size_t len);
extern bool etl_csv_to_server(EtlCsvReader *reader, const EtlCsvRecord *record,
							  const char **text, size_t *len, EtlReject *reject);
extern char *etl_csv_grow(EtlCsvReader *reader, char *buf, size_t *size,
						  size_t used, size_t wanted);

/* in csv_split.c */
extern void etl_csv_split_open(EtlCsvReader *reader);
extern bool etl_csv_is_null_string(const EtlCsvReader *reader, const char *data,
								   size_t len);

/* Is this text, which was not quoted, null? */
static inline bool
etl_csv_is_null(const EtlCsvReader *reader, const char *data, size_t len)
{
	return reader->null_is_empty ? len == 0 :
								   etl_csv_is_null_string(reader, data, len);
}

#endif /* ETL_CSV_PRIVATE_H */
