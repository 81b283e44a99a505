/*-------------------------------------------------------------------------
 *
 * source.h
 *	  Where rows come from: streams of bytes, CSV records, typed values.
 *
 * The three stages of a file load are kept apart so that they can run in
 * different processes: a stream yields bytes, the CSV reader cuts them into
 * records and fields, the converter turns fields into Datums.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_SOURCE_H
#define ETL_SOURCE_H

#include <sys/stat.h>

#include "base/base.h"
#include "access/htup_details.h"
#include "access/tupdesc.h"

/* ------------------------------------------------------------------ */
/* in stream.c: bytes of one file, inflated where it is compressed      */

typedef enum EtlCompression
{
	ETL_COMPRESSION_AUTO,
	ETL_COMPRESSION_NONE,
	ETL_COMPRESSION_GZIP,
	ETL_COMPRESSION_ZSTD
} EtlCompression;

/* What identifies a file before it is read. */
typedef struct EtlFileInfo
{
	const char *path;
	uint64 device;
	uint64 inode;
	int64 size_bytes;		 /* on disk, as stored */
	TimestampTz modified_at; /* microsecond resolution */
} EtlFileInfo;

typedef struct EtlStream EtlStream;

extern void etl_file_stat(const char *path, EtlFileInfo *info);
extern void etl_file_info_set(EtlFileInfo *info, const char *path,
							  const struct stat *st);
extern TimestampTz etl_file_modified_at(const struct stat *st);
extern void etl_file_hash(const char *path, uint8 *sha256);
extern EtlStream *etl_stream_open_file(const EtlFileInfo *info,
									   EtlCompression compression);
extern EtlStream *etl_stream_open_part(const EtlFileInfo *info);
extern EtlStream *etl_stream_open_memory(const char *data, size_t len);
extern size_t etl_stream_read(EtlStream *stream, char *buf, size_t len);
extern void etl_stream_rewind(EtlStream *stream, int64 offset);
extern int64 etl_stream_file_bytes(const EtlStream *stream);
extern bool etl_stream_is_plain(const EtlStream *stream);
extern EtlCompression etl_stream_compression(const EtlStream *stream);
extern void etl_stream_read_at(EtlStream *stream, char *buf, size_t len,
							   int64 offset);
extern void etl_stream_hash_to(EtlStream *stream, int64 offset);
extern void etl_stream_check(const EtlStream *stream);
extern void etl_stream_close(EtlStream *stream, uint8 *sha256);

/* in files.c: an absolute path or a glob, as a sorted list of paths */
extern List *etl_files_expand(const char *source);
extern List *etl_files_look(const char *source, int *error, char **error_path);

/* ------------------------------------------------------------------ */
/* in csv_reader.c (records) and csv_split.c (fields)                   */

typedef struct EtlCsvDialect
{
	char delimiter;
	char quote;
	char escape;
	bool trim;	  /* strip blanks around unquoted fields */
	int encoding; /* of the file */
	int null_count;
	const char **null_strings; /* in the server's encoding; unquoted only */
} EtlCsvDialect;

/*
 * One record as it stands in the file, without its line end.  Valid until
 * the next etl_csv_fill().
 */
typedef struct EtlCsvRecord
{
	const char *raw; /* in the file's encoding, not terminated */
	size_t raw_len;
	int64 line_no;	   /* of its first line, from 1 */
	int64 row_no;	   /* among the data records, from 1 */
	int64 byte_offset; /* in the (inflated) stream */
	uint32 flags;	   /* private to the CSV files */
	uint32 follows;	   /* so many bytes of the file can be read behind it */
	size_t bad_cr;	   /* of the first carriage return that spoils it */
} EtlCsvRecord;

/*
 * ETL_FIELD_SLACK bytes behind a field may be read, whatever they are, so that
 * its last bytes can be looked at together with others.
 */
#define ETL_FIELD_SLACK 16

typedef struct EtlField
{
	char *data; /* NUL-terminated, server encoding; NULL is null */
	int len;
	bool quoted;
} EtlField;

/*
 * So many fields of a record are kept at most: as many as a table can have
 * columns.  The others are only counted.
 */
#define ETL_CSV_MAX_FIELDS MaxHeapAttributeNumber

typedef enum EtlCsvNext
{
	ETL_CSV_RECORD,	   /* *record is filled */
	ETL_CSV_ROW,	   /* of feeds only: its row is, too */
	ETL_CSV_NEED_FILL, /* finish with all records, then fill */
	ETL_CSV_END
} EtlCsvNext;

typedef struct EtlCsvReader EtlCsvReader;

extern EtlCsvReader *etl_csv_open(EtlStream *stream,
								  const EtlCsvDialect *dialect, int skip_lines);
extern EtlCsvNext etl_csv_next(EtlCsvReader *reader, EtlCsvRecord *record);
extern void etl_csv_fill(EtlCsvReader *reader);
extern bool etl_csv_split(EtlCsvReader *reader, const EtlCsvRecord *record,
						  EtlField **fields, int *nfields, EtlReject *reject);
extern char *etl_csv_text(EtlCsvReader *reader, const EtlCsvRecord *record);
extern bool etl_csv_resync(EtlCsvReader *reader, EtlCsvRecord *record,
						   int nfields);
extern void etl_csv_header_done(EtlCsvReader *reader);
extern void etl_csv_close(EtlCsvReader *reader);

/* in csv_part.c: reading a file in parts */

/* Where a reader stands, to go back there after a resync. */
typedef struct EtlCsvPlace
{
	size_t start;
	int64 line_no;
	int64 row_no;
	size_t need;
	bool cut;
	bool skipping;
} EtlCsvPlace;

extern EtlCsvReader *etl_csv_open_part(EtlStream *stream,
									   const EtlCsvDialect *dialect);
extern void etl_csv_move_to(EtlCsvReader *reader, int64 offset);
extern bool etl_csv_divide(EtlCsvReader *reader, int64 *offset);
extern int64 etl_csv_offset(const EtlCsvReader *reader);
extern int64 etl_csv_line_no(const EtlCsvReader *reader);
extern bool etl_csv_try_resync(EtlCsvReader *reader, EtlCsvRecord *record,
							   int nfields, EtlCsvPlace *place);
extern void etl_csv_resync_undo(EtlCsvReader *reader, const EtlCsvPlace *place);
extern bool etl_csv_quote_parity(const char *buf, size_t len, char quote);
extern size_t etl_csv_line_start(const char *buf, size_t len, char quote,
								 bool *in_quote);

/* ------------------------------------------------------------------ */
/* in convert.c (and convert_*.c): fields to Datums without throwing    */

typedef struct EtlConverter EtlConverter;

extern EtlConverter *etl_converter_create(TupleDesc desc,
										  const AttrNumber *attnums,
										  int nfields);
extern bool etl_convert(EtlConverter *converter, const EtlField *fields,
						int nfields, Datum *values, bool *isnull,
						EtlReject *reject);
extern void etl_converter_end_batch(EtlConverter *converter);
extern void etl_converter_free(EtlConverter *converter);

#endif /* ETL_SOURCE_H */
