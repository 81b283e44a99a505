# ALTER EXTENSION ... UPDATE: from each version that was released to this one.
# What an upgrade makes is what CREATE EXTENSION makes, object by object, and what
# was there is there.  docs/upgrade.md says how to make this test pass.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use State;
use Test::More;

my $scripts = "$FindBin::RealBin/../../src/upgrade";
my @old = map { basename($_) =~ /^etl_patterns--([\d.]+)\.sql$/ ? $1 : () } glob "$scripts/etl_patterns--*.sql";
my $objects = slurp_file("$FindBin::RealBin/../lib/extension_objects.sql");
my $dir = PostgreSQL::Test::Utils::tempdir;
chmod 0755, $dir;

my $node = PostgreSQL::Test::Cluster->new('upgrade');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', $State::conf);
$node->start;

sub create
{
	my ($db, $version) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE SCHEMA functions');
	$node->safe_psql($db, 'CREATE EXTENSION etl_patterns SCHEMA functions' . ($version ? " VERSION '$version'" : ''));
	return;
}

# All that is known of the objects, but which version they are said to be.
sub objects
{
	my ($db) = @_;
	my $facts = $node->safe_psql($db, $objects);

	return grep { !/^the extension: version:/ } split /\n/, $facts;
}

# Compares two such lists, and says what differs.
sub same_objects
{
	my ($got, $wanted, $what) = @_;
	my %got = map { $_ => 1 } @$got;
	my %wanted = map { $_ => 1 } @$wanted;
	my @missing = grep { !$got{$_} } @$wanted;
	my @extra = grep { !$wanted{$_} } @$got;

	ok(!@missing && !@extra, $what)
	  or diag(join "\n", 'CREATE EXTENSION makes, and ALTER EXTENSION UPDATE does not:', map({ "  $_" } @missing),
		'ALTER EXTENSION UPDATE leaves, and CREATE EXTENSION does not make:', map({ "  $_" } @extra),
		'docs/upgrade.md says where each of these goes.');
	return;
}

# Calls every function of the extension with nulls only, as a session may do
# that has the new library and the old objects.  Errors are fine; a server that
# goes down is not.
sub call_with_nulls
{
	my ($db, $what) = @_;
	my $calls = $node->safe_psql($db, q{
		SELECT CASE prokind WHEN 'p' THEN 'CALL ' ELSE 'SELECT * FROM ' END || p.oid::regproc || '('
			|| coalesce((SELECT string_agg('NULL::' || format_type(t, NULL), ', ' ORDER BY o)
				FROM unnest(proargtypes) WITH ORDINALITY a (t, o)), '') || ');'
		FROM pg_extension e JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
			JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
		WHERE extname = 'etl_patterns' ORDER BY proname});
	my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');
	my $crashed = 'terminated by signal|was terminated|server closed the connection';
	my $count = () = $calls =~ /;/g;
	my ($status, $out, $err) = $node->psql($db, $calls, on_error_stop => 0);

	cmp_ok($count, '>', 40, "$what: functions are called");
	unlike($err, qr/$crashed/, "$what: no call ends its session");
	is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started, "$what: and the server is still there");
	unlike(slurp_file($node->logfile), qr/terminated by signal/, "$what: no process has crashed");
	return;
}

create('fresh');
my @fresh = objects('fresh');
my $now = $node->safe_psql('fresh', q{SELECT extversion FROM pg_extension WHERE extname = 'etl_patterns'});
cmp_ok(scalar @fresh, '>', 1000, "$now has objects");
is(join("\n", grep { /unknown to/ } @fresh), '', 'and each is of a kind that is compared');
cmp_ok(scalar @old, '>', 0, 'there are versions before it');
call_with_nulls('fresh', $now);

foreach my $old (@old)
{
	my $what = "$old to $now";
	(my $db = "from_$old") =~ tr/./_/;

	# Between the new library and the update.
	create("between_$db", $old);
	call_with_nulls("between_$db", "$old with the library of $now");
	$node->safe_psql('postgres', "DROP DATABASE between_$db WITH (FORCE)");

	create($db);
	State::make($node, $db, $dir);
	State::take_back($node, $db, $old);
	my ($before, $columns) = State::rows($node, $db);
	$node->safe_psql($db, q{INSERT INTO sale VALUES (7, 70)});

	$node->safe_psql($db, 'ALTER EXTENSION etl_patterns UPDATE');
	is($node->safe_psql($db, q{SELECT extversion FROM pg_extension WHERE extname = 'etl_patterns'}), $now, "$what: updated");
	same_objects([ objects($db) ], \@fresh, "$what: the same objects as those of a fresh installation");
	State::is_same($node, $db, $before, $columns, $what);
	State::goes_on($node, $db, $dir, $what);
	State::jobs_go_on($node, $db, $what);

	# The pipeline goes on where it was: without a copy, and with what it missed.
	$node->safe_psql($db, q{SELECT functions.etl_cdc_start('follow')});
	is($node->safe_psql($db, q{SELECT functions.etl_cdc_wait('follow', timeout => '180 s')}), 't', "$what: the pipeline goes on");
	is($node->safe_psql($db, q{SELECT string_agg(id::text, ' ' ORDER BY id) FROM mirror}), '1 2 3 5 6 7', "$what: with all changes");
	is($node->safe_psql($db, q{SELECT rows_copied FROM etl_patterns.cdc_table}), 2, "$what: and no other copy");
	$node->safe_psql($db, q{SELECT functions.etl_cdc_drop('follow')});

	# What was upgraded is dumped and restored like any other.
	$node->command_ok([ 'pg_dump', '--format=custom', '--file', "$dir/$db.dump", $db ], "$what: pg_dump");
	$node->safe_psql('postgres', "CREATE DATABASE restored_$db");
	$node->command_ok([ 'pg_restore', '--exit-on-error', '--dbname', "restored_$db", "$dir/$db.dump" ], "$what: restore");
	same_objects([ objects("restored_$db") ], \@fresh, "$what: the restored one has the same objects");
	is($node->safe_psql("restored_$db", q{SELECT functions.etl_watermark_get('by hand')}), '2026-01-01', "$what: and its state");
}

$node->stop;
done_testing();
