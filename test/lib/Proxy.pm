# A server that tells lies: a relay between a client and a PostgreSQL, which
# passes on what the client says and changes what the server says.
#
# Both sides are sockets in the file system.  What is to be changed is a piece
# of Perl in a file, which each connection reads when it begins: a sub that
# gets the type of a message, its body (without the length) and how many
# messages of each type have come on the connection so far, this one included,
# and returns the bytes to be sent, or undef to end the connection.

package Proxy;

use strict;
use warnings;

use IO::Select;
use IO::Socket::UNIX;
use PostgreSQL::Test::Utils;
use POSIX qw(_exit);

# An end that comes early must not leave any.
my @pids;
END { my $status = $?; kill 'TERM', @pids; $? = $status }

sub new
{
	my ($class, $host, $port) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir_short();
	my $self = bless { host => $dir, port => 5432, to => "$host/.s.PGSQL.$port", rule => "$dir/rule" }, $class;
	my $listener = IO::Socket::UNIX->new(Local => "$dir/.s.PGSQL.5432", Listen => 20) or die "listen: $!";

	$self->rule('sub { return message(@_[ 0, 1 ]) }');
	$self->{pid} = fork() // die "fork: $!";
	$self->serve($listener) if $self->{pid} == 0;
	push @pids, $self->{pid};
	return $self;
}

# From now on connections follow this rule.
sub rule
{
	my ($self, $rule) = @_;

	open my $file, '>', "$self->{rule}.new" or die $!;
	print $file $rule;
	close $file;
	rename "$self->{rule}.new", $self->{rule} or die $!;
	return;
}

sub stop
{
	my ($self) = @_;

	kill 'TERM', $self->{pid};
	waitpid $self->{pid}, 0;
	return;
}

# Never returns.
sub serve
{
	my ($self, $listener) = @_;
	my $number = 0;

	local $SIG{CHLD} = 'IGNORE';
	local $SIG{TERM} = sub { _exit(0) };
	while (1)
	{
		my $client = $listener->accept or next;

		$number++;
		next if fork();
		eval { relay($client, IO::Socket::UNIX->new(Peer => $self->{to}), $self->{rule}, $number) };
		print STDERR $@ if $@;
		_exit(0);
	}
}

sub message
{
	my ($type, $body) = @_;

	return $type . pack('N', 4 + length $body) . $body;
}

# The values in the body of a DataRow, and the body of given values.
sub values_of
{
	my ($body) = @_;
	my @values;

	my $at = 2;
	for (1 .. unpack 'n', $body)
	{
		my $length = unpack 'l>', substr $body, $at, 4;

		$at += 4;
		push @values, $length < 0 ? undef : substr $body, $at, $length;
		$at += $length if $length > 0;
	}
	return @values;
}

sub row_of
{
	return pack('n', scalar @_) . join '', map { defined $_ ? pack('N', length $_) . $_ : pack('l>', -1) } @_;
}

# The body of a RowDescription without its last column.
sub fewer_columns
{
	my ($body) = @_;
	my @columns = substr($body, 2) =~ /([^\0]*\0.{18})/gs;

	pop @columns;
	return pack('n', scalar @columns) . join '', @columns;
}

# One connection, until one side ends it.
sub relay
{
	my ($client, $server, $file, $number) = @_;
	my $both = IO::Select->new($client, $server);
	my ($buffer, %count) = ('');
	local our $connection = $number;
	my $rule = eval slurp_file($file);

	die $@ if $@;
	$SIG{PIPE} = 'IGNORE';
	while (1)
	{
		foreach my $from ($both->can_read)
		{
			return unless sysread $from, my $bytes, 65536;
			if ($from == $client)
			{
				syswrite $server, $bytes;
				next;
			}
			$buffer .= $bytes;
			my $out = '';
			while (length $buffer >= 5 && length $buffer > (my $length = unpack 'xN', $buffer))
			{
				my $type = substr $buffer, 0, 1;

				$count{$type}++;
				my $changed = $rule->($type, substr($buffer, 5, $length - 4), \%count);

				$buffer = substr $buffer, $length + 1;
				$out .= $changed // '';
				next if defined $changed;
				syswrite $client, $out;
				return;
			}
			syswrite $client, $out;
		}
	}
}

1;
