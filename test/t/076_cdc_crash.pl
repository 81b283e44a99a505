# Whatever is killed, and whenever: what applies a pipeline, what reads for it,
# who writes, the postmaster.  Nothing is lost and nothing comes twice, in any
# kind of target (see CdcCrash.pm for all that must hold).

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use CdcCrash;
use Test::More;

CdcCrash::run('cdc_crash', 76, $ENV{ROUNDS} // 8);
done_testing();
