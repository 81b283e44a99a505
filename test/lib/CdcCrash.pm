# Pipelines of all kinds that follow the same tables, writers that are at work
# all the time, and harm that is done to all of them.
#
# All that must hold is in the server itself: a trigger notes each row that was
# ever inserted, in the transaction of the insert, so that the target of
# "append", which has no constraints, is to hold just these rows.  It is not
# copied: a copy lacks what was deleted before it.

package CdcCrash;

use strict;
use warnings;

use Cdc;
use List::Util qw(shuffle);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

# What the server has beside JobServer's settings.
our $conf = q{
max_worker_processes = 40
max_replication_slots = 20
max_prepared_transactions = 20
restart_after_crash = on
deadlock_timeout = 100ms
etl_patterns.max_running_jobs = 4
};

# One row of item is an item; hot keys are below 200, others come from a
# sequence.  bag has no key, and may hold the same row more than once.  doc is
# mostly stored out of line, and then not logged with changes of other columns.
our $schema = q{
	CREATE TABLE item (id bigint PRIMARY KEY, uid bigint NOT NULL, v text, n int, doc text);
	ALTER TABLE item ALTER doc SET STORAGE EXTERNAL;
	CREATE SEQUENCE ids START 1000;
	CREATE SEQUENCE uids;
	ALTER TABLE item ALTER uid SET DEFAULT nextval('uids');
	CREATE TABLE item_ever (uid bigint);
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.item_ever VALUES (NEW.uid);
		RETURN NULL;
	END $$;
	CREATE TRIGGER note AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION note();
	CREATE TABLE bag (k int, v text);
	ALTER TABLE bag REPLICA IDENTITY FULL;
	CREATE TABLE page (id int PRIMARY KEY, v text);

	CREATE TABLE item_mirror (LIKE item INCLUDING INDEXES);
	CREATE TABLE bag_mirror (LIKE bag);
	CREATE TABLE page_mirror (LIKE page INCLUDING INDEXES);
	CREATE TABLE item_appended (LIKE item);
	CREATE TABLE item_history (LIKE item, valid_from timestamptz NOT NULL, valid_to timestamptz,
		is_current boolean NOT NULL, UNIQUE (id, valid_from));
	SELECT etl_cdc_create_changelog('item_changes');
	SELECT etl_cdc_create_changelog('page_changes');
	CREATE TABLE item_again (LIKE item);
	CREATE TABLE page_again (LIKE page);

	INSERT INTO item SELECT i, nextval('uids'), 'first', i, repeat('d', 3000) FROM generate_series(1, 100) i;
	INSERT INTO bag SELECT i % 5, 'first' FROM generate_series(1, 20) i;

	SELECT etl_cdc_create('mirrors');
	SELECT etl_cdc_add_table('mirrors', 'item', 'item_mirror');
	SELECT etl_cdc_add_table('mirrors', 'bag', 'bag_mirror');
	SELECT etl_cdc_add_table('mirrors', 'page', 'page_mirror');
	SELECT etl_cdc_create('appends', batch_transactions => 3, snapshot => 'none');
	SELECT etl_cdc_add_table('appends', 'item', 'item_appended', 'append');
	SELECT etl_cdc_create('logs');
	SELECT etl_cdc_add_table('logs', 'item', 'item_changes', 'changelog');
	SELECT etl_cdc_add_table('logs', 'page', 'page_changes', 'changelog');
	SELECT etl_cdc_create('histories');
	SELECT etl_cdc_add_table('histories', 'item', 'item_history', 'scd2', '{"initial_effective_at": "-infinity"}');
	SELECT etl_cdc_start(p) FROM unnest('{mirrors,appends,logs,histories}'::text[]) p;
};

# ---------------------------------------------------------------------------
# Writers
# ---------------------------------------------------------------------------

sub change
{
	my $k = 1 + int rand 200;
	my $k2 = 1 + int rand 200;
	my $n = int rand 1000;

	return pick(
		"INSERT INTO item VALUES ($k, DEFAULT, 'again', $n, repeat('$n', 1000)) ON CONFLICT DO NOTHING",
		"INSERT INTO item SELECT nextval('ids'), nextval('uids'), 'new', $n, 'short' FROM generate_series(1, 1 + $n % 9)",
		"UPDATE item SET n = n + 1, v = 'changed' WHERE id = $k",
		"UPDATE item SET n = n + 1 WHERE id BETWEEN $k AND $k + 3",
		"UPDATE item SET doc = doc || 'x' WHERE id = $k",
		"UPDATE item SET id = nextval('ids') WHERE id = $k",
		"UPDATE item SET id = $k2, n = $n WHERE id = $k AND NOT EXISTS (SELECT FROM item WHERE id = $k2)",
		"DELETE FROM item WHERE id = $k",
		"DELETE FROM item WHERE id > 1000 AND id % 50 = $n % 50",
		"DELETE FROM item WHERE id = $k; INSERT INTO item VALUES ($k, DEFAULT, 'replaced', $n)",
		"INSERT INTO bag VALUES ($n % 5, 'again'), ($n % 5, 'again')",
		"UPDATE bag SET v = 'changed $n' WHERE ctid = (SELECT min(ctid) FROM bag WHERE k = $n % 5)",
		"DELETE FROM bag WHERE ctid = (SELECT max(ctid) FROM bag WHERE k = $n % 5)",
		"INSERT INTO page VALUES ($k, 'v $n') ON CONFLICT (id) DO UPDATE SET v = excluded.v",
		"DELETE FROM page WHERE id = $k");
}

