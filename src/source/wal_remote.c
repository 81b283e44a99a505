/*-------------------------------------------------------------------------
 *
 * wal_remote.c
 *	  Reads another server's changes: its slot, and the stream.
 *
 * One connection of the replication protocol, with the options of the server
 * and the user mapping of the pipeline's owner; it takes SQL, too, so that the
 * publication and the slot are seen to on it.  Nothing is installed there.
 *
 * The slot moves only to where the process that applies says that all is
 * applied and safe: that is the position in each status that is sent.  Between
 * transactions the server says how far it has come, so that the slot moves on
 * past what is of no interest.  The server ends a connection from which it
 * hears nothing, so a status goes out, too, while the queue is full, however
 * long it takes to apply what is in it.  In the other direction a server that
 * is silent is asked, and given up if it does not answer.
 *
 * Everything waits interruptibly (remote_connection.c).  Errors end the
 * process; those of the connection are of class 08, and it is tried again.
 *
 * Values are read in a transaction, which ends before there is waiting.  The
 * connection outlives it: it belongs to a resource owner that never ends.
 *
 *-------------------------------------------------------------------------
 */
#include "source/wal_remote.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_bswap.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/sinval.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "compat.h"

#define PLUGIN "pgoutput"

/* Servers before this have no logical replication. */
#define OLDEST_VERSION 100000

/* From this on standbys can have slots of their primary. */
#define FAILOVER_VERSION 170000

/* Milliseconds */
#define SEND_AFTER		2	  /* what was gathered waits no longer than this */
#define REPORT_EVERY	100	  /* positions between which nothing happened */
#define LOOK_EVERY		1000  /* without being woken */
#define STATUS_EVERY	10000 /* though there is nothing new to say */
#define ASK_AFTER		30000 /* of silence */
#define GIVE_UP_AFTER	60000
#define SLOT_IN_USE		5000 /* how long the last reader may take to end */
#define DROP_WAIT		60000
#define TERMINATE_AFTER 2000
#define SLOT_IN_USE_IN	50

/* Messages between two looks at the clock, and between two transactions. */
#define MESSAGES_PER_LOOK 64
#define MESSAGES_PER_XACT 4096

/* Sizes of messages of the replication protocol, with their kind. */
#define XLOG_DATA_SIZE 25
#define KEEPALIVE_SIZE 18
#define STATUS_SIZE	   34

/* A slot as it is there. */
typedef struct Slot
{
	bool exists;
	bool is_ours; /* as far as can be seen */
	bool is_lost;
	bool in_use;
	int pid;
	XLogRecPtr confirmed;
} Slot;

static EtlWalControl *control;
static EtlChangeWriter *writer;
static EtlRemote *remote;
static MemoryContext reader_context;

static XLogRecPtr received;	 /* all up to here has come */
static XLogRecPtr idle;		 /* and nothing is open: to be reported */
static XLogRecPtr reported;	 /* the last position that was written */
static XLogRecPtr wal_end;	 /* of that server */
static XLogRecPtr confirmed; /* the last that was sent */
static TimestampTz sent_at;	 /* the last time that nothing was gathered */
static TimestampTz reported_at;
static TimestampTz status_at;
static TimestampTz heard_at;
static bool was_asked; /* the server, whether it is still there */
static long status_every = STATUS_EVERY;
static bool has_lost_publication;

static void set_values_format(void);
static void connect_to_source(void);
static void close_connection(int code, Datum arg);
static void take_notice(void *arg, const PGresult *result);
static PGresult *ask(EtlRemote *there, const char *sql, int nfields);
static XLogRecPtr read_lsn(const char *text);
static void look_at_source(void);
static void create_slot(void);
static void use_slot(void);
static void see_to_failover(void);
static void wait_for_slot(EtlRemote *there, const char *name, Slot *slot,
						  long limit, bool terminate);
