# Changes of another server, on which nothing is installed: what the target
# holds is what the source holds, whatever becomes of the connection.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Cdc;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Proxy;
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

my $server = Cdc::start('cdc_target');
my $node = $server->{node};
my ($host, $port) = ($source->host, $source->port);

sub there { return $source->safe_psql('shop', @_) }
sub here { return sql(@_) }

# The error of a statement here.
sub error_of
{
	my ($sql) = @_;
	my ($status, $stdout, $stderr) = $node->psql('postgres', $sql, on_error_stop => 1);

	return $status ? $stderr : "no error: $stdout";
}

# All rows of a query, sorted, there and here.
sub is_equal
{
	my ($query, $what, $query_here) = @_;
	my $order = q{SELECT count(*), md5(string_agg(x::text, '|' ORDER BY x::text COLLATE "C")) FROM (%s) x};

	return is(here(sprintf $order, $query_here // $query), there(sprintf $order, $query), $what);
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
}, '-T', 9, '-R', 150);

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
applied('shop');
is_equal("SELECT * FROM account", 'what was written beside copy and cuts is here');
is_equal("SELECT * FROM event", 'once');
is(left_there(), '1|1', 'it has a slot and a publication there');

here("SELECT etl_cdc_drop('shop')");
is(left_there(), '0|0', 'and leaves none');

# ---------------------------------------------------------------------------
# Kinds of values, of tables and of changes
# ---------------------------------------------------------------------------

my $types = q{
	CREATE TYPE mood AS ENUM ('sad', 'happy');
	CREATE TYPE pair AS (x int, y text);
	CREATE DOMAIN positive AS int CHECK (VALUE > 0);
};
my $kinds = q{
	CREATE TABLE kinds (id int PRIMARY KEY, b bool, f float8, n numeric, d date, tz timestamptz, iv interval, u uuid, t text, vc varchar(9),
		bc char(5), by bytea, jb jsonb, ia int[], ta text[], nr int4range, nmr int4multirange, m mood, ma mood[], p pair, pos positive,
		ip inet, bi bit(3), tv tsvector, "odd ""name" text %s);
	CREATE TABLE wide (id int PRIMARY KEY, a int, large text, other text);
	CREATE TABLE whole (a int, b text, large text);
	CREATE TABLE parted (id int PRIMARY KEY, v text) %s;
};
there($types . sprintf($kinds, ', doubled int GENERATED ALWAYS AS (id * 2) STORED', 'PARTITION BY RANGE (id)') . q{
	ALTER TABLE whole REPLICA IDENTITY FULL;
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
	CREATE TABLE parted_2 (v text, gone int, id int NOT NULL);
	ALTER TABLE parted_2 DROP COLUMN gone;
	ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES FROM (100) TO (200);
	CREATE FUNCTION fill(i int) RETURNS void LANGUAGE sql AS $$
		INSERT INTO kinds VALUES (i, true, '-infinity', 'NaN', '2024-02-29', '2024-01-01 10:00:00.5+05', '1 mon -2 days 3.5 s',
			'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'grüße', 'vc', 'ab', '\x00ff', '{"b": [1, "ü"]}', '{{1,2},{3,NULL}}', '{a,NULL,"b ü"}',
			'[1,5)', '{[1,3),[5,7)}', 'happy', '{sad,happy}', '(1,"a b")', 5, '10.1.2.3/8', B'101', 'a:1 b:2', 'odd');
		INSERT INTO kinds (id) VALUES (i + 1) $$;
	CREATE FUNCTION large(seed text) RETURNS text LANGUAGE sql AS $$
		SELECT string_agg(md5(seed || i), '') FROM generate_series(1, 500) i $$;
	SELECT fill(1);
	INSERT INTO wide VALUES (1, 1, large('1'), large('x')), (2, 2, large('2'), 'short');
	INSERT INTO whole VALUES (1, 'same', large('3')), (1, 'same', large('3'));
	INSERT INTO parted SELECT i, 'old' FROM generate_series(10, 190, 20) i;
});
here($types . sprintf($kinds, '', ''));
my @kinds = ('kinds', 'wide', 'whole', 'parted');
here("SELECT etl_cdc_create('kinds', 'shop')");
here("SELECT etl_cdc_add_table('kinds', 'public.$_', '$_')") foreach @kinds;
here("SELECT etl_cdc_start('kinds')");

sub kinds_are_equal
{
	my ($what) = @_;

	applied('kinds');
	is_equal('SELECT id, b, f, n, d, tz, iv, u, t, vc, bc, by, jb, ia, ta, nr, nmr, m, ma, p, pos, ip, bi, tv, "odd ""name" FROM kinds', "$what: kinds");
	is_equal("SELECT * FROM $_", "$what: $_") foreach 'wide', 'whole', 'parted';
	return;
}
kinds_are_equal('copy');
there(q{
	SELECT fill(3);
	UPDATE kinds SET m = 'sad', ma = '{}', p = NULL, t = '' WHERE id = 1;
	UPDATE wide SET a = a + 10;
	UPDATE wide SET id = 5, other = 'moved' WHERE id = 1;
	UPDATE whole SET b = 'changed' WHERE ctid = (SELECT min(ctid) FROM whole);
	INSERT INTO parted VALUES (1, 'new'), (101, 'new');
	UPDATE parted SET v = 'u' || id;
	UPDATE parted SET id = id + 65 WHERE id IN (70, 90);
	DELETE FROM parted WHERE id = 110;
	DELETE FROM kinds WHERE id = 2;
	BEGIN; INSERT INTO wide VALUES (50, 1); SAVEPOINT s; INSERT INTO wide VALUES (51, 1); ROLLBACK TO s; COMMIT;
	BEGIN; INSERT INTO wide VALUES (52, 1); ROLLBACK;
});
kinds_are_equal('changes');
there(q{TRUNCATE wide, parted; INSERT INTO wide VALUES (7, 7, large('7'), NULL)});
kinds_are_equal('truncate');

# the source changes
here('ALTER TABLE wide ADD added text');
there(q{ALTER TABLE wide ADD added mood; INSERT INTO wide VALUES (8, 8, 'x', 'y', 'happy'); UPDATE wide SET a = 0 WHERE id = 7});
kinds_are_equal('a new column');
here('ALTER TABLE wide DROP other');
there(q{ALTER TABLE wide DROP other; ALTER TABLE wide ALTER a TYPE bigint; INSERT INTO wide VALUES (9, 9, 'z', 'sad')});
kinds_are_equal('a column less, and another type');

# a table more, beside a transaction that is open and has written to it
there('CREATE TABLE later (id int PRIMARY KEY, v text)');
here('CREATE TABLE later (id int PRIMARY KEY, v text)');
my $open = $source->background_psql('shop');
$open->query_safe("BEGIN; INSERT INTO later VALUES (1, 'before')");
here("SELECT etl_cdc_add_table('kinds', 'public.later', 'later')");
$server->until("SELECT state = 'copying' FROM etl_patterns.cdc_pipeline WHERE pipeline = 'kinds'", 'a new table is copied');
there("INSERT INTO later VALUES (3, 'beside')");
$open->query_safe("INSERT INTO later VALUES (2, 'while'); COMMIT");
$open->quit;
applied('kinds');
is_equal('SELECT * FROM later', 'what was open when it was added is here');

# a table that refers to one that is followed, while both are written
my $pairs = 'CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent)';
there("$pairs; CREATE SEQUENCE pair_id START 1000; INSERT INTO parent SELECT generate_series(1, 50); INSERT INTO child SELECT i, i FROM generate_series(1, 50) i");
here("$pairs; SELECT etl_cdc_add_table('kinds', 'public.parent', 'parent')");
applied('kinds');
my $pair_writers = start_writers(q{
	select nextval('pair_id') as i \gset
	begin; insert into parent values (:i); insert into child values (:i, :i); end;
	begin; delete from child where parent = :i - 5; delete from parent where id = :i - 5; end;
}, '-T', 4);
usleep(1_000_000);
here("SELECT etl_cdc_add_table('kinds', 'public.child', 'child')");
applied('kinds', 'a table that refers to one that is followed is added');
$pair_writers->finish;
applied('kinds');
is_equal("SELECT * FROM $_", "$_ is the same") foreach 'parent', 'child';
ok(slurp_file($node->logfile) !~ /etl_patterns cdc ERROR: .*foreign key/, 'no row came before what it refers to');
here("SELECT etl_cdc_remove_table('kinds', 'public.child'), etl_cdc_remove_table('kinds', 'public.parent')");

# ---------------------------------------------------------------------------
# The server goes, and comes back
# ---------------------------------------------------------------------------

$source->stop('fast');
$server->until(q{SELECT error_code ~ '^08' FROM etl_patterns.cdc_pipeline WHERE pipeline = 'kinds'}, 'a server that is away is missed');
usleep(1_500_000);
is(here(q{SELECT state IN ('starting', 'running'), error_code ~ '^08' FROM etl_patterns.cdc_pipeline WHERE pipeline = 'kinds'}), 't|t',
	'without its server a pipeline tries again');
$source->start;
there(q{INSERT INTO wide VALUES (20, 20)});
kinds_are_equal('after a while');
$source->restart;
there(q{INSERT INTO wide VALUES (21, 21)});
kinds_are_equal('after a restart');

# a transaction that takes longer to apply than the server waits
my $sender = there('SELECT pid FROM pg_stat_replication');
my $blocker = IPC::Run::start([ 'psql', '-X', '-d', $node->connstr('postgres'), '-c', 'BEGIN; LOCK TABLE wide; SELECT pg_sleep(9)' ],
	'>', \my $blocker_out, '2>', \my $blocker_err);
$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'") or die 'nobody blocks';
there(q{INSERT INTO wide SELECT i, i, repeat('x', 100) FROM generate_series(1000, 200000) i});
$blocker->finish;
applied('kinds');
is_equal('SELECT count(*), sum(a) FROM wide', 'a large transaction, though nothing was taken for a while');
is(there('SELECT pid FROM pg_stat_replication'), $sender, 'over the same connection');
there('DELETE FROM wide WHERE id >= 1000');
kinds_are_equal('a large delete');

# a slot follows what is of no interest, too
there('CREATE TABLE other AS SELECT i FROM generate_series(1, 100000) i');
my $position = there('SELECT pg_current_wal_lsn()');
ok( $source->poll_query_until('shop', "SELECT confirmed_flush_lsn >= '$position' FROM pg_replication_slots"),
	'the slot moves on past other tables');

# what the pipeline needs is gone
here("SELECT etl_cdc_stop('kinds')");
$source->poll_query_until('shop', 'SELECT count(*) = 0 FROM pg_replication_slots WHERE active') or die 'the slot is still in use';
there('SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots');
here("SELECT etl_cdc_start('kinds')");
state_is('kinds', 'lost');
like(here("SELECT error_message FROM etl_patterns.cdc_pipeline WHERE pipeline = 'kinds'"), qr/does not exist on server "shop" any more/,
	'a slot that is gone is lost');
there("INSERT INTO wide VALUES (30, 30); DELETE FROM wide WHERE id = 20");
here("SELECT etl_cdc_resync('kinds')");
state_is('kinds', 'running');
kinds_are_equal('resync');
here("SELECT etl_cdc_stop('kinds')");
there('DROP PUBLICATION "' . there("SELECT pubname FROM pg_publication") . '"');
here("SELECT etl_cdc_start('kinds')");
state_is('kinds', 'lost');
here("SELECT etl_cdc_resync('kinds')");
state_is('kinds', 'running');
kinds_are_equal('resync without a publication');
here("SELECT etl_cdc_drop('kinds')");
is(left_there(), '0|0', 'dropped');

# ---------------------------------------------------------------------------
# Who may
# ---------------------------------------------------------------------------

there(qq{
	CREATE ROLE joe LOGIN REPLICATION PASSWORD '$password';
	CREATE ROLE reader LOGIN REPLICATION PASSWORD '$password';
	CREATE ROLE plain LOGIN PASSWORD '$password';
	CREATE TABLE mine (id int PRIMARY KEY, v text);
	CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY LIST (id);
	CREATE TABLE parts_1 PARTITION OF parts DEFAULT;
	ALTER TABLE mine OWNER TO joe;
	ALTER TABLE parts OWNER TO joe;
	GRANT CREATE ON DATABASE shop TO joe;
	GRANT SELECT ON mine, parts TO reader, plain;
	INSERT INTO mine VALUES (1, 'old');
});
here(q{
	CREATE ROLE alice LOGIN;
	CREATE TABLE mine (id int PRIMARY KEY, v text);
	CREATE TABLE parts (id int PRIMARY KEY, v text);
	ALTER TABLE mine OWNER TO alice;
	ALTER TABLE parts OWNER TO alice;
	GRANT USAGE ON FOREIGN SERVER shop TO alice;
	CREATE USER MAPPING FOR alice SERVER shop OPTIONS (user 'reader');
	SET ROLE alice;
	SELECT etl_cdc_create('alice', 'shop');
});

sub mapping
{
	my ($user) = @_;

	here("DROP USER MAPPING FOR alice SERVER shop; CREATE USER MAPPING FOR alice SERVER shop OPTIONS (user '$user', password '$password')");
	return;
}

sub as_alice { return error_of("SET ROLE alice; $_[0]") }

my $add = "SELECT etl_cdc_add_table('alice', 'public.mine', 'mine'); SELECT etl_cdc_add_table('alice', 'public.parts', 'parts')";
my $start = "SELECT etl_cdc_start('alice')";
like(as_alice($add), qr/password is required/, 'a role needs a password of its own');
mapping('postgres');
like(as_alice($add), qr/password is required.*without asking/s, 'and that server must ask for it');
mapping('plain');
like(as_alice($add), qr/no error/, 'who may read may be asked');
like(as_alice($start), qr/Role "plain" of that server has no REPLICATION privilege/, 'but must replicate');
mapping('reader');
like(as_alice($start), qr/there is no publication "etl_patterns".*CREATE PUBLICATION etl_patterns FOR TABLE public.mine, public.parts WITH \(publish_via_partition_root = true\);/s,
	'without a publication, the command');
there('CREATE PUBLICATION etl_patterns FOR TABLE mine');
like(as_alice($start), qr/does not have table public.parts.*ALTER PUBLICATION etl_patterns ADD TABLE public.parts;/s, 'without a table, too');
there('DROP PUBLICATION etl_patterns; CREATE PUBLICATION etl_patterns FOR ALL TABLES');
like(as_alice($start), qr/does not have table public.parts/, 'or with its partitions');
there(q{ALTER PUBLICATION etl_patterns SET (publish_via_partition_root = true, publish = 'insert')});
like(as_alice($start), qr/does not have all changes/, 'or with less than all');
there(q{ALTER PUBLICATION etl_patterns SET (publish = 'insert, update, delete, truncate'); ALTER TABLE parts_1 REPLICA IDENTITY FULL});
like(as_alice($start), qr/partition public.parts_1 .*has another replica identity/, 'identities of partitions must be alike');
there('ALTER TABLE parts_1 REPLICA IDENTITY DEFAULT');
like(as_alice($start), qr/no error/, 'with all that it runs');
there(q{INSERT INTO parts VALUES (1, 'a'), (2, 'b'); UPDATE parts SET v = 'c' WHERE id = 2; UPDATE mine SET v = 'new'; INSERT INTO wide VALUES (60, 60)});
applied('alice');
is_equal("SELECT * FROM $_", "$_ by a publication of all") foreach 'mine', 'parts';
here("SELECT etl_cdc_stop('alice')");
there('DROP PUBLICATION etl_patterns');
here("SELECT etl_cdc_start('alice')");
state_is('alice', 'lost');
mapping('joe');
here("TRUNCATE parts; SELECT etl_cdc_resync('alice')");
state_is('alice', 'running');
applied('alice');
is_equal("SELECT * FROM $_", "$_ by one of its own") foreach 'mine', 'parts';
is(there('SELECT pg_get_userbyid(pubowner) FROM pg_publication'), 'joe', 'that the owner of the tables has made');
there('ALTER ROLE joe NOREPLICATION; SELECT pg_terminate_backend(pid) FROM pg_stat_replication');
$server->until("SELECT error_message ~ 'replication|WAL sender' AND state IN ('starting', 'running') FROM etl_patterns.cdc_pipeline WHERE pipeline = 'alice'",
	'a right that is taken away is missed');
there('ALTER ROLE joe REPLICATION');
here("REVOKE USAGE ON FOREIGN SERVER shop FROM alice");
$server->until("SELECT error_message ~ 'permission denied for foreign server' FROM etl_patterns.cdc_pipeline WHERE pipeline = 'alice'",
	'so is one here');
here("GRANT USAGE ON FOREIGN SERVER shop TO alice");
like(as_alice("SELECT etl_cdc_drop('alice')"), qr/no error/, 'and can drop');
is(left_there(), '0|0', 'with all that it has made');

here(qq{SELECT etl_cdc_create('never', 'shop'); SELECT etl_cdc_add_table('never', 'public.wide', 'wide')});

# ---------------------------------------------------------------------------
# A server that sends nonsense
# ---------------------------------------------------------------------------

my $proxy = Proxy->new($host, $port);
here("CREATE SERVER liar FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$proxy->{host}', port '$proxy->{port}', dbname 'shop');
	CREATE USER MAPPING FOR CURRENT_USER SERVER liar;
	TRUNCATE mine; SELECT etl_cdc_create('lies', 'liar'); SELECT etl_cdc_add_table('lies', 'public.mine', 'mine'); SELECT etl_cdc_start('lies')");
applied('lies');
here("SELECT etl_cdc_stop('lies')");
my $changes = "BEGIN; TRUNCATE mine; INSERT INTO mine VALUES (1, repeat('a', 50)), (2, 'b'); UPDATE mine SET id = 3 WHERE id = 2; DELETE FROM mine WHERE id = 1; COMMIT";
there($changes);
my %nonsense = (
	'cut off' => 'substr($_[0], 0, 26 + int((length($_[0]) - 26) / 2))',
	'cut off at the end' => 'substr($_[0], 0, -1)',
	'empty' => 'substr($_[0], 0, 25)',
	'overwritten' => 'substr($_[0], 0, 26) . ("\xff" x (length($_[0]) - 26))',
	'too long' => 'substr($_[0], 0, -4) . "\x7f\xff\xff\xff"',
	'with zeros' => 'substr($_[0], 0, 30) . ("\0" x (length($_[0]) - 30))');
foreach my $kind (split //, 'BRTIUDC')
{
	foreach my $how (sort keys %nonsense)
	{
		# a number or a time like any other
		next if $how eq 'too long' && $kind =~ /[BRC]/;
		$proxy->rule("sub { my (\$type, \$body) = \@_; my \$f = sub { $nonsense{$how} };
			\$body = \$f->(\$body) if \$type eq 'd' && substr(\$body, 0, 1) eq 'w' && substr(\$body, 25, 1) eq '$kind';
			return message(\$type, \$body) }");
		here("SELECT etl_cdc_start('lies')");
		$node->poll_query_until('postgres', "SELECT error_code IS NOT NULL FROM etl_patterns.cdc_pipeline WHERE pipeline = 'lies'")
		  or die "a message $kind that is $how is taken";
		like(here("SELECT error_code FROM etl_patterns.cdc_pipeline WHERE pipeline = 'lies'"), qr/^(08P01|22)/,
			"a message $kind that is $how is refused");
		here("SELECT etl_cdc_stop('lies')");
	}
}
$proxy->rule('sub { return message(@_[ 0, 1 ]) }');
here("SELECT etl_cdc_start('lies')");
applied('lies');
is_equal('SELECT * FROM mine', 'and the truth is applied');
here("SELECT etl_cdc_drop('lies'); SELECT etl_cdc_drop('never')");
is(left_there(), '0|0', 'nothing is left');
$proxy->stop;
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|was left open/, 'no process has crashed');

done_testing();
