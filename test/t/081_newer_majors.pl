# What tables may have since PostgreSQL 15, each where the server has it: it
# works, or is refused with a reason.  Never is a value wrong or lost.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Cdc;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $server = Cdc::start('newer_majors', "max_wal_senders = 5\nmax_replication_slots = 10\n");
my $node = $server->{node};
my $major = int($node->pg_version);
my $has_gist = sql(q{SELECT count(*) FROM pg_available_extensions WHERE name = 'btree_gist'});
my $dir = PostgreSQL::Test::Utils::tempdir();

# A file to be loaded.
sub file
{
	my ($name, @lines) = @_;
	my $path = "$dir/$name";

	open my $fh, '>', $path or die $!;
	print $fh map { "$_\n" } @lines;
	close $fh;
	chmod 0644, $path;
	return $path;
}

# Loads it, and returns how many rows were loaded and rejected.
sub load
{
	my ($target, $path, $options) = @_;

	return sql(sprintf q{SELECT rows_loaded, rows_rejected FROM etl_bulk_copy('%s', '%s', force => true%s)},
		$target, $path, $options ? ", $options" : '');
}

sub rows { return sql("SELECT string_agg(d::text, ' ' ORDER BY d) FROM ($_[0]) d") }

# The dead letters of a table, by row.
sub letters
{
	my ($target) = @_;

	return sql("SELECT string_agg(concat_ws(':', category, column_name, raw_record), ' ' ORDER BY dead_letter_id)
		FROM etl_patterns.dead_letter WHERE target = '$target'::regclass");
}

chmod 0755, $dir;

# ---------------------------------------------------------------------------
# PostgreSQL 18: columns that are computed when they are read
# ---------------------------------------------------------------------------

sub virtual_columns_of_targets
{
	my $numbers = file('numbers.csv', 'id,a,b', '1,10,x', '2,20,', '3,,z', '4,-5,w', '4,40,dup');
	my $want = '(1,10,20,x,11,101) (2,20,40,,21,102) (4,40,80,dup,41,104)';
	my $columns = q{id int, a int, g int GENERATED ALWAYS AS (a * 2) VIRTUAL CHECK (g > 0), b text,
		h int GENERATED ALWAYS AS (a + 1) VIRTUAL NOT NULL, s int GENERATED ALWAYS AS (id + 100) STORED};

	sql("CREATE TABLE v ($columns, PRIMARY KEY (id))");
	is(load('v', $numbers, q{on_error => 'dead_letter'}), '3|2', 'a load into a table with virtual columns');
	is(rows('TABLE v'), $want, 'which are computed');
	is(letters('v'), 'not_null:h:3,,z check:4,-5,w', 'their constraints hold, row by row');
	sql(q{SELECT etl_dead_letter_edit(dead_letter_id, '3,30,z') FROM etl_patterns.dead_letter WHERE category = 'not_null'});
	is(sql(q{SELECT replayed, rejected FROM etl_dead_letter_replay('v')}), '1|1', 'a dead letter is mended');
	is(rows('SELECT g, h FROM v WHERE id = 3'), '(60,31)', 'and replayed');
	is(load('v', file('again.csv', 'id,a', '1,11', '5,50'), q{on_conflict => 'update'}), '2|0', 'the same with on_conflict');
	is(rows('SELECT id, a, g, s FROM v WHERE id IN (1, 5)'), '(1,11,22,101) (5,50,100,105)', 'computes them anew');
	refused(sprintf(q{SELECT etl_bulk_copy('v', '%s')}, file('g.csv', 'id,g', '9,9')), qr/column "g" is a generated column/, 'they cannot be loaded');

	sql(qq{
		CREATE TABLE vp ($columns) PARTITION BY RANGE (id);
		CREATE TABLE vp_1 (s int GENERATED ALWAYS AS (id + 100) STORED, h int GENERATED ALWAYS AS (a + 1) VIRTUAL NOT NULL, gone int, b text, a int,
			g int GENERATED ALWAYS AS (a * 3) VIRTUAL, id int, CONSTRAINT vp_g_check CHECK (g > 0));
		ALTER TABLE vp_1 DROP gone;
		ALTER TABLE vp ATTACH PARTITION vp_1 FOR VALUES FROM (0) TO (3);
		CREATE TABLE vp_2 PARTITION OF vp DEFAULT;
	});
	is(load('vp', $numbers, q{on_error => 'skip'}), '3|2', 'a load into partitions with virtual columns');
	is(rows('TABLE vp'), $want, 'which have the expressions of the table that is read');
	is(rows('SELECT id, g FROM vp_1'), '(1,30) (2,60)', 'or of the partition');

	# so many that all ways of reading take part
	my $many = file('many.csv', 'id,a,b', map { "$_," . ($_ % 97 - ($_ % 10000 == 0 ? 200 : 0)) . ",t$_" } 1 .. 60000);

	sql(q{CREATE TABLE vm (h int GENERATED ALWAYS AS (a + 1) VIRTUAL NOT NULL, id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) CHECK (g > -50), b text)});
	is(load('vm', $many, q{on_error => 'skip', workers => 2}), '59994|6', 'a load with workers');
	is(sql('SELECT count(*), sum(g) - 2 * sum(a), sum(h) - sum(a), sum(a) FROM vm'), '59994|0|59994|2878704', 'computes them, too');
	return;
}

