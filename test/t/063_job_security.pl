# Jobs among strangers: alice has jobs, carol is a member of her role, bob is
# nobody to her, mona may monitor.  And bob has set traps: functions and operators
# of the names that other people's queries use, in a schema that comes first in
# everybody's search_path.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# What this test asks itself does not step into the traps.
$ENV{PGOPTIONS} = '-c search_path=public';

my $node = PostgreSQL::Test::Cluster->new('job_security');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'etl_patterns'
etl_patterns.worker_idle_timeout = 200
etl_patterns.file_settle_time = 0
max_worker_processes = 20
autovacuum = off
});
$node->start;

sub value
{
	my ($query) = @_;

	return $node->safe_psql('postgres', $query);
}

# What somebody gets, in a session with the settings of an unwary user: rows, or
# the error.
sub as
{
	my ($role, $query) = @_;
	local $ENV{PGOPTIONS} = '';
	my ($status, $out, $err) = $node->psql('postgres', $query, extra_params => [ '-U', $role ]);

	return $out if $status == 0;
	$err =~ s/^psql:<stdin>:\d+: //mg;
	$err =~ s/^(?:LINE \d|HINT|DETAIL|CONTEXT|QUERY| +\^).*\n?//mg;
	return $err =~ s/\n.*//sr;
}

sub wait_for
{
	my ($query, $what) = @_;

	ok($node->poll_query_until('postgres', $query), $what);
}

value(q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE carol LOGIN IN ROLE alice;
	CREATE ROLE mona LOGIN IN ROLE pg_monitor;
	CREATE ROLE bypass LOGIN BYPASSRLS;
	CREATE ROLE dora LOGIN;
	CREATE ROLE erin LOGIN;
	CREATE ROLE fred LOGIN;
	CREATE ROLE root LOGIN SUPERUSER;
	GRANT CREATE ON SCHEMA public TO PUBLIC;
	CREATE EXTENSION etl_patterns;
	CREATE TABLE did (what text, who name DEFAULT current_user, session name DEFAULT session_user, super text DEFAULT pg_catalog.current_setting('is_superuser'));
	GRANT ALL ON did TO PUBLIC;
	CREATE TABLE trap (what text, who name DEFAULT current_user, application text DEFAULT pg_catalog.current_setting('application_name'));
	GRANT ALL ON trap TO PUBLIC;
});

# ---------------------------------------------------------------------------
# Traps
# ---------------------------------------------------------------------------

# Functions of the names that the extension's queries call, taking anything.
my @functions = (
	'now() RETURNS timestamptz', 'clock_timestamp() RETURNS timestamptz', 'current_setting(text) RETURNS text',
	'current_setting(text, boolean) RETURNS text', 'set_config(text, text, boolean) RETURNS text',
	'pg_has_role(regrole, text) RETURNS boolean', 'pg_has_role(oid, text) RETURNS boolean', 'pg_has_role(name, text) RETURNS boolean',
	'pg_is_in_recovery() RETURNS boolean', 'current_database() RETURNS name', 'pg_backend_pid() RETURNS int',
	'format(text, text) RETURNS text', 'count(bigint) RETURNS bigint', 'min(timestamptz) RETURNS timestamptz',
	'max(timestamptz) RETURNS timestamptz', 'sum(bigint) RETURNS numeric', 'coalesce(text, text) RETURNS text',
	'nextval(regclass) RETURNS bigint', 'random() RETURNS float8', 'pg_notify(text, text) RETURNS void',
	'pg_control_system() RETURNS record', 'generate_series(int, int) RETURNS int', 'to_regclass(text) RETURNS regclass');
my @operators = map { my $type = $_; map { [ $_, $type ] } ('=', '<>', '<', '<=', '>', '>=', '+', '-', '||') }
	('bigint', 'int', 'text', 'oid', 'timestamptz', 'interval', 'boolean', 'name', 'regrole', 'float8');

