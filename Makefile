# etl_patterns: ETL patterns as SQL functions.
#
#   make                 build against the pg_config in PATH, or PG_CONFIG=...
#   make install         install what was built
#   make installcheck    run every suite against a server that is running
#   make demo            see it work on a throw-away server
#   make test            run every suite on a throw-away server
#   make sanitize        the tests of what reads bytes from outside, under
#                        sanitizers
#   make test-versions   the suites on each major version that Debian has
#   make torture         the random and kill -9 tests at full length
#   make bench           measure against what one would use instead
#   make lint, format    check, or apply, the code's layout
#   make dist            an archive for PGXN
#   make deb             a Debian package, for the PostgreSQL of PG_CONFIG
#
# demo, test, torture and bench bring what they need: see test/setup.sh, and
# test/versions.sh for test-versions.

EXTENSION = etl_patterns
MODULE_big = etl_patterns

here := $(patsubst ./%,%,$(dir $(firstword $(MAKEFILE_LIST))))
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'.*/\1/p" $(here)etl_patterns.control)

# The library, in floor order: a lower floor never includes a higher one.
OBJS = src/etl_patterns.o

# base: helpers that every room uses
OBJS += \
	src/base/guard.o \
	src/base/names.o \
	src/base/option.o \
	src/base/plain_text.o \
	src/base/reject.o \
	src/base/values.o

# ledger: what ran, how far, what was rejected
OBJS += \
	src/ledger/ledger.o \
	src/ledger/progress.o \
	src/ledger/run.o \
	src/ledger/stat_runs.o \
	src/ledger/stat_memory.o \
	src/ledger/stat_kind.o \
	src/ledger/dead_letter.o \
	src/ledger/loaded_file.o \
	src/ledger/watermark.o

# source: where rows come from
OBJS += \
	src/source/stream.o \
	src/source/files.o \
	src/source/csv_reader.o \
	src/source/csv_plain.o \
	src/source/csv_scan.o \
	src/source/csv_resync.o \
	src/source/csv_part.o \
	src/source/csv_split.o \
	src/source/encoding.o \
	src/source/convert.o \
	src/source/convert_number.o \
	src/source/convert_datetime.o \
	src/source/convert_text.o \
	src/source/convert_json.o \
	src/source/row_form.o \
	src/source/feed.o \
	src/source/bulk_pack.o \
	src/source/bulk_workers.o \
	src/source/bulk_worker.o \
	src/source/bulk_feed.o \
	src/source/rows.o \
	src/source/site.o \
	src/source/site_local.o \
	src/source/base_tables.o \
	src/source/remote.o \
	src/source/remote_connection.o \
	src/source/remote_copy.o \
	src/source/remote_decode.o \
	src/source/spool.o \
	src/source/change_queue.o \
	src/source/wal_link.o \
	src/source/wal_wake.o \
	src/source/wal_tables.o \
	src/source/wal_decode.o \
	src/source/wal_spool.o \
	src/source/wal_local.o \
	src/source/wal_remote.o \
	src/source/wal_publication.o \
	src/source/wal_pgoutput.o

# sink: how rows land
OBJS += \
	src/sink/sink.o \
	src/sink/columns.o \
	src/sink/row_slot.o \
	src/sink/append_writer.o \
	src/sink/append_probe.o \
	src/sink/append_guarded.o \
	src/sink/append_heap.o \
	src/sink/append_keys.o \
	src/sink/append_query.o \
	src/sink/append_sql.o \
	src/sink/indexes.o \
	src/sink/merge.o \
	src/sink/merge_input.o \
	src/sink/merge_absent.o \
	src/sink/merge_scan.o \
	src/sink/merge_query.o \
	src/sink/merge_probe.o \
	src/sink/merge_filter_scan.o \
	src/sink/merge_print.o \
	src/sink/merge_filter.o \
	src/sink/merge_known.o \
	src/sink/merge_group.o \
	src/sink/merge_tie.o \
	src/sink/merge_upsert.o \
	src/sink/merge_scd2.o \
	src/sink/merge_steps.o \
	src/sink/merge_timeline.o \
	src/sink/merge_versions.o \
	src/sink/merge_write.o \
	src/sink/merge_write_heap.o \
	src/sink/merge_write_sql.o \
	src/sink/merge_table.o \
	src/sink/apply.o \
	src/sink/apply_expression.o \
	src/sink/apply_map.o \
	src/sink/apply_write.o \
	src/sink/change_letter.o \
	src/sink/apply_event.o \
	src/sink/apply_changelog.o \
	src/sink/apply_function.o \
	src/sink/change_envelope.o \
	src/sink/change_json.o \
	src/sink/apply_append.o \
	src/sink/apply_mirror.o \
	src/sink/apply_mirror_key.o \
	src/sink/apply_mirror_fold.o \
	src/sink/apply_mirror_heap.o \
	src/sink/apply_mirror_sql.o

