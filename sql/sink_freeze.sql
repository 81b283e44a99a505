--
-- Rows that are frozen as they are loaded: only where a rollback takes the
-- whole table back.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
CREATE TABLE t (k int PRIMARY KEY, a text);
SELECT file('t.csv', (SELECT string_agg(format(E'%s,row %s\n', i % 2900, i), '' ORDER BY i) FROM generate_series(0, 2999) i));
SELECT place('t.csv') AS file \gset
SET enable_seqscan = off;
SET enable_bitmapscan = off;
-- Frozen pages are known to be visible to all, without a VACUUM.
CREATE FUNCTION heap_fetches(of_table text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT k FROM ' || of_table || ' ORDER BY k' LOOP
        IF line ~ 'Heap Fetches' THEN
            RETURN trim(line);
        END IF;
    END LOOP;
END $$;

BEGIN;
TRUNCATE t;
SELECT rows_loaded, rows_rejected FROM etl_bulk_copy('t', :'file', header => 'none', on_error => 'dead_letter', indexes => 'rebuild', freeze => true);
COMMIT;
SELECT heap_fetches('t');
-- It is gone with a savepoint and with the transaction.
BEGIN;
TRUNCATE t;
SAVEPOINT s;
TRUNCATE t;
SELECT rows_loaded, rows_rejected FROM etl_bulk_copy('t', :'file', header => 'none', on_error => 'skip', indexes => 'rebuild', freeze => true, force => true);
ROLLBACK TO s;
SELECT count(*) FROM t;
ROLLBACK;
SELECT count(*) FROM t;
-- A table of this transaction; indexes that are maintained want subtransactions.
BEGIN;
CREATE TABLE bare (k int, a text);
SELECT rows_loaded FROM etl_bulk_copy('bare', :'file', header => 'none', freeze => true);
CREATE INDEX ON bare (k);
COMMIT;
SELECT heap_fetches('bare');
BEGIN;
TRUNCATE t;
SELECT rows_loaded, rows_rejected FROM etl_bulk_copy('t', :'file', header => 'none', on_error => 'skip', indexes => 'keep', freeze => true, force => true);
COMMIT;
-- A dry run freezes nothing, for the table stays.
BEGIN;
TRUNCATE t;
SELECT rows_loaded, rows_rejected FROM etl_bulk_copy('t', :'file', header => 'none', on_error => 'skip', dry_run => true, freeze => true, force => true);
SELECT count(*) FROM t;
COMMIT;

-- Where it cannot be.
SELECT rows_loaded FROM etl_bulk_copy('t', :'file', header => 'none', on_error => 'skip', freeze => true, force => true);
BEGIN;
TRUNCATE t;
SAVEPOINT s;
SELECT rows_loaded FROM etl_bulk_copy('t', :'file', header => 'none', on_error => 'skip', freeze => true, force => true);
ROLLBACK;
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM bare;
FETCH 1 FROM c;
TRUNCATE t;
SELECT rows_loaded FROM etl_bulk_copy('t', :'file', header => 'none', on_error => 'skip', freeze => true, force => true);
ROLLBACK;
CREATE TABLE p (k int, a text) PARTITION BY LIST (k);
SELECT rows_loaded FROM etl_bulk_copy('p', :'file', header => 'none', freeze => true);
CREATE VIEW v AS TABLE t;
SELECT rows_loaded FROM etl_bulk_copy('v', :'file', header => 'none', freeze => true);
SELECT rows_loaded FROM etl_bulk_copy('t', :'file', header => 'none', on_conflict => 'skip', freeze => true);
\i :end
