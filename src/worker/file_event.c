/*-------------------------------------------------------------------------
 *
 * file_event.c
 *	  Jobs "on file:<glob>": from files that arrive to runs.
 *
 * Who looks keeps nothing in memory: it may be a scheduler once a second or
 * a client now and then.  What was seen is in etl_patterns.job_file, one row
 * per file that is there.  A file has arrived when two looks at least
 * etl_patterns.file_settle_time apart found it with the same size and time.
 * Then it is handed to the job: its row gets the number of the run, in the
 * transaction that inserts the run.  Another size or time makes it a new file,
 * and a file that is gone has no row.
 *
 * The caller holds the lock of the job's row, so that only one process looks
 * for a job at a time.  A look that finds nothing new writes nothing.
 *
 * A directory that cannot be read is no reason to forget the files in it:
 * when it can be read again they would all be handed over again.  What is
 * the matter is noted as the reason of the job, which goes on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fnmatch.h>
#include <sys/stat.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_authid.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "etl_patterns.h"
#include "source/source.h"
#include "worker/job.h"

/* Columns of etl_patterns.job_file */
enum
{
	FILE_JOB_ID,
	FILE_PATH,
	FILE_ROLE,
	FILE_SIZE_BYTES,
	FILE_MODIFIED_AT,
	FILE_SEEN_AT,
	FILE_RUN_ID,
	FILE_NATTS
};

/* A job with so many waiting runs is handed no more files for now. */
#define MAX_WAITING 1000

/* Paths that are longer than this do not fit into an index. */
#define MAX_KEY_LEN 2000

/* How the reason begins that we write into a job. */
#define TROUBLE "could not read "

/* A file that is there. */
typedef struct SeenFile
{
	const EtlFileInfo *info;
	const char *key; /* what stands in job_file.path */
} SeenFile;

/* A row of job_file. */
typedef struct Row
{
	char *path;
	int64 size_bytes;
	TimestampTz modified_at;
	TimestampTz seen_at;
	int64 job_run_id; /* 0: not handed over */
	ItemPointerData place;
} Row;

/* A file that has arrived. */
typedef struct Arrival
{
	SeenFile file;
	TimestampTz seen_at;
	ItemPointerData place; /* of its row, if it has one */
} Arrival;

typedef struct Poll
{
	EtlJob *job;
	TimestampTz now;
	const char *pattern;
	bool trouble; /* something could not be read */
	Relation rel;
	List *arrivals;
} Poll;

/* ------------------------------------------------------------------ */
/* files                                                                */

/* The path as a string literal with escapes, all of it ASCII. */
static char *
escaped_path(const char *path)
{
	StringInfoData key;

	initStringInfo(&key);
	appendStringInfoString(&key, "E'");
	for (const char *s = path; *s != '\0'; s++)
	{
		if (IS_HIGHBIT_SET(*s))
			appendStringInfo(&key, "\\x%02x", (unsigned char) *s);
		else if (*s == '\\' || *s == '\'')
			appendStringInfo(&key, "\\%c", *s);
		else
			appendStringInfoChar(&key, *s);
	}
	appendStringInfoChar(&key, '\'');
	return key.data;
}

/*
 * What stands for a path in job_file: itself, if that is possible.  Nothing
 * else begins with "/", so that it cannot be taken for another file's path.
 */
static const char *
file_key(const char *path)
{
	int len = (int) strlen(path);
	const char *key = path;

	if (!pg_verifymbstr(path, len, true))
		key = escaped_path(path);
	if (strlen(key) <= MAX_KEY_LEN)
		return key;
	return psprintf("...%016llx...%s",
					(unsigned long long)
						hash_bytes_extended((const unsigned char *) path, len, 0),
					key + pg_mbcliplen(key, (int) strlen(key),
									   (int) strlen(key) - MAX_KEY_LEN / 2));
}

static int
compare_files(const void *a, const void *b)
{
	return strcmp(((const SeenFile *) a)->key, ((const SeenFile *) b)->key);
}

/* Note in the job what could not be read, or that all can be read again. */
static void
note_trouble(Poll *poll, int error, const char *path)
{
	const char *old = poll->job->reason;
	char *reason = NULL;

	if (error != 0)
	{
		reason = psprintf(TROUBLE "\"%s\": %s", file_key(path), strerror(error));
		if (!pg_verifymbstr(reason, (int) strlen(reason), true))
			reason = psprintf(TROUBLE "\"%s\"", file_key(path));
	}
	if (reason == NULL ?
			old == NULL || strncmp(old, TROUBLE, strlen(TROUBLE)) != 0 :
			old != NULL && strcmp(old, reason) == 0)
		return;
	poll->job->reason = reason;
	etl_job_update(poll->job);
}

