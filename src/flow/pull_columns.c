/*-------------------------------------------------------------------------
 *
 * pull_columns.c
 *	  Which columns a pull reads, and what has changed since the last one.
 *
 * Columns go by name: those that both sides have are read.  What was read is
 * remembered, so that a column that comes or goes is told, before any row is
 * read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

#include "flow/pull.h"

static bool can_be_written(Relation target, const char *name);
static void check_listed(EtlPull *pull, List *listed);
static void check_drift(EtlPull *pull);
static void check_cursor_type(EtlPull *pull);
static void check_gone(EtlPull *pull, Jsonb *known);
static void tell_new(EtlPull *pull, const char *name, bool is_read);
static bool is_integer(const char *type);

/* Sets pull->columns and pull->unread. */
void
etl_pull_set_columns(EtlPull *pull)
{
	TupleDesc desc = RelationGetDescr(pull->source);
	List *listed = etl_pull_option_columns(pull);

	check_listed(pull, listed);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		char *name;

		if (att->attisdropped)
			continue;
		name = pstrdup(NameStr(att->attname));
		if (pull->flag_column != NULL && strcmp(name, pull->flag_column) == 0)
			continue;
		if (can_be_written(pull->target, name) &&
			(listed == NIL || etl_has_name(listed, name)))
			pull->columns = lappend(pull->columns, name);
		else
			pull->unread = lappend(pull->unread, name);
	}
	if (pull->columns == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("relations \"%s\" and \"%s\" have no column in common",
						RelationGetRelationName(pull->source),
						RelationGetRelationName(pull->target)),
				 errhint("Columns are matched by name.")));
	if (pull->watermark.detail != NULL && OidIsValid(pull->watermark.source))
		check_drift(pull);
}

/*
 * A column of the source that the call needs.  The call of a pipeline that has
 * run before was right once, so that the column has another name now.
 */
AttrNumber
etl_pull_column(EtlPull *pull, const char *name, const char *parameter)
{
	AttrNumber attnum = get_attnum(RelationGetRelid(pull->source), name);

	if (attnum <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist", name,
						RelationGetRelationName(pull->source)),
				 OidIsValid(pull->watermark.source) ?
					 errhint("If it was renamed, forget the pipeline with SELECT etl_watermark_reset(%s), set the same place again with etl_watermark_set(), and pull with the new name in \"%s\".",
							 quote_literal_cstr(pull->pipeline), parameter) :
					 errhint("It is named in parameter \"%s\".", parameter)));
	return attnum;
}

static bool
can_be_written(Relation target, const char *name)
{
	AttrNumber attnum = get_attnum(RelationGetRelid(target), name);

	return attnum > 0 &&
		   !TupleDescAttr(RelationGetDescr(target), attnum - 1)->attgenerated;
}

/* Columns that the caller has listed must be there. */
static void
check_listed(EtlPull *pull, List *listed)
{
	ListCell *lc;

	foreach(lc, listed)
	{
		const char *name = lfirst(lc);
		Relation lacks = NULL;

		if (get_attnum(RelationGetRelid(pull->source), name) <= 0)
			lacks = pull->source;
		else if (!can_be_written(pull->target, name))
			lacks = pull->target;
		if (lacks != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of relation \"%s\" does not exist or cannot be written",
							name, RelationGetRelationName(lacks)),
					 errhint(
						 "It is named in \"columns\" of parameter \"apply_options\".")));
	}
}

/* ------------------------------------------------------------------ */
/* what has changed                                                     */

static void
check_drift(EtlPull *pull)
{
	JsonbValue value;
	Jsonb *known;
	ListCell *lc;

	check_cursor_type(pull);
	if (getKeyJsonValueFromContainer(&pull->watermark.detail->root, "columns",
									 strlen("columns"), &value) == NULL)
		return;
	known = JsonbValueToJsonb(&value);
	check_gone(pull, known);
	foreach(lc, pull->columns)
		if (etl_json_text(known, lfirst(lc)) == NULL)
			tell_new(pull, lfirst(lc), true);

	if (getKeyJsonValueFromContainer(&pull->watermark.detail->root, "unread",
									 strlen("unread"), &value) == NULL)
		return;
	foreach(lc, pull->unread)
	{
		JsonbValue name = {
			.type = jbvString,
			.val.string = {(int) strlen(lfirst(lc)), lfirst(lc)},
		};

		/* what the target could take was left out by the caller */
		if (!can_be_written(pull->target, lfirst(lc)) &&
			etl_json_text(known, lfirst(lc)) == NULL &&
			findJsonbValueFromContainer(value.val.binary.data, JB_FARRAY,
										&name) == NULL)
			tell_new(pull, lfirst(lc), false);
	}
}

