/*-------------------------------------------------------------------------
 *
 * apply_changelog.c
 *	  One row for each change.
 *
 * The target has the parts of Debezium's envelope (change_envelope.c) in
 * columns of their names, each of them optional, or the whole in one.  Other
 * columns get their defaults.  Rows are written in the order of the changes,
 * so that an identity column numbers them so.
 *
 * A change is made a row when it comes, which is kept until the flush and then
 * goes through a sink (sink.h), so that nothing is open between two flushes.
 *
 * Locks: the caller's RowExclusiveLock on the target; see README.md for those
 * of a sink.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/apply_write.h"
#include "sink/change_json.h"

#include "utils/memutils.h"

typedef struct Changelog
{
	EtlEnvelopes *envelopes;
	EtlEnvelopeLayout layout;
	AttrNumber *attnums; /* of the columns that hold parts */
	int natts;

	/* the batch */
	List *rows; /* of HeapTuple, in the target's layout */
} Changelog;

static void changelog_check(EtlApply *apply);
static void changelog_check_source(EtlApply *apply,
								   const EtlSourceRelation *relation);
static void changelog_begin(EtlApply *apply);
static void changelog_add(EtlApply *apply, const EtlSourceXact *xact,
						  const EtlChangeEvent *event);
static void changelog_flush(EtlApply *apply);
static void changelog_end(EtlApply *apply);
static void set_layout(EtlApply *apply, EtlEnvelopeLayout *layout, bool *wanted);
static void check_tombstones(EtlApply *apply, const EtlEnvelopeLayout *layout);
static void add_row(EtlApply *apply, const EtlEnvelope *envelope);

const EtlApplyOps etl_apply_changelog = {
	.name = "changelog",
	.check = changelog_check,
	.check_source = changelog_check_source,
	.begin = changelog_begin,
	.add = changelog_add,
	.flush = changelog_flush,
	.end = changelog_end,
};

static void
changelog_check(EtlApply *apply)
{
	static const char *const options[] = {ETL_ENVELOPE_OPTIONS, "tombstones",
										  NULL};
	EtlEnvelopeLayout layout;
	bool wanted[ETL_NUM_PARTS];

	etl_apply_check_options(apply, options);
	etl_sink_check_kind(apply->target);
	set_layout(apply, &layout, wanted);
	check_tombstones(apply, &layout);
	(void) etl_envelopes_create(apply, wanted);
}

static void
changelog_check_source(EtlApply *apply, const EtlSourceRelation *relation)
{
	changelog_begin(apply);
	etl_envelopes_describe(((Changelog *) apply->state)->envelopes, relation);
}

/* What of the envelope is written where. */
static void
set_layout(EtlApply *apply, EtlEnvelopeLayout *layout, bool *wanted)
{
	TupleDesc desc = RelationGetDescr(apply->target);

	etl_envelope_layout(layout, desc, apply->columns,
						psprintf("changelog \"%s\"",
								 RelationGetRelationName(apply->target)));
	for (int i = 0; i < ETL_NUM_PARTS; i++)
		wanted[i] = layout->attnums[i] != 0;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool holds_part = false;

		for (int j = 0; j < ETL_NUM_PARTS; j++)
			holds_part |= layout->attnums[j] == att->attnum;
		if (!holds_part && att->attnotnull && !att->atthasdef &&
			!att->attidentity && !att->attisdropped)
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("column \"%s\" of changelog \"%s\" is no part of an envelope and has no default",
							NameStr(att->attname),
							RelationGetRelationName(apply->target)),
					 errhint(
						 "Give it a default, or say in \"columns\" which part it holds.")));
	}
}

/* A tombstone is told from a change by what it lacks. */
static void
check_tombstones(EtlApply *apply, const EtlEnvelopeLayout *layout)
{
	static const EtlEnvelopePart lacking[] = {ETL_PART_OP, ETL_PART_SOURCE,
											  ETL_PART_TS_MS, ETL_PART_ENVELOPE};

	if (!etl_apply_option_bool(apply, "tombstones"))
		return;
	if (layout->attnums[ETL_PART_KEY] == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"tombstones\" requires a column \"key\""),
				 errdetail("A tombstone is a row that has nothing but a key.")));
	for (int i = 0; i < (int) lengthof(lacking); i++)
	{
		AttrNumber attnum = layout->attnums[lacking[i]];

		if (attnum != 0 &&
			TupleDescAttr(RelationGetDescr(apply->target), attnum - 1)->attnotnull)
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("column \"%s\" must be nullable with option \"tombstones\"",
							NameStr(TupleDescAttr(RelationGetDescr(apply->target),
												  attnum - 1)
										->attname))));
	}
}

static void
changelog_begin(EtlApply *apply)
{
	Changelog *log = apply->state;

	if (log == NULL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(apply->context);
		bool wanted[ETL_NUM_PARTS];

		log = palloc0(sizeof(Changelog));
		set_layout(apply, &log->layout, wanted);
		log->envelopes = etl_envelopes_create(apply, wanted);
		log->attnums = palloc(sizeof(AttrNumber) * ETL_NUM_PARTS);
		for (int i = 0; i < ETL_NUM_PARTS; i++)
			if (wanted[i])
				log->attnums[log->natts++] = log->layout.attnums[i];
		MemoryContextSwitchTo(oldcontext);
		apply->state = log;
	}
	etl_envelopes_begin(log->envelopes);
	log->rows = NIL;
	apply->in_order = etl_apply_has_own_triggers(apply->target);
}

static void
changelog_add(EtlApply *apply, const EtlSourceXact *xact,
			  const EtlChangeEvent *event)
{
	Changelog *log = apply->state;
	MemoryContext context = AllocSetContextCreate(apply->batch_context,
												  "etl_patterns envelope",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	EtlEnvelope *envelope = etl_envelope_make(log->envelopes, xact, event);

	if (envelope == NULL)
		apply->counts.ignored++;
	else
	{
		add_row(apply, envelope);
		envelope = etl_envelope_tombstone(log->envelopes, envelope);
		if (envelope != NULL)
			add_row(apply, envelope);
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
}

/* An envelope as a row of the target, for the flush. */
static void
add_row(EtlApply *apply, const EtlEnvelope *envelope)
{
	Changelog *log = apply->state;
	MemoryContext oldcontext = MemoryContextSwitchTo(apply->batch_context);
	HeapTuple row = etl_envelope_row(envelope, &log->layout,
									 RelationGetDescr(apply->target));

	log->rows = lappend(log->rows, row);
	apply->bytes += row->t_len + HEAPTUPLESIZE + sizeof(ListCell);
	MemoryContextSwitchTo(oldcontext);
}

static void
changelog_flush(EtlApply *apply)
{
	Changelog *log = apply->state;
	List *rows = log->rows;
	EtlSinkOptions options = {0};
	EtlApplyInserter *inserter;
	MemoryContext oldcontext;
	ListCell *lc;

	/* Whatever happens now, these rows are not tried again. */
	log->rows = NIL;
	if (rows == NIL)
		return;
	oldcontext = MemoryContextSwitchTo(apply->batch_context);
	etl_sink_check_privileges(apply->target, log->attnums, log->natts, &options);
	inserter = etl_apply_inserter_open(apply, log->attnums, log->natts,
									   InvalidOid, NULL, NULL);
	foreach(lc, rows)
		etl_apply_inserter_add(inserter, lfirst(lc), NULL);
	etl_apply_inserter_close(inserter);
	apply->counts.inserted += list_length(rows);
	MemoryContextSwitchTo(oldcontext);
}

static void
changelog_end(EtlApply *apply)
{
}
