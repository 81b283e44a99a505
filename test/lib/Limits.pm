# How much memory a load takes, and how soon it answers to a cancel.
#
# Sizes are given for "make torture"; "make test" scales them down.

package Limits;

use strict;
use warnings;

use IO::Compress::Gzip ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use constant MB => 1024 * 1024;

# Beside what a record needs, a load may take so much beyond shared buffers.
use constant ALLOWED => 64 * MB;

# ... and so many times the largest record.
use constant COPIES => 6;

sub new
{
	my ($class, $name, $scale) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
	$node->append_conf('postgresql.conf', qq{
		fsync = off
		autovacuum = off
		shared_buffers = 8MB
		max_wal_size = 4GB
		maintenance_work_mem = 16MB});
	$node->start;
	$node->safe_psql('postgres', q{
		CREATE EXTENSION etl_patterns;
		CREATE UNLOGGED TABLE plain (a int, b text, c date, d numeric, e text);
		CREATE UNLOGGED TABLE word (a text);
		CREATE UNLOGGED TABLE number (a int);
		CREATE UNLOGGED TABLE indexed (a int, b text, c date, d numeric, e text);
		CREATE INDEX ON indexed (b);
		CREATE INDEX ON indexed (a);
		CREATE TABLE parent (a int PRIMARY KEY);
		INSERT INTO parent SELECT generate_series(0, 999);
		CREATE TABLE child (a int REFERENCES parent, b text, c date, d numeric, e text);
		CREATE UNLOGGED TABLE keyed (a int PRIMARY KEY, b text, c date, d numeric, e text);

		CREATE FUNCTION peak() RETURNS bigint LANGUAGE sql AS $$
			SELECT 1024 * substring(pg_read_file('/proc/self/status') FROM 'VmHWM:\s*(\d+)')::bigint
		$$;});
	return bless {
		node => $node,
		dir => PostgreSQL::Test::Utils::tempdir(),
		scale => $scale
	}, $class;
}

# Bytes of a file of this test.
sub scaled { my ($self, $bytes) = @_; return int($bytes * $self->{scale}); }

sub path { my ($self, $name) = @_; return "$self->{dir}/$name"; }

# Write a file of so many bytes out of blocks.
sub write_file
{
	my ($self, $name, $bytes, $head, $block, $tail) = @_;
	my $path = $self->path($name);
	my $many = $block x int(MB / length($block) || 1);

	open my $file, '>:raw', $path or die "could not create \"$path\": $!";
	print $file $head;
	for (my $done = 0; $done < $bytes; $done += length $many)
	{
		print $file $many;
	}
	print $file $tail // '';
	close $file or die "could not write \"$path\": $!";
	return $path;
}

# The same, compressed: one member many times over.
sub write_gzip
{
	my ($self, $name, $bytes, $head, $block) = @_;
	my $path = $self->path($name);
	my $many = $block x int(16 * MB / length $block);
	my ($first, $member);

	IO::Compress::Gzip::gzip(\$head => \$first);
	IO::Compress::Gzip::gzip(\$many => \$member);
	open my $file, '>:raw', $path or die "could not create \"$path\": $!";
	print $file $first;
	for (my $done = 0; $done < $bytes; $done += length $many)
	{
		print $file $member;
	}
	close $file or die "could not write \"$path\": $!";
	return $path;
}

# Is /proc there to measure with?
sub can_measure { return -r '/proc/self/status'; }

