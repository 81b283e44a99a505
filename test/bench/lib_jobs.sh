# lib_jobs.sh: servers that run jobs, for the benchmarks to source after lib.sh.
#
# Launchers come with shared_preload_libraries, so each measurement has a new
# server of its own, below the scratch directory, from the programs that
# test/setup.sh has installed.  All servers have the same settings (below), and
# are alone on the machine as far as we can tell.  CPU seconds are those of the
# postmaster and all that it has started.
#
# shellcheck shell=bash disable=SC2034,SC2154

scale=${SCALE:-1}
rounds=${ROUNDS:-3}
export PGHOST=$work PGPORT=65433
server=
trap 'stop_server; rm -rf "$work"' EXIT

# scaled NUMBER
scaled()
{
	awk "BEGIN { printf \"%d\", $1 * $scale }"
}

wanted()
{
	[[ $1 =~ ${CASES:-.} ]]
}

# start_server LIBRARY SETTING...: a new one, each setting as in a file.
start_server()
{
	[ -d "$work/new" ] ||
		initdb -D "$work/new" -U "$PGUSER" -A trust -N --locale=C --encoding=UTF8 >"$work/initdb.log"
	rm -rf "$work/data"
	cp -r "$work/new" "$work/data"
	cat "${BASH_SOURCE[0]%/*}/server.conf" - >>"$work/data/postgresql.conf" <<-CONF
	autovacuum = on
	listen_addresses = ''
	unix_socket_directories = '$work'
	port = $PGPORT
	max_connections = 1100
	max_worker_processes = 110
	shared_preload_libraries = '$1'
	CONF
	printf '%s\n' "${@:2}" >>"$work/data/postgresql.conf"
	restart_server
}

restart_server()
{
	pg_ctl -D "$work/data" -l "$work/server.log" -w start >"$work/pg_ctl.log"
	server=$(head -n 1 "$work/data/postmaster.pid")
}

stop_server()
{
	[ -z "$server" ] || pg_ctl -D "$work/data" -m fast -w stop >"$work/pg_ctl.log"
	server=
}

# Builds what CRON_SOURCE names; sets has_cron and has_seconds.
find_pg_cron()
{
	local sharedir version

	if [ -n "${CRON_SOURCE:-}" ]; then
		cp -r "$CRON_SOURCE" "$work/pg_cron"
		# built with the machine's headers, installed into what we run
		make -C "$work/pg_cron" -s with_llvm=no PG_CONFIG="$(PATH=${PATH#*:} command -v pg_config)" all &&
			make -C "$work/pg_cron" -s with_llvm=no PG_CONFIG="${PG_CONFIG:-pg_config}" install || exit 1
	fi
	sharedir=$("${PG_CONFIG:-pg_config}" --sharedir)
	version=$(sed -n "s/^default_version *= *'\(.*\)'.*/\1/p" "$sharedir/extension/pg_cron.control" 2>/dev/null || true)
	has_cron=${version:+yes}
	has_seconds=
	case $version in
		'') echo 'pg_cron is missing (Debian package postgresql-15-cron): ours alone' ;;
		1.[0-4]*) echo "pg_cron $version has no schedule of seconds: minutes only (see CRON_SOURCE=)" ;;
		*) has_seconds=yes ;;
	esac
	[ -z "$version" ] || printf 'pg_cron %s\n' "$version"
}
