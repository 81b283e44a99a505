# Random values of many types: a load accepts and refuses them as COPY does.
#
# The oracle is COPY, one file per row, so that each row's error is seen.  The
# same rows as one file go through etl_bulk_copy.  Values, their storage size,
# and the code and text of every error must agree.  SEED= repeats a run, and
# ROUNDS= says how many rows each type gets.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{SEED} // 20;
my $rounds = $ENV{ROUNDS} // 150;

# Each type: valid and nearly valid values to start from, and the characters
# to spoil them with.
my @ints = (
	[ qw(0 -1 +1 007 32767 32768 -32768 2147483647 2147483648 -2147483648
		9223372036854775807 9223372036854775808 -9223372036854775808), ' 12', '12 ', '' ],
	'0123456789+- .x');
my @floats = (
	[ qw(0 -0 1.5 -123456.789 0.1 0.30000000000000004 9007199254740993 16777217
		1e10 1E+308 1e309 1e-320 1e-400 3.4028236e38 Infinity NaN .5 5.), '' ],
	'0123456789+-. e');
my @numerics = (
	[ qw(0 -0.00 1.5 0.01 9999999999999.99 99999999999999 10000 0.0001 12.3400
		.5 5. NaN Infinity 1e5 999.995), '1234567890' x 5 . '.' . '0987654321' x 7, ' 1', '' ],
	'0123456789+-. e');
my @dates = (
	[ qw(2020-01-01 2020-02-29 2021-02-29 1900-02-29 0000-01-01 0001-01-01 9999-12-31
		10000-01-01 5874897-12-31 2020-1-1 01/02/2020 20200101 infinity), 'Jan 1 2020',
		'0044-03-15 BC', '' ],
	'0123456789-/ ');
my @times = (
	[ '2020-01-01 00:00:00', '2020-02-29 23:59:59.999999', '2020-01-01 24:00:00',
		'2020-06-30 23:59:60', '2020-01-01T12:34:56.789', '2020-01-01 12:34:56.1234567',
		'294277-01-01 00:00:00', '0000-01-01 00:00:00', '2020-01-01 12:34:56Z',
		'2020-01-01 12:34:56+15:59', '2020-01-01 12:34:56+16', '2020-01-01 12:34:56-05:30',
		'2020-03-29 02:30:00', '2020-10-25 02:30:00', '1883-11-18 12:03:57',
		'2020-01-01 12:34:56 Europe/Berlin', '2020-01-01', '-infinity', '' ],
	'0123456789-:. +TZ');
my @strings = (
	[ '', 'a', 'abcde', 'abcdef', 'abcde  ', '     ', "\xc3\xa4\xc3\xb6", 'say "hi"',
		'a,b', '\x00fF', '\x0', '\001', '\\' ],
	'ab xX01,"');

my %types = (
	'smallint' => \@ints,
	'integer' => \@ints,
	'bigint' => \@ints,
	'positive' => \@ints,
	'real' => \@floats,
	'double precision' => \@floats,
	'numeric' => \@numerics,
	'numeric(15,2)' => \@numerics,
	'numeric(5,-2)' => \@numerics,
	'date' => \@dates,
	'timestamp' => \@times,
	'timestamp(3)' => \@times,
	'timestamptz' => \@times,
	'timestamptz(0)' => \@times,
	'time' => [ [qw(00:00:00 23:59:59.999999 24:00:00 24:00:01 23:59:60 12:34 12:34:56.1234567)],
		'0123456789:. ' ],
	'text' => \@strings,
	'varchar(5)' => \@strings,
	'char(5)' => \@strings,
	'bytea' => \@strings,
	'boolean' => [ [qw(t f true FALSE yes no on off of o 1 0 2), ' t', ''], 'tfrueyno10 ' ],
	'uuid' => [ [ 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'A0EEBC999C0B4EF8BB6D6BB9BD380A11', '' ],
		'0123456789abcdefF-g' ],
	'json' => [ [ '{"a": [1, 2]}', '"x"', 'null', '[1,', '' ], '{}[]",:1a ' ],
	'jsonb' => [ [ '{"b": 1, "a": [1, 2.50]}', '1e5', '"\u0000"', '[' ], '{}[]",:1a ' ],
	'integer[]' => [ [ '{1,2}', '{}', '{1,NULL}', '{{1},{2}}', '1' ], '{}12,' ]);

