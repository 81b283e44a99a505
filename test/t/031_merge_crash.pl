# A merge that dies leaves nothing behind, and a rerun gives the history of
# one undisturbed merge.
#
# Merges stop where a CHECK constraint of the target waits for an advisory
# lock that the test holds: at a row that is closed, at one that is inserted;
# or they end and wait before their commit.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Restart;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('merge_crash');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', 'restart_after_crash = on');
$node->start;

$node->safe_psql('postgres', q{
	CREATE EXTENSION etl_patterns;
	CREATE TABLE snapshot AS SELECT i AS id, 'name ' || i AS name, i % 7 AS price FROM generate_series(1, 20000) i;
	CREATE FUNCTION wait_at(id int, price int, stop text) RETURNS boolean LANGUAGE plpgsql AS $$
		BEGIN
			IF id = 10000 AND current_setting('test.stop', true) = stop THEN
				PERFORM pg_advisory_xact_lock_shared(1);
			END IF;
			RETURN true;
		END $$;
	SELECT etl_scd2_create('undisturbed', 'snapshot', '{id}');
	SELECT etl_scd2_merge('undisturbed', 'snapshot', '{id}', effective_at => '2024-01-01');
	CREATE TABLE first_state AS TABLE undisturbed;
	UPDATE snapshot SET price = price + 100 WHERE id % 4 = 0;
	DELETE FROM snapshot WHERE id % 1000 = 1;
	INSERT INTO snapshot SELECT i, 'name ' || i, 0 FROM generate_series(20001, 22000) i;
	SELECT etl_scd2_merge('undisturbed', 'snapshot', '{id}', effective_at => '2024-02-01', absent => 'close');
});

my $columns = 'id, name, price, valid_from, valid_to, is_current';
my $merge = "etl_scd2_merge('dim', 'snapshot', '{id}', effective_at => '2024-02-01', absent => 'close')";

# Start a merge into a table with the first state and wait until it waits.
sub start_merge
{
	my ($way, $stop) = @_;
	my $holder = $node->background_psql('postgres', on_error_stop => 0);
	my $merger = $node->background_psql('postgres', on_error_stop => 0);

	$node->safe_psql('postgres', qq{
		DROP TABLE IF EXISTS dim;
		SELECT etl_scd2_create('dim', 'snapshot', '{id}');
		INSERT INTO dim ($columns) SELECT $columns FROM first_state;
		ALTER TABLE dim ADD CHECK (wait_at(id, price, CASE WHEN is_current THEN 'insert' ELSE 'close' END));
	});
	$holder->query_safe('SELECT pg_advisory_lock(1)');
	my $pid = $merger->query_safe('SELECT pg_backend_pid()');
	$merger->query_safe("LOAD 'etl_patterns'; SET etl_patterns.merge_path = '$way'; SET test.stop = '$stop'");
	$merger->query_until(qr/started/,
		"\\echo started\nBEGIN; SELECT * FROM $merge; SELECT pg_advisory_xact_lock_shared(1);\n");
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $pid AND wait_event_type = 'Lock' AND wait_event = 'advisory'")
	  or die 'the merge did not come to the row';
	return ($holder, $merger, $pid);
}

sub difference
{
	my ($table) = @_;

	return $node->safe_psql('postgres', "SELECT count(*) FROM
		((SELECT $columns FROM dim EXCEPT ALL SELECT $columns FROM $table)
		 UNION ALL (SELECT $columns FROM $table EXCEPT ALL SELECT $columns FROM dim)) x");
}

# Nothing of the merge may be seen; then rerun it and compare.
sub check_rerun
{
	my ($what) = @_;

	is(difference('first_state'), 0, "$what: as before the merge");
	is($node->safe_psql('postgres', "SELECT count(*) FROM etl_patterns.run WHERE target = 'dim'::regclass"), 0,
		"$what: no run");
	is($node->safe_psql('postgres', "SELECT rows_read, inserted, opened, closed, unchanged FROM $merge"),
		'21980|2000|5000|5020|14980', "$what: the rerun does it all");
	is(difference('undisturbed'), 0, "$what: the history of an undisturbed merge");
	is($node->safe_psql('postgres', "SELECT * FROM etl_scd2_verify('dim', '{id}')"), '', "$what: a sound history");
}

sub end_session
{
	foreach my $session (@_)
	{
		eval { $session->{run}->kill_kill; 1 };
	}
}

is($node->safe_psql('postgres', "SELECT count(*), count(*) FILTER (WHERE NOT is_current) FROM undisturbed"),
	'27000|5020', 'the undisturbed merge');

# The backend is killed; the postmaster restarts the others.
foreach my $way ('auto', 'general')
{
	foreach my $stop ('close', 'insert', 'end')
	{
		my ($holder, $merger, $pid) = start_merge($way, $stop);

		Restart::kill_process($node, $pid);
		end_session($holder, $merger);
		check_rerun("$way, killed at $stop");
	}
}

# The whole server goes.
my ($holder, $merger, $pid) = start_merge('auto', 'insert');
$node->stop('immediate');
end_session($holder, $merger);
$node->start;
check_rerun('server stopped at once');

# A cancel is answered at once, and the session goes on.
($holder, $merger, $pid) = start_merge('auto', 'close');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
$node->poll_query_until('postgres', "SELECT state <> 'active' FROM pg_stat_activity WHERE pid = $pid")
  or die 'the merge was not cancelled';
end_session($holder, $merger);
$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_locks WHERE locktype IN ('advisory', 'relation') AND pid = $pid")
  or die 'a lock is still held';
check_rerun('cancelled');

done_testing();
