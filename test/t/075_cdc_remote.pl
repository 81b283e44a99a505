# Changes of another server, on which nothing is installed: what the target
# holds is what the source holds, whatever becomes of the connection.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use IPC::Run;
use JobServer;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $password = 'secret';
my $source = PostgreSQL::Test::Cluster->new('cdc_source');
$source->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$source->append_conf('postgresql.conf', "wal_level = logical\nautovacuum = off\nmax_wal_senders = 5\nmax_replication_slots = 5\nwal_sender_timeout = 4s\n"
	  . "shared_buffers = 16MB\nlog_line_prefix = '%m [%p] %b '\n");
my $hba = slurp_file($source->data_dir . '/pg_hba.conf');
open my $file, '>', $source->data_dir . '/pg_hba.conf' or die;
print $file "local all joe,reader,plain scram-sha-256\n", $hba;
close $file;
$source->start;
$source->safe_psql('postgres', 'CREATE DATABASE shop');

my $server = JobServer->new('cdc_target', "max_worker_processes = 20\n");
my $node = $server->{node};
my ($host, $port) = ($source->host, $source->port);

sub there { return $source->safe_psql('shop', @_) }
sub here { return $server->sql(@_) }

# The error of a statement here.
sub error_of
{
	my ($sql) = @_;
	my ($status, $stdout, $stderr) = $node->psql('postgres', $sql, on_error_stop => 1);

	return $status ? $stderr : "no error: $stdout";
}

sub caught_up
{
	my ($pipeline) = @_;
	my $reached = here("SELECT etl_cdc_wait('$pipeline', timeout => '120s')");

	diag(here("TABLE etl_patterns.cdc_status")) if $reached ne 't';
	return is($reached, 't', "$pipeline has caught up");
}

# All rows of a query, sorted, there and here.
sub is_equal
{
	my ($query, $what, $query_here) = @_;
	my $order = q{SELECT count(*), md5(string_agg(x::text, '|' ORDER BY x::text COLLATE "C")) FROM (%s) x};

	return is(here(sprintf $order, $query_here // $query), there(sprintf $order, $query), $what);
}

sub state_is
{
	my ($pipeline, $state) = @_;

	return $server->until("SELECT state = '$state' FROM etl_patterns.cdc_pipeline WHERE pipeline = '$pipeline'",
		"$pipeline is $state");
}

# What a pipeline leaves there.
sub left_there
{
	return there("SELECT count(*) FROM pg_replication_slots") . '|' . there("SELECT count(*) FROM pg_publication WHERE pubname LIKE 'etl%'");
}

# A pgbench of that server, in the background.
sub start_writers
{
	my ($script, @options) = @_;
	my $path = PostgreSQL::Test::Utils::tempdir() . '/script.sql';

	open my $fh, '>', $path or die $!;
	print $fh $script;
	close $fh;
	return IPC::Run::start([ 'pgbench', '-n', '-c', 3, '-j', 1, @options, '-f', $path, '-h', $host, '-p', $port, 'shop' ],
		'>', \my $out, '2>', \my $err);
}

here(qq{
	CREATE EXTENSION postgres_fdw;
	CREATE SERVER shop FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'shop');
	CREATE USER MAPPING FOR CURRENT_USER SERVER shop;
});

# ---------------------------------------------------------------------------
# Rows that are there, and changes, beside writers
# ---------------------------------------------------------------------------

my $tables = q{
	CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL, note text, changed timestamptz);
	CREATE TABLE event (id bigint PRIMARY KEY, account int, amount numeric(12, 2), kind text);
};
there($tables . q{
	CREATE SEQUENCE event_id;
	ALTER TABLE event ALTER id SET DEFAULT nextval('event_id');
	INSERT INTO account SELECT i, i, 'first ' || i, now() FROM generate_series(1, 2000) i;
	INSERT INTO event (account, amount, kind) SELECT i, i / 7.0, 'old' FROM generate_series(1, 3000) i;
});
here($tables);

my $writers = start_writers(q{
	\set id random(1, 2500)
	\set v random(1, 1000000)
	begin;
	insert into account values (:id, :v, 'note ' || :v, now()) on conflict (id) do update set balance = :v, note = 'note ' || :v, changed = now();
	insert into event (account, amount, kind) values (:id, :v / 100.0, 'new');
	delete from account where id = :v % 2500;
	end;
}, '-T', 15, '-R', 150);

here(q{
	SELECT etl_cdc_create('shop', 'shop');
	SELECT etl_cdc_add_table('shop', 'public.account', 'account');
	SELECT etl_cdc_add_table('shop', 'public.event', 'event', 'append');
	SELECT etl_cdc_start('shop');
});
state_is('shop', 'running');

# whatever is cut, and whenever
foreach my $victim (1 .. 3)
{
	usleep(800_000);
	there("SELECT pg_terminate_backend(pid) FROM pg_stat_replication");
}
usleep(500_000);
here("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'etl_patterns cdc reader%'");
usleep(500_000);
here("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'etl_patterns cdc: shop'");
$writers->finish;
caught_up('shop');
is_equal("SELECT * FROM account", 'what was written beside copy and cuts is here');
is_equal("SELECT * FROM event", 'once');
is(left_there(), '1|1', 'it has a slot and a publication there');

here("SELECT etl_cdc_drop('shop')");
is(left_there(), '0|0', 'and leaves none');

done_testing();
