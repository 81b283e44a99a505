# Changes that could not be applied: what is kept of them, what becomes of them
# when they are replayed, beside a pipeline that runs, and what a pipeline that
# is paused says.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use IPC::Run;
use JobServer;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $server = JobServer->new('cdc_replay', "wal_level = logical\nmax_worker_processes = 30\nmax_replication_slots = 30\nmax_wal_senders = 20\n");
my $node = $server->{node};

sub sql { return $server->sql(@_) }

# The error of a statement.
sub error_of
{
	my ($sql) = @_;
	my ($status, $stdout, $stderr) = $node->psql('postgres', $sql, on_error_stop => 1);

	return $status ? $stderr : "no error: $stdout";
}

sub caught_up
{
	my ($pipeline) = @_;

	return is(sql("SELECT etl_cdc_wait('$pipeline', timeout => '180s')"), 't', "$pipeline has caught up");
}

sub is_equal
{
	my ($source, $target, $what) = @_;

	return is(sql("SELECT count(*) FROM ((TABLE $source EXCEPT ALL TABLE $target) UNION ALL (TABLE $target EXCEPT ALL TABLE $source)) d"), '0', $what);
}

sub paused
{
	my ($pipeline) = @_;

	return $server->until("SELECT state = 'paused' FROM etl_patterns.cdc_pipeline WHERE pipeline = '$pipeline'", "$pipeline is paused");
}

sub letters
{
	my ($target, $columns) = @_;

	return sql("SELECT $columns FROM etl_patterns.dead_letter WHERE target = '$target'::regclass ORDER BY dead_letter_id");
}

