--
-- Dimensions by the day, both ends included: valid_to is the last day of a
-- version, and 9999-12-31 that of the open one.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set scd2 :abs_srcdir '/sql/include/scd2.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\i :scd2
SET DateStyle = 'ISO';
CREATE TABLE s (k int, v text, op text);
CREATE TABLE d (k int, v text, valid_from date, valid_to date NOT NULL DEFAULT '9999-12-31', is_current boolean,
    CHECK (valid_from <= valid_to), EXCLUDE USING gist (int4range(k, k, '[]') WITH &&, daterange(valid_from, valid_to, '[]') WITH &&));
CREATE FUNCTION on_day(day text, rows text, options text DEFAULT '') RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE s;
    IF rows <> '' THEN
        EXECUTE 'INSERT INTO s VALUES ' || rows;
    END IF;
    RETURN QUERY SELECT scd2('d', 's', format('effective_at => %L, bounds => ''[]''%s', day, options));
    RETURN QUERY SELECT concat_ws(' ', t.k, t.v, t.valid_from, t.valid_to, t.is_current)
        FROM d AS t ORDER BY t.k, t.valid_from;
    RETURN QUERY SELECT verify('d', 'bounds => ''[]''');
END $$;
SELECT on_day('2024-02-28', $$(1, 'a'), (2, 'b')$$);
-- The day after, across the leap day.
SELECT on_day('2024-03-01', $$(1, 'a2'), (2, 'b')$$);
-- Twice and three times on one day: one version of that day.
SELECT on_day('2024-03-01', $$(1, 'a3'), (2, 'b')$$);
SELECT on_day('2024-03-01', $$(1, 'a3'), (2, 'b')$$);
-- On the day of the first version, no interval that ends before it begins.
SELECT on_day('2024-03-01', $$(3, 'c')$$);
SELECT on_day('2024-03-01', $$(3, 'd')$$);
-- A version of one day.
SELECT on_day('2024-03-02', $$(3, 'e')$$);
-- Deleted on the day on which it began: it was never there.
SELECT on_day('2024-03-02', $$(3, 'e', 'D'), (2, 'b', 'D')$$, $$, delete_when => 'op = ''D'''$$);
-- Late by a day, and at the first day of a gap.
SELECT on_day('2024-02-29', $$(2, 'late')$$);
SELECT on_day('2024-03-02', $$(2, 'b')$$);
-- Every day has one version for each key that is there.
SELECT day::date, k, count(*), min(v) FROM generate_series('2024-02-27'::date, '2024-03-04', '1 day') AS day
    JOIN d ON day::date BETWEEN valid_from AND valid_to GROUP BY day, k ORDER BY k, day;
SELECT k, v FROM d WHERE '9999-12-31' BETWEEN valid_from AND valid_to ORDER BY k;
-- Absent since a day, and back the day after: no gap; two days after: a gap.
SELECT on_day('2024-03-10', $$(1, 'a3'), (2, 'b')$$, $$, absent => 'close'$$);
SELECT on_day('2024-03-11', $$(1, 'a3')$$, $$, absent => 'close'$$);
SELECT on_day('2024-03-11', $$(1, 'a3'), (2, 'b')$$, $$, absent => 'close'$$);
SELECT on_day('2024-03-20', $$(1, 'a3')$$, $$, absent => 'close'$$);
SELECT on_day('2024-03-21', $$(1, 'a3'), (2, 'b')$$, $$, absent => 'close'$$);
-- The last day that there is.
SELECT on_day('9999-12-30', $$(1, 'end')$$);
SELECT on_day('9999-12-31', $$(1, 'after')$$);
SELECT on_day('infinity', $$(1, 'after')$$);
SELECT on_day('4713-01-01 BC', $$(4, 'first')$$);

-- Half-open bounds, dates as well.
DROP TABLE d;
CREATE TABLE d (k int, v text, valid_from date, valid_to date DEFAULT 'infinity', is_current boolean);
TRUNCATE s;
INSERT INTO s VALUES (1, 'a');
SELECT scd2('d', 's', $$effective_at => '2024-01-01'$$);
UPDATE s SET v = 'b';
SELECT scd2('d', 's', $$effective_at => '2024-01-02'$$);
SELECT * FROM d ORDER BY valid_from;

-- Without effective_at it is today, as the session's time zone has it.
TRUNCATE d;
SET TimeZone = 'Pacific/Kiritimati';	-- UTC+14
SELECT scd2('d', 's');
SELECT valid_from = current_date AS today FROM d;
SELECT scd2('d', 's');
SET TimeZone = 'Etc/GMT+12';	-- UTC-12, another day at any time
UPDATE s SET v = 'c';
-- Over there it is still yesterday, so the change is late and not the newest.
SELECT scd2('d', 's');
SELECT v, valid_from = current_date AS today, valid_from - min(valid_from) OVER () IN (0, 1, 2) AS near, is_current FROM d ORDER BY valid_from;
-- With a time zone in the column it does not matter where the session is.
DROP TABLE d;
CREATE TABLE d (k int, v text, valid_from timestamptz, valid_to timestamptz, is_current boolean);
SET TimeZone = 'Pacific/Kiritimati';
SELECT scd2('d', 's');
SET TimeZone = 'Etc/GMT+12';
UPDATE s SET v = 'd';
SELECT scd2('d', 's');
SELECT v, is_current FROM d ORDER BY valid_from;
-- Dates that become timestamps begin at midnight where the session is.
SET TimeZone = 'Europe/Berlin';
TRUNCATE d;
SELECT scd2('d', 's', $$effective_at => '2024-03-31'$$);
SELECT * FROM d;
DROP TABLE d, s;
\i :end
