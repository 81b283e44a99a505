/*-------------------------------------------------------------------------
 *
 * apply_mirror.c
 *	  The target follows the source: the same rows, at each commit.
 *
 * Changes become ops, which say what is to be done to one row of the target;
 * a row that an update moves out of the filter is deleted, one that it moves
 * in is inserted.  Ops wait for the flush.  There, as far as nobody can tell
 * the difference, all ops of a key become one (apply_mirror_fold.c), and
 * deletes and updates are done in the order of the keys, then all inserts.
 * Otherwise they are done one after the other.  A plain heap table is changed
 * directly (apply_mirror_heap.c), all else by SQL (apply_mirror_sql.c).
 *
 * Invariants:
 *	- Between two flushes nothing is open: no scan, no slot with a pin, no
 *	  relation but the target.  So a flush may fail in a subtransaction, and
 *	  the ops that it was to do are forgotten.
 *	- Ops and their rows live in apply->batch_context until the flush.
 *
 * Locks: the caller's RowExclusiveLock on the target; its indexes are locked
 * likewise; TRUNCATE takes AccessExclusiveLock.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/apply_mirror.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "optimizer/optimizer.h"
#include "rewrite/prs2lock.h"
#include "rewrite/rewriteHandler.h"
#include "sink/merge.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"

/* Memory for ops is taken in pieces of so many. */
#define OPS_IN_CHUNK 256

static void mirror_check(EtlApply *apply);
static void check_target(EtlApply *apply);
static void mirror_begin(EtlApply *apply);
static void check_privileges(EtlApply *apply);
static void mirror_add(EtlApply *apply, const EtlSourceXact *xact,
					   const EtlChangeEvent *event);
static void use_map(EtlMirror *mirror, EtlApplyMap *map);
static bool has_volatile_default(EtlMirror *mirror);
static void add_insert(EtlMirror *mirror, const EtlChangeEvent *event);
static void add_update(EtlMirror *mirror, const EtlChangeEvent *event);
static void add_delete(EtlMirror *mirror, HeapTuple old_row, bool key_only,
					   bool may_miss);
static void add_truncate(EtlMirror *mirror, const EtlChangeEvent *event);
static EtlMirrorOp *add_op(EtlMirror *mirror, EtlEventKind kind);
static void set_row(EtlMirror *mirror, EtlMirrorOp *op,
					const EtlChangeEvent *event);
static void set_old_key(EtlMirror *mirror, EtlMirrorOp *op, HeapTuple old_row,
						bool key_only);
static void mirror_flush(EtlApply *apply);
static void write_ops(EtlMirror *mirror, EtlMirrorOp **ops, int n_ops);
static void write_heap(EtlMirror *mirror, EtlMirrorOp **ops, int n_ops);
static void forget_ops(EtlMirror *mirror);
static void mirror_end(EtlApply *apply);
static char *describe_key(EtlMirror *mirror, const EtlMirrorOp *op);

const EtlApplyOps etl_apply_mirror = {
	.name = "mirror",
	.has_rows = true,
	.check = mirror_check,
	.begin = mirror_begin,
	.add = mirror_add,
	.flush = mirror_flush,
	.end = mirror_end,
};

/* ------------------------------------------------------------------ */
/* the target                                                           */

static void
mirror_check(EtlApply *apply)
{
	static const char *const options[] = {"conflict", NULL};
	static const char *const conflicts[] = {"apply", "error", NULL};
	const char *conflict;

	etl_apply_check_options(apply, options);
	conflict = etl_apply_option(apply, "conflict");
	if (conflict != NULL)
		(void) etl_option_word("conflict", conflict, conflicts);
	etl_sink_check_kind(apply->target);
	check_target(apply);
}

