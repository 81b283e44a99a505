/*-------------------------------------------------------------------------
 *
 * cdc.h
 *	  Pipelines that follow the changes of a source: what is stored of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_CDC_H
#define ETL_CDC_H

#include "ledger/ledger.h"
#include "nodes/pg_list.h"
#include "sink/apply.h"

/* The words are in cdc_table.c, in this order. */
typedef enum EtlCdcState
{
	ETL_CDC_STOPPED,  /* nobody has started it, or it was stopped */
	ETL_CDC_STARTING, /* it is to run: its slot is being made, say */
	ETL_CDC_COPYING,  /* tables are read as they were */
	ETL_CDC_RUNNING,
	ETL_CDC_PAUSED, /* by an error: reason and hint say which */
	ETL_CDC_LOST	/* the slot is gone: etl_cdc_resync() */
} EtlCdcState;

typedef enum EtlCdcOnError
{
	ETL_CDC_PAUSE,
	ETL_CDC_DEAD_LETTER
} EtlCdcOnError;

/* One row of etl_patterns.cdc_pipeline.  Times that are not known are 0. */
typedef struct EtlCdcPipeline
{
	int64 pipeline_id;
	const char *name;
	Oid role;
	const char *server; /* NULL: this database */
	bool snapshot;		/* initial, or none */
	EtlCdcOnError on_error;
	int batch_transactions;
	EtlCdcState state;
	const char *slot_name;
	bool has_slot;
	XLogRecPtr applied; /* all that ends before this is in the targets */
	TimestampTz applied_time;
	TimestampTz source_time; /* of the last commit that was applied */
	int64 transactions;
	int64 changes[5]; /* by EtlEventKind */
	const char *error_code;
	const char *error_message;
	const char *error_hint;
	Jsonb *error_change;
	TimestampTz error_at;
	XLogRecPtr skip; /* the transaction that ends here is not applied */
	TimestampTz created_at;
	TimestampTz retained_alert_at; /* the slot keeps too much WAL since then */
	ItemPointerData place;
} EtlCdcPipeline;

typedef enum EtlCdcTableState
{
	ETL_CDC_TABLE_NEW, /* to be copied first */
	ETL_CDC_TABLE_FOLLOWED
} EtlCdcTableState;

/* One row of etl_patterns.cdc_table. */
typedef struct EtlCdcTable
{
	int64 pipeline_id;
	const char *pipeline;
	const char *source;
	Oid source_relid; /* InvalidOid: on another server */
	Oid role;
	Oid target;
	const char *apply;
	Jsonb *apply_options;
	Jsonb *columns;
	const char *row_filter;
	EtlCdcTableState state;
	const char *copy_snapshot; /* transactions in it are not applied */
	int64 rows_copied;
	TimestampTz copied_at;
	ItemPointerData place;
} EtlCdcTable;

/* in cdc_table.c */
extern EtlCdcPipeline *etl_cdc_by_name(const char *name, bool lock);
extern EtlCdcPipeline *etl_cdc_of_caller(const char *name, bool lock);
extern EtlCdcPipeline *etl_cdc_by_id(int64 pipeline_id, bool lock);
extern EtlCdcPipeline *etl_cdc_try_lock(int64 pipeline_id);
extern List *etl_cdc_pipelines(void);
extern char *etl_cdc_slot_name(const EtlCdcPipeline *pipeline);
extern void etl_cdc_insert(EtlCdcPipeline *pipeline);
extern void etl_cdc_update(EtlCdcPipeline *pipeline);
extern void etl_cdc_delete(EtlCdcPipeline *pipeline);
extern List *etl_cdc_tables(int64 pipeline_id);
extern void etl_cdc_table_insert(EtlCdcTable *table);
extern void etl_cdc_table_update(EtlCdcTable *table);
extern void etl_cdc_table_delete(EtlCdcTable *table);

#endif /* ETL_CDC_H */
