/*-------------------------------------------------------------------------
 *
 * change_letter.c
 *	  A change as the payload of a dead letter, and back.
 *
 * The payload is the envelope of change_envelope.c with all columns of the
 * source, and two members more: the key, and the source's description at that
 * time, by which its values are read again.  (A third one comes when the change is
 * overtaken, see cdc_letters.c.)  So neither the source nor its
 * server is needed to make the same change of it.  Neither the row filter nor
 * what a sink makes of columns has a part in it, because they may be what fails.
 *
 * Changes of the same row are told by hashes of keys: of the one that the row
 * had before, and of the one that it has since.
 *
 * Takes no locks but on the types of composite values.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/change_json.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

/* Descriptions that are read have numbers that no stream and no copy reaches. */
#define FIRST_NUMBER 0xE0000000

static const struct
{
	char op;
	EtlEventKind kind;
} ops[] = {{'c', ETL_EVENT_INSERT},
		   {'u', ETL_EVENT_UPDATE},
		   {'d', ETL_EVENT_DELETE},
		   {'t', ETL_EVENT_TRUNCATE},
		   {'r', ETL_EVENT_READ}};

static Jsonb *schema_json(const EtlSourceRelation *relation);
static void push_flag(JsonbParseState **state, const char *key, bool flag);
static uint64 hash_of(Jsonb *key);
static JsonbValue *member(JsonbContainer *object, const char *name);
static JsonbContainer *container(JsonbContainer *object, const char *name);
static char *source_text(Jsonb *payload, const char *name);
static char *text_of(JsonbContainer *object, const char *name);
static int64 int64_of(JsonbContainer *object, const char *name);
static EtlSourceRelation *read_relation(JsonbContainer *schema,
										JsonbContainer *source);
static HeapTuple read_row(TupleDesc desc, JsonbValue *object);
static bool *read_unchanged(TupleDesc desc, JsonbContainer *source);

/* ------------------------------------------------------------------ */
/* writing                                                              */

/* Envelopes of a table as it is, in the current memory context. */
EtlEnvelopes *
etl_letter_envelopes(const EtlApply *apply)
{
	EtlApply *bare = palloc0(sizeof(EtlApply));
	bool wanted[ETL_NUM_PARTS] = {false};

	bare->ops = apply->ops;
	bare->pipeline = apply->pipeline;
	bare->source = apply->source;
	bare->source_relid = apply->source_relid;
	bare->source_db = apply->source_db;
	bare->target_relid = apply->target_relid;
	bare->context = bare->batch_context = CurrentMemoryContext;
	wanted[ETL_PART_ENVELOPE] = wanted[ETL_PART_KEY] = true;
	return etl_envelopes_create(bare, wanted);
}

/* The payload of a change. */
Jsonb *
etl_letter_payload(EtlEnvelopes *envelopes, const EtlSourceXact *xact,
				   const EtlChangeEvent *event)
{
	EtlEnvelope *envelope = etl_envelope_make(envelopes, xact, event);
	JsonbParseState *state = NULL;
	Jsonb *beside;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	etl_json_push_key(&state, "key");
	if (envelope->nulls[ETL_PART_KEY])
		etl_json_push_null(&state);
	else
		etl_json_push_jsonb(&state, WJB_VALUE,
							DatumGetJsonbP(envelope->values[ETL_PART_KEY]));
	etl_json_push_key(&state, "schema");
	etl_json_push_jsonb(&state, WJB_VALUE, schema_json(event->relation));
	beside = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	return DatumGetJsonbP(
		DirectFunctionCall2(jsonb_concat, envelope->values[ETL_PART_ENVELOPE],
							JsonbPGetDatum(beside)));
}

