# pg_upgrade to another major version of PostgreSQL, of a server with jobs,
# watermarks, dead letters and a pipeline that was stopped.  Needs another
# PostgreSQL beside this one: NEW_PG_CONFIG names its pg_config, or it is one that
# Debian has.  Without there is one test, which is skipped.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use State;
use Test::More;

sub major
{
	my ($pg_config) = @_;
	my $version = -x $pg_config ? `$pg_config --version` : '';

	return $version =~ /(\d+)/ ? $1 : 0;
}

# The next major version that there is, with what it takes to build for it.
sub newer
{
	my ($here) = @_;
	my @candidates = $ENV{NEW_PG_CONFIG} // sort glob '/usr/lib/postgresql/*/bin/pg_config';

	foreach my $pg_config (@candidates)
	{
		next unless major($pg_config) > $here;
		chomp(my ($pgxs, $headers, $bin) = map { `$pg_config --$_` } qw(pgxs includedir-server bindir));
		return $pg_config if -f $pgxs && -f "$headers/postgres.h" && -x "$bin/pg_upgrade";
	}
	return;
}

chomp(my $old_bin = `pg_config --bindir`);
my $here = major("$old_bin/pg_config");
my $pg_config = newer($here);

if (!$pg_config)
{
  SKIP: { skip "no PostgreSQL newer than $here with pg_upgrade and headers: set NEW_PG_CONFIG", 1 }
	done_testing();
	exit;
}
my $major = major($pg_config);
my $what = "$here to $major";
my $dir = PostgreSQL::Test::Utils::tempdir;
my $tree = "$FindBin::RealBin/../..";
chmod 0755, $dir;

