-- Section 10 of the demo: the pipeline runs by itself.

\set ECHO none
\pset footer off
\pset null '-'

-- Waits until a query's answer is true; what comes meanwhile is seen.
CREATE PROCEDURE demo.wait_until(query text) LANGUAGE plpgsql AS $$
DECLARE
	deadline timestamptz := clock_timestamp() + interval '60 seconds';
	holds boolean;
BEGIN
	LOOP
		EXECUTE 'SELECT (' || query || ')' INTO holds;
		EXIT WHEN holds;
		IF clock_timestamp() > deadline THEN
			RAISE EXCEPTION 'gave up waiting for: %', query;
		END IF;
		COMMIT;
		PERFORM pg_sleep(0.05);
	END LOOP;
END
$$;
CREATE PROCEDURE demo.wait_for(wanted_job text, wanted_status text, runs int DEFAULT 1) LANGUAGE plpgsql AS $$
BEGIN
	CALL demo.wait_until(format('SELECT count(*) >= %s FROM etl_patterns.job_run WHERE job = %L AND status = %L',
		runs, wanted_job, wanted_status));
END
$$;
SELECT count(*) AS returns_before FROM product_return \gset
\set ECHO queries

\echo
\echo '=== 10. The pipeline runs by itself'
\echo
\echo 'So far we called each step. Now jobs do: a file that arrives is loaded, metrics follow each load'
\echo 'that succeeds. Each run is a row, in the transaction of its work.'
\echo

\set on_file 'on file:' :data '/inbox/*.csv'
SELECT etl_job_create('load returns', :'on_file', $$
    SELECT etl_bulk_copy('product_return', current_setting('etl_patterns.event_payload'), on_error => 'dead_letter') $$);

SELECT etl_job_create('metrics', 'after load returns', $$
    SELECT etl_upsert('daily_return', 'daily_return_now', '{sku,returned_on}', absent => 'delete') $$);

\echo 'Two shops send the returns of 1 February:'
\echo

\set ECHO none
\setenv DATA :data
\set first :data '/first.csv'
\set second :data '/second.csv'
COPY (SELECT 400000 + i AS return_id, 'P-' || to_char(i % 400 + 1, 'FM0000') AS sku, '2026-02-01' AS returned_on,
             CASE WHEN i % 500 = 0 THEN 'two' ELSE '1' END AS quantity, 'late' AS reason, NULL AS comment
        FROM generate_series(1, 3000) i) TO :'first' (FORMAT csv, HEADER);
COPY (SELECT 410000 + i AS return_id, 'P-' || to_char(i % 400 + 1, 'FM0000') AS sku, '2026-02-01' AS returned_on,
             2 AS quantity, 'damaged' AS reason, NULL AS comment
        FROM generate_series(1, 2000) i) TO :'second' (FORMAT csv, HEADER);
INSERT INTO demo.written VALUES (:'first', 3000), (:'second', 2000);
\! mv "$DATA/first.csv" "$DATA/inbox/2026-02-01_berlin.csv"; mv "$DATA/second.csv" "$DATA/inbox/2026-02-01_kyoto.csv"
\! echo '$ ls inbox'; ls "$DATA/inbox"; echo
CALL demo.wait_for('metrics', 'succeeded', 2);
\set ECHO queries

SELECT job, origin, status, round(extract(epoch FROM finished_at - started_at)::numeric, 2) AS seconds,
       regexp_replace(payload, '.*/', '') AS file
  FROM etl_patterns.job_run ORDER BY slot, job_run_id;

SELECT rows_read, rows_inserted AS inserted, rows_rejected AS rejected
  FROM etl_patterns.run WHERE operation = 'bulk_copy' ORDER BY run_id DESC LIMIT 2;

SELECT sum(returns) AS returns, sum(units) AS units, sum(refund) AS refund
  FROM daily_return WHERE returned_on = '2026-02-01';

\set ECHO none
\pset tuples_only on
\pset format unaligned
SELECT demo.check('files that were handed to the job, each once', count(*), 2)
  FROM etl_patterns.job_run WHERE job = 'load returns';
