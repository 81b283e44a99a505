/*-------------------------------------------------------------------------
 *
 * wal_publication.c
 *	  Which tables another server publishes for a pipeline.
 *
 * pgoutput sends what a publication has.  That is either the pipeline's own,
 * named like its slot, with exactly its tables; or the one that somebody there
 * has made for all pipelines, named "etl_patterns".  The own one is made with
 * the slot, if the role that logs in may: it takes the owner of the tables, and
 * CREATE on the database.
 *
 * A server looks publications up as they were when a change was made.  So one
 * that was made after the slot is of no use to it; and a slot whose publication
 * was dropped is lost.  That is why a pipeline stays with the one it began
 * with: its own, if there is one.
 *
 * Locks there: those of CREATE, ALTER and DROP PUBLICATION, which hold up
 * nobody who reads or writes the tables.
 *
 *-------------------------------------------------------------------------
 */
#include "source/wal_remote.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#define SHARED_NAME "etl_patterns"

/* Servers that publish TRUNCATE. */
#define VERSION_OF_TRUNCATE 110000

/* Servers that know partitions above a publication's tables. */
#define VERSION_OF_ROOTS 130000

/* Servers that may publish generated columns. */
#define VERSION_OF_GENERATED 180000

/* A publication as it is. */
typedef struct PublicationFound
{
	const char *name;
	bool exists;
	bool is_ours;	  /* to be altered */
	bool is_complete; /* has the tables, and all that happens to them */
	bool is_exact;	  /* has nothing else */
	char *missing;	  /* the tables that it lacks, or NULL: its options */
} PublicationFound;

static PGresult *ask(EtlRemote *remote, const char *sql, int nfields);
static bool is_true(PGresult *result, int field);
static void check_partitions(EtlRemote *remote, List *published);
static char *list_of_tables(List *published);
static char *array_of_numbers(List *published);
static void look_at(EtlRemote *remote, PublicationFound *publication,
					List *published);
static bool may_create(EtlRemote *remote, List *published);
static const char *options_of(EtlRemote *remote);
static void create(EtlRemote *remote, const char *name, List *published);
static void alter(EtlRemote *remote, const char *name, List *published);
pg_noreturn static void refuse_none(EtlRemote *remote, List *published);
pg_noreturn static void refuse_incomplete(EtlRemote *remote,
										  const PublicationFound *publication,
										  List *published);
pg_noreturn static void refuse_lost(EtlRemote *remote, const char *own_name,
									bool *is_lost);

/* ------------------------------------------------------------------ */
/* questions                                                            */

/* The result of a query that yields one row. */
static PGresult *
ask(EtlRemote *remote, const char *sql, int nfields)
{
	PGresult *result = etl_remote_query(remote, sql, PGRES_TUPLES_OK);

	if (PQnfields(result) != nfields || PQntuples(result) != 1)
		ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
						errmsg("server \"%s\" has sent an unexpected result",
							   remote->server)));
	return result;
}

static bool
is_true(PGresult *result, int field)
{
	return strcmp(PQgetvalue(result, 0, field), "t") == 0;
}

/* The tables with their numbers there, as a list of EtlPublished. */
List *
etl_published_tables(EtlRemote *remote, List *tables)
{
	List *published = NIL;
	ListCell *lc;

	foreach(lc, tables)
	{
		const EtlWalTable *table = lfirst(lc);
		EtlPublished *entry = palloc0(sizeof(EtlPublished));
		PGresult *result;

		entry->table = table;
		entry->name = quote_qualified_identifier(table->schema, table->name);
		result = ask(remote,
					 psprintf("SELECT pg_catalog.to_regclass(%s)"
							  "::pg_catalog.oid",
							  quote_literal_cstr(entry->name)),
					 1);
		if (PQgetisnull(result, 0, 0))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("source %s does not exist on server \"%s\" any more",
							entry->name, remote->server),
					 errhint(
						 "Remove it with etl_cdc_remove_table(), or give it back its name.")));
		entry->relid = atooid(PQgetvalue(result, 0, 0));
		etl_remote_clear(remote);
		published = lappend(published, entry);
	}
	check_partitions(remote, published);
	return published;
}

/*
 * Changes of partitions come as those of the table, which says what identifies
 * a row; but the partition is what decides which old values are sent.
 */
static void
check_partitions(EtlRemote *remote, List *published)
{
	PGresult *result;

	if (PQserverVersion(remote->conn) < VERSION_OF_ROOTS)
		return;
	result = ask(remote,
				 psprintf("SELECT min(l.oid::regclass::text)"
						  " FROM pg_class c, pg_partition_tree(c.oid) t, pg_class l"
						  " WHERE c.oid = ANY (%s) AND c.relkind = 'p'"
						  " AND t.isleaf AND l.oid = t.relid"
						  " AND l.relreplident <> c.relreplident",
						  array_of_numbers(published)),
				 1);
	if (!PQgetisnull(result, 0, 0))
	{
		char *name = pstrdup(PQgetvalue(result, 0, 0));

		pg_verifymbstr(name, (int) strlen(name), false);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition %s on server \"%s\" has another replica identity than its table",
						name, remote->server),
				 errhint(
					 "There, use ALTER TABLE ... REPLICA IDENTITY so that it is the same for the table and all its partitions.")));
	}
	etl_remote_clear(remote);
}

