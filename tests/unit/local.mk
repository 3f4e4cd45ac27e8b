# tests/unit: one cmocka program for each subject, run by `make check`. To add one, append
#
#   check_PROGRAMS += tests/unit/test-foo
#   tests_unit_test_foo_SOURCES = tests/unit/test-foo.c
#   tests_unit_test_foo_CPPFLAGS = $(UNIT_CPPFLAGS)
#   tests_unit_test_foo_LDADD = libfoo.la libbase.la $(UNIT_LIBS)
#   UNIT_TESTS += tests/unit/test-foo
#
# inside the condition below. Libraries: highest layer first; add $(XXHASH_LIBS) and its kin only when
# the convenience library does not name them in its LIBADD. Tests find files under $(QLLM_SRCDIR) and
# print cmocka's own messages, which ./check counts.
UNIT_CPPFLAGS = $(AM_CPPFLAGS) $(CMOCKA_CFLAGS)
UNIT_LIBS = $(CMOCKA_LIBS)
UNIT_TESTS =
AM_TESTS_ENVIRONMENT = QLLM_SRCDIR='$(abs_top_srcdir)' QLLM_BUILDDIR='$(abs_top_builddir)' \
	CMOCKA_MESSAGE_OUTPUT=stdout; \
	export QLLM_SRCDIR QLLM_BUILDDIR CMOCKA_MESSAGE_OUTPUT;

if HAVE_CMOCKA
check_PROGRAMS += tests/unit/test-base
tests_unit_test_base_SOURCES = tests/unit/test-base.c
tests_unit_test_base_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_base_LDADD = libbase.la $(UNIT_LIBS)
UNIT_TESTS += tests/unit/test-base

check_PROGRAMS += tests/unit/test-pool
tests_unit_test_pool_SOURCES = tests/unit/test-pool.c
tests_unit_test_pool_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_pool_LDADD = libbase.la $(UNIT_LIBS)
UNIT_TESTS += tests/unit/test-pool

check_PROGRAMS += tests/unit/test-kv
tests_unit_test_kv_SOURCES = tests/unit/test-kv.c
tests_unit_test_kv_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_kv_LDADD = libengine.la libkernels.la libbase.la $(UNIT_LIBS)
UNIT_TESTS += tests/unit/test-kv

check_PROGRAMS += tests/unit/test-gguf
tests_unit_test_gguf_SOURCES = tests/unit/test-gguf.c
tests_unit_test_gguf_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_gguf_LDADD = libggufgen.la libformat.la libkernels.la libbase.la $(UNIT_LIBS)
UNIT_TESTS += tests/unit/test-gguf

check_PROGRAMS += tests/unit/test-pipeline
tests_unit_test_pipeline_SOURCES = tests/unit/test-pipeline.c
tests_unit_test_pipeline_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_pipeline_LDADD = libquant.la libbase.la $(UNIT_LIBS)
UNIT_TESTS += tests/unit/test-pipeline

check_PROGRAMS += tests/unit/test-packfile
tests_unit_test_packfile_SOURCES = tests/unit/test-packfile.c tests/lib/packold.c tests/lib/packold.h
tests_unit_test_packfile_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_packfile_CFLAGS = $(AM_CFLAGS) $(PROTOBUFC_CFLAGS)
tests_unit_test_packfile_LDADD = libggufgen.la libquant.la libmodel.la libtext.la libformat.la libkernels.la \
	libproto.la libbase.la -lm $(UNIT_LIBS)
$(tests_unit_test_packfile_OBJECTS): | proto/qllm.pb-c.h
UNIT_TESTS += tests/unit/test-packfile

check_PROGRAMS += tests/unit/test-weightmap
tests_unit_test_weightmap_SOURCES = tests/unit/test-weightmap.c
tests_unit_test_weightmap_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_weightmap_LDADD = libformat.la libbase.la $(UNIT_LIBS)
UNIT_TESTS += tests/unit/test-weightmap

check_PROGRAMS += tests/unit/test-client
tests_unit_test_client_SOURCES = tests/unit/test-client.c
tests_unit_test_client_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_client_CFLAGS = $(AM_CFLAGS) $(PROTOBUFC_CFLAGS)
tests_unit_test_client_LDADD = libclient.la $(UNIT_LIBS)
$(tests_unit_test_client_OBJECTS): | proto/qllm.pb-c.h
UNIT_TESTS += tests/unit/test-client

