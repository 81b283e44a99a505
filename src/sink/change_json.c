/*-------------------------------------------------------------------------
 *
 * change_json.c
 *	  Values as JSON that turns back into the same values.
 *
 * Numbers are JSON numbers with all their digits; NaN and infinity are
 * strings.  Times are strings in ISO form, those with a time zone in UTC.
 * Bytes are strings in hex form.  Composite values are objects, arrays are
 * arrays; json and jsonb are what they say.  Everything else is a string, as
 * the type writes it.  jsonb_populate_record() makes the same values of it,
 * with any settings.  So arrays whose structure JSON could not tell are strings,
 * too: with lower bounds other than 1, and of JSON or of domains over arrays.
 *
 * None of it depends on settings of the session.  Most types are written here
 * or by functions that look at none; for the others the settings are changed
 * while a row is written, which costs, so that it is done for the first such
 * value of a row.
 *
 * Takes no locks but on the types of composite values.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/change_json.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/typcache.h"

/* How a type is written. */
typedef enum JsonKind
{
	KIND_BOOL,
	KIND_INTEGER, /* of typlen bytes */
	KIND_NUMERIC,
	KIND_FLOAT4,
	KIND_FLOAT8,
	KIND_TIME, /* dates and times */
	KIND_BYTEA,
	KIND_JSON,
	KIND_JSONB,
	KIND_OUTPUT, /* by its function, which looks at no setting */
	KIND_PLAIN,	 /* by its function, under plain settings */
	KIND_ARRAY,
	KIND_COMPOSITE
} JsonKind;

typedef struct JsonType
{
	Oid type; /* no domain */
	JsonKind kind;
	int16 typlen;
	bool typbyval;
	char typalign;
	FmgrInfo output;
	struct JsonType *element; /* of an array */

	/* of a composite value */
	MemoryContext context; /* that holds this */
	TupleDesc desc;		   /* for which the next is */
	EtlJsonRow *row;
} JsonType;

struct EtlJsonRow
{
	TupleDesc desc;
	JsonType **types; /* NULL: dropped */
};

/* The level of plain settings, or 0. */
static int plain_level = 0;

static JsonType *make_type(Oid typid);
static void set_kind(JsonType *type);
static bool looks_at_settings(Oid typid);
static void push(JsonbParseState **state, JsonbIteratorToken as,
				 JsonbValue *value);
static void push_string(JsonbParseState **state, JsonbIteratorToken as,
						const char *text);
static void push_value(JsonbParseState **state, JsonbIteratorToken as,
					   JsonType *type, Datum value, bool isnull);
static void push_numeric(JsonbParseState **state, JsonbIteratorToken as,
						 Numeric number);
static void push_float(JsonbParseState **state, JsonbIteratorToken as,
					   const char *text, bool is_finite);
static void push_bytea(JsonbParseState **state, JsonbIteratorToken as,
					   bytea *bytes);
static void push_json(JsonbParseState **state, JsonbIteratorToken as,
					  char *text);
static void push_output(JsonbParseState **state, JsonbIteratorToken as,
						JsonType *type, Datum value);
static bool is_plain_array(const JsonType *type, const ArrayType *array);
static void push_array(JsonbParseState **state, JsonType *type,
					   ArrayType *array);
static void push_dimension(JsonbParseState **state, JsonType *element,
						   const int *dims, int ndims, Datum *values,
						   bool *nulls, int *next);
static void push_composite(JsonbParseState **state, JsonType *type,
						   HeapTupleHeader header);

/* ------------------------------------------------------------------ */
/* types                                                                */

/* How the columns of rows become JSON, in the current memory context. */
EtlJsonRow *
etl_json_row_create(TupleDesc desc)
{
	EtlJsonRow *row = palloc0(sizeof(EtlJsonRow));

	row->desc = CreateTupleDescCopy(desc);
	row->types = palloc0(sizeof(JsonType *) * (desc->natts + 1));
	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped)
			row->types[i] = make_type(TupleDescAttr(desc, i)->atttypid);
	return row;
}

