/*-------------------------------------------------------------------------
 *
 * change_log.c
 *	  Merging versions by way of a log of all changes there ever were.
 *
 * What a late row does to versions depends on what they were made from: two
 * equal rows make one version, and its row does not tell that there were two.
 * So "<target>_changes", a table beside the target (etl_change_log_companion.c), keeps each
 * change that was ever received:
 *
 *		change_id, run_id, received_at, change_time, is_delete,
 *		the target's columns that the source has
 *
 * A merge writes its rows into the log first.  Then its input is not the
 * source any more but the log, with all changes of the keys that it has just
 * received, and the versions of these keys are worked out anew from those.
 * So the history is a function of what is in the log, and not of the order
 * in which that came.
 *
 * In the end the log has one change of each key, time and run: rows that
 * turned out to be duplicates or were rejected are deleted again.
 *
 * Locks: those of merge_spec.c; on the log RowExclusiveLock until the
 * transaction ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "flow/change_log.h"

/* What statements call the received rows, and those to be deleted again. */
#define RECEIVED "etl_received"
#define SETTLED	 "etl_settled"

static void run_logged(void *arg);
static void run_logged_dry(void *arg);
static EtlChangeLog *describe_log(EtlMerge *merge);
static bool takes_column(const EtlMerge *merge, int column);
static void receive(EtlChangeLog *log);
static void receive_change(void *arg, EtlChange *change, TupleTableSlot *slot);
static void write_received(EtlChangeLog *log);
static int64 spi_int64(int column);
static void read_from_log(EtlChangeLog *log);
static char *log_query(EtlChangeLog *log);
static void append_added(StringInfo sql, EtlChangeLog *log, const char *row);
static void note_settled(EtlMerge *merge, const EtlChange *change);
static void delete_settled(EtlChangeLog *log);
static void refuse_lost(EtlChangeLog *log);

/*
 * Runs a merge of versions that is ready, by way of its target's log.  Does
 * what etl_merge_execute() does otherwise.
 */
void
etl_change_log_execute(EtlMerge *merge)
{
	if (merge->absent != ETL_ABSENT_IGNORE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg(
					 "parameter \"change_log\" cannot be used with absent => 'close'"),
				 errhint(
					 "Let the source have rows for deletes, and tell them by \"delete_when\".")));
	if (merge->late != ETL_LATE_WEAVE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"change_log\" needs late => 'weave'"),
				 errhint(
					 "With a change log no row is late, whenever it comes.")));
	etl_guard_scope(merge->dry_run ? run_logged_dry : run_logged, merge);
}

static void
run_logged(void *arg)
{
	EtlMerge *merge = arg;
	EtlChangeLog *log = describe_log(merge);

	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	etl_change_log_open(log);
	receive(log);
	PopActiveSnapshot();

	read_from_log(log);
	etl_merge_execute(merge);
	if (merge->counts.read != log->n_rejected + log->n_received)
		refuse_lost(log);
	delete_settled(log);
}

/* Undone at the end: only the counts remain. */
static void
run_logged_dry(void *arg)
{
	etl_guard_undone(run_logged, arg);
}

/* Names and columns, in the current memory context. */
static EtlChangeLog *
describe_log(EtlMerge *merge)
{
	EtlChangeLog *log = palloc0(sizeof(EtlChangeLog));
	TupleDesc target = RelationGetDescr(merge->target);
	TupleDesc desc = CreateTemplateTupleDesc(merge->natts + 2);
	int n = 0;

	log->merge = merge;
	log->name = etl_companion_name(&etl_change_log_companion, merge->target);
	log->change_id = etl_companion_own_column(merge, "change_id", takes_column);
	log->run_id = etl_companion_own_column(merge, "run_id", takes_column);
	log->received_at = etl_companion_own_column(merge, "received_at",
												takes_column);
	log->change_time = etl_companion_own_column(merge, "change_time",
												takes_column);
	log->is_delete = etl_companion_own_column(merge, "is_delete", takes_column);

	log->columns = palloc(sizeof(int) * (merge->natts + 1));
	for (int i = 0; i < merge->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(target, i);

		if (!takes_column(merge, i))
			continue;
		log->columns[n++] = i;
		TupleDescInitEntry(desc, n, psprintf("c%d", n), att->atttypid,
						   att->atttypmod, att->attndims);
		TupleDescInitEntryCollation(desc, n, att->attcollation);
	}
	log->n_columns = n;
	TupleDescInitEntry(desc, n + 1, "change_time",
					   TupleDescAttr(target, merge->valid_from)->atttypid, -1,
					   0);
	TupleDescInitEntryCollation(desc, n + 1,
								TupleDescAttr(target, merge->valid_from)
									->attcollation);
	TupleDescInitEntry(desc, n + 2, "is_delete", BOOLOID, -1, 0);
	log->desc = etl_first_attributes(desc, n + 2);
	log->values = palloc(sizeof(Datum) * (n + 2));
	log->nulls = palloc0(sizeof(bool) * (n + 2));
	log->settled_desc = CreateTemplateTupleDesc(1);
	TupleDescInitEntry(log->settled_desc, 1, "change_id", INT8OID, -1, 0);
	return log;
}

