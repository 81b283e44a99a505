/*-------------------------------------------------------------------------
 *
 * remote_connection.c
 *	  A libpq connection to the server of a foreign table.
 *
 * Nothing here waits inside libpq, so that the session answers to cancel and
 * shutdown at once, with one exception: the request to cancel a query there,
 * which is only sent to a host that has just answered.
 *
 * Whose password it is: the server process may have ways to log in elsewhere
 * that its users must not borrow: a password file, a certificate, trust or peer
 * for its own system user.  So unless a superuser has said otherwise in the
 * user mapping, others than superusers must give a password in it, and the
 * server there must have asked for it.
 *
 * Invariants:
 *	- Every open connection is in the list, with the resource owner that ends
 *	  it; results and buffers of libpq hang on their connection.
 *	- A connection on which a query runs is ended only after a request to
 *	  cancel the query, which would go on otherwise until it writes.
 *
 *-------------------------------------------------------------------------
 */
#include "source/remote.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "commands/defrem.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/* How long a host is given to answer before its query is not cancelled. */
#define CANCEL_TIMEOUT_MS 3000

/* What libpq is told. */
typedef struct Settings
{
	const char **names;
	const char **values;
	int n;
} Settings;

static EtlRemote *open_remotes = NULL;

static EtlRemote *connect_as(ForeignServer *server, UserMapping *mapping,
							 bool replicates);
static EtlRemote *register_remote(const char *server);
static void settings_of(Settings *settings, ForeignServer *server,
						UserMapping *mapping, bool replicates);
static void add_options(Settings *settings, PQconninfoOption *known,
						List *options);
static bool is_for_us(PQconninfoOption *known, const char *name);
static bool needs_password(UserMapping *mapping);
static void check_password_given(const Settings *settings, UserMapping *mapping);
static void wait_until_connected(EtlRemote *remote);
static TimestampTz connect_deadline(PGconn *conn);
static void check_password_used(EtlRemote *remote, UserMapping *mapping);
pg_noreturn static void throw_remote(EtlRemote *remote);
static void ignore_notice(void *arg, const PGresult *result);
static void flush_query(EtlRemote *remote);
static PGresult *next_result(EtlRemote *remote);
static void read_more(EtlRemote *remote);
static int wait_for(EtlRemote *remote, int events, long timeout);
static bool is_error(const PGresult *result);
static bool is_copy(const PGresult *result);
static void check_result(EtlRemote *remote, ExecStatusType expected);
static const char *readable(const char *text);
static void release_remotes(ResourceReleasePhase phase, bool is_commit,
							bool is_top, void *arg);
static void cancel_query(PGconn *conn);
static bool host_answers(PGconn *conn);

/* Connects with the rights of a user mapping. */
EtlRemote *
etl_remote_connect(ForeignServer *server, UserMapping *mapping)
{
	return connect_as(server, mapping, false);
}

/* The same, for the replication protocol, which takes SQL, too. */
EtlRemote *
etl_remote_connect_stream(ForeignServer *server, UserMapping *mapping)
{
	return connect_as(server, mapping, true);
}

static EtlRemote *
connect_as(ForeignServer *server, UserMapping *mapping, bool replicates)
{
	EtlRemote *remote;
	Settings settings;

	settings_of(&settings, server, mapping, replicates);
	check_password_given(&settings, mapping);

	remote = register_remote(server->servername);
	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to server \"%s\"", remote->server),
				 errdetail("There are too many open files in this session.")));
	remote->has_fd = true;
	remote->conn = PQconnectStartParams(settings.names, settings.values, false);
	if (remote->conn == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	PQsetNoticeReceiver(remote->conn, ignore_notice, NULL);
	wait_until_connected(remote);
	check_password_used(remote, mapping);
	if (PQsetnonblocking(remote->conn, 1) != 0)
		elog(ERROR, "could not set the connection to non-blocking mode");
	return remote;
}

