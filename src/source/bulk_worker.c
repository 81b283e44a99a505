/*-------------------------------------------------------------------------
 *
 * bulk_worker.c
 *	  A background worker of a load: reads, splits and converts.
 *
 * It has shared memory and no database, so that it looks at no catalog and
 * runs no code of users.  Each record that is beyond doubt becomes the bytes of
 * its tuple (row_form.c); every other one is sent raw, for the load to decide.
 * What the load decides matters here in one case only: a record that has
 * swallowed others because of a broken quote is cut back if it is rejected.
 * Where the load may find either, the worker waits for its verdict.
 *
 * Who waits for what: see bulk_link.h.  An error ends the worker; the load gets
 * it, in its place among the messages, and throws it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/htup_details.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shm_toc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "source/bulk_link.h"
#include "source/row_form.h"

/* Quotes are counted in steps of so many bytes. */
#define COUNT_STEP (64 * 1024)

typedef struct BulkWorker
{
	EtlBulkShared *shared;
	shm_mq_handle *commands;
	shm_mq_handle *messages;
	MemoryContext file_context;
	uint32 epoch;

	/* the file */
	EtlBulkRead *read; /* NULL: none */
	EtlStream *stream; /* what the reader reads */
	EtlStream *hashed; /* computes the hash; may be the same; or NULL */
	EtlCsvReader *reader;
	EtlRowForm *form;
	bool is_done; /* nothing is left to be read */
	bool has_hash;
	uint8 sha256[ETL_SHA256_LEN];

	/* its pieces */
	int64 piece; /* the next one of this worker */
	int64 npieces;
	bool alone;		/* the next one is the whole rest of the file */
	int64 restart;	/* here a record begins */
	int64 counted;	/* quotes from there on are counted up to here */
	bool in_quote;	/* and this is what comes of it */
	bool restarted; /* what is being read is void */

	/* the message that is being put together */
	char *buffer;
	Size size;
	Size used;
	bool was_sent;	 /* one was, since the last look at the commands */
	bool is_sending; /* a part of one may be in the queue */
	bool is_first;	 /* of its piece */
	int64 first;
	char *count_buffer;
} BulkWorker;

static void attach(BulkWorker *worker, Datum main_arg);
static void take_settings(const EtlBulkShared *shared);
static void serve(BulkWorker *worker);
static void take_command(BulkWorker *worker, bool wait);
static void look_for_restart(BulkWorker *worker);
static void close_file(BulkWorker *worker);
static void open_file(BulkWorker *worker, EtlBulkRead *read);
static void restart_pieces(BulkWorker *worker, const EtlBulkCommand *command);
static void read_on(BulkWorker *worker);
static void read_piece(BulkWorker *worker);
static int64 find_first(BulkWorker *worker, int64 start, int64 end);
static void count_quotes(BulkWorker *worker, int64 start);
static bool piece_parity(BulkWorker *worker, int64 piece);
static bool parity_of(BulkWorker *worker, int64 from, int64 to);
static void read_records(BulkWorker *worker, int64 end);
static void add_record(BulkWorker *worker, EtlCsvRecord *record);
static bool add_row(BulkWorker *worker, const EtlCsvRecord *record,
					const EtlField *fields, int nfields);
static void add_raw(BulkWorker *worker, const EtlCsvRecord *record,
					const EtlCsvRecord *cut);
static void done(BulkWorker *worker);
static void send_message(BulkWorker *worker);
static void send_bytes(BulkWorker *worker, const void *data, Size len);
static void send_error(BulkWorker *worker, const ErrorData *error);

/* ------------------------------------------------------------------ */
/* the process                                                          */

/* The main function; its argument is the segment. */
void
etl_bulk_worker_main(Datum main_arg)
{
	BulkWorker *worker;

	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	CurrentResourceOwner = ResourceOwnerCreate(NULL, "etl bulk worker");
	CurrentMemoryContext = AllocSetContextCreate(TopMemoryContext,
												 "etl bulk worker",
												 ALLOCSET_DEFAULT_SIZES);

	worker = palloc0(sizeof(BulkWorker));
	attach(worker, main_arg);
	worker->file_context = AllocSetContextCreate(CurrentMemoryContext,
												 "etl bulk file",
												 ALLOCSET_DEFAULT_SIZES);
	worker->size = ETL_BULK_MESSAGE_FULL + 2 * ETL_BULK_MAX_INLINE + 1024;
	worker->buffer = palloc(worker->size);
	worker->count_buffer = palloc(COUNT_STEP);
	PG_TRY();
	{
		take_settings(worker->shared);
		serve(worker);
	}
	PG_CATCH();
	{
		ErrorData *error;

		if (worker->is_sending)
			PG_RE_THROW(); /* nothing but the rest of it can be sent */
		MemoryContextSwitchTo(worker->file_context);
		error = CopyErrorData();
		FlushErrorState();
		if (worker->used > ETL_BULK_ITEMS_OFFSET)
			send_message(worker); /* what was read before comes first */
		send_error(worker, error);
	}
	PG_END_TRY();
	proc_exit(0);
}

