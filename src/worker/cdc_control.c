/*-------------------------------------------------------------------------
 *
 * cdc_control.c
 *	  Pipelines as users control them: start, stop, wait, skip, resync, drop.
 *
 * A pipeline runs as its row says.  Who changes that has the row locked, and
 * the process that applies writes the row with each batch; so when a stop has
 * committed, nothing is applied any more.  What ends a process waits for it
 * (cdc_slot.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "etl_patterns.h"
#include "flow/cdc_apply.h"
#include "flow/cdc_check.h"
#include "flow/flow.h"
#include "source/wal_wake.h"
#include "worker/cdc_control.h"
#include "worker/job_check.h"
#include "worker/shared.h"

/* A wait looks so often, less and less. */
#define MIN_LOOK_MS 1
#define MAX_LOOK_MS 50

/* A start waits for locks no longer than that, unless the session says so. */
#define START_LOCK_TIMEOUT "10s"

PG_FUNCTION_INFO_V1(etl_cdc_start);
PG_FUNCTION_INFO_V1(etl_cdc_stop);
PG_FUNCTION_INFO_V1(etl_cdc_wait);
PG_FUNCTION_INFO_V1(etl_cdc_skip);
PG_FUNCTION_INFO_V1(etl_cdc_resync);
PG_FUNCTION_INFO_V1(etl_cdc_drop);

/* ------------------------------------------------------------------ */
/* start and stop                                                       */

static bool
is_to_run(const EtlCdcPipeline *pipeline)
{
	return pipeline->state == ETL_CDC_STARTING ||
		   pipeline->state == ETL_CDC_COPYING ||
		   pipeline->state == ETL_CDC_RUNNING;
}

/* Throw if what the slot kept is gone: it cannot go on where it was. */
static void
refuse_lost(const EtlCdcPipeline *pipeline)
{
	bool is_copy = pipeline->has_slot && !etl_cdc_owns_slot(pipeline);

	if (pipeline->state != ETL_CDC_LOST && !is_copy)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("CDC pipeline \"%s\" cannot go on where it was",
					pipeline->name),
			 is_copy ?
				 errdetail(
					 "It was restored or copied from another database, and its replication slot is there.") :
				 errdetail("Its replication slot is lost: changes since %X/%X are missing.",
						   LSN_FORMAT_ARGS(pipeline->applied)),
			 errhint("etl_cdc_resync('%s') copies its tables again and follows them from now on.",
					 pipeline->name)));
}

/* Who waits for a lock is to know what for. */
static void
check_context(void *arg)
{
	const EtlCdcTable *table = arg;

	errcontext("check of table %s of CDC pipeline \"%s\"", table->source,
			   table->pipeline);
	if (geterrcode() == ERRCODE_LOCK_NOT_AVAILABLE)
		errhint("Another session has locked the source or the target: see pg_locks. Setting lock_timeout says how long to wait, instead of %s.",
				START_LOCK_TIMEOUT);
}

/*
 * What must hold of the tables.  The pipeline is locked, and others wait for
 * that; so nobody waits for ever for a lock on a table.
 */
static void
check_tables(const EtlCdcPipeline *pipeline, List *tables)
{
	int level = NewGUCNestLevel();
	ErrorContextCallback callback;
	ListCell *lc;

	if (LockTimeout == 0)
		(void) set_config_option("lock_timeout", START_LOCK_TIMEOUT, PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	callback.callback = check_context;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	foreach(lc, tables)
	{
		EtlCdcTable *table = lfirst(lc);

		callback.arg = table;
		if (pipeline->server == NULL)
			etl_cdc_find_source(pipeline, table, NULL);
		etl_cdc_check_table(pipeline, table, pipeline->server == NULL);
	}
	error_context_stack = callback.previous;
	AtEOXact_GUC(false, level);
}

/* All that must hold of a pipeline when it starts. */
static void
check_startable(const EtlCdcPipeline *pipeline)
{
	List *tables = etl_cdc_tables(pipeline->pipeline_id);

	if (tables == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("CDC pipeline \"%s\" has no tables", pipeline->name),
				 errhint("Add some with etl_cdc_add_table().")));
	etl_cdc_check_owner(pipeline);
	etl_cdc_check_settings(pipeline, ERROR);
	if (pipeline->server != NULL)
		etl_cdc_check_remote(pipeline);
	check_tables(pipeline, tables);
	etl_cdc_check_workers(pipeline);
	etl_job_check_armed();
}

