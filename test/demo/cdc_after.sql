-- Section 11 of the demo, after the crash.

\set ECHO none
\pset footer off
\pset null '-'
\set ECHO queries

\echo
\echo 'The server has recovered, the pipeline was started again by itself, and the shop has sold more.'
\echo

SELECT etl_cdc_wait('web', timeout => '60 seconds');

SELECT (SELECT count(*) FROM web.orders) AS orders, (SELECT count(*) FROM order_now) AS mirrored,
       (SELECT count(*) FROM (TABLE web.orders EXCEPT ALL TABLE order_now) a) AS only_source,
       (SELECT count(*) FROM (TABLE order_now EXCEPT ALL TABLE web.orders) b) AS only_mirror;

\echo 'Where a customer lived, and since when:'
\echo

SELECT customer_id, address, valid_from, valid_to
  FROM customer_history WHERE customer_id = 11 ORDER BY valid_from DESC LIMIT 4;

\echo 'What happened to a payment, in Debezium''s envelope:'
\echo

SELECT op, before, after, source ->> 'lsn' AS lsn, source ->> 'txId' AS xid
  FROM payment_event WHERE key ->> 'payment_id' = '5630' ORDER BY change_id;

\echo 'Each of them once, and all of them: played back by SQL they give the table.'
\echo

CREATE TABLE payment_again AS
SELECT p.* FROM (
    SELECT DISTINCT ON (key) op, after FROM payment_event ORDER BY key, change_id DESC) e,
    jsonb_populate_record(NULL::web.payment, e.after) p
 WHERE e.op <> 'd';

SELECT op, count(*) FROM payment_event GROUP BY op ORDER BY op;

\set ECHO none
\pset tuples_only on
\pset format unaligned
SELECT demo.check('orders that differ between mirror and source', count(*), 0)
  FROM ((TABLE web.orders EXCEPT ALL TABLE order_now) UNION ALL (TABLE order_now EXCEPT ALL TABLE web.orders)) d;
SELECT demo.check('customers that differ from what is current in the history', count(*), 0)
  FROM ((SELECT customer_id, name, address FROM customer_history WHERE is_current EXCEPT ALL TABLE web.customer)
        UNION ALL (TABLE web.customer EXCEPT ALL SELECT customer_id, name, address FROM customer_history WHERE is_current)) d;
SELECT demo.check('faults in the history', count(*), 0)
  FROM etl_scd2_verify('customer_history', '{customer_id}', tracked => '{name,address}');
SELECT demo.check('payments that differ from the events played back', count(*), 0)
  FROM ((TABLE web.payment EXCEPT ALL TABLE payment_again) UNION ALL (TABLE payment_again EXCEPT ALL TABLE web.payment)) d;
SELECT demo.check('events of that payment: insert, update, delete', count(*), 3)
  FROM payment_event WHERE key ->> 'payment_id' = '5630';
SELECT demo.check('events that were written twice', count(*) - count(DISTINCT (commit_lsn, ordinal)), 0)
  FROM payment_event WHERE op <> 'r';
SELECT etl_cdc_drop('web') \g /dev/null
SELECT demo.check('replication slots that are left', count(*), 0)
  FROM pg_replication_slots WHERE database = current_database();
\pset tuples_only off
\pset format aligned
