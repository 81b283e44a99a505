/*-------------------------------------------------------------------------
 *
 * cdc_scd2_columns.c
 *	  What the options of a history say, and which columns its rows have.
 *
 * Locks: AccessShareLock on the source, if it is here, while its primary key
 * is looked up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/timestamp.h"

#include "flow/cdc_scd2.h"
#include "sink/change_json.h"

static const char *const option_names[] = {"keys",		"tracked",
										   "overwrite", "fixed",
										   "previous",	"valid_from",
										   "valid_to",	"is_current",
										   "open_end",	"initial_effective_at",
										   NULL};

static const char *option_or(EtlApply *apply, const char *name,
							 const char *otherwise);
static void check_times(EtlApply *apply, const EtlScd2 *scd2);
static void set_keys(EtlApply *apply, EtlScd2 *scd2, EtlApplyMap *map,
					 const EtlSourceRelation *relation);
static List *default_keys(EtlApply *apply, EtlApplyMap *map,
						  const EtlSourceRelation *relation);
static List *primary_key(Oid relid);
static void set_desc(EtlApply *apply, EtlScd2 *scd2, EtlApplyMap *map);

/* ------------------------------------------------------------------ */
/* options                                                              */

/* The parameters of etl_scd2_merge() that make sense here. */
void
etl_scd2_options(EtlApply *apply, EtlScd2 *scd2)
{
	EtlMergeNames *names = &scd2->names;
	char *initial = etl_apply_option(apply, "initial_effective_at");
	JsonbValue value;

	etl_apply_check_options(apply, option_names);
	etl_sink_check_kind(apply->target);
	names->keys = etl_apply_option_names(apply, "keys");
	names->tracked_given = etl_apply_has_option(apply, "tracked");
	names->tracked = etl_apply_option_names(apply, "tracked");
	names->overwrite = etl_apply_option_names(apply, "overwrite");
	names->fixed = etl_apply_option_names(apply, "fixed");
	if (etl_apply_has_option(apply, "previous") &&
		getKeyJsonValueFromContainer(&apply->options->root, "previous",
									 strlen("previous"), &value) != NULL &&
		value.type != jbvNull)
		names->previous = JsonbValueToJsonb(&value);
	names->valid_from = option_or(apply, "valid_from", "valid_from");
	names->valid_to = option_or(apply, "valid_to", "valid_to");
	names->is_current = option_or(apply, "is_current", "is_current");
	names->open_end = etl_apply_option(apply, "open_end");
	if (names->valid_from == NULL || names->valid_to == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("option \"%s\" must not be null",
						names->valid_from == NULL ? "valid_from" : "valid_to")));
	scd2->has_initial = initial != NULL;
	if (initial != NULL)
		scd2->initial = DatumGetTimestampTz(
			etl_plain_value(TIMESTAMPTZOID, initial));
	if (initial != NULL && TIMESTAMP_IS_NOEND(scd2->initial))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("option \"%s\" must not be infinity",
							   "initial_effective_at")));
	check_times(apply, scd2);
}

/* The text of an option, or what it is where it is not given. */
static const char *
option_or(EtlApply *apply, const char *name, const char *otherwise)
{
	return etl_apply_has_option(apply, name) ? etl_apply_option(apply, name) :
											   otherwise;
}

/* Commits are told apart by microseconds. */
static void
check_times(EtlApply *apply, const EtlScd2 *scd2)
{
	const char *names[] = {scd2->names.valid_from, scd2->names.valid_to,
						   scd2->names.is_current};

	for (int i = 0; i < (int) lengthof(names); i++)
	{
		AttrNumber attnum = InvalidAttrNumber;
		Form_pg_attribute att;

		if (names[i] == NULL)
			continue;
		attnum = get_attnum(apply->target_relid, names[i]);
		if (attnum <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of relation \"%s\" does not exist",
							names[i], RelationGetRelationName(apply->target)),
					 i == 2 ?
						 errhint(
							 "Pass {\"is_current\": null} if the table has no such column.") :
						 errhint(
							 "etl_scd2_create() creates a table for the versions of a source's rows.")));
		att = TupleDescAttr(RelationGetDescr(apply->target), attnum - 1);
		if (i < 2 &&
			(att->atttypid != TIMESTAMPTZOID ||
			 (att->atttypmod >= 0 && att->atttypmod < MAX_TIMESTAMP_PRECISION)))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" must be of type %s", names[i],
							format_type_be(TIMESTAMPTZOID)),
					 errdetail(
						 "Versions start at the commits of the source, which are told apart by microseconds.")));
	}
}

/* ------------------------------------------------------------------ */
/* columns                                                              */

/* What rows of a map have, in the current memory context. */
void
etl_scd2_columns(EtlApply *apply, EtlScd2 *scd2, EtlApplyMap *map,
				 const EtlSourceRelation *relation)
{
	set_keys(apply, scd2, map, relation);
	set_desc(apply, scd2, map);
}