/* Make a pipeline run: an error that it had is over. */
static void
start(EtlCdcPipeline *pipeline)
{
	pipeline->state = ETL_CDC_STARTING;
	pipeline->error_code = NULL;
	pipeline->error_message = NULL;
	pipeline->error_hint = NULL;
	pipeline->error_change = NULL;
	pipeline->error_at = 0;
	etl_cdc_store(pipeline);
}

/* etl_cdc_start(pipeline) */
Datum
etl_cdc_start(PG_FUNCTION_ARGS)
{
	EtlCdcPipeline *pipeline = etl_cdc_to_change(fcinfo, "etl_cdc_start()");

	if (is_to_run(pipeline))
	{
		ereport(NOTICE, (errmsg("CDC pipeline \"%s\" is running already",
								pipeline->name)));
		PG_RETURN_VOID();
	}
	refuse_lost(pipeline);
	check_startable(pipeline);
	start(pipeline);
	PG_RETURN_VOID();
}

/* etl_cdc_stop(pipeline): its process is gone when this returns. */
Datum
etl_cdc_stop(PG_FUNCTION_ARGS)
{
	EtlCdcPipeline *pipeline = etl_cdc_to_change(fcinfo, "etl_cdc_stop()");

	etl_cdc_end_process(pipeline);
	if (!is_to_run(pipeline) && pipeline->state != ETL_CDC_PAUSED)
	{
		ereport(NOTICE,
				(errmsg("CDC pipeline \"%s\" is not running", pipeline->name)));
		PG_RETURN_VOID();
	}
	pipeline->state = ETL_CDC_STOPPED;
	etl_cdc_store(pipeline);
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------ */
/* wait                                                                 */

/* The end of the source's WAL, now. */
static XLogRecPtr
source_position(const EtlCdcPipeline *pipeline)
{
	static const char *const sql = "SELECT pg_catalog.pg_current_wal_flush_lsn()";
	EtlRemote *remote;
	PGresult *result;
	XLogRecPtr position;

	if (pipeline->server == NULL)
		return etl_cdc_end_of_wal();
	remote = etl_cdc_connect(pipeline);
	result = etl_remote_query(remote, sql, PGRES_TUPLES_OK);
	if (PQntuples(result) != 1 || PQnfields(result) != 1)
		ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
						errmsg("server \"%s\" has sent an unexpected result",
							   pipeline->server)));
	position = DatumGetLSN(
		DirectFunctionCall1(pg_lsn_in,
							CStringGetDatum(PQgetvalue(result, 0, 0))));
	etl_remote_disconnect(remote);
	return position;
}

/* Throw if a pipeline will not come any further by itself. */
static void
refuse_idle(const EtlCdcPipeline *pipeline)
{
	if (is_to_run(pipeline))
		return;
	if (pipeline->state == ETL_CDC_STOPPED)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("CDC pipeline \"%s\" is stopped", pipeline->name),
						errhint("Start it with etl_cdc_start().")));
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("CDC pipeline \"%s\" is %s", pipeline->name,
						   pipeline->state == ETL_CDC_LOST ? "lost" : "paused"),
					pipeline->error_message == NULL ?
						0 :
						errdetail("%s", pipeline->error_message),
					pipeline->error_hint == NULL ?
						0 :
						errhint("%s", pipeline->error_hint)));
}

/* Are all tables copied? */
static bool
is_copied(const EtlCdcPipeline *pipeline)
{
	ListCell *lc;

	foreach(lc, etl_cdc_tables(pipeline->pipeline_id))
		if (((EtlCdcTable *) lfirst(lc))->state == ETL_CDC_TABLE_NEW)
			return false;
	return true;
}

/* Has a pipeline come as far as that? */
static bool
has_reached(const EtlCdcPipeline *pipeline, XLogRecPtr position)
{
	EtlCdcProgress progress;
	XLogRecPtr applied = pipeline->applied;

	if (etl_cdc_progress(pipeline->pipeline_id, &progress))
		applied = Max(applied, progress.applied);
	return applied >= position && is_copied(pipeline);
}

/*
 * A slot is made when all transactions have ended that are open.  If ours had
 * written, the pipeline would wait for it, and it for the pipeline.
 */
static void
refuse_to_wait_for_us(const EtlCdcPipeline *pipeline)
{
	if (!pipeline->has_slot && TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot wait for CDC pipeline \"%s\" in a transaction that has written",
						pipeline->name),
				 errdetail(
					 "The pipeline starts when all transactions have ended that write now."),
				 errhint("Commit first, then wait.")));
}

/*
 * etl_cdc_wait(pipeline, lsn, timeout): true when all that was committed before
 * is in the targets, false if time was over.
 */
