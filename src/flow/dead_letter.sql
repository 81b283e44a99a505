CREATE FUNCTION etl_dead_letter_replay(
    target regclass DEFAULT NULL,
    dead_letter_ids bigint[] DEFAULT NULL,
    OUT replayed bigint,
    OUT rejected bigint)
RETURNS record
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_dead_letter_replay IS
    'loads or applies pending dead letters again, as the load or the CDC pipeline that rejected them would now';

CREATE FUNCTION etl_dead_letter_edit(dead_letter_id bigint, raw_record text)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_dead_letter_edit IS
    'replaces the record of a pending dead letter, to be replayed';

CREATE FUNCTION etl_dead_letter_discard(dead_letter_ids bigint[])
RETURNS bigint
AS 'MODULE_PATHNAME'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_dead_letter_discard IS
    'closes pending dead letters without loading them; returns how many';

CREATE FUNCTION etl_dead_letter_purge(older_than interval)
RETURNS bigint
AS 'MODULE_PATHNAME'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_dead_letter_purge IS
    'deletes dead letters that were replayed or discarded longer ago; returns how many';
