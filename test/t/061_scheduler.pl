# The scheduler: slots run when they are due and are accounted for, whatever
# else happens meanwhile, and with few workers everybody gets one.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use JobServer;

my $jobs = JobServer->new('scheduler', "max_worker_processes = 8\netl_patterns.max_running_jobs = 3\netl_patterns.cancel_grace = 1\n"
	  . "etl_patterns.file_settle_time = 0\nmax_prepared_transactions = 2");
my $node = $jobs->{node};
$jobs->sql(q{
	CREATE TABLE ran (i serial, job text, slot timestamptz DEFAULT current_setting('etl_patterns.logical_time')::timestamptz,
		run bigint DEFAULT current_setting('etl_patterns.job_run_id')::bigint, payload text DEFAULT current_setting('etl_patterns.event_payload'));
	CREATE ROLE one LOGIN;
	CREATE ROLE two LOGIN;
	CREATE ROLE three LOGIN;
	CREATE ROLE four LOGIN;
	GRANT ALL ON ran, ran_i_seq TO PUBLIC;
});

# How many slots of a job are there, and does each have its effect once?
sub accounted
{
	my ($job, $what) = @_;

	is($jobs->sql(qq{SELECT count(*) FROM (SELECT slot FROM etl_patterns.job_run WHERE job = '$job' AND status = 'succeeded'
		EXCEPT ALL SELECT slot FROM ran WHERE job = '$job') x}), 0, "$what: each slot that succeeded has had its effect");
	is($jobs->sql(qq{SELECT count(*) FROM (SELECT slot FROM ran WHERE job = '$job'
		EXCEPT ALL SELECT slot FROM etl_patterns.job_run WHERE job = '$job' AND status IN ('succeeded', 'running')) x}), 0, '... and no other, none twice');
}

# Has each second a row?
sub complete
{
	my ($job) = @_;

	is($jobs->sql(qq{SELECT (max(slot) - min(slot)) / count(DISTINCT slot) <= interval '1 second' FROM etl_patterns.job_run WHERE job = '$job'}),
		't', "$job: no slot is missing");
}

# Switched off, nobody takes a run any more but who is told to.
my $off = q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type IN ('etl_patterns scheduler', 'etl_patterns job'))
	AND NOT EXISTS (SELECT FROM etl_patterns.job_run WHERE status = 'running')};

# Every second
$jobs->sql(q{SELECT etl_job_create('tick', 'every 1 second', 'INSERT INTO ran (job) VALUES (''tick'')')});
$jobs->until(q{SELECT count(*) >= 3 FROM ran WHERE job = 'tick'}, 'a job runs every second');
is($jobs->sql(q{SELECT bool_and(started_at >= slot) FROM etl_patterns.job_run WHERE job = 'tick' AND status = 'succeeded'}), 't', '... not before');
is($jobs->sql(q{SELECT armed, jobs FROM etl_scheduler_status()}), 't|1', 'the status shows it');
is($jobs->sql(q{SELECT etl_job_create('once', 'at ' || (clock_timestamp() + interval '1 second')::timestamp::text, 'SELECT 1', timezone => current_setting('timezone'))}) > 0,
	1, 'a job that runs once');
is($jobs->end_of('once', 'status'), 'succeeded', '... runs');
is($jobs->sql(q{SELECT state FROM etl_patterns.job WHERE job = 'once'}), 'done', '... and is done');

# Jobs that are changed
$jobs->sql(q{SELECT etl_job_pause('tick')});
$jobs->until(q{SELECT NOT EXISTS (SELECT FROM etl_patterns.job_run WHERE finished_at IS NULL)}, 'a job is paused');
my $ran = $jobs->sql(q{SELECT count(*) FROM ran WHERE job = 'tick'});
is($jobs->sql(q{SELECT etl_job_run('tick') > 0}), 't', '... and may be run by hand');
$jobs->until(qq{SELECT count(*) = $ran + 1 FROM ran WHERE job = 'tick'}, '... which it does');
$jobs->sql(q{SELECT etl_job_resume('tick')});
$jobs->until(qq{SELECT count(*) >= $ran + 3 FROM ran WHERE job = 'tick'}, '... and goes on when it is resumed');
$jobs->run('edited', q{SELECT pg_advisory_lock(1), pg_advisory_unlock(1); INSERT INTO ran (job) VALUES ('old')});
my $holder = $node->background_psql('postgres');
$holder->set_query_timer_restart;
$jobs->end_of('edited');
$holder->query_safe('SELECT pg_advisory_lock(1)');
$jobs->sql(q{SELECT etl_job_run('edited')});
$jobs->wait_for('edited', 'running');
$jobs->sql(q{SELECT etl_job_alter('edited', command => 'INSERT INTO ran (job) VALUES (''new'')'), etl_job_run('edited')});
$holder->query_safe('SELECT pg_advisory_unlock(1)');
is($jobs->end_of('edited', 'status'), "succeeded\nsucceeded\nsucceeded", 'a job is altered while it runs');
is($jobs->sql(q{SELECT string_agg(job, ' ' ORDER BY i) FROM ran WHERE job IN ('old', 'new')}), 'old old new', '... the run goes on, the next one is new');
$holder->query_safe('SELECT pg_advisory_lock(1)');
$jobs->run('dropped', q{SELECT pg_advisory_lock(1), pg_advisory_unlock(1)});
$jobs->wait_for('dropped', 'running');
$jobs->sql(q{SELECT etl_job_run('dropped'), etl_job_drop('dropped')});
$holder->query_safe('SELECT pg_advisory_unlock(1)');
is($jobs->end_of('dropped', 'status, reason'), "succeeded|\nskipped|dropped", 'a job is dropped while it runs');

