/*-------------------------------------------------------------------------
 *
 * merge_known.c
 *	  Which keys there are already, as rows to be appended come by.
 *
 * A merge that only ever inserts needs nothing of a stored row but its key.
 * So the keys of the target are read first, and each row of the input is
 * settled as it comes: its key is known, or is from now on.
 *
 * A key is its hash and a second hash that is seeded at random.  Both are kept
 * in a hash table (merge_table.c) as long as the memory suffices.  From then
 * on there are only some bits for each key, in one cache line: a key that
 * lacks one of its bits is new, and any other may be new or not.  Such rows
 * are left to the caller.  So it goes, too, when there are two keys of the same
 * first hash, of which the table can hold one: that is no more than chance, or
 * somebody's intent.
 *
 * Invariant: when a row of a key is left to the caller, all later rows of the
 * key are, too.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/merge_known.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#define MIN_MEMORY ((Size) 64 * 1024)

/* The bits of a key, all of them in one line of 512. */
#define LINE_WORDS	  8
#define POSITION_BITS 9
#define KEY_BITS	  5

/* With less room for each key too many of them would have all bits by chance. */
#define MIN_BITS_PER_KEY 8

/* In the word of an entry: a row of the target has the key. */
#define KNOWN_STORED UINT64CONST(0x01)

struct EtlKnown
{
	MemoryContext context;
	Size memory;
	EtlFilterTable table;
	uint64 *bits;	  /* NULL: all keys are in the table */
	uint64 line_mask; /* number of lines - 1 */
};

static void forget_keys(EtlKnown *known);
static bool set_bits(EtlKnown *known, const EtlFilterRow *row);

/* Is the memory enough for so many keys, if only for their bits? */
bool
etl_known_suits(Size memory, double keys)
{
	return keys * MIN_BITS_PER_KEY <= (double) memory * BITS_PER_BYTE;
}

/* No key yet, below the current memory context. */
EtlKnown *
etl_known_create(Size memory)
{
	MemoryContext context;
	EtlKnown *known;

	context = AllocSetContextCreate(CurrentMemoryContext, "etl known keys",
									ALLOCSET_DEFAULT_SIZES);
	known = MemoryContextAllocZero(context, sizeof(EtlKnown));
	known->context = context;
	known->memory = Max(memory, MIN_MEMORY);
	known->table.context = context;
	etl_table_reset(&known->table, known->memory);
	return known;
}

/*
 * Adds the key of a row, of the target or of the input, and says whether it
 * was known.  Of the row its two hashes count.
 */
EtlKnownKey
etl_known_add(EtlKnown *known, const EtlFilterRow *row, bool is_stored)
{
	EtlFilterRow key = *row;
	EtlFilterRow *entry;

	if (known->bits == NULL)
	{
		key.word = is_stored ? KNOWN_STORED : 0;
		switch (etl_table_add(&known->table, &key, &entry))
		{
			case ETL_TABLE_ADDED:
				return ETL_KEY_NEW;
			case ETL_TABLE_KNOWN:
				if (entry->fingerprint != key.fingerprint)
				{
					/* It has no place in the table, but in the bits. */
					forget_keys(known);
					(void) set_bits(known, row);
					return ETL_KEY_UNSURE;
				}
				return (entry->word & KNOWN_STORED) != 0 ? ETL_KEY_STORED :
														   ETL_KEY_SEEN;
			case ETL_TABLE_FULL:
				forget_keys(known);
				break;
		}
	}
	return set_bits(known, row) ? ETL_KEY_NEW : ETL_KEY_UNSURE;
}

/* The table gives way to the bits of its keys. */
static void
forget_keys(EtlKnown *known)
{
	Size size = pg_prevpower2_size_t(known->memory);

	known->bits = MemoryContextAllocExtended(known->context, size,
											 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	known->line_mask = size / (LINE_WORDS * sizeof(uint64)) - 1;
	for (uint32 i = 0; i < known->table.n_entries; i++)
		(void) set_bits(known, &known->table.entries[i]);
	etl_table_drop(&known->table);
}

/* Sets the bits of a key; returns whether one of them was clear. */
static bool
set_bits(EtlKnown *known, const EtlFilterRow *row)
{
	uint64 *line = known->bits + (row->hash & known->line_mask) * LINE_WORDS;
	uint64 positions = row->fingerprint;
	uint64 missing = 0;

	for (int i = 0; i < KEY_BITS; i++)
	{
		uint64 *word = &line[(positions >> 6) % LINE_WORDS];
		uint64 bit = UINT64CONST(1) << (positions & 63);

		missing |= ~*word & bit;
		*word |= bit;
		positions >>= POSITION_BITS;
	}
	return missing != 0;
}

/* Gives the memory back. */
void
etl_known_free(EtlKnown *known)
{
	MemoryContextDelete(known->context);
}
