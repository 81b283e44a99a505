# Pulls from a server that is broken, or tells lies: whatever it says, the
# session gets an error and stays, and nothing is stored that is no value of its
# type.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Proxy;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('hostile');
$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', "fsync = off\n");
$node->start;
my $proxy = Proxy->new($node->host, $node->port);

$node->safe_psql('postgres', qq{
	CREATE EXTENSION etl_patterns;
	CREATE EXTENSION postgres_fdw;
	CREATE TABLE src (id int, at timestamptz, v varchar(4), c char(4), n numeric(6, 2), ts timestamp(3), k text);
	INSERT INTO src VALUES (1, '2020-01-01', 'abcd', 'ab', 1234.56, '2020-01-01 00:00:00.123', 'a'), (2, '2020-01-02', 'x', 'yz', 0, NULL, 'b');
	CREATE TABLE dst (LIKE src);
	CREATE TABLE heard (pipeline text, state text, message text);
	CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$proxy->{host}', port '$proxy->{port}', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER far;
	CREATE SCHEMA far;
	IMPORT FOREIGN SCHEMA public LIMIT TO (src) FROM SERVER far INTO far;
});
my $session = $node->background_psql('postgres');
$session->query_safe("SET statement_timeout = '20s'; SET client_min_messages = warning; SET timezone = 'UTC'");
my $pid = $session->query_safe('SELECT pg_backend_pid()');

my %cursor = (horizon => 'at', lag => 'at', lock_wait => 'id', none => 'id');
my $n_pulls = 0;

# What becomes of a pull, with a rule for the messages of the server: the number
# of rows and the watermark, or the error.
sub pull
{
	my ($rule, $safety, $more) = @_;
	my $name = 'p' . ++$n_pulls;
	my $lag = $safety eq 'lag' ? ", lag => '1min'" : '';

	$more //= '';
	$proxy->rule("sub { my (\$type, \$body, \$n) = \@_; $rule; return Proxy::message(\$type, \$body) }");
	return $session->query_safe(qq{
		DO \$\$ BEGIN
			INSERT INTO heard SELECT '$name', '', concat_ws(' to ', rows_read, watermark_high)
				FROM etl_incremental_pull('$name', 'far.src', 'dst', '$cursor{$safety}', safety => '$safety', max_wait => '0'$lag$more);
		EXCEPTION WHEN OTHERS OR query_canceled THEN
			INSERT INTO heard VALUES ('$name', SQLSTATE, SQLERRM);
		END \$\$;
		SELECT concat_ws(' ', nullif(state, ''), message) FROM heard WHERE pipeline = '$name'});
}

# ---------------------------------------------------------------------------
# Answers: each in turn is wrong in each way
# ---------------------------------------------------------------------------

my %ways = (
	'a column less' => q{$body = Proxy::fewer_columns($body) if $type eq 'T';
		$body = Proxy::row_of((Proxy::values_of($body))[0 .. unpack('n', $body) - 2]) if $type eq 'D'},
	'null' => q{$body = Proxy::row_of(map { undef } Proxy::values_of($body)) if $type eq 'D'},
	'no row' => q{return '' if $type eq 'D'},
	'two rows' => q{return Proxy::message($type, $body) x 2 if $type eq 'D'},
	'nonsense' => q{$body = Proxy::row_of(map { '?' } Proxy::values_of($body)) if $type eq 'D'},
	'not in UTF8' => q{$body = Proxy::row_of(map { "\xc3(" } Proxy::values_of($body)) if $type eq 'D'},
	'infinity' => q{$body = Proxy::row_of(map { 'infinity' } Proxy::values_of($body)) if $type eq 'D'});

# An answer that is not needed, or of which only a part is, may be wrong.
my $fine = qr/1 to (?:1|2020-01-01 00:00:00\+00)/;
my $errors = qr/(?:08P01|22P02|22007|22021|22023|42P01|42501) .*/;

foreach my $safety (sort keys %cursor)
{
	is(pull('', $safety), '2 to ' . ($cursor{$safety} eq 'id' ? '2' : '2020-01-02 00:00:00+00'), "$safety: a pull of two rows");
	foreach my $way (sort keys %ways)
	{
		my @heard = map { pull("if ((\$n->{T} // 0) == $_) { $ways{$way} }", $safety, ', batch_rows => 1') } 1 .. 6;

		is(join("\n", grep { !/^(?:$fine|$errors)$/ } @heard), '', "$safety: $way: an error where it matters");
		cmp_ok(scalar(grep { /^$errors$/ } @heard), '>=', 1, "$safety: $way: it does") or diag join "\n", @heard;
	}
}
is($session->query_safe('SELECT pg_backend_pid()'), $pid, 'wrong answers end no session');

