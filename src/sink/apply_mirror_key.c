/*-------------------------------------------------------------------------
 *
 * apply_mirror_key.c
 *	  By which columns and through which index a mirror finds its rows.
 *
 * The best is a unique index on the columns of the source's identity: one row
 * for each key.  If the identity is the whole row, a unique index on any of
 * its columns will do.  Otherwise rows are found by all columns of the
 * identity, through an index on some of them if there is one, and one of them
 * is changed.
 *
 * Takes AccessShareLock on indexes, until commit.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/apply_mirror.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/sysattr.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "nodes/execnodes.h"
#include "optimizer/optimizer.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

static void take_indexes(EtlMirror *mirror);
static bool is_unique_key(EtlMirror *mirror, Relation index);
static int usable_columns(EtlMirror *mirror, Relation index);
static int find_key(EtlMirror *mirror, AttrNumber attnum);
static void use_index(EtlMirror *mirror, Relation index, int n, bool unique);
static void guard_columns(EtlMirror *mirror, Relation index);

/* Fills in the keys and the index; keys has the columns of the identity. */
void
etl_mirror_find_keys(EtlMirror *mirror)
{
	TupleDesc desc = RelationGetDescr(mirror->apply->target);
	char relkind = mirror->apply->target->rd_rel->relkind;

	mirror->index = InvalidOid;
	mirror->n_index_keys = 0;
	mirror->unique = false;
	mirror->guarded = NULL;
	if (relkind == RELKIND_RELATION || relkind == RELKIND_PARTITIONED_TABLE)
		take_indexes(mirror);
	else if (!mirror->is_full)
		mirror->unique = true; /* as it is at the source */

	mirror->key_ops = palloc0(sizeof(EtlValueOps) * mirror->n_keys);
	mirror->key_columns = palloc0(sizeof(EtlRowColumn) * mirror->n_keys);
	for (int i = 0; i < mirror->n_keys; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, mirror->keys[i] - 1);

		etl_value_ops_init(&mirror->key_ops[i], att->atttypid,
						   att->attcollation);
		mirror->key_columns[i].position = i;
		mirror->key_columns[i].ops = &mirror->key_ops[i];
	}
	if (!mirror->unique && relkind != RELKIND_RELATION &&
		relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("rows of \"%s\" cannot be told apart",
						RelationGetRelationName(mirror->apply->target)),
				 errdetail(
					 "The identity of the source is the whole row, and the target is no table."),
				 errhint(
					 "Give the source a primary key or a REPLICA IDENTITY index.")));
}

/* Chooses among the indexes of the target. */
static void
take_indexes(EtlMirror *mirror)
{
	List *oids = RelationGetIndexList(mirror->apply->target);
	Oid unique = InvalidOid;
	Oid other = InvalidOid;
	int n_other = 0;
	int n_unique = 0;
	ListCell *lc;

	foreach(lc, oids)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);
		int n = usable_columns(mirror, index);

		if (n > 0 && is_unique_key(mirror, index) &&
			(!OidIsValid(unique) || n < n_unique))
		{
			unique = RelationGetRelid(index);
			n_unique = n;
		}
		if (n > n_other)
		{
			other = RelationGetRelid(index);
			n_other = n;
		}
		index_close(index, NoLock);
	}
	foreach(lc, oids)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		if (lfirst_oid(lc) != unique &&
			(index->rd_index->indisunique || index->rd_index->indisexclusion))
			guard_columns(mirror, index);
		if (lfirst_oid(lc) == (OidIsValid(unique) ? unique : other))
			use_index(mirror, index, OidIsValid(unique) ? n_unique : n_other,
					  OidIsValid(unique));
		index_close(index, NoLock);
	}
	list_free(oids);
}

