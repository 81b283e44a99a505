--
-- Headers: by name, by position, and none.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
CREATE TABLE t (a int, b text DEFAULT 'def', "Mixed Case" int, "select" text, g int GENERATED ALWAYS AS (1) STORED);
SELECT file('m.csv', E'select,Mixed Case,a\ns,2,1\n');
SELECT load('t', 'm.csv');
SELECT * FROM t;
TRUNCATE t;

-- Unknown, repeated, empty and computed names.
SELECT file('unknown.csv', E'a,nope\n1,2\n');
SELECT load('t', 'unknown.csv');
SELECT file('case.csv', E'A,b\n1,2\n');
SELECT load('t', 'case.csv');
SELECT file('twice.csv', E'a,b,a\n1,2,3\n');
SELECT load('t', 'twice.csv');
SELECT file('unnamed.csv', E'a,\n1,2\n');
SELECT load('t', 'unnamed.csv');
SELECT file('generated.csv', E'a,g\n1,2\n');
SELECT load('t', 'generated.csv');
SELECT file('system.csv', E'ctid,a\n1,2\n');
SELECT load('t', 'system.csv');
SELECT file('spaces.csv', E'a , b\n1,2\n');
SELECT load('t', 'spaces.csv');
SELECT load('t', 'spaces.csv', '"trim" => true');
SELECT file('long.csv', E'a,' || repeat('x', 5000) || E'\n1,2\n');
SELECT substr(l, 1, 60) FROM load('t', 'long.csv') l WHERE l ~ 'ERROR';
SELECT file('broken.csv', E'a,"b\n1,2\n');
SELECT load('t', 'broken.csv', 'on_error => ''dead_letter''');
SELECT file('invalid.csv', 'a,'::bytea || '\xff0a312c320a'::bytea);
SELECT load('t', 'invalid.csv', 'on_error => ''dead_letter''');
SELECT file('blank.csv', E'\na,b\n1,2\n');
SELECT load('t', 'blank.csv');
SELECT load('t', 'blank.csv', 'skip_lines => 1');
SELECT * FROM t;
TRUNCATE t;

-- Quoted names, with a line end in one.
ALTER TABLE t ADD "two
lines" int;
SELECT file('quoted.csv', E'"a","two\nlines"\n1,2\n');
SELECT load('t', 'quoted.csv');
SELECT a, "two
lines" FROM t;
TRUNCATE t;

-- columns restrict a matched header, and name the fields without one.
SELECT file('ab.csv', E'b,a\n2,1\n');
SELECT load('t', 'ab.csv', 'columns => ''{a,b}''');
SELECT load('t', 'ab.csv', 'columns => ''{a}'', force => true');
SELECT load('t', 'ab.csv', 'columns => ''{b,a}'', header => ''skip'', force => true');
SELECT load('t', 'ab.csv', 'columns => ''{b,a}'', header => ''none'', force => true');
SELECT load('t', 'ab.csv', 'columns => ''{b,a}'', header => ''none'', force => true, on_error => ''dead_letter''');
SELECT letters('t');
SELECT a, b FROM t;
TRUNCATE t;

-- Lines before the header.
SELECT file('lines.csv', E'# made by hand\n"not closed\na,b\n1,x\nbad,y\n');
SELECT load('t', 'lines.csv', 'skip_lines => 2');
SELECT load('t', 'lines.csv', 'skip_lines => 3, header => ''none'', columns => ''{a,b}'', on_error => ''dead_letter''');
SELECT letters('t') OFFSET 1;
SELECT load('t', 'lines.csv', 'skip_lines => 99, force => true');
SELECT load('t', 'lines.csv', 'skip_lines => 2147483647, header => ''none'', force => true');
SELECT a, b FROM t;
TRUNCATE t;

-- Files of one load with different headers; the defaults follow.
SELECT file('d1.csv', E'a\n1\n');
SELECT file('d2.csv', E'select,b,a\ns,t,2\n');
SELECT file('d3.csv', E'Mixed Case\n3\nx\n');
SELECT load('t', 'd?.csv', 'on_error => ''dead_letter''');
SELECT a, b, "Mixed Case", "select" FROM t ORDER BY a;
SELECT letters('t') OFFSET 2;
\i :end