# A COPY that nobody has asked for, where an answer ends or a row is due.
foreach my $copy ('G', 'H', 'W')
{
	my @heard = map { pull("return Proxy::message('$copy', pack 'Cn', 0, 0) if \$type eq 'C' && \$n->{C} == $_", 'horizon') } 3, 8, 10, 12, 16;
	like(join("\n", @heard), qr/^(?:08P01 server "far" has sent an unexpected result\n?)+$/, "$copy: a COPY that nobody has asked for");
}

# ---------------------------------------------------------------------------
# Ends, and messages
# ---------------------------------------------------------------------------

foreach my $message (1 .. 20)
{
	my $heard = pull("our \$all; return undef if ++\$all == 6 * $message", 'none');
	like($heard, qr/^(?:08006 connection to server "far" was lost|08001 could not connect to server "far"|2 to 2)$/, "the end after some messages ($message)");
}
like(pull(q{return 'd' . pack('N', 0x7ffffff0) . 'x' x 100 if $type eq 'd'; return undef if $type eq 'c'}, 'none'),
	qr/^08006 /, 'a message that never ends');
like(pull(q{return 'd' . pack('N', 3) . $body if $type eq 'd'}, 'none'), qr/^08006 /, 'a message with an impossible length');
is(pull(q{return Proxy::message('E', "SERROR\0VERROR\0C22012\0Mgr\xfc\xdfe\0\0") if $type eq 'T' && $n->{T} == 2}, 'none'),
	'22012 gr??e', 'a message that is not in UTF8');

# ---------------------------------------------------------------------------
# Values: what the columns are said to be is not what comes
# ---------------------------------------------------------------------------

# A pull with some bytes of the rows changed, and what has come of the first row.
sub pull_changed
{
	my ($from, $to, $column) = @_;
	my ($old, $new) = map { "pack('H*', '" . unpack('H*', $_) . "')" } $from, $to;

	$session->query_safe('TRUNCATE dst');
	my $heard = pull("if (\$type eq 'd') { my (\$old, \$new) = ($old, $new); \$body =~ s/\\Q\$old\\E/\$new/ }", 'none');
	return $heard =~ /^2 / ? $session->query_safe("SELECT $column FROM dst WHERE id = 1") : $heard;
}

is(pull_changed("\0\0\0\4abcd", "\0\0\0\5abcde", 'v'), '22001 value too long for type character varying(4)', 'a string that is too long');
is(pull_changed("\0\0\0\4abcd", "\0\0\0\5abc\xc3\xbc", 'v'), "abc\xc3\xbc", 'a string that has more bytes');
is(pull_changed("\0\0\0\4abcd", "\0\0\0\4ab\0d", 'v'), '22021 invalid byte sequence for encoding "UTF8": 0x00', 'a string with a zero');
is(pull_changed("\0\0\0\4ab  ", "\0\0\0\2ab", 'octet_length(c)'), 4, 'a string without its blanks');
is(pull_changed("\0\0\0\4ab  ", "\0\0\0\4a\xc3\xbc ", 'octet_length(c)'), 5, 'a string with too few characters');
is(pull_changed(pack('n6', 2, 0, 0, 2, 1234, 5600), pack('n6', 2, 0, 0, 3, 1234, 5670), 'n'), '1234.57', 'a number with more decimals');
is(pull_changed(pack('n6', 2, 0, 0, 2, 1234, 5600), pack('n6', 2, 1, 0, 2, 1234, 5600), 'n'), '22003 numeric field overflow', 'a number with more digits');
is(pull_changed(pack('n6', 2, 0, 0, 2, 1234, 5600), pack('n6', 2, 0, 0, 2, 12345, 5600), 'n'), '22P03 invalid digit in external "numeric" value',
	'a digit that is none');
is(pull_changed(pack('Nq>', 8, 631152000123000), pack('Nq>', 8, 631152000123456), 'ts'), '2020-01-01 00:00:00.123', 'a time that is too fine');
is(pull_changed(pack('Nq>', 8, 631152000123000), pack('Nq>', 8, -2 ** 62), 'ts'), '22008 timestamp out of range', 'a time that is none');
is(pull_changed(pack('Nq>', 8, 631152000123000), pack('NN', 4, 1), 'ts'), '08P01 insufficient data left in message', 'half a time');

# ---------------------------------------------------------------------------

is($session->query_safe('SELECT pg_backend_pid()'), $pid, 'the session is still there');
is($node->safe_psql('postgres', "SELECT DISTINCT value FROM etl_patterns.watermark ORDER BY 1"),
	"1\n2\n2020-01-01 00:00:00+00\n2020-01-02 00:00:00+00", 'all watermarks are values of the source');
is($session->query_safe("SELECT count(*) FROM pg_ls_dir('/proc/self/fd') d WHERE pg_stat_file('/proc/self/fd/' || d, true) IS NOT NULL") < 60,
	1, 'no connection is left open') if -d '/proc/self/fd';

$session->quit;
$proxy->stop;
done_testing();
