/*-------------------------------------------------------------------------
 *
 * replay.c
 *	  etl_dead_letter_replay(): give rejected records another chance.
 *
 * Letters of one target and one file go through one load, with the layout
 * that was kept for the file.  They are fetched, locked and closed in batches
 * by the owner of the ledger; the rows are written with the caller's rights.
 *
 * A letter holds one record.  It is closed when its row is in the table;
 * otherwise it stays, with the attempt counted and the new error.  Rows and
 * letters change in one transaction, so that no row is loaded twice: a second
 * replay at the same time waits for the first one's row locks and finds the
 * letters closed.
 *
 * Letters of pipelines hold a change instead: see replay_changes.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "flow/replay.h"

PG_FUNCTION_INFO_V1(etl_dead_letter_replay);

/* A call, and the group of its letters that is being loaded. */
typedef struct Replay
{
	EtlReplay call;

	Oid target_oid;
	int64 file_id; /* 0: the letters are not from a file */
	Relation target;
	EtlLayout layout;
	EtlSink *sink;
	EtlConverter *converter;
	int nfields;
	int *row_letters; /* which letter a row of the sink's batch is */
} Replay;

/* Records of a load. */
#define LETTERS_OF_LOADS ETL_LETTERS_OF_CALL " AND operation = 'bulk_copy'"

/* Fill $1 to $3 from the call, and what follows from more. */
void
etl_replay_query(EtlReplayQuery *query, const EtlReplay *replay, int nmore,
				 const Oid *more_types, const Datum *more_values)
{
	Assert(3 + nmore <= ETL_REPLAY_ARGS);
	query->nargs = 3 + nmore;
	memset(query->nulls, ' ', sizeof(query->nulls));
	query->types[0] = OIDOID;
	query->values[0] = replay->target_filter;
	query->nulls[0] = replay->all_targets ? 'n' : ' ';
	query->types[1] = INT8ARRAYOID;
	query->values[1] = replay->id_filter;
	query->nulls[1] = replay->all_ids ? 'n' : ' ';
	query->types[2] = OIDOID;
	query->values[2] = ObjectIdGetDatum(replay->run->role);
	for (int i = 0; i < nmore; i++)
	{
		query->types[3 + i] = more_types[i];
		query->values[3 + i] = more_values[i];
	}
}

/*
 * Letters of other operations hold rows, which nothing can take.  Who names
 * one of them is mistaken; who asks for all is told how many stay.
 */