/* What SQL would do otherwise than the source did is refused. */
static void
check_target(EtlApply *apply)
{
	Relation target = apply->target;

	if (check_enable_rls(RelationGetRelid(target), InvalidOid, true) ==
		RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("row-level security of \"%s\" applies to the role that mirrors into it",
						RelationGetRelationName(target)),
				 errhint(
					 "A mirror must see all rows: use the table's owner or a role with BYPASSRLS, or another table.")));
	if (target->rd_rules != NULL && target->rd_rel->relkind != RELKIND_VIEW)
		for (int i = 0; i < target->rd_rules->numLocks; i++)
			if (target->rd_rules->rules[i]->event != CMD_SELECT)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot mirror into \"%s\", which has rules",
								RelationGetRelationName(target)),
						 errhint("Use triggers instead of rules.")));
}

static void
mirror_begin(EtlApply *apply)
{
	EtlMirror *mirror = apply->state;
	const char *conflict;

	check_target(apply);
	check_privileges(apply);
	if (mirror == NULL)
	{
		mirror = MemoryContextAllocZero(apply->context, sizeof(EtlMirror));
		mirror->apply = apply;
		conflict = etl_apply_option(apply, "conflict");
		mirror->conflict_fails = conflict != NULL &&
								 strcmp(conflict, "error") == 0;
		apply->state = mirror;
	}
	mirror->ordered = etl_apply_has_own_triggers(apply->target);
	mirror->heap = !mirror->ordered && etl_merge_writer_can_heap(apply->target);
	apply->in_order = mirror->ordered ||
					  (!mirror->heap && apply->target->trigdesc != NULL);
	apply->defers_triggers = false;
	apply->truncates = false;
	apply->restarts_sequences = false;
	apply->truncated_at = InvalidXLogRecPtr;
	forget_ops(mirror);
}

/* As one statement of each kind would need; TRUNCATE is asked for when due. */
static void
check_privileges(EtlApply *apply)
{
	etl_apply_check_privilege(apply, ACL_SELECT);
	etl_apply_check_privilege(apply, ACL_INSERT);
	etl_apply_check_privilege(apply, ACL_UPDATE);
	etl_apply_check_privilege(apply, ACL_DELETE);
}

static void
mirror_end(EtlApply *apply)
{
}

/* ------------------------------------------------------------------ */
/* changes become ops                                                   */

static void
mirror_add(EtlApply *apply, const EtlSourceXact *xact,
		   const EtlChangeEvent *event)
{
	EtlMirror *mirror = apply->state;
	EtlApplyMap *map = etl_apply_map(apply, event->relation);
	MemoryContext oldcontext = MemoryContextSwitchTo(apply->batch_context);

	if (map != mirror->map)
	{
		/* What waits is as the former map says. */
		mirror_flush(apply);
		use_map(mirror, map);
	}
	apply->truncated_at = InvalidXLogRecPtr;
	switch (event->kind)
	{
		case ETL_EVENT_INSERT:
		case ETL_EVENT_READ:
			add_insert(mirror, event);
			break;
		case ETL_EVENT_UPDATE:
			add_update(mirror, event);
			break;
		case ETL_EVENT_DELETE:
			if (!etl_apply_filter_knows(map, NULL, event->old_is_key))
				add_delete(mirror, event->old_row, event->old_is_key, true);
			else if (etl_apply_filter(apply, map, event->old_row))
				add_delete(mirror, event->old_row, event->old_is_key,
						   !mirror->conflict_fails);
			else
				apply->counts.ignored++;
			break;
		case ETL_EVENT_TRUNCATE:
			add_truncate(mirror, event);
			break;
	}
	MemoryContextSwitchTo(oldcontext);
}

