# 021_limits.pl with large files, and cancels at ROUNDS moments of each load.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Limits;
use PostgreSQL::Test::Utils;
use Test::More;

require "$FindBin::RealBin/../lib/limits_cases.pl";

plan skip_all => 'for make torture' unless $ENV{ROUNDS} && Limits::can_measure();

srand($ENV{SEED} // 1);
my $limits = Limits->new('limits_torture', 1);
memory_cases($limits);
cancel_cases($limits, 2 + $ENV{ROUNDS} / 20);
lock_case($limits);
$limits->{node}->stop;
done_testing();
