/*-------------------------------------------------------------------------
 *
 * cdc_letters.c
 *	  Changes that wait in the dead letters, and later changes of their rows.
 *
 * Where a target has the last state of each row (a mirror, a history), a change
 * must not be applied when a later one of the same row was.  So while changes
 * of a table wait in the dead letters, each change that is applied is looked up
 * among their keys, and a letter whose row it changes is marked as overtaken,
 * in the same transaction.  A change that lacks values because the source did
 * not log them anew cannot overtake a letter that may have them: it fails, and
 * waits behind it.  TRUNCATE overtakes all of the table, and so does a copy, for
 * every sink, since it has what the letters have.
 *
 * A target may have several sources, and a source may be renamed.  What counts
 * is the row of the target.
 *
 * What is known of letters is as old as the definition of the pipeline that was
 * read, and is read again after each batch that was undone.  Letters that were
 * closed since do no harm.
 *
 * Memory: 100 bytes or so per letter that waits for a mirror or history.
 *
 * Locks: a letter that is marked; the target is locked before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "flow/cdc_apply.h"
#include "sink/change_json.h"

/* Letters that have no key, those of TRUNCATE, are here. */
#define NO_KEY UINT64CONST(0)

/* The letters of a key. */
typedef struct LettersOfKey
{
	uint64 hash; /* key of the table */
	int64 *ids;
	int n;
	int size;
} LettersOfKey;

struct EtlCdcLetters
{
	MemoryContext context;
	MemoryContext change_context; /* of one change */
	const char *pipeline;
	EtlEnvelopes *envelopes;
	HTAB *keys; /* of LettersOfKey */
};

/* A letter that was overtaken in the batch. */
typedef struct Overtaken
{
	int64 letter_id;
	XLogRecPtr lsn;
} Overtaken;

/* What a copy overtakes. */
typedef struct Copied
{
	EtlCdcApplier *applier;
	XLogRecPtr lsn;
} Copied;

static EtlCdcLetters *make_letters(EtlCdcApplier *applier,
								   const EtlCdcFollowed *followed);
static void add_pending(void *arg, int64 letter_id, Jsonb *payload);
static bool is_of_pipeline(Jsonb *payload, const char *pipeline);
static void add_letter(EtlCdcLetters *letters, uint64 hash, int64 letter_id);
static void overtake_key(EtlCdcApplier *applier, EtlCdcLetters *letters,
						 LettersOfKey *key, XLogRecPtr lsn, int64 before);
static void overtake(EtlCdcApplier *applier, int64 letter_id, XLogRecPtr lsn);
static void overtake_pending(void *arg, int64 letter_id, Jsonb *payload);

/* ------------------------------------------------------------------ */
/* what waits                                                           */

