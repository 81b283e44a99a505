/*-------------------------------------------------------------------------
 *
 * backend.c
 *	  What the readers need of a server, for a program without one.
 *
 * Every chunk comes from malloc(), so that a sanitizer knows its bounds, and
 * goes with its memory context.  An error goes to the PG_TRY() that it is in,
 * or to whoever has set fuzz_on_error.  What is not freed when an input is done
 * with is freed by fuzz_free_all().
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

/* What MemoryContext points to here. */
typedef struct Context
{
	dlist_node node; /* of the parent's */
	dlist_head children;
	dlist_head chunks;
} Context;

typedef struct Chunk
{
	dlist_node node;
	Size size;
	MemoryContext context; /* last: data begins at a multiple of 16 */
} Chunk;

#define CHUNK_OF(pointer) ((Chunk *) ((char *) (pointer) - sizeof(Chunk)))

static Context top = {.children = DLIST_STATIC_INIT(top.children),
					  .chunks = DLIST_STATIC_INIT(top.chunks)};

jmp_buf *fuzz_on_error;
int fuzz_encoding = PG_UTF8;
MemoryContext fuzz_top = (MemoryContext) &top;
int fuzz_sqlerrcode;
Size fuzz_allocated;

volatile sig_atomic_t InterruptPending = false;
MemoryContext CurrentMemoryContext = (MemoryContext) &top;
sigjmp_buf *PG_exception_stack;
ErrorContextCallback *error_context_stack;

/* ------------------------------------------------------------------ */
/* memory                                                               */

void *
MemoryContextAlloc(MemoryContext context, Size size)
{
	Chunk *chunk = malloc(sizeof(Chunk) + size);

	if (chunk == NULL)
		abort();
	chunk->size = size;
	chunk->context = context;
	fuzz_allocated += size;
	dlist_push_tail(&((Context *) context)->chunks, &chunk->node);
	return (char *) chunk + sizeof(Chunk);
}

static void
free_chunk(Chunk *chunk)
{
	fuzz_allocated -= chunk->size;
	dlist_delete(&chunk->node);
	free(chunk);
}

void
pfree(void *pointer)
{
	free_chunk(CHUNK_OF(pointer));
}

/* Everything that is in a context, and below it. */
void
MemoryContextReset(MemoryContext context)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &((Context *) context)->children)
		MemoryContextDelete(
			(MemoryContext) dlist_container(Context, node, iter.cur));
	dlist_foreach_modify(iter, &((Context *) context)->chunks)
		free_chunk(dlist_container(Chunk, node, iter.cur));
}

void
MemoryContextDelete(MemoryContext context)
{
	MemoryContextReset(context);
	dlist_delete(&((Context *) context)->node);
	free(context);
}

MemoryContext
AllocSetContextCreateInternal(MemoryContext parent, const char *name,
							  Size min_size, Size init_size, Size max_size)
{
	Context *context = malloc(sizeof(Context));

	if (context == NULL)
		abort();
	dlist_init(&context->children);
	dlist_init(&context->chunks);
	dlist_push_tail(&((Context *) parent)->children, &context->node);
	return (MemoryContext) context;
}

void
fuzz_free_all(void)
{
	MemoryContextReset(fuzz_top);
	CurrentMemoryContext = fuzz_top;
}

void *
palloc(Size size)
{
	return MemoryContextAlloc(CurrentMemoryContext, size);
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
	void *result = MemoryContextAlloc(CHUNK_OF(pointer)->context, size);

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
MemoryContextAllocZero(MemoryContext context, Size size)
{
	return memset(MemoryContextAlloc(context, size), 0, size);
}

void *
MemoryContextAllocHuge(MemoryContext context, Size size)
{
	return MemoryContextAlloc(context, size);
}

void *
repalloc_huge(void *pointer, Size size)
{
	return repalloc(pointer, size);
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
	for (ErrorContextCallback *callback = error_context_stack; callback != NULL;
		 callback = callback->previous)
		callback->callback(callback->arg);
	pg_re_throw();
}

void
pg_re_throw(void)
{
	if (PG_exception_stack != NULL)
		siglongjmp(*PG_exception_stack, 1);
	if (fuzz_on_error == NULL)
		abort();
	error_context_stack = NULL;
	longjmp(*fuzz_on_error, 1);
}

int
errcode(int sqlerrcode)
{
	fuzz_sqlerrcode = sqlerrcode;
	return 0;
}

ErrorData *
CopyErrorData(void)
{
	ErrorData *error = palloc0(sizeof(ErrorData));

	error->elevel = ERROR;
	error->sqlerrcode = fuzz_sqlerrcode;
	return error;
}

void
FlushErrorState(void)
{
}

int
set_errcontext_domain(const char *domain)
{
	return 0;
}

/* Its arguments are looked at. */
int
errcontext_msg(const char *fmt, ...)
{
	char buf[1024];
	va_list args;

	va_start(args, fmt);
	vsnprintf(buf, sizeof(buf), fmt, args);
	va_end(args);
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
