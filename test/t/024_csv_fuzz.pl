# A few random inputs for the CSV reader; 024_csv_fuzz_torture.pl has many.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use CsvFuzz;
use Test::More;

CsvFuzz::run(500, $ENV{SEED} // 1);
done_testing();
