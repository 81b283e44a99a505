--
-- Jobs: what they are made of, who may have and change them, and their slots.
--
CREATE ROLE etl_root SUPERUSER LOGIN;
SET SESSION AUTHORIZATION etl_root;
CREATE EXTENSION etl_patterns;
SET timezone = 'UTC';
SET datestyle = 'ISO, MDY';
CREATE ROLE etl_ann LOGIN;
CREATE ROLE etl_bob LOGIN;
CREATE ROLE etl_team;
CREATE ROLE etl_reader LOGIN IN ROLE etl_team, pg_read_server_files;
CREATE ROLE etl_watcher LOGIN IN ROLE pg_monitor;

-- Set the clock of jobs to a time that is far from today.
CREATE FUNCTION set_clock(t timestamptz) RETURNS void LANGUAGE sql AS $$
    SELECT set_config('etl_patterns.clock_offset', ceil(extract(epoch FROM t - clock_timestamp()))::int::text, false)
$$;
-- What there is of jobs, without the times that are those of today.
CREATE VIEW jobs WITH (security_invoker) AS
SELECT job, role, schedule, timezone, command, state, reason, next_slot, start_at, after_job, event
FROM etl_patterns.job ORDER BY job_id;
CREATE VIEW runs WITH (security_invoker) AS
SELECT job, slot, attempt, origin, status, reason, first_slot, slots, finished_at IS NOT NULL AS ended
FROM etl_patterns.job_run ORDER BY job_run_id;
GRANT SELECT ON jobs, runs TO PUBLIC;

SELECT set_clock('2090-01-01 00:10');
SELECT count(*) AS places FROM etl_patterns.run_jobs;

-- The defaults.
SELECT etl_job_create('nightly', '0 4 * * mon-fri', 'SELECT 1');
\x
SELECT job_id, job, role, schedule, timezone, command, overlap, catchup, max_attempts, retry_delay,
    retry_max_delay, timeout, alert_after, start_at, state, reason, next_slot, after_job, event,
    failing_since, created_at = altered_at AS same, created_at - '2090-01-01 00:10' < '1 minute' AS clock,
    purged_runs
FROM etl_patterns.job;
-- All that can be said.
SELECT etl_job_create(job => 'all of it', schedule => 'every 90 minutes', command => 'SELECT 1; SELECT 2;',
    timezone => 'Europe/Berlin', overlap => 'allow', catchup => 'all', max_attempts => 5,
    retry_delay => '1 second', retry_max_delay => '1 day', timeout => '1 hour', alert_after => '30 minutes',
    enabled => false, start_at => '2090-02-01 01:00');
SELECT * FROM etl_patterns.job WHERE job = 'all of it' AND created_at > 'infinity'
UNION ALL
SELECT job_id, job, role, schedule, timezone, command, overlap, catchup, max_attempts, retry_delay,
    retry_max_delay, timeout, alert_after, start_at, state, reason, next_slot, after_job, event,
    failing_since, NULL, NULL, purged_runs
FROM etl_patterns.job WHERE job = 'all of it';
\x
-- The first job arms its database.
SELECT count(*) AS places, min(role::text) FROM etl_patterns.run_jobs;

-- Slots to come.
SELECT * FROM etl_job_next_runs('nightly');
SELECT * FROM etl_job_next_runs('nightly', 0);
SELECT * FROM etl_job_next_runs('all of it', 2);
SELECT etl_job_create('once', 'at 2090-01-05 12:00', 'SELECT 1', timezone => 'Asia/Tokyo');
SELECT etl_job_create('next', 'after nightly', 'SELECT 1');
SELECT etl_job_create('event', 'on orders loaded ', 'SELECT 1');
SELECT etl_job_create('file', 'on file:/in/*.csv', 'SELECT 1');
SELECT job, n FROM unnest('{once,next,event,file}'::text[]) job LEFT JOIN etl_job_next_runs(job, 2) n ON true;
-- "every" counts from the start, whatever that is.
SELECT etl_job_create('epoch', 'every 7 days', 'SELECT 1', start_at => '2000-01-01');
SELECT etl_job_create('none', 'every 7 days', 'SELECT 1', start_at => '-infinity');
SELECT job, n, extract(isodow FROM n) AS day FROM unnest('{epoch,none}'::text[]) job, etl_job_next_runs(job, 1) n;
SELECT * FROM jobs;

