/*-------------------------------------------------------------------------
 *
 * apply_mirror.h
 *	  What the files of the mirroring sink share; private to them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_APPLY_MIRROR_H
#define ETL_APPLY_MIRROR_H

#include "base/values.h"
#include "sink/apply_write.h"

/* What is to be done to one row of the target. */
typedef struct EtlMirrorOp
{
	EtlEventKind kind; /* INSERT, UPDATE or DELETE */
	bool upsert;	 /* insert it if it is missing; update it if it is there */
	bool may_miss;	 /* nothing is to be done if it is missing */
	bool is_counted; /* as a change of its own */
	bool key_changes;
	HeapTuple row; /* as it will be, in the target's layout */
	bool *is_set;  /* by column of the target; NULL: all of the map's */
	uint64 hash;   /* of the key, when ops are folded */
	Datum *key;	   /* of the row as it is; of a new row, as it will be */
	bool *key_nulls;
} EtlMirrorOp;

typedef struct EtlMirror
{
	EtlApply *apply;
	bool conflict_fails;
	bool heap;	  /* the target can be changed directly */
	bool ordered; /* nothing may be left out or change its place */

	/* what follows from the map and the target's indexes */
	EtlApplyMap *map;
	MemoryContext context;
	AttrNumber *attnums; /* that have values from the source */
	int natts;
	bool *sets;		  /* by column: is it one of these? */
	bool covers;	  /* no column keeps anything in an update */
	AttrNumber *keys; /* that rows are found by */
	EtlValueOps *key_ops;
	EtlRowColumn *key_columns; /* of an op's key */
	int n_keys;
	bool is_full; /* the identity is the whole row */
	bool unique;  /* one row for each key at the most */
	bool folds;
	Oid index;			/* that finds rows, or InvalidOid */
	int n_index_keys;	/* its first columns */
	int *index_keys;	/* for each the key */
	Bitmapset *guarded; /* columns (from 1) of other unique indexes */

	/* the ops that wait, in the batch's context */
	EtlMirrorOp **ops;
	int n_ops;
	int max_ops;
	char *chunk; /* of ops */
	int chunk_left;

	List *plans; /* of the SQL way */
} EtlMirror;

/* in apply_mirror.c */
extern EtlMirrorOp *etl_mirror_new_op(EtlMirror *mirror, EtlEventKind kind);
extern void etl_mirror_row_key(EtlMirror *mirror, HeapTuple row, Datum *key,
							   bool *nulls);
extern bool etl_mirror_same_key(EtlMirror *mirror, const Datum *a,
								const bool *a_nulls, const Datum *b,
								const bool *b_nulls);
extern HeapTuple etl_mirror_merge_rows(EtlMirror *mirror, HeapTuple old_row,
									   HeapTuple new_row, const bool *is_set);
extern void etl_mirror_missing(EtlMirror *mirror, EtlMirrorOp *op);
extern void etl_mirror_check_whole(EtlMirror *mirror, const EtlMirrorOp *op);

/* in apply_mirror_key.c */
extern void etl_mirror_find_keys(EtlMirror *mirror);

/* in apply_mirror_fold.c: false if the ops must be done as they are */
extern bool etl_mirror_fold(EtlMirror *mirror, EtlMirrorOp **ops, int n_ops,
							EtlMirrorOp ***net, int *n_net);
extern void etl_mirror_sort(EtlMirror *mirror, EtlMirrorOp **ops, int n_ops);

/* in apply_mirror_heap.c: false if they must be done in their own order */
extern bool etl_mirror_heap_net(EtlMirror *mirror, EtlMirrorOp **ops, int n_ops);
extern void etl_mirror_heap_each(EtlMirror *mirror, EtlMirrorOp **ops,
								 int n_ops);

/* in apply_mirror_sql.c */
extern void etl_mirror_sql(EtlMirror *mirror, EtlMirrorOp **ops, int n_ops);

#endif /* ETL_APPLY_MIRROR_H */
