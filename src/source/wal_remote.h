/*-------------------------------------------------------------------------
 *
 * wal_remote.h
 *	  What the files that read another server's changes share.
 *
 * They run in a reader process, which does nothing else: what they remember
 * lives as long as the process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_WAL_REMOTE_H
#define ETL_WAL_REMOTE_H

#include "source/remote.h"
#include "source/wal.h"

/* A table there that is followed. */
typedef struct EtlPublished
{
	Oid relid;		  /* there; hash key of wal_pgoutput.c, too */
	const char *name; /* with its schema, ready for SQL */
	const EtlWalTable *table;
} EtlPublished;

/* What the session there must be like, whoever logs in. */
extern void etl_remote_settle(EtlRemote *remote);

/*
 * in wal_publication.c: the tables as they are there, and the publication that
 * has them, which is made, or changed, where that helps.  Sets is_lost, and
 * throws, if there is none any more.
 */
extern List *etl_published_tables(EtlRemote *remote, List *tables);
extern const char *etl_publication(EtlRemote *remote, const char *own_name,
								   List *published, bool is_new, bool *is_lost);
extern void etl_publication_drop(EtlRemote *remote, const char *own_name);

/*
 * in wal_pgoutput.c: messages of pgoutput become changes.  To be called in a
 * transaction.  The bytes may be changed, and so may the one behind them.
 */
extern void etl_pgoutput_init(EtlChangeWriter *writer, List *published);
extern void etl_pgoutput_message(char *data, int len, XLogRecPtr lsn);

/* Is a transaction of the source coming?  The end of the last one. */
extern bool etl_pgoutput_in_xact(void);
extern XLogRecPtr etl_pgoutput_last_commit(void);

/* The type here of what has a type there: text, if that means nothing here. */
extern Oid etl_type_of_remote(Oid type_there);

/* in wal_local.c: nobody wants changes any more; ends the process */
pg_noreturn extern void etl_wal_leave(void);

#endif /* ETL_WAL_REMOTE_H */