/* An entry in the list, so that an error ends what is put into it. */
static EtlRemote *
register_remote(const char *server)
{
	static bool registered = false;
	EtlRemote *remote;

	if (!registered)
	{
		RegisterResourceReleaseCallback(release_remotes, NULL);
		registered = true;
	}
	remote = MemoryContextAllocZero(TopMemoryContext, sizeof(EtlRemote));
	remote->server = MemoryContextStrdup(TopMemoryContext, server);
	remote->owner = CurrentResourceOwner;
	remote->next = open_remotes;
	open_remotes = remote;
	return remote;
}

/*
 * The options of server and user mapping that are libpq's, and ours.  The last
 * of several values for one name counts, but for the fallback.
 */
static void
settings_of(Settings *settings, ForeignServer *server, UserMapping *mapping,
			bool replicates)
{
	int most = list_length(server->options) + list_length(mapping->options) + 4;
	PQconninfoOption *known = PQconndefaults();

	if (known == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	settings->names = palloc0(sizeof(char *) * most);
	settings->values = palloc0(sizeof(char *) * most);
	settings->n = 0;
	PG_TRY();
	{
		add_options(settings, known, server->options);
		add_options(settings, known, mapping->options);
	}
	PG_FINALLY();
	{
		PQconninfoFree(known);
	}
	PG_END_TRY();

	settings->names[settings->n] = "fallback_application_name";
	settings->values[settings->n++] = "etl_patterns";
	settings->names[settings->n] = "client_encoding";
	settings->values[settings->n++] = GetDatabaseEncodingName();
	if (replicates)
	{
		settings->names[settings->n] = "replication";
		settings->values[settings->n++] = "database";
	}
}

static void
add_options(Settings *settings, PQconninfoOption *known, List *options)
{
	ListCell *lc;

	foreach(lc, options)
	{
		DefElem *option = lfirst_node(DefElem, lc);

		if (!is_for_us(known, option->defname))
			continue;
		settings->names[settings->n] = option->defname;
		settings->values[settings->n++] = defGetString(option);
	}
}

/*
 * Does libpq know the option, and may it be set?  Debug options, marked with a
 * D, include replication.
 */
static bool
is_for_us(PQconninfoOption *known, const char *name)
{
	if (strcmp(name, "client_encoding") == 0 ||
		strcmp(name, "fallback_application_name") == 0)
		return false;
	for (PQconninfoOption *option = known; option->keyword != NULL; option++)
		if (strcmp(option->keyword, name) == 0)
			return strchr(option->dispchar, 'D') == NULL;
	return false;
}

/* Only a superuser can have set password_required to false. */
static bool
needs_password(UserMapping *mapping)
{
	ListCell *lc;

	if (superuser_arg(mapping->userid))
		return false;
	foreach(lc, mapping->options)
	{
		DefElem *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "password_required") == 0)
			return defGetBoolean(option);
	}
	return true;
}

static void
check_password_given(const Settings *settings, UserMapping *mapping)
{
	const char *password = NULL;

	if (!needs_password(mapping))
		return;
	for (int i = 0; i < settings->n; i++)
		if (strcmp(settings->names[i], "password") == 0)
			password = settings->values[i];
	if (password == NULL || password[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
				 errmsg("password is required"),
				 errdetail(
					 "Roles that are not superusers must have a password in their user mapping."),
				 errhint(
					 "Set the option password of the user mapping, or let a superuser set password_required to false.")));
}

/* Drives the connection until it is made. */
static void
wait_until_connected(EtlRemote *remote)
{
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;
	TimestampTz deadline = connect_deadline(remote->conn);

	while (PQstatus(remote->conn) != CONNECTION_BAD &&
		   status != PGRES_POLLING_OK && status != PGRES_POLLING_FAILED)
	{
		int event = status == PGRES_POLLING_READING ? WL_SOCKET_READABLE :
													  WL_SOCKET_WRITEABLE;
		long timeout = -1;

		if (deadline != 0)
		{
			timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
													  deadline);
			if (timeout <= 0)
				ereport(ERROR,
						(errcode(
							 ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
						 errmsg("could not connect to server \"%s\"",
								remote->server),
						 errdetail("The time set by connect_timeout is over.")));
		}
		if (wait_for(remote, event, timeout) & event)
			status = PQconnectPoll(remote->conn);
	}
	if (PQstatus(remote->conn) != CONNECTION_OK)
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to server \"%s\"", remote->server),
				 errdetail_internal("%s", readable(pchomp(
											  PQerrorMessage(remote->conn))))));
}

