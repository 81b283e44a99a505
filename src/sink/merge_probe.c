/*-------------------------------------------------------------------------
 *
 * merge_probe.c
 *	  Merging a few rows into a large heap, through an index on the keys.
 *
 * The input is read first and its rows are brought together by key
 * (merge_group.c).  Then, key by key, one index scan that is started again
 * and again fetches all stored rows of the key.  Keys come in the order of
 * the index, so that neighbours share its pages, and those of the heap where
 * that has a like order: with 1% of 10 million rows that was half the time of
 * the order of the hashes.
 *
 * How many rows the input has is an estimate, and for a view no more than a
 * guess.  If there are so many that the probes would not pay, all rows of the
 * heap are read after all, and those that may have a key of the input (a
 * Bloom filter tells) join the groups.
 *
 * Invariants:
 *	- What is written while the scan is open has new places and a later
 *	  command, so that the scan's snapshot does not see it; and no later probe
 *	  looks for the same key.
 *	- The scan keeps memory of its own from one probe to the next, so that it
 *	  runs in the probe's context, never in that of a group.
 *
 * Locks: AccessShareLock on the index, until commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "lib/bloomfilter.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "sink/merge_group.h"
#include "sink/merge_private.h"

struct EtlProbe
{
	EtlMerge *merge;
	MemoryContext context; /* holds this, and what the scan allocates */
	Relation index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	ScanKeyData *keys; /* for each column of the merge's key */
	int *columns;	   /* of the target, by key of the scan */
	EtlGroups *groups;
	double limit; /* more rows than this are too many */
	double n_changes;
	bloom_filter *hashes; /* of the keys of the input */
	bool all_read;		  /* the groups have the stored rows */
	int64 n_scanned;	  /* so many of them, among others */
};

static Relation choose_index(EtlMerge *merge);
static bool index_serves(EtlMerge *merge, Relation index);
static Oid equality_of(EtlMerge *merge, Relation index, int position);
static bool is_key(EtlMerge *merge, int column);
static void make_keys(EtlProbe *probe);
static void add_input(void *arg, EtlChange *change, TupleTableSlot *slot);
static void read_all(EtlProbe *probe);
static void add_target(void *arg, TupleTableSlot *slot);
static void decide_group(EtlMerge *merge, EtlGroup *group, void *arg);
static void fetch_stored(EtlProbe *probe, EtlGroup *group);
static void copy_stored(EtlProbe *probe, EtlStored *stored);

/*
 * Gets ready for no more than so many rows of the input, in the current
 * memory context, or returns NULL if the target has no suitable index.
 */
EtlProbe *
etl_probe_open(EtlMerge *merge, double limit)
{
	Relation index = choose_index(merge);
	MemoryContext oldcontext;
	MemoryContext context;
	EtlProbe *probe;

	if (index == NULL)
		return NULL;
	context = AllocSetContextCreate(CurrentMemoryContext, "etl probe",
									ALLOCSET_DEFAULT_SIZES);
	oldcontext = MemoryContextSwitchTo(context);
	probe = palloc0(sizeof(EtlProbe));
	probe->merge = merge;
	probe->context = context;
	probe->index = index;
	probe->limit = limit;
	make_keys(probe);
	MemoryContextSwitchTo(oldcontext);
	return probe;
}

/* ------------------------------------------------------------------ */
/* the index                                                            */

/* The narrowest index that serves, open and locked; or NULL. */
static Relation
choose_index(EtlMerge *merge)
{
	List *oids = RelationGetIndexList(merge->target);
	Relation best = NULL;
	ListCell *cell;

	foreach(cell, oids)
	{
		Relation index = index_open(lfirst_oid(cell), AccessShareLock);

		if (!index_serves(merge, index) ||
			(best != NULL &&
			 best->rd_index->indnatts <= index->rd_index->indnatts))
		{
			index_close(index, AccessShareLock);
			continue;
		}
		if (best != NULL)
			index_close(best, AccessShareLock);
		best = index;
	}
	list_free(oids);
	return best;
}

/*
 * Do the index's first columns find all rows of a key, as the merge sees it?
 * An index that was built while older rows were in use must not be used with
 * snapshots that may see them.
 */
