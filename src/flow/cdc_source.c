/*-------------------------------------------------------------------------
 *
 * cdc_source.c
 *	  The source of a pipeline: which table is meant, and can it be followed?
 *
 * A name is looked up where the table is, with the search path of who asks
 * there, and kept with its schema.  What is known of the table is asked for in
 * SQL, the same here and on another server, so that the same is refused.
 *
 * Locks: AccessShareLock on a source in this database.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"

#include "etl_patterns.h"
#include "flow/cdc_check.h"

/* What names and operators mean does not depend on the session. */
#define SESSION_SETTINGS "SET search_path = pg_catalog, pg_temp; "

/* The columns of DESCRIBE_SOURCE */
enum
{
	FACT_SCHEMA,
	FACT_NAME,
	FACT_KIND,
	FACT_IS_PARTITION,
	FACT_HAS_CHILDREN,
	FACT_IS_TEMPORARY,
	FACT_MAY_SELECT,
	FACT_HAS_ROW_SECURITY,
	FACT_NOT_LOGGED,	 /* a table of it whose changes are not logged */
	FACT_IS_ELSEWHERE,	 /* a table of it that is foreign */
	FACT_NOT_IDENTIFIED, /* a table of it whose rows have no identity */
	NFACTS
};

/*
 * What is known of the table with an oid.  The tables of a partitioned one are
 * its partitions: each has a replica identity of its own.
 */
#define DESCRIBE_SOURCE                                                  \
	"SELECT n.nspname, c.relname, c.relkind, c.relispartition,"          \
	" c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits i"             \
	" WHERE i.inhparent = c.oid), c.relpersistence = 't',"               \
	" has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid)," \
	" min(l.name) FILTER (WHERE l.relpersistence <> 'p'),"               \
	" min(l.name) FILTER (WHERE l.relkind <> 'r'),"                      \
	" min(l.name) FILTER (WHERE NOT l.has_identity)"                     \
	" FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"     \
	" LEFT JOIN LATERAL (SELECT p.relpersistence, p.relkind,"            \
	" format('%%I.%%I', pn.nspname, p.relname) AS name,"                 \
	" p.relreplident = 'f' OR EXISTS (SELECT FROM pg_index i"            \
	" WHERE i.indrelid = p.oid AND i.indisvalid"                         \
	" AND CASE p.relreplident WHEN 'd' THEN i.indisprimary"              \
	" WHEN 'i' THEN i.indisreplident ELSE false END) AS has_identity"    \
	" FROM pg_class p JOIN pg_namespace pn ON pn.oid = p.relnamespace"   \
	" WHERE CASE c.relkind WHEN 'p' THEN p.oid IN (SELECT t.relid"       \
	" FROM pg_partition_tree(c.oid) t WHERE t.isleaf)"                   \
	" ELSE p.oid = c.oid END) l ON true"                                 \
	" WHERE c.oid = %u GROUP BY c.oid, n.nspname"

/* Is this the very database that asks? */
#define DESCRIBE_SERVER                                              \
	"SELECT s.system_identifier, d.oid FROM pg_control_system() s, " \
	"pg_database d WHERE d.datname = current_database()"

static char **ask_here(const char *sql, int natts);
static char **ask_there(EtlRemote *remote, const char *sql, int natts);
static Oid relid_there(EtlRemote *remote, const char *text);
static void check_kind(char **facts, const char *name, bool is_remote);
static void check_rights(const EtlCdcPipeline *pipeline, Oid relid,
						 char **facts, const char *name);
static void check_identity(const EtlCdcTable *table, char **facts,
						   bool is_remote);
static void refuse_this_database(const EtlCdcPipeline *pipeline,
								 EtlRemote *remote);

/* ------------------------------------------------------------------ */
/* positions                                                            */

/*
 * Where the last record ends that is before a position at which the next one
 * is to begin: behind the header of a page none has ended.
 */
