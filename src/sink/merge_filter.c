/*-------------------------------------------------------------------------
 *
 * merge_filter.c
 *	  Which rows of two large sets need a closer look, found by numbers.
 *
 * Most rows of a merge are as they were.  This file finds them without
 * seeing them: a row is a hash of its key, a fingerprint of its values and
 * an address.  The rows of the source go into a hash table, and those of the
 * target are looked up in it.
 *
 * The table is made for memory that is slow compared with the processor.
 * Entries of 24 bytes lie in the order in which they came, and beside them
 * an array of 4-byte slots with open addressing, at most three quarters
 * full, leads to them.  A slot holds an entry's number and, in the bits that
 * the number does not need, bits of its hash, so that a slot seldom leads to
 * the wrong entry.  Rows are taken in batches: when a row is added the
 * processor is told to fetch its slot, when the batch is full all its
 * entries, and only then are they looked at.  Doubling the slots reads the
 * entries in order; it moves none of them.
 *
 * A source row of a hash that is in the table already makes that entry
 * complex and goes to a list of its own, which is written and read in one
 * sequence and holds but a buffer of it in memory, so that any number of
 * rows of one key cost the same for each row.
 *
 * When the memory does not suffice, source rows are written to partitions by
 * the high bits of their hash, then target rows likewise, and at the end one
 * partition after the other is done as above.  A partition that is still too
 * large is read several times, each time for a part of its hashes.  At
 * most an eighth of the memory is for the buffers of each of the two sets of
 * files, unless it is smaller than these: there are no fewer than
 * MIN_PARTITIONS.
 *
 * Invariants:
 *	- An entry is settled, complex, or neither yet; a complex one stays so.
 *	- Entries, and thus fresh rows, are in the order of the source; a
 *	  partition's files keep the order of its rows.
 *	- Callbacks are made for whole batches, and at the latest by
 *	  etl_filter_finish(): a callback may throw, and must not add rows.
 *	  Only rescan may, and must.
 *
 * Takes no locks.  All memory is in one context, and temporary files belong
 * to the resource owner that was current when they were made, so that
 * nothing is left behind by an error.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/merge_filter.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/buffile.h"
#include "utils/memutils.h"

#define BATCH_ROWS		 64
#define SPOOL_ROWS		 512
#define MIN_SLOT_BITS	 8
#define MAX_SLOT_BITS	 31
#define MIN_PARTITIONS	 8
#define MAX_PARTITIONS	 256
#define MIN_TABLE_MEMORY (64 * 1024)
#define ADDRESS_BITS	 48
#define FLAG_BITS		 16

/* Parts of a partition: so many at most, by the hash bits that follow. */
#define PART_BITS 16
#define ALL_PARTS (1U << PART_BITS)

/* State of an entry, in its word. */
#define ENTRY_SETTLED UINT64CONST(0x01) /* by an open row of the target */
#define ENTRY_HISTORY UINT64CONST(0x02) /* the target has rows not open */
#define ENTRY_COMPLEX UINT64CONST(0x04) /* needs all its rows */
#define ENTRY_STATE	  (ENTRY_SETTLED | ENTRY_HISTORY | ENTRY_COMPLEX)

#define ADDRESS_OF(word) ((word) >> FLAG_BITS)

#if defined(__GNUC__) || defined(__clang__)
#define prefetch(address) __builtin_prefetch(address)
#else
#define prefetch(address) ((void) (address))
#endif

typedef enum FilterPhase
{
	PHASE_SOURCE,
	PHASE_TARGET,
	PHASE_RESCAN, /* target rows again, for the complex entries */
	PHASE_DONE
} FilterPhase;

/* A row, or an entry of the table: its address, and below it its flags. */
typedef struct FilterRow
{
	uint64 hash;
	uint64 fingerprint;
	uint64 word;
} FilterRow;

/* Rows in a temporary file, written in one sequence, read in another. */
typedef struct RowFile
{
	BufFile *file; /* NULL: none yet */
	int64 n_rows;
	int64 n_read;
} RowFile;

/* The files of the rows whose hashes begin with the same bits. */
typedef struct Partition
{
	RowFile source;
	RowFile target;
} Partition;

struct EtlFilter
{
	MemoryContext context;
	EtlFilterCalls calls;
	void *arg;
	FilterPhase phase;
	int64 n_unchanged;

