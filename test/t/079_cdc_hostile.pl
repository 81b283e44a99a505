# What users do wrong or all at once, what others do to processes, and tables at
# the edge of what there can be: nothing crashes, nothing waits for ever, what is
# wrong is said, and once it is mended the targets are equal.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Cdc;
use PostgreSQL::Test::Utils;
use Test::More;

my $server = Cdc::start('cdc_hostile', "max_prepared_transactions = 2\n");
my $node = $server->{node};

srand($ENV{SEED} // 78);

sub status
{
	my ($columns, $pipeline) = @_;

	return sql("SELECT $columns FROM etl_patterns.cdc_status WHERE pipeline = '$pipeline'");
}

sub status_is
{
	my ($condition, $pipeline, $what) = @_;

	return $server->until("SELECT $condition FROM etl_patterns.cdc_status WHERE pipeline = '$pipeline'", $what)
	  || diag(status('state, reason, hint', $pipeline));
}

# A session in which that has been executed, with a transaction open.
sub holder
{
	my ($sql) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);

	$session->query_safe("BEGIN; $sql");
	return $session;
}

sub release
{
	my ($session) = @_;

	$session->query_safe('COMMIT');
	return $session->quit;
}

# ----------------------------------------------------------------------
# names that have to be quoted

my $odd = q{q'uote"d\\ ; DROP TABLE s; --};
my $quoted = sql(q{SELECT quote_literal($n$} . $odd . q{$n$)});
sql(qq{
	CREATE SCHEMA "Sch.em""a";
	CREATE TABLE "Sch.em""a"."Ta ble'x" ("Id ""1" int PRIMARY KEY, "a.b" text, "select" int);
	CREATE TABLE "Sch.em""a"."Ta ble'y" (LIKE "Sch.em""a"."Ta ble'x" INCLUDING ALL);
	INSERT INTO "Sch.em""a"."Ta ble'x" VALUES (1, 'a', 1);
	SELECT etl_cdc_create($quoted);
	SELECT etl_cdc_add_table($quoted, '"Sch.em""a"."Ta ble''x"', '"Sch.em""a"."Ta ble''y"', row_filter => '"Id ""1" < 1000');
	SELECT etl_cdc_start($quoted);
});
is(sql("SELECT etl_cdc_wait($quoted, timeout => '180s')"), 't', 'a pipeline with an odd name');
sql(q{INSERT INTO "Sch.em""a"."Ta ble'x" VALUES (2, 'b', 2), (2000, 'c', 3); UPDATE "Sch.em""a"."Ta ble'x" SET "a.b" = 'd'});
sql(q{ALTER TABLE "Sch.em""a"."Ta ble'y" ADD CHECK ("select" <> 13)});
is(sql("SELECT etl_cdc_wait($quoted, timeout => '180s')"), 't', 'follows');
same(q{SELECT * FROM "Sch.em""a"."Ta ble'x" WHERE "Id ""1" < 1000}, q{TABLE "Sch.em""a"."Ta ble'y"}, 'tables and columns with odd names');
sql(q{INSERT INTO "Sch.em""a"."Ta ble'x" VALUES (3, 'c', 13)});
$server->until("SELECT state = 'paused' FROM etl_patterns.cdc_pipeline", 'it pauses');
my ($skip) = sql('SELECT error_hint FROM etl_patterns.cdc_pipeline') =~ /(etl_cdc_skip\(.*\)) instead/;
sql("SELECT $skip");
is(sql("SELECT etl_cdc_wait($quoted, timeout => '180s')"), 't', 'the hint can be executed as it is');
sql("SELECT etl_cdc_drop($quoted)");

# ----------------------------------------------------------------------
# who has what locked

sql(q{
	CREATE TABLE s (id int PRIMARY KEY, v text);
	CREATE TABLE s_copy (LIKE s INCLUDING ALL);
	CREATE TABLE s_log (LIKE s);
	SELECT etl_cdc_create('p'), etl_cdc_add_table('p', 's', 's_copy'), etl_cdc_add_table('p', 's', 's_log', 'append');
});
foreach my $table ('s', 's_copy')
{
	my $holder = holder("LOCK TABLE $table");

	refused(q{SET lock_timeout = '300ms'; SELECT etl_cdc_start('p')},
		qr/lock timeout.*HINT:  Another session has locked the source or the target.*check of table public.s of CDC pipeline "p"/s,
		"a start does not wait for ever for $table");
	release($holder);
}
is(sql(q{SHOW lock_timeout}), '0', 'without a setting that stays');
sql(q{SELECT etl_cdc_start('p')});
applied('p');
my $holder = holder('LOCK TABLE s_copy');
sql(q{INSERT INTO s SELECT i, repeat('v', 100) FROM generate_series(1, 1000) i});
status_is(q{reason = 'waits for a lock' AND starts_with(hint, 'pg_blocking_pids(' || pid)}, 'p', 'the status says that a lock is waited for');

# ----------------------------------------------------------------------
# how far it is, at each stage

status_is('read_lag_bytes = 0 AND applied_lag_bytes > 100000', 'p', 'what is read is not applied yet, which shows while the process waits');
select(undef, undef, undef, 1.2);
is(status(q{read_lag_bytes < 10000, applied_lag_bytes BETWEEN 100000 AND 1000000, confirmed_lag_bytes >= applied_lag_bytes,
		retained_bytes >= confirmed_lag_bytes, lag_seconds BETWEEN 1 AND 30, applied_lag_bytes = wal_lsn - applied_lsn,
		read_lag_bytes = wal_lsn - read_lsn, confirmed_lag_bytes = wal_lsn - confirmed_lsn}, 'p'),
	't|t|t|t|t|t|t|t', 'lag in bytes and seconds');
is(sql(q{SELECT abs(pg_current_wal_lsn() - s.wal_lsn) < 100000, s.retained_bytes - (s.wal_lsn - r.restart_lsn), s.confirmed_lsn = r.confirmed_flush_lsn, s.wal_status = r.wal_status
		FROM etl_patterns.cdc_status s JOIN pg_replication_slots r USING (slot_name) WHERE pipeline = 'p'}), 't|0|t|t', 'as the server has it');
release($holder);
applied('p');
status_is('read_lag_bytes = 0 AND applied_lag_bytes = 0 AND lag_seconds = 0 AND confirmed_lag_bytes < 10000 AND reason IS NULL', 'p', 'and none when all is applied');
sql(q{SELECT etl_cdc_stop('p')});
my $at = sql('SELECT pg_current_wal_lsn()');
sql(q{INSERT INTO s SELECT i, repeat('v', 100) FROM generate_series(1001, 2000) i});
is(status("pid IS NULL, read_lag_bytes IS NULL, applied_lag_bytes >= pg_current_wal_lsn() - '$at'::pg_lsn, retained_bytes >= applied_lag_bytes, lag_seconds > 0", 'p'),
	't|t|t|t|t', 'a pipeline that is stopped has a lag, too');
sql(q{SELECT etl_cdc_start('p')});
applied('p');

# ----------------------------------------------------------------------
# processes that do not answer, and calls that are cancelled

my $reader = status('reader_pid', 'p');
kill 'STOP', $reader;
sql(q{INSERT INTO s VALUES (3000, 'while the reader is frozen')});
is(sql(q{SELECT etl_cdc_wait('p', timeout => '500 ms')}), 'f', 'a reader that is frozen');
sql(q{SELECT etl_cdc_stop('p')});
is(status('state, pid IS NULL', 'p'), 'stopped|t', 'does not keep its pipeline from being stopped');
sql(q{SELECT etl_cdc_start('p')});
kill 'CONT', $reader;
applied('p', 'when it is gone it goes on');

my $applier = status('pid', 'p');
kill 'STOP', $applier;
my $waiter = session(q{SELECT etl_cdc_stop('p')});
$server->until(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ '^SELECT etl_cdc_stop'}, 'a stop waits for a process that is frozen');
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ '^SELECT etl_cdc_stop'});
$waiter->finish;
kill 'CONT', $applier;
applied('p', 'who stops a pipeline and is terminated has stopped nothing');
is(status('state', 'p'), 'running', 'it runs');