my $traps = '';
for my $function (@functions)
{
	my ($name) = $function =~ /^"?(\w+)/;
	my $body = "BEGIN INSERT INTO public.trap VALUES ('function $name'); RETURN NULL; END";

	$body =~ s/RETURN NULL/RETURN/ if $function =~ /void$/;
	$function =~ s/^(\w+)/public."$1"/;
	$traps .= "CREATE FUNCTION $function LANGUAGE plpgsql AS \$\$ $body \$\$;\n";
}
for my $operator (@operators)
{
	my ($name, $type) = @$operator;
	my $function = 'trap_' . join('_', map { ord } split //, $name) . "_$type";

	$traps .= "CREATE FUNCTION public.$function($type, $type) RETURNS boolean LANGUAGE plpgsql AS
		\$\$ BEGIN INSERT INTO public.trap VALUES ('operator $name of $type'); RETURN true; END \$\$;
		CREATE OPERATOR public.$name (LEFTARG = $type, RIGHTARG = $type, FUNCTION = public.$function);\n";
}
is(as('bob', "SET search_path = public;\n$traps"), '', 'bob sets his traps');
value('ALTER DATABASE postgres SET search_path = public, pg_catalog');
$node->restart;
as('bob', "SELECT current_setting('x'), 1 = 1, now()");
is(value('SELECT count(DISTINCT what) FROM trap'), 3, 'they work');
value('TRUNCATE trap');

# ---------------------------------------------------------------------------
# Alice's jobs
# ---------------------------------------------------------------------------

like(as('alice', qq{
	SELECT etl_job_create('beat', 'every 1 second', 'INSERT INTO did VALUES (''beat'')', alert_after => '1 minute');
	SELECT etl_job_create('fails', 'on trouble', 'DO \$x\$ BEGIN RAISE EXCEPTION ''secret-42'' USING DETAIL = ''secret-43''; END \$x\$', max_attempts => 2, retry_delay => '0 s');
	SELECT etl_job_create('then', 'after fails', 'SELECT 1');
	SELECT etl_job_create('sleeps', 'on night', 'SELECT pg_sleep(600)');
	SELECT etl_job_create('rests', '0 0 29 2 *', 'SELECT 1', enabled => false);
	SELECT etl_signal('trouble', 'secret-44');
	SELECT etl_signal('night');
}), qr/^1\n2\n3\n4\n5\n1\n1$/, 'alice has jobs');
wait_for(q{SELECT count(*) = 2 FROM etl_patterns.job_run WHERE job = 'fails' AND status = 'failed'}, 'one fails');
wait_for(q{SELECT count(*) = 1 FROM etl_patterns.job_run WHERE job = 'sleeps' AND status = 'running'}, 'one runs');
wait_for(q{SELECT count(*) > 1 FROM did WHERE what = 'beat'}, 'one runs again and again');
is(value(q{SELECT DISTINCT concat_ws(' ', who, session, super) FROM did}), 'alice alice off', 'as her');

my %id = map { split /=/ } split /\n/, value(q{SELECT job || '=' || max(job_run_id) FROM etl_patterns.job_run GROUP BY job});
my @tables = ('job', 'job_run', 'alert', 'job_file', 'job_status', 'stat_jobs');
my %theirs = (job => 5, alert => 1, job_file => 0, job_status => 5, stat_jobs => 5);

# ---------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------

# Rows are counted outside, since count() and its like are traps.
sub rows
{
	my ($role, $query) = @_;
	my $out = as($role, $query);

	return $out =~ /^ERROR/ ? $out : scalar(my @rows = split /\n/, $out);
}

for my $table (@tables)
{
	is(rows('bob', "TABLE etl_patterns.$table"), 0, "bob sees nothing in $table");
	for my $role ('alice', 'carol', 'mona')
	{
		my $n = rows($role, "TABLE etl_patterns.$table");

		defined $theirs{$table} ? is($n, $theirs{$table}, "$role sees alice's rows in $table") : cmp_ok($n, '>', 3, "$role sees alice's rows in $table");
	}
}
for my $query ('TABLE etl_patterns.job', 'TABLE etl_patterns.job_run', 'TABLE etl_patterns.alert', 'TABLE etl_patterns.job_status',
	'TABLE etl_patterns.progress', 'SELECT * FROM etl_scheduler_status()', 'SELECT query FROM pg_catalog.pg_stat_activity', 'SELECT * FROM etl_alert_drain()',
	'EXPLAIN ANALYZE TABLE etl_patterns.job_run', 'SELECT * FROM pg_catalog.pg_stats', 'SELECT * FROM pg_catalog.pg_locks')
{
	unlike(as('bob', $query), qr/secret|beat|sleeps/, "bob learns nothing from $query");
}
like(as('alice', 'TABLE etl_patterns.job_run'), qr/secret-42.*secret-43/, 'alice reads the error of her job');
like(as('carol', 'TABLE etl_patterns.alert'), qr/secret-42/, 'so does carol');

# A function that leaks what it is asked is not asked about the rows of others.
as('bob', q{CREATE FUNCTION public.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
	$$ BEGIN RAISE NOTICE 'leaked: %', $1; RETURN true; END $$});
for my $table (['job', 'command'], ['job_run', 'error_message'], ['alert', 'message'], ['job_status', 'last_error_message'])
{
	my (undef, undef, $err) = $node->psql('postgres', "SELECT 1 FROM etl_patterns.$table->[0] WHERE public.leak($table->[1])", extra_params => [ '-U', 'bob' ]);

	unlike($err, qr/leaked/, "nothing leaks from $table->[0]");
}

# What is sent to all who listen has no names.
my $listener = $node->background_psql('postgres', on_error_stop => 0, extra_params => [ '-U', 'bob' ]);
$listener->query('LISTEN etl_alert');
as('alice', q{SELECT etl_job_create('fails too', 'on trouble', 'SELECT 1 / 0'); SELECT etl_signal('trouble')});
wait_for(q{SELECT count(*) = 2 FROM etl_patterns.alert WHERE kind = 'failed'}, 'there is another alert');
# a notification may come a moment after what can be read
my $heard = '';
for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	last if ($heard .= $listener->query('SELECT 1')) =~ /Asynchronous/;
	select(undef, undef, undef, 0.1);
}
like($heard, qr/Asynchronous notification "etl_alert" with payload "\{"alert_id": \d+, "kind": "failed"\}"/, 'bob hears that there is one');
unlike($heard, qr/fails|division|alice/, 'and no more');
$listener->quit;

