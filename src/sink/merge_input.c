/*-------------------------------------------------------------------------
 *
 * merge_input.c
 *	  The rows that are to be merged.
 *
 * Rows come straight from a heap or from a query.  Both can be read again by
 * their address: a row of a heap by its place, one of a query from a spool
 * that keeps it.  Rows without a key or a time are dealt with here; nobody
 * else sees them.
 *
 * Locks: those of reading.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tableam.h"
#include "executor/executor.h"
#include "storage/itemptr.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "sink/merge_private.h"

typedef struct InputScan
{
	EtlMerge *merge;
	EtlChange *change;
	EtlSlotCall first;
	EtlChangeCall call;
	void *arg;
} InputScan;

static void scan_query(InputScan *scan);
static void input_row(void *arg, TupleTableSlot *slot);
static void set_time(EtlMerge *merge, TupleTableSlot *slot, EtlChange *change);
static bool settle_unfit(EtlMerge *merge, EtlChange *change);
static const char *null_column(EtlMerge *merge, const EtlChange *change);

/* An empty change that can be filled again and again. */
EtlChange *
etl_change_create(EtlMerge *merge)
{
	EtlChange *change = palloc0(sizeof(EtlChange));

	change->values = palloc0(sizeof(Datum) * merge->natts);
	change->nulls = palloc(sizeof(bool) * merge->natts);
	memset(change->nulls, true, sizeof(bool) * merge->natts);
	return change;
}

/*
 * Gives each row of the input that has a key and a time to the call, in the
 * row's own context (see rows.h).  Counts all rows that are read.  A row that
 * the first call takes as it is, by returning true, is not made a change; it
 * must not take one that has no key or time.
 */
void
etl_input_scan(EtlMerge *merge, EtlSlotCall first, EtlChangeCall call, void *arg)
{
	InputScan scan;

	scan.merge = merge;
	scan.change = etl_change_create(merge);
	scan.first = first;
	scan.call = call;
	scan.arg = arg;
	etl_progress_set(merge->run, ETL_PHASE_READING, ETL_UNIT_ROWS, 0,
					 merge->input.rows);
	if (merge->input.relation != NULL)
		etl_heap_rows(merge->input.relation, GetActiveSnapshot(), input_row,
					  &scan);
	else
		scan_query(&scan);
}

/* Dead letters are written while rows come, which a parallel plan forbids. */
static void
scan_query(InputScan *scan)
{
	int level = NewGUCNestLevel();

	if (scan->merge->null_keys == ETL_NULL_KEYS_DEAD_LETTER)
		(void) set_config_option("max_parallel_workers_per_gather", "0",
								 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
								 true, 0, false);
	etl_query_rows(&scan->merge->input.query, input_row, scan);
	AtEOXact_GUC(true, level);
}

static void
input_row(void *arg, TupleTableSlot *slot)
{
	InputScan *scan = arg;
	EtlMerge *merge = scan->merge;
	EtlChange *change = scan->change;

	if (scan->first != NULL && scan->first(scan->arg, slot))
	{
		etl_progress_row(merge->run, ++merge->counts.read);
		return;
	}
	etl_input_convert(merge, slot, change);
	if (change->is_new)
	{
		change->number = ++merge->counts.read;
		etl_progress_row(merge->run, change->number);
	}
	if (merge->input.number != 0)
		change->number = DatumGetInt64(slot->tts_values[merge->input.number - 1]);
	if (!settle_unfit(merge, change))
		scan->call(scan->arg, change, slot);
}

/*
 * Fills a change from a row; its values stay those of the slot, unless they
 * have to be fitted to a column's length.  Its number stays as it is.
 */
void
etl_input_convert(EtlMerge *merge, TupleTableSlot *slot, EtlChange *change)
{
	EtlMergeInput *input = &merge->input;

	slot_getallattrs(slot);
	for (int i = 0; i < merge->natts; i++)
	{
		EtlMergeColumn *column = &merge->columns[i];
		int position = column->input - 1;

		if (position < 0)
			continue;
		change->nulls[i] = slot->tts_isnull[position];
		change->values[i] = slot->tts_values[position];
		if (column->typmod >= 0 && !change->nulls[i])
			change->values[i] = FunctionCall3(&column->fit, change->values[i],
											  Int32GetDatum(column->typmod),
											  BoolGetDatum(false));
		if (column->assign != NULL)
		{
			input->context->caseValue_datum = change->values[i];
			input->context->caseValue_isNull = change->nulls[i];
			change->values[i] = ExecEvalExpr(column->assign, input->context,
											 &change->nulls[i]);
		}
	}
	set_time(merge, slot, change);
	change->is_delete = input->is_delete != 0 &&
						!slot->tts_isnull[input->is_delete - 1] &&
						DatumGetBool(slot->tts_values[input->is_delete - 1]);
	change->is_new = input->is_new == 0 ||
					 DatumGetBool(slot->tts_values[input->is_new - 1]);
	change->has_tombstone = input->tombstone != 0 &&
							!slot->tts_isnull[input->tombstone - 1];
	if (change->has_tombstone)
		change->tombstone = slot->tts_values[input->tombstone - 1];
	if (input->step != 0)
		change->step = DatumGetInt64(slot->tts_values[input->step - 1]);
	change->lacks = NULL;
	if (input->lacks != 0 && !slot->tts_isnull[input->lacks - 1])
		change->lacks = DatumGetByteaPP(slot->tts_values[input->lacks - 1]);
	change->outcome = ETL_PENDING;
}

