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
				skip 'python3-croniter is not installed', 3 if $oracle eq 'croniter' && !$has_croniter;
				check_oracle($node, $oracle, $seed, $cases);
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
