/*-------------------------------------------------------------------------
 *
 * bulk_workers.c
 *	  The background workers of a load: starting them, talking to them, ending
 *	  them.
 *
 * The segment belongs to the resource owner that is current when it is made.
 * If the load fails, it is detached with all that the owner holds, and by this
 * the workers end; else etl_bulk_workers_stop() detaches it and waits for them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/shm_toc.h"
#include "utils/guc.h"

#include "source/bulk_link.h"

#define WORKER "etl_patterns bulk worker"

struct EtlBulkWorkers
{
	dsm_segment *segment;
	EtlBulkShared *shared;
	int count;
	uint32 epoch;
	BackgroundWorkerHandle *handles[ETL_BULK_MAX_WORKERS];
	shm_mq_handle *commands[ETL_BULK_MAX_WORKERS];
	shm_mq_handle *messages[ETL_BULK_MAX_WORKERS];
};

/* A queue of the segment. */
static shm_mq *
make_queue(shm_toc *toc, uint64 key, Size size)
{
	shm_mq *queue = shm_mq_create(shm_toc_allocate(toc, size), size);

	shm_toc_insert(toc, key, queue);
	return queue;
}

/* Make the segment, with queues for so many workers. */
static void
make_segment(EtlBulkWorkers *workers, int wanted)
{
	shm_toc_estimator estimator;
	EtlBulkShared *shared;
	shm_toc *toc;
	Size size;

	shm_toc_initialize_estimator(&estimator);
	shm_toc_estimate_chunk(&estimator, sizeof(EtlBulkShared));
	for (int i = 0; i < wanted; i++)
	{
		shm_toc_estimate_chunk(&estimator, ETL_BULK_COMMANDS_SIZE);
		shm_toc_estimate_chunk(&estimator, ETL_BULK_MESSAGES_SIZE);
	}
	shm_toc_estimate_keys(&estimator, 1 + 2 * wanted);
	size = shm_toc_estimate(&estimator);
	workers->segment = dsm_create(size, 0);
	toc = shm_toc_create(ETL_BULK_MAGIC, dsm_segment_address(workers->segment),
						 size);

	shared = shm_toc_allocate(toc, sizeof(EtlBulkShared));
	workers->shared = shared;
	pg_atomic_init_u64(&shared->hashed_by_load, 0);
	pg_atomic_init_u64(&shared->hashed_by_worker, 0);
	shared->encoding = GetDatabaseEncoding();
	strlcpy(shared->timezone, GetConfigOption("timezone", false, false),
			sizeof(shared->timezone));
	strlcpy(shared->abbreviations,
			GetConfigOption("timezone_abbreviations", false, false),
			sizeof(shared->abbreviations));
	for (int i = 0; i < ETL_BULK_PARITIES; i++)
		pg_atomic_init_u64(&shared->parities[i], 0);
	shm_toc_insert(toc, ETL_BULK_KEY_SHARED, shared);

	for (int i = 0; i < wanted; i++)
	{
		shm_mq *commands = make_queue(toc, ETL_BULK_KEY_COMMANDS + 2 * i,
									  ETL_BULK_COMMANDS_SIZE);
		shm_mq *messages = make_queue(toc, ETL_BULK_KEY_MESSAGES + 2 * i,
									  ETL_BULK_MESSAGES_SIZE);

		shm_mq_set_sender(commands, MyProc);
		shm_mq_set_receiver(messages, MyProc);
		workers->commands[i] = shm_mq_attach(commands, workers->segment, NULL);
		workers->messages[i] = shm_mq_attach(messages, workers->segment, NULL);
	}
}

