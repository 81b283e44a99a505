--
-- What etl_scd2_merge() can read from and write into.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set scd2 :abs_srcdir '/sql/include/scd2.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\i :scd2
CREATE TABLE s (k int, v text, at int, op text);
-- A little history, and more of it: opens, closes, corrects, deletes a version, weaves, revives.
CREATE FUNCTION history(target text, options text DEFAULT '') RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE s;
    INSERT INTO s VALUES (1, 'a', 10), (2, 'a', 10), (3, 'a', 10), (4, 'a', 10), (4, 'b', 20), (5, 'a', 10), (5, 'b', 20);
    RETURN QUERY SELECT scd2(target, 's', 'sequence_by => ''at'', delete_when => ''op = ''''D''''''' || options);
    TRUNCATE s;
    INSERT INTO s VALUES (1, 'b', 30, NULL), (2, 'a', 30, 'D'), (3, 'c', 10, NULL), (4, 'a', 20, NULL), (5, 'c', 15, NULL), (6, 'a', 30, NULL);
    RETURN QUERY SELECT scd2(target, 's', 'sequence_by => ''at'', delete_when => ''op = ''''D''''''' || options);
    TRUNCATE s;
    INSERT INTO s VALUES (2, 'b', 40, NULL), (6, NULL, 30, 'D'), (5, NULL, 15, 'D');
    RETURN QUERY SELECT scd2(target, 's', 'sequence_by => ''at'', delete_when => ''op = ''''D''''''' || options);
END $$;
CREATE FUNCTION lines(of_target text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT format(''%%s: %%s'', k, string_agg(format(''%%s[%%s,%%s)%%s'', v, valid_from, valid_to,'
        ' CASE WHEN is_current THEN ''*'' END), '' '' ORDER BY valid_from)) FROM %s GROUP BY k ORDER BY k', of_target);
    RETURN QUERY SELECT verify(of_target);
END $$;

-- The plain case, and columns that the table fills itself.
CREATE TABLE d (k int, v text, valid_from int, valid_to int, is_current boolean);
SELECT history('d');
SELECT lines('d');
CREATE TABLE own (sk bigserial PRIMARY KEY, made text DEFAULT 'made', gone int, k int NOT NULL, v text, len int GENERATED ALWAYS AS (length(v) + valid_from) STORED,
    valid_from int, valid_to int, is_current boolean, UNIQUE (k, valid_from), CHECK (valid_from < valid_to));
ALTER TABLE own DROP gone;
ALTER TABLE own ADD later int DEFAULT 7;
SELECT history('own');
SELECT lines('own');
SELECT count(DISTINCT sk) = count(*), bool_and(made = 'made'), bool_and(later = 7), bool_and(len IS NOT DISTINCT FROM length(v) + valid_from) FROM own;
-- A surrogate key stays with its version: 3 was corrected, 1 closed.
TRUNCATE own, s;
INSERT INTO s VALUES (1, 'a', 10), (3, 'a', 10);
SELECT etl_scd2_merge('own', 's', '{k}', sequence_by => 'at') IS NULL;
SELECT sk AS one FROM own WHERE k = 1 \gset
SELECT sk AS three FROM own WHERE k = 3 \gset
UPDATE s SET v = 'b', at = CASE k WHEN 1 THEN 20 ELSE 10 END;
SELECT scd2('own', 's', $$sequence_by => 'at'$$);
SELECT k, v, sk IN (:one, :three) FROM own ORDER BY k, valid_from;
-- A column of a unique constraint that lacks the merge's keys gets its default for each version; others are kept.
CREATE SEQUENCE numbers;
CREATE TABLE uni (k int, v text, valid_from int, valid_to int, is_current boolean, tenant int DEFAULT 1, no int DEFAULT nextval('numbers') UNIQUE,
    no2 int DEFAULT nextval('numbers'), note text DEFAULT 'x', PRIMARY KEY (tenant, k, valid_from), UNIQUE (no2, valid_from));
INSERT INTO uni VALUES (1, 'a', 10, NULL, true, 5);
UPDATE uni SET note = 'mine';
SELECT etl_scd2_merge('uni', 's', '{k}', sequence_by => 'at') IS NULL;
SELECT k, v, tenant, note, (SELECT count(DISTINCT no) + count(DISTINCT no2) FROM uni) FROM uni ORDER BY k, valid_from;
-- A value that violates a constraint: nothing is written, by whatever way.
CREATE TABLE strict (k int, v text NOT NULL CHECK (v <> 'c'), valid_from int, valid_to int, is_current boolean, UNIQUE (v, valid_from));
UPDATE s SET v = NULL WHERE k = 1;
SELECT scd2('strict', 's', $$sequence_by => 'at'$$);
UPDATE s SET v = 'c' WHERE k = 1;
SELECT scd2('strict', 's', $$sequence_by => 'at'$$);
UPDATE s SET v = 'b', at = 20;
SELECT scd2('strict', 's', $$sequence_by => 'at'$$);
SELECT count(*) FROM strict;
-- A generated column as a key, or in another role.
SELECT scd2('own', 's', $$sequence_by => 'at'$$, '{len}');
SELECT scd2('own', 's', $$sequence_by => 'at', tracked => '{len}'$$);
SELECT scd2('own', 's', $$sequence_by => 'at', valid_to => 'len'$$);
SELECT scd2('own', 's', $$sequence_by => 'at', valid_from => 'len', valid_to => 'len'$$);
CREATE TABLE flagged (k int, v text, valid_from int, valid_to int, is_current boolean GENERATED ALWAYS AS (valid_to IS NULL) STORED);
SELECT scd2('flagged', 's', $$sequence_by => 'at'$$);
SELECT scd2('flagged', 's', $$sequence_by => 'at', is_current => NULL$$);
SELECT * FROM flagged ORDER BY k;
-- A source with columns of the names of those that a merge fills: they mean nothing, except where they are named.
CREATE TABLE named_s (k int, v text, valid_from int, valid_to int, is_current boolean);
INSERT INTO named_s VALUES (1, 'b', 30, 5, NULL), (1, 'c', 35, 99, false);
SELECT scd2('flagged', 'named_s', $$sequence_by => 'valid_from', is_current => NULL$$);
SELECT * FROM flagged ORDER BY k, valid_from;

-- Row triggers.
CREATE TABLE log (line text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO log (line) VALUES (concat_ws(' ', TG_WHEN, TG_OP, OLD.k, OLD.v));
        RETURN OLD;
    END IF;
    INSERT INTO log (line) VALUES (concat_ws(' ', TG_WHEN, TG_OP, NEW.k, NEW.v, NEW.valid_to));
    IF TG_WHEN = 'BEFORE' AND TG_OP = 'INSERT' THEN
        NEW.v := upper(NEW.v);
    END IF;
    RETURN NEW;
END $$;
CREATE TABLE trig (LIKE d);
CREATE TRIGGER before_row BEFORE INSERT OR UPDATE OR DELETE ON trig FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER after_row AFTER INSERT OR UPDATE OR DELETE ON trig FOR EACH ROW EXECUTE FUNCTION note();
SELECT history('trig');
SELECT lines('trig');
SELECT line, count(*) FROM log GROUP BY line ORDER BY line;
-- One that keeps rows from being written.
CREATE FUNCTION drop_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TABLE dropped (LIKE d);
CREATE TRIGGER drop_row BEFORE INSERT ON dropped FOR EACH ROW WHEN (NEW.k = 1) EXECUTE FUNCTION drop_row();
SELECT history('dropped');
SELECT lines('dropped');
-- Statement triggers with the rows of the statement.
TRUNCATE log;
CREATE FUNCTION note_rows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO log (line) SELECT format('insert %s %s %s', k, v, valid_from) FROM new_rows;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO log (line) SELECT format('update %s %s %s', o.k, o.v, o.valid_to) FROM old_rows AS o;
        INSERT INTO log (line) SELECT format('    to %s %s %s', k, v, valid_to) FROM new_rows;
    ELSE
        INSERT INTO log (line) SELECT format('delete %s %s %s', k, v, valid_from) FROM old_rows;
    END IF;
    RETURN NULL;
END $$;
CREATE TABLE stat (LIKE d);
CREATE TRIGGER i AFTER INSERT ON stat REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION note_rows();
CREATE TRIGGER u AFTER UPDATE ON stat REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION note_rows();
CREATE TRIGGER d AFTER DELETE ON stat REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION note_rows();
SELECT history('stat');
SELECT lines('stat');
SELECT line FROM log ORDER BY line;
-- A rule.
CREATE TABLE ruled (LIKE d);
CREATE RULE also AS ON UPDATE TO ruled DO ALSO INSERT INTO log (line) VALUES ('rule');
SELECT history('ruled');
SELECT lines('ruled') INTERSECT SELECT lines('d') ORDER BY 1;

-- Foreign keys that point at the target, by the surrogate key and by key and start.
CREATE TABLE fact (sk bigint REFERENCES own);
CREATE TABLE fact2 (k int, at int, FOREIGN KEY (k, at) REFERENCES own (k, valid_from));
INSERT INTO fact SELECT sk FROM own;
INSERT INTO fact2 SELECT k, valid_from FROM own;
TRUNCATE s;
INSERT INTO s VALUES (1, 'x', 50), (3, 'y', 10);
SELECT scd2('own', 's', $$sequence_by => 'at'$$);
SELECT k, v, valid_from, valid_to FROM own ORDER BY k, valid_from;
-- A version that is referred to cannot go, nor begin earlier.
INSERT INTO s VALUES (3, NULL, 10, 'D');
SELECT scd2('own', 's', $$sequence_by => 'at', delete_when => 'op = ''D'''$$);
DELETE FROM s;
INSERT INTO s VALUES (3, 'y', 5);
SELECT scd2('own', 's', $$sequence_by => 'at'$$);
TRUNCATE fact2;
SELECT scd2('own', 's', $$sequence_by => 'at'$$);
SELECT k, v, valid_from, sk = :three FROM own WHERE k = 3;
DROP TABLE fact, fact2;
-- A foreign key of the target.
CREATE TABLE parent (v text PRIMARY KEY);
INSERT INTO parent VALUES ('a'), ('b');
CREATE TABLE refers (LIKE d, FOREIGN KEY (v) REFERENCES parent);
SELECT history('refers');
INSERT INTO parent VALUES ('c');
SELECT history('refers');
SELECT lines('refers') EXCEPT SELECT lines('d');

