/*-------------------------------------------------------------------------
 *
 * wal_wake.h
 *	  Commits wake the processes that read this server's WAL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_WAL_WAKE_H
#define ETL_WAL_WAKE_H

#include "access/xlogdefs.h"

/* in wal_wake.c */
extern void etl_wal_wake_init(void); /* from _PG_init, when preloaded */

/* Is the library preloaded? */
extern bool etl_wal_wake_is_there(void);

/*
 * From now on, until it ends, the latch of this process is set by each commit
 * in its database.
 */
extern void etl_wal_wake_me(void);
/* Commits that were told up to there may not be on disk yet. */
extern XLogRecPtr etl_wal_wake_unflushed(void);

#endif /* ETL_WAL_WAKE_H */