# What a large transaction does; it does not fit into what is read at a time.
sub large
{
	my $rows = 2000 + int rand 8000;

	return ("INSERT INTO item SELECT nextval('ids'), nextval('uids'), 'large', i, 'large' FROM generate_series(1, $rows) i",
		"UPDATE item SET n = n + 1 WHERE id > 1000 AND v = 'large' AND n % 7 = 0",
		"DELETE FROM item WHERE id > 1000 AND n % 3 > 0");
}

# The next name of a prepared transaction.
my $prepared = 0;

sub transaction
{
	my @changes = map { change() } 1 .. 1 + int rand 5;
	my $end = 'COMMIT';

	@changes = large() if rand() < 0.01;
	push @changes, 'TRUNCATE page', change() if rand() < 0.02;
	if (rand() < 0.2)
	{
		splice @changes, int(rand(@changes)), 0, 'SAVEPOINT a', change(), 'SAVEPOINT b', change(), pick('ROLLBACK TO a', 'ROLLBACK TO b', 'RELEASE a');
	}
	if (rand() < 0.1)
	{
		$prepared++;
		$end = "PREPARE TRANSACTION 'p$prepared'; " . pick('COMMIT', 'COMMIT', 'ROLLBACK') . " PREPARED 'p$prepared'";
	}
	elsif (rand() < 0.1)
	{
		$end = 'ROLLBACK';
	}
	elsif (rand() < 0.3)
	{
		return join("; ", @changes) . ";\n";
	}
	return 'BEGIN; ' . join('; ', @changes) . "; $end;\n";
}

# A session of random transactions; it ends by itself, or with the server.
sub start_writer
{
	my ($transactions) = @_;

	return session("SET lock_timeout = '2s';\nSET synchronous_commit = " . pick('on', 'off') . ";\n"
		  . join('', map { transaction() } 1 .. $transactions));
}

# ---------------------------------------------------------------------------
# Killing
# ---------------------------------------------------------------------------

our %pids = (
	applier => q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'etl_patterns cdc' ORDER BY random() LIMIT 1},
	reader => q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'etl_patterns cdc reader' ORDER BY random() LIMIT 1},
	writer => q{SELECT pid FROM pg_stat_activity WHERE application_name = 'psql' AND query !~ 'pg_stat_activity' ORDER BY random() LIMIT 1},
	scheduler => q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'etl_patterns scheduler'},
);

# What a query says, or nothing while the server cannot be asked.  A psql that
# ends at once closes its input, which IPC::Run dies of.
sub ask
{
	my ($node, $query) = @_;
	my ($status, $out) = eval { $node->psql('postgres', $query, stderr => \my $err) };

	return defined $status && $status == 0 ? $out : undef;
}

