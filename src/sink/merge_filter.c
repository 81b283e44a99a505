/*-------------------------------------------------------------------------
 *
 * merge_filter.c
 *	  Which rows of two large sets need a closer look, found by numbers.
 *
 * Most rows of a merge are as they were.  This file finds them without
 * seeing them: a row is a hash of its key, a fingerprint of its values and
 * an address.  The rows of the source go into a hash table (merge_table.c),
 * and those of the target are looked up in it.
 *
 * Rows are taken in batches: when a row is added the processor is told to
 * fetch its slot, when the batch is full all its entries, and only then are
 * they looked at.
 *
 * A source row of a hash that is in the table already makes that entry
 * complex and goes to a list of its own, which is written and read in one
 * sequence and holds but a buffer of it in memory, so that any number of
 * rows of one key cost the same for each row.
 *
 * When the memory does not suffice, source rows are written to partitions by
 * the high bits of their hash, then target rows likewise, and at the end one
 * partition after the other is done as above.  Meanwhile a quarter of the
 * memory is a sieve, one bit for many hashes, that holds back the target rows
 * whose hash no source row has.  A partition that is still too large is read
 * several times, each time for a part of its hashes.  The buffers of each of
 * the two sets of files take an eighth of the memory at most, unless it is
 * smaller than those of MIN_PARTITIONS.  For a moment, when the table gives
 * way to partitions, it is there beside sieve and buffers.
 *
 * If all is in memory and the target is much the larger side there is a sieve,
 * too, of 8 to 16 bits for each entry: with its help whoever reads the target
 * need not make a fingerprint of most rows.  It is small enough to stay near
 * the processor, and comes on top of the memory that the table may take.
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
#include "sink/merge_table.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/buffile.h"
#include "utils/memutils.h"

#define BATCH_ROWS		 64
#define SPOOL_ROWS		 512
#define MIN_PARTITIONS	 8
#define MAX_PARTITIONS	 256
#define MIN_TABLE_MEMORY (64 * 1024)
#define ADDRESS_BITS	 48

/* A sieve beside the table: for how many target rows, and how large. */
#define SIEVE_MIN_RATIO	 4
#define SIEVE_ENTRY_BITS 8
#define SIEVE_MAX_SIZE	 ((Size) 2 * 1024 * 1024)
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

typedef enum FilterPhase
{
	PHASE_SOURCE,
	PHASE_SPILL,  /* target rows go to partitions */
	PHASE_TARGET, /* target rows are looked up */
	PHASE_RESCAN, /* target rows again, for the complex entries */
	PHASE_DONE
} FilterPhase;

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
	EtlFilterRow batch[BATCH_ROWS];

	/* the table, of the source rows */
	EtlFilterTable table;
	int64 n_complex;

	/* source rows of a hash but the first */
	RowFile spool_file;
	int n_spool;
	EtlFilterRow *spool; /* those that are not in the file */

	/* what was too much for the memory */
	Size memory;
	Partition *partitions; /* NULL: all is in the table */
	int n_partitions;
	int partition_shift;
	bool to_files; /* rows that are added go to the partitions */

	/* which hashes the source has, while rows go to partitions or if it pays */
	EtlSieve sieve;
};

static void flush_source(EtlFilter *filter);
static void flush_target(EtlFilter *filter);
static void match_row(EtlFilter *filter, const EtlFilterRow *row,
					  EtlFilterRow *entry);
static void finish_entries(EtlFilter *filter);
static void deliver_source(EtlFilter *filter);
static bool keep_source(EtlFilter *filter, const EtlFilterRow *row);
static void empty_table(EtlFilter *filter, Size limit);
static void spool_add(EtlFilter *filter, const EtlFilterRow *row);
static void make_sieve(EtlFilter *filter, Size size);
static void start_partitions(EtlFilter *filter);
static void spill_source(EtlFilter *filter, EtlFilterRow *row);
static void spill_target(EtlFilter *filter, EtlFilterRow *row);
static void finish_partition(EtlFilter *filter, Partition *partition);
static bool load_part(EtlFilter *filter, Partition *partition, uint32 low,
					  uint32 high);
