-- What the jobs of the benchmark write, and what is asked about it.
CREATE TABLE started (job int NOT NULL, slot timestamptz, at timestamptz NOT NULL);

-- The command of a job: both sides run the same.  Under pg_cron there is no
-- slot to be had.
CREATE FUNCTION command(job int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT format('INSERT INTO public.started VALUES (%s, '
		'nullif(current_setting(''etl_patterns.logical_time'', true), '''')::timestamptz, clock_timestamp())', job)
$$;

-- The starts within a span, and how late each was.  A schedule of seconds is
-- due a second after the start before (pg_cron's own rule; of ours the slot is
-- known, and later starts are measured against that); one of minutes is due at
-- the minute.
CREATE FUNCTION delays(since timestamptz, until timestamptz, each interval)
RETURNS TABLE (job int, at timestamptz, delay float8) LANGUAGE sql STABLE AS $$
	SELECT job, at, 1000 * extract(epoch FROM at - due)
	FROM (SELECT job, at,
			CASE WHEN slot IS NOT NULL THEN slot
				WHEN each = '1 minute' THEN date_trunc('minute', at)
				ELSE lag(at) OVER (PARTITION BY job ORDER BY at) + each END AS due
		FROM public.started) s
	WHERE at >= since AND at < until
$$;
