/*-------------------------------------------------------------------------
 *
 * wal_spool.c
 *	  Changes of transactions that are too large to be decoded at once.
 *
 * What the decoder may not keep in memory (logical_decoding_work_mem) it writes
 * to disk change by change, and reads it again, with a system call for each.
 * Or it hands over what it has of a transaction that has not ended, which is
 * several times as fast: such changes are kept here in the form of the queue,
 * in a temporary file, until the transaction commits.  Then they are sent.
 *
 * Changes of savepoints that were rolled back must not be: each is kept with
 * the number of its subtransaction, and those numbers are remembered.
 *
 * Invariants:
 *	- The catalogs are looked at before a change is kept, never while it is: an
 *	  error from there means that the transaction has been rolled back
 *	  meanwhile, and is caught by the decoder.
 *	- Files are not of a resource owner, since the decoder's transactions end
 *	  between two pieces; they go with the spool, or the process.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/buffile.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "source/wal_private.h"

/* Messages are no larger, unless a single row is. */
#define MESSAGE_ROOM (256 * 1024)

struct EtlWalSpool
{
	MemoryContext context; /* holds all of this */
	EtlChangeWriter *writer;
	BufFile *file; /* NULL: nothing is kept */
	HTAB *aborted; /* subtransactions, or NULL */
};

static void keep_message(void *arg, char *message, Size size);
static bool read_file(BufFile *file, void *to, Size size, bool may_end);
static bool is_wanted(void *arg, uint32 xid);

/* So that no catalog is asked for where files may be. */
void
etl_wal_spool_init(void)
{
	SetConfigOption("temp_tablespaces", "", PGC_SUSET, PGC_S_SESSION);
	/* the decoder's own files know no limit either */
	SetConfigOption("temp_file_limit", "-1", PGC_SUSET, PGC_S_SESSION);
}

/* A spool of one transaction, until it is closed. */
EtlWalSpool *
etl_wal_spool_open(MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "etl_patterns spool",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EtlWalSpool *spool = palloc0(sizeof(EtlWalSpool));

	spool->context = context;
	spool->writer = etl_change_writer_open(NULL);
	etl_change_writer_divert(spool->writer, keep_message, spool);
	MemoryContextSwitchTo(old);
	return spool;
}

/* Where changes are kept; their ordinal is that of the subtransaction. */
EtlChangeWriter *
etl_wal_spool_writer(EtlWalSpool *spool)
{
	return spool->writer;
}

/* A message is complete. */
static void
keep_message(void *arg, char *message, Size size)
{
	EtlWalSpool *spool = arg;
	MemoryContext old = MemoryContextSwitchTo(spool->context);

	if (spool->file == NULL)
		spool->file = BufFileCreateTemp(true);
	BufFileWrite(spool->file, &size, sizeof(size));
	BufFileWrite(spool->file, message, size);
	MemoryContextSwitchTo(old);
}

/* Changes of this subtransaction are not wanted. */
void
etl_wal_spool_abort(EtlWalSpool *spool, TransactionId xid)
{
	if (spool->aborted == NULL)
	{
		HASHCTL ctl = {0};

		ctl.keysize = sizeof(TransactionId);
		ctl.entrysize = sizeof(TransactionId);
		ctl.hcxt = spool->context;
		spool->aborted = hash_create("rolled back subtransactions", 64, &ctl,
									 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	(void) hash_search(spool->aborted, &xid, HASH_ENTER, NULL);
}

static bool
is_wanted(void *arg, uint32 xid)
{
	EtlWalSpool *spool = arg;

	return spool->aborted == NULL ||
		   hash_search(spool->aborted, &xid, HASH_FIND, NULL) == NULL;
}

/*
 * Send all that is kept as the changes of a transaction.  Returns false if
 * nobody takes them any more; sent says whether there was anything.
 */
bool
etl_wal_spool_send(EtlWalSpool *spool, EtlChangeWriter *queue,
				   const EtlSourceXact *xact, bool *sent)
{
	EtlChangeCopy copy = {.xact = xact, .is_wanted = is_wanted, .arg = spool};
	bool taken = true;
	char *message = NULL;
	Size room = 0;
	Size size;

	*sent = false;
	(void) etl_change_writer_flush(spool->writer);
	if (spool->file == NULL)
		return true;
	if (BufFileSeek(spool->file, 0, 0, SEEK_SET) != 0)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not rewind a temporary file of changes")));
	while (taken && read_file(spool->file, &size, sizeof(size), true))
	{
		CHECK_FOR_INTERRUPTS();
		if (size > room)
		{
			if (message != NULL)
				pfree(message);
			room = Max(size, MESSAGE_ROOM);
			message = MemoryContextAllocHuge(spool->context, room);
		}
		(void) read_file(spool->file, message, size, false);
		taken = etl_change_write_copy(queue, message, size, &copy);
	}
	*sent = copy.ordinal > 0;
	return taken && (!*sent || etl_change_write_commit(queue, xact));
}

/* Read so many bytes; false at the end. */
static bool
read_file(BufFile *file, void *to, Size size, bool may_end)
{
	Size got = BufFileRead(file, to, size);

	if (got == 0 && may_end)
		return false;
	if (got != size)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read from temporary file: read only %zu of %zu bytes",
						got, size)));
	return true;
}

void
etl_wal_spool_close(EtlWalSpool *spool)
{
	if (spool->file != NULL)
		BufFileClose(spool->file);
	MemoryContextDelete(spool->context);
}
