check_LTLIBRARIES += libggufgen.la
libggufgen_la_SOURCES = tests/lib/ggufgen.c tests/lib/ggufgen-tiny.c tests/lib/ggufgen.h

check_PROGRAMS += tests/lib/packold
tests_lib_packold_SOURCES = tests/lib/packold-main.c tests/lib/packold.c tests/lib/packold.h
tests_lib_packold_LDADD = libformat.la libkernels.la libbase.la

# The daemon in the test's own process: its main under another name, and a client.
check_LTLIBRARIES += libinproc.la
libinproc_la_SOURCES = daemon/main.c tests/lib/inproc.c tests/lib/inproc.h
libinproc_la_CPPFLAGS = $(libdaemon_la_CPPFLAGS) -Dmain=qllmd_main
libinproc_la_CFLAGS = $(libdaemon_la_CFLAGS) -Wno-missing-prototypes
libinproc_la_LIBADD = libggufgen.la libdaemon.la libengine.la libmodel.la libtext.la libformat.la libkernels.la \
	libproto.la libbase.la -lm
$(libinproc_la_OBJECTS): | proto/qllm.pb-c.h
