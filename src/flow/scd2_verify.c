/*-------------------------------------------------------------------------
 *
 * scd2_verify.c
 *	  etl_scd2_verify(): what is wrong with the versions of a dimension.
 *
 * One query finds everything: its window runs over the versions of each key
 * in the order of their start, so that a version is held against all that
 * begin before it, not just its neighbour.  The query returns only versions
 * with a problem, with one boolean per problem; the sentences are made here.
 *
 * It runs with the caller's rights, read-only, with the caller's snapshot.
 * What it finds goes row by row into the result, so that neither side needs
 * more than work_mem.  Names and operators in it are qualified: search_path
 * has no say.  ACCESS SHARE on the target until the end of the transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "nodes/primnodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_relation.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/typcache.h"

#include "flow/flow.h"
#include "source/rows.h"

PG_FUNCTION_INFO_V1(etl_scd2_verify);

enum
{
	ARG_TARGET,
	ARG_KEYS,
	ARG_VALID_FROM,
	ARG_VALID_TO,
	ARG_IS_CURRENT,
	ARG_TRACKED,
	ARG_BOUNDS,
	ARG_OPEN_END,
	ARG_GAPS
};

/* The problems, in the order in which those of one version are told. */
typedef enum Problem
{
	NULL_KEY,
	NULL_START,
	EMPTY,
	TWO_OPEN,
	OVERLAP,
	EQUAL_NEIGHBOURS,
	IS_CURRENT,
	GAP
} Problem;

#define NUM_PROBLEMS (GAP + 1)

static const char *const problem_words[] = {"null_key",	  "null_start",
											"empty",	  "two_open",
											"overlap",	  "equal_neighbours",
											"is_current", "gap"};

static const char *const bounds_words[] = {"[)", "[]", NULL};

/* Columns of the query, after the problems. */
enum
{
	COLUMN_KEY = NUM_PROBLEMS + 1,
	COLUMN_FROM, /* the version that has the problem */
	COLUMN_TO,
	COLUMN_OPEN,
	COLUMN_PREV_FROM, /* the one before it */
	COLUMN_PREV_TO,
	COLUMN_PREV_OPEN,
	COLUMN_OPEN_FROM, /* the last open one that begins before it */
	COLUMN_MAX_FROM,  /* the closed one before it that ends last */
	COLUMN_MAX_TO,
	COLUMN_SAME_FROM, /* does the one before it begin at the same time? */
	COLUMN_IS_CURRENT
};

typedef struct Verify
{
	Relation target;
	bool closed_bounds;
	bool gaps;
	List *keys;	   /* of names */
	List *tracked; /* of attribute numbers as integers */
	AttrNumber valid_from;
	AttrNumber valid_to;
	AttrNumber is_current; /* 0: there is none */
	const char *is_current_name;
	Bitmapset *seen;	  /* columns that have a role */
	TypeCacheEntry *time; /* the type of valid_from and valid_to */
	bool has_infinity;	  /* of that type */
	bool has_open_end;
	Datum open_end;
	ReturnSetInfo *result;
} Verify;

#define QUOTED(att) quote_identifier(NameStr((att)->attname))

/* ------------------------------------------------------------------ */
/* arguments                                                            */

/* The column that a parameter names, which must have no other role. */
static Form_pg_attribute
find_column(Verify *verify, const char *name, const char *parameter)
{
	int attnum = attnameAttNum(verify->target, name, false);

	if (attnum == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist", name,
						RelationGetRelationName(verify->target)),
				 strcmp(parameter, "is_current") == 0 ?
					 errhint(
						 "Pass is_current => NULL if the table has no such column.") :
					 errhint("It is named in parameter \"%s\".", parameter)));
	if (bms_is_member(attnum, verify->seen))
		ereport(ERROR, (errcode(ERRCODE_DUPLICATE_COLUMN),
						errmsg("column \"%s\" specified more than once", name)));
	verify->seen = bms_add_member(verify->seen, attnum);
	return TupleDescAttr(RelationGetDescr(verify->target), attnum - 1);
}