/* Map the segment and take this worker's ends of its queues. */
static void
attach(BulkWorker *worker, Datum main_arg)
{
	dsm_segment *segment = dsm_attach(DatumGetUInt32(main_arg));
	shm_toc *toc;
	shm_mq *commands;
	shm_mq *messages;
	int number;

	if (segment == NULL)
		proc_exit(0); /* the load is over */
	dsm_pin_mapping(segment);
	toc = shm_toc_attach(ETL_BULK_MAGIC, dsm_segment_address(segment));
	if (toc == NULL)
		elog(ERROR, "segment of a load has no magic number");
	memcpy(&number, MyBgworkerEntry->bgw_extra, sizeof(number));
	worker->shared = shm_toc_lookup(toc, ETL_BULK_KEY_SHARED, false);
	commands = shm_toc_lookup(toc, ETL_BULK_KEY_COMMANDS + 2 * number, false);
	messages = shm_toc_lookup(toc, ETL_BULK_KEY_MESSAGES + 2 * number, false);
	shm_mq_set_receiver(commands, MyProc);
	shm_mq_set_sender(messages, MyProc);
	worker->commands = shm_mq_attach(commands, segment, NULL);
	worker->messages = shm_mq_attach(messages, segment, NULL);
}

/* What converters ask of a session, as it is in that of the load. */
static void
take_settings(const EtlBulkShared *shared)
{
	SetDatabaseEncoding(shared->encoding);
	SetConfigOption("timezone", shared->timezone, PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("timezone_abbreviations", shared->abbreviations,
					PGC_USERSET, PGC_S_OVERRIDE);
}

/* Do what the load says until it says no more. */
static void
serve(BulkWorker *worker)
{
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (worker->read == NULL || worker->is_done)
			take_command(worker, true);
		else
		{
			look_for_restart(worker);
			read_on(worker);
		}
	}
}

/* Take a command, if there is one or we are to wait.  May end the process. */
static void
take_command(BulkWorker *worker, bool wait)
{
	Size len;
	void *data;
	EtlBulkCommand *command;

	switch (shm_mq_receive(worker->commands, &len, &data, !wait))
	{
		case SHM_MQ_WOULD_BLOCK:
			return;
		case SHM_MQ_DETACHED:
			proc_exit(0);
		case SHM_MQ_SUCCESS:
			break;
	}
	command = data;
	switch (command->kind)
	{
		case ETL_BULK_READ:
			close_file(worker);
			MemoryContextReset(worker->file_context);
			MemoryContextSwitchTo(worker->file_context);
			open_file(worker, etl_bulk_unpack(data, len));
			break;
		case ETL_BULK_RESTART:
			restart_pieces(worker, command);
			break;
		default:
			elog(ERROR, "command of kind %u to a worker of a load",
				 command->kind);
	}
}

/* Those who read pieces look whether they should go on, now and then. */
static void
look_for_restart(BulkWorker *worker)
{
	if (worker->was_sent && worker->read->workers > 0)
		take_command(worker, false);
	worker->was_sent = false;
}

/* ------------------------------------------------------------------ */
/* the file                                                             */

/* Close what is open of a file; its memory goes with its context. */
static void
close_file(BulkWorker *worker)
{
	if (worker->stream != NULL && worker->stream != worker->hashed)
		etl_stream_close(worker->stream, NULL);
	if (worker->hashed != NULL)
		etl_stream_close(worker->hashed, NULL);
	worker->stream = worker->hashed = NULL;
	worker->reader = NULL;
	worker->read = NULL;
}

