/*-------------------------------------------------------------------------
 *
 * replay_changes.c
 *	  etl_dead_letter_replay() for letters of pipelines: changes that could not
 *	  be applied are applied now.
 *
 * A change goes through the table of its pipeline as that is now: target, sink,
 * columns and filter.  What it was made of is in the letter (change_letter.c).
 * Each is applied in a subtransaction of its own, in the order in which they
 * came, with the rights of the pipeline's owner, which the caller has, too: the
 * owner's expressions and functions get no others.
 *
 * The pipeline may run.  Whoever applies its changes holds a lock on the target
 * to the end of the batch, and writes there which letters the batch has
 * overtaken (cdc_letters.c).  The lock that is taken here lets nobody else
 * write to the target until the caller's transaction ends.  So what is known of
 * a letter then is true, and nothing of the pipeline comes in between.
 *
 * Locks: ShareRowExclusiveLock on all targets, before anything else is locked
 * or written; the letters.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "flow/cdc_apply.h"
#include "flow/cdc_check.h"
#include "flow/replay.h"
#include "sink/change_json.h"

#define LETTERS_OF_PIPELINES ETL_LETTERS_OF_CALL " AND operation = 'cdc'"

/* The letters of one table of a pipeline. */
typedef struct LetterGroup
{
	Oid target;
	char *source;
	char *pipeline;
} LetterGroup;

/* How they are applied. */
typedef struct Changes
{
	EtlReplay *call;
	const LetterGroup *group;
	EtlCdcTable *table;
	EtlCdcApplier *applier;
	EtlCdcFollowed *followed;
	MemoryContext letter_context;
} Changes;

/* A payload that is read. */
typedef struct Reading
{
	Jsonb *payload;
	EtlSourceXact *xact;
	EtlChangeEvent *event;
} Reading;

static List *find_groups(EtlReplay *replay);
static void lock_targets(List *groups);
static EtlCdcTable *find_table(const EtlReplay *replay, const LetterGroup *group,
							   EtlCdcPipeline **pipeline);
static void refuse(const EtlReplay *replay, const LetterGroup *group,
				   const char *detail);
static void replay_group(EtlReplay *replay, const LetterGroup *group);
static void open_changes(Changes *changes, EtlReplay *replay,
						 EtlCdcPipeline *pipeline, EtlCdcTable *table);
static void replay_batches(Changes *changes);
static void fetch_letters(Changes *changes, int64 after);
static void replay_letter(Changes *changes, EtlReplayLetter *letter);
static ErrorData *apply_letter(Changes *changes, EtlReplayLetter *letter);
static void read_payload(void *arg);
static void count_change(Changes *changes, const EtlChangeEvent *event,
						 int64 ignored);
static void refuse_letter(Changes *changes, EtlReplayLetter *letter,
						  const char *message, char *detail);

/* Replay the letters of all pipelines that the call means. */
void
etl_replay_changes(EtlReplay *replay)
{
	List *groups = find_groups(replay);
	ListCell *lc;

	if (groups == NIL)
		return;
	lock_targets(groups);
	foreach(lc, groups)
		replay_group(replay, lfirst(lc));
}