$waiter = session(q{SELECT etl_cdc_wait('p', 'FFFF/FFFFFFFF')});
$server->until(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ '^SELECT etl_cdc_wait\(''p'', ''F'}, 'a wait');
sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query ~ '^SELECT etl_cdc_wait\(''p'', ''F'});
$waiter->finish;
pass('can be cancelled');
is(sql(q{SET statement_timeout = '300ms'; SELECT 1}), "1", 'and');
refused(q{SET statement_timeout = '300ms'; SELECT etl_cdc_wait('p', 'FFFF/FFFFFFFF')}, qr/statement timeout/, 'times out');

# Somebody has the row of the pipeline: the batch waits, and is undone if it is changed.
$holder = holder(q{SELECT etl_cdc_alter_table('p', 's', 's_copy', row_filter => 'id < 100000')});
sql(q{INSERT INTO s VALUES (3001, 'a'), (100001, 'b')});
status_is(q{reason = 'waits for a lock'}, 'p', 'a definition that is not committed yet is waited for');
release($holder);
applied('p');
same('SELECT * FROM s WHERE id < 100000', 'TABLE s_copy', 'what comes after it is applied by it');
same('TABLE s', 'TABLE s_log', 'and once');

# ----------------------------------------------------------------------
# all at once

my @writers = map { session(join('', map { my $k = 1 + int rand 300;
		pick("INSERT INTO s VALUES ($k, 'x') ON CONFLICT (id) DO UPDATE SET v = s.v || 'y';\n", "DELETE FROM s WHERE id = $k;\n",
			"BEGIN; UPDATE s SET v = 'z' WHERE id BETWEEN $k AND $k + 5; DELETE FROM s WHERE id = $k + 3; COMMIT;\n") } 1 .. 1500)) } 1 .. 2;
