/*-------------------------------------------------------------------------
 *
 * convert_number.c
 *	  Integers, floats and numerics from plain decimal text.
 *
 * Plain is [-+]digits for integers, and [-+]digits[.digits] for the others,
 * floats with an exponent too.  All else (blanks around it, out of range,
 * infinities, more digits than the column keeps) is left to the type's input
 * function.  See convert.c for the contract.
 *
 *-------------------------------------------------------------------------
 */
#include "source/convert_types.h"
#include "source/numeric_form.h"

#include "port/pg_bitutils.h"

#include <float.h>
#include <math.h>

/* A decimal as it stands in the text; all pointers into the field. */
typedef struct PlainDecimal
{
	bool negative;
	const char *integer; /* at least one digit */
	int integer_len;
	const char *fraction;
	int fraction_len; /* 0: no point */
	const char *end;  /* what follows */
} PlainDecimal;

#define MAX_INTEGER_DIGITS 128
#define MAX_GROUPS \
	((MAX_INTEGER_DIGITS + NUMERIC_FORM_MAX_SCALE) / DIGITS_PER_GROUP + 2)

/* 18 digits and the next one times ten still fit into 64 bits. */
#define MAX_INT_DIGITS 18

static inline bool scan_int(const EtlField *field, int64 *result);
static inline bool scan_decimal(const EtlField *field, PlainDecimal *decimal);
static bool scan_exponent(const char *text);
static bool small_mantissa(const PlainDecimal *decimal, uint64 limit,
						   int max_scale, uint64 *mantissa);
static int group_digits(const PlainDecimal *decimal, int16 *groups, int *weight);
static Datum form_numeric(EtlRowArena *arena, const PlainDecimal *decimal,
						  int scale);

static inline bool
is_digit(char c)
{
	return (unsigned char) (c - '0') <= 9;
}

bool
etl_convert_int2(const EtlColumnConverter *column pg_attribute_unused(),
				 const EtlField *field, Datum *value)
{
	int64 number;

	if (!scan_int(field, &number) || number < PG_INT16_MIN ||
		number > PG_INT16_MAX)
		return false;
	*value = Int16GetDatum((int16) number);
	return true;
}

bool
etl_convert_int4(const EtlColumnConverter *column pg_attribute_unused(),
				 const EtlField *field, Datum *value)
{
	int64 number;

	if (!scan_int(field, &number) || number < PG_INT32_MIN ||
		number > PG_INT32_MAX)
		return false;
	*value = Int32GetDatum((int32) number);
	return true;
}

bool
etl_convert_int8(const EtlColumnConverter *column pg_attribute_unused(),
				 const EtlField *field, Datum *value)
{
	int64 number;

	if (!scan_int(field, &number))
		return false;
	*value = Int64GetDatum(number);
	return true;
}

/* Reads [-+]digits, at most MAX_INT_DIGITS of them. */
static inline bool
scan_int(const EtlField *field, int64 *result)
{
	const char *p = field->data;
	bool negative = (*p == '-');
	int len = field->len;
	uint32 high = 0;
	uint64 low;

	if (*p == '-' || *p == '+')
	{
		p++;
		len--;
	}
	if (len < 1 || len > MAX_INT_DIGITS)
		return false;
	if (len > 16)
	{
		if (!etl_scan_digits(p, len - 16, &high))
			return false;
		p += len - 16;
		len = 16;
	}
	if (!etl_scan_many_digits(p, len, &low))
		return false;
	*result = (int64) (high * UINT64CONST(10000000000000000) + low);
	if (negative)
		*result = -*result;
	return true;
}

/*
 * A short decimal is the quotient of two numbers that a float holds exactly,
 * and so one correctly rounded division gives what strtof() gives: both are
 * the float nearest to the same number.  It needs float arithmetic that is
 * not done in a wider type.
 */
