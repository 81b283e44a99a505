/*-------------------------------------------------------------------------
 *
 * merge_scd2.h
 *	  The history of one key; private to the room.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_MERGE_SCD2_H
#define ETL_MERGE_SCD2_H

#include "sink/merge.h"

/*
 * From this time on, until the next point, the key is as a row says, or is
 * not there.  The content of a live point is that of a stored row or of a
 * change.
 */
typedef struct EtlPoint
{
	Datum time;
	bool live;
	int stored; /* index of the stored row, or -1 */
	EtlChange *change;
	bool touched; /* may collapse with its neighbours */
} EtlPoint;

/* A row that is to be. */
typedef struct EtlVersion
{
	EtlPoint *point;
	Datum end;
	bool open; /* has no end */
	int pair;  /* index of the stored row that becomes it, or -1 */
	Datum *values;
	bool *nulls;
	bool fresh; /* content differs from what was stored next to it */
} EtlVersion;

typedef struct EtlHistory
{
	EtlMerge *merge;
	EtlGroup *group;

	/* the stored rows' ends, exclusive; and the last boundary of them all */
	Datum *ends;
	bool *open;
	Datum last;

	/* the changes that count, by time */
	EtlChange **changes;
	int n_changes;

	EtlPoint *points;
	int n_points;
	EtlVersion *versions;
	int n_versions;

	/* whose OVERWRITE and FIXED columns count, or NULL: those stored */
	EtlChange *newest;
	EtlChange *oldest;
} EtlHistory;

/* in merge_scd2.c */
extern int etl_time_compare(EtlMerge *merge, Datum a, Datum b);
extern bool etl_same_content(EtlMerge *merge, EtlColumnRole role,
							 const Datum *a, const bool *a_nulls,
							 const Datum *b, const bool *b_nulls);

/* in merge_timeline.c */
extern void etl_timeline_stored(EtlHistory *history);
extern void etl_timeline_changes(EtlHistory *history);
extern void etl_timeline_points(EtlHistory *history);
extern void etl_timeline_outcomes(EtlHistory *history);
extern int etl_last_started(EtlHistory *history, Datum time);
extern bool etl_stored_is_open(EtlMerge *merge, const EtlStored *stored);

/* in merge_steps.c */
extern void etl_steps_settle(EtlHistory *history);

/* in merge_versions.c */
extern void etl_versions_make(EtlHistory *history);
extern void etl_versions_write(EtlHistory *history);

#endif /* ETL_MERGE_SCD2_H */
