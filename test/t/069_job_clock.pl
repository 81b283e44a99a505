# The clock of jobs is set ahead and back, and the server is down meanwhile:
# "catchup" decides about the slots that were missed, each of them is accounted
# for, and none has two runs.  With the scheduler, and with calls of
# etl_run_due_jobs().

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Jobs;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = 'postgres';
my @overlaps = ('forbid', 'queue', 'allow', 'replace');
my ($node, $with, $start);

# ---------------------------------------------------------------------------
# What both ways need
# ---------------------------------------------------------------------------

# Sets the clock ahead by so many seconds, with the server down meanwhile or not.
sub set_clock
{
	my ($offset, $down) = @_;

	$node->stop($down) if $down;
	$node->append_conf('postgresql.conf', "etl_patterns.clock_offset = $offset");
	$down ? $node->start : $node->reload;
	# with a function of ours first, which loads the library
	Jobs::wait_until($node, $db, "SELECT CASE WHEN count(*) = 1 THEN
		(SELECT setting = '$offset' FROM pg_settings WHERE name = 'etl_patterns.clock_offset') END
		FROM etl_schedule_next_runs('every 1 second', 1)");
	return;
}

# One that has heard of the new setting has gone round since.
sub go_round
{
	if ($with eq 'calls')
	{
		Jobs::as_worker($node, $db, 'CALL etl_run_due_jobs()');
		return;
	}
	my $from = $node->safe_psql($db, 'SELECT clock_timestamp()');
	Jobs::wait_until($node, $db, "SELECT max(heartbeat) > '$from'::timestamptz + interval '2 seconds' FROM etl_scheduler_status()",
		'the scheduler goes round');
	return;
}

# No slot that is past is unclaimed, and no run of one unfinished.
sub wait_for_slots
{
	my $past = q{clock_timestamp() + current_setting('etl_patterns.clock_offset')::interval - interval '3 seconds'};
	my $pending = "SELECT (SELECT count(*) FROM etl_patterns.job WHERE next_slot < $past)
		+ (SELECT count(*) FROM unfinished WHERE slot < $past)";

	if ($with eq 'calls')
	{
		for (1 .. 50)
		{
			Jobs::as_worker($node, $db, 'CALL etl_run_due_jobs()');
			return if $node->safe_psql($db, $pending) == 0;
		}
	}
	Jobs::wait_until($node, $db, "($pending) = 0", 'all slots have come to their end');
	return;
}

sub create
{
	my ($job, $every, $options, $work) = @_;

	$work //= "work(''$job'')";
	Jobs::as_worker($node, $db, "SELECT etl_job_create('$job', '$every', 'SELECT $work', start_at => '$start', $options)");
	return;
}

# What became of a job's slots.
sub counts
{
	my ($job) = @_;

	return $node->safe_psql(
		$db, qq{
		SELECT string_agg(format('%s %s %s', n, status, reason), ', ' ORDER BY status, reason) FROM (
			SELECT status, coalesce(reason, '-') AS reason, sum(slots) AS n
			FROM etl_patterns.job_run WHERE job = '$job' GROUP BY 1, 2) x});
}

# What holds at any time.
sub check_slots
{
	my ($what) = @_;
	my %wrong = (
		'each slot has one row' => q{
			SELECT j.job, s, count(r.job_run_id)
			FROM etl_patterns.job j CROSS JOIN LATERAL generate_series(j.start_at, j.next_slot - interval '1 microsecond',
				substring(j.schedule FROM 'every (.*)')::interval) s
			LEFT JOIN etl_patterns.job_run r ON r.job_id = j.job_id AND r.origin = 'schedule'
				AND s BETWEEN coalesce(r.first_slot, r.slot) AND r.slot
			WHERE j.schedule LIKE 'every%' GROUP BY 1, 2 HAVING count(r.job_run_id) <> 1},
		'no row has a slot that is to come' => q{
			SELECT r.job, r.slot FROM etl_patterns.job_run r JOIN etl_patterns.job j USING (job_id)
			WHERE r.origin = 'schedule' AND r.slot >= j.next_slot},
		'rows that stand for many slots say how many' => q{
			SELECT job, slot FROM etl_patterns.job_run
			WHERE slots <> 1 + extract(epoch FROM slot - coalesce(first_slot, slot)) / (
				SELECT extract(epoch FROM substring(schedule FROM 'every (.*)')::interval) FROM etl_patterns.job j
				WHERE j.job_id = job_run.job_id)},
		'no slot ran twice' => q{
			SELECT job, slot FROM effect GROUP BY 1, 2 HAVING count(*) > 1},
		'runs and effects agree' => q{
			SELECT e, r FROM effect e FULL JOIN (SELECT * FROM etl_patterns.job_run WHERE status = 'succeeded') r
			USING (job_run_id) WHERE e.job IS NULL OR r.job IS NULL OR e.slot <> r.slot},
		'no run went wrong' => q{
			SELECT job, status, error_message FROM etl_patterns.job_run WHERE status IN ('failed', 'lost', 'stopped')},
	);

	$node->safe_psql($db, 'ANALYZE etl_patterns.job_run');
	foreach my $name (sort keys %wrong)
	{
		is($node->safe_psql($db, "$wrong{$name} LIMIT 5"), '', "$with, $what: $name");
	}
	return;
}

# ---------------------------------------------------------------------------
# The story
# ---------------------------------------------------------------------------

# Slots every ten minutes, of which the first is five minutes from now: three
# hours later there were 18, the last one five minutes before that.
sub create_jobs
{
	$start = $node->safe_psql($db, q{SELECT date_trunc('second', clock_timestamp()) + interval '5 minutes'});
	foreach my $overlap (@overlaps)
	{
		foreach my $catchup ('skip', 'once', 'all')
		{
			my $alone = $overlap eq 'allow' ? ', 0, false' : '';

			create("$catchup $overlap", 'every 10 minutes', "overlap => '$overlap', catchup => '$catchup'",
				"work(''$catchup $overlap''$alone)");
		}
	}

	# far more slots than get a row of their own, and more than wait at a time
	create('many once', 'every 1 second', q{catchup => 'once'});
	create('many skip', 'every 1 second', q{catchup => 'skip'});
	create('many all', 'every 1 minute', q{catchup => 'all', overlap => 'queue'});
	foreach my $catchup ('skip', 'once')
	{
		Jobs::as_worker(
			$node, $db, qq{
			SELECT etl_job_create('one-shot $catchup', to_char(now() AT TIME ZONE 'UTC' + interval '1 hour', '"at" YYYY-MM-DD"T"HH24:MI:SS'),
				'SELECT work(''one-shot $catchup'')', catchup => '$catchup')});
	}
	is($node->safe_psql($db, "SELECT count(*), count(*) FILTER (WHERE next_slot = '$start') FROM etl_patterns.job"),
		'17|15', "$with: all begin in five minutes, or in an hour");
	go_round();
	is($node->safe_psql($db, 'SELECT count(*) FROM etl_patterns.job_run'), 0, "$with: nothing is due yet");
	return;
}

sub check_catchup
{
	foreach my $overlap (@overlaps)
	{
		is(counts("skip $overlap"), '18 skipped missed', "$with: $overlap, skip: all were missed");
		is(counts("once $overlap"), '17 skipped missed, 1 succeeded -', "$with: $overlap, once: one has run");
		is(counts("all $overlap"), '18 succeeded -', "$with: $overlap, all: all have run");
		is($node->safe_psql($db, "SELECT slot = '$start'::timestamptz + interval '170 minutes' FROM effect WHERE job = 'once $overlap'"),
			't', "$with: $overlap, once: it was the latest one");
		next if $overlap eq 'allow';
		is( $node->safe_psql(
				$db, qq{
				SELECT count(*) FILTER (WHERE slot < slot_before), count(*) FILTER (WHERE began < end_before) FROM (
					SELECT *, lag(slot) OVER w AS slot_before, lag(ended) OVER w AS end_before
					FROM effect WHERE job = 'all $overlap' WINDOW w AS (ORDER BY began)) x}),
			'0|0', "$with: $overlap, all: in order, one after the other");
	}
	is($node->safe_psql($db, q{SELECT job, state, next_slot FROM etl_patterns.job WHERE job LIKE 'one-shot%' ORDER BY job}),
		"one-shot once|done|\none-shot skip|done|", "$with: one-shot: is done");
	is(counts('one-shot once'), '1 succeeded -', "$with: one-shot, once: better late than never");
	is(counts('one-shot skip'), '1 skipped missed', "$with: one-shot, skip");
	return;
}

# 10,800 seconds less five minutes, less one minute that is not missed.
sub check_many
{
	foreach my $job ('many once', 'many skip')
	{
		is( $node->safe_psql(
				$db, qq{
				SELECT count(*) FILTER (WHERE slots > 1), count(*) FILTER (WHERE slots = 1), sum(slots) BETWEEN 10400 AND 10600
				FROM etl_patterns.job_run WHERE job = '$job' AND reason = 'missed'}),
			'1|1000|t', "$with: $job: a thousand slots have rows, the older ones share one");
		is( $node->safe_psql(
				$db, qq{
				SELECT first_slot = '$start', slot = first_slot + (slots - 1) * interval '1 second'
				FROM etl_patterns.job_run WHERE job = '$job' AND slots > 1}),
			't|t', "$with: $job: which says from when to when");
	}
	is($node->safe_psql($db, q{SELECT status, count(*) BETWEEN 175 AND 180 FROM etl_patterns.job_run WHERE job = 'many all' GROUP BY 1}),
		'succeeded|t', "$with: many all: all have run, though not all could wait");
	return;
}

# Back by all that it was ahead: what has run is to come, and is not run again.
sub check_back
{
	my $runs;

	# those of each second would go on while we look
	Jobs::as_worker($node, $db, q{SELECT etl_job_drop(job) FROM etl_patterns.job WHERE job LIKE 'many%'});
	wait_for_slots();
	set_clock(0);
	go_round();
	$runs = $node->safe_psql($db, 'SELECT count(*) FROM etl_patterns.job_run');
	cmp_ok($node->safe_psql($db, 'SELECT count(*) FROM etl_patterns.job_run WHERE slot > clock_timestamp()'),
		'>', 1000, "$with, set back: slots to come have runs");
	go_round();
	is($node->safe_psql($db, 'SELECT count(*) FROM etl_patterns.job_run'), $runs, "$with, set back: nothing is due");

	Jobs::as_worker($node, $db, q{SELECT etl_job_run('once forbid')});
	go_round();
	Jobs::wait_until($node, $db, q{SELECT count(*) = 1 FROM etl_patterns.job_run WHERE origin = 'manual' AND status = 'succeeded'});
	pass("$with, set back: a run that is asked for runs");

	# resumed, a job begins with the next slot by the clock, which it had before
	Jobs::as_worker($node, $db, q{SELECT etl_job_pause('all queue'), etl_job_resume('all queue')});
	is($node->safe_psql($db, q{SELECT next_slot - start_at FROM etl_patterns.job WHERE job = 'all queue'}), '00:00:00',
		"$with, set back: a job that is resumed looks at its slots again");
	return;
}

# To where it was, and ten minutes on.
sub check_ahead
{
	set_clock(3 * 3600);
	go_round();
	wait_for_slots();
	check_slots('ahead again');
	foreach my $overlap (@overlaps)
	{
		is(counts("all $overlap"), '18 succeeded -', "$with, ahead again: $overlap: nothing new");
	}
	set_clock(3 * 3600 + 605);
	go_round();
	wait_for_slots();
	check_slots('ten minutes later');
	foreach my $overlap (@overlaps)
	{
		is(counts("all $overlap"), '19 succeeded -', "$with, ten minutes later: $overlap: one more slot has run");
	}
	return;
}

foreach ('scheduler', 'calls')
{
	$with = $_;
	$node = Jobs::new_node("job_clock_$with");
	if ($with eq 'calls')
	{
		$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
		$node->restart;
	}
	Jobs::new_database($node, $db);

	create_jobs();
	set_clock(3 * 3600, 'fast');
	wait_for_slots();
	check_catchup();
	check_many();
	check_slots('three hours later');
	check_back();
	check_ahead();
	$node->stop;
}
done_testing();
