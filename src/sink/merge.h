/*-------------------------------------------------------------------------
 *
 * merge.h
 *	  How rows are merged into a table that has rows of the same keys.
 *
 * A merge compares its input (merge_input.c) with the stored rows, key by
 * key.  For each key that is not plainly unchanged (merge_scan.c,
 * merge_group.c) a decision (merge_upsert.c, merge_scd2.c) says which rows to
 * insert, change and delete, and a writer (merge_write.c) does that.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_MERGE_H
#define ETL_MERGE_H

#include "base/values.h"
#include "ledger/ledger.h"
#include "nodes/execnodes.h"
#include "sink/sink.h"
#include "source/rows.h"
#include "storage/itemptr.h"

/* What a column of the target is to a merge. */
typedef enum EtlColumnRole
{
	ETL_ROLE_NONE, /* dropped, generated, identity: the table's own */
	ETL_ROLE_KEY,
	ETL_ROLE_TRACKED,	 /* a change starts a version; or is written over */
	ETL_ROLE_OVERWRITE,	 /* a change is written into all versions */
	ETL_ROLE_FIXED,		 /* keeps the first value */
	ETL_ROLE_PLAIN,		 /* is written with a new row, never compared */
	ETL_ROLE_PREVIOUS,	 /* keeps the former value of another column */
	ETL_ROLE_KEPT,		 /* the input lacks it: as before, or its default */
	ETL_ROLE_SEQUENCE,	 /* upsert: how new the stored row is */
	ETL_ROLE_CHANGED_AT, /* upsert: when a value last moved to its PREVIOUS */
	ETL_ROLE_VALID_FROM,
	ETL_ROLE_VALID_TO,
	ETL_ROLE_IS_CURRENT
} EtlColumnRole;

/* One for each column of the target, at index attnum - 1. */
typedef struct EtlMergeColumn
{
	const char *name;
	EtlColumnRole role;
	AttrNumber input;  /* its place in the input's rows, 0: they lack it */
	int previous;	   /* index of the column with its former value, or -1 */
	int32 typmod;	   /* input values are to be fitted to it, or -1 */
	FmgrInfo fit;	   /* by this function */
	ExprState *assign; /* or converted by this, or NULL */
	EtlValueOps ops;
} EtlMergeColumn;

/*
 * Where the new rows come from: straight from a heap whose columns have the
 * target's types, or from a query.  Positions are those in desc.
 */
typedef struct EtlMergeInput
{
	Relation relation; /* or NULL */
	EtlQuery query;
	TupleDesc desc;
	AttrNumber time;	   /* of the sequence, in the target's type; 0: none */
	AttrNumber is_delete;  /* boolean; 0: no row deletes */
	AttrNumber tombstone;  /* sequence at which the key was deleted; 0 */
	AttrNumber is_new;	   /* boolean: a row of this run; 0: all are */
	AttrNumber number;	   /* bigint: order of arrival; 0: as they come */
	AttrNumber step;	   /* bigint: see merge_steps.c; 0: no steps */
	AttrNumber lacks;	   /* bytea: bitmap of columns; 0: no row lacks any */
	const char *time_name; /* what the sequence is called, or NULL */
	int32 time_typmod;	   /* times are fitted to it, if there is a function */
	FmgrInfo time_fit;
	double rows; /* estimate */
	EtlSpool *spool;
	ExprContext *context; /* for the columns' assign */
} EtlMergeInput;

typedef enum EtlAbsent
{
	ETL_ABSENT_IGNORE,
	ETL_ABSENT_CLOSE
} EtlAbsent;

typedef enum EtlDuplicates
{
	ETL_DUPLICATES_ERROR,
	ETL_DUPLICATES_LAST,
	ETL_DUPLICATES_DEAD_LETTER
} EtlDuplicates;

typedef enum EtlNullKeys
{
	ETL_NULL_KEYS_ERROR,
	ETL_NULL_KEYS_DEAD_LETTER
} EtlNullKeys;

typedef enum EtlLate
{
	ETL_LATE_WEAVE,
	ETL_LATE_IGNORE,
	ETL_LATE_DEAD_LETTER
} EtlLate;

