/*-------------------------------------------------------------------------
 *
 * bulk_copy.h
 *	  The state of one etl_bulk_copy() call.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_BULK_COPY_H
#define ETL_BULK_COPY_H

#include "flow/flow.h"
#include "source/bulk_workers.h"

typedef enum EtlIndexes
{
	ETL_INDEXES_AUTO,
	ETL_INDEXES_KEEP,
	ETL_INDEXES_REBUILD
} EtlIndexes;

typedef struct EtlBulkCopy
{
	/* What the caller asked for. */
	Oid target_oid;
	const char *source;
	EtlLayout layout; /* its columns: NIL means all */
	EtlFormat format;
	EtlOnError on_error;
	int64 reject_limit;	 /* -1: none */
	double reject_ratio; /* -1: none */
	EtlIndexes indexes;
	int workers; /* -1: by file size */
	bool force;
	EtlAfterLoad after_load;
	const char *move_to;
	bool dry_run;
	bool freeze;

	/* What came of it. */
	Relation target;
	List *allowed_columns; /* the columns that a file may fill */
	List *paths;
	EtlRun *run;
	EtlLoad load;
	bool loading;		  /* load has begun */
	EtlLeftOut *left_out; /* indexes that wait for the rows, or NULL */
	const char *indexes_reason;
	int workers_wanted;
	const char *workers_reason;	  /* why not more; or NULL */
	EtlBulkWorkers *bulk_workers; /* or NULL: none */
	int workers_used;
	int64 files_loaded;
	int64 files_skipped;
	int64 bytes_total; /* of the files that are not known to be skipped */
	MemoryContext load_context; /* lives as long as the call */
	MemoryContext file_context; /* reset for every file */
} EtlBulkCopy;

/* in bulk_parallel.c */
extern void etl_bulk_settle_workers(EtlBulkCopy *bulk);
extern EtlFeed *etl_bulk_open_feed(EtlBulkCopy *bulk, const EtlFileInfo *info,
								   EtlStream *stream, EtlCsvReader *reader);
extern void etl_bulk_end_workers(EtlBulkCopy *bulk);
extern void etl_bulk_workers_detail(const EtlBulkCopy *bulk, StringInfo json);

/* in bulk_file.c */
extern void etl_bulk_load_file(EtlBulkCopy *bulk, const char *path);

#endif /* ETL_BULK_COPY_H */