/* Begin with a file. */
static void
open_file(BulkWorker *worker, EtlBulkRead *read)
{
	const EtlBulkFile *file = &read->file;

	worker->read = read;
	worker->epoch = read->command.epoch;
	worker->is_done = worker->has_hash = worker->restarted = false;
	worker->alone = false;
	worker->used = 0;
	worker->form = etl_row_form_create(file->desc, file->attnums, file->nfields,
									   file->values, file->isnull);
	if (worker->form == NULL)
		elog(ERROR, "rows cannot be formed in a worker");
	if (read->workers == 0)
	{
		EtlCsvRecord record;
		EtlCsvNext next;

		worker->hashed = etl_stream_open_file(&file->info, file->compression);
		worker->stream = worker->hashed;
		worker->reader = etl_csv_open(worker->stream, &file->dialect,
									  file->skip_lines);
		if (!file->has_header)
			return;
		while ((next = etl_csv_next(worker->reader, &record)) ==
			   ETL_CSV_NEED_FILL)
			etl_csv_fill(worker->reader);
		etl_csv_header_done(worker->reader);
		return;
	}

	worker->stream = etl_stream_open_part(&file->info);
	worker->hashed = read->worker > 0 ?
						 NULL :
						 etl_stream_open_file(&file->info, ETL_COMPRESSION_NONE);
	worker->reader = etl_csv_open_part(worker->stream, &file->dialect);
	worker->piece = read->worker;
	worker->npieces = (file->info.size_bytes - read->start + file->piece_size -
					   1) /
					  file->piece_size;
	worker->alone = read->workers == 1;
	if (worker->alone)
		worker->npieces = 1;
	worker->restart = worker->counted = read->start;
	worker->in_quote = false;
}

/* Pieces from a given one on start over: what is underway is void. */
static void
restart_pieces(BulkWorker *worker, const EtlBulkCommand *command)
{
	int number = worker->read->worker;
	int workers = worker->read->workers;

	worker->epoch = command->epoch;
	worker->restarted = true;
	worker->is_done = false;
	worker->used = 0;
	worker->restart = worker->counted = command->offset;
	worker->in_quote = false;
	worker->alone = command->alone;
	worker->piece = command->piece;
	if (command->alone)
		worker->npieces = number == 0 ? command->piece + 1 : 0;
	else
		while (worker->piece % workers != number)
			worker->piece++;
}

/* Do the next piece of work, and if none is left say so. */
static void
read_on(BulkWorker *worker)
{
	worker->restarted = false;
	if (worker->read->workers == 0)
	{
		read_records(worker, PG_INT64_MAX);
		send_message(worker);
		done(worker);
	}
	else if (worker->piece < worker->npieces)
		read_piece(worker);
	else
		done(worker);
}

/* Where a piece begins; or ends, if it is the one before. */
static int64
piece_start(const BulkWorker *worker, int64 piece)
{
	const EtlBulkRead *read = worker->read;
	int64 size = read->file.info.size_bytes;

	if (piece >= (size - read->start) / read->file.piece_size + 1)
		return size;
	return Min(read->start + piece * read->file.piece_size, size);
}

/* Read the records that begin in the next piece. */
static void
read_piece(BulkWorker *worker)
{
	int64 start = piece_start(worker, worker->piece);
	int64 end = worker->alone ? PG_INT64_MAX :
								piece_start(worker, worker->piece + 1);
	EtlBulkMessage *message;

	worker->is_first = true;
	worker->first = find_first(worker, start, end);
	if (worker->first >= 0)
	{
		etl_csv_move_to(worker->reader, worker->first);
		read_records(worker, end);
		if (worker->restarted)
			return;
	}
	if (worker->used == 0)
		worker->used = ETL_BULK_ITEMS_OFFSET;
	message = (EtlBulkMessage *) worker->buffer;
	if (worker->used == ETL_BULK_ITEMS_OFFSET)
		memset(message, 0, sizeof(EtlBulkMessage));
	message->is_last = true;
	if (worker->first >= 0)
	{
		message->end = etl_csv_offset(worker->reader);
		message->lines = etl_csv_line_no(worker->reader) - 1;
	}
	worker->piece += worker->alone ? 1 : worker->read->workers;
	send_message(worker);
}

/* ------------------------------------------------------------------ */
/* where the records of a piece begin                                   */

