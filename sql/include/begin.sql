\set ECHO none
--
-- What the tests of loading share: a schema for their tables, a directory of
-- the server for their files, and calls whose output names no directory.
--
\encoding UTF8
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS etl_test CASCADE;
DROP EXTENSION IF EXISTS etl_patterns CASCADE;
CREATE EXTENSION etl_patterns SCHEMA public;
CREATE SCHEMA etl_test;
SET search_path = etl_test, public;
COPY (SELECT 1 WHERE false) TO PROGRAM 'chmod -R u+rwx etl_test 2>/dev/null; rm -rf etl_test && mkdir etl_test';

CREATE FUNCTION place(name text) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER AS
$$ SELECT pg_catalog.current_setting('data_directory') || '/etl_test/' || name $$;

-- Nor does it depend on how a version of PostgreSQL writes a setting's name.
CREATE FUNCTION mask(message text) RETURNS text LANGUAGE sql STABLE AS
$$ SELECT replace(replace(message, place(''), '<dir>/'), '"datestyle"', '"DateStyle"') $$;

-- Writes a file of exactly these bytes.
CREATE FUNCTION file(name text, content bytea) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    lob oid := lo_from_bytea(0, content);
BEGIN
    PERFORM lo_export(lob, place(name));
    PERFORM lo_unlink(lob);
END $$;

-- Writes a file of this text, in UTF-8; escapes as in E''.
CREATE FUNCTION file(name text, content text) RETURNS void LANGUAGE sql AS
$$ SELECT file(name, convert_to(content, 'UTF8')) $$;

-- Runs a command in the directory.
CREATE FUNCTION shell(command text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('COPY (SELECT 1 WHERE false) TO PROGRAM %L', 'cd etl_test && ' || command);
END $$;

-- Runs a query of one row: the row, or the whole error.
CREATE FUNCTION try(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    result record;
    message text;
    detail text;
    hint text;
    context text;
BEGIN
    EXECUTE query INTO result;
    RETURN NEXT regexp_replace(result::text, '^\("?(.*?)"?\)$', '\1');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
        hint = PG_EXCEPTION_HINT, context = PG_EXCEPTION_CONTEXT;
    RETURN NEXT format('ERROR %s: %s', SQLSTATE, mask(message));
    RETURN QUERY SELECT 'DETAIL: ' || mask(detail) WHERE detail <> '';
    RETURN QUERY SELECT 'HINT: ' || mask(hint) WHERE hint <> '';
    RETURN QUERY SELECT 'CONTEXT: ' || mask(line)
        FROM regexp_split_to_table(context, '\n') AS line WHERE line ~ '^file ';
END $$;

-- Loads a file and tells the counts, or the whole error.
CREATE FUNCTION load(target text, name text, options text DEFAULT '') RETURNS SETOF text
LANGUAGE sql AS $$
    SELECT try(format(
        'SELECT format(''%%s loaded, %%s skipped: %%s read, %%s in, %%s rejected'','
        ' files_loaded, files_skipped, rows_read, rows_loaded, rows_rejected)'
        ' FROM public.etl_bulk_copy(%L, %L %s)',
        target, place(name), CASE WHEN options = '' THEN '' ELSE ', ' || options END))
$$;

-- The dead letters of a target: what a user looks at.
CREATE FUNCTION letters(of_target text DEFAULT NULL) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT format('line %s: %s %s %s%s %s | %s', line_no, category, error_code,
        column_name || ' ', quote_nullable(field_value), mask(error_message),
        coalesce(replace(replace(raw_record, E'\r', '\r'), E'\n', '\n'), raw_bytes::text))
    FROM etl_patterns.dead_letter
    WHERE status = 'pending' AND (of_target IS NULL OR target = of_target::regclass)
    ORDER BY dead_letter_id
$$;

-- Compares a table with what COPY makes of a file.
CREATE FUNCTION as_copy(of_target text, name text, options text DEFAULT 'FORMAT csv, HEADER')
RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    copied bigint;
    ours bigint;
    theirs bigint;
BEGIN
    EXECUTE format('CREATE TEMP TABLE copied (LIKE %s INCLUDING ALL)', of_target::regclass);
    BEGIN
        EXECUTE format('COPY copied FROM %L (%s)', place(name), options);
        GET DIAGNOSTICS copied = ROW_COUNT;
        EXECUTE format('SELECT count(*) FROM (SELECT t::text FROM %s t'
            ' EXCEPT ALL SELECT t::text FROM copied t) x', of_target::regclass) INTO ours;
        EXECUTE format('SELECT count(*) FROM (SELECT t::text FROM copied t'
            ' EXCEPT ALL SELECT t::text FROM %s t) x', of_target::regclass) INTO theirs;
        RETURN NEXT CASE WHEN ours + theirs = 0 THEN format('as COPY: %s rows', copied)
            ELSE format('%s rows that COPY has not, COPY has %s more', ours, theirs) END;
    EXCEPTION WHEN OTHERS THEN
        RETURN NEXT format('COPY says %s: %s', SQLSTATE, mask(SQLERRM));
    END;
    DROP TABLE copied;
END $$;

GRANT USAGE ON SCHEMA etl_test TO PUBLIC;
RESET client_min_messages;
\pset null NULL
\pset tuples_only on
\pset format unaligned
\set ECHO all
