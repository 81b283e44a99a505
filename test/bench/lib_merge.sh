# lib_merge.sh: measuring merges, for the benchmarks to source after lib.sh.
#
# A case has a database of its own with the target "dim" and the source "src".
# Each measurement takes place in a fresh copy of it, file by file, with the
# tables in shared buffers as far as they fit, and after a checkpoint; the
# commit is in.  CPU seconds are those of the backend and its parallel workers.
# In the first round the outcome of each contestant is compared with that of
# the first one: a contestant that is wrong ends the benchmark.
#
# Contestants are shell functions that print SQL.  The one called "ours" comes
# last in each round.
#
#   ROUNDS=5    CASES=.        CASES: a regular expression for the names
#   SCALE=1     size of the tables: 0.1 is a tenth
#   ALL=        1: every opponent in every case, not just the best
#   ONLY=.      a regular expression for the opponents
#
# What is not set here comes from lib.sh or from the benchmark.
#
# shellcheck shell=bash disable=SC2154

export PGOPTIONS='-c client_min_messages=warning'
template=bench_template
copy=bench_copy
scale=${SCALE:-1}
result=		# the query that says what is in the table now

# scaled NUMBER
scaled()
{
	awk "BEGIN { printf \"%d\", $1 * $scale }"
}

wanted()
{
	[[ $1 =~ ${CASES:-.} ]]
}

# target FILE VARIABLE=VALUE...: makes the target anew, unless it is there.
target_now=
target()
{
	local file=$1 word set=()

	[ "$target_now" != "$*" ] || return 0
	target_now=$*
	shift
	for word in "$@"; do
		set+=(-v "$word")
	done
	sql -c "DROP DATABASE IF EXISTS $copy" -c "DROP DATABASE IF EXISTS $template" \
		-c "CREATE DATABASE $template"
	sql -d $template -f "$here/merge_rows.sql"
	sql -d $template "${set[@]}" -f "$here/$file"
}

# feed QUERY: makes the source anew.
feed()
{
	sql -d $template <<-SQL
	DROP TABLE IF EXISTS src;
	CREATE TABLE src AS SELECT * FROM $1;
	VACUUM ANALYZE src;
	SQL
}

# feed_query ROWS NAME: the query of "snapshot CHANGED+NEW %" or "batch SIZEk".
feed_query()
{
	local changed fresh

	case $2 in
		batch*) printf 'batch(%s, %s)' "$1" "$(scaled "$(tr -dc 0-9 <<<"$2")000")" ;;
		*)
			IFS=+ read -r changed fresh <<<"$(tr -dc 0-9.+ <<<"$2")"
			printf 'snapshot(%s, %s, %s)' "$1" "$changed" "$fresh"
			;;
	esac
}

have_function()
{
	[ "$(sql -d $template -c "SELECT count(*) FROM pg_proc WHERE proname = '$1'")" != 0 ]
}

clean_up()
{
	sql -c "DROP DATABASE IF EXISTS $copy" -c "DROP DATABASE IF EXISTS $template"
	target_now=
}

# measure_merge CONTESTANT CHECK: sets wall, cpu (seconds), wal, growth (MB)
# and, if CHECK is 1, outcome.
measure_merge()
{
	local check=

	[ "$2" = 0 ] || check=$result
	sql -c "DROP DATABASE IF EXISTS $copy" -c "CREATE DATABASE $copy TEMPLATE $template STRATEGY file_copy"
	sql -d $copy -F ' ' >"$work/measured" <<-SQL || { printf 'failed: %s\n' "$1" >&2 && exit 1; }
	SET work_mem = '64MB';
	\\o /dev/null
	SELECT pg_prewarm(indexrelid) FROM pg_index WHERE indrelid = 'dim'::regclass;
	SELECT pg_prewarm('dim');
	SELECT pg_prewarm('src');
	CHECKPOINT;
	\\o
	SELECT * FROM used('dim');
	\\o /dev/null
	$("$1")
	\\o
	SELECT * FROM used('dim');
	RESET ALL;
	$check
	SQL
	read -r wall cpu wal growth <<<"$(awk '
		NR == 1 { split($0, a) }
		NR == 2 { printf "%.4f %.4f %.4f %.4f\n", $1 - a[1], $2 - a[2], ($3 - a[3]) / 1e6, ($4 - a[4]) / 1e6 }' \
		"$work/measured")"
	outcome=$(tail -n +3 "$work/measured")
}

merge_head()
{
	printf '\n%s: %s rounds, medians\n\n' "$1" "$rounds"
	printf '| %-44s | %-18s | %8s | %7s | %6s | %6s | %8s | %8s | %6s | %9s | %7s | %9s | %7s |\n' \
		case theirs 'theirs s' 'ours s' ratio pairs 'th. cpu' 'ours cpu' 'cpu r.' \
		'th. WAL' 'our WAL' 'th. grow' 'our gr.'
	printf '|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n'
}

# contest NAME CONTESTANT...: lines of the table, one for each opponent.
contest()
{
	local name=$1 i who first=
	local -A w=() c=() v=() g=() p=()
	shift

	for ((i = 0; i < rounds; i++)); do
		for who in "$@"; do
			measure_merge "$who" $((i == 0))
			w[$who]+=" $wall" c[$who]+=" $cpu" v[$who]+=" $wal" g[$who]+=" $growth"
			[ $i = 0 ] || continue
			: "${first:=$outcome}"
			[ "$outcome" = "$first" ] || {
				printf '%s: %s gives %s, %s gives %s\n' "$name" "$1" "$first" "$who" "$outcome" >&2
				exit 1
			}
		done
		[ "$who" != ours ] || for who in "$@"; do
			p[$who]+=" $(calc "${w[$who]##* } / $wall")"
		done
	done
	# shellcheck disable=SC2086
	for who in "$@"; do
		[ "$who" != ours ] || continue
		awk -v name="$name" -v who="$who" \
			-v tw="$(median ${w[$who]})" -v tc="$(median ${c[$who]})" \
			-v tv="$(median ${v[$who]})" -v tg="$(median ${g[$who]})" \
			-v ow="$(median ${w[ours]:-0})" -v oc="$(median ${c[ours]:-0})" \
			-v ov="$(median ${v[ours]:-0})" -v og="$(median ${g[ours]:-0})" \
			-v pairs="$(median ${p[$who]:-0})" 'BEGIN {
			format = ow + 0 ? \
				"| %-44s | %-18s | %8.2f | %7.2f | %6.2f | %6.2f | %8.2f | %8.2f | %6.2f | %9.1f | %7.1f | %9.1f | %7.1f |\n" : \
				"| %-44s | %-18s | %8.2f | %7.0s | %6.0s | %6.0s | %8.2f | %8.0s | %6.0s | %9.1f | %7.0s | %9.1f | %7.0s |\n"
			printf format, name, who, tw, ow, (ow + 0 ? tw / ow : 0), pairs, tc, oc, (oc + 0 ? tc / oc : 0), tv, ov, tg, og
		}'
	done
}

# The benchmark sets function, the name of ours.
have_ours()
{
	have_function "$function"
}
