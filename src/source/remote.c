/*-------------------------------------------------------------------------
 *
 * remote.c
 *	  Foreign tables of postgres_fdw, read where their rows are.
 *
 * The wrapper fetches rows through a cursor, as text and in small pieces.  A
 * connection of our own can do better (see remote_copy.c), and can ask the
 * server for its clock and for who is about to write, which the wrapper
 * cannot.  It uses the options of the server and the caller's user mapping, so
 * that it may read what a SELECT from the foreign table may read.
 *
 * Locks there: from etl_remote_begin() on AccessShareLock on the source, taken
 * before the snapshot.  Were it taken after it, a TRUNCATE or a rewrite that it
 * had to wait for would leave a table that looks empty.  Locks here: none.
 *
 *-------------------------------------------------------------------------
 */
#include "source/remote.h"

#include "catalog/dependency.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/*
 * The output of types does not depend on what the role has set there, nor does
 * the meaning of names.
 */
#define SESSION_SETTINGS                                            \
	"SET search_path = pg_catalog, pg_temp; SET timezone = 'UTC'; " \
	"SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; "       \
	"SET extra_float_digits = 3; SET bytea_output = 'hex'; "

/*
 * What is known there of the source: may it be locked; do transactions there
 * tell who writes its rows, as they do for tables, partitions and views of
 * these; these tables; and which of the columns, by number, it does not have.
 */
#define DESCRIBE_SOURCE                                            \
	"SELECT c.relkind IN ('r', 'p', 'v')"                          \
	" AND has_table_privilege(c.oid, 'SELECT'),"                   \
	" bool_and(p.relkind IN ('r', 'p', 'v')),"                     \
	" array_agg(p.oid),"                                           \
	" (SELECT string_agg(w.n::text, ' ' ORDER BY w.n)"             \
	" FROM unnest(%s::text[]) WITH ORDINALITY w(name, n)"          \
	" WHERE NOT EXISTS (SELECT FROM pg_attribute a"                \
	" WHERE a.attrelid = c.oid AND a.attname = w.name"             \
	" AND NOT a.attisdropped))"                                    \
	" FROM pg_class c, LATERAL ("                                  \
	"WITH RECURSIVE part(oid) AS (SELECT c.oid UNION"              \
	" SELECT next.oid FROM part, LATERAL ("                        \
	"SELECT i.inhrelid FROM pg_inherits i"                         \
	" WHERE i.inhparent = part.oid UNION ALL"                      \
	" SELECT d.refobjid FROM pg_rewrite r"                         \
	" JOIN pg_depend d ON d.objid = r.oid"                         \
	" AND d.classid = 'pg_rewrite'::regclass"                      \
	" AND d.refclassid = 'pg_class'::regclass"                     \
	" WHERE r.ev_class = part.oid AND r.ev_type = '1') next(oid))" \
	" SELECT k.oid, k.relkind FROM part"                           \
	" JOIN pg_class k ON k.oid = part.oid) p"                      \
	" WHERE c.oid = to_regclass(%s) GROUP BY c.oid, c.relkind"

static bool remote_serves(Relation source);
static EtlSite *remote_open(Relation source);
static void set_names(EtlRemoteSite *site, Relation source, ForeignTable *table);
static void check_privilege(Relation source);
static char *option_of(List *options, const char *name);
static void describe_source(EtlRemoteSite *site, Relation source);
static char *name_array(EtlRemoteSite *site, int natts);
static List *remote_ask(EtlSite *site, const char *sql, int natts);
static void remote_close(EtlSite *site);

const EtlSiteOps etl_site_remote_ops = {
	.name = "remote",
	.serves = remote_serves,
	.open = remote_open,
	.ask = remote_ask,
	.ask_server = remote_ask,
	.begin = etl_remote_begin,
	.rows = etl_remote_rows,
	.close = remote_close,
};

/*
 * Is a wrapper that of postgres_fdw, whatever it is called?  Its own checks of
 * options are what the rules about passwords rest on.
 */
bool
etl_is_postgres_fdw(Oid fdwid)
{
	ForeignDataWrapper *wrapper = GetForeignDataWrapper(fdwid);
	Oid extension;
	char *name;

	if (!OidIsValid(wrapper->fdwhandler))
		return false;
	extension = getExtensionOfObject(ProcedureRelationId, wrapper->fdwhandler);
	name = OidIsValid(extension) ? get_extension_name(extension) : NULL;
	return name != NULL && strcmp(name, "postgres_fdw") == 0;
}

/*
 * Is it a foreign table of postgres_fdw?  A foreign table with children is read
 * with their rows, which may be anywhere.
 */
static bool
remote_serves(Relation source)
{
	Oid relid = RelationGetRelid(source);

	if (source->rd_rel->relkind != RELKIND_FOREIGN_TABLE)
		return false;
	if (find_inheritance_children(relid, NoLock) != NIL)
		return false;

	return etl_is_postgres_fdw(
		GetForeignServer(GetForeignTable(relid)->serverid)->fdwid);
}

static EtlSite *
remote_open(Relation source)
{
	EtlRemoteSite *site = palloc0(sizeof(EtlRemoteSite));
	ForeignTable *table = GetForeignTable(RelationGetRelid(source));
	ForeignServer *server = GetForeignServer(table->serverid);
	UserMapping *mapping = GetUserMapping(GetUserId(), server->serverid);

	check_privilege(source);
	site->pub.is_remote = true;
	set_names(site, source, table);
	site->remote = etl_remote_connect(server, mapping);
	describe_source(site, source);
	return &site->pub;
}

