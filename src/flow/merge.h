/*-------------------------------------------------------------------------
 *
 * merge.h
 *	  What the files of the merge family share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_FLOW_MERGE_H
#define ETL_FLOW_MERGE_H

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "sink/merge.h"

/*
 * What a call says about its columns, by name; lists of C strings.  The
 * columns that both sides have and that get no role otherwise are tracked,
 * or PLAIN if "tracked" was given.
 */
typedef struct EtlMergeNames
{
	List *keys;
	bool tracked_given;
	List *tracked;
	List *overwrite;
	List *fixed;
	List *scope;
	Jsonb *previous; /* {"column": "column with its former value"} */
	const char *sequence_by;
	const char *changed_at;
	const char *delete_when; /* expression over a row of the source */
	const char *valid_from;
	const char *valid_to;
	const char *is_current; /* NULL: there is none */
	const char *effective_at;
	const char *open_end;

	/* for a merge of a part of its source */
	bool columns_given;
	List *columns;		   /* only these, the keys and sequence_by are read */
	const char *condition; /* over a row of the source, or NULL */
	const char *order_by;  /* column of the source, or NULL */
	Tuplestorestate *rows; /* read in its place, as it has them; or NULL */

	/* for rows that have no source but rows, which is open then */
	TupleDesc rows_desc;	/* or NULL */
	const char *rows_label; /* where they came from, for messages */
	const char *step_by;	/* column with the steps, or NULL: none */
	const char *lacks;		/* column with the columns that a row lacks */
} EtlMergeNames;

/*
 * A call of the merge family: what its arguments say.  Zero is the default of
 * all that one of its functions has no parameter for.
 */
typedef struct EtlMergeCall
{
	const char *operation; /* its name without the prefix */
	Oid target;
	Oid source;
	EtlMergeNames names;
	bool versioned;
	bool (*decide)(EtlMerge *merge, EtlGroup *group);
	void (*check)(EtlMerge *merge); /* what needs the relations; or NULL */
	EtlAbsent absent;
	EtlDuplicates duplicates;
	EtlNullKeys null_keys;
	EtlLate late;
	bool strict;
	bool closed_bounds;
	bool change_log;
	bool keep_tombstones;
	bool dry_run;
	double max_delete_fraction; /* -1: none */
	const char *tombstones;		/* found on the way: their table, or NULL */
} EtlMergeCall;

/* in merge_spec.c */
extern EtlMerge *etl_merge_open(Oid target, Oid source,
								const EtlMergeNames *names, bool versioned);
extern AttrNumber etl_merge_source_column(const EtlMerge *merge,
										  const char *name);
extern const char *etl_merge_source_name(const EtlMerge *merge);

/* in merge_source.c */
extern void etl_merge_set_input(EtlMerge *merge, const EtlMergeNames *names,
								const char *tombstones);
extern void etl_check_expression(const char *text, const char *parameter,
								 const char *example);

/* in merge_flow.c: the words of the options, in the order of their enums */
extern const char *const etl_absent_words[];
extern const char *const etl_close_words[];
extern const char *const etl_duplicates_words[];
extern const char *const etl_null_keys_words[];
extern const char *const etl_late_words[];
extern double etl_arg_fraction(FunctionCallInfo fcinfo, int arg,
							   const char *parameter);
extern void etl_merge_read_relations(FunctionCallInfo fcinfo,
									 EtlMergeCall *call);
extern EtlMerge *etl_merge_begin(EtlMergeCall *call, EtlRun *run);
extern void etl_merge_perform(const EtlMergeCall *call, EtlMerge *merge);
extern void etl_merge_execute(EtlMerge *merge);
extern void etl_merge_fill_run(EtlMerge *merge);
extern char *etl_merge_detail(EtlMerge *merge);
extern void etl_merge_release(EtlMerge *merge);
extern void etl_merge_close(EtlMerge *merge);

/*
 * in upsert.c and scd2.c: from the arguments of the functions, whoever has
 * made the fcinfo
 */
extern void etl_upsert_read(FunctionCallInfo fcinfo, EtlMergeCall *call);
extern void etl_scd3_read(FunctionCallInfo fcinfo, EtlMergeCall *call);
extern void etl_scd2_read(FunctionCallInfo fcinfo, EtlMergeCall *call);

/* in change_log.c */
extern void etl_change_log_execute(EtlMerge *merge);

/* ------------------------------------------------------------------ */
/* in tombstone.c                                                       */

/*
 * The table with the tombstones has the target's key columns and its sequence
 * column under their own names.
 */
extern const char *etl_tombstones_open(EtlMerge *merge, bool create);
extern void etl_tombstones_append_join(StringInfo sql, EtlMerge *merge,
									   const char *tombstones);
extern void etl_tombstones_flush(EtlMerge *merge);

#endif /* ETL_FLOW_MERGE_H */
