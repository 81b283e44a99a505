-- Orders, :rows of them, with two cursors, and targets to pull them into.

CREATE EXTENSION etl_patterns;

CREATE SEQUENCE src_id;
CREATE SEQUENCE src_seq;
CREATE TABLE src (
	id bigint DEFAULT nextval('src_id'),
	customer_id int NOT NULL,
	status text NOT NULL,
	amount numeric(12, 2),
	note text,
	seq bigint NOT NULL DEFAULT nextval('src_seq'),
	updated_at timestamptz NOT NULL DEFAULT now()
);

INSERT INTO src
SELECT i, (i * 7368787 % 1000003)::int, (ARRAY['new', 'paid', 'sent', 'returned'])[1 + i % 4],
	(i % 100000 / 4.0)::numeric(12, 2), 'Order ' || substr(md5(i::text), 1, 6 + (i % 20)::int),
	i, timestamptz '2024-01-01 00:00+00' + i * interval '1 second'
FROM generate_series(1::bigint, :rows) i;
SELECT setval('src_id', :rows), setval('src_seq', :rows);

CREATE TABLE append_theirs (LIKE src);
CREATE TABLE append_ours (LIKE src);
CREATE TABLE upsert_theirs (LIKE src);
CREATE TABLE upsert_ours (LIKE src);
INSERT INTO upsert_theirs TABLE src;
INSERT INTO upsert_ours TABLE src;
ALTER TABLE src ADD PRIMARY KEY (id);
ALTER TABLE upsert_theirs ADD PRIMARY KEY (id);
ALTER TABLE upsert_ours ADD PRIMARY KEY (id);
CREATE INDEX ON src (seq);
CREATE INDEX ON src (updated_at);
VACUUM (FREEZE, ANALYZE);

-- What a transaction of the application does: new rows, and if changes is true
-- as many changed ones in their place, for one half.
CREATE FUNCTION write_rows(n int, changes bool) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	changed bigint := 0;
BEGIN
	IF changes THEN
		UPDATE src SET status = status || '.', seq = nextval('src_seq'), updated_at = now()
		WHERE id = ANY (ARRAY(SELECT 1 + (random() * (SELECT last_value - 1 FROM src_id))::bigint
			FROM generate_series(1, (n + 1) / 2)));
		GET DIAGNOSTICS changed = ROW_COUNT;
	END IF;
	INSERT INTO src (customer_id, status, amount, note)
	SELECT i, 'new', i / 4.0, 'Order ' || i FROM generate_series(1, n - changed) i;
	RETURN n;
END
$$;

-- The pulls that are written by hand.  Their plans are kept by the session.
CREATE TABLE mark (pipeline text PRIMARY KEY, seq bigint, updated_at timestamptz);

DO $outer$
DECLARE
	cursor_name text;
	apply text;
BEGIN
	FOREACH cursor_name IN ARRAY '{seq,updated_at}'::text[] LOOP
		FOREACH apply IN ARRAY '{append,upsert}'::text[] LOOP
			EXECUTE format($inner$
				CREATE FUNCTION %3$s_by_%1$s() RETURNS bigint LANGUAGE plpgsql AS $$
				DECLARE
					low src.%1$s%%TYPE;
					high src.%1$s%%TYPE;
					n bigint;
				BEGIN
					SELECT %1$s INTO low FROM mark WHERE pipeline = %4$L FOR UPDATE;
					SELECT max(%1$s) INTO high FROM src;
					INSERT INTO %3$s_theirs AS d SELECT * FROM src WHERE %1$s > low AND %1$s <= high %2$s;
					GET DIAGNOSTICS n = ROW_COUNT;
					UPDATE mark SET %1$s = high WHERE pipeline = %4$L;
					RETURN n;
				END
				$$;
				INSERT INTO mark (pipeline, %1$s) SELECT %4$L, max(%1$s) FROM src;
			$inner$, cursor_name,
				CASE WHEN apply = 'upsert' THEN $$
					ON CONFLICT (id) DO UPDATE SET (customer_id, status, amount, note, seq, updated_at) =
						ROW (excluded.customer_id, excluded.status, excluded.amount, excluded.note, excluded.seq,
							excluded.updated_at)
					WHERE (d.customer_id, d.status, d.amount, d.note, d.seq, d.updated_at) IS DISTINCT FROM
						(excluded.customer_id, excluded.status, excluded.amount, excluded.note, excluded.seq,
							excluded.updated_at) $$ END,
				apply, apply || '_' || cursor_name);
		END LOOP;
	END LOOP;
END
$outer$;

-- Nanoseconds of CPU that this session has used, up to its last wait.
CREATE FUNCTION used_cpu() RETURNS bigint VOLATILE LANGUAGE sql AS $$
	SELECT split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)::bigint
$$;
