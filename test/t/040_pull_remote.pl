# Pulls from foreign tables of postgres_fdw: another database of the same
# server, read over a connection of its own.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = PostgreSQL::Test::Cluster->new('remote');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', "shared_buffers = 8MB\n");
my $hba = slurp_file($node->data_dir . '/pg_hba.conf');
open my $file, '>', $node->data_dir . '/pg_hba.conf' or die;
print $file "local far far_joe scram-sha-256\n", $hba;
close $file;
$node->start;

my ($host, $port) = ($node->host, $node->port);

sub near { return $node->safe_psql('postgres', @_) }
sub far { return $node->safe_psql('far', @_) }

# The error of a statement.
sub error_of
{
	my ($sql) = @_;
	my ($status, $stdout, $stderr) =
	  $node->psql('postgres', $sql, on_error_stop => 1);
	return $status ? $stderr : "no error: $stdout";
}

sub wait_until
{
	my ($sql, $what) = @_;
	$node->poll_query_until('postgres', $sql) or die "timed out: $what";
}

my $connections = q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pull'};

$node->safe_psql('postgres', 'CREATE DATABASE far');
my $types = q{
	CREATE TYPE mood AS ENUM ('sad', 'happy');
	CREATE TYPE pair AS (x int, y text);
	CREATE DOMAIN positive AS int CHECK (VALUE > 0);
};
far($types . q{
	CREATE SCHEMA shop;
	CREATE TABLE shop."All Types" (id int, gone text, b bool, i2 int2, i8 int8, f4 float4, f8 float8,
		n numeric, n2 numeric(10, 2), d date, ts timestamp, tz timestamptz, tz3 timestamptz(3), u uuid,
		t text, vc varchar(20), bc char(5), by bytea, tm time, ttz timetz, iv interval, js json, jb jsonb,
		ip inet, mac macaddr, ia int[], ta text[], na numeric[], nr int4range, nmr int4multirange, bi bit(3),
		pt point, tv tsvector, lsn pg_lsn, nm name, ch "char", ov oidvector, rc regclass, mo money, x xml,
		m mood, ma mood[], p pair, pos positive, "odd ""name" text, wide int);
	ALTER TABLE shop."All Types" DROP COLUMN gone;
	INSERT INTO shop."All Types" VALUES
		(1, true, -2, -8, 1.5, '-infinity', 12345678901234567890.123456789, -12.50, '2024-02-29',
		'2024-01-01 10:00:00.123456', '2024-01-01 10:00:00.5+05', '2024-01-01 10:00:00.123+00',
		'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'grüße', 'vc', 'ab', '\x00ff', '10:00:01.5', '10:00+03',
		'1 mon 2 days 3.5 s', '{"a": "ü"}', '{"b": [1, "ü"]}', '10.1.2.3/8', '08:00:2b:01:02:03',
		'{{1,2},{3,NULL}}', '{a,NULL,"b ü"}', '{1.5,NaN}', '[1,5)', '{[1,3),[5,7)}', B'101', '(1,2)', 'a:1 b:2', '1/2',
		'name', 'q', '1 2', 'pg_class', 12.5, '<a>ü</a>', 'happy', '{sad,happy}', '(1,"a b")', 5, 'odd', 77);
	INSERT INTO shop."All Types" (id, b, i2, i8, f4, f8, n, n2, d, ts, tz, t, vc, bc, by, ia, ta, nr, nmr, "odd ""name", wide)
		VALUES (2, false, 32767, 9223372036854775807, 'NaN', 1e300, 'NaN', 0, 'infinity', '-infinity', 'infinity',
		repeat('x', 126), repeat('y', 20), '', decode(repeat('ab', 127), 'hex'), '{}', '{}', 'empty', '{}',
		repeat('ü', 500000), -1);
	INSERT INTO shop."All Types" (id) VALUES (3);
	-- strings around the length that a short header can tell, numerics around what the short form can
	INSERT INTO shop."All Types" (id, t, by) SELECT 100 + i, repeat('z', i), decode(repeat('00', i), 'hex')
		FROM generate_series(120, 130) i;
	INSERT INTO shop."All Types" (id, n) SELECT 1000 + row_number() OVER (), v FROM unnest(ARRAY[0, 0.00, 1, -1,
		0.0001, 10000, 99999999, 1e-10, 0.1, -0.5, 12.3400, 100000.00001, 1e7, 1234.5678, 0.00001234, 5000, 123.4,
		1e300, 1e-300, 'Infinity', '-Infinity', 1e200 + 1, 10::numeric ^ 255, 1.5::numeric(100, 70),
		repeat('9', 240)::numeric, repeat('9', 60)::numeric + 1e-62, -1e-63, 1e-64]::numeric[]) v;
	-- every count of digits, both signs
	INSERT INTO shop."All Types" (id, n) SELECT 2000 + i, (CASE i % 2 WHEN 0 THEN -1 ELSE 1 END)
		* repeat('123456789', i % 31)::numeric / 10::numeric ^ (i / 3) FROM generate_series(1, 300) i WHERE i % 31 > 0;
});
near($types . qq{
	CREATE EXTENSION etl_patterns;
	CREATE EXTENSION postgres_fdw;
	CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'far', application_name 'pull');
	CREATE USER MAPPING FOR CURRENT_USER SERVER far;
	CREATE FOREIGN TABLE all_types (dropped int, id int, b bool, i2 int2, i8 int8, f4 float4, f8 float8,
		n numeric, n2 numeric(10, 2), d date, ts timestamp, tz timestamptz, tz3 timestamptz(3), u uuid,
		t text, vc varchar(20), bc char(5), by bytea, tm time, ttz timetz, iv interval, js json, jb jsonb,
		ip inet, mac macaddr, ia int[], ta text[], na numeric[], nr int4range, nmr int4multirange, bi bit(3),
		pt point, tv tsvector, lsn pg_lsn, nm name, ch "char", ov oidvector, rc regclass, mo money, x xml,
		m mood, ma mood[], p pair, pos positive, renamed text OPTIONS (column_name 'odd "name'), wide bigint)
		SERVER far OPTIONS (schema_name 'shop', table_name 'All Types');
	ALTER FOREIGN TABLE all_types DROP COLUMN dropped;
});

