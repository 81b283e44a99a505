/*-------------------------------------------------------------------------
 *
 * cdc_scd2.h
 *	  What the files of history from changes share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_CDC_SCD2_H
#define ETL_CDC_SCD2_H

#include "flow/merge.h"
#include "sink/apply.h"
#include "utils/tuplestore.h"

/* Columns of a kept row after those of the target; no user's have a dot. */
#define ETL_SCD2_TIME	   "etl_patterns.time"
#define ETL_SCD2_IS_DELETE "etl_patterns.is_delete"
#define ETL_SCD2_STEP	   "etl_patterns.step"
#define ETL_SCD2_LACKS	   "etl_patterns.lacks"

enum
{
	ETL_SCD2_ROW_TIME,
	ETL_SCD2_ROW_IS_DELETE,
	ETL_SCD2_ROW_STEP,
	ETL_SCD2_ROW_LACKS,
	ETL_SCD2_ROW_EXTRA
};

typedef struct EtlScd2
{
	EtlApply *apply;
	EtlMergeNames names; /* what the options say */
	bool has_initial;
	TimestampTz initial; /* when copied rows take effect */

	/* the clock of the source, as far as it was seen */
	XLogRecPtr step; /* the transaction */
	TimestampTz time;
	XLogRecPtr open_step; /* a part of it was merged */
	XLogRecPtr truncated; /* it has truncated the source */

	/* what rows have; made anew when the source describes itself anew */
	MemoryContext context; /* holds it */
	const EtlApplyMap *map;
	uint32 number; /* of the description */
	TupleDesc desc;
	AttrNumber *attnums; /* of the target, for the first columns */
	int natts;
	AttrNumber *keys;
	int n_keys;
	List *key_names;

	/* the row at hand, in the target's layout */
	MemoryContext change_context;
	Datum *values;
	bool *nulls;
	bool *is_set;
	Datum *old_values;
	bool *old_nulls;
	bool *old_is_set;

	/* the batch */
	Tuplestorestate *rows; /* or NULL: none yet */
	TimestampTz read_time; /* of copied rows among them, or 0 */
} EtlScd2;

/* in cdc_scd2_columns.c */
extern void etl_scd2_options(EtlApply *apply, EtlScd2 *scd2);
extern void etl_scd2_columns(EtlApply *apply, EtlScd2 *scd2, EtlApplyMap *map,
							 const EtlSourceRelation *relation);

#endif /* ETL_CDC_SCD2_H */
