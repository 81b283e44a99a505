# The process that applies a pipeline: copies and stream meet, whatever is
# killed, and whenever; a change that fails is found; definitions change while
# it runs.  The target of "append" shows what would be lost or come twice.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Cdc;
use IPC::Run;
use JobServer;
use PostgreSQL::Test::Utils;
use Restart;
use Test::More;

my $server = Cdc::start('cdc_apply', "restart_after_crash = on\n");
my $node = $server->{node};

sub usleep { select(undef, undef, undef, $_[0] / 1_000_000); return }

# ----------------------------------------------------------------------
# a table is followed

sql(q{
CREATE SEQUENCE numbers;
CREATE TABLE orders (id bigint PRIMARY KEY, v text, amount numeric);
CREATE TABLE orders_mirror (LIKE orders INCLUDING ALL);
CREATE TABLE orders_log (LIKE orders);
INSERT INTO orders SELECT nextval('numbers'), 'old', n FROM generate_series(1, 500) n;
SELECT etl_cdc_create('orders');
SELECT etl_cdc_add_table('orders', 'orders', 'orders_mirror');
SELECT etl_cdc_add_table('orders', 'orders', 'orders_log', apply => 'append');
SELECT etl_cdc_start('orders');
});
state_is('orders', 'running');
is(sql("SELECT rows_copied, state FROM etl_patterns.cdc_table"), "500|followed\n500|followed", 'both targets have the copy');
sql(q{
INSERT INTO orders SELECT nextval('numbers'), 'new', n FROM generate_series(1, 100) n;
UPDATE orders SET v = 'changed' WHERE id % 3 = 0;
DELETE FROM orders WHERE id % 7 = 0;
UPDATE orders SET id = nextval('numbers') WHERE id % 11 = 0;
BEGIN; INSERT INTO orders VALUES (-1, 'undone', 0); ROLLBACK;
BEGIN; INSERT INTO orders VALUES (-2, 'kept', 0); SAVEPOINT s; INSERT INTO orders VALUES (-3, 'undone', 0); ROLLBACK TO s; COMMIT;
});
applied('orders');
same('TABLE orders', 'TABLE orders_mirror', 'changes of all kinds are mirrored');
is(sql('SELECT count(*), count(DISTINCT id) FROM orders_log'), '601|601', 'inserts are appended, once each');
is(sql("SELECT reads, inserts, error_message IS NULL FROM etl_patterns.cdc_pipeline"), '1000|101|t', 'they are counted');
is(sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'etl_patterns cdc%'"), '2', 'there are two processes');
is(sql("SELECT usename FROM pg_stat_activity WHERE backend_type = 'etl_patterns cdc'"),
	sql('SELECT current_user'), 'the one that applies is the owner');

# ----------------------------------------------------------------------
# stop and start

sql("SELECT etl_cdc_stop('orders')");
sql("INSERT INTO orders SELECT nextval('numbers'), 'while stopped', n FROM generate_series(1, 100) n");
$server->until("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'etl_patterns cdc%'", 'no process stays');
is(sql("SELECT count(*) FROM orders_log WHERE v = 'while stopped'"), '0', 'nothing is applied while it is stopped');
sql("SELECT etl_cdc_start('orders')");
applied('orders');
same('TABLE orders', 'TABLE orders_mirror', 'it goes on where it was');
is(sql('SELECT count(*), count(DISTINCT id) FROM orders_log'), '701|701', 'and nothing comes twice');

# An idle pipeline writes nothing by itself, and its slot moves on.
sql('CREATE TABLE unrelated AS SELECT n FROM generate_series(1, 100000) n; CHECKPOINT');
applied('orders');
my $lsn = sql('SELECT pg_current_wal_lsn()');
$server->until("SELECT confirmed_flush_lsn >= '$lsn' FROM pg_replication_slots", 'the slot moves on where nothing is of interest');

# ----------------------------------------------------------------------
# processes that end

sub insert_some
{
	my ($n) = @_;

	sql("INSERT INTO orders SELECT nextval('numbers'), 'some', 1") for 1 .. $n;
	return;
}

for my $type ('etl_patterns cdc', 'etl_patterns cdc reader')
{
	my $pid = pid_of($type);

	insert_some(20);
	sql("SELECT pg_terminate_backend($pid)");
	insert_some(20);
	applied('orders');
	isnt(pid_of($type), $pid, "$type was started again");
	same('TABLE orders', 'TABLE orders_mirror', "nothing is missing after the end of '$type'");
}

my $seed = $ENV{SEED} // 71;
srand($seed);
note "SEED=$seed";
for my $round (1 .. ($ENV{ROUNDS} // 4))
{
	my $type = ('etl_patterns cdc', 'etl_patterns cdc reader')[ $round % 2 ];
	my $pid = pid_of($type);
	my $writer = session(
		join('', map { "INSERT INTO orders SELECT nextval('numbers'), 'round $round', 1 FROM generate_series(1, " . (1 + int(rand(20))) . ");\n" } 1 .. 2000));

	usleep(20_000 + rand(150_000));
	Restart::kill_process($node, $pid);
	$writer->finish;
	$server->served;
	applied('orders');
	same('TABLE orders', 'TABLE orders_mirror', "kill -9 of '$type': the mirror is equal");
	is( sql('SELECT count(*) - count(DISTINCT id) FROM orders_log'), '0', 'no row was appended twice');
	is( sql('SELECT count(*) FROM orders o WHERE NOT EXISTS (SELECT FROM orders_log l WHERE l.id = o.id) AND v LIKE \'round%\''),
		'0', 'none was lost');
}

$node->stop('immediate');
$node->start;
$server->served;
insert_some(10);
applied('orders');
same('TABLE orders', 'TABLE orders_mirror', 'a server that was stopped at once goes on');

# ----------------------------------------------------------------------
# a large transaction, in pieces

my $before = sql("SELECT transactions FROM etl_patterns.cdc_pipeline");
sql("INSERT INTO orders SELECT nextval('numbers'), repeat('large', 40), n FROM generate_series(1, 400000) n");
applied('orders');
same('TABLE orders', 'TABLE orders_mirror', 'a large transaction is applied');
is(sql("SELECT transactions - $before FROM etl_patterns.cdc_pipeline"), '1', 'as one');

# ----------------------------------------------------------------------
# tables are added while others write

sql(q{
CREATE TABLE late (id bigint PRIMARY KEY, v int);
CREATE TABLE late_log (LIKE late);
CREATE TABLE late_mirror (LIKE late INCLUDING ALL);
INSERT INTO late SELECT nextval('numbers'), 0 FROM generate_series(1, 20000);
});
my @writers = map {
	session(join('', map { "BEGIN; INSERT INTO late SELECT nextval('numbers'), 1 FROM generate_series(1, 3);"
			  . " UPDATE late SET v = v + 1 WHERE id % 1000 = $_ % 1000; COMMIT;\n" } 1 .. 1500))
} 1 .. 3;
$server->until('SELECT count(*) > 20100 FROM late', 'the others write');
sql("SELECT etl_cdc_add_table('orders', 'late', 'late_log', apply => 'append')");
sql("SELECT etl_cdc_add_table('orders', 'late', 'late_mirror')");
insert_some(10);
$_->finish for @writers;
applied('orders');
same('TABLE late', 'TABLE late_mirror', 'a table that is added while others write: the mirror is equal');
is( sql('SELECT count(*) - count(DISTINCT id) FROM late_log'), '0', 'no row came by the copy and by the stream');
is( sql('SELECT count(*) FROM late o WHERE NOT EXISTS (SELECT FROM late_log l WHERE l.id = o.id)'), '0', 'and none by neither');
ok( sql("SELECT sum(rows_copied) > 40000 AND sum(rows_copied) < 2 * (SELECT count(*) FROM late) FROM etl_patterns.cdc_table WHERE source LIKE '%late'") eq 't',
	'both had a part in it');
applied('orders');

# A transaction that is open when the copy is made comes by the stream.
sql('CREATE TABLE open_source (id int PRIMARY KEY); CREATE TABLE open_log (id int); INSERT INTO open_source VALUES (1)');
my ($in, $out, $err) = ('', '', '');
my $open = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err);
$in .= "BEGIN; INSERT INTO open_source VALUES (2);\n\\echo ready\n";
$open->pump until $out =~ /ready/;
sql("SELECT etl_cdc_add_table('orders', 'open_source', 'open_log', apply => 'append')");
$server->until("SELECT state = 'followed' FROM etl_patterns.cdc_table WHERE source LIKE '%open_source'", 'the copy does not wait for an open transaction');
is(sql('SELECT id FROM open_log'), '1', 'it does not see what that has written');
$in .= "COMMIT;\n\\q\n";
$open->finish;
applied('orders');
is(sql('SELECT id FROM open_log ORDER BY 1'), "1\n2", 'which comes by the stream');
sql('INSERT INTO open_source VALUES (3)');
applied('orders');
is(sql('SELECT bool_and(copy_snapshot IS NULL) FROM etl_patterns.cdc_table'), 't', 'snapshots of copies are forgotten');

# ----------------------------------------------------------------------
# targets with foreign keys between them

sql(q{
CREATE TABLE z_parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES z_parent);
CREATE TABLE z_parent_copy (id int PRIMARY KEY);
CREATE TABLE child_copy (id int PRIMARY KEY, parent int REFERENCES z_parent_copy);
INSERT INTO z_parent SELECT n FROM generate_series(1, 100) n;
INSERT INTO child SELECT n, n FROM generate_series(1, 100) n;
});
my $keys_writer = session(join('', map { "BEGIN; INSERT INTO z_parent VALUES ($_); INSERT INTO child VALUES ($_, $_); COMMIT;\n" } 101 .. 1500));
sql(q{
BEGIN;
SELECT etl_cdc_add_table('orders', 'child', 'child_copy');
SELECT etl_cdc_add_table('orders', 'z_parent', 'z_parent_copy');
COMMIT;
});
$keys_writer->finish;
sql(q{
BEGIN;
INSERT INTO z_parent VALUES (9001);
INSERT INTO child VALUES (9001, 9001);
DELETE FROM child WHERE id = 1;
DELETE FROM z_parent WHERE id = 1;
UPDATE child SET parent = 9001 WHERE id = 2;
DELETE FROM z_parent WHERE id = 2;
COMMIT;
TRUNCATE child, z_parent;
INSERT INTO z_parent VALUES (1);
INSERT INTO child VALUES (1, 1);
});
applied('orders');
same('TABLE z_parent', 'TABLE z_parent_copy', 'what is referred to is copied and followed');
same('TABLE child', 'TABLE child_copy', 'and so is what refers to it');
is(sql("SELECT count(copied_at), count(*) FROM etl_patterns.cdc_table WHERE rows_copied >= 100 AND source IN ('public.child', 'public.z_parent')"), '2|2', 'both were copied');
my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile);
unlike($log, qr/violates foreign key constraint/, 'without an attempt that failed');

