# Whatever is killed, and whenever: rows, watermark, flags and run of a pull are
# all there or all not, and pulling again gives the rows of the source once.
#
# Pulls stop where a CHECK constraint of the target waits for an advisory lock
# that the test holds, at a given row; or while they wait for a writer; or at
# their end, before the commit.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Restart;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('pull_crash');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', "restart_after_crash = on\nmax_prepared_transactions = 5\n");
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION etl_patterns;
	CREATE FUNCTION wait_at(id bigint) RETURNS boolean LANGUAGE plpgsql AS $$
		BEGIN
			IF id::text = current_setting('test.stop', true) THEN
				PERFORM pg_advisory_xact_lock_shared(1);
			END IF;
			RETURN true;
		END $$;
	CREATE FUNCTION fail_at() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE 'no row % here', NEW.id; END $$;
});

# What is pulled, and in which way.
my %kinds = (
	append => q{cursor_column => 'id', safety => 'lock_wait'},
	append_keys => q{cursor_column => 'id', safety => 'lock_wait', keys => '{id}'},
	horizon => q{cursor_column => 'at', safety => 'horizon'},
	upsert => q{cursor_column => 'at', safety => 'horizon', apply => 'upsert', keys => '{id}'},
	scd2 => q{cursor_column => 'at', safety => 'horizon', apply => 'scd2', keys => '{id}', apply_options => '{"sequence_by": "at"}'},
	flags => q{flag_column => 'changed', apply => 'upsert', keys => '{id}'});

# Rows that a kind's first and second pull bring; old rows change as well where
# the kind sees that.
my ($first, $second) = (2000, 4000);
my $number = 0;

# A new source and target with the rows of a first pull in both, and more rows
# in the source.
sub fresh
{
	my ($kind, $more) = @_;
	my $case = { kind => $kind, table => 'target_' . ++$number, source => "source_$number" };

	$case->{changes} = $kind =~ /upsert|scd2|flags/;
	$case->{pull} = "SELECT * FROM etl_incremental_pull('$case->{table}', '$case->{source}', '$case->{table}', $kinds{$kind}"
	  . ($more // '') . ")";
	$node->safe_psql('postgres', qq{
		CREATE TABLE $case->{source} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, price int, at timestamptz, changed boolean DEFAULT true);
		INSERT INTO $case->{source} (price, at) SELECT i, '2024-01-01'::timestamptz + i * interval '1 second' FROM generate_series(1, $first) i;
		CREATE TABLE $case->{table} (id bigint CHECK (wait_at(id)), price int}
		  . ($kind eq 'scd2' ? ', valid_from timestamptz, valid_to timestamptz, is_current boolean' : ', at timestamptz') . qq{);
		CREATE INDEX ON $case->{table} (id);
		$case->{pull};
		INSERT INTO $case->{source} (price, at) SELECT i, '2024-01-02'::timestamptz + i * interval '1 second' FROM generate_series(1, $second) i;});
	$node->safe_psql('postgres', qq{
		UPDATE $case->{source} SET price = -price, at = '2024-01-03'::timestamptz + id * interval '1 second', changed = true WHERE id % 4 = 1 AND id <= $first;})
	  if $case->{changes};
	$case->{before} = state($case);
	return $case;
}

# All that a pull changes.
sub state
{
	my ($case) = @_;

	return $node->safe_psql('postgres', qq{SELECT
		(SELECT md5(string_agg(t::text, ' ' ORDER BY t::text)) || ' ' || count(*) FROM $case->{table} t),
		(SELECT w::text FROM etl_patterns.watermark w WHERE pipeline = '$case->{table}'),
		(SELECT count(*) || ' ' || sum(rows_read) FROM etl_patterns.run WHERE name = '$case->{table}'),
		(SELECT count(*) FROM $case->{source} WHERE changed)});
}

