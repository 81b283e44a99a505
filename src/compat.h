/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  The only place with #if PG_VERSION_NUM.
 *
 * Everything that differs between the supported majors (15 to 18) is given
 * one name here, so that the rooms read as if there were one PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_COMPAT_H
#define ETL_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "etl_patterns needs PostgreSQL 15 or later"
#endif

#endif							/* ETL_COMPAT_H */
