# The process that reads this server's WAL: what it needs, what it makes of it,
# and what is left of it when something ends.  The target of "append" shows what
# was read, once for each time.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Cdc;
use PostgreSQL::Test::Utils;
use Restart;
use Test::More;

my $server = Cdc::start('cdc_reader',
	"max_prepared_transactions = 2\nrestart_after_crash = on\n"
	  . "dynamic_shared_memory_type = mmap\nmax_slot_wal_keep_size = -1\nmin_wal_size = 32MB\nmax_wal_size = 64MB\n");
my $node = $server->{node};
my $reader = "backend_type = 'etl_patterns cdc reader'";

sub slots { return sql("SELECT count(*) FROM pg_replication_slots") }

# Segments of dynamic shared memory that are as large as a queue: the server
# has others.
sub segments
{
	my $dir = $node->data_dir . '/pg_dynshmem';

	return scalar(grep { (-s "$dir/$_") > 8 * 1024 * 1024 } grep { /^mmap/ } slurp_dir($dir));
}

# Statements that are transactions of their own.
sub statements { return script(join(";\n", @_) . ";\n") }

# A pipeline of one table; names of tables are source and target.
sub create
{
	my ($pipeline, %tables) = @_;

	sql("SELECT etl_cdc_create('$pipeline')");
	sql("SELECT etl_cdc_add_table('$pipeline', '$_', '$tables{$_}', 'append')") for sort keys %tables;
	return;
}

# Rows of the target, in the order in which they came.
sub rows
{
	my ($query) = @_;

	return sql("SELECT string_agg(r::text, ' ') FROM ($query) q(r)");
}

# --- a slot that cannot be made yet

sql(q{
	CREATE TABLE source (id int PRIMARY KEY, v text);
	CREATE TABLE target (seq serial, id int, v text, extra int);
	CREATE TABLE other (x int);
});
create('first', 'public.source' => 'target');
my $writer = $node->background_psql('postgres');
$writer->query_safe('BEGIN; INSERT INTO other VALUES (1)');
sql(q{SELECT etl_cdc_start('first')});
$server->until("SELECT count(*) = 1 FROM pg_stat_activity WHERE $reader AND wait_event = 'transactionid'",
	'the slot waits for a transaction that writes');
is(sql("SELECT temporary, active FROM pg_replication_slots"), 'f|t', 'and is there meanwhile');
sql(q{SELECT etl_cdc_stop('first')});
$server->until("SELECT count(*) = 0 FROM pg_stat_activity WHERE $reader", 'the reader ends while it waits');
is(slots(), 0, 'and leaves no slot');
sql(q{SELECT etl_cdc_start('first')});
$server->until("SELECT count(*) = 1 FROM pg_stat_activity WHERE $reader AND wait_event = 'transactionid'",
	'another one waits');
sql("SELECT pg_terminate_backend(" . pid_of('etl_patterns cdc reader') . ")");
$server->until("SELECT state = 'starting' AND NOT has_slot AND error_message ~ 'has ended' FROM etl_patterns.cdc_pipeline",
	'a pipeline whose reader has ended before there was a slot is starting');
$writer->query_safe('COMMIT');
$writer->quit;
$server->until("SELECT has_slot FROM etl_patterns.cdc_pipeline", 'the slot is made when the transaction is over');
state_is('first', 'running', 'and the pipeline runs');
is(slots(), 1, 'one slot');
is(segments(), 1, 'one segment of shared memory');

# --- what is read

statements(
	"INSERT INTO source VALUES (1, 'one')",
	"BEGIN; INSERT INTO source VALUES (2, 'two'); SAVEPOINT a; INSERT INTO source VALUES (3, 'undone'); ROLLBACK TO a; "
	  . "SAVEPOINT b; INSERT INTO source VALUES (4, 'four'); RELEASE b; COMMIT",
	"BEGIN; INSERT INTO source VALUES (5, 'undone'); ROLLBACK",
	"BEGIN; INSERT INTO source VALUES (6, 'prepared'); PREPARE TRANSACTION 'p'",
	"INSERT INTO source VALUES (7, 'before it')",
	"BEGIN; INSERT INTO source VALUES (8, 'undone'); PREPARE TRANSACTION 'q'",
	"COMMIT PREPARED 'p'",
	"ROLLBACK PREPARED 'q'",
	"INSERT INTO source VALUES (1, 'no') ON CONFLICT DO NOTHING",
	"INSERT INTO source VALUES (9, 'yes') ON CONFLICT (id) DO UPDATE SET v = 'no'");
applied('first');
is(rows('SELECT id FROM target ORDER BY seq'), '1 2 4 7 6 9', 'what was committed, in the order of the commits');

