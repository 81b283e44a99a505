# What users do with pipelines that run: start, wait, stop, change tables, skip,
# resync, drop; what they are shown; what a restored pipeline does.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('cdc_functions');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', q{
wal_level = logical
shared_preload_libraries = 'etl_patterns'
max_replication_slots = 3
max_prepared_transactions = 2
max_worker_processes = 16
autovacuum = off
});
$node->start;

my $db = 'shop';

sub sql
{
	my ($sql, $in) = @_;

	return $node->safe_psql($in // $db, $sql);
}

# Is that the error?
sub fails
{
	my ($sql, $error, $what, $in) = @_;
	my ($rc, $out, $err) = $node->psql($in // $db, $sql);

	isnt($rc, 0, "$what: is refused");
	return like($err, $error, $what);
}

sub wait_until
{
	my ($query, $what, $in) = @_;

	return ok($node->poll_query_until($in // $db, $query), $what);
}

sub status
{
	my ($columns, $pipeline, $in) = @_;

	return sql("SELECT $columns FROM etl_patterns.cdc_status WHERE pipeline = '$pipeline'", $in);
}

# Waits until all that was committed is applied, and compares.
sub equal
{
	my ($pipeline, $source, $target, $what, $in) = @_;

	is(sql("SELECT etl_cdc_wait('$pipeline', timeout => '180 s')", $in), 't', "$what: has caught up");
	return is(sql("SELECT count(*) FROM ((TABLE $source EXCEPT ALL TABLE $target)
			UNION ALL (TABLE $target EXCEPT ALL TABLE $source)) d", $in), '0', "$what: is equal");
}

sql(q{
	CREATE ROLE ann LOGIN REPLICATION;
	CREATE ROLE bob LOGIN;
	CREATE DATABASE shop OWNER ann;
}, 'postgres');
sql(q{
	CREATE EXTENSION etl_patterns;
	GRANT CREATE ON SCHEMA public TO ann;
	SET ROLE ann;
	CREATE TABLE orders (id int PRIMARY KEY, amount int);
	CREATE TABLE lines (id int PRIMARY KEY, item text);
	INSERT INTO orders SELECT i, i FROM generate_series(1, 1000) i;
	INSERT INTO lines SELECT i, 'item ' || i FROM generate_series(1, 100) i;
	CREATE TABLE orders_copy (LIKE orders INCLUDING ALL);
	CREATE TABLE lines_copy (LIKE lines INCLUDING ALL);
	CREATE TABLE orders_log (LIKE orders);
	ALTER TABLE orders_copy ADD CHECK (amount <> -13);
	SELECT etl_cdc_create('sales');
	SELECT etl_cdc_add_table('sales', 'orders', 'orders_copy');
});

# ----------------------------------------------------------------------
# start, wait, status

fails(q{BEGIN; SELECT etl_cdc_start('sales'); CREATE TABLE t (); SELECT etl_cdc_wait('sales')},
	qr/cannot wait for CDC pipeline "sales" in a transaction that has written/,
	'a wait for what waits for us');
is(status('state', 'sales'), 'stopped', 'which was rolled back');
sql(q{SELECT etl_cdc_start('sales')});
equal('sales', 'orders', 'orders_copy', 'first start');
is(status('state, tables, tables_new, reads, rows_copied, inserts, error_message IS NULL, reason IS NULL', 'sales'),
	'running|1|0|1000|1000|0|t|t', 'what the status counts');
is(sql(q{SELECT a.usename, a.backend_type, r.backend_type IS NOT NULL, l.active_pid = s.reader_pid
		FROM etl_patterns.cdc_status s JOIN pg_stat_activity a USING (pid)
		JOIN pg_stat_activity r ON r.pid = s.reader_pid
		JOIN pg_replication_slots l USING (slot_name)}),
	'ann|etl_patterns cdc|t|t', 'one process is the owner\'s, another one has the slot');
my ($rc, $out, $err) = $node->psql($db, q{SELECT etl_cdc_start('sales')});
like($err, qr/NOTICE:  CDC pipeline "sales" is running already/, 'a second start says so');

sql(q{UPDATE orders SET amount = amount + 1000; DELETE FROM orders WHERE id > 900; INSERT INTO orders VALUES (2000, 1)});
equal('sales', 'orders', 'orders_copy', 'changes');
is(status('inserts, updates, deletes, transactions > 0, source_committed_at IS NOT NULL', 'sales'), '1|1000|100|t|t', 'changes are counted');
wait_until(q{SELECT applied_lag_bytes = 0 AND read_lag_bytes = 0 AND lag_seconds = 0 FROM etl_patterns.cdc_status},
	'without work there is no lag');
wait_until(q{SELECT confirmed_lag_bytes < 1000000 FROM etl_patterns.cdc_status}, 'and the slot moves on');

# Something holds it up.
my $holder = $node->background_psql($db);
$holder->query_safe('BEGIN; LOCK TABLE orders_copy IN EXCLUSIVE MODE');
sql('INSERT INTO orders VALUES (2001, 1)');
is(sql(q{SELECT etl_cdc_wait('sales', timeout => '300 ms')}), 'f', 'a wait ends when its time is over');
is(sql(q{SELECT etl_cdc_wait('sales', '0/1', '0')}), 't', 'what was applied long ago is not waited for');
wait_until(q{SELECT applied_lag_bytes > 0 AND lag_seconds > 0 FROM etl_patterns.cdc_status WHERE pipeline = 'sales'}, 'there is a lag');
$holder->query_safe('COMMIT');
$holder->quit;
equal('sales', 'orders', 'orders_copy', 'after the lock');

# ----------------------------------------------------------------------
# stop

my $pid = status('pid', 'sales');
sql(q{BEGIN; SELECT etl_cdc_stop('sales'); ROLLBACK});
wait_until("SELECT pid <> $pid FROM etl_patterns.cdc_status", 'a stop that is rolled back is made good');
equal('sales', 'orders', 'orders_copy', 'after that');
is(sql(q{SELECT etl_cdc_stop('sales'); SELECT state, pid IS NULL, active FROM etl_patterns.cdc_status JOIN pg_replication_slots USING (slot_name)}),
	"\nstopped|t|f", 'a stop has ended the processes when it returns');
sql('INSERT INTO orders VALUES (2002, 1)');
fails(q{SELECT etl_cdc_wait('sales')}, qr/CDC pipeline "sales" is stopped\nHINT:  Start it with etl_cdc_start\(\)/, 'a wait for what is stopped');
fails(q{SET ROLE bob; SELECT etl_cdc_start('sales')}, qr/CDC pipeline "sales" does not exist/, 'another role');
is(sql(q{SELECT count(*) FROM orders_copy WHERE id = 2002}), '0', 'nothing is applied');
sql(q{SELECT etl_cdc_start('sales')});
equal('sales', 'orders', 'orders_copy', 'after a stop');

# ----------------------------------------------------------------------
# tables of a pipeline that runs

sql(q{SELECT etl_cdc_add_table('sales', 'lines', 'lines_copy'); INSERT INTO lines VALUES (1000, 'x'); UPDATE lines SET item = item || '!' WHERE id < 10});
equal('sales', 'lines', 'lines_copy', 'a table that is added');
sql(q{INSERT INTO lines VALUES (1001, 'y'); INSERT INTO orders VALUES (2003, 1)});
equal('sales', 'lines', 'lines_copy', 'and followed');
sql(q{SELECT etl_cdc_alter_table('sales', 'lines', 'lines_copy', row_filter => 'id < 5000')});
sql(q{INSERT INTO lines VALUES (5000, 'no'), (1002, 'yes')});
ok(sql(q{SELECT etl_cdc_wait('sales', timeout => '180 s')}) eq 't', 'an altered table: has caught up');
is(sql(q{SELECT string_agg(item, ' ' ORDER BY id) FROM lines_copy WHERE id > 1001}), 'yes', 'an altered table: its filter counts from then on');
sql(q{SELECT etl_cdc_remove_table('sales', 'lines'); DELETE FROM lines WHERE id = 1000; INSERT INTO orders VALUES (2004, 1)});
equal('sales', 'orders', 'orders_copy', 'a table was removed: the others');
is(sql('SELECT count(*) FROM lines_copy WHERE id = 1000'), '1', 'a table that was removed is left as it is');

# Definitions are changed while batches are applied: nobody waits in a circle.
my $writer = $node->background_psql($db);
$writer->query_until(qr/begun/, q{
	\echo begun
	DO $$ BEGIN FOR i IN 10001..12000 LOOP INSERT INTO orders VALUES (i, i); COMMIT; END LOOP; END $$;
});
for my $i (1 .. 20)
{
	sql("SELECT etl_cdc_alter_table('sales', 'orders', 'orders_copy', row_filter => 'id > -$i')");
}
sql(q{SELECT etl_cdc_alter_table('sales', 'orders', 'orders_copy', row_filter => '')});
$writer->quit;
equal('sales', 'orders', 'orders_copy', 'altered again and again');
unlike(slurp_file($node->logfile), qr/deadlock detected/, 'without a deadlock');

# ----------------------------------------------------------------------
# pause, skip

sql(q{INSERT INTO orders VALUES (13, -13) ON CONFLICT (id) DO UPDATE SET amount = -13; INSERT INTO orders VALUES (2005, 1)});
wait_until(q{SELECT state = 'paused' FROM etl_patterns.cdc_status}, 'a bad change pauses');
is(status(q{error_code, error_change->>'table', error_change->'key'->>'id', reason = error_message, hint LIKE '%etl_cdc_start(''sales'')%etl_cdc_skip(''sales'', ''' || (error_change->>'end_lsn') || ''')%'}, 'sales'),
	'23514|public.orders|13|t|t', 'the status says which, and how to go on');
fails(q{SELECT etl_cdc_wait('sales')}, qr/CDC pipeline "sales" is paused\nDETAIL:  new row for relation "orders_copy" violates.*\nHINT:  Mend it/, 'a wait for what is paused');
is(sql(q{SELECT kind, job, pipeline, error_code FROM etl_alert_drain()}), 'paused||sales|23514', 'there is an alert');
fails(q{SELECT etl_cdc_skip('sales', '0/1')}, qr/CDC pipeline "sales" has applied 0\/1 already/, 'a skip of the past');
fails(q{SELECT etl_cdc_skip('sales', 'FFFFFF/0')}, qr/does not end at FFFFFF\/0\nHINT:  To skip it, use etl_cdc_skip\('sales', '/, 'a skip of another transaction');
sql(q{SELECT etl_cdc_start('sales')});
wait_until(q{SELECT state = 'paused' FROM etl_patterns.cdc_status}, 'it pauses again where it was');
sql(q{SELECT etl_cdc_skip('sales', (error_change->>'end_lsn')::pg_lsn) FROM etl_patterns.cdc_status});
is(sql(q{SELECT etl_cdc_wait('sales', timeout => '180 s')}), 't', 'it goes on after the skip');
is(sql(q{SELECT count(*) FILTER (WHERE id = 2005), count(*) FILTER (WHERE amount = -13) FROM orders_copy}), '1|0', 'without the transaction that was skipped');
is(status('state, error_message, error_change, skip_lsn', 'sales'), 'running|||', 'and that is forgotten');
sql(q{UPDATE orders SET amount = 14 WHERE id = 13});
equal('sales', 'orders', 'orders_copy', 'a conflict is settled by the source');

# ----------------------------------------------------------------------
# resync

sql(q{DELETE FROM orders_copy WHERE id < 10; UPDATE orders_copy SET amount = -1 WHERE id = 20; INSERT INTO orders_copy VALUES (-1, -1)});
sql(q{SELECT etl_cdc_resync('sales', 'orders')});
equal('sales', 'orders', 'orders_copy', 'a table that is copied again');
sql(q{DELETE FROM orders_copy WHERE id < 10});
my $slot = sql('SELECT restart_lsn, slot_name FROM pg_replication_slots');
sql(q{SELECT etl_cdc_resync('sales')});
equal('sales', 'orders', 'orders_copy', 'all tables copied again');
is(sql('SELECT count(*) FROM pg_replication_slots'), '1', 'with a new slot of the same name');

# The slot is gone.
sql(q{SELECT etl_cdc_stop('sales')});
sql(q{SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots; INSERT INTO orders VALUES (2006, 1)});
sql(q{SELECT etl_cdc_start('sales')});
wait_until(q{SELECT state = 'lost' FROM etl_patterns.cdc_status}, 'without its slot it is lost');
is(status(q{hint}, 'sales'), q{etl_cdc_resync('sales') copies its tables again.}, 'the status says what to do');
is(sql(q{SELECT kind, pipeline FROM etl_alert_drain(10) WHERE kind = 'lost'}), 'lost|sales', 'there is an alert');
fails(q{SELECT etl_cdc_start('sales')}, qr/CDC pipeline "sales" cannot go on where it was\nDETAIL:  Its replication slot is lost: changes since .* are missing\.\nHINT:  etl_cdc_resync\('sales'\)/, 'a start of what is lost');
sql(q{SELECT etl_cdc_resync('sales')});
equal('sales', 'orders', 'orders_copy', 'after the loss');

# ----------------------------------------------------------------------
# limits

sql(q{SELECT pg_create_physical_replication_slot('one'); SELECT pg_create_physical_replication_slot('two')});
sql(q{SELECT etl_cdc_create('second'); SELECT etl_cdc_add_table('second', 'orders', 'orders_log', 'append')});
fails(q{SELECT etl_cdc_start('second')}, qr/CDC pipeline "second" cannot run: all replication slots are in use\nDETAIL:  "max_replication_slots" is 3\./, 'no slot is free');
sql(q{SELECT pg_drop_replication_slot('one'); SELECT pg_drop_replication_slot('two'); SELECT etl_cdc_drop('second')});

# The slot keeps too much, is told of once, and is well again.
$node->append_conf('postgresql.conf', "etl_patterns.cdc_retained_limit = '2MB'\nmax_wal_size = '64MB'");
$node->reload;
sql(q{SELECT etl_cdc_stop('sales'); SELECT etl_alert_drain()});
sql(q{CREATE TABLE filler AS SELECT i, repeat('x', 1000) AS t FROM generate_series(1, 5000) i});
wait_until(q{SELECT count(*) = 1 FROM etl_patterns.alert WHERE kind = 'slot_retained' AND pipeline = 'sales'}, 'a slot that keeps too much is told of');
is(status('retained_bytes > 2000000, retained_alert_at IS NOT NULL', 'sales'), 't|t', 'and shown');
sql(q{SELECT etl_cdc_start('sales')});
equal('sales', 'orders', 'orders_copy', 'it goes on');
sql(q{CHECKPOINT; INSERT INTO orders VALUES (2007, 1)});
wait_until(q{SELECT pg_log_standby_snapshot() IS NOT NULL AND retained_alert_at IS NULL FROM etl_patterns.cdc_status}, 'and is well again')
  if $node->pg_version >= 16;
$node->poll_query_until($db, q{SELECT retained_alert_at IS NULL FROM etl_patterns.cdc_status});
is(sql(q{SELECT string_agg(kind, ' ' ORDER BY alert_id) FROM etl_patterns.alert}), 'slot_retained recovered', 'once each');
sql(q{ALTER SYSTEM SET etl_patterns.cdc_retained_limit = -1; SELECT pg_reload_conf(); SELECT etl_alert_drain()});

# ----------------------------------------------------------------------
# drop

fails('DROP EXTENSION etl_patterns', qr/cannot drop extension "etl_patterns" because CDC pipelines have replication slots\nDETAIL:  These have: "sales"\.\nHINT:  Drop the pipelines first/, 'DROP EXTENSION');
fails('DROP SCHEMA public CASCADE', qr/CDC pipelines have replication slots/, 'DROP SCHEMA of the functions');
is(sql('SELECT count(*) FROM etl_patterns.cdc_pipeline'), '1', 'nothing was dropped');
fails(q{BEGIN; SELECT etl_cdc_drop('sales'); PREPARE TRANSACTION 'x'}, qr/cannot PREPARE a transaction that drops the slot of a pipeline/, 'PREPARE TRANSACTION');
sql(q{BEGIN; SELECT etl_cdc_drop('sales'); ROLLBACK});
sql(q{BEGIN; SAVEPOINT s; SELECT etl_cdc_drop('sales'); ROLLBACK TO s; COMMIT});
equal('sales', 'orders', 'orders_copy', 'a drop that was rolled back');

# ----------------------------------------------------------------------
# copies of the database

my $dump = PostgreSQL::Test::Utils::tempdir() . '/shop.dump';
$node->command_ok([ 'pg_dump', '--format=custom', '--file', $dump, $db ], 'pg_dump');
sql('CREATE DATABASE restored', 'postgres');

# a look before the dump has come to where its jobs and pipelines were armed
my ($contents) = PostgreSQL::Test::Utils::run_command([ $node->installed_command('pg_restore'), '--list', $dump ]);
my ($begin, $rest) = map { $dump . $_ } '.begin', '.rest';
PostgreSQL::Test::Utils::append_to_file($begin, join("\n", grep { !/ run_jobs / } split(/\n/, $contents)) . "\n");
PostgreSQL::Test::Utils::append_to_file($rest, join("\n", grep { / run_jobs / } split(/\n/, $contents)) . "\n");
my @restore = ('pg_restore', '--dbname', $node->connstr('restored'));
$node->command_ok([ @restore, '--use-list', $begin, $dump ], 'pg_restore of most of it');
my $scheduler = q{SELECT pid FROM etl_scheduler_status() WHERE database = 'restored' AND state = 'running'};
wait_until("SELECT count(*) = 1 FROM ($scheduler) p", 'there is a scheduler');
my $former = sql("SELECT pid, pg_terminate_backend(pid, 60000) FROM ($scheduler) p") =~ s/\|t$//r;
wait_until("SELECT count(*) = 1 FROM ($scheduler) p WHERE pid <> $former", 'and one that has seen what is there');
is(status('state, pid', 'sales', 'restored'), 'running|', 'a pipeline does not run in a database that is being restored');
$node->command_ok([ @restore, '--use-list', $rest, $dump ], 'pg_restore of the rest');
is(status('state, reason, hint, pid', 'sales', 'restored'),
	q{running|restored or copied from another database|etl_cdc_resync('sales') copies its tables again.|}, 'a restored pipeline does not run');
wait_until(q{SELECT count(*) = 1 FROM etl_scheduler_status() WHERE database = 'restored' AND state = 'running'}, 'its database has a scheduler');
is(status('pid', 'sales', 'restored'), '', 'even then it does not run');
sql('SELECT etl_job_arm()', 'restored');
is(status('state, reason, pid', 'sales', 'restored'), 'lost|the pipeline was restored or copied from another database|', 'when jobs run there it is lost');
is(sql('SELECT count(*) FROM pg_replication_slots'), '1', 'it has no slot');
sql(q{INSERT INTO orders VALUES (3000, 1); SELECT etl_cdc_resync('sales')}, 'restored');
equal('sales', 'orders', 'orders_copy', 'it begins anew', 'restored');
is(sql('SELECT count(DISTINCT database) FROM pg_replication_slots'), '2', 'with a slot of its own');
sql(q{INSERT INTO orders VALUES (4000, 1)});
equal('sales', 'orders', 'orders_copy', 'the original goes on');

sql(q{SELECT etl_cdc_stop('sales')});
sql('CREATE DATABASE twin TEMPLATE shop', 'postgres');
sql(q{SELECT etl_cdc_drop('sales')}, 'twin');
is(sql('SELECT count(DISTINCT database) FROM pg_replication_slots'), '2', 'who drops a copy does not drop the original\'s slot');
sql(q{SELECT etl_cdc_start('sales')});
equal('sales', 'orders', 'orders_copy', 'the original goes on once more');

# ----------------------------------------------------------------------
# another server

my $far = PostgreSQL::Test::Cluster->new('cdc_far');
$far->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$far->append_conf('postgresql.conf', "wal_level = replica\nmax_wal_senders = 4\nmax_replication_slots = 4\nautovacuum = off\n");
$far->start;
$far->safe_psql('postgres', q{
	CREATE ROLE reader LOGIN;
	CREATE SCHEMA app;
	GRANT USAGE ON SCHEMA app TO reader;
	CREATE TABLE app.thing (id int PRIMARY KEY, item text);
	CREATE TABLE app.keyless (id int, item text);
	CREATE TABLE app.secret (id int PRIMARY KEY, item text);
	CREATE TABLE app.hidden (id int PRIMARY KEY, item text);
	ALTER TABLE app.hidden ENABLE ROW LEVEL SECURITY;
	CREATE VIEW app.seen AS TABLE app.thing;
	CREATE UNLOGGED TABLE app.unlogged (id int PRIMARY KEY);
	GRANT SELECT ON app.thing, app.keyless, app.hidden, app.seen, app.unlogged TO reader;
	ALTER ROLE reader SET search_path = app;
});
my ($host, $port) = ($far->host, $far->port);
my ($own_host, $own_port) = ($node->host, $node->port);
sql(qq{
	CREATE EXTENSION postgres_fdw;
	CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER far OPTIONS (user 'reader');
	CREATE SERVER back FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$own_host', port '$own_port', dbname 'shop');
	CREATE USER MAPPING FOR CURRENT_USER SERVER back;
	CREATE TABLE thing (id int PRIMARY KEY, item text);
	SELECT etl_cdc_create('far', server => 'far');
	SELECT etl_cdc_create('back', server => 'back');
});
fails(q{SELECT etl_cdc_add_table('back', 'public.orders', 'thing')}, qr/server "back" leads to this database/, 'a server that leads back');
fails(q{SELECT etl_cdc_add_table('far', 'nothing', 'thing')}, qr/source nothing does not exist on server "far"/, 'no such table there');
fails(q{SELECT etl_cdc_add_table('far', 'app.secret', 'thing')}, qr/permission denied for source app.secret\nDETAIL:  The role that logs in to server "far" needs SELECT/, 'no right there');
fails(q{SELECT etl_cdc_add_table('far', 'app.hidden', 'thing')}, qr/row security hides rows of source app.hidden\nDETAIL:  Policies of the table apply to the role that logs in to server "far"/, 'policies there');
fails(q{SELECT etl_cdc_add_table('far', 'app.seen', 'thing')}, qr/source app.seen cannot be followed\nDETAIL:  It is no table/, 'a view there');
fails(q{SELECT etl_cdc_add_table('far', 'app.unlogged', 'thing')}, qr/The changes of unlogged table app.unlogged are not in the WAL/, 'an unlogged table there');
fails(q{SELECT etl_cdc_add_table('far', 'app.keyless', 'thing')}, qr/table app.keyless has neither a primary key nor a replica identity.*\nHINT:  Add a primary key on that server/s, 'a table without a key there');
fails(q{SELECT etl_cdc_add_table('far', 'app.keyless', 'thing', 'append')}, qr/its server has to publish it, and would then refuse/, 'nor can it be published');
fails(q{SELECT etl_cdc_add_table('far', 'app.thing', 'thing', row_filter => 'nothing > 1')}, qr/column "nothing" of source "app.thing" does not exist/, 'a filter that does not fit');
sql(q{SELECT etl_cdc_add_table('far', 'thing', 'thing')});
is(sql(q{SELECT source, source_relation IS NULL FROM etl_patterns.cdc_table WHERE pipeline = 'far'}), 'app.thing|t', 'names are those that are seen there');
fails(q{SELECT etl_cdc_add_table('far', 'app.thing', 'thing')}, qr/has table app.thing to this target already/, 'by whatever name');
sql(q{SELECT etl_cdc_alter_table('far', 'thing', 'thing', row_filter => 'id > 0')});
fails(q{SELECT etl_cdc_start('far')}, qr/"wal_level" must be "logical" on server "far"\nHINT:  There: ALTER SYSTEM SET wal_level = 'logical'/, 'wal_level there');
$far->append_conf('postgresql.conf', 'wal_level = logical');
$far->restart;
fails(q{SELECT etl_cdc_start('far')}, qr/permission denied to follow the changes of server "far"\nDETAIL:  Role "reader" of that server has no REPLICATION privilege/, 'no REPLICATION there');
$far->safe_psql('postgres', q{
	ALTER ROLE reader REPLICATION;
	CREATE PUBLICATION etl_patterns FOR TABLE app.thing WITH (publish_via_partition_root = true);
	INSERT INTO app.thing VALUES (1, 'one'), (2, 'two');
});
sql(q{SELECT etl_cdc_start('far')});
is(sql(q{SELECT etl_cdc_wait('far', timeout => '180 s')}), 't', 'another server is copied');
$far->safe_psql('postgres', q{UPDATE app.thing SET item = 'three' WHERE id = 2; INSERT INTO app.thing VALUES (4, 'four')});
is(sql(q{SELECT etl_cdc_wait('far', timeout => '180 s')}), 't', 'and followed');
is(sql(q{SELECT string_agg(id || item, ' ' ORDER BY id) FROM thing}), '1one 2three 4four', 'with its changes');
is(status('state, reads, inserts, updates, wal_lsn IS NOT NULL, pid IS NOT NULL, reader_pid IS NOT NULL, retained_bytes', 'far'),
	'running|2|1|1|t|t|t|', 'the status knows what the processes know');
is($far->safe_psql('postgres', q{SELECT count(*) FROM pg_replication_slots WHERE slot_name ~ '^etl_\d+_\d+_\d+$'}), '1', 'it has a slot there');

# That slot must not be left behind in silence.
my $before = sql('SELECT clock_timestamp()');
wait_until("SELECT heartbeat > '$before'::timestamptz + '1 s' FROM etl_scheduler_status() WHERE database = 'shop'", 'the scheduler has looked');
fails('DROP DATABASE shop', qr/CDC pipelines of database "shop" have 1 replication slot on another server\nDETAIL:  Their names begin with "etl_\d+_"/, 'DROP DATABASE', 'postgres');
fails('DROP EXTENSION etl_patterns', qr/These have: (?:"far", "sales"|"sales", "far")\./, 'DROP EXTENSION names both');
$far->stop;
fails(q{SELECT etl_cdc_drop('far')}, qr/could not connect to server "far".*\nHINT:  etl_cdc_drop\(\.\.\., force => true\) drops the pipeline and leaves that slot/s, 'a drop needs the server');
is(sql(q{SELECT has_slot FROM etl_patterns.cdc_pipeline WHERE pipeline = 'far'}), 't', 'or has done nothing');
($rc, $out, $err) = $node->psql($db, q{SELECT etl_cdc_drop('far', force => true)});
like($err, qr/NOTICE:  replication slot "etl_\d+_\d+_\d+" was left on server "far"/, 'with force it is left there, and named');
$far->start;
my ($left) = $err =~ /HINT:  There: (.*?;)/;
is($far->safe_psql('postgres', "$left SELECT count(*) FROM pg_replication_slots"), "\n0", 'where it is dropped as the hint says');

# What can be reached is cleaned up.
sql(q{SELECT etl_cdc_create('far', server => 'far'); SELECT etl_cdc_add_table('far', 'app.thing', 'thing'); SELECT etl_cdc_start('far'); });
is(sql(q{SELECT etl_cdc_wait('far', timeout => '180 s')}), 't', 'a new pipeline');
sql(q{SELECT etl_cdc_resync('far')});
is(sql(q{SELECT etl_cdc_wait('far', timeout => '180 s')}), 't', 'begins anew');
sql(q{SELECT etl_cdc_drop('far'); SELECT etl_cdc_drop('back')});
is($far->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'), '0', 'and goes with its slot there');
$far->stop;

# ----------------------------------------------------------------------
# the end

sql('DROP DATABASE restored', 'postgres');
is(sql('SELECT count(*) FROM pg_replication_slots'), '1', 'a database goes with the slots of its pipelines');
sql(q{BEGIN; SELECT etl_cdc_drop('sales'); DROP EXTENSION etl_patterns; ROLLBACK});
equal('sales', 'orders', 'orders_copy', 'all of that was rolled back');
sql(q{BEGIN; SELECT etl_cdc_drop('sales'); DROP EXTENSION etl_patterns; COMMIT});
is(sql('SELECT count(*) FROM pg_replication_slots'), '0', 'a pipeline goes with its slot');
is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'etl_patterns cdc%'}), '0', 'and its processes');
$node->stop;

# ----------------------------------------------------------------------
# Too few processes: two launchers and a scheduler leave one place of four.

$node = PostgreSQL::Test::Cluster->new('cdc_few');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', q{
wal_level = logical
shared_preload_libraries = 'etl_patterns'
max_worker_processes = 4
autovacuum = off
});
$node->start;
$db = 'postgres';
sql(q{
	CREATE EXTENSION etl_patterns;
	CREATE TABLE orders (id int PRIMARY KEY);
	CREATE TABLE orders_copy (LIKE orders INCLUDING ALL);
	INSERT INTO orders VALUES (1);
	SELECT etl_cdc_create('sales');
	SELECT etl_cdc_add_table('sales', 'orders', 'orders_copy');
});
wait_until(q{SELECT count(*) = 1 FROM etl_scheduler_status() WHERE state = 'running'}, 'there is a scheduler');
($rc, $out, $err) = $node->psql($db, q{SELECT etl_cdc_start('sales')});
like($err, qr/WARNING:  there are too few background workers for CDC pipeline "sales"\nDETAIL:  It takes 2\. 3 of 4 \("max_worker_processes"\) are in use\./, 'a start warns');
wait_until(q{SELECT reason LIKE '%worker%' AND hint LIKE '%max_worker_processes%' FROM etl_patterns.cdc_status}, 'the status says what it waits for');
is(status('state, error_code', 'sales'), 'starting|53400', 'it still is to run');
sql(q{ALTER SYSTEM SET max_worker_processes = 8});
$node->restart;
equal('sales', 'orders', 'orders_copy', 'with more places it runs by itself');
sql(q{SELECT etl_cdc_drop('sales')});
$node->stop;
done_testing();
