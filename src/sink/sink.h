/*-------------------------------------------------------------------------
 *
 * sink.h
 *	  How rows land in a table.
 *
 * A sink takes batches of rows in memory.  Which sink serves a target is
 * decided once, by etl_sink_open(): a plain or partitioned table is written
 * directly (append_heap.c), everything else through SQL (append_sql.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_SINK_H
#define ETL_SINK_H

#include "base/base.h"
#include "executor/tuptable.h"
#include "ledger/progress.h"

typedef enum EtlConflictAction
{
	ETL_CONFLICT_ERROR,
	ETL_CONFLICT_SKIP,
	ETL_CONFLICT_UPDATE
} EtlConflictAction;

/* Indexes that are not maintained; they are built when the sink is closed. */
typedef struct EtlLeftOut
{
	List *indexes; /* OIDs; the sink takes away what it has to build */
	bool unique;   /* unique ones are among them */
} EtlLeftOut;

typedef struct EtlSinkOptions
{
	bool guarded;		  /* report row errors instead of throwing */
	EtlLeftOut *left_out; /* or NULL */
	bool general;		  /* write through SQL, whatever the target */
	bool freeze; /* rows are visible to all; see etl_sink_check_freeze() */

	/*
	 * For writers that do more than insert; the direct way heeds them.  AFTER
	 * ROW triggers are left to a level that the caller has opened.  A row whose
	 * key is in the unique index is no error, but the caller's to delete when
	 * the batch is written: taken is called.
	 */
	bool defers_triggers;
	Oid key_index;
	EtlConflictAction on_conflict;
	List *keys; /* of String nodes; with on_conflict */
} EtlSinkOptions;

typedef struct EtlSinkCounts
{
	int64 inserted;
	int64 updated;
	int64 unchanged; /* left alone by on_conflict => 'skip' */
	int64 rejected;
} EtlSinkCounts;

typedef struct EtlSink EtlSink;

/* row: its index in the batch.  The reject's strings live until it returns. */
typedef void (*EtlSinkRejectCall)(void *arg, int row, const EtlReject *reject);

/* A row of the batch is in the table at this place, though its key was there. */
typedef void (*EtlSinkTakenCall)(void *arg, int row, ItemPointer tid);

struct EtlSink
{
	const struct EtlSinkOps *ops;
	Relation target;
	EtlSinkOptions options;
	EtlSinkCounts counts;
	EtlSinkRejectCall reject;
	void *reject_arg;
	EtlSinkTakenCall taken; /* set by the caller, with key_index */
	void *taken_arg;

	/* The batch: slots are filled by the caller, values of the given columns. */
	int batch_rows;	  /* rows stored so far */
	int batch_limit;  /* the caller flushes when this many */
	int current_row;  /* being written, or -1: for error contexts */
	Size batch_bytes; /* copied into the batch, about */
	TupleTableSlot **slots;
	TupleDesc slot_desc; /* of their own */
	const TupleTableSlotOps *slot_ops;
	MemoryContext batch_context; /* values live here; reset by flush */

	/* for etl_sink_add_tuple() */
	TupleTableSlot *seen; /* the last one that was given */
	bool takes_seen;	  /* may its tuples go in as they are? */
};

typedef struct EtlSinkOps
{
	const char *name;
	bool (*serves)(Relation target, const EtlSinkOptions *options);
	EtlSink *(*open)(Relation target, const AttrNumber *attnums, int natts,
					 const EtlSinkOptions *options);
	void (*set_columns)(EtlSink *sink, const AttrNumber *attnums, int natts);
	bool (*takes_tuples)(EtlSink *sink, TupleDesc desc); /* or NULL: none */
	bool (*takes_formed)(EtlSink *sink, Datum *values, bool *isnull); /* ditto */
	void (*flush)(EtlSink *sink);
	void (*close)(EtlSink *sink);
} EtlSinkOps;

/*
 * in sink.c
 *
 * The caller holds RowExclusiveLock on the target (ShareRowExclusiveLock with
 * left_out) and opens, flushes and closes the sink at one subtransaction
 * level, with no guard open.  It calls etl_sink_check_privileges() first.
 */
extern void etl_sink_check_kind(Relation target);
extern void etl_sink_check_privileges(Relation target, const AttrNumber *attnums,
									  int natts, const EtlSinkOptions *options);
extern void etl_sink_check_freeze(Relation target);
extern EtlSink *etl_sink_open(Relation target, const AttrNumber *attnums,
							  int natts, const EtlSinkOptions *options,
							  EtlSinkRejectCall reject, void *reject_arg);
extern TupleTableSlot *etl_sink_next_slot(EtlSink *sink);
extern void etl_sink_drop_slot(EtlSink *sink);
extern bool etl_sink_add_tuple(EtlSink *sink, TupleTableSlot *slot);
extern bool etl_sink_takes_own_tuples(EtlSink *sink);
extern void etl_sink_add_heap_tuple(EtlSink *sink, HeapTuple tuple);
extern bool etl_sink_takes_formed(EtlSink *sink, Datum *values, bool *isnull);
extern void etl_sink_add_formed(EtlSink *sink, HeapTupleHeader tuple,
								uint32 len);
extern void etl_sink_add_value(EtlSink *sink, TupleTableSlot *row,
							   AttrNumber attnum, Datum value, bool isnull);
extern bool etl_sink_is_full(const EtlSink *sink);
extern void etl_sink_set_columns(EtlSink *sink, const AttrNumber *attnums,
								 int natts);
extern void etl_sink_flush(EtlSink *sink);
extern void etl_sink_close(EtlSink *sink);

/* in indexes.c */
extern EtlLeftOut *etl_indexes_leave_out(Relation target, bool guarded,
										 const char **reason);
extern void etl_indexes_rebuild(Relation target, EtlLeftOut *left_out,
								EtlRun *run);

#endif /* ETL_SINK_H */
