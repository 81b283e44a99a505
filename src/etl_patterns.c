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
int etl_horizon_guard = 100;

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
	DefineCustomIntVariable(ETL_SCHEMA ".horizon_guard",
							"Sets how old a row must be for a pull with safety "
							"'horizon' to read it while other sessions are "
							"connected.",
							"Covers the time between getting a statement and "
							"showing the start of its transaction.",
							&etl_horizon_guard, 100, 0, 60000, PGC_USERSET,
							GUC_UNIT_MS, NULL, NULL, NULL);
	MarkGUCPrefixReserved(ETL_SCHEMA);
}
