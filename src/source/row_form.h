/*-------------------------------------------------------------------------
 *
 * row_form.h
 *	  From the fields of a record straight to the bytes of a heap tuple.
 *
 * For records whose fields all have a value beyond doubt.  It needs no
 * catalog and no database, only a tuple descriptor, and throws for nothing
 * that is in a field: so a process without a database connection may use it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_ROW_FORM_H
#define ETL_ROW_FORM_H

#include "source/source.h"

typedef struct EtlRowForm EtlRowForm;

extern EtlRowForm *etl_row_form_create(TupleDesc desc,
									   const AttrNumber *attnums, int nfields,
									   const Datum *values, const bool *isnull);
extern Size etl_row_form_room(const EtlRowForm *form, Size text_len);
extern uint32 etl_row_form(EtlRowForm *form, const EtlField *fields,
						   int nfields, HeapTupleHeader tuple, Size room);
extern void etl_row_form_free(EtlRowForm *form);

#endif /* ETL_ROW_FORM_H */
