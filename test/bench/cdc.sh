#!/usr/bin/env bash
#
# cdc.sh: following changes, beside native logical replication and pglogical.
#
# Drain: all consumers have a slot and are stopped.  The work is done on the
# source, then each consumer in turn is started and applies the same WAL, until
# a row that was written last is in its target; the turn goes round.  At the
# end all targets must equal the source.  All are in one cluster
# (lib_jobs.sh): ours has its targets in a schema beside the source, the others
# in a database each.  Nobody waits for the disk when he applies
# (synchronous_commit = off, the default of all three).
#
#   s        from the start of the consumer until all is there
#   tx/s     transactions of the source in that time
#   cpu      seconds of the processes that decode and apply
#   cpu/M    the same per million changes
#
# Latency: commits one by one, with synchronous_commit = on; when the row was
# written to the target (a default there, just before the commit) less the time
# of its commit in the source.  The target's commits do not say: those of native
# have the source's time.  One consumer runs at a time, on the same server, the
# others wait; each round goes there and back.  First all clients go as fast as
# they can: what a consumer has applied, by the time until all is there, is the
# rate that it sustains.  The rest is at half of native's, for all, and at 20
# transactions per second, which is idle.
#
#   ROUNDS=3    SCALE=1     a tenth of the work is 0.1
#   CASES=.                 which cases: a regular expression
#   ONLY=.                  which others: a regular expression
#   SECONDS_EACH=6          of each measurement of latency
#
# "pglogical" runs in its faster mode, which stops at the first conflict
# (pglogical.conflict_resolution = error), but for latency.
#
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/bench/lib.sh
. "$here/lib.sh"
# shellcheck source=test/bench/lib_jobs.sh
. "$here/lib_jobs.sh"

seconds_each=${SECONDS_EACH:-6}
mark=0

# What each consumer is started and stopped by, where its targets are, and
# whose CPU time is its own.
declare -A start_of=(
	[ours]="SELECT etl_cdc_start('bench')"
	[native]='ALTER SUBSCRIPTION native ENABLE'
	[pglogical]="SELECT pglogical.alter_subscription_enable('bench', true)"
)
declare -A stop_of=(
	[ours]="SELECT etl_cdc_stop('bench')"
	[native]='ALTER SUBSCRIPTION native DISABLE'
	[pglogical]="SELECT pglogical.alter_subscription_disable('bench', true)"
)
declare -A database_of=([ours]=source [native]=native [pglogical]=pglogical)
declare -A schema_of=([ours]=target [native]=public [pglogical]=public)
declare -A slot_of=([ours]='^etl_' [native]='^native$' [pglogical]='^pgl_')
declare -A kinds_of=(
	[ours]='^etl_patterns cdc'
	[native]='^(walsender|logical replication worker)'
	[pglogical]='^(walsender|pglogical apply)'
)

# wait_until DATABASE QUERY: until it says t.
wait_until()
{
	local deadline=$((SECONDS + 300))

	until [ "$(sql -d "$1" -c "$2")" = t ]; do
		[ $SECONDS -lt $deadline ] || {
			printf 'cdc.sh: gave up waiting for: %s\n' "$2" >&2
			tail -n 20 "$work/server.log" >&2
			exit 1
		}
		sleep 0.1
	done
}

# quietly DATABASE SQL
quietly()
{
	PGOPTIONS='-c client_min_messages=warning' sql -d "$1" -c "$2" >"$work/answer"
}

stop_consumer()
{
	quietly "${database_of[$1]}" "${stop_of[$1]}"
	wait_until source "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type ~ '${kinds_of[$1]}'"
}

# Until the slot is behind what was drained, or else it is read once more after
# the next start.
settle()
{
	local end deadline=$((SECONDS + 12))

	end=$(sql -d source -c 'SELECT pg_current_wal_insert_lsn()')
	until [ "$(sql -d source -c "SELECT restart_lsn >= '$end' FROM pg_replication_slots WHERE slot_name ~ '${slot_of[$1]}'")" = t ] ||
		[ $SECONDS -ge $deadline ]; do
		sql -d source -c CHECKPOINT	# which logs what runs: nothing
		sleep 0.3
	done
}

