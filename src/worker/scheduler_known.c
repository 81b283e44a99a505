/*-------------------------------------------------------------------------
 *
 * scheduler_known.c
 *	  The jobs and runs that a scheduler knows, in the orders it needs.
 *
 * Four orders: jobs by the time of their next claim; the runs of each job that
 * wait; runs that are ready, over all jobs; runs by when to look at them again.
 * All are heaps whose nodes are part of the entries, so that nothing is
 * allocated per change, and nothing is walked.
 *
 * Invariants:
 *	- Only runs that have not ended are known.
 *	- Of a job whose runs must not overlap at most one run is ready, and none
 *	  while one is active.
 *	- A run of a paused job is parked, unless somebody asked for it by hand.
 *
 * No transaction and no lock is needed here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "worker/scheduler.h"

/* After so long a run that is ready has been waiting for a worker too long. */
#define STARVED_AFTER (1 * USECS_PER_SEC)

static MemoryContext known_context = NULL;
static HTAB *jobs;
static HTAB *runs;
static pairingheap claims;
static pairingheap ready;
static pairingheap deadlines;
static dlist_head file_jobs;
static dlist_head foreign_runs;
static int64 active_jobs;

static void queue_run(EtlKnownRun *run);
static void unqueue_run(EtlKnownRun *run);
static EtlKnownRun *first_run(pairingheap *heap);
static void offer(EtlKnownJob *job);
static void set_ready(EtlKnownRun *run, bool is_ready);
static void set_active(EtlKnownRun *run, bool is_active);

/* ------------------------------------------------------------------ */
/* orders                                                               */

static int
compare_times(TimestampTz a, int64 a_id, TimestampTz b, int64 b_id)
{
	if (a != b)
		return a < b ? 1 : -1;
	return a_id == b_id ? 0 : (a_id < b_id ? 1 : -1);
}

static int
compare_claims(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	const EtlKnownJob *left = pairingheap_const_container(EtlKnownJob,
														  claim_node, a);
	const EtlKnownJob *right = pairingheap_const_container(EtlKnownJob,
														   claim_node, b);

	return compare_times(left->claim_at, left->job_id, right->claim_at,
						 right->job_id);
}

static int
compare_waiting(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	const EtlKnownRun *left = pairingheap_const_container(EtlKnownRun, job_node,
														  a);
	const EtlKnownRun *right = pairingheap_const_container(EtlKnownRun,
														   job_node, b);

	return compare_times(left->due_at, left->job_run_id, right->due_at,
						 right->job_run_id);
}

static int
compare_ready(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	const EtlKnownRun *left = pairingheap_const_container(EtlKnownRun,
														  ready_node, a);
	const EtlKnownRun *right = pairingheap_const_container(EtlKnownRun,
														   ready_node, b);

	return compare_times(left->ready_at, left->job_run_id, right->ready_at,
						 right->job_run_id);
}

static int
compare_deadlines(const pairingheap_node *a, const pairingheap_node *b,
				  void *arg)
{
	const EtlKnownRun *left = pairingheap_const_container(EtlKnownRun,
														  deadline_node, a);
	const EtlKnownRun *right = pairingheap_const_container(EtlKnownRun,
														   deadline_node, b);

	return compare_times(left->deadline, left->job_run_id, right->deadline,
						 right->job_run_id);
}

static void
init_heap(pairingheap *heap, pairingheap_comparator compare)
{
	heap->ph_compare = compare;
	heap->ph_arg = NULL;
	heap->ph_root = NULL;
}

