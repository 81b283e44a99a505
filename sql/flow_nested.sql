--
-- Loads inside of other things, and errors that are no fault of a row.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\set dl '''on_error => ''''dead_letter'''''''
CREATE TABLE inner_t (a int CHECK (a < 3));
CREATE TABLE outer_t (a int, b text);
SELECT file('inner.csv', E'a\n1\n2\n3\nx\n');
SELECT file('outer.csv', E'a,b\n1,load\n2,bad\n3,plain\nx,y\n4,abort\n5,last\n');
-- A trigger of one load carries out another, which may fail.
CREATE FUNCTION nested() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    r record;
BEGIN
    IF NEW.b = 'load' THEN
        SELECT * INTO r FROM etl_bulk_copy('inner_t', place('inner.csv'), on_error => 'dead_letter');
        NEW.b := format('%s in, %s rejected', r.rows_loaded, r.rows_rejected);
    ELSIF NEW.b = 'bad' THEN
        PERFORM etl_bulk_copy('inner_t', place('inner.csv'), force => true);
    ELSIF NEW.b = 'abort' THEN
        BEGIN
            PERFORM etl_bulk_copy('inner_t', place('inner.csv'), force => true, on_error => 'skip', reject_limit => 1);
        EXCEPTION WHEN data_exception THEN
            NEW.b := 'caught';
        END;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER nested BEFORE INSERT ON outer_t FOR EACH ROW EXECUTE FUNCTION nested();
SELECT load('outer_t', 'outer.csv', :dl);
SELECT * FROM outer_t ORDER BY a;
SELECT * FROM inner_t ORDER BY a;
SELECT letters();
SELECT target, rows_read, rows_inserted, rows_rejected FROM etl_patterns.run ORDER BY run_id;

-- Timeouts, deadlocks and the like are errors of the load, whatever on_error says.
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.b = 'slow' THEN
        PERFORM pg_sleep(100);
    ELSIF length(NEW.b) = 5 THEN
        RAISE 'as if' USING ERRCODE = NEW.b;
    END IF;
    RETURN NEW;
END $$;
CREATE TABLE f (a int, b text);
CREATE TRIGGER fail BEFORE INSERT ON f FOR EACH ROW EXECUTE FUNCTION fail();
SELECT file('slow.csv', E'a,b\n1,x\n2,slow\n');
\set VERBOSITY terse
SET statement_timeout = '200ms';
SELECT * FROM etl_bulk_copy('f', place('slow.csv'), on_error => 'dead_letter');
RESET statement_timeout;
\set VERBOSITY default
SELECT file(s || '.csv', E'a,b\n1,x\n2,' || s || E'\n3,x\n')
FROM unnest('{40001,40P01,53100,53200,57P01,58030,XX000,XX001,55P03,25006,23505,P0001,22012,42501,0A000}'::text[]) s;
SELECT s, load('f', s || '.csv', :dl)
FROM unnest('{40001,40P01,53100,53200,57P01,58030,XX000,XX001,55P03,25006,23505,P0001,22012,42501,0A000}'::text[]) s;
SELECT count(*) FROM f;

-- In a function, a DO block, a cursor, a prepared statement; several in one query.
SELECT file('n' || i || '.csv', E'a\n' || i || E'\n') FROM generate_series(1, 6) i;
CREATE TABLE n (a int);
DO $$ BEGIN PERFORM etl_bulk_copy('n', place('n1.csv')); RAISE EXCEPTION 'undo'; EXCEPTION WHEN raise_exception THEN NULL; END $$;
SELECT count(*) FROM n;
DO $$ BEGIN PERFORM etl_bulk_copy('n', place('n1.csv')); COMMIT; PERFORM etl_bulk_copy('n', place('n2.csv')); ROLLBACK; END $$;
SELECT a FROM n;
PREPARE p AS SELECT rows_loaded FROM etl_bulk_copy('n', place($1));
EXECUTE p('n2.csv');
EXECUTE p('n2.csv');
BEGIN;
DECLARE c CURSOR FOR SELECT rows_loaded FROM etl_bulk_copy('n', place('n3.csv'));
FETCH ALL FROM c;
COMMIT;
SELECT (etl_bulk_copy('n', place('n' || i || '.csv'))).rows_loaded FROM generate_series(4, 5) i;
-- Into the table that the query reads.
SELECT (SELECT rows_loaded FROM etl_bulk_copy('n', place('n6.csv')) WHERE n.a > 0) FROM n ORDER BY a;
SELECT a FROM n ORDER BY a;
SELECT try('CREATE TABLE made AS SELECT * FROM etl_bulk_copy(''n'', ''/nowhere'')');
-- As owner of a function, with an empty search_path.
CREATE FUNCTION definer() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = '' AS
$$ SELECT rows_loaded FROM public.etl_bulk_copy('etl_test.n', etl_test.place('n1.csv'), force => true) $$;
SELECT definer();
SET search_path = '';
SELECT rows_loaded FROM public.etl_bulk_copy('etl_test.n', etl_test.place('n1.csv'), force => true, on_error => 'dead_letter');
SELECT * FROM public.etl_dead_letter_replay();
SET search_path = etl_test, public;
-- Operators and functions of the user's that look like the server's are not taken.
CREATE FUNCTION etl_test.pg_has_role(oid, oid, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE FUNCTION etl_test.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE FUNCTION etl_test.trap(oid, oid) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE OPERATOR etl_test.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = etl_test.trap);
SET search_path = etl_test, pg_catalog, public;
CREATE TABLE k (a int PRIMARY KEY, b int);
SELECT file('k.csv', E'a,b\n1,2\n1,3\nx,4\n');
SELECT load('k', 'k.csv', 'on_conflict => ''update'', ' || :dl);
SELECT etl_dead_letter_edit(dead_letter_id, '5,5') FROM etl_patterns.dead_letter WHERE raw_record = 'x,4';
SELECT * FROM etl_dead_letter_replay('k');
SELECT * FROM k ORDER BY a;
SELECT etl_dead_letter_discard('{1}'), etl_dead_letter_purge('1 day');
\i :end
