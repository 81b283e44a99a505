# The launcher and its schedulers: each database that has the extension is
# served, whatever is done to it, to the processes or to the server, and no
# command on databases is in the way.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Restart;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('launcher');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', "restart_after_crash = on\nautovacuum = off\nmax_prepared_transactions = 1");
$node->start;

my $activity = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'etl\_patterns%'};

# Without preload
$node->safe_psql('postgres', q{CREATE EXTENSION etl_patterns; CREATE ROLE nobody LOGIN CREATEDB});
is($node->safe_psql('postgres', 'SELECT count(*) FROM etl_scheduler_status()'), 0, 'without preload there is no status');
is($node->safe_psql('postgres', $activity), 0, '... and no process');
$node->safe_psql('postgres', 'CREATE DATABASE plain');
$node->safe_psql('plain', 'CREATE EXTENSION etl_patterns; DROP EXTENSION etl_patterns');
$node->safe_psql('postgres', 'DROP DATABASE plain');

sub pid_of
{
	my ($db) = @_;

	return $node->safe_psql('postgres', "SELECT pid FROM etl_scheduler_status() WHERE database = '$db' AND state = 'running'");
}

# Wait for a scheduler there that is not the given process; returns its pid.
sub served
{
	my ($db, $what, $not_pid) = @_;

	$not_pid = 0 unless $not_pid;
	ok( $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM etl_scheduler_status() s JOIN pg_stat_activity a USING (pid)
			WHERE s.database = '$db' AND s.state = 'running' AND s.pid <> $not_pid
			AND a.backend_type = 'etl_patterns scheduler' AND a.datname = s.database"), $what);
	return pid_of($db);
}

# Wait until nothing is connected to it, and nothing will be.
sub not_served
{
	my ($db, $what) = @_;

	ok( $node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = '$db' AND backend_type = 'etl_patterns scheduler')
			AND NOT EXISTS (SELECT FROM etl_scheduler_status() WHERE database = '$db')"), $what);
}

# Is the scheduler still the same?
sub undisturbed
{
	my ($db, $pid, $what) = @_;

	is(pid_of($db), $pid, $what);
}

sub launcher
{
	return $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'etl_patterns launcher'});
}

# Found at the start of the server
$node->safe_psql('postgres', 'CREATE DATABASE a');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'etl_patterns'\nmax_worker_processes = 12\netl_patterns.worker_idle_timeout = 60000");
$node->restart;
my $postgres = served('postgres', 'a database with the extension is found when the server starts');
like(launcher(), qr/^\d+$/, 'there is one launcher');
not_served('a', 'a database without the extension has no scheduler');
not_served('template1', 'nor has a template');
is( $node->safe_psql('postgres', q{SELECT jobs >= 0, runs_waiting, workers, workers_idle, no_worker, started_at <= heartbeat FROM etl_scheduler_status()}),
	't|0|0|0|0|t', 'the columns of the status');

# CREATE EXTENSION, DROP EXTENSION
$node->safe_psql('a', 'BEGIN; CREATE EXTENSION etl_patterns; ROLLBACK');
not_served('a', 'a CREATE EXTENSION that is rolled back changes nothing');
$node->safe_psql('a', 'CREATE EXTENSION etl_patterns');
my $a = served('a', 'CREATE EXTENSION brings a scheduler');
is($node->safe_psql('a', q{SELECT count(*) FROM pg_proc WHERE proname ~ 'installed'}), 0, '... and leaves no function for that');
$node->safe_psql('a', 'DROP EXTENSION etl_patterns');
not_served('a', 'DROP EXTENSION ends it');
$node->safe_psql('a', 'CREATE EXTENSION etl_patterns');
$a = served('a', 'it comes again');
$node->safe_psql('a', 'DROP SCHEMA public CASCADE; CREATE SCHEMA public');
not_served('a', 'DROP SCHEMA may end it, too');
$node->safe_psql('a', 'CREATE EXTENSION etl_patterns; DROP EXTENSION etl_patterns; CREATE EXTENSION etl_patterns');
$a = served('a', 'created, dropped and created in a row');

$node->safe_psql('a', 'DROP EXTENSION etl_patterns; CREATE EXTENSION etl_patterns');
$a = served('a', 'a scheduler knows one extension, and not the next one', $a);

# An installation that nobody tells of
$node->safe_psql('a', q{DROP EXTENSION etl_patterns; BEGIN; CREATE EXTENSION etl_patterns; PREPARE TRANSACTION 'p'});
not_served('a', 'an installation that is prepared');
$node->safe_psql('a', q{COMMIT PREPARED 'p'});
$node->safe_psql('a', q{SELECT etl_job_create('quick', 'every 10 hours', 'SELECT 1')});
$a = served('a', 'the first job tells of it');
$node->safe_psql('a', q{SELECT etl_job_drop('quick')});