/* Register the next worker; false if none is free. */
static bool
start_worker(EtlBulkWorkers *workers)
{
	int number = workers->count;
	BackgroundWorker worker = {0};

	strlcpy(worker.bgw_name, WORKER, BGW_MAXLEN);
	strlcpy(worker.bgw_type, WORKER, BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "etl_patterns", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "etl_bulk_worker_main", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = UInt32GetDatum(dsm_segment_handle(workers->segment));
	worker.bgw_notify_pid = MyProcPid;
	memcpy(worker.bgw_extra, &number, sizeof(number));
	if (!RegisterDynamicBackgroundWorker(&worker, &workers->handles[number]))
		return false;
	shm_mq_set_handle(workers->commands[number], workers->handles[number]);
	shm_mq_set_handle(workers->messages[number], workers->handles[number]);
	workers->count++;
	return true;
}

/*
 * Start so many workers, or as many as are free; NULL if none is.  They live in
 * the current memory context, and until the current resource owner is released
 * at the latest.
 */
EtlBulkWorkers *
etl_bulk_workers_start(int wanted)
{
	EtlBulkWorkers *workers;

	Assert(wanted > 0 && wanted <= ETL_BULK_MAX_WORKERS);
	wanted = Min(wanted, max_worker_processes);
	if (wanted == 0)
		return NULL;
	workers = palloc0(sizeof(EtlBulkWorkers));
	make_segment(workers, wanted);
	while (workers->count < wanted && start_worker(workers))
		/* another one */;
	if (workers->count > 0)
		return workers;
	dsm_detach(workers->segment);
	pfree(workers);
	return NULL;
}

EtlBulkShared *
etl_bulk_shared(EtlBulkWorkers *workers)
{
	return workers->shared;
}

int
etl_bulk_workers_count(const EtlBulkWorkers *workers)
{
	return workers->count;
}

/* End the workers, and wait until they are gone. */
void
etl_bulk_workers_stop(EtlBulkWorkers *workers)
{
	dsm_detach(workers->segment);
	for (int i = 0; i < workers->count; i++)
	{
		(void) WaitForBackgroundWorkerShutdown(workers->handles[i]);
		pfree(workers->handles[i]);
	}
	pfree(workers);
}

/* What is sent before belongs to earlier epochs than this one. */
uint32
etl_bulk_next_epoch(EtlBulkWorkers *workers)
{
	return ++workers->epoch;
}

/* A worker is gone, which it never is by itself but after an error. */
pg_noreturn static void
throw_lost(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_ADMIN_SHUTDOWN),
			 errmsg("lost connection to a background worker of the load"),
			 errhint(
				 "The server's log may say why it ended. Load again, or use workers => 0.")));
}

/* Send a command. */
void
etl_bulk_send(EtlBulkWorkers *workers, int worker, const void *command, Size len)
{
	if (shm_mq_send(workers->commands[worker], len, command, false, true) !=
		SHM_MQ_SUCCESS)
		throw_lost();
}

/* Throw the error that a worker ended with. */
static void
throw_failed(const EtlBulkMessage *message)
{
	const char *text = (const char *) (message + 1);
	const char *detail = text + strlen(text) + 1;
	const char *hint = detail + strlen(detail) + 1;

	ereport(ERROR, (errcode(message->error_code), errmsg_internal("%s", text),
					detail[0] != '\0' ? errdetail_internal("%s", detail) : 0,
					hint[0] != '\0' ? errhint("%s", hint) : 0));
}

/* Wait for what a worker sends next; valid until the next call. */
static void *
receive(EtlBulkWorkers *workers, int worker, Size *len, EtlBulkIdleCall idle,
		void *arg)
{
	shm_mq_result result;
	void *data;

	do
	{
		CHECK_FOR_INTERRUPTS();
		result = shm_mq_receive(workers->messages[worker], len, &data, true);
	} while (result == SHM_MQ_WOULD_BLOCK && idle != NULL && idle(arg));
	if (result == SHM_MQ_WOULD_BLOCK)
		result = shm_mq_receive(workers->messages[worker], len, &data, false);
	if (result != SHM_MQ_SUCCESS)
		throw_lost();
	return data;
}

/*
 * The next message of a worker.  If it ended with an error, that is thrown.
 * idle(arg), unless NULL, is called while there is none.
 */
EtlBulkMessage *
etl_bulk_receive(EtlBulkWorkers *workers, int worker, Size *len,
				 EtlBulkIdleCall idle, void *arg)
{
	EtlBulkMessage *message = receive(workers, worker, len, idle, arg);

	if (*len < sizeof(EtlBulkMessage))
		elog(ERROR, "message of a worker is too short");
	if (message->kind == ETL_BULK_FAILED)
		throw_failed(message);
	return message;
}

/* The text that comes behind a message. */
const char *
etl_bulk_receive_text(EtlBulkWorkers *workers, int worker, Size wanted)
{
	Size len;
	const char *text = receive(workers, worker, &len, NULL, NULL);

	if (len != wanted)
		elog(ERROR, "text of %zu bytes came from a worker in place of %zu", len,
			 wanted);
	return text;
}