/* The tables of pipelines that have letters, in the order of the first. */
static List *
find_groups(EtlReplay *replay)
{
	MemoryContext context = CurrentMemoryContext;
	List *groups = NIL;
	EtlReplayQuery query;
	EtlLedgerScope scope;

	etl_replay_query(&query, replay, 0, NULL, NULL);
	etl_ledger_enter(&scope);
	if (SPI_execute_with_args("SELECT target, coalesce(source_name, ''),"
							  " coalesce(payload->'source'->>'name', ''),"
							  " count(*)" LETTERS_OF_PIPELINES
							  " GROUP BY 1, 2, 3 ORDER BY min(dead_letter_id)",
							  query.nargs, query.types, query.values,
							  query.nulls, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read dead letters");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		MemoryContext spi_context = MemoryContextSwitchTo(context);
		LetterGroup *group = palloc0(sizeof(LetterGroup));
		bool null;

		group->target = DatumGetObjectId(SPI_getbinval(tuple, desc, 1, &null));
		group->source = text_to_cstring(
			DatumGetTextPP(SPI_getbinval(tuple, desc, 2, &null)));
		group->pipeline = text_to_cstring(
			DatumGetTextPP(SPI_getbinval(tuple, desc, 3, &null)));
		replay->expected += DatumGetInt64(SPI_getbinval(tuple, desc, 4, &null));
		groups = lappend(groups, group);
		MemoryContextSwitchTo(spi_context);
	}
	etl_ledger_leave(&scope);
	return groups;
}

/*
 * Lock all targets.  Who waits for one holds no other, since a process that
 * applies may have that one and wait for the other.
 */
static void
lock_targets(List *groups)
{
	List *targets = NIL;
	Oid first;
	ListCell *lc;

	foreach(lc, groups)
		targets = list_append_unique_oid(targets,
										 ((LetterGroup *) lfirst(lc))->target);
	first = linitial_oid(targets);
	for (;;)
	{
		List *held = list_make1_oid(first);
		Oid busy = InvalidOid;

		CHECK_FOR_INTERRUPTS();
		LockRelationOid(first, ShareRowExclusiveLock);
		foreach(lc, targets)
		{
			if (lfirst_oid(lc) == first)
				continue;
			if (!ConditionalLockRelationOid(lfirst_oid(lc),
											ShareRowExclusiveLock))
			{
				busy = lfirst_oid(lc);
				break;
			}
			held = lappend_oid(held, lfirst_oid(lc));
		}
		if (!OidIsValid(busy))
			return;
		foreach(lc, held)
			UnlockRelationOid(lfirst_oid(lc), ShareRowExclusiveLock);
		first = busy;
	}
}

/*
 * The table of the pipeline that a group's letters are of, or NULL, which is
 * said.  A source may have another name by now: then the target tells.
 */
static EtlCdcTable *
find_table(const EtlReplay *replay, const LetterGroup *group,
		   EtlCdcPipeline **pipeline)
{
	EtlCdcTable *of_target = NULL;
	int n = 0;
	ListCell *lc;

	*pipeline = etl_cdc_by_name(group->pipeline, false);
	if (*pipeline == NULL || !etl_ledger_is_ours((*pipeline)->role))
	{
		refuse(replay, group, "There is no such pipeline any more.");
		return NULL;
	}
	if (get_rel_name(group->target) == NULL)
	{
		refuse(replay, group, "The target was dropped.");
		return NULL;
	}
	foreach(lc, etl_cdc_tables((*pipeline)->pipeline_id))
	{
		EtlCdcTable *table = lfirst(lc);

		if (table->target != group->target)
			continue;
		if (strcmp(table->source, group->source) == 0)
			return table;
		of_target = table;
		n++;
	}
	if (n == 1)
		return of_target;
	refuse(replay, group, "The pipeline has no such table any more.");
	return NULL;
}

/* What keeps letters of one table from being replayed is no error for others. */
static void
refuse(const EtlReplay *replay, const LetterGroup *group, const char *detail)
{
	ereport(replay->all_ids ? WARNING : ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("changes of table %s for CDC pipeline \"%s\" cannot be replayed",
					group->source, group->pipeline),
			 errdetail_internal("%s", detail),
			 errhint("Close the letters with etl_dead_letter_discard().")));
}

