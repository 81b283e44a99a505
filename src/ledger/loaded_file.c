/*-------------------------------------------------------------------------
 *
 * loaded_file.c
 *	  Which files are in which table.
 *
 * A file is its content: the SHA-256 of its bytes on disk.  Path, size and
 * modification time only spare the reading.
 *
 * Two sessions that load the same file into the same table must not both
 * find it missing.  Files of equal content have equal size, so that looking
 * at a file takes a lock on (target, size), until the transaction ends; the
 * lock tag has 16 bits for the size's hash, so that now and then files that
 * have nothing in common wait for each other.  What a session that we waited
 * for has committed is read with a snapshot of its own, which makes it
 * visible in REPEATABLE READ too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "common/hashfn.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ledger/ledger.h"

/* Columns of etl_patterns.loaded_file */
enum
{
	FILE_ID,
	FILE_TARGET,
	FILE_ROLE,
	FILE_PATH,
	FILE_SIZE_BYTES,
	FILE_MODIFIED_AT,
	FILE_CONTENT_HASH,
	FILE_RUN_ID,
	FILE_ROWS_LOADED,
	FILE_ROWS_REJECTED,
	FILE_LOADED_AT,
	FILE_LAYOUT,
	FILE_NATTS
};

/* A scan over loaded files. */
typedef struct FileScan
{
	Relation rel;
	Snapshot snapshot;
	SysScanDesc scan;
} FileScan;

static void
begin_scan(FileScan *scan, const char *index, ScanKey keys, int nkeys)
{
	scan->rel = etl_ledger_open("loaded_file", FILE_NATTS, RowExclusiveLock);
	scan->snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan->scan = systable_beginscan(scan->rel, etl_ledger_relid(index), true,
									scan->snapshot, nkeys, keys);
}

static void
end_scan(FileScan *scan)
{
	systable_endscan(scan->scan);
	UnregisterSnapshot(scan->snapshot);
	table_close(scan->rel, NoLock);
}

/* The files of the target with the given size, and with_time also that time. */
static void
begin_scan_of_size(FileScan *scan, const EtlLoadedFile *file, bool with_time)
{
	ScanKeyData keys[3];

	ScanKeyInit(&keys[0], FILE_TARGET + 1, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(file->target));
	ScanKeyInit(&keys[1], FILE_SIZE_BYTES + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(file->size_bytes));
	ScanKeyInit(&keys[2], FILE_MODIFIED_AT + 1, BTEqualStrategyNumber,
				F_TIMESTAMPTZ_EQ, TimestampTzGetDatum(file->modified_at));
	begin_scan(scan, "loaded_file_target_size_idx", keys, with_time ? 3 : 2);
}

static Datum
column(FileScan *scan, HeapTuple tuple, int column)
{
	bool null;

	/* The columns that are read here are all NOT NULL. */
	return heap_getattr(tuple, column + 1, RelationGetDescr(scan->rel), &null);
}

/*
 * Is this file in its target?  Path, size and time may tell; otherwise a file
 * of the same size is a reason to compare contents.  Waits for other sessions
 * that are loading a file of this size into this target.
 */
EtlFileKnown
etl_loaded_file_look(const EtlLoadedFile *file)
{
	EtlFileKnown known = ETL_FILE_NEW;
	uint16 size_hash = (uint16)
		hash_bytes((const unsigned char *) &file->size_bytes,
				   sizeof(file->size_bytes));
	FileScan scan;
	HeapTuple tuple;

	LockDatabaseObject(etl_ledger_relid("loaded_file"), file->target, size_hash,
					   ExclusiveLock);

	begin_scan_of_size(&scan, file, true);
	while (known != ETL_FILE_LOADED &&
		   HeapTupleIsValid(tuple = systable_getnext(scan.scan)))
	{
		char *path = TextDatumGetCString(column(&scan, tuple, FILE_PATH));

		known = strcmp(path, file->path) == 0 ? ETL_FILE_LOADED :
												ETL_FILE_SAME_SIZE;
		pfree(path);
	}
	end_scan(&scan);
	if (known != ETL_FILE_NEW)
		return known;

	begin_scan_of_size(&scan, file, false);
	if (HeapTupleIsValid(systable_getnext(scan.scan)))
		known = ETL_FILE_SAME_SIZE;
	end_scan(&scan);
	return known;
}

/* Is a file with this content_hash in the target? */
bool
etl_loaded_file_has_content(const EtlLoadedFile *file)
{
	bool found;
	FileScan scan;
	ScanKeyData keys[2];
	text *hash = cstring_to_text_with_len((const char *) file->content_hash,
										  ETL_SHA256_LEN);

	ScanKeyInit(&keys[0], FILE_TARGET + 1, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(file->target));
	ScanKeyInit(&keys[1], FILE_CONTENT_HASH + 1, BTEqualStrategyNumber,
				F_BYTEAEQ, PointerGetDatum(hash));
	begin_scan(&scan, "loaded_file_target_content_idx", keys, 2);
	found = HeapTupleIsValid(systable_getnext(scan.scan));
	end_scan(&scan);
	pfree(hash);
	return found;
}

/* Write the row of a file that a run has loaded. */
void
etl_loaded_file_record(const EtlLoadedFile *file, EtlRun *run)
{
	Datum values[FILE_NATTS] = {0};
	bool nulls[FILE_NATTS] = {0};
	Relation rel;

	values[FILE_ID] = Int64GetDatum(file->file_id);
	values[FILE_TARGET] = ObjectIdGetDatum(file->target);
	values[FILE_ROLE] = ObjectIdGetDatum(run->role);
	values[FILE_PATH] = CStringGetTextDatum(file->path);
	values[FILE_SIZE_BYTES] = Int64GetDatum(file->size_bytes);
	values[FILE_MODIFIED_AT] = TimestampTzGetDatum(file->modified_at);
	values[FILE_CONTENT_HASH] = PointerGetDatum(
		cstring_to_text_with_len((const char *) file->content_hash,
								 ETL_SHA256_LEN));
	values[FILE_RUN_ID] = Int64GetDatum(run->run_id);
	values[FILE_ROWS_LOADED] = Int64GetDatum(file->rows_loaded);
	values[FILE_ROWS_REJECTED] = Int64GetDatum(file->rows_rejected);
	values[FILE_LOADED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[FILE_LAYOUT] = PointerGetDatum(file->layout);

	rel = etl_ledger_open("loaded_file", FILE_NATTS, RowExclusiveLock);
	etl_ledger_insert(rel, values, nulls);
	table_close(rel, NoLock);
}

/*
 * How the records of a file that was loaded are to be read: a copy of its
 * layout, or NULL if there is no such file.
 */
Jsonb *
etl_loaded_file_layout(int64 file_id)
{
	Jsonb *layout = NULL;
	ScanKeyData key;
	FileScan scan;
	HeapTuple tuple;

	ScanKeyInit(&key, FILE_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(file_id));
	begin_scan(&scan, "loaded_file_pkey", &key, 1);
	tuple = systable_getnext(scan.scan);
	if (HeapTupleIsValid(tuple))
		layout = DatumGetJsonbPCopy(column(&scan, tuple, FILE_LAYOUT));
	end_scan(&scan);
	return layout;
}