# ---------------------------------------------------------------------------
# Changing
# ---------------------------------------------------------------------------

sub state_of_all
{
	return value(q{SELECT string_agg(j::text, E'\n' ORDER BY job_id) FROM (SELECT job_id, job, role, schedule, command, overlap, catchup, max_attempts, state, reason, after_job, event FROM etl_patterns.job) j});
}

my $before = state_of_all();
my $unknown = qr/^ERROR: +job "[\w ]+" does not exist$/;
for my $role ('bob', 'mona', 'bypass')
{
	like(as($role, "SELECT $_"), $unknown, "$role: $_")
		for q{etl_job_alter('beat', command => 'SELECT 1')}, q{etl_job_alter('beat', new_name => 'mine')}, q{etl_job_drop('beat')}, q{etl_job_pause('beat')},
		q{etl_job_resume('rests')}, q{etl_job_run('beat')}, q{etl_job_next_runs('beat')}, q{etl_job_backfill('beat', '2020-01-01', '2020-01-02')},
		q{etl_job_history_purge('0 s', 'beat')};
	like(as($role, "SELECT etl_job_stop($id{sleeps})"), qr/^ERROR: +job run \d+ does not exist$/, "$role: etl_job_stop");
	is(as($role, q{SELECT etl_job_history_purge('0 s')}), 0, "$role: purges nothing");
	is(as($role, 'SELECT * FROM etl_alert_drain()'), '', "$role: drains nothing");
	is(as($role, q{SELECT etl_signal('night')}), 0, "$role: signals nobody");
	is(as($role, 'CALL etl_run_due_jobs()'), '', "$role: runs nothing");
	like(as($role, q{SELECT etl_job_create('beat', 'every 1 second', 'SELECT 1')}), qr/^ERROR: +job "beat" already exists$/, "$role: does not take its name");
	like(as($role, q{SELECT etl_job_create('follows', 'after beat', 'SELECT 1')}), $unknown, "$role: does not follow it");
	like(as($role, 'SELECT etl_job_arm()'), qr/^ERROR: +permission denied to arm/, "$role: etl_job_arm");
	like(as($role, $_), qr/^ERROR: +permission denied for (?:table|sequence|view) \w+$/, "$role: $_")
		for (map { ("INSERT INTO etl_patterns.$_ DEFAULT VALUES", "UPDATE etl_patterns.$_ SET role = 'bob'", "DELETE FROM etl_patterns.$_", "TRUNCATE etl_patterns.$_") }
			'job', 'job_run', 'alert', 'job_file', 'run_jobs'),
		(map { "SELECT pg_catalog.nextval('etl_patterns.$_')" } 'job_id_seq', 'job_run_id_seq', 'alert_id_seq');
}
# Nor does one's own job open the tables.
like(as('alice', q{UPDATE etl_patterns.job SET role = 'root' WHERE true}), qr/^ERROR: +permission denied for table job$/, 'alice: UPDATE etl_patterns.job');
like(as('alice', q{INSERT INTO etl_patterns.job_run DEFAULT VALUES}), qr/^ERROR: +permission denied for table job_run$/, 'alice: INSERT INTO etl_patterns.job_run');
is(state_of_all(), $before, 'nothing has changed');
is(value("SELECT status FROM etl_patterns.job_run WHERE job_run_id = $id{sleeps}"), 'running', 'and what ran still runs');
is(value(q{SELECT count(*) FROM etl_patterns.alert}), 2, 'all alerts are there');

