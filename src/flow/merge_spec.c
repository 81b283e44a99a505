/*-------------------------------------------------------------------------
 *
 * merge_spec.c
 *	  From the names in a call to what a merge knows of its columns.
 *
 * Everything that can be wrong with a call is found here or in
 * merge_source.c, before a row is read.
 *
 * Locks: SHARE ROW EXCLUSIVE on the target and, if it is partitioned, on its
 * partitions, so that merges queue up and nobody else writes while readers go
 * on; ACCESS SHARE on the source.  Both are kept until the transaction ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "rewrite/rewriteHandler.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "flow/flow.h"
#include "flow/merge.h"

static Relation open_existing(Oid relid, LOCKMODE lockmode);
static Relation open_target(Oid relid);
static Relation open_source(Oid relid);
static void check_may_write(Relation target);
static void set_columns(EtlMerge *merge, const EtlMergeNames *names);
static bool is_read(const EtlMergeNames *names, const char *column);
static void set_keys(EtlMerge *merge, const EtlMergeNames *names);
static void set_times(EtlMerge *merge, const EtlMergeNames *names);
pg_noreturn static void refuse_second_role(const EtlMergeColumn *column,
										   const char *parameter);
static void refuse_generated(EtlMerge *merge, int column, const char *parameter);
static int special_column(EtlMerge *merge, const char *name,
						  const char *parameter, EtlColumnRole role);
static void set_is_current(EtlMerge *merge, const EtlMergeNames *names);
static void set_effective_at(EtlMerge *merge, const EtlMergeNames *names);
static void set_open_end(EtlMerge *merge, const EtlMergeNames *names);
static Datum read_literal(EtlMerge *merge, int column, const char *text,
						  const char *parameter);
static void literal_context(void *arg);
static void set_previous(EtlMerge *merge, const EtlMergeNames *names);
static void set_former(EtlMerge *merge, const char *name, const char *former);
static void set_listed(EtlMerge *merge, List *names, const char *parameter,
					   EtlColumnRole role);
static Bitmapset *surrogate_columns(EtlMerge *merge);
static void set_rest(EtlMerge *merge, const EtlMergeNames *names);
static void set_scope(EtlMerge *merge, const EtlMergeNames *names);
static int common_column(EtlMerge *merge, const char *name,
						 const char *parameter);
static int target_column(EtlMerge *merge, const char *name,
						 const char *parameter);

/*
 * Opens both relations and gives each column of the target its role.  There is
 * no source if the caller describes rows of its own.  The result has the
 * defaults of all options, and no run.
 */
EtlMerge *
etl_merge_open(Oid target, Oid source, const EtlMergeNames *names,
			   bool versioned)
{
	EtlMerge *merge = palloc0(sizeof(EtlMerge));

	if (target == source)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("source and target are the same relation")));
	if (names->rows_desc == NULL)
	{
		merge->source = open_source(source);
		merge->source_desc = RelationGetDescr(merge->source);
		merge->input_name = etl_relation_name(merge->source);
	}
	else
	{
		merge->source_desc = names->rows_desc;
		merge->input_name = names->rows_label;
	}
	merge->target = open_target(target);
	merge->versioned = versioned;
	merge->max_delete_fraction = -1;
	merge->sequence = merge->changed_at = -1;
	merge->valid_from = merge->valid_to = merge->is_current = -1;

	set_columns(merge, names);
	set_keys(merge, names);
	if (versioned)
		set_times(merge, names);
	else
	{
		if (names->sequence_by != NULL)
		{
			merge->sequence = common_column(merge, names->sequence_by,
											"sequence_by");
			merge->columns[merge->sequence].role = ETL_ROLE_SEQUENCE;
		}
		if (names->changed_at != NULL)
			merge->changed_at = special_column(merge, names->changed_at,
											   "changed_at",
											   ETL_ROLE_CHANGED_AT);
		if (merge->changed_at >= 0)
			set_effective_at(merge, names);
	}
	set_previous(merge, names);
	set_listed(merge, names->tracked, versioned ? "tracked" : "update_columns",
			   ETL_ROLE_TRACKED);
	set_listed(merge, names->overwrite, "overwrite", ETL_ROLE_OVERWRITE);
	set_listed(merge, names->fixed, "fixed", ETL_ROLE_FIXED);
	set_rest(merge, names);
	set_scope(merge, names);
	return merge;
}

/* ------------------------------------------------------------------ */
/* relations                                                            */

