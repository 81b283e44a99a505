-- Sections 1 to 4 of the demo: files become rows, and bad rows dead letters.

\set ECHO none
\pset footer off
\pset null '-'
CREATE SCHEMA demo;

-- Shows a check that holds; one that does not ends the demo.
CREATE FUNCTION demo.check(what text, got bigint, wanted bigint) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
	IF got IS DISTINCT FROM wanted THEN
		RAISE EXCEPTION 'check failed: %: got %, wanted %', what, got, wanted;
	END IF;
	RETURN format('   check: %s (%s)', what, got);
END
$$;

-- What the generator says it wrote, loaded by COPY.
CREATE TABLE demo.written (path text, rows bigint);
CREATE TABLE demo.planted (path text, line_no bigint, category text, kind text);
\set written :data '/written.csv'
\set planted :data '/planted.csv'
COPY demo.written FROM :'written' (FORMAT csv, HEADER);
COPY demo.planted FROM :'planted' (FORMAT csv, HEADER);
\set ECHO queries

\echo
\echo '=== 1. A file that nobody described'
\echo
\echo 'The IEEE registry of network card makers: 30 thousand rows with quotes, commas, line breaks'
\echo 'and accents. Its columns are inferred, a table is created and loaded.'
\echo

CREATE EXTENSION etl_patterns;

SELECT * FROM etl_csv_infer(:'oui');

SELECT etl_create_table_from_csv('oui', :'oui');

SELECT files_loaded, rows_read, rows_loaded, rows_rejected, bytes_read, elapsed
  FROM etl_bulk_copy('oui', :'oui');

\echo 'The same file through a plain COPY, to compare:'
\echo

CREATE TABLE oui_copied (LIKE oui);

COPY oui_copied FROM :'oui' (FORMAT csv, HEADER);

SELECT (SELECT count(*) FROM oui) AS loaded,
       (SELECT count(*) FROM oui_copied) AS copied,
       (SELECT count(*) FROM (TABLE oui EXCEPT ALL TABLE oui_copied) a) AS only_loaded,
       (SELECT count(*) FROM (TABLE oui_copied EXCEPT ALL TABLE oui) b) AS only_copied;

\set ECHO none
\pset tuples_only on
\pset format unaligned
SELECT demo.check('as many rows as COPY', (SELECT count(*) FROM oui), (SELECT count(*) FROM oui_copied));
SELECT demo.check('rows that differ from those of COPY', count(*), 0)
  FROM ((TABLE oui EXCEPT ALL TABLE oui_copied) UNION ALL (TABLE oui_copied EXCEPT ALL TABLE oui)) d;
\pset tuples_only off
\pset format aligned
\set ECHO queries

\echo
\echo '=== 2. The catalogue and a month of returns'
\echo
\echo 'The catalogue comes with semicolons, in LATIN1. The returns come as one file per day: plain,'
\echo 'gzip and zstd; with LF, CRLF, CR and mixed line ends; with a byte order mark; without a last'
\echo 'line end; and with bad rows of every kind.'
\echo

CREATE TABLE product (
    sku text PRIMARY KEY,
    name text NOT NULL,
    kind text NOT NULL,
    price numeric(10,2) NOT NULL CHECK (price > 0));

\echo
\set products :data '/products.csv'
SELECT files_loaded, rows_read, rows_loaded, rows_rejected
  FROM etl_bulk_copy('product', :'products', delimiter => ';', encoding => 'LATIN1');

CREATE TABLE product_return (
    return_id bigint PRIMARY KEY,
    sku text NOT NULL REFERENCES product,
    returned_on date NOT NULL,
    quantity int NOT NULL CHECK (quantity > 0),
    reason text,
    comment text);

\echo
\echo 'COPY loads all rows of a file or none, so the first bad row ends it:'
\echo