# A transaction that was prepared tells nothing; see below.
$jobs->sql(q{BEGIN; SELECT etl_job_create('prepared', 'every 1 second', 'INSERT INTO ran (job) VALUES (''prepared'')'); PREPARE TRANSACTION 'p'});
is($jobs->sql(q{SELECT count(*) FROM etl_patterns.job WHERE job = 'prepared'}), 0, 'a job is prepared');
$jobs->sql(q{COMMIT PREPARED 'p'});

# Retries
is( $jobs->result('retried', 'INSERT INTO ran (job) VALUES (\'retried\'); SELECT 1 / (nextval(\'tries\') / 3)', undef, 'attempt, status, error_code'),
	'1|failed|42P01', 'an error that does not go away is not retried');
$jobs->sql(q{CREATE SEQUENCE tries; SELECT etl_job_drop('retried')});
is( $jobs->result('retry', q{INSERT INTO ran (job) VALUES ('retry');
		DO $$ BEGIN IF nextval('tries') < 3 THEN RAISE EXCEPTION 'not yet' USING ERRCODE = 'serialization_failure'; END IF; END $$},
		q{max_attempts => 5, retry_delay => '0.1s'}, 'attempt, status, error_code'),
	"1|failed|40001\n2|failed|40001\n3|succeeded|", 'another one is, until it succeeds');
is($jobs->sql(q{SELECT count(*) FROM ran WHERE job = 'retry'}), 1, '... with one effect');

