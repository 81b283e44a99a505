--
-- What the views say of jobs.  The rows are written by hand, so that all times
-- are known; nothing runs.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
CREATE ROLE etl_one;
CREATE ROLE etl_two;
CREATE ROLE etl_watcher IN ROLE pg_monitor;

CREATE FUNCTION job(id bigint, job text, role regrole, state text DEFAULT 'active', reason text DEFAULT NULL,
    next_slot timestamptz DEFAULT now() + '1 day', overlap text DEFAULT 'forbid',
    failing_since timestamptz DEFAULT NULL, purged bigint[] DEFAULT NULL) RETURNS void LANGUAGE sql AS $$
    INSERT INTO etl_patterns.job VALUES (id, job, role, 'every 1 hour', 'UTC', 'SELECT 1', overlap, 'once', 3,
        '10 s', '10 min', NULL, NULL, NULL, state, reason, next_slot, NULL, NULL, failing_since,
        now() - interval '9 days', now() - interval '9 days', purged);
$$;
-- A run of a slot so long ago, that started and ended so long after the slot.
CREATE FUNCTION run(id bigint, job_id bigint, ago interval, status text, started interval DEFAULT NULL,
    finished interval DEFAULT NULL, attempt int DEFAULT 1, slots bigint DEFAULT 1, error text DEFAULT NULL,
    due interval DEFAULT '0') RETURNS void LANGUAGE sql AS $$
    INSERT INTO etl_patterns.job_run (job_run_id, job_id, job, role, slot, attempt, origin, status, due_at, started_at,
        finished_at, pid, error_code, error_message, slots)
    SELECT id, job_id, job, role, now() - ago, attempt, 'schedule', status, now() - ago + due, now() - ago + started,
        now() - ago + finished, 4711, error, 'an error of ' || error, slots
    FROM etl_patterns.job j WHERE j.job_id = run.job_id;
