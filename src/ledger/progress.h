/*-------------------------------------------------------------------------
 *
 * progress.h
 *	  What a run is doing now, for the view etl_patterns.progress.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_PROGRESS_H
#define ETL_PROGRESS_H

#include "postgres.h"

#include "utils/backend_progress.h"

/* The numbers are those of the view, in ledger.sql. */
typedef enum EtlPhase
{
	ETL_PHASE_WAITING = 1,	 /* for locks, and for whoever may still commit */
	ETL_PHASE_HASHING = 2,	 /* a file, to tell whether it is in */
	ETL_PHASE_COPYING = 3,	 /* rows are read and written */
	ETL_PHASE_INDEXES = 4,	 /* they are rebuilt */
	ETL_PHASE_READING = 5,	 /* what is to be merged */
	ETL_PHASE_COMPARING = 6, /* the stored rows are read past it */
	ETL_PHASE_DECIDING = 7,	 /* key by key */
	ETL_PHASE_WRITING = 8	 /* what was decided */
} EtlPhase;

/* What is counted; likewise. */
typedef enum EtlUnit
{
	ETL_UNIT_NONE = 0,
	ETL_UNIT_BYTES = 1,
	ETL_UNIT_ROWS = 2,
	ETL_UNIT_INDEXES = 3
} EtlUnit;

/* A total that nobody knows. */
#define ETL_TOTAL_UNKNOWN (-1)

/* The part of an EtlRun that progress.c keeps. */
typedef struct EtlProgress
{
	EtlPhase phase;
	EtlUnit unit;
	int64 done;
	int64 total;
	Oid target; /* that is being written */

	/* what was shown before the run began, and is to be shown after it */
	ProgressCommandType outer_command;
	Oid outer_target;
	int64 outer_params[PGSTAT_NUM_PROGRESS_PARAM];
} EtlProgress;

typedef struct EtlRun EtlRun;

/*
 * in progress.c
 *
 * etl_progress_set() says what comes now, etl_progress_done() how far it has
 * come; both show it at once, so they are called once per batch, not per row.
 */
extern void etl_progress_begin(EtlRun *run);
extern void etl_progress_set(EtlRun *run, EtlPhase phase, EtlUnit unit,
							 int64 done, double total);
extern void etl_progress_target(EtlRun *run, Oid target);
extern void etl_progress_done(EtlRun *run, int64 done);
extern void etl_progress_end(EtlRun *run);

/* The operations that are shown and counted, by numbers that never change. */
extern int etl_operation_number(const char *operation);
extern const char *etl_operation_word(int number);

/* For loops over rows, with their number: shows every 1024th. */
static inline void
etl_progress_row(EtlRun *run, int64 done)
{
	if ((done & 1023) == 0)
		etl_progress_done(run, done);
}

#endif /* ETL_PROGRESS_H */
