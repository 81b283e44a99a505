--
-- etl_scd2_merge(): what becomes of each row, and the counts.
--
-- scd2() of scd2.sql runs each merge in both ways and compares the two.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set scd2 :abs_srcdir '/sql/include/scd2.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\i :scd2

-- Sets the source to some rows.
CREATE TABLE s (k int, v text, at int, op text);
CREATE FUNCTION feed(rows text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE s;
    EXECUTE 'INSERT INTO s VALUES ' || rows;
END $$;
CREATE TABLE d (k int, v text, valid_from int, valid_to int, is_current boolean, UNIQUE (k, valid_from));
CREATE VIEW lines AS
    SELECT format('%s: %s', k, string_agg(format('%s[%s,%s)%s', v, valid_from, valid_to,
        CASE WHEN is_current THEN '*' END), ' ' ORDER BY valid_from)) AS line
    FROM d GROUP BY k ORDER BY k;

-- The first load, the same again, a change, all of it at a given time.
SELECT feed($$(1, 'a', 1), (2, 'b', 1), (3, NULL, 1)$$);
SELECT scd2('d', 's', $$effective_at => '10'$$);
SELECT * FROM lines;
CREATE TABLE before AS SELECT k, xmin AS x, ctid AS c FROM d;
SELECT scd2('d', 's', $$effective_at => '20'$$);
SELECT count(*) FROM d JOIN before AS b ON d.k = b.k AND d.xmin = b.x AND d.ctid = b.c;
UPDATE s SET v = 'B' WHERE k = 2;
INSERT INTO s VALUES (4, 'd', 1);
SELECT scd2('d', 's', $$effective_at => '20'$$);
SELECT * FROM lines;
SELECT count(*) FROM d JOIN before AS b ON d.k = b.k AND d.xmin = b.x AND d.ctid = b.c;
SELECT * FROM verify('d');

-- The ledger has the run.
SELECT operation, target, status, rows_read, rows_inserted, rows_updated, rows_deleted, rows_unchanged,
    rows_rejected, detail - 'way'
    FROM etl_patterns.run WHERE target = 'd'::regclass ORDER BY run_id DESC LIMIT 1;

-- A second change at the same time replaces the first.
UPDATE s SET v = 'BB' WHERE k = 2;
SELECT scd2('d', 's', $$effective_at => '20'$$);
SELECT * FROM lines WHERE line ~ '^2';
-- Back to what it was before: the version goes, the one before goes on.
UPDATE s SET v = 'b' WHERE k = 2;
SELECT scd2('d', 's', $$effective_at => '20'$$);
SELECT * FROM lines WHERE line ~ '^2';
-- An effective time before the open version: the row is late.
UPDATE s SET v = 'zero' WHERE k = 2;
SELECT scd2('d', 's', $$effective_at => '5'$$);
SELECT * FROM lines;

-- Several versions of a key in one batch, in any order; equal neighbours are one.
TRUNCATE d;
SELECT feed($$(1, 'c', 30), (1, 'a', 10), (2, 'x', 7), (1, 'b', 20), (1, 'b', 25), (2, 'x', 5), (1, 'a', 40), (3, 'y', 1)$$);
SELECT scd2('d', 's', $$sequence_by => 'at'$$);
SELECT * FROM lines;
SELECT scd2('d', 's', $$sequence_by => 'at'$$);
SELECT * FROM verify('d');
-- What began as a repetition is one as well beside stored versions.
SELECT feed($$(1, 'a', 50), (1, 'b', 60), (1, 'b', 70), (2, 'y', 8), (2, 'x', 9)$$);
SELECT scd2('d', 's', $$sequence_by => 'at'$$);
SELECT * FROM lines;

-- Late rows.
TRUNCATE d;
INSERT INTO d VALUES (1, 'a', 10, 20, false), (1, 'b', 20, 30, false), (1, 'c', 40, NULL, true),
    (2, 'p', 10, 20, false), (3, 'q', 10, NULL, true);
CREATE TABLE kept AS SELECT * FROM d;
CREATE FUNCTION late(rows text, options text DEFAULT '') RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE d;
    INSERT INTO d SELECT * FROM kept;
    PERFORM feed(rows);
    RETURN QUERY SELECT scd2('d', 's', 'sequence_by => ''at''' || options);
    RETURN QUERY SELECT line FROM lines WHERE line ~ ANY (SELECT format('^%s:', k) FROM s);
END $$;
-- Before the first version: new, and equal to it.
SELECT late($$(1, 'z', 5)$$);
SELECT late($$(1, 'a', 5)$$);
-- Inside a version: another value, the value of the next version, an equal one.
SELECT late($$(1, 'z', 15)$$);
SELECT late($$(1, 'b', 15)$$);
SELECT late($$(1, 'a', 15)$$);
-- At the start of a version: another value, that of the version before, of the next, the same.
SELECT late($$(1, 'z', 20)$$);
SELECT late($$(1, 'a', 20)$$);
SELECT late($$(1, 'b', 10)$$);
SELECT late($$(1, 'b', 20)$$);
SELECT late($$(1, 'z', 40)$$);
-- In a gap: another value, the value before it, the value after it; and at its start.
SELECT late($$(1, 'z', 35)$$);
SELECT late($$(1, 'b', 35)$$);
SELECT late($$(1, 'c', 35)$$);
SELECT late($$(1, 'z', 30)$$);
SELECT late($$(1, 'b', 30)$$);
-- Of a closed key: before its end is late, at its end goes on or opens, after it revives.
SELECT late($$(2, 'p', 15)$$);
SELECT late($$(2, 'z', 15)$$);
SELECT late($$(2, 'p', 20)$$);
SELECT late($$(2, 'z', 20)$$);
SELECT late($$(2, 'p', 25)$$);
-- Late and current rows of one batch.
SELECT late($$(1, 'y', 45), (1, 'z', 15), (3, 'r', 15), (3, 's', 5), (4, 'n', 2)$$);
-- Not woven in: nothing late is written, the rest is.
SELECT late($$(1, 'y', 45), (1, 'z', 15), (1, 'z', 35), (2, 'z', 19), (3, 's', 5), (3, 'q', 10)$$, $$, late => 'ignore'$$);
SELECT late($$(1, 'y', 45), (1, 'z', 15), (1, 'z', 35), (2, 'z', 19), (3, 's', 5), (3, 'q', 10)$$, $$, late => 'dead_letter'$$);
SELECT * FROM rejects('d');
SELECT etl_dead_letter_discard(array_agg(dead_letter_id)) FROM etl_patterns.dead_letter;
-- A late delete ends the version that it falls into, where that is.
SELECT late($$(1, NULL, 15, 'D')$$, $$, delete_when => 'op = ''D'''$$);
SELECT late($$(1, NULL, 20, 'D')$$, $$, delete_when => 'op = ''D'''$$);
SELECT late($$(1, NULL, 30, 'D'), (2, NULL, 25, 'D'), (3, NULL, 5, 'D')$$, $$, delete_when => 'op = ''D'''$$);
SELECT late($$(1, NULL, 15, 'D')$$, $$, late => 'ignore', delete_when => 'op = ''D'''$$);

-- Deletes; a null is false; of a key that is not there.
TRUNCATE d;
SELECT feed($$(1, 'a', 10), (2, 'b', 10), (3, 'c', 10)$$);
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'op = ''D'''$$);
SELECT feed($$(1, 'a', 20, 'D'), (2, 'b', 20, NULL), (9, 'z', 20, 'D')$$);
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'op = ''D'''$$);
SELECT * FROM lines;
-- Again: unchanged.  Later: unchanged.
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'op = ''D'''$$);
SELECT feed($$(1, 'a', 25, 'D')$$);
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'op = ''D'''$$);
-- A return with the same values leaves the gap.
SELECT feed($$(1, 'a', 30, 'U')$$);
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'op = ''D'''$$);
SELECT * FROM lines WHERE line ~ '^1';
SELECT * FROM verify('d', $$gaps => true$$);
-- Delete and return in one batch, return and delete, all of a key's life.
SELECT feed($$(2, 'b', 50, 'I'), (2, NULL, 40, 'D'), (3, 'c2', 40, 'U'), (3, NULL, 50, 'D'), (5, 'e', 1, 'I'), (5, NULL, 2, 'D'), (5, 'e', 3, 'I'), (5, NULL, 4, 'D')$$);
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'op = ''D'''$$);
SELECT * FROM lines;
-- Where the deletion takes effect at the start of a version, nothing is left of it.
SELECT feed($$(2, NULL, 50, 'D')$$);
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'op = ''D'''$$);
SELECT * FROM lines WHERE line ~ '^2';
-- delete_when must be an expression over one row, and a boolean one.
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'op'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'nope'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'at'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => ''$$);
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'true FROM s; DROP TABLE s'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'true), (true'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'count(*) > 0'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'row_number() OVER () > 0'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'generate_series(0, 1) = 1'$$);
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'k = $1'$$);
-- A subquery is one, and a comment ends with it.
SELECT feed($$(1, 'new', 70, 'U')$$);
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'op IN (SELECT ''D'') -- no more'$$);

