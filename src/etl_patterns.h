/*-------------------------------------------------------------------------
 *
 * etl_patterns.h
 *	  What the whole extension knows of itself.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_PATTERNS_H
#define ETL_PATTERNS_H

/* The schema of the state tables; the functions live where the user says. */
#define ETL_SCHEMA "etl_patterns"

/* How merges reach their target: as seems best, or by SQL only. */
typedef enum EtlMergePath
{
	ETL_MERGE_PATH_AUTO,
	ETL_MERGE_PATH_GENERAL
} EtlMergePath;

/* in etl_patterns.c: settings */
extern int etl_merge_path;
extern int etl_horizon_guard; /* milliseconds */

#endif /* ETL_PATTERNS_H */
