/*-------------------------------------------------------------------------
 *
 * wal_tables.c
 *	  The tables in this server's WAL: which are reported, and what their rows
 *	  look like.
 *
 * All of this runs while a change is decoded, when catalogs look as they did
 * when the change was made.  What is found is kept until the relation cache
 * hears that the table, or a table above it, has changed; the decoder sees to
 * it that this happens at the right place in the stream.
 *
 * A partition is reported as the topmost table above it that is followed, with
 * the columns of that table and the replica identity of its own: that is what
 * decided which old values were logged.  Columns that are dropped, and those
 * that are computed when they are read, have no values and are left out.
 *
 * Takes no locks: nothing that is looked at exists any more, or as it was.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/tupdesc.h"
#include "catalog/partition.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "source/wal_private.h"

/* A table that is followed. */
typedef struct Source
{
	Oid relid;			/* hash key */
	List *descriptions; /* EtlSourceRelation: all that were written */
} Source;

static MemoryContext tables_context;
static HTAB *sources;	/* Source */
static HTAB *relations; /* EtlWalRelation */
static uint32 last_number = 0;
static uint64 ninvalidations = 0; /* that may matter */

static EtlWalRelation *enter(Oid relid);
static Source *find_source(Relation rel);
static void describe(EtlWalRelation *known, Relation rel, Source *source,
					 EtlChangeWriter *writer);
static EtlSourceRelation *describe_table(Relation source, Relation rel,
										 AttrNumber *attnums);
static bool *find_keys(Relation rel, const AttrNumber *attnums, int natts);
static bool is_stored(Form_pg_attribute attribute);
static AttrNumber find_column(TupleDesc desc, const char *name);
static EtlSourceRelation *find_description(const Source *source,
										   const EtlSourceRelation *relation);
static bool is_same(const EtlSourceRelation *a, const EtlSourceRelation *b);
static void forget_all(void);
static void relation_changed(Datum arg, Oid relid);
static void schema_changed(Datum arg, int cacheid, uint32 hashvalue);