my @settings = (
	"SET timezone = 'Europe/Berlin'; SET datestyle = 'ISO, DMY';",
	"SET timezone = 'America/New_York'; SET datestyle = 'SQL, MDY';");

# One of the values, with up to two ASCII characters changed, dropped or added.
sub spoil
{
	my ($values, $characters) = @_;
	my $value = $values->[ rand @$values ];

	for (1 .. int rand 3)
	{
		next if $value =~ /[^ -~]/;
		my $at = int rand(length($value) + 1);
		my $new = rand() < 0.7 ? substr($characters, int rand length $characters, 1) : '';
		my $old = $at < length($value) && rand() < 0.7 ? 1 : 0;

		substr($value, $at, $old) = $new;
	}
	return $value;
}

# The value as a CSV field: now and then null, quoted or not where both will do.
sub csv_field
{
	my ($value) = @_;

	return '' if rand() < 0.03;
	return $value if $value =~ /^[^",\\]+$/ && rand() < 0.5;
	$value =~ s/"/""/g;
	return qq("$value");
}

sub write_file
{
	my ($path, $content) = @_;

	open my $file, '>:raw', $path or die "could not write $path: $!";
	print $file $content;
	close $file or die "could not write $path: $!";
	return;
}

my $node = PostgreSQL::Test::Cluster->new('oracle');
$node->init(extra => [ '--encoding', 'UTF8', '--locale', 'C' ]);
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION etl_patterns');
$node->safe_psql(
	'postgres', q{
	CREATE DOMAIN positive AS integer CHECK (value > 0);
	CREATE TABLE theirs_rejected (id bigint, code text, message text);

	CREATE FUNCTION copy_one_by_one(target regclass, directory text, files int) RETURNS void
	LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. files LOOP
			BEGIN
				EXECUTE format('COPY %s FROM %L (FORMAT csv)', target, directory || '/' || i);
			EXCEPTION WHEN OTHERS THEN
				INSERT INTO theirs_rejected VALUES (i, SQLSTATE, SQLERRM);
			END;
		END LOOP;
	END $$;
});

diag("SEED=$seed ROUNDS=$rounds");
srand($seed);

my $round = 0;
foreach my $type (sort keys %types)
{
	my $directory = PostgreSQL::Test::Utils::tempdir();
	my $setting = $settings[ $round++ % @settings ];
	my @lines = map { "$_," . csv_field(spoil(@{ $types{$type} })) . "\n" } 1 .. $rounds;

	write_file("$directory/$_", $lines[ $_ - 1 ]) for 1 .. $rounds;
	write_file("$directory/all.csv", join '', @lines);

	my $counts = $node->safe_psql(
		'postgres', qq{
		DROP TABLE IF EXISTS theirs, ours, ours_run;
		TRUNCATE theirs_rejected;
		CREATE TABLE theirs (id bigint, v $type);
		CREATE TABLE ours (id bigint, v $type);
		$setting
		DO \$\$ BEGIN PERFORM copy_one_by_one('theirs', '$directory', $rounds); END \$\$;
		CREATE TABLE ours_run AS SELECT * FROM etl_bulk_copy('ours', '$directory/all.csv',
			header => 'none', on_error => 'dead_letter');
		SELECT rows_read, rows_loaded = (SELECT count(*) FROM theirs),
			rows_rejected = (SELECT count(*) FROM theirs_rejected) FROM ours_run;
	});
	is($counts, "$rounds|t|t", "$type: as many rows loaded and rejected");

	my $rows = q{SELECT id, v::text, pg_column_size(v) FROM };
	is( $node->safe_psql(
			'postgres', qq{
			($rows theirs EXCEPT ALL $rows ours) UNION ALL ($rows ours EXCEPT ALL $rows theirs)
			ORDER BY 1}),
		'',
		"$type: the same values");

	my $theirs = 'SELECT id, code, message FROM theirs_rejected';
	my $ours = q{SELECT row_no, error_code, error_message FROM etl_patterns.dead_letter
		WHERE run_id = (SELECT run_id FROM ours_run) AND column_name = 'v'};
	is( $node->safe_psql(
			'postgres', qq{
			($theirs EXCEPT ALL $ours) UNION ALL ($ours EXCEPT ALL $theirs) ORDER BY 1}),
		'',
		"$type: the same errors");
}

$node->stop;
done_testing();
