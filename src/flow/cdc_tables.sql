-- The state tables of CDC pipelines.  What ledger.sql says of the state tables
-- holds for these, too: only the C code writes them, by column number (cdc.h
-- lists the columns in this order), and new columns are added at the end.

CREATE SEQUENCE etl_patterns.cdc_pipeline_id_seq;

CREATE TABLE etl_patterns.cdc_pipeline (
    pipeline_id bigint PRIMARY KEY,
    pipeline text COLLATE pg_catalog."C" NOT NULL UNIQUE,
    role regrole NOT NULL,
    server text,
    snapshot text NOT NULL CHECK (snapshot IN ('initial', 'none')),
    on_error text NOT NULL CHECK (on_error IN ('pause', 'dead_letter')),
    batch_transactions int NOT NULL,
    state text NOT NULL CHECK (state IN
        ('stopped', 'starting', 'copying', 'running', 'paused', 'lost')),
    slot_name text NOT NULL,
    has_slot boolean NOT NULL,
    applied_lsn pg_lsn,
    applied_at timestamptz,
    source_committed_at timestamptz,
    transactions bigint NOT NULL,
    inserts bigint NOT NULL,
    updates bigint NOT NULL,
    deletes bigint NOT NULL,
    truncates bigint NOT NULL,
    reads bigint NOT NULL,
    error_code text,
    error_message text,
    error_hint text,
    error_change jsonb,
    error_at timestamptz,
    skip_lsn pg_lsn,
    created_at timestamptz NOT NULL,
    retained_alert_at timestamptz
) WITH (fillfactor = 50);
COMMENT ON TABLE etl_patterns.cdc_pipeline IS
    'one row per CDC pipeline: what it follows, how far it has come, what stopped it';

CREATE TABLE etl_patterns.cdc_table (
    pipeline_id bigint NOT NULL,
    source text COLLATE pg_catalog."C" NOT NULL,
    pipeline text NOT NULL,
    source_relation regclass,
    role regrole NOT NULL,
    target regclass NOT NULL,
    apply text NOT NULL CHECK (apply IN
        ('mirror', 'scd2', 'append', 'changelog', 'function')),
    apply_options jsonb NOT NULL,
    columns jsonb,
    row_filter text,
    state text NOT NULL CHECK (state IN ('new', 'followed')),
    copy_snapshot text,
    rows_copied bigint NOT NULL,
    copied_at timestamptz,
    PRIMARY KEY (pipeline_id, source, target)
);
COMMENT ON TABLE etl_patterns.cdc_table IS
    'one row per table of a CDC pipeline: where its changes come from and go to';

-- Users read their own rows, members of pg_monitor read all.
DO $$
DECLARE
    state_table text;
BEGIN
    FOREACH state_table IN ARRAY ARRAY['cdc_pipeline', 'cdc_table']
    LOOP
        EXECUTE pg_catalog.format(
            'ALTER TABLE etl_patterns.%I ENABLE ROW LEVEL SECURITY', state_table);
        EXECUTE pg_catalog.format(
            'CREATE POLICY own_rows ON etl_patterns.%I FOR SELECT USING ('
            'pg_catalog.pg_has_role(role, ''USAGE'') '
            'OR pg_catalog.pg_has_role(''pg_monitor'', ''USAGE''))', state_table);
        EXECUTE pg_catalog.format(
            'GRANT SELECT ON etl_patterns.%I TO PUBLIC', state_table);
    END LOOP;
END
$$;
-- The number of a table that was dropped may be that of another one where a
-- dump is restored.
SELECT pg_catalog.pg_extension_config_dump('etl_patterns.cdc_pipeline', '');
SELECT pg_catalog.pg_extension_config_dump('etl_patterns.cdc_table', $$
    WHERE EXISTS (
            SELECT FROM pg_catalog.pg_class c
            WHERE c.oid OPERATOR(pg_catalog.=) target)
        AND (source_relation IS NULL OR EXISTS (
            SELECT FROM pg_catalog.pg_class c
            WHERE c.oid OPERATOR(pg_catalog.=) source_relation)) $$);
SELECT pg_catalog.pg_extension_config_dump('etl_patterns.cdc_pipeline_id_seq', '');
