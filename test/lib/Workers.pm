# Loads with workers: they must be like those without, whatever the file.

package Workers;

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Copy ();
use Oracle;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Types that workers convert, and one that they do not.
my @types = (
	'text', 'int4', 'int8', 'text', 'numeric', 'date', 'timestamptz', 'bool', 'float8', 'varchar(40)',
	'int2', 'float4', 'numeric(10,2)', 'time', 'timestamp(3)', 'char(30)', 'uuid', 'json', 'jsonb', 'bytea', 'text',
	'interval');

sub start
{
	my ($name) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
	$node->append_conf('postgresql.conf', "fsync = off\nautovacuum = off\nmax_worker_processes = 12\n");
	$node->start;
	Oracle::setup($node);
	$node->safe_psql('postgres', slurp_file(dirname(__FILE__) . '/workers.sql'));
	return $node;
}

# A table of columns that fields fill, and sometimes others.
sub new_table
{
	my ($case) = @_;
	my @own = map { Oracle::chance(0.97) ? $types[ rand $#types ] : $types[-1] } 1 .. 1 + Oracle::upto(5);
	@own = map { Oracle::pick('text', 'text', 'int4') } 1 .. 1 + Oracle::upto(2) if $case->{kind} eq 'noise';
	my @columns = map { "c$_ $own[$_]" . (Oracle::chance(0.1) ? ' NOT NULL' : '') } 0 .. $#own;
	my $extra = Oracle::pick('', '', ", d1 int DEFAULT 7, d2 text, d3 text DEFAULT 'default'", ', d1 int DEFAULT random() * 0');
	my $index = Oracle::pick('', '', '', 'CREATE UNIQUE INDEX ON oracle.ours (c0);');

	$index = '' if $own[0] =~ /json|text|char/ && $case->{long};
	$index = '' if $own[0] eq 'json';
	# keys are looked up when a batch is written: another error may be found first
	$index = '' if $case->{on_error} eq 'abort';
	$case->{types} = \@own;
	$case->{columns} = join ', ', map { "c$_" } 0 .. $#own;
	return 'DROP TABLE IF EXISTS oracle.ours; CREATE TABLE oracle.ours (' . join(', ', @columns) . "$extra); $index";
}

# The options of the load, as SQL.
sub options
{
	my ($case) = @_;
	my $sql = sprintf '%s, columns => %s, header => %s, delimiter => %s, quote => %s, escape => %s,'
	  . ' null_strings => ARRAY[%s], encoding => %s, on_error => %s', map { Oracle::literal($_) } $case->{path},
	  "{$case->{columns}}", $case->{header} ? 'skip' : 'none', @$case{qw(delimiter quote escape null encoding)},
	  $case->{on_error};
	$sql .= ', "trim" => true' if Oracle::chance(0.1) && $case->{null} !~ /^[ \t]|[ \t]$/;
	$sql .= ', skip_lines => ' . Oracle::upto(3) if Oracle::chance(0.1);
	$sql .= ', dry_run => true' if Oracle::chance(0.05);
	return $sql;
}

# Run so many files; what is wrong goes to the test's output.
sub run
{
	my ($node, $cases, $seed, @kinds) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $wrong = 0;

	note "seed $seed, $cases cases of: @kinds";
	srand $seed;
	for my $number (1 .. $cases)
	{
		my %case = (
			name => "$seed-$number",
			kind => Oracle::pick(@kinds),
			on_error => Oracle::pick('dead_letter', 'dead_letter', 'dead_letter', 'skip', 'abort'),
			long => Oracle::chance(0.1) ? 0.3 : 0);
		my $ddl = new_table(\%case);
		my ($stdout, $stderr);

		Oracle::dialect(\%case);
		# most files as most files are, so that they are read in pieces
		@case{qw(encoding delimiter quote escape)} = ('UTF8', ',', '"', '"') if Oracle::chance(0.6);
		$case{null} = '' if index($case{null}, $case{delimiter}) >= 0 || index($case{null}, $case{quote}) >= 0;
		Oracle::write_case($dir, \%case);
		my $size = -s $case{path};
		my @sizes = ($size > 40000 ? 3000 : 16, 17 + Oracle::upto(100), int(16 + $size / 3));
		@sizes = map { $size / $_ > 2000 ? int($size / 100) + 16 : $_ } @sizes;
		my $sql = sprintf "SET client_min_messages = error; SET synchronous_commit = off; %s\n"
		  . "SELECT workers.check_file(%s, ARRAY[%s]);", $ddl, Oracle::literal(options(\%case)), join ', ', @sizes;
		my $status = $node->psql('postgres', $sql, stdout => \$stdout, stderr => \$stderr);
		if ($status != 0 || "$stdout$stderr" ne '')
		{
			$wrong++;
			diag "case $case{name}: $ddl\n" . substr("$stdout\n$stderr", 0, 1500);
			File::Copy::copy($case{path}, $ENV{ORACLE_KEEP}) if $ENV{ORACLE_KEEP};
			last if $status == 2;
		}
		unlink @case{qw(path plain)};
	}
	is($wrong, 0, "seed $seed: $cases files of " . join(', ', @kinds) . ' load the same with workers');
	return;
}

1;
