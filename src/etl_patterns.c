/*-------------------------------------------------------------------------
 *
 * etl_patterns.c
 *	  Module load.
 *
 * Settings, shared memory and worker registration belong here and nothing
 * else does; every pattern has a room of its own below src/.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/guc.h"

#include "compat.h"
#include "etl_patterns.h"

PG_MODULE_MAGIC;

void _PG_init(void);

/*
 * Reserve our settings' prefix, so that a misspelt one is an error instead of
 * a setting that nobody reads.
 */
void
_PG_init(void)
{
	MarkGUCPrefixReserved(ETL_SCHEMA);
}
