# Changes as rows of a changelog, as history, and as arguments of a function.
#
# Random transactions are applied as they come.  The changelog is replayed by
# SQL and gives the source again.  The source's state after each transaction is
# kept there, and is what the history says of the time of its commit.  What the
# function was given is the changelog.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Cdc;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{SEED} // 74;
my $rounds = $ENV{ROUNDS} // 60;

srand($seed);
diag("seed $seed") if $ENV{SEED};

my $node = Cdc::start('sinks', "fsync = off\ntrack_commit_timestamp = on\n")->{node};

sub key { return 1 + int(rand(12)); }

sql(q{
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (x int, y text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);

-- every kind of value
CREATE TABLE kinds (id int PRIMARY KEY, b bool, s int2, l int8, n numeric, f4 float4, f8 float8,
	ts timestamptz, t timestamp, d date, tm time, tz timetz, iv interval, by bytea, jb jsonb,
	c char(5), m mood, p pair, dm positive, u uuid, ia int[], ta text[], pa pair[], na numeric[], jba jsonb[],
	lb int[], r int4range, tr tstzrange, bt bit(4), ip inet, rc regclass, big text);
ALTER TABLE kinds ALTER big SET STORAGE EXTERNAL;
CREATE TABLE kinds_again (LIKE kinds INCLUDING ALL);

-- few columns, many states
CREATE TABLE item (id int PRIMARY KEY, name text, price numeric, doc text);
ALTER TABLE item ALTER doc SET STORAGE EXTERNAL;
CREATE TABLE item_state (xid bigint, id int, name text, price numeric, doc text, n bigint GENERATED ALWAYS AS IDENTITY);
CREATE TABLE item_history (sk bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, LIKE item, valid_from timestamptz NOT NULL,
	valid_to timestamptz, is_current boolean NOT NULL, UNIQUE (id, valid_from));
CREATE TABLE item_whole (envelope jsonb, number bigint GENERATED ALWAYS AS IDENTITY);
CREATE TABLE item_calls (number bigint GENERATED ALWAYS AS IDENTITY, batch bigint, change jsonb);
CREATE TABLE item_typed (number bigint GENERATED ALWAYS AS IDENTITY, op text, key jsonb, after jsonb, lsn pg_lsn);
CREATE TYPE change AS (lsn pg_lsn, op text, key jsonb, after jsonb, mine int);
CREATE FUNCTION take(changes jsonb) RETURNS void LANGUAGE sql
	AS 'INSERT INTO public.item_calls (batch, change) SELECT txid_current(), c FROM jsonb_array_elements(changes) AS c';
CREATE FUNCTION take_typed(changes change[]) RETURNS text LANGUAGE plpgsql SET search_path = public AS $$
DECLARE
	c change;
BEGIN
	FOREACH c IN ARRAY changes LOOP
		INSERT INTO item_typed (op, key, after, lsn) VALUES (c.op, c.key, c.after, c.lsn);
	END LOOP;
	RETURN 'ignored';
END
$$;
INSERT INTO item SELECT g, 'item ' || g, g, repeat('d', 3000) || g FROM generate_series(1, 8) AS g;
INSERT INTO kinds (id, big) SELECT g, repeat('b', 3000) FROM generate_series(1, 4) AS g;
});

is(sql("SELECT etl_cdc_create_changelog('kinds_log')"), 'kinds_log', 'the table of a changelog');
is(sql(q{SELECT etl_cdc_create_changelog('public."Item log"')}), '"Item log"', 'with another name');
refused(q{SELECT etl_cdc_create_changelog('nowhere.log')}, qr/schema "nowhere" does not exist/, 'in a schema that there is');
refused(q{SELECT etl_cdc_create_changelog('a b')}, qr/invalid name syntax/, 'of a proper name');

# ---------------------------------------------------------------------------
# What is refused when a table is added
# ---------------------------------------------------------------------------

