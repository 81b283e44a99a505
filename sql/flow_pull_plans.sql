--
-- Pulls of more sources in one session than it keeps plans for, in turns, and
-- under several roles.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set pull :abs_srcdir '/sql/include/pull.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\i :pull
DO $$
BEGIN
    FOR i IN 1..20 LOOP
        EXECUTE format('CREATE TABLE src_%s (id bigserial, at timestamptz DEFAULT %L)', i, '2024-01-01');
        EXECUTE format('CREATE TABLE dst_%s (id bigint, at timestamptz)', i);
    END LOOP;
END $$;

-- One row into each source, and what pulls by both cursors have read then.
CREATE FUNCTION turn() RETURNS TABLE (by_id text, by_time text) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..20 LOOP
        EXECUTE format('INSERT INTO src_%s (at) SELECT max(at) + interval ''1 day'' FROM src_%1$s'
            ' HAVING max(at) IS NOT NULL UNION ALL SELECT %L WHERE NOT EXISTS (SELECT FROM src_%1$s)', i, '2024-01-01');
        by_id := concat(by_id, pull('id ' || i, 'src_' || i, 'dst_' || i, $o$'id'$o$), ';');
        by_time := concat(by_time, pull('time ' || i, 'src_' || i, 'dst_' || i, $o$'at'$o$), ';');
    END LOOP;
    by_id := (SELECT string_agg(DISTINCT line, ' or ') FROM regexp_split_to_table(by_id, ';') AS line WHERE line <> '');
    by_time := (SELECT string_agg(DISTINCT line, ' or ') FROM regexp_split_to_table(by_time, ';') AS line WHERE line <> '');
    RETURN NEXT;
END $$;
SELECT * FROM turn();
SELECT * FROM turn();

-- The plans are those of the state tables' owner, whoever asks.
CREATE ROLE regress_etl_puller;
GRANT ALL ON src_1, dst_1 TO regress_etl_puller;
GRANT ALL ON SEQUENCE src_1_id_seq TO regress_etl_puller;
SET ROLE regress_etl_puller;
INSERT INTO src_1 (at) VALUES ('2025-01-01');
SELECT pull('mine', 'src_1', 'dst_1', $$'id'$$);
RESET ROLE;
SELECT * FROM turn();
SELECT count(*), count(DISTINCT id) FROM dst_20;
DROP OWNED BY regress_etl_puller;
DROP ROLE regress_etl_puller;
\i :end
