/*-------------------------------------------------------------------------
 *
 * remote_copy.c
 *	  Rows of a remote table, by COPY in the binary format.
 *
 * A value comes in binary if its type here and there is the same one of the
 * types below, whose binary form means the same on every server; any other
 * comes as text and goes through the input function of the type here, as if
 * the wrapper had fetched it.  So does a value whose type modifier here is
 * another, where the receive function would not check it as an assignment does.
 *
 * The usual types are decoded without calling their receive functions.  Short
 * strings and numerics are not even copied: the length that precedes a value is
 * no longer needed once it has been read, so a short varlena header, which
 * needs no alignment, is put in its place.
 *
 * Memory: one row, and libpq's buffer, which holds at least the longest one.
 *
 * Invariants:
 *	- The types are looked up in the transaction that reads the rows, which
 *	  keeps a lock on the table: they cannot change in between.
 *	- No receive function sees text unless this session's client has the
 *	  encoding of the database: it would convert from the client's.
 *
 *-------------------------------------------------------------------------
 */
#include "source/numeric_form.h"
#include "source/remote.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/acl.h"
#include "utils/date.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

/* A numeric on its way: the sign, and what fits behind a short header. */
#define WIRE_NEGATIVE		0x4000
#define MAX_DIGITS_IN_PLACE 60

typedef struct RemoteColumn RemoteColumn;

/*
 * Makes a Datum of a value's bytes, which may be changed, and so may the four
 * bytes before them; the byte behind them must be the same afterwards.
 */
typedef Datum (*DecodeCall)(RemoteColumn *column, char *data, int len);

struct RemoteColumn
{
	const char *name;
	DecodeCall decode;
	bool as_text;	   /* is cast to text there */
	bool checks_null;  /* a domain, which may not like NULL */
	bool receives;	   /* the function is a receive function */
	FmgrInfo function; /* or the input function */
	Oid io_param;
	int32 typmod;

	/* what a value that is not passed to the function must keep to */
	int max_length; /* bytes that are never too many, or -1 */
	int min_length; /* and those that are too few */
	int scale;		/* of a numeric, or -1 */
	int max_digits; /* before its decimal point */
};

/* A COPY that is being read. */
typedef struct RemoteCopy
{
	Relation source;
	TupleTableSlot *slot;
	RemoteColumn *columns;
	int natts;
	int current; /* column that is being decoded, or -1 */
	MemoryContext row_context;
	EtlRowCall call;
	void *arg;
	int64 rows;
} RemoteCopy;

/* A type whose binary form is safe. */
typedef struct BinaryType
{
	Oid type;
	bool has_text;	   /* its receive function converts encodings */
	DecodeCall decode; /* or NULL: its receive function */
} BinaryType;

static void check_columns(EtlRemoteSite *site, const AttrNumber *attnums,
						  int natts);
static void look_up_columns(RemoteCopy *copy, EtlRemoteSite *site,
							const AttrNumber *attnums);
static void choose_decoder(RemoteColumn *column, Form_pg_attribute att,
						   Oid remote_type, int32 remote_typmod);
static void set_numeric_limits(RemoteColumn *column, int32 typmod);
static bool is_string_type(Oid type);
static const BinaryType *binary_type(Oid type);
static char *select_list(RemoteCopy *copy, EtlSite *site,
						 const AttrNumber *attnums, bool cast);
static TupleDesc rows_desc(Relation source, const AttrNumber *attnums,
						   int natts);
static void read_rows(RemoteCopy *copy, EtlRemote *remote);
static char *skip_header(char *data, char *end);
static char *read_row(RemoteCopy *copy, char *data, char *end);
static char *decode_row(RemoteCopy *copy, char *data, char *end);
static Datum decode_null(RemoteColumn *column, bool *isnull);
static void conversion_context(void *arg);
pg_noreturn static void bad_data(void);