	/* rows that were added, but not looked up yet */
	int n_batch;
	FilterRow batch[BATCH_ROWS];

	/* the table */
	FilterRow *entries;
	uint32 n_entries;
	uint32 max_entries;
	uint32 *slots; /* 0: empty; else hash bits and an entry's number + 1 */
	int slot_bits;
	uint32 slot_mask;
	Size table_limit;
	int64 n_complex;

	/* source rows of a hash but the first */
	RowFile spool_file;
	int n_spool;
	FilterRow *spool; /* those that are not in the file */

	/* what was too much for the memory */
	Size memory;
	Partition *partitions; /* NULL: all is in the table */
	int n_partitions;
	int partition_shift;
};

static void flush_source(EtlFilter *filter);
static void flush_target(EtlFilter *filter);
static void match_row(EtlFilter *filter, const FilterRow *row, FilterRow *entry);
static void finish_entries(EtlFilter *filter);
static void deliver_source(EtlFilter *filter);
static void rescan_target(EtlFilter *filter);
static bool table_add(EtlFilter *filter, const FilterRow *row);
static bool table_grow(EtlFilter *filter);
static bool table_grow_slots(EtlFilter *filter);
static void table_rebuild(EtlFilter *filter);
static void table_reset(EtlFilter *filter, Size limit);
static void table_drop(EtlFilter *filter);
static void spool_add(EtlFilter *filter, const FilterRow *row);
static void start_partitions(EtlFilter *filter);
static void finish_partition(EtlFilter *filter, Partition *partition);
static bool load_part(EtlFilter *filter, Partition *partition, uint32 low,
					  uint32 high);
static void replay_part(EtlFilter *filter, Partition *partition, uint32 low,
						uint32 high);
static void file_write(EtlFilter *filter, RowFile *file, FilterRow *row);
static void file_rewind(RowFile *file);
static int file_read(RowFile *file, FilterRow *rows, int max_rows);
static void file_close(RowFile *file);

/* ------------------------------------------------------------------ */
/* Small parts of the inner loops										*/

/* The bits of a hash that its slot holds. */
static inline uint32
slot_tag(const EtlFilter *filter, uint64 hash)
{
	return (uint32) (hash >> 32) << filter->slot_bits;
}

static inline FilterRow *
slot_entry(const EtlFilter *filter, uint32 slot)
{
	return &filter->entries[(slot & filter->slot_mask) - 1];
}

/*
 * From a position on, the next slot that is empty or may hold the hash with
 * this tag.  There is always an empty one.
 */
static inline uint32
next_slot(const EtlFilter *filter, uint32 position, uint32 tag)
{
	const uint32 *slots = filter->slots;
	uint32 mask = filter->slot_mask;

	while (slots[position] != 0 && ((slots[position] ^ tag) & ~mask) != 0)
		position = (position + 1) & mask;
	return position;
}

/* Puts a row into the batch.  The batch must not be full. */
static inline void
batch_add(EtlFilter *filter, uint64 hash, uint64 fingerprint, uint64 word)
{
	FilterRow *row = &filter->batch[filter->n_batch++];

	prefetch(&filter->slots[(uint32) hash & filter->slot_mask]);
	row->hash = hash;
	row->fingerprint = fingerprint;
	row->word = word;
}

static inline Partition *
partition_of(const EtlFilter *filter, uint64 hash)
{
	return &filter->partitions[hash >> filter->partition_shift];
}

/* The part of its partition that a hash belongs to. */
static inline uint32
part_of(const EtlFilter *filter, uint64 hash)
{
	return (uint32) (hash >> (filter->partition_shift - PART_BITS)) &
		   (ALL_PARTS - 1);
}

/* ------------------------------------------------------------------ */
/* What the others call												*/

/*
 * A filter that takes about so many bytes of memory.  It lives below the
 * current memory context; its files belong to the resource owners that are
 * current when rows are added.
 */
