# lib_pull.sh: measuring pulls, for the benchmarks to source after lib.sh.
#
# The source "src" is in one database, the target "dst" in the same or another
# one.  Contestants are shell functions that do the work, with as many programs
# as they like; wall time is that of the whole function, with its start and the
# commit.  CPU seconds are those of all programs that it started and of all the
# processes of the server that served it.  Before the clock starts the target
# is made anew and a checkpoint is made.  In the first round the target is
# compared with what it ought to be: a contestant that is wrong ends the
# benchmark.  The one called "ours" comes last in each round.
#
#   ROUNDS=5    CASES=.        CASES: a regular expression for the names
#   SCALE=1     size of the tables: 0.1 is a tenth
#   ALL=        1: every opponent in every case, not just the best
#   ONLY=.      a regular expression for the opponents
#
# What is not set here comes from lib.sh or from the benchmark.
#
# shellcheck shell=bash disable=SC2154

export PGOPTIONS='-c client_min_messages=warning -c work_mem=64MB'
near=bench_near
far=bench_far
scale=${SCALE:-1}
prepare=	# SQL that makes the target anew
expected=	# query that says what is in the target when all went well
outcome=	# query that says what is there

columns=l_orderkey,l_partkey,l_suppkey,l_linenumber,l_quantity,l_extendedprice,l_discount,l_tax
columns+=,l_returnflag,l_linestatus,l_shipdate,l_commitdate,l_receiptdate,l_shipinstruct,l_shipmode
columns+=,l_comment,updated_at

# scaled NUMBER
scaled()
{
	awk "BEGIN { printf \"%d\", $1 * $scale }"
}

wanted()
{
	[[ $1 =~ ${CASES:-.} ]]
}

near() { sql -d $near "$@"; }
far() { sql -d $far "$@"; }

# new_database NAME
new_database()
{
	sql -c "DROP DATABASE IF EXISTS $1" -c "CREATE DATABASE $1"
}

clean_up()
{
	sql -c "DROP DATABASE IF EXISTS $near" -c "DROP DATABASE IF EXISTS $far"
}

# counts RELATION [WHERE]: the query that prepare, expected and outcome use.
counts()
{
	printf 'SELECT count(*), sum(hash_record_extended(t, 0)) FROM %s t %s' "$1" "${2:-}"
}

postmaster=
idle=

# Sets ticks to the CPU time, in hundredths of a second, of this script's
# children and the server's, as far as they ended; waits until the latter have.
count_ticks()
{
	local theirs=() mine=()

	if [ -z "$postmaster" ]; then
		postmaster=$(sql -c "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)")
		sleep 0.5
		idle=$(processes)
	fi
	while [ "$(processes)" -gt "$idle" ]; do
		sleep 0.01
	done
	read -ra theirs <"/proc/$postmaster/stat"
	read -ra mine <"/proc/$$/stat"
	ticks=$((theirs[15] + theirs[16] + mine[15] + mine[16]))
}

processes()
{
	wc -w <"/proc/$postmaster/task/$postmaster/children"
}

# measure_pull CONTESTANT: sets wall and cpu (seconds).
measure_pull()
{
	local start start_ticks

	near -c "$prepare" >"$work/answer"
	sql -c CHECKPOINT
	count_ticks
	start_ticks=$ticks
	start=$EPOCHREALTIME
	"$1" >"$work/answer" || {
		printf 'failed: %s\n' "$1" >&2
		exit 1
	}
	wall=$(calc "$EPOCHREALTIME - $start")
	count_ticks
	cpu=$(calc "($ticks - $start_ticks) / 100")
}

check_pull()
{
	local there

	there=$(near -c "$outcome")
	[ "$there" = "$expected" ] || {
		printf '%s: %s gives %s instead of %s\n' "$1" "$2" "$there" "$expected" >&2
		exit 1
	}
}

pull_head()
{
	printf '\n%s: %s rounds, medians\n\n' "$1" "$rounds"
	printf '| %-34s | %-15s | %8s | %7s | %6s | %6s | %8s | %8s | %6s | %7s |\n' \
		case theirs 'theirs s' 'ours s' ratio pairs 'th. cpu' 'ours cpu' 'cpu r.' 'rows/s'
	printf '|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n'
}

# contest NAME ROWS CONTESTANT...: lines of the table, one for each opponent.
contest()
{
	local name=$1 rows=$2 i who
	local -A w=() c=() p=()
	shift 2

	for ((i = 0; i < rounds; i++)); do
		for who in "$@"; do
			measure_pull "$who"
			w[$who]+=" $wall" c[$who]+=" $cpu"
			[ $i -gt 0 ] || check_pull "$name" "$who"
		done
		[ "$who" != ours ] || for who in "$@"; do
			p[$who]+=" $(calc "${w[$who]##* } / $wall")"
		done
	done
	# shellcheck disable=SC2086
	for who in "$@"; do
		[ "$who" != ours ] || continue
		awk -v name="$name" -v who="$who" -v rows="$rows" \
			-v tw="$(median ${w[$who]})" -v tc="$(median ${c[$who]})" \
			-v ow="$(median ${w[ours]:-0})" -v oc="$(median ${c[ours]:-0})" \
			-v pairs="$(median ${p[$who]:-0})" 'BEGIN {
			format = ow + 0 ? \
				"| %-34s | %-15s | %8.2f | %7.2f | %6.2f | %6.2f | %8.2f | %8.2f | %6.2f | %6.0fk |\n" : \
				"| %-34s | %-15s | %8.2f | %7.0s | %6.0s | %6.0s | %8.2f | %8.0s | %6.0s | %6.0fk |\n"
			printf format, name, who, tw, ow, (ow + 0 ? tw / ow : 0), pairs, tc, oc, (oc + 0 ? tc / oc : 0),
				rows / (ow + 0 ? ow : tw) / 1000
		}'
	done
}

have_ours()
{
	[ "$(near -c "SELECT count(*) FROM pg_proc WHERE proname = 'etl_incremental_pull'")" != 0 ]
}
