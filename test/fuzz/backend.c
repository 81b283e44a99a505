/*-------------------------------------------------------------------------
 *
 * backend.c
 *	  What the CSV reader needs of a server, for a program without one.
 *
 * Every chunk comes from malloc(), so that a sanitizer knows its bounds.  An
 * error goes to whoever has set fuzz_on_error.  What is not freed when an input
 * is done with is freed by fuzz_free_all().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <setjmp.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/ilist.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/memutils.h"

#include "compat.h"
#include "etl_patterns.h"
#include "fuzz.h"

typedef struct Chunk
{
	dlist_node node;
	Size size;
	Size filler; /* data begins at a multiple of 16 */
} Chunk;

#define CHUNK_OF(pointer) ((Chunk *) ((char *) (pointer) - sizeof(Chunk)))

static dlist_head chunks = DLIST_STATIC_INIT(chunks);

jmp_buf *fuzz_on_error;
int fuzz_encoding = PG_UTF8;
int etl_csv_scan_way = ETL_CSV_SCAN_AUTO;

volatile sig_atomic_t InterruptPending = false;
MemoryContext CurrentMemoryContext;

/* ------------------------------------------------------------------ */
/* memory                                                               */

void *
palloc(Size size)
{
	Chunk *chunk = malloc(sizeof(Chunk) + size);

	if (chunk == NULL)
		abort();
	chunk->size = size;
	dlist_push_tail(&chunks, &chunk->node);
	return (char *) chunk + sizeof(Chunk);
}

void
pfree(void *pointer)
{
	dlist_delete(&CHUNK_OF(pointer)->node);
	free(CHUNK_OF(pointer));
}

void
fuzz_free_all(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &chunks)
		free(dlist_container(Chunk, node, iter.cur));
	dlist_init(&chunks);
}

void *
palloc0(Size size)
{
	return memset(palloc(size), 0, size);
}

void *
palloc_extended(Size size, int flags)
{
	return (flags & MCXT_ALLOC_ZERO) ? palloc0(size) : palloc(size);
}

void *
repalloc(void *pointer, Size size)
{
	void *result = palloc(size);

	memcpy(result, pointer, Min(size, CHUNK_OF(pointer)->size));
	pfree(pointer);
	return result;
}

char *
pnstrdup(const char *in, Size len)
{
	char *result;

	len = strnlen(in, len);
	result = palloc(len + 1);
	memcpy(result, in, len);
	result[len] = '\0';
	return result;
}

char *
pstrdup(const char *in)
{
	return pnstrdup(in, strlen(in));
}

void *
MemoryContextAlloc(MemoryContext context, Size size)
{
	return palloc(size);
}

void *
MemoryContextAllocZero(MemoryContext context, Size size)
{
	return palloc0(size);
}

void *
MemoryContextAllocHuge(MemoryContext context, Size size)
{
	return palloc(size);
}

void *
repalloc_huge(void *pointer, Size size)
{
	return repalloc(pointer, size);
}

MemoryContext
AllocSetContextCreateInternal(MemoryContext parent, const char *name,
							  Size min_size, Size init_size, Size max_size)
{
	return palloc0(64);
}

void
MemoryContextDelete(MemoryContext context)
{
	pfree(context);
}

void
MemoryContextReset(MemoryContext context)
{
}

/* ------------------------------------------------------------------ */
/* lists                                                                */

List *
lappend(List *list, void *datum)
{
	if (list == NIL)
	{
		list = palloc0(sizeof(List));
		list->type = T_List;
		list->max_length = 4;
		list->elements = palloc(sizeof(ListCell) * 4);
	}
	if (list->length == list->max_length)
	{
		list->max_length *= 2;
		list->elements = repalloc(list->elements,
								  sizeof(ListCell) * list->max_length);
	}
	list->elements[list->length++].ptr_value = datum;
	return list;
}

void
list_free(List *list)
{
	if (list == NIL)
		return;
	pfree(list->elements);
	pfree(list);
}

void
list_free_deep(List *list)
{
	for (int i = 0; list != NIL && i < list->length; i++)
		pfree(list->elements[i].ptr_value);
	list_free(list);
}

/* ------------------------------------------------------------------ */
/* errors                                                               */

bool
errstart(int elevel, const char *domain)
{
	return elevel >= ERROR;
}

bool
errstart_cold(int elevel, const char *domain)
{
	return elevel >= ERROR;
}

void
errfinish(const char *filename, int lineno, const char *funcname)
{
	if (fuzz_on_error == NULL)
		abort();
	longjmp(*fuzz_on_error, 1);
}

int
errcode(int sqlerrcode)
{
	return 0;
}

int
errmsg(const char *fmt, ...)
{
	return 0;
}

/* What can't happen has happened. */
int
errmsg_internal(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	abort();
}

int
errdetail(const char *fmt, ...)
{
	return 0;
}

int
errhint(const char *fmt, ...)
{
	return 0;
}

void
ProcessInterrupts(void)
{
}

#ifdef USE_ASSERT_CHECKING
void
ExceptionalCondition(ETL_ASSERT_PARAMETERS)
{
	fprintf(stderr, "%s:%d: %s\n", fileName, lineNumber, conditionName);
	abort();
}
#endif

/* ------------------------------------------------------------------ */
/* encodings: each character of another one becomes one of Latin 1        */

int
GetDatabaseEncoding(void)
{
	return fuzz_encoding;
}

Oid
FindDefaultConversionProc(int32 for_encoding, int32 to_encoding)
{
	return (Oid) 1;
}

int
pg_do_encoding_conversion_buf(Oid proc, int src_encoding, int dest_encoding,
							  unsigned char *src, int srclen,
							  unsigned char *dest, int destlen, bool no_error)
{
	int from = 0;
	int to = 0;

	while (from < srclen && to + 2 < destlen)
	{
		int n = pg_encoding_verifymbchar(src_encoding, (char *) src + from,
										 srclen - from);

		if (n < 1 || src[from] == 0)
			break;
		/* Not mapped to anything by the real ones. */
		if (n > 1 && src[from + n - 1] < '0')
			break;
		if (n == 1 && src[from] < 128)
			dest[to++] = src[from];
		else
		{
			unsigned char last = src[from + n - 1];

			dest[to++] = 0xc2 | (last >> 6 & 1);
			dest[to++] = 0x80 | (last & 0x3f);
		}
		from += n;
	}
	dest[to] = '\0';
	return from;
}