EtlFilter *
etl_filter_create(Size memory, const EtlFilterCalls *calls, void *arg)
{
	MemoryContext context;
	EtlFilter *filter;

	context = AllocSetContextCreate(CurrentMemoryContext, "etl merge filter",
									ALLOCSET_DEFAULT_SIZES);
	filter = MemoryContextAllocZero(context, sizeof(EtlFilter));
	filter->context = context;
	filter->calls = *calls;
	filter->arg = arg;
	filter->phase = PHASE_SOURCE;
	filter->memory = memory;
	filter->spool = MemoryContextAlloc(context, SPOOL_ROWS * sizeof(FilterRow));
	table_reset(filter, Max(memory, MIN_TABLE_MEMORY));
	return filter;
}

/* Adds a row of the source.  All must come before the rows of the target. */
void
etl_filter_add_source(EtlFilter *filter, uint64 hash, uint64 fingerprint,
					  uint64 address)
{
	Assert(filter->phase == PHASE_SOURCE);
	if (unlikely((address >> ADDRESS_BITS) != 0))
		elog(ERROR, "row address does not fit into %d bits", ADDRESS_BITS);

	batch_add(filter, hash, fingerprint, address << FLAG_BITS);
	if (filter->n_batch == BATCH_ROWS)
		flush_source(filter);
}

/* Says that all rows of the source have been added. */
void
etl_filter_source_done(EtlFilter *filter)
{
	if (filter->phase != PHASE_SOURCE)
		elog(ERROR, "merge filter has its source already");

	flush_source(filter);
	filter->phase = PHASE_TARGET;
}

/* Adds a row of the target, whose flags are those of the header. */
void
etl_filter_add_target(EtlFilter *filter, uint64 hash, uint64 fingerprint,
					  uint64 address, int flags)
{
	uint64 word = (address << FLAG_BITS) | (uint64) flags;

	Assert(filter->phase == PHASE_TARGET || filter->phase == PHASE_RESCAN);
	if (unlikely((address >> ADDRESS_BITS) != 0))
		elog(ERROR, "row address does not fit into %d bits", ADDRESS_BITS);

	if (likely(filter->partitions == NULL))
	{
		batch_add(filter, hash, fingerprint, word);
		if (filter->n_batch == BATCH_ROWS)
			flush_target(filter);
	}
	else
	{
		Partition *partition = partition_of(filter, hash);
		FilterRow row = {hash, fingerprint, word};

		/* Without source rows, only an open row can be of interest. */
		if (partition->source.n_rows > 0 ||
			(filter->calls.absent != NULL && (flags & ETL_FILTER_OPEN) != 0))
			file_write(filter, &partition->target, &row);
		if (unlikely((++filter->n_batch % BATCH_ROWS) == 0))
		{
			filter->n_batch = 0;
			CHECK_FOR_INTERRUPTS();
		}
	}
}

/*
 * Settles what is left once all rows of the target have been added: see the
 * header for the calls that it makes.
 */
void
etl_filter_finish(EtlFilter *filter)
{
	if (filter->phase != PHASE_TARGET)
		elog(ERROR, "merge filter is not ready to be finished");

	if (filter->partitions == NULL)
	{
		flush_target(filter);
		finish_entries(filter);
		if (filter->n_complex > 0)
		{
			deliver_source(filter);
			rescan_target(filter);
		}
	}
	else
	{
		filter->n_batch = 0;
		for (int i = 0; i < filter->n_partitions; i++)
			finish_partition(filter, &filter->partitions[i]);
	}
	filter->phase = PHASE_DONE;
}

/* Number of keys settled because their open row has the same fingerprint. */
int64
etl_filter_unchanged(const EtlFilter *filter)
{
	return filter->n_unchanged;
}

/* Gives back memory and files. */
void
etl_filter_free(EtlFilter *filter)
{
	for (int i = 0; i < filter->n_partitions; i++)
	{
		file_close(&filter->partitions[i].source);
		file_close(&filter->partitions[i].target);
	}
	file_close(&filter->spool_file);
	MemoryContextDelete(filter->context);
}

/* ------------------------------------------------------------------ */
/* Batches																*/

/*
 * Puts the batch into the table or, from the first row on that finds no room
 * there, into the partitions.
 */
static void
flush_source(EtlFilter *filter)
{
	int n_rows = filter->n_batch;

	filter->n_batch = 0;
	CHECK_FOR_INTERRUPTS();
	for (int i = 0; i < n_rows; i++)
	{
		FilterRow *row = &filter->batch[i];

		if (filter->partitions == NULL)
		{
			if (likely(table_add(filter, row)))
				continue;
			start_partitions(filter);
		}
		file_write(filter, &partition_of(filter, row->hash)->source, row);
	}
}

