#!/usr/bin/env bash
#
# versions.sh: the suites on each major version of PostgreSQL that Debian has.
#
# Each major gets a root of its own, made with debootstrap from the release of
# Debian that comes with it, and there test/setup.sh does what it does on any
# machine: it installs what is missing, and runs the suites as a user without
# privileges.  Whatever runs in a root runs in a mount and a process namespace
# of its own: it is gone when this script is, however that ends.  So are the
# roots, unless ROOTS says where to keep them.
#
# A major that cannot be had is named, with the reason.  That is a failure
# only if REQUIRED names it.
#
set -euo pipefail
umask 022

tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
majors=${MAJORS:-15 17 18}
read -r -a suites <<<"${SUITES:-regress isolation tap}"

roots=           # where the roots are
child=           # what runs now
mirror=
obstacle=        # why there can be no roots
passed=0
failed=0
ready=()         # the majors whose suites can run
declare -A version summary

usage()
{
	cat <<-EOF
	usage: test/versions.sh

	  MAJORS="15 17 18"   the majors to test
	  REQUIRED="15 17 18" fail if one of these cannot be had (default: none)
	  SUITES="regress isolation tap"
	                      the suites to run
	  MINUTES=30          stop after that time; a suite that has not ended by
	                      then counts as one that could not be had
	  ROOTS=DIRECTORY     keep the roots there, and use those that are there
	  MIRROR=URL          where Debian is (default: from apt's sources)

	The last line is "N passed, N failed", of all majors.
	EOF
}

say()
{
	printf '== %s\n' "$*"
}

# The release of Debian that has a major.
release()
{
	case $1 in
		15) echo bookworm ;;
		17) echo trixie ;;
		18) echo forky ;;
	esac
}

# ---------------------------------------------------------------------------
# Running commands, and cleaning up
# ---------------------------------------------------------------------------

# The seconds that are left, 0 if there are none.
seconds_left()
{
	local left=86400

	[ -z "${MINUTES:-}" ] || left=$((MINUTES * 60 - SECONDS))
	echo $((left > 0 ? left : 0))
}

# Runs a command so that a signal to this script takes effect at once, and not
# for longer than there is time: then the status is 124.
run()
{
	local status=0 left

	left=$(seconds_left)
	[ "$left" -gt 0 ] || return 124
	setsid timeout -k 60 "$left" "$@" </dev/null &
	child=$!
	wait "$child" || status=$?
	child=
	# After the KILL the status is that of the signal.
	[ $status != 137 ] || [ "$(seconds_left)" -gt 0 ] || status=124
	return $status
}

end_child()
{
	[ -n "$child" ] || return 0
	kill -TERM -- "-$child" 2>/dev/null || true
	wait "$child" 2>/dev/null || true
	child=
}

on_exit()
{
	local status=$?

	trap '' INT TERM HUP
	set +e
	end_child
	[ -z "$roots" ] || [ -n "${ROOTS:-}" ] || rm -rf --one-file-system "$roots"
	[ $status = 0 ] || [ "$failed" != 0 ] || failed=1
	printf '%d passed, %d failed\n' "$passed" "$failed"
	exit $status
}

# Removes what was left by runs that were killed.
sweep()
{
	local dir

	for dir in "${TMPDIR:-/tmp}"/etl_versions.*; do
		[ -O "$dir" ] && [ -s "$dir/owner" ] || continue
		kill -0 "$(cat "$dir/owner")" 2>/dev/null || rm -rf --one-file-system "$dir"
	done
}

# ---------------------------------------------------------------------------
# Roots
# ---------------------------------------------------------------------------

# Says why there can be no roots, if so.
find_obstacle()
{
	if [ "$(id -u)" != 0 ]; then
		echo "only root makes roots"
	elif ! command -v apt-get >/dev/null; then
		echo "this is not Debian"
	elif ! unshare --mount --pid --fork --mount-proc true 2>/dev/null; then
		echo "no mount and process namespaces here"
	elif ! bring_debootstrap >/dev/null 2>&1; then
		echo "debootstrap is not here and cannot be installed"
	fi
}

bring_debootstrap()
{
	command -v debootstrap >/dev/null && return
	apt-get -q update || true
	DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends \
		debootstrap debian-archive-keyring
}

# Finds the first of apt's sources that has a release, in mirror.
find_mirror()
{
	local uri proxy

	eval "$(apt-config shell proxy Acquire::http::Proxy)"
	[ -z "${proxy:-}" ] || export http_proxy=$proxy
	while read -r uri; do
		mirror=${uri%/}
		run /usr/lib/apt/apt-helper download-file "$mirror/dists/$1/InRelease" \
			"$roots/InRelease" >/dev/null 2>&1 && return
	done < <(
		[ -z "${MIRROR:-}" ] || echo "$MIRROR"
		apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | sort -u
		echo http://deb.debian.org/debian
	)
	return 1
}

# Runs a command in a root, which sees no process but those of the command.
inside()
{
	local dir=$1

	shift
	# shellcheck disable=SC2016
	run unshare --mount --pid --fork --kill-child sh -c '
		root=$1
		shift
		mount -t proc proc "$root/proc" &&
			mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm" &&
			exec chroot "$root" "$@"' sh "$dir" \
		env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		LC_ALL=C.UTF-8 HOME=/root ${http_proxy:+http_proxy="$http_proxy"} "$@"
}

