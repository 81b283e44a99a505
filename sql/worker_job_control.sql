--
-- Jobs: runs that somebody asks for or stops, backfills, and arming.
--
CREATE ROLE etl_root SUPERUSER LOGIN;
SET SESSION AUTHORIZATION etl_root;
CREATE EXTENSION etl_patterns;
SET timezone = 'UTC';
SET datestyle = 'ISO, MDY';
CREATE ROLE etl_ann LOGIN;
CREATE ROLE etl_bob LOGIN;
CREATE FUNCTION set_clock(t timestamptz) RETURNS void LANGUAGE sql AS $$
    SELECT set_config('etl_patterns.clock_offset', ceil(extract(epoch FROM t - clock_timestamp()))::int::text, false)
$$;
-- Manual runs have the time of the clock for a slot; it is that of the test.
CREATE VIEW runs WITH (security_invoker) AS
SELECT job_run_id AS id, job, date_trunc('minute', slot) AS slot, attempt AS no, origin, status, reason,
    due_at - slot < '1 minute' AS at_slot, finished_at - due_at < '1 minute' AS ended
FROM etl_patterns.job_run ORDER BY job_run_id;
GRANT SELECT ON runs TO PUBLIC;
-- What a run came to; there is nobody to run it here.
CREATE FUNCTION came_to(id bigint, word text) RETURNS void LANGUAGE sql AS $$
    UPDATE etl_patterns.job_run SET status = word, finished_at = due_at WHERE job_run_id = id
$$;

SELECT set_clock('2090-03-10 12:00');
SET ROLE etl_ann;
SELECT etl_job_create('daily', '30 6 * * *', 'SELECT 1');
SELECT etl_job_create('second', 'after daily', 'SELECT 1');
SELECT etl_job_create('event', 'on x', 'SELECT 1');
SELECT etl_job_create('paused', '@hourly', 'SELECT 1', enabled => false);
SELECT etl_job_create('once', 'at 2090-03-10 13:00', 'SELECT 1');

-- Run: by hand, whatever the schedule and the state; each is a run of its own.
SELECT etl_job_run('daily'), etl_job_run('second'), etl_job_run('event'), etl_job_run('paused'), etl_job_run('daily');
SELECT * FROM runs;
SELECT count(DISTINCT slot) AS slots FROM etl_patterns.job_run WHERE job = 'daily';
SELECT etl_job_run(NULL);
SELECT etl_job_run('none');

-- Stop: a run that waits; one that has ended is not stopped.
SELECT etl_job_stop(1), etl_job_stop(1);
SELECT etl_job_stop(99);
SELECT etl_job_stop(NULL);
SET ROLE etl_bob;
SELECT etl_job_stop(2);
RESET ROLE;
-- Neither is one whose process is gone.
UPDATE etl_patterns.job_run SET status = 'running', started_at = now(), pid = 1, backend_start = now() WHERE job_run_id = 3;
SELECT etl_job_stop(3);
SELECT etl_job_stop(2), etl_job_stop(4), etl_job_stop(5);
SELECT * FROM runs;
SELECT came_to(3, 'lost');

-- Backfill: "from" belongs to the range, "to" does not.
SET ROLE etl_ann;
SELECT etl_job_backfill('daily', '2090-03-01 06:30', '2090-03-04 06:30');
SELECT * FROM runs WHERE origin = 'backfill';
-- Again: the runs are there.
SELECT etl_job_backfill('daily', '2090-03-01', '2090-03-04');
SELECT etl_job_backfill('daily', '2090-03-01', '2090-03-04', 'all');
-- In the order of slots, also when an earlier one is added later.
SELECT etl_job_backfill('daily', '2090-02-28', '2090-03-05');
SELECT b.slot FROM etl_patterns.job_run b WHERE origin = 'backfill' ORDER BY due_at;
RESET ROLE;
-- What was done, what failed, and what never ran.
SELECT came_to(6, 'succeeded'), came_to(7, 'failed'), came_to(8, 'lost'), came_to(9, 'stopped'), came_to(10, 'skipped');
SELECT id, slot, status FROM runs WHERE id BETWEEN 6 AND 10;
SET ROLE etl_ann;
SELECT etl_job_backfill('daily', '2090-02-28', '2090-03-05', 'none');
SELECT id, slot, no, status FROM runs WHERE id > 10;
SELECT etl_job_backfill('daily', '2090-02-28', '2090-03-05', 'failed');
SELECT id, slot, no, status FROM runs WHERE id > 11;
SELECT etl_job_backfill('daily', '2090-02-28', '2090-03-05', 'all');
SELECT id, slot, no, status FROM runs WHERE id > 14;
RESET ROLE;
-- The last attempt decides; one that was skipped does not count.
SELECT came_to(id, CASE WHEN id = 12 THEN 'succeeded' WHEN id = 13 THEN 'skipped' ELSE 'failed' END)
FROM runs WHERE id > 10;
SET ROLE etl_ann;
SELECT etl_job_backfill('daily', '2090-02-28', '2090-03-05');
SELECT etl_job_backfill('daily', '2090-02-28', '2090-03-05', 'failed');
SELECT r.slot, array_agg(r.status ORDER BY r.no) FROM runs r WHERE origin = 'backfill' GROUP BY r.slot ORDER BY r.slot;

