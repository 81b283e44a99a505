/*-------------------------------------------------------------------------
 *
 * merge_table.c
 *	  The hash table of the filter of a merge.
 *
 * It is made for memory that is slow compared with the processor.  Entries
 * of 24 bytes lie in the order in which they came, and beside them an array
 * of 4-byte slots with open addressing, at most three quarters full, leads
 * to them.  A slot holds an entry's number and, in the bits that the number
 * does not need, bits of its hash, so that a slot seldom leads to the wrong
 * entry.  Doubling the slots reads the entries in order; it moves none of
 * them.
 *
 * A slot's position is the lowest bits of the hash, what it holds comes from
 * above bit 32, and neither from its highest bits, by which the filter cuts
 * large sets.  Hashes must be well mixed: of those that agree in their low
 * bits each costs a look at all before it.
 *
 * Takes no locks; all memory is in the table's context.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/merge_table.h"

#include "utils/memutils.h"

#define MIN_SLOT_BITS 8
#define MAX_SLOT_BITS 31

static bool grow(EtlFilterTable *table);
static bool grow_slots(EtlFilterTable *table);
static void make_slots(EtlFilterTable *table);

/* Bytes of so many entries and slots. */
static inline Size
table_size(Size n_entries, int slot_bits)
{
	return n_entries * sizeof(EtlFilterRow) +
		   ((Size) sizeof(uint32) << slot_bits);
}

/* The most entries that so many slots lead to. */
static inline Size
slots_hold(int slot_bits)
{
	return ((Size) 1 << slot_bits) / 4 * 3;
}

/*
 * Empties the table, which may take so much memory from now on.  A new one,
 * zeroed but for its context, starts small and grows as needed; one that was
 * emptied keeps its size if the limit allows it.
 */
void
etl_table_reset(EtlFilterTable *table, Size limit)
{
	if (table->slots != NULL &&
		table_size(table->max_entries, table->slot_bits) > limit)
		etl_table_drop(table);

	table->limit = limit;
	table->n_entries = 0;
	if (table->slots != NULL)
	{
		memset(table->slots, 0, table_size(0, table->slot_bits));
		return;
	}
	table->slot_bits = MIN_SLOT_BITS;
	table->max_entries = (uint32) slots_hold(MIN_SLOT_BITS);
	table->entries = MemoryContextAlloc(table->context,
										table->max_entries *
											sizeof(EtlFilterRow));
	make_slots(table);
}

/* Gives the memory back.  The table must be reset before it is used again. */
void
etl_table_drop(EtlFilterTable *table)
{
	pfree(table->slots);
	pfree(table->entries);
	table->slots = NULL;
	table->entries = NULL;
	table->n_entries = 0;
}

/*
 * Adds a row, unless its hash has an entry, which is in *known then, or
 * there is no room for it.
 */
EtlTableAdd
etl_table_add(EtlFilterTable *table, const EtlFilterRow *row,
			  EtlFilterRow **known)
{
	uint64 hash = row->hash;
	uint32 position = etl_table_next(table, etl_table_home(table, hash), hash);

	*known = etl_table_find(table, &position, hash);
	if (*known != NULL)
		return ETL_TABLE_KNOWN;

	if (unlikely(table->n_entries == table->max_entries))
	{
		if (!grow(table))
			return ETL_TABLE_FULL;
		position = etl_table_home(table, hash);
		while (table->slots[position] != 0)
			position = (position + 1) & table->slot_mask;
	}
	table->entries[table->n_entries++] = *row;
	table->slots[position] = etl_table_tag(table, hash) | table->n_entries;
	return ETL_TABLE_ADDED;
}

/*
 * Makes room for more entries: twice as many, or as many as slots and limit
 * allow.  Returns false if that is none, or hardly any.
 */
static bool
grow(EtlFilterTable *table)
{
	Size n_entries = table->max_entries;
	Size wanted;

	if (n_entries >= slots_hold(table->slot_bits) && !grow_slots(table))
		return false;

	wanted = Min(n_entries * 2, slots_hold(table->slot_bits));
	if (table_size(wanted, table->slot_bits) > table->limit)
	{
		Size slots = table_size(0, table->slot_bits);

		if (table->limit < slots)
			return false;
		wanted = (table->limit - slots) / sizeof(EtlFilterRow);
	}
	if (wanted < n_entries + n_entries / 16)
		return false;

	table->entries = repalloc_huge(table->entries,
								   wanted * sizeof(EtlFilterRow));
	table->max_entries = (uint32) wanted;
	return true;
}

/* Doubles the slots, unless there is no room for these and more entries. */
static bool
grow_slots(EtlFilterTable *table)
{
	Size n_entries = table->max_entries;
	int slot_bits = table->slot_bits + 1;

	if (slot_bits > MAX_SLOT_BITS ||
		table_size(n_entries + n_entries / 8, slot_bits) > table->limit)
		return false;

	pfree(table->slots);
	table->slots = NULL;
	table->slot_bits = slot_bits;
	make_slots(table);
	return true;
}

/* Makes as many slots as slot_bits says, and fills them. */
static void
make_slots(EtlFilterTable *table)
{
	const uint32 ahead = 16;
	const EtlFilterRow *entries = table->entries;
	uint32 n_entries = table->n_entries;
	uint32 mask = ((uint32) 1 << table->slot_bits) - 1;
	uint32 *slots;

	slots = MemoryContextAllocExtended(table->context,
									   table_size(0, table->slot_bits),
									   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	table->slots = slots;
	table->slot_mask = mask;

	for (uint32 i = 0; i < n_entries; i++)
	{
		uint32 position = etl_table_home(table, entries[i].hash);

		if (i + ahead < n_entries)
		{
			uint64 hash = entries[i + ahead].hash;

			etl_prefetch(&slots[etl_table_home(table, hash)]);
		}
		while (slots[position] != 0)
			position = (position + 1) & mask;
		slots[position] = etl_table_tag(table, entries[i].hash) | (i + 1);
	}
}
