/*-------------------------------------------------------------------------
 *
 * progress.c
 *	  What a run is doing now, for other sessions to see.
 *
 * Each backend has a place in shared memory where one command shows how far
 * it has come: a kind of command, a relation and 20 numbers.  A run takes it
 * as a COPY does and fills the numbers as COPY does, so that it is in
 * pg_stat_progress_copy, too; numbers that COPY leaves alone hold the rest,
 * with a mark by which the view etl_patterns.progress knows its rows.  No
 * shared memory of our own is needed, and who may see what is core's matter.
 *
 * Others use the same place while a run is under way: a COPY, CREATE INDEX or
 * ANALYZE in a trigger, a run within a run.  So whatever is shown is shown
 * whole each time, and a run that finds its place taken or empty takes it
 * anew.  When it ends it puts back what was there when it began.
 *
 * Some commands write numbers of their own without taking the place: building
 * an index writes those from 9 to 16 (counted from 0), TRUNCATE 7.  What the
 * view could not do without is in 8 and from 17 on; the name, from 9 to 16,
 * bears a mark in each number, and is not shown when one of them is missing.
 *
 * Invariants:
 *	- Runs nest, like the calls that they are.
 *	- After an error nothing is to be done: the end of a transaction or
 *	  subtransaction that fails empties the place.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/progress.h"
#include "mb/pg_wchar.h"
#include "utils/backend_status.h"

#include "ledger/ledger.h"

/* The numbers that COPY has no use for, see the view in ledger.sql. */
#define PARAM_SKIPPED	 6 /* PostgreSQL 17 and later: rows that were bad */
#define PARAM_INDEXES	 7 /* done of them, when that is the unit */
#define PARAM_TOTAL		 8
#define PARAM_NAME		 9
#define PARAM_WHAT		 17
#define PARAM_RUN_ID	 18
#define PARAM_STARTED_AT 19

/* PARAM_WHAT: a byte each for the mark and three numbers, then the role. */
#define MARK			UINT64CONST(0x45)
#define MARK_SHIFT		56
#define OPERATION_SHIFT 48
#define PHASE_SHIFT		40
#define UNIT_SHIFT		32

/* The name: in each number a mark, which makes it negative, and 7 bytes. */
#define NAME_WORDS	   (PARAM_WHAT - PARAM_NAME)
#define BYTES_PER_WORD 7
#define WORD_MARK	   UINT64CONST(0x80)

/*
 * The number of an operation is its place here, from 1, as in the view and in
 * the server's file of statistics: new ones come last.
 */
static const char *const operations[] = {
	"bulk_copy",  "dead_letter_replay", "upsert",			"scd1_merge",
	"scd2_merge", "scd3_merge",			"incremental_pull", "backfill",
};

static void set_name(int64 *params, const char *name);
static bool is_shown(Oid target);
static void show(EtlRun *run);
static void show_params(const int64 *params);

/* Shows a run that has just been called and waits for what it needs. */
void
etl_progress_begin(EtlRun *run)
{
	const volatile PgBackendStatus *entry = MyBEEntry;
	EtlProgress *progress = &run->progress;

	progress->outer_command = PROGRESS_COMMAND_INVALID;
	if (entry != NULL)
	{
		progress->outer_command = entry->st_progress_command;
		progress->outer_target = entry->st_progress_command_target;
		for (int i = 0; i < PGSTAT_NUM_PROGRESS_PARAM; i++)
			progress->outer_params[i] = entry->st_progress_param[i];
	}
	progress->target = run->target;
	etl_progress_set(run, ETL_PHASE_WAITING, ETL_UNIT_NONE, 0,
					 ETL_TOTAL_UNKNOWN);
}

/* Shows what the run does from now on; less than 0 is an unknown total. */
void
etl_progress_set(EtlRun *run, EtlPhase phase, EtlUnit unit, int64 done,
				 double total)
{
	EtlProgress *progress = &run->progress;

	progress->phase = phase;
	progress->unit = unit;
	progress->done = done;
	progress->total = ETL_TOTAL_UNKNOWN;
	if (total >= 0 && total < (double) PG_INT64_MAX)
		progress->total = (int64) total;
	show(run);
}

/* From now on the run writes this table; shown with what is shown next. */
void
etl_progress_target(EtlRun *run, Oid target)
{
	run->progress.target = target;
}

/* Shows how far the run has come with what etl_progress_set() has said. */
void
etl_progress_done(EtlRun *run, int64 done)
{
	run->progress.done = done;
	show(run);
}