/*
 * The watermark is a value of the cursor's former type; only integers mean the
 * same in another one.
 */
static void
check_cursor_type(EtlPull *pull)
{
	char *known = etl_json_text(pull->watermark.detail, "cursor_type");
	const char *type;
	AttrNumber attnum;

	if (known == NULL || pull->cursor_column == NULL)
		return;
	attnum = get_attnum(RelationGetRelid(pull->source), pull->cursor_column);
	if (attnum <= 0)
		return; /* is an error of its own */
	type = etl_cursor_type_name(pull->source_id, pull->cursor_column);
	if (strcmp(known, type) == 0 || (is_integer(known) && is_integer(type)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("cursor column \"%s\" of pipeline \"%s\" is of type %s now, and was of type %s",
					pull->cursor_column, pull->pipeline, type, known),
			 errdetail("The watermark is \"%s\".",
					   pull->watermark.value == NULL ? "" :
													   pull->watermark.value),
			 errhint("Forget the pipeline with SELECT etl_watermark_reset(%s), set the same place in the new type with etl_watermark_set(), and pull again.",
					 quote_literal_cstr(pull->pipeline))));
}

static bool
is_integer(const char *type)
{
	return strcmp(type, "smallint") == 0 || strcmp(type, "integer") == 0 ||
		   strcmp(type, "bigint") == 0;
}

/*
 * The name of a cursor's type, whatever the search path.  A domain does not
 * change what the watermark means.
 */
const char *
etl_cursor_type_name(Oid source, const char *column)
{
	const char *name = format_type_be_qualified(
		getBaseType(get_atttype(source, get_attnum(source, column))));
	const char *catalog = "pg_catalog.";

	if (strncmp(name, catalog, strlen(catalog)) == 0)
		return name + strlen(catalog);
	return name;
}

/*
 * A column that was read, and that the target still has, must be there.  The
 * cursor is looked for with a hint of its own.
 */
static void
check_gone(EtlPull *pull, Jsonb *known)
{
	JsonbIterator *iterator = JsonbIteratorInit(&known->root);
	JsonbIteratorToken token;
	List *listed = etl_pull_option_columns(pull);
	JsonbValue value;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		char *name;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(value.val.string.val, value.val.string.len);
		if (get_attnum(RelationGetRelid(pull->source), name) > 0 ||
			!can_be_written(pull->target, name) ||
			(listed != NIL && !etl_has_name(listed, name)) ||
			(pull->cursor_column != NULL &&
			 strcmp(name, pull->cursor_column) == 0))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist any more",
						name, RelationGetRelationName(pull->source)),
				 errdetail("Pipeline \"%s\" has read it before, and relation \"%s\" has it.",
						   pull->pipeline, RelationGetRelationName(pull->target)),
				 errhint(
					 "Drop the column of the target, too, or list the columns that are to be read in \"columns\" of parameter \"apply_options\".")));
	}
}

static void
tell_new(EtlPull *pull, const char *name, bool is_read)
{
	if (is_read)
		ereport(WARNING,
				(errmsg("pipeline \"%s\" reads column \"%s\" from now on",
						pull->pipeline, name),
				 errdetail("Rows that were read before lack it."),
				 errhint(
					 "etl_backfill() reads them again, if the pipeline has keys.")));
	else
		ereport(WARNING,
				(errmsg("pipeline \"%s\" does not read the new column \"%s\" of relation \"%s\"",
						pull->pipeline, name,
						RelationGetRelationName(pull->source)),
				 errhint("Add it to relation \"%s\" to have it read.",
						 RelationGetRelationName(pull->target))));
}

/* ------------------------------------------------------------------ */
/* remembering                                                          */

/* Members of a JSON object: the columns with types, the others, the cursor. */
void
etl_pull_append_columns(StringInfo json, EtlPull *pull)
{
	Oid relid = RelationGetRelid(pull->source);
	const char *separator = "";
	ListCell *lc;

	appendStringInfoString(json, "\"columns\": {");
	foreach(lc, pull->columns)
	{
		appendStringInfoString(json, separator);
		escape_json(json, lfirst(lc));
		appendStringInfoString(json, ": ");
		escape_json(json,
					format_type_be(
						get_atttype(relid, get_attnum(relid, lfirst(lc)))));
		separator = ", ";
	}
	appendStringInfoString(json, "}, \"unread\": ");
	etl_json_append_names(json, pull->unread);
	if (pull->cursor_column != NULL)
	{
		appendStringInfoString(json, ", \"cursor_type\": ");
		escape_json(json,
					etl_cursor_type_name(pull->source_id, pull->cursor_column));
	}
}
