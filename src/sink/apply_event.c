/*-------------------------------------------------------------------------
 *
 * apply_event.c
 *	  What sinks of changes ask of a change, and of their options.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/change_json.h"

#include "access/htup_details.h"

/*
 * The new row of a change.  Large values that were not logged are taken from
 * the old row where that is whole; the columns that are still missing come
 * back in unchanged, or NULL if there are none.
 */
HeapTuple
etl_event_new_row(const EtlChangeEvent *event, const bool **unchanged)
{
	TupleDesc desc = event->relation->desc;
	Datum *values;
	bool *nulls;
	Datum *old_values;
	bool *old_nulls;
	bool any = false;

	*unchanged = NULL;
	for (int i = 0; event->unchanged != NULL && i < desc->natts; i++)
		any |= event->unchanged[i];
	if (!any)
		return event->new_row;
	if (event->old_row == NULL || event->old_is_key)
	{
		*unchanged = event->unchanged;
		return event->new_row;
	}

	values = palloc(sizeof(Datum) * desc->natts);
	nulls = palloc(sizeof(bool) * desc->natts);
	old_values = palloc(sizeof(Datum) * desc->natts);
	old_nulls = palloc(sizeof(bool) * desc->natts);
	heap_deform_tuple(event->new_row, desc, values, nulls);
	heap_deform_tuple(event->old_row, desc, old_values, old_nulls);
	for (int i = 0; i < desc->natts; i++)
		if (event->unchanged[i])
		{
			values[i] = old_values[i];
			nulls[i] = old_nulls[i];
		}
	return heap_form_tuple(desc, values, nulls);
}

/* Does the filter let a new row pass?  It must know what it looks at. */
bool
etl_event_passes(EtlApply *apply, EtlApplyMap *map, HeapTuple row,
				 const bool *unchanged)
{
	if (!etl_apply_filter_knows(map, unchanged, false))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("row_filter of table \"%s\" looks at a value that the source did not log",
						apply->source),
				 errdetail(
					 "Large values that an update does not change are not logged."),
				 errhint(
					 "Use ALTER TABLE ... REPLICA IDENTITY FULL at the source.")));
	return etl_apply_filter(apply, map, row);
}

/* Is an option given, be it as null? */
bool
etl_apply_has_option(EtlApply *apply, const char *name)
{
	JsonbValue value;

	return apply->options != NULL &&
		   getKeyJsonValueFromContainer(&apply->options->root, name,
										(int) strlen(name), &value) != NULL;
}

/* The strings of an option that is an array; NIL if it is not given. */
List *
etl_apply_option_names(EtlApply *apply, const char *name)
{
	List *names = NIL;
	JsonbValue array;
	bool fits;

	if (!etl_apply_has_option(apply, name))
		return NIL;
	(void) getKeyJsonValueFromContainer(&apply->options->root, name,
										(int) strlen(name), &array);
	if (array.type == jbvNull)
		return NIL;
	fits = array.type == jbvBinary &&
		   JsonContainerIsArray(array.val.binary.data);
	for (uint32 i = 0; fits && i < JsonContainerSize(array.val.binary.data); i++)
	{
		JsonbValue *element;

		element = getIthJsonbValueFromContainer(array.val.binary.data, i);
		fits = element->type == jbvString;
		if (fits)
			names = lappend(names, pnstrdup(element->val.string.val,
											element->val.string.len));
	}
	if (!fits)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" must be an array of strings", name),
				 errhint("For example {\"%s\": [\"price\", \"stock\"]}.", name)));
	return names;
}

/* An option that is true or false; false if it is not given. */
bool
etl_apply_option_bool(EtlApply *apply, const char *name)
{
	JsonbValue value;

	if (!etl_apply_has_option(apply, name))
		return false;
	(void) getKeyJsonValueFromContainer(&apply->options->root, name,
										(int) strlen(name), &value);
	if (value.type != jbvBool)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("option \"%s\" must be true or false", name)));
	return value.val.boolean;
}
