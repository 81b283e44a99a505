/*-------------------------------------------------------------------------
 *
 * append_keys.c
 *	  What must be known of each row while indexes are left out of a load.
 *
 * A unique index decides about rows, so it can be left out only if something
 * else decides in its place.  That is a hash table of the keys: an entry is
 * some bits of a key's hash and the place of its row.  A key whose bits are
 * not there is new, which is what nearly all rows find; else the row at that
 * place is compared with the index's own equality.  The index is built when
 * the rows are in, and that proves the uniqueness once more.
 *
 * Rows are taken in the order of the batch, and each is looked up before it
 * is added.  So a row is refused for the same row, by the same constraint and
 * with the same words as if the index had been there.
 *
 * A table is made of parts, each of which doubles its size on its own, so
 * that growing needs little memory beside it.  It may take
 * maintenance_work_mem, which the building takes afterwards.
 *
 * Beside that, a row whose key is too long for an index page is the fault of
 * that row while the index is there, and of the whole load when it is built.
 * A BRIN index holds two keys of a range of pages, the least and the greatest.
 * Where a type allows such keys each row is measured.
 *
 * When the memory is used up, or a long key comes, the indexes are built from
 * the rows that are there and maintained from then on.
 *
 * Takes no locks; the caller has ShareRowExclusiveLock on the target, so that
 * no row but its own appears or goes.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/append.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/tableam.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

/*
 * An entry: bits of the hash, block number, offset.  Which part of the table
 * it is in are other bits; its place there are the upper ones of those that
 * it has, so that it can be moved without a look at the row.
 */
#define OFFSET_BITS 11
#define BLOCK_BITS	28
#define TID_BITS	(BLOCK_BITS + OFFSET_BITS)
#define TAG_BITS	(64 - TID_BITS)
#define PART_BITS	8
#define PARTS		(1 << PART_BITS)
#define MAX_BLOCK	((1 << BLOCK_BITS) - 1)
#define MAX_OFFSET	((1 << OFFSET_BITS) - 1)
#define TID_MASK	((UINT64CONST(1) << TID_BITS) - 1)

/* Instead of a place: a row of the batch, or none any more. */
#define IN_BATCH(row) (((uint64) MAX_BLOCK << OFFSET_BITS) | ((row) + 1))
#define NOWHERE		  (((uint64) MAX_BLOCK << OFFSET_BITS) | MAX_OFFSET)

#define FIRST_SIZE_BITS 6

/*
 * So many entries may be passed over for each one that is added, and some more.
 * Types may give the same hash to a great many values, bigint for one.
 */
#define MAX_STEPS(entries) (32 * (entries) + 1000000)

/* A look at a stored row takes as long as so many steps, about. */
#define STEPS_OF_A_LOOK 16

/* Keys up to here fit an index page with all that is around them. */
#define SAFE_KEY_SIZE (BLCKSZ / 4)

StaticAssertDecl(MaxHeapTuplesPerPage < MAX_OFFSET, "offsets do not fit");
StaticAssertDecl(ETL_MAX_BATCH_ROWS + 1 < MAX_OFFSET, "rows do not fit");

typedef struct KeyPart
{
	uint64 *entries; /* 0: free */
	int size_bits;
	int used;
} KeyPart;

/* The keys of one unique index. */
typedef struct KeySet
{
	Oid index;
	int nkeys;
	AttrNumber attnums[INDEX_MAX_KEYS];
	Oid collations[INDEX_MAX_KEYS];
	FmgrInfo hash[INDEX_MAX_KEYS];
	FmgrInfo equal[INDEX_MAX_KEYS];
	bool nulls_equal;
	uint64 hashes[ETL_MAX_BATCH_ROWS]; /* 0: conflicts with nothing */
	KeyPart parts[PARTS];
} KeySet;

/* An index whose keys might be too long. */
typedef struct LongKey
{
	int natts;
	AttrNumber attnums[INDEX_MAX_KEYS];
} LongKey;

struct EtlKeys
{
	EtlHeapSink *sink;
	MemoryContext context;
	MemoryContext work; /* of hashing and comparing */
	List *sets;			/* of KeySet */
	List *long_keys;	/* of LongKey */
	Size bytes;
	bool far_off;	/* a place that no entry can hold */
	uint64 entries; /* of all sets */
	uint64 steps;	/* passed over on the way to a place for them */
	TupleTableSlot *found;
};

