/*-------------------------------------------------------------------------
 *
 * convert.c
 *	  Turns the fields of one record into Datums, without throwing.
 *
 * A row is accepted, and its values are, exactly as COPY would have it; a
 * refused row gets the error that COPY would have raised for it, as an
 * EtlReject.  Two ways lead there:
 *
 *	- The common types have a converter of their own (convert_number.c,
 *	  convert_datetime.c, convert_text.c, convert_json.c).  It accepts only plain input, whose
 *	  value is beyond doubt, gives what the type's input function would give
 *	  bit for bit, and never throws.  It never refuses either: what it does
 *	  not know for certain goes the second way.
 *	- The type's input function, run under a guard (see base/guard.c) that all
 *	  rows of a batch share.  Its error becomes the reject, so that the text
 *	  is the server's own.  Types without a converter, domains among them, take
 *	  this way always.  PostgreSQL 16 and later report most of these errors
 *	  without throwing, which saves the rollback; the guard stays for those
 *	  that are thrown.
 *
 * Order of errors in a row, as in COPY: too many fields; then column by
 * column from the left, conversion or a missing field.
 *
 * Invariants:
 *	- By-reference values live in the memory context that is current during
 *	  etl_convert(), and survive the rollback of the guard's subtransaction.
 *	- After a rollback what the input function had cached is thrown away: it
 *	  may be half-made.
 *	- The guard may be open when etl_convert() returns.  Rows must not be
 *	  written before etl_converter_end_batch().
 *
 *-------------------------------------------------------------------------
 */
#include "source/convert_types.h"

#include "catalog/pg_type_d.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* Bounds of the memory taken at once for the values of one row. */
#define MIN_ARENA_CHUNK 256
#define MAX_ARENA_CHUNK 8192

struct EtlConverter
{
	MemoryContext context; /* holds the converter */
	int nfields;
	EtlColumnConverter *columns; /* one for each field of a record */
	EtlRowArena arena;
	EtlGuard guard;
};

/* What one guarded call of an input function needs and gives. */
typedef struct InputCall
{
	EtlColumnConverter *column;
	char *string;
	Datum value;
	ErrorData *error; /* that was not thrown, or NULL */
} InputCall;

static void init_column(EtlConverter *converter, EtlColumnConverter *column,
						Form_pg_attribute att);
static bool convert_guarded(EtlConverter *converter, EtlColumnConverter *column,
							const EtlField *field, Datum *value,
							EtlReject *reject);
static void call_input_function(void *arg);
static void prepare_input_function(MemoryContext parent,
								   EtlColumnConverter *column);
static bool has_extra_field(const EtlConverter *converter,
							const EtlField *fields, int nfields);
static bool reject_structure(EtlReject *reject, const char *message,
							 const char *column_name);

/*
 * A converter for records of nfields fields, the i-th of which is the column
 * attnums[i] of desc; an invalid attribute number means that the field is
 * ignored.  Lives, with all that it allocates, as long as the current memory
 * context; desc is not needed any more.
 */
EtlConverter *
etl_converter_create(TupleDesc desc, const AttrNumber *attnums, int nfields)
{
	MemoryContext context;
	MemoryContext caller_context;
	EtlConverter *converter;

	context = AllocSetContextCreate(CurrentMemoryContext, "etl converter",
									ALLOCSET_DEFAULT_SIZES);
	caller_context = MemoryContextSwitchTo(context);

	converter = palloc0(sizeof(EtlConverter));
	converter->context = context;
	converter->nfields = nfields;
	converter->columns = palloc0(Max(nfields, 1) * sizeof(EtlColumnConverter));
	converter->arena.chunk_size = MIN_ARENA_CHUNK;

	for (int i = 0; i < nfields; i++)
	{
		if (attnums[i] == InvalidAttrNumber)
			continue;
		if (attnums[i] < 1 || attnums[i] > desc->natts ||
			TupleDescAttr(desc, attnums[i] - 1)->attisdropped)
			elog(ERROR, "invalid attribute number %d", attnums[i]);
		init_column(converter, &converter->columns[i],
					TupleDescAttr(desc, attnums[i] - 1));
	}

	MemoryContextSwitchTo(caller_context);
	return converter;
}