sub virtual_columns_of_sources
{
	my $rows = q{SELECT id, a, g, b FROM %s};

	sql(q{
		CREATE TABLE vs (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) VIRTUAL, b text);
		INSERT INTO vs (id, a, b) SELECT i, i, 't' || i FROM generate_series(1, 100) i;
	});
	sql("CREATE TABLE vs_$_ (id int PRIMARY KEY, a int, g int, b text)") foreach qw(append upsert cursor merge);
	sql('CREATE TABLE vs_other (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 3) VIRTUAL, b text)');
	my @pulls = (q{'append', 'vs', 'vs_append', 'id'}, q{'upsert', 'vs', 'vs_upsert', 'a', '{id}', 'upsert'}, q{'cursor', 'vs', 'vs_cursor', 'g', '{id}', 'upsert'});

	sql("SELECT etl_incremental_pull($_)") foreach @pulls;
	sql(q{INSERT INTO vs (id, a, b) VALUES (101, 501, 'new'); UPDATE vs SET a = 500 WHERE id = 3;});
	sql("SELECT etl_incremental_pull($_)") foreach @pulls;
	same(sprintf("$rows WHERE id <> 3", 'vs'), sprintf("$rows WHERE id <> 3", 'vs_append'), 'pulls read virtual columns: append');
	same(sprintf($rows, 'vs'), sprintf($rows, 'vs_upsert'), 'upsert');
	same(sprintf($rows, 'vs'), sprintf($rows, 'vs_cursor'), 'and have them as a cursor');
	sql(q{
		ALTER TABLE vs ADD flag bool DEFAULT true;
		CREATE TABLE vs_flag (LIKE vs_append INCLUDING ALL);
		SELECT etl_incremental_pull('flag', 'vs', 'vs_flag', flag_column => 'flag', keys => '{id}', apply => 'upsert');
	});
	same(sprintf($rows, 'vs'), sprintf($rows, 'vs_flag'), 'a flag brings them, too');
	sql(q{SELECT etl_incremental_pull('other', 'vs', 'vs_other', 'id')});
	is(sql('SELECT count(*), sum(g) - 3 * sum(a) FROM vs_other'), '101|0', 'a target computes its own');

	sql(q{SELECT etl_upsert('vs_merge', 'vs', '{id}')});
	same(sprintf($rows, 'vs'), sprintf($rows, 'vs_merge'), 'a merge reads virtual columns');
	sql(q{UPDATE vs SET a = a + 1 WHERE id < 50; DELETE FROM vs WHERE id > 90;});
	is(sql(q{SELECT inserted, updated, unchanged, deleted FROM etl_upsert('vs_merge', 'vs', '{id}', absent => 'delete')}), '0|49|41|11', 'sees what changes them');
	same(sprintf($rows, 'vs'), sprintf($rows, 'vs_merge'), 'and writes it');
	sql(q{SELECT etl_upsert('vs_other', 'vs', '{id}', absent => 'delete')});
	is(sql('SELECT count(*), sum(g) - 3 * sum(a) FROM vs_other'), '90|0', 'a target of a merge computes its own');
	refused(q{SELECT etl_upsert('vs_other', 'vs', '{g}')}, qr/column "g" in parameter "keys" is a generated column/, 'which is no key');
	sql('ALTER TABLE vs_other ADD CHECK (g < 2000)');
	sql('UPDATE vs SET a = 700 WHERE id = 7');
	refused(q{SELECT etl_upsert('vs_other', 'vs', '{id}')}, qr/violates check constraint "vs_other_g_check"/, 'a check of it holds');

	# history
	sql(q{
		CREATE TABLE vh (id int, a int, g int GENERATED ALWAYS AS (a * 2) VIRTUAL, at date GENERATED ALWAYS AS ('2026-01-01'::date + a) VIRTUAL);
		INSERT INTO vh (id, a) VALUES (1, 1), (2, 2);
		SELECT etl_scd2_create('vh_dim', 'vh', '{id}', tracked => '{g}', time_type => 'date');
		ALTER TABLE vh_dim ADD v int GENERATED ALWAYS AS (g + 1000) VIRTUAL;
		SELECT etl_scd2_merge('vh_dim', 'vh', '{id}', sequence_by => 'at');
		UPDATE vh SET a = 5 WHERE id = 2;
		SELECT etl_scd2_merge('vh_dim', 'vh', '{id}', sequence_by => 'at');
	});
	is(rows('SELECT id, g, v, valid_from, valid_to FROM vh_dim'),
		'(1,2,1002,2026-01-02,) (2,4,1004,2026-01-03,2026-01-06) (2,10,1010,2026-01-06,)', 'history of virtual columns, in order of another one');
	is(sql(q{SELECT count(*) FROM etl_scd2_verify('vh_dim', '{id}')}), '0', 'is whole');
	return;
}

