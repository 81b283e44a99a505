/*-------------------------------------------------------------------------
 *
 * append_probe.c
 *	  Whether the unique keys of a row are taken, before it is inserted.
 *
 * A row that would fail is rejected without an error, which would cost a
 * subtransaction.  The answer is not final: another session may insert the key
 * in between, and then the insertion fails after all.
 *
 * A scan of each index is kept from row to row, which is cheaper than what the
 * executor does for each.  It only says that a key is free; what else it may
 * be is the executor's to say.
 *
 * Locks: those of the indexes, which are open already.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/append.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "utils/snapmgr.h"

struct EtlKeyProbe
{
	EtlHeapSink *sink;
	ResultRelInfo *rri;
	EState *estate;
	IndexScanDesc *scans; /* one for each index, made on demand */
	TupleTableSlot *slot; /* what they find */
	SnapshotData dirty;	  /* sees rows in progress, too */
};

static bool key_is_free(EtlKeyProbe *probe, int i, TupleTableSlot *slot);
static IndexScanDesc get_scan(EtlKeyProbe *probe, int i);
static bool make_scan_keys(EtlKeyProbe *probe, Relation index, IndexInfo *info,
						   TupleTableSlot *slot, ScanKey keys);
static void reject_duplicate(EtlKeyProbe *probe, int i, TupleTableSlot *slot,
							 int row);

/* Lives in the executor's context; to be closed before that. */
EtlKeyProbe *
etl_key_probe_open(EtlHeapSink *sink, ResultRelInfo *rri, EState *estate)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(estate->es_query_cxt);
	EtlKeyProbe *probe = palloc0(sizeof(EtlKeyProbe));

	probe->sink = sink;
	probe->rri = rri;
	probe->estate = estate;
	InitDirtySnapshot(probe->dirty);
	probe->scans = palloc0(sizeof(IndexScanDesc) * Max(rri->ri_NumIndices, 1));
	probe->slot = table_slot_create(rri->ri_RelationDesc,
									&estate->es_tupleTable);
	MemoryContextSwitchTo(oldcontext);
	return probe;
}

void
etl_key_probe_close(EtlKeyProbe *probe)
{
	for (int i = 0; i < probe->rri->ri_NumIndices; i++)
		if (probe->scans[i] != NULL)
			index_endscan(probe->scans[i]);
}

/*
 * Rejects the row if a unique key of it is taken, and tells so.  Deferrable
 * constraints are left to the insertion, and so is a row that meets an
 * exclusion constraint before: the first index has its say.
 */
bool
etl_key_probe_row(EtlKeyProbe *probe, TupleTableSlot *slot, int row)
{
	ResultRelInfo *rri = probe->rri;

	for (int i = 0; i < rri->ri_NumIndices; i++)
	{
		Relation index = rri->ri_IndexRelationDescs[i];
		IndexInfo *info = rri->ri_IndexRelationInfo[i];
		ItemPointerData conflict;
		List *arbiter;
		bool clear;

		if ((!info->ii_Unique && info->ii_ExclusionOps == NULL) ||
			!info->ii_ReadyForInserts || !index->rd_index->indimmediate)
			continue;
		if (info->ii_ExclusionOps == NULL && info->ii_UniqueOps == NULL)
			BuildSpeculativeIndexInfo(index, info);
		if (info->ii_ExclusionOps == NULL && key_is_free(probe, i, slot))
			continue;
		arbiter = list_make1_oid(RelationGetRelid(index));
		ItemPointerSetInvalid(&slot->tts_tid);
		clear = etl_check_index_constraints(rri, slot, probe->estate, &conflict,
											arbiter);
		list_free(arbiter);
		if (!clear && info->ii_ExclusionOps != NULL)
			return false;
		if (!clear)
		{
			reject_duplicate(probe, i, slot, row);
			return true;
		}
	}
	return false;
}

/* Is there no row with this row's key?  False where that is not certain. */
static bool
key_is_free(EtlKeyProbe *probe, int i, TupleTableSlot *slot)
{
	IndexInfo *info = probe->rri->ri_IndexRelationInfo[i];
	ScanKeyData keys[INDEX_MAX_KEYS];
	IndexScanDesc scan;
	bool found;

	if (!make_scan_keys(probe, probe->rri->ri_IndexRelationDescs[i], info, slot,
						keys))
		return true;
	scan = get_scan(probe, i);
	index_rescan(scan, keys, info->ii_NumIndexKeyAttrs, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, probe->slot);
	ExecClearTuple(probe->slot);
	return !found;
}

/* The scan of an index that looks for keys. */
static IndexScanDesc
get_scan(EtlKeyProbe *probe, int i)
{
	ResultRelInfo *rri = probe->rri;
	MemoryContext oldcontext;

	if (probe->scans[i] != NULL)
		return probe->scans[i];
	oldcontext = MemoryContextSwitchTo(probe->estate->es_query_cxt);
	probe->scans[i] =
		etl_index_beginscan(rri->ri_RelationDesc, rri->ri_IndexRelationDescs[i],
							&probe->dirty,
							rri->ri_IndexRelationInfo[i]->ii_NumIndexKeyAttrs);
	MemoryContextSwitchTo(oldcontext);
	return probe->scans[i];
}

/* The row's key, to be searched for; false if it conflicts with nothing. */
static bool
make_scan_keys(EtlKeyProbe *probe, Relation index, IndexInfo *info,
			   TupleTableSlot *slot, ScanKey keys)
{
	Datum values[INDEX_MAX_KEYS];
	bool isnull[INDEX_MAX_KEYS];

	GetPerTupleExprContext(probe->estate)->ecxt_scantuple = slot;
	FormIndexDatum(info, slot, probe->estate, values, isnull);
	for (int i = 0; i < info->ii_NumIndexKeyAttrs; i++)
	{
		if (isnull[i] && !info->ii_NullsNotDistinct)
			return false;
		ScanKeyEntryInitialize(&keys[i],
							   isnull[i] ? SK_ISNULL | SK_SEARCHNULL : 0, i + 1,
							   info->ii_UniqueStrats[i], InvalidOid,
							   index->rd_indcollation[i],
							   info->ii_UniqueProcs[i], values[i]);
	}
	return true;
}

/* Says what the insertion into a unique index would have said. */
static void
reject_duplicate(EtlKeyProbe *probe, int i, TupleTableSlot *slot, int row)
{
	ResultRelInfo *rri = probe->rri;
	Datum values[INDEX_MAX_KEYS];
	bool isnull[INDEX_MAX_KEYS];

	GetPerTupleExprContext(probe->estate)->ecxt_scantuple = slot;
	FormIndexDatum(rri->ri_IndexRelationInfo[i], slot, probe->estate, values,
				   isnull);
	etl_heap_reject_duplicate(probe->sink, row, rri->ri_IndexRelationDescs[i],
							  values, isnull);
}
