--
-- Alerts: one per change of a job's state, until it is drained.
--
CREATE EXTENSION etl_patterns;
SET TimeZone = 'UTC';
\set VERBOSITY terse
CREATE TABLE switch (fails boolean);
INSERT INTO switch VALUES (true);
-- Numbers of alerts and runs start at 1 in a new extension.
CREATE VIEW alerts AS
    SELECT alert_id AS id, kind, job, job_run_id AS run, error_code,
        regexp_replace(message, '\d+', 'N') AS message
    FROM etl_patterns.alert ORDER BY alert_id;

-- failed: the first failure is one, the next are not, until there was a success.
SELECT FROM etl_job_create('divides', 'on divide',
    'SELECT 1 / (CASE WHEN fails THEN 0 ELSE 1 END) FROM switch', max_attempts => 3, retry_delay => '1 microsecond');
SELECT etl_signal('divide');
CALL etl_run_due_jobs();
SELECT * FROM alerts;
SELECT failing_since IS NOT NULL AS fails FROM etl_patterns.job WHERE job = 'divides';
SELECT etl_signal('divide');
CALL etl_run_due_jobs();
SELECT * FROM alerts;

-- recovered: the first success after it.
UPDATE switch SET fails = false;
SELECT etl_signal('divide') FROM generate_series(1, 2);
CALL etl_run_due_jobs();
SELECT * FROM alerts;
SELECT failing_since IS NOT NULL AS fails FROM etl_patterns.job WHERE job = 'divides';

-- A failure that is retried is none; only the last attempt tells.
CREATE SEQUENCE attempt;
CREATE FUNCTION third_time() RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        IF nextval('attempt') % 3 <> 0 THEN
            RAISE SQLSTATE '40001' USING MESSAGE = 'try again';
        END IF;
    END $$;
SELECT FROM etl_job_create('patient', 'on patience', 'SELECT third_time()', max_attempts => 3,
    retry_delay => '1 microsecond');
SELECT FROM etl_job_create('impatient', 'on impatience', 'SELECT third_time()', max_attempts => 2,
    retry_delay => '1 microsecond');
DELETE FROM etl_patterns.alert;
SELECT etl_signal('patience');
CALL etl_run_due_jobs();
SELECT count(*) FROM alerts;
SELECT etl_signal('impatience');
CALL etl_run_due_jobs();
SELECT * FROM alerts;

-- never_started: a run that waits too long, once; then it is run.  (The clock
-- is set ahead for a client that comes late.)
DELETE FROM etl_patterns.alert;
SELECT FROM etl_job_create('late', 'on lateness', 'SELECT 1', alert_after => '10 minutes');
SELECT etl_signal('lateness');
SET etl_patterns.clock_offset = '9min';
SELECT etl_signal('lateness', 'not that late');
SET etl_patterns.clock_offset = '10min';
CALL etl_run_due_jobs();
SELECT * FROM alerts;
SELECT status, count(*), count(alerted_at) FROM etl_patterns.job_run WHERE job = 'late' GROUP BY status;

-- Of many runs that wait for each other, the first one speaks for all.
SELECT count(etl_signal('lateness')) FROM generate_series(1, 5);
SET etl_patterns.clock_offset = '20min';
CALL etl_run_due_jobs(1);
CALL etl_run_due_jobs(1);
SET etl_patterns.clock_offset = '30min';
CALL etl_run_due_jobs(1);
SELECT job, kind, message FROM alerts;
SELECT status, count(*), count(alerted_at) FROM etl_patterns.job_run WHERE job = 'late' GROUP BY status
ORDER BY status;
CALL etl_run_due_jobs();
-- The next time is another one.
SELECT etl_signal('lateness');
SET etl_patterns.clock_offset = '40min';
CALL etl_run_due_jobs();
CALL etl_run_due_jobs();
SELECT job, kind, message FROM alerts;
RESET etl_patterns.clock_offset;

-- Backfills wait for all others, so they are never late.
DELETE FROM etl_patterns.alert;
SELECT FROM etl_job_create('rare', 'every 1000 days', 'SELECT 1', start_at => '2020-01-01', alert_after => '10 minutes');
SELECT etl_job_backfill('rare', '2020-01-01', '2026-01-01');
SET etl_patterns.clock_offset = '11min';
CALL etl_run_due_jobs();
SELECT origin, status, count(*) FROM etl_patterns.job_run WHERE job = 'rare' GROUP BY origin, status;
SELECT * FROM alerts;
RESET etl_patterns.clock_offset;

