/*-------------------------------------------------------------------------
 *
 * replay.h
 *	  What the files of etl_dead_letter_replay() share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_REPLAY_H
#define ETL_REPLAY_H

#include "flow/flow.h"

/* So many letters, or so many bytes of them, are in memory at a time. */
#define ETL_REPLAY_LETTERS 500
#define ETL_REPLAY_BYTES   (4 * 1024 * 1024)

/* One letter of the batch, and what became of it. */
typedef struct EtlReplayLetter
{
	int64 id;
	char *record; /* of a load */
	int record_len;
	bool is_bytes;	/* record is in the file's encoding */
	Jsonb *payload; /* of a pipeline */
	bool failed;
	EtlReject reject;
} EtlReplayLetter;

typedef struct EtlReplay
{
	Datum target_filter; /* arguments of the call */
	bool all_targets;
	Datum id_filter;
	bool all_ids;

	EtlRun *run;
	int64 replayed;
	int64 rejected;
	int64 expected; /* so many letters in all */

	MemoryContext batch_context;
	EtlReplayLetter *letters;
	int nletters;
} EtlReplay;

/* What restricts a query to the letters that this call means. */
#define ETL_LETTERS_OF_CALL                          \
	" FROM etl_patterns.dead_letter"                 \
	" WHERE status = 'pending'"                      \
	" AND ($1 IS NULL OR target = $1)"               \
	" AND ($2 IS NULL OR dead_letter_id = ANY ($2))" \
	" AND pg_has_role($3, role, 'USAGE')"

/* The arguments of a query over ETL_LETTERS_OF_CALL, and more. */
#define ETL_REPLAY_ARGS 8

typedef struct EtlReplayQuery
{
	int nargs;
	Oid types[ETL_REPLAY_ARGS];
	Datum values[ETL_REPLAY_ARGS];
	char nulls[ETL_REPLAY_ARGS];
} EtlReplayQuery;

/* in replay.c */
extern void etl_replay_query(EtlReplayQuery *query, const EtlReplay *replay,
							 int nmore, const Oid *more_types,
							 const Datum *more_values);
extern void etl_replay_fail(EtlReplay *replay, EtlReplayLetter *letter,
							const EtlReject *reject);
extern void etl_replay_settle(EtlReplay *replay);

/* in replay_changes.c */
extern void etl_replay_changes(EtlReplay *replay);

#endif /* ETL_REPLAY_H */
