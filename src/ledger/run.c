/*-------------------------------------------------------------------------
 *
 * run.c
 *	  One row per execution.
 *
 * The row is written when the run finishes, in the transaction that did the
 * work: a run that failed has left nothing behind, so there is nothing that
 * its row could count; that it failed is counted by stat_runs.c.  Its number is
 * known from the start, because dead letters and loaded files refer to it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "ledger/ledger.h"
#include "ledger/stat_runs.h"

/* Columns of etl_patterns.run */
enum
{
	RUN_ID,
	RUN_OPERATION,
	RUN_NAME,
	RUN_TARGET,
	RUN_ROLE,
	RUN_STARTED_AT,
	RUN_FINISHED_AT,
	RUN_STATUS,
	RUN_ROWS_READ,
	RUN_ROWS_INSERTED,
	RUN_ROWS_UPDATED,
	RUN_ROWS_DELETED,
	RUN_ROWS_UNCHANGED,
	RUN_ROWS_REJECTED,
	RUN_BYTES_READ,
	RUN_WATERMARK_LOW,
	RUN_WATERMARK_HIGH,
	RUN_DETAIL,
	RUN_NATTS
};

/*
 * A run of an operation ("bulk_copy"), with the name that the user gave it (a
 * pipeline, or NULL) and the table that it writes (or InvalidOid).  From here
 * on others see it, as waiting for its locks.  The result lives in the current
 * memory context; the strings are not copied.
 */
EtlRun *
etl_run_prepare(const char *operation, const char *name, Oid target)
{
	EtlRun *run = palloc0(sizeof(EtlRun));

	run->operation = operation;
	run->name = name;
	run->target = target;
	run->role = GetUserId();
	run->started_at = GetCurrentTimestamp();
	etl_progress_begin(run);
	etl_stat_run_begin(run);
	return run;
}

/* Begin the run, once it is known that it can be: it gets its number. */
void
etl_run_start(EtlRun *run)
{
	run->run_id = etl_ledger_next_id("run_id_seq");
	run->started_at = GetCurrentTimestamp();
	etl_progress_done(run, 0);
}

/*
 * Write the run's row, and no longer show it as running.  Status is 'succeeded', 'skipped' or 'dry_run'; detail
 * may be NULL.  A run whose counts do not add up is a bug, and is refused.
 */
void
etl_run_finish(EtlRun *run, const char *status, Jsonb *detail)
{
	Datum values[RUN_NATTS] = {0};
	bool nulls[RUN_NATTS] = {0};
	TimestampTz now = GetCurrentTimestamp();
	Relation rel;

	if (run->rows_read != run->rows_inserted + run->rows_updated +
							  run->rows_deleted + run->rows_unchanged +
							  run->rows_rejected)
		elog(ERROR,
			 "counts of run " INT64_FORMAT " do not add up: " INT64_FORMAT
			 " rows read, " INT64_FORMAT " inserted, " INT64_FORMAT
			 " updated, " INT64_FORMAT " deleted, " INT64_FORMAT
			 " unchanged, " INT64_FORMAT " rejected",
			 run->run_id, run->rows_read, run->rows_inserted, run->rows_updated,
			 run->rows_deleted, run->rows_unchanged, run->rows_rejected);

	values[RUN_ID] = Int64GetDatum(run->run_id);
	values[RUN_OPERATION] = CStringGetTextDatum(run->operation);
	etl_ledger_set_text(&values[RUN_NAME], &nulls[RUN_NAME], run->name);
	values[RUN_TARGET] = ObjectIdGetDatum(run->target);
	nulls[RUN_TARGET] = !OidIsValid(run->target);
	values[RUN_ROLE] = ObjectIdGetDatum(run->role);
	values[RUN_STARTED_AT] = TimestampTzGetDatum(run->started_at);
	values[RUN_FINISHED_AT] = TimestampTzGetDatum(now);
	values[RUN_STATUS] = CStringGetTextDatum(status);
	values[RUN_ROWS_READ] = Int64GetDatum(run->rows_read);
	values[RUN_ROWS_INSERTED] = Int64GetDatum(run->rows_inserted);
	values[RUN_ROWS_UPDATED] = Int64GetDatum(run->rows_updated);
	values[RUN_ROWS_DELETED] = Int64GetDatum(run->rows_deleted);
	values[RUN_ROWS_UNCHANGED] = Int64GetDatum(run->rows_unchanged);
	values[RUN_ROWS_REJECTED] = Int64GetDatum(run->rows_rejected);
	values[RUN_BYTES_READ] = Int64GetDatum(run->bytes_read);
	etl_ledger_set_text(&values[RUN_WATERMARK_LOW], &nulls[RUN_WATERMARK_LOW],
						run->watermark_low);
	etl_ledger_set_text(&values[RUN_WATERMARK_HIGH], &nulls[RUN_WATERMARK_HIGH],
						run->watermark_high);
	values[RUN_DETAIL] = PointerGetDatum(detail);
	nulls[RUN_DETAIL] = detail == NULL;

	rel = etl_ledger_open("run", RUN_NATTS, RowExclusiveLock);
	etl_ledger_insert(rel, values, nulls);
	table_close(rel, NoLock);
	etl_progress_end(run);
	etl_stat_run_finished(run, now, strcmp(status, "dry_run") == 0);
}
