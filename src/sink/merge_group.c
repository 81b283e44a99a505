/*-------------------------------------------------------------------------
 *
 * merge_group.c
 *	  Brings all rows of a key together: the stored ones and the changes.
 *
 * Rows of both kinds go through one sort, by the hash of their key (or by some
 * of its columns first, if that order is asked for), stored
 * rows before changes, and in the order in which they came.  A run of equal
 * hashes is read into memory; nearly always it is one key, but only the
 * equality of the key columns can tell.
 *
 * The sort stays within work_mem and spills to disk.  A run is held as a
 * whole: memory for one key's rows is needed, as for whoever decides about
 * them.  Values that are stored out of line stay so.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/merge_group.h"

#include "access/htup_details.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/tuplesort.h"
#include "utils/typcache.h"

#include "sink/merge_private.h"

/* The columns of the sorted rows, before those of the target. */
enum
{
	COL_HASH,
	COL_KIND,
	COL_NUMBER,
	COL_TABLE,
	COL_TID,
	COL_TIME,
	COL_IS_DELETE,
	COL_IS_NEW,
	COL_TOMBSTONE,
	COL_STEP,
	COL_LACKS,
	NUM_COLS
};

#define SORT_KEYS 3 /* the first three */

/* Kinds, in the order of the sort. */
#define KIND_STORED 0
#define KIND_CHANGE 1

struct EtlGroups
{
	EtlMerge *merge;
	MemoryContext context; /* holds this */
	TupleDesc desc;
	bool time_by_ref;
	int time; /* column of the target whose type a time has, or -1 */
	TupleTableSlot *put;
	TupleTableSlot *got;
	Tuplesortstate *sort;
	int64 n_stored;
	int64 n_rows; /* stored and changes */
};

/* A run of rows of one hash, in the group context. */
typedef struct HashRun
{
	EtlStored *stored;
	int n_stored;
	int max_stored;
	EtlChange *changes;
	int n_changes;
	int max_changes;
} HashRun;

static TupleDesc build_desc(EtlGroups *groups);
static EtlGroups *create(EtlMerge *merge, const int *columns, int n_columns);
static void begin_sort(EtlGroups *groups, const int *columns, int n_columns);
static void start_row(EtlGroups *groups, uint64 hash, int kind, int64 number);
static void put_row(EtlGroups *groups, Datum *values, bool *nulls);
static uint64 got_hash(EtlGroups *groups);
static void add_to_run(EtlGroups *groups, HashRun *run);
static void *grow(void *array, int n, int *max, Size size);
static void call_run(EtlGroups *groups, HashRun *run, EtlGroupCall call,
					 void *arg);
static bool is_one_key(EtlMerge *merge, HashRun *run);
static void call_by_key(EtlGroups *groups, HashRun *run, EtlGroupCall call,
						void *arg);
static int take_stored(EtlMerge *merge, EtlGroup *group, EtlStored *rest,
					   int n_rest, Datum *key, bool *nulls);
static int take_changes(EtlMerge *merge, EtlGroup *group, EtlChange *rest,
						int n_rest, Datum *key, bool *nulls);
static void decide_group(EtlMerge *merge, EtlGroup *group, void *arg);
static void call_group(EtlMerge *merge, EtlGroup *group, EtlGroupCall call,
					   void *arg);
static int compare_stored(const void *a, const void *b, void *arg);

/* Nothing yet, in the current memory context. */
EtlGroups *
etl_groups_create(EtlMerge *merge)
{
	return create(merge, NULL, 0);
}

/*
 * The same, but the keys will come in the order of some of their columns, the
 * more significant first; a column whose type has no order ends the list.
 */
EtlGroups *
etl_groups_create_ordered(EtlMerge *merge, const int *columns, int n_columns)
{
	for (int i = 0; i < n_columns; i++)
		if (!merge->columns[columns[i]].ops.has_compare)
			n_columns = i;
	return create(merge, columns, n_columns);
}

static EtlGroups *
create(EtlMerge *merge, const int *columns, int n_columns)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "etl_patterns groups",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	EtlGroups *groups = palloc0(sizeof(EtlGroups));

	groups->merge = merge;
	groups->context = context;
	groups->time = merge->versioned ? merge->valid_from : merge->sequence;
	groups->desc = build_desc(groups);
	groups->time_by_ref = !TupleDescAttr(groups->desc, COL_TIME)->attbyval;
	groups->put = MakeSingleTupleTableSlot(groups->desc, &TTSOpsVirtual);
	groups->got = MakeSingleTupleTableSlot(groups->desc, &TTSOpsMinimalTuple);
	begin_sort(groups, columns, n_columns);
	MemoryContextSwitchTo(oldcontext);
	return groups;
}

