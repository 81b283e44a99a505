# Statistics of runs: what finished and what failed, however the failure was
# caught, and how long the counters live.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Restart;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('stat_runs');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', q{
restart_after_crash = on
max_prepared_transactions = 2
});
$node->start;
my $dir = PostgreSQL::Test::Utils::tempdir;
chmod 0755, $dir;
append_to_file("$dir/good.csv", "id,amount\n1,10\n2,20\n3,much\n");
append_to_file("$dir/bad.csv", "id,amount\n1,10\n2,much\n");
my $lasting = $node->pg_version >= 18;

sub sql
{
	my ($sql, $db, @params) = @_;
	return $node->safe_psql($db // 'postgres', $sql, @params);
}

# Runs in one session, whatever fails; returns what it said.
sub try_sql
{
	my ($sql, $db) = @_;
	my ($status, $out, $err) = $node->psql($db // 'postgres', $sql, on_error_stop => 0);
	return $err;
}

# A session tells the server what it has counted when it ends, at the latest.
sub settle
{
	$node->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()})
	  or die 'sessions do not end';
	return;
}

# The counters that matter here, by flow.
my $columns = 'operation, name, finished, failed, last_error_code';

sub stats
{
	my ($db, $list) = @_;
	$list //= $columns;
	settle();
	return sql(qq{SELECT $list FROM etl_patterns.stat_runs} . ($list =~ /count/ ? '' : ' ORDER BY operation, name'), $db);
}

sub reset_stats
{
	settle();
	sql('SELECT etl_stat_runs_reset()');
	return;
}

sub is_stats
{
	my ($wanted, $what, $db) = @_;

	is(stats($db), join("\n", @$wanted), $what);
	return;
}

sub make
{
	my ($db) = @_;

	sql(q{
		CREATE EXTENSION etl_patterns;
		CREATE TABLE sale (id int PRIMARY KEY, amount int);
		CREATE TABLE pulled (id int PRIMARY KEY, amount int CHECK (amount < 1000));
		CREATE TABLE merged (id int PRIMARY KEY, amount int);
	}, $db);
	return;
}

# ---------------------------------------------------------------------------
# Without preload

make('postgres');
sql(qq{SELECT etl_bulk_copy('sale', '$dir/good.csv', on_error => 'skip')});
like(try_sql(qq{SELECT etl_bulk_copy('merged', '$dir/bad.csv')}), qr/much/, 'a load fails without preload');
is_stats([], 'without preload nothing is counted');
reset_stats();
sql('DROP EXTENSION etl_patterns');
sql('DROP TABLE sale, pulled, merged');

$node->append_conf('postgresql.conf', q{shared_preload_libraries = 'etl_patterns'});
$node->restart;
make('postgres');
is_stats([], 'with preload there is nothing yet');

# ---------------------------------------------------------------------------
# Finished and failed

my $before = sql('SELECT clock_timestamp()');
sql(qq{SELECT etl_bulk_copy('sale', '$dir/good.csv', on_error => 'skip')});
is(stats(undef, 'operation, name, finished, failed, rows_read, rows_inserted, rows_updated, rows_deleted, rows_unchanged, rows_rejected'),
	'bulk_copy||1|0|3|2|0|0|0|1', 'a load, and what became of its rows');
is(stats(undef, qq{total_time BETWEEN 0.001 AND 600000,
		total_time = (SELECT extract(epoch FROM finished_at - started_at) * 1000 FROM etl_patterns.run),
		last_finished_at = (SELECT finished_at FROM etl_patterns.run), last_finished_at > '$before',
		stats_since = last_finished_at, last_failed_at IS NULL}),
	't|t|t|t|t|t', 'its times are those of its row');

like(try_sql(qq{SELECT etl_bulk_copy('merged', '$dir/bad.csv')}), qr/much/, 'a load fails');
is_stats(['bulk_copy||1|1|22P02'], 'and is counted as failed');
is(stats(undef, 'rows_read, last_failed_at > last_finished_at, stats_since = last_finished_at'), '3|t|t',
	'without its rows, with its time');
is(sql('SELECT count(*) FROM etl_patterns.run'), 1, 'it has left no row');

