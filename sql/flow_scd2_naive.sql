--
-- What goes wrong with the three statements that history is commonly kept
-- with (insert the new, close the changed, insert what was closed just now),
-- and does not here.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set scd2 :abs_srcdir '/sql/include/scd2.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\i :scd2
SET DateStyle = 'ISO';
CREATE TABLE s (k int, v text);
CREATE TABLE d (k int, v text, start_date date, end_date date DEFAULT '9999-12-31');
\set day '''start_date'', valid_to => ''end_date'', is_current => NULL, bounds => ''[]'', effective_at => '
\set day 'valid_from => ':day

-- The three statements, as they are found in many places.
CREATE FUNCTION naive(today date) RETURNS void LANGUAGE sql AS $$
    INSERT INTO d SELECT k, v, today, '9999-12-31' FROM s WHERE k NOT IN (SELECT k FROM d);
    UPDATE d SET end_date = today - 1 FROM s
        WHERE d.k = s.k AND d.v <> s.v AND d.end_date = '9999-12-31';
    INSERT INTO d SELECT s.k, s.v, today, '9999-12-31' FROM s JOIN d ON d.k = s.k AND d.end_date = today - 1;
$$;
CREATE FUNCTION lines() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws(' ', k, v, start_date, end_date) FROM d ORDER BY k, start_date, end_date, v
$$;
-- Some days' sources, by the three statements and by a merge for each.
CREATE FUNCTION compare(VARIADIC days text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    day date;
    rows text;
BEGIN
    FOR i IN 1 .. 2 LOOP
        TRUNCATE d;
        FOREACH rows IN ARRAY days LOOP
            day := split_part(rows, ': ', 1);
            rows := split_part(rows, ': ', 2);
            TRUNCATE s;
            IF rows <> '' THEN
                EXECUTE 'INSERT INTO s VALUES ' || rows;
            END IF;
            IF i = 1 THEN
                PERFORM naive(day);
            ELSE
                RETURN QUERY SELECT 'merge: ' || scd2('d', 's', format('valid_from => ''start_date'', valid_to => ''end_date'','
                    ' is_current => NULL, bounds => ''[]'', effective_at => %L', day));
            END IF;
        END LOOP;
        RETURN QUERY SELECT (ARRAY['naive: ', '       '])[i] || lines();
    END LOOP;
    RETURN QUERY SELECT 'problem: ' || verify('d', 'valid_from => ''start_date'', valid_to => ''end_date'', is_current => NULL, bounds => ''[]''');
END $$;

-- 1. The same day again: a duplicate of each version that began that day.
SELECT compare($$2024-01-01: (1, 'a')$$, $$2024-01-02: (1, 'b')$$, $$2024-01-02: (1, 'b')$$);

-- 2. A second change on one day: ends before starts, and more open versions each time.
SELECT compare($$2024-01-01: (1, 'a')$$, $$2024-01-02: (1, 'b')$$, $$2024-01-02: (1, 'c')$$, $$2024-01-02: (1, 'd')$$);

-- 3. A crash between the second statement and the third: never a current row again.
-- Here all is one statement: either all of it or nothing.
TRUNCATE d, s;
INSERT INTO d VALUES (1, 'a', '2024-01-01');
INSERT INTO s VALUES (1, 'b');
BEGIN;
UPDATE d SET end_date = '2024-01-01';
COMMIT;
SELECT naive('2024-01-03');
SELECT 'naive: ' || lines();
TRUNCATE d;
INSERT INTO d VALUES (1, 'a', '2024-01-01');
CREATE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'crash'; END $$;
CREATE TRIGGER crash BEFORE INSERT ON d FOR EACH ROW EXECUTE FUNCTION crash();
SELECT scd2('d', 's', :'day' || '''2024-01-02''');
SELECT '       ' || lines();
DROP TRIGGER crash ON d;
SELECT scd2('d', 's', :'day' || '''2024-01-03''');
SELECT '       ' || lines();

-- 4. Midnight passes, or the time zone is another one: the day is taken once, when the transaction begins.
TRUNCATE d;
BEGIN;
SET LOCAL TimeZone = 'Pacific/Kiritimati';
SELECT current_date AS today \gset
INSERT INTO d VALUES (1, 'a', '2024-01-01');
SELECT count(pg_sleep(0.01)) FROM etl_scd2_merge('d', 's', '{k}', valid_from => 'start_date', valid_to => 'end_date', is_current => NULL, bounds => '[]');
SELECT v, start_date = :'today', end_date = :'today'::date - 1 FROM d ORDER BY start_date;
COMMIT;

-- 5. Rows that were closed for another reason come back to life.
SELECT compare($$2024-01-01: (1, 'a'), (2, 'b')$$);
UPDATE d SET end_date = '2024-01-09' WHERE k = 2;
CREATE TABLE kept AS TABLE d;
SELECT naive('2024-01-10');
SELECT 'naive: ' || lines();
-- What the source still has is new to a merge, too; what it deletes stays closed.
TRUNCATE d;
INSERT INTO d TABLE kept;
SELECT scd2('d', 's', :'day' || '''2024-01-10'', delete_when => ''k = 2''');
SELECT '       ' || lines();

