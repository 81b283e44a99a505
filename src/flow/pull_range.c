/*-------------------------------------------------------------------------
 *
 * pull_range.c
 *	  From the watermark to the range that a pull is to read.
 *
 * The range's end is always a value that a row of the source has, found by a
 * query before the rows are read.  Everything up to it has been committed by
 * then, as pull_safety.c sees to, so that whatever is committed between the
 * two queries lies beyond it, or belongs to it and is read as well.
 *
 * All comparisons are made where the rows are, by the operators of the
 * column's type.  Values are text here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "base/values.h"
#include "flow/pull.h"

/* What a query about the ends of the range has found. */
typedef struct Edges
{
	const char *last;	/* greatest value, NULL: no rows */
	const char *beyond; /* first value that batch_rows leaves out, or NULL */
	const char *first;	/* with that */
	int64 null_rows;	/* or 1 if there is any, where that is all to know */
} Edges;

static void check_cursor_privilege(EtlPull *pull, AttrNumber attnum);
static void check_cursor_type(EtlPull *pull, Form_pg_attribute att);
static void set_ends(EtlCursor *cursor);
static EtlBound low_bound(EtlPull *pull);
static void look_back(EtlPull *pull);
static int compare(EtlPull *pull, const char *a, const char *b);
static Datum minus_interval(Oid type, Datum value, Interval *interval);
static void find_edges(EtlPull *pull, Edges *edges);
static const char *checked(EtlPull *pull, const char *value);
static bool keeps_rows_back(EtlPull *pull);
static bool takes_a_scan(EtlPull *pull);
static void append_scan(StringInfo sql, EtlPull *pull, bool counts_nulls);
static void append_lookups(StringInfo sql, EtlPull *pull);
static void append_limits(StringInfo sql, EtlPull *pull, const char *limit);
static void append_edge(StringInfo sql, EtlPull *pull, const char *tail,
						const char *limit);
static void append_bound(StringInfo sql, EtlPull *pull, const char *op,
						 const char *value);
static void append_unordered(StringInfo sql, EtlPull *pull);
static bool can_be_unordered(EtlPull *pull);
static void append_null_rows(StringInfo sql, EtlPull *pull);
static void refuse_infinite(EtlPull *pull, const char *value);
static void cut_batch(EtlPull *pull, const Edges *edges);
static void refuse_null_rows(EtlPull *pull);

/* ------------------------------------------------------------------ */
/* the cursor                                                           */

/* Finds the cursor column and what is special about its type. */
void
etl_pull_set_cursor(EtlPull *pull)
{
	EtlCursor *cursor = &pull->cursor;
	AttrNumber attnum = etl_pull_column(pull, pull->cursor_column,
										"cursor_column");
	Form_pg_attribute att;

	check_cursor_privilege(pull, attnum);
	att = TupleDescAttr(RelationGetDescr(pull->source), attnum - 1);
	cursor->name = pull->cursor_column;
	cursor->attnum = attnum;
	cursor->typmod = att->atttypmod;
	cursor->type = getBaseTypeAndTypmod(att->atttypid, &cursor->typmod);
	cursor->sql = pull->site->columns[attnum - 1];
	check_cursor_type(pull, att);
	set_ends(cursor);

	/*
	 * Another kind of server, to which a wrapper passes conditions, may take
	 * an infinite value for anything.  It is not asked for any, and what it
	 * answers is looked at.
	 */
	cursor->asks_ends = cursor->least != NULL && !pull->site->is_wrapped;
}

/* Another server is asked for its values without the executor's own check. */
static void
check_cursor_privilege(EtlPull *pull, AttrNumber attnum)
{
	Oid relid = RelationGetRelid(pull->source);

	if (pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck(relid, attnum, GetUserId(), ACL_SELECT) !=
			ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV,
					   get_relkind_objtype(pull->source->rd_rel->relkind),
					   RelationGetRelationName(pull->source));
}

/*
 * Its order must be one that every server knows by operators of pg_catalog.
 */
