# Transactions that are too large for the decoder's memory come in pieces, before
# they have ended: many at the same time, with savepoints that are rolled back,
# rows of all sizes, new columns and truncation in the middle.  The targets are
# equal, each change has come once, and only what was committed.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use IPC::Run;
use JobServer;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{SEED} // 79;
my $rounds = $ENV{ROUNDS} // 2;
srand($seed);
note("SEED=$seed ROUNDS=$rounds");

my $server = JobServer->new('cdc_large',
	"wal_level = logical\nmax_worker_processes = 14\nmax_prepared_transactions = 5\nlogical_decoding_work_mem = '64kB'\n"
	  . "temp_tablespaces = 'elsewhere'\ntemp_file_limit = '1MB'\nwork_mem = '128MB'\n");
my $node = $server->{node};

sub sql { return $server->sql(@_) }

# Sessions with these scripts, all at the same time.
sub sessions
{
	my (@scripts) = @_;

	my @runs = map {
		my $script = $_;
		my $err = '';
		{ err => \$err, run => IPC::Run::start([ $node->installed_command('psql'), '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres') ],
				'<', \$script, '>', \my $out, '2>', \$err) };
	} @scripts;
	foreach my $one (@runs)
	{
		$one->{run}->finish or die "script failed: ${$one->{err}}";
	}
	return;
}

sub same
{
	my ($want, $have, $what) = @_;

	return is(sql("SELECT left(r::text, 200) FROM ((SELECT 'missing', * FROM ($want EXCEPT ALL $have) a) UNION ALL (SELECT 'extra', * FROM ($have EXCEPT ALL $want) b)) r LIMIT 5"),
		'', $what);
}

my $serial = 0;

# One change of many rows; each session has keys of its own.
sub change
{
	my ($session) = @_;

	my $from = $session * 1_000_000;
	my $low = $from + int(rand(3000));
	my $high = $low + int(rand(800));
	my $tag = 'v' . ++$serial;
	my $kind = rand();

	return "INSERT INTO t SELECT i, '$tag', repeat(md5(i::text), 1 + i % 3) FROM generate_series($low, $high) i ON CONFLICT (id) DO UPDATE SET v = excluded.v" if $kind < 0.3;
	return "UPDATE t SET v = '$tag' WHERE id BETWEEN $low AND $high" if $kind < 0.6;
	return "UPDATE t SET body = (SELECT string_agg(md5(t.id::text || g || '$tag'), '') FROM generate_series(1, 200) g) WHERE id BETWEEN $low AND $low + 20" if $kind < 0.75;
	return "DELETE FROM t WHERE id BETWEEN $low AND $high";
}

# A transaction, most of them large.
sub transaction
{
	my ($session, $prepares) = @_;

	my @parts = ('BEGIN');
	foreach my $n (1 .. 1 + int(rand(5)))
	{
		my $fate = rand();
		my $part = join('; ', map { change($session) } 1 .. 1 + int(rand(2)));

		$part = "SAVEPOINT s; $part; ROLLBACK TO s" if $fate < 0.25;
		$part = "SAVEPOINT s; $part; SAVEPOINT i; " . change($session) . '; ROLLBACK TO i; ' . change($session) . '; RELEASE s' if $fate > 0.75;
		push @parts, $part;
	}
	my $end = rand() < 0.15 ? 'ROLLBACK' : 'COMMIT';
	$end = "PREPARE TRANSACTION 'p$session'; SELECT pg_sleep(0.05); " . (rand() < 0.3 ? 'ROLLBACK' : 'COMMIT') . " PREPARED 'p$session'"
	  if $prepares && rand() < 0.3;
	return join(";\n", @parts, $end) . ";\n";
}

my $place = PostgreSQL::Test::Utils::tempdir();
sql("CREATE TABLESPACE elsewhere LOCATION '$place'");
sql(q{
CREATE TABLE t (id int PRIMARY KEY, v text, body text);
ALTER TABLE t ALTER body SET STORAGE EXTERNAL;
CREATE TABLE t_copy (LIKE t INCLUDING ALL);
CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, session int, v text);
CREATE TABLE events_log (id bigint, session int, v text);
SELECT etl_cdc_create('large');
SELECT etl_cdc_add_table('large', 't', 't_copy');
SELECT etl_cdc_add_table('large', 'events', 'events_log', 'append');
SELECT etl_cdc_start('large');
});
is(sql(q{SELECT etl_cdc_wait('large', timeout => '180s')}), 't', 'it runs');

