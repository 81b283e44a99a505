# The same as 024_csv_fuzz.pl, ROUNDS thousand inputs, from SEED on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Fuzz;
use Test::More;

plan skip_all => 'for make torture' unless $ENV{ROUNDS};

Fuzz::csv(1000 * $ENV{ROUNDS}, $ENV{SEED} // 1);
done_testing();
