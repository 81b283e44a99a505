# The clock of jobs is set ahead and back, and the server is down meanwhile:
# "catchup" decides about the slots that were missed, each of them is accounted
# for, and none has two runs.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Jobs;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = Jobs::new_node('job_clock');
my $db = 'postgres';
Jobs::new_database($node, $db);

# Sets the clock ahead by so many seconds, with the server down meanwhile or not.
sub set_clock
{
	my ($offset, $down) = @_;

	$node->stop($down) if $down;
	$node->append_conf('postgresql.conf', "etl_patterns.clock_offset = $offset");
	$down ? $node->start : $node->reload;
	Jobs::wait_until($node, $db, "SELECT setting = '$offset' FROM pg_settings WHERE name = 'etl_patterns.clock_offset'");
	return;
}

# Slots every ten minutes, of which the first is five minutes after the clock of
# jobs is now: three hours later there were 18, the last one five minutes ago.
my $minutes = 10;
my $start = $node->safe_psql($db, q{SELECT date_trunc('second', clock_timestamp()) + interval '5 minutes'});

sub create
{
	my ($job, $every, $options, $work) = @_;

	$work //= "work(''$job'')";
	Jobs::as_worker($node, $db, "SELECT etl_job_create('$job', '$every', 'SELECT $work', start_at => '$start', $options)");
	return;
}

foreach my $overlap ('forbid', 'queue', 'allow', 'replace')
{
	foreach my $catchup ('skip', 'once', 'all')
	{
		my $job = "$catchup $overlap";
		my $alone = $overlap eq 'allow' ? ', 0, false' : '';

		create($job, "every $minutes minutes", "overlap => '$overlap', catchup => '$catchup'", "work(''$job''$alone)");
	}
}

# Many slots: 10,800 seconds less five minutes.
create('many once', 'every 1 second', q{catchup => 'once'});
create('many skip', 'every 1 second', q{catchup => 'skip'});
# More runs than may wait at a time.
create('many all', 'every 1 minute', q{catchup => 'all'});
# A day has one slot, at most, and "at" just one.
Jobs::as_worker($node, $db, q{
	SELECT etl_job_create('one-shot once', 'at ' || to_char(now() AT TIME ZONE 'UTC' + interval '1 hour', 'YYYY-MM-DD"T"HH24:MI:SS'), 'SELECT work(''one-shot once'')');
	SELECT etl_job_create('one-shot skip', 'at ' || to_char(now() AT TIME ZONE 'UTC' + interval '1 hour', 'YYYY-MM-DD"T"HH24:MI:SS'), 'SELECT work(''one-shot skip'')', catchup => 'skip')});

Jobs::wait_until($node, $db, q{SELECT count(*) = 1 FROM etl_scheduler_status() WHERE jobs = (SELECT count(*) FROM etl_patterns.job)});
is($node->safe_psql($db, 'SELECT count(*) FROM etl_patterns.job_run'), 0, 'nothing is due');
is($node->safe_psql($db, "SELECT count(*) FROM etl_patterns.job WHERE next_slot <> '$start'"), 2, 'all begin in five minutes');

# ---------------------------------------------------------------------------
# Down for three hours
# ---------------------------------------------------------------------------

# Slots of the last minute are on time: those of seconds go on as we look, so
# that only what was missed is counted.
sub counts
{
	my ($job) = @_;

	return $node->safe_psql($db, qq{SELECT string_agg(format('%s %s %s', n, status, reason), ', ' ORDER BY status, reason) FROM (
		SELECT status, coalesce(reason, '-') AS reason, sum(slots) AS n FROM etl_patterns.job_run WHERE job = '$job' GROUP BY 1, 2) x});
}

