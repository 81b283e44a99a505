-- src/etl_patterns.sql

\echo Use "CREATE EXTENSION etl_patterns" to load this file. \quit

-- The state has a schema of its own, whatever schema the functions go to.
-- CREATE SCHEMA without IF NOT EXISTS: a schema that somebody else made, and
-- could put objects into, must not become ours.
CREATE SCHEMA etl_patterns;
COMMENT ON SCHEMA etl_patterns IS
    'state of the etl_patterns extension: what ran, how far, what was rejected';
GRANT USAGE ON SCHEMA etl_patterns TO PUBLIC;

-- src/ledger/ledger.sql

-- The state tables.  Only the C code writes them (nobody is granted more than
-- SELECT), and it fills them by column number: ledger.h lists the columns in
-- this order, and new ones are added at the end.  There are no partial or
-- expression indexes, for the same reason.  Texts that are looked up have the
-- collation "C", which is the one that the C code's scan keys have, and which no
-- update of the operating system changes.

CREATE SEQUENCE etl_patterns.run_id_seq;
CREATE SEQUENCE etl_patterns.dead_letter_id_seq;
CREATE SEQUENCE etl_patterns.file_id_seq;

CREATE TABLE etl_patterns.run (
    run_id bigint PRIMARY KEY,
    operation text NOT NULL,
    name text,
    target regclass,
    role regrole NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    status text NOT NULL CHECK (status IN ('succeeded', 'skipped', 'dry_run')),
    rows_read bigint NOT NULL,
    rows_inserted bigint NOT NULL,
    rows_updated bigint NOT NULL,
    rows_deleted bigint NOT NULL,
    rows_unchanged bigint NOT NULL,
    rows_rejected bigint NOT NULL,
    bytes_read bigint NOT NULL,
    watermark_low text,
    watermark_high text,
    detail jsonb
);
COMMENT ON TABLE etl_patterns.run IS
    'one row per execution: what it read and what became of every row';

CREATE TABLE etl_patterns.watermark (
    pipeline text COLLATE pg_catalog."C" PRIMARY KEY,
    role regrole NOT NULL,
    source regclass,
    cursor_column name,
    value text,
    updated_at timestamptz NOT NULL,
    run_id bigint,
    detail jsonb,
    target regclass
);
COMMENT ON TABLE etl_patterns.watermark IS
    'how far each pipeline has read its source';

CREATE TABLE etl_patterns.dead_letter (
    dead_letter_id bigint PRIMARY KEY,
    run_id bigint NOT NULL,
    operation text NOT NULL,
    target regclass,
    role regrole NOT NULL,
    source_name text,
    file_id bigint,
    line_no bigint,
    row_no bigint,
    byte_offset bigint,
    column_name text,
    field_value text,
    category text NOT NULL,
    error_code text NOT NULL,
    error_message text NOT NULL,
    error_detail text,
    raw_record text,
    raw_bytes bytea,
    payload jsonb,
    attempts int NOT NULL,
    status text NOT NULL CHECK (status IN ('pending', 'replayed', 'discarded')),
    created_at timestamptz NOT NULL,
    resolved_at timestamptz,
    resolved_run_id bigint
);
COMMENT ON TABLE etl_patterns.dead_letter IS
    'one row per rejected row: where it came from, what it held, why it was rejected';
CREATE INDEX dead_letter_target_status_idx
    ON etl_patterns.dead_letter (target, status);

CREATE TABLE etl_patterns.loaded_file (
    file_id bigint PRIMARY KEY,
    target regclass NOT NULL,
    role regrole NOT NULL,
    path text NOT NULL,
    size_bytes bigint NOT NULL,
    modified_at timestamptz NOT NULL,
    content_hash bytea NOT NULL,
    run_id bigint NOT NULL,
    rows_loaded bigint NOT NULL,
    rows_rejected bigint NOT NULL,
    loaded_at timestamptz NOT NULL,
    layout jsonb NOT NULL
);
COMMENT ON TABLE etl_patterns.loaded_file IS
    'one row per file loaded into a target; content_hash is the SHA-256 of its bytes on disk';
CREATE INDEX loaded_file_target_size_idx
    ON etl_patterns.loaded_file (target, size_bytes, modified_at);
