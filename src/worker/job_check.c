/*-------------------------------------------------------------------------
 *
 * job_check.c
 *	  What must hold of a job before it is stored.
 *
 * Locks, all of them on objects that are no relations, until the transaction
 * ends:
 *
 * - on the name of a job that is being created, renamed or dropped, so that
 *	 two who want one name follow each other;
 * - on the number of a job that something is going to refer to, shared, and
 *	 exclusively when it is renamed or dropped, so that no reference dangles.
 *	 The row itself stays free for those who claim slots;
 * - on the chains of "after <job>", when a job that exists gets such a
 *	 schedule, so that two changes do not make a circle between them, and when
 *	 the schedules of those that follow are written anew.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "etl_patterns.h"
#include "worker/job_check.h"

/*
 * What the locks are on: the third part of their name.  The locks of those who
 * run a job have the upper bits of its number there.
 */
#define LOCK_NAME	   0xFFF1
#define LOCK_REFERENCE 0xFFF2
#define LOCK_CHAINS	   0xFFF3

/* Who claims slots reads the command with the job, and works for all roles. */
#define MAX_COMMAND_LEN (1024 * 1024)

/* Longer ones are mistakes, and could not be added to a time. */
#define MAX_INTERVAL_YEARS 100

#define HINT_FOLLOW                                                    \
	"A job can run after jobs of its own role, and of roles of which " \
	"one is a member of the other."

static void lock_object(uint32 object, uint16 kind, LOCKMODE lockmode);

/* ------------------------------------------------------------------ */
/* names                                                                */

/*
 * Names go into schedules ("after <job>"), which end where the text ends, and
 * into logs and metrics, which are lines.
 */
void
etl_job_check_name(const char *name, const char *parameter)
{
	size_t len = strlen(name);

	if (len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s\" must not be empty", parameter)));
	if (len > ETL_MAX_JOB_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("parameter \"%s\" is too long", parameter),
				 errdetail("A name has at most %d bytes, this one has %zu.",
						   ETL_MAX_JOB_NAME, len)));
	if (name[0] == ' ' || name[len - 1] == ' ')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s\" must not begin or end with a space",
						parameter)));
	for (const char *c = name; *c != '\0'; c++)
	{
		if ((unsigned char) *c < ' ' || *c == 0x7f)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("parameter \"%s\" must not contain control characters",
							parameter),
					 errdetail("There is one at byte %d.",
							   (int) (c - name) + 1)));
	}
}

/* Nobody else takes, or gives up, a name before we commit. */
void
etl_job_lock_name(const char *name)
{
	lock_object(hash_bytes((const unsigned char *) name, (int) strlen(name)),
				LOCK_NAME, ExclusiveLock);
}

/* A name that is to be taken. */
void
etl_job_check_new_name(const char *name)
{
	EtlJob *job;

	etl_job_lock_name(name);
	job = etl_job_by_name(name, ETL_ROW_READ);
	if (job == NULL)
		return;
	if (etl_ledger_is_ours(job->role))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("job \"%s\" already exists", name),
				 errhint(
					 "Change it with etl_job_alter(), or choose another name.")));
	ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
					errmsg("job \"%s\" already exists", name),
					errdetail("It belongs to another role."),
					errhint("Choose another name.")));
}

/* ------------------------------------------------------------------ */
/* command                                                              */

/* Say where in the command, not in the statement that calls us. */
static void
show_command_position(void *arg)
{
	int position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery((const char *) arg);
	}
	errcontext("parameter \"command\"");
}

/*
 * A command must be one or more statements.  Names in it are not looked at:
 * what they mean may be there only when it runs.
 */
void
etl_job_check_command(const char *command)
{
	ErrorContextCallback callback;
	List *statements;
	ListCell *lc;

	if (strlen(command) > MAX_COMMAND_LEN)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("parameter \"%s\" is too long", "command"),
				 errdetail("A command has at most %d bytes, this one has %zu.",
						   MAX_COMMAND_LEN, strlen(command)),
				 errhint("Put it into a procedure, and let the job CALL that.")));
	callback.callback = show_command_position;
	callback.arg = unconstify(char *, command);
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	statements = raw_parser(command, RAW_PARSE_DEFAULT);
	error_context_stack = callback.previous;

	if (statements == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s\" must not be empty", "command")));
	foreach(lc, statements)
	{
		if (IsA(lfirst_node(RawStmt, lc)->stmt, TransactionStmt))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("parameter \"%s\" must not begin or end transactions",
							"command"),
					 errdetail(
						 "The statements of a command are one transaction, which the job begins and commits."),
					 errhint(
						 "To commit in between, CALL a procedure that does.")));
	}
}

