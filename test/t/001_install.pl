# What make install puts where, who may create the extension, and what a
# preloaded library changes.

use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Into a root of its own, for whoever makes packages.
my $root = PostgreSQL::Test::Utils::tempdir;
my %dir = map { my $dir = `pg_config --$_`; chomp $dir; ($_ => $dir) } qw(pkglibdir sharedir);
my @make = ('make', '-s', '-C', "$FindBin::RealBin/../..", 'with_llvm=no', "DESTDIR=$root");

# What make itself was called with is not for this one.
delete @ENV{qw(MAKEFLAGS MAKELEVEL MFLAGS)};
ok(run_log([ @make, 'install' ]), 'make install DESTDIR=...');
chomp(my @installed = sort `cd '$root' && find . -type f`);
my @wanted = map { ".$_" } "$dir{pkglibdir}/etl_patterns.so", map { "$dir{sharedir}/extension/$_" }
  qw(etl_patterns.control etl_patterns--0.1.0.sql etl_patterns--0.1.0--0.2.0.sql etl_patterns--0.2.0.sql);
is(join("\n", @installed), join("\n", sort @wanted), 'the files, and nothing else');
ok(run_log([ @make, 'uninstall' ]), 'make uninstall DESTDIR=...');
is(`find '$root' -type f`, '', 'takes them away again');

my $node = PostgreSQL::Test::Cluster->new('install');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->start;

# A role that may create anything in its database is still not a superuser.
$node->safe_psql('postgres', 'CREATE ROLE app LOGIN');
$node->safe_psql('postgres', 'CREATE DATABASE app OWNER app');
my ($status, $stdout, $stderr) =
  $node->psql('app', 'CREATE EXTENSION etl_patterns', extra_params => [ '-U', 'app' ]);
isnt($status, 0, 'an unprivileged role cannot create the extension');
like($stderr, qr/permission denied to create extension "etl_patterns"/, 'and is told so');

$node->safe_psql('app', 'CREATE EXTENSION etl_patterns');
is( $node->safe_psql('app', "SELECT extversion FROM pg_extension WHERE extname = 'etl_patterns'"),
	$node->safe_psql('app',
		"SELECT default_version FROM pg_available_extensions WHERE name = 'etl_patterns'"),
	'a superuser can, and gets the default version');
$node->safe_psql('app', "LOAD 'etl_patterns'");

# The library also loads at server start, for the workers.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'etl_patterns'");
$node->restart;
is($node->safe_psql('app', 'SHOW shared_preload_libraries'),
	'etl_patterns', 'the library can be preloaded');
is($node->safe_psql('app', "SELECT count(*) FROM pg_extension WHERE extname = 'etl_patterns'"),
	1, 'and the extension is there as before');

$node->stop;
done_testing();