sub virtual_columns_of_pipelines
{
	sql(q{
		CREATE TABLE cs (gone int, id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) VIRTUAL, s int GENERATED ALWAYS AS (a * 3) STORED, b text);
		ALTER TABLE cs DROP gone;
		INSERT INTO cs (id, a, b) SELECT i, i, 't' || i FROM generate_series(1, 100) i;
		CREATE TABLE c_plain (id int PRIMARY KEY, a int, g int, s int, b text);
		CREATE TABLE c_own (id int PRIMARY KEY, g int GENERATED ALWAYS AS (a + 1000) VIRTUAL CHECK (g < 9000), a int, s int GENERATED ALWAYS AS (a * 4) STORED, b text);
		CREATE TABLE c_computed (id int PRIMARY KEY, a int, g int, s int, b text);
		CREATE TABLE c_left_out (id int PRIMARY KEY, a int, g int DEFAULT 7, s int, b text);
		CREATE TABLE c_append (id int, a int, s int, b text, v text GENERATED ALWAYS AS (b || '!') VIRTUAL);
		CREATE TABLE c_parted (id int PRIMARY KEY, a int, s int, b text, v text GENERATED ALWAYS AS (b || '!') VIRTUAL) PARTITION BY RANGE (id);
		CREATE TABLE c_parted_1 PARTITION OF c_parted FOR VALUES FROM (0) TO (50);
		CREATE TABLE c_parted_2 (v text GENERATED ALWAYS AS (b || '?') VIRTUAL, b text, id int NOT NULL, s int, a int);
		ALTER TABLE c_parted ATTACH PARTITION c_parted_2 DEFAULT;
		CREATE TABLE c_trigger (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 3) VIRTUAL, s int, b text);
		CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.b = NEW.b || '!'; NEW.g = 7; RETURN NEW; END $$;
		CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON c_trigger FOR EACH ROW EXECUTE FUNCTION shout();
		CREATE TABLE c_viewed (LIKE c_trigger INCLUDING ALL);
		CREATE VIEW c_view AS SELECT id, a, s, b FROM c_viewed;
		CREATE TABLE parted (id int PRIMARY KEY, a int, v int GENERATED ALWAYS AS (a + 1) VIRTUAL, b text) PARTITION BY HASH (id);
		CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);
		CREATE TABLE parted_1 (b text, v int GENERATED ALWAYS AS (a + 2) VIRTUAL, id int NOT NULL, a int);
		ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
		INSERT INTO parted (id, a, b) SELECT i, i, i FROM generate_series(1, 20) i;
		CREATE TABLE c_of_parted (id int PRIMARY KEY, a int, b text);
		CREATE TABLE whole (id int, v int GENERATED ALWAYS AS (id + 1) VIRTUAL, b text);
		ALTER TABLE whole REPLICA IDENTITY FULL;
		INSERT INTO whole (id, b) VALUES (1, 'x'), (1, 'x'), (2, NULL);
		CREATE TABLE c_whole (id int, v int GENERATED ALWAYS AS (id + 10) VIRTUAL, b text);
		SELECT etl_scd2_create('c_dim', 'cs', '{id}', tracked => '{a,s}');
		ALTER TABLE c_dim ADD v int GENERATED ALWAYS AS (a + 5) VIRTUAL;
		SELECT etl_cdc_create_changelog('c_log');
		SELECT etl_cdc_create('v', on_error => 'dead_letter');
	});
	refused(q{SELECT etl_cdc_add_table('v', 'cs', 'c_plain')},
		qr/column "g" of source public.cs is a generated column whose values do not come with changes.*HINT:  Make "g" a generated column of public.c_plain, too, or compute it in "columns" with \{"g": \{"expr": "\.\.\."\}\}, or leave it out/s,
		'a column that waits for a virtual one');
	refused(q{SELECT etl_cdc_add_table('v', 'cs', 'c_plain', columns => '{"g": null, "b": "g"}')}, qr/column "g" of source public.cs is a generated column/, 'under another name');
	refused(q{SELECT etl_cdc_add_table('v', 'cs', 'c_own', row_filter => 'g < 10')}, qr/column "g" of source "public.cs" does not exist/, 'a filter by it');
	sql(q{
		SELECT etl_cdc_add_table('v', 'cs', 'c_own');
		SELECT etl_cdc_add_table('v', 'cs', 'c_computed', columns => '{"g": {"expr": "a * 2"}}');
		SELECT etl_cdc_add_table('v', 'cs', 'c_left_out', columns => '{"g": null}');
		SELECT etl_cdc_add_table('v', 'cs', 'c_append', 'append');
		SELECT etl_cdc_add_table('v', 'cs', 'c_parted');
		SELECT etl_cdc_add_table('v', 'cs', 'c_trigger');
		SELECT etl_cdc_add_table('v', 'cs', 'c_view');
		SELECT etl_cdc_add_table('v', 'cs', 'c_dim', 'scd2', columns => '{"b": null}');
		SELECT etl_cdc_add_table('v', 'cs', 'c_log', 'changelog');
		SELECT etl_cdc_add_table('v', 'parted', 'c_of_parted');
		SELECT etl_cdc_add_table('v', 'whole', 'c_whole');
		SELECT etl_cdc_start('v');
	});
	applied('v', 'a pipeline with virtual columns copies');
	sql(q{
		UPDATE cs SET a = a + 1 WHERE id <= 10;
		DELETE FROM cs WHERE id > 90;
		INSERT INTO cs (id, a, b) VALUES (1000, 5, 'new');
		UPDATE cs SET id = 2000 WHERE id = 1000;
		UPDATE parted SET a = a * 2 WHERE id < 5;
		DELETE FROM parted WHERE id > 15;
		UPDATE whole SET b = 'y' WHERE ctid = (SELECT min(ctid) FROM whole);
		DELETE FROM whole WHERE id = 2;
		ALTER TABLE cs ADD later int GENERATED ALWAYS AS (a) VIRTUAL;
	});
	sql(q{UPDATE cs SET a = 8500 WHERE id = 20});
	applied('v', 'and follows');
	is(letters('c_own'), 'check', 'a change that a check of a virtual column refuses is a dead letter');
	same(q{SELECT id, a + 1000, a, a * 4, b FROM cs WHERE id <> 20}, q{SELECT * FROM c_own WHERE id <> 20}, 'a mirror that computes its own columns');
	sql('ALTER TABLE c_own DROP CONSTRAINT c_own_g_check');
	is(sql(q{SELECT replayed, rejected FROM etl_dead_letter_replay('c_own')}), '1|0', 'the dead letter is replayed');
	is(rows('SELECT a, g, s FROM c_own WHERE id = 20'), '(8500,9500,34000)', 'and its columns computed');
	same('SELECT id, a, g, s, b FROM cs', 'TABLE c_computed', 'a mirror that computes the same by "columns"');
	same('SELECT id, a, 7, s, b FROM cs', 'TABLE c_left_out', 'one that leaves the column out');
	same(q{SELECT id, a, s, b, b || '!' FROM cs}, 'TABLE c_parted', 'a partitioned one');
	same(q{SELECT id, a, a * 3, s, b || '!' FROM cs}, 'TABLE c_trigger', 'one with a trigger, which cannot set a virtual column');
	same(q{SELECT id, a, a * 3, s, b FROM cs}, 'TABLE c_viewed', 'one behind a view');
	same(q{SELECT i, i, i * 3, 't' || i, 't' || i || '!' FROM generate_series(1, 100) i UNION ALL SELECT 1000, 5, 15, 'new', 'new!'}, 'TABLE c_append', 'append');
	is(rows('SELECT id, a, s, v, valid_to IS NULL FROM c_dim WHERE id IN (1, 95, 1000, 2000)'),
		'(1,1,3,6,f) (1,2,6,7,t) (95,95,285,100,f) (1000,5,15,10,f) (2000,5,15,10,t)', 'scd2');
	is(sql(q{SELECT count(*), count(*) FILTER (WHERE after ? 'g' OR before ? 'g') FROM c_log WHERE op IN ('r', 'c', 'u', 'd')}),
		'123|0', 'a log of changes has what was written');
	same('SELECT id, a, b FROM parted', 'TABLE c_of_parted', 'partitions with virtual columns');
	same('SELECT id, id + 10, b FROM whole', 'TABLE c_whole', 'replica identity full');
	sql(q{SELECT etl_cdc_resync('v', 'cs')});
	applied('v', 'resync');
	same('SELECT id, a, g, s, b FROM cs', 'TABLE c_computed', 'copies the same');
	sql(q{SELECT etl_cdc_stop('v'), etl_cdc_drop('v')});
	return;
}

