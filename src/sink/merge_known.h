/*-------------------------------------------------------------------------
 *
 * merge_known.h
 *	  Which keys there are already; private to the room.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_MERGE_KNOWN_H
#define ETL_MERGE_KNOWN_H

#include "sink/merge_table.h"

typedef struct EtlKnown EtlKnown;

typedef enum EtlKnownKey
{
	ETL_KEY_NEW,
	ETL_KEY_STORED, /* a row of the target has it */
	ETL_KEY_SEEN,	/* an earlier row of the input has it */
	ETL_KEY_UNSURE	/* may be any of these: look at the rows */
} EtlKnownKey;

/* in merge_known.c */
extern bool etl_known_suits(Size memory, double keys);
extern EtlKnown *etl_known_create(Size memory);
extern EtlKnownKey etl_known_add(EtlKnown *known, const EtlFilterRow *row,
								 bool is_stored);
extern void etl_known_free(EtlKnown *known);

#endif /* ETL_MERGE_KNOWN_H */
