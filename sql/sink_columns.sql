--
-- Columns: odd names, defaults, identity, generated, none, very many.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\set dl '''on_error => ''''dead_letter'''''''
-- Names.
CREATE TABLE "My Table" ("select" int, "weird ""name""" text, "it's" text, "a,b" int, "tab	ulator" int, "ÄÖ" int);
SELECT file('odd.csv', E'select,"weird ""name""",it''s,"a,b","tab\tulator",ÄÖ\n1,x,y,2,3,4\nbad,x,y,2,3,4\n1,x,y,bad,3,4\n');
SELECT load('"My Table"', 'odd.csv', :dl);
SELECT * FROM "My Table";
SELECT letters('"My Table"');
SELECT etl_dead_letter_edit(dead_letter_id, '5,x,y,6,7,8') FROM etl_patterns.dead_letter;
SELECT * FROM etl_dead_letter_replay('"My Table"');
SELECT * FROM "My Table";
DELETE FROM "My Table" WHERE "select" = 5;
CREATE UNIQUE INDEX ON "My Table" ("select", "weird ""name""");
SELECT load('"My Table"', 'odd.csv', $$force => true, on_conflict => 'update', keys => '{select,"weird \"name\""}', $$ || :dl);
CREATE SCHEMA "Odd ""schema";
CREATE TABLE "Odd ""schema"."from" ("user" int PRIMARY KEY, "order" text);
SELECT file('from.csv', E'user,order\n1,x\n1,y\n');
SELECT load('"Odd ""schema"."from"', 'from.csv', 'on_conflict => ''update''');
SELECT * FROM "Odd ""schema"."from";
SET client_min_messages = warning;
DROP SCHEMA "Odd ""schema" CASCADE;
RESET client_min_messages;
-- A table and columns named as those that the loader uses.
CREATE TABLE etl_batch (row_no int PRIMARY KEY, c1 int, c2 int, newest int, excluded int);
SELECT file('batch.csv', E'c2,c1,row_no,newest,excluded\n1,2,3,4,5\n6,7,3,8,9\n');
SELECT load('etl_batch', 'batch.csv', 'on_conflict => ''update''');
SELECT * FROM etl_batch;

-- Dropped columns, and defaults of those that are missing.
CREATE SEQUENCE s;
CREATE FUNCTION side() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN nextval('s') * 10; END $$;
CREATE TABLE d (gone int, id serial, x int, gone2 text NOT NULL, v int DEFAULT side(), k text DEFAULT 'const',
    n int, g int GENERATED ALWAYS AS (x * 2) STORED, late int);
ALTER TABLE d DROP COLUMN gone, DROP COLUMN gone2;
ALTER TABLE d ADD COLUMN added int DEFAULT 42;
SELECT file('d.csv', E'x,late\n1,1\n2,\nbad,3\n4,4\n');
SELECT load('d', 'd.csv', :dl);
SELECT * FROM d ORDER BY x;
-- A default that fails for some rows costs these.
CREATE FUNCTION moody() RETURNS int LANGUAGE plpgsql AS
$$ BEGIN IF nextval('s') % 3 = 0 THEN RAISE 'bad mood'; END IF; RETURN 1; END $$;
ALTER SEQUENCE s RESTART;
CREATE TABLE m (x int, mood int DEFAULT moody());
SELECT file('m.csv', E'x\n1\n2\n3\n4\n5\n6\n7\n');
SELECT load('m', 'm.csv', :dl);
SELECT letters('m');
SELECT * FROM m ORDER BY x;

-- Identity, as COPY: the file's value is taken, GENERATED ALWAYS or not.
CREATE TABLE ident (id int GENERATED ALWAYS AS IDENTITY, b text);
SELECT file('ident.csv', E'id,b\n77,x\n');
SELECT file('ident2.csv', E'b\ny\n');
SELECT file('ident3.csv', E'id,b\n,z\n78,zz\n');
SELECT load('ident', 'ident*.csv', :dl);
SELECT * FROM ident ORDER BY b;
SELECT letters('ident');
SELECT as_copy('ident', 'ident.csv');

