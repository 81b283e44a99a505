/*-------------------------------------------------------------------------
 *
 * change_envelope.c
 *	  A change as Debezium's envelope, whole or in parts.
 *
 * before and after have the source's columns by their names, as
 * change_json.c writes values.  What the source did not log is left out: of
 * the old row all but the key, unless it is whole; of the new one the large
 * values that an update did not change, which source.unchanged names.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/change_json.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "etl_patterns.h"

/* A part, and the type of a column that holds it. */
typedef struct Part
{
	const char *name;
	Oid type;
} Part;

static const Part parts[ETL_NUM_PARTS] = {
	[ETL_PART_OP] = {"op", TEXTOID},
	[ETL_PART_BEFORE] = {"before", JSONBOID},
	[ETL_PART_AFTER] = {"after", JSONBOID},
	[ETL_PART_SOURCE] = {"source", JSONBOID},
	[ETL_PART_TS_MS] = {"ts_ms", INT8OID},
	[ETL_PART_TRANSACTION] = {"transaction", JSONBOID},
	[ETL_PART_KEY] = {"key", JSONBOID},
	[ETL_PART_LSN] = {"lsn", LSNOID},
	[ETL_PART_COMMIT_LSN] = {"commit_lsn", LSNOID},
	[ETL_PART_ORDINAL] = {"ordinal", INT8OID},
	[ETL_PART_XID] = {"xid", INT8OID},
	[ETL_PART_COMMITTED_AT] = {"committed_at", TIMESTAMPTZOID},
	[ETL_PART_TABLE] = {"table", TEXTOID},
	[ETL_PART_ENVELOPE] = {"envelope", JSONBOID},
};

/* The parts that a tombstone keeps: what was deleted, and where. */
static const EtlEnvelopePart tombstone_parts[] = {
	ETL_PART_KEY,	  ETL_PART_LSN,			ETL_PART_COMMIT_LSN,
	ETL_PART_ORDINAL, ETL_PART_XID,			ETL_PART_COMMITTED_AT,
	ETL_PART_TABLE,	  ETL_PART_TRANSACTION,
};

struct EtlEnvelopes
{
	EtlApply *apply;
	bool wanted[ETL_NUM_PARTS];
	List *include; /* names of columns; NIL: all */
	List *exclude;
	const char *unavailable; /* stands for what was not logged, or NULL */
	bool tombstones;

	/* the description, which is looked at when it is another */
	MemoryContext context;			   /* holds what follows */
	const EtlSourceRelation *relation; /* in this batch, or NULL */
	uint32 number;
	TupleDesc desc;
	EtlJsonRow *row;
	bool *shows; /* these columns are shown */

	/* the transaction whose changes are counted */
	XLogRecPtr commit_lsn;
	int64 n_changes;
};

static Form_pg_attribute find_column(TupleDesc desc, const char *name);
static EtlEnvelopePart find_part(const char *name, const char *what);
static void set_column(EtlEnvelopeLayout *layout, EtlEnvelopePart part,
					   Form_pg_attribute att, const char *what);
static char change_op(EtlEnvelopes *envelopes, EtlApplyMap *map,
					  const EtlChangeEvent *event, HeapTuple new_row,
					  const bool *unchanged);
static void set_part(EtlEnvelope *envelope, EtlEnvelopePart part, Datum value);
static void set_json(EtlEnvelope *envelope, EtlEnvelopePart part, Jsonb *jsonb);
static void set_rows(EtlEnvelopes *envelopes, EtlEnvelope *envelope,
					 const EtlChangeEvent *event, char op, HeapTuple new_row,
					 const bool *unchanged);
static Jsonb *row_json(EtlEnvelopes *envelopes,
					   const EtlSourceRelation *relation, HeapTuple row,
					   bool keys_only, const bool *unchanged);
static Jsonb *source_json(EtlEnvelopes *envelopes, const EtlSourceXact *xact,
						  const EtlChangeEvent *event, const bool *unchanged);
