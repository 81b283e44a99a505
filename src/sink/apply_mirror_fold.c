/*-------------------------------------------------------------------------
 *
 * apply_mirror_fold.c
 *	  All that happens to a key in a batch, as one op.
 *
 * What the target holds in the end is all that counts.  So an insert and its
 * updates are one insert, an insert that is deleted is nothing (or the deletion
 * of what was there before), and an update of a key is a deletion and an
 * insert.  Where that would not give the same, or would hide an error that is
 * asked for, nothing is folded.
 *
 * Invariant: of each key there is one op in the end.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/apply_mirror.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"

#define HASH_SEED UINT64CONST(0x510e527fade682d1)

typedef struct Folder
{
	EtlMirror *mirror;
	EtlMirrorOp **net; /* in the order of the keys' first ops */
	int n_net;
	int *table; /* places in net, from 1 */
	uint64 mask;
} Folder;

static bool fold_op(Folder *folder, EtlMirrorOp *op);
static bool fold_key_update(Folder *folder, EtlMirrorOp *op);
static EtlMirrorOp *fold_two(EtlMirror *mirror, EtlMirrorOp *first,
							 EtlMirrorOp *second);
static EtlMirrorOp *after_insert(EtlMirror *mirror, EtlMirrorOp *first,
								 EtlMirrorOp *second);
static EtlMirrorOp *after_update(EtlMirror *mirror, EtlMirrorOp *first,
								 EtlMirrorOp *second);
static EtlMirrorOp *after_delete(EtlMirror *mirror, EtlMirrorOp *first,
								 EtlMirrorOp *second);
static EtlMirrorOp *make_op(EtlMirror *mirror, EtlEventKind kind,
							const EtlMirrorOp *key, const EtlMirrorOp *row);
static void combine_rows(EtlMirror *mirror, EtlMirrorOp *op,
						 const EtlMirrorOp *first, const EtlMirrorOp *second);
static int compare_ops(const void *a, const void *b, void *arg);

/*
 * Folds the ops into others, in the current memory context.  Returns false if
 * they have to be done one by one.
 */
bool
etl_mirror_fold(EtlMirror *mirror, EtlMirrorOp **ops, int n_ops,
				EtlMirrorOp ***net, int *n_net)
{
	uint64 size = pg_nextpower2_64((uint64) n_ops * 4);
	Folder folder = {.mirror = mirror, .mask = size - 1};

	/* an update of a key is two */
	folder.net = palloc_extended(sizeof(EtlMirrorOp *) * 2 * (Size) n_ops,
								 MCXT_ALLOC_HUGE);
	folder.table = palloc_extended(sizeof(int) * size,
								   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int i = 0; i < n_ops; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!(ops[i]->key_changes ? fold_key_update(&folder, ops[i]) :
									fold_op(&folder, ops[i])))
		{
			pfree(folder.net);
			pfree(folder.table);
			return false;
		}
	}
	pfree(folder.table);
	*net = folder.net;
	*n_net = folder.n_net;
	return true;
}

/* Adds an op to what there is of its key. */
static bool
fold_op(Folder *folder, EtlMirrorOp *op)
{
	EtlMirror *mirror = folder->mirror;
	uint64 place;

	for (int i = 0; i < mirror->n_keys; i++)
		if (op->key_nulls[i])
			return false;
	op->hash = etl_row_hash(mirror->key_columns, mirror->n_keys, op->key,
							op->key_nulls, HASH_SEED);
	for (place = op->hash & folder->mask; folder->table[place] != 0;
		 place = (place + 1) & folder->mask)
	{
		EtlMirrorOp **there = &folder->net[folder->table[place] - 1];

		if ((*there)->hash == op->hash &&
			etl_mirror_same_key(mirror, (*there)->key, (*there)->key_nulls,
								op->key, op->key_nulls))
		{
			*there = fold_two(mirror, *there, op);
			return *there != NULL;
		}
	}
	folder->net[folder->n_net++] = op;
	folder->table[place] = folder->n_net;
	return true;
}

/* The row goes from one key to another; it must take all it has with it. */
static bool
fold_key_update(Folder *folder, EtlMirrorOp *op)
{
	EtlMirror *mirror = folder->mirror;
	EtlMirrorOp *deletion;
	EtlMirrorOp *insertion;

	if (!mirror->covers || op->is_set != NULL)
		return false;
	deletion = make_op(mirror, ETL_EVENT_DELETE, op, NULL);
	deletion->may_miss = op->upsert;
	insertion = make_op(mirror, ETL_EVENT_INSERT, op, op);
	insertion->upsert = op->upsert;
	etl_mirror_row_key(mirror, op->row, insertion->key, insertion->key_nulls);
	return fold_op(folder, deletion) && fold_op(folder, insertion);
}