static Datum decode_bool(RemoteColumn *column, char *data, int len);
static Datum decode_int2(RemoteColumn *column, char *data, int len);
static Datum decode_int4(RemoteColumn *column, char *data, int len);
static Datum decode_int8(RemoteColumn *column, char *data, int len);
static Datum decode_float4(RemoteColumn *column, char *data, int len);
static Datum decode_float8(RemoteColumn *column, char *data, int len);
static Datum decode_date(RemoteColumn *column, char *data, int len);
static Datum decode_timestamp(RemoteColumn *column, char *data, int len);
static Datum decode_uuid(RemoteColumn *column, char *data, int len);
static Datum decode_numeric(RemoteColumn *column, char *data, int len);
static Datum decode_string(RemoteColumn *column, char *data, int len);
static Datum decode_bytea(RemoteColumn *column, char *data, int len);
static Datum decode_any(RemoteColumn *column, char *data, int len);

/*
 * Not among them: types that hold OIDs or names of objects (regclass and the
 * like), whose numbers differ between servers; money, which hangs on the
 * locale; xml, whose binary form names an encoding.
 */
static const BinaryType binary_types[] = {
	{BOOLOID, false, decode_bool},
	{INT2OID, false, decode_int2},
	{INT4OID, false, decode_int4},
	{INT8OID, false, decode_int8},
	{FLOAT4OID, false, decode_float4},
	{FLOAT8OID, false, decode_float8},
	{NUMERICOID, false, decode_numeric},
	{DATEOID, false, decode_date},
	{TIMESTAMPOID, false, decode_timestamp},
	{TIMESTAMPTZOID, false, decode_timestamp},
	{UUIDOID, false, decode_uuid},
	{TEXTOID, true, decode_string},
	{VARCHAROID, true, decode_string},
	{BPCHAROID, true, decode_string},
	{BYTEAOID, false, decode_bytea},
	{TIMEOID, false, NULL},
	{TIMETZOID, false, NULL},
	{INTERVALOID, false, NULL},
	{JSONOID, true, NULL},
	{JSONBOID, true, NULL},
	{JSONPATHOID, true, NULL},
	{NAMEOID, true, NULL},
	{OIDOID, false, NULL},
	{XIDOID, false, NULL},
	{XID8OID, false, NULL},
	{PG_LSNOID, false, NULL},
	{INETOID, false, NULL},
	{CIDROID, false, NULL},
	{MACADDROID, false, NULL},
	{MACADDR8OID, false, NULL},
	{BITOID, false, NULL},
	{VARBITOID, false, NULL},
	{TSVECTOROID, true, NULL},
	{TSQUERYOID, true, NULL},
	{POINTOID, false, NULL},
	{LSEGOID, false, NULL},
	{LINEOID, false, NULL},
	{BOXOID, false, NULL},
	{PATHOID, false, NULL},
	{POLYGONOID, false, NULL},
	{CIRCLEOID, false, NULL},
	{INT4RANGEOID, false, NULL},
	{INT8RANGEOID, false, NULL},
	{NUMRANGEOID, false, NULL},
	{DATERANGEOID, false, NULL},
	{TSRANGEOID, false, NULL},
	{TSTZRANGEOID, false, NULL},
	{INT4MULTIRANGEOID, false, NULL},
	{INT8MULTIRANGEOID, false, NULL},
	{NUMMULTIRANGEOID, false, NULL},
	{DATEMULTIRANGEOID, false, NULL},
	{TSMULTIRANGEOID, false, NULL},
	{TSTZMULTIRANGEOID, false, NULL},
};

