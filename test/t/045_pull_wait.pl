# A pull that waits says for whom, when it begins to; ends as soon as it can;
# gives up when max_wait is over; and can be cancelled.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Waiting;

my $node = PostgreSQL::Test::Cluster->new('pull_wait');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->start;

# A copy of the database has the same OIDs: its sessions must not be mixed up.
$node->safe_psql('postgres', q{
	CREATE EXTENSION etl_patterns;
	CREATE TABLE src (id serial PRIMARY KEY, ts timestamptz NOT NULL DEFAULT now());
	CREATE TABLE dst (LIKE src);
	CREATE FUNCTION fresh() RETURNS void LANGUAGE sql AS $$
		SELECT etl_watermark_reset('p');
		TRUNCATE src, dst RESTART IDENTITY $$;
});
$node->safe_psql('template1', 'CREATE DATABASE clone TEMPLATE postgres');
$node->safe_psql('postgres', q{
	CREATE ROLE reader;
	GRANT SELECT ON src TO reader;
	GRANT ALL ON dst TO reader;
});

my $pulls = Waiting->new($node);
my $insert = 'INSERT INTO src DEFAULT VALUES';
my $held = q{status || ' ' || (detail -> 'held_by' ->> 'pid')};
my %cursor = (horizon => 'ts', lock_wait => 'id');

