#!/usr/bin/env bash
#
# etl_bulk_copy against COPY: 3 million rows like TPC-H's lineitem, with and
# without a primary key, with and without bad rows.  COPY always gets the
# clean file, since it would stop at the first bad row.
#
#   ROWS=3000000 ROUNDS=5 CASES=.   CASES: a regular expression for the names
#
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/bench/lib.sh
. "$here/lib.sh"

rows=${ROWS:-3000000}
chmod 755 "$work"

columns=l_orderkey,l_partkey,l_suppkey,l_linenumber,l_quantity,l_extendedprice,l_discount,l_tax
columns+=,l_returnflag,l_linestatus,l_shipdate,l_commitdate,l_receiptdate,l_shipinstruct,l_shipmode,l_comment

line()
{
	local name=$1 table=$2 file=$3 on_error=$4

	[[ $name =~ ${CASES:-.} ]] || return 0
	pair "$name" "$rows" \
		"$table" "COPY $table ($columns) FROM '$work/clean.csv' (FORMAT csv)" \
		"$table" "SELECT rows_rejected FROM etl_bulk_copy('$table', '$work/$file.csv',
			columns => '{$columns}', header => 'none', on_error => '$on_error')"
}

bench_setup
sql -f "$here/bulk_load.sql"
sql -c "COPY (SELECT * FROM lineitem_rows($rows)) TO '$work/clean.csv' (FORMAT csv)"
perl "$here/spoil.pl" 1000 <"$work/clean.csv" >"$work/bad1000.csv"
perl "$here/spoil.pl" 100 <"$work/clean.csv" >"$work/bad100.csv"

table_head "lineitem, $rows rows, $(($(stat -c %s "$work/clean.csv") / 1000000)) MB"
for key in '' _key; do
	label=${key:+, primary key}
	line "abort, clean$label" lineitem$key clean abort
	line "dead letters, clean$label" lineitem$key clean dead_letter
	line "dead letters, 0.1 % bad$label" lineitem$key bad1000 dead_letter
	line "dead letters, 1 % bad$label" lineitem$key bad100 dead_letter
done
