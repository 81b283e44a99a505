# The same as 030_scd2_property.pl, ROUNDS times, from SEED on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Merge;
use PostgreSQL::Test::Cluster;
use Test::More;

plan skip_all => 'for make torture' unless $ENV{ROUNDS};

my $seed = $ENV{SEED} // 1;
my $node = PostgreSQL::Test::Cluster->new('merge_torture');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', "fsync = off\nautovacuum = off\n");
$node->start;
Merge::setup($node);
Merge::known($node);

# 200 histories in 8 orders each, whatever ROUNDS is
Merge::run($node, 'log', $seed, 200);
for my $round (1 .. $ENV{ROUNDS})
{
	Merge::run($node, 'scd2', $seed * 10000 + $round, 20);
	Merge::run($node, 'log', $seed * 10000 + $round, 2);
	Merge::run($node, 'upsert', $seed * 10000 + $round, 5);
}

$node->stop;
done_testing();
