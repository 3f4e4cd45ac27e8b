noinst_LTLIBRARIES += libdaemon.la
libdaemon_la_SOURCES = \
	daemon/auth.c daemon/auth.h daemon/call.c daemon/call.h daemon/config.c daemon/config.h daemon/config-table.c \
	daemon/conn.c daemon/conn.h daemon/daemon.h daemon/dispatch.c daemon/dispatch.h daemon/eval.c daemon/eval.h \
	daemon/foreign.c daemon/foreign.h daemon/jobfile.c daemon/jobfile.h daemon/jobs.c daemon/jobs.h \
	daemon/journal.c daemon/journal.h daemon/listen.c daemon/listen.h \
	daemon/metrics.c daemon/metrics.h daemon/models.c daemon/models.h \
	daemon/notify.c daemon/notify.h daemon/req-config.c daemon/req-metrics.c \
	daemon/prompt.c daemon/prompt.h daemon/req-client.c daemon/req-eval.c daemon/req-generate.c daemon/req-jobs.c \
	daemon/req-load.c daemon/req-logits.c \
	daemon/req-models.c daemon/req-show.c daemon/req-status.c daemon/req-text.c daemon/store.c daemon/store.h \
	daemon/spawn.c daemon/spawn.h \
	daemon/stream.c daemon/stream.h daemon/user.c daemon/user.h daemon/work.c daemon/work.h
libdaemon_la_CPPFLAGS = $(AM_CPPFLAGS) -DQLLM_VERSION='"$(PACKAGE_VERSION)"'
libdaemon_la_CFLAGS = $(AM_CFLAGS) $(SYSTEMD_CFLAGS) $(PROTOBUFC_CFLAGS) $(JANSSON_CFLAGS) $(INIH_CFLAGS)
libdaemon_la_LIBADD = $(SYSTEMD_LIBS) $(JANSSON_LIBS) $(INIH_LIBS)
$(libdaemon_la_OBJECTS): | proto/qllm.pb-c.h

sbin_PROGRAMS += qllmd
qllmd_SOURCES = daemon/main.c
qllmd_CPPFLAGS = $(libdaemon_la_CPPFLAGS)
qllmd_CFLAGS = $(libdaemon_la_CFLAGS)
qllmd_LDADD = libdaemon.la libengine.la libmodel.la libtext.la libformat.la libkernels.la libproto.la libbase.la -lm
$(qllmd_OBJECTS): | proto/qllm.pb-c.h
