# A load inside subtransactions, functions, triggers, and where it must not be.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('transactions');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->start;
my $dir = PostgreSQL::Test::Utils::tempdir();

sub file
{
	my ($name, @lines) = @_;
	my $path = "$dir/$name.csv";
	unlink $path;
	append_to_file($path, join '', map { "$_\n" } @lines);
	return $path;
}

my $good = file('good', 1 .. 5);
my $bad = file('bad', 1, 'x', 3, 'y', 5);
my $twice = file('twice', 11, 12, 11, 13);
my $large = file('large', 1 .. 400_000);
my $load = "header => 'none', force => true";

$node->safe_psql('postgres', q{
	CREATE EXTENSION etl_patterns;
	CREATE TABLE t (a int);
	CREATE TABLE u (a int UNIQUE);
	CREATE FUNCTION state() RETURNS text LANGUAGE sql AS $$
		SELECT format('%s rows, %s letters, %s files, %s runs', (SELECT count(*) FROM t),
			(SELECT count(*) FROM etl_patterns.dead_letter),
			(SELECT count(*) FROM etl_patterns.loaded_file), (SELECT count(*) FROM etl_patterns.run))
	$$;});

# Runs SQL in one session and compares all that it prints; what it did is
# undone afterwards.
sub check
{
	my ($what, $sql, $expected) = @_;
	my ($out, $err);

	$node->psql('postgres', $sql, stdout => \$out, stderr => \$err, on_error_stop => 0);
	$err = join "\n", map { s/^psql:<stdin>:\d+: //r } grep { /ERROR|WARNING|server closed/ } split /\n/, $err;
	is(join("\n", grep { $_ ne '' } $out, $err), $expected, $what);
	$node->safe_psql('postgres',
		'TRUNCATE t, u, etl_patterns.run, etl_patterns.dead_letter, etl_patterns.loaded_file');
	return;
}

# A PL/pgSQL block that catches the error of a load.
sub caught
{
	my ($call) = @_;
	return qq{
		INSERT INTO t VALUES (0);
		DO \$\$
		DECLARE r record;
		BEGIN
			INSERT INTO t VALUES (-1);
			BEGIN
				INSERT INTO t VALUES (-2);
				SELECT * INTO r FROM $call;
			EXCEPTION WHEN OTHERS OR query_canceled THEN
				RAISE WARNING '%: %', SQLSTATE, SQLERRM;
				INSERT INTO t VALUES (-3);
			END;
			INSERT INTO t VALUES (-4);
		END \$\$;
		SELECT state();
		SELECT string_agg(a::text, ' ' ORDER BY a DESC) FROM t;};
}

my $kept = "4 rows, 0 letters, 0 files, 0 runs\n0 -1 -3 -4";

check('caught: abort', caught("etl_bulk_copy('t', '$bad', $load)"),
	qq{$kept\nWARNING:  22P02: invalid input syntax for type integer: "x"});
check('caught: reject_limit',
	caught("etl_bulk_copy('t', '$bad', $load, on_error => 'dead_letter', reject_limit => 1)"),
	"$kept\nWARNING:  22000: load rejected more than 1 rows");
check('caught: reject_ratio',
	caught("etl_bulk_copy('t', '$bad', $load, on_error => 'skip', reject_ratio => 0.1)"),
	"$kept\nWARNING:  22000: load rejected 2 of 5 rows, more than reject_ratio allows");
check('caught: unique violation in a guarded load that goes over its limit',
	caught("etl_bulk_copy('u', '$twice', $load, on_error => 'dead_letter', reject_limit => 0)"),
	"$kept\nWARNING:  22000: load rejected more than 0 rows");
check('caught: no such file', caught("etl_bulk_copy('t', '$dir/none.csv', $load)"),
	qq{$kept\nWARNING:  58P01: could not stat file "$dir/none.csv": No such file or directory});
check('caught: dry run that fails', caught("etl_bulk_copy('t', '$bad', $load, dry_run => true)"),
	qq{$kept\nWARNING:  22P02: invalid input syntax for type integer: "x"});
check('caught: duplicate key with indexes to be rebuilt',
	caught("etl_bulk_copy('u', '$twice', $load, indexes => 'rebuild')"),
	qq{$kept\nWARNING:  23505: duplicate key value violates unique constraint "u_a_key"});
# The load comes to a row that takes for ever, so that it is the load that the
# timeout ends, and nothing else.
for my $mode ('abort', 'dead_letter')
{
	check("caught: cancel, $mode",
		"ALTER TABLE t ADD CONSTRAINT slow CHECK (a <> 200000 OR pg_sleep(600) IS NULL); SET statement_timeout = '2s';"
		  . caught("etl_bulk_copy('t', '$large', $load, on_error => '$mode')")
		  . 'RESET statement_timeout; ALTER TABLE t DROP CONSTRAINT slow',
		"$kept\nWARNING:  57014: canceling statement due to statement timeout");
}

check('savepoints', qq{
	BEGIN;
	SAVEPOINT one;
	SELECT rows_loaded, rows_rejected FROM etl_bulk_copy('t', '$bad', $load, on_error => 'dead_letter');
	SAVEPOINT two;
	SELECT rows_loaded FROM etl_bulk_copy('t', '$good', $load);
	SELECT state();
	ROLLBACK TO two;
	SELECT state();
	SELECT rows_loaded FROM etl_bulk_copy('t', '$bad', $load);
	ROLLBACK TO two;
	SELECT state();
	ROLLBACK TO one;
	SELECT state();
	SELECT rows_loaded FROM etl_bulk_copy('t', '$good', header => 'none');
	RELEASE one;
	COMMIT;
	SELECT state();},
	qq{3|2\n5\n8 rows, 2 letters, 2 files, 2 runs\n3 rows, 2 letters, 1 files, 1 runs\n}
	  . qq{3 rows, 2 letters, 1 files, 1 runs\n0 rows, 0 letters, 0 files, 0 runs\n5\n5 rows, 0 letters, 1 files, 1 runs\n}
	  . qq{ERROR:  invalid input syntax for type integer: "x"});

check('twice in a transaction: the second one skips', qq{
	BEGIN;
	SELECT files_loaded, files_skipped, rows_loaded FROM etl_bulk_copy('t', '$good', header => 'none');
	SELECT files_loaded, files_skipped, rows_loaded FROM etl_bulk_copy('t', '$good', header => 'none');
	COMMIT;
	SELECT state();},
	"1|0|5\n0|1|0\n5 rows, 0 letters, 1 files, 2 runs");

check('after_load of a load that was rolled back', qq{
	BEGIN;
	SAVEPOINT one;
	SELECT rows_loaded FROM etl_bulk_copy('t', '@{[file('away', 1, 2)]}', $load, after_load => 'delete');
	ROLLBACK TO one;
	COMMIT;
	SELECT size FROM pg_stat_file('$dir/away.csv');},
	"2\n4");

check('in a function called from a cursor loop', qq{
	CREATE FUNCTION loads(path text) RETURNS bigint LANGUAGE plpgsql AS \$\$
	BEGIN
		RETURN (SELECT rows_loaded FROM etl_bulk_copy('t', path, $load, on_error => 'dead_letter'));
	END \$\$;
	DO \$\$
	DECLARE
		c CURSOR FOR SELECT p, loads(p) AS n FROM unnest(ARRAY['$good', '$bad', '$good']) p;
		total bigint := 0;
	BEGIN
		FOR r IN c LOOP
			total := total + r.n;
		END LOOP;
		RAISE WARNING 'total %', total;
	END \$\$;
	SELECT state();
	DROP FUNCTION loads;},
	"13 rows, 2 letters, 3 files, 3 runs\nWARNING:  total 13");

check('a cursor that is not read to its end', qq{
	BEGIN;
	DECLARE c CURSOR FOR SELECT n, (etl_bulk_copy('t', '$good', $load)).rows_loaded FROM generate_series(1, 3) n;
	FETCH 1 FROM c;
	CLOSE c;
	COMMIT;
	SELECT state();},
	"1|5\n5 rows, 0 letters, 1 files, 1 runs");

check('from a trigger', qq{
	CREATE TABLE inbox (path text);
	CREATE FUNCTION on_file() RETURNS trigger LANGUAGE plpgsql AS \$\$
	BEGIN
		PERFORM etl_bulk_copy('t', NEW.path, $load, on_error => 'dead_letter');
		RETURN NEW;
	END \$\$;
	CREATE TRIGGER on_file BEFORE INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION on_file();
	INSERT INTO inbox VALUES ('$good'), ('$bad');
	SELECT state();
	DROP TABLE inbox;},
	'8 rows, 2 letters, 2 files, 2 runs');

check('from a trigger of its own target', qq{
	CREATE TABLE chain (a int);
	CREATE FUNCTION chain() RETURNS trigger LANGUAGE plpgsql AS \$\$
	BEGIN
		IF NEW.a = 3 THEN
			PERFORM etl_bulk_copy('t', '$bad', $load, on_error => 'dead_letter');
		END IF;
		RETURN NEW;
	END \$\$;
	CREATE TRIGGER chain AFTER INSERT ON chain FOR EACH ROW EXECUTE FUNCTION chain();
	SELECT rows_loaded FROM etl_bulk_copy('chain', '$good', $load);
	SELECT rows_loaded FROM etl_bulk_copy('chain', '$good', $load, on_error => 'dead_letter');
	SELECT count(*) FROM chain;
	SELECT state();
	DROP TABLE chain;},
	"5\n5\n10\n6 rows, 4 letters, 4 files, 4 runs");

check('serializable', qq{
	BEGIN ISOLATION LEVEL SERIALIZABLE;
	SELECT count(*) FROM t;
	SELECT rows_loaded, rows_rejected FROM etl_bulk_copy('t', '$bad', $load, on_error => 'dead_letter');
	SELECT rows_loaded, rows_rejected FROM etl_bulk_copy('u', '$twice', $load, on_error => 'dead_letter');
	COMMIT;
	SELECT state();},
	"0\n3|2\n3|1\n3 rows, 3 letters, 2 files, 2 runs");

check('in a stable function', qq{
	CREATE FUNCTION steady() RETURNS bigint LANGUAGE plpgsql STABLE AS \$\$
	BEGIN
		RETURN (SELECT rows_loaded FROM etl_bulk_copy('t', '$good', $load, on_error => 'dead_letter'));
	END \$\$;
	SELECT steady();
	SELECT state();
	DROP FUNCTION steady;},
	"5\n5 rows, 0 letters, 1 files, 1 runs");

check('in a read-only transaction', qq{
	BEGIN READ ONLY;
	SELECT FROM etl_bulk_copy('t', '$good', $load);
	ROLLBACK;
	SELECT state();},
	"0 rows, 0 letters, 0 files, 0 runs\nERROR:  cannot execute etl_bulk_copy() in a read-only transaction");

check('a procedure that commits between loads', qq{
	CREATE PROCEDURE steps() LANGUAGE plpgsql AS \$\$
	BEGIN
		PERFORM etl_bulk_copy('t', '$good', $load);
		COMMIT;
		PERFORM etl_bulk_copy('t', '$bad', $load, on_error => 'dead_letter');
		ROLLBACK;
	END \$\$;
	CALL steps();
	SELECT state();
	DROP PROCEDURE steps;},
	'5 rows, 0 letters, 1 files, 1 runs');

check('a table of the same transaction, and a prepared statement', qq{
	BEGIN;
	CREATE TEMP TABLE mine (a int PRIMARY KEY) ON COMMIT DROP;
	PREPARE p AS SELECT rows_loaded, rows_rejected FROM etl_bulk_copy('mine', \$1, $load, on_error => 'dead_letter');
	EXECUTE p('$good');
	EXECUTE p('$good');
	EXECUTE p('$twice');
	SELECT count(*) FROM mine;
	COMMIT;},
	"5|0\n0|5\n3|1\n8");

$node->stop;
done_testing();
