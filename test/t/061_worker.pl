# Commands of jobs run as a client's would, in a session of the owner that looks
# new to each of them, and every way to end one leaves its row.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use JobServer;

my $jobs = JobServer->new('worker', "max_worker_processes = 12\nmax_prepared_transactions = 2\netl_patterns.cancel_grace = 1\n"
	  . "etl_patterns.worker_idle_timeout = 60s\nlog_statement = 'ddl'");
my $node = $jobs->{node};
$jobs->sql(q{
	CREATE TABLE seen (i serial, what text, run text DEFAULT current_setting('etl_patterns.job_run_id', true), xid xid8 DEFAULT pg_current_xact_id());
	CREATE TABLE later (i int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED);
	CREATE PROCEDURE commits() LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO seen (what) VALUES ('first');
		COMMIT;
		INSERT INTO seen (what) VALUES ('undone');
		ROLLBACK;
		INSERT INTO seen (what) VALUES ('second');
	END $$;
	GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
	GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC;
	CREATE ROLE worker LOGIN;
	CREATE ROLE other LOGIN;
});

sub seen
{
	my ($what) = @_;

	return $jobs->sql("SELECT string_agg(what, ',' ORDER BY i) FROM seen WHERE what LIKE '$what%'");
}

# What a command may be.
is($jobs->result('select', 'SELECT * FROM generate_series(1, 1000)'), 'succeeded||', 'results are thrown away');
is($jobs->result('call', 'CALL commits()'), 'succeeded||', 'a procedure may commit');
is($jobs->sql(q{SELECT string_agg(what, ',' ORDER BY i), count(DISTINCT xid) FROM seen WHERE what IN ('first', 'undone', 'second')}),
	'first,second|2', '... and what it rolled back is undone');
is($jobs->result('vacuum', 'VACUUM seen'), 'succeeded||', 'VACUUM');
is($jobs->result('index', 'CREATE INDEX CONCURRENTLY seen_idx ON seen (what)'), 'succeeded||', 'CREATE INDEX CONCURRENTLY');
is($jobs->sql(q{SELECT indisvalid FROM pg_index WHERE indexrelid = 'seen_idx'::regclass}), 't', '... makes a valid index');
is($jobs->result('database', 'CREATE DATABASE made'), 'succeeded||', 'CREATE DATABASE');
is($jobs->sql(q{SELECT count(*) FROM pg_database WHERE datname = 'made'}), 1, '... makes a database');
is($jobs->result('several', q{INSERT INTO seen (what) VALUES ('several 1'); INSERT INTO seen (what) VALUES ('several 2')}),
	'succeeded||', 'several statements');
is($jobs->sql(q{SELECT count(*), count(DISTINCT xid) FROM seen WHERE what LIKE 'several%'}), '2|1', '... are one transaction');
is($jobs->result('several_fail', q{INSERT INTO seen (what) VALUES ('several_fail'); SELECT 1/0}), 'failed||22012', 'one that fails');
is(seen('several_fail'), '', '... undoes those before it');
is($jobs->result('several_vacuum', q{INSERT INTO seen (what) VALUES ('x'); VACUUM seen}), 'failed||25001', 'VACUUM is not one of several');
is($jobs->result('readonly', 'SET TRANSACTION READ ONLY; SELECT 1'), 'succeeded||', 'a transaction that may not write');
is($jobs->result('notify', 'NOTIFY somebody'), 'succeeded||', 'NOTIFY');

# Errors, whenever they come.
is($jobs->result('deferred', 'INSERT INTO later VALUES (1), (1)'), 'failed||23505', 'a constraint that fails at commit');
is($jobs->sql('SELECT count(*) FROM later'), 0, '... undoes the command');
is($jobs->result('missing', 'SELECT * FROM nowhere'), 'failed||42P01', 'a table that is not there');
is( $jobs->result('raise', q{DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'ZZ001', DETAIL = 'not at all'; END $$}, undef,
		'status, error_code, error_message, error_detail, error_context'),
	'failed|ZZ001|no|not at all|PL/pgSQL function inline_code_block line 1 at RAISE', 'an error is remembered whole');
