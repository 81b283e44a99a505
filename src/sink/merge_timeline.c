/*-------------------------------------------------------------------------
 *
 * merge_timeline.c
 *	  The time line of one key: stored versions and changes become points.
 *
 * A stored version [from, to) is a live point at its start and, if nothing
 * starts where it ends, a dead point there.  A change is a point at its time,
 * live or, for a delete, dead.  It takes the place of a stored point of the
 * same time; otherwise it lies between two points and holds until the next.
 * Then points that say nothing new are dropped: a live one whose tracked
 * columns equal those of the live point before, and a dead one after a dead
 * one or at the very start.  Stored neighbours that no change touches stay
 * as they are, even if they are equal: history that was not asked about is
 * not rewritten.
 *
 * Where the input is the log of all changes, the stored versions are no
 * points: the line follows from the changes alone, so that it does not
 * depend on the order in which they came.  A stored boundary that the log
 * does not know is refused, since it would be lost.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/date.h"
#include "utils/timestamp.h"

#include "sink/merge_scd2.h"

/* What is stored at a time. */
typedef enum Boundary
{
	BOUNDARY_NONE,
	BOUNDARY_START,
	BOUNDARY_END /* and nothing starts there */
} Boundary;

static bool is_endless(Oid type, Datum time);
pg_noreturn static void refuse_stored(EtlMerge *merge, const EtlStored *stored,
									  const char *problem);
static int compare_changes(const void *a, const void *b, void *arg);
static EtlChange *add_absence(EtlHistory *history);
static void check_logged(EtlHistory *history, EtlChange **changes, int n);
static bool is_known(EtlMerge *merge, EtlChange **changes, int n, int *at,
					 Datum time);
static void settle_ties(EtlHistory *history, EtlChange **changes, int n);
static void revive_present(EtlHistory *history);
static void settle_late(EtlHistory *history);
static bool repeats_stored(EtlHistory *history, const EtlChange *change);
static bool is_late(EtlHistory *history, const EtlChange *change);
static void add_point(EtlHistory *history, Datum time, bool live, int stored,
					  EtlChange *change);
static void merge_points(EtlHistory *history);
static void add_change(EtlHistory *history, EtlChange *change, int stored);
static void drop_repeated(EtlHistory *history);
static bool says_nothing(EtlHistory *history, const EtlPoint *point,
						 const EtlPoint *before);
static Boundary find_boundary(EtlHistory *history, Datum time, int *stored);
static int find_point(EtlHistory *history, Datum time);
static EtlOutcome outcome(EtlHistory *history, EtlChange *change);
static EtlOutcome outcome_of_delete(EtlHistory *history, EtlChange *change,
									Boundary boundary);
static bool overwrites(EtlHistory *history, const EtlChange *change);

/* ------------------------------------------------------------------ */
/* what is stored                                                       */

/* A version without an end; however that is written. */
bool
etl_stored_is_open(EtlMerge *merge, const EtlStored *stored)
{
	EtlMergeColumn *column = &merge->columns[merge->valid_to];
	Datum end = stored->values[merge->valid_to];

	if (stored->nulls[merge->valid_to])
		return true;
	if (!merge->open_end_null &&
		etl_value_compare(&column->ops, end, merge->open_end) == 0)
		return true;
	return is_endless(column->ops.type, end);
}

/* Is this no time at which a version could begin? */
bool
etl_merge_is_endless(EtlMerge *merge, Datum time)
{
	EtlMergeColumn *column = &merge->columns[merge->valid_to];

	if (!merge->open_end_null &&
		etl_value_compare(&column->ops, time, merge->open_end) >= 0)
		return true;
	return is_endless(column->ops.type, time);
}

static bool
is_endless(Oid type, Datum time)
{
	switch (type)
	{
		case DATEOID:
			return DATE_IS_NOEND(DatumGetDateADT(time));
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return TIMESTAMP_IS_NOEND(DatumGetTimestamp(time));
		default:
			return false;
	}
}

/*
 * Finds the ends of the stored versions, and the last boundary; throws if
 * they are no history.
 */