-- Row security: what cannot be seen is not there, and is not told.
CREATE ROLE etl_test_merge;
CREATE TABLE secure (LIKE d);
INSERT INTO secure VALUES (1, 'secret', 10, NULL, true), (2, 'open', 10, NULL, true);
ALTER TABLE secure ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON secure USING (v <> 'secret');
GRANT SELECT, INSERT, UPDATE, DELETE ON secure, s TO etl_test_merge;
TRUNCATE s;
INSERT INTO s VALUES (2, 'changed', 20), (3, 'new', 20);
SET ROLE etl_test_merge;
SELECT scd2('secure', 's', $$sequence_by => 'at', absent => 'close'$$);
RESET ROLE;
SELECT * FROM secure ORDER BY k, valid_from;
-- A row that is not let in.
INSERT INTO s VALUES (4, 'secret', 30);
SET ROLE etl_test_merge;
SELECT scd2('secure', 's', $$sequence_by => 'at'$$);
DELETE FROM s;
INSERT INTO s VALUES (1, 'mine', 5), (2, 'again', 30);
RESET ROLE;
ALTER TABLE secure ADD UNIQUE (k, valid_from);
UPDATE s SET at = 10 WHERE k = 1;
SET ROLE etl_test_merge;
SELECT scd2('secure', 's', $$sequence_by => 'at'$$);
RESET ROLE;
-- Row security of the source.
ALTER TABLE s ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON s USING (k = 2);
SET ROLE etl_test_merge;
SELECT scd2('secure', 's', $$sequence_by => 'at'$$);
RESET ROLE;
SELECT * FROM secure ORDER BY k, valid_from;
ALTER TABLE s DISABLE ROW LEVEL SECURITY;
-- Privileges.
REVOKE UPDATE ON secure FROM etl_test_merge;
SET ROLE etl_test_merge;
SELECT scd2('secure', 's', $$sequence_by => 'at'$$);
RESET ROLE;
GRANT UPDATE ON secure TO etl_test_merge;
REVOKE SELECT ON s FROM etl_test_merge;
SET ROLE etl_test_merge;
SELECT scd2('secure', 's', $$sequence_by => 'at'$$);
RESET ROLE;
GRANT SELECT (k, v, at) ON s TO etl_test_merge;
DELETE FROM s WHERE k = 1;
SET ROLE etl_test_merge;
SELECT scd2('secure', 's', $$sequence_by => 'at'$$);
SELECT scd2('secure', 's', $$sequence_by => 'at', delete_when => 'op = ''D'''$$);
RESET ROLE;

