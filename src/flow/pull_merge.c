#include "postgres.h"

#include "flow/pull.h"

List *
etl_pull_option_columns(EtlPull *pull)
{
	return NIL;
}

void
etl_pull_check_options(EtlPull *pull)
{
}

void
etl_pull_merge(EtlPull *pull)
{
	elog(ERROR, "not yet");
}
