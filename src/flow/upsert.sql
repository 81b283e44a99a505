CREATE FUNCTION etl_upsert(
    target regclass,
    source regclass,
    keys name[],
    update_columns name[] DEFAULT NULL,
    sequence_by name DEFAULT NULL,
    delete_when text DEFAULT NULL,
    absent text DEFAULT 'ignore',
    duplicates text DEFAULT 'error',
    null_keys text DEFAULT 'error',
    keep_tombstones boolean DEFAULT NULL,
    max_delete_fraction float8 DEFAULT NULL,
    OUT run_id bigint,
    OUT rows_read bigint,
    OUT inserted bigint,
    OUT updated bigint,
    OUT unchanged bigint,
    OUT deleted bigint,
    OUT stale bigint,
    OUT duplicates bigint,
    OUT rejected bigint)
RETURNS record
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_upsert IS
    'merges rows into a table by key: inserts new ones, updates those that differ; with sequence_by refuses stale ones';

CREATE FUNCTION etl_scd1_merge(
    target regclass,
    source regclass,
    keys name[],
    update_columns name[] DEFAULT NULL,
    sequence_by name DEFAULT NULL,
    delete_when text DEFAULT NULL,
    absent text DEFAULT 'ignore',
    duplicates text DEFAULT 'error',
    null_keys text DEFAULT 'error',
    keep_tombstones boolean DEFAULT NULL,
    max_delete_fraction float8 DEFAULT NULL,
    OUT run_id bigint,
    OUT rows_read bigint,
    OUT inserted bigint,
    OUT updated bigint,
    OUT unchanged bigint,
    OUT deleted bigint,
    OUT stale bigint,
    OUT duplicates bigint,
    OUT rejected bigint)
RETURNS record
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_scd1_merge IS
    'merges rows into a dimension of type 1, which keeps the newest value of each key: etl_upsert() under the name of the pattern';

CREATE FUNCTION etl_scd3_merge(
    target regclass,
    source regclass,
    keys name[],
    previous jsonb,
    changed_at name DEFAULT NULL,
    OUT run_id bigint,
    OUT rows_read bigint,
    OUT inserted bigint,
    OUT updated bigint,
    OUT unchanged bigint,
    OUT deleted bigint,
    OUT stale bigint,
    OUT duplicates bigint,
    OUT rejected bigint)
RETURNS record
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_scd3_merge IS
    'merges rows into a table by key; a value that changes moves to another column: {"city": "previous_city"}';
