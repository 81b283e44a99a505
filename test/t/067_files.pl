# Jobs on file arrival: each file is handed over once, when it has stopped
# growing, whatever its name; nothing that is there stands in the way of others.
#
# First a client runs what is due, with a clock that the test sets ahead; then
# the scheduler does, with restarts and crashes in between.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Jobs;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Restart;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('files');
$node->init(extra => [ '--encoding=UTF8', '--locale=C.UTF-8' ]);
$node->append_conf('postgresql.conf', "etl_patterns.file_settle_time = '5min'\n");
$node->start;
$node->safe_psql('postgres', q{
	CREATE ROLE loader LOGIN;
	GRANT pg_read_server_files TO loader;
	CREATE EXTENSION etl_patterns;
	CREATE TABLE log (id int GENERATED ALWAYS AS IDENTITY, job text, path text, slot text);
	CREATE FUNCTION note(job text) RETURNS void LANGUAGE sql AS $$
		INSERT INTO log (job, path, slot) VALUES (job, current_setting('etl_patterns.event_payload'),
			current_setting('etl_patterns.logical_time')) $$;
	GRANT ALL ON log TO loader;
});

my $root = PostgreSQL::Test::Utils::tempdir();
my $clock = 0;
my $number = 0;
my $dir;

# ----------------------------------------------------------------------
# helpers

# A new directory, and a job on a pattern below it.
sub new_job
{
	my ($pattern, $name) = @_;

	$dir = "$root/in" . ++$number;
	mkdir $dir or die "could not create \"$dir\": $!";
	return make_job("$dir/" . ($pattern // '*.csv'), $name // "job$number");
}

sub make_job
{
	my ($pattern, $job) = @_;

	as_loader("SELECT etl_job_create('$job', \$p\$on file:$pattern\$p\$, 'SELECT note(''$job'')')");
	return $job;
}

sub as_loader
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql, extra_params => [ '-U', 'loader' ]);
}

# So many minutes later: run what is due, and return the paths that were handed
# over now, in their order.
sub later
{
	my ($minutes) = @_;
	my $last = $node->safe_psql('postgres', 'SELECT coalesce(max(id), 0) FROM log');

	set_clock($minutes);
	as_loader('CALL etl_run_due_jobs()');
	return paths("id > $last");
}

# The clock of jobs is a setting, for all sessions that begin from now on.  It goes
# by minutes, beside which the seconds that the test itself takes do not count.
sub set_clock
{
	my ($minutes) = @_;

	$clock += 60 * $minutes;
	$node->safe_psql('postgres', "ALTER DATABASE postgres SET etl_patterns.clock_offset = $clock");
	return;
}

# Paths in the log, without the directory, in order.
sub paths
{
	my ($where) = @_;

	return $node->safe_psql('postgres', qq{SELECT string_agg(replace(path, '$dir/', ''), ' ' ORDER BY id)
		FROM log WHERE $where});
}

sub put
{
	my ($name, $content) = @_;

	open my $file, '>:raw', "$dir/$name" or die "could not create \"$dir/$name\": $!";
	print $file $content // "a\n1\n";
	close $file or die "could not write \"$dir/$name\": $!";
	return;
}

sub one
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# What job_file has of a job: name, and whether it was handed over.
sub rows
{
	my ($job) = @_;

	return one(qq{SELECT string_agg(replace(path, '$dir/', '') || CASE WHEN f.job_run_id IS NULL THEN '' ELSE '+' END, ' ' ORDER BY path)
		FROM etl_patterns.job_file f JOIN etl_patterns.job USING (job_id) WHERE job = '$job'});
}

sub reason
{
	my ($job) = @_;

	return one("SELECT state || ': ' || coalesce(reason, '-') FROM etl_patterns.job WHERE job = '$job'");
}

# All rows, with where they are and who wrote them.
sub places
{
	return one(q{SELECT string_agg(ctid || ' ' || xmin, ' ' ORDER BY job_id, path) FROM etl_patterns.job_file})
	  . one(q{SELECT string_agg(ctid || ' ' || xmin, ' ' ORDER BY job_id) FROM etl_patterns.job});
}

# ----------------------------------------------------------------------
# arrival