-- Slots that are to come are left out: they come by themselves.
SELECT etl_job_backfill('daily', '2090-03-09', 'infinity');
SELECT id, slot, status FROM runs WHERE slot > '2090-03-09' AND origin = 'backfill';
SELECT etl_job_backfill('daily', '2090-03-11', '2090-04-01');
SELECT etl_job_backfill('once', '2090-03-01', '2090-04-01');
SELECT next_slot FROM etl_patterns.job WHERE job IN ('daily', 'once');
-- Of a paused job, too.
SELECT etl_job_backfill('paused', '2090-03-10 10:00', '2090-03-11');
SELECT slot, origin, status FROM runs WHERE job = 'paused' AND origin = 'backfill';
-- What is refused.
SELECT etl_job_backfill('second', '2090-03-01', '2090-04-01');
SELECT etl_job_backfill('event', '2090-03-01', '2090-04-01');
SELECT etl_job_backfill('daily', '2090-03-02', '2090-03-02');
SELECT etl_job_backfill('daily', '-infinity', '2090-03-02');
SELECT etl_job_backfill('daily', '2090-03-02', '-infinity');
SELECT etl_job_backfill('daily', '2090-03-01', '2090-03-02', 'some');
SELECT etl_job_backfill('daily', '2090-03-01', '2090-03-02', NULL);
SELECT etl_job_backfill(NULL, '2090-03-01', '2090-03-02');
SELECT etl_job_backfill('daily', NULL, '2090-03-02');
SELECT etl_job_backfill('daily', '2090-03-01', NULL);
SELECT etl_job_backfill('none', '2090-03-01', '2090-03-02');
SELECT etl_job_create('seconds', 'every 1 second', 'SELECT 1', enabled => false);
SELECT etl_job_backfill('seconds', '2090-03-01', '2090-03-10');
SELECT count(*) FROM runs WHERE job = 'seconds';
SELECT etl_job_drop('seconds');
-- Backfills that wait are skipped when their job is dropped, and stay when it
-- is paused.
SELECT etl_job_pause('daily');
SELECT status, reason, count(*) FROM runs WHERE job = 'daily' AND slot < '2090-03-10' GROUP BY 1, 2 ORDER BY 1, 2;
SELECT etl_job_drop('second'), etl_job_drop('daily');
SELECT status, reason, count(*) FROM runs WHERE job = 'daily' AND slot < '2090-03-10' GROUP BY 1, 2 ORDER BY 1, 2;
RESET ROLE;

-- Arming.  A copy of this database somewhere else:
SELECT role, armed_at <= now() AS armed, database_oid = (SELECT oid FROM pg_database WHERE datname = current_database()) AS here
FROM etl_patterns.run_jobs;
SELECT etl_job_run('paused') > 0 AS ok;
UPDATE etl_patterns.run_jobs SET system_identifier = '1';
UPDATE etl_patterns.job SET next_slot = '2080-01-01' WHERE job = 'once';
SET ROLE etl_ann;
SELECT etl_job_create('here', '@daily', 'SELECT 1') > 0 AS ok;
SELECT etl_job_run('here') > 0 AS ok;
SELECT system_identifier FROM etl_patterns.run_jobs;
-- Not everybody may arm it.
SELECT etl_job_arm();
SELECT system_identifier FROM etl_patterns.run_jobs;
RESET ROLE;
SELECT current_database() AS db \gset
BEGIN READ ONLY;
SELECT etl_job_arm();
ROLLBACK;
BEGIN;
ALTER DATABASE :"db" OWNER TO etl_ann;
SET ROLE etl_ann;
SELECT etl_job_arm();
RESET ROLE;
SELECT role, system_identifier <> '1' AS here FROM etl_patterns.run_jobs;
ROLLBACK;
-- What waited is not begun, and slots begin now.
SELECT etl_job_arm();
SELECT etl_job_arm();
SELECT role, system_identifier <> '1' AS here FROM etl_patterns.run_jobs;
SELECT count(*) FILTER (WHERE status = 'waiting') AS waiting, count(*) FILTER (WHERE reason = 'restored') AS restored FROM runs;
SELECT job, state, next_slot FROM etl_patterns.job ORDER BY job_id;

-- Read-only transactions.
BEGIN READ ONLY;
SELECT etl_job_run('here');
ROLLBACK;
BEGIN READ ONLY;
SELECT etl_job_stop(1);
ROLLBACK;
BEGIN READ ONLY;
SELECT etl_job_backfill('here', '2090-03-01', '2090-03-02');
ROLLBACK;

DROP VIEW runs;
DROP FUNCTION set_clock, came_to;
DROP EXTENSION etl_patterns;
RESET SESSION AUTHORIZATION;
DROP ROLE etl_root, etl_ann, etl_bob;
