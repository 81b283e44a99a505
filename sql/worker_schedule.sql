--
-- Schedules: what a text means, its slots, and what is refused.
--
CREATE EXTENSION etl_patterns;
SET timezone = 'UTC';
SET datestyle = 'ISO, MDY';

-- The slots after a moment on the wall of a zone, as its clocks show them,
-- with the offset that they have then.
CREATE FUNCTION slots(schedule text, zone text, after text, n int = 4, OUT slots text)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('timezone', zone, true);
    SELECT string_agg(to_char(s, 'Dy YYYY-MM-DD HH24:MI:SS TZH:TZM'), E'\n' ORDER BY s) INTO slots
    FROM etl_schedule_next_runs(schedule, n, zone, after::timestamptz) s;
    PERFORM set_config('timezone', 'UTC', true);
END $$;

-- What cron's fields mean, in UTC.
SELECT schedule, slots(schedule, 'UTC', '2026-01-30 23:58:30') FROM (VALUES
    ('* * * * *'), ('*/15 * * * *'), ('59 23 * * *'), ('0,30 8-9 * * *'), ('5-20/5 12 * * *'),
    ('0 */6 * * *'), ('0 */24 * * *'), ('0 0 L * *'), ('0 0 15,L * *'), ('0 0 31 * *'),
    ('0 0 29 2 *'), ('0 0 29 FEB Mon'), ('0 0 * 2 1L'), ('0 0 * * friL'), ('0 0 * * 5L,0L'),
    ('0 0 * * mon-fri'), ('0 0 * * SAT,sun'), ('0 0 * * 0'), ('0 0 * * 7'), ('0 0 * * fri-sun'),
    ('0 0 * * 5-7'), ('0 0 * * 7-1'), ('0 0 * jan,Jul-AUG *'), ('0 12 1 */6 *'), ('@hourly'),
    ('@daily'), ('@midnight'), ('@weekly'), ('@Monthly'), ('@yearly'), ('@annually'),
    (E' 0\t0   1 1\n* ')) v (schedule);

-- Day of month and day of week: either, unless one of them begins with "*".
SELECT schedule, slots(schedule, 'UTC', '2026-02-01', 6) FROM (VALUES
    ('0 0 13 * fri'), ('0 0 13 * *'), ('0 0 * * fri'), ('0 0 */2 * fri'), ('0 0 13 * */5')) v (schedule);

-- Rare days are found, over centuries and back before 1970.
SELECT slots('0 0 29 2 *', 'UTC', '2095-01-01');
SELECT slots('0 0 29 2 *', 'UTC', '1895-01-01');
SELECT slots('0 0 29 2 */7', 'UTC', '2030-01-01', 6);
SELECT slots('0 0 * * 0L', 'UTC', '1582-10-01', 2);
SELECT slots('59 23 31 12 *', 'UTC', '294274-01-01');
SELECT * FROM etl_schedule_next_runs('* * * * *', 1, after => '-infinity');
SELECT * FROM etl_schedule_next_runs('* * * * *', 1, after => 'infinity');

-- Berlin, spring: 2:00 to 3:00 is jumped over on 29 March.
SELECT schedule, slots(schedule, 'Europe/Berlin', '2026-03-28 12:00', 5) FROM (VALUES
    ('30 2 * * *'),             -- once, after the gap
    ('0,15,45 2 * * *'),        -- three that are jumped over are one
    ('0 2,3 * * *'),            -- so are these
    ('59 1 * * *'), ('0 3 * * *'), ('30 2 * * sun'),
    ('*/30 2 * * *')) v (schedule)  -- elapsed time: there is no such minute
UNION ALL
SELECT schedule, slots(schedule, 'Europe/Berlin', '2026-03-29 00:20', 5) FROM (VALUES
    ('30 */2 * * *'), ('0 * * * *')) v (schedule)
UNION ALL
SELECT schedule, slots(schedule, 'Europe/Berlin', '2026-03-28 12:00', 1) FROM (VALUES
    ('30 2 28 3 *'), ('30 2 29 3 *'), ('30 2 L 3 *'), ('30 2 * * 0L')) v (schedule);
