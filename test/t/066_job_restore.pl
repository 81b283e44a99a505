# A copy of a database with jobs does not begin to run them: not one restored
# into another cluster, not one restored beside the original, not one made with
# CREATE DATABASE ... TEMPLATE.  etl_job_arm() lets it, from then on.  History
# comes along; what was not finished in the original is not finished in the copy.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Jobs;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = Jobs::new_node('job_source');
my $other = Jobs::new_node('job_other');
my $dir = PostgreSQL::Test::Utils::tempdir();

Jobs::new_database($source, 'jobs');
my $retried = q{max_attempts => 5, retry_delay => '0.1 s'};
Jobs::as_worker($source, 'jobs', qq{
	SELECT etl_job_create('tick', 'every 1 second', 'SELECT work(''tick'')', $retried);
	SELECT etl_job_create('after', 'after tick', 'SELECT work(''after'')', $retried);
	SELECT etl_job_create('event', 'on ping', 'SELECT work(''event'')', $retried);
	SELECT etl_job_create('yearly', '0 0 1 1 *', 'SELECT work(''yearly'')');
	SELECT etl_job_create('held', 'on hold', 'SELECT pg_advisory_xact_lock_shared(1), work(''held'')', $retried);
	SELECT etl_job_create('paused', 'every 1 second', 'SELECT work(''paused'')', enabled => false);
	SELECT etl_job_create('broken', 'on ping', 'SELECT no_such_function()');
});

# One run lasts until somebody gives back a lock, another one waits for its turn.
my $holder = $source->background_psql('postgres');
$holder->query_safe("SELECT pg_advisory_lock(1)");
$holder->quit;
$holder = $source->background_psql('jobs');
$holder->query_safe('SELECT pg_advisory_lock(1)');
Jobs::as_worker($source, 'jobs', q{SELECT etl_signal('hold')});
Jobs::as_worker($source, 'jobs', q{SELECT etl_signal('hold')});
Jobs::as_worker($source, 'jobs', q{INSERT INTO signal VALUES ('one'); SELECT etl_signal('ping', 'one')});
Jobs::wait_until($source, 'jobs', q{SELECT array_agg(status ORDER BY job_run_id) = '{running,waiting}'
	FROM etl_patterns.job_run WHERE job = 'held'});
Jobs::wait_until($source, 'jobs', q{SELECT count(*) = 1 FROM etl_patterns.job_run WHERE job = 'broken' AND status = 'failed'});
Jobs::wait_until($source, 'jobs', q{SELECT count(*) > 2 FROM etl_patterns.job_run WHERE job = 'after' AND status = 'succeeded'});

# Two runs that have ended come with times, errors and all.
my $history = q{SELECT md5(string_agg(r::text, ' ' ORDER BY job_run_id)) FROM etl_patterns.job_run r
	WHERE status NOT IN ('waiting', 'running') AND job_run_id <= };
my $jobs = q{SELECT job_id, job, role, schedule, command, overlap, catchup, max_attempts, retry_delay, state, failing_since
	FROM etl_patterns.job ORDER BY job_id};
my ($dump, $last, $before, $jobs_before);

sub take_dump
{
	my ($what) = @_;

	$dump = "$dir/jobs.$what";
	$source->command_ok([ 'pg_dump', '--format=custom', '--file', $dump, 'jobs' ], "$what: pg_dump");
	return;
}

# ---------------------------------------------------------------------------
# What holds in each copy
# ---------------------------------------------------------------------------

