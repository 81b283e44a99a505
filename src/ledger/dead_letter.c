/*-------------------------------------------------------------------------
 *
 * dead_letter.c
 *	  Rejected rows, recorded in bulk.
 *
 * Letters are collected and written by heap_multi_insert, a batch at a time:
 * a file with a million bad rows costs no query and no plan.  A batch is
 * bounded in rows and in bytes.
 *
 * etl_dead_letters_add() may be called while a subtransaction is open that
 * will be rolled back: it only copies.  The writing happens in
 * etl_dead_letters_flush(), which the flow calls where nothing is at risk.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "commands/sequence.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ledger/ledger.h"

/* Columns of etl_patterns.dead_letter */
enum
{
	LETTER_ID,
	LETTER_RUN_ID,
	LETTER_OPERATION,
	LETTER_TARGET,
	LETTER_ROLE,
	LETTER_SOURCE_NAME,
	LETTER_FILE_ID,
	LETTER_LINE_NO,
	LETTER_ROW_NO,
	LETTER_BYTE_OFFSET,
	LETTER_COLUMN_NAME,
	LETTER_FIELD_VALUE,
	LETTER_CATEGORY,
	LETTER_ERROR_CODE,
	LETTER_ERROR_MESSAGE,
	LETTER_ERROR_DETAIL,
	LETTER_RAW_RECORD,
	LETTER_RAW_BYTES,
	LETTER_PAYLOAD,
	LETTER_ATTEMPTS,
	LETTER_STATUS,
	LETTER_CREATED_AT,
	LETTER_RESOLVED_AT,
	LETTER_RESOLVED_RUN_ID,
	LETTER_NATTS
};

/* What a batch should hold at most, and how many rows one insert takes. */
#define BATCH_ROWS	1000
#define BATCH_BYTES (1024 * 1024)
#define INSERT_ROWS 100

struct EtlDeadLetters
{
	EtlRun *run;
	Oid sequence;
	TupleDesc desc;
	TupleTableSlot *slots[INSERT_ROWS];

	MemoryContext batch_context; /* what follows, and the letters */
	List *batch;				 /* of HeapTuple */
	Size batch_bytes;
};

static Datum with_member(Datum object, const char *name, const char *value);

/* Begin to record the rejected rows of a run. */
EtlDeadLetters *
etl_dead_letters_open(EtlRun *run)
{
	EtlDeadLetters *letters = palloc0(sizeof(EtlDeadLetters));
	Relation rel = etl_ledger_open("dead_letter", LETTER_NATTS,
								   RowExclusiveLock);

	letters->run = run;
	letters->sequence = etl_ledger_relid("dead_letter_id_seq");
	letters->desc = CreateTupleDescCopy(etl_ledger_desc(rel));
	for (int i = 0; i < INSERT_ROWS; i++)
		letters->slots[i] = MakeSingleTupleTableSlot(letters->desc,
													 &TTSOpsHeapTuple);
	letters->batch_context = AllocSetContextCreate(CurrentMemoryContext,
												   "etl_patterns dead letters",
												   ALLOCSET_DEFAULT_SIZES);
	table_close(rel, NoLock);
	return letters;
}

