#!/usr/bin/perl
#
# generate.pl: the files of the demo.
#
#   generate.pl DIRECTORY
#
# writes into DIRECTORY
#
#   products.csv       the catalogue: semicolons, LATIN1
#   products_new.csv   products that the catalogue lacks at first
#   returns/           one file per day of January 2026, as shops send them
#   late/              the file of January 31, which comes later
#   catalogue/         the catalogue as it is on each day of January 2026
#   corrections.csv    prices that the catalogue had wrong
#   prices.csv         what each product cost on each day on which it was sold
#   planted.csv        which rows are bad, in which way, and where they stand
#   written.csv        how many rows each file holds
#
# The seed is fixed: every run writes the same bytes.

use strict;
use warnings;

my $PRODUCTS = 500;
my $DAYS     = 31;
my $ROWS     = 12_000;       # per day
my $BAD      = 0.003;        # so many of them are bad
my $dir      = shift or die "usage: generate.pl DIRECTORY\n";

srand(20260101);

# Each way in which a row can be bad, and the category of its dead letter.
my @defects = (
	[ 'word for a number',      'type' ],
	[ 'number too large',       'type' ],
	[ 'day that does not exist', 'type' ],
	[ 'field missing',          'structure' ],
	[ 'field too many',         'structure' ],
	[ 'quote never closed',     'structure' ],
	[ 'carriage return inside', 'structure' ],
	[ 'invalid UTF-8',          'encoding' ],
	[ 'NUL byte',               'encoding' ],
	[ 'no product',             'not_null' ],
	[ 'no quantity',            'not_null' ],
	[ 'no date',                'not_null' ],
	[ 'quantity below one',     'check' ],
	[ 'sent twice',             'unique' ],
	[ 'unknown product',        'foreign_key' ]);

my @kinds = qw(Kettle Lamp Headset Jacket Drill Backpack Tent Blender);
my @makers = ("Contoso", "Fabrikam", "Caf\xe9 Royal", "M\xfcller", "Pe\xf1a");
my @reasons = ('damaged', 'wrong size', 'not as described', 'late', 'changed mind');
my @comments = (
	'"Box was open, seal broken"',
	'"said ""new"" on the label"',
	'"Größe passt nicht, leider"',
	'"サイズが合わない"',
	"\"two lines:\nfirst the box, then the rest\"",
	'works but too loud',
	'ne fonctionne pas');

# How each day's file ends its lines, and what else is special about it.
my %line_end = (7 => "\r\n", 8 => 'mixed', 11 => "\r");
my %bom      = (9 => 1);
my %no_last  = (10 => 1);

my $return_id = 0;
my $next_defect = 0;

sub product_line
{
	my ($n) = @_;
	return sprintf("P-%04d;%s %s;%s;%.2f\n", $n, $makers[ $n % @makers ],
		$kinds[ $n % @kinds ], $kinds[ $n % @kinds ], 5 + ($n * 37 % 20000) / 100);
}

sub write_file
{
	my ($path, @lines) = @_;
	open(my $out, '>:raw', "$dir/$path") or die "$dir/$path: $!\n";
	print $out @lines;
	close($out) or die "$dir/$path: $!\n";
}

# The fields of a good row, as they stand in the file.
sub good_row
{
	my ($day) = @_;
	my $comment = rand() < 0.3 ? $comments[ int(rand(@comments)) ] : '';
	return (++$return_id, sprintf('P-%04d', 1 + int(rand($PRODUCTS))),
		sprintf('2026-01-%02d', $day), 1 + int(rand(5)),
		$reasons[ int(rand(@reasons)) ], $comment);
}

# Spoil a row in one way; the fields are: id, product, date, quantity, ...
sub spoil
{
	my ($kind, @f) = @_;

	$f[5] = '';
	$f[3] = 'two'                  if $kind eq 'word for a number';
	$f[3] = '99999999999'          if $kind eq 'number too large';
	$f[2] = '2026-02-30'           if $kind eq 'day that does not exist';
	pop @f                         if $kind eq 'field missing';
	push @f, 'return to shelf 7'   if $kind eq 'field too many';
	$f[3] = "\"$f[3]"            if $kind eq 'quote never closed';
	$f[5] = "first\rsecond"        if $kind eq 'carriage return inside';
	$f[5] = "caf\xe9"              if $kind eq 'invalid UTF-8';
	$f[5] = "what\0ever"           if $kind eq 'NUL byte';
	$f[1] = ''                     if $kind eq 'no product';
	$f[3] = ''                     if $kind eq 'no quantity';
	$f[2] = ''                     if $kind eq 'no date';
	$f[3] = -int(rand(3))          if $kind eq 'quantity below one';
	$f[0] = $f[0] - 1              if $kind eq 'sent twice';
	$f[1] = 'P-9' . sprintf('%03d', int(rand(5))) if $kind eq 'unknown product';
	return @f;
}

