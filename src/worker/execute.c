/*-------------------------------------------------------------------------
 *
 * execute.c
 *	  Executes a command as if a client had sent it in one message.
 *
 * A background worker has no client, and so nothing that reads a message and
 * executes it.  SPI is no substitute: below a function there is no VACUUM, no
 * CREATE INDEX CONCURRENTLY, and no COMMIT in a procedure.  So statements are
 * run through portals here, by the rules of the simple query protocol:
 *
 * - One statement is at top level.  Several are one transaction, unless the
 *	 command contains BEGIN, COMMIT or ROLLBACK itself.
 * - statement_timeout is for each statement; nobody else arms it.
 *
 * Different are: results are thrown away; what would talk to a client is
 * refused, and so is PREPARE TRANSACTION, since the end of the run could not be
 * part of it; a transaction that the command leaves open is an error.
 *
 * The caller's own work at the end is part of the command's last transaction,
 * also when the last statement is COMMIT.  Only where that transaction is over
 * already (ROLLBACK; statements that are to be committed at once, such as
 * CREATE DATABASE), or may not write, it gets one of its own.
 *
 * Errors are thrown, with the transaction as it is.  The caller aborts it and
 * calls etl_execute_clean_up().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "jit/jit.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/analyze.h"
#include "pgstat.h"
#include "replication/slot.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "compat.h"
#include "worker/execute.h"

/* A command that is being executed. */
typedef struct Execution
{
	const char *command;
	bool several; /* statements */
	bool in_xact; /* we have begun a transaction command */
	bool logged;
	bool ended; /* the caller's work is done */
	EtlExecuteEnd end;
	void *arg;
} Execution;

static void execute_statement(Execution *execution, RawStmt *statement,
							  bool is_last);
static void run_statement(Execution *execution, RawStmt *statement);
static void finish_statement(Execution *execution, RawStmt *statement,
							 bool is_last);
static void finish_command(Execution *execution);
static void begin_xact(Execution *execution);
static void commit_xact(Execution *execution);
static void do_end(Execution *execution);
static void refuse(const Node *statement);
static void report_statements(Execution *execution, List *statements);
static void report_duration(const Execution *execution);

/*
 * Execute a command and commit it, with end(arg) in its last transaction.  No
 * transaction may be open.  What is allocated stays in the current memory
 * context, which must outlive transactions.
 */
void
etl_execute(const char *command, EtlExecuteEnd end, void *arg)
{
	Execution execution = {.command = command, .end = end, .arg = arg};
	MemoryContext context = CurrentMemoryContext;
	List *statements;
	ListCell *lc;

	debug_query_string = command;
	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, command);

	begin_xact(&execution);
	MemoryContextSwitchTo(context);
	statements = pg_parse_query(command);
	execution.several = list_length(statements) > 1;
	report_statements(&execution, statements);
	foreach(lc, statements)
	{
		refuse(lfirst_node(RawStmt, lc)->stmt);
		execute_statement(&execution, lfirst_node(RawStmt, lc),
						  lnext(statements, lc) == NULL);
		MemoryContextSwitchTo(context);
	}
	finish_command(&execution);
	/* It is done: who cancels now cannot mean it any more. */
	HOLD_INTERRUPTS();
	report_duration(&execution);
	RESUME_INTERRUPTS();
	debug_query_string = NULL;
}

/*
 * After an error, when the transaction was aborted: give back what it does not
 * know of.
 */
void
etl_execute_clean_up(void)
{
	PortalErrorCleanup();
	if (MyReplicationSlot != NULL)
		ReplicationSlotRelease();
	jit_reset_after_error();
	debug_query_string = NULL;
}

/* One statement of the command. */
static void
execute_statement(Execution *execution, RawStmt *statement, bool is_last)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext statement_context;
	bool is_commit;

	begin_xact(execution);
	if (execution->several)
		BeginImplicitTransactionBlock();
	CHECK_FOR_INTERRUPTS();

	/* The end belongs to what this COMMIT commits. */
	is_commit = IsA(statement->stmt, TransactionStmt) &&
				((TransactionStmt *) statement->stmt)->kind ==
					TRANS_STMT_COMMIT &&
				!((TransactionStmt *) statement->stmt)->chain;
	if (is_last && is_commit && IsTransactionBlock() && !XactReadOnly)
		do_end(execution);

	statement_context = AllocSetContextCreate(context, "etl_patterns statement",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(statement_context);
	run_statement(execution, statement);
	MemoryContextSwitchTo(context);
	finish_statement(execution, statement, is_last);
	MemoryContextDelete(statement_context);
}

