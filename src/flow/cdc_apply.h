/*-------------------------------------------------------------------------
 *
 * cdc_apply.h
 *	  From a stream of changes to the targets of a pipeline.
 *
 * Knows nothing of processes: whoever calls has a reader, waits, and decides
 * what an error means for the process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_CDC_APPLY_H
#define ETL_CDC_APPLY_H

#include "flow/cdc.h"
#include "source/rows.h"
#include "utils/hsearch.h"

/* What names mean while changes are applied. */
#define ETL_CDC_SEARCH_PATH "pg_catalog, pg_temp"

/* The transactions that a copy has seen: those of a pg_snapshot. */
typedef struct EtlCopySnapshot
{
	uint64 xmin;
	uint64 xmax;
	int nxip;
	uint64 *xip; /* in order */
} EtlCopySnapshot;

/* Changes of a table that wait in the dead letters. */
typedef struct EtlCdcLetters EtlCdcLetters;

/* One table of a pipeline, with its sink. */
typedef struct EtlCdcFollowed
{
	EtlCdcTable *table;
	EtlApply *apply;
	EtlCopySnapshot *copy;		/* NULL: no transaction was seen by a copy */
	XLogRecPtr copy_end;		/* what commits later was not; 0: not known */
	EtlCopySnapshot *copied_as; /* while the stream catches up with a copy */
	bool is_in_batch;
	bool is_pending; /* its sink was given what it has not written */
	bool is_stale;	 /* the target may have changed: begin with a new state */
	bool is_ready;	 /* its sink has looked at the target */
	EtlCdcLetters *letters; /* NULL: none wait, or they are of no interest */
	int64 before_letter; /* changes are later than those with smaller numbers */
} EtlCdcFollowed;

typedef enum EtlCdcDoing
{
	ETL_CDC_WAITS,
	ETL_CDC_APPLIES,
	ETL_CDC_COPIES
} EtlCdcDoing;

typedef enum EtlCdcResult
{
	ETL_CDC_NOTHING, /* to do for now */
	ETL_CDC_DONE,	 /* something; there may be more */
	ETL_CDC_ENDED,	 /* the stream */
	ETL_CDC_BEHIND,	 /* the stream is to be applied up to copy_after first */
	ETL_CDC_CHANGED	 /* the pipeline, or its tables: to be loaded anew */
} EtlCdcResult;

/* How many commits may wait for the disk before some are taken together. */
#define ETL_CDC_COMMITS 256

/* A position of the source and the local commit that made it last. */
typedef struct EtlCdcCommit
{
	XLogRecPtr position;
	XLogRecPtr local;
} EtlCdcCommit;

typedef struct EtlCdcApplier
{
	int64 pipeline_id;
	EtlChangeReader *reader;

	/* as they were last read, and what belongs to them */
	MemoryContext table_context;
	EtlCdcPipeline *pipeline; /* its place: as this process knows it */
	List *tables;			  /* of EtlCdcFollowed */
	HTAB *by_number;

	/* the stream */
	bool in_source_xact;
	bool passes; /* this transaction is skipped */
	EtlSourceXact xact;
	const char *source_db; /* of another server */
	XLogRecPtr position;   /* all that ends before it was taken */
	XLogRecPtr applied;	   /* and committed, or was of no interest */
	XLogRecPtr saved;	   /* what the row says */
	EtlCdcCommit commits[ETL_CDC_COMMITS];
	int ncommits;
	XLogRecPtr last_local; /* the end of our last commit */

	/* the batch */
	EtlCdcDoing doing;
	bool in_xact; /* a transaction of ours is open */
	List *order;  /* of EtlCdcFollowed, as they were first changed */
	MemoryContext batch_context;
	int64 xacts;
	int64 changes[5];
	int64 added;		 /* since memory was last looked at */
	bool any_order;		 /* a table of the batch is in_order */
	List *overtaken;	 /* dead letters, see cdc_letters.c */
	bool holds_triggers; /* AFTER triggers fire when all is written */
	TimestampTz source_time;

	/* copies that refer to tables that are followed */
	XLogRecPtr copy_after; /* they are made when this is applied */
	List *kept;			   /* to be applied behind the copy */
	Size kept_bytes;

	/* the search for a change that fails; positions of commit records */
	XLogRecPtr search_until; /* one transaction at a time, up to this one */
	XLogRecPtr alone;		 /* this one change by change */
	bool copies_alone;		 /* row by row */
	Jsonb *failed_change;	 /* was found */
	bool cannot_read;		 /* it is in what the reader was sent */
	MemoryContext error_context;
} EtlCdcApplier;

/* in cdc_apply.c; no transaction is open, unless it is said */
extern EtlCdcApplier *etl_cdc_applier_create(int64 pipeline_id);
extern bool etl_cdc_applier_load(EtlCdcApplier *applier);
extern void etl_cdc_applier_follow(EtlCdcApplier *applier,
								   EtlChangeReader *reader);
extern EtlCdcResult etl_cdc_apply(EtlCdcApplier *applier);
extern bool etl_cdc_save(EtlCdcApplier *applier, bool force);
extern void etl_cdc_wal_ended(EtlCdcApplier *applier, XLogRecPtr end);
extern XLogRecPtr etl_cdc_flushed(EtlCdcApplier *applier);
extern void etl_cdc_applier_abort(EtlCdcApplier *applier);
extern bool etl_cdc_is_wanted(const EtlCdcPipeline *pipeline);

