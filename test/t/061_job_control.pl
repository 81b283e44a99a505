# Jobs under a scheduler: what users ask for is done, by those who may ask and
# to those runs that are meant.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('job_control');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'etl_patterns'
max_worker_processes = 12
autovacuum = off
etl_patterns.cancel_grace = 1
log_line_prefix = '%b[%p] '
});
$node->start;
$node->safe_psql(
	'postgres', q{
	CREATE ROLE ann LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE EXTENSION etl_patterns;
	CREATE TABLE done (job text, slot timestamptz, id serial);
	GRANT ALL ON done, done_id_seq TO PUBLIC;
});

# One statement as a role: its result, or its error.
sub as
{
	my ($role, $sql) = @_;
	my ($code, $out, $error) = $node->psql('postgres', $sql, extra_params => [ '-U', $role, '-q' ]);

	return $code == 0 ? $out : $error =~ /ERROR:\s+(.*)/ ? $1 : $error;
}

sub wait_for
{
	my ($sql, $what) = @_;

	ok($node->poll_query_until('postgres', $sql), $what)
	  or diag $node->safe_psql('postgres', 'SELECT * FROM etl_patterns.job_run ORDER BY job_run_id DESC LIMIT 20');
	return;
}

# Creates a job that only runs by hand.
sub job
{
	my ($job, $command, $more) = @_;

	as('ann', qq{SELECT etl_job_create('$job', 'on nothing', \$\$$command\$\$} . ($more // '') . ')');
	return;
}

# Runs it; returns the number of the run, which runs by then.
sub start
{
	my ($job) = @_;
	my $id = as('ann', "SELECT etl_job_run('$job')");

	wait_for("SELECT status = 'running' FROM etl_patterns.job_run WHERE job_run_id = $id", "$job runs by hand");
	wait_for("SELECT count(*) = 1 FROM pg_stat_activity a JOIN etl_patterns.job_run r USING (pid, backend_start)
		WHERE job_run_id = $id AND a.usename = 'ann' AND wait_event = 'PgSleep'", '... as its owner');
	return $id;
}

sub is_end
{
	my ($id, $end, $what) = @_;

	wait_for("SELECT finished_at IS NOT NULL FROM etl_patterns.job_run WHERE job_run_id = $id", 'it ends');
	is($node->safe_psql('postgres', "SELECT status, reason FROM etl_patterns.job_run WHERE job_run_id = $id"), $end, $what);
	return;
}

# Stop: by its owner, not by others
job('sleep', "INSERT INTO done VALUES ('sleep'); SELECT pg_sleep(600)", ', max_attempts => 3');
my $id = start('sleep');
is(as('bob', "SELECT etl_job_stop($id)"), "job run $id does not exist", 'others cannot stop it');
my $waits = as('ann', "SELECT etl_job_run('sleep')");
is(as('ann', "SELECT etl_job_stop($waits)"), 't', 'one that waits is stopped');
is_end($waits, 'stopped|stopped', '... and has ended');
is(as('ann', "SELECT etl_job_stop($id)"), 't', 'one that runs is stopped');
is_end($id, 'stopped|stopped', '... and is not what a failure is');
is(as('ann', "SELECT etl_job_stop($id)"), 'f', 'once it has ended there is nothing to stop');

# A command that takes no notice is terminated
job('deaf', q{DO 'BEGIN LOOP BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END'});
$id = start('deaf');
is(as('ann', "SELECT etl_job_stop($id)"), 't', 'one that catches the cancel is stopped');
is_end($id, 'stopped|stopped', '... since it is terminated after a while');

# A command that stops itself
job('self', "INSERT INTO done VALUES ('self');
	SELECT etl_job_stop(current_setting('etl_patterns.job_run_id')::bigint); SELECT pg_sleep(600)");
$id = as('ann', "SELECT etl_job_run('self')");
is_end($id, 'stopped|stopped', 'a command can stop itself');
is($node->safe_psql('postgres', 'SELECT count(*) FROM done'), 0, 'what was stopped has left nothing');

# Dropped while it runs: it ends, and its end is written
job('short', q{DO 'BEGIN WHILE EXISTS (SELECT FROM etl_patterns.job WHERE job = ''short'') LOOP PERFORM pg_sleep(0.1); END LOOP; END'});
$id = start('short');
as('ann', "SELECT etl_job_drop('short')");
is_end($id, 'succeeded|', 'a job that is dropped while it runs goes on');

# Backfill: in the order of slots, and what runs by hand goes before
as('ann', q{SELECT etl_job_create('daily', '0 6 * * *', $$INSERT INTO done
	VALUES ('daily', current_setting('etl_patterns.logical_time')::timestamptz)$$)});
is( as('ann', q{SET timezone = 'UTC'; BEGIN; SELECT etl_job_backfill('daily', '2026-01-06', '2026-01-11');
		SELECT etl_job_backfill('daily', '2026-01-01', '2026-01-06'); SELECT etl_job_run('daily') > 0; COMMIT}),
	"5\n5\nt", 'ten days are filled back');
wait_for(q{SELECT count(*) = 11 FROM done WHERE job = 'daily'}, 'all of them run');
is( $node->safe_psql('postgres', q{SELECT array_agg(to_char(slot AT TIME ZONE 'UTC', 'DD') ORDER BY id) FROM done
		WHERE job = 'daily' AND slot < '2026-01-12'}),
	'{01,02,03,04,05,06,07,08,09,10}', 'in the order of their slots');
is( $node->safe_psql('postgres', q{SELECT slot > '2026-01-12' FROM done WHERE job = 'daily' ORDER BY id LIMIT 1}),
	't', '... after what was asked for by hand');

# Paused: backfills wait, by hand it runs, and resumed it goes on
as('ann', "SELECT etl_job_pause('daily')");
is(as('ann', "SELECT etl_job_backfill('daily', '2026-01-20', '2026-01-22')"), 2, 'a backfill of a paused job');
$id = as('ann', "SELECT etl_job_run('daily')");
is_end($id, 'succeeded|', 'by hand a paused job runs');
is($node->safe_psql('postgres', q{SELECT count(*) FROM done WHERE job = 'daily' AND slot BETWEEN '2026-01-12' AND '2026-01-31'}),
	0, 'its backfill waits');
as('ann', "SELECT etl_job_resume('daily')");
wait_for(q{SELECT count(*) = 2 FROM done WHERE job = 'daily' AND slot BETWEEN '2026-01-12' AND '2026-01-31'}, 'resumed it goes on');

# Slots come by themselves, as soon as the job is there, and go with it
as('ann', q{SELECT etl_job_create('second', 'every 1 second', $$INSERT INTO done VALUES ('second')$$)});
wait_for(q{SELECT count(*) > 1 FROM done WHERE job = 'second'}, 'a job with slots runs');
as('ann', q{SELECT etl_job_alter('second', command => $$INSERT INTO done VALUES ('altered')$$)});
wait_for(q{SELECT count(*) > 1 FROM done WHERE job = 'altered'}, 'altered it does something else');
as('ann', q{SELECT etl_job_pause('second')});
wait_for(q{SELECT count(*) = 0 FROM etl_patterns.job_run WHERE job = 'second' AND finished_at IS NULL}, 'paused it comes to rest');
my $slots = q{SELECT count(*), max(slot) FROM etl_patterns.job_run WHERE job = 'second'};
my $before = $node->safe_psql('postgres', $slots);
$id = as('ann', "SELECT etl_job_run('daily')");
is_end($id, 'succeeded|', 'while others run');
is($node->safe_psql('postgres', $slots), $before, '... it has no slots');
as('ann', q{SELECT etl_job_resume('second')});
wait_for(qq{SELECT count(*) > split_part('$before', '|', 1)::int FROM etl_patterns.job_run WHERE job = 'second'}, 'resumed it has');
as('ann', q{SELECT etl_job_drop('second')});

# Superusers may have jobs, unless they may not
my ($superuser) = $node->safe_psql('postgres', 'SELECT current_user');
$node->safe_psql('postgres', q{SELECT etl_job_create('super', '@daily', 'SELECT 1', enabled => false)});
$node->append_conf('postgresql.conf', 'etl_patterns.superuser_jobs = off');
$node->reload;
$node->poll_query_until('postgres', q{SELECT current_setting('etl_patterns.superuser_jobs') = 'off'});
like(as($superuser, q{SELECT etl_job_create('super 2', '@daily', 'SELECT 1')}), qr/cannot run, because it is a superuser/, 'a superuser is refused');
like(as($superuser, q{SELECT etl_job_resume('super')}), qr/cannot run, because it is a superuser/, '... whose job is not resumed');
like(as($superuser, q{SELECT etl_job_run('super')}), qr/cannot run, because it is a superuser/, '... or run');
is(as($superuser, q{SET ROLE bob; SELECT etl_job_create('of bob', '@daily', 'SELECT 1') > 0}), 't', 'as another role it may have one');

$node->stop;
done_testing();