sql(q{
SELECT etl_cdc_create('sinks');
CREATE TABLE poor (id int, op varchar(1));
CREATE TABLE lacking (op text, owner int NOT NULL);
CREATE TABLE bare (id int);
CREATE TABLE dated (LIKE item, valid_from date NOT NULL, valid_to date, is_current boolean NOT NULL);
CREATE TABLE rough (LIKE item, valid_from timestamptz(3) NOT NULL, valid_to timestamptz(3), is_current boolean NOT NULL);
CREATE FUNCTION odd(changes text) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION many(changes jsonb) RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION both_ways(changes jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION both_ways(changes change[]) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE PROCEDURE call_me(changes jsonb) LANGUAGE sql AS 'SELECT';
});
for my $case (
	[ 'changelog', 'poor', '{}', 'NULL', qr/column "op" of changelog "poor" must be of type text/ ],
	[ 'changelog', 'bare', '{}', 'NULL', qr/changelog "bare" has neither a column "op" nor a column "envelope"\n.*etl_cdc_create_changelog/ ],
	[ 'changelog', 'lacking', '{}', 'NULL', qr/column "owner" of changelog "lacking" is no part of an envelope and has no default/ ],
	[ 'changelog', 'item_whole', '{"tombstones": true}', 'NULL', qr/option "tombstones" requires a column "key"/ ],
	[ 'changelog', 'kinds_log', '{"tombstones": 1}', 'NULL', qr/option "tombstones" must be true or false/ ],
	[ 'changelog', 'kinds_log', '{"include": ["id"], "exclude": ["doc"]}', 'NULL', qr/options "include" and "exclude" cannot be used together/ ],
	[ 'changelog', 'kinds_log', '{"include": "id"}', 'NULL', qr/option "include" must be an array of strings/ ],
	[ 'changelog', 'kinds_log', '{"exclude": ["nothing"]}', 'NULL', qr/column "nothing" of source "public.item" does not exist\n.*option "exclude"/ ],
	[ 'changelog', 'kinds_log', '{"excludes": []}', 'NULL', qr/unrecognized option for apply "changelog": "excludes"\n.*Valid options are "include"/ ],
	[ 'changelog', 'kinds_log', '{}', q('{"after": "afterwards"}'), qr/an envelope has no part "afterwards"/ ],
	[ 'changelog', 'kinds_log', '{}', q('{"before": "op"}'), qr/column "before" of changelog "kinds_log" must be of type text/ ],
	[ 'scd2', 'dated', '{}', 'NULL', qr/column "valid_from" must be of type timestamp with time zone\n.*microseconds/ ],
	[ 'scd2', 'rough', '{}', 'NULL', qr/column "valid_from" must be of type timestamp with time zone/ ],
	[ 'scd2', 'bare', '{}', 'NULL', qr/column "valid_from" of relation "bare" does not exist\n.*etl_scd2_create/ ],
	[ 'scd2', 'item_history', '{"keys": ["name"]}', 'NULL', qr/column "name" in option "keys" is not in the replica identity of source "public.item"/ ],
	[ 'scd2', 'item_history', '{"tracked": ["nothing"]}', 'NULL', qr/column "nothing" of relation "item_history" does not exist/ ],
	[ 'scd2', 'item_history', '{"late": "weave"}', 'NULL', qr/unrecognized option for apply "scd2": "late"/ ],
	[ 'scd2', 'item_history', '{"initial_effective_at": "infinity"}', 'NULL', qr/must not be infinity/ ],
	[ 'function', 'item_calls', '{}', 'NULL', qr/apply "function" requires option "function"/ ],
	[ 'function', 'item_calls', '{"function": "public.take", "tombstones": true}', 'NULL', qr/unrecognized option for apply "function": "tombstones"/ ],
	[ 'function', 'item_calls', '{"function": "take"}', 'NULL', qr/option "function" must name a schema: "take"/ ],
	[ 'function', 'item_calls', '{"function": "public.nothing"}', 'NULL', qr/there is no function public.nothing that takes changes/ ],
	[ 'function', 'item_calls', '{"function": "public.odd"}', 'NULL', qr/there is no function public.odd that takes changes\n.*of type jsonb/ ],
	[ 'function', 'item_calls', '{"function": "public.many"}', 'NULL', qr/public.many cannot be called with changes/ ],
	[ 'function', 'item_calls', '{"function": "public.call_me"}', 'NULL', qr/public.call_me cannot be called with changes/ ],
	[ 'function', 'item_calls', '{"function": "public.both_ways"}', 'NULL', qr/there is more than one function public.both_ways/ ],
	[ 'function', 'item_calls', '{"function": "public.take"}', q('{"batch": "id"}'), qr/"columns" cannot be used with apply "function"/ ])
{
	my ($apply, $target, $options, $columns, $want) = @$case;

	refused("SELECT etl_cdc_add_table('sinks', 'public.item', '$target', '$apply', '$options', $columns)", $want, "refused: $apply $target $options $columns");
}
sql(q{
CREATE ROLE keeper LOGIN REPLICATION;
GRANT SELECT ON item TO keeper;
GRANT ALL ON item_calls TO keeper;
REVOKE EXECUTE ON FUNCTION take(jsonb) FROM PUBLIC;
SET ROLE keeper;
SELECT etl_cdc_create('of_keeper')});
refused(q{SET ROLE keeper; SELECT etl_cdc_add_table('of_keeper', 'public.item', 'item_calls', 'function', '{"function": "public.take"}')},
	qr/permission denied for function public.take/, 'a function that the owner may not execute');
sql(q{SET ROLE keeper; SELECT etl_cdc_drop('of_keeper')});

# ---------------------------------------------------------------------------
# Random transactions
# ---------------------------------------------------------------------------

sql(q{
SELECT etl_cdc_add_table('sinks', 'public.kinds', 'kinds_log', 'changelog');
SELECT etl_cdc_add_table('sinks', 'public.item', '"Item log"', 'changelog', '{"tombstones": true}');
SELECT etl_cdc_add_table('sinks', 'public.item', 'item_history', 'scd2', '{"initial_effective_at": "-infinity"}');
SELECT etl_cdc_add_table('sinks', 'public.item', 'item_whole', 'changelog',
	'{"unavailable_value": "__debezium_unavailable_value", "exclude": ["price"]}', row_filter => 'id <> 5');
SELECT etl_cdc_add_table('sinks', 'public.item', 'item_calls', 'function', '{"function": "public.take"}');
SELECT etl_cdc_add_table('sinks', 'public.item', 'item_typed', 'function', '{"function": "public.take_typed"}');
SELECT etl_cdc_start('sinks')});
applied('sinks', 'tables are copied');

# A row of every kind, now and then with values at the edge.
sub kinds_values
{
	my ($k) = @_;

	return pick(
		"($k, true, -32768, -9223372036854775808, 1.10, 0.1, 1e-300, '2024-02-03 04:05:06.789012+03', '0044-03-15 01:02:03 BC', 'infinity',
			'24:00', '12:00:01.5+05:30', '1 year -3 days 04:05:06.7', '\\x00ff', '{\"x\": [1, 2.50, null]}', 'ab', 'ok', '(1,\"x \"\"y\"\"\")', 5,
			'00000000-0000-0000-0000-000000000001', '{{1,2},{3,NULL}}', '{\"a,b\",\"\\\"q\",NULL,\"NULL\"}', '{\"(1,a)\",NULL}', '{NaN,Infinity,1.50}',
			ARRAY['[1,2]', '{\"a\": 1}', 'null']::jsonb[], '[0:1]={7,8}', '[1,5)', '[2024-01-01 00:00:00+01,infinity)', '1010', '10.1.2.3/8',
			'public.kinds', repeat('big', 2000))",
		"($k, false, 32767, 9223372036854775807, 'NaN', 'NaN', '-Infinity', '-infinity', '12345-01-01 00:00', '0001-01-01 BC',
			'00:00:00.000001', '23:59:59.999999-15:59', '-1 mon +1 day -00:00:00.1', '', '\"a string\"', '', 'happy', '(,)', NULL,
			NULL, '{}', '{}', '{}', '{}', '{}', '{}', 'empty', 'empty', '0000', '::1', '-', '')",
		"($k, NULL, 0, 0, 123456789012345678901234567890.123456789, 3.4e38, 0.1, '2000-01-01 00:00:00.000001+00', 'infinity', '-infinity',
			'12:34:56.789', '00:00+00', '00:00', '\\x5c27', '[null]', 'x', 'sad', NULL, 1, NULL, '{NULL}', '{\"\"}', NULL, '{0.000,1e20}', ARRAY['1', '\"x\"']::jsonb[],
			'{5}', '(,)', '(,)', '1111', '0.0.0.0', 'pg_class', NULL)");
}

