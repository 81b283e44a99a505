--
-- Constraints and triggers: each row that breaks one is a dead letter, the others stay.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\set dl '''on_error => ''''dead_letter'''''''
\set sk '''on_error => ''''skip'''''''
-- NOT NULL, CHECK, domains, unique, exclusion, foreign key in one table.
CREATE DOMAIN small AS int CHECK (VALUE < 100);
CREATE DOMAIN filled AS text NOT NULL;
CREATE TABLE parent (id int PRIMARY KEY);
INSERT INTO parent VALUES (1), (2);
CREATE TABLE t (id int PRIMARY KEY, n text NOT NULL, c int CHECK (c > 0), d small, f filled,
    p int REFERENCES parent, r int4range, EXCLUDE USING gist (r WITH &&));
SELECT file('t.csv', E'id,n,c,d,f,p,r\n'
    '1,ok,1,1,x,1,"[1,5)"\n'
    '2,,1,1,x,1,\n'
    '3,check,0,1,x,1,\n'
    '4,domain,1,100,x,1,\n'
    '5,filled,1,1,,1,\n'
    '1,duplicate,1,1,x,1,\n'
    '6,orphan,1,1,x,9,\n'
    '7,overlap,1,1,x,2,"[4,6)"\n'
    '8,range,1,1,x,2,"[6,4)"\n'
    ',key,1,1,x,2,\n'
    '9,ok,,,x,,\n'
    '99999999999,big,1,1,x,1,\n'
    '10,ok,5,5,x,2,"[10,20)"\n'
    '10,again,5,5,x,2,\n');
SELECT load('t', 't.csv');
SELECT load('t', 't.csv', :dl);
SELECT letters('t');
SELECT * FROM t ORDER BY id;
SELECT category, error_detail FROM etl_patterns.dead_letter WHERE error_detail IS NOT NULL ORDER BY line_no;
TRUNCATE t;
SELECT load('t', 't.csv', 'force => true, ' || :sk);
SELECT id FROM t ORDER BY id;
SELECT detail -> 'rejected', jsonb_array_length(detail -> 'first_rejects') FROM etl_patterns.run ORDER BY run_id DESC LIMIT 1;
TRUNCATE t;
-- One error each, with on_error => 'abort'.
SELECT file('e' || i || '.csv', E'id,n,c,d,f,p,r\n1,ok,1,1,x,1,"[1,5)"\n' || l || E'\n')
FROM unnest(ARRAY['2,,1,1,x,1,', '3,check,0,1,x,1,', '4,domain,1,100,x,1,', '5,filled,1,1,,1,', '1,duplicate,1,1,x,1,',
    '6,orphan,1,1,x,9,', '7,overlap,1,1,x,2,"[4,6)"', '8,range,1,1,x,2,"[6,4)"']) WITH ORDINALITY AS u (l, i);
SELECT i, load('t', 'e' || i || '.csv') FROM generate_series(1, 8) i;
SELECT count(*) FROM t;

-- References: within the file, from and to the same table, in either order.
CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree);
SELECT file('tree.csv', E'id,up\n1,\n2,1\n3,2\n4,5\n5,1\n6,99\n7,7\n8,6\n');
SELECT load('tree', 'tree.csv');
SELECT load('tree', 'tree.csv', :dl);
SELECT letters('tree');
SELECT * FROM tree ORDER BY id;
-- With letters each row is checked when it is written, not at the end as by
-- COPY: what comes before its parent is a letter, and goes in when replayed.
SELECT * FROM etl_dead_letter_replay('tree');
SELECT * FROM tree ORDER BY id;