void
etl_timeline_stored(EtlHistory *history)
{
	EtlMerge *merge = history->merge;
	EtlGroup *group = history->group;

	history->ends = palloc(sizeof(Datum) * (group->n_stored + 1));
	history->open = palloc(sizeof(bool) * (group->n_stored + 1));
	for (int i = 0; i < group->n_stored; i++)
	{
		EtlStored *stored = &group->stored[i];
		Datum from = stored->values[merge->valid_from];

		if (stored->nulls[merge->valid_from])
			refuse_stored(merge, stored, "has a version without a start");
		if (i > 0 && history->open[i - 1])
			refuse_stored(merge, stored,
						  etl_stored_is_open(merge, stored) ?
							  "has two open versions" :
							  "has a version after the open one");
		if (i > 0 && etl_time_compare(merge, history->ends[i - 1], from) > 0)
			refuse_stored(merge, stored, "has versions that overlap");

		history->open[i] = etl_stored_is_open(merge, stored);
		history->ends[i] = stored->values[merge->valid_to];
		history->last = from;
		if (history->open[i])
			continue;
		if (merge->closed_bounds)
			history->ends[i] = DateADTGetDatum(
				DatumGetDateADT(history->ends[i]) + 1);
		history->last = history->ends[i];
		if (etl_time_compare(merge, from, history->ends[i]) >= 0)
			refuse_stored(merge, stored,
						  "has a version that ends before it starts");
	}
}

static void
refuse_stored(EtlMerge *merge, const EtlStored *stored, const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 errmsg("key %s of relation \"%s\" %s",
					etl_merge_key_text(merge, stored->values, stored->nulls),
					RelationGetRelationName(merge->target), problem),
			 errhint("etl_scd2_verify() lists all such problems.")));
}

/* The last stored row that starts at or before a time, by bisection, or -1. */
int
etl_last_started(EtlHistory *history, Datum time)
{
	EtlMerge *merge = history->merge;
	EtlStored *rows = history->group->stored;
	int low = 0;
	int high = history->group->n_stored;

	while (low < high)
	{
		int middle = (low + high) / 2;

		if (etl_time_compare(merge, rows[middle].values[merge->valid_from],
							 time) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low - 1;
}

/* ------------------------------------------------------------------ */
/* the changes that count                                               */

/*
 * Sorts the changes by time, settles those that do not count, and finds
 * whose OVERWRITE and FIXED columns do.
 */
void
etl_timeline_changes(EtlHistory *history)
{
	EtlMerge *merge = history->merge;
	EtlGroup *group = history->group;
	int n = group->n_changes;
	EtlChange **changes = palloc(sizeof(EtlChange *) * (n + 1));

	if (merge->input.step != 0)
		etl_steps_settle(history);
	for (int i = 0; i < n; i++)
		changes[i] = &group->changes[i];
	if (n == 0 && merge->absent == ETL_ABSENT_CLOSE)
		changes[n++] = add_absence(history);
	if (n > 1)
		qsort_arg(changes, n, sizeof(EtlChange *), compare_changes, merge);
	if (merge->from_log)
		check_logged(history, changes, n);

	history->changes = palloc(sizeof(EtlChange *) * (n + 1));
	settle_ties(history, changes, n);
	if (merge->absent == ETL_ABSENT_CLOSE)
		revive_present(history);
	if (merge->late != ETL_LATE_WEAVE)
		settle_late(history);

	for (int i = 0; i < history->n_changes; i++)
	{
		EtlChange *change = history->changes[i];

		if (change->is_delete)
			continue;
		if (history->oldest == NULL && (group->n_stored == 0 || merge->from_log))
			history->oldest = change;
		if (merge->from_log || !is_late(history, change))
			history->newest = change;
	}
}

static int
compare_changes(const void *a, const void *b, void *arg)
{
	const EtlChange *first = *(EtlChange *const *) a;
	const EtlChange *second = *(EtlChange *const *) b;
	int order;

	CHECK_FOR_INTERRUPTS();
	order = etl_time_compare(arg, first->time, second->time);
	if (order != 0)
		return order;
	return first->number < second->number ? -1 : first->number > second->number;
}

/*
 * A key that the source lacks is deleted, unless its open version starts
 * later.  This change is no row of the input and is not counted as one.
 */
static EtlChange *
add_absence(EtlHistory *history)
{
	EtlMerge *merge = history->merge;
	EtlChange *change = palloc0(sizeof(EtlChange));

	change->time = merge->effective_at;
	change->is_delete = true;
	change->outcome = ETL_UNCHANGED;
	if (history->group->n_stored > 0 &&
		history->open[history->group->n_stored - 1] &&
		etl_time_compare(merge, history->last, change->time) <= 0)
	{
		change->outcome = ETL_DELETED;
		merge->counts.absent++;
	}
	return change;
}

/*
 * Each boundary of the stored versions must come from a change that was in
 * the log before this run.
 */
static void
check_logged(EtlHistory *history, EtlChange **changes, int n)
{
	EtlMerge *merge = history->merge;
	EtlGroup *group = history->group;
	int at = 0;

	for (int i = 0; i < group->n_stored; i++)
	{
		EtlStored *stored = &group->stored[i];

		if (is_known(merge, changes, n, &at, stored->values[merge->valid_from]) &&
			(history->open[i] ||
			 is_known(merge, changes, n, &at, history->ends[i])))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("key %s of relation \"%s\" has a version that is not in the change log",
						etl_merge_key_text(merge, stored->values, stored->nulls),
						RelationGetRelationName(merge->target)),
				 errdetail("It was written without the log."),
				 errhint(
					 "Always merge with change_log => true; drop the log to have it made anew from the versions that there are.")));
	}
}

