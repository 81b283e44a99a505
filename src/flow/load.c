/*-------------------------------------------------------------------------
 *
 * load.c
 *	  The record loop: split, convert, write.
 *
 * A batch is what the sink holds.  Its rows refer to records in the reader's
 * buffer, so that it is written before the reader is filled again, when the
 * sink has enough rows, and when enough rejected records have piled up.
 *
 * A record that is rejected is counted once and, by on_error, thrown, skipped
 * or made a dead letter.  No subtransaction is open when dead letters are
 * written: the converter's ends with the batch, and the sink's before its
 * flush returns.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "flow/flow.h"

/* So many rejected records end a batch: their texts are in its memory. */
#define MAX_BATCH_REJECTS 1000

/* The run's detail shows so many rejected records. */
#define MAX_FIRST_REJECTS 10

/* An error context shows so many bytes of a value. */
#define MAX_VALUE_SHOWN 100

/*
 * Keep the first rejected records for the run's detail, which is all that is
 * left of them when they are skipped or the load is a dry run.
 */
static void
keep_first_rejects(EtlLoad *load, const EtlCsvRecord *record,
				   const EtlReject *reject)
{
	StringInfo json = &load->first_rejects;

	if (load->run->rows_rejected > MAX_FIRST_REJECTS)
		return;
	appendStringInfoString(json,
						   json->len == 0 ? "{\"file\": " : ", {\"file\": ");
	escape_json(json, load->source_name);
	appendStringInfo(json,
					 ", \"line\": " INT64_FORMAT ", \"category\": \"%s\", "
					 "\"error_code\": \"%s\", \"message\": ",
					 record->line_no, etl_category_name(reject->category),
					 unpack_sql_state(reject->sqlerrcode));
	escape_json(json, etl_ledger_clip(reject->message));
	appendStringInfoChar(json, '}');
}

/*
 * Reject one record.  Its strings need to live only until this returns.
 */
static void
reject_record(EtlLoad *load, const EtlCsvRecord *record, const EtlReject *reject)
{
	MemoryContext old_context = MemoryContextSwitchTo(load->sink->batch_context);

	load->run->rows_rejected++;
	load->rejected_by_category[reject->category]++;
	load->batch_rejects++;

	if (load->on_error == ETL_ON_ERROR_ABORT)
	{
		load->record = *record;
		load->in_record = true;
		load->thrown = reject;
		etl_reject_throw(reject);
	}
	if (load->reject_limit >= 0 && load->run->rows_rejected > load->reject_limit)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("load rejected more than " INT64_FORMAT " rows",
						load->reject_limit),
				 errdetail("The last one was line " INT64_FORMAT " of \"%s\": %s",
						   record->line_no, load->source_name, reject->message),
				 errhint(
					 "Raise reject_limit, or see the rejected rows with dry_run => true and no limit.")));
	keep_first_rejects(load, record, reject);

	if (load->on_error == ETL_ON_ERROR_DEAD_LETTER)
	{
		EtlOrigin origin = {
			.source_name = load->source_name,
			.file_id = load->file_id,
			.line_no = record->line_no,
			.row_no = record->row_no,
			.byte_offset = record->byte_offset,
			.raw_record = etl_csv_text(load->reader, record),
		};

		if (origin.raw_record == NULL)
		{
			origin.raw_bytes = record->raw;
			origin.raw_bytes_len = record->raw_len;
		}
		etl_dead_letters_add(load->letters, &origin, reject);
		if (origin.raw_record != NULL)
			pfree(unconstify(char *, origin.raw_record));
	}
	MemoryContextSwitchTo(old_context);
}

/* The sink's word that it could not write a row of the batch. */
static void
reject_row(void *arg, int row, const EtlReject *reject)
{
	EtlLoad *load = arg;

	reject_record(load, &load->records[row], reject);
}

/* Let the fields of the records to come be these columns. */
static void
set_converter(EtlLoad *load, const AttrNumber *attnums, int nfields)
{
	Size size = sizeof(AttrNumber) * nfields;

	load->converter = etl_converter_create(RelationGetDescr(load->sink->target),
										   attnums, nfields);
	load->attnums = palloc(size);
	memcpy(load->attnums, attnums, size);
	load->nfields = nfields;
}

/*
 * Begin a load into a target, whose first file has the given columns.  The
 * load's memory is the current context.
 */
void
etl_load_begin(EtlLoad *load, EtlRun *run, Relation target, EtlOnError on_error,
			   const AttrNumber *attnums, int nfields,
			   const EtlSinkOptions *sink_options)
{
	memset(load, 0, sizeof(EtlLoad));
	load->run = run;
	load->on_error = on_error;
	load->reject_limit = -1;
	initStringInfo(&load->first_rejects);
	load->sink = etl_sink_open(target, attnums, nfields, sink_options,
							   reject_row, load);
	load->records = palloc(sizeof(EtlCsvRecord) * load->sink->batch_limit);
	if (on_error == ETL_ON_ERROR_DEAD_LETTER)
		load->letters = etl_dead_letters_open(run);
	set_converter(load, attnums, nfields);
}