/* What the map and the target say of columns, keys and indexes. */
static void
use_map(EtlMirror *mirror, EtlApplyMap *map)
{
	EtlApply *apply = mirror->apply;
	TupleDesc desc = RelationGetDescr(apply->target);
	MemoryContext oldcontext;

	mirror->map = NULL;
	if (mirror->context == NULL)
		mirror->context = AllocSetContextCreate(apply->context, "etl mirror",
												ALLOCSET_SMALL_SIZES);
	MemoryContextReset(mirror->context);
	mirror->plans = NIL;
	oldcontext = MemoryContextSwitchTo(mirror->context);
	mirror->attnums = etl_apply_columns(apply, map, &mirror->natts);
	mirror->sets = palloc0(sizeof(bool) * (desc->natts + 1));
	for (int i = 0; i < mirror->natts; i++)
		mirror->sets[mirror->attnums[i] - 1] = true;
	mirror->covers = true;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && !att->attgenerated && !mirror->sets[i])
			mirror->covers = false;
	}
	mirror->keys = etl_apply_keys(apply, map, &mirror->n_keys);
	mirror->is_full = etl_apply_is_full(map);
	etl_mirror_find_keys(mirror);
	mirror->folds = mirror->unique && !mirror->ordered &&
					(mirror->covers || !has_volatile_default(mirror));
	for (int i = 0; i < mirror->n_keys; i++)
		if (!mirror->key_ops[i].has_hash || !mirror->key_ops[i].has_compare)
			mirror->folds = false;
	MemoryContextSwitchTo(oldcontext);
	mirror->map = map;
}

/* Would it show that a row was never inserted? */
static bool
has_volatile_default(EtlMirror *mirror)
{
	TupleDesc desc = RelationGetDescr(mirror->apply->target);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && !att->attgenerated && !mirror->sets[i] &&
			contain_volatile_functions(
				build_column_default(mirror->apply->target, i + 1)))
			return true;
	}
	return false;
}

static void
add_insert(EtlMirror *mirror, const EtlChangeEvent *event)
{
	EtlMirrorOp *op;

	if (!etl_apply_filter(mirror->apply, mirror->map, event->new_row))
	{
		mirror->apply->counts.ignored++;
		return;
	}
	op = add_op(mirror, ETL_EVENT_INSERT);
	op->upsert = !mirror->conflict_fails;
	set_row(mirror, op, event);
	etl_mirror_row_key(mirror, op->row, op->key, op->key_nulls);
}

/* An update may move a row into the filter, or out of it. */
static void
add_update(EtlMirror *mirror, const EtlChangeEvent *event)
{
	EtlApply *apply = mirror->apply;
	EtlApplyMap *map = mirror->map;
	HeapTuple old_row = event->old_row != NULL ? event->old_row : event->new_row;
	bool key_only = event->old_row == NULL || event->old_is_key;
	bool old_is_known = etl_apply_filter_knows(map, NULL, key_only);
	bool was_in = !old_is_known || etl_apply_filter(apply, map, old_row);
	bool is_in;
	EtlMirrorOp *op;

	if (!etl_apply_filter_knows(map, event->unchanged, false))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("row_filter of table \"%s\" looks at a value that the source did not log",
						apply->source),
				 errdetail(
					 "Large values that an update does not change are not logged."),
				 errhint(
					 "Use ALTER TABLE ... REPLICA IDENTITY FULL at the source.")));
	is_in = etl_apply_filter(apply, map, event->new_row);
	if (!was_in && !is_in)
	{
		apply->counts.ignored++;
		return;
	}
	if (!is_in)
	{
		add_delete(mirror, old_row, key_only,
				   !old_is_known || !mirror->conflict_fails);
		return;
	}

	op = add_op(mirror, was_in ? ETL_EVENT_UPDATE : ETL_EVENT_INSERT);
	op->upsert = !mirror->conflict_fails || !old_is_known;
	set_row(mirror, op, event);
	etl_mirror_row_key(mirror, op->row, op->key, op->key_nulls);
	if (was_in && event->old_row != NULL)
		set_old_key(mirror, op, event->old_row, event->old_is_key);
}

static void
add_delete(EtlMirror *mirror, HeapTuple old_row, bool key_only, bool may_miss)
{
	EtlMirrorOp *op;

	if (old_row == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the source of table \"%s\" has logged no key of a deleted row",
						mirror->apply->source),
				 errhint(
					 "Give it a primary key, or use ALTER TABLE ... REPLICA IDENTITY.")));
	op = add_op(mirror, ETL_EVENT_DELETE);
	op->may_miss = may_miss;
	set_old_key(mirror, op, old_row, key_only);
	op->key_changes = false;
}