-- Deferred constraints wait for COMMIT; immediate ones of a deferrable kind do not.
CREATE TABLE def_unique (id int UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE imm_unique (id int UNIQUE DEFERRABLE INITIALLY IMMEDIATE);
CREATE TABLE def_fk (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
SELECT file('dup.csv', E'id\n1\n1\n3\n');
SELECT load('imm_unique', 'dup.csv', :dl);
SELECT letters('imm_unique');
SELECT * FROM imm_unique ORDER BY id;
SELECT r, load(r, 'dup.csv', :dl) FROM unnest('{def_unique,def_fk}'::text[]) r;
SELECT count(*) FROM def_unique;
SELECT count(*) FROM def_fk;
BEGIN;
SELECT load('def_fk', 'dup.csv', :dl);
INSERT INTO parent VALUES (3);
COMMIT;
SELECT count(*) FROM def_fk;

-- Triggers.
CREATE TABLE trig (a int, b text);
CREATE TABLE log (op text, a int);
CREATE FUNCTION trig_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO log VALUES (TG_WHEN || ' ' || TG_LEVEL, CASE TG_LEVEL WHEN 'ROW' THEN NEW.a END);
    IF TG_LEVEL = 'STATEMENT' THEN RETURN NULL; END IF;
    IF NEW.b = 'raise ' || lower(TG_WHEN) THEN RAISE 'refused %', NEW.a USING ERRCODE = 'ETL01'; END IF;
    IF NEW.b = 'null' THEN RETURN NULL; END IF;
    IF NEW.b = 'mend' AND TG_WHEN = 'BEFORE' THEN NEW.b := 'mended'; END IF;
    RETURN NEW; END $$;
CREATE TRIGGER a_before BEFORE INSERT ON trig FOR EACH ROW EXECUTE FUNCTION trig_row();
CREATE TRIGGER b_after AFTER INSERT ON trig FOR EACH ROW EXECUTE FUNCTION trig_row();
CREATE TRIGGER c_before BEFORE INSERT ON trig FOR EACH STATEMENT EXECUTE FUNCTION trig_row();
CREATE TRIGGER d_after AFTER INSERT ON trig FOR EACH STATEMENT EXECUTE FUNCTION trig_row();
SELECT file('trig.csv', E'a,b\n1,x\n2,raise before\n3,null\n4,mend\n5,raise after\n6,x\n');
SELECT load('trig', 'trig.csv', :dl);
SELECT letters('trig');
SELECT * FROM trig ORDER BY a;
-- What a rejected row's triggers did is undone, once for each other row.
SELECT * FROM log;
SELECT rows_read, rows_inserted, rows_unchanged, rows_rejected FROM etl_patterns.run ORDER BY run_id DESC LIMIT 1;
SELECT load('trig', 'trig.csv', 'force => true');

-- Transition tables see the rows that were loaded.
CREATE TABLE trans (a int CHECK (a <> 2));
CREATE FUNCTION trans_all() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO log SELECT 'sum', sum(a) FROM new_rows; RETURN NULL; END $$;
CREATE TRIGGER trans_all AFTER INSERT ON trans REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION trans_all();
SELECT file('trans.csv', E'a\n1\n2\n3\nx\n4\n');
TRUNCATE log;
SELECT load('trans', 'trans.csv', :dl);
SELECT sum(a) FROM log;

-- A row that a deferred trigger refuses spoils the transaction.
CREATE TABLE late (a int);
CREATE FUNCTION late_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'too late'; END $$;
CREATE CONSTRAINT TRIGGER late_refuse AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.a = 3) EXECUTE FUNCTION late_refuse();
SELECT file('late.csv', E'a\n1\n3\n');
SELECT files_loaded FROM etl_bulk_copy('late', place('late.csv'), on_error => 'dead_letter');
SELECT count(*) FROM late;
SELECT count(*) FROM etl_patterns.loaded_file WHERE target = 'late'::regclass;

-- A session goes on after each of these, inside a block too.
BEGIN;
SAVEPOINT s;
SELECT load('t', 'e1.csv');
SELECT load('t', 'e1.csv', :dl);
ROLLBACK TO s;
SELECT load('t', 'e2.csv', :dl);
COMMIT;
SELECT id FROM t;
SELECT sum(rows_read) = sum(rows_inserted + rows_updated + rows_unchanged + rows_rejected) AS add_up FROM etl_patterns.run;

-- A row that no page can hold, in tables that have nowhere else to put it.
DO $$ BEGIN EXECUTE 'CREATE TABLE many (' || (SELECT string_agg('c' || i || ' bigint', ', ') FROM generate_series(1, 1100) i) || ')'; END $$;
SELECT file('many.csv', string_agg((SELECT string_agg(CASE WHEN row = 2 OR i < 5 THEN '1' ELSE '' END, ',') FROM generate_series(1, 1100) i) || E'\n', '' ORDER BY row)) FROM generate_series(1, 3) row;
SELECT load('many', 'many.csv', 'header => ''none'', on_error => ''skip''');
CREATE TABLE queries (id int PRIMARY KEY, q tsquery);
SELECT file('queries.csv', string_agg(id || ',' || CASE WHEN id = 2 THEN (SELECT string_agg('w' || i, ' | ') FROM generate_series(1, 1000) i) ELSE 'w' END || E'\n', '' ORDER BY id)) FROM generate_series(1, 3) id;
SELECT load('queries', 'queries.csv', 'header => ''none'', on_error => ''skip'', indexes => ''rebuild''');
SELECT id FROM queries;
\i :end