/* Times come in their order; at goes along with them. */
static bool
is_known(EtlMerge *merge, EtlChange **changes, int n, int *at, Datum time)
{
	for (; *at < n; (*at)++)
	{
		int order = etl_time_compare(merge, changes[*at]->time, time);

		if (order > 0)
			return false;
		if (order == 0 && !changes[*at]->is_new)
			return true;
	}
	return false;
}

static void
settle_ties(EtlHistory *history, EtlChange **changes, int n)
{
	EtlMerge *merge = history->merge;
	int end;

	for (int i = 0; i < n; i = end)
	{
		EtlChange *winner;

		CHECK_FOR_INTERRUPTS();
		for (end = i + 1; end < n; end++)
			if (etl_time_compare(merge, changes[i]->time, changes[end]->time) !=
				0)
				break;
		winner = changes[i];
		if (end - i > 1)
			winner = etl_settle_tie(merge, &changes[i], end - i);
		else if (winner->outcome == ETL_UNCHANGED)
			continue; /* absent, but not to be deleted */
		if (winner != NULL)
			history->changes[history->n_changes++] = winner;
	}
}

/*
 * Where the source is the whole truth, a key that is in it is there now: if
 * it was closed, its newest row takes effect now and not in the past.
 */
static void
revive_present(EtlHistory *history)
{
	EtlMerge *merge = history->merge;
	int n_stored = history->group->n_stored;
	EtlChange *newest;

	if (history->n_changes == 0 || n_stored == 0 || history->open[n_stored - 1])
		return;
	newest = history->changes[history->n_changes - 1];
	if (!newest->is_delete && newest->is_new &&
		etl_time_compare(merge, newest->time, history->last) < 0 &&
		etl_time_compare(merge, newest->time, merge->effective_at) < 0)
		newest->time = merge->effective_at;
}

/* Takes out the late changes where they are not to be woven in. */
static void
settle_late(EtlHistory *history)
{
	EtlMerge *merge = history->merge;
	int n = 0;

	for (int i = 0; i < history->n_changes; i++)
	{
		EtlChange *change = history->changes[i];

		if (!change->is_new || !is_late(history, change) ||
			repeats_stored(history, change))
			history->changes[n++] = change;
		else if (merge->late == ETL_LATE_DEAD_LETTER)
			etl_merge_reject(merge, change, ETL_CATEGORY_CONFLICT,
							 ERRCODE_DATA_EXCEPTION,
							 "row is older than the newest version of its key");
		else
		{
			change->outcome = ETL_LATE_IGNORED;
			etl_merge_count(merge, change);
		}
	}
	history->n_changes = n;
}

