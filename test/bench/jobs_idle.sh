#!/usr/bin/env bash
#
# jobs_idle.sh: a hundred thousand jobs that have nothing to do, beside pg_cron.
#
# Each runs once a year, in eleven months or so.  Servers are those of lib_jobs.sh.
#
#   create    all jobs, in one statement
#   one       one more job, created among them; the median of twenty, one after the
#             other in a session
#   ready     from the start of a server that has them until its scheduler
#             knows them; of pg_cron it is when it has loaded them, which we
#             see by the end of its CPU time growing
#   cpu       what the scheduler, and launcher, take in DURATION seconds, in
#             percent of one CPU
#   memory    private memory (RssAnon) of those processes, MB
#   delay     of a run that somebody asks for, among all those jobs; the median
#             of five
#
#   ROUNDS=3    SCALE=1     a tenth of the jobs is 0.1
#   DURATION=60 ONLY=.      whom to measure: a regular expression
#   CRON_SOURCE=            as in jobs.sh
#
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/bench/lib.sh
. "$here/lib.sh"
# shellcheck source=test/bench/lib_jobs.sh
. "$here/lib_jobs.sh"

duration=${DURATION:-60}
number=$(scaled 100000)
# in the month before this one
yearly="0 3 * $(date -d '40 days ago' +%-m) *"

# milliseconds -c STATEMENT...: how long each takes.
milliseconds()
{
	psql -XqAt -v ON_ERROR_STOP=1 -c '\timing on' "$@" | sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p'
}

# schedulers: pids of the processes that look after jobs.
schedulers()
{
	sql -c "SELECT pid FROM pg_stat_activity
		WHERE backend_type IN ('etl_patterns scheduler', 'etl_patterns launcher', 'pg_cron launcher')"
}

# ticks PID...: their CPU time, in hundredths of a second
ticks()
{
	local pid

	for pid in "$@"; do
		cat "/proc/$pid/stat"
	done | awk '{ sub(/.*\) /, ""); total += $12 + $13 } END { print total }'
}

memory()
{
	local pid

	for pid in "$@"; do
		cat "/proc/$pid/status"
	done | awk '/^RssAnon/ { total += $2 } END { print total / 1024 }'
}

# Waits until the scheduler knows all jobs, and sets ready (seconds).
wait_ready()
{
	local who=$1 start=$2 last=-1 now=0

	if [ "$who" = ours ]; then
		until [ "$(sql -c "SELECT count(*) FROM etl_scheduler_status() WHERE state = 'running' AND jobs = $number" 2>/dev/null)" = 1 ]; do
			sleep 0.02
		done
		ready=$(calc "$EPOCHREALTIME - $start")
		return
	fi
	until [ -n "$(schedulers 2>/dev/null)" ]; do
		sleep 0.02
	done
	# it does nothing else while it loads them
	while [ "$now" != "$last" ]; do
		last=$now
		ready=$(calc "$EPOCHREALTIME - $start")
		sleep 0.1
		# shellcheck disable=SC2046
		now=$(ticks $(schedulers))
	done
}

measure_idle()
{
	local who=$1 create one i start before pids statements=()

	if [ "$who" = ours ]; then
		start_server etl_patterns
		sql -c 'CREATE EXTENSION etl_patterns'
		create="SELECT count(etl_job_create('job ' || i, '$yearly', 'SELECT 1')) FROM generate_series(1, $number) i"
		one="SELECT etl_job_create('one %s', '$yearly', 'SELECT 1')"
	else
		start_server pg_cron "cron.host = '$work'"
		sql -c 'CREATE EXTENSION pg_cron'
		create="SELECT count(cron.schedule('job ' || i, '$yearly', 'SELECT 1')) FROM generate_series(1, $number) i"
		one="SELECT cron.schedule('one %s', '$yearly', 'SELECT 1')"
	fi
	create_ms=$(milliseconds -c "$create")
	for ((i = 0; i < 20; i++)); do
		# shellcheck disable=SC2059
		statements+=(-c "$(printf "$one" $i)")
	done
	# shellcheck disable=SC2046
	one_ms=$(median $(milliseconds "${statements[@]}"))
	sql -c "VACUUM ANALYZE" -c CHECKPOINT
	if [ "$who" = ours ]; then
		sql -c "SELECT count(etl_job_drop('one ' || i)) FROM generate_series(0, 19) i" >"$work/answer"
	fi
	stop_server
	start=$EPOCHREALTIME
	restart_server
	wait_ready "$who" "$start"

	pids=$(schedulers)
	# shellcheck disable=SC2086
	before=$(ticks $pids)
	sleep "$duration"
	# shellcheck disable=SC2086
	cpu=$(calc "($(ticks $pids) - $before) / $duration")
	# shellcheck disable=SC2086
	mem=$(memory $pids)
	delay=0
	[ "$who" != ours ] || measure_delay
	stop_server
}

measure_delay()
{
	local i times=()

	for ((i = 0; i < 5; i++)); do
		sql -c "SELECT etl_job_run('job 7')" >"$work/answer"
		until [ "$(sql -c "SELECT count(*) FROM etl_patterns.job_run WHERE finished_at IS NOT NULL")" = $((i + 1)) ]; do
			sleep 0.02
		done
		times+=("$(sql -c "SELECT 1000 * extract(epoch FROM started_at - due_at) FROM etl_patterns.job_run ORDER BY job_run_id DESC LIMIT 1")")
	done
	delay=$(median "${times[@]}")
}

find_pg_cron
everyone=(${has_cron:+pg_cron} ours)
printf '\njobs_idle: %s rounds of %s seconds, %s jobs, medians\n\n' "$rounds" "$duration" "$number"
printf '| %-8s | %8s | %7s | %7s | %6s | %9s | %8s |\n' who 'create s' 'one ms' 'ready s' 'cpu %' 'memory MB' 'delay ms'
printf '|---|---:|---:|---:|---:|---:|---:|\n'
declare -A rows=()
for ((round = 0; round < rounds; round++)); do
	for who in "${everyone[@]}"; do
		[[ $who =~ ${ONLY:-.} ]] || continue
		measure_idle "$who"
		rows[$who]+="$create_ms $one_ms $ready $cpu $mem $delay"$'\n'
		[ -z "${VERBOSE:-}" ] || echo "# $who: $create_ms $one_ms $ready $cpu $mem $delay"
	done
done
for who in "${everyone[@]}"; do
	[ -n "${rows[$who]:-}" ] || continue
	medians=()
	for column in 1 2 3 4 5 6; do
		# shellcheck disable=SC2046
		medians+=("$(median $(cut -d ' ' -f $column <<<"${rows[$who]%$'\n'}"))")
	done
	printf '| %-8s | %8.1f | %7.2f | %7.2f | %6.2f | %9.1f | %8.1f |\n' "$who" \
		"$(calc "${medians[0]} / 1000")" "${medians[@]:1}"
done
