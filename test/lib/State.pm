# A database with something of everything that the extension remembers, and
# whether it is all there later, and goes on.

package State;

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# What a server needs for it.
our $conf = q{
shared_preload_libraries = 'etl_patterns'
wal_level = logical
max_replication_slots = 10
max_worker_processes = 30
autovacuum = off
log_line_prefix = '%m [%p] %b '
};

# Makes the state, in a database that has the extension in schema functions.
# Afterwards nothing of it moves: the jobs are paused, the pipeline is stopped.
sub make
{
	my ($node, $db, $dir) = @_;
	my $sql = sub { return $node->safe_psql($db, @_) };

	append_to_file("$dir/$db.csv", "id,amount\n1,10.00\n2,much\n3,30.00\n,40.00\n");
	$node->safe_psql('postgres', "CREATE ROLE loader_$db LOGIN IN ROLE pg_read_server_files");
	$sql->(qq{
		GRANT USAGE ON SCHEMA functions TO PUBLIC;
		CREATE TABLE sale (id int PRIMARY KEY, amount numeric);
		CREATE TABLE pulled (id int PRIMARY KEY, amount numeric);
		CREATE TABLE mirror (id int PRIMARY KEY, amount numeric);
		CREATE TABLE effect (job text, at timestamptz DEFAULT clock_timestamp());
		GRANT ALL ON ALL TABLES IN SCHEMA public TO loader_$db;
	});
	$sql->(qq{
		SET ROLE loader_$db;
		SET search_path = public, functions;
		SELECT etl_bulk_copy('sale', '$dir/$db.csv', on_error => 'dead_letter');
		SELECT etl_incremental_pull('orders', 'sale', 'pulled', 'id');
		SELECT etl_watermark_set('by hand', '2026-01-01');
		SELECT etl_job_create('tick', 'every 1 second', 'INSERT INTO public.effect VALUES (''tick'')');
		SELECT etl_job_create('after', 'after tick', 'INSERT INTO public.effect VALUES (''after'')');
		SELECT etl_job_create('bad', 'on ping', 'SELECT 1 / 0');
		SELECT etl_signal('ping');
	});
	$node->poll_query_until($db, q{SELECT count(DISTINCT job) = 2 FROM effect})
	  or die 'jobs do not run';
	$node->poll_query_until($db, q{SELECT count(*) = 1 FROM etl_patterns.job_run WHERE job = 'bad' AND status = 'failed'})
	  or die 'no job fails';
	$sql->(q{SELECT functions.etl_job_pause(job) FROM etl_patterns.job});
	$node->poll_query_until($db, q{SELECT count(*) = 0 FROM etl_patterns.job_run WHERE finished_at IS NULL})
	  or die 'jobs do not end';
	$sql->(q{
		SET search_path = public, functions;
		SELECT etl_cdc_create('follow');
		SELECT etl_cdc_add_table('follow', 'sale', 'mirror');
	});
	$sql->(q{SELECT functions.etl_cdc_start('follow')});
	$sql->(q{SELECT functions.etl_cdc_wait('follow', timeout => '180 s')});
	$sql->(q{INSERT INTO sale VALUES (5, 50)});
	is($sql->(q{SELECT functions.etl_cdc_wait('follow', timeout => '180 s')}), 't', "$db: the pipeline follows");
	$sql->(q{SELECT functions.etl_cdc_stop('follow')});
	is($sql->(q{SELECT count(*) FROM mirror}), 3, "$db: the mirror is as it should be");
	return;
}

