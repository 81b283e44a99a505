/*-------------------------------------------------------------------------
 *
 * convert_types.h
 *	  What convert.c and the converters of the types share; private to them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_CONVERT_TYPES_H
#define ETL_CONVERT_TYPES_H

#include "source/source.h"
#include "fmgr.h"
#include "port/pg_bswap.h"

typedef struct EtlColumnConverter EtlColumnConverter;

/*
 * Converts a field that is not null, without ever throwing for what is in
 * it.  False means "not certain": then the type's input function decides.
 */
typedef bool (*EtlFastConverter)(const EtlColumnConverter *column,
								 const EtlField *field, Datum *value);

/*
 * Writes such a field as it stands in a heap tuple, at out, and returns the
 * place behind it; so many bytes behind that may be spoilt.  NULL means that the
 * converter and the general code should do it, or that limit would be passed.
 * Only for columns whose values may have a header of one byte.
 */
#define ETL_WRITE_SLACK 16

typedef char *(*EtlFastWriter)(const EtlColumnConverter *column,
							   const EtlField *field, char *out,
							   const char *limit);

/*
 * Where the values of one row go: a piece of the caller's memory context.
 * Like values inside a tuple they cannot be freed one by one.
 */
typedef struct EtlRowArena
{
	char *next;
	size_t left;
	size_t used;	   /* by this row */
	size_t chunk_size; /* grows with the rows */
} EtlRowArena;

struct EtlColumnConverter
{
	AttrNumber attnum; /* invalid: the field is ignored */
	const char *name;
	Oid type_input;
	Oid type_ioparam;
	int32 typmod;
	bool strict;		   /* null without calling the input function */
	EtlFastConverter fast; /* or NULL */
	EtlFastWriter write;   /* or NULL */
	EtlRowArena *arena;

	/* What the fast converters read from typmod. */
	int precision; /* of numeric; -1: none */
	int scale;	   /* of numeric and of seconds; -1: none */
	int max_chars; /* of varchar and char; -1: none */
	bool zulu;	   /* of timestamptz: Z means UTC */

	/* The input function, looked up when first needed. */
	MemoryContext io_context; /* holds what it caches */
	FmgrInfo io_function;
};

/* in convert.c */
extern void etl_column_init_fast(EtlColumnConverter *column,
								 Form_pg_attribute att);
extern void *etl_row_alloc_chunk(EtlRowArena *arena, size_t size);

/* Memory for a value; 8-byte aligned, not zeroed. */
static inline void *
etl_row_alloc(EtlRowArena *arena, size_t size)
{
	size_t need = MAXALIGN(size);
	void *result;

	if (unlikely(need > arena->left))
		return etl_row_alloc_chunk(arena, need);
	result = arena->next;
	arena->next += need;
	arena->left -= need;
	arena->used += need;
	return result;
}

/* Digits, eight at a time: the first is the lowest byte. */
static inline uint64
etl_load_bytes(const char *p)
{
	uint64 word;

	memcpy(&word, p, sizeof(word));
#ifdef WORDS_BIGENDIAN
	word = pg_bswap64(word);
#endif
	return word;
}

/* Are all eight bytes digits? */
static inline bool
etl_all_digits(uint64 word)
{
	const uint64 high = UINT64CONST(0xF0F0F0F0F0F0F0F0);
	uint64 beyond_nine = word + UINT64CONST(0x0606060606060606);

	return ((word & high) | ((beyond_nine & high) >> 4)) ==
		   UINT64CONST(0x3333333333333333);
}

/* In every other byte, from the lowest, the number of two digits. */
static inline uint64
etl_digit_pairs(uint64 word)
{
	word -= UINT64CONST(0x3030303030303030);
	return word * 10 + (word >> 8);
}

/*
 * Reads n digits, 1 to 8; false if they are none.  As many bytes as eight may
 * be looked at.
 */
