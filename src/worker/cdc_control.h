/*-------------------------------------------------------------------------
 *
 * cdc_control.h
 *	  What the functions that define and control pipelines share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_CDC_CONTROL_H
#define ETL_CDC_CONTROL_H

#include "flow/cdc.h"
#include "fmgr.h"

/* in cdc_functions.c */
extern EtlCdcPipeline *etl_cdc_to_change(FunctionCallInfo fcinfo,
										 const char *function);
extern void etl_cdc_store(EtlCdcPipeline *pipeline);
extern List *etl_cdc_match(const EtlCdcPipeline *pipeline, const char *source,
						   Oid target);

/* in cdc_server.c: what must hold of this server, the other one and the owner */
extern void etl_cdc_check_settings(const EtlCdcPipeline *pipeline, int elevel);
extern void etl_cdc_check_owner(const EtlCdcPipeline *pipeline);
extern void etl_cdc_check_workers(const EtlCdcPipeline *pipeline);
extern void etl_cdc_check_remote(const EtlCdcPipeline *pipeline);

/* in cdc_slot.c */
extern bool etl_cdc_owns_slot(const EtlCdcPipeline *pipeline);
extern bool etl_cdc_holds_slot(const EtlCdcPipeline *pipeline);
extern void etl_cdc_disown_slots(void);
extern void etl_cdc_end_process(const EtlCdcPipeline *pipeline);
extern void etl_cdc_drop_slot_at_commit(const EtlCdcPipeline *pipeline);

#endif /* ETL_CDC_CONTROL_H */
