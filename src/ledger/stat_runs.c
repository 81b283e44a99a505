/*-------------------------------------------------------------------------
 *
 * stat_runs.c
 *	  Counts how runs end, for the view etl_patterns.stat_runs.
 *
 * A run that fails cannot say so by itself: its error goes past it.  So the
 * runs that have begun are kept in a stack, with the level of the transaction
 * that they began in.  When that is rolled back, those that are still there
 * have failed, whoever catches the error.  Subtransactions of guards within a
 * run are deeper, and do not count.
 *
 * The callbacks run while a transaction aborts, where an error could become a
 * panic: they allocate nothing and throw nothing.  The stack is of a fixed
 * size, and what is to be counted was made ready when the run began.
 *
 * Which error it was is known to a callback for the context of errors, which
 * sees each that passes; the last one before the end was that of the run.  The
 * callback is in the stack, too, never in memory that can go away.
 *
 * Counters are not part of the transaction: a run that has finished counts,
 * even if the rows that it wrote are rolled back later.  Without preload there
 * are none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "ledger/stat_runs.h"

/* Runs within runs beyond this are not counted. */
#define MAX_NESTED 32

#define STAT_COLUMNS 15

/* A run that has begun. */
typedef struct ActiveRun
{
	const EtlRun *run; /* to be compared only */
	int nest_level;
	EtlStatEntry event;
	ErrorContextCallback callback;
} ActiveRun;

static ActiveRun active[MAX_NESTED];
static int nactive = 0;

static void watch_errors(ActiveRun *entry);
static void stop_watching(ActiveRun *entry);
static void note_error(void *arg);
static void at_transaction_event(XactEvent event, void *arg);
static void at_subtransaction_event(SubXactEvent event, SubTransactionId mySubid,
									SubTransactionId parentSubid, void *arg);
static void have_failed(int nest_level);
static void put_entry(ReturnSetInfo *rsinfo, const EtlStatEntry *entry);
static void set_time(Datum *value, bool *null, TimestampTz time);

PG_FUNCTION_INFO_V1(etl_stat_runs);
PG_FUNCTION_INFO_V1(etl_stat_runs_reset);

/* At the start of the server; sessions inherit the callbacks. */
void
etl_stat_runs_init(void)
{
	etl_stat_init();
	RegisterXactCallback(at_transaction_event, NULL);
	RegisterSubXactCallback(at_subtransaction_event, NULL);
}

/* ------------------------------------------------------------------ */
/* runs                                                                 */

/*
 * A run has begun.  Those of operations that are not shown as running are not
 * counted: changes of a pipeline that follows another table have a view of
 * their own.
 */
void
etl_stat_run_begin(const EtlRun *run)
{
	int operation = etl_operation_number(run->operation);
	const char *name = run->name != NULL ? run->name : "";
	int len = (int) strlen(name);
	ActiveRun *entry;

	if (operation == 0 || nactive == MAX_NESTED || !etl_stat_is_there())
		return;
	etl_stat_make_room(nactive + 1);
	entry = &active[nactive];
	memset(&entry->event, 0, sizeof(EtlStatEntry));
	entry->event.flow = hash_bytes_extended((const unsigned char *) name, len,
											operation);
	entry->event.operation = operation;
	memcpy(entry->event.name, name,
		   pg_mbcliplen(name, len, ETL_STAT_NAME_LEN - 1));
	entry->run = run;
	entry->nest_level = GetCurrentTransactionNestLevel();
	watch_errors(entry);
	nactive++;
}

/* It has come to its end.  A dry run has written no rows. */
void
etl_stat_run_finished(const EtlRun *run, TimestampTz now, bool is_dry)
{
	EtlStatEntry *event;

	if (nactive == 0 || active[nactive - 1].run != run)
		return;
	stop_watching(&active[--nactive]);
	event = &active[nactive].event;
	event->finished = 1;
	event->last_error = 0;
	event->last_finished_at = now;
	event->total_ms = (double) (now - run->started_at) / 1000.0;
	if (!is_dry)
	{
		event->rows_read = run->rows_read;
		event->rows_inserted = run->rows_inserted;
		event->rows_updated = run->rows_updated;
		event->rows_deleted = run->rows_deleted;
		event->rows_unchanged = run->rows_unchanged;
		event->rows_rejected = run->rows_rejected;
	}
	etl_stat_add(event);
}

/* Adds to the counters of a flow what a run, or several, have to add. */
void
etl_stat_merge(EtlStatEntry *entry, const EtlStatEntry *event)
{
	if (entry->operation == 0)
	{
		entry->flow = event->flow;
		entry->operation = event->operation;
		memcpy(entry->name, event->name, ETL_STAT_NAME_LEN);
		entry->since = event->since != 0 ? event->since :
										   etl_stat_last_used(event);
	}
	entry->finished += event->finished;
	entry->failed += event->failed;
	entry->rows_read += event->rows_read;
	entry->rows_inserted += event->rows_inserted;
	entry->rows_updated += event->rows_updated;
	entry->rows_deleted += event->rows_deleted;
	entry->rows_unchanged += event->rows_unchanged;
	entry->rows_rejected += event->rows_rejected;
	entry->total_ms += event->total_ms;
	entry->last_finished_at = Max(entry->last_finished_at,
								  event->last_finished_at);
	if (event->failed > 0 && event->last_failed_at >= entry->last_failed_at)
	{
		entry->last_failed_at = event->last_failed_at;
		entry->last_error = event->last_error;
	}
}