/* The first record that begins in [start, end); -1 if none does. */
static int64
find_first(BulkWorker *worker, int64 start, int64 end)
{
	char quote = worker->read->file.dialect.quote;
	char before;
	int64 place;
	bool in_quote;

	if (worker->restart >= end)
		return -1;
	if (worker->restart >= start)
		return worker->restart < worker->read->file.info.size_bytes ?
				   worker->restart :
				   -1;

	(void) piece_parity(worker, worker->piece); /* for the others */
	count_quotes(worker, start);
	etl_stream_read_at(worker->stream, &before, 1, start - 1);
	if (!worker->in_quote && before == '\n')
		return start;
	in_quote = worker->in_quote;
	for (place = start; place < end; place += COUNT_STEP)
	{
		Size len = (Size) Min(end - place, COUNT_STEP);
		Size found;

		CHECK_FOR_INTERRUPTS();
		etl_stream_read_at(worker->stream, worker->count_buffer, len, place);
		found = etl_csv_line_start(worker->count_buffer, len, quote, &in_quote);
		if (found <= len)
		{
			place += (int64) found;
			return place < end ? place : -1;
		}
	}
	return -1;
}

/* Count quotes from where a record is known to begin up to a piece. */
static void
count_quotes(BulkWorker *worker, int64 start)
{
	const EtlBulkRead *read = worker->read;
	int64 size = read->file.piece_size;

	while (worker->counted < start)
	{
		int64 piece = (worker->counted - read->start) / size;
		int64 next = read->start + (piece + 1) * size;

		CHECK_FOR_INTERRUPTS();
		if (worker->counted + size == next)
			worker->in_quote ^= piece_parity(worker, piece);
		else
			worker->in_quote ^= parity_of(worker, worker->counted, next);
		worker->counted = next;
	}
}

/* Is the number of quotes in a piece odd?  Each is counted once, by anyone. */
static bool
piece_parity(BulkWorker *worker, int64 piece)
{
	pg_atomic_uint64 *known = &worker->shared->parities[piece % ETL_BULK_PARITIES];
	uint64 tag = ((uint64) worker->read->file_no << 32) |
				 ((uint64) ((piece + 1) & PG_INT32_MAX) << 1);
	uint64 value = pg_atomic_read_u64(known);
	bool parity;

	if ((value & ~UINT64CONST(1)) == tag)
		return (value & 1) != 0;
	parity = parity_of(worker, piece_start(worker, piece),
					   piece_start(worker, piece + 1));
	pg_atomic_write_u64(known, tag | (parity ? 1 : 0));
	return parity;
}

/* Is the number of quotes in [from, to) of the file odd? */
static bool
parity_of(BulkWorker *worker, int64 from, int64 to)
{
	bool parity = false;

	while (from < to)
	{
		Size len = (Size) Min(to - from, COUNT_STEP);

		etl_stream_read_at(worker->stream, worker->count_buffer, len, from);
		parity ^= etl_csv_quote_parity(worker->count_buffer, len,
									   worker->read->file.dialect.quote);
		from += (int64) len;
	}
	return parity;
}

/* ------------------------------------------------------------------ */
/* records                                                              */

/* Read the records that begin before end; what they become is being sent. */
static void
read_records(BulkWorker *worker, int64 end)
{
	EtlCsvReader *reader = worker->reader;
	EtlCsvRecord record;

	while (!worker->restarted && etl_csv_offset(reader) < end)
	{
		CHECK_FOR_INTERRUPTS();
		if (worker->was_sent)
		{
			look_for_restart(worker);
			continue;
		}
		switch (etl_csv_next(reader, &record))
		{
			case ETL_CSV_RECORD:
				add_record(worker, &record);
				break;
			case ETL_CSV_NEED_FILL:
				etl_csv_fill(reader);
				break;
			default:
				return;
		}
	}
}

