--
-- etl_scd2_merge(): the roles of columns, the option words, and how times and
-- open ends are written.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set scd2 :abs_srcdir '/sql/include/scd2.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\i :scd2

-- Types 0, 1, 2, 3 and 6 in one call; a column without a role; columns that
-- only the target has.
CREATE TABLE s (k int, city text, mail text, born int, grade text, tag text, note text, at int);
CREATE TABLE d (sk int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, k int,
    city text, old_city text,	-- tracked, with the former value: type 6
    grade text,			-- tracked: type 2
    mail text,			-- overwritten: type 1
    tag text, old_tag text,	-- overwritten, with the former value: type 3
    born int,			-- fixed: type 0
    note text,			-- without a role
    owner text DEFAULT 'nobody',	-- not in the source
    valid_from int, valid_to int, is_current boolean);
\set roles 'sequence_by => ''at'', tracked => ''{city,grade}'', overwrite => ''{mail,tag}'', fixed => ''{born}'', previous => ''{"city": "old_city", "tag": "old_tag"}'''
CREATE FUNCTION show() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT format('%s [%s,%s) city %s (%s) grade %s mail %s tag %s (%s) born %s note %s owner %s', k, valid_from, valid_to,
        city, old_city, grade, mail, tag, old_tag, born, note, owner) FROM d ORDER BY k, valid_from
$$;
INSERT INTO s VALUES (1, 'Rome', 'm1', 1970, 'A', 't1', 'n1', 10), (2, 'Oslo', 'm2', NULL, 'B', 't2', 'n2', 10);
SELECT scd2('d', 's', :'roles');
SELECT show();
UPDATE d SET owner = 'ann' WHERE k = 1;
-- Each of them alone.
UPDATE s SET born = 1999, note = 'n1b', at = 20 WHERE k = 1;
SELECT scd2('d', 's', :'roles');
SELECT show();
UPDATE s SET mail = 'm1b' WHERE k = 1;
SELECT scd2('d', 's', :'roles');
UPDATE s SET tag = 't1b' WHERE k = 1;
SELECT scd2('d', 's', :'roles');
SELECT show();
UPDATE s SET city = 'Pisa' WHERE k = 1;
SELECT scd2('d', 's', :'roles');
SELECT show();
-- Several at once, in several rows of a batch, the newest first.
TRUNCATE s;
INSERT INTO s VALUES (1, 'Nice', 'm1d', 0, 'C', 't1d', 'n1d', 40), (1, 'Pisa', 'm1c', 0, 'C', 't1c', 'n1c', 30),
    (3, 'Bern', 'm3b', 2, 'Y', 't3b', 'n3b', 20), (3, 'Bonn', 'm3', 1, 'Y', 't3', 'n3', 10);