/* See etl_site_rows(). */
int64
etl_remote_rows(EtlSite *site, const char *where, const AttrNumber *attnums,
				int natts, EtlRowCall call, void *arg)
{
	EtlRemoteSite *self = (EtlRemoteSite *) site;
	RemoteCopy copy = {0};
	ErrorContextCallback context;
	StringInfoData sql;

	check_columns(self, attnums, natts);
	copy.source = site->source;
	copy.natts = natts;
	copy.current = -1;
	copy.call = call;
	copy.arg = arg;
	copy.slot = MakeSingleTupleTableSlot(rows_desc(site->source, attnums, natts),
										 &TTSOpsVirtual);
	copy.row_context = AllocSetContextCreate(CurrentMemoryContext,
											 "etl_patterns remote row",
											 ALLOCSET_DEFAULT_SIZES);

	if (PQtransactionStatus(self->remote->conn) == PQTRANS_IDLE)
		etl_remote_begin(site);
	look_up_columns(&copy, self, attnums);

	initStringInfo(&sql);
	appendStringInfo(&sql, "COPY (SELECT %s FROM %s",
					 select_list(&copy, site, attnums, true), site->from);
	if (where != NULL)
		appendStringInfo(&sql, " WHERE %s", where);
	appendStringInfoString(&sql, ") TO STDOUT (FORMAT binary)");
	etl_remote_query(self->remote, sql.data, PGRES_COPY_OUT);

	context.callback = conversion_context;
	context.arg = &copy;
	context.previous = error_context_stack;
	error_context_stack = &context;
	read_rows(&copy, self->remote);
	error_context_stack = context.previous;

	ExecDropSingleTupleTableSlot(copy.slot);
	MemoryContextDelete(copy.row_context);
	return copy.rows;
}

/* May the caller read them, and are they all there? */
static void
check_columns(EtlRemoteSite *site, const AttrNumber *attnums, int natts)
{
	Relation source = site->pub.source;
	Oid relid = RelationGetRelid(source);
	bool reads_all = pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) ==
					 ACLCHECK_OK;
	StringInfoData missing;

	initStringInfo(&missing);
	for (int i = 0; i < natts; i++)
	{
		AttrNumber attnum = attnums[i];

		if (!reads_all && pg_attribute_aclcheck(relid, attnum, GetUserId(),
												ACL_SELECT) != ACLCHECK_OK)
			aclcheck_error_col(ACLCHECK_NO_PRIV, OBJECT_COLUMN,
							   RelationGetRelationName(source),
							   get_attname(relid, attnum, false));
		if (site->is_missing[attnum - 1])
			appendStringInfo(&missing, "%s\"%s\"", missing.len > 0 ? ", " : "",
							 site->names[attnum - 1]);
	}
	if (missing.len > 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("relation %s on server \"%s\" has no column %s",
						site->pub.from, site->remote->server, missing.data),
				 errhint("See the option column_name of the columns of foreign table \"%s\".",
						 RelationGetRelationName(source))));
}

/* The columns that are handed over, without what makes them this table's. */
static TupleDesc
rows_desc(Relation source, const AttrNumber *attnums, int natts)
{
	TupleDesc desc = CreateTemplateTupleDesc(natts);

	for (int i = 0; i < natts; i++)
		TupleDescCopyEntry(desc, i + 1, RelationGetDescr(source), attnums[i]);
	return desc;
}

/* Asks for the types of the columns there, and chooses how they come. */
static void
look_up_columns(RemoteCopy *copy, EtlRemoteSite *site, const AttrNumber *attnums)
{
	TupleDesc desc = copy->slot->tts_tupleDescriptor;
	PGresult *result;
	char *sql;

	copy->columns = palloc0(sizeof(RemoteColumn) * Max(copy->natts, 1));
	sql = psprintf("SELECT %s FROM %s LIMIT 0",
				   select_list(copy, &site->pub, attnums, false),
				   site->pub.from);
	result = etl_remote_query(site->remote, sql, PGRES_TUPLES_OK);
	if (PQnfields(result) != copy->natts)
		etl_site_bad_answer(&site->pub);
	for (int i = 0; i < copy->natts; i++)
		choose_decoder(&copy->columns[i], TupleDescAttr(desc, i),
					   PQftype(result, i), PQfmod(result, i));
	etl_remote_clear(site->remote);
}

