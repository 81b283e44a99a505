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

int etl_merge_path = ETL_MERGE_PATH_AUTO;

static const struct config_enum_entry merge_path_options[] = {
	{"auto", ETL_MERGE_PATH_AUTO, false},
	{"general", ETL_MERGE_PATH_GENERAL, false},
	{NULL, 0, false},
};

void _PG_init(void);

/*
 * Define our settings, and reserve their prefix, so that a misspelt one is an
 * error instead of a setting that nobody reads.
 */
void
_PG_init(void)
{
	DefineCustomEnumVariable(ETL_SCHEMA ".merge_path",
							 "Sets how merges read and write their target.",
							 "\"auto\" goes straight to the heap where that is "
							 "possible, \"general\" uses SQL throughout.",
							 &etl_merge_path, ETL_MERGE_PATH_AUTO,
							 merge_path_options, PGC_USERSET, 0, NULL, NULL,
							 NULL);
	MarkGUCPrefixReserved(ETL_SCHEMA);
}
