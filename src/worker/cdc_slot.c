/*-------------------------------------------------------------------------
 *
 * cdc_slot.c
 *	  The slot of a pipeline: given up when the pipeline is dropped or begins
 *	  anew; and the end of the process that uses it.
 *
 * A slot does not obey transactions.  So it is dropped at the end of one, just
 * before the commit, if the pipeline then still is to have none: a rollback
 * leaves pipeline and slot as they were, an error of the drop takes back what
 * the transaction did.
 *
 * Locks: of who applies the pipeline (etl_cdc_lock), until the transaction
 * ends, after the row of the pipeline.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "replication/slot.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "etl_patterns.h"
#include "source/wal.h"
#include "worker/cdc_control.h"
#include "worker/shared.h"

/* Processes and slots are waited for so long, and looked at so often. */
#define MAX_WAIT_MS	  60000
#define LOOK_AFTER_MS 20

/* A slot to be dropped when the transaction commits. */
typedef struct Pending
{
	int64 pipeline_id;
	char slot_name[NAMEDATALEN];
	char *server; /* NULL: this one */
	Oid role;
} Pending;

static List *pending = NIL;

static void at_transaction_event(XactEvent event, void *arg);
static void drop_slot(Pending *slot);
static void drop_local_slot(const char *slot_name);
static bool is_used(const char *slot_name, bool *exists);

/* ------------------------------------------------------------------ */
/* processes                                                            */

/* Wait for a while; answers to cancel. */
static void
nap(void)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 LOOK_AFTER_MS, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * End the process of a pipeline whose row is locked, and keep others from
 * beginning before this transaction has ended.
 */
void
etl_cdc_end_process(const EtlCdcPipeline *pipeline)
{
	TimestampTz start = GetCurrentTimestamp();

	while (!etl_cdc_lock(pipeline->pipeline_id, false, false))
	{
		(void) etl_cdc_end(pipeline->pipeline_id);
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), MAX_WAIT_MS))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("the process of CDC pipeline \"%s\" has not ended within %d seconds",
							pipeline->name, MAX_WAIT_MS / 1000),
					 errhint("See its row in %s.cdc_status for its pid.",
							 ETL_SCHEMA)));
		nap();
	}
}

/* ------------------------------------------------------------------ */
/* slots                                                                */

/* Has the pipeline a slot that is its own, and not that of a copy of its row? */
bool
etl_cdc_owns_slot(const EtlCdcPipeline *pipeline)
{
	return strcmp(pipeline->slot_name, etl_cdc_slot_name(pipeline)) == 0;
}

/* Is there a slot of this server that is the pipeline's? */
static bool
has_local_slot(const EtlCdcPipeline *pipeline)
{
	bool exists;

	(void) is_used(pipeline->slot_name, &exists);
	return pipeline->server == NULL && etl_cdc_owns_slot(pipeline) && exists;
}

/*
 * Is there, or may there be soon, a slot that would stay if the rows of the
 * pipelines went away?
 */
bool
etl_cdc_holds_slot(const EtlCdcPipeline *pipeline)
{
	EtlCdcProgress progress;

	if (has_local_slot(pipeline) ||
		etl_cdc_progress(pipeline->pipeline_id, &progress))
		return true;
	return pipeline->server != NULL && pipeline->has_slot &&
		   etl_cdc_owns_slot(pipeline);
}

/*
 * Pipelines that were restored or copied from elsewhere have no slots here:
 * those that had been started must begin anew.
 */
void
etl_cdc_disown_slots(void)
{
	ListCell *lc;

	foreach(lc, etl_cdc_pipelines())
	{
		EtlCdcPipeline *pipeline =
			etl_cdc_by_id(((EtlCdcPipeline *) lfirst(lc))->pipeline_id, true);

		if (pipeline == NULL || has_local_slot(pipeline) ||
			(pipeline->server != NULL && etl_cdc_owns_slot(pipeline)))
			continue;
		if (pipeline->has_slot || pipeline->state != ETL_CDC_STOPPED)
		{
			pipeline->state = ETL_CDC_LOST;
			pipeline->error_code = NULL;
			pipeline->error_message =
				"the pipeline was restored or copied from another database";
			pipeline->error_hint = NULL;
			pipeline->error_change = NULL;
			pipeline->error_at = GetCurrentTimestamp();
		}
		pipeline->has_slot = false;
		pipeline->slot_name = etl_cdc_slot_name(pipeline);
		pipeline->applied = InvalidXLogRecPtr;
		pipeline->skip = InvalidXLogRecPtr;
		pipeline->retained_alert_at = 0;
		etl_cdc_update(pipeline);
	}
}

