/*-------------------------------------------------------------------------
 *
 * cdc_error.c
 *	  Changes that cannot be applied.
 *
 * An error that may go away by itself ends the process, which is started again
 * after a while.  For any other the change at fault is looked for: the batch is
 * repeated one transaction of the source at a time, and the one that fails
 * change by change, each in a subtransaction of its own.  The change that is
 * found goes to the dead letters, if the pipeline says so and another row could
 * do better; else the pipeline is paused, with the change in its row.  An error
 * that comes only with the commit is that of the whole transaction.
 *
 * Often a batch that failed succeeds in small steps, where tables depend on
 * each other in a way that the order of the sinks does not know.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "flow/cdc_apply.h"
#include "sink/change_json.h"

static const char *const kind_words[] = {"insert", "update", "delete",
										 "truncate", "read"};

static bool is_letter(const ErrorData *error);
static Jsonb *describe_change(EtlCdcApplier *applier,
							  const EtlCdcFollowed *followed,
							  const EtlChangeEvent *event);
static void write_letter(EtlCdcApplier *applier, EtlCdcFollowed *followed,
						 const EtlChangeEvent *event, ErrorData *error);

/* ------------------------------------------------------------------ */
/* one change alone                                                     */

/* What the error's context says; the argument is the table. */
void
etl_cdc_context(void *arg)
{
	const EtlCdcFollowed *followed = arg;

	errcontext("changes of table \"%s\" for pipeline \"%s\"",
			   followed->table->source, followed->apply->pipeline);
}

/*
 * Another change may do better: the fault is the data's.  What is wrong with
 * rights, tables or settings would make a letter of each change.
 */
static bool
is_letter(const ErrorData *error)
{
	static const char *const classes[] = {
		"02", /* no data: the row is missing */
		"21", /* cardinality violation */
		"22", /* data exception */
		"23", /* integrity constraint violation */
		"38", /* external routine exception */
		"39", /* external routine invocation exception */
		"44", /* WITH CHECK OPTION violation */
		"54", /* program limit exceeded */
		"P0", /* PL/pgSQL: RAISE */
	};
	const char *code = unpack_sql_state(error->sqlerrcode);

	for (int i = 0; i < (int) lengthof(classes); i++)
		if (strncmp(code, classes[i], 2) == 0)
			return true;
	return false;
}

/* A change through its sink, from the beginning to the end. */
static void
apply_alone(EtlCdcApplier *applier, EtlCdcFollowed *followed,
			const EtlChangeEvent *event)
{
	PushActiveSnapshot(GetTransactionSnapshot());
	etl_cdc_add(applier, followed, event);
	etl_cdc_flush_one(followed);
	etl_cdc_end_table(applier, followed);
	PopActiveSnapshot();
	CommandCounterIncrement();
}

/*
 * Apply a change in a subtransaction.  Returns NULL, or the error, which lives
 * in error_context; then nothing of the change is left, in the sink neither.
 */
ErrorData *
etl_cdc_try(EtlCdcApplier *applier, EtlCdcFollowed *followed,
			const EtlChangeEvent *event)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		MemoryContextSwitchTo(context);
		apply_alone(applier, followed, event);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(applier->error_context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error == NULL)
		return NULL;
	etl_cdc_discard(followed);
	applier->order = NIL;
	return error;
}

/*
 * Apply a change alone.  If it fails it becomes a dead letter, and this returns
 * false; or the error is thrown on, with the change in failed_change.
 */
bool
etl_cdc_add_alone(EtlCdcApplier *applier, EtlCdcFollowed *followed,
				  const EtlChangeEvent *event)
{
	ErrorData *error = etl_cdc_try(applier, followed, event);

	if (error == NULL)
		return true;
	if (!etl_error_is_row_fault(error))
		ReThrowError(error);
	if (applier->pipeline->on_error == ETL_CDC_DEAD_LETTER && is_letter(error))
	{
		write_letter(applier, followed, event, error);
		MemoryContextReset(applier->error_context);
		return false;
	}
	applier->failed_change = describe_change(applier, followed, event);
	ReThrowError(error);
}