my $job = new_job();
put('old.csv');
utime 0, 0, "$dir/old.csv";
put('other.txt');
is(later(0), '', 'a file that was there before has to settle, too');
is(rows($job), 'old.csv', 'it is seen');
is(later(4), '', 'nothing before its time');
is(later(1), 'old.csv', 'then it is handed over');
is(rows($job), 'old.csv+', 'that is noted');
my $places = places();
is(later(100), '', 'and not again');
is(later(100), '', 'nor later');
is(places(), $places, 'where nothing is new nothing is written');
is(one("SELECT count(*) FROM etl_patterns.job_run WHERE origin = 'file' AND payload = '$dir/old.csv' AND slot IS NOT NULL"),
	1, 'one run has it as payload');

# A file that grows is not handed over, nor one that is written anew.
put('grows.csv', "a\n");
is(later(0), '', 'a new file');
for my $round (1 .. 3)
{
	append_to_file("$dir/grows.csv", "more\n");
	is(later(10), '', "it grows ($round)");
}
append_to_file("$dir/grows.csv", '');
utime 1, 1, "$dir/grows.csv";
is(later(10), '', 'another time is a change, too');
is(later(5), 'grows.csv', 'it has settled');
is(later(100), '', 'once');

# The same name again is another file, if its size or its time is another one.
put('grows.csv', "a\nother\n");
later(0);
is(later(5), 'grows.csv', 'another size and time');
utime 1, 1, "$dir/grows.csv";
later(0);
is(later(5), 'grows.csv', 'only another time');
put('grows.csv', "a\n");
utime 1, 1, "$dir/grows.csv";
later(0);
is(later(5), 'grows.csv', 'only another size');
is(later(100), '', 'once');

# Gone and there again.
unlink "$dir/grows.csv" or die $!;
is(later(1), '', 'a file goes');
is(rows($job), 'old.csv+', 'and its row with it');
put('grows.csv', "a\n");
utime 1, 1, "$dir/grows.csv";
later(1);
is(later(5), 'grows.csv', 'what comes again is new');
put('short.csv');
later(1);
unlink "$dir/short.csv";
is(later(5), '', 'what goes before it has settled was never there');
is(rows($job), 'grows.csv+ old.csv+', 'and has no row');

# Written elsewhere and renamed into place.
put('.moved.csv');
put('moved.tmp');
is(later(10), '', 'names that the pattern does not match');
rename "$dir/moved.tmp", "$dir/moved.csv";
is(later(0), '', 'renamed');
is(later(5), 'moved.csv', 'a file that was renamed into place');
put('moved.tmp', "a\nmuch more\n");
rename "$dir/moved.tmp", "$dir/moved.csv";
later(0);
is(later(5), 'moved.csv', 'over another one');
put('first.csv');
later(1);
put('moved.tmp', "a\nmore and more\n");
later(3);
rename "$dir/moved.tmp", "$dir/first.csv";
is(later(2), '', 'another file in its place has its own time to settle');
is(later(5), 'first.csv', 'and is handed over');
is(later(100), '', 'once');

# Those that came first are first; names decide where times do not.
$job = new_job();
put($_) foreach (qw(c.csv a.csv b.csv d.csv));
utime 30, 30, "$dir/c.csv";
utime 20, 20, "$dir/$_" foreach (map { "$_.csv" } qw(d b));
utime 10, 10, "$dir/a.csv";
later(0);
is(later(5), 'a.csv b.csv d.csv c.csv', 'in the order of their times');
is(one("SELECT array_agg(path ORDER BY slot) = array_agg(path ORDER BY id) FROM log WHERE job = '$job'"),
	't', 'which is that of their slots');

# Two jobs on the same files; no time to settle; a single name.
make_job("$dir/*.csv", 'twin');
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET etl_patterns.file_settle_time = 0');
is(later(0), 'a.csv b.csv d.csv c.csv', 'another job gets them, too; at once');
make_job("$dir/single.csv", 'single');
is(later(0), '', 'a single name that is not there');
put('single.csv');
is(later(0), 'single.csv single.csv single.csv', 'and then is');
make_job("$dir/[x].csv", 'magic');
put('[x].csv');
put('x.csv');
later(0);
is(paths("job = 'magic'"), '[x].csv', 'a name that is there is no pattern');
unlink "$dir/[x].csv";
later(0);
is(paths("job = 'magic'"), '[x].csv x.csv', 'without it, it is one');
as_loader("SELECT etl_job_drop('$_')") foreach (qw(twin single magic));
is(one("SELECT count(*) FROM etl_patterns.job_file LEFT JOIN etl_patterns.job USING (job_id) WHERE job IS NULL"),
	0, 'a job that is dropped forgets its files');
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET etl_patterns.file_settle_time');

