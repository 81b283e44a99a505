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
 * in its database, but not by those of the process that it reads for.
 */
extern void etl_wal_wake_me(void);
/* Commits that were told up to there may not be on disk yet. */
extern XLogRecPtr etl_wal_wake_unflushed(void);
/*
 * The same for what other pipelines have applied: 0, or how far, until this
 * says that it is on disk.
 */
extern XLogRecPtr etl_wal_wake_deferred(void);
extern void etl_wal_wake_flushed(XLogRecPtr position);

/* This process applies changes; chained: its reader may want what it writes. */
extern void etl_wal_wake_applier(bool chained);

/* There is something to read in this database. */
extern void etl_wal_wake_readers(void);

#endif /* ETL_WAL_WAKE_H */
