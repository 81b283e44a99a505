# Databases that are not in UTF-8: what their encoding lacks costs its record,
# and the record's bytes are kept.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('encoding');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->start;
my $dir = PostgreSQL::Test::Utils::tempdir;
chmod 0755, $dir;

# é is in LATIN1, the euro sign is not, \xff is no UTF-8.
append_to_file("$dir/utf8.csv", "a,b\n1,\xc3\xa9\n2,\xe2\x82\xac\n3,\xff\n4,plain\n");
append_to_file("$dir/latin1.csv", "a,b\n5,\xe9\n");
append_to_file("$dir/nul.csv", "a,b\n6,x\0y\n7,z\n");

foreach my $encoding ('LATIN1', 'SQL_ASCII', 'EUC_JP')
{
	my $db = lc $encoding;

	$node->safe_psql('postgres',
		"CREATE DATABASE $db TEMPLATE template0 ENCODING '$encoding' LC_COLLATE 'C' LC_CTYPE 'C'");
	$node->safe_psql($db, 'CREATE EXTENSION etl_patterns; CREATE TABLE t (a int, b text); CREATE TABLE copied (a int, b text)');
}

sub load
{
	my ($db, $file, $options) = @_;
	return $node->safe_psql($db,
		"SELECT rows_read, rows_loaded, rows_rejected FROM etl_bulk_copy('t', '$dir/$file', $options)");
}

# LATIN1: the euro sign and the broken byte are dead letters.
is(load('latin1', 'utf8.csv', "encoding => 'UTF8', on_error => 'dead_letter'"),
	'4|2|2', 'UTF-8 into LATIN1');
is($node->safe_psql('latin1', q{SELECT a, encode(convert_to(b, 'LATIN1'), 'hex') FROM t ORDER BY a}),
	"1|e9\n4|706c61696e", 'is converted');
is( $node->safe_psql('latin1', 'SELECT line_no, category, error_code, raw_bytes, raw_record IS NULL FROM etl_patterns.dead_letter ORDER BY line_no'),
	"3|encoding|22P05|\\x322ce282ac|t\n4|encoding|22021|\\x332cff|t", 'untranslatable and invalid ones are letters');
is($node->safe_psql('latin1', "SELECT * FROM etl_dead_letter_replay('t')"), '0|2', 'they fail again');
is($node->safe_psql('latin1', "SELECT etl_dead_letter_edit(dead_letter_id, '2,EUR') FROM etl_patterns.dead_letter WHERE line_no = 3;
	SELECT * FROM etl_dead_letter_replay('t', (SELECT array_agg(dead_letter_id) FROM etl_patterns.dead_letter WHERE line_no = 3))"),
	"\n1|0", 'until mended');
my ($status, $stdout, $stderr) =
  $node->psql('latin1', "SELECT * FROM etl_bulk_copy('t', '$dir/utf8.csv', encoding => 'UTF8', force => true)");
like($stderr, qr/has no equivalent in encoding "LATIN1"/, 'an error otherwise');
is(load('latin1', 'latin1.csv', "encoding => 'LATIN1'"), '1|1|0', 'LATIN1 into LATIN1');
is(load('latin1', 'nul.csv', "encoding => 'LATIN1', on_error => 'dead_letter'"), '2|1|1', 'a NUL byte');

# SQL_ASCII takes any byte but NUL, as COPY does.
is(load('sql_ascii', 'utf8.csv', "on_error => 'dead_letter'"), '4|4|0', 'any bytes into SQL_ASCII');
$node->safe_psql('sql_ascii', "COPY copied FROM '$dir/utf8.csv' (FORMAT csv, HEADER)");
is($node->safe_psql('sql_ascii', 'SELECT count(*) FROM (SELECT a, b::bytea FROM t EXCEPT SELECT a, b::bytea FROM copied) x'),
	0, 'the same as COPY');
is(load('sql_ascii', 'nul.csv', "on_error => 'dead_letter'"), '2|1|1', 'a NUL byte');

# Where EUC_JP lacks a character, COPY says the same.
foreach my $case ([ 'utf8.csv', 'UTF8' ], [ 'latin1.csv', 'UTF8' ])
{
	my ($file, $encoding) = @$case;
	my (undef, undef, $ours) =
	  $node->psql('euc_jp', "SELECT * FROM etl_bulk_copy('t', '$dir/$file', encoding => '$encoding')");
	my (undef, undef, $theirs) =
	  $node->psql('euc_jp', "COPY copied FROM '$dir/$file' (FORMAT csv, HEADER, ENCODING '$encoding')");
	($ours) = $ours =~ /ERROR: +(.*)/;
	($theirs) = $theirs =~ /ERROR: +(.*)/;
	is($ours // 'none', $theirs // 'none', "$file into EUC_JP: the same error as COPY's");
}

$node->stop;
done_testing();
