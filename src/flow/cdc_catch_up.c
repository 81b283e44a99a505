/*-------------------------------------------------------------------------
 *
 * cdc_catch_up.c
 *	  Copies of tables whose targets refer to targets that are followed already.
 *
 * A copy is ahead of the stream: its rows may refer to rows that the stream
 * has not brought yet.  So between its snapshot and its first row the stream
 * is taken up to where the WAL ended at the snapshot, in the same transaction.
 * Then all is there that the rows refer to, but for what transactions have
 * deleted that the snapshot does not see.  What these have done to the tables
 * that are being copied is kept, and applied behind the copy, before foreign
 * keys are checked.
 *
 * That those transactions come after all others makes no difference: they
 * were not over at the snapshot, so that none of the others has waited for
 * them, or seen what they did.
 *
 * Takes no locks of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "flow/cdc_apply.h"
#include "flow/cdc_check.h"

/* More than that is not kept. */
#define KEPT_BYTES (64 * 1024 * 1024)

/* A change of a table that is being copied, in batch_context. */
typedef struct Kept
{
	EtlCdcFollowed *followed;
	EtlSourceXact xact;
	EtlChangeEvent event;
} Kept;

/* Whether a table that is being copied refers to one that is followed. */
bool
etl_cdc_must_catch_up(const EtlCdcApplier *applier, List *group)
{
	ListCell *lc;
	ListCell *lc2;

	foreach(lc, applier->tables)
	{
		EtlCdcFollowed *followed = lfirst(lc);

		if (followed->table->state == ETL_CDC_TABLE_NEW)
			continue;
		foreach(lc2, group)
			if (etl_cdc_refers_to(((EtlCdcFollowed *) lfirst(lc2))->table,
								  followed->table))
				return true;
	}
	return false;
}

/*
 * Take the stream up to a position, in the transaction that is open.  False if
 * the stream has ended.
 */
bool
etl_cdc_catch_up(EtlCdcApplier *applier, List *group, const char *snapshot,
				 XLogRecPtr end)
{
	bool reached;
	ListCell *lc;

	foreach(lc, group)
		((EtlCdcFollowed *) lfirst(lc))->copied_as = etl_copy_snapshot_parse(
			snapshot);
	applier->kept = NIL;
	applier->kept_bytes = 0;

	/* what fails now is a change of the stream */
	applier->doing = ETL_CDC_APPLIES;
	reached = etl_cdc_take_until(applier, etl_cdc_end_of_record(end));
	if (reached)
		etl_cdc_flush(applier);
	applier->doing = ETL_CDC_COPIES;
	foreach(lc, group)
		((EtlCdcFollowed *) lfirst(lc))->copied_as = NULL;
	return reached;
}

static HeapTuple
keep_row(HeapTuple row)
{
	return row == NULL ? NULL : heap_copytuple(row);
}

/* Keep a change of a table that is being copied, if the copy has not seen it. */
void
etl_cdc_keep(EtlCdcApplier *applier, EtlCdcFollowed *followed,
			 const EtlChangeEvent *event)
{
	MemoryContext context;
	Kept *kept;

	if (etl_copy_snapshot_sees(followed->copied_as, applier->xact.xid))
		return;
	context = MemoryContextSwitchTo(applier->batch_context);
	kept = palloc0(sizeof(Kept));
	kept->followed = followed;
	kept->xact = applier->xact;
	kept->event = *event;
	kept->event.old_row = keep_row(event->old_row);
	kept->event.new_row = keep_row(event->new_row);
	if (event->unchanged != NULL)
	{
		int natts = event->relation->desc->natts;

		kept->event.unchanged = palloc(sizeof(bool) * natts);
		memcpy(kept->event.unchanged, event->unchanged, sizeof(bool) * natts);
	}
	applier->kept = lappend(applier->kept, kept);
	applier->kept_bytes += sizeof(Kept) +
						   (event->old_row ? event->old_row->t_len : 0) +
						   (event->new_row ? event->new_row->t_len : 0);
	MemoryContextSwitchTo(context);
	if (applier->kept_bytes > KEPT_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("a large transaction of table \"%s\" was committed while the table was copied",
						followed->table->source),
				 errhint("The copy is tried again.")));
}

/* Apply what was kept, behind the copy. */
void
etl_cdc_apply_kept(EtlCdcApplier *applier)
{
	ListCell *lc;

	foreach(lc, applier->kept)
	{
		Kept *kept = lfirst(lc);
		bool is_applied = true;

		CHECK_FOR_INTERRUPTS();
		applier->xact = kept->xact;
		if (applier->copies_alone)
			is_applied = etl_cdc_add_alone(applier, kept->followed,
										   &kept->event);
		else
			etl_cdc_add(applier, kept->followed, &kept->event);
		if (is_applied && kept->followed->letters != NULL)
			etl_cdc_overtake(applier, kept->followed, &kept->event);
		applier->changes[kept->event.kind] += is_applied;
	}
	applier->kept = NIL;
	etl_cdc_flush(applier);
}
