#include "sink/append.h"
const EtlSinkOps etl_append_sql_ops;
List *
etl_conflict_keys(Relation target, const EtlSinkOptions *options)
{
	(void) target;
	return options->keys;
}