/* Is there one row for each key, as far as the index has its columns? */
static bool
is_unique_key(EtlMirror *mirror, Relation index)
{
	Form_pg_index form = index->rd_index;
	TupleDesc desc = RelationGetDescr(mirror->apply->target);

	if (!form->indisunique || !form->indimmediate ||
		usable_columns(mirror, index) != form->indnkeyatts)
		return false;
	if (!mirror->is_full)
		return form->indnkeyatts == mirror->n_keys;
	for (int i = 0; i < form->indnkeyatts; i++)
		if (!etl_has_no_nulls(desc, form->indkey.values[i] - 1))
			return false;
	return true;
}

/* How many of its first columns find rows as the types' own equality does? */
static int
usable_columns(EtlMirror *mirror, Relation index)
{
	Form_pg_index form = index->rd_index;
	TupleDesc desc = RelationGetDescr(mirror->apply->target);
	int n = 0;

	if (!form->indisvalid || !form->indisready || form->indcheckxmin ||
		!heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL) ||
		index->rd_rel->relam != BTREE_AM_OID)
		return 0;
	while (n < form->indnkeyatts)
	{
		AttrNumber attnum = form->indkey.values[n];
		Form_pg_attribute att;
		TypeCacheEntry *entry;
		Oid type = index->rd_opcintype[n];

		if (attnum <= 0 || find_key(mirror, attnum) < 0)
			break;
		for (int i = 0; i < n; i++)
			if (form->indkey.values[i] == attnum)
				return n;
		att = TupleDescAttr(desc, attnum - 1);
		entry = lookup_type_cache(getBaseType(att->atttypid), TYPECACHE_EQ_OPR);
		if (index->rd_indcollation[n] != att->attcollation ||
			!OidIsValid(entry->eq_opr) ||
			get_opfamily_member(index->rd_opfamily[n], type, type,
								BTEqualStrategyNumber) != entry->eq_opr)
			break;
		n++;
	}
	return n;
}

/* Which key is a column? */
static int
find_key(EtlMirror *mirror, AttrNumber attnum)
{
	for (int i = 0; i < mirror->n_keys; i++)
		if (mirror->keys[i] == attnum)
			return i;
	return -1;
}

/* A unique index's columns become the keys, in its order. */
static void
use_index(EtlMirror *mirror, Relation index, int n, bool unique)
{
	mirror->index = RelationGetRelid(index);
	mirror->unique = unique;
	mirror->n_index_keys = n;
	mirror->index_keys = palloc(sizeof(int) * n);
	if (unique)
	{
		mirror->keys = palloc(sizeof(AttrNumber) * n);
		mirror->n_keys = n;
		for (int i = 0; i < n; i++)
			mirror->keys[i] = index->rd_index->indkey.values[i];
	}
	for (int i = 0; i < n; i++)
		mirror->index_keys[i] = find_key(mirror,
										 index->rd_index->indkey.values[i]);
}

/* Values of these columns may be in each other's way. */
static void
guard_columns(EtlMirror *mirror, Relation index)
{
	Form_pg_index form = index->rd_index;
	Bitmapset *used = NULL;
	int member = -1;

	for (int i = 0; i < form->indnatts; i++)
		if (form->indkey.values[i] > 0)
			mirror->guarded = bms_add_member(mirror->guarded,
											 form->indkey.values[i]);
	pull_varattnos((Node *) RelationGetIndexExpressions(index), 1, &used);
	pull_varattnos((Node *) RelationGetIndexPredicate(index), 1, &used);
	while ((member = bms_next_member(used, member)) >= 0)
	{
		int attnum = member + FirstLowInvalidHeapAttributeNumber;

		if (attnum == InvalidAttrNumber) /* the whole row */
			for (int i = 1; i <= RelationGetDescr(mirror->apply->target)->natts;
				 i++)
				mirror->guarded = bms_add_member(mirror->guarded, i);
		else if (attnum > 0)
			mirror->guarded = bms_add_member(mirror->guarded, attnum);
	}
	/* even an index on nothing but the row's place is one */
	if (mirror->guarded == NULL)
		mirror->guarded = bms_make_singleton(0);
}
