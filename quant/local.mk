# qllm-worker: one job, by hand or for the daemon; lives in libexec/qllmd.
noinst_LTLIBRARIES += libquant.la
libquant_la_SOURCES = quant/cmd.h quant/cmd-pack.c quant/cmd-verify.c quant/packer.c quant/packer.h quant/pipeline.c \
	quant/pipeline.h quant/serve.c quant/uring.c quant/uring.h
libquant_la_CFLAGS = $(AM_CFLAGS) $(SYSTEMD_CFLAGS) $(PROTOBUFC_CFLAGS) $(JANSSON_CFLAGS) $(URING_CFLAGS) \
	$(XXHASH_CFLAGS)
libquant_la_LIBADD = $(SYSTEMD_LIBS) $(JANSSON_LIBS) $(URING_LIBS)
$(libquant_la_OBJECTS): | proto/qllm.pb-c.h

pkglibexec_PROGRAMS += qllm-worker
qllm_worker_SOURCES = quant/main.c
qllm_worker_CPPFLAGS = $(AM_CPPFLAGS) -DQLLM_VERSION='"$(PACKAGE_VERSION)"'
qllm_worker_CFLAGS = $(AM_CFLAGS) $(PROTOBUFC_CFLAGS)
qllm_worker_LDADD = libquant.la libmodel.la libtext.la libformat.la libkernels.la libproto.la libbase.la -lm
$(qllm_worker_OBJECTS): | proto/qllm.pb-c.h