/* The keys, which the window has to sort. */
static void
find_keys(Verify *verify, List *names)
{
	ListCell *lc;

	if (names == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"keys\" must name at least one column")));
	foreach(lc, names)
	{
		Form_pg_attribute att = find_column(verify, lfirst(lc), "keys");
		TypeCacheEntry *type = lookup_type_cache(att->atttypid,
												 TYPECACHE_LT_OPR |
													 TYPECACHE_EQ_OPR);

		if (!OidIsValid(type->lt_opr) || !OidIsValid(type->eq_opr))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_FUNCTION),
					 errmsg("key column \"%s\" has type %s, whose values cannot be ordered",
							NameStr(att->attname), format_type_be(att->atttypid)),
					 errhint(
						 "A key needs a type with a default operator class for btree.")));
	}
	verify->keys = names;
}

/* The columns that say from when to when a version is valid. */
static void
find_times(Verify *verify, const char *from_name, const char *to_name)
{
	Form_pg_attribute from = find_column(verify, from_name, "valid_from");
	Form_pg_attribute to = find_column(verify, to_name, "valid_to");
	Oid type = getBaseType(from->atttypid);

	if (type != getBaseType(to->atttypid))
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
						errmsg("columns \"%s\" and \"%s\" have different types",
							   from_name, to_name),
						errdetail("They have types %s and %s.",
								  format_type_be(from->atttypid),
								  format_type_be(to->atttypid))));
	if (verify->closed_bounds && type != DATEOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("bounds => '[]' needs columns of type date"),
				 errdetail("Column \"%s\" has type %s.", from_name,
						   format_type_be(from->atttypid)),
				 errhint(
					 "Use bounds => '[)', where a version ends when the next begins.")));
	verify->time = lookup_type_cache(type, TYPECACHE_LT_OPR | TYPECACHE_GT_OPR |
											   TYPECACHE_EQ_OPR);
	if (!OidIsValid(verify->time->lt_opr) || !OidIsValid(verify->time->gt_opr) ||
		!OidIsValid(verify->time->eq_opr) || !OidIsValid(get_array_type(type)))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" has type %s, which cannot order versions",
						from_name, format_type_be(from->atttypid)),
				 errhint(
					 "Use a type such as date or timestamp with time zone.")));
	verify->valid_from = from->attnum;
	verify->valid_to = to->attnum;
	verify->has_infinity = type == DATEOID || type == TIMESTAMPOID ||
						   type == TIMESTAMPTZOID;
}

static void
find_is_current(Verify *verify, const char *name)
{
	Form_pg_attribute att;

	if (name == NULL)
		return;
	att = find_column(verify, name, "is_current");
	if (getBaseType(att->atttypid) != BOOLOID)
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
						errmsg("column \"%s\" has type %s, not boolean", name,
							   format_type_be(att->atttypid))));
	verify->is_current = att->attnum;
	verify->is_current_name = name;
}

/* The column of the target's primary key, if it has exactly one; else 0. */
static AttrNumber
single_primary_key(Relation target)
{
	AttrNumber attnum = InvalidAttrNumber;
	ListCell *lc;

	if (!target->rd_rel->relhasindex)
		return InvalidAttrNumber;
	foreach(lc, RelationGetIndexList(target))
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		if (index->rd_index->indisprimary &&
			IndexRelationGetNumberOfKeyAttributes(index) == 1)
			attnum = index->rd_index->indkey.values[0];
		index_close(index, AccessShareLock);
	}
	return attnum;
}

/* The named columns; unnamed, all that have no other role. */
static void
find_tracked(Verify *verify, List *names, bool named)
{
	TupleDesc desc = RelationGetDescr(verify->target);
	AttrNumber primary_key;
	ListCell *lc;

	foreach(lc, names)
		verify->tracked = lappend_int(verify->tracked,
									  find_column(verify, lfirst(lc), "tracked")
										  ->attnum);
	if (named)
		return;
	primary_key = single_primary_key(verify->target);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && att->attgenerated == '\0' &&
			att->attidentity == '\0' && att->attnum != primary_key &&
			!bms_is_member(att->attnum, verify->seen))
			verify->tracked = lappend_int(verify->tracked, att->attnum);
	}
}

