#!/usr/bin/env bash
#
# run.sh [NAME...]: runs the named benchmarks, or all of them.
#
# test/setup.sh bench calls this beside a server of its own.  Each benchmark
# is a file NAME.sh here; it prints a table in Markdown, which reads well on a
# terminal, too.  What the settings mean is in docs/performance.md.
#
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
names=("$@")
if [ $# = 0 ]; then
	names=(bulk_load bulk_edges bulk_peers merge_scd2 merge_upsert pull_local pull_remote pull_small jobs jobs_idle cdc)
fi

printf '%s, %s CPUs, %s; load average %s\n' \
	"$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1)" "$(nproc)" \
	"$(psql -XAtc 'SHOW server_version')" "$(cut -d ' ' -f 1-3 /proc/loadavg)"
for name in "${names[@]}"; do
	[ -f "$here/$name.sh" ] || {
		printf 'run.sh: no benchmark "%s"\n' "$name" >&2
		exit 2
	}
	bash "$here/$name.sh"
done
