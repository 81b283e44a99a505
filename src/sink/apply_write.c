/*-------------------------------------------------------------------------
 *
 * apply_write.c
 *	  Rows of the source as rows of the target, and their insertion.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/apply_write.h"

#include "access/htup_details.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"

static void row_taken(void *arg, int row, ItemPointer tid);

/*
 * Are there triggers that may tell in which order things happen?  All others
 * check what holds at the end of a batch.
 */
bool
etl_apply_has_own_triggers(Relation target)
{
	for (int i = 0;
		 target->trigdesc != NULL && i < target->trigdesc->numtriggers; i++)
	{
		Trigger *trigger = &target->trigdesc->triggers[i];

		if (trigger->tgenabled == TRIGGER_DISABLED)
			continue;
		switch (trigger->tgfoid)
		{
			case F_RI_FKEY_CHECK_INS:
			case F_RI_FKEY_CHECK_UPD:
			case F_RI_FKEY_NOACTION_DEL:
			case F_RI_FKEY_NOACTION_UPD:
			case F_UNIQUE_KEY_RECHECK:
				break;
			default:
				return true;
		}
	}
	return false;
}

/*
 * A copy of a row in the target's layout, in the current memory context.
 * is_set says which columns have a value from the source, or is NULL if all
 * have of which the map says so.
 */
HeapTuple
etl_apply_target_row(EtlApply *apply, EtlApplyMap *map, HeapTuple row,
					 const bool *unchanged, bool **is_set)
{
	TupleDesc desc = RelationGetDescr(apply->target);
	Datum *values;
	bool *nulls;
	bool *set;
	int n;
	int n_set = 0;
	HeapTuple result;

	*is_set = NULL;
	if (etl_apply_map_is_identity(apply, map) && unchanged == NULL &&
		HeapTupleHeaderGetNatts(row->t_data) == desc->natts)
		return heap_copytuple(row);

	values = palloc(sizeof(Datum) * (desc->natts + 1));
	nulls = palloc(sizeof(bool) * (desc->natts + 1));
	set = palloc(sizeof(bool) * (desc->natts + 1));
	etl_apply_row(apply, map, row, unchanged, false, values, nulls, set);
	result = heap_form_tuple(desc, values, nulls);
	(void) etl_apply_columns(apply, map, &n);
	for (int i = 0; i < desc->natts; i++)
		n_set += set[i] ? 1 : 0;
	pfree(values);
	pfree(nulls);
	if (n_set < n)
		*is_set = set;
	else
		pfree(set);
	return result;
}

/*
 * Opens an inserter for rows with values in these columns, in the current
 * memory context; defaults and generated columns are seen to.  With key_index
 * a row whose key is there is written all the same, and told of by taken: it
 * is to be deleted.
 */
EtlApplyInserter *
etl_apply_inserter_open(EtlApply *apply, const AttrNumber *attnums, int natts,
						Oid key_index, EtlInserterTakenCall taken,
						void *taken_arg)
{
	EtlApplyInserter *inserter = palloc0(sizeof(EtlApplyInserter));
	EtlSinkOptions options = {.defers_triggers = apply->defers_triggers,
							  .key_index = key_index};

	inserter->attnums = attnums;
	inserter->natts = natts;
	inserter->desc = RelationGetDescr(apply->target);
	inserter->values = palloc(sizeof(Datum) * (inserter->desc->natts + 1));
	inserter->nulls = palloc(sizeof(bool) * (inserter->desc->natts + 1));
	inserter->rows = palloc(sizeof(void *) * ETL_MAX_BATCH_ROWS);
	inserter->taken = taken;
	inserter->taken_arg = taken_arg;
	inserter->sink = etl_sink_open(apply->target, attnums, natts, &options,
								   NULL, NULL);
	inserter->sink->taken = row_taken;
	inserter->sink->taken_arg = inserter;
	inserter->as_they_are = etl_sink_takes_own_tuples(inserter->sink);
	return inserter;
}

/* The caller's word for the row, for the caller. */
static void
row_taken(void *arg, int row, ItemPointer tid)
{
	EtlApplyInserter *inserter = arg;

	inserter->taken(inserter->taken_arg, inserter->rows[row], tid);
}

void
etl_apply_inserter_add(EtlApplyInserter *inserter, HeapTuple tuple, void *row)
{
	EtlSink *sink = inserter->sink;
	TupleTableSlot *slot;

	CHECK_FOR_INTERRUPTS();
	if (etl_sink_is_full(sink))
		etl_sink_flush(sink);
	inserter->rows[sink->batch_rows] = row;
	if (inserter->as_they_are)
	{
		etl_sink_add_heap_tuple(sink, tuple);
		return;
	}
	heap_deform_tuple(tuple, inserter->desc, inserter->values, inserter->nulls);
	slot = etl_sink_next_slot(sink);
	for (int i = 0; i < inserter->natts; i++)
	{
		int att = inserter->attnums[i] - 1;

		slot->tts_values[att] = inserter->values[att];
		slot->tts_isnull[att] = inserter->nulls[att];
	}
}

/* What was added is in the target, and seen by the next command. */
void
etl_apply_inserter_flush(EtlApplyInserter *inserter)
{
	etl_sink_flush(inserter->sink);
}

void
etl_apply_inserter_close(EtlApplyInserter *inserter)
{
	etl_sink_close(inserter->sink);
	pfree(inserter->values);
	pfree(inserter->nulls);
	pfree(inserter->rows);
	pfree(inserter);
}