static Jsonb *transaction_json(EtlEnvelopes *envelopes,
							   const EtlSourceXact *xact,
							   const EtlChangeEvent *event);
static Jsonb *whole_json(EtlEnvelopes *envelopes, const EtlEnvelope *envelope);
static int64 unix_us(TimestampTz time);

/* ------------------------------------------------------------------ */
/* columns                                                              */

/* An envelope as a row; columns that hold none of its parts are null. */
HeapTuple
etl_envelope_row(const EtlEnvelope *envelope, const EtlEnvelopeLayout *layout,
				 TupleDesc desc)
{
	Datum *values = palloc0(sizeof(Datum) * desc->natts);
	bool *nulls = palloc(sizeof(bool) * desc->natts);
	HeapTuple row;

	memset(nulls, true, sizeof(bool) * desc->natts);
	for (int i = 0; i < ETL_NUM_PARTS; i++)
	{
		AttrNumber attnum = layout->attnums[i];

		if (attnum == 0)
			continue;
		values[attnum - 1] = envelope->values[i];
		nulls[attnum - 1] = envelope->nulls[i];
	}
	row = heap_form_tuple(desc, values, nulls);
	pfree(values);
	pfree(nulls);
	return row;
}

/*
 * Finds the columns of a row type that hold parts: those of their names, or
 * the ones that columns (column -> part) says.  what is the row type, for
 * messages.
 */
void
etl_envelope_layout(EtlEnvelopeLayout *layout, TupleDesc desc, Jsonb *columns,
					const char *what)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue value;
	char *name = NULL;

	memset(layout, 0, sizeof(EtlEnvelopeLayout));
	if (columns != NULL && !JB_ROOT_IS_OBJECT(columns))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"columns\" must be a JSON object"),
				 errhint(
					 "Write {\"target column\": \"part of the envelope\"}.")));
	iterator = columns != NULL ? JsonbIteratorInit(&columns->root) : NULL;
	while (iterator != NULL &&
		   (token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		Form_pg_attribute att;

		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		if (token != WJB_VALUE)
			continue;
		att = find_column(desc, name);
		if (att == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of %s does not exist", name, what),
					 errhint("It is named in \"columns\".")));
		if (value.type != jbvString)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"columns\" must say which part of the envelope column \"%s\" holds",
							name)));
		set_column(layout,
				   find_part(pnstrdup(value.val.string.val, value.val.string.len),
							 what),
				   att, what);
	}
	for (int i = 0; i < ETL_NUM_PARTS; i++)
	{
		Form_pg_attribute att = find_column(desc, parts[i].name);

		for (int j = 0; att != NULL && j < ETL_NUM_PARTS; j++)
			if (layout->attnums[j] == att->attnum)
				att = NULL; /* holds another part */
		if (layout->attnums[i] == 0 && att != NULL)
			set_column(layout, i, att, what);
	}
	if (layout->attnums[ETL_PART_OP] == 0 &&
		layout->attnums[ETL_PART_ENVELOPE] == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("%s has neither a column \"op\" nor a column \"envelope\"",
						what),
				 errhint(
					 "etl_cdc_create_changelog() creates a table with all columns of a changelog.")));
}

static Form_pg_attribute
find_column(TupleDesc desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && strcmp(NameStr(att->attname), name) == 0)
			return att;
	}
	return NULL;
}

static EtlEnvelopePart
find_part(const char *name, const char *what)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < ETL_NUM_PARTS; i++)
	{
		if (strcmp(parts[i].name, name) == 0)
			return i;
		appendStringInfo(&names, "%s\"%s\"", i == 0 ? "" : ", ", parts[i].name);
	}
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("an envelope has no part \"%s\"", name),
					errdetail("It is named in \"columns\" for %s.", what),
					errhint("Its parts are %s.", names.data)));
	return ETL_NUM_PARTS;
}

