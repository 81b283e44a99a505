/*-------------------------------------------------------------------------
 *
 * load.c
 *	  The record loop: split, convert, write.
 *
 * Records come from a feed: read here, or by background workers that may have
 * made rows of them already.
 *
 * A batch is what the sink holds.  Its rows refer to records in the feed's
 * buffer, so that it is written before the feed is filled again, when the sink
 * has enough rows, and when enough rejected records have piled up.
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

/* Memory taken at once for the rows of a batch; longer rows are not formed. */
#define ROW_SPACE	   (64 * 1024)
#define MAX_FORMED_ROW (256 * 1024)

/* An error context shows so many bytes of a value. */
#define MAX_VALUE_SHOWN 100

/* A rejected record as an element of a JSON array. */
static char *
reject_as_json(EtlLoad *load, const EtlCsvRecord *record,
			   const EtlReject *reject)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"file\": ");
	escape_json(&json, load->source_name);
	appendStringInfo(&json,
					 ", \"line\": " INT64_FORMAT ", \"category\": \"%s\", "
					 "\"error_code\": \"%s\", \"message\": ",
					 record->line_no, etl_category_name(reject->category),
					 unpack_sql_state(reject->sqlerrcode));
	escape_json(&json, etl_ledger_clip(reject->message));
	appendStringInfoChar(&json, '}');
	return json.data;
}

/*
 * Keep the first rejected records for the run's detail, which is all that is
 * left of them when they are skipped or the load is a dry run.  What the sink
 * rejects comes after what was rejected before its batch is written.
 */
static void
keep_first_rejects(EtlLoad *load, const EtlCsvRecord *record,
				   const EtlReject *reject)
{
	EtlFirstReject *first = load->first_rejects;
	int i = load->num_first_rejects;
	MemoryContext old_context;

	while (i > 0 && first[i - 1].file_no == load->file_no &&
		   first[i - 1].row_no > record->row_no)
		i--;
	if (i == ETL_FIRST_REJECTS)
		return;
	if (load->num_first_rejects == ETL_FIRST_REJECTS)
		pfree(first[--load->num_first_rejects].json);
	memmove(&first[i + 1], &first[i],
			sizeof(EtlFirstReject) * (load->num_first_rejects - i));
	load->num_first_rejects++;
	first[i].file_no = load->file_no;
	first[i].row_no = record->row_no;
	old_context = MemoryContextSwitchTo(load->context);
	first[i].json = reject_as_json(load, record, reject);
	MemoryContextSwitchTo(old_context);
}

/* They, as the elements of a JSON array. */
void
etl_load_first_rejects(const EtlLoad *load, StringInfo json)
{
	for (int i = 0; i < load->num_first_rejects; i++)
		appendStringInfo(json, "%s%s", i > 0 ? ", " : "",
						 load->first_rejects[i].json);
}

/*
 * The error of a row that ends the load, which has to be that of the first
 * such row, whatever the size of batches: so the rows before it are written.
 */
static EtlReject *
write_rows_before(EtlLoad *load, const EtlReject *reject)
{
	MemoryContext old_context = MemoryContextSwitchTo(load->context);
	EtlReject *copy = palloc(sizeof(EtlReject));

	*copy = *reject;
	copy->message = pstrdup(reject->message);
	if (reject->detail != NULL)
		copy->detail = pstrdup(reject->detail);
	if (reject->column_name != NULL)
		copy->column_name = pstrdup(reject->column_name);
	if (reject->field_value != NULL)
		copy->field_value = pstrdup(reject->field_value);
	MemoryContextSwitchTo(old_context);

	etl_converter_end_batch(load->converter);
	etl_sink_flush(load->sink);
	return copy;
}

/*
 * Reject one record.  Its strings need to live only until this returns.
 */
static void
reject_record(EtlLoad *load, EtlCsvRecord *record, const EtlReject *reject)
{
	MemoryContext old_context = MemoryContextSwitchTo(load->sink->batch_context);

	load->run->rows_rejected++;
	load->rejected_by_category[reject->category]++;
	load->batch_rejects++;

	if (load->on_error == ETL_ON_ERROR_ABORT)
	{
		load->in_record = false;
		load->thrown = write_rows_before(load, reject);
		load->record = *record;
		load->in_record = true;
		etl_reject_throw(load->thrown);
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
		};

		load->feed->ops->recall(load->feed, record);
		origin.raw_record = etl_csv_text(load->feed->reader, record);
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
	TupleDesc desc = RelationGetDescr(load->sink->target);

	load->constants = palloc0(sizeof(Datum) * (desc->natts + 1));
	load->constant_nulls = palloc0(sizeof(bool) * (desc->natts + 1));
	load->converter = etl_converter_create(desc, attnums, nfields);
	load->row_form = NULL;
	if (etl_sink_takes_formed(load->sink, load->constants, load->constant_nulls))
		load->row_form = etl_row_form_create(desc, attnums, nfields,
											 load->constants,
											 load->constant_nulls);
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
	load->context = CurrentMemoryContext;
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
	etl_row_form_free(load->row_form);
	pfree(load->attnums);
	pfree(load->constants);
	pfree(load->constant_nulls);
	etl_sink_set_columns(load->sink, attnums, nfields);
	set_converter(load, attnums, nfields);
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
	load->row_space = NULL;
	load->row_space_left = 0;
	etl_progress_done(load->run, load->run->bytes_read +
									 load->feed->ops->file_bytes(load->feed));
}

