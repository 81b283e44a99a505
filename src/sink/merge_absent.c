/*-------------------------------------------------------------------------
 *
 * merge_absent.c
 *	  Within which part of the target a missing key is absent.
 *
 * With a scope a source speaks only for those values of the scope columns
 * that it holds: a file of one region says nothing about the others.  The
 * values are known by a 128-bit hash with a random seed; there is one entry
 * for each distinct combination.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "sink/merge_private.h"

typedef struct ScopeKey
{
	uint64 first;
	uint64 second;
} ScopeKey;

struct EtlScope
{
	EtlMerge *merge;
	HTAB *values; /* NULL: the whole target */
	uint64 seed;
	Datum last; /* the greatest time of the input, in its context */
	bool has_last;
	MemoryContext context;
};

static ScopeKey scope_key(EtlScope *scope, Datum *values, bool *nulls);

/* Opens the scope of a merge, or returns NULL if absence means nothing. */
EtlScope *
etl_scope_create(EtlMerge *merge)
{
	EtlScope *scope;
	HASHCTL info = {0};

	if (merge->absent == ETL_ABSENT_IGNORE)
		return NULL;
	scope = palloc0(sizeof(EtlScope));
	scope->merge = merge;
	scope->context = CurrentMemoryContext;
	if (!pg_strong_random(&scope->seed, sizeof(scope->seed)))
		elog(ERROR, "could not generate a random seed");
	if (merge->n_scope > 0)
	{
		info.keysize = sizeof(ScopeKey);
		info.entrysize = sizeof(ScopeKey);
		info.hcxt = CurrentMemoryContext;
		scope->values = hash_create("etl scope", 256, &info,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	return scope;
}

/* Notes what a row of the input speaks for. */
void
etl_scope_add(EtlScope *scope, const EtlChange *change)
{
	EtlMerge *merge = scope->merge;
	EtlMergeColumn *column;
	MemoryContext oldcontext;

	if (scope->values != NULL)
	{
		ScopeKey key = scope_key(scope, change->values, change->nulls);

		hash_search(scope->values, &key, HASH_ENTER, NULL);
	}
	if (merge->input.time == 0)
		return;

	/* Keys are absent as of the newest row. */
	column =
		&merge->columns[merge->versioned ? merge->valid_from : merge->sequence];
	if (scope->has_last &&
		etl_value_compare(&column->ops, scope->last, change->time) >= 0)
		return;
	oldcontext = MemoryContextSwitchTo(scope->context);
	if (scope->has_last && !column->ops.typbyval)
		pfree(DatumGetPointer(scope->last));
	scope->last = datumCopy(change->time, column->ops.typbyval,
							column->ops.typlen);
	scope->has_last = true;
	MemoryContextSwitchTo(oldcontext);
}

/* Does the input speak for this row of the target? */
bool
etl_scope_has(EtlScope *scope, Datum *values, bool *nulls)
{
	ScopeKey key;

	if (scope->values == NULL)
		return true;
	key = scope_key(scope, values, nulls);
	return hash_search(scope->values, &key, HASH_FIND, NULL) != NULL;
}

static ScopeKey
scope_key(EtlScope *scope, Datum *values, bool *nulls)
{
	EtlMerge *merge = scope->merge;
	ScopeKey key;

	key.first = scope->seed;
	key.second = ~scope->seed;
	for (int i = 0; i < merge->n_scope; i++)
	{
		int column = merge->scope[i];
		EtlValueOps *ops = &merge->columns[column].ops;

		/* a null is not told to the type's function */
		if (nulls[column])
		{
			key.first = etl_value_fingerprint(ops, 0, true, key.first);
			key.second = etl_value_fingerprint(ops, 0, true, key.second);
			continue;
		}
		key.first = etl_value_hash(ops, values[column], false, key.first);
		key.second = etl_value_hash(ops, values[column], false, key.second);
	}
	return key;
}

/*
 * All of the input was read.  An input without a row that has a key closes
 * nothing, unless the caller has said that all may be closed.
 */
void
etl_scope_done(EtlScope *scope)
{
	EtlMerge *merge = scope->merge;

	if (scope->has_last)
	{
		merge->effective_at = scope->last;
		merge->effective_is_last = true;
	}
	if (merge->counts.untimed > 0)
	{
		merge->absent = ETL_ABSENT_IGNORE;
		ereport(NOTICE,
				(errmsg_plural("" INT64_FORMAT
							   " row with a key was rejected for its time, so no key is taken as absent",
							   "" INT64_FORMAT
							   " rows with a key were rejected for their time, so no key is taken as absent",
							   (unsigned long) merge->counts.untimed,
							   merge->counts.untimed)));
		return;
	}
	if (merge->counts.read > merge->counts.rejected ||
		merge->max_delete_fraction >= 1)
	{
		if (merge->versioned && !merge->has_effective_at && !scope->has_last)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg(
						 "an empty source does not tell since when keys are absent"),
					 errhint("Pass \"effective_at\".")));
		return;
	}
	merge->absent = ETL_ABSENT_IGNORE;
	ereport(NOTICE,
			(merge->counts.read == 0 ?
				 errmsg("source is empty, so no key of relation \"%s\" is taken as absent",
						RelationGetRelationName(merge->target)) :
				 errmsg("source has rejected rows only, so no key of relation \"%s\" is taken as absent",
						RelationGetRelationName(merge->target)),
			 errhint("Pass %s => 1 if the target is to be emptied.",
					 merge->versioned ? "max_close_fraction" :
										"max_delete_fraction")));
}
