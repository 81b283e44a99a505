# Schedules against two oracles (schedule_oracle.py), and against noise.

package Schedule;

use strict;
use warnings;

use File::Basename qw(dirname);
use PostgreSQL::Test::Utils;
use Test::More;

my $python;
my $has_croniter;

# A Python with zoneinfo, better with croniter, which Debian has for its own.
sub find_python
{
	foreach my $wanted ('zoneinfo, croniter', 'zoneinfo')
	{
		foreach my $program ('/usr/bin/python3', 'python3')
		{
			next if system("$program -c 'import $wanted' >/dev/null 2>&1") != 0;
			($python, $has_croniter) = ($program, $wanted =~ /croniter/);
			return;
		}
	}
	return;
}

sub setup
{
	my ($node) = @_;

	find_python();
	$node->safe_psql(
		'postgres', q{
		CREATE EXTENSION etl_patterns;
		CREATE TABLE cases (oracle text, schedule text, zone text, after timestamptz,
			until timestamptz, slots timestamptz[]);
		CREATE TABLE noise (schedule text);

		-- What is said to a schedule that is refused.
		CREATE FUNCTION refusal(schedule text, OUT code text, OUT message text, OUT detail text)
		LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM etl_schedule_next_runs(schedule, 0);
		EXCEPTION WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
				detail = PG_EXCEPTION_DETAIL;
		END $$;

		-- The clock of jobs is that of the server, and so many seconds.
		CREATE FUNCTION set_clock(t timestamptz) RETURNS void LANGUAGE sql AS $$
			SELECT set_config('etl_patterns.clock_offset',
				ceil(extract(epoch FROM t - clock_timestamp()))::int::text, false)
		$$;

		-- The slots of a job, up to a moment, that is created when the clock
		-- shows "after", or a year before with a start then: those later than
		-- "first".  Are they the same whatever the clock shows?
		CREATE FUNCTION job_slots(c cases, by_start boolean,
			OUT ours timestamptz[], OUT first timestamptz, OUT steady boolean)
		LANGUAGE plpgsql AS $$
		DECLARE
			now timestamptz := CASE WHEN by_start THEN c.after - interval '1 year' ELSE c.after END;
			shift interval;
		BEGIN
			ours := '{}';
			first := c.after;
			steady := true;
			PERFORM set_clock(now);
			BEGIN
				PERFORM etl_job_create('case', c.schedule, 'SELECT 1', c.zone,
					start_at => CASE WHEN by_start THEN c.after + interval '1 microsecond' END);
			EXCEPTION WHEN invalid_parameter_value THEN
				RETURN;  -- it has no slots
			END;
			IF NOT by_start THEN
				SELECT greatest(c.after, created_at) INTO first FROM etl_patterns.job WHERE job = 'case';
			END IF;
			SELECT coalesce(array_agg(s), '{}') INTO ours
			FROM etl_job_next_runs('case', cardinality(c.slots) + 1) s WHERE s <= c.until;
			FOREACH shift IN ARRAY '{400 days,2 hours,-2 hours,-400 days}'::interval[] LOOP
				PERFORM set_clock(now + shift);
				steady := steady AND ours = (SELECT coalesce(array_agg(s), '{}')
					FROM etl_job_next_runs('case', cardinality(c.slots) + 1) s WHERE s <= c.until);
			END LOOP;
			PERFORM etl_job_drop('case');
		END $$;
	});
	return;
}

# Put lines into a table, by COPY.
sub fill
{
	my ($node, $table, $path) = @_;

	$node->safe_psql('postgres', "SET timezone = 'UTC'; TRUNCATE $table; COPY $table FROM '$path'");
	return;
}