# Makes the root of a major, unless it is there: the status says if it is.
make_root()
{
	local major=$1 dir=$2 name script=()

	[ ! -f "$dir/complete" ] || return 0
	name=$(release "$major")
	find_mirror "$name" || {
		echo "no source of apt has $name"
		return 1
	}
	# An older debootstrap does not know the names of later releases.
	[ -e "/usr/share/debootstrap/scripts/$name" ] || script=(/usr/share/debootstrap/scripts/sid)
	rm -rf --one-file-system "$dir"
	run debootstrap --variant=minbase "$name" "$dir" "$mirror" "${script[@]}" || return
	# Nobody needs these files after a crash, and no service is to start.
	echo force-unsafe-io >"$dir/etc/dpkg/dpkg.cfg.d/unsafe-io"
	printf '#!/bin/sh\nexit 101\n' >"$dir/usr/sbin/policy-rc.d"
	chmod 755 "$dir/usr/sbin/policy-rc.d"
	copy_tree "$dir"
	inside "$dir" /etl_patterns/test/setup.sh packages || return
	touch "$dir/complete"
}

# The sources, without what was compiled or left by tests.
copy_tree()
{
	rm -rf "$1/etl_patterns"
	mkdir "$1/etl_patterns"
	tar -C "$tree" --exclude=./.git --exclude=./test/work --exclude=./tmp_check \
		--exclude=./results --exclude=./output_iso --exclude='./regression.*' \
		--exclude='*.o' --exclude='*.so' --exclude='*.bc' -cf - . |
		tar -C "$1/etl_patterns" --no-same-owner -xf -
}

# ---------------------------------------------------------------------------
# Majors
# ---------------------------------------------------------------------------

# Gets a major ready: a root, what the tests need, and the extension built.
prepare()
{
	local major=$1 dir=$roots/$1 log=$roots/$1.log start=$SECONDS status=0

	if [ -n "$obstacle" ]; then
		not_had "$major" "$obstacle"
		return
	elif [ -z "$(release "$major")" ]; then
		not_had "$major" "no release of Debian has it"
		return
	fi
	say "PostgreSQL $major: a root of Debian $(release "$major")"
	make_root "$major" "$dir" >"$log" 2>&1 || status=$?
	if [ $status != 0 ]; then
		[ $status = 124 ] || [ ! -s "$log" ] || tail -n 5 "$log"
		not_had "$major" "no root of Debian $(release "$major")" $status
		return
	fi
	version[$major]=$(inside "$dir" pg_config --version 2>&1) || version[$major]=nothing
	version[$major]=${version[$major]% (*}
	if [[ ${version[$major]} != "PostgreSQL $major"* ]]; then
		not_had "$major" "Debian $(release "$major") has ${version[$major]}"
		return
	fi
	say "${version[$major]}: building, after $((SECONDS - start)) s"
	copy_tree "$dir"
	inside "$dir" make -s -j "$(nproc)" -C /etl_patterns with_llvm=no COPT=-Werror all >"$log" 2>&1 || status=$?
	if [ $status = 124 ]; then
		not_had "$major" "" 124
	elif [ $status != 0 ]; then
		cat "$log"
		fail "$major" 1 "it does not build"
	else
		ready+=("$major")
	fi
}

# Runs one suite on one major.
test_suite()
{
	local major=$1 suite=$2 dir=$roots/$1 log=$roots/$1.$2.log start=$SECONDS status=0
	local good=0 bad=0

	say "${version[$major]}: $suite"
	inside "$dir" /etl_patterns/test/setup.sh test "$suite" >"$log" 2>&1 || status=$?
	read -r good bad < <(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$log" | tail -n 1) || true
	if [ $status = 124 ]; then
		not_had "$major" "$suite" 124
		return
	fi
	good=${good:-0} bad=${bad:-0}
	[ $status = 0 ] || [ "$bad" -gt 0 ] || bad=1
	passed=$((passed + good))
	summary[$major]+=", $suite $good in $((SECONDS - start)) s"
	[ "$bad" = 0 ] || fail "$major" "$bad" "$suite: $bad failed" "$log"
}

# Something failed: shows its log, and keeps what the suites kept.
fail()
{
	local major=$1 keep=$tree/test/work/$1

	[ -z "${4:-}" ] || cat "$4"
	failed=$((failed + $2))
	summary[$major]+=", $3"
	rm -rf "$keep"
	mkdir -p "$keep"
	cp "$roots/$major"*.log "$keep/"
	[ ! -d "$roots/$major/etl_patterns/test/work" ] ||
		cp -r "$roots/$major/etl_patterns/test/work/." "$keep/"
	say "kept in test/work/$major"
}

# Something could not be had, for want of time if the status is 124.
not_had()
{
	local what=$2

	[ "${3:-}" != 124 ] || what="no time left${what:+ for $what}"
	say "PostgreSQL $1: $what"
	summary[$1]+=", $what"
	[[ " ${REQUIRED:-} " != *" $1 "* ]] || failed=$((failed + 1))
}

main()
{
	local major suite

	case ${1:-} in
		'') ;;
		-h | --help | help) usage && exit ;;
		*) usage >&2 && exit 2 ;;
	esac
	trap on_exit EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM

	sweep
	roots=${ROOTS:-$(mktemp -d "${TMPDIR:-/tmp}/etl_versions.XXXXXX")}
	mkdir -p "$roots"
	chmod 755 "$roots"
	echo $$ >"$roots/owner"
	obstacle=$(find_obstacle)
	for major in $majors; do
		prepare "$major"
	done
	# What takes longest comes last, on all of them.
	for suite in "${suites[@]}"; do
		for major in "${ready[@]}"; do
			test_suite "$major" "$suite"
		done
	done

	say "results"
	for major in $majors; do
		echo "${version[$major]:-PostgreSQL $major}: ${summary[$major]#, }"
	done
	[ "$failed" = 0 ]
}

main "$@"
