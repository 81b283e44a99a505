/*-------------------------------------------------------------------------
 *
 * cdc_functions.c
 *	  Pipelines as users define them: create, and their tables.
 *
 * All arguments are checked before anything is written; nothing is done to the
 * WAL here, and no slot is made, so that a definition can be rolled back.  A
 * process that runs the pipeline is told at commit, and reads its tables anew.
 *
 * Locks: the name of a pipeline that is being created, as that of a job; the
 * row of a pipeline that is changed, then the one on circles.  That row is written, too, also if only a
 * table changes: the process that applies sees it before it commits, so that
 * nothing is applied by the old definition once the change is there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "etl_patterns.h"
#include "flow/cdc_check.h"
#include "flow/flow.h"
#include "worker/cdc_control.h"
#include "worker/job_check.h"
#include "worker/shared.h"

PG_FUNCTION_INFO_V1(etl_cdc_create);
PG_FUNCTION_INFO_V1(etl_cdc_add_table);
PG_FUNCTION_INFO_V1(etl_cdc_alter_table);
PG_FUNCTION_INFO_V1(etl_cdc_remove_table);

/* The arguments of etl_cdc_create */
enum
{
	CREATE_PIPELINE,
	CREATE_SERVER,
	CREATE_SNAPSHOT,
	CREATE_ON_ERROR,
	CREATE_BATCH_TRANSACTIONS
};

/* The arguments of etl_cdc_add_table and etl_cdc_alter_table */
enum
{
	TABLE_PIPELINE,
	TABLE_SOURCE,
	TABLE_TARGET,
	TABLE_APPLY,
	TABLE_APPLY_OPTIONS,
	TABLE_COLUMNS,
	TABLE_ROW_FILTER
};

static const char *const snapshot_words[] = {"initial", "none", NULL};
static const char *const on_error_words[] = {"pause", "dead_letter", NULL};
static const char *const apply_words[] = {"mirror",	   "scd2",	   "append",
										  "changelog", "function", NULL};

/* As many transactions become one commit, unless the pipeline says otherwise. */
#define DEFAULT_BATCH_TRANSACTIONS 5000

/* What the lock on a name is on: the third part of its name. */
#define LOCK_NAME 0xFFF1

/* ------------------------------------------------------------------ */
/* shared                                                               */

/* The pipeline that a user names, locked. */
EtlCdcPipeline *
etl_cdc_to_change(FunctionCallInfo fcinfo, const char *function)
{
	etl_refuse_null(fcinfo, 0, "pipeline");
	PreventCommandIfReadOnly(function);
	return etl_cdc_of_caller(etl_arg_text(fcinfo, 0), true);
}

/* Write a pipeline that was changed, and say so. */
void
etl_cdc_store(EtlCdcPipeline *pipeline)
{
	etl_cdc_update(pipeline);
	etl_tell_scheduler(ETL_NEWS_CDC, pipeline->pipeline_id);
}

/*
 * The tables of a pipeline with a source, and a target unless that is
 * InvalidOid.  A table that does not exist any more is found by its name.
 */
List *
etl_cdc_match(const EtlCdcPipeline *pipeline, const char *source, Oid target)
{
	Oid relid = InvalidOid;
	List *matches = NIL;
	ListCell *lc;

	if (pipeline->server == NULL)
		relid = etl_cdc_source_relid(source);
	foreach(lc, etl_cdc_tables(pipeline->pipeline_id))
	{
		EtlCdcTable *table = lfirst(lc);
		List *names = etl_qualified_names(table->source);
		bool is_it = strcmp(table->source, source) == 0 ||
					 (OidIsValid(relid) && table->source_relid == relid) ||
					 (pipeline->server != NULL &&
					  equal(llast(names), llast(etl_qualified_names(source))) &&
					  list_length(etl_qualified_names(source)) == 1);

		if (is_it && (!OidIsValid(target) || table->target == target))
			matches = lappend(matches, table);
	}
	if (matches == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("CDC pipeline \"%s\" has no such table: %s%s%s",
						pipeline->name, source, OidIsValid(target) ? " to " : "",
						OidIsValid(target) ? get_rel_name(target) : ""),
				 errhint("Its tables are in %s.cdc_table.", ETL_SCHEMA)));
	return matches;
}

/* ------------------------------------------------------------------ */
/* create                                                               */

/* A name that nobody has, and that nobody else takes before we commit. */
static void
check_new_name(const char *name)
{
	EtlCdcPipeline *pipeline;

	etl_job_check_name(name, "pipeline");
	LockDatabaseObject(etl_ledger_relid("cdc_pipeline"),
					   hash_bytes((const unsigned char *) name,
								  (int) strlen(name)),
					   LOCK_NAME, ExclusiveLock);
	pipeline = etl_cdc_by_name(name, false);
	if (pipeline == NULL)
		return;
	ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
					errmsg("CDC pipeline \"%s\" already exists", name),
					etl_ledger_is_ours(pipeline->role) ?
						0 :
						errdetail("It belongs to another role."),
					errhint("Choose another name.")));
}

