# Merges from and into foreign tables, here of the same server.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('foreign');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->start;

my ($host, $port) = ($node->host, $node->port);
$node->safe_psql('postgres', qq{
	CREATE EXTENSION etl_patterns;
	CREATE EXTENSION postgres_fdw;
	CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER here;

	CREATE TABLE source (id int, name text, price numeric(8, 2));
	INSERT INTO source SELECT i, 'name ' || i, i FROM generate_series(1, 500) i;
	CREATE TABLE dim (id int, name text, price numeric(8, 2), valid_from date, valid_to date, is_current boolean);
	CREATE TABLE item (id int PRIMARY KEY, name text, price numeric(8, 2));
	CREATE SCHEMA far;
	IMPORT FOREIGN SCHEMA public LIMIT TO (source, dim, item) FROM SERVER here INTO far;
});

# The result, and a local table that got the same calls.
sub merges_agree
{
	my ($what, $call, $counts, @tables) = @_;
	my ($far, $near) = @tables;

	$node->safe_psql('postgres', "CREATE TABLE IF NOT EXISTS $near (LIKE $far INCLUDING ALL)");
	my $result = sub { my ($target, $source) = @_; return "SELECT $counts FROM " . sprintf($call, $target, $source) };
	is( $node->safe_psql('postgres', $result->("far.$far", 'far.source')),
		$node->safe_psql('postgres', $result->($near, 'public.source')),
		"$what: the same counts");
	is( $node->safe_psql('postgres', "SELECT count(*) FROM
			((TABLE $far EXCEPT ALL TABLE $near) UNION ALL (TABLE $near EXCEPT ALL TABLE $far)) x"),
		0, "$what: the same rows");
}

my $changes = q{
	UPDATE source SET price = price + 1 WHERE id % 5 = 0;
	UPDATE source SET name = 'other ' || id WHERE id % 7 = 0;
	DELETE FROM source WHERE id % 50 = 1;
	INSERT INTO source SELECT i, 'name ' || i, i FROM generate_series(501, 600) i;
};
my $scd2_counts = 'rows_read, inserted, opened, closed, overwritten, unchanged';
my $upsert_counts = 'rows_read, inserted, updated, unchanged, deleted';

foreach my $day ('2024-01-01', '2024-01-02', '2024-01-02')
{
	merges_agree("history, $day",
		"etl_scd2_merge('%s', '%s', '{id}', overwrite => '{name}', absent => 'close', effective_at => '$day')",
		$scd2_counts, 'dim', 'near_dim');
	merges_agree("upsert, $day", "etl_upsert('%s', '%s', '{id}', absent => 'delete')", $upsert_counts, 'item', 'near_item');
	$node->safe_psql('postgres', $changes) if $day eq '2024-01-01';
}
is($node->safe_psql('postgres', "SELECT count(*), count(*) FILTER (WHERE is_current) FROM dim"), '700|590',
	'a history with changes in it');
is($node->safe_psql('postgres', "SELECT * FROM etl_scd2_verify('far.dim', '{id}')"), '', 'which is sound');
is( $node->safe_psql('postgres', q{SELECT string_agg(DISTINCT detail->>'way', ',') FROM etl_patterns.run
		WHERE target IN ('far.dim'::regclass, 'far.item'::regclass)}),
	'general', 'foreign tables are merged by SQL');

# What fails far away leaves nothing here or there.
$node->safe_psql('postgres', 'ALTER TABLE dim ADD CHECK (price < 1000); UPDATE source SET price = 5000 WHERE id = 600');
my ($status, $stdout, $stderr) =
  $node->psql('postgres', "SELECT * FROM etl_scd2_merge('far.dim', 'far.source', '{id}', effective_at => '2024-01-03')");
like($stderr, qr/violates check constraint/, 'an error of the far side is shown');
is($node->safe_psql('postgres', "SELECT count(*) FROM dim"), 700, 'and nothing is changed');

done_testing();