# Commands on databases
$node->safe_psql('postgres', 'CREATE DATABASE b TEMPLATE a');
served('b', 'a copy is found');
$a = served('a', 'and its template is served again', $a);
$node->safe_psql('postgres', "CREATE DATABASE c TEMPLATE a STRATEGY file_copy");
served('c', 'another one, copied by files');
$a = served('a', 'and its template is served again', $a);
$node->safe_psql('b', 'CREATE DATABASE d TEMPLATE b');
served('d', 'a copy of the current database');
$node->safe_psql('postgres', 'ALTER DATABASE d RENAME TO e');
my $e = served('e', 'a database is renamed');
$node->safe_psql('postgres', 'BEGIN; ALTER DATABASE e RENAME TO d; ROLLBACK');
$e = served('e', 'a renaming is rolled back', $e);
$node->safe_psql('postgres', "SET allow_in_place_tablespaces = on; CREATE TABLESPACE other LOCATION ''");
$node->safe_psql('postgres', 'ALTER DATABASE e SET TABLESPACE other');
served('e', 'a database is moved', $e);
$node->safe_psql('postgres', 'DROP DATABASE e');
not_served('e', 'a database is dropped');
$node->safe_psql('postgres', 'DROP DATABASE c WITH (FORCE)');
not_served('c', 'a database is dropped by force');

# Workers: who has nothing to do is no obstacle.  (Jobs of a copy run only when
# somebody says so.)
$node->safe_psql('b', q{
	SELECT etl_job_arm();
	SELECT etl_job_create('quick', 'every 10 hours', 'SELECT 1'), etl_job_create('slow', 'every 10 hours', 'SELECT pg_sleep(1000)');
	SELECT etl_job_run('quick')});
my $workers = q{SELECT workers || ' ' || workers_idle FROM etl_scheduler_status() WHERE database = 'b'};
ok($node->poll_query_until('postgres', $workers, '1 1'), 'a worker that has done its work waits for more');
$node->safe_psql('postgres', 'CREATE DATABASE c TEMPLATE b');
served('b', 'it was no obstacle to a copy');
served('c', 'and there is a scheduler for the copy');
is($node->safe_psql('postgres', $workers), '0 0', 'the worker is gone');
$node->safe_psql('b', q{SELECT etl_job_run('slow')});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = 'b' AND wait_event = 'PgSleep'}), 'a job runs');
my ($status, $out, $err) = $node->psql('postgres', 'DROP DATABASE b');
like($err, qr/being accessed by other users.*There is 1 other session/s, 'a job that runs is in the way');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'b' AND wait_event = 'PgSleep'}), 1, 'and goes on');
served('b', 'as does the scheduler');
ok($node->poll_query_until('postgres', $workers, '1 0'), 'which finds the job again');
$node->safe_psql('postgres', 'DROP DATABASE b WITH (FORCE)');
not_served('b', 'a database is dropped by force, job and all');
$node->safe_psql('postgres', 'ALTER DATABASE c RENAME TO b');

# What others may not do
my $b = served('b', 'before what others try');
for my $command (
	'DROP DATABASE b', 'ALTER DATABASE b RENAME TO x',
	'ALTER DATABASE b SET TABLESPACE other', 'CREATE DATABASE x TEMPLATE b')
{
	my ($status, $out, $err) = $node->psql('postgres', $command, extra_params => [ '-U', 'nobody' ]);
	isnt($status, 0, "not everybody may $command");
	like($err, qr/permission denied|must be owner/, '... and is told so');
}
($status, $out, $err) = $node->psql('postgres', 'BEGIN; DROP DATABASE b');
like($err, qr/cannot run inside a transaction block/, 'a command that cannot be run here');
$node->safe_psql('postgres', q{DO $$ BEGIN EXECUTE 'DROP DATABASE b'; EXCEPTION WHEN active_sql_transaction THEN NULL; END $$});
$node->safe_psql('b', q{DO $$ BEGIN EXECUTE 'DROP DATABASE b'; EXCEPTION WHEN others THEN NULL; END $$});
($status, $out, $err) = $node->psql('b', 'DROP DATABASE b');
like($err, qr/cannot drop the currently open database/, 'a command that fails');
undisturbed('b', $b, 'none of these disturbed the scheduler');
undisturbed('postgres', $postgres, 'nor was that of another database by anything so far');

# A command that fails because of somebody else
my $session = $node->background_psql('b');
$session->query_safe('SELECT 1');
($status, $out, $err) = $node->psql('postgres', 'DROP DATABASE b');
like($err, qr/being accessed by other users.*There is 1 other session/s, 'only the session of a user is in the way');
$b = served('b', 'a scheduler returns after a command that failed', $b);
$session->quit;

# Databases that nobody may connect to
$node->safe_psql('postgres', 'ALTER DATABASE b ALLOW_CONNECTIONS false');
not_served('b', 'without connections there is no scheduler');
$node->safe_psql('postgres', 'CREATE DATABASE f');
$node->safe_psql('f', 'CREATE EXTENSION etl_patterns');
served('f', 'others do not mind');
$node->safe_psql('postgres', 'ALTER DATABASE b ALLOW_CONNECTIONS true');
$b = served('b', 'with connections there is one');
$node->safe_psql('postgres', 'ALTER DATABASE b IS_TEMPLATE true');
not_served('b', 'a database that becomes a template');
$node->safe_psql('postgres', 'ALTER DATABASE b IS_TEMPLATE false');
$b = served('b', 'and is one no more');
$node->safe_psql('postgres', 'ALTER DATABASE b CONNECTION LIMIT 0');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($b)");
$b = served('b', 'a connection limit is not for schedulers', $b);