/*
 * Looks the batch up.  The first loop finds the slots and has the entries
 * fetched, the second one looks at these.
 */
static void
flush_target(EtlFilter *filter)
{
	uint32 positions[BATCH_ROWS];
	int n_rows = filter->n_batch;

	filter->n_batch = 0;
	CHECK_FOR_INTERRUPTS();
	for (int i = 0; i < n_rows; i++)
	{
		uint64 hash = filter->batch[i].hash;
		FilterRow *entry;

		positions[i] = next_slot(filter, (uint32) hash & filter->slot_mask,
								 slot_tag(filter, hash));
		if (filter->slots[positions[i]] != 0)
		{
			/* It may lie across two cache lines. */
			entry = slot_entry(filter, filter->slots[positions[i]]);
			prefetch(&entry->hash);
			prefetch(&entry->word);
		}
	}

	for (int i = 0; i < n_rows; i++)
	{
		const FilterRow *row = &filter->batch[i];
		uint32 position = positions[i];
		FilterRow *entry = NULL;

		while (filter->slots[position] != 0)
		{
			entry = slot_entry(filter, filter->slots[position]);
			if (likely(entry->hash == row->hash))
				break;
			entry = NULL;
			position = next_slot(filter, (position + 1) & filter->slot_mask,
								 slot_tag(filter, row->hash));
		}

		if (filter->phase == PHASE_TARGET)
			match_row(filter, row, entry);
		else if (entry != NULL && (entry->word & ENTRY_COMPLEX) != 0)
			filter->calls.target(filter->arg, row->hash, ADDRESS_OF(row->word));
	}
}

/* A row of the target has met its entry, or NULL. */
static void
match_row(EtlFilter *filter, const FilterRow *row, FilterRow *entry)
{
	const EtlFilterCalls *calls = &filter->calls;
	uint64 target = ADDRESS_OF(row->word);

	if (entry == NULL)
	{
		if ((row->word & ETL_FILTER_OPEN) != 0 && calls->absent != NULL)
			calls->absent(filter->arg, target);
	}
	else if ((entry->word & ENTRY_COMPLEX) != 0)
	{
		/* comes with the others of its hash */
	}
	else if ((row->word & ETL_FILTER_OPEN) == 0)
		entry->word |= ENTRY_HISTORY;
	else if ((entry->word & ENTRY_SETTLED) != 0)
		calls->again(filter->arg, ADDRESS_OF(entry->word), target);
	else if (entry->fingerprint == row->fingerprint &&
			 (row->word & ETL_FILTER_TOUCH) == 0)
	{
		entry->word |= ENTRY_SETTLED;
		filter->n_unchanged++;
	}
	else if (calls->pair(filter->arg, ADDRESS_OF(entry->word), target))
		entry->word |= ENTRY_SETTLED;
	else
	{
		entry->word |= ENTRY_COMPLEX;
		filter->n_complex++;
	}
}

/* ------------------------------------------------------------------ */
/* When all rows of the target have met the table						*/

/* Entries that no open row of the target has settled. */
static void
finish_entries(EtlFilter *filter)
{
	for (uint32 i = 0; i < filter->n_entries; i++)
	{
		FilterRow *entry = &filter->entries[i];
		uint64 state = entry->word & ENTRY_STATE;

		if (i % BATCH_ROWS == 0)
			CHECK_FOR_INTERRUPTS();
		if (state == 0)
			filter->calls.fresh(filter->arg, ADDRESS_OF(entry->word));
		else if (state == ENTRY_HISTORY)
		{
			entry->word |= ENTRY_COMPLEX;
			filter->n_complex++;
		}
	}
}

