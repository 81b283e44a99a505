#!/usr/bin/env bash
#
# run.sh: the demo.  A shop's product returns go into the warehouse.
#
# test/setup.sh demo (make demo) calls it, beside a server that runs as the
# same user on the same machine: it writes files that the server reads, and
# kills one of the server's processes.  The SQL is in the files beside this
# one, and is shown as it runs.  Every claim is checked; the first one that
# does not hold ends the demo with an error.
#
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
data=$(mktemp -d "${TMPDIR:-/tmp}/etl_demo.XXXXXX")
db=etl_demo_$$
shop=${db}_shop
oui=/usr/share/ieee-data/oui.csv
started=$SECONDS

export PGCLIENTENCODING=UTF8 PGOPTIONS='-c client_min_messages=warning'
export PSQLRC=/dev/null PSQL_PAGER='' PAGER=''

on_exit()
{
	local status=$?

	trap - EXIT
	jobs -p | xargs -r kill 2>/dev/null || true
	psql -q -d postgres -c "DROP DATABASE IF EXISTS $db WITH (FORCE)" \
		-c "DROP DATABASE IF EXISTS $shop WITH (FORCE)" 2>/dev/null || true
	rm -rf "$data"
	[ $status = 0 ] || echo "demo: FAILED"
	exit $status
}
trap on_exit EXIT

# A value from the database, or nothing while the server cannot be reached.
value()
{
	psql -qAt -d "$db" -c "$1" 2>/dev/null || true
}

# Waits until a query's answer is not empty, and prints it.
wait_for()
{
	local answer='' deadline=$((SECONDS + 120))

	while answer=$(value "$1"); [ -z "$answer" ]; do
		if [ $SECONDS -gt $deadline ]; then
			echo "demo: gave up waiting for: $1" >&2
			return 1
		fi
		sleep 0.05
	done
	echo "$answer"
}

# One file of SQL, with the statements shown above their results.
part()
{
	psql -q -e -v ON_ERROR_STOP=1 -v data="$data" -v returns="$data/returns/*" \
		-v catalogue="$data/catalogue/" -v oui="$oui" -v db="$db" -v shop="$shop" -d "$db" -f "$here/$1" 2>&1 |
		sed -u "s/^psql:[^ ]*: //"
}

# Starts a load and kills the server process that runs it, half-way: another
# session holds a key that stands in the middle of the files, so that the
# load must wait there.
kill_a_load()
{
	local pid

	PGAPPNAME=holder psql -q -d "$db" >/dev/null 2>&1 <<-EOF2 &
		BEGIN;
		INSERT INTO crashed VALUES (180000, 'P-0001', '2026-01-15', 1);
		SELECT pg_sleep(600);
	EOF2
	wait_for "SELECT pid FROM pg_stat_activity
		WHERE application_name = 'holder' AND wait_event = 'PgSleep'" >/dev/null

	PGAPPNAME=loader psql -q -e -v returns="$data/returns/*" -d "$db" >"$data/loader" 2>&1 <<-'EOF2' &
		SELECT * FROM etl_bulk_copy('crashed', :'returns', on_error => 'dead_letter');
	EOF2
	pid=$(wait_for "SELECT pid FROM pg_stat_activity
		WHERE application_name = 'loader' AND wait_event_type = 'Lock'")
	kill -9 "$pid"
	echo
	echo "-- kill -9 $pid, which is the server process of this session:"
	wait || true
	cat "$data/loader"
	wait_for "SELECT 'recovered' WHERE NOT pg_is_in_recovery()" >/dev/null
}

# Kills the process that applies changes, while the shop writes.
kill_a_pipeline()
{
	local pid

	psql -q -d "$db" -c 'CALL demo.sell(100000)' >"$data/shop" 2>&1 &
	wait_for "SELECT 'behind' FROM etl_patterns.cdc_status WHERE inserts > 1500" >/dev/null
	pid=$(wait_for "SELECT pid FROM etl_patterns.cdc_status WHERE pid IS NOT NULL")
	kill -9 "$pid"
	echo
	echo "-- kill -9 $pid, which is the process that applies, while the shop sells:"
	wait || true
	cat "$data/shop"
	wait_for "SELECT 'recovered' WHERE NOT pg_is_in_recovery()" >/dev/null
	psql -q -d "$db" -c 'CALL demo.sell(300)'
}

echo
echo "etl_patterns: a shop's product returns, from files to daily metrics"
[ -r "$oui" ] || { echo "demo: $oui is missing (Debian package ieee-data)" >&2; exit 1; }
perl "$here/generate.pl" "$data"
for name in "$db" "$shop"; do
	psql -q -d postgres -c "CREATE DATABASE $name TEMPLATE template0 ENCODING 'UTF8'"
done

part load.sql
part repair.sql
part history.sql
part orders.sql
part crash.sql
kill_a_load
part crash_rerun.sql
mkdir "$data/inbox"
part jobs.sql
part cdc.sql
kill_a_pipeline
part cdc_after.sql
part sum.sql

echo
echo "demo: all checks held ($((SECONDS - started)) seconds)"