$$;
-- A view's columns that are not null; times as so long ago, roughly.
CREATE FUNCTION show(view text, of_job text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE format('SELECT key || '': '' || CASE WHEN value ~ ''^\d{4}-\d\d-\d\dT'' THEN '
        'date_trunc(''minute'', now() - value::timestamptz + ''5 s'')::text || '' ago'' '
        'WHEN key = ''late'' THEN date_trunc(''minute'', value::interval + ''5 s'')::text ELSE value END '
        'FROM %s v, json_each_text(row_to_json(v)) WHERE job = %L AND value IS NOT NULL '
        'AND key NOT IN (''job'', ''role'', ''schedule'', ''timezone'', ''next_slot'')', view, of_job)
    LOOP
        RETURN NEXT line;
    END LOOP;
END $$;

-- A job that has not run; no jobs are armed here.
SELECT FROM job(1, 'new', 'etl_one');
SELECT show('etl_patterns.job_status', 'new');
SELECT show('etl_patterns.stat_jobs', 'new');
SELECT etl_job_arm();
SELECT show('etl_patterns.job_status', 'new');

-- Last is the latest slot that ran to an end: neither what was skipped since,
-- nor what waits or runs, nor an earlier slot that was done again later.
SELECT job(2, 'busy', 'etl_one', overlap => 'queue');
SELECT run(1, 2, '5 h', 'succeeded', '0', '4 h 30 min');
SELECT run(2, 2, '4 h', 'succeeded', '1 min', '11 min');
SELECT run(3, 2, '3 h', 'failed', '0', '2 min', error => '40001');
SELECT run(4, 2, '3 h', 'lost', '10 min', '20 min', attempt => 2);
SELECT run(5, 2, '2 h', 'skipped', NULL, '0');
SELECT run(6, 2, '1 h', 'running', '30 min');
SELECT run(7, 2, '20 min', 'waiting');
SELECT run(8, 2, '10 min', 'waiting');
SELECT show('etl_patterns.job_status', 'busy');
SELECT show('etl_patterns.stat_jobs', 'busy');

-- Counts of runs that the history has no more, and of rows that stand for many slots.
SELECT job(3, 'old', 'etl_one', purged => '{0,0,100,20,3000,4,5}', failing_since => now() - interval '6 hours');
SELECT run(11, 3, '7 h', 'succeeded', '0', '3 min');
SELECT run(12, 3, '6 h', 'failed', '0', '0', error => '22012');
SELECT run(13, 3, '5 h', 'skipped', NULL, '0', slots => 500);
SELECT run(14, 3, '4 h', 'stopped', NULL, '1 min');
SELECT run(15, 3, '3 h', 'failed', '0', '1 min', error => '22012');
SELECT show('etl_patterns.job_status', 'old');
SELECT show('etl_patterns.stat_jobs', 'old');

-- What a job waits for.
SELECT job(20, 'retry', 'etl_one'), job(21, 'due', 'etl_one', next_slot => now() - interval '3 min'),
    job(22, 'behind', 'etl_one'), job(23, 'beside', 'etl_one', overlap => 'allow'),
    job(24, 'broken', 'etl_one', 'broken', 'its owner is not permitted to log in', NULL),
    job(25, 'paused', 'etl_one', 'paused', NULL, NULL), job(26, 'by hand', 'etl_one', 'paused', NULL, NULL),
    job(27, 'done', 'etl_one', 'done', NULL, NULL), job(28, 'sick', 'etl_one', reason => 'could not read "/in"'),
    job(29, 'other', 'etl_two');
SELECT run(30, 20, '1 min', 'failed', '0', '1 s', error => '40001'),
    run(31, 20, '1 min', 'waiting', attempt => 2, due => '1 h'),
    run(32, 22, '9 min', 'running', '0'), run(33, 22, '8 min', 'waiting'),
    run(34, 23, '9 min', 'running', '0'), run(35, 23, '8 min', 'running', '0'), run(36, 23, '7 min', 'waiting'),
    run(37, 26, '2 min', 'waiting'), run(38, 29, '1 min', 'running', '0');
SELECT job, state, reason, runs_waiting, runs_running, date_trunc('minute', late + '5 s') AS late
FROM etl_patterns.job_status ORDER BY job;
-- The clock of jobs.
SET etl_patterns.clock_offset = '2 h';
SELECT job, date_trunc('minute', late + '5 s') AS late FROM etl_patterns.job_status WHERE late IS NOT NULL ORDER BY job;
RESET etl_patterns.clock_offset;
-- A copy of the database.
UPDATE etl_patterns.run_jobs SET system_identifier = '1';
SELECT job, reason FROM etl_patterns.job_status ORDER BY job;
UPDATE etl_patterns.run_jobs SET system_identifier = (SELECT system_identifier FROM pg_control_system()),
    database_oid = 1;
SELECT job, reason FROM etl_patterns.job_status WHERE job = 'due';

-- Who sees what.
CREATE FUNCTION seen() RETURNS text LANGUAGE sql AS $$
    SELECT format('%s: %s jobs, %s runs; %s in stat_jobs, %s runs', current_user, count(*), sum(runs_running),
        (SELECT count(*) FROM etl_patterns.stat_jobs), (SELECT sum(runs_kept) FROM etl_patterns.stat_jobs))
    FROM etl_patterns.job_status $$;
SET ROLE etl_one; SELECT seen();
SET ROLE etl_two; SELECT seen();
SET ROLE etl_watcher; SELECT seen();
RESET ROLE; SELECT replace(seen(), current_user, 'superuser');
-- Row security does not keep a function from seeing rows by itself.
SET ROLE etl_two;
CREATE FUNCTION pg_temp.peek(text) RETURNS boolean COST 0.0001 LANGUAGE plpgsql AS
    'BEGIN RAISE NOTICE ''%'', $1; RETURN true; END';
SELECT job FROM etl_patterns.job_status WHERE pg_temp.peek(job);
SELECT job FROM etl_patterns.stat_jobs WHERE pg_temp.peek(job);
DROP FUNCTION pg_temp.peek(text);
RESET ROLE;

-- One job of many is found by indexes, also under row security.
INSERT INTO etl_patterns.job SELECT 1000 + i, 'job ' || i, role, schedule, timezone, command, overlap, catchup,
    max_attempts, retry_delay, retry_max_delay, NULL, NULL, NULL, state, NULL, next_slot, NULL, NULL,
    CASE WHEN i % 2 = 0 THEN now() END, created_at, altered_at, NULL
FROM etl_patterns.job, generate_series(1, 2000) i WHERE job_id = 1;
INSERT INTO etl_patterns.job_run SELECT 1000 + i, 1001 + i % 2000, 'job', role, slot + i * interval '1 s', attempt, origin,
    status, NULL, due_at, started_at, finished_at, pid, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, NULL
FROM etl_patterns.job_run, generate_series(1, 20000) i WHERE job_run_id = 1;
ANALYZE etl_patterns.job;
ANALYZE etl_patterns.job_run;
CREATE FUNCTION scans(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query
    LOOP
        IF line ~ '(Seq Scan on job|Index Cond)' THEN
            RETURN NEXT regexp_replace(line, '^[ >-]*', '');
        END IF;
    END LOOP;
END $$;
SET ROLE etl_one;
SELECT scans('SELECT * FROM etl_patterns.job_status WHERE job = ''job 7''');
SELECT scans('SELECT * FROM etl_patterns.stat_jobs WHERE job = ''job 7''');
RESET ROLE;

-- Without preload there is no scheduler to tell of.
SELECT count(*) FROM etl_patterns.scheduler_status;
DROP ROLE etl_watcher;
\i :end
DROP ROLE etl_one;
DROP ROLE etl_two;
