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
set="($(columns '')) = ROW ($(columns s.))"
row="s.customer_id, $(columns s.)"

ours()
{
	printf "SELECT * FROM etl_upsert('dim', 'src', '{customer_id}');"
}

merge()
{
	cat <<-SQL
	MERGE INTO dim d USING src s ON d.customer_id = s.customer_id
		WHEN MATCHED AND $differ THEN UPDATE SET $set
		WHEN NOT MATCHED THEN INSERT VALUES ($row);
	SQL
}

on_conflict()
{
	printf 'INSERT INTO dim AS d SELECT * FROM src ON CONFLICT (customer_id) DO UPDATE SET %s %s;' \
		"${set//s./excluded.}" "${1:-}"
}

on_conflict_where()
{
	on_conflict "WHERE ${differ//s./excluded.}"
}

update_insert()
{
	cat <<-SQL
	BEGIN;
	UPDATE dim d SET $set FROM src s WHERE d.customer_id = s.customer_id AND $differ;
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
	LOCK TABLE dim IN SHARE ROW EXCLUSIVE MODE;
	WITH diff AS MATERIALIZED (
		$(difference) ORDER BY d.ctid
	), changed AS (
		UPDATE dim d SET $set FROM diff s WHERE d.ctid = s.tid
	)
	INSERT INTO dim SELECT $row FROM diff s WHERE s.tid IS NULL;
	COMMIT;
	SQL
}

# The changed and the new rows of the source, with the place of what they change.
difference()
{
	printf 'SELECT s.*, d.ctid AS tid FROM src s LEFT JOIN dim d ON d.customer_id = s.customer_id
		WHERE d.customer_id IS NULL OR %s' "$differ"
}

# diff_first KIND SETTING [ORDER]: first writes down the difference, which a
# parallel plan may do, then works on that alone; how it changes rows is read
# from standard input.  KIND of table: TEMP or UNLOGGED.
#
# Each row counts as certain to differ, which makes a parallel plan look dear.
diff_first()
{
	cat <<-SQL
	BEGIN;
	LOCK TABLE dim IN SHARE ROW EXCLUSIVE MODE;
	$2
	CREATE $1 TABLE diff AS $(difference);
	RESET parallel_tuple_cost;
	$(cat)
	INSERT INTO dim SELECT $row FROM diff s WHERE s.tid IS NULL ${3:-};
	DROP TABLE diff;
	COMMIT;
	SQL
}

cheap='SET LOCAL parallel_tuple_cost = 0;'

# Changing by key, the planner's way.
by_key()
{
	cat <<-SQL
	ANALYZE diff (customer_id, tid);
	UPDATE dim d SET $set FROM diff s
		WHERE d.customer_id = s.customer_id AND s.tid IS NOT NULL;
	SQL
}

# Changing in the order of the table, one after the other.
by_tid()
{
	cat <<-SQL
	SET LOCAL enable_hashjoin = off;
	SET LOCAL enable_mergejoin = off;
	UPDATE dim d SET $set FROM (SELECT * FROM diff WHERE tid IS NOT NULL ORDER BY tid) s
		WHERE d.ctid = s.tid;
	SQL
}

diff_key() { by_key | diff_first TEMP ''; }
diff_key_parallel() { by_key | diff_first TEMP "$cheap"; }
diff_key_unlogged() { by_key | diff_first UNLOGGED "$cheap"; }
diff_tid() { by_tid | diff_first TEMP "$cheap"; }
diff_tid_unlogged() { by_tid | diff_first UNLOGGED "$cheap"; }

# shellcheck disable=SC2034
everyone=(update_insert merge on_conflict on_conflict_where one_pass diff_key diff_key_parallel diff_key_unlogged
	diff_tid diff_tid_unlogged)

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
line 1000000 100 pkey 'snapshot 100+0 %' diff_tid merge
line 1000000 100 pkey 'batch 50k' diff_tid merge
line 1000000 85 pkey 'snapshot 5+1 %' diff_tid merge
line 1000000 85 pkey 'batch 50k' diff_tid merge
line 1000000 100 more 'snapshot 5+1 %' diff_tid merge
line 1000000 100 more 'batch 50k' diff_tid merge
line 1000000 85 more 'snapshot 5+1 %' diff_tid merge
line 1000000 85 more 'batch 50k' diff_tid merge
line 10000000 100 pkey 'batch 100k' diff_tid merge
clean_up