-- The clock moves; slots that are to come do not.
SELECT set_clock('2090-01-20'), array_agg(n) FROM etl_job_next_runs('nightly', 3) n;
SELECT set_clock('2030-01-20'), array_agg(n) FROM etl_job_next_runs('nightly', 3) n;
SELECT set_clock('2090-01-01 00:10');

-- What is refused.  Names:
SELECT etl_job_create('nightly', '@daily', 'SELECT 1');
SELECT etl_job_create('', '@daily', 'SELECT 1');
SELECT etl_job_create(' x', '@daily', 'SELECT 1');
SELECT etl_job_create('x ', '@daily', 'SELECT 1');
SELECT etl_job_create(E'x\ny', '@daily', 'SELECT 1');
SELECT etl_job_create(repeat('x', 201), '@daily', 'SELECT 1');
SELECT etl_job_create(repeat('x', 200), '@daily', 'SELECT 1') > 0;
SELECT etl_job_drop(repeat('x', 200));
SELECT etl_job_create('x', 'on ' || repeat('x', 201), 'SELECT 1');
SELECT etl_job_create('x', 'on file:/' || repeat('x', 1023), 'SELECT 1');
-- nulls:
SELECT etl_job_create(NULL, '@daily', 'SELECT 1');
SELECT etl_job_create('x', NULL, 'SELECT 1');
SELECT etl_job_create('x', '@daily', NULL);
SELECT etl_job_create('x', '@daily', 'SELECT 1', timezone => NULL);
SELECT etl_job_create('x', '@daily', 'SELECT 1', overlap => NULL);
SELECT etl_job_create('x', '@daily', 'SELECT 1', catchup => NULL);
SELECT etl_job_create('x', '@daily', 'SELECT 1', max_attempts => NULL);
SELECT etl_job_create('x', '@daily', 'SELECT 1', retry_delay => NULL);
SELECT etl_job_create('x', '@daily', 'SELECT 1', retry_max_delay => NULL);
SELECT etl_job_create('x', '@daily', 'SELECT 1', enabled => NULL);
SELECT etl_job_alter(NULL);
SELECT etl_job_drop(NULL);
SELECT etl_job_pause(NULL);
SELECT etl_job_resume(NULL);
SELECT etl_job_next_runs(NULL);
SELECT etl_job_next_runs('nightly', NULL);
SELECT etl_job_next_runs('nightly', -1);
-- words and numbers:
SELECT etl_job_create('x', '@daily', 'SELECT 1', overlap => 'Forbid');
SELECT etl_job_create('x', '@daily', 'SELECT 1', catchup => 'none');
SELECT etl_job_create('x', '@daily', 'SELECT 1', max_attempts => 0);
SELECT etl_job_create('x', '@daily', 'SELECT 1', retry_delay => '-1 second');
SELECT etl_job_create('x', '@daily', 'SELECT 1', retry_max_delay => '1 day -25 hours');
SELECT etl_job_create('x', '@daily', 'SELECT 1', timeout => '102 years');
SELECT etl_job_create('x', '@daily', 'SELECT 1', alert_after => '-178000000 years');
SELECT etl_job_create('x', '@daily', 'SELECT 1', start_at => 'infinity');
-- schedules:
SELECT etl_job_create('x', '0 25 * * *', 'SELECT 1');
SELECT etl_job_create('x', '@daily', 'SELECT 1', timezone => 'Mars/Olympus');
SELECT etl_job_create('x', 'at 2089-12-31', 'SELECT 1');
SELECT etl_job_create('x', 'at 2090-02-01', 'SELECT 1', start_at => '2090-02-02');
SELECT etl_job_create('x', 'after x', 'SELECT 1');
SELECT etl_job_create('x', 'after y', 'SELECT 1');
SELECT etl_job_create('x', 'on file:in/*.csv', 'SELECT 1');
-- commands: what is no SQL, and where.
SELECT etl_job_create('x', '@daily', '');
SELECT etl_job_create('x', '@daily', ' ; -- nothing');
SELECT etl_job_create('x', '@daily', E'SELECT 1;\nSELEC 2');
SELECT etl_job_create('x', '@daily', $$SELECT 'open$$);
SELECT etl_job_create('x', '@daily', 'BEGIN; SELECT 1; COMMIT');
-- Names need not be there yet.
SELECT etl_job_create('x', '@daily', 'CALL not_yet.there()') > 0;
SELECT etl_job_drop('x');

-- Nothing of that was stored.
SELECT string_agg(job, ', ') FROM jobs;

-- Alter: what is null stays.
SELECT etl_job_alter('nightly');
SELECT etl_job_alter('nightly', command => 'SELECT 2', overlap => 'queue', catchup => 'skip', max_attempts => 2,
    retry_delay => '2 s', retry_max_delay => '3 s', timeout => '4 s', alert_after => '5 s');
\x
SELECT command, overlap, catchup, max_attempts, retry_delay, retry_max_delay, timeout, alert_after, next_slot,
    altered_at > created_at AS altered
FROM etl_patterns.job WHERE job = 'nightly';
-- 0 is none.
SELECT etl_job_alter('nightly', timeout => '0', alert_after => '0');
SELECT timeout, alert_after FROM etl_patterns.job WHERE job = 'nightly';
\x
-- Slots are those of the new schedule, zone or start.
SELECT etl_job_alter('nightly', schedule => '0 5 * * *'), etl_job_alter('once', timezone => 'UTC'),
    etl_job_alter('epoch', start_at => '2090-01-01');
SELECT job, schedule, timezone, start_at, next_slot FROM jobs WHERE job IN ('nightly', 'once', 'epoch');
SELECT etl_job_alter('epoch', start_at => '-infinity');
SELECT etl_job_alter('epoch', schedule => 'on e'), etl_job_alter('next', schedule => 'on nightly');
SELECT etl_job_alter('event', schedule => 'after nightly');
SELECT job, schedule, start_at, next_slot, after_job, event FROM jobs WHERE job IN ('epoch', 'next', 'event');
-- A new name; those that run after the job hear of it.
SELECT etl_job_alter('nightly', new_name => 'event');
SELECT etl_job_alter('nightly', new_name => '');
SELECT etl_job_alter('nightly', new_name => 'daily');
SELECT etl_job_alter('daily', new_name => 'daily');
SELECT job, schedule, after_job FROM jobs WHERE job IN ('nightly', 'daily', 'event');
SELECT etl_job_alter('nightly', command => 'SELECT 1');
-- What create refuses is refused here, too.
SELECT etl_job_alter('daily', schedule => '* * * *');
SELECT etl_job_alter('daily', timezone => 'Mars/Olympus');
SELECT etl_job_alter('daily', command => 'SELEC');
SELECT etl_job_alter('daily', overlap => 'x');
SELECT etl_job_alter('daily', max_attempts => -1);
SELECT etl_job_alter('daily', timeout => '-1 s');
SELECT etl_job_alter('daily', schedule => 'at 2089-01-01');
-- No circles.
SELECT etl_job_alter('daily', schedule => 'after daily');
SELECT etl_job_alter('daily', schedule => 'after event');
SELECT etl_job_alter('next', schedule => 'after event');
SELECT etl_job_alter('daily', schedule => 'after next');
SELECT etl_job_alter('event', schedule => 'after next');
SELECT etl_job_alter('daily', schedule => 'after none');
SELECT job, schedule, next_slot, after_job FROM jobs WHERE after_job IS NOT NULL;

-- Drop: not while others run after it.
SELECT etl_job_drop('daily');
SELECT etl_job_drop('next'), etl_job_drop('event'), etl_job_drop('daily');
SELECT etl_job_drop('daily');
SELECT job FROM jobs;

-- What is due is not forgotten: hourly slots, and nobody has looked at them
-- for three hours and a half.
SELECT etl_job_create('hourly', '@hourly', 'SELECT 1');
SELECT set_clock('2090-01-01 03:30');
SELECT etl_job_alter('hourly', timezone => 'Asia/Kolkata');
SELECT * FROM runs;
SELECT next_slot FROM jobs WHERE job = 'hourly';
-- Paused, it has no slots, and those that wait are not begun.
SELECT set_clock('2090-01-01 06:00');
SELECT etl_job_pause('hourly');
SELECT etl_job_pause('hourly');
SELECT * FROM runs;
SELECT job, state, next_slot FROM jobs WHERE job = 'hourly';
SELECT set_clock('2090-01-01 09:00:00');
SELECT * FROM etl_job_next_runs('hourly', 2);
SELECT etl_job_alter('hourly', schedule => '15 * * * *', timezone => 'UTC');
SELECT job, state, next_slot FROM jobs WHERE job = 'hourly';
SELECT etl_job_resume('hourly');
SELECT etl_job_resume('hourly');
SELECT job, state, next_slot FROM jobs WHERE job = 'hourly';
-- Dropped, its history stays.
SELECT set_clock('2090-01-01 10:15:01');
SELECT etl_job_run('hourly') > 0 AS ok;
SELECT etl_job_drop('hourly');
SELECT job, CASE origin WHEN 'schedule' THEN slot END AS slot, origin, status, reason, first_slot, slots, ended FROM runs;

-- "at" whose time has come is done; another schedule makes it active.
SELECT etl_job_create('soon', 'at 2090-01-01 11:00', 'SELECT 1');
SELECT etl_job_create('late', 'at 2090-01-01 11:00', 'SELECT 1', enabled => false);
SELECT set_clock('2090-01-01 11:00');
SELECT etl_job_alter('soon', schedule => 'at 2090-01-01 12:00');
SELECT slot, status FROM runs WHERE job = 'soon';
SELECT state, next_slot FROM jobs WHERE job = 'soon';
UPDATE etl_patterns.job SET state = 'done', next_slot = NULL WHERE job = 'soon';
SELECT * FROM etl_job_next_runs('soon');
SELECT etl_job_pause('soon');
SELECT etl_job_resume('soon');
SELECT etl_job_alter('soon', command => 'SELECT 2');
SELECT state, next_slot FROM jobs WHERE job = 'soon';
SELECT etl_job_alter('soon', timezone => 'America/New_York');
SELECT state, next_slot FROM jobs WHERE job = 'soon';
SELECT etl_job_resume('late');

-- A broken job runs again when it is resumed.
UPDATE etl_patterns.job SET state = 'broken', reason = 'because', next_slot = NULL WHERE job = 'soon';
SELECT etl_job_run('soon');
SELECT etl_job_alter('soon', schedule => '@daily');
SELECT state, reason, next_slot FROM jobs WHERE job = 'soon';
SELECT etl_job_resume('soon');
SELECT state, reason, next_slot FROM jobs WHERE job = 'soon';

-- Roles.  A job is its creator's.
SET ROLE etl_ann;
SELECT etl_job_create('of ann', '@daily', 'SELECT 1');
SELECT etl_job_create('files', 'on file:/in/*', 'SELECT 1');
SELECT etl_job_alter('of ann', schedule => 'on file:/in/*');
SELECT job, role FROM jobs;
-- Of jobs of others nobody learns anything, but that the name is taken.
SET ROLE etl_bob;
SELECT count(*) FROM jobs;
SELECT etl_job_create('of ann', '@daily', 'SELECT 1');
SELECT etl_job_alter('of ann', command => 'SELECT 2');
SELECT etl_job_drop('of ann');
SELECT etl_job_pause('of ann');
SELECT etl_job_resume('of ann');
SELECT etl_job_run('of ann');
SELECT etl_job_next_runs('of ann');
SELECT etl_job_backfill('of ann', '2090-01-01', '2090-01-02');
SELECT etl_job_create('of bob', 'after of ann', 'SELECT 1');
SELECT etl_job_create('of bob', 'after nobody', 'SELECT 1');
SELECT etl_job_create('of bob', '@daily', 'SELECT 1');
SELECT etl_job_alter('of bob', schedule => 'after of ann');
SELECT etl_job_alter('of bob', new_name => 'of ann');
DELETE FROM etl_patterns.job;
UPDATE etl_patterns.job SET role = 10;
INSERT INTO etl_patterns.run_jobs VALUES ('1', 1, 10, now());
-- Monitors see all jobs and change none.
SET ROLE etl_watcher;
SELECT job, role FROM jobs;
SELECT etl_job_pause('of bob');
-- A member has the rights of its team, and may run after its jobs; a team that
-- may not log in has no jobs.
SET ROLE etl_team;
SELECT etl_job_create('of team', '@daily', 'SELECT 1');
RESET ROLE;
ALTER ROLE etl_team LOGIN;
SET ROLE etl_team;
SELECT etl_job_create('of team', '@daily', 'SELECT 1');
SET ROLE etl_reader;
SELECT etl_job_create('files', 'on file:/in/*', 'SELECT 1');
SELECT etl_job_create('of reader', 'after of team', 'SELECT 1');
SELECT etl_job_alter('of team', command => 'SELECT 2');
SELECT etl_job_alter('of team', schedule => 'on file:/in/*');
SELECT job, role, schedule, command FROM jobs;
SET ROLE etl_team;
SELECT etl_job_drop('of team');
SELECT etl_job_create('of team 2', 'after of reader', 'SELECT 1');
RESET ROLE;
-- That a role is a superuser does not count.
SELECT etl_job_create('of all', 'after of ann', 'SELECT 1');
SET ROLE etl_ann;
SELECT etl_job_create('of ann 2', 'after of all', 'SELECT 1');
RESET ROLE;
GRANT etl_ann TO CURRENT_USER;
SELECT etl_job_create('of all', 'after of ann', 'SELECT 1') > 0 AS ok;
SELECT etl_job_drop('of ann');
SELECT etl_job_drop('of all'), etl_job_drop('of ann');
-- Without LOGIN or CONNECT it is not resumed.
SELECT etl_job_pause('of team');
ALTER ROLE etl_team NOLOGIN;
SELECT etl_job_resume('of team');
SELECT etl_job_run('of team');
ALTER ROLE etl_team LOGIN;
SELECT current_database() AS db \gset
REVOKE CONNECT ON DATABASE :"db" FROM PUBLIC;
SELECT etl_job_resume('of team');
GRANT CONNECT ON DATABASE :"db" TO PUBLIC;
SELECT etl_job_resume('of team');
-- In a function that lends its owner's rights, jobs are its owner's.
CREATE FUNCTION lend() RETURNS bigint LANGUAGE sql SECURITY DEFINER
AS $$ SELECT etl_job_create('lent', '@daily', 'SELECT 1') $$;
ALTER FUNCTION lend() OWNER TO etl_bob;
SET ROLE etl_ann;
SELECT lend() > 0 AS ok;
SELECT etl_job_drop('lent');
RESET ROLE;
SELECT job, role FROM jobs WHERE job = 'lent';

-- A read-only transaction; one that is rolled back.
BEGIN READ ONLY;
SELECT etl_job_create('x', '@daily', 'SELECT 1');
ROLLBACK;
BEGIN READ ONLY;
SELECT count(*) FROM etl_job_next_runs('lent');
SELECT etl_job_pause('lent');
ROLLBACK;
BEGIN;
SELECT etl_job_drop('lent');
ROLLBACK;
SELECT count(*) FROM jobs WHERE job = 'lent';

DROP VIEW jobs, runs;
DROP FUNCTION lend();
DROP FUNCTION set_clock;
DROP EXTENSION etl_patterns;
RESET SESSION AUTHORIZATION;
DROP ROLE etl_root, etl_ann, etl_bob, etl_reader, etl_watcher, etl_team;
