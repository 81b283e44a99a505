#!/usr/bin/env bash
#
# etl_upsert against the best that can be written by hand in SQL: a table of a
# million customers against full snapshots and a batch of changes; and one of
# ten million.
#
# What can be set: lib_merge.sh.
#
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/bench/lib.sh
. "$here/lib.sh"
# shellcheck source=test/bench/lib_merge.sh
. "$here/lib_merge.sh"

# What lib_merge.sh asks for.
# shellcheck disable=SC2034
function=etl_upsert
# shellcheck disable=SC2034
result="SELECT count(*), sum(hashtextextended(dim::text, 0)) FROM dim;"

# columns PREFIX: the attributes, as PREFIXname, ...
columns()
{
	printf '%s' "$1name, $1email, $1phone, $1city, $1segment, $1region_id, $1loyalty_level, $1credit_limit, $1signed_up_at"
}

differ="($(columns d.)) IS DISTINCT FROM ($(columns s.))"
assign="($(columns '')) = ROW ($(columns s.))"
row="s.customer_id, $(columns s.)"

ours()
{
	printf "SELECT * FROM etl_upsert('dim', 'src', '{customer_id}');"
}

merge()
{
	cat <<-SQL
	MERGE INTO dim d USING ${1:-src} s ON d.customer_id = s.customer_id
		WHEN MATCHED AND $differ THEN UPDATE SET $assign
		WHEN NOT MATCHED THEN INSERT VALUES ($row);
	SQL
}

on_conflict()
{
	printf 'INSERT INTO dim AS d SELECT * FROM src ON CONFLICT (customer_id) DO UPDATE SET %s %s;' \
		"${assign//s./excluded.}" "${1:-}"
}

on_conflict_where()
{
	on_conflict "WHERE ${differ//s./excluded.}"
}

update_insert()
{
	cat <<-SQL
	BEGIN;
	UPDATE dim d SET $assign FROM src s WHERE d.customer_id = s.customer_id AND $differ;
	INSERT INTO dim SELECT $row FROM src s
		WHERE NOT EXISTS (SELECT FROM dim d WHERE d.customer_id = s.customer_id);
	COMMIT;
	SQL
}

# One statement.
one_pass()
{
	cat <<-SQL
	BEGIN;
	${1:-}
	LOCK TABLE dim IN SHARE ROW EXCLUSIVE MODE;
	WITH diff AS MATERIALIZED (
		${2:-$(difference) ORDER BY d.ctid}
	), changed AS (
		UPDATE dim d SET $assign FROM diff s WHERE d.ctid = s.tid
	)
	INSERT INTO dim SELECT $row FROM diff s WHERE s.tid IS NULL;
	COMMIT;
	SQL
}

# difference [SOURCE]: the changed and the new rows of the source, with the place
# of what they change.
difference()
{
	printf 'SELECT s.*, d.ctid AS tid FROM %s s LEFT JOIN dim d ON d.customer_id = s.customer_id
		WHERE d.customer_id IS NULL OR %s' "${1:-src}" "$differ"
}

# diff_first KIND BEFORE QUERY: first writes down the difference, as QUERY tells
# it, which a parallel plan may do, then works on that alone; how it changes rows
# is read from standard input.  KIND of table: TEMP or UNLOGGED.
diff_first()
{
	cat <<-SQL
	BEGIN;
	LOCK TABLE dim IN SHARE ROW EXCLUSIVE MODE;
	$2
	CREATE $1 TABLE diff AS $3;
	RESET parallel_tuple_cost;
	RESET enable_hashjoin;
	RESET enable_mergejoin;
	$(cat)
	INSERT INTO dim SELECT $row FROM diff s WHERE s.tid IS NULL;
	DROP TABLE diff;
	COMMIT;
	SQL
}

# The planner takes each row for one that differs, and a parallel plan for dear.
cheap='SET LOCAL parallel_tuple_cost = 0;'

# An index is best asked in its own order; the planner does not believe it.
loops='SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;'
sorted='(SELECT * FROM src ORDER BY customer_id)'

