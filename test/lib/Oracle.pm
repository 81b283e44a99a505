# Random CSV files, whole and broken, and what COPY has to say about them.
#
# Everything is drawn from one seed: the same seed gives the same files.  A
# case that fails prints its number; its file is kept when ORACLE_KEEP names a
# folder.

package Oracle;

use strict;
use warnings;

use Encode ();
use File::Basename qw(dirname);
use File::Copy ();
use IO::Compress::Gzip ();
use PostgreSQL::Test::Utils;
use Test::More;

# Cases that one session of psql goes through.
use constant BATCH => 40;

my %encodings = (
	UTF8 => [ 'UTF-8', 'aZ é ß Ωж 日本 ，ｱ 😀 ñ' ],
	LATIN1 => [ 'iso-8859-1', 'aZ é ß ñ ÿ' ],
	SJIS => [ 'cp932', 'aZ 表示ソ十 日本' ],
	EUC_JP => [ 'euc-jp', 'aZ 表示ソ十 日本' ]);

sub pick { return $_[ int rand @_ ]; }
sub chance { return rand() < $_[0]; }
sub upto { return int rand($_[0] + 1); }

sub digits { return join '', map { upto(9) } 1 .. 1 + upto($_[0]); }

sub date
{
	return pick('infinity', '-infinity', '0044-03-15 BC', 'epoch', 'Jan 8, 1999',
		'19990108', '1999.008', '5874897-12-31', '1/8/1999')
	  if chance(0.15);
	return sprintf '%04d-%02d-%02d', 1 + upto(2999), 1 + upto(11), 1 + upto(27);
}

sub clock
{
	my $time = sprintf '%02d:%02d', upto(23), upto(59);
	$time .= sprintf ':%02d', upto(59) if chance(0.8);
	$time .= '.' . digits(7) if chance(0.3) && $time =~ /:\d\d:/;
	return $time;
}

sub zone { return pick('', 'Z', '+02', '-05:30', ' UTC', ' Europe/Vienna', '+14', ' EST'); }

sub number
{
	my $number = pick('', '-', '+') . digits(12);
	$number .= '.' . digits(12) if chance(0.5);
	$number .= pick('e', 'E') . pick('', '-', '+') . upto(30) if chance(0.2);
	return $number;
}

# Text of a few words; may hold anything that a quoted field may.
sub text
{
	my ($case) = @_;
	my @chars = split //, $encodings{ $case->{encoding} }[1];
	my $text = join '', map { pick(@chars) } 1 .. upto(12);

	$text .= pick(map { chr } 1 .. 126) if chance(0.1);
	$text =~ s/^(.)/pick($1, $case->{delimiter}, $case->{quote}, $case->{escape}, "\n", "\r", "\r\n", "\\", ' ')/se
	  for 1 .. upto(2);
	$text .= pick("\n", "\r\n", $case->{delimiter}, $case->{quote}, '  ', "\\N") if chance(0.25);
	$text .= 'long ' x upto(3000) if chance($case->{long});
	return $text;
}