/* The files that are there, in the order of job_file's index. */
static SeenFile *
look(Poll *poll, int *nfiles)
{
	int error;
	char *error_path;
	List *found = etl_files_look(poll->pattern, &error, &error_path);
	SeenFile *files = palloc_extended(sizeof(SeenFile) * (list_length(found) + 1),
									  MCXT_ALLOC_HUGE);
	bool sorted = true;
	ListCell *lc;

	*nfiles = 0;
	foreach(lc, found)
	{
		SeenFile *file = &files[(*nfiles)++];

		CHECK_FOR_INTERRUPTS();
		file->info = lfirst(lc);
		file->key = file_key(file->info->path);
		sorted &= file->key == file->info->path;
	}
	if (!sorted)
		qsort(files, *nfiles, sizeof(SeenFile), compare_files);
	poll->trouble = error != 0;
	note_trouble(poll, error, error_path);
	return files;
}

/*
 * Is a file still there that was not found?  It may be in a directory that
 * cannot be listed now.
 */
static bool
still_there(const Poll *poll, const char *path)
{
	struct stat st;

	if (path[0] != '/')
		return poll->trouble;
	if (stat(path, &st) != 0)
		return errno != ENOENT && errno != ENOTDIR;
	return S_ISREG(st.st_mode) &&
		   (strcmp(poll->pattern, path) == 0 ||
			fnmatch(poll->pattern, path, FNM_PATHNAME | FNM_PERIOD) == 0);
}

/* ------------------------------------------------------------------ */
/* rows                                                                 */

static void
row_from_tuple(Relation rel, HeapTuple tuple, Row *row)
{
	Datum values[FILE_NATTS];
	bool nulls[FILE_NATTS];

	heap_deform_tuple(tuple, etl_ledger_desc(rel), values, nulls);
	row->path = TextDatumGetCString(values[FILE_PATH]);
	row->size_bytes = DatumGetInt64(values[FILE_SIZE_BYTES]);
	row->modified_at = DatumGetTimestampTz(values[FILE_MODIFIED_AT]);
	row->seen_at = DatumGetTimestampTz(values[FILE_SEEN_AT]);
	row->job_run_id = nulls[FILE_RUN_ID] ? 0 :
										   DatumGetInt64(values[FILE_RUN_ID]);
	row->place = tuple->t_self;
}

/* Write the row of a file, in place of the one that it has. */
static void
write_row(const Poll *poll, const SeenFile *file, TimestampTz seen_at,
		  int64 job_run_id, ItemPointer place)
{
	Datum values[FILE_NATTS] = {0};
	bool nulls[FILE_NATTS] = {0};

	values[FILE_JOB_ID] = Int64GetDatum(poll->job->job_id);
	values[FILE_PATH] = CStringGetTextDatum(file->key);
	values[FILE_ROLE] = ObjectIdGetDatum(poll->job->role);
	values[FILE_SIZE_BYTES] = Int64GetDatum(file->info->size_bytes);
	values[FILE_MODIFIED_AT] = TimestampTzGetDatum(file->info->modified_at);
	values[FILE_SEEN_AT] = TimestampTzGetDatum(seen_at);
	etl_ledger_set_int64(&values[FILE_RUN_ID], &nulls[FILE_RUN_ID], job_run_id,
						 0);
	if (ItemPointerIsValid(place))
		etl_ledger_replace(poll->rel, place, values, nulls);
	else
		etl_ledger_insert(poll->rel, values, nulls);
}

/* A file that is there, with its row or NULL. */
static void
compare(Poll *poll, const SeenFile *file, const Row *row)
{
	bool changed = row == NULL || row->size_bytes != file->info->size_bytes ||
				   row->modified_at != file->info->modified_at;
	TimestampTz seen_at;
	Arrival *arrival;

	if (!changed && row->job_run_id != 0)
		return;

	/* The clock may have been set back. */
	seen_at = changed || row->seen_at > poll->now ? poll->now : row->seen_at;
	arrival = palloc0(sizeof(Arrival));
	arrival->file = *file;
	arrival->seen_at = seen_at;
	if (row != NULL)
		arrival->place = row->place;
	if (poll->now - seen_at >= etl_file_settle_time * INT64CONST(1000))
	{
		poll->arrivals = lappend(poll->arrivals, arrival);
		return;
	}
	if (changed || seen_at != row->seen_at)
		write_row(poll, file, seen_at, 0, &arrival->place);
	pfree(arrival);
}

/*
 * Go along the files and the rows, both in the order of their keys, and write
 * what is new.
 */