# A database that cannot be connected to
$node->safe_psql('b', 'DROP EXTENSION etl_patterns; CREATE EXTENSION etl_patterns');
$b = served('b', 'an installation makes one forget what failed before', $b);
my $path = $node->data_dir . '/' . $node->safe_psql('b', q{SELECT pg_relation_filepath('pg_class')});
$path =~ s{[^/]*$}{PG_VERSION};
rename $path, "$path.away" or die;
$node->safe_psql('postgres', "SELECT pg_terminate_backend($b)");
ok($node->poll_query_until('postgres', q{SELECT state = 'failed' AND pid IS NULL FROM etl_scheduler_status() WHERE database = 'b'}),
	'a scheduler that fails is shown');
$node->wait_for_log(qr/FATAL:  .* is not a valid data directory/);
$node->safe_psql('postgres', 'CREATE DATABASE g');
$node->safe_psql('g', 'CREATE EXTENSION etl_patterns');
served('g', 'others do not mind');
rename "$path.away", $path or die;
$b = served('b', 'once it is mended, it is served again');
$node->safe_psql('b', 'DROP EXTENSION etl_patterns; CREATE EXTENSION etl_patterns');
$b = served('b', 'and that is forgotten', $b);
$node->safe_psql('postgres', $_) for ('DROP DATABASE f', 'DROP DATABASE g');

# Processes that are terminated
my $launcher = launcher();
$node->safe_psql('postgres', "SELECT pg_terminate_backend($b)");
my $next = served('b', 'a scheduler that is terminated comes back', $b);
undisturbed('postgres', $postgres, 'the others stay');
is(launcher(), $launcher, 'so does the launcher');
$b = $next;
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'etl_patterns launcher' AND pid <> $launcher"),
	'a launcher that is terminated comes back');
undisturbed('b', $b, 'schedulers stay meanwhile');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($b)");
$b = served('b', 'the new launcher cares for them', $b);
$node->safe_psql('b', 'DROP EXTENSION etl_patterns');
not_served('b', 'and for those that end');
$node->safe_psql('b', 'CREATE EXTENSION etl_patterns');
$b = served('b', 'and for those that begin');

# The switch
$node->safe_psql('postgres', q{ALTER SYSTEM SET etl_patterns.scheduler = off; SELECT pg_reload_conf()});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'etl_patterns scheduler'}),
	'switched off, schedulers end');
not_served('a', 'and are forgotten');
like(launcher(), qr/^\d+$/, 'the launcher waits');
$node->safe_psql('b', 'DROP EXTENSION etl_patterns; CREATE EXTENSION etl_patterns');
$node->safe_psql('postgres', q{ALTER SYSTEM RESET etl_patterns.scheduler; SELECT pg_reload_conf()});
served($_, "switched on, there is one for $_") for ('postgres', 'a', 'b');

# A crash takes all processes and the shared memory
$b = pid_of('b');
my $old = join ',', map { pid_of($_) } ('postgres', 'a', 'b');
Restart::kill_process($node, $b);
ok($node->poll_query_until('postgres', "SELECT count(*) = 3 FROM etl_scheduler_status() WHERE state = 'running' AND pid NOT IN ($old)"),
	'after a crash all come back');
like(launcher(), qr/^\d+$/, 'and the launcher');

# The server ends at once, in each mode
for my $mode ('smart', 'fast', 'immediate')
{
	$node->stop($mode);
	is($node->{_pid}, undef, "a $mode shutdown");
	$node->start;
	served($_, "after a $mode shutdown there is one for $_") for ('postgres', 'a', 'b');
}

# More databases than places: one scheduler, beside two launchers and a run
$node->append_conf('postgresql.conf', 'max_worker_processes = 4');
my $logfile = -s $node->logfile;
$node->restart;
my $full = qr/WARNING:  no background worker is left for database/;
$node->wait_for_log($full, $logfile);
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM etl_scheduler_status() WHERE state = 'running'}), 'one is served');
my $first = $node->safe_psql('postgres', 'SELECT database FROM etl_scheduler_status()');
my @others = grep { $_ ne $first } ('postgres', 'a', 'b');
$node->safe_psql($first, 'DROP EXTENSION etl_patterns');
$node->safe_psql($others[0], 'SELECT 1');
ok( $node->poll_query_until($others[0], "SELECT count(*) = 1 FROM etl_scheduler_status() WHERE state = 'running' AND database <> '$first'"),
	'another one gets the place that becomes free');
my $log = slurp_file($node->logfile, $logfile);
is(scalar(() = $log =~ /$full/g), 1, 'that is said once');
like($log, qr/HINT:  Raise max_worker_processes/, '... with what to do');

$node->stop;
$log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP|signal 11|signal 6/, 'nothing crashed that was not killed');
unlike($log, qr/leaked|hash_seq_search/, 'nothing leaked');
done_testing();
