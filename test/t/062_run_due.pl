# Jobs without the extension's own workers: pg_cron, or any client, calls
# etl_run_due_jobs().  A call that is killed leaves a run that the next one finds.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Restart;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('run_due');
my $has_cron = -f $node->config_data('--pkglibdir') . '/pg_cron.so';

$node->init(allows_streaming => 1, extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', "restart_after_crash = on\n");
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_cron'\ncron.database_name = 'postgres'\ncron.host = '" . $node->host . "'\n")
	if $has_cron;
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION etl_patterns;
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE TABLE effect (id serial, job text, slot timestamptz, attempt int, what text DEFAULT '');
	GRANT ALL ON effect, effect_id_seq TO alice, bob;
	CREATE FUNCTION note(what text) RETURNS int LANGUAGE plpgsql AS $$
	DECLARE
		run etl_patterns.job_run := (SELECT r FROM etl_patterns.job_run r WHERE job_run_id = current_setting('etl_patterns.job_run_id')::bigint);
	BEGIN
		INSERT INTO effect (job, slot, attempt, what) VALUES (run.job, run.slot, run.attempt, note.what);
		RETURN run.attempt;
	END $$;
	CREATE PROCEDURE in_steps() LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1..3 LOOP
			PERFORM note('step ' || i);
			COMMIT;
		END LOOP;
		PERFORM note('lost');
		ROLLBACK;
	END $$;
	-- Makes an attempt hang: the first one.
	CREATE FUNCTION hang() RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF note('') = 1 THEN PERFORM pg_sleep(600); END IF;
	END $$;
});

# The value of a query, as one of the roles.
sub value
{
	my ($query, $role) = @_;

	return $node->safe_psql('postgres', $query, extra_params => defined $role ? [ '-U', $role ] : []);
}

# What became of a job's runs, in their order.
sub history
{
	my ($job) = @_;

	return value("SELECT string_agg(concat_ws(' ', attempt, status, reason), ', ' ORDER BY job_run_id) FROM etl_patterns.job_run WHERE job = '$job'");
}

# Calls as a role; returns what goes to stderr.
sub call
{
	my ($role) = @_;
	my ($status, undef, $stderr) = $node->psql('postgres', 'CALL etl_run_due_jobs()', extra_params => [ '-U', $role ]);

	return $stderr;
}

sub wait_for
{
	my ($query, $what) = @_;

	ok($node->poll_query_until('postgres', $query), $what);
}

# Everybody's jobs, each once: they are run when they are asked for.
for my $role ('alice', 'bob')
{
	value("SELECT etl_job_create('$role $_->[0]', '0 0 29 2 *', \$\$$_->[1]\$\$, overlap => 'queue', max_attempts => 2, retry_delay => '0 s')", $role)
		for [ 'plain', q{SELECT note('ran')} ], [ 'steps', 'CALL in_steps()' ], [ 'fails', q{SELECT note('lost'), 1 / 0} ],
		[ 'vacuum', 'VACUUM effect' ], [ 'hangs', 'SELECT hang()' ];
}

sub ask
{
	my ($role, @jobs) = @_;

	value("SELECT etl_job_run('$role $_')", $role) for @jobs;
}

# ---------------------------------------------------------------------------
# psql
# ---------------------------------------------------------------------------

ask('alice', 'plain', 'fails', 'steps');
ask('bob', 'plain');
like(call('alice'), qr/^[^\n]*WARNING: +job "alice fails" failed: division by zero$/, 'the caller hears of a failure');
is(value(q{SELECT string_agg(job || ': ' || what, ', ' ORDER BY id) FROM effect}),
	'alice plain: ran, alice steps: step 1, alice steps: step 2, alice steps: step 3', 'her jobs were run, and his were not');
is(history('bob plain'), '1 waiting', 'his run waits');
is(history('alice fails'), '1 failed', 'a failure is remembered');
is(call('bob'), '', 'he runs his');
is(history('bob plain'), '1 succeeded', 'it was run');

# ---------------------------------------------------------------------------
# The extended protocol, from several sessions at once
# ---------------------------------------------------------------------------

value('TRUNCATE effect');
my $script = PostgreSQL::Test::Utils::tempdir() . '/call.sql';
append_to_file($script, "CALL etl_run_due_jobs(5);\n");
for my $mode ('extended', 'prepared')
{
	ask('alice', ('plain', 'fails', 'steps') x 5);
	$node->command_ok([ 'pgbench', '-n', '-U', 'alice', '-M', $mode, '-f', $script, '-c', 2, '-t', 3, 'postgres' ], "pgbench, $mode");
}
is(value(q{SELECT count(*) FROM effect WHERE what = 'ran'}), 10, 'each run was run once');
is(value(q{SELECT count(*) FROM effect WHERE what LIKE 'step _'}), 30, 'also those in steps');
is(value(q{SELECT count(*) FROM effect WHERE what = 'lost'}), 0, 'what failed left nothing');
is(value(q{SELECT count(*) FROM etl_patterns.job_run WHERE finished_at IS NULL}), 0, 'nothing is left');