sub kinds_change
{
	my $k = key();

	return pick(
		'INSERT INTO kinds VALUES ' . kinds_values($k) . ' ON CONFLICT DO NOTHING',
		'INSERT INTO kinds VALUES ' . kinds_values($k) . ' ON CONFLICT DO NOTHING',
		"UPDATE kinds SET n = n * 1.0, iv = iv + interval '1 day 1 second', f8 = f8 * 1.1 WHERE id = $k AND f8 > 0",
		"UPDATE kinds SET ia = ARRAY[$k, NULL], p = ROW($k, 'a'), big = big || 'x' WHERE id = $k",
		"UPDATE kinds SET id = id + 100 WHERE id = $k AND NOT EXISTS (SELECT FROM kinds WHERE id = $k + 100)",
		"UPDATE kinds SET id = id - 100, s = 1 WHERE id = $k + 100 AND NOT EXISTS (SELECT FROM kinds WHERE id = $k)",
		"DELETE FROM kinds WHERE id = $k");
}

sub item_change
{
	my $k = key();

	return pick(
		"INSERT INTO item VALUES ($k, 'new', random(), repeat('n', 3000)) ON CONFLICT DO NOTHING",
		"UPDATE item SET name = 'name ' || round(random() * 3) WHERE id = $k",
		"UPDATE item SET name = name WHERE id = $k",
		"UPDATE item SET price = price + 1 WHERE id BETWEEN $k AND $k + 2",
		"UPDATE item SET doc = doc || 'x' WHERE id = $k",
		"UPDATE item SET doc = doc || 'y' WHERE id = $k; UPDATE item SET price = 0 WHERE id = $k",
		"UPDATE item SET id = id + 100, price = 7 WHERE id = $k AND NOT EXISTS (SELECT FROM item WHERE id = $k + 100)",
		"UPDATE item SET id = id - 100 WHERE id = $k + 100 AND NOT EXISTS (SELECT FROM item WHERE id = $k)",
		"UPDATE item SET id = 5 WHERE id = $k AND NOT EXISTS (SELECT FROM item WHERE id = 5)",
		"UPDATE item SET id = $k WHERE id = 5 AND NOT EXISTS (SELECT FROM item WHERE id = $k)",
		"DELETE FROM item WHERE id = $k",
		"DELETE FROM item WHERE id = $k; INSERT INTO item VALUES ($k, 'again', 1, 'short')",
		'SAVEPOINT s; DELETE FROM item; ROLLBACK TO s',
		"DELETE FROM item WHERE id > 100");
}