/* Our columns, then the target's, its dropped ones as anything. */
static TupleDesc
build_desc(EtlGroups *groups)
{
	TupleDesc target = RelationGetDescr(groups->merge->target);
	TupleDesc desc = CreateTemplateTupleDesc(NUM_COLS + target->natts);
	Oid time_type = INT4OID;

	if (groups->time >= 0)
		time_type = TupleDescAttr(target, groups->time)->atttypid;

	TupleDescInitEntry(desc, COL_HASH + 1, "hash", INT8OID, -1, 0);
	TupleDescInitEntry(desc, COL_KIND + 1, "kind", INT4OID, -1, 0);
	TupleDescInitEntry(desc, COL_NUMBER + 1, "number", INT8OID, -1, 0);
	TupleDescInitEntry(desc, COL_TABLE + 1, "table", OIDOID, -1, 0);
	TupleDescInitEntry(desc, COL_TID + 1, "tid", TIDOID, -1, 0);
	TupleDescInitEntry(desc, COL_TIME + 1, "time", time_type, -1, 0);
	TupleDescInitEntry(desc, COL_IS_DELETE + 1, "is_delete", BOOLOID, -1, 0);
	TupleDescInitEntry(desc, COL_IS_NEW + 1, "is_new", BOOLOID, -1, 0);
	TupleDescInitEntry(desc, COL_TOMBSTONE + 1, "tombstone", time_type, -1, 0);
	TupleDescInitEntry(desc, COL_STEP + 1, "step", INT8OID, -1, 0);
	TupleDescInitEntry(desc, COL_LACKS + 1, "lacks", BYTEAOID, -1, 0);
	for (int i = 0; i < target->natts; i++)
	{
		if (TupleDescAttr(target, i)->attisdropped)
			TupleDescInitEntry(desc, NUM_COLS + i + 1, "dropped", INT4OID, -1,
							   0);
		else
			TupleDescCopyEntry(desc, NUM_COLS + i + 1, target, i + 1);
	}
	return desc;
}

/*
 * By some columns of the key, then by hash, kind and number.  Equal keys are
 * equal in each column, so that the rows of a hash stay together as far as
 * they may be of one key.
 */
static void
begin_sort(EtlGroups *groups, const int *columns, int n_columns)
{
	int n = n_columns + SORT_KEYS;
	AttrNumber *keys = palloc(sizeof(AttrNumber) * n);
	Oid *operators = palloc(sizeof(Oid) * n);
	Oid *collations = palloc0(sizeof(Oid) * n);
	bool *nulls_first = palloc0(sizeof(bool) * n);

	for (int i = 0; i < n_columns; i++)
	{
		EtlValueOps *ops = &groups->merge->columns[columns[i]].ops;

		keys[i] = NUM_COLS + columns[i] + 1;
		operators[i] = lookup_type_cache(ops->type, TYPECACHE_LT_OPR)->lt_opr;
		collations[i] = ops->collation;
	}
	for (int i = 0; i < SORT_KEYS; i++)
		keys[n_columns + i] = COL_HASH + 1 + i;
	operators[n_columns] = Int8LessOperator;
	operators[n_columns + 1] = Int4LessOperator;
	operators[n_columns + 2] = Int8LessOperator;

	groups->sort = tuplesort_begin_heap(groups->desc, n, keys, operators,
										collations, nulls_first, work_mem, NULL,
										TUPLESORT_NONE);
}

/* Adds a row of the target; the key's columns are not null. */
void
etl_groups_add_stored(EtlGroups *groups, uint64 hash, const EtlStored *stored)
{
	TupleTableSlot *slot = groups->put;
	ItemPointerData tid = stored->tid;

	start_row(groups, hash, KIND_STORED, groups->n_stored++);
	slot->tts_values[COL_TABLE] = ObjectIdGetDatum(stored->table);
	slot->tts_isnull[COL_TABLE] = false;
	slot->tts_values[COL_TID] = PointerGetDatum(&tid);
	slot->tts_isnull[COL_TID] = false;
	slot->tts_values[COL_IS_NEW] = BoolGetDatum(stored->is_new);
	slot->tts_isnull[COL_IS_NEW] = false;
	put_row(groups, stored->values, stored->nulls);
}

