/*-------------------------------------------------------------------------
 *
 * cdc_server.c
 *	  What must hold of the servers and of the owner for a pipeline to run.
 *
 * A definition may be made before the server is ready for it: then what is
 * missing is a warning, and an error when the pipeline is to start.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker_internals.h"
#include "replication/slot.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"

#include "etl_patterns.h"
#include "flow/cdc_check.h"
#include "source/wal_remote.h"
#include "worker/cdc_control.h"
#include "worker/job.h"
#include "worker/shared.h"

/* One that applies, one that reads. */
#define WORKERS_OF_PIPELINE 2

static int free_slots(void);
static int used_workers(void);
static void check_publication(const EtlCdcPipeline *pipeline, EtlRemote *remote);

/* ------------------------------------------------------------------ */
/* settings                                                             */

/*
 * Are settings of this server as a pipeline needs them?  With a level below
 * ERROR all that is missing is said.
 */
void
etl_cdc_check_settings(const EtlCdcPipeline *pipeline, int elevel)
{
	bool is_local = pipeline->server == NULL;

	if (is_local && wal_level < WAL_LEVEL_LOGICAL)
		ereport(elevel,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("CDC pipeline \"%s\" cannot run: \"wal_level\" must be \"logical\"",
						pipeline->name),
				 errhint(
					 "ALTER SYSTEM SET wal_level = 'logical'; then restart the server.")));
	if (etl_shared == NULL)
		ereport(elevel,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("CDC pipeline \"%s\" cannot run: \"%s\" is not preloaded",
						pipeline->name, "etl_patterns"),
				 errhint(
					 "Add etl_patterns to shared_preload_libraries; then restart the server.")));
	if (is_local && !pipeline->has_slot && free_slots() == 0)
		ereport(elevel,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("CDC pipeline \"%s\" cannot run: all replication slots are in use",
						pipeline->name),
				 errdetail("\"max_replication_slots\" is %d.",
						   max_replication_slots),
				 errhint(
					 "Drop a slot that is not needed, or set max_replication_slots higher and restart the server.")));
}

/* How many replication slots more there may be. */
static int
free_slots(void)
{
	int n = max_replication_slots;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots; i++)
		if (ReplicationSlotCtl->replication_slots[i].in_use)
			n--;
	LWLockRelease(ReplicationSlotControlLock);
	return n;
}

/* Warn if the processes of a pipeline may not be had. */
void
etl_cdc_check_workers(const EtlCdcPipeline *pipeline)
{
	int used = used_workers();

	if (used + WORKERS_OF_PIPELINE > max_worker_processes)
		ereport(WARNING,
				(errmsg("there are too few background workers for CDC pipeline \"%s\"",
						pipeline->name),
				 errdetail("It takes %d. %d of %d (\"max_worker_processes\") are in use.",
						   WORKERS_OF_PIPELINE, used, max_worker_processes),
				 errhint(
					 "It starts when some are free. Consider increasing \"max_worker_processes\".")));
}

/* How many background workers there are now. */
static int
used_workers(void)
{
	int n = pgstat_fetch_stat_numbackends();
	int used = 0;

	for (int i = 1; i <= n; i++)
	{
		LocalPgBackendStatus *entry = etl_backend_entry(i);

		if (entry != NULL && entry->backendStatus.st_backendType == B_BG_WORKER)
			used++;
	}
	return used;
}

/* ------------------------------------------------------------------ */
/* owner                                                                */

/*
 * May the owner of a pipeline have one?  A slot keeps the server's WAL, which
 * is up to who may replicate; and its process connects as the owner.
 */
void
etl_cdc_check_owner(const EtlCdcPipeline *pipeline)
{
	const char *reason = etl_role_cannot_run(pipeline->role);
	const char *role;

	if (reason != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("CDC pipeline \"%s\" cannot run: %s", pipeline->name,
						reason),
				 errhint("The process of a pipeline connects as its owner.")));
	role = GetUserNameFromId(pipeline->role, false);
	if (pipeline->server == NULL && !superuser_arg(pipeline->role) &&
		!has_rolreplication(pipeline->role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to follow this server's changes"),
				 errdetail("Role \"%s\" has no REPLICATION privilege.", role),
				 errhint("A superuser can give it with ALTER ROLE %s REPLICATION.",
						 quote_identifier(role))));
}

/* ------------------------------------------------------------------ */
/* the other server                                                     */

/* Is there a publication with the tables there, or can one be made? */
static void
check_publication(const EtlCdcPipeline *pipeline, EtlRemote *remote)
{
	List *tables = NIL;
	ListCell *lc;

	foreach(lc, etl_cdc_tables(pipeline->pipeline_id))
	{
		const EtlCdcTable *row = lfirst(lc);
		List *names = etl_qualified_names(row->source);
		EtlWalTable *table = palloc0(sizeof(EtlWalTable));

		table->schema = strVal(linitial(names));
		table->name = strVal(llast(names));
		tables = lappend(tables, table);
	}
	etl_remote_settle(remote);
	(void) etl_publication(remote, pipeline->slot_name,
						   etl_published_tables(remote, tables),
						   !pipeline->has_slot, NULL);
}

/* Can it be reached, and does it let its changes be followed? */
void
etl_cdc_check_remote(const EtlCdcPipeline *pipeline)
{
	static const char
		*const sql = "SELECT pg_catalog.current_setting('wal_level'),"
					 " r.rolreplication OR r.rolsuper, r.rolname"
					 " FROM pg_catalog.pg_roles r"
					 " WHERE r.rolname OPERATOR(pg_catalog.=) CURRENT_USER";
	EtlRemote *remote = etl_cdc_connect(pipeline);
	PGresult *result = etl_remote_query(remote, sql, PGRES_TUPLES_OK);

	if (PQntuples(result) != 1 || PQnfields(result) != 3)
		ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
						errmsg("server \"%s\" has sent an unexpected result",
							   pipeline->server)));
	if (strcmp(PQgetvalue(result, 0, 0), "logical") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("CDC pipeline \"%s\" cannot run: \"wal_level\" must be \"logical\" on server \"%s\"",
						pipeline->name, pipeline->server),
				 errhint(
					 "There: ALTER SYSTEM SET wal_level = 'logical'; then restart that server.")));
	if (strcmp(PQgetvalue(result, 0, 1), "t") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to follow the changes of server \"%s\"",
						pipeline->server),
				 errdetail("Role \"%s\" of that server has no REPLICATION privilege.",
						   PQgetvalue(result, 0, 2)),
				 errhint(
					 "There: ALTER ROLE ... REPLICATION, for the role of the user mapping.")));
	etl_remote_clear(remote);
	check_publication(pipeline, remote);
	etl_remote_disconnect(remote);
}
