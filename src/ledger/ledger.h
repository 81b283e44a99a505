/*-------------------------------------------------------------------------
 *
 * ledger.h
 *	  What ran, how far, what was rejected, which files are in.
 *
 * The state tables are written by these functions only, as the extension's
 * owner, in the caller's transaction, and stamped with the calling role.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_LEDGER_H
#define ETL_LEDGER_H

#include "access/htup.h"
#include "base/base.h"
#include "ledger/progress.h"
#include "nodes/lockoptions.h"
#include "storage/lockdefs.h"
#include "utils/jsonb.h"

/* ------------------------------------------------------------------ */
/* in ledger.c: for the files of this room, and for flows' own queries   */

typedef struct EtlLedgerScope
{
	Oid user;
	int security_context;
	int guc_level;
} EtlLedgerScope;

extern void etl_ledger_enter(EtlLedgerScope *scope);
extern void etl_ledger_leave(EtlLedgerScope *scope);
extern bool etl_ledger_is_ours(Oid role);
extern Oid etl_ledger_relid(const char *name);
extern Relation etl_ledger_open(const char *name, int natts, LOCKMODE lockmode);
extern TupleDesc etl_ledger_desc(Relation rel);
extern int64 etl_ledger_next_id(const char *sequence);
extern void etl_ledger_insert(Relation rel, Datum *values, bool *nulls);
extern HeapTuple etl_ledger_lock(Relation rel, HeapTuple tuple,
								 LockWaitPolicy wait);
extern void etl_ledger_replace(Relation rel, ItemPointer place, Datum *values,
							   bool *nulls);
extern void etl_ledger_delete(Relation rel, ItemPointer place);
extern void etl_ledger_insert_into(const char *name, int natts, Datum *values,
								   bool *nulls);
extern void etl_ledger_replace_in(const char *name, int natts,
								  ItemPointer place, Datum *values, bool *nulls);
extern void etl_ledger_delete_from(const char *name, int natts,
								   ItemPointer place);
extern void etl_ledger_set_text(Datum *value, bool *null, const char *text);
extern void etl_ledger_set_time(Datum *values, bool *nulls, int column,
								TimestampTz time);
extern char *etl_ledger_get_text(const Datum *values, const bool *nulls,
								 int column);
extern TimestampTz etl_ledger_get_time(const Datum *values, const bool *nulls,
									   int column);
extern int etl_ledger_get_word(Datum value, const char *const *words);
extern const char *etl_ledger_clip(const char *text);
extern void etl_ledger_set_int64(Datum *value, bool *null, int64 number,
								 int64 unknown);

/* ------------------------------------------------------------------ */
/* in run.c                                                             */

/*
 * One execution.  A flow counts into it while it runs; the counts must add
 * up: rows_read = inserted + updated + deleted + unchanged + rejected.
 */
struct EtlRun
{
	int64 run_id;
	const char *operation;
	const char *name;
	Oid target;
	Oid role;
	TimestampTz started_at;
	int64 rows_read;
	int64 rows_inserted;
	int64 rows_updated;
	int64 rows_deleted;
	int64 rows_unchanged;
	int64 rows_rejected;
	int64 bytes_read;
	const char *watermark_low;
	const char *watermark_high;
	EtlProgress progress;
};

extern EtlRun *etl_run_prepare(const char *operation, const char *name,
							   Oid target);
extern void etl_run_start(EtlRun *run);
extern void etl_run_finish(EtlRun *run, const char *status, Jsonb *detail);

/* ------------------------------------------------------------------ */
/* in dead_letter.c                                                     */

/* Where a rejected row came from. */
typedef struct EtlOrigin
{
	const char *source_name;
	int64 file_id; /* 0: not from a file */
	int64 line_no; /* 0: unknown; likewise the next two */
	int64 row_no;
	int64 byte_offset;		/* -1: unknown */
	const char *raw_record; /* server encoding, or NULL */
	const char *raw_bytes;	/* when it has no text form, or NULL */
	size_t raw_bytes_len;
	Jsonb *payload;
} EtlOrigin;

typedef struct EtlDeadLetters EtlDeadLetters;

extern EtlDeadLetters *etl_dead_letters_open(EtlRun *run);
extern int64 etl_dead_letters_add(EtlDeadLetters *letters,
								  const EtlOrigin *origin,
								  const EtlReject *reject);
extern bool etl_dead_letters_full(const EtlDeadLetters *letters);
extern void etl_dead_letters_flush(EtlDeadLetters *letters);
extern void etl_dead_letters_close(EtlDeadLetters *letters);

/* A letter that waits; its payload may be NULL, and is gone after the call. */
typedef void (*EtlLetterCall)(void *arg, int64 letter_id, Jsonb *payload);

extern void etl_dead_letters_pending(Oid target, const char *operation,
									 const char *source_name,
									 EtlLetterCall call, void *arg);
extern void etl_dead_letter_note(int64 letter_id, const char *name,
								 const char *value);

/* ------------------------------------------------------------------ */
/* in loaded_file.c                                                     */

typedef struct EtlLoadedFile
{
	int64 file_id;
	Oid target;
	const char *path;
	int64 size_bytes;
	TimestampTz modified_at;
	uint8 content_hash[ETL_SHA256_LEN];
	int64 rows_loaded;
	int64 rows_rejected;
	Jsonb *layout;
} EtlLoadedFile;

typedef enum EtlFileKnown
{
	ETL_FILE_NEW,	   /* no loaded file of this size */
	ETL_FILE_LOADED,   /* same path, size and time: is loaded */
	ETL_FILE_SAME_SIZE /* its content must decide */
} EtlFileKnown;

extern EtlFileKnown etl_loaded_file_look(const EtlLoadedFile *file);
extern bool etl_loaded_file_has_content(const EtlLoadedFile *file);
extern void etl_loaded_file_record(const EtlLoadedFile *file, EtlRun *run);
extern Jsonb *etl_loaded_file_layout(int64 file_id);

/* ------------------------------------------------------------------ */
/* in watermark.c                                                       */

typedef struct EtlWatermark
{
	const char *pipeline;
	bool exists;
	Oid role;
	Oid source;				   /* InvalidOid: not read yet */
	const char *cursor_column; /* likewise NULL */
	const char *value;
	TimestampTz updated_at;
	int64 run_id; /* 0: set by hand */
	Jsonb *detail;
	Oid target;			   /* InvalidOid: not read yet */
	ItemPointerData place; /* of the row, if it exists */
} EtlWatermark;

extern void etl_watermark_read(EtlWatermark *watermark, const char *pipeline,
							   bool lock);
extern void etl_watermark_move(const EtlWatermark *watermark);
extern void etl_watermark_forget(const EtlWatermark *watermark);

#endif /* ETL_LEDGER_H */