/* The tables to follow, in the current memory context. */
void
etl_wal_tables_init(List *tables)
{
	HASHCTL ctl = {0};
	ListCell *lc;

	tables_context = AllocSetContextCreate(CurrentMemoryContext,
										   "etl_patterns tables in WAL",
										   ALLOCSET_DEFAULT_SIZES);
	ctl.hcxt = tables_context;
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(Source);
	sources = hash_create("etl_patterns followed tables", 64, &ctl,
						  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.entrysize = sizeof(EtlWalRelation);
	relations = hash_create("etl_patterns tables in WAL", 256, &ctl,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	foreach(lc, tables)
	{
		const EtlWalTable *table = lfirst(lc);
		Source *source = hash_search(sources, &table->relid, HASH_ENTER, NULL);

		source->descriptions = NIL;
	}
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, schema_changed, (Datum) 0);
}

/* How a table is reported, as it is at this place of the stream. */
EtlWalRelation *
etl_wal_relation(Relation rel, EtlChangeWriter *writer)
{
	EtlWalRelation *known = enter(RelationGetRelid(rel));
	uint64 before = ninvalidations;
	Source *source;

	if (known->is_valid)
		return known;

	/*
	 * What becomes invalid from here on stays so, as does what an error leaves
	 * half done: the decoder catches that of a transaction which was rolled
	 * back meanwhile.
	 */
	known->source = InvalidOid;
	known->relation = NULL;
	source = find_source(rel);
	if (source != NULL)
		describe(known, rel, source, writer);
	known->is_valid = ninvalidations == before;
	return known;
}

/*
 * How a table was last reported that cannot be opened as it is at this place.
 * NULL if it is not followed.
 */
EtlSourceRelation *
etl_wal_former_relation(Oid relid)
{
	const EtlWalRelation *known = hash_search(relations, &relid, HASH_FIND,
											  NULL);
	Oid followed = known != NULL ? known->source : relid;
	const Source *source = hash_search(sources, &followed, HASH_FIND, NULL);

	if (known != NULL && !OidIsValid(known->source))
		return NULL;
	if (source == NULL || source->descriptions == NIL)
		elog(ERROR, "could not open relation with OID %u", relid);
	return llast(source->descriptions);
}

/* The entry of a table, which may be a new one. */
static EtlWalRelation *
enter(Oid relid)
{
	EtlWalRelation *known;
	bool found;

	known = hash_search(relations, &relid, HASH_ENTER, &found);
	if (!found)
	{
		memset(known, 0, sizeof(EtlWalRelation));
		known->relid = relid;
	}
	return known;
}

/*
 * The table that a table is reported as, or NULL.  All above it are
 * remembered, so that it is noticed when they change.
 */
static Source *
find_source(Relation rel)
{
	Oid relid = RelationGetRelid(rel);
	Source *source = hash_search(sources, &relid, HASH_FIND, NULL);

	if (rel->rd_rel->relispartition)
	{
		List *ancestors = get_partition_ancestors(relid);
		ListCell *lc;

		foreach(lc, ancestors)
		{
			Oid ancestor = lfirst_oid(lc);
			Source *above = hash_search(sources, &ancestor, HASH_FIND, NULL);

			enter(ancestor)->is_ancestor = true;
			if (above != NULL)
				source = above;
		}
		list_free(ancestors);
	}
	return source;
}

/* Find out what rows look like, and write a description if it is a new one. */
static void
describe(EtlWalRelation *known, Relation rel, Source *source,
		 EtlChangeWriter *writer)
{
	MemoryContext context = AllocSetContextCreate(tables_context,
												  "etl_patterns description",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	AttrNumber attnums[MaxHeapAttributeNumber];
	EtlSourceRelation *relation;
	EtlSourceRelation *former;
	Relation top = rel;
	int natts;

	if (source->relid != RelationGetRelid(rel))
		top = RelationIdGetRelation(source->relid);
	if (!RelationIsValid(top))
		elog(ERROR, "could not open relation with OID %u", source->relid);
	relation = describe_table(top, rel, attnums);
	if (top != rel)
		RelationClose(top);

	natts = relation->desc->natts;
	former = find_description(source, relation);
	if (former == NULL)
	{
		relation->number = ++last_number;
		if (!etl_change_write_relation(writer, relation))
			etl_wal_leave();
		MemoryContextSwitchTo(tables_context);
		source->descriptions = lappend(source->descriptions, relation);
	}
	MemoryContextSwitchTo(old);
	if (former != NULL)
		MemoryContextDelete(context);

	if (known->attnums != NULL)
		pfree(known->attnums);
	known->attnums = MemoryContextAlloc(tables_context,
										Max(natts, 1) * sizeof(AttrNumber));
	memcpy(known->attnums, attnums, natts * sizeof(AttrNumber));
	known->is_raw = RelationGetNumberOfAttributes(rel) == natts;
	for (int i = 0; i < natts; i++)
		known->is_raw = known->is_raw && attnums[i] == i + 1;
	known->relation = former != NULL ? former : relation;
	known->source = source->relid;
}

/*
 * The description of a table, in the current memory context, with the keys of
 * the partition that a change was made in, and the columns' numbers there.
 */
static EtlSourceRelation *
describe_table(Relation source, Relation rel, AttrNumber *attnums)
{
	EtlSourceRelation *relation = palloc0(sizeof(EtlSourceRelation));
	TupleDesc desc = RelationGetDescr(source);
	AttrNumber stored[MaxHeapAttributeNumber];
	int natts = 0;

	for (int i = 0; i < desc->natts; i++)
	{
		if (is_stored(TupleDescAttr(desc, i)))
			stored[natts++] = i + 1;
	}
	relation->relid = RelationGetRelid(source);
	relation->schema = get_namespace_name(RelationGetNamespace(source));
	if (relation->schema == NULL)
		elog(ERROR, "cache lookup failed for namespace %u",
			 RelationGetNamespace(source));
	relation->name = pstrdup(RelationGetRelationName(source));
	relation->identity = rel->rd_rel->relreplident;
	relation->desc = CreateTemplateTupleDesc(natts);
	for (int i = 0; i < natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, stored[i] - 1);

		TupleDescCopyEntry(relation->desc, i + 1, desc, stored[i]);
		attnums[i] = stored[i];
		if (source != rel)
			attnums[i] = find_column(RelationGetDescr(rel),
									 NameStr(attribute->attname));
	}
	relation->is_key = find_keys(rel, attnums, natts);
	return relation;
}

/* Which of the columns are in a table's replica identity? */
static bool *
find_keys(Relation rel, const AttrNumber *attnums, int natts)
{
	bool *is_key = palloc0(Max(natts, 1) * sizeof(bool));
	Bitmapset *keys = NULL;

	if (rel->rd_rel->relreplident == REPLICA_IDENTITY_FULL)
		memset(is_key, true, natts);
	else if (rel->rd_rel->relreplident != REPLICA_IDENTITY_NOTHING)
		keys = RelationGetIdentityKeyBitmap(rel);
	for (int i = 0; i < natts; i++)
	{
		if (bms_is_member(attnums[i] - FirstLowInvalidHeapAttributeNumber, keys))
			is_key[i] = true;
	}
	bms_free(keys);
	return is_key;
}

static bool
is_stored(Form_pg_attribute attribute)
{
	return !attribute->attisdropped && !etl_is_virtual(attribute);
}

/* The number of a column of a partition; all columns of its table are there. */
static AttrNumber
find_column(TupleDesc desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (!attribute->attisdropped &&
			strcmp(NameStr(attribute->attname), name) == 0)
			return attribute->attnum;
	}
	elog(ERROR, "partition has no column \"%s\"", name);
}

