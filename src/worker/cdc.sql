-- None of these is STRICT: a null where none may be is an error, not a call that
-- silently does nothing.

CREATE FUNCTION etl_cdc_create(
    pipeline text,
    server name DEFAULT NULL,
    snapshot text DEFAULT 'initial',
    on_error text DEFAULT 'pause',
    batch_transactions int DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_create IS
    'creates a pipeline of the calling role that follows the changes of tables, here or on a server of postgres_fdw';

CREATE FUNCTION etl_cdc_add_table(
    pipeline text,
    source text,
    target regclass,
    apply text DEFAULT 'mirror',
    apply_options jsonb DEFAULT '{}',
    columns jsonb DEFAULT NULL,
    row_filter text DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_add_table IS
    'adds a table to a pipeline: where its changes come from, where they go to, and as what';

CREATE FUNCTION etl_cdc_alter_table(
    pipeline text,
    source text,
    target regclass,
    apply text DEFAULT NULL,
    apply_options jsonb DEFAULT NULL,
    columns jsonb DEFAULT NULL,
    row_filter text DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_alter_table IS
    'changes how a pipeline applies a table, from the next change on; what is null stays as it is';

CREATE FUNCTION etl_cdc_remove_table(
    pipeline text,
    source text,
    target regclass DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_remove_table IS
    'takes a table out of a pipeline; the target stays as it is';

CREATE FUNCTION etl_cdc_start(pipeline text)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_start IS
    'lets a pipeline run, for the first time or where it was stopped or paused';

CREATE FUNCTION etl_cdc_stop(pipeline text)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_stop IS
    'keeps a pipeline from running until it is started; its slot keeps what it has not read';

CREATE FUNCTION etl_cdc_wait(
    pipeline text,
    lsn pg_lsn DEFAULT NULL,
    timeout interval DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_wait IS
    'waits until what was committed up to a position, by default until now, is in the targets; false if it took too long';

CREATE FUNCTION etl_cdc_skip(pipeline text, lsn pg_lsn)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_skip IS
    'does not apply the transaction that ends at a position, and starts the pipeline that it has paused';

CREATE FUNCTION etl_cdc_resync(pipeline text, source text DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_resync IS
    'copies one table of a pipeline again, or all and follows them from now on, after the slot was lost for example';

CREATE FUNCTION etl_cdc_drop(pipeline text, force boolean DEFAULT false)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_drop IS
    'removes a pipeline and its replication slot; with force the slot of another server is left there';
