--
-- Jobs that a client runs: CALL etl_run_due_jobs().
--
CREATE EXTENSION etl_patterns;
\pset null NULL
\pset tuples_only on
\pset format unaligned
SET timezone = 'UTC';

-- The clock of jobs is set half a minute past the full one, so that no slot
-- comes near while a test runs.
CREATE FUNCTION clock(at timestamptz) RETURNS text LANGUAGE sql AS
    $$ SELECT set_config('etl_patterns.clock_offset', extract(epoch FROM at - now())::int::text, false) $$;
CREATE FUNCTION history(VARIADIC jobs text[]) RETURNS TABLE (job text, slot text, n int, origin text, status text,
    reason text, code text, message text) LANGUAGE sql AS $$
    SELECT job, to_char(slot, 'HH24:MI:SS'), attempt, origin, status, reason, error_code, error_message
    FROM etl_patterns.job_run WHERE job = ANY (jobs) ORDER BY job_run_id
$$;
CREATE TABLE said (n serial, what text);
CREATE FUNCTION say(what text) RETURNS void LANGUAGE sql AS $$ INSERT INTO said (what) VALUES (what) $$;
-- What was said since the last time.
CREATE FUNCTION heard() RETURNS SETOF text LANGUAGE sql AS
    $$ WITH d AS (DELETE FROM said RETURNING *) SELECT what FROM d ORDER BY n $$;
-- Nothing but a name is needed to be done with a job.
CREATE FUNCTION done(VARIADIC jobs text[]) RETURNS void LANGUAGE sql AS
    $$ SELECT etl_job_drop(j) FROM unnest(jobs) j $$;

-- Without jobs there is nothing to do.
CALL etl_run_due_jobs();
SELECT clock('2030-01-01 10:00:30') IS NOT NULL AS clock_set;

-- Where it cannot commit, and how it is not to be called.
BEGIN;
CALL etl_run_due_jobs();
ROLLBACK;
DO $$ BEGIN CALL etl_run_due_jobs(); END $$;
CREATE PROCEDURE outer_one() LANGUAGE plpgsql AS $$ BEGIN CALL etl_run_due_jobs(); END $$;
CALL outer_one();
CREATE FUNCTION outer_two() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CALL etl_run_due_jobs(); END $$;
SELECT outer_two();
CALL etl_run_due_jobs(0);
CALL etl_run_due_jobs(max_runtime => '0');
CALL etl_run_due_jobs(max_runtime => '170000000 years');
CALL etl_run_due_jobs(max_runtime => '1000 years');
SET default_transaction_read_only = on;
CALL etl_run_due_jobs();
RESET default_transaction_read_only;
SET ROLE pg_monitor;
CALL etl_run_due_jobs();
RESET ROLE;
SET SESSION AUTHORIZATION pg_monitor;
CALL etl_run_due_jobs();
RESET SESSION AUTHORIZATION;

-- A job that fails does not keep others from running.
SELECT etl_job_create('good', 'every 1 minute', $$SELECT say('good ' || current_setting('etl_patterns.logical_time'))$$);
SELECT etl_job_create('bad', 'every 1 minute', $$SELECT say('lost'); SELECT 1 / 0$$);
SELECT etl_job_create('fine', 'every 1 minute', $$SELECT say('fine'); SELECT say('and well')$$);
CALL etl_run_due_jobs();
SELECT count(*) FROM etl_patterns.job_run;
SELECT clock('2030-01-01 10:01:30') IS NOT NULL AS clock_set;
CALL etl_run_due_jobs();
SELECT * FROM history('good', 'bad', 'fine');
SELECT * FROM heard();
SELECT job_run_id = current_setting('etl_patterns.job_run_id', true)::bigint AS is_known_afterwards
FROM etl_patterns.job_run WHERE current_setting('etl_patterns.job_run_id', true) <> '';

-- Each slot is run once.
CALL etl_run_due_jobs();
SELECT count(*) FROM etl_patterns.job_run;
SELECT done('good', 'bad', 'fine');

-- Jobs that were armed elsewhere do not run here.
SELECT etl_job_create('copied', 'every 1 minute', $$SELECT say('copied')$$);
UPDATE etl_patterns.run_jobs SET system_identifier = '1';
SELECT clock('2030-01-01 10:02:30') IS NOT NULL AS clock_set;
CALL etl_run_due_jobs();
DELETE FROM etl_patterns.run_jobs;
CALL etl_run_due_jobs();
SELECT etl_job_arm();
CALL etl_run_due_jobs();
SELECT * FROM history('copied');
SELECT * FROM heard();
SELECT done('copied');