-- Partitions: by key, by start, by what is current; in the last two a version moves when it is closed or begins anew.
CREATE TABLE by_key (LIKE d) PARTITION BY HASH (k);
CREATE TABLE by_key_0 PARTITION OF by_key FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE by_key_1 (is_current boolean, gone text, valid_to int, valid_from int, v text, k int);
ALTER TABLE by_key_1 DROP gone;
ALTER TABLE by_key ATTACH PARTITION by_key_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE by_start (LIKE d) PARTITION BY RANGE (valid_from);
CREATE TABLE by_start_0 PARTITION OF by_start FOR VALUES FROM (MINVALUE) TO (15);
CREATE TABLE by_start_1 PARTITION OF by_start FOR VALUES FROM (15) TO (100);
CREATE TABLE by_current (LIKE d) PARTITION BY LIST (is_current);
CREATE TABLE by_current_t PARTITION OF by_current FOR VALUES IN (true);
CREATE TABLE by_current_f PARTITION OF by_current FOR VALUES IN (false);
SELECT r, history(r) FROM unnest('{by_key,by_start,by_current}'::text[]) AS r;
SELECT r, (SELECT count(*) FROM (SELECT lines(r) EXCEPT SELECT lines('d')) AS x) FROM unnest('{by_key,by_start,by_current}'::text[]) AS r;
SELECT is_current, count(*) FROM by_current_t GROUP BY 1 UNION ALL SELECT is_current, count(*) FROM by_current_f GROUP BY 1;
-- A row for which there is no partition.
TRUNCATE s;
INSERT INTO s VALUES (1, 'far', 1000);
SELECT scd2('by_start', 's', $$sequence_by => 'at'$$);
-- Absence and overwriting, across partitions; what is overwritten everywhere makes neighbours equal.
SELECT scd2('by_current', 's', $$sequence_by => 'at', absent => 'close', overwrite => '{v}'$$);
SELECT lines('by_current');
-- A partition alone.
TRUNCATE by_start;
INSERT INTO s VALUES (2, 'near', 14);
SELECT scd2('by_start_0', 's', $$sequence_by => 'at'$$);