# No slot that is past is unclaimed, and no run unfinished.
sub wait_for_slots
{
	Jobs::wait_until($node, $db, q{
		SELECT count(*) = 0 FROM etl_patterns.job
		WHERE next_slot <= clock_timestamp() + current_setting('etl_patterns.clock_offset')::interval - interval '3 seconds'},
		'all slots are claimed');
	Jobs::wait_until($node, $db, q{SELECT count(*) = 0 FROM unfinished WHERE job NOT LIKE 'many%' OR slot < clock_timestamp()
		+ current_setting('etl_patterns.clock_offset')::interval - interval '3 seconds'}, 'all runs have ended');
	return;
}

# Every slot from the first on has one row, alone or with others.
sub check_slots
{
	my ($what) = @_;

	is( $node->safe_psql($db, q{
			SELECT job, s, count(r.job_run_id) FROM etl_patterns.job j CROSS JOIN LATERAL (
				SELECT generate_series(j.start_at, j.next_slot - interval '1 microsecond', substring(j.schedule FROM 'every (.*)')::interval) AS s
				WHERE j.schedule LIKE 'every%') x
			LEFT JOIN etl_patterns.job_run r ON r.job_id = j.job_id AND r.origin = 'schedule' AND s BETWEEN coalesce(r.first_slot, r.slot) AND r.slot
			GROUP BY 1, 2, j.job HAVING count(r.job_run_id) <> 1 LIMIT 5} =~ s/SELECT job, s/SELECT j.job, s/r),
		'', "$what: each slot has one row");
	is( $node->safe_psql($db, q{SELECT job, slot FROM etl_patterns.job_run WHERE status = 'skipped'
			AND slots <> 1 + extract(epoch FROM slot - coalesce(first_slot, slot)) LIMIT 5}),
		'', "$what: rows that stand for many slots say how many");
	is( $node->safe_psql($db, q{SELECT job, slot FROM effect GROUP BY 1, 2 HAVING count(*) > 1}), '', "$what: no slot ran twice");
	is( $node->safe_psql($db, q{SELECT count(*) FROM effect e FULL JOIN (SELECT * FROM etl_patterns.job_run WHERE status = 'succeeded') r
			USING (job_run_id) WHERE e.job IS NULL OR r.job IS NULL OR e.slot <> r.slot}), 0, "$what: runs and effects agree");
	is( $node->safe_psql($db, q{SELECT job, status, error_message FROM etl_patterns.job_run WHERE status IN ('failed', 'lost', 'stopped')}),
		'', "$what: no run went wrong");
	return;
}

set_clock(3 * 3600, 'fast');
wait_for_slots();
foreach my $overlap ('forbid', 'queue', 'allow', 'replace')
{
	is(counts("skip $overlap"), '18 skipped missed', "$overlap, skip: all were missed");
	is(counts("once $overlap"), '17 skipped missed, 1 succeeded -', "$overlap, once: one was run");
	is(counts("all $overlap"), '18 succeeded -', "$overlap, all: all were run");
	is($node->safe_psql($db, "SELECT slot = '$start'::timestamptz + interval '170 minutes' FROM effect WHERE job = 'once $overlap'"),
		't', "$overlap, once: it was the latest one");
	next if $overlap eq 'allow';
	is($node->safe_psql($db, qq{SELECT string_agg(slot::text, ' ' ORDER BY began) = string_agg(slot::text, ' ' ORDER BY slot),
			count(*) FILTER (WHERE began < before) FROM (SELECT *, lag(ended) OVER (ORDER BY began) AS before FROM effect WHERE job = 'all $overlap') x}),
		't|0', "$overlap, all: in order, one after the other");
}
is($node->safe_psql($db, q{SELECT job, state, next_slot FROM etl_patterns.job WHERE job LIKE 'one-shot%' ORDER BY job}),
	"one-shot once|done|\none-shot skip|done|", 'one-shot: is done');
is(counts('one-shot once'), '1 succeeded -', 'one-shot: late is better than never');
is(counts('one-shot skip'), '1 skipped missed', 'one-shot: or not');

