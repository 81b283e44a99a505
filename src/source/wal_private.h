/*-------------------------------------------------------------------------
 *
 * wal_private.h
 *	  What the files that decode this server's WAL share.
 *
 * They run in a reader process, which does nothing else: what they remember
 * lives as long as the process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_WAL_PRIVATE_H
#define ETL_WAL_PRIVATE_H

#include "replication/logical.h"
#include "source/wal.h"
#include "utils/relcache.h"

/* A table that has turned up in the WAL. */
typedef struct EtlWalRelation
{
	Oid relid; /* hash key */
	bool is_valid;
	bool is_ancestor;			 /* of a partition that has turned up */
	Oid source;					 /* reported as this; InvalidOid: not at all */
	EtlSourceRelation *relation; /* NULL: not at all */
	bool is_raw;				 /* rows need not be formed anew */
	AttrNumber *attnums;		 /* of the columns of relation, here */
} EtlWalRelation;

/*
 * in wal_tables.c: which tables are reported, and how.  To be called while a
 * change is decoded only, except for the first; the writer gets descriptions
 * of what is new.
 */
extern void etl_wal_tables_init(List *tables);
extern EtlWalRelation *etl_wal_relation(Relation rel, EtlChangeWriter *writer);
extern EtlSourceRelation *etl_wal_former_relation(Oid relid);
extern HeapTuple etl_wal_row(const EtlWalRelation *known, Relation rel,
							 HeapTuple row);

/* in wal_decode.c: make a decoding context write changes */
extern void etl_wal_decode_init(LogicalDecodingContext *context,
								EtlChangeWriter *writer);

/* The end of the last transaction that was written; 0 if none was. */
extern XLogRecPtr etl_wal_last_commit(void);

/* in wal_spool.c: changes of a transaction that has not ended yet */
typedef struct EtlWalSpool EtlWalSpool;

extern void etl_wal_spool_init(void);
extern EtlWalSpool *etl_wal_spool_open(MemoryContext parent);
extern EtlChangeWriter *etl_wal_spool_writer(EtlWalSpool *spool);
extern void etl_wal_spool_abort(EtlWalSpool *spool, TransactionId xid);
extern bool etl_wal_spool_send(EtlWalSpool *spool, EtlChangeWriter *queue,
							   const EtlSourceXact *xact, bool *sent);
extern void etl_wal_spool_close(EtlWalSpool *spool);

/* in wal_local.c: nobody wants changes any more; ends the process */
pg_noreturn extern void etl_wal_leave(void);

#endif /* ETL_WAL_PRIVATE_H */