/* All source rows of complex entries. */
static void
deliver_source(EtlFilter *filter)
{
	const EtlFilterCalls *calls = &filter->calls;
	FilterRow rows[BATCH_ROWS];
	int n_rows;

	for (uint32 i = 0; i < filter->n_entries; i++)
	{
		const FilterRow *entry = &filter->entries[i];

		if (i % BATCH_ROWS == 0)
			CHECK_FOR_INTERRUPTS();
		if ((entry->word & ENTRY_COMPLEX) != 0)
			calls->source(filter->arg, entry->hash, ADDRESS_OF(entry->word));
	}

	file_rewind(&filter->spool_file);
	while ((n_rows = file_read(&filter->spool_file, rows, BATCH_ROWS)) > 0)
	{
		for (int i = 0; i < n_rows; i++)
			calls->source(filter->arg, rows[i].hash, ADDRESS_OF(rows[i].word));
	}
	for (int i = 0; i < filter->n_spool; i++)
		calls->source(filter->arg, filter->spool[i].hash,
					  ADDRESS_OF(filter->spool[i].word));
}

/* All target rows of complex entries, in memory. */
static void
rescan_target(EtlFilter *filter)
{
	filter->phase = PHASE_RESCAN;
	filter->calls.rescan(filter->arg);
	flush_target(filter);
}

/* ------------------------------------------------------------------ */
/* The table															*/

/*
 * Adds a row of the source.  Returns false, and has done nothing, if there
 * is no room for it.
 */
static bool
table_add(EtlFilter *filter, const FilterRow *row)
{
	uint32 tag = slot_tag(filter, row->hash);
	uint32 position = (uint32) row->hash & filter->slot_mask;

	for (;;)
	{
		FilterRow *entry;

		position = next_slot(filter, position, tag);
		if (filter->slots[position] == 0)
			break;
		entry = slot_entry(filter, filter->slots[position]);
		if (entry->hash == row->hash)
		{
			if ((entry->word & ENTRY_COMPLEX) == 0)
			{
				entry->word |= ENTRY_COMPLEX;
				filter->n_complex++;
			}
			spool_add(filter, row);
			return true;
		}
		position = (position + 1) & filter->slot_mask;
	}

	if (unlikely(filter->n_entries == filter->max_entries))
	{
		if (!table_grow(filter))
			return false;
		tag = slot_tag(filter, row->hash);
		position = (uint32) row->hash & filter->slot_mask;
		while (filter->slots[position] != 0)
			position = (position + 1) & filter->slot_mask;
	}
	filter->entries[filter->n_entries++] = *row;
	filter->slots[position] = tag | filter->n_entries;
	return true;
}

/* Bytes of a table of so many entries and slots. */
static inline Size
table_size(Size n_entries, int slot_bits)
{
	return n_entries * sizeof(FilterRow) + ((Size) sizeof(uint32) << slot_bits);
}

/* The most entries that so many slots lead to. */
static inline Size
slots_hold(int slot_bits)
{
	return ((Size) 3 << slot_bits) / 4;
}

/*
 * Makes room for more entries: twice as many, or as many as slots and limit
 * allow.  Returns false if that is none, or hardly any.
 */
static bool
table_grow(EtlFilter *filter)
{
	Size n_entries = filter->max_entries;
	Size wanted;

	if (n_entries >= slots_hold(filter->slot_bits) && !table_grow_slots(filter))
		return false;

	wanted = Min(n_entries * 2, slots_hold(filter->slot_bits));
	if (table_size(wanted, filter->slot_bits) > filter->table_limit)
		wanted = (filter->table_limit - table_size(0, filter->slot_bits)) /
				 sizeof(FilterRow);
	if (wanted < n_entries + n_entries / 16)
		return false;

	filter->entries = repalloc_huge(filter->entries, wanted * sizeof(FilterRow));
	filter->max_entries = (uint32) wanted;
	return true;
}

/* Doubles the slots, unless there is no room for these and more entries. */
static bool
table_grow_slots(EtlFilter *filter)
{
	Size n_entries = filter->max_entries;
	int slot_bits = filter->slot_bits + 1;

	if (slot_bits > MAX_SLOT_BITS ||
		table_size(n_entries + n_entries / 8, slot_bits) > filter->table_limit)
		return false;

	pfree(filter->slots);
	filter->slots = NULL;
	filter->slot_bits = slot_bits;
	table_rebuild(filter);
	return true;
}

