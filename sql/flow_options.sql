--
-- Options: every wrong word and value is an error before anything is read.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
CREATE TABLE t (a int, b text, g int GENERATED ALWAYS AS (a * 2) STORED);
SELECT file('t.csv', E'a,b\n1,x\n');

-- Words.
SELECT option, load('t', 'missing.csv', option || ' => ''MAYBE''')
FROM unnest('{header,compression,on_error,on_conflict,indexes,after_load,encoding}'::text[]) option;
SELECT load('t', 't.csv', 'header => ''Match''');
SELECT load('t', 't.csv', 'header => ''''');

-- NULL.
SELECT option, load('t', 'missing.csv', option || ' => NULL')
FROM unnest('{header,delimiter,quote,null_strings,compression,on_error,on_conflict,indexes,after_load}'::text[]) option;
SELECT load('t', 't.csv', 'escape => NULL, "trim" => NULL, skip_lines => NULL, encoding => NULL,'
    ' reject_limit => NULL, reject_ratio => NULL, keys => NULL, workers => NULL, force => NULL,'
    ' move_to => NULL, dry_run => NULL, columns => NULL');
SELECT try('SELECT * FROM etl_bulk_copy(NULL, ''/x'')');
SELECT try('SELECT * FROM etl_bulk_copy(''t'', NULL)');
SELECT load('t', 't.csv', 'null_strings => ''{a,NULL}''');
SELECT load('t', 't.csv', 'columns => ''{a,NULL}''');
SELECT load('t', 't.csv', 'keys => ''{NULL}'', on_conflict => ''skip''');

-- Delimiter, quote, escape: one byte each, and not a line end.
SELECT replace(quote_literal(d), E'\r', '\r') AS d, load('t', 'missing.csv', format('delimiter => %L', d))
FROM unnest(ARRAY['', ',,', 'é', E'\n', E'\r', '"']) d;
SELECT replace(quote_literal(q), E'\r', '\r') AS q, load('t', 'missing.csv', format('quote => %L', q))
FROM unnest(ARRAY['', '""', '“', E'\n', E'\r', ',']) q;
SELECT replace(quote_literal(e), E'\r', '\r') AS e, load('t', 'missing.csv', format('escape => %L', e))
FROM unnest(ARRAY['', '\\', 'é', E'\n', E'\r', ',']) e;
SELECT load('t', 't.csv', 'delimiter => ''x'', quote => ''x''');
SELECT load('t', 't.csv', 'null_strings => ''{"a,b"}''');
SELECT load('t', 't.csv', 'null_strings => ''{"\""}''');
SELECT load('t', 't.csv', format('null_strings => %L', ARRAY[E'a\nb']));

SELECT load('t', 't.csv', '"trim" => true, null_strings => ''{" "}''');
SELECT load('t', 't.csv', '"trim" => true, null_strings => ''{"",N A,"NULL "}''');
SELECT load('t', 't.csv', format('"trim" => true, null_strings => %L', ARRAY[E'\tx']));
SELECT load('t', 't.csv', '"trim" => true, null_strings => ''{"",N A}'', dry_run => true');
SELECT load('t', 't.csv', 'null_strings => ''{" "}'', dry_run => true');

-- Numbers.
SELECT load('t', 't.csv', 'skip_lines => -1');
SELECT load('t', 't.csv', 'workers => -1');
SELECT load('t', 't.csv', 'on_error => ''skip'', reject_limit => -1');
SELECT load('t', 't.csv', 'on_error => ''skip'', reject_ratio => -0.1');
SELECT load('t', 't.csv', 'on_error => ''skip'', reject_ratio => 1.1');
SELECT load('t', 't.csv', 'on_error => ''skip'', reject_ratio => ''NaN''');

-- What has no meaning together.
SELECT load('t', 't.csv', 'reject_limit => 1');
SELECT load('t', 't.csv', 'reject_ratio => 0');
SELECT load('t', 't.csv', 'keys => ''{a}''');
SELECT load('t', 't.csv', 'after_load => ''move''');
SELECT load('t', 't.csv', 'move_to => ''/tmp''');
SELECT load('t', 't.csv', 'after_load => ''move'', move_to => ''tmp''');

-- Columns.
SELECT load('t', 't.csv', 'columns => ''{a,zz}''');
SELECT load('t', 't.csv', 'columns => ''{a,zz}'', header => ''skip''');
SELECT load('t', 't.csv', 'columns => ''{a,g}'', header => ''skip''');
SELECT load('t', 't.csv', 'columns => ''{a,a}'', header => ''skip''');
SELECT load('t', 't.csv', 'columns => ''{ctid,a}'', header => ''skip''');
SELECT load('t', 't.csv', 'columns => ''{A,b}'', header => ''skip''');
-- An empty list is no list.
SELECT load('t', 't.csv', 'columns => ''{}'', header => ''none'', force => true');
-- The same before any file is there.
SELECT load('t', 'missing.csv', 'columns => ''{a,zz}''');
SELECT load('t', 'missing.csv', 'on_conflict => ''skip'', keys => ''{zz}''');
SELECT load('t', 't.csv', 'on_conflict => ''skip'', keys => ''{zz}'', force => true');
SELECT load('t', 't.csv', 'on_conflict => ''update'', keys => ''{b}'', force => true');
SELECT load('t', 't.csv', 'on_conflict => ''update'', force => true');
SELECT try('SELECT * FROM etl_bulk_copy(0, ''/x'')');
SELECT try('SELECT * FROM etl_bulk_copy(4294967295, ''/x'')');
SELECT count(*) FROM t;

-- The run says what was done with workers: t has a generated column.
CREATE TABLE plain (a int, b text);
SELECT load('plain', 't.csv', 'workers => 1');
SELECT load('plain', 't.csv', 'force => true');
SELECT load('plain', 't.csv', 'workers => 1, force => true, encoding => ''latin1''');
SELECT load('t', 't.csv', 'workers => 1, force => true');
SELECT detail -> 'workers' FROM etl_patterns.run ORDER BY run_id DESC LIMIT 4;
-- What is the same in each row of a load leaves it to workers; a sequence does not.
CREATE TABLE stamped (a int, b text, at timestamptz(0) DEFAULT now(), local timestamp DEFAULT now(),
    day date DEFAULT current_date, who name DEFAULT current_user);
CREATE TABLE numbered (a int, b text, n serial);
BEGIN;
SELECT load('stamped', 't.csv', 'workers => 1');
SELECT load('numbered', 't.csv', 'workers => 1');
SELECT a, b, at = now()::timestamptz(0) AS at, local = localtimestamp AS local, day = current_date AS day,
    who = current_user AS who FROM stamped;
SELECT a, b, n FROM numbered;
COMMIT;
SELECT detail -> 'workers' FROM etl_patterns.run ORDER BY run_id DESC LIMIT 2;
\i :end