static void look_at_slot(EtlRemote *there, const char *name, Slot *slot);
static void drop_slot(EtlRemote *there, const char *name);
static void nap(long timeout);
static void tell_reports(void);
static void start_stream(const char *publication);
pg_noreturn static void follow(void);
static void take_all(void);
static void take_message(char *data, int len);
static void begin_xact(void);
static void end_xact(void);
static void keep_order(void);
static void look_around(TimestampTz now);
static void check_silence(TimestampTz now);
static void send_status(TimestampTz now, bool asks);
static long report_idle(TimestampTz now);
static void while_full(void);
static uint64 get_int64(const char *data);
static void put_int64(char *data, uint64 value);

/* ------------------------------------------------------------------ */
/* the reader                                                           */

/* Read until there is nobody who wants it; does not come back. */
void
etl_wal_read_remote(EtlWalControl *shared_control, EtlChangeWriter *queue,
					List *tables)
{
	const char *publication;
	bool is_lost = false;
	List *published;

	reader_context = AllocSetContextCreate(TopMemoryContext,
										   "etl_patterns remote changes",
										   ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(reader_context);
	control = shared_control;
	writer = queue;
	set_values_format();
	connect_to_source();
	look_at_source();
	published = etl_published_tables(remote, tables);
	PG_TRY();
	{
		publication = etl_publication(remote, control->slot_name, published,
									  control->create_slot, &is_lost);
	}
	PG_FINALLY();
	{
		control->slot_lost = is_lost;
	}
	PG_END_TRY();
	if (control->create_slot)
		create_slot();
	else
		use_slot();
	see_to_failover();

	tell_reports();
	etl_change_writer_on_full(writer, while_full);
	etl_pgoutput_init(writer, published);
	start_stream(publication);
	follow();
}

/* Values are written there, and read here, in the same format. */
static void
set_values_format(void)
{
	static const char *const settings[][2] = {{"datestyle", "ISO, YMD"},
											  {"intervalstyle", "postgres"},
											  {"array_nulls", "on"},
											  {"xmloption", "content"}};

	for (int i = 0; i < (int) lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET,
						PGC_S_OVERRIDE);
}

void
etl_remote_settle(EtlRemote *there)
{
	static const char
		*const sql = "SELECT pg_catalog.set_config(name, value, false)"
					 " FROM (VALUES ('search_path', 'pg_catalog, pg_temp'),"
					 " ('datestyle', 'ISO'), ('intervalstyle', 'postgres'),"
					 " ('extra_float_digits', '3'), ('bytea_output', 'hex'),"
					 " ('timezone', 'UTC'), ('statement_timeout', '0'),"
					 " ('lock_timeout', '0'), ('xmloption', 'content'),"
					 " ('transaction_timeout', '0'),"
					 " ('default_transaction_read_only', 'off'))"
					 " AS settings (name, value) WHERE name IN"
					 " (SELECT s.name FROM pg_catalog.pg_settings s)";

	(void) etl_remote_query(there, sql, PGRES_TUPLES_OK);
	etl_remote_clear(there);
}

/* Connect, with what the owner of the pipeline may use. */
static EtlRemote *
connect_as(const char *server_name, Oid role, bool streams)
{
	ForeignServer *server = GetForeignServerByName(server_name, false);
	UserMapping *mapping;

	if (!etl_is_postgres_fdw(server->fdwid))
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("server \"%s\" is no server of postgres_fdw",
							   server_name)));
	if (!etl_may_use_server(server->serverid, role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for foreign server %s", server_name),
				 errhint("Grant it with GRANT USAGE ON FOREIGN SERVER %s TO %s.",
						 quote_identifier(server_name),
						 quote_identifier(GetUserNameFromId(role, false)))));
	mapping = GetUserMapping(role, server->serverid);
	return streams ? etl_remote_connect_stream(server, mapping) :
					 etl_remote_connect(server, mapping);
}