static void replay_part(EtlFilter *filter, Partition *partition, uint32 low,
						uint32 high);
static void file_write(EtlFilter *filter, RowFile *file, EtlFilterRow *row);
static void file_rewind(RowFile *file);
static int file_read(RowFile *file, EtlFilterRow *rows, int max_rows);
static void file_close(RowFile *file);

/* ------------------------------------------------------------------ */
/* Small parts of the inner loops										*/

static inline void
sieve_add(EtlSieve *sieve, uint64 hash)
{
	sieve->words[(hash >> 6) & sieve->mask] |= UINT64CONST(1) << (hash & 63);
}

/* Puts a row into the batch.  The batch must not be full. */
static inline void
batch_add(EtlFilter *filter, uint64 hash, uint64 fingerprint, uint64 word)
{
	const EtlFilterTable *table = &filter->table;
	EtlFilterRow *row = &filter->batch[filter->n_batch++];

	if (likely(!filter->to_files))
		etl_prefetch(&table->slots[etl_table_home(table, hash)]);
	else
		etl_prefetch(&filter->sieve.words[(hash >> 6) & filter->sieve.mask]);
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
	filter->spool = MemoryContextAlloc(context,
									   SPOOL_ROWS * sizeof(EtlFilterRow));
	filter->table.context = context;
	empty_table(filter, Max(memory, MIN_TABLE_MEMORY));
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

/*
 * Says that all rows of the source have been added, and about how many the
 * target has.
 */
void
etl_filter_source_done(EtlFilter *filter, double target_rows)
{
	const EtlFilterTable *table = &filter->table;
	Size size;

	if (filter->phase != PHASE_SOURCE)
		elog(ERROR, "merge filter has its source already");

	flush_source(filter);
	filter->phase = filter->to_files ? PHASE_SPILL : PHASE_TARGET;

	size = (Size) table->n_entries * SIEVE_ENTRY_BITS / BITS_PER_BYTE;
	if (filter->to_files || size > SIEVE_MAX_SIZE ||
		(double) table->n_entries * SIEVE_MIN_RATIO > target_rows)
		return;
	make_sieve(filter, pg_nextpower2_size_t(Max(size, sizeof(uint64))));
	for (uint32 i = 0; i < table->n_entries; i++)
		sieve_add(&filter->sieve, table->entries[i].hash);
}

/*
 * The sieve for rows of the target: one whose hash does not pass need not be
 * added, unless calls for absent rows are wanted, and its fingerprint does not
 * matter.
 */
const EtlSieve *
etl_filter_sieve(const EtlFilter *filter)
{
	return &filter->sieve;
}

/* Adds a row of the target, whose flags are those of the header. */
void
etl_filter_add_target(EtlFilter *filter, uint64 hash, uint64 fingerprint,
					  uint64 address, int flags)
{
	uint64 word = (address << FLAG_BITS) | (uint64) flags;

	Assert(filter->phase != PHASE_SOURCE && filter->phase != PHASE_DONE);
	if (unlikely((address >> ADDRESS_BITS) != 0))
		elog(ERROR, "row address does not fit into %d bits", ADDRESS_BITS);

	batch_add(filter, hash, fingerprint, word);
	if (filter->n_batch == BATCH_ROWS)
		flush_target(filter);
}

/*
 * Settles what is left once all rows of the target have been added: see the
 * header for the calls that it makes.
 */
void
etl_filter_finish(EtlFilter *filter)
{
	if (filter->phase != PHASE_TARGET && filter->phase != PHASE_SPILL)
		elog(ERROR, "merge filter is not ready to be finished");

	flush_target(filter);
	if (filter->partitions == NULL)
	{
		finish_entries(filter);
		if (filter->n_complex > 0)
		{
			deliver_source(filter);
			filter->phase = PHASE_RESCAN;
			filter->calls.rescan(filter->arg);
			flush_target(filter);
		}
	}
	else
	{
		pfree(filter->sieve.words);
		filter->sieve.words = NULL;
		filter->to_files = false;
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
		EtlFilterRow *row = &filter->batch[i];

		if (filter->partitions == NULL)
		{
			if (likely(keep_source(filter, row)))
				continue;
			start_partitions(filter);
		}
		spill_source(filter, row);
	}
}

/*
 * Looks the batch up.  The first loop finds the slots and has the entries
 * fetched, the second one looks at these.
 */
static void
flush_target(EtlFilter *filter)
{
	const EtlFilterTable *table = &filter->table;
	uint32 positions[BATCH_ROWS];
	int n_rows = filter->n_batch;

	filter->n_batch = 0;
	CHECK_FOR_INTERRUPTS();
	if (filter->phase == PHASE_SPILL)
	{
		for (int i = 0; i < n_rows; i++)
			spill_target(filter, &filter->batch[i]);
		return;
	}

	for (int i = 0; i < n_rows; i++)
	{
		uint64 hash = filter->batch[i].hash;
		const EtlFilterRow *entry;

		positions[i] = etl_table_next(table, etl_table_home(table, hash), hash);
		entry = etl_table_entry(table, positions[i]);
		if (entry != NULL)
		{
			/* It may lie across two cache lines. */
			etl_prefetch(&entry->hash);
			etl_prefetch(&entry->word);
		}
	}

	for (int i = 0; i < n_rows; i++)
	{
		const EtlFilterRow *row = &filter->batch[i];
		EtlFilterRow *entry = etl_table_find(table, &positions[i], row->hash);

		if (filter->phase == PHASE_TARGET)
			match_row(filter, row, entry);
		else if (entry != NULL && (entry->word & ENTRY_COMPLEX) != 0)
			filter->calls.target(filter->arg, row->hash, ADDRESS_OF(row->word));
	}
}

/* A row of the target has met its entry, or NULL. */
static void
match_row(EtlFilter *filter, const EtlFilterRow *row, EtlFilterRow *entry)
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
	for (uint32 i = 0; i < filter->table.n_entries; i++)
	{
		EtlFilterRow *entry = &filter->table.entries[i];
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
	EtlFilterRow rows[BATCH_ROWS];
	int n_rows;

	for (uint32 i = 0; i < filter->table.n_entries; i++)
	{
		const EtlFilterRow *entry = &filter->table.entries[i];

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

/*
 * Puts a source row into the table.  Returns false, and has done nothing, if
 * there is no room for it.
 */
static bool
keep_source(EtlFilter *filter, const EtlFilterRow *row)
{
	EtlFilterRow *known;
	EtlTableAdd result = etl_table_add(&filter->table, row, &known);

	if (result == ETL_TABLE_KNOWN)
	{
		if ((known->word & ENTRY_COMPLEX) == 0)
		{
			known->word |= ENTRY_COMPLEX;
			filter->n_complex++;
		}
		spool_add(filter, row);
	}
	return result != ETL_TABLE_FULL;
}

/* Forgets table and spool.  The table may then take so much memory. */
static void
empty_table(EtlFilter *filter, Size limit)
{
	etl_table_reset(&filter->table, limit);
	filter->n_complex = 0;
	filter->n_spool = 0;
	filter->spool_file.n_rows = 0;
	file_rewind(&filter->spool_file);
}

/* Keeps a source row whose hash has an entry already. */
static void
spool_add(EtlFilter *filter, const EtlFilterRow *row)
{
	if (filter->n_spool == SPOOL_ROWS)
	{
		for (int i = 0; i < SPOOL_ROWS; i++)
			file_write(filter, &filter->spool_file, &filter->spool[i]);
		filter->n_spool = 0;
	}
	filter->spool[filter->n_spool++] = *row;
}

/* Makes an empty sieve, whose size is a power of two. */
static void
make_sieve(EtlFilter *filter, Size size)
{
	filter->sieve.words = MemoryContextAllocExtended(filter->context, size,
													 MCXT_ALLOC_HUGE |
														 MCXT_ALLOC_ZERO);
	filter->sieve.mask = size / sizeof(uint64) - 1;
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
	Size sieve_size;
	EtlFilterRow rows[BATCH_ROWS];
	int n_rows;

	n_partitions = Max(n_partitions, MIN_PARTITIONS);
	n_partitions = Min(n_partitions, MAX_PARTITIONS);
	filter->partition_shift = 64 - pg_leftmost_one_pos32((uint32) n_partitions);
	filter->n_partitions = 1 << (64 - filter->partition_shift);
	filter->partitions = MemoryContextAllocZero(filter->context,
												filter->n_partitions *
													sizeof(Partition));

	sieve_size = Max(filter->memory, MIN_TABLE_MEMORY) / 4;
	sieve_size = pg_prevpower2_size_t(sieve_size);
	make_sieve(filter, sieve_size);
	filter->to_files = true;

	/* The first row of a hash must stay before the others. */
	for (uint32 i = 0; i < filter->table.n_entries; i++)
	{
		EtlFilterRow *entry = &filter->table.entries[i];

		if (i % BATCH_ROWS == 0)
			CHECK_FOR_INTERRUPTS();
		entry->word &= ~ENTRY_STATE;
		spill_source(filter, entry);
	}
	etl_table_drop(&filter->table);

	file_rewind(&filter->spool_file);
	while ((n_rows = file_read(&filter->spool_file, rows, BATCH_ROWS)) > 0)
	{
		for (int i = 0; i < n_rows; i++)
			spill_source(filter, &rows[i]);
	}
	for (int i = 0; i < filter->n_spool; i++)
		spill_source(filter, &filter->spool[i]);
	filter->n_spool = 0;
	file_close(&filter->spool_file);
}

/* Writes a source row to its partition. */
static void
spill_source(EtlFilter *filter, EtlFilterRow *row)
{
	sieve_add(&filter->sieve, row->hash);
	file_write(filter, &partition_of(filter, row->hash)->source, row);
}

/* Writes a target row to its partition, unless it surely has no entry. */
static void
spill_target(EtlFilter *filter, EtlFilterRow *row)
{
	if (!etl_sieve_passes(&filter->sieve, row->hash))
		match_row(filter, row, NULL);
	else
		file_write(filter, &partition_of(filter, row->hash)->target, row);
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

		/* What has been cut small need not stay so. */
		width = high - low;
		if (filter->table.n_entries < filter->table.max_entries / 3)
			width *= 2;
		low = high;
		high = Min(low + width, ALL_PARTS);
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
	const EtlFilterTable *table = &filter->table;
	EtlFilterRow rows[BATCH_ROWS];
	int n_rows;

	if (filter->memory > buffers + MIN_TABLE_MEMORY)
		limit = filter->memory - buffers;
	empty_table(filter, high - low == 1 ? MaxAllocHugeSize : limit);

	file_rewind(&partition->source);
	while ((n_rows = file_read(&partition->source, rows, BATCH_ROWS)) > 0)
	{
		for (int i = 0; i < n_rows; i++)
			etl_prefetch(&table->slots[etl_table_home(table, rows[i].hash)]);
		for (int i = 0; i < n_rows; i++)
		{
			uint32 part = part_of(filter, rows[i].hash);

			if (part >= low && part < high && !keep_source(filter, &rows[i]))
				return false;
		}
	}
	return true;
}

/* Looks up the target rows of the parts from low to high. */
static void
replay_part(EtlFilter *filter, Partition *partition, uint32 low, uint32 high)
{
	EtlFilterRow rows[BATCH_ROWS];
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
file_write(EtlFilter *filter, RowFile *file, EtlFilterRow *row)
{
	if (file->file == NULL)
	{
		MemoryContext old_context = MemoryContextSwitchTo(filter->context);

		file->file = BufFileCreateTemp(false);
		MemoryContextSwitchTo(old_context);
	}
	BufFileWrite(file->file, row, sizeof(EtlFilterRow));
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
file_read(RowFile *file, EtlFilterRow *rows, int max_rows)
{
	int n_rows = (int) Min(file->n_rows - file->n_read, max_rows);
	Size size = n_rows * sizeof(EtlFilterRow);

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