/* Does a change say what is stored for its time? */
static bool
repeats_stored(EtlHistory *history, const EtlChange *change)
{
	EtlStored *row;
	int stored;

	find_boundary(history, change->time, &stored);
	if (stored < 0 || (!history->open[stored] &&
					   etl_time_compare(history->merge, history->ends[stored],
										change->time) <= 0))
		return change->is_delete;
	row = &history->group->stored[stored];
	return !change->is_delete &&
		   etl_same_content(history->merge, ETL_ROLE_TRACKED, row->values,
							row->nulls, change->values, change->nulls);
}

/* Before the last boundary of what is stored? */
static bool
is_late(EtlHistory *history, const EtlChange *change)
{
	return history->group->n_stored > 0 &&
		   etl_time_compare(history->merge, change->time, history->last) < 0;
}

/* ------------------------------------------------------------------ */
/* points                                                               */

void
etl_timeline_points(EtlHistory *history)
{
	history->points = palloc(sizeof(EtlPoint) * (2 * history->group->n_stored +
												 history->n_changes + 1));
	history->n_points = 0;
	merge_points(history);
	drop_repeated(history);
}

static void
add_point(EtlHistory *history, Datum time, bool live, int stored,
		  EtlChange *change)
{
	EtlPoint *point = &history->points[history->n_points++];

	point->time = time;
	point->live = live;
	point->stored = stored;
	point->change = change;
	point->touched = change != NULL;
}

/* Puts stored boundaries and changes in the order of their times. */
static void
merge_points(EtlHistory *history)
{
	EtlMerge *merge = history->merge;
	EtlGroup *group = history->group;
	int n_stored = merge->from_log ? 0 : group->n_stored;
	int c = 0;

	for (int i = 0; i < n_stored; i++)
	{
		Datum from = group->stored[i].values[merge->valid_from];
		bool gap_follows = !history->open[i] &&
						   (i + 1 == n_stored ||
							etl_time_compare(merge, history->ends[i],
											 group->stored[i + 1]
												 .values[merge->valid_from]) !=
								0);

		for (; c < history->n_changes &&
			   etl_time_compare(merge, history->changes[c]->time, from) < 0;
			 c++)
			add_change(history, history->changes[c], -1);
		if (c < history->n_changes &&
			etl_time_compare(merge, history->changes[c]->time, from) == 0)
			add_change(history, history->changes[c++], i);
		else
			add_point(history, from, true, i, NULL);

		if (!gap_follows)
			continue;
		for (; c < history->n_changes &&
			   etl_time_compare(merge, history->changes[c]->time,
								history->ends[i]) < 0;
			 c++)
			add_change(history, history->changes[c], -1);
		if (c < history->n_changes &&
			etl_time_compare(merge, history->changes[c]->time,
							 history->ends[i]) == 0)
			add_change(history, history->changes[c++], -1);
		else
			add_point(history, history->ends[i], false, -1, NULL);
	}
	for (; c < history->n_changes; c++)
		add_change(history, history->changes[c], -1);
}

/*
 * A change that repeats the stored row of its time leaves it alone; any
 * other takes its place.
 */
static void
add_change(EtlHistory *history, EtlChange *change, int stored)
{
	if (stored >= 0 && !change->is_delete)
	{
		EtlStored *row = &history->group->stored[stored];

		if (etl_same_content(history->merge, ETL_ROLE_TRACKED, row->values,
							 row->nulls, change->values, change->nulls))
		{
			add_point(history, change->time, true, stored, NULL);
			return;
		}
	}
	add_point(history, change->time, !change->is_delete, -1, change);
}

/* Drops the points that say nothing new. */
static void
drop_repeated(EtlHistory *history)
{
	EtlPoint *points = history->points;
	int n = 0;

	for (int i = 0; i < history->n_points; i++)
	{
		int stored;

		CHECK_FOR_INTERRUPTS();
		if (!says_nothing(history, &points[i], n > 0 ? &points[n - 1] : NULL))
		{
			points[n++] = points[i];
			continue;
		}

		/*
		 * What was stored at this time is gone, so that the point before
		 * meets the next one for the first time.
		 */
		if (n > 0 && points[i].change != NULL &&
			find_boundary(history, points[i].time, &stored) != BOUNDARY_NONE)
			points[n - 1].touched = true;
	}
	history->n_points = n;
}

