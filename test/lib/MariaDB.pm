# A MariaDB server for one test, in a temporary directory, on a socket only.
# It ends with the test.

package MariaDB;

use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::Utils;
use Time::HiRes qw(usleep);

my @servers;

# What is missing here to run one and to reach it with mysql_fdw, or ''.
sub missing
{
	my $extensions = `pg_config --sharedir`;
	chomp $extensions;

	return 'mysql_fdw' unless -f "$extensions/extension/mysql_fdw.control";
	foreach my $program ('mariadbd', 'mariadb-install-db', 'mariadb')
	{
		return $program unless defined program($program);
	}
	return '';
}

# Debian has the server where only root's PATH looks.
sub program
{
	my ($name) = @_;

	foreach my $dir (split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin')
	{
		return "$dir/$name" if -x "$dir/$name";
	}
	return;
}

sub new
{
	my ($class) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir_short();
	my $self = bless { dir => $dir, socket => "$dir/socket" }, $class;

	IPC::Run::run(
		[   program('mariadb-install-db'), '--no-defaults', "--datadir=$dir/data",
			'--auth-root-authentication-method=normal', '--skip-test-db', '--skip-name-resolve' ],
		'>', "$dir/install.log", '2>&1')
	  or die "mariadb-install-db failed:\n" . slurp_file("$dir/install.log");
	push @servers, $self;
	$self->start;
	return $self;
}

sub start
{
	my ($self) = @_;
	my $dir = $self->{dir};

	$self->{server} = IPC::Run::start(
		[   program('mariadbd'), '--no-defaults', "--datadir=$dir/data",
			"--socket=$self->{socket}", "--pid-file=$dir/pid", '--skip-networking',
			'--default-time-zone=+00:00', '--character-set-server=utf8mb4',
			'--innodb-buffer-pool-size=16M', '--innodb-flush-log-at-trx-commit=0',
			'--innodb-use-native-aio=0' ],
		'<', '/dev/null', '>', "$dir/server.log", '2>&1');
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return if defined $self->ask('SELECT 1');
		last unless $self->{server}->pumpable;
		usleep(100_000);
	}
	die "MariaDB does not start:\n" . slurp_file("$dir/server.log");
}

sub stop
{
	my ($self) = @_;

	return unless $self->{server};
	$self->{server}->signal('TERM');
	$self->{server}->finish;
	delete $self->{server};
	return;
}

# The answer as text with tabs, or nothing if there is none to be had.  (A client
# that cannot connect would not read its input, which breaks the pipe.)
sub ask
{
	my ($self, $sql, $stderr) = @_;
	my $stdout = '';
	my $message = '';

	IPC::Run::run(
		[   program('mariadb'), '--no-defaults', "--socket=$self->{socket}", '--user=root',
			'--batch', '--skip-column-names', '--execute', $sql ],
		'<', '/dev/null', '>', \$stdout, '2>', \$message)
	  or do { $$stderr = $message if $stderr; return };
	chomp $stdout;
	return $stdout;
}

sub run
{
	my ($self, $sql) = @_;
	my $stderr;

	return $self->ask($sql, \$stderr) // die "MariaDB: $stderr";
}

END
{
	my $status = $?;

	$_->stop foreach @servers;
	$? = $status;
}

1;