for my $copy ('COPY seen TO STDOUT', 'COPY seen FROM STDIN', 'SELECT 1; COPY seen TO STDOUT')
{
	(my $name = $copy) =~ s/\W/_/g;
	is($jobs->result($name, $copy, undef, 'status, error_message'), 'failed|cannot COPY to or from the client in a job', $copy);
}
is($jobs->result('listen', 'LISTEN somebody'), 'failed||0A000', 'LISTEN');
is($jobs->result('statement_timeout', q{SET statement_timeout = '100ms'; SELECT pg_sleep(60)}, undef, 'status, reason, error_message'),
	'failed||canceling statement due to statement timeout', 'statement_timeout');
$jobs->sql(q{ALTER ROLE other SET statement_timeout = '3s'; SET SESSION AUTHORIZATION other;
	SELECT etl_job_create('each', 'on nothing', repeat('SELECT pg_sleep(0.4);', 8)), etl_job_run('each')});
is($jobs->end_of('each'), 'succeeded||', '... is for each statement');
$jobs->sql('ALTER ROLE other RESET statement_timeout');

# What the table says that was not made by etl_job_create().
my %stored = (
	stored_commit => [ q{BEGIN; INSERT INTO seen (what) VALUES ('stored_commit'); COMMIT}, 'succeeded||', 'stored_commit' ],
	stored_rollback => [ q{BEGIN; INSERT INTO seen (what) VALUES ('stored_rollback'); ROLLBACK}, 'succeeded||', '' ],
	stored_open => [ q{BEGIN; INSERT INTO seen (what) VALUES ('stored_open')}, 'failed||25001', '' ],
	stored_chain => [ q{BEGIN; INSERT INTO seen (what) VALUES ('stored_chain'); COMMIT AND CHAIN}, 'failed||25001', 'stored_chain' ],
	stored_prepare => [ q{BEGIN; INSERT INTO seen (what) VALUES ('stored_prepare'); PREPARE TRANSACTION 'p'}, 'failed||0A000', '' ],
	stored_empty => [ ' -- nothing', 'succeeded||', '' ]);
for my $name (sort keys %stored)
{
	my ($command, $result, $rows) = @{ $stored{$name} };

	$jobs->sql("SELECT etl_job_create('$name', 'on nothing', 'SELECT 1')");
	$jobs->sql("UPDATE etl_patterns.job SET command = \$c\$$command\$c\$ WHERE job = '$name'; SELECT etl_job_run('$name')");
	is($jobs->end_of($name), $result, $name);
	is(seen($name), $rows, '... and its rows');
}
is($jobs->sql('SELECT count(*) FROM pg_prepared_xacts'), 0, 'nothing is left prepared');
is( $jobs->sql(q{SELECT r.xmin::text::bigint = s.xid::text::bigint FROM seen s JOIN etl_patterns.job_run r ON r.job_run_id = s.run::bigint
		WHERE what = 'stored_commit'}), 't', 'the end is part of the transaction that COMMIT ends');
is( $jobs->sql(q{SELECT bool_and(r.xmin::text::bigint = s.xid::text::bigint) FROM seen s JOIN etl_patterns.job_run r ON r.job_run_id = s.run::bigint
		WHERE what IN ('several 1', 'second')}), 't', '... and of the transaction that is open at the end');

# A session looks new to each run.
my $leak = q{CREATE TEMP TABLE leak (i int);
	SET work_mem = '1MB';
	SET etl_patterns.event_payload = 'leak';
	SET my.setting = 'leak';
	PREPARE leak AS SELECT 1;
	DECLARE leak CURSOR WITH HOLD FOR SELECT 1;
	SELECT pg_advisory_lock(77), nextval('seen_i_seq'), set_config('role', 'other', false);
	INSERT INTO seen (what) VALUES ('leak ' || pg_backend_pid())};
my $look = q{INSERT INTO seen (what) SELECT format('look %s %s %s %s %s %s %s %s %s', pg_backend_pid(), to_regclass('pg_temp.leak'),
		current_setting('work_mem'), current_setting('etl_patterns.event_payload'), current_setting('my.setting', true),
		(SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_cursors WHERE name = 'leak'),
		(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objid = 77), current_user)};

