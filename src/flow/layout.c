/*-------------------------------------------------------------------------
 *
 * layout.c
 *	  How a file's records are read and written, and how that is remembered.
 *
 * The layout of each loaded file is kept in etl_patterns.loaded_file, so that
 * a dead letter of that file can be replayed with the same dialect, columns
 * and conflict action, whatever the next file looks like.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/attnum.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "nodes/value.h"
#include "parser/parse_relation.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "flow/flow.h"

const char *const etl_conflict_words[] = {"error", "skip", "update", NULL};

static void
append_string(StringInfo json, const char *key, const char *value)
{
	appendStringInfo(json, "%s\"%s\": ", json->len > 1 ? ", " : "", key);
	escape_json(json, value);
}

static void
append_strings(StringInfo json, const char *key, List *values)
{
	ListCell *lc;

	appendStringInfo(json, "%s\"%s\": [", json->len > 1 ? ", " : "", key);
	foreach(lc, values)
	{
		if (lc != list_head(values))
			appendStringInfoString(json, ", ");
		escape_json(json, lfirst(lc));
	}
	appendStringInfoChar(json, ']');
}

/* The layout as it is kept. */
Jsonb *
etl_layout_to_jsonb(const EtlLayout *layout)
{
	const EtlCsvDialect *dialect = &layout->dialect;
	List *null_strings = NIL;
	StringInfoData json;

	for (int i = 0; i < dialect->null_count; i++)
		null_strings = lappend(null_strings,
							   unconstify(char *, dialect->null_strings[i]));

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	append_strings(&json, "columns", layout->columns);
	append_string(&json, "delimiter", psprintf("%c", dialect->delimiter));
	append_string(&json, "quote", psprintf("%c", dialect->quote));
	append_string(&json, "escape", psprintf("%c", dialect->escape));
	append_strings(&json, "null_strings", null_strings);
	appendStringInfo(&json, ", \"trim\": %s", dialect->trim ? "true" : "false");
	append_string(&json, "encoding", pg_encoding_to_char(dialect->encoding));
	append_string(&json, "on_conflict", etl_conflict_words[layout->on_conflict]);
	append_strings(&json, "keys", layout->keys);
	appendStringInfoChar(&json, '}');
	return DatumGetJsonbP(
		DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}

static JsonbValue *
get_value(Jsonb *jsonb, const char *key)
{
	JsonbValue *value = getKeyJsonValueFromContainer(&jsonb->root, key,
													 (int) strlen(key), NULL);

	if (value == NULL)
		elog(ERROR, "layout of a loaded file lacks \"%s\"", key);
	return value;
}

static char *
get_string(Jsonb *jsonb, const char *key)
{
	JsonbValue *value = get_value(jsonb, key);

	return pnstrdup(value->val.string.val, value->val.string.len);
}

static List *
get_strings(Jsonb *jsonb, const char *key)
{
	JsonbValue *array = get_value(jsonb, key);
	List *strings = NIL;

	for (uint32 i = 0; i < JsonContainerSize(array->val.binary.data); i++)
	{
		JsonbValue *value = getIthJsonbValueFromContainer(array->val.binary.data,
														  i);

		strings = lappend(strings, pnstrdup(value->val.string.val,
											value->val.string.len));
	}
	return strings;
}

/* The layout as it was kept by etl_layout_to_jsonb(). */
void
etl_layout_from_jsonb(EtlLayout *layout, Jsonb *jsonb)
{
	etl_dialect_set(&layout->dialect, get_string(jsonb, "delimiter"),
					get_string(jsonb, "quote"), get_string(jsonb, "escape"),
					get_strings(jsonb, "null_strings"),
					get_value(jsonb, "trim")->val.boolean,
					get_string(jsonb, "encoding"));
	layout->columns = get_strings(jsonb, "columns");
	layout->on_conflict = etl_option_word("on_conflict",
										  get_string(jsonb, "on_conflict"),
										  etl_conflict_words);
	layout->keys = get_strings(jsonb, "keys");
}

/* What the sink needs to know. */
EtlSinkOptions
etl_layout_sink_options(const EtlLayout *layout, bool guarded,
						EtlLeftOut *left_out)
{
	EtlSinkOptions options = {
		.guarded = guarded,
		.left_out = left_out,
		.on_conflict = layout->on_conflict,
	};
	ListCell *lc;

	foreach(lc, layout->keys)
		options.keys = lappend(options.keys, makeString(lfirst(lc)));
	return options;
}

/*
 * The columns that a file may fill: all but the dropped and the generated
 * ones, as names in the table's order.
 */
List *
etl_insertable_columns(Relation target)
{
	TupleDesc desc = RelationGetDescr(target);
	List *columns = NIL;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && att->attgenerated == '\0')
			columns = lappend(columns, pstrdup(NameStr(att->attname)));
	}
	return columns;
}

/* What to do about a column that the target does not have. */
static const char *
missing_column_hint(const EtlLayout *layout, Relation target, const char *column)
{
	ListCell *lc;

	foreach(lc, etl_insertable_columns(target))
		if (pg_strcasecmp(lfirst(lc), column) == 0)
			return psprintf("There is a column \"%s\": names must agree in upper and lower case too.",
							(char *) lfirst(lc));
	if (list_length(layout->columns) == 1 && strpbrk(column, ",;|\t") != NULL)
		return "The header was read as one field. Check the parameter \"delimiter\".";
	return "The target needs a column for each field. With header => 'skip' fields go by position instead of by name.";
}

static AttrNumber
attnum_of(const EtlLayout *layout, Relation target, const char *column)
{
	int attnum = attnameAttNum(target, column, false);

	if (attnum == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						column, RelationGetRelationName(target)),
				 errhint("%s", missing_column_hint(layout, target, column))));
	if (TupleDescAttr(RelationGetDescr(target), attnum - 1)->attgenerated != '\0')
		ereport(ERROR, (errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
						errmsg("column \"%s\" is a generated column", column),
						errdetail("Generated columns cannot be loaded.")));
	return (AttrNumber) attnum;
}

/*
 * The target's attribute numbers of the layout's columns.  An unknown, a
 * generated or a repeated one is an error.
 */
AttrNumber *
etl_layout_attnums(const EtlLayout *layout, Relation target)
{
	AttrNumber *attnums = palloc(sizeof(AttrNumber) *
								 Max(list_length(layout->columns), 1));
	Bitmapset *seen = NULL;
	int n = 0;
	ListCell *lc;

	foreach(lc, layout->columns)
	{
		AttrNumber attnum = attnum_of(layout, target, lfirst(lc));

		if (bms_is_member(attnum, seen))
			ereport(ERROR, (errcode(ERRCODE_DUPLICATE_COLUMN),
							errmsg("column \"%s\" specified more than once",
								   (char *) lfirst(lc))));
		seen = bms_add_member(seen, attnum);
		attnums[n++] = attnum;
	}
	return attnums;
}