-- Inheritance: rows of the children are rows of the table; new ones go to the parent.
CREATE TABLE parent_d (LIKE d);
CREATE TABLE child_d (extra int DEFAULT 9) INHERITS (parent_d);
INSERT INTO child_d VALUES (1, 'old', 1, NULL, true, 5);
SELECT history('parent_d');
SELECT * FROM child_d;
SELECT lines('parent_d');

-- Views: one with triggers, one that PostgreSQL updates itself, one that cannot be.
CREATE TABLE base (LIKE d);
CREATE VIEW auto AS SELECT k, v, valid_from, valid_to, is_current FROM base WHERE k < 100 WITH CHECK OPTION;
SELECT history('auto');
SELECT lines('auto') EXCEPT SELECT lines('d');
TRUNCATE s;
INSERT INTO s VALUES (100, 'out', 1);
SELECT scd2('auto', 's', $$sequence_by => 'at'$$);
CREATE TABLE far (kk int, vv text, f int, t int);
CREATE VIEW instead AS SELECT kk AS k, vv AS v, f AS valid_from, t AS valid_to, t IS NULL AS is_current FROM far;
SELECT scd2('instead', 's', $$sequence_by => 'at'$$);
CREATE FUNCTION write_far() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        DELETE FROM far WHERE kk = OLD.k AND f = OLD.valid_from;
    END IF;
    IF TG_OP IN ('UPDATE', 'INSERT') THEN
        INSERT INTO far VALUES (NEW.k, NEW.v, NEW.valid_from, NEW.valid_to);
        RETURN NEW;
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER write_far INSTEAD OF INSERT OR UPDATE OR DELETE ON instead FOR EACH ROW EXECUTE FUNCTION write_far();
SELECT history('instead');
SELECT lines('instead') EXCEPT SELECT lines('d');

