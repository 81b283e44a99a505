/*-------------------------------------------------------------------------
 *
 * append.h
 *	  What the files of the appending sinks share; private to the room.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_APPEND_H
#define ETL_APPEND_H

#include "sink/sink.h"

#include "access/heapam.h"
#include "executor/execPartition.h"
#include "nodes/execnodes.h"

/* Rows and values of a batch at the most; a sink's slots are so many. */
#define ETL_MAX_BATCH_ROWS	 1000
#define ETL_MAX_BATCH_VALUES 1000000

/* ------------------------------------------------------------------ */
/* in columns.c: which columns are supplied, and what the others get     */

typedef struct EtlColumns
{
	AttrNumber *attnums; /* supplied by the caller */
	int natts;
	AttrNumber *null_attnums; /* not supplied, no default */
	int n_null;
	AttrNumber *default_attnums; /* not supplied, computed here */
	ExprState **default_exprs;
	int n_default;
	bool defaults_read_tables; /* may look at the target */
	EState *estate;
} EtlColumns;

extern EtlColumns *etl_columns_create(Relation target,
									  const AttrNumber *attnums, int natts);
extern bool etl_calls_user_function(Node *node, void *context);
extern void etl_columns_free(EtlColumns *columns);
extern bool etl_columns_constants(EtlColumns *columns, Datum *values,
								  bool *isnull);
extern void etl_columns_fill_nulls(EtlColumns *columns, TupleTableSlot *slot);
extern void etl_columns_fill_defaults(EtlColumns *columns, TupleTableSlot *slot);

/* ------------------------------------------------------------------ */
/* in row_slot.c: slots whose tuples belong to the batch                 */

extern const TupleTableSlotOps *etl_row_slot_ops(void);
extern void etl_row_slot_lend(TupleTableSlot *slot, HeapTupleHeader data,
							  uint32 len);
extern HeapTuple etl_row_slot_lent(TupleTableSlot *slot);

/* ------------------------------------------------------------------ */
/* in append_heap.c: the sink                                           */

/* What became of a row of the batch. */
typedef enum EtlRowState
{
	ETL_ROW_PENDING,
	ETL_ROW_SUSPECT, /* will fail, but how is still to be found */
	ETL_ROW_WRITTEN,
	ETL_ROW_SUPPRESSED, /* a BEFORE trigger dropped it */
	ETL_ROW_TAKEN,		/* its key was there: the caller deletes it */
	ETL_ROW_REJECTED
} EtlRowState;

typedef struct EtlHeapWriter EtlHeapWriter;
typedef struct EtlKeys EtlKeys;

typedef struct EtlHeapSink
{
	EtlSink base;
	MemoryContext context; /* holds the sink */
	EtlColumns *columns;
	EtlHeapWriter *writer; /* lives as long as the sink */
	EtlRowState *states;   /* by row of the batch */
	EtlReject *rejects;
	EtlKeys *keys; /* of the unique indexes that are left out, or NULL */

	/* what there is to check; see append_guarded.c */
	bool partitioned;
	bool has_not_null;
	bool has_generated;
	bool prechecks;	  /* check before writing */
	bool plain;		  /* writing cannot fail for a row's fault, */
	bool always_fit;  /* ... not even because it is too long */
	bool looks_ahead; /* may look up the keys of many rows before writing */
	MemoryContext check_context;
	EState *check_estate;
	ResultRelInfo *check_rri;
	MemoryContext attempt_context;
	int attempt_rows;  /* how many to try at once */
	int gap;		   /* rows written since the last failure */
	int probe_batches; /* look before writing, for so many more */
} EtlHeapSink;

extern void etl_heap_reject(EtlHeapSink *sink, int row, const ErrorData *edata);
extern void etl_heap_reject_duplicate(EtlHeapSink *sink, int row, Relation index,
									  const Datum *values, const bool *isnull);

/* ------------------------------------------------------------------ */
/* in append_writer.c: the executor's machinery around table_multi_insert */

#define ETL_WRITER_INDEXES	 0x01 /* maintain indexes */
#define ETL_WRITER_STATEMENT 0x02 /* fire statement triggers */
#define ETL_WRITER_EACH_ROW	 0x04 /* AFTER triggers fire row by row */

extern EtlHeapWriter *etl_heap_writer_open(EtlHeapSink *sink, int flags);
extern void etl_heap_writer_write(EtlHeapWriter *writer, int first, int end,
								  bool one_by_one, bool probe);
extern void etl_heap_writer_close(EtlHeapWriter *writer);

/* ------------------------------------------------------------------ */
/* in append_probe.c: is a row's key taken?                             */

typedef struct EtlKeyProbe EtlKeyProbe;

extern EtlKeyProbe *etl_key_probe_open(EtlHeapSink *sink, ResultRelInfo *rri,
									   EState *estate);
extern bool etl_key_probe_row(EtlKeyProbe *probe, TupleTableSlot *slot, int row);
extern void etl_key_probe_close(EtlKeyProbe *probe);

/* ------------------------------------------------------------------ */
/* in append_guarded.c: each row error costs its row                     */

extern void etl_heap_guarded_setup(EtlHeapSink *sink);
extern void etl_heap_guarded_fill(EtlHeapSink *sink);
extern void etl_heap_guarded_write(EtlHeapSink *sink);

/* ------------------------------------------------------------------ */
/* in indexes.c                                                         */

extern bool etl_index_is_simple(Relation index);
extern bool etl_index_is_left_out(const EtlSinkOptions *options, Oid index);
extern void etl_indexes_build(Relation target, EtlLeftOut *left_out,
							  bool unique_only, EtlRun *run);
extern void etl_indexes_keep_unique(EtlLeftOut *left_out);

/* ------------------------------------------------------------------ */
/* in append_keys.c: what left out indexes would say of a row           */

extern bool etl_keys_serve(Relation index);
extern EtlKeys *etl_keys_open(EtlHeapSink *sink);
extern void etl_keys_close(EtlKeys *keys);
extern bool etl_keys_full(EtlKeys *keys);
extern bool etl_keys_too_long(EtlKeys *keys);
extern void etl_keys_hash(EtlKeys *keys);
extern Oid etl_keys_claim(EtlKeys *keys, int row);
extern void etl_keys_settle(EtlKeys *keys);
extern void etl_keys_release(EtlKeys *keys, int row);
extern void etl_keys_values(Relation index, TupleTableSlot *slot, Datum *values,
							bool *isnull);

/* in append_sql.c: the columns of ON CONFLICT, as String nodes */
extern List *etl_conflict_keys(Relation target, const EtlSinkOptions *options);

/* in sink.c */
extern bool etl_sink_may_freeze(Relation target);

/* the table of sinks, in sink.c */
extern const EtlSinkOps etl_append_heap_ops;
extern const EtlSinkOps etl_append_sql_ops;

#endif /* ETL_APPEND_H */