sql(qq{SELECT etl_bulk_copy('merged', '$dir/good.csv', on_error => 'skip', dry_run => true)});
is(stats(undef, 'finished, rows_read'), '2|3', 'a dry run has finished, and has no rows');

try_sql(q{SELECT etl_incremental_pull('no such', 'sale', 'pulled', 'amount', keys => '{nowhere}')});
sql(q{SELECT etl_incremental_pull('sales', 'sale', 'pulled', 'id', keys => '{id}', safety => 'none')});
sql(q{INSERT INTO sale VALUES (10, 5000)});
try_sql(q{SELECT etl_incremental_pull('sales', 'sale', 'pulled', 'id', safety => 'no such')});
try_sql(q{SELECT etl_incremental_pull('sales', 'sale', 'pulled', 'id', keys => '{id}', safety => 'none')}) for 1 .. 2;
is_stats(['bulk_copy||2|1|22P02', 'incremental_pull|no such|0|1|42703', 'incremental_pull|sales|1|2|23514'],
	'pipelines by name; calls that are refused before they are runs do not count');
reset_stats();
sql('DELETE FROM sale WHERE id = 10');
is_stats([], 'a reset');

# A drain: each batch is a run, in a transaction of its own.
sql(q{INSERT INTO sale SELECT i, 0 FROM generate_series(11, 30) i});
sql(q{CALL etl_incremental_drain('sales')});
is(stats(undef, 'operation, name, finished > 0, failed, rows_read'), 'incremental_pull|sales|t|0|20', 'batches of a drain');
sql(q{SELECT etl_backfill('sales', '11', '31')});
is(stats(undef, 'operation, name, failed, rows_read'), "backfill|sales|0|20\nincremental_pull|sales|0|20", 'a backfill is another flow');
reset_stats();

# What the transaction does later is another matter.
sql(qq{BEGIN; SELECT etl_bulk_copy('merged', '$dir/good.csv', on_error => 'skip'); ROLLBACK});
is_stats(['bulk_copy||1|0|'], 'finished, and rolled back later');
sql(qq{BEGIN; SELECT etl_bulk_copy('merged', '$dir/good.csv', on_error => 'skip'); PREPARE TRANSACTION 'p'});
sql(q{ROLLBACK PREPARED 'p'});
is_stats(['bulk_copy||2|0|'], 'finished, in a prepared transaction');

# ---------------------------------------------------------------------------
# Failures that are caught

reset_stats();
sql(qq{
	CREATE FUNCTION try_load(target regclass, file text) RETURNS text LANGUAGE plpgsql AS \$\$
	BEGIN
		PERFORM etl_bulk_copy(target, file);
		RETURN 'loaded';
	EXCEPTION WHEN OTHERS THEN
		RETURN sqlstate;
	END \$\$;
});
is(sql(qq{SELECT try_load('merged', '$dir/bad.csv'), try_load('merged', '$dir/bad.csv')}), '22P02|22P02', 'errors are caught');
is_stats(['bulk_copy||0|2|22P02'], 'and counted');
is(sql(qq{BEGIN; SELECT try_load('merged', '$dir/bad.csv'); SELECT $columns FROM etl_patterns.stat_runs; COMMIT}),
	"22P02\nbulk_copy||0|3|22P02", 'the session sees it at once');
is(sql(qq{BEGIN; SAVEPOINT a; SELECT 1 / 1; RELEASE a; SELECT try_load('merged', '$dir/nowhere.csv'); ROLLBACK}),
	"1\n58P01", 'another one, in a transaction that is rolled back');
is_stats(['bulk_copy||0|4|58P01'], 'is counted once');
try_sql(qq{BEGIN; SAVEPOINT a; SELECT etl_bulk_copy('merged', '$dir/bad.csv'); ROLLBACK TO a; RELEASE a; COMMIT});
is_stats(['bulk_copy||0|5|22P02'], 'a savepoint');
sql(q{
	CREATE PROCEDURE load_in_parts(file text) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. 3 LOOP
			RAISE NOTICE '%', try_load('merged', file);
			COMMIT;
		END LOOP;
	END $$;
});
sql(qq{CALL load_in_parts('$dir/bad.csv')});
is_stats(['bulk_copy||0|8|22P02'], 'a procedure that commits');