static void
report_others(Replay *replay)
{
	EtlReplayQuery query;
	EtlLedgerScope scope;
	int64 others;
	int64 first;
	bool null;

	etl_replay_query(&query, &replay->call, 0, NULL, NULL);
	etl_ledger_enter(&scope);
	if (SPI_execute_with_args("SELECT count(*), coalesce(min(dead_letter_id), 0)" ETL_LETTERS_OF_CALL
							  " AND operation NOT IN ('bulk_copy', 'cdc')",
							  query.nargs, query.types, query.values,
							  query.nulls, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read dead letters");
	others = DatumGetInt64(
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
	first = DatumGetInt64(
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &null));
	etl_ledger_leave(&scope);

	if (others > 0)
		ereport(replay->call.all_ids ? NOTICE : ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 replay->call.all_ids ?
					 errmsg_plural("%lld dead letter is neither of a load nor of a pipeline and is not replayed",
								   "%lld dead letters are neither of a load nor of a pipeline and are not replayed",
								   (unsigned long) others, (long long) others) :
					 errmsg("dead letter %lld is neither of a load nor of a pipeline and cannot be replayed",
							(long long) first),
				 errhint(
					 "Mend the source, call the function that rejected the row again, and close the letter with etl_dead_letter_discard().")));
}

/*
 * Find the groups of letters, in the order of their first letter: two lists,
 * of target OIDs and of pointers to file ids.  Letters of tables that were
 * dropped are passed over.
 */
static void
find_groups(Replay *replay, List **targets, List **files)
{
	MemoryContext context = CurrentMemoryContext;
	EtlReplayQuery query;
	EtlLedgerScope scope;

	*targets = NIL;
	*files = NIL;
	etl_replay_query(&query, &replay->call, 0, NULL, NULL);
	etl_ledger_enter(&scope);
	if (SPI_execute_with_args("SELECT target, coalesce(file_id, 0), count(*)" LETTERS_OF_LOADS
							  " AND EXISTS (SELECT FROM pg_class c WHERE c.oid = target)"
							  " GROUP BY 1, 2 ORDER BY min(dead_letter_id)",
							  query.nargs, query.types, query.values,
							  query.nulls, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read dead letters");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		MemoryContext spi_context = MemoryContextSwitchTo(context);
		int64 *file_id = palloc(sizeof(int64));
		bool null;

		*targets = lappend_oid(*targets,
							   DatumGetObjectId(
								   SPI_getbinval(tuple, desc, 1, &null)));
		*file_id = DatumGetInt64(SPI_getbinval(tuple, desc, 2, &null));
		*files = lappend(*files, file_id);
		replay->call.expected += DatumGetInt64(
			SPI_getbinval(tuple, desc, 3, &null));
		MemoryContextSwitchTo(spi_context);
	}
	etl_ledger_leave(&scope);
}

/* Copy one fetched letter into the batch's memory. */
static void
copy_letter(EtlReplayLetter *letter, HeapTuple tuple, TupleDesc desc)
{
	bool null;
	Datum record;
	struct varlena *copy;

	memset(letter, 0, sizeof(EtlReplayLetter));
	letter->id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &null));
	record = SPI_getbinval(tuple, desc, 2, &null);
	if (null)
	{
		record = SPI_getbinval(tuple, desc, 3, &null);
		letter->is_bytes = true;
	}
	if (null)
		record = CStringGetTextDatum("");
	/* An empty record is a blank line; without its end there is none. */
	if (VARSIZE_ANY_EXHDR(DatumGetPointer(record)) == 0)
		record = CStringGetTextDatum("\n");
	copy = PG_DETOAST_DATUM_COPY(record);
	letter->record = VARDATA(copy);
	letter->record_len = (int) (VARSIZE(copy) - VARHDRSZ);
}

/*
 * Fetch and lock the next letters of the group after a given one, up to a
 * number of letters or of bytes.
 */
static void
fetch_letters(Replay *replay, int64 after)
{
	static const Oid more_types[] = {OIDOID, INT8OID, INT8OID};
	Datum more_values[] = {ObjectIdGetDatum(replay->target_oid),
						   Int64GetDatum(replay->file_id), Int64GetDatum(after)};
	EtlReplayQuery query;
	EtlLedgerScope scope;
	Portal portal;
	int64 bytes = 0;

	replay->call.nletters = 0;
	etl_replay_query(&query, &replay->call, 3, more_types, more_values);
	etl_ledger_enter(&scope);
	portal =
		SPI_cursor_open_with_args(NULL,
								  "SELECT dead_letter_id, raw_record, raw_bytes" LETTERS_OF_LOADS
								  " AND target = $4 AND coalesce(file_id, 0) = $5"
								  " AND dead_letter_id > $6"
								  " ORDER BY dead_letter_id FOR UPDATE",
								  query.nargs, query.types, query.values,
								  query.nulls, false, 0);
	while (replay->call.nletters < ETL_REPLAY_LETTERS && bytes < ETL_REPLAY_BYTES)
	{
		MemoryContext spi_context;
		EtlReplayLetter *letter = &replay->call.letters[replay->call.nletters];

		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(portal, true, 1);
		if (SPI_processed == 0)
			break;
		spi_context = MemoryContextSwitchTo(replay->call.batch_context);
		copy_letter(letter, SPI_tuptable->vals[0], SPI_tuptable->tupdesc);
		MemoryContextSwitchTo(spi_context);
		SPI_freetuptable(SPI_tuptable);
		bytes += letter->record_len;
		replay->call.nletters++;
	}
	SPI_cursor_close(portal);
	etl_ledger_leave(&scope);
}