# ---------------------------------------------------------------------------
# Values: as the wrapper brings them, and stored likewise
# ---------------------------------------------------------------------------

my $as_text = near(q{SELECT string_agg(format('%I::text', attname), ', ') FROM pg_attribute
	WHERE attrelid = 'all_types'::regclass AND attnum > 0 AND NOT attisdropped});
foreach my $encoding ('UTF8', 'LATIN1', 'SQL_ASCII')
{
	near("CREATE TABLE via_wrapper AS TABLE all_types; CREATE TABLE via_pull (LIKE via_wrapper)");
	is( near(qq{SET client_encoding = '$encoding';
			SELECT rows_read, rows_inserted FROM etl_incremental_pull('types $encoding', 'all_types', 'via_pull', 'id')}),
		near("SELECT count(*), count(*) FROM via_wrapper"),
		"all rows come, to a client that speaks $encoding");
	is( near(qq{SELECT id FROM ((SELECT $as_text FROM via_pull EXCEPT ALL SELECT $as_text FROM via_wrapper)
			UNION ALL (SELECT $as_text FROM via_wrapper EXCEPT ALL SELECT $as_text FROM via_pull)) x}),
		'', 'with the same values');
	is( near(qq{SELECT count(*) FROM via_pull p JOIN via_wrapper w USING (id)
			WHERE pg_column_size(p.n) <> pg_column_size(w.n) OR numeric_send(p.n) <> numeric_send(w.n)
			OR pg_column_size(p.t) <> pg_column_size(w.t) OR p.n <> w.n OR p.n + 1 <> w.n + 1}),
		0, 'that are stored in the same way');
	near("DROP TABLE via_wrapper, via_pull");
}
is(near("SELECT DISTINCT detail->>'site', status FROM etl_patterns.run"), 'remote|succeeded', 'over a connection of its own');

# ---------------------------------------------------------------------------
# Columns that are declared differently here and there
# ---------------------------------------------------------------------------

far(q{
	CREATE TABLE strict (id int, v varchar(20), n numeric, c char(6), tz timestamptz, i int8, bits varbit, t text);
	INSERT INTO strict VALUES (1, '0123456789', 1.2567, 'abc', '2024-01-01 10:00:00.126Z', 5, B'101', 'yy    ');
});

# Pulls a table with the given columns; returns what is in the target.
my $n_tables = 0;
sub pull_as
{
	my ($columns, $source, $show) = @_;
	my $table = 'declared' . ++$n_tables;
	near("CREATE FOREIGN TABLE $table (id int, $columns) SERVER far OPTIONS (schema_name 'public', table_name '$source')");
	near("CREATE TABLE ${table}_here (LIKE $table)");
	my ($status, $stdout, $stderr) = $node->psql('postgres',
		"SELECT etl_incremental_pull('$table', '$table', '${table}_here', 'id')");
	return $stderr if $status;
	return near("SET timezone = 'UTC'; SELECT $show FROM ${table}_here");
}