# A hash of the small side, which a parallel plan may not keep for an outer
# join: so first what meets, then the rest.
match="$cheap
	CREATE TEMP TABLE match AS SELECT s.ctid AS source, d.ctid AS tid, $differ AS changed
		FROM src s JOIN dim d ON d.customer_id = s.customer_id;"
unmatched='SELECT s.*, m.tid FROM src s LEFT JOIN match m ON m.source = s.ctid WHERE m.changed IS NOT FALSE'

# Changing by key, the planner's way.
by_key()
{
	cat <<-SQL
	ANALYZE diff (customer_id, tid);
	UPDATE dim d SET $assign FROM diff s
		WHERE d.customer_id = s.customer_id AND s.tid IS NOT NULL;
	SQL
}

# Changing in the order of the table, one after the other.
by_tid()
{
	cat <<-SQL
	$loops
	UPDATE dim d SET $assign FROM (SELECT * FROM diff WHERE tid IS NOT NULL ORDER BY tid) s
		WHERE d.ctid = s.tid;
	SQL
}

diff_key() { by_key | diff_first TEMP '' "$(difference)"; }
diff_key_parallel() { by_key | diff_first TEMP "$cheap" "$(difference)"; }
diff_key_unlogged() { by_key | diff_first UNLOGGED "$cheap" "$(difference)"; }
diff_tid() { by_tid | diff_first TEMP "$cheap" "$(difference)"; }
diff_tid_unlogged() { by_tid | diff_first UNLOGGED "$cheap" "$(difference)"; }
match_tid() { by_tid | diff_first TEMP "$match" "$unmatched"; }
lookup_tid() { by_tid | diff_first TEMP "$loops" "$(difference "$sorted")"; }
lookup_parallel() { by_tid | diff_first TEMP "$loops $cheap" "$(difference)"; }
lookup_one_pass() { one_pass "$loops" "$(difference "$sorted")"; }

lookup_merge()
{
	printf 'BEGIN; %s %s COMMIT;\n' "$loops" "$(merge "$sorted")"
}

# shellcheck disable=SC2034
everyone=(update_insert merge on_conflict on_conflict_where one_pass diff_key diff_key_parallel diff_key_unlogged
	diff_tid diff_tid_unlogged match_tid lookup_tid lookup_parallel lookup_one_pass lookup_merge)

# line ROWS FILLFACTOR SHAPE FEED BEST...: one case.
line()
{
	local rows=$1 fillfactor=$2 shape=$3 feed=$4 name

	name="$((rows / 1000000))M, ff$fillfactor, ${shape/more/pkey + 1}, $feed"
	shift 4
	wanted "$name" || return 0
	rows=$(scaled "$rows")
	target merge_upsert.sql "rows=$rows" "shape=$shape" "fillfactor=$fillfactor"
	feed "$(feed_query "$rows" "$feed")"
	# shellcheck disable=SC2046
	contest "$name" $(opponents "$@")
}

merge_head "etl_upsert, $(scaled 1000000) rows"
line 1000000 100 pkey 'snapshot 0.1+0 %' diff_tid merge
line 1000000 100 pkey 'snapshot 1+0 %' diff_tid merge
line 1000000 100 pkey 'snapshot 5+1 %' diff_tid merge
line 1000000 100 pkey 'snapshot 20+0 %' diff_tid merge
line 1000000 100 pkey 'snapshot 100+0 %' merge on_conflict_where
line 1000000 100 pkey 'batch 50k' lookup_merge merge
line 1000000 85 pkey 'snapshot 5+1 %' diff_tid merge
line 1000000 85 pkey 'batch 50k' lookup_merge merge
line 1000000 100 more 'snapshot 5+1 %' diff_tid merge
line 1000000 100 more 'batch 50k' lookup_merge merge
line 1000000 85 more 'snapshot 5+1 %' diff_tid merge
line 1000000 85 more 'batch 50k' lookup_merge merge
line 10000000 100 pkey 'batch 100k' lookup_merge merge
clean_up