/* Shows what was shown before the run began. */
void
etl_progress_end(EtlRun *run)
{
	const EtlProgress *progress = &run->progress;

	if (progress->outer_command == PROGRESS_COMMAND_INVALID)
	{
		pgstat_progress_end_command();
		return;
	}
	pgstat_progress_start_command(progress->outer_command,
								  progress->outer_target);
	show_params(progress->outer_params);
}

/* 0 if the view has no word for it. */
int
etl_operation_number(const char *operation)
{
	for (int i = 0; i < (int) lengthof(operations); i++)
		if (strcmp(operations[i], operation) == 0)
			return i + 1;
	return 0;
}

/* NULL if there is none. */
const char *
etl_operation_word(int number)
{
	if (number < 1 || number > (int) lengthof(operations))
		return NULL;
	return operations[number - 1];
}

/* As much of a name as there is room for, in whole characters. */
static void
set_name(int64 *params, const char *name)
{
	int len = (int) strlen(name);

	len = pg_mbcliplen(name, len, NAME_WORDS * BYTES_PER_WORD);
	for (int word = 0; word < NAME_WORDS; word++)
	{
		uint64 value = WORD_MARK;

		for (int i = word * BYTES_PER_WORD; i < (word + 1) * BYTES_PER_WORD; i++)
			value = value << 8 | (i < len ? (unsigned char) name[i] : 0);
		params[word] = (int64) value;
	}
}

/* Is the place ours, or that of another run with the same target? */
static bool
is_shown(Oid target)
{
	const volatile PgBackendStatus *entry = MyBEEntry;

	return entry != NULL &&
		   entry->st_progress_command == PROGRESS_COMMAND_COPY &&
		   entry->st_progress_command_target == target &&
		   (uint64) entry->st_progress_param[PARAM_WHAT] >> MARK_SHIFT == MARK;
}

/* Shows all there is to say about a run. */
static void
show(EtlRun *run)
{
	const EtlProgress *progress = &run->progress;
	int64 params[PGSTAT_NUM_PROGRESS_PARAM] = {0};

	params[PROGRESS_COPY_COMMAND] = PROGRESS_COPY_COMMAND_FROM;
	if (progress->unit == ETL_UNIT_BYTES || progress->unit == ETL_UNIT_INDEXES)
	{
		params[PROGRESS_COPY_TYPE] = PROGRESS_COPY_TYPE_FILE;
		params[PROGRESS_COPY_BYTES_PROCESSED] = run->bytes_read;
		params[PROGRESS_COPY_BYTES_TOTAL] = run->bytes_read;
		params[PROGRESS_COPY_TUPLES_PROCESSED] = run->rows_read -
												 run->rows_rejected;
	}
	else
	{
		params[PROGRESS_COPY_TYPE] = PROGRESS_COPY_TYPE_CALLBACK;
		params[PROGRESS_COPY_TUPLES_PROCESSED] = progress->done;
	}
	if (progress->unit == ETL_UNIT_BYTES)
	{
		params[PROGRESS_COPY_BYTES_PROCESSED] = progress->done;
		params[PROGRESS_COPY_BYTES_TOTAL] = Max(progress->total, 0);
	}
	params[PARAM_SKIPPED] = run->rows_rejected;
	if (progress->unit == ETL_UNIT_INDEXES)
		params[PARAM_INDEXES] = progress->done;
	params[PARAM_TOTAL] = progress->total;
	if (run->name != NULL)
		set_name(params + PARAM_NAME, run->name);
	params[PARAM_WHAT] = (int64) (MARK << MARK_SHIFT |
								  (uint64) etl_operation_number(run->operation)
									  << OPERATION_SHIFT |
								  (uint64) progress->phase << PHASE_SHIFT |
								  (uint64) progress->unit << UNIT_SHIFT |
								  run->role);
	params[PARAM_RUN_ID] = run->run_id;
	params[PARAM_STARTED_AT] = run->started_at;

	if (!is_shown(progress->target))
		pgstat_progress_start_command(PROGRESS_COMMAND_COPY, progress->target);
	show_params(params);
}

/* All numbers at once, so that nobody sees some of them without the others. */
static void
show_params(const int64 *params)
{
	int index[PGSTAT_NUM_PROGRESS_PARAM];

	for (int i = 0; i < PGSTAT_NUM_PROGRESS_PARAM; i++)
		index[i] = i;
	pgstat_progress_update_multi_param(PGSTAT_NUM_PROGRESS_PARAM, index, params);
}
