# The same as 050_schedule.pl, ROUNDS times, from SEED on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use Schedule;
use Test::More;

plan skip_all => 'for make torture' unless $ENV{ROUNDS};

my $seed = $ENV{SEED} // 1;
my $node = PostgreSQL::Test::Cluster->new('schedule_torture');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->start;
Schedule::setup($node);

for my $round (1 .. $ENV{ROUNDS})
{
	Schedule::run_oracles($node, $seed * 10000 + $round, 1000);
	Schedule::run_noise($node, $seed * 10000 + $round, 20000);
	Schedule::run_walks($node, $seed * 10000 + $round);
}

$node->stop;
done_testing();