my @controls = map { session(join('', map { pick(
		"SELECT etl_cdc_stop('p');\n", "SELECT etl_cdc_start('p');\n", "SELECT etl_cdc_start('p');\n", "SELECT etl_cdc_alter_table('p', 's', 's_copy', row_filter => 'id > -$_');\n",
		"SELECT etl_cdc_remove_table('p', 's', 's_log');\n", "SELECT etl_cdc_add_table('p', 's', 's_log', 'append');\n",
		"SELECT etl_cdc_resync('p', 's');\n", "SELECT etl_cdc_resync('p');\n", "SELECT etl_cdc_wait('p', timeout => '200ms');\n",
		"BEGIN; SELECT etl_cdc_stop('p'); SELECT etl_cdc_alter_table('p', 's', 's_copy', row_filter => ''); ROLLBACK;\n") } 1 .. 25)) } 1 .. 3;
foreach my $ddl ('CREATE INDEX s_copy_v ON s_copy (v)', 'VACUUM FULL s_copy', 'REINDEX TABLE s_copy', 'CREATE INDEX CONCURRENTLY s_v ON s (v)',
	'VACUUM FULL s', 'ANALYZE s', 'CLUSTER s_copy USING s_copy_pkey', 'REINDEX TABLE CONCURRENTLY s', 'DROP INDEX s_copy_v',
	'ALTER TABLE s_copy SET (fillfactor = 50)')
{
	sql($ddl);
}
$_->finish for @writers, @controls;
$node->psql('postgres', q{SELECT etl_cdc_start('p')});
applied('p', 'definitions, starts, stops and DDL of many sessions at once');
sql(q{SELECT etl_cdc_alter_table('p', 's', 's_copy', row_filter => ''); SELECT etl_cdc_resync('p', 's')});
applied('p');
same('TABLE s', 'TABLE s_copy', 'it is what it should be');
sql(q{UPDATE s SET v = 'last'});
applied('p');
same('TABLE s', 'TABLE s_copy', 'and follows');
ok(slurp_file($node->logfile) !~ /deadlock detected/, 'without a deadlock');

# ----------------------------------------------------------------------
# what becomes of pipelines within a transaction

sql(q{SELECT etl_cdc_drop('p')});
my $define = q{SELECT etl_cdc_create('p'), etl_cdc_add_table('p', 's', 's_copy'), etl_cdc_start('p')};
sql("$define, etl_cdc_stop('p'), etl_cdc_drop('p')");
is(sql('SELECT count(*) FROM etl_patterns.cdc_pipeline'), '0', 'made, started and dropped in one transaction');
sql("BEGIN; $define; SAVEPOINT a; SELECT etl_cdc_drop('p'); SELECT etl_cdc_create('p'); ROLLBACK TO a; COMMIT");
applied('p', 'dropped in a savepoint that was rolled back');
sql("BEGIN; SELECT etl_cdc_drop('p'); $define; COMMIT");
applied('p', 'another one of the same name');
is(sql('SELECT count(*) FROM pg_replication_slots'), '1', 'has the only slot');

