/*-------------------------------------------------------------------------
 *
 * row_slot.c
 *	  Slots whose tuples belong to the batch.
 *
 * A slot for rows of a heap either owns its tuple or pins a buffer, so that a
 * tuple that is to be written must be copied into it first.  The rows of a
 * batch all go at once, by a reset of its memory: a slot need not own them.
 * These slots are those of heap tables (TTSOpsBufferHeapTuple) in all but
 * this: a tuple that they were lent is taken for materialized, and is not freed.
 *
 * Invariants:
 *	- A lent tuple lives until the slot is cleared or filled again.
 *	- Nothing writes into it but the insertion, which sets its head.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/append.h"

typedef struct RowSlot
{
	BufferHeapTupleTableSlot base;
	bool lent; /* base.base.tuple is not the slot's own */
} RowSlot;

static TupleTableSlotOps row_slot_ops;

/* Forgets a lent tuple, or frees one of its own. */
static void
row_slot_clear(TupleTableSlot *slot)
{
	RowSlot *row = (RowSlot *) slot;

	if (row->lent)
	{
		row->lent = false;
		row->base.base.tuple = NULL;
	}
	TTSOpsBufferHeapTuple.clear(slot);
}

/* A lent tuple lives long enough as it is. */
static void
row_slot_materialize(TupleTableSlot *slot)
{
	if (!((RowSlot *) slot)->lent)
		TTSOpsBufferHeapTuple.materialize(slot);
}

/* What makes a slot one of these. */
const TupleTableSlotOps *
etl_row_slot_ops(void)
{
	if (row_slot_ops.base_slot_size == 0)
	{
		TupleTableSlotOps ops = TTSOpsBufferHeapTuple;

		ops.base_slot_size = sizeof(RowSlot);
		ops.clear = row_slot_clear;
		ops.materialize = row_slot_materialize;
		memcpy(&row_slot_ops, &ops, sizeof(ops));
	}
	return &row_slot_ops;
}

/* Lends a tuple of the slot's own layout to the slot. */
void
etl_row_slot_lend(TupleTableSlot *slot, HeapTupleHeader data, uint32 len)
{
	RowSlot *row = (RowSlot *) slot;
	HeapTuple tuple = &row->base.base.tupdata;

	Assert(slot->tts_ops == &row_slot_ops);
	if (!row->lent)
		ExecClearTuple(slot);
	ItemPointerSetInvalid(&slot->tts_tid);
	tuple->t_len = len;
	tuple->t_data = data;
	tuple->t_tableOid = InvalidOid;
	ItemPointerSetInvalid(&tuple->t_self);
	row->lent = true;
	row->base.base.tuple = tuple;
	row->base.base.off = 0;
	slot->tts_nvalid = 0;
	slot->tts_flags &= ~TTS_FLAG_EMPTY;
}

/* The tuple that a slot was lent, or NULL. */
HeapTuple
etl_row_slot_lent(TupleTableSlot *slot)
{
	RowSlot *row = (RowSlot *) slot;

	return slot->tts_ops == &row_slot_ops && row->lent ? row->base.base.tuple :
														 NULL;
}
