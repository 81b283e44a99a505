# What happens to tables and servers while a pipeline runs: definitions of source
# and target change, also in the middle of transactions, tables go, workers are
# used up, copies are interrupted, a transaction is large.  Either the targets
# are equal after it, or the pipeline is paused, says why, and goes on once that
# is mended.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Cdc;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Restart;
use Test::More;

my $server = Cdc::start('cdc_edges',
	"max_worker_processes = 14\nrestart_after_crash = on\nmax_prepared_transactions = 5\nlogical_decoding_work_mem = '1MB'\n");
my $node = $server->{node};

# A pipeline of one table, which has been copied.
sub follow
{
	my ($pipeline, $source, $target, $more) = @_;

	sql("SELECT etl_cdc_create('$pipeline') WHERE NOT EXISTS (SELECT FROM etl_patterns.cdc_pipeline WHERE pipeline = '$pipeline')");
	sql("SELECT etl_cdc_add_table('$pipeline', '$source', '$target'" . ($more // '') . ')');
	sql("SELECT etl_cdc_start('$pipeline')") if sql("SELECT state = 'stopped' FROM etl_patterns.cdc_pipeline WHERE pipeline = '$pipeline'") eq 't';
	$server->until("SELECT bool_and(t.state = 'followed') FROM etl_patterns.cdc_table t WHERE t.pipeline = '$pipeline'",
		"$pipeline: $source is followed");
	return;
}

# ----------------------------------------------------------------------
# definitions of the source, in the middle of transactions

sql(q{
CREATE TABLE ddl (id int PRIMARY KEY, a int, b text);
CREATE TABLE ddl_copy (LIKE ddl INCLUDING ALL);
INSERT INTO ddl VALUES (1, 1, 'one'), (2, 2, 'two');
});
follow('ddl', 'ddl', 'ddl_copy');
script(q{
BEGIN;
INSERT INTO ddl VALUES (3, 3, 'three');
ALTER TABLE ddl ADD c text;
INSERT INTO ddl VALUES (4, 4, 'four', 'c');
UPDATE ddl SET c = 'c1' WHERE id = 1;
COMMIT;
});
paused_with('ddl', qr/column "c" of source .* has no column in "ddl_copy"/, 'a column that the target lacks');
is(sql('SELECT count(*) FROM ddl_copy'), '2', 'nothing of the transaction is applied');
sql(q{ALTER TABLE ddl_copy ADD c text; SELECT etl_cdc_start('ddl')});
applied('ddl');
same('TABLE ddl', 'TABLE ddl_copy', 'once it is added the change goes on');

script(q{
BEGIN;
UPDATE ddl SET a = 20 WHERE id = 2;
ALTER TABLE ddl DROP COLUMN b;
INSERT INTO ddl VALUES (5, 5, 'c');
SAVEPOINT s;
ALTER TABLE ddl ADD never int DEFAULT 7;
INSERT INTO ddl VALUES (6, 6, 'c', 6);
ROLLBACK TO s;
INSERT INTO ddl VALUES (7, 7, 'c');
DELETE FROM ddl WHERE id = 3;
COMMIT;
UPDATE ddl SET a = a + 1;
});
applied('ddl');
same('SELECT id, a, c FROM ddl', 'SELECT id, a, c FROM ddl_copy', 'a column is dropped');
same(q{VALUES (1, 'one'), (2, 'two'), (4, 'four'), (5, NULL), (7, NULL)}, 'SELECT id, b FROM ddl_copy', 'the target keeps it');

script(q{
BEGIN;
INSERT INTO ddl VALUES (8, 8, 'before');
ALTER TABLE ddl RENAME c TO d;
INSERT INTO ddl VALUES (9, 9, 'after');
COMMIT;
});
paused_with('ddl', qr/column "d" of source .* has no column/, 'a column that is renamed');
sql(q{SELECT etl_cdc_alter_table('ddl', 'ddl', 'ddl_copy', columns => '{"c": "d"}')});
sql(q{SELECT etl_cdc_start('ddl')});
paused_with('ddl', qr/column "d" of source "public.ddl" does not exist/, 'a transaction with rows of both names');
sql(q{SELECT etl_cdc_resync('ddl', 'ddl'); SELECT etl_cdc_start('ddl')});
applied('ddl');
same('SELECT id, a, d FROM ddl', 'SELECT id, a, c FROM ddl_copy', 'with another mapping it goes on');

script(q{
ALTER TABLE ddl ADD v varchar(3);
});
sql('ALTER TABLE ddl_copy ADD v varchar(3)');
script(q{
BEGIN;
INSERT INTO ddl VALUES (10, 10, 'd', 'abc');
ALTER TABLE ddl ALTER v TYPE varchar(10);
INSERT INTO ddl VALUES (11, 11, 'd', 'abcdefghij');
COMMIT;
});
paused_with('ddl', qr/value too long for type character varying\(3\)/, 'a type that is wider than the target\'s');
sql(q{ALTER TABLE ddl_copy ALTER v TYPE text; SELECT etl_cdc_start('ddl')});
applied('ddl');
same('SELECT id, a, d, v FROM ddl', 'SELECT id, a, c, v FROM ddl_copy', 'the target\'s is made wider, too');

script(q{
BEGIN;
INSERT INTO ddl VALUES (12, 12, 'd', 'v');
ALTER TABLE ddl ALTER a TYPE text USING 'a' || a;
INSERT INTO ddl VALUES (13, 'a13', 'd', 'v');
COMMIT;
});
paused_with('ddl', qr/table "ddl" was rewritten by ALTER TABLE.*etl_cdc_resync/, 'a table that is rewritten');
sql(q{ALTER TABLE ddl_copy ALTER a TYPE text; SELECT etl_cdc_resync('ddl', 'ddl')});
sql(q{SELECT etl_cdc_start('ddl')}) if sql("SELECT state FROM etl_patterns.cdc_pipeline WHERE pipeline = 'ddl'") eq 'paused';
sql(q{UPDATE ddl SET v = 'after' WHERE id < 5});
applied('ddl');
same('SELECT id, a, d, v FROM ddl', 'SELECT id, a, c, v FROM ddl_copy', 'and copied anew');

# What rewrites a table and changes no value is none of our business.
script(q{
INSERT INTO ddl VALUES (20, '20', 'd', 'v');
VACUUM FULL ddl;
INSERT INTO ddl VALUES (21, '21', 'd', 'v');
CLUSTER ddl USING ddl_pkey;
UPDATE ddl SET v = 'clustered' WHERE id = 20;
REINDEX TABLE ddl;
DELETE FROM ddl WHERE id = 21;
ALTER TABLE ddl RENAME TO ddl_renamed;
CREATE SCHEMA elsewhere;
ALTER TABLE ddl_renamed SET SCHEMA elsewhere;
INSERT INTO elsewhere.ddl_renamed VALUES (22, '22', 'd', 'v');
});
applied('ddl');
same('SELECT id, a, d, v FROM elsewhere.ddl_renamed', 'SELECT id, a, c, v FROM ddl_copy', 'VACUUM FULL, CLUSTER, REINDEX, and other names');

# ----------------------------------------------------------------------
# definitions of the target, while others write

sql(q{
CREATE TABLE busy (id int PRIMARY KEY, v text, n int);
CREATE TABLE busy_copy (LIKE busy INCLUDING ALL);
INSERT INTO busy SELECT i, 'v', i FROM generate_series(1, 500) i;
});
follow('busy', 'busy', 'busy_copy');
my $writes = join('', map { "UPDATE busy SET n = n + 1 WHERE id = 1 + $_ % 500; INSERT INTO busy VALUES (1000 + $_, 'w', $_); DELETE FROM busy WHERE id = 900 + $_;\n" } 1 .. 1500);
my $writer = IPC::Run::start([ $node->installed_command('psql'), '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres') ],
	'<', \$writes, '>', \my $writer_out, '2>', \my $writer_err);
foreach my $ddl (
	q{ALTER TABLE busy_copy ADD extra int DEFAULT 5},
	q{CREATE INDEX busy_copy_v ON busy_copy (v)},
	q{ALTER TABLE busy_copy ALTER n TYPE bigint},
	q{ALTER TABLE busy_copy DROP COLUMN extra},
	q{VACUUM FULL busy_copy},
	q{ALTER TABLE busy_copy ADD stamp timestamptz DEFAULT clock_timestamp()},
	q{CREATE UNIQUE INDEX busy_copy_n ON busy_copy (id, n)},
	q{ALTER TABLE busy_copy RENAME TO busy_again},
	q{CLUSTER busy_again USING busy_copy_pkey},
	q{DROP INDEX busy_copy_v},
	q{CREATE FUNCTION busy_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.stamp := NULL; RETURN NEW; END'},
	q{CREATE TRIGGER t BEFORE INSERT OR UPDATE ON busy_again FOR EACH ROW EXECUTE FUNCTION busy_trigger()},
	q{DROP TRIGGER t ON busy_again},
	q{ALTER TABLE busy_again DROP CONSTRAINT busy_copy_pkey},
	q{ALTER TABLE busy_again ADD PRIMARY KEY (id)},
	q{ALTER TABLE busy_again ALTER n TYPE int})
{
	sql($ddl);
}
ok($writer->finish, 'writers are at work meanwhile') or diag($writer_err);
applied('busy');
same('SELECT id, v, n FROM busy', 'SELECT id, v, n FROM busy_again', 'the target\'s definition changes while rows come');

# It goes away: one table of two, the other one follows on.
sql(q{
CREATE TABLE stays (id int PRIMARY KEY);
CREATE TABLE stays_copy (LIKE stays INCLUDING ALL);
});
follow('busy', 'stays', 'stays_copy');
sql('DROP TABLE busy_again');
sql('INSERT INTO stays VALUES (1); INSERT INTO busy VALUES (-1); INSERT INTO stays VALUES (2)');
paused_with('busy', qr/the target of table "public.busy" does not exist any more \| .*etl_cdc_remove_table/, 'a target that was dropped');
sql(q{SELECT etl_cdc_remove_table('busy', 'busy'); SELECT etl_cdc_start('busy')});
applied('busy');
same('TABLE stays', 'TABLE stays_copy', 'once it is removed the rest goes on');

# A source that goes away has no changes any more.
sql(q{
CREATE TABLE goes (id int PRIMARY KEY);
CREATE TABLE goes_copy (LIKE goes INCLUDING ALL);
INSERT INTO goes VALUES (1);
});
follow('busy', 'goes', 'goes_copy');
script(q{
INSERT INTO goes VALUES (2);
BEGIN; INSERT INTO goes VALUES (3); INSERT INTO stays VALUES (3); DROP TABLE goes; INSERT INTO stays VALUES (4); COMMIT;
INSERT INTO stays VALUES (5);
});
applied('busy', 'a source that was dropped: it goes on');
same('TABLE stays', 'TABLE stays_copy', 'the others are equal');
is(sql(q{SELECT string_agg(id::text, ' ' ORDER BY id) FROM goes_copy WHERE id < 3}), '1 2', 'what was committed before is there');
sql(q{SELECT etl_cdc_remove_table('busy', 'public.goes')});
sql(q{INSERT INTO stays VALUES (6)});
applied('busy');

# Rights and row security that change.
sql(q{
CREATE ROLE follower LOGIN REPLICATION;
CREATE TABLE secret (id int PRIMARY KEY);
CREATE TABLE secret_copy (LIKE secret INCLUDING ALL);
INSERT INTO secret VALUES (1);
GRANT SELECT ON secret TO follower;
GRANT ALL ON secret_copy TO follower;
SET ROLE follower;
SELECT etl_cdc_create('secret');
SELECT etl_cdc_add_table('secret', 'secret', 'secret_copy');
SELECT etl_cdc_start('secret');
RESET ROLE;
});
applied('secret');
sql('REVOKE SELECT ON secret FROM follower; INSERT INTO secret VALUES (2)');
paused_with('secret', qr/permission denied for table secret/, 'the right to read that is taken away');
is(sql('SELECT count(*) FROM secret_copy'), '1', 'nothing is shown any more');
sql(q{GRANT SELECT ON secret TO follower; SELECT etl_cdc_start('secret')});
applied('secret');
sql('ALTER TABLE secret ENABLE ROW LEVEL SECURITY; INSERT INTO secret VALUES (3)');
paused_with('secret', qr/row security of table "public.secret" applies.*BYPASSRLS/, 'row security that is switched on');
sql(q{ALTER ROLE follower BYPASSRLS; SELECT etl_cdc_start('secret')});
applied('secret');
same('TABLE secret', 'TABLE secret_copy', 'BYPASSRLS mends that');
sql(q{ALTER ROLE follower NOREPLICATION; SELECT etl_cdc_stop('secret')});
my ($ret, $out, $err) = $node->psql('postgres', q{SELECT etl_cdc_start('secret')});
like($err, qr/permission denied to follow this server's changes/, 'without REPLICATION it does not start');
sql(q{SELECT etl_cdc_drop('secret')});

# ----------------------------------------------------------------------
# types and columns

sql(q{
CREATE TYPE color AS ENUM ('red', 'blue');
CREATE DOMAIN code AS varchar(8) CHECK (VALUE ~ '^[a-z]+$');
CREATE TYPE spot AS (x int, y int);
CREATE TABLE kinds (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, c color, d code, s spot, cs color[], ss spot[],
	n int, twice int GENERATED ALWAYS AS (n * 2) STORED, m int[][]);
CREATE TABLE kinds_copy (LIKE kinds INCLUDING ALL);
CREATE TABLE kinds_plain (id bigint PRIMARY KEY, c color, d code, s spot, cs color[], ss spot[], n int, twice int, m int[]);
INSERT INTO kinds (c, d, s, n) VALUES ('red', 'abc', '(1,2)', 1);
});
follow('kinds', 'kinds', 'kinds_copy');
follow('kinds', 'kinds', 'kinds_plain');
script(q{
INSERT INTO kinds (c, d, s, cs, ss, n, m) VALUES ('blue', 'def', '(3,4)', '{red,NULL,blue}', '{"(1,2)",NULL}', 2, '{{1,2},{3,4}}');
ALTER TYPE color ADD VALUE 'green' BEFORE 'blue';
INSERT INTO kinds (c, cs, n) VALUES ('green', '{green,red}', 3);
BEGIN;
INSERT INTO kinds (s, n) VALUES ('(5,6)', 4);
ALTER TYPE spot ADD ATTRIBUTE z int;
INSERT INTO kinds (s, ss, n) VALUES ('(7,8,9)', '{"(1,2,3)"}', 5);
COMMIT;
ALTER DOMAIN code DROP CONSTRAINT code_check;
INSERT INTO kinds (d, n) VALUES ('ABC', 6);
UPDATE kinds SET n = n + 10;
INSERT INTO kinds (id, n) OVERRIDING SYSTEM VALUE VALUES (1000, 7);
ALTER TABLE kinds ALTER id SET GENERATED BY DEFAULT;
INSERT INTO kinds (id, n) VALUES (1001, 8);
ALTER TABLE kinds ALTER id DROP IDENTITY;
DELETE FROM kinds WHERE id = 2;
});
applied('kinds');
same('SELECT id, c, d, s, cs, ss, n, twice, m FROM kinds', 'SELECT id, c, d, s, cs, ss, n, twice, m FROM kinds_copy', 'identity, generated, enum, domain, composite, array');
same('SELECT id, c, d, s, cs, ss, n, twice, m FROM kinds', 'SELECT id, c, d, s, cs, ss, n, twice, m FROM kinds_plain', 'into plain columns, too');
is(sql(q{SELECT string_agg(c::text, ' ' ORDER BY c) FROM kinds_copy}), 'red green', 'new values of an enum have their place');
sql(q{SELECT etl_cdc_drop('kinds')});

# ----------------------------------------------------------------------
# partitions that come and go

sql(q{
CREATE TABLE parts (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
CREATE TABLE parts_copy (id int, k int, v text, PRIMARY KEY (id, k));
INSERT INTO parts SELECT i, 1 + i % 2, 'first' FROM generate_series(1, 20) i;
});
follow('parts', 'parts', 'parts_copy');
script(q{
INSERT INTO parts VALUES (21, 1, 'new');
CREATE TABLE parts_3 PARTITION OF parts FOR VALUES IN (3);
INSERT INTO parts VALUES (22, 3, 'in a new one');
UPDATE parts SET k = 3 WHERE id = 1;
BEGIN; CREATE TABLE parts_4 PARTITION OF parts FOR VALUES IN (4); INSERT INTO parts VALUES (23, 4, 'in one of this transaction'); COMMIT;
});
applied('parts');
same('TABLE parts', 'TABLE parts_copy', 'partitions that are created');

# One that had rows before, and one that goes with its rows: no change of a row says so.
script(q{
CREATE TABLE parts_5 (v text, k int NOT NULL, id int NOT NULL);
INSERT INTO parts_5 VALUES ('before', 5, 50);
ALTER TABLE parts ATTACH PARTITION parts_5 FOR VALUES IN (5);
INSERT INTO parts VALUES (51, 5, 'after');
});
applied('parts');
is(sql('SELECT count(*) FROM parts_copy WHERE id = 51'), '1', 'rows of a partition that was attached come');
is(sql('SELECT count(*) FROM parts_copy WHERE id = 50'), '0', 'those that it had do not');
script(q{
ALTER TABLE parts DETACH PARTITION parts_2;
INSERT INTO parts_2 VALUES (60, 2, 'not of parts');
INSERT INTO parts VALUES (61, 1, 'of parts');
});
applied('parts');
is(sql('SELECT count(*) FILTER (WHERE id = 60), count(*) FILTER (WHERE id = 61) FROM parts_copy'), '0|1', 'rows of one that was detached do not come any more');
sql(q{SELECT etl_cdc_resync('parts', 'parts')});
applied('parts');
same('TABLE parts', 'TABLE parts_copy', 'a resync makes that good');

# ----------------------------------------------------------------------
# transactions: many subtransactions, aborts, prepared ones

sql(q{
CREATE TABLE nest (id int PRIMARY KEY, v text);
CREATE TABLE nest_copy (LIKE nest INCLUDING ALL);
CREATE TABLE nest_log (LIKE nest);
CREATE PROCEDURE fill(base int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 300 LOOP
		BEGIN
			INSERT INTO public.nest VALUES (base + i, 'kept');
			BEGIN
				UPDATE public.nest SET v = 'undone' WHERE id = base + i;
				INSERT INTO public.nest VALUES (base - i, 'undone');
				RAISE EXCEPTION 'undo';
			EXCEPTION WHEN raise_exception THEN
				UPDATE public.nest SET v = v || i WHERE id = base + i;
			END;
			IF i % 3 = 0 THEN
				RAISE EXCEPTION 'undo';
			END IF;
		EXCEPTION WHEN raise_exception THEN
			NULL;
		END;
	END LOOP;
END $$;
});
follow('nest', 'nest', 'nest_copy');
follow('nest', 'nest', 'nest_log', ", 'append'");
script(q{
CALL fill(10000);
BEGIN; CALL fill(20000); ROLLBACK;
BEGIN; CALL fill(30000); PREPARE TRANSACTION 'kept';
BEGIN; CALL fill(40000); PREPARE TRANSACTION 'undone';
INSERT INTO nest VALUES (1, 'between');
ROLLBACK PREPARED 'undone';
});
applied('nest', 'a transaction that is prepared holds nothing up');
is(sql('SELECT count(*) FROM nest_log WHERE id > 30000'), '0', 'and is not applied');
sql(q{COMMIT PREPARED 'kept'});
applied('nest');
same('TABLE nest', 'TABLE nest_copy', 'subtransactions');
is(sql('SELECT count(*), count(DISTINCT id) FROM nest_log'), '401|401', 'each row that was kept, once');

# A prepared transaction and a restart.
script(q{BEGIN; INSERT INTO nest VALUES (2, 'prepared before a restart'); PREPARE TRANSACTION 'late'});
$node->restart;
$server->served;
sql(q{INSERT INTO nest VALUES (3, 'after it'); COMMIT PREPARED 'late'});
applied('nest');
is(sql('SELECT count(*), count(DISTINCT id) FROM nest_log'), '403|403', 'a prepared transaction that is older than the server');

# ----------------------------------------------------------------------
# a large transaction takes no more memory than a small one

my $large = $ENV{LARGE} // 500_000;

# The most private memory, in kB, that processes of a kind had while a
# statement was executed and applied.
sub peak_while
{
	my ($pipeline, $statement) = @_;
	my %peak = (applier => 0, reader => 0);
	my %pid = (
		applier => sql("SELECT pid FROM etl_patterns.cdc_status WHERE pipeline = '$pipeline'"),
		reader => sql("SELECT reader_pid FROM etl_patterns.cdc_status WHERE pipeline = '$pipeline'"));
	my $session = IPC::Run::start(
		[ $node->installed_command('psql'), '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'),
			'-c', $statement, '-c', "SELECT etl_cdc_wait('$pipeline', timeout => '180s')" ],
		'<', \undef, '>', \my $out, '2>', \my $err);

	while ($session->pumpable)
	{
		foreach my $who (keys %peak)
		{
			open my $status, '<', "/proc/$pid{$who}/status" or next;
			while (my $line = <$status>)
			{
				$peak{$who} = $1 if $line =~ /^RssAnon:\s+(\d+)/ && $1 > $peak{$who};
			}
			close $status;
		}
		select(undef, undef, undef, 0.02);
		$session->pump_nb;
	}
	$session->finish;
	is($out, "t\n", 'it is applied') or diag($err);
	note("peak: applier $peak{applier} kB, reader $peak{reader} kB");
	return \%peak;
}

SKIP:
{
	skip 'no /proc here', 6 unless -e '/proc/self/status';

	my $peak = peak_while('nest', "INSERT INTO nest SELECT 1000000 + i, repeat('x', 100) FROM generate_series(1, $large) i");
	cmp_ok($peak->{applier}, '<', 200_000, 'a large insert: the process that applies stays small');
	cmp_ok($peak->{reader}, '<', 100_000, 'and so does the one that reads');
	same('TABLE nest', 'TABLE nest_copy', 'it is complete');
	is(sql('SELECT count(*) = count(DISTINCT id) AND count(*) = (SELECT count(*) FROM nest) FROM nest_log'), 't', 'each row once');
	$peak = peak_while('nest', "UPDATE nest SET v = 'changed' WHERE id > 1000000");
	cmp_ok($peak->{applier}, '<', 200_000, 'a large update: the process that applies stays small');
	cmp_ok($peak->{reader}, '<', 100_000, 'and so does the one that reads');
	same('TABLE nest', 'TABLE nest_copy', 'it is complete');
}
sql(q{SELECT etl_cdc_drop('nest'); SELECT etl_cdc_drop('busy'); SELECT etl_cdc_drop('parts')});

# ----------------------------------------------------------------------
# an idle pipeline on a busy server: another database writes

$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE TABLE noise AS SELECT i FROM generate_series(1, 100000) i; CHECKPOINT; INSERT INTO noise SELECT i FROM generate_series(1, 100000) i');
my $lsn = sql('SELECT pg_current_wal_flush_lsn()');
$node->safe_psql('other', 'CHECKPOINT');
$server->until("SELECT confirmed_flush_lsn >= '$lsn' FROM pg_replication_slots", 'a slot moves on while only another database writes');
$server->until("SELECT lag_seconds = 0 FROM etl_patterns.cdc_status", 'and there is no lag');

# ----------------------------------------------------------------------
# a copy that is interrupted goes on with the next table

sql(q{SELECT etl_cdc_drop('ddl')});
sql(join(';', map { "CREATE TABLE c$_ (id int PRIMARY KEY, v text); INSERT INTO c$_ SELECT i, 'c' FROM generate_series(1, 3000) i; CREATE TABLE c${_}_log (LIKE c$_)" } 1 .. 4));
sql(q{
SELECT etl_cdc_create('copies');
SELECT etl_cdc_add_table('copies', 'c' || i, ('c' || i || '_log')::regclass, 'append') FROM generate_series(1, 4) i;
});
my ($in, $answer, $error) = ('', '', '');
my $session = IPC::Run::start([ $node->installed_command('psql'), '-X', '-q', '-A', '-t', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$answer, '2>', \$error);
$in .= "BEGIN; LOCK TABLE c3_log IN SHARE MODE;\n\\echo ready\n";
$session->pump until $answer =~ /ready/;
sql(q{SELECT etl_cdc_start('copies')});
$server->until(q{SELECT count(*) FILTER (WHERE state = 'followed') = 2 FROM etl_patterns.cdc_table}, 'two tables are copied, the third waits');
my $copied = sql(q{SELECT string_agg(format('%s %s %s', source, rows_copied, copied_at), ' ' ORDER BY source) FROM etl_patterns.cdc_table WHERE state = 'followed'});
sql('INSERT INTO c1 VALUES (-1); INSERT INTO c3 VALUES (-1); INSERT INTO c4 VALUES (-1)');
Restart::kill_process($node, sql('SELECT pid FROM etl_patterns.cdc_status'));
eval { $in .= "\\q\n"; $session->finish };
$server->served;
applied('copies', 'after a crash it goes on');
is(sql(q{SELECT string_agg(format('%s %s %s', source, rows_copied, copied_at), ' ' ORDER BY source) FROM etl_patterns.cdc_table WHERE source IN ('public.c1', 'public.c2')}),
	$copied, 'with the third: the first two were not copied again');
same("SELECT id FROM c$_", "SELECT id FROM c${_}_log", "c$_: nothing lost, nothing twice") for 1 .. 4;

# ----------------------------------------------------------------------
# no worker is free

sql(q{SELECT etl_cdc_drop('copies')});
sql(q{
CREATE TABLE w (id int PRIMARY KEY);
CREATE TABLE w_log (id int);
});
foreach my $n (1 .. 4)
{
	sql("SELECT etl_cdc_create('w$n'); SELECT etl_cdc_add_table('w$n', 'w', 'w_log', 'append'); SELECT etl_cdc_start('w$n')");
}
$server->until(q{SELECT count(*) = 4 FROM etl_patterns.cdc_status WHERE state = 'running'}, 'four pipelines run');

# The server's launcher, ours and a scheduler leave two places: whoever begins first
# gets the second one, too.
$node->append_conf('postgresql.conf', 'max_worker_processes = 5');
$node->restart;
$server->served;
my $waiting = q{SELECT count(*) FROM etl_patterns.cdc_status WHERE pid IS NULL AND reason ~ 'no background worker is free' AND hint ~ 'max_worker_processes'};
$server->until("SELECT ($waiting) = 3 AND (SELECT count(*) FROM etl_patterns.cdc_status WHERE reader_pid IS NOT NULL) = 1",
	'with two places one of four runs, the others say what is missing')
  or diag(sql('SELECT pipeline, state, reason, hint FROM etl_patterns.cdc_status'));
my $running = sql(q{SELECT pipeline FROM etl_patterns.cdc_status WHERE reader_pid IS NOT NULL});
sql('INSERT INTO w VALUES (1)');
applied($running, 'it gets on');
sql("SELECT etl_cdc_stop('$running')");
$server->until("SELECT count(*) = 1 FROM etl_patterns.cdc_status WHERE reader_pid IS NOT NULL AND pipeline <> '$running'", 'when it ends another one takes its place');

# With one place nobody can run, and all say so.
$node->append_conf('postgresql.conf', 'max_worker_processes = 4');
$node->restart;
$server->served;
$server->until("SELECT count(*) = 3 FROM etl_patterns.cdc_status WHERE state <> 'stopped' AND reason ~ 'no background worker is free' AND hint ~ 'max_worker_processes'",
	'with one place all say what is missing')
  or diag(sql('SELECT pipeline, state, reason, hint FROM etl_patterns.cdc_status'));
$node->append_conf('postgresql.conf', 'max_worker_processes = 14');
$node->restart;
$server->served;
sql("SELECT etl_cdc_start('$running')");
applied("w$_") for 1 .. 4;
is(sql('SELECT count(*) FROM w_log'), '4', 'with enough all do');
sql(q{SELECT etl_cdc_drop(pipeline) FROM etl_patterns.cdc_pipeline});
is(sql('SELECT count(*) FROM pg_replication_slots'), '0', 'no slot is left');
is(sql('SELECT count(*) FROM pg_replication_origin'), '0', 'and no origin');

$node->stop;
done_testing();
