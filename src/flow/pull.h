/*-------------------------------------------------------------------------
 *
 * pull.h
 *	  What the files of the incremental pull share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_PULL_H
#define ETL_PULL_H

#include "flow/flow.h"
#include "source/site.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

typedef enum EtlSafety
{
	ETL_SAFETY_AUTO,
	ETL_SAFETY_HORIZON,
	ETL_SAFETY_LOCK_WAIT,
	ETL_SAFETY_LAG,
	ETL_SAFETY_NONE
} EtlSafety;

typedef enum EtlApply
{
	ETL_APPLY_APPEND,
	ETL_APPLY_UPSERT,
	ETL_APPLY_SCD1,
	ETL_APPLY_SCD2,
	ETL_APPLY_SCD3
} EtlApply;

typedef enum EtlNullCursor
{
	ETL_NULL_CURSOR_ERROR,
	ETL_NULL_CURSOR_IGNORE,
	ETL_NULL_CURSOR_INCLUDE
} EtlNullCursor;

/* The words of these, in the order of the enums; in pull_call.c. */
extern const char *const etl_safety_words[];
extern const char *const etl_apply_words[];

/* One side of a range; a value of NULL is no limit. */
typedef struct EtlBound
{
	const char *value;
	bool inclusive;
} EtlBound;

typedef struct EtlRange
{
	EtlBound low;
	EtlBound high;
} EtlRange;

/* The column that tells old rows from new ones. */
typedef struct EtlCursor
{
	const char *name;
	AttrNumber attnum;
	Oid type; /* not a domain */
	int32 typmod;
	const char *sql; /* its name at the site */
	bool is_time;	 /* timestamptz, timestamp or date */
	bool is_number;	 /* integers and numeric */

	/* values at both ends that are no place in an order, or NULL */
	const char *least;
	const char *greatest;
	bool asks_ends; /* and the source's server knows them as such */
} EtlCursor;

/* Who keeps a pull from reading on. */
typedef struct EtlHolder
{
	int pid;		   /* 0: a prepared transaction */
	const char *gid;   /* of that */
	const char *since; /* start of its transaction, or NULL */
} EtlHolder;

/*
 * A pull: what the call says, then what is found out on the way.  A call is
 * remembered with the watermark, so that a drain or a backfill can repeat it.
 */
typedef struct EtlPull
{
	/* the call */
	const char *pipeline;
	Oid source_id;
	Oid target_id;
	const char *cursor_column; /* or NULL: flag_column */
	const char *flag_column;
	List *keys; /* of C strings */
	EtlApply apply;
	Jsonb *apply_options;
	EtlSafety safety;		/* as chosen, once etl_safety_choose() has run */
	EtlSafety typed_safety; /* as it was typed */
	Interval *lookback;
	Interval *lag;
	Interval *max_wait;
	const char *initial_value;
	const char *end_value;
	int64 batch_rows; /* 0: no limit */
	EtlNullCursor null_cursor;
	bool is_backfill; /* the range is given, the watermark stays */
	bool is_drain;	  /* batch_rows is not the call's own */
	Oid function;	  /* the SQL function that was called */

	/* found out */
	EtlWatermark watermark; /* as it was before */
	EtlRun *run;
	Relation source;
	Relation target;
	EtlSite *site;
	EtlCursor cursor;
	List *columns;	/* that are read, of names in the source's order */
	List *unread;	/* names of the others */
	EtlRange range; /* to be read */
	bool has_rows;	/* is there any row in it? */
	bool more;		/* batch_rows has cut it */
	bool skipped;	/* gave up waiting: nothing is read */
	int64 null_cursor_rows;
	const char *limit;		/* that safety has set, exclusive */
	const char *reach;		/* what it can become by waiting, or NULL */
	EtlHolder holder;		/* who has set it, or was waited for */
	bool has_holder;		/* is it so now? */
	bool has_waited;		/* or begun to; for the holder */
	TimestampTz wait_start; /* of the first wait, or 0 */
	int64 waited_us;
	const char *way;	   /* how rows were written */
	Tuplestorestate *rows; /* all columns of the source, or NULL: the range */
	const char *merge_detail; /* JSON of a merge, or NULL */
} EtlPull;

/* in incremental_pull.c: a run, and the row that is returned of it */
extern void etl_pull_prepare(EtlPull *pull);
extern void etl_pull_run(EtlPull *pull);
extern Datum etl_pull_result(EtlPull *pull, TupleDesc desc);