# ----------------------------------------------------------------------
# another sink while it runs; unique columns that are not the key

sql(q{
	CREATE TABLE c (id int PRIMARY KEY, v text, n int);
	CREATE TABLE c_copy (LIKE c INCLUDING ALL);
	INSERT INTO c SELECT i, 'v', i FROM generate_series(1, 10) i;
	SELECT etl_cdc_add_table('p', 'c', 'c_copy');
});
applied('p');
sql(q{SELECT etl_cdc_alter_table('p', 'c', 'c_copy', 'append'); INSERT INTO c VALUES (11, 'w', 1); DELETE FROM c WHERE id = 1; UPDATE c SET n = 99});
applied('p');
is(sql('SELECT count(*), max(n) FROM c_copy'), '11|10', 'a mirror becomes one that is appended to');
sql(q{SELECT etl_cdc_alter_table('p', 'c', 'c_copy', 'mirror'); UPDATE c SET n = 100 WHERE id < 4; SELECT etl_cdc_resync('p', 'c')});
applied('p');
same('TABLE c', 'TABLE c_copy', 'and a mirror again');
is(sql(q{SELECT apply, apply_options, state FROM etl_patterns.cdc_table WHERE source = 'public.c'}), 'mirror|{}|followed', 'as its row says');

sql(q{
	CREATE TABLE u (id int PRIMARY KEY, a int UNIQUE, b int UNIQUE);
	CREATE TABLE u_copy (LIKE u INCLUDING ALL);
	INSERT INTO u_copy VALUES (100, 1, 1), (101, 2, 2);
	CREATE TABLE k (id int PRIMARY KEY, code text NOT NULL UNIQUE, v int);
	ALTER TABLE k REPLICA IDENTITY USING INDEX k_code_key;
	CREATE TABLE k_copy (LIKE k INCLUDING ALL);
	CREATE TABLE k_by_id (id int PRIMARY KEY, code text, v int);
	SELECT etl_cdc_add_table('p', 'k', 'k_copy'), etl_cdc_add_table('p', 'k', 'k_by_id');
	SELECT etl_cdc_add_table('p', 'u', 'u_copy');
});
applied('p');
sql('INSERT INTO u VALUES (1, 1, 2)');
paused_with('p', qr/duplicate key value violates unique constraint "u_copy_a_key" \| Mend it/, 'a row that is in the way of others than its own');
sql(q{DELETE FROM u_copy; SELECT etl_cdc_start('p')});
applied('p');
same('TABLE u', 'TABLE u_copy', 'once that is mended');
script(q{
INSERT INTO k VALUES (1, 'a', 1), (2, 'b', 2);
UPDATE k SET id = 10 WHERE code = 'a';
UPDATE k SET code = 'c' WHERE id = 2;
UPDATE k SET id = 1, code = 'd' WHERE id = 10;
DELETE FROM k WHERE code = 'c';
INSERT INTO k VALUES (2, 'c', 5);
BEGIN; UPDATE k SET id = 20 WHERE id = 1; UPDATE k SET id = 1 WHERE id = 2; UPDATE k SET id = 2 WHERE id = 20; COMMIT;
ALTER TABLE k REPLICA IDENTITY FULL;
UPDATE k SET v = v + 1;
ALTER TABLE k REPLICA IDENTITY DEFAULT;
UPDATE k SET v = v + 1;
});
applied('p');
same('TABLE k', 'TABLE k_copy', 'an identity that is not the key of the target, and changes');
same('TABLE k', 'TABLE k_by_id', 'without an index on it, too');
sql('ALTER TABLE k REPLICA IDENTITY NOTHING; UPDATE k SET v = v + 1');
paused_with('p', qr/source "public.k" has no replica identity/, 'an identity that is taken away');
sql(q{ALTER TABLE k REPLICA IDENTITY DEFAULT; SELECT etl_cdc_remove_table('p', 'k')});
sql(q{SELECT etl_cdc_start('p')});
applied('p');

