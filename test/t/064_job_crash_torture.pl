# The same as 064_job_crash.pl, ROUNDS times, from SEED on, fifty in each server.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Jobs;
use List::Util qw(min);
use Test::More;

plan skip_all => 'for make torture' unless $ENV{ROUNDS};

my $seed = ($ENV{SEED} // 1) * 1000;

for (my $left = $ENV{ROUNDS}; $left > 0; $left -= 50)
{
	$seed++;
	Jobs::run_crashes("job_torture_$seed", $seed, min($left, 50));
}
done_testing();