/* Looks up how the column's values are read. */
static void
init_column(EtlConverter *converter, EtlColumnConverter *column,
			Form_pg_attribute att)
{
	etl_column_init_fast(column, att);
	column->name = pstrdup(NameStr(att->attname));
	column->arena = &converter->arena;
	getTypeInputInfo(att->atttypid, &column->type_input, &column->type_ioparam);
	column->strict = func_strict(column->type_input);
}

/*
 * Finds the type's own converter, if it has one, and reads its typmod.  Looks
 * at no catalog.
 */
void
etl_column_init_fast(EtlColumnConverter *column, Form_pg_attribute att)
{
	static const struct
	{
		Oid type;
		EtlFastConverter fast;
		EtlFastWriter write;
	} fast_converters[] = {
		{INT2OID, etl_convert_int2, NULL},
		{INT4OID, etl_convert_int4, NULL},
		{INT8OID, etl_convert_int8, NULL},
		{FLOAT4OID, etl_convert_float4, NULL},
		{FLOAT8OID, etl_convert_float8, NULL},
		{NUMERICOID, etl_convert_numeric, etl_write_numeric},
		{BOOLOID, etl_convert_bool, NULL},
		{DATEOID, etl_convert_date, NULL},
		{TIMEOID, etl_convert_time, NULL},
		{TIMESTAMPOID, etl_convert_timestamp, NULL},
		{TIMESTAMPTZOID, etl_convert_timestamptz, NULL},
		{TEXTOID, etl_convert_text, etl_write_text},
		{VARCHAROID, etl_convert_varchar, etl_write_varchar},
		{BPCHAROID, etl_convert_bpchar, etl_write_bpchar},
		{BYTEAOID, etl_convert_bytea, NULL},
		{UUIDOID, etl_convert_uuid, NULL},
		{JSONOID, etl_convert_json, NULL},
		{JSONBOID, etl_convert_jsonb, NULL},
	};

	column->attnum = att->attnum;
	column->typmod = att->atttypmod;
	column->precision = -1;
	column->scale = -1;
	column->max_chars = -1;
	column->fast = NULL;
	column->write = NULL;
	for (size_t i = 0; i < lengthof(fast_converters); i++)
	{
		if (fast_converters[i].type != att->atttypid)
			continue;
		column->fast = fast_converters[i].fast;
		if (att->attstorage != TYPSTORAGE_PLAIN)
			column->write = fast_converters[i].write;
	}

	switch (att->atttypid)
	{
		case NUMERICOID:
			etl_numeric_typmod(column);
			break;
		case VARCHAROID:
		case BPCHAROID:
			if (column->typmod >= (int32) VARHDRSZ)
				column->max_chars = column->typmod - VARHDRSZ;
			break;
		case TIMEOID:
		case TIMESTAMPOID:
			column->scale = column->typmod;
			break;
		case TIMESTAMPTZOID:
			column->scale = column->typmod;
			column->zulu = etl_zulu_is_utc();
			break;
		default:
			break;
	}
}

/*
 * Converts one record.  Sets values[] and isnull[], indexed by attribute
 * number - 1, of the columns that the record has; the others are left alone.
 * Returns false if the row is at fault, and says why in *reject, whose strings
 * live as long as the fields and the current memory context; some of values[]
 * may then be set.
 */
bool
etl_convert(EtlConverter *converter, const EtlField *fields, int nfields,
			Datum *values, bool *isnull, EtlReject *reject)
{
	EtlRowArena *arena = &converter->arena;

	if (has_extra_field(converter, fields, nfields))
		return reject_structure(reject, "extra data after last expected column",
								NULL);

	arena->next = NULL;
	arena->left = 0;
	arena->used = 0;

	for (int i = 0; i < converter->nfields; i++)
	{
		EtlColumnConverter *column = &converter->columns[i];
		const EtlField *field = &fields[i];
		int index = column->attnum - 1;

		if (i >= nfields)
			return reject_structure(reject,
									column->name ?
										psprintf("missing data for column \"%s\"",
												 column->name) :
										psprintf("missing data for field %d",
												 i + 1),
									column->name);
		if (column->attnum == InvalidAttrNumber)
			continue;

		isnull[index] = (field->data == NULL);
		if (field->data == NULL && column->strict)
			values[index] = (Datum) 0;
		else if ((field->data == NULL || column->fast == NULL ||
				  !column->fast(column, field, &values[index])) &&
				 !convert_guarded(converter, column, field, &values[index],
								  reject))
			return false;
	}
	return true;
}

