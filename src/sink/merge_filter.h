/*-------------------------------------------------------------------------
 *
 * merge_filter.h
 *	  Which rows of two large sets need a closer look; private to the room.
 *
 * The filter knows rows by numbers only: a hash of the key, a fingerprint of
 * all that is compared, and an address of at most 48 bits by which the row
 * can be fetched again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_MERGE_FILTER_H
#define ETL_MERGE_FILTER_H

#include "base/base.h"

/* Flags of a target row; a row that is not open is history of its key. */
#define ETL_FILTER_OPEN	 0x01
#define ETL_FILTER_TOUCH 0x02 /* never unchanged: a closer look at its key */

typedef struct EtlFilterCalls
{
	/*
	 * Source and open target row of one key hash, whose fingerprints differ;
	 * the only source row of that hash.  Returns true if it has settled the
	 * key; false if the key needs all its rows.  Calls come in the order of
	 * the target's rows within a partition.
	 */
	bool (*pair)(void *arg, uint64 source, uint64 target);

	/* A source row, the only one of its hash, that no target row has. */
	void (*fresh)(void *arg, uint64 source);

	/* Another open target row of a hash that is settled. */
	void (*again)(void *arg, uint64 source, uint64 target);

	/* An open target row whose hash no source row has; may be NULL. */
	void (*absent)(void *arg, uint64 target);

	/* All rows of a hash that needs a closer look, in any order. */
	void (*source)(void *arg, uint64 hash, uint64 source);
	void (*target)(void *arg, uint64 hash, uint64 target);

	/* Adds all the target's rows again, with etl_filter_add_target(). */
	void (*rescan)(void *arg);
} EtlFilterCalls;

typedef struct EtlFilter EtlFilter;

/* One bit for each of many hashes: clear if no source row has one of them. */
typedef struct EtlSieve
{
	uint64 *words; /* NULL: there is none, any hash may be there */
	uint64 mask;   /* number of words - 1 */
} EtlSieve;

/* May a source row have the hash? */
static inline bool
etl_sieve_passes(const EtlSieve *sieve, uint64 hash)
{
	return sieve->words == NULL ||
		   (sieve->words[(hash >> 6) & sieve->mask] >> (hash & 63) & 1) != 0;
}

/* in merge_filter.c */
extern EtlFilter *etl_filter_create(Size memory, const EtlFilterCalls *calls,
									void *arg);
extern void etl_filter_add_source(EtlFilter *filter, uint64 hash,
								  uint64 fingerprint, uint64 address);
extern void etl_filter_source_done(EtlFilter *filter, double target_rows);
extern const EtlSieve *etl_filter_sieve(const EtlFilter *filter);
extern void etl_filter_add_target(EtlFilter *filter, uint64 hash,
								  uint64 fingerprint, uint64 address, int flags);
extern void etl_filter_finish(EtlFilter *filter);
extern int64 etl_filter_unchanged(const EtlFilter *filter);
extern void etl_filter_free(EtlFilter *filter);

#endif /* ETL_MERGE_FILTER_H */