/* A regclass may name what is no more. */
static Relation
open_existing(Oid relid, LOCKMODE lockmode)
{
	Relation rel = try_relation_open(relid, lockmode);

	if (rel == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("relation with OID %u does not exist", relid)));
	return rel;
}

static Relation
open_source(Oid relid)
{
	Relation source = open_existing(relid, AccessShareLock);

	switch (source->rd_rel->relkind)
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
		case RELKIND_FOREIGN_TABLE:
		case RELKIND_VIEW:
		case RELKIND_MATVIEW:
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("cannot read rows from \"%s\"",
							RelationGetRelationName(source)),
					 errdetail_relkind_not_supported(source->rd_rel->relkind)));
	}
	if (RELATION_IS_OTHER_TEMP(source))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot access temporary tables of other sessions")));
	return source;
}

/*
 * Who may not write to the target must not be able to keep others from
 * writing, so the right is looked at before the lock is taken, and again
 * after it.  Between the two no lock is held: a weaker one would let us wait
 * for someone who waits for us.
 */
static Relation
open_target(Oid relid)
{
	Relation target = open_existing(relid, AccessShareLock);

	etl_sink_check_kind(target);
	check_may_write(target);
	relation_close(target, AccessShareLock);

	target = open_existing(relid, ShareRowExclusiveLock);
	check_may_write(target);
	if (target->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ||
		target->rd_rel->relhassubclass)
		(void) find_all_inheritors(relid, ShareRowExclusiveLock, NULL);
	return target;
}

static void
check_may_write(Relation target)
{
	Oid relid = RelationGetRelid(target);
	AclMode modes[] = {ACL_SELECT, ACL_INSERT, ACL_UPDATE};

	for (int i = 0; i < (int) lengthof(modes); i++)
		if (pg_class_aclcheck(relid, GetUserId(), modes[i]) != ACLCHECK_OK &&
			pg_attribute_aclcheck_all(relid, GetUserId(), modes[i],
									  ACLMASK_ANY) != ACLCHECK_OK)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied for relation \"%s\"",
							RelationGetRelationName(target)),
					 errhint(
						 "A merge needs SELECT, INSERT and UPDATE on its target.")));
}

/* ------------------------------------------------------------------ */
/* columns                                                              */

/* What every column is before the call's names are looked at. */
static void
set_columns(EtlMerge *merge, const EtlMergeNames *names)
{
	TupleDesc desc = RelationGetDescr(merge->target);

	merge->natts = desc->natts;
	merge->columns = palloc0(sizeof(EtlMergeColumn) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		EtlMergeColumn *column = &merge->columns[i];

		column->previous = -1;
		column->typmod = -1;
		column->role = ETL_ROLE_NONE;
		if (att->attisdropped)
			continue;
		column->name = pstrdup(NameStr(att->attname));
		etl_value_ops_init(&column->ops, att->atttypid, att->attcollation);
		if (!att->attgenerated && is_read(names, column->name) &&
			etl_merge_source_column(merge, column->name) > 0)
			column->input = etl_merge_source_column(merge, column->name);
	}
}

/* The place of a column of the source by its name, or 0. */
AttrNumber
etl_merge_source_column(const EtlMerge *merge, const char *name)
{
	TupleDesc desc = merge->source_desc;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && strcmp(NameStr(att->attname), name) == 0)
			return att->attnum;
	}
	return InvalidAttrNumber;
}

/* What messages call the source. */
const char *
etl_merge_source_name(const EtlMerge *merge)
{
	return merge->source != NULL ? RelationGetRelationName(merge->source) :
								   merge->input_name;
}

/* Does the call want a column of the source?  It cannot do without some. */
static bool
is_read(const EtlMergeNames *names, const char *column)
{
	return !names->columns_given || etl_has_name(names->columns, column) ||
		   etl_has_name(names->keys, column) ||
		   (names->sequence_by != NULL &&
			strcmp(names->sequence_by, column) == 0);
}

static void
set_keys(EtlMerge *merge, const EtlMergeNames *names)
{
	ListCell *lc;

	if (names->keys == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"keys\" must name at least one column")));
	merge->keys = palloc(sizeof(int) * list_length(names->keys));
	foreach(lc, names->keys)
	{
		int i = common_column(merge, lfirst(lc), "keys");
		EtlMergeColumn *column = &merge->columns[i];

		if (column->role == ETL_ROLE_KEY)
			ereport(ERROR, (errcode(ERRCODE_DUPLICATE_COLUMN),
							errmsg("key column \"%s\" specified more than once",
								   column->name)));
		if (!column->ops.has_equal || !column->ops.has_hash)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_FUNCTION),
					 errmsg("key column \"%s\" has type %s, which cannot be hashed",
							column->name, format_type_be(column->ops.type)),
					 errhint("Use a key column of another type, such as text.")));
		column->role = ETL_ROLE_KEY;
		merge->keys[merge->n_keys++] = i;
	}
}

