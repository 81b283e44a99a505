#!/usr/bin/perl
#
# peak.pl PID OUTPUT: until it gets SIGTERM, looks at the children of the
# process every 50 ms; then writes the peak of private (anonymous) memory of
# the one that had most, in kB.
#
use strict;
use warnings;
use Time::HiRes 'sleep';

my ($parent, $output) = @ARGV;
my $peak = 0;
my $ended = 0;

$SIG{TERM} = sub { $ended = 1 };
until ($ended)
{
	for my $pid (split ' ', slurp("/proc/$parent/task/$parent/children"))
	{
		my ($rss) = slurp("/proc/$pid/status") =~ /^RssAnon:\s*(\d+)/m;

		$peak = $rss if defined $rss && $rss > $peak;
	}
	sleep 0.05;
}
open my $out, '>', $output or die "$output: $!";
print $out "$peak\n";
close $out or die "$output: $!";

# What is in the file; nothing if it has gone.
sub slurp
{
	local $/;
	open my $in, '<', shift or return '';
	return scalar(<$in>) // '';
}