/* Adds a row of the input; the key's columns are not null. */
void
etl_groups_add_change(EtlGroups *groups, uint64 hash, const EtlChange *change)
{
	TupleTableSlot *slot = groups->put;

	start_row(groups, hash, KIND_CHANGE, change->number);
	if (groups->time >= 0)
	{
		/* Without a sequence there may be none. */
		slot->tts_values[COL_TIME] = change->time;
		slot->tts_isnull[COL_TIME] = groups->time_by_ref &&
									 DatumGetPointer(change->time) == NULL;
		if (change->has_tombstone)
			slot->tts_values[COL_TOMBSTONE] = change->tombstone;
		slot->tts_isnull[COL_TOMBSTONE] = !change->has_tombstone;
	}
	slot->tts_values[COL_IS_DELETE] = BoolGetDatum(change->is_delete);
	slot->tts_isnull[COL_IS_DELETE] = false;
	slot->tts_values[COL_IS_NEW] = BoolGetDatum(change->is_new);
	slot->tts_isnull[COL_IS_NEW] = false;
	slot->tts_values[COL_STEP] = Int64GetDatum(change->step);
	slot->tts_isnull[COL_STEP] = groups->merge->input.step == 0;
	slot->tts_values[COL_LACKS] = PointerGetDatum(change->lacks);
	slot->tts_isnull[COL_LACKS] = change->lacks == NULL;
	put_row(groups, change->values, change->nulls);
}

/* Fills the sort's keys; our other columns are null. */
static void
start_row(EtlGroups *groups, uint64 hash, int kind, int64 number)
{
	TupleTableSlot *slot = groups->put;

	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, NUM_COLS);
	slot->tts_values[COL_HASH] = Int64GetDatum((int64) hash);
	slot->tts_isnull[COL_HASH] = false;
	slot->tts_values[COL_KIND] = Int32GetDatum(kind);
	slot->tts_isnull[COL_KIND] = false;
	slot->tts_values[COL_NUMBER] = Int64GetDatum(number);
	slot->tts_isnull[COL_NUMBER] = false;
}

/* Adds the target's columns and gives the row to the sort, which copies it. */
static void
put_row(EtlGroups *groups, Datum *values, bool *nulls)
{
	TupleTableSlot *slot = groups->put;
	TupleDesc target = RelationGetDescr(groups->merge->target);
	int natts = target->natts;

	memcpy(slot->tts_values + NUM_COLS, values, sizeof(Datum) * natts);
	memcpy(slot->tts_isnull + NUM_COLS, nulls, sizeof(bool) * natts);
	for (int i = 0; i < natts; i++)
	{
		if (TupleDescAttr(target, i)->attisdropped)
			slot->tts_isnull[NUM_COLS + i] = true;
	}
	ExecStoreVirtualTuple(slot);
	tuplesort_puttupleslot(groups->sort, slot);
	groups->n_rows++;
	ExecClearTuple(slot);
}

/* Has each key decided. */
void
etl_groups_decide(EtlGroups *groups)
{
	etl_groups_each(groups, decide_group, NULL);
}

/* A key without a change is absent, if that counts, or just hashes alike. */
static void
decide_group(EtlMerge *merge, EtlGroup *group, void *arg)
{
	if (group->n_changes > 0 || merge->absent != ETL_ABSENT_IGNORE)
		merge->decide(merge, group);
}

/*
 * Calls call() for each key, with all its rows: changes in the order of their
 * numbers, stored rows in that in which they were added, versions in that of
 * their times.  They live in the group context, which is the current one
 * during the call; it is reset afterwards.  To be called once.
 */
