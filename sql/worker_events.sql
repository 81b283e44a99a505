--
-- Events: etl_signal(), and who is started by it.
--
CREATE EXTENSION etl_patterns;
SET etl_patterns.clock_offset = 0;
SET TimeZone = 'UTC';
-- Runs are committed by a call of its own; the log shows what each command saw.
CREATE TABLE log (id int GENERATED ALWAYS AS IDENTITY, job text, payload text, run bigint, slot text);
GRANT INSERT ON log TO PUBLIC;
CREATE FUNCTION note(job text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO log (job, payload, run, slot) VALUES (job,
        current_setting('etl_patterns.event_payload'),
        current_setting('etl_patterns.job_run_id')::bigint,
        current_setting('etl_patterns.logical_time')) $$;

-- There need not be a job.
SELECT etl_signal('orders_loaded');

SELECT FROM etl_job_create('first', 'on orders_loaded', $$SELECT note('first')$$);
SELECT FROM etl_job_create('second', 'on orders_loaded', $$SELECT note('second')$$, overlap => 'allow');
SELECT FROM etl_job_create('other', 'on Orders_Loaded', $$SELECT note('other')$$);
SELECT FROM etl_job_create('spaced', 'on  two words ', $$SELECT note('spaced')$$);
SELECT FROM etl_job_create('files', 'on file:/nowhere/*.csv', $$SELECT note('files')$$);
SELECT FROM etl_job_create('clock', 'at 2100-01-01', $$SELECT note('clock')$$);

-- As many runs as jobs; names are compared as they are.
SELECT etl_signal('orders_loaded') AS both, etl_signal('Orders_Loaded', 'with capitals') AS one,
    etl_signal('ORDERS_LOADED') AS none, etl_signal('') AS empty,
    etl_signal('file:/nowhere/*.csv') AS a_file, etl_signal('orders_loaded', '') AS again;
SELECT job, event FROM etl_patterns.job WHERE event IS NOT NULL ORDER BY job;
SELECT etl_signal('two words') AS spaced, etl_signal(event, 'by its own name') AS as_stored
FROM etl_patterns.job WHERE job = 'spaced';

-- They wait, each for a slot of its own, and are due at once.
SELECT job, origin, status, attempt, payload,
    slot <= clock_timestamp() AS slot_is_now, due_at <= clock_timestamp() AS is_due
FROM etl_patterns.job_run ORDER BY job_run_id;
SELECT count(*) = count(DISTINCT (job_id, slot)) AS slots_are_unique FROM etl_patterns.job_run;

CALL etl_run_due_jobs();
SELECT l.job, l.payload, r.status, r.origin,
    l.slot::timestamptz = r.slot AS sees_its_slot
FROM log l JOIN etl_patterns.job_run r ON r.job_run_id = l.run ORDER BY l.id;
SELECT count(*) AS unfinished FROM etl_patterns.job_run WHERE finished_at IS NULL;
TRUNCATE log;

-- An event that is rolled back has not happened; a savepoint is enough.
BEGIN;
SELECT etl_signal('orders_loaded', 'rolled back');
ROLLBACK;
BEGIN;
SELECT etl_signal('orders_loaded', 'kept');
SAVEPOINT s;
SELECT etl_signal('orders_loaded', 'not kept');
ROLLBACK TO s;
COMMIT;
CALL etl_run_due_jobs();
SELECT job, payload FROM log ORDER BY id;
TRUNCATE log;

-- Many events of one transaction are as many runs, in their order, and a trigger may signal.
CREATE TABLE source (id int);
CREATE FUNCTION signal() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM etl_signal('orders_loaded', 'row ' || NEW.id); RETURN NULL; END $$;
CREATE TRIGGER signal AFTER INSERT ON source FOR EACH ROW EXECUTE FUNCTION signal();
INSERT INTO source SELECT generate_series(1, 5);
CALL etl_run_due_jobs();
SELECT job, string_agg(payload, ', ' ORDER BY id) FROM log GROUP BY job ORDER BY job;
TRUNCATE log;

-- Jobs that are paused, or begin later, are not started.
SELECT FROM etl_job_pause('second');
SELECT FROM etl_job_alter('first', start_at => now() + interval '1 day');
SELECT etl_signal('orders_loaded');
SET etl_patterns.clock_offset = '2d';
SELECT etl_signal('orders_loaded', 'later');
RESET etl_patterns.clock_offset;
SELECT FROM etl_job_resume('second');
SELECT FROM etl_job_drop('first');
SELECT etl_signal('orders_loaded', 'to one of them');
SELECT job, status, reason, payload FROM etl_patterns.job_run
WHERE payload ~ 'later|to one' ORDER BY job_run_id;
CALL etl_run_due_jobs();
SELECT job, payload FROM log ORDER BY id;
TRUNCATE log;

-- A payload has its limit.
SELECT etl_signal('orders_loaded', repeat('x', 64 * 1024));
SELECT etl_signal('orders_loaded', repeat('x', 64 * 1024 + 1));
SELECT etl_signal(NULL);
SELECT etl_signal(NULL, 'x');
BEGIN READ ONLY;
SELECT etl_signal('orders_loaded');
ROLLBACK;
CALL etl_run_due_jobs();
SELECT job, length(payload) FROM log ORDER BY id;
TRUNCATE log;

-- The command gets it as it is, also with another attempt.
CREATE SEQUENCE attempt;
SELECT FROM etl_job_create('retried', 'on retry', $$SELECT note('attempt') FROM attempt_is_lucky()$$,
    max_attempts => 2, retry_delay => '1 microsecond');
CREATE FUNCTION attempt_is_lucky() RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
        IF nextval('attempt') = 1 THEN
            RAISE SQLSTATE '40001' USING MESSAGE = 'try again';
        END IF;
        RETURN true;
    END $$;
SELECT etl_signal('retry', E'a ''quoted''\nline');
CALL etl_run_due_jobs();
SELECT attempt, origin, status, payload, error_code FROM etl_patterns.job_run
WHERE job = 'retried' ORDER BY attempt;
SELECT job, payload FROM log ORDER BY id;
TRUNCATE log;

-- Whose jobs may be started: by those who have their owner's rights, or whose
-- rights the owner has.
CREATE ROLE regress_etl_loader LOGIN;
CREATE ROLE regress_etl_team LOGIN IN ROLE regress_etl_loader;
CREATE ROLE regress_etl_stranger LOGIN;
SET SESSION AUTHORIZATION regress_etl_loader;
SELECT FROM etl_job_create('of the loader', 'on loaded', 'SELECT 1');
SET SESSION AUTHORIZATION regress_etl_team;
SELECT FROM etl_job_create('of the team', 'on loaded', 'SELECT 1');
SET SESSION AUTHORIZATION regress_etl_stranger;
SELECT FROM etl_job_create('of a stranger', 'on loaded', 'SELECT 1');
SELECT etl_signal('loaded', 'by the stranger');
SET SESSION AUTHORIZATION regress_etl_loader;
SELECT etl_signal('loaded', 'by the loader');
SET SESSION AUTHORIZATION regress_etl_team;
SELECT etl_signal('loaded', 'by the team');
RESET SESSION AUTHORIZATION;
SELECT etl_signal('loaded', 'by a superuser');
SELECT payload, string_agg(job, ', ' ORDER BY job COLLATE "C") AS jobs
FROM etl_patterns.job_run WHERE payload LIKE 'by%' GROUP BY payload ORDER BY min(job_run_id);
-- The others' runs are theirs.
SET ROLE regress_etl_stranger;
SELECT job, payload FROM etl_patterns.job_run ORDER BY job_run_id;
RESET ROLE;

-- Where jobs do not run, an event says so.
UPDATE etl_patterns.run_jobs SET system_identifier = '1';
SELECT etl_signal('orders_loaded', 'in a copy');
SELECT etl_signal('nobody listens');
SELECT count(*) FROM etl_patterns.job_run WHERE payload = 'in a copy';
SELECT FROM etl_job_arm();
SELECT etl_signal('orders_loaded', 'armed');

DROP TABLE source, log;
DROP SEQUENCE attempt;
DROP FUNCTION note, signal, attempt_is_lucky;
DROP EXTENSION etl_patterns;
DROP ROLE regress_etl_team, regress_etl_loader, regress_etl_stranger;
