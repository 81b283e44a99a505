/*-------------------------------------------------------------------------
 *
 * scd2_create.c
 *	  etl_scd2_create(): a table for the versions of a source's rows.
 *
 * To close a version is to set valid_to and is_current of one row.  That is a
 * HOT update, which touches no index, if no index holds either column, not
 * even in its predicate, and if the row's page has room.  Hence the one index
 * beside the primary key, on the keys and valid_from, and the fillfactor.
 * That index also finds all versions of a key in their order, and the one
 * that was valid at some time: ORDER BY valid_from DESC LIMIT 1.  An index on
 * the keys WHERE is_current would make each close write all indexes; that
 * there is one open version per key is the merge's to see to.
 *
 * The commands run with the caller's rights.  Locks: ACCESS SHARE on the
 * source until the end of the transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/stratnum.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "parser/parse_relation.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"
#include "utils/varlena.h"

#include "flow/companion.h"
#include "flow/flow.h"

PG_FUNCTION_INFO_V1(etl_scd2_create);

enum
{
	ARG_TARGET,
	ARG_SOURCE,
	ARG_KEYS,
	ARG_TRACKED,
	ARG_OVERWRITE,
	ARG_FIXED,
	ARG_PREVIOUS,
	ARG_VALID_FROM,
	ARG_VALID_TO,
	ARG_IS_CURRENT,
	ARG_TIME_TYPE,
	ARG_OPEN_END,
	ARG_BOUNDS,
	ARG_SURROGATE_KEY
};

/* What a column of the source is to the dimension. */
typedef enum Role
{
	ROLE_NONE,
	ROLE_KEY,
	ROLE_TRACKED,
	ROLE_OVERWRITE,
	ROLE_FIXED
} Role;

static const char *const role_comments[] =
	{NULL, "key of the source", "a change starts a new version",
	 "a change is written into all versions", "keeps its first value"};

static const char *const bounds_words[] = {"[)", "[]", NULL};

typedef struct Create
{
	const char *schema;
	const char *table;
	Relation source;
	Role *roles; /* one per column of the source */
	List *keys;
	List *current;	/* columns with a former value, names */
	List *previous; /* the columns for it, in the same order */
	const char *surrogate_key;
	const char *valid_from;
	const char *valid_to;
	const char *is_current; /* NULL: there is none */
	Oid time_type;
	const char *open_end; /* as a literal; NULL: null */
	bool closed_bounds;
	List *columns; /* names of the new table's, so far */
	StringInfoData table_command;
	List *comment_commands;
} Create;

/* ------------------------------------------------------------------ */
/* arguments                                                            */

/* The index of a source column. */
static int
source_column(Create *create, const char *name)
{
	int attnum = attnameAttNum(create->source, name, false);

	if (attnum == InvalidAttrNumber)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
						errmsg("column \"%s\" of relation \"%s\" does not exist",
							   name, RelationGetRelationName(create->source))));
	return attnum - 1;
}

/* Give the named columns a role; each may have one. */
static void
set_roles(Create *create, List *names, Role role)
{
	ListCell *lc;

	foreach(lc, names)
	{
		int column = source_column(create, lfirst(lc));

		if (create->roles[column] != ROLE_NONE)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("column \"%s\" specified more than once",
							(char *) lfirst(lc)),
					 errhint(
						 "A column is one of keys, tracked, overwrite and fixed.")));
		create->roles[column] = role;
	}
}

/* Without a list of tracked columns, all that have no other role are. */
static void
find_columns(Create *create, FunctionCallInfo fcinfo)
{
	TupleDesc desc = RelationGetDescr(create->source);

	create->roles = palloc0(sizeof(Role) * Max(desc->natts, 1));
	create->keys = etl_arg_names(fcinfo, ARG_KEYS);
	if (create->keys == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"keys\" must name at least one column")));
	set_roles(create, create->keys, ROLE_KEY);
	set_roles(create, etl_arg_names(fcinfo, ARG_TRACKED), ROLE_TRACKED);
	set_roles(create, etl_arg_names(fcinfo, ARG_OVERWRITE), ROLE_OVERWRITE);
	set_roles(create, etl_arg_names(fcinfo, ARG_FIXED), ROLE_FIXED);
	if (!PG_ARGISNULL(ARG_TRACKED))
		return;
	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped &&
			create->roles[i] == ROLE_NONE)
			create->roles[i] = ROLE_TRACKED;
}

/* Columns whose former values are kept, and the names for these. */
static void
find_previous(Create *create, Jsonb *previous)
{
	ListCell *lc;

	etl_names_of_object(previous, "previous", &create->current,
						&create->previous);
	foreach(lc, create->current)
		if (create->roles[source_column(create, lfirst(lc))] == ROLE_NONE)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
					 errmsg("column \"%s\" of parameter \"previous\" has no role",
							(char *) lfirst(lc)),
					 errhint("Name it in tracked or overwrite, too.")));
	foreach(lc, create->previous)
	{
		const char *name = lfirst(lc);

		if (name[0] == '\0' || strlen(name) >= NAMEDATALEN)
			ereport(ERROR, (errcode(ERRCODE_INVALID_NAME),
							errmsg("\"%s\" is not a name for a column", name)));
	}
}

