--
-- Unique indexes that are left out of a load: the same rows land, and the
-- others are rejected for the same reason, as where they are maintained.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
-- What became of the letters of a target, in their order.
CREATE FUNCTION told(of_target regclass) RETURNS text[] LANGUAGE sql AS $$
    SELECT array_agg(ROW(line_no, row_no, byte_offset, category, error_code, column_name, field_value,
        error_message, error_detail, raw_record)::text ORDER BY dead_letter_id)
    FROM etl_patterns.dead_letter WHERE target = of_target
$$;
CREATE FUNCTION nodes(of_table regclass) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT relname || ' ' || relfilenode FROM pg_class JOIN pg_index ON oid = indexrelid WHERE indrelid = of_table
$$;
CREATE FUNCTION two_ways(name text, options text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    kept text[];
    built text[];
    was text[];
    n bigint;
BEGIN
    -- so that the names of indexes are the same, too
    CREATE SCHEMA other;
    EXECUTE 'CREATE TABLE other.t (LIKE t INCLUDING ALL)';
    INSERT INTO other.t SELECT * FROM t;
    was := ARRAY(SELECT nodes('t'));
    built := ARRAY(SELECT load('t', name, options || ', indexes => ''rebuild'''));
    kept := ARRAY(SELECT load('other.t', name, options || ', indexes => ''keep'''));
    was := ARRAY(SELECT split_part(x, ' ', 1) FROM unnest(was) x WHERE x <> ALL (ARRAY(SELECT nodes('t'))) ORDER BY 1);
    RETURN QUERY SELECT unnest(built);
    RETURN NEXT 'built: ' || array_to_string(was, ' ');
    IF kept <> built THEN
        RETURN NEXT 'kept: ' || array_to_string(kept, E'\n');
    END IF;
    SELECT count(*) INTO n FROM ((TABLE t EXCEPT ALL TABLE other.t) UNION ALL (TABLE other.t EXCEPT ALL TABLE t)) x;
    RETURN NEXT n || ' rows differ of ' || (SELECT count(*) FROM t) || ', letters '
        || CASE WHEN told('t') IS NOT DISTINCT FROM told('other.t') THEN 'are the same: ' ELSE 'differ: ' END
        || coalesce(cardinality(told('t')), 0);
    DELETE FROM etl_patterns.dead_letter WHERE target IN ('t'::regclass, 'other.t'::regclass);
    DROP TABLE other.t;
    DROP SCHEMA other;
END $$;

-- Duplicates within a batch and across batches, and bad rows between them.
CREATE TABLE input AS
    SELECT i, abs(hashint4(i)) % 4000 AS k, abs(hashint4(i + 10000)) % 6000 AS u, i % 97 = 0 AS bad
    FROM generate_series(1, 6000) i;
SELECT file('d.csv', string_agg(format(E'%s,%s,%s\n', k, CASE WHEN bad THEN 'x' ELSE u::text END, 'row ' || i), '' ORDER BY i)) FROM input;
CREATE TABLE t (k int PRIMARY KEY, u int, t text);
SELECT two_ways('d.csv', 'header => ''none'', on_error => ''dead_letter''');
-- Onto rows that are there, of which some have gone, with two more indexes.
CREATE INDEX t_t_idx ON t (t);
CREATE INDEX t_u_idx ON t (u);
DELETE FROM t WHERE k % 3 = 0;
SELECT two_ways('d.csv', 'header => ''none'', on_error => ''dead_letter'', force => true');
-- Two constraints: the first one that is violated is named.
TRUNCATE t;
ALTER TABLE t ADD UNIQUE (u), ADD UNIQUE (t, u) INCLUDE (k);
SELECT two_ways('d.csv', 'header => ''none'', on_error => ''skip'', force => true');
TRUNCATE t;
SELECT two_ways('d.csv', 'header => ''none'', on_error => ''dead_letter'', force => true');
-- The first error ends a load.
TRUNCATE t;
SELECT two_ways('d.csv', 'header => ''none'', force => true');
SELECT file('dup.csv', (SELECT string_agg(format(E'%s,%s,x\n', i % 1500, i), '' ORDER BY i) FROM generate_series(1, 1600) i));
SELECT two_ways('dup.csv', 'header => ''none'', force => true');
SELECT file('null.csv', E'1,1,a\n1,2,b\n,3,c\n');
SELECT two_ways('null.csv', 'header => ''none'', force => true');
-- One limit, one message.
SELECT two_ways('d.csv', 'header => ''none'', on_error => ''dead_letter'', reject_limit => 1000, force => true');

-- What is equal: NULL or not, numbers with zeros, collations.
DROP TABLE t;
CREATE TABLE t (a numeric, b text COLLATE "C", c timestamptz, UNIQUE (a, b), UNIQUE NULLS NOT DISTINCT (b, c));
SELECT file('equal.csv', E'1,a,2026-01-01 00:00:00+00\n1.00,a,2026-01-02 00:00:00+00\n1.000,A,2026-01-01 00:00:00+00\n,a,2026-01-03 00:00:00+00\n,a,2026-01-04 00:00:00+00\n2,b,\n3,b,\n4,,\n5,,\n6,a,2026-01-01 01:00:00+01\n');
SELECT two_ways('equal.csv', 'header => ''none'', on_error => ''dead_letter''');
SELECT * FROM t ORDER BY c, a;

-- A key that is too long for an index costs its row, and the others go on.
DROP TABLE t;
CREATE TABLE t (a text PRIMARY KEY, b int);
CREATE INDEX t_b_idx ON t (b);
SELECT file('long.csv', (SELECT string_agg(format(E'%s,%s\n', CASE WHEN i % 1700 = 0
        THEN (SELECT string_agg(md5((i * n)::text), '') FROM generate_series(1, 100) n) ELSE 'key ' || i % 5000 END, i), '' ORDER BY i)
    FROM generate_series(1, 6000) i));
CREATE FUNCTION try_long() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT regexp_replace(x, 'key |\(\d+,\d+\)', '', 'g') FROM two_ways('long.csv', 'header => ''none'', on_error => ''skip''') x
$$;
SELECT try_long();
SELECT count(*), count(*) FILTER (WHERE length(a) > 100) FROM t;
-- A duplicate of a row that could not be written is none.
DROP TABLE t;
CREATE TABLE t (k int PRIMARY KEY, a text);
ALTER TABLE t ALTER a SET STORAGE PLAIN;
SELECT file('plain.csv', (SELECT string_agg(format(E'%s,%s\n', i % 5, repeat('x', CASE WHEN i < 3 OR i = 7 THEN 9000 ELSE 3000 END)), '' ORDER BY i) FROM generate_series(1, 12) i));
SELECT two_ways('plain.csv', 'header => ''none'', on_error => ''dead_letter''');
SELECT k, length(a) FROM t ORDER BY k;

-- When the memory is used up the unique indexes are built, and maintained from then on.
SET maintenance_work_mem = '1MB';
DROP TABLE t;
CREATE TABLE t (k int PRIMARY KEY, u int);
CREATE INDEX t_u_idx ON t (u);
SELECT file('many.csv', string_agg(format(E'%s,%s\n', CASE WHEN i % 1000 = 0 THEN abs(hashint4(i)) % i ELSE i END, i), '' ORDER BY i)) FROM generate_series(1, 150000) i;
SELECT two_ways('many.csv', 'header => ''none'', on_error => ''dead_letter''');
-- The table is too large from the beginning.
SELECT file('more.csv', E'1,1\n150001,1\n150001,2\n');
SELECT two_ways('more.csv', 'header => ''none'', on_error => ''dead_letter''');
RESET maintenance_work_mem;
SET enable_seqscan = off;
SELECT count(*) FROM t WHERE k > 0;
SELECT count(*) FROM t WHERE u > 0;
RESET enable_seqscan;

-- Where something else decides about rows, too, unique indexes are maintained.
DROP TABLE t;
CREATE TABLE t (k int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&));
CREATE INDEX t_r_idx ON t (r);
SELECT file('r.csv', E'1,"[1,3)"\n1,"[5,6)"\n2,"[2,4)"\n3,"[7,8)"\n');
SELECT two_ways('r.csv', 'header => ''none'', on_error => ''dead_letter''');
DROP TABLE t;
CREATE TABLE t (k int PRIMARY KEY, a int);
CREATE INDEX t_expr_idx ON t ((10 / a));
CREATE INDEX t_a_idx ON t (a);
SELECT file('expr.csv', E'1,5\n1,2\n2,0\n2,1\n');
SELECT two_ways('expr.csv', 'header => ''none'', on_error => ''dead_letter''');
DROP TABLE t;
CREATE TABLE t (k int, a int, UNIQUE (k) DEFERRABLE, UNIQUE (a));
CREATE INDEX t_ka_idx ON t (k, a);
SELECT two_ways('expr.csv', 'header => ''none'', on_error => ''dead_letter''');
-- Foreign keys reject rows that have claimed their key already.
DROP TABLE t;
CREATE TABLE parent (a int PRIMARY KEY);
INSERT INTO parent VALUES (1), (2);
CREATE TABLE t (k int PRIMARY KEY, a int REFERENCES parent);
CREATE INDEX t_a_idx ON t (a);
SELECT file('fk.csv', E'1,9\n1,1\n1,2\n2,2\n');
SELECT load('t', 'fk.csv', 'header => ''none'', on_error => ''dead_letter'', indexes => ''rebuild''');
SELECT letters('t');
SELECT load('t', 'fk.csv', 'header => ''none'', indexes => ''rebuild'', force => true');