# ---------------------------------------------------------------------------
# PostgreSQL 18: keys of periods
# ---------------------------------------------------------------------------

sub temporal_keys
{
	my $periods = file('periods.csv', 'id,valid,note', '1,"[2026-01-01,2026-02-01)",a', '1,"[2026-01-15,2026-03-01)",overlaps',
		'1,"[2026-02-01,2026-03-01)",b', '2,"[2026-01-01,)",c', '2,empty,d', '3,,e', '2,"[2027-01-01,)",overlaps');
	my $want = '(1,"[2026-01-01,2026-02-01)",a) (1,"[2026-02-01,2026-03-01)",b) (2,"[2026-01-01,)",c)';

	sql(q{
		CREATE EXTENSION btree_gist;
		CREATE TABLE t (id int, valid daterange, note text, PRIMARY KEY (id, valid WITHOUT OVERLAPS));
		CREATE TABLE tp (LIKE t, UNIQUE (id, valid WITHOUT OVERLAPS)) PARTITION BY RANGE (id);
		CREATE TABLE tp_1 PARTITION OF tp FOR VALUES FROM (0) TO (2);
		CREATE TABLE tp_2 PARTITION OF tp DEFAULT;
	});
	is(load($_, $periods, q{on_error => 'dead_letter'}), '3|4', "a load into a table with a key of periods: $_") foreach 't', 'tp';
	is(rows("TABLE $_"), $want, 'has those that do not overlap') foreach 't', 'tp';
	is(letters('t'), 'unique:1,"[2026-01-15,2026-03-01)",overlaps check:2,empty,d not_null:valid:3,,e unique:2,"[2027-01-01,)",overlaps', 'and says why of the others');
	foreach my $action ('skip', 'update')
	{
		refused("SELECT etl_bulk_copy('$_->[0]', '$periods', force => true, on_conflict => '$action'$_->[1])",
			qr/there is no unique constraint on the key columns of "$_->[0]".*Index "$_->[2]" has WITHOUT OVERLAPS: there is no ON CONFLICT for it/s,
			"on_conflict => '$action' needs another key")
		  foreach [ 't', '', 't_pkey' ], [ 't', q{, keys => '{id,valid}'}, 't_pkey' ], [ 'tp', q{, keys => '{valid,id}'}, 'tp_id_valid_key' ];
	}
	is(rows('TABLE t'), $want, 'nothing was written');

	# foreign keys of periods
	sql(q{CREATE TABLE tr (id int, t_id int, valid daterange, FOREIGN KEY (t_id, PERIOD valid) REFERENCES t (id, PERIOD valid))});
	is(load('tr', file('refer.csv', 'id,t_id,valid', '1,1,"[2026-01-10,2026-02-10)"', '2,1,"[2026-02-10,2026-03-10)"', '3,2,"[2030-01-01,)"'), q{on_error => 'dead_letter'}),
		'2|1', 'a load that refers to periods');
	is(rows('SELECT id FROM tr') . letters('tr'), '(1) (3)foreign_key:2,1,"[2026-02-10,2026-03-10)"', 'has what periods cover');

	# merges
	sql(q{
		CREATE TABLE ts (id int, valid daterange, note text);
		INSERT INTO ts VALUES (1, '[2026-01-01,2026-02-01)', 'A'), (4, '[2026-01-01,2026-02-01)', 'D');
	});
	is(sql(q{SELECT inserted, updated FROM etl_upsert('t', 'ts', '{id,valid}')}), '1|1', 'a merge by the same period');
	is(rows('TABLE t'), '(1,"[2026-01-01,2026-02-01)",A) (1,"[2026-02-01,2026-03-01)",b) (2,"[2026-01-01,)",c) (4,"[2026-01-01,2026-02-01)",D)', 'finds it');
	sql(q{INSERT INTO ts VALUES (4, '[2026-01-01,2026-03-01)', 'D')});
	refused(q{SELECT etl_upsert('t', 'ts', '{id,valid}')}, qr/conflicting key value violates exclusion constraint "t_pkey"/, 'one that overlaps is refused');
	sql(q{DELETE FROM ts; INSERT INTO ts VALUES (2, '[2026-06-01,2029-01-01)', 'short')});
	refused(q{SELECT etl_upsert('t', 'ts', '{id}', update_columns => '{valid}')}, qr/violates (RESTRICT setting of )?foreign key constraint "tr_t_id_valid_fkey"/, 'so is one that rows refer to');
	sql(q{UPDATE ts SET valid = '[2026-06-01,)'});
	is(sql(q{SELECT updated FROM etl_upsert('t', 'ts', '{id}', update_columns => '{valid}')}), '1', 'that may be shorter');
	is(rows('SELECT * FROM t WHERE id = 2'), '(2,"[2026-06-01,)",c)', 'is');

	# history whose versions must not overlap
	sql(q{
		CREATE TABLE th (id int, a int, at date);
		INSERT INTO th SELECT i, i, '2026-01-01' FROM generate_series(1, 3) i;
		SELECT etl_scd2_create('th_dim', 'th', '{id}', tracked => '{a}', time_type => 'date');
		ALTER TABLE th_dim ADD validity daterange GENERATED ALWAYS AS (daterange(valid_from, valid_to)) STORED, ADD UNIQUE (id, validity WITHOUT OVERLAPS);
	});
	foreach ([ '2026-02-01', 3 ], [ '2026-03-01', 2 ], [ '2026-02-10', 1 ])
	{
		sql("SELECT etl_scd2_merge('th_dim', 'th', '{id}', sequence_by => 'at')");
		sql("UPDATE th SET a = a + 10, at = '$_->[0]' WHERE id <= $_->[1]");
	}
	sql("SELECT etl_scd2_merge('th_dim', 'th', '{id}', sequence_by => 'at')");
	is(rows('SELECT id, a, validity FROM th_dim'),
		'(1,1,"[2026-01-01,2026-02-01)") (1,11,"[2026-02-01,2026-02-10)") (1,21,"[2026-03-01,)") (1,31,"[2026-02-10,2026-03-01)") '
		  . '(2,2,"[2026-01-01,2026-02-01)") (2,12,"[2026-02-01,2026-03-01)") (2,22,"[2026-03-01,)") (3,3,"[2026-01-01,2026-02-01)") (3,13,"[2026-02-01,)")',
		'versions never overlap while they are written, late ones neither');
	is(sql(q{SELECT count(*) FROM etl_scd2_verify('th_dim', '{id}', tracked => '{a}')}), '0', 'and are whole');

	# tombstones need a key that ON CONFLICT can use
	sql(q{
		CREATE TABLE tt (id int, valid daterange, v int, PRIMARY KEY (id, valid WITHOUT OVERLAPS));
		CREATE TABLE tt_in (id int, valid daterange, v int, op text);
		INSERT INTO tt_in VALUES (1, '[2026-01-01,2026-02-01)', 1, 'I');
		CREATE TABLE tt_tombstones (id int, valid daterange, v int, deleted_at timestamptz, run_id bigint, PRIMARY KEY (id, valid WITHOUT OVERLAPS));
	});
	refused(q{SELECT etl_upsert('tt', 'tt_in', '{id,valid}', sequence_by => 'v', delete_when => 'op = ''D''', keep_tombstones => true)},
		qr/"tt_tombstones"/, 'a table of tombstones with a key of periods is none');
	sql(q{DROP TABLE tt_tombstones});
	foreach ([ 1, 'I' ], [ 5, 'D' ], [ 3, 'I' ])
	{
		sql("UPDATE tt_in SET v = $_->[0], op = '$_->[1]'");
		sql(q{SELECT etl_upsert('tt', 'tt_in', '{id,valid}', sequence_by => 'v', delete_when => 'op = ''D''', keep_tombstones => true)});
	}
	is(sql('SELECT count(*) FROM tt'), '0', 'one of our own keeps a deleted period deleted');

	# pipelines
	sql(q{
		TRUNCATE tr; DELETE FROM t; INSERT INTO t VALUES (1, '[2026-01-01,2026-02-01)', 'a'), (1, '[2026-02-01,2026-03-01)', 'b'), (2, '[2026-01-01,)', 'c');
		CREATE TABLE t_same (LIKE t INCLUDING ALL);
		CREATE TABLE t_btree (LIKE t, PRIMARY KEY (id, valid));
		CREATE TABLE t_none (LIKE t);
		CREATE TABLE t_parted (LIKE t, PRIMARY KEY (id, valid WITHOUT OVERLAPS)) PARTITION BY RANGE (id);
		CREATE TABLE t_parted_1 PARTITION OF t_parted DEFAULT;
		SELECT etl_cdc_create('t'), etl_cdc_add_table('t', 't', 't_same'), etl_cdc_add_table('t', 't', 't_btree'), etl_cdc_add_table('t', 't', 't_none'), etl_cdc_add_table('t', 't', 't_parted'), etl_cdc_start('t');
	});
	applied('t', 'a pipeline of a table with a key of periods');
	sql(q{
		UPDATE t SET note = note || '!';
		UPDATE t SET valid = '[2026-01-01,2026-01-20)' WHERE note = 'a!';
		UPDATE t SET valid = '[2026-01-20,2026-03-01)' WHERE note = 'b!';
		INSERT INTO t VALUES (3, '[2026-01-01,2026-02-01)', 'x'), (3, '[2026-02-01,2026-03-01)', 'y');
		DELETE FROM t WHERE note = 'x';
		UPDATE t SET valid = '[2026-01-01,2026-03-01)' WHERE note = 'y';
		BEGIN;
		DELETE FROM t WHERE id = 2;
		INSERT INTO t VALUES (2, '[2025-01-01,2026-06-01)', 'split'), (2, '[2026-06-01,)', 'too');
		UPDATE t SET valid = '[2025-06-01,2026-06-01)' WHERE note = 'split';
		COMMIT;
	});
	applied('t', 'follows');
	same('TABLE t', "TABLE $_", "into $_") foreach qw(t_same t_btree t_none t_parted);
	is(sql('SELECT count(*) FROM t'), '5', 'all of it');
	sql(q{SELECT etl_cdc_stop('t'), etl_cdc_drop('t')});
	return;
}