foreach my $round (1 .. $rounds)
{
	my @scripts;

	foreach my $session (1 .. 4)
	{
		push @scripts, join('', map {
			transaction($session, $session <= 2)
			  . "BEGIN; INSERT INTO events (session, v) SELECT $session, 'e' FROM generate_series(1, 700);"
			  . " SAVEPOINT s; INSERT INTO events (session, v) SELECT $session, 'never' FROM generate_series(1, 1500); ROLLBACK TO s;"
			  . " INSERT INTO events (session, v) SELECT $session, 'f' FROM generate_series(1, 700); COMMIT;\n"
		} 1 .. 4);
	}
	sessions(@scripts);
	if ($round == 2)
	{
		sql(q{SELECT etl_cdc_stop('large'); SELECT etl_cdc_start('large')});
	}
	is(sql(q{SELECT etl_cdc_wait('large', timeout => '180s')}), 't', "round $round: all is applied");
	same('TABLE t', 'TABLE t_copy', "round $round: the mirror is equal");
	same('TABLE events', 'TABLE events_log', "round $round: each insert has come once");
}

# definitions, and all at once
sessions(q{
BEGIN;
INSERT INTO t SELECT i, 'before', 'x' FROM generate_series(100000000, 100002000) i;
SAVEPOINT a;
ALTER TABLE t ADD never int;
INSERT INTO t SELECT i, 'never', 'x', 1 FROM generate_series(100010000, 100012000) i;
ROLLBACK TO a;
INSERT INTO t SELECT i, 'after', 'x' FROM generate_series(100020000, 100022000) i;
COMMIT;
BEGIN;
SAVEPOINT a;
TRUNCATE events;
INSERT INTO events (session, v) SELECT 0, 'never' FROM generate_series(1, 2000);
ROLLBACK TO a;
UPDATE t SET v = 'all';
COMMIT;
}, map {
	# rolled back, maybe while its rows are looked at
	"BEGIN; ALTER TABLE events ADD c$_ int; INSERT INTO events (session, v) SELECT 9, 'never' FROM generate_series(1, 3000); ROLLBACK;"
} 1 .. 2);
is(sql(q{SELECT etl_cdc_wait('large', timeout => '180s')}), 't', 'definitions that were rolled back are not seen');
same('TABLE t', 'TABLE t_copy', 'the mirror is equal');
same('TABLE events', 'TABLE events_log', 'each insert has come once');

sessions(q{
BEGIN;
DELETE FROM t WHERE id % 2 = 0;
TRUNCATE t;
INSERT INTO t SELECT i, 'new', 'x' FROM generate_series(1, 3000) i;
COMMIT;
});
is(sql(q{SELECT etl_cdc_wait('large', timeout => '180s')}), 't', 'a table is truncated in the middle');
same('TABLE t', 'TABLE t_copy', 'the mirror is equal');

# the rewritten table is said of although a savepoint with it was rolled back
sessions(q{
BEGIN;
INSERT INTO t SELECT i, '1', 'x' FROM generate_series(10000, 11000) i;
SAVEPOINT a;
ALTER TABLE t ALTER v TYPE int USING length(v);
INSERT INTO t SELECT i, 2, 'x' FROM generate_series(20000, 22000) i;
ROLLBACK TO a;
ALTER TABLE t ALTER v TYPE varchar(7) USING 'rw';
INSERT INTO t SELECT i, 'rw2', 'x' FROM generate_series(30000, 32000) i;
COMMIT;
});
$server->until(q{SELECT state = 'paused' FROM etl_patterns.cdc_pipeline}, 'ALTER TABLE that rewrites the rows pauses the pipeline');
sql(q{SELECT etl_cdc_resync('large', 't'); SELECT etl_cdc_start('large')});
is(sql(q{SELECT etl_cdc_wait('large', timeout => '180s')}), 't', 'it is copied anew');
same('SELECT id, v::text, body FROM t', 'TABLE t_copy', 'the mirror is equal');

$server->until(q{SELECT sum(stream_txns) > 10 FROM pg_stat_replication_slots}, 'transactions came in pieces');
note(sql('SELECT stream_txns, stream_count, spill_txns FROM pg_stat_replication_slots'));
sql(q{SELECT etl_cdc_drop('large')});
is(sql(q{SELECT count(*) FROM pg_ls_tmpdir()}), '0', 'no file is left');

$node->stop;
done_testing();