static void add_index(EtlKeys *keys, Oid indexoid);
static void add_set(EtlKeys *keys, Relation index);
static void add_stored(EtlKeys *keys);
static uint64 hash_key(KeySet *set, TupleTableSlot *slot);
static uint64 *find_free(KeyPart *part, uint64 tag);
static void add_entry(EtlKeys *keys, KeySet *set, uint64 hash, uint64 place);
static void grow(EtlKeys *keys, KeyPart *part);
static bool is_taken(EtlKeys *keys, KeySet *set, int row);
static bool same_key(KeySet *set, TupleTableSlot *a, TupleTableSlot *b);
static uint64 *find_row(KeySet *set, int row);
static uint64 place_of(EtlKeys *keys, ItemPointer tid);

#define HASH_PART(hash)		 ((hash) >> (64 - PART_BITS))
#define HASH_TAG(hash)		 (((hash) << PART_BITS) >> TID_BITS)
#define TAG_START(part, tag) ((tag) >> (TAG_BITS - (part)->size_bits))

/*
 * Operators of ranges say that they can be hashed; whether this is so is a
 * matter of what the ranges are made of.
 */
static bool
hashes_elements(Oid type, Oid column_type)
{
	if (type != ANYRANGEOID && type != ANYMULTIRANGEOID)
		return true;
	return OidIsValid(
		lookup_type_cache(getBaseType(column_type), TYPECACHE_HASH_PROC)
			->hash_proc);
}

/*
 * Can the keys of this unique index be kept by us?  Its columns must be plain
 * ones, and what is equal to the index must have equal hashes.
 */
bool
etl_keys_serve(Relation index)
{
	Form_pg_index form = index->rd_index;

	if (!form->indimmediate || !etl_index_is_simple(index))
		return false;
	for (int i = 0; i < form->indnkeyatts; i++)
	{
		Oid type = index->rd_opcintype[i];
		Oid equal = get_opfamily_member(index->rd_opfamily[i], type, type,
										BTEqualStrategyNumber);
		RegProcedure left;
		RegProcedure right;

		if (form->indkey.values[i] <= 0 || !OidIsValid(equal) ||
			!op_hashjoinable(equal, type) ||
			!get_op_hash_functions(equal, &left, &right) ||
			!hashes_elements(type,
							 TupleDescAttr(RelationGetDescr(index), i)->atttypid))
			return false;
	}
	return true;
}

/*
 * What is to be known of the indexes that the sink leaves out, or NULL if
 * nothing is.  Reads the rows that the target has.
 */
EtlKeys *
etl_keys_open(EtlHeapSink *sink)
{
	EtlKeys *keys = palloc0(sizeof(EtlKeys));
	ListCell *lc;

	keys->sink = sink;
	keys->context = AllocSetContextCreate(sink->context, "etl keys",
										  ALLOCSET_DEFAULT_SIZES);
	keys->work = AllocSetContextCreate(sink->context, "etl key values",
									   ALLOCSET_DEFAULT_SIZES);
	foreach(lc, sink->base.options.left_out->indexes)
		add_index(keys, lfirst_oid(lc));
	if (keys->sets == NIL && keys->long_keys == NIL)
	{
		etl_keys_close(keys);
		return NULL;
	}
	if (keys->sets != NIL)
	{
		keys->found = table_slot_create(sink->base.target, NULL);
		add_stored(keys);
	}
	return keys;
}

void
etl_keys_close(EtlKeys *keys)
{
	if (keys->found != NULL)
		ExecDropSingleTupleTableSlot(keys->found);
	MemoryContextDelete(keys->context);
	MemoryContextDelete(keys->work);
	pfree(keys);
}

/* Is there no more room for the keys of a batch, or are too many hashes equal? */
bool
etl_keys_full(EtlKeys *keys)
{
	return keys->far_off || keys->bytes > (Size) maintenance_work_mem * 1024 ||
		   keys->steps > MAX_STEPS(keys->entries);
}

/* May a pending row of the batch have a key that is too long for an index? */
bool
etl_keys_too_long(EtlKeys *keys)
{
	EtlSink *sink = &keys->sink->base;
	ListCell *lc;

	foreach(lc, keys->long_keys)
	{
		LongKey *key = lfirst(lc);

		for (int row = 0; row < sink->batch_rows; row++)
		{
			Size size = 0;

			if (keys->sink->states[row] == ETL_ROW_REJECTED)
				continue;
			for (int i = 0; i < key->natts; i++)
			{
				bool isnull;
				Datum value = slot_getattr(sink->slots[row], key->attnums[i],
										   &isnull);
				Form_pg_attribute att = TupleDescAttr(RelationGetDescr(
														  sink->target),
													  key->attnums[i] - 1);

				if (isnull)
					continue;
				size += att->attlen == -1 ?
							VARSIZE_ANY(DatumGetPointer(value)) :
							datumGetSize(value, att->attbyval, att->attlen);
				if (att->attlen == -1 &&
					VARATT_IS_EXTERNAL(DatumGetPointer(value)))
					return true;
			}
			if (size > SAFE_KEY_SIZE)
				return true;
		}
	}
	return false;
}

