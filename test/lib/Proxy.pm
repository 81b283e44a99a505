# A server that tells lies: a relay between a client and a PostgreSQL, which
# passes on what the client says and changes what the server says.
#
# Both sides are sockets in the file system.  What is to be changed is a piece
# of Perl in a file, which each connection reads when it begins: a sub that
# gets the type of a message, its body (without the length) and how many of
# that type have come before on the connection, and returns the bytes to be
# sent, or undef to end the connection.

package Proxy;

use strict;
use warnings;

use IO::Select;
use IO::Socket::UNIX;
use PostgreSQL::Test::Utils;
use POSIX qw(_exit);

sub new
{
	my ($class, $host, $port) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir_short();
	my $self = bless { host => $dir, port => 5432, to => "$host/.s.PGSQL.$port", rule => "$dir/rule" }, $class;
	my $listener = IO::Socket::UNIX->new(Local => "$dir/.s.PGSQL.5432", Listen => 20) or die "listen: $!";

	$self->{pid} = fork() // die "fork: $!";
	$self->serve($listener) if $self->{pid} == 0;
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
		relay($client, IO::Socket::UNIX->new(Peer => $self->{to}), $self->{rule}, $number);
		_exit(0);
	}
}

sub message
{
	my ($type, $body) = @_;

	return $type . pack('N', 4 + length $body) . $body;
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
				my $changed = $rule->($type, substr($buffer, 5, $length - 4), $count{$type}++ // 0);

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
