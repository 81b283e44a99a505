/*-------------------------------------------------------------------------
 *
 * convert_text.c
 *	  Strings, bytes, booleans and UUIDs.
 *
 * The text of a field is valid in the server's encoding; the reader has seen
 * to that.  A string that is longer than its column, even by blanks only, is
 * left to the type's input function.  See convert.c for the contract.
 *
 *-------------------------------------------------------------------------
 */
#include "source/convert_types.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/uuid.h"

#define UUID_TEXT_LEN 36

static inline bool store_bytes(const EtlColumnConverter *column,
							   const char *data, size_t len, size_t padding,
							   Datum *value);
static int count_chars(const char *data, int len);
static int count_utf8_chars(const char *data, int len);
static bool decode_hex(const char *text, size_t nbytes, unsigned char *bytes);

/* The digit's value plus one, or 0. */
static const uint8 hex_values[256] = {
	['0'] = 1,	['1'] = 2,	['2'] = 3,	['3'] = 4,	['4'] = 5,	['5'] = 6,
	['6'] = 7,	['7'] = 8,	['8'] = 9,	['9'] = 10, ['a'] = 11, ['b'] = 12,
	['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16, ['A'] = 11, ['B'] = 12,
	['C'] = 13, ['D'] = 14, ['E'] = 15, ['F'] = 16,
};

/* The words that boolin takes, without blanks around them. */
bool
etl_convert_bool(const EtlColumnConverter *column pg_attribute_unused(),
				 const EtlField *field, Datum *value)
{
	bool result;

	if (!parse_bool_with_len(field->data, field->len, &result))
		return false;
	*value = BoolGetDatum(result);
	return true;
}

bool
etl_convert_text(const EtlColumnConverter *column, const EtlField *field,
				 Datum *value)
{
	return store_bytes(column, field->data, field->len, 0, value);
}

bool
etl_convert_varchar(const EtlColumnConverter *column, const EtlField *field,
					Datum *value)
{
	if (column->max_chars >= 0 && field->len > column->max_chars &&
		count_chars(field->data, field->len) > column->max_chars)
		return false;
	return store_bytes(column, field->data, field->len, 0, value);
}

/* char(n): filled up with blanks to n characters. */
bool
etl_convert_bpchar(const EtlColumnConverter *column, const EtlField *field,
				   Datum *value)
{
	int chars;

	if (column->max_chars < 0)
		return store_bytes(column, field->data, field->len, 0, value);
	chars = count_chars(field->data, field->len);
	if (chars > column->max_chars)
		return false;
	return store_bytes(column, field->data, field->len,
					   column->max_chars - chars, value);
}

/* Hexadecimal, or bytes as they are with nothing escaped. */
bool
etl_convert_bytea(const EtlColumnConverter *column, const EtlField *field,
				  Datum *value)
{
	size_t nbytes;
	bytea *result;

	if (field->len < 2 || field->data[0] != '\\' || field->data[1] != 'x')
	{
		if (memchr(field->data, '\\', field->len) != NULL)
			return false;
		return store_bytes(column, field->data, field->len, 0, value);
	}

	if (field->len % 2 != 0)
		return false;
	nbytes = field->len / 2 - 1;
	result = etl_row_alloc(column->arena, VARHDRSZ + nbytes);
	SET_VARSIZE(result, VARHDRSZ + nbytes);
	*value = PointerGetDatum(result);
	return decode_hex(field->data + 2, nbytes,
					  (unsigned char *) VARDATA(result));
}

/* The canonical form: 8-4-4-4-12 hexadecimal digits. */
bool
etl_convert_uuid(const EtlColumnConverter *column, const EtlField *field,
				 Datum *value)
{
	const char *text = field->data;
	pg_uuid_t *uuid;

	if (field->len != UUID_TEXT_LEN || text[8] != '-' || text[13] != '-' ||
		text[18] != '-' || text[23] != '-')
		return false;
	uuid = etl_row_alloc(column->arena, sizeof(pg_uuid_t));
	*value = UUIDPGetDatum(uuid);
	return decode_hex(text, 4, uuid->data) &&
		   decode_hex(text + 9, 2, uuid->data + 4) &&
		   decode_hex(text + 14, 2, uuid->data + 6) &&
		   decode_hex(text + 19, 2, uuid->data + 8) &&
		   decode_hex(text + 24, 6, uuid->data + 10);
}

/* False if one of the 2 * nbytes characters is no hexadecimal digit. */
static bool
decode_hex(const char *text, size_t nbytes, unsigned char *bytes)
{
	for (size_t i = 0; i < nbytes; i++)
	{
		int high = hex_values[(unsigned char) text[2 * i]];
		int low = hex_values[(unsigned char) text[2 * i + 1]];

		if (high == 0 || low == 0)
			return false;
		bytes[i] = ((high - 1) << 4) | (low - 1);
	}
	return true;
}

/*
 * A variable-length value of len bytes of data and padding blanks.  False if
 * that is more than memory can be asked for.
 */
static inline bool
store_bytes(const EtlColumnConverter *column, const char *data, size_t len,
			size_t padding, Datum *value)
{
	size_t size = VARHDRSZ + len + padding;
	text *result;

	if (unlikely(MAXALIGN(size) > MaxAllocSize))
		return false;
	result = etl_row_alloc(column->arena, size);
	SET_VARSIZE(result, size);
	memcpy(VARDATA(result), data, len);
	memset(VARDATA(result) + len, ' ', padding);
	*value = PointerGetDatum(result);
	return true;
}

/* Copies n bytes, sixteen at a time, from and to where there is room. */
static inline void
copy_wide(char *to, const char *from, int n)
{
	for (int i = 0; i < n; i += 16)
		memcpy(to + i, from + i, 16);
}

/*
 * Text of a heap tuple: short, with a header of one byte, or longer and
 * aligned.
 */
char *
etl_write_text(const EtlColumnConverter *column pg_attribute_unused(),
			   const EtlField *field, char *out, const char *limit)
{
	int len = field->len;

	if (limit - out < (ptrdiff_t) len + 2 * ETL_WRITE_SLACK)
		return NULL;
	if (len + VARHDRSZ_SHORT <= VARATT_SHORT_MAX)
	{
		SET_VARSIZE_SHORT(out, len + VARHDRSZ_SHORT);
		copy_wide(out + VARHDRSZ_SHORT, field->data, len);
		return out + VARHDRSZ_SHORT + len;
	}
	memset(out, 0, sizeof(int32));
	out = (char *) INTALIGN(out);
	SET_VARSIZE(out, len + VARHDRSZ);
	memcpy(out + VARHDRSZ, field->data, len);
	return out + VARHDRSZ + len;
}

char *
etl_write_varchar(const EtlColumnConverter *column, const EtlField *field,
				  char *out, const char *limit)
{
	if (column->max_chars >= 0 && field->len > column->max_chars)
		return NULL;
	return etl_write_text(column, field, out, limit);
}

/* Short ones of ASCII characters. */
char *
etl_write_bpchar(const EtlColumnConverter *column, const EtlField *field,
				 char *out, const char *limit)
{
	int len = field->len;
	int chars = column->max_chars;
	uint64 bits = 0;

	if (chars < len || chars + VARHDRSZ_SHORT > VARATT_SHORT_MAX ||
		limit - out < chars + 2 * ETL_WRITE_SLACK)
		return NULL;
	for (int i = 0; i < len; i += 8)
		bits |= etl_load_bytes(field->data + i)
				<< (len - i < 8 ? 64 - 8 * (len - i) : 0);
	if (bits & UINT64CONST(0x8080808080808080))
		return NULL;

	SET_VARSIZE_SHORT(out, chars + VARHDRSZ_SHORT);
	out += VARHDRSZ_SHORT;
	copy_wide(out, field->data, len);
	for (int i = len; i < chars; i += 16)
		memset(out + i, ' ', 16);
	return out + chars;
}

/* The number of characters in valid text of the server's encoding. */
static int
count_chars(const char *data, int len)
{
	if (GetDatabaseEncoding() == PG_UTF8)
		return count_utf8_chars(data, len);
	return pg_mbstrlen_with_len(data, len);
}

/*
 * A UTF-8 character is one byte that is not of the form 10xxxxxx, and any
 * that are.  Counts the latter, eight at a time.
 */
static int
count_utf8_chars(const char *data, int len)
{
	const uint64 low_bits = UINT64CONST(0x0101010101010101);
	int continuations = 0;
	int i = 0;

	for (; i + (int) sizeof(uint64) <= len; i += sizeof(uint64))
	{
		uint64 word;

		memcpy(&word, data + i, sizeof(word));
		word = (word >> 7) & ~(word >> 6) & low_bits;
		continuations += (int) ((word * low_bits) >> 56);
	}
	for (; i < len; i++)
		continuations += ((unsigned char) data[i] & 0xC0) == 0x80;
	return len - continuations;
}