# Executes the command that a hint names.
sub follow_hint
{
	my ($pipeline, $function) = @_;
	my $hint = sql("SELECT hint FROM etl_patterns.cdc_status WHERE pipeline = '$pipeline'");

	like($hint, qr/\b$function\(/, "the hint names $function()");
	my ($command) = $hint =~ /\b($function\([^()]*\))/;
	sql("SELECT $command");
	return caught_up($pipeline);
}

# ----------------------------------------------------------------------
# A mirror: values of many types, all kinds of changes

sql(q{
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE pair AS (x int, y text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE kinds (id int PRIMARY KEY, b bool, f4 float4, f8 float8, n numeric, n2 numeric(12, 3), d date, tm time, ttz timetz, ts timestamp,
	tz timestamptz, iv interval, u uuid, t text, vc varchar(9), bc char(5), by bytea, j json, jb jsonb, ia int[], ta text[], jba jsonb[], low int[],
	nr int4range, nmr int4multirange, m mood, ma mood[], p pair, pa pair[], pos positive, ip inet, bi bit(3), vb varbit, tv tsvector, mo money,
	po point, rc regclass, "odd ""name" text);
CREATE TABLE kinds_copy (LIKE kinds INCLUDING ALL);
ALTER TABLE kinds_copy ADD CONSTRAINT shut CHECK (id < 0);
SET TimeZone = 'Asia/Tokyo';
SELECT etl_cdc_create('kinds', on_error => 'dead_letter');
SELECT etl_cdc_add_table('kinds', 'kinds', 'kinds_copy');
SELECT etl_cdc_start('kinds');
});
caught_up('kinds');
sql(q{
INSERT INTO kinds VALUES (1, true, 'NaN', '-Infinity', 'NaN', 1.5, 'infinity', '10:00', '10:00+05', '2024-02-29 10:00', '2024-01-01 10:00:00.5+05',
	'1 mon -2 days 3.5 s', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', E'quote " back \\\\ line \n end', 'vc', 'ab', '\x00ff', '{"b": [1, "x"]}', '{"b": [1, "x"]}',
	'{{1,2},{3,NULL}}', '{a,NULL,"b c"}', ARRAY['{"a": 1}'::jsonb, 'null'], '[0:1]={5,6}', '[1,5)', '{[1,3),[5,7)}', 'happy', '{sad,happy}', '(1,"a b")',
	ARRAY[ROW(1, 'x')::pair, ROW(NULL, '"')::pair], 5, '10.1.2.3/8', B'101', B'10', 'a:1 b:2', '1234.5', '(1,2)', 'pg_class', 'odd');
INSERT INTO kinds (id) VALUES (2), (3);
UPDATE kinds SET t = 'changed', f4 = 1e-7, f8 = 0.1 WHERE id = 3;
DELETE FROM kinds WHERE id = 2;
INSERT INTO kinds SELECT 4, b, 3.25, 1e300, 12345678901234567890.123456789, -2, '2024-02-29', tm, ttz, '-infinity', 'infinity', '-1 year', u, '', '', '', '',
	'1', '"text"', '{}', '{}', '{}', low, 'empty', '{}', 'sad', NULL, p, '{}', 1, '::1', B'000', B'', '', '-1', po, rc, NULL FROM kinds WHERE id = 1;
});
caught_up('kinds');
is(letters('kinds_copy', "payload->>'op', payload->'key', category, status, payload->'overtaken_lsn' IS NULL"),
	"c|{\"id\": 1}|check|pending|t\nc|{\"id\": 2}|check|pending|f\nc|{\"id\": 3}|check|pending|t\nu|{\"id\": 3}|check|pending|t\nc|{\"id\": 4}|check|pending|t",
	'a change that deletes is applied, and overtakes the one before');
is(sql("SELECT DISTINCT payload->'source'->>'db', payload->'source'->>'name' FROM etl_patterns.dead_letter"), 'postgres|kinds', 'letters tell where they come from');

is(sql("SELECT * FROM etl_dead_letter_replay('kinds_copy')"), '0|5', 'what still fails is counted');
is(letters('kinds_copy', "attempts, category, error_code"), "1|check|23514\n1|conflict|55000\n1|check|23514\n1|check|23514\n1|check|23514",
	'and stays, with the new error') or diag(letters('kinds_copy', "attempts, error_code, error_message, error_detail"));
sql("ALTER TABLE kinds_copy DROP CONSTRAINT shut");
is(sql("BEGIN; SELECT * FROM etl_dead_letter_replay('kinds_copy'); ROLLBACK; SELECT count(*) FROM kinds_copy"), "4|1\n0", 'a replay that is rolled back has not been');
is(sql("SET TimeZone = 'America/New_York'; SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'sql_standard'; SET extra_float_digits = 0; SET bytea_output = 'escape'; SET search_path = etl_patterns, public; SELECT * FROM etl_dead_letter_replay('kinds_copy')"),
	'4|1', 'once that is mended they are applied');
is( sql(q{SELECT count(*) FROM (SELECT k::text FROM kinds k EXCEPT ALL SELECT k::text FROM kinds_copy k) d}), '0', 'all values are those of the source')
  or diag(sql('SELECT k::text FROM kinds k UNION ALL SELECT k::text FROM kinds_copy k ORDER BY 1'));
is(sql('SELECT count(*) FROM kinds_copy'), '3', 'and there are no others');
is(letters('kinds_copy', "status, attempts, resolved_run_id IS NOT NULL"), "replayed|2|t\npending|2|f\nreplayed|2|t\nreplayed|2|t\nreplayed|2|t",
	'they are closed');
is(sql("SELECT rows_read, rows_inserted, rows_updated, rows_deleted, rows_unchanged, rows_rejected FROM etl_patterns.run WHERE operation = 'dead_letter_replay' ORDER BY run_id DESC LIMIT 1"),
	'5|3|1|0|0|1', 'and counted');
is(sql("SELECT etl_dead_letter_discard(array_agg(dead_letter_id)) FROM etl_patterns.dead_letter WHERE status = 'pending'"), '1', 'the others can be discarded');
sql("SELECT etl_cdc_drop('kinds')");

# ----------------------------------------------------------------------
# A mirror: what is newer than a letter

sql(q{
CREATE TABLE s (id int PRIMARY KEY, v text, large text);
ALTER TABLE s ALTER large SET STORAGE EXTERNAL;
CREATE TABLE t (LIKE s INCLUDING ALL);
ALTER TABLE t ADD CONSTRAINT good CHECK (v NOT LIKE 'bad%');
SELECT etl_cdc_create('newer', on_error => 'dead_letter');
SELECT etl_cdc_add_table('newer', 's', 't');
SELECT etl_cdc_start('newer');
});
caught_up('newer');
my $first = sql('SELECT coalesce(max(dead_letter_id), 0) FROM etl_patterns.dead_letter');

# How a row stands: its letters since the last call, by whether they are overtaken.
sub stands
{
	my ($what, $want) = @_;
	my $have = sql("SELECT coalesce(string_agg((payload->>'op') || CASE WHEN payload->'overtaken_lsn' IS NULL THEN '' ELSE '-' END, ' ' ORDER BY dead_letter_id), '') FROM etl_patterns.dead_letter WHERE dead_letter_id > $first");

	is($have, $want, $what);
	$first = sql('SELECT max(dead_letter_id) FROM etl_patterns.dead_letter');
	return;
}

sub changes
{
	my ($sql) = @_;

	sql($sql);
	return is(sql("SELECT etl_cdc_wait('newer', timeout => '180s')"), 't', 'changes are applied or set aside');
}

changes("INSERT INTO s VALUES (1, 'bad'); INSERT INTO s VALUES (2, 'bad'), (3, 'ok'); UPDATE s SET v = 'bad 2' WHERE id = 3");
stands('nothing newer has come', 'c c u');
changes("UPDATE s SET v = 'good' WHERE id = 1");
is(letters('t', "payload->'key'->>'id'") =~ tr/\n/ /r, '1 2 3', 'there are letters of three rows');
is(sql("SELECT payload->'key'->>'id' FROM etl_patterns.dead_letter WHERE payload ? 'overtaken_lsn' AND target = 't'::regclass"), '1', 'the row that was changed since has an old one');
changes("BEGIN; INSERT INTO s VALUES (10, 'bad'); INSERT INTO s VALUES (11, 'bad'); UPDATE s SET v = 'ok' WHERE id = 10; COMMIT");
stands('so it is within a transaction', 'c- c');
# (in a batch both would be one insert, which does not fail)
changes("INSERT INTO s VALUES (12, 'bad')");
changes("UPDATE s SET id = 13, v = 'ok' WHERE id = 12; INSERT INTO s VALUES (14, 'bad'); UPDATE s SET id = 15 WHERE id = 14");
stands('and with another key', 'c- c u');
changes("UPDATE s SET id = 14, v = 'ok' WHERE id = 15");
$first -= 2;
stands('the key before counts, and the one after', 'c- u-');
is(sql("SELECT * FROM etl_dead_letter_replay('t')"), '0|8', 'nothing can be applied yet');
sql('ALTER TABLE t DROP CONSTRAINT good');
is(sql("SELECT * FROM etl_dead_letter_replay('t')"), '3|5', 'what is not overtaken is applied');
is_equal('s', 't', 'and the mirror is equal');
like(letters('t', 'error_message || error_detail'), qr/a later change has overtaken this one.*position [0-9A-F]+\/[0-9A-F]+ of the source/s, 'the others say why');

# Replayed one by one: an older one does not follow a newer one.
sub shut { return sql('ALTER TABLE t ADD CONSTRAINT good CHECK (v NOT LIKE \'bad%\') NOT VALID'); }
sub open_up { return sql('ALTER TABLE t DROP CONSTRAINT good'); }
shut();
changes("INSERT INTO s VALUES (20, 'bad 1'); UPDATE s SET v = 'bad 2' WHERE id = 20");
open_up();
is(sql("SELECT (etl_dead_letter_replay(NULL, array[max(dead_letter_id)])).* FROM etl_patterns.dead_letter"), '1|0', 'the newer of two letters is applied');
is(sql("SELECT * FROM etl_dead_letter_replay(NULL, array[(SELECT max(dead_letter_id) - 1 FROM etl_patterns.dead_letter)])"), '0|1', 'the older one is not any more');
is(sql('SELECT v FROM t WHERE id = 20'), 'bad 2', 'the row is the newer one');

# TRUNCATE, and a new copy
shut();
changes("DELETE FROM s; INSERT INTO s VALUES (30, 'bad')");
$first = sql('SELECT max(dead_letter_id) - 1 FROM etl_patterns.dead_letter');
changes("TRUNCATE s; INSERT INTO s VALUES (31, 'bad')");
stands('TRUNCATE overtakes all', 'c- c');
changes("INSERT INTO s VALUES (32, 'ok')");
sql("SELECT etl_cdc_stop('newer'); SELECT etl_cdc_resync('newer', 's')");
is(sql("SELECT * FROM etl_dead_letter_replay('t', (SELECT array_agg(dead_letter_id) FROM etl_patterns.dead_letter WHERE payload->'key'->>'id' = '31'))"), '0|1', 'a table that is to be copied takes none');
like(letters('t', 'error_message'), qr/to be copied before/, 'and says so');
sql("SELECT etl_cdc_start('newer')");
caught_up('newer');
is(sql("SELECT count(*) FROM etl_patterns.dead_letter WHERE status = 'pending' AND payload->'overtaken_lsn' IS NULL AND payload->>'op' <> 'r'"), '0', 'a copy overtakes what was before');
open_up();
is(sql("SELECT replayed FROM etl_dead_letter_replay('t')"), '1', 'but for rows that it could not write');
is_equal('s', 't', 'and the mirror is equal');

# A large value that is in a letter only
shut();
changes("INSERT INTO s VALUES (40, 'ok', 'small'); UPDATE s SET v = 'bad', large = repeat('large', 10000) WHERE id = 40");
changes("UPDATE s SET v = 'ok again' WHERE id = 40");
is(sql("SELECT category, error_message FROM etl_patterns.dead_letter ORDER BY dead_letter_id DESC LIMIT 1"),
	'conflict|an earlier change of the row is a dead letter, and the source did not log all of this one', 'a change that lacks what a letter has waits behind it');
open_up();
is(sql("SELECT replayed FROM etl_dead_letter_replay('t')"), '2', 'both are applied');
is_equal('s', 't', 'and nothing is missing');

# ----------------------------------------------------------------------
# beside the pipeline

shut();
changes("INSERT INTO s VALUES (50, 'bad'), (51, 'bad')");
open_up();
my ($in, $out, $err) = ('', '', '');
my $session = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err);
$in .= "BEGIN; SELECT replayed FROM etl_dead_letter_replay('t');\n\\echo ready\n";
$session->pump until $out =~ /ready/;
sql("UPDATE s SET v = 'newer' WHERE id = 50; DELETE FROM s WHERE id = 51");
$server->until("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 't'::regclass", 'what comes waits for a replay');
is(sql('SELECT count(*) FROM t WHERE id IN (50, 51)'), '0', 'whose rows are not there yet');
$in .= "COMMIT;\n\\q\n";
$session->finish;
like($out, qr/^2$/m, 'the replay was made');
caught_up('newer');
is(sql('SELECT id, v FROM t WHERE id IN (50, 51)'), '50|newer', 'and what came later is later');

# A replay waits for the batch that is being applied.
shut();
changes("INSERT INTO s VALUES (60, 'bad')");
open_up();
sql(q{CREATE TABLE gate (id int); CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN LOCK TABLE public.gate; RETURN NEW; END $$; CREATE TRIGGER gate BEFORE INSERT OR UPDATE ON t FOR EACH ROW WHEN (NEW.v = 'gate') EXECUTE FUNCTION wait_at_gate()});
($in, $out, $err) = ('', '', '');
$session = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err);
$in .= "BEGIN; LOCK TABLE gate;\n\\echo ready\n";
$session->pump until $out =~ /ready/;
sql("UPDATE s SET v = 'gate' WHERE id = 60");
$server->until("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'gate'::regclass", 'a batch is being applied');
my ($replay_out, $replay_err) = ('', '');
my $replay = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-d', $node->connstr('postgres'), '-c', "SELECT * FROM etl_dead_letter_replay('t', (SELECT array_agg(dead_letter_id) FROM etl_patterns.dead_letter WHERE payload->'key'->>'id' = '60'))" ],
	'>', \$replay_out, '2>', \$replay_err);
