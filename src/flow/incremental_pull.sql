CREATE FUNCTION etl_incremental_pull(
    pipeline text,
    source regclass,
    target regclass,
    cursor_column name DEFAULT NULL,
    keys name[] DEFAULT NULL,
    apply text DEFAULT 'append',
    apply_options jsonb DEFAULT '{}',
    safety text DEFAULT 'auto',
    lookback interval DEFAULT NULL,
    lag interval DEFAULT NULL,
    max_wait interval DEFAULT '30s',
    flag_column name DEFAULT NULL,
    initial_value text DEFAULT NULL,
    end_value text DEFAULT NULL,
    batch_rows bigint DEFAULT NULL,
    null_cursor text DEFAULT 'error',
    OUT run_id bigint,
    OUT rows_read bigint,
    OUT rows_inserted bigint,
    OUT rows_updated bigint,
    OUT rows_unchanged bigint,
    OUT rows_rejected bigint,
    OUT watermark_low text,
    OUT watermark_high text,
    OUT more boolean
)
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_incremental_pull IS
    'reads the rows of a source that are new since the pipeline''s last run into a target, and moves the watermark';

CREATE FUNCTION etl_backfill(
    pipeline text,
    low text,
    high text,
    OUT run_id bigint,
    OUT rows_read bigint,
    OUT rows_inserted bigint,
    OUT rows_updated bigint,
    OUT rows_unchanged bigint,
    OUT rows_rejected bigint,
    OUT watermark_low text,
    OUT watermark_high text,
    OUT more boolean
)
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_backfill IS
    'reads the rows of a pipeline''s source from low up to, not including, high once more; the watermark stays';

CREATE PROCEDURE etl_incremental_drain(
    pipeline text,
    max_batches int DEFAULT NULL,
    max_runtime interval DEFAULT NULL
)
AS 'MODULE_PATHNAME'
LANGUAGE C;
COMMENT ON PROCEDURE etl_incremental_drain IS
    'pulls one batch of a pipeline after the other, each in a transaction of its own, until nothing is left';

CREATE FUNCTION etl_pipeline_lag(
    pipeline text,
    OUT rows_waiting bigint,
    OUT seconds_behind float8,
    OUT held_by_pid int
)
AS 'MODULE_PATHNAME'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_pipeline_lag IS
    'how far a pipeline is behind its source, for the view etl_patterns.pipeline_lag';

CREATE VIEW etl_patterns.pipeline_lag WITH (security_invoker = true) AS
SELECT
    w.pipeline,
    w.source,
    w.target,
    w.cursor_column,
    w.detail OPERATOR(pg_catalog.->>) 'chosen' AS safety,
    w.value AS watermark,
    l.rows_waiting,
    l.seconds_behind,
    w.run_id AS last_run_id,
    w.updated_at AS last_run_at,
    l.held_by_pid
FROM etl_patterns.watermark w
    LEFT JOIN LATERAL etl_pipeline_lag(
        CASE WHEN pg_catalog.pg_has_role(w.role, 'USAGE') THEN w.pipeline END) l
        ON true;
COMMENT ON VIEW etl_patterns.pipeline_lag IS
    'how far each pipeline is behind its source: rows (estimated), seconds, and the process that keeps it from reading on';
GRANT SELECT ON etl_patterns.pipeline_lag TO PUBLIC;
