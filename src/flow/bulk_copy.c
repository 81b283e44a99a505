/*-------------------------------------------------------------------------
 *
 * bulk_copy.c
 *	  etl_bulk_copy(): load files into a table, in the caller's transaction.
 *
 * Locks: ROW EXCLUSIVE on the target, as for INSERT.  When indexes are to be
 * rebuilt, which only the owner may do, SHARE ROW EXCLUSIVE, which keeps other
 * writers out; "auto" takes that one only if it is free.  For each file a lock
 * on (target, file size) makes two sessions that load the same file take
 * turns, see loaded_file.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "flow/bulk_copy.h"

PG_FUNCTION_INFO_V1(etl_bulk_copy);

/* The parameters of etl_bulk_copy(), in order. */
enum
{
	ARG_TARGET,
	ARG_SOURCE,
	ARG_COLUMNS,
	ARG_FORMAT,
	ARG_ON_ERROR = ARG_FORMAT + ETL_FORMAT_ARGS,
	ARG_REJECT_LIMIT,
	ARG_REJECT_RATIO,
	ARG_ON_CONFLICT,
	ARG_KEYS,
	ARG_INDEXES,
	ARG_WORKERS,
	ARG_FORCE,
	ARG_AFTER_LOAD,
	ARG_MOVE_TO,
	ARG_DRY_RUN,
	ARG_FREEZE
};

/* The words of the options, in the order of their enums. */
static const char *const on_error_words[] = {"abort", "skip", "dead_letter",
											 NULL};
static const char *const indexes_words[] = {"auto", "keep", "rebuild", NULL};
static const char *const after_load_words[] = {"keep", "delete", "move", NULL};

/*
 * With indexes => 'auto' they are rebuilt if the files are larger than this,
 * and so many times larger than the table.  Rebuilding the indexes of a table
 * that is mostly there already costs more than it saves.
 */
#define REBUILD_MIN_BYTES (8 * 1024 * 1024)
#define REBUILD_MIN_RATIO 4

/* What compressed bytes grow to, for estimates. */
#define COMPRESSION_RATIO 4

/* What becomes of rows that cannot be loaded. */
static void
read_error_args(FunctionCallInfo fcinfo, EtlBulkCopy *bulk)
{
	bulk->on_error = etl_option_word("on_error",
									 etl_arg_text(fcinfo, ARG_ON_ERROR),
									 on_error_words);
	bulk->reject_limit = -1;
	bulk->reject_ratio = -1;
	if (!PG_ARGISNULL(ARG_REJECT_LIMIT))
	{
		bulk->reject_limit = PG_GETARG_INT64(ARG_REJECT_LIMIT);
		etl_refuse_negative((double) bulk->reject_limit, "reject_limit");
	}
	if (!PG_ARGISNULL(ARG_REJECT_RATIO))
	{
		bulk->reject_ratio = PG_GETARG_FLOAT8(ARG_REJECT_RATIO);
		if (!(bulk->reject_ratio >= 0 && bulk->reject_ratio <= 1))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg(
						 "parameter \"reject_ratio\" must be between 0 and 1")));
	}
	if (bulk->on_error == ETL_ON_ERROR_ABORT &&
		(bulk->reject_limit >= 0 || bulk->reject_ratio >= 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg(
					 "reject_limit and reject_ratio have no meaning with on_error => 'abort'"),
				 errhint(
					 "Use on_error => 'skip' or on_error => 'dead_letter'.")));

	bulk->layout.on_conflict = etl_option_word("on_conflict",
											   etl_arg_text(fcinfo,
															ARG_ON_CONFLICT),
											   etl_conflict_words);
	bulk->layout.keys = etl_arg_names(fcinfo, ARG_KEYS);
	if (bulk->layout.keys != NIL &&
		bulk->layout.on_conflict == ETL_CONFLICT_ERROR)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("keys have no meaning with on_conflict => 'error'"),
				 errhint(
					 "Use on_conflict => 'skip' or on_conflict => 'update'.")));
}

