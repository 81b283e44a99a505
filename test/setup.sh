#!/usr/bin/env bash
#
# setup.sh: what the tests, the demo and the benchmarks need, and its removal.
#
# Everything happens in one fresh directory below ${TMPDIR:-/tmp}:
#
#   inst/   a private PostgreSQL: this machine's, relocated by links, with the
#           extension installed into it; the system's own stays as it is
#   tree/   a copy of the sources, where the build and the suites write
#   run/    data directory, socket and logs of the throw-away server
#
# The server listens on a socket in that directory only, so that any number of
# runs can go on side by side.  When the script ends, interrupted or not, it
# stops the server and removes the directory; what a kill -9 left behind goes
# when the next run starts.
#
set -euo pipefail
umask 022

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pg_config=${PG_CONFIG:-pg_config}

# Most of their time TAP tests wait, for a server or a schedule.
tap_jobs=${TAP_JOBS:-3}

house=        # the directory of this run
child=        # process group of the command that runs now
command=      # the word this script was called with
user=         # who runs what root may not
as_user=()    # what makes a command run as that user
createcluster_backup=

suites=(regress isolation tap)
suites_left=0
passed=0
failed=0

usage()
{
	cat <<-EOF
	usage: test/setup.sh COMMAND

	  packages          install what is missing (Debian, as root), or say what is
	  test [SUITE...]   all suites, or these; the last line is
	                    "N passed, N failed"
	  regress, isolation, tap
	                    one suite
	  torture           the TAP tests named *_torture.pl at full length;
	                    ROUNDS= and SEED= say how long and which
	  sanitize [FILES]  what reads bytes from outside, built with sanitizers for
	                    addresses and undefined behaviour: the suite regress,
	                    and these TAP tests
	  demo, bench       test/demo/run.sh, test/bench/run.sh
	  run COMMAND...    any command, in the copy of the tree, beside a server
	  start             a server that stays; prints its environment
	  stop DIRECTORY    stops and removes it

	Settings: PG_CONFIG names the PostgreSQL to use.  COPT holds more compiler
	flags; with it everything is compiled anew.  TAP_JOBS says how many TAP tests
	run at the same time (3).
	EOF
}

say()
{
	printf '== %s\n' "$*"
}

die()
{
	printf 'setup.sh: %s\n' "$*" >&2
	exit 1
}

# ---------------------------------------------------------------------------
# Packages
# ---------------------------------------------------------------------------

# Prints one line per missing thing: its Debian package, then what it is.
# VERSION stands for the major version of PostgreSQL.
missing()
{
	local bindir pgxs

	bindir=$($pg_config --bindir 2>/dev/null || true)
	pgxs=$($pg_config --pgxs 2>/dev/null || true)

	command -v cc >/dev/null && command -v make >/dev/null ||
		echo "build-essential: a C compiler and make"
	[ -x "$bindir/initdb" ] && [ -x "$bindir/postgres" ] ||
		echo "postgresql-VERSION: PostgreSQL's server programs (initdb, postgres)"
	[ -f "$pgxs" ] && [ -f "$($pg_config --includedir-server)/postgres.h" ] ||
		echo "postgresql-server-dev-VERSION: PostgreSQL's headers and build files (pg_config, PGXS)"
	has_header "$($pg_config --includedir 2>/dev/null)/libpq-fe.h" ||
		echo "libpq-dev: PostgreSQL's client library (libpq-fe.h)"
	has_header csv.h || echo "libcsv-dev: libcsv (csv.h)"
	has_header zstd.h || echo "libzstd-dev: libzstd (zstd.h)"
	has_header zlib.h || echo "zlib1g-dev: zlib (zlib.h)"
	perl -MIPC::Run -MTest::More -e 1 2>/dev/null && command -v prove >/dev/null ||
		echo "libipc-run-perl: Perl's prove and IPC::Run"
	command -v gzip >/dev/null || echo "gzip: gzip"
	command -v zstd >/dev/null || echo "zstd: zstd"
	[ -d /usr/share/ieee-data ] || echo "ieee-data: the IEEE registries in /usr/share/ieee-data"
}

has_header()
{
	if command -v cc >/dev/null; then
		echo "#include <$1>" | cc -E -include stdio.h - >/dev/null 2>&1
	else
		[ -f "/usr/include/$1" ]
	fi
}

packages()
{
	local lacking

	lacking=$(missing)
	[ -n "$lacking" ] || return 0

	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		say "installing packages"
		apt_install "$lacking"
		lacking=$(missing)
		[ -n "$lacking" ] || return 0
	fi
	printf 'setup.sh: missing here (Debian package: what it is):\n%s\n' "${lacking//VERSION/15}" >&2
	exit 1
}

