/*-------------------------------------------------------------------------
 *
 * merge.h
 *	  What the files of the merge family share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_FLOW_MERGE_H
#define ETL_FLOW_MERGE_H

#include "sink/merge.h"

/* ------------------------------------------------------------------ */
/* in tombstone.c                                                       */

/*
 * The table with the tombstones has the target's key columns and its sequence
 * column under their own names.
 */
extern const char *etl_tombstones_open(EtlMerge *merge, bool create);
extern void etl_tombstones_flush(EtlMerge *merge);

#endif /* ETL_FLOW_MERGE_H */
