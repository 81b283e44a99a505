# Random merges, compared with merge_reference.sql.  The cases run within the
# server (merge_cases.sql), so that hundreds of them take seconds.

package Merge;

use strict;
use warnings;

use File::Basename qw(dirname);
use PostgreSQL::Test::Utils;
use Test::More;

# What is checked, by the name of its procedure.
my %titles = (
	scd2 => 'merges of versions are those of the reference, by both paths, and once only',
	log => 'histories with a change log do not depend on batches, order and redelivery',
	upsert => 'upserts are those of the reference, by both paths, and once only');

sub setup
{
	my ($node) = @_;
	my $dir = dirname(__FILE__);

	$node->safe_psql('postgres', join ';', 'CREATE EXTENSION etl_patterns',
		"ALTER DATABASE postgres SET timezone = 'UTC'");
	$node->safe_psql('postgres', slurp_file("$dir/$_"))
	  for 'merge_reference.sql', 'merge_cases.sql', 'merge_known.sql';
	return;
}

# The reference itself: a few results that were written by hand.
sub known
{
	my ($node) = @_;
	my $wrong = $node->safe_psql('postgres',
		'SET client_min_messages = warning; SELECT * FROM reference.check_known()');

	is($wrong, '', 'the reference knows the answers that were written by hand');
	return;
}

# So many cases of one kind; what is wrong goes to the test's output.
sub run
{
	my ($node, $kind, $seed, $cases) = @_;
	my ($stdout, $stderr);

	note "seed $seed, cases 1 to $cases of $kind";
	$node->psql(
		'postgres',
		qq{SET client_min_messages = warning; SET synchronous_commit = off;
		TRUNCATE reference.problem;
		CALL reference.check_$kind($seed, 1, $cases);
		SELECT DISTINCT ON (number) format(E'seed %s, case %s, %s, %s: %s\n%s', seed, number, shape, path, what, details)
		FROM reference.problem ORDER BY number, shape, path LIMIT 5;},
		stdout => \$stdout,
		stderr => \$stderr,
		on_error_stop => 0);
	$stdout //= '';
	$stderr //= '';
	diag substr("$stdout\n$stderr", 0, 8000) if "$stdout$stderr" ne '';
	is("$stdout$stderr" eq '' ? 0 : 1, 0, "seed $seed: $cases cases: $titles{$kind}");
	return;
}

1;
