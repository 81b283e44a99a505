# Pulls beside writers that commit late, in any order, or not at all.
#
# The writers are pgbench's; a transaction may take its time long before it
# touches a table, stand open for a while, lose some or all of what it did, or
# be prepared and committed by another one.  Meanwhile some sessions pull at
# random, roll back some of it, and are killed.  When the writers have ended,
# the pulls go on until nothing is left; then every target must hold what its
# source holds.

package Pull;

use strict;
use warnings;

use File::Basename qw(dirname);
use POSIX qw(WNOHANG _exit);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# ---------------------------------------------------------------------------
# What is pulled
# ---------------------------------------------------------------------------

# Columns that are compared and, where rows only come, the cursor and its type.
my %sources = (
	ev_now => [ 'id, writer, note, at', 'at', 'timestamptz' ],
	ev_clock => [ 'id, part, writer, at', 'at', 'timestamptz' ],
	ev_local => [ 'id, writer, at', 'at', 'timestamp' ],
	ev_ident => [ 'id, writer, note', 'id', 'bigint' ],
	ev_part => [ 'id, part, writer', 'id', 'bigint' ],
	ev_lag => [ 'id, writer, at', 'at', 'timestamptz' ],
	orders => [ 'id, status, note, updated_at', 'updated_at', 'timestamptz' ],
	changes => [ 'id, value, changed_at', 'changed_at', 'timestamptz' ],
	flagged => [ 'id, value' ]);

# What is to be in the target, if it is not all of the source.
my %truths = (
	orders => 'SELECT id, status, note, updated_at FROM orders WHERE NOT deleted',
	flagged => 'SELECT id, value FROM flagged',
	changes => q{SELECT id, value, changed_at AS valid_from, lead(changed_at) OVER w AS valid_to, lead(id) OVER w IS NULL AS is_current
		FROM (SELECT *, lag(value) OVER (PARTITION BY id ORDER BY changed_at) AS before FROM changes) c
		WHERE value IS DISTINCT FROM before WINDOW w AS (PARTITION BY id ORDER BY changed_at)});

my $deletes = q{keys => '{id}', apply_options => '{"delete_when": "deleted"}'};
my $deletes_by_time = q{keys => '{id}', apply_options => '{"delete_when": "deleted", "sequence_by": "updated_at"}'};

# Pipelines: source, arguments of the call.  Far ones read this server through
# postgres_fdw.
my %pipelines = (
	horizon => [ 'ev_now', q{cursor_column => 'at', safety => 'horizon'} ],
	horizon_clock => [ 'ev_clock', q{cursor_column => 'at'} ],
	horizon_local => [ 'ev_local', q{cursor_column => 'at', safety => 'horizon'} ],
	lookback => [ 'ev_now', q{cursor_column => 'at', safety => 'horizon', keys => '{id}', lookback => '300ms'} ],
	lock_wait => [ 'ev_ident', q{cursor_column => 'id', safety => 'lock_wait'} ],
	lock_wait_keys => [ 'ev_ident', q{cursor_column => 'id', keys => '{id}'} ],
	lock_wait_part => [ 'ev_part', q{cursor_column => 'id', safety => 'lock_wait'} ],
	lag => [ 'ev_lag', q{cursor_column => 'at', safety => 'lag', lag => '2.5s'} ],
	upsert => [ 'orders', qq{cursor_column => 'updated_at', apply => 'upsert', safety => 'horizon', $deletes} ],
	scd1 => [ 'orders', qq{cursor_column => 'updated_at', apply => 'scd1', safety => 'horizon', $deletes_by_time} ],
	scd2 => [ 'changes', q{cursor_column => 'changed_at', apply => 'scd2', keys => '{id}', apply_options => '{"sequence_by": "changed_at"}'} ],
	flags => [ 'flagged', q{flag_column => 'changed', apply => 'upsert', keys => '{id}'} ],
	none => [ 'ev_now', q{cursor_column => 'at', safety => 'none'} ],
	none_id => [ 'ev_ident', q{cursor_column => 'id', safety => 'none'} ],
	far_horizon => [ 'ev_now', q{cursor_column => 'at', safety => 'horizon'} ],
	far_lock_wait => [ 'ev_part', q{cursor_column => 'id', safety => 'lock_wait'} ],
	far_auto => [ 'ev_ident', q{cursor_column => 'id'} ],
	far_lag => [ 'ev_lag', q{cursor_column => 'at', safety => 'lag', lag => '2.5s'} ],
	far_upsert => [ 'orders', qq{cursor_column => 'updated_at', apply => 'upsert', safety => 'horizon', $deletes} ]);

