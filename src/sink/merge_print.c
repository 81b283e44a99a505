/*-------------------------------------------------------------------------
 *
 * merge_print.c
 *	  What a filter is told of a row: the hash of its key, and a fingerprint
 *	  of all that is compared.
 *
 * Both sides must come to the same numbers, whether the values are taken from
 * a row of the target, from one of the input as it lies in its heap, or from
 * a change: the same columns in the order of the target, with its types.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "sink/merge_print.h"
#include "sink/merge_private.h"
#include "sink/merge_scd2.h"

static void create(EtlPrint *print, EtlMerge *merge, uint64 seed);
static void see(EtlPrint *print, AttrNumber attnum);
static void add_key(EtlPrint *print, EtlMerge *merge, int column,
					AttrNumber attnum);
static void add_compared(EtlPrint *print, EtlMerge *merge, int column,
						 AttrNumber attnum);
static bool is_compared(const EtlMergeColumn *column);
static uint64 fingerprint(const EtlPrint *print, int n_compared,
						  const Datum *values, const bool *nulls);
static bool lacks_key(const EtlPrint *print, const bool *nulls);
static bool lacks_time(const EtlPrint *print, const Datum *values,
					   const bool *nulls);
static int target_flags(EtlMerge *merge, const EtlStored *stored);

/* For rows of the target. */
void
etl_print_target(EtlPrint *print, EtlMerge *merge, uint64 seed)
{
	create(print, merge, seed);
	for (int i = 0; i < merge->n_keys; i++)
		add_key(print, merge, merge->keys[i], merge->keys[i] + 1);
	for (int i = 0; i < merge->natts; i++)
		if (is_compared(&merge->columns[i]))
			add_compared(print, merge, i, i + 1);
	if (print->has_time)
		add_compared(print, merge, merge->valid_from, merge->valid_from + 1);
	if (merge->versioned)
	{
		see(print, merge->valid_from + 1);
		see(print, merge->valid_to + 1);
	}
}

/*
 * For rows of the input as they are.  Returns false if they have to be made
 * changes first, each of them.
 */
bool
etl_print_input(EtlPrint *print, EtlMerge *merge, uint64 seed)
{
	const EtlMergeInput *input = &merge->input;

	if (OidIsValid(input->time_fit.fn_oid) || input->tombstone != 0 ||
		input->is_new != 0 || input->number != 0 || input->step != 0)
		return false;
	for (int i = 0; i < merge->natts; i++)
	{
		const EtlMergeColumn *column = &merge->columns[i];

		if (column->typmod >= 0 || column->assign != NULL)
			return false;
		if (column->input == 0 &&
			(is_compared(column) || column->role == ETL_ROLE_KEY))
			return false;
	}

	create(print, merge, seed);
	for (int i = 0; i < merge->n_keys; i++)
		add_key(print, merge, merge->keys[i],
				merge->columns[merge->keys[i]].input);
	for (int i = 0; i < merge->natts; i++)
		if (is_compared(&merge->columns[i]))
			add_compared(print, merge, i, merge->columns[i].input);
	if (print->has_time)
		add_compared(print, merge, merge->valid_from, input->time);
	see(print, input->time);
	see(print, input->is_delete);
	return true;
}

/*
 * Fills row from a row of the input as it is, but for its address.  Returns
 * false if there is something about it, so that it has to be made a change.
 */
bool
etl_print_input_row(const EtlPrint *print, TupleTableSlot *slot,
					EtlFilterRow *row)
{
	const EtlMergeInput *input = &print->merge->input;
	const Datum *values = slot->tts_values;
	const bool *nulls = slot->tts_isnull;

	slot_getsomeattrs(slot, print->last);
	row->word = 0;
	if (lacks_key(print, nulls) || lacks_time(print, values, nulls))
		return false;
	row->hash = etl_row_hash(print->keys, print->n_keys, values, nulls,
							 ETL_KEY_SEED);
	row->fingerprint = fingerprint(print, print->n_compared, values, nulls);
	if (input->is_delete != 0 && !nulls[input->is_delete - 1] &&
		DatumGetBool(values[input->is_delete - 1]))
		row->fingerprint = ~row->fingerprint; /* as no stored row has it */
	return true;
}

/*
 * Fills row from a row of the target.  Returns false if it does not matter:
 * rows of keys that the input lacks are most of a target that is much larger,
 * and of those no more than the key is looked at, if that can be helped.
 */