/* The connection of the reader, which ends with the process. */
static void
connect_to_source(void)
{
	ResourceOwner owner = ResourceOwnerCreate(NULL, "etl_patterns reader");

	StartTransactionCommand();
	MemoryContextSwitchTo(reader_context);
	CurrentResourceOwner = owner;
	remote = connect_as(control->server, control->role, true);
	CurrentResourceOwner = CurTransactionResourceOwner;
	CommitTransactionCommand();
	MemoryContextSwitchTo(reader_context);
	before_shmem_exit(close_connection, (Datum) 0);
	PQsetNoticeReceiver(remote->conn, take_notice, NULL);
}

/* The server is to know at once that the slot is free. */
static void
close_connection(int code, Datum arg)
{
	etl_remote_disconnect(remote);
}

/* Later versions only warn that they do not find a publication. */
static void
take_notice(void *arg, const PGresult *result)
{
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	if (remote->streams && state != NULL && strcmp(state, "55000") == 0)
		has_lost_publication = true;
}

static PGresult *
ask(EtlRemote *there, const char *sql, int nfields)
{
	PGresult *result = etl_remote_query(there, sql, PGRES_TUPLES_OK);

	if (PQnfields(result) != nfields || PQntuples(result) != 1)
		ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
						errmsg("server \"%s\" has sent an unexpected result",
							   there->server)));
	return result;
}

static XLogRecPtr
read_lsn(const char *text)
{
	return DatumGetLSN(DirectFunctionCall1(pg_lsn_in, CStringGetDatum(text)));
}

/* What that server is like, and where its WAL ends. */
static void
look_at_source(void)
{
	PGresult *result;
	long timeout;

	if (PQserverVersion(remote->conn) < OLDEST_VERSION)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("server \"%s\" is older than PostgreSQL %d",
							   remote->server, OLDEST_VERSION / 10000)));
	etl_remote_settle(remote);
	result = ask(remote,
				 "SELECT CASE WHEN pg_is_in_recovery()"
				 " THEN pg_last_wal_replay_lsn()"
				 " ELSE pg_current_wal_insert_lsn() END, (SELECT setting"
				 " FROM pg_settings WHERE name = 'wal_sender_timeout')",
				 2);
	wal_end = read_lsn(PQgetvalue(result, 0, 0));
	timeout = atol(PQgetvalue(result, 0, 1));
	etl_remote_clear(remote);
	if (timeout > 0)
		status_every = Min(status_every, Max(timeout / 4, 1));
}

/* ------------------------------------------------------------------ */
/* the slot                                                             */

/*
 * Make the slot, once all transactions have ended there that write now.  One of
 * our name may be left of a reader whose pipeline did not get to know of it.
 */
static void
create_slot(void)
{
	const char *name = control->slot_name;
	XLogRecPtr consistent;
	PGresult *result;
	Slot slot;

	wait_for_slot(remote, name, &slot, SLOT_IN_USE, false);
	if (slot.exists && !slot.is_ours)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("replication slot \"%s\" exists on server \"%s\" and is not a pipeline's",
						name, remote->server),
				 errhint("Drop it there with pg_drop_replication_slot().")));
	if (slot.exists)
		drop_slot(remote, name);

	result = ask(remote,
				 psprintf("CREATE_REPLICATION_SLOT %s LOGICAL " PLUGIN
						  " NOEXPORT_SNAPSHOT",
						  quote_identifier(name)),
				 4);
	consistent = read_lsn(PQgetvalue(result, 0, 1));
	etl_remote_clear(remote);
	SpinLockAcquire(&control->mutex);
	control->consistent = consistent;
	SpinLockRelease(&control->mutex);
	SetLatch(control->applier_latch);
	control->start = consistent;
}

/* See whether the slot has what is needed. */
static void
use_slot(void)
{
	const char *name = control->slot_name;
	Slot slot;

	wait_for_slot(remote, name, &slot, SLOT_IN_USE, false);
	if (slot.exists && slot.is_ours && !slot.is_lost)
	{
		control->start = Max(control->start, slot.confirmed);
		return;
	}
	control->slot_lost = true;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 slot.exists ?
				 errmsg("replication slot \"%s\" of server \"%s\" has lost changes that were still needed",
						name, remote->server) :
				 errmsg("replication slot \"%s\" does not exist on server \"%s\" any more",
						name, remote->server),
			 errhint("Call etl_cdc_resync() to copy the tables anew.")));
}

