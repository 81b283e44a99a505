# Exactly once: whatever is killed, and whenever, a rerun leaves the rows of
# one undisturbed load, and no file counts twice.
#
# Loads stop where a trigger of the target waits for an advisory lock that the
# test holds; the test waits until the server shows them waiting for it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Restart;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('crash');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', 'restart_after_crash = on');
$node->start;
my $dir = PostgreSQL::Test::Utils::tempdir;
chmod 0777, $dir;

my $rows = 5000;
append_to_file("$dir/rows.csv", join("\n", 'a,b', (map { "$_,row $_" } 1 .. $rows), 'bad,row', '4,dup') . "\n");

$node->safe_psql('postgres', q{
	CREATE EXTENSION etl_patterns;
	CREATE TABLE undisturbed (a int PRIMARY KEY, b text);
	CREATE FUNCTION wait_at() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END $$;
});
my $options = "on_error => 'dead_letter', reject_limit => 10";
is($node->safe_psql('postgres', "SELECT rows_loaded, rows_rejected FROM etl_bulk_copy('undisturbed', '$dir/rows.csv', $options)"),
	"$rows|2", 'an undisturbed load');

# Start a load of a new table and wait until it waits before the given row.
sub start_load
{
	my ($table, $row, $more) = @_;
	my $holder = $node->background_psql('postgres', on_error_stop => 0);
	my $loader = $node->background_psql('postgres', on_error_stop => 0);

	$node->safe_psql('postgres', qq{
		CREATE TABLE IF NOT EXISTS $table (a int PRIMARY KEY, b text);
		CREATE OR REPLACE TRIGGER wait_at BEFORE INSERT ON $table FOR EACH ROW WHEN (NEW.a = $row) EXECUTE FUNCTION wait_at();
	});
	$holder->query_safe('SELECT pg_advisory_lock(1)');
	my $pid = $loader->query_safe('SELECT pg_backend_pid()');
	$loader->query_until(qr/started/,
		"\\echo started\nSELECT * FROM etl_bulk_copy('$table', '$dir/rows.csv', $options$more);\n");
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $pid AND wait_event_type = 'Lock' AND wait_event = 'advisory'")
	  or die 'the load did not come to the row';
	return ($holder, $loader, $pid);
}

# Nothing of the load may be seen; then rerun it and compare.
sub check_rerun
{
	my ($table, $what) = @_;

	is($node->safe_psql('postgres', "SELECT count(*) FROM $table"), 0, "$what: no rows");
	is( $node->safe_psql('postgres', "SELECT (SELECT count(*) FROM etl_patterns.run WHERE target = '$table'::regclass)
			+ (SELECT count(*) FROM etl_patterns.loaded_file WHERE target = '$table'::regclass)
			+ (SELECT count(*) FROM etl_patterns.dead_letter WHERE target = '$table'::regclass)"),
		0, "$what: no state");
	is($node->safe_psql('postgres', "SELECT files_loaded, rows_loaded, rows_rejected FROM etl_bulk_copy('$table', '$dir/rows.csv', $options)"),
		"1|$rows|2", "$what: the rerun loads all");
	is( $node->safe_psql('postgres', "SELECT count(*) FROM
			((TABLE $table EXCEPT ALL TABLE undisturbed) UNION ALL (TABLE undisturbed EXCEPT ALL TABLE $table)) x"),
		0, "$what: the same rows");
	is( $node->safe_psql('postgres', "SELECT count(*) FROM etl_patterns.dead_letter d JOIN etl_patterns.dead_letter u
			USING (line_no, category, error_code, raw_record)
			WHERE d.target = '$table'::regclass AND u.target = 'undisturbed'::regclass"),
		2, "$what: the same dead letters");
	is($node->safe_psql('postgres', "SELECT files_loaded, files_skipped FROM etl_bulk_copy('$table', '$dir/rows.csv', $options)"),
		'0|1', "$what: once more, it is skipped");
	is($node->safe_psql('postgres', "SELECT count(*) FROM etl_patterns.loaded_file WHERE target = '$table'::regclass"),
		1, "$what: one file");
}

sub end_session
{
	foreach my $session (@_)
	{
		eval { $session->{run}->kill_kill; 1 };
	}
}

# The backend is killed; the postmaster restarts the others.
foreach my $row (1, 2500, $rows)
{
	my ($holder, $loader, $pid) = start_load("killed_$row", $row, '');

	Restart::kill_process($node, $pid);
	end_session($holder, $loader);
	check_rerun("killed_$row", "kill -9 at row $row");
}

# The server is killed.
foreach my $row (1, 2500, $rows)
{
	my ($holder, $loader, $pid) = start_load("stopped_$row", $row, '');

	$node->stop('immediate');
	end_session($holder, $loader);
	$node->start;
	check_rerun("stopped_$row", "immediate stop at row $row");
}

# A cancelled load leaves nothing either.
{
	my ($holder, $loader, $pid) = start_load('cancelled', 2500, '');

	$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
	$node->poll_query_until('postgres', "SELECT state <> 'active' FROM pg_stat_activity WHERE pid = $pid")
	  or die 'the load was not cancelled';
	end_session($holder, $loader);
	$node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory'")
	  or die 'the lock is still held';
	check_rerun('cancelled', 'cancel');
}

# Killed before the commit, a load removes no file.
append_to_file("$dir/after.csv", "a,b\n1,x\n");
{
	my $holder = $node->background_psql('postgres', on_error_stop => 0);

	$node->safe_psql('postgres', 'CREATE TABLE after_load (a int, b text)');
	$holder->query_safe('BEGIN');
	$holder->query_safe("SELECT * FROM etl_bulk_copy('after_load', '$dir/after.csv', after_load => 'delete')");
	$node->stop('immediate');
	end_session($holder);
	$node->start;
	ok(-e "$dir/after.csv", 'a file stays when its load is lost');
}

# Between commit and removal: the file is loaded and still there.  The next
# call, and only that, removes it.
$node->safe_psql('postgres', "SELECT * FROM etl_bulk_copy('after_load', '$dir/after.csv')");
$node->stop('immediate');
$node->start;
ok(-e "$dir/after.csv", 'a loaded file that was not removed');
is($node->safe_psql('postgres', "SELECT files_loaded, files_skipped FROM etl_bulk_copy('after_load', '$dir/after.csv', after_load => 'delete')"),
	'0|1', 'is skipped by the next call');
ok(!-e "$dir/after.csv", 'which removes it');
is($node->safe_psql('postgres', 'SELECT count(*) FROM after_load'), 1, 'its row is there once');

# The same for a move that stopped half-way, with a link in both places.
mkdir "$dir/done" or die "mkdir: $!";
append_to_file("$dir/moved.csv", "a,b\n2,y\n");
$node->safe_psql('postgres', "SELECT * FROM etl_bulk_copy('after_load', '$dir/moved.csv')");
link("$dir/moved.csv", "$dir/done/moved.csv") or die "link: $!";
is($node->safe_psql('postgres', "SELECT files_loaded, files_skipped FROM etl_bulk_copy('after_load', '$dir/moved.csv', after_load => 'move', move_to => '$dir/done')"),
	'0|1', 'a file that was half moved is skipped');
ok(!-e "$dir/moved.csv" && -e "$dir/done/moved.csv", 'and the move completed');

$node->stop;
done_testing();