/* The columns as a query there names them. */
static char *
select_list(RemoteCopy *copy, EtlSite *site, const AttrNumber *attnums,
			bool cast)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < copy->natts; i++)
		appendStringInfo(&sql, "%s%s%s", i > 0 ? ", " : "",
						 site->columns[attnums[i] - 1],
						 cast && copy->columns[i].as_text ? "::pg_catalog.text" :
															"");
	return sql.data;
}

/*
 * Chooses how a column comes.  The server describes a column of a domain as
 * one of the domain's base type.
 */
static void
choose_decoder(RemoteColumn *column, Form_pg_attribute att, Oid remote_type,
			   int32 remote_typmod)
{
	Oid local_type = att->atttypid;
	Oid base_type = getBaseType(local_type);
	bool is_domain = base_type != local_type;
	bool same_typmod = !is_domain && (att->atttypmod == -1 ||
									  (base_type == remote_type &&
									   att->atttypmod == remote_typmod));
	const BinaryType *type = binary_type(remote_type);
	Oid function;

	column->name = NameStr(att->attname);
	column->typmod = att->atttypmod;
	column->checks_null = is_domain;
	column->scale = -1;
	column->decode = decode_any;

	/* The bytes of all strings are alike. */
	if (is_string_type(remote_type) && is_string_type(local_type) && same_typmod)
	{
		column->decode = decode_string;
		column->max_length = att->atttypmod < 0 ? -1 : att->atttypmod - VARHDRSZ;
		column->min_length = local_type == BPCHAROID ? column->max_length : 0;
		getTypeInputInfo(local_type, &function, &column->io_param);
		fmgr_info(function, &column->function);
		return;
	}

	column->receives = type != NULL && base_type == remote_type &&
					   (!type->has_text ||
						pg_get_client_encoding() == GetDatabaseEncoding());
	if (column->receives)
	{
		getTypeBinaryInputInfo(local_type, &function, &column->io_param);
		if (type->decode != NULL && same_typmod)
			column->decode = type->decode;
		/* The server says that values keep to it, but that is all we know. */
		if (base_type == NUMERICOID && att->atttypmod >= 0)
			set_numeric_limits(column, att->atttypmod);
		else if (att->atttypmod >= 0)
			column->decode = decode_any;
	}
	else
	{
		getTypeInputInfo(local_type, &function, &column->io_param);
		column->as_text = !is_string_type(remote_type);
	}
	fmgr_info(function, &column->function);
}

static void
set_numeric_limits(RemoteColumn *column, int32 typmod)
{
	int packed = typmod - VARHDRSZ;
	int precision = (packed >> 16) & 0xffff;
	int scale = packed & 0x7ff;

	if (scale & 0x400) /* it is negative */
		column->decode = decode_any;
	column->scale = scale;
	column->max_digits = precision - scale;
}

static bool
is_string_type(Oid type)
{
	return type == TEXTOID || type == VARCHAROID || type == BPCHAROID;
}

/*
 * The entry of a type, or that of an array's elements without its decoder; NULL
 * if it has no safe binary form.
 */
static const BinaryType *
binary_type(Oid type)
{
	static const BinaryType array_type = {InvalidOid, false, NULL};
	static const BinaryType text_array_type = {InvalidOid, true, NULL};

	for (int i = 0; i < (int) lengthof(binary_types); i++)
		if (binary_types[i].type == type)
			return &binary_types[i];

	/* What the server calls by an OID of its own is unknown here. */
	if (type < FirstGenbkiObjectId && type_is_array(type) &&
		type != INT2VECTOROID && type != OIDVECTOROID)
	{
		const BinaryType *element = binary_type(get_element_type(type));

		if (element != NULL)
			return element->has_text ? &text_array_type : &array_type;
	}
	return NULL;
}