# Descriptions change in the middle of transactions, and columns were dropped.
statements(
	"BEGIN; INSERT INTO source VALUES (20, 'old'); ALTER TABLE source ADD extra int DEFAULT 5; INSERT INTO source VALUES (21, 'new', 6); COMMIT",
	"ALTER TABLE source DROP v; ALTER TABLE source ADD v text DEFAULT 'fast'; INSERT INTO source VALUES (22, 7, 'third column')",
	"ALTER TABLE source RENAME TO renamed; INSERT INTO renamed VALUES (23, 8, 'renamed')",
	"ALTER TABLE renamed RENAME TO source");
applied('first');
is(rows("SELECT format('%s:%s', id, v) FROM target WHERE id >= 20 ORDER BY seq"), '20:old 21:new 22:third column 23:renamed',
	'rows are read by the columns that there were');

# --- values and rows that are large

sql(q{
	CREATE TABLE wide (id int PRIMARY KEY, plain text, packed text);
	ALTER TABLE wide ALTER plain SET STORAGE external;
	CREATE TABLE wide_copy (LIKE wide);
});
create('wide', 'public.wide' => 'wide_copy');
sql(q{SELECT etl_cdc_start('wide')});
state_is('wide', 'running', 'a second pipeline');
sql(q{INSERT INTO wide SELECT g, repeat(md5(g::text), 1 + g * 10), repeat(md5(g::text), g * 50) FROM generate_series(0, 200) g});
sql(q{INSERT INTO wide VALUES (1000, repeat('large ', 4000000), 'more than the queue holds')});
sql(q{INSERT INTO wide SELECT g, g, g FROM generate_series(2000, 60000) g});
applied('wide');
is(sql('SELECT count(*) FROM (TABLE wide EXCEPT ALL TABLE wide_copy) d'), 0, 'all rows are there');
is(sql('SELECT count(*) FROM wide_copy'), sql('SELECT count(*) FROM wide'), 'each once');
sql(q{SELECT etl_cdc_drop('wide')});

# --- partitions

sql(q{
	CREATE TABLE parts (k int PRIMARY KEY, v text, w int) PARTITION BY RANGE (k);
	CREATE TABLE low (junk int, w int, k int NOT NULL, v text);
	ALTER TABLE low DROP junk;
	ALTER TABLE parts ATTACH PARTITION low FOR VALUES FROM (0) TO (10);
	CREATE TABLE high PARTITION OF parts FOR VALUES FROM (10) TO (100) PARTITION BY RANGE (k);
	CREATE TABLE higher PARTITION OF high FOR VALUES FROM (10) TO (20);
	CREATE TABLE parts_copy (seq serial, k int, v text, w int);
});
create('parts', 'public.parts' => 'parts_copy');
sql(q{SELECT etl_cdc_start('parts')});
state_is('parts', 'running', 'a partitioned table is followed');
statements(
	"INSERT INTO parts VALUES (1, 'a', 10), (11, 'b', 20)",
	"INSERT INTO low VALUES (30, 2, 'c')",
	"INSERT INTO higher VALUES (12, 'd', 40)",
	"ALTER TABLE parts DETACH PARTITION low",
	"INSERT INTO low VALUES (50, 3, 'apart')",
	"ALTER TABLE parts ATTACH PARTITION low FOR VALUES FROM (0) TO (10)",
	"INSERT INTO low VALUES (60, 4, 'e')");
applied('parts');
is(rows("SELECT format('%s%s%s', k, v, w) FROM parts_copy ORDER BY seq"), '1a10 11b20 2c30 12d40 4e60', 'rows of partitions are rows of the table');
sql(q{SELECT etl_cdc_drop('parts')});

# --- updates, deletes, and what is known of the rows before

sql(q{
	CREATE TABLE kinds (id int PRIMARY KEY, v text, big text, code text NOT NULL UNIQUE);
	ALTER TABLE kinds ALTER big SET STORAGE external;
	CREATE TABLE no_key (v text);
	CREATE TABLE events (commit_lsn pg_lsn, ordinal bigint, op text, before jsonb, after jsonb);
});
sql("SELECT etl_cdc_create('kinds')");
sql("SELECT etl_cdc_add_table('kinds', 'public.$_', 'events', 'changelog')") for qw(kinds no_key);
sql("SELECT etl_cdc_start('kinds')");
state_is('kinds', 'running', 'a pipeline of all kinds of changes');

