/*-------------------------------------------------------------------------
 *
 * cdc_check.h
 *	  What must hold of the tables of a pipeline before they are stored.
 *
 * All of these throw, with what is wrong and a way out.  The rights that count
 * are those of the pipeline's owner, whoever calls.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_CDC_CHECK_H
#define ETL_CDC_CHECK_H

#include "flow/cdc.h"
#include "source/remote.h"

/* in cdc_source.c: where changes come from */
extern EtlRemote *etl_cdc_connect(const EtlCdcPipeline *pipeline);
extern void etl_cdc_check_server(const char *server, Oid role);
extern void etl_cdc_find_source(const EtlCdcPipeline *pipeline,
								EtlCdcTable *table, const char *text);
extern Oid etl_cdc_source_relid(const char *text);
extern XLogRecPtr etl_cdc_end_of_record(XLogRecPtr next);
extern XLogRecPtr etl_cdc_end_of_wal(void);

/* in cdc_check.c: where they go, and how */
extern void etl_cdc_check_table(const EtlCdcPipeline *pipeline,
								const EtlCdcTable *table, bool with_source);
extern void etl_cdc_check_circle(const EtlCdcTable *table);

#endif /* ETL_CDC_CHECK_H */
