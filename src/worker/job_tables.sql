-- The state tables of jobs.  What ledger.sql says of the state tables holds for
-- these, too: only the C code writes them, by column number (job.h lists the
-- columns in this order), and new columns are added at the end.

CREATE SEQUENCE etl_patterns.job_id_seq;
CREATE SEQUENCE etl_patterns.job_run_id_seq;
CREATE SEQUENCE etl_patterns.alert_id_seq;

CREATE TABLE etl_patterns.job (
    job_id bigint PRIMARY KEY,
    job text COLLATE pg_catalog."C" NOT NULL UNIQUE,
    role regrole NOT NULL,
    schedule text NOT NULL,
    timezone text NOT NULL,
    command text NOT NULL,
    overlap text NOT NULL CHECK (overlap IN ('forbid', 'queue', 'replace', 'allow')),
    catchup text NOT NULL CHECK (catchup IN ('skip', 'once', 'all')),
    max_attempts int NOT NULL,
    retry_delay interval NOT NULL,
    retry_max_delay interval NOT NULL,
    timeout interval,
    alert_after interval,
    start_at timestamptz,
    state text NOT NULL CHECK (state IN ('active', 'paused', 'broken', 'done')),
    reason text,
    next_slot timestamptz,
    after_job bigint,
    event text COLLATE pg_catalog."C",
    failing_since timestamptz,
    created_at timestamptz NOT NULL,
    altered_at timestamptz NOT NULL,
    purged_runs bigint[]
) WITH (fillfactor = 70);
COMMENT ON TABLE etl_patterns.job IS
    'one row per job: what it runs, when, and in which state it is';
CREATE INDEX job_after_job_idx ON etl_patterns.job (after_job);
CREATE INDEX job_event_idx ON etl_patterns.job (event);

CREATE TABLE etl_patterns.job_run (
    job_run_id bigint PRIMARY KEY,
    job_id bigint NOT NULL,
    job text NOT NULL,
    role regrole NOT NULL,
    slot timestamptz NOT NULL,
    attempt int NOT NULL,
    origin text COLLATE pg_catalog."C" NOT NULL CHECK (origin IN
        ('schedule', 'manual', 'backfill', 'after', 'event', 'file')),
    status text NOT NULL CHECK (status IN
        ('waiting', 'running', 'succeeded', 'failed', 'skipped', 'lost', 'stopped')),
    reason text,
    due_at timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    pid int,
    backend_start timestamptz,
    payload text,
    error_code text,
    error_message text,
    error_detail text,
    error_context text,
    first_slot timestamptz,
    slots bigint NOT NULL,
    alerted_at timestamptz,
    UNIQUE (job_id, slot, attempt)
) WITH (fillfactor = 90);
COMMENT ON TABLE etl_patterns.job_run IS
    'one row per attempt at a slot of a job, and per slot that was skipped';
-- Runs that have not ended are found by their NULL, of all jobs or of one; and
-- by origin, so that a claim need not read what a backfill has made.
CREATE INDEX job_run_finished_at_idx ON etl_patterns.job_run (finished_at, job_id, origin);

CREATE TABLE etl_patterns.alert (
    alert_id bigint PRIMARY KEY,
    role regrole NOT NULL,
    kind text NOT NULL CHECK (kind IN
        ('failed', 'still_running', 'never_started', 'broken', 'recovered',
         'paused', 'lost', 'slot_retained')),
    job_id bigint,
    job text,
    job_run_id bigint,
    slot timestamptz,
    error_code text,
    message text NOT NULL,
    created_at timestamptz NOT NULL,
    pipeline_id bigint,
    pipeline text,
    CHECK ((job_id IS NULL) <> (pipeline_id IS NULL))
);
COMMENT ON TABLE etl_patterns.alert IS
    'one row per change of a job''s or pipeline''s state that somebody should know of, until it is drained';

CREATE TABLE etl_patterns.job_file (
    job_id bigint NOT NULL,
    path text COLLATE pg_catalog."C" NOT NULL,
    role regrole NOT NULL,
    size_bytes bigint NOT NULL,
    modified_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    job_run_id bigint,
    PRIMARY KEY (job_id, path)
);
COMMENT ON TABLE etl_patterns.job_file IS
    'one row per file that a job on file arrival sees; job_run_id is the run that it was handed to';

-- At most one row: on which system and database the jobs of this database run.
-- A dump that is restored elsewhere brings the row along, but it names the
-- place that it came from, so that nothing runs there before somebody says so.
CREATE TABLE etl_patterns.run_jobs (
    system_identifier text NOT NULL,
    database_oid oid NOT NULL,
    role regrole NOT NULL,
    armed_at timestamptz NOT NULL
);
COMMENT ON TABLE etl_patterns.run_jobs IS
    'where the jobs of this database run: it remembers the system that etl_job_arm was called on';
GRANT SELECT ON etl_patterns.run_jobs TO PUBLIC;

-- Users read their own rows, members of pg_monitor read all.
DO $$
DECLARE
    state_table text;
BEGIN
    FOREACH state_table IN ARRAY ARRAY['job', 'job_run', 'alert', 'job_file']
    LOOP
        EXECUTE pg_catalog.format(
            'ALTER TABLE etl_patterns.%I ENABLE ROW LEVEL SECURITY', state_table);
        EXECUTE pg_catalog.format(
            'CREATE POLICY own_rows ON etl_patterns.%I FOR SELECT USING ('
            'pg_catalog.pg_has_role(role, ''USAGE'') '
            'OR pg_catalog.pg_has_role(''pg_monitor'', ''USAGE''))', state_table);
        EXECUTE pg_catalog.format(
            'GRANT SELECT ON etl_patterns.%I TO PUBLIC', state_table);
        PERFORM pg_catalog.pg_extension_config_dump(
            pg_catalog.format('etl_patterns.%I', state_table), '');
    END LOOP;
END
$$;
SELECT pg_catalog.pg_extension_config_dump('etl_patterns.run_jobs', '');
SELECT pg_catalog.pg_extension_config_dump('etl_patterns.job_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('etl_patterns.job_run_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('etl_patterns.alert_id_seq', '');