/* Makes slots anew, of the number that slot_bits says. */
static void
table_rebuild(EtlFilter *filter)
{
	const int ahead = 16;
	uint32 n_entries = filter->n_entries;
	uint32 mask = (uint32) (((uint64) 1 << filter->slot_bits) - 1);
	uint32 *slots;

	slots = MemoryContextAllocExtended(filter->context,
									   table_size(0, filter->slot_bits),
									   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (uint32 i = 0; i < n_entries; i++)
	{
		uint64 hash = filter->entries[i].hash;
		uint32 position = (uint32) hash & mask;

		/* Within the array or not, an address may always be prefetched. */
		if (i + ahead < n_entries)
			prefetch(&slots[(uint32) filter->entries[i + ahead].hash & mask]);
		while (slots[position] != 0)
			position = (position + 1) & mask;
		slots[position] = slot_tag(filter, hash) | (i + 1);
	}
	filter->slots = slots;
	filter->slot_mask = mask;
}

/* An empty table that may take so much memory; at first a small one. */
static void
table_reset(EtlFilter *filter, Size limit)
{
	filter->table_limit = limit;
	filter->n_entries = 0;
	filter->n_complex = 0;
	filter->n_spool = 0;
	filter->spool_file.n_rows = 0;
	file_rewind(&filter->spool_file);

	if (filter->slots != NULL)
	{
		memset(filter->slots, 0, table_size(0, filter->slot_bits));
		return;
	}
	filter->slot_bits = MIN_SLOT_BITS;
	filter->max_entries = (uint32) slots_hold(MIN_SLOT_BITS);
	filter->entries = MemoryContextAlloc(filter->context, filter->max_entries *
															  sizeof(FilterRow));
	table_rebuild(filter);
}

/* Gives the memory of the table back. */
static void
table_drop(EtlFilter *filter)
{
	pfree(filter->slots);
	pfree(filter->entries);
	filter->slots = NULL;
	filter->entries = NULL;
	filter->n_entries = 0;
}

/* Keeps a source row whose hash has an entry already. */
static void
spool_add(EtlFilter *filter, const FilterRow *row)
{
	if (filter->n_spool == SPOOL_ROWS)
	{
		for (int i = 0; i < SPOOL_ROWS; i++)
			file_write(filter, &filter->spool_file, &filter->spool[i]);
		filter->n_spool = 0;
	}
	filter->spool[filter->n_spool++] = *row;
}

/* ------------------------------------------------------------------ */
/* Partitions															*/

/*
 * Moves what is in the table to partitions.  Nothing says how much is still
 * to come, so there are as many as the memory has buffers for.
 */
static void
start_partitions(EtlFilter *filter)
{
	Size n_partitions = filter->memory / 8 / BLCKSZ;
	FilterRow rows[BATCH_ROWS];
	int n_rows;

	n_partitions = Max(n_partitions, MIN_PARTITIONS);
	n_partitions = Min(n_partitions, MAX_PARTITIONS);
	filter->partition_shift = 64 - pg_leftmost_one_pos32((uint32) n_partitions);
	filter->n_partitions = 1 << (64 - filter->partition_shift);
	filter->partitions = MemoryContextAllocZero(filter->context,
												filter->n_partitions *
													sizeof(Partition));

	/* The first row of a hash must stay before the others. */
	for (uint32 i = 0; i < filter->n_entries; i++)
	{
		FilterRow *entry = &filter->entries[i];

		if (i % BATCH_ROWS == 0)
			CHECK_FOR_INTERRUPTS();
		entry->word &= ~ENTRY_STATE;
		file_write(filter, &partition_of(filter, entry->hash)->source, entry);
	}

	file_rewind(&filter->spool_file);
	while ((n_rows = file_read(&filter->spool_file, rows, BATCH_ROWS)) > 0)
	{
		for (int i = 0; i < n_rows; i++)
			file_write(filter, &partition_of(filter, rows[i].hash)->source,
					   &rows[i]);
	}
	for (int i = 0; i < filter->n_spool; i++)
		file_write(filter, &partition_of(filter, filter->spool[i].hash)->source,
				   &filter->spool[i]);
	filter->n_spool = 0;
	file_close(&filter->spool_file);

	/* What add_source() prefetches must be somewhere: the smallest table. */
	table_drop(filter);
	table_reset(filter, MIN_TABLE_MEMORY);
}

/*
 * Does one partition: at once if its source fits into memory, or else part
 * by part, each about as large as fits.
 */
static void
finish_partition(EtlFilter *filter, Partition *partition)
{
	uint32 low = 0;
	uint32 high = ALL_PARTS;

	if (partition->source.n_rows == 0 && partition->target.n_rows == 0)
		return;

	while (low < ALL_PARTS)
	{
		uint32 width;

		if (!load_part(filter, partition, low, high))
		{
			if (high - low == 1)
				ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
								errmsg("too many rows to merge at once"),
								errhint("Merge them in several runs, or raise "
										"\"work_mem\".")));
			high = low + (high - low) / 2;
			continue;
		}

		filter->phase = PHASE_TARGET;
		replay_part(filter, partition, low, high);
		finish_entries(filter);
		if (filter->n_complex > 0)
		{
			deliver_source(filter);
			filter->phase = PHASE_RESCAN;
			replay_part(filter, partition, low, high);
		}
		width = high - low;
		low = high;
		high += width;
	}
	file_close(&partition->source);
	file_close(&partition->target);
}