static bool
index_serves(EtlMerge *merge, Relation index)
{
	Form_pg_index form = index->rd_index;

	if (!form->indisvalid || !form->indisready ||
		form->indnkeyatts < merge->n_keys ||
		!heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL))
		return false;
	if (index->rd_rel->relam != BTREE_AM_OID &&
		(index->rd_rel->relam != HASH_AM_OID || merge->n_keys != 1))
		return false;
	if (form->indcheckxmin &&
		!TransactionIdPrecedes(HeapTupleHeaderGetXmin(
								   index->rd_indextuple->t_data),
							   TransactionXmin))
		return false;
	for (int i = 0; i < merge->n_keys; i++)
	{
		for (int j = 0; j < i; j++)
			if (form->indkey.values[j] == form->indkey.values[i])
				return false;
		if (form->indkey.values[i] <= 0 ||
			!is_key(merge, form->indkey.values[i] - 1) ||
			!OidIsValid(equality_of(merge, index, i)))
			return false;
	}
	return true;
}

/* The operator for a key of a scan, if it is that of the merge. */
static Oid
equality_of(EtlMerge *merge, Relation index, int position)
{
	int column = index->rd_index->indkey.values[position] - 1;
	EtlValueOps *ops = &merge->columns[column].ops;
	TypeCacheEntry *entry = lookup_type_cache(ops->type, TYPECACHE_EQ_OPR);
	StrategyNumber strategy = index->rd_rel->relam == BTREE_AM_OID ?
								  BTEqualStrategyNumber :
								  HTEqualStrategyNumber;
	Oid type = index->rd_opcintype[position];
	Oid equality;

	if (index->rd_indcollation[position] != ops->collation)
		return InvalidOid;
	equality = get_opfamily_member(index->rd_opfamily[position], type, type,
								   strategy);
	return equality == entry->eq_opr ? equality : InvalidOid;
}

static bool
is_key(EtlMerge *merge, int column)
{
	return merge->columns[column].role == ETL_ROLE_KEY;
}

/* The keys of the scan, whose values are set for each probe. */
static void
make_keys(EtlProbe *probe)
{
	EtlMerge *merge = probe->merge;
	Relation index = probe->index;

	probe->keys = palloc0(sizeof(ScanKeyData) * merge->n_keys);
	probe->columns = palloc(sizeof(int) * merge->n_keys);
	for (int i = 0; i < merge->n_keys; i++)
	{
		Oid equality = equality_of(merge, index, i);

		probe->columns[i] = index->rd_index->indkey.values[i] - 1;
		ScanKeyEntryInitialize(&probe->keys[i], 0, i + 1,
							   index->rd_rel->relam == BTREE_AM_OID ?
								   BTEqualStrategyNumber :
								   HTEqualStrategyNumber,
							   InvalidOid, index->rd_indcollation[i],
							   get_opcode(equality), (Datum) 0);
	}
}

/* ------------------------------------------------------------------ */
/* the merge                                                            */

/* Merges and closes the probe. */
void
etl_merge_by_probe(EtlMerge *merge, EtlProbe *probe)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(probe->context);

	probe->groups = etl_groups_create_ordered(merge, probe->columns,
											  merge->n_keys);
	probe->hashes = bloom_create((int64) Max(probe->limit, 1000), work_mem, 0);
	etl_input_scan(merge, NULL, add_input, probe);

	if (probe->n_changes > probe->limit)
		read_all(probe);
	else
		merge->way = "index";
	bloom_free(probe->hashes);

	probe->slot = table_slot_create(merge->target, NULL);
	probe->scan = etl_index_beginscan(merge->target, probe->index,
									  GetActiveSnapshot(), merge->n_keys);

	/* A row is written while its page is at hand; no other key's is read. */
	etl_merge_writer_in_order(merge->writer, !probe->all_read);
	etl_groups_each(probe->groups, decide_group, probe);
	etl_merge_writer_in_order(merge->writer, false);
	index_endscan(probe->scan);
	ExecDropSingleTupleTableSlot(probe->slot);

	etl_groups_free(probe->groups);
	index_close(probe->index, NoLock);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(probe->context);
}

