/*-------------------------------------------------------------------------
 *
 * guard.c
 *	  Runs code that may throw so that the error costs one row, not the load.
 *
 * An error may be swallowed only by rolling back the subtransaction that it
 * happened in.  A subtransaction per row is dear, so a guard opens one for
 * the first call and keeps it until it is released: as long as nothing
 * fails, a whole batch shares it.  When a call fails it is rolled back and
 * the next call opens another.  Results of earlier calls survive because
 * they were allocated in the caller's memory context, not in that of the
 * subtransaction; hence only code without effects on tables may share a
 * guard with others.
 *
 * Invariants:
 *	- During a call the subtransaction's resource owner is the current one,
 *	  so that what a failed call holds is given back.  Between calls it is
 *	  the owner that was current when the guard opened.
 *	- The memory context after a call is that before it.
 *	- An error that is not the fault of a row is never swallowed.
 *
 * Takes no locks.  A subtransaction that writes nothing gets no transaction
 * ID.
 *
 *-------------------------------------------------------------------------
 */
#include "base/base.h"

#include "access/xact.h"
#include "utils/memutils.h"

static void guard_open(EtlGuard *guard);
static void rollback_to_level(int nest_level);

/*
 * Can another row do better?  False for errors that say something about the
 * server, the session or the code: they must reach the user.
 */
bool
etl_error_is_row_fault(const ErrorData *edata)
{
	switch (ERRCODE_TO_CATEGORY(edata->sqlerrcode))
	{
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_INVALID_TRANSACTION_STATE:
		case ERRCODE_TRANSACTION_ROLLBACK:	 /* serialization, deadlock */
		case ERRCODE_INSUFFICIENT_RESOURCES: /* memory, disk */
		case ERRCODE_OPERATOR_INTERVENTION:	 /* cancel, shutdown */
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_INTERNAL_ERROR:
			return false;
		default:
			break;
	}
	return edata->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE;
}

/*
 * Runs call(arg).  Returns true if it came back; false if it threw for a
 * row's fault, with the error, allocated in the current memory context, in
 * *edata.  Other errors are thrown on, with the guard closed.
 *
 * A zeroed EtlGuard is a closed one.
 */
bool
etl_guard_call(EtlGuard *guard, EtlGuardedCall call, void *arg,
			   ErrorData **edata)
{
	MemoryContext caller_context = CurrentMemoryContext;
	ErrorData *volatile error = NULL;

	if (!guard->open)
		guard_open(guard);
	else if (guard->nest_level != GetCurrentTransactionNestLevel())
		elog(ERROR, "guard of subtransaction level %d used at level %d",
			 guard->nest_level, GetCurrentTransactionNestLevel());

	CurrentResourceOwner = CurTransactionResourceOwner;
	PG_TRY();
	{
		call(arg);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller_context);
		error = CopyErrorData();
		FlushErrorState();

		guard->open = false;
		rollback_to_level(guard->nest_level - 1);
		MemoryContextSwitchTo(caller_context);
		CurrentResourceOwner = guard->outer_owner;

		if (!etl_error_is_row_fault(error))
			ReThrowError(error);
	}
	PG_END_TRY();

	MemoryContextSwitchTo(caller_context);
	CurrentResourceOwner = guard->outer_owner;

	if (error == NULL)
		return true;
	*edata = error;
	return false;
}

/*
 * Ends the guard's subtransaction, keeping what it did.  Does nothing if the
 * guard is closed.
 */
void
etl_guard_release(EtlGuard *guard)
{
	MemoryContext caller_context = CurrentMemoryContext;

	if (!guard->open)
		return;
	if (guard->nest_level != GetCurrentTransactionNestLevel())
		elog(ERROR, "guard of subtransaction level %d released at level %d",
			 guard->nest_level, GetCurrentTransactionNestLevel());

	guard->open = false;
	ReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(caller_context);
	CurrentResourceOwner = guard->outer_owner;
}

/*
 * Runs call(arg) and lets its errors through, but not before the
 * subtransactions of guards that it left open are rolled back.  Without this
 * the error would meet the wrong subtransaction further out: a PL/pgSQL
 * exception block would roll back ours in place of its own, and at the top
 * the session would be stuck in it.
 */
void
etl_guard_scope(EtlGuardedCall call, void *arg)
{
	MemoryContext caller_context = CurrentMemoryContext;
	ResourceOwner caller_owner = CurrentResourceOwner;
	int caller_level = GetCurrentTransactionNestLevel();

	PG_TRY();
	{
		call(arg);
	}
	PG_CATCH();
	{
		ErrorData *error;

		if (GetCurrentTransactionNestLevel() <= caller_level)
			PG_RE_THROW();

		MemoryContextSwitchTo(caller_context);
		error = CopyErrorData();
		FlushErrorState();
		rollback_to_level(caller_level);
		MemoryContextSwitchTo(caller_context);
		CurrentResourceOwner = caller_owner;
		ReThrowError(error);
	}
	PG_END_TRY();
}

/*
 * Runs call(arg) in a subtransaction and rolls it back: what it has written is
 * undone, what it has put into the caller's memory stays.  It may throw; that
 * is what the surrounding etl_guard_scope() is for.
 */
void
etl_guard_undone(EtlGuardedCall call, void *arg)
{
	MemoryContext caller_context = CurrentMemoryContext;
	ResourceOwner caller_owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller_context);
	call(arg);
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(caller_context);
	CurrentResourceOwner = caller_owner;
}

/* Starts the subtransaction; leaves memory context and owner as they were. */
static void
guard_open(EtlGuard *guard)
{
	MemoryContext caller_context = CurrentMemoryContext;
	ResourceOwner caller_owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller_context);
	CurrentResourceOwner = caller_owner;

	guard->open = true;
	guard->nest_level = GetCurrentTransactionNestLevel();
	guard->outer_owner = caller_owner;
}

/* Rolls back the subtransactions deeper than the level, inner ones first. */
static void
rollback_to_level(int nest_level)
{
	while (GetCurrentTransactionNestLevel() > nest_level)
		RollbackAndReleaseCurrentSubTransaction();
}
