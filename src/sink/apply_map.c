/*-------------------------------------------------------------------------
 *
 * apply_map.c
 *	  From the columns of a source to those of a target.
 *
 * A map is made once for each description of the source.  Each column of the
 * target has the source's column of its name, another one, an expression, or
 * nothing.  Expressions are SQL over the columns of the source, compiled once:
 * a column's name becomes a parameter, whose value is set for each row.
 *
 * Invariants:
 *	- No column of the source is lost in silence: each is mapped, used by an
 *	  expression or by the filter, or named as one that is left out.
 *	- A map is made anew when the source describes itself anew, when another
 *	  role applies, or when a function, operator, type or cast may have
 *	  changed.  Changes of the target are the caller's to see, who resets
 *	  apply->context then.
 *
 * Takes no locks; the target is open.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/apply_expression.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/params.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

/* What a column of the target gets. */
typedef struct MapColumn
{
	int source;		 /* the column it comes from as it is or by a cast, or -1 */
	ExprState *expr; /* a cast or an expression, or NULL */
	Bitmapset *uses; /* columns of the source that expr looks at */
	bool is_set;
	bool is_constant; /* the same for the same row, whenever it is computed */
} MapColumn;

struct EtlApplyMap
{
	MemoryContext context;		/* holds all of this */
	struct EtlApplyMap *former; /* or NULL: what waits may be of that */
	EtlApply *apply;
	const EtlSourceRelation *relation; /* to be compared, not followed */
	uint32 number;
	LocalTransactionId checked; /* the transaction that compared all of it */
	uint64 generation;
	Oid role;

	/* the source */
	char *source; /* its name, for messages */
	TupleDesc desc;
	bool *is_key;
	char identity;
	Datum *values; /* of the row at hand */
	bool *nulls;
	ParamListInfo params;
	ExprContext *econtext;
	Bitmapset *used; /* its columns that go somewhere */

	ExprState *filter; /* or NULL */
	Bitmapset *filter_uses;

	/* the columns of the target; made on demand */
	bool has_columns;
	int natts;
	MapColumn *columns;
	AttrNumber *attnums; /* those that are set */
	int n_attnums;
	bool is_identity;
};

/* Moves on whenever something that a compiled expression relies on may. */
static uint64 generation = 1;
static bool watches = false;

static void watch_catalogs(void);
static void catalog_changed(Datum arg, int cache, uint32 hash);
static bool is_current(EtlApplyMap *map, const EtlSourceRelation *relation);
static void forget_map(void *arg);
static EtlApplyMap *make_map(EtlApply *apply, const EtlSourceRelation *relation);
static void need_columns(EtlApply *apply, EtlApplyMap *map);
static void check_names(EtlApply *apply, EtlApplyMap *map);
static void map_column(EtlApply *apply, EtlApplyMap *map, int att);
static bool get_setting(EtlApply *apply, const char *name, JsonbValue *value);
static char *expression_text(EtlApply *apply, const char *name,
							 const JsonbValue *value);
static void map_plain(EtlApply *apply, EtlApplyMap *map, int att, int source);
static void map_expression(EtlApply *apply, EtlApplyMap *map, int att,
						   const char *text);
static void check_all_used(EtlApply *apply, EtlApplyMap *map);
static void set_identity(EtlApply *apply, EtlApplyMap *map);
static ExprState *compile(EtlApplyMap *map, Node *expr);
static void set_row(EtlApplyMap *map, HeapTuple row);
static bool knows(const EtlApplyMap *map, const Bitmapset *uses,
				  const bool *unchanged, bool key_only, bool *any);

/* ------------------------------------------------------------------ */
/* maps                                                                 */

EtlApplyMap *
etl_apply_map(EtlApply *apply, const EtlSourceRelation *relation)
{
	EtlApplyMap *map = apply->map;

	if (map != NULL && map->relation == relation &&
		map->number == relation->number && map->checked == etl_my_lxid() &&
		map->generation == generation)
		return map;
	watch_catalogs();
	if (map != NULL && is_current(map, relation))
	{
		map->relation = relation;
		map->number = relation->number;
		map->checked = etl_my_lxid();
		return map;
	}

	/*
	 * The sink sees that the map is another one, and writes what waits, by what
	 * it knows of the former one.
	 */
	if (map != NULL && map->former != NULL)
	{
		MemoryContextDelete(map->former->context);
		map->former = NULL;
	}
	make_map(apply, relation)->former = map;
	return apply->map;
}

