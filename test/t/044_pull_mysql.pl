# Pulls through a wrapper that knows nothing of us: mysql_fdw, from a MariaDB
# server of this test's own.  Without these there is one test, which is skipped.

use strict;
use warnings;

use File::Basename qw(dirname);
use lib dirname(__FILE__) . '/../lib';

use MariaDB;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

if (my $missing = MariaDB::missing())
{
  SKIP: { skip "$missing is not installed", 1 }
	done_testing();
	exit 0;
}

my $maria = MariaDB->new;
$maria->run(q{
	CREATE DATABASE shop;
	CREATE USER etl IDENTIFIED BY 'etl';
	GRANT ALL ON shop.* TO etl;
	USE shop;
	CREATE TABLE orders (id bigint PRIMARY KEY, customer varchar(20), amount decimal(12,2), paid date,
		updated_at datetime(6), note text, KEY (updated_at));
	INSERT INTO orders
	SELECT seq, concat('Müller ', seq), seq * 1.01, '2024-02-29', '2026-01-01 00:00:00.123456' + INTERVAL seq DIV 10 MINUTE,
		if(seq % 3, repeat('x', seq), NULL)
	FROM seq_1_to_1000;
});

# mysql_fdw goes to the default socket when it is told to go to localhost.
$ENV{MYSQL_UNIX_PORT} = $maria->{socket};
my $node = PostgreSQL::Test::Cluster->new('mysql');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', "timezone = 'UTC'");
$node->start;
$node->safe_psql('postgres', $_) foreach 'CREATE EXTENSION etl_patterns', 'CREATE EXTENSION mysql_fdw',
  q{CREATE SERVER shop FOREIGN DATA WRAPPER mysql_fdw OPTIONS (host 'localhost')},
  q{CREATE USER MAPPING FOR CURRENT_USER SERVER shop OPTIONS (username 'etl', password 'etl')},
  'CREATE SCHEMA shop', 'IMPORT FOREIGN SCHEMA shop FROM SERVER shop INTO shop';

my $columns = 'id bigint, customer varchar(20), amount numeric(12,2), paid date, updated_at timestamp, note text';

# A new target, and with what follows "target" in the call, a pull into it.
sub target
{
	my ($name, $constraint) = @_;

	$node->safe_psql('postgres', "CREATE TABLE $name ($columns" . ($constraint ? ", $constraint)" : ')'));
	return;
}

sub pull
{
	my ($name, $rest, $counts) = @_;

	$counts //= 'rows_read, rows_inserted, watermark_high';
	return $node->safe_psql('postgres',
		"SET client_min_messages = warning; SELECT $counts FROM etl_incremental_pull('$name', 'shop.orders', '$name', $rest)");
}

# What is said to a pull, be it an error or a notice.
sub said
{
	my ($name, $rest) = @_;
	my ($status, $stdout, $stderr) =
	  $node->psql('postgres', "SELECT FROM etl_incremental_pull('$name', 'shop.orders', '$name', $rest)");

	return $stderr;
}

sub detail
{
	my ($name, $expression) = @_;

	return $node->safe_psql('postgres',
		"SELECT $expression FROM etl_patterns.run WHERE name = '$name' ORDER BY run_id DESC LIMIT 1");
}