bool
etl_convert_float4(const EtlColumnConverter *column pg_attribute_unused(),
				   const EtlField *field, Datum *value)
{
	PlainDecimal decimal;
	float number;
	char *end;

	if (!scan_decimal(field, &decimal) || !scan_exponent(decimal.end))
		return false;

#if FLT_EVAL_METHOD == 0
	{
		static const float powers[] = {1e0f, 1e1f, 1e2f, 1e3f, 1e4f, 1e5f,
									   1e6f, 1e7f, 1e8f, 1e9f, 1e10f};
		uint64 mantissa;

		if (small_mantissa(&decimal, UINT64CONST(1) << FLT_MANT_DIG,
						   lengthof(powers) - 1, &mantissa))
		{
			number = (float) mantissa / powers[decimal.fraction_len];
			*value = Float4GetDatum(decimal.negative ? -number : number);
			return true;
		}
	}
#endif

	errno = 0;
	number = strtof(field->data, &end);
	if (errno != 0 || end != field->data + field->len || !isfinite(number))
		return false;
	*value = Float4GetDatum(number);
	return true;
}

/* As etl_convert_float4, for double precision. */
bool
etl_convert_float8(const EtlColumnConverter *column pg_attribute_unused(),
				   const EtlField *field, Datum *value)
{
	PlainDecimal decimal;
	double number;
	char *end;

	if (!scan_decimal(field, &decimal) || !scan_exponent(decimal.end))
		return false;

#if FLT_EVAL_METHOD == 0
	{
		static const double powers[] = {1e0,  1e1,	1e2,  1e3,	1e4,  1e5,
										1e6,  1e7,	1e8,  1e9,	1e10, 1e11,
										1e12, 1e13, 1e14, 1e15, 1e16, 1e17,
										1e18, 1e19, 1e20, 1e21, 1e22};
		uint64 mantissa;

		if (small_mantissa(&decimal, UINT64CONST(1) << DBL_MANT_DIG,
						   lengthof(powers) - 1, &mantissa))
		{
			number = (double) mantissa / powers[decimal.fraction_len];
			*value = Float8GetDatum(decimal.negative ? -number : number);
			return true;
		}
	}
#endif

	errno = 0;
	number = strtod(field->data, &end);
	if (errno != 0 || end != field->data + field->len || !isfinite(number))
		return false;
	*value = Float8GetDatum(number);
	return true;
}

/*
 * The decimal's digits as one integer, if it has no exponent, its digits are
 * worth at most limit, and not more than max_scale follow the point.
 */
static bool
small_mantissa(const PlainDecimal *decimal, uint64 limit, int max_scale,
			   uint64 *mantissa)
{
	uint64 number = 0;

	if (*decimal->end != '\0' || decimal->fraction_len > max_scale ||
		decimal->integer_len + decimal->fraction_len > MAX_INT_DIGITS)
		return false;
	for (int i = 0; i < decimal->integer_len; i++)
		number = number * 10 + (decimal->integer[i] - '0');
	for (int i = 0; i < decimal->fraction_len; i++)
		number = number * 10 + (decimal->fraction[i] - '0');
	*mantissa = number;
	return number <= limit;
}

/* Is this nothing, or an exponent and nothing more? */
static bool
scan_exponent(const char *text)
{
	if (*text == '\0')
		return true;
	if (*text != 'e' && *text != 'E')
		return false;
	text++;
	if (*text == '-' || *text == '+')
		text++;
	if (!is_digit(*text))
		return false;
	while (is_digit(*text))
		text++;
	return *text == '\0';
}

/*
 * Takes [-+]digits[.digits] apart.  Relies on the byte after the field being
 * NUL.
 */
static inline bool
scan_decimal(const EtlField *field, PlainDecimal *decimal)
{
	const char *p = field->data;

	decimal->negative = (*p == '-');
	if (*p == '-' || *p == '+')
		p++;

	decimal->integer = p;
	while (is_digit(*p))
		p++;
	decimal->integer_len = p - decimal->integer;
	if (decimal->integer_len == 0)
		return false;

	decimal->fraction = p;
	decimal->fraction_len = 0;
	if (*p == '.')
	{
		decimal->fraction = ++p;
		while (is_digit(*p))
			p++;
		decimal->fraction_len = p - decimal->fraction;
		if (decimal->fraction_len == 0)
			return false;
	}
	decimal->end = p;
	return true;
}

/*
 * Reads precision and scale of a numeric column from its typmod: the
 * precision is in the upper half word, the scale in the lower 11 bits of the
 * lower one, both after taking off VARHDRSZ.  The scale may be negative or
 * beyond the precision; such columns have no fast converter.
 */