# A transaction, which keeps the state that it leaves behind.
sub transaction
{
	my (@changes) = @_;

	return 'BEGIN; ' . join('; ', @changes) . '; INSERT INTO item_state SELECT txid_current(), * FROM item UNION ALL SELECT txid_current(), NULL, NULL, NULL, NULL; COMMIT;';
}

for my $round (1 .. 6)
{
	my @transactions;

	for (1 .. $rounds / 6)
	{
		my @changes = map { rand() < 0.7 ? item_change() : kinds_change() } 1 .. 1 + int(rand(4));

		push @changes, 'TRUNCATE kinds' if rand() < 0.02;
		push @changes, 'TRUNCATE item' if rand() < 0.03;
		push @changes, "TRUNCATE item; INSERT INTO item VALUES (1, 'after truncate', 1, repeat('t', 3000)), (2, 'after', 2, 'short')" if rand() < 0.04;
		push @transactions, transaction(@changes);
	}
	# some while it runs, some for large batches
	sql("SELECT etl_cdc_stop('sinks')") if $round % 2;
	sql(join("\n", @transactions));
	sql("SELECT etl_cdc_start('sinks')") if $round % 2;
	applied('sinks', "round $round is applied");
}

# ---------------------------------------------------------------------------
# The changelog is the table
# ---------------------------------------------------------------------------

# The same as in the documentation: change by change.
sub replay
{
	my ($log, $table) = @_;

	return qq{
DO \$\$
DECLARE
	c record;
	old $table;
BEGIN
	TRUNCATE $table;
	FOR c IN SELECT * FROM $log WHERE op IS NOT NULL ORDER BY change_id LOOP
		IF c.op = 't' THEN
			TRUNCATE $table;
			CONTINUE;
		END IF;
		DELETE FROM $table AS t WHERE t.id = (coalesce(c.before, c.after) ->> 'id')::int RETURNING * INTO old;
		IF c.op <> 'd' THEN
			INSERT INTO $table SELECT (jsonb_populate_record(CASE WHEN c.op = 'u' THEN old END, c.after)).*;
		END IF;
	END LOOP;
END
\$\$};
}

sql(q{CREATE TABLE item_again (LIKE item)});
for my $settings ('', q{SET datestyle = 'German'; SET timezone = 'Asia/Kolkata'; SET intervalstyle = 'iso_8601'; SET extra_float_digits = -5; SET bytea_output = 'escape';})
{
	sql($settings . replay('kinds_log', 'kinds_again'));
	same('SELECT * FROM kinds', 'SELECT * FROM kinds_again', "values of every kind come back ($settings)");
}
sql(replay('"Item log"', 'item_again'));
same('SELECT * FROM item', 'SELECT * FROM item_again', 'the changelog gives the table');

is(sql(q{SELECT count(*) FROM "Item log" WHERE op = 'd'}), sql(q{SELECT count(*) FROM "Item log" WHERE op IS NULL AND after IS NULL AND key IS NOT NULL}),
	'each delete has its tombstone');
is(sql(q{SELECT bool_and(a.key = b.key AND a.op = 'd') FROM "Item log" AS b JOIN "Item log" AS a ON a.change_id = b.change_id - 1 WHERE b.op IS NULL}), 't',
	'which follows it');
is(sql(q{SELECT bool_and(s.connector = 'etl_patterns' AND s.name = 'sinks' AND s.db = 'postgres' AND s.schema = 'public' AND s."table" = 'item'
		AND s."txId" = l.xid AND s.lsn = l.lsn - '0/0' AND s.commit_lsn = l.commit_lsn - '0/0' AND s.snapshot = (op = 'r')
		AND s.ts_ms = floor(extract(epoch FROM committed_at) * 1000) AND s.ts_us = extract(epoch FROM committed_at) * 1000000
		AND s.version IS NOT NULL AND l.ts_ms >= s.ts_ms AND l."table" = 'public.item'
		AND l.transaction ->> 'id' = l.xid || ':' || s.commit_lsn AND (l.transaction ->> 'total_order')::bigint = ordinal)
	FROM "Item log" AS l, jsonb_to_record(source) AS s(connector text, name text, db text, schema text, "table" text, "txId" bigint, lsn numeric, commit_lsn numeric,
		snapshot boolean, ts_ms bigint, ts_us bigint, version text) WHERE op <> 'r'}), 't', 'what is said of the source');