# ---------------------------------------------------------------------------
# PostgreSQL 18: constraints that do not say all
# ---------------------------------------------------------------------------

sub constraints_that_hold_not
{
	sql(q{
		CREATE TABLE ne_other (id int PRIMARY KEY);
		CREATE TABLE ne (id int PRIMARY KEY, a int CHECK (a > 0) NOT ENFORCED, o int REFERENCES ne_other NOT ENFORCED, b int CHECK (b > 0));
	});
	is(load('ne', file('ne.csv', 'id,a,o,b', '1,-1,77,1', '2,1,78,-1', '3,2,,2'), q{on_error => 'dead_letter'}), '2|1', 'constraints that are not enforced');
	is(rows('TABLE ne') . letters('ne'), '(1,-1,77,1) (3,2,,2)check:2,1,78,-1', 'refuse nothing');
	sql(q{CREATE TABLE ne_in AS SELECT 1 AS id, -2 AS a, 79 AS o; SELECT etl_upsert('ne', 'ne_in', '{id}')});
	is(rows('SELECT * FROM ne WHERE id = 1'), '(1,-2,79,1)', 'nor in a merge');

	# a NOT NULL that says nothing of what was there
	sql(q{
		CREATE TABLE nv (id int, at int, v text);
		INSERT INTO nv VALUES (1, 1, 'a'), (2, NULL, 'b');
		ALTER TABLE nv ADD CONSTRAINT nv_at NOT NULL at NOT VALID;
		CREATE TABLE nv_copy (LIKE nv);
		ALTER TABLE nv_copy ALTER at DROP NOT NULL;
	});
	refused(q{SELECT etl_incremental_pull('nv', 'nv', 'nv_copy', 'at')}, qr/null/i, 'a cursor that may be null in old rows');
	is(sql('SELECT count(*) FROM nv_copy'), '0', 'is refused before anything is read');
	is(load('nv', file('nv.csv', 'id,at,v', '3,3,c', '4,,d'), q{on_error => 'dead_letter'}), '1|1', 'new rows have it');
	is(letters('nv'), 'not_null:at:4,,d', 'or are rejected');

	# rows whose unique key is null: one of them must not be taken for another
	sql(q{
		CREATE TABLE nk (k int, v text);
		ALTER TABLE nk REPLICA IDENTITY FULL;
		INSERT INTO nk VALUES (NULL, 'a'), (NULL, 'b'), (NULL, 'c'), (1, 'd');
		CREATE TABLE nk_copy (k int UNIQUE, v text);
		SELECT etl_cdc_create('nk'), etl_cdc_add_table('nk', 'nk', 'nk_copy'), etl_cdc_start('nk');
	});
	applied('nk');
	sql(q{ALTER TABLE nk_copy ADD CONSTRAINT nk_k NOT NULL k NOT VALID});
	sql(q{DELETE FROM nk WHERE v = 'b'});
	sql(q{DELETE FROM nk WHERE v = 'c'});
	applied('nk');
	same('TABLE nk', 'TABLE nk_copy', 'a mirror finds old rows without a key by all their values');
	sql(q{SELECT etl_cdc_stop('nk'), etl_cdc_drop('nk')});
	return;
}