/* A column by its name, as an error says if there is none. */
static int
target_column(EtlMerge *merge, const char *name, const char *parameter)
{
	int column = etl_merge_column(merge, name);

	if (column < 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
						errmsg("column \"%s\" of relation \"%s\" does not exist",
							   name, RelationGetRelationName(merge->target)),
						errhint("It is named in parameter \"%s\".", parameter)));
	return column;
}

static void
refuse_second_role(const EtlMergeColumn *column, const char *parameter)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("column \"%s\" has more than one role", column->name),
					errhint("It is named in parameter \"%s\" and in another.",
							parameter)));
}

/* The table fills such a column itself. */
static void
refuse_generated(EtlMerge *merge, int column, const char *parameter)
{
	TupleDesc desc = RelationGetDescr(merge->target);

	if (TupleDescAttr(desc, column)->attgenerated)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("column \"%s\" in parameter \"%s\" is a generated column",
						merge->columns[column].name, parameter),
				 strcmp(parameter, "is_current") == 0 ?
					 errhint(
						 "Pass is_current => NULL; the column is computed from the others.") :
					 0));
}

/* A column that both sides have. */
static int
common_column(EtlMerge *merge, const char *name, const char *parameter)
{
	int column = target_column(merge, name, parameter);

	refuse_generated(merge, column, parameter);
	if (merge->columns[column].role == ETL_ROLE_PREVIOUS)
		refuse_second_role(&merge->columns[column], parameter);
	if (merge->columns[column].input == 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
						errmsg("column \"%s\" of relation \"%s\" does not exist",
							   name, etl_merge_source_name(merge)),
						errhint("It is named in parameter \"%s\".", parameter)));
	return column;
}

/*
 * A column of the target that the merge itself fills; that the source may
 * have one of its name means nothing.
 */
static int
special_column(EtlMerge *merge, const char *name, const char *parameter,
			   EtlColumnRole role)
{
	int i = target_column(merge, name, parameter);
	EtlMergeColumn *column = &merge->columns[i];

	if (column->role != ETL_ROLE_NONE)
		refuse_second_role(column, parameter);
	refuse_generated(merge, i, parameter);
	column->role = role;
	column->input = 0;
	return i;
}

/* The columns that say when a version is valid. */
static void
set_times(EtlMerge *merge, const EtlMergeNames *names)
{
	EtlMergeColumn *from;
	EtlMergeColumn *to;
	Form_pg_attribute from_att;
	Form_pg_attribute to_att;

	merge->valid_from = special_column(merge, names->valid_from, "valid_from",
									   ETL_ROLE_VALID_FROM);
	merge->valid_to = special_column(merge, names->valid_to, "valid_to",
									 ETL_ROLE_VALID_TO);
	from = &merge->columns[merge->valid_from];
	to = &merge->columns[merge->valid_to];
	from_att = TupleDescAttr(RelationGetDescr(merge->target), merge->valid_from);
	to_att = TupleDescAttr(RelationGetDescr(merge->target), merge->valid_to);
	if (from->ops.type != to->ops.type ||
		from_att->atttypmod != to_att->atttypmod)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("columns \"%s\" and \"%s\" must have the same type",
						from->name, to->name),
				 errdetail("They are of type %s and %s.",
						   format_type_with_typemod(from_att->atttypid,
													from_att->atttypmod),
						   format_type_with_typemod(to_att->atttypid,
													to_att->atttypmod))));
	if (!from->ops.has_compare)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("values of type %s of column \"%s\" have no order",
						format_type_be(from->ops.type), from->name)));
	set_is_current(merge, names);
	set_effective_at(merge, names);
	set_open_end(merge, names);
	if (names->sequence_by == NULL &&
		etl_merge_is_endless(merge, merge->effective_at))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("versions cannot start at or after the open end")));
}

static void
set_is_current(EtlMerge *merge, const EtlMergeNames *names)
{
	EtlMergeColumn *column;

	if (names->is_current == NULL)
		return;
	if (etl_merge_column(merge, names->is_current) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						names->is_current,
						RelationGetRelationName(merge->target)),
				 errhint(
					 "Pass is_current => NULL if the table has no such column.")));
	merge->is_current = special_column(merge, names->is_current, "is_current",
									   ETL_ROLE_IS_CURRENT);
	column = &merge->columns[merge->is_current];
	if (column->ops.type != BOOLOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" must be of type boolean, not %s",
						column->name, format_type_be(column->ops.type)),
				 errhint(
					 "Pass is_current => NULL and derive it in a view or a generated column.")));
}

