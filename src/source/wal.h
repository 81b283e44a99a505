/*-------------------------------------------------------------------------
 *
 * wal.h
 *	  The processes that read changes, and what they and the process that
 *	  applies them tell each other.
 *
 * One segment of dynamic shared memory holds this and the queue.  The process
 * that applies makes it and starts the reader; when either is gone the other
 * ends, too, and the next pair begins where the last commit said.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_WAL_H
#define ETL_WAL_H

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
	XLogRecPtr start;	 /* what ends before this was applied */
	bool all_tables_yet; /* unused */

	slock_t mutex;
	XLogRecPtr flushed;	   /* applied, and safe on disk: the slot may move */
	XLogRecPtr read;	   /* the reader has read up to here */
	XLogRecPtr wal_end;	   /* there is WAL up to here */
	XLogRecPtr consistent; /* of a new slot: where it begins */
	TimestampTz read_time;
	bool relations_changed; /* the reader is to read its tables anew */
	bool stop;
	Latch *reader_latch;
	Latch *applier_latch;
	int error_code;
	char error[ETL_WAL_MAX_ERROR]; /* why the reader ended */
} EtlWalControl;

/* A table that the reader reports. */
typedef struct EtlWalTable
{
	const char *schema;
	const char *name;
	Oid relid; /* here: of the topmost table; InvalidOid: another server */
} EtlWalTable;

/* ------------------------------------------------------------------ */
/* in wal_link.c: the pair of processes                                 */

typedef struct EtlWalLink EtlWalLink;

extern EtlWalLink *etl_wal_link_start(const EtlWalControl *settings);
extern EtlWalControl *etl_wal_link_control(EtlWalLink *link);
extern EtlChangeReader *etl_wal_link_changes(EtlWalLink *link);
extern void etl_wal_link_flushed(EtlWalLink *link, XLogRecPtr position);
extern void etl_wal_link_stop(EtlWalLink *link);

extern PGDLLEXPORT void etl_wal_reader_main(Datum main_arg);

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