/* How the load is carried out, and what follows it. */
static void
read_execution_args(FunctionCallInfo fcinfo, EtlBulkCopy *bulk)
{
	bulk->indexes = etl_option_word("indexes", etl_arg_text(fcinfo, ARG_INDEXES),
									indexes_words);
	bulk->workers = -1;
	if (!PG_ARGISNULL(ARG_WORKERS))
	{
		bulk->workers = PG_GETARG_INT32(ARG_WORKERS);
		etl_refuse_negative(bulk->workers, "workers");
	}
	bulk->force = etl_arg_bool(fcinfo, ARG_FORCE);
	bulk->dry_run = etl_arg_bool(fcinfo, ARG_DRY_RUN);
	bulk->freeze = etl_arg_bool(fcinfo, ARG_FREEZE);
	if (bulk->freeze && bulk->layout.on_conflict != ETL_CONFLICT_ERROR)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg(
					 "freeze has no meaning with on_conflict => 'skip' or 'update'")));
	bulk->after_load = etl_option_word("after_load",
									   etl_arg_text(fcinfo, ARG_AFTER_LOAD),
									   after_load_words);
	bulk->move_to = etl_arg_text(fcinfo, ARG_MOVE_TO);
	if ((bulk->after_load == ETL_AFTER_LOAD_MOVE) != (bulk->move_to != NULL))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("after_load => 'move' and move_to go together")));
	if (bulk->move_to != NULL && !is_absolute_path(bulk->move_to))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("relative path not allowed for parameter \"move_to\"")));
}

/*
 * Who may not insert must not even wait for a lock, behind which others would
 * have to wait.  This is no more than that: see etl_sink_check_privileges().
 */
static void
check_may_lock(Oid relid)
{
	char relkind = get_rel_relkind(relid);

	switch (relkind)
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
		case RELKIND_FOREIGN_TABLE:
		case RELKIND_VIEW:
			if (pg_class_aclcheck(relid, GetUserId(), ACL_INSERT) != ACLCHECK_OK &&
				pg_attribute_aclcheck_all(relid, GetUserId(), ACL_INSERT,
										  ACLMASK_ANY) != ACLCHECK_OK)
				aclcheck_error(ACLCHECK_NO_PRIV, get_relkind_objtype(relkind),
							   get_rel_name(relid));
			break;
		default:
			break;
	}
}

/*
 * Open the target and check what can be checked before a file is looked at:
 * that it can be loaded into, by this role, and has the columns and keys that
 * the call names.  What a header names is checked file by file.
 */
static void
open_target(EtlBulkCopy *bulk)
{
	EtlLayout layout = bulk->layout;
	EtlSinkOptions options = etl_layout_sink_options(&layout, false, NULL);
	LOCKMODE lockmode = RowExclusiveLock;

	check_may_lock(bulk->target_oid);
	if (bulk->indexes == ETL_INDEXES_REBUILD &&
		etl_owns_relation(bulk->target_oid, GetUserId()))
		lockmode = ShareRowExclusiveLock;
	bulk->target = try_relation_open(bulk->target_oid, lockmode);
	if (bulk->target == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("relation with OID %u does not exist",
							   bulk->target_oid)));
	if (lockmode != RowExclusiveLock)
		LockRelationOid(bulk->target_oid, RowExclusiveLock); /* as writers do */
	bulk->allowed_columns = layout.columns != NIL ?
								layout.columns :
								etl_insertable_columns(bulk->target);
	if (bulk->format.header != ETL_HEADER_MATCH)
		layout.columns = bulk->allowed_columns;
	etl_sink_check_privileges(bulk->target,
							  etl_layout_attnums(&layout, bulk->target),
							  list_length(layout.columns), &options);
	if (bulk->freeze)
		etl_sink_check_freeze(bulk->target);
}

/* What the files hold, roughly, once they are inflated. */
static double
estimate_bytes(EtlBulkCopy *bulk)
{
	double bytes = 0;
	ListCell *lc;

	foreach(lc, bulk->paths)
	{
		const char *path = lfirst(lc);
		const char *suffix = strrchr(path, '.');
		bool compressed = suffix != NULL && (strcmp(suffix, ".gz") == 0 ||
											 strcmp(suffix, ".zst") == 0);
		EtlFileInfo info;

		etl_file_stat(path, &info);
		bytes += (double) info.size_bytes * (compressed ? COMPRESSION_RATIO : 1);
	}
	return bytes;
}