/* Two ops of a key, one after the other, as one; NULL if that cannot be. */
static EtlMirrorOp *
fold_two(EtlMirror *mirror, EtlMirrorOp *first, EtlMirrorOp *second)
{
	switch (first->kind)
	{
		case ETL_EVENT_INSERT:
			return after_insert(mirror, first, second);
		case ETL_EVENT_UPDATE:
			return after_update(mirror, first, second);
		default:
			return after_delete(mirror, first, second);
	}
}

static EtlMirrorOp *
after_insert(EtlMirror *mirror, EtlMirrorOp *first, EtlMirrorOp *second)
{
	EtlMirrorOp *op;

	if (second->kind == ETL_EVENT_DELETE)
	{
		if (!first->upsert)
			return NULL; /* a row may be there */
		op = make_op(mirror, ETL_EVENT_DELETE, first, NULL);
		op->may_miss = true;
		return op;
	}
	if (second->kind == ETL_EVENT_INSERT && !second->upsert)
		return NULL;
	op = make_op(mirror, ETL_EVENT_INSERT, first, NULL);
	op->upsert = first->upsert;
	combine_rows(mirror, op, first, second);
	return op;
}

static EtlMirrorOp *
after_update(EtlMirror *mirror, EtlMirrorOp *first, EtlMirrorOp *second)
{
	EtlMirrorOp *op;

	if (second->kind == ETL_EVENT_DELETE)
	{
		op = make_op(mirror, ETL_EVENT_DELETE, first, NULL);
		op->may_miss = first->upsert;
		return op;
	}
	if (second->kind == ETL_EVENT_INSERT && !second->upsert)
		return NULL;
	op = make_op(mirror, ETL_EVENT_UPDATE, first, NULL);
	op->upsert = first->upsert;
	combine_rows(mirror, op, first, second);
	return op;
}

/* The row is new, but its place need not be. */
static EtlMirrorOp *
after_delete(EtlMirror *mirror, EtlMirrorOp *first, EtlMirrorOp *second)
{
	EtlMirrorOp *op;

	if (second->kind == ETL_EVENT_DELETE)
		return second->may_miss ? first : NULL;
	if (second->kind == ETL_EVENT_UPDATE || !mirror->covers ||
		second->is_set != NULL)
		return NULL;
	op = make_op(mirror, ETL_EVENT_UPDATE, first, second);
	op->upsert = first->may_miss;
	return op;
}

/* A new op with the key of one and the row of another, or none. */
static EtlMirrorOp *
make_op(EtlMirror *mirror, EtlEventKind kind, const EtlMirrorOp *key,
		const EtlMirrorOp *row)
{
	EtlMirrorOp *op = etl_mirror_new_op(mirror, kind);

	memcpy(op->key, key->key, sizeof(Datum) * mirror->n_keys);
	memcpy(op->key_nulls, key->key_nulls, sizeof(bool) * mirror->n_keys);
	op->hash = key->hash;
	if (row != NULL)
	{
		op->row = row->row;
		op->is_set = row->is_set;
	}
	return op;
}

/* The second row, with what only the first one sets. */
static void
combine_rows(EtlMirror *mirror, EtlMirrorOp *op, const EtlMirrorOp *first,
			 const EtlMirrorOp *second)
{
	TupleDesc desc = RelationGetDescr(mirror->apply->target);

	op->row = second->row;
	op->is_set = NULL;
	if (second->is_set == NULL)
		return;
	op->row = etl_mirror_merge_rows(mirror, first->row, second->row,
									second->is_set);
	if (first->is_set == NULL)
		return;
	op->is_set = palloc(sizeof(bool) * (desc->natts + 1));
	for (int i = 0; i < desc->natts; i++)
		op->is_set[i] = first->is_set[i] || second->is_set[i];
}

/* In the order of the keys, so that neighbours share pages. */
void
etl_mirror_sort(EtlMirror *mirror, EtlMirrorOp **ops, int n_ops)
{
	qsort_arg(ops, n_ops, sizeof(EtlMirrorOp *), compare_ops, mirror);
}

static int
compare_ops(const void *a, const void *b, void *arg)
{
	EtlMirror *mirror = arg;
	const EtlMirrorOp *x = *(EtlMirrorOp *const *) a;
	const EtlMirrorOp *y = *(EtlMirrorOp *const *) b;

	for (int i = 0; i < mirror->n_keys; i++)
	{
		int result = etl_value_compare(&mirror->key_ops[i], x->key[i],
									   y->key[i]);

		if (result != 0)
			return result;
	}
	return 0;
}
