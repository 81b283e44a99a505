/*-------------------------------------------------------------------------
 *
 * merge_write.h
 *	  What the files of the merge's writer share; private to them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_MERGE_WRITE_H
#define ETL_MERGE_WRITE_H

#include "sink/merge.h"

#include "utils/tuplesort.h"
#include "utils/tuplestore.h"

/*
 * What an edit does to a stored row, in the order in which the edits are
 * applied.  The heap way applies those before ETL_STEP_GROW_TIMES as one.
 */
typedef enum EtlEditStep
{
	ETL_STEP_DELETE,
	ETL_STEP_TIMES, /* sets the validity columns only */
	ETL_STEP_UPDATE,
	ETL_STEP_GROW_TIMES,
	ETL_STEP_GROW_UPDATE
} EtlEditStep;

#define ETL_NUM_EDIT_STEPS (ETL_STEP_GROW_UPDATE + 1)

/* A queued edit has these columns, then those of the target as they will be. */
enum
{
	ETL_EDIT_PLACE, /* the order within a step; in the heap way, of all */
	ETL_EDIT_STEP,
	ETL_EDIT_TABLE,
	ETL_EDIT_TID,
	ETL_EDIT_OLD_FROM, /* the valid_from of the stored row */
	ETL_EDIT_COLUMNS
};

typedef struct EtlMergeHeap EtlMergeHeap;

struct EtlMergeWriter
{
	EtlMerge *merge;
	Relation target;
	MemoryContext context; /* holds the writer */
	ResourceOwner owner;   /* of all that it opens */
	bool in_order;
	bool may_delete;	/* the privilege was checked */
	EtlMergeHeap *heap; /* NULL: the general way */
	bool by_key;		/* general way: rows have no place of their own */

	/* edits; the scratch row has the layout of a queued one */
	TupleDesc edit_desc;
	TupleTableSlot *scratch;
	Tuplesortstate *edits; /* NULL: none */
	int64 n_edits[ETL_NUM_EDIT_STEPS];
	int64 n_queued;
	int64 n_written; /* of what was left to the end */

	/* inserts without and with KEPT columns */
	Tuplestorestate *inserts[2];
	bool has_kept;
	bool *insert_nulls;

	/* or a sink for them, if they are written at once */
	EtlSink *sink;
	AttrNumber *sink_attnums;
	int sink_natts;
	bool in_place; /* the input has the columns of the target */
};

/* Does an update set a column of this role? */
static inline bool
etl_update_sets(EtlColumnRole role, bool times)
{
	if (times)
		return role == ETL_ROLE_VALID_FROM || role == ETL_ROLE_VALID_TO ||
			   role == ETL_ROLE_IS_CURRENT;
	return role != ETL_ROLE_NONE && role != ETL_ROLE_KEY;
}

/* in merge_write_heap.c */
extern EtlMergeHeap *etl_merge_heap_open(EtlMergeWriter *writer);
extern void etl_merge_heap_edit(EtlMergeHeap *heap, EtlEditStep step,
								ItemPointer tid, Datum *values, bool *nulls);
extern void etl_merge_heap_apply(EtlMergeHeap *heap);
extern void etl_merge_heap_close(EtlMergeHeap *heap);

/* in merge_write_sql.c */
extern bool etl_merge_sql_by_key(Relation target);
extern void etl_merge_sql_apply(EtlMergeWriter *writer);

#endif /* ETL_MERGE_WRITE_H */
