# Random schedules have the slots that croniter, and Vixie cron's rules, give
# them, by themselves and as jobs; noise is refused; and each slot runs once,
# whatever the clock does.

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
Schedule::run_walks($node, 52);

$node->stop;
done_testing();