/* What happened before does not matter any more, unless a trigger saw it. */
static void
add_truncate(EtlMirror *mirror, const EtlChangeEvent *event)
{
	EtlApply *apply = mirror->apply;

	if (mirror->ordered)
		mirror_flush(apply);
	for (int i = 0; i < mirror->n_ops; i++)
		switch (mirror->ops[i]->kind)
		{
			case ETL_EVENT_INSERT:
				apply->counts.inserted++;
				break;
			case ETL_EVENT_UPDATE:
				apply->counts.updated++;
				break;
			default:
				apply->counts.deleted++;
		}
	forget_ops(mirror);
	apply->truncates = true;
	apply->truncated_at = event->lsn;
	apply->restarts_sequences |= event->restart_sequences;
	apply->counts.truncated++;
}

/* A new op at the end of the queue. */
static EtlMirrorOp *
add_op(EtlMirror *mirror, EtlEventKind kind)
{
	EtlMirrorOp *op;

	/* What is left of a chunk went with the last batch. */
	if (mirror->ops == NULL)
		mirror->chunk_left = 0;
	op = etl_mirror_new_op(mirror, kind);
	if (mirror->ops == NULL)
	{
		mirror->max_ops = OPS_IN_CHUNK;
		mirror->ops = palloc(sizeof(EtlMirrorOp *) * mirror->max_ops);
	}
	else if (mirror->n_ops == mirror->max_ops)
	{
		mirror->max_ops *= 2;
		mirror->ops = repalloc_huge(mirror->ops,
									sizeof(EtlMirrorOp *) * mirror->max_ops);
	}
	mirror->ops[mirror->n_ops++] = op;
	op->is_counted = true;
	return op;
}

/* A new op with room for its key, in the batch's context. */
EtlMirrorOp *
etl_mirror_new_op(EtlMirror *mirror, EtlEventKind kind)
{
	int size = MAXALIGN(sizeof(EtlMirrorOp) +
						mirror->n_keys * (sizeof(Datum) + sizeof(bool)));
	EtlMirrorOp *op;

	if (mirror->chunk_left == 0)
	{
		mirror->chunk = MemoryContextAllocHuge(mirror->apply->batch_context,
											   (Size) size * OPS_IN_CHUNK);
		mirror->chunk_left = OPS_IN_CHUNK;
		mirror->apply->bytes += (Size) size * OPS_IN_CHUNK;
	}
	op = (EtlMirrorOp *) mirror->chunk;
	mirror->chunk += size;
	mirror->chunk_left--;
	memset(op, 0, sizeof(EtlMirrorOp));
	op->kind = kind;
	op->key = (Datum *) (op + 1);
	op->key_nulls = (bool *) (op->key + mirror->n_keys);
	return op;
}

/* The row as it will be. */
static void
set_row(EtlMirror *mirror, EtlMirrorOp *op, const EtlChangeEvent *event)
{
	op->row = etl_apply_target_row(mirror->apply, mirror->map, event->new_row,
								   event->unchanged, &op->is_set);
	mirror->apply->bytes += op->row->t_len + HEAPTUPLESIZE;
}

/* The key of a row in the target's layout; it refers to the row. */
void
etl_mirror_row_key(EtlMirror *mirror, HeapTuple row, Datum *key, bool *nulls)
{
	TupleDesc desc = RelationGetDescr(mirror->apply->target);

	for (int i = 0; i < mirror->n_keys; i++)
		key[i] = heap_getattr(row, mirror->keys[i], desc, &nulls[i]);
}