/*
 * Have the slot copied to standbys of that server, if it names some that must
 * have what it sends.  Without, one that takes over could lack changes that are
 * applied here, and have others of the same positions instead.
 */
static void
see_to_failover(void)
{
	char *name = control->slot_name;
	bool is_standby;
	bool is_copied;
	bool wanted;
	PGresult *result;

	if (PQserverVersion(remote->conn) < FAILOVER_VERSION)
		return;
	result = ask(remote,
				 psprintf("SELECT pg_is_in_recovery(), failover,"
						  " current_setting('synchronized_standby_slots') <> ''"
						  " FROM pg_replication_slots WHERE slot_name = %s",
						  quote_literal_cstr(name)),
				 3);
	is_standby = strcmp(PQgetvalue(result, 0, 0), "t") == 0;
	is_copied = strcmp(PQgetvalue(result, 0, 1), "t") == 0;
	wanted = strcmp(PQgetvalue(result, 0, 2), "t") == 0;
	etl_remote_clear(remote);
	if (is_standby || is_copied == wanted)
		return;
	(void) etl_remote_query(remote,
							psprintf("ALTER_REPLICATION_SLOT %s (FAILOVER %s)",
									 quote_identifier(name),
									 wanted ? "true" : "false"),
							PGRES_COMMAND_OK);
	etl_remote_clear(remote);
}

/*
 * Look at a slot, once nobody uses it; that may take as long as the server
 * needs to notice that a connection is gone.
 */
static void
wait_for_slot(EtlRemote *there, const char *name, Slot *slot, long limit,
			  bool terminate)
{
	TimestampTz start = GetCurrentTimestamp();

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();

		look_at_slot(there, name, slot);
		if (!slot->in_use)
			return;
		if (TimestampDifferenceExceeds(start, now, limit))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("replication slot \"%s\" of server \"%s\" is in use by process %d there",
							name, there->server, slot->pid),
					 errhint(
						 "It ends by itself, or by pg_terminate_backend() there.")));
		if (terminate && TimestampDifferenceExceeds(start, now, TERMINATE_AFTER))
		{
			(void) ask(there,
					   psprintf("SELECT pg_catalog.pg_terminate_backend(%d)",
								slot->pid),
					   1);
			etl_remote_clear(there);
			terminate = false;
		}
		nap(SLOT_IN_USE_IN);
	}
}

static void
nap(long timeout)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 timeout, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* What older servers do not tell is asked for by way of jsonb. */
static void
look_at_slot(EtlRemote *there, const char *name, Slot *slot)
{
	PGresult *result;

	result =
		etl_remote_query(there,
						 psprintf("SELECT plugin = '" PLUGIN "'"
								  " AND database = current_database(), active,"
								  " coalesce(active_pid, 0),"
								  " coalesce(confirmed_flush_lsn, '0/0'),"
								  " restart_lsn IS NULL"
								  " OR coalesce(to_jsonb(s)->>'wal_status', '') = 'lost'"
								  " OR coalesce(to_jsonb(s)->>'conflicting', '') = 'true'"
								  " OR to_jsonb(s)->>'invalidation_reason' IS NOT NULL"
								  " FROM pg_replication_slots s WHERE slot_name = %s",
								  quote_literal_cstr(name)),
						 PGRES_TUPLES_OK);
	memset(slot, 0, sizeof(Slot));
	if (PQntuples(result) == 1 && PQnfields(result) == 5)
	{
		slot->exists = true;
		slot->is_ours = strcmp(PQgetvalue(result, 0, 0), "t") == 0;
		slot->in_use = strcmp(PQgetvalue(result, 0, 1), "t") == 0;
		slot->pid = atoi(PQgetvalue(result, 0, 2));
		slot->confirmed = read_lsn(PQgetvalue(result, 0, 3));
		slot->is_lost = strcmp(PQgetvalue(result, 0, 4), "t") == 0;
	}
	etl_remote_clear(there);
}