# More flows than wait in a process at a time.
reset_stats();
sql(q{
	DO $$
	BEGIN
		FOR i IN 1 .. 200 LOOP
			BEGIN
				PERFORM etl_incremental_pull('pipe ' || i, 'sale', 'pulled', 'amount', keys => '{nowhere}');
			EXCEPTION WHEN undefined_column THEN
			END;
		END LOOP;
	END $$});
settle();
is(sql('SELECT count(*), sum(failed) FROM etl_patterns.stat_runs'), '200|200', 'many flows fail in one transaction');

# And more than are counted: those that ran last are there.
sql(q{
	DO $$
	BEGIN
		FOR i IN 201 .. 600 LOOP
			BEGIN
				PERFORM etl_incremental_pull('pipe ' || i, 'sale', 'pulled', 'amount', keys => '{nowhere}');
			EXCEPTION WHEN undefined_column THEN
			END;
		END LOOP;
	END $$});
settle();
is(sql(q{SELECT count(*), count(*) FILTER (WHERE name IN ('pipe 599', 'pipe 600')), count(*) FILTER (WHERE name = 'pipe 1')
	FROM etl_patterns.stat_runs}), '512|2|0', 'no more flows than there is room for');
reset_stats();

# A session that is terminated, and one that is canceled.
for my $end ([ 'pg_cancel_backend', '57014' ], [ 'pg_terminate_backend', '57P01' ])
{
	my $holder = $node->background_psql('postgres');
	my $loader = $node->background_psql('postgres', on_error_stop => 0);
	$holder->query_safe('BEGIN; LOCK TABLE merged');
	my $pid = $loader->query_safe('SELECT pg_backend_pid()');
	$loader->query_until(qr/started/, "\\echo started\nSELECT etl_bulk_copy('merged', '$dir/good.csv');\n");
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_locks WHERE pid = $pid AND NOT granted")
	  or die 'the load does not wait';
	sql("SELECT $end->[0]($pid)");
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM etl_patterns.stat_runs WHERE last_error_code = '$end->[1]'")
	  or fail("$end->[0]: the failure is seen");
	$holder->query_safe('COMMIT');
	eval { $_->quit } for $holder, $loader;
}
is_stats(['bulk_copy||0|2|57P01'], 'runs that were ended from outside');

# ---------------------------------------------------------------------------
# Runs within runs

reset_stats();
sql(qq{
	TRUNCATE merged, pulled, sale;
	CREATE FUNCTION nest() RETURNS trigger LANGUAGE plpgsql AS \$\$
	BEGIN
		IF NEW.amount = 20 THEN
			PERFORM etl_bulk_copy('pulled', '$dir/bad.csv');
		ELSIF NEW.amount = 10 THEN
			PERFORM etl_upsert('pulled', 'merged', '{id}');
		ELSE
			PERFORM try_load('pulled', '$dir/bad.csv');
		END IF;
		RETURN NEW;
	END \$\$;
	CREATE TABLE outer_one (id int PRIMARY KEY, amount int);
	CREATE TRIGGER nest BEFORE INSERT ON outer_one FOR EACH ROW EXECUTE FUNCTION nest();
});
append_to_file("$dir/ten.csv", "id,amount\n1,10\n2,10\n");
sql(qq{SELECT etl_bulk_copy('outer_one', '$dir/ten.csv')});
is_stats(['bulk_copy||1|0|', 'upsert||2|0|'], 'runs in a trigger');
append_to_file("$dir/thirty.csv", "id,amount\n3,30\n");
sql(qq{SELECT etl_bulk_copy('outer_one', '$dir/thirty.csv')});
is_stats(['bulk_copy||2|1|22P02', 'upsert||2|0|'], 'one that fails in a run that finishes');
append_to_file("$dir/twenty.csv", "id,amount\n4,20\n");
like(try_sql(qq{SELECT etl_bulk_copy('outer_one', '$dir/twenty.csv')}), qr/much/, 'one that takes the other with it');
is_stats(['bulk_copy||2|3|22P02', 'upsert||2|0|'], 'both have failed');
sql(qq{SELECT etl_bulk_copy('outer_one', '$dir/twenty.csv', on_error => 'skip')});
is_stats(['bulk_copy||3|4|22P02', 'upsert||2|0|'], 'and only the inner one where its row is rejected');

