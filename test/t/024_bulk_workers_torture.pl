# The same as 024_bulk_workers.pl, ROUNDS times, from SEED on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Test::More;
use Workers;

plan skip_all => 'for make torture' unless $ENV{ROUNDS};

my $seed = $ENV{SEED} // 1;
my $node = Workers::start('bulk_workers_torture');

for my $round (1 .. $ENV{ROUNDS})
{
	Workers::run($node, 40, $seed * 10000 + $round, 'whole', 'mixed', 'broken', 'broken', 'noise');
}

$node->stop;
done_testing();
