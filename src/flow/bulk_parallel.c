/*-------------------------------------------------------------------------
 *
 * bulk_parallel.c
 *	  The workers of a bulk load: whether, how many, and for which files.
 *
 * They are started with the first file that they can read, and serve all files
 * of the call.  Where they cannot help, this process reads; the run's detail
 * says why.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "etl_patterns.h"
#include "flow/bulk_copy.h"

/* With workers => NULL there are some from so many bytes on. */
#define WORKERS_MIN_BYTES (8 * 1024 * 1024)

/* And no more than this part of max_worker_processes: others need some, too. */
#define WORKERS_DEFAULT_PART 4

/*
 * How many workers are wanted.  One leaves a core to the process that writes,
 * which two of them keep busy even where values are dear to convert.
 */
void
etl_bulk_settle_workers(EtlBulkCopy *bulk)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	bulk->workers_wanted = Min(bulk->workers, ETL_BULK_MAX_WORKERS);
	if (bulk->workers >= 0)
	{
		if (bulk->workers > ETL_BULK_MAX_WORKERS)
			bulk->workers_reason = psprintf("no more than %d serve one load",
											ETL_BULK_MAX_WORKERS);
		return;
	}
	bulk->workers_wanted = 0;
	if (bulk->bytes_total < WORKERS_MIN_BYTES)
		bulk->workers_reason = "too little to read";
	else if (cores < 2)
		bulk->workers_reason = "one processor";
	else
		bulk->workers_wanted = (int)
			Min(cores / 2, Max(max_worker_processes / WORKERS_DEFAULT_PART, 1));
}

/* Why workers cannot read this file; NULL if they can. */
static const char *
obstacle(EtlBulkCopy *bulk)
{
	int encoding = bulk->format.dialect.encoding;

	if (bulk->load.row_form == NULL)
		return "rows of this table are formed in the session";
	if (encoding != GetDatabaseEncoding() && encoding != PG_SQL_ASCII &&
		GetDatabaseEncoding() != PG_SQL_ASCII)
		return "the encoding is converted";
	return NULL;
}

/* Start the workers, unless that was tried before. */
static void
start_workers(EtlBulkCopy *bulk)
{
	MemoryContext old_context = MemoryContextSwitchTo(bulk->load_context);

	if (bulk->bulk_workers == NULL)
	{
		bulk->bulk_workers = etl_bulk_workers_start(bulk->workers_wanted);
		if (bulk->bulk_workers != NULL)
			bulk->workers_used = etl_bulk_workers_count(bulk->bulk_workers);
		if (bulk->workers_used < bulk->workers_wanted)
		{
			bulk->workers_reason = "no more background workers are free";
			bulk->workers_wanted = bulk->workers_used;
		}
	}
	MemoryContextSwitchTo(old_context);
}

/*
 * Who reads the records of this file, of which the reader has read the header?
 */
EtlFeed *
etl_bulk_open_feed(EtlBulkCopy *bulk, const EtlFileInfo *info,
				   EtlStream *stream, EtlCsvReader *reader)
{
	EtlLoad *load = &bulk->load;
	EtlBulkFile file = {
		.info = *info,
		.compression = etl_stream_compression(stream),
		.dialect = bulk->format.dialect,
		.skip_lines = bulk->format.skip_lines,
		.has_header = bulk->format.header != ETL_HEADER_NONE,
		.desc = RelationGetDescr(bulk->target),
		.attnums = load->attnums,
		.nfields = load->nfields,
		.values = load->constants,
		.max_rows = load->sink->batch_limit,
		.resyncs = load->on_error != ETL_ON_ERROR_ABORT,
		.piece_size = etl_bulk_piece_size,
	};
	const char *reason = bulk->workers_wanted > 0 ? obstacle(bulk) : NULL;
	bool *isnull;

	if (reason != NULL)
		bulk->workers_reason = reason;
	else if (bulk->workers_wanted > 0)
		start_workers(bulk);
	if (reason != NULL || bulk->bulk_workers == NULL)
		return etl_feed_open(stream, reader);

	/* A field's column has no constant. */
	isnull = palloc(sizeof(bool) * (file.desc->natts + 1));
	memcpy(isnull, load->constant_nulls, sizeof(bool) * file.desc->natts);
	for (int i = 0; i < load->nfields; i++)
		if (load->attnums[i] != InvalidAttrNumber)
			isnull[load->attnums[i] - 1] = true;
	file.isnull = isnull;
	file.wants_raw = load->on_error == ETL_ON_ERROR_DEAD_LETTER &&
					 !etl_stream_is_plain(stream);
	return etl_bulk_feed_open(bulk->bulk_workers, &file, stream, reader);
}

/* All files are read. */
void
etl_bulk_end_workers(EtlBulkCopy *bulk)
{
	if (bulk->bulk_workers != NULL)
		etl_bulk_workers_stop(bulk->bulk_workers);
	bulk->bulk_workers = NULL;
}

/* For the run's detail: what was asked for, what came of it, and why. */
void
etl_bulk_workers_detail(const EtlBulkCopy *bulk, StringInfo json)
{
	appendStringInfoChar(json, '{');
	if (bulk->workers >= 0)
		appendStringInfo(json, "\"asked\": %d, ", bulk->workers);
	appendStringInfo(json, "\"used\": %d", bulk->workers_used);
	if (bulk->workers_reason != NULL)
	{
		appendStringInfoString(json, ", \"reason\": ");
		escape_json(json, bulk->workers_reason);
	}
	appendStringInfoChar(json, '}');
}