SELECT demo.check('new rows = rows in the two files less bad ones',
                  (SELECT count(*) FROM product_return) - :returns_before, 5000 - 6);
SELECT demo.check('returns in the metrics of that day = rows of that day',
                  (SELECT sum(returns) FROM daily_return WHERE returned_on = '2026-02-01')::bigint,
                  (SELECT count(*) FROM product_return WHERE returned_on = '2026-02-01'));
SELECT demo.check('each load that succeeded has metrics of its slot', count(*), 2)
  FROM etl_patterns.job_run l JOIN etl_patterns.job_run m USING (slot)
 WHERE l.job = 'load returns' AND m.job = 'metrics' AND l.status = 'succeeded' AND m.status = 'succeeded';
\pset tuples_only off
\pset format aligned
\set ECHO queries

\echo
\echo 'The head office is to get a report each second. The line to it is down: a broken connection may'
\echo 'mend itself, so each run is tried three times. Then the job has failed, and says so, once.'
\echo

\set ECHO none
CREATE TABLE demo.line (up boolean);
INSERT INTO demo.line VALUES (false);
CREATE TABLE demo.report (slot timestamptz, returns bigint);
CREATE FUNCTION demo.send_report() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF NOT (SELECT up FROM demo.line) THEN
		RAISE EXCEPTION 'no line to the head office' USING ERRCODE = 'connection_failure';
	END IF;
	INSERT INTO demo.report SELECT current_setting('etl_patterns.logical_time')::timestamptz, count(*) FROM public.product_return;
END
$$;
\set ECHO queries

LISTEN etl_alert;

SELECT etl_job_create('report', 'every 1 second', 'SELECT demo.send_report()',
                      max_attempts => 3, retry_delay => '0.2 seconds');

\set ECHO none
CALL demo.wait_until($$ SELECT failing_since IS NOT NULL FROM etl_patterns.job WHERE job = 'report' $$);
\set ECHO queries

SELECT job, attempt, status, error_code, error_message
  FROM etl_patterns.job_run WHERE job = 'report' AND status = 'failed' ORDER BY job_run_id LIMIT 3;

\echo 'The line is mended, and the next run succeeds. Each second since then has a run, or says why not:'
\echo

UPDATE demo.line SET up = true;

\set ECHO none
CALL demo.wait_for('report', 'succeeded', 2);
SELECT etl_job_pause('report') \g /dev/null
CALL demo.wait_until($$ SELECT count(*) = 0 FROM etl_patterns.job_run WHERE job = 'report' AND status = 'running' $$);
\set ECHO queries

SELECT status, reason, count(*) AS rows, sum(slots) AS slots
  FROM etl_patterns.job_run WHERE job = 'report' GROUP BY status, reason ORDER BY status;

SELECT kind, job, error_code, message FROM etl_alert_drain();

\set ECHO none
\pset tuples_only on
\pset format unaligned
SELECT demo.check('attempts at the slot that failed', count(*), 3)
  FROM etl_patterns.job_run
 WHERE job = 'report' AND slot = (SELECT min(slot) FROM etl_patterns.job_run WHERE job = 'report' AND status = 'failed');
SELECT demo.check('slots since the first without a run or a reason', count(*), 0)
  FROM (SELECT min(slot) AS first, max(slot) AS last FROM etl_patterns.job_run WHERE job = 'report') s,
       generate_series(first, last, interval '1 second') AS slot
 WHERE slot NOT IN (SELECT slot FROM etl_patterns.job_run WHERE job = 'report');
SELECT demo.check('reports = runs that succeeded', (SELECT count(*) FROM demo.report),
                  (SELECT count(*) FROM etl_patterns.job_run WHERE job = 'report' AND status = 'succeeded'));
SELECT demo.check('alerts that are left', count(*), 0) FROM etl_patterns.alert;
SELECT etl_job_drop(job) FROM (SELECT job FROM etl_patterns.job ORDER BY job_id DESC) j \g /dev/null
\pset tuples_only off
\pset format aligned