static void
check_cursor_type(EtlPull *pull, Form_pg_attribute att)
{
	TypeCacheEntry *type = lookup_type_cache(att->atttypid, TYPECACHE_LT_OPR);
	Oid procedure = InvalidOid;

	if (OidIsValid(type->lt_opr))
		procedure = get_opcode(type->lt_opr);
	/* a row cannot be compared with a literal; money depends on the locale */
	if (!OidIsValid(procedure) ||
		get_func_namespace(procedure) != PG_CATALOG_NAMESPACE ||
		type_is_rowtype(att->atttypid) || getBaseType(att->atttypid) == MONEYOID)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"%s\" of type %s cannot be a cursor",
						NameStr(att->attname), format_type_be(att->atttypid)),
				 errdetail(
					 "A cursor needs a built-in type whose values have an order."),
				 errhint("Use a view that casts the column.")));
}

static void
set_ends(EtlCursor *cursor)
{
	switch (cursor->type)
	{
		case TIMESTAMPTZOID:
		case TIMESTAMPOID:
		case DATEOID:
			cursor->is_time = true;
			cursor->least = "-infinity";
			cursor->greatest = "infinity";
			break;
		case INT2OID:
		case INT4OID:
		case INT8OID:
			cursor->is_number = true;
			break;
		case NUMERICOID:
			cursor->is_number = true;
			cursor->least = "-Infinity";
			cursor->greatest = "Infinity";
			break;
		case FLOAT4OID:
		case FLOAT8OID:
			cursor->least = "-Infinity";
			cursor->greatest = "Infinity";
			break;
		default:
			break;
	}
}

/* ------------------------------------------------------------------ */
/* the range                                                            */

/*
 * Sets what is to be read.  Waits where safety asks for it; if it gives up,
 * there is nothing to be read and pull->skipped says so.
 */
void
etl_pull_find_range(EtlPull *pull)
{
	bool again = pull->lookback != NULL && pull->watermark.value != NULL;
	Edges edges;

	pull->range.low = low_bound(pull);
	for (;;)
	{
		etl_safety_set_limit(pull);
		if (pull->skipped)
			return;
		find_edges(pull, &edges);
		if (edges.last != NULL || again || !pull->has_holder ||
			!keeps_rows_back(pull))
			break;
		if (!etl_wait_for_holder(pull))
		{
			pull->skipped = true;
			break;
		}
	}
	if (edges.null_rows > 0 && pull->null_cursor == ETL_NULL_CURSOR_ERROR)
		refuse_null_rows(pull);
	pull->null_cursor_rows = edges.null_rows;
	pull->has_rows = edges.last != NULL;
	if (pull->has_rows)
		cut_batch(pull, &edges);
	if (again)
		look_back(pull);
	if (!pull->has_rows)
		return;
	if (!etl_wait_for_writers(pull))
	{
		pull->skipped = true;
		pull->has_rows = false;
		pull->more = false;
	}
}

/* Where to go on; pull->range.low is set already for a backfill. */
static EtlBound
low_bound(EtlPull *pull)
{
	EtlBound low = {0};

	if (pull->is_backfill)
		return pull->range.low;
	if (pull->watermark.value == NULL)
	{
		low.value = pull->initial_value;
		low.inclusive = true;
		return low;
	}
	low.value = pull->watermark.value;
	return low;
}

/*
 * Adds rows up to the watermark that are to be read again to the range: from
 * the watermark less the lookback on, but not from below initial_value.  They
 * do not count for batch_rows, or a batch might hold nothing else.
 */
static void
look_back(EtlPull *pull)
{
	EtlRange *range = &pull->range;
	Oid type = pull->cursor.type;
	Datum watermark = etl_plain_value(type, pull->watermark.value);

	if (!pull->has_rows)
	{
		range->high.value = pull->watermark.value;
		range->high.inclusive = true;
		pull->has_rows = true;
	}
	range->low.value = etl_plain_text(type, minus_interval(type, watermark,
														   pull->lookback));
	range->low.inclusive = true;
	if (pull->initial_value != NULL &&
		compare(pull, range->low.value, pull->initial_value) < 0)
		range->low.value = pull->initial_value;
}

