# Random merges do what a plain reference does, whatever the table and path.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Merge;
use PostgreSQL::Test::Cluster;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('merge');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', "fsync = off\nautovacuum = off\n");
$node->start;
Merge::setup($node);

my $seed = $ENV{SEED} // 2030;

Merge::known($node);
Merge::run($node, 'scd2', $seed, 120);
Merge::run($node, 'log', $seed + 1, 200);
Merge::run($node, 'upsert', $seed + 2, 60);

$node->stop;
done_testing();
