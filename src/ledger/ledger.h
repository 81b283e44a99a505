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

#include "base/base.h"
#include "utils/jsonb.h"

/* ------------------------------------------------------------------ */
/* in run.c                                                             */

/*
 * One execution.  A flow counts into it while it runs; the counts must add
 * up: rows_read = inserted + updated + deleted + unchanged + rejected.
 */
typedef struct EtlRun
{
	int64		run_id;
	const char *operation;
	Oid			target;
	Oid			role;
	TimestampTz started_at;
	int64		rows_read;
	int64		rows_inserted;
	int64		rows_updated;
	int64		rows_deleted;
	int64		rows_unchanged;
	int64		rows_rejected;
	int64		bytes_read;
	const char *watermark_low;
	const char *watermark_high;
} EtlRun;

extern EtlRun *etl_run_start(const char *operation, const char *name,
							 Oid target);
extern void etl_run_finish(EtlRun *run, const char *status, Jsonb *detail);

/* ------------------------------------------------------------------ */
/* in dead_letter.c                                                     */

/* Where a rejected row came from. */
typedef struct EtlOrigin
{
	const char *source_name;
	int64		file_id;		/* 0: not from a file */
	int64		line_no;		/* 0: unknown; likewise the next two */
	int64		row_no;
	int64		byte_offset;	/* -1: unknown */
	const char *raw_record;		/* server encoding, or NULL */
	const char *raw_bytes;		/* when it has no text form, or NULL */
	size_t		raw_bytes_len;
	Jsonb	   *payload;
} EtlOrigin;

typedef struct EtlDeadLetters EtlDeadLetters;

extern EtlDeadLetters *etl_dead_letters_open(EtlRun *run);
extern void etl_dead_letters_add(EtlDeadLetters *letters,
								 const EtlOrigin *origin,
								 const EtlReject *reject);
extern void etl_dead_letters_flush(EtlDeadLetters *letters);
extern void etl_dead_letters_close(EtlDeadLetters *letters);

/* ------------------------------------------------------------------ */
/* in loaded_file.c                                                     */

#endif							/* ETL_LEDGER_H */