-- A key that is too long for a BRIN index has it built before, too.
DROP TABLE t;
CREATE TABLE t (k int, b text);
CREATE INDEX t_b_idx ON t USING brin (b);
SELECT file('brin.csv', string_agg(CASE WHEN i = 50 THEN '50,' || (SELECT string_agg(md5((j * 7919)::text), '') FROM generate_series(1, 700) j) ELSE i || ',' || i END || E'\n', '' ORDER BY i)) FROM generate_series(1, 100) i;
SELECT load('t', 'brin.csv', 'header => ''none'', on_error => ''skip'', indexes => ''rebuild''');

-- Ranges of what has no hash.
DROP TABLE t;
CREATE TYPE bit_range AS RANGE (subtype = bit);
CREATE TABLE t (r bit_range UNIQUE);
SELECT file('bits.csv', E'"[0,1]"\n"[1,1]"\n"[0,1]"\n');
SELECT two_ways('bits.csv', 'header => ''none'', on_error => ''dead_letter''');

-- Too many hashes are equal: those of a bigint are half of it XOR the other.
DROP TABLE t;
CREATE TABLE t (k bigint PRIMARY KEY);
SELECT file('pairs.csv', string_agg(format(E'%s\n', (i::bigint << 32) | i), '' ORDER BY i) || E'0\n') FROM generate_series(0, 4999) i;
SELECT two_ways('pairs.csv', 'header => ''none'', on_error => ''dead_letter''');
-- They are so from the beginning.
SELECT file('pair.csv', E'0\n1\n1\n');
SELECT two_ways('pair.csv', 'header => ''none'', on_error => ''dead_letter''');
SET enable_seqscan = off;
SELECT count(*) FROM t WHERE k > 0;
RESET enable_seqscan;
\i :end