# Time passes, more than one second in which slots of "tick" are due, and the
# scheduler, if there is one, knows of the database.
sub check_rests
{
	my ($node, $db, $what) = @_;

	my $runs = $node->safe_psql($db, 'SELECT count(*), max(job_run_id) FROM etl_patterns.job_run');
	my $from = $node->safe_psql($db, 'SELECT clock_timestamp()');

	Jobs::wait_until($node, $db, q{SELECT count(*) = 1 FROM etl_scheduler_status() WHERE database = current_database() AND NOT armed},
		"$what: the scheduler sees that it is a copy");
	Jobs::wait_until($node, $db, "SELECT max(heartbeat) > '$from'::timestamptz + interval '2 seconds' FROM etl_scheduler_status() WHERE database = current_database()",
		"$what: the scheduler is alive");
	my ($status, $out, $err) = $node->psql($db, 'CALL etl_run_due_jobs()');
	like($err, qr/ERROR:.*\n.*HINT:.*etl_job_arm\(\)/s, "$what: etl_run_due_jobs says how to arm");
	($status, $out, $err) = $node->psql($db, q{SELECT etl_signal('ping', 'copy')});
	is($out, 0, "$what: an event starts nothing");
	like($err, qr/WARNING:.*\n.*HINT:.*etl_job_arm\(\)/s, "$what: and says so");
	is($node->safe_psql($db, 'SELECT count(*), max(job_run_id) FROM etl_patterns.job_run'), $runs, "$what: no slot was claimed");
	is($node->safe_psql($db, q{SELECT string_agg(status, ' ' ORDER BY job_run_id) FROM etl_patterns.job_run WHERE job = 'held'}),
		'running waiting', "$what: what was unfinished still is");
	is($node->safe_psql($db, q{SELECT count(*) FROM effect WHERE began > '} . "$from'"), 0, "$what: nothing ran");
	return;
}

sub check_armed
{
	my ($node, $db, $what) = @_;

	my $max = $node->safe_psql($db, 'SELECT max(job_run_id) FROM etl_patterns.job_run');
	my $unfinished = $node->safe_psql($db, q{SELECT count(*) FROM unfinished});
	my ($status, $out, $err) = $node->psql($db, 'SELECT etl_job_arm()', extra_params => [ '-U', 'worker' ]);

	like($err, qr/ERROR/, "$what: who does not own the database may not arm");
	my $from = $node->safe_psql($db, 'SELECT clock_timestamp(); SELECT etl_job_arm()') =~ s/\n.*//sr;
	cmp_ok($unfinished, '>=', 2, "$what: there were unfinished runs");
	is($node->safe_psql($db, qq{SELECT count(*) FROM etl_patterns.job_run WHERE job_run_id <= $max AND status = 'skipped' AND reason = 'restored'}),
		$unfinished, "$what: they are skipped");
	Jobs::as_worker($node, $db, q{INSERT INTO signal VALUES ('armed'); SELECT etl_signal('ping', 'armed')});
	Jobs::wait_until($node, $db, qq{SELECT count(*) > 2 FROM etl_patterns.job_run WHERE job = 'after' AND status = 'succeeded' AND job_run_id > $max},
		"$what: jobs run");
	Jobs::wait_until($node, $db, qq{SELECT count(*) = 1 FROM effect WHERE job = 'event' AND payload = 'armed'}, "$what: events start jobs");
	is($node->safe_psql($db, qq{SELECT count(*) FROM etl_patterns.job_run WHERE job_run_id > $max AND slot < '$from'}),
		0, "$what: no slot is from before that");
	is($node->safe_psql($db, q{SELECT count(*) FROM etl_patterns.job_run WHERE job IN ('held', 'paused', 'yearly') AND status = 'succeeded'}),
		0, "$what: what was unfinished, and what is paused, did not run");
	is($node->safe_psql($db, q{SELECT count(*) FROM (SELECT FROM etl_patterns.job_run WHERE origin = 'schedule' GROUP BY job, slot HAVING count(*) > 1) x}),
		0, "$what: no slot has two rows");
	is($node->safe_psql($db, q{SELECT count(*) FROM effect e FULL JOIN (SELECT * FROM etl_patterns.job_run WHERE status = 'succeeded') r USING (job_run_id)
		WHERE e.job IS NULL OR r.job IS NULL}), 0, "$what: runs and their effects agree");
	is($node->safe_psql($db, q{SELECT count(*), count(DISTINCT system_identifier) FROM etl_patterns.run_jobs}), '1|1', "$what: armed here");
	return;
}

# Jobs and history are those of the dump.
sub check_history
{
	my ($node, $db, $what) = @_;

	$last = $node->safe_psql($db, 'SELECT max(job_run_id) FROM etl_patterns.job_run');
	is($node->safe_psql($db, $jobs), $source->safe_psql('jobs', $jobs), "$what: the same jobs");
	# runs that have ended by now in the original may not have when it was dumped
	my $ended = $node->safe_psql($db, q{SELECT string_agg(job_run_id::text, ',') FROM etl_patterns.job_run WHERE status NOT IN ('waiting', 'running')});
	my $rows = "SELECT count(*) || ' ' || md5(string_agg(r::text, ' ' ORDER BY job_run_id)) FROM etl_patterns.job_run r WHERE job_run_id IN ($ended)";
	is($node->safe_psql($db, $rows), $source->safe_psql('jobs', $rows), "$what: the same history");
	cmp_ok($node->safe_psql($db, q{SELECT count(*) FROM etl_patterns.job_run WHERE status = 'succeeded'}), '>', 4, "$what: with runs");
	is($node->safe_psql($db, q{SELECT status, error_code FROM etl_patterns.job_run WHERE job = 'broken'}), 'failed|42883', "$what: and errors");
	is($node->safe_psql($db, q{SELECT kind, job FROM etl_patterns.alert}), 'failed|broken', "$what: and alerts");
	return;
}

# ---------------------------------------------------------------------------
# The copies
# ---------------------------------------------------------------------------

take_dump('other');
$other->safe_psql('postgres', 'CREATE DATABASE jobs');
$other->command_ok([ 'pg_restore', '--exit-on-error', '--dbname', 'jobs', $dump ], 'another cluster: pg_restore');
check_history($other, 'jobs', 'another cluster');
check_rests($other, 'jobs', 'another cluster');
check_armed($other, 'jobs', 'another cluster');
is($other->safe_psql('jobs', q{SELECT etl_job_run('yearly') > max(job_run_id) FROM etl_patterns.job_run}), 't', 'another cluster: run numbers go on');

$source->safe_psql('postgres', 'CREATE DATABASE beside');
$source->command_ok([ 'pg_restore', '--exit-on-error', '--dbname', 'beside', $dump ], 'beside the original: pg_restore');
check_history($source, 'beside', 'beside the original');
check_rests($source, 'beside', 'beside the original');

# A job that is created there does not arm it, but says what is missing.
my ($status, $out, $err) = $source->psql('beside', q{SELECT etl_job_create('new', 'every 1 second', 'SELECT work(''new'')')},
	extra_params => [ '-U', 'worker' ]);
is($status, 0, 'beside the original: a job can be created');
like($err, qr/WARNING:.*\n.*HINT:.*etl_job_arm\(\)/s, 'beside the original: with a warning');
is($source->safe_psql('beside', q{SELECT etl_job_drop('new')}), '', 'and dropped');
check_armed($source, 'beside', 'beside the original');

# The original goes on meanwhile.
my $from = $source->safe_psql('jobs', 'SELECT clock_timestamp()');
Jobs::wait_until($source, 'jobs', "SELECT count(*) > 1 FROM effect WHERE job = 'after' AND began > '$from'", 'the original goes on');
is($source->safe_psql('jobs', q{SELECT string_agg(status, ' ' ORDER BY job_run_id) FROM etl_patterns.job_run WHERE job = 'held'}),
	'running waiting', 'the original has what was unfinished');

# A template must have no sessions.  The extension's own give way by
# themselves; what a run has not finished is lost.
Jobs::as_worker($source, 'jobs', q{SELECT etl_job_pause('held')});
$holder->quit;
Jobs::wait_until($source, 'jobs', q{SELECT count(*) = 1 FROM etl_patterns.job_run WHERE job = 'held' AND status = 'succeeded'});
$source->safe_psql('postgres', 'CREATE DATABASE made TEMPLATE jobs');
is($source->safe_psql('made', $jobs), $source->safe_psql('jobs', $jobs), 'template: the same jobs');
my $runs = $source->safe_psql('made', 'SELECT count(*), max(job_run_id) FROM etl_patterns.job_run');
Jobs::wait_until($source, 'made', q{SELECT count(*) = 1 FROM etl_scheduler_status() WHERE database = current_database() AND NOT armed},
	'template: the scheduler sees that it is a copy');
$from = $source->safe_psql('made', 'SELECT clock_timestamp()');
Jobs::wait_until($source, 'made', "SELECT max(heartbeat) > '$from'::timestamptz + interval '2 seconds' FROM etl_scheduler_status() WHERE database = current_database()");
is($source->safe_psql('made', 'SELECT count(*), max(job_run_id) FROM etl_patterns.job_run'), $runs, 'template: no slot was claimed');
$source->psql('made', 'CALL etl_run_due_jobs()', stderr => \$err);
like($err, qr/HINT:.*etl_job_arm\(\)/, 'template: etl_run_due_jobs says how to arm');
my $max = $source->safe_psql('made', 'SELECT max(job_run_id) FROM etl_patterns.job_run; SELECT etl_job_arm()') =~ s/\n.*//sr;
Jobs::wait_until($source, 'made', "SELECT count(*) > 2 FROM etl_patterns.job_run WHERE job = 'after' AND status = 'succeeded' AND job_run_id > $max",
	'template: armed, it runs');
$from = $source->safe_psql('jobs', 'SELECT clock_timestamp()');
Jobs::wait_until($source, 'jobs', "SELECT count(*) > 1 FROM effect WHERE job = 'after' AND began > '$from'", 'the original goes on');
pass('template: armed, it runs, and so does the original');

# Arming what is armed changes nothing.
$source->safe_psql('jobs', 'SELECT etl_job_arm()');
is($source->safe_psql('jobs', q{SELECT count(*) FROM etl_patterns.job_run WHERE reason = 'restored'}), 0, 'arming twice skips nothing');

$other->stop;
$source->stop;
done_testing();
