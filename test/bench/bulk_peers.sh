#!/usr/bin/env bash
#
# bulk_peers.sh: etl_bulk_copy beside all that loads CSV into PostgreSQL.
#
#   copy              COPY table FROM file (FORMAT csv)
#   copy_freeze       the same with FREEZE, in a transaction with TRUNCATE
#   pgloader          with "drop indexes" where there are some
#   bulkload_direct, bulkload_parallel, bulkload_buffered
#                     pg_bulkload's writers
#   serial            etl_bulk_copy with workers => 0
#   ours              etl_bulk_copy as it comes
#   freeze            etl_bulk_copy with freeze => true, as copy_freeze
#
# Ours keep dead letters.  COPY gets the clean file where others get bad rows,
# since it would stop at the first.  pg_bulkload and pgloader are told to go on.
#
# A measurement is a new session; TRUNCATE and CHECKPOINT come before the clock
# starts, and the commit before it stops.  CPU seconds are those of the whole
# server and of pgloader; MB is the peak of private memory of the process that
# had most.  "x COPY" is the median of the quotients within a round, COPY's time
# by theirs: above 1 is faster than COPY.  "lacking" counts the rows that are
# not in the table.
#
#   ROWS=3000000 ROUNDS=3   CASES=.   a regular expression for the names
#   ONLY=. NOT=^$           who: regular expressions
#   TIMEOUT=300             seconds after which a measurement is given up
#   BULKLOAD_SOURCE=        directory with pg_bulkload's source, to build it
#
# pgloader is Debian's package; as root it is installed where it is missing,
# by test/setup.sh.
#
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/bench/lib.sh
. "$here/lib.sh"

rows=${ROWS:-3000000}
rounds=${ROUNDS:-3}
limit=${TIMEOUT:-300}
server=$(sql -c "SELECT pg_read_file('postmaster.pid')" | head -n 1)
chmod 755 "$work"

# Sets contestants, in the order of the table.
find_contestants()
{
	local who all=(copy copy_freeze) so

	! command -v pgloader >/dev/null || all+=(pgloader)
	if [ -n "${BULKLOAD_SOURCE:-}" ]; then
		mkdir "$work/pg_bulkload"
		cp -r "$BULKLOAD_SOURCE"/{lib,include} "$work/pg_bulkload"
		# built with the machine's headers, installed into what we run
		make -C "$work/pg_bulkload/lib" -s with_llvm=no USE_PGXS=1 \
			PG_CONFIG="$(PATH=${PATH#*:} command -v pg_config)" all >"$work/make.log" 2>&1 &&
			make -C "$work/pg_bulkload/lib" -s with_llvm=no USE_PGXS=1 \
				PG_CONFIG="${PG_CONFIG:-pg_config}" install >>"$work/make.log" 2>&1 || {
			cat "$work/make.log"
			exit 1
		}
	fi
	so=$("${PG_CONFIG:-pg_config}" --pkglibdir)/pg_bulkload.so
	if [ -f "$so" ]; then
		sql -c 'CREATE EXTENSION IF NOT EXISTS pg_bulkload'
		all+=(bulkload_direct bulkload_parallel bulkload_buffered)
	else
		echo 'pg_bulkload is missing (see BULKLOAD_SOURCE=)'
	fi
	all+=(serial ours)
	sql -c "SELECT 'freeze' = ANY (proargnames) FROM pg_proc WHERE proname = 'etl_bulk_copy'" | grep -q f || all+=(freeze)
	contestants=()
	for who in "${all[@]}"; do
		[[ ! $who =~ ${ONLY:-.} || $who =~ ${NOT:-^$} ]] || contestants+=("$who")
	done
}