/* valid_to of open versions: as given, or its constant default. */
static void
find_open_end(Verify *verify, const char *literal)
{
	Oid type = verify->time->type_id;

	if (literal != NULL)
	{
		Oid input;
		Oid param;

		getTypeInputInfo(type, &input, &param);
		verify->open_end = OidInputFunctionCall(input,
												unconstify(char *, literal),
												param, -1);
		verify->has_open_end = true;
	}
	else
	{
		Node *expr = build_column_default(verify->target, verify->valid_to);

		if (expr != NULL)
			expr = eval_const_expressions(NULL, expr);
		if (expr != NULL && IsA(expr, CoerceToDomain))
			expr = (Node *) ((CoerceToDomain *) expr)->arg;
		if (expr == NULL || !IsA(expr, Const) || ((Const *) expr)->constisnull ||
			getBaseType(((Const *) expr)->consttype) != type)
			return;
		verify->open_end = ((Const *) expr)->constvalue;
		verify->has_open_end = true;
	}
}

/* ------------------------------------------------------------------ */
/* the query                                                            */

/* Two expressions of the type of time, compared by one of its operators. */
static char *
compare(const Verify *verify, const char *left, Oid operator, const char * right)
{
	StringInfoData clause;

	initStringInfo(&clause);
	generate_operator_clause(&clause, left, verify->time->type_id, operator,
							 right, verify->time->type_id);
	return clause.data;
}

/* A column of the target as an expression; one of a domain as its base. */
static char *
column_expr(const Verify *verify, AttrNumber attnum)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(verify->target),
										  attnum - 1);
	Oid base = getBaseType(att->atttypid);

	if (base == att->atttypid)
		return psprintf("t.%s", QUOTED(att));
	return psprintf("t.%s::%s", QUOTED(att), format_type_be_qualified(base));
}

/*
 * The versions as they are stored: keys k1 ..., key as a whole, f and t for
 * from and to, o whether it is open, e whether it is empty, n whether a key
 * is null, c for is_current, and the tracked columns as two records: v of
 * those that have equality, i of those that have not.
 */
static void
append_versions(StringInfo query, const Verify *verify)
{
	const char *open_end = compare(verify, "s.t", verify->time->eq_opr, "$1");
	int k = 0;
	ListCell *lc;

	appendStringInfo(query, "SELECT s.*, (s.t IS NULL");
	if (verify->has_open_end)
		appendStringInfo(query, " OR %s", open_end);
	if (verify->has_infinity)
		appendStringInfo(query, " OR %s",
						 compare(verify, "s.t", verify->time->eq_opr,
								 psprintf("'infinity'::%s",
										  format_type_be_qualified(
											  verify->time->type_id))));
	appendStringInfo(query, ") AS o, COALESCE(%s%s, false) AS e FROM (SELECT ",
					 verify->closed_bounds ? "" : "NOT ",
					 verify->closed_bounds ?
						 compare(verify, "s.t", verify->time->lt_opr, "s.f") :
						 compare(verify, "s.f", verify->time->lt_opr, "s.t"));
	foreach(lc, verify->keys)
		appendStringInfo(query, "t.%s AS k%d, ", quote_identifier(lfirst(lc)),
						 ++k);
	k = 0;
	foreach(lc, verify->keys)
		appendStringInfo(query, "%st.%s IS NOT DISTINCT FROM NULL",
						 k++ > 0 ? " OR " : "(", quote_identifier(lfirst(lc)));
	appendStringInfo(query, ") AS n, %s AS f, %s AS t, %s AS c",
					 column_expr(verify, verify->valid_from),
					 column_expr(verify, verify->valid_to),
					 verify->is_current != 0 ?
						 column_expr(verify, verify->is_current) :
						 "NULL::pg_catalog.bool");
	foreach(lc, verify->tracked)
		appendStringInfo(query, ", t.%s AS a%d",
						 QUOTED(TupleDescAttr(RelationGetDescr(verify->target),
											  lfirst_int(lc) - 1)),
						 lfirst_int(lc));
	appendStringInfo(query, " FROM %s AS t) AS s",
					 etl_relation_name(verify->target));
}

/* The tracked columns with, or those without, equality as one record. */
static char *
tracked_record(const Verify *verify, bool equality)
{
	StringInfoData record;
	ListCell *lc;

	initStringInfo(&record);
	foreach(lc, verify->tracked)
	{
		Oid type = TupleDescAttr(RelationGetDescr(verify->target),
								 lfirst_int(lc) - 1)
					   ->atttypid;
		TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_EQ_OPR);

		if (OidIsValid(entry->eq_opr) == equality)
			appendStringInfo(&record, "%s r.a%d", record.len > 0 ? "," : "",
							 lfirst_int(lc));
	}
	return record.len > 0 ? psprintf("ROW(%s)", record.data) : NULL;
}