/* Replay the letters of one table, as the owner of the pipeline. */
static void
replay_group(EtlReplay *replay, const LetterGroup *group)
{
	EtlCdcPipeline *pipeline;
	EtlCdcTable *table = find_table(replay, group, &pipeline);
	Changes changes = {0};
	int security_context;
	int level;
	Oid user;

	if (table == NULL)
		return;
	changes.group = group;
	etl_cdc_check_table(pipeline, table, false);
	open_changes(&changes, replay, pipeline, table);
	etl_progress_target(replay->run, group->target);
	etl_progress_set(replay->run, ETL_PHASE_WRITING, ETL_UNIT_ROWS,
					 replay->replayed + replay->rejected,
					 (double) replay->expected);

	level = NewGUCNestLevel();
	GetUserIdAndSecContext(&user, &security_context);
	SetUserIdAndSecContext(pipeline->role,
						   security_context | SECURITY_LOCAL_USERID_CHANGE);
	(void) set_config_option("search_path", ETL_CDC_SEARCH_PATH, PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	replay_batches(&changes);
	AtEOXact_GUC(false, level);
	SetUserIdAndSecContext(user, security_context);
}

/* What a process that applies has, for one table. */
static void
open_changes(Changes *changes, EtlReplay *replay, EtlCdcPipeline *pipeline,
			 EtlCdcTable *table)
{
	EtlCdcApplier *applier = palloc0(sizeof(EtlCdcApplier));
	EtlCdcFollowed *followed;

	applier->pipeline_id = pipeline->pipeline_id;
	applier->pipeline = pipeline;
	applier->table_context = AllocSetContextCreate(CurrentMemoryContext,
												   "etl_patterns replay table",
												   ALLOCSET_DEFAULT_SIZES);
	applier->batch_context = AllocSetContextCreate(CurrentMemoryContext,
												   "etl_patterns replay batch",
												   ALLOCSET_DEFAULT_SIZES);
	applier->error_context = AllocSetContextCreate(CurrentMemoryContext,
												   "etl_patterns replay error",
												   ALLOCSET_SMALL_SIZES);
	followed = etl_cdc_follow_table(applier, table);
	applier->tables = list_make1(followed);
	etl_cdc_letters_load(applier, followed);
	changes->call = replay;
	changes->table = table;
	changes->applier = applier;
	changes->followed = followed;
	changes->letter_context = AllocSetContextCreate(CurrentMemoryContext,
													"etl_patterns letter",
													ALLOCSET_DEFAULT_SIZES);
}

static void
replay_batches(Changes *changes)
{
	EtlReplay *call = changes->call;
	int64 last_id = 0;

	for (;;)
	{
		MemoryContextReset(call->batch_context);
		call->letters = MemoryContextAlloc(call->batch_context,
										   sizeof(EtlReplayLetter) *
											   ETL_REPLAY_LETTERS);
		fetch_letters(changes, last_id);
		if (call->nletters == 0)
			return;
		last_id = call->letters[call->nletters - 1].id;
		for (int i = 0; i < call->nletters; i++)
		{
			CHECK_FOR_INTERRUPTS();
			replay_letter(changes, &call->letters[i]);
		}
		etl_cdc_letters_write(changes->applier);
		MemoryContextReset(changes->applier->batch_context);
		etl_replay_settle(call);
		etl_progress_done(call->run, call->replayed + call->rejected);
	}
}

/* ------------------------------------------------------------------ */
/* letters                                                              */

/* Copy one fetched letter into the batch's memory. */
static void
copy_letter(EtlReplayLetter *letter, HeapTuple tuple, TupleDesc desc)
{
	Datum value;
	bool null;

	memset(letter, 0, sizeof(EtlReplayLetter));
	letter->id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &null));
	value = SPI_getbinval(tuple, desc, 2, &null);
	letter->payload = DatumGetJsonbPCopy(value);
}

/* Fetch and lock the next letters of the group after a given one. */
static void
fetch_letters(Changes *changes, int64 after)
{
	static const Oid more_types[] = {OIDOID, TEXTOID, TEXTOID, INT8OID};
	const LetterGroup *group = changes->group;
	Datum more_values[] = {ObjectIdGetDatum(group->target),
						   CStringGetTextDatum(group->source),
						   CStringGetTextDatum(group->pipeline),
						   Int64GetDatum(after)};
	EtlReplay *call = changes->call;
	EtlReplayQuery query;
	EtlLedgerScope scope;
	Portal portal;
	Size bytes = 0;

	call->nletters = 0;
	etl_replay_query(&query, call, lengthof(more_types), more_types,
					 more_values);
	etl_ledger_enter(&scope);
	portal = SPI_cursor_open_with_args(NULL,
									   "SELECT dead_letter_id, payload" LETTERS_OF_PIPELINES
									   " AND target = $4 AND source_name = $5"
									   " AND payload->'source'->>'name' = $6"
									   " AND dead_letter_id > $7"
									   " ORDER BY dead_letter_id FOR UPDATE",
									   query.nargs, query.types, query.values,
									   query.nulls, false, 0);
	while (call->nletters < ETL_REPLAY_LETTERS && bytes < ETL_REPLAY_BYTES)
	{
		MemoryContext spi_context;
		EtlReplayLetter *letter = &call->letters[call->nletters];

		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(portal, true, 1);
		if (SPI_processed == 0)
			break;
		spi_context = MemoryContextSwitchTo(call->batch_context);
		copy_letter(letter, SPI_tuptable->vals[0], SPI_tuptable->tupdesc);
		MemoryContextSwitchTo(spi_context);
		SPI_freetuptable(SPI_tuptable);
		bytes += VARSIZE(letter->payload);
		call->nletters++;
	}
	SPI_cursor_close(portal);
	etl_ledger_leave(&scope);
}

