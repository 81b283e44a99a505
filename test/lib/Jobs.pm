# Servers that run jobs, and jobs that note what they did.
#
# The command of a job calls work(): it notes job, slot and run in a table
# without constraints, in the run's own transaction, so that what is there
# says which runs took effect, and how often.

package Jobs;

use strict;
use warnings;

use IPC::Run ();
use List::Util qw(shuffle);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our $conf = q{
shared_preload_libraries = 'etl_patterns'
restart_after_crash = on
max_worker_processes = 40
etl_patterns.worker_idle_timeout = 500
};

# What every database with jobs has.  Jobs belong to a role that is no
# superuser.
our $schema = q{
	CREATE EXTENSION etl_patterns;
	CREATE TABLE effect (job text, slot timestamptz, job_run_id bigint, payload text,
		began timestamptz, ended timestamptz);
	CREATE TABLE signal (payload text);

	-- The work of a run.  That a run of a job that must not overlap finds
	-- another one at work is an error that no retry mends.
	CREATE FUNCTION work(job text, seconds float8 DEFAULT 0, alone boolean DEFAULT true) RETURNS void
	LANGUAGE plpgsql AS $$
	DECLARE
		began timestamptz := clock_timestamp();
	BEGIN
		IF alone AND NOT pg_try_advisory_xact_lock(hashtext(job)) THEN
			RAISE 'two runs of % at once', job USING ERRCODE = '22000';
		END IF;
		PERFORM pg_sleep(seconds);
		INSERT INTO effect VALUES (job, current_setting('etl_patterns.logical_time')::timestamptz,
			current_setting('etl_patterns.job_run_id')::bigint, current_setting('etl_patterns.event_payload'),
			began, clock_timestamp());
	END $$;
	CREATE PROCEDURE work_proc(job text, seconds float8) LANGUAGE plpgsql AS
		$$ BEGIN PERFORM work(job, seconds); END $$;
	CREATE PROCEDURE work_in_steps(job text, seconds float8) LANGUAGE plpgsql AS
		$$ BEGIN PERFORM pg_sleep(seconds); COMMIT; PERFORM work(job, seconds); END $$;
	GRANT ALL ON ALL TABLES IN SCHEMA public TO worker;

	-- Runs that have not ended.
	CREATE VIEW unfinished AS
		SELECT * FROM etl_patterns.job_run WHERE status IN ('waiting', 'running');
};

sub new_node
{
	my ($name, %params) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(extra => [ '--locale=C', '--encoding=UTF8' ], %params);
	$node->append_conf('postgresql.conf', $conf);
	$node->start;
	$node->safe_psql('postgres', 'CREATE ROLE worker LOGIN') unless $params{no_role};
	return $node;
}

# A database with the schema; the jobs are created with worker's rights.
sub new_database
{
	my ($node, $db) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $db") unless $db eq 'postgres';
	$node->safe_psql($db, $schema);
	return;
}

sub as_worker
{
	my ($node, $db, $sql) = @_;

	return $node->safe_psql($db, $sql, extra_params => [ '-U', 'worker' ]);
}

# What a query says, or nothing while the server cannot be asked.  A psql that
# ends at once closes its input, which IPC::Run dies of.
sub ask
{
	my ($node, $db, $query, @params) = @_;
	my ($status, $out) = eval { $node->psql($db, $query, stderr => \my $err, @params) };

	return defined $status && $status == 0 ? $out : undef;
}