/* ------------------------------------------------------------------ */
/* numbers                                                              */

/* A length of time that can be added to a time. */
void
etl_job_check_interval(const Interval *interval, const char *parameter)
{
	double days = interval->month * (double) DAYS_PER_MONTH + interval->day +
				  interval->time / (double) USECS_PER_DAY;

	if (days < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s\" must not be negative", parameter)));
	if (days > MAX_INTERVAL_YEARS * DAYS_PER_YEAR)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s\" must not be longer than %d years",
						parameter, MAX_INTERVAL_YEARS)));
}

void
etl_job_check_max_attempts(int max_attempts)
{
	if (max_attempts < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("parameter \"%s\" must be greater than zero",
							   "max_attempts"),
						errhint("1 is one attempt and no other.")));
}

/* ------------------------------------------------------------------ */
/* owner                                                                */

/* Workers connect as the owner of a job: may that be? */
void
etl_job_check_owner(const EtlJob *job)
{
	HeapTuple tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(job->role));
	const char *reason;
	char *role;
	bool can_login;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("the role that owns job \"%s\" does not exist",
							   job->name),
						errhint("Drop the job and create it as another role.")));
	can_login = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
	ReleaseSysCache(tuple);

	role = GetUserNameFromId(job->role, false);
	if (!can_login)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("jobs of role \"%s\" cannot run, because it is not permitted to log in",
						role),
				 errhint("A job connects as its owner. Create it as a role with LOGIN, or permit it with ALTER ROLE %s LOGIN.",
						 quote_identifier(role))));
	if (!etl_superuser_jobs && superuser_arg(job->role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("jobs of role \"%s\" cannot run, because it is a superuser",
						role),
				 errdetail("%s.superuser_jobs is off.", ETL_SCHEMA),
				 errhint(
					 "Create the job as another role, after SET ROLE for example.")));
	reason = etl_job_cannot_run(job);
	if (reason != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("jobs of role \"%s\" cannot run: %s", role, reason)));
}

/* Say so if jobs do not run here; the first one arms its database. */
void
etl_job_check_armed(void)
{
	EtlArmed armed = etl_jobs_armed();

	if (armed == ETL_ARMED_NOWHERE)
		etl_jobs_arm();
	else if (armed == ETL_ARMED_ELSEWHERE)
		ereport(WARNING,
				(errmsg("the jobs of this database do not run here"),
				 errdetail(
					 "They were armed on another server or in another database, of which this one is a copy."),
				 errhint(
					 "If they are to run here from now on, call etl_job_arm().")));
}

/* A broken job runs in no way. */
void
etl_job_check_not_broken(const EtlJob *job)
{
	if (job->state == ETL_JOB_BROKEN)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("job \"%s\" is broken: %s", job->name,
							   job->reason == NULL ? "for an unknown reason" :
													 job->reason),
						errhint("Mend that, and call etl_job_resume().")));
	etl_job_check_owner(job);
}

/* ------------------------------------------------------------------ */
/* schedule                                                             */

/* Lock something of jobs that is no relation. */
static void
lock_object(uint32 object, uint16 kind, LOCKMODE lockmode)
{
	LockDatabaseObject(etl_ledger_relid("job"), object, kind, lockmode);
}

/*
 * Before something refers to a job: AccessShareLock; before it goes or gets
 * another name: AccessExclusiveLock.  What was read of it before is old then.
 */
void
etl_job_lock_references(int64 job_id, LOCKMODE lockmode)
{
	lock_object((uint32) job_id, LOCK_REFERENCE, lockmode);
}

/*
 * Before a job that exists is to run after another one, or gets another name;
 * taken before any row is locked.
 */
void
etl_job_lock_chains(void)
{
	lock_object(0, LOCK_CHAINS, ExclusiveLock);
}

/*
 * The job that another one may follow.  To those who may not follow it, it
 * does not exist.
 */