/* The columns that tell one history from another. */
static void
set_keys(EtlApply *apply, EtlScd2 *scd2, EtlApplyMap *map,
		 const EtlSourceRelation *relation)
{
	int n_identity;
	AttrNumber *identity = etl_apply_keys(apply, map, &n_identity);
	ListCell *lc;

	scd2->key_names = scd2->names.keys;
	if (scd2->key_names == NIL)
		scd2->key_names = default_keys(apply, map, relation);
	scd2->keys = palloc(sizeof(AttrNumber) * (list_length(scd2->key_names) + 1));
	scd2->n_keys = 0;
	foreach(lc, scd2->key_names)
	{
		AttrNumber attnum = get_attnum(apply->target_relid, lfirst(lc));
		bool found = false;

		for (int i = 0; i < n_identity; i++)
			found |= identity[i] == attnum;
		if (!found)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("column \"%s\" in option \"keys\" is not in the replica identity of source \"%s\"",
							(char *) lfirst(lc), apply->source),
					 errdetail(
						 "Of a deleted row the source logs no more than that."),
					 errhint(
						 "Use ALTER TABLE ... REPLICA IDENTITY at the source.")));
		scd2->keys[scd2->n_keys++] = attnum;
	}
}

/*
 * The names, in the target, of the columns of the replica identity; or, if that
 * is the whole row, of the primary key, where the source is at hand.
 */
static List *
default_keys(EtlApply *apply, EtlApplyMap *map,
			 const EtlSourceRelation *relation)
{
	bool full = relation->identity == REPLICA_IDENTITY_FULL;
	TupleDesc target = RelationGetDescr(apply->target);
	List *primary = full ? primary_key(apply->source_relid) : NIL;
	List *found = NIL;
	List *names = NIL;
	AttrNumber *keys;
	int n;

	keys = etl_apply_keys(apply, map, &n);
	for (int i = 0; i < n; i++)
	{
		const char *name = etl_apply_source_of(map, keys[i]);

		if (full && (name == NULL || !etl_has_name(primary, name) ||
					 etl_has_name(found, name)))
			continue;
		found = name != NULL ? lappend(found, pstrdup(name)) : found;
		names = lappend(names,
						pstrdup(NameStr(
							TupleDescAttr(target, keys[i] - 1)->attname)));
	}
	if (names == NIL || (full && list_length(found) < list_length(primary)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("source \"%s\" has no key that tells one history from another",
						apply->source),
				 errdetail("Its replica identity is the whole row."),
				 errhint("Name the columns of the key in option \"keys\".")));
	return names;
}

/* The names of the columns of a table's primary key. */
static List *
primary_key(Oid relid)
{
	Relation source = NULL;
	List *names = NIL;
	Bitmapset *columns;
	int column = -1;

	if (OidIsValid(relid))
		source = try_table_open(relid, AccessShareLock);
	if (source == NULL)
		return NIL;
	columns = RelationGetIndexAttrBitmap(source, INDEX_ATTR_BITMAP_PRIMARY_KEY);
	while ((column = bms_next_member(columns, column)) >= 0)
		names = lappend(names,
						get_attname(relid,
									column + FirstLowInvalidHeapAttributeNumber,
									false));
	table_close(source, AccessShareLock);
	return names;
}

/* What a kept row has: the mapped columns of the target, then our own. */
static void
set_desc(EtlApply *apply, EtlScd2 *scd2, EtlApplyMap *map)
{
	TupleDesc target = RelationGetDescr(apply->target);
	AttrNumber *attnums = etl_apply_columns(apply, map, &scd2->natts);
	TupleDesc desc = CreateTemplateTupleDesc(scd2->natts + ETL_SCD2_ROW_EXTRA);
	AttrNumber extra = scd2->natts + 1;

	scd2->attnums = palloc(sizeof(AttrNumber) * (scd2->natts + 1));
	for (int i = 0; i < scd2->natts; i++)
	{
		scd2->attnums[i] = attnums[i];
		TupleDescCopyEntry(desc, i + 1, target, attnums[i]);
	}
	TupleDescInitEntry(desc, extra + ETL_SCD2_ROW_TIME, ETL_SCD2_TIME,
					   TIMESTAMPTZOID, -1, 0);
	TupleDescInitEntry(desc, extra + ETL_SCD2_ROW_IS_DELETE, ETL_SCD2_IS_DELETE,
					   BOOLOID, -1, 0);
	TupleDescInitEntry(desc, extra + ETL_SCD2_ROW_STEP, ETL_SCD2_STEP, INT8OID,
					   -1, 0);
	TupleDescInitEntry(desc, extra + ETL_SCD2_ROW_LACKS, ETL_SCD2_LACKS,
					   BYTEAOID, -1, 0);
	scd2->desc = desc;
}
