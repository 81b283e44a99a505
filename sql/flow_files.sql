--
-- What can be wrong with a source: paths, patterns, compression.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
CREATE TABLE t (a int, b text);

-- No file at all.
SELECT load('t', 'missing.csv');
SELECT try($$SELECT * FROM etl_bulk_copy('t', 'relative.csv')$$);
SELECT try($$SELECT * FROM etl_bulk_copy('t', '')$$);
SELECT load('t', '*.csv');
SELECT load('t', 'no/such/dir/x.csv');
SELECT shell('mkdir dir.csv');
SELECT load('t', 'dir.csv');
SELECT load('t', '*.csv');
SELECT shell('rmdir dir.csv; mkfifo pipe.csv');
SELECT load('t', 'pipe.csv');
SELECT load('t', 'pipe.csv', 'compression => ''none''');
SELECT shell('rm pipe.csv; ln -s nowhere dangling.csv');
SELECT load('t', 'dangling.csv');
SELECT load('t', 'dangling*.csv');
SELECT file('unreadable.csv', E'a,b\n1,x\n');
SELECT shell('chmod 000 unreadable.csv');
SELECT load('t', 'unreadable.csv');
SELECT shell('chmod 600 unreadable.csv && rm *.csv');
SELECT count(*) FROM t;

-- Nothing in it.
SELECT file('empty.csv', '');
SELECT load('t', 'empty.csv');
SELECT load('t', 'empty.csv', 'header => ''none'', force => true');
SELECT file('header.csv', E'b,a\n');
SELECT load('t', 'header.csv');
SELECT file('header_only.csv', 'a');
SELECT load('t', 'header_only.csv');
SELECT count(*) FROM t;

-- Not text.
SELECT file('binary.csv', decode('7f454c4602010100000000000000000000ff0a0d0a221b', 'hex'));
SELECT load('t', 'binary.csv');
SELECT load('t', 'binary.csv', 'header => ''none''');
SELECT load('t', 'binary.csv', 'header => ''none'', on_error => ''dead_letter''');
SELECT letters();
DELETE FROM t;

-- Several files, in the order of their names; each counts.
SELECT file('m2.csv', E'b,a\nzwei,2\n');
SELECT file('m1.csv', E'a,b\n1,eins\n11,elf\n');
SELECT file('m3.csv', E'a\n3\n');
SELECT load('t', 'm?.csv');
SELECT a, b FROM t ORDER BY a;
SELECT load('t', 'm[1-2].csv');
SELECT mask(path), rows_loaded, rows_rejected FROM etl_patterns.loaded_file WHERE mask(path) LIKE '<dir>/m%' ORDER BY file_id;
-- An error in the last leaves nothing of the first.
SELECT file('n1.csv', E'a,b\n100,x\n');
SELECT file('n2.csv', E'a,b\n200,x\nzero,y\n');
SELECT load('t', 'n*.csv');
SELECT count(*) FROM t WHERE a >= 100;
-- A name that exists is that file, whatever it means as a pattern.
SELECT file('odd[1].csv', E'a,b\n7,odd\n');
SELECT file('odd1.csv', E'a,b\n8,even\n');
SELECT load('t', 'odd[1].csv');
SELECT a FROM t WHERE b IN ('odd', 'even');
SELECT file('sp ace''"ü.csv', E'a,b\n9,name\n');
SELECT load('t', 'sp ace''"ü.csv');
DELETE FROM t;
-- A name that is no text cannot be kept; it is an error before anything is loaded.
SELECT file('lat0.csv', E'a,b\n1,x\n');
SELECT shell($$cp lat0.csv "$(printf 'lat\344.csv')"$$);
SELECT load('t', 'lat*.csv');
SELECT count(*) FROM t;
SELECT shell('rm lat*.csv');

-- Compressed.
SELECT file('good.csv', (SELECT E'a,b\n' || string_agg(i || ',' || md5(i::text) || E'\n', '' ORDER BY i)
    FROM generate_series(1, 2000) i));
