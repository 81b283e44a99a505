# A server whose jobs run, and what tests of them ask again and again.

package JobServer;

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# The options are lines of postgresql.conf.
sub new
{
	my ($class, $name, $options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	my $self = bless { node => $node }, $class;

	$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'etl_patterns'\nautovacuum = off\n"
		  . "log_line_prefix = '%m [%p] %b '\n$options");
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION etl_patterns');
	$self->served;
	return $self;
}

sub sql
{
	my ($self, $sql) = @_;

	return $self->{node}->safe_psql('postgres', $sql);
}

# Waits until a query gives true.
sub until
{
	my ($self, $query, $what) = @_;

	return ok($self->{node}->poll_query_until('postgres', $query), $what);
}

# Waits for a scheduler other than the given process; returns its pid.
sub served
{
	my ($self, $not_pid) = @_;

	$not_pid = 0 unless $not_pid;
	$self->{node}->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM etl_scheduler_status() WHERE database = 'postgres' AND state = 'running' AND pid <> $not_pid")
	  or die 'no scheduler';
	return $self->sql(q{SELECT pid FROM etl_scheduler_status() WHERE database = 'postgres'});
}

# Makes a job that runs when it is told to, and tells it.  Returns the number
# of the run.
sub run
{
	my ($self, $job, $command, $options) = @_;

	$options = $options ? ", $options" : '';
	$self->sql("SELECT etl_job_create('$job', 'on nothing', \$command\$$command\$command\$$options)");
	return $self->sql("SELECT etl_job_run('$job')");
}

# Waits for the end of the last run of a job, and returns some of its columns.
sub end_of
{
	my ($self, $job, $columns) = @_;

	$columns //= 'status, reason, error_code';
	$self->{node}->poll_query_until('postgres',
		"SELECT count(*) > 0 AND bool_and(finished_at IS NOT NULL) FROM etl_patterns.job_run WHERE job = '$job'")
	  or die "runs of \"$job\" do not end";
	return $self->sql("SELECT $columns FROM etl_patterns.job_run WHERE job = '$job' ORDER BY slot, attempt");
}

# The same for a job that is made for it.
sub result
{
	my ($self, $job, $command, $options, $columns) = @_;

	$self->run($job, $command, $options);
	return $self->end_of($job, $columns);
}

# Waits until a job has a run in that status.
sub wait_for
{
	my ($self, $job, $status) = @_;

	return $self->until("SELECT count(*) > 0 FROM etl_patterns.job_run WHERE job = '$job' AND status = '$status'", "$job is $status");
}

1;
