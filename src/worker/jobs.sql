-- None of these is STRICT: a null where none may be is an error, not a call that
-- silently does nothing.

CREATE FUNCTION etl_job_create(
    job text,
    schedule text,
    command text,
    timezone text DEFAULT 'UTC',
    overlap text DEFAULT 'forbid',
    catchup text DEFAULT 'once',
    max_attempts int DEFAULT 1,
    retry_delay interval DEFAULT '10s',
    retry_max_delay interval DEFAULT '10min',
    timeout interval DEFAULT NULL,
    alert_after interval DEFAULT NULL,
    enabled boolean DEFAULT true,
    start_at timestamptz DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_job_create IS
    'creates a job of the calling role: SQL that runs by a schedule';

CREATE FUNCTION etl_job_alter(
    job text,
    schedule text DEFAULT NULL,
    command text DEFAULT NULL,
    timezone text DEFAULT NULL,
    overlap text DEFAULT NULL,
    catchup text DEFAULT NULL,
    max_attempts int DEFAULT NULL,
    retry_delay interval DEFAULT NULL,
    retry_max_delay interval DEFAULT NULL,
    timeout interval DEFAULT NULL,
    alert_after interval DEFAULT NULL,
    start_at timestamptz DEFAULT NULL,
    new_name text DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_job_alter IS
    'changes a job; what is null stays as it is';

CREATE FUNCTION etl_job_drop(job text)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_job_drop IS
    'removes a job; its history stays';

CREATE FUNCTION etl_job_pause(job text)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_job_pause IS
    'keeps a job from running by its schedule until it is resumed';

CREATE FUNCTION etl_job_resume(job text)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_job_resume IS
    'makes a job that is paused or broken run again, from its next slot on';

CREATE FUNCTION etl_job_next_runs(job text, n int DEFAULT 5)
RETURNS SETOF timestamptz
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 5;
COMMENT ON FUNCTION etl_job_next_runs IS
    'the next times that a job runs at';

CREATE FUNCTION etl_job_run(job text)
RETURNS bigint
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_job_run IS
    'adds a run of a job that starts as soon as the job may run';

CREATE FUNCTION etl_job_stop(job_run_id bigint)
RETURNS boolean
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_job_stop IS
    'stops a run that waits or runs; false if it had ended';

CREATE FUNCTION etl_job_backfill(
    job text,
    "from" timestamptz,
    "to" timestamptz,
    reprocess text DEFAULT 'none')
RETURNS bigint
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_job_backfill IS
    'adds runs for the past slots of a job from one time on and before another; reprocess none|failed|all';

CREATE FUNCTION etl_job_arm()
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_job_arm IS
    'lets the jobs of this database run here: after a restore, or on a copy of the server';