is(pull_as('n numeric(4, 2), tz timestamptz(2), i int4, bits varbit(3)', 'strict', 'n, tz, i, bits'),
	'1.26|2024-01-01 10:00:00.13+00|5|101', 'values are rounded to what is declared');
is(pull_as(q{c text, t varchar(2), v char(12)}, 'strict', q{'<' || c || '>', '<' || t || '>', octet_length(v)}),
	'<abc   >|<yy>|12', 'blanks stay where a type keeps them');
like(pull_as('v varchar(5)', 'strict'), qr/value too long for type character varying\(5\).*column "v" of foreign table/s,
	'a value that does not fit is an error');
like(pull_as('n numeric(2, 2)', 'strict'), qr/numeric field overflow/, 'so is a number');
like(pull_as('bits varbit(2)', 'strict'), qr/bit string too long/, 'and a bit string');
like(pull_as('t int', 'strict'), qr/invalid input syntax for type integer: "yy    "/, 'and one of another type');
near("CREATE DOMAIN filled AS text NOT NULL CHECK (VALUE <> 'yy    ')");
like(pull_as('t filled', 'strict'), qr/violates check constraint/, 'a domain here is checked');
far("UPDATE strict SET t = NULL");
like(pull_as('t filled', 'strict'), qr/does not allow null values/, 'with NULL, too');
like(pull_as('missing int, "Missing2" int, v varchar(20)', 'strict'),
	qr/relation public.strict on server "far" has no column "missing", "Missing2"/, 'columns that are not there are named');
like(pull_as('v int', 'nowhere'), qr/relation public.nowhere does not exist on server "far"/, 'and so is the table');

# ---------------------------------------------------------------------------
# Whose rights
# ---------------------------------------------------------------------------

far(q{
	CREATE ROLE far_joe LOGIN PASSWORD 'secret';
	CREATE TABLE orders (id bigint PRIMARY KEY, name text, at timestamptz DEFAULT now());
	INSERT INTO orders SELECT i, 'order ' || i FROM generate_series(1, 1000) i;
	ALTER ROLE far_joe SET datestyle = 'German';
	ALTER ROLE far_joe SET timezone = 'Asia/Tokyo';
});
near(q{
	CREATE FOREIGN TABLE orders (id bigint, name text, at timestamptz) SERVER far OPTIONS (schema_name 'public');
	CREATE TABLE copied (id bigint PRIMARY KEY, name text, at timestamptz);
	CREATE ROLE joe;
	GRANT USAGE ON FOREIGN SERVER far TO joe;
	GRANT ALL ON copied TO joe;
	GRANT CREATE ON SCHEMA public TO joe;
});
my $pull = q{SELECT rows_inserted FROM etl_incremental_pull('joe', 'orders', 'copied', 'id')};
my $as_joe = 'SET ROLE joe;';

like(error_of("$as_joe $pull"), qr/user mapping not found|permission denied for foreign table orders/, 'no rights here');
near("CREATE USER MAPPING FOR joe SERVER far OPTIONS (user 'far_joe')");
like(error_of("$as_joe $pull"), qr/permission denied for foreign table orders/, 'a user mapping does not change that');
near("GRANT SELECT ON orders TO joe");
like(error_of("$as_joe $pull"), qr/password is required/, 'without a password no connection');
near("ALTER USER MAPPING FOR joe SERVER far OPTIONS (ADD password 'wrong secret')");
my $error = error_of("$as_joe $pull");
like($error, qr/could not connect to server "far".*password authentication failed/s, 'nor with a wrong one');
unlike($error, qr/wrong secret/, 'which is not shown');
near("ALTER USER MAPPING FOR joe SERVER far OPTIONS (SET password 'secret')");
$error = error_of("$as_joe \\set VERBOSITY verbose\n$pull");
like($error, qr/42501: permission denied for table orders.*remote server "far"/s, 'an error of the server with its code');
far("GRANT SELECT ON orders TO far_joe");
is(near("$as_joe $pull"), 1000, 'with rights on both sides it works');
is( near(q{SET ROLE joe; SET timezone = 'UTC'; SELECT watermark_high = (SELECT max(at)::text FROM copied) FROM
		etl_incremental_pull('joe, by time', 'orders', 'copied', 'at', '{id}', lag => '0')}),
	't', 'settings of the role there do not matter');

