--
-- etl_scd3_merge(): a column keeps the former value of another.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin

CREATE FUNCTION merge(args text) RETURNS SETOF text
LANGUAGE sql AS $$
    SELECT try(format(
        'SELECT concat_ws('', '', rows_read || '' read'', nullif(inserted, 0) || '' inserted'','
        ' nullif(updated, 0) || '' updated'', nullif(unchanged, 0) || '' unchanged'','
        ' nullif(deleted, 0) || '' deleted'', nullif(stale, 0) || '' stale'','
        ' nullif(duplicates, 0) || '' duplicates'', nullif(rejected, 0) || '' rejected'')'
        ' FROM public.etl_scd3_merge(%s)', args))
$$;

CREATE TABLE d (id int PRIMARY KEY, city text, old_city text, price numeric(6, 2), old_price numeric(6, 2),
    name text, moved_on timestamptz);
CREATE TABLE s (id int, city text, price numeric, name text);
CREATE VIEW shown AS
    SELECT id, city, old_city, price, old_price, name, moved_on = transaction_timestamp() AS moved_now FROM d ORDER BY id;
INSERT INTO s VALUES (1, 'Rome', 1, 'a'), (2, 'Oslo', 2, 'b'), (3, NULL, 3, 'c');
SELECT merge($$'d', 's', '{id}', '{"city": "old_city", "price": "old_price"}', 'moved_on'$$);
TABLE shown;

-- Only what changed moves; other columns are written over.
UPDATE s SET city = 'Bari' WHERE id = 1;
UPDATE s SET name = 'bb' WHERE id = 2;
UPDATE s SET city = 'Lima' WHERE id = 3;
BEGIN;
SELECT merge($$'d', 's', '{id}', '{"city": "old_city", "price": "old_price"}', 'moved_on'$$);
TABLE shown;
COMMIT;

-- Unchanged rows keep their former values, and are not written.
CREATE TEMP TABLE before AS SELECT ctid AS place, xmin AS writer FROM d;
SELECT merge($$'d', 's', '{id}', '{"city": "old_city", "price": "old_price"}', 'moved_on'$$);
SELECT count(*) AS moved FROM before b FULL JOIN d ON b.place = d.ctid AND b.writer = d.xmin
WHERE b.place IS NULL OR d.id IS NULL;

-- A second change, and one to null; both columns of a row.
UPDATE s SET city = 'Pisa', price = 1.5 WHERE id = 1;
UPDATE s SET city = NULL WHERE id = 3;
SELECT merge($$'d', 's', '{id}', '{"city": "old_city", "price": "old_price"}'$$);
TABLE shown;

-- A value that the target's column rounds to what is there has not changed.
UPDATE s SET price = 1.501 WHERE id = 1;
SELECT merge($$'d', 's', '{id}', '{"price": "old_price"}'$$);
SELECT price, old_price FROM d WHERE id = 1;

-- The source may have columns of the former values' names: they are not taken.
ALTER TABLE s ADD old_city text DEFAULT 'wrong', ADD moved_on timestamptz DEFAULT '2000-01-01';
SELECT merge($$'d', 's', '{id}', '{"city": "old_city"}', 'moved_on'$$);

-- Duplicates are refused, unless they are equal.
INSERT INTO s SELECT * FROM s WHERE id = 2;
SELECT merge($$'d', 's', '{id}', '{"city": "old_city"}', 'moved_on'$$);
UPDATE s SET city = 'x' WHERE ctid = (SELECT max(ctid) FROM s);
SELECT merge($$'d', 's', '{id}', '{"city": "old_city"}', 'moved_on'$$);
DELETE FROM s WHERE city = 'x';
INSERT INTO s (id, city) VALUES (NULL, 'y');
SELECT merge($$'d', 's', '{id}', '{"city": "old_city"}', 'moved_on'$$);

-- The day of a change, where the column is a date.
CREATE TABLE e (id int, v int, old_v int, changed date);
INSERT INTO e VALUES (1, 1, NULL, '2000-01-01'), (2, 2, NULL, NULL);
CREATE TABLE e_src AS SELECT 1 AS id, 10 AS v UNION ALL SELECT 2, 2;
SELECT merge($$'e', 'e_src', '{id}', '{"v": "old_v"}', 'changed'$$);
SELECT id, v, old_v, changed = current_date AS today FROM e ORDER BY id;

-- Asking in vain.
SELECT merge($$'e', 'e_src', '{id}', NULL$$);
SELECT merge($$'e', 'e_src', '{id}', '{}'$$);
SELECT merge($$'e', 'e_src', '{id}', '[1]'$$);
SELECT merge($$'e', 'e_src', '{id}', '{"v": 1}'$$);
SELECT merge($$'e', 'e_src', '{id}', '{"nope": "old_v"}'$$);
SELECT merge($$'e', 'e_src', '{id}', '{"v": "nope"}'$$);
SELECT merge($$'e', 'e_src', '{id}', '{"v": "changed"}'$$);
SELECT merge($$'e', 'e_src', '{id}', '{"v": "v"}'$$);
SELECT merge($$'e', 'e_src', '{id}', '{"id": "old_v"}'$$);
SELECT merge($$'e', 'e_src', '{id}', '{"v": "id"}'$$);
SELECT merge($$'e', 'e_src', '{id}', '{"v": "old_v"}', 'nope'$$);
SELECT merge($$'e', 'e_src', '{id}', '{"v": "old_v"}', 'v'$$);
SELECT operation, status, rows_read, rows_inserted, rows_updated, rows_unchanged FROM etl_patterns.run ORDER BY run_id LIMIT 2;
\i :end