-- 6. A deleted key that comes back does not.
TRUNCATE d;
INSERT INTO d TABLE kept;
SELECT naive('2024-01-20');
SELECT 'naive: ' || lines();
SELECT scd2('d', 's', :'day' || '''2024-01-20''');
SELECT '       ' || lines();

-- 7. Changes to and from null, null keys, and an open end that is null.
SELECT compare($$2024-01-01: (1, 'a'), (2, NULL)$$, $$2024-01-02: (1, NULL), (2, 'b')$$);
SELECT compare($$2024-01-01: (NULL, 'a')$$);
TRUNCATE d, s;
INSERT INTO d VALUES (1, 'a', '2024-01-01', NULL);
INSERT INTO s VALUES (1, 'b');
SELECT naive('2024-01-02');
SELECT 'naive: ' || lines();
SELECT scd2('d', 's', :'day' || '''2024-01-02''');
SELECT '       ' || lines();

-- 8. Several rows of a key: all of them are inserted, and what was between is lost.
SELECT compare($$2024-01-01: (1, 'a')$$, $$2024-01-02: (1, 'b'), (1, 'c')$$);
CREATE TABLE events (k int, v text, at date, op text);
INSERT INTO events VALUES (1, 'c', '2024-01-03'), (1, 'b', '2024-01-02');
SELECT scd2('d', 'events', $$sequence_by => 'at', valid_from => 'start_date', valid_to => 'end_date', is_current => NULL, bounds => '[]'$$);
SELECT '       ' || lines();

-- 9. What comes late is dated today: with a time of its own it falls where it belongs.
TRUNCATE events;
INSERT INTO events VALUES (1, 'x', '2023-12-31'), (1, 'y', '2024-01-04');
SELECT scd2('d', 'events', $$sequence_by => 'at', valid_from => 'start_date', valid_to => 'end_date', is_current => NULL, bounds => '[]'$$);
SELECT '       ' || lines();

-- 10. BETWEEN finds nothing on a version's last day, once its times have hours: half-open intervals meet.
CREATE TABLE t (k int, v text, valid_from timestamp, valid_to timestamp, is_current boolean);
SELECT scd2('t', 'events', $$sequence_by => 'at'$$);
SELECT v FROM t WHERE valid_from <= '2024-01-03 23:59:59.999' AND (valid_to > '2024-01-03 23:59:59.999' OR valid_to IS NULL);
SELECT v FROM t WHERE valid_from <= '2024-01-04' AND (valid_to > '2024-01-04' OR valid_to IS NULL);

-- 11. Between the second statement and the third there is no current row, and two runs at once both
-- insert: see the isolation tests.  Within a statement nobody sees half of a merge.
CREATE FUNCTION currents() RETURNS bigint LANGUAGE sql STABLE AS $$ SELECT count(*) FROM t WHERE is_current $$;
UPDATE events SET v = v || '2', at = at + 100;
SELECT m.opened, currents() FROM etl_scd2_merge('t', 'events', '{k}', sequence_by => 'at') AS m;
SELECT currents();

-- 12. Deletes are missed; once they are not, an empty source deletes all.
TRUNCATE s;
SELECT scd2('d', 's', :'day' || '''2024-02-01'', absent => ''close''');
SELECT '       ' || lines();
TRUNCATE events;
INSERT INTO events VALUES (1, NULL, '2024-02-01', 'D');
SELECT scd2('d', 'events', $$sequence_by => 'at', delete_when => 'op = ''D''', valid_from => 'start_date', valid_to => 'end_date', is_current => NULL, bounds => '[]'$$);
SELECT '       ' || lines();

-- 13. Types that <> does not know, and values that it takes for equal.
CREATE TABLE js (k int, doc json, place point, name text COLLATE "C");
CREATE TABLE jd (LIKE js, valid_from int, valid_to int, is_current boolean);
INSERT INTO js VALUES (1, '{"a": 1}', '(1,2)', 'x');
SELECT count(*) FROM js JOIN jd USING (k) WHERE js.doc <> jd.doc;
SELECT scd2('jd', 'js', $$effective_at => '1'$$);
SELECT scd2('jd', 'js', $$effective_at => '2'$$);
UPDATE js SET doc = '{"a": 2}';
SELECT scd2('jd', 'js', $$effective_at => '3'$$);
UPDATE js SET place = '(1,3)';
SELECT scd2('jd', 'js', $$effective_at => '4'$$);
UPDATE js SET name = 'X';
SELECT scd2('jd', 'js', $$effective_at => '5'$$);
SELECT * FROM jd ORDER BY valid_from;

-- 14. Columns that make no version go stale: overwrite keeps them up to date, in all versions.
UPDATE js SET name = 'y', doc = '{"a": 3}';
SELECT scd2('jd', 'js', $$effective_at => '6', overwrite => '{name}'$$);
UPDATE js SET name = 'z';
SELECT scd2('jd', 'js', $$effective_at => '7', overwrite => '{name}'$$);
SELECT count(*), count(*) FILTER (WHERE name = 'z') FROM jd;
\i :end
