/*-------------------------------------------------------------------------
 *
 * cdc_copy_remote.c
 *	  A table on another server, as it is when its changes begin to be
 *	  followed.
 *
 * See cdc_copy.c for what the snapshot must see.  Another server does not show
 * who has written a commit that nobody sees yet.  But who has written to a
 * table keeps a lock on it until its commit can be seen.  So all who have such
 * a lock are waited for, however long they take, unless the reader has reported
 * the table from the first moment on.
 *
 * Locks there: AccessShareLock on the table, taken before the snapshot.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"

#include "flow/cdc_apply.h"
#include "flow/cdc_check.h"
#include "source/wal_remote.h"

/* What is sent does not depend on what the role has set there. */
#define SESSION_SETTINGS                                            \
	"SET search_path = pg_catalog, pg_temp; SET timezone = 'UTC'; " \
	"SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; "       \
	"SET extra_float_digits = 3; SET bytea_output = 'hex'; "

/*
 * The columns, whether they are of the key, and whether they are computed, which
 * changes do not have.  Older servers do not know columns that an index only
 * includes, nor generated ones.
 */
#define DESCRIBE_TABLE                                                    \
	"SELECT n.nspname, c.relname, c.relreplident, a.attname, a.atttypid," \
	" a.atttypmod, c.relreplident = 'f' OR EXISTS (SELECT FROM pg_index"  \
	" i WHERE i.indrelid = c.oid AND i.indisvalid AND CASE"               \
	" c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN"          \
	" i.indisreplident ELSE false END AND a.attnum = ANY"                 \
	" ((i.indkey::int2[])[0:coalesce((to_jsonb(i)->>'indnkeyatts')::int," \
	" i.indnatts) - 1])),"                                                \
	" coalesce(to_jsonb(a)->>'attgenerated', '') <> ''"                   \
	" FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"      \
	" JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0"         \
	" AND NOT a.attisdropped"                                             \
	" WHERE c.oid = to_regclass(%s) ORDER BY 8, a.attnum"

/* What it says of each column. */
#define NFACTS 8

/* Transactions that may have written to the table or a part of it. */
#define WRITERS                                                         \
	"SELECT DISTINCT l.virtualtransaction FROM pg_locks l"              \
	" WHERE l.locktype = 'relation' AND l.granted AND l.database ="     \
	" (SELECT oid FROM pg_database WHERE datname = current_database())" \
	" AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock',"      \
	" 'ExclusiveLock', 'AccessExclusiveLock')"                          \
	" AND l.relation IN (SELECT to_regclass(%s)::oid UNION"             \
	" SELECT relid FROM pg_partition_tree(to_regclass(%s)))"

/* Milliseconds between two looks whether they have ended. */
#define SETTLE_WAIT 50

struct EtlRemoteTable
{
	EtlRemote *remote;
	EtlSourceRelation *relation;
	List *computed; /* names of columns that changes do not have */
	EtlRemoteRows rows;
	char *literal; /* its name, for SQL */
	const char *slot_name;
};

static char **ask(EtlRemote *remote, const char *sql, int natts, int *nrows);

/* All values of a query, row by row; texts are in the encoding of here. */
static char **
ask(EtlRemote *remote, const char *sql, int natts, int *nrows)
{
	PGresult *result = etl_remote_query(remote, sql, PGRES_TUPLES_OK);
	char **values;

	if (PQnfields(result) != natts)
		ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
						errmsg("unexpected answer from server \"%s\"",
							   remote->server)));
	*nrows = PQntuples(result);
	values = palloc(sizeof(char *) * Max(*nrows * natts, 1));
	for (int i = 0; i < *nrows; i++)
		for (int j = 0; j < natts; j++)
		{
			char *value = pstrdup(PQgetvalue(result, i, j));

			pg_verifymbstr(value, (int) strlen(value), false);
			values[i * natts + j] = value;
		}
	etl_remote_clear(remote);
	return values;
}

/*
 * See what a table is like, over a connection of its own or that of another
 * table; NULL if it is not there.
 */