# Wait until a query says t.
sub wait_until
{
	my ($node, $db, $query, $what) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while (time < $deadline)
	{
		my $answer = ask($node, $db, "SELECT ($query)");

		return if defined $answer && $answer eq 't';
		usleep(50_000);
	}
	diag($node->safe_psql($db, 'SELECT * FROM etl_patterns.job'));
	diag($node->safe_psql($db, 'SELECT * FROM etl_patterns.job_run ORDER BY job_run_id DESC LIMIT 20'));
	diag($node->safe_psql($db, 'SELECT * FROM etl_scheduler_status()'));
	diag($node->safe_psql($db, q{SELECT pid, backend_type, state, wait_event, query FROM pg_stat_activity}));
	die 'gave up waiting: ' . ($what // $query);
}

# No more slots; what waits still runs.
sub end_schedules
{
	my ($node, $db) = @_;

	as_worker($node, $db, q{
		SELECT etl_job_alter(job, schedule => '0 0 29 2 *') FROM etl_patterns.job
		WHERE schedule LIKE 'every %'});
	return;
}

# ---------------------------------------------------------------------------
# What must hold, whatever happened
# ---------------------------------------------------------------------------

# Each query says what is wrong; there must be nothing.
our %invariants = (
	'each slot of a clock has a run or a reason' => q{
		SELECT j.job, s
		FROM slots_from f JOIN etl_patterns.job j USING (job),
			generate_series(f.first_slot, f.last_slot, f.each) s
		WHERE NOT EXISTS (SELECT FROM etl_patterns.job_run r WHERE r.job_id = j.job_id
			AND s BETWEEN coalesce(r.first_slot, r.slot) AND r.slot)},
	'no slot is there that the clock does not have' => q{
		SELECT r.job, r.slot
		FROM etl_patterns.job_run r JOIN slots_from f USING (job)
		WHERE r.origin = 'schedule' AND (r.slot < f.first_slot OR r.slot > f.last_slot
			OR extract(epoch FROM r.slot - f.first_slot)::numeric % extract(epoch FROM f.each) <> 0)},
	'skipped slots have a reason, and are as many as they say' => q{
		SELECT r.job, r.slot, r.reason, r.slots
		FROM etl_patterns.job_run r LEFT JOIN slots_from f USING (job)
		WHERE r.status = 'skipped' AND (r.reason IS NULL OR r.slots <> CASE WHEN r.first_slot IS NULL THEN 1
			ELSE 1 + extract(epoch FROM r.slot - r.first_slot) / extract(epoch FROM f.each) END)},
	'each run that succeeded took effect once' => q{
		SELECT r.job, r.slot, r.job_run_id, count(e.job)
		FROM etl_patterns.job_run r LEFT JOIN effect e ON (e.job, e.slot, e.job_run_id) = (r.job, r.slot, r.job_run_id)
		WHERE r.status = 'succeeded' GROUP BY 1, 2, 3 HAVING count(e.job) <> 1},
	'nothing else took effect' => q{
		SELECT e.* FROM effect e
		WHERE NOT EXISTS (SELECT FROM etl_patterns.job_run r WHERE r.job_run_id = e.job_run_id AND r.status = 'succeeded')},
	'each slot succeeded once, or says why it did not' => q{
		SELECT job, slot, array_agg(status || ' ' || coalesce(reason, '') ORDER BY attempt)
		FROM etl_patterns.job_run GROUP BY job, slot
		HAVING count(*) FILTER (WHERE status IN ('succeeded', 'skipped', 'stopped')) <> 1},
	'attempts are counted, and all but the last were in vain' => q{
		SELECT job, slot, array_agg(attempt || ' ' || status ORDER BY attempt)
		FROM etl_patterns.job_run GROUP BY job, job_id, slot
		HAVING count(*) <> max(attempt) OR bool_or(status NOT IN ('lost', 'failed') AND attempt < (
			SELECT max(attempt) FROM etl_patterns.job_run r WHERE (r.job_id, r.slot) = (job_run.job_id, job_run.slot)))},
	'only what is replaced is stopped' => q{
		SELECT job, slot, reason FROM etl_patterns.job_run
		WHERE status = 'stopped' AND (job <> 'replace' OR reason <> 'replaced')},
	'a run that ended says when' => q{
		SELECT job, slot, status FROM etl_patterns.job_run
		WHERE finished_at IS NULL OR finished_at < started_at},
	'no run found another one at work' => q{
		SELECT job, slot, error_message FROM etl_patterns.job_run WHERE error_message LIKE 'two runs of%'},
	'work of a job that must not overlap does not' => q{
		SELECT a.job, a.slot, b.slot FROM effect a JOIN effect b USING (job) JOIN etl_patterns.job j USING (job)
		WHERE a.ctid < b.ctid AND j.overlap <> 'allow'
		AND tstzrange(a.began, a.ended) && tstzrange(b.began, b.ended)},
	'errors are only those of processes that were ended' => q{
		SELECT job, slot, error_code, error_message FROM etl_patterns.job_run
		WHERE status = 'failed' AND error_code NOT IN ('57P01', '57P02')},
	'runs after a job are for its slots that succeeded' => q{
		SELECT 'missing', r.slot FROM etl_patterns.job_run r
		WHERE r.job = 'tick' AND r.status = 'succeeded'
		AND NOT EXISTS (SELECT FROM etl_patterns.job_run a WHERE a.job = 'after' AND a.slot = r.slot)
		UNION ALL SELECT 'too many', a.slot FROM etl_patterns.job_run a
		WHERE a.job = 'after'
		AND NOT EXISTS (SELECT FROM etl_patterns.job_run r WHERE r.job = 'tick' AND r.slot = a.slot AND r.status = 'succeeded')},
	'each event that was committed had its run' => q{
		SELECT payload, count(e.job) FROM signal LEFT JOIN effect e USING (payload)
		GROUP BY payload HAVING count(e.job) <> 1},
	'and no other event had one' => q{
		SELECT payload FROM effect e WHERE job = 'event' AND NOT EXISTS (SELECT FROM signal s WHERE s.payload = e.payload)},
);

# Jobs of the clock: their first slot is the first multiple of their interval
# after they were created.
our $remember_slots = q{
	CREATE TABLE slots_from AS
		SELECT job, to_timestamp((floor(extract(epoch FROM created_at) / seconds) + 1) * seconds) AS first_slot,
			NULL::timestamptz AS last_slot, seconds * interval '1 second' AS each
		FROM (SELECT *, extract(epoch FROM substring(schedule FROM 'every (.*)')::interval) AS seconds
			FROM etl_patterns.job WHERE schedule LIKE 'every %') j};
our $last_slots = q{
	UPDATE slots_from f SET last_slot = s.last FROM (
		SELECT job, max(slot) AS last FROM etl_patterns.job_run WHERE origin = 'schedule' GROUP BY job) s
	WHERE s.job = f.job};

sub check
{
	my ($node, $db, $what) = @_;

	$node->safe_psql($db, $last_slots);
	foreach my $name (sort keys %invariants)
	{
		is($node->safe_psql($db, "$invariants{$name} LIMIT 5"), '', "$what: $name");
	}
	is($node->safe_psql($db, q{SELECT count(*) FROM slots_from WHERE last_slot IS NULL}),
		0, "$what: every job of the clock had slots");
	return;
}

# ---------------------------------------------------------------------------
# Killing
# ---------------------------------------------------------------------------

our %pids = (
	worker => q{SELECT pid FROM etl_patterns.job_run JOIN pg_stat_activity USING (pid) WHERE status = 'running' ORDER BY random() LIMIT 1},
	scheduler => q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'etl_patterns scheduler' ORDER BY random() LIMIT 1},
	launcher => q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'etl_patterns launcher'},
);