# One that is added later refers to rows that the stream has not brought yet, while
# others refer to it no more.
sql(q{
BEGIN; TRUNCATE child_copy; SELECT etl_cdc_remove_table('orders', 'child'); COMMIT;
CREATE SEQUENCE pairs START 10000;
});
my @pair_writers = map {
	session(join('', map { "SELECT nextval('pairs') AS i \\gset\nBEGIN; INSERT INTO z_parent VALUES (:i); INSERT INTO child VALUES (:i, :i); COMMIT;\n"
			  . "BEGIN; DELETE FROM child WHERE parent = :i - 5; DELETE FROM z_parent WHERE id = :i - 5; COMMIT;\n" } 1 .. 700))
} 1 .. 3;
for my $round (1 .. 3)
{
	usleep(200_000);
	sql(q{SELECT etl_cdc_add_table('orders', 'child', 'child_copy')});
	applied('orders');
	sql(q{BEGIN; TRUNCATE child_copy; SELECT etl_cdc_remove_table('orders', 'child'); COMMIT});
	applied('orders');
}
sql(q{SELECT etl_cdc_add_table('orders', 'child', 'child_copy')});
$_->finish for @pair_writers;
applied('orders');
same('TABLE z_parent', 'TABLE z_parent_copy', 'a table that is added later refers to one that is followed');
same('TABLE child', 'TABLE child_copy', 'with all its rows');
$log = PostgreSQL::Test::Utils::slurp_file($node->logfile);
ok($log !~ /etl_patterns cdc ERROR: .* foreign key/, 'and no row too early');

