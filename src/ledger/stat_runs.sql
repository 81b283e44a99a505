-- What ran, and what failed, which no table can say: its row would be rolled
-- back with the run.
CREATE FUNCTION etl_stat_runs(
    OUT operation text,
    OUT name text,
    OUT finished bigint,
    OUT failed bigint,
    OUT rows_read bigint,
    OUT rows_inserted bigint,
    OUT rows_updated bigint,
    OUT rows_deleted bigint,
    OUT rows_unchanged bigint,
    OUT rows_rejected bigint,
    OUT total_time float8,
    OUT last_finished_at timestamptz,
    OUT last_failed_at timestamptz,
    OUT last_error_code text,
    OUT stats_since timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 20;
COMMENT ON FUNCTION etl_stat_runs IS
    'how many runs of each flow of this database finished and failed since they are counted';

-- The function is where the user wanted functions to be; monitoring must find
-- this without knowing where.
CREATE VIEW etl_patterns.stat_runs WITH (security_invoker = true) AS
SELECT
    s.operation,
    s.name,
    s.finished,
    s.failed,
    s.rows_read,
    s.rows_inserted,
    s.rows_updated,
    s.rows_deleted,
    s.rows_unchanged,
    s.rows_rejected,
    s.total_time,
    s.last_finished_at,
    s.last_failed_at,
    s.last_error_code,
    s.stats_since
FROM etl_stat_runs() s;
COMMENT ON VIEW etl_patterns.stat_runs IS
    'one row per operation, and pipeline of a pull: how many of its runs finished and failed, and what became of their rows; needs preload';
GRANT SELECT ON etl_patterns.stat_runs TO PUBLIC;

CREATE FUNCTION etl_stat_runs_reset()
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION etl_stat_runs_reset IS
    'counts the runs of this database from nothing';
REVOKE EXECUTE ON FUNCTION etl_stat_runs_reset FROM PUBLIC;
