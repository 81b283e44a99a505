/*-------------------------------------------------------------------------
 *
 * site_local.c
 *	  Sources that are read through this database's SQL.
 *
 * Tables, views, and the foreign tables of all wrappers that have no site of
 * their own.  Queries run as the caller, so that privileges and row security
 * apply; what is asked about the server runs as the owner of the state tables,
 * because other roles are not shown when transactions started.
 *
 * Locks: AccessShareLock on what a query reads, until the end of the
 * transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "source/site.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/backend_status.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "ledger/ledger.h"

/* A question about the server, whose plan the session keeps. */
typedef struct KeptPlan
{
	SPIPlanPtr plan;
	char sql[FLEXIBLE_ARRAY_MEMBER];
} KeptPlan;

/* So many at the most, of texts no longer than this. */
#define MAX_KEPT_PLANS 16
#define MAX_KEPT_TEXT  4096

static List *kept_plans = NIL;

static bool local_serves(Relation source);
static EtlSite *local_open(Relation source);
static const char *table_array(List *tables);
static List *local_ask(EtlSite *site, const char *sql, int natts);
static List *local_ask_server(EtlSite *site, const char *sql, int natts);
static SPIPlanPtr kept_plan(const char *sql);
static List *run_query(const char *sql, SPIPlanPtr plan, MemoryContext context);
static void local_begin(EtlSite *site);
static int64 local_rows(EtlSite *site, const char *where,
						const AttrNumber *attnums, int natts, EtlRowCall call,
						void *arg);
static void local_close(EtlSite *site);

const EtlSiteOps etl_site_local_ops = {
	.name = "local",
	.serves = local_serves,
	.open = local_open,
	.ask = local_ask,
	.ask_server = local_ask_server,
	.begin = local_begin,
	.rows = local_rows,
	.close = local_close,
};

static bool
local_serves(Relation source)
{
	return true;
}

static EtlSite *
local_open(Relation source)
{
	EtlSite *site = palloc0(sizeof(EtlSite));
	TupleDesc desc = RelationGetDescr(source);
	List *tables = etl_base_tables(source, &site->is_local, &site->is_wrapped);

	site->from = etl_relation_name(source);
	site->columns = palloc0(sizeof(char *) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped)
			site->columns[i] = pstrdup(
				quote_identifier(NameStr(TupleDescAttr(desc, i)->attname)));
	site->shows_writers = site->is_local;
	site->tables = table_array(tables);
	return site;
}

static const char *
table_array(List *tables)
{
	const char *separator = "";
	StringInfoData sql;
	ListCell *lc;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "'{");
	foreach(lc, tables)
	{
		appendStringInfo(&sql, "%s%u", separator, lfirst_oid(lc));
		separator = ",";
	}
	appendStringInfoString(&sql, "}'::pg_catalog.oid[]");
	return sql.data;
}

/*
 * In a transaction whose snapshot stays the same, the snapshot is older than
 * the call: callers to whom that matters refuse such transactions.
 */
static List *
local_ask(EtlSite *site, const char *sql, int natts)
{
	MemoryContext context = CurrentMemoryContext;
	List *result;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	result = run_query(sql, NULL, context);
	SPI_finish();
	return result;
}

static List *
local_ask_server(EtlSite *site, const char *sql, int natts)
{
	MemoryContext context = CurrentMemoryContext;
	EtlLedgerScope scope;
	List *result;

	etl_ledger_enter(&scope);
	/* A transaction remembers who it has seen. */
	pgstat_clear_backend_activity_snapshot();
	result = run_query(sql, kept_plan(sql), context);
	etl_ledger_leave(&scope);
	return result;
}

/*
 * The plan of a question about the server, or NULL if it is too long to be
 * kept.  The same few are asked by each pull, and planning them takes longer
 * than all the rest of a small one.
 */
static SPIPlanPtr
kept_plan(const char *sql)
{
	MemoryContext oldcontext;
	SPIPlanPtr plan;
	KeptPlan *kept;
	ListCell *lc;

	foreach(lc, kept_plans)
	{
		kept = lfirst(lc);
		if (strcmp(kept->sql, sql) == 0)
			return kept->plan;
	}
	if (strlen(sql) > MAX_KEPT_TEXT)
		return NULL;

	plan = SPI_prepare(sql, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s",
			 SPI_result_code_string(SPI_result));
	while (list_length(kept_plans) >= MAX_KEPT_PLANS)
	{
		kept = linitial(kept_plans);
		kept_plans = list_delete_first(kept_plans);
		SPI_freeplan(kept->plan);
		pfree(kept);
	}
	oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	kept = palloc(offsetof(KeptPlan, sql) + strlen(sql) + 1);
	strcpy(kept->sql, sql);
	kept->plan = plan;
	kept_plans = lappend(kept_plans, kept);
	MemoryContextSwitchTo(oldcontext);
	SPI_keepplan(plan);
	return plan;
}

/* All rows of a query as text, in the given context. */
static List *
run_query(const char *sql, SPIPlanPtr plan, MemoryContext context)
{
	MemoryContext oldcontext;
	List *result = NIL;
	TupleDesc desc;
	int level;
	int rc;

	PushActiveSnapshot(GetTransactionSnapshot());
	rc = plan == NULL ? SPI_execute(sql, true, 0) :
						SPI_execute_plan(plan, NULL, NULL, true, 0);
	if (rc != SPI_OK_SELECT)
		elog(ERROR, "query failed: %s", sql);
	PopActiveSnapshot();

	level = etl_plain_text_enter();
	oldcontext = MemoryContextSwitchTo(context);
	desc = SPI_tuptable->tupdesc;
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		char **values = palloc0(sizeof(char *) * desc->natts);

		for (int i = 0; i < desc->natts; i++)
			values[i] = SPI_getvalue(SPI_tuptable->vals[row], desc, i + 1);
		result = lappend(result, values);
	}
	MemoryContextSwitchTo(oldcontext);
	etl_plain_text_leave(level);
	return result;
}

/* Each query gets the newest snapshot that the isolation level allows. */
static void
local_begin(EtlSite *site)
{
}

static int64
local_rows(EtlSite *site, const char *where, const AttrNumber *attnums,
		   int natts, EtlRowCall call, void *arg)
{
	EtlQuery query = {0};
	StringInfoData sql;
	int64 rows;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < natts; i++)
		appendStringInfo(&sql, "%s%s", i > 0 ? ", " : "",
						 site->columns[attnums[i] - 1]);
	appendStringInfo(&sql, " FROM %s", site->from);
	if (where != NULL)
		appendStringInfo(&sql, " WHERE %s", where);
	query.text = sql.data;
	query.serial = true;
	query.planned = &site->planned;

	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	rows = etl_query_rows(&query, call, arg);
	PopActiveSnapshot();
	return rows;
}

static void
local_close(EtlSite *site)
{
}
