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

typedef struct EtlColumnConverter EtlColumnConverter;

/*
 * Converts a field that is not null, without ever throwing for what is in
 * it.  False means "not certain": then the type's input function decides.
 */
typedef bool (*EtlFastConverter)(const EtlColumnConverter *column,
								 const EtlField *field, Datum *value);

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