# ---------------------------------------------------------------------------
# Another server, which is another database of this one: generated columns
# ---------------------------------------------------------------------------

sub generated_columns_elsewhere
{
	my $port = $node->port;
	my $host = $node->host;
	my $virtual = $major >= 18 ? ', v int GENERATED ALWAYS AS (a + 1) VIRTUAL' : '';

	sql('CREATE DATABASE there');
	$node->safe_psql('there', qq{
		CREATE TABLE g (id int, note text, a int, s int GENERATED ALWAYS AS (a * 2) STORED$virtual, PRIMARY KEY (id) INCLUDE (note));
		INSERT INTO g (id, note, a) VALUES (1, 'a', 10), (2, 'b', 20);
	});
	sql(qq{
		CREATE EXTENSION postgres_fdw;
		CREATE SERVER there FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'there');
		CREATE USER MAPPING FOR CURRENT_USER SERVER there;
		CREATE TABLE g_plain (id int PRIMARY KEY, note text, a int, s int);
		CREATE TABLE g_own (id int PRIMARY KEY, note text, a int, s int GENERATED ALWAYS AS (a * 3) STORED);
		CREATE TABLE g_key (id int PRIMARY KEY, a int);
		SELECT etl_cdc_create('g', 'there');
	});
	refused(q{SELECT etl_cdc_add_table('g', 'public.g', 'g_plain')},
		qr/column "s" of source public.g is a generated column whose values do not come with changes.*HINT:  Make "s" a generated column of public.g_plain/s,
		'a column that waits for one that is generated on another server');
	sql(q{
		SELECT etl_cdc_add_table('g', 'public.g', 'g_plain', columns => '{"s": {"expr": "a * 2"}}');
		SELECT etl_cdc_add_table('g', 'public.g', 'g_own');
		SELECT etl_cdc_add_table('g', 'public.g', 'g_key', columns => '{"note": null}');
		SELECT etl_cdc_start('g');
	});
	applied('g', 'a pipeline from there');
	$node->safe_psql('there', q{INSERT INTO g (id, note, a) VALUES (3, 'c', 30); UPDATE g SET a = 21 WHERE id = 2; DELETE FROM g WHERE id = 1});
	applied('g');
	is(rows('TABLE g_plain'), '(2,b,21,42) (3,c,30,60)', 'a column that is computed here');
	is(rows('TABLE g_own'), '(2,b,21,63) (3,c,30,90)', 'one that the target computes');
	is(rows('TABLE g_key'), '(2,21) (3,30)', 'a column that the key only includes is none of it');
	return if $major < 18;

	# Somebody publishes more than there is to be.
	my $slot = sql(q{SELECT slot_name FROM etl_patterns.cdc_pipeline WHERE pipeline = 'g'});

	sql(q{SELECT etl_cdc_stop('g')});
	$node->safe_psql('there', qq{ALTER PUBLICATION $slot SET (publish_generated_columns = stored)});
	sql(q{SELECT etl_cdc_start('g')});
	applied('g', 'a publication that has got generated columns');
	is($node->safe_psql('there', q{SELECT pubgencols FROM pg_publication}), 'n', 'loses them');
	$node->safe_psql('there', q{INSERT INTO g (id, note, a) VALUES (4, 'd', 40)});
	applied('g');
	is(rows('TABLE g_plain'), '(2,b,21,42) (3,c,30,60) (4,d,40,80)', 'and the pipeline goes on');
	sql(q{SELECT etl_cdc_stop('g'), etl_cdc_drop('g')});

	$node->safe_psql('there', q{
		CREATE ROLE reader LOGIN REPLICATION;
		GRANT SELECT ON g TO reader;
		CREATE PUBLICATION etl_patterns FOR TABLE g WITH (publish_via_partition_root = true, publish_generated_columns = stored);
	});
	sql(q{ALTER USER MAPPING FOR CURRENT_USER SERVER there OPTIONS (ADD user 'reader', ADD password_required 'false')});
	sql(q{TRUNCATE g_own; SELECT etl_cdc_create('g', 'there'), etl_cdc_add_table('g', 'public.g', 'g_own')});
	refused(q{SELECT etl_cdc_start('g')}, qr/does not have all changes of the tables.*publish_generated_columns = none/s, 'a publication of somebody else is refused');
	$node->safe_psql('there', q{ALTER PUBLICATION etl_patterns SET (publish_generated_columns = none)});
	sql(q{SELECT etl_cdc_start('g')});
	applied('g', 'until it is as the hint says');
	is(rows('TABLE g_own'), '(2,b,21,63) (3,c,30,90) (4,d,40,120)', 'then it serves');
	sql(q{SELECT etl_cdc_stop('g'), etl_cdc_drop('g')});
	return;
}

