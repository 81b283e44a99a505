/*-------------------------------------------------------------------------
 *
 * base.h
 *	  Helpers that every room uses.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_BASE_H
#define ETL_BASE_H

#include "compat.h"
#include "datatype/timestamp.h"
#include "utils/rel.h"
#include "utils/resowner.h"

/* The SHA-256 of a file's content. */
#define ETL_SHA256_LEN 32

/*
 * Why a row was rejected.  The words that users see (see etl_category_name)
 * are those of etl_patterns.dead_letter.category.
 */
typedef enum EtlCategory
{
	ETL_CATEGORY_STRUCTURE,
	ETL_CATEGORY_ENCODING,
	ETL_CATEGORY_TYPE,
	ETL_CATEGORY_NOT_NULL,
	ETL_CATEGORY_CHECK,
	ETL_CATEGORY_UNIQUE,
	ETL_CATEGORY_FOREIGN_KEY,
	ETL_CATEGORY_RULE,
	ETL_CATEGORY_CONFLICT,
	ETL_CATEGORY_OTHER
} EtlCategory;

#define ETL_NUM_CATEGORIES (ETL_CATEGORY_OTHER + 1)

/*
 * One error of one row: what a dead letter says about it.  Strings live as
 * long as whoever fills it says; NULL where there is nothing to say.
 */
typedef struct EtlReject
{
	EtlCategory category;
	int sqlerrcode;
	const char *message;
	const char *detail;
	const char *column_name;
	const char *field_value;
} EtlReject;

/* in reject.c */
extern const char *etl_category_name(EtlCategory category);
extern EtlCategory etl_category_of_sqlstate(int sqlerrcode);
extern void etl_reject_from_error(EtlReject *reject, const ErrorData *edata);
pg_noreturn extern void etl_reject_throw(const EtlReject *reject);

/*
 * A guard runs code that may throw inside a subtransaction that is shared by
 * many calls: it is opened by the first call and stays open until it is
 * released or a call fails.  What the calls allocate must live in a context
 * that outlives the subtransaction.
 *
 * While a guard is open the caller is inside a subtransaction.  It must not
 * write rows or open files then, and an error that is thrown past an open
 * guard must not leave that subtransaction behind: whoever uses guards runs
 * below one etl_guard_scope().
 */
typedef struct EtlGuard
{
	bool open;
	int nest_level; /* of the open subtransaction */
	ResourceOwner outer_owner;
} EtlGuard;

typedef void (*EtlGuardedCall)(void *arg);

/* in guard.c */
extern bool etl_error_is_row_fault(const ErrorData *edata);
extern bool etl_guard_call(EtlGuard *guard, EtlGuardedCall call, void *arg,
						   ErrorData **edata);
extern void etl_guard_release(EtlGuard *guard);
extern void etl_guard_scope(EtlGuardedCall call, void *arg);
extern void etl_guard_undone(EtlGuardedCall call, void *arg);

/* in option.c */
extern int etl_option_word(const char *parameter, const char *value,
						   const char *const *words);
extern char etl_option_char(const char *parameter, const char *value);

/* in plain_text.c */
extern int etl_plain_text_enter(void);
extern void etl_plain_text_leave(int level);
extern char *etl_plain_text(Oid type, Datum value);
extern char *etl_plain_time(TimestampTz time);
extern char *etl_plain_literal(Oid type, const char *text);
extern Datum etl_plain_value(Oid type, const char *text);

/* in names.c */
extern char *etl_relation_name(Relation rel);
extern bool etl_has_name(List *names, const char *name);
extern char *etl_operator_name(Oid operator);

#endif /* ETL_BASE_H */
