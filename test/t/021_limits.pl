# A load takes bounded memory, whatever the file, and answers to cancel.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Limits;
use PostgreSQL::Test::Utils;
use Test::More;

require "$FindBin::RealBin/../lib/limits_cases.pl";

plan skip_all => 'memory is measured with /proc' unless Limits::can_measure();

srand 2028;
my $limits = Limits->new('limits', 0.06);
memory_cases($limits);
cancel_cases($limits, 2);
lock_case($limits);
$limits->{node}->stop;
done_testing();
