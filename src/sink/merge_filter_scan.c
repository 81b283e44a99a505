/*-------------------------------------------------------------------------
 *
 * merge_filter_scan.c
 *	  Merging by reading both sides once.
 *
 * The filter (merge_filter.c) is told the hash of each row's key, and a
 * fingerprint of its key and all compared columns, which is seeded at random.
 * Rows that are equal in both, 128 bits in all, are unchanged and never looked
 * at again, unless the hash function of a key's type may give two keys the same
 * hash with every seed, as that of intervals does: then only their equality
 * counts.  The others are fetched and decided with their values at hand: a
 * pair of a changed row and the open one, a row of a new key, an absent key;
 * or, where that is not enough, with all the rows of the key brought together
 * by merge_group.c.
 *
 * With a sequence its value is part of the fingerprint, so that only a row
 * that was seen before, at its time, is passed over.
 *
 * What a pair asks for is written at once, while the target is read: the
 * scan's snapshot does not see it, and it comes in the order of the pages.
 *
 * If rows are only appended, and the target is not much larger than the input,
 * it is the other way round: the keys of the target come first, and most rows
 * of the input are settled, or written, as they come by (merge_known.c).  Only
 * those of which that cannot be said go through the filter, with a snapshot
 * that sees the rows written until then, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/nodeHash.h"
#include "miscadmin.h"
#include "optimizer/plancat.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "sink/merge_filter.h"
#include "sink/merge_group.h"
#include "sink/merge_known.h"
#include "sink/merge_print.h"
#include "sink/merge_private.h"

/*
 * Up to how many rows of the target for each of the input its keys are read
 * first: of each key there is a random access to memory.
 */
#define KNOWN_MAX_RATIO 4

typedef struct FilterScan
{
	EtlMerge *merge;
	EtlScope *scope;	/* or NULL */
	double target_rows; /* estimate */
	EtlFilter *filter;
	EtlGroups *groups;	  /* made for the first key that needs it */
	bool as_they_are;	  /* rows of the input need not be made changes */
	EtlPrint input_print; /* of those */
	bool hashes_tell;	  /* keys of the same hashes are the same */
	EtlPrint target_print;
	bool rescanning;
	int64 n_scanned; /* rows of the target, by the scan that runs */
	int64 n_fresh;	 /* rows of new keys */
	EtlKnown *known; /* or NULL: all rows go through the filter */
	bool any_unsure; /* if not NULL: some do */
	Snapshot before; /* NULL, or what is new to it, the merge has written */
	TupleTableSlot *target_slot;
	TupleTableSlot *input_slot;
	EtlChange *change;
} FilterScan;

static void make_prints(FilterScan *scan);
static bool hashes_tell(const EtlMerge *merge);
static bool may_write_at_once(FilterScan *scan);
static bool has_own_triggers(Relation rel);
static void know_target(FilterScan *scan);
static void know_row(void *arg, TupleTableSlot *slot);
static bool settle_known(FilterScan *scan, const EtlFilterRow *row,
						 EtlChange *change, TupleTableSlot *slot);
static void settle_unsure(FilterScan *scan);
static bool is_new(FilterScan *scan, TupleTableSlot *slot);
static void meet(FilterScan *scan);
static void read_input(FilterScan *scan);
static void scan_target(FilterScan *scan);
static void scan_heap(FilterScan *scan);
static bool add_input_row(void *arg, TupleTableSlot *slot);
static void add_input(void *arg, EtlChange *change, TupleTableSlot *slot);
static void add_target(void *arg, TupleTableSlot *slot);
static void get_stored(FilterScan *scan, uint64 address, EtlStored *stored);
static void get_change(FilterScan *scan, uint64 address);
static bool same_key(EtlMerge *merge, const EtlStored *stored,
					 const EtlChange *change);