/* The type of time, and what valid_to of an open version is. */
static void
find_times(Create *create, FunctionCallInfo fcinfo)
{
	create->time_type = PG_GETARG_OID(ARG_TIME_TYPE);
	create->open_end = etl_arg_text(fcinfo, ARG_OPEN_END);
	if (!SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(create->time_type)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("type with OID %u does not exist", create->time_type)));
	if (!OidIsValid(
			lookup_type_cache(create->time_type, TYPECACHE_LT_OPR)->lt_opr))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("type %s cannot order versions",
						format_type_be(create->time_type)),
				 errhint(
					 "Use a type such as date or timestamp with time zone.")));
	if (create->closed_bounds && getBaseType(create->time_type) != DATEOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("bounds => '[]' needs time_type => 'date'"),
				 errhint(
					 "Use bounds => '[)', where a version ends when the next begins.")));
	if (create->open_end != NULL)
	{
		Oid input;
		Oid param;

		getTypeInputInfo(create->time_type, &input, &param);
		(void) OidInputFunctionCall(input, unconstify(char *, create->open_end),
									param, -1);
	}
}

/* Where the table goes.  From here on it has only its full name. */
static void
find_target(Create *create, text *target)
{
	RangeVar *name = makeRangeVarFromNameList(textToQualifiedNameList(target));

	if (name->catalogname != NULL)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("cannot create table \"%s\" in another database",
							   text_to_cstring(target)),
						errhint("Name it as \"table\" or \"schema.table\".")));
	create->schema = get_namespace_name(RangeVarGetCreationNamespace(name));
	create->table = name->relname;
}

/* The given name, or one made of the table's; the source must not have it. */
static void
find_surrogate_key(Create *create, const char *name)
{
	create->surrogate_key = name != NULL ?
								name :
								makeObjectName(create->table, NULL, "id");
	if (attnameAttNum(create->source, create->surrogate_key, false) !=
		InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_COLUMN),
				 errmsg("relation \"%s\" has a column \"%s\", which is to be the surrogate key's name",
						RelationGetRelationName(create->source),
						create->surrogate_key),
				 errhint("Pass another name as surrogate_key.")));
}

/* ------------------------------------------------------------------ */
/* commands                                                             */

/*
 * A name in the new table, which must be its only column of that name.  hint:
 * where the caller may give another one; NULL where that is not possible.
 */
static const char *
new_column(Create *create, const char *name, const char *hint)
{
	ListCell *lc;

	foreach(lc, create->columns)
		if (strcmp(lfirst(lc), name) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("table \"%s\" would have two columns \"%s\"",
							create->table, name),
					 hint != NULL ?
						 errhint("Pass another name %s, or name the columns to take from the source with tracked.",
								 hint) :
						 0));
	create->columns = lappend(create->columns, pstrdup(name));
	return quote_identifier(name);
}

static void
add_comment(Create *create, const char *column, const char *comment)
{
	create->comment_commands =
		lappend(create->comment_commands,
				psprintf("COMMENT ON COLUMN %s.%s IS %s",
						 quote_qualified_identifier(create->schema,
													create->table),
						 quote_identifier(column), quote_literal_cstr(comment)));
}

/* A column with type and collation of a source column. */
static void
add_source_column(Create *create, int source, const char *name,
				  const char *hint, bool not_null, const char *comment)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(create->source),
										  source);
	StringInfo command = &create->table_command;

	appendStringInfo(command, ", %s %s", new_column(create, name, hint),
					 format_type_extended(att->atttypid, att->atttypmod,
										  FORMAT_TYPE_TYPEMOD_GIVEN |
											  FORMAT_TYPE_FORCE_QUALIFY));
	if (att->attcollation != get_typcollation(att->atttypid))
		etl_append_collation(command, att->attcollation);
	if (not_null)
		appendStringInfoString(command, " NOT NULL");
	add_comment(create, name, comment);
}

/* The keys in their order, the others in the source's, then former values. */
static void
add_source_columns(Create *create)
{
	TupleDesc desc = RelationGetDescr(create->source);
	ListCell *lc;
	ListCell *lc2;

	foreach(lc, create->keys)
		add_source_column(create, source_column(create, lfirst(lc)), lfirst(lc),
						  NULL, true, role_comments[ROLE_KEY]);
	for (int i = 0; i < desc->natts; i++)
	{
		Role role = create->roles[i];

		if (role != ROLE_NONE && role != ROLE_KEY)
			add_source_column(create, i,
							  pstrdup(NameStr(TupleDescAttr(desc, i)->attname)),
							  NULL, false, role_comments[role]);
	}
	forboth(lc, create->current, lc2, create->previous)
		add_source_column(create, source_column(create, lfirst(lc)),
						  lfirst(lc2), "in previous", false,
						  psprintf("former value of %s",
								   quote_identifier(lfirst(lc))));
}

