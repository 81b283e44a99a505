-- The rows of the merge benchmarks, loaded into every database that they make:
-- customers, made from their numbers, so that they are the same everywhere.

CREATE EXTENSION pg_prewarm;
CREATE EXTENSION etl_patterns;

CREATE TYPE customer_row AS (
	customer_id bigint, name text, email text, phone text, city text, segment text,
	region_id int, loyalty_level int, credit_limit numeric(12, 2), signed_up_at timestamptz
);

-- One customer.  Version 0 is the plain one.  Any other differs from it, and
-- from the version before, in one of five ways; phone numbers come and go.
CREATE FUNCTION customer(id bigint, version int)
RETURNS SETOF customer_row IMMUTABLE LANGUAGE sql AS $$
	SELECT id,
		'Customer ' || substr(md5(id::text), 1, 6 + (id % 8)::int),
		'c' || id || CASE WHEN way = 0 THEN '+' || version ELSE '' END || '@mail' || id % 97 || '.example',
		CASE WHEN (id % 10 < 3) = (way IS NOT DISTINCT FROM 1) THEN '+49 30 ' || 1000000 + id % 9000000 END,
		'City ' || id % 5003 + CASE WHEN way = 2 THEN version ELSE 0 END,
		(ARRAY['consumer', 'corporate', 'home office', 'public', NULL])[1 + id % 5],
		(id % 251)::int + CASE WHEN way = 2 THEN version ELSE 0 END,
		CASE
			WHEN way = 3 THEN coalesce(nullif(id % 9, 0), 4)::int + version
			ELSE nullif(id % 9, 0)::int
		END,
		CASE
			WHEN way = 4 THEN (20 + version + id % 100000 / 4.0)::numeric(12, 2)
			WHEN id % 11 > 0 THEN (id % 100000 / 4.0)::numeric(12, 2)
		END,
		timestamptz '2015-01-01 00:00+00' + id % 100000000 * interval '2.5 seconds'
	FROM (SELECT CASE WHEN version <> 0 THEN ((hashint8(id) & 2147483647)::bigint + version + 100) % 5 END) w (way)
$$;

-- All customers from 1 to total in one version, in the order of their keys.
CREATE FUNCTION customers(total bigint, version int)
RETURNS SETOF customer_row IMMUTABLE LANGUAGE sql AS $$
	SELECT c.* FROM generate_series(1, total) id, customer(id, version) c
$$;

-- A full snapshot in the order of the keys: as many per cent of the customers
-- 1 to total, picked at random, in version 9, and some per cent new ones.
CREATE FUNCTION snapshot(total bigint, changed numeric, fresh numeric)
RETURNS SETOF customer_row IMMUTABLE LANGUAGE sql AS $$
	SELECT c.*
	FROM generate_series(1, total + (total * fresh / 100)::bigint) id,
		customer(id, CASE WHEN (hashint8extended(id, 7) & 1048575) % 100000 < changed * 1000 THEN 9 ELSE 0 END) c
$$;

-- A batch of changes in no order: of ten rows eight changed, one new, and one
-- as it was.  The factor is a prime, so that no customer comes twice.
CREATE FUNCTION batch(total bigint, size bigint)
RETURNS SETOF customer_row IMMUTABLE LANGUAGE sql AS $$
	SELECT c.*
	FROM generate_series(1, size) i,
		customer(CASE WHEN i % 10 = 0 THEN total + i / 10 ELSE 1 + i * 7368787 % total END,
			CASE WHEN i % 10 < 2 THEN 0 ELSE 9 END) c
$$;

-- What is used up: seconds, CPU seconds of this session and of all parallel
-- workers that ended, bytes of WAL, bytes of a table and its indexes.
CREATE FUNCTION used(target regclass, OUT wall numeric, OUT cpu numeric, OUT wal numeric, OUT size bigint)
VOLATILE LANGUAGE sql AS $$
	WITH me AS (
		SELECT string_to_array(split_part(pg_read_file('/proc/self/stat'), ') ', 2), ' ') AS s
	), parent AS (
		SELECT string_to_array(split_part(pg_read_file('/proc/' || s[2] || '/stat'), ') ', 2), ' ') AS s FROM me
	)
	SELECT extract(epoch FROM clock_timestamp()),
		(me.s[12]::numeric + me.s[13]::numeric + parent.s[14]::numeric + parent.s[15]::numeric) / 100,
		pg_current_wal_insert_lsn() - '0/0',
		pg_relation_size(target) + pg_indexes_size(target)
	FROM me, parent
$$;
