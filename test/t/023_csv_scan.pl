# Files are read the same however their bytes are looked at.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Oracle;
use PostgreSQL::Test::Cluster;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('csv_scan');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', "fsync = off\nautovacuum = off\n");
$node->start;
Oracle::setup($node);

Oracle::run_ways($node, 60, 2030, 'broken', 'noise', 'whole');
Oracle::run_ways($node, 16, 2031, 'long');

$node->stop;
done_testing();