/* Reads the COPY to its end. */
static void
read_rows(RemoteCopy *copy, EtlRemote *remote)
{
	bool has_header = false;
	bool has_trailer = false;
	int len;

	while ((len = etl_remote_copy_data(remote)) >= 0)
	{
		char *data = remote->buffer;
		char *end = data + len;

		if (!has_header)
			data = skip_header(data, end);
		has_header = true;
		while (data < end)
		{
			CHECK_FOR_INTERRUPTS();
			if (has_trailer)
				bad_data();
			data = read_row(copy, data, end);
			has_trailer = data == NULL;
			if (has_trailer)
				break;
		}
	}
	if (!has_trailer)
		bad_data();
}

/* The signature, flags that mean nothing to us, and a header extension. */
static char *
skip_header(char *data, char *end)
{
	static const char signature[11] = "PGCOPY\n\377\r\n\0";
	uint32 flags;
	uint32 extension;

	if (end - data < (int) (sizeof(signature) + 2 * sizeof(uint32)) ||
		memcmp(data, signature, sizeof(signature)) != 0)
		bad_data();
	data += sizeof(signature);
	memcpy(&flags, data, sizeof(flags));
	data += sizeof(flags);
	memcpy(&extension, data, sizeof(extension));
	data += sizeof(extension);
	extension = pg_ntoh32(extension);
	/* The upper half of the flags changes the format. */
	if ((pg_ntoh32(flags) >> 16) != 0 || extension > end - data)
		bad_data();
	return data + extension;
}

/* Hands one row over.  Returns what follows it, or NULL at the trailer. */
static char *
read_row(RemoteCopy *copy, char *data, char *end)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(copy->row_context);
	int16 natts;

	if (end - data < (int) sizeof(natts))
		bad_data();
	memcpy(&natts, data, sizeof(natts));
	natts = (int16) pg_ntoh16((uint16) natts);
	data += sizeof(natts);
	if (natts == -1)
		data = NULL;
	else if (natts != copy->natts)
		bad_data();
	else
	{
		data = decode_row(copy, data, end);
		copy->rows++;
		copy->call(copy->arg, copy->slot);
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(copy->row_context);
	return data;
}

/* Puts a row's values into the slot.  Returns what follows them. */
static char *
decode_row(RemoteCopy *copy, char *data, char *end)
{
	TupleTableSlot *slot = copy->slot;

	ExecClearTuple(slot);
	for (int i = 0; i < copy->natts; i++)
	{
		RemoteColumn *column = &copy->columns[i];
		int32 len;

		copy->current = i;
		if (end - data < (int) sizeof(len))
			bad_data();
		memcpy(&len, data, sizeof(len));
		len = (int32) pg_ntoh32((uint32) len);
		data += sizeof(len);
		if (len == -1)
		{
			slot->tts_values[i] = decode_null(column, &slot->tts_isnull[i]);
			continue;
		}
		if (len < 0 || len > end - data)
			bad_data();
		slot->tts_values[i] = column->decode(column, data, len);
		slot->tts_isnull[i] = false;
		data += len;
	}
	copy->current = -1;
	ExecStoreVirtualTuple(slot);
	return data;
}

static Datum
decode_null(RemoteColumn *column, bool *isnull)
{
	*isnull = true;
	if (!column->checks_null)
		return (Datum) 0;
	if (column->receives)
		return ReceiveFunctionCall(&column->function, NULL, column->io_param,
								   column->typmod);
	return InputFunctionCall(&column->function, NULL, column->io_param,
							 column->typmod);
}

/* Says which value an error is about. */
static void
conversion_context(void *arg)
{
	RemoteCopy *copy = arg;

	if (copy->current >= 0)
		errcontext("column \"%s\" of foreign table \"%s\"",
				   copy->columns[copy->current].name,
				   RelationGetRelationName(copy->source));
}

static void
bad_data(void)
{
	ereport(ERROR, (errcode(ERRCODE_BAD_COPY_FILE_FORMAT),
					errmsg("unexpected data in a binary COPY")));
}

/* ------------------------------------------------------------------ */
/* Values                                                              */

static inline void
check_length(int len, int expected)
{
	if (len != expected)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("value has %d bytes instead of %d", len, expected)));
}