# A server with the source, its copies, and all consumers, stopped; settings may
# follow.
start_contest()
{
	start_server "etl_patterns${pglogical:+, pglogical}" 'wal_level = logical' \
		'max_replication_slots = 10' 'max_wal_senders = 10' 'max_worker_processes = 30' \
		'synchronous_commit = off' 'autovacuum = off' 'max_wal_size = 16GB' \
		"output_plugin_libraries = 'pgoutput${pglogical:+, pglogical_output}'" "$@"
	sql -c 'CREATE DATABASE source' -c 'CREATE DATABASE empty'
	sql -d source -f "$here/cdc.sql"
	sql -c 'CREATE DATABASE native TEMPLATE source'
	[ -z "$pglogical" ] || sql -c 'CREATE DATABASE pglogical TEMPLATE source'

	PGOPTIONS='-c client_min_messages=warning' sql -d source >"$work/answer" <<-'SQL'
	CREATE EXTENSION etl_patterns;
	CREATE SCHEMA target;
	CREATE TABLE target.acc (LIKE acc INCLUDING ALL);
	CREATE TABLE target.ev (LIKE ev INCLUDING ALL);
	CREATE TABLE target.doc (LIKE doc INCLUDING ALL);
	CREATE TABLE target.marker (LIKE marker INCLUDING ALL);
	INSERT INTO target.acc TABLE acc;
	INSERT INTO target.doc TABLE doc;
	SELECT etl_cdc_create('bench', snapshot => 'none');
	SELECT etl_cdc_add_table('bench', t, ('target.' || t)::regclass) FROM unnest('{acc,ev,doc,marker}'::text[]) t;
	SELECT etl_cdc_start('bench');
	SQL
	wait_until source "SELECT state = 'running' FROM etl_patterns.cdc_status"
	stop_consumer ours

	quietly source "CREATE PUBLICATION native FOR TABLE acc, ev, doc, marker"
	quietly source "SELECT pg_create_logical_replication_slot('native', 'pgoutput')"
	quietly native "CREATE SUBSCRIPTION native CONNECTION 'host=$PGHOST port=$PGPORT user=$PGUSER dbname=source'
		PUBLICATION native WITH (create_slot = false, slot_name = native, enabled = false, copy_data = false)"
	# which takes note that no table is to be copied
	[ -z "$pglogical" ] || start_pglogical
}

start_pglogical()
{
	quietly source 'CREATE EXTENSION pglogical'
	quietly pglogical 'CREATE EXTENSION pglogical'
	quietly source "SELECT pglogical.create_node('source', 'host=$PGHOST port=$PGPORT user=$PGUSER dbname=source')"
	quietly source "SELECT pglogical.replication_set_add_table('default', t) FROM unnest('{acc,ev,doc,marker}'::regclass[]) t"
	quietly pglogical "SELECT pglogical.create_node('target', 'host=$PGHOST port=$PGPORT user=$PGUSER dbname=pglogical')"
	quietly pglogical "SELECT pglogical.create_subscription('bench',
		'host=$PGHOST port=$PGPORT user=$PGUSER dbname=source', synchronize_structure := false, synchronize_data := false)"
	wait_until pglogical "SELECT bool_and(status = 'replicating') FROM pglogical.show_subscription_status()"
	stop_consumer pglogical
}

# Runs the drain of one consumer; sets wall and cpu.
drain()
{
	local database=${database_of[$1]} answer

	sql -c CHECKPOINT
	answer=$(sql -d "$database" 2>&1 -c "CALL drain(\$\$${2-${start_of[$1]}}\$\$, '${schema_of[$1]}.marker', $mark, '${kinds_of[$1]}')")
	read -r wall cpu < <(sed -n 's/.*drained //p' <<<"$answer") || {
		printf 'cdc.sh: %s: %s\n' "$1" "$answer" >&2
		exit 1
	}
}

put_mark()
{
	mark=$((mark + 1))
	sql -d source -c "INSERT INTO marker VALUES ($mark)"
}

# All targets equal the source.
compare()
{
	local who want

	want=$(sql -d source -c "SELECT sum_of('public')")
	for who in "${participants[@]}"; do
		[ "$(sql -d "${database_of[$who]}" -c "SELECT sum_of('${schema_of[$who]}')")" = "$want" ] || {
			printf 'cdc.sh: the target of %s differs from the source\n' "$who" >&2
			exit 1
		}
	done
}

# bench SCRIPT CLIENTS TRANSACTIONS: transactions of pgbench.
bench()
{
	pgbench -n -c "$2" -j 2 -t $(($3 / $2)) -f <(printf '%s\n' "$1") source >"$work/pgbench.log" 2>&1 || {
		cat "$work/pgbench.log" >&2
		exit 1
	}
}

update='update acc set bal=:v, note='"'note number '||:v"', upd=now() where id=:id;'
insert="insert into ev(acc,amt,kind) values (:id,:v,'deposit');"
draw='\set id random(1,200000)
\set v random(1,1000000)'