/* Note that a letter failed again; the strings are copied. */
void
etl_replay_fail(EtlReplay *replay, EtlReplayLetter *letter,
				const EtlReject *reject)
{
	MemoryContext old_context = MemoryContextSwitchTo(replay->batch_context);
	EtlReject *copy = &letter->reject;

	letter->failed = true;
	*copy = *reject;
	copy->message = pstrdup(etl_ledger_clip(reject->message));
	copy->detail = reject->detail ? pstrdup(etl_ledger_clip(reject->detail)) :
									NULL;
	copy->column_name = reject->column_name ? pstrdup(reject->column_name) :
											  NULL;
	copy->field_value = reject->field_value ?
							pstrdup(etl_ledger_clip(reject->field_value)) :
							NULL;
	MemoryContextSwitchTo(old_context);
}

static void
reject_row(void *arg, int row, const EtlReject *reject)
{
	Replay *replay = arg;

	etl_replay_fail(&replay->call,
					&replay->call.letters[replay->row_letters[row]], reject);
}

/* The next record of a letter; false if there is none. */
static bool
read_record(EtlCsvReader *reader, EtlCsvRecord *record)
{
	EtlCsvNext next;

	while ((next = etl_csv_next(reader, record)) == ETL_CSV_NEED_FILL)
		etl_csv_fill(reader);
	return next == ETL_CSV_RECORD;
}

/*
 * Convert a letter's only record into a slot.  Whether another one follows can
 * be asked only then: reading on may throw the first one away.
 */
static bool
convert_letter(Replay *replay, EtlCsvReader *reader, TupleTableSlot *slot,
			   EtlReject *reject)
{
	EtlCsvRecord record;
	EtlField *fields;
	int nfields;
	bool found = read_record(reader, &record);

	if (found && !(etl_csv_split(reader, &record, &fields, &nfields, reject) &&
				   etl_convert(replay->converter, fields, nfields,
							   slot->tts_values, slot->tts_isnull, reject)))
		return false;
	if (found && !read_record(reader, &record))
		return true;

	reject->category = ETL_CATEGORY_STRUCTURE;
	reject->sqlerrcode = ERRCODE_BAD_COPY_FILE_FORMAT;
	reject->message = found ? "dead letter holds more than one record" :
							  "dead letter holds no record";
	return false;
}

/* Split and convert one letter into the sink's batch. */
static void
replay_letter(Replay *replay, int index)
{
	EtlReplayLetter *letter = &replay->call.letters[index];
	EtlSink *sink = replay->sink;
	MemoryContext old_context = MemoryContextSwitchTo(sink->batch_context);
	TupleTableSlot *slot = etl_sink_next_slot(sink);
	EtlCsvDialect dialect = replay->layout.dialect;
	EtlReject reject = {0};
	EtlCsvReader *reader;
	EtlStream *stream = etl_stream_open_memory(letter->record,
											   letter->record_len);

	if (!letter->is_bytes)
		dialect.encoding = GetDatabaseEncoding();
	reader = etl_csv_open(stream, &dialect, 0);
	if (convert_letter(replay, reader, slot, &reject))
		replay->row_letters[sink->batch_rows - 1] = index;
	else
	{
		etl_sink_drop_slot(sink);
		etl_replay_fail(&replay->call, letter, &reject);
	}
	etl_csv_close(reader);
	etl_stream_close(stream, NULL);
	MemoryContextSwitchTo(old_context);
}

/* Columns of the command that marks letters which failed again. */
#define FAILED_COLUMNS 7

/* Add a text to an array that is being built. */
static void
add_text(ArrayBuildState **array, const char *text)
{
	*array = accumArrayResult(*array,
							  text == NULL ? (Datum) 0 :
											 CStringGetTextDatum(text),
							  text == NULL, TEXTOID, CurrentMemoryContext);
}

static void
add_id(ArrayBuildState **array, int64 id)
{
	*array = accumArrayResult(*array, Int64GetDatum(id), false, INT8OID,
							  CurrentMemoryContext);
}

