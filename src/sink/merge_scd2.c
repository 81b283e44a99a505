/*-------------------------------------------------------------------------
 *
 * merge_scd2.c
 *	  Decides what becomes of the history of one key.
 *
 * The stored versions and the changes of the key make one time line
 * (merge_timeline.c), which is turned into rows again (merge_versions.c).
 * What both have in common is that the whole history of one key fits into
 * memory; nothing is kept from one key to the next.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "sink/merge_scd2.h"

static bool open_row_suffices(EtlMerge *merge, EtlGroup *group);

/*
 * See EtlMerge.decide.  Most keys have one change and an open version that
 * started before it; then the versions before that do not matter.
 */
bool
etl_decide_scd2(EtlMerge *merge, EtlGroup *group)
{
	EtlHistory history = {0};

	if (!group->complete && !open_row_suffices(merge, group))
		return false;

	history.merge = merge;
	history.group = group;
	etl_timeline_stored(&history);
	etl_timeline_changes(&history);
	if (history.n_changes == 0)
		return true;
	etl_timeline_points(&history);
	etl_timeline_outcomes(&history);
	etl_versions_make(&history);
	etl_versions_write(&history);
	return true;
}

/*
 * The group has one open row and at most one change.  Earlier versions matter
 * if the change is late or replaces the open version, if it overwrites
 * columns of all versions, and if the row is no open version at all.
 */
static bool
open_row_suffices(EtlMerge *merge, EtlGroup *group)
{
	EtlStored *stored = &group->stored[0];
	EtlChange *change = group->changes;

	if (stored->nulls[merge->valid_from])
		return false;
	if (group->n_changes == 0)
		return true;
	return etl_time_compare(merge, stored->values[merge->valid_from],
							change->time) < 0 &&
		   (change->is_delete ||
			etl_same_content(merge, ETL_ROLE_OVERWRITE, stored->values,
							 stored->nulls, change->values, change->nulls));
}

/* Compares times of the type of the validity columns. */
int
etl_time_compare(EtlMerge *merge, Datum a, Datum b)
{
	return etl_value_compare(&merge->columns[merge->valid_from].ops, a, b);
}

/* Are two rows equal in all the columns of a role? */
bool
etl_same_content(EtlMerge *merge, EtlColumnRole role, const Datum *a,
				 const bool *a_nulls, const Datum *b, const bool *b_nulls)
{
	for (int i = 0; i < merge->natts; i++)
		if (merge->columns[i].role == role &&
			!etl_value_equal(&merge->columns[i].ops, a[i], a_nulls[i], b[i],
							 b_nulls[i]))
			return false;
	return true;
}
