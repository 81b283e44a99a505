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

# Files of many pieces, with line breaks in quotes, and quotes that break.
my $dir = PostgreSQL::Test::Utils::tempdir();
for my $broken (0, 3, 30)
{
	my @lines = map { qq($_,"line $_\nof ""$_""",) . ($_ % 5 ? 'x' x ($_ % 90) : qq("a,b\r\n\n")) } 1 .. 40_000;

	$lines[ 1300 * $_ + 7 ] = qq($_,"broken,$_) for 1 .. $broken;
	Oracle::spew("$dir/pieces.csv", join "\n", @lines);
	is( $node->safe_psql('postgres', qq{
			SET client_min_messages = error;
			DROP TABLE IF EXISTS oracle.ours; CREATE TABLE oracle.ours (a int, b text, c text);
			SELECT workers.check_file('''$dir/pieces.csv'', header => ''none'', on_error => ''dead_letter''', '{1048576,200000,10001}');
			SELECT count(*) FROM oracle.ours}),
		40_000 - $broken, "many pieces, $broken broken quotes");
}

my $used = $node->safe_psql('postgres',
	'SELECT sum(times) FILTER (WHERE used > 0) > sum(times) / 2, sum(times) FILTER (WHERE used = 4) > 0 FROM workers.used');
is($used, 't|t', 'most of these loads had workers');

$node->stop;
done_testing();
