# Files are read the same however their bytes are looked at, ROUNDS times, from SEED on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Oracle;
use PostgreSQL::Test::Cluster;
use Test::More;

plan skip_all => 'for make torture' unless $ENV{ROUNDS};

my $seed = $ENV{SEED} // 1;
my $node = PostgreSQL::Test::Cluster->new('csv_scan_torture');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', "fsync = off\nautovacuum = off\n");
$node->start;
Oracle::setup($node);

for my $round (1 .. $ENV{ROUNDS})
{
	Oracle::run_ways($node, 20, $seed * 10000 + $round, 'broken', 'noise', 'whole', 'long');
}

$node->stop;
done_testing();