void
etl_numeric_typmod(EtlColumnConverter *column)
{
	int32 bits;
	int scale;

	if (column->typmod < (int32) VARHDRSZ)
		return;
	bits = column->typmod - VARHDRSZ;
	scale = bits & 0x7FF;
	column->precision = (bits >> 16) & 0xFFFF;
	column->scale = scale;
	if (scale > NUMERIC_FORM_MAX_SCALE || scale > column->precision)
		column->fast = NULL;
}

/*
 * A fraction that is shorter than the column's scale is padded by the display
 * scale; a longer one would be rounded, which is not done here.
 */
bool
etl_convert_numeric(const EtlColumnConverter *column, const EtlField *field,
					Datum *value)
{
	PlainDecimal decimal;
	int scale;

	if (!scan_decimal(field, &decimal) || *decimal.end != '\0')
		return false;
	while (decimal.integer_len > 0 && *decimal.integer == '0')
	{
		decimal.integer++;
		decimal.integer_len--;
	}

	scale = decimal.fraction_len;
	if (column->precision >= 0)
	{
		scale = column->scale;
		if (decimal.fraction_len > scale ||
			decimal.integer_len > column->precision - scale)
			return false;
	}
	if (scale > NUMERIC_FORM_MAX_SCALE ||
		decimal.integer_len > MAX_INTEGER_DIGITS)
		return false;

	*value = form_numeric(column->arena, &decimal, scale);
	return true;
}

/* Builds the numeric's image; scale is the one to display. */
static Datum
form_numeric(EtlRowArena *arena, const PlainDecimal *decimal, int scale)
{
	int16 groups[MAX_GROUPS];
	int16 *first = groups;
	int weight;
	int ngroups = group_digits(decimal, groups, &weight);
	uint16 header;
	char *image;
	size_t size;

	while (ngroups > 0 && *first == 0)
	{
		first++;
		ngroups--;
		weight--;
	}
	while (ngroups > 0 && first[ngroups - 1] == 0)
		ngroups--;

	header = NUMERIC_FORM_SHORT | (scale << NUMERIC_FORM_SCALE_BIT);
	if (ngroups > 0)
	{
		header |= weight & NUMERIC_FORM_WEIGHT;
		if (decimal->negative)
			header |= NUMERIC_FORM_NEGATIVE;
	}

	size = NUMERIC_FORM_HEADER + ngroups * sizeof(int16);
	image = etl_row_alloc(arena, size);
	SET_VARSIZE(image, size);
	memcpy(image + VARHDRSZ, &header, sizeof(header));
	memcpy(image + NUMERIC_FORM_HEADER, first, ngroups * sizeof(int16));
	return PointerGetDatum(image);
}

/* Where the point is in n bytes at p, at most 16; n if there is none. */
static inline int
find_point(const char *p, int n)
{
	const uint64 low = UINT64CONST(0x7f7f7f7f7f7f7f7f);
	const uint64 points = UINT64CONST(0x2e2e2e2e2e2e2e2e);

	for (int i = 0; i < n; i += 8)
	{
		uint64 word = etl_load_bytes(p + i) ^ points;
		uint64 hit = ~(((word & low) + low) | word | low);

		if (hit != 0)
			return Min(i + pg_rightmost_one_pos64(hit) / 8, n);
	}
	return n;
}

/* Is the number of at most limit digits? */
static inline bool
has_digits(uint64 number, int limit)
{
	static const uint64 powers[] = {UINT64CONST(1),
									UINT64CONST(10),
									UINT64CONST(100),
									UINT64CONST(1000),
									UINT64CONST(10000),
									UINT64CONST(100000),
									UINT64CONST(1000000),
									UINT64CONST(10000000),
									UINT64CONST(100000000),
									UINT64CONST(1000000000),
									UINT64CONST(10000000000),
									UINT64CONST(100000000000),
									UINT64CONST(1000000000000),
									UINT64CONST(10000000000000),
									UINT64CONST(100000000000000),
									UINT64CONST(1000000000000000)};

	return limit >= (int) lengthof(powers) || number < powers[limit];
}

