CREATE FUNCTION etl_scheduler_status(
    OUT database text,
    OUT state text,
    OUT pid int,
    OUT started_at timestamptz,
    OUT heartbeat timestamptz,
    OUT armed boolean,
    OUT jobs bigint,
    OUT runs_waiting bigint,
    OUT workers int,
    OUT workers_idle int,
    OUT no_worker bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE STRICT PARALLEL SAFE ROWS 5;
COMMENT ON FUNCTION etl_scheduler_status IS
    'the schedulers of this server: where they are, and how they do';

-- There is something to do for a scheduler here, as soon as this commits.
CREATE FUNCTION etl_patterns.installed()
RETURNS void
AS 'MODULE_PATHNAME', 'etl_installed'
LANGUAGE C;
SELECT etl_patterns.installed();
DROP FUNCTION etl_patterns.installed();