sub wait_for_pid
{
	my ($node, $db, $who) = @_;

	for (1 .. 1800)
	{
		my $pid = ask($node, $db, $pids{$who});

		return $pid if $pid;
		usleep(20_000);
	}
	die "there is no $who";
}

# Kill the postmaster, and start again as soon as its children have gone: until
# then they keep the shared memory, and a new one ends at once.
sub kill_postmaster
{
	my ($node) = @_;
	my $pid = $node->{_pid};

	$node->kill9;
	for (1 .. 6000)
	{
		unless (kill 0, $pid)
		{
			return if $node->start(fail_ok => 1);
			$node->{_pid} = undef;
		}
		usleep(50_000);
	}
	die 'the server does not start';
}

# One harm, by its name.
sub harm
{
	my ($node, $db, $how) = @_;

	if ($how =~ /^(KILL|TERM) (\w+)$/)
	{
		my ($signal, $who) = ($1, $2);

		if ($who eq 'postmaster')
		{
			kill_postmaster($node);
		}
		else
		{
			# it may have ended by itself since
			kill $signal, wait_for_pid($node, $db, $who);
		}
	}
	else
	{
		$node->stop($how);
		$node->start;
	}
	return;
}

our @harms = ('KILL worker', 'KILL scheduler', 'KILL postmaster', 'immediate', 'TERM worker', 'TERM scheduler',
	'TERM launcher', 'KILL launcher', 'fast', 'smart');

sub create_crash_jobs
{
	my ($node, $db) = @_;
	my $retried = q{max_attempts => 20, retry_delay => '0.1 s', retry_max_delay => '0.5 s'};

	as_worker($node, $db, qq{
		SELECT etl_job_create('tick', 'every 1 second', 'SELECT work(''tick'', random() * 0.3)', $retried);
		SELECT etl_job_create('after', 'after tick', 'SELECT work(''after'', random() * 0.1)', $retried);
		SELECT etl_job_create('queue', 'every 2 seconds', 'SELECT work(''queue'', random() * 2)', overlap => 'queue', $retried);
		SELECT etl_job_create('all', 'every 1 second', 'SELECT work(''all'', 0.02)', overlap => 'queue', catchup => 'all', $retried);
		SELECT etl_job_create('skip', 'every 1 second', 'SELECT work(''skip'', 1.2)', catchup => 'skip', $retried);
		SELECT etl_job_create('replace', 'every 1 second', 'SELECT work(''replace'', random() * 1.6)', overlap => 'replace', $retried);
		SELECT etl_job_create('allow', 'every 1 second', 'SELECT work(''allow'', random() * 2, false)', overlap => 'allow', $retried);
		SELECT etl_job_create('procedure', 'every 1 second', 'CALL work_proc(''procedure'', random() * 0.5)', $retried);
		SELECT etl_job_create('steps', 'every 1 second', 'CALL work_in_steps(''steps'', random() * 0.2)', $retried);
		SELECT etl_job_create('event', 'on ping', 'SELECT work(''event'', 0.05)', $retried);
	});
	$node->safe_psql($db, $remember_slots);
	return;
}