sub same
{
	my ($name, $condition, $what) = @_;
	my $source = "SELECT * FROM shop.orders WHERE $condition";

	is($node->safe_psql('postgres', "SELECT count(*) FROM (
			(($source) EXCEPT ALL TABLE $name) UNION ALL (TABLE $name EXCEPT ALL ($source))) d"), 0, $what);
	return;
}

# ---------------------------------------------------------------------------
# Lag

target('late');
$maria->run(q{INSERT INTO shop.orders VALUES (2001, 'now', 1, NULL, utc_timestamp(6), NULL),
	(2002, 'old enough', 1, NULL, utc_timestamp(6) - INTERVAL 30 MINUTE, NULL)});

my $notice = said('late', "'updated_at'");
like($notice, qr/NOTICE:.*5 minutes old/, 'rows behind another wrapper are read with a lag, which is said');
is(detail('late', "detail->>'safety', rows_read, rows_inserted"), 'lag|1001|1001', 'all rows that are old enough');
same('late', 'id <> 2001', 'and nothing else');
unlike(said('late', "'updated_at'"), qr/NOTICE/, 'it is said once');
is(detail('late', 'rows_read'), 0, 'nothing new');

$maria->run('UPDATE shop.orders SET updated_at = updated_at - INTERVAL 10 MINUTE WHERE id = 2001');
is(pull('late', "'updated_at'", 'rows_read'), 1, 'a row is read when it is old enough');
same('late', 'true', 'and then the tables are equal');

target('short_lag');
is(pull('short_lag', "'updated_at', lag => '15 minutes', initial_value => '2026-01-01 01:00:00'", 'rows_read'),
	'402', 'a lag of one\'s own, and a first value');

# The range goes to the source: few rows are sent for few new ones.
my $sent = sub { return (split /\t/, $maria->run("SHOW GLOBAL STATUS LIKE 'Rows_sent'"))[1] };
my $before = $sent->();
is(pull('short_lag', "'updated_at', lag => '5 minutes'", 'rows_read'), 1, 'one more row');
cmp_ok($sent->() - $before, '<', 20, 'for which few are sent');

like(said('short_lag', "'updated_at', safety => 'horizon'"), qr/ERROR.*\n.*HINT:.*lag/,
	'transactions of that server cannot be seen');
like(said('short_lag', "'id', safety => 'lock_wait'"), qr/ERROR/, 'nor can its locks');

# ---------------------------------------------------------------------------
# None: other cursors, batches with ties

target('ids');
like(said('ids', "'id'"), qr/ERROR.*\n.*HINT:.*none/, 'for numbers the mode must be typed');
is(pull('ids', "'id', safety => 'none', initial_value => '501', end_value => '901'"), '400|400|900', 'a range of numbers');
is(pull('ids', "'id', safety => 'none'", 'rows_read, watermark_low, watermark_high'), '102|900|2002', 'and on from there');
same('ids', 'id > 500', 'each row once');

target('ties');
my @batches;
foreach (1 .. 100)
{
	my ($rows, $more) = split /\|/, pull('ties', "'updated_at', safety => 'none', batch_rows => 25", 'rows_read, more');
	push @batches, $rows;
	last if $more eq 'f';
}
is("@batches[0..2]", '19 20 20', 'batches end between two values');
same('ties', 'true', 'and together have each row once');
target('one_value');
is(pull('one_value', "'updated_at', safety => 'none', batch_rows => 3, initial_value => '2026-01-01 00:01:00'", 'rows_read, more'),
	'10|t', 'a value with more rows than a batch is read whole');
$node->safe_psql('postgres', "CALL etl_incremental_drain('one_value')");
same('one_value', "updated_at >= '2026-01-01 00:01:00'", 'the rest is drained');

target('amounts');
is(pull('amounts', "'amount', safety => 'none', batch_rows => 500, initial_value => '10.10'", 'rows_read, watermark_high, more'),
	'500|514.09|t', 'a decimal cursor');
target('days');
is(pull('days', "'paid', safety => 'none', null_cursor => 'ignore'"), '1000|1000|2024-02-29', 'a date');

# ---------------------------------------------------------------------------
# NULL cursors

$maria->run(q{INSERT INTO shop.orders (id, customer) VALUES (3001, 'no time'), (3002, 'no time')});
target('nulls', 'PRIMARY KEY (id)');
like(said('nulls', "'updated_at'"), qr/ERROR.*"updated_at"/, 'rows without a cursor value are an error');
is(pull('nulls', "'updated_at', null_cursor => 'ignore'", 'rows_read'), 1002, 'or left out');
is(detail('nulls', "detail->>'null_cursor_rows'"), 2, 'and counted');
foreach (1, 2)
{
	my $counts = pull('nulls', "'updated_at', null_cursor => 'include', keys => '{id}'", 'rows_read, rows_inserted, rows_unchanged');
	is($counts, $_ == 1 ? '2|2|0' : '2|0|2', 'or read by each run');
}
same('nulls', 'true', 'and there once');

# ---------------------------------------------------------------------------
# Upsert, lookback, history

my $upsert = "'updated_at', keys => '{id}', apply => 'upsert', null_cursor => 'include'";
my $all = 'rows_read, rows_inserted, rows_updated, rows_unchanged';
target('upserted', 'PRIMARY KEY (id)');
is(pull('upserted', $upsert, $all), '1004|1004|0|0', 'an upsert of all');
$maria->run(q{
	UPDATE shop.orders SET amount = 0, updated_at = utc_timestamp(6) - INTERVAL 6 MINUTE WHERE id <= 10;
	UPDATE shop.orders SET note = 'x' WHERE id = 3001;
	INSERT INTO shop.orders VALUES (2003, 'new', 1, NULL, utc_timestamp(6) - INTERVAL 6 MINUTE, '')});
is(pull('upserted', $upsert, $all), '13|1|11|1', 'and of what has changed');
same('upserted', 'true', 'the tables are equal');
is(pull('upserted', "$upsert, lookback => '2 hours'", 'rows_updated, rows_unchanged'), '0|15', 'looking back finds what is known');

$node->safe_psql('postgres', "CREATE TABLE history ($columns, valid_from timestamp, valid_to timestamp, is_current boolean)");
is(pull('history', "'updated_at', keys => '{id}', apply => 'scd2', null_cursor => 'ignore',
		apply_options => '{\"sequence_by\": \"updated_at\", \"tracked\": [\"amount\"]}'", 'rows_read, rows_inserted'),
	'1003|1003', 'a history');
$maria->run('UPDATE shop.orders SET amount = 5, updated_at = utc_timestamp(6) - INTERVAL 330 SECOND WHERE id <= 10');
is(pull('history', "'updated_at', keys => '{id}', apply => 'scd2', null_cursor => 'ignore',
		apply_options => '{\"sequence_by\": \"updated_at\", \"tracked\": [\"amount\"]}'", 'rows_read, rows_inserted, rows_updated'),
	'10|10|0', 'gets new versions');
is($node->safe_psql('postgres', "SELECT count(*), count(*) FILTER (WHERE is_current) FROM history"), '1013|1003', 'one each');

# ---------------------------------------------------------------------------
# Nothing is left of what failed

my $watermark = "SELECT etl_watermark_get('upserted')";
my $value = $node->safe_psql('postgres', $watermark);
$maria->run('UPDATE shop.orders SET updated_at = utc_timestamp(6) - INTERVAL 310 SECOND WHERE id = 77');
$node->safe_psql('postgres', "BEGIN; SELECT FROM etl_incremental_pull('upserted', 'shop.orders', 'upserted', $upsert); ROLLBACK");
is($node->safe_psql('postgres', $watermark), $value, 'ROLLBACK takes the watermark back');

$maria->stop;
like(said('upserted', $upsert), qr/ERROR.*connect/, 'the source is down');
is($node->safe_psql('postgres', $watermark), $value, 'the watermark stays');
$maria->start;
is(pull('upserted', $upsert, 'rows_updated'), 11, 'and the next run goes on from there');
same('upserted', 'true', 'the tables are equal');

done_testing();
