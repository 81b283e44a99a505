/*-------------------------------------------------------------------------
 *
 * merge_upsert.c
 *	  What becomes of a key whose target keeps one row: upsert, SCD 1 and 3.
 *
 * The newest of the changes is applied, if it is not older than the stored
 * row or the key's tombstone.  Newer and older is what the sequence says;
 * without one all changes of a key are equally new.  One stored row is all
 * there may be, so it does not matter whether the group is complete.
 *
 * A tombstone says that the key was deleted at a sequence.  It stays when a
 * newer row comes back: it is true for ever that what is not newer than it
 * must not be stored, and the row's own sequence says no less.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "sink/merge.h"

static void settle_group(EtlMerge *merge, EtlGroup *group);
static void settle_absent(EtlMerge *merge, const EtlStored *stored);
static void pass_over(EtlMerge *merge, EtlChange *change);
pg_noreturn static void refuse_repeated_key(EtlMerge *merge, EtlGroup *group);
static bool is_stale(EtlMerge *merge, const EtlStored *stored,
					 const EtlChange *change);
static int compare_with_stored(EtlMerge *merge, const EtlStored *stored,
							   const EtlChange *change);
static EtlChange *choose_winner(EtlMerge *merge, EtlChange **changes,
								int nchanges);
static int newest_first(const void *a, const void *b, void *arg);
static int tie_length(EtlMerge *merge, EtlChange **changes, int nchanges);
static void apply_delete(EtlMerge *merge, const EtlStored *stored,
						 EtlChange *change);
static void apply_insert(EtlMerge *merge, EtlChange *change);
static void apply_update(EtlMerge *merge, const EtlStored *stored,
						 EtlChange *change);
static bool replace_columns(EtlMerge *merge, const EtlStored *stored,
							const EtlChange *change, Datum *values, bool *nulls);

/*
 * Decides about one key; always does.  A key without changes is one that the
 * input lacks, and is deleted.
 */
bool
etl_decide_upsert(EtlMerge *merge, EtlGroup *group)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(merge->group_context);

	if (group->n_stored > 1)
		refuse_repeated_key(merge, group);
	if (group->n_changes > 0)
		settle_group(merge, group);
	else if (group->n_stored > 0 && merge->absent == ETL_ABSENT_CLOSE)
		settle_absent(merge, &group->stored[0]);
	MemoryContextSwitchTo(oldcontext);
	return true;
}

/*
 * Decides about one key that is only ever inserted; always does.  As if the
 * changes came one by one: the first of a new key is stored, and those that
 * find their key there change nothing.  How often it is there does not matter.
 */
bool
etl_decide_append(EtlMerge *merge, EtlGroup *group)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(merge->group_context);
	EtlChange *first = &group->changes[0];

	for (int i = 1; i < group->n_changes; i++)
		if (group->changes[i].number < first->number)
			first = &group->changes[i];
	for (int i = 0; i < group->n_changes; i++)
	{
		EtlChange *change = &group->changes[i];

		CHECK_FOR_INTERRUPTS();
		if (group->n_stored > 0)
			change->outcome = group->stored[0].is_new ? ETL_DUPLICATE :
														ETL_UNCHANGED;
		else if (change != first)
			change->outcome = ETL_DUPLICATE;
		else
			apply_insert(merge, change);
		etl_merge_count(merge, change);
	}
	MemoryContextSwitchTo(oldcontext);
	return true;
}

/* Does the merge do nothing but insert? */
bool
etl_merge_appends(const EtlMerge *merge)
{
	return merge->decide == etl_decide_append;
}

/*
 * Gives each change its outcome.  Stale ones first: they are no matter of
 * dispute, however many there are.
 */
static void
settle_group(EtlMerge *merge, EtlGroup *group)
{
	const EtlStored *stored = group->n_stored > 0 ? &group->stored[0] : NULL;
	EtlChange **changes = MemoryContextAllocHuge(CurrentMemoryContext,
												 sizeof(EtlChange *) *
													 group->n_changes);
	EtlChange *winner;
	int nchanges = 0;

	for (int i = 0; i < group->n_changes; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (is_stale(merge, stored, &group->changes[i]))
			pass_over(merge, &group->changes[i]);
		else
			changes[nchanges++] = &group->changes[i];
	}

	winner = choose_winner(merge, changes, nchanges);
	if (winner != NULL && winner->is_delete)
		apply_delete(merge, stored, winner);
	else if (winner != NULL && stored == NULL)
		apply_insert(merge, winner);
	else if (winner != NULL)
		apply_update(merge, stored, winner);
	if (winner != NULL)
		etl_merge_count(merge, winner);
}

