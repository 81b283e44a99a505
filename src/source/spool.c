/*-------------------------------------------------------------------------
 *
 * spool.c
 *	  Rows kept in a temporary file, to be read again by their addresses.
 *
 * A row is written once, at the end, as a minimal tuple, which begins with
 * its length.  Its address is the file's position there: the number of the
 * segment (PostgreSQL cuts temporary files in pieces of 1 GB) and the offset
 * in it.  Rows may be put and got in any order.
 *
 * Values that are stored out of line stay so: the spool holds their
 * addresses, which are good as long as the snapshot that they were read with.
 *
 * Invariant: at_end says that the file's position is (segment, offset), which
 * is its end.
 *
 * Takes no locks.  An error closes and removes the file.
 *
 *-------------------------------------------------------------------------
 */
#include "source/rows.h"

#include "access/htup_details.h"
#include "storage/buffile.h"
#include "utils/memutils.h"

/* An offset may be equal to the length of a segment. */
#define OFFSET_BITS	  31
#define ADDRESS_BITS  47
#define SEGMENT_LIMIT (1 << (ADDRESS_BITS - OFFSET_BITS))

struct EtlSpool
{
	BufFile *file;
	TupleTableSlot *row; /* virtual: for rows that are made up anew */
	int segment;		 /* the end */
	off_t offset;
	bool at_end;
};

static MinimalTuple fetch_tuple(EtlSpool *spool, TupleTableSlot *slot,
								bool *should_free);
static void read_exactly(EtlSpool *spool, void *to, Size size);

/* A spool for rows of these columns, in the current memory context. */
EtlSpool *
etl_spool_create(TupleDesc desc)
{
	EtlSpool *spool = palloc0(sizeof(EtlSpool));

	spool->file = BufFileCreateTemp(false);
	spool->row = MakeSingleTupleTableSlot(CreateTupleDescCopy(desc),
										  &TTSOpsVirtual);
	spool->at_end = true;
	return spool;
}

/* Keeps a copy of the row and returns its address. */
uint64
etl_spool_put(EtlSpool *spool, TupleTableSlot *slot)
{
	uint64 address;
	bool should_free;
	MinimalTuple tuple;

	if (!spool->at_end &&
		BufFileSeek(spool->file, spool->segment, spool->offset, SEEK_SET) != 0)
		elog(ERROR, "could not go to the end of a temporary file");
	spool->at_end = true;
	if (spool->segment >= SEGMENT_LIMIT)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("temporary file has too many segments")));
	address = (uint64) spool->segment << OFFSET_BITS | (uint64) spool->offset;

	tuple = fetch_tuple(spool, slot, &should_free);
	BufFileWrite(spool->file, tuple, tuple->t_len);
	BufFileTell(spool->file, &spool->segment, &spool->offset);
	if (should_free)
		pfree(tuple);
	ExecClearTuple(spool->row);
	return address;
}

/*
 * The row as a minimal tuple of the spool's columns.  A row in a heap may
 * lack columns that were added later: only its slot knows their values, so
 * it is made up anew from all its values.
 */
static MinimalTuple
fetch_tuple(EtlSpool *spool, TupleTableSlot *slot, bool *should_free)
{
	TupleTableSlot *row = spool->row;
	int natts = row->tts_tupleDescriptor->natts;

	if (slot->tts_tupleDescriptor->natts != natts)
		elog(ERROR, "row of %d columns in a spool of %d",
			 slot->tts_tupleDescriptor->natts, natts);
	if (TTS_IS_VIRTUAL(slot) || TTS_IS_MINIMALTUPLE(slot))
		return ExecFetchSlotMinimalTuple(slot, should_free);

	slot_getallattrs(slot);
	ExecClearTuple(row);
	memcpy(row->tts_values, slot->tts_values, sizeof(Datum) * natts);
	memcpy(row->tts_isnull, slot->tts_isnull, sizeof(bool) * natts);
	ExecStoreVirtualTuple(row);
	return ExecFetchSlotMinimalTuple(row, should_free);
}

/*
 * Reads the row at the address into the slot, one for minimal tuples, where
 * it stays until the slot is used again.
 */
void
etl_spool_get(EtlSpool *spool, uint64 address, TupleTableSlot *slot)
{
	int segment = (int) (address >> OFFSET_BITS);
	off_t offset = (off_t) (address & ((UINT64CONST(1) << OFFSET_BITS) - 1));
	MinimalTuple tuple;
	uint32 len;

	spool->at_end = false;
	if (BufFileSeek(spool->file, segment, offset, SEEK_SET) != 0)
		elog(ERROR, "could not go to a row in a temporary file");
	read_exactly(spool, &len, sizeof(len));
	if (len < SizeofMinimalTupleHeader || len > MaxAllocSize)
		elog(ERROR, "no row at address " UINT64_FORMAT " of a temporary file",
			 address);

	/* The slot frees it, whenever that is. */
	tuple = MemoryContextAlloc(slot->tts_mcxt, len);
	tuple->t_len = len;
	read_exactly(spool, (char *) tuple + sizeof(len), len - sizeof(len));
	ExecStoreMinimalTuple(tuple, slot, true);
}

/* Reads so many bytes, or throws. */
static void
read_exactly(EtlSpool *spool, void *to, Size size)
{
	Size got = BufFileRead(spool->file, to, size);

	if (got != size)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read from temporary file: read only %zu of %zu bytes",
						got, size)));
}

/* Removes the file.  Slots keep what they hold. */
void
etl_spool_free(EtlSpool *spool)
{
	BufFileClose(spool->file);
	ExecDropSingleTupleTableSlot(spool->row);
	pfree(spool);
}
