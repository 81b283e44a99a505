/*-------------------------------------------------------------------------
 *
 * merge_group.h
 *	  Bringing all rows of a key together; private to the room.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_MERGE_GROUP_H
#define ETL_MERGE_GROUP_H

#include "sink/merge.h"

typedef struct EtlGroups EtlGroups;

/*
 * in merge_group.c
 *
 * Rows are copied, sorted within work_mem by the hash of their key, and given
 * back key by key, as complete groups with all the changes in the order of
 * their numbers.  Keys of the same hash are told apart by their equality.
 * Groups that are created ordered come in the order of those columns, which
 * are columns of the key.
 */
typedef void (*EtlGroupCall)(EtlMerge *merge, EtlGroup *group, void *arg);

extern EtlGroups *etl_groups_create(EtlMerge *merge);
extern EtlGroups *etl_groups_create_ordered(EtlMerge *merge, const int *columns,
											int n_columns);
extern void etl_groups_add_stored(EtlGroups *groups, uint64 hash,
								  const EtlStored *stored);
extern void etl_groups_add_change(EtlGroups *groups, uint64 hash,
								  const EtlChange *change);
extern void etl_groups_each(EtlGroups *groups, EtlGroupCall call, void *arg);
extern void etl_groups_decide(EtlGroups *groups);
extern void etl_groups_free(EtlGroups *groups);
extern void etl_stored_sort(EtlMerge *merge, EtlStored *stored, int n);

#endif /* ETL_MERGE_GROUP_H */