/* Have us told of changes that matter, once in each process. */
static void
watch_catalogs(void)
{
	static const int caches[] = {PROCOID,		   OPEROID, TYPEOID,
								 CASTSOURCETARGET, AUTHOID, AUTHMEMROLEMEM,
								 NAMESPACEOID};

	if (watches)
		return;
	watches = true;
	for (int i = 0; i < (int) lengthof(caches); i++)
		CacheRegisterSyscacheCallback(caches[i], catalog_changed, (Datum) 0);
}

static void
catalog_changed(Datum arg, int cache, uint32 hash)
{
	generation++;
}

/* Is the map still that of this description? */
static bool
is_current(EtlApplyMap *map, const EtlSourceRelation *relation)
{
	return map->generation == generation && map->role == GetUserId() &&
		   map->identity == relation->identity &&
		   equalTupleDescs(map->desc, relation->desc) &&
		   memcmp(map->is_key, relation->is_key,
				  sizeof(bool) * map->desc->natts) == 0;
}

/* The map's memory is about to go. */
static void
forget_map(void *arg)
{
	EtlApplyMap *map = arg;

	if (map->apply->map == map)
		map->apply->map = NULL;
}

static EtlApplyMap *
make_map(EtlApply *apply, const EtlSourceRelation *relation)
{
	MemoryContext context = AllocSetContextCreate(apply->context, "etl map",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	EtlApplyMap *map = palloc0(sizeof(EtlApplyMap));
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));
	int natts = relation->desc->natts;

	map->context = context;
	map->apply = apply;
	map->relation = relation;
	map->number = relation->number;
	map->checked = etl_my_lxid();
	map->generation = generation;
	map->role = GetUserId();
	map->source = psprintf("%s.%s", relation->schema, relation->name);
	map->desc = CreateTupleDescCopyConstr(relation->desc);
	map->identity = relation->identity;
	map->is_key = palloc(sizeof(bool) * (natts + 1));
	memcpy(map->is_key, relation->is_key, sizeof(bool) * natts);
	map->values = palloc(sizeof(Datum) * (natts + 1));
	map->nulls = palloc(sizeof(bool) * (natts + 1));
	map->params = makeParamList(natts);
	for (int i = 0; i < natts; i++)
		map->params->params[i].ptype = TupleDescAttr(map->desc, i)->atttypid;
	map->econtext = CreateStandaloneExprContext();
	map->econtext->ecxt_param_list_info = map->params;

	if (apply->row_filter != NULL)
	{
		EtlApplyParser parser = {.table = apply->source,
								 .source = map->source,
								 .desc = map->desc,
								 .text = apply->row_filter};
		ParseState *pstate;
		Node *expr = etl_apply_parse(&parser, &pstate);

		expr = coerce_to_boolean(pstate, expr, "row_filter");
		if (contain_volatile_functions(expr))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("row_filter of table \"%s\" calls a volatile function",
							apply->source),
					 errhint("Whether a row passes must follow from the row.")));
		assign_expr_collations(pstate, expr);
		map->filter = compile(map, expr);
		map->filter_uses = parser.uses;
		map->used = bms_add_members(map->used, parser.uses);
	}

	callback->func = forget_map;
	callback->arg = map;
	MemoryContextRegisterResetCallback(context, callback);
	apply->map = map;
	MemoryContextSwitchTo(oldcontext);
	return map;
}

/* ------------------------------------------------------------------ */
/* columns                                                              */

/* Looks at the columns of the target. */
static void
need_columns(EtlApply *apply, EtlApplyMap *map)
{
	TupleDesc desc = RelationGetDescr(apply->target);
	MemoryContext oldcontext;

	if (map->has_columns)
		return;
	oldcontext = MemoryContextSwitchTo(map->context);
	map->natts = desc->natts;
	map->columns = palloc0(sizeof(MapColumn) * (desc->natts + 1));
	map->attnums = palloc(sizeof(AttrNumber) * (desc->natts + 1));
	map->n_attnums = 0;
	check_names(apply, map);
	for (int i = 0; i < desc->natts; i++)
	{
		map->columns[i].source = -1;
		map_column(apply, map, i);
		if (map->columns[i].is_set)
			map->attnums[map->n_attnums++] = i + 1;
	}
	check_all_used(apply, map);
	if (map->n_attnums == 0 && map->desc->natts > 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("no column of \"%s\" has a value from source \"%s\"",
						RelationGetRelationName(apply->target), map->source)));
	set_identity(apply, map);
	map->has_columns = true;
	MemoryContextSwitchTo(oldcontext);
}