XLogRecPtr
etl_cdc_end_of_record(XLogRecPtr next)
{
	if (next % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		return next - SizeOfXLogShortPHD;
	if (XLogSegmentOffset(next, wal_segment_size) == SizeOfXLogLongPHD)
		return next - SizeOfXLogLongPHD;
	return next;
}

/*
 * Where the last record of this server's WAL ends, now.  What is not on disk
 * yet cannot be read, and might wait there for seconds, so it is flushed.
 */
XLogRecPtr
etl_cdc_end_of_wal(void)
{
	XLogRecPtr end = etl_cdc_end_of_record(GetXLogInsertRecPtr());

	XLogFlush(end);
	return end;
}

/* ------------------------------------------------------------------ */
/* servers                                                              */

/* Is it a server of postgres_fdw that a role may use, with a user mapping? */
void
etl_cdc_check_server(const char *server, Oid role)
{
	ForeignServer *found = GetForeignServerByName(server, false);

	if (!etl_is_postgres_fdw(found->fdwid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is no server of postgres_fdw", server),
				 errhint(
					 "Create one with CREATE SERVER ... FOREIGN DATA WRAPPER postgres_fdw.")));
	if (!etl_may_use_server(found->serverid, role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for foreign server %s", server),
				 errhint("Grant it with GRANT USAGE ON FOREIGN SERVER %s TO %s.",
						 quote_identifier(server),
						 quote_identifier(GetUserNameFromId(role, false)))));
	(void) GetUserMapping(role, found->serverid);
}

/* Connects to the server of a pipeline, as its owner does. */
EtlRemote *
etl_cdc_connect(const EtlCdcPipeline *pipeline)
{
	ForeignServer *server;

	etl_cdc_check_server(pipeline->server, pipeline->role);
	server = GetForeignServerByName(pipeline->server, false);
	return etl_remote_connect(server,
							  GetUserMapping(pipeline->role, server->serverid));
}

/* A server that leads back here would be read as another one. */
static void
refuse_this_database(const EtlCdcPipeline *pipeline, EtlRemote *remote)
{
	char **there = ask_there(remote, SESSION_SETTINGS DESCRIBE_SERVER, 2);
	char **here = ask_here(DESCRIBE_SERVER, 2);

	if (there != NULL && here != NULL && there[0] != NULL && there[1] != NULL &&
		strcmp(there[0], here[0]) == 0 && strcmp(there[1], here[1]) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("server \"%s\" leads to this database", pipeline->server),
				 errhint(
					 "Create the pipeline without a server: then it reads this database's own WAL.")));
}

/* ------------------------------------------------------------------ */
/* questions                                                            */

/* The only row of a query's result, in the current memory context, or NULL. */
static char **
ask_here(const char *sql, int natts)
{
	MemoryContext context = CurrentMemoryContext;
	EtlLedgerScope scope;
	char **row = NULL;

	etl_ledger_enter(&scope);
	if (SPI_execute(sql, false, 2) != SPI_OK_SELECT)
		elog(ERROR, "could not look up a relation");
	if (SPI_processed == 1)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(context);

		row = palloc0(sizeof(char *) * natts);
		for (int i = 0; i < natts; i++)
		{
			char *value = SPI_getvalue(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, i + 1);

			row[i] = value == NULL ? NULL : pstrdup(value);
		}
		MemoryContextSwitchTo(spi_context);
	}
	etl_ledger_leave(&scope);
	return row;
}

/* The same on another server, which may answer anything. */
static char **
ask_there(EtlRemote *remote, const char *sql, int natts)
{
	PGresult *result = etl_remote_query(remote, sql, PGRES_TUPLES_OK);
	char **row = NULL;

	if (PQnfields(result) != natts || PQntuples(result) > 1)
		ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
						errmsg("server \"%s\" has sent an unexpected result",
							   remote->server)));
	if (PQntuples(result) == 1)
	{
		row = palloc0(sizeof(char *) * natts);
		for (int i = 0; i < natts; i++)
		{
			if (PQgetisnull(result, 0, i))
				continue;
			row[i] = pstrdup(PQgetvalue(result, 0, i));
			pg_verifymbstr(row[i], (int) strlen(row[i]), false);
		}
	}
	etl_remote_clear(remote);
	return row;
}

/* ------------------------------------------------------------------ */
/* which table                                                          */

/* The table of this database that a text names; InvalidOid without one. */
Oid
etl_cdc_source_relid(const char *text)
{
	List *names = etl_qualified_names(text);

	return RangeVarGetRelid(makeRangeVarFromNameList(names), NoLock, true);
}

/* The same on another server. */
static Oid
relid_there(EtlRemote *remote, const char *text)
{
	char *sql = psprintf("SELECT pg_catalog.to_regclass(%s)::pg_catalog.oid",
						 quote_literal_cstr(text));
	char **row = ask_there(remote, sql, 1);

	return row == NULL || row[0] == NULL ? InvalidOid : atooid(row[0]);
}

/*
 * The table that a user means with a text, or the one that it was before with
 * NULL: sets its name and, here, its oid, and checks that it can be followed.
 */
void
etl_cdc_find_source(const EtlCdcPipeline *pipeline, EtlCdcTable *table,
					const char *text)
{
	const char *name = text == NULL ? table->source : text;
	EtlRemote *remote = NULL;
	char **facts = NULL;
	Oid relid;

	if (pipeline->server == NULL)
	{
		relid = text == NULL ? table->source_relid : etl_cdc_source_relid(text);
		if (OidIsValid(relid))
			LockRelationOid(relid, AccessShareLock);
	}
	else
	{
		(void) etl_qualified_names(name);
		remote = etl_cdc_connect(pipeline);
		relid = relid_there(remote, name);
		refuse_this_database(pipeline, remote);
	}
	if (OidIsValid(relid) && remote == NULL)
		facts = ask_here(psprintf(DESCRIBE_SOURCE, relid), NFACTS);
	else if (OidIsValid(relid))
		facts = ask_there(remote,
						  psprintf(SESSION_SETTINGS DESCRIBE_SOURCE, relid),
						  NFACTS);
	if (facts == NULL && remote != NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("source %s does not exist on server \"%s\"",
							   name, pipeline->server)));
	if (facts == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("source %s does not exist", name)));

	table->source = quote_qualified_identifier(facts[FACT_SCHEMA],
											   facts[FACT_NAME]);
	table->source_relid = remote == NULL ? relid : InvalidOid;
	check_kind(facts, table->source, remote != NULL);
	check_rights(pipeline, relid, facts, table->source);
	check_identity(table, facts, remote != NULL);
	if (remote != NULL)
		etl_remote_disconnect(remote);
}