static JsonType *
make_type(Oid typid)
{
	JsonType *type = palloc0(sizeof(JsonType));

	check_stack_depth();
	type->type = getBaseType(typid);
	type->context = CurrentMemoryContext;
	get_typlenbyvalalign(type->type, &type->typlen, &type->typbyval,
						 &type->typalign);
	set_kind(type);
	if (type->kind == KIND_ARRAY)
		type->element = make_type(get_element_type(type->type));
	if (type->kind != KIND_COMPOSITE)
	{
		Oid output;
		bool is_varlena;

		getTypeOutputInfo(type->type, &output, &is_varlena);
		fmgr_info(output, &type->output);
	}
	return type;
}

static void
set_kind(JsonType *type)
{
	switch (type->type)
	{
		case BOOLOID:
			type->kind = KIND_BOOL;
			break;
		case INT2OID:
		case INT4OID:
		case INT8OID:
			type->kind = KIND_INTEGER;
			break;
		case NUMERICOID:
			type->kind = KIND_NUMERIC;
			break;
		case FLOAT4OID:
			type->kind = KIND_FLOAT4;
			break;
		case FLOAT8OID:
			type->kind = KIND_FLOAT8;
			break;
		case DATEOID:
		case TIMEOID:
		case TIMETZOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			type->kind = KIND_TIME;
			break;
		case BYTEAOID:
			type->kind = KIND_BYTEA;
			break;
		case JSONOID:
			type->kind = KIND_JSON;
			break;
		case JSONBOID:
			type->kind = KIND_JSONB;
			break;
		default:
			if (type_is_rowtype(type->type))
				type->kind = KIND_COMPOSITE;
			else if (OidIsValid(get_element_type(type->type)))
				type->kind = KIND_ARRAY;
			else
				type->kind = looks_at_settings(type->type) ? KIND_PLAIN :
															 KIND_OUTPUT;
	}
}

/* May the output function of a type look at settings?  Of few is it known. */
static bool
looks_at_settings(Oid typid)
{
	switch (typid)
	{
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case NAMEOID:
		case CHAROID:
		case UUIDOID:
		case OIDOID:
		case XIDOID:
		case XID8OID:
		case INETOID:
		case CIDROID:
		case MACADDROID:
		case BITOID:
		case VARBITOID:
		case TSVECTOROID:
		case PG_LSNOID:
			return false;
		default:
			return get_typtype(typid) != TYPTYPE_ENUM;
	}
}

/* ------------------------------------------------------------------ */
/* rows                                                                 */

/*
 * Around the values of a row: nothing else is to run between the two than
 * what is here.
 */
void
etl_json_row_begin(void)
{
	plain_level = 0;
}

void
etl_json_row_end(void)
{
	if (plain_level != 0)
		etl_plain_text_leave(plain_level);
	plain_level = 0;
}

/* The value of a column, after its key. */
void
etl_json_push_column(JsonbParseState **state, EtlJsonRow *row, int column,
					 Datum value, bool isnull)
{
	push_value(state, WJB_VALUE, row->types[column], value, isnull);
}

/* Parts of objects that are not values of columns. */
void
etl_json_push_key(JsonbParseState **state, const char *key)
{
	push_string(state, WJB_KEY, key);
}

void
etl_json_push_text(JsonbParseState **state, const char *text)
{
	push_string(state, WJB_VALUE, text);
}

void
etl_json_push_int64(JsonbParseState **state, int64 number)
{
	push_numeric(state, WJB_VALUE, int64_to_numeric(number));
}

void
etl_json_push_null(JsonbParseState **state)
{
	JsonbValue value = {.type = jbvNull};

	push(state, WJB_VALUE, &value);
}

/* What is JSON already, as a value or an element. */
void
etl_json_push_jsonb(JsonbParseState **state, JsonbIteratorToken as, Jsonb *jsonb)
{
	JsonbValue value;

	if (!JB_ROOT_IS_SCALAR(jsonb) || !JsonbExtractScalar(&jsonb->root, &value))
	{
		value.type = jbvBinary;
		value.val.binary.data = &jsonb->root;
		value.val.binary.len = (int) (VARSIZE(jsonb) - VARHDRSZ);
	}
	push(state, as, &value);
}

