--
-- Duplicate keys in a guarded load: the same rows land, and the others are
-- rejected for the same reason, as when they are inserted one by one.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
CREATE TABLE d (k int CONSTRAINT k_key PRIMARY KEY, u int CONSTRAINT u_key UNIQUE, t text);
CREATE INDEX d_t_idx ON d (t);
CREATE TABLE one_by_one (LIKE d INCLUDING ALL);
CREATE TABLE letter (line_no bigint, error_code text, error_detail text);
CREATE TABLE input AS
    SELECT i AS line_no, abs(hashint4(i)) % 4000 AS k, abs(hashint4(i + 10000)) % 6000 AS u, 'row ' || i AS t
    FROM generate_series(1, 6000) i;
SELECT file('d.csv', string_agg(format(E'%s,%s,%s\n', k, u, t), '' ORDER BY line_no)) FROM input;

DO $$
DECLARE
    r record;
    detail text;
BEGIN
    FOR r IN SELECT * FROM input ORDER BY line_no LOOP
        BEGIN
            INSERT INTO one_by_one VALUES (r.k, r.u, r.t);
        EXCEPTION WHEN unique_violation THEN
            GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
            INSERT INTO letter VALUES (r.line_no, SQLSTATE, detail);
        END;
    END LOOP;
END $$;

-- Where nobody else can write a duplicate is deleted again; a trigger forbids that.
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TABLE with_trigger (LIKE d INCLUDING ALL);
CREATE TABLE locked (LIKE d INCLUDING ALL);
CREATE TEMP TABLE temporary (LIKE d INCLUDING ALL);
CREATE TRIGGER nothing AFTER INSERT ON with_trigger FOR EACH ROW EXECUTE FUNCTION nothing();

SELECT count(*) AS landed FROM one_by_one;
SELECT load('d', 'd.csv', 'header => ''none'', on_error => ''dead_letter''');
SELECT load('with_trigger', 'd.csv', 'header => ''none'', on_error => ''dead_letter''');
SELECT load('temporary', 'd.csv', 'header => ''none'', on_error => ''dead_letter''');
BEGIN;
LOCK TABLE locked IN SHARE ROW EXCLUSIVE MODE;
SELECT load('locked', 'd.csv', 'header => ''none'', on_error => ''dead_letter''');
COMMIT;

SELECT count(*) AS differ FROM d FULL JOIN one_by_one o ON d = o WHERE d.k IS NULL OR o.k IS NULL;
SELECT count(*) AS differ FROM with_trigger d FULL JOIN one_by_one o ON d = o WHERE d.k IS NULL OR o.k IS NULL;
SELECT count(*) AS differ FROM locked d FULL JOIN one_by_one o ON d = o WHERE d.k IS NULL OR o.k IS NULL;
SELECT count(*) AS differ FROM temporary d FULL JOIN one_by_one o ON d = o WHERE d.k IS NULL OR o.k IS NULL;
SELECT target, count(*) AS letters, count(*) FILTER (WHERE l.line_no IS NULL) AS differ
FROM etl_patterns.dead_letter x LEFT JOIN letter l USING (line_no, error_code, error_detail)
GROUP BY target ORDER BY target::text;

-- The indexes hold what the table holds.
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT count(*) = (SELECT count(*) FROM one_by_one) AS by_k FROM d WHERE k >= 0;
SELECT count(*) = (SELECT count(*) FROM one_by_one) AS by_u FROM d WHERE u >= 0;
SELECT count(*) = (SELECT count(*) FROM one_by_one) AS by_t FROM d WHERE t >= '';
SELECT count(*) = (SELECT count(*) FROM one_by_one) AS by_k FROM locked WHERE k >= 0;
SELECT count(*) = (SELECT count(*) FROM one_by_one) AS by_u FROM locked WHERE u >= 0;
SELECT count(*) = (SELECT count(*) FROM one_by_one) AS by_t FROM locked WHERE t >= '';
\i :end