static void
set_column(EtlEnvelopeLayout *layout, EtlEnvelopePart part,
		   Form_pg_attribute att, const char *what)
{
	if (layout->attnums[part] != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("two columns of %s hold part \"%s\" of the envelope",
						what, parts[part].name)));
	if (att->atttypid != parts[part].type || att->atttypmod >= 0 ||
		att->attgenerated)
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
						errmsg("column \"%s\" of %s must be of type %s",
							   NameStr(att->attname), what,
							   format_type_be(parts[part].type)),
						errdetail("It holds part \"%s\" of the envelope.",
								  parts[part].name)));
	layout->attnums[part] = att->attnum;
	layout->n++;
}

/* ------------------------------------------------------------------ */
/* envelopes                                                            */

/*
 * Whoever makes envelopes for a table, in the current memory context, which
 * is kept over batches.  wanted says which parts are looked at.
 */
EtlEnvelopes *
etl_envelopes_create(EtlApply *apply, const bool *wanted)
{
	EtlEnvelopes *envelopes = palloc0(sizeof(EtlEnvelopes));

	envelopes->apply = apply;
	envelopes->context = AllocSetContextCreate(CurrentMemoryContext,
											   "etl_patterns envelopes",
											   ALLOCSET_SMALL_SIZES);
	memcpy(envelopes->wanted, wanted, sizeof(envelopes->wanted));
	if (wanted[ETL_PART_ENVELOPE])
		for (int i = ETL_PART_OP; i <= ETL_PART_TRANSACTION; i++)
			envelopes->wanted[i] = true;
	envelopes->include = etl_apply_option_names(apply, "include");
	envelopes->exclude = etl_apply_option_names(apply, "exclude");
	envelopes->unavailable = etl_apply_option(apply, "unavailable_value");
	envelopes->tombstones = etl_apply_option_bool(apply, "tombstones");
	if (envelopes->include != NIL && envelopes->exclude != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg(
					 "options \"include\" and \"exclude\" cannot be used together")));
	return envelopes;
}

/* Another batch, whose descriptions may have other numbers. */
void
etl_envelopes_begin(EtlEnvelopes *envelopes)
{
	envelopes->relation = NULL;
}

/* Looks at a description, unless it is the one that was looked at. */
void
etl_envelopes_describe(EtlEnvelopes *envelopes,
					   const EtlSourceRelation *relation)
{
	TupleDesc desc = relation->desc;
	bool is_known = envelopes->relation == relation &&
					envelopes->number == relation->number;
	MemoryContext oldcontext;
	ListCell *lc;

	envelopes->relation = relation;
	envelopes->number = relation->number;
	if (envelopes->desc != NULL &&
		(is_known || equalTupleDescs(envelopes->desc, desc)))
		return;
	MemoryContextReset(envelopes->context);
	envelopes->desc = NULL;
	foreach(lc, list_concat_copy(envelopes->include, envelopes->exclude))
		if (find_column(desc, lfirst(lc)) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of source \"%s\" does not exist",
							(char *) lfirst(lc), envelopes->apply->source),
					 errhint("It is named in option \"%s\".",
							 envelopes->include != NIL ? "include" : "exclude")));
	oldcontext = MemoryContextSwitchTo(envelopes->context);
	envelopes->row = etl_json_row_create(desc);
	envelopes->shows = palloc(sizeof(bool) * (desc->natts + 1));
	for (int i = 0; i < desc->natts; i++)
	{
		const char *name = NameStr(TupleDescAttr(desc, i)->attname);

		envelopes->shows[i] = (envelopes->include == NIL ||
							   etl_has_name(envelopes->include, name)) &&
							  !etl_has_name(envelopes->exclude, name);
	}
	envelopes->desc = CreateTupleDescCopy(desc);
	MemoryContextSwitchTo(oldcontext);
}

/*
 * The envelope of a change, in the current memory context; NULL if the row
 * filter lets nothing of it pass.  A row that comes to pass the filter is
 * created, one that passes no more is deleted.
 */