/* in cdc_apply.c, for cdc_copy.c and cdc_error.c: a transaction is open */
extern void etl_cdc_begin(EtlCdcApplier *applier, EtlCdcDoing doing);
extern void etl_cdc_add(EtlCdcApplier *applier, EtlCdcFollowed *followed,
						const EtlChangeEvent *event);
extern void etl_cdc_flush_one(EtlCdcFollowed *followed);
extern void etl_cdc_flush(EtlCdcApplier *applier);
extern EtlCdcPipeline *etl_cdc_finish(EtlCdcApplier *applier);
extern void etl_cdc_store_progress(EtlCdcApplier *applier,
								   EtlCdcPipeline *pipeline);
extern void etl_cdc_commit(EtlCdcApplier *applier);
extern void etl_cdc_commit_position(EtlCdcApplier *applier,
									EtlCdcPipeline *pipeline);
extern bool etl_cdc_take_until(EtlCdcApplier *applier, XLogRecPtr end);
extern void etl_cdc_hold_triggers(EtlCdcApplier *applier);
extern void etl_cdc_fire_triggers(EtlCdcApplier *applier);

/* in cdc_followed.c */
extern EtlApply *etl_cdc_sink(const EtlCdcTable *table, MemoryContext context);
extern EtlCdcFollowed *etl_cdc_follow_table(EtlCdcApplier *applier,
											EtlCdcTable *table);
extern void etl_cdc_begin_table(EtlCdcApplier *applier,
								EtlCdcFollowed *followed);
extern void etl_cdc_end_table(EtlCdcApplier *applier, EtlCdcFollowed *followed);
extern void etl_cdc_discard(EtlCdcFollowed *followed);

/* in cdc_copy.c */
extern EtlSourceRelation *etl_cdc_describe(Relation source,
										   AttrNumber **attnums);
extern EtlCopySnapshot *etl_copy_snapshot_parse(const char *text);
extern bool etl_copy_snapshot_sees(const EtlCopySnapshot *snapshot,
								   TransactionId xid);
extern bool etl_cdc_refers_to(const EtlCdcTable *one, const EtlCdcTable *other);
extern EtlCdcResult etl_cdc_copy(EtlCdcApplier *applier);

/* in cdc_catch_up.c; a transaction is open */
extern bool etl_cdc_must_catch_up(const EtlCdcApplier *applier, List *group);
extern bool etl_cdc_catch_up(EtlCdcApplier *applier, List *group,
							 const char *snapshot, XLogRecPtr end);
extern void etl_cdc_keep(EtlCdcApplier *applier, EtlCdcFollowed *followed,
						 const EtlChangeEvent *event);
extern void etl_cdc_apply_kept(EtlCdcApplier *applier);

/* in cdc_copy_remote.c: the source of a copy on another server */
typedef struct EtlRemoteTable EtlRemoteTable;

extern EtlRemoteTable *etl_cdc_remote_open(const EtlCdcPipeline *pipeline,
										   const EtlRemoteTable *beside,
										   const char *source);
extern EtlSourceRelation *etl_cdc_remote_relation(EtlRemoteTable *table);
extern List *etl_cdc_remote_computed(const EtlRemoteTable *table);
extern char *etl_cdc_remote_snapshot(List *tables, XLogRecPtr *end);
extern void etl_cdc_remote_rows(EtlRemoteTable *table, EtlRowCall call,
								void *arg);
extern void etl_cdc_remote_close(EtlRemoteTable *table);

/* in cdc_letters.c */
extern void etl_cdc_letters_load(EtlCdcApplier *applier,
								 EtlCdcFollowed *followed);
extern void etl_cdc_letters_add(EtlCdcApplier *applier, Oid target,
								int64 letter_id, Jsonb *payload);
extern void etl_cdc_letters_check(EtlCdcFollowed *followed,
								  const EtlChangeEvent *event);
extern void etl_cdc_overtake(EtlCdcApplier *applier, EtlCdcFollowed *followed,
							 const EtlChangeEvent *event);
extern void etl_cdc_letters_copied(EtlCdcApplier *applier,
								   EtlCdcFollowed *followed, XLogRecPtr lsn);
extern void etl_cdc_letters_write(EtlCdcApplier *applier);

/* in cdc_error.c */
extern ErrorData *etl_cdc_try(EtlCdcApplier *applier, EtlCdcFollowed *followed,
							  const EtlChangeEvent *event);
extern bool etl_cdc_add_alone(EtlCdcApplier *applier, EtlCdcFollowed *followed,
							  const EtlChangeEvent *event);
extern void etl_cdc_reject(EtlReject *reject, const ErrorData *error);
extern void etl_cdc_context(void *arg);
extern bool etl_cdc_search(EtlCdcApplier *applier, const ErrorData *error);
extern void etl_cdc_write_error(EtlCdcApplier *applier, const ErrorData *error,
								EtlCdcState state);
pg_noreturn extern void etl_cdc_refuse_obstacle(const char *pipeline,
												const EtlChangeEvent *event);

#endif /* ETL_CDC_APPLY_H */
