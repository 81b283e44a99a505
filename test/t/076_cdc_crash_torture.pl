# The same as 076_cdc_crash.pl, ROUNDS times, from SEED on, twenty-five in each server.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use CdcCrash;
use List::Util qw(min);
use Test::More;

plan skip_all => 'for make torture' unless $ENV{ROUNDS};

my $seed = ($ENV{SEED} // 1) * 1000;

for (my $left = $ENV{ROUNDS}; $left > 0; $left -= 25)
{
	$seed++;
	CdcCrash::run("cdc_torture_$seed", $seed, min($left, 25));
}
done_testing();
