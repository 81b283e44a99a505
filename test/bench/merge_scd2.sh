#!/usr/bin/env bash
#
# etl_scd2_merge against the best that can be written by hand in SQL, and what
# dbt writes: a dimension of a million customers in three shapes, against full
# snapshots and a batch of changes; and a dimension of ten million.
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
function=etl_scd2_merge
# shellcheck disable=SC2034
result="SELECT count(*), sum(hashtextextended((customer_id, name, email, phone, city, segment, region_id,
	loyalty_level, credit_limit, signed_up_at, valid_from, valid_to, is_current)::text, 0)) FROM dim;"

at="timestamptz '2024-07-01 00:00+00'"

# columns PREFIX: the attributes, as PREFIXname, ...
columns()
{
	printf '%s' "$1name, $1email, $1phone, $1city, $1segment, $1region_id, $1loyalty_level, $1credit_limit, $1signed_up_at"
}

differ="($(columns d.)) IS DISTINCT FROM ($(columns s.))"
into="dim (customer_id, $(columns ''), valid_from, valid_to, is_current)"
version="s.customer_id, $(columns s.), $at, NULL, true"
close="SET valid_to = $at, is_current = false"

ours()
{
	printf "SELECT * FROM etl_scd2_merge('dim', 'src', '{customer_id}', effective_at => '2024-07-01 00:00+00');"
}

# What everybody writes first: close what changed, open it again, add the new.
three_statements()
{
	cat <<-SQL
	BEGIN;
	UPDATE dim d $close FROM src s
		WHERE d.customer_id = s.customer_id AND d.is_current AND $differ;
	INSERT INTO $into SELECT $version FROM src s
		JOIN dim d ON d.customer_id = s.customer_id AND d.valid_to = $at;
	INSERT INTO $into SELECT $version FROM src s
		WHERE NOT EXISTS (SELECT FROM dim d WHERE d.customer_id = s.customer_id);
	COMMIT;
	SQL
}

# The same, in two.
two_statements()
{
	cat <<-SQL
	BEGIN;
	UPDATE dim d $close FROM src s
		WHERE d.customer_id = s.customer_id AND d.is_current AND $differ;
	INSERT INTO $into SELECT $version FROM src s
		WHERE NOT EXISTS (SELECT FROM dim d WHERE d.customer_id = s.customer_id AND d.is_current);
	COMMIT;
	SQL
}

# One statement.  The count makes the closing come before the opening, which
# the unique index on open versions asks for.
one_pass()
{
	cat <<-SQL
	BEGIN;
	${1:-}
	LOCK TABLE dim IN SHARE ROW EXCLUSIVE MODE;
	WITH diff AS MATERIALIZED (
		${2:-$(difference) ORDER BY d.ctid}
	), closed AS (
		UPDATE dim $close FROM diff WHERE dim.ctid = diff.tid RETURNING 1
	)
	INSERT INTO $into
		SELECT $version FROM diff s, (SELECT count(*) FROM closed) c WHERE c.count >= 0;
	COMMIT;
	SQL
}

# difference [SOURCE]: the changed and the new rows of the source, with the place
# of what they close.
difference()
{
	printf 'SELECT s.*, d.ctid AS tid FROM %s s LEFT JOIN dim d ON d.customer_id = s.customer_id AND d.is_current
		WHERE d.customer_id IS NULL OR %s' "${1:-src}" "$differ"
}

# diff_first KIND BEFORE QUERY: first writes down the difference, as QUERY tells
# it, which a parallel plan may do, then works on that alone; how it closes versions
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
	INSERT INTO $into SELECT $version FROM diff s;
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
		FROM src s JOIN dim d ON d.customer_id = s.customer_id AND d.is_current;"
unmatched='SELECT s.*, m.tid FROM src s LEFT JOIN match m ON m.source = s.ctid WHERE m.changed IS NOT FALSE'

# Closing by key, the planner's way.
by_key()
{
	cat <<-SQL
	ANALYZE diff (customer_id, tid);
	UPDATE dim d $close FROM diff s
		WHERE d.customer_id = s.customer_id AND d.is_current AND s.tid IS NOT NULL;
	SQL
}

# Closing in the order of the table, one after the other.
by_tid()
{
	cat <<-SQL
	$loops
	UPDATE dim $close FROM (SELECT tid FROM diff WHERE tid IS NOT NULL ORDER BY tid) s
		WHERE dim.ctid = s.tid;
	SQL
}

# The same without a join: the scan sorts.
by_array()
{
	printf 'UPDATE dim %s WHERE ctid = ANY (ARRAY(SELECT tid FROM diff WHERE tid IS NOT NULL));\n' "$close"
}

diff_key() { by_key | diff_first TEMP '' "$(difference)"; }
diff_key_parallel() { by_key | diff_first TEMP "$cheap" "$(difference)"; }
diff_key_unlogged() { by_key | diff_first UNLOGGED "$cheap" "$(difference)"; }
diff_tid() { by_tid | diff_first TEMP "$cheap" "$(difference)"; }
diff_tid_unlogged() { by_tid | diff_first UNLOGGED "$cheap" "$(difference)"; }
diff_array() { by_array | diff_first TEMP "$cheap" "$(difference)"; }
match_array() { by_array | diff_first TEMP "$match" "$unmatched"; }
lookup_array() { by_array | diff_first TEMP "$loops" "$(difference "$sorted")"; }
lookup_parallel() { by_array | diff_first TEMP "$loops $cheap" "$(difference)"; }