# flow: the patterns, callable from SQL
OBJS += \
	src/flow/args.o \
	src/flow/format.o \
	src/flow/layout.o \
	src/flow/load.o \
	src/flow/bulk_copy.o \
	src/flow/bulk_file.o \
	src/flow/bulk_parallel.o \
	src/flow/after_load.o \
	src/flow/dead_letter.o \
	src/flow/replay.o \
	src/flow/replay_changes.o \
	src/flow/infer.o \
	src/flow/watermark.o \
	src/flow/incremental_pull.o \
	src/flow/pull_call.o \
	src/flow/pull_repeat.o \
	src/flow/pull_columns.o \
	src/flow/pull_range.o \
	src/flow/pull_safety.o \
	src/flow/pull_wait.o \
	src/flow/pull_append.o \
	src/flow/pull_options.o \
	src/flow/pull_merge.o \
	src/flow/pull_flags.o \
	src/flow/pull_lag.o \
	src/flow/assign.o \
	src/flow/merge_spec.o \
	src/flow/merge_source.o \
	src/flow/merge_flow.o \
	src/flow/scd2.o \
	src/flow/upsert.o \
	src/flow/companion.o \
	src/flow/tombstone.o \
	src/flow/change_log.o \
	src/flow/change_log_table.o \
	src/flow/cdc_table.o \
	src/flow/cdc_source.o \
	src/flow/cdc_check.o \
	src/flow/cdc_apply.o \
	src/flow/cdc_followed.o \
	src/flow/cdc_copy.o \
	src/flow/cdc_copy_remote.o \
	src/flow/cdc_catch_up.o \
	src/flow/cdc_error.o \
	src/flow/cdc_letters.o \
	src/flow/cdc_scd2.o \
	src/flow/cdc_scd2_columns.o \
	src/flow/cdc_changelog.o \
	src/flow/scd2_create.o \
	src/flow/scd2_verify.o

# worker: when things run
OBJS += \
	src/worker/schedule.o \
	src/worker/schedule_next.o \
	src/worker/shared.o \
	src/worker/cdc_shared.o \
	src/worker/job_table.o \
	src/worker/job_run_table.o \
	src/worker/claim.o \
	src/worker/run_state.o \
	src/worker/retry.o \
	src/worker/arm.o \
	src/worker/alert.o \
	src/worker/history.o \
	src/worker/signal.o \
	src/worker/file_event.o \
	src/worker/job_check.o \
	src/worker/job_functions.o \
	src/worker/job_control.o \
	src/worker/cdc_server.o \
	src/worker/cdc_slot.o \
	src/worker/cdc_functions.o \
	src/worker/cdc_control.o \
	src/worker/cdc_status.o \
	src/worker/launcher.o \
	src/worker/database_hook.o \
	src/worker/scheduler_status.o \
	src/worker/execute.o \
	src/worker/job_worker.o \
	src/worker/cdc_worker.o \
	src/worker/dispatch.o \
	src/worker/scheduler_known.o \
	src/worker/scheduler_work.o \
	src/worker/scheduler_cdc.o \
	src/worker/scheduler.o \
	src/worker/caller_session.o \
	src/worker/due.o \
	src/worker/run_due.o

# For make sanitize: memory whose bounds a sanitizer knows.
ifdef SANITIZE
OBJS += test/sanitize/contexts.o
endif

# The install script is these parts, joined in this order.
SQL_PARTS = \
	src/etl_patterns.sql \
	src/ledger/ledger.sql \
	src/ledger/stat_runs.sql \
	src/flow/bulk_copy.sql \
	src/flow/dead_letter.sql \
	src/flow/infer.sql \
	src/flow/scd2.sql \
	src/flow/upsert.sql \
	src/flow/scd2_tools.sql \
	src/flow/watermark.sql \
	src/flow/incremental_pull.sql \
	src/flow/cdc_tables.sql \
	src/flow/cdc_changelog.sql \
	src/worker/job_tables.sql \
	src/worker/schedule.sql \
	src/worker/jobs.sql \
	src/worker/cdc.sql \
	src/worker/shared.sql \
	src/worker/signal.sql \
	src/worker/alert.sql \
	src/worker/history.sql \
	src/worker/job_status.sql \
	src/worker/cdc_status.sql \
	src/worker/run_due.sql