# So many random schedules of each oracle.
sub run_oracles
{
	my ($node, $seed, $cases) = @_;
	my $path = PostgreSQL::Test::Utils::tempdir() . '/cases';

  SKIP:
	{
		skip 'python3 with zoneinfo is not installed', 1 unless $python;
		system("$python " . dirname(__FILE__) . "/schedule_oracle.py $seed $cases >$path") == 0
		  or die 'schedule_oracle.py failed';
		fill($node, 'cases', $path);
		foreach my $oracle ('croniter', 'rule')
		{
		  SKIP:
			{
				skip 'python3-croniter is not installed', 4 if $oracle eq 'croniter' && !$has_croniter;
				check_oracle($node, $oracle, $seed, $cases);
				check_jobs($node, $oracle, $seed);
			}
		}
		is( $node->safe_psql(
				'postgres', q{
				SELECT schedule FROM cases WHERE oracle = 'refused'
				AND (refusal(schedule)).message IS DISTINCT FROM 'invalid schedule: no year has such a day'}),
			'',
			"seed $seed: days that no year has are refused");
	}
	return;
}

# The slots up to a moment, and each slot alone.
sub check_oracle
{
	my ($node, $oracle, $seed, $cases) = @_;
	my $where = "oracle = '$oracle'";

	cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM cases WHERE $where"),
		'>=', $cases, "seed $seed: schedules of oracle $oracle");
	is( $node->safe_psql(
			'postgres', qq{
			SET timezone = 'UTC';
			SELECT schedule, zone, after, until, slots, ours FROM cases, LATERAL (
				SELECT coalesce(array_agg(s), '{}') AS ours
				FROM etl_schedule_next_runs(schedule, cardinality(slots) + 1, zone, after) s
				WHERE s <= until) x
			WHERE $where AND ours <> slots LIMIT 5}),
		'',
		"seed $seed: the slots that oracle $oracle has");
	is( $node->safe_psql(
			'postgres', qq{
			SET timezone = 'UTC';
			SELECT schedule, zone, slot FROM cases, unnest(slots) slot
			WHERE $where AND slot IS DISTINCT FROM (
				SELECT etl_schedule_next_runs(schedule, 1, zone, slot - interval '1 microsecond'))
			LIMIT 5}),
		'',
		"seed $seed: each of them from the moment before it, oracle $oracle");
	return;
}

# The same slots by way of jobs.
sub check_jobs
{
	my ($node, $oracle, $seed) = @_;

	is( $node->safe_psql(
			'postgres', qq{
			SET timezone = 'UTC';
			SELECT schedule, zone, after, until, slots, by_start, j.* FROM (
				SELECT c AS c, c.*, schedule !~ 'every' AND hashtext(schedule) % 2 = 0 AS by_start FROM cases c
				WHERE oracle = '$oracle') x, job_slots(c, by_start) j
			WHERE ours <> (SELECT coalesce(array_agg(s), '{}') FROM unnest(slots) s WHERE s > first)
				OR NOT steady LIMIT 5}),
		'',
		"seed $seed: the slots of jobs, oracle $oracle, whatever the clock shows");
	return;
}

# Changes of zones as these schedules see them while jobs run: the moment that
# the clock starts at, and what it walks over.
my @walks = (
	[ '2026-03-28 12:00+00', 'Europe/Berlin', '30 2 * * *', '0 2,3 * * *', '30 * * * *', '*/30 2 * * *', 'every 45 minutes' ],
	[ '2026-10-24 12:00+00', 'Europe/Berlin', '30 2 * * *', '0 2,3 * * *', '30 * * * *', '*/30 2 * * *', '@daily' ],
	[ '2026-04-04 06:00+00', 'Australia/Lord_Howe', '45 1 * * *', '15,45 * * * *', '0 2 5 4 *' ],
	[ '2011-12-29 20:00+00', 'Pacific/Apia', '0 12 * * *', '0 */6 * * *', '0 0 30 12 *' ],
	[ '2028-02-28 06:00+00', 'America/New_York', '0 0 29 2 *', '0 12 L * *', 'at 2028-02-29 13:00' ]);

