--
-- Keys that are there already: error, skip, update.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
CREATE TABLE k (id int, part text DEFAULT 'p', v text, n int DEFAULT 0, UNIQUE (id, part), PRIMARY KEY (id));
SELECT file('one.csv', E'id,v\n1,one\n2,two\n');
SELECT file('two.csv', E'id,v\n2,zwei\n3,drei\n3,trois\n');
SELECT load('k', 'one.csv', 'on_conflict => ''skip''');
SELECT load('k', 'two.csv');
SELECT load('k', 'two.csv', 'on_error => ''dead_letter''');
SELECT letters('k');
DELETE FROM k WHERE id = 3;
SELECT load('k', 'two.csv', 'force => true, on_conflict => ''skip''');
SELECT * FROM k ORDER BY id;
DELETE FROM k WHERE id = 3;
UPDATE k SET n = 7;
SELECT load('k', 'two.csv', 'force => true, on_conflict => ''update''');
SELECT * FROM k ORDER BY id;
SELECT rows_read, rows_inserted, rows_updated, rows_unchanged, rows_rejected FROM etl_patterns.run ORDER BY run_id;

-- keys: those of a unique index, in any order; the primary key without.
SELECT file('both.csv', E'part,id,v\np,1,uno\nq,9,nine\np,9,other\n');
SELECT load('k', 'both.csv', 'on_conflict => ''update'', keys => ''{part,id}''');
SELECT load('k', 'both.csv', 'on_conflict => ''update'', keys => ''{part,id}'', on_error => ''dead_letter''');
SELECT letters('k') OFFSET 2;
SELECT load('k', 'both.csv', 'on_conflict => ''update'', keys => ''{v}''');
SELECT load('k', 'both.csv', 'on_conflict => ''update'', keys => ''{id,id}''');
SELECT load('k', 'both.csv', 'on_conflict => ''update'', keys => ''{id,part,v}''');
SELECT file('nokey.csv', E'v\nx\n');
SELECT load('k', 'nokey.csv', 'on_conflict => ''update''');
SELECT load('k', 'nokey.csv', 'on_conflict => ''skip''');
SELECT file('keyonly.csv', E'id\n1\n50\n');
SELECT load('k', 'keyonly.csv', 'on_conflict => ''update''');
SELECT * FROM k ORDER BY id;

-- Bad rows beside conflicts; NULL keys conflict with nothing.
CREATE TABLE u (id int UNIQUE, v int CHECK (v > 0), g int GENERATED ALWAYS AS (v * 2) STORED);
INSERT INTO u VALUES (1, 1);
SELECT file('u.csv', E'id,v\n1,2\n1,-1\nx,1\n,5\n,6\n2,3\n2,4\n3\n');
SELECT load('u', 'u.csv', 'on_conflict => ''update'', keys => ''{id}''');
SELECT load('u', 'u.csv', 'on_conflict => ''update'', keys => ''{id}'', on_error => ''dead_letter''');
SELECT letters('u');
SELECT * FROM u ORDER BY id, v;
SELECT rows_read, rows_inserted, rows_updated, rows_unchanged, rows_rejected FROM etl_patterns.run ORDER BY run_id DESC LIMIT 1;
SELECT load('u', 'u.csv', 'on_conflict => ''skip'', keys => ''{id}'', on_error => ''dead_letter'', force => true');
SELECT * FROM u ORDER BY id, v;

-- What ON CONFLICT cannot use.
CREATE TABLE w (a int, b int, c int UNIQUE DEFERRABLE);
CREATE UNIQUE INDEX ON w (a) WHERE b = 1;
CREATE UNIQUE INDEX ON w (abs(b));
SELECT file('w.csv', E'a,b,c\n1,1,1\n');
SELECT x, load('w', 'w.csv', format('on_conflict => ''skip'', keys => %L', ARRAY[x])) FROM unnest('{a,b,c}'::text[]) x;
-- Partitioned, view, identity.
CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (0) TO (10);
SELECT file('part.csv', E'id,v\n1,a\n1,b\n99,c\n');
SELECT load('part', 'part.csv', 'on_conflict => ''update'', on_error => ''dead_letter''');
SELECT letters('part');
SELECT * FROM part;
CREATE VIEW kv AS SELECT id, v FROM part;
SELECT file('kv.csv', E'id,v\n1,view\n2,new\n');
SELECT load('kv', 'kv.csv', 'on_conflict => ''update'', keys => ''{id}''');
SELECT * FROM part ORDER BY id;
SELECT load('kv', 'kv.csv', 'on_conflict => ''update''');
CREATE TABLE gid (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
SELECT load('gid', 'kv.csv', 'on_conflict => ''update''');
SELECT load('gid', 'part.csv', 'on_conflict => ''update''');
SELECT * FROM gid ORDER BY id;
SELECT sum(rows_read) = sum(rows_inserted + rows_updated + rows_unchanged + rows_rejected) AS add_up FROM etl_patterns.run;
\i :end