# A pile of runs that is higher than what is counted.
reset_stats();
sql(qq{
	CREATE FUNCTION deeper() RETURNS trigger LANGUAGE plpgsql AS \$\$
	BEGIN
		PERFORM etl_bulk_copy(TG_ARGV[0]::regclass, TG_ARGV[1], force => true);
		RETURN NEW;
	END \$\$;
	DO \$\$
	BEGIN
		CREATE TABLE calm (id int, amount int);
		CREATE TABLE pile_40 (id int, amount int CHECK (amount < 20));
		FOR i IN REVERSE 39 .. 1 LOOP
			EXECUTE format('CREATE TABLE pile_%s (id int, amount int)', i);
			EXECUTE format('CREATE TRIGGER deeper BEFORE INSERT ON pile_%s FOR EACH ROW WHEN (NEW.id <> 2) '
				'EXECUTE FUNCTION deeper(pile_%s, %L)', i, i + 1, '$dir/pile.csv');
		END LOOP;
	END \$\$;
});
append_to_file("$dir/pile.csv", "id,amount\n1,10\n");
sql(qq{SELECT etl_bulk_copy('pile_1', '$dir/pile.csv')});
is(sql('SELECT count(*) FROM pile_40'), 1, 'a pile of runs');
is_stats(['bulk_copy||32|0|'], 'as many as there is room for are counted');
sql('ALTER TABLE pile_40 ADD CHECK (id <> 1) NOT VALID');
like(try_sql(qq{SELECT etl_bulk_copy('pile_1', '$dir/pile.csv', force => true)}), qr/pile_40_id_check/, 'it falls');
is_stats(['bulk_copy||32|32|23514'], 'and all of them have failed');
sql(qq{SELECT etl_bulk_copy('calm', '$dir/pile.csv')});
is_stats(['bulk_copy||33|32|23514'], 'and the next one is counted');

# ---------------------------------------------------------------------------
# Jobs

reset_stats();
sql(qq{
	SELECT etl_job_create('fails', 'on ping', \$\$SELECT etl_bulk_copy('merged', '$dir/bad.csv')\$\$, max_attempts => 1);
	SELECT etl_signal('ping');
});
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM etl_patterns.stat_runs})
  or fail('a run in a job is counted');
is_stats(['bulk_copy||0|1|22P02'], 'a run that fails in a job');
sql(q{SELECT etl_job_drop('fails')});

# ---------------------------------------------------------------------------
# Privileges

sql(q{CREATE ROLE ann LOGIN});
is(sql("SELECT $columns FROM etl_patterns.stat_runs ORDER BY 1", undef, extra_params => [ '-U', 'ann' ]), stats(),
	'anybody may read');
my ($status, $out, $err) = $node->psql('postgres', 'SELECT etl_stat_runs_reset()', extra_params => [ '-U', 'ann' ]);
like($err, qr/permission denied for function etl_stat_runs_reset/, 'and not reset');
sql('GRANT EXECUTE ON FUNCTION etl_stat_runs_reset() TO ann');
sql('SELECT etl_stat_runs_reset()', undef, extra_params => [ '-U', 'ann' ]);
is_stats([], 'unless it was granted');

# ---------------------------------------------------------------------------
# Databases

sql(qq{SELECT etl_bulk_copy('sale', '$dir/ten.csv')});
sql('CREATE DATABASE other');
make('other');
is_stats([], 'another database has its own', 'other');
try_sql(qq{SELECT etl_bulk_copy('sale', '$dir/bad.csv')}, 'other');
is_stats(['bulk_copy||0|1|22P02'], 'counters', 'other');
is_stats(['bulk_copy||1|0|'], 'which are not those of the first');
sql('SELECT etl_stat_runs_reset()', 'other');
is_stats([], 'a reset there', 'other');
is_stats(['bulk_copy||1|0|'], 'is none here');
sql(qq{SELECT etl_bulk_copy('merged', '$dir/ten.csv')}, 'other');
sql('DROP DATABASE other WITH (FORCE)');
is_stats(['bulk_copy||1|0|'], 'a drop of the other one leaves these');