/*
 * libpq keeps to connect_timeout only where it waits itself.  Here it bounds
 * the whole, also with several hosts.  Returns 0 for no limit.
 */
static TimestampTz
connect_deadline(PGconn *conn)
{
	PQconninfoOption *options = PQconninfo(conn);
	int seconds = 0;

	if (options == NULL)
		return 0;
	for (PQconninfoOption *option = options; option->keyword != NULL; option++)
		if (strcmp(option->keyword, "connect_timeout") == 0 &&
			option->val != NULL)
			seconds = atoi(option->val);
	PQconninfoFree(options);
	if (seconds <= 0)
		return 0;
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									   (int64) seconds * 1000);
}

static void
check_password_used(EtlRemote *remote, UserMapping *mapping)
{
	if (!needs_password(mapping) || PQconnectionUsedPassword(remote->conn))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
			 errmsg("password is required"),
			 errdetail("Server \"%s\" has let the connection in without asking for the password.",
					   remote->server),
			 errhint(
				 "Let that server ask for a password, or let a superuser set password_required to false in the user mapping.")));
}

/* Otherwise libpq would print notices to the server's log. */
static void
ignore_notice(void *arg, const PGresult *result)
{
}

/*
 * Runs a query, or several separated by semicolons, and returns the last
 * result; throws if one fails, or if the last is not of the kind that is
 * expected.  The result is good until etl_remote_clear().
 */
PGresult *
etl_remote_query(EtlRemote *remote, const char *sql, ExecStatusType expected)
{
	PGresult *result;

	etl_remote_clear(remote);
	if (!PQsendQuery(remote->conn, sql))
		throw_remote(remote);
	flush_query(remote);
	while ((result = next_result(remote)) != NULL)
	{
		if (is_error(remote->result))
		{
			PQclear(result);
			continue;
		}
		etl_remote_clear(remote);
		remote->result = result;
		if (is_copy(result))
			break;
	}
	check_result(remote, expected);
	return remote->result;
}

/* libpq repeats such a result for as long as the COPY goes on. */
static bool
is_copy(const PGresult *result)
{
	return PQresultStatus(result) == PGRES_COPY_OUT ||
		   PQresultStatus(result) == PGRES_COPY_IN ||
		   PQresultStatus(result) == PGRES_COPY_BOTH;
}

static void
check_result(EtlRemote *remote, ExecStatusType expected)
{
	if (remote->result == NULL || is_error(remote->result))
		throw_remote(remote);
	if (PQresultStatus(remote->result) != expected)
		ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
						errmsg("server \"%s\" has sent an unexpected result",
							   remote->server)));
}

static bool
is_error(const PGresult *result)
{
	return result != NULL && (PQresultStatus(result) == PGRES_FATAL_ERROR ||
							  PQresultStatus(result) == PGRES_BAD_RESPONSE);
}

/* Frees what libpq has given out. */
void
etl_remote_clear(EtlRemote *remote)
{
	PQclear(remote->result);
	remote->result = NULL;
	if (remote->buffer != NULL)
		PQfreemem(remote->buffer);
	remote->buffer = NULL;
}

/*
 * Puts the next piece of a COPY into the buffer and returns its length, or -1
 * at the end, once the server has said that all went well.
 */
int
etl_remote_copy_data(EtlRemote *remote)
{
	PGresult *result;
	bool has_read = false;
	int len;

	if (remote->buffer != NULL)
		PQfreemem(remote->buffer);
	remote->buffer = NULL;
	while ((len = PQgetCopyData(remote->conn, &remote->buffer, 1)) == 0)
	{
		/* Mostly there is more in the socket: look before waiting. */
		if (has_read)
			wait_for(remote, WL_SOCKET_READABLE, -1);
		if (!PQconsumeInput(remote->conn))
			throw_remote(remote);
		has_read = true;
	}
	if (len > 0)
		return len;
	if (len < -1)
		throw_remote(remote);

	etl_remote_clear(remote);
	while ((result = next_result(remote)) != NULL)
	{
		if (is_error(remote->result))
			PQclear(result);
		else
		{
			etl_remote_clear(remote);
			remote->result = result;
			if (is_copy(result))
				break;
		}
	}
	check_result(remote, PGRES_COMMAND_OK);
	etl_remote_clear(remote);
	return -1;
}