is(sql(q{SELECT count(*) FROM "Item log" WHERE op IS NOT NULL AND op <> 'r' AND pg_xact_commit_timestamp(xid::text::xid) IS DISTINCT FROM committed_at}), '0',
	'times are those of the commits');
is(sql(q{SELECT bool_and(o = (transaction ->> 'data_collection_order')::bigint) FROM (SELECT transaction, row_number() OVER (PARTITION BY xid ORDER BY change_id) AS o
	FROM "Item log" WHERE op IS NOT NULL AND op <> 'r') AS l}), 't', 'changes of a transaction are counted');
is(sql(q{SELECT count(*) > 0, bool_and(op = 'u' AND NOT after ? 'doc') FROM "Item log" WHERE source ? 'unchanged'}), 't|t', 'what was not logged is named');

# ---------------------------------------------------------------------------
# The whole envelope in one column, and a filter
# ---------------------------------------------------------------------------

is(sql(q{SELECT count(*) FROM item_whole WHERE envelope -> 'after' ? 'price' OR envelope -> 'before' ? 'price'
	OR envelope -> 'after' ->> 'id' = '5' OR NOT envelope ?& '{op,before,after,source,ts_ms,transaction}'}), '0', 'columns and rows that are left out');
is(sql(q{SELECT count(*) > 0 FROM item_whole WHERE envelope -> 'after' ->> 'doc' = '__debezium_unavailable_value' AND envelope -> 'source' -> 'unchanged' = '["doc"]'}), 't',
	'a word for what was not logged');
same(q{SELECT id, name FROM item WHERE id <> 5}, q{SELECT (after ->> 'id')::int, after ->> 'name' FROM (
	SELECT DISTINCT ON (key) op, after FROM (
		SELECT number * 2 + 1 AS n, envelope ->> 'op' AS op, envelope -> 'after' AS after, coalesce(envelope -> 'after', 'null') -> 'id' AS key FROM item_whole WHERE envelope -> 'after' <> 'null'
		UNION ALL SELECT number * 2, 'd', NULL, envelope -> 'before' -> 'id' FROM item_whole WHERE envelope -> 'before' <> 'null') AS c
	WHERE n > 2 * coalesce((SELECT max(number) FROM item_whole WHERE envelope ->> 'op' = 't'), 0) ORDER BY key, n DESC) AS l WHERE op <> 'd'},
	'what the filter lets pass comes and goes');

# ---------------------------------------------------------------------------
# Functions
# ---------------------------------------------------------------------------

same(q{SELECT op, before, after, source, "transaction", rank() OVER (ORDER BY change_id) FROM "Item log" WHERE op <> 'r'},
	q{SELECT change ->> 'op', nullif(change -> 'before', 'null'), nullif(change -> 'after', 'null'), change -> 'source', nullif(change -> 'transaction', 'null'), rank() OVER (ORDER BY number) FROM item_calls WHERE change ->> 'op' <> 'r'},
	'a function gets each change once, in order');
same(q{SELECT op, key, after, lsn, rank() OVER (ORDER BY change_id) FROM "Item log" WHERE op <> 'r'},
	q{SELECT op, key, after, lsn, rank() OVER (ORDER BY number) FROM item_typed WHERE op <> 'r'}, 'and so does one that takes rows');
same(q{SELECT after FROM "Item log" WHERE op = 'r'}, q{SELECT change -> 'after' FROM item_calls WHERE change ->> 'op' = 'r'}, 'and each row of the copy');
is(sql('SELECT count(DISTINCT batch) < count(DISTINCT change -> \'transaction\') FROM item_calls'), 't', 'many transactions at a time');

# ---------------------------------------------------------------------------
# History
# ---------------------------------------------------------------------------

sub history_is_sound
{
	my ($what) = @_;

	is(sql(q{SELECT * FROM etl_scd2_verify('item_history', '{id}', tracked => '{name,price,doc}')}), '', "no fault in the history $what");
	same('SELECT id, name, price, doc FROM item', 'SELECT id, name, price, doc FROM item_history WHERE is_current', "what is current $what");
	return;
}

# When the state of each transaction was reached: a commit at a time that is
# not later than that of the one before takes effect a microsecond after it.
my $differences = q{
WITH RECURSIVE commits AS (
	SELECT xid, pg_xact_commit_timestamp(xid::text::xid) AS at, row_number() OVER (ORDER BY min(n)) AS n FROM item_state GROUP BY xid),
effective AS (
	SELECT n, xid, at FROM commits WHERE n = 1
	UNION ALL SELECT c.n, c.xid, greatest(c.at, e.at + interval '1 microsecond') FROM effective AS e JOIN commits AS c ON c.n = e.n + 1),
want AS (SELECT xid, id, name, price, doc FROM item_state WHERE id IS NOT NULL),
have AS (SELECT e.xid, h.id, h.name, h.price, h.doc FROM effective AS e JOIN item_history AS h ON h.valid_from <= e.at AND (h.valid_to > e.at OR h.valid_to IS NULL))
SELECT count(*) FROM ((SELECT * FROM want EXCEPT ALL SELECT * FROM have) UNION ALL (SELECT * FROM have EXCEPT ALL SELECT * FROM want)) AS d};