/* An empty set, which lives as long as the pipeline is known. */
static EtlCdcLetters *
make_letters(EtlCdcApplier *applier, const EtlCdcFollowed *followed)
{
	MemoryContext context = AllocSetContextCreate(applier->table_context,
												  "etl_patterns cdc letters",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EtlCdcLetters *letters = palloc0(sizeof(EtlCdcLetters));
	HASHCTL ctl = {0};

	letters->context = context;
	letters->change_context = AllocSetContextCreate(context, "change",
													ALLOCSET_SMALL_SIZES);
	letters->pipeline = followed->apply->pipeline;
	letters->envelopes = etl_letter_envelopes(followed->apply);
	ctl.keysize = sizeof(uint64);
	ctl.entrysize = sizeof(LettersOfKey);
	ctl.hcxt = context;
	letters->keys = hash_create("keys of dead letters", 64, &ctl,
								HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	MemoryContextSwitchTo(old);
	return letters;
}

/* See what waits for a table of the pipeline. */
void
etl_cdc_letters_load(EtlCdcApplier *applier, EtlCdcFollowed *followed)
{
	EtlCdcLetters *letters;

	followed->letters = NULL;
	if (!followed->apply->ops->has_rows)
		return;
	letters = make_letters(applier, followed);
	etl_dead_letters_pending(followed->table->target, "cdc", NULL, add_pending,
							 letters);
	if (hash_get_num_entries(letters->keys) > 0)
		followed->letters = letters;
	else
		MemoryContextDelete(letters->context);
}

static void
add_pending(void *arg, int64 letter_id, Jsonb *payload)
{
	EtlCdcLetters *letters = arg;
	uint64 hashes[ETL_EVENT_KEYS];
	int n;

	if (payload == NULL || !is_of_pipeline(payload, letters->pipeline))
		return;
	n = etl_letter_keys(payload, hashes);
	for (int i = 0; i < n; i++)
		add_letter(letters, hashes[i], letter_id);
	if (n == 0)
		add_letter(letters, NO_KEY, letter_id);
}

static bool
is_of_pipeline(Jsonb *payload, const char *pipeline)
{
	char *name = etl_letter_pipeline(payload);

	return name != NULL && strcmp(name, pipeline) == 0;
}

/* A letter was written for a target. */
void
etl_cdc_letters_add(EtlCdcApplier *applier, Oid target, int64 letter_id,
					Jsonb *payload)
{
	ListCell *lc;

	foreach(lc, applier->tables)
	{
		EtlCdcFollowed *followed = lfirst(lc);

		if (followed->table->target != target || !followed->apply->ops->has_rows)
			continue;
		if (followed->letters == NULL)
			followed->letters = make_letters(applier, followed);
		add_pending(followed->letters, letter_id, payload);
	}
}

static void
add_letter(EtlCdcLetters *letters, uint64 hash, int64 letter_id)
{
	LettersOfKey *key;
	bool found;

	key = hash_search(letters->keys, &hash, HASH_ENTER, &found);
	if (!found)
	{
		key->n = 0;
		key->size = 1;
		key->ids = MemoryContextAlloc(letters->context, sizeof(int64));
	}
	else if (key->n == key->size)
	{
		key->size *= 2;
		key->ids = repalloc_huge(key->ids, sizeof(int64) * key->size);
	}
	key->ids[key->n++] = letter_id;
}

/* ------------------------------------------------------------------ */
/* what is overtaken                                                    */

/*
 * A change of a table is to be applied for which letters wait.  Throws if it
 * lacks values that a letter of the same row may have.
 */
void
etl_cdc_letters_check(EtlCdcFollowed *followed, const EtlChangeEvent *event)
{
	EtlCdcLetters *letters = followed->letters;
	uint64 hashes[ETL_EVENT_KEYS];
	MemoryContext old;
	bool waits = false;
	int n;

	if (event->unchanged == NULL)
		return;
	old = MemoryContextSwitchTo(letters->change_context);
	n = etl_event_keys(letters->envelopes, event, hashes);
	for (int i = 0; i < n; i++)
	{
		const LettersOfKey *key = hash_search(letters->keys, &hashes[i],
											  HASH_FIND, NULL);

		for (int j = 0; key != NULL && j < key->n; j++)
			waits |= key->ids[j] < followed->before_letter;
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(letters->change_context);
	if (waits)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg(
					 "an earlier change of the row is a dead letter, and the source did not log all of this one"),
				 errdetail(
					 "Large values that an update does not change are not logged, and may be in the letter."),
				 errhint(
					 "Replay or discard the dead letters of the row first.")));
}

/*
 * A change of a table was applied for which letters wait.  Those of the same
 * row that came before it are overtaken.  A letter that was replayed is not
 * looked at any more.
 */
void
etl_cdc_overtake(EtlCdcApplier *applier, EtlCdcFollowed *followed,
				 const EtlChangeEvent *event)
{
	EtlCdcLetters *letters = followed->letters;
	int64 before = followed->before_letter;
	MemoryContext old = MemoryContextSwitchTo(letters->change_context);
	uint64 hashes[ETL_EVENT_KEYS + 1];
	HASH_SEQ_STATUS status;
	LettersOfKey *key;
	int n;

	if (event->kind == ETL_EVENT_TRUNCATE)
	{
		hash_seq_init(&status, letters->keys);
		while ((key = hash_seq_search(&status)) != NULL)
			overtake_key(applier, letters, key, event->lsn, before);
	}
	else
	{
		n = etl_event_keys(letters->envelopes, event, hashes);
		hashes[n++] = NO_KEY;
		for (int i = 0; i < n; i++)
		{
			key = hash_search(letters->keys, &hashes[i], HASH_FIND, NULL);
			if (key != NULL)
				overtake_key(applier, letters, key, event->lsn, before);
		}
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(letters->change_context);
	if (hash_get_num_entries(letters->keys) > 0)
		return;
	MemoryContextDelete(letters->context);
	followed->letters = NULL;
}

/* The letters of a key that came before, which are then forgotten. */
static void
overtake_key(EtlCdcApplier *applier, EtlCdcLetters *letters, LettersOfKey *key,
			 XLogRecPtr lsn, int64 before)
{
	int n = 0;

	for (int i = 0; i < key->n; i++)
	{
		if (key->ids[i] > before)
			key->ids[n++] = key->ids[i];
		if (key->ids[i] < before)
			overtake(applier, key->ids[i], lsn);
	}
	key->n = n;
	if (n > 0)
		return;
	pfree(key->ids);
	hash_search(letters->keys, &key->hash, HASH_REMOVE, NULL);
}

/* Keep that for the end of the batch. */
static void
overtake(EtlCdcApplier *applier, int64 letter_id, XLogRecPtr lsn)
{
	MemoryContext old = MemoryContextSwitchTo(applier->batch_context);
	Overtaken *overtaken = palloc(sizeof(Overtaken));

	overtaken->letter_id = letter_id;
	overtaken->lsn = lsn;
	applier->overtaken = lappend(applier->overtaken, overtaken);
	MemoryContextSwitchTo(old);
}

/* Write which letters the batch has overtaken. */
void
etl_cdc_letters_write(EtlCdcApplier *applier)
{
	ListCell *lc;

	foreach(lc, applier->overtaken)
	{
		const Overtaken *overtaken = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		etl_dead_letter_note(overtaken->letter_id, ETL_LETTER_OVERTAKEN,
							 psprintf("%X/%X", LSN_FORMAT_ARGS(overtaken->lsn)));
	}
	applier->overtaken = NIL;
}

/* A table is copied: what waits for it is in the copy, or is gone. */
void
etl_cdc_letters_copied(EtlCdcApplier *applier, EtlCdcFollowed *followed,
					   XLogRecPtr lsn)
{
	Copied copied = {applier, lsn};
	bool is_only = true;
	ListCell *lc;

	if (!applier->pipeline->snapshot && !followed->apply->ops->has_rows)
		return; /* nothing was read */
	foreach(lc, applier->tables)
	{
		const EtlCdcFollowed *other = lfirst(lc);

		is_only &= other == followed ||
				   other->table->target != followed->table->target;
	}
	etl_dead_letters_pending(followed->table->target, "cdc",
							 is_only ? NULL : followed->table->source,
							 overtake_pending, &copied);
	if (followed->letters != NULL)
		MemoryContextDelete(followed->letters->context);
	followed->letters = NULL;
}

static void
overtake_pending(void *arg, int64 letter_id, Jsonb *payload)
{
	const Copied *copied = arg;

	if (payload != NULL &&
		is_of_pipeline(payload, copied->applier->pipeline->name))
		overtake(copied->applier, letter_id, copied->lsn);
}