-- Sources.
TRUNCATE s, d;
INSERT INTO s VALUES (1, 'a', 10), (2, 'b', 20);
CREATE VIEW view_s AS SELECT v, k, at, at * 2 AS more FROM s WHERE k > 0;
CREATE MATERIALIZED VIEW mat_s AS SELECT * FROM view_s;
CREATE MATERIALIZED VIEW unpopulated AS SELECT * FROM view_s WITH NO DATA;
CREATE TABLE part_s (LIKE s) PARTITION BY LIST (k);
CREATE TABLE part_s_1 PARTITION OF part_s FOR VALUES IN (1);
CREATE TABLE part_s_2 PARTITION OF part_s FOR VALUES IN (2);
INSERT INTO part_s TABLE s;
CREATE TABLE gen_s (gone int, at int, k int, v text GENERATED ALWAYS AS (CASE k WHEN 1 THEN 'a' ELSE 'b' END) STORED);
ALTER TABLE gen_s DROP gone;
INSERT INTO gen_s (k, at) SELECT k, at FROM s;
CREATE TABLE added_s (k int, at int);
INSERT INTO added_s SELECT k, at FROM s WHERE k = 1;
ALTER TABLE added_s ADD v text DEFAULT 'a';
INSERT INTO added_s VALUES (2, 20, 'b');
CREATE TABLE heir_s () INHERITS (s);
CREATE TEMP TABLE temp_s AS TABLE s;
CREATE UNLOGGED TABLE unlogged_s AS TABLE s;
SELECT scd2('d', 's', $$sequence_by => 'at'$$);
SELECT r, scd2('d', r, $$sequence_by => 'at'$$) FROM unnest('{view_s,mat_s,part_s,gen_s,added_s,heir_s,temp_s,unlogged_s,unpopulated}'::text[]) AS r;
DROP TABLE heir_s;
-- A file.
CREATE EXTENSION file_fdw;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
SELECT file('s.csv', E'1,a,10\n2,c,30\n3,x,1\n');
DO $$ BEGIN EXECUTE format('CREATE FOREIGN TABLE file_s (k int, v text, at int) SERVER files OPTIONS (filename %L, format ''csv'')', place('s.csv')); END $$;
SELECT scd2('d', 'file_s', $$sequence_by => 'at'$$);
SELECT lines('d');
CREATE FOREIGN TABLE file_d (k int, v text, valid_from int, valid_to int, is_current boolean) SERVER files OPTIONS (filename '/nope', format 'csv');
SELECT scd2('file_d', 's', $$sequence_by => 'at'$$);
SET client_min_messages = warning;
DROP EXTENSION file_fdw CASCADE;
RESET client_min_messages;
-- No column but the key in common with what is tracked; no key at all.
CREATE TABLE other (x int);
SELECT scd2('d', 'other');
CREATE TABLE nothing ();
SELECT scd2('d', 'nothing');
SELECT scd2('nothing', 's');