/* Two values of a cursor that is a time. */
static int
compare(EtlPull *pull, const char *a, const char *b)
{
	Oid type = pull->cursor.type;
	EtlValueOps ops;

	etl_value_ops_init(&ops, type, InvalidOid);
	return etl_value_compare(&ops, etl_plain_value(type, a),
							 etl_plain_value(type, b));
}

/* The watermark after the run: the end of what was read. */
const char *
etl_pull_reached(EtlPull *pull)
{
	return pull->has_rows ? pull->range.high.value : pull->watermark.value;
}

static Datum
minus_interval(Oid type, Datum value, Interval *interval)
{
	Datum minus = IntervalPGetDatum(interval);

	switch (type)
	{
		case TIMESTAMPTZOID:
			return DirectFunctionCall2(timestamptz_mi_interval, value, minus);
		case TIMESTAMPOID:
			return DirectFunctionCall2(timestamp_mi_interval, value, minus);
		case DATEOID:
			return DirectFunctionCall1(timestamp_date,
									   DirectFunctionCall2(date_mi_interval,
														   value, minus));
		default:
			elog(ERROR, "type %u is no time", type);
	}
	return (Datum) 0;
}

/*
 * Asks for the ends of what can be read, and for rows that are in no range.
 */
static void
find_edges(EtlPull *pull, Edges *edges)
{
	bool counts_nulls = pull->null_cursor != ETL_NULL_CURSOR_ERROR;
	StringInfoData sql;
	char **answer;
	int n = 0;

	initStringInfo(&sql);
	if (takes_a_scan(pull))
		append_scan(&sql, pull, counts_nulls);
	else
		append_lookups(&sql, pull);

	memset(edges, 0, sizeof(Edges));
	answer = etl_site_ask_row(pull->site, sql.data,
							  pull->batch_rows > 0 ? "nvnn" : "nv");
	edges->last = checked(pull, answer[n++]);
	edges->null_rows = counts_nulls ? pg_strtoint64(answer[n]) :
									  (etl_site_yes(answer[n]) ? 1 : 0);
	n++;
	if (pull->batch_rows > 0)
	{
		edges->beyond = checked(pull, answer[n++]);
		edges->first = checked(pull, answer[n++]);
	}
}

/*
 * What another server calls a value of the cursor may become the watermark.
 */
static const char *
checked(EtlPull *pull, const char *value)
{
	if (value == NULL)
		return NULL;
	if (pull->site->is_remote)
		(void) etl_plain_value(pull->cursor.type, value);
	refuse_infinite(pull, value);
	return value;
}

/*
 * Would each look at an end of the range read the whole table?  Where that is
 * not certain, the planner may find an index.
 */
static bool
takes_a_scan(EtlPull *pull)
{
	List *indexes;
	ListCell *lc;
	bool indexed = false;

	if (!pull->site->is_local || pull->batch_rows > 0 ||
		(!pull->cursor.is_time && !pull->cursor.is_number) ||
		pull->source->rd_rel->relkind != RELKIND_RELATION ||
		pull->source->rd_rel->relhassubclass)
		return false;
	indexes = RelationGetIndexList(pull->source);
	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		if (index->rd_index->indkey.values[0] == pull->cursor.attnum)
			indexed = true;
		index_close(index, NoLock);
	}
	list_free(indexes);
	return !indexed;
}

/* The greatest value and the rows in no range, from one scan for both. */
static void
append_scan(StringInfo sql, EtlPull *pull, bool counts_nulls)
{
	appendStringInfo(sql, "SELECT pg_catalog.max(%s) FILTER (WHERE ",
					 pull->cursor.sql);
	append_limits(sql, pull, pull->limit);
	appendStringInfoString(sql, "), pg_catalog.count(*) FILTER (WHERE ");
	append_unordered(sql, pull);
	appendStringInfo(sql, ")%s FROM %s",
					 counts_nulls ? "" : " OPERATOR(pg_catalog.>) 0",
					 pull->site->from);
}

