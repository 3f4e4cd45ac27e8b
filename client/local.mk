# libclient.la: libqllm's code, hidden symbols and all, for its unit tests; libqllm.la: the library itself.
noinst_LTLIBRARIES += libclient.la
libclient_la_SOURCES = client/call.c client/conn.c client/conn.h client/error.c client/qllm.h client/stream.c
libclient_la_CFLAGS = $(AM_CFLAGS) $(PROTOBUFC_CFLAGS)
libclient_la_LIBADD = libproto.la libbase.la
$(libclient_la_OBJECTS): | proto/qllm.pb-c.h

lib_LTLIBRARIES += libqllm.la
libqllm_la_SOURCES =
libqllm_la_LIBADD = libclient.la
libqllm_la_LDFLAGS = $(AM_LDFLAGS) -version-info 0:0:0 -no-undefined -Wl,--version-script=$(top_srcdir)/client/libqllm.sym
EXTRA_libqllm_la_DEPENDENCIES = $(top_srcdir)/client/libqllm.sym
include_HEADERS += client/qllm.h
nodist_pkgconfig_DATA += client/qllm.pc
EXTRA_DIST += client/libqllm.sym client/qllm.pc.in
CLEANFILES += client/qllm.pc
client/qllm.pc: $(top_srcdir)/client/qllm.pc.in Makefile
	@$(MKDIR_P) client
	$(AM_V_GEN)$(SED) -e 's|@prefix[@]|$(prefix)|' -e 's|@exec_prefix[@]|$(exec_prefix)|' \
		-e 's|@libdir[@]|$(libdir)|' -e 's|@includedir[@]|$(includedir)|' \
		-e 's|@PACKAGE_VERSION[@]|$(PACKAGE_VERSION)|' $(top_srcdir)/client/qllm.pc.in >$@

# The examples are built against the public header only, as a program outside would be, and run by tests/system.
check_PROGRAMS += examples/blocking examples/poll
examples_blocking_SOURCES = client/examples/blocking.c
examples_poll_SOURCES = client/examples/poll.c
examples_blocking_CPPFLAGS = -I$(top_srcdir)/client
examples_poll_CPPFLAGS = -I$(top_srcdir)/client
examples_blocking_LDADD = libqllm.la
examples_poll_LDADD = libqllm.la
if HAVE_GLIB
check_PROGRAMS += examples/glib
examples_glib_SOURCES = client/examples/glib.c
examples_glib_CPPFLAGS = -I$(top_srcdir)/client
examples_glib_CFLAGS = $(AM_CFLAGS) $(GLIB_CFLAGS)
examples_glib_LDADD = libqllm.la $(GLIB_LIBS)
endif

# libctl.la: qllmctl without main, for its unit tests.
noinst_LTLIBRARIES += libctl.la
libctl_la_SOURCES = \
	client/ctl.c client/ctl.h client/ctl-args.c client/ctl-bench.c client/ctl-call.c client/ctl-client.c \
	client/ctl-completion.c client/ctl-config.c client/ctl-daemon.c client/ctl-doctor.c client/ctl-metrics.c \
	client/ctl-monitor.c client/ctl-top.c \
	client/ctl-help.c client/ctl-ids.c client/ctl-io.c client/ctl-export.c client/ctl-jobs.c client/ctl-models.c client/ctl-run.c client/ctl-text.c \
	client/npy.c client/out.c
libctl_la_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS) $(LIBEDIT_CFLAGS)
libctl_la_LIBADD = libqllm.la libbase.la $(JANSSON_LIBS) $(LIBEDIT_LIBS) -lm
bin_PROGRAMS += qllmctl
qllmctl_SOURCES = client/ctl-main.c
qllmctl_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
qllmctl_LDADD = libctl.la

# Completion scripts are what the built qllmctl says, so they know what it knows.
bashcompletiondir = $(datadir)/bash-completion/completions
zshcompletiondir = $(datadir)/zsh/site-functions
fishcompletiondir = $(datadir)/fish/vendor_completions.d
nodist_bashcompletion_DATA = completion/bash/qllmctl
nodist_zshcompletion_DATA = completion/zsh/_qllmctl
nodist_fishcompletion_DATA = completion/fish/qllmctl.fish
completion_scripts = $(nodist_bashcompletion_DATA) $(nodist_zshcompletion_DATA) $(nodist_fishcompletion_DATA)
CLEANFILES += $(completion_scripts)
$(completion_scripts): qllmctl$(EXEEXT)
	@$(MKDIR_P) $(@D)
	$(AM_V_GEN)./qllmctl$(EXEEXT) completion $$(basename $(@D)) >$@.new && mv $@.new $@
