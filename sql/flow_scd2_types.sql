--
-- What a change is, type by type, and what can be a key.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set scd2 :abs_srcdir '/sql/include/scd2.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\i :scd2
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE TYPE odd AS (a int, j json);
CREATE TYPE span AS RANGE (subtype = int);
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
-- Merges each value in turn: the versions that begin, by value.
CREATE FUNCTION changes(type text, VARIADIC vals text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text := format('%s:', type);
    outcome text;
BEGIN
    DROP TABLE IF EXISTS s, d;
    EXECUTE format('CREATE TABLE s (k int, v %s)', type);
    EXECUTE format('CREATE TABLE d (k int, v %s, valid_from int, valid_to int, is_current boolean)', type);
    FOR i IN 1 .. cardinality(vals) LOOP
        DELETE FROM s;
        EXECUTE format('INSERT INTO s VALUES (1, %L)', vals[i]);
        SELECT string_agg(o, ' ') INTO outcome FROM scd2('d', 's', format('effective_at => %L', i)) AS o;
        result := result || format(' %s %s', left(coalesce(vals[i], 'NULL'), 40),
            CASE outcome WHEN '1 rows_read, 1 inserted' THEN 'new;' WHEN '1 rows_read, 1 opened, 1 closed' THEN 'changed;'
            WHEN '1 rows_read, 1 unchanged' THEN 'same;' ELSE outcome END);
    END LOOP;
    RETURN result;
END $$;
SET client_min_messages = warning;
SELECT changes('int', '1', '1', NULL, NULL, '1', '0', '-1');
SELECT changes('numeric', '1.0', '1.00', '1', '1.000000000000000000001', 'NaN', 'NaN', 'Infinity', '0', '-0.0');
SELECT changes('numeric(5,2)', '1.004', '1.0', '1.005');
SELECT changes('float8', '0', '-0', 'NaN', 'NaN', '1', '1.0000000000000001', '1.0000000000000002', 'Infinity', '-Infinity');
SELECT changes('float4', '0', '-0', 'NaN', 'NaN', '0.1', '0.10000001');
SELECT changes('text', 'a', 'A', 'a ', '', NULL, '', 'ä', 'ä');
SELECT changes('text COLLATE nocase', 'a', 'A', 'b', 'B');
SELECT changes('char(4)', 'a', 'a  ', 'b');
SELECT changes('varchar(4)', 'a', 'a  ', 'a');
SELECT changes('name', 'a', 'a', 'b');
SELECT changes('"char"', 'a', 'a', 'b');
SELECT changes('bool', 't', 'true', 'f', NULL);
SELECT changes('bytea', '\x00', '\x00', '\x0000', '');
SELECT changes('bit varying', '1', '10', '10', '010');
SELECT changes('json', '{"a": 1}', '{"a":1}', '{"a":1}', '{"b": 2, "a": 1}', NULL);
SELECT changes('jsonb', '{"a": 1}', '{"a":1}', '{"b": 2, "a": 1}', '{"a": 1.0, "b": 2}', '{"a": 1.00, "b": 3}', 'null', NULL);
SELECT changes('xml', '<a/>', '<a/>', '<a></a>');
SELECT changes('point', '(1,2)', '(1, 2)', '(1,2.0000001)', '(1,2)');
SELECT changes('box', '(1,1),(0,0)', '(2,0.5),(0,0)', '(2,0.5),(0,0)');
SELECT changes('circle', '<(0,0),1>', '<(5,5),1>', '<(5,5),1>');
SELECT changes('polygon', '((0,0),(1,1),(2,0))', '((1,1),(2,0),(0,0))', '((0,0),(1,1),(3,0))');
SELECT changes('path', '[(0,0),(1,1)]', '[(5,0),(1,1)]', '((5,0),(1,1))');
SELECT changes('interval', '1 day', '24 hours', '1 mon', '30 days', '1 year');
SELECT changes('timestamptz', '2024-01-01 12:00+00', '2024-01-01 13:00+01', '2024-01-01 13:00+00', 'infinity', 'infinity');
SELECT changes('timetz', '12:00+00', '13:00+01', '12:00+00');
SELECT changes('date', '2024-01-01', '2024-01-01', 'infinity');
SELECT changes('inet', '10.0.0.1', '10.0.0.1/32', '10.0.0.0/8', '10.0.0.1/8');
SELECT changes('macaddr8', '08:00:2b:01:02:03:04:05', '08-00-2b-01-02-03-04-05', '08:00:2b:01:02:03:04:06');
SELECT changes('uuid', '11111111-1111-1111-1111-111111111111', '11111111111111111111111111111111', '11111111-1111-1111-1111-111111111112');
SELECT changes('mood', 'ok', 'ok', 'happy');
SELECT changes('positive', '1', '1', '2', NULL);
SELECT changes('int[]', '{1,NULL,2}', '{1,NULL,2}', '{1,2,NULL}', '[0:2]={1,2,NULL}', '{}', NULL, '{NULL}');
SELECT changes('numeric[]', '{1.0}', '{1.00}', '{{1}}');
SELECT changes('json[]', '{"{}"}', '{"{ }"}', '{"{ }"}');
SELECT changes('pair', '(1,a)', '(1,a)', '(1,)', '(,)', NULL, '(,)');
SELECT changes('pair[]', '{"(1,a)"}', '{"(1,a)"}', '{"(1,b)"}');
SELECT changes('odd', '(1,"{}")', '(1,"{}")', '(1,"{ }")');
SELECT changes('int4range', '[1,3)', '[1,2]', 'empty', '(1,1)');
SELECT changes('numrange', '[1.0,2]', '[1.00,2]', '[1.0,2)');
SELECT changes('span', '[1,3)', '[1,2]', '[1,3)');
SELECT changes('int4multirange', '{[1,3)}', '{[1,2),[2,3)}', '{}');
SELECT changes('tsvector', 'a b', 'b a', 'a:1');
SELECT changes('tsquery', 'a & b', 'a & b', 'b & a');
SELECT changes('pg_lsn', '0/1', '0/1', '0/2');
SELECT changes('tid', '(0,1)', '(0,1)', '(0,2)');
SELECT changes('xid', '1', '1', '2');
SELECT changes('oidvector', '1 2', '1 2', '1 3');
SELECT changes('regclass', 'pg_class', 'pg_class', 'pg_type');
SELECT changes('aclitem', 'postgres=r/postgres', 'postgres=r/postgres', 'postgres=rw/postgres');
SELECT changes('jsonpath', '$.a', '$.a', '$.b');
SELECT changes('bool[]', '{t}', '{t}', '{f}');

-- Large values, stored out of line, compressed or not, on either side.
DROP TABLE s, d;
CREATE TABLE s (k int, v text, w text);
CREATE TABLE d (k int, v text, w text, valid_from int, valid_to int, is_current boolean);
ALTER TABLE s ALTER v SET STORAGE EXTERNAL;
INSERT INTO s SELECT i, string_agg(md5((i * 1000 + n)::text), ''), repeat('x', 100000 * i) FROM generate_series(1, 3) i, generate_series(1, 2000) n GROUP BY i;
SELECT scd2('d', 's', $$effective_at => '1'$$);
SELECT scd2('d', 's', $$effective_at => '2'$$);
ALTER TABLE s ALTER v SET STORAGE MAIN, ALTER w SET STORAGE EXTERNAL;
UPDATE s SET v = v || '', w = w || '';
SELECT scd2('d', 's', $$effective_at => '3'$$);
-- The last byte differs; one is longer by a byte.
UPDATE s SET v = left(v, -1) || '-' WHERE k = 1;
UPDATE s SET w = w || 'x' WHERE k = 2;
SELECT scd2('d', 's', $$effective_at => '4'$$);
SELECT k, valid_from, length(v), length(w), right(v, 1) = '-', is_current FROM d ORDER BY k, valid_from;
-- A row whose other column changes keeps its large one.
UPDATE s SET w = NULL WHERE k = 3;
SELECT scd2('d', 's', $$effective_at => '5'$$);
SELECT count(*), count(DISTINCT md5(v)) FROM d WHERE k = 3;
SELECT * FROM verify('d');

-- Keys: each value once, and once more in another writing.
CREATE FUNCTION keys(type text, VARIADIC vals text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    outcome text;
    again text;
BEGIN
    DROP TABLE IF EXISTS s, d;
    EXECUTE format('CREATE TABLE s (k %s, v int)', type);
    EXECUTE format('CREATE TABLE d (k %s, v int, valid_from int, valid_to int, is_current boolean)', type);
    EXECUTE format('INSERT INTO s SELECT v::%s, 1 FROM unnest(%L::text[]) AS v', regexp_replace(type, ' COLLATE.*', ''), vals);
    SELECT string_agg(o, ' ') INTO outcome FROM scd2('d', 's', $_$effective_at => '1', duplicates => 'last'$_$) AS o;
    UPDATE s SET v = 2;
    SELECT string_agg(o, ' ') INTO again FROM scd2('d', 's', $_$effective_at => '2', duplicates => 'last'$_$) AS o;
    RETURN format('%s: %s; %s', type, outcome, again);
END $$;
SELECT keys('int', '1', '2', '-1');
SELECT keys('numeric', '1.0', '1.00', '1', '2');
SELECT keys('float8', '0', '-0', 'NaN', 'NaN', '1');
SELECT keys('text', 'a', 'A', 'a ', '');
SELECT keys('text COLLATE nocase', 'a', 'A', 'b');
SELECT keys('char(3)', 'a', 'a ', 'b');
SELECT keys('uuid', '11111111-1111-1111-1111-111111111111', '11111111111111111111111111111111');
SELECT keys('bytea', '\x00', '\x0000', '');
SELECT keys('timestamptz', '2024-01-01 12:00+00', '2024-01-01 13:00+01', 'infinity');
SELECT keys('interval', '1 day', '24 hours', '1 mon');
SELECT keys('bool', 't', 'f', 'true');
SELECT keys('inet', '10.0.0.1', '10.0.0.1/32');
SELECT keys('mood', 'ok', 'sad', 'ok');
SELECT keys('positive', '1', '2');
SELECT keys('int[]', '{1,NULL}', '{1,NULL}', '{}');
SELECT keys('pair', '(1,a)', '(1,a)', '(1,)');
SELECT keys('jsonb', '{"a":1}', '{"a": 1.0}');
SELECT keys('int4range', '[1,3)', '[1,2]');
SELECT keys('json', '{}');
SELECT keys('point', '(1,2)');
SELECT keys('money', '1');
SELECT keys('odd', '(1,"{}")');
SELECT keys('tsvector', 'a');
SELECT keys('bit(3)', '101', '101');
SELECT keys('xid', '1', '2', '1');
SELECT keys('tid', '(0,1)', '(0,2)');
SELECT keys('circle', '<(0,0),1>');
-- A key is written as it was first, of equal ones.
SELECT keys('numeric', '1.0');
UPDATE s SET k = 1.000, v = 3;
SELECT scd2('d', 's', $$effective_at => '3'$$);
SELECT * FROM d ORDER BY valid_from;
-- A key of three, given in another order than that of the columns.
DROP TABLE s, d;
CREATE TABLE s (v int, a int, b text, c date);
CREATE TABLE d (a int, b text, c date, v int, valid_from int, valid_to int, is_current boolean);
INSERT INTO s SELECT 1, a, b, c FROM generate_series(1, 2) a, unnest('{x,y}'::text[]) b, unnest('{2024-01-01,2024-01-02}'::date[]) c;
SELECT scd2('d', 's', $$effective_at => '1'$$, '{c,a,b}');
UPDATE s SET v = 2 WHERE a = 1 AND b = 'x';
DELETE FROM s WHERE a = 2 AND b = 'y' AND c = '2024-01-01';
SELECT scd2('d', 's', $$effective_at => '2', absent => 'close'$$, '{b,c,a}');
SELECT * FROM d WHERE valid_from = 2 OR valid_to = 2 ORDER BY a, b, c, valid_from;
SELECT * FROM verify('d', '', '{a,b,c}');

-- Columns of other types in the source: what an assignment does.
DROP TABLE s, d;
CREATE DOMAIN short AS varchar(3);
CREATE DOMAIN filled AS text NOT NULL;
CREATE TABLE s (k int, v text);
CREATE TABLE d (k bigint, v text, valid_from int, valid_to int, is_current boolean);
CREATE FUNCTION cast_of(source text, value text, target text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('DROP TABLE s; CREATE TABLE s (k int, v %s)', source);
    EXECUTE format('DROP TABLE d; CREATE TABLE d (k bigint, v %s, valid_from int, valid_to int, is_current boolean)', target);
    EXECUTE format('INSERT INTO s VALUES (1, %L)', value);
    RETURN QUERY SELECT format('%s to %s: %s', source, target, o) FROM scd2('d', 's', $_$effective_at => '1'$_$) AS o;
    RETURN QUERY SELECT format('    %L', d.v) FROM d;
    RETURN QUERY SELECT format('again %s', o) FROM scd2('d', 's', $_$effective_at => '2'$_$) AS o WHERE EXISTS (SELECT FROM d);
END $$;
SELECT cast_of('int', '1', 'bigint');
SELECT cast_of('bigint', '5000000000', 'int');
SELECT cast_of('text', '1', 'int');
SELECT cast_of('int', '1', 'text');
SELECT cast_of('text', 'abcd', 'varchar(3)');
SELECT cast_of('varchar(9)', 'abcd', 'varchar(3)');
SELECT cast_of('varchar(9)', 'abc   ', 'varchar(3)');
SELECT cast_of('text', 'ab', 'char(3)');
SELECT cast_of('char(3)', 'ab', 'text');
SELECT cast_of('text', 'abcd', 'short');
SELECT cast_of('varchar(9)', 'abcd', 'short');
SELECT cast_of('text', 'abc', 'short');
SELECT cast_of('short', 'abc', 'text');
SELECT cast_of('numeric', '1.25', 'numeric(3,1)');
SELECT cast_of('numeric', '999.96', 'numeric(4,1)');
SELECT cast_of('numeric', '1.5', 'int');
SELECT cast_of('float8', '0.1', 'numeric');
SELECT cast_of('int', '0', 'positive');
SELECT cast_of('int', '3', 'positive');
SELECT cast_of('positive', '3', 'int');
SELECT cast_of('timestamp', '2024-01-01 12:00:00.6', 'timestamp(0)');
SELECT cast_of('timestamp', '2024-01-01 12:00', 'date');
SELECT cast_of('date', '2024-01-01', 'timestamptz');
SELECT cast_of('bit(3)', '101', 'bit(4)');
SELECT cast_of('bit varying', '10111', 'bit varying(4)');
SELECT cast_of('json', '{"a": 1}', 'jsonb');
SELECT cast_of('jsonb', '{"a": 1}', 'text');
SELECT cast_of('int[]', '{1}', 'bigint[]');
SELECT cast_of('text[]', '{abcd}', 'varchar(3)[]');
SELECT cast_of('varchar[]', '{abc,NULL}', 'varchar(3)[]');
SELECT cast_of('varchar[]', '{abc,abcd}', 'varchar(3)[]');
SELECT cast_of('text[]', '{abcd}', 'short[]');
SELECT cast_of('text[]', '{abc}', 'short[]');
SELECT cast_of('text[]', '{1}', 'int[]');
SELECT cast_of('text', NULL, 'filled');
SELECT cast_of('filled', 'x', 'filled');
SELECT cast_of('mood', 'ok', 'text');
SELECT cast_of('text', 'ok', 'mood');
SELECT cast_of('interval', '1 day 02:03', 'interval day');
-- By way of the log of changes, too.
DROP TABLE s, d;
CREATE TABLE s (k int, v text, a text[], at timestamp);
CREATE TABLE d (k int, v short, a varchar(3)[], valid_from timestamp(0), valid_to timestamp(0), is_current boolean);
INSERT INTO s VALUES (1, 'abc', '{abc}', '2024-01-01 10:00:00.6'), (1, 'b', NULL, '2024-01-01 10:00:02');
SELECT scd2('d', 's', $$sequence_by => 'at', change_log => true$$);
UPDATE s SET v = 'c', at = '2024-01-01 10:00:03.5' WHERE v = 'b';
SELECT scd2('d', 's', $$sequence_by => 'at', change_log => true$$);
SELECT v, a, valid_from::time, valid_to::time FROM d ORDER BY valid_from;
UPDATE s SET v = 'abcd' WHERE v = 'c';
SELECT scd2('d', 's', $$sequence_by => 'at', change_log => true$$);
UPDATE s SET at = 'infinity';
SELECT scd2('d', 's', $$sequence_by => 'at', change_log => true$$);
\i :end
