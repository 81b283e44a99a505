/*-------------------------------------------------------------------------
 *
 * bulk_feed.c
 *	  The records of a file, as background workers send them.
 *
 * Records of one message are handed out, then the next message is taken; so a
 * fill is due with each.  Rows stay where they are in the message.  The raw
 * text of a row is read from the file again where it is wanted, if the file is
 * plain; else it came along.
 *
 * Where pieces are read, line numbers come from the start of the piece, and
 * are counted on here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "source/bulk_link.h"

/* After so many wrong predictions one worker reads the rest. */
#define MAX_RESTARTS 8

typedef struct BulkFeed
{
	EtlFeed base;
	EtlBulkWorkers *workers;
	EtlStream *stream;		   /* plain: raw text is read again from here */
	MemoryContext raw_context; /* of long records; reset by each fill */
	uint32 epoch;
	int64 row_no;
	int64 line_base; /* a line number of 1 means this one */
	bool ended;
	bool has_hash;
	uint8 sha256[ETL_SHA256_LEN];

	/* the message */
	EtlBulkMessage *message; /* NULL: none */
	const char *next_item;
	const char *end;
	int items_left;
	int64 file_bytes;
	EtlBulkDoubt doubt; /* of the last record */
	int sender;			/* of the last record */

	/* the pieces */
	int readers; /* so many workers read pieces; 0: one reads the file */
	int64 start;
	int64 size; /* of the file */
	int64 piece_size;
	int64 piece; /* the one that records come from */
	int64 npieces;
	int64 expected; /* where its first record begins, or that of a later one */
	bool alone;		/* one worker reads the rest */
	int restarts;
} BulkFeed;

static EtlCsvNext bulk_next(EtlFeed *base, EtlCsvRecord *record,
							EtlFeedRow *row);
static void bulk_fill(EtlFeed *base);
static bool bulk_resync(EtlFeed *base, EtlCsvRecord *record, int nfields);
static void bulk_recall(EtlFeed *base, EtlCsvRecord *record);
static int64 bulk_file_bytes(EtlFeed *base);
static void bulk_close(EtlFeed *base, uint8 *sha256);

static const EtlFeedOps bulk_ops = {
	.next = bulk_next,
	.fill = bulk_fill,
	.resync = bulk_resync,
	.recall = bulk_recall,
	.file_bytes = bulk_file_bytes,
	.close = bulk_close,
};

/* ------------------------------------------------------------------ */
/* beginning with a file                                                */

/* Tell the workers what to read. */
static void
send_read(BulkFeed *feed, const EtlBulkFile *file)
{
	EtlBulkRead read = {
		.command = {.kind = ETL_BULK_READ, .epoch = feed->epoch},
		.file = *file,
		.file_no = feed->epoch,
		.workers = feed->readers,
		.start = feed->start,
		.natts = file->desc->natts,
		.row_type = file->desc->tdtypeid,
		.row_typmod = file->desc->tdtypmod,
	};

	for (int i = 0; i < Max(feed->readers, 1); i++)
	{
		StringInfoData buf;

		read.worker = i;
		initStringInfo(&buf);
		etl_bulk_pack(&buf, &read);
		etl_bulk_send(feed->workers, i, buf.data, buf.len);
		pfree(buf.data);
	}
}

/*
 * Let the workers read a file.  The reader has read its header and nothing
 * else; the feed owns it and the stream.  The workers are those of one load,
 * which reads one file after the other.
 */
EtlFeed *
etl_bulk_feed_open(EtlBulkWorkers *workers, const EtlBulkFile *file,
				   EtlStream *stream, EtlCsvReader *reader)
{
	BulkFeed *feed = palloc0(sizeof(BulkFeed));

	feed->base.ops = &bulk_ops;
	feed->base.reader = reader;
	feed->workers = workers;
	feed->stream = stream;
	feed->raw_context = AllocSetContextCreate(CurrentMemoryContext,
											  "etl bulk raw text",
											  ALLOCSET_DEFAULT_SIZES);
	feed->epoch = etl_bulk_next_epoch(workers);
	feed->line_base = 1;
	feed->size = file->info.size_bytes;
	feed->piece_size = file->piece_size;
	if (etl_stream_is_plain(stream) && etl_csv_divide(reader, &feed->start))
	{
		feed->readers = etl_bulk_workers_count(workers);
		feed->line_base = etl_csv_line_no(reader);
		feed->expected = feed->start;
		feed->npieces = (feed->size - feed->start + feed->piece_size - 1) /
						feed->piece_size;
		feed->alone = feed->readers == 1 || feed->npieces <= 1;
		if (feed->alone)
			feed->readers = feed->npieces = 1;
		pg_atomic_write_u64(&etl_bulk_shared(workers)->hashed_by_load, 0);
		pg_atomic_write_u64(&etl_bulk_shared(workers)->hashed_by_worker, 0);
	}
	send_read(feed, file);
	return &feed->base;
}

