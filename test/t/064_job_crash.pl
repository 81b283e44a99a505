# Whatever is killed, and whenever: a run's worker, the scheduler, the launcher,
# the postmaster.  Each slot of each job has a run or a reason, and each run that
# succeeded took effect once (see Jobs.pm for all that must hold).

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Jobs;
use Test::More;

Jobs::run_crashes('job_crash', 64, 6);
done_testing();
