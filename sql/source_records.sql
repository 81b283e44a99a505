--
-- Records: every shape of line end, quote and blank, next to COPY.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
CREATE TABLE t (a int, b text, c text);
CREATE TABLE one (x text);
-- Loads, shows what went in, and compares with COPY; then starts afresh.
CREATE FUNCTION show(target text, content text, options text DEFAULT '',
    copy_options text DEFAULT 'FORMAT csv') RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('TRUNCATE %s', target);
    PERFORM file('x.csv', content);
    RETURN QUERY SELECT load(target, 'x.csv', 'header => ''none'', force => true'
        || CASE WHEN options = '' THEN '' ELSE ', ' || options END);
    RETURN QUERY EXECUTE format('SELECT ''  '' || replace(replace(t::text, E''\r'', ''\r''), E''\n'', ''\n'') FROM %s t', target);
    RETURN QUERY SELECT '  letter ' || letters(target);
    RETURN QUERY SELECT '  ' || as_copy(target, 'x.csv', copy_options);
    PERFORM etl_dead_letter_discard(array_agg(dead_letter_id)) FROM etl_patterns.dead_letter;
END $$;
\set dl '''on_error => ''''dead_letter'''''''

-- Line ends.
SELECT show('t', E'1,x,y\n2,x,y\n');
SELECT show('t', E'1,x,y\r\n2,x,y\r\n');
SELECT show('t', E'1,x,y\r2,x,y\r');
SELECT show('t', E'1,x,y\n2,x,y');
SELECT show('t', E'1,x,y\r\n2,x,y');
SELECT show('t', E'1,x,y\r2,x,"y"');
SELECT show('t', E'1,x,y\n2,x,y\r\n3,x,y\r4,x,y\n');
SELECT show('t', E'1,x,y\r\n2,x,y\n3,x,y\r4,x,y\r\n');
SELECT show('t', E'1,"x\r\ny","\n"\r\n2,"\r",""\r\n');

-- Too few, too many.
SELECT show('t', E'1,x\n');
SELECT show('t', E'1,x,y,z\n');
SELECT show('t', E'1,x\n2,x,y\n3,x,y,z\n4,,\n,,\n5\n', :dl);
SELECT show('t', E'1,x,y,\n', :dl);
SELECT show('one', E'x,\n', :dl);

-- As many as a table can have, and more.
DO $$ BEGIN
    EXECUTE (SELECT format('CREATE TABLE wide (%s)', string_agg('c' || i || ' "char"', ', ')) FROM generate_series(1, 1600) i);
END $$;
SELECT file('wide.csv', repeat('x,', 1599) || E'z\n');
SELECT load('wide', 'wide.csv', 'header => ''none''');
SELECT as_copy('wide', 'wide.csv', 'FORMAT csv');
SELECT c1, c1599, c1600 FROM wide;
SELECT file('wider.csv', repeat('x,', 1600) || E'z\n');
SELECT load('wide', 'wider.csv', 'header => ''none''');
SELECT file('comma.csv', repeat(',', 3000000) || E'\n' || repeat('"x",', 3000000) || E'\n1,x,y\n');
SELECT load('t', 'comma.csv', 'header => ''none'', on_error => ''skip''');
SELECT load('t', 'comma.csv', 'header => ''none'', "trim" => true, on_error => ''skip'', force => true');
SELECT load('t', 'comma.csv', 'force => true');

-- Blank lines.
SELECT show('t', E'1,x,y\n\n2,x,y\n', :dl);
SELECT show('t', E'1,x,y\n \n2,x,y\n\n', :dl);
SELECT show('one', E'x\n\ny\n\n');
SELECT show('one', E'\n');
SELECT show('one', E'\n\n""\n" "\n');
-- COPY takes this for the end of the data, before PostgreSQL 18; here it is data.
SELECT regexp_replace(show('one', E'x\n\\.\ny\n'),
    '2 rows that COPY has not, COPY has 0 more|as COPY: 3 rows', 'as COPY, or with 2 rows that it has not');
SELECT show('one', E'"\\."\n');

