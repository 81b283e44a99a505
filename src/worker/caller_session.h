/*-------------------------------------------------------------------------
 *
 * caller_session.h
 *	  The session of a client that runs jobs, kept apart from theirs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_CALLER_SESSION_H
#define ETL_CALLER_SESSION_H

#include "compat.h"
#include "nodes/pg_list.h"

/* How a session was when a client called us. */
typedef struct EtlCallerSession
{
	Oid role;
	List *settings;		 /* those that the session has set */
	bool has_temp;		 /* temporary objects */
	MemoryContext where; /* all of this is */
} EtlCallerSession;

/* in caller_session.c */
extern EtlCallerSession *etl_caller_session_save(void);
extern void etl_caller_session_hide(const EtlCallerSession *session);
extern void etl_caller_session_restore(const EtlCallerSession *session);
extern bool etl_caller_session_may_drop_temp(const EtlCallerSession *session);
extern void etl_caller_session_drop_temp(const EtlCallerSession *session);

#endif /* ETL_CALLER_SESSION_H */