/* ------------------------------------------------------------------ */
/* values                                                               */

static void
push(JsonbParseState **state, JsonbIteratorToken as, JsonbValue *value)
{
	(void) pushJsonbValue(state, as, value);
}

/* The string must live as long as the state. */
static void
push_string(JsonbParseState **state, JsonbIteratorToken as, const char *text)
{
	JsonbValue value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, text);
	value.val.string.len = (int) strlen(text);
	push(state, as, &value);
}

static void
push_value(JsonbParseState **state, JsonbIteratorToken as, JsonType *type,
		   Datum value, bool isnull)
{
	JsonbValue item;

	if (isnull)
	{
		item.type = jbvNull;
		push(state, as, &item);
		return;
	}
	switch (type->kind)
	{
		case KIND_BOOL:
			item.type = jbvBool;
			item.val.boolean = DatumGetBool(value);
			push(state, as, &item);
			break;
		case KIND_INTEGER:
			push_numeric(state, as,
						 int64_to_numeric(
							 type->typlen == 2 ? DatumGetInt16(value) :
							 type->typlen == 4 ? DatumGetInt32(value) :
												 DatumGetInt64(value)));
			break;
		case KIND_NUMERIC:
			push_numeric(state, as, DatumGetNumeric(value));
			break;
		case KIND_FLOAT4:
		{
			char text[FLOAT_SHORTEST_DECIMAL_LEN];

			float_to_shortest_decimal_buf(DatumGetFloat4(value), text);
			push_float(state, as, text, isfinite(DatumGetFloat4(value)));
			break;
		}
		case KIND_FLOAT8:
		{
			char text[DOUBLE_SHORTEST_DECIMAL_LEN];

			double_to_shortest_decimal_buf(DatumGetFloat8(value), text);
			push_float(state, as, text, isfinite(DatumGetFloat8(value)));
			break;
		}
		case KIND_TIME:
		{
			char text[MAXDATELEN + 1];
			int utc = 0;

			JsonEncodeDateTime(text, value, type->type, &utc);
			push_string(state, as, pstrdup(text));
			break;
		}
		case KIND_BYTEA:
			push_bytea(state, as, DatumGetByteaPP(value));
			break;
		case KIND_JSON:
			push_json(state, as, TextDatumGetCString(value));
			break;
		case KIND_JSONB:
			etl_json_push_jsonb(state, as, DatumGetJsonbP(value));
			break;
		case KIND_OUTPUT:
			push_string(state, as, OutputFunctionCall(&type->output, value));
			break;
		case KIND_PLAIN:
			push_output(state, as, type, value);
			break;
		case KIND_ARRAY:
			if (is_plain_array(type, DatumGetArrayTypeP(value)))
				push_array(state, type, DatumGetArrayTypeP(value));
			else
				push_output(state, as, type, value);
			break;
		case KIND_COMPOSITE:
			push_composite(state, type, DatumGetHeapTupleHeader(value));
			break;
	}
}

/* JSON has no numbers that are none. */
static void
push_numeric(JsonbParseState **state, JsonbIteratorToken as, Numeric number)
{
	JsonbValue item;

	if (numeric_is_nan(number) || numeric_is_inf(number))
	{
		push_string(state, as,
					DatumGetCString(
						DirectFunctionCall1(numeric_out,
											NumericGetDatum(number))));
		return;
	}
	item.type = jbvNumeric;
	item.val.numeric = number;
	push(state, as, &item);
}

/* The text is the shortest that is read as the same number. */
static void
push_float(JsonbParseState **state, JsonbIteratorToken as, const char *text,
		   bool is_finite)
{
	if (!is_finite)
		push_string(state, as, pstrdup(text));
	else
		push_numeric(state, as,
					 DatumGetNumeric(
						 DirectFunctionCall3(numeric_in, CStringGetDatum(text),
											 ObjectIdGetDatum(InvalidOid),
											 Int32GetDatum(-1))));
}