static void
add_input(void *arg, EtlChange *change, TupleTableSlot *slot)
{
	EtlProbe *probe = arg;
	uint64 hash = etl_key_hash(probe->merge, change->values);

	probe->n_changes++;
	bloom_add_element(probe->hashes, (unsigned char *) &hash, sizeof(hash));
	etl_groups_add_change(probe->groups, hash, change);
}

/* There are too many keys to look for each of them. */
static void
read_all(EtlProbe *probe)
{
	etl_progress_set(probe->merge->run, ETL_PHASE_COMPARING, ETL_UNIT_ROWS, 0,
					 probe->merge->target->rd_rel->reltuples);
	etl_heap_rows(probe->merge->target, GetActiveSnapshot(), add_target, probe);
	probe->all_read = true;
}

static void
add_target(void *arg, TupleTableSlot *slot)
{
	EtlProbe *probe = arg;
	EtlMerge *merge = probe->merge;

	etl_progress_row(merge->run, ++probe->n_scanned);
	slot_getallattrs(slot);
	if (!etl_key_is_null(merge, slot->tts_isnull))
	{
		uint64 hash = etl_key_hash(merge, slot->tts_values);

		if (!bloom_lacks_element(probe->hashes, (unsigned char *) &hash,
								 sizeof(hash)))
		{
			EtlStored stored = {0};

			stored.table = RelationGetRelid(merge->target);
			stored.tid = slot->tts_tid;
			stored.values = slot->tts_values;
			stored.nulls = slot->tts_isnull;
			etl_groups_add_stored(probe->groups, hash, &stored);
		}
	}
}

static void
decide_group(EtlMerge *merge, EtlGroup *group, void *arg)
{
	EtlProbe *probe = arg;

	if (group->n_changes == 0)
		return;
	if (!probe->all_read)
		fetch_stored(probe, group);
	merge->decide(merge, group);
}

/* ------------------------------------------------------------------ */
/* a probe                                                              */

/* Fetches all stored rows of the key of a group into the group's context. */
static void
fetch_stored(EtlProbe *probe, EtlGroup *group)
{
	EtlMerge *merge = probe->merge;
	EtlChange *change = &group->changes[0];
	MemoryContext group_context = CurrentMemoryContext;
	int max = 0;

	for (int i = 0; i < merge->n_keys; i++)
	{
		int column = probe->columns[i];
		Datum value = change->values[column];

		/* to be unpacked here and not at each comparison */
		if (merge->columns[column].ops.typlen == -1)
			value = PointerGetDatum(PG_DETOAST_DATUM_PACKED(value));
		probe->keys[i].sk_argument = value;
	}

	MemoryContextSwitchTo(probe->context);
	index_rescan(probe->scan, probe->keys, merge->n_keys, NULL, 0);
	while (index_getnext_slot(probe->scan, ForwardScanDirection, probe->slot))
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(group_context);
		if (group->n_stored == max)
		{
			max = Max(2, max * 2);
			group->stored = group->stored == NULL ?
								palloc(sizeof(EtlStored) * max) :
								repalloc_huge(group->stored,
											  sizeof(EtlStored) * max);
		}
		copy_stored(probe, &group->stored[group->n_stored]);
		if (!probe->scan->xs_recheck ||
			etl_key_equal(merge, group->stored[group->n_stored].values,
						  group->stored[group->n_stored].nulls, change->values,
						  change->nulls))
			group->n_stored++;
		MemoryContextSwitchTo(probe->context);
	}
	ExecClearTuple(probe->slot);
	MemoryContextSwitchTo(group_context);
	etl_stored_sort(merge, group->stored, group->n_stored);
}

/* Copies the row that the scan has just given. */
static void
copy_stored(EtlProbe *probe, EtlStored *stored)
{
	TupleDesc desc = RelationGetDescr(probe->merge->target);
	HeapTuple tuple = ExecCopySlotHeapTuple(probe->slot);

	stored->table = RelationGetRelid(probe->merge->target);
	stored->tid = probe->slot->tts_tid;
	stored->values = palloc(sizeof(Datum) * desc->natts);
	stored->nulls = palloc(sizeof(bool) * desc->natts);
	heap_deform_tuple(tuple, desc, stored->values, stored->nulls);
}