bool
etl_print_target_row(const EtlPrint *print, TupleTableSlot *slot,
					 EtlFilterRow *row)
{
	EtlStored stored;
	bool known;
	int flags;

	slot_getsomeattrs(slot, print->last_key);
	stored.values = slot->tts_values;
	stored.nulls = slot->tts_isnull;

	/* A row without a key is no business of any merge. */
	if (lacks_key(print, stored.nulls))
		return false;
	row->hash = etl_row_hash(print->keys, print->n_keys, stored.values,
							 stored.nulls, ETL_KEY_SEED);
	known = etl_sieve_passes(print->sieve, row->hash);
	if (!known && !print->others_matter)
		return false;

	slot_getsomeattrs(slot, print->last);
	flags = target_flags(print->merge, &stored);
	row->fingerprint = 0;
	if (known && (flags & ETL_FILTER_OPEN) != 0)
		row->fingerprint = fingerprint(print, print->n_compared, stored.values,
									   stored.nulls);
	row->word = etl_tid_address(&slot->tts_tid) << 16 | flags;
	return true;
}

static bool
lacks_key(const EtlPrint *print, const bool *nulls)
{
	for (int i = 0; i < print->n_keys; i++)
		if (nulls[print->keys[i].position])
			return true;
	return false;
}

/* Has a row of the input no time at which it could take effect? */
static bool
lacks_time(const EtlPrint *print, const Datum *values, const bool *nulls)
{
	int position = print->merge->input.time - 1;

	if (position < 0)
		return false;
	return nulls[position] ||
		   (print->has_time &&
			etl_merge_is_endless(print->merge, values[position]));
}

/*
 * A version that starts after the one time at which all rows take effect
 * needs a closer look, even if it equals the row that came: another version
 * was valid at that time.
 */
static int
target_flags(EtlMerge *merge, const EtlStored *stored)
{
	if (!merge->versioned)
		return ETL_FILTER_OPEN;
	if (!etl_stored_is_open(merge, stored))
		return 0;
	if (stored->nulls[merge->valid_from] ||
		(merge->input.time == 0 &&
		 etl_time_compare(merge, stored->values[merge->valid_from],
						  merge->effective_at) > 0))
		return ETL_FILTER_OPEN | ETL_FILTER_TOUCH;
	return ETL_FILTER_OPEN;
}

/*
 * Of the key and so many of the compared columns.  Without the key, rows of
 * equal content would have no more than the other hash to tell their keys
 * apart, and that has no seed.
 */
static uint64
fingerprint(const EtlPrint *print, int n_compared, const Datum *values,
			const bool *nulls)
{
	uint64 key = etl_row_hash(print->keys, print->n_keys, values, nulls,
							  print->seed);

	return etl_row_fingerprint(print->compared, n_compared, values, nulls, key);
}

/* The fingerprint of a change, with the target's print. */
uint64
etl_print_change(const EtlPrint *print, const EtlChange *change)
{
	const EtlRowColumn *compared = print->compared;
	int n_columns = print->n_compared - (print->has_time ? 1 : 0);
	uint64 result = fingerprint(print, n_columns, change->values, change->nulls);

	if (print->has_time)
		result = etl_value_fingerprint(compared[n_columns].ops, change->time,
									   change->no_time, result);
	return result;
}

static void
create(EtlPrint *print, EtlMerge *merge, uint64 seed)
{
	memset(print, 0, sizeof(EtlPrint));
	print->keys = palloc(sizeof(EtlRowColumn) * merge->n_keys);
	print->compared = palloc(sizeof(EtlRowColumn) * (merge->natts + 1));
	print->has_time = merge->versioned && merge->input.time != 0;
	print->seed = seed;
	print->merge = merge;
}

/* A column has to be read. */
static void
see(EtlPrint *print, AttrNumber attnum)
{
	print->last = Max(print->last, attnum);
}

static void
add_key(EtlPrint *print, EtlMerge *merge, int column, AttrNumber attnum)
{
	EtlRowColumn *key = &print->keys[print->n_keys++];

	key->position = attnum - 1;
	key->ops = &merge->columns[column].ops;
	print->last_key = Max(print->last_key, attnum);
	see(print, attnum);
}

static void
add_compared(EtlPrint *print, EtlMerge *merge, int column, AttrNumber attnum)
{
	EtlRowColumn *compared = &print->compared[print->n_compared++];

	compared->position = attnum - 1;
	compared->ops = &merge->columns[column].ops;
	see(print, attnum);
}

static bool
is_compared(const EtlMergeColumn *column)
{
	return column->role == ETL_ROLE_TRACKED ||
		   column->role == ETL_ROLE_OVERWRITE ||
		   column->role == ETL_ROLE_SEQUENCE;
}