# The places of flows of a database that is gone are free: if they were not, what
# ran before them would be the first to go.
{
	my $fail = q{
		DO $$
		BEGIN
			FOR i IN 1 .. %d LOOP
				BEGIN
					PERFORM etl_incremental_pull('pipe ' || i, 'sale', 'pulled', 'amount', keys => '{nowhere}');
				EXCEPTION WHEN undefined_column THEN
				END;
			END LOOP;
		END $$};

	sql('CREATE DATABASE crowded');
	make('crowded');
	try_sql(sprintf($fail, 511), 'crowded');
	is(stats('crowded', 'count(*)'), 511, 'a database with many flows');
	sql('DROP DATABASE crowded');
	sql(sprintf($fail, 200));
	is(stats(undef, q{count(*), count(*) FILTER (WHERE operation = 'bulk_copy')}), '201|1', 'a drop makes room');
	reset_stats();
	sql(qq{SELECT etl_bulk_copy('sale', '$dir/ten.csv', force => true, on_conflict => 'update', keys => '{id}')});
}

# The extension takes its own along, so that the server has none that it
# cannot read when the library is gone, too.
sql('CREATE DATABASE other');
make('other');
sql(qq{SELECT etl_bulk_copy('merged', '$dir/ten.csv')}, 'other');
is_stats(['bulk_copy||1|0|'], 'a database with counters', 'other');
sql('DROP EXTENSION etl_patterns', 'other');
sql('CREATE EXTENSION etl_patterns', 'other');
is_stats([], 'they have gone with the extension', 'other');

# ---------------------------------------------------------------------------
# Restarts

sql(q{SELECT etl_incremental_pull('again', 'sale', 'merged', 'id', safety => 'none')});
try_sql(qq{SELECT etl_bulk_copy('merged', '$dir/bad.csv')});
my $all = stats(undef, '*');
like($all, qr/bulk_copy\|\|1\|1\|.*\n.*incremental_pull\|again\|1\|0\|/s, 'counters before the restart');
$node->restart;
is(stats(undef, '*'), $lasting ? $all : '', $lasting ? 'they outlive a restart' : 'they end with the server');
my $log = slurp_file($node->logfile);
unlike($log, qr/corrupted statistics file/, 'the file of statistics is read');

if ($lasting)
{
	sql('SELECT pg_stat_reset()');
	is_stats([], 'pg_stat_reset() resets these, too');
}
sql(qq{SELECT etl_bulk_copy('sale', '$dir/good.csv', force => true, on_error => 'skip')});
is(stats(undef, 'finished, stats_since = last_finished_at'), '1|t', 'counted from nothing');

# A crash.
my $killed = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $killed->query_safe('SELECT pg_backend_pid()');
my $started = sql('SELECT pg_postmaster_start_time()');
Restart::kill_process($node, $pid);
eval { $killed->quit };
is(sql('SELECT pg_postmaster_start_time()'), $started, 'the server did not stop');
is_stats([], 'after a crash they are gone');
sql(qq{SELECT etl_bulk_copy('sale', '$dir/good.csv', force => true, on_error => 'skip')});
is_stats(['bulk_copy||1|0|'], 'and are counted anew');
$node->stop('immediate');
$node->start;
is_stats([], 'likewise after an immediate stop');

# Without the library: other statistics are still there, since the extension
# went first.
if ($lasting)
{
	sql(qq{SELECT etl_bulk_copy('sale', '$dir/good.csv', force => true, on_error => 'skip')});
	settle();
	sql('DROP EXTENSION etl_patterns');
	sql('DROP EXTENSION etl_patterns', 'other');
	sql('CREATE TABLE counted AS SELECT 1');
	$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "''");
	$node->restart;
	is(sql(q{SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'counted'}), 1, 'the statistics of the server are kept');
	unlike(slurp_file($node->logfile), qr/corrupted statistics file/, 'their file is read');
}

$node->stop;
done_testing();
