-- What the stress test of the incremental pull works on: see Pull.pm.

-- A zone that puts no clock back, so that local timestamps run on whenever the
-- test does.
ALTER DATABASE postgres SET timezone = 'Asia/Kolkata';

-- Rows that only come.
CREATE TABLE ev_now (id bigint GENERATED ALWAYS AS IDENTITY, writer int, note text, at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON ev_now (at);

CREATE TABLE ev_clock (id bigserial, part int, writer int, at timestamptz NOT NULL DEFAULT clock_timestamp()) PARTITION BY LIST (part);
CREATE TABLE ev_clock_0 PARTITION OF ev_clock FOR VALUES IN (0);
CREATE TABLE ev_clock_1 PARTITION OF ev_clock FOR VALUES IN (1);
CREATE TABLE ev_clock_2 PARTITION OF ev_clock FOR VALUES IN (2);
CREATE INDEX ON ev_clock (at);

CREATE TABLE ev_local (id bigint GENERATED ALWAYS AS IDENTITY, writer int, at timestamp NOT NULL DEFAULT localtimestamp);

CREATE TABLE ev_ident (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, writer int, note text);

CREATE TABLE ev_part (id bigserial, part int, writer int) PARTITION BY LIST (part);
CREATE TABLE ev_part_0 PARTITION OF ev_part FOR VALUES IN (0);
CREATE TABLE ev_part_1 PARTITION OF ev_part FOR VALUES IN (1) PARTITION BY LIST (writer);
CREATE TABLE ev_part_1_some PARTITION OF ev_part_1 FOR VALUES IN (1, 3, 5, 7);
CREATE TABLE ev_part_1_other PARTITION OF ev_part_1 DEFAULT;
CREATE TABLE ev_part_2 PARTITION OF ev_part FOR VALUES IN (2);
CREATE INDEX ON ev_part (id);

-- Here clients set the time, up to half a second ago; what takes longer than
-- a second is turned away, so that no row comes 1.5 seconds late.
CREATE TABLE ev_lag (id bigint GENERATED ALWAYS AS IDENTITY, writer int,
	at timestamptz NOT NULL DEFAULT clock_timestamp() - random() * interval '0.5 seconds');
CREATE INDEX ON ev_lag (at);
CREATE FUNCTION in_time() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF clock_timestamp() - now() > interval '1 second' THEN
		RAISE 'too late' USING ERRCODE = 'serialization_failure';	-- pgbench tries again
	END IF;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER in_time AFTER INSERT ON ev_lag DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION in_time();

-- Rows that change.
CREATE TABLE orders (id int PRIMARY KEY, status int, note text, deleted boolean NOT NULL DEFAULT false, updated_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON orders (updated_at);
INSERT INTO orders SELECT i, 0, 'order ' || i FROM generate_series(1, 200) i;
CREATE SEQUENCE order_id START 201;

-- The changes of rows.
CREATE TABLE changes (id int, value int, changed_at timestamptz DEFAULT now(), PRIMARY KEY (id, changed_at));
CREATE INDEX ON changes (changed_at);

CREATE TABLE flagged (id int PRIMARY KEY, value int, changed boolean NOT NULL DEFAULT true);
CREATE INDEX ON flagged (id) WHERE changed;
INSERT INTO flagged SELECT i, 0 FROM generate_series(1, 200) i;

-- The same, seen from afar.
CREATE SCHEMA far;

-- What is pulled, and what is seen to be wrong while it is.
CREATE TABLE pipeline (name text PRIMARY KEY, source text, cursor_column text, cursor_type text, appends boolean);
CREATE TABLE problem (pipeline text, what text);

-- In one snapshot: a pipeline's watermark is the greatest value that it has
-- brought, and its runs have brought what is there.
CREATE FUNCTION check_pipeline(p pipeline) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('INSERT INTO problem
		SELECT $1, format(''watermark %%s, greatest value %%s, %%s rows, %%s rows by the runs'', w.value, t.greatest, t.count, r.rows)
		FROM etl_patterns.watermark w, (SELECT max(%1$I) AS greatest, count(*) FROM %2$I) t,
			(SELECT coalesce(sum(rows_inserted), 0) AS rows FROM etl_patterns.run
			 WHERE operation = ''incremental_pull'' AND name = $1) r
		WHERE w.pipeline = $1 AND (w.value::%3$s IS DISTINCT FROM t.greatest OR t.count <> r.rows)',
		p.cursor_column, 't_' || p.name, p.cursor_type) USING p.name;
END $$;

-- Until so many seconds have passed: checks, and now and then kills a session
-- that pulls, or the one at the other end.
CREATE PROCEDURE watch(seconds float8) LANGUAGE plpgsql AS $$
DECLARE
	ends timestamptz := clock_timestamp() + seconds * interval '1 second';
	p pipeline;
BEGIN
	WHILE clock_timestamp() < ends LOOP
		FOR p IN SELECT * FROM pipeline WHERE appends ORDER BY random() LIMIT 3 LOOP
			PERFORM check_pipeline(p);
		END LOOP;
		COMMIT;
		IF random() < 0.15 THEN
			PERFORM pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity
				WHERE application_name IN ('puller', 'etl_patterns') AND state <> 'idle' ORDER BY random() LIMIT 1) victim;
		END IF;
		COMMIT;
		PERFORM pg_sleep(0.1 * random());
		COMMIT;
	END LOOP;
END $$;
