# lib.sh: measuring pairs, for the benchmarks to source.
#
# One measurement is one statement in a fresh session.  Before the clock
# starts the tables are emptied and a checkpoint is made; the commit is in.
# CPU seconds are those of the backend alone (user and system), memory is the
# peak of its private (anonymous) memory, sampled every 20 ms.
#
# shellcheck shell=bash

rounds=${ROUNDS:-5}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

sql()
{
	psql -XqAt -v ON_ERROR_STOP=1 "$@"
}

bench_setup()
{
	sql <<-'SQL'
	SET client_min_messages = warning;
	CREATE EXTENSION IF NOT EXISTS etl_patterns;
	CREATE OR REPLACE FUNCTION backend_cpu() RETURNS numeric LANGUAGE sql AS $$
		SELECT (a[12]::numeric + a[13]::numeric) / 100
		FROM string_to_array(split_part(pg_read_file('/proc/self/stat'), ') ', 2), ' ') a
	$$;
	SQL
}

# measure TABLE STATEMENT: sets wall, cpu (seconds), mem (MB) and answer.
measure()
{
	local word a b pid='' start_wall=0 start_cpu=0 status piece text='' field rss peak=0 fd

	exec {fd}< <(
		sql -F ' ' <<-SQL
		TRUNCATE $1, etl_patterns.dead_letter, etl_patterns.loaded_file, etl_patterns.run;
		CHECKPOINT;
		SELECT 'pid', pg_backend_pid(), backend_cpu();
		SELECT 'start', extract(epoch FROM clock_timestamp()), backend_cpu();
		\\o $work/answer
		$2;
		\\o
		SELECT 'end', extract(epoch FROM clock_timestamp()), backend_cpu();
		SQL
	)
	wall=
	while true; do
		status=0
		read -r -t 0.02 -u "$fd" piece || status=$?
		text+=$piece	# a timeout may leave part of a line
		if [ $status -gt 128 ]; then
			[ -n "$pid" ] || continue
			while read -r field rss _; do
				if [ "$field" = RssAnon: ]; then
					peak=$((rss > peak ? rss : peak))
					break
				fi
			done 2>/dev/null <"/proc/$pid/status" || true
			continue
		fi
		[ $status = 0 ] || break
		read -r word a b <<<"$text"
		text=
		case $word in
			pid) pid=$a ;;
			start) start_wall=$a start_cpu=$b ;;
			end)
				wall=$(calc "$a - $start_wall")
				cpu=$(calc "$b - $start_cpu")
				;;
		esac
	done
	exec {fd}<&-
	[ -n "$wall" ] || {
		printf 'failed: %s\n' "$2" >&2
		exit 1
	}
	mem=$(calc "$peak / 1024")
	answer=$(cat "$work/answer")
}

calc()
{
	awk "BEGIN { printf \"%.4f\", $1 }"
}

# The median of its arguments.
median()
{
	printf '%s\n' "$@" | sort -g |
		awk '{ v[NR] = $1 } END { printf "%.4f", (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'
}

table_head()
{
	printf '\n%s: %s rounds, medians\n\n' "$1" "$rounds"
	printf '| %-36s | %9s | %9s | %7s | %7s | %8s | %8s | %7s | %7s | %6s | %6s | %9s |\n' \
		case 'COPY s' 'ours s' ratio 'pairs' 'COPY cpu' 'ours cpu' 'cpu r.' \
		'rows/s' 'COPY MB' 'our MB' rejected
	printf '|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n'
}

# pair NAME ROWS TABLE COPY-STATEMENT TABLE OUR-STATEMENT: one line of the table.
#
# The statement of ours answers with the number of rejected rows.
pair()
{
	local i cw=() ow=() cc=() oc=() cm=() om=() pw=()

	for ((i = 0; i < rounds; i++)); do
		measure "$3" "$4"
		cw+=("$wall") cc+=("$cpu") cm+=("$mem")
		measure "$5" "$6"
		ow+=("$wall") oc+=("$cpu") om+=("$mem")
		pw+=("$(calc "${cw[i]} / $wall")")
	done
	awk -v name="$1" -v rows="$2" -v rejected="$answer" \
		-v cw="$(median "${cw[@]}")" -v ow="$(median "${ow[@]}")" \
		-v cc="$(median "${cc[@]}")" -v oc="$(median "${oc[@]}")" \
		-v cm="$(median "${cm[@]}")" -v om="$(median "${om[@]}")" \
		-v pw="$(median "${pw[@]}")" 'BEGIN {
		printf "| %-36s | %9.2f | %9.2f | %7.2f | %7.2f | %8.2f | %8.2f | %7.2f | %6.0fk | %7.1f | %6.1f | %9d |\n",
			name, cw, ow, (cw / ow), pw, cc, oc, (oc + 0 ? cc / oc : 0), (rows / ow / 1000), cm, om, rejected
	}'
}

# opponents BEST...: those that this run is to measure, and ours if it is there.
# The benchmark sets everyone, those that may be measured, and has a function
# have_ours.
opponents()
{
	local who

	[ -z "${ALL:-}" ] || set -- "${everyone[@]}"
	for who in "$@"; do
		[[ ! $who =~ ${ONLY:-.} ]] || printf '%s ' "$who"
	done
	! have_ours || printf 'ours'
}

# Hundredths of a second of CPU that the server whose postmaster is $server has
# taken.  What a process took moves to its parent when it ends; one that ends
# while this reads is missed.
server_ticks()
{
	local pid files=()

	# shellcheck disable=SC2013
	for pid in $(cat "/proc/$server/task/$server/children"); do
		files+=("/proc/$pid/stat")
	done
	{ cat "/proc/$server/stat" "${files[@]}" 2>/dev/null || true; } | awk -v server="$server" '{
		pid = $1
		sub(/.*\) /, "")
		total += $12 + $13 + (pid == server ? $14 + $15 : 0)
	} END { print total }'
}
