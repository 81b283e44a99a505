-- Section 9 of the demo, after the crash.

\set ECHO none
\pset footer off
\set ECHO queries

\echo
\echo 'The server has recovered. The load had written to the table, but nothing of it is there: no row,'
\echo 'no dead letter, no file.'
\echo

SELECT pg_size_pretty(pg_relation_size('crashed')) AS written,
       (SELECT count(*) FROM crashed) AS rows,
       (SELECT count(*) FROM etl_patterns.dead_letter WHERE target = 'crashed'::regclass) AS dead_letters,
       (SELECT count(*) FROM etl_patterns.loaded_file WHERE target = 'crashed'::regclass) AS files;

\set ECHO none
\pset tuples_only on
\pset format unaligned
SELECT demo.check('the load was under way', (pg_relation_size('crashed') > 0)::int, 1);
SELECT demo.check('rows, dead letters and files after the crash',
                  (SELECT count(*) FROM crashed) +
                  (SELECT count(*) FROM etl_patterns.dead_letter WHERE target = 'crashed'::regclass) +
                  (SELECT count(*) FROM etl_patterns.loaded_file WHERE target = 'crashed'::regclass), 0);
\pset tuples_only off
\pset format aligned
\set ECHO queries

\echo
SELECT files_loaded, files_skipped, rows_read, rows_loaded, rows_rejected, elapsed
  FROM etl_bulk_copy('crashed', :'returns', on_error => 'dead_letter');

SELECT (SELECT count(*) FROM crashed) AS crashed,
       (SELECT count(*) FROM undisturbed) AS undisturbed,
       (SELECT count(*) FROM (TABLE crashed EXCEPT ALL TABLE undisturbed) a) AS only_crashed,
       (SELECT count(*) FROM (TABLE undisturbed EXCEPT ALL TABLE crashed) b) AS only_undisturbed;

\set ECHO none
\pset tuples_only on
\pset format unaligned
CREATE VIEW demo.letter AS
SELECT target::regclass::text AS target, source_name, line_no, row_no, byte_offset, column_name, field_value,
       category, error_code, raw_record, raw_bytes
  FROM etl_patterns.dead_letter;
SELECT demo.check('as many rows as without the crash',
                  (SELECT count(*) FROM crashed), (SELECT count(*) FROM undisturbed));
SELECT demo.check('rows that differ', count(*), 0)
  FROM ((TABLE crashed EXCEPT ALL TABLE undisturbed) UNION ALL (TABLE undisturbed EXCEPT ALL TABLE crashed)) d;
SELECT demo.check('dead letters that differ', count(*), 0)
  FROM (SELECT to_jsonb(l) - 'target' AS letter
          FROM demo.letter l WHERE target IN ('crashed', 'undisturbed')
         GROUP BY 1 HAVING count(*) <> 2) d;
\pset tuples_only off
\pset format aligned