CREATE INDEX loaded_file_target_content_idx
    ON etl_patterns.loaded_file (target, content_hash);

-- What runs now, from the numbers that progress.c leaves where COPY's are: it
-- says which is which, and has the words in the same order.  Of the runs of
-- other roles the function shows nothing, unless the caller may read them.
CREATE VIEW etl_patterns.progress WITH (security_invoker = true) AS
SELECT
    s.pid,
    (s.param18 OPERATOR(pg_catalog.&) 4294967295)::pg_catalog.oid::pg_catalog.regrole AS role,
    NULLIF(s.param19, 0) AS run_id,
    (ARRAY['bulk_copy', 'dead_letter_replay', 'upsert', 'scd1_merge',
           'scd2_merge', 'scd3_merge', 'incremental_pull', 'backfill'])
        [((s.param18 OPERATOR(pg_catalog.>>) 48) OPERATOR(pg_catalog.&) 255)::int]
        AS operation,
    CASE WHEN GREATEST(s.param10, s.param11, s.param12, s.param13,
                       s.param14, s.param15, s.param16, s.param17)
              OPERATOR(pg_catalog.<) 0
    THEN pg_catalog.convert_from(pg_catalog.rtrim(
        pg_catalog.substr(pg_catalog.int8send(s.param10), 2)
        OPERATOR(pg_catalog.||) pg_catalog.substr(pg_catalog.int8send(s.param11), 2)
        OPERATOR(pg_catalog.||) pg_catalog.substr(pg_catalog.int8send(s.param12), 2)
        OPERATOR(pg_catalog.||) pg_catalog.substr(pg_catalog.int8send(s.param13), 2)
        OPERATOR(pg_catalog.||) pg_catalog.substr(pg_catalog.int8send(s.param14), 2)
        OPERATOR(pg_catalog.||) pg_catalog.substr(pg_catalog.int8send(s.param15), 2)
        OPERATOR(pg_catalog.||) pg_catalog.substr(pg_catalog.int8send(s.param16), 2)
        OPERATOR(pg_catalog.||) pg_catalog.substr(pg_catalog.int8send(s.param17), 2),
        '\x00'::bytea), pg_catalog.getdatabaseencoding())
        COLLATE pg_catalog."default"
    END AS name,
    NULLIF(s.relid, 0::pg_catalog.oid)::pg_catalog.regclass AS target,
    (ARRAY['waiting', 'hashing', 'copying', 'indexes',
           'reading', 'comparing', 'deciding', 'writing'])
        [((s.param18 OPERATOR(pg_catalog.>>) 40) OPERATOR(pg_catalog.&) 255)::int]
        AS phase,
    CASE (s.param18 OPERATOR(pg_catalog.>>) 32) OPERATOR(pg_catalog.&) 255
        WHEN 1 THEN s.param1 WHEN 2 THEN s.param3 WHEN 3 THEN s.param8 END AS done,
    NULLIF(s.param9, -1) AS total,
    (ARRAY['bytes', 'rows', 'indexes'])
        [((s.param18 OPERATOR(pg_catalog.>>) 32) OPERATOR(pg_catalog.&) 255)::int] AS unit,
    '2000-01-01 00:00:00+00'::timestamptz OPERATOR(pg_catalog.+)
        ('1 microsecond'::interval OPERATOR(pg_catalog.*) s.param20::float8)
        AS started_at