# ----------------------------------------------------------------------
# names

$job = new_job('*');
my @names = (
	'with space.csv', "it's", '"quoted"', "two\nlines", "tab\t", 'back\\slash', 'a*b', '[a]', '?', '%s%n', '-rf',
	'$HOME', '`id`', '{a,b}', '~', ',', ';', "\x{c3}\x{a4}\x{e2}\x{82}\x{ac}", 'E\'x\'', "\x01", 'x' x 255);
my @wrong = ("\xff", "\x{c3}", "a\x{e2}\x{82}", "a\x{ed}\x{a0}\x{80}'\\", "\x{f0}" x 255);
put($_) foreach (@names, @wrong);
later(0);
later(5);
is(later(100), '', 'names: all at once');
my $found = one(qq{SELECT string_agg(encode(convert_to(substr(path, length('$dir/') + 1), 'UTF8'), 'hex'), ' ' ORDER BY path COLLATE "C") FROM log WHERE job = '$job'});
is($found, join(' ', map { unpack 'H*', $_ } sort @names), 'names: each once, as it is');
my $skipped = one(qq{SELECT count(*), count(DISTINCT payload), min(reason), min(reason) = max(reason), bool_and(finished_at IS NOT NULL)
	FROM etl_patterns.job_run WHERE job = '$job' AND status = 'skipped'});
is($skipped, scalar(@wrong) . '|' . scalar(@wrong) . '|file name is not valid text|t|t', 'names that are no text are skipped, and say so');
is(one(qq{SELECT payload FROM etl_patterns.job_run WHERE job = '$job' AND status = 'skipped' AND payload LIKE '%xed%'}),
	"E'$dir/a\\xed\\xa0\\x80\\'\\\\'", 'names: how one is shown');
is(one(qq{SELECT count(*), count(job_run_id) FROM etl_patterns.job_file WHERE job_id = (SELECT job_id FROM etl_patterns.job WHERE job = '$job')}),
	(@names + @wrong) . '|' . (@names + @wrong), 'names: all are remembered');
unlink "$dir/$_" foreach (@names, @wrong);
later(1);
is(rows($job), '', 'names: all are forgotten');

# Paths that no index could hold.
my $deep = $dir;
mkdir($deep .= '/' . ($_ x 250)) or die $! foreach ('a' .. 'j');
make_job($dir . '/*' x 11, 'deep');
my $top = $dir;
$dir = $deep;
put($_) foreach (qw(one two));
later(0);
is(later(5), 'one two', 'paths of thousands of bytes');
is(later(100), '', 'once');
unlink "$dir/one";
later(1);
is(one(q{SELECT count(*) FROM etl_patterns.job_file JOIN etl_patterns.job USING (job_id) WHERE job = 'deep'}), 1, 'and they go');
$dir = $top;
as_loader("SELECT etl_job_drop('$_')") foreach ('deep', $job);

# ----------------------------------------------------------------------
# what is no file, and what cannot be read

$job = new_job();
mkdir "$dir/directory.csv";
system_or_bail('mkfifo', "$dir/pipe.csv");
symlink "$dir/nowhere", "$dir/dangling.csv";
symlink "$dir/directory.csv", "$dir/to_directory.csv";
put('target');
symlink "$dir/target", "$dir/link.csv";
put('secret.csv');
chmod 0, "$dir/secret.csv";
later(0);
is(rows($job), 'link.csv secret.csv', 'files, and links to files');
is(later(5), 'link.csv secret.csv', 'also one that cannot be read: its job is to say so');
put('target', "a\nnew\n");
later(0);
is(later(5), 'link.csv', 'a link is what it points to');
is(reason($job), 'active: -', 'that is no reason to complain');

