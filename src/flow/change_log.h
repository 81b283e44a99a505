/*-------------------------------------------------------------------------
 *
 * change_log.h
 *	  The table with the changes of a target; private to its two files.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_CHANGE_LOG_H
#define ETL_CHANGE_LOG_H

#include "flow/companion.h"
#include "flow/merge.h"

typedef struct EtlChangeLog
{
	EtlMerge *merge;
	const char *name; /* ready for SQL */
	Oid relid;
	bool is_empty; /* before this run */

	/* its own columns */
	const char *change_id;
	const char *run_id;
	const char *received_at;
	const char *change_time;
	const char *is_delete;

	/* those of the target that it has, too, and received rows of these */
	int *columns;
	int n_columns;
	TupleDesc desc; /* the columns, then time and is_delete */
	Tuplestorestate *received;
	int64 n_received;
	int64 n_rejected; /* of the rest */
	Datum *values;	  /* scratch */
	bool *nulls;

	/* this run's changes are those with its run_id between the two */
	int64 first_id;
	int64 last_id;

	TupleDesc settled_desc;
	Tuplestorestate *settled;
} EtlChangeLog;

/* in change_log_table.c */
extern const EtlCompanion etl_change_log_companion;
extern void etl_change_log_open(EtlChangeLog *log);
extern void etl_change_log_append_names(StringInfo sql, EtlChangeLog *log,
										const char *qualifier);
extern void etl_change_log_append_same_key(StringInfo sql, EtlChangeLog *log,
										   const char *a, const char *b);

#endif /* ETL_CHANGE_LOG_H */
