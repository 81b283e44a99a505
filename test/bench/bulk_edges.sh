#!/usr/bin/env bash
#
# etl_bulk_copy against COPY where it might do badly: narrow rows, long texts,
# duplicate keys, nothing but bad rows, and many small files.
#
#   ROWS=3000000 ROUNDS=5 CASES=.   ROWS scales the files; CASES: a regular
#                                   expression for the names
#
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/bench/lib.sh
. "$here/lib.sh"

rows=${ROWS:-3000000}
files=$((rows / 1500))
chmod 755 "$work"

wanted()
{
	[[ $1 =~ ${CASES:-.} ]]
}

# export_csv FILE QUERY
export_csv()
{
	sql -c "COPY ($2) TO '$work/$1.csv' (FORMAT csv)"
}

# load TABLE FILE: the statement of ours.
load()
{
	printf "SELECT rows_rejected FROM etl_bulk_copy('%s', '%s/%s', header => 'none', on_error => 'dead_letter')" \
		"$1" "$work" "$2"
}

# compare NAME ROWS TABLE FILE [FILE OF OURS]
compare()
{
	pair "$1" "$2" "$3" "COPY $3 FROM '$work/$4.csv' (FORMAT csv)" "$3" "$(load "$3" "${5:-$4}.csv")"
}

narrow()
{
	wanted 'narrow' || return 0
	export_csv narrow "SELECT i, i * 7 FROM generate_series(1, $((rows / 3 * 5))) i"
	compare 'narrow, two ints' $((rows / 3 * 5)) narrow narrow
	rm "$work/narrow.csv"
}

wide()
{
	wanted 'wide' || return 0
	export_csv plain "SELECT * FROM wide_rows($((rows / 15)), false)"
	compare 'wide, eight texts' $((rows / 15)) wide plain
	export_csv quoted "SELECT * FROM wide_rows($((rows / 15)), true)"
	compare 'wide, eight quoted texts' $((rows / 15)) wide quoted
	rm "$work"/{plain,quoted}.csv
}

duplicates()
{
	wanted 'duplicate keys' || return 0
	export_csv unique "SELECT * FROM keyed_rows($((rows / 3)), $((rows * 2)))"
	export_csv duplicates "SELECT * FROM keyed_rows($((rows / 3)), 100)"
	compare 'duplicate keys, 1 %' $((rows / 3)) keyed unique duplicates
	sql -c "SELECT format('(table %s, its index %s; without the dead rows %s)',
			pg_size_pretty(pg_relation_size('keyed')), pg_size_pretty(pg_relation_size('keyed_pkey')),
			pg_size_pretty(pg_relation_size('keyed') * (SELECT count(*) FROM keyed) / $((rows / 3))))"
	rm "$work"/{unique,duplicates}.csv
}

# COPY's part is what one would do to have such rows in the database at all.
only_bad()
{
	wanted 'only bad rows' || return 0
	export_csv bad "SELECT 'x' || i, i FROM generate_series(1, $((rows / 3))) i"
	pair 'only bad rows' $((rows / 3)) \
		narrow_text "COPY narrow_text FROM '$work/bad.csv' (FORMAT csv)" narrow "$(load narrow bad.csv)"
	rm "$work/bad.csv"
}

small_files()
{
	local i

	wanted 'files of ten rows' || return 0
	for ((i = 0; i < files; i++)); do
		printf '%s,1\n' "$i"{0..9} >"$work/small$i.csv"
	done
	pair "$files files of ten rows" $((files * 10)) \
		narrow "DO \$\$ BEGIN FOR i IN 0..$((files - 1)) LOOP
			EXECUTE format('COPY narrow FROM %L (FORMAT csv)', '$work/small' || i || '.csv');
		END LOOP; END \$\$" narrow "$(load narrow 'small*.csv')"
	rm "$work"/small*.csv
}

bench_setup
sql -f "$here/bulk_edges.sql"
table_head edges
narrow
wide
duplicates
only_bad
small_files
