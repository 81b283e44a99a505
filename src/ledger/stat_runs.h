/*-------------------------------------------------------------------------
 *
 * stat_runs.h
 *	  Cumulative statistics of runs: how many finished and failed, per flow.
 *
 * A flow is an operation and, of a pull or backfill, its pipeline.  stat_runs.c
 * notices how runs end; one of two files keeps the counters: stat_kind.c, with
 * the server's own statistics, where extensions can have some there, else
 * stat_memory.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_STAT_RUNS_H
#define ETL_STAT_RUNS_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "ledger/ledger.h"

/* So many flows are counted; then one gives its place to the next. */
#define ETL_STAT_MAX_FLOWS 512

/* Longer names are cut, but two that differ further on are two flows. */
#define ETL_STAT_NAME_LEN 128

/*
 * The counters of a flow; also what one run adds to them.  Zeroed is empty.
 *
 * Of PostgreSQL 18 on, the server writes this to its file of statistics, which
 * says nothing about its size: one that is read with another size makes all
 * statistics of the server unreadable, and it begins anew.  So neither the size
 * nor what is there may change; new fields are taken from what is spare.
 */
typedef struct EtlStatEntry
{
	uint64 flow;	 /* hash of what follows, of the whole name */
	int32 operation; /* as in progress.c; 0: empty */
	int32 last_error;
	char name[ETL_STAT_NAME_LEN]; /* "" if it has none */
	int64 finished;
	int64 failed;
	int64 rows_read;
	int64 rows_inserted;
	int64 rows_updated;
	int64 rows_deleted;
	int64 rows_unchanged;
	int64 rows_rejected;
	double total_ms;
	TimestampTz last_finished_at; /* 0: never; likewise the next one */
	TimestampTz last_failed_at;
	TimestampTz since; /* the first run that is counted ended */
	int64 spare[2];
} EtlStatEntry;

StaticAssertDecl(sizeof(EtlStatEntry) == 256,
				 "the server's file of statistics has entries of this size");

/* in stat_runs.c */
extern void etl_stat_runs_init(void); /* from _PG_init */
extern void etl_stat_run_begin(const EtlRun *run);
extern void etl_stat_run_finished(const EtlRun *run, TimestampTz now,
								  bool is_dry);
extern void etl_stat_merge(EtlStatEntry *entry, const EtlStatEntry *event);
extern TimestampTz etl_stat_last_used(const EtlStatEntry *entry);

/*
 * in stat_kind.c or stat_memory.c
 *
 * etl_stat_add() adds to the counters of a flow of this database.  It is called
 * while transactions abort, and cannot fail; so etl_stat_make_room() is called
 * before, with the number of events that may come, where an error may be
 * thrown.  The others are about all flows of a database.
 */
extern void etl_stat_init(void);
extern bool etl_stat_is_there(void);
extern void etl_stat_make_room(int nevents);
extern void etl_stat_add(const EtlStatEntry *event);
extern int etl_stat_read(EtlStatEntry *entries, int max);
extern void etl_stat_reset(void);
extern void etl_stat_drop_database(Oid database);

#endif /* ETL_STAT_RUNS_H */