static void
compare_all(Poll *poll, const SeenFile *files, int nfiles)
{
	Relation index = index_open(etl_ledger_relid("job_file_pkey"),
								AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	int next = 0;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple tuple;

	ScanKeyInit(&key, FILE_JOB_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(poll->job->job_id));
	scan = systable_beginscan_ordered(poll->rel, index, snapshot, 1, &key);
	while (HeapTupleIsValid(
		tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		int order = -1;
		Row row;

		CHECK_FOR_INTERRUPTS();
		row_from_tuple(poll->rel, tuple, &row);
		while (next < nfiles && (order = strcmp(files[next].key, row.path)) < 0)
			compare(poll, &files[next++], NULL);
		if (next < nfiles && order == 0)
			compare(poll, &files[next++], &row);
		else if (!still_there(poll, row.path))
			etl_ledger_delete(poll->rel, &row.place);
		pfree(row.path);
	}
	while (next < nfiles)
		compare(poll, &files[next++], NULL);
	systable_endscan_ordered(scan);
	UnregisterSnapshot(snapshot);
	index_close(index, AccessShareLock);
}

/* ------------------------------------------------------------------ */
/* runs                                                                 */

/* Older files come first. */
static int
compare_arrivals(const ListCell *a, const ListCell *b)
{
	const Arrival *x = lfirst(a);
	const Arrival *y = lfirst(b);

	if (x->file.info->modified_at != y->file.info->modified_at)
		return x->file.info->modified_at < y->file.info->modified_at ? -1 : 1;
	return strcmp(x->file.key, y->file.key);
}

/* How many runs the job may be given before it has too many waiting. */
static int
room_for_runs(const EtlJob *job)
{
	EtlJobRunScan *scan = etl_job_run_scan_unfinished_of(job->job_id);
	int room = MAX_WAITING;
	EtlJobRun *run;

	while (room > 0 && (run = etl_job_run_scan_next(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (run->status == ETL_RUN_WAITING)
			room--;
	}
	etl_job_run_scan_end(scan);
	return room;
}

/*
 * A name that is no text could not be given to the command: the run says so
 * and is skipped.
 */
static void
skip_run(const Poll *poll, int64 job_run_id)
{
	EtlJobRun *run = etl_job_run_by_id(job_run_id, ETL_ROW_LOCK);

	run->status = ETL_RUN_SKIPPED;
	run->reason = "file name is not valid text";
	run->finished_at = poll->now;
	etl_job_run_update(run);
}

/* Give the job a run for a file, and note that in the file's row. */
static void
hand_over(const Poll *poll, Arrival *arrival, TimestampTz slot)
{
	const char *path = arrival->file.info->path;
	bool is_text = pg_verifymbstr(path, (int) strlen(path), true);
	EtlJobRun *run = etl_job_trigger(poll->job, ETL_ORIGIN_FILE, slot,
									 is_text ? path : arrival->file.key);

	if (run == NULL)
		return;
	if (!is_text)
		skip_run(poll, run->job_run_id);
	write_row(poll, &arrival->file, arrival->seen_at, run->job_run_id,
			  &arrival->place);
}

/*
 * Hand over what has arrived, as far as there is room.  Each gets a slot of its
 * own, and the order of the slots is that of the files.
 */
static void
hand_over_all(Poll *poll)
{
	TimestampTz slot = poll->now;
	int room;
	ListCell *lc;

	if (poll->arrivals == NIL)
		return;
	list_sort(poll->arrivals, compare_arrivals);
	room = room_for_runs(poll->job);
	foreach(lc, poll->arrivals)
	{
		if (room-- <= 0)
			break;
		CHECK_FOR_INTERRUPTS();
		hand_over(poll, lfirst(lc), slot++);
	}
}

/*
 * Look for the files of a job whose row is locked, and give it a run for each
 * one that has arrived.  Does nothing if the job is not active, or not "on
 * file:".
 */
void
etl_files_poll(EtlJob *job, TimestampTz now)
{
	MemoryContext context;
	MemoryContext old_context;
	EtlSchedule *schedule;
	Poll poll = {.job = job, .now = now};
	SeenFile *files;
	int nfiles;

	if (job->state != ETL_JOB_ACTIVE || job->start_at > now)
		return;
	schedule = etl_job_schedule(job);
	if (schedule->kind != ETL_SCHEDULE_FILE)
		return;
	if (!has_privs_of_role(job->role, ROLE_PG_READ_SERVER_FILES))
	{
		etl_job_break(job,
					  "its owner has not the rights of pg_read_server_files");
		return;
	}
	context = AllocSetContextCreate(CurrentMemoryContext, "etl files",
									ALLOCSET_DEFAULT_SIZES);
	old_context = MemoryContextSwitchTo(context);
	poll.pattern = schedule->name;
	poll.rel = etl_ledger_open("job_file", FILE_NATTS, RowExclusiveLock);
	files = look(&poll, &nfiles);
	compare_all(&poll, files, nfiles);
	hand_over_all(&poll);
	table_close(poll.rel, NoLock);
	MemoryContextSwitchTo(old_context);
	if (job->reason != NULL)
		job->reason = pstrdup(job->reason);
	MemoryContextDelete(context);
}

/* Forget the files of a job that is dropped, or is "on file:" no more. */
void
etl_files_forget(int64 job_id)
{
	Relation rel = etl_ledger_open("job_file", FILE_NATTS, RowExclusiveLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple tuple;

	ScanKeyInit(&key, FILE_JOB_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(job_id));
	scan = systable_beginscan(rel, etl_ledger_relid("job_file_pkey"), true,
							  snapshot, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		CHECK_FOR_INTERRUPTS();
		etl_ledger_delete(rel, &tuple->t_self);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
}