/* Does it pay to leave indexes out?  If not, *reason says why. */
static bool
leaving_out_pays(EtlBulkCopy *bulk, const char **reason)
{
	double bytes = estimate_bytes(bulk);
	double table_bytes = (double) RelationGetNumberOfBlocks(bulk->target) *
						 BLCKSZ;

	if (bytes < REBUILD_MIN_BYTES || bytes < REBUILD_MIN_RATIO * table_bytes)
		*reason = "rebuilding would not pay";
	else if (!ConditionalLockRelationOid(bulk->target_oid, ShareRowExclusiveLock))
		*reason = "others are writing to the table";
	else
		return true;
	return false;
}

/*
 * Should the indexes wait until the rows are in?  Only if "auto" finds that
 * it pays, and that nobody else is writing.
 */
static void
settle_indexes(EtlBulkCopy *bulk)
{
	const char *reason = NULL;
	EtlLeftOut *left_out;

	if (bulk->indexes == ETL_INDEXES_KEEP)
		reason = "as asked";
	else if (bulk->dry_run)
		reason = "dry run";
	else if (bulk->layout.on_conflict != ETL_CONFLICT_ERROR)
		reason = "conflicts are looked up in the indexes";
	else
	{
		left_out = etl_indexes_leave_out(bulk->target,
										 bulk->on_error != ETL_ON_ERROR_ABORT,
										 &reason);
		if (bulk->indexes == ETL_INDEXES_REBUILD && left_out == NULL)
			ereport(NOTICE,
					(errmsg("indexes of \"%s\" are not rebuilt: %s",
							RelationGetRelationName(bulk->target), reason)));
		if (left_out != NULL && (bulk->indexes == ETL_INDEXES_REBUILD ||
								 leaving_out_pays(bulk, &reason)))
			bulk->left_out = left_out;
	}
	bulk->indexes_reason = reason;
}

/* Passing reject_ratio aborts the load; only the whole of it can tell. */
static void
check_reject_ratio(EtlBulkCopy *bulk)
{
	double rejected = (double) bulk->run->rows_rejected;
	double read = (double) bulk->run->rows_read;

	if (bulk->reject_ratio >= 0 && read > 0 &&
		rejected / read > bulk->reject_ratio)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("load rejected " INT64_FORMAT " of " INT64_FORMAT
						" rows, more than reject_ratio allows",
						bulk->run->rows_rejected, bulk->run->rows_read),
				 errdetail("The ratio is %g, the limit is %g.", rejected / read,
						   bulk->reject_ratio),
				 errhint(
					 "See the rejected rows with dry_run => true and no limit.")));
}

/*
 * How many bytes there are to be read, as stored.  A file that has gone since
 * is missed when its turn comes.
 */
static int64
total_bytes(EtlBulkCopy *bulk)
{
	int64 bytes = 0;
	ListCell *lc;

	foreach(lc, bulk->paths)
	{
		struct stat st;

		if (stat(lfirst(lc), &st) == 0)
			bytes += (int64) st.st_size;
	}
	return bytes;
}

/* Load all files and make the indexes whole again. */
static void
load_files(void *arg)
{
	EtlBulkCopy *bulk = arg;
	ListCell *lc;

	bulk->bytes_total = total_bytes(bulk);
	etl_bulk_settle_workers(bulk);
	foreach(lc, bulk->paths)
		etl_bulk_load_file(bulk, lfirst(lc));
	etl_bulk_end_workers(bulk);
	if (bulk->loading)
		etl_load_end(&bulk->load);
	if (bulk->loading && bulk->left_out != NULL)
		etl_indexes_rebuild(bulk->target, bulk->left_out, bulk->run);
	check_reject_ratio(bulk);
}

/* Load and undo it: only the counts remain. */
static void
load_files_dry(void *arg)
{
	etl_guard_undone(load_files, arg);
}