# To copy again what others refer to is to copy these, too.
sql(q{DELETE FROM child_copy WHERE id < 10500; UPDATE child_copy SET parent = NULL});
my ($resync_ret, $resync_out, $resync_err) = $node->psql('postgres', q{SELECT etl_cdc_resync('orders', 'z_parent')});
like($resync_err, qr/NOTICE:  table public.child is copied again, too\nDETAIL:  Its target refers to that of table public.z_parent\./, 'a resync says what is copied with it');
applied('orders');
same('TABLE child', 'TABLE child_copy', 'what refers to a table that is copied again is, too');
sql(q{DELETE FROM child_copy; SELECT etl_cdc_resync('orders', 'child')});
applied('orders');
same('TABLE child', 'TABLE child_copy', 'and alone');
sql(q{SELECT etl_cdc_remove_table('orders', 'child'), etl_cdc_remove_table('orders', 'z_parent')});

# ----------------------------------------------------------------------
# a change that fails

sql(q{
SELECT etl_cdc_remove_table('orders', 'open_source');
ALTER TABLE orders_mirror ADD CHECK (v <> 'bad');
BEGIN;
INSERT INTO orders VALUES (-10, 'good', 1);
INSERT INTO orders VALUES (-11, 'bad', 2);
INSERT INTO orders VALUES (-12, 'good', 3);
COMMIT;
INSERT INTO orders VALUES (-13, 'after', 4);
});
state_is('orders', 'paused');
is(sql("SELECT error_code, error_change->>'table', error_change->>'kind', error_change->'key', error_change->>'ordinal' FROM etl_patterns.cdc_pipeline"),
	'23514|public.orders|insert|{"id": -11}|2', 'the change that fails is named');
