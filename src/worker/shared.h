/*-------------------------------------------------------------------------
 *
 * shared.h
 *	  What launcher, schedulers, workers and sessions tell each other.
 *
 * All of it may be lost at any time: whatever must survive is in the state
 * tables, and a scheduler that starts reads them.  Shared memory holds which
 * scheduler serves which database, what it was told since it last looked, and
 * which worker has which run.  One lock guards it all and is held for a few
 * instructions; whoever waits, waits on a latch.
 *
 * Without shared_preload_libraries there is no shared memory: etl_shared is
 * NULL, and the functions below that tell somebody something do nothing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_SHARED_H
#define ETL_SHARED_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "source/wal.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

/* A scheduler that has more news than this reads everything anew. */
#define ETL_NEWS_LEN 1024

/* A launcher that was asked for more than this asks every database anew. */
#define ETL_ASKED_LEN 64

typedef enum EtlNewsKind
{
	ETL_NEWS_JOB, /* it was created, altered, or dropped */
	ETL_NEWS_RUN, /* it was inserted, or changed by somebody else */
	ETL_NEWS_CDC, /* a pipeline or its tables were created, altered or dropped */
	ETL_NEWS_ALL  /* everything is to be read anew */
} EtlNewsKind;

typedef struct EtlNews
{
	EtlNewsKind kind;
	int64 id;
} EtlNews;

typedef enum EtlDatabaseState
{
	ETL_DATABASE_FREE,	   /* the entry is unused */
	ETL_DATABASE_STARTING, /* its scheduler was asked for, and looks around */
	ETL_DATABASE_SERVED,   /* it found the extension, and runs */
	ETL_DATABASE_FAILED	   /* it ended; to be started again at retry_at */
} EtlDatabaseState;

/*
 * One database that has a scheduler, or should.  The launcher makes it
 * STARTING; then it is the scheduler's, until that is gone.
 */
typedef struct EtlSharedDatabase
{
	EtlDatabaseState state;
	uint32 generation; /* a scheduler that starts late finds another one */
	Oid database;
	pid_t scheduler; /* 0: has not started, or is gone */
	bool leave;		 /* it is being ended, which is not its fault */
	Latch *latch;
	TimestampTz started_at;
	TimestampTz heartbeat; /* the scheduler's last round */
	TimestampTz retry_at;  /* FAILED; 0: the launcher has not seen it yet */
	bool armed;
	int64 jobs;			/* active ones that it knows */
	int64 runs_waiting; /* due, and not started */
	int64 no_worker;	/* times that no worker was to be had */
	bool dropped;		/* something was: the extension may be gone */
	int remote_slots;	/* that its pipelines have on other servers */
	int nnews;			/* more than ETL_NEWS_LEN: some are lost */
	EtlNews news[ETL_NEWS_LEN];
} EtlSharedDatabase;

typedef enum EtlSlotState
{
	ETL_SLOT_FREE,
	ETL_SLOT_STARTING, /* a worker was asked for */
	ETL_SLOT_IDLE,	   /* it waits for a run */
	ETL_SLOT_BUSY	   /* it has one */
} EtlSlotState;

/* Why a run is being ended from outside. */
typedef enum EtlEnding
{
	ETL_ENDING_NONE,
	ETL_ENDING_STOP,
	ETL_ENDING_REPLACE,
	ETL_ENDING_TIMEOUT
} EtlEnding;

/* One worker that executes runs, of one role in one database. */
typedef struct EtlSharedSlot
{
	EtlSlotState state;
	uint32 generation; /* a worker that starts late finds another one */
	Oid database;
	Oid role;
	pid_t pid; /* 0: has not started */
	Latch *latch;
	int64 job_run_id; /* STARTING, BUSY */
	EtlEnding ending;
	bool leave;	   /* IDLE: is to end, no run may be given to it */
	bool declined; /* it had a reason not to begin its last run */
	TimestampTz since;
} EtlSharedSlot;

typedef enum EtlApplierState
{
	ETL_APPLIER_FREE,
	ETL_APPLIER_STARTING, /* a process was asked for */
	ETL_APPLIER_RUNNING
} EtlApplierState;

