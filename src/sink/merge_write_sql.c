/*-------------------------------------------------------------------------
 *
 * merge_write_sql.c
 *	  The general way to change rows: a few statements for a whole merge.
 *
 *-------------------------------------------------------------------------
 */
#include "sink/merge_write.h"

bool
etl_merge_sql_by_key(Relation target)
{
	return target->rd_rel->relkind == RELKIND_VIEW ||
		   target->rd_rel->relkind == RELKIND_FOREIGN_TABLE;
}

void
etl_merge_sql_apply(EtlMergeWriter *writer)
{
	elog(ERROR, "rows of \"%s\" cannot be changed through SQL yet",
		 RelationGetRelationName(writer->target));
}
