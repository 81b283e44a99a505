/*-------------------------------------------------------------------------
 *
 * bulk_link.h
 *	  What a load and its workers tell each other; private to bulk_*.c.
 *
 * One segment of dynamic shared memory holds what all workers share and, for
 * each of them, a queue of commands to it and a queue of messages from it.  When
 * either side is gone, or gives up the segment, the queues end for the other,
 * which then ends, too: nobody waits for anything but a queue.
 *
 * Commands to a worker that is at work are small, and few of them are ever
 * underway, so that the load never waits for a worker that waits for the load.
 *
 * A plain file is cut into pieces of the same size, and piece k goes to worker
 * k modulo their number.  The records of a piece are those that begin in it.
 * Where the first one begins follows from the parity of the quotes before it
 * (csv_part.c), so that workers are ahead of the load without asking it.  The
 * load compares with where the records of the piece before did end.  If the
 * two differ, because of a broken quote, all that is ahead is void: the load
 * begins another epoch, in which the pieces start over from the true place.
 *
 * The hash of a plain file is computed by whoever would wait otherwise: the load,
 * while no message is there, or worker 0, while its queue is full.  Each has its
 * own, as far as it comes; in the end the one that is ahead completes it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_BULK_LINK_H
#define ETL_BULK_LINK_H

#include "source/bulk_workers.h"

#include "pgtime.h"
#include "port/atomics.h"
#include "postmaster/bgworker.h"
#include "storage/dsm.h"
#include "storage/shm_mq.h"

/* The segment; the queues of worker i have the keys 2 + 2 * i, 3 + 2 * i. */
#define ETL_BULK_MAGIC		  0x65746c62
#define ETL_BULK_KEY_SHARED	  1
#define ETL_BULK_KEY_COMMANDS 2
#define ETL_BULK_KEY_MESSAGES 3

#define ETL_BULK_COMMANDS_SIZE (16 * 1024)
#define ETL_BULK_MESSAGES_SIZE (2 * 1024 * 1024)

/* A message is sent when it has grown to this. */
#define ETL_BULK_MESSAGE_FULL (128 * 1024)

/* Longer records are left to the load, and so are rows that need more room. */
#define ETL_BULK_MAX_INLINE (256 * 1024)

/* The parities of so many pieces are known to all. */
#define ETL_BULK_PARITIES 4096

/* The hash goes on in steps of so many bytes, unless the other is far ahead. */
#define ETL_BULK_HASH_STEP (256 * 1024)
#define ETL_BULK_HASH_LEAD (4 * 1024 * 1024)

typedef struct EtlBulkShared
{
	/* so many bytes of the present file are hashed */
	pg_atomic_uint64 hashed_by_load;
	pg_atomic_uint64 hashed_by_worker;

	int encoding; /* of the database */
	char timezone[TZ_STRLEN_MAX + 1];
	char abbreviations[MAXPGPATH];

	/* file << 32 | (piece + 1) << 1 | parity, at piece modulo their number */
	pg_atomic_uint64 parities[ETL_BULK_PARITIES];
} EtlBulkShared;

/* ------------------------------------------------------------------ */
/* to a worker                                                          */

typedef enum EtlBulkCommandKind
{
	ETL_BULK_READ = 1, /* a file: EtlBulkRead follows */
	ETL_BULK_RESTART,  /* pieces start over */
	ETL_BULK_VERDICT   /* on the record that was sent last */
} EtlBulkCommandKind;

typedef struct EtlBulkCommand
{
	uint32 kind;
	uint32 epoch;
	int64 piece;   /* RESTART: the first that is to be read again */
	int64 offset;  /* RESTART: where the next record begins */
	bool alone;	   /* RESTART: worker 0 reads the whole rest */
	bool rejected; /* VERDICT */
} EtlBulkCommand;

/* What READ says; see bulk_pack.c for what follows. */
typedef struct EtlBulkRead
{
	EtlBulkCommand command;
	EtlBulkFile file; /* without what it points to */
	uint32 file_no;
	int worker;	 /* the number of this one */
	int workers; /* so many read pieces; 0: this one reads the whole file */
	int64 start; /* of the first piece */
	int natts;
	Oid row_type;
	int32 row_typmod;
} EtlBulkRead;

/* ------------------------------------------------------------------ */
/* from a worker                                                        */

typedef enum EtlBulkMessageKind
{
	ETL_BULK_RECORDS = 1,
	ETL_BULK_DONE,	/* with all pieces, or the file */
	ETL_BULK_FAILED /* three strings follow: message, detail, hint */
} EtlBulkMessageKind;

typedef struct EtlBulkMessage
{
	uint32 kind;
	uint32 epoch;
	int64 offset; /* what the items' are counted from */
	int64 line_no;
	int64 file_bytes; /* read so far, as stored */
	int32 nitems;

	/* RECORDS of pieces */
	bool is_first; /* of its piece */
	bool is_last;
	int64 piece;
	int64 first; /* where its first record begins; -1: none does */
	int64 end;	 /* is_last: where the next record begins */
	int64 lines; /* is_last: that end in the piece's records */

	/* DONE */
	bool has_hash;
	uint8 sha256[ETL_SHA256_LEN];

	/* FAILED */
	int error_code;
} EtlBulkMessage;

#define ETL_BULK_ITEMS_OFFSET MAXALIGN(sizeof(EtlBulkMessage))

/*
 * A record.  Behind it, each MAXALIGNed: EtlBulkDoubt, if the worker is in
 * doubt; its tuple, if it has one; its raw text and what follows that in the
 * file, if it is here.
 */
typedef struct EtlBulkItem
{
	uint32 offset;
	uint32 line_no;
	uint32 raw_len;
	uint32 tuple_len; /* 0: there is none */
	uint32 flags;	  /* of EtlCsvRecord */
	uint8 follows;
	bool has_doubt;
	bool has_raw;  /* the raw text is here */
	bool raw_next; /* the raw text comes next, without a message's head */
} EtlBulkItem;

#define ETL_BULK_ITEM_SIZE MAXALIGN(sizeof(EtlBulkItem))

/* What else there is to say of a record that is sent raw. */
typedef struct EtlBulkDoubt
{
	uint32 bad_cr;
	bool wants_verdict; /* what follows depends on whether it is rejected */
	uint8 cut_follows;	/* what is left of it then */
	uint32 cut_len;
	uint32 cut_flags;
} EtlBulkDoubt;

#define ETL_BULK_DOUBT_SIZE MAXALIGN(sizeof(EtlBulkDoubt))

/* Something to do instead of waiting; false if there is nothing (more). */
typedef bool (*EtlBulkIdleCall)(void *arg);

/* in bulk_pack.c */
extern void etl_bulk_pack(StringInfo buf, const EtlBulkRead *read);
extern EtlBulkRead *etl_bulk_unpack(const char *data, Size len);

/* in bulk_workers.c */
extern void etl_bulk_send(EtlBulkWorkers *workers, int worker,
						  const void *command, Size len);
extern EtlBulkMessage *etl_bulk_receive(EtlBulkWorkers *workers, int worker,
										Size *len, EtlBulkIdleCall idle,
										void *arg);
extern EtlBulkShared *etl_bulk_shared(EtlBulkWorkers *workers);
extern const char *etl_bulk_receive_text(EtlBulkWorkers *workers, int worker,
										 Size wanted);
extern uint32 etl_bulk_next_epoch(EtlBulkWorkers *workers);

#endif /* ETL_BULK_LINK_H */