-- Autumn: 2:00 to 3:00 comes twice on 25 October.
SELECT schedule, slots(schedule, 'Europe/Berlin', '2026-10-24 12:00', 5) FROM (VALUES
    ('30 2 * * *'),             -- once, the first time
    ('0,30 2 * * *'), ('0 3 * * *'), ('30 1-3 * * *'),
    ('*/30 2 * * *'),           -- elapsed time: both
    ('30 */2 25 10 *')) v (schedule)
UNION ALL
SELECT 'from between them: ' || schedule, slots(schedule, 'Europe/Berlin', '2026-10-25 02:15+01', 3) FROM (VALUES
    ('30 2 * * *'), ('30 2,3 * * *'), ('30 * * * *'), ('*/15 2 * * *')) v (schedule);

-- New York, at 2:00 on 8 March and 1 November; @daily in Cuba and Brazil,
-- where midnight was jumped over, or came twice.
SELECT zone, schedule, after, slots(schedule, zone, after, 3) FROM (VALUES
    ('America/New_York', '30 2 * * *', '2026-03-07 12:00'),
    ('America/New_York', '30 1 * * *', '2026-10-31 12:00'),
    ('America/New_York', '30 * * * *', '2026-11-01 00:45'),
    ('America/Havana', '@daily', '2024-03-09 12:00'),
    ('America/Havana', '@daily', '2024-11-02 12:00'),
    ('America/Sao_Paulo', '@daily', '2018-11-03 12:00'),
    ('America/Sao_Paulo', '30 0 4 11 *', '2018-11-03 12:00'),
    ('America/Sao_Paulo', '30 23 * * *', '2019-02-15 23:45'),
    ('America/Sao_Paulo', '30 2 * * *', '2026-10-17 12:00')) v (zone, schedule, after);

-- Half an hour (Lord Howe), no change at all but half an hour off (Kolkata), a
-- quarter of an hour once (Kathmandu), seconds once (Monrovia), a whole day
-- (Apia), and a summer that a fast interrupts (Casablanca).
SELECT zone, schedule, after, slots(schedule, zone, after, 4) FROM (VALUES
    ('Australia/Lord_Howe', '15 2 * * *', '2026-10-03 12:00'),
    ('Australia/Lord_Howe', '*/15 * * * *', '2026-10-04 01:35'),
    ('Australia/Lord_Howe', '45 1 * * *', '2026-04-04 12:00'),
    ('Australia/Lord_Howe', '*/15 1-2 * * *', '2026-04-05 01:20+11'),
    ('Asia/Kolkata', '30 9 * * mon-fri', '2026-03-27 12:00'),
    ('Asia/Kathmandu', '10 0 * * *', '1985-12-30 12:00'),
    ('Africa/Monrovia', '30 0 * * *', '1972-01-05 12:00'),
    ('Pacific/Apia', '0 12 * * *', '2011-12-28 13:00'),
    ('Pacific/Apia', '0 */12 * * *', '2011-12-28 13:00'),
    ('Africa/Casablanca', '30 2 * * *', '2026-02-14 12:00'),
    ('Africa/Casablanca', '30 2 * * *', '2026-03-21 12:00')) v (zone, schedule, after);

-- A time that never is has no slot, and the search for it ends.
SELECT slots('*/15 2 * 3 0L', 'Europe/Berlin', '2026-01-01');

-- The clock is an argument: it may stand anywhere, and step forward and back.
SELECT clock, slots('30 2 * * *', 'Europe/Berlin', clock, 1) AS fixed,
    slots('*/20 * * * *', 'Europe/Berlin', clock, 1) AS elapsed,
    slots('every 7 minutes', 'Europe/Berlin', clock, 1) AS every