/* Does columns name columns that there are? */
static void
check_names(EtlApply *apply, EtlApplyMap *map)
{
	TupleDesc desc = RelationGetDescr(apply->target);
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue value;
	char *name = NULL;

	if (apply->columns == NULL)
		return;
	if (!JB_ROOT_IS_OBJECT(apply->columns))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"columns\" must be a JSON object"),
				 errhint(
					 "Write {\"target column\": \"source column\"}, {\"target column\": {\"expr\": \"expression\"}} or {\"column\": null}.")));
	iterator = JsonbIteratorInit(&apply->columns->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		bool found = false;

		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		if (token != WJB_VALUE)
			continue;
		for (int i = 0; i < desc->natts; i++)
		{
			Form_pg_attribute att = TupleDescAttr(desc, i);

			if (!att->attisdropped && strcmp(NameStr(att->attname), name) == 0)
				found = true;
		}
		if (found)
			continue;

		/* null may also name a column of the source that goes nowhere */
		if (value.type == jbvNull && etl_apply_find_column(map->desc, name) >= 0)
			map->used = bms_add_member(map->used,
									   etl_apply_find_column(map->desc, name));
		else
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of relation \"%s\" does not exist",
							name, RelationGetRelationName(apply->target)),
					 errdetail("\"columns\" of table \"%s\" names it.",
							   apply->source)));
	}
}

/* Where does a column of the target get its value from? */
static void
map_column(EtlApply *apply, EtlApplyMap *map, int att)
{
	Form_pg_attribute form = TupleDescAttr(RelationGetDescr(apply->target), att);
	const char *name = NameStr(form->attname);
	JsonbValue value;
	int source;

	if (form->attisdropped)
		return;
	if (!get_setting(apply, name, &value))
	{
		source = etl_apply_find_column(map->desc, name);
		if (source >= 0 && form->attgenerated)
			map->used = bms_add_member(map->used, source); /* recomputed */
		else if (source >= 0)
			map_plain(apply, map, att, source);
		return;
	}
	if (value.type == jbvNull)
	{
		source = etl_apply_find_column(map->desc, name);
		if (source >= 0)
			map->used = bms_add_member(map->used, source);
		return;
	}
	if (form->attgenerated)
		ereport(ERROR, (errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
						errmsg("column \"%s\" is a generated column", name),
						errdetail("Generated columns are computed, not copied."),
						errhint("Leave the column out of \"columns\".")));
	if (value.type == jbvString)
	{
		char *from = pnstrdup(value.val.string.val, value.val.string.len);

		source = etl_apply_find_column(map->desc, from);
		if (source < 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of source \"%s\" does not exist",
							from, map->source),
					 errdetail("Column \"%s\" of \"%s\" is mapped to it.", name,
							   RelationGetRelationName(apply->target)),
					 errhint(
						 "Change the table with etl_cdc_alter_table(); an expression is written {\"expr\": \"...\"}.")));
		map_plain(apply, map, att, source);
		return;
	}
	map_expression(apply, map, att, expression_text(apply, name, &value));
}

/* What does columns say of a column of the target? */
static bool
get_setting(EtlApply *apply, const char *name, JsonbValue *value)
{
	return apply->columns != NULL &&
		   getKeyJsonValueFromContainer(&apply->columns->root, name,
										(int) strlen(name), value) != NULL;
}

/* The expression in {"expr": "..."}. */
static char *
expression_text(EtlApply *apply, const char *name, const JsonbValue *value)
{
	JsonbValue expr;

	if (value->type == jbvBinary &&
		JsonContainerIsObject(value->val.binary.data) &&
		JsonContainerSize(value->val.binary.data) == 1 &&
		getKeyJsonValueFromContainer(value->val.binary.data, "expr", 4,
									 &expr) != NULL &&
		expr.type == jbvString)
		return pnstrdup(expr.val.string.val, expr.val.string.len);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"columns\" of table \"%s\" says nothing valid of column \"%s\"",
					apply->source, name),
			 errhint(
				 "Write the name of a column of the source, {\"expr\": \"expression\"}, or null to leave the column out.")));
	return NULL;
}

