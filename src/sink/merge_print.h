/*-------------------------------------------------------------------------
 *
 * merge_print.h
 *	  What a filter is told of a row; private to the room.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_MERGE_PRINT_H
#define ETL_MERGE_PRINT_H

#include "sink/merge.h"
#include "sink/merge_filter.h"
#include "sink/merge_table.h"

/*
 * Where the key and all that is compared lie in the rows of one side.  With a
 * sequence of a versioned target, which has no column of that role, the last
 * of the compared is the time.
 */
typedef struct EtlPrint
{
	EtlRowColumn *keys;
	int n_keys;
	AttrNumber last_key; /* attribute number of the last one */
	EtlRowColumn *compared;
	int n_compared;
	bool has_time;
	AttrNumber last; /* of all that is looked at */
	uint64 seed;
	EtlMerge *merge;

	/* for rows of the target, to be set by whoever uses it */
	const EtlSieve *sieve;
	bool others_matter; /* rows of keys that the input lacks */
} EtlPrint;

/* in merge_print.c */
extern void etl_print_target(EtlPrint *print, EtlMerge *merge, uint64 seed);
extern bool etl_print_input(EtlPrint *print, EtlMerge *merge, uint64 seed);
extern bool etl_print_input_row(const EtlPrint *print, TupleTableSlot *slot,
								EtlFilterRow *row);
extern bool etl_print_target_row(const EtlPrint *print, TupleTableSlot *slot,
								 EtlFilterRow *row);
extern uint64 etl_print_change(const EtlPrint *print, const EtlChange *change);

#endif /* ETL_MERGE_PRINT_H */
