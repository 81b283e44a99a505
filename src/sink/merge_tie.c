/*-------------------------------------------------------------------------
 *
 * merge_tie.c
 *	  Several changes of one key that take effect at the same time.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "sink/merge.h"

static EtlChange *latest_known(EtlChange **changes, int *n);
static EtlChange *first_delete(EtlChange **changes, int n);
static bool all_alike(EtlMerge *merge, EtlChange **changes, int n);
static bool alike(EtlMerge *merge, const EtlChange *a, const EtlChange *b);
static void settle_others(EtlMerge *merge, EtlChange **changes, int n,
						  const EtlChange *winner);
pg_noreturn static void refuse_tie(EtlMerge *merge, const EtlChange *change);

/*
 * Returns the change that counts, or NULL if all were rejected; the outcome
 * of the others is set and counted.  What came in earlier runs gives way to
 * what comes in this one.  Within a run rows that are alike are one, a delete
 * beats the rest, and then the word of "duplicates" decides.  Of the changes
 * of a step the last one counts.  Looks at each change a fixed number of
 * times, however many there are.
 */
EtlChange *
etl_settle_tie(EtlMerge *merge, EtlChange **changes, int n)
{
	EtlChange *winner = latest_known(changes, &n);

	if (n == 0)
		return winner;
	if (n == 1)
		return changes[0];

	winner = merge->input.step != 0 ? changes[n - 1] : first_delete(changes, n);
	if (winner == NULL)
	{
		if (merge->duplicates == ETL_DUPLICATES_LAST)
			winner = changes[n - 1];
		else if (all_alike(merge, changes, n))
			winner = changes[0];
		else if (merge->duplicates == ETL_DUPLICATES_ERROR)
			refuse_tie(merge, changes[0]);
	}
	settle_others(merge, changes, n, winner);
	return winner;
}

/*
 * Leaves the changes of this run at the front of the array, in their order,
 * and returns the latest of the others.
 */
static EtlChange *
latest_known(EtlChange **changes, int *n)
{
	EtlChange *latest = NULL;
	int n_new = 0;

	for (int i = 0; i < *n; i++)
	{
		if (changes[i]->is_new)
			changes[n_new++] = changes[i];
		else
			latest = changes[i];
	}
	*n = n_new;
	return latest;
}

static EtlChange *
first_delete(EtlChange **changes, int n)
{
	for (int i = 0; i < n; i++)
		if (changes[i]->is_delete)
			return changes[i];
	return NULL;
}

static bool
all_alike(EtlMerge *merge, EtlChange **changes, int n)
{
	for (int i = 1; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!alike(merge, changes[0], changes[i]))
			return false;
	}
	return true;
}

/* Are two rows of the input equal in all the columns that the target has? */
static bool
alike(EtlMerge *merge, const EtlChange *a, const EtlChange *b)
{
	for (int i = 0; i < merge->natts; i++)
	{
		EtlMergeColumn *column = &merge->columns[i];

		if (column->input != 0 &&
			!etl_value_equal(&column->ops, a->values[i], a->nulls[i],
							 b->values[i], b->nulls[i]))
			return false;
	}
	return true;
}

/* Without a winner all of them go to the dead letters. */
static void
settle_others(EtlMerge *merge, EtlChange **changes, int n,
			  const EtlChange *winner)
{
	for (int i = 0; i < n; i++)
	{
		if (changes[i] == winner)
			continue;
		if (winner == NULL)
		{
			etl_merge_reject(merge, changes[i], ETL_CATEGORY_CONFLICT,
							 ERRCODE_CARDINALITY_VIOLATION,
							 merge->input.time != 0 ?
								 "another row has the same key at the same time" :
								 "another row has the same key");
			continue;
		}
		changes[i]->outcome = ETL_DUPLICATE;
		etl_merge_count(merge, changes[i]);
	}
}

static void
refuse_tie(EtlMerge *merge, const EtlChange *change)
{
	char *key = etl_merge_key_text(merge, change->values, change->nulls);

	ereport(ERROR,
			(errcode(ERRCODE_CARDINALITY_VIOLATION),
			 merge->input.time != 0 ?
				 errmsg("source has different rows for key %s at the same time",
						key) :
				 errmsg("source has different rows for key %s", key),
			 merge->strict ?
				 errhint("Use a view with one row per key as the source.") :
				 errhint("Pass duplicates => 'last' to take the last one, or 'dead_letter' to reject them%s.",
						 merge->input.time != 0 ?
							 "" :
							 ", or order them with \"sequence_by\"")));
}
