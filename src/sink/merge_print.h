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
} EtlPrint;

/* in merge_print.c */
extern void etl_print_target(EtlPrint *print, EtlMerge *merge, uint64 seed);
extern bool etl_print_input(EtlPrint *print, EtlMerge *merge, uint64 seed);
extern uint64 etl_print_change(const EtlPrint *print, const EtlChange *change);

/* Does a row whose key has been read lack a part of it? */
static inline bool
etl_print_lacks_key(const EtlPrint *print, const bool *nulls)
{
	for (int i = 0; i < print->n_keys; i++)
		if (nulls[print->keys[i].position])
			return true;
	return false;
}

static inline uint64
etl_print_hash(const EtlPrint *print, const Datum *values, const bool *nulls)
{
	return etl_row_hash(print->keys, print->n_keys, values, nulls, ETL_KEY_SEED);
}

static inline uint64
etl_print_row(const EtlPrint *print, const Datum *values, const bool *nulls)
{
	return etl_row_fingerprint(print->compared, print->n_compared, values,
							   nulls, print->seed);
}

#endif /* ETL_MERGE_PRINT_H */
