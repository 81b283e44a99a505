/*-------------------------------------------------------------------------
 *
 * flow.h
 *	  What the files of the SQL-callable patterns share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_FLOW_H
#define ETL_FLOW_H

#include "fmgr.h"
#include "ledger/ledger.h"
#include "lib/stringinfo.h"
#include "sink/sink.h"
#include "source/feed.h"
#include "source/row_form.h"
#include "source/source.h"
#include "utils/array.h"

/* ------------------------------------------------------------------ */
/* in format.c                                                          */

typedef enum EtlHeader
{
	ETL_HEADER_MATCH,
	ETL_HEADER_SKIP,
	ETL_HEADER_NONE
} EtlHeader;

/* So many parameters describe a format. */
#define ETL_FORMAT_ARGS 9

/* How the bytes of a file become fields. */
typedef struct EtlFormat
{
	EtlCsvDialect dialect;
	EtlHeader header;
	EtlCompression compression;
	int skip_lines;
} EtlFormat;

extern void etl_format_from_args(EtlFormat *format, FunctionCallInfo fcinfo,
								 int first);
extern void etl_dialect_set(EtlCsvDialect *dialect, const char *delimiter,
							const char *quote, const char *escape,
							List *null_strings, bool trim, const char *encoding);
extern void etl_refuse_too_many_fields(int nfields);
extern EtlCsvReader *etl_format_open(const EtlFormat *format, EtlStream *stream,
									 List **names);

/* ------------------------------------------------------------------ */
/* in layout.c                                                          */

/*
 * How the records of a file are to be read and written: what has to be
 * remembered so that one of them can be loaded again, alone.
 */
typedef struct EtlLayout
{
	EtlCsvDialect dialect;
	List *columns; /* of names, in the order of the fields */
	EtlConflictAction on_conflict;
	List *keys; /* of names */
} EtlLayout;

/* The words of on_conflict, in the order of EtlConflictAction. */
extern const char *const etl_conflict_words[];

extern Jsonb *etl_layout_to_jsonb(const EtlLayout *layout);
extern void etl_layout_from_jsonb(EtlLayout *layout, Jsonb *jsonb);
extern AttrNumber *etl_layout_attnums(const EtlLayout *layout, Relation target);
extern EtlSinkOptions etl_layout_sink_options(const EtlLayout *layout,
											  bool guarded,
											  EtlLeftOut *left_out);
extern List *etl_insertable_columns(Relation target);

/* ------------------------------------------------------------------ */
/* in load.c                                                            */

typedef enum EtlOnError
{
	ETL_ON_ERROR_ABORT,
	ETL_ON_ERROR_SKIP,
	ETL_ON_ERROR_DEAD_LETTER
} EtlOnError;

/* The run's detail shows so many rejected records. */
#define ETL_FIRST_REJECTS 10

/* One of them. */
typedef struct EtlFirstReject
{
	int64 file_no;
	int64 row_no;
	char *json;
} EtlFirstReject;

/*
 * A load: records go through split, convert and write into one table.  The
 * feed and what names it change from file to file, the rest stays.
 */
typedef struct EtlLoad
{
	EtlRun *run;
	EtlOnError on_error;
	int64 reject_limit; /* -1: none */
	EtlSink *sink;
	EtlDeadLetters *letters; /* with ETL_ON_ERROR_DEAD_LETTER */
	int64 rejected_by_category[ETL_NUM_CATEGORIES];
	EtlFirstReject first_rejects[ETL_FIRST_REJECTS]; /* in the files' order */
	int num_first_rejects;
	MemoryContext context; /* lives as long as the load */

	/* The file that is being read. */
	const char *source_name;
	int64 file_id;
	int64 file_no; /* counts the files */
	EtlFeed *feed;
	EtlConverter *converter;
	AttrNumber *attnums; /* the columns of the fields */
	int nfields;
	Datum *constants; /* what the other columns get, if each row gets it */
	bool *constant_nulls;
	EtlRowForm *row_form; /* or NULL: the sink takes values only */
	char *row_space;	  /* of the batch, for rows to come */
	Size row_space_left;

	/* The records of the sink's batch, and the one that is being read. */
	EtlCsvRecord *records;
	EtlCsvRecord record;
	bool in_record;
	const EtlReject *thrown; /* names column and value in an error context */
	int batch_rejects;
} EtlLoad;

extern void etl_load_begin(EtlLoad *load, EtlRun *run, Relation target,
						   EtlOnError on_error, const AttrNumber *attnums,
						   int nfields, const EtlSinkOptions *sink_options);
extern void etl_load_set_columns(EtlLoad *load, const AttrNumber *attnums,
								 int nfields);
extern void etl_load_records(EtlLoad *load);
extern void etl_load_first_rejects(const EtlLoad *load, StringInfo json);
extern void etl_load_end(EtlLoad *load);

/* ------------------------------------------------------------------ */
/* in after_load.c                                                      */

typedef enum EtlAfterLoad
{
	ETL_AFTER_LOAD_KEEP,
	ETL_AFTER_LOAD_DELETE,
	ETL_AFTER_LOAD_MOVE
} EtlAfterLoad;

extern void etl_after_load_check(EtlAfterLoad action, const char *move_to,
								 const EtlFileInfo *file);
extern void etl_after_load_at_commit(EtlAfterLoad action, const char *move_to,
									 const EtlFileInfo *file);

/* ------------------------------------------------------------------ */
/* in args.c                                                            */

extern bool etl_arg_is_null(FunctionCallInfo fcinfo, int arg);
extern char *etl_arg_text(FunctionCallInfo fcinfo, int arg);
extern char *etl_arg_name(FunctionCallInfo fcinfo, int arg);
extern bool etl_arg_bool(FunctionCallInfo fcinfo, int arg);
extern List *etl_arg_names(FunctionCallInfo fcinfo, int arg);
extern List *etl_arg_texts(FunctionCallInfo fcinfo, int arg);
extern void etl_names_of_object(Jsonb *object, const char *parameter,
								List **from, List **to);
extern void etl_refuse_null(FunctionCallInfo fcinfo, int arg,
							const char *parameter);
extern void etl_refuse_negative(double value, const char *parameter);
extern TupleDesc etl_result_desc(FunctionCallInfo fcinfo);
extern void etl_check_select_privilege(Oid relid);
extern void etl_check_file_privilege(bool write);

#endif /* ETL_FLOW_H */