check_PROGRAMS += tests/unit/test-ctl
tests_unit_test_ctl_SOURCES = tests/unit/test-ctl.c
tests_unit_test_ctl_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_ctl_LDADD = libctl.la $(UNIT_LIBS) $(JANSSON_LIBS)
UNIT_TESTS += tests/unit/test-ctl

check_PROGRAMS += tests/unit/test-sampler
tests_unit_test_sampler_SOURCES = tests/unit/test-sampler.c
tests_unit_test_sampler_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_sampler_LDADD = libengine.la libbase.la $(UNIT_LIBS) -lm
UNIT_TESTS += tests/unit/test-sampler

check_PROGRAMS += tests/unit/test-pace
tests_unit_test_pace_SOURCES = tests/unit/test-pace.c
tests_unit_test_pace_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_pace_LDADD = libengine.la libbase.la $(UNIT_LIBS) -lm
UNIT_TESTS += tests/unit/test-pace

check_PROGRAMS += tests/unit/test-sched
tests_unit_test_sched_SOURCES = tests/unit/test-sched.c
tests_unit_test_sched_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_sched_LDADD = libengine.la libbase.la $(UNIT_LIBS) -lm
UNIT_TESTS += tests/unit/test-sched

check_PROGRAMS += tests/unit/test-engine
tests_unit_test_engine_SOURCES = tests/unit/test-engine.c tests/unit/engine-jobs.h
tests_unit_test_engine_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_engine_LDADD = libggufgen.la libengine.la libmodel.la libtext.la libformat.la libkernels.la libbase.la \
	$(UNIT_LIBS) -lm
UNIT_TESTS += tests/unit/test-engine
check_PROGRAMS += tests/unit/test-engine-share
tests_unit_test_engine_share_SOURCES = tests/unit/test-engine-share.c tests/unit/engine-jobs.h
tests_unit_test_engine_share_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_engine_share_LDADD = $(tests_unit_test_engine_LDADD)
UNIT_TESTS += tests/unit/test-engine-share

check_PROGRAMS += tests/unit/test-prefix
tests_unit_test_prefix_SOURCES = tests/unit/test-prefix.c tests/unit/engine-jobs.h
tests_unit_test_prefix_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_prefix_LDADD = $(tests_unit_test_engine_LDADD)
UNIT_TESTS += tests/unit/test-prefix

check_PROGRAMS += tests/unit/test-attn
tests_unit_test_attn_SOURCES = tests/unit/test-attn.c tests/unit/exec-steps.h
tests_unit_test_attn_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_attn_LDADD = $(tests_unit_test_engine_LDADD)
UNIT_TESTS += tests/unit/test-attn

check_PROGRAMS += tests/unit/test-window
tests_unit_test_window_SOURCES = tests/unit/test-window.c tests/unit/engine-jobs.h
tests_unit_test_window_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_window_LDADD = $(tests_unit_test_engine_LDADD)
UNIT_TESTS += tests/unit/test-window

check_PROGRAMS += tests/unit/test-spec
tests_unit_test_spec_SOURCES = tests/unit/test-spec.c tests/unit/engine-jobs.h
tests_unit_test_spec_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_spec_LDADD = $(tests_unit_test_engine_LDADD)
UNIT_TESTS += tests/unit/test-spec

check_PROGRAMS += tests/unit/test-tok
tests_unit_test_tok_SOURCES = tests/unit/test-tok.c
tests_unit_test_tok_CPPFLAGS = $(UNIT_CPPFLAGS) $(JANSSON_CFLAGS)
tests_unit_test_tok_LDADD = libtext.la libformat.la libkernels.la libbase.la $(JANSSON_LIBS) $(UNIT_LIBS)
UNIT_TESTS += tests/unit/test-tok

check_PROGRAMS += tests/unit/test-proto
tests_unit_test_proto_SOURCES = tests/unit/test-proto.c
tests_unit_test_proto_CPPFLAGS = $(UNIT_CPPFLAGS) $(PROTOBUFC_CFLAGS)
tests_unit_test_proto_LDADD = libproto.la libbase.la $(UNIT_LIBS)
$(tests_unit_test_proto_OBJECTS): | proto/qllm.pb-c.h
UNIT_TESTS += tests/unit/test-proto