/* When rows without a time of their own take effect. */
static void
set_effective_at(EtlMerge *merge, const EtlMergeNames *names)
{
	int i = merge->versioned ? merge->valid_from : merge->changed_at;
	EtlMergeColumn *column = &merge->columns[i];
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	int32 typmod = TupleDescAttr(RelationGetDescr(merge->target), i)->atttypmod;
	Oid function;

	merge->has_effective_at = true;
	if (names->effective_at != NULL)
	{
		merge->effective_at = read_literal(merge, i, names->effective_at,
										   "effective_at");
		return;
	}
	switch (column->ops.type)
	{
		case TIMESTAMPTZOID:
			merge->effective_at = TimestampTzGetDatum(now);
			break;
		case TIMESTAMPOID:
			merge->effective_at = DirectFunctionCall1(timestamptz_timestamp,
													  TimestampTzGetDatum(now));
			break;
		case DATEOID:
			merge->effective_at = DirectFunctionCall1(timestamptz_date,
													  TimestampTzGetDatum(now));
			break;
		default:
			merge->has_effective_at = false;
			if (names->sequence_by != NULL && merge->versioned)
				return;
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("the current time cannot be written to column \"%s\" of type %s",
							column->name, format_type_be(column->ops.type)),
					 errhint(merge->versioned ?
								 "Pass \"effective_at\" or \"sequence_by\"." :
								 "Name a column of a date or timestamp type.")));
	}
	if (typmod >= 0 &&
		find_typmod_coercion_function(column->ops.type, &function) ==
			COERCION_PATH_FUNC)
		merge->effective_at = OidFunctionCall3(function, merge->effective_at,
											   Int32GetDatum(typmod),
											   BoolGetDatum(false));
}

static Datum
read_literal(EtlMerge *merge, int column, const char *text,
			 const char *parameter)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(merge->target),
										  column);
	Oid input;
	Oid param;
	Datum value;
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = literal_context,
		.arg = unconstify(char *, parameter),
	};

	getTypeInputInfo(att->atttypid, &input, &param);
	error_context_stack = &context;
	value = OidInputFunctionCall(input, pstrdup(text), param, att->atttypmod);
	error_context_stack = context.previous;
	if ((att->atttypid == DATEOID && DATE_NOT_FINITE(DatumGetDateADT(value)) &&
		 strcmp(parameter, "effective_at") == 0) ||
		((att->atttypid == TIMESTAMPOID || att->atttypid == TIMESTAMPTZOID) &&
		 TIMESTAMP_NOT_FINITE(DatumGetTimestamp(value)) &&
		 strcmp(parameter, "effective_at") == 0))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("parameter \"%s\" must be finite", parameter)));
	return value;
}

/* Says which parameter a type's input function has complained about. */
static void
literal_context(void *arg)
{
	errcontext("parameter \"%s\"", (char *) arg);
}

/* What stands in "valid_to" of a version that has no end. */
static void
set_open_end(EtlMerge *merge, const EtlMergeNames *names)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(merge->target),
										  merge->valid_to);
	Node *expr = NULL;

	merge->open_end_null = true;
	if (names->open_end != NULL)
	{
		merge->open_end = read_literal(merge, merge->valid_to, names->open_end,
									   "open_end");
		merge->open_end_null = false;
		return;
	}
	if (att->atthasdef)
		expr = build_column_default(merge->target, merge->valid_to + 1);
	if (expr != NULL)
		expr = (Node *) expression_planner((Expr *) expr);
	if (expr != NULL && IsA(expr, Const) && !((Const *) expr)->constisnull)
	{
		merge->open_end = ((Const *) expr)->constvalue;
		merge->open_end_null = false;
	}
	if (merge->open_end_null && att->attnotnull)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("column \"%s\" of relation \"%s\" cannot be null in an open version",
						NameStr(att->attname),
						RelationGetRelationName(merge->target)),
				 errhint(
					 "Pass what stands for no end, for example open_end => 'infinity', or make it the column's default.")));
}

/* ------------------------------------------------------------------ */
/* roles                                                                */