SKIP:
{
	skip 'root reads everything', 9 if $> == 0;
	put('late.csv');
	later(0);
	chmod 0, $dir;
	is(later(5), '', 'a directory that cannot be read');
	like(reason($job), qr/^active: could not read "\Q$dir\E": /, 'says so');
	$places = places();
	later(5);
	is(places(), $places, 'once');
	chmod 0311, $dir;
	is(later(5), '', 'nor listed');
	is(rows($job), 'late.csv link.csv+ secret.csv+', 'no file is forgotten');
	is(one("SELECT reason FROM etl_patterns.job_status WHERE job = '$job'"), one("SELECT reason FROM etl_patterns.job WHERE job = '$job'"),
		'job_status has it');
	chmod 0755, $dir;
	is(later(1), 'late.csv', 'when it can be read only what is new is handed over');
	is(reason($job), 'active: -', 'and all is well');
	is(one("SELECT count(*) FROM etl_patterns.alert"), 0, 'no alert for that');
}
symlink 'loop.csv', "$dir/loop.csv";
put('beside.csv');
later(0);
like(reason($job), qr/^active: could not read "\Q$dir\E\/loop\.csv": /, 'a link to itself');
like(later(5), qr/^beside\.csv$/, 'costs the others nothing');
unlink "$dir/loop.csv";
system_or_bail('rm', '-r', $dir);
later(1);
like(reason($job), qr/^active: could not read "\Q$dir\E": /, 'a directory that is gone');
is(rows($job), '', 'takes its files along');
mkdir $dir;
put('again.csv');
later(1);
is(later(5), 'again.csv', 'and may come back');
is(reason($job), 'active: -', 'as if nothing had been');
make_job("$dir/missing/single.csv", 'missing');
later(0);
like(reason('missing'), qr/^active: could not read "\Q$dir\E\/missing": /, 'a directory that is not there yet');
as_loader(q{SELECT etl_job_drop('missing')});

# ----------------------------------------------------------------------
# jobs

# Who may not read files any more.
$node->safe_psql('postgres', 'REVOKE pg_read_server_files FROM loader');
put('unseen.csv');
is(later(10), '', 'the owner has lost the right');
like(reason($job), qr/^broken: .*pg_read_server_files/, 'the job is broken');
later(10);
is(one("SELECT string_agg(kind, ' ') FROM etl_patterns.alert WHERE job = '$job'"), 'broken', 'with one alert');
$node->safe_psql('postgres', 'GRANT pg_read_server_files TO loader');
is(later(10), '', 'that is not mended by itself');
as_loader("SELECT etl_job_resume('$_')") foreach (split /\n/, one(q{SELECT job FROM etl_patterns.job WHERE state = 'broken'}));
is(reason($job), 'active: -', 'resumed');
later(0);
is(later(5), 'unseen.csv', 'what came meanwhile is handed over, and nothing else');

# Paused, and resumed.
as_loader("SELECT etl_job_pause('$job')");
put('paused.csv');
is(later(10), '', 'nothing while it is paused');
as_loader("SELECT etl_job_resume('$job')");
later(0);
is(later(5), 'paused.csv', 'but afterwards');

# Another pattern, and none.
put('now.txt');
as_loader("SELECT etl_job_alter('$job', schedule => 'on file:$dir/*.txt')");
later(0);
is(rows($job), 'now.txt', 'another pattern: other files');
is(later(5), 'now.txt', 'are handed over');
as_loader("SELECT etl_job_alter('$job', schedule => 'on something')");
is(rows($job), '', 'no pattern: no files');
as_loader("SELECT etl_job_drop('$job')");

# A file is not lost with the run that it was handed to.
$job = new_job();
put('fails.csv');
as_loader("SELECT etl_job_alter('$job', command => 'SELECT 1 / 0')");
later(0);
later(5);
is(one("SELECT string_agg(attempt || ' ' || status || ' ' || (payload LIKE '%fails.csv')::text, ', ' ORDER BY attempt) FROM etl_patterns.job_run WHERE job = '$job'"),
	'1 failed true', 'a file whose run fails');
later(5);
is(one("SELECT count(*) FROM etl_patterns.job_run WHERE job = '$job'"), 1, 'is not handed over again');
as_loader("SELECT etl_job_drop('$job')");

# ----------------------------------------------------------------------
# many, and restarts

$job = new_job();
put(sprintf('%04d.csv', $_)) foreach (1 .. 2000);
later(0);
is(one("SELECT count(*), count(f.job_run_id) FROM etl_patterns.job_file f JOIN etl_patterns.job USING (job_id) WHERE job = '$job'"),
	'2000|0', '2000 files are seen');