/*
 * Ends the subtransaction that the batch's input functions ran in, if there
 * was one.  To be called before the rows are written, before another file is
 * opened, and at the end.
 */
void
etl_converter_end_batch(EtlConverter *converter)
{
	etl_guard_release(&converter->guard);
}

/* Frees the converter; its batch must be ended. */
void
etl_converter_free(EtlConverter *converter)
{
	MemoryContextDelete(converter->context);
}

/*
 * Runs the input function.  Its error, unless it is none of the row's, is
 * described in *reject.
 */
static bool
convert_guarded(EtlConverter *converter, EtlColumnConverter *column,
				const EtlField *field, Datum *value, EtlReject *reject)
{
	InputCall call;
	ErrorData *edata;

	if (column->io_context == NULL)
		prepare_input_function(converter->context, column);

	call.column = column;
	call.string = field->data;
	call.value = (Datum) 0;
	call.error = NULL;
	if (!etl_guard_call(&converter->guard, call_input_function, &call, &edata))
	{
		MemoryContextDelete(column->io_context);
		column->io_context = NULL;
	}
	else if (call.error != NULL)
		edata = call.error;
	else
	{
		*value = call.value;
		return true;
	}

	etl_reject_from_error(reject, edata);
	if (reject->category == ETL_CATEGORY_OTHER)
		reject->category = ETL_CATEGORY_TYPE;
	reject->column_name = column->name;
	reject->field_value = field->data;
	return false;
}

/* The guarded part: what COPY does with a field. */
static void
call_input_function(void *arg)
{
	InputCall *call = arg;
	EtlColumnConverter *column = call->column;

	call->error = etl_call_input(&column->io_function, call->string,
								 column->type_ioparam, column->typmod,
								 &call->value);
}

/*
 * Looks up the input function, with a memory context for what it caches from
 * call to call, so that nothing is left of it when it must start afresh.
 */
static void
prepare_input_function(MemoryContext parent, EtlColumnConverter *column)
{
	MemoryContext context;

	context = AllocSetContextCreate(parent, "etl input function",
									ALLOCSET_SMALL_SIZES);
	fmgr_info_cxt(column->type_input, &column->io_function, context);
	column->io_context = context;
}

/*
 * Does the record have more fields than columns?  An empty line has one empty
 * field, which is what a table without columns expects.
 */
static bool
has_extra_field(const EtlConverter *converter, const EtlField *fields,
				int nfields)
{
	if (nfields <= converter->nfields)
		return false;
	return !(converter->nfields == 0 && nfields == 1 && !fields[0].quoted &&
			 (fields[0].data == NULL || fields[0].len == 0));
}

/* Describes a wrong number of fields; always false. */
static bool
reject_structure(EtlReject *reject, const char *message, const char *column_name)
{
	reject->category = ETL_CATEGORY_STRUCTURE;
	reject->sqlerrcode = ERRCODE_BAD_COPY_FILE_FORMAT;
	reject->message = message;
	reject->detail = NULL;
	reject->column_name = column_name;
	reject->field_value = NULL;
	return false;
}

/*
 * Takes another piece of the current memory context for the values of this
 * row.  The next row starts with as much as this one needed.
 */
void *
etl_row_alloc_chunk(EtlRowArena *arena, size_t size)
{
	char *chunk;

	arena->used += size;
	while (arena->chunk_size < arena->used && arena->chunk_size < MAX_ARENA_CHUNK)
		arena->chunk_size *= 2;

	if (size > arena->chunk_size / 2)
		return palloc(size);

	chunk = palloc(arena->chunk_size);
	arena->next = chunk + size;
	arena->left = arena->chunk_size - size;
	return chunk;
}