-- Slots that were missed are told of once for all of them.
SELECT FROM etl_job_alter('rare', schedule => 'every 1 hour', catchup => 'skip');
SET etl_patterns.clock_offset = '330min';
CALL etl_run_due_jobs();
CALL etl_run_due_jobs();
SELECT job, kind, run, message FROM alerts;
RESET etl_patterns.clock_offset;
SELECT FROM etl_job_drop('rare');

-- A job without alert_after tells failures only.
DELETE FROM etl_patterns.alert;
SELECT FROM etl_job_create('patience itself', 'on and on', 'SELECT 1');
SELECT etl_signal('and on');
SET etl_patterns.clock_offset = '10d';
CALL etl_run_due_jobs();
SELECT * FROM alerts;
RESET etl_patterns.clock_offset;

-- Alerts of a transaction that is undone have not been given: here by a command
-- whose commit fails, the alert of which is that of its failure.
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
SELECT FROM etl_job_create('deferred', 'on defer', 'INSERT INTO child VALUES (1)');
SELECT etl_signal('defer');
CALL etl_run_due_jobs();
INSERT INTO parent VALUES (1);
SELECT etl_signal('defer');
CALL etl_run_due_jobs();
SELECT job, kind, error_code FROM alerts;

-- Draining: the oldest first, each once, back after a rollback.
CREATE TABLE drained (LIKE etl_patterns.alert);
TRUNCATE switch;
INSERT INTO switch VALUES (true);
DELETE FROM etl_patterns.alert;
UPDATE etl_patterns.job SET failing_since = NULL;
SELECT FROM etl_job_create('second', 'on divide', 'SELECT 2 / (CASE WHEN fails THEN 0 ELSE 1 END) FROM switch');
SELECT FROM etl_job_create('third', 'on divide', 'SELECT 3 / (CASE WHEN fails THEN 0 ELSE 1 END) FROM switch');
SELECT etl_signal('divide');
CALL etl_run_due_jobs();
BEGIN;
SELECT job, kind, error_code, message FROM etl_alert_drain();
SELECT count(*) FROM etl_patterns.alert;
ROLLBACK;
INSERT INTO drained SELECT * FROM etl_alert_drain(2);
SELECT job FROM drained ORDER BY alert_id;
INSERT INTO drained SELECT * FROM etl_alert_drain(2);
SELECT job FROM drained ORDER BY alert_id;
SELECT count(*) FROM etl_alert_drain();
SELECT count(*) FROM etl_patterns.alert;
SELECT count(*) FROM etl_alert_drain(0);
SELECT count(*) FROM etl_alert_drain(-1);
SELECT count(*) FROM etl_alert_drain(NULL);
BEGIN READ ONLY;
SELECT count(*) FROM etl_alert_drain();
ROLLBACK;

-- Everybody drains their own: of their roles, that is.
CREATE ROLE regress_etl_alert LOGIN;
CREATE ROLE regress_etl_group LOGIN;
CREATE ROLE regress_etl_member LOGIN IN ROLE regress_etl_group;
CREATE ROLE regress_etl_monitor LOGIN IN ROLE pg_monitor;
INSERT INTO etl_patterns.alert
SELECT nextval('etl_patterns.alert_id_seq'), role, 'failed', 1, 'of ' || role, NULL, NULL, NULL, 'made up', now()
FROM unnest('{regress_etl_alert, regress_etl_group, regress_etl_member}'::regrole[]) WITH ORDINALITY r (role, place),
    generate_series(1, 2) ORDER BY generate_series, place;
SET ROLE regress_etl_monitor;
SELECT count(*) AS seen FROM etl_patterns.alert;
SELECT count(*) AS drained FROM etl_alert_drain();
SET ROLE regress_etl_alert;
SELECT job FROM etl_alert_drain();
SET ROLE regress_etl_group;
SELECT job FROM etl_alert_drain(1);
SET ROLE regress_etl_member;
SELECT job FROM etl_alert_drain(2);
RESET ROLE;
SELECT job FROM etl_alert_drain();

DROP TABLE switch, drained, child, parent CASCADE;
DROP SEQUENCE attempt;
DROP FUNCTION third_time;
DROP EXTENSION etl_patterns CASCADE;
DROP ROLE regress_etl_member, regress_etl_group, regress_etl_alert, regress_etl_monitor;