# statements WHO TABLE COLUMNS FILE...: what a session runs.
statements()
{
	local who=$1 table=$2 columns=$3 file option clock
	shift 3

	clock="SELECT 'clock', extract(epoch FROM clock_timestamp());"
	echo "$clock"

	case $who in
		copy | copy_freeze)
			echo 'BEGIN;'
			[ "$who" = copy ] || echo "TRUNCATE $table;"
			option=$([ "$who" = copy ] || echo ', FREEZE')
			for file in "$@"; do
				echo "COPY $table${columns:+ ($columns)} FROM '$file' (FORMAT csv$option);"
			done
			echo 'COMMIT;'
			;;
		bulkload_*)
			option=${who#bulkload_}
			for file in "$@"; do
				echo "SELECT * FROM pgbulkload.pg_bulkload(ARRAY['TYPE=CSV', 'INPUT=$file', 'OUTPUT=$table',
					'WRITER=${option^^}', 'PARSE_ERRORS=-1', 'DUPLICATE_ERRORS=-1', 'LOGFILE=$work/peer/log',
					'PARSE_BADFILE=$work/peer/prs', 'DUPLICATE_BADFILE=$work/peer/dup']);"
			done
			;;
		serial | ours | freeze)
			echo 'BEGIN;'
			[ "$who" != freeze ] || echo "TRUNCATE $table;"
			option=
			[ "$who" != serial ] || option=', workers => 0'
			[ "$who" != freeze ] || option=', freeze => true'
			file=$1
			[ $# = 1 ] || file="${1%/*}/*.csv"
			echo "SELECT * FROM etl_bulk_copy('$table', '$file', ${columns:+columns => '{$columns\}', }header => 'none',
				on_error => 'dead_letter'$option);"
			echo 'COMMIT;'
			;;
	esac
	echo "$clock"
}

