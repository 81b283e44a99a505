# A few random inputs for the CSV reader; 024_csv_fuzz_torture.pl has many.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Fuzz;
use Test::More;

Fuzz::csv(500, $ENV{SEED} // 1);
done_testing();
