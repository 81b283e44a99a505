/*-------------------------------------------------------------------------
 *
 * values.h
 *	  Comparing and hashing the values of columns.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_VALUES_H
#define ETL_VALUES_H

#include "compat.h"
#include "fmgr.h"

/*
 * How the values of one type and collation compare.  A type without an
 * equality operator (json, point) is compared by image: its bytes after
 * detoasting.  Functions that detoast leave the copy in the current memory
 * context, which the caller resets.
 */
typedef struct EtlValueOps
{
	Oid type;
	Oid collation;
	int16 typlen;
	bool typbyval;
	bool has_equal;	  /* else values are compared by image */
	bool image_equal; /* values are equal only if their images are */
	bool has_hash;	  /* that goes with equality: etl_value_hash() works */
	bool has_compare;
	FmgrInfo equal;
	FmgrInfo hash; /* the 64-bit one, with a seed; of image_equal maybe none */
	FmgrInfo compare;
} EtlValueOps;

/* A column of a row whose values lie in an array. */
typedef struct EtlRowColumn
{
	int position; /* in the array */
	EtlValueOps *ops;
} EtlRowColumn;

/* in values.c */
extern void etl_value_ops_init(EtlValueOps *ops, Oid type, Oid collation);
extern bool etl_value_equal(EtlValueOps *ops, Datum a, bool a_null, Datum b,
							bool b_null);
extern int etl_value_compare(EtlValueOps *ops, Datum a, Datum b);
extern uint64 etl_value_hash(EtlValueOps *ops, Datum value, bool isnull,
							 uint64 seed);
extern uint64 etl_value_fingerprint(EtlValueOps *ops, Datum value, bool isnull,
									uint64 seed);
extern uint64 etl_row_hash(const EtlRowColumn *columns, int n_columns,
						   const Datum *values, const bool *nulls, uint64 seed);
extern uint64 etl_row_fingerprint(const EtlRowColumn *columns, int n_columns,
								  const Datum *values, const bool *nulls,
								  uint64 seed);

#endif /* ETL_VALUES_H */
