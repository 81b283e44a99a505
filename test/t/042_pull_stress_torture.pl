# The same as 042_pull_stress.pl, ROUNDS seconds in all, half a minute each.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use List::Util qw(max);
use PostgreSQL::Test::Cluster;
use Pull;
use Test::More;

plan skip_all => 'for make torture' unless $ENV{ROUNDS};

for my $round (1 .. max(1, int($ENV{ROUNDS} / 30)))
{
	my $node = Pull::start_node("pull_torture_$round");
	Pull::stress($node, ($ENV{SEED} // 1) * 1000 + $round, 30);
	$node->stop;
}
done_testing();
