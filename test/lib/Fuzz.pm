# Random bytes for code that reads what comes from outside, in a program of its
# own that is built with sanitizers where the compiler has them.

package Fuzz;

use strict;
use warnings;

use Cwd;
use File::Copy;
use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

# Reads that many inputs of a kind (csv, pgoutput).  One that fails is kept
# beside the logs, and "csv_fuzz FILE" reads it again.
sub run
{
	my ($kind, $rounds, $seed, @chunks) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir;
	my $build = Cwd::abs_path("$FindBin::RealBin/../fuzz/build.sh");
	my $kept = Cwd::abs_path($PostgreSQL::Test::Utils::log_path);

	chdir $dir or die;
	foreach my $chunk (@chunks ? @chunks : '')
	{
		my $what = $chunk ? "$kind, buffer of $chunk bytes" : $kind;

		local $ENV{CHUNK} = $chunk;
		local $ENV{ASAN_OPTIONS} = 'detect_leaks=0';

		ok(run_log([ $build, "$dir/${kind}_fuzz", $kind ]), "$what: built") or next;
		ok(run_log([ "$dir/${kind}_fuzz", $rounds, $seed ]), "$what: $rounds inputs, seed $seed")
		  and next;
		copy("$dir/fuzz.input", "$kept/${kind}_fuzz$chunk.input");
		diag("$what: the input is ${kind}_fuzz$chunk.input");
	}
	return;
}

# The sizes of the CSV reader's buffer: one that is smaller than what is looked
# at together, and one that is not.
sub csv
{
	my ($rounds, $seed) = @_;

	return run('csv', $rounds, $seed, 32, 1000);
}

1;