FROM (VALUES (1, '2026-03-29 01:59:59.999999+01'), (2, '2026-03-29 03:00+02'), (3, '2026-03-29 01:59+01'),
    (4, '2027-01-01 00:00+01'), (5, '2026-10-25 02:29:59.999999+02'), (6, '2026-10-25 02:30+02'),
    (7, '2026-10-25 02:10+01'), (8, '2026-10-25 02:20+02'), (9, '2026-03-28 02:30+01')) v (step, clock)
ORDER BY step;

-- Elapsed time counts from 1970, or from the start; a day is 24 hours.
SELECT schedule, slots(schedule, 'Europe/Berlin', '2026-03-28 12:00:00.5', 3) FROM (VALUES
    ('every 1 second'), ('EVERY 30 Seconds'), ('every 10 minutes'),
    ('every 1 hour 30 minutes'), ('every 01:30'), ('every PT1H30M'), ('every 1 day'), ('every 1 week')) v (schedule);
SELECT * FROM etl_schedule_next_runs('every 1.5 seconds', 3, after => '2026-03-28 12:00');
SELECT * FROM etl_schedule_next_runs('every 1 day', 3, 'Europe/Berlin', '2026-03-28 12:00', '2026-03-20 09:17:03.25');
SELECT * FROM etl_schedule_next_runs('every 1 day', 3, after => '2026-03-28 12:00', start_at => '2030-01-01');
SELECT * FROM etl_schedule_next_runs('0 4 * * *', 2, after => '2026-03-28 12:00', start_at => '2030-01-01 04:00');
SELECT * FROM etl_schedule_next_runs('0 4 * * *', 2, after => '2026-03-28 12:00', start_at => '2020-01-01');
SELECT * FROM etl_schedule_next_runs('0 4 * * *', 2, start_at => 'infinity');
SELECT * FROM etl_schedule_next_runs('every 1 day', 2, after => '294276-12-30 12:00');
SELECT * FROM etl_schedule_next_runs('every 1 week', 2, after => '-infinity');

-- Once: in the schedule's zone, unless the timestamp has an offset.
SELECT schedule, slots(schedule, 'Europe/Berlin', '2026-01-01') FROM (VALUES
    ('at 2030-01-31 18:00'), ('at 2030-07-31T18:00:15.25'), ('at 2030-01-31'), ('AT 2030-01-31 18:00+05:30'),
    ('at 2030-01-31 18:00:00 -0330'), ('at 2030-01-31 18:00Z'), ('at 2026-03-29 02:30'), ('at 2026-10-25 02:30'),
    ('at 2025-12-31 23:59:59.999999'), ('at 2026-01-01 00:00')) v (schedule);
SELECT * FROM etl_schedule_next_runs('at 2030-01-31 18:00', after => '2030-01-31 18:00');
SELECT * FROM etl_schedule_next_runs('at 2030-01-31 18:00', after => '2030-01-31 17:59', start_at => '2031-01-01');

-- These have no time of their own.
SELECT schedule, slots(schedule, 'UTC', '2026-01-01')
FROM (VALUES ('after load orders'), ('on orders_loaded'), ('On file:/in/2026 *.csv')) v (schedule);

-- No setting of the session changes what a text means.
SET datestyle = 'SQL, DMY';
SET intervalstyle = 'sql_standard';
SET timezone = 'Asia/Kolkata';
SELECT etl_schedule_next_runs('at 2030-02-01 18:00', timezone => 'Europe/Berlin') AT TIME ZONE 'UTC'
    = '2030-02-01T17:00' AS at,
    etl_schedule_next_runs('every 1 day 2:00:00', 1, after => '1970-01-01T00:00Z') = '1970-01-02T02:00Z' AS every;
RESET datestyle;
RESET intervalstyle;
RESET timezone;

