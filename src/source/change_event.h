/*-------------------------------------------------------------------------
 *
 * change_event.h
 *	  Changes of tables, as a stream of transactions in commit order.
 *
 * A reader process (wal_local.c decodes this server's WAL, wal_remote.c what
 * another server sends) writes the stream into a queue in shared memory; the
 * process that applies it takes item by item.  Both sides know no more of each
 * other than what is here, so that a new kind of source is one more writer.
 *
 * The stream is: for each transaction BEGIN, its changes in their order,
 * COMMIT.  Between transactions IDLE says that all up to a position has been
 * read and held nothing of interest.  Transactions without changes of
 * interest are left out.  Relations describe themselves before their first
 * change, and anew when they have changed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_CHANGE_EVENT_H
#define ETL_CHANGE_EVENT_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "storage/shm_mq.h"

/*
 * A source table as it was when a change was made.  Columns that are dropped
 * are left out, so that tuples of desc have no holes.  Of a partition it is
 * the topmost table.  Types are those of this database: what another server
 * calls by a number that means nothing here is text.
 */
typedef struct EtlSourceRelation
{
	uint32 number; /* in this stream; a new description has a new one */
	Oid relid;	   /* on the server of the source */
	char *schema;
	char *name;
	char identity; /* REPLICA_IDENTITY_* */
	TupleDesc desc;
	bool *is_key; /* columns of the replica identity; all with FULL */
} EtlSourceRelation;

typedef enum EtlEventKind
{
	ETL_EVENT_INSERT,
	ETL_EVENT_UPDATE,
	ETL_EVENT_DELETE,
	ETL_EVENT_TRUNCATE,
	ETL_EVENT_READ /* a row that was there when the pipeline began */
} EtlEventKind;

/*
 * What happened to rows without a change for each of them.  The event is a
 * TRUNCATE of the relation, which it is not: nothing but reading the table anew
 * gives its rows.
 */
typedef enum EtlEventObstacle
{
	ETL_OBSTACLE_NONE,
	ETL_OBSTACLE_PARTITION_TRUNCATED, /* relation is the whole table */
	ETL_OBSTACLE_REWRITTEN			  /* by ALTER TABLE: values may be others */
} EtlEventObstacle;

typedef struct EtlSourceXact
{
	TransactionId xid;
	XLogRecPtr commit_lsn;
	XLogRecPtr end_lsn; /* applied up to here means: this one, too; at the
						 * BEGIN of another server's: some position in it */
	TimestampTz commit_time;
} EtlSourceXact;

/* One change.  All of it lives until the next item is taken. */
typedef struct EtlChangeEvent
{
	EtlEventKind kind;
	const EtlSourceRelation *relation;
	XLogRecPtr lsn;	   /* of the change itself */
	int64 ordinal;	   /* in its transaction, from 1 */
	HeapTuple old_row; /* before it: whole, or the key only, or NULL */
	bool old_is_key;
	HeapTuple new_row;
	bool *unchanged; /* large values that were not logged: null in new_row; or
					  * NULL if there are none */
	bool cascade;	 /* truncate */
	bool restart_sequences;
	EtlEventObstacle obstacle;
} EtlChangeEvent;

typedef enum EtlStreamItem
{
	ETL_STREAM_NOTHING, /* for now; only if the caller does not wait */
	ETL_STREAM_BEGIN,
	ETL_STREAM_CHANGE,
	ETL_STREAM_COMMIT,
	ETL_STREAM_IDLE,
	ETL_STREAM_END /* the reader is gone */
} EtlStreamItem;

/* ------------------------------------------------------------------ */
/* in change_queue.c: the side that applies                             */

typedef struct EtlChangeReader EtlChangeReader;

extern EtlChangeReader *etl_change_reader_open(shm_mq_handle *queue);
extern EtlStreamItem etl_change_reader_next(EtlChangeReader *reader, bool wait);
extern const EtlSourceXact *etl_change_reader_xact(EtlChangeReader *reader);
extern const EtlChangeEvent *etl_change_reader_event(EtlChangeReader *reader);
extern XLogRecPtr etl_change_reader_position(EtlChangeReader *reader);
extern void etl_change_reader_close(EtlChangeReader *reader);

/* ------------------------------------------------------------------ */
/* in change_queue.c: the side that reads                               */

typedef struct EtlChangeWriter EtlChangeWriter;

/*
 * Items are gathered, and sent when there are enough of them or by flush; that
 * waits while the queue is full.  All of them may be called where nothing may
 * be written or read: they copy.  Each returns false if nobody takes items any
 * more.
 *
 * Rows are in the layout of their relation's desc.  Values out of line become
 * plain ones if they are in memory.  If they are on disk they were not logged:
 * then they, and those that the event says are unchanged, are taken from
 * old_row if it has them, else they are unchanged for the side that applies.
 */
extern EtlChangeWriter *etl_change_writer_open(shm_mq_handle *queue);
extern void etl_change_writer_on_full(EtlChangeWriter *writer,
									  void (*on_full)(void));
extern bool etl_change_write_relation(EtlChangeWriter *writer,
									  const EtlSourceRelation *relation);
extern bool etl_change_write_begin(EtlChangeWriter *writer,
								   const EtlSourceXact *xact);
extern bool etl_change_write_event(EtlChangeWriter *writer,
								   const EtlChangeEvent *event);
extern bool etl_change_write_commit(EtlChangeWriter *writer,
									const EtlSourceXact *xact);
extern bool etl_change_write_idle(EtlChangeWriter *writer, XLogRecPtr position);
extern bool etl_change_writer_flush(EtlChangeWriter *writer);
extern bool etl_change_writer_is_empty(EtlChangeWriter *writer);
extern void etl_change_writer_close(EtlChangeWriter *writer);

/* Messages go there, and not into a queue. */
extern void etl_change_writer_divert(EtlChangeWriter *writer,
									 void (*take)(void *arg, char *message,
												  Size size),
									 void *arg);
/* Sends what there is, and gives back the memory. */
extern bool etl_change_writer_rest(EtlChangeWriter *writer);

/* How the changes of diverted messages are written as those of a transaction. */
typedef struct EtlChangeCopy
{
	const EtlSourceXact *xact; /* begins before the first */
	bool (*is_wanted)(void *arg, uint32 number);
	void *arg;
	int64 ordinal; /* of the last one */
} EtlChangeCopy;

/* Their ordinal is the number that is asked for, and then the one that counts. */
extern bool etl_change_write_copy(EtlChangeWriter *writer, char *message,
								  Size size, EtlChangeCopy *copy);

#endif /* ETL_CHANGE_EVENT_H */