$server->until("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 't'::regclass AND mode = 'ShareRowExclusiveLock'", 'a replay waits for it');
$in .= "COMMIT;\n\\q\n";
$session->finish;
$replay->finish;
is($replay_out, "0|1\n", 'and sees what it has done');
caught_up('newer');
is(sql('SELECT v FROM t WHERE id = 60'), 'gate', 'the row is the newer one');
sql('DROP TRIGGER gate ON t');

# A mended target and its letters in one transaction, while changes come
shut();
changes("INSERT INTO s VALUES (70, 'bad')");
($in, $out, $err) = ('', '', '');
$session = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err);
$in .= "BEGIN; ALTER TABLE t DROP CONSTRAINT good;\n\\echo ready\n";
$session->pump until $out =~ /ready/;
sql("INSERT INTO s VALUES (71, 'bad')");
$server->until("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 't'::regclass", 'a change waits');
$in .= "SELECT 'replayed ' || replayed FROM etl_dead_letter_replay('t');\nCOMMIT;\n\\q\n";
$session->finish;
like($out, qr/replayed 1/, 'the letters are replayed all the same');
caught_up('newer');
is_equal('s', 't', 'and the mirror is equal');
sql("SELECT etl_cdc_drop('newer')");

# ----------------------------------------------------------------------
# Columns, filter, and the other sinks

