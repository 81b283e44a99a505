/*-------------------------------------------------------------------------
 *
 * merge_private.h
 *	  What the files that read for a merge share; private to the room.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_MERGE_PRIVATE_H
#define ETL_MERGE_PRIVATE_H

#include "executor/tuptable.h"
#include "sink/merge.h"

/* in merge_input.c: rows of the input */
extern void etl_input_convert(EtlMerge *merge, TupleTableSlot *slot,
							  EtlChange *change);
extern uint64 etl_input_address(EtlMerge *merge, TupleTableSlot *slot);
extern void etl_input_fetch(EtlMerge *merge, uint64 address,
							TupleTableSlot *slot);
extern TupleTableSlot *etl_input_slot(EtlMerge *merge);
extern EtlChange *etl_change_create(EtlMerge *merge);

/* The place of a row in a heap as a number. */
static inline uint64
etl_tid_address(const ItemPointerData *tid)
{
	return ((uint64) ItemPointerGetBlockNumber(tid) << 16) |
		   ItemPointerGetOffsetNumber(tid);
}

static inline void
etl_address_tid(uint64 address, ItemPointer tid)
{
	ItemPointerSet(tid, (BlockNumber) (address >> 16),
				   (OffsetNumber) (address & 0xffff));
}

/* in merge_absent.c: keys that the input lacks */
typedef struct EtlScope EtlScope;

extern EtlScope *etl_scope_create(EtlMerge *merge);
extern void etl_scope_add(EtlScope *scope, const EtlChange *change);
extern bool etl_scope_has(EtlScope *scope, Datum *values, bool *nulls);
extern void etl_scope_done(EtlScope *scope);

/* in merge_query.c: by queries, whatever the target is */
extern void etl_merge_by_query(EtlMerge *merge, EtlScope *scope);

/* in merge_filter_scan.c: past all rows of a heap */
extern void etl_merge_by_scan(EtlMerge *merge, EtlScope *scope);

/* in merge_probe.c: through an index of a heap */
typedef struct EtlProbe EtlProbe;

extern EtlProbe *etl_probe_open(EtlMerge *merge, double limit);
extern void etl_merge_by_probe(EtlMerge *merge, EtlProbe *probe);

/* the hash of a row's key */
static inline uint64
etl_key_hash(EtlMerge *merge, Datum *values)
{
	uint64 hash = ETL_KEY_SEED;

	for (int i = 0; i < merge->n_keys; i++)
		hash = etl_value_hash(&merge->columns[merge->keys[i]].ops,
							  values[merge->keys[i]], false, hash);
	return hash;
}

/* Does a row lack a part of its key? */
static inline bool
etl_key_is_null(const EtlMerge *merge, const bool *nulls)
{
	for (int i = 0; i < merge->n_keys; i++)
		if (nulls[merge->keys[i]])
			return true;
	return false;
}

/* Do two rows, in the target's layout, have the same key? */
static inline bool
etl_key_equal(EtlMerge *merge, const Datum *a, const bool *a_nulls,
			  const Datum *b, const bool *b_nulls)
{
	for (int i = 0; i < merge->n_keys; i++)
	{
		int column = merge->keys[i];

		if (!etl_value_equal(&merge->columns[column].ops, a[column],
							 a_nulls[column], b[column], b_nulls[column]))
			return false;
	}
	return true;
}

#endif /* ETL_MERGE_PRIVATE_H */