/* etl_cdc_create(pipeline, server, snapshot, on_error, batch_transactions) */
Datum
etl_cdc_create(PG_FUNCTION_ARGS)
{
	EtlCdcPipeline *pipeline = palloc0(sizeof(EtlCdcPipeline));

	PreventCommandIfReadOnly("etl_cdc_create()");
	etl_refuse_null(fcinfo, CREATE_PIPELINE, "pipeline");
	pipeline->name = etl_arg_text(fcinfo, CREATE_PIPELINE);
	pipeline->role = GetUserId();
	pipeline->server = etl_arg_name(fcinfo, CREATE_SERVER);
	pipeline->snapshot = etl_option_word("snapshot",
										 etl_arg_text(fcinfo, CREATE_SNAPSHOT),
										 snapshot_words) == 0;
	pipeline->on_error = etl_option_word("on_error",
										 etl_arg_text(fcinfo, CREATE_ON_ERROR),
										 on_error_words);
	pipeline->batch_transactions = DEFAULT_BATCH_TRANSACTIONS;
	if (!PG_ARGISNULL(CREATE_BATCH_TRANSACTIONS))
		pipeline->batch_transactions = PG_GETARG_INT32(CREATE_BATCH_TRANSACTIONS);
	if (pipeline->batch_transactions < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s\" must be greater than zero",
						"batch_transactions"),
				 errhint("1 commits each transaction of the source by itself.")));

	check_new_name(pipeline->name);
	etl_cdc_check_owner(pipeline);
	if (pipeline->server != NULL)
		etl_cdc_check_server(pipeline->server, pipeline->role);
	etl_cdc_check_settings(pipeline, WARNING);

	pipeline->state = ETL_CDC_STOPPED;
	pipeline->created_at = GetCurrentTimestamp();
	etl_cdc_insert(pipeline);
	etl_job_check_armed();
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------ */
/* tables                                                               */

/* Set what the arguments say of a table, if they are not null. */
static void
set_table(FunctionCallInfo fcinfo, EtlCdcTable *table)
{
	if (!PG_ARGISNULL(TABLE_APPLY))
	{
		table->apply = etl_arg_text(fcinfo, TABLE_APPLY);
		(void) etl_option_word("apply", table->apply, apply_words);
	}
	if (!PG_ARGISNULL(TABLE_APPLY_OPTIONS))
		table->apply_options = PG_GETARG_JSONB_P(TABLE_APPLY_OPTIONS);
	if (!PG_ARGISNULL(TABLE_COLUMNS))
		table->columns = PG_GETARG_JSONB_P(TABLE_COLUMNS);
	if (!PG_ARGISNULL(TABLE_ROW_FILTER))
		table->row_filter = etl_arg_text(fcinfo, TABLE_ROW_FILTER);

	/* what is empty says nothing */
	if (table->columns != NULL && JB_ROOT_IS_OBJECT(table->columns) &&
		JB_ROOT_COUNT(table->columns) == 0)
		table->columns = NULL;
	if (table->row_filter != NULL && table->row_filter[0] == '\0')
		table->row_filter = NULL;
}

/* Throw if the owner is gone, whose rights are the pipeline's. */
static void
refuse_orphan(const EtlCdcPipeline *pipeline)
{
	if (SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(pipeline->role)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("the owner of CDC pipeline \"%s\" does not exist any more",
					pipeline->name),
			 errhint("Drop it with etl_cdc_drop(), and create another one.")));
}

/* Throw if the pipeline has the table already. */
static void
refuse_same_table(const EtlCdcPipeline *pipeline, const EtlCdcTable *table)
{
	ListCell *lc;

	foreach(lc, etl_cdc_tables(pipeline->pipeline_id))
	{
		const EtlCdcTable *other = lfirst(lc);

		if (other->target == table->target &&
			(strcmp(other->source, table->source) == 0 ||
			 (OidIsValid(table->source_relid) &&
			  other->source_relid == table->source_relid)))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("CDC pipeline \"%s\" has table %s to this target already",
							pipeline->name, table->source),
					 errhint("Change it with etl_cdc_alter_table().")));
	}
}

/*
 * Lock the pipeline whose tables were checked.  Not before: a process that
 * applies has locked its targets when it locks the row, and so must we.
 */
static EtlCdcPipeline *
lock_checked(const EtlCdcPipeline *checked)
{
	EtlCdcPipeline *pipeline = etl_cdc_of_caller(checked->name, true);

	if (pipeline->pipeline_id != checked->pipeline_id)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("CDC pipeline \"%s\" was dropped meanwhile",
							   checked->name)));
	return pipeline;
}