/*
 * The versions beside those that begin before them: pf, pt, po, pe of the
 * one just before, ro whether any is open, mo the greatest start of those,
 * m end and start of the closed one that ends last.
 */
static void
append_windows(StringInfo query, const Verify *verify)
{
	const char *equal = tracked_record(verify, true);
	const char *image = tracked_record(verify, false);
	int nkeys = list_length(verify->keys);

	appendStringInfoString(query,
						   "SELECT r.*, pg_catalog.lag(r.f) OVER w AS pf"
						   ", pg_catalog.lag(r.t) OVER w AS pt"
						   ", pg_catalog.lag(r.o) OVER w AS po"
						   ", pg_catalog.lag(r.e) OVER w AS pe"
						   ", pg_catalog.bool_or(r.o) OVER w AS ro"
						   ", pg_catalog.max(ARRAY[r.f])"
						   " FILTER (WHERE r.o AND r.f IS NOT NULL) OVER w AS mo"
						   ", pg_catalog.max(ARRAY[r.t, r.f])"
						   " FILTER (WHERE NOT r.o AND NOT r.e AND r.f IS NOT NULL)"
						   " OVER w AS m");
	if (equal != NULL)
		appendStringInfo(query, ", %s AS v, pg_catalog.lag(%s) OVER w AS pv",
						 equal, equal);
	if (image != NULL)
		appendStringInfo(query, ", %s AS i, pg_catalog.lag(%s) OVER w AS pi",
						 image, image);
	appendStringInfoString(query, " FROM (");
	append_versions(query, verify);
	appendStringInfoString(query, ") AS r WINDOW w AS (PARTITION BY ");
	for (int k = 1; k <= nkeys; k++)
		appendStringInfo(query, "%sr.k%d", k > 1 ? ", " : "", k);
	appendStringInfoString(query,
						   " ORDER BY r.f, r.o, r.t"
						   " ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)");
}

/* Is the difference of two dates, the earlier one first, this or that? */
static char *
days_between(const char *from, const char *to, const char *condition)
{
	return psprintf("CASE WHEN %s OPERATOR(pg_catalog.<) %s"
					" AND pg_catalog.isfinite(%s) AND pg_catalog.isfinite(%s)"
					" THEN %s OPERATOR(pg_catalog.-) %s %s END",
					from, to, from, to, to, from, condition);
}

/* The conditions of the problems, p0 ..., over the rows of the windows. */
static void
append_problems(StringInfo query, const Verify *verify)
{
	const TypeCacheEntry *time = verify->time;
	const char *adjacent = compare(verify, "w.pt", time->eq_opr, "w.f");
	const char *reaches = compare(verify, "(w.m)[1]", time->gt_opr, "w.f");
	const char *gap = compare(verify, "(w.m)[1]", time->lt_opr, "w.f");
	const char *same = compare(verify, "w.pf", time->eq_opr, "w.f");
	bool equal = tracked_record(verify, true) != NULL;
	bool image = tracked_record(verify, false) != NULL;

	if (verify->closed_bounds)
	{
		adjacent = days_between("w.pt", "w.f", "OPERATOR(pg_catalog.=) 1");
		reaches = psprintf("NOT %s", gap);
		gap = days_between("(w.m)[1]", "w.f", "OPERATOR(pg_catalog.>) 1");
	}
	appendStringInfo(query, "w.n AS p%d, w.f IS NULL AS p%d, w.e AS p%d",
					 NULL_KEY, NULL_START, EMPTY);
	appendStringInfo(query, ", NOT w.n AND w.o AND w.ro AS p%d", TWO_OPEN);
	appendStringInfo(query,
					 ", NOT w.n AND (%s OR w.f IS NOT NULL AND NOT w.e"
					 " AND (w.mo IS NOT NULL OR %s)) AS p%d",
					 same, reaches, OVERLAP);
	if (equal || image)
		appendStringInfo(query,
						 ", CASE WHEN NOT w.n AND NOT w.e AND NOT w.pe AND NOT w.po"
						 " AND %s THEN %s%s%s END AS p%d",
						 adjacent,
						 equal ? "pg_catalog.record_eq(w.v, w.pv)" : "",
						 equal && image ? " AND " : "",
						 image ? "pg_catalog.record_image_eq(w.i, w.pi)" : "",
						 EQUAL_NEIGHBOURS);
	else
		appendStringInfo(query, ", false AS p%d", EQUAL_NEIGHBOURS);
	if (verify->is_current != 0)
		appendStringInfo(query,
						 ", CASE WHEN w.o THEN w.c IS NOT TRUE"
						 " ELSE w.c IS NOT FALSE END AS p%d",
						 IS_CURRENT);
	else
		appendStringInfo(query, ", false AS p%d", IS_CURRENT);
	if (verify->gaps)
		appendStringInfo(query,
						 ", NOT w.n AND NOT w.e AND w.mo IS NULL AND %s AS p%d",
						 gap, GAP);
	else
		appendStringInfo(query, ", false AS p%d", GAP);
	appendStringInfo(query, ", %s AS same", same);
}