/* Form the row of one letter in the current memory context. */
static HeapTuple
form_letter(EtlDeadLetters *letters, int64 letter_id, const EtlOrigin *origin,
			const EtlReject *reject)
{
	Datum values[LETTER_NATTS] = {0};
	bool nulls[LETTER_NATTS] = {0};
	EtlRun *run = letters->run;
	HeapTuple tuple;

	values[LETTER_ID] = Int64GetDatum(letter_id);
	values[LETTER_RUN_ID] = Int64GetDatum(run->run_id);
	values[LETTER_OPERATION] = CStringGetTextDatum(run->operation);
	values[LETTER_TARGET] = ObjectIdGetDatum(run->target);
	nulls[LETTER_TARGET] = !OidIsValid(run->target);
	values[LETTER_ROLE] = ObjectIdGetDatum(run->role);
	etl_ledger_set_text(&values[LETTER_SOURCE_NAME], &nulls[LETTER_SOURCE_NAME],
						origin->source_name);
	etl_ledger_set_int64(&values[LETTER_FILE_ID], &nulls[LETTER_FILE_ID],
						 origin->file_id, 0);
	etl_ledger_set_int64(&values[LETTER_LINE_NO], &nulls[LETTER_LINE_NO],
						 origin->line_no, 0);
	etl_ledger_set_int64(&values[LETTER_ROW_NO], &nulls[LETTER_ROW_NO],
						 origin->row_no, 0);
	etl_ledger_set_int64(&values[LETTER_BYTE_OFFSET],
						 &nulls[LETTER_BYTE_OFFSET], origin->byte_offset, -1);
	etl_ledger_set_text(&values[LETTER_COLUMN_NAME], &nulls[LETTER_COLUMN_NAME],
						reject->column_name);
	etl_ledger_set_text(&values[LETTER_FIELD_VALUE], &nulls[LETTER_FIELD_VALUE],
						etl_ledger_clip(reject->field_value));
	values[LETTER_CATEGORY] = CStringGetTextDatum(
		etl_category_name(reject->category));
	values[LETTER_ERROR_CODE] = CStringGetTextDatum(
		unpack_sql_state(reject->sqlerrcode));
	values[LETTER_ERROR_MESSAGE] = CStringGetTextDatum(
		etl_ledger_clip(reject->message));
	etl_ledger_set_text(&values[LETTER_ERROR_DETAIL],
						&nulls[LETTER_ERROR_DETAIL],
						etl_ledger_clip(reject->detail));
	etl_ledger_set_text(&values[LETTER_RAW_RECORD], &nulls[LETTER_RAW_RECORD],
						origin->raw_record);
	nulls[LETTER_RAW_BYTES] = origin->raw_bytes == NULL;
	if (origin->raw_bytes != NULL)
		values[LETTER_RAW_BYTES] = PointerGetDatum(
			cstring_to_text_with_len(origin->raw_bytes,
									 (int) origin->raw_bytes_len));
	values[LETTER_PAYLOAD] = PointerGetDatum(origin->payload);
	nulls[LETTER_PAYLOAD] = origin->payload == NULL;
	values[LETTER_ATTEMPTS] = Int32GetDatum(0);
	values[LETTER_STATUS] = CStringGetTextDatum("pending");
	values[LETTER_CREATED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	nulls[LETTER_RESOLVED_AT] = true;
	nulls[LETTER_RESOLVED_RUN_ID] = true;

	tuple = heap_form_tuple(letters->desc, values, nulls);

	/* A record may be long: do not keep its parts beside the whole. */
	for (int i = 0; i < LETTER_NATTS; i++)
	{
		if (!nulls[i] && TupleDescAttr(letters->desc, i)->attlen == -1 &&
			i != LETTER_PAYLOAD)
			pfree(DatumGetPointer(values[i]));
	}
	return tuple;
}

/*
 * Take one rejected row.  Everything is copied, so the caller's strings may
 * go away.  Flush when etl_dead_letters_full() says so.  Returns its number.
 */
int64
etl_dead_letters_add(EtlDeadLetters *letters, const EtlOrigin *origin,
					 const EtlReject *reject)
{
	MemoryContext old_context = MemoryContextSwitchTo(letters->batch_context);
	int64 letter_id = nextval_internal(letters->sequence, false);
	HeapTuple tuple = form_letter(letters, letter_id, origin, reject);

	letters->batch = lappend(letters->batch, tuple);
	letters->batch_bytes += tuple->t_len;
	MemoryContextSwitchTo(old_context);
	return letter_id;
}

/* Does the batch hold as much as it should? */
bool
etl_dead_letters_full(const EtlDeadLetters *letters)
{
	return list_length(letters->batch) >= BATCH_ROWS ||
		   letters->batch_bytes >= BATCH_BYTES;
}

/* Write the letters that are in the slots. */
static void
insert_pending(EtlDeadLetters *letters, Relation rel, CatalogIndexState indexes,
			   int *pending)
{
	if (*pending == 0)
		return;
	CatalogTuplesMultiInsertWithInfo(rel, letters->slots, *pending, indexes);
	while (*pending > 0)
		ExecClearTuple(letters->slots[--(*pending)]);
}

/*
 * Write the collected letters.  Those that will be toasted go one by one: an
 * insert of many finds out where the toasted copy lies, but not in time for
 * the index entries.
 */
void
etl_dead_letters_flush(EtlDeadLetters *letters)
{
	Relation rel;
	CatalogIndexState indexes;
	int pending = 0;
	ListCell *lc;

	if (letters->batch == NIL)
		return;

	rel = etl_ledger_open("dead_letter", LETTER_NATTS, RowExclusiveLock);
	indexes = CatalogOpenIndexes(rel);
	foreach(lc, letters->batch)
	{
		HeapTuple tuple = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		if (tuple->t_len > TOAST_TUPLE_THRESHOLD)
		{
			CatalogTupleInsertWithInfo(rel, tuple, indexes);
			continue;
		}
		ExecStoreHeapTuple(tuple, letters->slots[pending++], false);
		if (pending == INSERT_ROWS)
			insert_pending(letters, rel, indexes, &pending);
	}
	insert_pending(letters, rel, indexes, &pending);
	CatalogCloseIndexes(indexes);
	table_close(rel, NoLock);
	CommandCounterIncrement();

	letters->batch = NIL;
	letters->batch_bytes = 0;
	MemoryContextReset(letters->batch_context);
}

/* Write what is left and free everything. */
void
etl_dead_letters_close(EtlDeadLetters *letters)
{
	etl_dead_letters_flush(letters);
	for (int i = 0; i < INSERT_ROWS; i++)
		ExecDropSingleTupleTableSlot(letters->slots[i]);
	MemoryContextDelete(letters->batch_context);
	pfree(letters);
}

/* ------------------------------------------------------------------ */
/* letters that wait                                                    */

/*
 * Those of an operation that were meant for a target and came from a source;
 * NULL: from any.
 */
void
etl_dead_letters_pending(Oid target, const char *operation,
						 const char *source_name, EtlLetterCall call, void *arg)
{
	Relation rel = etl_ledger_open("dead_letter", LETTER_NATTS, AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "etl_patterns dead letter",
												  ALLOCSET_DEFAULT_SIZES);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&key, LETTER_TARGET + 1, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(target));
	scan = systable_beginscan(rel,
							  etl_ledger_relid("dead_letter_target_status_idx"),
							  true, snapshot, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		MemoryContext old_context = MemoryContextSwitchTo(context);
		Datum values[LETTER_NATTS];
		bool nulls[LETTER_NATTS];
		char *source;

		CHECK_FOR_INTERRUPTS();
		heap_deform_tuple(tuple, etl_ledger_desc(rel), values, nulls);
		source = etl_ledger_get_text(values, nulls, LETTER_SOURCE_NAME);
		if (strcmp(TextDatumGetCString(values[LETTER_STATUS]), "pending") == 0 &&
			strcmp(TextDatumGetCString(values[LETTER_OPERATION]), operation) ==
				0 &&
			(source_name == NULL ||
			 (source != NULL && strcmp(source, source_name) == 0)))
			call(arg, DatumGetInt64(values[LETTER_ID]),
				 nulls[LETTER_PAYLOAD] ?
					 NULL :
					 DatumGetJsonbPCopy(values[LETTER_PAYLOAD]));
		MemoryContextSwitchTo(old_context);
		MemoryContextReset(context);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	MemoryContextDelete(context);
	table_close(rel, NoLock);
}

/* Put a member into the payload of a letter, unless that is closed or has one. */
void
etl_dead_letter_note(int64 letter_id, const char *name, const char *value)
{
	Relation rel = etl_ledger_open("dead_letter", LETTER_NATTS,
								   RowExclusiveLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	Datum values[LETTER_NATTS];
	bool nulls[LETTER_NATTS];
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&key, LETTER_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(letter_id));
	scan = systable_beginscan(rel, etl_ledger_relid("dead_letter_pkey"), true,
							  snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = etl_ledger_lock(rel, tuple, LockWaitBlock);
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	if (HeapTupleIsValid(tuple))
	{
		heap_deform_tuple(tuple, etl_ledger_desc(rel), values, nulls);
		if (!nulls[LETTER_PAYLOAD] &&
			strcmp(TextDatumGetCString(values[LETTER_STATUS]), "pending") == 0)
		{
			values[LETTER_PAYLOAD] = with_member(values[LETTER_PAYLOAD], name,
												 value);
			etl_ledger_replace(rel, &tuple->t_self, values, nulls);
		}
	}
	table_close(rel, NoLock);
}

/* What the object has already is not replaced. */
static Datum
with_member(Datum object, const char *name, const char *value)
{
	JsonbParseState *state = NULL;
	JsonbValue text;
	Jsonb *member;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	text.type = jbvString;
	text.val.string.val = unconstify(char *, name);
	text.val.string.len = (int) strlen(name);
	(void) pushJsonbValue(&state, WJB_KEY, &text);
	text.val.string.val = unconstify(char *, value);
	text.val.string.len = (int) strlen(value);
	(void) pushJsonbValue(&state, WJB_VALUE, &text);
	member = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	return DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(member), object);
}
