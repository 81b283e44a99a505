/*-------------------------------------------------------------------------
 *
 * catalog.c
 *	  What the reader of another server's changes needs of a server beyond
 *	  backend.c: a few types, rows, hash tables, sets, transactions.
 *
 * Types have the numbers of real ones and behave like them as far as it matters
 * here: int4 takes digits only, and char(n) is filled up with blanks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "nodes/bitmapset.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "base/base.h"
#include "compat.h"
#include "fuzz.h"

/* ------------------------------------------------------------------ */
/* types                                                                */

static const struct
{
	Oid oid;
	Oid element;
	char kind;
	int16 len;
} types[] = {
	{TEXTOID, InvalidOid, TYPTYPE_BASE, -1},
	{INT4OID, InvalidOid, TYPTYPE_BASE, 4},
	{BPCHAROID, InvalidOid, TYPTYPE_BASE, -1},
	{INT4ARRAYOID, INT4OID, TYPTYPE_BASE, -1},
	{INT4RANGEOID, InvalidOid, TYPTYPE_RANGE, -1},
	{REGCLASSOID, InvalidOid, TYPTYPE_BASE, 4},
	{REGCLASSARRAYOID, REGCLASSOID, TYPTYPE_BASE, -1},
	{RECORDOID, InvalidOid, TYPTYPE_PSEUDO, -1},
};

static int
find_type(Oid oid)
{
	for (int i = 0; i < (int) lengthof(types); i++)
	{
		if (types[i].oid == oid)
			return i;
	}
	return -1;
}

bool
get_typisdefined(Oid type)
{
	return find_type(type) >= 0;
}

Oid
get_element_type(Oid type)
{
	return types[find_type(type)].element;
}

char
get_typtype(Oid type)
{
	return types[find_type(type)].kind;
}

/* The number of an input function is that of its type. */
void
getTypeInputInfo(Oid type, Oid *function, Oid *param)
{
	if (find_type(type) < 0)
		fuzz_fail("a column of an unknown type");
	*function = type;
	*param = types[find_type(type)].element;
}

void
fmgr_info(Oid function, FmgrInfo *info)
{
	info->fn_oid = function;
}

/* The string must end where the value ends: the caller sees to that. */
Datum
InputFunctionCall(FmgrInfo *info, char *string, Oid param, int32 typmod)
{
	size_t len = strlen(string);
	size_t size;
	text *result;

	switch (info->fn_oid)
	{
		case INT4OID:
			if (len == 0 || len > 9 || strspn(string, "0123456789") != len)
				ereport(ERROR, (errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
								errmsg("no number")));
			return Int32GetDatum(atoi(string));
		case BPCHAROID:
			if (typmod > (int32) MaxAllocSize)
				ereport(ERROR,
						(errcode(ERRCODE_INTERNAL_ERROR), errmsg("too large")));
			size = Max(len + VARHDRSZ, (size_t) Max(0, Min(typmod, 10000)));
			result = palloc(size);
			memset(result, ' ', size);
			memcpy(VARDATA(result), string, len);
			SET_VARSIZE(result, size);
			return PointerGetDatum(result);
		default:
			if (string[0] == '?')
				ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
								errmsg("no value")));
			return PointerGetDatum(cstring_to_text_with_len(string, len));
	}
}

text *
cstring_to_text_with_len(const char *string, int len)
{
	text *result = palloc(len + VARHDRSZ);

	SET_VARSIZE(result, len + VARHDRSZ);
	memcpy(VARDATA(result), string, len);
	return result;
}

bool
pg_verifymbstr(const char *string, int len, bool no_error)
{
	if (pg_encoding_verifymbstr(fuzz_encoding, string, len) != len)
		ereport(ERROR, (errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
						errmsg("invalid byte sequence")));
	return true;
}

bool
etl_error_is_row_fault(const ErrorData *error)
{
	return ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_DATA_EXCEPTION;
}

/* ------------------------------------------------------------------ */
/* rows                                                                 */

TupleDesc
CreateTemplateTupleDesc(int natts)
{
	TupleDesc desc;

#if PG_VERSION_NUM >= 180000
	desc = palloc0(
		offsetof(struct TupleDescData, compact_attrs) +
		natts * (sizeof(CompactAttribute) + sizeof(FormData_pg_attribute)));
#else
	desc = palloc0(offsetof(struct TupleDescData, attrs) +
				   natts * sizeof(FormData_pg_attribute));
#endif
	desc->natts = natts;
	return desc;
}

void
TupleDescInitEntry(TupleDesc desc, AttrNumber attnum, const char *name,
				   Oid type, int32 typmod, int dims)
{
	Form_pg_attribute att = TupleDescAttr(desc, attnum - 1);

	if (attnum < 1 || attnum > desc->natts || find_type(type) < 0)
		fuzz_fail("a column that is none");
	/* The name may be the one that is there. */
	memmove(NameStr(att->attname), name, strlen(name) + 1);
	att->atttypid = type;
	att->atttypmod = typmod;
	att->attlen = types[find_type(type)].len;
	att->attbyval = att->attlen > 0;
}