# Wait until a query says t.
sub wait_until
{
	my ($node, $query, $what) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while (time < $deadline)
	{
		my $answer = ask($node, "SELECT ($query)");

		return if defined $answer && $answer eq 't';
		usleep(50_000);
	}
	diag(ask($node, 'SELECT pipeline, state, reason, hint, applied_lsn, error_change FROM etl_patterns.cdc_status') // 'no answer');
	diag(ask($node, 'SELECT pid, backend_type, state, wait_event, query FROM pg_stat_activity') // 'no answer');
	diag(ask($node, 'SELECT * FROM pg_replication_slots') // 'no answer');
	die "gave up waiting: $what";
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

our @harms = ('KILL applier', 'KILL reader', 'KILL writer', 'KILL postmaster', 'immediate', 'TERM applier', 'TERM reader',
	'TERM writer', 'TERM scheduler', 'fast', 'stop');

# One harm, by its name; what is not there cannot be harmed.
sub harm
{
	my ($node, $how) = @_;

	if ($how eq 'KILL postmaster')
	{
		kill_postmaster($node);
	}
	elsif ($how =~ /^(KILL|TERM) (\w+)$/)
	{
		my $pid = ask($node, $pids{$2});

		kill $1, $pid if $pid;
	}
	elsif ($how eq 'stop')
	{
		my $pipeline = pick('mirrors', 'appends', 'logs', 'histories');

		ask($node, "SELECT etl_cdc_stop('$pipeline')");
		ask($node, "SELECT etl_cdc_start('$pipeline')");
	}
	else
	{
		$node->stop($how);
		$node->start;
	}
	return;
}

# Transactions that were prepared when the server went keep their locks.
sub finish_prepared
{
	my ($node) = @_;

	foreach my $gid (split /\n/, ask($node, 'SELECT gid FROM pg_prepared_xacts') // '')
	{
		my $end = pick('COMMIT', 'ROLLBACK');

		ask($node, "$end PREPARED '$gid'");
	}
	return;
}

# ---------------------------------------------------------------------------
# What must hold
# ---------------------------------------------------------------------------

# A changelog, applied change by change by SQL, as the documentation has it.
sub replay
{
	my ($node, $log, $table) = @_;

	$node->safe_psql('postgres', qq{
		DO \$\$
		DECLARE
			c record;
			old $table;
		BEGIN
			TRUNCATE $table;
			CREATE INDEX IF NOT EXISTS ${table}_id ON $table (id);
			FOR c IN SELECT * FROM $log ORDER BY change_id LOOP
				IF c.op = 't' THEN
					TRUNCATE $table;
					CONTINUE;
				END IF;
				old := NULL;
				DELETE FROM $table AS t WHERE t.id = (coalesce(c.before, c.after) ->> 'id')::bigint RETURNING * INTO old;
				IF c.op <> 'd' THEN
					INSERT INTO $table SELECT (jsonb_populate_record(CASE WHEN c.op = 'u' THEN old END, c.after)).*;
				END IF;
			END LOOP;
		END
		\$\$});
	return;
}

sub check
{
	my ($node, $what) = @_;

	foreach my $pipeline (qw(mirrors appends logs histories))
	{
		wait_until($node, "SELECT etl_cdc_wait('$pipeline', timeout => '180 s')", "$pipeline has caught up");
	}
	same('SELECT * FROM item', 'SELECT * FROM item_mirror', "$what: the mirror");
	same('SELECT * FROM bag', 'SELECT * FROM bag_mirror', "$what: the mirror of a table without a key");
	same('SELECT * FROM page', 'SELECT * FROM page_mirror', "$what: the mirror of a table that is truncated");
	same('SELECT uid FROM item_ever WHERE uid > 100', 'SELECT uid FROM item_appended', "$what: each row that was inserted is appended once");
	replay($node, 'item_changes', 'item_again');
	same('SELECT * FROM item', 'SELECT * FROM item_again', "$what: the changelog gives the table");
	replay($node, 'page_changes', 'page_again');
	same('SELECT * FROM page', 'SELECT * FROM page_again', "$what: with truncates, too");
	same('SELECT id, uid, v, n, doc FROM item', 'SELECT id, uid, v, n, doc FROM item_history WHERE is_current',
		"$what: what is current in the history");
	is($node->safe_psql('postgres', q{SELECT * FROM etl_scd2_verify('item_history', '{id}', tracked => '{uid,v,n,doc}')}),
		'', "$what: the history has no fault");
	is($node->safe_psql('postgres', q{SELECT pipeline, state, error_message FROM etl_patterns.cdc_pipeline
		WHERE state <> 'running' OR error_change IS NOT NULL}), '', "$what: all pipelines run");
	return;
}

# So many harms at random points; then all must be as if there had been none.
sub run
{
	my ($name, $seed, $rounds) = @_;
	my $server;
	my $node;
	my @plan;

	note("seed $seed, $rounds rounds");
	srand($seed);
	$server = Cdc::start($name, $conf . 'synchronous_commit = ' . pick('on', 'off') . "\n"
		. 'logical_decoding_work_mem = ' . pick("'64kB'", "'64MB'") . "\n");
	$node = $server->{node};
	$node->safe_psql('postgres', $schema);
	wait_until($node, q{SELECT has_slot FROM etl_patterns.cdc_pipeline WHERE pipeline = 'appends'}, 'appends has its slot');

	# the first ones once, then at random; the first may hit the copy
	@plan = shuffle @harms[ 0 .. 6 ];
	for my $round (1 .. $rounds)
	{
		my $how = shift(@plan) // pick(@harms);
		my @writers = map { start_writer(20 + int rand 200) } 1 .. 1 + int rand 3;

		usleep(rand pick(100_000, 600_000));
		note("round $round: $how");
		harm($node, $how);
		foreach my $writer (@writers)
		{
			eval { $writer->finish; 1 } or note("a writer: $@");
		}
		wait_until($node, 'SELECT NOT pg_is_in_recovery()', 'the server is up');
		finish_prepared($node);

		# not each time, so that it is hit while it is behind, too
		check($node, "round $round") if $round % 5 == 0 && $round < $rounds;
	}
	check($node, 'at the end');
	is($node->safe_psql('postgres', 'SELECT count(*) > 100 FROM item_ever'), 't', 'there was something to do');
	is(ask($node, q{SELECT count(*) FROM pg_replication_slots}), 4, 'there are just the slots of the pipelines');
	$node->stop;
	return;
}

1;