# ---------------------------------------------------------------------------
# PostgreSQL 17: transactions that may not take long, triggers on login,
# identity of partitioned tables
# ---------------------------------------------------------------------------

sub transaction_timeout
{
	sql(q{
		CREATE TABLE slow (id int PRIMARY KEY);
		CREATE TABLE slow_copy (id int PRIMARY KEY);
		CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_catalog.pg_sleep(2); RETURN NEW; END $$;
		CREATE TRIGGER sleep BEFORE INSERT ON slow_copy FOR EACH STATEMENT EXECUTE FUNCTION sleep();
		CREATE ROLE hasty LOGIN;
		ALTER ROLE hasty SET transaction_timeout = '1s';
		GRANT CREATE ON SCHEMA public TO hasty;
		SELECT etl_cdc_create('slow'), etl_cdc_add_table('slow', 'slow', 'slow_copy');
	});
	sql(q{ALTER DATABASE postgres SET transaction_timeout = '1s'});

	# This session and those it waits for may take their time.
	local $ENV{PGOPTIONS} = '-c transaction_timeout=0';
	my $writer = $node->background_psql('postgres');

	$writer->query_safe('BEGIN; INSERT INTO slow VALUES (1)');
	my $start = session(q{SELECT etl_cdc_start('slow')});
	select(undef, undef, undef, 3);
	$writer->query_safe('COMMIT');
	$writer->quit;
	IPC::Run::finish($start);
	applied('slow', 'a pipeline that has to wait for its slot, and to write for long');
	my $pid = sql(q{SELECT pid FROM etl_patterns.cdc_status WHERE pipeline = 'slow'});
	sql(q{INSERT INTO slow VALUES (2)});
	applied('slow');
	is(rows('TABLE slow_copy') . sql(qq{SELECT pid = $pid FROM etl_patterns.cdc_status WHERE pipeline = 'slow'}), '(1) (2)t',
		'is not ended by transaction_timeout');
	sql(q{SELECT etl_cdc_stop('slow'), etl_cdc_drop('slow')});
	sql(q{ALTER DATABASE postgres RESET transaction_timeout});
	return;
}

sub login_triggers
{
	sql(q{
		CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF session_user = 'unwanted' THEN RAISE 'nobody expects %', session_user; END IF;
		END $$;
		CREATE EVENT TRIGGER refuse ON login EXECUTE FUNCTION refuse();
		ALTER EVENT TRIGGER refuse ENABLE ALWAYS;
		CREATE ROLE unwanted LOGIN;
		CREATE TABLE ran (by name);
		GRANT ALL ON ran TO unwanted;
	});
	my ($rc, $out, $err) = $node->psql('postgres', 'SELECT 1', extra_params => [ '-U', 'unwanted' ]);

	like($err, qr/nobody expects unwanted/, 'a role that a login trigger refuses');
	is($server->result('job of unwanted', 'SET ROLE unwanted; INSERT INTO public.ran SELECT current_user', undef, 'status'), 'succeeded',
		'a process of ours is no login');
	is(rows('TABLE ran'), '(unwanted)', 'and does its work');
	sql(qq{
		CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '${\ $node->host}', port '${\ $node->port}', dbname 'postgres');
		CREATE USER MAPPING FOR CURRENT_USER SERVER here OPTIONS (user 'unwanted', password_required 'false');
		CREATE FOREIGN TABLE far (by name) SERVER here OPTIONS (table_name 'ran');
		CREATE TABLE near (by name);
	});
	refused(q{SELECT etl_incremental_pull('far', 'far', 'near', 'by')}, qr/nobody expects unwanted/, 'a connection to a server is one, and the error is told');
	sql('DROP EVENT TRIGGER refuse');
	return;
}