# Sessions: one that holds the lock, and one that pulls and stops.
sub start_pull
{
	my ($case, $stop, $call) = @_;
	my $holder = $node->background_psql('postgres', on_error_stop => 0);
	my $puller = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $puller->query_safe('SELECT pg_backend_pid()');

	$holder->query_safe('SELECT pg_advisory_lock(1)');
	if ($stop eq 'wait')
	{
		$holder->query_safe("BEGIN; INSERT INTO $case->{source} (price, at) VALUES (0, '2024-01-01')");
		$node->safe_psql('postgres', "INSERT INTO $case->{source} (price, at) VALUES (0, '2024-01-04')");
		$case->{before} = state($case);
	}
	$puller->query_safe("SET test.stop = '$stop'");
	$call //= "BEGIN; $case->{pull}; SELECT pg_advisory_xact_lock_shared(1);\n";
	$puller->query_until(qr/started/, "\\echo started\n$call");
	if ($stop eq 'wait')
	{
		pump_until($puller->{run}, $puller->{timeout}, \$puller->{stderr}, qr/NOTICE/) or die 'no notice';
		like($puller->{stderr}, qr/NOTICE.*\n/, "$case->{kind}: waits for a writer");
	}
	else
	{
		$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $pid
			AND wait_event_type = 'Lock' AND wait_event = 'advisory'") or die "the pull did not stop: $puller->{stderr}";
	}
	return ($holder, $puller, $pid);
}

sub end_session
{
	foreach my $session (@_)
	{
		eval { $session->{run}->kill_kill; 1 };
	}
}

# Pull until nothing is left: then the target is the source.
sub check_rerun
{
	my ($case, $what) = @_;
	my $count = $first + $second + ($what =~ /wait/ ? 1 : 0);
	my $read = $second + ($case->{changes} ? $first / 4 : 0) + ($what =~ /wait/ ? 1 : 0);
	my $counts = $case->{pull} =~ s/\*/rows_read, more/r;

	is($node->safe_psql('postgres', $counts), "$read|f", "$what: pulling again reads it all");
	is($node->safe_psql('postgres', $counts), '0|f', "$what: and then nothing");
	check_equal($case, $what);
	return;
}