/* Analyze, plan and run it. */
static void
run_statement(Execution *execution, RawStmt *statement)
{
	bool needs_snapshot = analyze_requires_snapshot(statement);
	CommandTag tag = CreateCommandTag(statement->stmt);
	QueryCompletion completion;
	List *plans;
	Portal portal;
	DestReceiver *receiver;

	pgstat_report_query_id(0, true);
	if (needs_snapshot)
		PushActiveSnapshot(GetTransactionSnapshot());
	plans = pg_analyze_and_rewrite_fixedparams(statement, execution->command,
											   NULL, 0, NULL);
	plans = pg_plan_queries(plans, execution->command, CURSOR_OPT_PARALLEL_OK,
							NULL);
	if (needs_snapshot)
		PopActiveSnapshot();
	CHECK_FOR_INTERRUPTS();

	portal = CreateNewPortal();
	portal->visible = false;
	PortalDefineQuery(portal, NULL, execution->command, tag, plans, NULL);
	PortalStart(portal, NULL, 0, InvalidSnapshot);
	receiver = CreateDestReceiver(DestNone);
	etl_portal_run(portal, FETCH_ALL, true, receiver, &completion);
	receiver->rDestroy(receiver);
	PortalDrop(portal, false);
}

/*
 * What is between this statement and the next one, or the command's end.  The
 * statement may itself have ended a transaction and begun another.
 */
static void
finish_statement(Execution *execution, RawStmt *statement, bool is_last)
{
	if (is_last && execution->several)
		EndImplicitTransactionBlock();
	if (IsA(statement->stmt, TransactionStmt) ||
		(MyXactFlags & XACT_FLAGS_NEEDIMMEDIATECOMMIT) != 0)
		commit_xact(execution);
	else
		CommandCounterIncrement();
	disable_timeout(STATEMENT_TIMEOUT, false);
}

/* After the last statement: commit what it left, with the caller's work. */
static void
finish_command(Execution *execution)
{
	if (IsTransactionBlock())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("command left a transaction open"),
				 errhint(
					 "End it with COMMIT, or leave BEGIN out: a command is one transaction anyway.")));
	if (!execution->ended)
	{
		if (XactReadOnly)
			commit_xact(execution);
		begin_xact(execution);
		XactReadOnly = false;
		do_end(execution);
	}
	commit_xact(execution);
}

/* Begin a transaction, or go on with the one that is open. */
static void
begin_xact(Execution *execution)
{
	if (!execution->in_xact)
	{
		StartTransactionCommand();
		execution->in_xact = true;
	}
	if (StatementTimeout <= 0)
		disable_timeout(STATEMENT_TIMEOUT, false);
	else if (!get_timeout_active(STATEMENT_TIMEOUT))
		enable_timeout_after(STATEMENT_TIMEOUT, StatementTimeout);
}

/* Commit, unless that is for a later statement to do. */
static void
commit_xact(Execution *execution)
{
	disable_timeout(STATEMENT_TIMEOUT, false);
	if (execution->in_xact)
		CommitTransactionCommand();
	execution->in_xact = false;
}

/*
 * The caller's work, in a transaction that may write.  The timeouts that the
 * session has set are for the command.
 */
static void
do_end(Execution *execution)
{
	MemoryContext context = CurrentMemoryContext;
	int lock_timeout = LockTimeout;

	Assert(!execution->ended);
	execution->ended = true;
	disable_timeout(STATEMENT_TIMEOUT, false);
	PushActiveSnapshot(GetTransactionSnapshot());
	PG_TRY();
	{
		LockTimeout = 0;
		execution->end(execution->arg);
	}
	PG_FINALLY();
	{
		LockTimeout = lock_timeout;
	}
	PG_END_TRY();
	PopActiveSnapshot();
	MemoryContextSwitchTo(context);
}

/*
 * There is no client, and the worker's own files are those of the server; and
 * a run that was only prepared has no end.
 */
static void
refuse(const Node *statement)
{
	if (IsA(statement, CopyStmt) &&
		((const CopyStmt *) statement)->filename == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot COPY to or from the client in a job"),
				 errhint("Name a file or a program, or use etl_bulk_copy().")));
	if (IsA(statement, TransactionStmt) &&
		((const TransactionStmt *) statement)->kind == TRANS_STMT_PREPARE)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("cannot PREPARE TRANSACTION in a job")));
}

/* log_statement, which the server does for clients only. */
static void
report_statements(Execution *execution, List *statements)
{
	ListCell *lc;

	foreach(lc, statements)
	{
		if (log_statement == LOGSTMT_NONE ||
			(log_statement != LOGSTMT_ALL &&
			 (int) GetCommandLogLevel(lfirst_node(RawStmt, lc)->stmt) >
				 log_statement))
			continue;
		ereport(LOG, (errmsg("statement: %s", execution->command),
					  errhidestmt(true)));
		execution->logged = true;
		break;
	}
}

/* log_duration and log_min_duration_statement; likewise. */
static void
report_duration(const Execution *execution)
{
	char msec[32];

	switch (check_log_duration(msec, execution->logged))
	{
		case 1:
			ereport(LOG, (errmsg("duration: %s ms", msec), errhidestmt(true)));
			break;
		case 2:
			ereport(LOG, (errmsg("duration: %s ms  statement: %s", msec,
								 execution->command),
						  errhidestmt(true)));
			break;
	}
}
