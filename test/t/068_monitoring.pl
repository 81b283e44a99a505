# The queries in docs/monitoring: each runs as a member of pg_monitor who has no
# other right, its columns are those that the file declares, both files give the
# same metrics, and the alert rules use no others.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Monitoring;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $docs = "$FindBin::RealBin/../../docs/monitoring";
my $node = PostgreSQL::Test::Cluster->new('monitoring');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->start;

# The functions are where a watcher does not look for them.
$node->safe_psql('postgres', q{
	CREATE SCHEMA etl;
	CREATE EXTENSION etl_patterns SCHEMA etl;
	CREATE ROLE ann LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE watcher LOGIN IN ROLE pg_monitor;
	ALTER ROLE ann SET search_path = public, etl;
	ALTER ROLE bob SET search_path = public, etl;
	GRANT USAGE ON SCHEMA etl TO ann, bob;
	GRANT pg_read_server_files TO ann;
	GRANT CREATE ON SCHEMA public TO ann;
});

sub as_role
{
	my ($role, $sql) = @_;
	return $node->safe_psql('postgres', $sql, extra_params => [ '-U', $role ]);
}

my @sql_exporter = Monitoring::sql_exporter("$docs/sql_exporter.collector.yml");
my @postgres_exporter = Monitoring::postgres_exporter("$docs/postgres_exporter_queries.yaml");
my %type;

for my $file ([ 'sql_exporter', \@sql_exporter ], [ 'postgres_exporter', \@postgres_exporter ])
{
	my %names;

	for my $query (@{ $file->[1] })
	{
		Monitoring::check_columns($node, 'postgres', 'watcher', $query);
		for my $metric (@{ $query->{metrics} })
		{
			my $name = $metric->{name};

			is($metric->{type}, $name =~ /_total$/ ? 'counter' : 'gauge', "$file->[0]: type of $name");
			like($metric->{help}, qr/\.$/, "$file->[0]: $name says what it is");
			ok(!$names{$name}++, "$file->[0]: $name is there once");
			$type{$name} //= $metric->{type};
		}
	}
	is_deeply([ sort keys %names ], [ sort keys %type ], "$file->[0]: the metrics are those of both files");
}