/* ------------------------------------------------------------------ */
/* messages                                                             */

/* Note that a worker has done all. */
static void
take_done(BulkFeed *feed, const EtlBulkMessage *message)
{
	if (message->has_hash)
	{
		feed->has_hash = true;
		memcpy(feed->sha256, message->sha256, ETL_SHA256_LEN);
	}
}

/*
 * Go on with the hash, in place of waiting; but not beyond what was read, which
 * need not come from the disk again.
 */
static bool
hash_on(void *arg)
{
	BulkFeed *feed = arg;
	EtlBulkShared *shared = etl_bulk_shared(feed->workers);
	uint64 hashed = etl_stream_file_bytes(feed->stream);

	if (hashed >= (uint64) feed->file_bytes ||
		hashed + ETL_BULK_HASH_LEAD <
			pg_atomic_read_u64(&shared->hashed_by_worker))
		return false;
	etl_stream_hash_to(feed->stream, hashed + ETL_BULK_HASH_STEP);
	pg_atomic_write_u64(&shared->hashed_by_load,
						etl_stream_file_bytes(feed->stream));
	return true;
}

/* The next message of a worker that belongs to this epoch. */
static EtlBulkMessage *
receive(BulkFeed *feed, int worker)
{
	for (;;)
	{
		Size len;
		EtlBulkMessage *message = etl_bulk_receive(feed->workers, worker, &len,
												   feed->readers > 0 ? hash_on :
																	   NULL,
												   feed);

		if (message->epoch != feed->epoch)
			continue;
		if (message->kind == ETL_BULK_DONE)
			take_done(feed, message);
		else
		{
			feed->message = message;
			feed->next_item = (char *) message + ETL_BULK_ITEMS_OFFSET;
			feed->end = (char *) message + len;
			feed->items_left = message->nitems;
			feed->sender = worker;
			feed->file_bytes = message->file_bytes;
		}
		return message;
	}
}

/* The worker that reads the present piece. */
static int
piece_reader(const BulkFeed *feed)
{
	return feed->alone ? 0 : (int) (feed->piece % feed->readers);
}

/*
 * A piece was begun in the wrong place, and so were all after it: let them
 * start over.
 */
static void
restart(BulkFeed *feed)
{
	EtlBulkCommand command = {
		.kind = ETL_BULK_RESTART,
		.epoch = etl_bulk_next_epoch(feed->workers),
		.piece = feed->piece,
		.offset = feed->expected,
	};

	feed->epoch = command.epoch;
	feed->alone = command.alone = ++feed->restarts > MAX_RESTARTS;
	if (feed->alone)
		feed->npieces = feed->piece + 1;
	for (int i = 0; i < feed->readers; i++)
		etl_bulk_send(feed->workers, i, &command, sizeof(command));
}

/* Does a piece begin where the one before it has ended? */
static bool
is_expected(const BulkFeed *feed, const EtlBulkMessage *message)
{
	int64 end = feed->start + (feed->piece + 1) * feed->piece_size;

	if (feed->alone || feed->piece == feed->npieces - 1)
		end = feed->size;
	return message->first ==
		   (feed->expected < end ? feed->expected : INT64CONST(-1));
}

/* Go to the next piece; after the last one all workers have to be done. */
static void
end_piece(BulkFeed *feed)
{
	if (feed->message->first >= 0)
	{
		feed->expected = feed->message->end;
		feed->line_base += feed->message->lines;
	}
	feed->message = NULL;
	if (++feed->piece < feed->npieces)
		return;
	for (int i = 0; i < feed->readers; i++)
		while (receive(feed, i)->kind != ETL_BULK_DONE)
			elog(ERROR, "worker %d has read more than its pieces", i);
	feed->message = NULL;
	feed->ended = true;
}

/* The next message of the pieces with a record, or the end. */
static void
fill_from_pieces(BulkFeed *feed)
{
	while (!feed->ended)
	{
		EtlBulkMessage *message;

		if (feed->message != NULL && feed->message->is_last)
		{
			end_piece(feed);
			continue;
		}
		message = receive(feed, piece_reader(feed));
		if (message->kind != ETL_BULK_RECORDS)
			elog(ERROR, "worker %d has not read piece " INT64_FORMAT,
				 piece_reader(feed), feed->piece);
		if (message->is_first && !is_expected(feed, message))
		{
			feed->message = NULL;
			restart(feed);
		}
		else if (message->nitems > 0)
			return;
	}
}

static void
bulk_fill(EtlFeed *base)
{
	BulkFeed *feed = (BulkFeed *) base;

	MemoryContextReset(feed->raw_context);
	if (feed->readers > 0)
		fill_from_pieces(feed);
	else
		feed->ended = receive(feed, 0)->kind == ETL_BULK_DONE;
}

