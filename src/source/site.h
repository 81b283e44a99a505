/*-------------------------------------------------------------------------
 *
 * site.h
 *	  Where the rows of a source are, and asking there.
 *
 * A table, a view and most foreign tables are asked in this database, through
 * SQL.  A foreign table of postgres_fdw is asked where its rows are, over a
 * connection of its own: then not only the rows but also the clock, the open
 * transactions and the order of the cursor's values are those of that server.
 * Whoever reads a range writes its SQL with the names that the site gives and
 * with operators of pg_catalog, and need not know which of the two it is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_SITE_H
#define ETL_SITE_H

#include "source/rows.h"

typedef struct EtlSite EtlSite;

typedef struct EtlSiteOps
{
	const char *name; /* as a run's detail calls it */
	bool (*serves)(Relation source);
	EtlSite *(*open)(Relation source);
	List *(*ask)(EtlSite *site, const char *sql, int natts);
	List *(*ask_server)(EtlSite *site, const char *sql, int natts);
	void (*begin)(EtlSite *site);
	int64 (*rows)(EtlSite *site, const char *where, const AttrNumber *attnums,
				  int natts, EtlRowCall call, void *arg);
	void (*close)(EtlSite *site);
} EtlSiteOps;

struct EtlSite
{
	const EtlSiteOps *ops;
	Relation source;
	const char *from;	  /* the source's name there, ready for SQL */
	const char **columns; /* its columns' names likewise, at attnum - 1 */
	bool is_remote;		  /* it is asked over a connection */
	bool is_local;		  /* all its rows are written in this database */
	bool shows_writers;	  /* sessions there show who may still add rows */
	bool is_wrapped; /* a wrapper may pass conditions to what is no PostgreSQL */
	const char *tables; /* SQL there: an oid[] of the tables it reads */
	double planned;		/* rows that are coming: an estimate, or -1 */
};

/*
 * in site.c
 *
 * The caller has a lock on the source, and opens and closes a site in one
 * subtransaction.  An error closes what it holds.
 */

/*
 * Finds the site of a source.  One that leaves this database checks before
 * that the caller may read the source; here each query does.
 */
extern EtlSite *etl_site_open(Relation source);

/*
 * The rows of a query as a list of arrays of C strings, one for each column,
 * NULL for SQL NULL; in the current memory context.  Values are text in the
 * form of the types' output functions with ISO dates, UTC and all digits,
 * whatever the session's settings are.  Each call has a snapshot of its own,
 * younger than the call, until etl_site_begin().
 *
 * Another server may answer anything.  So the caller says what it relies on: a
 * letter for each column, 'v' for a value, 'n' for a value or NULL.  It gets
 * that, in the encoding of the database, or an error.  What a value looks like
 * is for the caller to check.
 */
extern List *etl_site_ask(EtlSite *site, const char *sql, const char *columns);

/*
 * The same about the server itself, which must be PostgreSQL: its clock, its
 * sessions and their locks, whoever the caller is, where rights allow.  Names
 * that are not qualified are those of pg_catalog.
 */
extern List *etl_site_ask_server(EtlSite *site, const char *sql,
								 const char *columns);

/* The same for a query that yields exactly one row. */
extern char **etl_site_ask_row(EtlSite *site, const char *sql,
							   const char *columns);
extern char **etl_site_ask_server_row(EtlSite *site, const char *sql,
									  const char *columns);

/* Throws if that is not the answer; for the sites. */
extern void etl_site_check_answer(EtlSite *site, List *answer,
								  const char *columns);
pg_noreturn extern void etl_site_bad_answer(EtlSite *site);

/* Is a boolean value of an answer true? */
extern bool etl_site_yes(const char *value);

/*
 * What is asked and read from now on is not older than now; on a remote
 * server it is one snapshot.
 */
extern void etl_site_begin(EtlSite *site);

/*
 * Hands over the rows that meet a condition (NULL: all), with the values of
 * the given columns in the given order and in the types that the source has
 * here.  The call may write to this database.  Returns their number.
 */
extern int64 etl_site_rows(EtlSite *site, const char *where,
						   const AttrNumber *attnums, int natts,
						   EtlRowCall call, void *arg);

extern void etl_site_close(EtlSite *site);

/* The sites, in their own files; for site.c. */
extern const EtlSiteOps etl_site_remote_ops;
extern const EtlSiteOps etl_site_local_ops;

/* in base_tables.c */
extern List *etl_base_tables(Relation source, bool *all_here, bool *any_foreign);

#endif /* ETL_SITE_H */