/*
 * etl_cdc_add_table(pipeline, source, target, apply, apply_options, columns,
 * row_filter)
 */
Datum
etl_cdc_add_table(PG_FUNCTION_ARGS)
{
	EtlCdcTable *table = palloc0(sizeof(EtlCdcTable));
	EtlCdcPipeline *pipeline;

	etl_refuse_null(fcinfo, TABLE_PIPELINE, "pipeline");
	etl_refuse_null(fcinfo, TABLE_SOURCE, "source");
	etl_refuse_null(fcinfo, TABLE_TARGET, "target");
	etl_refuse_null(fcinfo, TABLE_APPLY, "apply");
	etl_refuse_null(fcinfo, TABLE_APPLY_OPTIONS, "apply_options");
	PreventCommandIfReadOnly("etl_cdc_add_table()");
	pipeline = etl_cdc_of_caller(etl_arg_text(fcinfo, TABLE_PIPELINE), false);
	refuse_orphan(pipeline);
	table->pipeline_id = pipeline->pipeline_id;
	table->pipeline = pipeline->name;
	table->role = pipeline->role;
	table->target = PG_GETARG_OID(TABLE_TARGET);
	set_table(fcinfo, table);

	etl_cdc_find_source(pipeline, table, etl_arg_text(fcinfo, TABLE_SOURCE));
	refuse_same_table(pipeline, table);
	etl_cdc_check_table(pipeline, table, true);

	pipeline = lock_checked(pipeline);
	refuse_same_table(pipeline, table);
	etl_cdc_check_circle(table);
	table->state = ETL_CDC_TABLE_NEW;
	etl_cdc_table_insert(table);
	etl_cdc_store(pipeline);
	PG_RETURN_VOID();
}

/* The table of a pipeline that a user names by its source and target. */
static EtlCdcTable *
table_of_caller(FunctionCallInfo fcinfo, const EtlCdcPipeline *pipeline)
{
	return linitial(etl_cdc_match(pipeline, etl_arg_text(fcinfo, TABLE_SOURCE),
								  PG_GETARG_OID(TABLE_TARGET)));
}

/*
 * etl_cdc_alter_table(pipeline, source, target, apply, apply_options, columns,
 * row_filter): what is null stays.
 */
Datum
etl_cdc_alter_table(PG_FUNCTION_ARGS)
{
	EtlCdcPipeline *pipeline;
	EtlCdcTable *table;
	EtlCdcTable *locked;

	etl_refuse_null(fcinfo, TABLE_PIPELINE, "pipeline");
	etl_refuse_null(fcinfo, TABLE_SOURCE, "source");
	etl_refuse_null(fcinfo, TABLE_TARGET, "target");
	PreventCommandIfReadOnly("etl_cdc_alter_table()");
	pipeline = etl_cdc_of_caller(etl_arg_text(fcinfo, TABLE_PIPELINE), false);
	refuse_orphan(pipeline);
	table = table_of_caller(fcinfo, pipeline);
	if (!PG_ARGISNULL(TABLE_APPLY) && PG_ARGISNULL(TABLE_APPLY_OPTIONS) &&
		strcmp(table->apply, etl_arg_text(fcinfo, TABLE_APPLY)) != 0)
		table->apply_options = DatumGetJsonbP(
			DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	set_table(fcinfo, table);
	etl_cdc_find_source(pipeline, table, NULL);
	etl_cdc_check_table(pipeline, table, true);

	pipeline = lock_checked(pipeline);
	locked = table_of_caller(fcinfo, pipeline);
	etl_cdc_check_circle(table);
	table->place = locked->place;
	table->state = locked->state;
	table->copy_snapshot = locked->copy_snapshot;
	table->rows_copied = locked->rows_copied;
	table->copied_at = locked->copied_at;
	etl_cdc_table_update(table);
	etl_cdc_store(pipeline);
	PG_RETURN_VOID();
}

/* etl_cdc_remove_table(pipeline, source, target): null is all targets. */
Datum
etl_cdc_remove_table(PG_FUNCTION_ARGS)
{
	EtlCdcPipeline *pipeline;
	Oid target = PG_ARGISNULL(TABLE_TARGET) ? InvalidOid :
											  PG_GETARG_OID(TABLE_TARGET);
	ListCell *lc;

	etl_refuse_null(fcinfo, TABLE_SOURCE, "source");
	pipeline = etl_cdc_to_change(fcinfo, "etl_cdc_remove_table()");
	foreach(lc,
			etl_cdc_match(pipeline, etl_arg_text(fcinfo, TABLE_SOURCE), target))
		etl_cdc_table_delete(lfirst(lc));
	etl_cdc_store(pipeline);
	PG_RETURN_VOID();
}
