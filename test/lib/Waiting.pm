# Pulls that wait for another transaction: started in a session of their own,
# observed by the notice that says whom they wait for, and by what they leave.

package Waiting;

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

sub new
{
	my ($class, $node) = @_;

	return bless { node => $node }, $class;
}

# A session with a transaction in which the given statements have run.
sub holder
{
	my ($self, $sql, $db) = @_;
	my $session = $self->{node}->background_psql($db // 'postgres', on_error_stop => 0);

	$session->query_safe("BEGIN; $sql");
	return ($session, $session->query_safe('SELECT pg_backend_pid()'));
}

# Starts a pull and comes back once it has said that it waits.  What it
# prints at last is rows, then whether it took longer than a number of
# seconds.
sub start
{
	my ($self, $call, $seconds) = @_;
	my $session = $self->{node}->background_psql('postgres', on_error_stop => 0);

	$session->query_safe('SET etl_patterns.horizon_guard = 0');
	$self->{pid} = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_until(qr/started/, "\\echo started\n"
		  . "SELECT clock_timestamp() AS began \\gset\n"
		  . "SELECT rows_read FROM $call;\n"
		  . "SELECT CASE WHEN clock_timestamp() - :'began' > '$seconds s' THEN 'late' ELSE 'in time' END;\n"
		  . "\\echo ended\n");
	pump_until($session->{run}, $session->{timeout}, \$session->{stderr}, qr/NOTICE.*\n/)
	  or die 'the pull does not say that it waits';
	$self->{notice} = $session->{stderr};
	return $session;
}

# The rest of what it prints.
sub finish
{
	my ($self, $session) = @_;
	my $out = $session->query_until(qr/ended\n/, '');

	$self->{errors} = join '', grep { /ERROR/ } split /^/, $session->{stderr};
	$session->{stderr} = '';
	$session->quit;
	$out =~ s/started|ended//g;
	return join ' ', split ' ', $out;
}

# A pull that does not wait: what it says, and its rows.
sub now
{
	my ($self, $call, %params) = @_;
	my ($out, $err);

	$self->{node}->psql($params{db} // 'postgres',
		'SET etl_patterns.horizon_guard = 0; ' . ($params{before} // '') . "; SELECT rows_read FROM $call",
		stdout => \$out, stderr => \$err, on_error_stop => 0);
	$self->{notice} = $err;
	$self->{errors} = join '', grep { /ERROR/ } split /^/, $err;
	return $out;
}

# A part of the last run's row.
sub last_run
{
	my ($self, $what) = @_;

	return $self->{node}->safe_psql('postgres', "SELECT $what FROM etl_patterns.run ORDER BY run_id DESC LIMIT 1");
}

sub ids
{
	my ($self, $table) = @_;

	return $self->{node}->safe_psql('postgres', "SELECT string_agg(id::text, ' ' ORDER BY id) FROM $table");
}

1;
