--
-- What a user gets wrong: the error names the way out, and nothing is lost.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
CREATE TABLE t (id int, d date);
SELECT file('t.csv', E'id,d\n1,2026-01-01\nx,2026-01-01\n3,nope\n');

-- Another delimiter, another case, a null where the word was meant.
SELECT load('t', 't.csv', $$delimiter => ';'$$);
SELECT file('case.csv', E'ID,d\n1,2026-01-01\n');
SELECT load('t', 'case.csv');
SELECT load('t', 't.csv', $$null_strings => '{NULL}'$$);

-- A file cannot be moved to where it is: it would be gone.
SELECT load('t', 't.csv', format('on_error => %L, after_load => %L, move_to => %L',
                                 'skip', 'move', rtrim(place(''), '/')));
SELECT count(*) FROM pg_ls_dir(place('')) f WHERE f = 't.csv';

-- Letters of a table that was dropped do not keep others from being replayed.
CREATE TABLE gone (LIKE t);
SELECT load('gone', 't.csv', $$on_error => 'dead_letter'$$);
SELECT load('t', 't.csv', $$on_error => 'dead_letter'$$);
DROP TABLE gone;
SELECT etl_dead_letter_edit(dead_letter_id, '2,2026-01-02')
FROM etl_patterns.dead_letter WHERE target = 't'::regclass AND field_value = 'x';
SELECT try('SELECT etl_dead_letter_replay()');
SELECT letters('t');
TABLE t;

-- Names of new tables, and numbers.
SELECT try(format('SELECT etl_create_table_from_csv(%L, %L)', n, place('t.csv')))
FROM unnest(ARRAY['a.b.c', 'nowhere.t', 't', '"']) n;
SELECT try(format('SELECT count(*) FROM etl_csv_infer(%L, %s => -1)', place('t.csv'), p))
FROM unnest(ARRAY['sample_rows', 'skip_lines']) p;
\i :end