/* The key that a row had, copied; the op has that of the row as it will be. */
static void
set_old_key(EtlMirror *mirror, EtlMirrorOp *op, HeapTuple old_row, bool key_only)
{
	EtlApply *apply = mirror->apply;
	TupleDesc desc = RelationGetDescr(apply->target);
	Datum *key = palloc(sizeof(Datum) * mirror->n_keys);
	bool *nulls = palloc(sizeof(bool) * mirror->n_keys);

	if (etl_apply_map_is_identity(apply, mirror->map))
		etl_mirror_row_key(mirror, old_row, key, nulls);
	else
	{
		Datum *values = palloc(sizeof(Datum) * (desc->natts + 1));
		bool *all_nulls = palloc(sizeof(bool) * (desc->natts + 1));
		bool *is_set = palloc(sizeof(bool) * (desc->natts + 1));

		etl_apply_row(apply, mirror->map, old_row, NULL, key_only, values,
					  all_nulls, is_set);
		for (int i = 0; i < mirror->n_keys; i++)
		{
			key[i] = values[mirror->keys[i] - 1];
			nulls[i] = all_nulls[mirror->keys[i] - 1];
		}
		pfree(values);
		pfree(all_nulls);
		pfree(is_set);
	}
	if (op->row != NULL)
		op->key_changes = !etl_mirror_same_key(mirror, key, nulls, op->key,
											   op->key_nulls);
	for (int i = 0; i < mirror->n_keys; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, mirror->keys[i] - 1);

		op->key_nulls[i] = nulls[i];
		op->key[i] = nulls[i] ? (Datum) 0 :
								datumCopy(key[i], att->attbyval, att->attlen);
		if (!nulls[i] && !att->attbyval)
			apply->bytes += datumGetSize(op->key[i], false, att->attlen);
	}
	pfree(key);
	pfree(nulls);
}

/* ------------------------------------------------------------------ */
/* ops are done                                                         */

static void
mirror_flush(EtlApply *apply)
{
	EtlMirror *mirror = apply->state;
	EtlMirrorOp **ops = mirror->ops;
	int n_ops = mirror->n_ops;
	MemoryContext oldcontext;

	/* Whatever happens now, these ops are not tried again. */
	forget_ops(mirror);
	if (apply->truncates)
		etl_apply_truncate(list_make1(apply));
	if (n_ops == 0)
		return;
	oldcontext = MemoryContextSwitchTo(apply->batch_context);
	for (int i = 0; i < n_ops; i++)
		switch (ops[i]->kind)
		{
			case ETL_EVENT_INSERT:
				apply->counts.inserted++;
				break;
			case ETL_EVENT_UPDATE:
				apply->counts.updated++;
				break;
			default:
				apply->counts.deleted++;
		}
	if (mirror->heap)
		write_heap(mirror, ops, n_ops);
	else
		write_ops(mirror, ops, n_ops);
	CommandCounterIncrement();
	MemoryContextSwitchTo(oldcontext);
}

/* Within a level of AFTER triggers: the caller's, or one for this table. */
static void
write_heap(EtlMirror *mirror, EtlMirrorOp **ops, int n_ops)
{
	EtlApply *apply = mirror->apply;
	bool own_level = !apply->defers_triggers && apply->target->trigdesc != NULL;
	bool deferred = apply->defers_triggers;

	if (own_level)
		AfterTriggerBeginQuery();
	apply->defers_triggers = true;
	write_ops(mirror, ops, n_ops);
	apply->defers_triggers = deferred;
	if (own_level)
	{
		EState *estate = CreateExecutorState();

		AfterTriggerEndQuery(estate);
		ExecCloseResultRelations(estate);
		ExecCloseRangeTableRelations(estate);
		FreeExecutorState(estate);
	}
}

static void
write_ops(EtlMirror *mirror, EtlMirrorOp **ops, int n_ops)
{
	EtlMirrorOp **net;
	int n_net;

	if (mirror->folds && n_ops > 1 &&
		etl_mirror_fold(mirror, ops, n_ops, &net, &n_net))
	{
		if (!mirror->heap)
		{
			etl_mirror_sql(mirror, net, n_net);
			return;
		}
		if (etl_mirror_heap_net(mirror, net, n_net))
			return;
	}
	if (mirror->heap)
		etl_mirror_heap_each(mirror, ops, n_ops);
	else
		etl_mirror_sql(mirror, ops, n_ops);
}

static void
forget_ops(EtlMirror *mirror)
{
	mirror->ops = NULL;
	mirror->n_ops = 0;
	mirror->chunk_left = 0;
}

/* ------------------------------------------------------------------ */
/* what all ways need                                                   */