/* The same and the ends of a batch, each by a look of its own. */
static void
append_lookups(StringInfo sql, EtlPull *pull)
{
	appendStringInfoString(sql, "SELECT (");
	append_edge(sql, pull, "DESC LIMIT 1", pull->limit);
	appendStringInfoString(sql, "), (");
	append_null_rows(sql, pull);
	appendStringInfoChar(sql, ')');
	if (pull->batch_rows > 0)
	{
		appendStringInfoString(sql, ", (");
		append_edge(sql, pull,
					psprintf("OFFSET " INT64_FORMAT " LIMIT 1", pull->batch_rows),
					pull->limit);
		appendStringInfoString(sql, "), (");
		append_edge(sql, pull, "LIMIT 1", pull->limit);
		appendStringInfoChar(sql, ')');
	}
}

/* Are there rows beyond the limit that could be read after a wait? */
static bool
keeps_rows_back(EtlPull *pull)
{
	StringInfoData sql;

	if (pull->limit == NULL)
		return false;
	initStringInfo(&sql);
	append_edge(&sql, pull, "LIMIT 1", pull->reach);
	return etl_site_ask(pull->site, sql.data, "v") != NIL;
}

/* A value at one end of the range, in the order of the cursor. */
static void
append_edge(StringInfo sql, EtlPull *pull, const char *tail, const char *limit)
{
	const char *column = pull->cursor.sql;

	appendStringInfo(sql, "SELECT %s FROM %s WHERE ", column, pull->site->from);
	append_limits(sql, pull, limit);
	appendStringInfo(sql, " ORDER BY %s %s", column, tail);
}

/* A query of the values from the start of the range on, in their order. */
void
etl_pull_append_edge(StringInfo sql, EtlPull *pull, const char *tail)
{
	append_edge(sql, pull, tail, NULL);
}

/* Everything but the end that a query has yet to find. */
static void
append_limits(StringInfo sql, EtlPull *pull, const char *limit)
{
	appendStringInfo(sql, "%s IS NOT NULL", pull->cursor.sql);
	if (pull->range.low.value != NULL)
		append_bound(sql, pull, pull->range.low.inclusive ? ">=" : ">",
					 pull->range.low.value);
	else if (pull->cursor.asks_ends)
		append_bound(sql, pull, ">", pull->cursor.least);
	if (pull->range.high.value != NULL)
		append_bound(sql, pull, pull->range.high.inclusive ? "<=" : "<",
					 pull->range.high.value);
	if (pull->end_value != NULL)
		append_bound(sql, pull, "<", pull->end_value);
	if (limit != NULL)
		append_bound(sql, pull, "<", limit);
	if (pull->cursor.asks_ends)
		append_bound(sql, pull, "<", pull->cursor.greatest);
}

static void
append_bound(StringInfo sql, EtlPull *pull, const char *op, const char *value)
{
	appendStringInfo(sql, " AND %s OPERATOR(pg_catalog.%s) %s",
					 pull->cursor.sql, op, quote_literal_cstr(value));
}

/* The condition of rows whose cursor has no place in an order. */
static void
append_unordered(StringInfo sql, EtlPull *pull)
{
	const EtlCursor *cursor = &pull->cursor;

	appendStringInfo(sql, "%s IS NULL", cursor->sql);
	if (cursor->asks_ends)
		appendStringInfo(sql,
						 " OR %s OPERATOR(pg_catalog.<=) '%s'"
						 " OR %s OPERATOR(pg_catalog.>=) '%s'",
						 cursor->sql, cursor->least, cursor->sql,
						 cursor->greatest);
}

/* Not so a column of a table that takes no nulls and has no infinite values. */
static bool
can_be_unordered(EtlPull *pull)
{
	Relation source = pull->source;

	return pull->cursor.least != NULL || !pull->site->is_local ||
		   (source->rd_rel->relkind != RELKIND_RELATION &&
			source->rd_rel->relkind != RELKIND_PARTITIONED_TABLE) ||
		   !etl_has_no_nulls(RelationGetDescr(source), pull->cursor.attnum - 1);
}