static bool in_scope(FilterScan *scan, const EtlStored *stored);
static bool decide(FilterScan *scan, EtlGroup *group);
static bool settle_pair(void *arg, uint64 source, uint64 target);
static void settle_again(void *arg, uint64 source, uint64 target);
static void settle_fresh(void *arg, uint64 source);
static void settle_absent(void *arg, uint64 target);
static EtlGroups *get_groups(FilterScan *scan);
static void group_source(void *arg, uint64 hash, uint64 source);
static void group_target(void *arg, uint64 hash, uint64 target);
static void rescan(void *arg);

static const EtlFilterCalls filter_calls = {
	.pair = settle_pair,
	.fresh = settle_fresh,
	.again = settle_again,
	.absent = settle_absent,
	.source = group_source,
	.target = group_target,
	.rescan = rescan,
};

/* Merges into a heap by way of the filter. */
void
etl_merge_by_scan(EtlMerge *merge, EtlScope *scope)
{
	FilterScan *scan = palloc0(sizeof(FilterScan));
	BlockNumber pages;
	double visible;

	scan->merge = merge;
	scan->scope = scope;
	scan->filter = etl_filter_create(get_hash_memory_limit(), &filter_calls,
									 scan);
	estimate_rel_size(merge->target, NULL, &pages, &scan->target_rows, &visible);
	scan->target_slot = table_slot_create(merge->target, NULL);
	scan->input_slot = etl_input_slot(merge);
	scan->change = etl_change_create(merge);

	make_prints(scan);
	if (may_write_at_once(scan))
		know_target(scan);
	read_input(scan);
	if (scope != NULL)
		etl_scope_done(scope);
	if (scan->known == NULL)
		meet(scan);
	else
		settle_unsure(scan);
	etl_filter_free(scan->filter);
	ExecDropSingleTupleTableSlot(scan->target_slot);
	ExecDropSingleTupleTableSlot(scan->input_slot);
}

/* The rows of a scope have to be made changes. */
static void
make_prints(FilterScan *scan)
{
	EtlMerge *merge = scan->merge;
	uint64 seed;

	if (!pg_strong_random(&seed, sizeof(seed)))
		elog(ERROR, "could not generate a random seed");
	scan->hashes_tell = hashes_tell(merge);
	etl_print_target(&scan->target_print, merge, seed);
	scan->as_they_are = etl_print_input(&scan->input_print, merge, seed) &&
						(scan->scope == NULL ||
						 (merge->n_scope == 0 && merge->input.time == 0));
}

/*
 * Do keys that differ have different hashes, as far as chance allows?  The
 * seed changes nothing where a type's function has folded the value before:
 * a bigint in an array, or the time of an interval.  So only of types where
 * equality is that of the bytes, and of a few others, is it known.
 */
static bool
hashes_tell(const EtlMerge *merge)
{
	for (int i = 0; i < merge->n_keys; i++)
	{
		const EtlValueOps *ops = &merge->columns[merge->keys[i]].ops;

		if (!ops->image_equal && ops->type != NUMERICOID &&
			ops->type != FLOAT4OID && ops->type != FLOAT8OID &&
			ops->type != TEXTOID && ops->type != VARCHAROID &&
			ops->type != BPCHAROID)
			return false;
	}
	return true;
}

static void
read_input(FilterScan *scan)
{
	etl_input_scan(scan->merge, scan->as_they_are ? add_input_row : NULL,
				   add_input, scan);
	etl_filter_source_done(scan->filter, scan->target_rows);
}

/* The rows of both sides that are in the filter meet there. */
static void
meet(FilterScan *scan)
{
	EtlMerge *merge = scan->merge;

	scan_target(scan);
	etl_progress_set(merge->run, ETL_PHASE_DECIDING, ETL_UNIT_ROWS, 0,
					 ETL_TOTAL_UNKNOWN);
	etl_filter_finish(scan->filter);
	merge->counts.unchanged += etl_filter_unchanged(scan->filter);
	etl_merge_writer_in_order(merge->writer, false);
	if (scan->groups != NULL)
	{
		etl_groups_decide(scan->groups);
		etl_groups_free(scan->groups);
	}
}