like(sql("SELECT error_hint FROM etl_patterns.cdc_pipeline"), qr/etl_cdc_start\('orders'\).*etl_cdc_skip\('orders', '[0-9A-F]+\/[0-9A-F]+'\)/, 'and what to do');
is(sql("SELECT count(*) FROM orders_log WHERE id < -9"), '0', 'nothing of its transaction is applied');
$server->until("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'etl_patterns cdc%'", 'a pipeline that is paused has no process');
sql("ALTER TABLE orders_mirror DROP CONSTRAINT orders_mirror_v_check; SELECT etl_cdc_start('orders')");
applied('orders');
same('TABLE orders', 'TABLE orders_mirror', 'once that is mended it goes on');
is(sql("SELECT count(*) FROM orders_log WHERE id < -9"), '4', 'with all of it');
is(sql("SELECT error_message IS NULL AND error_change IS NULL FROM etl_patterns.cdc_pipeline"), 't', 'and the error is forgotten');

sql(q{
UPDATE orders SET v = 'ok' WHERE v = 'bad';
ALTER TABLE orders_log ADD CHECK (v <> 'bad') NOT VALID;
});
applied('orders');
sql(q{
BEGIN; INSERT INTO orders VALUES (-20, 'good', 1); INSERT INTO orders VALUES (-21, 'bad', 2); COMMIT;
INSERT INTO orders VALUES (-22, 'after', 4);
});
state_is('orders', 'paused');
sql("SELECT etl_cdc_skip('orders', (SELECT (error_change->>'end_lsn')::pg_lsn FROM etl_patterns.cdc_pipeline))");
applied('orders');
is(sql("SELECT id FROM orders_mirror WHERE id BETWEEN -22 AND -20"), '-22', 'a transaction that is skipped is not applied, the next one is');

# dead letters
sql(q{
DELETE FROM orders WHERE id IN (-20, -21);
SELECT etl_cdc_create('letters', on_error => 'dead_letter');
CREATE TABLE letters (id int PRIMARY KEY, v text);
CREATE TABLE letters_log (id int, v text CHECK (v <> 'bad'));
CREATE TABLE letters_all (id int, v text);
INSERT INTO letters VALUES (1, 'good'), (2, 'bad'), (3, 'good');
SELECT etl_cdc_add_table('letters', 'letters', 'letters_log', apply => 'append');
SELECT etl_cdc_add_table('letters', 'letters', 'letters_all', apply => 'append');
SELECT etl_cdc_start('letters');
});
applied('letters');
sql(q{
BEGIN; INSERT INTO letters VALUES (4, 'good'); INSERT INTO letters VALUES (5, 'bad'); INSERT INTO letters VALUES (6, 'good'); COMMIT;
INSERT INTO letters VALUES (7, 'after');
});
applied('letters');
is(sql('SELECT string_agg(id::text, \' \' ORDER BY id) FROM letters_log'), '1 3 4 6 7', 'only what fails is left out');
is(sql('SELECT string_agg(id::text, \' \' ORDER BY id) FROM letters_all'), '1 2 3 4 5 6 7', 'and of that table only');
is(sql("SELECT operation, source_name, target, category, error_code, payload->>'op', payload->'after', status FROM etl_patterns.dead_letter ORDER BY dead_letter_id"),
	"cdc|public.letters|letters_log|check|23514|r|{\"v\": \"bad\", \"id\": 2}|pending\n"
	  . "cdc|public.letters|letters_log|check|23514|c|{\"v\": \"bad\", \"id\": 5}|pending", 'it is in the dead letters');