lookup_one_pass() { one_pass "$loops" "$(difference "$sorted")"; }

# What dbt snapshot writes with the strategy "check", except that it would
# compute an MD5 for each row, store it and join by it; here it may use dim_id.
dbt_snapshot()
{
	local column changed=

	for column in $(columns '' | tr , ' '); do
		changed+="${changed:+ OR }d.$column <> s.$column
			OR (d.$column IS NULL AND NOT s.$column IS NULL)
			OR (NOT d.$column IS NULL AND s.$column IS NULL)"
	done
	cat <<-SQL
	BEGIN;
	CREATE TEMPORARY TABLE dim__dbt_tmp AS
	WITH snapshot_query AS (
		SELECT * FROM src
	), snapshotted_data AS (
		SELECT *, customer_id AS dbt_unique_key FROM dim WHERE valid_to IS NULL
	), insertions_source_data AS (
		SELECT *, customer_id AS dbt_unique_key, $at AS valid_from, nullif($at, $at) AS valid_to
		FROM snapshot_query
	), updates_source_data AS (
		SELECT *, customer_id AS dbt_unique_key, $at AS valid_from, $at AS valid_to
		FROM snapshot_query
	), insertions AS (
		SELECT 'insert' AS dbt_change_type, s.*, NULL::bigint AS dim_id
		FROM insertions_source_data s LEFT OUTER JOIN snapshotted_data d ON d.dbt_unique_key = s.dbt_unique_key
		WHERE d.dbt_unique_key IS NULL OR (d.dbt_unique_key IS NOT NULL AND ($changed))
	), updates AS (
		SELECT 'update' AS dbt_change_type, s.*, d.dim_id
		FROM updates_source_data s JOIN snapshotted_data d ON d.dbt_unique_key = s.dbt_unique_key
		WHERE $changed
	)
	SELECT * FROM insertions
	UNION ALL
	SELECT * FROM updates;
	UPDATE dim SET valid_to = s.valid_to, is_current = false FROM dim__dbt_tmp s
		WHERE s.dim_id = dim.dim_id AND s.dbt_change_type IN ('update', 'delete') AND dim.valid_to IS NULL;
	INSERT INTO $into SELECT s.customer_id, $(columns s.), s.valid_from, s.valid_to, true
		FROM dim__dbt_tmp s WHERE s.dbt_change_type = 'insert';
	COMMIT;
	DROP TABLE dim__dbt_tmp;
	SQL
}

# shellcheck disable=SC2034
everyone=(three_statements two_statements one_pass lookup_one_pass dbt_snapshot diff_key diff_key_parallel diff_key_unlogged
	diff_tid diff_tid_unlogged diff_array match_array lookup_array lookup_parallel)

# line ROWS SHAPE VERSIONS FEED BEST...: one case.  Without an index on the keys
# nobody looks them up one by one.
line()
{
	local everyone=("${everyone[@]}")
	local rows=$1 shape=$2 versions=$3 feed=$4 name
	local -A index=([create]='(key, valid_from)' [partial]='(key) where open' [pkey]='pkey only')
	shift 4

	name="$((rows / 1000000))M"
	[ "$versions" = 1 ] || name+="x$versions"
	name+=", ${index[$shape]}, $feed"
	wanted "$name" || return 0
	[ "$shape" != pkey ] || everyone=(two_statements one_pass dbt_snapshot diff_key diff_tid diff_array match_array)
	rows=$(scaled "$rows")
	target merge_scd2.sql "rows=$rows" "shape=$shape" "versions=$versions"
	feed "$(feed_query "$rows" "$feed")"
	# shellcheck disable=SC2046
	contest "$name" $(opponents "$@")
}

merge_head "etl_scd2_merge, $(scaled 1000000) rows"
line 1000000 create 1 'snapshot 0.1+0 %' diff_array lookup_parallel
line 1000000 create 1 'snapshot 1+0 %' diff_array lookup_parallel
line 1000000 create 1 'snapshot 5+1 %' diff_array lookup_parallel
line 1000000 create 1 'snapshot 20+0 %' diff_array lookup_parallel
line 1000000 create 1 'snapshot 100+0 %' two_statements diff_array
line 1000000 create 1 'batch 50k' lookup_one_pass lookup_array
line 1000000 create 3 'snapshot 5+1 %' diff_array lookup_parallel
line 1000000 create 3 'batch 50k' lookup_one_pass lookup_array
line 1000000 partial 1 'snapshot 5+1 %' diff_array lookup_parallel
line 1000000 partial 1 'batch 50k' lookup_one_pass lookup_array
line 1000000 partial 3 'snapshot 5+1 %' diff_array lookup_parallel
line 1000000 partial 3 'batch 50k' lookup_one_pass lookup_array
line 1000000 pkey 1 'snapshot 5+1 %' diff_array
line 1000000 pkey 1 'batch 50k' diff_array match_array
line 10000000 create 1 'batch 100k' lookup_one_pass lookup_array
clean_up