history_is_sound('after random transactions');
is(sql($differences), '0', 'the history at each commit is the state at that commit');
is(sql(q{SELECT count(*) FROM item_history WHERE valid_from = '-infinity'}), '8', 'copied rows hold from the start');

# A transaction that does not fit into a batch is one step all the same.
sql(q{
CREATE TABLE wide (id int PRIMARY KEY, v text);
ALTER TABLE wide ALTER v SET STORAGE EXTERNAL;
CREATE TABLE wide_log (op text, "table" text, after jsonb);
SELECT etl_cdc_add_table('sinks', 'public.wide', 'wide_log', 'changelog')});
applied('sinks', 'a table that joins');
sql(transaction(
	"INSERT INTO item VALUES (200, 'first', 1, 'd'), (201, 'goes', 1, 'd')", "UPDATE item SET name = 'on the way' WHERE id = 1",
	"INSERT INTO wide SELECT g, repeat(md5(g::text), 40000) FROM generate_series(1, 70) AS g",
	"UPDATE item SET name = 'second' WHERE id = 200", 'DELETE FROM item WHERE id = 201', "UPDATE item SET name = 'at last' WHERE id = 1",
	"INSERT INTO wide SELECT g, repeat(md5(g::text), 40000) FROM generate_series(71, 140) AS g",
	"UPDATE item SET name = 'third' WHERE id = 200"));
applied('sinks', 'a large transaction');
is(sql('SELECT count(*), sum(length(after ->> \'v\')) FROM wide_log'), '140|179200000', 'each of its rows');
history_is_sound('after a large transaction');
is(sql($differences), '0', 'at each commit, with a large one');
is(sql('SELECT id, name FROM item_history WHERE id IN (200, 201)'), '200|third', 'one version for each key of the large one');

# Versions of a key follow the order of commits, whatever their times.
sql(q{UPDATE item_history SET valid_from = valid_from + interval '1 hour' WHERE id = 200 AND is_current});
sql(q{UPDATE item SET name = 'fourth' WHERE id = 200});
applied('sinks', 'a change before the last one');
is(sql(q{SELECT name, valid_from - lag(valid_from) OVER (ORDER BY valid_from) FROM item_history WHERE id = 200}), "third|\nfourth|00:00:00.000001",
	'takes effect a microsecond after it');
sql(q{DELETE FROM item WHERE id = 200});
applied('sinks', 'a delete before the last one');
is(sql(q{SELECT max(valid_to) = max(valid_from) + interval '1 microsecond', bool_or(is_current) FROM item_history WHERE id = 200}), 't|f', 'likewise');
sql(q{INSERT INTO item VALUES (200, 'fifth', 1, 'd'); TRUNCATE item});
applied('sinks', 'TRUNCATE before the last one');
is(sql('SELECT count(*) FROM item_history WHERE is_current OR valid_to IS NULL'), '0', 'TRUNCATE ends all versions');
sql(q{INSERT INTO item VALUES (1, 'back', 1, 'd')});
applied('sinks', 'a row that is back');
history_is_sound('in the end');

# Many sessions commit at the same time.
sql(q{
INSERT INTO item SELECT g, 'busy', 0, repeat('d', 3000) FROM generate_series(301, 303) AS g;
CREATE SEQUENCE busy});
$node->pgbench('-n -c 5 -j 1 -t 60', 0, [qr{processed: 300/300}], [qr{^$}], 'sessions that write at the same time', {
	'074_busy' => q{\set id random(301, 303)
SET synchronous_commit = off;
UPDATE item SET name = 'busy ' || nextval('busy') WHERE id = :id;} });
applied('sinks', 'what many sessions wrote');
same(q{SELECT key ->> 'id' AS id, array_agg(after ->> 'name' ORDER BY change_id) FROM "Item log" WHERE after ->> 'name' LIKE 'busy%' GROUP BY 1},
	q{SELECT id::text, array_agg(name ORDER BY valid_from) FROM item_history WHERE name LIKE 'busy%' GROUP BY 1}, 'versions are in the order of the commits');
history_is_sound('of many sessions');

# The table is copied again, after changes that nobody has seen.
sql(q{
INSERT INTO item VALUES (2, 'stays', 2, 'd'), (3, 'goes', 3, 'd'), (4, 'changes', 4, 'd');
SELECT etl_cdc_wait('sinks');
SELECT etl_cdc_remove_table('sinks', 'public.item', 'item_history');
DELETE FROM item WHERE id = 3;
UPDATE item SET name = 'changed' WHERE id = 4;
SELECT etl_cdc_wait('sinks');
SELECT etl_cdc_add_table('sinks', 'public.item', 'item_history', 'scd2')});
applied('sinks', 'a table that was there before');
is(sql(q{SELECT id, name, is_current FROM item_history WHERE id IN (2, 4) AND valid_from > '-infinity' AND name IN ('stays', 'changes', 'changed') ORDER BY valid_from, id}),
	"2|stays|t\n4|changes|f\n4|changed|t", 'what is the same goes on, what has changed begins');