SELECT scd2('d', 's', :'roles');
SELECT show();
SELECT scd2('d', 's', :'roles');
-- A late row changes history and nothing else; the version after it gets its former value from it.
TRUNCATE s;
INSERT INTO s VALUES (1, 'Linz', 'late', 5, 'A', 'late', 'late', 15);
SELECT scd2('d', 's', :'roles');
SELECT show();
-- A deleted row overwrites nothing.
ALTER TABLE s ADD op text;
TRUNCATE s;
INSERT INTO s VALUES (3, NULL, NULL, NULL, NULL, NULL, NULL, 50, 'D');
SELECT scd2('d', 's', :'roles' || $$, delete_when => 'op = ''D'''$$);
SELECT show() LIMIT 1 OFFSET 6;
SELECT * FROM verify('d', $$tracked => '{city,grade}'$$);
-- Values that go to null and come back.
TRUNCATE d, s;
INSERT INTO s VALUES (1, 'Rome', NULL, NULL, NULL, 't', NULL, 10), (1, NULL, 'm', 5, NULL, NULL, NULL, 20), (1, 'Rome', NULL, 6, NULL, 't', NULL, 30);
SELECT scd2('d', 's', :'roles');
SELECT show();
-- Roles that cannot be.
SELECT scd2('d', 's', $$sequence_by => 'at', tracked => '{city}', overwrite => '{city}'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', tracked => '{k}'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', tracked => '{valid_from}'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', tracked => '{city,nope}'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', tracked => '{op}'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', tracked => '{owner}'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', tracked => '{city,city}'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', previous => '{"city": "sk"}'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', previous => '{"city": "born"}'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', previous => '{"k": "old_city"}'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', fixed => '{city}', previous => '{"city": "old_city"}'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', previous => '{"city": "old_city", "grade": "old_city"}'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', previous => '["city"]'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', previous => '{"city": 1}'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', previous => '{"city": {"a": "old_city"}}'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', valid_from => 'k'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', valid_to => 'valid_from'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', valid_to => 'note'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', is_current => 'note'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', is_current => 'nope'$$);
SELECT scd2('d', 's', $$sequence_by => 'at'$$, '{}');
SELECT scd2('d', 's', $$sequence_by => 'at'$$, '{k,k}');
SELECT scd2('d', 's', $$sequence_by => 'at'$$, '{k,NULL}');
SELECT scd2('d', 's', $$sequence_by => 'at'$$, '{nope}');
SELECT scd2('d', 's', $$sequence_by => 'nope'$$);
SELECT scd2('d', 's', $$sequence_by => 'ctid'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', effective_at => '7'$$);
SELECT scd2('d', 's');
SELECT scd2('d', 's', $$effective_at => 'now'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', absent => 'delete'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', duplicates => NULL$$);
SELECT scd2('d', 's', $$sequence_by => 'at', null_keys => ''$$);
SELECT scd2('d', 's', $$sequence_by => 'at', late => 'Weave'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', bounds => '(]'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', bounds => '[]'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', open_end => 'x'$$);
SELECT count(*) FROM d;
DROP TABLE d, s;
DROP FUNCTION show;

-- A key and nothing else; nothing but the key in common.
CREATE TABLE s (k int, at int, gone boolean);
CREATE TABLE d (k int, valid_from int, valid_to int);
INSERT INTO s VALUES (1, 10), (1, 20), (2, 10);
SELECT scd2('d', 's', $$sequence_by => 'at', is_current => NULL$$);
UPDATE s SET at = 30, gone = k = 1;
DELETE FROM s WHERE ctid <> ALL (SELECT max(ctid) FROM s GROUP BY k);
SELECT scd2('d', 's', $$sequence_by => 'at', is_current => NULL, delete_when => 'gone'$$);
SELECT * FROM d ORDER BY k, valid_from;
DROP TABLE d, s;

-- Rows of one key and one time.
CREATE TABLE s (id int GENERATED ALWAYS AS IDENTITY, k int, v text, n numeric, at int, op text);
CREATE TABLE d (k int, v text, n numeric, valid_from int, valid_to int, is_current boolean);
INSERT INTO s (k, v, n, at) VALUES (1, 'a', 1.0, 10), (1, 'a', 1.00, 10), (2, NULL, NULL, 10), (2, NULL, NULL, 10);
SELECT scd2('d', 's', $$sequence_by => 'at'$$);
INSERT INTO s (k, v, n, at) VALUES (1, 'b', 1, 10), (3, 'c', 1, 10), (3, 'd', 1, 10), (3, 'c', 1, 10), (4, 'e', 1, 10);
SELECT scd2('d', 's', $$sequence_by => 'at'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', duplicates => 'last'$$);
SELECT * FROM d ORDER BY k;
TRUNCATE d;
SELECT scd2('d', 's', $$sequence_by => 'at', duplicates => 'dead_letter'$$);
SELECT * FROM d ORDER BY k;
SELECT * FROM rejects('d');
SELECT etl_dead_letter_discard(array_agg(dead_letter_id)) FROM etl_patterns.dead_letter;
-- Not the same time, or no time at all.
TRUNCATE s;
INSERT INTO s (k, v, at) VALUES (7, 'x', 1), (7, 'y', 2);
SELECT scd2('d', 's', $$effective_at => '20'$$);
SELECT scd2('d', 's', $$effective_at => '20', duplicates => 'last'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'v = ''x'''$$);
-- A delete beats what else happened at that time, without regard to the word.
TRUNCATE s;
INSERT INTO s (k, v, at, op) VALUES (4, 'e2', 20, 'U'), (4, 'e3', 20, 'D'), (4, 'e4', 20, 'U'), (5, 'z', 20, 'D'), (5, 'y', 20, 'I');
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'op = ''D'''$$);
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'op = ''D''', duplicates => 'last'$$);
SELECT * FROM d WHERE k >= 4 ORDER BY k, valid_from;

-- Rows without a key or a time.
TRUNCATE s, d;
INSERT INTO s (k, v, at) VALUES (NULL, 'nokey', 10), (1, 'notime', NULL), (NULL, NULL, NULL), (2, 'good', 10);
SELECT scd2('d', 's', $$sequence_by => 'at'$$);
DELETE FROM s WHERE k IS NULL;
SELECT scd2('d', 's', $$sequence_by => 'at'$$);
INSERT INTO s (k, v, at) VALUES (NULL, 'nokey', 10), (NULL, 'nokey', NULL);
SELECT scd2('d', 's', $$sequence_by => 'at', null_keys => 'dead_letter'$$);
SELECT * FROM d;
SELECT * FROM rejects('d');
SELECT operation, target, source_name, run_id = (SELECT max(run_id) FROM etl_patterns.run) FROM etl_patterns.dead_letter WHERE status = 'pending' LIMIT 1;
SELECT etl_dead_letter_discard(array_agg(dead_letter_id)) FROM etl_patterns.dead_letter;
-- A null in part of a key.
SELECT scd2('d', 's', $$sequence_by => 'at'$$, '{v,k}');
SELECT scd2('d', 's', $$sequence_by => 'at', null_keys => 'dead_letter'$$, '{v,k}');
SELECT etl_dead_letter_discard(array_agg(dead_letter_id)) FROM etl_patterns.dead_letter;
-- A dry run counts, and writes nothing but its row in the ledger.
TRUNCATE d;
INSERT INTO d VALUES (2, 'old', NULL, 5, NULL, true);
INSERT INTO s (k, v, at) VALUES (3, 'new', 1), (3, 'newer', 2), (2, 'first', 1);
SELECT scd2('d', 's', $$sequence_by => 'at', null_keys => 'dead_letter', dry_run => true$$);
SELECT * FROM d;
SELECT count(*) FROM rejects('d');
SELECT status, rows_read FROM etl_patterns.run ORDER BY run_id DESC LIMIT 1;
SELECT scd2('d', 's', $$sequence_by => 'at', null_keys => 'dead_letter'$$);
DROP TABLE d, s;

-- Times of several types: date, timestamp, with and without time zone, text, bigint, numeric.
CREATE TABLE s (k int, v text, d date, ts timestamp, tz timestamptz, i int, n numeric, x text);
INSERT INTO s VALUES (1, 'a', '2024-02-28', '2024-02-28 12:00', '2024-02-28 12:00+02', 1, 1.5, 'a'),
    (1, 'b', '2024-02-29', '2024-02-29 12:00:00.5', '2024-02-29 12:00+02', 2, 2.5, 'b');
CREATE FUNCTION times(type text, sequence text, options text DEFAULT '') RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    DROP TABLE IF EXISTS d;
    EXECUTE format('CREATE TABLE d (k int, v text, valid_from %s, valid_to %1$s)', type);
    RETURN QUERY SELECT scd2('d', 's', format('sequence_by => %L, is_current => NULL%s', sequence, options));
    RETURN QUERY SELECT concat_ws(' ', t.v, t.valid_from::text, t.valid_to::text) FROM d AS t ORDER BY t.v;
END $$;
SET client_min_messages = warning;
SET DateStyle = 'ISO';
SELECT times('date', 'd');
SELECT times('timestamp', 'd');
SELECT times('timestamptz', 'd');
SELECT times('date', 'ts');
SELECT times('timestamp', 'tz');
SELECT times('bigint', 'i');
SELECT times('int', 'n');
SELECT times('numeric', 'n');
SELECT times('numeric(6,0)', 'n');
SELECT times('text COLLATE "C"', 'x');
SELECT times('timestamptz', 'i');
SELECT times('date', 'x');
SELECT times('date', 'v');
SELECT times('int', 'tz');
SELECT times('point', 'x');
SELECT times('timestamp(0)', 'ts');
-- Rounded to the same second: the same time.
UPDATE s SET ts = '2024-02-29 12:00:00.4' WHERE v = 'a';
UPDATE s SET ts = '2024-02-29 12:00:00.3' WHERE v = 'b';
SELECT times('timestamp(0)', 'ts');
-- The clock, rounded, and a given time.
SELECT scd2('d', 's', $$is_current => NULL, duplicates => 'last'$$);
SELECT count(*) FROM d WHERE valid_from <> date_trunc('second', valid_from);
SELECT scd2('d', 's', $$is_current => NULL, duplicates => 'last', effective_at => '2100-01-01 00:00:00.6'$$);
SELECT max(valid_from) = date_trunc('second', max(valid_from)) FROM d;
-- No version begins at the end of time, or has no time at all.
UPDATE s SET ts = 'infinity', d = 'infinity' WHERE v = 'b';
SELECT times('timestamp', 'ts');
SELECT times('date', 'd', $$, bounds => '[]'$$);
SELECT times('date', 'd', $$, null_keys => 'dead_letter'$$);
SELECT * FROM rejects('d');
UPDATE s SET ts = '9999-12-31', d = '9999-12-31' WHERE v = 'b';
SELECT times('timestamp', 'ts', $$, open_end => '9999-12-31'$$);
SELECT times('date', 'd', $$, open_end => '9999-12-31', bounds => '[]'$$);
SELECT times('date', 'd', $$, bounds => '[]'$$);
UPDATE s SET ts = '-infinity', d = '-infinity' WHERE v = 'b';
SELECT times('timestamp', 'ts');
SELECT times('date', 'd', $$, bounds => '[]'$$);
SELECT scd2('d', 's', $$is_current => NULL, effective_at => 'infinity'$$);
SELECT scd2('d', 's', $$is_current => NULL, effective_at => '2024-13-01'$$);
SELECT scd2('d', 's', $$is_current => NULL, effective_at => '9999-12-31', open_end => '9999-12-31'$$);
-- Since when an empty source lacks a key must be known.
TRUNCATE s;
SELECT times('numeric', 'n', $$, absent => 'close', max_close_fraction => 1$$);
SELECT times('text', 'x', $$, absent => 'close', max_close_fraction => 1$$);
INSERT INTO d VALUES (1, 'a', 'a', NULL);
SELECT scd2('d', 's', $$sequence_by => 'x', is_current => NULL, absent => 'close', max_close_fraction => 1$$);
SELECT scd2('d', 's', $$sequence_by => 'x', is_current => NULL, absent => 'close', max_close_fraction => 1, effective_at => 'b'$$);
SELECT * FROM d;
CREATE TABLE d0 (k int, v text, valid_from timestamp(0), valid_to timestamp);
SELECT scd2('d0', 's', $$sequence_by => 'ts', is_current => NULL$$);
DROP TABLE d0;
DROP TABLE d, s;

-- How the open end is written: null, a literal, the column's default.
CREATE TABLE s (k int, v text, at date);
INSERT INTO s VALUES (1, 'a', '2024-01-01'), (1, 'b', '2024-02-01');
CREATE TABLE d (k int, v text, valid_from date, valid_to date DEFAULT '9999-12-31', is_current boolean);
SELECT scd2('d', 's', $$sequence_by => 'at'$$);
SELECT * FROM d ORDER BY valid_from;
TRUNCATE d;
SELECT scd2('d', 's', $$sequence_by => 'at', open_end => 'infinity'$$);
SELECT * FROM d ORDER BY valid_from;
-- All the ways in which it was written are open; it stays as it is until it changes.
TRUNCATE d;
INSERT INTO d VALUES (1, 'a', '2024-01-01', NULL, true), (2, 'a', '2024-01-01', '9999-12-31', true), (3, 'a', '2024-01-01', 'infinity', true);
TRUNCATE s;
INSERT INTO s SELECT k, 'a', '2024-02-01' FROM d;
SELECT scd2('d', 's', $$sequence_by => 'at'$$);
SELECT * FROM d ORDER BY k, valid_from;
UPDATE s SET v = 'b';
SELECT scd2('d', 's', $$sequence_by => 'at'$$);
SELECT * FROM d ORDER BY k, valid_from;
-- A column that cannot be null needs a word.
ALTER TABLE d ALTER valid_to DROP DEFAULT, ALTER valid_to SET NOT NULL;
SELECT scd2('d', 's', $$sequence_by => 'at'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', open_end => '9999-12-31'$$);
-- A default that is no constant is none.
ALTER TABLE d ALTER valid_to SET DEFAULT current_date, ALTER valid_to DROP NOT NULL;
TRUNCATE d;
SELECT scd2('d', 's', $$sequence_by => 'at'$$);
SELECT * FROM d WHERE k = 1 ORDER BY k, valid_from;
-- is_current that contradicts valid_to is set right when its version is written, not before.
UPDATE d SET is_current = NULL;
SELECT scd2('d', 's', $$sequence_by => 'at'$$);
SELECT count(*) FROM d WHERE is_current;

-- What is stored is no history: nothing is made worse.
CREATE FUNCTION stored(rows text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE d;
    EXECUTE 'INSERT INTO d VALUES ' || rows;
    RETURN QUERY SELECT scd2('d', 's', 'sequence_by => ''at''');
END $$;
UPDATE s SET v = 'c';
SELECT stored($$(1, 'a', '2024-01-01', NULL, true), (1, 'b', '2024-01-15', NULL, true)$$);
SELECT stored($$(1, 'a', '2024-01-01', '2024-01-20', false), (1, 'b', '2024-01-15', '2024-01-25', false)$$);
SELECT stored($$(1, 'a', '2024-01-01', '2024-01-01', false)$$);
SELECT stored($$(1, 'a', NULL, NULL, true)$$);
SELECT stored($$(NULL, 'a', '2024-01-01', NULL, true), (NULL, 'b', '2024-01-01', NULL, true)$$);
SELECT count(*) FROM d;
DROP TABLE d, s;

-- Names that need quotes.
CREATE TABLE "S s" ("K""k" int, "v'v" text, "A t" int, "op;" text);
CREATE TABLE "D d" ("K""k" int, "v'v" text, "From" int, "T o" int, "select" boolean, "a.b" text DEFAULT '"');
INSERT INTO "S s" VALUES (1, 'a', 1, NULL), (1, 'b', 2, 'U'), (1, NULL, 3, 'D');
SELECT scd2('"D d"', '"S s"', $$sequence_by => 'A t', delete_when => '"op;" = ''D''', valid_from => 'From', valid_to => 'T o', is_current => 'select'$$, '{"K\"k"}');
SELECT * FROM "D d" ORDER BY "From";
DROP TABLE "D d", "S s";
\i :end
