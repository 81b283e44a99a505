/*-------------------------------------------------------------------------
 *
 * execute.h
 *	  A job's command, executed at top level by a background worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_EXECUTE_H
#define ETL_EXECUTE_H

#include "postgres.h"

/* What is to be done in the transaction that ends the command. */
typedef void (*EtlExecuteEnd)(void *arg);

/* in execute.c */
extern void etl_execute(const char *command, EtlExecuteEnd end, void *arg);
extern void etl_execute_clean_up(void);

#endif /* ETL_EXECUTE_H */