Datum
etl_cdc_wait(PG_FUNCTION_ARGS)
{
	TimestampTz start = GetCurrentTimestamp();
	MemoryContext context;
	MemoryContext caller_context;
	EtlCdcPipeline *pipeline;
	XLogRecPtr position;
	int64 limit = -1;
	long look_after = MIN_LOOK_MS;
	bool reached;

	etl_refuse_null(fcinfo, 0, "pipeline");
	PreventCommandDuringRecovery("etl_cdc_wait()");
	if (!PG_ARGISNULL(2))
	{
		etl_job_check_interval(PG_GETARG_INTERVAL_P(2), "timeout");
		limit = etl_interval_usec(PG_GETARG_INTERVAL_P(2));
	}
	pipeline = etl_cdc_of_caller(etl_arg_text(fcinfo, 0), false);
	position = PG_ARGISNULL(1) ? source_position(pipeline) : PG_GETARG_LSN(1);

	context = AllocSetContextCreate(CurrentMemoryContext, "etl wait",
									ALLOCSET_SMALL_SIZES);
	caller_context = MemoryContextSwitchTo(context);
	for (;;)
	{
		MemoryContextReset(context);
		pipeline = etl_cdc_of_caller(etl_arg_text(fcinfo, 0), false);
		reached = has_reached(pipeline, position);
		if (reached || (limit >= 0 && GetCurrentTimestamp() - start >= limit))
			break;
		refuse_idle(pipeline);
		refuse_to_wait_for_us(pipeline);
		if (pipeline->server == NULL)
			etl_wal_wake_readers();
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 look_after, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		look_after = Min(look_after * 2, MAX_LOOK_MS);
	}
	MemoryContextSwitchTo(caller_context);
	MemoryContextDelete(context);
	PG_RETURN_BOOL(reached);
}

/* ------------------------------------------------------------------ */
/* skip                                                                 */

/* What is known of the change that has failed; NULL: nothing. */
static char *
fact_of_error(const EtlCdcPipeline *pipeline, const char *key)
{
	JsonbValue buffer;
	JsonbValue *value;

	if (pipeline->error_change == NULL)
		return NULL;
	value = getKeyJsonValueFromContainer(&pipeline->error_change->root, key,
										 (int) strlen(key), &buffer);
	if (value == NULL || value->type != jbvString)
		return NULL;
	return pnstrdup(value->val.string.val, value->val.string.len);
}

/* Is it this transaction that has paused the pipeline? */
static void
check_skip(const EtlCdcPipeline *pipeline, XLogRecPtr lsn)
{
	char *kind = fact_of_error(pipeline, "kind");
	char *end = fact_of_error(pipeline, "end_lsn");

	if (lsn <= pipeline->applied)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("CDC pipeline \"%s\" has applied %X/%X already",
							   pipeline->name, LSN_FORMAT_ARGS(lsn)),
						errdetail("It is at %X/%X.",
								  LSN_FORMAT_ARGS(pipeline->applied))));
	if (pipeline->state != ETL_CDC_PAUSED || end == NULL)
		return;
	if (kind != NULL && strcmp(kind, "read") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("CDC pipeline \"%s\" was paused by a row that it copied, not by a transaction",
						pipeline->name),
				 errhint(
					 "Mend the row or the target and call etl_cdc_start(), or give the table a row_filter with etl_cdc_alter_table().")));
	if (DatumGetLSN(DirectFunctionCall1(pg_lsn_in, CStringGetDatum(end))) != lsn)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the transaction that has paused CDC pipeline \"%s\" does not end at %X/%X",
						pipeline->name, LSN_FORMAT_ARGS(lsn)),
				 errhint("To skip it, use etl_cdc_skip(%s, '%s').",
						 quote_literal_cstr(pipeline->name), end)));
}

/*
 * etl_cdc_skip(pipeline, lsn): the transaction that ends there is not applied,
 * and a pipeline that it has paused goes on.
 */