/* {"column": "column with its former value", ...} */
static void
set_previous(EtlMerge *merge, const EtlMergeNames *names)
{
	List *columns;
	List *formers;
	ListCell *column;
	ListCell *former;

	etl_names_of_object(names->previous, "previous", &columns, &formers);
	forboth(column, columns, former, formers)
		set_former(merge, lfirst(column), lfirst(former));
}

static void
set_former(EtlMerge *merge, const char *name, const char *former)
{
	int i = common_column(merge, name, "previous");
	int previous = special_column(merge, former, "previous", ETL_ROLE_PREVIOUS);

	if (merge->columns[previous].ops.type != merge->columns[i].ops.type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("columns \"%s\" and \"%s\" must have the same type",
						name, former),
				 errdetail("They are of type %s and %s.",
						   format_type_be(merge->columns[i].ops.type),
						   format_type_be(merge->columns[previous].ops.type))));
	merge->columns[i].previous = previous;
}

static void
set_listed(EtlMerge *merge, List *names, const char *parameter,
		   EtlColumnRole role)
{
	ListCell *lc;

	foreach(lc, names)
	{
		int i = target_column(merge, lfirst(lc), parameter);
		EtlMergeColumn *column = &merge->columns[i];

		if (column->role != ETL_ROLE_NONE)
			refuse_second_role(column, parameter);
		(void) common_column(merge, lfirst(lc), parameter);
		column->role = role;
	}
}

/*
 * The target's own columns that make its rows unique without the merge's keys,
 * such as a surrogate key: a new row needs a new value.
 */
static Bitmapset *
surrogate_columns(EtlMerge *merge)
{
	Bitmapset *surrogates = NULL;
	ListCell *lc;

	foreach(lc, RelationGetIndexList(merge->target))
	{
		HeapTuple tuple = SearchSysCache1(INDEXRELID,
										  ObjectIdGetDatum(lfirst_oid(lc)));
		Form_pg_index index;
		bool has_key = false;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for index %u", lfirst_oid(lc));
		index = (Form_pg_index) GETSTRUCT(tuple);
		for (int i = 0; i < index->indnkeyatts; i++)
		{
			AttrNumber attnum = index->indkey.values[i];

			if (attnum > 0 && merge->columns[attnum - 1].role == ETL_ROLE_KEY)
				has_key = true;
		}
		for (int i = 0; i < index->indnkeyatts; i++)
			if (index->indisunique && !has_key && index->indkey.values[i] > 0)
				surrogates = bms_add_member(surrogates, index->indkey.values[i]);
		ReleaseSysCache(tuple);
	}
	return surrogates;
}

/*
 * The columns that no parameter names.  One that the source lacks keeps its
 * value.
 */
static void
set_rest(EtlMerge *merge, const EtlMergeNames *names)
{
	TupleDesc desc = RelationGetDescr(merge->target);
	Bitmapset *surrogates = surrogate_columns(merge);

	for (int i = 0; i < merge->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		EtlMergeColumn *column = &merge->columns[i];

		if (column->role != ETL_ROLE_NONE || att->attisdropped)
			continue;
		if (att->attgenerated || att->attidentity)
			column->input = 0;
		else if (column->input != 0)
			column->role = names->tracked_given ||
								   (names->sequence_by != NULL &&
									strcmp(column->name, names->sequence_by) ==
										0) ?
							   ETL_ROLE_PLAIN :
							   ETL_ROLE_TRACKED;
		else if (!bms_is_member(i + 1, surrogates))
			column->role = ETL_ROLE_KEPT;
	}
	for (int i = 0; i < merge->natts; i++)
	{
		EtlMergeColumn *column = &merge->columns[i];

		if (column->previous >= 0 && column->role != ETL_ROLE_TRACKED &&
			column->role != ETL_ROLE_OVERWRITE)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("column \"%s\" in parameter \"previous\" is not one whose changes are written",
							column->name),
					 merge->versioned ?
						 errhint(
							 "Name it in parameter \"tracked\" or \"overwrite\", too.") :
						 0));
	}
}

static void
set_scope(EtlMerge *merge, const EtlMergeNames *names)
{
	ListCell *lc;

	merge->scope = palloc(sizeof(int) * (list_length(names->scope) + 1));
	foreach(lc, names->scope)
	{
		int i = common_column(merge, lfirst(lc), "absent_scope");
		EtlMergeColumn *column = &merge->columns[i];

		if (!column->ops.has_equal || !column->ops.has_hash)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_FUNCTION),
					 errmsg("column \"%s\" in parameter \"%s\" has type %s, which cannot be hashed",
							column->name, "absent_scope",
							format_type_be(column->ops.type))));
		merge->scope[merge->n_scope++] = i;
	}
}
