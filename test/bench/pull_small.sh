#!/usr/bin/env bash
#
# Small pulls: a transaction writes some rows into a table of ten million, and
# a pull fetches them; how long does the pull take, with its commit, and does
# it depend on the size of the table?  Beside it is what is written by hand: a
# PL/pgSQL function that keeps its watermark in a table and its plans in the
# session.  That function waits for nobody, so it loses what commits late; ours
# has to find out whether there is anybody to wait for.
#
# Ours and theirs come one after the other in one session, in turns.  An upsert
# finds one half of the rows changed, the other new.
#
#   CALLS=40    of each case: the medians are printed
#   SCALE=1     size of the large table: 0.1 is a million
#   CASES=.     a regular expression for the names
#   SIZES=      the large and the small table's rows, instead
#
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/bench/lib.sh
. "$here/lib.sh"
# shellcheck source=test/bench/lib_pull.sh
. "$here/lib_pull.sh"

calls=${CALLS:-40}
ran=	# has there been any case, so that there is something to check?
read -ra sizes <<<"${SIZES:-$(scaled 10000000) 100000}"

# timed WHO QUERY: the query prints a number of rows, psql the time.
timed()
{
	cat <<-SQL
	SELECT used_cpu() AS cpu \gset
	\echo $1
	\timing on
	$2
	\timing off
	SELECT used_cpu() - :cpu;
	SQL
}

# session ROWS APPLY CURSOR: the script of one case.
session()
{
	local i ours theirs call keys=

	[ "$2" = append ] || keys=", keys => '{id}'"
	call="SELECT rows_read FROM etl_incremental_pull('$2_$3', 'src', '$2_ours', '$3', apply => '$2'$keys);"
	theirs=$(timed theirs "SELECT $2_by_$3();")
	ours=$(timed ours "$call")
	have_ours || {
		call=''
		ours=''
	}
	# What other cases have written is none of this one's business.
	printf 'SELECT %s_by_%s() \\g /dev/null\n%s\n' "$2" "$3" "${call/;/ \\g \/dev\/null}"
	for ((i = 0; i < calls; i++)); do
		[ "$1" = 0 ] || printf "SELECT write_rows(%s, '%s') \\\\g /dev/null\n" "$1" "$2" | sed "s/'append'/false/; s/'upsert'/true/"
		if ((i % 2)); then
			printf '%s\n%s\n' "$ours" "$theirs"
		else
			printf '%s\n%s\n' "$theirs" "$ours"
		fi
	done
}

# check APPLY: both targets are equal, and an upsert's equal to the source.
check()
{
	local query result

	[ -n "$ran" ] && have_ours || return 0
	result=$(for query in "$1_theirs" "$1_ours" src; do
		[ "$1" = upsert ] || [ "$query" != src ] || continue
		near -c "$(counts "$query")"
	done | sort -u)
	[ "$(wc -l <<<"$result")" = 1 ] || {
		printf 'the targets of %s differ: %s\n' "$1" "$result" >&2
		exit 1
	}
}

# line SIZE APPLY SAFETY CURSOR ROWS
line()
{
	local name="$1, $2, $3"

	wanted "$name, $5 rows" || return 0
	ran=1
	session "$5" "$2" "$4" | near -f - >"$work/times"
	awk -v name="$name" -v rows="$5" '
		function sorted(who, what,    i, j, t) {
			n = count[who]
			for (i = 1; i <= n; i++) {
				t = all[who, what, i]
				for (j = i - 1; j > 0 && v[j] > t; j--)
					v[j + 1] = v[j]
				v[j + 1] = t
			}
		}
		function quantile(who, what, part) {
			if (!count[who])
				return 0
			sorted(who, what)
			return v[int((n - 1) * part) + 1]
		}
		/^(ours|theirs)$/ { who = $1; count[who]++; step = 0; next }
		++step == 1 && $1 != rows { print name ": " who " read " $1 " rows instead of " rows > "/dev/stderr"; exit 1 }
		/^Time:/ { all[who, "ms", count[who]] = $2 }
		step == 3 { all[who, "cpu", count[who]] = $1 / 1e6 }
		END {
			printf "| %-28s | %5d | %9.2f | %8.2f | %8.2f | %8.2f | %9.2f | %8.2f | %6.2f |\n", name, rows,
				quantile("theirs", "ms", 0.5), quantile("ours", "ms", 0.5), quantile("theirs", "ms", 0.95),
				quantile("ours", "ms", 0.95), a = quantile("theirs", "cpu", 0.5), b = quantile("ours", "cpu", 0.5),
				b ? a / b : 0
		}' "$work/times"
}

printf '\netl_incremental_pull of few rows: %s calls, medians\n\n' "$calls"
printf '| %-28s | %5s | %9s | %8s | %8s | %8s | %9s | %8s | %6s |\n' \
	'source, apply, safety' rows 'theirs ms' 'ours ms' 'th. 95 %' 'our 95 %' 'th. cpu' 'our cpu' 'cpu r.'
printf '|---|---:|---:|---:|---:|---:|---:|---:|---:|\n'
for size in "${sizes[@]}"; do
	new_database $near
	near -v rows="$size" -f "$here/pull_small.sql" >"$work/answer"
	case $size in
		*000000) label=${size%000000}M ;;
		*) label=${size%000}k ;;
	esac
	if have_ours; then
		near >"$work/answer" <<-SQL
		SELECT etl_watermark_set('append_seq', max(seq)::text), etl_watermark_set('upsert_seq', max(seq)::text) FROM src;
		SELECT etl_watermark_set('append_updated_at', max(updated_at)::text),
			etl_watermark_set('upsert_updated_at', max(updated_at)::text) FROM src;
		SQL
	fi
	sql -c CHECKPOINT
	for apply in append upsert; do
		ran=
		for rows in 0 1 10 100 1000; do
			line "$label" $apply horizon updated_at $rows
		done
		for rows in 0 1 10 100 1000; do
			line "$label" $apply lock_wait seq $rows
		done
		check $apply
	done
done
clean_up
