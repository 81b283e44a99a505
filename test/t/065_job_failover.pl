# A standby runs no jobs.  When it is promoted it goes on where the primary
# ended: no slot runs twice, none is left out, and what was running is lost and
# tried again.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Jobs;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = 'jobs';
my $primary = Jobs::new_node('job_primary', allows_streaming => 1);
Jobs::new_database($primary, $db);
$primary->backup('base');

# Its jobs, and one whose run lasts until somebody gives back a lock.
my $standby = PostgreSQL::Test::Cluster->new('job_standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

my $retried = q{max_attempts => 5, retry_delay => '0.1 s'};
Jobs::as_worker($primary, $db, qq{
	SELECT etl_job_create('tick', 'every 1 second', 'SELECT work(''tick'')', catchup => 'all', overlap => 'queue', $retried);
	SELECT etl_job_create('after', 'after tick', 'SELECT work(''after'')', $retried);
	SELECT etl_job_create('event', 'on ping', 'SELECT work(''event'')', $retried);
	SELECT etl_job_create('held', 'on hold', 'SELECT pg_advisory_xact_lock_shared(1), work(''held'')', $retried);
	SELECT etl_job_create('held once', 'on hold', 'SELECT pg_advisory_xact_lock_shared(1), work(''held once'')');
});
$primary->safe_psql($db, $Jobs::remember_slots);

my $holder = $primary->background_psql($db);
$holder->query_safe('SELECT pg_advisory_lock(1)');
Jobs::as_worker($primary, $db, q{SELECT etl_signal('hold')});
Jobs::wait_until($primary, $db, q{SELECT count(*) = 2 FROM etl_patterns.job_run WHERE status = 'running' AND job LIKE 'held%'});
Jobs::wait_until($primary, $db, q{SELECT count(*) > 2 FROM etl_patterns.job_run WHERE status = 'succeeded' AND job = 'after'});

# ---------------------------------------------------------------------------
# On the standby
# ---------------------------------------------------------------------------

# It sees runs of a later time than that at which it was asked first.
my $from = $standby->safe_psql($db, 'SELECT clock_timestamp()');
Jobs::wait_until($standby, $db, "SELECT count(*) > 1 FROM effect WHERE began > '$from'", 'the standby follows');
is($standby->safe_psql($db, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'etl%' OR application_name LIKE 'etl%'}),
	0, 'no process of ours runs on a standby');
is($standby->safe_psql($db, q{SELECT count(*) FROM etl_patterns.job WHERE state = 'active'}), 5, 'jobs can be read there');

my %refused = (
	'etl_run_due_jobs' => 'CALL etl_run_due_jobs()',
	'etl_job_create' => q{SELECT etl_job_create('new', 'every 1 second', 'SELECT 1')},
	'etl_job_alter' => q{SELECT etl_job_alter('tick', command => 'SELECT 2')},
	'etl_job_drop' => q{SELECT etl_job_drop('tick')},
	'etl_job_pause' => q{SELECT etl_job_pause('tick')},
	'etl_job_resume' => q{SELECT etl_job_resume('tick')},
	'etl_job_run' => q{SELECT etl_job_run('tick')},
	'etl_job_backfill' => q{SELECT etl_job_backfill('tick', now() - interval '1 hour', now())},
	'etl_signal' => q{SELECT etl_signal('ping')},
	'etl_job_arm' => 'SELECT etl_job_arm()',
	'etl_job_history_purge' => q{SELECT etl_job_history_purge('1 day')},
	'etl_alert_drain' => 'SELECT * FROM etl_alert_drain()',
);
foreach my $name (sort keys %refused)
{
	my ($status, $out, $err) = $standby->psql($db, "\\set VERBOSITY sqlstate\n$refused{$name}");

	like($err, qr/ERROR:  25006/, "$name says that this is a standby");
}
is($standby->safe_psql($db, q{SELECT count(*) FROM etl_job_next_runs('tick', 3)}), 3, 'etl_job_next_runs works there');

# ---------------------------------------------------------------------------
# Promoted
# ---------------------------------------------------------------------------

# An event that was sent at the last moment, and one that was not.
Jobs::as_worker($primary, $db, q{
	BEGIN; INSERT INTO signal VALUES ('late'); SELECT etl_signal('ping', 'late'); COMMIT;
	BEGIN; INSERT INTO signal VALUES ('never'); SELECT etl_signal('ping', 'never'); ROLLBACK});
$primary->wait_for_catchup($standby);
$primary->stop('immediate');
eval { $holder->{run}->kill_kill; 1 };
$standby->promote;

Jobs::wait_until($standby, $db, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'etl_patterns scheduler' AND datname = current_database()},
	'the scheduler starts');
$from = $standby->safe_psql($db, 'SELECT clock_timestamp()');
Jobs::wait_until($standby, $db, "SELECT count(*) > 2 FROM effect WHERE job = 'after' AND began > '$from'", 'jobs go on');
Jobs::end_schedules($standby, $db);
Jobs::wait_until($standby, $db, 'SELECT count(*) = 0 FROM unfinished');

is($standby->safe_psql($db, q{SELECT job, attempt, status FROM etl_patterns.job_run WHERE job LIKE 'held%' ORDER BY job, attempt}),
	"held|1|lost\nheld|2|succeeded\nheld once|1|lost", 'runs that were running are lost, and tried again where the job says so');
is($standby->safe_psql($db, q{SELECT job FROM etl_patterns.job WHERE failing_since IS NOT NULL}),
	'held once', 'or the job has failed');
is($standby->safe_psql($db, q{SELECT kind, job FROM etl_patterns.alert}), 'failed|held once', 'and says so');

# What is not tried again has no success.
delete $Jobs::invariants{'each slot succeeded once, or says why it did not'};
Jobs::check($standby, $db, 'promoted');
is($standby->safe_psql($db, q{SELECT job, slot FROM etl_patterns.job_run GROUP BY 1, 2
	HAVING count(*) FILTER (WHERE status IN ('succeeded', 'skipped')) <> 1}) =~ /^held once\|\S+ \S+$/,
	1, 'promoted: all other slots succeeded once');

$standby->stop;
done_testing();