# An installation of its own of the new version, as test/setup.sh makes one.
mkdir "$dir/$_" or die foreach qw(tree inst work);
ok(run_log([ 'bash', '-ec', q{
	tree=$1 dir=$2 pg_config=$3
	unset MAKEFLAGS MAKELEVEL MFLAGS
	tar -C "$tree" --exclude='*.o' --exclude='*.bc' --exclude='*.so' --exclude=./tmp_check --exclude=./.git -cf - . | tar -C "$dir/tree" -xf -
	for kind in --bindir --pkglibdir --sharedir; do
		from=$($pg_config $kind)
		mkdir -p "$dir/inst$from"
		cp -as "$from/." "$dir/inst$from/"
	done
	bin=$($pg_config --bindir)
	cp --remove-destination -L "$bin"/* "$dir/inst$bin/"
	find "$dir/inst" -name 'etl_patterns*' -exec rm -rf {} +
	make -s -C "$dir/tree" with_llvm=no PG_CONFIG="$pg_config" all
	make -s -C "$dir/tree" with_llvm=no PG_CONFIG="$dir/inst$bin/pg_config" install
}, '-', $tree, $dir, $pg_config ]), "built for $major") or BAIL_OUT("cannot be built for $major");
chomp(my $inst = `$pg_config --bindir`);
$inst = "$dir/inst$inst";
(my $new_path = $inst) =~ s{/bin$}{};

my @init = ('--locale=C', '--encoding=UTF8');
my $old = PostgreSQL::Test::Cluster->new('old_major');
$old->init(extra => [@init]);
$old->append_conf('postgresql.conf', $State::conf);
$old->start;
my $new = PostgreSQL::Test::Cluster->new('new_major', install_path => $new_path);
$new->init(extra => [ @init, $major >= 18 ? '--no-data-checksums' : () ]);
$new->append_conf('postgresql.conf', $State::conf);

my $db = 'etl';
$old->safe_psql('postgres', "CREATE DATABASE $db");
$old->safe_psql($db, 'CREATE SCHEMA functions');
$old->safe_psql($db, 'CREATE EXTENSION etl_patterns SCHEMA functions');
State::make($old, $db, $dir);
my ($before, $columns) = State::rows($old, $db);
$old->safe_psql($db, q{INSERT INTO sale VALUES (7, 70); SELECT functions.etl_job_resume('tick')});
ok($old->poll_query_until($db, q{SELECT count(*) > 0 FROM etl_patterns.job_run WHERE job = 'tick' AND finished_at IS NULL OR slot > now() - interval '5 s'}),
	'a job is active when the server goes down');
$old->stop;

chdir "$dir/work" or die;
$new->command_ok([ "$inst/pg_upgrade", '--old-bindir', $old_bin, '--new-bindir', $inst, '--old-datadir', $old->data_dir,
		'--new-datadir', $new->data_dir, '--username', $ENV{PGUSER} // scalar getpwuid($<), '--socketdir', $old->host,
		'--old-port', $old->port, '--new-port', $new->port ], "$what: pg_upgrade");
$new->start;

sub sql { return $new->safe_psql($db, @_) }

sub fails
{
	my ($statement, $error, $what) = @_;
	my ($status, $out, $err) = $new->psql($db, $statement, on_error_stop => 1);

	isnt($status, 0, "$what: is refused");
	return like($err, $error, $what);
}

is(sql('SHOW server_version_num') =~ /^$major/ ? 'new' : 'old', 'new', "$what: the server is the new one");

# Nothing starts by itself.
ok($new->poll_query_until($db, q{SELECT count(*) = 1 FROM functions.etl_scheduler_status() WHERE database = current_database() AND NOT armed}),
	"$what: the scheduler takes it for a copy");
my $effects = sql(q{SELECT count(*) FROM effect});
is(sql(q{SELECT reason FROM etl_patterns.job_status WHERE job = 'tick'}), 'not armed here', "$what: a job says so");
sleep 2;
is(sql(q{SELECT count(*) FROM effect}), $effects, "$what: no job has run");

# What did not move is as it was: rows of jobs and runs have gone on after they were noted.
delete @$before{ grep { /\.job|alert/ } keys %$before };
State::is_same($new, $db, $before, $columns, $what);

# The pipeline's slot was not taken along.
my ($status, $out, $err) = $new->psql($db, q{SELECT functions.etl_cdc_start('follow')});
like($err, qr/WARNING:.*etl_job_arm/s, "$what: a pipeline says that it does not run");
is(sql('SELECT functions.etl_job_arm()') , '', "$what: armed");
is(sql(q{SELECT state, has_slot FROM etl_patterns.cdc_pipeline}), 'lost|f', "$what: the pipeline knows that its slot is gone");
like(sql(q{SELECT error_message FROM etl_patterns.cdc_status}), qr/copied from another/, "$what: and says so");
fails(q{SELECT functions.etl_cdc_start('follow')}, qr/cannot go on where it was.*etl_cdc_resync\('follow'\)/s,
	"$what: it does not go on, and names the way out");
sql(q{SELECT functions.etl_cdc_resync('follow')});
is(sql(q{SELECT functions.etl_cdc_wait('follow', timeout => '180 s')}), 't', "$what: with resync it does");
is(sql(q{SELECT string_agg(id::text, ' ' ORDER BY id) FROM mirror}), '1 3 5 7', "$what: all rows are there");

State::goes_on($new, $db, $dir, $what);
State::jobs_go_on($new, $db, $what);
is(sql(q{SELECT functions.etl_cdc_wait('follow', timeout => '180 s')}), 't', "$what: the pipeline follows");
is(sql(q{SELECT string_agg(id::text, ' ' ORDER BY id) FROM mirror}), '1 2 3 5 6 7', "$what: and has the changes");
sql(q{SELECT functions.etl_cdc_drop('follow')});

# What pg_upgrade has made is what CREATE EXTENSION makes there.
my $objects = slurp_file("$FindBin::RealBin/../lib/extension_objects.sql");
$new->safe_psql('postgres', 'CREATE DATABASE fresh');
$new->safe_psql('fresh', 'CREATE SCHEMA functions');
$new->safe_psql('fresh', 'CREATE EXTENSION etl_patterns SCHEMA functions');
is(sql($objects), $new->safe_psql('fresh', $objects), "$what: the same objects");

$new->stop;
done_testing();
