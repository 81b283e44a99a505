# The tuples of a load are, to the byte, those that COPY makes.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('row_bytes');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', "fsync = off\nautovacuum = off\n");
$node->start;

if ($node->safe_psql('postgres', "SELECT count(*) FROM pg_available_extensions WHERE name = 'pageinspect'") == 0)
{
	$node->stop;
	plan skip_all => 'needs pageinspect';
}

$node->safe_psql('postgres', q{
	CREATE EXTENSION etl_patterns;
	CREATE EXTENSION pageinspect;
	-- Which page they are on depends on how many came at a time.
	CREATE FUNCTION tuples(t regclass) RETURNS SETOF text LANGUAGE sql AS $$
		SELECT ROW(t_infomask, t_infomask2, t_hoff, t_bits, t_data)::text
		FROM generate_series(0, pg_relation_size(t)::int / 8192 - 1) p,
			heap_page_items(get_raw_page(t::text, p))
	$$;});

my $path = PostgreSQL::Test::Utils::tempdir() . '/x.csv';

# The same file twice, with a query about the difference.
sub same
{
	my ($name, $columns, $file_columns, $query, $more) = @_;

	is( $node->safe_psql('postgres', qq{
			SET client_min_messages = warning;
			DROP TABLE IF EXISTS ours, theirs;
			CREATE TABLE theirs ($columns);
			CREATE TABLE ours ($columns);
			@{[ $more // '' ]}
			COPY ($query) TO '$path' (FORMAT csv);
			COPY theirs ($file_columns) FROM '$path' (FORMAT csv);
			SELECT rows_rejected FROM etl_bulk_copy('ours', '$path', header => 'none',
				columns => '{$file_columns}', on_error => 'dead_letter', workers => 0);
			SELECT (SELECT count(*) > 0 FROM tuples('ours')),
				(SELECT count(*) FROM (SELECT tuples('ours') EXCEPT ALL SELECT tuples('theirs')) x),
				(SELECT count(*) FROM (SELECT tuples('theirs') EXCEPT ALL SELECT tuples('ours')) x);}),
		"0\nt|0|0", $name);
	return;
}

same('all types that have a converter',
	'a int, b text, c numeric, d numeric(10,3), e char(7), f bool, g timestamptz, h uuid, i jsonb, '
	  . 'j float4, k json, l varchar(300), m bytea, n time, o smallint, p date, q bigint, r float8, s timestamp',
	'a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s', q{
	SELECT i, repeat('é', i % 200), (i * i - 1000) * power(10::numeric, (i % 12) - 6), (i - 1000) / (1 + i % 9)::numeric(12, 3),
		substr(i::text || 'éa', 1, i % 8), i % 2 = 0, timestamptz '2020-01-01' + i * interval '1 ms',
		md5(i::text)::uuid, jsonb_build_object('a', i, 'b', ARRAY[i::text, 'x']), i / 3.0::float4, '[' || i || ']',
		repeat('x', i % 300), i::text::bytea, time '00:00' + i * interval '1.5 s', i, date '1990-01-01' + i,
		i::bigint * 1234567890123, i / 7.0, timestamp '1999-12-31 23:59:59.5' + i * interval '1 day'
	FROM generate_series(1, 3000) i});

same('nulls in any place', 'a int, b text, c numeric, d char(3), e int, f bigint, g text, h date, i int, j text',
	'a,b,c,d,e,f,g,h,i,j', q{
	SELECT CASE WHEN i & 1 = 0 THEN i END, CASE WHEN i & 2 = 0 THEN i END, CASE WHEN i & 4 = 0 THEN i END,
		CASE WHEN i & 8 = 0 THEN 'x' END, CASE WHEN i & 16 = 0 THEN i END, CASE WHEN i & 32 = 0 THEN i END,
		CASE WHEN i & 64 = 0 THEN i END, CASE WHEN i & 128 = 0 THEN date '2000-01-01' END,
		CASE WHEN i & 256 = 0 THEN i END, CASE WHEN i & 512 = 0 THEN i END
	FROM generate_series(0, 2047) i});

same('numbers', 'a numeric, b numeric(15,2), c numeric(18,4), d numeric(30,10), e numeric(20,0)', 'a,b,c,d,e', q{
	SELECT v, round(v, 2), round(v, 4), round(v, 10), trunc(v) FROM (
		SELECT s * m * power(10::numeric, e) AS v
		FROM unnest(ARRAY[1, -1]) s, unnest(ARRAY[0, 1, 9, 10, 99, 9999, 10000, 10001, 99999999, 123456789]) m,
			generate_series(-9, 4) e) v
	WHERE abs(v) < 1e13});

same('columns that the file has not',
	q{a int, b text DEFAULT 'x', c int, d numeric DEFAULT 1.50, e text, f int DEFAULT NULL, g char(5) DEFAULT 'ab'},
	'c,a', q{SELECT i, CASE WHEN i % 5 > 0 THEN i END FROM generate_series(1, 500) i});

same('a column that is gone and one that came', 'a int, b int, c text', 'c,a,d',
	q{SELECT repeat('y', i), i, i FROM generate_series(1, 500) i}, q{
	ALTER TABLE ours DROP b; ALTER TABLE ours ADD d int;
	ALTER TABLE theirs DROP b; ALTER TABLE theirs ADD d int;});

same('storage that allows no short header, and long values', 'a int, b text, c numeric, d text', 'a,b,c,d',
	q{SELECT i, repeat('z', i % 140), i / 8.0, repeat(md5(i::text), i % 80) FROM generate_series(1, 1000) i}, q{
	ALTER TABLE ours ALTER b SET STORAGE PLAIN, ALTER c SET STORAGE PLAIN;
	ALTER TABLE theirs ALTER b SET STORAGE PLAIN, ALTER c SET STORAGE PLAIN;});

$node->stop;
done_testing();
