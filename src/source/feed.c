/*-------------------------------------------------------------------------
 *
 * feed.c
 *	  The records of a file, read in this process.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "source/feed.h"

typedef struct SerialFeed
{
	EtlFeed base;
	EtlStream *stream;
} SerialFeed;

static EtlCsvNext
serial_next(EtlFeed *feed, EtlCsvRecord *record,
			EtlFeedRow *row pg_attribute_unused())
{
	return etl_csv_next(feed->reader, record);
}

static void
serial_fill(EtlFeed *feed)
{
	etl_csv_fill(feed->reader);
}

static bool
serial_resync(EtlFeed *feed, EtlCsvRecord *record, int nfields)
{
	return etl_csv_resync(feed->reader, record, nfields);
}

/* Records stay in the reader's buffer. */
static void
serial_recall(EtlFeed *feed pg_attribute_unused(),
			  EtlCsvRecord *record pg_attribute_unused())
{
	Assert(record->raw != NULL);
}

static int64
serial_file_bytes(EtlFeed *feed)
{
	return etl_stream_file_bytes(((SerialFeed *) feed)->stream);
}

static void
serial_close(EtlFeed *feed, uint8 *sha256)
{
	etl_csv_close(feed->reader);
	etl_stream_close(((SerialFeed *) feed)->stream, sha256);
}

/* A feed of the records that the reader has not handed out; it owns both. */
EtlFeed *
etl_feed_open(EtlStream *stream, EtlCsvReader *reader)
{
	static const EtlFeedOps ops = {
		.next = serial_next,
		.fill = serial_fill,
		.resync = serial_resync,
		.recall = serial_recall,
		.file_bytes = serial_file_bytes,
		.close = serial_close,
	};
	SerialFeed *feed = palloc(sizeof(SerialFeed));

	feed->base.ops = &ops;
	feed->base.reader = reader;
	feed->stream = stream;
	return &feed->base;
}