# A member of the role may do what the owner may.
is(as('carol', "SELECT etl_job_stop($id{sleeps})"), 't', 'carol stops a run');
wait_for("SELECT status = 'stopped' FROM etl_patterns.job_run WHERE job_run_id = $id{sleeps}", 'it is stopped');
is(as('carol', q{SELECT etl_job_alter('rests', command => 'INSERT INTO did VALUES (''rests'')'); SELECT etl_job_resume('rests')}), "\n", 'carol alters a job');
like(as('carol', q{SELECT etl_job_run('rests')}), qr/^\d+$/, 'and has it run');
wait_for(q{SELECT count(*) = 1 FROM did WHERE what = 'rests'}, 'it runs');
is(value(q{SELECT concat_ws(' ', who, session) FROM did WHERE what = 'rests'}), 'alice alice', 'as alice');
is(rows('carol', 'SELECT alert_id FROM etl_alert_drain()'), 2, 'and drains alerts');
is(as('carol', q{SELECT etl_job_pause('rests'); SELECT etl_job_drop('rests')}), "\n", 'pauses and drops it');
like(as('carol', q{SELECT etl_job_create('of carol', 'on dawn', 'INSERT INTO did VALUES (''carol'')')}), qr/^\d+$/, 'her own job is hers');
like(as('alice', q{SELECT etl_job_drop('of carol')}), $unknown, 'and not the role\'s that she is in');

# ---------------------------------------------------------------------------
# Commands that want to be somebody else
# ---------------------------------------------------------------------------

my %escapes = (
	'reset role' => 'RESET ROLE',
	'reset session' => 'RESET SESSION AUTHORIZATION',
	'default session' => 'SET SESSION AUTHORIZATION DEFAULT',
	'role none' => 'SET ROLE NONE',
	'discard' => 'DISCARD TEMP',
	'as root' => 'SET ROLE root',
	'as session' => 'SET SESSION AUTHORIZATION root',
	'as bob' => 'SET ROLE bob',
	'as owner' => q{ALTER ROLE alice SUPERUSER},
	'program' => q{COPY did TO PROGRAM 'true'},
	'settings' => q{ALTER DATABASE postgres SET work_mem = '1MB'},
	'rows' => q{UPDATE etl_patterns.job SET role = 'root'},
	'limits' => q{SET etl_patterns.clock_offset = 1000000},
	'more jobs' => q{SET etl_patterns.superuser_jobs = on});
