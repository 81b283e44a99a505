#!/usr/bin/env bash
#
# etl_incremental_pull of a foreign table of postgres_fdw, apply => 'append',
# against INSERT ... SELECT of the same table, and against a pipe of two
# programs that copies in binary.  The other database is on the same server, so
# there is no network between, and both sides share its CPUs.
#
# The opponents are given what they would have to look for, and lose what
# commits late: see pull_local.sh.
#
# What can be set: lib_pull.sh.
#
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/bench/lib.sh
. "$here/lib.sh"
# shellcheck source=test/bench/lib_pull.sh
. "$here/lib_pull.sh"

new=	# the WHERE of rows that the last pull had not read, or nothing

ours()
{
	near -c "SELECT * FROM etl_incremental_pull('bench', 'src', 'dst', 'updated_at', lag => '0')"
}

# fdw FETCH_SIZE
fdw()
{
	near <<-SQL
	BEGIN;
	INSERT INTO dst SELECT $columns FROM src_$1 $new;
	UPDATE mark SET last = '$newest';
	COMMIT;
	SQL
}

fdw_100() { fdw 100; }
fdw_1000() { fdw 1000; }
fdw_10000() { fdw 10000; }
fdw_50000() { fdw 50000; }

# query FORMAT: what the pipes send.
query()
{
	printf 'COPY (SELECT %s FROM src %s) TO STDOUT (FORMAT %s)' "$columns" \
		"$new" "$1"
}

# pipe FORMAT
pipe()
{
	far -c "$(query "$1")" |
		near -c BEGIN -c "COPY dst FROM STDIN (FORMAT $1)" -c "UPDATE mark SET last = '$newest'" -c COMMIT
}

pipe_binary() { pipe binary; }
pipe_text() { pipe text; }

# The server starts the program that sends.
copy_program()
{
	near <<-SQL
	BEGIN;
	COPY dst FROM PROGRAM \$\$psql -Xq -h $PGHOST -p $PGPORT -U $PGUSER -d $far -c "$(query binary)"\$\$ (FORMAT binary);
	UPDATE mark SET last = '$newest';
	COMMIT;
	SQL
}

# Of lib_pull.sh.
# shellcheck disable=SC2034
everyone=(fdw_100 fdw_1000 fdw_10000 fdw_50000 pipe_text pipe_binary copy_program)

# line NAME FRACTION KEY OPPONENT...: one case; FRACTION of the rows is new.
line()
{
	local name=$1 fraction=$2 key=$3 last
	shift 3

	wanted "$name" || return 0
	last=$(far -c "SELECT updated_at FROM src ORDER BY 1 OFFSET floor($total * (1 - $fraction)) LIMIT 1")
	new="WHERE updated_at > '$last'"
	near -c "TRUNCATE dst" -c 'ALTER TABLE dst DROP CONSTRAINT IF EXISTS dst_pkey'
	[ -z "$key" ] || near -c 'ALTER TABLE dst ADD PRIMARY KEY (l_orderkey, l_linenumber)'
	# Of lib_pull.sh.
	# shellcheck disable=SC2034
	prepare="TRUNCATE dst, etl_patterns.watermark, etl_patterns.run; SELECT etl_watermark_set('bench', '$last')"
	[ "$fraction" != 1 ] || prepare=${prepare%%;*} new=
	expected=$(far -c "$(counts src "$new")")
	outcome=$(counts dst)
	# shellcheck disable=SC2046
	contest "$name" "${expected%%|*}" $(opponents "$@")
}

# foreign_table NAME [OPTIONS]
foreign_table()
{
	near <<-SQL
	CREATE FOREIGN TABLE $1 () INHERITS (dst) SERVER far OPTIONS (table_name 'src' $2);
	ALTER FOREIGN TABLE $1 NO INHERIT dst;
	SQL
}

total=$(scaled 3000000)
new_database $near
new_database $far
far -f "$here/bulk_load.sql"
far -v rows="$total" -f "$here/pull_rows.sql"
far -c 'CREATE INDEX ON src (updated_at)' -c 'VACUUM ANALYZE src'
newest=$(far -c 'SELECT max(updated_at) FROM src')
near -f "$here/bulk_load.sql"
near <<-SQL
CREATE EXTENSION etl_patterns;
CREATE EXTENSION postgres_fdw;
CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw
	OPTIONS (host '$PGHOST', port '$PGPORT', dbname '$far');
CREATE USER MAPPING FOR CURRENT_USER SERVER far OPTIONS (user '$PGUSER');
CREATE TABLE dst (LIKE lineitem, updated_at timestamptz NOT NULL);
CREATE TABLE mark (last timestamptz);
INSERT INTO mark VALUES ('-infinity');
SQL
foreign_table src ''
for size in 100 1000 10000 50000; do
	foreign_table "src_$size" ", fetch_size '$size'"
done

pull_head "etl_incremental_pull, remote, $total rows"
line all 1 '' fdw_100 fdw_10000 pipe_binary
line 'a third' 0.33333 '' fdw_100 fdw_10000 pipe_binary
line 'all, primary key' 1 1 fdw_100 fdw_10000 pipe_binary
clean_up