far("CREATE ROLE far_trusted LOGIN; GRANT SELECT ON orders TO far_trusted");
near("ALTER USER MAPPING FOR joe SERVER far OPTIONS (SET user 'far_trusted')");
like(error_of("$as_joe $pull"), qr/password is required.*without asking for the password/s,
	'a password that was not asked for is none');
like(error_of("$as_joe ALTER USER MAPPING FOR joe SERVER far OPTIONS (ADD password_required 'false')"),
	qr/superuser/, 'the caller cannot change that');
near("ALTER USER MAPPING FOR joe SERVER far OPTIONS (ADD password_required 'false')");
is(near("$as_joe $pull"), 0, 'a superuser can');

near("REVOKE SELECT ON orders FROM joe; GRANT SELECT (id, name) ON orders TO joe");
like(error_of("$as_joe SELECT etl_incremental_pull('joe2', 'orders', 'copied', 'id', '{id}')"),
	qr/permission denied/, 'each column counts');
near("CREATE TABLE names (name text); GRANT ALL ON names TO joe; REVOKE SELECT (id) ON orders FROM joe");
like(error_of("$as_joe SELECT etl_incremental_pull('joe3', 'orders', 'names', 'id', apply_options => '{\"columns\": [\"name\"]}')"),
	qr/permission denied for foreign table orders/, 'that of the cursor, too');

# ---------------------------------------------------------------------------
# What the server there knows of the cursor
# ---------------------------------------------------------------------------

far("CREATE SEQUENCE cached CACHE 10; CREATE TABLE numbered (\"Far No\" bigint DEFAULT nextval('cached'))");
near(q{
	CREATE FOREIGN TABLE numbered (no bigint OPTIONS (column_name 'Far No')) SERVER far OPTIONS (schema_name 'public');
	CREATE TABLE numbers (no bigint);
});
like(error_of("SELECT etl_incremental_pull('numbers', 'numbered', 'numbers', 'no')"),
	qr/sequence public.cached does not hand out values in increasing order.*CACHE 1/s,
	'a sequence there that hands out values in another order');

# ---------------------------------------------------------------------------
# Applied by a merge; a foreign table with children
# ---------------------------------------------------------------------------

far("UPDATE orders SET name = 'changed', at = now() WHERE id <= 10; INSERT INTO orders VALUES (2000, 'new')");
is( near(q{SELECT rows_read, rows_inserted, rows_updated, rows_unchanged
		FROM etl_incremental_pull('merged', 'orders', 'copied', 'id', '{id}', apply => 'upsert')}),
	'1001|1|10|990', 'rows from there are merged');
is(near("SELECT count(*) FROM (TABLE orders EXCEPT TABLE copied) x"), 0, 'and are equal');
near(q{
	CREATE FOREIGN TABLE parent (id bigint, name text) SERVER far OPTIONS (schema_name 'public', table_name 'orders');
	CREATE TABLE child () INHERITS (parent);
	INSERT INTO child VALUES (5000, 'child');
	CREATE TABLE family (id bigint, name text);
});
is(near("SELECT rows_read FROM etl_incremental_pull('family', 'parent', 'family', 'id', safety => 'none')"), 1002,
	'rows of children are read, too');

# ---------------------------------------------------------------------------
# Ends in the middle
# ---------------------------------------------------------------------------

# After 20,000 rows the server there waits for a lock that we hold.
far(q{
	CREATE FUNCTION wait_at(i bigint) RETURNS bigint STABLE LANGUAGE plpgsql AS $$
	BEGIN
		IF i = 20000 THEN PERFORM pg_advisory_xact_lock_shared(42); END IF;
		RETURN i;
	END $$;
	CREATE VIEW slow AS SELECT i AS id, repeat('x', 100) AS pad, wait_at(i) AS waited FROM generate_series(1, 30000::bigint) i;
	CREATE VIEW broken AS SELECT i AS id, 1 / (20000 - i) AS inverse FROM generate_series(1, 30000::bigint) i;
});
near(q{
	CREATE FOREIGN TABLE slow (id bigint, pad text, waited bigint) SERVER far OPTIONS (schema_name 'public');
	CREATE FOREIGN TABLE broken (id bigint, inverse bigint) SERVER far OPTIONS (schema_name 'public');
	CREATE TABLE slow_here (id bigint, pad text, waited bigint);
	CREATE TABLE broken_here (id bigint, inverse bigint);
});
my $slow_pull = q{SELECT rows_read FROM etl_incremental_pull('slow', 'slow', 'slow_here', 'id', safety => 'none')};
my $stuck = q{SELECT count(*) = 1 FROM pg_stat_activity
	WHERE application_name = 'pull' AND wait_event = 'advisory'};