/* The description of a source. */
static Jsonb *
schema_json(const EtlSourceRelation *relation)
{
	TupleDesc desc = relation->desc;
	JsonbParseState *state = NULL;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	etl_json_push_key(&state, "identity");
	etl_json_push_text(&state, psprintf("%c", relation->identity));
	etl_json_push_key(&state, "columns");
	(void) pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		char *type = format_type_extended(att->atttypid, att->atttypmod,
										  FORMAT_TYPE_TYPEMOD_GIVEN |
											  FORMAT_TYPE_FORCE_QUALIFY);

		(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		etl_json_push_key(&state, "name");
		etl_json_push_text(&state, NameStr(att->attname));
		etl_json_push_key(&state, "type");
		etl_json_push_text(&state, type);
		push_flag(&state, "key", relation->is_key[i]);
		(void) pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	(void) pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static void
push_flag(JsonbParseState **state, const char *key, bool flag)
{
	JsonbValue value;

	etl_json_push_key(state, key);
	value.type = jbvBool;
	value.val.boolean = flag;
	(void) pushJsonbValue(state, WJB_VALUE, &value);
}

/* ------------------------------------------------------------------ */
/* which row                                                            */

static uint64
hash_of(Jsonb *key)
{
	return DatumGetUInt64(DirectFunctionCall2(jsonb_hash_extended,
											  JsonbPGetDatum(key),
											  Int64GetDatum(0)));
}

/*
 * The keys that a row has by a change, and had before it, as hashes.  Returns
 * how many there are: none of a TRUNCATE.
 */
int
etl_event_keys(EtlEnvelopes *envelopes, const EtlChangeEvent *event,
			   uint64 *hashes)
{
	Jsonb *key;
	int n = 0;

	key = etl_envelope_key(envelopes, event->relation, event->new_row);
	if (key != NULL)
		hashes[n++] = hash_of(key);
	key = etl_envelope_key(envelopes, event->relation, event->old_row);
	if (key != NULL)
		hashes[n++] = hash_of(key);
	return n;
}

/* The same of a payload; what it shows of the old row is its key. */
int
etl_letter_keys(Jsonb *payload, uint64 *hashes)
{
	static const char *const names[] = {"key", "before"};
	int n = 0;

	for (int i = 0; i < (int) lengthof(names); i++)
	{
		JsonbValue *value = member(&payload->root, names[i]);

		if (value != NULL && value->type == jbvBinary)
			hashes[n++] = hash_of(JsonbValueToJsonb(value));
	}
	return n;
}

/* ------------------------------------------------------------------ */
/* reading                                                              */

/*
 * The change that a payload was made of, in the current memory context.
 * Throws if its values cannot be read any more.
 */
EtlChangeEvent *
etl_letter_event(Jsonb *payload, EtlSourceXact *xact)
{
	EtlChangeEvent *event = palloc0(sizeof(EtlChangeEvent));
	JsonbContainer *source = container(&payload->root, "source");
	JsonbContainer *schema = container(&payload->root, "schema");
	EtlSourceRelation *relation = read_relation(schema, source);
	char op = text_of(&payload->root, "op")[0];
	bool is_known = false;

	for (int i = 0; i < (int) lengthof(ops); i++)
		if (ops[i].op == op)
		{
			event->kind = ops[i].kind;
			is_known = true;
		}
	if (!is_known)
		elog(ERROR, "dead letter has op \"%c\"", op);
	event->relation = relation;
	event->lsn = (XLogRecPtr) int64_of(source, "lsn");
	event->ordinal = int64_of(source, "ordinal");
	event->old_is_key = relation->identity != REPLICA_IDENTITY_FULL;
	event->old_row = read_row(relation->desc, member(&payload->root, "before"));
	event->new_row = read_row(relation->desc, member(&payload->root, "after"));
	event->unchanged = read_unchanged(relation->desc, source);

	memset(xact, 0, sizeof(EtlSourceXact));
	xact->xid = (TransactionId) int64_of(source, "txId");
	xact->commit_lsn = (XLogRecPtr) int64_of(source, "commit_lsn");
	xact->end_lsn = xact->commit_lsn + 1; /* somewhere in its record */
	if (pg_sub_s64_overflow(int64_of(source, "ts_us"),
							((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) *
								USECS_PER_DAY,
							&xact->commit_time) ||
		!IS_VALID_TIMESTAMP(xact->commit_time))
		elog(ERROR, "dead letter has no time of its commit");
	return event;
}

/* What source says of where a change comes from, or NULL. */
static char *
source_text(Jsonb *payload, const char *name)
{
	JsonbContainer *source = container(&payload->root, "source");
	JsonbValue *value = source == NULL ? NULL : member(source, name);

	if (value == NULL || value->type != jbvString)
		return NULL;
	return pnstrdup(value->val.string.val, value->val.string.len);
}

char *
etl_letter_pipeline(Jsonb *payload)
{
	return source_text(payload, "name");
}

char *
etl_letter_database(Jsonb *payload)
{
	return source_text(payload, "db");
}

/* The position of a later change of the row that was applied, or NULL. */
char *
etl_letter_overtaken(Jsonb *payload)
{
	return member(&payload->root, ETL_LETTER_OVERTAKEN) == NULL ?
			   NULL :
			   text_of(&payload->root, ETL_LETTER_OVERTAKEN);
}

/* The description of the source, with a number that is new. */
static EtlSourceRelation *
read_relation(JsonbContainer *schema, JsonbContainer *source)
{
	static uint32 number = 0;
	EtlSourceRelation *relation = palloc0(sizeof(EtlSourceRelation));
	JsonbContainer *columns = schema == NULL ? NULL :
											   container(schema, "columns");
	int natts;

	if (columns == NULL || source == NULL || !JsonContainerIsArray(columns))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg(
					 "the payload of the dead letter does not describe its source")));
	natts = (int) JsonContainerSize(columns);
	relation->number = FIRST_NUMBER + number++ % (PG_UINT32_MAX / 64);
	relation->schema = text_of(source, "schema");
	relation->name = text_of(source, "table");
	relation->identity = text_of(schema, "identity")[0];
	relation->desc = CreateTemplateTupleDesc(natts);
	relation->is_key = palloc0(sizeof(bool) * Max(natts, 1));
	for (int i = 0; i < natts; i++)
	{
		JsonbValue *item = getIthJsonbValueFromContainer(columns, (uint32) i);
		JsonbContainer *column = item->val.binary.data;
		JsonbValue *is_key;
		Oid type;
		int32 typmod;

		if (item->type != jbvBinary)
			elog(ERROR, "payload of a dead letter has no column %d", i + 1);
		is_key = member(column, "key");
		etl_parse_type(text_of(column, "type"), &type, &typmod);
		TupleDescInitEntry(relation->desc, (AttrNumber) (i + 1),
						   text_of(column, "name"), type, typmod, 0);
		relation->is_key[i] = is_key != NULL && is_key->type == jbvBool &&
							  is_key->val.boolean;
	}
	return relation;
}

/* A row; NULL if there is no object.  What the object lacks is null. */
static HeapTuple
read_row(TupleDesc desc, JsonbValue *object)
{
	Datum *values = palloc0(sizeof(Datum) * (desc->natts + 1));
	bool *nulls = palloc(sizeof(bool) * (desc->natts + 1));
	HeapTupleData row = {0};
	TupleDesc blessed;
	FmgrInfo populate;
	Datum result;
	int level;

	if (object == NULL || object->type != jbvBinary)
		return NULL;
	blessed = BlessTupleDesc(CreateTupleDescCopy(desc));
	memset(nulls, true, sizeof(bool) * (desc->natts + 1));
	fmgr_info(F_JSONB_POPULATE_RECORD, &populate);
	fmgr_info_set_expr((Node *)
						   makeFuncExpr(F_JSONB_POPULATE_RECORD, RECORDOID,
										list_make2(makeNullConst(RECORDOID, -1,
																 InvalidOid),
												   makeNullConst(JSONBOID, -1,
																 InvalidOid)),
										InvalidOid, InvalidOid,
										COERCE_EXPLICIT_CALL),
					   &populate);
	level = etl_plain_text_enter();
	result = FunctionCall2(&populate,
						   HeapTupleGetDatum(
							   heap_form_tuple(blessed, values, nulls)),
						   JsonbPGetDatum(JsonbValueToJsonb(object)));
	etl_plain_text_leave(level);

	row.t_data = DatumGetHeapTupleHeader(result);
	row.t_len = HeapTupleHeaderGetDatumLength(row.t_data);
	heap_deform_tuple(&row, blessed, values, nulls);
	return heap_form_tuple(desc, values, nulls);
}

/* Which values were not logged; NULL if all were. */
static bool *
read_unchanged(TupleDesc desc, JsonbContainer *source)
{
	JsonbContainer *names = container(source, "unchanged");
	bool *unchanged;

	if (names == NULL || !JsonContainerIsArray(names))
		return NULL;
	unchanged = palloc0(sizeof(bool) * (desc->natts + 1));
	for (uint32 i = 0; i < JsonContainerSize(names); i++)
	{
		JsonbValue *name = getIthJsonbValueFromContainer(names, i);

		for (int j = 0; name->type == jbvString && j < desc->natts; j++)
		{
			const char *column = NameStr(TupleDescAttr(desc, j)->attname);

			if (strlen(column) == (size_t) name->val.string.len &&
				memcmp(column, name->val.string.val, strlen(column)) == 0)
				unchanged[j] = true;
		}
	}
	return unchanged;
}

/* ------------------------------------------------------------------ */
/* parts of a payload                                                   */

static JsonbValue *
member(JsonbContainer *object, const char *name)
{
	if (!JsonContainerIsObject(object))
		return NULL;
	return getKeyJsonValueFromContainer(object, name, (int) strlen(name), NULL);
}

/* A member that is an object or an array, or NULL. */
static JsonbContainer *
container(JsonbContainer *object, const char *name)
{
	JsonbValue *value = member(object, name);

	return value == NULL || value->type != jbvBinary ? NULL :
													   value->val.binary.data;
}

/* A member that is a string, which must be there. */
static char *
text_of(JsonbContainer *object, const char *name)
{
	JsonbValue *value = member(object, name);

	if (value == NULL || value->type != jbvString)
		elog(ERROR, "payload of a dead letter has no text \"%s\"", name);
	return pnstrdup(value->val.string.val, value->val.string.len);
}

/* A member that is a number; 0 if it is null or not there. */
static int64
int64_of(JsonbContainer *object, const char *name)
{
	JsonbValue *value = member(object, name);

	if (value == NULL || value->type != jbvNumeric)
		return 0;
	return DatumGetInt64(
		DirectFunctionCall1(numeric_int8, NumericGetDatum(value->val.numeric)));
}
