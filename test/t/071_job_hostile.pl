# What others hold, or end, at the worst moment: nobody's jobs stop for it but
# their own.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use JobServer;

my $jobs = JobServer->new('hostile', "max_worker_processes = 12\netl_patterns.worker_idle_timeout = 500\n"
	  . "wal_level = replica\nmax_wal_senders = 2\n");
my $node = $jobs->{node};
$jobs->sql('CREATE ROLE worker LOGIN; CREATE TABLE done (i int); GRANT ALL ON done TO worker');

sub as_worker
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql, extra_params => [ '-U', 'worker' ]);
}

# A session of the role with an open transaction.
sub holder
{
	my ($sql) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0, extra_params => [ '-U', 'worker' ]);

	$session->query_safe("BEGIN; $sql");
	return $session;
}

# That another job goes on: it has more runs than before.
sub goes_on
{
	my ($what) = @_;
	my $before = $jobs->sql(q{SELECT coalesce(max(job_run_id), 0) FROM etl_patterns.job_run WHERE job = 'tick' AND status = 'succeeded'});

	return $jobs->until(qq{SELECT count(*) >= 3 FROM etl_patterns.job_run
		WHERE job = 'tick' AND status = 'succeeded' AND job_run_id > $before}, $what);
}

as_worker(q{SELECT etl_job_create('tick', 'every 1 second', 'SELECT 1')});

# A run whose process is gone, of a job that somebody holds.
as_worker(q{SELECT etl_job_create('lost', 'on nothing', 'SELECT pg_sleep(600)'), etl_job_run('lost')});
$jobs->wait_for('lost', 'running');
my $session = holder(q{SELECT etl_job_alter('lost', alert_after => '1 hour')});
$jobs->sql(q{SELECT pg_terminate_backend(pid) FROM etl_patterns.job_run WHERE job = 'lost'});
goes_on('who holds the job of a lost run stops no other job');
is($jobs->sql(q{SELECT status FROM etl_patterns.job_run WHERE job = 'lost'}), 'running', '... and what it holds is left alone');
$session->quit;
is($jobs->end_of('lost'), 'lost|process gone|', '... until it can be had');

# A run that another one is to replace, held by who is about to stop it.
$session = $node->background_psql('postgres', on_error_stop => 0, extra_params => [ '-U', 'worker' ]);
as_worker(q{SELECT etl_job_create('busy', 'every 1 second', 'SELECT pg_sleep(60)', overlap => 'queue')});
$jobs->wait_for('busy', 'running');
$jobs->wait_for('busy', 'waiting');
my $held = $jobs->sql(q{SELECT max(job_run_id) FROM etl_patterns.job_run WHERE job = 'busy' AND status = 'waiting'});
$session->query_safe("BEGIN; SELECT etl_job_stop($held)");
as_worker(q{SELECT etl_job_alter('busy', overlap => 'replace')});
goes_on('who holds a run that is to be replaced stops no other job');
$session->query_safe('COMMIT');
$session->quit;
$jobs->until(q{SELECT count(*) > 0 FROM etl_patterns.job_run WHERE job = 'busy' AND reason = 'replaced'}, '... and later it is');
as_worker(q{SELECT etl_job_drop('busy')});

# A client does not wait either.
as_worker(q{SELECT etl_job_create('client', 'on nothing', 'SELECT pg_sleep(600)'), etl_job_run('client')});
$jobs->wait_for('client', 'running');
$session = holder(q{SELECT etl_job_alter('client', alert_after => '1 hour')});
$jobs->sql(q{SELECT pg_terminate_backend(pid, 60000) FROM etl_patterns.job_run WHERE job = 'client'});
my ($status, $out, $err) = $node->psql('postgres', q{SET statement_timeout = '100s'; CALL etl_run_due_jobs()},
	extra_params => [ '-U', 'worker' ], timeout => 60);
is($status, 0, 'etl_run_due_jobs() does not wait for who holds a job');
like($err, qr/WARNING:  could not give up a run that is lost/, '... and says so');
$session->quit;
is($jobs->end_of('client'), 'lost|process gone|', '... and the run is given up later');

# A command that gives back all its locks is alive for all that.
$session = holder('SELECT pg_advisory_xact_lock(1)');
as_worker(q{SELECT etl_job_create('unlocks', 'on nothing', $$
	DO 'BEGIN PERFORM pg_advisory_unlock_all(); ROLLBACK; PERFORM pg_advisory_xact_lock(1); END'$$), etl_job_run('unlocks')});
$jobs->until(q{SELECT count(*) = 1 FROM etl_patterns.job_run r JOIN pg_stat_activity a USING (pid)
	WHERE job = 'unlocks' AND status = 'running' AND wait_event = 'advisory'}, 'a command gives back its locks');
as_worker('CALL etl_run_due_jobs()');
goes_on('... which the scheduler looks at, too');
$session->quit;
is($jobs->end_of('unlocks'), 'succeeded||', '... and its run is not taken for lost');