/* ------------------------------------------------------------------ */
/* records                                                              */

/* Tell the worker that waits for it what became of the last record. */
static void
send_verdict(BulkFeed *feed, bool rejected)
{
	EtlBulkCommand command = {
		.kind = ETL_BULK_VERDICT,
		.epoch = feed->epoch,
		.rejected = rejected,
	};

	feed->doubt.wants_verdict = false;
	etl_bulk_send(feed->workers, feed->sender, &command, sizeof(command));
}

/* So many bytes of the message; moves on behind them. */
static const void *
take_bytes(BulkFeed *feed, Size len)
{
	const char *place = feed->next_item;

	if (MAXALIGN(len) > (Size) (feed->end - place))
		elog(ERROR, "message of a worker is not well formed");
	feed->next_item += MAXALIGN(len);
	return place;
}

/* The raw text of a record, with what follows it, from the file. */
static const char *
read_raw(BulkFeed *feed, const EtlCsvRecord *record)
{
	Size len = record->raw_len + record->follows;
	char *raw = MemoryContextAllocHuge(CurrentMemoryContext, Max(len, 1));

	etl_stream_read_at(feed->stream, raw, len, record->byte_offset);
	return raw;
}

/* The raw text of a record that needs it and did not bring it along. */
static void
fetch_raw(BulkFeed *feed, EtlCsvRecord *record, bool raw_next)
{
	MemoryContext old_context = MemoryContextSwitchTo(feed->raw_context);

	if (!raw_next)
		record->raw = read_raw(feed, record);
	else
	{
		record->raw = etl_bulk_receive_text(feed->workers, feed->sender,
											record->raw_len + record->follows);
		feed->message = NULL;
	}
	MemoryContextSwitchTo(old_context);
}

static EtlCsvNext
bulk_next(EtlFeed *base, EtlCsvRecord *record, EtlFeedRow *row)
{
	BulkFeed *feed = (BulkFeed *) base;
	EtlBulkItem item;

	if (feed->doubt.wants_verdict)
		send_verdict(feed, false);
	if (feed->items_left == 0)
		return feed->ended ? ETL_CSV_END : ETL_CSV_NEED_FILL;

	feed->items_left--;
	memcpy(&item, take_bytes(feed, sizeof(item)), sizeof(item));
	record->raw = NULL;
	record->raw_len = item.raw_len;
	record->line_no = feed->line_base + feed->message->line_no + item.line_no -
					  1;
	record->row_no = ++feed->row_no;
	record->byte_offset = feed->message->offset + item.offset;
	record->flags = item.flags;
	record->follows = item.follows;
	if (item.has_doubt)
		memcpy(&feed->doubt, take_bytes(feed, sizeof(EtlBulkDoubt)),
			   sizeof(EtlBulkDoubt));
	row->len = item.tuple_len;
	if (item.tuple_len > 0)
		row->tuple = (HeapTupleHeader) unconstify(void *,
												  take_bytes(feed,
															 item.tuple_len));
	if (item.has_raw)
		record->raw = take_bytes(feed, item.raw_len + item.follows);
	if (item.tuple_len > 0)
		return ETL_CSV_ROW;

	record->bad_cr = feed->doubt.bad_cr;
	if (record->raw == NULL)
		fetch_raw(feed, record, item.raw_next);
	return ETL_CSV_RECORD;
}

/* The worker has made the search already. */
static bool
bulk_resync(EtlFeed *base, EtlCsvRecord *record,
			int nfields pg_attribute_unused())
{
	BulkFeed *feed = (BulkFeed *) base;

	if (!feed->doubt.wants_verdict)
		return false;
	record->raw_len = feed->doubt.cut_len;
	record->flags = feed->doubt.cut_flags;
	record->follows = feed->doubt.cut_follows;
	send_verdict(feed, true);
	return true;
}

static void
bulk_recall(EtlFeed *base, EtlCsvRecord *record)
{
	if (record->raw == NULL)
		record->raw = read_raw((BulkFeed *) base, record);
}

/* ------------------------------------------------------------------ */
/* the end                                                              */

static int64
bulk_file_bytes(EtlFeed *base)
{
	return ((BulkFeed *) base)->file_bytes;
}

static void
bulk_close(EtlFeed *base, uint8 *sha256)
{
	BulkFeed *feed = (BulkFeed *) base;

	if (!feed->has_hash && feed->readers == 0)
		elog(ERROR, "workers have not computed the hash of a file");
	etl_csv_close(feed->base.reader);

	/* A worker that had the hash may have been done before the others. */
	if (feed->has_hash)
		etl_stream_check(feed->stream);
	etl_stream_close(feed->stream, feed->has_hash ? NULL : sha256);
	if (feed->has_hash)
		memcpy(sha256, feed->sha256, ETL_SHA256_LEN);
}
