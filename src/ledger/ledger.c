/*-------------------------------------------------------------------------
 *
 * ledger.c
 *	  How the state tables are reached.
 *
 * Most writes go straight to the heap: one row per call or many, by column
 * number, without a plan, and without the state tables' owner being asked,
 * because the C code is their only writer.  What needs a query runs through
 * SPI as the owner of the state tables, between etl_ledger_enter() and
 * etl_ledger_leave(), with a fixed search_path and as a security-restricted
 * operation.  Such a query must carry its own test of the caller's role.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "commands/sequence.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "etl_patterns.h"
#include "ledger/ledger.h"

/* An error quotes no more than so many bytes. */
#define MAX_QUOTED_LEN (64 * 1024)

/* State tables that were found to be as they should be. */
static Oid checked[16];
static int nchecked = 0;

static void check_index(Oid indexoid, const char *table);

/* OID of a relation in our schema; it can't be missing while we are called. */
Oid
etl_ledger_relid(const char *name)
{
	Oid schema = get_namespace_oid(ETL_SCHEMA, false);
	Oid relid = get_relname_relid(name, schema);

	if (!OidIsValid(relid))
		elog(ERROR, "relation \"%s.%s\" does not exist", ETL_SCHEMA, name);
	return relid;
}

/* A state table has changed: it is looked at again. */
static void
forget_checked(Datum arg, Oid relid)
{
	for (int i = 0; i < nchecked; i++)
		if (!OidIsValid(relid) || checked[i] == relid)
			nchecked = 0;
}

/* Was this table found to be as it should be, and has not changed since? */
static bool
is_checked(Oid relid)
{
	for (int i = 0; i < nchecked; i++)
		if (checked[i] == relid)
			return true;
	return false;
}

static void
remember_checked(Oid relid)
{
	static bool registered = false;

	if (!registered)
		CacheRegisterRelcacheCallback(forget_checked, (Datum) 0);
	registered = true;
	if (nchecked < (int) lengthof(checked))
		checked[nchecked++] = relid;
}

/*
 * Is the table as we made it?  Rows are formed by column number and index
 * entries are made without an executor, so a superuser's change to the table
 * could crash us.
 */
static void
check_table(Relation rel, const char *name, int natts)
{
	TupleDesc desc = etl_ledger_desc(rel);
	bool altered = desc->natts != natts;
	List *indexes = RelationGetIndexList(rel);
	ListCell *lc;

	for (int i = 0; i < desc->natts; i++)
		altered |= TupleDescAttr(desc, i)->attisdropped;
	if (desc->natts < natts)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s.%s\" is that of an older version",
						ETL_SCHEMA, name),
				 errhint(
					 "Run ALTER EXTENSION etl_patterns UPDATE. If columns were dropped, restore them from a backup.")));
	if (altered)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("columns of table \"%s.%s\" were added or dropped",
						ETL_SCHEMA, name),
				 errhint(
					 "Drop columns that were added, and keep them in another table. If the extension was updated, connect again.")));
	foreach(lc, indexes)
		check_index(lfirst_oid(lc), name);
	list_free(indexes);
}

/*
 * Open a state table, which has natts columns; the lock is kept until the
 * transaction ends.
 */
Relation
etl_ledger_open(const char *name, int natts, LOCKMODE lockmode)
{
	Relation rel = table_open(etl_ledger_relid(name), lockmode);

	if (!is_checked(RelationGetRelid(rel)))
	{
		check_table(rel, name, natts);
		remember_checked(RelationGetRelid(rel));
	}
	return rel;
}

/*
 * The columns of a state table, to form and to read rows by: without those
 * that somebody had added at the end and dropped.
 */
TupleDesc
etl_ledger_desc(Relation rel)
{
	TupleDesc desc = RelationGetDescr(rel);
	int natts = desc->natts;
	TupleDesc result;

	while (natts > 0 && TupleDescAttr(desc, natts - 1)->attisdropped)
		natts--;
	if (natts == desc->natts)
		return desc;
	result = CreateTemplateTupleDesc(natts);
	for (int i = 1; i <= natts; i++)
		TupleDescCopyEntry(result, i, desc, i);
	return result;
}

/* Can we maintain this index of a state table? */
static void
check_index(Oid indexoid, const char *table)
{
	Relation index = index_open(indexoid, AccessShareLock);

	if (index->rd_index->indisexclusion ||
		RelationGetIndexExpressions(index) != NIL ||
		RelationGetIndexPredicate(index) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("index \"%s\" of table \"%s.%s\" cannot be maintained",
						RelationGetRelationName(index), ETL_SCHEMA, table),
				 errdetail(
					 "Indexes of this table must have no expressions, no WHERE clause and no exclusion constraint."),
				 errhint("Drop the index.")));
	index_close(index, NoLock);
}

/* The next number of one of our sequences. */
int64
etl_ledger_next_id(const char *sequence)
{
	return nextval_internal(etl_ledger_relid(sequence), false);
}

/* Insert one row into an open state table and make it visible to what follows. */
void
etl_ledger_insert(Relation rel, Datum *values, bool *nulls)
{
	HeapTuple tuple = heap_form_tuple(etl_ledger_desc(rel), values, nulls);

	CatalogTupleInsert(rel, tuple);
	heap_freetuple(tuple);
	CommandCounterIncrement();
}