-- Targets that are gone at the next start, or with the session.
CREATE UNLOGGED TABLE unlogged_d (LIKE d);
CREATE TEMP TABLE temp_d (LIKE d);
SELECT r, history(r) FROM unnest('{unlogged_d,temp_d}'::text[]) AS r;
BEGIN;
CREATE TEMP TABLE short_d (LIKE d) ON COMMIT DROP;
SELECT scd2('short_d', 's', $$sequence_by => 'at'$$);
COMMIT;
-- What is no target, or no source.
CREATE SEQUENCE seq;
CREATE INDEX idx ON d (k);
CREATE TYPE comp AS (k int);
SELECT r, scd2(r, 's', $$sequence_by => 'at'$$) FROM unnest('{mat_s,seq,idx,comp,pg_class,pg_toast.pg_toast_1255,information_schema.tables,etl_patterns.run}'::text[]) AS r;
SELECT r, scd2('d', r, $$sequence_by => 'at'$$) FROM unnest('{seq,idx,comp,pg_class,d}'::text[]) AS r;
SELECT try($$SELECT * FROM etl_scd2_merge('nope', 's', '{k}')$$);
SELECT try($$SELECT * FROM etl_scd2_merge(0, 's'::regclass, '{k}')$$);
SELECT try($$SELECT * FROM etl_scd2_merge(NULL, 's'::regclass, '{k}')$$);
SELECT try($$SELECT * FROM etl_scd2_merge('d', NULL, '{k}')$$);
SELECT try($$SELECT * FROM etl_scd2_merge('d', 's', NULL)$$);
BEGIN READ ONLY;
SELECT try($$SELECT * FROM etl_scd2_merge('d', 's', '{k}', sequence_by => 'at')$$);
COMMIT;
-- A table that is gone by the time of the call.
CREATE TABLE gone (LIKE d);
SELECT 'gone'::regclass::oid AS gone \gset
DROP TABLE gone;
SELECT replace(try(format($$SELECT * FROM etl_scd2_merge(%L::oid, 's'::regclass, '{k}')$$, :gone)), :'gone', '<oid>');
SELECT replace(try(format($$SELECT * FROM etl_scd2_merge('d', %L::oid, '{k}')$$, :gone)), :'gone', '<oid>');
-- Within triggers, functions, cursors and savepoints.
TRUNCATE d, s;
INSERT INTO s VALUES (1, 'a', 10);
CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM etl_scd2_merge('d', 's', '{k}', sequence_by => 'at');
    RETURN NEW;
END $$;
CREATE TRIGGER again AFTER INSERT ON d FOR EACH ROW EXECUTE FUNCTION again();
SELECT scd2('d', 's', $$sequence_by => 'at'$$);
SELECT * FROM d;
DROP TRIGGER again ON d;
CREATE TRIGGER again BEFORE UPDATE ON d FOR EACH ROW EXECUTE FUNCTION again();
TRUNCATE d;
INSERT INTO d VALUES (1, 'a', 10, NULL, true);
UPDATE s SET v = 'b', at = 20;
SET max_stack_depth = '200kB';
SELECT split_part(scd2('d', 's', $$sequence_by => 'at'$$), E'\n', 1);
RESET max_stack_depth;
DROP TRIGGER again ON d;
SELECT lines('d');
BEGIN;
DECLARE c CURSOR FOR SELECT v FROM d ORDER BY valid_from;
FETCH c;
SAVEPOINT x;
SELECT scd2('d', 's', $$sequence_by => 'at'$$);
ROLLBACK TO x;
SELECT scd2('d', 's', $$sequence_by => 'at', tracked => '{nope}'$$);
SELECT scd2('d', 's', $$sequence_by => 'at'$$);
FETCH ALL c;
COMMIT;
-- A delete_when that writes into the target, and a source that reads it.
CREATE FUNCTION sneak(k int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO d VALUES (k, 'sneaked', 1, NULL, true); RETURN false; END $$;
TRUNCATE d;
INSERT INTO d VALUES (1, 'a', 10, NULL, true);
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'sneak(k + 10)'$$);
SELECT * FROM d ORDER BY k, valid_from;
-- One that changes a row of the target that the merge is to change, too.
CREATE FUNCTION meddle(k int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN UPDATE d SET v = 'meddled' WHERE d.k = meddle.k; RETURN false; END $$;
UPDATE s SET v = v || '?', at = 30;
SELECT scd2('d', 's', $$sequence_by => 'at', delete_when => 'meddle(k)'$$);
SELECT * FROM d ORDER BY k, valid_from;
CREATE VIEW mirror AS SELECT k, v || '!' AS v, valid_from + 5 AS at FROM d WHERE is_current AND v IS NOT NULL;
SELECT scd2('d', 'mirror', $$sequence_by => 'at'$$);
SELECT lines('d');
-- Several merges in one statement.
SELECT sum(opened) FROM generate_series(1, 3), LATERAL (SELECT opened FROM etl_scd2_merge('d', 'mirror', '{k}', sequence_by => 'at') OFFSET 0) AS x;
DROP OWNED BY etl_test_merge;
DROP ROLE etl_test_merge;
\i :end
