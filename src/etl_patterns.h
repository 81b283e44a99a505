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

#endif /* ETL_PATTERNS_H */