sql(q{SELECT etl_cdc_resync('sinks', 'public.item')});
applied('sinks', 'a table that is copied again');
history_is_sound('after another copy');
is(sql(q{SELECT count(*) FROM item_history WHERE id = 2 AND name = 'stays'}), '1', 'what is the same goes on');

# Columns that are written over, or kept, and a key that is not the identity's.
sql(q{
CREATE TABLE person (tenant int, id int, town text, mail text, born date, PRIMARY KEY (tenant, id));
CREATE TABLE person_history (tenant int, id int, town text, town_before text, mail text, born date, begins timestamptz NOT NULL, ends timestamptz DEFAULT '9999-12-31 00:00:00+00');
INSERT INTO person VALUES (1, 1, 'Ulm', 'a@x', '2000-01-01');
SELECT etl_cdc_create('people');
SELECT etl_cdc_add_table('people', 'public.person', 'person_history', 'scd2', '{"valid_from": "begins", "valid_to": "ends", "is_current": null,
	"tracked": ["town"], "overwrite": ["mail"], "fixed": ["born"], "previous": {"town": "town_before"}, "keys": ["tenant", "id"]}', row_filter => 'town <> ''nowhere''');
SELECT etl_cdc_start('people')});
applied('people', 'people are copied');
sql(q{
UPDATE person SET mail = 'b@x', born = '1999-09-09';
UPDATE person SET town = 'Bonn';
UPDATE person SET town = 'nowhere';
UPDATE person SET town = 'Kiel', mail = 'c@x';
INSERT INTO person VALUES (1, 2, 'nowhere', 'd@x', NULL);
UPDATE person SET tenant = 2 WHERE id = 1});
applied('people', 'people move');
is(sql(q{SELECT tenant, id, town, town_before, mail, born, ends = '9999-12-31 00:00:00+00' FROM person_history ORDER BY begins}), join("\n",
	'1|1|Ulm||c@x|2000-01-01|f', '1|1|Bonn|Ulm|c@x|2000-01-01|f', '1|1|Kiel|Bonn|c@x|2000-01-01|f', '2|1|Kiel||c@x|1999-09-09|t'),
	'roles of columns, and a filter');
is(sql(q{SELECT * FROM etl_scd2_verify('person_history', '{tenant,id}', 'begins', 'ends', NULL, '{town}')}), '', 'no fault in it');

# With the whole row as identity the primary key tells one history from another.
sql(q{
CREATE TABLE whole (id int PRIMARY KEY, v text, big text);
ALTER TABLE whole REPLICA IDENTITY FULL, ALTER big SET STORAGE EXTERNAL;
CREATE TABLE whole_history (LIKE whole, valid_from timestamptz, valid_to timestamptz, is_current bool);
CREATE TABLE keyless (v text);
ALTER TABLE keyless REPLICA IDENTITY FULL;
CREATE TABLE keyless_history (LIKE keyless, valid_from timestamptz, valid_to timestamptz, is_current bool);
SELECT etl_cdc_create_changelog('whole_log');
SELECT etl_cdc_add_table('people', 'public.whole', 'whole_log', 'changelog', row_filter => 'big <> ''''');
SELECT etl_cdc_add_table('people', 'public.whole', 'whole_history', 'scd2')});
sql(q{
CREATE TABLE unkeyed (v text);
ALTER TABLE unkeyed REPLICA IDENTITY NOTHING;
SELECT etl_cdc_create_changelog('unkeyed_log');
SELECT etl_cdc_add_table('people', 'public.unkeyed', 'unkeyed_log', 'changelog', '{"tombstones": true}')});
refused(q{SELECT etl_cdc_add_table('people', 'public.keyless', 'keyless_history', 'scd2')}, qr/source "public.keyless" has no key that tells one history from another\n.*\n.*option "keys"/,
	'without a key there is no history');
applied('people', 'whole rows');
sql(q{
INSERT INTO whole VALUES (1, 'a', repeat('x', 5000));
UPDATE whole SET v = 'b';
UPDATE whole SET id = 2;
DELETE FROM whole});
applied('people', 'whole rows change');
is(sql(q{SELECT id, v, length(big), is_current FROM whole_history ORDER BY valid_from}), "1|a|5000|f\n1|b|5000|f\n2|b|5000|f", 'their history');
is(sql(q{SELECT op, key ->> 'id', before ->> 'id', before ->> 'v', length(before ->> 'big'), after ->> 'id', length(after ->> 'big'), source ? 'unchanged' FROM whole_log ORDER BY change_id}),
	join("\n", 'c|1||||1|5000|f', 'u|1|1|a|5000|1|5000|f', 'u|2|1|b|5000|2|5000|f', 'd|2|2|b|5000|||f'), 'their changelog');

