# Random bytes for the CSV reader, in a program of its own that is built with
# sanitizers where the compiler has them.

package CsvFuzz;

use strict;
use warnings;

use Cwd;
use File::Copy;
use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

# Reads that many inputs.  One that fails is kept beside the logs, and
# "csv_fuzz FILE" reads it again.
sub run
{
	my ($rounds, $seed) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir;
	my $build = Cwd::abs_path("$FindBin::RealBin/../fuzz/build.sh");
	my $kept = Cwd::abs_path($PostgreSQL::Test::Utils::log_path);

	chdir $dir or die;

	# A buffer that is smaller than what is looked at together, and one that is not.
	foreach my $chunk (32, 1000)
	{
		local $ENV{CHUNK} = $chunk;
		local $ENV{ASAN_OPTIONS} = 'detect_leaks=0';

		ok(run_log([ $build, "$dir/csv_fuzz" ]), "built with a buffer of $chunk bytes") or next;
		ok(run_log([ "$dir/csv_fuzz", $rounds, $seed ]), "buffer of $chunk bytes, $rounds inputs, seed $seed")
		  and next;
		copy("$dir/csv_fuzz.input", "$kept/csv_fuzz_$chunk.input");
		diag("CHUNK=$chunk: the input is csv_fuzz_$chunk.input");
	}
	return;
}

1;