INSTALL_SCRIPT_SQL = $(EXTENSION)--$(EXTVERSION).sql
DATA_built = $(INSTALL_SCRIPT_SQL)

# The versions before, and what leads from them to this one.
DATA = $(patsubst $(here)%,%,$(sort $(wildcard $(here)src/upgrade/$(EXTENSION)--*.sql)))

PG_CPPFLAGS = -I$(srcdir)/src -I$(libpq_srcdir) -DETL_VERSION='"$(EXTVERSION)"'
# PostgreSQL's own headers leave parameters unused.
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter
ifdef SANITIZE
PG_CPPFLAGS += -include $(srcdir)/test/sanitize/contexts.h
PG_CFLAGS += -g -fno-omit-frame-pointer -fsanitize=address,undefined
endif
SHLIB_LINK_INTERNAL = $(libpq)
SHLIB_LINK = -lcsv -lz -lzstd

REGRESS = $(sort $(patsubst $(here)sql/%.sql,%,$(wildcard $(here)sql/*.sql)))
ISOLATION = $(sort $(patsubst $(here)test/isolation/specs/%.spec,%,$(wildcard $(here)test/isolation/specs/*.spec)))
ISOLATION_OPTS = --inputdir=$(srcdir)/test/isolation
TAP_TESTS = 1
# The long versions are for make torture, which names them itself.
PROVE_TESTS = $(patsubst $(here)%,%,$(filter-out %_torture.pl,$(sort $(wildcard $(here)test/t/*.pl))))

EXTRA_CLEAN = output_iso results regression.diffs regression.out tmp_check \
	$(EXTENSION)-*.zip postgresql-*-etl-patterns_*.deb

# A fresh machine has neither pg_config nor PGXS: then only the targets that
# install them work.
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)

ifneq ($(wildcard $(PGXS)),)
include $(PGXS)

# PGXS tracks no headers here, so every object waits for all of them.
$(OBJS): $(wildcard $(here)src/*.h $(here)src/*/*.h)

$(INSTALL_SCRIPT_SQL): $(SQL_PARTS) etl_patterns.control Makefile
	(cd $(srcdir) && for part in $(SQL_PARTS); do \
		printf -- '-- %s\n\n' "$$part" && cat "$$part" && echo || exit 1; \
	done) >$@

# A part that is missing must not leave half a script.
.DELETE_ON_ERROR:

# Built elsewhere, the objects need their folders.
ifdef VPATH
$(OBJS): | objdirs
$(OBJS:.o=.bc): | objdirs
objdirs:
	$(MKDIR_P) $(sort $(dir $(OBJS)))
.PHONY: objdirs
endif

else
all install uninstall clean installcheck:
	@echo "PostgreSQL's build files (PGXS) are missing." >&2
	@echo "Name another pg_config with PG_CONFIG=..., or run $(here)test/setup.sh packages." >&2
	@exit 1
.PHONY: all install uninstall clean installcheck
endif

export PG_CONFIG

SOURCES = $(wildcard $(here)src/*.[ch] $(here)src/*/*.[ch])

demo test torture bench sanitize:
	$(here)test/setup.sh $@

dist deb:
	$(here).package/build $@

test-versions:
	$(here)test/versions.sh

# cppcheck sees none of PostgreSQL's headers: it is told of the macros that
# stand for syntax, and not that ereport(ERROR) does not come back.
CPPCHECK_FLAGS = --quiet --error-exitcode=1 --inline-suppr \
	--enable=warning,portability --suppress=nullPointerRedundantCheck \
	-DPG_VERSION_NUM=150000 '-Dforeach(cell,list)=for (;;)' \
	'-Dforboth(cell1,list1,cell2,list2)=for (;;)'

lint:
	clang-format --dry-run -Werror $(SOURCES)
	cppcheck $(CPPCHECK_FLAGS) -I $(here)src $(here)src

format:
	clang-format -i $(SOURCES)

.PHONY: demo test test-versions torture bench sanitize lint format dist deb
