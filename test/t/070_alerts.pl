# Each kind of alert, given by the scheduler: once for each change of state, to
# the owner's outbox, and with a NOTIFY that names nobody.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Jobs;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = Jobs::new_node('alerts');
Jobs::new_database($node, 'jobs');
$node->safe_psql('jobs', q{
	CREATE TABLE switch (fails boolean);
	INSERT INTO switch VALUES (true);
	CREATE ROLE listener LOGIN;
	GRANT ALL ON switch TO worker;
});
my $listener = $node->background_psql('jobs', extra_params => [ '-U', 'listener' ]);
$listener->set_query_timer_restart;
$listener->query_safe('LISTEN etl_alert');

sub worker { return Jobs::as_worker($node, 'jobs', @_); }

# So many runs of a job have ended.
sub wait_for_runs
{
	my ($job, $runs) = @_;

	Jobs::wait_until($node, 'jobs', "SELECT count(*) = $runs FROM etl_patterns.job_run WHERE job = '$job' AND finished_at IS NOT NULL");
	return;
}

sub wait_for_alerts
{
	my ($job, $alerts) = @_;

	Jobs::wait_until($node, 'jobs', "SELECT count(*) >= $alerts FROM etl_patterns.alert WHERE job = '$job'");
	return;
}

# The kinds of alerts of a job, in order.
sub kinds
{
	my ($job) = @_;

	return $node->safe_psql('jobs', "SELECT string_agg(kind, ' ' ORDER BY alert_id) FROM etl_patterns.alert WHERE job = '$job'");
}

# failed, recovered: on the change only.
worker(q{SELECT etl_job_create('switched', 'on flip', 'SELECT 1 / (CASE WHEN fails THEN 0 ELSE 1 END) FROM switch')});
worker(q{SELECT etl_signal('flip')});
wait_for_runs('switched', 1);
is(kinds('switched'), 'failed', 'a failure');
worker(q{SELECT etl_signal('flip') FROM generate_series(1, 3)});
wait_for_runs('switched', 4);
is(kinds('switched'), 'failed', 'it goes on failing');
worker(q{UPDATE switch SET fails = false; SELECT etl_signal('flip') FROM generate_series(1, 3)});
wait_for_runs('switched', 7);
is(kinds('switched'), 'failed recovered', 'it succeeds, and goes on');
worker(q{UPDATE switch SET fails = true; SELECT etl_signal('flip')});
wait_for_runs('switched', 8);
is(kinds('switched'), 'failed recovered failed', 'the next failure is another one');

# (A run begins long before the time that makes it late.)
# still_running, while it runs; never_started, of the one that waits for it.
my $holder = $node->background_psql('jobs');
$holder->query_safe('SELECT pg_advisory_lock(1)');
worker(q{SELECT etl_job_create('slow', 'on call', 'SELECT pg_advisory_xact_lock(1)', alert_after => '5 seconds')});
worker(q{SELECT etl_signal('call', 'first')});
wait_for_alerts('slow', 1);
is(kinds('slow'), 'still_running', 'a run that takes long');
is($node->safe_psql('jobs', q{SELECT r.status, r.alerted_at > r.started_at FROM etl_patterns.alert a JOIN etl_patterns.job_run r USING (job_run_id) WHERE a.job = 'slow'}),
	'running|t', 'it is told while it runs');
worker(q{SELECT etl_signal('call', 'behind') FROM generate_series(1, 3)});
wait_for_alerts('slow', 2);
Jobs::wait_until($node, 'jobs', q{SELECT count(*) = 4 FROM etl_patterns.job_run WHERE job = 'slow' AND alerted_at IS NOT NULL});
is(kinds('slow'), 'still_running never_started', 'one of those that wait for it');
$holder->quit;
wait_for_runs('slow', 4);
is(kinds('slow'), 'still_running never_started', 'and no more when they have run');

# broken, once.
$node->safe_psql('jobs', q{
	CREATE ROLE homeless LOGIN;
	SET SESSION AUTHORIZATION homeless;
	SELECT etl_job_create('unhappy', 'every 1 second', 'SELECT 1');
	RESET SESSION AUTHORIZATION;
	ALTER ROLE homeless NOLOGIN;
});
wait_for_alerts('unhappy', 1);
worker(q{SELECT etl_signal('flip')});
wait_for_runs('switched', 9);
is(kinds('unhappy'), 'broken', 'a job whose owner may not log in');
is($node->safe_psql('jobs', q{SELECT state FROM etl_patterns.job WHERE job = 'unhappy'}), 'broken', 'is broken');
is($node->safe_psql('jobs', q{SELECT count(*) FROM etl_patterns.job_run WHERE job = 'unhappy' AND status = 'waiting'}), 0, 'and leaves nothing waiting');

# Who listens hears of each alert, in order: a number and a kind.
my $told = $node->safe_psql('jobs', q{SELECT string_agg(format('{"alert_id": %s, "kind": "%s"}', alert_id, kind), E'\n' ORDER BY alert_id) FROM etl_patterns.alert});
my $heard = $listener->query_safe('SELECT 1');
my @payloads = $heard =~ /^Asynchronous notification "etl_alert" with payload "(.*)" received/mg;
is(join("\n", sort { ($a =~ /(\d+)/)[0] <=> ($b =~ /(\d+)/)[0] } @payloads), $told, 'NOTIFY: one for each alert');
is($listener->query_safe('SELECT count(*) FROM etl_patterns.alert'), 0, 'of which the listener sees nothing');
is($listener->query_safe('SELECT count(*) FROM etl_alert_drain()'), 0, 'and drains nothing');
$listener->quit;

# Owners drain theirs.
is(worker(q{SELECT string_agg(kind, ' ' ORDER BY alert_id) FROM etl_alert_drain()}),
	'failed recovered failed still_running never_started', 'their owner drains them');
is(worker(q{SELECT count(*) FROM etl_alert_drain()}), 0, 'once');
is(kinds('unhappy'), 'broken', 'and not those of others');
$node->stop;

done_testing();
