# Workers of a load end with it, whoever ends whom; and what they leave is what
# a load without them leaves.
#
# Loads stop where a trigger of the target waits for an advisory lock that the
# test holds.  By then there is more in the file than queues take.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use IO::Compress::Gzip ();
use PostgreSQL::Test::Utils;
use Restart;
use Test::More;
use Workers;

plan skip_all => 'processes are looked at with /proc' unless -d "/proc/$$";

my $node = Workers::start('bulk_workers_end');
my $dir = PostgreSQL::Test::Utils::tempdir;
my $rows = 300_000;
my $pad = 'x' x 40;

# All of max_worker_processes but the server's own launcher.
my $free = 11;

chmod 0777, $dir;
$node->append_conf('postgresql.conf', 'restart_after_crash = on');
$node->reload;
$node->safe_psql('postgres', qq{
	CREATE FUNCTION wait_at() RETURNS trigger LANGUAGE plpgsql AS
		\$\$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END \$\$;
	CREATE TABLE t (a int, b text);
	CREATE TRIGGER wait_at BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.a = 10) EXECUTE FUNCTION wait_at();
	COPY (SELECT i, '$pad' FROM generate_series(1, $rows) i) TO '$dir/t.csv' (FORMAT csv);});

# The workers, by their process ids: children of the postmaster.
sub workers
{
	my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
	my @pids;

	for my $stat (glob '/proc/[0-9]*/stat')
	{
		# a process may end while it is looked at
		my ($pid, $parent) = (eval { slurp_file($stat) } // '') =~ /^(\d+) \(.*\) \S (\d+)/s or next;
		push @pids, $pid
		  if $parent == $postmaster && (eval { slurp_file("/proc/$pid/cmdline") } // '') =~ /bulk worker/;
	}
	return @pids;
}

# Wait until there are so many.
sub wait_for_workers
{
	my ($count) = @_;

	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if workers() == $count;
		select undef, undef, undef, 0.1;
	}
	return 0;
}

# Start a load that waits at a row.
sub start_load
{
	my ($workers, $file) = (@_, "$dir/t.csv");
	my $holder = $node->background_psql('postgres', on_error_stop => 0);
	my $loader = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $loader->query_safe('SELECT pg_backend_pid()');

	$holder->query_safe('SELECT pg_advisory_lock(1)');
	$loader->query_until(qr/started/,
		"\\echo started\nSELECT 'loaded', rows_loaded FROM etl_bulk_copy('t', '$file', header => 'none', workers => $workers);\n\\echo ended\n");
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $pid AND wait_event_type = 'Lock' AND wait_event = 'advisory'")
	  or die 'the load did not come to the row';
	# it comes there with the first worker; others may be on their way
	wait_for_workers($workers < $free ? $workers : $free) or die "there are no $workers workers";
	return ($holder, $loader, $pid);
}

# What it prints in the end.
sub end_load
{
	my ($holder, $loader) = @_;

	eval { $holder->query_safe('SELECT pg_advisory_unlock(1)'); };
	eval { $holder->quit; };
	my $out = eval { $loader->query_until(qr/ended/, ''); } // '';
	my $errors = $loader->{stderr};
	$loader->{stderr} = '';
	eval { $loader->quit; };
	return "$out$errors";
}

sub check_nothing_left
{
	my ($what) = @_;

	ok(wait_for_workers(0), "$what: the workers are gone");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), 0, "$what: no rows");
	is($node->safe_psql('postgres', q{SELECT count(*) FROM etl_patterns.run WHERE target = 't'::regclass}), 0, "$what: no state");
	is( $node->safe_psql('postgres',
			"BEGIN; SELECT rows_loaded FROM etl_bulk_copy('t', '$dir/t.csv', header => 'none', workers => 2);"
			  . "SELECT count(*), count(DISTINCT a) FROM t; SELECT detail->'workers'->>'used' FROM etl_patterns.run ORDER BY run_id DESC LIMIT 1; ROLLBACK"),
		"$rows\n$rows|$rows\n2", "$what: then a load works");
	return;
}