/*
 * Fills the table with the source rows of the parts from low to high.
 * Returns false if they are too many for the memory; a single part may take
 * more.
 */
static bool
load_part(EtlFilter *filter, Partition *partition, uint32 low, uint32 high)
{
	Size buffers = filter->n_partitions * 2 * (Size) BLCKSZ;
	Size limit = MIN_TABLE_MEMORY;
	FilterRow rows[BATCH_ROWS];
	int n_rows;

	if (filter->memory > buffers + MIN_TABLE_MEMORY)
		limit = filter->memory - buffers;
	table_reset(filter, high - low == 1 ? MaxAllocHugeSize : limit);

	file_rewind(&partition->source);
	while ((n_rows = file_read(&partition->source, rows, BATCH_ROWS)) > 0)
	{
		for (int i = 0; i < n_rows; i++)
			prefetch(&filter->slots[(uint32) rows[i].hash & filter->slot_mask]);
		for (int i = 0; i < n_rows; i++)
		{
			uint32 part = part_of(filter, rows[i].hash);

			if (part >= low && part < high && !table_add(filter, &rows[i]))
				return false;
		}
	}
	return true;
}

/* Looks up the target rows of the parts from low to high. */
static void
replay_part(EtlFilter *filter, Partition *partition, uint32 low, uint32 high)
{
	FilterRow rows[BATCH_ROWS];
	int n_rows;

	file_rewind(&partition->target);
	while ((n_rows = file_read(&partition->target, rows, BATCH_ROWS)) > 0)
	{
		for (int i = 0; i < n_rows; i++)
		{
			uint32 part = part_of(filter, rows[i].hash);

			if (part < low || part >= high)
				continue;
			batch_add(filter, rows[i].hash, rows[i].fingerprint, rows[i].word);
			if (filter->n_batch == BATCH_ROWS)
				flush_target(filter);
		}
	}
	flush_target(filter);
}

/* ------------------------------------------------------------------ */
/* Files of rows														*/

/* Appends a row.  Not between rewind and the end of reading. */
static void
file_write(EtlFilter *filter, RowFile *file, FilterRow *row)
{
	if (file->file == NULL)
	{
		MemoryContext old_context = MemoryContextSwitchTo(filter->context);

		file->file = BufFileCreateTemp(false);
		MemoryContextSwitchTo(old_context);
	}
	BufFileWrite(file->file, row, sizeof(FilterRow));
	file->n_rows++;
}

/* Goes back to the start: to read the rows, or to write others. */
static void
file_rewind(RowFile *file)
{
	file->n_read = 0;
	if (file->file != NULL && BufFileSeek(file->file, 0, 0, SEEK_SET) != 0)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not rewind temporary file of a merge")));
}

/* Reads the next rows; returns their number, 0 at the end. */
static int
file_read(RowFile *file, FilterRow *rows, int max_rows)
{
	int n_rows = (int) Min(file->n_rows - file->n_read, max_rows);
	Size size = n_rows * sizeof(FilterRow);

	if (n_rows == 0)
		return 0;
	CHECK_FOR_INTERRUPTS();
	if (BufFileRead(file->file, rows, size) != size)
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
						errmsg("temporary file of a merge is too short")));
	file->n_read += n_rows;
	return n_rows;
}

static void
file_close(RowFile *file)
{
	if (file->file != NULL)
		BufFileClose(file->file);
	file->file = NULL;
	file->n_rows = 0;
	file->n_read = 0;
}