# What a list of statements gives; values of b's are shown by their length.
sub events
{
	my @statements = @_;

	sql('TRUNCATE events');
	statements(@statements);
	applied('kinds');
	my $rows = sql('SELECT op, before, after FROM events ORDER BY commit_lsn, ordinal');
	$rows =~ s/"big": "(b+)"/'"big": ' . length $1/ge;
	return "$rows\n";
}

is(events("INSERT INTO kinds VALUES (1, 'a', repeat('b', 5000), 'x')", "UPDATE kinds SET v = 'c'", 'UPDATE kinds SET id = 2',
		'DELETE FROM kinds'), <<'EOF', 'the key only, and no value that was not logged');
c||{"v": "a", "id": 1, "big": 5000, "code": "x"}
u||{"v": "c", "id": 1, "code": "x"}
u|{"id": 1}|{"v": "c", "id": 2, "code": "x"}
d|{"id": 2}|
EOF
is(events('ALTER TABLE kinds REPLICA IDENTITY FULL', "INSERT INTO kinds VALUES (1, 'a', repeat('b', 5000), 'x')",
		"UPDATE kinds SET v = 'c'", "UPDATE kinds SET big = 'b'", 'DELETE FROM kinds'), <<'EOF', 'whole rows');
c||{"v": "a", "id": 1, "big": 5000, "code": "x"}
u|{"v": "a", "id": 1, "big": 5000, "code": "x"}|{"v": "c", "id": 1, "big": 5000, "code": "x"}
u|{"v": "c", "id": 1, "big": 5000, "code": "x"}|{"v": "c", "id": 1, "big": 1, "code": "x"}
d|{"v": "c", "id": 1, "big": 1, "code": "x"}|
EOF
is(events('ALTER TABLE kinds REPLICA IDENTITY USING INDEX kinds_code_key', "INSERT INTO kinds VALUES (1, 'a', repeat('b', 5000), 'x')",
		'UPDATE kinds SET id = 2', "UPDATE kinds SET code = 'y'", 'DELETE FROM kinds'), <<'EOF', 'another key');
c||{"v": "a", "id": 1, "big": 5000, "code": "x"}
u||{"v": "a", "id": 2, "code": "x"}
u|{"code": "x"}|{"v": "a", "id": 2, "code": "y"}
d|{"code": "y"}|
EOF
is(events("INSERT INTO no_key VALUES ('a')", 'TRUNCATE no_key, kinds', 'ALTER TABLE no_key REPLICA IDENTITY FULL',
		"INSERT INTO no_key VALUES ('b')", 'ALTER TABLE no_key ADD w int DEFAULT 3', "UPDATE no_key SET v = 'c'",
		'ALTER TABLE no_key REPLICA IDENTITY NOTHING'), <<'EOF', 'no key, two tables as a whole, and a column that a row does not have yet');
c||{"v": "a"}
t||
t||
c||{"v": "b"}
u|{"v": "b", "w": 3}|{"v": "c", "w": 3}
EOF
sql(q{SELECT etl_cdc_drop('kinds')});

# --- rows that change without a change for each of them

sql(q{
	CREATE TABLE mirror (LIKE parts INCLUDING ALL);
	TRUNCATE parts;
});
sql("SELECT etl_cdc_create('obstacles')");
sql("SELECT etl_cdc_add_table('obstacles', 'public.parts', 'mirror')");
sql("SELECT etl_cdc_start('obstacles')");
state_is('obstacles', 'running', 'a pipeline');
statements("INSERT INTO parts VALUES (1, 'a', 1), (11, 'b', 2)", 'TRUNCATE higher', "INSERT INTO parts VALUES (12, 'c', 2)");
state_is('obstacles', 'paused', 'is paused by a partition that was truncated');
like(sql("SELECT error_message FROM etl_patterns.cdc_pipeline WHERE pipeline = 'obstacles'"), qr/a partition of table "parts" was truncated/, 'which it says');
is(sql('SELECT count(*) FROM mirror'), 2, 'and its rows stay');
sql("SELECT etl_cdc_resync('obstacles', 'public.parts')");
sql("SELECT etl_cdc_start('obstacles')");
applied('obstacles');
is(sql('SELECT count(*) FROM (TABLE parts EXCEPT ALL TABLE mirror) d'), 0, 'copied anew it is the same');
is(sql('SELECT count(*) FROM mirror'), 2, 'with no rows that are gone');
statements("BEGIN; ALTER TABLE parts ALTER w TYPE bigint USING w * 2; ROLLBACK", 'VACUUM FULL parts');
applied('obstacles');
sql('ALTER TABLE parts ALTER w TYPE bigint USING w * 2');
state_is('obstacles', 'paused', 'it is paused by a table that was rewritten');
like(sql("SELECT error_message FROM etl_patterns.cdc_pipeline WHERE pipeline = 'obstacles'"), qr/table "parts" was rewritten by ALTER TABLE/, 'which it says');
sql(q{SELECT etl_cdc_drop('obstacles')});