/*
 * The next piece of a stream of changes, into the buffer; 0 if there is none
 * now.  Throws when the server ends the stream.
 */
int
etl_remote_stream_data(EtlRemote *remote)
{
	PGresult *result;
	int len;

	if (remote->buffer != NULL)
		PQfreemem(remote->buffer);
	remote->buffer = NULL;
	len = PQgetCopyData(remote->conn, &remote->buffer, 1);
	if (len == 0)
	{
		if (!PQconsumeInput(remote->conn))
			throw_remote(remote);
		len = PQgetCopyData(remote->conn, &remote->buffer, 1);
	}
	if (len >= 0)
		return len;
	if (len == -1)
	{
		etl_remote_clear(remote);
		result = next_result(remote);
		remote->result = result;
		if (!is_error(result))
			ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE),
							errmsg("server \"%s\" has ended the stream of "
								   "changes",
								   remote->server)));
	}
	throw_remote(remote);
}

/* Waits until there may be more, or the latch is set; answers to cancel. */
void
etl_remote_stream_wait(EtlRemote *remote, long timeout)
{
	int events = WL_SOCKET_READABLE;
	int rc = PQflush(remote->conn);

	if (rc < 0)
		throw_remote(remote);
	if (rc > 0)
		events |= WL_SOCKET_WRITEABLE;
	(void) wait_for(remote, events, timeout);
}

/*
 * Sends a message of ours on the stream, or as much of it as the socket takes
 * now; returns false if what was sent before is still on its way.
 */
bool
etl_remote_stream_send(EtlRemote *remote, const char *data, int len)
{
	int rc = PQflush(remote->conn);

	if (rc > 0)
		return false;
	if (rc < 0 || PQputCopyData(remote->conn, data, len) < 0 ||
		PQflush(remote->conn) < 0)
		throw_remote(remote);
	return true;
}

/* Sends what libpq has kept back. */
static void
flush_query(EtlRemote *remote)
{
	int rc;

	while ((rc = PQflush(remote->conn)) > 0)
	{
		int events = wait_for(remote, WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE,
							  -1);

		if ((events & WL_SOCKET_READABLE) && !PQconsumeInput(remote->conn))
			throw_remote(remote);
	}
	if (rc < 0)
		throw_remote(remote);
}

/* The next result of what was sent, or NULL at the end. */
static PGresult *
next_result(EtlRemote *remote)
{
	while (PQisBusy(remote->conn))
		read_more(remote);
	return PQgetResult(remote->conn);
}

static void
read_more(EtlRemote *remote)
{
	if ((wait_for(remote, WL_SOCKET_READABLE, -1) & WL_SOCKET_READABLE) &&
		!PQconsumeInput(remote->conn))
		throw_remote(remote);
}

/* Waits for the socket; answers to cancel. */
static int
wait_for(EtlRemote *remote, int events, long timeout)
{
	int happened;

	events |= WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;
	if (timeout >= 0)
		events |= WL_TIMEOUT;
	happened = WaitLatchOrSocket(MyLatch, events, PQsocket(remote->conn),
								 timeout, PG_WAIT_EXTENSION);
	if (happened & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return happened;
}

/*
 * Throws what the last result, or else the connection, says.  If the server
 * has ended the session or is gone, that is what the caller must know.
 */
static void
throw_remote(EtlRemote *remote)
{
	const PGresult *result = is_error(remote->result) ? remote->result : NULL;
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *message = readable(
		PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY));
	const char *detail = readable(
		PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL));
	const char *hint = readable(PQresultErrorField(result, PG_DIAG_MESSAGE_HINT));
	const char *context = readable(PQresultErrorField(result, PG_DIAG_CONTEXT));
	const char *severity = PQresultErrorField(result,
											  PG_DIAG_SEVERITY_NONLOCALIZED);

	if (message == NULL)
		message = readable(pchomp(PQerrorMessage(remote->conn)));
	if (PQstatus(remote->conn) == CONNECTION_BAD ||
		(severity != NULL && strcmp(severity, "ERROR") != 0))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("connection to server \"%s\" was lost", remote->server),
				 errdetail_internal("%s", message)));
	ereport(ERROR, (errcode(state != NULL && strlen(state) == 5 ?
								MAKE_SQLSTATE(state[0], state[1], state[2],
											  state[3], state[4]) :
								ERRCODE_CONNECTION_FAILURE),
					errmsg_internal("%s", message),
					detail != NULL ? errdetail_internal("%s", detail) : 0,
					hint != NULL ? errhint("%s", hint) : 0,
					context != NULL ? errcontext("%s", context) : 0,
					errcontext("remote server \"%s\"", remote->server)));
}