foreach my $job ('many once', 'many skip')
{
	is($node->safe_psql($db, qq{SELECT count(*) FILTER (WHERE slots > 1), count(*) FILTER (WHERE slots = 1) BETWEEN 999 AND 1000,
			sum(slots) BETWEEN 10400 AND 10600 FROM etl_patterns.job_run WHERE job = '$job' AND reason = 'missed'}),
		'1|t|t', "$job: a thousand slots have rows, the older ones share one");
	is($node->safe_psql($db, qq{SELECT first_slot = '$start', slot = first_slot + (slots - 1) * interval '1 second'
			FROM etl_patterns.job_run WHERE job = '$job' AND slots > 1}), 't|t', "$job: which says from when to when");
}
is($node->safe_psql($db, q{SELECT status, count(*) BETWEEN 175 AND 180 FROM etl_patterns.job_run WHERE job = 'many all' GROUP BY 1}),
	'succeeded|t', 'many all: all were run');
check_slots('three hours');

# ---------------------------------------------------------------------------
# The clock steps
# ---------------------------------------------------------------------------

# Back, by all that it was ahead: slots that were claimed are not claimed again.
my $before = $node->safe_psql($db, q{SELECT max(job_run_id) FROM etl_patterns.job_run WHERE job NOT LIKE 'many%'});
my $heartbeat = sub {
	my $from = $node->safe_psql($db, 'SELECT max(heartbeat) FROM etl_scheduler_status()');
	Jobs::wait_until($node, $db, "SELECT max(heartbeat) > '$from'::timestamptz + interval '2 seconds' FROM etl_scheduler_status()", 'the scheduler goes round');
};
set_clock(0);
my $runs = $node->safe_psql($db, 'SELECT count(*) FROM etl_patterns.job_run WHERE slot > clock_timestamp()');
cmp_ok($runs, '>', 1000, 'set back: there are runs of slots to come');
Jobs::wait_until($node, $db, 'SELECT count(*) = 0 FROM unfinished');
$runs = $node->safe_psql($db, 'SELECT count(*) FROM etl_patterns.job_run');
$heartbeat->();
is($node->safe_psql($db, 'SELECT count(*) FROM etl_patterns.job_run'), $runs, 'set back: nothing is due');

# What is asked for runs now, whatever the clock was.
Jobs::as_worker($node, $db, q{SELECT etl_job_run('once forbid')});
Jobs::wait_until($node, $db, q{SELECT count(*) = 1 FROM etl_patterns.job_run WHERE origin = 'manual' AND status = 'succeeded'});
pass('set back: a run that is asked for runs');

# Resumed, a job begins with the next slot by the clock: those that it had are
# passed over.
Jobs::as_worker($node, $db, q{SELECT etl_job_pause('once queue'); SELECT etl_job_resume('once queue')});

# Ahead again, without a restart: a step to where it was, then on by ten minutes.
set_clock(3 * 3600);
wait_for_slots();
check_slots_but_resumed('ahead again');
is(counts('once forbid') =~ s/, 1 succeeded -$//r, counts('once forbid') =~ s/, 1 succeeded -$//r, 'ahead again: nothing new');
set_clock(3 * 3600 + 605);
wait_for_slots();
foreach my $overlap ('forbid', 'queue', 'allow', 'replace')
{
	is($node->safe_psql($db, "SELECT count(*), count(DISTINCT slot) FROM effect WHERE job = 'all $overlap'"), '19|19',
		"$overlap, all: one more slot has run");
}
check_slots_but_resumed('ten minutes later');

# A job that was resumed while the clock was back has looked at slots that were
# there already.
sub check_slots_but_resumed
{
	my ($what) = @_;

	is($node->safe_psql($db, q{SELECT slot, attempt, count(*) FROM etl_patterns.job_run WHERE job = 'once queue' GROUP BY 1, 2 HAVING count(*) > 1}),
		'', "$what: resumed, no slot has two rows");
	check_slots($what);
	return;
}

$node->stop;
done_testing();