EtlEnvelope *
etl_envelope_make(EtlEnvelopes *envelopes, const EtlSourceXact *xact,
				  const EtlChangeEvent *event)
{
	const EtlSourceRelation *relation = event->relation;
	EtlApplyMap *map = etl_apply_map(envelopes->apply, relation);
	EtlEnvelope *envelope;
	const bool *unchanged = NULL;
	HeapTuple new_row = NULL;
	char op[2] = {0};

	etl_envelopes_describe(envelopes, relation);
	if (event->new_row != NULL)
		new_row = etl_event_new_row(event, &unchanged);
	op[0] = change_op(envelopes, map, event, new_row, unchanged);
	if (op[0] == '\0')
		return NULL;
	if (envelopes->commit_lsn != xact->commit_lsn)
		envelopes->n_changes = 0;
	envelopes->commit_lsn = xact->commit_lsn;
	envelopes->n_changes++;

	envelope = palloc0(sizeof(EtlEnvelope));
	memset(envelope->nulls, true, sizeof(envelope->nulls));
	set_part(envelope, ETL_PART_OP, CStringGetTextDatum(op));
	set_part(envelope, ETL_PART_TS_MS,
			 Int64GetDatum(unix_us(GetCurrentTimestamp()) / 1000));
	set_part(envelope, ETL_PART_COMMIT_LSN, LSNGetDatum(xact->commit_lsn));
	set_part(envelope, ETL_PART_LSN,
			 LSNGetDatum(event->lsn != 0 ? event->lsn : xact->commit_lsn));
	set_part(envelope, ETL_PART_ORDINAL, Int64GetDatum(event->ordinal));
	if (TransactionIdIsValid(xact->xid))
		set_part(envelope, ETL_PART_XID, Int64GetDatum((int64) xact->xid));
	set_part(envelope, ETL_PART_COMMITTED_AT,
			 TimestampTzGetDatum(xact->commit_time));
	set_part(envelope, ETL_PART_TABLE,
			 CStringGetTextDatum(
				 quote_qualified_identifier(relation->schema, relation->name)));
	set_rows(envelopes, envelope, event, op[0], new_row, unchanged);
	if (envelopes->wanted[ETL_PART_SOURCE])
		set_json(envelope, ETL_PART_SOURCE,
				 source_json(envelopes, xact, event,
							 op[0] == 'd' ? NULL : unchanged));
	if (envelopes->wanted[ETL_PART_TRANSACTION] && event->kind != ETL_EVENT_READ)
		set_json(envelope, ETL_PART_TRANSACTION,
				 transaction_json(envelopes, xact, event));
	if (envelopes->wanted[ETL_PART_ENVELOPE])
		set_json(envelope, ETL_PART_ENVELOPE, whole_json(envelopes, envelope));
	return envelope;
}

/* The old row, the new one, and the key. */
static void
set_rows(EtlEnvelopes *envelopes, EtlEnvelope *envelope,
		 const EtlChangeEvent *event, char op, HeapTuple new_row,
		 const bool *unchanged)
{
	const EtlSourceRelation *relation = event->relation;
	HeapTuple key_row = new_row;

	if (op == 'd' && event->old_row != NULL)
		key_row = event->old_row;
	if (event->old_row != NULL && op != 'c')
		set_json(envelope, ETL_PART_BEFORE,
				 row_json(envelopes, relation, event->old_row,
						  event->old_is_key, NULL));
	else if (op == 'd' && new_row != NULL) /* passes the filter no more */
		set_json(envelope, ETL_PART_BEFORE,
				 row_json(envelopes, relation, new_row, true, NULL));
	if (new_row != NULL && op != 'd')
		set_json(envelope, ETL_PART_AFTER,
				 row_json(envelopes, relation, new_row, false, unchanged));
	if (key_row != NULL)
		set_json(envelope, ETL_PART_KEY,
				 row_json(envelopes, relation, key_row, true, NULL));
}

