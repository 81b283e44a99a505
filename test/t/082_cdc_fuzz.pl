# A few random messages for the reader of another server's changes;
# 082_cdc_fuzz_torture.pl has many.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Fuzz;
use Test::More;

Fuzz::run('pgoutput', 1000, $ENV{SEED} // 1);
done_testing();
