-- Merges at the edges: what once crashed, was lost or was written for nothing.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\pset format unaligned
\pset tuples_only on

-- With a change log, columns whose values an expression converts.
CREATE DOMAIN short AS varchar(10);
CREATE TABLE d (id int, v short, a varchar(5)[], valid_from date, valid_to date);
CREATE TABLE s (id int, v text, a text[], at date);
INSERT INTO s VALUES (1, 'a', '{x}', '2020-01-01'), (1, 'b', '{y}', '2020-02-01');
SELECT inserted, opened FROM etl_scd2_merge('d', 's', '{id}', sequence_by => 'at',
    is_current => NULL, change_log => true);
SELECT * FROM d ORDER BY valid_from;
DROP TABLE d, d_changes, s;

-- An absent key whose version has no start.
CREATE TABLE d (id int, v text, valid_from date, valid_to date);
CREATE TABLE s (id int, v text);
INSERT INTO d VALUES (1, 'a', NULL, NULL), (2, 'b', '2020-01-01', NULL);
INSERT INTO s VALUES (2, 'b');
SELECT * FROM etl_scd2_merge('d', 's', '{id}', is_current => NULL, absent => 'close');
DROP TABLE d, s;

-- No date is before the first one.
CREATE TABLE d (id int, v text, valid_from date, valid_to date);
CREATE TABLE s (id int, v text, at date);
INSERT INTO d VALUES (1, 'a', '-infinity', NULL);
INSERT INTO s VALUES (1, 'b', '4714-11-24 BC');
SELECT * FROM etl_scd2_merge('d', 's', '{id}', sequence_by => 'at', is_current => NULL, bounds => '[]');
DROP TABLE d, s;

-- Two keys of the same hash and content are two keys.
CREATE TABLE t (a int8, b int8, v text);
CREATE TABLE s (LIKE t);
INSERT INTO t VALUES (1, 0, 'x');
INSERT INTO s VALUES (1, 0, 'x'), (2, -4850457348519631035, 'x');
SELECT inserted, unchanged FROM etl_upsert('t', 's', '{a,b}');
DELETE FROM t WHERE a = 2;
DELETE FROM s WHERE a = 1;
SELECT inserted, unchanged FROM etl_upsert('t', 's', '{a,b}');
SELECT * FROM t ORDER BY a;
DROP TABLE t, s;

-- A long value that stays is not stored again.
CREATE TABLE d (id int, v text, long text, note text, valid_from date, valid_to date);
CREATE TABLE s (id int, v text, long text, note text, at date);
ALTER TABLE d ALTER long SET STORAGE EXTERNAL;
ALTER TABLE s ALTER long SET STORAGE EXTERNAL;
INSERT INTO s SELECT i, 'a', repeat(i::text, 50000), 'n', '2020-01-01' FROM generate_series(1, 5) AS i;
SELECT inserted FROM etl_scd2_merge('d', 's', '{id}', sequence_by => 'at', overwrite => '{long,note}', is_current => NULL);
SELECT pg_relation_size(reltoastrelid) AS size FROM pg_class WHERE oid = 'd'::regclass \gset
UPDATE s SET note = 'm';
SELECT overwritten FROM etl_scd2_merge('d', 's', '{id}', sequence_by => 'at', overwrite => '{long,note}', is_current => NULL);
SELECT pg_relation_size(reltoastrelid) = :size FROM pg_class WHERE oid = 'd'::regclass;
SET etl_patterns.merge_path = 'general';
UPDATE s SET note = 'o';
SELECT overwritten FROM etl_scd2_merge('d', 's', '{id}', sequence_by => 'at', overwrite => '{long,note}', is_current => NULL);
RESET etl_patterns.merge_path;
SELECT pg_relation_size(reltoastrelid) = :size FROM pg_class WHERE oid = 'd'::regclass;
SELECT id, v, length(long), note, valid_from, valid_to FROM d ORDER BY id;
DROP TABLE d, s;

-- Columns that cannot have the role that the call gives them.
CREATE TABLE d (id int, a text, b text, c text, valid_from date, valid_to date,
    is_current boolean GENERATED ALWAYS AS (valid_to IS NULL) STORED);
CREATE TABLE s (id int, a text, b text, c text);
INSERT INTO s VALUES (1, 'a', 'b', 'c');
SELECT * FROM etl_scd2_merge('d', 's', '{id}');
SELECT * FROM etl_scd2_merge('d', 's', '{id}', is_current => NULL, previous => '{"a": "b", "b": "c"}');
SELECT * FROM etl_scd2_merge('d', 's', '{id}', is_current => NULL, previous => '{"a": "is_current"}');
SELECT inserted FROM etl_scd2_merge('d', 's', '{id}', is_current => NULL);
SELECT is_current FROM d;

\i :end
