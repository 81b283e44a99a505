/*-------------------------------------------------------------------------
 *
 * values.c
 *	  Comparing and hashing the values of columns.
 *
 * A merge compares each column of each row, and nearly all of them are the
 * same, so the cheap tests come first: bytes before the type's operator.
 * The image of a value is its content: the datum in the width of its type,
 * the bytes of a detoasted varlena without its header, the bytes of others.
 * So it does not matter how a value is stored.
 *
 * Invariants:
 *	- Values of the same image are equal, whatever the type's operator says.
 *	- Equal values have the same etl_value_hash().  Values of the same image
 *	  have the same fingerprint, but equal values may have different ones.
 *
 * Hashes are good for one run only: they depend on the byte order, and the
 * mixing may change.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "base/values.h"

#include "access/detoast.h"
#include "access/nbtree.h"
#include "catalog/pg_type.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

/*
 * Odd, with about as many ones as zeros and no pattern: the fractions of the
 * square roots of 2, 3, 5 and 7.
 */
#define MIX_WORD   UINT64CONST(0x6a09e667f3bcc909)
#define MIX_FACTOR UINT64CONST(0xbb67ae8584caa73b)
#define MIX_SECOND UINT64CONST(0x3c6ef372fe94f82b)
#define MIX_NULL   UINT64CONST(0xa54ff53a5f1d36f1)

static bool equality_is_image(TypeCacheEntry *entry, Oid collation);
static bool image_equal(EtlValueOps *ops, Datum a, Datum b);
static bool same_varlena(Datum a, Datum b);
static Size plain_size(EtlValueOps *ops, Datum value);
static inline uint64 mix_value(EtlValueOps *ops, Datum value, bool isnull,
							   uint64 seed);
static uint64 mix_varlena(struct varlena *stored, uint64 seed);
static uint64 mix_bytes(const char *bytes, Size len, uint64 seed);

/* A by-value datum without what is left or right of the type's width. */
static inline uint64
datum_word(int16 typlen, Datum value)
{
	switch (typlen)
	{
		case 1:
			return (uint8) value;
		case 2:
			return (uint16) value;
		case 4:
			return (uint32) value;
		default:
			return (uint64) value;
	}
}

/* Both halves of the product, so that each bit of x reaches all of them. */
static inline uint64
fold_multiply(uint64 x, uint64 factor)
{
	unsigned __int128 product = (unsigned __int128) x * factor;

	return (uint64) product ^ (uint64) (product >> 64);
}

/*
 * One factor is always a constant: with the seed as a factor some words would
 * make all seeds alike.
 */
static inline uint64
mix_word(uint64 word, uint64 seed)
{
	return fold_multiply(seed ^ word ^ MIX_WORD, MIX_FACTOR);
}

static inline uint64
load_word(const char *bytes)
{
	uint64 word;

	memcpy(&word, bytes, sizeof(word));
	return word;
}

static inline uint64
load_half(const char *bytes)
{
	uint32 half;

	memcpy(&half, bytes, sizeof(half));
	return half;
}

/*
 * Looks up how the type's values compare; a domain's like those of its base
 * type.  What the functions cache lives in the current memory context, which
 * must last as long as ops.  Without a collation the type's own is taken.
 */
void
etl_value_ops_init(EtlValueOps *ops, Oid type, Oid collation)
{
	Oid base = getBaseType(type);
	TypeCacheEntry *entry;

	entry = lookup_type_cache(base, TYPECACHE_BTREE_OPFAMILY |
										TYPECACHE_EQ_OPR_FINFO |
										TYPECACHE_CMP_PROC_FINFO |
										TYPECACHE_HASH_EXTENDED_PROC_FINFO);
	if (!OidIsValid(collation))
		collation = entry->typcollation;

	memset(ops, 0, sizeof(EtlValueOps));
	ops->type = base;
	ops->collation = collation;
	ops->typlen = entry->typlen;
	ops->typbyval = entry->typbyval;

	if (OidIsValid(entry->eq_opr_finfo.fn_oid))
	{
		ops->has_equal = true;
		ops->image_equal = equality_is_image(entry, collation);
		fmgr_info_copy(&ops->equal, &entry->eq_opr_finfo, CurrentMemoryContext);
		if (OidIsValid(entry->hash_extended_proc_finfo.fn_oid))
			fmgr_info_copy(&ops->hash, &entry->hash_extended_proc_finfo,
						   CurrentMemoryContext);
		ops->has_hash = ops->image_equal || OidIsValid(ops->hash.fn_oid);
	}
	else if (type_is_rowtype(base))
		fmgr_info(F_RECORD_IMAGE_EQ, &ops->equal); /* field by field */
	else
		ops->image_equal = true;

	if (OidIsValid(entry->cmp_proc_finfo.fn_oid))
	{
		ops->has_compare = true;
		fmgr_info_copy(&ops->compare, &entry->cmp_proc_finfo,
					   CurrentMemoryContext);
	}
}