SELECT shell('gzip -k good.csv; zstd -qk good.csv; cp good.csv.gz named.csv; cp good.csv fake.csv.gz');
SELECT load('t', 'good.csv.gz');
SELECT as_copy('t', 'good.csv');
TRUNCATE t;
SELECT load('t', 'good.csv.zst');
SELECT as_copy('t', 'good.csv');
TRUNCATE t;
SELECT load('t', 'named.csv', 'force => true');
SELECT count(*) FROM t;
TRUNCATE t;
SELECT load('t', 'good.csv.gz', 'compression => ''none'', force => true');
SELECT load('t', 'good.csv', 'compression => ''gzip''');
SELECT load('t', 'good.csv', 'compression => ''zstd''');
SELECT load('t', 'good.csv.zst', 'compression => ''gzip'', force => true');
SELECT load('t', 'fake.csv.gz');
TRUNCATE t;
-- Two members are one file.
SELECT shell('(printf "a,b\n1,x\n" | gzip; printf "2,y\n" | gzip) > two.csv.gz');
SELECT load('t', 'two.csv.gz');
SELECT shell('(printf "a,b\n3,x\n" | zstd -q; printf "4,y\n" | zstd -q) > two.csv.zst');
SELECT load('t', 'two.csv.zst');
SELECT a, b FROM t ORDER BY a;
TRUNCATE t;
-- A zstd frame to be skipped may come first.
SELECT shell($$(printf '\137\052\115\030\003\000\000\000abc'; printf "a,b\n5,x\n" | zstd -q) > skip.csv.zst$$);
SELECT load('t', 'skip.csv.zst');
SELECT shell($$printf '\120\052\115\030\011\000\000\000abc' > skipcut.csv.zst$$);
SELECT load('t', 'skipcut.csv.zst');
SELECT a, b FROM t ORDER BY a;
TRUNCATE t;
-- Broken ones are errors whatever becomes of bad rows.
SELECT shell('head -c 20000 good.csv.gz > cut.csv.gz; head -c 5 good.csv.gz > stub.csv.gz');
SELECT shell('head -c 20000 good.csv.zst > cut.csv.zst; head -c 5 good.csv.zst > stub.csv.zst');
SELECT shell('head -c $(($(wc -c < good.csv.gz) - 4)) good.csv.gz > tail.csv.gz');
SELECT shell('(cat good.csv.gz; echo junk) > junk.csv.gz; (cat good.csv.zst; echo junk) > junk.csv.zst');
SELECT shell('(head -c 10000 good.csv.gz; echo xxxxxxxxxxxxxxxx; tail -c +10018 good.csv.gz) > corrupt.csv.gz');
SELECT shell('(head -c 10000 good.csv.zst; echo xxxxxxxxxxxxxxxx; tail -c +10018 good.csv.zst) > corrupt.csv.zst');
SELECT shell('(head -c $(($(wc -c < good.csv.gz) - 8)) good.csv.gz; printf "crc!"; tail -c 4 good.csv.gz) > crc.csv.gz');
SELECT regexp_replace(l, '(after|decompressed:).*', '\1 ...')
FROM unnest('{stub.csv.gz,tail.csv.gz,junk.csv.gz,crc.csv.gz,corrupt.csv.gz,stub.csv.zst,junk.csv.zst,corrupt.csv.zst}'::text[]) f,
    load('t', f, 'on_error => ''dead_letter''') l
WHERE l !~ 'CONTEXT';
SELECT load('t', 'cut.csv.gz', 'on_error => ''dead_letter''');
SELECT load('t', 'cut.csv.zst', 'on_error => ''dead_letter''');
SELECT count(*) FROM t;
SELECT count(*) FROM etl_patterns.loaded_file WHERE mask(path) ~ '/(cut|stub|tail|junk|crc|corrupt)';
-- Empty archives.
SELECT shell('gzip < /dev/null > e.csv.gz; zstd -q < /dev/null > e.csv.zst; : > zero.csv.gz');
SELECT load('t', 'e.csv.*');
SELECT load('t', 'zero.csv.gz');
\i :end
