-- Section 8 of the demo: orders are pulled from another database.

\set ECHO none
\pset footer off
\pset null '-'
\connect :shop
CREATE TABLE orders (
    order_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sku text NOT NULL,
    state text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now());
INSERT INTO orders (sku, state, updated_at)
SELECT 'P-' || to_char(i % 500 + 1, 'FM0000'), 'paid', now() - (20001 - i) * interval '1 minute'
  FROM generate_series(1, 20000) AS i;
CREATE INDEX ON orders (updated_at);
\connect :db
\set ECHO queries

\echo
\echo '=== 8. Orders from the shop''s own database'
\echo
\echo 'The shop stamps each order with now() when it changes. Reading what is newer than the greatest'
\echo 'stamp so far looks safe, and is not: now() is when a transaction began, not when it committed.'
\echo

CREATE EXTENSION postgres_fdw;

CREATE SERVER shop FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host :'HOST', port :'PORT', dbname :'shop');

CREATE USER MAPPING FOR CURRENT_USER SERVER shop OPTIONS (user :'USER');

CREATE SCHEMA shop;

IMPORT FOREIGN SCHEMA public LIMIT TO (orders) FROM SERVER shop INTO shop;

CREATE TABLE pulled (order_id bigint PRIMARY KEY, sku text, state text, updated_at timestamptz);

CREATE TABLE naive (LIKE pulled INCLUDING ALL);

CREATE FUNCTION naive_run() RETURNS bigint LANGUAGE sql AS $$
    WITH written AS (
        INSERT INTO naive SELECT * FROM shop.orders
         WHERE updated_at > (SELECT coalesce(max(updated_at), '-infinity') FROM naive)
        ON CONFLICT (order_id) DO UPDATE SET state = excluded.state, updated_at = excluded.updated_at
        RETURNING 1)
    SELECT count(*) FROM written;
$$;

\echo
\echo 'A till of the shop begins a transaction that takes its time: it ships order 1 and adds one.'
\echo 'Meanwhile others ship order 2 and add one, and commit.'
\echo

\set ECHO none
CREATE EXTENSION dblink;
CREATE FUNCTION demo.at(session text, statements text) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
	IF NOT session = ANY (coalesce(public.dblink_get_connections(), '{}')) THEN
		PERFORM public.dblink_connect(session, 'shop');
	END IF;
	PERFORM public.dblink_exec(session, statements);
	RETURN session || ': ' || statements;
END
$$;
\pset tuples_only on
\pset format unaligned
SELECT demo.at('till', 'BEGIN');
SELECT demo.at('till', $$UPDATE orders SET state = 'shipped', updated_at = now() WHERE order_id = 1$$);
SELECT demo.at('till', $$INSERT INTO orders (sku, state) VALUES ('P-0042', 'new')$$);
SELECT demo.at('others', $$UPDATE orders SET state = 'shipped', updated_at = now() WHERE order_id = 2$$);
SELECT demo.at('others', $$INSERT INTO orders (sku, state) VALUES ('P-0007', 'new')$$);
\pset tuples_only off
\pset format aligned
-- Rows of the last tenth of a second are left to the next run.
SELECT FROM pg_sleep(0.2) \g /dev/null
\set ECHO queries

\echo
\echo 'The first run. The pull reads up to the moment when the till began, since what commits later may be'
\echo 'stamped from there on, and says whose transaction that is. The naive way reads what it sees.'
\echo

SELECT rows_read, rows_inserted AS inserted, rows_updated AS updated, watermark_high AS watermark
  FROM etl_incremental_pull('shop orders', 'shop.orders', 'pulled', 'updated_at', keys => '{order_id}',
                            apply => 'upsert', safety => 'horizon');

SELECT detail->>'safety' AS safety, detail->>'limit' AS read_up_to, detail->'held_by' AS held_by
  FROM etl_patterns.run WHERE name = 'shop orders' ORDER BY run_id DESC LIMIT 1;

SELECT naive_run() AS naive_rows;

SELECT max(updated_at) AS naive_watermark FROM naive;

\echo 'Now the till commits, and one more order is shipped.'
\echo

\set ECHO none
SELECT rows_read AS first_read FROM etl_patterns.run WHERE name = 'shop orders' \gset
\pset tuples_only on
\pset format unaligned
SELECT demo.at('till', 'COMMIT');
SELECT demo.at('others', $$UPDATE orders SET state = 'shipped', updated_at = now() WHERE order_id = 3$$);
\pset tuples_only off
\pset format aligned
SELECT FROM pg_sleep(0.2) \g /dev/null
\set ECHO queries

\echo
\echo 'The second run:'
\echo

SELECT rows_read, rows_inserted AS inserted, rows_updated AS updated, watermark_low, watermark_high
  FROM etl_incremental_pull('shop orders', 'shop.orders', 'pulled', 'updated_at', keys => '{order_id}',
                            apply => 'upsert', safety => 'horizon');

SELECT naive_run() AS naive_rows;

SELECT max(updated_at) AS naive_watermark FROM naive;

\echo 'The naive way had gone past the till''s stamps before they were there to see, and never comes back:'
\echo

CREATE VIEW comparison AS
SELECT way, count(t.order_id) AS orders,
       count(*) FILTER (WHERE t.order_id IS NULL) AS lost,
       count(*) FILTER (WHERE t.state <> s.state) AS outdated,
       coalesce(string_agg('order ' || s.order_id || ' ' || s.state, ', ' ORDER BY s.order_id)
                FILTER (WHERE t.state IS DISTINCT FROM s.state), '') AS what_it_missed
  FROM (VALUES ('etl_incremental_pull'), ('updated_at > last')) AS w(way)
 CROSS JOIN shop.orders s
  LEFT JOIN (SELECT 'etl_incremental_pull' AS way, * FROM pulled
             UNION ALL SELECT 'updated_at > last', * FROM naive) t USING (way, order_id)
 GROUP BY way;

SELECT * FROM comparison ORDER BY way;

\set ECHO none
\pset tuples_only on
\pset format unaligned
SELECT demo.check('rows of the first run, all but the one that changed since', :first_read, 19999);
SELECT demo.check('rows of the second run, those of the till and of the others', rows_read, 5)
  FROM etl_patterns.run WHERE name = 'shop orders' ORDER BY run_id DESC LIMIT 1;
SELECT demo.check('orders that differ between pull and shop', count(*), 0)
  FROM ((TABLE shop.orders EXCEPT ALL TABLE pulled) UNION ALL (TABLE pulled EXCEPT ALL TABLE shop.orders)) d;
SELECT demo.check('orders that the naive way has lost', lost, 1) FROM comparison WHERE way LIKE 'updated_at%';
SELECT demo.check('orders that it has as they were before', outdated, 1) FROM comparison WHERE way LIKE 'updated_at%';
SELECT demo.check('the watermark is the greatest stamp',
                  (etl_watermark_get('shop orders')::timestamptz = max(updated_at))::int, 1) FROM shop.orders;
SELECT dblink_disconnect('till'), dblink_disconnect('others') \g /dev/null
\pset tuples_only off
\pset format aligned