# An event, unless the server is just down.
my $signals = 0;

sub signal_event
{
	my ($node, $db) = @_;
	my $end = rand() < 0.8 ? 'COMMIT' : 'ROLLBACK';

	$signals++;
	ask($node, $db, "BEGIN; INSERT INTO signal VALUES ('ping $signals'); SELECT etl_signal('ping', 'ping $signals'); $end",
		extra_params => [ '-U', 'worker' ]);
	return;
}

# A client that runs what is due beside the scheduler, until it is killed with
# the server or nothing is due.
my @clients;

sub start_client
{
	my ($node, $db) = @_;

	push @clients,
	  IPC::Run::start(
		[ $node->installed_command('psql'), '-X', '-q', '-d', $node->connstr($db), '-U', 'worker', '-c', 'CALL etl_run_due_jobs()' ],
		'<', \undef, '>', \my $out, '2>', \my $err);
	return;
}

sub end_clients
{
	eval { $_->finish; 1 } foreach splice @clients;
	return;
}

# Wait until a few more runs have ended: a random point, but one at which the
# server works.
sub wait_for_work
{
	my ($node, $db) = @_;
	my $more = 1 + int rand 8;
	my $ended = q{SELECT count(*) FROM etl_patterns.job_run WHERE status = 'succeeded'};
	my $from = ask($node, $db, $ended) || 0;

	wait_until($node, $db, "($ended) >= $from + $more", 'runs go on');
	usleep(rand 400_000);
	return;
}

# So many harms at random points; then all must be as if there had been none.
sub run_crashes
{
	my ($name, $seed, $rounds) = @_;
	my $node = new_node($name);
	my $db = 'jobs';

	note("seed $seed, $rounds rounds");
	srand($seed);
	# slots that come while the server is down are missed
	$node->append_conf('postgresql.conf', "etl_patterns.missed_after = 1\nsynchronous_commit = "
		  . (rand() < 0.5 ? 'on' : 'off') . "\nlog_min_messages = info\n");
	$node->restart;
	new_database($node, $db);
	create_crash_jobs($node, $db);

	# the first ones once, then at random
	my @plan = shuffle @harms[ 0 .. 5 ];

	for my $round (1 .. $rounds)
	{
		my $how = shift(@plan) // $harms[ rand @harms ];

		start_client($node, $db) for 1 .. rand 4;
		wait_for_work($node, $db);
		signal_event($node, $db) for 1 .. rand 3;
		note("round $round: $how");
		harm($node, $db, $how);
		end_clients();
		signal_event($node, $db) for 1 .. rand 2;
	}
	wait_for_work($node, $db);
	wait_until($node, $db, 'SELECT NOT pg_is_in_recovery()');
	end_schedules($node, $db);
	wait_until($node, $db, 'SELECT count(*) = 0 FROM unfinished', 'all runs end');

	check($node, $db, "seed $seed");
	is($node->safe_psql($db, q{SELECT job, state, reason FROM etl_patterns.job WHERE state <> 'active'}),
		'', "seed $seed: no job is stuck");
	is($node->safe_psql($db, 'SELECT count(*) FROM etl_patterns.job WHERE failing_since IS NOT NULL'),
		0, "seed $seed: no job fails");
	cmp_ok($node->safe_psql($db, q{SELECT count(*) FROM etl_patterns.job_run WHERE status = 'lost'}),
		'>', 0, "seed $seed: runs were lost, and retried");
	note($node->safe_psql($db, q{
		SELECT job, status, reason, count(*), sum(slots), max(attempt) FROM etl_patterns.job_run GROUP BY 1, 2, 3 ORDER BY 1, 2, 3}));

	# and every job still runs
	as_worker($node, $db, 'SELECT etl_job_run(job) FROM etl_patterns.job');
	wait_until($node, $db, q{SELECT count(*) FILTER (WHERE status = 'succeeded') = count(*)
		FROM etl_patterns.job_run WHERE origin = 'manual'}, 'each job runs once more');
	pass("seed $seed: all jobs run on");
	unlike(slurp_file($node->logfile), qr/TRAP:|PANIC:/, "seed $seed: no assertion failed");
	is(() = slurp_file($node->logfile) =~ /terminated by signal (?!9\b)\d+/g, 0, "seed $seed: nothing crashed by itself");
	$node->stop;
	return;
}

1;
