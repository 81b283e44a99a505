# COPY is the oracle: random files load to the same rows, with the same rejects.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Oracle;
use PostgreSQL::Test::Cluster;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('oracle');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', "fsync = off\nautovacuum = off\n");
$node->start;
Oracle::setup($node);

Oracle::run($node, 120, 2024, 'whole', 'mixed');
Oracle::run($node, 160, 2025, 'broken');
Oracle::run($node, 120, 2026, 'noise');
Oracle::run_constraints($node, 40, 2027);

$node->stop;
done_testing();