static void
drop_slot(EtlRemote *there, const char *name)
{
	(void) ask(there,
			   psprintf("SELECT pg_catalog.pg_drop_replication_slot(%s)",
						quote_literal_cstr(name)),
			   1);
	etl_remote_clear(there);
}

/*
 * Drop a slot, and the publication that was made with it; nothing happens if
 * they are not there.
 */
void
etl_wal_drop_remote_slot(const char *server, Oid role, const char *slot_name)
{
	EtlRemote *there = connect_as(server, role, false);
	Slot slot;

	etl_remote_settle(there);
	wait_for_slot(there, slot_name, &slot, DROP_WAIT, true);
	if (slot.exists)
		drop_slot(there, slot_name);
	etl_publication_drop(there, slot_name);
	etl_remote_disconnect(there);
}

/* ------------------------------------------------------------------ */
/* the stream                                                           */

/* Tell the process that applies that tables may be copied. */
static void
tell_reports(void)
{
	strlcpy(control->source_db, PQdb(remote->conn), NAMEDATALEN);
	SpinLockAcquire(&control->mutex);
	control->reports = true;
	SpinLockRelease(&control->mutex);
	SetLatch(control->applier_latch);
}

static void
start_stream(const char *publication)
{
	char *names = quote_literal_cstr(quote_identifier(publication));

	(void) etl_remote_query(remote,
							psprintf("START_REPLICATION SLOT %s LOGICAL %X/%X"
									 " (proto_version '1', publication_names %s)",
									 quote_identifier(control->slot_name),
									 LSN_FORMAT_ARGS(control->start), names),
							PGRES_COPY_BOTH);
	etl_remote_clear(remote);
	remote->streams = true;
	received = reported = idle = control->start;
	heard_at = sent_at = status_at = GetCurrentTimestamp();
}

/* Take what comes, for ever. */
static void
follow(void)
{
	for (;;)
	{
		TimestampTz now;
		long timeout;

		CHECK_FOR_INTERRUPTS();
		take_all();
		if (!etl_change_writer_flush(writer))
			etl_wal_leave();
		sent_at = now = GetCurrentTimestamp();
		look_around(now);
		timeout = report_idle(now);
		end_xact();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (catchupInterruptPending)
			ProcessCatchupInterrupt();
		etl_remote_stream_wait(remote, timeout);
	}
}

/* Take what has come. */
static void
take_all(void)
{
	int nmessages = 0;
	int len;

	while ((len = etl_remote_stream_data(remote)) > 0)
	{
		begin_xact();
		take_message(remote->buffer, len);
		was_asked = false;
		if (++nmessages % MESSAGES_PER_LOOK == 0)
			keep_order();
		if (nmessages % MESSAGES_PER_XACT == 0)
			end_xact();
		CHECK_FOR_INTERRUPTS();
	}
	if (nmessages > 0)
		heard_at = GetCurrentTimestamp();
	if (has_lost_publication)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("server \"%s\" does not find the publication that has the tables",
						remote->server)));
}

/* A piece of the stream, or how far the server is. */
static void
take_message(char *data, int len)
{
	if (data[0] == 'w' && len >= XLOG_DATA_SIZE)
	{
		XLogRecPtr lsn = get_int64(data + 1);

		wal_end = Max(wal_end, (XLogRecPtr) get_int64(data + 9));
		etl_pgoutput_message(data + XLOG_DATA_SIZE, len - XLOG_DATA_SIZE, lsn);
		received = Max(received, lsn);
		if (!etl_pgoutput_in_xact())
			idle = Max(idle, etl_pgoutput_last_commit());
	}
	else if (data[0] == 'k' && len >= KEEPALIVE_SIZE)
	{
		XLogRecPtr position = get_int64(data + 1);

		wal_end = Max(wal_end, position);
		received = Max(received, position);
		if (!etl_pgoutput_in_xact())
			idle = Max(idle, position);
		if (data[KEEPALIVE_SIZE - 1] != 0)
			send_status(GetCurrentTimestamp(), false);
	}
	else
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("server \"%s\" has sent an invalid message of replication",
						remote->server)));
}