/* The columns that the log shares with the target: those of the source. */
static bool
takes_column(const EtlMerge *merge, int column)
{
	return merge->columns[column].input != 0;
}

/* ------------------------------------------------------------------ */
/* what is new                                                          */

/* Reads the source, rejects what has no key or time, and logs the rest. */
static void
receive(EtlChangeLog *log)
{
	EtlMerge *merge = log->merge;

	log->received = tuplestore_begin_heap(false, false, work_mem);
	merge->letters = etl_dead_letters_open(merge->run);
	etl_input_scan(merge, NULL, receive_change, log);
	etl_dead_letters_close(merge->letters);
	merge->letters = NULL;
	write_received(log);
	tuplestore_end(log->received);

	/* the others will be read, and counted, again */
	log->n_rejected = merge->counts.rejected;
	merge->counts.read = log->n_rejected;
}

static void
receive_change(void *arg, EtlChange *change, TupleTableSlot *slot)
{
	EtlChangeLog *log = arg;
	int n = log->n_columns;

	for (int i = 0; i < n; i++)
	{
		log->values[i] = change->values[log->columns[i]];
		log->nulls[i] = change->nulls[log->columns[i]];
	}
	log->values[n] = change->time;
	log->values[n + 1] = BoolGetDatum(change->is_delete);
	tuplestore_putvalues(log->received, log->desc, log->values, log->nulls);
	log->n_received++;
}

/*
 *		WITH etl_added AS (INSERT INTO log (run_id, ...)
 *			SELECT $1, ... FROM etl_received RETURNING change_id)
 *		SELECT min(change_id), max(change_id), count(*) FROM etl_added
 *
 * A tuplestore is read in its order, so that the numbers are in the order of
 * arrival.
 */
static void
write_received(EtlChangeLog *log)
{
	Oid type = INT8OID;
	Datum run_id = Int64GetDatum(log->merge->run->run_id);
	StringInfoData sql;
	int rc;

	log->first_id = 1;
	log->last_id = 0;
	if (log->n_received == 0)
		return;
	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "WITH etl_added AS (INSERT INTO %s AS l (%s, %s, %s, %s",
					 log->name, log->run_id, log->received_at, log->change_time,
					 log->is_delete);
	etl_change_log_append_names(&sql, log, "");
	appendStringInfoString(&sql,
						   ") SELECT $1, pg_catalog.transaction_timestamp(),"
						   " r.change_time, r.is_delete");
	for (int i = 0; i < log->n_columns; i++)
		appendStringInfo(&sql, ", r.c%d", i + 1);
	appendStringInfo(&sql,
					 " FROM " RECEIVED " AS r RETURNING l.%s AS id)"
					 " SELECT pg_catalog.min(id), pg_catalog.max(id),"
					 " pg_catalog.count(*) FROM etl_added",
					 log->change_id);

	SPI_connect();
	etl_register_rows(RECEIVED, log->desc, log->received);
	rc = SPI_execute_with_args(sql.data, 1, &type, &run_id, NULL, false, 0);
	if (rc != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "SPI_execute_with_args failed: %s",
			 SPI_result_code_string(rc));
	log->first_id = spi_int64(1);
	log->last_id = spi_int64(2);
	if (spi_int64(3) != log->n_received)
		refuse_lost(log);
	SPI_finish();
}

