/*-------------------------------------------------------------------------
 *
 * merge_versions.c
 *	  From the time line of a key to its rows, with as few edits as can be.
 *
 * Each live point becomes a version.  It takes over the stored row of the
 * same start, or else a stored row of the same content that starts later and
 * would go otherwise; so a surrogate key stays with its version.  Stored rows
 * that are left over are deleted, versions that are left over are inserted.
 * No stored row has the start of an inserted or moved version, therefore a
 * unique constraint on (key, start) holds at every step.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"

#include "sink/merge_scd2.h"

static void pair_versions(EtlHistory *history, bool *paired);
static void compose(EtlHistory *history, int i);
static const EtlStored *template_of(EtlHistory *history, int i);
static void set_column(EtlHistory *history, EtlVersion *version, int column,
					   const EtlStored *like);
static void take(EtlVersion *version, int column, const Datum *values,
				 const bool *nulls);
static DateADT day_before(Datum end);
static void set_times(EtlMerge *merge, EtlVersion *version);
static void set_previous(EtlHistory *history);
static void set_previous_overwrites(EtlHistory *history);
static void move_to_previous(EtlMerge *merge, int column, EtlVersion *version,
							 const EtlVersion *before);
static void write_version(EtlHistory *history, EtlVersion *version);
static bool same_times(EtlHistory *history, EtlVersion *version,
					   const EtlStored *stored);

/* Makes the versions of the live points, complete with all columns. */
void
etl_versions_make(EtlHistory *history)
{
	EtlMerge *merge = history->merge;
	bool *paired = palloc0(sizeof(bool) * (history->group->n_stored + 1));

	history->versions = palloc0(sizeof(EtlVersion) * (history->n_points + 1));
	for (int i = 0; i < history->n_points; i++)
	{
		EtlPoint *point = &history->points[i];
		EtlVersion *version = &history->versions[history->n_versions];

		CHECK_FOR_INTERRUPTS();
		if (!point->live)
			continue;
		version->point = point;
		version->open = i + 1 == history->n_points;
		if (!version->open)
			version->end = history->points[i + 1].time;
		version->values = palloc0(sizeof(Datum) * merge->natts);
		version->nulls = palloc(sizeof(bool) * merge->natts);
		history->n_versions++;
	}
	pair_versions(history, paired);
	for (int i = 0; i < history->n_versions; i++)
	{
		CHECK_FOR_INTERRUPTS();
		compose(history, i);
	}
	set_previous(history);
	set_previous_overwrites(history);
}

/* Which stored row becomes which version. */
static void
pair_versions(EtlHistory *history, bool *paired)
{
	EtlMerge *merge = history->merge;
	EtlGroup *group = history->group;
	int s = 0;

	for (int i = 0; i < history->n_versions; i++)
	{
		EtlVersion *version = &history->versions[i];

		version->pair = -1;
		while (s < group->n_stored &&
			   etl_time_compare(merge, group->stored[s].values[merge->valid_from],
								version->point->time) < 0)
			s++;
		if (s < group->n_stored &&
			etl_time_compare(merge, group->stored[s].values[merge->valid_from],
							 version->point->time) == 0)
		{
			version->pair = s;
			paired[s] = true;
		}
	}

	for (int i = 0; i < history->n_versions; i++)
	{
		EtlVersion *version = &history->versions[i];
		EtlChange *change = version->point->change;

		if (version->pair >= 0)
			continue;
		for (s = etl_last_started(history, version->point->time) + 1;
			 s < group->n_stored && version->pair < 0; s++)
		{
			EtlStored *stored = &group->stored[s];

			CHECK_FOR_INTERRUPTS();

			/* not beyond the end of the version */
			if (!version->open &&
				etl_time_compare(merge, stored->values[merge->valid_from],
								 version->end) >= 0)
				break;
			if (paired[s] ||
				!etl_same_content(merge, ETL_ROLE_TRACKED, stored->values,
								  stored->nulls, change->values, change->nulls))
				continue;
			version->pair = s;
			paired[s] = true;
		}
	}
}

/* Fills in all columns but PREVIOUS. */
static void
compose(EtlHistory *history, int i)
{
	EtlMerge *merge = history->merge;
	EtlVersion *version = &history->versions[i];
	const EtlStored *like = template_of(history, i);

	version->fresh = version->point->change != NULL;
	for (int column = 0; column < merge->natts; column++)
		set_column(history, version, column, like);
	set_times(merge, version);
}

/*
 * The stored row that lends what the input lacks: the one that becomes this
 * version, or the one before it, or the one after.
 */