-- Three hours without anybody who calls.
SELECT clock('2030-01-01 12:00:30') IS NOT NULL AS clock_set;
SELECT etl_job_create('catchup ' || word, '*/30 * * * *', format($$SELECT say(%L || current_setting('etl_patterns.logical_time'))$$, word || ' '),
    catchup => word) FROM unnest('{skip,once,all}'::text[]) word;
SELECT clock('2030-01-01 15:10:30') IS NOT NULL AS clock_set;
CALL etl_run_due_jobs();
SELECT job, status, reason, count(*), to_char(min(slot), 'HH24:MI') AS first, to_char(max(slot), 'HH24:MI') AS last
FROM etl_patterns.job_run WHERE job LIKE 'catchup %' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
SELECT * FROM heard();
SELECT job, next_slot FROM etl_patterns.job ORDER BY 1;
SELECT done('catchup skip', 'catchup once', 'catchup all');

-- More than may wait at once: all the same in one call.
SELECT etl_job_create('many', '* * * * *', 'SELECT 1', catchup => 'all');
SELECT clock('2030-01-01 18:10:30') IS NOT NULL AS clock_set;
CALL etl_run_due_jobs();
SELECT status, reason, count(*), count(DISTINCT slot) FROM etl_patterns.job_run WHERE job = 'many' GROUP BY 1, 2 ORDER BY 1;
SELECT done('many');

-- Slots that are due at once, but were not missed: "overlap" decides.
SELECT clock('2030-01-01 15:10:30') IS NOT NULL AS clock_set;
SELECT etl_job_create('overlap ' || word, 'every 20 seconds', format($$SELECT say(%L || current_setting('etl_patterns.logical_time'))$$, word || ' '),
    overlap => word) FROM unnest('{forbid,queue,replace,allow}'::text[]) word;
SELECT clock('2030-01-01 15:11:30') IS NOT NULL AS clock_set;
CALL etl_run_due_jobs();
SELECT * FROM history('overlap forbid', 'overlap queue', 'overlap replace', 'overlap allow');
SELECT * FROM heard();
SELECT done('overlap forbid', 'overlap queue', 'overlap replace', 'overlap allow');

-- What is tried again: by the class of the error, at once if there is no delay.
CREATE FUNCTION fail(code text) RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'failed with %', code USING ERRCODE = code, DETAIL = 'As told.'; END $$;
SELECT etl_job_create('fails ' || code, 'every 1 minute', format('SELECT fail(%L)', code), max_attempts => 3, retry_delay => '0 s')
FROM unnest('{40001,22012,42P01,53100,P0001}'::text[]) code;
SELECT etl_job_create('fails once', 'every 1 minute', $$DO $x$ BEGIN
    IF (SELECT attempt FROM etl_patterns.job_run WHERE job_run_id = current_setting('etl_patterns.job_run_id')::bigint) = 1 THEN
        PERFORM fail('08006');
    END IF;
    PERFORM say('the second time'); END $x$ $$, max_attempts => 2, retry_delay => '0 s');
SELECT etl_job_create('fails later', 'every 1 minute', $$SELECT fail('40P01')$$, max_attempts => 2, retry_delay => '1 hour', retry_max_delay => '1 hour');
SELECT clock('2030-01-01 15:12:30') IS NOT NULL AS clock_set;
CALL etl_run_due_jobs();
SELECT * FROM history('fails 40001', 'fails 22012', 'fails 42P01', 'fails 53100', 'fails P0001', 'fails once', 'fails later');
SELECT * FROM heard();
SELECT etl_job_pause('fails ' || w) FROM unnest('{40001,22012,42P01,53100,P0001,once}'::text[]) w;
SELECT etl_job_alter('fails later', schedule => '0 0 1 1 *');
SELECT clock('2030-01-01 16:12:50') IS NOT NULL AS clock_set;
CALL etl_run_due_jobs();
SELECT * FROM history('fails later');
SELECT kind, job, error_code, message FROM etl_alert_drain() ORDER BY alert_id;
SELECT done('fails 40001', 'fails 22012', 'fails 42P01', 'fails 53100', 'fails P0001', 'fails once', 'fails later');

