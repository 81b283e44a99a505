/*-------------------------------------------------------------------------
 *
 * merge_table.h
 *	  The hash table of the filter of a merge; private to merge_filter.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_MERGE_TABLE_H
#define ETL_MERGE_TABLE_H

#include "base/base.h"

#if defined(__GNUC__) || defined(__clang__)
#define etl_prefetch(address) __builtin_prefetch(address)
#else
#define etl_prefetch(address) ((void) (address))
#endif

/* A row or an entry: in its word an address of 48 bits, then 16 flags. */
typedef struct EtlFilterRow
{
	uint64 hash;
	uint64 fingerprint;
	uint64 word;
} EtlFilterRow;

typedef struct EtlFilterTable
{
	MemoryContext context;
	Size limit; /* bytes that it may take */
	EtlFilterRow *entries;
	uint32 n_entries;
	uint32 max_entries;
	uint32 *slots; /* 0: empty; else hash bits and an entry's number + 1 */
	int slot_bits;
	uint32 slot_mask;
} EtlFilterTable;

typedef enum EtlTableAdd
{
	ETL_TABLE_ADDED,
	ETL_TABLE_KNOWN, /* there is an entry of that hash */
	ETL_TABLE_FULL
} EtlTableAdd;

/* in merge_table.c */
extern void etl_table_reset(EtlFilterTable *table, Size limit);
extern void etl_table_drop(EtlFilterTable *table);
extern EtlTableAdd etl_table_add(EtlFilterTable *table, const EtlFilterRow *row,
								 EtlFilterRow **known);

/* The slot at which the search for a hash begins. */
static inline uint32
etl_table_home(const EtlFilterTable *table, uint64 hash)
{
	return (uint32) hash & table->slot_mask;
}

/* The bits of a hash that its slot holds. */
static inline uint32
etl_table_tag(const EtlFilterTable *table, uint64 hash)
{
	return (uint32) (hash >> 32) << table->slot_bits;
}

/* From a position on, the next slot that is empty or may hold the hash. */
static inline uint32
etl_table_next(const EtlFilterTable *table, uint32 position, uint64 hash)
{
	const uint32 *slots = table->slots;
	uint32 mask = table->slot_mask;
	uint32 tag = etl_table_tag(table, hash);

	while (slots[position] != 0 && ((slots[position] ^ tag) & ~mask) != 0)
		position = (position + 1) & mask;
	return position;
}

/* The entry of the slot at a position, NULL if it is empty. */
static inline EtlFilterRow *
etl_table_entry(const EtlFilterTable *table, uint32 position)
{
	uint32 slot = table->slots[position];

	return slot == 0 ? NULL : &table->entries[(slot & table->slot_mask) - 1];
}

/* The entry of a hash, searched from etl_table_next() on, or NULL. */
static inline EtlFilterRow *
etl_table_find(const EtlFilterTable *table, uint32 *position, uint64 hash)
{
	EtlFilterRow *entry;

	while ((entry = etl_table_entry(table, *position)) != NULL &&
		   unlikely(entry->hash != hash))
		*position = etl_table_next(table, (*position + 1) & table->slot_mask,
								   hash);
	return entry;
}

#endif /* ETL_MERGE_TABLE_H */