/* Each row of the input is counted once in the first group. */
typedef struct EtlMergeCounts
{
	int64 read;
	int64 inserted;
	int64 opened;
	int64 updated;
	int64 corrected;
	int64 overwritten;
	int64 unchanged;
	int64 deleted;
	int64 stale;
	int64 late;
	int64 late_ignored; /* part of late */
	int64 duplicates;
	int64 rejected;
	int64 untimed; /* part of rejected: had a key, but no fit time */

	/* effects */
	int64 closed;
	int64 revived;
	int64 absent; /* deleted because the input lacks them */
	int64 open;	  /* keys that the target had, if a fraction of them counts */
	int64 ended;  /* versioned: of these, the ones that it has no more */
} EtlMergeCounts;

/* A row of the target.  Values are in the target's layout. */
typedef struct EtlStored
{
	Oid table; /* the partition */
	ItemPointerData tid;
	Datum *values;
	bool *nulls;
	bool is_new; /* this merge has inserted it, for an earlier change */
} EtlStored;

/* What became of a row of the input. */
typedef enum EtlOutcome
{
	ETL_PENDING,
	ETL_INSERTED,
	ETL_OPENED,
	ETL_UPDATED,
	ETL_CORRECTED,
	ETL_OVERWRITTEN,
	ETL_UNCHANGED,
	ETL_DELETED,
	ETL_STALE,
	ETL_LATE,
	ETL_LATE_IGNORED,
	ETL_DUPLICATE,
	ETL_REJECTED
} EtlOutcome;

/* A row of the input.  Values are in the target's layout. */
typedef struct EtlChange
{
	int64 number; /* in the order of the input */
	Datum *values;
	bool *nulls;
	Datum time;	  /* with a sequence: not null */
	bool no_time; /* but it is, which is why the row is rejected */
	bool is_delete;
	bool is_new; /* to be counted: a row of this run */
	Datum tombstone;
	bool has_tombstone;
	int64 step;	  /* with steps: those of one step take effect together */
	bytea *lacks; /* columns whose values are those of before, or NULL */
	EtlOutcome outcome;
} EtlChange;

/* All that is known of one key. */
typedef struct EtlGroup
{
	EtlStored *stored;
	int n_stored;
	bool complete; /* all stored rows of the key, not just the open one */
	EtlChange *changes;
	int n_changes;
} EtlGroup;

typedef struct EtlMerge EtlMerge;
typedef struct EtlMergeWriter EtlMergeWriter;

struct EtlMerge
{
	EtlRun *run;
	Relation target;
	Relation source;		 /* what the input was made from, or NULL */
	TupleDesc source_desc;	 /* its columns */
	const char *way;		 /* how the target was read and written */
	int natts;				 /* of the target */
	EtlMergeColumn *columns; /* likewise */
	EtlMergeInput input;

	/*
	 * Decides about one key.  Of a group that is not complete (one change
	 * and the open row) it returns false if it needs the others, and has
	 * done nothing then.
	 */
	bool (*decide)(EtlMerge *merge, EtlGroup *group);

	EtlAbsent absent;
	int *scope; /* columns within whose values absence counts */
	int n_scope;
	int *keys; /* columns of role KEY, in the caller's order */
	int n_keys;
	EtlDuplicates duplicates;
	EtlNullKeys null_keys;
	bool strict; /* the caller has no words for these two to be otherwise */
	double max_delete_fraction; /* -1: none given */
	bool dry_run;
	bool general; /* do all by SQL */

	/* versions in time */
	bool versioned;
	EtlLate late;
	bool from_log; /* the input holds every change there was */
	bool closed_bounds;
	int64 open_step; /* with steps: was begun by an earlier merge */
	bool has_effective_at;
	Datum effective_at;		/* of rows without a time, and of absence */
	bool effective_is_last; /* it is the greatest time of the input */
	Datum open_end;
	bool open_end_null;

	/* the columns by role, or -1 */
	int sequence;
	int changed_at;
	int valid_from;
	int valid_to;
	int is_current;

	/* told of each tombstone that is to be, upsert only; may be NULL */
	void (*bury)(EtlMerge *merge, const EtlChange *change);
	void *bury_arg;

	/* told what became of each row of the input; may be NULL */
	void (*settled)(EtlMerge *merge, const EtlChange *change);
	void *settled_arg;