/* What follows a delete for consumers that compact by key, or NULL. */
EtlEnvelope *
etl_envelope_tombstone(EtlEnvelopes *envelopes, const EtlEnvelope *deleted)
{
	EtlEnvelope *envelope;

	if (!envelopes->tombstones ||
		*VARDATA_ANY(DatumGetTextPP(deleted->values[ETL_PART_OP])) != 'd')
		return NULL;
	envelope = palloc0(sizeof(EtlEnvelope));
	memset(envelope->nulls, true, sizeof(envelope->nulls));
	for (int i = 0; i < (int) lengthof(tombstone_parts); i++)
	{
		EtlEnvelopePart part = tombstone_parts[i];

		envelope->values[part] = deleted->values[part];
		envelope->nulls[part] = deleted->nulls[part];
	}
	return envelope;
}

/* The replica identity of a row; NULL if it has none, or there is no row. */
Jsonb *
etl_envelope_key(EtlEnvelopes *envelopes, const EtlSourceRelation *relation,
				 HeapTuple row)
{
	if (row == NULL)
		return NULL;
	etl_envelopes_describe(envelopes, relation);
	return row_json(envelopes, relation, row, true, NULL);
}

/* The word of a change, or nothing if the filter holds it back. */
static char
change_op(EtlEnvelopes *envelopes, EtlApplyMap *map,
		  const EtlChangeEvent *event, HeapTuple new_row, const bool *unchanged)
{
	EtlApply *apply = envelopes->apply;
	bool was_in = true; /* if it is not known: a delete too many is harmless */
	bool is_in;

	if (event->kind == ETL_EVENT_TRUNCATE)
		return 't';
	if (event->old_row != NULL &&
		etl_apply_filter_knows(map, NULL, event->old_is_key))
		was_in = etl_apply_filter(apply, map, event->old_row);
	switch (event->kind)
	{
		case ETL_EVENT_DELETE:
			return was_in ? 'd' : '\0';
		case ETL_EVENT_UPDATE:
			is_in = etl_event_passes(apply, map, new_row, unchanged);
			if (is_in)
				return was_in ? 'u' : 'c';
			return was_in ? 'd' : '\0';
		default:
			if (!etl_event_passes(apply, map, new_row, unchanged))
				return '\0';
			return event->kind == ETL_EVENT_READ ? 'r' : 'c';
	}
}

static void
set_part(EtlEnvelope *envelope, EtlEnvelopePart part, Datum value)
{
	envelope->values[part] = value;
	envelope->nulls[part] = false;
}

static void
set_json(EtlEnvelope *envelope, EtlEnvelopePart part, Jsonb *jsonb)
{
	if (jsonb != NULL)
		set_part(envelope, part, JsonbPGetDatum(jsonb));
}

/* ------------------------------------------------------------------ */
/* parts                                                                */

