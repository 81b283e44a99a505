CREATE FUNCTION etl_cdc_workers(
    OUT pipeline_id bigint,
    OUT pid int,
    OUT reader_pid int,
    OUT started_at timestamptz,
    OUT wal_lsn pg_lsn,
    OUT read_lsn pg_lsn,
    OUT applied_lsn pg_lsn,
    OUT confirmed_lsn pg_lsn,
    OUT read_at timestamptz,
    OUT caught_up_at timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE STRICT PARALLEL SAFE ROWS 5;
COMMENT ON FUNCTION etl_cdc_workers IS
    'the processes of this database''s pipelines, and how far they are';

-- What there is to see of pipelines, with the rights of who asks.  A position is
-- that of the process, which need not write it, if it is further than that of
-- the row.  The slot and the end of the WAL of another server are not known
-- here, but for what the process has been told.
--
-- The lag in seconds: 0 if all of the WAL is applied; else the time since all that
-- had been read was applied, or since the last commit that was.
CREATE VIEW etl_patterns.cdc_status WITH (security_invoker = true) AS
WITH here AS MATERIALIZED (
    SELECT
        pg_catalog.clock_timestamp() AS clock,
        i.standby,
        CASE WHEN i.standby THEN pg_catalog.pg_last_wal_replay_lsn()
             ELSE pg_catalog.pg_current_wal_lsn() END AS wal_lsn,
        pg_catalog.format('etl_%s_', d.oid) AS slot_prefix,
        EXISTS (
            SELECT
            FROM etl_patterns.run_jobs a, pg_catalog.pg_control_system() s
            WHERE a.system_identifier OPERATOR(pg_catalog.=) s.system_identifier::text
                AND a.database_oid OPERATOR(pg_catalog.=) d.oid
        ) AS armed,
        EXISTS (
            SELECT
            FROM pg_catalog.pg_settings g
            WHERE g.name OPERATOR(pg_catalog.=) 'etl_patterns.max_running_jobs'
                AND g.context OPERATOR(pg_catalog.=) 'postmaster'
        ) AS preloaded,
        pg_catalog.current_setting('etl_patterns.scheduler', true)
            IS NOT DISTINCT FROM 'off' AS off,
        EXISTS (
            SELECT
            FROM etl_scheduler_status() t
            WHERE t.database OPERATOR(pg_catalog.=) pg_catalog.current_database()
                AND t.state OPERATOR(pg_catalog.=) 'running'
        ) AS served
    FROM pg_catalog.pg_database d, LATERAL (SELECT pg_catalog.pg_is_in_recovery() AS standby) i
    WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
), pipeline AS (
    SELECT
        p.*,
        p.state OPERATOR(pg_catalog.=) ANY (ARRAY['starting', 'copying', 'running']) AS is_to_run,
        w.pid,
        COALESCE(w.reader_pid, s.active_pid) AS reader_pid,
        w.started_at,
        CASE WHEN p.server IS NULL THEN here.wal_lsn ELSE w.wal_lsn END AS wal_lsn,
        w.read_lsn,
        GREATEST(p.applied_lsn, w.applied_lsn) AS applied_to,
        COALESCE(s.confirmed_flush_lsn, w.confirmed_lsn) AS confirmed_lsn,
        w.read_at,
        w.caught_up_at,
        s.restart_lsn,
        s.wal_status,
        here.wal_lsn AS wal_here,
        here.clock,
        CASE
        WHEN here.standby THEN 'this server is a standby'
        WHEN NOT here.armed THEN 'not armed here'
        WHEN NOT here.preloaded THEN 'no scheduler: etl_patterns is not preloaded'
        WHEN here.off THEN 'etl_patterns.scheduler is off'
        WHEN NOT here.served THEN 'no scheduler in this database'
        WHEN w.pid IS NULL THEN 'waits for its process'
        WHEN NOT p.has_slot THEN 'waits for its replication slot'
        WHEN a.wait_event_type OPERATOR(pg_catalog.=) 'Lock' THEN 'waits for a lock'
        END AS obstacle,
        CASE
        WHEN w.pid IS NULL THEN NULL
        WHEN NOT p.has_slot THEN 'It is made when all transactions have ended that write now.'
        WHEN a.wait_event_type OPERATOR(pg_catalog.=) 'Lock'
            THEN pg_catalog.format('pg_blocking_pids(%s) says who holds it.', w.pid)
        END AS obstacle_hint,
        p.has_slot AND NOT pg_catalog.starts_with(p.slot_name, here.slot_prefix) AS is_copy
    FROM here
        CROSS JOIN etl_patterns.cdc_pipeline p
        LEFT JOIN etl_cdc_workers() w ON w.pipeline_id OPERATOR(pg_catalog.=) p.pipeline_id
        LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid OPERATOR(pg_catalog.=) w.pid
        LEFT JOIN pg_catalog.pg_replication_slots s
            ON s.slot_name OPERATOR(pg_catalog.=) p.slot_name::pg_catalog.name
                AND s.database OPERATOR(pg_catalog.=) pg_catalog.current_database()
                AND p.server IS NULL
)
SELECT
    p.pipeline,
    p.role,
    p.server,
    p.state,
    CASE
    WHEN p.is_copy THEN 'restored or copied from another database'
    WHEN p.error_message IS NOT NULL THEN p.error_message
    WHEN p.is_to_run THEN p.obstacle
    END AS reason,
    CASE
    WHEN p.is_copy OR p.state OPERATOR(pg_catalog.=) 'lost'
        THEN pg_catalog.format('etl_cdc_resync(%L) copies its tables again.', p.pipeline)
    WHEN p.error_message IS NOT NULL THEN p.error_hint
    WHEN p.is_to_run THEN p.obstacle_hint
    END AS hint,
    t.tables,
    t.tables_new,
    p.pid,
    p.reader_pid,
    p.started_at,
    p.slot_name,
    p.wal_status,
    p.wal_lsn,
    p.read_lsn,
    p.applied_to AS applied_lsn,
    p.confirmed_lsn,
    CASE WHEN p.read_lsn IS NOT NULL AND p.wal_lsn IS NOT NULL
        THEN GREATEST(p.wal_lsn OPERATOR(pg_catalog.-) p.read_lsn, 0)::bigint END AS read_lag_bytes,
    CASE WHEN p.applied_to IS NOT NULL AND p.wal_lsn IS NOT NULL
        THEN GREATEST(p.wal_lsn OPERATOR(pg_catalog.-) p.applied_to, 0)::bigint END AS applied_lag_bytes,
    CASE WHEN p.confirmed_lsn IS NOT NULL AND p.wal_lsn IS NOT NULL
        THEN GREATEST(p.wal_lsn OPERATOR(pg_catalog.-) p.confirmed_lsn, 0)::bigint END AS confirmed_lag_bytes,
    CASE
    WHEN p.applied_to OPERATOR(pg_catalog.>=) p.wal_lsn THEN 0
    WHEN p.source_committed_at IS NOT NULL OR p.caught_up_at IS NOT NULL
        THEN GREATEST(pg_catalog.date_part('epoch', p.clock OPERATOR(pg_catalog.-)
            GREATEST(p.source_committed_at, p.caught_up_at)), 0)
    END AS lag_seconds,
    CASE WHEN p.restart_lsn IS NOT NULL
        THEN GREATEST(p.wal_here OPERATOR(pg_catalog.-) p.restart_lsn, 0)::bigint END AS retained_bytes,
    p.retained_alert_at,
    p.transactions,
    p.inserts,
    p.updates,
    p.deletes,
    p.truncates,
    p.reads,
    t.rows_copied,
    p.applied_at,
    p.source_committed_at,
    p.error_code,
    p.error_message,
    p.error_change,
    p.error_at,
    p.skip_lsn
FROM pipeline p
    CROSS JOIN LATERAL (
        SELECT
            pg_catalog.count(*) AS tables,
            pg_catalog.count(*) FILTER (WHERE c.state OPERATOR(pg_catalog.=) 'new') AS tables_new,
            COALESCE(pg_catalog.sum(c.rows_copied), 0)::bigint AS rows_copied
        FROM etl_patterns.cdc_table c
        WHERE c.pipeline_id OPERATOR(pg_catalog.=) p.pipeline_id
    ) t;
COMMENT ON VIEW etl_patterns.cdc_status IS
    'one row per CDC pipeline: its state and what it waits for, its positions and lag, what its slot keeps, and what it has applied';
GRANT SELECT ON etl_patterns.cdc_status TO PUBLIC;