/*
 * Drop the slot of a pipeline when the transaction commits, unless the
 * pipeline has one again by then.  Here there may be one that its row does not
 * know of, from a process that was about to write that.
 */
void
etl_cdc_drop_slot_at_commit(const EtlCdcPipeline *pipeline)
{
	static bool registered = false;
	MemoryContext context;
	Pending *slot;

	if (!etl_cdc_owns_slot(pipeline) ||
		(pipeline->server != NULL && !pipeline->has_slot))
		return;
	if (!registered)
	{
		RegisterXactCallback(at_transaction_event, NULL);
		registered = true;
	}
	context = MemoryContextSwitchTo(TopTransactionContext);
	slot = palloc0(sizeof(Pending));
	slot->pipeline_id = pipeline->pipeline_id;
	strlcpy(slot->slot_name, pipeline->slot_name, NAMEDATALEN);
	slot->server = pipeline->server == NULL ? NULL : pstrdup(pipeline->server);
	slot->role = pipeline->role;
	pending = lappend(pending, slot);
	MemoryContextSwitchTo(context);
}

/* Is a slot still to go?  The extension may have gone with the pipeline. */
static bool
is_unwanted(const Pending *slot)
{
	EtlCdcPipeline *pipeline;

	if (!OidIsValid(get_extension_oid("etl_patterns", true)))
		return true;
	pipeline = etl_cdc_by_id(slot->pipeline_id, false);
	return pipeline == NULL || !pipeline->has_slot;
}

/* Drops are done before the commit, and forgotten with the transaction. */
static void
at_transaction_event(XactEvent event, void *arg)
{
	List *slots = pending;
	ListCell *lc;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			foreach(lc, slots)
				if (is_unwanted(lfirst(lc)))
					drop_slot(lfirst(lc));
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (slots != NIL)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg(
							 "cannot PREPARE a transaction that drops the slot of a pipeline")));
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
			pending = NIL;
			break;
		default:
			break;
	}
}

/* Whatever fails with another server, there is a way to do without it. */
static void
show_way_out(void *arg)
{
	const Pending *slot = arg;

	errcontext("drop of replication slot \"%s\" on server \"%s\"",
			   slot->slot_name, slot->server);
	errhint(
		"etl_cdc_drop(..., force => true) drops the pipeline and leaves that slot to whoever can reach the server.");
}

static void
drop_slot(Pending *slot)
{
	ErrorContextCallback callback;

	if (slot->server == NULL)
	{
		drop_local_slot(slot->slot_name);
		return;
	}
	callback.callback = show_way_out;
	callback.arg = slot;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	etl_wal_drop_remote_slot(slot->server, slot->role, slot->slot_name);
	error_context_stack = callback.previous;
}

/* Drop a slot of this server, once its process has left it; it may be gone. */
static void
drop_local_slot(const char *slot_name)
{
	TimestampTz start = GetCurrentTimestamp();
	bool exists;

	while (is_used(slot_name, &exists))
	{
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), MAX_WAIT_MS))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("replication slot \"%s\" is in use", slot_name),
					 errhint(
						 "The process that uses it is in pg_replication_slots; end it with pg_terminate_backend().")));
		nap();
	}
	if (exists)
		etl_wal_drop_local_slot(slot_name);
}

/* Does a slot exist, and does a process use it? */
static bool
is_used(const char *slot_name, bool *exists)
{
	ReplicationSlot *slot = SearchNamedReplicationSlot(slot_name, true);
	bool used = false;

	*exists = slot != NULL;
	if (slot != NULL)
	{
		SpinLockAcquire(&slot->mutex);
		used = slot->active_pid != 0;
		SpinLockRelease(&slot->mutex);
	}
	return used;
}