/* ------------------------------------------------------------------ */
/* what must hold of it                                                 */

/* Only what is written to the WAL as rows of a table can be followed. */
static void
check_kind(char **facts, const char *name, bool is_remote)
{
	const char *detail = NULL;
	const char *hint = NULL;

	if (strcmp(facts[FACT_SCHEMA], ETL_SCHEMA) == 0 ||
		strcmp(facts[FACT_SCHEMA], "pg_catalog") == 0 ||
		strcmp(facts[FACT_SCHEMA], "information_schema") == 0)
		detail = "It belongs to the system, or to this extension.";
	else if (strchr("rp", facts[FACT_KIND][0]) == NULL)
	{
		detail = "It is no table.";
		if (strchr("vm", facts[FACT_KIND][0]) != NULL)
			hint = "Follow the tables that it reads.";
		else if (facts[FACT_KIND][0] == 'f')
			hint = "Follow the table on its own server: give that as \"server\" to etl_cdc_create().";
	}
	else if (facts[FACT_IS_PARTITION][0] == 't')
	{
		detail = "It is a partition.";
		hint = "Follow the partitioned table.";
	}
	else if (facts[FACT_HAS_CHILDREN][0] == 't')
	{
		detail = "Other tables inherit from it.";
		hint = "Follow a partitioned table, or a table without children.";
	}
	else if (facts[FACT_IS_ELSEWHERE] != NULL)
	{
		detail = psprintf("The changes of foreign table %s are not in the WAL.",
						  facts[FACT_IS_ELSEWHERE]);
	}
	else if (facts[FACT_NOT_LOGGED] != NULL && facts[FACT_IS_TEMPORARY][0] == 't')
		detail = "It is temporary: its changes are not in the WAL.";
	else if (facts[FACT_NOT_LOGGED] != NULL)
	{
		detail = psprintf("The changes of unlogged table %s are not in the WAL.",
						  facts[FACT_NOT_LOGGED]);
		hint = psprintf("Use ALTER TABLE %s SET LOGGED.",
						facts[FACT_NOT_LOGGED]);
	}
	if (detail != NULL)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("source %s cannot be followed", name),
						errdetail_internal("%s", detail),
						hint == NULL ? 0 : errhint("%s", hint)));
}

/*
 * The owner of a pipeline gets to see all rows of its sources, whole: it must
 * have the right to.
 */
static void
check_rights(const EtlCdcPipeline *pipeline, Oid relid, char **facts,
			 const char *name)
{
	bool is_here = pipeline->server == NULL;
	const char *role = GetUserNameFromId(pipeline->role, false);
	bool may_select = facts[FACT_MAY_SELECT][0] == 't';
	bool is_filtered = facts[FACT_HAS_ROW_SECURITY][0] == 't';

	if (is_here)
	{
		may_select = pg_class_aclcheck(relid, pipeline->role, ACL_SELECT) ==
					 ACLCHECK_OK;
		is_filtered = check_enable_rls(relid, pipeline->role, true) ==
					  RLS_ENABLED;
	}
	if (!may_select)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for source %s", name),
				 is_here ?
					 errdetail("The pipeline belongs to role \"%s\", which needs SELECT on all columns.",
							   role) :
					 errdetail("The role that logs in to server \"%s\" needs SELECT on all columns.",
							   pipeline->server),
				 is_here ? errhint("Grant it with GRANT SELECT ON %s TO %s.",
								   name, quote_identifier(role)) :
						   0));
	if (is_filtered)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row security hides rows of source %s", name),
				 is_here ?
					 errdetail("The pipeline belongs to role \"%s\", to which policies of the table apply.",
							   role) :
					 errdetail("Policies of the table apply to the role that logs in to server \"%s\".",
							   pipeline->server),
				 errhint(
					 "The changes of a table are followed whole. Let the owner of the table, or a role with BYPASSRLS, have the pipeline.")));
}

/*
 * Sinks that find the rows that were changed need to know which those are.
 * And a server refuses to update or delete rows of a table that it publishes
 * if they have no identity: users there must not be hindered.
 */
static void
check_identity(const EtlCdcTable *table, char **facts, bool is_remote)
{
	const char *name = facts[FACT_NOT_IDENTIFIED];
	bool finds_rows = strcmp(table->apply, "mirror") == 0 ||
					  strcmp(table->apply, "scd2") == 0;

	if (name == NULL || (!finds_rows && !is_remote))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table %s has neither a primary key nor a replica identity",
					name),
			 finds_rows ?
				 errdetail("apply '%s' must know which row was updated or deleted.",
						   table->apply) :
				 errdetail(
					 "To follow it, its server has to publish it, and would then refuse to update and delete its rows."),
			 errhint("Add a primary key%s, or use ALTER TABLE %s REPLICA IDENTITY FULL.",
					 is_remote ? " on that server" : "", name)));
}
