-- What there is to see of jobs.  Both views are asked with the rights of who
-- asks, so that row security decides about each row that they read.  What they
-- look up of a job they find by (job_id, slot) and (finished_at, job_id): one
-- job of many costs a few pages.
--
-- The search for the last success of a job that fails begins where it began to
-- fail, since no slot is later than the end of its run.  (CASE, because COALESCE
-- is not known to be leakproof, and row security keeps such from indexes.)
CREATE VIEW etl_patterns.job_status WITH (security_invoker = true) AS
WITH here AS MATERIALIZED (
    SELECT
        pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) COALESCE(NULLIF(
            pg_catalog.current_setting('etl_patterns.clock_offset', true), '')::interval,
            '0'::interval) AS clock,
        pg_catalog.pg_is_in_recovery() AS standby,
        EXISTS (
            SELECT
            FROM etl_patterns.run_jobs a, pg_catalog.pg_control_system() s,
                pg_catalog.pg_database d
            WHERE a.system_identifier OPERATOR(pg_catalog.=) s.system_identifier::text
                AND a.database_oid OPERATOR(pg_catalog.=) d.oid
                AND d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
        ) AS armed,
        -- This setting cannot be changed then.
        EXISTS (
            SELECT
            FROM pg_catalog.pg_settings g
            WHERE g.name OPERATOR(pg_catalog.=) 'etl_patterns.max_running_jobs'
                AND g.context OPERATOR(pg_catalog.=) 'postmaster'
        ) AS preloaded,
        EXISTS (
            SELECT
            FROM etl_scheduler_status() t
            WHERE t.database OPERATOR(pg_catalog.=) pg_catalog.current_database()
                AND t.state OPERATOR(pg_catalog.=) 'running'
        ) AS served
)
SELECT
    j.job,
    j.role,
    j.schedule,
    j.timezone,
    j.state,
    CASE
    WHEN j.reason IS NOT NULL THEN j.reason
    WHEN j.state OPERATOR(pg_catalog.<>) 'active' AND u.runs_waiting OPERATOR(pg_catalog.=) 0 THEN NULL
    WHEN here.standby THEN 'this server is a standby'
    WHEN NOT here.armed THEN 'not armed here'
    WHEN d.due_at OPERATOR(pg_catalog.>) here.clock AND u.runs_waiting OPERATOR(pg_catalog.>) 0
        THEN 'waits for its next attempt'
    WHEN d.due_at IS NULL OR d.due_at OPERATOR(pg_catalog.>) here.clock THEN NULL
    WHEN u.runs_running OPERATOR(pg_catalog.>) 0 AND j.overlap OPERATOR(pg_catalog.<>) 'allow'
        THEN 'the run before it has not ended'
    WHEN NOT here.preloaded
        THEN 'no scheduler: etl_patterns is not preloaded; call etl_run_due_jobs'
    WHEN NOT here.served
        THEN 'no scheduler: it does not run in this database; call etl_run_due_jobs'
    ELSE u.reason
    END AS reason,
    j.next_slot,
    u.runs_waiting,
    u.runs_running,
    u.running_since,
    u.pid,
    l.slot AS last_slot,
    l.status AS last_status,
    l.attempt AS last_attempt,
    l.started_at AS last_started_at,
    l.finished_at AS last_finished_at,
    l.finished_at OPERATOR(pg_catalog.-) l.started_at AS last_duration,
    l.error_code AS last_error_code,
    l.error_message AS last_error_message,
    s.finished_at AS last_success_at,
    j.failing_since,
    CASE WHEN d.due_at OPERATOR(pg_catalog.<=) here.clock
        THEN here.clock OPERATOR(pg_catalog.-) d.due_at END AS late
