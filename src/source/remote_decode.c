/*-------------------------------------------------------------------------
 *
 * remote_decode.c
 *	  Values of a binary COPY, from the bytes that another server sends.
 *
 * The usual types are decoded without calling their receive functions.  Short
 * strings and numerics are not even copied: the length that precedes a value is
 * no longer needed once it has been read, so a short varlena header, which
 * needs no alignment, is put in its place.
 *
 * Invariants:
 *	- Whatever the bytes are, what is made of them is a value of the column's
 *	  type and type modifier, or an error is thrown.
 *	- No receive function sees text unless this session's client has the
 *	  encoding of the database: it would convert from the client's.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "source/numeric_form.h"
#include "source/remote.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "port/pg_bswap.h"
#include "utils/date.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

/* A numeric on its way: the sign, and what fits behind a short header. */
#define WIRE_NEGATIVE		0x4000
#define MAX_DIGITS_IN_PLACE 60

/* A type whose binary form is safe. */
typedef struct BinaryType
{
	Oid type;
	bool has_text;			/* its receive function converts encodings */
	EtlRemoteDecode decode; /* or NULL: its receive function */
} BinaryType;

static void set_numeric_limits(EtlRemoteColumn *column, int32 typmod);
static bool is_string_type(Oid type);
static const BinaryType *binary_type(Oid type);

static Datum decode_bool(EtlRemoteColumn *column, char *data, int len);
static Datum decode_int2(EtlRemoteColumn *column, char *data, int len);
static Datum decode_int4(EtlRemoteColumn *column, char *data, int len);
static Datum decode_int8(EtlRemoteColumn *column, char *data, int len);
static Datum decode_float4(EtlRemoteColumn *column, char *data, int len);
static Datum decode_float8(EtlRemoteColumn *column, char *data, int len);
static Datum decode_date(EtlRemoteColumn *column, char *data, int len);
static Datum decode_timestamp(EtlRemoteColumn *column, char *data, int len);
static Datum decode_uuid(EtlRemoteColumn *column, char *data, int len);
static Datum decode_numeric(EtlRemoteColumn *column, char *data, int len);
static Datum decode_string(EtlRemoteColumn *column, char *data, int len);
static Datum decode_bytea(EtlRemoteColumn *column, char *data, int len);
static Datum decode_any(EtlRemoteColumn *column, char *data, int len);

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

/*
 * Chooses how a column comes.  The server describes a column of a domain as
 * one of the domain's base type.
 */
void
etl_remote_choose_decoder(EtlRemoteColumn *column, Form_pg_attribute att,
						  Oid remote_type, int32 remote_typmod)
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
set_numeric_limits(EtlRemoteColumn *column, int32 typmod)
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

Datum
etl_remote_decode_null(EtlRemoteColumn *column, bool *isnull)
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
decode_bool(EtlRemoteColumn *column, char *data, int len)
{
	check_length(len, 1);
	return BoolGetDatum(data[0] != 0);
}

static Datum
decode_int2(EtlRemoteColumn *column, char *data, int len)
{
	uint16 value;

	check_length(len, sizeof(value));
	memcpy(&value, data, sizeof(value));
	return Int16GetDatum((int16) pg_ntoh16(value));
}

static Datum
decode_int4(EtlRemoteColumn *column, char *data, int len)
{
	return Int32GetDatum((int32) read_uint32(data, len));
}

static Datum
decode_int8(EtlRemoteColumn *column, char *data, int len)
{
	return Int64GetDatum((int64) read_uint64(data, len));
}

static Datum
decode_float4(EtlRemoteColumn *column, char *data, int len)
{
	uint32 bits = read_uint32(data, len);
	float4 value;

	memcpy(&value, &bits, sizeof(value));
	return Float4GetDatum(value);
}

static Datum
decode_float8(EtlRemoteColumn *column, char *data, int len)
{
	uint64 bits = read_uint64(data, len);
	float8 value;

	memcpy(&value, &bits, sizeof(value));
	return Float8GetDatum(value);
}

static Datum
decode_date(EtlRemoteColumn *column, char *data, int len)
{
	DateADT value = (DateADT) read_uint32(data, len);

	if (!DATE_NOT_FINITE(value) && !IS_VALID_DATE(value))
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
						errmsg("date out of range")));
	return DateADTGetDatum(value);
}

static Datum
decode_timestamp(EtlRemoteColumn *column, char *data, int len)
{
	Timestamp value = (Timestamp) read_uint64(data, len);

	if (!TIMESTAMP_NOT_FINITE(value) && !IS_VALID_TIMESTAMP(value))
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
						errmsg("timestamp out of range")));
	return TimestampGetDatum(value);
}

/* Its bytes need no alignment. */
static Datum
decode_uuid(EtlRemoteColumn *column, char *data, int len)
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
decode_string(EtlRemoteColumn *column, char *data, int len)
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
decode_bytea(EtlRemoteColumn *column, char *data, int len)
{
	return make_varlena(data, len);
}

/*
 * Calls the function of the type.  It wants a zero behind the value, which is
 * lent for as long.  If it throws, nobody looks at the row again.
 */
static Datum
decode_any(EtlRemoteColumn *column, char *data, int len)
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
decode_numeric(EtlRemoteColumn *column, char *data, int len)
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