# Column types, and what makes a value of each.
my %types = (
	int2 => sub { pick(upto(70000) - 35000 > 32767 ? 1 : upto(32767), -upto(32768), ' 7 ', '+5') },
	int4 => sub { pick(upto(2147483647), -upto(2147483647), 0, '-2147483648', '007', ' 12') },
	int8 => sub { pick(digits(17), '-' . digits(17), '9223372036854775807', '-9223372036854775808') },
	float4 => sub { pick(sprintf('%.3f', rand 1000), '1e10', 'NaN', 'infinity', '-Inf', '.5', '5.', '-0') },
	float8 => sub { pick(number(), rand(), '1e-300', 'NaN', '-infinity', '1e308', ' 1.5 ', '-0.0') },
	numeric => sub { pick(number(), number(), 'NaN', 'Infinity', '1_0' x 0 . '10', ' 1.50 ', '-.5') },
	'numeric(10,2)' => sub { pick('', '-') . digits(6) . '.' . digits(4) },
	bool => sub { pick(qw(t f true FALSE yes no on off 1 0 y n tru), ' t ') },
	date => \&date,
	time => \&clock,
	'time(2)' => \&clock,
	timetz => sub { clock() . pick('', 'Z', '+02', '-05:30') },
	timestamp => sub { pick(date() . ' ' . clock(), date() . ' ' . clock(), 'now' x 0 . 'infinity', '2001-02-03T04:05:06') },
	'timestamp(3)' => sub { '2001-02-03 ' . clock() },
	timestamptz => sub { pick('2001-02-03 ' . clock() . zone(), '1999-12-31T23:59:59.999999Z', 'epoch') },
	interval => sub { pick('1 day', '-3 mons 2 days 04:05:06', 'P1Y2M3DT4H5M6S', '1-2', upto(100) . ' hours', '@ 1 minute ago') },
	text => \&text,
	'varchar(40)' => sub { substr text($_[0]), 0, 40 },
	'char(30)' => sub { substr text($_[0]), 0, 30 },
	name => sub { substr text($_[0]), 0, 20 },
	uuid => sub { my $u = sprintf '%08x-%04x-%04x-%04x-%08x%04x', map { int rand $_ } 2**32, (2**16) x 3, 2**32, 2**16;
		pick($u, uc $u, "{$u}", $u =~ tr/-//dr) },
	json => sub { pick('{"a": [1, 2, {"b": null}]}', '"x"', '12', ' [ ] ', '{"k" : "v,\\n\\u00e9"}', 'null', '{"a":1,"a":2}') },
	jsonb => sub { pick('{"b": 1.50, "a": [true, false]}', '"x\\"y"', '-1.5e3', '[]', '{"a":1,"a":2}') },
	bytea => sub { pick('\\x', '\\x' . join('', map { sprintf '%02X', upto(255) } 1 .. upto(9)), 'abc', '\\001a\\\\') },
	'int[]' => sub { pick('{}', '{1,2,NULL}', '{{1,2},{3,4}}', '[0:1]={5,6}') },
	'text[]' => sub { pick('{a,"b c",NULL}', '{}', '{"x\\"y","{z}"}') },
	'oracle.mood' => sub { pick(qw(sad ok happy)) },
	'oracle.small' => sub { upto(99) },
	'oracle.pair' => sub { pick('(1,a)', '(,)', '(2,"x,y")') },
	inet => sub { pick('10.0.0.1', '10.1.0.0/16', '::1', 'fe80::1/64') },
	cidr => sub { pick('10.0.0.0/8', '192.168.1') },
	macaddr => sub { '08:00:2b:01:02:03' },
	int4range => sub { pick('[1,5)', 'empty', '(,3]') },
	point => sub { '(1.5,2)' },
	bit => sub { upto(1) },
	'varbit(5)' => sub { pick('101', '', 'xF' x 0 . '1') },
	money => sub { pick('$1,234.50', '12', '-3.1') },
	oid => sub { upto(100000) },
	xid => sub { upto(100000) },
	pg_lsn => sub { '16/B374D848' },
	tsvector => sub { "'a':1 'b':2" },
	int4multirange => sub { '{[1,3),[5,7)}' });

my @common = ('text', 'int4', 'int8', 'text', 'numeric', 'date', 'timestamptz', 'bool', 'float8', 'varchar(40)');

sub setup
{
	my ($node) = @_;
	my $sql = slurp_file(dirname(__FILE__) . '/oracle.sql');

	$node->safe_psql('postgres', qq{
		CREATE EXTENSION etl_patterns;
		CREATE EXTENSION IF NOT EXISTS plpgsql;
		SET client_min_messages = warning;
		$sql
		CREATE TYPE oracle.mood AS ENUM ('sad', 'ok', 'happy');
		CREATE DOMAIN oracle.small AS int CHECK (VALUE < 100) NOT NULL;
		CREATE TYPE oracle.pair AS (a int, b text);});
	return;
}

# A dialect.  Ordinary ones, and any byte that COPY allows.
sub dialect
{
	my ($case) = @_;
	my @odd = (' ', "\t", "\\", "\x01", 'a', 'Z', '0', '~', '.', '-', "\x7f", ';', "'");

	$case->{encoding} = chance(0.7) ? 'UTF8' : pick(sort keys %encodings);
	do
	{
		$case->{delimiter} = chance(0.8) ? pick(',', ',', ',', ';', "\t", '|') : pick(@odd);
		$case->{quote} = chance(0.85) ? '"' : pick(@odd);
		$case->{escape} = chance(0.75) ? $case->{quote} : pick("\\", '"', @odd);
		$case->{null} = chance(0.6) ? '' : pick('NULL', "\\N", 'NA', '-');
	  } while $case->{delimiter} eq $case->{quote}
	  || $case->{delimiter} eq $case->{escape}
	  || index($case->{null}, $case->{delimiter}) >= 0
	  || index($case->{null}, $case->{quote}) >= 0;
	return;
}

# A field in quotes where it needs them, and sometimes where it does not.
sub field
{
	my ($case, $value) = @_;
	my ($quote, $escape) = @$case{qw(quote escape)};

	return $value
	  if chance(0.7) && $value ne $case->{null}
	  && $value !~ /[\r\n\\]/
	  && index($value, $quote) < 0
	  && index($value, $case->{delimiter}) < 0;
	$value =~ s/(\Q$quote\E|\Q$escape\E)/$escape$1/g;
	return $quote . $value . $quote;
}

# A whole file: records without line ends, in the file's encoding.
sub records
{
	my ($case, $rows) = @_;
	my @records;

	for (1 .. $rows)
	{
		push @records, Encode::encode(
			$encodings{ $case->{encoding} }[0],
			join $case->{delimiter},
			map {
				chance(0.06) && $_ ne 'oracle.small' ? $case->{null} : field($case, $types{$_}->($case))
			} @{ $case->{types} });
	}
	return \@records;
}

# Break a file in a few places.
sub mutate
{
	my ($case, $bytes) = @_;
	my @pieces = (
		$case->{quote}, $case->{quote}, $case->{delimiter}, $case->{escape}, "\n", "\n", "\r", "\r\n",
		"\0", "\xff", "\xc3", "\xe4\xbd", "\xed\xa0\x80", 'x', '9' x 30, ' ', '', '-', "\x82\xa0");

	for (1 .. 1 + upto(pick(1, 1, 3, 8)))
	{
		my $at = upto(length $bytes);

		# where it hurts: beside a delimiter, a quote or a line end
		if (chance(0.5))
		{
			my $special = pick($case->{delimiter}, $case->{quote}, "\n");
			my $found = index $bytes, $special, $at;
			$at = $found + upto(1) if $found >= 0;
		}
		my $cut = pick(0, 0, 1, 1, 1 + upto(6), chance(0.1) ? upto(300) : 1);
		$cut = length($bytes) - $at if $at + $cut > length $bytes;
		substr($bytes, $at, $cut) = chance(0.1) && $at < length $bytes
		  ? chr(ord(substr $bytes, $at, 1) ^ 1 << upto(7))
		  : pick(@pieces);
	}
	return $bytes;
}

# Bytes that mean something, in any order.
sub noise
{
	my ($case) = @_;
	my @bytes = ($case->{delimiter}, $case->{quote}, $case->{escape}, "\n", 'a', '1', ' ', "\n");

	push @bytes, "\r" if chance(0.3);
	push @bytes, "\r\n" if chance(0.3);
	push @bytes, "\0" if chance(0.1);
	push @bytes, "\xc3", "\xa9", "\xff", "\x83\x5c" if chance(0.3);
	push @bytes, ('1', 'bc', $case->{delimiter}) x 3 if chance(0.5);
	return join '', map { pick(@bytes) } 1 .. upto(pick(10, 100, 100, 1000));
}

sub spew
{
	my ($path, $bytes) = @_;
	open my $file, '>:raw', $path or die "could not create \"$path\": $!";
	print $file $bytes;
	close $file or die "could not write \"$path\": $!";
	return;
}

# The file of a case, as we get it (path) and as COPY gets it (plain).
sub write_case
{
	my ($dir, $case) = @_;
	my $eol = pick("\n", "\n", "\r\n", "\r");
	my $plain = "$dir/$case->{name}.csv";
	my $bytes;

	@$case{qw(path plain mixed header)} = ($plain, $plain, 0, chance(0.3));
	if ($case->{kind} eq 'noise')
	{
		$bytes = noise($case);
	}
	else
	{
		my $records = records($case, chance($case->{long}) ? upto(4000) : upto(40));

		$bytes = join $eol, @$records;
		$bytes .= $eol if chance(0.7) && @$records;
		# COPY verifies a header line that it skips, we do not
		$bytes = ($case->{header} ? "1st$eol" : '') . mutate($case, $bytes) if $case->{kind} eq 'broken';
		if ($case->{kind} eq 'mixed')
		{
			$case->{mixed} = 1;
			s/\\\./\\-/g for @$records;
			$case->{path} = "$dir/$case->{name}.mixed.csv";
			spew($case->{path}, join '', "1st\n", map { $_ . pick("\n", "\r\n") } @$records);
			$bytes = join '', "1st\n", map { "$_\n" } @$records;
			$case->{header} = 1;
		}
	}
	$case->{header} = 0 if $case->{kind} eq 'noise';

	# COPY ends at a line of \. (before version 18), and has byte order marks
	# for data (they are not).
	$bytes =~ s/\\\./\\-/g;
	$bytes =~ s/^(?:\xef\xbb\xbf|\xff\xfe|\xfe\xff|\0\0\xfe\xff)//;
	spew($plain, $bytes);
	return if $case->{mixed};

	my $packed = pick('', '', '', 'gz', 'zst');
	$case->{path} = "$plain.$packed" if $packed;
	if ($packed eq 'gz')
	{
		# in two members, as concatenated files have
		my $half = upto(length $bytes);
		my ($first, $second) = (substr($bytes, 0, $half), substr($bytes, $half));
		my ($one, $two);
		IO::Compress::Gzip::gzip(\$first => \$one);
		IO::Compress::Gzip::gzip(\$second => \$two);
		spew($case->{path}, $one . $two);
	}
	elsif ($packed eq 'zst')
	{
		system_or_bail('zstd', '-q', '-f', $plain, '-o', $case->{path});
	}
	return;
}

sub literal
{
	my ($string) = @_;
	$string =~ s/([\\'])/sprintf '\\x%02x', ord $1/ge;
	$string =~ s/([\x00-\x1f\x7f])/sprintf '\\x%02x', ord $1/ge;
	return "E'$string'";
}

# Cases share a table, so that making tables does not take all the time.
sub new_table
{
	my ($noisy) = @_;
	my @types = map { chance(0.5) ? pick(@common) : pick(sort keys %types) } 1 .. 1 + upto(6);
	@types = map { pick('text', 'text', 'int4') } 1 .. 1 + upto(2) if $noisy;
	my $columns = join ', ', map { "c$_ $types[$_]" } 0 .. $#types;

	return (\@types, qq{
		DROP TABLE IF EXISTS oracle.ours, oracle.theirs;
		CREATE TABLE oracle.ours ($columns);
		CREATE TABLE oracle.theirs ($columns);});
}

# Run so many cases; what is wrong goes to the test's output.
sub run
{
	my ($node, $cases, $seed, @kinds) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $wrong = 0;
	my @ran;

	note "seed $seed, $cases cases of: @kinds";
	srand $seed;
	for (my $first = 1; $first <= $cases; $first += BATCH)
	{
		my $sql = "SET oracle.dir = '$dir'; SET synchronous_commit = off;\n";
		my ($types, @names);

		for my $number ($first .. $first + BATCH - 1)
		{
			last if $number > $cases;
			my %case = (name => "$seed-$number", kind => pick(@kinds), long => chance(0.1) ? 0.3 : 0);

			if (!$types || chance(0.3) || $case{kind} eq 'noise')
			{
				($types, my $ddl) = new_table($case{kind} eq 'noise');
				$sql .= $ddl;
			}
			$case{types} = $types;
			dialect(\%case);
			write_case($dir, \%case);
			push @names, \%case;
			$sql .= sprintf "SELECT %s || line FROM oracle.check_file(%s) line;\n",
			  literal("case $case{name}: "),
			  join ', ', map { literal($_) } @case{qw(path plain)}, $case{mixed} ? 't' : 'f',
			  $case{header} ? 't' : 'f', @case{qw(delimiter quote escape null encoding)};
		}
		my ($stdout, $stderr);
		my $status = $node->psql('postgres', $sql, stdout => \$stdout, stderr => \$stderr,
			on_error_stop => 0);
		$stderr = join "\n", grep { !/^psql:<stdin>:\d+: NOTICE/ } split /\n/, $stderr;
		if ($status != 0 || $stdout ne '' || $stderr ne '')
		{
			$wrong++;
			diag substr($_, 0, 600) for grep { defined } (split /\n/, "$stdout\n$stderr")[ 0 .. 20 ];
			for my $case (@names)
			{
				next if "$stdout$stderr" !~ /case \Q$case->{name}:/ && $stderr eq '';
				diag join ' ', map { "$_=" . literal("@{[ref $case->{$_} ? @{$case->{$_}} : $case->{$_}]}") } sort keys %$case;
				File::Copy::copy($_, $ENV{ORACLE_KEEP}) for $ENV{ORACLE_KEEP} ? @$case{qw(path plain)} : ();
			}
			last if $status == 2;
		}
		unlink @$_{qw(path plain)} for @names;
	}
	is($wrong, 0, "seed $seed: $cases files of " . join(', ', @kinds) . ' load as COPY has it');
	return;
}

# Short records, nearly all of them whole, so that what is wrong with one comes
# at every place among the bytes that are looked at together.
sub short_records
{
	my ($case) = @_;
	my ($d, $q) = @$case{qw(delimiter quote)};
	my @fields = ('', 1, 22, 'abc', "$q$q", "${q}x$q", "${q}a$q${q}b$q", "$q\n$q", "$q$d$q");
	my @wrong = ("\r", "\r", "\0", "\xff", $q, "x$q", "${q}x${q}y", $d, "\n", '');
	my $records = '';

	for (1 .. upto(400))
	{
		my @values = map { pick(@fields) } @{ $case->{types} };

		$values[ upto($#values) ] .= pick(@wrong) if chance(0.02);
		$records .= join($d, @values) . pick("\n", "\n", "\r\n");
	}
	return $records;
}

# A file that is longer than what is read or looked at at once: records of all
# lengths, some of them broken.
sub long_file
{
	my ($case) = @_;
	my $size = pick(2_000, 20_000, 100_000, 600_000);
	my $eol = pick("\n", "\n", "\r\n");
	my $bytes = '';

	while (length $bytes < $size)
	{
		if (chance(0.3))
		{
			$bytes .= short_records($case);
			next;
		}
		my $piece = join '', map { "$_$eol" } @{ records($case, 1 + upto(20)) };

		$piece = mutate($case, $piece) if chance(0.1);
		$piece = noise($case) . "\n" if chance(0.03);
		$bytes .= $piece x pick(1, 1, 1 + upto(30));
	}
	return $bytes;
}

# The same files by every way to look at their bytes.
sub run_ways
{
	my ($node, $cases, $seed, @kinds) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $wrong = 0;

	note "seed $seed, $cases cases of: @kinds";
	srand $seed;
	for my $number (1 .. $cases)
	{
		my %case = (name => "$seed-$number", kind => pick(@kinds), long => chance(0.1) ? 0.3 : 0);
		my ($types, $ddl) = new_table($case{kind} eq 'noise' || chance(0.5));
		my ($stdout, $stderr);

		$case{types} = $types;
		dialect(\%case);
		$case{escape} = $case{quote} if chance(0.8) && $case{delimiter} ne $case{quote};
		if ($case{kind} eq 'long')
		{
			@case{qw(path plain header)} = ("$dir/$case{name}.csv", "$dir/$case{name}.csv", 0);
			spew($case{path}, long_file(\%case));
		}
		else
		{
			write_case($dir, \%case);
		}
		$node->psql('postgres',
			"SET client_min_messages = warning; SET synchronous_commit = off; $ddl"
			  . sprintf('SELECT oracle.check_ways(%s)', join ', ', map { literal($_) } $case{path},
				$case{header} ? 't' : 'f', @case{qw(delimiter quote escape null encoding)}),
			stdout => \$stdout, stderr => \$stderr, on_error_stop => 1);
		if ("$stdout$stderr" ne '')
		{
			$wrong++;
			diag "case $case{name}: " . substr("$stdout\n$stderr", 0, 1500);
			File::Copy::copy($case{path}, $ENV{ORACLE_KEEP}) if $ENV{ORACLE_KEEP};
		}
		unlink @case{qw(path plain)};
	}
	is($wrong, 0, "seed $seed: $cases files of " . join(', ', @kinds) . ' are the same however they are looked at');
	return;
}

# A table with constraints, as "ours" and "theirs", and the rows it had before.
sub constrained_table
{
	my ($case) = @_;
	my @columns = ('c1 int', 'c2 int', 'c3 text', 'c4 int');
	my (@constraints, @after);
	my $partitioned = chance(0.2);

	$columns[0] .= ' NOT NULL' if chance(0.4);
	$columns[1] .= ' CHECK (c2 < 60)' if chance(0.4);
	$columns[2] .= pick('', ' NOT NULL', " CHECK (c3 <> 'x1')", " DEFAULT 'x'");
	push @constraints, pick('PRIMARY KEY (c1)', 'UNIQUE (c1)') if $case->{conflict} ne 'error' || chance(0.5);
	push @constraints, 'UNIQUE (c2, c3)' if !$partitioned && chance(0.3);
	push @constraints, 'UNIQUE NULLS NOT DISTINCT (c4)' if !$partitioned && chance(0.1);
	push @constraints, 'EXCLUDE USING gist (int4range(c2, c2 + 2) WITH &&)' if !$partitioned && chance(0.15);
	push @constraints, 'FOREIGN KEY (c4) REFERENCES oracle.parent' if chance(0.4);
	push @constraints, 'CHECK (c1 IS NULL OR c1 <> 33)' if chance(0.3);
	my $self = !$partitioned && chance(0.15);
	push @after, 'CREATE UNIQUE INDEX ON oracle.%1$s ((c1 / 2)) WHERE c2 > 10' if !$partitioned && chance(0.2);
	push @after, 'CREATE TRIGGER b BEFORE INSERT ON oracle.%1$s FOR EACH ROW EXECUTE FUNCTION oracle.before_row()'
	  if chance(0.2);
	push @after, 'CREATE TRIGGER a AFTER INSERT ON oracle.%1$s FOR EACH ROW EXECUTE FUNCTION oracle.after_row()'
	  if chance(0.2);

	my $sql = 'DROP TABLE IF EXISTS oracle.ours, oracle.theirs;';
	for my $table ('ours', 'theirs')
	{
		my @own = @constraints;
		push @own, 'UNIQUE (c1)' if $self && !grep { /\(c1\)/ } @own;
		push @own, "FOREIGN KEY (c2) REFERENCES oracle.$table (c1)" if $self;
		$sql .= "CREATE TABLE oracle.$table (" . join(', ', @columns, @own) . ')';
		$sql .= $partitioned
		  ? " PARTITION BY RANGE (c1); CREATE TABLE oracle.${table}_1 PARTITION OF oracle.$table FOR VALUES FROM (0) TO (20);"
		  . " CREATE TABLE oracle.${table}_2 PARTITION OF oracle.$table FOR VALUES FROM (20) TO (55);"
		  : ';';
		$sql .= sprintf("$_;", $table) for @after;
	}
	# rows that are there already
	$sql .= sprintf 'INSERT INTO oracle.ours VALUES (%1$d, 50, NULL, 3) ON CONFLICT DO NOTHING;'
	  . 'INSERT INTO oracle.theirs SELECT * FROM oracle.ours;', 1 + upto(30)
	  if !@after && !$self && $sql !~ /c3 text NOT NULL/ && chance(0.5);
	return $sql;
}

# Constraints: the same file at once and row by row.
sub run_constraints
{
	my ($node, $cases, $seed) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $wrong = 0;

	note "seed $seed, $cases cases of constraints";
	srand $seed;
	for my $number (1 .. $cases)
	{
		my %case = (conflict => chance(0.8) ? 'error' : 'skip', indexes => pick('auto', 'keep', 'rebuild'));
		my $range = pick(60, 60, 300, 3000);
		my $ddl = constrained_table(\%case);
		my $rows = pick(10, 100, 100, 300, 2500);
		my $path = "$dir/$seed-$number.csv";
		my ($stdout, $stderr);

		spew($path, join '', map {
			join(',',
				chance(0.05) ? '' : chance(0.02) ? 'oops' : upto($range),
				chance(0.1) ? '' : upto(chance(0.5) ? 70 : $range),
				chance(0.1) ? '' : 'x' . upto(20),
				chance(0.2) ? '' : upto(42)) . "\n"
		} 1 .. $rows);
		$node->psql('postgres', "SET client_min_messages = warning; $ddl"
			  . "SELECT oracle.check_constraints('$path', 4, '$case{conflict}', '$case{indexes}')",
			stdout => \$stdout, stderr => \$stderr, on_error_stop => 1);
		next if "$stdout$stderr" eq '';
		$wrong++;
		diag "case $seed-$number: " . substr("$stdout\n$stderr", 0, 1500);
		diag "$case{conflict} $case{indexes} $rows rows: $ddl";
		File::Copy::copy($path, $ENV{ORACLE_KEEP}) if $ENV{ORACLE_KEEP};
	}
	is($wrong, 0, "seed $seed: $cases tables with constraints reject what INSERT rejects, row by row");
	return;
}

1;
