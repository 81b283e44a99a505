/*-------------------------------------------------------------------------
 *
 * bulk_file.c
 *	  One file of a bulk load: is it in already, what is in which field, load.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "flow/bulk_copy.h"

/* Shows how many bytes of all files have been read. */
static void
show_phase(EtlBulkCopy *bulk, EtlPhase phase)
{
	etl_progress_set(bulk->run, phase, ETL_UNIT_BYTES, bulk->run->bytes_read,
					 (double) bulk->bytes_total);
}

/* Is the file in the target?  Fills content_hash when it had to be computed. */
static bool
is_loaded(EtlBulkCopy *bulk, EtlLoadedFile *file)
{
	show_phase(bulk, ETL_PHASE_WAITING);
	switch (etl_loaded_file_look(file))
	{
		case ETL_FILE_LOADED:
			return true;
		case ETL_FILE_SAME_SIZE:
			show_phase(bulk, ETL_PHASE_HASHING);
			etl_file_hash(file->path, file->content_hash);
			return etl_loaded_file_has_content(file);
		case ETL_FILE_NEW:
			break;
	}
	return false;
}

/* The columns of this file's fields: those of the header, or as the call says. */
static void
settle_columns(EtlBulkCopy *bulk, List *header_names, EtlLayout *layout)
{
	ListCell *lc;

	*layout = bulk->layout;
	layout->columns = bulk->allowed_columns;
	if (header_names == NIL)
		return;

	foreach(lc, header_names)
	{
		bool allowed = false;
		ListCell *lc2;

		if (bulk->layout.columns == NIL)
			break;
		foreach(lc2, bulk->layout.columns)
			allowed |= strcmp(lfirst(lc), lfirst(lc2)) == 0;
		if (!allowed)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of the header is not in the parameter \"columns\"",
							(char *) lfirst(lc)),
					 errhint(
						 "List every column of the header, or use header => 'skip' to go by position.")));
	}
	layout->columns = header_names;
}

/* Prepare the load for the columns of the next file. */
static void
set_columns(EtlBulkCopy *bulk, const EtlLayout *layout)
{
	AttrNumber *attnums = etl_layout_attnums(layout, bulk->target);
	int nfields = list_length(layout->columns);
	EtlSinkOptions options = etl_layout_sink_options(layout,
													 bulk->on_error !=
														 ETL_ON_ERROR_ABORT,
													 bulk->left_out);

	options.freeze = bulk->freeze;
	etl_sink_check_privileges(bulk->target, attnums, nfields, &options);
	if (bulk->loading)
	{
		etl_load_set_columns(&bulk->load, attnums, nfields);
		return;
	}
	etl_load_begin(&bulk->load, bulk->run, bulk->target, bulk->on_error,
				   attnums, nfields, &options);
	bulk->load.reject_limit = bulk->reject_limit;
	bulk->loading = true;
}

static void
file_error_context(void *arg)
{
	errcontext("file \"%s\"", (const char *) arg);
}

/* Load a file that is not in the target yet, and remember it. */
static void
load_new_file(EtlBulkCopy *bulk, const EtlFileInfo *info, EtlLoadedFile *file)
{
	EtlLoad *load = &bulk->load;
	MemoryContext old_context;
	EtlLayout layout;
	List *header_names;
	EtlStream *stream;
	EtlCsvReader *reader;
	int64 loaded_before;
	int64 rejected_before;
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = file_error_context,
		.arg = unconstify(char *, info->path),
	};

	error_context_stack = &context;
	stream = etl_stream_open_file(info, bulk->format.compression);
	reader = etl_format_open(&bulk->format, stream, &header_names);
	settle_columns(bulk, header_names, &layout);

	/* The sink lives as long as the load, not as long as the file. */
	old_context = MemoryContextSwitchTo(bulk->load_context);
	set_columns(bulk, &layout);
	MemoryContextSwitchTo(old_context);
	error_context_stack = context.previous;

	loaded_before = load->sink->counts.inserted + load->sink->counts.updated;
	rejected_before = bulk->run->rows_rejected;
	file->file_id = etl_ledger_next_id("file_id_seq");
	load->source_name = info->path;
	load->file_id = file->file_id;
	load->file_no++;
	load->feed = etl_bulk_open_feed(bulk, info, stream, reader);
	show_phase(bulk, ETL_PHASE_COPYING);
	etl_load_records(load);

	load->feed->ops->close(load->feed, file->content_hash);
	bulk->run->bytes_read += info->size_bytes;

	file->rows_loaded = load->sink->counts.inserted +
						load->sink->counts.updated - loaded_before;
	file->rows_rejected = bulk->run->rows_rejected - rejected_before;
	file->layout = etl_layout_to_jsonb(&layout);
	etl_loaded_file_record(file, bulk->run);
}

/* Load a file, or skip it if it is in the target. */
void
etl_bulk_load_file(EtlBulkCopy *bulk, const char *path)
{
	MemoryContext old_context = MemoryContextSwitchTo(bulk->file_context);
	EtlFileInfo info;
	EtlLoadedFile file = {0};

	CHECK_FOR_INTERRUPTS();
	etl_file_stat(path, &info);
	etl_after_load_check(bulk->after_load, bulk->move_to, &info);

	file.target = bulk->target_oid;
	file.path = path;
	file.size_bytes = info.size_bytes;
	file.modified_at = info.modified_at;
	if (!bulk->force && is_loaded(bulk, &file))
	{
		bulk->files_skipped++;
		bulk->bytes_total -= info.size_bytes;
	}
	else
	{
		load_new_file(bulk, &info, &file);
		bulk->files_loaded++;
	}
	etl_after_load_at_commit(bulk->after_load, bulk->move_to, &info);

	MemoryContextSwitchTo(old_context);
	MemoryContextReset(bulk->file_context);
}