# ----------------------------------------------------------------------
# tables at the edge

sql(q{
	CREATE TABLE none ();
	CREATE TABLE none_log ();
	SELECT etl_cdc_create_changelog('none_changes');
	ALTER TABLE none REPLICA IDENTITY FULL;
	INSERT INTO none DEFAULT VALUES;
	SELECT etl_cdc_add_table('p', 'none', 'none_log', 'append'), etl_cdc_add_table('p', 'none', 'none_changes', 'changelog');
});
applied('p');
sql('INSERT INTO none DEFAULT VALUES; INSERT INTO none DEFAULT VALUES');
sql('DELETE FROM none WHERE ctid = (SELECT min(ctid) FROM none); TRUNCATE none');
applied('p', 'a table without columns');
is(sql(q{SELECT (SELECT count(*) FROM none_log), string_agg(op, '' ORDER BY change_id) FROM none_changes}), '3|rccdt', 'all of it');

my $columns = join(', ', map { "c$_ int" } 1 .. 1600);
sql(qq{
	CREATE TABLE wide ($columns, PRIMARY KEY (c1));
	CREATE TABLE wide_copy (LIKE wide INCLUDING ALL);
	CREATE TABLE wide_log (LIKE wide);
	INSERT INTO wide (c1, c1600) VALUES (0, 0);
	SELECT etl_cdc_create_changelog('wide_changes');
	SELECT etl_cdc_add_table('p', 'wide', 'wide_copy'), etl_cdc_add_table('p', 'wide', 'wide_log', 'append'),
		etl_cdc_add_table('p', 'wide', 'wide_changes', 'changelog');
});
applied('p');
sql(q{INSERT INTO wide (c1, c1600) SELECT i, i FROM generate_series(1, 20) i; UPDATE wide SET c800 = 7; UPDATE wide SET c1 = c1 + 1000 WHERE c1 < 5; DELETE FROM wide WHERE c1 = 10});
applied('p', 'a table of 1600 columns');
same('TABLE wide', 'TABLE wide_copy', 'mirrored');
is(sql(q{SELECT (SELECT count(*) FROM wide_log), count(*), bool_and(op = 'd' OR after ? 'c1600') FROM wide_changes}), '21|48|t', 'appended, and logged');

sql(q{
	CREATE TYPE pair AS (x int, y text);
	CREATE DOMAIN whole AS int CHECK (VALUE > 0);
	CREATE DOMAIN wholes AS whole[] CHECK (cardinality(VALUE) < 5);
	CREATE DOMAIN pairs AS pair[];
	CREATE TYPE nested AS (w wholes, p pairs, r int4range);
	CREATE TABLE typed (id int PRIMARY KEY, w wholes, p pairs, n nested, ns nested[], g int GENERATED ALWAYS AS (cardinality(w)) STORED);
	CREATE TABLE typed_copy (LIKE typed INCLUDING ALL);
	INSERT INTO typed VALUES (1, '{1,2}', '{"(1,a)",NULL}', ROW('{3}', '{"(2,b)"}', '[1,3)'), NULL);
	SELECT etl_cdc_add_table('p', 'typed', 'typed_copy');
});
applied('p');
script(q{
INSERT INTO typed VALUES (2, NULL, '{}', NULL, ARRAY[ROW('{4}', NULL, 'empty')::nested, NULL]);
UPDATE typed SET w = w || 5, p = '{"(7,\"x y\")"}' WHERE id = 1;
ALTER TYPE pair ADD ATTRIBUTE z numeric;
UPDATE typed SET p = '{"(1,b,2.50)"}' WHERE id = 2;
INSERT INTO typed VALUES (3, '{1}', '{"(1,c,)"}', ROW('{9}', '{"(3,d,1)"}', NULL));
});
applied('p', 'domains over arrays, arrays of composites, and one that is altered');
same('TABLE typed', 'TABLE typed_copy', 'have the same values');

