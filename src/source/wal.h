/*-------------------------------------------------------------------------
 *
 * wal.h
 *	  The processes that read changes, and what they and the process that
 *	  applies them tell each other.
 *
 * One segment of dynamic shared memory holds this, the tables that are read,
 * and the queue.  The process that applies makes it and starts the reader; when
 * either is gone the other ends, too, and the next pair begins where the last
 * commit said.  So other tables mean another pair.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_WAL_H
#define ETL_WAL_H

#include "access/xlogdefs.h"
#include "compat.h"
#include "nodes/pg_list.h"
#include "source/change_event.h"
#include "storage/latch.h"
#include "storage/spin.h"

#define ETL_WAL_QUEUE_SIZE (8 * 1024 * 1024)
#define ETL_WAL_MAX_ERROR  1024

typedef struct EtlWalControl
{
	/* set before the reader starts */
	Oid database;
	char slot_name[NAMEDATALEN];
	bool is_remote;
	char server[NAMEDATALEN]; /* remote: of postgres_fdw */
	Oid role;				  /* remote: whose user mapping */
	bool create_slot;
	XLogRecPtr start; /* what ends before this was applied */
	int place;		  /* for etl_wal_show, as it likes */
	uint32 generation;

	slock_t mutex;
	XLogRecPtr flushed;	   /* applied, and safe on disk: the slot may move */
	XLogRecPtr read;	   /* the reader has read up to here */
	XLogRecPtr wal_end;	   /* there is WAL up to here */
	XLogRecPtr consistent; /* of a new slot, once it is there: where it begins */
	bool reports; /* remote: all that begins now in the tables will come */
	char source_db[NAMEDATALEN]; /* remote: its name; set before reports */
	TimestampTz read_time;
	bool stop;
	Latch *reader_latch;
	pid_t reader; /* 0: it has not started, or is gone */
	Latch *applier_latch;

	/* why the reader ended; to be read after the end of the stream only */
	bool slot_lost; /* the slot is gone, or what it kept: to be made anew */
	int error_code; /* 0: it was told to end, or terminated */
	char error[ETL_WAL_MAX_ERROR];
	char error_hint[ETL_WAL_MAX_ERROR];
} EtlWalControl;

/*
 * Shows others how far a reader is, while the process that applies may be busy;
 * called by readers, not too often.  NULL: nobody wants to see it.
 */
extern void (*etl_wal_show)(const EtlWalControl *control);

/* A table that the reader reports. */
typedef struct EtlWalTable
{
	const char *schema;
	const char *name;
	Oid relid; /* InvalidOid: another server */
} EtlWalTable;

/* ------------------------------------------------------------------ */
/* in wal_link.c: the pair of processes                                 */

typedef struct EtlWalLink EtlWalLink;

/*
 * Starts a reader of these tables (EtlWalTable); the link lives until it is
 * stopped.  What is in the queue wakes the latch of this process, as does the
 * end of the reader.
 */
extern EtlWalLink *etl_wal_link_start(const EtlWalControl *settings,
									  List *tables);
extern EtlWalControl *etl_wal_link_control(EtlWalLink *link);
extern EtlChangeReader *etl_wal_link_changes(EtlWalLink *link);
extern void etl_wal_link_flushed(EtlWalLink *link, XLogRecPtr position);
/* Is the reader gone?  There may be items still. */
extern bool etl_wal_link_has_ended(EtlWalLink *link);
/* After the end of the stream: throws why. */
pg_noreturn extern void etl_wal_link_throw(EtlWalLink *link);
/* The reader is gone when this returns, and the slot is free. */
extern void etl_wal_link_stop(EtlWalLink *link);

extern PGDLLEXPORT void etl_wal_reader_main(Datum main_arg);

/*
 * For readers: tell how far they are, and up to where all is applied and safe.
 * Does not come back if nobody wants changes any more.
 */
extern XLogRecPtr etl_wal_look(EtlWalControl *control, XLogRecPtr read,
							   XLogRecPtr wal_end, TimestampTz now);

/* ------------------------------------------------------------------ */
/* in wal_local.c and wal_remote.c: until told to stop; throw errors     */

extern void etl_wal_read_local(EtlWalControl *control, EtlChangeWriter *writer,
							   List *tables);
extern void etl_wal_read_remote(EtlWalControl *control, EtlChangeWriter *writer,
								List *tables);

/* Slots: created by the reader; dropped by whoever drops the pipeline. */
extern void etl_wal_check_local(void); /* wal_level, slots, preload */
extern void etl_wal_drop_local_slot(const char *slot_name);
extern void etl_wal_drop_remote_slot(const char *server, Oid role,
									 const char *slot_name);

#endif /* ETL_WAL_H */