my %allowed = map { $_ => 1 } ('reset role', 'reset session', 'default session', 'role none', 'discard');

value('TRUNCATE did');
for my $escape (sort keys %escapes)
{
	my $command = $escapes{$escape} =~ s/'/''/gr;

	as('alice', "SELECT etl_job_create('$escape', 'on escape', '$command; INSERT INTO did VALUES (''$escape'')')");
}
as('alice', q{SELECT etl_signal('escape')});
for my $way ('a worker', 'a call')
{
	if ($way eq 'a call')
	{
		value('ALTER SYSTEM SET etl_patterns.scheduler = off; SELECT pg_reload_conf()');
		wait_for(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'etl_patterns%' AND backend_type <> 'etl_patterns launcher'}, 'there are no workers now');
		value('TRUNCATE did');
		as('alice', q{SELECT etl_signal('escape')});
		as('alice', 'CALL etl_run_due_jobs()');
	}
	wait_for(q{SELECT count(*) = 0 FROM etl_patterns.job_run WHERE finished_at IS NULL AND payload IS NULL AND origin = 'event'}, "$way: all have ended");
	is(value(q{SELECT string_agg(concat_ws(' ', what, who, session, super), ', ' ORDER BY what) FROM did WHERE what <> 'beat'}),
		join(', ', map { "$_ alice alice off" } sort keys %allowed), "$way: nobody has become somebody else");
	is(value(q{SELECT string_agg(DISTINCT error_code, ' ') FROM etl_patterns.job_run WHERE origin = 'event' AND status = 'failed' AND error_message NOT LIKE '%secret%' AND error_message <> 'division by zero'}),
		'42501 55P02', "$way: those who tried have no permission");
}
like(as('root', q{SET SESSION AUTHORIZATION alice; CALL etl_run_due_jobs()}), qr/^ERROR: +etl_run_due_jobs\(\) must be called as the role that has logged in$/,
	'who could go back must not call');
like(as('carol', q{SET ROLE alice; CALL etl_run_due_jobs()}), qr/^ERROR: +etl_run_due_jobs\(\) must be called/, 'nor may a member as the role');
value('ALTER SYSTEM RESET etl_patterns.scheduler; SELECT pg_reload_conf()');

# ---------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------

my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/secret-45.csv", '1');
like(as('alice', "SELECT etl_job_create('files', 'on file:$dir/*.csv', 'SELECT 1')"), qr/^ERROR: +permission denied to wait for files of the server$/,
	'files of the server need a privilege');
value('GRANT pg_read_server_files TO alice');
like(as('alice', "SELECT etl_job_create('files', 'on file:$dir/*.csv', 'SELECT 1')"), qr/^\d+$/, 'with it there is a job');
wait_for(q{SELECT count(*) = 1 FROM etl_patterns.job_run WHERE job = 'files' AND status = 'succeeded'}, 'and a run');
is(rows('bob', 'TABLE etl_patterns.job_file'), 0, 'bob does not see the file');
is(rows('alice', 'TABLE etl_patterns.job_file'), 1, 'alice does');
value('REVOKE pg_read_server_files FROM alice');
append_to_file("$dir/secret-46.csv", '1');
wait_for(q{SELECT state = 'broken' OR reason IS NOT NULL FROM etl_patterns.job WHERE job = 'files'}, 'without it the job says so');
is(value(q{SELECT count(*) FROM etl_patterns.job_file WHERE path LIKE '%46%'}), 0, 'and no file is looked at');
as('alice', q{SELECT etl_job_drop('files')});

# ---------------------------------------------------------------------------
# Owners
# ---------------------------------------------------------------------------

for my $role ('dora', 'erin', 'fred', 'root')
{
	like(as($role, "SELECT etl_job_create('of $role', 'every 1 second', 'INSERT INTO did VALUES (''$role'')')"), qr/^\d+$/, "$role has a job");
	wait_for("SELECT count(*) > 0 FROM did WHERE what = '$role'", 'it runs');
}