# Overlap
my $long = q{every 1 second', 'SELECT pg_sleep(2.5)'};
$jobs->sql("SELECT etl_job_create('$_', '$long, overlap => '$_')") for qw(forbid queue replace allow);
$jobs->until(q{SELECT count(*) > 0 FROM etl_patterns.job_run WHERE job = 'forbid' AND status = 'skipped' AND reason = 'overlap'}, 'forbid skips slots');
$jobs->until(q{SELECT count(*) > 1 FROM etl_patterns.job_run WHERE job = 'queue' AND status = 'waiting'}, 'queue lets them wait');
$jobs->until(q{SELECT count(*) > 1 FROM etl_patterns.job_run WHERE job = 'replace' AND status = 'stopped' AND reason = 'replaced'}, 'replace ends runs');
$jobs->sql(q{SELECT etl_job_pause(job) FROM etl_patterns.job WHERE job IN ('forbid', 'queue', 'replace')});
$jobs->until(q{SELECT count(*) > 1 FROM etl_patterns.job_run WHERE job = 'allow' AND status = 'running'}, 'allow lets them run');
is( $jobs->sql(q{SELECT count(*) FROM etl_patterns.job_run a JOIN etl_patterns.job_run b USING (job)
		WHERE a.job IN ('forbid', 'queue', 'replace') AND a.job_run_id < b.job_run_id AND a.started_at < b.finished_at AND b.started_at < a.finished_at}), 0,
	'only allow has two runs at once');
$jobs->sql(q{SELECT etl_job_drop(job) FROM etl_patterns.job WHERE job IN ('forbid', 'queue', 'replace', 'allow')});
$jobs->until(q{SELECT NOT EXISTS (SELECT FROM etl_patterns.job_run WHERE job <> 'tick' AND finished_at IS NULL)}, 'all of that ends');

# after, on event, on file
my $dir = PostgreSQL::Test::Utils::tempdir;
$jobs->sql(q{SELECT etl_job_create('before', 'on signal', 'INSERT INTO ran (job) VALUES (''before'')');
	SELECT etl_job_create('behind', 'after before', 'INSERT INTO ran (job) VALUES (''behind'')')});
$jobs->sql(qq{SELECT etl_job_create('file', 'on file:$dir/*.csv', 'INSERT INTO ran (job) VALUES (''file'')')});
is($jobs->sql(q{SELECT etl_signal('signal', 'news')}), 1, 'a signal');
is($jobs->end_of('before', 'status'), 'succeeded', '... makes a job run');
$jobs->until(q{SELECT count(*) = 1 FROM ran WHERE job = 'behind'}, '... and another after it');
is($jobs->sql(q{SELECT payload FROM ran WHERE job = 'before'}), 'news', '... which sees the payload');
append_to_file("$dir/a.csv", "a\n");
$jobs->until(qq{SELECT count(*) = 1 FROM ran WHERE job = 'file' AND payload = '$dir/a.csv'}, 'a file is handed over');

# The scheduler ends while runs wait and run.
$holder->query_safe('SELECT pg_advisory_lock(1)');
$jobs->run('survivor', q{SELECT pg_advisory_lock(1), pg_advisory_unlock(1); INSERT INTO ran (job) VALUES ('survivor')});
$jobs->wait_for('survivor', 'running');
$jobs->sql(q{SELECT etl_job_run('survivor')});
my $scheduler = $jobs->served;
$jobs->sql("SELECT pg_terminate_backend($scheduler, 60000)");
$scheduler = $jobs->served($scheduler);
is($jobs->sql(q{SELECT string_agg(status, ' ' ORDER BY job_run_id) FROM etl_patterns.job_run WHERE job = 'survivor'}), 'running waiting',
	'another scheduler takes over the worker');
$holder->query_safe('SELECT pg_advisory_unlock(1)');
is($jobs->end_of('survivor', 'status'), "succeeded\nsucceeded", '... and hands out what waits');
$holder->query_safe('SELECT pg_advisory_lock(1)');
$jobs->sql(q{SELECT etl_job_alter('survivor', max_attempts => 2, retry_delay => '0'), etl_job_run('survivor')});
$jobs->wait_for('survivor', 'running');
$jobs->sql(q{SELECT pg_terminate_backend(s.pid), pg_terminate_backend(r.pid) FROM etl_scheduler_status() s, etl_patterns.job_run r
	WHERE r.job = 'survivor' AND r.status = 'running'});
$holder->query_safe('SELECT pg_advisory_unlock(1)');
is($jobs->end_of('survivor', 'attempt, status'), "1|succeeded\n1|succeeded\n1|lost\n2|succeeded", 'a run that ends with its scheduler is lost, and retried');
$jobs->served($scheduler);

# A run of a client that dies
$holder->query_safe('SELECT pg_advisory_lock(1)');
my $client = $node->background_psql('postgres');
my $client_pid = $client->query_safe('SELECT pg_backend_pid()');
$jobs->sql(q{ALTER SYSTEM SET etl_patterns.scheduler = off; SELECT pg_reload_conf()});
$jobs->until($off, 'switched off');
$jobs->sql(q{SELECT etl_job_run('survivor')});
$client->query_until(qr/started/, "\\echo started\nCALL etl_run_due_jobs();\n");
$jobs->wait_for('survivor', 'running');
$jobs->sql(q{ALTER SYSTEM RESET etl_patterns.scheduler; SELECT pg_reload_conf()});
$jobs->until(q{SELECT count(*) > 0 FROM etl_scheduler_status() WHERE state = 'running'}, 'and on again');
is($jobs->sql(qq{SELECT pid FROM etl_patterns.job_run WHERE job = 'survivor' AND status = 'running'}), $client_pid, 'a client has a run');
$jobs->sql("SELECT pg_terminate_backend($client_pid)");
$holder->query_safe('SELECT pg_advisory_unlock(1)');
is($jobs->end_of('survivor', 'attempt, status'), "1|succeeded\n1|succeeded\n1|lost\n2|succeeded\n1|lost\n2|succeeded", '... which the scheduler finds lost');

# Three places for workers, and four roles
$holder->query_safe('SELECT pg_advisory_lock(1)');
for my $role (qw(one two three four))
{
	$jobs->sql("SET SESSION AUTHORIZATION $role; SELECT etl_job_create('$role', 'on nothing', 'SELECT pg_advisory_lock_shared(1), pg_advisory_unlock_shared(1)'),
		etl_job_run('$role')");
}
$jobs->until(q{SELECT string_agg(status || coalesce(' ' || reason, ''), ',' ORDER BY status) = 'running,running,running,waiting no worker is free'
	FROM etl_patterns.job_run WHERE job IN ('one', 'two', 'three', 'four')}, 'a run waits for a worker, and its row says so');
$jobs->until('SELECT no_worker > 0 AND runs_waiting > 0 FROM etl_scheduler_status()', '... so does the status');
ok($node->wait_for_log(qr/LOG:.*job runs? waits? for a worker.*\n.*HINT:.*max_running_jobs/), '... and the log, with a hint');
$holder->query_safe('SELECT pg_advisory_unlock(1)');
is($jobs->end_of('four', 'status, reason'), 'succeeded|', '... an idle worker of another role makes room for it');
$node->append_conf('postgresql.conf', 'etl_patterns.worker_idle_timeout = 60s');
$node->reload;
$jobs->sql("SELECT etl_job_run('$_')") for qw(one two three four);
is($jobs->end_of('four', 'status'), "succeeded\nsucceeded", '... also when idle workers stay');
is($jobs->end_of('one', 'status'), "succeeded\nsucceeded", '... for everybody');

# By now that job must have been found.
$jobs->until(q{SELECT count(*) > 0 FROM ran WHERE job = 'prepared'}, 'a job that was prepared is found in the end');
accounted('prepared', 'prepared');
complete('prepared');
$jobs->sql(q{SELECT etl_job_drop('prepared')});

# One process for each run
$node->append_conf('postgresql.conf', 'etl_patterns.worker_idle_timeout = 0');
$node->reload;
$jobs->sql(q{SELECT etl_job_create('alone', 'every 1 second', 'INSERT INTO ran (job) VALUES (''alone'')')});
$jobs->until(q{SELECT count(*) >= 3 FROM etl_patterns.job_run WHERE job = 'alone' AND status = 'succeeded'}, 'without reuse of workers');
is($jobs->sql(q{SELECT count(*) = count(DISTINCT (pid, backend_start)) FROM etl_patterns.job_run WHERE job = 'alone' AND status = 'succeeded'}), 't',
	'... each run has a process of its own');
accounted('alone', 'alone');
complete('alone');
$jobs->sql(q{SELECT etl_job_drop('alone')});

# Runs of more slots than there is room for news
$jobs->sql(q{ALTER SYSTEM SET etl_patterns.worker_idle_timeout = '2s'; SELECT pg_reload_conf()});
$jobs->sql(q{SELECT etl_job_create('many', 'every 1 hour', 'INSERT INTO ran (job) VALUES (''many'')'), etl_job_backfill('many', '2020-01-01', '2020-02-23')});
$jobs->until(q{SELECT count(*) = 53 * 24 FROM etl_patterns.job_run WHERE job = 'many' AND status = 'succeeded'}, 'a backfill of many slots');
is($jobs->sql(q{SELECT count(*), count(DISTINCT slot) FROM ran WHERE job = 'many'}), '1272|1272', '... runs each of them once');
is( $jobs->sql(q{SELECT count(*) FROM (SELECT started_at < lag(finished_at) OVER (ORDER BY slot) AS early FROM etl_patterns.job_run WHERE job = 'many') x WHERE early}), 0,
	'... one after the other');

# A session that runs a job keeps the scheduler from running it.
$holder->query_safe('SELECT pg_advisory_lock(1)');
$client = $node->background_psql('postgres');
$jobs->sql(q{ALTER SYSTEM SET etl_patterns.scheduler = off; SELECT pg_reload_conf()});
$jobs->until($off, 'switched off');
$jobs->sql(q{SELECT etl_job_run('survivor')});
$client->query_until(qr/started/, "\\echo started\nCALL etl_run_due_jobs(2);\n");
$jobs->wait_for('survivor', 'running');
$jobs->sql(q{SELECT etl_job_run('survivor'); ALTER SYSTEM RESET etl_patterns.scheduler; SELECT pg_reload_conf()});
$jobs->until(q{SELECT count(*) > 0 FROM etl_scheduler_status() WHERE state = 'running'}, 'and on again');
$ran = $jobs->sql(q{SELECT count(*) FROM ran WHERE job = 'tick'});
$jobs->until(qq{SELECT count(*) > $ran + 1 FROM ran WHERE job = 'tick'}, 'others run');
is($jobs->sql(q{SELECT string_agg(status, ' ' ORDER BY job_run_id) FROM etl_patterns.job_run WHERE job = 'survivor' AND finished_at IS NULL}), 'running waiting',
	'... but not the one that a session runs');
$holder->query_safe('SELECT pg_advisory_unlock(1)');
$jobs->until(q{SELECT NOT EXISTS (SELECT FROM etl_patterns.job_run WHERE job = 'survivor' AND finished_at IS NULL)}, '... until the session has done so');
$client->quit;

# Jobs that cannot be claimed
$jobs->sql(q{SET SESSION AUTHORIZATION four; SELECT etl_job_create('orphan', 'every 1 second', 'SELECT 1'), etl_job_create('garbled', 'every 1 second', 'SELECT 1')});
$jobs->sql(q{UPDATE etl_patterns.job SET schedule = 'every now and then' WHERE job = 'garbled'});
$jobs->until(q{SELECT state = 'broken' AND reason LIKE '%invalid%' FROM etl_patterns.job WHERE job = 'garbled'}, 'a schedule that cannot be read breaks the job');
$jobs->sql('REVOKE ALL ON ran, ran_i_seq FROM four; DROP ROLE four');
$jobs->until(q{SELECT state = 'broken' AND reason = 'its owner does not exist any more' FROM etl_patterns.job WHERE job = 'orphan'}, 'a role that is gone, too');
is($jobs->sql(q{SELECT count(DISTINCT job) FROM etl_patterns.alert WHERE kind = 'broken' AND job IN ('orphan', 'garbled')}), 2, '... and there are alerts');

# Not armed: slots of that time never were.
complete('tick');
$jobs->sql(q{UPDATE etl_patterns.run_jobs SET system_identifier = '1'});
$jobs->until(q{SELECT NOT armed FROM etl_scheduler_status()}, 'a database that was armed elsewhere');
$jobs->until(q{SELECT clock_timestamp() > next_slot + interval '1 second' FROM etl_patterns.job WHERE job = 'tick'}, '... claims no slots');
$ran = $jobs->sql(q{SELECT count(*) FROM ran});
$jobs->sql(q{SELECT etl_job_arm()});
$jobs->until(qq{SELECT count(*) > $ran FROM ran}, '... until it is armed here');

# A database that lets nobody in
$jobs->sql('CREATE DATABASE closed');
$client = $node->background_psql('closed');
$client->query_safe(q{CREATE EXTENSION etl_patterns; SELECT etl_job_create('closed', 'on nothing', 'SELECT 1')});
$jobs->until(q{SELECT count(*) = 1 FROM etl_scheduler_status() WHERE database = 'closed' AND state = 'running'}, 'another database is served');
$client->query_safe(q{UPDATE pg_database SET datallowconn = false WHERE datname = 'closed'; SELECT etl_job_run('closed')});
my $state = '';
for (my $i = 0; $i < 1800 && $state !~ /failed/; $i++)
{
	$state = $client->query_safe(q{SELECT pg_sleep(0.1)::text || status || ' ' || error_code || ' ' || error_message FROM etl_patterns.job_run});
}
is($state, 'failed 08006 no session could be started for the run', 'a run that no worker can begin fails in the end');
$client->quit;

# No room for another worker in the whole server
$node->append_conf('postgresql.conf', "max_worker_processes = 5\netl_patterns.worker_idle_timeout = 60s");
$jobs->sql(q{UPDATE pg_database SET datallowconn = true WHERE datname = 'closed'; ALTER SYSTEM RESET ALL});
$jobs->sql(q{DROP DATABASE closed});
$holder->quit;
$node->restart;
$jobs->served;
$holder = $node->background_psql('postgres');
$holder->query_safe('SELECT pg_advisory_lock(1)');
$jobs->sql("SELECT etl_job_run('$_')") for qw(one two three);
$jobs->until(q{SELECT count(*) > 0 FROM etl_patterns.job_run WHERE job IN ('one', 'two', 'three') AND status = 'waiting' AND reason = 'no worker is free'},
	'a run waits when max_worker_processes are used up');
ok($node->poll_query_until('postgres', qq{SELECT pg_read_file('@{[$node->logfile]}') ~ 'HINT:[^\n]*max_worker_processes'}), '... and the log has a hint');
$holder->query_safe('SELECT pg_advisory_unlock(1)');
$jobs->until(q{SELECT NOT EXISTS (SELECT FROM etl_patterns.job_run WHERE job IN ('one', 'two', 'three') AND finished_at IS NULL)}, '... everybody gets one');

# All of that has disturbed nobody.
accounted('tick', 'tick');
$jobs->sql('DROP EXTENSION etl_patterns');
$jobs->until(q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type IN ('etl_patterns scheduler', 'etl_patterns job'))},
	'without the extension there are no processes');

my $log = slurp_file($node->logfile);
unlike($log, qr/you don't own a lock|PANIC|TRAP|signal 11|signal 6/, 'nothing is in the log that should not be');
$holder->quit;
$node->stop;
done_testing();