# What a session may hear when it is killed or out of time.
my $expected_error = join '|', 'has never run', 'terminating connection due to administrator command', 'canceling statement due to statement timeout',
  'connection to server "here" was lost', 'current transaction is aborted';

# ---------------------------------------------------------------------------
# Writers
# ---------------------------------------------------------------------------

# Parts of scripts.
my $start = q{
	\set client :client_id
	\set before random(0, 40)
	\set between random(0, 15)
	\set after random_exponential(0, 600, 6)
	\set rows random_exponential(1, 12, 4)
	\set part random(0, 2)
	\set one random(1, 200)
	\set key 8 * random(1, 20) + :client_id
	\set value random(1, 3)
	\set end random(1, 8)
	BEGIN;
	SELECT now();
	\sleep :before ms
};
my $end = q{
	\sleep :after ms
	\if :end = 1
	ROLLBACK;
	\else
	COMMIT;
	\endif
};
my $rows = 'FROM generate_series(1, :rows)';

# The scripts and how often they come.
my %writers = (
	late => [ 6, qq{$start
		INSERT INTO ev_now (writer, note) SELECT :client, 'late' $rows;
		INSERT INTO ev_ident (writer, note) SELECT :client, 'late' $rows;
		\\sleep :between ms
		INSERT INTO ev_clock (part, writer) SELECT :part, :client $rows;
		INSERT INTO ev_part (part, writer) SELECT i % 3, :client FROM generate_series(1, :rows) i;
		INSERT INTO ev_local (writer) SELECT :client $rows;
		INSERT INTO ev_lag (writer) SELECT :client $rows;
		INSERT INTO changes VALUES (:key, :value);
		$end} ],
	nested => [ 4, qq{$start
		SAVEPOINT a;
		INSERT INTO ev_now (writer, note) SELECT :client, 'outer' $rows;
		INSERT INTO ev_part (part, writer) VALUES (:part, :client);
		SAVEPOINT b;
		INSERT INTO ev_ident (writer, note) SELECT :client, 'inner' $rows;
		INSERT INTO ev_clock (part, writer) VALUES (:part, :client);
		UPDATE orders SET status = status + 100, updated_at = now() WHERE id = :one;
		\\sleep :between ms
		\\if :between % 2
		ROLLBACK TO b;
		\\else
		RELEASE b;
		\\endif
		INSERT INTO ev_local (writer) VALUES (:client);
		\\if :between % 3
		ROLLBACK TO a;
		\\endif
		INSERT INTO ev_ident (writer, note) SELECT :client, 'after' $rows;
		INSERT INTO ev_now (writer, note) SELECT :client, 'after' $rows;
		INSERT INTO ev_lag (writer) VALUES (:client);
		$end} ],
	leaf => [ 3, qq{$start
		INSERT INTO ev_part_2 (part, writer) SELECT 2, :client $rows;
		INSERT INTO ev_clock_:part (part, writer) SELECT :part, :client $rows;
		\\sleep :between ms
		INSERT INTO ev_part_1_other (part, writer) SELECT 1, 100 + :client $rows;
		$end} ],
	server => [ 3, q{
		DO $$
		BEGIN
			PERFORM pg_sleep(random() * 0.03);
			INSERT INTO ev_ident (writer, note) VALUES (-1, 'server'), (-2, 'server');
			BEGIN
				INSERT INTO ev_now (writer, note) VALUES (-1, 'in a block');
				INSERT INTO ev_part (part, writer) VALUES (0, -1);
				PERFORM pg_sleep(random() * 0.03), 1 / (random() * 2)::int;
			EXCEPTION WHEN division_by_zero THEN
				INSERT INTO ev_now (writer, note) VALUES (-1, 'after an error');
			END;
			INSERT INTO ev_clock (part, writer) VALUES (0, -1), (1, -1), (2, -1);
			PERFORM pg_sleep(random() * 0.05);
		END $$;} ],
	burst => [ 3, q{
		\set client :client_id
		INSERT INTO ev_now (writer, note) SELECT :client, 'burst' FROM generate_series(1, 60);
		INSERT INTO ev_ident (writer, note) SELECT :client, 'burst' FROM generate_series(1, 60);
		INSERT INTO ev_local (writer) SELECT :client FROM generate_series(1, 60);
		INSERT INTO ev_lag (writer) SELECT :client FROM generate_series(1, 60);
		\sleep 20 ms} ],
	change => [ 6, qq{$start
		\\if :end = 2
		INSERT INTO orders (id, status, note) SELECT nextval('order_id'), 0, 'new' $rows;
		\\elif :end < 5
		UPDATE orders SET deleted = NOT deleted, updated_at = now() WHERE id = :one;
		\\else
		UPDATE orders SET status = status + 1, note = 'client :client', updated_at = now() WHERE id = :one;
		\\endif
		INSERT INTO changes VALUES (:key, :value);
		\\sleep :between ms
		UPDATE flagged SET value = value + 1, changed = true WHERE id = :one;
		$end} ],
	prepared => [ 1, qq{
		\\set client :client_id
		\\set stands random_exponential(0, 400, 4)
		\\set one random(1, 200)
		\\set end random(1, 4)
		BEGIN;
		INSERT INTO ev_now (writer, note) VALUES (:client, 'prepared');
		INSERT INTO ev_ident (writer, note) VALUES (:client, 'prepared');
		INSERT INTO ev_clock (part, writer) VALUES (1, :client);
		INSERT INTO ev_part_0 (part, writer) VALUES (0, :client);
		INSERT INTO ev_local (writer) VALUES (:client);
		UPDATE orders SET status = -1, updated_at = now() WHERE id = :one;
		PREPARE TRANSACTION 'writer :client';
		\\sleep :stands ms
		\\if :end = 1
		ROLLBACK PREPARED 'writer :client';
		\\else
		COMMIT PREPARED 'writer :client';
		\\endif} ]);

