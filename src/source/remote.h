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

#include "fmgr.h"
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
	bool streams;	  /* changes: that ends with the connection */
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

/* How the values of a column come. */
typedef struct EtlRemoteColumn EtlRemoteColumn;

/*
 * Makes a Datum of a value's bytes, which may be changed, and so may the four
 * bytes before them; the byte behind them must be the same afterwards.
 */
typedef Datum (*EtlRemoteDecode)(EtlRemoteColumn *column, char *data, int len);

struct EtlRemoteColumn
{
	const char *name;
	EtlRemoteDecode decode;
	bool as_text;	   /* is cast to text there */
	bool checks_null;  /* a domain, which may not like NULL */
	bool receives;	   /* the function is a receive function */
	FmgrInfo function; /* or the input function */
	Oid io_param;
	int32 typmod;

	/* what a value that is not passed to the function must keep to */
	int max_length; /* bytes that are never too many, or -1 */
	int min_length; /* and those that are too few */
	int scale;		/* of a numeric, or -1 */
	int max_digits; /* before its decimal point */
};

/* in remote.c */
extern void etl_remote_begin(EtlSite *site);
extern bool etl_is_postgres_fdw(Oid fdwid);

/* in remote_connection.c */
extern EtlRemote *etl_remote_connect(ForeignServer *server,
									 UserMapping *mapping);
extern EtlRemote *etl_remote_connect_stream(ForeignServer *server,
											UserMapping *mapping);
extern void etl_remote_disconnect(EtlRemote *remote);
extern PGresult *etl_remote_query(EtlRemote *remote, const char *sql,
								  ExecStatusType expected);
extern void etl_remote_clear(EtlRemote *remote);
extern int etl_remote_copy_data(EtlRemote *remote);
extern int etl_remote_stream_data(EtlRemote *remote);
extern void etl_remote_stream_wait(EtlRemote *remote, long timeout);
extern bool etl_remote_stream_send(EtlRemote *remote, const char *data, int len);

/* Rows to be copied from a server. */
typedef struct EtlRemoteRows
{
	EtlRemote *remote;
	const char *from;	  /* the table there, ready for SQL */
	const char **columns; /* likewise */
	const char *name;	  /* of the table, for errors */
	const char *where;	  /* or NULL */
	TupleDesc desc;		  /* the columns, with their types here */
} EtlRemoteRows;

/* in remote_copy.c */
extern int64 etl_remote_copy_rows(const EtlRemoteRows *rows, EtlRowCall call,
								  void *arg);
extern int64 etl_remote_rows(EtlSite *site, const char *where,
							 const AttrNumber *attnums, int natts,
							 EtlRowCall call, void *arg);

/* in remote_decode.c */
extern void etl_remote_choose_decoder(EtlRemoteColumn *column,
									  Form_pg_attribute att, Oid remote_type,
									  int32 remote_typmod);
extern Datum etl_remote_decode_null(EtlRemoteColumn *column, bool *isnull);

#endif /* ETL_REMOTE_H */