# The lines of one day; says which rows are bad and where.
sub day_lines
{
	my ($day, $path, $planted) = @_;
	my $end   = $line_end{$day} // "\n";
	my $lines = ($bom{$day} ? "\xef\xbb\xbf" : '')
	  . 'return_id,sku,returned_on,quantity,reason,comment';
	my $line_no = 1;
	my $after_bad = 1;		# a row that is sent twice follows a good one

	for my $row (1 .. $ROWS)
	{
		my @fields = good_row($day);
		my $eol    = $end eq 'mixed' ? ($row % 3 ? "\n" : "\r\n") : $end;

		$lines .= $eol;
		$line_no++;
		if (rand() < $BAD && !$after_bad)
		{
			my ($kind, $category) = @{ $defects[ $next_defect++ % @defects ] };

			# With CR at line ends there is no such thing as a stray one.
			($kind, $category) = @{ $defects[0] }
			  if $end eq "\r" && $kind eq 'carriage return inside';
			@fields = spoil($kind, @fields);
			push @$planted, "$path,$line_no,$category,$kind\n";
			$after_bad = 1;
		}
		else
		{
			$after_bad = 0;
		}
		my $record = join(',', @fields);
		$lines .= $record;
		$line_no += ($record =~ tr/\n//);
	}
	$lines .= $end eq 'mixed' ? "\n" : $end unless $no_last{$day};
	return $lines;
}

# Does something that happens about once in so many days happen to a product?
sub happens
{
	my ($n, $day, $often) = @_;
	return $day > 1 && $n > 50 && ($n * 7 + $day * 13) % $often == 0;
}

# The product whose history the demo shows: dearer on the 5th, not sold from
# the 8th to the 14th, renamed on the 18th, dearer again on the 22nd, which
# the catalogue says three days late.
my $shown = 42;

# One catalogue for each day, and what the prices really were.
sub write_catalogues
{
	my (@name, @kind, @price);
	my @truth = ("sku,day,price\n");

	for my $n (1 .. $PRODUCTS + $DAYS)
	{
		(undef, $name[$n], $kind[$n], $price[$n]) = split(/;/, product_line($n));
		chomp($price[$n]);
	}
	for my $day (1 .. $DAYS)
	{
		my @lines = ("sku;name;kind;price\n");
		my $date  = sprintf('2026-01-%02d', $day);

		# A new product every day.
		for my $n (1 .. $PRODUCTS + $day)
		{
			my $listed;

			$price[$n] += 1 if happens($n, $day, 97);
			$name[$n] =~ s/( 2026)?$/ 2026/ if happens($n, $day, 251);
			if ($n == $shown)
			{
				next if $day >= 8 && $day <= 14;
				$price[$n] += 3 if $day == 5;
				$price[$n] += 2 if $day == 22;
				$name[$n] .= ' de luxe' if $day == 18;
				$listed = $price[$n] - 2 if $day >= 22 && $day < 25;
			}
			push @lines, sprintf("P-%04d;%s;%s;%.2f\n", $n, $name[$n], $kind[$n],
				$listed // $price[$n]);
			push @truth, sprintf("P-%04d,%s,%.2f\n", $n, $date, $price[$n]);
		}
		write_file("catalogue/$date.csv", @lines);
	}
	write_file('corrections.csv', "sku,price,since\n",
		sprintf("P-%04d,%.2f,2026-01-22\n", $shown, $price[$shown]));
	write_file('prices.csv', @truth);
}

mkdir "$dir/returns";
mkdir "$dir/catalogue";
write_catalogues();
mkdir "$dir/late";
write_file('products.csv', "sku;name;kind;price\n", map { product_line($_) } 1 .. $PRODUCTS);
write_file('products_new.csv', "sku;name;kind;price\n", map { product_line($_) } 9000 .. 9004);

my @planted = ("path,line_no,category,kind\n");
my @written = ("path,rows\n");
for my $day (1 .. $DAYS)
{
	my $path = sprintf('%s/%s/2026-01-%02d.csv', $dir, $day == $DAYS ? 'late' : 'returns', $day);
	my $tool = $day == 15 ? 'zstd' : $day % 3 == 0 ? 'gzip' : '';

	$path .= { zstd => '.zst', gzip => '.gz', '' => '' }->{$tool};
	my $lines = day_lines($day, $path, \@planted);
	push @written, "$path,$ROWS\n";
	open(my $out, $tool ? "| $tool -c >'$path'" : ">$path") or die "$path: $!\n";
	binmode($out);
	print $out $lines;
	close($out) or die "$path: could not write\n";
}
write_file('planted.csv', @planted);
write_file('written.csv', @written);