/* When a run of the flow ended last. */
TimestampTz
etl_stat_last_used(const EtlStatEntry *entry)
{
	return Max(entry->last_finished_at, entry->last_failed_at);
}

/* ------------------------------------------------------------------ */
/* errors                                                               */

/*
 * The callback leaves the stack of contexts like any other: by
 * stop_watching(), or because an error, or a caller that ends, restores what
 * was there before.  One that is there by mistake must not get in twice.
 */
static void
watch_errors(ActiveRun *entry)
{
	for (ErrorContextCallback *callback = error_context_stack; callback != NULL;
		 callback = callback->previous)
		if (callback == &entry->callback)
			return;
	entry->callback.callback = note_error;
	entry->callback.arg = entry;
	entry->callback.previous = error_context_stack;
	error_context_stack = &entry->callback;
}

/* Others that came later may still be there. */
static void
stop_watching(ActiveRun *entry)
{
	for (ErrorContextCallback **link = &error_context_stack; *link != NULL;
		 link = &(*link)->previous)
		if (*link == &entry->callback)
		{
			*link = entry->callback.previous;
			return;
		}
}

/* An error passes; or a message that is none, by its class. */
static void
note_error(void *arg)
{
	ActiveRun *entry = arg;
	int code = geterrcode();

	if (code != 0 &&
		ERRCODE_TO_CATEGORY(code) != ERRCODE_TO_CATEGORY(ERRCODE_WARNING))
		entry->event.last_error = code;
}

/* ------------------------------------------------------------------ */
/* ends of transactions                                                 */

static void
at_transaction_event(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PARALLEL_ABORT:
			have_failed(0);
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PREPARE:
			Assert(nactive == 0);
			nactive = 0;
			break;
		default:
			break;
	}
}

/* A run that goes on after a subtransaction belongs to the one around it. */
static void
at_subtransaction_event(SubXactEvent event, SubTransactionId mySubid,
						SubTransactionId parentSubid, void *arg)
{
	int level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_ABORT_SUB)
		have_failed(level);
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (int i = nactive - 1; i >= 0 && active[i].nest_level >= level; i--)
			active[i].nest_level = level - 1;
	}
}

/* The transaction of this level and those within it are rolled back. */
static void
have_failed(int nest_level)
{
	TimestampTz now;

	if (nactive == 0 || active[nactive - 1].nest_level < nest_level)
		return;
	now = GetCurrentTimestamp();
	while (nactive > 0 && active[nactive - 1].nest_level >= nest_level)
	{
		EtlStatEntry *event = &active[--nactive].event;

		event->failed = 1;
		event->last_failed_at = now;
		etl_stat_add(event);
	}
}

/* ------------------------------------------------------------------ */
/* SQL                                                                  */

/* SQL function: one row per flow of this database that has run. */
Datum
etl_stat_runs(PG_FUNCTION_ARGS)
{
	EtlStatEntry *entries = palloc(sizeof(EtlStatEntry) * ETL_STAT_MAX_FLOWS);
	int n = 0;

	InitMaterializedSRF(fcinfo, 0);
	if (etl_stat_is_there())
		n = etl_stat_read(entries, ETL_STAT_MAX_FLOWS);
	for (int i = 0; i < n; i++)
		put_entry((ReturnSetInfo *) fcinfo->resultinfo, &entries[i]);
	return (Datum) 0;
}

/* SQL function: the flows of this database are counted from nothing. */
Datum
etl_stat_runs_reset(PG_FUNCTION_ARGS)
{
	etl_stat_reset();
	PG_RETURN_VOID();
}

static void
put_entry(ReturnSetInfo *rsinfo, const EtlStatEntry *entry)
{
	const char *operation = etl_operation_word(entry->operation);
	Datum values[STAT_COLUMNS];
	bool nulls[STAT_COLUMNS] = {0};

	if (operation == NULL)
		return;
	values[0] = CStringGetTextDatum(operation);
	values[1] = CStringGetTextDatum(entry->name);
	nulls[1] = entry->name[0] == '\0';
	values[2] = Int64GetDatum(entry->finished);
	values[3] = Int64GetDatum(entry->failed);
	values[4] = Int64GetDatum(entry->rows_read);
	values[5] = Int64GetDatum(entry->rows_inserted);
	values[6] = Int64GetDatum(entry->rows_updated);
	values[7] = Int64GetDatum(entry->rows_deleted);
	values[8] = Int64GetDatum(entry->rows_unchanged);
	values[9] = Int64GetDatum(entry->rows_rejected);
	values[10] = Float8GetDatum(entry->total_ms);
	set_time(&values[11], &nulls[11], entry->last_finished_at);
	set_time(&values[12], &nulls[12], entry->last_failed_at);
	etl_ledger_set_text(&values[13], &nulls[13],
						entry->last_error != 0 ?
							unpack_sql_state(entry->last_error) :
							NULL);
	set_time(&values[14], &nulls[14], entry->since);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
set_time(Datum *value, bool *null, TimestampTz time)
{
	*value = TimestampTzGetDatum(time);
	*null = time == 0;
}
