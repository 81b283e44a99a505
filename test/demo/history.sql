-- Section 7 of the demo: a dimension that keeps its history.

\set ECHO none
\pset footer off
\pset null '-'
CREATE TABLE demo.price (sku text, day date, price numeric(10,2), PRIMARY KEY (sku, day));
\set prices :data '/prices.csv'
COPY demo.price FROM :'prices' (FORMAT csv, HEADER);
\set ECHO queries

\echo
\echo '=== 7. What did it cost on that day?'
\echo
\echo 'The shop sends its whole catalogue every day. Prices change, products are renamed, new ones'
\echo 'come, one is withdrawn and comes back. The dimension keeps a version for each price (type 2),'
\echo 'with the former price beside it (type 6); name and kind are written over (type 1).'
\echo

CREATE TABLE catalogue (sku text, name text, kind text, price numeric(10,2));

SELECT etl_scd2_create('product_dim', 'catalogue', '{sku}', tracked => '{price}', overwrite => '{name,kind}',
    previous => '{"price": "previous_price"}', time_type => 'date', open_end => 'infinity');

CREATE FUNCTION take_catalogue(directory text, day date) RETURNS bigint LANGUAGE sql AS $$
    TRUNCATE catalogue;
    SELECT FROM etl_bulk_copy('catalogue', directory || day || '.csv', delimiter => ';', encoding => 'LATIN1');
    SELECT run_id FROM etl_scd2_merge('product_dim', 'catalogue', '{sku}', effective_at => day::text,
        tracked => '{price}', overwrite => '{name,kind}', previous => '{"price": "previous_price"}',
        absent => 'close', max_close_fraction => 0.1);
$$;

\echo
SELECT count(take_catalogue(:'catalogue', day::date)) AS days
  FROM generate_series('2026-01-01'::date, '2026-01-31', '1 day') AS day;

SELECT rows_read AS read, rows_inserted AS inserted, detail->'overwritten' AS overwritten,
       detail->'closed' AS closed, detail->'absent' AS absent, detail->'revived' AS revived,
       rows_unchanged AS unchanged
  FROM etl_patterns.run WHERE operation = 'scd2_merge' ORDER BY run_id LIMIT 15;

\echo 'A price turns out to have been another since the 22nd. The correction goes in where it belongs:'
\echo

CREATE TABLE correction (sku text, price numeric(10,2), since date);

\set corrections :data '/corrections.csv'
SELECT rows_loaded FROM etl_bulk_copy('correction', :'corrections');

SELECT rows_read, opened, closed, corrected, late
  FROM etl_scd2_merge('product_dim', 'correction', '{sku}', sequence_by => 'since', tracked => '{price}',
                      previous => '{"price": "previous_price"}');

SELECT sku, name, price, previous_price AS previous, valid_from, valid_to, is_current
  FROM product_dim WHERE sku = 'P-0042' ORDER BY valid_from;

SELECT * FROM etl_scd2_verify('product_dim', '{sku}', tracked => '{price}');

\echo 'Every return finds the price of its day, or none if the product was not sold then:'
\echo

CREATE VIEW return_at_price AS
SELECT r.return_id, r.sku, r.returned_on, r.quantity, v.price, r.quantity * v.price AS refund
  FROM product_return r
  LEFT JOIN product_dim v ON v.sku = r.sku AND v.valid_from <= r.returned_on AND r.returned_on < v.valid_to;

SELECT count(*) AS returns, count(price) AS with_a_price, sum(refund) AS refund FROM return_at_price;

\set ECHO none
\pset tuples_only on
\pset format unaligned
SELECT demo.check('problems in the history', count(*), 0)
  FROM etl_scd2_verify('product_dim', '{sku}', tracked => '{price}');
SELECT demo.check('versions that repeat the price before',
                  (SELECT count(*) FROM product_dim WHERE price = previous_price), 0);
SELECT demo.check('products and days with another price than the generator''s', count(*), 0)
  FROM (SELECT v.sku, d::date AS day, v.price
          FROM product_dim v, generate_series('2026-01-01'::date, '2026-01-31', '1 day') d
         WHERE v.valid_from <= d AND d < v.valid_to) h
  FULL JOIN demo.price p ON (p.sku, p.day, p.price) = (h.sku, h.day, h.price)
 WHERE h.sku IS NULL OR p.sku IS NULL;
SELECT demo.check('returns, each once', (SELECT count(*) FROM return_at_price), (SELECT count(*) FROM product_return));
SELECT demo.check('refund in cents = that at the generator''s prices',
                  (SELECT sum(refund) * 100 FROM return_at_price)::bigint,
                  (SELECT sum(r.quantity * p.price) * 100
                     FROM product_return r JOIN demo.price p ON p.sku = r.sku AND p.day = r.returned_on)::bigint);
\pset tuples_only off
\pset format aligned