sub identity_of_partitions
{
	sql(q{
		CREATE TABLE ip (sk bigint GENERATED ALWAYS AS IDENTITY (START 100), id int, v text) PARTITION BY RANGE (id);
		CREATE TABLE ip_1 PARTITION OF ip FOR VALUES FROM (0) TO (10);
		CREATE TABLE ip_2 (v text, id int, sk bigint NOT NULL);
		ALTER TABLE ip ATTACH PARTITION ip_2 DEFAULT;
		CREATE TABLE ip_in AS SELECT i AS id, 'v' || i AS v FROM generate_series(9, 11) i;
	});
	my $path = file('ip.csv', 'id,v', '1,a', '20,b');

	is(load('ip', $path), '2|0', 'a load into partitions with an identity column');
	is(load('ip_2', file('ip2.csv', 'id,v', '21,c')), '1|0', 'and into one of them');
	is(load('ip', file('ip3.csv', 'sk,id,v', '7,2,d')), '1|0', 'and with values for it');
	is(rows('TABLE ip'), '(7,2,d) (100,1,a) (101,20,b) (102,21,c)', 'all have numbers of one sequence');
	is(sql(q{SELECT inserted FROM etl_upsert('ip', 'ip_in', '{id}')}), '3', 'so has a merge');
	is(sql('SELECT count(*), min(sk), max(sk), min(id), max(id) FROM ip WHERE sk > 102'), '3|103|105|9|11', 'numbers of its own');
	sql(q{
		CREATE TABLE is_src (sk bigint PRIMARY KEY, id int, v text);
		INSERT INTO is_src VALUES (1, 1, 'a'), (2, 20, 'b');
		TRUNCATE ip;
		SELECT etl_cdc_create('ip'), etl_cdc_add_table('ip', 'is_src', 'ip'), etl_cdc_start('ip');
	});
	applied('ip');
	sql(q{UPDATE is_src SET id = 21, v = 'c' WHERE sk = 1; UPDATE is_src SET sk = 3 WHERE sk = 2; INSERT INTO is_src VALUES (4, 4, 'd')});
	applied('ip');
	same('TABLE is_src', 'TABLE ip', 'a mirror has those of its source');
	sql(q{SELECT etl_cdc_stop('ip'), etl_cdc_drop('ip')});
	return;
}

# ---------------------------------------------------------------------------
# PostgreSQL 15 and later: nulls that are equal, views that look as their
# reader, collations
# ---------------------------------------------------------------------------

sub nulls_not_distinct
{
	my $path = file('nulls.csv', 'k,v', 'a,1', ',2', ',3', 'a,4');

	sql(q{CREATE TABLE nn (k text, v int, UNIQUE NULLS NOT DISTINCT (k))});
	foreach my $indexes ('keep', 'rebuild')
	{
		sql('TRUNCATE nn');
		is(load('nn', $path, "on_error => 'skip', indexes => '$indexes'"), '2|2', "nulls that are equal, indexes => '$indexes'");
		is(rows('TABLE nn'), '(a,1) (,2)', 'are there once');
	}
	is(load('nn', $path, q{on_conflict => 'update', keys => '{k}'}), '2|0', 'with on_conflict');
	is(rows('TABLE nn'), '(a,4) (,3)', 'the last one counts');
	return;
}

sub invoker_views
{
	sql(q{
		CREATE TABLE secret (id int, v text);
		INSERT INTO secret VALUES (1, 'a'), (2, 'b');
		CREATE VIEW open_view AS SELECT * FROM secret;
		CREATE VIEW invoker_view WITH (security_invoker) AS SELECT * FROM secret;
		CREATE ROLE puller LOGIN;
	});
	sql(q{
		GRANT SELECT ON open_view, invoker_view TO puller;
		CREATE TABLE pulled (id int PRIMARY KEY, v text);
		GRANT ALL ON pulled TO puller;
	});
	my $pull = q{SET ROLE puller; SELECT etl_incremental_pull('%s', '%s', 'pulled', 'id', safety => 'none')};

	refused(sprintf($pull, 'invoker', 'invoker_view'), qr/permission denied for table secret/, 'a view that looks as its reader');
	refused(q{SET ROLE puller; SELECT etl_upsert('pulled', 'invoker_view', '{id}')}, qr/permission denied for table secret/, 'in a merge, too');
	is(sql('SELECT count(*) FROM pulled'), '0', 'shows nothing to one who may not look');
	sql(q{GRANT SELECT ON secret TO puller});
	sql(q{SET ROLE puller; SELECT etl_upsert('pulled', 'invoker_view', '{id}')});
	is(rows('TABLE pulled'), '(1,a) (2,b)', 'but to one who may');
	sql(q{TRUNCATE pulled});
	sql(sprintf($pull, 'invoker', 'invoker_view'));
	is(rows('TABLE pulled'), '(1,a) (2,b)', 'pulls likewise');
	return;
}

sub collations
{
	my ($collation, $want, $upserted) = @_;
	my $path = file('letters.csv', 'k,v', 'a,1', 'A,2', 'b,3', 'B,4');

	sql(qq{
		DROP TABLE IF EXISTS co, co_in;
		CREATE TABLE co (k text COLLATE $collation PRIMARY KEY, v int);
		CREATE TABLE co_in (k text, v int);
		INSERT INTO co_in VALUES ('A', 10), ('B', 20), ('c', 30);
	});
	load('co', $path, q{on_conflict => 'update'});
	is(rows('SELECT v FROM co'), $want, "keys of collation $collation");
	sql(q{SELECT etl_upsert('co', 'co_in', '{k}')});
	is(rows('SELECT v, k FROM co'), $upserted, 'in a merge');
	return;
}

SKIP:
{
	skip 'no such columns and keys before PostgreSQL 18', 1 if $major < 18;
	virtual_columns_of_targets();
	virtual_columns_of_sources();
	virtual_columns_of_pipelines();
	constraints_that_hold_not();
}
SKIP:
{
	skip 'no keys of periods before PostgreSQL 18', 1 if $major < 18;
	skip 'no btree_gist', 1 if !$has_gist;
	temporal_keys();
}
generated_columns_elsewhere();
SKIP:
{
	skip 'not before PostgreSQL 17', 1 if $major < 17;
	transaction_timeout();
	login_triggers();
	identity_of_partitions();
	collations('pg_c_utf8', '(1) (2) (3) (4)', '(1,a) (3,b) (10,A) (20,B) (30,c)');
}
nulls_not_distinct();
invoker_views();
SKIP:
{
	skip 'no ICU', 1 if !sql(q{SELECT count(*) FROM pg_collation WHERE collprovider = 'i'});
	sql(q{CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)});
	collations('ci', '(2) (4)', '(10,A) (20,B) (30,c)');
}
unlike(slurp_file($node->logfile), qr/TRAP:|PANIC:|terminated by signal/, 'no process has crashed');
done_testing();
