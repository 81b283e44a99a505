/*-------------------------------------------------------------------------
 *
 * merge_steps.c
 *	  Changes that come in the order in which they happened.
 *
 * Where the input has steps, the order of its rows is the truth, and the times
 * are what a clock said, which may stand still or step back.  All changes of a
 * key in one step take effect together, so that the last of them counts.  The
 * changes of another step take effect after all that is known of the key: at
 * their time, or where that is not later, a microsecond after what came last;
 * or at the merge's effective time, if there is one and it is later still.  A
 * step that an earlier merge has begun may go on at the time that it had.
 *
 * A change may lack values of columns, which are those of the row before: of
 * the change before, or else of the newest version that is stored.
 *
 * Times are of type timestamptz, in full precision: the caller sees to that.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "sink/merge_scd2.h"

static void set_time(EtlHistory *history, EtlChange *change, bool any,
					 TimestampTz last);
static void take_missing(EtlMerge *merge, EtlChange *change,
						 const Datum *values, const bool *nulls);

/*
 * Gives each change of a key its time and the values that it lacks.  They are
 * in the order of the input.
 */
void
etl_steps_settle(EtlHistory *history)
{
	EtlGroup *group = history->group;
	const Datum *values = NULL; /* of the row before */
	const bool *nulls = NULL;
	bool any = group->n_stored > 0;
	TimestampTz last = any ? DatumGetTimestampTz(history->last) : 0;

	if (any)
	{
		values = group->stored[group->n_stored - 1].values;
		nulls = group->stored[group->n_stored - 1].nulls;
	}
	for (int i = 0; i < group->n_changes; i++)
	{
		EtlChange *change = &group->changes[i];

		CHECK_FOR_INTERRUPTS();
		if (i > 0 && change->step == group->changes[i - 1].step)
			change->time = group->changes[i - 1].time;
		else
			set_time(history, change, any, last);
		any = true;
		last = DatumGetTimestampTz(change->time);
		if (change->is_delete)
			continue;
		if (change->lacks != NULL && values != NULL)
			take_missing(history->merge, change, values, nulls);
		values = change->values;
		nulls = change->nulls;
	}
}

/* The time of the first change of a step.  last: of what is known, if any. */
static void
set_time(EtlHistory *history, EtlChange *change, bool any, TimestampTz last)
{
	EtlMerge *merge = history->merge;
	TimestampTz time = DatumGetTimestampTz(change->time);

	if (!any || time > last ||
		(time == last && change->step == merge->open_step))
		return;
	time = last;
	if (!TIMESTAMP_NOT_FINITE(time))
		time++;
	if (merge->has_effective_at)
		time = Max(time, DatumGetTimestampTz(merge->effective_at));
	if (!TIMESTAMP_NOT_FINITE(time) && !IS_VALID_TIMESTAMP(time))
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
						errmsg("timestamp out of range")));
	change->time = TimestampTzGetDatum(time);
}

/* The bitmap has a bit for each column of the target. */
static void
take_missing(EtlMerge *merge, EtlChange *change, const Datum *values,
			 const bool *nulls)
{
	const bits8 *lacks = (const bits8 *) VARDATA_ANY(change->lacks);

	for (int i = 0; i < merge->natts; i++)
	{
		if ((lacks[i / 8] & (1 << (i % 8))) == 0)
			continue;
		change->values[i] = values[i];
		change->nulls[i] = nulls[i];
	}
}
