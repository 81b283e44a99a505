/*-------------------------------------------------------------------------
 *
 * apply.h
 *	  How changes land: one sink per table of a pipeline.
 *
 * Changes of a batch are added in their order, across transactions, and
 * written at the latest by flush, all in the caller's transaction.  A sink
 * may fold what it was given: all that counts is what the target holds when
 * flush has returned.  Sinks of one batch are flushed in the order in which
 * their tables were first changed, deletes of all before inserts of any where
 * a sink can tell them apart (see etl_apply_flush_all()).
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_APPLY_H
#define ETL_APPLY_H

#include "base/base.h"
#include "executor/execdesc.h"
#include "ledger/ledger.h"
#include "nodes/pg_list.h"
#include "source/change_event.h"
#include "utils/jsonb.h"

/* What a conflict with the target's rows means. */
typedef enum EtlApplyConflict
{
	ETL_CONFLICT_FAILS,		/* row missing, or there already */
	ETL_CONFLICT_IS_APPLIED /* the source wins: upsert, and delete if there */
} EtlApplyConflict;

/* What becomes of which column; made once per source description. */
typedef struct EtlApplyMap EtlApplyMap;

typedef struct EtlApplyCounts
{
	int64 inserted;
	int64 updated;
	int64 deleted;
	int64 truncated;
	int64 ignored; /* by the row filter, or by a sink that takes inserts only */
} EtlApplyCounts;

typedef struct EtlApply EtlApply;

typedef struct EtlApplyOps
{
	const char *name; /* the word of apply */
	LOCKMODE lock;	  /* of the target in a batch; 0: RowExclusiveLock */
	bool has_rows; /* the target has the last state of each row of the source */

	/* throws if the sink cannot serve this target with these options */
	void (*check)(EtlApply *apply);
	/* the same for a source that is known by now; or NULL */
	void (*check_source)(EtlApply *apply, const EtlSourceRelation *relation);
	void (*begin)(EtlApply *apply);
	/* of a READ xact says when and where the copy's snapshot was taken */
	void (*add)(EtlApply *apply, const EtlSourceXact *xact,
				const EtlChangeEvent *event);
	void (*flush)(EtlApply *apply);
	void (*end)(EtlApply *apply);
} EtlApplyOps;

/* One table of a pipeline and its sink. */
struct EtlApply
{
	const EtlApplyOps *ops;
	const char *pipeline;
	const char *source;	   /* as the user wrote it */
	Oid source_relid;	   /* InvalidOid: on another server */
	const char *source_db; /* its database there; NULL: this one, or not known */
	Oid target_relid;
	Jsonb *options;
	Jsonb *columns;			/* target column -> source column, or expression */
	const char *row_filter; /* over the source's columns, or NULL */
	Relation target;		/* open in a batch, and for check */
	EtlApplyCounts counts;

	/*
	 * Set by begin: no change of this table may pass one of another.  The
	 * caller flushes the others before it adds one, and this before it adds one
	 * of another.
	 */
	bool in_order;

	/*
	 * Set by the caller while it has a level of AFTER triggers open around the
	 * flushes of all tables of a batch, so that rows may refer to rows of a
	 * table that is flushed later.
	 */
	bool defers_triggers;
	MemoryContext batch_context; /* reset by the caller after flush */
	void *state;				 /* of the sink; lives in context */
	MemoryContext context;		 /* as long as the table is in the pipeline */
	Size bytes;					 /* that the batch takes now, about */
	EtlApplyMap *map;			 /* of apply_map.c */
	bool truncates;				 /* the batch does, before all that is left */
	bool restarts_sequences;	 /* and so */
	XLogRecPtr truncated_at;	 /* if nothing has come since */
};

extern const EtlApplyOps etl_apply_mirror;
extern const EtlApplyOps etl_apply_append;
extern const EtlApplyOps etl_apply_changelog;
extern const EtlApplyOps etl_apply_function;
extern const EtlApplyOps etl_apply_scd2; /* of the flows: cdc_scd2.c */

/* in apply.c */
extern const EtlApplyOps *etl_apply_ops(const char *word); /* throws */
extern void etl_apply_check_options(EtlApply *apply, const char *const *names);
extern char *etl_apply_option(EtlApply *apply, const char *name);
extern void etl_apply_check_privilege(EtlApply *apply, AclMode mode);

/*
 * Truncates the targets of those that ask for it, in one statement, so that
 * foreign keys between them are no hindrance.  To be called before the tables
 * of a batch are flushed; a sink that finds it not done does it alone.
 */
extern void etl_apply_truncate(List *applies);

/* ------------------------------------------------------------------ */
/* in apply_map.c: from the source's columns to the target's            */

/*
 * The map of a description; kept until the description changes, and then until
 * it changes again, for the sink to write what waits.  Columns go by
 * name unless the pipeline says otherwise; values are assigned as INSERT would,
 * with a cast where types differ.  The columns are looked at when they are
 * first asked for, so that a sink of other columns may filter, too.
 *
 * Expressions run as the current user and with the current search_path, which
 * the caller has made safe, and under the active snapshot.
 */
extern EtlApplyMap *etl_apply_map(EtlApply *apply,
								  const EtlSourceRelation *relation);
/*
 * Are all columns known that the filter looks at, in a row without those that
 * are unchanged, or with those of the key only?
 */
extern bool etl_apply_filter_knows(const EtlApplyMap *map,
								   const bool *unchanged, bool key_only);
/* Does the filter let a row pass?  True without one, null is false. */
extern bool etl_apply_filter(EtlApply *apply, EtlApplyMap *map, HeapTuple row);
/*
 * A row in the target's layout.  is_set says which columns the source has;
 * values not logged (unchanged) and columns of other origin are not set.
 */
extern void etl_apply_row(EtlApply *apply, EtlApplyMap *map, HeapTuple row,
						  const bool *unchanged, bool key_only, Datum *values,
						  bool *nulls, bool *is_set);
/* May the tuples of the source go into the target as they are? */
extern bool etl_apply_map_is_identity(EtlApply *apply, EtlApplyMap *map);
/* Is the whole row the source's identity? */
extern bool etl_apply_is_full(const EtlApplyMap *map);
/* The target's columns (attnums) that have a value from the source, in order. */
extern AttrNumber *etl_apply_columns(EtlApply *apply, EtlApplyMap *map, int *n);
extern const char *etl_apply_source_of(const EtlApplyMap *map,
									   AttrNumber attnum);
/*
 * The target's columns (attnums) that find a row by the source's identity, in
 * order; throws if the source has none, or a column of it is nowhere.
 */
extern AttrNumber *etl_apply_keys(EtlApply *apply, EtlApplyMap *map, int *n);

#endif /* ETL_APPLY_H */
