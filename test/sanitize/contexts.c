/*-------------------------------------------------------------------------
 *
 * contexts.c
 *	  Memory contexts whose chunks come from malloc(), one by one.
 *
 * An address sanitizer knows the bounds of what malloc() gave.  PostgreSQL's
 * own contexts cut their chunks out of large blocks, so that it would see
 * nothing there.  Only PostgreSQL 15 lets a library bring a context of its own;
 * with later ones this file stands for the usual contexts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/ilist.h"
#include "nodes/memnodes.h"
#include "utils/memutils.h"

#if PG_VERSION_NUM < 160000

typedef struct MallocContext
{
	MemoryContextData header;
	dlist_head chunks;
} MallocContext;

/* What stands in front of each chunk; the context is last, as pfree() wants. */
typedef struct Chunk
{
	dlist_node node;
	Size size;
	MemoryContext context;
} Chunk;

#define CHUNK_OF(pointer) ((Chunk *) ((char *) (pointer) - sizeof(Chunk)))
#define DATA_OF(chunk)	  ((void *) ((char *) (chunk) + sizeof(Chunk)))

static void *
chunk_alloc(MemoryContext context, Size size)
{
	Chunk *chunk = malloc(sizeof(Chunk) + size);

	if (chunk == NULL)
		return NULL;
	chunk->size = size;
	chunk->context = context;
	dlist_push_tail(&((MallocContext *) context)->chunks, &chunk->node);
	context->mem_allocated += sizeof(Chunk) + size;
	return DATA_OF(chunk);
}

static void
chunk_free(MemoryContext context, void *pointer)
{
	Chunk *chunk = CHUNK_OF(pointer);

	dlist_delete(&chunk->node);
	context->mem_allocated -= sizeof(Chunk) + chunk->size;
	free(chunk);
}

/* Always moves, so that pointers to the old place are found out. */
static void *
chunk_realloc(MemoryContext context, void *pointer, Size size)
{
	void *result = chunk_alloc(context, size);

	if (result == NULL)
		return NULL;
	memcpy(result, pointer, Min(size, CHUNK_OF(pointer)->size));
	chunk_free(context, pointer);
	return result;
}

static void
context_reset(MemoryContext context)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &((MallocContext *) context)->chunks)
		free(dlist_container(Chunk, node, iter.cur));
	dlist_init(&((MallocContext *) context)->chunks);
	context->mem_allocated = 0;
}

static void
context_delete(MemoryContext context)
{
	context_reset(context);
	free(context);
}

static Size
chunk_space(MemoryContext context, void *pointer)
{
	return sizeof(Chunk) + CHUNK_OF(pointer)->size;
}

static bool
context_is_empty(MemoryContext context)
{
	return dlist_is_empty(&((MallocContext *) context)->chunks);
}

static void
context_stats(MemoryContext context, MemoryStatsPrintFunc print, void *passthru,
			  MemoryContextCounters *totals, bool to_stderr)
{
	if (totals != NULL)
		totals->totalspace += context->mem_allocated;
}

#ifdef MEMORY_CONTEXT_CHECKING
static void
context_check(MemoryContext context)
{
}
#endif

static const MemoryContextMethods methods = {chunk_alloc,	   chunk_free,
											 chunk_realloc,	   context_reset,
											 context_delete,   chunk_space,
											 context_is_empty, context_stats,
#ifdef MEMORY_CONTEXT_CHECKING
											 context_check
#endif
};

MemoryContext
AllocSetContextCreateInternal(MemoryContext parent, const char *name,
							  Size min_size, Size init_size, Size max_size)
{
	MallocContext *context = malloc(sizeof(MallocContext));

	if (context == NULL)
		elog(ERROR, "out of memory");
	dlist_init(&context->chunks);
	MemoryContextCreate(&context->header, T_AllocSetContext, &methods, parent,
						name);
	return &context->header;
}

#else

#undef AllocSetContextCreateInternal
extern MemoryContext AllocSetContextCreateInternal(MemoryContext parent,
												   const char *name,
												   Size min_size, Size init_size,
												   Size max_size);

MemoryContext
etl_malloc_context_create(MemoryContext parent, const char *name, Size min_size,
						  Size init_size, Size max_size)
{
	return AllocSetContextCreateInternal(parent, name, min_size, init_size,
										 max_size);
}

#endif