static void
scan_target(FilterScan *scan)
{
	EtlMerge *merge = scan->merge;

	scan->target_print.sieve = etl_filter_sieve(scan->filter);
	scan->target_print.others_matter = merge->absent != ETL_ABSENT_IGNORE ||
									   merge->max_delete_fraction >= 0;
	etl_merge_writer_in_order(merge->writer, true);
	scan_heap(scan);
}

static void
scan_heap(FilterScan *scan)
{
	EtlMerge *merge = scan->merge;

	scan->n_scanned = 0;
	etl_progress_set(merge->run, ETL_PHASE_COMPARING, ETL_UNIT_ROWS, 0,
					 scan->target_rows);
	etl_heap_rows(merge->target, GetActiveSnapshot(), add_target, scan);
}

/* ------------------------------------------------------------------ */
/* rows that are only appended                                          */

/*
 * May new rows be written while the input is read, and does it pay to read
 * the keys of the target before?  Triggers might change the keys.
 */
static bool
may_write_at_once(FilterScan *scan)
{
	EtlMerge *merge = scan->merge;
	double rows = merge->input.rows;

	return etl_merge_appends(merge) && !merge->dry_run &&
		   merge->settled == NULL && scan->hashes_tell &&
		   scan->target_rows <= rows * KNOWN_MAX_RATIO &&
		   etl_known_suits(get_hash_memory_limit(), scan->target_rows + rows) &&
		   !has_own_triggers(merge->target);
}

/* Other triggers than those of constraints? */
static bool
has_own_triggers(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		if (!triggers->triggers[i].tgisinternal)
			return true;
	return false;
}

/* Reads the keys of the target and gets ready to write. */
static void
know_target(FilterScan *scan)
{
	EtlMerge *merge = scan->merge;

	scan->known = etl_known_create(get_hash_memory_limit());
	scan->target_print.sieve = etl_filter_sieve(scan->filter);
	scan->n_scanned = 0;
	etl_progress_set(merge->run, ETL_PHASE_COMPARING, ETL_UNIT_ROWS, 0,
					 scan->target_rows);
	etl_heap_rows(merge->target, GetActiveSnapshot(), know_row, scan);
	etl_merge_writer_at_once(merge->writer);
	merge->input.query.serial = true;
}

static void
know_row(void *arg, TupleTableSlot *slot)
{
	FilterScan *scan = arg;
	EtlFilterRow row;

	etl_progress_row(scan->merge->run, ++scan->n_scanned);
	if (etl_print_target_row(&scan->target_print, slot, &row))
		(void) etl_known_add(scan->known, &row, true);
}

/*
 * Settles a row of the input, if that can be done without its like.  change
 * is what the row was made, or NULL.
 */
static bool
settle_known(FilterScan *scan, const EtlFilterRow *row, EtlChange *change,
			 TupleTableSlot *slot)
{
	EtlMerge *merge = scan->merge;
	EtlGroup group = {0};

	switch (etl_known_add(scan->known, row, false))
	{
		case ETL_KEY_NEW:
			if (etl_merge_insert_slot(merge->writer, slot))
			{
				merge->counts.inserted++;
				break;
			}
			if (change == NULL)
			{
				change = scan->change;
				etl_input_convert(merge, slot, change);
			}
			group.complete = true;
			group.changes = change;
			group.n_changes = 1;
			decide(scan, &group);
			break;
		case ETL_KEY_STORED:
			merge->counts.unchanged++;
			break;
		case ETL_KEY_SEEN:
			merge->counts.duplicates++;
			break;
		case ETL_KEY_UNSURE:
			scan->any_unsure = true;
			return false;
	}
	return true;
}

/* Settles the rows that are left. */
static void
settle_unsure(FilterScan *scan)
{
	EtlMergeWriter *writer = scan->merge->writer;

	etl_known_free(scan->known);
	scan->known = NULL;
	if (!scan->any_unsure)
		return;
	etl_merge_writer_flush(writer);
	scan->before = GetActiveSnapshot();
	PushCopiedSnapshot(scan->before);
	UpdateActiveSnapshotCommandId();
	meet(scan);
	PopActiveSnapshot();
	scan->before = NULL;
}

