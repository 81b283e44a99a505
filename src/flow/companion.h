/*-------------------------------------------------------------------------
 *
 * companion.h
 *	  A table of the user's beside a target, in which merges keep things.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_COMPANION_H
#define ETL_COMPANION_H

#include "lib/stringinfo.h"
#include "sink/merge.h"
#include "utils/tuplestore.h"

typedef struct EtlCompanion
{
	const char *suffix;	 /* of its name, after the target's */
	const char *what;	 /* is in it; plural */
	const char *without; /* what to pass in order to do without it */
} EtlCompanion;

/* Does the table have this column of the target? */
typedef bool (*EtlCompanionTakes)(const EtlMerge *merge, int column);

/* in companion.c */
extern char *etl_companion_relname(const EtlCompanion *companion,
								   Relation target);
extern Oid etl_companion_find(const EtlCompanion *companion, Relation target,
							  LOCKMODE lockmode);
extern char *etl_companion_name(const EtlCompanion *companion, Relation target);
extern const char *etl_companion_own_column(const EtlMerge *merge,
											const char *name,
											EtlCompanionTakes takes);
extern void etl_companion_begin_create(const EtlCompanion *companion,
									   Relation target, StringInfo sql);
extern void etl_companion_append_column(StringInfo sql, Relation target,
										int column, int32 typmod);
extern void etl_companion_command(const char *sql);
extern void etl_companion_check_owner(const EtlCompanion *companion,
									  Relation rel, Relation target);
extern void etl_companion_refuse_policies(const EtlCompanion *companion,
										  Oid relid, const char *detail);
extern bool etl_companion_has_column(Relation rel, Relation target, int column);
extern void etl_append_collation(StringInfo sql, Oid collation);

#endif /* ETL_COMPANION_H */