static char *
list_of_tables(List *published)
{
	StringInfoData text;
	ListCell *lc;

	initStringInfo(&text);
	foreach(lc, published)
		appendStringInfo(&text, "%s%s", text.len > 0 ? ", " : "",
						 ((const EtlPublished *) lfirst(lc))->name);
	return text.data;
}

static char *
array_of_numbers(List *published)
{
	StringInfoData text;
	ListCell *lc;

	initStringInfo(&text);
	foreach(lc, published)
		appendStringInfo(&text, "%s%u", text.len > 0 ? "," : "'{",
						 ((const EtlPublished *) lfirst(lc))->relid);
	appendStringInfoString(&text, "}'::oid[]");
	return text.data;
}

/*
 * What a publication has.  Columns that older servers do not know are asked for
 * by way of jsonb.
 */
static void
look_at(EtlRemote *remote, PublicationFound *publication, List *published)
{
	const char *numbers = array_of_numbers(published);
	StringInfoData sql;
	PGresult *result;

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "SELECT pg_has_role(p.pubowner, 'USAGE'),"
					 " p.pubinsert AND p.pubupdate AND p.pubdelete"
					 " AND coalesce((to_jsonb(p)->>'pubtruncate')::bool, true)"
					 " AND coalesce((to_jsonb(p)->>'pubviaroot')::bool, true)"
					 " AND coalesce(to_jsonb(p)->>'pubgencols', 'n') IN ('n', 'false')"
					 " AND NOT EXISTS (SELECT FROM pg_publication_rel r"
					 " WHERE r.prpubid = p.oid AND r.prrelid = ANY (%s)"
					 " AND (to_jsonb(r)->>'prqual' IS NOT NULL"
					 " OR to_jsonb(r)->>'prattrs' IS NOT NULL)),"
					 " NOT p.puballtables AND NOT EXISTS (SELECT FROM pg_publication_rel r"
					 " WHERE r.prpubid = p.oid AND r.prrelid <> ALL (%s)),"
					 " (SELECT string_agg(format('%%I.%%I', n.nspname, c.relname), ', ')"
					 " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
					 " WHERE c.oid = ANY (%s) AND NOT EXISTS (SELECT"
					 " FROM pg_publication_tables t WHERE t.pubname = p.pubname"
					 " AND t.schemaname = n.nspname AND t.tablename = c.relname))"
					 " FROM pg_publication p WHERE p.pubname = %s",
					 numbers, numbers, numbers,
					 quote_literal_cstr(publication->name));
	result = etl_remote_query(remote, sql.data, PGRES_TUPLES_OK);
	publication->exists = PQntuples(result) == 1 && PQnfields(result) == 4;
	if (publication->exists)
	{
		bool has_all = PQgetisnull(result, 0, 3);

		publication->is_ours = is_true(result, 0);
		publication->is_complete = is_true(result, 1) && has_all;
		publication->is_exact = publication->is_complete && is_true(result, 2);
		if (!has_all)
		{
			publication->missing = pstrdup(PQgetvalue(result, 0, 3));
			pg_verifymbstr(publication->missing,
						   (int) strlen(publication->missing), false);
		}
	}
	etl_remote_clear(remote);
}

/* May the role that logs in create a publication of the tables? */
static bool
may_create(EtlRemote *remote, List *published)
{
	PGresult *result;
	bool may;

	result = ask(remote,
				 psprintf("SELECT has_database_privilege(current_database(), 'CREATE')"
						  " AND bool_and(pg_has_role(relowner, 'USAGE'))"
						  " FROM pg_class WHERE oid = ANY (%s)",
						  array_of_numbers(published)),
				 1);
	may = is_true(result, 0);
	etl_remote_clear(remote);
	return may;
}

/* ------------------------------------------------------------------ */
/* changes                                                              */

static const char *
options_of(EtlRemote *remote)
{
	return PQserverVersion(remote->conn) < VERSION_OF_ROOTS ?
			   "" :
			   " WITH (publish_via_partition_root = true)";
}

static void
create(EtlRemote *remote, const char *name, List *published)
{
	etl_remote_query(remote,
					 psprintf("CREATE PUBLICATION %s FOR TABLE %s%s",
							  quote_identifier(name), list_of_tables(published),
							  options_of(remote)),
					 PGRES_COMMAND_OK);
	etl_remote_clear(remote);
}