-- One after the other, in one call; not after one that failed.
SELECT etl_job_create('first', '* * * * *', $$SELECT say('first')$$);
SELECT etl_job_create('second', 'after first', $$SELECT say('second')$$);
SELECT etl_job_create('third', 'after second', $$SELECT say('third'); SELECT 1 / 0$$);
SELECT etl_job_create('fourth', 'after third', $$SELECT say('fourth')$$);
SELECT clock('2030-01-01 16:13:30') IS NOT NULL AS clock_set;
CALL etl_run_due_jobs();
SELECT * FROM history('first', 'second', 'third', 'fourth');
SELECT * FROM heard();
SELECT done('fourth'), done('third'), done('second'), done('first');

-- Events, and a job that runs once.
SELECT etl_job_create('listens', 'on something', $$SELECT say('heard ' || current_setting('etl_patterns.event_payload'))$$);
SELECT etl_job_create('once', 'at 2030-01-01 16:14:00', $$SELECT say('once')$$);
SELECT etl_signal('something', 'one'), etl_signal('something', 'two');
SELECT clock('2030-01-01 16:14:30') IS NOT NULL AS clock_set;
CALL etl_run_due_jobs();
SELECT * FROM heard();
SELECT job, state FROM etl_patterns.job ORDER BY 1;
SELECT done('listens', 'once');

-- Files that have arrived, each once.
SELECT current_setting('data_directory') || '/etl_run_due.csv' AS file \gset
SELECT etl_job_create('reads', 'on file:' || :'file', $$SELECT say('read ' || right(current_setting('etl_patterns.event_payload'), 15))$$) > 0;
SET etl_patterns.file_settle_time = 0;
CALL etl_run_due_jobs();
SELECT * FROM heard();
COPY (SELECT 1) TO :'file';
CALL etl_run_due_jobs();
CALL etl_run_due_jobs();
SELECT * FROM heard();
COPY (SELECT 1 WHERE false) TO PROGRAM 'rm etl_run_due.csv';
SELECT done('reads');

-- A job that cannot be claimed does not keep others from it.
SELECT etl_job_create('odd', '* * * * *', $$SELECT say('odd')$$);
SELECT etl_job_create('even', '* * * * *', $$SELECT say('even')$$);
UPDATE etl_patterns.job SET schedule = '* * * * x' WHERE job = 'odd';
SELECT clock('2030-01-01 16:14:50') IS NOT NULL AS clock_set;
UPDATE etl_patterns.job SET next_slot = '2030-01-01 16:14:00';
CALL etl_run_due_jobs();
SELECT * FROM heard();
SELECT job, state, reason FROM etl_patterns.job ORDER BY 1;
SELECT done('odd', 'even');

-- A run that should have begun long ago.
SELECT etl_job_create('late', 'on something', $$SELECT say('late')$$, alert_after => '1 minute');
SELECT etl_signal('something');
SELECT clock('2030-01-01 16:16:50') IS NOT NULL AS clock_set;
CALL etl_run_due_jobs();
SELECT * FROM heard();
SELECT kind, job, message ~ '^not started 1\d\d seconds after it was due$' AS tells FROM etl_alert_drain() WHERE job = 'late';
SELECT done('late');

-- Commands that commit, and fail in all places.
SELECT clock('2030-01-01 16:14:50') IS NOT NULL AS clock_set;
CREATE PROCEDURE commits(n int) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..n LOOP
        PERFORM say('commit ' || i || current_setting('etl_patterns.logical_time'));
        COMMIT;
        PERFORM say('lost');
        ROLLBACK;
    END LOOP;
END $$;
CREATE PROCEDURE nested(n int) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM say('nested ' || n);
    COMMIT;
    IF n = 0 THEN PERFORM 1 / n; END IF;
    CALL nested(n - 1);
END $$;
CREATE PROCEDURE cursor_loop(stop int) LANGUAGE plpgsql AS $$
DECLARE
    c refcursor;
    r record;
BEGIN
    OPEN c FOR SELECT 1;
    FOR r IN SELECT g FROM generate_series(1, 3) g LOOP
        PERFORM say('loop ' || r.g);
        COMMIT;
        PERFORM 1 / (r.g - stop);
    END LOOP;
END $$;
CREATE PROCEDURE caught() LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        PERFORM say('lost'), 1 / 0;
    EXCEPTION WHEN division_by_zero THEN
        PERFORM say('caught');
    END;
    COMMIT;
    BEGIN
        BEGIN
            PERFORM say('lost'), 'x'::int;
        EXCEPTION WHEN division_by_zero THEN
            NULL;
        END;
    EXCEPTION WHEN syntax_error THEN
        NULL;
    END;