static inline uint32
read_uint32(const char *data, int len)
{
	uint32 value;

	check_length(len, sizeof(value));
	memcpy(&value, data, sizeof(value));
	return pg_ntoh32(value);
}

static inline uint64
read_uint64(const char *data, int len)
{
	uint64 value;

	check_length(len, sizeof(value));
	memcpy(&value, data, sizeof(value));
	return pg_ntoh64(value);
}

static Datum
decode_bool(RemoteColumn *column, char *data, int len)
{
	check_length(len, 1);
	return BoolGetDatum(data[0] != 0);
}

static Datum
decode_int2(RemoteColumn *column, char *data, int len)
{
	uint16 value;

	check_length(len, sizeof(value));
	memcpy(&value, data, sizeof(value));
	return Int16GetDatum((int16) pg_ntoh16(value));
}

static Datum
decode_int4(RemoteColumn *column, char *data, int len)
{
	return Int32GetDatum((int32) read_uint32(data, len));
}

static Datum
decode_int8(RemoteColumn *column, char *data, int len)
{
	return Int64GetDatum((int64) read_uint64(data, len));
}

static Datum
decode_float4(RemoteColumn *column, char *data, int len)
{
	uint32 bits = read_uint32(data, len);
	float4 value;

	memcpy(&value, &bits, sizeof(value));
	return Float4GetDatum(value);
}

static Datum
decode_float8(RemoteColumn *column, char *data, int len)
{
	uint64 bits = read_uint64(data, len);
	float8 value;

	memcpy(&value, &bits, sizeof(value));
	return Float8GetDatum(value);
}

static Datum
decode_date(RemoteColumn *column, char *data, int len)
{
	DateADT value = (DateADT) read_uint32(data, len);

	if (!DATE_NOT_FINITE(value) && !IS_VALID_DATE(value))
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
						errmsg("date out of range")));
	return DateADTGetDatum(value);
}

static Datum
decode_timestamp(RemoteColumn *column, char *data, int len)
{
	Timestamp value = (Timestamp) read_uint64(data, len);

	if (!TIMESTAMP_NOT_FINITE(value) && !IS_VALID_TIMESTAMP(value))
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
						errmsg("timestamp out of range")));
	return TimestampGetDatum(value);
}

/* Its bytes need no alignment. */
static Datum
decode_uuid(RemoteColumn *column, char *data, int len)
{
	check_length(len, UUID_LEN);
	return PointerGetDatum(data);
}

/* Makes a varlena of the bytes: in their place if they are few. */
static inline Datum
make_varlena(char *data, int len)
{
	struct varlena *copy;

	if (len + VARHDRSZ_SHORT <= VARATT_SHORT_MAX)
	{
		SET_VARSIZE_SHORT(data - VARHDRSZ_SHORT, len + VARHDRSZ_SHORT);
		return PointerGetDatum(data - VARHDRSZ_SHORT);
	}
	if ((Size) len > MaxAllocSize - VARHDRSZ)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("value is too long")));
	copy = palloc(len + VARHDRSZ);
	SET_VARSIZE(copy, len + VARHDRSZ);
	memcpy(VARDATA(copy), data, len);
	return PointerGetDatum(copy);
}

/* Characters are only counted if there may be too many, or too few. */
static Datum
decode_string(RemoteColumn *column, char *data, int len)
{
	if (column->max_length >= 0 &&
		(len > column->max_length || len < column->min_length))
		return decode_any(column, data, len);
	pg_verifymbstr(data, len, false);
	if (column->min_length > 0 &&
		pg_mbstrlen_with_len(data, len) < column->min_length)
		return decode_any(column, data, len);
	return make_varlena(data, len);
}

static Datum
decode_bytea(RemoteColumn *column, char *data, int len)
{
	return make_varlena(data, len);
}

/*
 * Calls the function of the type.  It wants a zero behind the value, which is
 * lent for as long.  If it throws, nobody looks at the row again.
 */