FROM pg_catalog.pg_stat_get_progress_info('COPY') AS s
WHERE s.datid OPERATOR(pg_catalog.=) (
        SELECT d.oid FROM pg_catalog.pg_database d
        WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
    AND (s.param18 OPERATOR(pg_catalog.>>) 56) OPERATOR(pg_catalog.=) 69;
COMMENT ON VIEW etl_patterns.progress IS
    'one row per run that is under way in this database: what it does now, and how far it has come';
GRANT SELECT ON etl_patterns.progress TO PUBLIC;

-- Users read their own rows, members of pg_monitor read all.
DO $$
DECLARE
    state_table text;
BEGIN
    FOREACH state_table IN ARRAY ARRAY['run', 'watermark', 'dead_letter', 'loaded_file']
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

-- A temporary table's name means nothing in the database that a dump is
-- restored into, and the restore would fail on it; nor does the number of a
-- table that was dropped, which there may be that of another table.
SELECT pg_catalog.pg_extension_config_dump('etl_patterns.run', $$
    WHERE target IS NULL OR NOT EXISTS (
        SELECT FROM pg_catalog.pg_class c
        WHERE c.oid OPERATOR(pg_catalog.=) target
            AND c.relpersistence OPERATOR(pg_catalog.=) 't') $$);
SELECT pg_catalog.pg_extension_config_dump('etl_patterns.watermark', $$
    WHERE NOT EXISTS (
        SELECT FROM pg_catalog.pg_class c
        WHERE c.oid OPERATOR(pg_catalog.=) ANY (ARRAY[source, target]::oid[])
            AND c.relpersistence OPERATOR(pg_catalog.=) 't') $$);
SELECT pg_catalog.pg_extension_config_dump('etl_patterns.dead_letter', $$
    WHERE target IS NULL OR EXISTS (
        SELECT FROM pg_catalog.pg_class c
        WHERE c.oid OPERATOR(pg_catalog.=) target
            AND c.relpersistence OPERATOR(pg_catalog.<>) 't') $$);
SELECT pg_catalog.pg_extension_config_dump('etl_patterns.loaded_file', $$
    WHERE EXISTS (
        SELECT FROM pg_catalog.pg_class c
        WHERE c.oid OPERATOR(pg_catalog.=) target
            AND c.relpersistence OPERATOR(pg_catalog.<>) 't') $$);
SELECT pg_catalog.pg_extension_config_dump('etl_patterns.run_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('etl_patterns.dead_letter_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('etl_patterns.file_id_seq', '');

-- src/flow/bulk_copy.sql

CREATE FUNCTION etl_bulk_copy(
    target regclass,
    source text,
    columns name[] DEFAULT NULL,
    header text DEFAULT 'match',
    delimiter text DEFAULT ',',
    quote text DEFAULT '"',
    escape text DEFAULT NULL,
    null_strings text[] DEFAULT '{""}',
    "trim" boolean DEFAULT false,
    skip_lines int DEFAULT 0,
    encoding name DEFAULT NULL,
    compression text DEFAULT 'auto',
    on_error text DEFAULT 'abort',
    reject_limit bigint DEFAULT NULL,
    reject_ratio float8 DEFAULT NULL,
    on_conflict text DEFAULT 'error',
    keys name[] DEFAULT NULL,
    indexes text DEFAULT 'auto',
    workers int DEFAULT NULL,
    force boolean DEFAULT false,
    after_load text DEFAULT 'keep',
    move_to text DEFAULT NULL,
    dry_run boolean DEFAULT false,
    OUT run_id bigint,
    OUT files_loaded bigint,
    OUT files_skipped bigint,
    OUT rows_read bigint,
    OUT rows_loaded bigint,
    OUT rows_rejected bigint,
    OUT bytes_read bigint,
    OUT elapsed interval)
RETURNS record
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_bulk_copy IS
    'loads CSV files of the server into a table, each file once, with rejected rows as dead letters';

-- src/flow/dead_letter.sql

CREATE FUNCTION etl_dead_letter_replay(
    target regclass DEFAULT NULL,
    dead_letter_ids bigint[] DEFAULT NULL,
    OUT replayed bigint,
    OUT rejected bigint)
RETURNS record
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_dead_letter_replay IS
    'loads pending dead letters again, as the load that rejected them would now';

CREATE FUNCTION etl_dead_letter_edit(dead_letter_id bigint, raw_record text)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_dead_letter_edit IS
    'replaces the record of a pending dead letter, to be replayed';

CREATE FUNCTION etl_dead_letter_discard(dead_letter_ids bigint[])
RETURNS bigint
AS 'MODULE_PATHNAME'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_dead_letter_discard IS
    'closes pending dead letters without loading them; returns how many';

CREATE FUNCTION etl_dead_letter_purge(older_than interval)
RETURNS bigint
AS 'MODULE_PATHNAME'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_dead_letter_purge IS
    'deletes dead letters that were replayed or discarded longer ago; returns how many';

-- src/flow/infer.sql

CREATE FUNCTION etl_csv_infer(
    source text,
    header text DEFAULT 'match',
    delimiter text DEFAULT ',',
    quote text DEFAULT '"',
    escape text DEFAULT NULL,
    null_strings text[] DEFAULT '{""}',
    "trim" boolean DEFAULT false,
    skip_lines int DEFAULT 0,
    encoding name DEFAULT NULL,
    compression text DEFAULT 'auto',
    sample_rows bigint DEFAULT 100000,
    OUT column_name text,
    OUT data_type text,
    OUT nullable boolean,
    OUT example text)
RETURNS SETOF record
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 20;
COMMENT ON FUNCTION etl_csv_infer IS
    'the columns of a CSV file of the server, with the types that its first rows fit';

CREATE FUNCTION etl_create_table_from_csv(
    target text,
    source text,
    header text DEFAULT 'match',
    delimiter text DEFAULT ',',
    quote text DEFAULT '"',
    escape text DEFAULT NULL,
    null_strings text[] DEFAULT '{""}',
    "trim" boolean DEFAULT false,
    skip_lines int DEFAULT 0,
    encoding name DEFAULT NULL,
    compression text DEFAULT 'auto',
    sample_rows bigint DEFAULT 100000)
RETURNS regclass
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_create_table_from_csv IS
    'creates a table with the columns that etl_csv_infer() finds';

-- src/flow/scd2.sql

CREATE FUNCTION etl_scd2_merge(
    target regclass,
    source regclass,
    keys name[],
    sequence_by name DEFAULT NULL,
    effective_at text DEFAULT NULL,
    tracked name[] DEFAULT NULL,
    overwrite name[] DEFAULT NULL,
    fixed name[] DEFAULT NULL,
    previous jsonb DEFAULT NULL,
    delete_when text DEFAULT NULL,
    absent text DEFAULT 'ignore',
    absent_scope name[] DEFAULT NULL,
    duplicates text DEFAULT 'error',
    null_keys text DEFAULT 'error',
    late text DEFAULT 'weave',
    change_log boolean DEFAULT false,
    valid_from name DEFAULT 'valid_from',
    valid_to name DEFAULT 'valid_to',
    is_current name DEFAULT 'is_current',
    open_end text DEFAULT NULL,
    bounds text DEFAULT '[)',
    max_close_fraction float8 DEFAULT NULL,
    dry_run boolean DEFAULT false,
    OUT run_id bigint,
    OUT rows_read bigint,
    OUT inserted bigint,
    OUT opened bigint,
    OUT closed bigint,
    OUT corrected bigint,
    OUT overwritten bigint,
    OUT unchanged bigint,
    OUT deleted bigint,
    OUT revived bigint,
    OUT late bigint,
    OUT duplicates bigint,
    OUT rejected bigint
)
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_scd2_merge IS
    'merges rows into a table that keeps a version for each change of a key, as etl_scd2_create() makes it';

-- src/flow/upsert.sql

CREATE FUNCTION etl_upsert(
    target regclass,
    source regclass,
    keys name[],
    update_columns name[] DEFAULT NULL,
    sequence_by name DEFAULT NULL,
    delete_when text DEFAULT NULL,
    absent text DEFAULT 'ignore',
    duplicates text DEFAULT 'error',
    null_keys text DEFAULT 'error',
    keep_tombstones boolean DEFAULT NULL,
    max_delete_fraction float8 DEFAULT NULL,
    OUT run_id bigint,
    OUT rows_read bigint,
    OUT inserted bigint,
    OUT updated bigint,
    OUT unchanged bigint,
    OUT deleted bigint,
    OUT stale bigint,
    OUT duplicates bigint,
    OUT rejected bigint)
RETURNS record
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_upsert IS
    'merges rows into a table by key: inserts new ones, updates those that differ; with sequence_by refuses stale ones';

CREATE FUNCTION etl_scd1_merge(
    target regclass,
    source regclass,
    keys name[],
    update_columns name[] DEFAULT NULL,
    sequence_by name DEFAULT NULL,
    delete_when text DEFAULT NULL,
    absent text DEFAULT 'ignore',
    duplicates text DEFAULT 'error',
    null_keys text DEFAULT 'error',
    keep_tombstones boolean DEFAULT NULL,
    max_delete_fraction float8 DEFAULT NULL,
    OUT run_id bigint,
    OUT rows_read bigint,
    OUT inserted bigint,
    OUT updated bigint,
    OUT unchanged bigint,
    OUT deleted bigint,
    OUT stale bigint,
    OUT duplicates bigint,
    OUT rejected bigint)
RETURNS record
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_scd1_merge IS
    'merges rows into a dimension of type 1, which keeps the newest value of each key: etl_upsert() under the name of the pattern';

CREATE FUNCTION etl_scd3_merge(
    target regclass,
    source regclass,
    keys name[],
    previous jsonb,
    changed_at name DEFAULT NULL,
    OUT run_id bigint,
    OUT rows_read bigint,
    OUT inserted bigint,
    OUT updated bigint,
    OUT unchanged bigint,
    OUT deleted bigint,
    OUT stale bigint,
    OUT duplicates bigint,
    OUT rejected bigint)
RETURNS record
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_scd3_merge IS
    'merges rows into a table by key; a value that changes moves to another column: {"city": "previous_city"}';

-- src/flow/scd2_tools.sql

CREATE FUNCTION etl_scd2_create(
    target text,
    source regclass,
    keys name[],
    tracked name[] DEFAULT NULL,
    overwrite name[] DEFAULT NULL,
    fixed name[] DEFAULT NULL,
    previous jsonb DEFAULT NULL,
    valid_from name DEFAULT 'valid_from',
    valid_to name DEFAULT 'valid_to',
    is_current name DEFAULT 'is_current',
    time_type regtype DEFAULT 'timestamptz',
    open_end text DEFAULT NULL,
    bounds text DEFAULT '[)',
    surrogate_key name DEFAULT NULL)
RETURNS regclass
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_scd2_create IS
    'creates a table for the versions of a source''s rows, as etl_scd2_merge() fills it';

CREATE FUNCTION etl_scd2_verify(
    target regclass,
    keys name[],
    valid_from name DEFAULT 'valid_from',
    valid_to name DEFAULT 'valid_to',
    is_current name DEFAULT 'is_current',
    tracked name[] DEFAULT NULL,
    bounds text DEFAULT '[)',
    open_end text DEFAULT NULL,
    gaps boolean DEFAULT false)
RETURNS TABLE (problem text, key jsonb, detail text)
AS 'MODULE_PATHNAME'
LANGUAGE C STABLE PARALLEL UNSAFE ROWS 10;
COMMENT ON FUNCTION etl_scd2_verify IS
    'what is wrong with the versions of a dimension: overlaps, two open ones, equal neighbours and more';

-- src/flow/watermark.sql

CREATE FUNCTION etl_watermark_get(pipeline text)
RETURNS text
AS 'MODULE_PATHNAME'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_watermark_get IS
    'the value that a pipeline has reached, or null if it has none';

CREATE FUNCTION etl_watermark_set(pipeline text, value text)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_watermark_set IS
    'sets the value that a pipeline goes on from';

CREATE FUNCTION etl_watermark_reset(pipeline text)
RETURNS boolean
AS 'MODULE_PATHNAME'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_watermark_reset IS
    'forgets a pipeline, so that its next run starts from the beginning';

-- src/flow/incremental_pull.sql

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

-- src/flow/cdc_tables.sql

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

-- src/flow/cdc_changelog.sql

CREATE FUNCTION etl_cdc_create_changelog(target text)
RETURNS regclass
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_create_changelog IS
    'creates a table for one row per change of a source, for apply => ''changelog''';

-- src/worker/job_tables.sql

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

-- src/worker/schedule.sql

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

-- src/worker/jobs.sql

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

-- src/worker/cdc.sql

-- None of these is STRICT: a null where none may be is an error, not a call that
-- silently does nothing.

CREATE FUNCTION etl_cdc_create(
    pipeline text,
    server name DEFAULT NULL,
    snapshot text DEFAULT 'initial',
    on_error text DEFAULT 'pause',
    batch_transactions int DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_create IS
    'creates a pipeline of the calling role that follows the changes of tables, here or on a server of postgres_fdw';

CREATE FUNCTION etl_cdc_add_table(
    pipeline text,
    source text,
    target regclass,
    apply text DEFAULT 'mirror',
    apply_options jsonb DEFAULT '{}',
    columns jsonb DEFAULT NULL,
    row_filter text DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_add_table IS
    'adds a table to a pipeline: where its changes come from, where they go to, and as what';

CREATE FUNCTION etl_cdc_alter_table(
    pipeline text,
    source text,
    target regclass,
    apply text DEFAULT NULL,
    apply_options jsonb DEFAULT NULL,
    columns jsonb DEFAULT NULL,
    row_filter text DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_alter_table IS
    'changes how a pipeline applies a table, from the next change on; what is null stays as it is';

CREATE FUNCTION etl_cdc_remove_table(
    pipeline text,
    source text,
    target regclass DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_remove_table IS
    'takes a table out of a pipeline; the target stays as it is';

CREATE FUNCTION etl_cdc_start(pipeline text)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_start IS
    'lets a pipeline run, for the first time or where it was stopped or paused';

CREATE FUNCTION etl_cdc_stop(pipeline text)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_stop IS
    'keeps a pipeline from running until it is started; its slot keeps what it has not read';

CREATE FUNCTION etl_cdc_wait(
    pipeline text,
    lsn pg_lsn DEFAULT NULL,
    timeout interval DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_wait IS
    'waits until what was committed up to a position, by default until now, is in the targets; false if it took too long';

CREATE FUNCTION etl_cdc_skip(pipeline text, lsn pg_lsn)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_skip IS
    'does not apply the transaction that ends at a position, and starts the pipeline that it has paused';

CREATE FUNCTION etl_cdc_resync(pipeline text, source text DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_resync IS
    'copies one table of a pipeline again, or all and follows them from now on, after the slot was lost for example';

CREATE FUNCTION etl_cdc_drop(pipeline text, force boolean DEFAULT false)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_drop IS
    'removes a pipeline and its replication slot; with force the slot of another server is left there';

-- src/worker/shared.sql

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

-- src/worker/signal.sql

CREATE FUNCTION etl_signal(event text, payload text DEFAULT NULL)
RETURNS int
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_signal IS
    'starts the jobs "on" an event, when the transaction commits; returns how many';

-- src/worker/alert.sql

CREATE FUNCTION etl_alert_drain(n int DEFAULT 100)
RETURNS SETOF etl_patterns.alert
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_alert_drain IS
    'deletes and returns the oldest alerts of the caller''s jobs and pipelines, those aside that another session drains';

-- src/worker/history.sql

CREATE FUNCTION etl_job_history_purge(older_than interval, job text DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_job_history_purge IS
    'deletes runs that ended longer ago, and alerts as old; returns how many runs';

-- src/worker/job_status.sql

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

-- src/worker/cdc_status.sql

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
            WHERE a.system_identifier OPERATOR(pg_catalog.<>) s.system_identifier::text
                OR a.database_oid OPERATOR(pg_catalog.<>) d.oid
        ) AS elsewhere,
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
        WHEN here.elsewhere THEN 'not armed here'
        WHEN NOT here.preloaded THEN 'no scheduler: etl_patterns is not preloaded'
        WHEN here.off THEN 'etl_patterns.scheduler is off'
        WHEN NOT here.served THEN 'no scheduler in this database'
        WHEN w.pid IS NULL THEN 'waits for its process'
        WHEN NOT p.has_slot THEN 'waits for its replication slot'
        END AS obstacle,
        p.has_slot AND NOT pg_catalog.starts_with(p.slot_name, here.slot_prefix) AS is_copy
    FROM here
        CROSS JOIN etl_patterns.cdc_pipeline p
        LEFT JOIN etl_cdc_workers() w ON w.pipeline_id OPERATOR(pg_catalog.=) p.pipeline_id
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
    ELSE p.error_hint
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

-- src/worker/run_due.sql

CREATE PROCEDURE etl_run_due_jobs(
    max_runs int DEFAULT NULL,
    max_runtime interval DEFAULT NULL
)
AS 'MODULE_PATHNAME'
LANGUAGE C;
COMMENT ON PROCEDURE etl_run_due_jobs IS
    'runs the jobs of the calling role that are due, one after the other, without the extension''s own workers';

