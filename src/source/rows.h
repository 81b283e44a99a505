/*-------------------------------------------------------------------------
 *
 * rows.h
 *	  Rows that are already in the database: from a query, from a heap, or
 *	  kept aside to be read again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_ROWS_H
#define ETL_ROWS_H

#include "base/base.h"
#include "executor/tuptable.h"
#include "utils/snapshot.h"
#include "utils/tuplestore.h"

/*
 * Gets one row; the slot is the reader's and is valid until it returns, and so
 * is the current memory context.  Of a query's rows it must not write: the
 * query may run in parallel, unless it is serial.
 */
typedef void (*EtlRowCall)(void *arg, TupleTableSlot *slot);

/* A query with its parameters; zero it, then set what it has. */
typedef struct EtlQuery
{
	const char *text;
	int nargs;
	Oid *types;
	Datum *values;
	const char *nulls; /* as for SPI: 'n' is null; NULL: none is */
	bool serial;	   /* not in parallel, so that the call may write */

	/* rows that the text may name, or NULL */
	const char *rows_name;
	TupleDesc rows_desc;
	Tuplestorestate *rows;

	/* told how many rows the planner expects, before the first; or NULL */
	double *planned;
} EtlQuery;

/* in rows.c */
extern TupleDesc etl_query_desc(const EtlQuery *query);
extern TupleDesc etl_query_plan(const EtlQuery *query, double *rows);
extern int64 etl_query_rows(const EtlQuery *query, EtlRowCall call, void *arg);
extern void etl_register_rows(const char *name, TupleDesc desc,
							  Tuplestorestate *store);
extern int64 etl_heap_rows(Relation rel, Snapshot snapshot, EtlRowCall call,
						   void *arg);
extern void etl_heap_fetch(Relation rel, ItemPointer tid, Snapshot snapshot,
						   TupleTableSlot *slot);

/*
 * Rows kept in a temporary file.  An address is good as long as the spool;
 * it needs no more than 47 bits.
 */
typedef struct EtlSpool EtlSpool;

/* in spool.c */
extern EtlSpool *etl_spool_create(TupleDesc desc);
extern uint64 etl_spool_put(EtlSpool *spool, TupleTableSlot *slot);
extern void etl_spool_get(EtlSpool *spool, uint64 address, TupleTableSlot *slot);
extern void etl_spool_free(EtlSpool *spool);

#endif /* ETL_ROWS_H */