# A program that runs beside the test; what it says goes to a file.
sub start_program
{
	my ($node, @command) = @_;
	my $log = PostgreSQL::Test::Utils::tempdir() . '/log';
	my $pid;

	local %ENV = $node->_get_env();
	$pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		open(STDIN, '<', '/dev/null') && open(STDOUT, '>', $log) && open(STDERR, '>&', \*STDOUT) && exec @command;
		_exit(127);
	}
	return { pid => $pid, log => $log };
}

# Has it ended?
sub has_ended
{
	my ($program) = @_;

	return 1 if defined $program->{status};
	return 0 if waitpid($program->{pid}, WNOHANG) == 0;
	$program->{status} = $?;
	return 1;
}

sub start_writers
{
	my ($node, $seconds) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $seed = 1 + int rand 1_000_000;
	my @files;

	foreach my $name (sort keys %writers)
	{
		append_to_file("$dir/$name.sql", $writers{$name}[1] =~ s/^\s+//gmr);
		push @files, '-f', "$dir/$name.sql\@$writers{$name}[0]";
	}
	return start_program($node, $node->installed_command('pgbench'), '-n', '-c', 8, '-j', 2, '-T', $seconds,
		'--max-tries', 100, "--random-seed=$seed", @files, $node->connstr('postgres'));
}

# ---------------------------------------------------------------------------
# Pullers
# ---------------------------------------------------------------------------

sub call
{
	my ($pipeline, $more) = @_;
	my ($source, $arguments, $schema) = @{ $pipeline->{call} };

	return "SELECT * FROM etl_incremental_pull('$pipeline->{name}', '$pipeline->{schema}.$source', 't_$pipeline->{name}', $arguments$more)";
}

# One pull in one of the ways in which it may be called.
sub random_pull
{
	my ($pipeline) = @_;
	my $rows = ('', '', ', batch_rows => 1', ', batch_rows => 40', ', batch_rows => 300')[ rand 5 ];
	my $wait = (", max_wait => '0'", ", max_wait => '200ms'", ", max_wait => '3s'", ", max_wait => '3s'")[ rand 4 ];
	my $pull = call($pipeline, $rows . $wait);
	my $ways = rand 10;

	return "$pull;\n" if $ways < 4;
	return "BEGIN; $pull; ROLLBACK;\n" if $ways < 5;
	return "BEGIN; $pull; SELECT pg_sleep(random() * 0.1); COMMIT;\n" if $ways < 6;
	return "BEGIN; SAVEPOINT s; $pull; ROLLBACK TO s; $pull; COMMIT;\n" if $ways < 7;
	return "SET statement_timeout = " . int(1 + rand 15) . "; $pull;\nRESET statement_timeout;\n" if $ways < 8;
	return "$pull;\nCALL etl_incremental_drain('$pipeline->{name}', max_batches => 3);\n";
}

sub start_psql
{
	my ($node, $name, $script) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/script';

	append_to_file($file, $script);
	return start_program($node, $node->installed_command('psql'), '-XAtq', '-o', '/dev/null', '-f', $file,
		'-d', $node->connstr('postgres') . " application_name=$name");
}

# What a session of pulls said that is not expected.
sub complaints
{
	my ($program) = @_;

	return grep { /(?:ERROR|FATAL|PANIC|WARNING): |crash/ && !/$expected_error/ } split /\n/, slurp_file($program->{log});
}

# Pull in three sessions while the writers work; some of these get killed.
sub pull_beside
{
	my ($node, $pipelines, $seconds) = @_;
	my $pulls = 12;
	my $writers = start_writers($node, $seconds);
	my $watcher = start_psql($node, 'watcher', "CALL watch($seconds)");
	my $ends = time + $seconds;
	my ($sessions, @pullers, @wrong) = (0);

	while (!has_ended($writers) || grep { $_ } @pullers)
	{
		foreach my $slot (0 .. 2)
		{
			next if $pullers[$slot] && !has_ended($pullers[$slot]);
			push @wrong, complaints($pullers[$slot]) if $pullers[$slot];
			$pullers[$slot] = undef;
			next if time > $ends;
			$pullers[$slot] = start_psql($node, 'puller', join '', map { random_pull($pipelines->[ rand @$pipelines ]) } 1 .. $pulls);
			$sessions++;
		}
		sleep 0.02;
	}
	sleep 0.02 until has_ended($watcher);
	is($writers->{status}, 0, 'the writers do their work') or diag slurp_file($writers->{log});
	is(slurp_file($watcher->{log}), '', 'and so does the watcher');
	splice @wrong, 10;
	is(join("\n", @wrong), '', "$sessions sessions of $pulls pulls fail only when they are killed");
	is($node->safe_psql('postgres', 'SELECT * FROM problem LIMIT 10'), '', 'at every moment a watermark is that of the data');
	note join ', ', grep { /processed|tps/ } split /\n/, slurp_file($writers->{log});
	return;
}

# ---------------------------------------------------------------------------
# The end
# ---------------------------------------------------------------------------

# Pull until nothing is left.
sub drain
{
	my ($node, $pipeline) = @_;
	my $source = $pipeline->{call}[0];
	my (undef, $cursor, $type) = @{ $sources{$source} };
	my $pull = call($pipeline, $pipeline->{name} =~ /none/ ? '' : ', batch_rows => 1000');
	my $done = !$cursor ? "NOT EXISTS (SELECT FROM $source WHERE changed)"
	  : "etl_watermark_get('$pipeline->{name}')::$type IS NOT DISTINCT FROM (SELECT max($cursor) FROM $source)";

	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if $node->safe_psql('postgres', "SET client_min_messages = warning; SELECT FROM ($pull) x; SELECT $done") =~ /^t$/m;
		sleep 0.1;
	}
	return 0;
}

