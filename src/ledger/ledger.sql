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
