# The state survives pg_dump and a restore into another cluster: runs, loaded
# files, dead letters and watermarks, with their sequences.  Rows that mean
# nothing there, those of temporary and of dropped tables, stay behind.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('source');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->start;
my $dir = PostgreSQL::Test::Utils::tempdir;
chmod 0755, $dir;

# Roles are dumped apart from databases; the names of tables are odd.
$node->safe_psql('postgres', 'CREATE DATABASE etl');
$node->safe_psql('postgres', 'CREATE ROLE loader LOGIN');
$node->safe_psql('postgres', 'GRANT pg_read_server_files TO loader');
$node->safe_psql('etl', q{
	CREATE SCHEMA functions;
	GRANT USAGE ON SCHEMA functions TO loader;
	CREATE EXTENSION etl_patterns SCHEMA functions;
	CREATE TABLE parent (id int PRIMARY KEY);
	CREATE TABLE "Odd ""table" (id int PRIMARY KEY, p int REFERENCES parent, v text);
	CREATE TABLE dropped (id int);
	GRANT ALL ON ALL TABLES IN SCHEMA public TO loader;
});

append_to_file("$dir/rows.csv", "id,p,v\n1,,ok\n2,7,orphan\nx,,type\n3,,\"open\n4,,ok\n");
append_to_file("$dir/latin.csv", "id,p,v\n5,,ok\n6,,\xe9\n");
append_to_file("$dir/one.csv", "id\n1\nx\n");

my $load = 'SELECT files_loaded, files_skipped, rows_loaded, rows_rejected FROM functions.etl_bulk_copy';
sub loader { my ($node, $sql) = @_; return $node->safe_psql('etl', "SET ROLE loader; $sql"); }

is(loader($node, qq{$load('"Odd ""table"', '$dir/rows.csv', on_error => 'dead_letter')}),
	'1|0|2|3', 'a load with dead letters');
is(loader($node, qq{$load('"Odd ""table"', '$dir/latin.csv', on_error => 'dead_letter')}),
	'1|0|1|1', 'a load with a record of raw bytes');
$node->safe_psql('etl', qq{
	CREATE TEMP TABLE temporary (id int);
	$load('temporary', '$dir/one.csv', on_error => 'dead_letter');
	$load('dropped', '$dir/one.csv', on_error => 'dead_letter');
	DROP TABLE dropped;
	SELECT functions.etl_watermark_set('orders', '2024-01-01');
});

my %state = (
	runs => q{SELECT run_id, operation, target::text, role::text, status, rows_read, rows_inserted, rows_rejected, detail
		FROM etl_patterns.run WHERE target = '"Odd ""table"'::regclass ORDER BY run_id},
	letters => q{SELECT dead_letter_id, run_id, target::text, role::text, file_id, line_no, category, error_message, raw_record, raw_bytes, status, created_at
		FROM etl_patterns.dead_letter WHERE target = '"Odd ""table"'::regclass ORDER BY dead_letter_id},
	files => q{SELECT file_id, target::text, role::text, path, size_bytes, modified_at, content_hash, rows_loaded, layout
		FROM etl_patterns.loaded_file WHERE target = '"Odd ""table"'::regclass ORDER BY file_id},
	watermarks => q{SELECT pipeline, role::text, value, updated_at FROM etl_patterns.watermark},
);
my %before = map { $_ => $node->safe_psql('etl', $state{$_}) } keys %state;
my $last = q{SELECT greatest((SELECT last_value FROM etl_patterns.run_id_seq), 0),
	(SELECT last_value FROM etl_patterns.dead_letter_id_seq), (SELECT last_value FROM etl_patterns.file_id_seq)};
my $last_before = $node->safe_psql('etl', $last);

# Into another cluster, in each of pg_dump's formats.
my $other = PostgreSQL::Test::Cluster->new('restored');
$other->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$other->start;
$other->safe_psql('postgres', 'CREATE ROLE loader LOGIN');
$other->safe_psql('postgres', 'GRANT pg_read_server_files TO loader');
# Other numbers for tables than there were.
$other->safe_psql('postgres', 'CREATE TABLE shift AS SELECT 1 AS a');

foreach my $format ('custom', 'plain')
{
	my $dump = "$dir/etl.$format";

	$node->command_ok([ 'pg_dump', '--format', $format, '--create', '--file', $dump, 'etl' ],
		"$format: pg_dump");
	$other->safe_psql('postgres', 'DROP DATABASE IF EXISTS etl');
	if ($format eq 'custom')
	{
		$other->command_ok([ 'pg_restore', '--create', '--exit-on-error', '--dbname', 'postgres', $dump ],
			"$format: restore");
	}
	else
	{
		$other->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'postgres', '-f', $dump ],
			"$format: restore");
	}

	foreach my $what (sort keys %state)
	{
		is($other->safe_psql('etl', $state{$what}), $before{$what}, "$format: the same $what");
	}
	is($other->safe_psql('etl', $last), $last_before, "$format: sequences go on");
	is( $other->safe_psql('etl', q{SELECT count(*) FROM etl_patterns.dead_letter d
			WHERE d.target <> '"Odd ""table"'::regclass}),
		0, "$format: no letters of temporary and dropped tables");
	is( $other->safe_psql('etl', q{SELECT count(*) FROM etl_patterns.loaded_file f
			WHERE f.target <> '"Odd ""table"'::regclass}),
		0, "$format: no files of temporary and dropped tables");
	is($other->safe_psql('etl', q{SELECT functions.etl_watermark_get('orders')}),
		'2024-01-01', "$format: the watermark is read");

	# Loaded there is loaded here.
	is(loader($other, qq{$load('"Odd ""table"', '$dir/rows.csv')}),
		'0|1|0|0', "$format: a file that is in is skipped");

	# Letters are replayed as they would have been.
	$other->safe_psql('etl', 'INSERT INTO parent VALUES (7)');
	is(loader($other, q{SELECT * FROM functions.etl_dead_letter_replay('"Odd ""table"')}),
		'1|3', "$format: replay");
	loader($other, q{SELECT functions.etl_dead_letter_edit(dead_letter_id, 10 + dead_letter_id || ',,mended')
		FROM etl_patterns.dead_letter WHERE status = 'pending'});
	is(loader($other, q{SELECT * FROM functions.etl_dead_letter_replay()}),
		'3|0', "$format: replay of mended records");
	is($other->safe_psql('etl', q{SELECT count(*), count(DISTINCT id) FROM "Odd ""table"}),
		'7|7', "$format: all rows are in");

	# New rows get new numbers.
	append_to_file("$dir/new.$format.csv", "id,p,v\n100,,new\nx,,bad $format\n");
	is(loader($other, qq{$load('"Odd ""table"', '$dir/new.$format.csv', on_error => 'dead_letter')}),
		'1|0|1|1', "$format: a new file is loaded");
	is( $other->safe_psql('etl', q{SELECT count(*) - count(DISTINCT dead_letter_id) FROM etl_patterns.dead_letter}),
		0, "$format: numbers are not used twice");
}

$other->stop;
$node->stop;
done_testing();