/* in pull_call.c: what a call says, as arguments and as it is remembered */
extern EtlPull *etl_pull_from_args(FunctionCallInfo fcinfo);
extern EtlPull *etl_pull_from_watermark(const EtlWatermark *watermark);
extern void etl_pull_check_call(EtlPull *pull);
extern void etl_pull_append_call(StringInfo json, EtlPull *pull);
extern void etl_json_append_names(StringInfo json, List *names);
extern char *etl_json_text(Jsonb *object, const char *key);

/* in pull_columns.c: which columns are read, and what has changed */
extern void etl_pull_set_columns(EtlPull *pull);
extern AttrNumber etl_pull_column(EtlPull *pull, const char *name,
								  const char *parameter);
extern void etl_pull_append_columns(StringInfo json, EtlPull *pull);
extern const char *etl_cursor_type_name(Oid source, const char *column);

/* in pull_range.c: from the watermark to the range that is to be read */
extern void etl_pull_set_cursor(EtlPull *pull);
extern void etl_pull_find_range(EtlPull *pull);
extern char *etl_pull_condition(EtlPull *pull);
extern void etl_pull_append_edge(StringInfo sql, EtlPull *pull,
								 const char *tail);
extern const char *etl_pull_reached(EtlPull *pull);

/* in pull_safety.c: how far it is safe to read */
extern void etl_safety_choose(EtlPull *pull);
extern void etl_safety_set_limit(EtlPull *pull);

/*
 * family: the tables and everything that inherits from them; lineage: these
 * and what they are partitions of.  Whoever inserts into a partitioned table
 * has the values before it locks the partition.
 */
#define ETL_SQL_FAMILY                                                       \
	"WITH RECURSIVE family(relid) AS (SELECT pg_catalog.unnest(%s)"          \
	" UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i"                 \
	" JOIN family f ON i.inhparent OPERATOR(pg_catalog.=) f.relid),"         \
	" lineage(relid) AS (SELECT relid FROM family"                           \
	" UNION SELECT i.inhparent FROM pg_catalog.pg_inherits i"                \
	" JOIN lineage l ON i.inhrelid OPERATOR(pg_catalog.=) l.relid"           \
	" JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid" \
	" AND c.relispartition) "

/*
 * The start of what a backend does, in terms of pg_stat_activity.
 *
 * Of several transactions in one message of a client, or chained by COMMIT AND
 * CHAIN, each one starts when the message came.  Between two of them none is in
 * progress, and the start of the message counts.
 *
 * The transaction of a client's backend that is idle is the backend's own: it
 * catches up with what others have invalidated, and writes nothing.  Its start
 * is that of the last message, however long ago that was.
 */
#define ETL_SQL_START                                                \
	"CASE WHEN a.backend_type <> 'client backend' THEN a.xact_start" \
	" WHEN a.state IN ('active', 'fastpath function call')"          \
	" THEN coalesce(a.xact_start, a.query_start)"                    \
	" WHEN a.state <> 'idle' THEN a.xact_start END"

/* in pull_wait.c: who keeps a pull from reading on */
extern bool etl_wait_for_writers(EtlPull *pull);
extern bool etl_wait_for_holder(EtlPull *pull);
extern bool etl_wait_has_prepared(EtlPull *pull);
extern bool etl_wait_for_prepared(EtlPull *pull);
extern int etl_wait_holder(EtlPull *pull);
extern int etl_wait_pid(const char *text);

/* in pull_append.c: rows into a table, as they are */
extern void etl_pull_append(EtlPull *pull);

/*
 * in pull_options.c: from the call to one of the merge family, which is an
 * EtlMergeCall of flow/merge.h.  The words of apply_options are the parameters
 * of the merge function that stands beside pull->function.
 */
struct EtlMergeCall;

extern List *etl_pull_option_columns(EtlPull *pull);
extern void etl_pull_check_options(EtlPull *pull);
extern void etl_pull_merge_call(EtlPull *pull, struct EtlMergeCall *call);

/* in pull_merge.c: rows through a merge; fills the counts of pull->run */
extern void etl_pull_merge(EtlPull *pull);

/* in pull_flags.c: takes the rows whose flag is set into pull->rows */
extern void etl_pull_take_flagged(EtlPull *pull);

#endif /* ETL_PULL_H */