/*
 * Let the row of these fields be a tuple of the sink's batch; false where that
 * is for the converter to decide.
 */
static bool
form_row(EtlLoad *load, const EtlField *fields, int nfields)
{
	Size room = etl_row_form_room(load->row_form, load->record.raw_len);
	uint32 len;

	if (room > MAX_FORMED_ROW)
		return false;
	if (load->row_space_left < room)
	{
		load->row_space_left = Max(room, ROW_SPACE);
		load->row_space = MemoryContextAlloc(load->sink->batch_context,
											 load->row_space_left);
	}
	len = etl_row_form(load->row_form, fields, nfields,
					   (HeapTupleHeader) load->row_space, load->row_space_left);
	if (len == 0)
		return false;
	etl_sink_add_formed(load->sink, (HeapTupleHeader) load->row_space, len);
	len = Min(MAXALIGN(len), load->row_space_left);
	load->row_space += len;
	load->row_space_left -= len;
	return true;
}

/* Let the row of these fields be values of the sink's batch. */
static bool
convert_row(EtlLoad *load, const EtlField *fields, int nfields,
			EtlReject *reject)
{
	TupleTableSlot *slot = etl_sink_next_slot(load->sink);

	if (etl_convert(load->converter, fields, nfields, slot->tts_values,
					slot->tts_isnull, reject))
		return true;
	etl_sink_drop_slot(load->sink);
	return false;
}

/*
 * The reject of a record that was cut at a broken quote, and that the splitter
 * finds none in.  It looks at bytes where the encoding of the file is not
 * converted, and the search for the quote at characters.
 */
static void
reject_broken_quote(EtlReject *reject)
{
	memset(reject, 0, sizeof(EtlReject));
	reject->category = ETL_CATEGORY_STRUCTURE;
	reject->sqlerrcode = ERRCODE_BAD_COPY_FILE_FORMAT;
	reject->message = "unterminated CSV quoted field";
}

/*
 * Split and convert the current record into the sink's next row.  A record
 * that fails, and may have swallowed lines because of a broken quote, is cut
 * back to the line that is broken.
 */
static void
load_record(EtlLoad *load)
{
	EtlSink *sink = load->sink;
	MemoryContext old_context = MemoryContextSwitchTo(sink->batch_context);
	EtlReject reject = {0};
	EtlField *fields;
	int nfields;

	load->run->rows_read++;
	if (etl_csv_split(load->feed->reader, &load->record, &fields, &nfields,
					  &reject) &&
		((load->row_form != NULL && form_row(load, fields, nfields)) ||
		 convert_row(load, fields, nfields, &reject)))
	{
		load->records[sink->batch_rows - 1] = load->record;
	}
	else
	{
		if (load->on_error != ETL_ON_ERROR_ABORT &&
			load->feed->ops->resync(load->feed, &load->record, load->nfields))
		{
			/* What is left of it fails for a reason of its own. */
			memset(&reject, 0, sizeof(reject));
			if (etl_csv_split(load->feed->reader, &load->record, &fields,
							  &nfields, &reject))
				reject_broken_quote(&reject);
		}
		reject_record(load, &load->record, &reject);
	}
	MemoryContextSwitchTo(old_context);
}

/* Take the row that the feed has made of the current record. */
static void
load_row(EtlLoad *load, const EtlFeedRow *row)
{
	load->run->rows_read++;
	etl_sink_add_formed(load->sink, row->tuple, row->len);
	load->records[load->sink->batch_rows - 1] = load->record;
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

/* Load all records of the feed. */
void
etl_load_records(EtlLoad *load)
{
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = load_error_context,
		.arg = load,
	};
	EtlFeed *feed = load->feed;
	EtlFeedRow row;
	EtlCsvNext next;

	error_context_stack = &context;
	load->in_record = false;
	while ((next = feed->ops->next(feed, &load->record, &row)) != ETL_CSV_END)
	{
		CHECK_FOR_INTERRUPTS();
		if (next == ETL_CSV_ROW)
			load_row(load, &row);
		else if (next == ETL_CSV_RECORD)
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
			feed->ops->fill(feed);
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