# The load is ended.
for my $workers (1, 3)
{
	for my $way ('pg_cancel_backend', 'pg_terminate_backend')
	{
		my ($holder, $loader, $pid) = start_load($workers);
		my @peaks = map { slurp_file("/proc/$_/status") =~ /VmHWM:\s*(\d+)/ } workers();
		is(scalar @peaks, $workers, "$workers workers run");
		is(scalar(grep { $_ > 64 * 1024 } @peaks), 0, "each with less than 64 MB (@peaks kB)");
		$node->safe_psql('postgres', "SELECT $way($pid)");
		ok(wait_for_workers(0), "$way ends them while the other session still waits");
		like(end_load($holder, $loader), qr/canceling statement|terminating connection/, "$way is what the load says");
	}
}
check_nothing_left('the load is ended');

# A worker is ended.
{
	my ($holder, $loader, $pid) = start_load(3);
	kill 'TERM', (workers())[1];
	like(end_load($holder, $loader), qr/lost connection to a background worker of the load/, 'the end of a worker is an error');
	check_nothing_left('a worker is ended');
}

# The file changes when the workers have read it, and the load has not taken all.
{
	$node->append_conf('postgresql.conf', 'etl_patterns.bulk_piece_size = 700000');
	$node->reload;
	$node->safe_psql('postgres', "COPY (SELECT i, '$pad' FROM generate_series(1, 25000) i) TO '$dir/short.csv' (FORMAT csv)");
	my ($holder, $loader, $pid) = start_load(2, "$dir/short.csv");
	sleep 1;
	append_to_file("$dir/short.csv", "25001,late\n");
	like(end_load($holder, $loader), qr/file "$dir\/short.csv" changed while it was read/, 'a file that changes is an error');
	$node->append_conf('postgresql.conf', 'etl_patterns.bulk_piece_size = 1048576');
	$node->reload;
	check_nothing_left('a file changes');
}

# The load fails, and its caller goes on.
is( $node->safe_psql('postgres', qq{
	DO \$\$ BEGIN
		FOR i IN 1 .. 3 LOOP
			BEGIN
				PERFORM etl_bulk_copy('t', '$dir/t.csv', header => 'none', workers => 2, null_strings => '{10000}', force => true);
				PERFORM 1 / (i - 2);
			EXCEPTION WHEN division_by_zero THEN NULL;
			END;
		END LOOP;
	END \$\$;
	SELECT count(*), count(a) FROM t}),
	2 * $rows . '|' . (2 * $rows - 2), 'a load in a subtransaction that fails leaves nothing, others stay');
ok(wait_for_workers(0), 'nor workers');
$node->safe_psql('postgres', 'TRUNCATE t; DELETE FROM etl_patterns.run; DELETE FROM etl_patterns.loaded_file');

# Too few are free.
{
	my ($holder, $loader, $pid) = start_load(64);
	is(scalar workers(), $free, 'all that are free are started');
	is( $node->safe_psql('postgres', qq{
			CREATE TABLE u (a int, b text);
			SELECT rows_loaded FROM etl_bulk_copy('u', '$dir/t.csv', header => 'none', workers => 2);
			SELECT detail->'workers' FROM etl_patterns.run}),
		qq($rows\n{"used": 0, "asked": 2, "reason": "no more background workers are free"}), 'none is left for another load');
	like(end_load($holder, $loader), qr/loaded\|$rows/, 'a load with all of them');
	is( $node->safe_psql('postgres', q{SELECT detail->'workers' FROM etl_patterns.run WHERE target = 't'::regclass}),
		qq({"used": $free, "asked": 64, "reason": "no more background workers are free"}), 'which says so');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM ((TABLE t EXCEPT TABLE u) UNION (TABLE u EXCEPT TABLE t)) x'), 0, 'the same rows');
	$node->safe_psql('postgres', 'TRUNCATE t; DELETE FROM etl_patterns.run; DELETE FROM etl_patterns.loaded_file');
}