# Load in a session of its own and see how far its memory grew.
sub memory
{
	my ($self, $what, $target, $path, $options, $record, $expected) = @_;
	my $small = $self->path('small.csv');
	my $started = time;

	append_to_file($small, "1\n") unless -e $small;
	my $result = $self->{node}->safe_psql('postgres', qq{
		BEGIN;
		SELECT FROM etl_bulk_copy('number', '$small', header => 'none', on_error => 'dead_letter', force => true);
		SELECT peak() AS before \\gset
		SELECT rows_read || '/' || rows_rejected FROM etl_bulk_copy('$target', '$path', header => 'none', $options);
		SELECT peak() - :before;
		ROLLBACK;});
	my ($counts, $grown) = grep { /\d/ } split /\n/, $result;
	note sprintf '%s: %.1f MB file, %.1f MB more memory, %.1f s', $what, (-s $path) / MB, $grown / MB, time - $started;
	is($counts, $expected, "$what: rows read and rejected") if defined $expected;
	cmp_ok($grown, '<=', ALLOWED + COPIES * ($record // 0), "$what: memory is bounded");
	return;
}

# What a load has to say after a timeout, and how late it says so.  The timeout
# may be a millisecond, which is why it is taken back more than once.
sub timed_out_after
{
	my ($self, $call, $delay, $setup) = @_;
	my ($out, $err) = ('', '');

	$self->{node}->psql('postgres', qq{
		$setup
		SELECT extract(epoch FROM clock_timestamp()) AS started \\gset
		SET statement_timeout = $delay;
		SELECT 'done' FROM $call;
		SET statement_timeout = 0;
		SET statement_timeout = 0;
		SET statement_timeout = 0;
		SELECT 'late', 1000 * (extract(epoch FROM clock_timestamp()) - :started) - $delay;
		ROLLBACK;
		SELECT 'left', (SELECT count(*) FROM etl_patterns.run),
			(SELECT count(*) FROM etl_patterns.dead_letter),
			(SELECT count(*) FROM etl_patterns.loaded_file);
		}, stdout => \$out, stderr => \$err, on_error_stop => 0);
	return ($out, $err);
}

# Cancel a load at random moments.
sub cancels
{
	my ($self, $what, $target, $path, $options, $rounds) = @_;
	my $node = $self->{node};
	my $call = "etl_bulk_copy('$target', '$path', header => 'none', $options)";
	my $left = sub {
		return $node->safe_psql('postgres',
			'SELECT count(*), (SELECT count(*) FROM etl_patterns.run), '
			  . "(SELECT count(*) FROM etl_patterns.dead_letter), (SELECT count(*) FROM etl_patterns.loaded_file) FROM $target");
	};
	my $before = $left->();
	my ($worst, $cancelled) = (0, 0);
	my @problems;

	my $started = time;
	$node->safe_psql('postgres', "BEGIN; SELECT FROM $call; ROLLBACK");
	my $whole = 1000 * (time - $started);

	for my $round (1 .. $rounds)
	{
		my $delay = 1 + int rand $whole * 0.95;
		my $late;

		# A busy machine is not our fault: late is what is late again.
		for my $try (1 .. 3)
		{
			my ($out, $err) = $self->timed_out_after($call, $delay, '');

			($late) = $out =~ /^late\|(.*)$/m;
			push @problems, "after $delay ms: the session did not go on: $out $err" if !defined $late;
			last if !defined $late;
			if ($out =~ /^done/m)
			{
				# it was faster this time: take it back
				$node->safe_psql('postgres',
					"TRUNCATE $target, etl_patterns.run, etl_patterns.dead_letter, etl_patterns.loaded_file");
				$late = 0;
				last;
			}
			$cancelled++;
			push @problems, "after $delay ms: $err" if $err !~ /canceling statement due to statement timeout/;
			last if $late <= 500;
		}
		$worst = $late if defined $late && $late > $worst;
	}
	note sprintf '%s: %d ms whole, %d cancelled, the slowest answer took %d ms', $what, $whole, $cancelled, $worst;
	push @problems, "an answer took $worst ms" if $worst > 500;
	push @problems, "left behind: $before before, " . $left->() . ' after' if $before ne $left->() && $before =~ /^0\|0/;
	is(join('; ', @problems), '', "$what: answers to cancel within half a second and leaves nothing");
	return;
}

1;