/* The names there: those of the options, or else those here. */
static void
set_names(EtlRemoteSite *site, Relation source, ForeignTable *table)
{
	TupleDesc desc = RelationGetDescr(source);
	char *schema = option_of(table->options, "schema_name");
	char *name = option_of(table->options, "table_name");

	if (schema == NULL)
		schema = get_namespace_name(RelationGetNamespace(source));
	if (name == NULL)
		name = RelationGetRelationName(source);
	site->pub.from = quote_qualified_identifier(schema, name);

	site->pub.columns = palloc0(sizeof(char *) * Max(desc->natts, 1));
	site->names = palloc0(sizeof(char *) * Max(desc->natts, 1));
	site->is_missing = palloc0(sizeof(bool) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		char *column;

		if (att->attisdropped)
			continue;
		column = option_of(GetForeignColumnOptions(RelationGetRelid(source),
												   att->attnum),
						   "column_name");
		if (column == NULL)
			column = NameStr(att->attname);
		site->names[i] = pstrdup(column);
		site->pub.columns[i] = pstrdup(quote_identifier(column));
	}
}

/* The value of an option, or NULL. */
static char *
option_of(List *options, const char *name)
{
	ListCell *lc;

	foreach(lc, options)
	{
		DefElem *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, name) == 0)
			return defGetString(option);
	}
	return NULL;
}

/* That for the columns is checked when they are read. */
static void
check_privilege(Relation source)
{
	Oid relid = RelationGetRelid(source);
	AclResult result = pg_class_aclcheck(relid, GetUserId(), ACL_SELECT);

	if (result != ACLCHECK_OK)
		result = pg_attribute_aclcheck_all(relid, GetUserId(), ACL_SELECT,
										   ACLMASK_ANY);
	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FOREIGN_TABLE,
					   RelationGetRelationName(source));
}

/*
 * Prepares the session and asks it for the source, in one round trip.  If rows
 * come from yet another server, this one does not know who writes them.
 */
static void
describe_source(EtlRemoteSite *site, Relation source)
{
	StringInfoData sql;
	List *answer;
	char **row;

	initStringInfo(&sql);
	appendStringInfoString(&sql, SESSION_SETTINGS);
	appendStringInfo(&sql, DESCRIBE_SOURCE,
					 name_array(site, RelationGetDescr(source)->natts),
					 quote_literal_cstr(site->pub.from));
	answer = remote_ask(&site->pub, sql.data, 4);
	etl_site_check_answer(&site->pub, answer, "vvvn");
	if (answer == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation %s does not exist on server \"%s\"",
						site->pub.from, site->remote->server),
				 errhint("See the options schema_name and table_name of foreign table \"%s\".",
						 RelationGetRelationName(source))));
	row = linitial(answer);
	site->can_lock = etl_site_yes(row[0]);
	site->pub.shows_writers = etl_site_yes(row[1]);
	site->pub.tables = psprintf("%s::pg_catalog.oid[]",
								quote_literal_cstr(row[2]));
	for (char *p = row[3]; p != NULL && *p != '\0';)
	{
		char *next;
		long number = strtol(p, &next, 10);

		if (next == p || number < 1 || number > RelationGetDescr(source)->natts)
			etl_site_bad_answer(&site->pub);
		site->is_missing[number - 1] = true;
		p = next;
	}
}

/* The names of the columns as an array; '' stands for a dropped one. */
static char *
name_array(EtlRemoteSite *site, int natts)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "ARRAY[");
	for (int i = 0; i < natts; i++)
		appendStringInfo(&sql, "%s%s", i > 0 ? ", " : "",
						 quote_literal_cstr(
							 site->names[i] != NULL ? site->names[i] : ""));
	appendStringInfoChar(&sql, ']');
	return sql.data;
}

static List *
remote_ask(EtlSite *site, const char *sql, int natts)
{
	EtlRemote *remote = ((EtlRemoteSite *) site)->remote;
	PGresult *result = etl_remote_query(remote, sql, PGRES_TUPLES_OK);
	List *rows = NIL;

	if (PQnfields(result) != natts)
		etl_site_bad_answer(site);

	for (int i = 0; i < PQntuples(result); i++)
	{
		char **row = palloc0(sizeof(char *) * Max(natts, 1));

		for (int j = 0; j < natts; j++)
		{
			if (PQgetisnull(result, i, j))
				continue;
			row[j] = pstrdup(PQgetvalue(result, i, j));
			pg_verifymbstr(row[j], (int) strlen(row[j]), false);
		}
		rows = lappend(rows, row);
	}
	etl_remote_clear(remote);
	return rows;
}

/*
 * Starts a transaction; its snapshot is taken by the first query in it.  One
 * that was started before is ended.
 */
void
etl_remote_begin(EtlSite *site)
{
	EtlRemoteSite *self = (EtlRemoteSite *) site;
	StringInfoData sql;

	initStringInfo(&sql);
	if (PQtransactionStatus(self->remote->conn) != PQTRANS_IDLE)
		appendStringInfoString(&sql, "COMMIT; ");
	appendStringInfoString(&sql,
						   "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
	if (self->can_lock)
		appendStringInfo(&sql, "; LOCK TABLE %s IN ACCESS SHARE MODE",
						 site->from);
	etl_remote_query(self->remote, sql.data, PGRES_COMMAND_OK);
	etl_remote_clear(self->remote);
}

static void
remote_close(EtlSite *site)
{
	EtlRemoteSite *self = (EtlRemoteSite *) site;

	etl_remote_disconnect(self->remote);
	self->remote = NULL;
}