# A worker that is not ready in time gets a second one beside it; here there is to
# be one, and it is to be ready.
my $one_is_idle = q{SELECT workers = 1 AND workers_idle = 1 FROM etl_scheduler_status()};
$jobs->sql(q{SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE backend_type = 'etl_patterns job'});
is($jobs->result('leak', $leak), 'succeeded||', 'a command leaves all it can');
$jobs->until($one_is_idle, '... in a worker that goes on');
is($jobs->result('look', $look), 'succeeded||', '... and another looks for it');
my ($pid) = seen('leak') =~ /(\d+)/;
is(seen('look'), "look $pid  4MB   0 0 0 postgres", '... in the same process, and finds nothing');
$jobs->until($one_is_idle, '... which goes on');
is($jobs->result('leak_fail', "$leak; SELECT 1/0"), 'failed||22012', 'a command that fails leaves no more');
$jobs->until($one_is_idle, '... in the same worker');
$jobs->sql(q{DELETE FROM seen WHERE what LIKE 'look%'; SELECT etl_job_run('look')});
is($jobs->end_of('look', 'status'), "succeeded\nsucceeded", '... another looks for that, too');
is(seen('look'), "look $pid  4MB   0 0 0 postgres", '... and finds nothing');
is($jobs->result('discard', 'DISCARD ALL'), 'succeeded||', 'DISCARD ALL in a command does not end the run');
is($jobs->result('unlock', 'SELECT pg_advisory_unlock_all()'), 'succeeded||', 'nor does pg_advisory_unlock_all()');

# What others see of it.
$jobs->run('shown', 'SELECT pg_sleep(60)');
$jobs->wait_for('shown', 'running');
$jobs->until(q{SELECT count(*) = 1 FROM pg_stat_activity a JOIN etl_patterns.job_run USING (pid) WHERE job = 'shown' AND a.backend_type = 'etl_patterns job'
		AND a.application_name = 'etl_patterns job: shown' AND a.state = 'active' AND a.query = 'SELECT pg_sleep(60)' AND a.usename = 'postgres'},
	'pg_stat_activity shows it');
is($jobs->sql(q{SELECT etl_job_stop(job_run_id) FROM etl_patterns.job_run WHERE job = 'shown'}), 't', 'it can be stopped');
is($jobs->end_of('shown'), 'stopped|stopped|57014', '... and then was');
$jobs->run('canceled', 'SELECT pg_sleep(60)', 'max_attempts => 3');
$jobs->wait_for('canceled', 'running');
$jobs->sql(q{SELECT pg_cancel_backend(pid) FROM etl_patterns.job_run WHERE job = 'canceled'});
is($jobs->end_of('canceled'), 'stopped|stopped|57014', 'pg_cancel_backend() stops it, too: no retry');
$jobs->until(q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'etl_patterns job' AND state = 'idle'}, 'an idle worker is idle');

# Timeouts, and commands that do not obey.
my $deaf = q{DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$};
is($jobs->result('timeout', 'SELECT pg_sleep(60)', q{timeout => '1s'}), 'failed|timeout|57014', 'a timeout cancels');
is($jobs->result('timeout_retry', 'SELECT pg_sleep(60)', q{timeout => '1s', max_attempts => 2, retry_delay => '0'}, 'attempt, status, reason'),
	"1|failed|timeout\n2|failed|timeout", '... and is retried');
is($jobs->result('in_time', 'SELECT pg_sleep(0.1)', q{timeout => '1min'}), 'succeeded||', 'a command that is in time');
is($jobs->result('deaf', $deaf, q{timeout => '1s'}, 'status, reason, error_code, finished_at - started_at BETWEEN interval \'1.9s\' AND interval \'10s\''),
	'failed|timeout||t', 'a command that does not obey is terminated');
$jobs->run('deaf_stop', $deaf, q{max_attempts => 3});
$jobs->wait_for('deaf_stop', 'running');
$jobs->sql(q{SELECT etl_job_stop(job_run_id) FROM etl_patterns.job_run WHERE job = 'deaf_stop'});
is($jobs->end_of('deaf_stop'), 'stopped|stopped|', '... also when it was to be stopped, and is not retried');
is($jobs->result('die', 'SELECT pg_terminate_backend(pg_backend_pid())', q{max_attempts => 2, retry_delay => '0'}, 'attempt, status, reason'),
	"1|lost|process gone\n2|lost|process gone", 'a process that ends has lost its run');

# In whose name.
$jobs->sql(q{SET SESSION AUTHORIZATION worker;
	SELECT etl_job_create('mine', 'on nothing', 'INSERT INTO seen (what) SELECT format(''mine %s %s'', session_user, current_user)'), etl_job_run('mine')});
