/*-------------------------------------------------------------------------
 *
 * cdc_changelog.c
 *	  etl_cdc_create_changelog(): a table for one row per change.
 *
 * The command runs with the caller's rights.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "flow/flow.h"

PG_FUNCTION_INFO_V1(etl_cdc_create_changelog);

/*
 * etl_cdc_create_changelog(target): see docs/cdc.md.  The table has a column
 * for each part of an envelope but the whole.
 */
Datum
etl_cdc_create_changelog(PG_FUNCTION_ARGS)
{
	StringInfoData sql;
	char *schema;
	char *table;
	Oid namespace;
	Oid relid;
	int rc;

	etl_refuse_null(fcinfo, 0, "target");
	DeconstructQualifiedName(etl_qualified_names(etl_arg_text(fcinfo, 0)),
							 &schema, &table);
	if (schema == NULL)
	{
		namespace = RangeVarGetCreationNamespace(makeRangeVar(NULL, table, -1));
		schema = get_namespace_name(namespace);
	}
	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "CREATE TABLE %s ("
					 "change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
					 " op text,"
					 " key pg_catalog.jsonb,"
					 " before pg_catalog.jsonb,"
					 " after pg_catalog.jsonb,"
					 " source pg_catalog.jsonb,"
					 " ts_ms bigint,"
					 " transaction pg_catalog.jsonb,"
					 " \"table\" text,"
					 " lsn pg_catalog.pg_lsn,"
					 " commit_lsn pg_catalog.pg_lsn,"
					 " ordinal bigint,"
					 " xid bigint,"
					 " committed_at timestamptz)",
					 quote_qualified_identifier(schema, table));
	SPI_connect();
	rc = SPI_execute(sql.data, false, 0);
	if (rc != SPI_OK_UTILITY)
		elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(rc));
	SPI_finish();
	relid = get_relname_relid(table, LookupExplicitNamespace(schema, false));
	PG_RETURN_OID(relid);
}
