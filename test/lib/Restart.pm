# A process that is killed takes all others of its server with it, which starts
# again by itself.
#
# Until the postmaster has seen the death the server answers as if nothing were,
# and while it begins anew a psql ends at once, which IPC::Run dies of.  So it is
# the log that says when the server is back.

package Restart;

use strict;
use warnings;

use PostgreSQL::Test::Cluster;

# Kills a process, and comes back when the server is.
sub kill_process
{
	my ($node, $pid) = @_;
	my $before = -s $node->logfile;

	kill 'KILL', $pid or die "could not kill process $pid: $!";
	return is_back($node, $before);
}

# Waits until a server is back whose log was so long before.
sub is_back
{
	my ($node, $before) = @_;

	$node->wait_for_log(qr/database system is ready to accept connections/, $before);
	return;
}

1;