/* Are there any, or how many? */
static void
append_null_rows(StringInfo sql, EtlPull *pull)
{
	if (!can_be_unordered(pull))
	{
		appendStringInfoString(sql, pull->null_cursor == ETL_NULL_CURSOR_ERROR ?
										"SELECT false" :
										"SELECT 0");
		return;
	}
	if (pull->null_cursor == ETL_NULL_CURSOR_ERROR)
	{
		appendStringInfo(sql, "SELECT EXISTS (SELECT 1 FROM %s WHERE ",
						 pull->site->from);
		append_unordered(sql, pull);
		appendStringInfoChar(sql, ')');
		return;
	}
	appendStringInfo(sql, "SELECT pg_catalog.count(*) FROM %s WHERE ",
					 pull->site->from);
	append_unordered(sql, pull);
}

static void
refuse_null_rows(EtlPull *pull)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("cursor column \"%s\" of relation \"%s\" has %s",
					pull->cursor.name, RelationGetRelationName(pull->source),
					pull->cursor.asks_ends ? "values that are null or infinite" :
											 "null values"),
			 errdetail(
				 "Such rows are in no range, so that they would never be read."),
			 errhint(
				 "Pass null_cursor => 'ignore' to leave them out, or null_cursor => 'include' and \"keys\" to read them in every run.")));
}

/* A watermark that is infinite would leave nothing to be read. */
static void
refuse_infinite(EtlPull *pull, const char *value)
{
	const EtlCursor *cursor = &pull->cursor;

	if (cursor->greatest == NULL ||
		(strcmp(value, cursor->greatest) != 0 &&
		 strcmp(value, cursor->least) != 0 && strcmp(value, "NaN") != 0))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("cursor column \"%s\" of relation \"%s\" has the value %s, which is no place to go on from",
					cursor->name, RelationGetRelationName(pull->source), value),
			 errhint(
				 "Read a view that leaves such rows out, or pass a finite \"end_value\".")));
}

/*
 * Ends the range before the first value that does not fit into the batch, or
 * after the first value if that alone has more rows.
 */
static void
cut_batch(EtlPull *pull, const Edges *edges)
{
	EtlBound *high = &pull->range.high;
	StringInfoData sql;
	List *answer;

	high->inclusive = true;
	high->value = edges->last;
	if (edges->beyond == NULL)
		return;

	/* Equal values may differ as text: then no row is below. */
	high->inclusive = false;
	high->value = edges->beyond;
	initStringInfo(&sql);
	append_edge(&sql, pull, "DESC LIMIT 1", pull->limit);
	answer = etl_site_ask(pull->site, sql.data, "v");
	high->inclusive = true;
	high->value = answer != NIL ?
					  checked(pull, ((char **) linitial(answer))[0]) :
					  edges->first;
	if (high->value == NULL) /* rows have gone between two foreign queries */
		pull->has_rows = false;
	pull->more = high->value == NULL || strcmp(high->value, edges->last) != 0;
}

/*
 * The condition of the rows that are to be read, with the names of the site.
 */
char *
etl_pull_condition(EtlPull *pull)
{
	bool unordered = pull->null_cursor == ETL_NULL_CURSOR_INCLUDE &&
					 pull->null_cursor_rows > 0;
	StringInfoData sql;

	initStringInfo(&sql);
	if (pull->has_rows)
		append_limits(&sql, pull, pull->limit);
	if (pull->has_rows && unordered)
	{
		StringInfoData both;

		initStringInfo(&both);
		appendStringInfo(&both, "(%s) OR ", sql.data);
		append_unordered(&both, pull);
		return both.data;
	}
	if (unordered)
		append_unordered(&sql, pull);
	else if (!pull->has_rows)
		appendStringInfoString(&sql, "false");
	return sql.data;
}