# The same table twice as a target, a target that becomes a view, a source that becomes a partition.
sql(q{
	CREATE TABLE part_source (id int PRIMARY KEY, v text);
	CREATE TABLE part_copy (LIKE part_source INCLUDING ALL);
	CREATE TABLE above (id int, v text) PARTITION BY RANGE (id);
	INSERT INTO part_source VALUES (1, 'a');
	SELECT etl_cdc_add_table('p', 'part_source', 'part_copy');
});
applied('p');
sql(q{INSERT INTO part_source VALUES (2, 'b'); ALTER TABLE above ATTACH PARTITION part_source DEFAULT; INSERT INTO above VALUES (3, 'c'); INSERT INTO part_source VALUES (4, 'd')});
applied('p', 'a source that has become a partition');
same('TABLE part_source', 'TABLE part_copy', 'is followed on');
refused(q{SELECT etl_cdc_alter_table('p', 'part_source', 'part_copy', row_filter => 'id > 0')}, qr/source public.part_source cannot be followed\nDETAIL:  It is a partition/, 'but cannot be altered');
sql(q{SELECT etl_cdc_remove_table('p', 'part_source'); DROP TABLE part_copy; CREATE VIEW part_copy AS SELECT 1});
sql(q{SELECT etl_cdc_drop('p')});

# ----------------------------------------------------------------------
# owners

sql(q{
	CREATE ROLE ann LOGIN REPLICATION;
	CREATE TABLE owned (id int PRIMARY KEY, v text);
	CREATE TABLE owned_copy (LIKE owned INCLUDING ALL);
	GRANT SELECT ON owned TO ann;
	GRANT ALL ON owned_copy TO ann;
	SET ROLE ann;
	SELECT etl_cdc_create('ann'), etl_cdc_add_table('ann', 'owned', 'owned_copy'), etl_cdc_start('ann');
});
applied('ann');
sql(q{ALTER ROLE ann RENAME TO anna; INSERT INTO owned VALUES (1, 'a')});
applied('ann', 'an owner with another name');
sql(q{REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; SELECT pg_terminate_backend(pid) FROM etl_patterns.cdc_status});
status_is(q{state = 'starting' AND reason = 'the pipeline cannot run: its owner has no CONNECT privilege for the database' AND hint ~ 'goes on by itself'}, 'ann',
	'an owner who may not connect');
sql(q{GRANT CONNECT ON DATABASE postgres TO PUBLIC; ALTER ROLE anna NOLOGIN});
status_is(q{state = 'starting' AND reason = 'the pipeline cannot run: its owner is not permitted to log in'}, 'ann', 'or not log in');
sql(q{ALTER ROLE anna LOGIN; ALTER ROLE anna SET search_path = nowhere; ALTER ROLE anna SET default_transaction_read_only = on; ALTER ROLE anna SET session_replication_role = replica;
	ALTER ROLE anna SET statement_timeout = 1; ALTER ROLE anna SET lock_timeout = 1; ALTER ROLE anna SET DateStyle = 'German'; INSERT INTO owned VALUES (2, 'b')});
applied('ann', 'whatever the role has set');
same('TABLE owned', 'TABLE owned_copy', 'it follows');
sql('REVOKE INSERT ON owned_copy FROM anna; INSERT INTO owned VALUES (3, \'c\')');
paused_with('ann', qr/permission denied for table owned_copy/, 'a right that is taken away');
sql(q{GRANT INSERT ON owned_copy TO anna; SELECT etl_cdc_start('ann')});
applied('ann');
sql('DROP OWNED BY anna; DROP ROLE anna; INSERT INTO owned VALUES (4, \'d\')');
paused_with('ann', qr/permission denied for table owned/, 'an owner who is dropped');
refused(q{SELECT etl_cdc_start('ann')}, qr/CDC pipeline "ann" cannot run: its owner does not exist any more/, 'it does not start');
refused(q{SELECT etl_cdc_alter_table('ann', 'owned', 'owned_copy', row_filter => 'id > 0')}, qr/the owner of CDC pipeline "ann" does not exist any more\nHINT:  Drop it with etl_cdc_drop\(\)/, 'nor is it changed');
sql(q{SELECT etl_cdc_drop('ann')});
is(sql('SELECT count(*) FROM pg_replication_slots'), '0', 'but dropped');

ok(slurp_file($node->logfile) !~ /TRAP|terminated by signal|PANIC|was left open/, 'no process has crashed');
$node->stop;
done_testing();
