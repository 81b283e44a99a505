--
-- Guessing columns and types of a file, and a table of them.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
CREATE FUNCTION infer(name text, options text DEFAULT '') RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT format(''%%s: %%s%%s, such as %%s'', column_name, data_type,'
        ' CASE WHEN nullable THEN '''' ELSE '' not null'' END, quote_nullable(example)) FROM public.etl_csv_infer(%L %s)',
        place(name), CASE WHEN options = '' THEN '' ELSE ', ' || options END);
END $$;
SELECT file('types.csv', E'i,big,huge,lead,plus,neg,dec,sci,nan,bool,yn,d,ts,tz,tm,uuid,json,text,none,mixed,ws\n'
    '1,3000000000,99999999999999999999,007,+5,-1,1.50,1e5,NaN,true,yes,2024-02-29,2024-01-01 10:00:00,2024-01-01T10:00:00+02,10:11:12,'
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,"{""a"": 1}",x,,1, 1\n'
    '2,1,1,012,+6,-2,2,2.5e-3,1.5,false,no,1999-12-31,2024-01-01 10:00:00.123456,2024-01-01 10:00:00Z,23:59:59,'
    'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A12,"[1,2]",y,,x,2 \n');
SELECT infer('types.csv');
SELECT try(format('SELECT etl_create_table_from_csv(''made'', %L)', place('types.csv')));
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull FROM pg_attribute a WHERE attrelid = 'made'::regclass AND attnum > 0 ORDER BY attnum;
SELECT load('made', 'types.csv');
SELECT i, lead, dec, bool, d, none FROM made ORDER BY i;
-- What breaks a guess: a NULL, an empty file, a header alone, no header.
SELECT file('nulls.csv', E'a,b,c\n1,,""\n,2,x\n');
SELECT infer('nulls.csv');
SELECT infer('nulls.csv', 'null_strings => ''{1,""}''');
SELECT infer('nulls.csv', 'header => ''none''');
SELECT infer('nulls.csv', 'header => ''skip''');
SELECT file('header.csv', E'a,b\n');
SELECT infer('header.csv');
SELECT file('empty.csv', '');
SELECT try(format('SELECT count(*) FROM etl_csv_infer(%L)', place('empty.csv')));
SELECT try(format('SELECT etl_create_table_from_csv(''from_empty'', %L)', place('empty.csv')));
SELECT try(format('SELECT count(*) FROM etl_csv_infer(%L)', place('missing.csv')));
-- Ints of every size and at every edge.
SELECT file('edge.csv', E'a,b,c,d,e,f\n2147483647,2147483648,9223372036854775807,9223372036854775808,-2147483648,-0\n');
SELECT infer('edge.csv');
-- Only the sample is read.
SELECT file('sample.csv', E'a\n1\n2\nx\n');
SELECT infer('sample.csv', 'sample_rows => 2');
SELECT infer('sample.csv');
SELECT try(format('SELECT * FROM etl_csv_infer(%L, sample_rows => 0)', place('sample.csv')));
-- Ragged and broken records; odd, repeated and missing names.
SELECT file('ragged.csv', E'a,b\n1\n2,3,4\n5,6\n');
SELECT try(format('SELECT count(*) FROM etl_csv_infer(%L)', place('ragged.csv')));
SELECT file('quote.csv', E'a,b\n1,"x\n2,y\n');
SELECT try(format('SELECT count(*) FROM etl_csv_infer(%L)', place('quote.csv')));
SELECT file('names.csv', E'select,"My ""col""",two words,A\n1,2,3,4\n');
SELECT infer('names.csv');
SELECT try(format('SELECT etl_create_table_from_csv(''"Odd ""name"""'', %L)', place('names.csv')));
SELECT load('"Odd ""name"""', 'names.csv');
SELECT * FROM "Odd ""name""";
SELECT file('dup.csv', E'a,a\n1,2\n');
SELECT try(format('SELECT etl_create_table_from_csv(''dup'', %L)', place('dup.csv')));
SELECT file('unnamed.csv', E'a,\n1,2\n');
SELECT try(format('SELECT etl_create_table_from_csv(''unnamed'', %L)', place('unnamed.csv')));
SELECT try(format('SELECT etl_create_table_from_csv(''made'', %L)', place('types.csv')));
SELECT try(format('SELECT etl_create_table_from_csv(''nope.made'', %L)', place('types.csv')));
SELECT try(format('SELECT etl_create_table_from_csv(''"a; DROP TABLE made"'', %L)', place('nulls.csv')));
SELECT try(format('SELECT etl_create_table_from_csv(''a; DROP TABLE made'', %L)', place('nulls.csv')));
SELECT count(*) FROM made;
-- More than a table can have.
SELECT file('wide.csv', repeat('x,', 1600) || E'\n' || repeat('1,', 1600) || E'\n');
SELECT try(format('SELECT count(*) FROM etl_csv_infer(%L)', place('wide.csv')));
SELECT try(format('SELECT count(*) FROM etl_csv_infer(%L, header => ''none'')', place('wide.csv')));
SELECT file('wide.csv', repeat(',', 1599) || E'\n' || repeat('1,', 1599) || E'\n');
SELECT try(format('SELECT count(*) FROM etl_csv_infer(%L)', place('wide.csv')));
-- Other dialects, encodings and compression.
SELECT file('semi.csv', convert_to(E'\u00e4;b\n1;''x;y''\n', 'LATIN1'));
SELECT infer('semi.csv', 'delimiter => '';'', quote => '''''''', encoding => ''LATIN1''');
SELECT shell('gzip -k nulls.csv');
SELECT infer('nulls.csv.gz');
\i :end