/* How far a pipeline is, by its process; positions that are not known are 0. */
typedef struct EtlCdcProgress
{
	XLogRecPtr wal_end; /* of the source */
	XLogRecPtr read;	/* by the reader */
	XLogRecPtr applied; /* committed, or nothing of interest up to there */
	XLogRecPtr flushed; /* and safe on disk */
	TimestampTz read_time;
	TimestampTz caught_up; /* when all that was read was applied, last */
	pid_t reader;
} EtlCdcProgress;

/* One process that applies the changes of a pipeline. */
typedef struct EtlSharedApplier
{
	EtlApplierState state;
	uint32 generation; /* a process that starts late finds another one */
	Oid database;
	Oid role;
	int64 pipeline_id;
	pid_t pid; /* 0: has not started */
	Latch *latch;
	bool changed;	/* pipeline and tables are to be read anew */
	bool is_paired; /* it has asked for its reader */
	TimestampTz since;
	EtlCdcProgress progress;
} EtlSharedApplier;

typedef struct EtlShared
{
	LWLock *lock;
	pid_t launcher;
	Latch *launcher_latch;
	bool look_around;		  /* the launcher is to look for new databases */
	int nasked;				  /* more than ETL_ASKED_LEN: some are lost */
	Oid asked[ETL_ASKED_LEN]; /* databases that may have the extension now */
	int ndatabases;
	int nslots;
	int nappliers;
	/* arrays follow: see etl_shared_database(), _slot() and _applier() */
} EtlShared;

/* in shared.c */
extern EtlShared *etl_shared;

extern void etl_shared_init(void); /* from _PG_init */
extern EtlSharedDatabase *etl_shared_database(int index);
extern EtlSharedSlot *etl_shared_slot(int index);
extern EtlSharedApplier *etl_shared_applier(int index);
extern EtlSharedDatabase *etl_shared_find_database(Oid database);

/*
 * Schedulers.  The first is called before the connection is made, so that who
 * locks the database (see database_hook.c) finds the process; at its exit the
 * entry becomes FAILED, and the launcher is told.  The second: the extension
 * is there.  The third: it is not, and the process is about to exit; the entry
 * is free at once.
 */
extern EtlSharedDatabase *etl_scheduler_attach(int index);
extern void etl_scheduler_serve(void);
extern void etl_scheduler_leave(void);
extern void etl_scheduler_end(EtlSharedDatabase *entry);

/*
 * Sessions: told when the transaction commits, forgotten when it aborts.  The
 * second tells that something was dropped, and maybe the extension.  The
 * third: this database has a new extension; InvalidOid: there may be another
 * database.
 */
extern void etl_tell_scheduler(EtlNewsKind kind, int64 id);
extern void etl_tell_dropped(void);
extern void etl_tell_launcher(Oid database);

/*
 * in cdc_shared.c: the processes of pipelines.  The first two are for the
 * process itself; the second shows how far it is, and returns whether its
 * pipeline is to be read anew.  The others may be called by anybody: the third
 * tells whether there is a process, and how far it is; the fourth terminates
 * it, and the fifth all of a database, which the scheduler starts again where
 * the row of the pipeline still says that it is to run.
 */
extern EtlSharedApplier *etl_applier_attach(int index);
extern void etl_applier_paired(void);
extern void etl_applier_place(int *index, uint32 *generation);
extern void etl_reader_show(const EtlWalControl *control);
extern bool etl_applier_publish(const EtlCdcProgress *progress);
extern bool etl_cdc_progress(int64 pipeline_id, EtlCdcProgress *progress);
extern bool etl_cdc_end(int64 pipeline_id);
extern int etl_cdc_end_all(Oid database);

/*
 * The lock of the process that applies a pipeline, until it ends.  Who has
 * locked the row of a pipeline and ended its process waits for it.
 */
extern bool etl_cdc_lock(int64 pipeline_id, bool stays, bool wait);

/* in launcher.c */
extern void etl_launcher_register(void); /* from _PG_init */

/* in scheduler.c: its argument is the index of the database's entry */
extern PGDLLEXPORT void etl_scheduler_main(Datum main_arg);

/* in database_hook.c */
extern void etl_database_hook_install(void); /* from _PG_init */

#endif /* ETL_SHARED_H */