/* A row, or its key, as an object; NULL if there is nothing to show. */
static Jsonb *
row_json(EtlEnvelopes *envelopes, const EtlSourceRelation *relation,
		 HeapTuple row, bool keys_only, const bool *unchanged)
{
	TupleDesc desc = relation->desc;
	Datum *values = palloc(sizeof(Datum) * (desc->natts + 1));
	bool *nulls = palloc(sizeof(bool) * (desc->natts + 1));
	JsonbParseState *state = NULL;
	bool any = false;

	heap_deform_tuple(row, desc, values, nulls);
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	etl_json_row_begin();
	for (int i = 0; i < desc->natts; i++)
	{
		bool is_missing = unchanged != NULL && unchanged[i];

		if (!envelopes->shows[i] || (keys_only && !relation->is_key[i]) ||
			(is_missing && envelopes->unavailable == NULL))
			continue;
		any = true;
		etl_json_push_key(&state, NameStr(TupleDescAttr(desc, i)->attname));
		if (is_missing)
			etl_json_push_text(&state, envelopes->unavailable);
		else
			etl_json_push_column(&state, envelopes->row, i, values[i], nulls[i]);
	}
	etl_json_row_end();
	if (keys_only && !any)
		return NULL;
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static void
push_text(JsonbParseState **state, const char *key, const char *text)
{
	etl_json_push_key(state, key);
	if (text != NULL)
		etl_json_push_text(state, text);
	else
		etl_json_push_null(state);
}

static void
push_int64(JsonbParseState **state, const char *key, int64 number)
{
	etl_json_push_key(state, key);
	etl_json_push_int64(state, number);
}

/* Where the change came from. */
static Jsonb *
source_json(EtlEnvelopes *envelopes, const EtlSourceXact *xact,
			const EtlChangeEvent *event, const bool *unchanged)
{
	const EtlSourceRelation *relation = event->relation;
	const char *database = envelopes->apply->source_db;
	XLogRecPtr lsn = event->lsn != 0 ? event->lsn : xact->commit_lsn;
	JsonbParseState *state = NULL;
	bool any_unchanged = false;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_text(&state, "version", ETL_VERSION);
	push_text(&state, "connector", "etl_patterns");
	push_text(&state, "name", envelopes->apply->pipeline);
	push_int64(&state, "ts_ms", unix_us(xact->commit_time) / 1000);
	push_int64(&state, "ts_us", unix_us(xact->commit_time));
	push_text(&state, "snapshot",
			  event->kind == ETL_EVENT_READ ? "true" : "false");
	if (database == NULL && OidIsValid(envelopes->apply->source_relid))
		database = get_database_name(MyDatabaseId);
	push_text(&state, "db", database);
	push_text(&state, "sequence",
			  psprintf("[\"" UINT64_FORMAT "\",\"" UINT64_FORMAT "\"]",
					   xact->commit_lsn, lsn));
	push_text(&state, "schema", relation->schema);
	push_text(&state, "table", relation->name);
	if (TransactionIdIsValid(xact->xid))
		push_int64(&state, "txId", (int64) xact->xid);
	else
		push_text(&state, "txId", NULL);
	push_int64(&state, "lsn", (int64) lsn);
	push_int64(&state, "commit_lsn", (int64) xact->commit_lsn);
	push_int64(&state, "ordinal", event->ordinal);
	for (int i = 0; unchanged != NULL && i < relation->desc->natts; i++)
		any_unchanged |= unchanged[i] && envelopes->shows[i];
	if (any_unchanged)
	{
		etl_json_push_key(&state, "unchanged");
		(void) pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
		for (int i = 0; i < relation->desc->natts; i++)
		{
			JsonbValue name;

			if (!unchanged[i] || !envelopes->shows[i])
				continue;
			name.type = jbvString;
			name.val.string.val = NameStr(
				TupleDescAttr(relation->desc, i)->attname);
			name.val.string.len = (int) strlen(name.val.string.val);
			(void) pushJsonbValue(&state, WJB_ELEM, &name);
		}
		(void) pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* Where the change stands in its transaction. */
static Jsonb *
transaction_json(EtlEnvelopes *envelopes, const EtlSourceXact *xact,
				 const EtlChangeEvent *event)
{
	JsonbParseState *state = NULL;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_text(&state, "id",
			  psprintf("%u:" UINT64_FORMAT, xact->xid, xact->commit_lsn));
	push_int64(&state, "total_order", event->ordinal);
	push_int64(&state, "data_collection_order", envelopes->n_changes);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* All of it as one object, as Debezium sends it. */
static Jsonb *
whole_json(EtlEnvelopes *envelopes, const EtlEnvelope *envelope)
{
	JsonbParseState *state = NULL;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = ETL_PART_OP; i <= ETL_PART_TRANSACTION; i++)
	{
		etl_json_push_key(&state, parts[i].name);
		if (envelope->nulls[i])
			etl_json_push_null(&state);
		else if (parts[i].type == JSONBOID)
			etl_json_push_jsonb(&state, WJB_VALUE,
								DatumGetJsonbP(envelope->values[i]));
		else if (parts[i].type == INT8OID)
			etl_json_push_int64(&state, DatumGetInt64(envelope->values[i]));
		else
			etl_json_push_text(&state, TextDatumGetCString(envelope->values[i]));
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* Microseconds since 1970, as the rest of the world counts. */
static int64
unix_us(TimestampTz time)
{
	return time +
		   ((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) * USECS_PER_DAY;
}
