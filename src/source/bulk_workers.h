/*-------------------------------------------------------------------------
 *
 * bulk_workers.h
 *	  Background workers that read, split and convert for a load.
 *
 * They have shared memory only: no database, no catalog, no code of users.  A
 * record that is beyond doubt comes to the load as the bytes of its tuple;
 * every other one comes raw, and the load takes it as if it had read it.  So
 * nothing but speed depends on how many workers there are.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_BULK_WORKERS_H
#define ETL_BULK_WORKERS_H

#include "source/feed.h"

#include "access/tupdesc.h"

/* So many workers serve one load at the most. */
#define ETL_BULK_MAX_WORKERS 64

typedef struct EtlBulkWorkers EtlBulkWorkers;

/* What workers have to know of a file. */
typedef struct EtlBulkFile
{
	EtlFileInfo info;
	EtlCompression compression; /* not AUTO */
	EtlCsvDialect dialect;
	int skip_lines;
	bool has_header;

	/* the rows; see etl_row_form_create() */
	TupleDesc desc;
	const AttrNumber *attnums;
	int nfields;
	const Datum *values;
	const bool *isnull;

	int max_rows;	  /* of a batch */
	bool resyncs;	  /* rejected records are followed by etl_csv_resync() */
	bool wants_raw;	  /* of rows that may be rejected later */
	int64 piece_size; /* in bytes */
} EtlBulkFile;

/* in bulk_workers.c */
extern EtlBulkWorkers *etl_bulk_workers_start(int wanted);
extern int etl_bulk_workers_count(const EtlBulkWorkers *workers);
extern void etl_bulk_workers_stop(EtlBulkWorkers *workers);

/* in bulk_feed.c */
extern EtlFeed *etl_bulk_feed_open(EtlBulkWorkers *workers,
								   const EtlBulkFile *file, EtlStream *stream,
								   EtlCsvReader *reader);

/* in bulk_worker.c */
extern PGDLLEXPORT void etl_bulk_worker_main(Datum main_arg);

#endif /* ETL_BULK_WORKERS_H */