# How many rows are missing in a target, and how many it has too many.
sub difference
{
	my ($node, $pipeline) = @_;
	my $source = $pipeline->{call}[0];
	my $truth = $truths{$source} // "SELECT $sources{$source}[0] FROM $source";
	my $columns = $source eq 'changes' ? 'id, value, valid_from, valid_to, is_current' : $sources{$source}[0];
	my $target = "SELECT $columns FROM t_$pipeline->{name}";

	return $node->safe_psql('postgres', "SELECT (SELECT count(*) FROM ($truth EXCEPT ALL $target) x), (SELECT count(*) FROM ($target EXCEPT ALL $truth) x)");
}

# Rows whose transactions outlive a pull of the later rows of another.  Whatever
# looks at the clock only has passed them by the time of the pull.
sub outlive
{
	my ($node, @pipelines) = @_;
	my $late = $node->background_psql('postgres');
	my $rows = sub { my ($note) = @_; return "INSERT INTO ev_now (writer, note) VALUES (0, '$note');
		INSERT INTO ev_ident (writer, note) VALUES (0, '$note'); INSERT INTO ev_clock (part, writer) VALUES (0, 0);
		INSERT INTO ev_part (part, writer) VALUES (1, 1); INSERT INTO ev_local (writer) VALUES (0)" };

	foreach my $way ('open', 'prepared')
	{
		$late->query_safe('BEGIN; ' . $rows->($way));
		$late->query_safe("PREPARE TRANSACTION 'late'") if $way eq 'prepared';
		$node->safe_psql('postgres', join ";\n", 'SELECT pg_sleep(0.15)', $rows->('later'), 'SELECT pg_sleep(0.15)',
			map { call($_, ", max_wait => '0'") } @pipelines);
		$late->query_safe($way eq 'prepared' ? "COMMIT PREPARED 'late'" : 'COMMIT');
	}
	$late->quit;

	# transactions of one message all start when it came
	my $message = start_psql($node, 'message', 'BEGIN\; SELECT\; COMMIT\; ' x 50000 . $rows->('message') =~ s/;/\\;/gr . ';');
	my @horizons = map { call($_, ", max_wait => '0'") } grep { $_->{name} =~ /^horizon/ } @pipelines;
	until (has_ended($message))
	{
		$node->safe_psql('postgres', join ";\n", map { $rows->('beside'), $_ } (@horizons) x 10);
	}
	is(slurp_file($message->{log}), '', 'many transactions in one message');
	return;
}

sub start_node
{
	my ($name) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
	$node->append_conf('postgresql.conf', "fsync = off\nmax_prepared_transactions = 20\nmax_connections = 60\nlog_statement = none\n");
	$node->start;
	return $node;
}

sub setup
{
	my ($node) = @_;
	my @list = map { { name => $_, call => $pipelines{$_}, schema => /^far/ ? 'far' : 'public' } } sort keys %pipelines;
	my ($host, $port) = ($node->host, $node->port);
	my @sql;

	$node->safe_psql('postgres', 'CREATE EXTENSION etl_patterns; CREATE EXTENSION postgres_fdw');
	$node->safe_psql('postgres', slurp_file(dirname(__FILE__) . '/pull_stress.sql'));
	$node->safe_psql('postgres', qq{
		CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
		CREATE USER MAPPING FOR CURRENT_USER SERVER here;
		IMPORT FOREIGN SCHEMA public LIMIT TO (ev_now, ev_ident, ev_part, ev_lag, orders) FROM SERVER here INTO far;});
	foreach my $pipeline (@list)
	{
		my $source = $pipeline->{call}[0];
		my (undef, $cursor, $type) = @{ $sources{$source} };
		my %columns = (
			changes => 'id int, value int, valid_from timestamptz NOT NULL, valid_to timestamptz, is_current boolean NOT NULL',
			flagged => 'id int PRIMARY KEY, value int',
			orders => 'id int PRIMARY KEY, status int, note text, updated_at timestamptz');

		push @sql, "CREATE TABLE t_$pipeline->{name} (" . ($columns{$source} // "LIKE $source INCLUDING INDEXES") . ')';
		push @sql, "INSERT INTO pipeline VALUES ('$pipeline->{name}', '$source', '$cursor', '$type', "
		  . ($columns{$source} ? 'false' : 'true') . ')'
		  if $cursor;
	}
	$node->safe_psql('postgres', join ';', @sql);

	return \@list;
}

# Everything, with writers for so many seconds.
sub stress
{
	my ($node, $seed, $seconds) = @_;
	my $list = setup($node);

	note "seed $seed";
	srand $seed;
	pull_beside($node, $list, $seconds);
	outlive($node, @$list);

	foreach my $pipeline (@$list)
	{
		my $name = $pipeline->{name};

		ok(drain($node, $pipeline), "$name: comes to the end of its source");
		my $difference = difference($node, $pipeline);
		if ($name =~ /^none/)
		{
			like($difference, qr/^[1-9]\d*\|0$/, "$name: loses rows: $difference");
		}
		else
		{
			is($difference, '0|0', "$name: the target is the source");
		}
	}
	is( $node->safe_psql('postgres', q{SELECT count(*) FROM etl_patterns.run WHERE rows_read > 0}) > 2 * @$list, 1, 'in many steps');
	note $node->safe_psql('postgres', q{SELECT name, count(*) AS runs, count(*) FILTER (WHERE status = 'skipped') AS skipped,
			count(*) FILTER (WHERE rows_read > 0) AS with_rows, sum(rows_read) AS rows
		FROM etl_patterns.run GROUP BY name ORDER BY name});
	is( $node->safe_psql('postgres', 'SELECT check_pipeline(p) FROM pipeline p WHERE appends; SELECT * FROM problem') =~ s/^\n+//r, '',
		'at the end watermarks are those of the data');
	is($node->safe_psql('postgres', "SELECT problem FROM etl_scd2_verify('t_scd2', '{id}')"), '', 'scd2: a sound history');
	return;
}

1;