-- What is refused, with its place and the way out.
CREATE FUNCTION refusal(schedule text, zone text = 'UTC', OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
DECLARE
    code text;
BEGIN
    PERFORM etl_schedule_next_runs(schedule, 1, zone);
    message := 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
        detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    IF code <> '22023' THEN
        message := code || ' ' || message;
    END IF;
END $$;
\pset format unaligned
\pset tuples_only on
\pset fieldsep '\n  '
\pset recordsep '\n'
SELECT message, detail, hint FROM (VALUES
    -- cron: values
    (''), (E' \t '), ('60 * * * *'), ('0 24 * * *'), ('0 0 0 * *'), ('0 0 32 * *'), ('0 0 * 13 *'), ('0 0 * 0 *'),
    ('0 0 * * 8'), ('99999999999999999999 * * * *'), ('-1 * * * *'), ('1.5 * * * *'),
    -- words
    ('0 0 * foo *'), ('0 0 * * monday'), ('0 0 * * freL'), ('0 mon * * *'), ('0 0 * january *'), ('0 0 * * L'),
    ('0 0 L-3 * *'), ('0 0 LW * *'), ('0 0 ? * mon'), ('0 0 * * mon#2'), ('0 0 5L * *'),
    -- lists, ranges, steps
    ('0, * * * *'), (',0 * * * *'), ('0,,1 * * * *'), ('0- * * * *'), ('30-10 * * * *'), ('0 22-5 * * *'),
    ('0 0 * * sat-tue'), ('5/15 * * * *'), ('*/ * * * *'), ('*/0 * * * *'), ('*/90 * * * *'), ('0 */25 * * *'),
    ('*/x * * * *'), ('** * * * *'), ('*5 * * * *'), ('1-2-3 * * * *'), ('0 L * * *'),
    -- fields
    ('0'), ('0 4 * *'), ('0 0 4 * * *'), ('0 4 * * * ?'), ('0 0 30 2 *'), ('0 0 31 2,4,6,9,11 *'), ('0 0 */31 * 5L'),
    ('*/5 * * * * é'), ('* é * * *'),
    -- words before the rest
    ('daily'), ('@reboot'), ('@dailyx'), ('@daily 5'), ('every'), ('every5 minutes'), ('at'), ('after '), ('on'),
    -- every
    ('every 5'), ('every minute'), ('every five minutes'), ('every 0.5 seconds'), ('every 0 seconds'),
    ('every -5 minutes'), ('every 5 minutes ago'), ('every 1 month'), ('every 1 year 2 days'), ('every infinity'),
    ('every 9999999999999 days'), ('every 2147483647 days'), ('every P1M'),
    -- at
    ('at noon'), ('at tomorrow'), ('at 2030-13-01 00:00'), ('at 2030-02-29 00:00'), ('at 2030-1-31 00:00'),
    ('at 30-01-31 00:00'), ('at 2030/01/31 00:00'), ('at 2030-01-31 24:00'), ('at 2030-01-31 18:60'),
    ('at 2030-01-31 18:00:60'), ('at 2030-01-31 18'), ('at 2030-01-31 18:00.5'), ('at 2030-01-31 18:00:00.'),
    ('at 2030-01-31 18:00 Europe/Berlin'), ('at 2030-01-31 18:00+16'), ('at 2030-01-31 18:00 pm'),
    ('at 2030-01-31 18:00Z x'), ('at 2030-01-311'), ('at 294277-01-01'), ('at 0000-01-01'), ('at 2030-01-31T'),
    -- on
    ('on file:'), ('on file:*.csv'), ('on file:relative/*.csv')) v (schedule), refusal(schedule);
SELECT message, detail, hint FROM (VALUES ('Mars/Olympus'), ('')) v (zone), refusal('* * * * *', zone);
\pset format aligned
\pset tuples_only off

-- Arguments.
SELECT etl_schedule_next_runs(NULL);
SELECT etl_schedule_next_runs('@daily', NULL);
SELECT etl_schedule_next_runs('@daily', timezone => NULL);
SELECT etl_schedule_next_runs('@daily', after => NULL);
SELECT etl_schedule_next_runs('@daily', -1);
SELECT count(*) FROM etl_schedule_next_runs('@daily', 0);
SELECT count(*), extract(epoch FROM max(s) - min(s))::int / 60 AS minutes FROM etl_schedule_next_runs('* * * * *', 100000) s;

DROP EXTENSION etl_patterns;
DROP FUNCTION slots, refusal;