for my $safety ('horizon', 'lock_wait')
{
	my $pull = "etl_incremental_pull('p', 'src', 'dst', '$cursor{$safety}', max_wait => %s)";
	my $impatient = sprintf $pull, "'0'";
	my $patient = sprintf $pull, "'5min'";
	my ($writer, $pid, $other, $other_pid, $session, $since);

	# Nobody ends: max_wait does.
	$node->safe_psql('postgres', 'SELECT fresh()');
	($writer, $pid) = $pulls->holder($insert);
	$node->safe_psql('postgres', $insert);
	$session = $pulls->start(sprintf($pull, "'2s'"), 60);
	like($pulls->{notice}, qr/NOTICE.*\b$pid\b/, "$safety: says at once whom it waits for");
	is($node->safe_psql('postgres', "SELECT state FROM pg_stat_activity WHERE pid = $pulls->{pid}"), 'active', "$safety: is waiting then");
	is($pulls->finish($session), '0 in time', "$safety: gives up");
	is($pulls->last_run($held), "skipped $pid", "$safety: the run names the one");
	is($pulls->last_run(q{(detail ->> 'waited_ms')::numeric BETWEEN 1900 AND 60000}), 't', "$safety: and how long");
	$since = $node->safe_psql('postgres', "SELECT xact_start FROM pg_stat_activity WHERE pid = $pid");
	is($pulls->last_run("(detail -> 'held_by' ->> 'since')::timestamptz = '$since'"), 't', "$safety: and since when");
	is($node->safe_psql('postgres', q{SELECT etl_watermark_get('p') IS NULL}), 't', "$safety: the watermark stays");
	is($node->safe_psql('postgres', q{SELECT held_by_pid FROM etl_patterns.pipeline_lag WHERE pipeline = 'p'}), $pid, "$safety: so does pipeline_lag");

	# No time to wait: it is named nevertheless.
	is($pulls->now($impatient), 0, "$safety: no time to wait");
	like($pulls->{notice}, qr/NOTICE.*\b$pid\b/, "$safety: a notice even so");
	like($pulls->{notice}, qr/NOTICE.*gave up/, "$safety: and one that nothing was read");
	is($pulls->last_run($held), "skipped $pid", "$safety: a run even so");

	# As a role that may not see what others do
	is($pulls->now($impatient =~ s/'p'/'theirs'/r, before => 'SET ROLE reader'), 0, "$safety: as a role without rights on statistics");
	like($pulls->{notice}, qr/NOTICE.*\b$pid\b/, "$safety: it is told the pid");
	$node->safe_psql('postgres', q{SELECT etl_watermark_reset('theirs')});

	# It ends.
	$session = $pulls->start($patient, 120);
	$writer->query_safe('COMMIT');
	is($pulls->finish($session), '2 in time', "$safety: reads when it can");
	is($pulls->last_run($held), "succeeded $pid", "$safety: the run tells for whom it waited");
	is($pulls->ids('dst'), '1 2', "$safety: the rows");

	# Its session is ended.
	$writer->query_safe("BEGIN; $insert");
	$node->safe_psql('postgres', $insert);
	$session = $pulls->start($patient, 120);
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	is($pulls->finish($session), '1 in time', "$safety: the session is gone");
	$writer->{run}->finish;

	# Whoever comes meanwhile is not waited for.
	$node->safe_psql('postgres', 'SELECT fresh()');
	($writer, $pid) = $pulls->holder($insert);
	$node->safe_psql('postgres', $insert);
	$session = $pulls->start($patient, 120);
	($other, $other_pid) = $pulls->holder($insert);
	$writer->query_safe('COMMIT');
	is($pulls->finish($session), '2 in time', "$safety: one that came later");
	$other->query_safe('COMMIT');
	is($pulls->now($impatient), 1, "$safety: is read by the next pull");
	is($pulls->ids('dst'), '1 2 3', "$safety: once");

	# Two of them
	$node->safe_psql('postgres', 'SELECT fresh()');
	$writer->query_safe("BEGIN; $insert");
	$other->query_safe("BEGIN; $insert");
	$node->safe_psql('postgres', $insert);
	$session = $pulls->start($patient, 120);
	$writer->query_safe('COMMIT');
	if ($safety eq 'horizon')
	{
		is($pulls->finish($session), '1 in time', "$safety: as far as the second holds it");
		is($pulls->now($impatient), 0, "$safety: not farther");
		like($pulls->{notice}, qr/NOTICE.*\b$other_pid\b/, "$safety: who is the holder now");
		$other->query_safe('COMMIT');
		is($pulls->now($impatient), 2, "$safety: then the rest");
	}
	else
	{
		$other->query_safe('COMMIT');
		is($pulls->finish($session), '3 in time', "$safety: waits for both");
		is($pulls->now($impatient), 0, "$safety: nothing is left");
	}
	is($pulls->ids('dst'), '1 2 3', "$safety: the rows of both");

	# Both in turn for longer than max_wait
	$node->safe_psql('postgres', 'SELECT fresh()');
	$writer->query_safe("BEGIN; $insert");
	$other->query_safe('BEGIN; ' . ($safety eq 'horizon' ? 'SELECT' : $insert));
	$node->safe_psql('postgres', $insert);
	$session = $pulls->start(sprintf($pull, "'5s'"), 60);
	$writer->query_safe('ROLLBACK');
	is($pulls->finish($session), '0 in time', "$safety: max_wait is for all of them");
	is($pulls->last_run($held), "skipped $other_pid", "$safety: the last one is named");
	$other->query_safe('COMMIT');

	# A cancel
	$node->safe_psql('postgres', 'SELECT fresh()');
	$writer->query_safe("BEGIN; $insert");
	$node->safe_psql('postgres', $insert);
	for my $cancel ('pg_cancel_backend', 'pg_terminate_backend')
	{
		my $runs = $node->safe_psql('postgres', 'SELECT count(*) FROM etl_patterns.run');

		$session = $pulls->start($patient, 120);
		$node->safe_psql('postgres', "SELECT $cancel($pulls->{pid})");
		if ($cancel eq 'pg_cancel_backend')
		{
			is($pulls->finish($session), 'in time', "$safety: $cancel is heard");
			like($pulls->{errors}, qr/canceling statement due to user request/, "$safety: and obeyed");
		}
		else
		{
			$session->{run}->finish;
			like($session->{stderr}, qr/terminating connection/, "$safety: $cancel is heard");
		}
		is($node->safe_psql('postgres', 'SELECT count(*) FROM etl_patterns.run'), $runs, "$safety: no run after $cancel");
	}
	is($pulls->now($patient, before => "SET statement_timeout = '200ms'"), '', "$safety: a timeout of the statement");
	like($pulls->{errors}, qr/statement timeout/, "$safety: is heard");
	$writer->query_safe('COMMIT');
	is($pulls->now($impatient), 2, "$safety: and the next pull reads all");

	# Sessions that are nobody's concern
	$node->safe_psql('postgres', $insert);
	$writer->quit;
	$other->quit;
	($writer) = $pulls->holder($insert, 'clone');
	is($pulls->now($patient), 1, "$safety: a session in a database with the same OIDs");
	$writer->quit;
}

# A session that does not show its transactions cannot be waited for.
{
	my $call = q{etl_incremental_pull('p', 'src', 'dst', 'ts', max_wait => '0')};
	my ($writer, $rows);

	$node->safe_psql('postgres', "SELECT fresh(); $insert");
	$pulls->now($call, before => 'SET track_activities = off');
	like($pulls->{errors}, qr/track_activities/, 'horizon: track_activities is off for the pull');
	$writer = $node->background_psql('postgres', on_error_stop => 0);
	$writer->query_safe('SET track_activities = off');
	$writer->query_safe("BEGIN; $insert");
	$node->safe_psql('postgres', $insert);
	$rows = $pulls->now($call) || 0;
	$writer->query_safe('COMMIT');
	$writer->quit;
	$pulls->now($call);
	is($pulls->ids('dst'), '1 2 3', 'horizon: track_activities is off for a writer');
}

$node->stop;
done_testing();