\set first_day :data '/returns/2026-01-01.csv'
\set ON_ERROR_STOP off
COPY product_return FROM :'first_day' (FORMAT csv, HEADER);
\set copy_failed :ERROR
\set ON_ERROR_STOP on

\echo
\echo 'With dead letters a bad row costs one row. All files go in, in one transaction:'
\echo

SELECT run_id, files_loaded, rows_read, rows_loaded, rows_rejected, bytes_read, elapsed
  FROM etl_bulk_copy('product_return', :'returns', on_error => 'dead_letter');

\set ECHO none
\pset tuples_only on
\pset format unaligned
SELECT demo.check('COPY failed', (:'copy_failed')::boolean::int, 1);
SELECT demo.check('rows that the generator wrote = rows loaded + dead letters',
                  (SELECT count(*) FROM product_return) +
                  (SELECT count(*) FROM etl_patterns.dead_letter WHERE target = 'product_return'::regclass),
                  (SELECT sum(rows) FROM demo.written WHERE path LIKE '%/returns/%')::bigint);
\pset tuples_only off
\pset format aligned
\set ECHO queries

\echo
\echo '=== 3. The dead letters'
\echo
\echo 'Each one keeps where the row stood, what it held and what is wrong with it.'
\echo

SELECT category, count(*) FROM etl_patterns.dead_letter GROUP BY category ORDER BY category;

\echo 'One example of each:'
\echo

\pset expanded on
SELECT DISTINCT ON (category)
       category, line_no AS line, column_name AS "column", field_value AS value,
       error_message AS error, error_detail AS detail,
       coalesce(raw_record, encode(raw_bytes, 'escape')) AS record
  FROM etl_patterns.dead_letter
 ORDER BY category, dead_letter_id;
\pset expanded off

\set ECHO none
\pset tuples_only on
\pset format unaligned
SELECT demo.check('bad rows that the generator planted = dead letters with that file, line and category',
                  (SELECT count(*) FROM etl_patterns.dead_letter l
                     JOIN demo.planted p ON p.path = l.source_name AND p.line_no = l.line_no
                                        AND p.category = l.category),
                  (SELECT count(*) FROM demo.planted WHERE path LIKE '%/returns/%'));
SELECT demo.check('good rows among the dead letters',
                  (SELECT count(*) FROM etl_patterns.dead_letter l
                    WHERE NOT EXISTS (SELECT FROM demo.planted p
                                       WHERE p.path = l.source_name AND p.line_no = l.line_no)), 0);
\pset tuples_only off
\pset format aligned
\set ECHO queries

\echo
\echo '=== 4. Daily metrics'
\echo
\echo 'The returns have a product, a quantity and a date, because the table asks for them. They are'
\echo 'enriched from the catalogue and merged into one row per product and day. The same call'
\echo 'serves every time: rows that did not change are not written.'
\echo

CREATE TABLE daily_return (
    sku text,
    returned_on date,
    kind text NOT NULL,
    returns bigint NOT NULL,
    units bigint NOT NULL,
    refund numeric NOT NULL,
    PRIMARY KEY (sku, returned_on));

CREATE VIEW daily_return_now AS
SELECT r.sku, r.returned_on, p.kind, count(*) AS returns, sum(r.quantity) AS units,
       sum(r.quantity * p.price) AS refund
  FROM product_return r JOIN product p USING (sku)
 GROUP BY r.sku, r.returned_on, p.kind;

SELECT rows_read, inserted, updated, unchanged, deleted
  FROM etl_upsert('daily_return', 'daily_return_now', '{sku,returned_on}', absent => 'delete');

SELECT rows_read, inserted, updated, unchanged, deleted
  FROM etl_upsert('daily_return', 'daily_return_now', '{sku,returned_on}', absent => 'delete');

SELECT kind, sum(returns) AS returns, sum(units) AS units, sum(refund) AS refund
  FROM daily_return GROUP BY kind ORDER BY refund DESC LIMIT 3;