# Errors of workers are those of a load without.
my $plain = join '', map { sprintf "%d,%s\n", $_, join '', map { chr 97 + rand 26 } 1 .. 100 } 1 .. 5000;
my $packed;
IO::Compress::Gzip::gzip(\$plain, \$packed);
Oracle::spew("$dir/cut.csv.gz", substr $packed, 0, length($packed) / 2);
Oracle::spew("$dir/bad.csv.gz", substr($packed, 0, length($packed) / 2) . 'rubbish' x 100);
Oracle::spew("$dir/utf16.csv", "\xff\xfe1\0,\0x\0\n\0");
for my $file ('cut.csv.gz', 'bad.csv.gz', 'utf16.csv')
{
	my ($status, $out, @errors);
	for my $workers (0, 1, 2)
	{
		($status, $out, $errors[$workers]) = $node->psql('postgres', "SELECT etl_bulk_copy('u', '$dir/$file', header => 'none', workers => $workers, on_error => 'skip')");
		is($status, 3, "$file, $workers workers: an error");
	}
	is_deeply([ @errors[ 1, 2 ] ], [ @errors[ 0, 0 ] ], "$file: the same words");
}

# A quote that is part of a character, where the server takes bytes as they are:
# what is left of a broken record looks like a good one, and is rejected still.
Oracle::spew("$dir/sjis.csv", "1,|\x83\x7c\n2,b\n3,c\n");
$node->safe_psql('postgres', q{CREATE DATABASE plain ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0});
is( $node->safe_psql('plain', "CREATE EXTENSION etl_patterns; CREATE TABLE s (a int, b text);"
		  . join '', map {
			"SELECT rows_read, rows_loaded, rows_rejected FROM etl_bulk_copy('s', '$dir/sjis.csv', header => 'none', quote => '|',"
			  . " encoding => 'SJIS', on_error => 'skip', force => true, workers => $_);"
		  } 0 .. 2),
	"3|2|1\n3|2|1\n3|2|1", 'a broken record that looks like a good one');

# Long records, good and bad, and many files of different columns and kinds.
my $long = 'lorem ipsum ' x 40_000;
my $file = join "\n", 'a,b', qq(1,"$long"), qq(x,"$long"), '2,"broken', "3,$long", '4,a "b" c', "5,$long,too many", '6,end';
Oracle::spew("$dir/long-1.csv", $file);
IO::Compress::Gzip::gzip(\$file, "$dir/long-2.csv.gz");
Oracle::spew("$dir/long-3.csv", "b\n" . join "\n", map { "row $_" } 1 .. 5000);
Oracle::spew("$dir/long-4.csv", '');
Oracle::spew("$dir/long-$_.csv", "b,a\nfile,$_\n") for 10 .. 29;
is( $node->safe_psql('postgres', qq{
	DROP TABLE IF EXISTS oracle.ours; CREATE TABLE oracle.ours (a int CHECK (a <> 13), b text);
	SELECT workers.check_file('''$dir/long-*'', on_error => ''dead_letter''', '{3000,100000,1000000}');
	SELECT count(*) FROM oracle.ours; SELECT DISTINCT used FROM workers.used ORDER BY 1}),
	"5027\n1\n2\n4", 'long records and many files');

# A time zone and its abbreviations are those of the session.
Oracle::spew("$dir/time.csv", "2026-07-01 12:00:00\n2026-01-01 12:00:00\n2026-01-01 12:00:00Z\n2026-01-01 12:00:00 IST\n");
is( $node->safe_psql('postgres', qq{
	SET TimeZone = 'America/Lima'; SET timezone_abbreviations = 'India';
	DROP TABLE oracle.ours; CREATE TABLE oracle.ours (a timestamptz);
	SELECT workers.check_file('''$dir/time.csv'', header => ''none''', '{16}');
	SET TimeZone = 'Europe/Vienna';
	SELECT workers.check_file('''$dir/time.csv'', header => ''none''', '{16}');
	SET TimeZone = 'UTC'; TABLE oracle.ours}),
	"2026-07-01 10:00:00+00\n2026-01-01 11:00:00+00\n2026-01-01 12:00:00+00\n2026-01-01 06:30:00+00", 'time zones');

# A process is killed: the server starts again, and nothing is left.
for my $victim ('worker', 'load')
{
	my ($holder, $loader, $pid) = start_load(2);
	Restart::kill_process($node, $victim eq 'load' ? $pid : (workers())[0]);
	for my $session ($holder, $loader)
	{
		$session->{run}->kill_kill;
	}
	check_nothing_left("kill -9 of a $victim");
}

$node->stop;
done_testing();