# What was only seen before a crash may have to be seen again.
$node->stop('immediate');
$node->start;
later(0);
later(5);
is(one("SELECT count(*), count(DISTINCT path) FROM log WHERE job = '$job'"), '2000|2000', '2000 files are handed over');
is(one("SELECT count(*) FROM etl_patterns.job_run WHERE job = '$job' AND status <> 'succeeded'"), 0, 'and loaded');
$node->stop('immediate');
$node->start;
$places = places();
later(5);
is(one("SELECT count(*) FROM log WHERE job = '$job'"), 2000, 'once, also after a crash');
is(places(), $places, 'and written of once');

# With so many runs waiting files wait for their turn.
as_loader("SELECT etl_job_alter('$job', command => 'SELECT pg_sleep(0), note(''$job'')')");
put(sprintf('more%04d.csv', $_)) foreach (1 .. 1200);
later(0);
set_clock(5);
as_loader('CALL etl_run_due_jobs(1)');
is(one("SELECT count(*) FROM etl_patterns.job_run WHERE job = '$job' AND status = 'waiting'"), 999, 'no more than 1000 wait');
later(0);
is(one("SELECT count(*), count(DISTINCT path) FROM log WHERE job = '$job'"), '3200|3200', 'and all come');

# Several clients look at once.
put(sprintf('shared%03d.csv', $_)) foreach (1 .. 200);
later(0);
set_clock(5);
my @clients;
foreach my $i (1 .. 4)
{
	my ($in, $out, $err) = ("CALL etl_run_due_jobs();\n" x 3, '', '');

	push @clients, { err => \$err, run => IPC::Run::start([ 'psql', '-XAtq', '-U', 'loader', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err) };
}
$_->{run}->finish foreach (@clients);
is(join('', map { ${ $_->{err} } } @clients), '', 'four clients at once');
is(one("SELECT count(*), count(DISTINCT path) FROM log WHERE job = '$job' AND path LIKE '%shared%'"), '200|200', 'each file is handed over once');
as_loader("SELECT etl_job_drop('$job')");
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET etl_patterns.clock_offset; TRUNCATE log');

# ----------------------------------------------------------------------
# the scheduler

$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'etl_patterns'
restart_after_crash = on
etl_patterns.file_settle_time = '100ms'
});
$node->restart;
$job = new_job();
as_loader("SELECT etl_job_alter('$job', max_attempts => 10, retry_delay => '0.1 s', retry_max_delay => '0.1 s')");
put('alone.csv');
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM log WHERE path = '$dir/alone.csv'"), 'the scheduler hands over a file');

# Files come, renamed into place, while its server is stopped, its scheduler
# killed, and the whole server crashes.
sub bring
{
	my ($name) = @_;

	put("$name.tmp", "$name\n");
	rename "$dir/$name.tmp", "$dir/$name.csv" or die $!;
	return;
}

sub kill_scheduler
{
	my $pid = one(q{SELECT pid FROM pg_stat_activity WHERE backend_type LIKE '%scheduler%' AND datname = 'postgres' LIMIT 1});

	Restart::kill_process($node, $pid);
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type LIKE '%scheduler%' AND datname = 'postgres' AND pid <> $pid") or die 'no other scheduler came';
	return;
}

my $brought = 0;
foreach my $event (sub { $node->restart }, \&kill_scheduler, sub { $node->stop('immediate'); $node->start }, sub { })
{
	bring('run' . $brought++) foreach (1 .. 50);
	$node->poll_query_until('postgres', "SELECT count(*) > 0 FROM log WHERE path LIKE '%run' || $brought - 10 || '.csv'")
	  or die 'files did not arrive';
	$event->();
}
ok($node->poll_query_until('postgres', "SELECT count(DISTINCT path) = $brought FROM log WHERE path LIKE '%/run%'"),
	"$brought files are handed over in spite of restarts and crashes");
is(one(q{SELECT count(*) - count(DISTINCT path) FROM log}), 0, 'each once');
is(one(q{SELECT count(*) FROM etl_patterns.job_run r WHERE origin = 'file' AND status IN ('waiting', 'running')
	AND EXISTS (SELECT FROM log WHERE path = r.payload)}), 0, 'no run of them is left');
$node->stop;

done_testing();