# ---------------------------------------------------------------------------
# Processes that go away
# ---------------------------------------------------------------------------

# Waits until the job hangs; the process that has it.  That it has begun is known
# after a crash, too: sequences are not flushed before a commit is.
sub hanging
{
	my ($job) = @_;

	wait_for("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = (SELECT pid FROM etl_patterns.job_run WHERE job = '$job' AND status = 'running') AND wait_event = 'PgSleep')", "$job: hangs");
	value('CHECKPOINT');
	return value("SELECT pid FROM etl_patterns.job_run WHERE job = '$job' AND status = 'running'");
}

# A call in the background.
sub start_call
{
	my ($role) = @_;
	my ($in, $out, $err) = ('', '', '');

	return IPC::Run::start([ 'psql', '-XAtq', '-U', $role, '-d', $node->connstr('postgres'), '-c', 'CALL etl_run_due_jobs()' ], \$in, \$out, \$err);
}

value('TRUNCATE effect');
ask('alice', 'hangs', 'plain');
my $call = start_call('alice');
my $pid = hanging('alice hangs');
is(call('alice'), '', 'another call does not wait');
is(history('alice hangs'), '1 running', 'the run is not lost while its process lives');
is(value(q{SELECT count(*) FROM effect WHERE job = 'alice plain'}), 1, 'what else is due is run');
value("SELECT pg_terminate_backend($pid, 10000)");
$call->finish;
is(call('bob'), '', 'he calls');
is(history('alice hangs'), '1 running', 'her run is not his to give up');
is(call('alice'), '', 'she calls');
is(history('alice hangs'), '1 lost process gone, 2 succeeded', 'terminated: lost, and retried by the next call');
is(value(q{SELECT count(*) FROM effect WHERE job = 'alice hangs'}), 1, 'its effect is there once');

value('TRUNCATE effect');
value('DELETE FROM etl_patterns.job_run');
ask('alice', 'hangs');
$call = start_call('alice');
Restart::kill_process($node, hanging('alice hangs'));
$call->finish;
call('alice');
is(history('alice hangs'), '1 lost process gone, 2 succeeded', 'kill -9: lost, and retried by the next call');
is(value(q{SELECT count(*) FROM effect WHERE job = 'alice hangs'}), 1, 'its effect is there once');

# ---------------------------------------------------------------------------
# pg_cron
# ---------------------------------------------------------------------------

SKIP:
{
	skip 'pg_cron is not installed', 16 if !$has_cron;

	value('CREATE EXTENSION pg_cron; GRANT USAGE ON SCHEMA cron TO alice');
	# It calls when it starts, so that nobody need wait for a minute to be over.
	value(q{SELECT cron.schedule('etl', '@reboot', 'CALL etl_run_due_jobs()')}, 'alice');

	for my $workers ('off', 'on')
	{
		value('TRUNCATE effect, cron.job_run_details');
		value('DELETE FROM etl_patterns.job_run');
		ask('alice', 'plain', 'fails', 'steps', 'vacuum');
		$node->append_conf('postgresql.conf', "cron.use_background_workers = $workers\n");
		$node->restart;
		wait_for(q{SELECT status = 'succeeded' FROM cron.job_run_details}, "background workers $workers: pg_cron calls");
		is(value(q{SELECT string_agg(job || ': ' || what, ', ' ORDER BY id) FROM effect}),
			'alice plain: ran, alice steps: step 1, alice steps: step 2, alice steps: step 3', 'and jobs are run');
		is(value(q{SELECT string_agg(status, ', ' ORDER BY job_run_id) FROM etl_patterns.job_run}), 'succeeded, failed, succeeded, succeeded', 'with all that belongs to it');
		is(value(q{SELECT DISTINCT role || ' ' || (pid = d.job_pid) FROM etl_patterns.job_run, cron.job_run_details d}),
			'alice true', 'as her, by its process');

		# It calls again when it was started again after the crash.
		value('TRUNCATE effect, cron.job_run_details');
		value('DELETE FROM etl_patterns.job_run');
		ask('alice', 'hangs');
		$node->restart;
		Restart::kill_process($node, hanging('alice hangs'));
		wait_for(q{SELECT count(*) = 2 FROM etl_patterns.job_run WHERE finished_at IS NOT NULL}, 'after kill -9 it calls again');
		is(history('alice hangs'), '1 lost process gone, 2 succeeded', 'the run was lost, and is retried');
		is(value(q{SELECT count(*) FROM effect}), 1, 'its effect is there once');
	}
}

# ---------------------------------------------------------------------------
# Where jobs do not run
# ---------------------------------------------------------------------------

$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('run_due_standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$standby->start;
my ($status, undef, $stderr) = $standby->psql('postgres', 'CALL etl_run_due_jobs()');
isnt($status, 0, 'a standby refuses');
like($stderr, qr/jobs do not run on a standby/, 'and says why');
$standby->stop;

unlike(slurp_file($node->logfile), qr/TRAP:|PANIC/, 'no crash but those that were asked for');
$node->stop;
done_testing();
