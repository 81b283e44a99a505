#!/usr/bin/perl
#
# spoil.pl EVERY [whole] < clean.csv > bad.csv
#
# Spoils each EVERY-th line of a file of lineitems, in turn: a value that is no
# number, a date that does not exist, a missing field, a field too many, a
# quote that never closes, and the repetition of an earlier row, which is an
# error only where there is a primary key.  With "whole" no quote is broken.
#
use strict;
use warnings;

my $every = shift;
my @kinds = @ARGV ? (0 .. 3, 5) : (0 .. 5);
my $count = 0;
my @seen;

while (my $line = <STDIN>)
{
	if ($. % $every == 0)
	{
		my $kind = $kinds[ $count++ % @kinds ];

		if ($kind == 0)
		{
			$line =~ s/^((?:[^,]*,){4})/$1x/;
		}
		elsif ($kind == 1)
		{
			$line =~ s/,\d{4}-\d\d-\d\d,/,1996-02-30,/;
		}
		elsif ($kind == 2)
		{
			$line =~ s/^[^,]*,//;
		}
		elsif ($kind == 3)
		{
			$line =~ s/^/1,/;
		}
		elsif ($kind == 4)
		{
			$line =~ s/,(\d)/,"$1/;
		}
		else
		{
			$line = $seen[ rand_index($count) ];
		}
	}
	elsif ($. % $every == 1 && @seen < 1000)
	{
		push @seen, $line;
	}
	print $line;
}

# Some row of those kept, always the same.
sub rand_index
{
	my $n = shift;

	return ($n * 7919) % scalar @seen;
}
