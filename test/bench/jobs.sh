#!/usr/bin/env bash
#
# jobs.sh: a thousand jobs at once, beside pg_cron.
#
# Both sides run the same INSERT; what it notes is when it ran.  A measurement is
# a new server (lib_jobs.sh), all jobs created in one transaction, a few
# seconds to settle, and then DURATION seconds that are looked at.
#
#   wanted   starts that a perfect scheduler would have made in that time
#   made     those that were made
#   skipped  slots that have a row that says why they were not run
#   lost     what is left: wanted, not made and not accounted for
#   delay    from when a run was due to when its command ran.  Our slots are
#            whole seconds.  pg_cron's schedule of seconds has no slots: it
#            is due a second after the start before, which forgives it that
#            this drifts.  Both know when a minute begins.
#   runs/s   in that time; of those each minute, until the last one has begun
#   cpu      of the whole server, user and system
#
#   ROUNDS=3    SCALE=1     a tenth of the jobs is 0.1
#   DURATION=60 CASES=.     which cases: a regular expression
#   ONLY=. ALL=             which ways of pg_cron: a regular expression; all
#   CRON_SOURCE=            directory with pg_cron's source, 1.5 or later, to
#                           build and use instead of the installed one:
#                           Debian 12 has 1.4, which has no schedule of seconds
#
# "spread": the jobs are not all due at the same moment, but within the second.
#
# What the ways of pg_cron are: "connections" (its default) and "workers"
# (cron.use_background_workers); with "_quiet" it keeps no history
# (cron.log_run = off), which ours always does; a number is
# cron.max_running_jobs where it is not the default.
#
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/bench/lib.sh
. "$here/lib.sh"
# shellcheck source=test/bench/lib_jobs.sh
. "$here/lib_jobs.sh"

duration=${DURATION:-60}
# shellcheck disable=SC2034
everyone=(connections workers connections_quiet workers_quiet connections_1000 workers_32 workers_100
	connections_quiet_1000 workers_quiet_32 workers_quiet_100)

have_ours()
{
	[[ ! ours =~ ${NOT:-^$} ]]
}

# start_contestant WHO
start_contestant()
{
	local settings=()

	if [ "$1" = ours ]; then
		start_server etl_patterns ${OURS:+"$OURS"}
		sql -c 'CREATE EXTENSION etl_patterns'
	else
		settings=("cron.host = '$work'")
		[[ $1 != workers* ]] || settings+=('cron.use_background_workers = on')
		[[ $1 != *_quiet* ]] || settings+=('cron.log_run = off')
		[[ ! $1 =~ _([0-9]+)$ ]] || settings+=("cron.max_running_jobs = ${BASH_REMATCH[1]}")
		start_server pg_cron "${settings[@]}" 'cron.log_statement = off'
		sql -c 'CREATE EXTENSION pg_cron'
	fi
	sql -f "$here/jobs.sql"
}

# create_jobs WHO NUMBER EACH SPREAD: in one transaction; or, to be spread over
# a second, theirs one by one, since they run when they were created.
create_jobs()
{
	local schedule=$3 create

	[ "$3" != '1 minute' ] || schedule='* * * * *'
	create="cron.schedule('job ' || i, '$schedule', command(i))"
	if [ "$1" = ours ]; then
		[ "$3" = '1 minute' ] || schedule="every $3"
		create="etl_job_create('job ' || i, '$schedule', command(i)"
		[ -z "$4" ] || create+=", start_at => date_trunc('second', now()) + i * interval '1 second' / $2"
		create+=")"
	elif [ -n "$4" ]; then
		sql -c "DO \$\$ BEGIN
			FOR i IN 1 .. $2 LOOP PERFORM $create; COMMIT; PERFORM pg_sleep(1.0 / $2); END LOOP;
			END \$\$"
		return
	fi
	sql -c "SELECT count($create) FROM generate_series(1, $2) i" >"$work/answer"
}

# now, as the server has it, or the next whole second or minute
sleep_until()
{
	sql -c "SELECT pg_sleep(greatest(0, extract(epoch FROM '$1'::timestamptz - clock_timestamp())))" >"$work/answer"
}

# measure_jobs WHO NUMBER EACH SPREAD: sets result, the columns with blanks between.
measure_jobs()
{
	local who=$1 number=$2 each=$3 since until ticks end

	start_contestant "$who"
	create_jobs "$who" "$number" "$each" "$4"
	if [ "$each" = '1 minute' ]; then
		# around one whole minute, at which all jobs are due
		since=$(sql -c "SELECT date_trunc('minute', clock_timestamp() + interval '65 seconds') - interval '1 second'")
		end=45
	else
		since=$(sql -c "SELECT date_trunc('second', clock_timestamp()) + interval '6 seconds'")
		end=$duration
	fi
	until=$(sql -c "SELECT '$since'::timestamptz + interval '$end seconds'")
	sleep_until "$since"
	ticks=$(server_ticks)
	sleep_until "$until"
	ticks=$(($(server_ticks) - ticks))
	result=$(evaluate "$who" "$number" "$each" "$since" "$until" "$ticks")
	stop_server
	[ -z "${VERBOSE:-}" ] || sed 's/^.* \[[0-9]*\] //; s/[0-9][0-9]*/N/g' "$work/server.log" | sort | uniq -c | sort -rn | sed 12q
}

