/*-------------------------------------------------------------------------
 *
 * fuzz.h
 *	  The seam between the fuzzer and its stand-in for a server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_FUZZ_H
#define ETL_FUZZ_H

#include <setjmp.h>

extern jmp_buf *fuzz_on_error;
extern int fuzz_encoding;

extern void fuzz_free_all(void);

#endif /* ETL_FUZZ_H */
