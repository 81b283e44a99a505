/*
 * Included before everything else where a sanitizer is to look on: the memory
 * contexts that the extension makes take each chunk from malloc().
 */
#ifndef ETL_SANITIZE_CONTEXTS_H
#define ETL_SANITIZE_CONTEXTS_H

#define AllocSetContextCreateInternal etl_malloc_context_create

#endif /* ETL_SANITIZE_CONTEXTS_H */
