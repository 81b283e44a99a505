/*-------------------------------------------------------------------------
 *
 * infer.c
 *	  etl_csv_infer(), etl_create_table_from_csv(): which types a file holds.
 *
 * A column gets the first type of a list that every value of the sample can
 * be loaded into.  Whether it can is asked of the converters that will load
 * it, plus a test of form: an input function may accept more than a person
 * would call a value of the type, and drop what does not fit it, as date's
 * does with the time of day.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/varlena.h"

#include "flow/flow.h"

PG_FUNCTION_INFO_V1(etl_csv_infer);
PG_FUNCTION_INFO_V1(etl_create_table_from_csv);

/* The parameters, counted from the first that both functions have. */
enum
{
	ARG_SOURCE,
	ARG_FORMAT,
	ARG_SAMPLE_ROWS = ARG_FORMAT + ETL_FORMAT_ARGS
};

/* An example is cut after so many bytes. */
#define MAX_EXAMPLE_LEN 60

/* Does a value look like one of the type, whatever the input function says? */
typedef bool (*FormTest)(const EtlField *field);

typedef struct Candidate
{
	Oid type;
	const char *name;
	FormTest looks_right;
} Candidate;

static bool is_number(const EtlField *field);
static bool is_word(const EtlField *field);
static bool is_date(const EtlField *field);
static bool is_local_time(const EtlField *field);
static bool is_zoned_time(const EtlField *field);

/* In order of preference; what fits none of them is text. */
static const Candidate candidates[] = {
	{INT4OID, "integer", is_number},
	{INT8OID, "bigint", is_number},
	{NUMERICOID, "numeric", is_number},
	{BOOLOID, "boolean", is_word},
	{DATEOID, "date", is_date},
	{TIMESTAMPOID, "timestamp without time zone", is_local_time},
	{TIMESTAMPTZOID, "timestamp with time zone", is_zoned_time},
	{UUIDOID, "uuid", NULL},
};

#define NUM_CANDIDATES ((int) lengthof(candidates))
#define ALL_CANDIDATES ((1 << NUM_CANDIDATES) - 1)

/* What is known of one column of the file. */
typedef struct Column
{
	const char *name;
	uint32 possible; /* bits of candidates[] */
	bool has_null;
	char *example; /* NULL: no value seen */
} Column;

typedef struct Inference
{
	EtlCsvReader *reader;
	EtlConverter *converters[lengthof(candidates)];
	Column *columns;
	int ncolumns;
	int64 odd_records;
	MemoryContext context; /* the result's */
	MemoryContext record_context;
} Inference;

/* No leading zeros: they would be lost, and with them what the text means. */
static bool
is_number(const EtlField *field)
{
	const char *p = field->data;

	if (*p == '-' || *p == '+')
		p++;
	if (p[0] == '0' && isdigit((unsigned char) p[1]))
		return false;
	return isdigit((unsigned char) *p) ||
		   (*p == '.' && isdigit((unsigned char) p[1]));
}

static bool
is_word(const EtlField *field)
{
	return isalpha((unsigned char) field->data[0]);
}

/* A digit first, so that "today" is not a date; no time of day. */
static bool
is_date(const EtlField *field)
{
	return isdigit((unsigned char) field->data[0]) &&
		   strchr(field->data, ':') == NULL;
}

/* Does something that says how far from UTC follow the time of day? */
static bool
has_zone(const EtlField *field)
{
	const char *time = strchr(field->data, ':');

	return time != NULL && strpbrk(time, "+-Zz") != NULL;
}

static bool
is_local_time(const EtlField *field)
{
	return isdigit((unsigned char) field->data[0]) && !has_zone(field);
}

static bool
is_zoned_time(const EtlField *field)
{
	return isdigit((unsigned char) field->data[0]) && has_zone(field);
}

/* One converter per candidate type, each for a record of one field. */
static void
create_converters(Inference *inference)
{
	static const AttrNumber attnum = 1;

	for (int i = 0; i < NUM_CANDIDATES; i++)
	{
		TupleDesc desc = CreateTemplateTupleDesc(1);

		TupleDescInitEntry(desc, 1, "value", candidates[i].type, -1, 0);
		inference->converters[i] = etl_converter_create(desc, &attnum, 1);
	}
}