-- A generated column that fails.
CREATE TABLE gen (a int, g int GENERATED ALWAYS AS (100 / a) STORED CHECK (g < 60));
SELECT file('gen2.csv', E'a\n10\n1\n2\n0\n\n');
SELECT load('gen', 'gen2.csv', :dl);
SELECT letters('gen');
SELECT * FROM gen ORDER BY a;

-- One column, none, very many.
CREATE TABLE none ();
SELECT file('none.csv', E'\n\n\n');
SELECT load('none', 'none.csv', 'header => ''none'', ' || :dl);
SELECT count(*) FROM none;
SELECT load('none', 'none.csv', 'force => true, ' || :dl);
CREATE TABLE only_generated (g int GENERATED ALWAYS AS (1) STORED);
SELECT load('only_generated', 'none.csv', 'header => ''none''');
SELECT file('some.csv', E'1\n');
SELECT load('none', 'some.csv', 'header => ''none'', ' || :dl);
DO $$ BEGIN EXECUTE 'CREATE TABLE wide (' || (SELECT string_agg('c' || i || ' int', ', ' ORDER BY i) FROM generate_series(1, 1600) i) || ')'; END $$;
SELECT file('wide.csv', (SELECT string_agg('c' || i, ',' ORDER BY i DESC) || E'\n' || string_agg(i::text, ',' ORDER BY i DESC) || E'\n'
    || string_agg('', ',') || E'\n' || string_agg('x', ',') || E'\n' || '1,2' || E'\n' FROM generate_series(1, 1600) i));
SELECT load('wide', 'wide.csv', :dl);
SELECT c1, c800, c1600 FROM wide ORDER BY c1;
SELECT line_no, category, column_name, error_message FROM etl_patterns.dead_letter WHERE target = 'wide'::regclass;
SELECT load('wide', 'wide.csv', 'force => true, on_conflict => ''skip'', keys => ''{c1}'', ' || :dl);
CREATE UNIQUE INDEX ON wide (c1);
SELECT load('wide', 'wide.csv', 'force => true, on_conflict => ''skip'', keys => ''{c1}'', ' || :dl);

-- Rows too big for a page, and fields that are large.
SELECT file('big.csv', (SELECT string_agg('c' || i, ',' ORDER BY i) || E'\n' || string_agg(repeat('x', 100), ',') || E'\n'
    || string_agg('y', ',') || E'\n' FROM generate_series(1, 1600) i));
DO $$ BEGIN EXECUTE 'CREATE TABLE big (' || (SELECT string_agg('c' || i || ' text', ', ' ORDER BY i) FROM generate_series(1, 1600) i) || ')'; END $$;
SELECT load('big', 'big.csv', :dl);
SELECT line_no, category, error_code, regexp_replace(error_message, '\d+', 'N') FROM etl_patterns.dead_letter WHERE target = 'big'::regclass;
CREATE TABLE idx (t text);
CREATE INDEX ON idx (t);
SELECT file('idx.csv', (SELECT E't\nshort\n' || string_agg(md5(i::text), '' ORDER BY i) || E'\nlast\n' FROM generate_series(1, 1000) i));
SELECT load('idx', 'idx.csv', :dl);
SELECT line_no, category, error_code, left(error_message, 20), length(raw_record) FROM etl_patterns.dead_letter WHERE target = 'idx'::regclass;
SELECT t FROM idx ORDER BY t;
SELECT file('large.csv', E't\n"' || repeat(E'0123456789,\n', 1000000) || E'"\nend\n');
CREATE TABLE large (t text);
SELECT load('large', 'large.csv', :dl);
SELECT length(t), left(t, 3) FROM large;
SELECT sum(rows_read) = sum(rows_inserted + rows_updated + rows_unchanged + rows_rejected) AS add_up FROM etl_patterns.run;
\i :end