/* Computes the hashes of all rows of the batch that are in the race. */
void
etl_keys_hash(EtlKeys *keys)
{
	EtlHeapSink *sink = keys->sink;
	MemoryContext oldcontext = MemoryContextSwitchTo(keys->work);
	ListCell *lc;

	MemoryContextReset(keys->work);
	foreach(lc, keys->sets)
	{
		KeySet *set = lfirst(lc);

		for (int row = 0; row < sink->base.batch_rows; row++)
		{
			uint64 hash = 0;

			if (sink->states[row] != ETL_ROW_REJECTED)
				hash = hash_key(set, sink->base.slots[row]);
			set->hashes[row] = hash;
			if (hash != 0)
			{
				KeyPart *part = &set->parts[HASH_PART(hash)];

				if (part->entries != NULL)
					__builtin_prefetch(
						&part->entries[TAG_START(part, HASH_TAG(hash))]);
			}
		}
	}
	MemoryContextSwitchTo(oldcontext);
}

/*
 * Adds the keys of a row of the batch.  If one of them is taken, none is
 * added, and the result is the index that refuses the row.
 */
Oid
etl_keys_claim(EtlKeys *keys, int row)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(keys->work);
	Oid refused = InvalidOid;
	ListCell *lc;

	foreach(lc, keys->sets)
	{
		KeySet *set = lfirst(lc);

		if (set->hashes[row] != 0 && is_taken(keys, set, row))
		{
			refused = set->index;
			break;
		}
	}
	if (refused == InvalidOid)
		foreach(lc, keys->sets)
		{
			KeySet *set = lfirst(lc);

			if (set->hashes[row] != 0)
				add_entry(keys, set, set->hashes[row], IN_BATCH(row));
		}
	MemoryContextSwitchTo(oldcontext);
	return refused;
}

/* The batch is written: from now on its keys are those of stored rows. */
void
etl_keys_settle(EtlKeys *keys)
{
	EtlHeapSink *sink = keys->sink;
	ListCell *lc;

	foreach(lc, keys->sets)
	{
		KeySet *set = lfirst(lc);

		for (int row = 0; row < sink->base.batch_rows; row++)
			if (sink->states[row] == ETL_ROW_WRITTEN && set->hashes[row] != 0)
			{
				uint64 *entry = find_row(set, row);

				*entry = (*entry & ~TID_MASK) |
						 place_of(keys, &sink->base.slots[row]->tts_tid);
			}
	}
}

/* A row that had claimed its keys was not written. */
void
etl_keys_release(EtlKeys *keys, int row)
{
	ListCell *lc;

	foreach(lc, keys->sets)
	{
		KeySet *set = lfirst(lc);

		if (set->hashes[row] != 0)
		{
			uint64 *entry = find_row(set, row);

			*entry = (*entry & ~TID_MASK) | NOWHERE;
		}
	}
}

/* The values of a row in the columns of a simple index. */
void
etl_keys_values(Relation index, TupleTableSlot *slot, Datum *values,
				bool *isnull)
{
	for (int i = 0; i < index->rd_index->indnatts; i++)
		values[i] = slot_getattr(slot, index->rd_index->indkey.values[i],
								 &isnull[i]);
}

/* Notes what an index that is left out asks of the rows. */
static void
add_index(EtlKeys *keys, Oid indexoid)
{
	Relation index = index_open(indexoid, AccessShareLock);
	TupleDesc desc = RelationGetDescr(index);
	MemoryContext oldcontext = MemoryContextSwitchTo(keys->context);

	if (index->rd_index->indisunique)
		add_set(keys, index);
	if (etl_index_is_simple(index) && (index->rd_rel->relam == BTREE_AM_OID ||
									   index->rd_rel->relam == BRIN_AM_OID))
	{
		LongKey *key = palloc0(sizeof(LongKey));
		int32 size = 0;

		for (int i = 0; i < desc->natts; i++)
		{
			Form_pg_attribute att = TupleDescAttr(desc, i);
			int32 maximum = att->attlen > 0 ?
								att->attlen :
								type_maximum_size(att->atttypid, att->atttypmod);

			key->attnums[key->natts++] = index->rd_index->indkey.values[i];
			if (maximum < 0 || maximum > SAFE_KEY_SIZE)
				size = SAFE_KEY_SIZE;
			size += Max(maximum, 1);
		}
		if (size > SAFE_KEY_SIZE)
			keys->long_keys = lappend(keys->long_keys, key);
	}
	MemoryContextSwitchTo(oldcontext);
	index_close(index, NoLock);
}