/* Make a publication what it would be if it were created. */
static void
alter(EtlRemote *remote, const char *name, List *published)
{
	etl_remote_query(remote,
					 psprintf("ALTER PUBLICATION %s SET TABLE %s",
							  quote_identifier(name), list_of_tables(published)),
					 PGRES_COMMAND_OK);
	etl_publication_touch(remote, name);
	if (PQserverVersion(remote->conn) >= VERSION_OF_ROOTS)
		etl_remote_query(remote,
						 psprintf("ALTER PUBLICATION %s SET"
								  " (publish_via_partition_root = true)",
								  quote_identifier(name)),
						 PGRES_COMMAND_OK);
	if (PQserverVersion(remote->conn) >= VERSION_OF_GENERATED)
		etl_remote_query(remote,
						 psprintf("ALTER PUBLICATION %s SET"
								  " (publish_generated_columns = none)",
								  quote_identifier(name)),
						 PGRES_COMMAND_OK);
	etl_remote_clear(remote);
}

/*
 * The name of the publication that has the tables.  Without is_lost nothing is
 * changed, and it only throws what somebody has to do before it can be.
 */
const char *
etl_publication(EtlRemote *remote, const char *own_name, List *published,
				bool is_new, bool *is_lost)
{
	PublicationFound own = {.name = own_name};
	PublicationFound shared = {.name = SHARED_NAME};

	look_at(remote, &own, published);
	if (own.exists)
	{
		if (!own.is_exact && own.is_ours && is_lost != NULL)
			alter(remote, own_name, published);
		else if (!own.is_complete && !own.is_ours)
			refuse_incomplete(remote, &own, published);
		return own_name;
	}
	look_at(remote, &shared, published);
	if (shared.is_complete)
		return SHARED_NAME;
	if (is_new && may_create(remote, published))
	{
		if (is_lost != NULL)
			create(remote, own_name, published);
		return own_name;
	}
	if (shared.exists)
		refuse_incomplete(remote, &shared, published);
	if (!is_new && is_lost == NULL)
		return own_name;
	if (!is_new)
		refuse_lost(remote, own_name, is_lost);
	refuse_none(remote, published);
}

/*
 * Servers before the releases of May 2025 may keep an old idea of what is
 * published, got from a transaction that was open when a table was added.  When
 * all of those have ended, any change of the publication makes them look anew.
 */
void
etl_publication_touch(EtlRemote *remote, const char *own_name)
{
	PGresult *result;
	bool exists;

	result = ask(remote,
				 psprintf("SELECT count(*) > 0 FROM pg_publication"
						  " WHERE pubname = %s"
						  " AND pg_has_role(pubowner, 'USAGE')",
						  quote_literal_cstr(own_name)),
				 1);
	exists = is_true(result, 0);
	etl_remote_clear(remote);
	if (!exists)
		return;
	etl_remote_query(remote,
					 psprintf("ALTER PUBLICATION %s SET (publish ="
							  " 'insert, update, delete%s')",
							  quote_identifier(own_name),
							  PQserverVersion(remote->conn) < VERSION_OF_TRUNCATE ?
								  "" :
								  ", truncate"),
					 PGRES_COMMAND_OK);
	etl_remote_clear(remote);
}

/* Drop the pipeline's own publication, if there is one. */
void
etl_publication_drop(EtlRemote *remote, const char *own_name)
{
	etl_remote_query(remote,
					 psprintf("DROP PUBLICATION IF EXISTS %s",
							  quote_identifier(own_name)),
					 PGRES_COMMAND_OK);
	etl_remote_clear(remote);
}

/* ------------------------------------------------------------------ */
/* errors                                                               */

static void
refuse_none(EtlRemote *remote, List *published)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("there is no publication \"%s\" on server \"%s\", and the role that logs in there may not create one",
					SHARED_NAME, remote->server),
			 errhint("There, as the owner of the tables or as a superuser: CREATE PUBLICATION %s FOR TABLE %s%s;",
					 SHARED_NAME, list_of_tables(published),
					 options_of(remote))));
}

static void
refuse_incomplete(EtlRemote *remote, const PublicationFound *publication,
				  List *published)
{
	const char *name = quote_identifier(publication->name);

	if (publication->missing != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("publication \"%s\" on server \"%s\" does not have table %s",
						publication->name, remote->server, publication->missing),
				 errhint("There, as its owner: ALTER PUBLICATION %s ADD TABLE %s;%s",
						 name, publication->missing,
						 options_of(remote)[0] == '\0' ?
							 "" :
							 psprintf(" ALTER PUBLICATION %s SET (publish_via_partition_root = true);",
									  name))));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("publication \"%s\" on server \"%s\" does not have all changes of the tables",
					publication->name, remote->server),
			 errhint("It must publish whole rows of all kinds of changes, by the partitioned table. There, as its owner: ALTER PUBLICATION %s SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true%s); and no column lists and no WHERE for %s.",
					 name,
					 PQserverVersion(remote->conn) >= VERSION_OF_GENERATED ?
						 ", publish_generated_columns = none" :
						 "",
					 list_of_tables(published))));
}

static void
refuse_lost(EtlRemote *remote, const char *own_name, bool *is_lost)
{
	*is_lost = true;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("neither publication \"%s\" nor \"%s\" exists on server \"%s\" any more",
					own_name, SHARED_NAME, remote->server),
			 errhint("Call etl_cdc_resync() to copy the tables anew.")));
}