/* Apply the change of a letter, unless it would be wrong by now. */
static void
replay_letter(Changes *changes, EtlReplayLetter *letter)
{
	MemoryContext old = MemoryContextSwitchTo(changes->letter_context);
	char *overtaken = etl_letter_overtaken(letter->payload);
	ErrorData *error;
	EtlReject reject;

	if (overtaken != NULL)
		refuse_letter(changes, letter, "a later change has overtaken this one",
					  psprintf("It was applied with position %s of the source, so that the row is newer than the letter, which can be discarded.",
							   overtaken));
	else if (changes->table->state == ETL_CDC_TABLE_NEW)
		refuse_letter(changes, letter,
					  "the table is to be copied before changes are applied",
					  pstrdup("The pipeline copies it when it runs."));
	else if ((error = apply_letter(changes, letter)) != NULL)
	{
		etl_cdc_reject(&reject, error);
		etl_replay_fail(changes->call, letter, &reject);
		MemoryContextReset(changes->applier->error_context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(changes->letter_context);
}

/* NULL, or the error; one that is no fault of the row is thrown. */
static ErrorData *
apply_letter(Changes *changes, EtlReplayLetter *letter)
{
	EtlCdcApplier *applier = changes->applier;
	EtlCdcFollowed *followed = changes->followed;
	Reading reading = {letter->payload, &applier->xact, NULL};
	int64 ignored = followed->apply->counts.ignored;
	EtlGuard guard = {0};
	ErrorData *error;

	if (!etl_guard_call(&guard, read_payload, &reading, &error))
		return error;
	etl_guard_release(&guard);
	followed->apply->source_db = etl_letter_database(letter->payload);
	followed->before_letter = letter->id;
	error = etl_cdc_try(applier, followed, reading.event);
	if (error != NULL)
	{
		if (!etl_error_is_row_fault(error))
			ReThrowError(error);
		return error;
	}
	count_change(changes, reading.event, ignored);
	if (followed->letters != NULL)
		etl_cdc_overtake(applier, followed, reading.event);
	return NULL;
}

static void
read_payload(void *arg)
{
	Reading *reading = arg;

	reading->event = etl_letter_event(reading->payload, reading->xact);
}

/* What has become of a change, in one word. */
static void
count_change(Changes *changes, const EtlChangeEvent *event, int64 ignored)
{
	const EtlApply *apply = changes->followed->apply;
	EtlRun *run = changes->call->run;

	if (apply->counts.ignored > ignored)
		run->rows_unchanged++;
	else if (!apply->ops->has_rows || event->kind == ETL_EVENT_INSERT ||
			 event->kind == ETL_EVENT_READ)
		run->rows_inserted++;
	else if (event->kind == ETL_EVENT_UPDATE)
		run->rows_updated++;
	else
		run->rows_deleted++;
}

/* It is not tried. */
static void
refuse_letter(Changes *changes, EtlReplayLetter *letter, const char *message,
			  char *detail)
{
	EtlReject reject = {0};

	reject.category = ETL_CATEGORY_CONFLICT;
	reject.sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
	reject.message = message;
	reject.detail = detail;
	etl_replay_fail(changes->call, letter, &reject);
}