/* Add a record to the message, and if need be ask what the load makes of it. */
static void
add_record(BulkWorker *worker, EtlCsvRecord *record)
{
	const EtlBulkFile *file = &worker->read->file;
	bool may_pass = true;
	EtlCsvRecord cut = *record;
	EtlCsvPlace place;
	EtlReject reject;
	EtlField *fields;
	int nfields;

	if (record->raw_len <= ETL_BULK_MAX_INLINE)
	{
		may_pass = etl_csv_split(worker->reader, record, &fields, &nfields,
								 &reject) &&
				   nfields == file->nfields;
		if (may_pass && add_row(worker, record, fields, nfields))
			return;
	}
	if (!file->resyncs ||
		!etl_csv_try_resync(worker->reader, &cut, file->nfields, &place))
		add_raw(worker, record, NULL);
	else if (!may_pass &&
			 !etl_csv_split(worker->reader, &cut, &fields, &nfields, &reject))
		add_raw(worker, &cut, NULL);
	else
	{
		Size len;
		void *data;
		EtlBulkCommand *command;

		add_raw(worker, record, &cut);
		send_message(worker);
		if (shm_mq_receive(worker->commands, &len, &data, false) !=
			SHM_MQ_SUCCESS)
			proc_exit(0);
		command = data;
		if (command->kind == ETL_BULK_RESTART)
			restart_pieces(worker, command);
		else if (!command->rejected)
			etl_csv_resync_undo(worker->reader, &place);
	}
}

/* Begin a message, or an item of it; room is what comes behind the item. */
static EtlBulkItem *
add_item(BulkWorker *worker, const EtlCsvRecord *record, Size room)
{
	EtlBulkMessage *message = (EtlBulkMessage *) worker->buffer;
	EtlBulkItem *item;

	Assert(worker->used + ETL_BULK_ITEM_SIZE + room <= worker->size);
	if (worker->used <= ETL_BULK_ITEMS_OFFSET)
	{
		memset(message, 0, sizeof(EtlBulkMessage));
		message->offset = record->byte_offset;
		message->line_no = record->line_no;
		worker->used = ETL_BULK_ITEMS_OFFSET;
	}
	message->nitems++;
	item = (EtlBulkItem *) (worker->buffer + worker->used);
	memset(item, 0, sizeof(EtlBulkItem));
	item->offset = (uint32) (record->byte_offset - message->offset);
	item->line_no = (uint32) (record->line_no - message->line_no);
	item->raw_len = (uint32) record->raw_len;
	item->flags = record->flags;
	item->follows = (uint8) record->follows;
	worker->used += ETL_BULK_ITEM_SIZE;
	return item;
}

/* Append the raw text of the item's record. */
static void
append_raw(BulkWorker *worker, EtlBulkItem *item, const EtlCsvRecord *record)
{
	Size len = record->raw_len + record->follows;

	item->has_raw = true;
	memcpy(worker->buffer + worker->used, record->raw, len);
	worker->used += MAXALIGN(len);
}

/* Send the message if the load should have it by now. */
static void
send_if_full(BulkWorker *worker)
{
	EtlBulkMessage *message = (EtlBulkMessage *) worker->buffer;

	if (worker->used >= ETL_BULK_MESSAGE_FULL ||
		message->nitems >= worker->read->file.max_rows)
		send_message(worker);
}

/* Add the row of a record; false if it cannot be formed with certainty. */
static bool
add_row(BulkWorker *worker, const EtlCsvRecord *record, const EtlField *fields,
		int nfields)
{
	Size room = etl_row_form_room(worker->form, record->raw_len);
	Size used = worker->used;
	EtlBulkItem *item;
	uint32 len;

	if (room > ETL_BULK_MAX_INLINE)
		return false;
	item = add_item(worker, record, room);
	len = etl_row_form(worker->form, fields, nfields,
					   (HeapTupleHeader) (worker->buffer + worker->used), room);
	if (len == 0)
	{
		worker->used = used;
		((EtlBulkMessage *) worker->buffer)->nitems--;
		return false;
	}
	item->tuple_len = len;
	worker->used += MAXALIGN(len);
	if (worker->read->file.wants_raw)
		append_raw(worker, item, record);
	send_if_full(worker);
	return true;
}

/*
 * Add a record as it is.  If it is not rejected, cut is NULL or else what is
 * left of it after a resync: then the load has to say.
 */
static void
add_raw(BulkWorker *worker, const EtlCsvRecord *record, const EtlCsvRecord *cut)
{
	bool is_long = record->raw_len > ETL_BULK_MAX_INLINE;
	bool raw_next = is_long && !etl_stream_is_plain(worker->stream);
	EtlBulkItem *item;
	EtlBulkDoubt *doubt;

	if (raw_next)
		send_message(worker);
	item = add_item(worker, record, 0);
	item->has_doubt = true;
	doubt = (EtlBulkDoubt *) (worker->buffer + worker->used);
	memset(doubt, 0, sizeof(EtlBulkDoubt));
	doubt->bad_cr = (uint32) record->bad_cr;
	if (cut != NULL)
	{
		doubt->wants_verdict = true;
		doubt->cut_len = (uint32) cut->raw_len;
		doubt->cut_flags = cut->flags;
		doubt->cut_follows = (uint8) cut->follows;
	}
	worker->used += ETL_BULK_DOUBT_SIZE;
	if (!is_long)
		append_raw(worker, item, record);
	item->raw_next = raw_next;
	if (is_long)
		send_message(worker);
	if (raw_next)
		send_bytes(worker, record->raw, record->raw_len + record->follows);
	send_if_full(worker);
}