# pgloader's command file.
command_file()
{
	local table=$1 columns=$2 directory
	shift 2

	echo 'LOAD CSV'
	if [ $# = 1 ]; then
		echo "FROM '$1'"
	else
		directory=${1%/*}
		echo "FROM ALL FILENAMES MATCHING ~/csv/ IN DIRECTORY '$directory'"
	fi
	[ -z "$columns" ] || echo "($columns)"
	echo "INTO postgresql://$PGUSER@unix:$PGHOST:$PGPORT/$PGDATABASE"
	echo "TARGET TABLE public.$table"
	[ -z "$columns" ] || echo "($columns)"
	printf '%s' "WITH fields optionally enclosed by '\"', fields escaped by double-quote, fields terminated by ','"
	[ "$(sql -c "SELECT count(*) FROM pg_index WHERE indrelid = '$table'::regclass")" = 0 ] ||
		printf ', drop indexes'
	echo ';'
}

# measure_peer WHO TABLE COLUMNS FILE...: sets wall, cpu, mem and lacking.
measure_peer()
{
	local who=$1 table=$2 ticks sampler
	shift

	rm -rf "$work/peer"
	mkdir "$work/peer"
	if [ "$who" = pgloader ]; then
		command_file "$@" >"$work/command"
	else
		statements "$who" "$@" >"$work/command"
	fi
	sql -c "TRUNCATE $table, etl_patterns.dead_letter, etl_patterns.loaded_file, etl_patterns.run" -c CHECKPOINT
	ticks=$(server_ticks)
	perl "$here/peak.pl" "$server" "$work/peer/peak" &
	sampler=$!
	TIMEFORMAT='%R %U %S'
	{
		time if [ "$who" = pgloader ]; then
			timeout "$limit" pgloader --root-dir "$work/peer" "$work/command" >"$work/peer/out" 2>&1 || true
		else
			PGOPTIONS="-c statement_timeout=${limit}s" sql -f "$work/command" >"$work/peer/out" 2>&1 || true
		fi
	} 2>"$work/peer/time"
	kill "$sampler"
	wait "$sampler" || true
	[ -z "${VERBOSE:-}" ] || sed "s/^/# $who: /" "$work/peer/out" "$work/peer/time" | tail -n 14
	ticks=$(($(server_ticks) - ticks))
	if [ "$who" = pgloader ]; then
		wall=$(tail -n 1 "$work/peer/time" | cut -d ' ' -f 1)
	else
		wall=$(awk -F '|' '$1 == "clock" { t[++n] = $2 } END { printf "%.4f", n == 2 ? t[2] - t[1] : 0 }' "$work/peer/out")
	fi
	[ "$wall" != 0.0000 ] || printf 'failed: %s: %s\n' "$who" "$(grep ERROR "$work/peer/out")" >&2
	cpu=$(tail -n 1 "$work/peer/time" | awk -v ticks="$ticks" -v who="$who" \
		'{ print ticks / 100 + (who == "pgloader" ? $2 + $3 : 0) }')
	mem=$(awk '{ printf "%.1f", $1 / 1024 }' "$work/peer/peak")
	lacking=$((expected - $(sql -c "SELECT count(*) FROM $table")))
}

# contest NAME ROWS TABLE COLUMNS CLEAN-FILE... -- FILE...: lines of the table.
contest()
{
	local name=$1 table=$3 columns=$4 clean=() who i base
	local -A walls=() cpus=() mems=() ratios=() lacks=()

	[[ $name =~ ${CASES:-.} ]] || return 0
	expected=$2
	shift 4
	while [ "$1" != -- ]; do
		clean+=("$1")
		shift
	done
	shift
	for ((i = 0; i < rounds; i++)); do
		base=0
		for who in "${contestants[@]}"; do
			case $who in
				copy | copy_freeze) measure_peer "$who" "$table" "$columns" "${clean[@]}" ;;
				*) measure_peer "$who" "$table" "$columns" "$@" ;;
			esac
			[ "$who" != copy ] || base=$wall
			walls[$who]+=" $wall" cpus[$who]+=" $cpu" mems[$who]+=" $mem"
			ratios[$who]+=" $(awk "BEGIN { print $wall ? $base / $wall : 0 }")"
			lacks[$who]=$lacking
		done
	done
	# shellcheck disable=SC2086
	for who in "${contestants[@]}"; do
		printf '| %-32s | %-18s | %8.3f | %7.2f | %7.2f | %7.0fk | %7.1f | %9d |\n' "$name" "$who" \
			"$(median ${walls[$who]})" "$(median ${ratios[$who]})" "$(median ${cpus[$who]})" \
			"$(awk "BEGIN { t = $(median ${walls[$who]}); print t ? $expected / t / 1000 : 0 }")" \
			"$(median ${mems[$who]})" "${lacks[$who]}"
	done
}

# export_csv FILE QUERY
export_csv()
{
	sql -c "COPY ($2) TO '$work/$1' (FORMAT csv)"
}

lineitem()
{
	local all every

	export_csv clean.csv "SELECT * FROM lineitem_rows($rows)"
	all=l_orderkey,l_partkey,l_suppkey,l_linenumber,l_quantity,l_extendedprice,l_discount,l_tax
	all+=,l_returnflag,l_linestatus,l_shipdate,l_commitdate,l_receiptdate,l_shipinstruct,l_shipmode,l_comment
	contest 'lineitem' "$rows" lineitem $all "$work/clean.csv" -- "$work/clean.csv"
	contest 'primary key' "$rows" lineitem_key $all "$work/clean.csv" -- "$work/clean.csv"
	contest 'three indexes' "$rows" lineitem_three $all "$work/clean.csv" -- "$work/clean.csv"
	for every in 1000 100 10; do
		# without broken quotes, which make others lose all rows up to the next quote
		perl "$here/spoil.pl" $every whole <"$work/clean.csv" >"$work/bad.csv"
		contest "lineitem, 1 of $every bad" "$rows" lineitem $all "$work/clean.csv" -- "$work/bad.csv"
		contest "three indexes, 1 of $every bad" "$rows" lineitem_three $all "$work/clean.csv" -- "$work/bad.csv"
	done
	rm "$work"/{clean,bad}.csv
}

# small_files NUMBER ROWS
small_files()
{
	local files=()

	[[ "$1 files of $2 rows" =~ ${CASES:-.} ]] || return 0
	mkdir -m 755 "$work/small"
	chmod 777 "$work/small"
	for ((i = 0; i < $1; i++)); do
		export_csv "small/$i.csv" "SELECT * FROM lineitem_rows($2 * ($i + 1)) OFFSET $2 * $i"
		files+=("$work/small/$i.csv")
	done
	contest "$1 files of $2 rows" $(($1 * $2)) lineitem '' "${files[@]}" -- "${files[@]}"
	rm -r "$work/small"
}

others()
{
	if [[ 'hundred columns' =~ ${CASES:-.} ]]; then
		export_csv hundred.csv "SELECT * FROM hundred_rows($((rows / 20)))"
		contest 'hundred columns' $((rows / 20)) hundred '' "$work/hundred.csv" -- "$work/hundred.csv"
		rm "$work/hundred.csv"
	fi
	if [[ 'long text with quotes' =~ ${CASES:-.} ]]; then
		export_csv article.csv "SELECT * FROM article_rows($((rows / 15)))"
		contest 'long text with quotes' $((rows / 15)) article '' "$work/article.csv" -- "$work/article.csv"
		rm "$work/article.csv"
	fi
	small_files 20 5000
	small_files 20 100
}

bench_setup
find_contestants
sql -f "$here/bulk_load.sql"
sql -f "$here/bulk_peers.sql"
printf '\nbulk load: %s rows, %s rounds, medians\n\n' "$rows" "$rounds"
printf '| %-32s | %-18s | %8s | %7s | %7s | %8s | %7s | %9s |\n' case who seconds 'x COPY' cpu 'rows/s' MB lacking
printf '|---|---|---:|---:|---:|---:|---:|---:|\n'
lineitem
others
