CREATE PROCEDURE etl_run_due_jobs(
    max_runs int DEFAULT NULL,
    max_runtime interval DEFAULT NULL
)
AS 'MODULE_PATHNAME'
LANGUAGE C;
COMMENT ON PROCEDURE etl_run_due_jobs IS
    'runs the jobs of the calling role that are due, one after the other, without the extension''s own workers';
