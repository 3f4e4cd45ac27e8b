# tests/fuzz: one program a parser. With --enable-fuzzers libFuzzer drives them (tests/fuzz/run); otherwise, and in
# `make check`, each replays its corpus, tests/fuzz/corpus/<name>. Libraries: highest layer first.
FUZZ_TARGETS = tests/fuzz/config tests/fuzz/frame tests/fuzz/gguf tests/fuzz/jinja tests/fuzz/jobfile \
	tests/fuzz/packfile tests/fuzz/ring tests/fuzz/tokbuild tests/fuzz/tokenize
check_PROGRAMS += $(FUZZ_TARGETS)
if ENABLE_FUZZERS
FUZZ_MAIN =
FUZZ_LINK = $(AM_LDFLAGS) -fsanitize=fuzzer
else
FUZZ_MAIN = tests/fuzz/replay.c
FUZZ_LINK = $(AM_LDFLAGS)
TESTS += $(FUZZ_TARGETS)
endif
EXTRA_DIST += tests/fuzz/replay.c tests/fuzz/run
FUZZ_TEXT_LIBS = libggufgen.la libtext.la libformat.la libkernels.la libbase.la

tests_fuzz_config_SOURCES = tests/fuzz/config.c tests/fuzz/fuzz.h $(FUZZ_MAIN) daemon/config.c daemon/config-table.c
tests_fuzz_config_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_config_LDADD = libbase.la $(INIH_LIBS)

tests_fuzz_frame_SOURCES = tests/fuzz/frame.c tests/fuzz/fuzz.h $(FUZZ_MAIN)
tests_fuzz_frame_CPPFLAGS = $(AM_CPPFLAGS) $(PROTOBUFC_CFLAGS)
tests_fuzz_frame_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_frame_LDADD = libinproc.la
$(tests_fuzz_frame_OBJECTS): | proto/qllm.pb-c.h

tests_fuzz_gguf_SOURCES = tests/fuzz/gguf.c tests/fuzz/fuzz.h $(FUZZ_MAIN)
tests_fuzz_gguf_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
tests_fuzz_gguf_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_gguf_LDADD = libggufgen.la libmodel.la libtext.la libformat.la libkernels.la libbase.la $(JANSSON_LIBS)

tests_fuzz_jinja_SOURCES = tests/fuzz/jinja.c tests/fuzz/fuzz.h $(FUZZ_MAIN)
tests_fuzz_jinja_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
tests_fuzz_jinja_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_jinja_LDADD = libtext.la libformat.la libkernels.la libbase.la $(JANSSON_LIBS)

tests_fuzz_jobfile_SOURCES = tests/fuzz/jobfile.c tests/fuzz/fuzz.h $(FUZZ_MAIN) daemon/jobfile.c
tests_fuzz_jobfile_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
tests_fuzz_jobfile_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_jobfile_LDADD = libbase.la $(JANSSON_LIBS)

tests_fuzz_packfile_SOURCES = tests/fuzz/packfile.c tests/fuzz/fuzz.h tests/lib/packold.c tests/lib/packold.h $(FUZZ_MAIN)
tests_fuzz_packfile_CPPFLAGS = $(AM_CPPFLAGS) $(PROTOBUFC_CFLAGS)
tests_fuzz_packfile_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_packfile_LDADD = libggufgen.la libquant.la libmodel.la libtext.la libformat.la libkernels.la libproto.la \
	libbase.la -lm
$(tests_fuzz_packfile_OBJECTS): | proto/qllm.pb-c.h

tests_fuzz_ring_SOURCES = tests/fuzz/ring.c tests/fuzz/fuzz.h $(FUZZ_MAIN)
tests_fuzz_ring_CPPFLAGS = $(AM_CPPFLAGS) $(PROTOBUFC_CFLAGS)
tests_fuzz_ring_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_ring_LDADD = libclient.la
$(tests_fuzz_ring_OBJECTS): | proto/qllm.pb-c.h

tests_fuzz_tokbuild_SOURCES = tests/fuzz/tokbuild.c tests/fuzz/fuzz.h $(FUZZ_MAIN)
tests_fuzz_tokbuild_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_tokbuild_LDADD = $(FUZZ_TEXT_LIBS)

tests_fuzz_tokenize_SOURCES = tests/fuzz/tokenize.c tests/fuzz/fuzz.h $(FUZZ_MAIN)
tests_fuzz_tokenize_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_tokenize_LDADD = $(FUZZ_TEXT_LIBS)