FROM here
    CROSS JOIN etl_patterns.job j
    CROSS JOIN LATERAL (
        SELECT
            pg_catalog.count(*) FILTER (WHERE r.status OPERATOR(pg_catalog.=) 'waiting')
                AS runs_waiting,
            pg_catalog.count(*) FILTER (WHERE r.status OPERATOR(pg_catalog.=) 'running')
                AS runs_running,
            pg_catalog.min(r.started_at) FILTER (WHERE r.status OPERATOR(pg_catalog.=) 'running')
                AS running_since,
            (pg_catalog.array_agg(r.pid ORDER BY r.started_at)
                FILTER (WHERE r.status OPERATOR(pg_catalog.=) 'running'))[1] AS pid,
            pg_catalog.min(r.due_at) FILTER (WHERE r.status OPERATOR(pg_catalog.=) 'waiting')
                AS due_at,
            pg_catalog.min(r.reason) FILTER (WHERE r.status OPERATOR(pg_catalog.=) 'waiting')
                AS reason
        FROM etl_patterns.job_run r
        WHERE r.job_id OPERATOR(pg_catalog.=) j.job_id AND r.finished_at IS NULL
    ) u
    CROSS JOIN LATERAL (
        SELECT LEAST(u.due_at, CASE WHEN j.state OPERATOR(pg_catalog.=) 'active'
                               THEN j.next_slot END) AS due_at
    ) d
    LEFT JOIN LATERAL (
        SELECT r.slot, r.status, r.attempt, r.started_at, r.finished_at,
            r.error_code, r.error_message
        FROM etl_patterns.job_run r
        WHERE r.job_id OPERATOR(pg_catalog.=) j.job_id
            AND r.status OPERATOR(pg_catalog.=) ANY
                (ARRAY['succeeded', 'failed', 'lost', 'stopped'])
        ORDER BY r.slot DESC, r.attempt DESC
        LIMIT 1
    ) l ON true
    LEFT JOIN LATERAL (
        SELECT r.finished_at
        FROM etl_patterns.job_run r
        WHERE r.job_id OPERATOR(pg_catalog.=) j.job_id
            AND r.slot OPERATOR(pg_catalog.<=) CASE WHEN j.failing_since IS NULL
                THEN 'infinity' ELSE j.failing_since END
            AND r.status OPERATOR(pg_catalog.=) 'succeeded'
        ORDER BY r.slot DESC, r.attempt DESC
        LIMIT 1
    ) s ON true;
COMMENT ON VIEW etl_patterns.job_status IS
    'one row per job: its state and what it waits for, its next slot, its last run, and how late it is';
GRANT SELECT ON etl_patterns.job_status TO PUBLIC;

-- purged_runs counts what the history no longer has, in the order of
-- EtlRunStatus: waiting, running, succeeded, failed, skipped, lost, stopped.
CREATE VIEW etl_patterns.stat_jobs WITH (security_invoker = true) AS
SELECT
    j.job,
    j.role,
    r.succeeded OPERATOR(pg_catalog.+) COALESCE(j.purged_runs[3], 0) AS succeeded,
    r.failed OPERATOR(pg_catalog.+) COALESCE(j.purged_runs[4], 0) AS failed,
    r.skipped OPERATOR(pg_catalog.+) COALESCE(j.purged_runs[5], 0) AS skipped,
    r.lost OPERATOR(pg_catalog.+) COALESCE(j.purged_runs[6], 0) AS lost,
    r.stopped OPERATOR(pg_catalog.+) COALESCE(j.purged_runs[7], 0) AS stopped,
    r.runs_kept,
    r.total_duration,
    r.total_duration OPERATOR(pg_catalog./) NULLIF(r.runs_kept, 0)::float8 AS mean_duration,
    r.max_duration,
    r.last_success_at
FROM etl_patterns.job j
    CROSS JOIN LATERAL (
        SELECT
            pg_catalog.count(*) FILTER (WHERE k.status OPERATOR(pg_catalog.=) 'succeeded')
                AS succeeded,
            pg_catalog.count(*) FILTER (WHERE k.status OPERATOR(pg_catalog.=) 'failed')
                AS failed,
            COALESCE(pg_catalog.sum(k.slots)
                FILTER (WHERE k.status OPERATOR(pg_catalog.=) 'skipped'), 0)::bigint AS skipped,
            pg_catalog.count(*) FILTER (WHERE k.status OPERATOR(pg_catalog.=) 'lost')
                AS lost,
            pg_catalog.count(*) FILTER (WHERE k.status OPERATOR(pg_catalog.=) 'stopped')
                AS stopped,
            pg_catalog.count(k.started_at) FILTER (WHERE k.finished_at IS NOT NULL)
                AS runs_kept,
            pg_catalog.sum(k.finished_at OPERATOR(pg_catalog.-) k.started_at) AS total_duration,
            pg_catalog.max(k.finished_at OPERATOR(pg_catalog.-) k.started_at) AS max_duration,
            pg_catalog.max(k.finished_at)
                FILTER (WHERE k.status OPERATOR(pg_catalog.=) 'succeeded') AS last_success_at
        FROM etl_patterns.job_run k
        WHERE k.job_id OPERATOR(pg_catalog.=) j.job_id
    ) r;
COMMENT ON VIEW etl_patterns.stat_jobs IS
    'one row per job: how many of its slots ended how, since it was created, and how long the runs of its history took';
GRANT SELECT ON etl_patterns.stat_jobs TO PUBLIC;

-- The function is where the user wanted functions to be; monitoring must find
-- it anyway.
CREATE VIEW etl_patterns.scheduler_status WITH (security_invoker = true) AS
SELECT * FROM etl_scheduler_status();
COMMENT ON VIEW etl_patterns.scheduler_status IS
    'one row per database of this server that has a scheduler, or should: its state, its workers and its last sign of life';
GRANT SELECT ON etl_patterns.scheduler_status TO PUBLIC;