EtlRemoteTable *
etl_cdc_remote_open(const EtlCdcPipeline *pipeline,
					const EtlRemoteTable *beside, const char *source)
{
	EtlRemoteTable *table = palloc0(sizeof(EtlRemoteTable));
	EtlSourceRelation *relation = palloc0(sizeof(EtlSourceRelation));
	StringInfoData sql;
	char **values;
	int n;

	table->remote = beside != NULL ? beside->remote : etl_cdc_connect(pipeline);
	table->literal = quote_literal_cstr(source);
	table->slot_name = pipeline->slot_name;
	initStringInfo(&sql);
	appendStringInfo(&sql, SESSION_SETTINGS DESCRIBE_TABLE, table->literal);
	values = ask(table->remote, sql.data, NFACTS, &n);
	if (n == 0)
		return NULL;

	/* these come last */
	while (n > 0 && values[NFACTS * (n - 1) + 7][0] == 't')
		table->computed = lcons(values[NFACTS * --n + 3], table->computed);

	relation->schema = values[0];
	relation->name = values[1];
	relation->identity = values[2][0];
	relation->desc = CreateTemplateTupleDesc(n);
	relation->is_key = palloc0(sizeof(bool) * Max(n, 1));
	table->rows.columns = palloc(sizeof(char *) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		char **column = &values[NFACTS * i];
		Oid type_there = atooid(column[4]);
		Oid type = etl_type_of_remote(type_there);

		TupleDescInitEntry(relation->desc, (AttrNumber) (i + 1), column[3],
						   type, type == type_there ? atoi(column[5]) : -1, 0);
		relation->is_key[i] = column[6][0] == 't';
		table->rows.columns[i] = pstrdup(quote_identifier(column[3]));
	}
	table->relation = relation;
	table->rows.remote = table->remote;
	table->rows.from = quote_qualified_identifier(relation->schema,
												  relation->name);
	table->rows.name = relation->name;
	table->rows.desc = relation->desc;
	return table;
}

EtlSourceRelation *
etl_cdc_remote_relation(EtlRemoteTable *table)
{
	return table->relation;
}

/* The columns there that changes do not have, names. */
List *
etl_cdc_remote_computed(const EtlRemoteTable *table)
{
	return table->computed;
}

/* Wait until all have ended who may have written to the table. */
static void
settle(EtlRemoteTable *table)
{
	char *writers = psprintf(WRITERS, table->literal, table->literal);
	StringInfoData sql;
	char **waits_for;
	int n;

	waits_for = ask(table->remote, writers, 1, &n);
	initStringInfo(&sql);
	appendStringInfo(&sql, "%s AND l.virtualtransaction IN (", writers);
	for (int i = 0; i < n; i++)
		appendStringInfo(&sql, "%s%s", i > 0 ? ", " : "",
						 quote_literal_cstr(waits_for[i]));
	appendStringInfoChar(&sql, ')');
	while (n > 0)
	{
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 SETTLE_WAIT, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		(void) ask(table->remote, sql.data, 1, &n);
	}
}

/*
 * Take the snapshot there, which sees all that may have been read before of
 * these tables, which have one connection.  Returns it as text, and where the
 * WAL ended then.
 */
char *
etl_cdc_remote_snapshot(List *tables, XLogRecPtr *end)
{
	EtlRemoteTable *table = linitial(tables);
	StringInfoData sql;
	char **values;
	ListCell *lc;
	int n;

	initStringInfo(&sql);
	appendStringInfoString(&sql,
						   "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
	foreach(lc, tables)
	{
		settle(lfirst(lc));
		appendStringInfo(&sql, "; LOCK TABLE %s IN ACCESS SHARE MODE",
						 ((EtlRemoteTable *) lfirst(lc))->rows.from);
	}
	etl_publication_touch(table->remote, table->slot_name);
	etl_remote_query(table->remote, sql.data, PGRES_COMMAND_OK);
	etl_remote_clear(table->remote);
	values = ask(table->remote,
				 "SELECT pg_current_snapshot(),"
				 " CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
				 " ELSE pg_current_wal_insert_lsn() END",
				 2, &n);
	if (n != 1)
		ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
						errmsg("unexpected answer from server \"%s\"",
							   table->remote->server)));
	*end = DatumGetLSN(
		DirectFunctionCall1(pg_lsn_in, CStringGetDatum(values[1])));
	return values[0];
}

void
etl_cdc_remote_rows(EtlRemoteTable *table, EtlRowCall call, void *arg)
{
	(void) etl_remote_copy_rows(&table->rows, call, arg);
}

void
etl_cdc_remote_close(EtlRemoteTable *table)
{
	etl_remote_disconnect(table->remote);
}