/* The groups of four digits of a number below 10^16; returns how many. */
static inline int
split_groups(uint64 number, int16 *groups)
{
	int n = 0;

	if (number >= UINT64CONST(100000000))
	{
		uint32 high = number / 100000000;

		if (high >= 10000)
			groups[n++] = high / 10000;
		groups[n++] = high % 10000;
		number %= 100000000;
	}
	if (number >= 10000 || n > 0)
		groups[n++] = number / 10000;
	if (number > 0 || n > 0)
		groups[n++] = number % 10000;
	return n;
}

/*
 * The usual numbers: up to 16 digits before the point and 4 behind it.  What
 * etl_convert_numeric() would give, with a header of one byte.
 */
char *
etl_write_numeric(const EtlColumnConverter *column, const EtlField *field,
				  char *out, const char *limit)
{
	static const int16 padding[] = {1, 1000, 100, 10, 1};
	const char *p = field->data;
	bool negative = (*p == '-');
	int len = field->len;
	int point;
	int fraction_len;
	int scale;
	uint64 integer;
	uint32 fraction = 0;
	int16 groups[5];
	int n;
	int weight;
	uint16 header;

	if (*p == '-' || *p == '+')
	{
		p++;
		len--;
	}
	if (len < 1 || len > 16 || limit - out < 32)
		return NULL;
	point = find_point(p, len);
	fraction_len = point == len ? 0 : len - point - 1;
	if (point == 0 || (fraction_len == 0 && point < len) || fraction_len > 4 ||
		!etl_scan_many_digits(p, point, &integer) ||
		(fraction_len > 0 &&
		 !etl_scan_digits(p + point + 1, fraction_len, &fraction)))
		return NULL;

	scale = fraction_len;
	if (column->precision >= 0)
	{
		scale = column->scale;
		if (fraction_len > scale ||
			!has_digits(integer, column->precision - scale))
			return NULL;
	}

	n = split_groups(integer, groups);
	weight = n - 1;
	if (fraction > 0)
		groups[n++] = fraction * padding[fraction_len];
	while (n > 0 && groups[n - 1] == 0)
		n--;

	header = NUMERIC_FORM_SHORT | (scale << NUMERIC_FORM_SCALE_BIT);
	if (n > 0)
	{
		header |= weight & NUMERIC_FORM_WEIGHT;
		if (negative)
			header |= NUMERIC_FORM_NEGATIVE;
	}
	SET_VARSIZE_SHORT(out, VARHDRSZ_SHORT + sizeof(header) + n * sizeof(int16));
	memcpy(out + VARHDRSZ_SHORT, &header, sizeof(header));
	memcpy(out + VARHDRSZ_SHORT + sizeof(header), groups, sizeof(groups));
	return out + VARHDRSZ_SHORT + sizeof(header) + n * sizeof(int16);
}

/*
 * Gathers the digits by four to the left and to the right of the point.
 * Returns the number of groups; *weight is that of the first.
 */
static int
group_digits(const PlainDecimal *decimal, int16 *groups, int *weight)
{
	static const int16 padding[DIGITS_PER_GROUP + 1] = {1, 1000, 100, 10, 1};
	const char *p = decimal->integer;
	const char *end = p + decimal->integer_len;
	int ngroups = 0;
	int lead = decimal->integer_len % DIGITS_PER_GROUP;
	int tail;
	int16 group;

	*weight = (decimal->integer_len + DIGITS_PER_GROUP - 1) / DIGITS_PER_GROUP -
			  1;

	if (lead > 0)
	{
		group = 0;
		for (; lead > 0; lead--)
			group = group * 10 + (*p++ - '0');
		groups[ngroups++] = group;
	}
	for (; p < end; p += DIGITS_PER_GROUP)
		groups[ngroups++] = (p[0] - '0') * 1000 + (p[1] - '0') * 100 +
							(p[2] - '0') * 10 + (p[3] - '0');

	p = decimal->fraction;
	tail = decimal->fraction_len % DIGITS_PER_GROUP;
	end = p + decimal->fraction_len - tail;
	for (; p < end; p += DIGITS_PER_GROUP)
		groups[ngroups++] = (p[0] - '0') * 1000 + (p[1] - '0') * 100 +
							(p[2] - '0') * 10 + (p[3] - '0');
	if (tail > 0)
	{
		group = 0;
		for (int i = 0; i < tail; i++)
			group = group * 10 + (p[i] - '0');
		groups[ngroups++] = group * padding[tail];
	}
	return ngroups;
}