-- Quotes.
SELECT show('t', E'1,"a ""quoted"" word","a,b"\n');
SELECT show('t', E'1,a "quoted" word,b"c"d\n');
SELECT show('t', E'1,"a"b,c"d""e"f\n');
SELECT show('t', E'1,"",""""\n');
SELECT show('t', E'"1","x","y"\n"2" ,"x" ,"y" \n');
SELECT show('t', E'1,5" pipe,y\n2,x,y\n');
SELECT show('t', E'1,5" pipe,y\n2,x,y\n3,x,y\n', :dl);
SELECT show('t', E'1,x,y\n"2,x,y\n3,x,y\n4,x,y\n', :dl);
SELECT show('t', E'1,x,y\n2,x,y\n3,x,"y\n', :dl);
SELECT show('t', E'1,x,"y\n2,x,y\n3,"x,y\n4,x,y\n5,x",y\n6,x,y\n', :dl);
SELECT show('t', E'1,x,y"\n2,x,y\n3,"z",y\n4,x,y\n', :dl);
SELECT show('t', E'"\n', :dl);
SELECT show('t', E'1,x,y\n"', :dl);
SELECT show('t', E'1,x,"two\nlines"\n2,"three\nlines\n",y\n"bad\n3,x,y\n', :dl);
SELECT show('one', E'"open\nx\ny\n', :dl);
SELECT show('one', E'"open\nx\ny\n');

-- A line end of another kind is bad where it stands alone.
SELECT show('t', E'1,x,y\n2,x,y\r\n3,x,y\r4,x,y\n5,x,y\n', :dl);
SELECT show('t', E'1,x,y\r\n2,x,y\n3,x,y\r4,x,y\r\n5,x,y\r\n', :dl);
SELECT show('t', E'1,x,y\r2,x,y\n3,x,y\r\n4,x,y\r', :dl);

-- Escape, quote and delimiter of one's own.
SELECT show('t', E'1,"a \\"b\\" \\\\","c\\d"\n', $$escape => '\'$$, $$FORMAT csv, ESCAPE '\'$$);
SELECT show('t', E'1,"a""b",y\n', $$escape => '\'$$, $$FORMAT csv, ESCAPE '\'$$);
SELECT show('t', E'1;''x;y'';''it''''s''\n', $$delimiter => ';', quote => ''''$$, $$FORMAT csv, DELIMITER ';', QUOTE ''''$$);
SELECT show('t', E'1\tx y\t\n', $$delimiter => E'\t'$$, $$FORMAT csv, DELIMITER E'\t'$$);
SELECT show('t', E'1|x|"|"\n', $$delimiter => '|'$$, $$FORMAT csv, DELIMITER '|'$$);
SELECT show('t', E'1\x01x\x01y\n', $$delimiter => E'\x01'$$, $$FORMAT csv, DELIMITER E'\x01'$$);
SELECT show('t', E'1 x y\n', $$delimiter => ' '$$, $$FORMAT csv, DELIMITER ' '$$);
SELECT show('t', E'1ax"\x01y\n', $$delimiter => 'a', quote => E'\x02'$$, $$FORMAT csv, DELIMITER 'a', QUOTE E'\x02'$$);

-- NULL.
SELECT show('t', E',,\n"","",""\n', :dl);
SELECT show('t', E'1,,""\n');
SELECT show('t', E'1,NULL,"NULL"\n2,null,\\N\n', $$null_strings => '{"NULL"}'$$, $$FORMAT csv, NULL 'NULL'$$);
SELECT show('t', E'NULL,NA,"NA"\n\\N,,-\n', $$null_strings => '{"NULL",NA,"",\\N}'$$);
SELECT show('t', E'1,,y\n', $$null_strings => '{}'$$);
SELECT show('t', E',x,y\n', $$null_strings => '{}', $$ || :dl);
SELECT show('t', E' 1 , x , " y "\n', $$"trim" => true$$);
SELECT show('t', E' 1 ,  , NA \n', $$"trim" => true, null_strings => '{"",NA}'$$);
SELECT show('t', E' 1 ,  , NA \n', $$null_strings => '{"",NA}'$$);
\i :end
