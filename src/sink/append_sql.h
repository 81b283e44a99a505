/*-------------------------------------------------------------------------
 *
 * append_sql.h
 *	  The sink that writes through SQL; private to its two files.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_APPEND_SQL_H
#define ETL_APPEND_SQL_H

#include "sink/append.h"

#include "executor/spi.h"

/* The batch as the statement sees it, and the number of each row in it. */
#define ETL_SQL_BATCH "etl_batch"
#define ETL_SQL_ORDER "row_no"

/* How inserted rows are told from updated ones. */
typedef enum EtlTelling
{
	ETL_TELLS_NOTHING,	/* all written rows count as inserted */
	ETL_TELLS_INSERTED, /* by xmax, in the statement */
	ETL_TELLS_PLACE		/* tableoid, ctid: to look up xmax there */
} EtlTelling;

typedef struct EtlSqlSink
{
	EtlSink base;
	MemoryContext context;		 /* holds the sink */
	MemoryContext query_context; /* what the columns decide; see below */
	AttrNumber *attnums;
	int natts;
	TupleDesc row_desc; /* the supplied columns, then the number */
	EtlTelling telling; /* what the statement returns of each row */
	SPIPlanPtr plan;
	bool *rejected; /* by row of the batch */
	EtlReject *rejects;
	MemoryContext attempt_context;
	int attempt_rows; /* how many to try at once */
} EtlSqlSink;

/* in append_query.c */
extern void etl_sql_prepare(EtlSqlSink *sink, const AttrNumber *attnums,
							int natts);

#endif /* ETL_APPEND_SQL_H */