static inline bool
etl_scan_digits(const char *p, int n, uint32 *number)
{
	const uint64 pairs = UINT64CONST(0x000000FF000000FF);
	uint64 word = etl_load_bytes(p) << (64 - 8 * n);

	word |= UINT64CONST(0x0030303030303030) >> (8 * n - 8);
	if (!etl_all_digits(word))
		return false;
	word = etl_digit_pairs(word);
	*number = ((word & pairs) * UINT64CONST(0x000F424000000064) +
			   ((word >> 16) & pairs) * UINT64CONST(0x0000271000000001)) >>
			  32;
	return true;
}

/* The same for up to sixteen digits. */
static inline bool
etl_scan_many_digits(const char *p, int n, uint64 *number)
{
	uint32 high = 0;
	uint32 low = 0;

	if (n > 8 && !etl_scan_digits(p, n - 8, &high))
		return false;
	if (n > 8 ? !etl_scan_digits(p + n - 8, 8, &low) :
				!etl_scan_digits(p, n, &low))
		return false;
	*number = (uint64) high * 100000000 + low;
	return true;
}

/* in convert_number.c */
extern bool etl_convert_int2(const EtlColumnConverter *column,
							 const EtlField *field, Datum *value);
extern bool etl_convert_int4(const EtlColumnConverter *column,
							 const EtlField *field, Datum *value);
extern bool etl_convert_int8(const EtlColumnConverter *column,
							 const EtlField *field, Datum *value);
extern bool etl_convert_float4(const EtlColumnConverter *column,
							   const EtlField *field, Datum *value);
extern bool etl_convert_float8(const EtlColumnConverter *column,
							   const EtlField *field, Datum *value);
extern void etl_numeric_typmod(EtlColumnConverter *column);
extern bool etl_convert_numeric(const EtlColumnConverter *column,
								const EtlField *field, Datum *value);
extern char *etl_write_numeric(const EtlColumnConverter *column,
							   const EtlField *field, char *out,
							   const char *limit);

/* in convert_datetime.c */
extern bool etl_convert_date(const EtlColumnConverter *column,
							 const EtlField *field, Datum *value);
extern bool etl_convert_time(const EtlColumnConverter *column,
							 const EtlField *field, Datum *value);
extern bool etl_convert_timestamp(const EtlColumnConverter *column,
								  const EtlField *field, Datum *value);
extern bool etl_convert_timestamptz(const EtlColumnConverter *column,
									const EtlField *field, Datum *value);
extern bool etl_zulu_is_utc(void);

/* in convert_text.c */
extern bool etl_convert_bool(const EtlColumnConverter *column,
							 const EtlField *field, Datum *value);
extern bool etl_convert_text(const EtlColumnConverter *column,
							 const EtlField *field, Datum *value);
extern bool etl_convert_varchar(const EtlColumnConverter *column,
								const EtlField *field, Datum *value);
extern bool etl_convert_bpchar(const EtlColumnConverter *column,
							   const EtlField *field, Datum *value);
extern char *etl_write_text(const EtlColumnConverter *column,
							const EtlField *field, char *out, const char *limit);
extern char *etl_write_varchar(const EtlColumnConverter *column,
							   const EtlField *field, char *out,
							   const char *limit);
extern char *etl_write_bpchar(const EtlColumnConverter *column,
							  const EtlField *field, char *out,
							  const char *limit);
extern bool etl_convert_bytea(const EtlColumnConverter *column,
							  const EtlField *field, Datum *value);
extern bool etl_convert_uuid(const EtlColumnConverter *column,
							 const EtlField *field, Datum *value);

/* in convert_json.c */
extern bool etl_convert_json(const EtlColumnConverter *column,
							 const EtlField *field, Datum *value);
extern bool etl_convert_jsonb(const EtlColumnConverter *column,
							  const EtlField *field, Datum *value);

#endif /* ETL_CONVERT_TYPES_H */