/* A column as it is in the source, with a cast if the types differ. */
static void
map_plain(EtlApply *apply, EtlApplyMap *map, int att, int source)
{
	Form_pg_attribute to = TupleDescAttr(RelationGetDescr(apply->target), att);
	Form_pg_attribute from = TupleDescAttr(map->desc, source);
	MapColumn *column = &map->columns[att];
	CoercionContext context = COERCION_ASSIGNMENT;
	Node *expr;

	/* a type of another server that is not known here comes as text */
	if (!OidIsValid(apply->source_relid) && from->atttypid == TEXTOID)
		context = COERCION_EXPLICIT;
	column->is_set = true;
	column->is_constant = true;
	column->source = source;
	column->uses = bms_make_singleton(source);
	map->used = bms_add_member(map->used, source);
	if (from->atttypid == to->atttypid &&
		(from->atttypmod == to->atttypmod || to->atttypmod < 0))
		return;
	expr = coerce_to_target_type(NULL,
								 (Node *) etl_apply_param(map->desc, source),
								 from->atttypid, to->atttypid, to->atttypmod,
								 context, COERCE_IMPLICIT_CAST, -1);
	if (expr == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" is of type %s in source \"%s\" but of type %s in \"%s\"",
						NameStr(from->attname), format_type_be(from->atttypid),
						map->source, format_type_be(to->atttypid),
						RelationGetRelationName(apply->target)),
				 errhint("Give the cast that you want in \"columns\": {\"%s\": {\"expr\": \"...\"}}.",
						 NameStr(to->attname))));
	assign_expr_collations(NULL, expr);
	column->expr = compile(map, expr);
}

/* A column that is computed. */
static void
map_expression(EtlApply *apply, EtlApplyMap *map, int att, const char *text)
{
	Form_pg_attribute to = TupleDescAttr(RelationGetDescr(apply->target), att);
	MapColumn *column = &map->columns[att];
	EtlApplyParser parser = {.table = apply->source,
							 .source = map->source,
							 .desc = map->desc,
							 .text = text,
							 .column = NameStr(to->attname)};
	ParseState *pstate;
	Node *expr = etl_apply_parse(&parser, &pstate);
	Oid type = exprType(expr);

	expr = coerce_to_target_type(pstate, expr, type, to->atttypid, to->atttypmod,
								 COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
	if (expr == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" is of type %s but its expression is of type %s",
						NameStr(to->attname), format_type_be(to->atttypid),
						format_type_be(type)),
				 errhint("Cast the expression.")));
	assign_expr_collations(pstate, expr);
	column->is_set = true;
	column->is_constant = !contain_mutable_functions(expr);
	column->uses = parser.uses;
	map->used = bms_add_members(map->used, parser.uses);
	column->expr = compile(map, expr);
}

/* What the source has and nobody wants is to be said. */
static void
check_all_used(EtlApply *apply, EtlApplyMap *map)
{
	for (int i = 0; i < map->desc->natts; i++)
	{
		const char *name = NameStr(TupleDescAttr(map->desc, i)->attname);

		if (!bms_is_member(i, map->used))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of source \"%s\" has no column in \"%s\"",
							name, map->source,
							RelationGetRelationName(apply->target)),
					 errhint("Add the column to the target, map it to another one in \"columns\", or leave it out with {\"%s\": null}.",
							 name)));
	}
}

/* Is a row of the target the same bytes as a row of the source? */
static void
set_identity(EtlApply *apply, EtlApplyMap *map)
{
	TupleDesc desc = RelationGetDescr(apply->target);

	map->is_identity = false;
	if (map->natts != map->desc->natts ||
		(desc->constr != NULL && desc->constr->missing != NULL))
		return;
	for (int i = 0; i < map->natts; i++)
	{
		Form_pg_attribute from = TupleDescAttr(map->desc, i);
		Form_pg_attribute to = TupleDescAttr(desc, i);

		if (map->columns[i].source != i || map->columns[i].expr != NULL ||
			from->atttypid != to->atttypid || from->attlen != to->attlen ||
			from->attbyval != to->attbyval || from->attalign != to->attalign)
			return;
	}
	map->is_identity = true;
}

/* Checks, too, that the current user may execute the functions. */
static ExprState *
compile(EtlApplyMap *map, Node *expr)
{
	return ExecInitExprWithParams(expression_planner((Expr *) expr),
								  map->params);
}

/* ------------------------------------------------------------------ */
/* rows                                                                 */

/* The values of a row of the source become those of the parameters. */
static void
set_row(EtlApplyMap *map, HeapTuple row)
{
	heap_deform_tuple(row, map->desc, map->values, map->nulls);
	for (int i = 0; i < map->desc->natts; i++)
	{
		map->params->params[i].value = map->values[i];
		map->params->params[i].isnull = map->nulls[i];
	}
}

bool
etl_apply_filter(EtlApply *apply, EtlApplyMap *map, HeapTuple row)
{
	Datum result;
	bool isnull;

	if (map->filter == NULL)
		return true;
	set_row(map, row);
	result = ExecEvalExprSwitchContext(map->filter, map->econtext, &isnull);
	ResetExprContext(map->econtext);
	return !isnull && DatumGetBool(result);
}

