--
-- Encodings: what cannot be converted costs its record.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
CREATE TABLE t (a int, b text);
\set dl '''on_error => ''''dead_letter'''''''

-- Marks at the start.
SELECT file('bom.csv', '\xefbbbf'::bytea || convert_to(E'a,b\n1,\u00e9\n', 'UTF8'));
SELECT load('t', 'bom.csv');
SELECT * FROM t;
TRUNCATE t;
SELECT file('bom_none.csv', '\xefbbbf'::bytea || convert_to(E'1,x\n2,"\ufeff"\n', 'UTF8'));
SELECT load('t', 'bom_none.csv', 'header => ''none''');
SELECT a, octet_length(b) FROM t;
TRUNCATE t;
SELECT file('bom_only.csv', '\xefbbbf'::bytea);
SELECT load('t', 'bom_only.csv');
SELECT file('bom_quote.csv', '\xefbbbf'::bytea || '"a","b"'::bytea || '\x0a'::bytea || '1,x'::bytea);
SELECT load('t', 'bom_quote.csv');
SELECT file('utf16le.csv', '\xfffe61002c0062000a0031002c0078000a00'::bytea);
SELECT load('t', 'utf16le.csv');
SELECT load('t', 'utf16le.csv', 'header => ''none'', on_error => ''dead_letter''');
SELECT file('utf16be.csv', '\xfeff0061002c0062000a0031002c0078000a'::bytea);
SELECT load('t', 'utf16be.csv');
SELECT file('utf32le.csv', '\xfffe0000610000002c000000'::bytea);
SELECT load('t', 'utf32le.csv');
SELECT shell('gzip -k bom.csv');
SELECT load('t', 'bom.csv.gz');
TRUNCATE t;

-- Bytes that are no UTF-8.
SELECT file('bad.csv', E'a,b\n1,ok\n2,'::bytea || '\xff'::bytea || E'\n3,'::bytea || '\xc3'::bytea
    || E'\n4,"'::bytea || '\xe282'::bytea || E'"\n5,'::bytea || '\xc0af'::bytea
    || E'\n6,'::bytea || '\xeda080'::bytea || E'\n7,'::bytea || '\xf4908080'::bytea
    || E'\n8,a'::bytea || '\x00'::bytea || E'b\n9,last'::bytea || '\xe2'::bytea);
SELECT load('t', 'bad.csv');
SELECT load('t', 'bad.csv', :dl);
SELECT letters();
SELECT * FROM t;
SELECT count(*) FILTER (WHERE raw_record IS NULL), count(*) FILTER (WHERE raw_bytes IS NULL) FROM etl_patterns.dead_letter;
-- Mended, they go in.
SELECT etl_dead_letter_edit(dead_letter_id, line_no - 1 || ',mended') FROM etl_patterns.dead_letter;
SELECT * FROM etl_dead_letter_replay();
SELECT * FROM t;
TRUNCATE t;

-- Files in other encodings.
SELECT file('latin1.csv', convert_to(E'a,b\n1,Stra\u00dfe \u00e9\n', 'LATIN1'));
SELECT load('t', 'latin1.csv');
SELECT load('t', 'latin1.csv', 'encoding => ''latin1''');
SELECT file('sjis.csv', convert_to(E'a,b\n2,\u8868\u793a \u30bd\n', 'SJIS'));
SELECT load('t', 'sjis.csv', 'encoding => ''SJIS''');
SELECT file('euc.csv', convert_to(E'a,b\n3,\u65e5\u672c\u8a9e\n', 'EUC_JP'));
SELECT load('t', 'euc.csv', 'encoding => ''EUC_JP''');
SELECT file('win.csv', convert_to(E'a,b\n4,\u20ac "\u201e"\n', 'WIN1252'));
SELECT load('t', 'win.csv', 'encoding => ''windows-1252''');
SELECT file('gb.csv', convert_to(E'a,b\n5,\u4e2d\u6587\n', 'GB18030'));
SELECT load('t', 'gb.csv', 'encoding => ''GB18030''');
SELECT file('big5.csv', convert_to(E'a,b\n6,"\u529f\u80fd"\n', 'BIG5'));
SELECT load('t', 'big5.csv', 'encoding => ''BIG5''');
SELECT a, b, b = CASE a WHEN 1 THEN E'Stra\u00dfe \u00e9' WHEN 2 THEN E'\u8868\u793a \u30bd' WHEN 3 THEN E'\u65e5\u672c\u8a9e'
    WHEN 5 THEN E'\u4e2d\u6587' WHEN 6 THEN E'\u529f\u80fd' END AS same FROM t ORDER BY a;
SELECT load('t', 'win.csv', 'encoding => ''SQL_ASCII'', force => true');
SELECT load('t', 'win.csv', 'encoding => ''MULE_INTERNAL'', force => true');
SELECT load('t', 'latin1.csv', 'encoding => ''''');
TRUNCATE t;
-- Bytes that these do not know; the letter keeps them.
SELECT file('badsjis.csv', E'a,b\n1,ok\n2,'::bytea || '\x81'::bytea || E'\n3,'::bytea || '\xf040'::bytea || E'\n4,ok\n'::bytea);
SELECT load('t', 'badsjis.csv', 'encoding => ''SJIS''');
SELECT load('t', 'badsjis.csv', 'encoding => ''SJIS'', on_error => ''dead_letter''');
SELECT letters();
SELECT * FROM t;
SELECT file('badwin.csv', E'a,b\n1,ok\n2,'::bytea || '\x81'::bytea || E'\n3,ok\n'::bytea);
SELECT load('t', 'badwin.csv', 'encoding => ''WIN1252'', on_error => ''dead_letter''');
SELECT letters() OFFSET 2;
TRUNCATE t;

-- The client's encoding is the default.
SET client_encoding = LATIN1;
SELECT load('t', 'latin1.csv', 'force => true');
RESET client_encoding;
SELECT * FROM t;
\i :end