/* Input functions may look at catalogs. */
static void
begin_xact(void)
{
	if (IsTransactionState())
		return;
	StartTransactionCommand();
	MemoryContextSwitchTo(reader_context);
}

static void
end_xact(void)
{
	if (IsTransactionState())
		CommitTransactionCommand();
	MemoryContextSwitchTo(reader_context);
}

/* While more has come already: send, and see what is new. */
static void
keep_order(void)
{
	TimestampTz now = GetCurrentTimestamp();

	heard_at = now;
	if (etl_change_writer_is_empty(writer))
		sent_at = now;
	else if (TimestampDifferenceExceeds(sent_at, now, SEND_AFTER))
	{
		if (!etl_change_writer_flush(writer))
			etl_wal_leave();
		sent_at = now;
	}
	look_around(now);
}

/* See what the process that applies says, and tell it, and the server. */
static void
look_around(TimestampTz now)
{
	XLogRecPtr read = Max(received, idle);
	XLogRecPtr flushed = etl_wal_look(control, read, Max(wal_end, read), now);

	if (flushed > confirmed ||
		TimestampDifferenceExceeds(status_at, now, (int) status_every))
		send_status(now, false);
	check_silence(now);
}

/* A connection may be dead without either side having been told. */
static void
check_silence(TimestampTz now)
{
	if (TimestampDifferenceExceeds(heard_at, now, GIVE_UP_AFTER))
		ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE),
						errmsg("server \"%s\" does not answer any more",
							   remote->server)));
	if (was_asked || !TimestampDifferenceExceeds(heard_at, now, ASK_AFTER))
		return;
	send_status(now, true);
	was_asked = true;
}

/* Tell the server what it need not keep any more. */
static void
send_status(TimestampTz now, bool asks)
{
	char status[STATUS_SIZE];
	XLogRecPtr flushed;

	SpinLockAcquire(&control->mutex);
	flushed = control->flushed;
	SpinLockRelease(&control->mutex);

	status[0] = 'r';
	put_int64(status + 1, flushed);	 /* written */
	put_int64(status + 9, flushed);	 /* flushed */
	put_int64(status + 17, flushed); /* applied */
	put_int64(status + 25, (uint64) now);
	status[STATUS_SIZE - 1] = asks ? 1 : 0;
	if (etl_remote_stream_send(remote, status, STATUS_SIZE))
	{
		confirmed = flushed;
		status_at = now;
	}
}

/*
 * Before waiting: write the position that was reached, if it is a new one, but
 * not too often, since that wakes the process that applies.  Returns how long
 * to wait.
 */
static long
report_idle(TimestampTz now)
{
	long passed = TimestampDifferenceMilliseconds(reported_at, now);

	reported = Max(reported, etl_pgoutput_last_commit());
	if (idle <= reported || etl_pgoutput_in_xact())
		return Min(LOOK_EVERY, status_every);
	if (passed < REPORT_EVERY)
		return REPORT_EVERY - passed;
	if (!etl_change_write_idle(writer, idle) || !etl_change_writer_flush(writer))
		etl_wal_leave();
	reported = idle;
	reported_at = now;
	return Min(LOOK_EVERY, status_every);
}

/*
 * The queue is full: nothing is read, which the server may take for our end.
 * It is not its silence either.
 */
static void
while_full(void)
{
	TimestampTz now;

	nap(Min(LOOK_EVERY, status_every));
	heard_at = now = GetCurrentTimestamp();
	look_around(now);
}

static uint64
get_int64(const char *data)
{
	uint64 value;

	memcpy(&value, data, sizeof(value));
	return pg_ntoh64(value);
}

static void
put_int64(char *data, uint64 value)
{
	value = pg_hton64(value);
	memcpy(data, &value, sizeof(value));
}