static void
add_set(EtlKeys *keys, Relation index)
{
	KeySet *set = palloc0(sizeof(KeySet));

	set->index = RelationGetRelid(index);
	set->nkeys = index->rd_index->indnkeyatts;
	set->nulls_equal = index->rd_index->indnullsnotdistinct;
	for (int i = 0; i < set->nkeys; i++)
	{
		Oid type = index->rd_opcintype[i];
		Oid equal = get_opfamily_member(index->rd_opfamily[i], type, type,
										BTEqualStrategyNumber);
		RegProcedure hash;
		RegProcedure right;

		if (!get_op_hash_functions(equal, &hash, &right))
			elog(ERROR, "no hash function for operator %u", equal);
		set->attnums[i] = index->rd_index->indkey.values[i];
		set->collations[i] = index->rd_indcollation[i];
		fmgr_info_cxt(hash, &set->hash[i], keys->context);
		fmgr_info_cxt(get_opcode(equal), &set->equal[i], keys->context);
	}
	keys->sets = lappend(keys->sets, set);
	keys->bytes += sizeof(KeySet);
}

/* Adds the rows that are there, as far as there is room. */
static void
add_stored(EtlKeys *keys)
{
	Relation target = keys->sink->base.target;
	MemoryContext oldcontext;
	TableScanDesc scan;

	if (RelationGetNumberOfBlocks(target) == 0)
		return;
	scan = table_beginscan(target, SnapshotSelf, 0, NULL);
	while (!etl_keys_full(keys) &&
		   table_scan_getnextslot(scan, ForwardScanDirection, keys->found))
	{
		ListCell *lc;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(keys->work);
		oldcontext = MemoryContextSwitchTo(keys->work);
		foreach(lc, keys->sets)
		{
			KeySet *set = lfirst(lc);
			uint64 hash = hash_key(set, keys->found);

			if (hash != 0)
				add_entry(keys, set, hash,
						  place_of(keys, &keys->found->tts_tid));
		}
		MemoryContextSwitchTo(oldcontext);
	}
	table_endscan(scan);
	ExecClearTuple(keys->found);
}

/* Lets each bit of a hash depend on each other one. */
static inline uint64
mix(uint64 hash)
{
	hash ^= hash >> 32;
	hash *= UINT64CONST(0xe9846af9b1a615d);
	hash ^= hash >> 32;
	hash *= UINT64CONST(0xe9846af9b1a615d);
	return hash ^ hash >> 28;
}

/* The hash of a row's key; 0 if the key conflicts with nothing. */
static uint64
hash_key(KeySet *set, TupleTableSlot *slot)
{
	uint64 hash = 0;

	for (int i = 0; i < set->nkeys; i++)
	{
		bool isnull;
		Datum value = slot_getattr(slot, set->attnums[i], &isnull);

		if (isnull && !set->nulls_equal)
			return 0;
		hash += UINT64CONST(0x9e3779b97f4a7c15);
		if (!isnull)
			hash ^= DatumGetUInt32(
				FunctionCall1Coll(&set->hash[i], set->collations[i], value));
		hash = mix(hash);
	}
	return hash == 0 ? 1 : hash;
}

/* Where an entry with this tag goes. */
static uint64 *
find_free(KeyPart *part, uint64 tag)
{
	uint64 mask = (UINT64CONST(1) << part->size_bits) - 1;
	uint64 i = TAG_START(part, tag);

	while (part->entries[i] != 0)
		i = (i + 1) & mask;
	return &part->entries[i];
}

static void
add_entry(EtlKeys *keys, KeySet *set, uint64 hash, uint64 place)
{
	KeyPart *part = &set->parts[HASH_PART(hash)];
	uint64 tag = HASH_TAG(hash);
	uint64 *entry;

	/* a quarter stays free */
	if (part->entries == NULL || part->used >= 3 << part->size_bits >> 2)
		grow(keys, part);
	entry = find_free(part, tag);
	*entry = tag << TID_BITS | place;
	part->used++;
	keys->entries++;
	keys->steps += (entry - part->entries - TAG_START(part, tag)) &
				   ((UINT64CONST(1) << part->size_bits) - 1);
}