# The work of each case; each says how many transactions and changes it makes.
work_W1() { xacts=$(scaled 200000) changes=$((2 * xacts)); bench "$draw
begin; $update $insert commit;" 4 "$xacts"; }
work_W2() { xacts=$(scaled 400000) changes=$xacts; bench "$draw
$update
$insert" 4 $((xacts / 2)); }
work_hot() { xacts=$(scaled 200000) changes=$xacts; bench "\\set id random(1,100)
\\set v random(1,1000000)
$update" 4 "$xacts"; }
work_toast() { xacts=$(scaled 40000) changes=$xacts; bench "\\set id random(1,20000)
\\set v random(1,1000000)
update doc set n = :v where id = :id;
update doc set n = n + 1, body = repeat(md5(n::text), 250) where id = :id;" 4 $((xacts / 2)); }
work_big() { xacts=1 changes=$(scaled 1000000); sql -d source -c "INSERT INTO ev (acc, amt, kind)
	SELECT i, i, 'big' FROM generate_series(1, $changes) i"; }
work_big_update() { xacts=1 changes=$(scaled 1000000); sql -d source -c "UPDATE ev SET amt = amt + 1
	WHERE id IN (SELECT id FROM ev ORDER BY id DESC LIMIT $changes)"; }

# contest NAME WORK [NAME WORK...]: lines of the table; on one server, one after
# the other.
contest()
{
	start_contest ${pglogical:+'pglogical.conflict_resolution = error'}
	while [ $# -gt 0 ]; do
		compete "$@"
		shift 2
	done
	stop_server
}

# compete NAME WORK [what comes next]
compete()
{
	local i j who n=${#participants[@]}
	local -A walls=() cpus=() pairs=()

	for ((i = 0; i < rounds; i++)); do
		"$2"
		put_mark
		local -A wall_of=()
		for ((j = 0; j < n; j++)); do
			who=${participants[(i + j) % n]}
			drain "$who"
			walls[$who]+="$wall " cpus[$who]+="$cpu " wall_of[$who]=$wall
			[ -z "${VERBOSE:-}" ] || printf '# %s %s: %s s, cpu %s\n' "$1" "$who" "$wall" "$cpu"
			if [ $# -gt 2 ] || [ $((i + 1)) -lt "$rounds" ]; then settle "$who"; fi
			stop_consumer "$who"
		done
		for who in "${participants[@]}"; do
			pairs[$who]+="$(calc "${wall_of[$who]} / ${wall_of[ours]}") "
		done
		compare
	done
	for who in "${participants[@]}"; do
		# shellcheck disable=SC2086
		drain_line "$1" "$who" "$(median ${walls[$who]})" "$(median ${cpus[$who]})" "$(median ${pairs[$who]})"
	done
}

# drain_line CASE WHO S CPU PAIRS; ours comes first
drain_line()
{
	[ "$2" != ours ] || our_cpu=$4
	awk -v name="$1" -v who="$2" -v s="$3" -v cpu="$4" -v pairs="$5" -v our_cpu="$our_cpu" \
		-v xacts="$xacts" -v changes="$changes" 'BEGIN {
		printf "| %-28s | %-9s | %8.2f | %8.0f | %9.0f | %7.2f | %7.2f | %7s | %7s |\n", name, who, s, xacts / s,
			changes / s, cpu, 1e6 * cpu / changes, who == "ours" ? "" : sprintf("%.2f", pairs),
			who == "ours" || !our_cpu ? "" : sprintf("%.2f", cpu / our_cpu)
	}'
}

# A server for latency().
start_latency()
{
	local who

	start_contest 'track_commit_timestamp = on'
	for who in "${participants[@]}"; do
		sql -d "${database_of[$who]}" -c "ALTER TABLE ${schema_of[$who]}.ev ADD applied timestamptz DEFAULT clock_timestamp()"
	done
	sql -d source -c CHECKPOINT
}

# follow WHO CLIENTS RATE: one consumer while transactions are made; RATE may be
# 0, as many as can be.  Adds to its files: how late each row was; how many rows,
# in what time, and the CPU seconds.
follow()
{
	local database=${database_of[$1]} schema=${schema_of[$1]} from before rate=${3#0}
	local script="$draw
begin; $update $insert commit;"

	# it has seen all tables, and is idle
	bench "$script" 1 10
	put_mark
	drain "$1"
	sleep 1
	from=$(sql -d source -c 'SELECT coalesce(max(id), 0) FROM ev')
	before=$(sql -d source -c "SELECT cpu_of('${kinds_of[$1]}')")
	pgbench -n -c "$2" -j 1 -T "$seconds_each" ${rate:+-R "$rate"} \
		-f <(printf '%s\n' "$script") source >"$work/pgbench.log" 2>&1
	put_mark
	drain "$1" ''
	stop_consumer "$1"
	sql -d source -c "\\copy (SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin)) FROM ev WHERE id > $from) TO '$work/at_source'"
	sql -d "$database" -c "\\copy (SELECT id, extract(epoch FROM applied) FROM $schema.ev WHERE id > $from) TO '$work/at_target'"
	awk -v late="$work/late.$1" -v sums="$work/sums.$1" -v seconds="$(calc "$seconds_each + $wall")" \
		-v cpu="$(calc "$cpu - $before")" 'NR == FNR { at[$1] = $2; next }
		{ printf "%.2f\n", 1000 * ($2 - at[$1]) >>late; n++ }
		END { print n, seconds, cpu >>sums }' "$work/at_source" "$work/at_target"
}

# latency NAME CLIENTS RATE: lines of the table; sets rate_of.
latency()
{
	local i j who n=${#participants[@]}

	rm -f "$work"/late.* "$work"/sums.*
	for ((i = 0; i < rounds; i++)); do
		for ((j = 0; j < n; j++)); do
			follow "${participants[j]}" "$2" "$3"
		done
		for ((j = n - 1; j >= 0; j--)); do
			follow "${participants[j]}" "$2" "$3"
		done
	done
	for who in "${participants[@]}"; do
		rate_of[$who]=$(awk '{ n += $1; s += $2 } END { printf "%d", n / s }' "$work/sums.$who")
		awk -v name="$1" -v who="$who" -v rate="${rate_of[$who]}" 'NR == FNR { n += $1; cpu += $3; next }
			{ v[++m] = $1 }
			END { printf "| %-28s | %-9s | %8d | %8.2f | %8.2f | %8.2f | %7.2f |\n", name, who, rate,
				v[int(m / 2) + 1], v[int(m * 0.99) + 1], v[m], 1e6 * cpu / (2 * n) }' \
			"$work/sums.$who" <(sort -g "$work/late.$who")
	done
}

pglogical=
[ ! -f "$("${PG_CONFIG:-pg_config}" --pkglibdir)/pglogical.so" ] || pglogical=yes
[ -n "$pglogical" ] || echo 'pglogical is missing (Debian package postgresql-15-pglogical)'
participants=(ours)
for who in native pglogical; do
	if [[ $who =~ ${ONLY:-.} ]] && { [ $who = native ] || [ -n "$pglogical" ]; }; then
		participants+=("$who")
	fi
done
[[ " ${participants[*]} " == *' pglogical '* ]] || pglogical=

printf '\ncdc, drained: %s rounds, medians; ratios are theirs to ours\n\n' "$rounds"
printf '| %-28s | %-9s | %8s | %8s | %9s | %7s | %7s | %7s | %7s |\n' \
	case who s 'tx/s' 'changes/s' cpu 'cpu/M' 's r.' 'cpu r.'
printf '|---|---|---:|---:|---:|---:|---:|---:|---:|\n'
our_cpu=
if wanted W1; then contest 'W1: update and insert, one tx' work_W1; fi
if wanted W2; then contest 'W2: update, insert, two tx' work_W2; fi
if wanted hot; then contest 'hot: 100 keys' work_hot; fi
if wanted toast; then contest 'toast: 8 kB, every other time' work_toast; fi
if wanted big; then
	contest 'big: one insert of 1M rows' work_big 'big: one update of 1M rows' work_big_update
fi

if wanted latency; then
	declare -A rate_of=()

	printf '\ncdc, latency of commits: %s rounds of 2 times %s seconds; ms; cpu per million changes\n\n' "$rounds" "$seconds_each"
	printf '| %-28s | %-9s | %8s | %8s | %8s | %8s | %7s |\n' case who 'tx/s' p50 p99 max 'cpu/M'
	printf '|---|---|---:|---:|---:|---:|---:|\n'
	start_latency
	quietly source "ALTER ROLE $PGUSER IN DATABASE source SET synchronous_commit = on"
	latency 'as fast as can be' 4 0
	half=$((${rate_of[native]-${rate_of[ours]}} / 2))
	latency "half of that: $half a second" 4 $half
	latency 'idle: 20 a second' 1 20
	quietly source "ALTER ROLE $PGUSER IN DATABASE source RESET synchronous_commit"
	latency 'asynchronous: 100 a second' 1 100
	stop_server
fi