# Without any identity there is nothing to say of what is gone.
sql(q{INSERT INTO unkeyed VALUES ('a'), ('b'); UPDATE unkeyed SET v = 'c' WHERE v = 'a'; DELETE FROM unkeyed});
applied('people', 'rows without a key change');
is(sql(q{SELECT op, before, after ->> 'v', key FROM unkeyed_log ORDER BY change_id}), join("\n", 'c||a|', 'c||b|', 'u||c|', ('d|||', '|||') x 2), 'their changelog');

# ---------------------------------------------------------------------------
# A function that fails
# ---------------------------------------------------------------------------

sql(q{
CREATE TABLE seen (id int, note text);
CREATE FUNCTION see(changes jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.seen SELECT (c -> 'after' ->> 'id')::int, 'seen' FROM pg_catalog.jsonb_array_elements(changes) AS c;
	IF EXISTS (SELECT FROM public.seen WHERE id = 13) THEN
		RAISE 'thirteen is refused';
	END IF;
END
$$;
CREATE TABLE number (id int PRIMARY KEY);
SELECT etl_cdc_create('numbers');
SELECT etl_cdc_add_table('numbers', 'public.number', 'seen', 'function', '{"function": "public.see"}');
SELECT etl_cdc_start('numbers')});
applied('numbers', 'numbers are followed');
sql(q{INSERT INTO number SELECT generate_series(11, 12)});
sql(q{INSERT INTO number SELECT generate_series(13, 15)});
is(paused('numbers'), 'thirteen is refused', 'an error of the function pauses the pipeline');
is(sql('SELECT id FROM seen ORDER BY id'), "11\n12", 'what it did is undone');
sql(q{
CREATE OR REPLACE FUNCTION see(changes jsonb) RETURNS void LANGUAGE sql AS $$
	INSERT INTO public.seen SELECT (c -> 'after' ->> 'id')::int, 'seen' FROM pg_catalog.jsonb_array_elements(changes) AS c $$;
SELECT etl_cdc_start('numbers')});
applied('numbers', 'it goes on with another function');
is(sql('SELECT id FROM seen ORDER BY id'), join("\n", 11 .. 15), 'each change once');
sql(q{DROP FUNCTION see(jsonb); INSERT INTO number VALUES (16)});
like(paused('numbers'), qr/there is no function public.see that takes changes/, 'a function that is gone pauses it, too');

# With dead letters the change that fails is left out, and no other.
sql(q{
CREATE TABLE letter (id int PRIMARY KEY);
CREATE TABLE letter_seen (id int CHECK (id <> 3), op text);
CREATE FUNCTION see_letter(changes jsonb) RETURNS void LANGUAGE sql AS $$
	INSERT INTO public.letter_seen SELECT (coalesce(c -> 'after' ->> 'id', c -> 'before' ->> 'id'))::int, c ->> 'op' FROM pg_catalog.jsonb_array_elements(changes) AS c $$;
CREATE TABLE letter_log (op text, after jsonb CHECK (after ->> 'id' <> '4'), ordinal bigint);
CREATE TABLE letter_history (id int CHECK (id <> 5), valid_from timestamptz, valid_to timestamptz, is_current bool);
SELECT etl_cdc_create('letters', on_error => 'dead_letter');
SELECT etl_cdc_add_table('letters', 'public.letter', 'letter_seen', 'function', '{"function": "public.see_letter"}');
SELECT etl_cdc_add_table('letters', 'public.letter', 'letter_log', 'changelog');
SELECT etl_cdc_add_table('letters', 'public.letter', 'letter_history', 'scd2');
SELECT etl_cdc_start('letters')});
applied('letters', 'letters are followed');
sql(q{INSERT INTO letter SELECT generate_series(1, 6); DELETE FROM letter WHERE id = 6});
applied('letters', 'some changes fail');
is(sql('SELECT id, op FROM letter_seen'), "1|c\n2|c\n4|c\n5|c\n6|c\n6|d", 'a function gets all others');
is(sql('SELECT op, after, ordinal FROM letter_log'), join("\n", (map { "c|{\"id\": $_}|$_" } 1, 2, 3, 5, 6), 'd||1'), 'a changelog has all others');
is(sql('SELECT id, is_current FROM letter_history ORDER BY id'), "1|t\n2|t\n3|t\n4|t\n6|f", 'a history has all others');
is(sql(q{SELECT payload -> 'after' ->> 'id', category FROM etl_patterns.dead_letter ORDER BY 1}), "3|check\n4|check\n5|check", 'these three are dead letters');

for my $pipeline ('sinks', 'people', 'numbers', 'letters')
{
	sql("SELECT etl_cdc_drop('$pipeline')");
}
is(sql('SELECT count(*) FROM pg_replication_slots'), '0', 'no slot is left');

$node->stop;
done_testing();
