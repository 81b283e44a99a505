\set ECHO none
--
-- What the tests of etl_incremental_pull() share, after begin.sql.
--
SET TimeZone = 'UTC';

-- Rows that were just written are read: the tests' own session wrote them.
SET etl_patterns.horizon_guard = 0;

-- A row of counts in words, and the range that was read.
CREATE FUNCTION told(r json) RETURNS text LANGUAGE sql AS $$
    SELECT concat(r->>'rows_read', ' read', ', ' || nullif(r->>'rows_inserted', '0') || ' inserted',
        ', ' || nullif(r->>'rows_updated', '0') || ' updated', ', ' || nullif(r->>'rows_unchanged', '0') || ' unchanged',
        ', ' || nullif(r->>'rows_rejected', '0') || ' rejected',
        ': ' || coalesce(r->>'watermark_low', 'NULL') || ' to ' || coalesce(r->>'watermark_high', 'NULL'),
        CASE WHEN r->>'more' = 'true' THEN ', more' END)
$$;

-- Pulls, and tells the counts and the range, or the whole error.
CREATE FUNCTION pull(pipeline text, source text, target text, options text DEFAULT '') RETURNS SETOF text
LANGUAGE sql AS $$
    SELECT regexp_replace(line, '(process |OID |dropped \()\d+', '\1N') FROM try(format('SELECT told(to_json(r)) FROM public.etl_incremental_pull(%L, %L, %L%s) AS r',
        pipeline, source, target, ', ' || nullif(options, ''))) AS line
$$;

-- The same for a range of values.
CREATE FUNCTION backfill(pipeline text, low text, high text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT regexp_replace(line, 'OID \d+', 'OID N') FROM try(format(
        'SELECT told(to_json(r)) FROM public.etl_backfill(%L, %L, %L) AS r', pipeline, low, high)) AS line
$$;

-- How many rows one relation has and the other has not, each way.
CREATE FUNCTION missing(source text, target text, OUT missing bigint, OUT too_many bigint) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SELECT count(*) FROM (TABLE %1$s EXCEPT ALL TABLE %2$s) AS x', source, target) INTO missing;
    EXECUTE format('SELECT count(*) FROM (TABLE %2$s EXCEPT ALL TABLE %1$s) AS x', source, target) INTO too_many;
END $$;

-- The last run of a pipeline.
CREATE FUNCTION last_run(pipeline text) RETURNS text LANGUAGE sql AS $$
    SELECT concat_ws(' ', operation, status, rows_read || ' read', detail->>'safety')
    FROM etl_patterns.run WHERE name = pipeline ORDER BY run_id DESC LIMIT 1
$$;
\set ECHO all