/*
 * Does equality imply the same image?  The default btree operator class says
 * so, with two exceptions.  That of interval is wrong before PostgreSQL 17
 * ('1 month' equals '30 days'), and that of bpchar takes for granted that
 * values are padded to the same length.
 */
static bool
equality_is_image(TypeCacheEntry *entry, Oid collation)
{
	Oid proc;

	if (!OidIsValid(entry->btree_opf) || entry->btree_opintype == INTERVALOID ||
		entry->btree_opintype == BPCHAROID)
		return false;
	proc = get_opfamily_proc(entry->btree_opf, entry->btree_opintype,
							 entry->btree_opintype, BTEQUALIMAGE_PROC);
	return OidIsValid(proc) &&
		   DatumGetBool(
			   OidFunctionCall1Coll(proc, collation,
									ObjectIdGetDatum(entry->btree_opintype)));
}

/* Are they equal?  A null equals a null only. */
bool
etl_value_equal(EtlValueOps *ops, Datum a, bool a_null, Datum b, bool b_null)
{
	if (a_null || b_null)
		return a_null && b_null;
	if (ops->typbyval)
	{
		if (datum_word(ops->typlen, a) == datum_word(ops->typlen, b))
			return true;
		if (ops->image_equal)
			return false;
	}
	else
	{
		Size size;

		if (DatumGetPointer(a) == DatumGetPointer(b))
			return true;
		if (ops->image_equal)
			return image_equal(ops, a, b);
		size = plain_size(ops, a);
		if (size == plain_size(ops, b) &&
			memcmp(DatumGetPointer(a), DatumGetPointer(b), size) == 0)
			return true;
	}
	return DatumGetBool(FunctionCall2Coll(&ops->equal, ops->collation, a, b));
}

/* Do the values, which are passed by reference, have the same image? */
static bool
image_equal(EtlValueOps *ops, Datum a, Datum b)
{
	Size size;

	if (ops->typlen == -1)
		return same_varlena(a, b);
	size = plain_size(ops, a);
	return size == plain_size(ops, b) &&
		   memcmp(DatumGetPointer(a), DatumGetPointer(b), size) == 0;
}

/* Do the varlenas have the same bytes, however they are stored? */
static bool
same_varlena(Datum a, Datum b)
{
	struct varlena *left = (struct varlena *) DatumGetPointer(a);
	struct varlena *right = (struct varlena *) DatumGetPointer(b);
	bool stored_alike;
	bool same;

	/* The same as stored; of an external value that is its address. */
	stored_alike = VARSIZE_ANY(left) == VARSIZE_ANY(right) &&
				   memcmp(left, right, VARSIZE_ANY(left)) == 0;
	if (stored_alike)
		return true;
	if (toast_raw_datum_size(a) != toast_raw_datum_size(b))
		return false;

	left = pg_detoast_datum_packed(left);
	right = pg_detoast_datum_packed(right);
	same = memcmp(VARDATA_ANY(left), VARDATA_ANY(right),
				  VARSIZE_ANY_EXHDR(left)) == 0;
	if ((Pointer) left != DatumGetPointer(a))
		pfree(left);
	if ((Pointer) right != DatumGetPointer(b))
		pfree(right);
	return same;
}

/* Size of a value that is passed by reference, as it is stored. */
static Size
plain_size(EtlValueOps *ops, Datum value)
{
	if (ops->typlen == -1)
		return VARSIZE_ANY(DatumGetPointer(value));
	if (ops->typlen == -2)
		return strlen(DatumGetCString(value)) + 1;
	return ops->typlen;
}

/* Less than, equal to or greater than zero as a is before, like or after b. */
int
etl_value_compare(EtlValueOps *ops, Datum a, Datum b)
{
	Datum result;

	if (!ops->has_compare)
		elog(ERROR, "type %u has no ordering", ops->type);
	result = FunctionCall2Coll(&ops->compare, ops->collation, a, b);
	return DatumGetInt32(result);
}