/* The whole query; $1 is open_end, if there is one. */
static char *
build_query(const Verify *verify)
{
	StringInfoData query;
	int k = 0;
	ListCell *lc;

	initStringInfo(&query);
	appendStringInfoString(&query, "SELECT ");
	for (int i = 0; i < NUM_PROBLEMS; i++)
		appendStringInfo(&query, "p.p%d, ", i);
	appendStringInfoString(&query,
						   "(SELECT pg_catalog.to_jsonb(j) FROM (SELECT ");
	foreach(lc, verify->keys)
	{
		appendStringInfo(&query, "%sp.k%d AS %s", k > 0 ? ", " : "", k + 1,
						 quote_identifier(lfirst(lc)));
		k++;
	}
	appendStringInfoString(&query,
						   ") AS j), p.f::pg_catalog.text, p.t::pg_catalog.text, p.o"
						   ", p.pf::pg_catalog.text, p.pt::pg_catalog.text, p.po"
						   ", (p.mo)[1]::pg_catalog.text"
						   ", (p.m)[2]::pg_catalog.text, (p.m)[1]::pg_catalog.text"
						   ", p.same, p.c FROM (SELECT w.*, ");
	append_problems(&query, verify);
	appendStringInfoString(&query, " FROM (");
	append_windows(&query, verify);
	appendStringInfoString(&query, ") AS w) AS p WHERE ");
	for (int i = 0; i < NUM_PROBLEMS; i++)
		appendStringInfo(&query, "%sp.p%d", i > 0 ? " OR " : "", i);
	return query.data;
}

/* ------------------------------------------------------------------ */
/* the result                                                           */

/* A column of the query that is text, or NULL. */
static const char *
slot_text(TupleTableSlot *slot, int column)
{
	if (slot->tts_isnull[column - 1])
		return NULL;
	return TextDatumGetCString(slot->tts_values[column - 1]);
}

static bool
slot_bool(TupleTableSlot *slot, int column)
{
	return !slot->tts_isnull[column - 1] &&
		   DatumGetBool(slot->tts_values[column - 1]);
}

/* "version from A to B", to NULL: it is open. */
static const char *
version(const Verify *verify, const char *from, const char *to)
{
	const char *until = verify->closed_bounds ? "through" : "to";

	if (from == NULL)
		return to == NULL ? "open version without a start" :
							psprintf("version without a start %s %s", until, to);
	if (to == NULL)
		return psprintf("version from %s on", from);
	return psprintf("version from %s %s %s", from, until, to);
}

/* The version that a version overlaps. */
static const char *
overlapped(const Verify *verify, TupleTableSlot *slot, const char *previous)
{
	const char *open_from = slot_text(slot, COLUMN_OPEN_FROM);

	if (slot_bool(slot, COLUMN_SAME_FROM))
		return previous;
	if (open_from != NULL)
		return version(verify, open_from, NULL);
	return version(verify, slot_text(slot, COLUMN_MAX_FROM),
				   slot_text(slot, COLUMN_MAX_TO));
}

