# engine
noinst_LTLIBRARIES += libengine.la
libengine_la_SOURCES = \
	engine/act.c engine/act.h engine/batch.c engine/batch.h engine/exec.c engine/exec.h engine/kv.c engine/kv.h \
	engine/op-attn.c engine/op-linear.c engine/op-logits.c engine/op-qkv.c engine/op-rows.c engine/ops.h engine/plan.c engine/plan.h
libengine_la_SOURCES += \
	engine/engine.c engine/engine.h engine/engine-impl.h engine/engine-lane.c engine/engine-step.c \
	engine/engine-prefix.c engine/prefix.c engine/prefix.h \
	engine/logits.c engine/logits.h engine/pace.c engine/pace.h engine/request.c engine/request.h \
	engine/sampler.c engine/sampler.h \
	engine/sched.c engine/sched.h engine/seq.c engine/seq.h engine/sink.h engine/spec.c engine/spec.h \
	engine/engine-spec.c engine/stop.c engine/stop.h
libengine_la_LIBADD = -lm
