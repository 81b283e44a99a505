/*-------------------------------------------------------------------------
 *
 * fuzz.h
 *	  The seams between a fuzzer, the program around it, and their stand-in for
 *	  a server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_FUZZ_H
#define ETL_FUZZ_H

#include <setjmp.h>

#define FUZZ_MAX_INPUT 16384

/* in the fuzzer: an input; what else is to be tried when all have been read */
extern size_t fuzz_make_input(uint8 *bytes, uint64 *random);
extern void fuzz_read_input(const uint8 *bytes, size_t len);
extern void fuzz_end(void);

/* in driver.c */
extern uint64 fuzz_random(uint64 *state);
extern void fuzz_fail(const char *what);

/* in backend.c */
extern jmp_buf *fuzz_on_error;
extern int fuzz_encoding;
extern int fuzz_sqlerrcode;	  /* of the last error */
extern size_t fuzz_allocated; /* bytes that were not freed */

extern MemoryContext fuzz_top;
extern void fuzz_free_all(void);

#endif /* ETL_FUZZ_H */