sub check_equal
{
	my ($case, $what) = @_;
	my ($truth, $target) = ("SELECT id, price, at FROM $case->{source}", "SELECT id, price, at FROM $case->{table}");

	$target = "SELECT id, price, valid_from AS at FROM $case->{table} WHERE is_current AND valid_to IS NULL" if $case->{kind} eq 'scd2';
	is( $node->safe_psql('postgres', "SELECT count(*) FROM (($truth EXCEPT ALL $target) UNION ALL ($target EXCEPT ALL $truth)) x"),
		0, "$what: the target is the source");
	is( $node->safe_psql('postgres', "SELECT count(*) = (SELECT sum(rows_inserted) FROM etl_patterns.run WHERE name = '$case->{table}')
		FROM $case->{table}"), 't', "$what: runs say what is there") unless $case->{kind} eq 'scd2';
	is($node->safe_psql('postgres', "SELECT * FROM etl_scd2_verify('$case->{table}', '{id}')"), '', "$what: a sound history")
	  if $case->{kind} eq 'scd2';
	is($node->safe_psql('postgres', "SELECT count(*) FROM $case->{source} WHERE changed"), 0, "$what: no flag is left")
	  if $case->{kind} eq 'flags';
	return;
}

# One backend is killed, and all others with it; or the server goes.
sub crash
{
	my ($how, $pid, @sessions) = @_;

	if ($how eq 'killed')
	{
		Restart::kill_process($node, $pid);
		end_session(@sessions);
	}
	else
	{
		$node->stop('immediate');
		end_session(@sessions);
		$node->start;
	}
	return;
}

# ---------------------------------------------------------------------------
# In the middle of a pull
# ---------------------------------------------------------------------------

my $middle = $first + $second / 2;
my @places = (
	[ 'killed', 'append', 'wait', $first + 1, $middle, $first + $second, 'end' ],
	[ 'killed', 'append_keys', $middle, 'end' ],
	[ 'killed', 'upsert', $middle, 'end' ],
	[ 'killed', 'scd2', $middle, 'end' ],
	[ 'killed', 'flags', $middle, 'end' ],
	[ 'stopped', 'append', $middle ],
	[ 'stopped', 'horizon', 'end' ],
	[ 'stopped', 'scd2', 'end' ],
	[ 'stopped', 'flags', $middle ]);

foreach (@places)
{
	my ($how, $kind, @stops) = @$_;

	foreach my $stop (@stops)
	{
		my $what = "$kind, $how at $stop";
		my $case = fresh($kind);
		my ($holder, $puller, $pid) = start_pull($case, $stop);

		crash($how, $pid, $holder, $puller);
		is(state($case), $case->{before}, "$what: all is as before");
		check_rerun($case, $what);
	}
}

# The client goes, its transaction open; a pull is cancelled, and the session
# goes on.
foreach my $kind ('append', 'upsert', 'flags')
{
	my $case = fresh($kind);
	my ($holder, $puller, $pid) = start_pull($case, 'end');

	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid") or die 'not terminated';
	is(state($case), $case->{before}, "$kind, terminated: all is as before");
	end_session($holder, $puller);
	$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory'") or die 'still locked';

	($holder, $puller, $pid) = start_pull($case, $middle, "$case->{pull};\n");
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
	$node->poll_query_until('postgres', "SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $pid") or die 'not cancelled';
	is(state($case), $case->{before}, "$kind, cancelled: all is as before");
	$puller->query('RESET test.stop');
	$puller->{stderr} = '';
	like($puller->query($case->{pull} =~ s/\*/rows_read > 0/r), qr/^t$/m, "$kind, cancelled: the same session pulls");
	end_session($holder, $puller);
	check_equal($case, "$kind, cancelled");
}

# ---------------------------------------------------------------------------
# Between the batches of a drain
# ---------------------------------------------------------------------------

foreach my $how ('killed', 'stopped')
{
	my $case = fresh('append', ', batch_rows => 500');

	# the first call has brought 500 rows: stop in the fourth batch from there
	my ($holder, $puller, $pid) = start_pull($case, 2250, "CALL etl_incremental_drain('$case->{table}');\n");
	crash($how, $pid, $holder, $puller);
	is( $node->safe_psql('postgres', qq{SELECT (SELECT count(*) || ' ' || max(id) FROM $case->{table}), etl_watermark_get('$case->{table}'),
			(SELECT count(*) || ' ' || sum(rows_inserted) FROM etl_patterns.run WHERE name = '$case->{table}')}),
		'2000 2000|2000|4 2000', "drain, $how: whole batches are there");
	$node->safe_psql('postgres', "CALL etl_incremental_drain('$case->{table}')");
	check_equal($case, "drain, $how");
	is($node->safe_psql('postgres', "SELECT etl_watermark_get('$case->{table}')"), $first + $second, "drain, $how: the watermark is that of the source");
}

# The same for flags, which are cleared batch by batch.
{
	my $case = fresh('flags', ', batch_rows => 500');
	my ($holder, $puller, $pid) = start_pull($case, $first + $second, "CALL etl_incremental_drain('$case->{table}');\n");

	crash('killed', $pid, $holder, $puller);
	is( $node->safe_psql('postgres', qq{SELECT count(*) FROM $case->{source} s
			WHERE changed = EXISTS (SELECT FROM $case->{table} t WHERE (t.id, t.price, t.at) = (s.id, s.price, s.at))}),
		0, 'drain of flags, killed: a flag is set where the row is not there');
	$node->safe_psql('postgres', "CALL etl_incremental_drain('$case->{table}')");
	check_equal($case, 'drain of flags, killed');
}

# What is lost because commits were not waited for is lost whole.
{
	my $case = fresh('append', ', batch_rows => 50');

	$node->safe_psql('postgres', "SET synchronous_commit = off; CALL etl_incremental_drain('$case->{table}', max_batches => 40)");
	$node->stop('immediate');
	$node->start;
	is( $node->safe_psql('postgres', qq{SELECT max(id) = count(*), max(id)::text = etl_watermark_get('$case->{table}'),
			count(*) = (SELECT sum(rows_inserted) FROM etl_patterns.run WHERE name = '$case->{table}') FROM $case->{table}}),
		't|t|t', 'without synchronous commits: rows, watermark and runs agree');
	$node->safe_psql('postgres', "CALL etl_incremental_drain('$case->{table}')");
	check_equal($case, 'without synchronous commits');
}

# ---------------------------------------------------------------------------
# A target that fails
# ---------------------------------------------------------------------------

foreach my $kind (sort keys %kinds)
{
	my $case = fresh($kind);

	foreach my $trigger ("TRIGGER fails BEFORE", "TRIGGER fails AFTER", "CONSTRAINT TRIGGER fails AFTER")
	{
		my $deferred = $trigger =~ /CONSTRAINT/ ? 'DEFERRABLE INITIALLY DEFERRED' : '';

		$node->safe_psql('postgres',
			"CREATE $trigger INSERT ON $case->{table} $deferred FOR EACH ROW WHEN (NEW.id = $middle) EXECUTE FUNCTION fail_at()");
		my ($status, $stdout, $stderr) = $node->psql('postgres', $case->{pull});
		like($stderr, qr/ERROR:  no row $middle here/, "$kind, $trigger: the error is shown");
		is(state($case), $case->{before}, "$kind, $trigger: all is as before");
		$node->safe_psql('postgres', "DROP TRIGGER fails ON $case->{table}");
	}
	check_rerun($case, "$kind, failing triggers");
}

{
	my $case = fresh('append', ', batch_rows => 500');

	$node->safe_psql('postgres',
		"CREATE TRIGGER fails AFTER INSERT ON $case->{table} FOR EACH ROW WHEN (NEW.id = 2250) EXECUTE FUNCTION fail_at()");
	my ($status, $stdout, $stderr) = $node->psql('postgres', "CALL etl_incremental_drain('$case->{table}')");
	like($stderr, qr/ERROR:  no row 2250 here/, 'drain: the error of a batch is shown');
	is( $node->safe_psql('postgres', qq{SELECT (SELECT count(*) || ' ' || max(id) FROM $case->{table}), etl_watermark_get('$case->{table}')}),
		'2000 2000|2000', 'drain: the batches before it are there');
	$node->safe_psql('postgres', "DROP TRIGGER fails ON $case->{table}; CALL etl_incremental_drain('$case->{table}')");
	check_equal($case, 'drain after an error');
}

# ---------------------------------------------------------------------------
# A pull that is prepared
# ---------------------------------------------------------------------------

foreach my $kind (sort keys %kinds)
{
	my $case = fresh($kind);
	my $restarts = $kind eq 'append' || $kind eq 'flags';

	foreach my $end ('ROLLBACK', 'COMMIT')
	{
		my $what = "$kind, prepared" . ($restarts ? ', after a crash' : '');

		$node->safe_psql('postgres', "BEGIN; $case->{pull}; PREPARE TRANSACTION 'pull'");
		if ($restarts)
		{
			$node->stop('immediate');
			$node->start;
		}
		is(state($case), $case->{before}, "$what: nothing is seen");
		my ($status, $stdout, $stderr) = $node->psql('postgres', "SET lock_timeout = 100; $case->{pull}");
		like($stderr, qr/ERROR:  canceling statement due to lock timeout/, "$what: another pull waits");
		$node->safe_psql('postgres', "$end PREPARED 'pull'");
		is(state($case), $case->{before}, "$what and rolled back: all is as before") if $end eq 'ROLLBACK';
	}
	is($node->safe_psql('postgres', $case->{pull} =~ s/\*/rows_read/r), 0, "$kind, prepared and committed: nothing is left");
	check_equal($case, "$kind, prepared and committed");
}

$node->stop;
done_testing();