TupleDesc
CreateTupleDescCopy(TupleDesc desc)
{
	TupleDesc copy = CreateTemplateTupleDesc(desc->natts);

	for (int i = 0; i < desc->natts; i++)
		memcpy(TupleDescAttr(copy, i), TupleDescAttr(desc, i),
			   sizeof(FormData_pg_attribute));
	return copy;
}

bool
equalTupleDescs(TupleDesc a, TupleDesc b)
{
	for (int i = 0; i < a->natts; i++)
	{
		if (memcmp(TupleDescAttr(a, i), TupleDescAttr(b, i),
				   sizeof(FormData_pg_attribute)) != 0)
			return false;
	}
	return a->natts == b->natts;
}

/* Each value is copied, so that all of it is read. */
HeapTuple
heap_form_tuple(ETL_FORM_PARAMETERS)
{
	HeapTuple tuple = palloc0(sizeof(HeapTupleData));
	Datum *copies = palloc0(Max(desc->natts, 1) * sizeof(Datum));

	for (int i = 0; i < desc->natts; i++)
	{
		Size size;

		if (nulls[i] || TupleDescAttr(desc, i)->attbyval)
			continue;
		size = VARSIZE(DatumGetPointer(values[i]));
		copies[i] = PointerGetDatum(
			memcpy(palloc(size), DatumGetPointer(values[i]), size));
	}
	tuple->t_len = desc->natts * sizeof(Datum);
	tuple->t_data = (HeapTupleHeader) copies;
	return tuple;
}

/* ------------------------------------------------------------------ */
/* hash tables: a list will do                                          */

struct HTAB
{
	Size keysize;
	Size entrysize;
	MemoryContext context;
	List *entries;
};

HTAB *
hash_create(const char *name, long nelem, const HASHCTL *info, int flags)
{
	HTAB *table = MemoryContextAllocZero(info->hcxt, sizeof(HTAB));

	table->keysize = info->keysize;
	table->entrysize = info->entrysize;
	table->context = info->hcxt;
	return table;
}

void *
hash_search(HTAB *table, const void *key, HASHACTION action, bool *found)
{
	MemoryContext old;
	ListCell *lc;
	void *entry = NULL;

	foreach(lc, table->entries)
	{
		if (memcmp(lfirst(lc), key, table->keysize) == 0)
			entry = lfirst(lc);
	}
	if (found != NULL)
		*found = entry != NULL;
	if (entry != NULL || action != HASH_ENTER)
		return entry;
	old = MemoryContextSwitchTo(table->context);
	entry = palloc(table->entrysize);
	memset(entry, 0x7f, table->entrysize);
	memcpy(entry, key, table->keysize);
	table->entries = lappend(table->entries, entry);
	MemoryContextSwitchTo(old);
	return entry;
}

/* ------------------------------------------------------------------ */
/* sets of columns: of a size that holds all                            */

#define NWORDS	 (MaxTupleAttributeNumber / BITS_PER_BITMAPWORD + 1)
#define SET_SIZE (offsetof(Bitmapset, words) + NWORDS * sizeof(bitmapword))

Bitmapset *
bms_add_member(Bitmapset *a, int x)
{
	if (a == NULL)
		a = palloc0(SET_SIZE);
	a->words[x / BITS_PER_BITMAPWORD] |= (bitmapword) 1
										 << (x % BITS_PER_BITMAPWORD);
	return a;
}

bool
bms_is_member(int x, const Bitmapset *a)
{
	return a != NULL &&
		   (a->words[x / BITS_PER_BITMAPWORD] >> (x % BITS_PER_BITMAPWORD) &
			1) != 0;
}

Bitmapset *
bms_copy(const Bitmapset *a)
{
	return a == NULL ? NULL : memcpy(palloc(SET_SIZE), a, SET_SIZE);
}

void
bms_free(Bitmapset *a)
{
	if (a != NULL)
		pfree(a);
}

bool
bms_is_subset(const Bitmapset *a, const Bitmapset *b)
{
	for (int i = 0; i < (int) MaxTupleAttributeNumber; i++)
	{
		if (bms_is_member(i, a) && !bms_is_member(i, b))
			return false;
	}
	return true;
}

bool
bms_equal(const Bitmapset *a, const Bitmapset *b)
{
	return bms_is_subset(a, b) && bms_is_subset(b, a);
}

Bitmapset *
bms_add_members(Bitmapset *a, const Bitmapset *b)
{
	for (int i = 0; i < (int) MaxTupleAttributeNumber; i++)
	{
		if (bms_is_member(i, b))
			a = bms_add_member(a, i);
	}
	return a;
}

/* ------------------------------------------------------------------ */
/* transactions: what is kept in one shows as a leak                    */

void
StartTransactionCommand(void)
{
	CurrentMemoryContext = fuzz_top;
}

void
AbortCurrentTransaction(void)
{
	CurrentMemoryContext = NULL;
}