/* Go on with a file that may have other columns. */
void
etl_load_set_columns(EtlLoad *load, const AttrNumber *attnums, int nfields)
{
	if (nfields == load->nfields &&
		memcmp(attnums, load->attnums, sizeof(AttrNumber) * nfields) == 0)
		return;
	etl_converter_free(load->converter);
	pfree(load->attnums);
	set_converter(load, attnums, nfields);
	etl_sink_set_columns(load->sink, attnums, nfields);
}

/* Write what the batch holds. */
static void
flush_batch(EtlLoad *load)
{
	load->in_record = false;
	etl_converter_end_batch(load->converter);
	etl_sink_flush(load->sink);
	if (load->letters != NULL)
		etl_dead_letters_flush(load->letters);
	load->batch_rejects = 0;
	etl_progress_done(load->run, load->run->bytes_read +
									 etl_stream_file_bytes(load->stream));
}

/*
 * Split and convert the current record into the sink's next slot.  A record
 * that fails, and may have swallowed lines because of a broken quote, is cut
 * back to the line that is broken.
 */
static void
load_record(EtlLoad *load)
{
	EtlSink *sink = load->sink;
	MemoryContext old_context = MemoryContextSwitchTo(sink->batch_context);
	TupleTableSlot *slot = etl_sink_next_slot(sink);
	EtlReject reject = {0};
	EtlField *fields;
	int nfields;

	load->run->rows_read++;
	if (etl_csv_split(load->reader, &load->record, &fields, &nfields, &reject) &&
		etl_convert(load->converter, fields, nfields, slot->tts_values,
					slot->tts_isnull, &reject))
	{
		load->records[sink->batch_rows - 1] = load->record;
	}
	else
	{
		etl_sink_drop_slot(sink);
		if (load->on_error != ETL_ON_ERROR_ABORT &&
			etl_csv_resync(load->reader, &load->record, load->nfields))
		{
			/* What is left of it fails for a reason of its own. */
			memset(&reject, 0, sizeof(reject));
			if (etl_csv_split(load->reader, &load->record, &fields, &nfields,
							  &reject))
				elog(ERROR, "record cut at a broken quote has none");
		}
		reject_record(load, &load->record, &reject);
	}
	MemoryContextSwitchTo(old_context);
}

/* Name file and line, and where it is known column and value, in errors. */
static void
load_error_context(void *arg)
{
	EtlLoad *load = arg;
	int row = load->sink->current_row;
	const char *value;
	int len;

	if (row >= 0 && load->sink->options.guarded)
		return;
	if (row >= 0)
		errcontext("file \"%s\", line " INT64_FORMAT, load->source_name,
				   load->records[row].line_no);
	else if (!load->in_record)
		errcontext("file \"%s\"", load->source_name);
	else if (load->thrown == NULL || load->thrown->column_name == NULL)
		errcontext("file \"%s\", line " INT64_FORMAT, load->source_name,
				   load->record.line_no);
	else if (load->thrown->field_value == NULL)
		errcontext("file \"%s\", line " INT64_FORMAT ", column %s",
				   load->source_name, load->record.line_no,
				   load->thrown->column_name);
	else
	{
		value = load->thrown->field_value;
		len = pg_mbcliplen(value, (int) strlen(value), MAX_VALUE_SHOWN);
		errcontext("file \"%s\", line " INT64_FORMAT ", column %s: \"%.*s%s\"",
				   load->source_name, load->record.line_no,
				   load->thrown->column_name, len, value,
				   value[len] == '\0' ? "" : "...");
	}
}

/* Load all records that the reader still has. */
void
etl_load_records(EtlLoad *load)
{
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = load_error_context,
		.arg = load,
	};
	EtlCsvNext next;

	error_context_stack = &context;
	load->in_record = false;
	while ((next = etl_csv_next(load->reader, &load->record)) != ETL_CSV_END)
	{
		CHECK_FOR_INTERRUPTS();
		if (next == ETL_CSV_RECORD)
		{
			load->in_record = true;
			load_record(load);
		}
		if (next == ETL_CSV_NEED_FILL ||
			load->sink->batch_rows >= load->sink->batch_limit ||
			load->batch_rejects >= MAX_BATCH_REJECTS ||
			(load->letters != NULL && etl_dead_letters_full(load->letters)))
			flush_batch(load);
		if (next == ETL_CSV_NEED_FILL)
			etl_csv_fill(load->reader);
	}
	flush_batch(load);
	error_context_stack = context.previous;
}

/* Close what etl_load_begin() opened and take the sink's counts into the run. */
void
etl_load_end(EtlLoad *load)
{
	etl_sink_flush(load->sink);
	load->run->rows_inserted += load->sink->counts.inserted;
	load->run->rows_updated += load->sink->counts.updated;
	load->run->rows_unchanged += load->sink->counts.unchanged;
	etl_sink_close(load->sink);
	if (load->letters != NULL)
		etl_dead_letters_close(load->letters);
}
