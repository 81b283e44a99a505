/*-------------------------------------------------------------------------
 *
 * apply_write.h
 *	  What the sinks of changes share that write rows like those of the source;
 *	  private to them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_APPLY_WRITE_H
#define ETL_APPLY_WRITE_H

#include "sink/append.h"
#include "sink/apply.h"

/* Called with what came with the row. */
typedef void (*EtlInserterTakenCall)(void *arg, void *row, ItemPointer tid);

/* Inserts rows in the target's layout; the rows last until they are written. */
typedef struct EtlApplyInserter
{
	EtlSink *sink;
	const AttrNumber *attnums;
	int natts;
	bool as_they_are;
	TupleDesc desc;
	Datum *values;
	bool *nulls;
	void **rows; /* of the batch: what came with them */
	EtlInserterTakenCall taken;
	void *taken_arg;
} EtlApplyInserter;

/* in apply_write.c */
extern bool etl_apply_has_own_triggers(Relation target);
extern HeapTuple etl_apply_target_row(EtlApply *apply, EtlApplyMap *map,
									  HeapTuple row, const bool *unchanged,
									  bool **is_set);
extern EtlApplyInserter *etl_apply_inserter_open(EtlApply *apply,
												 const AttrNumber *attnums,
												 int natts, Oid key_index,
												 EtlInserterTakenCall taken,
												 void *taken_arg);
extern void etl_apply_inserter_add(EtlApplyInserter *inserter, HeapTuple tuple,
								   void *row);
extern void etl_apply_inserter_flush(EtlApplyInserter *inserter);
extern void etl_apply_inserter_close(EtlApplyInserter *inserter);

#endif /* ETL_APPLY_WRITE_H */