# The clock walks over a change, with leaps and steps back, while jobs run: each
# slot is run once.
sub run_walks
{
	my ($node, $seed) = @_;

	srand($seed);
	foreach my $walk (@walks)
	{
		my ($start, $zone, @schedules) = @$walk;
		my $script = "SET timezone = 'UTC'; SELECT set_clock('$start');\n";
		my $hours = 0;

		foreach my $schedule (@schedules)
		{
			$script .= "SELECT etl_job_create('$schedule', '$schedule', 'SELECT 1', '$zone', overlap => 'queue', catchup => 'all');\n";
		}
		while ($hours < 48)
		{
			$hours += rand() < 0.3 ? -3 * rand : 5 * rand;
			$hours = 48 if $hours > 48;
			$script .= "SELECT set_clock(timestamptz '$start' + $hours * interval '1 hour'); CALL etl_run_due_jobs();\n";
		}
		$node->safe_psql('postgres', $script);
		is( $node->safe_psql(
				'postgres', qq{
				SET timezone = 'UTC';
				WITH wanted AS (
					SELECT job, s AS slot FROM etl_patterns.job,
						etl_schedule_next_runs(schedule, 200, timezone, created_at) s
					WHERE s <= timestamptz '$start' + interval '48 hours')
				SELECT job, slot, status FROM wanted FULL JOIN etl_patterns.job_run USING (job, slot)
				WHERE status IS DISTINCT FROM 'succeeded'
				UNION ALL
				SELECT job, NULL, 'none' FROM etl_patterns.job WHERE job NOT IN (SELECT job FROM etl_patterns.job_run)
				UNION ALL
				SELECT job, slot, 'twice' FROM etl_patterns.job_run GROUP BY job, slot HAVING count(*) > 1}),
			'',
			"seed $seed: each slot runs once while the clock walks from $start in $zone");
		$node->safe_psql('postgres',
			'SELECT etl_job_drop(job) FROM etl_patterns.job; DELETE FROM etl_patterns.job_run');
	}
	return;
}

my @pieces = (
	split(' ', q{* */ , - / L l 5L friL @ @daily @reboot every at after on file: on file:/x every_
		jan dec sun FRI 0 1 5 7 9 12 23 24 31 59 60 99999999999999999999 1-5 5-1 */0 */5 0-59/7
		2030-01-31 18:00 24:00 +01 +16:00 Z T P1D PT1H 1.5 seconds months ago infinity now # ? é 日
		" % \\\\\\\\}),
	' ', ' ', ' ', ' * *', ' * * *', '\t', '\n', ' 10 minutes', "\x01", "\x7f");

sub noise
{
	return join '', map { $pieces[ rand @pieces ] } 1 .. 1 + rand 10 if rand() < 0.7;
	return join '', map { my $c = chr(32 + rand 95); $c eq '\\' ? '/' : $c } 1 .. rand 40;
}

# Texts of pieces of schedules, and of anything: most are refused.
sub run_noise
{
	my ($node, $seed, $cases) = @_;
	my $path = PostgreSQL::Test::Utils::tempdir() . '/noise';

	srand($seed);
	open my $file, '>:raw', $path or die "could not write $path: $!";
	print $file noise(), "\n" foreach 1 .. $cases;
	print $file $_ x 5000, "\n" foreach '0,', '* ', 'every 1 second ', 'on file:/', 'L';
	close $file or die "could not write $path: $!";
	fill($node, 'noise', $path);

	my $kinds = $node->safe_psql(
		'postgres', q{
		CREATE TEMP TABLE refused AS SELECT schedule, r.* FROM noise, refusal(schedule) r;
		SELECT count(*) FILTER (WHERE code IS NULL) > 0, count(DISTINCT message) > 30,
			string_agg(format('%s: %s %s', schedule, code, message), E'\n') FILTER (WHERE
				code <> '22023' OR message !~ '^invalid schedule: ' OR detail !~ '^(At|No day)'
				OR substring(detail from '^At character (\d+) of')::int NOT BETWEEN 1 AND length(schedule))
		FROM refused;
	});
	is($kinds, 't|t|', "seed $seed: what is no schedule is refused, each with its place");
	is( $node->safe_psql(
			'postgres', q{
			SELECT schedule, slots FROM noise, LATERAL (
				SELECT array_agg(s) AS slots FROM etl_schedule_next_runs(schedule, 5,
					'Europe/Berlin', '2026-03-28 12:00+01') s) x
			WHERE (refusal(schedule)).code IS NULL AND (slots[1] <= '2026-03-28 12:00+01'
				OR slots <> (SELECT array_agg(DISTINCT s) FROM unnest(slots) s))}),
		'',
		"seed $seed: slots of the others grow");
	return;
}

1;
