#!/usr/bin/env bash
#
# etl_incremental_pull within a database, apply => 'append', against what is
# written by hand: INSERT ... SELECT ... WHERE updated_at > the last value, and
# the UPDATE of a row that keeps the next one, in one transaction.
#
# That value is given to the opponents, which they would have to look for: the
# greatest one in the source, or of what they have inserted.  Nor do they look
# for transactions in progress, so they lose what commits late.
#
# What can be set: lib_pull.sh.
#
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/bench/lib.sh
. "$here/lib.sh"
# shellcheck source=test/bench/lib_pull.sh
. "$here/lib_pull.sh"

keys=	# a parameter of the call, or nothing
on_conflict=
new=	# the WHERE of rows that the last pull had not read, or nothing

ours()
{
	near -c "SELECT * FROM etl_incremental_pull('bench', 'src', 'dst', 'updated_at'$keys)"
}

# The same in SQL.
insert()
{
	near <<-SQL
	BEGIN;
	INSERT INTO dst SELECT $columns FROM src $new $on_conflict;
	UPDATE mark SET last = '$newest';
	COMMIT;
	SQL
}

# With a range that ends where the source does now, as a careful author would
# have it.
insert_range()
{
	near <<-SQL
	BEGIN;
	SELECT max(updated_at) AS newest FROM src \gset
	INSERT INTO dst SELECT $columns FROM src ${new:-WHERE true} AND updated_at <= :'newest' $on_conflict;
	UPDATE mark SET last = :'newest';
	COMMIT;
	SQL
}

# Of the rows of a table with a key, those that are not there.
anti_join()
{
	near <<-SQL
	BEGIN;
	INSERT INTO dst SELECT $columns FROM src s ${new:-WHERE true} AND NOT EXISTS (
		SELECT FROM dst d WHERE (d.l_orderkey, d.l_linenumber) = (s.l_orderkey, s.l_linenumber));
	UPDATE mark SET last = '$newest';
	COMMIT;
	SQL
}

# Two processes may do more than one.
copy_pipe()
{
	near -c "COPY (SELECT $columns FROM src $new) TO STDOUT (FORMAT binary)" |
		near -c BEGIN -c 'COPY dst FROM STDIN (FORMAT binary)' -c "UPDATE mark SET last = '$newest'" -c COMMIT
}

# Of lib_pull.sh.
# shellcheck disable=SC2034
everyone=(insert insert_range copy_pipe)

# line NAME FRACTION KEY OPPONENT...: one case; FRACTION of the rows is new.
line()
{
	local name=$1 fraction=$2 key=$3 last
	shift 3

	wanted "$name" || return 0
	last=$(near -c "SELECT updated_at FROM src ORDER BY 1 OFFSET floor($total * (1 - $fraction)) LIMIT 1")
	new="WHERE updated_at > '$last'"
	near -c "DROP TABLE IF EXISTS dst" -c "CREATE TABLE dst (LIKE src)"
	[ -z "$key" ] || near -c 'ALTER TABLE dst ADD PRIMARY KEY (l_orderkey, l_linenumber)'
	prepare="TRUNCATE dst, etl_patterns.watermark, etl_patterns.run; SELECT etl_watermark_set('bench', '$last')"
	# Into a heap it makes no difference what is there, to an index it does.
	[ -z "$key" ] || prepare+="; INSERT INTO dst SELECT $columns FROM src WHERE updated_at <= '$last'"
	# Of lib_pull.sh.
	# shellcheck disable=SC2034
	[ "$fraction" != 1 ] || prepare=${prepare%%;*} new=
	expected=$(near -c "$(counts src "$new")")
	# shellcheck disable=SC2034
	outcome=$(counts dst "$new")
	# shellcheck disable=SC2046
	contest "$name" "${expected%%|*}" $(opponents "$@")
}

total=$(scaled 3000000)
new_database $near
near -c 'CREATE EXTENSION etl_patterns' -c 'CREATE TABLE mark (last timestamptz)' \
	-c "INSERT INTO mark VALUES ('-infinity')"
near -f "$here/bulk_load.sql"
near -v rows="$total" -f "$here/pull_rows.sql"
newest=$(near -c 'SELECT max(updated_at) FROM src')

pull_head "etl_incremental_pull, local, $total rows"
for index in 'no index' index; do
	line "all, $index" 1 '' insert
	line "a third, $index" 0.33333 '' insert
	[ "$index" = index ] || near -c 'CREATE INDEX ON src (updated_at)' -c 'VACUUM ANALYZE src'
done
line 'all, index, primary key' 1 1 insert
line 'a third, index, primary key' 0.33333 1 insert
keys=", keys => '{l_orderkey,l_linenumber}'" on_conflict='ON CONFLICT DO NOTHING'
# shellcheck disable=SC2034
everyone=(insert insert_range anti_join)
line 'all, index, keys' 1 1 insert anti_join
line 'a third, index, keys' 0.33333 1 insert anti_join
clean_up