/* Strike the types that a value cannot be loaded into. */
static void
look_at_value(Inference *inference, Column *column, const EtlField *field)
{
	if (field->data == NULL)
	{
		column->has_null = true;
		return;
	}
	if (column->example == NULL)
		column->example =
			MemoryContextStrdup(inference->context,
								pnstrdup(field->data,
										 pg_mbcliplen(field->data, field->len,
													  MAX_EXAMPLE_LEN)));
	for (int i = 0; i < NUM_CANDIDATES; i++)
	{
		EtlReject reject = {0};
		Datum value;
		bool null;

		if ((column->possible & (1 << i)) == 0)
			continue;
		if ((candidates[i].looks_right != NULL &&
			 !candidates[i].looks_right(field)) ||
			!etl_convert(inference->converters[i], field, 1, &value, &null,
						 &reject))
			column->possible &= ~(1 << i);
		etl_converter_end_batch(inference->converters[i]);
	}
}

/* Look at the fields of one record; one of another length counts as odd. */
static void
look_at_record(Inference *inference, const EtlCsvRecord *record)
{
	MemoryContext old_context = MemoryContextSwitchTo(inference->record_context);
	EtlReject reject = {0};
	EtlField *fields;
	int nfields;

	if (etl_csv_split(inference->reader, record, &fields, &nfields, &reject) &&
		nfields == inference->ncolumns)
	{
		for (int i = 0; i < nfields; i++)
			look_at_value(inference, &inference->columns[i], &fields[i]);
	}
	else
		inference->odd_records++;
	MemoryContextSwitchTo(old_context);
	MemoryContextReset(inference->record_context);
}

/* Begin with the columns of the header, or with as many as a record has. */
static void
create_columns(Inference *inference, List *names, int ncolumns)
{
	inference->ncolumns = ncolumns;
	inference->columns = MemoryContextAllocZero(inference->context,
												sizeof(Column) *
													Max(ncolumns, 1));
	for (int i = 0; i < ncolumns; i++)
	{
		Column *column = &inference->columns[i];
		const char *name = names != NIL ? list_nth(names, i) : "";

		column->possible = ALL_CANDIDATES;
		column->name = MemoryContextStrdup(inference->context,
										   name[0] != '\0' ?
											   name :
											   psprintf("column%d", i + 1));
		if (strlen(column->name) >= NAMEDATALEN)
			ereport(ERROR,
					(errcode(ERRCODE_NAME_TOO_LONG),
					 errmsg("column name \"%s\" is too long", column->name),
					 errdetail("A name has at most %d bytes.", NAMEDATALEN - 1),
					 errhint(
						 "Create the table by hand, and load with header => 'skip'.")));
		for (int j = 0; j < i; j++)
			if (strcmp(inference->columns[j].name, column->name) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("column \"%s\" appears more than once in the header",
								column->name)));
	}
}

/* Look at the records of the sample; sample_rows -1 means all. */
static void
look_at_records(Inference *inference, List *names, int64 sample_rows)
{
	EtlCsvRecord record;
	EtlCsvNext next;
	int64 rows = 0;

	if (names != NIL)
		create_columns(inference, names, list_length(names));
	while (rows != sample_rows &&
		   (next = etl_csv_next(inference->reader, &record)) != ETL_CSV_END)
	{
		CHECK_FOR_INTERRUPTS();
		if (next == ETL_CSV_NEED_FILL)
		{
			etl_csv_fill(inference->reader);
			continue;
		}
		if (inference->columns == NULL)
		{
			EtlReject reject = {0};
			EtlField *fields;
			int nfields;

			if (!etl_csv_split(inference->reader, &record, &fields, &nfields,
							   &reject))
				etl_reject_throw(&reject);
			etl_refuse_too_many_fields(nfields);
			create_columns(inference, NIL, nfields);
		}
		look_at_record(inference, &record);
		rows++;
	}
}

typedef struct InferCall
{
	FunctionCallInfo fcinfo;
	int first; /* the argument that is ARG_SOURCE */
	Inference inference;
} InferCall;