# The job is broken for a reason; alice's go on.
sub breaks
{
	my ($role, $change, $reason) = @_;
	my $beats;

	value($change);
	wait_for("SELECT state = 'broken' FROM etl_patterns.job WHERE job = 'of $role'", "$change: broken");
	is(value("SELECT reason FROM etl_patterns.job WHERE job = 'of $role'"), $reason, '... for this reason');
	is(value("SELECT count(*) FROM etl_patterns.alert WHERE job = 'of $role' AND kind = 'broken'"), 1, '... with an alert');
	value(q{DELETE FROM did});
	wait_for(q{SELECT count(*) > 1 FROM did WHERE what = 'beat'}, '... and others go on');
	is(value("SELECT count(*) FROM did WHERE what = '$role'"), 0, '... but not this one');
	value("DELETE FROM etl_patterns.alert");
}

# It is mended.
sub resumes
{
	my ($role, $change) = @_;

	value($change);
	is(as($role, "SELECT etl_job_resume('of $role')"), '', "$change: resumed");
	wait_for("SELECT count(*) > 0 FROM did WHERE what = '$role'", '... and it runs again');
}

breaks('dora', 'ALTER ROLE dora NOLOGIN', 'its owner is not permitted to log in');
like(as('root', q{SELECT etl_job_resume('of dora')}), qr/^ERROR/, 'not to be resumed like that');
resumes('dora', 'ALTER ROLE dora LOGIN');
breaks('erin', 'DROP OWNED BY erin; DROP ROLE erin', 'its owner does not exist any more');
value('CREATE ROLE erin LOGIN');
is(rows('erin', 'TABLE etl_patterns.job'), 0, 'another role of that name does not inherit the job');
is(as('root', q{SELECT etl_job_drop('of erin')}), '', 'a superuser can drop it');
breaks('fred', 'REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; GRANT CONNECT ON DATABASE postgres TO alice, bob, carol, dora, mona',
	'its owner has no CONNECT privilege for the database');
resumes('fred', 'GRANT CONNECT ON DATABASE postgres TO PUBLIC');
breaks('root', 'ALTER SYSTEM SET etl_patterns.superuser_jobs = off; SELECT pg_reload_conf()',
	'its owner is a superuser, and "etl_patterns.superuser_jobs" is off');
like(as('root', q{SELECT etl_job_create('another', 'every 1 second', 'SELECT 1')}), qr/^ERROR: +jobs of role "root" cannot run, because it is a superuser$/,
	'superusers get no new jobs then');
breaks('dora', 'ALTER ROLE dora SUPERUSER', 'its owner is a superuser, and "etl_patterns.superuser_jobs" is off');
value('ALTER ROLE dora NOSUPERUSER');
resumes('root', 'ALTER SYSTEM RESET etl_patterns.superuser_jobs; SELECT pg_reload_conf()');

# A call finds the same.
value('ALTER SYSTEM SET etl_patterns.scheduler = off; ALTER SYSTEM SET etl_patterns.superuser_jobs = off; SELECT pg_reload_conf()');
wait_for(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'etl_patterns%' AND backend_type <> 'etl_patterns launcher'}, 'there are no workers now');
value('DELETE FROM did');
as('root', q{CALL etl_run_due_jobs()});
is(value(q{SELECT state || ' ' || reason FROM etl_patterns.job WHERE job = 'of root'}), 'broken its owner is a superuser, and "etl_patterns.superuser_jobs" is off', 'a call breaks a superuser\'s job');
is(value(q{SELECT count(*) FROM did}), 0, 'and runs nothing');

# ---------------------------------------------------------------------------

is(value(q{SELECT string_agg(DISTINCT concat_ws(' ', what, 'as', who, 'in', application), ', ') FROM trap}), '', 'nobody has stepped into a trap');
unlike(slurp_file($node->logfile), qr/TRAP:|PANIC|terminated by signal 11/, 'no crash');
$node->stop;
done_testing();