void
etl_groups_each(EtlGroups *groups, EtlGroupCall call, void *arg)
{
	MemoryContext group_context = groups->merge->group_context;
	MemoryContext oldcontext = CurrentMemoryContext;
	Tuplesortstate *sort = groups->sort;
	HashRun run = {0};
	uint64 hash = 0;
	int64 n_rows = 0;
	bool any = false;

	etl_progress_set(groups->merge->run, ETL_PHASE_DECIDING, ETL_UNIT_ROWS, 0,
					 (double) groups->n_rows);
	tuplesort_performsort(sort);
	while (tuplesort_gettupleslot(sort, true, false, groups->got, NULL))
	{
		CHECK_FOR_INTERRUPTS();
		etl_progress_row(groups->merge->run, n_rows++);
		MemoryContextSwitchTo(group_context);
		if (any && got_hash(groups) != hash)
		{
			call_run(groups, &run, call, arg);
			memset(&run, 0, sizeof(run));
			MemoryContextReset(group_context);
		}
		hash = got_hash(groups);
		any = true;
		add_to_run(groups, &run);
		MemoryContextSwitchTo(oldcontext);
	}
	if (any)
	{
		MemoryContextSwitchTo(group_context);
		call_run(groups, &run, call, arg);
		MemoryContextSwitchTo(oldcontext);
		MemoryContextReset(group_context);
	}
}

/* The hash of the row that the sort has just given. */
static uint64
got_hash(EtlGroups *groups)
{
	bool isnull;

	return (uint64) DatumGetInt64(
		slot_getattr(groups->got, COL_HASH + 1, &isnull));
}

/* Copies the row that the sort has just given. */
static void
add_to_run(EtlGroups *groups, HashRun *run)
{
	MinimalTuple tuple = ExecCopySlotMinimalTuple(groups->got);
	int natts = groups->desc->natts;
	Datum *values = palloc(sizeof(Datum) * natts);
	bool *nulls = palloc(sizeof(bool) * natts);
	HeapTupleData heap_tuple = {0};

	heap_tuple.t_len = tuple->t_len + MINIMAL_TUPLE_OFFSET;
	heap_tuple.t_data = (HeapTupleHeader) ((char *) tuple - MINIMAL_TUPLE_OFFSET);
	heap_deform_tuple(&heap_tuple, groups->desc, values, nulls);

	if (DatumGetInt32(values[COL_KIND]) == KIND_STORED)
	{
		EtlStored *stored;

		run->stored = grow(run->stored, run->n_stored, &run->max_stored,
						   sizeof(EtlStored));
		stored = &run->stored[run->n_stored++];
		stored->table = DatumGetObjectId(values[COL_TABLE]);
		stored->tid = *(ItemPointer) DatumGetPointer(values[COL_TID]);
		stored->is_new = DatumGetBool(values[COL_IS_NEW]);
		stored->values = values + NUM_COLS;
		stored->nulls = nulls + NUM_COLS;
	}
	else
	{
		EtlChange *change;

		run->changes = grow(run->changes, run->n_changes, &run->max_changes,
							sizeof(EtlChange));
		change = &run->changes[run->n_changes++];
		memset(change, 0, sizeof(EtlChange));
		change->number = DatumGetInt64(values[COL_NUMBER]);
		change->values = values + NUM_COLS;
		change->nulls = nulls + NUM_COLS;
		if (!nulls[COL_TIME])
			change->time = values[COL_TIME];
		change->is_delete = DatumGetBool(values[COL_IS_DELETE]);
		change->is_new = DatumGetBool(values[COL_IS_NEW]);
		change->has_tombstone = !nulls[COL_TOMBSTONE];
		if (change->has_tombstone)
			change->tombstone = values[COL_TOMBSTONE];
		if (!nulls[COL_STEP])
			change->step = DatumGetInt64(values[COL_STEP]);
		if (!nulls[COL_LACKS])
			change->lacks = DatumGetByteaPP(values[COL_LACKS]);
		change->outcome = ETL_PENDING;
	}
}

/* Makes room for one more than n elements. */
static void *
grow(void *array, int n, int *max, Size size)
{
	if (n < *max)
		return array;
	*max = Max(4, n * 2);
	if (array == NULL)
		return palloc(size * *max);
	return repalloc_huge(array, size * *max);
}

/* Hands over the keys of a run. */
static void
call_run(EtlGroups *groups, HashRun *run, EtlGroupCall call, void *arg)
{
	EtlMerge *merge = groups->merge;
	EtlGroup group = {0};

	if (!is_one_key(merge, run))
	{
		call_by_key(groups, run, call, arg);
		return;
	}
	group.stored = run->stored;
	group.n_stored = run->n_stored;
	group.changes = run->changes;
	group.n_changes = run->n_changes;
	call_group(merge, &group, call, arg);
}

