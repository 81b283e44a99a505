/*-------------------------------------------------------------------------
 *
 * feed.h
 *	  The records of a file, whoever reads them.
 *
 * A feed is what the loop of a load takes records from: a reader in this
 * process (feed.c), or background workers that read, split and convert
 * (bulk_feed.c).  Records come in the order of the file, with the same numbers
 * and the same words for what is wrong with them, whatever the feed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_FEED_H
#define ETL_FEED_H

#include "source/source.h"

typedef struct EtlFeed EtlFeed;

/* The row of a record, ready to be written; MAXALIGNed. */
typedef struct EtlFeedRow
{
	HeapTupleHeader tuple;
	uint32 len;
} EtlFeedRow;

typedef struct EtlFeedOps
{
	/*
	 * ETL_CSV_ROW: *row is the row of *record, whose raw text may be missing
	 * (NULL) until recall() brings it.  Both are valid until fill().
	 */
	EtlCsvNext (*next)(EtlFeed *feed, EtlCsvRecord *record, EtlFeedRow *row);
	void (*fill)(EtlFeed *feed);

	/* The record that came last was rejected: see etl_csv_resync(). */
	bool (*resync)(EtlFeed *feed, EtlCsvRecord *record, int nfields);

	/* The raw text of a record that is valid, into the current context. */
	void (*recall)(EtlFeed *feed, EtlCsvRecord *record);

	int64 (*file_bytes)(EtlFeed *feed); /* stored, that have been read */

	/* After the last record: the hash of the file; see etl_stream_close(). */
	void (*close)(EtlFeed *feed, uint8 *sha256);
} EtlFeedOps;

struct EtlFeed
{
	const EtlFeedOps *ops;
	EtlCsvReader *reader; /* splits records */
};

/* in feed.c */
extern EtlFeed *etl_feed_open(EtlStream *stream, EtlCsvReader *reader);

#endif /* ETL_FEED_H */