/* A sentence about one problem of one version. */
static const char *
problem_detail(const Verify *verify, Problem problem, TupleTableSlot *slot)
{
	const char *from = slot_text(slot, COLUMN_FROM);
	const char *to = slot_text(slot, COLUMN_TO);
	bool open = slot_bool(slot, COLUMN_OPEN);
	const char *this = version(verify, from, open ? NULL : to);
	const char *previous = version(verify, slot_text(slot, COLUMN_PREV_FROM),
								   slot_bool(slot, COLUMN_PREV_OPEN) ?
									   NULL :
									   slot_text(slot, COLUMN_PREV_TO));

	switch (problem)
	{
		case NULL_KEY:
			return psprintf("The %s has a null in its key.", this);
		case NULL_START:
			if (open)
				return "The start of an open version is null.";
			return psprintf("The start of the version %s %s is null.",
							verify->closed_bounds ? "through" : "to", to);
		case EMPTY:
			return psprintf("The %s covers no time.", version(verify, from, to));
		case TWO_OPEN:
			return psprintf("The %s and the %s are both open.",
							version(verify, slot_text(slot, COLUMN_OPEN_FROM),
									NULL),
							this);
		case OVERLAP:
			return psprintf("The %s overlaps the %s.", this,
							overlapped(verify, slot, previous));
		case EQUAL_NEIGHBOURS:
			return psprintf("The %s holds the same values as the %s.", this,
							previous);
		case IS_CURRENT:
			return psprintf("Column \"%s\" is %s in the %s, which is %s.",
							verify->is_current_name,
							slot->tts_isnull[COLUMN_IS_CURRENT - 1] ? "null" :
							slot_bool(slot, COLUMN_IS_CURRENT)		? "true" :
																	  "false",
							this, open ? "open" : "closed");
		case GAP:
			return psprintf("No version is valid between the %s and the %s.",
							version(verify, slot_text(slot, COLUMN_MAX_FROM),
									slot_text(slot, COLUMN_MAX_TO)),
							this);
	}
	return NULL; /* keep compiler quiet */
}

/* One result row for each problem of a version. */
static void
report_row(void *arg, TupleTableSlot *slot)
{
	Verify *verify = arg;

	slot_getallattrs(slot);
	for (int i = 0; i < NUM_PROBLEMS; i++)
	{
		Datum values[3];
		bool nulls[3] = {0};

		if (!slot_bool(slot, i + 1))
			continue;
		values[0] = CStringGetTextDatum(problem_words[i]);
		values[1] = slot->tts_values[COLUMN_KEY - 1];
		values[2] = CStringGetTextDatum(problem_detail(verify, i, slot));
		tuplestore_putvalues(verify->result->setResult, verify->result->setDesc,
							 values, nulls);
	}
}

/*
 * etl_scd2_verify(target, keys, ...): one row for each problem of each
 * version; none if the dimension is sound.
 */
Datum
etl_scd2_verify(PG_FUNCTION_ARGS)
{
	Verify verify = {.result = (ReturnSetInfo *) fcinfo->resultinfo};
	EtlQuery query = {0};
	Oid target_oid;

	etl_refuse_null(fcinfo, ARG_TARGET, "target");
	etl_refuse_null(fcinfo, ARG_KEYS, "keys");
	etl_refuse_null(fcinfo, ARG_VALID_FROM, "valid_from");
	etl_refuse_null(fcinfo, ARG_VALID_TO, "valid_to");
	verify.closed_bounds = etl_option_word("bounds",
										   etl_arg_text(fcinfo, ARG_BOUNDS),
										   bounds_words) == 1;
	verify.gaps = etl_arg_bool(fcinfo, ARG_GAPS);

	target_oid = PG_GETARG_OID(ARG_TARGET);
	etl_check_select_privilege(target_oid);
	verify.target = relation_open(target_oid, AccessShareLock);
	find_keys(&verify, etl_arg_names(fcinfo, ARG_KEYS));
	find_times(&verify, etl_arg_name(fcinfo, ARG_VALID_FROM),
			   etl_arg_name(fcinfo, ARG_VALID_TO));
	find_is_current(&verify, etl_arg_name(fcinfo, ARG_IS_CURRENT));
	find_tracked(&verify, etl_arg_names(fcinfo, ARG_TRACKED),
				 !PG_ARGISNULL(ARG_TRACKED));
	find_open_end(&verify, etl_arg_text(fcinfo, ARG_OPEN_END));

	InitMaterializedSRF(fcinfo, 0);
	query.text = build_query(&verify);
	if (verify.has_open_end)
	{
		query.nargs = 1;
		query.types = &verify.time->type_id;
		query.values = &verify.open_end;
	}
	(void) etl_query_rows(&query, report_row, &verify);
	relation_close(verify.target, NoLock);
	return (Datum) 0;
}