bool
etl_mirror_same_key(EtlMirror *mirror, const Datum *a, const bool *a_nulls,
					const Datum *b, const bool *b_nulls)
{
	for (int i = 0; i < mirror->n_keys; i++)
		if (!etl_value_equal(&mirror->key_ops[i], a[i], a_nulls[i], b[i],
							 b_nulls[i]))
			return false;
	return true;
}

/* The new row, and what it does not set as it is in the old one. */
HeapTuple
etl_mirror_merge_rows(EtlMirror *mirror, HeapTuple old_row, HeapTuple new_row,
					  const bool *is_set)
{
	TupleDesc desc = RelationGetDescr(mirror->apply->target);
	Datum *old_values = palloc(sizeof(Datum) * (desc->natts + 1));
	bool *old_nulls = palloc(sizeof(bool) * (desc->natts + 1));
	Datum *values = palloc(sizeof(Datum) * (desc->natts + 1));
	bool *nulls = palloc(sizeof(bool) * (desc->natts + 1));
	const bool *sets = is_set != NULL ? is_set : mirror->sets;
	HeapTuple result;

	heap_deform_tuple(old_row, desc, old_values, old_nulls);
	heap_deform_tuple(new_row, desc, values, nulls);
	for (int i = 0; i < desc->natts; i++)
		if (!sets[i])
		{
			values[i] = old_values[i];
			nulls[i] = old_nulls[i];
		}
	result = heap_form_tuple(desc, values, nulls);
	pfree(old_values);
	pfree(old_nulls);
	pfree(values);
	pfree(nulls);
	return result;
}

/* A row that was to be changed is not there: an error, or a count. */
void
etl_mirror_missing(EtlMirror *mirror, EtlMirrorOp *op)
{
	EtlApply *apply = mirror->apply;

	if (op->kind == ETL_EVENT_DELETE ? op->may_miss : op->upsert)
	{
		if (!op->is_counted)
			return;
		if (op->kind == ETL_EVENT_DELETE)
		{
			apply->counts.deleted--;
			apply->counts.ignored++;
		}
		else if (op->kind == ETL_EVENT_UPDATE)
		{
			apply->counts.updated--;
			apply->counts.inserted++;
		}
		return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_NO_DATA_FOUND),
			 errmsg("row to be %s is missing in \"%s\"",
					op->kind == ETL_EVENT_DELETE ? "deleted" : "updated",
					RelationGetRelationName(apply->target)),
			 errdetail("Key %s is not there.", describe_key(mirror, op)),
			 errhint(
				 "With the option {\"conflict\": \"apply\"} the source wins; etl_cdc_resync() copies the table anew.")));
}

/* Can the row be inserted, or does it lack values that were not logged? */
void
etl_mirror_check_whole(EtlMirror *mirror, const EtlMirrorOp *op)
{
	if (op->is_set == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_NO_DATA_FOUND),
			 errmsg("row to be updated is missing in \"%s\", and the source did not log all of it",
					RelationGetRelationName(mirror->apply->target)),
			 errdetail("Key %s is not there.", describe_key(mirror, op)),
			 errhint(
				 "Copy the table anew with etl_cdc_resync(), or use REPLICA IDENTITY FULL at the source.")));
}

/* As in a unique violation: (a, b)=(1, 2). */
static char *
describe_key(EtlMirror *mirror, const EtlMirrorOp *op)
{
	TupleDesc desc = RelationGetDescr(mirror->apply->target);
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < mirror->n_keys; i++)
		appendStringInfo(&buf, "%s%s", i == 0 ? "(" : ", ",
						 NameStr(
							 TupleDescAttr(desc, mirror->keys[i] - 1)->attname));
	for (int i = 0; i < mirror->n_keys; i++)
	{
		Oid type = TupleDescAttr(desc, mirror->keys[i] - 1)->atttypid;

		appendStringInfo(&buf, "%s%s", i == 0 ? ")=(" : ", ",
						 op->key_nulls[i] ? "null" :
											etl_plain_text(type, op->key[i]));
	}
	appendStringInfoChar(&buf, ')');
	return buf.data;
}