/* ------------------------------------------------------------------ */
/* descriptions that were written                                       */

/* The same description, if it was written already. */
static EtlSourceRelation *
find_description(const Source *source, const EtlSourceRelation *relation)
{
	ListCell *lc;

	foreach(lc, source->descriptions)
	{
		EtlSourceRelation *former = lfirst(lc);

		if (is_same(former, relation))
			return former;
	}
	return NULL;
}

static bool
is_same(const EtlSourceRelation *a, const EtlSourceRelation *b)
{
	int natts = a->desc->natts;

	if (a->identity != b->identity || natts != b->desc->natts ||
		strcmp(a->schema, b->schema) != 0 || strcmp(a->name, b->name) != 0 ||
		memcmp(a->is_key, b->is_key, natts * sizeof(bool)) != 0)
		return false;
	for (int i = 0; i < natts; i++)
	{
		Form_pg_attribute x = TupleDescAttr(a->desc, i);
		Form_pg_attribute y = TupleDescAttr(b->desc, i);

		if (strcmp(NameStr(x->attname), NameStr(y->attname)) != 0 ||
			x->atttypid != y->atttypid || x->atttypmod != y->atttypmod ||
			x->attcollation != y->attcollation)
			return false;
	}
	return true;
}

/* ------------------------------------------------------------------ */
/* rows                                                                 */

/*
 * A row in the layout of its description: itself, or a new one in the current
 * memory context.  A row may end before columns that were added later; what
 * they hold is known here only.
 */
HeapTuple
etl_wal_row(const EtlWalRelation *known, Relation rel, HeapTuple row)
{
	TupleDesc desc = RelationGetDescr(rel);
	TupleDesc new_desc = known->relation->desc;
	Datum values[MaxHeapAttributeNumber];
	bool nulls[MaxHeapAttributeNumber];
	Datum new_values[MaxHeapAttributeNumber];
	bool new_nulls[MaxHeapAttributeNumber];

	if (known->is_raw && HeapTupleHeaderGetNatts(row->t_data) == desc->natts)
		return row;
	heap_deform_tuple(row, desc, values, nulls);
	for (int i = 0; i < new_desc->natts; i++)
	{
		new_values[i] = values[known->attnums[i] - 1];
		new_nulls[i] = nulls[known->attnums[i] - 1];
	}
	return heap_form_tuple(new_desc, new_values, new_nulls);
}

/* ------------------------------------------------------------------ */
/* invalidation: may come at any time, and may not look at anything       */

static void
forget_all(void)
{
	HASH_SEQ_STATUS scan;
	EtlWalRelation *known;

	ninvalidations++;
	hash_seq_init(&scan, relations);
	while ((known = hash_seq_search(&scan)) != NULL)
		known->is_valid = false;
}

/* A table has changed: it, and all below it, are to be looked at anew. */
static void
relation_changed(Datum arg, Oid relid)
{
	EtlWalRelation *known;

	if (!OidIsValid(relid))
	{
		forget_all();
		return;
	}
	known = hash_search(relations, &relid, HASH_FIND, NULL);
	if (known == NULL)
		return;
	ninvalidations++;
	known->is_valid = false;
	if (known->is_ancestor)
		forget_all();
}

static void
schema_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	forget_all();
}