is($jobs->end_of('mine'), 'succeeded||', 'a job of another role');
is(seen('mine'), 'mine worker worker', '... runs as its owner');
is($jobs->result('mine_reset', 'RESET ROLE; RESET SESSION AUTHORIZATION; SELECT 1'), 'succeeded||', 'RESET ROLE');
$jobs->sql(q{SET SESSION AUTHORIZATION worker;
	SELECT etl_job_create('steal', 'on nothing', 'SET SESSION AUTHORIZATION postgres'), etl_job_run('steal')});
is($jobs->end_of('steal'), 'failed||42501', '... gives nobody more rights');
$jobs->sql(q{ALTER ROLE worker SET work_mem = '2MB'; SET SESSION AUTHORIZATION worker;
	SELECT etl_job_create('role_settings', 'on nothing', 'INSERT INTO seen (what) SELECT ''role_settings '' || current_setting(''work_mem'')')});
$jobs->sql(q{SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE backend_type = 'etl_patterns job'});
$jobs->sql(q{SET SESSION AUTHORIZATION worker; SELECT etl_job_run('role_settings')});
is($jobs->end_of('role_settings'), 'succeeded||', 'a job of a role with settings');
is(seen('role_settings'), 'role_settings 2MB', '... has them');

$jobs->sql(q{ALTER ROLE worker SET default_transaction_read_only = on; ALTER ROLE worker SET default_transaction_isolation = serializable;
	SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE backend_type = 'etl_patterns job'; SET SESSION AUTHORIZATION worker;
	SET default_transaction_read_only = off;
	SELECT etl_job_create('readonly_role', 'on nothing', 'SELECT set_config(''etl_patterns.event_payload'', current_setting(''transaction_isolation''), true)'),
		etl_job_create('readonly_fail', 'on nothing', 'INSERT INTO seen (what) VALUES (1)'), etl_job_run('readonly_role'), etl_job_run('readonly_fail')});
is($jobs->end_of('readonly_role'), 'succeeded||', 'a role whose transactions may not write');
is($jobs->end_of('readonly_fail'), 'failed||25006', '... may fail');
is($jobs->sql(q{SELECT count(*) FROM etl_patterns.alert WHERE job = 'readonly_fail'}), 1, '... with an alert');

$jobs->sql(q{ALTER ROLE worker RESET default_transaction_read_only; ALTER ROLE worker SET lock_timeout = '1ms';
	SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE backend_type = 'etl_patterns job'; SET SESSION AUTHORIZATION worker;
	SET default_transaction_isolation = 'read committed';
	SELECT etl_job_create('impatient', 'on nothing', 'SELECT 1/0')});
my $holder = $node->background_psql('postgres');
$holder->query_safe(q{BEGIN; UPDATE etl_patterns.job SET job = job WHERE job = 'impatient'});
$jobs->sql(q{INSERT INTO etl_patterns.job_run (job_run_id, job_id, job, role, slot, attempt, origin, status, due_at, slots)
	SELECT nextval('etl_patterns.job_run_id_seq'), job_id, job, role, now(), 1, 'manual', 'waiting', now(), 1 FROM etl_patterns.job WHERE job = 'impatient'});
my $served = $jobs->served;
$jobs->sql("SELECT pg_terminate_backend($served)");
$jobs->served($served);
$jobs->until(q{SELECT count(*) > 0 FROM pg_locks JOIN etl_patterns.job_run USING (pid) WHERE job = 'impatient' AND NOT granted}, 'the end of a run waits for a lock');
$holder->query_safe('COMMIT');
$holder->quit;
is($jobs->end_of('impatient'), 'failed||22012', '... whatever lock_timeout its role has');

# Commands at isolation level serializable do not meet in the state tables.
$jobs->sql(q{ALTER ROLE worker SET default_transaction_isolation = serializable; ALTER ROLE worker RESET lock_timeout;
	SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE backend_type = 'etl_patterns job'; SET SESSION AUTHORIZATION worker;
	SET default_transaction_isolation = 'read committed';
	SELECT etl_job_create('serial' || i, 'on nothing', 'SELECT pg_sleep(0.1), set_config(''my.level'', current_setting(''transaction_isolation''), false)'),
		etl_job_create('after' || i, 'after serial' || i, 'SELECT 1') FROM generate_series(1, 4) i});
