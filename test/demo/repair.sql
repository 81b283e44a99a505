-- Sections 5 and 6 of the demo: bad rows are mended, and loads repeated.

\set ECHO none
\pset footer off
\pset null '-'
SELECT count(*) AS in_table FROM product_return \gset
\set ECHO queries

\echo
\echo '=== 5. Mend and replay'
\echo
\echo 'The catalogue gets the products that it lacked. Quantities that were written as words are edited,'
\echo 'and records that turned out to be LATIN1 are decoded. Rows that were sent twice are discarded.'
\echo

\set products :data '/products_new.csv'
SELECT rows_read, rows_loaded FROM etl_bulk_copy('product', :'products', delimiter => ';', encoding => 'LATIN1');

SELECT count(etl_dead_letter_edit(dead_letter_id, replace(raw_record, ',two,', ',2,'))) AS edited
  FROM etl_patterns.dead_letter
 WHERE status = 'pending' AND column_name = 'quantity' AND field_value = 'two';

SELECT count(etl_dead_letter_edit(dead_letter_id, convert_from(raw_bytes, 'LATIN1'))) AS decoded
  FROM etl_patterns.dead_letter
 WHERE status = 'pending' AND category = 'encoding' AND position('\x00'::bytea IN raw_bytes) = 0;

SELECT etl_dead_letter_discard(array_agg(dead_letter_id)) AS discarded
  FROM etl_patterns.dead_letter
 WHERE status = 'pending' AND category = 'unique';

\echo 'The replay takes every pending letter through the same load again; what is still bad stays:'
\echo

SELECT * FROM etl_dead_letter_replay('product_return');

SELECT category, status, count(*), max(attempts) AS attempts
  FROM etl_patterns.dead_letter GROUP BY category, status ORDER BY category, status;

SELECT rows_read, inserted, updated, unchanged, deleted
  FROM etl_upsert('daily_return', 'daily_return_now', '{sku,returned_on}', absent => 'delete');

\set ECHO none
\pset tuples_only on
\pset format unaligned
SELECT demo.check('replayed letters = mended rows',
                  (SELECT count(*) FROM etl_patterns.dead_letter WHERE status = 'replayed'),
                  (SELECT count(*) FROM demo.planted
                    WHERE path LIKE '%/returns/%'
                      AND kind IN ('unknown product', 'word for a number', 'invalid UTF-8')));
SELECT demo.check('rows in the table = rows before + replayed letters',
                  (SELECT count(*) FROM product_return),
                  :in_table + (SELECT count(*) FROM etl_patterns.dead_letter WHERE status = 'replayed'));
\pset tuples_only off
\pset format aligned
\set ECHO queries

\echo
\echo '=== 6. The same call again'
\echo
\echo 'Files that are in are skipped, whatever they are called now; a file that is new is loaded.'
\echo 'First the same directory again, then with a file renamed and the file of a late day added.'
\echo

SELECT files_loaded, files_skipped, rows_read, rows_loaded, elapsed
  FROM etl_bulk_copy('product_return', :'returns', on_error => 'dead_letter');

\setenv DATA :data
\! mv "$DATA/returns/2026-01-02.csv" "$DATA/returns/second_day.csv"
\! mv "$DATA/late/2026-01-31.csv" "$DATA/returns/"
\! echo '$ ls returns'; ls "$DATA/returns" | tail -n 3; echo

SELECT files_loaded, files_skipped, rows_read, rows_loaded, rows_rejected
  FROM etl_bulk_copy('product_return', :'returns', on_error => 'dead_letter');

SELECT rows_read, inserted, updated, unchanged, deleted
  FROM etl_upsert('daily_return', 'daily_return_now', '{sku,returned_on}', absent => 'delete');

\set ECHO none
\pset tuples_only on
\pset format unaligned
SELECT demo.check('files in the table, each once',
                  (SELECT count(DISTINCT content_hash) FROM etl_patterns.loaded_file
                    WHERE target = 'product_return'::regclass),
                  (SELECT count(*) FROM demo.written));
SELECT demo.check('files loaded twice',
                  (SELECT count(*) - count(DISTINCT content_hash) FROM etl_patterns.loaded_file
                    WHERE target = 'product_return'::regclass), 0);
\pset tuples_only off
\pset format aligned
