# A load with workers is like one without: on random files, and when it ends
# before its time.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Utils;
use Test::More;
use Workers;

my $node = Workers::start('bulk_workers');

Workers::run($node, 20, 3024, 'whole', 'mixed');
Workers::run($node, 30, 3025, 'broken');
Workers::run($node, 20, 3026, 'noise');

my $used = $node->safe_psql('postgres',
	'SELECT sum(times) FILTER (WHERE used > 0) > sum(times) / 2, sum(times) FILTER (WHERE used = 4) > 0 FROM workers.used');
is($used, 't|t', 'most of these loads had workers');

$node->stop;
done_testing();
