#!/usr/bin/env bash
#
# build.sh PROGRAM WHAT: builds the fuzzer of the CSV reader (csv) or of the
# messages of another server's changes (pgoutput), with sanitizers where the
# compiler has them.  CHUNK is the size of the CSV reader's buffer at first.
# LIBFUZZER=1 builds it with clang's libFuzzer.
#
set -euo pipefail

program=$1
what=$2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Beside a private installation it is the one that has headers.
pg_config=${BUILD_PG_CONFIG:-${PG_CONFIG:-pg_config}}
flags=(-g -O1 -w -D_GNU_SOURCE -DUSE_ASSERT_CHECKING
	-DETL_CSV_CHUNK=${CHUNK:-32} -DETL_CSV_LOOKAHEAD=1024 -DETL_CSV_MAX_RECORD=4096)
cc=${CC:-cc}
sanitizers=-fsanitize=address,undefined

case $what in
	csv) sources=("$root"/src/source/csv_*.c "$root"/src/source/encoding.c) ;;
	pgoutput) sources=("$root"/test/fuzz/catalog.c) && flags+=(-DMAX_DESCRIBED=5000) ;;
	*) echo "build.sh: no fuzzer \"$what\"" >&2 && exit 2 ;;
esac

if [ -n "${LIBFUZZER:-}" ]; then
	cc=clang
	flags+=(-DLIBFUZZER)
	sanitizers=-fsanitize=fuzzer,address,undefined
elif ! echo 'int main(void) { return 0; }' | "$cc" $sanitizers -x c - -o "$program" 2>/dev/null; then
	echo "the compiler has no sanitizers: without them" >&2
	sanitizers=
fi

exec "$cc" "${flags[@]}" $sanitizers -fno-sanitize-recover=all -fno-omit-frame-pointer \
	-I"$root/src" -I"$root/test/fuzz" -I"$($pg_config --includedir-server)" -I"$($pg_config --includedir)" \
	"$root"/test/fuzz/{driver,backend,"$what"_fuzz}.c "${sources[@]}" \
	-L"$($pg_config --pkglibdir)" -L"$($pg_config --libdir)" -lpgcommon -lpgport -lcsv -lm -o "$program"