static Datum
decode_any(RemoteColumn *column, char *data, int len)
{
	char behind = data[len];
	StringInfoData value;
	Datum result;

	data[len] = '\0';
	if (column->receives)
	{
		value.data = data;
		value.len = len;
		value.maxlen = len + 1;
		value.cursor = 0;
		result = ReceiveFunctionCall(&column->function, &value,
									 column->io_param, column->typmod);
		if (value.cursor != len)
			ereport(ERROR, (errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
							errmsg("incorrect binary data format")));
	}
	else
	{
		pg_verifymbstr(data, len, false);
		result = InputFunctionCall(&column->function, data, column->io_param,
								   column->typmod);
	}
	data[len] = behind;
	return result;
}

/* The decimal digits of one of base 10000, from the first that is not 0. */
static inline int
count_digits(int digit)
{
	return digit >= 1000 ? 4 : digit >= 100 ? 3 : digit >= 10 ? 2 : 1;
}

/*
 * What comes is a count of digits, weight, sign and scale of 16 bits each, then
 * the digits, of base 10000.  That is nearly what is stored in the short form
 * (see convert_number.c), which is made of it where it lies, unless it is
 * unusual.
 */
static Datum
decode_numeric(RemoteColumn *column, char *data, int len)
{
	static const int16 unit[DIGITS_PER_GROUP] = {1, 10, 100, 1000};
	uint16 head[4];
	uint16 form;
	uint16 digit = 0;
	char *digits = data + sizeof(head);
	int ndigits;
	int weight;
	int scale;
	int excess; /* decimal places beyond the scale */
	bool negative;

	if (len < (int) sizeof(head))
		return decode_any(column, data, len);
	memcpy(head, data, sizeof(head));
	ndigits = pg_ntoh16(head[0]);
	weight = (int16) pg_ntoh16(head[1]);
	negative = pg_ntoh16(head[2]) == WIRE_NEGATIVE;
	scale = pg_ntoh16(head[3]);
	if (column->scale >= 0 && scale != column->scale)
		return decode_any(column, data, len);
	excess = (ndigits - 1 - weight) * DIGITS_PER_GROUP - scale;
	if (ndigits > MAX_DIGITS_IN_PLACE ||
		len != (int) (sizeof(head) + ndigits * sizeof(digit)) ||
		weight < NUMERIC_FORM_MIN_WEIGHT || weight > NUMERIC_FORM_MAX_WEIGHT ||
		scale > NUMERIC_FORM_MAX_SCALE || excess >= DIGITS_PER_GROUP ||
		(head[2] != 0 && !negative) ||
		(ndigits == 0 && (weight != 0 || negative)))
		return decode_any(column, data, len);

	for (int i = 0; i < ndigits; i++)
	{
		memcpy(&digit, digits + i * sizeof(digit), sizeof(digit));
		digit = pg_ntoh16(digit);
		if (digit > 9999 || (digit == 0 && i == 0))
			return decode_any(column, data, len);
		if (i == 0 && column->scale >= 0 &&
			weight * DIGITS_PER_GROUP + count_digits(digit) > column->max_digits)
			return decode_any(column, data, len);
	}
	if (ndigits > 0 && digit == 0)
		return decode_any(column, data, len);
	if (excess > 0 && digit % unit[excess] != 0)
		return decode_any(column, data, len);

	for (int i = 0; i < ndigits; i++)
	{
		memcpy(&digit, digits + i * sizeof(digit), sizeof(digit));
		digit = pg_ntoh16(digit);
		memcpy(digits + i * sizeof(digit), &digit, sizeof(digit));
	}
	form = NUMERIC_FORM_SHORT | (scale << NUMERIC_FORM_SCALE_BIT) |
		   (weight & NUMERIC_FORM_WEIGHT);
	if (negative)
		form |= NUMERIC_FORM_NEGATIVE;
	memcpy(digits - sizeof(form), &form, sizeof(form));
	return make_varlena(digits - sizeof(form),
						sizeof(form) + ndigits * sizeof(digit));
}