static void
push_bytea(JsonbParseState **state, JsonbIteratorToken as, bytea *bytes)
{
	Size len = VARSIZE_ANY_EXHDR(bytes);
	char *text = palloc(2 + len * 2 + 1);

	text[0] = '\\';
	text[1] = 'x';
	text[2 + hex_encode(VARDATA_ANY(bytes), len, text + 2)] = '\0';
	push_string(state, as, text);
}

/* What jsonb cannot hold, a zero byte in a string, stays text. */
static void
push_json(JsonbParseState **state, JsonbIteratorToken as, char *text)
{
	if (strstr(text, "\\u0000") != NULL)
		push_string(state, as, text);
	else
		etl_json_push_jsonb(state, as,
							DatumGetJsonbP(
								DirectFunctionCall1(jsonb_in,
													CStringGetDatum(text))));
}

/* As the type writes it, in a way that means the same everywhere. */
static void
push_output(JsonbParseState **state, JsonbIteratorToken as, JsonType *type,
			Datum value)
{
	if (plain_level == 0)
	{
		plain_level = etl_plain_text_enter();
		(void) set_config_option("search_path", "pg_catalog", PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	}
	push_string(state, as, OutputFunctionCall(&type->output, value));
}

/* ------------------------------------------------------------------ */
/* values of values                                                     */

/* Will JSON tell where the array's elements begin, and all its bounds? */
static bool
is_plain_array(const JsonType *type, const ArrayType *array)
{
	if (type->element->kind == KIND_JSON || type->element->kind == KIND_JSONB ||
		type->element->kind == KIND_ARRAY)
		return false;
	for (int i = 0; i < ARR_NDIM(array); i++)
		if (ARR_LBOUND(array)[i] != 1)
			return false;
	return true;
}

static void
push_array(JsonbParseState **state, JsonType *type, ArrayType *array)
{
	JsonType *element = type->element;
	Datum *values;
	bool *nulls;
	int n;
	int next = 0;

	deconstruct_array(array, ARR_ELEMTYPE(array), element->typlen,
					  element->typbyval, element->typalign, &values, &nulls, &n);
	if (n == 0)
	{
		(void) pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
		(void) pushJsonbValue(state, WJB_END_ARRAY, NULL);
		return;
	}
	push_dimension(state, element, ARR_DIMS(array), ARR_NDIM(array), values,
				   nulls, &next);
}

static void
push_dimension(JsonbParseState **state, JsonType *element, const int *dims,
			   int ndims, Datum *values, bool *nulls, int *next)
{
	(void) pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < dims[0]; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (ndims > 1)
			push_dimension(state, element, dims + 1, ndims - 1, values, nulls,
						   next);
		else
		{
			push_value(state, WJB_ELEM, element, values[*next], nulls[*next]);
			(*next)++;
		}
	}
	(void) pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

static void
push_composite(JsonbParseState **state, JsonType *type, HeapTupleHeader header)
{
	TupleDesc desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header),
											HeapTupleHeaderGetTypMod(header));
	HeapTupleData tuple = {0};
	Datum *values = palloc(sizeof(Datum) * (desc->natts + 1));
	bool *nulls = palloc(sizeof(bool) * (desc->natts + 1));

	check_stack_depth();
	if (type->row == NULL || !equalTupleDescs(type->row->desc, desc))
	{
		MemoryContext context = MemoryContextSwitchTo(type->context);

		type->row = etl_json_row_create(desc);
		MemoryContextSwitchTo(context);
	}
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	tuple.t_data = header;
	heap_deform_tuple(&tuple, desc, values, nulls);
	(void) pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < desc->natts; i++)
	{
		if (TupleDescAttr(desc, i)->attisdropped)
			continue;
		push_string(state, WJB_KEY,
					pstrdup(NameStr(TupleDescAttr(desc, i)->attname)));
		push_value(state, WJB_VALUE, type->row->types[i], values[i], nulls[i]);
	}
	(void) pushJsonbValue(state, WJB_END_OBJECT, NULL);
	ReleaseTupleDesc(desc);
}