	EtlMergeCounts counts;
	EtlMergeWriter *writer;
	EtlDeadLetters *letters;
	const char *input_name;		 /* for dead letters */
	MemoryContext group_context; /* reset after each group */
};

/* in merge.c */
extern void etl_merge_run(EtlMerge *merge);
extern int etl_merge_column(const EtlMerge *merge, const char *name);
extern char *etl_merge_key_text(EtlMerge *merge, Datum *values, bool *nulls);
extern void etl_merge_reject(EtlMerge *merge, EtlChange *change,
							 EtlCategory category, int sqlerrcode,
							 const char *message);
extern void etl_merge_count(EtlMerge *merge, const EtlChange *change);

/* seed of the hashes of keys */
#define ETL_KEY_SEED UINT64CONST(0x9e3779b97f4a7c15)

/* in merge_input.c */
typedef bool (*EtlSlotCall)(void *arg, TupleTableSlot *slot);
typedef void (*EtlChangeCall)(void *arg, EtlChange *change,
							  TupleTableSlot *slot);

extern void etl_input_scan(EtlMerge *merge, EtlSlotCall first,
						   EtlChangeCall call, void *arg);

/* in merge_tie.c: changes of one key and one time, in the order of arrival */
extern EtlChange *etl_settle_tie(EtlMerge *merge, EtlChange **changes, int n);

/* in merge_scan.c */
extern void etl_merge_scan(EtlMerge *merge);
extern void etl_merge_refuse_stale_snapshot(Relation target);

/* in merge_timeline.c: is it no time at which a version could start? */
extern bool etl_merge_is_endless(EtlMerge *merge, Datum time);

/* in merge_upsert.c */
extern bool etl_decide_upsert(EtlMerge *merge, EtlGroup *group);
extern bool etl_decide_append(EtlMerge *merge, EtlGroup *group);
extern bool etl_merge_appends(const EtlMerge *merge);

/* in merge_scd2.c */
extern bool etl_decide_scd2(EtlMerge *merge, EtlGroup *group);

/* ------------------------------------------------------------------ */
/* in merge_write.c: what a decision asks for                           */

/*
 * Flags of an update.  Rows that are deleted or that shrink go first, then
 * those that grow, then new rows, so that the constraints of a key hold at
 * every step.
 */
#define ETL_UPDATE_TIMES 0x01 /* only validity columns differ */
#define ETL_UPDATE_GROWS 0x02 /* covers time that another row may give up */

/*
 * Values are in the target's layout, of all its columns, and are copied.  An
 * inserted row takes its KEPT columns from the values, or else gets their
 * defaults.  An update leaves KEY columns as they are stored.  Columns of role
 * NONE are never set.  A stored row is changed once at the most, and says how
 * it was before.  With in_order the rows to be updated and deleted, of the one
 * heap that is the target, come in the order of their places or while their
 * pages are at hand, and may be written at once.  So may new rows once
 * at_once was called, by a merge that does nothing but insert; then a row of
 * the input that lies in a slot can be given as it is, if that is possible.
 */
extern void etl_merge_check_privileges(EtlMerge *merge, bool deletes);
extern EtlMergeWriter *etl_merge_writer_open(EtlMerge *merge);
extern void etl_merge_writer_in_order(EtlMergeWriter *writer, bool in_order);
extern void etl_merge_insert(EtlMergeWriter *writer, Datum *values, bool *nulls,
							 bool kept);
extern void etl_merge_writer_at_once(EtlMergeWriter *writer);
extern bool etl_merge_insert_slot(EtlMergeWriter *writer, TupleTableSlot *slot);
extern void etl_merge_writer_flush(EtlMergeWriter *writer);
extern void etl_merge_update(EtlMergeWriter *writer, const EtlStored *stored,
							 Datum *values, bool *nulls, int flags);
extern void etl_merge_delete(EtlMergeWriter *writer, const EtlStored *stored);
extern void etl_merge_writer_finish(EtlMergeWriter *writer);

/* in merge_write_heap.c: may general be false for this target? */
extern bool etl_merge_writer_can_heap(Relation target);

#endif /* ETL_MERGE_H */