/* What is wrong with a change: that there is no row is a conflict. */
void
etl_cdc_reject(EtlReject *reject, const ErrorData *error)
{
	etl_reject_from_error(reject, error);
	if (error->sqlerrcode == ERRCODE_NO_DATA_FOUND)
		reject->category = ETL_CATEGORY_CONFLICT;
}

/* A change becomes a dead letter. */
static void
write_letter(EtlCdcApplier *applier, EtlCdcFollowed *followed,
			 const EtlChangeEvent *event, ErrorData *error)
{
	EtlRun *run = etl_run_prepare("cdc", applier->pipeline->name,
								  followed->table->target);
	EtlDeadLetters *letters;
	EtlOrigin origin = {0};
	EtlReject reject = {0};
	int64 letter_id;

	ereport(LOG, (errcode(error->sqlerrcode),
				  errmsg("a change of table \"%s\" goes to the dead letters: %s",
						 followed->table->source, error->message)));
	etl_run_start(run);
	letters = etl_dead_letters_open(run);
	origin.source_name = followed->table->source;
	origin.row_no = event->ordinal;
	origin.byte_offset = -1;
	origin.payload = etl_letter_payload(etl_letter_envelopes(followed->apply),
										&applier->xact, event);
	etl_cdc_reject(&reject, error);
	letter_id = etl_dead_letters_add(letters, &origin, &reject);
	etl_dead_letters_flush(letters);
	etl_dead_letters_close(letters);
	run->rows_read = run->rows_rejected = 1;
	etl_run_finish(run, "succeeded", NULL);
	etl_cdc_letters_add(applier, followed->table->target, letter_id,
						origin.payload);
}

/* ------------------------------------------------------------------ */
/* changes as JSON                                                      */

static void
push_text(JsonbParseState **state, const char *key, const char *value)
{
	etl_json_push_key(state, key);
	etl_json_push_text(state, value);
}

static char *
lsn_text(XLogRecPtr lsn)
{
	return psprintf("%X/%X", LSN_FORMAT_ARGS(lsn));
}

/* What a pipeline that is paused shows. */
static Jsonb *
describe_change(EtlCdcApplier *applier, const EtlCdcFollowed *followed,
				const EtlChangeEvent *event)
{
	MemoryContext context = MemoryContextSwitchTo(applier->error_context);
	EtlEnvelopes *envelopes = etl_letter_envelopes(followed->apply);
	HeapTuple row = event->new_row != NULL ? event->new_row : event->old_row;
	Jsonb *key = etl_envelope_key(envelopes, event->relation, row);
	JsonbParseState *state = NULL;
	Jsonb *result;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_text(&state, "table", followed->table->source);
	push_text(&state, "kind", kind_words[event->kind]);
	if (key != NULL)
	{
		etl_json_push_key(&state, "key");
		etl_json_push_jsonb(&state, WJB_VALUE, key);
	}
	push_text(&state, "lsn", lsn_text(event->lsn));
	push_text(&state, "end_lsn", lsn_text(applier->xact.end_lsn));
	etl_json_push_key(&state, "ordinal");
	etl_json_push_int64(&state, event->ordinal);
	result = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	MemoryContextSwitchTo(context);
	return result;
}

/* ------------------------------------------------------------------ */
/* what comes next                                                      */

/*
 * After an error, before the batch is forgotten: is it worth while to look for
 * the change at fault?  Then the stream is to be begun anew.
 */
bool
etl_cdc_search(EtlCdcApplier *applier, const ErrorData *error)
{
	if (applier->doing == ETL_CDC_WAITS || applier->failed_change != NULL ||
		!etl_error_is_row_fault(error))
		return false;
	if (applier->doing == ETL_CDC_COPIES)
	{
		if (applier->copies_alone)
			return false;
		applier->copies_alone = true;
		return true;
	}
	if (applier->alone == applier->xact.commit_lsn)
		return false;
	if (applier->search_until == InvalidXLogRecPtr)
		applier->search_until = applier->xact.commit_lsn;
	else
		applier->alone = applier->xact.commit_lsn;
	return true;
}