/* Read the arguments and look at the first file that they name. */
static void
infer(void *arg)
{
	InferCall *call = arg;
	FunctionCallInfo fcinfo = call->fcinfo;
	int first = call->first;
	Inference *inference = &call->inference;
	int64 sample_rows = -1; /* all */
	EtlFormat format;
	EtlFileInfo info;
	EtlStream *stream;
	List *names;
	List *paths;

	etl_refuse_null(fcinfo, first + ARG_SOURCE, "source");
	etl_format_from_args(&format, fcinfo, first + ARG_FORMAT);
	if (!PG_ARGISNULL(first + ARG_SAMPLE_ROWS))
	{
		sample_rows = PG_GETARG_INT64(first + ARG_SAMPLE_ROWS);
		etl_refuse_negative((double) sample_rows, "sample_rows");
	}
	etl_check_file_privilege(false);
	paths = etl_files_expand(etl_arg_text(fcinfo, first + ARG_SOURCE));

	inference->context = CurrentMemoryContext;
	inference->record_context = AllocSetContextCreate(CurrentMemoryContext,
													  "etl_patterns record",
													  ALLOCSET_DEFAULT_SIZES);
	create_converters(inference);
	etl_file_stat(linitial(paths), &info);
	stream = etl_stream_open_file(&info, format.compression);
	inference->reader = etl_format_open(&format, stream, &names);
	look_at_records(inference, names, sample_rows);
	etl_csv_close(inference->reader);
	etl_stream_close(stream, NULL);

	if (inference->columns == NULL)
		ereport(ERROR, (errcode(ERRCODE_NO_DATA),
						errmsg("file \"%s\" holds no records", info.path)));
	if (inference->odd_records > 0)
		ereport(NOTICE,
				(errmsg_plural("%lld record was left out, because it is broken or does not have %d fields",
							   "%lld records were left out, because they are broken or do not have %d fields",
							   (unsigned long) inference->odd_records,
							   (long long) inference->odd_records,
							   inference->ncolumns)));
}

/* The type of a column: text if it has no values, or none that fit. */
static const char *
column_type(const Column *column)
{
	for (int i = 0; column->example != NULL && i < NUM_CANDIDATES; i++)
		if (column->possible & (1 << i))
			return candidates[i].name;
	return "text";
}

/* etl_csv_infer(source, ...): one row per column of the file. */
Datum
etl_csv_infer(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	InferCall call = {.fcinfo = fcinfo};

	etl_guard_scope(infer, &call);
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < call.inference.ncolumns; i++)
	{
		Column *column = &call.inference.columns[i];
		Datum values[4] = {0};
		bool nulls[4] = {0};

		values[0] = CStringGetTextDatum(column->name);
		values[1] = CStringGetTextDatum(column_type(column));
		values[2] = BoolGetDatum(column->has_null || column->example == NULL);
		etl_ledger_set_text(&values[3], &nulls[3], column->example);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * etl_create_table_from_csv(target, source, ...): create a table with the
 * file's columns, all of them nullable, because a sample proves nothing.
 */
Datum
etl_create_table_from_csv(PG_FUNCTION_ARGS)
{
	InferCall call = {.fcinfo = fcinfo, .first = 1};
	RangeVar *name;
	StringInfoData command;

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("parameter \"%s\" must not be null", "target")));
	PreventCommandIfReadOnly("etl_create_table_from_csv()");
	name = makeRangeVarFromNameList(
		textToQualifiedNameList(PG_GETARG_TEXT_PP(0)));
	if (name->catalogname != NULL)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("cannot create table \"%s\" in another database",
							   text_to_cstring(PG_GETARG_TEXT_PP(0))),
						errhint("Name it as \"table\" or \"schema.table\".")));
	etl_guard_scope(infer, &call);

	initStringInfo(&command);
	appendStringInfo(&command, "CREATE TABLE %s (",
					 quote_qualified_identifier(name->schemaname, name->relname));
	for (int i = 0; i < call.inference.ncolumns; i++)
		appendStringInfo(&command, "%s%s %s", i > 0 ? ", " : "",
						 quote_identifier(call.inference.columns[i].name),
						 column_type(&call.inference.columns[i]));
	appendStringInfoChar(&command, ')');

	SPI_connect();
	if (SPI_execute(command.data, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not create table");
	SPI_finish();
	PG_RETURN_OID(RangeVarGetRelid(name, NoLock, false));
}
