--
-- Indexes that are rebuilt after a load are those that were there before.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
CREATE TABLE t (id int PRIMARY KEY, a int, b text, c int4range, EXCLUDE USING gist (c WITH &&));
CREATE INDEX plain ON t (a);
CREATE INDEX expr ON t (lower(b), a DESC NULLS LAST) INCLUDE (id) WITH (fillfactor = 70);
CREATE INDEX partial ON t (b text_pattern_ops) WHERE a > 5;
CREATE INDEX hashed ON t USING hash (b);
CREATE UNIQUE INDEX uniq ON t (a, b);
COMMENT ON INDEX plain IS 'a comment';
CLUSTER t USING plain;
ALTER TABLE t REPLICA IDENTITY USING INDEX t_pkey;
CREATE VIEW state AS SELECT c.oid, c.relname, pg_get_indexdef(c.oid), i.indisvalid, i.indisready, i.indisclustered, c.relpersistence, c.reltablespace, obj_description(c.oid), c.reloptions
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = 't'::regclass;
CREATE TEMP TABLE was AS SELECT * FROM state;
CREATE TEMP TABLE was_node AS SELECT relname, relfilenode FROM pg_class WHERE oid IN (SELECT oid FROM was);
CREATE FUNCTION same() RETURNS text LANGUAGE sql AS $$ SELECT CASE WHEN count(*) = 0 THEN 'same' ELSE string_agg(x::text, E'\n') END
    FROM ((TABLE state EXCEPT TABLE was) UNION ALL (TABLE was EXCEPT TABLE state)) x $$;
CREATE FUNCTION rebuilt() RETURNS text LANGUAGE sql AS $$ SELECT string_agg(c.relname, ' ' ORDER BY c.relname COLLATE "C") FROM pg_class c JOIN was_node w USING (relname) WHERE w.relfilenode <> c.relfilenode $$;
-- Finds rows by the index; nothing when it lacks them.
CREATE FUNCTION by_index(condition text) RETURNS bigint LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = on AS
$$ DECLARE n bigint; BEGIN EXECUTE 'SELECT count(*) FROM t WHERE ' || condition INTO n; RETURN n; END $$;
SELECT file('t.csv', (SELECT E'id,a,b\n' || string_agg(i || ',' || i % 10 || ',B' || i, E'\n' ORDER BY i) || E'\n' FROM generate_series(1, 3000) i));

-- An error leaves all as it was.
SELECT file('bad.csv', E'id,a,b\n1,1,B1\nx,2,B2\n');
SELECT load('t', 'bad.csv', 'indexes => ''rebuild''');
SELECT same(), rebuilt();
BEGIN;
SELECT load('t', 't.csv', 'indexes => ''rebuild''');
SELECT by_index('a = 3'), by_index('lower(b) = ''b77'''), by_index('b = ''B77''');
ROLLBACK;
SELECT same(), rebuilt();
SELECT count(*) FROM t;

-- Rebuilt: others inside, the same outside, and they find what was loaded.
SELECT load('t', 't.csv', 'indexes => ''rebuild''');
SELECT same(), rebuilt();
SELECT by_index('a = 3'), by_index('lower(b) = ''b77'''), by_index('b = ''B77'''), by_index('a = 7 AND b LIKE ''B1%''');
SELECT detail -> 'indexes' FROM etl_patterns.run ORDER BY run_id DESC LIMIT 1;
-- Bad rows beside it, of every kind.
SELECT file('dl.csv', E'id,a,b\n1,1,dup\n5000,x,type\n5001,7,ok\n5002,7\n5003,3,B3\n');
SELECT load('t', 'dl.csv', 'indexes => ''rebuild'', on_error => ''dead_letter''');
SELECT letters('t');
SELECT by_index('b = ''ok'''), by_index('lower(b) = ''ok'''), by_index('a = 7');
SELECT same();

-- auto: a small file into a table is no reason to rebuild.
SELECT file('small.csv', E'id,a,b\n6000,1,small\n');
SELECT load('t', 'small.csv');
SELECT detail -> 'indexes' FROM etl_patterns.run ORDER BY run_id DESC LIMIT 1;
SELECT load('t', 'small.csv', 'force => true, on_conflict => ''skip'', indexes => ''rebuild''');
SELECT detail -> 'indexes' FROM etl_patterns.run ORDER BY run_id DESC LIMIT 1;
SELECT load('t', 'small.csv', 'force => true, indexes => ''keep'', on_error => ''skip''');
SELECT detail -> 'indexes' FROM etl_patterns.run ORDER BY run_id DESC LIMIT 1;
-- A large one into an empty table is.
TRUNCATE t;
SELECT file('large.csv', (SELECT E'id,a,b\n' || string_agg(i || ',' || i % 10 || ',' || repeat('x', 900) || i, E'\n' ORDER BY i) || E'\n' FROM generate_series(1, 10000) i));
SELECT load('t', 'large.csv');
SELECT detail -> 'indexes' FROM etl_patterns.run ORDER BY run_id DESC LIMIT 1;
SELECT same(), by_index('a = 3');
-- Where rebuilding cannot be.
CREATE TABLE p (a int, b int) PARTITION BY LIST (a);
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
CREATE INDEX ON p (b);
SELECT file('p.csv', E'a,b\n1,2\n');
SELECT load('p', 'p.csv', 'indexes => ''rebuild''');
CREATE TABLE trig (a int);
CREATE INDEX ON trig (a);
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER look BEFORE INSERT ON trig FOR EACH ROW EXECUTE FUNCTION look();
SELECT file('trig.csv', E'a\n1\n');
SELECT load('trig', 'trig.csv', 'indexes => ''rebuild''');
CREATE TABLE bare (a int);
SELECT load('bare', 'trig.csv', 'indexes => ''rebuild''');
-- A leaf has its own.
SELECT file('p2.csv', E'a,b\n1,3\n');
SELECT load('p1', 'p2.csv', 'indexes => ''rebuild''');
SELECT detail -> 'indexes' FROM etl_patterns.run ORDER BY run_id DESC LIMIT 1;
SET enable_seqscan = off;
SELECT * FROM p WHERE b = 3;
RESET enable_seqscan;
-- While a query of this session reads the table.
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM t;
FETCH 1 FROM c;
SELECT file('cur.csv', E'id,a,b\n99999,1,cursor\n');
SELECT load('t', 'cur.csv', 'indexes => ''rebuild''');
COMMIT;
-- Temporary and unlogged tables; a default that reads the table while it is loaded.
CREATE TEMP TABLE tmp (a int);
CREATE INDEX ON tmp (a);
CREATE UNLOGGED TABLE unl (a int);
CREATE INDEX ON unl (a);
SELECT r, load(r, 'trig.csv', 'indexes => ''rebuild''') FROM unnest('{tmp,unl}'::text[]) r;
CREATE TABLE seen (a int, n bigint);
CREATE INDEX ON seen (a);
CREATE FUNCTION count_seen() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT count(*) FROM seen WHERE a >= 0); END $$;
ALTER TABLE seen ALTER n SET DEFAULT count_seen();
SELECT file('seen.csv', E'a\n1\n2\n3\n');
SET enable_seqscan = off;
SELECT load('seen', 'seen.csv', 'indexes => ''keep''');
SELECT load('seen', 'seen.csv', 'indexes => ''rebuild'', force => true');
SELECT * FROM seen;
RESET enable_seqscan;
\i :end
