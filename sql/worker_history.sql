--
-- History: what is purged, what stays, and what is counted.
--
CREATE EXTENSION etl_patterns;
SET TimeZone = 'UTC';
\set VERBOSITY terse
CREATE TABLE switch (divisor int);
INSERT INTO switch VALUES (1);
CREATE VIEW runs AS
    SELECT job, status, count(*) FROM etl_patterns.job_run GROUP BY job, status ORDER BY job, status;
CREATE VIEW counters AS
    SELECT job, succeeded, failed, skipped, lost, stopped FROM etl_patterns.stat_jobs ORDER BY job;

SELECT FROM etl_job_create('works', 'on work', 'SELECT 1 / divisor FROM switch');
SELECT FROM etl_job_create('fails', 'on work', 'SELECT 1 / 0');
SELECT FROM etl_job_create('gone', 'on work', 'SELECT 1');
SELECT FROM etl_job_create('new', 'on nothing', 'SELECT 1');
SELECT count(etl_signal('work')) FROM generate_series(1, 4);
SET client_min_messages = error;
CALL etl_run_due_jobs();
SELECT FROM etl_job_drop('gone');
UPDATE switch SET divisor = 0;
SET etl_patterns.clock_offset = '1d';
SELECT count(etl_signal('work')) FROM generate_series(1, 3);
CALL etl_run_due_jobs();
-- Slots that were skipped as one row count as many.
SELECT FROM etl_job_create('skips', 'every 1 minute', 'SELECT 1', catchup => 'skip');
SET etl_patterns.clock_offset = '2d';
CALL etl_run_due_jobs();
SELECT FROM etl_job_pause('skips');
RESET client_min_messages;
SELECT * FROM runs WHERE job <> 'skips';
SELECT sum(slots) BETWEEN 1437 AND 1442 AS a_day, max(slots) > 1 AS some_at_once
FROM etl_patterns.job_run WHERE job = 'skips' AND status = 'skipped';
CREATE TABLE before AS SELECT * FROM counters;

-- Nothing is old enough.
SELECT etl_job_history_purge('3 days');

-- Of each job that exists the last run and the last success stay.  A job that
-- is gone keeps nothing.
SELECT etl_job_history_purge('1 day 12 hours');
SELECT * FROM runs WHERE job <> 'skips';
SELECT job, purged_runs FROM etl_patterns.job ORDER BY job;
SELECT last_status, last_success_at IS NOT NULL AS has_success FROM etl_patterns.job_status
WHERE job IN ('works', 'fails') ORDER BY job;
-- The same again finds nothing.
SELECT etl_job_history_purge('1 day 12 hours');

-- One job's, however young.
SELECT etl_job_history_purge('0', 'fails');
SELECT * FROM runs WHERE job <> 'skips';
SELECT purged_runs FROM etl_patterns.job WHERE job = 'fails';

-- All that has ended; what waits stays.
SELECT etl_signal('work');
SELECT etl_job_history_purge('0') > 1000 AS many;
SELECT * FROM runs;

-- Counters have not gone back.
SELECT * FROM counters EXCEPT SELECT * FROM before;
SELECT * FROM before EXCEPT SELECT * FROM counters;
-- They go on from there.
UPDATE switch SET divisor = 1;
CALL etl_run_due_jobs();
SELECT etl_job_history_purge('0');
SELECT * FROM runs;
SELECT c.job, c.succeeded - b.succeeded AS succeeded, c.failed - b.failed AS failed
FROM counters c JOIN before b USING (job) WHERE c <> b ORDER BY job;

-- A backfill of old slots does not take the place of the last run.
SELECT FROM etl_job_create('rare', 'every 1000 days', 'SELECT 1', start_at => now() + interval '10 days');
SELECT etl_job_run('rare') IS NOT NULL AS run_now;
CALL etl_run_due_jobs();
SELECT FROM etl_job_alter('rare', start_at => '2020-01-01');
SELECT etl_job_backfill('rare', '2020-01-01', '2026-01-01');
CALL etl_run_due_jobs();
SELECT origin, count(*) FROM etl_patterns.job_run WHERE job = 'rare' GROUP BY origin ORDER BY origin;
SELECT etl_job_history_purge('0', 'rare');
SELECT origin = 'backfill' AS is_backfill, count(*) FROM etl_patterns.job_run WHERE job = 'rare' GROUP BY 1;

-- Alerts as old go, too.
DELETE FROM etl_patterns.alert;
INSERT INTO etl_patterns.alert
SELECT nextval('etl_patterns.alert_id_seq'), current_user::regrole, 'failed', j.job_id, j.job, NULL, NULL, NULL, 'made up',
    now() + interval '2 days' - age
FROM etl_patterns.job j, unnest('{3 days, 2 days, 1 hour}'::interval[]) age
WHERE j.job IN ('works', 'fails') ORDER BY age DESC, j.job;
SELECT etl_job_history_purge('3 days 1 hour');
SELECT count(*) FROM etl_patterns.alert;
SELECT etl_job_history_purge('2 days 1 hour', 'works');
SELECT job, count(*) FROM etl_patterns.alert GROUP BY job ORDER BY job;
SELECT etl_job_history_purge('2 days');
SELECT job, count(*) FROM etl_patterns.alert GROUP BY job ORDER BY job;

-- Everybody purges their own.
CREATE ROLE regress_etl_history LOGIN;
CREATE ROLE regress_etl_member LOGIN IN ROLE regress_etl_history;
CREATE ROLE regress_etl_stranger LOGIN;
SET SESSION AUTHORIZATION regress_etl_history;
SELECT FROM etl_job_create('theirs', 'on theirs', 'SELECT 1');
RESET SESSION AUTHORIZATION;
INSERT INTO etl_patterns.job_run (job_run_id, job_id, job, role, slot, attempt, origin, status, due_at, started_at, finished_at, slots)
SELECT nextval('etl_patterns.job_run_id_seq'), job_id, job, role, '2020-01-01'::timestamptz + i * interval '1 day', 1, 'event',
    'succeeded', '2020-01-01', '2020-01-01', '2020-01-02', 1
FROM etl_patterns.job, generate_series(1, 10) i WHERE job = 'theirs';
SET SESSION AUTHORIZATION regress_etl_stranger;
SELECT etl_job_history_purge('0');
SELECT etl_job_history_purge('0', 'theirs');
SET SESSION AUTHORIZATION regress_etl_member;
SELECT etl_job_history_purge('0', 'theirs');
SET SESSION AUTHORIZATION regress_etl_history;
SELECT etl_job_history_purge('0');
RESET SESSION AUTHORIZATION;
SELECT slot, status FROM etl_patterns.job_run WHERE job = 'theirs';
SELECT purged_runs FROM etl_patterns.job WHERE job = 'theirs';

-- A rolled back purge has not been.
BEGIN;
SELECT FROM etl_job_drop('theirs');
SELECT etl_job_history_purge('0');
ROLLBACK;
SELECT count(*) FROM etl_patterns.job_run WHERE job = 'theirs';

-- What is refused.
SELECT etl_job_history_purge('-1 second');
SELECT etl_job_history_purge('1 day -25 hours');
SELECT etl_job_history_purge(NULL);
SELECT etl_job_history_purge('0', 'no such job');
SELECT etl_job_history_purge('1000000 years');
BEGIN READ ONLY;
SELECT etl_job_history_purge('0');
ROLLBACK;

DROP TABLE switch, before;
DROP EXTENSION etl_patterns CASCADE;
DROP ROLE regress_etl_member, regress_etl_history, regress_etl_stranger;
