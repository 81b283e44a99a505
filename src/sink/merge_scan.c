/*-------------------------------------------------------------------------
 *
 * merge_scan.c
 *	  How the rows of a merge are read.
 *
 * There are three ways, which lead to the same result:
 *
 *	- by queries (merge_query.c), for whatever the target is;
 *	- past all rows of a heap (merge_filter_scan.c), when a good part of its
 *	  keys is concerned or keys may be absent;
 *	- through an index of a heap (merge_probe.c), when few are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "optimizer/plancat.h"
#include "utils/snapmgr.h"

#include "sink/merge_private.h"

/*
 * One probe of an index costs about as much as this many rows of a scan.
 * Measured as the size of the batch at which both ways take the same time,
 * with 10 million rows (1.3 GB, in the system's cache, shared_buffers 128 MB)
 * on a busy machine, so roughly: with a history at about 1/33 of the rows,
 * with an upsert between 1/67 and 1/25, sooner where the heap has no order by
 * key.  With a history of 100,000 rows it lay between 1/25 and 1/12.  Not
 * measured with rows that come from a disk, where probes should be dearer.
 */
#define ROWS_PER_PROBE 40

/*
 * When the input has been read there is no way back to the filter, so that
 * its rows may be so many times those for which a probe was opened.
 */
#define PROBE_SLACK 2

static EtlProbe *open_probe(EtlMerge *merge, EtlScope *scope);
static bool has_changed(Relation rel, Snapshot latest, Snapshot ours);
static bool snapshots_agree(Snapshot a, Snapshot b);

/* Reads both sides and has each key decided. */
void
etl_merge_scan(EtlMerge *merge)
{
	EtlScope *scope = etl_scope_create(merge);
	EtlProbe *probe;

	if (IsolationUsesXactSnapshot())
		etl_merge_refuse_stale_snapshot(merge->target);

	if (merge->general || merge->from_log)
	{
		merge->way = merge->from_log ? "change log" : "general";
		etl_merge_by_query(merge, scope);
		return;
	}
	merge->way = "scan";
	probe = open_probe(merge, scope);
	if (probe != NULL)
		etl_merge_by_probe(merge, probe);
	else
		etl_merge_by_scan(merge, scope);
}

/*
 * Opens a probe if it pays and can do the work, which it cannot where the
 * rows of other keys matter: they may be absent, or are to be counted.
 */
static EtlProbe *
open_probe(EtlMerge *merge, EtlScope *scope)
{
	BlockNumber pages;
	double tuples;
	double visible;

	if (scope != NULL || merge->max_delete_fraction >= 0)
		return NULL;
	estimate_rel_size(merge->target, NULL, &pages, &tuples, &visible);
	if (merge->input.rows * ROWS_PER_PROBE >= tuples)
		return NULL;
	return etl_probe_open(merge, tuples / ROWS_PER_PROBE * PROBE_SLACK);
}

/*
 * A transaction that keeps its snapshot does not see what others have
 * committed since, and would merge into rows that are no longer there.  What
 * ordinary statements find out row by row is found out here for the whole
 * table: we hold a lock that keeps writers out, so it cannot change any more.
 */
void
etl_merge_refuse_stale_snapshot(Relation target)
{
	Snapshot latest = RegisterSnapshot(GetLatestSnapshot());
	Snapshot ours = GetActiveSnapshot();
	List *children;
	bool stale = false;
	ListCell *lc;

	if (snapshots_agree(latest, ours))
	{
		UnregisterSnapshot(latest);
		return;
	}

	/* the caller has locked them */
	children = find_all_inheritors(RelationGetRelid(target), NoLock, NULL);
	foreach(lc, children)
	{
		Relation rel = relation_open(lfirst_oid(lc), AccessShareLock);

		if (!stale && rel->rd_rel->relkind == RELKIND_RELATION)
			stale = has_changed(rel, latest, ours);
		relation_close(rel, NoLock);
	}
	UnregisterSnapshot(latest);
	if (stale)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent update"),
				 errdetail("Relation \"%s\" has changed since the transaction took its snapshot.",
						   RelationGetRelationName(target)),
				 errhint("The transaction might succeed if retried.")));
}

/* Does a table look different in two snapshots? */
static bool
has_changed(Relation rel, Snapshot latest, Snapshot ours)
{
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, SnapshotAny, 0, NULL);
	bool changed = false;

	while (!changed && table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		changed = table_tuple_satisfies_snapshot(rel, slot, latest) !=
				  table_tuple_satisfies_snapshot(rel, slot, ours);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	return changed;
}

/* Has nothing been committed between two snapshots? */
static bool
snapshots_agree(Snapshot a, Snapshot b)
{
	return a->xmin == b->xmin && a->xmax == b->xmax && a->xcnt == b->xcnt &&
		   memcmp(a->xip, b->xip, sizeof(TransactionId) * a->xcnt) == 0;
}