/*
 * A hash that is the same for equal values.  The result is the seed for the
 * next column.
 */
uint64
etl_value_hash(EtlValueOps *ops, Datum value, bool isnull, uint64 seed)
{
	Datum hash;

	if (isnull || ops->image_equal)
		return etl_value_fingerprint(ops, value, isnull, seed);
	if (!ops->has_hash)
		elog(ERROR, "type %u has no hash function", ops->type);

	hash = FunctionCall2Coll(&ops->hash, ops->collation, value,
							 Int64GetDatum(0));
	return mix_word(DatumGetUInt64(hash), seed);
}

/*
 * A hash of the value's image.  The result is the seed for the next column.
 */
uint64
etl_value_fingerprint(EtlValueOps *ops, Datum value, bool isnull, uint64 seed)
{
	return mix_value(ops, value, isnull, seed);
}

/* As etl_value_hash(), column after column. */
uint64
etl_row_hash(const EtlRowColumn *columns, int n_columns, const Datum *values,
			 const bool *nulls, uint64 seed)
{
	for (int i = 0; i < n_columns; i++)
	{
		EtlValueOps *ops = columns[i].ops;
		int position = columns[i].position;

		if (likely(ops->image_equal))
			seed = mix_value(ops, values[position], nulls[position], seed);
		else
			seed = etl_value_hash(ops, values[position], nulls[position], seed);
	}
	return seed;
}

/* As etl_value_fingerprint(), column after column. */
uint64
etl_row_fingerprint(const EtlRowColumn *columns, int n_columns,
					const Datum *values, const bool *nulls, uint64 seed)
{
	for (int i = 0; i < n_columns; i++)
	{
		int position = columns[i].position;

		seed = mix_value(columns[i].ops, values[position], nulls[position],
						 seed);
	}
	return seed;
}

static inline uint64
mix_value(EtlValueOps *ops, Datum value, bool isnull, uint64 seed)
{
	const char *bytes = DatumGetPointer(value);

	if (isnull)
		return fold_multiply(seed ^ MIX_NULL, MIX_SECOND);
	if (ops->typbyval)
		return mix_word(datum_word(ops->typlen, value), seed);
	if (ops->typlen != -1)
		return mix_bytes(bytes, plain_size(ops, value), seed);
	if (VARATT_IS_SHORT(bytes) && !VARATT_IS_EXTERNAL(bytes))
		return mix_bytes(VARDATA_SHORT(bytes),
						 VARSIZE_SHORT(bytes) - VARHDRSZ_SHORT, seed);
	return mix_varlena((struct varlena *) bytes, seed);
}

static uint64
mix_varlena(struct varlena *stored, uint64 seed)
{
	struct varlena *plain = stored;
	uint64 result;

	if (VARATT_IS_COMPRESSED(stored) || VARATT_IS_EXTERNAL(stored))
		plain = pg_detoast_datum_packed(stored);
	result = mix_bytes(VARDATA_ANY(plain), VARSIZE_ANY_EXHDR(plain), seed);
	if (plain != stored)
		pfree(plain);
	return result;
}

/*
 * Eight bytes at a time; the last eight may overlap those before.  As the
 * length goes in too, no two strings give the same words.
 */
static uint64
mix_bytes(const char *bytes, Size len, uint64 seed)
{
	const char *end = bytes + len;
	uint64 word;

	seed ^= len * MIX_SECOND;
	if (len > 32)
	{
		uint64 other = seed ^ MIX_NULL;

		/* Two chains, which the processor works on at the same time. */
		for (; end - bytes > 16; bytes += 16)
		{
			seed = mix_word(load_word(bytes), seed);
			other = fold_multiply(other ^ load_word(bytes + 8), MIX_SECOND);
		}
		seed ^= fold_multiply(other, MIX_FACTOR);
	}
	if (len >= 8)
	{
		for (; end - bytes > 8; bytes += 8)
			seed = mix_word(load_word(bytes), seed);
		word = load_word(end - 8);
	}
	else if (len >= 4)
		word = load_half(bytes) << 32 | load_half(end - 4);
	else if (len > 0)
		word = (uint64) (uint8) bytes[0] << 16 |
			   (uint64) (uint8) bytes[len / 2] << 8 | (uint8) end[-1];
	else
		word = 0;
	return mix_word(word, seed);
}
