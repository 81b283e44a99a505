# Mirrors hold what their sources hold: random transactions on tables of all
# kinds, applied as they come and in large batches, compared both ways.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Cdc;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{SEED} // 72;
my $rounds = $ENV{ROUNDS} // 6;

srand($seed);
diag("seed $seed") if $ENV{SEED};

my $node = Cdc::start('mirror', "max_prepared_transactions = 5\nfsync = off\n")->{node};

# A key out of few, so that most of them are changed often.
sub key { return 1 + int(rand(30)); }

sql(q{
CREATE SCHEMA t;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE place AS (x int, y text);
CREATE DOMAIN percent AS int CHECK (VALUE BETWEEN 0 AND 100);
});

# Each case: the tables, how to look at them, and what random changes there are.
# Only the cases without "table" are mirrored from their own source.
my @cases = (
	{
		name => 'plain',
		ddl => q{
			CREATE TABLE plain (id int PRIMARY KEY, v text, n numeric, f float8);
			CREATE TABLE t.plain (LIKE plain INCLUDING ALL)},
		changes => sub {
			my $k = key();
			return pick(
				"INSERT INTO plain VALUES ($k, 'v' || random(), random(), random()) ON CONFLICT DO NOTHING",
				"INSERT INTO plain SELECT g, 'bulk', g, NULL FROM generate_series($k, $k + 20) g ON CONFLICT DO NOTHING",
				"UPDATE plain SET v = 'u' || random() WHERE id = $k",
				"UPDATE plain SET n = n + 1, f = NULL WHERE id BETWEEN $k AND $k + 5",
				"UPDATE plain SET id = id + 1000 WHERE id = $k AND NOT EXISTS (SELECT FROM plain WHERE id = $k + 1000)",
				"UPDATE plain SET id = id - 1000 WHERE id = $k + 1000 AND NOT EXISTS (SELECT FROM plain WHERE id = $k)",
				"DELETE FROM plain WHERE id = $k",
				"DELETE FROM plain WHERE id > $k + 900",
				"WITH d AS (DELETE FROM plain WHERE id = $k RETURNING *) SELECT FROM d; INSERT INTO plain VALUES ($k, 'again') ON CONFLICT DO NOTHING");
		},
	},
	{
		name => 'layout',
		ddl => q{
			CREATE TABLE layout (gone int, code varchar(20) PRIMARY KEY, n int, m mood, l int[], p place, c percent, d date);
			ALTER TABLE layout DROP COLUMN gone;
			CREATE TABLE t.layout (d timestamp, gone text, c int, l int[], away int, m text, n bigint, p place, code text PRIMARY KEY, extra text DEFAULT 'extra');
			ALTER TABLE t.layout DROP COLUMN gone, DROP COLUMN away},
		want => q{SELECT code::text, n::bigint, m::text, l, p::text, c::int, d::timestamp, 'extra'::text FROM layout},
		have => q{SELECT code, n, m, l, p::text, c, d, extra FROM t.layout},
		changes => sub {
			my $k = key();
			return pick(
				"INSERT INTO layout VALUES ('k$k', $k, 'ok', '{1,2}', '(1,a)', 50, '2020-01-01') ON CONFLICT DO NOTHING",
				"UPDATE layout SET n = n + 1, m = 'happy', l = l || $k WHERE code = 'k$k'",
				"UPDATE layout SET p = ROW($k, 'b'), d = d + 1, c = NULL WHERE code < 'k$k'",
				"UPDATE layout SET code = 'z' || code WHERE code = 'k$k' AND NOT EXISTS (SELECT FROM layout WHERE code = 'zk$k')",
				"DELETE FROM layout WHERE code IN ('k$k', 'zk$k')");
		},
	},
	{
		name => 'pair',
		ddl => q{
			CREATE TABLE pair (a date, b text COLLATE "C", v jsonb, PRIMARY KEY (a, b));
			CREATE TABLE t.pair (v jsonb, b text COLLATE "C", a date, PRIMARY KEY (b, a))},
		want => 'SELECT a, b, v FROM pair',
		have => 'SELECT a, b, v FROM t.pair',
		changes => sub {
			my ($k, $l) = (1 + int(rand(5)), 1 + int(rand(6)));
			return pick(
				"INSERT INTO pair VALUES (date '2020-01-01' + $k, 'b$l', '{\"a\": $k}') ON CONFLICT DO NOTHING",
				"UPDATE pair SET v = v || '{\"n\": $l}' WHERE b = 'b$l'",
				"UPDATE pair SET v = NULL WHERE a = date '2020-01-01' + $k",
				"UPDATE pair SET a = a + 10 WHERE b = 'b$l' AND a = date '2020-01-01' + $k AND NOT EXISTS (SELECT FROM pair WHERE b = 'b$l' AND a = date '2020-01-11' + $k)",
				"DELETE FROM pair WHERE b = 'b$l' AND a = date '2020-01-01' + $k");
		},
	},
	{
		name => 'typed',    # keys of types of the user's, and equal ones that look different
		ddl => q{
			CREATE TABLE typed (m mood, c percent, l int[], n numeric, v text, PRIMARY KEY (m, c, l, n));
			CREATE TABLE t.typed (LIKE typed INCLUDING ALL)},
		want => 'SELECT m, c::int, l, n::text, v FROM typed',
		have => 'SELECT m, c::int, l, n::text, v FROM t.typed',
		changes => sub {
			my ($k, $m) = (1 + int(rand(4)), pick('sad', 'ok', 'happy'));
			return pick(
				"INSERT INTO typed VALUES ('$m', $k, '{1,$k}', 1.0, 'v') ON CONFLICT DO NOTHING",
				"UPDATE typed SET v = v || '+' WHERE m = '$m'",
				"UPDATE typed SET n = 1.00 WHERE m = '$m' AND c = $k",
				"UPDATE typed SET l = l || (random() * 1000000)::int WHERE m = '$m' AND c = $k AND cardinality(l) < 5",
				"DELETE FROM typed WHERE m = '$m' AND c = $k");
		},
	},
	{
		name => 'heap',    # no key: the whole row is the identity
		ddl => q{
			CREATE TABLE heap (a int, b text, j json);
			ALTER TABLE heap REPLICA IDENTITY FULL;
			CREATE TABLE t.heap (a int, b text, j json)},
		want => 'SELECT a, b, j::text FROM heap',
		have => 'SELECT a, b, j::text FROM t.heap',
		changes => sub {
			my $k = 1 + int(rand(6));
			return pick(
				"INSERT INTO heap VALUES ($k, 'x', '[1]'), ($k, 'x', '[1]'), (NULL, NULL, NULL)",
				"UPDATE heap SET b = b || 'y' WHERE ctid = (SELECT ctid FROM heap WHERE a = $k LIMIT 1)",
				"UPDATE heap SET a = $k WHERE ctid = (SELECT ctid FROM heap WHERE a IS NULL LIMIT 1)",
				"UPDATE heap SET j = '[2]' WHERE a = $k",
				"DELETE FROM heap WHERE ctid = (SELECT ctid FROM heap WHERE a = $k LIMIT 1)",
				"DELETE FROM heap WHERE a = $k AND length(b) > 4");
		},
	},
	{
		name => 'indexed',    # the same, through an index that is not unique
		ddl => q{
			CREATE TABLE indexed (a int, b text);
			ALTER TABLE indexed REPLICA IDENTITY FULL;
			CREATE TABLE t.indexed (b text, a int);
			CREATE INDEX ON t.indexed (a)},
		want => 'SELECT a, b FROM indexed',
		have => 'SELECT a, b FROM t.indexed',
		changes => sub {
			my $k = 1 + int(rand(6));
			return pick(
				"INSERT INTO indexed VALUES ($k, 'x'), ($k, 'x'), (NULL, 'x')",
				"UPDATE indexed SET b = b || 'y' WHERE ctid = (SELECT ctid FROM indexed WHERE a = $k LIMIT 1)",
				"UPDATE indexed SET a = NULL WHERE ctid = (SELECT ctid FROM indexed WHERE a = $k LIMIT 1)",
				"DELETE FROM indexed WHERE ctid = (SELECT ctid FROM indexed WHERE a = $k OR a IS NULL LIMIT 1)");
		},
	},
	{
		name => 'wide',    # large values that updates leave alone
		ddl => q{
			CREATE TABLE wide (id int PRIMARY KEY, big text, n int, big2 text);
			ALTER TABLE wide ALTER big SET STORAGE EXTERNAL, ALTER big2 SET STORAGE EXTERNAL;
			CREATE TABLE t.wide (LIKE wide INCLUDING ALL)},
		want => 'SELECT id, md5(big), n, md5(big2) FROM wide',
		have => 'SELECT id, md5(big), n, md5(big2) FROM t.wide',
		changes => sub {
			my $k = key();
			return pick(
				"INSERT INTO wide VALUES ($k, repeat(random()::text, 200), 0, repeat(random()::text, 300)) ON CONFLICT DO NOTHING",
				"UPDATE wide SET n = n + 1 WHERE id = $k",
				"UPDATE wide SET big = repeat(random()::text, 250) WHERE id BETWEEN $k AND $k + 3",
				"UPDATE wide SET big2 = NULL WHERE id = $k",
				"UPDATE wide SET id = id + 1000 WHERE id = $k AND NOT EXISTS (SELECT FROM wide WHERE id = $k + 1000)",
				"DELETE FROM wide WHERE id IN ($k, $k + 1000)");
		},
	},
	{
		name => 'parts',    # rows move between the target's partitions
		ddl => q{
			CREATE TABLE parts (id int, kind text, v int, PRIMARY KEY (id, kind));
			CREATE TABLE t.parts (v int, id int, kind text, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
			CREATE TABLE t.parts_a PARTITION OF t.parts FOR VALUES IN ('a');
			CREATE TABLE t.parts_b (kind text NOT NULL, id int NOT NULL, v int);
			ALTER TABLE t.parts ATTACH PARTITION t.parts_b FOR VALUES IN ('b');
			CREATE TABLE t.parts_rest PARTITION OF t.parts DEFAULT PARTITION BY RANGE (id);
			CREATE TABLE t.parts_rest_1 PARTITION OF t.parts_rest FOR VALUES FROM (0) TO (15);
			CREATE TABLE t.parts_rest_2 PARTITION OF t.parts_rest FOR VALUES FROM (15) TO (10000)},
		want => 'SELECT id, kind, v FROM parts',
		have => 'SELECT id, kind, v FROM t.parts',
		changes => sub {
			my $k = key();
			my $kind = pick('a', 'b', 'c');
			return pick(
				"INSERT INTO parts VALUES ($k, '$kind', 1) ON CONFLICT DO NOTHING",
				"INSERT INTO parts SELECT g, '$kind', 2 FROM generate_series($k, $k + 9) g ON CONFLICT DO NOTHING",
				"UPDATE parts SET v = v + 1 WHERE id >= $k",
				"UPDATE parts SET kind = '$kind' WHERE id = $k AND kind <> '$kind' AND NOT EXISTS (SELECT FROM parts WHERE id = $k AND kind = '$kind') AND (SELECT count(*) FROM parts WHERE id = $k) = 1",
				"DELETE FROM parts WHERE id = $k");
		},
	},
	{
		name => 'computed',    # renamed, computed, generated, left out
		ddl => q{
			CREATE TABLE computed (id int PRIMARY KEY, first text, last text, cents int, secret text, junk text);
			CREATE TABLE t.computed (key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, amount numeric(10,2),
				twice numeric GENERATED ALWAYS AS (amount * 2) STORED, secret text DEFAULT 'hidden', loaded timestamptz DEFAULT now())},
		columns => '{"key": "id", "name": {"expr": "upper(first) || \' \' || coalesce(last, \'?\')"}, "amount": {"expr": "cents / 100.0"}, "secret": null, "junk": null}',
		want => q{SELECT id::bigint, upper(first) || ' ' || coalesce(last, '?'), (cents / 100.0)::numeric(10,2), (cents / 100.0)::numeric(10,2) * 2, 'hidden'::text FROM computed},
		have => 'SELECT key, name, amount, twice, secret FROM t.computed',
		changes => sub {
			my $k = key();
			return pick(
				"INSERT INTO computed VALUES ($k, 'joe', NULL, $k, 'x', 'y') ON CONFLICT DO NOTHING",
				"UPDATE computed SET last = 'l' || $k, junk = 'z' WHERE id = $k",
				"UPDATE computed SET cents = cents + 7 WHERE id > $k",
				"UPDATE computed SET id = id + 1000 WHERE id = $k AND NOT EXISTS (SELECT FROM computed WHERE id = $k + 1000)",
				"DELETE FROM computed WHERE id IN ($k, $k + 1000)");
		},
	},
	{
		name => 'filtered',    # whether a row was in is not known before an update
		ddl => q{
			CREATE TABLE filtered (id int PRIMARY KEY, region text, v int);
			CREATE TABLE t.filtered (LIKE filtered INCLUDING ALL)},
		filter => q{region = 'eu' AND v IS DISTINCT FROM 3},
		want => q{SELECT id, region, v FROM filtered WHERE region = 'eu' AND v IS DISTINCT FROM 3},
		have => 'SELECT id, region, v FROM t.filtered',
		changes => \&filtered_changes,
		args => 'filtered',
	},
	{
		name => 'filtered_full',    # it is
		ddl => q{
			CREATE TABLE filtered_full (id int PRIMARY KEY, region text, v int);
			ALTER TABLE filtered_full REPLICA IDENTITY FULL;
			CREATE TABLE t.filtered_full (LIKE filtered_full INCLUDING ALL)},
		filter => q{region = 'eu' AND v IS DISTINCT FROM 3},
		options => '{"conflict": "error"}',
		want => q{SELECT id, region, v FROM filtered_full WHERE region = 'eu' AND v IS DISTINCT FROM 3},
		have => 'SELECT id, region, v FROM t.filtered_full',
		changes => \&filtered_changes,
		args => 'filtered_full',
	},
	{
		name => 'swaps',    # unique values change places
		ddl => q{
			CREATE TABLE swaps (id int PRIMARY KEY, place int UNIQUE DEFERRABLE INITIALLY DEFERRED, v text);
			CREATE TABLE t.swaps (id int PRIMARY KEY, place int UNIQUE DEFERRABLE INITIALLY DEFERRED, v text);},
		changes => sub {
			my ($k, $l) = (key(), key());
			return pick(
				"INSERT INTO swaps SELECT $k, 1 + coalesce(max(place), 0), 'n' FROM swaps ON CONFLICT (id) DO NOTHING",
				"UPDATE swaps s SET place = o.place FROM swaps o WHERE s.id IN ($k, $l) AND o.id IN ($k, $l) AND s.id <> o.id",
				"UPDATE swaps SET v = v || 'x' WHERE id = $k",
				"UPDATE swaps SET id = id + 1000 WHERE id = $k AND NOT EXISTS (SELECT FROM swaps WHERE id = $k + 1000)",
				"DELETE FROM swaps WHERE id IN ($k, $k + 1000)");
		},
	},
	{
		name => 'taken',    # values go from one row to another, one after the other
		ddl => q{
			CREATE TABLE taken (id int PRIMARY KEY, name text UNIQUE);
			CREATE TABLE t.taken (LIKE taken INCLUDING ALL)},
		changes => sub {
			my ($k, $l) = (key(), key());
			return pick(
				"INSERT INTO taken VALUES ($k, 'n$k') ON CONFLICT DO NOTHING",
				"UPDATE taken SET name = 'tmp' WHERE name = 'n$k' AND NOT EXISTS (SELECT FROM taken WHERE name = 'tmp'); UPDATE taken SET name = 'n$k' WHERE id = $l AND NOT EXISTS (SELECT FROM taken WHERE name = 'n$k'); UPDATE taken SET name = 'n$l' WHERE name = 'tmp' AND NOT EXISTS (SELECT FROM taken WHERE name = 'n$l')",
				"DELETE FROM taken WHERE name = 'n$k'; INSERT INTO taken VALUES ($l, 'n$k') ON CONFLICT DO NOTHING",
				"DELETE FROM taken WHERE id = $k");
		},
	},
	{
		name => 'viewed',    # through a view
		ddl => q{
			CREATE TABLE viewed (id int PRIMARY KEY, v text);
			CREATE TABLE t.viewed_table (id int PRIMARY KEY, v text);
			CREATE VIEW t.viewed AS SELECT id, v FROM t.viewed_table},
		changes => sub {
			my $k = key();
			return pick(
				"INSERT INTO viewed VALUES ($k, 'v') ON CONFLICT DO NOTHING",
				"UPDATE viewed SET v = v || '+' WHERE id >= $k",
				"UPDATE viewed SET id = id + 1000 WHERE id = $k AND NOT EXISTS (SELECT FROM viewed WHERE id = $k + 1000)",
				"DELETE FROM viewed WHERE id IN ($k, $k + 1000)");
		},
	},
	{
		name => 'watched',    # triggers of both tables write the same log
		ddl => q{
			CREATE TABLE watched (id int PRIMARY KEY, v text);
			CREATE TABLE t.watched (LIKE watched INCLUDING ALL);
			CREATE TABLE watch_log (n serial, side text, op text, id int, v text);
			CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				INSERT INTO public.watch_log (side, op, id, v) VALUES (TG_TABLE_SCHEMA, TG_OP, coalesce(NEW.id, OLD.id), NEW.v);
				RETURN NULL;
			END $$;
			CREATE TRIGGER watch AFTER INSERT OR UPDATE OR DELETE ON watched FOR EACH ROW EXECUTE FUNCTION watch();
			CREATE TRIGGER watch AFTER INSERT OR UPDATE OR DELETE ON t.watched FOR EACH ROW EXECUTE FUNCTION watch()},
		changes => sub {
			my $k = key();
			return pick(
				"INSERT INTO watched VALUES ($k, 'v') ON CONFLICT DO NOTHING",
				"UPDATE watched SET v = v || '+' WHERE id = $k",
				"UPDATE watched SET id = id + 1000 WHERE id = $k AND NOT EXISTS (SELECT FROM watched WHERE id = $k + 1000)",
				"DELETE FROM watched WHERE id IN ($k, $k + 1000)");
		},
	},
	{
		name => 'parent',
		ddl => q{
			CREATE TABLE parent (id int PRIMARY KEY, v text);
			CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
			CREATE TABLE t.parent (LIKE parent INCLUDING ALL);
			CREATE TABLE t.child (LIKE child INCLUDING ALL)},
		changes => sub {
			my ($k, $l) = (key(), key());
			return pick(
				"INSERT INTO parent VALUES ($k, 'v') ON CONFLICT DO NOTHING",
				"INSERT INTO parent VALUES ($k, 'v') ON CONFLICT DO NOTHING; INSERT INTO child VALUES ($l, $k) ON CONFLICT DO NOTHING",
				"UPDATE child SET parent = (SELECT min(id) FROM parent) WHERE id = $k",
				"DELETE FROM child WHERE parent = $k; DELETE FROM parent WHERE id = $k; INSERT INTO parent VALUES ($k, 'new')",
				"DELETE FROM child WHERE parent = $k; DELETE FROM parent WHERE id = $k",
				(rand() < 0.1 ? 'TRUNCATE parent, child' : 'SELECT'));
		},
	},
	{
		name => 'child',
		ddl => '',
		changes => sub { my $k = key(); return "DELETE FROM child WHERE id = $k" },
	});

sub filtered_changes
{
	my ($table) = @_;
	my $k = key();

	return pick(
		"INSERT INTO $table VALUES ($k, 'eu', 1) ON CONFLICT DO NOTHING",
		"INSERT INTO $table VALUES ($k, 'us', 1) ON CONFLICT DO NOTHING",
		"UPDATE $table SET region = CASE region WHEN 'eu' THEN 'us' ELSE 'eu' END WHERE id = $k",
		"UPDATE $table SET v = v % 5 + 1 WHERE id BETWEEN $k AND $k + 4",
		"UPDATE $table SET id = id + 1000, v = 3 WHERE id = $k AND NOT EXISTS (SELECT FROM $table WHERE id = $k + 1000)",
		"DELETE FROM $table WHERE id IN ($k, $k + 1000)");
}

foreach my $case (@cases)
{
	sql($case->{ddl});
	$case->{want} //= "SELECT * FROM $case->{name}";
	$case->{have} //= "SELECT * FROM t.$case->{name}";
}

# One transaction of some changes; some are undone, all or in part.
sub transaction
{
	my $result = "BEGIN;\n";

	foreach (0 .. int(rand(4)))
	{
		my $case = pick(@cases);
		my $change = $case->{changes}->($case->{args});
		my $fate = rand();

		$change = "SAVEPOINT s; $change; ROLLBACK TO s" if $fate < 0.05;
		$change = "SAVEPOINT s; $change; RELEASE s" if $fate > 0.9;
		$change = "TRUNCATE $case->{name}" if $fate > 0.5 && $fate < 0.51 && $case->{name} !~ /parent|child/;
		$result .= "$change;\n";
	}
	return $result . (rand() < 0.05 ? 'ROLLBACK' : 'COMMIT') . ";\n";
}

sub compare
{
	my ($what) = @_;

	applied('all', "$what: applied");
	foreach my $case (@cases)
	{
		same($case->{want}, $case->{have}, "$what: $case->{name}");
	}
	return;
}

# There are rows before the pipeline begins.
sql(join('', map { transaction() } 1 .. 100));
sql(q{SELECT etl_cdc_create('all')});
foreach my $case (@cases)
{
	my $columns = $case->{columns};
	my $filter = $case->{filter};

	$columns = defined $columns ? "\$j\$$columns\$j\$::jsonb" : 'NULL';
	$filter = defined $filter ? "\$f\$$filter\$f\$" : 'NULL';
	sql(sprintf(q{SELECT etl_cdc_add_table('all', 'public.%s', 't.%s', apply_options => '%s', columns => %s, row_filter => %s)},
		$case->{name}, $case->{name}, $case->{options} // '{}', $columns, $filter));
}
sql(q{DELETE FROM watch_log; SELECT etl_cdc_start('all')});
compare('copy');

# Tables are copied one by one; only then can rows refer to each other.
sql(q{DELETE FROM watch_log; ALTER TABLE t.child ADD FOREIGN KEY (parent) REFERENCES t.parent});

foreach my $round (1 .. $rounds)
{
	my $batched = $round % 2 == 0;

	# what comes while nobody applies is one batch
	if ($batched)
	{
		sql(q{SELECT etl_cdc_stop('all')});
		$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_replication_slots WHERE active})
		  or die 'pipeline does not stop';
	}
	foreach (1 .. 4)
	{
		sql(join('', map { transaction() } 1 .. 75));
	}
	sql(q{SELECT etl_cdc_start('all')}) if $batched;
	compare("round $round");
}

# Each change of a table with triggers is made, in its order.
same(q{SELECT row_number() OVER (ORDER BY n), op, id, v FROM watch_log WHERE side = 'public'},
	q{SELECT row_number() OVER (ORDER BY n), op, id, v FROM watch_log WHERE side = 't'},
	'triggers fire in the order of the source');
sql(q{SELECT etl_cdc_drop('all')});

# Tables that refer to each other and have triggers are truncated together.
sql(q{
	CREATE TABLE boss (id int PRIMARY KEY);
	CREATE TABLE staff (id int PRIMARY KEY, boss int REFERENCES boss);
	CREATE TABLE t.boss (LIKE boss INCLUDING ALL);
	CREATE TABLE t.staff (id int PRIMARY KEY, boss int REFERENCES t.boss ON DELETE CASCADE);
	SELECT etl_cdc_create('staff');
	SELECT etl_cdc_add_table('staff', 'public.boss', 't.boss');
	SELECT etl_cdc_add_table('staff', 'public.staff', 't.staff');
	SELECT etl_cdc_start('staff')});
applied('staff', 'staff: begins');
sql(q{
	BEGIN;
	INSERT INTO boss SELECT generate_series(1, 10);
	INSERT INTO staff SELECT g, g % 10 + 1 FROM generate_series(1, 100) g;
	DELETE FROM staff WHERE boss = 3;
	DELETE FROM boss WHERE id = 3;
	INSERT INTO boss VALUES (3);
	INSERT INTO staff VALUES (101, 3);
	COMMIT});
applied('staff', 'staff: cascades');
same('SELECT * FROM staff', 'SELECT * FROM t.staff', 'what cascades does so before what comes next');
sql(q{BEGIN; INSERT INTO boss VALUES (11); TRUNCATE boss, staff; INSERT INTO boss VALUES (12); INSERT INTO staff VALUES (1, 12); COMMIT});
applied('staff', 'staff: truncated');
same('SELECT * FROM staff', 'SELECT * FROM t.staff', 'truncated together');

# A large batch of inserts, updates and deletes of many keys.
sql(q{
	CREATE TABLE many (id int PRIMARY KEY, v int, note text);
	CREATE TABLE t.many (LIKE many INCLUDING ALL);
	INSERT INTO many SELECT g, 0, 'n' FROM generate_series(1, 5000) g;
	SELECT etl_cdc_create('many');
	SELECT etl_cdc_add_table('many', 'public.many', 't.many');
	SELECT etl_cdc_start('many')});
applied('many', 'many: copied');
sql(q{
	BEGIN;
	INSERT INTO many SELECT g, 1, 'new' FROM generate_series(5001, 25000) g;
	UPDATE many SET v = v + id WHERE id % 3 = 0;
	DELETE FROM many WHERE id % 7 = 0;
	UPDATE many SET id = -id WHERE id % 5 = 0;
	INSERT INTO many SELECT g, 2, 'again' FROM generate_series(7, 25000, 7) g ON CONFLICT DO NOTHING;
	COMMIT});
applied('many', 'many: applied');
same('SELECT * FROM many', 'SELECT * FROM t.many', 'many keys');

# What the target has of its own.  The source wins, unless it is told not to.
sql(q{
	TRUNCATE t.many;
	INSERT INTO t.many VALUES (-7000, 1, 'other'), (30001, 1, 'other'), (30002, 1, 'other');
	UPDATE many SET note = 'changed' WHERE id IN (1, 2);
	DELETE FROM many WHERE id = 3;
	INSERT INTO many VALUES (30001, 5, 'mine');
	INSERT INTO many SELECT g, 5, 'mine' FROM generate_series(30002, 30010) g;
	UPDATE many SET id = 30011 WHERE id = 4});
applied('many', 'conflicts: applied');
same(q{SELECT * FROM many WHERE id IN (1, 2) OR id > 30000 UNION ALL VALUES (-7000, 1, 'other')},
	'SELECT * FROM t.many', 'missing rows are inserted, others replaced');

sql(q{
	CREATE TABLE strict (id int PRIMARY KEY, v int);
	CREATE TABLE t.strict (LIKE strict INCLUDING ALL);
	INSERT INTO strict VALUES (1, 1), (2, 2), (3, 3);
	SELECT etl_cdc_create('strict');
	SELECT etl_cdc_add_table('strict', 'public.strict', 't.strict', apply_options => '{"conflict": "error"}');
	SELECT etl_cdc_start('strict')});
applied('strict', 'strict: copied');
sql(q{DELETE FROM t.strict WHERE id = 2; UPDATE strict SET v = 20 WHERE id = 2});
is(paused('strict'), 'row to be updated is missing in "strict"', 'a missing row is an error');
sql(q{INSERT INTO t.strict VALUES (2, 2); SELECT etl_cdc_start('strict')});
applied('strict', 'strict: goes on');
sql(q{DELETE FROM t.strict WHERE id = 3; DELETE FROM strict WHERE id = 3});
is(paused('strict'), 'row to be deleted is missing in "strict"', 'to be deleted, too');
sql(q{INSERT INTO t.strict VALUES (3, 3), (4, 4); SELECT etl_cdc_start('strict')});
applied('strict', 'strict: goes on');
sql(q{INSERT INTO strict VALUES (4, 40)});
is(paused('strict'), 'duplicate key value violates unique constraint "strict_pkey"', 'and so is one that is there');
sql(q{DELETE FROM t.strict WHERE id = 4; SELECT etl_cdc_start('strict')});
applied('strict', 'strict: goes on');
same('SELECT * FROM strict', 'SELECT * FROM t.strict', 'strict');

# Others write to the target at the same time: they are waited for.
sql(q{
	CREATE TABLE shared (id int PRIMARY KEY, v text);
	CREATE TABLE t.shared (LIKE shared INCLUDING ALL);
	INSERT INTO shared SELECT g, 'old' FROM generate_series(1, 5) g;
	SELECT etl_cdc_create('shared');
	SELECT etl_cdc_add_table('shared', 'public.shared', 't.shared');
	SELECT etl_cdc_start('shared')});
applied('shared', 'shared: copied');
foreach my $end ('COMMIT PREPARED', 'ROLLBACK PREPARED')
{
	sql(q{
		BEGIN;
		UPDATE t.shared SET v = 'other' WHERE id = 1;
		UPDATE t.shared SET v = 'other' WHERE id = 2;
		DELETE FROM t.shared WHERE id = 3;
		INSERT INTO t.shared VALUES (6, 'other');
		PREPARE TRANSACTION 'other'});
	sql(qq{
		INSERT INTO shared VALUES (6, '$end');
		UPDATE shared SET v = '$end' WHERE id IN (1, 3, 4);
		DELETE FROM shared WHERE id = 2});
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'}), "waits before $end");
	sql("$end 'other'");
	applied('shared', "shared: goes on after $end");
	same('SELECT * FROM shared', 'SELECT * FROM t.shared', "after $end");
	sql(q{DELETE FROM shared WHERE id = 6; INSERT INTO shared VALUES (2, 'old')});
	applied('shared', 'shared: once more');
}

# Rows that the target refuses are set aside; the rest goes on.
sql(q{
	CREATE TABLE picky (id int PRIMARY KEY, v int);
	CREATE TABLE t.picky (id int PRIMARY KEY, v int CHECK (v <> 13));
	CREATE TABLE t.picky_parts (id int PRIMARY KEY, v int CHECK (v <> 13)) PARTITION BY RANGE (id);
	CREATE TABLE t.picky_parts_1 PARTITION OF t.picky_parts DEFAULT;
	SELECT etl_cdc_create('picky', on_error => 'dead_letter');
	SELECT etl_cdc_add_table('picky', 'public.picky', 't.picky');
	SELECT etl_cdc_add_table('picky', 'public.picky', 't.picky_parts');
	SELECT etl_cdc_start('picky')});
applied('picky', 'picky: begins');
sql(q{INSERT INTO picky SELECT g, g % 20 FROM generate_series(1, 100) g; UPDATE picky SET v = 13 WHERE id = 50; DELETE FROM picky WHERE id = 51});
applied('picky', 'picky: goes on');
same(q{SELECT id, v FROM picky WHERE v <> 13 UNION ALL VALUES (50, 10)}, 'SELECT * FROM t.picky', 'what was refused is left out');
same(q{SELECT * FROM t.picky}, 'SELECT * FROM t.picky_parts', 'of partitions, too');
is(sql(q{SELECT count(*), min(error_code) FROM etl_patterns.dead_letter}), '12|23514', 'and is set aside');

# By a role with no more rights than it needs.
sql(q{
	CREATE ROLE follower LOGIN REPLICATION;
	CREATE TABLE near (id int PRIMARY KEY, v text);
	CREATE TABLE t.near (LIKE near INCLUDING ALL);
	CREATE FUNCTION public.shout(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT pg_catalog.upper($1)';
	REVOKE EXECUTE ON FUNCTION shout FROM PUBLIC;
	GRANT USAGE ON SCHEMA t TO follower;
	GRANT SELECT ON near TO follower;
	GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON t.near TO follower;
	INSERT INTO near VALUES (1, 'one'), (2, 'two')});

sub as_follower
{
	my ($sql) = @_;

	return sql("SET SESSION AUTHORIZATION follower; $sql");
}

as_follower(q{SELECT etl_cdc_create('follower')});
my ($ret, $stdout, $stderr) = $node->psql('postgres', q{SET SESSION AUTHORIZATION follower; SELECT etl_cdc_add_table('follower', 'public.near', 't.near', columns => '{"v": {"expr": "public.shout(v)"}}')});
like($stderr, qr/permission denied for function shout/, 'functions in expressions need EXECUTE');
sql(q{GRANT EXECUTE ON FUNCTION shout TO follower});
as_follower(q{SELECT etl_cdc_add_table('follower', 'public.near', 't.near', columns => '{"v": {"expr": "public.shout(v)"}}', row_filter => $$id < 100$$); SELECT etl_cdc_start('follower')});
applied('follower', 'follower: copied');
sql(q{
	INSERT INTO near VALUES (3, 'three'), (103, 'far');
	UPDATE near SET id = id + 100 WHERE id = 2;
	UPDATE near SET id = 4 WHERE id = 103});
applied('follower', 'follower: applied');
same('SELECT id, upper(v) FROM near WHERE id < 100', 'SELECT * FROM t.near', 'computed by a function');
sql(q{CREATE OR REPLACE FUNCTION public.shout(text) RETURNS text IMMUTABLE LANGUAGE sql AS $$SELECT $1 || '!'$$; UPDATE near SET v = 'uno' WHERE id = 1});
applied('follower', 'follower: with a new function');
is(sql(q{SELECT v FROM t.near WHERE id = 1}), 'uno!', 'a function that changes is noticed');
sql(q{REVOKE TRUNCATE ON t.near FROM follower; TRUNCATE near});
is(paused('follower'), 'permission denied for table near', 'TRUNCATE is a right of its own');
sql(q{GRANT TRUNCATE ON t.near TO follower; SELECT etl_cdc_start('follower')});
applied('follower', 'follower: truncated');
is(sql('SELECT count(*) FROM t.near'), '0', 'truncated');
sql(q{ALTER TABLE t.near ENABLE ROW LEVEL SECURITY; INSERT INTO near VALUES (5, 'five')});
like(paused('follower'), qr/row-level security of "near" applies/, 'a mirror must see all rows');

sql(q{
	CREATE TABLE odd (id int PRIMARY KEY, a text, b text);
	CREATE TABLE t.odd (id int PRIMARY KEY, a int, c text);
	CREATE TABLE t.ruled (id int PRIMARY KEY, a text, b text);
	CREATE RULE r AS ON DELETE TO t.ruled DO INSTEAD NOTHING;
	SELECT etl_cdc_create('odd')});
my $add = q{SELECT etl_cdc_add_table('odd', 'public.odd', 't.odd', };
refused("$add apply_options => '{\"speed\": 1}')", qr/unrecognized option for apply "mirror": "speed"/, 'options');
refused("$add apply_options => '{\"conflict\": \"maybe\"}')", qr/invalid value for parameter "conflict": "maybe"/, 'values of options');
refused("$add columns => '{\"zzz\": \"a\"}')", qr/column "zzz" of relation "odd" does not exist/, 'columns of the target');
refused("$add columns => '{\"a\": null, \"c\": \"zzz\"}')", qr/column "zzz" of source .* does not exist/, 'columns of the source');
refused("$add columns => '{\"a\": null, \"c\": 1}')", qr/says nothing valid of column "c"/, 'what there is to say of a column');
refused("$add columns => '{\"a\": null, \"c\": \"b\", \"id\": null}')", qr/column "id" of the key of source .* has no column/, 'columns of the key');
refused("$add columns => '{\"c\": \"b\"}')", qr/column "a" is of type text in source .* but of type integer/, 'types');
refused($add . q{columns => '{"a": {"expr": "a::int"}}')}, qr/column "b" of source .* has no column in "odd"/, 'columns that would be lost');
refused($add . q{columns => '{"a": {"expr": "(SELECT 1)"}, "c": "b"}')}, qr/subquery/, 'expressions see one row');
refused($add . q{columns => '{"a": {"expr": "1; DROP TABLE odd"}, "c": "b"}')}, qr/syntax error/, 'an expression is one');
refused($add . q{columns => '{"a": {"expr": "1 FROM pg_class"}, "c": "b"}')}, qr/is not a single expression/, 'and no query');
refused($add . q{row_filter => 'random() < 0.5')}, qr/row_filter .* calls a volatile function/, 'filters depend on the row');
refused($add . q{row_filter => 'id')}, qr/argument of row_filter must be type boolean/, 'filters are true or not');
refused(q{SELECT etl_cdc_add_table('odd', 'public.odd', 't.ruled')}, qr/cannot mirror into "ruled", which has rules/, 'rules');

# New rows only; all else is ignored.
sql(q{
	CREATE TABLE event (id int PRIMARY KEY, v text);
	CREATE TABLE t.event (n serial, v text DEFAULT 'none', id int);
	INSERT INTO event VALUES (1, 'one');
	SELECT etl_cdc_create('append');
	SELECT etl_cdc_add_table('append', 'public.event', 't.event', apply => 'append', row_filter => $$v <> 'no'$$);
	SELECT etl_cdc_start('append')});
applied('append', 'append: copied');
sql(q{INSERT INTO event VALUES (2, 'two'), (3, 'no'); UPDATE event SET v = 'x'; DELETE FROM event WHERE id = 1; INSERT INTO event VALUES (1, 'again'); TRUNCATE event});
applied('append', 'append: applied');
is(sql(q{SELECT string_agg(n || ':' || id || ':' || v, ' ' ORDER BY n) FROM t.event}), '1:1:one 2:2:two 3:1:again', 'append');

$node->stop;
done_testing();