/* What the run's row says beyond its counts. */
static Jsonb *
run_detail(EtlBulkCopy *bulk)
{
	StringInfoData json;
	const char *separator = "";

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"source\": ");
	escape_json(&json, bulk->source);
	appendStringInfo(&json,
					 ", \"files_loaded\": " INT64_FORMAT
					 ", \"files_skipped\": " INT64_FORMAT ", \"on_error\": \"%s\""
					 ", \"indexes\": {\"used\": \"%s\"",
					 bulk->files_loaded, bulk->files_skipped,
					 on_error_words[bulk->on_error],
					 bulk->left_out != NULL ? "rebuild" : "keep");
	if (bulk->left_out == NULL)
	{
		appendStringInfoString(&json, ", \"reason\": ");
		escape_json(&json, bulk->indexes_reason);
	}
	appendStringInfoString(&json, "}, \"workers\": ");
	etl_bulk_workers_detail(bulk, &json);
	appendStringInfoString(&json, ", \"rejected\": {");
	for (int i = 0; bulk->loading && i < ETL_NUM_CATEGORIES; i++)
	{
		if (bulk->load.rejected_by_category[i] == 0)
			continue;
		appendStringInfo(&json, "%s\"%s\": " INT64_FORMAT, separator,
						 etl_category_name(i),
						 bulk->load.rejected_by_category[i]);
		separator = ", ";
	}
	appendStringInfoString(&json, "}, \"first_rejects\": [");
	if (bulk->loading)
		etl_load_first_rejects(&bulk->load, &json);
	appendStringInfoString(&json, "]}");
	return DatumGetJsonbP(
		DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}

static Datum
result_row(EtlBulkCopy *bulk, TupleDesc desc)
{
	EtlRun *run = bulk->run;
	Datum values[8];
	bool nulls[8] = {0};

	values[0] = Int64GetDatum(run->run_id);
	values[1] = Int64GetDatum(bulk->files_loaded);
	values[2] = Int64GetDatum(bulk->files_skipped);
	values[3] = Int64GetDatum(run->rows_read);
	values[4] = Int64GetDatum(run->rows_inserted + run->rows_updated);
	values[5] = Int64GetDatum(run->rows_rejected);
	values[6] = Int64GetDatum(run->bytes_read);
	values[7] = DirectFunctionCall2(timestamp_mi,
									TimestampTzGetDatum(GetCurrentTimestamp()),
									TimestampTzGetDatum(run->started_at));
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/*
 * etl_bulk_copy(target, source, ...): see docs/bulk-load.md.
 */
Datum
etl_bulk_copy(PG_FUNCTION_ARGS)
{
	EtlBulkCopy *bulk = palloc0(sizeof(EtlBulkCopy));
	TupleDesc result_desc = etl_result_desc(fcinfo);

	etl_refuse_null(fcinfo, ARG_TARGET, "target");
	etl_refuse_null(fcinfo, ARG_SOURCE, "source");
	bulk->target_oid = PG_GETARG_OID(ARG_TARGET);
	bulk->source = etl_arg_text(fcinfo, ARG_SOURCE);
	etl_format_from_args(&bulk->format, fcinfo, ARG_FORMAT);
	bulk->layout.dialect = bulk->format.dialect;
	bulk->layout.columns = etl_arg_names(fcinfo, ARG_COLUMNS);
	read_error_args(fcinfo, bulk);
	read_execution_args(fcinfo, bulk);
	PreventCommandIfReadOnly("etl_bulk_copy()");
	etl_check_file_privilege(bulk->after_load != ETL_AFTER_LOAD_KEEP);

	bulk->load_context = CurrentMemoryContext;
	bulk->file_context = AllocSetContextCreate(CurrentMemoryContext,
											   "etl_patterns file",
											   ALLOCSET_DEFAULT_SIZES);
	bulk->run = etl_run_prepare("bulk_copy", NULL, bulk->target_oid);
	open_target(bulk);
	bulk->paths = etl_files_expand(bulk->source);
	settle_indexes(bulk);

	etl_run_start(bulk->run);
	etl_guard_scope(bulk->dry_run ? load_files_dry : load_files, bulk);
	etl_run_finish(bulk->run, bulk->dry_run ? "dry_run" : "succeeded",
				   run_detail(bulk));

	table_close(bulk->target, NoLock);
	PG_RETURN_DATUM(result_row(bulk, result_desc));
}