static HTAB *
make_table(const char *name, Size entry_size)
{
	HASHCTL control = {.keysize = sizeof(int64),
					   .entrysize = entry_size,
					   .hcxt = known_context};

	return hash_create(name, 256, &control,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Forget everything. */
void
etl_known_reset(void)
{
	if (known_context == NULL)
		known_context = AllocSetContextCreate(TopMemoryContext,
											  "etl_patterns scheduler",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(known_context);
	jobs = make_table("etl_patterns jobs", sizeof(EtlKnownJob));
	runs = make_table("etl_patterns runs", sizeof(EtlKnownRun));
	init_heap(&claims, compare_claims);
	init_heap(&ready, compare_ready);
	init_heap(&deadlines, compare_deadlines);
	dlist_init(&file_jobs);
	dlist_init(&foreign_runs);
	active_jobs = 0;
}

/* ------------------------------------------------------------------ */
/* jobs                                                                 */

EtlKnownJob *
etl_known_job(int64 job_id)
{
	return hash_search(jobs, &job_id, HASH_FIND, NULL);
}

static EtlKnownJob *
add_job(int64 job_id)
{
	bool found;
	EtlKnownJob *job = hash_search(jobs, &job_id, HASH_ENTER, &found);

	if (!found)
	{
		memset((char *) job + sizeof(job_id), 0,
			   sizeof(EtlKnownJob) - sizeof(job_id));
		job->state = ETL_JOB_DONE;
		init_heap(&job->waiting, compare_waiting);
		init_heap(&job->backfill, compare_waiting);
		dlist_init(&job->parked);
	}
	return job;
}

static List *
unqueue_all(List *waiting, pairingheap *heap)
{
	while (!pairingheap_is_empty(heap))
	{
		EtlKnownRun *run = first_run(heap);

		unqueue_run(run);
		waiting = lappend(waiting, run);
	}
	return waiting;
}

/* The runs of a job that wait are put where they belong now. */
static void
requeue_runs(EtlKnownJob *job)
{
	List *waiting = unqueue_all(NIL, &job->waiting);
	ListCell *lc;

	waiting = unqueue_all(waiting, &job->backfill);
	while (!dlist_is_empty(&job->parked))
	{
		EtlKnownRun *run = dlist_head_element(EtlKnownRun, parked_node,
											  &job->parked);

		unqueue_run(run);
		waiting = lappend(waiting, run);
	}
	foreach(lc, waiting)
		queue_run(lfirst(lc));
	list_free(waiting);
}

/*
 * Does the job wait for files?  Its text is not parsed for that, since it might
 * be one that cannot be.
 */
static bool
is_on_file(const EtlJob *row)
{
	const char *text = row->schedule;

	if (row->state != ETL_JOB_ACTIVE || row->next_slot != 0 ||
		row->event != NULL)
		return false;
	while (isspace((unsigned char) *text))
		text++;
	if (pg_strncasecmp(text, "on", 2) != 0)
		return false;
	text += 2;
	while (isspace((unsigned char) *text))
		text++;
	return pg_strncasecmp(text, "file:", 5) == 0;
}

static void
set_on_file(EtlKnownJob *job, bool is_on_file)
{
	if (job->is_on_file == is_on_file)
		return;
	if (is_on_file)
		dlist_push_tail(&file_jobs, &job->file_node);
	else
		dlist_delete(&job->file_node);
	job->is_on_file = is_on_file;
}

/* The job is as it was just read. */
void
etl_known_job_set(const EtlJob *row)
{
	EtlKnownJob *job = add_job(row->job_id);
	bool moves_runs = job->overlap != row->overlap || job->state != row->state;

	active_jobs += (row->state == ETL_JOB_ACTIVE) -
				   (job->state == ETL_JOB_ACTIVE);
	job->overlap = row->overlap;
	job->state = row->state;
	job->timeout = row->has_timeout ? etl_interval_usec(&row->timeout) : 0;
	job->has_alert_after = row->has_alert_after;
	job->alert_after = row->alert_after;
	job->next_slot = row->next_slot;
	etl_known_claim_at(job, row->state == ETL_JOB_ACTIVE ? row->next_slot : 0);
	set_on_file(job, is_on_file(row));
	if (moves_runs)
		requeue_runs(job);
}

/* The job was dropped.  Its runs that wait will be, those that run go on. */
void
etl_known_job_forget(int64 job_id)
{
	EtlKnownJob *job = etl_known_job(job_id);
	HASH_SEQ_STATUS status;
	EtlKnownRun *run;

	if (job == NULL)
		return;
	hash_seq_init(&status, runs);
	while ((run = hash_seq_search(&status)) != NULL)
	{
		if (run->job != job)
			continue;
		unqueue_run(run);
		set_active(run, false);
		run->job = NULL;
	}
	etl_known_claim_at(job, 0);
	set_on_file(job, false);
	if (job->state == ETL_JOB_ACTIVE)
		active_jobs--;
	(void) hash_search(jobs, &job_id, HASH_REMOVE, NULL);
}

/* When to claim slots of the job; 0: never. */
void
etl_known_claim_at(EtlKnownJob *job, TimestampTz when)
{
	if (job->claim_at == when)
		return;
	if (job->claim_at != 0)
		pairingheap_remove(&claims, &job->claim_node);
	job->claim_at = when;
	if (when != 0)
		pairingheap_add(&claims, &job->claim_node);
}

/* The job that is to be claimed first, or NULL. */
EtlKnownJob *
etl_known_next_claim(void)
{
	if (pairingheap_is_empty(&claims))
		return NULL;
	return pairingheap_container(EtlKnownJob, claim_node,
								 pairingheap_first(&claims));
}

int64
etl_known_active_jobs(void)
{
	return active_jobs;
}

dlist_head *
etl_known_file_jobs(void)
{
	return &file_jobs;
}

/* ------------------------------------------------------------------ */
/* runs                                                                 */

EtlKnownRun *
etl_known_run(int64 job_run_id)
{
	return hash_search(runs, &job_run_id, HASH_FIND, NULL);
}

static void
set_foreign(EtlKnownRun *run, bool is_foreign)
{
	if (run->is_foreign == is_foreign)
		return;
	if (is_foreign)
		dlist_push_tail(&foreign_runs, &run->foreign_node);
	else
		dlist_delete(&run->foreign_node);
	run->is_foreign = is_foreign;
}

/* When the run is late, by what alert.c says. */
static TimestampTz
alert_time(const EtlKnownRun *run, const EtlJobRun *row)
{
	EtlJob job = {0};

	if (run->job == NULL || !run->job->has_alert_after)
		return 0;
	job.job_id = run->job->job_id;
	job.state = run->job->state;
	job.has_alert_after = true;
	job.alert_after = run->job->alert_after;
	return etl_alert_due(&job, row);
}

/*
 * The run is as it was just read.  Its job should be known by now, or it is
 * taken for dropped.
 */
void
etl_known_run_set(const EtlJobRun *row)
{
	EtlKnownRun *run;
	bool found;

	if (row->status != ETL_RUN_WAITING && row->status != ETL_RUN_RUNNING)
	{
		etl_known_run_forget(row->job_run_id);
		return;
	}
	run = hash_search(runs, &row->job_run_id, HASH_ENTER, &found);
	if (!found)
	{
		memset((char *) run + sizeof(run->job_run_id), 0,
			   sizeof(EtlKnownRun) - sizeof(run->job_run_id));
		run->slot = -1;
	}
	unqueue_run(run);
	run->job = etl_known_job(row->job_id);
	run->role = row->role;
	run->origin = row->origin;
	run->status = row->status;
	run->due_at = row->due_at;
	run->ready_at = Max(run->ready_at, row->due_at);
	run->started_at = row->started_at;
	run->is_starved = row->reason != NULL;
	run->alert_at = alert_time(run, row);
	set_active(run, run->slot >= 0 || run->status == ETL_RUN_RUNNING);
	set_foreign(run, run->slot < 0 && run->status == ETL_RUN_RUNNING);
	if (!run->is_active)
		queue_run(run);
	etl_known_set_deadline(run);
}

/* The run has ended. */
void
etl_known_run_forget(int64 job_run_id)
{
	EtlKnownRun *run = etl_known_run(job_run_id);

	if (run == NULL)
		return;
	unqueue_run(run);
	set_active(run, false);
	set_foreign(run, false);
	run->alert_at = run->starved_at = run->terminate_at = 0;
	etl_known_set_deadline(run);
	/* room for slots that had to wait for it */
	if (run->job != NULL && run->job->claim_at != 0 &&
		run->job->claim_at != run->job->next_slot)
		etl_known_claim_at(run->job, run->job->next_slot);
	(void) hash_search(runs, &job_run_id, HASH_REMOVE, NULL);
}

/* A worker has it. */
void
etl_known_hand_out(EtlKnownRun *run, int slot)
{
	set_active(run, true);
	unqueue_run(run);
	set_foreign(run, false);
	run->slot = slot;
}

/* The worker has it no more; what it is now is to be read. */
void
etl_known_returned(EtlKnownRun *run)
{
	run->slot = -1;
	run->terminate_at = 0;
	etl_known_set_deadline(run);
}

/* A run that waits is not to be handed out before a moment. */
void
etl_known_delay(EtlKnownRun *run, TimestampTz ready_at)
{
	unqueue_run(run);
	run->ready_at = Max(run->due_at, ready_at);
	if (!run->is_active)
		queue_run(run);
}

int64
etl_known_runs(void)
{
	return hash_get_num_entries(runs);
}

/* How many runs are due and wait. */
int64
etl_known_due_runs(TimestampTz now)
{
	HASH_SEQ_STATUS status;
	EtlKnownRun *run;
	int64 n = 0;

	hash_seq_init(&status, runs);
	while ((run = hash_seq_search(&status)) != NULL)
		if (run->status == ETL_RUN_WAITING && run->due_at <= now)
			n++;
	return n;
}

dlist_head *
etl_known_foreign_runs(void)
{
	return &foreign_runs;
}

/* ------------------------------------------------------------------ */
/* which of them are ready                                              */

/* A run that waits takes its place among those of its job. */
static void
queue_run(EtlKnownRun *run)
{
	EtlKnownJob *job = run->job;

	Assert(run->place == ETL_PLACE_NONE);
	if (job == NULL)
		return;
	if (job->state == ETL_JOB_PAUSED && run->origin != ETL_ORIGIN_MANUAL)
	{
		run->place = ETL_PLACE_PARKED;
		dlist_push_tail(&job->parked, &run->parked_node);
		return;
	}
	if (run->origin == ETL_ORIGIN_BACKFILL)
	{
		run->place = ETL_PLACE_BACKFILL;
		pairingheap_add(&job->backfill, &run->job_node);
	}
	else
	{
		run->place = ETL_PLACE_WAITING;
		pairingheap_add(&job->waiting, &run->job_node);
	}
	if (job->overlap == ETL_OVERLAP_ALLOW)
		set_ready(run, true);
	else
		offer(job);
}

/* The opposite; it need not have a place. */
static void
unqueue_run(EtlKnownRun *run)
{
	EtlRunPlace place = run->place;

	run->place = ETL_PLACE_NONE;
	set_ready(run, false);
	if (place == ETL_PLACE_WAITING)
		pairingheap_remove(&run->job->waiting, &run->job_node);
	else if (place == ETL_PLACE_BACKFILL)
		pairingheap_remove(&run->job->backfill, &run->job_node);
	else if (place == ETL_PLACE_PARKED)
		dlist_delete(&run->parked_node);
	if (run->job != NULL && run->job->offered == run)
	{
		run->job->offered = NULL;
		offer(run->job);
	}
}

static EtlKnownRun *
first_run(pairingheap *heap)
{
	if (pairingheap_is_empty(heap))
		return NULL;
	return pairingheap_container(EtlKnownRun, job_node, pairingheap_first(heap));
}

/* Make ready which run of a job is next, if its runs must not overlap. */
static void
offer(EtlKnownJob *job)
{
	EtlKnownRun *next = NULL;

	if (job->nactive == 0 && job->overlap != ETL_OVERLAP_ALLOW)
	{
		EtlKnownRun *backfill = first_run(&job->backfill);

		next = first_run(&job->waiting);
		if (next == NULL || (backfill != NULL && next->ready_at > etl_job_now()))
			next = backfill == NULL ? next : backfill;
	}
	if (job->offered == next)
		return;
	if (job->offered != NULL)
		set_ready(job->offered, false);
	job->offered = next;
	if (next != NULL)
		set_ready(next, true);
}

/* Put a run into the queue, or take it out. */
static void
set_ready(EtlKnownRun *run, bool is_ready)
{
	if (run->is_ready == is_ready)
		return;
	run->is_ready = is_ready;
	if (is_ready)
		pairingheap_add(&ready, &run->ready_node);
	else
		pairingheap_remove(&ready, &run->ready_node);
	run->starved_at = is_ready && !run->is_starved ?
						  Max(run->ready_at, etl_job_now()) + STARVED_AFTER :
						  0;
	etl_known_set_deadline(run);
}

/* A run of its job is active, or is no more. */
static void
set_active(EtlKnownRun *run, bool is_active)
{
	if (run->is_active == is_active)
		return;
	run->is_active = is_active;
	if (run->job == NULL)
		return;
	run->job->nactive += is_active ? 1 : -1;
	offer(run->job);
}

/* The run that is to be handed out first, or NULL; it may not be due yet. */
EtlKnownRun *
etl_known_next_ready(void)
{
	if (pairingheap_is_empty(&ready))
		return NULL;
	return pairingheap_container(EtlKnownRun, ready_node,
								 pairingheap_first(&ready));
}

/* For who looks at the queue: out of the way, and back to the same place. */
void
etl_known_set_aside(EtlKnownRun *run)
{
	Assert(run->is_ready);
	pairingheap_remove(&ready, &run->ready_node);
}

void
etl_known_put_back(EtlKnownRun *run)
{
	Assert(run->is_ready);
	pairingheap_add(&ready, &run->ready_node);
}

/* ------------------------------------------------------------------ */
/* when to look at them again                                           */

static TimestampTz
earlier(TimestampTz a, TimestampTz b)
{
	if (a == 0 || b == 0)
		return a == 0 ? b : a;
	return Min(a, b);
}

/* One of the run's times may have changed. */
void
etl_known_set_deadline(EtlKnownRun *run)
{
	TimestampTz deadline = earlier(run->alert_at,
								   earlier(run->starved_at, run->terminate_at));

	if (run->deadline == deadline)
		return;
	if (run->deadline != 0)
		pairingheap_remove(&deadlines, &run->deadline_node);
	run->deadline = deadline;
	if (deadline != 0)
		pairingheap_add(&deadlines, &run->deadline_node);
}

/* The run that is to be looked at first, or NULL. */
EtlKnownRun *
etl_known_next_deadline(void)
{
	if (pairingheap_is_empty(&deadlines))
		return NULL;
	return pairingheap_container(EtlKnownRun, deadline_node,
								 pairingheap_first(&deadlines));
}