# evaluate WHO NUMBER EACH SINCE UNTIL TICKS: wanted made skipped lost p50 p99 max cpu
evaluate()
{
	local skipped=0 number=$2 seconds

	seconds=$(sql -c "SELECT extract(epoch FROM '$5'::timestamptz - '$4')::int")
	[ "$3" != '1 minute' ] || seconds=1
	if [ "$1" = ours ]; then
		# all slots of the span must have come to their end
		wait_for "SELECT count(*) = 0 FROM etl_patterns.job_run
			WHERE slot < '$5' AND finished_at IS NULL AND status IN ('waiting', 'running')"
		skipped=$(sql -c "SELECT coalesce(sum(slots), 0) FROM etl_patterns.job_run
			WHERE slot >= '$4' AND slot < '$5' AND status = 'skipped'")
	fi
	sql -F ' ' <<-SQL
	WITH d AS (SELECT * FROM delays('$4', '$5', '$3')),
	s AS (SELECT count(*) AS made FROM started WHERE slot >= '$4' AND slot < '$5')
	SELECT $number * $seconds, count(*), $skipped,
		CASE WHEN '$1' = 'ours' THEN $number * $seconds - $skipped - max(s.made) ELSE $number * $seconds - count(*) END,
		round(percentile_cont(0.5) WITHIN GROUP (ORDER BY delay)::numeric, 1),
		round(percentile_cont(0.99) WITHIN GROUP (ORDER BY delay)::numeric, 1),
		round(max(delay)::numeric, 1), $6 / 100.0
	FROM d, s;
	SQL
}

# wait_for QUERY: until it says t.
wait_for()
{
	local deadline=$((SECONDS + 120))

	until [ "$(sql -c "$1")" = t ]; do
		[ $SECONDS -lt $deadline ] || {
			printf 'jobs.sh: gave up waiting for: %s\n' "$1" >&2
			exit 1
		}
		sleep 0.2
	done
}

# contest NAME NUMBER EACH SPREAD WHO...: lines of the table.
contest()
{
	local name=$1 number=$2 each=$3 spread=$4 i who column
	local -A rows=()
	shift 4

	for ((i = 0; i < rounds; i++)); do
		for who in "$@"; do
			measure_jobs "$who" "$number" "$each" "$spread"
			rows[$who]+="$result"$'\n'
			[ -z "${VERBOSE:-}" ] || printf '# %s %s: %s\n' "$name" "$who" "$result"
		done
	done
	for who in "$@"; do
		local medians=()
		for column in 1 2 3 4 5 6 7 8; do
			# shellcheck disable=SC2046
			medians+=("$(median $(cut -d ' ' -f $column <<<"${rows[$who]%$'\n'}"))")
		done
		line "$name" "$who" "${medians[@]}"
	done
}

# line CASE WHO WANTED MADE SKIPPED LOST P50 P99 MAX CPU; ratios are against ours,
# which comes first.
line()
{
	[ "$2" != ours ] || ours=("${@:3}")
	awk -v name="$1" -v who="$2" -v made="$4" -v skipped="$5" -v lost="$6" -v wanted="$3" \
		-v p50="$7" -v p99="$8" -v max="$9" -v cpu="${10}" -v seconds="$duration" \
		-v our99="${ours[5]:-0}" -v our_cpu="${ours[7]:-0}" -v our_made="${ours[1]:-0}" 'BEGIN {
		if (name ~ /minute/)
			seconds = max / 1000
		printf "| %-20s | %-22s | %7d | %7d | %7d | %6d | %7.1f | %9.1f | %9.1f | %9.1f | %7.2f | %8.2f | %8s | %8s |\n",
			name, who, wanted, made, skipped, lost, made / seconds, p50, p99, max, cpu, 1000 * cpu / (made ? made : 1),
			who == "ours" || !our99 ? "" : sprintf("%.1f", p99 / our99),
			who == "ours" || !our_made ? "" : sprintf("%.1f", (cpu / (made ? made : 1)) / (our_cpu / our_made))
	}'
}

head_line()
{
	printf '\njobs: %s rounds of %s seconds, medians; delays in ms, cpu in s; ratios are theirs to ours\n\n' \
		"$rounds" "$duration"
	printf '| %-20s | %-22s | %7s | %7s | %7s | %6s | %7s | %9s | %9s | %9s | %7s | %8s | %8s | %8s |\n' \
		case who wanted made skipped lost 'runs/s' 'delay p50' 'delay p99' 'delay max' cpu 'cpu ms/r' 'p99 r.' 'cpu/r r.'
	printf '|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n'
}

# participants BEST...: ours first, then the ways of pg_cron that can do it.
participants()
{
	local who

	! have_ours || printf 'ours '
	for who in $(opponents "$@"); do
		[ "$who" = ours ] || printf '%s ' "$who"
	done
}

ours=()
find_pg_cron
head_line
best=(connections_quiet_1000 workers_quiet_32)
[ -n "$has_seconds" ] || best=()
# shellcheck disable=SC2046
for number in 1000 100; do
	if wanted "$number each second"; then
		contest "$number each second" "$(scaled $number)" '1 second' '' $(participants "${best[@]}")
	fi
	if wanted "$number spread"; then
		contest "$number spread" "$(scaled $number)" '1 second' spread $(participants "${best[@]}")
	fi
done
[ -z "$has_cron" ] || best=(connections_quiet_1000 workers_quiet_32)
# shellcheck disable=SC2046
if wanted '1000 each minute'; then
	contest '1000 each minute' "$(scaled 1000)" '1 minute' '' $(participants "${best[@]}")
fi