check_PROGRAMS += tests/unit/test-ring
tests_unit_test_ring_SOURCES = tests/unit/test-ring.c
tests_unit_test_ring_CPPFLAGS = $(UNIT_CPPFLAGS) $(PROTOBUFC_CFLAGS)
tests_unit_test_ring_LDADD = libproto.la libbase.la $(UNIT_LIBS)
$(tests_unit_test_ring_OBJECTS): | proto/qllm.pb-c.h
UNIT_TESTS += tests/unit/test-ring

check_PROGRAMS += tests/unit/test-config
tests_unit_test_config_SOURCES = tests/unit/test-config.c daemon/config.c daemon/config-table.c
tests_unit_test_config_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_config_LDADD = libbase.la $(INIH_LIBS) $(UNIT_LIBS)
UNIT_TESTS += tests/unit/test-config

check_PROGRAMS += tests/unit/test-jobfile
tests_unit_test_jobfile_SOURCES = tests/unit/test-jobfile.c daemon/jobfile.c
tests_unit_test_jobfile_CPPFLAGS = $(UNIT_CPPFLAGS) $(JANSSON_CFLAGS)
tests_unit_test_jobfile_LDADD = libbase.la $(JANSSON_LIBS) $(UNIT_LIBS)
UNIT_TESTS += tests/unit/test-jobfile

check_PROGRAMS += tests/unit/test-model
tests_unit_test_model_SOURCES = tests/unit/test-model.c
tests_unit_test_model_CPPFLAGS = $(UNIT_CPPFLAGS) $(JANSSON_CFLAGS)
tests_unit_test_model_LDADD = libggufgen.la libmodel.la libtext.la libformat.la libkernels.la libbase.la $(UNIT_LIBS)
UNIT_TESTS += tests/unit/test-model

check_PROGRAMS += tests/unit/test-hostile
tests_unit_test_hostile_SOURCES = tests/unit/test-hostile.c tests/lib/raw.c tests/lib/raw.h
tests_unit_test_hostile_CPPFLAGS = $(UNIT_CPPFLAGS) $(PROTOBUFC_CFLAGS)
tests_unit_test_hostile_LDADD = libggufgen.la libproto.la libformat.la libkernels.la libbase.la $(UNIT_LIBS)
EXTRA_tests_unit_test_hostile_DEPENDENCIES = qllmd
$(tests_unit_test_hostile_OBJECTS): | proto/qllm.pb-c.h
UNIT_TESTS += tests/unit/test-hostile

check_PROGRAMS += tests/unit/test-json
tests_unit_test_json_SOURCES = tests/unit/test-json.c tests/lib/raw.c tests/lib/raw.h
tests_unit_test_json_CPPFLAGS = $(UNIT_CPPFLAGS) $(PROTOBUFC_CFLAGS)
tests_unit_test_json_LDADD = libggufgen.la libproto.la libformat.la libkernels.la libbase.la $(UNIT_LIBS)
EXTRA_tests_unit_test_json_DEPENDENCIES = qllmd
$(tests_unit_test_json_OBJECTS): | proto/qllm.pb-c.h
UNIT_TESTS += tests/unit/test-json

check_PROGRAMS += tests/unit/test-exec
tests_unit_test_exec_SOURCES = tests/unit/exec-steps.h tests/unit/plain-panels.h tests/unit/test-exec.c
tests_unit_test_exec_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_exec_LDADD = libengine.la libmodel.la libtext.la libggufgen.la libformat.la libkernels.la \
	libbase.la $(UNIT_LIBS)
UNIT_TESTS += tests/unit/test-exec

check_PROGRAMS += tests/unit/test-logits
tests_unit_test_logits_SOURCES = tests/unit/test-logits.c
tests_unit_test_logits_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_logits_LDADD = $(tests_unit_test_exec_LDADD)
UNIT_TESTS += tests/unit/test-logits
check_PROGRAMS += tests/unit/test-jinja
tests_unit_test_jinja_SOURCES = tests/unit/test-jinja.c
tests_unit_test_jinja_CPPFLAGS = $(UNIT_CPPFLAGS) $(JANSSON_CFLAGS)
tests_unit_test_jinja_LDADD = libtext.la libformat.la libkernels.la libbase.la $(JANSSON_LIBS) $(UNIT_LIBS)
UNIT_TESTS += tests/unit/test-jinja

endif
TESTS += $(UNIT_TESTS)