sql(q{
SELECT etl_dead_letter_discard(array_agg(dead_letter_id)) FROM etl_patterns.dead_letter WHERE status = 'pending';
CREATE TABLE o (id int PRIMARY KEY, customer text, amount numeric);
CREATE TABLE o_some (id int PRIMARY KEY, buyer text, price numeric CHECK (price < 100));
CREATE TABLE o_log (id int, customer text CHECK (customer <> 'bad'), amount numeric);
SELECT etl_cdc_create_changelog('o_changes');
ALTER TABLE o_changes ADD CONSTRAINT shut CHECK (key->>'id' <> '2');
SELECT etl_scd2_create('o_history', 'o', '{id}');
ALTER TABLE o_history ADD CONSTRAINT shut CHECK (customer <> 'bad');
CREATE TABLE o_given (n serial, id int, op text, lsn bigint, db text);
CREATE FUNCTION give(changes jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF changes::text LIKE '%bad%' AND pg_catalog.to_regclass('public.closed') IS NOT NULL THEN
		RAISE 'closed';
	END IF;
	INSERT INTO public.o_given (id, op, lsn, db)
	SELECT coalesce(c->'after'->>'id', c->'before'->>'id')::int, c->>'op', (c->'source'->>'lsn')::bigint, c->'source'->>'db' FROM jsonb_array_elements(changes) c;
END $$;
CREATE TABLE closed ();
SELECT etl_cdc_create('sinks', on_error => 'dead_letter');
SELECT etl_cdc_add_table('sinks', 'o', 'o_some', columns => '{"buyer": {"expr": "pg_catalog.upper(customer)"}, "price": "amount"}', row_filter => 'id < 100');
SELECT etl_cdc_add_table('sinks', 'o', 'o_log', 'append');
SELECT etl_cdc_add_table('sinks', 'o', 'o_changes', 'changelog');
SELECT etl_cdc_add_table('sinks', 'o', 'o_history', 'scd2');
SELECT etl_cdc_add_table('sinks', 'o', 'o_given', 'function', '{"function": "public.give"}');
SELECT etl_cdc_start('sinks');
});
caught_up('sinks');
sql($_) for "INSERT INTO o VALUES (1, 'ann', 5)", "INSERT INTO o VALUES (2, 'bad', 5)", "UPDATE o SET customer = 'bad' WHERE id = 1", "INSERT INTO o VALUES (3, 'cem', 500)",
  "INSERT INTO o VALUES (4, 'bad', 500)", "UPDATE o SET amount = 6 WHERE id = 4", "DELETE FROM o WHERE id = 2";
caught_up('sinks');
is(sql("SELECT target, string_agg((payload->>'op') || (payload->'key'->>'id') || CASE WHEN payload->'overtaken_lsn' IS NULL THEN '' ELSE '-' END, ' ' ORDER BY dead_letter_id) FROM etl_patterns.dead_letter WHERE status = 'pending' GROUP BY 1 ORDER BY 1"),
	"o_some|c3 c4-\no_log|c2 c4\no_changes|c2 d2\no_history|c2- u1 c4 u4\no_given|c2 u1 c4 u4", 'each sink has letters of its own');
sql(q{
ALTER TABLE o_some DROP CONSTRAINT o_some_price_check;
ALTER TABLE o_log DROP CONSTRAINT o_log_customer_check;
ALTER TABLE o_changes DROP CONSTRAINT shut;
ALTER TABLE o_history DROP CONSTRAINT shut;
DROP TABLE closed;
});
is(sql('SELECT * FROM etl_dead_letter_replay()'), '12|2', 'all are replayed at once');
is(sql('TABLE o_some ORDER BY id'), "1|BAD|5\n3|CEM|500\n4|BAD|6", 'columns are mapped');
is(sql('TABLE o_log ORDER BY id'), "1|ann|5\n2|bad|5\n3|cem|500\n4|bad|500", 'what was inserted is appended');
is(sql("SELECT string_agg(op || (key->>'id'), ' ' ORDER BY change_id) FROM o_changes"), 'c1 u1 c3 c4 u4 c2 d2', 'changes come late into a changelog');
is(sql("SELECT string_agg(op || (key->>'id'), ' ' ORDER BY commit_lsn, ordinal) FROM o_changes"), 'c1 c2 u1 c3 c4 u4 d2', 'and their positions tell their order');
is(sql("SELECT count(*) FROM o_changes WHERE source->>'db' = 'postgres' AND committed_at <= now() AND xid IS NOT NULL"), '7', 'with all that belongs to them');
is(sql("SELECT string_agg(op || id, ' ' ORDER BY n), count(DISTINCT lsn), min(db) FROM o_given"), 'c1 c3 d2 c2 u1 c4 u4|7|postgres', 'a function gets them');
is(sql('SELECT id, customer, amount, is_current FROM o_history ORDER BY id, valid_from'), "1|ann|5|f\n1|bad|5|t\n3|cem|500|t\n4|bad|500|f\n4|bad|6|t", 'a history is complete');
is(sql("SELECT count(*) FROM etl_scd2_verify('o_history', '{id}')"), '0', 'and sound');
is(sql("SELECT count(*) FROM o_history h JOIN o_changes c ON h.id = (c.key->>'id')::int AND h.valid_from = c.committed_at"), '5', 'with the times of the commits');

# A filter that has come since
sql("ALTER TABLE o_some ADD CHECK (price <> 7); INSERT INTO o VALUES (5, 'eve', 7)");
caught_up('sinks');
sql("SELECT etl_cdc_alter_table('sinks', 'o', 'o_some', row_filter => 'amount <> 7')");
is(sql("SELECT * FROM etl_dead_letter_replay('o_some', (SELECT array_agg(dead_letter_id) FROM etl_patterns.dead_letter WHERE payload->'key'->>'id' = '5'))"), '1|0', 'the table is taken as it is now');
is(sql("SELECT rows_unchanged FROM etl_patterns.run WHERE operation = 'dead_letter_replay' ORDER BY run_id DESC LIMIT 1"), '1', 'what it does not follow is counted so');

# ----------------------------------------------------------------------
# What is gone

sql("ALTER TABLE o_log ADD CONSTRAINT shut CHECK (id < 0) NOT VALID; INSERT INTO o VALUES (6, 'fay', 8), (7, 'gus', 9)");
caught_up('sinks');
sql("SELECT etl_cdc_remove_table('sinks', 'o', 'o_log')");
like(error_of("SELECT etl_dead_letter_replay(NULL, array_agg(dead_letter_id)) FROM etl_patterns.dead_letter WHERE target = 'o_log'::regclass AND status = 'pending'"),
	qr/changes of table public\.o for CDC pipeline "sinks" cannot be replayed.*no such table any more.*etl_dead_letter_discard/s, 'a table that was removed');
my ($rc, $stdout, $stderr) = $node->psql('postgres', "SELECT * FROM etl_dead_letter_replay()");
is($stdout, '0|2', 'is no hindrance for others');
like($stderr, qr/WARNING:  changes of table public\.o for CDC pipeline "sinks" cannot be replayed/, 'but is told of');
sql("SELECT etl_cdc_drop('sinks')");
like(error_of("SELECT etl_dead_letter_replay(NULL, array_agg(dead_letter_id)) FROM etl_patterns.dead_letter WHERE target = 'o_log'::regclass AND status = 'pending'"),
	qr/There is no such pipeline any more/, 'a pipeline that was dropped');
like(error_of("SELECT etl_dead_letter_edit(dead_letter_id, 'x') FROM etl_patterns.dead_letter WHERE target = 'o_log'::regclass AND status = 'pending' LIMIT 1"),
	qr/no pending dead letter/, 'a change has no text to be edited');
is(sql("SELECT etl_dead_letter_discard(array_agg(dead_letter_id)) FROM etl_patterns.dead_letter WHERE target = 'o_log'::regclass AND status = 'pending'"), '2', 'letters can be discarded all the same');

# ----------------------------------------------------------------------
# rights

sql(q{
SELECT etl_dead_letter_discard(array_agg(dead_letter_id)) FROM etl_patterns.dead_letter WHERE status = 'pending';
CREATE ROLE owner LOGIN REPLICATION; CREATE ROLE member LOGIN IN ROLE owner; CREATE ROLE other LOGIN;
GRANT CREATE ON SCHEMA public TO owner;
});
sub as_role
{
	my ($role, $sql) = @_;

	return $node->psql('postgres', $sql, extra_params => [ '-U', $role ], on_error_stop => 1);
}
as_role('owner', q{
CREATE TABLE r (id int PRIMARY KEY); CREATE TABLE r_copy (id int PRIMARY KEY, CHECK (id > 0)); CREATE TABLE r_by (id int, who text);
CREATE FUNCTION note_who() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.r_by VALUES (NEW.id, current_user); RETURN NEW; END $$;
CREATE TRIGGER note_who AFTER INSERT ON r_copy FOR EACH ROW EXECUTE FUNCTION note_who();
SELECT etl_cdc_create('rights', on_error => 'dead_letter'); SELECT etl_cdc_add_table('rights', 'r', 'r_copy'); SELECT etl_cdc_start('rights')});
caught_up('rights');
as_role('owner', 'INSERT INTO r VALUES (-1), (-2), (-3)');
caught_up('rights');
as_role('owner', 'ALTER TABLE r_copy DROP CONSTRAINT r_copy_id_check');
my $ids = sql("SELECT array_agg(dead_letter_id) FROM etl_patterns.dead_letter WHERE status = 'pending'");
is((as_role('other', "SELECT * FROM etl_dead_letter_replay(NULL, '$ids')"))[1], '0|0', 'letters of others are not there');
is((as_role('member', "SELECT * FROM etl_dead_letter_replay(NULL, ('$ids'::bigint[])[1:1]); SELECT current_user, current_setting('search_path')"))[1], "1|0\nmember|\"\$user\", public",
	'who has the rights of the owner may replay');
is(sql("SELECT * FROM etl_dead_letter_replay(NULL, ('$ids'::bigint[])[2:2])"), '1|0', 'and so may a superuser');
is(sql('SELECT DISTINCT who FROM r_by'), 'owner', 'with the rights of the owner');
sql('REVOKE ALL ON r_copy FROM owner; ALTER TABLE r_copy OWNER TO postgres');
like((as_role('owner', 'SELECT * FROM etl_dead_letter_replay()'))[2], qr/permission denied for target public\.r_copy/, 'who needs rights on the target');
is(sql("SELECT attempts FROM etl_patterns.dead_letter WHERE status = 'pending'"), '0', 'that is no attempt');
sql("SELECT etl_cdc_drop('rights')");

# ----------------------------------------------------------------------
# What a pipeline that is paused says, and that it goes on

sql(q{
SELECT etl_dead_letter_discard(array_agg(dead_letter_id)) FROM etl_patterns.dead_letter WHERE status = 'pending';
CREATE TABLE c (id int PRIMARY KEY, v text); CREATE TABLE c_copy (LIKE c INCLUDING ALL); CREATE TABLE c_strict (LIKE c INCLUDING ALL);
SELECT etl_cdc_create('strict');
SELECT etl_cdc_add_table('strict', 'c', 'c_strict', apply_options => '{"conflict": "error"}');
SELECT etl_cdc_create('strict letters', on_error => 'dead_letter');
SELECT etl_cdc_add_table('strict letters', 'c', 'c_copy', apply_options => '{"conflict": "error"}');
SELECT etl_cdc_start('strict'), etl_cdc_start('strict letters');
});
caught_up('strict');
caught_up('strict letters');
sql("INSERT INTO c VALUES (1, 'a'), (2, 'b'), (3, 'c')");
caught_up('strict');
caught_up('strict letters');
sql('DELETE FROM c_strict WHERE id = 1; DELETE FROM c_copy');
sql("UPDATE c SET v = 'x' WHERE id = 1");
sql('DELETE FROM c WHERE id = 2');
caught_up('strict letters');
is(letters('c_copy', "category, error_code, error_message, error_detail"), qq(conflict|P0002|row to be updated is missing in "c_copy"|Key (id)=(1) is not there.\n)
	  . qq(conflict|P0002|row to be deleted is missing in "c_copy"|Key (id)=(2) is not there.), 'a row that is missing is a conflict');
paused('strict');
is(sql(q{SELECT reason, error_code, error_change->>'table', error_change->>'kind', error_change->'key' FROM etl_patterns.cdc_status WHERE pipeline = 'strict'}),
	'row to be updated is missing in "c_strict"|P0002|public.c|update|{"id": 1}', 'or pauses the pipeline, which says so');
sql("INSERT INTO c_strict VALUES (1, 'back')");
follow_hint('strict', 'etl_cdc_start');
is_equal('c', 'c_strict', 'once it is back the pipeline goes on');
sql("INSERT INTO c_strict VALUES (9, 'here'); INSERT INTO c VALUES (9, 'there')");
paused('strict');
like(sql("SELECT reason FROM etl_patterns.cdc_status WHERE pipeline = 'strict'"), qr/duplicate key value/, 'so does a row that is there already');
follow_hint('strict', 'etl_cdc_skip');
is(sql('SELECT v FROM c_strict WHERE id = 9'), 'here', 'or without it');
is(sql("SELECT * FROM etl_dead_letter_replay('c_copy')"), '0|2', 'what conflicts still does');
sql("SELECT etl_cdc_alter_table('strict letters', 'c', 'c_copy', apply_options => '{}')");
is(sql("SELECT * FROM etl_dead_letter_replay('c_copy')"), '2|0', 'unless the source wins');
sql("SELECT etl_cdc_drop('strict'), etl_cdc_drop('strict letters')");

# An error that comes with the commit only
sql(q{
CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, parent int);
CREATE TABLE parent_copy (id int PRIMARY KEY); CREATE TABLE child_copy (id int PRIMARY KEY, parent int REFERENCES parent_copy DEFERRABLE INITIALLY DEFERRED);
SELECT etl_cdc_create('deferred', on_error => 'dead_letter');
SELECT etl_cdc_add_table('deferred', 'child', 'child_copy');
SELECT etl_cdc_start('deferred');
INSERT INTO parent_copy VALUES (1);
});
caught_up('deferred');
for my $way ('etl_cdc_start', 'etl_cdc_skip')
{
	sql('INSERT INTO child VALUES (1, 1) ON CONFLICT DO NOTHING; BEGIN; INSERT INTO child SELECT coalesce(max(id), 0) + 1, 7 FROM child; INSERT INTO child SELECT max(id) + 1, 1 FROM child; COMMIT; INSERT INTO child SELECT max(id) + 1, 1 FROM child');
	paused('deferred');
	my $xid = sql("SELECT error_change->>'xid' FROM etl_patterns.cdc_status");
	is(sql(q{SELECT reason, error_change->>'kind', error_change->>'detail', (error_change->>'committed_at')::timestamptz <= now(), error_change ? 'end_lsn' FROM etl_patterns.cdc_status}),
		'insert or update on table "child_copy" violates foreign key constraint "child_copy_parent_fkey"|commit|Key (parent)=(7) is not present in table "parent_copy".|t|t',
		'an error of a commit names the transaction');
	like(sql('SELECT hint FROM etl_patterns.cdc_status'), qr/^All changes of transaction $xid of the source can be applied, but not committed: .*etl_cdc_start\('deferred'\).*etl_cdc_skip\('deferred', '/, 'and the ways on');
	sql('INSERT INTO parent_copy VALUES (7)') if $way eq 'etl_cdc_start';
	follow_hint('deferred', $way);
	is_equal('child', 'child_copy', 'mended, all is there') if $way eq 'etl_cdc_start';
	sql('DELETE FROM child WHERE parent = 7');
	caught_up('deferred');
	sql('DELETE FROM parent_copy WHERE id = 7') if $way eq 'etl_cdc_start';
}
is(sql('SELECT count(*) FROM child_copy WHERE parent = 7'), '0', 'without the transaction, all else is there');
sql("SELECT etl_cdc_drop('deferred')");

# ----------------------------------------------------------------------
# another server, whose values may be none here

my $there = 'source_db';
sub there { return $node->safe_psql($there, @_) }
sql("CREATE DATABASE $there");
my ($host, $port) = ($node->host, $node->port);
sql(qq{
CREATE EXTENSION postgres_fdw;
CREATE SERVER there FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname '$there');
CREATE USER MAPPING FOR CURRENT_USER SERVER there;
CREATE TABLE far (id int PRIMARY KEY, n numeric(5, 2), v text);
CREATE TABLE far_paused (LIKE far INCLUDING ALL);
CREATE TABLE far_free (id int PRIMARY KEY, n numeric, v text);
SELECT etl_cdc_create_changelog('far_changes');
});
there('CREATE TABLE far (id int PRIMARY KEY, n numeric, v text); INSERT INTO far VALUES (1, 123456.78), (2, 1), (3, 1234567)');
there('UPDATE far SET n = 1 WHERE id <> 2; UPDATE far SET n = 123456.78 WHERE id = 2; DELETE FROM far WHERE id = 2; INSERT INTO far VALUES (2, 2)');
for my $pipeline ([ 'far', 'far', 'dead_letter', 'mirror' ], [ 'far paused', 'far_paused', 'pause', 'mirror' ], [ 'far free', 'far_free', 'pause', 'mirror' ], [ 'far log', 'far_changes', 'pause', 'changelog' ])
{
	my ($name, $target, $on_error, $apply) = @$pipeline;
	sql("SELECT etl_cdc_create('$name', 'there', on_error => '$on_error')");
	sql("SELECT etl_cdc_add_table('$name', 'public.far', '$target', '$apply')");
	sql("SELECT etl_cdc_start('$name')");
	caught_up($name);
}

# values that the type of the column does not allow by now, as those of a newer server
there(q{
SET allow_system_table_mods = on;
UPDATE pg_attribute SET atttypmod = ((5 << 16) | 2) + 4 WHERE attrelid = 'far'::regclass AND attname = 'n';
ALTER TABLE far ALTER v SET STATISTICS 10;
});
there("INSERT INTO far VALUES (4, 4)");
there(q{
SET allow_system_table_mods = on;
BEGIN;
UPDATE pg_attribute SET atttypmod = -1 WHERE attrelid = 'far'::regclass AND attname = 'n';
INSERT INTO far VALUES (5, 555555.55);
COMMIT;
UPDATE pg_attribute SET atttypmod = ((5 << 16) | 2) + 4 WHERE attrelid = 'far'::regclass AND attname = 'n';
});
there("UPDATE far SET v = 'again' WHERE id = 5; INSERT INTO far VALUES (6, 6)");
caught_up('far');
caught_up('far free');
caught_up('far log');
is(sql('SELECT id, n FROM far ORDER BY id'), "1|1.00\n2|2.00\n3|1.00\n4|4.00\n6|6.00", 'a value that cannot be read is a change that cannot be applied');
is(letters('far', "payload->>'op', payload->'key'->>'id', payload->'after'->>'n', category, error_code, payload->'source'->>'db'"),
	"c|5|555555.55|type|22003|$there\nu|5|555555.55|type|22003|$there", 'it is in the dead letters as it came');
is(sql('SELECT n, v FROM far_free WHERE id = 5'), '555555.55|again', 'where the target can hold it nothing is wrong');
is(sql("SELECT string_agg(op || (key->>'id'), ' ' ORDER BY change_id), string_agg(DISTINCT source->>'db', ' ') FROM far_changes WHERE op <> 'r'"), "c4 c5 u5 c6|$there", 'a changelog names the database');
paused('far paused');
is(sql("SELECT error_change->>'table', error_change->>'kind', error_change->'key', error_code FROM etl_patterns.cdc_status WHERE pipeline = 'far paused'"),
	'public.far|insert|{"id": 5}|22003', 'or a reason to pause');
sql('ALTER TABLE far ALTER n TYPE numeric; ALTER TABLE far_paused ALTER n TYPE numeric');
is(sql("SELECT * FROM etl_dead_letter_replay('far')"), '2|0', 'it is replayed when the target can hold it');
is(sql('SELECT n, v FROM far WHERE id = 5'), '555555.55|again', 'with its value');
follow_hint('far paused', 'etl_cdc_start');
is(sql('SELECT n, v FROM far_paused WHERE id = 5'), '555555.55|again', 'and the pipeline that was paused goes on');
sql("SELECT etl_cdc_drop(pipeline) FROM etl_patterns.cdc_pipeline");

# Text that the encoding here does not have: its server cannot even send it.
sql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0");
sub latin { return $node->safe_psql('latin', @_) }
latin(qq{
CREATE EXTENSION etl_patterns; CREATE EXTENSION postgres_fdw;
CREATE SERVER there FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname '$there');
CREATE USER MAPPING FOR CURRENT_USER SERVER there;
CREATE TABLE text (id int PRIMARY KEY, v text);
SELECT etl_cdc_create('text', 'there', on_error => 'dead_letter');
});
there('CREATE TABLE text (id int PRIMARY KEY, v text)');
latin(q{SELECT etl_cdc_add_table('text', 'public.text', 'text'); SELECT etl_cdc_start('text')});
is(latin(q{SELECT etl_cdc_wait('text', timeout => '180s')}), 't', 'a database in another encoding');
there(q{INSERT INTO text VALUES (1, U&'\00FC')});
there(q{INSERT INTO text VALUES (2, U&'\2603')});
there(q{INSERT INTO text VALUES (3, 'x')});
ok($node->poll_query_until('latin', q{SELECT state = 'paused' AND error_code = '22P05' FROM etl_patterns.cdc_pipeline}), 'what that server cannot send pauses the pipeline');
like(latin('SELECT hint FROM etl_patterns.cdc_status'), qr/^The source cannot send it: mend it there, then call etl_cdc_resync\('text'\)\.$/, 'which says how to go on');
there('DELETE FROM text WHERE id = 2');
latin(q{SELECT etl_cdc_resync('text')});
is(latin(q{SELECT etl_cdc_wait('text', timeout => '180s')}), 't', 'and it does');
is(latin(q{SELECT id, v = U&'\00FC' FROM text ORDER BY id}), "1|t\n3|f", 'with what there is');
latin(q{SELECT etl_cdc_drop('text')});
$node->stop;
done_testing();
