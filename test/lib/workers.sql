-- A load with workers against the same load without.

CREATE SCHEMA workers;

-- All that can be seen of a load, as lines.
CREATE FUNCTION workers.outcome(options text, workers int, piece int) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    loaded record;
    result text[];
    message text;
    detail text;
    hint text;
    context text;
BEGIN
    TRUNCATE oracle.ours;
    PERFORM set_config('etl_patterns.bulk_piece_size', piece || 'B', true);
    EXECUTE format('SELECT * FROM etl_bulk_copy(''oracle.ours'', %s, force => true, workers => %s)',
                   options, workers) INTO loaded;
    result := ARRAY[format('read %s loaded %s rejected %s bytes %s', loaded.rows_read,
                           loaded.rows_loaded, loaded.rows_rejected, loaded.bytes_read)];
    result := result || (SELECT format('%s %s', r.detail->'rejected', r.detail->'first_rejects')
                         FROM etl_patterns.run r WHERE run_id = loaded.run_id);
    result := result || (SELECT array_agg(format('%s %s %s', content_hash, rows_loaded, rows_rejected)
                                          ORDER BY file_id)
                         FROM etl_patterns.loaded_file WHERE run_id = loaded.run_id);
    result := result || oracle.rows_of('ours');
    result := result || (SELECT array_agg(((to_jsonb(l) - '{dead_letter_id,run_id,file_id,created_at}'::text[]))::text
                                          ORDER BY byte_offset, dead_letter_id)
                         FROM etl_patterns.dead_letter l WHERE run_id = loaded.run_id);
    IF workers > 0 THEN
        INSERT INTO workers.used
            SELECT (r.detail->'workers'->>'used')::int, r.detail->'workers'->>'reason', 1
            FROM etl_patterns.run r WHERE run_id = loaded.run_id
            ON CONFLICT (used, reason) DO UPDATE SET times = used.times + 1;
    END IF;
    DELETE FROM etl_patterns.dead_letter WHERE run_id = loaded.run_id;
    DELETE FROM etl_patterns.loaded_file WHERE run_id = loaded.run_id;
    RETURN result;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
        hint = PG_EXCEPTION_HINT, context = PG_EXCEPTION_CONTEXT;
    RETURN ARRAY[SQLSTATE, message, detail, hint, split_part(context, 'SQL statement', 1)];
END
$$;

-- How often a load had so many workers, and why not more.
CREATE TABLE workers.used (used int, reason text, times int, UNIQUE NULLS NOT DISTINCT (used, reason));

-- One line for each number of workers and size of pieces that makes a
-- difference.
CREATE FUNCTION workers.check_file(options text, sizes int[]) RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
    serial text[] := workers.outcome(options, 0, sizes[1]);
    other text[];
    piece int;
    n int;
BEGIN
    FOREACH n IN ARRAY ARRAY[1, 2, 4] LOOP
        FOREACH piece IN ARRAY CASE n WHEN 1 THEN sizes[1:1] ELSE sizes END LOOP
            other := workers.outcome(options, n, piece);
            IF other IS DISTINCT FROM serial THEN
                RETURN NEXT format('%s workers, pieces of %s: %s; %s', n, piece, options,
                                   oracle.difference(other, serial));
            END IF;
        END LOOP;
    END LOOP;
END
$$;