/* Close the letters that went in. */
static void
close_letters(EtlReplay *replay, ArrayBuildState *ids)
{
	Oid types[] = {INT8ARRAYOID, INT8OID};
	Datum values[] = {makeArrayResult(ids, CurrentMemoryContext),
					  Int64GetDatum(replay->run->run_id)};

	if (SPI_execute_with_args("UPDATE etl_patterns.dead_letter"
							  " SET status = 'replayed', attempts = attempts + 1,"
							  " resolved_at = clock_timestamp(), resolved_run_id = $2"
							  " WHERE dead_letter_id = ANY ($1)",
							  2, types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not close dead letters");
}

/* Count the attempt and keep the new error of the letters that failed. */
static void
mark_letters(ArrayBuildState **columns)
{
	Oid types[FAILED_COLUMNS] = {INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
								 TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
								 TEXTARRAYOID};
	Datum values[FAILED_COLUMNS];

	for (int i = 0; i < FAILED_COLUMNS; i++)
		values[i] = makeArrayResult(columns[i], CurrentMemoryContext);
	if (SPI_execute_with_args("UPDATE etl_patterns.dead_letter AS letter"
							  " SET attempts = attempts + 1, category = new.category,"
							  " error_code = new.code, error_message = new.message,"
							  " error_detail = new.detail, column_name = new.column_name,"
							  " field_value = new.field_value"
							  " FROM unnest($1, $2, $3, $4, $5, $6, $7)"
							  " AS new (id, category, code, message, detail, column_name, field_value)"
							  " WHERE letter.dead_letter_id = new.id",
							  FAILED_COLUMNS, types, values, NULL, false,
							  0) != SPI_OK_UPDATE)
		elog(ERROR, "could not mark dead letters");
}

/* Write down what became of the letters of the batch. */
void
etl_replay_settle(EtlReplay *replay)
{
	ArrayBuildState *replayed = NULL;
	ArrayBuildState *failed[FAILED_COLUMNS] = {NULL};
	EtlLedgerScope scope;

	etl_ledger_enter(&scope);
	for (int i = 0; i < replay->nletters; i++)
	{
		EtlReplayLetter *letter = &replay->letters[i];
		EtlReject *reject = &letter->reject;

		if (!letter->failed)
		{
			replay->replayed++;
			add_id(&replayed, letter->id);
			continue;
		}
		replay->rejected++;
		add_id(&failed[0], letter->id);
		add_text(&failed[1], etl_category_name(reject->category));
		add_text(&failed[2], unpack_sql_state(reject->sqlerrcode));
		add_text(&failed[3], reject->message);
		add_text(&failed[4], reject->detail);
		add_text(&failed[5], reject->column_name);
		add_text(&failed[6], reject->field_value);
	}
	if (replayed != NULL)
		close_letters(replay, replayed);
	if (failed[0] != NULL)
		mark_letters(failed);
	etl_ledger_leave(&scope);
}

/*
 * Open the target and prepare to write rows as the group's file was loaded.
 * Returns false if the target was dropped: that must not keep the letters of
 * other tables from being replayed.
 */
static bool
begin_group(Replay *replay)
{
	EtlSinkOptions options;
	AttrNumber *attnums;
	Jsonb *layout;

	etl_progress_target(replay->call.run, replay->target_oid);
	etl_progress_set(replay->call.run, ETL_PHASE_WAITING, ETL_UNIT_NONE, 0,
					 ETL_TOTAL_UNKNOWN);
	replay->target = try_table_open(replay->target_oid, RowExclusiveLock);
	if (replay->target == NULL)
	{
		ereport(WARNING,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("dead letters of a dropped table are not replayed"),
				 errdetail("The table had OID %u.", replay->target_oid),
				 errhint("Close them with etl_dead_letter_discard().")));
		return false;
	}
	layout = etl_loaded_file_layout(replay->file_id);
	if (layout == NULL)
		ereport(ERROR, (errcode(ERRCODE_NO_DATA_FOUND),
						errmsg("dead letters of file " INT64_FORMAT
							   " cannot be replayed",
							   replay->file_id),
						errdetail("How the file was read is no longer known.")));
	etl_layout_from_jsonb(&replay->layout, layout);
	options = etl_layout_sink_options(&replay->layout, true, NULL);

	attnums = etl_layout_attnums(&replay->layout, replay->target);
	replay->nfields = list_length(replay->layout.columns);
	etl_sink_check_privileges(replay->target, attnums, replay->nfields,
							  &options);
	replay->sink = etl_sink_open(replay->target, attnums, replay->nfields,
								 &options, reject_row, replay);
	replay->converter = etl_converter_create(RelationGetDescr(replay->target),
											 attnums, replay->nfields);
	replay->row_letters = palloc(sizeof(int) * replay->sink->batch_limit);
	return true;
}

/* Close the group and count its rows. */
static void
end_group(Replay *replay)
{
	EtlSinkCounts *counts = &replay->sink->counts;

	etl_sink_flush(replay->sink);
	replay->call.run->rows_inserted += counts->inserted;
	replay->call.run->rows_updated += counts->updated;
	replay->call.run->rows_unchanged += counts->unchanged;
	etl_sink_close(replay->sink);
	table_close(replay->target, NoLock);
}

/* Replay the letters of one target and file. */
static void
replay_group(Replay *replay)
{
	int64 last_id = 0;

	if (!begin_group(replay))
		return;
	etl_progress_set(replay->call.run, ETL_PHASE_COPYING, ETL_UNIT_ROWS,
					 replay->call.replayed + replay->call.rejected,
					 (double) replay->call.expected);
	for (;;)
	{
		MemoryContextReset(replay->call.batch_context);
		replay->call.letters = MemoryContextAlloc(replay->call.batch_context,
												  sizeof(EtlReplayLetter) *
													  ETL_REPLAY_LETTERS);
		fetch_letters(replay, last_id);
		if (replay->call.nletters == 0)
			break;
		last_id = replay->call.letters[replay->call.nletters - 1].id;

		for (int i = 0; i < replay->call.nletters; i++)
		{
			CHECK_FOR_INTERRUPTS();
			replay_letter(replay, i);
			if (replay->sink->batch_rows >= replay->sink->batch_limit)
			{
				etl_converter_end_batch(replay->converter);
				etl_sink_flush(replay->sink);
			}
		}
		etl_converter_end_batch(replay->converter);
		etl_sink_flush(replay->sink);
		etl_replay_settle(&replay->call);
		etl_progress_done(replay->call.run,
						  replay->call.replayed + replay->call.rejected);
	}
	end_group(replay);
}

/* Replay all groups. */
static void
replay_groups(void *arg)
{
	Replay *replay = arg;
	List *targets;
	List *files;
	ListCell *target;
	ListCell *file;

	report_others(replay);
	etl_replay_changes(&replay->call);
	find_groups(replay, &targets, &files);
	forboth(target, targets, file, files)
	{
		replay->target_oid = lfirst_oid(target);
		replay->file_id = *(int64 *) lfirst(file);
		replay_group(replay);
	}
}

/*
 * etl_dead_letter_replay(target, dead_letter_ids): NULL means all that the
 * caller may replay.
 */
Datum
etl_dead_letter_replay(PG_FUNCTION_ARGS)
{
	Replay *replay = palloc0(sizeof(Replay));
	TupleDesc result_desc = etl_result_desc(fcinfo);
	Datum values[2];
	bool nulls[2] = {0};

	PreventCommandIfReadOnly("etl_dead_letter_replay()");
	replay->call.all_targets = PG_ARGISNULL(0);
	replay->call.target_filter = PG_GETARG_DATUM(0);
	replay->call.all_ids = PG_ARGISNULL(1);
	replay->call.id_filter = PG_GETARG_DATUM(1);
	replay->call.run = etl_run_prepare("dead_letter_replay", NULL,
									   replay->call.all_targets ?
										   InvalidOid :
										   PG_GETARG_OID(0));
	etl_run_start(replay->call.run);
	replay->call.batch_context = AllocSetContextCreate(CurrentMemoryContext,
													   "etl_patterns replay",
													   ALLOCSET_DEFAULT_SIZES);

	etl_guard_scope(replay_groups, replay);

	replay->call.run->rows_rejected = replay->call.rejected;
	replay->call.run->rows_read = replay->call.replayed + replay->call.rejected;
	etl_run_finish(replay->call.run, "succeeded", NULL);

	values[0] = Int64GetDatum(replay->call.replayed);
	values[1] = Int64GetDatum(replay->call.rejected);
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(result_desc, values, nulls)));
}
