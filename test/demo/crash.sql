-- Section 9 of the demo: two tables for one load that is left alone, and one
-- that is not.

\set ECHO none
\pset footer off
\set ECHO queries

\echo
\echo '=== 9. A crash in the middle of a load'
\echo
\echo 'The same files go into two more tables. One load is left alone. The server process that runs'
\echo 'the other is killed in the middle of it, and the load is then simply called again.'
\echo

CREATE TABLE undisturbed (LIKE product_return INCLUDING ALL, FOREIGN KEY (sku) REFERENCES product);

CREATE TABLE crashed (LIKE product_return INCLUDING ALL, FOREIGN KEY (sku) REFERENCES product);

SELECT files_loaded, rows_read, rows_loaded, rows_rejected, elapsed
  FROM etl_bulk_copy('undisturbed', :'returns', on_error => 'dead_letter');
