# Random schedules have the slots that croniter, and Vixie cron's rules, give
# them; noise is refused.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use Schedule;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('schedule');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->start;
Schedule::setup($node);

Schedule::run_oracles($node, 50, 1000);
Schedule::run_noise($node, 51, 20000);

$node->stop;
done_testing();