/* A column of the one row of the last result; 0 for null. */
static int64
spi_int64(int column)
{
	bool isnull;
	Datum value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

/* ------------------------------------------------------------------ */
/* the merge                                                            */

/* From now on the merge's input is the log. */
static void
read_from_log(EtlChangeLog *log)
{
	EtlMerge *merge = log->merge;
	EtlMergeInput *input = &merge->input;
	const char *time_name = input->time_name;
	int n = log->n_columns;

	memset(input, 0, sizeof(EtlMergeInput));
	for (int i = 0; i < n; i++)
	{
		EtlMergeColumn *column = &merge->columns[log->columns[i]];

		column->input = i + 1;
		column->typmod = -1; /* what the log holds fits already */
		column->assign = NULL;
	}
	input->time = n + 1;
	input->is_delete = n + 2;
	input->is_new = n + 3;
	input->number = n + 4;
	input->time_name = time_name; /* for dead letters: as the source has it */
	input->rows = (double) log->n_received;

	input->query.nargs = 3;
	input->query.types = palloc(sizeof(Oid) * 3);
	input->query.values = palloc(sizeof(Datum) * 3);
	for (int i = 0; i < 3; i++)
		input->query.types[i] = INT8OID;
	input->query.values[0] = Int64GetDatum(merge->run->run_id);
	input->query.values[1] = Int64GetDatum(log->first_id);
	input->query.values[2] = Int64GetDatum(log->last_id);
	input->query.text = log_query(log);
	CommandCounterIncrement();
	input->desc = etl_query_desc(&input->query);

	merge->from_log = true;
	merge->settled = note_settled;
	merge->settled_arg = log;
	log->settled = tuplestore_begin_heap(false, false, work_mem);
}

/*
 *		SELECT columns, time, is_delete, is_new, change_id FROM log AS l
 *		WHERE EXISTS (a change of the same key that this run has added)
 */
static char *
log_query(EtlChangeLog *log)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < log->n_columns; i++)
		appendStringInfo(&sql, "l.%s, ",
						 quote_identifier(
							 log->merge->columns[log->columns[i]].name));
	appendStringInfo(&sql, "l.%s, l.%s, COALESCE(", log->change_time,
					 log->is_delete);
	appendStringInfo(&sql, "l.%s OPERATOR(pg_catalog.=) $1 AND ", log->run_id);
	append_added(&sql, log, "l");
	appendStringInfo(&sql, ", false), l.%s FROM %s AS l", log->change_id,
					 log->name);
	if (log->is_empty)
		return sql.data; /* then all of them are new */
	appendStringInfo(&sql, " WHERE EXISTS (SELECT FROM %s AS n WHERE ",
					 log->name);
	etl_change_log_append_same_key(&sql, log, "n", "l");
	appendStringInfoString(&sql, " AND ");
	append_added(&sql, log, "n");
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

/* The condition that a row has a number of those that this run has drawn. */
static void
append_added(StringInfo sql, EtlChangeLog *log, const char *row)
{
	appendStringInfo(sql,
					 "%s.%s OPERATOR(pg_catalog.>=) $2"
					 " AND %s.%s OPERATOR(pg_catalog.<=) $3",
					 row, log->change_id, row, log->change_id);
}

/* Keeps in mind which of this run's changes do not belong into the log. */
static void
note_settled(EtlMerge *merge, const EtlChange *change)
{
	EtlChangeLog *log = merge->settled_arg;
	Datum number = Int64GetDatum(change->number);
	bool isnull = false;

	if (change->is_new &&
		(change->outcome == ETL_DUPLICATE || change->outcome == ETL_REJECTED))
		tuplestore_putvalues(log->settled, log->settled_desc, &number, &isnull);
}

static void
delete_settled(EtlChangeLog *log)
{
	int rc;

	if (tuplestore_tuple_count(log->settled) > 0)
	{
		SPI_connect();
		etl_register_rows(SETTLED, log->settled_desc, log->settled);
		rc = SPI_execute(psprintf("DELETE FROM %s AS l USING " SETTLED " AS s"
								  " WHERE l.%s OPERATOR(pg_catalog.=) s.change_id",
								  log->name, log->change_id),
						 false, 0);
		if (rc != SPI_OK_DELETE)
			elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(rc));
		SPI_finish();
	}
	tuplestore_end(log->settled);
}

static void
refuse_lost(EtlChangeLog *log)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
			 errmsg("relation \"%s\" has not taken in all changes of this run",
					get_rel_name(log->relid)),
			 errhint("Look for triggers of it that suppress or change rows.")));
}
