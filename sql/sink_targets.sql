--
-- What a load can write into: what INSERT can, and a clear word otherwise.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
SELECT file('t.csv', E'a,b\n1,one\n2,two\nx,bad\n3,three\n');
SELECT file('good.csv', E'a,b\n1,one\n2,two\n');
\set dl '''on_error => ''''dead_letter'''''''
CREATE TABLE t (a int, b text);

-- Not targets at all.
CREATE MATERIALIZED VIEW mv AS SELECT * FROM t;
CREATE SEQUENCE seq;
CREATE INDEX idx ON t (a);
CREATE TYPE comp AS (a int, b text);
CREATE TABLE parted (a int, b text) PARTITION BY LIST (a);
CREATE INDEX parted_idx ON parted (a);
SELECT r, load(r, 'good.csv') FROM unnest('{mv,seq,idx,comp,parted_idx,pg_class,pg_catalog.pg_type,information_schema.tables}'::text[]) r;
SELECT try($$SELECT * FROM etl_bulk_copy('nope', '/x')$$);
SELECT load('etl_patterns.run', 'good.csv');
SELECT load('pg_toast.pg_toast_1255', 'good.csv');

-- Tables of all sorts.
CREATE TEMP TABLE tmp (a int, b text);
CREATE UNLOGGED TABLE unlogged (a int, b text);
CREATE TABLE child (c int DEFAULT 7) INHERITS (t);
SELECT r, load(r, 't.csv', :dl) FROM unnest('{tmp,unlogged,child}'::text[]) r;
SELECT * FROM tmp ORDER BY a;
SELECT * FROM unlogged ORDER BY a;
SELECT * FROM child ORDER BY a;
CREATE TYPE typ AS (a int, b text);
CREATE TABLE typed OF typ;
SELECT load('typed', 't.csv', :dl);
CREATE TEMP TABLE gone (a int, b text) ON COMMIT DELETE ROWS;
BEGIN;
SELECT load('gone', 'good.csv');
SELECT count(*) FROM gone;
COMMIT;
SELECT count(*) FROM gone;

-- Partitions: a row without one is a dead letter; the sorting is by row.
CREATE TABLE p (a int, b text) PARTITION BY RANGE (a);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 (b text NOT NULL, junk int, a int);
ALTER TABLE p2 DROP COLUMN junk;
ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20);
CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (20) TO (30) PARTITION BY LIST (b);
CREATE TABLE p3x PARTITION OF p3 FOR VALUES IN ('x');
SELECT file('p.csv', E'a,b\n1,one\n11,eleven\n12,\n21,x\n22,y\n99,far\n,null\n13,last\nx,bad\n');
SELECT load('p', 'p.csv');
SELECT load('p', 'p.csv', :dl);
SELECT tableoid::regclass, * FROM p ORDER BY a;
SELECT letters('p');
-- A leaf keeps its partition's bounds.
SELECT load('p1', 'p.csv', :dl);
SELECT letters('p1');
SELECT load('p2', 'p.csv', 'columns => ''{b,a}'', header => ''match'', ' || :dl);
SELECT letters('p2');
SELECT load('p3x', 'p.csv');
SELECT count(*) FROM p;
SELECT load('parted', 'good.csv', :dl);

-- Views.
CREATE VIEW auto AS SELECT a, b FROM t WHERE a < 3;
CREATE VIEW checked AS SELECT a, b FROM t WHERE a < 3 WITH CHECK OPTION;
CREATE VIEW fixed AS SELECT a, max(b) AS b FROM t GROUP BY a;
CREATE VIEW instead AS SELECT a, b FROM t WHERE false UNION ALL SELECT NULL, NULL WHERE false;
CREATE FUNCTION instead_row() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF NEW.a = 3 THEN RAISE 'three is refused' USING ERRCODE = 'ETL03'; END IF;
   IF NEW.a = 2 THEN RETURN NULL; END IF;
   INSERT INTO t VALUES (NEW.a + 100, NEW.b); RETURN NEW; END $$;
CREATE TRIGGER instead_row INSTEAD OF INSERT ON instead FOR EACH ROW EXECUTE FUNCTION instead_row();
SELECT load('auto', 't.csv');
SELECT load('auto', 't.csv', :dl);
SELECT letters('auto');
SELECT load('checked', 't.csv', :dl);
SELECT letters('checked');
SELECT load('fixed', 't.csv', :dl);
SELECT load('instead', 't.csv', :dl);
SELECT letters('instead');
SELECT * FROM ONLY t ORDER BY a, b;
SELECT target, rows_read, rows_inserted, rows_unchanged, rows_rejected FROM etl_patterns.run WHERE target IN ('auto'::regclass, 'instead'::regclass) ORDER BY run_id;
-- A table's rules are passed over, as by COPY.
CREATE RULE nothing AS ON INSERT TO unlogged DO INSTEAD NOTHING;
SELECT load('unlogged', 'good.csv', 'force => true');
SELECT count(*) FROM unlogged;
-- Those of a view are not, and may make more rows than were read, or none.
CREATE TABLE twice (a int, b text);
CREATE VIEW ruled AS SELECT a, b FROM twice;
CREATE RULE double AS ON INSERT TO ruled DO INSTEAD INSERT INTO twice SELECT NEW.a, NEW.b FROM generate_series(1, 2);
SELECT load('ruled', 'good.csv');
SELECT load('ruled', 'good.csv', 'on_error => ''skip'', force => true');
SELECT count(*) FROM twice;
CREATE OR REPLACE RULE double AS ON INSERT TO ruled DO INSTEAD NOTHING;
SELECT load('ruled', 'good.csv', 'force => true');
SELECT rows_read, rows_inserted, rows_unchanged FROM etl_patterns.run WHERE target = 'ruled'::regclass ORDER BY run_id;

-- Foreign tables: what their wrapper can.
CREATE EXTENSION file_fdw;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE ft (a int, b text) SERVER files OPTIONS (filename '/nowhere');
SELECT load('ft', 'good.csv');
SELECT load('ft', 'good.csv', :dl);
SELECT load('ft', 'good.csv', 'on_conflict => ''skip'', keys => ''{a}''');
SELECT count(*) FROM etl_patterns.loaded_file WHERE target = 'ft'::regclass;
SET client_min_messages = warning;
DROP EXTENSION file_fdw CASCADE;
RESET client_min_messages;

-- Row security, for a role that it binds.
CREATE ROLE etl_bound;
GRANT pg_read_server_files TO etl_bound;
CREATE TABLE rls (a int, b text);
ALTER TABLE rls ENABLE ROW LEVEL SECURITY;
CREATE POLICY small ON rls FOR INSERT WITH CHECK (a < 3);
CREATE POLICY own ON rls FOR SELECT USING (b <> 'two');
GRANT INSERT, SELECT ON rls TO etl_bound;
SET ROLE etl_bound;
SELECT load('rls', 't.csv');
SELECT load('rls', 't.csv', :dl);
SELECT letters('rls');
SELECT * FROM rls ORDER BY a;
RESET ROLE;
SELECT * FROM rls ORDER BY a;
DROP OWNED BY etl_bound;
DROP ROLE etl_bound;
SELECT sum(rows_read) = sum(rows_inserted + rows_updated + rows_unchanged + rows_rejected) AS add_up FROM etl_patterns.run;
\i :end
