# The test of mirrors at length; ROUNDS= and SEED= say how long and which.

use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Cluster;
use Test::More;

plan skip_all => 'for make torture' unless $ENV{ROUNDS};

defined(do "$FindBin::RealBin/072_cdc_mirror.pl") or die $@ || $!;