/* Replace all columns of a row that is at this place of an open state table. */
void
etl_ledger_replace(Relation rel, ItemPointer place, Datum *values, bool *nulls)
{
	HeapTuple tuple = heap_form_tuple(etl_ledger_desc(rel), values, nulls);

	CatalogTupleUpdate(rel, place, tuple);
	*place = tuple->t_self;
	heap_freetuple(tuple);
	CommandCounterIncrement();
}

/* Delete the row that is at this place of an open state table. */
void
etl_ledger_delete(Relation rel, ItemPointer place)
{
	CatalogTupleDelete(rel, place);
	CommandCounterIncrement();
}

/* The same three where it is all that is done with the table. */
void
etl_ledger_insert_into(const char *name, int natts, Datum *values, bool *nulls)
{
	Relation rel = etl_ledger_open(name, natts, RowExclusiveLock);

	etl_ledger_insert(rel, values, nulls);
	table_close(rel, NoLock);
}

void
etl_ledger_replace_in(const char *name, int natts, ItemPointer place,
					  Datum *values, bool *nulls)
{
	Relation rel = etl_ledger_open(name, natts, RowExclusiveLock);

	etl_ledger_replace(rel, place, values, nulls);
	table_close(rel, NoLock);
}

void
etl_ledger_delete_from(const char *name, int natts, ItemPointer place)
{
	Relation rel = etl_ledger_open(name, natts, RowExclusiveLock);

	etl_ledger_delete(rel, place);
	table_close(rel, NoLock);
}

/*
 * Lock a row that was read from an open state table, and read it as it is then,
 * at every isolation level.  NULL if it is gone, and with LockWaitSkip also if
 * another transaction has it.
 */
HeapTuple
etl_ledger_lock(Relation rel, HeapTuple tuple, LockWaitPolicy wait)
{
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	ItemPointerData tid = tuple->t_self;
	HeapTuple result = NULL;
	TM_FailureData failure;
	TM_Result locked;

	locked = table_tuple_lock(rel, &tid, SnapshotAny, slot,
							  GetCurrentCommandId(true), LockTupleNoKeyExclusive,
							  wait, TUPLE_LOCK_FLAG_FIND_LAST_VERSION, &failure);
	if (locked == TM_Ok)
		result = ExecCopySlotHeapTuple(slot);
	else if (locked != TM_Deleted && locked != TM_WouldBlock)
		elog(ERROR, "could not lock a row of \"%s.%s\": %d", ETL_SCHEMA,
			 RelationGetRelationName(rel), locked);
	ExecDropSingleTupleTableSlot(slot);
	return result;
}

/*
 * Become the owner of the state tables and connect to SPI.  An error leaves
 * the state by way of the transaction's abort.
 */
void
etl_ledger_enter(EtlLedgerScope *scope)
{
	Relation rel = table_open(etl_ledger_relid("run"), AccessShareLock);
	Oid owner = rel->rd_rel->relowner;

	table_close(rel, AccessShareLock);

	GetUserIdAndSecContext(&scope->user, &scope->security_context);
	SetUserIdAndSecContext(owner, scope->security_context |
									  SECURITY_LOCAL_USERID_CHANGE |
									  SECURITY_RESTRICTED_OPERATION);
	scope->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
}

/* Undo etl_ledger_enter(). */
void
etl_ledger_leave(EtlLedgerScope *scope)
{
	SPI_finish();
	AtEOXact_GUC(false, scope->guc_level);
	SetUserIdAndSecContext(scope->user, scope->security_context);
}

/* Does the calling role own (or have the rights of the owner of) a state row? */
bool
etl_ledger_is_ours(Oid role)
{
	return has_privs_of_role(GetUserId(), role);
}

/* A text Datum, or null for a NULL pointer. */
void
etl_ledger_set_text(Datum *value, bool *null, const char *text)
{
	*null = text == NULL;
	*value = text == NULL ? (Datum) 0 : CStringGetTextDatum(text);
}

/* A time, or null for 0. */
void
etl_ledger_set_time(Datum *values, bool *nulls, int column, TimestampTz time)
{
	nulls[column] = time == 0;
	values[column] = TimestampTzGetDatum(time);
}

/* The text of a column, or NULL. */
char *
etl_ledger_get_text(const Datum *values, const bool *nulls, int column)
{
	return nulls[column] ? NULL : TextDatumGetCString(values[column]);
}

/* The time in a column, or 0. */
TimestampTz
etl_ledger_get_time(const Datum *values, const bool *nulls, int column)
{
	return nulls[column] ? 0 : DatumGetTimestampTz(values[column]);
}

/* Which of the words a column holds; its CHECK constraint knows no others. */
int
etl_ledger_get_word(Datum value, const char *const *words)
{
	char *word = TextDatumGetCString(value);

	for (int i = 0; words[i] != NULL; i++)
		if (strcmp(words[i], word) == 0)
			return i;
	elog(ERROR, "unknown word in a state table: \"%s\"", word);
}

/*
 * A text that may quote a whole value, cut where it is longer than anybody
 * reads; NULL stays NULL.  What was cut stands in the record itself.
 */
const char *
etl_ledger_clip(const char *text)
{
	if (text == NULL || strnlen(text, MAX_QUOTED_LEN + 1) <= MAX_QUOTED_LEN)
		return text;
	return psprintf("%.*s...",
					pg_mbcliplen(text, MAX_QUOTED_LEN + 1, MAX_QUOTED_LEN),
					text);
}

/* A bigint Datum, or null for the value that means "unknown". */
void
etl_ledger_set_int64(Datum *value, bool *null, int64 number, int64 unknown)
{
	*null = number == unknown;
	*value = Int64GetDatum(number);
}