/* Has the run, which is not empty, rows of one key only? */
static bool
is_one_key(EtlMerge *merge, HashRun *run)
{
	Datum *key = run->n_stored ? run->stored[0].values : run->changes[0].values;
	bool *nulls = run->n_stored ? run->stored[0].nulls : run->changes[0].nulls;

	for (int i = 1; i < run->n_stored; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!etl_key_equal(merge, key, nulls, run->stored[i].values,
						   run->stored[i].nulls))
			return false;
	}
	for (int i = run->n_stored ? 0 : 1; i < run->n_changes; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!etl_key_equal(merge, key, nulls, run->changes[i].values,
						   run->changes[i].nulls))
			return false;
	}
	return true;
}

/*
 * Hands over the keys of a run one by one: takes out all rows of the key of
 * the first row, until none is left.
 */
static void
call_by_key(EtlGroups *groups, HashRun *run, EtlGroupCall call, void *arg)
{
	EtlMerge *merge = groups->merge;

	while (run->n_stored + run->n_changes > 0)
	{
		EtlGroup group = {0};
		Datum *key;
		bool *nulls;

		if (run->n_stored > 0)
		{
			key = run->stored[0].values;
			nulls = run->stored[0].nulls;
		}
		else
		{
			key = run->changes[0].values;
			nulls = run->changes[0].nulls;
		}
		run->n_stored = take_stored(merge, &group, run->stored, run->n_stored,
									key, nulls);
		run->n_changes = take_changes(merge, &group, run->changes,
									  run->n_changes, key, nulls);
		call_group(merge, &group, call, arg);
	}
}

/* Moves the stored rows of a key to the group; returns how many are left. */
static int
take_stored(EtlMerge *merge, EtlGroup *group, EtlStored *rest, int n_rest,
			Datum *key, bool *nulls)
{
	int max = 0;
	int kept = 0;

	for (int i = 0; i < n_rest; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (etl_key_equal(merge, key, nulls, rest[i].values, rest[i].nulls))
		{
			group->stored = grow(group->stored, group->n_stored, &max,
								 sizeof(EtlStored));
			group->stored[group->n_stored++] = rest[i];
		}
		else
			rest[kept++] = rest[i];
	}
	return kept;
}

/* Likewise the changes. */
static int
take_changes(EtlMerge *merge, EtlGroup *group, EtlChange *rest, int n_rest,
			 Datum *key, bool *nulls)
{
	int max = 0;
	int kept = 0;

	for (int i = 0; i < n_rest; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (etl_key_equal(merge, key, nulls, rest[i].values, rest[i].nulls))
		{
			group->changes = grow(group->changes, group->n_changes, &max,
								  sizeof(EtlChange));
			group->changes[group->n_changes++] = rest[i];
		}
		else
			rest[kept++] = rest[i];
	}
	return kept;
}

/* Hands over one key. */
static void
call_group(EtlMerge *merge, EtlGroup *group, EtlGroupCall call, void *arg)
{
	etl_stored_sort(merge, group->stored, group->n_stored);
	group->complete = true;
	call(merge, group, arg);
}

/* Puts the versions of a key into the order of their times. */
void
etl_stored_sort(EtlMerge *merge, EtlStored *stored, int n)
{
	if (merge->versioned && n > 1)
		qsort_arg(stored, n, sizeof(EtlStored), compare_stored, merge);
}

/* By time; a version without one comes first, as without a beginning. */
static int
compare_stored(const void *a, const void *b, void *arg)
{
	EtlMerge *merge = arg;
	const EtlStored *left = a;
	const EtlStored *right = b;
	int column = merge->valid_from;
	int result;

	CHECK_FOR_INTERRUPTS();
	if (left->nulls[column] || right->nulls[column])
		result = (int) right->nulls[column] - (int) left->nulls[column];
	else
		result = etl_value_compare(&merge->columns[column].ops,
								   left->values[column], right->values[column]);
	if (result != 0)
		return result;
	if (left->table != right->table)
		return left->table < right->table ? -1 : 1;
	return ItemPointerCompare((ItemPointer) &left->tid,
							  (ItemPointer) &right->tid);
}

/* Gives back memory and temporary files. */
void
etl_groups_free(EtlGroups *groups)
{
	ExecDropSingleTupleTableSlot(groups->put);
	ExecDropSingleTupleTableSlot(groups->got);
	tuplesort_end(groups->sort);
	MemoryContextDelete(groups->context);
}