static EtlJob *
find_predecessor(const EtlJob *job, const char *name)
{
	EtlJob *before = etl_job_by_name(name, ETL_ROW_READ);

	if (before != NULL)
	{
		etl_job_lock_references(before->job_id, AccessShareLock);
		before = etl_job_by_name(name, ETL_ROW_READ);
	}
	if (before != NULL && etl_job_may_trigger(before->role, job))
		return before;
	if (before != NULL && etl_ledger_is_ours(before->role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("job \"%s\" may not run after job \"%s\"", job->name,
						name),
				 errdetail("Neither of the roles \"%s\" and \"%s\", which own them, is a member of the other; that one is a superuser does not count.",
						   GetUserNameFromId(job->role, false),
						   GetUserNameFromId(before->role, false)),
				 errhint(HINT_FOLLOW)));
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
					errmsg("job \"%s\" does not exist", name),
					errdetail("Schedule \"%s\" names it.", job->schedule),
					errhint(HINT_FOLLOW)));
	return NULL; /* keep compiler quiet */
}

/*
 * Throw if a job would run after itself, be it by way of others.  Each job
 * runs after one other at the most, so there is one way to follow.
 */
static void
check_chain(const EtlJob *job, const EtlJob *before)
{
	int64 id = before->job_id;

	while (id != 0 && id != job->job_id)
	{
		EtlJob *link;

		CHECK_FOR_INTERRUPTS();
		link = etl_job_by_id(id, ETL_ROW_READ);
		id = link == NULL ? 0 : link->after_job;
	}
	if (id != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("job \"%s\" cannot run after job \"%s\"", job->name,
						before->name),
				 before->job_id == job->job_id ?
					 0 :
					 errdetail("Job \"%s\" itself runs after job \"%s\", directly or by way of others.",
							   before->name, job->name),
				 errhint("One job of the circle needs a time or an event.")));
}

/* "after": the job that comes before. */
static void
check_after(EtlJob *job, const char *name)
{
	EtlJob *before;

	if (strcmp(name, job->name) == 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("job \"%s\" cannot run after itself", name)));
	before = find_predecessor(job, name);
	if (job->job_id != 0)
		check_chain(job, before);
	job->after_job = before->job_id;
}

/* "on file:": its owner must be able to read it. */
static void
check_file(const EtlJob *job, const char *glob)
{
	if (strlen(glob) >= MAXPGPATH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the path in parameter \"%s\" is too long", "schedule"),
				 errdetail("A path has at most %d bytes.", MAXPGPATH - 1)));
	if (!has_privs_of_role(job->role, ROLE_PG_READ_SERVER_FILES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to wait for files of the server"),
				 errdetail("Only jobs of roles with privileges of the \"%s\" role may do so.",
						   "pg_read_server_files"),
				 errhint("Grant it with GRANT pg_read_server_files TO %s.",
						 quote_identifier(GetUserNameFromId(job->role, false)))));
}

/* The first slot to come, or throw. */
static void
check_slots(EtlJob *job, const EtlSchedule *schedule)
{
	TimestampTz now = etl_job_now();

	if (schedule->kind == ETL_SCHEDULE_AT && schedule->at <= now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the time of schedule \"%s\" has passed", job->schedule),
				 errhint("To run a job now, use etl_job_run().")));

	if (!etl_schedule_next(schedule, job->start_at, now, &job->next_slot))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("schedule \"%s\" has no slots", job->schedule),
				 TIMESTAMP_IS_NOBEGIN(job->start_at) ?
					 0 :
					 errdetail("There is none from %s on, which is \"%s\".",
							   timestamptz_to_str(job->start_at), "start_at")));
}

/*
 * The schedule of a job, whose other columns are known: sets what is stored
 * of it beside the text, the first slot from now on included.
 */
void
etl_job_check_schedule(EtlJob *job)
{
	EtlSchedule *schedule = etl_job_schedule(job);

	job->after_job = 0;
	job->event = NULL;
	job->next_slot = 0;
	switch (schedule->kind)
	{
		case ETL_SCHEDULE_CRON:
		case ETL_SCHEDULE_EVERY:
		case ETL_SCHEDULE_AT:
			check_slots(job, schedule);
			break;
		case ETL_SCHEDULE_AFTER:
			check_after(job, schedule->name);
			break;
		case ETL_SCHEDULE_EVENT:
			etl_job_check_name(schedule->name, "schedule");
			job->event = schedule->name;
			break;
		case ETL_SCHEDULE_FILE:
			check_file(job, schedule->name);
			break;
	}
}