/* Makes a part twice as large. */
static void
grow(EtlKeys *keys, KeyPart *part)
{
	KeyPart old = *part;
	uint64 size;

	part->size_bits = old.entries == NULL ? FIRST_SIZE_BITS : old.size_bits + 1;
	if (part->size_bits > TAG_BITS)
		elog(ERROR, "too many keys of equal hashes");
	size = UINT64CONST(1) << part->size_bits;
	part->entries = MemoryContextAllocExtended(keys->context,
											   size * sizeof(uint64),
											   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	keys->bytes += size * sizeof(uint64);
	if (old.entries == NULL)
		return;

	for (uint64 i = 0; i < size / 2; i++)
		if (old.entries[i] != 0)
			*find_free(part, old.entries[i] >> TID_BITS) = old.entries[i];
	keys->bytes -= size / 2 * sizeof(uint64);
	pfree(old.entries);
}

/* Has another row this row's key? */
static bool
is_taken(EtlKeys *keys, KeySet *set, int row)
{
	EtlSink *sink = &keys->sink->base;
	uint64 hash = set->hashes[row];
	KeyPart *part = &set->parts[HASH_PART(hash)];
	uint64 mask = (UINT64CONST(1) << part->size_bits) - 1;
	uint64 tag = HASH_TAG(hash);

	if (part->entries == NULL)
		return false;
	for (uint64 i = TAG_START(part, tag); part->entries[i] != 0;
		 i = (i + 1) & mask)
	{
		uint64 place = part->entries[i] & TID_MASK;
		ItemPointerData tid;
		bool same;

		if (part->entries[i] >> TID_BITS != tag || place == NOWHERE)
			continue;
		if (place > IN_BATCH(-1))
		{
			TupleTableSlot *other = sink->slots[place - IN_BATCH(0)];

			if (same_key(set, other, sink->slots[row]))
				return true;
			continue;
		}
		ItemPointerSet(&tid, (BlockNumber) (place >> OFFSET_BITS),
					   (OffsetNumber) (place & MAX_OFFSET));
		if (!table_tuple_fetch_row_version(sink->target, &tid, SnapshotSelf,
										   keys->found))
			elog(ERROR, "row (%u,%u) of \"%s\" has gone",
				 ItemPointerGetBlockNumber(&tid),
				 ItemPointerGetOffsetNumber(&tid),
				 RelationGetRelationName(sink->target));
		same = same_key(set, keys->found, sink->slots[row]);
		ExecClearTuple(keys->found);
		if (same)
			return true;
		keys->steps += STEPS_OF_A_LOOK;
	}
	return false;
}

/* Are the keys equal, as the index sees it? */
static bool
same_key(KeySet *set, TupleTableSlot *a, TupleTableSlot *b)
{
	for (int i = 0; i < set->nkeys; i++)
	{
		bool a_null;
		bool b_null;
		Datum a_value = slot_getattr(a, set->attnums[i], &a_null);
		Datum b_value = slot_getattr(b, set->attnums[i], &b_null);

		if (a_null != b_null)
			return false;
		if (!a_null &&
			!DatumGetBool(FunctionCall2Coll(&set->equal[i], set->collations[i],
											a_value, b_value)))
			return false;
	}
	return true;
}

/* The entry of a row of the batch that has claimed its keys. */
static uint64 *
find_row(KeySet *set, int row)
{
	uint64 hash = set->hashes[row];
	KeyPart *part = &set->parts[HASH_PART(hash)];
	uint64 mask = (UINT64CONST(1) << part->size_bits) - 1;
	uint64 tag = HASH_TAG(hash);
	uint64 entry = tag << TID_BITS | IN_BATCH(row);
	uint64 i = TAG_START(part, tag);

	while (part->entries[i] != entry)
	{
		if (part->entries[i] == 0)
			elog(ERROR, "key of row %d of a batch is not there", row);
		i = (i + 1) & mask;
	}
	return &part->entries[i];
}

/* A row's place as an entry has it. */
static uint64
place_of(EtlKeys *keys, ItemPointer tid)
{
	BlockNumber block = ItemPointerGetBlockNumber(tid);

	/* So large a table is not loaded in one go: it ends the table of keys. */
	if (block >= MAX_BLOCK)
	{
		keys->far_off = true;
		return NOWHERE;
	}
	return (uint64) block << OFFSET_BITS | ItemPointerGetOffsetNumber(tid);
}
