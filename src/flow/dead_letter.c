/*-------------------------------------------------------------------------
 *
 * dead_letter.c
 *	  Edit, discard and purge dead letters.
 *
 * A role may do so with its own letters, and with those of the roles whose
 * rights it has.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "flow/flow.h"

PG_FUNCTION_INFO_V1(etl_dead_letter_edit);
PG_FUNCTION_INFO_V1(etl_dead_letter_discard);
PG_FUNCTION_INFO_V1(etl_dead_letter_purge);

/*
 * Run a command on the dead letters as their owner; $1 is the calling role,
 * with which the command must restrict itself.  Returns the rows processed.
 */
static int64
change_letters(const char *command, int nargs, Oid *types, Datum *values)
{
	EtlLedgerScope scope;
	int result;
	int64 processed;

	values[0] = ObjectIdGetDatum(GetUserId());
	etl_ledger_enter(&scope);
	result = SPI_execute_with_args(command, nargs, types, values, NULL, false,
								   0);
	if (result < 0)
		elog(ERROR, "could not change dead letters: %s",
			 SPI_result_code_string(result));
	processed = (int64) SPI_processed;
	etl_ledger_leave(&scope);
	return processed;
}

/*
 * etl_dead_letter_edit(dead_letter_id, raw_record): it is an error if there
 * is no such pending letter.  One with a payload has no text to be edited.
 */
Datum
etl_dead_letter_edit(PG_FUNCTION_ARGS)
{
	Oid types[] = {OIDOID, INT8OID, TEXTOID};
	Datum values[] = {0, PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)};

	PreventCommandIfReadOnly("etl_dead_letter_edit()");
	if (change_letters("UPDATE etl_patterns.dead_letter SET raw_record = $3"
					   " WHERE dead_letter_id = $2 AND status = 'pending'"
					   " AND payload IS NULL"
					   " AND pg_has_role($1, role, 'USAGE')",
					   3, types, values) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("there is no pending dead letter " INT64_FORMAT
						" of a file",
						PG_GETARG_INT64(0)),
				 errhint(
					 "See your own in etl_patterns.dead_letter, where status is 'pending' and payload is null.")));
	PG_RETURN_VOID();
}

/* etl_dead_letter_discard(dead_letter_ids): close without loading. */
Datum
etl_dead_letter_discard(PG_FUNCTION_ARGS)
{
	Oid types[] = {OIDOID, INT8ARRAYOID};
	Datum values[] = {0, PG_GETARG_DATUM(0)};

	PreventCommandIfReadOnly("etl_dead_letter_discard()");
	PG_RETURN_INT64(
		change_letters("UPDATE etl_patterns.dead_letter"
					   " SET status = 'discarded', resolved_at = clock_timestamp()"
					   " WHERE dead_letter_id = ANY ($2) AND status = 'pending'"
					   " AND pg_has_role($1, role, 'USAGE')",
					   2, types, values));
}

/* etl_dead_letter_purge(older_than): pending letters are never deleted. */
Datum
etl_dead_letter_purge(PG_FUNCTION_ARGS)
{
	Oid types[] = {OIDOID, INTERVALOID};
	Datum values[] = {0, PG_GETARG_DATUM(0)};

	PreventCommandIfReadOnly("etl_dead_letter_purge()");
	PG_RETURN_INT64(change_letters("DELETE FROM etl_patterns.dead_letter"
								   " WHERE status <> 'pending'"
								   " AND resolved_at < clock_timestamp() - $2"
								   " AND pg_has_role($1, role, 'USAGE')",
								   2, types, values));
}