# --- commits that do not wait for the disk, and an idle source

$node->append_conf('postgresql.conf', "wal_writer_delay = 10s\n");
$node->reload;
sql("SET synchronous_commit = off; INSERT INTO source VALUES (30, 9, 'asynchronous')");
$server->until("SELECT count(*) = 1 FROM target WHERE id = 30", 'an asynchronous commit is read');
my $restart = sql("SELECT restart_lsn FROM pg_replication_slots");
for (1 .. 3)
{
	statements('INSERT INTO other SELECT generate_series(1, 100)', 'SELECT pg_switch_wal()', 'CHECKPOINT');
}
$server->until("SELECT restart_lsn > '$restart'::pg_lsn + 16 * 1024 * 1024 FROM pg_replication_slots",
	'the slot of an idle source moves on');

# --- whatever ends

my $pid = pid_of('etl_patterns cdc reader');
sql("SELECT pg_terminate_backend($pid)");
sql("INSERT INTO source VALUES (40, 1, 'without a reader')");
$server->until("SELECT count(*) = 1 FROM target WHERE id = 40", 'a reader that was terminated is replaced');
isnt(pid_of('etl_patterns cdc reader'), $pid, 'by another process');

$pid = pid_of('etl_patterns cdc reader');
Restart::kill_process($node, $pid);
$server->until("SELECT count(*) = 1 FROM pg_stat_activity WHERE $reader AND pid <> $pid", 'the server has come back');
sql("INSERT INTO source VALUES (41, 1, 'after a crash')");
$server->until("SELECT count(*) = 1 FROM target WHERE id = 41", 'and follows');

$node->restart;
sql("INSERT INTO source VALUES (42, 1, 'after a restart')");
$server->until("SELECT count(*) = 1 FROM target WHERE id = 42", 'as it does after a restart');
is(sql('SELECT count(*) FROM (SELECT id FROM source EXCEPT ALL SELECT id FROM target) d'), 0, 'nothing is missing');
is(sql('SELECT count(*) - count(DISTINCT id) FROM target'), 0, 'nothing came twice');

# --- slots that are lost

sql(q{SELECT etl_cdc_stop('first')});
$server->until("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'etl_patterns cdc%'", 'a pipeline that is stopped has no reader');
is(segments(), 0, 'and no shared memory');
$node->append_conf('postgresql.conf', "max_slot_wal_keep_size = 16MB\n");
$node->reload;
sql("INSERT INTO source VALUES (50, 1, 'lost')");
for (1 .. 4)
{
	statements('INSERT INTO other VALUES (1)', 'SELECT pg_switch_wal()');
}
sql('CHECKPOINT');
is(sql('SELECT wal_status FROM pg_replication_slots'), 'lost', 'the server has given up a slot');
sql(q{SELECT etl_cdc_start('first')});
state_is('first', 'lost', 'a pipeline whose slot is lost says so');
like(sql('SELECT error_message FROM etl_patterns.cdc_pipeline'), qr/has lost changes that were still needed/, 'and why');
like(sql('SELECT error_hint FROM etl_patterns.cdc_pipeline'), qr/etl_cdc_resync/, 'and the way out');
sql(q{DELETE FROM target; SELECT etl_cdc_resync('first')});
sql(q{SELECT etl_cdc_start('first')});
state_is('first', 'running', 'which is one');
sql("INSERT INTO source VALUES (51, 1, 'found')");
applied('first');
is(sql('SELECT count(*) FROM (SELECT id FROM source EXCEPT ALL SELECT id FROM target) d'), 0, 'all is there');

sql(q{SELECT etl_cdc_stop('first')});
$server->until("SELECT count(*) = 0 FROM pg_stat_activity WHERE $reader", 'stopped again');
sql('SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots');
sql(q{SELECT etl_cdc_start('first')});
state_is('first', 'lost', 'a slot that somebody has dropped is lost, too');
like(sql('SELECT error_message FROM etl_patterns.cdc_pipeline'), qr/does not exist any more/, 'which is said');
sql(q{SELECT etl_cdc_drop('first')});
is(slots(), 0, 'no slot is left');
$server->until("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'etl_patterns cdc%'", 'no process');
is(segments(), 0, 'and no shared memory');

my $log = slurp_file($node->logfile);
unlike($log, qr/TRAP|terminated by signal (?!9)/, 'no process has crashed');

done_testing();