apt_install()
{
	apt_refresh
	apt_get postgresql-common
	without_main_cluster
	# shellcheck disable=SC2046
	apt_get $(apt_names "$1")
	restore_main_cluster
}

apt_refresh()
{
	apt-get -q update </dev/null || say "could not refresh the package lists, going on with those at hand"
}

apt_get()
{
	DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "$@" </dev/null
}

# The packages in what missing() printed.
apt_names()
{
	local version

	version=$($pg_config --version 2>/dev/null | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p' || true)
	[ -n "$version" ] ||
		version=$(apt-cache depends postgresql 2>/dev/null |
			sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p' | head -n 1 || true)
	printf '%s\n' "$1" | sed "s/:.*//; s/VERSION/${version:-15}/"
}

# What a test or a benchmark is skipped without, in the form of missing().  Of MariaDB it is
# the programs alone (the packages named -core): no service comes with them.
optional_missing()
{
	[ -f "$($pg_config --pkglibdir)/mysql_fdw.so" ] ||
		echo "postgresql-VERSION-mysql-fdw: mysql_fdw"
	[ -f "$($pg_config --pkglibdir)/pg_cron.so" ] ||
		echo "postgresql-VERSION-cron: pg_cron"
	[ -f "$($pg_config --pkglibdir)/pglogical.so" ] ||
		echo "postgresql-VERSION-pglogical: pglogical"
	PATH=$PATH:/usr/sbin command -v mariadbd >/dev/null ||
		echo "mariadb-server-core: MariaDB's server"
	[ "$command" != bench ] || command -v pgloader >/dev/null ||
		echo "pgloader: pgloader"
	command -v mariadb >/dev/null ||
		echo "mariadb-client-core: MariaDB's client"
	/usr/bin/python3 -c 'import croniter' 2>/dev/null ||
		echo "python3-croniter: another implementation of cron"
}

# Installs that where it can be, for a PostgreSQL that is Debian's.
optional_packages()
{
	local lacking

	lacking=$(optional_missing)
	[ -n "$lacking" ] || return 0
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
	[[ $($pg_config --pkglibdir) == /usr/lib/postgresql/* ]] || return 0

	say "installing packages of what is skipped without them"
	apt_refresh
	# shellcheck disable=SC2046
	apt_get $(apt_names "$lacking") || say "that did not work, going on without"
}

# Debian's server package would create and start a cluster of its own.
without_main_cluster()
{
	local conf=/etc/postgresql-common/createcluster.conf

	[ -f $conf ] || return 0
	createcluster_backup=$(mktemp)
	cp -p $conf "$createcluster_backup"
	sed -i '/^[ \t]*create_main_cluster/d' $conf
	echo 'create_main_cluster = false' >>$conf
}

restore_main_cluster()
{
	[ -n "$createcluster_backup" ] || return 0
	cp -p "$createcluster_backup" /etc/postgresql-common/createcluster.conf
	rm -f "$createcluster_backup"
	createcluster_backup=
}

# ---------------------------------------------------------------------------
# Running commands, and cleaning up
# ---------------------------------------------------------------------------

# Runs a command in a process group of its own, so that a signal to this
# script takes effect at once and everything below goes with it.
run()
{
	local status=0

	setsid "$@" 3>&- &
	child=$!
	wait "$child" || status=$?
	child=
	return $status
}

# As run, with the output both shown and kept in a file.
run_logged()
{
	# shellcheck disable=SC2016
	run bash -o pipefail -c 'log=$1; shift; "$@" 2>&1 | tee "$log"' - "$@"
}

# As run, with the output shown only when the command fails.
run_quiet()
{
	local log=$house/output

	run "$@" >"$log" 2>&1 || {
		cat "$log"
		die "failed: ${*##*/}"
	}
}

# initdb, and hence everything that works with a server, refuses root.
choose_user()
{
	if [ "$(id -u)" = 0 ]; then
		user=postgres
		id "$user" >/dev/null 2>&1 || user=nobody
		as_user=(setpriv --reuid "$user" --regid "$(id -gn "$user")" --init-groups --)
	else
		user=$(id -un)
	fi
}

end_child()
{
	local tries=100

	[ -n "$child" ] || return 0
	kill -TERM -- "-$child" 2>/dev/null || true
	while kill -0 -- "-$child" 2>/dev/null; do
		if [ $((tries -= 1)) -le 0 ]; then
			kill -KILL -- "-$child" 2>/dev/null || true
			break
		fi
		sleep 0.1
	done
	child=
}

# Stops every server below a directory and removes it.
demolish()
{
	local dir=$1 pidfile bin

	bin=$(find "$dir/inst" -name pg_ctl -type f 2>/dev/null | head -n 1)
	while read -r pidfile; do
		[ -z "$bin" ] ||
			"${as_user[@]}" "$bin" -D "$(dirname "$pidfile")" -m immediate -w stop >/dev/null 2>&1 ||
			true
	done < <(find "$dir" -name postmaster.pid 2>/dev/null)
	# Once more, in case something that was about to end wrote in between.
	rm -rf "$dir" || rm -rf "$dir"
}

on_exit()
{
	local status=$?

	trap '' INT TERM HUP
	set +e
	end_child
	restore_main_cluster
	[ -z "$house" ] || demolish "$house"
	if [ "$command" = test ]; then
		[ "$suites_left" = 0 ] || printf '\n' >&3	# something may stand half-written
		failed=$((failed + suites_left))
		[ "$failed" = 0 ] || [ $status != 0 ] || status=1
		printf '%d passed, %d failed\n' "$passed" "$failed" >&3
	fi
	exit $status
}

# Removes what runs left that were killed before they could clean up.
sweep()
{
	local dir owner

	for dir in "${TMPDIR:-/tmp}"/etl_patterns.*; do
		if [ -O "$dir" ] && [ -s "$dir/owner" ]; then
			owner=$(cat "$dir/owner")
			kill -0 "$owner" 2>/dev/null || demolish "$dir"
		fi
	done
}

# ---------------------------------------------------------------------------
# The house of one run
# ---------------------------------------------------------------------------

build_house()
{
	[[ ${TMPDIR:-/tmp} != *[[:space:]]* ]] ||
		die "TMPDIR is \"$TMPDIR\", but PostgreSQL's build files take no blanks in names"
	choose_user
	sweep
	house=$(mktemp -d "${TMPDIR:-/tmp}/etl_patterns.XXXXXX")
	chmod 755 "$house"
	echo $$ >"$house/owner"
	mkdir "$house"/{inst,tree,run,run/home}
	isolate_environment
	copy_tree
	chown -R "$user" "$house"/{inst,tree,run}
	build
	install_privately
	start_server
}

# Nothing of the caller's PostgreSQL, locale or make settings reaches the
# suites.  LANG is set beside LC_ALL, because PostgreSQL's Perl modules drop
# the latter.
isolate_environment()
{
	local name

	for name in $(compgen -e | grep -E '^PG|^LC_|^LANGUAGE$|^TZ$' | grep -v '^PG_CONFIG$'); do
		unset "$name"
	done
	unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
	export HOME=$house/run/home LANG=C.UTF-8 LC_ALL=C.UTF-8 TMPDIR=$house/run
	cd "$house"
}

# Objects come along, unless other flags ask for others.
copy_tree()
{
	local exclude=(--exclude=./.git --exclude=./test/work --exclude=./tmp_check
		--exclude=./results --exclude=./output_iso --exclude='./regression.*')

	[ -z "${COPT:-}" ] || exclude+=(--exclude='*.o' --exclude='*.so' --exclude='*.bc')
	tar -C "$root" "${exclude[@]}" -cf - . | tar -C "$house/tree" --no-same-owner -xf -
}

make_as_user()
{
	"$1" "${as_user[@]}" make --no-print-directory -s -C "$house/tree" with_llvm=no "${@:2}"
}

build()
{
	say "building"
	make_as_user run_quiet -j "$(nproc)" all
}

# A PostgreSQL finds its files relative to its programs.  So a copy of the
# programs with links to everything else is an installation of its own.
install_privately()
{
	local kind dir program

	say "installing"
	for kind in --bindir --pkglibdir --sharedir; do
		dir=$($pg_config $kind)
		"${as_user[@]}" mkdir -p "$house/inst$dir"
		"${as_user[@]}" cp -as "$dir/." "$house/inst$dir/"
	done
	dir=$($pg_config --bindir)
	bindir=$house/inst$dir
	for program in "$dir"/*; do
		"${as_user[@]}" cp --remove-destination -L "$program" "$bindir/"
	done
	find "$house/inst" -name 'etl_patterns*' -exec rm -rf {} +
	make_as_user run_quiet install PG_CONFIG="$bindir/pg_config"
	# Ours has no headers: what tests compile is for the one that was given.
	BUILD_PG_CONFIG=$(command -v "$pg_config")
	export PATH=$bindir:$PATH PG_CONFIG=$bindir/pg_config BUILD_PG_CONFIG
}

start_server()
{
	local data=$house/run/data

	[ -z "${SANITIZE:-}" ] || sanitize_server
	say "starting a server"
	run_quiet "${as_user[@]}" "$bindir/initdb" -D "$data" -U postgres -A trust -N \
		--locale=C --encoding=UTF8
	cat >>"$data/postgresql.conf" <<-EOF
	listen_addresses = ''
	unix_socket_directories = '$house/run'
	port = 65432
	fsync = off
	EOF
	[ ! -f "$root/test/$command/server.conf" ] || cat "$root/test/$command/server.conf" >>"$data/postgresql.conf"
	run_quiet "${as_user[@]}" "$bindir/pg_ctl" -D "$data" -l "$house/run/server.log" -w start
	export PGHOST=$house/run PGPORT=65432 PGUSER=postgres PGDATABASE=postgres
}

start()
{
	packages >&2
	build_house >&2
	: >"$house/owner"
	cat <<-EOF
	# to stop it: test/setup.sh stop $house
	export PATH='$bindir':\$PATH PGHOST='$PGHOST' PGPORT=$PGPORT PGUSER=$PGUSER PGDATABASE=$PGDATABASE
	EOF
	house=
}

stop()
{
	[[ -f $1/owner && -d $1/inst ]] || die "\"$1\" was not started by this script"
	choose_user
	demolish "$1"
}

# ---------------------------------------------------------------------------
# The suites
# ---------------------------------------------------------------------------

# Counts a suite of pg_regress: every test that it does not call ok failed.
# PostgreSQL 15 writes "test name ... ok 12 ms", later ones "ok 1 - name 12 ms".
count_regress()
{
	local log=$1 total=$2 status=$3 ok

	ok=$(grep -cE '^test .*\.\.\. ok +[0-9]+ ms|^ok [0-9]+ ' "$log" || true)
	count "$ok" $((total - ok)) "$status"
}

# Counts verbose TAP: assertions, and files that died or skipped everything.
# An assertion that was skipped is neither passed nor failed.
count_tap()
{
	local log=$1 status=$2 counts

	counts=$(awk '
		/^test\/t\/.*\.pl \.+/			{ here = 0 }
		/^test\/t\/.*\.pl \.+ skipped/	{ bad++ }
		/^ok [0-9]/ && !/[^\\]# (skip|SKIP)/	{ good++ }
		/^not ok [0-9]/ && !/[^\\]# TODO/	{ bad++; here++ }
		/^Dubious/ && !here				{ bad++ }
		END { print good + 0, bad + 0 }' "$log")
	# shellcheck disable=SC2086
	count $counts "$status"
}

count()
{
	local good=$1 bad=$2 status=$3

	[ "$status" = 0 ] || [ "$bad" -gt 0 ] || bad=1
	[ $((good + bad)) -gt 0 ] || bad=1
	passed=$((passed + good))
	failed=$((failed + bad))
	suite_failed=$bad
}

# Runs one suite as make installcheck does, with the others switched off.
suite()
{
	local name=$1 log=$house/$1.log status=0
	local only=()

	say "suite: $name"
	rm -rf "$root/test/work/$name"
	case $name in
		regress) only=(ISOLATION= TAP_TESTS=) ;;
		isolation) only=(REGRESS= TAP_TESTS=) ;;
		*) only=(REGRESS= ISOLATION= PROVE_FLAGS="--verbose --jobs $tap_jobs" "${@:2}") ;;
	esac
	run_logged "$log" "${as_user[@]}" make --no-print-directory -s -C "$house/tree" \
		installcheck "${only[@]}" || status=$?
	case $name in
		regress) count_regress "$log" "$(count_files sql .sql)" $status ;;
		isolation) count_regress "$log" "$(count_files test/isolation/specs .spec)" $status ;;
		*) count_tap "$log" $status ;;
	esac
	[ "$suite_failed" = 0 ] || show_failure "$name"
}

count_files()
{
	find "$house/tree/$1" -maxdepth 1 -name "*$2" | wc -l
}

# Shows what a suite left to look at, and keeps it in test/work.
show_failure()
{
	local name=$1 tree=$house/tree keep=$root/test/work/$1
	local serverlog=$house/run/server.log file left

	case $name in
		regress)
			left=("$tree"/regression.diffs "$tree"/results)
			[ ! -s "${left[0]}" ] || head -n 400 "${left[0]}"
			;;
		isolation)
			left=("$tree"/output_iso/regression.diffs "$tree"/output_iso/results)
			[ ! -s "${left[0]}" ] || head -n 400 "${left[0]}"
			;;
		*)
			left=("$tree"/tmp_check/log)
			while read -r file; do
				[ ! -f "$file" ] || { say "${file##*/}" && tail -n 60 "$file"; }
			done < <(sed -n "s|^test/t/\(.*\)\.pl .*Wstat.*|${left[0]}/regress_log_\1|p" "$house/$name.log")
			;;
	esac
	! grep -qE 'PANIC|TRAP|terminated by signal' "$serverlog" || tail -n 40 "$serverlog"

	mkdir -p "$keep"
	for file in "${left[@]}" "$serverlog"; do
		[ ! -e "$file" ] || cp -r "$file" "$keep/"
	done
	say "kept in test/work/$name"
}

run_suites()
{
	local name

	packages
	[[ " $* " != *" tap "* ]] || optional_packages
	build_house
	for name in "$@"; do
		suite "$name"
		suites_left=$((suites_left - 1))
	done
	[ "$failed" = 0 ]
}

torture()
{
	export ROUNDS=${ROUNDS:-300} SEED=${SEED:-$RANDOM}

	packages
	optional_packages
	build_house
	say "ROUNDS=$ROUNDS SEED=$SEED"
	suite tap PROVE_TESTS='test/t/*_torture.pl'
	say "ROUNDS=$ROUNDS SEED=$SEED: $passed passed, $failed failed"
	[ "$failed" = 0 ]
}

# The tests whose subject is bytes from files and from other servers.
sanitized_tests=(test/t/012_encoding.pl 'test/t/020_*_oracle.pl' test/t/024_csv_fuzz.pl
	test/t/040_pull_remote.pl test/t/046_pull_hostile.pl test/t/070_cdc_reader.pl test/t/075_cdc_remote.pl test/t/082_cdc_fuzz.pl)

# Every server that starts from now on has the sanitizers' libraries loaded
# first, and they write what they find below run/.  A server's name for its own
# program is kept, since pg_ctl restart goes by it.
sanitize_server()
{
	local postgres=$bindir/postgres library preload=

	for library in libasan.so libubsan.so; do
		library=$(cc -print-file-name=$library)
		[[ $library == /* ]] || die "the compiler has no $library"
		preload+=${preload:+:}$library
	done
	mv "$postgres" "$postgres.unsanitized"
	cat >"$postgres" <<-EOF
	#!/bin/bash
	LD_PRELOAD=$preload
	ASAN_OPTIONS=log_path=$house/run/sanitizer:detect_leaks=0:abort_on_error=1
	UBSAN_OPTIONS=log_path=$house/run/sanitizer:print_stacktrace=1
	export LD_PRELOAD ASAN_OPTIONS UBSAN_OPTIONS
	exec -a "$postgres" "$postgres.unsanitized" "\$@"
	EOF
	chmod 755 "$postgres"
	timeout 20 "$postgres" -V >/dev/null ||
		die "$($pg_config --bindir)/postgres does not start with $preload: name one that was built without --enable-nls"
}

sanitize()
{
	local reports

	export SANITIZE=1 COPT="${COPT:--O1}"
	packages
	build_house
	if [ $# = 0 ]; then
		suite regress
		set -- "${sanitized_tests[@]}"
	fi
	suite tap PROVE_TESTS="$*"
	reports=$(find "$house/run" -name 'sanitizer.*')
	if [ -n "$reports" ]; then
		mkdir -p "$root/test/work/sanitize"
		# shellcheck disable=SC2086
		cp $reports "$root/test/work/sanitize/"
		# shellcheck disable=SC2086
		cat $reports | head -n 400
		say "reports of sanitizers are kept in test/work/sanitize"
		failed=$((failed + 1))
	fi
	say "$passed passed, $failed failed"
	[ "$failed" = 0 ]
}

beside_server()
{
	packages
	[ "$command" != bench ] || optional_packages
	build_house
	cd "$house/tree"
	run "${as_user[@]}" "$@"
}

main()
{
	command=${1:-}
	[ -z "$command" ] || shift
	exec 3>&1	# for on_exit, wherever the output goes when a signal comes
	trap on_exit EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM

	case $command in
		packages) packages ;;
		test)
			[ $# = 0 ] || suites=("$@")
			suites_left=${#suites[@]}
			run_suites "${suites[@]}"
			;;
		regress | isolation | tap) run_suites "$command" ;;
		torture) torture ;;
		sanitize) sanitize "$@" ;;
		demo | bench) beside_server "test/$command/run.sh" "$@" ;;
		run) beside_server "$@" ;;
		start) start ;;
		stop) stop "${1:?name the directory}" ;;
		-h | --help | help) usage ;;
		*) usage >&2 && exit 2 ;;
	esac
}

main "$@"