/* valid_from, valid_to and is_current. */
static void
add_times(Create *create)
{
	const char *type = format_type_be_qualified(create->time_type);
	StringInfo command = &create->table_command;
	const char *end = create->closed_bounds ?
						  "the last day on which the version is valid" :
						  "until when, exclusively, the version is valid";

	appendStringInfo(command, ", %s %s NOT NULL",
					 new_column(create, create->valid_from, "as valid_from"),
					 type);
	add_comment(create, create->valid_from,
				create->closed_bounds ?
					"the first day on which the version is valid" :
					"since when, inclusively, the version is valid");
	appendStringInfo(command, ", %s %s",
					 new_column(create, create->valid_to, "as valid_to"), type);
	if (create->open_end != NULL)
		appendStringInfo(command, " NOT NULL DEFAULT %s::%s",
						 quote_literal_cstr(create->open_end), type);
	add_comment(create, create->valid_to,
				psprintf("%s; %s: the version is open", end,
						 create->open_end != NULL ? create->open_end : "null"));
	if (create->is_current == NULL)
		return;
	appendStringInfo(command, ", %s pg_catalog.bool NOT NULL",
					 new_column(create, create->is_current, "as is_current"));
	add_comment(create, create->is_current, "whether the version is open");
}

/* No version without length; one version of a key at a time; see above. */
static void
add_constraints(Create *create)
{
	StringInfo command = &create->table_command;
	TypeCacheEntry *type = lookup_type_cache(create->time_type,
											 TYPECACHE_BTREE_OPFAMILY);
	Oid before = get_opfamily_member(type->btree_opf, type->btree_opintype,
									 type->btree_opintype,
									 create->closed_bounds ?
										 BTLessEqualStrategyNumber :
										 BTLessStrategyNumber);
	const char *from = quote_identifier(create->valid_from);
	const char *to = quote_identifier(create->valid_to);
	ListCell *lc;

	appendStringInfoString(command, ", CHECK (");
	generate_operator_clause(command, from, create->time_type, before, to,
							 create->time_type);
	appendStringInfoString(command, "), UNIQUE (");
	foreach(lc, create->keys)
		appendStringInfo(command, "%s, ", quote_identifier(lfirst(lc)));
	appendStringInfo(command, "%s)) WITH (fillfactor = 90)", from);
}

static void
execute(const char *command)
{
	if (SPI_execute(command, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute: %s", command);
}

/* Create the table, with its comments. */
static void
create_table(Create *create)
{
	const char *name = quote_qualified_identifier(create->schema, create->table);
	ListCell *lc;

	initStringInfo(&create->table_command);
	appendStringInfo(&create->table_command,
					 "CREATE TABLE %s (%s pg_catalog.int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
					 name,
					 new_column(create, create->surrogate_key,
								"as surrogate_key"));
	add_comment(create, create->surrogate_key, "surrogate key of the version");
	add_source_columns(create);
	add_times(create);
	add_constraints(create);

	SPI_connect();
	execute(create->table_command.data);
	foreach(lc, create->comment_commands)
		execute(lfirst(lc));
	SPI_finish();
}

/*
 * etl_scd2_create(target, source, keys, ...): create the table, empty, and
 * return it.
 */
Datum
etl_scd2_create(PG_FUNCTION_ARGS)
{
	static const char *const required[] = {
		[ARG_TARGET] = "target",	 [ARG_SOURCE] = "source",
		[ARG_KEYS] = "keys",		 [ARG_VALID_FROM] = "valid_from",
		[ARG_VALID_TO] = "valid_to", [ARG_TIME_TYPE] = "time_type",
	};
	Create create = {0};

	for (int i = 0; i < (int) lengthof(required); i++)
		if (required[i] != NULL)
			etl_refuse_null(fcinfo, i, required[i]);
	PreventCommandIfReadOnly("etl_scd2_create()");
	create.closed_bounds = etl_option_word("bounds",
										   etl_arg_text(fcinfo, ARG_BOUNDS),
										   bounds_words) == 1;
	create.valid_from = etl_arg_name(fcinfo, ARG_VALID_FROM);
	create.valid_to = etl_arg_name(fcinfo, ARG_VALID_TO);
	create.is_current = etl_arg_name(fcinfo, ARG_IS_CURRENT);
	find_times(&create, fcinfo);
	find_target(&create, PG_GETARG_TEXT_PP(ARG_TARGET));

	etl_check_select_privilege(PG_GETARG_OID(ARG_SOURCE));
	create.source = relation_open(PG_GETARG_OID(ARG_SOURCE), AccessShareLock);
	find_columns(&create, fcinfo);
	if (!PG_ARGISNULL(ARG_PREVIOUS))
		find_previous(&create, PG_GETARG_JSONB_P(ARG_PREVIOUS));
	find_surrogate_key(&create, etl_arg_name(fcinfo, ARG_SURROGATE_KEY));
	create_table(&create);
	relation_close(create.source, NoLock);
	PG_RETURN_OID(get_relname_relid(create.table,
									get_namespace_oid(create.schema, false)));
}