-- Absent keys, all of them and within a scope.
DROP VIEW lines;
DROP TABLE d, s, kept CASCADE;
CREATE TABLE s (k int, region text, v text);
CREATE TABLE d (k int, region text, v text, valid_from int, valid_to int, is_current boolean);
CREATE VIEW lines AS
    SELECT format('%s %s: %s', region, k, string_agg(format('%s[%s,%s)%s', v, valid_from, valid_to,
        CASE WHEN is_current THEN '*' END), ' ' ORDER BY valid_from)) AS line
    FROM d GROUP BY region, k ORDER BY region, k;
INSERT INTO s SELECT i, (ARRAY['north', 'south', NULL])[1 + i % 3], 'v' || i FROM generate_series(1, 9) i;
SELECT scd2('d', 's', $$effective_at => '10', absent => 'close'$$);
DELETE FROM s WHERE k IN (1, 2, 3, 4, 5);
SELECT scd2('d', 's', $$effective_at => '20', absent => 'close', dry_run => true$$);
SELECT scd2('d', 's', $$effective_at => '20', absent => 'close'$$);
SELECT * FROM lines;
-- Now and again: nothing more.
SELECT scd2('d', 's', $$effective_at => '20', absent => 'close'$$);
SELECT scd2('d', 's', $$effective_at => '30', absent => 'close'$$);
-- They are back; one of them has changed.
INSERT INTO s VALUES (1, 'south', 'v1'), (2, NULL, 'other');
SELECT scd2('d', 's', $$effective_at => '40', absent => 'close'$$);
SELECT * FROM lines WHERE line ~ ' [12]:';
-- A source that speaks of the south only; a null is a value of the scope, too.
DELETE FROM s WHERE region IS DISTINCT FROM 'south' OR k = 7;
SELECT * FROM s;
SELECT scd2('d', 's', $$effective_at => '50', absent => 'close', absent_scope => '{region}'$$);
SELECT * FROM lines WHERE line ~ '50';
UPDATE s SET region = NULL;
SELECT scd2('d', 's', $$effective_at => '60', absent => 'close', absent_scope => '{region}'$$);
SELECT * FROM lines WHERE line ~ '60';
SELECT * FROM verify('d');
SELECT scd2('d', 's', $$effective_at => '60', absent_scope => '{region}'$$);
SELECT scd2('d', 's', $$effective_at => '60', absent => 'close', absent_scope => '{nope}'$$);
-- An empty source closes nothing, unless that is what is wanted.
TRUNCATE s;
SELECT scd2('d', 's', $$effective_at => '70', absent => 'close'$$);
SELECT scd2('d', 's', $$effective_at => '70'$$);
SELECT scd2('d', 's', $$effective_at => '70', absent => 'close', max_close_fraction => 0.99$$);
SELECT count(*) FROM d WHERE is_current;
SELECT scd2('d', 's', $$effective_at => '70', absent => 'close', max_close_fraction => 1$$);
SELECT count(*) FROM d WHERE is_current;
-- Too many are missing, or deleted: nothing changes.
TRUNCATE d;
INSERT INTO s SELECT i, 'r', 'v' || i FROM generate_series(1, 10) i;
SELECT scd2('d', 's', $$effective_at => '10'$$);
DELETE FROM s WHERE k <= 4;
INSERT INTO s VALUES (11, 'r', 'new');
SELECT scd2('d', 's', $$effective_at => '20', absent => 'close', max_close_fraction => 0.3$$);
SELECT scd2('d', 's', $$effective_at => '20', delete_when => 'k > 5', max_close_fraction => 0.5$$);
SELECT scd2('d', 's', $$effective_at => '20', absent => 'close', max_close_fraction => 0$$);
SELECT count(*), count(*) FILTER (WHERE is_current) FROM d;
SELECT scd2('d', 's', $$effective_at => '20', absent => 'close', max_close_fraction => 0.4$$);
SELECT count(*), count(*) FILTER (WHERE is_current) FROM d;
SELECT scd2('d', 's', $$effective_at => '20', absent => 'close', max_close_fraction => 1.5$$);
SELECT scd2('d', 's', $$effective_at => '20', absent => 'close', max_close_fraction => 'NaN'$$);
-- A key that is deleted and returns, or is new and deleted, is not closed.
TRUNCATE d, s;
ALTER TABLE s ADD at int, ADD op text;
INSERT INTO d SELECT i, 'r', 'v' || i, 1, NULL, true FROM generate_series(1, 4) i;
INSERT INTO s SELECT k, region, v, 10 + n, CASE n % 2 WHEN 0 THEN 'D' END FROM d, generate_series(0, 5) n WHERE k = 1;
INSERT INTO s SELECT i, 'r', 'new', 10 + n, CASE n WHEN 1 THEN 'D' END FROM generate_series(11, 14) i, generate_series(0, 1) n;
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'op = ''D''', max_close_fraction => 0$$);
-- With a sequence absence is as of the greatest; an open version that starts later stays.
DROP VIEW lines;
DROP TABLE d, s;
CREATE TABLE s (k int, v text, at int);
CREATE TABLE d (k int, v text, valid_from int, valid_to int, is_current boolean);
INSERT INTO d VALUES (1, 'a', 10, NULL, true), (2, 'b', 40, NULL, true), (3, 'c', 10, 20, false), (4, 'd', 10, NULL, true);
INSERT INTO s VALUES (3, 'c', 15), (4, 'd', 30);
SELECT scd2('d', 's', $$sequence_by => 'at', absent => 'close'$$);
SELECT * FROM d ORDER BY k, valid_from;
-- A key that is there although it was closed, at its own time if that is later.
TRUNCATE d;
INSERT INTO d VALUES (1, 'a', 10, 20, false), (2, 'b', 10, 40, false);
TRUNCATE s;
INSERT INTO s VALUES (1, 'a', 30), (2, 'b', 5), (3, 'z', 25);
SELECT scd2('d', 's', $$sequence_by => 'at', absent => 'close'$$);
SELECT * FROM d ORDER BY k, valid_from;
DROP TABLE d, s;
\i :end
