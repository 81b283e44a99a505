/*-------------------------------------------------------------------------
 *
 * csv_scan.h
 *	  Where records and fields end, many bytes at a time; private to the CSV
 *	  files.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_CSV_SCAN_H
#define ETL_CSV_SCAN_H

#include "base/base.h"

/* Bytes that are looked at together; their places fit 16 bits. */
#define ETL_SCAN_WINDOW 16384
#define ETL_SCAN_BLOCKS (ETL_SCAN_WINDOW / 64)

/* A bit for each of 64 bytes. */
typedef struct EtlScanBlock
{
	uint64 delimiter;
	uint64 quote;
	uint64 lf;
	uint64 cr;
	uint64 nul;
	uint64 high; /* above 127 */
} EtlScanBlock;

/*
 * A piece of the reader's buffer that begins with a record, and what is in it.
 * Places count from its start.
 */
typedef struct EtlCsvScan
{
	char delimiter;
	char quote;

	size_t start; /* of the piece, in the buffer */
	size_t len;	  /* 0: there is none */
	bool has_quote;
	bool has_inner_lf; /* line feeds in quotes */
	bool has_odd;
	bool has_high;

	/* Delimiters and line feeds that are not quoted, in their order. */
	int n_ends;
	uint16 ends[ETL_SCAN_WINDOW + 1];

	/* Those of them that are line feeds, as indexes into ends[]. */
	int n_records;
	uint16 records[ETL_SCAN_WINDOW + 1];
	int record; /* the next one */

	/* Bytes that belong to what is beyond the scan, and those above 127. */
	uint64 odd[ETL_SCAN_BLOCKS];
	uint64 high[ETL_SCAN_BLOCKS];
	EtlScanBlock blocks[ETL_SCAN_BLOCKS];
} EtlCsvScan;

extern bool etl_csv_scan_window(EtlCsvScan *scan, const char *buf, size_t start,
								size_t len);

/* Is one of the bits of the places [from, to) set? */
static inline bool
etl_csv_scan_any(const uint64 *bits, int from, int to)
{
	int first = from / 64;
	int last = to / 64;
	uint64 word = bits[first] & (~UINT64CONST(0) << (from % 64));

	for (; first < last; word = bits[++first])
		if (word != 0)
			return true;
	return (word & ((UINT64CONST(1) << (to % 64)) - 1)) != 0;
}

#endif /* ETL_CSV_SCAN_H */