for my $i (1 .. 5)
{
	$jobs->sql(q{SELECT etl_job_run(job) FROM etl_patterns.job WHERE job LIKE 'serial%'});
	$jobs->until(q{SELECT NOT EXISTS (SELECT FROM etl_patterns.job_run WHERE job LIKE 'serial%' AND finished_at IS NULL)}, 'serializable commands end');
}
is($jobs->sql(q{SELECT DISTINCT status, error_message FROM etl_patterns.job_run WHERE job LIKE 'serial%'}), 'succeeded|', '... with success');
$jobs->until(q{SELECT count(*) = 20 FROM etl_patterns.job_run WHERE job LIKE 'after%' AND status = 'succeeded'}, '... and other jobs run after each');

# A session does not keep the rights of a superuser that was.
$jobs->sql(q{ALTER ROLE other SUPERUSER; SET SESSION AUTHORIZATION other;
	SELECT etl_job_create('was_super', 'on nothing', 'SET SESSION AUTHORIZATION postgres'), etl_job_run('was_super')});
is($jobs->end_of('was_super'), 'succeeded||', 'a superuser may become another role');
$jobs->sql(q{ALTER ROLE other NOSUPERUSER; SET SESSION AUTHORIZATION other; SELECT etl_job_run('was_super')});
is($jobs->end_of('was_super'), "succeeded||\nfailed||42501", '... which a superuser that was may not, in a worker that was there');

# Roles that cannot run anything.
for my $case ([ 'no_login', 'ALTER ROLE worker NOLOGIN', 'ALTER ROLE worker LOGIN', 'its owner is not permitted to log in' ],
	[ 'no_connect', 'REVOKE CONNECT ON DATABASE postgres FROM PUBLIC', 'GRANT CONNECT ON DATABASE postgres TO PUBLIC',
		'its owner has no CONNECT privilege for the database' ])
{
	my ($name, $bad, $good, $reason) = @$case;

	$jobs->sql(qq{SET SESSION AUTHORIZATION worker; SELECT etl_job_create('$name', 'on nothing', 'SELECT 1')});
	$jobs->sql(qq{$bad; INSERT INTO etl_patterns.job_run (job_run_id, job_id, job, role, slot, attempt, origin, status, due_at, slots)
		SELECT nextval('etl_patterns.job_run_id_seq'), job_id, job, role, now(), 1, 'manual', 'waiting', now(), 1 FROM etl_patterns.job WHERE job = '$name'});
	my $scheduler = $jobs->served;
	$jobs->sql("SELECT pg_terminate_backend($scheduler)");
	$jobs->served($scheduler);
	$jobs->until("SELECT state = 'broken' AND reason = '$reason' FROM etl_patterns.job WHERE job = '$name'", "$name: the job is broken, and says why");
	is($jobs->end_of($name), 'skipped|broken|', '... and its run is skipped');
	$jobs->sql($good);
}
$jobs->sql(q{SELECT etl_job_resume('no_login'), etl_job_run('no_login')});
is($jobs->end_of('no_login'), "skipped|broken|\nsucceeded||", 'a job that was mended runs again');

# No superusers
$holder = $node->background_psql('postgres');
$holder->query_safe('SELECT pg_advisory_lock(5)');
$jobs->sql(q{SELECT etl_job_create('super', 'every 1 second', 'SELECT 1'), etl_job_create('super_by_hand', 'on nothing', 'SELECT pg_advisory_xact_lock_shared(5)', overlap => 'queue');
	SELECT etl_job_run('super_by_hand'), etl_job_run('super_by_hand')});
$jobs->wait_for('super_by_hand', 'running');
$node->append_conf('postgresql.conf', 'etl_patterns.superuser_jobs = off');
$node->reload;
$jobs->until(q{SELECT state = 'broken' FROM etl_patterns.job WHERE job = 'super'}, 'superusers may have no jobs any more: one is broken');
$holder->quit;
is($jobs->end_of('super_by_hand'), "succeeded||\nskipped|broken|", '... and what was to be run by hand is not');

# Logs
my $log = slurp_file($node->logfile);
like($log, qr/etl_patterns job ERROR:  division by zero/, 'an error is in the log');
like($log, qr/etl_patterns job LOG:  statement: CREATE INDEX CONCURRENTLY/, 'log_statement is obeyed');
unlike($log, qr/you don't own a lock|PANIC|TRAP|signal 11/, 'nothing is there that should not be');

$node->stop;
done_testing();