/*
 * A key that the input lacks is deleted, as of the newest row of the input:
 * a row that is newer than all of them is left alone.  No tombstone is made,
 * since such an input is the whole truth the next time, too.
 */
static void
settle_absent(EtlMerge *merge, const EtlStored *stored)
{
	int column = merge->sequence;

	if (merge->input.time != 0 && merge->effective_is_last &&
		!stored->nulls[column] &&
		etl_value_compare(&merge->columns[column].ops, stored->values[column],
						  merge->effective_at) > 0)
		return;
	etl_merge_delete(merge->writer, stored);
	merge->counts.absent++;
}

/* A change that is older than another, or than what is stored. */
static void
pass_over(EtlMerge *merge, EtlChange *change)
{
	change->outcome = ETL_STALE;
	etl_merge_count(merge, change);
}

/* Which of the rows should be written?  The caller must say. */
static void
refuse_repeated_key(EtlMerge *merge, EtlGroup *group)
{
	ereport(ERROR,
			(errcode(ERRCODE_CARDINALITY_VIOLATION),
			 errmsg("key %s is in relation \"%s\" more than once",
					etl_merge_key_text(merge, group->stored[0].values,
									   group->stored[0].nulls),
					RelationGetRelationName(merge->target)),
			 errhint(
				 "Delete the other rows of the key, or name more columns in \"keys\".")));
}

/*
 * Is a change older than what is known of its key?  What is as new as the
 * stored row arrived later and replaces it; what is as new as a tombstone
 * loses to the delete, unless it is that delete once more.
 */
static bool
is_stale(EtlMerge *merge, const EtlStored *stored, const EtlChange *change)
{
	if (merge->input.time == 0)
		return false;
	if (change->has_tombstone)
	{
		int order = etl_value_compare(&merge->columns[merge->sequence].ops,
									  change->time, change->tombstone);

		if (order < 0 || (order == 0 && !change->is_delete))
			return true;
	}
	return stored != NULL && compare_with_stored(merge, stored, change) < 0;
}

/*
 * Is a change older (-1), as new (0) or newer (1) than the stored row?  A row
 * without a sequence is older than all.  The column may hold less digits
 * than the time of the change, so its value in the target's layout counts.
 */
static int
compare_with_stored(EtlMerge *merge, const EtlStored *stored,
					const EtlChange *change)
{
	int column = merge->sequence;

	if (stored->nulls[column])
		return 1;
	return etl_value_compare(&merge->columns[column].ops,
							 change->values[column], stored->values[column]);
}

/*
 * The change to apply, NULL if there is none.  Changes that are rejected
 * leave their place to the next older ones.
 */
static EtlChange *
choose_winner(EtlMerge *merge, EtlChange **changes, int nchanges)
{
	EtlChange *winner = NULL;
	int next = 0;

	if (nchanges > 1)
		qsort_arg(changes, nchanges, sizeof(EtlChange *), newest_first, merge);
	while (winner == NULL && next < nchanges)
	{
		int n = tie_length(merge, changes + next, nchanges - next);

		winner = etl_settle_tie(merge, changes + next, n);
		next += n;
	}
	for (; next < nchanges; next++)
		pass_over(merge, changes[next]);
	return winner;
}

/* For qsort_arg(): by time, and equally new ones as the input has them. */
static int
newest_first(const void *a, const void *b, void *arg)
{
	EtlMerge *merge = arg;
	const EtlChange *left = *(EtlChange *const *) a;
	const EtlChange *right = *(EtlChange *const *) b;
	int order = 0;

	CHECK_FOR_INTERRUPTS();
	if (merge->input.time != 0)
		order = etl_value_compare(&merge->columns[merge->sequence].ops,
								  right->time, left->time);
	if (order == 0)
		order = left->number < right->number ? -1 : 1;
	return order;
}

