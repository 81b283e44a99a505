/*-------------------------------------------------------------------------
 *
 * change_json.h
 *	  Rows of a source as JSON objects, and changes as envelopes of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_CHANGE_JSON_H
#define ETL_CHANGE_JSON_H

#include "sink/apply.h"

/* ------------------------------------------------------------------ */
/* in change_json.c: values                                             */

/* How the columns of a description become JSON. */
typedef struct EtlJsonRow EtlJsonRow;

extern EtlJsonRow *etl_json_row_create(TupleDesc desc);
extern void etl_json_push_key(JsonbParseState **state, const char *key);
extern void etl_json_push_text(JsonbParseState **state, const char *text);
extern void etl_json_push_int64(JsonbParseState **state, int64 number);
extern void etl_json_push_null(JsonbParseState **state);
extern void etl_json_push_jsonb(JsonbParseState **state, JsonbIteratorToken as,
								Jsonb *jsonb);
extern void etl_json_row_begin(void);
extern void etl_json_row_end(void);
extern void etl_json_push_column(JsonbParseState **state, EtlJsonRow *row,
								 int column, Datum value, bool isnull);

/* ------------------------------------------------------------------ */
/* in change_envelope.c: changes                                        */

/* The parts of an envelope, by the names of change_envelope.c. */
typedef enum EtlEnvelopePart
{
	ETL_PART_OP,
	ETL_PART_BEFORE,
	ETL_PART_AFTER,
	ETL_PART_SOURCE,
	ETL_PART_TS_MS,
	ETL_PART_TRANSACTION,
	ETL_PART_KEY,
	ETL_PART_LSN,
	ETL_PART_COMMIT_LSN,
	ETL_PART_ORDINAL,
	ETL_PART_XID,
	ETL_PART_COMMITTED_AT,
	ETL_PART_TABLE,
	ETL_PART_ENVELOPE
} EtlEnvelopePart;

#define ETL_NUM_PARTS (ETL_PART_ENVELOPE + 1)

/* A change.  Parts that nobody wants are not made. */
typedef struct EtlEnvelope
{
	Datum values[ETL_NUM_PARTS];
	bool nulls[ETL_NUM_PARTS];
} EtlEnvelope;

/* Which columns of a row type hold which parts. */
typedef struct EtlEnvelopeLayout
{
	AttrNumber attnums[ETL_NUM_PARTS]; /* 0: none */
	int n;							   /* columns that do */
} EtlEnvelopeLayout;

/* Makes the envelopes of one table. */
typedef struct EtlEnvelopes EtlEnvelopes;

/* The options that they understand, for the sinks' own lists. */
#define ETL_ENVELOPE_OPTIONS "include", "exclude", "unavailable_value"

extern void etl_envelope_layout(EtlEnvelopeLayout *layout, TupleDesc desc,
								Jsonb *columns, const char *what);
extern HeapTuple etl_envelope_row(const EtlEnvelope *envelope,
								  const EtlEnvelopeLayout *layout,
								  TupleDesc desc);
extern EtlEnvelopes *etl_envelopes_create(EtlApply *apply, const bool *wanted);
extern void etl_envelopes_begin(EtlEnvelopes *envelopes);
extern void etl_envelopes_describe(EtlEnvelopes *envelopes,
								   const EtlSourceRelation *relation);
extern EtlEnvelope *etl_envelope_make(EtlEnvelopes *envelopes,
									  const EtlSourceXact *xact,
									  const EtlChangeEvent *event);
extern EtlEnvelope *etl_envelope_tombstone(EtlEnvelopes *envelopes,
										   const EtlEnvelope *deleted);
extern Jsonb *etl_envelope_key(EtlEnvelopes *envelopes,
							   const EtlSourceRelation *relation, HeapTuple row);

/* ------------------------------------------------------------------ */
/* in change_letter.c: changes as payloads of dead letters, and back    */

extern EtlEnvelopes *etl_letter_envelopes(const EtlApply *apply);
extern Jsonb *etl_letter_payload(EtlEnvelopes *envelopes,
								 const EtlSourceXact *xact,
								 const EtlChangeEvent *event);
extern EtlChangeEvent *etl_letter_event(Jsonb *payload, EtlSourceXact *xact);
extern char *etl_letter_pipeline(Jsonb *payload);
extern char *etl_letter_overtaken(Jsonb *payload);
extern char *etl_letter_database(Jsonb *payload);

/* The member that tells the position of a later change that was applied. */
#define ETL_LETTER_OVERTAKEN "overtaken_lsn"

/* A row may have two keys by an update: so many hashes there is room for. */
#define ETL_EVENT_KEYS 2

extern int etl_event_keys(EtlEnvelopes *envelopes, const EtlChangeEvent *event,
						  uint64 *hashes);
extern int etl_letter_keys(Jsonb *payload, uint64 *hashes);

/* ------------------------------------------------------------------ */
/* in apply_event.c: what sinks have in common                          */

extern HeapTuple etl_event_new_row(const EtlChangeEvent *event,
								   const bool **unchanged);
extern bool etl_event_passes(EtlApply *apply, EtlApplyMap *map, HeapTuple row,
							 const bool *unchanged);
extern bool etl_apply_has_option(EtlApply *apply, const char *name);
extern List *etl_apply_option_names(EtlApply *apply, const char *name);
extern bool etl_apply_option_bool(EtlApply *apply, const char *name);

#endif /* ETL_CHANGE_JSON_H */
