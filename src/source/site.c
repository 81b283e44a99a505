/*-------------------------------------------------------------------------
 *
 * site.c
 *	  Which site a source has.
 *
 * A new kind of site is one new file and one line in the table below.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "source/site.h"

/* The first that says yes serves. */
static const EtlSiteOps *const sites[] = {
	&etl_site_remote_ops,
	&etl_site_local_ops,
};

static char **only_row(EtlSite *site, List *answer);

EtlSite *
etl_site_open(Relation source)
{
	EtlSite *site;
	int i = 0;

	while (!sites[i]->serves(source))
	{
		if (++i == lengthof(sites))
			elog(ERROR, "no site serves relation \"%s\"",
				 RelationGetRelationName(source));
	}
	site = sites[i]->open(source);
	site->ops = sites[i];
	site->source = source;
	return site;
}

List *
etl_site_ask(EtlSite *site, const char *sql, const char *columns)
{
	List *answer = site->ops->ask(site, sql, (int) strlen(columns));

	etl_site_check_answer(site, answer, columns);
	return answer;
}

List *
etl_site_ask_server(EtlSite *site, const char *sql, const char *columns)
{
	List *answer;

	Assert(site->shows_writers || site->is_remote);
	answer = site->ops->ask_server(site, sql, (int) strlen(columns));
	etl_site_check_answer(site, answer, columns);
	return answer;
}

char **
etl_site_ask_row(EtlSite *site, const char *sql, const char *columns)
{
	return only_row(site, etl_site_ask(site, sql, columns));
}

char **
etl_site_ask_server_row(EtlSite *site, const char *sql, const char *columns)
{
	return only_row(site, etl_site_ask_server(site, sql, columns));
}

static char **
only_row(EtlSite *site, List *answer)
{
	if (list_length(answer) != 1)
		etl_site_bad_answer(site);
	return linitial(answer);
}

void
etl_site_check_answer(EtlSite *site, List *answer, const char *columns)
{
	ListCell *lc;

	foreach(lc, answer)
	{
		char **row = lfirst(lc);

		for (int i = 0; columns[i] != '\0'; i++)
			if (columns[i] == 'v' && row[i] == NULL)
				etl_site_bad_answer(site);
	}
}

void
etl_site_bad_answer(EtlSite *site)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("the server of relation %s has given an unexpected answer",
					site->from)));
}

bool
etl_site_yes(const char *value)
{
	return value != NULL && strcmp(value, "t") == 0;
}

void
etl_site_begin(EtlSite *site)
{
	site->ops->begin(site);
}

int64
etl_site_rows(EtlSite *site, const char *where, const AttrNumber *attnums,
			  int natts, EtlRowCall call, void *arg)
{
	site->planned = -1;
	return site->ops->rows(site, where, attnums, natts, call, arg);
}

void
etl_site_close(EtlSite *site)
{
	site->ops->close(site);
}