/* ------------------------------------------------------------------ */
/* messages                                                             */

/* Say that all is read. */
static void
done(BulkWorker *worker)
{
	EtlBulkMessage message = {
		.kind = ETL_BULK_DONE,
		.epoch = worker->epoch,
	};

	/* If the load is ahead with it, it completes the hash. */
	if (worker->hashed != NULL &&
		(worker->hashed == worker->stream ||
		 pg_atomic_read_u64(&worker->shared->hashed_by_load) <=
			 (uint64) etl_stream_file_bytes(worker->hashed)))
	{
		etl_stream_close(worker->hashed, worker->sha256);
		if (worker->stream == worker->hashed)
			worker->stream = NULL;
		worker->hashed = NULL;
		worker->has_hash = true;
	}
	message.has_hash = worker->has_hash;
	memcpy(message.sha256, worker->sha256, ETL_SHA256_LEN);
	worker->is_done = true;
	send_bytes(worker, &message, sizeof(message));
}

/* Send what has been put together, if anything. */
static void
send_message(BulkWorker *worker)
{
	EtlBulkMessage *message = (EtlBulkMessage *) worker->buffer;
	Size len = worker->used;

	if (len == 0)
		return;
	message->kind = ETL_BULK_RECORDS;
	message->epoch = worker->epoch;
	message->file_bytes = etl_stream_file_bytes(worker->stream);
	if (worker->read->workers > 0)
	{
		message->is_first = worker->is_first;
		message->first = worker->first;
		worker->is_first = false;
	}
	worker->used = 0;
	worker->was_sent = true;
	send_bytes(worker, message, len);
}

/* Go on with the hash, in place of waiting: see bulk_feed.c. */
static bool
hash_on(BulkWorker *worker)
{
	EtlBulkShared *shared = worker->shared;
	uint64 hashed;

	if (worker->hashed == NULL || worker->hashed == worker->stream)
		return false;
	hashed = etl_stream_file_bytes(worker->hashed);
	if (hashed >= (uint64) etl_stream_file_bytes(worker->stream) ||
		hashed + ETL_BULK_HASH_LEAD < pg_atomic_read_u64(&shared->hashed_by_load))
		return false;
	etl_stream_hash_to(worker->hashed, hashed + ETL_BULK_HASH_STEP);
	pg_atomic_write_u64(&shared->hashed_by_worker,
						etl_stream_file_bytes(worker->hashed));
	return true;
}

/* Send a message; while the queue is full, there may be something to hash. */
static void
send_bytes(BulkWorker *worker, const void *data, Size len)
{
	shm_mq_result result;

	worker->is_sending = true;
	do
	{
		CHECK_FOR_INTERRUPTS();
		result = shm_mq_send(worker->messages, len, data, true, true);
	} while (result == SHM_MQ_WOULD_BLOCK && hash_on(worker));
	if (result == SHM_MQ_WOULD_BLOCK)
		result = shm_mq_send(worker->messages, len, data, false, true);
	worker->is_sending = false;
	if (result != SHM_MQ_SUCCESS)
		proc_exit(0);
}

/* Leave an error to the load. */
static void
send_error(BulkWorker *worker, const ErrorData *error)
{
	const char *texts[] = {error->message, error->detail, error->hint};
	EtlBulkMessage message = {
		.kind = ETL_BULK_FAILED,
		.epoch = worker->epoch,
		.error_code = error->sqlerrcode,
	};
	StringInfoData buf;

	initStringInfo(&buf);
	appendBinaryStringInfo(&buf, (const char *) &message, sizeof(message));
	for (size_t i = 0; i < lengthof(texts); i++)
	{
		const char *text = texts[i] != NULL ? texts[i] : "";

		appendBinaryStringInfo(&buf, text, (int) strlen(text) + 1);
	}
	send_bytes(worker, buf.data, buf.len);
}