/*
 * A message in the encoding of the database: somebody may keep it.  What a
 * server says before the session begins is in an encoding of its own.
 */
static const char *
readable(const char *text)
{
	char *copy;

	if (text == NULL || pg_verifymbstr(text, (int) strlen(text), true))
		return text;
	copy = pstrdup(text);
	for (char *p = copy; *p != '\0'; p++)
		if (IS_HIGHBIT_SET(*p))
			*p = '?';
	return copy;
}

/* Ends a connection with all that hangs on it; throws nothing. */
void
etl_remote_disconnect(EtlRemote *remote)
{
	EtlRemote **link = &open_remotes;

	while (*link != NULL && *link != remote)
		link = &(*link)->next;
	if (*link != NULL)
		*link = remote->next;

	etl_remote_clear(remote);
	if (remote->conn != NULL)
	{
		if (!remote->streams)
			cancel_query(remote->conn);
		PQfinish(remote->conn);
	}
	if (remote->has_fd)
		ReleaseExternalFD();
	pfree(remote->server);
	pfree(remote);
}

/* Ends the connections of a resource owner that is about to go. */
static void
release_remotes(ResourceReleasePhase phase, bool is_commit, bool is_top,
				void *arg)
{
	EtlRemote *next;

	if (phase != RESOURCE_RELEASE_BEFORE_LOCKS)
		return;
	for (EtlRemote *remote = open_remotes; remote != NULL; remote = next)
	{
		next = remote->next;
		if (remote->owner != CurrentResourceOwner)
			continue;
		if (is_commit)
			elog(WARNING, "connection to server \"%s\" was left open",
				 remote->server);
		etl_remote_disconnect(remote);
	}
}

/* Stops what runs there; whether that has worked does not matter. */
static void
cancel_query(PGconn *conn)
{
	char message[256];
	PGcancel *cancel;

	if (PQtransactionStatus(conn) != PQTRANS_ACTIVE || !host_answers(conn))
		return;
	cancel = PQgetCancel(conn);
	if (cancel == NULL)
		return;
	(void) PQcancel(cancel, message, sizeof(message));
	PQfreeCancel(cancel);
}

/*
 * Does the host take connections right now?  PQcancel() would wait for one
 * that is gone for as long as the system likes to, deaf to signals.
 */
static bool
host_answers(PGconn *conn)
{
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);
	struct pollfd wait;
	int failure = 0;
	int sock;
	bool answers;

	if (getpeername(PQsocket(conn), (struct sockaddr *) &address, &len) != 0)
		return false;
	if (address.ss_family == AF_UNIX)
		return true;
	sock = socket(address.ss_family, SOCK_STREAM, 0);
	if (sock < 0)
		return false;

	answers = false;
	if (fcntl(sock, F_SETFL, O_NONBLOCK) == 0)
	{
		if (connect(sock, (struct sockaddr *) &address, len) == 0)
			answers = true;
		else if (errno == EINPROGRESS)
		{
			wait.fd = sock;
			wait.events = POLLOUT;
			wait.revents = 0;
			len = sizeof(failure);
			answers = poll(&wait, 1, CANCEL_TIMEOUT_MS) == 1 &&
					  getsockopt(sock, SOL_SOCKET, SO_ERROR, &failure, &len) ==
						  0 &&
					  failure == 0;
		}
	}
	close(sock);
	return answers;
}