/* Has the merge written the row that is in the slot? */
static bool
is_new(FilterScan *scan, TupleTableSlot *slot)
{
	return scan->before != NULL &&
		   !table_tuple_satisfies_snapshot(scan->merge->target, slot,
										   scan->before);
}

/* ------------------------------------------------------------------ */
/* telling the filter                                                   */

/* Takes a row of the input as it is, unless there is something about it. */
static bool
add_input_row(void *arg, TupleTableSlot *slot)
{
	FilterScan *scan = arg;
	EtlFilterRow row;

	if (!etl_print_input_row(&scan->input_print, slot, &row))
		return false;
	if (scan->known == NULL || !settle_known(scan, &row, NULL, slot))
		etl_filter_add_source(scan->filter, row.hash, row.fingerprint,
							  etl_input_address(scan->merge, slot));
	return true;
}

static void
add_input(void *arg, EtlChange *change, TupleTableSlot *slot)
{
	FilterScan *scan = arg;
	EtlMerge *merge = scan->merge;
	EtlFilterRow row = {0};

	row.hash = etl_key_hash(merge, change->values);
	row.fingerprint = etl_print_change(&scan->target_print, change);
	if (change->is_delete)
		row.fingerprint = ~row.fingerprint;
	if (scan->scope != NULL)
		etl_scope_add(scan->scope, change);
	if (scan->known == NULL || !settle_known(scan, &row, change, slot))
		etl_filter_add_source(scan->filter, row.hash, row.fingerprint,
							  etl_input_address(merge, slot));
}

static void
add_target(void *arg, TupleTableSlot *slot)
{
	FilterScan *scan = arg;
	EtlFilterRow row;
	int flags;

	etl_progress_row(scan->merge->run, ++scan->n_scanned);
	if (!etl_print_target_row(&scan->target_print, slot, &row))
		return;
	flags = (int) (row.word & 0xffff);
	if (!scan->hashes_tell || is_new(scan, slot))
		flags |= ETL_FILTER_TOUCH;
	if ((flags & ETL_FILTER_OPEN) != 0 && !scan->rescanning)
		scan->merge->counts.open++;
	etl_filter_add_target(scan->filter, row.hash, row.fingerprint,
						  row.word >> 16, flags);
}

/* ------------------------------------------------------------------ */
/* what the filter finds                                                */

static void
get_stored(FilterScan *scan, uint64 address, EtlStored *stored)
{
	TupleTableSlot *slot = scan->target_slot;

	etl_address_tid(address, &stored->tid);
	etl_heap_fetch(scan->merge->target, &stored->tid, GetActiveSnapshot(), slot);
	slot_getallattrs(slot);
	stored->table = RelationGetRelid(scan->merge->target);
	stored->is_new = is_new(scan, slot);
	stored->values = slot->tts_values;
	stored->nulls = slot->tts_isnull;
}

/* What is made of the row lasts until the group is decided. */
static void
get_change(FilterScan *scan, uint64 address)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(scan->merge->group_context);

	etl_input_fetch(scan->merge, address, scan->input_slot);
	etl_input_convert(scan->merge, scan->input_slot, scan->change);
	scan->change->number = (int64) address;
	MemoryContextSwitchTo(oldcontext);
}

/*
 * Do the two rows have the same key?  What the comparison allocates goes with
 * the next group.
 */
static bool
same_key(EtlMerge *merge, const EtlStored *stored, const EtlChange *change)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(merge->group_context);
	bool same = etl_key_equal(merge, stored->values, stored->nulls,
							  change->values, change->nulls);

	MemoryContextSwitchTo(oldcontext);
	return same;
}

/* Does the input speak for the row? */
static bool
in_scope(FilterScan *scan, const EtlStored *stored)
{
	MemoryContext group_context = scan->merge->group_context;
	MemoryContext oldcontext = MemoryContextSwitchTo(group_context);
	bool within = etl_scope_has(scan->scope, stored->values, stored->nulls);

	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(group_context);
	return within;
}

