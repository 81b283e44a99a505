CREATE FUNCTION etl_job_history_purge(older_than interval, job text DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_job_history_purge IS
    'deletes runs that ended longer ago, and alerts as old; returns how many runs';