/* When a row takes effect, in the precision of the target's column. */
static void
set_time(EtlMerge *merge, TupleTableSlot *slot, EtlChange *change)
{
	EtlMergeInput *input = &merge->input;

	change->no_time = false;
	change->time = merge->effective_at;
	if (input->time == 0)
		return;
	change->no_time = slot->tts_isnull[input->time - 1];
	change->time = slot->tts_values[input->time - 1];
	if (OidIsValid(input->time_fit.fn_oid) && !change->no_time)
		change->time = FunctionCall3(&input->time_fit, change->time,
									 Int32GetDatum(input->time_typmod),
									 BoolGetDatum(false));
}

/*
 * Rejects a row without a key or time, or whose time is that of versions
 * without an end; returns whether it is one.
 */
static bool
settle_unfit(EtlMerge *merge, EtlChange *change)
{
	const char *name = null_column(merge, change);
	bool endless = merge->versioned && merge->input.time != 0 &&
				   !change->no_time && etl_merge_is_endless(merge, change->time);
	int code = ERRCODE_NOT_NULL_VIOLATION;
	char *message = NULL;

	if (name != NULL)
		message = psprintf("key column \"%s\" is null", name);
	else if (change->no_time)
		message = psprintf("sequence column \"%s\" is null",
						   merge->input.time_name);
	else if (endless)
	{
		message = psprintf("sequence column \"%s\" has the time of an open end",
						   merge->input.time_name);
		code = ERRCODE_DATETIME_VALUE_OUT_OF_RANGE;
	}
	else
		return false;

	if (merge->null_keys == ETL_NULL_KEYS_DEAD_LETTER)
	{
		if (name == NULL)
			merge->counts.untimed++;
		etl_merge_reject(merge, change,
						 endless && name == NULL ? ETL_CATEGORY_OTHER :
												   ETL_CATEGORY_NOT_NULL,
						 code, message);
		return true;
	}
	ereport(ERROR,
			(errcode(code), errmsg("source has a row whose %s", message),
			 name != NULL ? 0 :
							errdetail("Its key is %s.",
									  etl_merge_key_text(merge, change->values,
														 change->nulls)),
			 merge->strict ?
				 errhint("Use a view without such rows as the source.") :
				 errhint(
					 "Pass null_keys => 'dead_letter' to reject such rows.")));
	return true;
}

static const char *
null_column(EtlMerge *merge, const EtlChange *change)
{
	for (int i = 0; i < merge->n_keys; i++)
		if (change->nulls[merge->keys[i]])
			return merge->columns[merge->keys[i]].name;
	return NULL;
}

/* ------------------------------------------------------------------ */
/* reading a row again                                                  */

/* Where a row can be found again; keeps it where that is needed. */
uint64
etl_input_address(EtlMerge *merge, TupleTableSlot *slot)
{
	if (merge->input.relation != NULL)
		return etl_tid_address(&slot->tts_tid);
	if (merge->input.spool == NULL)
	{
		MemoryContext oldcontext;

		oldcontext = MemoryContextSwitchTo(GetMemoryChunkContext(merge->columns));
		merge->input.spool = etl_spool_create(merge->input.desc);
		MemoryContextSwitchTo(oldcontext);
	}
	return etl_spool_put(merge->input.spool, slot);
}

/* Reads a row into a slot of its kind, see etl_input_slot(). */
void
etl_input_fetch(EtlMerge *merge, uint64 address, TupleTableSlot *slot)
{
	ItemPointerData tid;

	if (merge->input.relation == NULL)
	{
		etl_spool_get(merge->input.spool, address, slot);
		return;
	}
	etl_address_tid(address, &tid);
	etl_heap_fetch(merge->input.relation, &tid, GetActiveSnapshot(), slot);
}

/* A slot for etl_input_fetch(). */
TupleTableSlot *
etl_input_slot(EtlMerge *merge)
{
	if (merge->input.relation != NULL)
		return table_slot_create(merge->input.relation, NULL);
	return MakeSingleTupleTableSlot(merge->input.desc, &TTSOpsMinimalTuple);
}
