/*-------------------------------------------------------------------------
 *
 * apply_append.c
 *	  New rows of the source become rows of the target; all else is ignored.
 *
 * Rows are kept until the flush and then go through a sink (sink.h), so that
 * nothing is open between two flushes.
 *
 * Locks: the caller's RowExclusiveLock on the target; see README.md for those
 * of a sink.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/apply_write.h"

#include "utils/memutils.h"

typedef struct ApplyAppend
{
	EtlApplyMap *map; /* of the rows that wait */
	HeapTuple *rows;
	int n_rows;
	int max_rows;
} ApplyAppend;

static void append_check(EtlApply *apply);
static void append_begin(EtlApply *apply);
static void append_add(EtlApply *apply, const EtlSourceXact *xact,
					   const EtlChangeEvent *event);
static void append_flush(EtlApply *apply);
static void append_end(EtlApply *apply);

const EtlApplyOps etl_apply_append = {
	.name = "append",
	.check = append_check,
	.begin = append_begin,
	.add = append_add,
	.flush = append_flush,
	.end = append_end,
};

static void
append_check(EtlApply *apply)
{
	static const char *const options[] = {NULL};

	etl_apply_check_options(apply, options);
	etl_sink_check_kind(apply->target);
}

static void
append_begin(EtlApply *apply)
{
	if (apply->state == NULL)
		apply->state = MemoryContextAllocZero(apply->context,
											  sizeof(ApplyAppend));
	memset(apply->state, 0, sizeof(ApplyAppend));
	apply->in_order = etl_apply_has_own_triggers(apply->target);
}

static void
append_add(EtlApply *apply, const EtlSourceXact *xact,
		   const EtlChangeEvent *event)
{
	ApplyAppend *append = apply->state;
	EtlApplyMap *map;
	MemoryContext oldcontext;
	bool *is_set;
	HeapTuple row;

	if (event->kind != ETL_EVENT_INSERT && event->kind != ETL_EVENT_READ)
	{
		apply->counts.ignored++;
		return;
	}
	map = etl_apply_map(apply, event->relation);
	if (map != append->map)
	{
		append_flush(apply);
		append->map = map;
	}
	if (!etl_apply_filter(apply, map, event->new_row))
	{
		apply->counts.ignored++;
		return;
	}

	oldcontext = MemoryContextSwitchTo(apply->batch_context);
	if (append->rows == NULL)
	{
		append->max_rows = 1024;
		append->rows = palloc(sizeof(HeapTuple) * append->max_rows);
	}
	else if (append->n_rows == append->max_rows)
	{
		append->max_rows *= 2;
		append->rows = repalloc_huge(append->rows,
									 sizeof(HeapTuple) * append->max_rows);
	}
	row = etl_apply_target_row(apply, map, event->new_row, NULL, &is_set);
	append->rows[append->n_rows++] = row;
	apply->bytes += row->t_len + HEAPTUPLESIZE + sizeof(HeapTuple);
	MemoryContextSwitchTo(oldcontext);
}

static void
append_flush(EtlApply *apply)
{
	ApplyAppend *append = apply->state;
	EtlSinkOptions options = {0};
	HeapTuple *rows = append->rows;
	int n_rows = append->n_rows;
	MemoryContext oldcontext;
	EtlApplyInserter *inserter;
	AttrNumber *attnums;
	int natts;

	/* Whatever happens now, these rows are not tried again. */
	append->rows = NULL;
	append->n_rows = 0;
	if (n_rows == 0)
		return;
	oldcontext = MemoryContextSwitchTo(apply->batch_context);
	attnums = etl_apply_columns(apply, append->map, &natts);
	etl_sink_check_privileges(apply->target, attnums, natts, &options);
	inserter = etl_apply_inserter_open(apply, attnums, natts, InvalidOid, NULL,
									   NULL);
	for (int i = 0; i < n_rows; i++)
		etl_apply_inserter_add(inserter, rows[i], NULL);
	etl_apply_inserter_close(inserter);
	apply->counts.inserted += n_rows;
	MemoryContextSwitchTo(oldcontext);
}

static void
append_end(EtlApply *apply)
{
}
