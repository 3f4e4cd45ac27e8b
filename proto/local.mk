noinst_LTLIBRARIES += libproto.la
libproto_la_SOURCES = \
	proto/frame.c proto/frame.h proto/hello.h proto/msg.c proto/msg.h proto/ring.c proto/ring.h
nodist_libproto_la_SOURCES = proto/qllm.pb-c.c proto/qllm.pb-c.h
libproto_la_CFLAGS = $(AM_CFLAGS) $(PROTOBUFC_CFLAGS)
libproto_la_LIBADD = $(PROTOBUFC_LIBS)
EXTRA_DIST += proto/qllm.proto
BUILT_SOURCES += proto/qllm.pb-c.h
CLEANFILES += proto/qllm.pb-c.c proto/qllm.pb-c.h
# Other folders that include proto headers add the same order-only line for their objects.
$(libproto_la_OBJECTS): | proto/qllm.pb-c.h
proto/qllm.pb-c.h: proto/qllm.pb-c.c
	@:
proto/qllm.pb-c.c: $(top_srcdir)/proto/qllm.proto
	@$(MKDIR_P) proto
	$(AM_V_GEN)$(PROTOC_C) --proto_path=$(top_srcdir)/proto --c_out=proto $(top_srcdir)/proto/qllm.proto
