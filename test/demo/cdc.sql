-- Section 11 of the demo: what changes in the shop's tables is followed.

\set ECHO none
\pset footer off
\pset null '-'
\set ECHO queries

\echo
\echo '=== 11. Changes, as they are committed'
\echo
\echo 'The web shop writes its orders, customers and payments into this database. The warehouse wants the'
\echo 'orders as they are, the customers'' addresses as they were at any time, and each change of a payment'
\echo 'as an event. A pipeline reads all that from the WAL: nothing is added to the tables that it follows.'
\echo

CREATE SCHEMA web;

CREATE TABLE web.orders (order_id int PRIMARY KEY, customer_id int, state text, total numeric);

CREATE TABLE web.customer (customer_id int PRIMARY KEY, name text, address text);

CREATE TABLE web.payment (payment_id int PRIMARY KEY, order_id int, amount numeric, state text);

\set ECHO none
INSERT INTO web.customer SELECT i, 'customer ' || i, i || ' Harbour Street' FROM generate_series(1, 200) i;
INSERT INTO web.orders SELECT i, i % 200 + 1, 'paid', i % 90 + 9.99 FROM generate_series(1, 5000) i;

-- What the shop does all day: in one transaction an order with its payment, and
-- changes of those before; now and then somebody moves, or takes it all back.
CREATE SEQUENCE demo.order_ids START 5001;
CREATE PROCEDURE demo.sell(orders int) LANGUAGE plpgsql AS $$
DECLARE
	id int;
BEGIN
	FOR i IN 1 .. orders LOOP
		id := nextval('demo.order_ids');
		INSERT INTO web.orders VALUES (id, id % 200 + 1, 'new', id % 90 + 9.99);
		INSERT INTO web.payment VALUES (id, id, id % 90 + 9.99, 'pending');
		UPDATE web.orders SET state = 'shipped' WHERE order_id = id - 7;
		UPDATE web.payment SET state = 'settled' WHERE payment_id = id - 3;
		IF id % 10 = 0 THEN
			UPDATE web.customer SET address = id || ' New Road' WHERE customer_id = id % 200 + 1;
		END IF;
		IF id % 50 = 0 THEN
			DELETE FROM web.orders WHERE order_id = id - 20;
			DELETE FROM web.payment WHERE payment_id = id - 20;
		END IF;
		IF id % 30 = 0 THEN
			ROLLBACK;
		END IF;
		COMMIT;
	END LOOP;
END
$$;
\set ECHO queries

CREATE TABLE order_now (LIKE web.orders INCLUDING ALL);

SELECT etl_scd2_create('customer_history', 'web.customer', keys => '{customer_id}', tracked => '{name,address}');

SELECT etl_cdc_create_changelog('payment_event');

SELECT etl_cdc_create('web');

SELECT etl_cdc_add_table('web', 'web.orders', 'order_now');

SELECT etl_cdc_add_table('web', 'web.customer', 'customer_history', apply => 'scd2');

SELECT etl_cdc_add_table('web', 'web.payment', 'payment_event', apply => 'changelog');

SELECT etl_cdc_start('web');

\echo 'The rows that were there are copied; then the shop is at work, and what it commits follows:'
\echo

SELECT etl_cdc_wait('web');

CALL demo.sell(500);

SELECT etl_cdc_wait('web');

SELECT state, transactions, reads, inserts, updates, deletes
  FROM etl_patterns.cdc_status;

\echo 'How long until a commit is in its target? Twenty orders, one after the other:'
\echo

\set ECHO none
CREATE TABLE demo.delay (ms numeric);
CREATE PROCEDURE demo.measure() LANGUAGE plpgsql AS $$
DECLARE
	started timestamptz;
BEGIN
	FOR i IN 1 .. 20 LOOP
		INSERT INTO web.orders VALUES (-i, 1, 'new', 1);
		started := clock_timestamp();
		COMMIT;
		WHILE NOT EXISTS (SELECT FROM public.order_now WHERE order_id = -i) LOOP
			COMMIT;
		END LOOP;
		INSERT INTO demo.delay VALUES (extract(epoch FROM clock_timestamp() - started) * 1000);
	END LOOP;
END
$$;
CALL demo.measure();
\set ECHO queries

SELECT round(percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)::numeric, 1) AS median_ms, round(max(ms), 1) AS max_ms
  FROM demo.delay;