# An event for a job that is broken before its transaction commits.
$session = $node->background_psql('postgres', on_error_stop => 0);
as_worker(q{SELECT etl_job_create('event', 'on ping', 'INSERT INTO done VALUES (1)')});
$session->query_safe(q{BEGIN; SELECT etl_signal('ping')});
$jobs->sql('ALTER ROLE worker NOLOGIN');
$session->query_safe(q{SELECT etl_signal('ping')});
$jobs->sql(q{SELECT etl_signal('ping')});
is($jobs->end_of('event', 'status, reason'), 'skipped|broken', 'a job whose owner must not log in is broken');
$session->query_safe('COMMIT');
$session->quit;
is($jobs->end_of('event', 'DISTINCT ON (slot) status, reason'), "skipped|broken\n" x 2 . 'skipped|broken',
	'runs that are added to a broken job are skipped');
is($jobs->sql('SELECT count(*) FROM done'), 0, '... and not begun');
$jobs->sql(q{ALTER ROLE worker LOGIN; SELECT etl_job_resume(job) FROM etl_patterns.job WHERE state = 'broken'});

# Transactions that only insert never fail to serialize, nor does what is
# written about them.
as_worker(q{SELECT etl_job_create('serial ' || g, 'every 1 second',
	'SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; INSERT INTO done VALUES (3)') FROM generate_series(1, 8) g});
$jobs->until(q{SELECT count(*) >= 80 FROM etl_patterns.job_run WHERE job LIKE 'serial%' AND started_at IS NOT NULL}, 'serializable runs');
as_worker(q{SELECT etl_job_drop(job) FROM etl_patterns.job WHERE job LIKE 'serial%'});
is($jobs->sql(q{SELECT count(*) FROM etl_patterns.job_run WHERE job LIKE 'serial%' AND status = 'failed'}),
	0, '... do not disturb each other');

# A long command is stored once, not with each claim; a longer one is not.
as_worker(q{SELECT etl_job_create('long', 'every 1 second',
	'SELECT 1 /*' || (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 30000) g) || '*/')});
my $size = $jobs->sql(q{SELECT pg_total_relation_size('etl_patterns.job')});
$jobs->until(q{SELECT count(*) >= 4 FROM etl_patterns.job_run WHERE job = 'long' AND status = 'succeeded'}, 'a long command');
cmp_ok($jobs->sql(q{SELECT pg_total_relation_size('etl_patterns.job')}), '<', $size + 500_000, '... is not written with each claim');
as_worker(q{SELECT etl_job_alter('long', command => 'INSERT INTO done VALUES (4)')});
$jobs->until('SELECT count(*) > 0 FROM done WHERE i = 4', '... and another one takes its place');
as_worker(q{SELECT etl_job_drop('long')});
($status, $out, $err) = $node->psql('postgres', q{SELECT etl_job_create('longer', 'every 1 second', 'SELECT 1 --' || repeat('x', 1024 * 1024))},
	extra_params => [ '-U', 'worker' ]);
like($err, qr/parameter "command" is too long/, 'there is a limit');

# What waits keeps slots from being claimed, but for backfills.
as_worker(q{SELECT etl_job_create('full', 'every 1 second', 'SELECT pg_sleep(600)', overlap => 'queue');
	SELECT etl_job_backfill('full', now() - interval '200 s', now())});
$jobs->until(q{SELECT count(*) >= 2 FROM etl_patterns.job_run WHERE job = 'full' AND origin = 'schedule' AND status = 'waiting'},
	'runs of a backfill that wait keep no slot from being claimed');
as_worker(q{SELECT count(etl_job_run('full')) FROM generate_series(1, 100)});
my $claimed = q{SELECT count(*) FROM etl_patterns.job_run WHERE job = 'full' AND origin = 'schedule'};
goes_on('... others do');
my $slots = $jobs->sql($claimed);
goes_on('... as long as they wait');
is($jobs->sql($claimed), $slots, '... with 100 of them there are no more slots');
is($jobs->sql(q{SELECT next_slot < now() FROM etl_patterns.job WHERE job = 'full'}), 't', '... and none is lost');
$jobs->sql(q{SELECT etl_job_stop(job_run_id) FROM etl_patterns.job_run WHERE job = 'full' AND status = 'running'; SELECT etl_job_drop('full')});

# A worker that is terminated when its run has committed, between transactions.
$jobs->sql(q{ALTER ROLE worker SET synchronous_commit = on});
$node->append_conf('postgresql.conf', "log_min_duration_statement = 0\nsynchronous_standby_names = 'nobody'");
$node->reload;
$node->safe_psql('postgres', q{SET synchronous_commit = off; SET SESSION AUTHORIZATION worker; SET synchronous_commit = off;
	SELECT etl_job_create('waits', 'on nothing', 'SELECT pg_sleep(1); INSERT INTO done VALUES (2)'), etl_job_run('waits')});
$jobs->until(q{SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%VALUES (2)%'}, 'a commit waits');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'});
$jobs->until(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%VALUES (2)%'}, '... and is ended');
$node->append_conf('postgresql.conf', "log_min_duration_statement = -1\nsynchronous_standby_names = ''");
$node->reload;
is($jobs->end_of('waits', 'status'), 'succeeded', '... its run has succeeded');
$jobs->until(q{SELECT count(*) = 0 FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
	WHERE l.locktype = 'object' AND a.pid IS NULL}, '... and no lock is left');
unlike(slurp_file($node->logfile), qr/TRAP:|terminated by signal/, 'nothing crashed');

$node->stop;
done_testing();
