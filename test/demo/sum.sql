-- Section 12 of the demo: the counts.

\set ECHO none
\pset footer off
\pset null '-'
\set ECHO queries

\echo
\echo '=== 12. The sum'
\echo
\echo 'Every run left a row with what it read and what became of it. Nothing is lost: each row that'
\echo 'was read is in the table, or a dead letter says why it is not.'
\echo

SELECT operation, target, count(*) AS runs, sum(rows_read) AS read, sum(rows_inserted) AS inserted,
       sum(rows_updated) AS updated, sum(rows_deleted) AS deleted, sum(rows_unchanged) AS unchanged,
       sum(rows_rejected) AS rejected
  FROM etl_patterns.run GROUP BY operation, target ORDER BY min(run_id);

SELECT (SELECT sum(rows) FROM demo.written) AS rows_in_files,
       (SELECT count(*) FROM product_return) AS rows_in_table,
       count(*) FILTER (WHERE status = 'replayed') AS replayed,
       count(*) FILTER (WHERE status = 'pending') AS pending,
       count(*) FILTER (WHERE status = 'discarded') AS discarded
  FROM etl_patterns.dead_letter WHERE target = 'product_return'::regclass;

\set ECHO none
\pset tuples_only on
\pset format unaligned
SELECT demo.check('rows in the files = rows in the table + pending + discarded',
                  (SELECT count(*) FROM product_return) +
                  (SELECT count(*) FROM etl_patterns.dead_letter
                    WHERE target = 'product_return'::regclass AND status IN ('pending', 'discarded')),
                  (SELECT sum(rows) FROM demo.written)::bigint);
SELECT demo.check('runs whose counts do not add up', count(*), 0)
  FROM etl_patterns.run
 WHERE rows_read <> rows_inserted + rows_updated + rows_deleted + rows_unchanged + rows_rejected;
SELECT demo.check('units in the daily metrics = units returned',
                  (SELECT sum(units) FROM daily_return)::bigint,
                  (SELECT sum(quantity) FROM product_return));