bool
etl_apply_filter_knows(const EtlApplyMap *map, const bool *unchanged,
					   bool key_only)
{
	bool any;

	return map->filter == NULL ||
		   knows(map, map->filter_uses, unchanged, key_only, &any);
}

/* Are all of these columns known?  If not, is any? */
static bool
knows(const EtlApplyMap *map, const Bitmapset *uses, const bool *unchanged,
	  bool key_only, bool *any)
{
	bool all = true;
	int i = -1;

	*any = false;
	while ((i = bms_next_member(uses, i)) >= 0)
	{
		if ((unchanged != NULL && unchanged[i]) || (key_only && !map->is_key[i]))
			all = false;
		else
			*any = true;
	}
	return all;
}

/*
 * What is computed lives in the current memory context, the rest in the row.
 * A column that is computed of values that were not logged, and of others,
 * cannot be known.
 */
void
etl_apply_row(EtlApply *apply, EtlApplyMap *map, HeapTuple row,
			  const bool *unchanged, bool key_only, Datum *values, bool *nulls,
			  bool *is_set)
{
	need_columns(apply, map);
	set_row(map, row);
	for (int i = 0; i < map->natts; i++)
	{
		MapColumn *column = &map->columns[i];
		bool any;

		values[i] = (Datum) 0;
		nulls[i] = true;
		is_set[i] = column->is_set;
		if (!column->is_set)
			continue;
		if ((unchanged != NULL || key_only) &&
			!knows(map, column->uses, unchanged, key_only, &any))
		{
			if (any && !key_only)
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("column \"%s\" cannot be computed: the source did not log all values",
								NameStr(TupleDescAttr(RelationGetDescr(
														  apply->target),
													  i)
											->attname)),
						 errdetail(
							 "Large values that an update does not change are not logged."),
						 errhint(
							 "Use ALTER TABLE ... REPLICA IDENTITY FULL at the source.")));
			is_set[i] = false;
			continue;
		}
		if (column->expr != NULL)
			values[i] = ExecEvalExpr(column->expr, map->econtext, &nulls[i]);
		else
		{
			values[i] = map->values[column->source];
			nulls[i] = map->nulls[column->source];
		}
	}
}

bool
etl_apply_map_is_identity(EtlApply *apply, EtlApplyMap *map)
{
	need_columns(apply, map);
	return map->is_identity;
}

bool
etl_apply_is_full(const EtlApplyMap *map)
{
	return map->identity == REPLICA_IDENTITY_FULL;
}

AttrNumber *
etl_apply_columns(EtlApply *apply, EtlApplyMap *map, int *n)
{
	need_columns(apply, map);
	*n = map->n_attnums;
	return map->attnums;
}

/* The name of the source's column that a column has, or NULL. */
const char *
etl_apply_source_of(const EtlApplyMap *map, AttrNumber attnum)
{
	int source = map->columns[attnum - 1].source;

	if (source < 0)
		return NULL;
	return NameStr(TupleDescAttr(map->desc, source)->attname);
}

/*
 * With REPLICA IDENTITY FULL all columns whose value follows from the row;
 * else for each column of the key one that has it.
 */
AttrNumber *
etl_apply_keys(EtlApply *apply, EtlApplyMap *map, int *n)
{
	Bitmapset *found = NULL;
	bool full = map->identity == REPLICA_IDENTITY_FULL;
	AttrNumber *keys;

	need_columns(apply, map);
	keys = palloc(sizeof(AttrNumber) * (map->natts + 1));
	*n = 0;
	for (int i = 0; i < map->natts; i++)
	{
		MapColumn *column = &map->columns[i];

		if (!column->is_set ||
			(full ? !column->is_constant :
					column->source < 0 || !map->is_key[column->source] ||
						bms_is_member(column->source, found)))
			continue;
		keys[(*n)++] = i + 1;
		if (column->source >= 0)
			found = bms_add_member(found, column->source);
	}
	for (int i = 0; !full && i < map->desc->natts; i++)
		if (map->is_key[i] && !bms_is_member(i, found))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of the key of source \"%s\" has no column in \"%s\"",
							NameStr(TupleDescAttr(map->desc, i)->attname),
							map->source, RelationGetRelationName(apply->target)),
					 errhint(
						 "Rows of the target are found by it: map it to a column as it is.")));
	if (*n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("source \"%s\" has no replica identity", map->source),
				 errhint(
					 "Give it a primary key, or use ALTER TABLE ... REPLICA IDENTITY.")));
	bms_free(found);
	return keys;
}