my $holder = $node->background_psql('far');
$holder->query_safe('SELECT pg_advisory_lock(42)');

sub nothing_is_left
{
	my ($what) = @_;
	wait_until("SELECT ($connections) = 0", "the connection's end after $what");
	is( near(q{SELECT count(*), (SELECT count(*) FROM etl_patterns.run WHERE name = 'slow'),
			(SELECT count(*) FROM etl_patterns.watermark WHERE pipeline = 'slow') FROM slow_here}),
		'0|0|0', "$what: no row, run or watermark, and no query there goes on");
}

# Starts a pull in a session of its own, waits until it is in the middle, ends
# it with a statement, and returns its error.
sub end_in_the_middle
{
	my ($end) = @_;
	my ($out, $err) = ('', '');
	my $session = IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $node->connstr('postgres'), '-c', $slow_pull ],
		'>', \$out, '2>', \$err);
	wait_until($stuck, 'the server there to be in the middle');
	near($end);
	$session->finish;
	return $err;
}

like(end_in_the_middle(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pull'}),
	qr/08006: connection to server "far" was lost.*terminating connection/s, 'the connection is lost');
nothing_is_left('a lost connection');
like(end_in_the_middle(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%etl_incremental_pull(''slow''%'
		AND pid <> pg_backend_pid()}),
	qr/57014: canceling statement due to user request/, 'cancelled here');
nothing_is_left('a cancel');
like(end_in_the_middle(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'pull'}),
	qr/57014: canceling statement due to user request.*remote server "far"/s, 'cancelled there');
nothing_is_left('a cancel there');
like(end_in_the_middle(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%etl_incremental_pull(''slow''%'
		AND pid <> pg_backend_pid()}),
	qr/terminating connection/, 'the session here is ended');
nothing_is_left('the end of the session');

# In a subtransaction that goes on: nothing of it is left before the transaction ends.
is( near(qq{SET statement_timeout = '2s';
		BEGIN;
		DO \$\$ BEGIN PERFORM * FROM ($slow_pull) x; EXCEPTION WHEN query_canceled THEN NULL; END \$\$;
		SET statement_timeout = 0;
		DO \$\$ BEGIN
			FOR i IN 1 .. 1000 LOOP
				PERFORM pg_stat_clear_snapshot();
				EXIT WHEN ($connections) = 0;
				PERFORM pg_sleep(0.01);
			END LOOP;
		END \$\$;
		SELECT pg_stat_clear_snapshot() \\g /dev/null
		$connections;
		COMMIT;}),
	0, 'a timeout in a subtransaction ends the connection before the transaction ends');
nothing_is_left('a timeout');

like(error_of("SELECT etl_incremental_pull('slow', 'broken', 'broken_here', 'id', safety => 'none')"),
	qr/division by zero.*remote server "far"/s, 'an error there');
is(near("SELECT count(*) FROM broken_here"), 0, 'brings no rows');
nothing_is_left('an error there');
$holder->query_safe('SELECT pg_advisory_unlock(42)');
$holder->quit;
is(near($slow_pull), 30000, 'the pull can be repeated');

# ---------------------------------------------------------------------------
# Memory
# ---------------------------------------------------------------------------

SKIP:
{
	skip '/proc is needed to see the memory', 1 unless -r '/proc/self/status';
	skip 'a sanitizer keeps what was freed', 1 if $ENV{SANITIZE};

	far(q{CREATE VIEW large AS SELECT i AS id, repeat('0123456789', 100) AS a, repeat(md5(i::text), 30) AS b
		FROM generate_series(1, 100000::bigint) i});
	near(q{
		CREATE FOREIGN TABLE large (id bigint, a text, b text) SERVER far OPTIONS (schema_name 'public');
		CREATE UNLOGGED TABLE large_here (id bigint, a text, b text);
		CREATE FUNCTION peak_kb() RETURNS int LANGUAGE sql AS
			$$ SELECT substring(pg_read_file('/proc/self/status') FROM 'VmHWM:\s*(\d+)')::int $$;
	});
	my ($before, $rows, $after) = split /\n/, near(q{
		SELECT peak_kb();
		SELECT rows_read FROM etl_incremental_pull('large', 'large', 'large_here', 'id', safety => 'none');
		SELECT peak_kb();});
	ok($rows == 100000 && $after - $before < 40 * 1024,
		sprintf 'memory is bounded: %d kB more for %d rows of 200 MB', $after - $before, $rows);
}

done_testing();