static const EtlStored *
template_of(EtlHistory *history, int i)
{
	EtlGroup *group = history->group;
	EtlVersion *version = &history->versions[i];

	if (group->n_stored == 0)
		return NULL;
	if (version->point->stored >= 0)
		return &group->stored[version->point->stored];
	if (version->pair >= 0)
		return &group->stored[version->pair];
	return &group->stored[Max(etl_last_started(history, version->point->time), 0)];
}

static void
set_column(EtlHistory *history, EtlVersion *version, int column,
		   const EtlStored *like)
{
	EtlChange *change = version->point->change;
	EtlGroup *group = history->group;
	const EtlStored *last = NULL;

	if (group->n_stored > 0)
		last = &group->stored[group->n_stored - 1];

	version->nulls[column] = true;
	switch (history->merge->columns[column].role)
	{
		case ETL_ROLE_TRACKED:
		case ETL_ROLE_PLAIN:
			if (change != NULL)
				take(version, column, change->values, change->nulls);
			else
				take(version, column, like->values, like->nulls);
			break;
		case ETL_ROLE_OVERWRITE:
			if (history->newest != NULL)
				take(version, column, history->newest->values,
					 history->newest->nulls);
			else if (change != NULL)
				take(version, column, last->values, last->nulls);
			else
				take(version, column, like->values, like->nulls);
			break;
		case ETL_ROLE_FIXED:
			if (history->oldest != NULL)
				take(version, column, history->oldest->values,
					 history->oldest->nulls);
			else if (change != NULL)
				take(version, column, group->stored[0].values,
					 group->stored[0].nulls);
			else
				take(version, column, like->values, like->nulls);
			break;
		default:
			if (like != NULL)
				take(version, column, like->values, like->nulls);
			else if (history->merge->columns[column].role == ETL_ROLE_KEY)
				take(version, column, change->values, change->nulls);
			break;
	}
}

static void
take(EtlVersion *version, int column, const Datum *values, const bool *nulls)
{
	version->values[column] = values[column];
	version->nulls[column] = nulls[column];
}

/* The last day of a version that ends then; of -infinity there is none. */
static DateADT
day_before(Datum end)
{
	DateADT day = DatumGetDateADT(end) - 1;

	if (!DATE_NOT_FINITE(day) && !IS_VALID_DATE(day))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("date out of range"),
				 errdetail("No date is before %s.",
						   DatumGetCString(DirectFunctionCall1(date_out, end))),
				 errhint("Use bounds => '[)'.")));
	return day;
}

/* Start, end and "is current", as the table writes them. */
static void
set_times(EtlMerge *merge, EtlVersion *version)
{
	int from = merge->valid_from;
	int to = merge->valid_to;

	version->values[from] = version->point->time;
	version->nulls[from] = false;
	version->nulls[to] = version->open && merge->open_end_null;
	if (version->open)
		version->values[to] = merge->open_end;
	else if (merge->closed_bounds)
		version->values[to] = DateADTGetDatum(day_before(version->end));
	else
		version->values[to] = version->end;
	if (merge->is_current >= 0)
	{
		version->values[merge->is_current] = BoolGetDatum(version->open);
		version->nulls[merge->is_current] = false;
	}
}

/* ------------------------------------------------------------------ */
/* former values                                                        */

/*
 * The former value of a tracked column is that of the version before, if it
 * differs, and else what was the former value there.  It is worked out anew
 * where one of the two versions has changed, or one between them is gone.
 */
static void
set_previous(EtlHistory *history)
{
	EtlMerge *merge = history->merge;

	for (int column = 0; column < merge->natts; column++)
	{
		if (merge->columns[column].previous < 0 ||
			merge->columns[column].role != ETL_ROLE_TRACKED)
			continue;
		for (int i = 0; i < history->n_versions; i++)
		{
			EtlVersion *version = &history->versions[i];

			if (i == 0)
			{
				if (version->fresh || version->point->stored > 0)
				{
					version->nulls[merge->columns[column].previous] = true;
					version->fresh = true;
				}
			}
			else if (version->fresh || history->versions[i - 1].fresh ||
					 version->point->stored !=
						 history->versions[i - 1].point->stored + 1)
			{
				move_to_previous(merge, column, version,
								 &history->versions[i - 1]);
				version->fresh = true; /* the next one may depend on it */
			}
		}
	}
}

static void
move_to_previous(EtlMerge *merge, int column, EtlVersion *version,
				 const EtlVersion *before)
{
	int previous = merge->columns[column].previous;

	if (etl_value_equal(&merge->columns[column].ops, version->values[column],
						version->nulls[column], before->values[column],
						before->nulls[column]))
	{
		version->values[previous] = before->values[previous];
		version->nulls[previous] = before->nulls[previous];
	}
	else
	{
		version->values[previous] = before->values[column];
		version->nulls[previous] = before->nulls[column];
	}
}

