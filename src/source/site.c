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
etl_site_ask(EtlSite *site, const char *sql)
{
	return site->ops->ask(site, sql);
}

List *
etl_site_ask_server(EtlSite *site, const char *sql)
{
	Assert(site->shows_writers || site->is_remote);
	return site->ops->ask_server(site, sql);
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
