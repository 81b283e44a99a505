# What tests of pipelines ask again and again, of the server that was started
# last: statements, waiting, comparing, errors, sessions beside the test's own.

package Cdc;

use strict;
use warnings;

use Exporter 'import';
use File::Temp;
use IPC::Run ();
use JobServer;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(sql applied same state_is paused paused_with refused script session pid_of pick);

my $server;

# A server for pipelines; the options are lines of postgresql.conf.  Returns a
# JobServer.
sub start
{
	my ($name, $options) = @_;

	$server = JobServer->new($name, "wal_level = logical\nmax_worker_processes = 20\n" . ($options // ''));
	return $server;
}

# From now on all is asked of that server, whose scheduler is waited for.
sub go_on_with
{
	my ($node) = @_;

	$server = bless { node => $node }, 'JobServer';
	$server->served;
	return $server;
}

sub sql { return $server->sql(@_) }

# Waits until all is applied that is committed now.
sub applied
{
	my ($pipeline, $what) = @_;

	return is(sql("SELECT etl_cdc_wait('$pipeline', timeout => '180s')"), 't', $what // "$pipeline has caught up")
	  || diag(sql("SELECT state, reason, error_change, hint FROM etl_patterns.cdc_status WHERE pipeline = '$pipeline'"));
}

# Do two queries give the same rows?
sub same
{
	my ($want, $have, $what) = @_;

	return is(sql("SELECT left(d::text, 300) FROM ((SELECT 'missing', * FROM (($want) EXCEPT ALL ($have)) a)
		UNION ALL (SELECT 'extra', * FROM (($have) EXCEPT ALL ($want)) b)) d LIMIT 10"), '', $what);
}

# Waits for the state of a pipeline.
sub state_is
{
	my ($pipeline, $state, $what) = @_;

	return $server->until("SELECT state = '$state' FROM etl_patterns.cdc_pipeline WHERE pipeline = '$pipeline'",
		$what // "$pipeline is $state");
}

# Waits until a pipeline is paused, and returns the message of its error.
sub paused
{
	my ($pipeline) = @_;

	$server->{node}->poll_query_until('postgres',
		"SELECT state = 'paused' FROM etl_patterns.cdc_pipeline WHERE pipeline = '$pipeline'")
	  or die "pipeline $pipeline does not pause";
	return sql("SELECT error_message FROM etl_patterns.cdc_pipeline WHERE pipeline = '$pipeline'");
}

# The same; message and hint are like that.
sub paused_with
{
	my ($pipeline, $want, $what) = @_;

	paused($pipeline);
	return like(sql("SELECT concat_ws(' | ', error_message, error_hint) FROM etl_patterns.cdc_pipeline WHERE pipeline = '$pipeline'"),
		$want, $what);
}

# A statement fails, with that in its message.
sub refused
{
	my ($sql, $want, $what) = @_;
	my ($rc, $out, $err) = $server->{node}->psql('postgres', $sql);

	return like($err, $want, $what);
}

# The call of psql for a session of its own.
sub psql { return ($server->{node}->installed_command('psql'), '-X', '-q', '-A', '-t', '-d', $server->{node}->connstr('postgres')) }

# Statements of one session, each a transaction of its own unless it says more.
sub script
{
	my ($statements) = @_;
	my $err;

	IPC::Run::run([ psql(), '-v', 'ON_ERROR_STOP=1' ], '<', \$statements, '>', \my $out, '2>', \$err)
	  or die "script failed: $err";
	return;
}

# A session that executes statements, whatever becomes of them and the server.
sub session
{
	my ($sql) = @_;
	my ($fh, $file) = File::Temp::tempfile(UNLINK => 1);

	print $fh $sql;
	close $fh;
	return IPC::Run::start([ psql(), '-f', $file ], '<', \undef, '>', \my $out, '2>', \my $err);
}

# The only process of a kind.
sub pid_of
{
	my ($type) = @_;

	$server->{node}->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = '$type'")
	  or die "no process '$type'";
	return sql("SELECT pid FROM pg_stat_activity WHERE backend_type = '$type'");
}

sub pick { return $_[ int(rand(@_)) ] }

1;