END $$;
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
CREATE PROCEDURE orphan() LANGUAGE plpgsql AS $$
BEGIN
    PERFORM say('before the orphan');
    COMMIT;
    INSERT INTO child VALUES (1);
    COMMIT;
END $$;
CREATE TABLE mended (id int);
SELECT etl_job_create(command, '* * * * *', command) FROM unnest(ARRAY['CALL commits(2)', 'CALL nested(2)', 'CALL cursor_loop(2)',
    'CALL cursor_loop(4)', 'CALL caught()', 'INSERT INTO child VALUES (1)', 'CALL orphan()',
    'DECLARE c CURSOR WITH HOLD FOR SELECT 1 / (g - 2) FROM generate_series(1, 3) g',
    'VACUUM mended', 'CREATE INDEX CONCURRENTLY ON mended (id)', 'VACUUM mended; VACUUM mended',
    'COPY said TO STDOUT', 'DO $$ BEGIN RAISE EXCEPTION SQLSTATE ''57014''; END $$', 'CALL missing()']) command;
SELECT clock('2030-01-01 16:15:30') IS NOT NULL AS clock_set;
CALL etl_run_due_jobs();
SELECT job, status, reason, error_code, error_message FROM etl_patterns.job_run WHERE slot = '2030-01-01 16:15' ORDER BY job_run_id;
SELECT replace(what, '2030-01-01 16:15:00+00', '') FROM heard() what;
SELECT count(*) FROM child;
SELECT name FROM pg_cursors;
SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND pid = pg_backend_pid() AND mode = 'ExclusiveLock';
SELECT done(job) FROM etl_patterns.job;

-- Commands that are about the session, or about the call itself.
SELECT etl_job_create(command, '* * * * *', command) FROM unnest(ARRAY['DISCARD ALL', 'CALL etl_run_due_jobs()', 'SELECT pg_advisory_unlock_all()',
    'LISTEN something', 'RESET ALL', 'DROP EXTENSION etl_patterns', 'SELECT 1']) command;
SELECT clock('2030-01-01 16:15:50') IS NOT NULL AS clock_set;
UPDATE etl_patterns.job SET next_slot = '2030-01-01 16:15:00';
CALL etl_run_due_jobs();
SELECT job, status, error_message FROM etl_patterns.job_run WHERE job = ANY (SELECT job FROM etl_patterns.job) ORDER BY job_run_id;
SELECT done(job) FROM etl_patterns.job;

-- Time that is up, and a command that does not mind.
SELECT etl_job_create('slow', '* * * * *', 'SELECT pg_sleep(600)', timeout => '100ms', max_attempts => 2, retry_delay => '0 s');
SELECT etl_job_create('slow steps', '* * * * *', $$DO $x$ BEGIN LOOP PERFORM pg_sleep(0.02); COMMIT; END LOOP; END $x$ $$, timeout => '100ms');
SELECT etl_job_create('stubborn', '* * * * *', $$DO $x$ BEGIN
    PERFORM pg_sleep(600);
EXCEPTION WHEN query_canceled THEN
    PERFORM say('stubborn');
END $x$ $$, timeout => '1s');
SELECT etl_job_create('impatient', '* * * * *', $$SET statement_timeout = '50ms'; SELECT pg_sleep(600)$$);
SELECT etl_job_create('quick', '* * * * *', $$SELECT say('quick')$$, timeout => '1 hour');
SELECT clock('2030-01-01 16:16:30') IS NOT NULL AS clock_set;
SET statement_timeout = '1h';
CALL etl_run_due_jobs();
RESET statement_timeout;
SELECT * FROM history('slow', 'slow steps', 'stubborn', 'impatient', 'quick');
SELECT * FROM heard();
SELECT done('slow', 'slow steps', 'stubborn', 'impatient', 'quick');

-- A command finds the settings of a session that begins, and leaves none to the
-- next one or to the caller.
SELECT etl_job_create('a takes', '* * * * *', $$
    SELECT say(concat_ws(' ', 'finds', current_setting('work_mem') = '7MB', current_setting('my.own', true), current_user = session_user));
    CREATE TEMP TABLE mine (id int);
    SELECT set_config('search_path', 'pg_catalog', false);
    SET work_mem = '9MB'; SET my.own = 'taken'; SET my.other = 'new'; SET ROLE pg_monitor$$);
