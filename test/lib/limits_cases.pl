# The cases of 021_limits.pl and 021_limits_torture.pl.

use strict;
use warnings;

use IPC::Run ();
use Limits;
use Test::More;

use constant MB => Limits::MB;

my $row = "%d,some text of a row,2024-02-29,1234.56,\"quoted, and \"\"more\"\"\"\n";

# Memory.
sub memory_cases
{
	my ($limits) = @_;
	my $rows = join '', map { sprintf $row, $_ } 0 .. 999;
	my $quoted = join '', map { "\"$_\",\"some text\",\"2024-02-29\",\"1234.56\",\"and\nmore\"\n" } 0 .. 999;
	my $bad = "not a number\n" x 1000;

	my $path = $limits->write_file('rows.csv', $limits->scaled(1024 * MB), '', $rows);
	$limits->memory('rows', 'plain', $path, "on_error => 'dead_letter'");
	$limits->memory('rows, abort', 'plain', $path, "on_error => 'abort'");
	unlink $path;
	$path = $limits->write_file('rows.csv', $limits->scaled(200 * MB), '', $rows);
	$limits->memory('foreign key', 'child', $path, "on_error => 'abort'");
	unlink $path;

	$path = $limits->write_file('quoted.csv', $limits->scaled(1024 * MB), '', $quoted);
	$limits->memory('all fields quoted', 'plain', $path, "on_error => 'dead_letter'");
	unlink $path;

	$path = $limits->write_file('lone.csv', $limits->scaled(1024 * MB), '"', "1,some text,2024-02-29,1234.56,plain\n");
	$limits->memory('lone quote', 'plain', $path, "on_error => 'dead_letter'");
	unlink $path;
	$path = $limits->write_file('lone_words.csv', $limits->scaled(1024 * MB), '"', "word and word\n");
	$limits->memory('lone quote, one column', 'word', $path, "on_error => 'skip'", 16 * MB);
	unlink $path;

	$path = $limits->write_file('record.csv', 100 * MB, '"', "some text\n", "\"\nlast\n");
	$limits->memory('long record', 'word', $path, "on_error => 'dead_letter'", -s $path, '2/0');
	$limits->memory('long record, rejected', 'number', $path, "on_error => 'dead_letter'", -s $path, '2/2');
	unlink $path;

	my $million = $limits->scaled(1_000_000) - $limits->scaled(1_000_000) % 1000;
	$path = $limits->path('bad.csv');
	open my $file, '>:raw', $path or die "could not create \"$path\": $!";
	print $file $bad for 1 .. $million / 1000;
	close $file or die "could not write \"$path\": $!";
	$limits->memory('dead letters', 'number', $path, "on_error => 'dead_letter'", 0, "$million/$million");
	$limits->memory('skipped rows', 'number', $path, "on_error => 'skip'", 0, "$million/$million");
	unlink $path;

	$path = $limits->write_gzip('rows.csv.gz', $limits->scaled(4096 * MB), '', 'x' x 4095 . "\n");
	$limits->memory('gzip', 'number', $path, "on_error => 'skip'");
	unlink $path;
	$path = $limits->write_gzip('lone.csv.gz', $limits->scaled(4096 * MB), '"', 'x' x 4095 . "\n");
	$limits->memory('gzip, lone quote', 'number', $path, "on_error => 'skip'", 16 * MB);
	unlink $path;
	return;
}

# Cancel.
sub cancel_cases
{
	my ($limits, $rounds) = @_;
	my $rows = join '', map { sprintf $row, $_ } 0 .. 999;

	my $path = $limits->write_file('rows.csv', $limits->scaled(300 * MB), '', $rows);
	$limits->cancels('rows', 'plain', $path, "on_error => 'abort'", $rounds);
	$limits->cancels('guarded rows', 'child', $path, "on_error => 'dead_letter'", $rounds);
	$limits->cancels('index rebuild', 'indexed', $path, "indexes => 'rebuild'", $rounds);
	$limits->cancels('unique violations', 'keyed', $path, "on_error => 'skip'", $rounds);
	unlink $path;

	$path = $limits->write_file('bad.csv', $limits->scaled(50 * MB), '', "not a number\n");
	$limits->cancels('dead letters', 'number', $path, "on_error => 'dead_letter'", $rounds);
	unlink $path;

	# the server compresses and shows a long value in one go, hence none longer
	$path = $limits->write_file('record.csv', 40 * MB, '"', "some text\n", "\"\n");
	$limits->cancels('long record', 'word', $path, "on_error => 'dead_letter'", $rounds);
	unlink $path;

	$path = $limits->write_file('rejected.csv', 20 * MB, '"', "some text\n", "\"\n");
	$limits->cancels('long record, rejected', 'number', $path, "on_error => 'dead_letter'", $rounds);
	unlink $path;

	$path = $limits->write_gzip('lone.csv.gz', $limits->scaled(2048 * MB), '"', 'x' x 255 . "\n");
	$limits->cancels('gzip, lone quote', 'plain', $path, "on_error => 'skip'", $rounds);
	unlink $path;

	# a file of this size has been loaded: the new one is hashed first
	my $one = $limits->write_gzip('one.csv.gz', 32 * MB, "1\n", "1\n");
	$path = $limits->write_file('one.csv', $limits->scaled(1000 * MB), "11\n", "1\n");
	truncate $path, $limits->scaled(300 * MB) & ~1;
	$limits->{node}->safe_psql('postgres', "SELECT FROM etl_bulk_copy('number', '$path', header => 'none'); TRUNCATE number");
	rename $path, "$path.2";
	open my $file, '+<:raw', "$path.2" or die;
	print $file "22\n";
	close $file;
	$limits->cancels('hash', 'number', "$path.2", "on_error => 'abort'", $rounds);
	$limits->{node}->safe_psql('postgres', 'TRUNCATE etl_patterns.loaded_file, etl_patterns.run');
	unlink "$path.2", $one;
	return;
}

# Cancel by another session, of a load that waits for a lock.
sub lock_case
{
	my ($limits) = @_;
	my $node = $limits->{node};
	my $path = $limits->write_file('few.csv', 10, '', "1\n");
	my $holder = $node->background_psql('postgres');
	my ($out, $err) = ('', '');

	$holder->query_safe('BEGIN; LOCK TABLE number');
	my $waiter = IPC::Run::start(
		[
			'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c',
			"SELECT rows_loaded FROM etl_bulk_copy('number', '$path', header => 'none', after_load => 'delete')",
			'-c', "SELECT 'goes on'"
		],
		'>', \$out, '2>', \$err);
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%rows_loaded%' AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()");
	$node->safe_psql('postgres',
		"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%rows_loaded%' AND pid <> pg_backend_pid()");
	$waiter->finish;
	like($err, qr/canceling statement due to user request/, 'lock: pg_cancel_backend ends the wait');
	like($out, qr/goes on/, 'lock: the session goes on');
	$holder->quit;
	ok(-e $path, 'lock: the file that was to be deleted is there');
	is($node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM number), (SELECT count(*) FROM etl_patterns.run)'),
		'0|0', 'lock: nothing is left');
	return;
}

1;
