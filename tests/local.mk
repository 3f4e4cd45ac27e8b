# tests: lints, which need no build, and everything that ./check runs beside `make check`.
LINTS = tests/lint-layers.sh tests/lint-man.sh tests/lint-size.sh tests/lint-words.sh
dist_check_SCRIPTS += $(LINTS)
TESTS += $(LINTS)

# ./check is copied by hand: as a file to distribute it would mean make's own target of that name. The
# folders of golden vectors and benches go as they are.
EXTRA_DIST += .ci/run demo tests/README.md tests/lib/count-results.sh tests/lib/fetch-models.sh \
	tests/lib/requirements.txt tests/lib/setup.sh
dist-hook:
	cp -fp $(srcdir)/check $(distdir)/check
	$(MKDIR_P) $(distdir)/tests/golden $(distdir)/tests/bench
	cp -fpR $(srcdir)/tests/golden/[a-z]* $(distdir)/tests/golden/
	cp -fpR $(srcdir)/tests/bench/[a-z]* $(distdir)/tests/bench/
	cp -fpR $(srcdir)/tests/fuzz/corpus $(distdir)/tests/fuzz/

# For tuning by hand: built by `make tests/bench/bench-exec`, part of no check.
EXTRA_PROGRAMS = tests/bench/bench-exec
tests_bench_bench_exec_SOURCES = tests/bench/bench-exec.c
tests_bench_bench_exec_LDADD = libengine.la libmodel.la libtext.la libformat.la libkernels.la libbase.la

# Clients with clocks of their own, for tests/bench and tests/system.
check_PROGRAMS += tests/bench/stream
tests_bench_stream_SOURCES = tests/bench/stream.c
tests_bench_stream_LDADD = libqllm.la

# What the cores could compute, for tests/bench/compare.py.
check_PROGRAMS += tests/bench/peak
tests_bench_peak_SOURCES = tests/bench/peak.c

# Instruction counts of kernels: gates.py runs gates under callgrind.
check_PROGRAMS += tests/bench/gates
tests_bench_gates_SOURCES = tests/bench/gates.c
tests_bench_gates_LDADD = libkernels.la libbase.la
dist_check_SCRIPTS += tests/bench/gates.py
TESTS += tests/bench/gates.py
EXTRA_DIST += tests/bench/gates.txt