static bool
says_nothing(EtlHistory *history, const EtlPoint *point, const EtlPoint *before)
{
	const Datum *values[2];
	const bool *nulls[2];

	if (before == NULL || !before->live)
		return !point->live;
	if (!point->live || (!point->touched && !before->touched))
		return false;
	for (int i = 0; i < 2; i++)
	{
		const EtlPoint *p = i == 0 ? before : point;

		values[i] = p->change != NULL ? p->change->values :
										history->group->stored[p->stored].values;
		nulls[i] = p->change != NULL ? p->change->nulls :
									   history->group->stored[p->stored].nulls;
	}
	return etl_same_content(history->merge, ETL_ROLE_TRACKED, values[0],
							nulls[0], values[1], nulls[1]);
}

/* ------------------------------------------------------------------ */
/* outcomes                                                             */

/* Finds what became of the changes that count; counts those of this run. */
void
etl_timeline_outcomes(EtlHistory *history)
{
	for (int i = 0; i < history->n_changes; i++)
	{
		EtlChange *change = history->changes[i];

		CHECK_FOR_INTERRUPTS();
		if (!change->is_new)
			continue;
		change->outcome = outcome(history, change);
		etl_merge_count(history->merge, change);
	}
}

static EtlOutcome
outcome(EtlHistory *history, EtlChange *change)
{
	int stored;
	Boundary boundary = find_boundary(history, change->time, &stored);
	int point = find_point(history, change->time);
	bool starts = point >= 0 && history->points[point].change == change;

	if (change->is_delete)
		return outcome_of_delete(history, change, boundary);
	if (boundary == BOUNDARY_START)
	{
		EtlStored *row = &history->group->stored[stored];

		if (etl_same_content(history->merge, ETL_ROLE_TRACKED, row->values,
							 row->nulls, change->values, change->nulls))
			return overwrites(history, change) ? ETL_OVERWRITTEN : ETL_UNCHANGED;
		return ETL_CORRECTED;
	}
	if (!starts && boundary == BOUNDARY_END)
		return ETL_CORRECTED; /* the version before goes on */
	if (!starts)
		return overwrites(history, change) ? ETL_OVERWRITTEN : ETL_UNCHANGED;
	if (history->group->n_stored == 0 && point == 0)
		return ETL_INSERTED;
	if (is_late(history, change))
		return ETL_LATE;
	if (boundary == BOUNDARY_END || point == 0 ||
		!history->points[point - 1].live)
		history->merge->counts.revived++;
	return ETL_OPENED;
}

static EtlOutcome
outcome_of_delete(EtlHistory *history, EtlChange *change, Boundary boundary)
{
	int point = find_point(history, change->time);

	if (boundary == BOUNDARY_START)
		return ETL_DELETED;
	if (boundary == BOUNDARY_END || point < 0)
		return ETL_UNCHANGED;
	return is_late(history, change) ? ETL_LATE : ETL_DELETED;
}

/* Does a change that starts no version at least overwrite something? */
static bool
overwrites(EtlHistory *history, const EtlChange *change)
{
	EtlStored *last;

	if (change != history->newest || history->group->n_stored == 0)
		return false;
	last = &history->group->stored[history->group->n_stored - 1];
	return !etl_same_content(history->merge, ETL_ROLE_OVERWRITE, last->values,
							 last->nulls, change->values, change->nulls);
}

/* What is stored at a time. */
static Boundary
find_boundary(EtlHistory *history, Datum time, int *stored)
{
	EtlMerge *merge = history->merge;
	EtlStored *rows = history->group->stored;
	int last = etl_last_started(history, time);

	*stored = last;
	if (last < 0)
		return BOUNDARY_NONE;
	if (etl_time_compare(merge, rows[last].values[merge->valid_from], time) == 0)
		return BOUNDARY_START;
	if (!history->open[last] &&
		etl_time_compare(merge, history->ends[last], time) == 0)
		return BOUNDARY_END;
	return BOUNDARY_NONE;
}

/* The point at a time, or -1. */
static int
find_point(EtlHistory *history, Datum time)
{
	int low = 0;
	int high = history->n_points;

	while (low < high)
	{
		int middle = (low + high) / 2;
		int order = etl_time_compare(history->merge,
									 history->points[middle].time, time);

		if (order == 0)
			return middle;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return -1;
}