Datum
etl_cdc_skip(PG_FUNCTION_ARGS)
{
	EtlCdcPipeline *pipeline;
	XLogRecPtr lsn;

	etl_refuse_null(fcinfo, 1, "lsn");
	lsn = PG_GETARG_LSN(1);
	pipeline = etl_cdc_to_change(fcinfo, "etl_cdc_skip()");
	refuse_lost(pipeline);
	check_skip(pipeline, lsn);
	pipeline->skip = lsn;
	if (pipeline->state != ETL_CDC_PAUSED)
	{
		etl_cdc_store(pipeline);
		PG_RETURN_VOID();
	}
	check_startable(pipeline);
	start(pipeline);
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------ */
/* resync                                                               */

/* Tables are to be copied again. */
static void
copy_again(List *tables)
{
	ListCell *lc;

	foreach(lc, tables)
	{
		EtlCdcTable *table = lfirst(lc);

		table->state = ETL_CDC_TABLE_NEW;
		table->copy_snapshot = NULL;
		etl_cdc_table_update(table);
	}
}

/*
 * With mirrors those whose targets refer to theirs: no table can be emptied
 * without what refers to it.
 */
static List *
with_references(const EtlCdcPipeline *pipeline, List *tables)
{
	List *all = etl_cdc_tables(pipeline->pipeline_id);
	ListCell *lc;
	ListCell *lc2;

	foreach(lc, tables)
	{
		const EtlCdcTable *table = lfirst(lc);

		if (strcmp(table->apply, "mirror") != 0)
			continue;
		foreach(lc2, all)
		{
			EtlCdcTable *other = lfirst(lc2);
			bool is_known = false;
			ListCell *lc3;

			foreach(lc3, tables)
				is_known |= ItemPointerEquals(&((EtlCdcTable *) lfirst(lc3))->place,
											  &other->place);
			if (is_known || strcmp(other->apply, "mirror") != 0 ||
				!etl_cdc_refers_to(other, table))
				continue;
			ereport(NOTICE,
					(errmsg("table %s is copied again, too", other->source),
					 errdetail("Its target refers to that of table %s.",
							   table->source)));
			tables = lappend(tables, other);
		}
	}
	return tables;
}

/*
 * All begins anew: with a new slot, from where it begins.  A pipeline that was
 * stopped stays so.
 */
static void
begin_anew(EtlCdcPipeline *pipeline)
{
	etl_cdc_end_process(pipeline);
	etl_cdc_drop_slot_at_commit(pipeline);
	pipeline->has_slot = false;
	pipeline->slot_name = etl_cdc_slot_name(pipeline);
	pipeline->applied = InvalidXLogRecPtr;
	pipeline->skip = InvalidXLogRecPtr;
	copy_again(etl_cdc_tables(pipeline->pipeline_id));
	if (pipeline->state == ETL_CDC_STOPPED)
		etl_cdc_store(pipeline);
	else
	{
		check_startable(pipeline);
		start(pipeline);
	}
}

/* etl_cdc_resync(pipeline, source): null is all tables, and a new slot. */
Datum
etl_cdc_resync(PG_FUNCTION_ARGS)
{
	EtlCdcPipeline *pipeline = etl_cdc_to_change(fcinfo, "etl_cdc_resync()");

	if (PG_ARGISNULL(1))
	{
		begin_anew(pipeline);
		PG_RETURN_VOID();
	}
	refuse_lost(pipeline);
	copy_again(with_references(pipeline,
							   etl_cdc_match(pipeline, etl_arg_text(fcinfo, 1),
											 InvalidOid)));
	etl_cdc_store(pipeline);
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------ */
/* drop                                                                 */

/* Say which slot stays on the other server, and how to drop it there. */
static void
leave_slot(const EtlCdcPipeline *pipeline)
{
	ereport(NOTICE,
			(errmsg("replication slot \"%s\" was left on server \"%s\"",
					pipeline->slot_name, pipeline->server),
			 errdetail("It keeps that server's WAL until it is dropped."),
			 errhint("There: SELECT pg_drop_replication_slot('%s'); DROP PUBLICATION IF EXISTS %s;",
					 pipeline->slot_name,
					 quote_identifier(pipeline->slot_name))));
}

/* etl_cdc_drop(pipeline, force): the targets stay as they are. */
Datum
etl_cdc_drop(PG_FUNCTION_ARGS)
{
	EtlCdcPipeline *pipeline = etl_cdc_to_change(fcinfo, "etl_cdc_drop()");
	ListCell *lc;

	etl_cdc_end_process(pipeline);
	foreach(lc, etl_cdc_tables(pipeline->pipeline_id))
		etl_cdc_table_delete(lfirst(lc));
	etl_cdc_delete(pipeline);
	etl_tell_scheduler(ETL_NEWS_CDC, pipeline->pipeline_id);
	if (pipeline->server != NULL && etl_arg_bool(fcinfo, 1))
	{
		if (pipeline->has_slot)
			leave_slot(pipeline);
	}
	else
		etl_cdc_drop_slot_at_commit(pipeline);
	PG_RETURN_VOID();
}