/*
 * The former value of an overwritten column is what the changes that count
 * left behind, one after the other; all versions have the same.
 */
static void
set_previous_overwrites(EtlHistory *history)
{
	EtlMerge *merge = history->merge;
	EtlGroup *group = history->group;

	for (int column = 0; column < merge->natts; column++)
	{
		EtlMergeColumn *info = &merge->columns[column];
		const EtlStored *last = NULL;
		Datum value = (Datum) 0;
		Datum former = (Datum) 0;
		bool null = true;
		bool former_null = true;
		bool known = false;

		if (info->previous < 0 || info->role != ETL_ROLE_OVERWRITE ||
			history->newest == NULL)
			continue;
		if (group->n_stored > 0 && !merge->from_log)
		{
			last = &group->stored[group->n_stored - 1];
			value = last->values[column];
			null = last->nulls[column];
			former = last->values[info->previous];
			former_null = last->nulls[info->previous];
			known = true;
		}
		for (int i = 0; i < history->n_changes; i++)
		{
			EtlChange *change = history->changes[i];

			if (change->is_delete ||
				(last != NULL &&
				 etl_time_compare(merge, change->time, history->last) < 0))
				continue;
			if (known &&
				!etl_value_equal(&info->ops, value, null,
								 change->values[column], change->nulls[column]))
			{
				former = value;
				former_null = null;
			}
			value = change->values[column];
			null = change->nulls[column];
			known = true;
		}
		for (int i = 0; i < history->n_versions; i++)
		{
			history->versions[i].values[info->previous] = former;
			history->versions[i].nulls[info->previous] = former_null;
		}
	}
}

/* ------------------------------------------------------------------ */
/* edits                                                                */

/* Asks the writer for what has to be done. */
void
etl_versions_write(EtlHistory *history)
{
	EtlMerge *merge = history->merge;
	EtlGroup *group = history->group;
	bool *stays = palloc0(sizeof(bool) * (group->n_stored + 1));
	int last = history->n_versions - 1;

	if (group->n_stored > 0 && history->open[group->n_stored - 1] &&
		(last < 0 || !history->versions[last].open))
		merge->counts.ended++;
	for (int i = 0; i < history->n_versions; i++)
	{
		EtlVersion *version = &history->versions[i];

		if (version->pair >= 0)
		{
			stays[version->pair] = true;
			if (history->open[version->pair] && !version->open)
				merge->counts.closed++;
			write_version(history, version);
		}
		else
			etl_merge_insert(merge->writer, version->values, version->nulls,
							 group->n_stored > 0);
	}
	for (int s = 0; s < group->n_stored; s++)
	{
		if (stays[s])
			continue;
		if (history->open[s])
			merge->counts.closed++;
		etl_merge_delete(merge->writer, &group->stored[s]);
	}
}

/* Writes a version over its stored row, if there is a difference. */
static void
write_version(EtlHistory *history, EtlVersion *version)
{
	EtlMerge *merge = history->merge;
	EtlStored *stored = &history->group->stored[version->pair];
	bool times = !same_times(history, version, stored);
	bool content = false;
	int flags = 0;

	for (int i = 0; i < merge->natts && !content; i++)
	{
		switch (merge->columns[i].role)
		{
			case ETL_ROLE_TRACKED:
			case ETL_ROLE_OVERWRITE:
			case ETL_ROLE_FIXED:
			case ETL_ROLE_PLAIN:
			case ETL_ROLE_PREVIOUS:
				content = !etl_value_equal(&merge->columns[i].ops,
										   stored->values[i], stored->nulls[i],
										   version->values[i],
										   version->nulls[i]);
				break;
			default:
				break;
		}
	}
	if (!times && !content)
		return;

	if (!content)
		flags |= ETL_UPDATE_TIMES;
	if (etl_time_compare(merge, version->point->time,
						 stored->values[merge->valid_from]) < 0 ||
		(!history->open[version->pair] &&
		 (version->open || etl_time_compare(merge, version->end,
											history->ends[version->pair]) > 0)))
		flags |= ETL_UPDATE_GROWS;
	etl_merge_update(merge->writer, stored, version->values, version->nulls,
					 flags);
}

/*
 * Do the validity columns say the same?  An open end that is written in
 * another way, and a wrong "is current", stay as they are: the row would not
 * even be looked at if its key's rows were filtered first.
 */
static bool
same_times(EtlHistory *history, EtlVersion *version, const EtlStored *stored)
{
	EtlMerge *merge = history->merge;

	if (etl_time_compare(merge, version->point->time,
						 stored->values[merge->valid_from]) != 0 ||
		version->open != history->open[version->pair])
		return false;
	return version->open || etl_time_compare(merge, version->end,
											 history->ends[version->pair]) == 0;
}
