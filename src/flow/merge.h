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
} EtlMergeNames;

/* in merge_spec.c */
extern EtlMerge *etl_merge_open(const char *operation, Oid target, Oid source,
								const EtlMergeNames *names, bool versioned);

/* in merge_source.c */
extern void etl_merge_set_input(EtlMerge *merge, const EtlMergeNames *names,
								const char *tombstones);

/* in merge_flow.c: the words of the options, in the order of their enums */
extern const char *const etl_absent_words[];
extern const char *const etl_close_words[];
extern const char *const etl_duplicates_words[];
extern const char *const etl_null_keys_words[];
extern const char *const etl_late_words[];
extern double etl_arg_fraction(FunctionCallInfo fcinfo, int arg,
							   const char *parameter);
extern void etl_merge_execute(EtlMerge *merge);
extern void etl_merge_close(EtlMerge *merge);

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