SELECT etl_job_create('b takes', '* * * * *', $$CREATE TEMP TABLE mine (id int); SET SESSION AUTHORIZATION pg_monitor$$);
SELECT etl_job_create('c finds', '* * * * *', $$SELECT say(concat_ws(' ', 'finds', current_setting('work_mem') IN ('7MB', '9MB'),
    current_setting('my.own', true), current_setting('my.other', true), current_user = session_user, to_regclass('mine')))$$);
SELECT etl_job_create('d fails', '* * * * *', $$DO $x$ BEGIN
    SET work_mem = '9MB'; SET ROLE pg_monitor; COMMIT; PERFORM 1 / 0; END $x$ $$);
SELECT clock('2030-01-01 16:17:30') IS NOT NULL AS clock_set;
SELECT etl_job_create('e tells', '* * * * *', $$DO $x$ BEGIN RAISE NOTICE 'not told'; RAISE WARNING 'told'; END $x$ $$);
UPDATE etl_patterns.job SET next_slot = '2030-01-01 16:17' WHERE job = 'e tells';
SET client_min_messages = warning;
SET work_mem = '7MB';
SET seq_page_cost = 1.234567890123;
SET my.own = 'mine';
SET etl_patterns.logical_time = 'by hand';
CALL etl_run_due_jobs();
SHOW work_mem;
SELECT current_setting('seq_page_cost')::float8 = 1.23457 AS digits, current_setting('my.own') AS my_own, current_setting('my.other', true) AS my_other,
    current_user = session_user AS is_me, to_regclass('mine'), current_setting('etl_patterns.logical_time') AS logical_time;
SHOW client_min_messages;
RESET client_min_messages;
SELECT done('e tells');
SELECT * FROM history('a takes', 'b takes', 'c finds', 'd fails', 'e tells');
SELECT * FROM heard();
RESET work_mem;
RESET seq_page_cost;
RESET my.own;
RESET etl_patterns.logical_time;

-- Temporary tables of the caller stay.
CREATE TEMP TABLE mine (id int);
SELECT clock('2030-01-01 16:18:30') IS NOT NULL AS clock_set;
CALL etl_run_due_jobs();
SELECT job, status, error_message FROM etl_patterns.job_run WHERE slot = '2030-01-01 16:18' ORDER BY job_run_id;
SELECT count(*) FROM mine;
DROP TABLE mine;
SELECT * FROM heard();
SELECT done('a takes', 'b takes', 'c finds', 'd fails');

-- Limits; what is run first, and what last.
SELECT etl_job_create('ranged', '* * * * *', $$SELECT say('ranged ' || current_setting('etl_patterns.logical_time'))$$);
SELECT etl_job_create('asked', '0 0 1 1 *', $$SELECT say('asked')$$);
SELECT etl_job_backfill('ranged', '2030-01-01 12:00', '2030-01-01 12:02');
SELECT etl_job_run('asked') > 0 AS is_asked;
SELECT clock('2030-01-01 16:19:30') IS NOT NULL AS clock_set;
CALL etl_run_due_jobs(1);
SELECT * FROM heard();
CALL etl_run_due_jobs(max_runs => 2, max_runtime => '1 hour');
SELECT * FROM heard();
CALL etl_run_due_jobs(max_runtime => '1 hour');
SELECT * FROM heard();

-- A call that may take no longer begins no run.
SELECT etl_job_create('long', '* * * * *', $$SELECT say('long'); SELECT pg_sleep(1.3)$$);
SELECT etl_job_create('longer', '* * * * *', $$SELECT say('longer')$$);
SELECT etl_job_pause('ranged');
SELECT clock('2030-01-01 16:20:30') IS NOT NULL AS clock_set;
CALL etl_run_due_jobs(max_runtime => '1200ms');
SELECT * FROM heard();
CALL etl_run_due_jobs();
SELECT * FROM heard();
SELECT done('long', 'longer');

-- What is paused has no slots, but can be asked.
SELECT etl_job_run('ranged') > 0 AS is_asked;
SELECT clock('2030-01-01 16:25:30') IS NOT NULL AS clock_set;
CALL etl_run_due_jobs();
SELECT regexp_replace(what, '\d\d:\d\d.*', '...') FROM heard() what;
SELECT done('ranged', 'asked');
SELECT count(*) FROM etl_patterns.job;
DROP TABLE said, parent, child, mended;
DROP FUNCTION clock, history, say, heard, done, outer_two, fail;
DROP PROCEDURE outer_one, commits, nested, cursor_loop, caught, orphan;
DROP EXTENSION etl_patterns;