/* How many of the changes are as new as the first of them? */
static int
tie_length(EtlMerge *merge, EtlChange **changes, int nchanges)
{
	int n = 1;

	if (merge->input.time == 0)
		return nchanges;
	while (n < nchanges &&
		   etl_value_compare(&merge->columns[merge->sequence].ops,
							 changes[n]->time, changes[0]->time) == 0)
	{
		CHECK_FOR_INTERRUPTS();
		n++;
	}
	return n;
}

/* Deletes the stored row, and remembers that unless it is known. */
static void
apply_delete(EtlMerge *merge, const EtlStored *stored, EtlChange *change)
{
	bool known = change->has_tombstone && merge->input.time != 0 &&
				 etl_value_compare(&merge->columns[merge->sequence].ops,
								   change->time, change->tombstone) <= 0;

	if (stored != NULL)
		etl_merge_delete(merge->writer, stored);
	change->outcome = stored != NULL ? ETL_DELETED : ETL_UNCHANGED;
	if (merge->bury != NULL && !known)
		merge->bury(merge, change);
}

/* Inserts a row of a new key.  What the input lacks gets its default. */
static void
apply_insert(EtlMerge *merge, EtlChange *change)
{
	Datum *values = palloc0(sizeof(Datum) * merge->natts);
	bool *nulls = palloc(sizeof(bool) * merge->natts);

	for (int i = 0; i < merge->natts; i++)
	{
		EtlColumnRole role = merge->columns[i].role;

		nulls[i] = role == ETL_ROLE_NONE || role == ETL_ROLE_KEPT ||
				   role == ETL_ROLE_PREVIOUS || role == ETL_ROLE_CHANGED_AT ||
				   change->nulls[i];
		if (!nulls[i])
			values[i] = change->values[i];
	}
	etl_merge_insert(merge->writer, values, nulls, false);
	change->outcome = ETL_INSERTED;
}

/*
 * Updates the stored row if it differs.  If only the sequence does, that is
 * written, for what comes later to be judged by, and the row is unchanged.
 */
static void
apply_update(EtlMerge *merge, const EtlStored *stored, EtlChange *change)
{
	Datum *values = palloc(sizeof(Datum) * merge->natts);
	bool *nulls = palloc(sizeof(bool) * merge->natts);
	bool differs;
	bool newer = false;

	memcpy(values, stored->values, sizeof(Datum) * merge->natts);
	memcpy(nulls, stored->nulls, sizeof(bool) * merge->natts);
	differs = replace_columns(merge, stored, change, values, nulls);
	if (merge->input.time != 0 && compare_with_stored(merge, stored, change) > 0)
	{
		newer = true;
		values[merge->sequence] = change->values[merge->sequence];
		nulls[merge->sequence] = change->nulls[merge->sequence];
	}
	if (differs || newer)
		etl_merge_update(merge->writer, stored, values, nulls, 0);
	change->outcome = differs ? ETL_UPDATED : ETL_UNCHANGED;
}

/*
 * Puts the tracked columns that differ into the new row, and their former
 * values into the columns that keep these.  Returns whether any differs.
 */
static bool
replace_columns(EtlMerge *merge, const EtlStored *stored,
				const EtlChange *change, Datum *values, bool *nulls)
{
	bool differs = false;
	bool moved = false;

	for (int i = 0; i < merge->natts; i++)
	{
		EtlMergeColumn *column = &merge->columns[i];

		if (column->role != ETL_ROLE_TRACKED ||
			etl_value_equal(&column->ops, stored->values[i], stored->nulls[i],
							change->values[i], change->nulls[i]))
			continue;
		differs = true;
		values[i] = change->values[i];
		nulls[i] = change->nulls[i];
		if (column->previous >= 0)
		{
			values[column->previous] = stored->values[i];
			nulls[column->previous] = stored->nulls[i];
			moved = true;
		}
	}
	if (moved && merge->changed_at >= 0)
	{
		values[merge->changed_at] = merge->effective_at;
		nulls[merge->changed_at] = false;
	}
	return differs;
}