state_is('letters', 'running');

# An error that may go away by itself is tried again.
$node->append_conf('postgresql.conf', 'deadlock_timeout = 10ms');
$node->reload;
sql(q{
CREATE FUNCTION fails_at_first() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM public.allowed) THEN
		RAISE EXCEPTION 'not now' USING ERRCODE = 'serialization_failure';
	END IF;
	RETURN NEW;
END $$;
CREATE TABLE allowed ();
CREATE TRIGGER t BEFORE INSERT ON letters_all FOR EACH ROW EXECUTE FUNCTION fails_at_first();
INSERT INTO letters VALUES (8, 'late');
});
$server->until("SELECT error_message = 'not now' AND state <> 'paused' FROM etl_patterns.cdc_pipeline WHERE pipeline = 'letters'",
	'an error that may go away is shown');
sql('INSERT INTO allowed DEFAULT VALUES');
applied('letters');
is(sql('SELECT count(*) FROM letters_all WHERE id = 8'), '1', 'and tried again');

# ----------------------------------------------------------------------
# the end

sql("SELECT etl_cdc_drop('letters')");
is(sql("SELECT count(*) FROM pg_replication_slots"), '1', 'a pipeline that is dropped leaves no slot');
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', q{
CREATE EXTENSION etl_patterns;
CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int);
SELECT etl_cdc_create('p');
SELECT etl_cdc_add_table('p', 'a', 'b', apply => 'append');
SELECT etl_cdc_start('p')});
$node->poll_query_until('other', "SELECT state = 'running' FROM etl_patterns.cdc_pipeline") or die;
$node->safe_psql('postgres', 'DROP DATABASE other');
is(sql("SELECT count(*) FROM pg_replication_slots"), '1', 'a database with a pipeline that runs can be dropped, and its slot is gone');

applied('orders');
same('TABLE orders', 'TABLE orders_mirror', 'the pipeline of this database has not noticed');
sql("SELECT etl_cdc_drop('orders')");
is(sql("SELECT count(*) FROM pg_replication_slots"), '0', 'no slot is left');
$server->until("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'etl_patterns cdc%'", 'and no process');

$node->stop;

# ----------------------------------------------------------------------
# no worker is free: said, and tried again

my $small = JobServer->new('cdc_small', "wal_level = logical\nmax_worker_processes = 5\n");
$small->sql(q{
CREATE TABLE a (id int PRIMARY KEY);
CREATE TABLE b (id int);
CREATE TABLE c (id int);
SELECT etl_cdc_create('first'), etl_cdc_add_table('first', 'a', 'b', apply => 'append');
SELECT etl_cdc_create('second'), etl_cdc_add_table('second', 'a', 'c', apply => 'append');
SELECT etl_cdc_start('first');
});
$small->until("SELECT state = 'running' FROM etl_patterns.cdc_pipeline WHERE pipeline = 'first'", 'the first pipeline has the last two workers');
$small->sql("SELECT etl_cdc_start('second')");
$small->until("SELECT error_message ~ 'no background worker is free' AND error_hint ~ 'max_worker_processes' FROM etl_patterns.cdc_pipeline WHERE pipeline = 'second'",
	'the second one says that there is none');
$small->sql("SELECT etl_cdc_stop('first'); INSERT INTO a VALUES (1)");
$small->until("SELECT state = 'running' FROM etl_patterns.cdc_pipeline WHERE pipeline = 'second'", 'when there are it runs');
is($small->sql("SELECT etl_cdc_wait('second', timeout => '180s')"), 't', 'and follows');
is($small->sql('SELECT id FROM c'), '1', 'its table');
$small->{node}->stop;
done_testing();