/* Decides a group in a context of its own. */
static bool
decide(FilterScan *scan, EtlGroup *group)
{
	EtlMerge *merge = scan->merge;
	MemoryContext oldcontext = MemoryContextSwitchTo(merge->group_context);
	bool done = merge->decide(merge, group);

	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(merge->group_context);
	return done;
}

static bool
settle_pair(void *arg, uint64 source, uint64 target)
{
	FilterScan *scan = arg;
	EtlStored stored;
	EtlGroup group = {0};

	get_stored(scan, target, &stored);
	get_change(scan, source);
	if (!same_key(scan->merge, &stored, scan->change))
		return false;
	group.stored = &stored;
	group.n_stored = 1;
	group.changes = scan->change;
	group.n_changes = 1;
	return decide(scan, &group);
}

/* The second open row of a key; or of another key with the same hash. */
static void
settle_again(void *arg, uint64 source, uint64 target)
{
	FilterScan *scan = arg;
	EtlMerge *merge = scan->merge;
	EtlStored stored;

	if (etl_merge_appends(merge))
		return;
	get_stored(scan, target, &stored);
	get_change(scan, source);
	if (same_key(merge, &stored, scan->change))
		ereport(ERROR,
				(errcode(merge->versioned ? ERRCODE_DATA_EXCEPTION :
											ERRCODE_CARDINALITY_VIOLATION),
				 errmsg(merge->versioned ?
							"key %s of relation \"%s\" has two open versions" :
							"key %s is in relation \"%s\" more than once",
						etl_merge_key_text(merge, stored.values, stored.nulls),
						RelationGetRelationName(merge->target)),
				 merge->versioned ?
					 errhint("etl_scd2_verify() lists all such problems.") :
					 errhint(
						 "Delete the other rows of the key, or name more columns in \"keys\".")));
	settle_absent(arg, target);
}

static void
settle_fresh(void *arg, uint64 source)
{
	FilterScan *scan = arg;
	EtlGroup group = {0};

	etl_progress_row(scan->merge->run, ++scan->n_fresh);
	get_change(scan, source);
	group.complete = true;
	group.changes = scan->change;
	group.n_changes = 1;
	decide(scan, &group);
}

static void
settle_absent(void *arg, uint64 target)
{
	FilterScan *scan = arg;
	EtlStored stored;
	EtlGroup group = {0};

	if (scan->merge->absent == ETL_ABSENT_IGNORE)
		return;
	get_stored(scan, target, &stored);
	if (!in_scope(scan, &stored))
		return;
	group.stored = &stored;
	group.n_stored = 1;
	if (!decide(scan, &group))
		elog(ERROR, "absent key was left undecided");
}

/* ------------------------------------------------------------------ */
/* keys that need all their rows                                        */

static EtlGroups *
get_groups(FilterScan *scan)
{
	if (scan->groups == NULL)
	{
		MemoryContext oldcontext;

		oldcontext = MemoryContextSwitchTo(GetMemoryChunkContext(scan));
		scan->groups = etl_groups_create(scan->merge);
		MemoryContextSwitchTo(oldcontext);
	}
	return scan->groups;
}

static void
group_source(void *arg, uint64 hash, uint64 source)
{
	FilterScan *scan = arg;
	EtlMerge *merge = scan->merge;
	MemoryContext oldcontext = MemoryContextSwitchTo(merge->group_context);

	get_change(scan, source);
	etl_groups_add_change(get_groups(scan), hash, scan->change);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(merge->group_context);
}

static void
group_target(void *arg, uint64 hash, uint64 target)
{
	FilterScan *scan = arg;
	EtlStored stored;

	get_stored(scan, target, &stored);
	etl_groups_add_stored(get_groups(scan), hash, &stored);
}

static void
rescan(void *arg)
{
	FilterScan *scan = arg;

	scan->rescanning = true;
	scan_heap(scan);
	scan->rescanning = false;
}