# Gives a database the objects of an old version with the rows that are there, as
# if that version had written them: what it has no column for is left out.
sub take_back
{
	my ($node, $db, $version) = @_;
	my ($rows, $columns) = rows($node, $db);
	my (%number, @tables);

	foreach my $relation (sort keys %$columns)
	{
		(my $name = $relation) =~ s/^etl_patterns\.//;
		if ($columns->{$relation} =~ /is_called/)
		{
			$number{$relation} = $node->safe_psql($db, "SELECT last_value || ', ' || is_called FROM $relation");
			next;
		}
		push @tables, $name;
	}
	$node->safe_psql($db, join "\n", 'CREATE SCHEMA keep;', map({ "CREATE TABLE keep.$_ AS TABLE etl_patterns.$_;" } @tables),
		# Not their replication slots, which are to be as they are.
		'DELETE FROM etl_patterns.cdc_table; DELETE FROM etl_patterns.cdc_pipeline;',
		"DROP EXTENSION etl_patterns; CREATE EXTENSION etl_patterns SCHEMA functions VERSION '$version';");
	foreach my $name (@tables)
	{
		my $list = $node->safe_psql($db, qq{SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum)
			FROM pg_attribute WHERE attrelid = to_regclass('etl_patterns.$name') AND attnum > 0});

		$node->safe_psql($db, "INSERT INTO etl_patterns.$name ($list) SELECT $list FROM keep.$name") if $list;
	}
	foreach my $sequence (grep { $node->safe_psql($db, "SELECT to_regclass('$_') IS NOT NULL") eq 't' } keys %number)
	{
		$node->safe_psql($db, "SELECT setval('$sequence', $number{$sequence})");
	}
	$node->safe_psql($db, 'DROP SCHEMA keep CASCADE');
	return;
}

# The rows of all state tables, by the columns that they have.  The same columns
# are asked for again if they are given.
sub rows
{
	my ($node, $db, $columns) = @_;
	my %rows;

	$columns //= {
		map { split /\|/ } split /\n/,
		$node->safe_psql($db, q{SELECT c.oid::regclass, string_agg(quote_ident(attname), ', ' ORDER BY attnum)
			FROM pg_extension e JOIN pg_class c ON c.oid = ANY (e.extconfig) JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0
			WHERE extname = 'etl_patterns' GROUP BY c.oid})
	};
	foreach my $table (sort keys %$columns)
	{
		# When a sequence is written ahead is not part of the state.
		my $list = join ', ', grep { $_ ne 'log_cnt' } split /, /, $columns->{$table};

		$rows{$table} = $node->safe_psql($db, "SELECT $list FROM $table ORDER BY 1, 2");
	}
	return (\%rows, $columns);
}

# Is everything there that was there?
sub is_same
{
	my ($node, $db, $before, $columns, $what) = @_;
	my ($now) = rows($node, $db, $columns);

	foreach my $table (sort keys %$before)
	{
		is($now->{$table}, $before->{$table}, "$what: rows of $table");
	}
	return;
}

# Files, letters, watermarks and pulls go on where they were.
sub goes_on
{
	my ($node, $db, $dir, $what) = @_;
	my $as_loader = "SET ROLE loader_$db; SET search_path = public, functions;";
	my $sql = sub { return $node->safe_psql($db, "$as_loader $_[0]") };

	is($sql->("SELECT files_loaded, files_skipped FROM etl_bulk_copy('sale', '$dir/$db.csv')"), '0|1', "$what: a file that is in is skipped");
	is($sql->(q{SELECT etl_dead_letter_edit(dead_letter_id, '2,20.00') FROM etl_patterns.dead_letter WHERE column_name = 'amount';
			SELECT * FROM etl_dead_letter_replay('sale')}),
		"\n1|1", "$what: a dead letter is mended");
	is($sql->(q{SELECT etl_watermark_get('by hand')}), '2026-01-01', "$what: a watermark");
	is($sql->(q{INSERT INTO sale VALUES (6, 60); SELECT rows_read FROM etl_incremental_pull('orders', 'sale', 'pulled', 'id')}),
		3, "$what: a pull goes on where it was");
	return;
}

# Jobs go on, once they are resumed.
sub jobs_go_on
{
	my ($node, $db, $what) = @_;

	$node->safe_psql($db, q{TRUNCATE effect; SELECT functions.etl_job_resume(job) FROM etl_patterns.job});
	ok($node->poll_query_until($db, q{SELECT count(DISTINCT job) = 2 FROM effect}), "$what: jobs run");
	return;
}

1;
