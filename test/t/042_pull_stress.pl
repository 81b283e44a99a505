# Pulls beside eight writers lose no row and bring none twice, in every safety
# mode but "none", which is shown to lose some.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use Pull;
use Test::More;

my $node = Pull::start_node('pull');
Pull::stress($node, $ENV{SEED} // 2042, 7);
$node->stop;
done_testing();
