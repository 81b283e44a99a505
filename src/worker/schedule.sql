CREATE FUNCTION etl_schedule_next_runs(
    schedule text,
    n int DEFAULT 5,
    timezone text DEFAULT 'UTC',
    after timestamptz DEFAULT now(),
    start_at timestamptz DEFAULT NULL)
RETURNS SETOF timestamptz
AS 'MODULE_PATHNAME'
LANGUAGE C STABLE PARALLEL SAFE ROWS 5;
COMMENT ON FUNCTION etl_schedule_next_runs IS
    'the next times that a schedule means, to try it before a job has it';
