-- The source of the CDC benchmark, in a database that the others are copied from.

SET client_min_messages = warning;

CREATE TABLE acc (id int PRIMARY KEY, bal bigint, note text, upd timestamptz);
CREATE TABLE ev (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, acc int, amt bigint, kind text,
	at timestamptz DEFAULT now());
CREATE TABLE doc (id int PRIMARY KEY, n int, body text);
ALTER TABLE doc ALTER body SET STORAGE EXTERNAL;
CREATE TABLE marker (id int PRIMARY KEY);

INSERT INTO acc SELECT i, 0, 'note number 0', now() FROM generate_series(1, 200000) i;
INSERT INTO doc SELECT i, 0, repeat(md5(i::text), 250) FROM generate_series(1, 20000) i;

-- CPU seconds of processes of these kinds, all databases.
CREATE FUNCTION cpu_of(kinds text) RETURNS numeric LANGUAGE sql AS $$
	SELECT sum((a[12]::numeric + a[13]::numeric) / 100)
	FROM pg_stat_activity,
		string_to_array(split_part(pg_read_file('/proc/' || pid || '/stat', 0, 2000, true), ') ', 2), ' ') a
	WHERE backend_type ~ kinds
$$;

-- Starts a consumer, and waits until it has applied a row of marker.  Each look
-- is a transaction of its own: one that goes on would keep rows from being
-- pruned.
CREATE PROCEDURE drain(start text, target_marker text, mark int, kinds text) LANGUAGE plpgsql AS $$
DECLARE
	started timestamptz := clock_timestamp();
	there boolean;
BEGIN
	IF start <> '' THEN
		EXECUTE start;
		COMMIT;
	END IF;
	LOOP
		EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE id = %s)', target_marker, mark) INTO there;
		EXIT WHEN there;
		COMMIT;
		IF clock_timestamp() > started + interval '5 minutes' THEN
			RAISE EXCEPTION 'not drained in 5 minutes';
		END IF;
		PERFORM pg_sleep(0.005);
	END LOOP;
	RAISE NOTICE 'drained % %', extract(epoch FROM clock_timestamp() - started), cpu_of(kinds);
END
$$;

-- A sum of all rows of all tables of a schema: equal if the tables are.
CREATE FUNCTION sum_of(schema text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	name text;
	one text;
	sums text := '';
BEGIN
	FOREACH name IN ARRAY '{acc,ev,doc,marker}'::text[] LOOP
		EXECUTE format('SELECT %L || count(*) || %L || coalesce(sum(hashtextextended(t::text, 0)), 0) FROM %I.%I t',
			name || ' ', ':', schema, name) INTO one;
		sums := sums || one || ' ';
	END LOOP;
	RETURN sums;
END
$$;
