/*-------------------------------------------------------------------------
 *
 * remote.h
 *	  What the files of the remote site share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_REMOTE_H
#define ETL_REMOTE_H

#include "source/site.h"

#include "foreign/foreign.h"
#include "libpq-fe.h"

/*
 * A connection to a server.  It ends with the resource owner that was current
 * when it was made, if not before; what libpq has given out goes with it, so
 * that an error in between leaks nothing.
 */
typedef struct EtlRemote
{
	PGconn *conn;
	PGresult *result; /* the last one, or NULL */
	char *buffer;	  /* the last piece of a COPY, or NULL */
	char *server;	  /* its name */
	bool has_fd;	  /* counted as a file descriptor */
	ResourceOwner owner;
	struct EtlRemote *next;
} EtlRemote;

typedef struct EtlRemoteSite
{
	EtlSite pub;
	EtlRemote *remote;
	char **names;	  /* of the columns there, not quoted, at attnum - 1 */
	bool *is_missing; /* the columns that are not there, likewise */
	bool can_lock;	  /* the source there can be locked by a statement */
} EtlRemoteSite;

/* in remote.c */
extern void etl_remote_begin(EtlSite *site);

/* in remote_connection.c */
extern EtlRemote *etl_remote_connect(ForeignServer *server,
									 UserMapping *mapping);
extern void etl_remote_disconnect(EtlRemote *remote);
extern PGresult *etl_remote_query(EtlRemote *remote, const char *sql,
								  ExecStatusType expected);
extern void etl_remote_clear(EtlRemote *remote);
extern int etl_remote_copy_data(EtlRemote *remote);

/* in remote_copy.c */
extern int64 etl_remote_rows(EtlSite *site, const char *where,
							 const AttrNumber *attnums, int natts,
							 EtlRowCall call, void *arg);

#endif /* ETL_REMOTE_H */
