CREATE FUNCTION etl_bulk_copy(
    target regclass,
    source text,
    columns name[] DEFAULT NULL,
    header text DEFAULT 'match',
    delimiter text DEFAULT ',',
    quote text DEFAULT '"',
    escape text DEFAULT NULL,
    null_strings text[] DEFAULT '{""}',
    "trim" boolean DEFAULT false,
    skip_lines int DEFAULT 0,
    encoding name DEFAULT NULL,
    compression text DEFAULT 'auto',
    on_error text DEFAULT 'abort',
    reject_limit bigint DEFAULT NULL,
    reject_ratio float8 DEFAULT NULL,
    on_conflict text DEFAULT 'error',
    keys name[] DEFAULT NULL,
    indexes text DEFAULT 'auto',
    workers int DEFAULT NULL,
    force boolean DEFAULT false,
    after_load text DEFAULT 'keep',
    move_to text DEFAULT NULL,
    dry_run boolean DEFAULT false,
    freeze boolean DEFAULT false,
    OUT run_id bigint,
    OUT files_loaded bigint,
    OUT files_skipped bigint,
    OUT rows_read bigint,
    OUT rows_loaded bigint,
    OUT rows_rejected bigint,
    OUT bytes_read bigint,
    OUT elapsed interval)
RETURNS record
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_bulk_copy IS
    'loads CSV files of the server into a table, each file once, with rejected rows as dead letters';