/* The transaction whose commit failed, which is no fault of a single change. */
static Jsonb *
describe_xact(const EtlSourceXact *xact, const ErrorData *error)
{
	JsonbParseState *state = NULL;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_text(&state, "kind", "commit");
	etl_json_push_key(&state, "xid");
	etl_json_push_int64(&state, xact->xid);
	push_text(&state, "committed_at", etl_plain_time(xact->commit_time));
	push_text(&state, "lsn", lsn_text(xact->commit_lsn));
	push_text(&state, "end_lsn", lsn_text(xact->end_lsn));
	if (error->detail != NULL)
		push_text(&state, "detail", etl_ledger_clip(error->detail));
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* How a pipeline that is paused goes on. */
static const char *
hint_to_go_on(EtlCdcApplier *applier, EtlCdcPipeline *pipeline,
			  const ErrorData *error)
{
	const char *name = quote_literal_cstr(pipeline->name);
	StringInfoData text;

	initStringInfo(&text);
	if (error->hint != NULL)
		appendStringInfo(&text, "%s ", error->hint);
	if (applier->cannot_read)
	{
		appendStringInfo(&text,
						 "The source cannot send it: mend it there, then call etl_cdc_resync(%s).",
						 name);
		return text.data;
	}
	if (pipeline->error_change == NULL && applier->alone != InvalidXLogRecPtr)
	{
		pipeline->error_change = describe_xact(&applier->xact, error);
		appendStringInfo(&text,
						 "All changes of transaction %u of the source can be applied, but not committed: a deferred constraint or trigger fails. ",
						 applier->xact.xid);
	}
	appendStringInfo(&text, "Mend it, then call etl_cdc_start(%s).", name);
	if (pipeline->error_change != NULL && !applier->copies_alone)
		appendStringInfo(&text,
						 " To do without this transaction, call etl_cdc_skip(%s, %s) instead.",
						 name,
						 quote_literal_cstr(lsn_text(applier->xact.end_lsn)));
	return text.data;
}

/*
 * Write why the pipeline does not go on, in a transaction of the caller's; the
 * batch is forgotten.  What was found of the change at fault is written, too.
 * ETL_CDC_RUNNING: it is to go on by itself, in the state that it has.
 */
void
etl_cdc_write_error(EtlCdcApplier *applier, const ErrorData *error,
					EtlCdcState state)
{
	EtlCdcPipeline *pipeline = etl_cdc_by_id(applier->pipeline_id, true);

	if (!etl_cdc_is_wanted(pipeline))
		return;
	if (state != ETL_CDC_RUNNING)
		pipeline->state = state;
	pipeline->error_code = pstrdup(unpack_sql_state(error->sqlerrcode));
	pipeline->error_message = error->message;
	pipeline->error_hint = error->hint;
	pipeline->error_change = applier->failed_change;
	pipeline->error_at = GetCurrentTimestamp();
	if (state == ETL_CDC_PAUSED)
		pipeline->error_hint = hint_to_go_on(applier, pipeline, error);
	etl_cdc_update(pipeline);
}

/*
 * Rows of the source have become others without a change for each of them.
 * Only what takes new rows and nothing else need not know.
 */
void
etl_cdc_refuse_obstacle(const char *pipeline, const EtlChangeEvent *event)
{
	char *hint = psprintf("Call etl_cdc_resync(%s, ...) to copy the table "
						  "anew, or etl_cdc_skip() if its rows are the same.",
						  quote_literal_cstr(pipeline));

	if (event->obstacle == ETL_OBSTACLE_PARTITION_TRUNCATED)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("a partition of table \"%s\" was truncated",
							   event->relation->name),
						errdetail("Which of the rows that were followed it "
								  "held is not known."),
						errhint("%s", hint)));
	ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					errmsg("table \"%s\" was rewritten by ALTER TABLE",
						   event->relation->name),
					errdetail("Values of its rows may have become others, of "
							  "which the log does not tell."),
					errhint("%s", hint)));
}
