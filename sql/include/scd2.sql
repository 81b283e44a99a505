\set ECHO none
--
-- What the tests of etl_scd2_merge() share, after begin.sql.
--
SET TimeZone = 'UTC';

-- The counts of a merge that are not zero, and whether they add up.
CREATE FUNCTION counts(result json) RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(string_agg(value || ' ' || key, ', ') FILTER (WHERE value <> '0' AND key <> 'run_id'),
            'nothing read')
        || CASE WHEN sum(value::bigint) FILTER (WHERE key = 'rows_read')
                   = sum(value::bigint) FILTER (WHERE key NOT IN ('run_id', 'rows_read', 'closed', 'revived'))
                THEN '' ELSE ' (do not add up)' END
    FROM json_each_text(result)
$$;

-- Dead letters as a user reads them.
CREATE FUNCTION rejects(of_target text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT format('%s %s: %s | %s', category, error_code, error_message, payload)
    FROM etl_patterns.dead_letter
    WHERE status = 'pending' AND target = of_target::regclass
    ORDER BY payload::text, error_message
$$;

-- All rows of a table without its surrogate key, and its dead letters.
CREATE FUNCTION content(of_table text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE format('SELECT string_agg(line, e''\n'' ORDER BY line) FROM ('
        ' SELECT (to_jsonb(t) - ''sk'')::text AS line FROM %s AS t'
        ' UNION ALL SELECT ''rejected '' || r FROM rejects(%L) AS r) AS x', of_table, of_table) INTO result;
    RETURN result;
END $$;

-- Merges, first by SQL throughout, which is then undone, and again in the way
-- that suits the target.  Tells the counts or the error, and where the two
-- do not agree.
CREATE FUNCTION scd2(target text, source text, options text DEFAULT '', keys text DEFAULT '{k}')
RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    way text;
    result json;
    message text;
    detail text;
    hint text;
    outcome text;
    general text;
    has text;
    general_has text;
BEGIN
    FOREACH way IN ARRAY '{general,auto}'::text[] LOOP
        BEGIN
            PERFORM set_config('etl_patterns.merge_path', way, true);
            PERFORM set_config('client_min_messages', CASE way WHEN 'auto' THEN 'notice' ELSE 'error' END, true);
            EXECUTE format('SELECT to_json(m) FROM public.etl_scd2_merge(%L, %L, keys => %L%s) AS m', target,
                source, keys, CASE WHEN options = '' THEN '' ELSE ', ' || options END) INTO result;
            outcome := counts(result);
            has := content(target);
            IF way = 'general' THEN
                RAISE SQLSTATE 'UNDO1';
            END IF;
        EXCEPTION WHEN SQLSTATE 'UNDO1' THEN
            NULL;
        WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
                hint = PG_EXCEPTION_HINT;
            outcome := concat_ws(e'\n', format('ERROR %s: %s', SQLSTATE, message),
                'DETAIL: ' || nullif(detail, ''), 'HINT: ' || mask(nullif(hint, '')));
            has := NULL;
        END;
        IF way = 'general' THEN
            general := outcome;
            general_has := has;
        END IF;
    END LOOP;
    RETURN NEXT outcome;
    IF general <> outcome THEN
        RETURN NEXT 'but by SQL: ' || general;
    ELSIF general_has IS DISTINCT FROM has THEN
        RETURN NEXT e'but by SQL it holds\n' || general_has || e'\ninstead of\n' || has;
    END IF;
END $$;

-- What etl_scd2_verify() finds in a table.
CREATE FUNCTION verify(target text, options text DEFAULT '', keys text DEFAULT '{k}')
RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT concat_ws('' '', problem, key, detail)'
        ' FROM public.etl_scd2_verify(%L, %L%s)', target, keys,
        CASE WHEN options = '' THEN '' ELSE ', ' || options END);
END $$;
\set ECHO all