sub both
{
	my $ours = Monitoring::samples($node, 'postgres', 'watcher', @sql_exporter);
	my $theirs = Monitoring::samples($node, 'postgres', 'watcher', @postgres_exporter);

	is_deeply([ sort keys %$theirs ], [ sort keys %$ours ], 'both files give the same samples');
	# Those that the clock or the server itself changes are compared roughly.
	my @differ = grep {
		abs($ours->{$_} - ($theirs->{$_} // 0)) > (/seconds/ ? 30 : /bytes/ ? 100_000_000 : 0)
	} sort keys %$ours;
	is_deeply(\@differ, [], 'both files give them the same values');
	return $ours;
}

# Nothing yet.
is_deeply(both(), {}, 'no samples of an empty database');

# Jobs of two roles in all states, by CALL; dead letters; a pipeline.
my $csv = $node->basedir . '/bad.csv';
append_to_file($csv, "a\n1\nx\ny\n");
as_role('ann', qq{
	SELECT etl_job_create('good', 'every 1 day', 'SELECT 1');
	SELECT etl_job_create('bad', 'every 1 day', 'SELECT 1/0');
	SELECT etl_job_create('retried', 'every 1 day', 'DO \$\$ BEGIN RAISE ''no''; END \$\$',
		max_attempts => 2, retry_delay => '100 days', retry_max_delay => '100 days');
	SELECT etl_job_create('resting', 'every 1 day', 'SELECT 1', enabled => false);
	SELECT etl_job_run('good'), etl_job_run('bad'), etl_job_run('retried');
	CREATE TABLE t (a int);
	CREATE TABLE source (id int, at timestamptz DEFAULT now());
	CREATE TABLE target (LIKE source);
	SELECT etl_bulk_copy('t', '$csv', on_error => 'dead_letter');
	SELECT etl_incremental_pull('pipe', 'source', 'target', 'at');
});
as_role('ann', 'CALL etl_run_due_jobs()');
as_role('ann', q{SELECT etl_job_run('good')});
as_role('ann', 'CALL etl_run_due_jobs()');
as_role('bob', q{SELECT etl_job_create('late', 'every 1 second', 'SELECT 1')});
$node->safe_psql('postgres', q{
	SELECT etl.etl_job_create('root''s "job"', 'every 1 day', 'SELECT 1');
	ALTER SYSTEM SET etl_patterns.superuser_jobs = off;
	SELECT pg_reload_conf()});
$node->poll_query_until('postgres', 'SHOW etl_patterns.superuser_jobs', 'off');
$node->safe_psql('postgres', 'CALL etl.etl_run_due_jobs()');
$node->poll_query_until('postgres',
	q{SELECT late > '1 s' FROM etl_patterns.job_status WHERE job = 'late'});

my $samples = both();
my $labels = 'datname="postgres",job=';
my %expected = (
	qq(etl_runs_total{$labels"good",outcome="succeeded"}) => 2,
	qq(etl_runs_total{$labels"good",outcome="failed"}) => 0,
	qq(etl_runs_total{$labels"bad",outcome="failed"}) => 1,
	qq(etl_runs_total{$labels"retried",outcome="failed"}) => 1,
	qq(etl_runs_total{$labels"late",outcome="succeeded"}) => 0,
	qq(etl_job_failing{$labels"good"}) => 0,
	qq(etl_job_failing{$labels"bad"}) => 1,
	qq(etl_job_failing{$labels"retried"}) => 0,
	qq(etl_job_broken{$labels"good"}) => 0,
	qq(etl_job_broken{$labels"root's "job""}) => 1,
	qq(etl_job_paused{$labels"good"}) => 0,
	qq(etl_job_paused{$labels"resting"}) => 1,
	qq(etl_job_late_seconds{$labels"good"}) => 0,
	qq(etl_runs_active{$labels"good"}) => 0,
	qq(etl_runs_waiting{$labels"retried"}) => 1,
	qq(etl_dead_letters{category="type",datname="postgres",target="t"}) => 2,
	qq(etl_alerts_pending{datname="postgres",kind="failed"}) => 1,
	qq(etl_alerts_pending{datname="postgres",kind="broken"}) => 1);
is($samples->{$_}, $expected{$_}, "$_ is $expected{$_}") for sort keys %expected;
cmp_ok($samples->{"etl_job_late_seconds{$labels\"late\"}"}, '>', 1, 'a job that nobody runs is late');
cmp_ok($samples->{"etl_run_duration_seconds{$labels\"good\"}"}, '<', 60, 'a duration is in seconds');
my $now = time;
for my $name ("etl_job_last_success_timestamp_seconds{$labels\"good\"}",
	'etl_pipeline_last_run_timestamp_seconds{datname="postgres",pipeline="pipe"}')
{
	cmp_ok(abs($now - $samples->{$name}), '<', 600, "$name is a time");
}
ok(!exists $samples->{"etl_job_last_success_timestamp_seconds{$labels\"bad\"}"},
	'a job that has never succeeded has no time of that');
ok(!grep({ /^etl_pipeline_lag/ } keys %$samples), 'what a watcher may not read is absent');
ok(!grep({ /^etl_(scheduler|worker)/ } keys %$samples), 'without preload there is no scheduler');

# With the owner's rights the lag of a pipeline is known.
$node->safe_psql('postgres', 'GRANT ann TO watcher');
is(both()->{'etl_pipeline_lag_seconds{datname="postgres",pipeline="pipe"}'}, 0, 'lag of a pipeline');
$node->safe_psql('postgres', 'REVOKE ann FROM watcher');

# A counter does not go back when history goes.
as_role('ann', q{SELECT etl_job_history_purge('0 s')});
is($node->safe_psql('postgres', q{SELECT count(*) FROM etl_patterns.job_run WHERE job = 'good'}),
	1, 'history was purged');
is(both()->{"etl_runs_total{$labels\"good\",outcome=\"succeeded\"}"}, 2, 'the counter stays');

# With a scheduler, and one worker.
$node->append_conf('postgresql.conf', q{
	shared_preload_libraries = 'etl_patterns'
	wal_level = logical
	max_worker_processes = 12
	etl_patterns.max_running_jobs = 1});
$node->restart;
$node->poll_query_until('postgres',
	q{SELECT count(*) = 1 FROM etl_patterns.scheduler_status
	  WHERE database = 'postgres' AND state = 'running' AND heartbeat IS NOT NULL})
  or BAIL_OUT('the scheduler does not start');
$node->poll_query_until('postgres',
	q{SELECT succeeded > 0 FROM etl_patterns.stat_jobs WHERE job = 'late'});
as_role('bob', q{SELECT etl_job_pause('late')});

# Nothing moves any more, so that two looks see the same.
sub wait_for_rest
{
	$node->poll_query_until('postgres',
		q{SELECT bool_and(workers_idle = workers) AND bool_and(runs_waiting = 0)
			AND NOT EXISTS (SELECT FROM etl_patterns.job_run WHERE finished_at IS NULL AND due_at < now())
		FROM etl_patterns.scheduler_status})
	  or die 'the scheduler does not come to rest';
	return;
}
wait_for_rest();
$samples = both();
my $heartbeat = $samples->{'etl_scheduler_heartbeat_timestamp_seconds{datname="postgres"}'};
cmp_ok(abs(time - $heartbeat), '<', 600, 'the heartbeat is a time');
is($samples->{'etl_workers_limit{datname="postgres"}'}, 1, 'limit of workers');
is($samples->{'etl_workers_in_use{datname="postgres"}'}, 0, 'no worker in use');

# A job that takes the only worker, and one that waits for it.
as_role('ann', q{
	SELECT etl_job_create('hog', 'on never', 'SELECT pg_sleep(600)');
	SELECT etl_job_run('hog')});
$node->poll_query_until('postgres',
	q{SELECT runs_running = 1 AND pid IS NOT NULL FROM etl_patterns.job_status WHERE job = 'hog'});
as_role('ann', q{SELECT etl_job_run('good')});
$node->poll_query_until('postgres',
	q{SELECT coalesce(reason, '') = 'no worker is free' FROM etl_patterns.job_status WHERE job = 'good'})
  or fail('it is said what a job waits for');
$node->poll_query_until('postgres',
	q{SELECT no_worker >= 1 AND workers = 1 AND workers_idle = 0 FROM etl_patterns.scheduler_status});
$samples = both();
is($samples->{'etl_workers_in_use{datname="postgres"}'}, 1, 'a worker in use');
cmp_ok($samples->{'etl_worker_shortages_total{datname="postgres"}'}, '>=', 1, 'no worker for the other');
is($samples->{"etl_runs_active{$labels\"hog\"}"}, 1, 'one runs');
is($samples->{"etl_runs_waiting{$labels\"good\"}"}, 1, 'the other one waits');
as_role('ann', q{SELECT etl_job_stop(job_run_id) FROM etl_patterns.job_run WHERE job = 'hog'});
$node->poll_query_until('postgres',
	q{SELECT succeeded = 3 FROM etl_patterns.stat_jobs WHERE job = 'good'});
wait_for_rest();
is(both()->{"etl_runs_total{$labels\"hog\",outcome=\"stopped\"}"}, 1, 'the one that was stopped is counted');

# Runs that finished and failed, which nobody counts without preload.
ok(!grep({ /^etl_flow/ } keys %$samples), 'no runs yet');
as_role('ann', q{SELECT etl_incremental_pull('pipe', 'source', 'target', 'at')});
as_role('ann', q{
	DO $$ BEGIN PERFORM etl_bulk_copy('t', '/nowhere.csv'); EXCEPTION WHEN undefined_file THEN END $$});
$node->poll_query_until('postgres', 'SELECT count(*) = 2 FROM etl_patterns.stat_runs');
$samples = both();
is($samples->{"etl_flow_runs_total{datname=\"postgres\",operation=\"$_->[0]\",outcome=\"$_->[2]\",pipeline=\"$_->[1]\"}"},
	$_->[3], "$_->[0] that $_->[2]")
  for [ 'bulk_copy', '', 'finished', 0 ], [ 'bulk_copy', '', 'failed', 1 ],
  [ 'incremental_pull', 'pipe', 'finished', 1 ], [ 'incremental_pull', 'pipe', 'failed', 0 ];

# CDC pipelines: one that follows, one that is paused, and one that was never started.
$node->safe_psql('postgres', 'ALTER ROLE ann REPLICATION');
as_role('ann', q{
	CREATE TABLE followed (id int PRIMARY KEY, v int);
	CREATE TABLE mirror (LIKE followed INCLUDING ALL);
	CREATE TABLE strict (LIKE followed INCLUDING ALL, CHECK (id > 0));
	INSERT INTO followed VALUES (1);
	SELECT etl_cdc_create('follows'), etl_cdc_add_table('follows', 'followed', 'mirror');
	SELECT etl_cdc_create('breaks'), etl_cdc_add_table('breaks', 'followed', 'strict');
	SELECT etl_cdc_create('rests'), etl_cdc_add_table('rests', 'followed', 'strict')});
as_role('ann', q{SELECT etl_cdc_start('follows'), etl_cdc_start('breaks')});
as_role('ann', qq{SELECT etl_cdc_wait('$_')}) for 'follows', 'breaks';
as_role('ann', q{INSERT INTO followed VALUES (2); UPDATE followed SET v = 1; INSERT INTO followed VALUES (-1)});
as_role('ann', q{SELECT etl_cdc_wait('follows')});
$node->poll_query_until('postgres', q{SELECT state = 'paused' FROM etl_patterns.cdc_pipeline WHERE pipeline = 'breaks'});
$samples = both();
sub cdc
{
	my ($metric, $pipeline, $labels) = @_;
	return $samples->{"etl_cdc_$metric\{datname=\"postgres\"," . ($labels ? "$labels," : '') . "pipeline=\"$pipeline\"}"};
}
is(cdc('changes_total', 'follows', "kind=\"$_->[0]\""), $_->[1], "$_->[0]s are counted")
  for [ read => 1 ], [ insert => 2 ], [ update => 2 ], [ delete => 0 ], [ truncate => 0 ];
is(join(' ', map { cdc($_, 'follows') } qw(transactions_total tables_waiting paused lost stopped failing)), '3 0 0 0 0 0', 'a pipeline that follows');
is(join(' ', map { cdc($_, 'breaks') } qw(tables_waiting paused lost stopped failing)), '0 1 0 0 0', 'one that is paused');
is(join(' ', map { cdc($_, 'rests') } qw(transactions_total tables_waiting paused lost stopped failing)), '0 1 0 0 1 0', 'one that was not started');
cmp_ok(cdc('lag_seconds', 'follows'), '<', 60, 'it is not late');
cmp_ok(cdc('lag_bytes', 'follows'), '<', 16_000_000, 'nor far behind');
cmp_ok(cdc('slot_retained_bytes', 'breaks'), '>', 0, 'a pipeline that is paused keeps WAL');
is(cdc('lag_bytes', 'rests'), undef, 'what is not known is absent');
is($samples->{'etl_alerts_pending{datname="postgres",kind="paused"}'}, 1, 'there is an alert');

# Its process cannot be had.
$node->safe_psql('postgres', q{ALTER SYSTEM SET etl_patterns.scheduler = off; SELECT pg_reload_conf()});
$node->poll_query_until('postgres', q{SELECT bool_and(reason IS NOT NULL) FILTER (WHERE pipeline = 'follows')
		AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type IN ('etl_patterns scheduler', 'etl_patterns job'))
	FROM etl_patterns.cdc_status})
  or die 'the scheduler does not end';
$samples = both();
is(cdc('failing', 'follows'), 1, 'one that does not come along');
$node->safe_psql('postgres', q{ALTER SYSTEM RESET etl_patterns.scheduler; SELECT pg_reload_conf()});
as_role('ann', q{SELECT etl_cdc_drop(pipeline) FROM etl_patterns.cdc_pipeline});

# The rules use these metrics, and say what the matter is.
my $rules = Monitoring::read_yaml("$docs/alerts.rules.yml");
my @rules = map { @{ $_->{rules} } } @{ $rules->{groups} };
cmp_ok(scalar @rules, '>=', 6, 'there are alert rules');
for my $rule (@rules)
{
	my @used = $rule->{expr} =~ /\b(etl_[a-z_]+)/g;

	ok(@used > 0, "$rule->{alert} uses metrics");
	ok(exists $type{$_}, "$rule->{alert}: $_ is one") for @used;
	like($rule->{labels}{severity}, qr/^(page|ticket)$/, "$rule->{alert} has a severity");
	like($rule->{annotations}{summary}, qr/\{\{ \$\w/, "$rule->{alert} says of what it is");
}

$node->stop;
done_testing();
