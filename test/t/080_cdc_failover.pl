# A standby takes over while a pipeline runs.  From PostgreSQL 17 on it has the
# slot, and the pipeline goes on: nothing is lost, nothing comes twice.  Before,
# the pipeline says that it is lost, and begins anew when it is told to.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Cdc;
use JobServer;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $server = Cdc::start('cdc_primary', "max_wal_senders = 5\nmax_replication_slots = 10\n");
my $primary = $server->{node};
my $copies_slots = $primary->pg_version >= 17;

sub insert { return sql("INSERT INTO event SELECT n, n FROM generate_series((SELECT coalesce(max(id), 0) FROM event) + 1, (SELECT coalesce(max(id), 0) FROM event) + $_[0]) n") }

# Is all of the source in the targets, once?
sub is_complete
{
	my ($what) = @_;

	same('SELECT * FROM event', 'SELECT * FROM event_copy', "$what: the mirror is the same");
	return same('SELECT id FROM event', 'SELECT id FROM event_log', "$what: each insert came once");
}

sql(q{
	CREATE TABLE event (id int PRIMARY KEY, v int);
	CREATE TABLE event_copy (LIKE event INCLUDING ALL);
	CREATE TABLE event_log (id int, v int);
	SELECT etl_cdc_create('p'), etl_cdc_add_table('p', 'event', 'event_copy'), etl_cdc_add_table('p', 'event', 'event_log', 'append'),
		etl_cdc_start('p'), pg_create_physical_replication_slot('standby', true);
});
insert(10);
applied('p');

$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('cdc_standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', sprintf "primary_conninfo = 'host=%s port=%s dbname=postgres'\n", $primary->host, $primary->port);
$standby->append_conf('postgresql.conf', "primary_slot_name = 'standby'\nhot_standby_feedback = on\n");
$standby->append_conf('postgresql.conf', "sync_replication_slots = on\n") if $copies_slots;
$standby->start;

# ---------------------------------------------------------------------------
# The slot, and what it waits for
# ---------------------------------------------------------------------------

my $slot = q{slot_name IN (SELECT slot_name FROM etl_patterns.cdc_pipeline)};
my $target;

SKIP:
{
	skip 'standbys have no slots of their primary before PostgreSQL 17' unless $copies_slots;

	is(sql("SELECT failover FROM pg_replication_slots WHERE $slot"), 'f', 'no slot is copied while it need not wait for a standby');
	$primary->append_conf('postgresql.conf', "synchronized_standby_slots = 'standby'\n");
	$primary->reload;
	$server->until("SELECT failover FROM pg_replication_slots WHERE $slot", 'it is when a standby is named');

	# Of another server, too.
	$target = JobServer->new('cdc_far', "wal_level = logical\nmax_worker_processes = 20\n");
	$target->sql(sprintf q{
		CREATE EXTENSION postgres_fdw;
		CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '%s', port '%s', dbname 'postgres');
		CREATE USER MAPPING FOR CURRENT_USER SERVER far;
		CREATE TABLE event_copy (id int PRIMARY KEY, v int);
		CREATE TABLE event_log (id int, v int);
		SELECT etl_cdc_create('far', server => 'far'), etl_cdc_add_table('far', 'public.event', 'event_copy'),
			etl_cdc_add_table('far', 'public.event', 'event_log', 'append'), etl_cdc_start('far');
	}, $primary->host, $primary->port);
	is($target->sql(q{SELECT etl_cdc_wait('far', timeout => '180s')}), 't', 'another server follows');
	is(sql("SELECT count(*) FROM pg_replication_slots WHERE failover"), 2, 'its slot is copied, too');

	my $nsynced = 0;
	for (1 .. 360)
	{
		insert(1);
		$primary->safe_psql('postgres', 'SELECT pg_log_standby_snapshot()');
		$nsynced = $standby->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots WHERE synced AND NOT temporary');
		last if $nsynced == 2;
		usleep(500_000);
	}
	is($nsynced, 2, 'the standby has the slots');

	# What is applied goes on without the standby, the slot does not.
	$standby->stop;
	insert(1);
	my $end = sql('SELECT pg_current_wal_insert_lsn()');
	applied('p');
	insert(1);
	applied('p', 'the pipeline does not wait for a standby that is away');
	usleep(1_500_000);
	is(sql("SELECT confirmed_flush_lsn < '$end' FROM pg_replication_slots WHERE $slot"), 't', 'its slot does');
	$standby->start;
	$server->until("SELECT confirmed_flush_lsn > '$end' FROM pg_replication_slots WHERE $slot", 'it moves on when the standby is back');
}

# ---------------------------------------------------------------------------
# The standby takes over
# ---------------------------------------------------------------------------

my $from = sql('SELECT max(id) FROM event') + 1;
my $writer = Cdc::session(join '', map { "INSERT INTO event VALUES ($_, 0); UPDATE event SET v = v + 1 WHERE id = $_ - 1;\n" } $from .. $from + 50_000);
$standby->poll_query_until('postgres', "SELECT max(id) > $from + 500 FROM event_copy") or die 'the standby does not follow';
$primary->stop('immediate');
$writer->finish;
$standby->promote;
my $promoted = Cdc::go_on_with($standby);

if ($copies_slots)
{
	insert(10);
	applied('p', 'the pipeline goes on');
	is(sql('SELECT synced FROM pg_replication_slots WHERE ' . $slot), 't', 'with the slot that was copied');
	is(sql('SELECT failover FROM pg_replication_slots WHERE ' . $slot), 'f', 'which is not copied any more: no standby is named here');

	$target->sql(sprintf q{ALTER SERVER far OPTIONS (SET host '%s', SET port '%s')}, $standby->host, $standby->port);
	is($target->sql(q{SELECT etl_cdc_wait('far', timeout => '180s')}), 't', 'the other server goes on with it');
	my $events = sql('SELECT count(*), sum(id), sum(v) FROM event');
	is($target->sql('SELECT count(*), sum(id), sum(v) FROM event_copy'), $events, 'it has all of it');
	is($target->sql('SELECT count(*), count(DISTINCT id) FROM event_log'), sql('SELECT count(*), count(*) FROM event'), 'once');
	$target->{node}->stop;
}
else
{
	state_is('p', 'lost', 'the pipeline says that its slot is gone');
	is(sql('SELECT hint FROM etl_patterns.cdc_status'), "etl_cdc_resync('p') copies its tables again.", 'and what to do');
	sql(q{TRUNCATE event_log; SELECT etl_cdc_resync('p')});
	insert(10);
	applied('p', 'it begins anew');
}
is_complete('promoted');
is(sql('SELECT count(*) FROM event WHERE id > ' . $from) > 500, 1, 'with what was written before');

$standby->stop;
done_testing();
