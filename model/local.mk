noinst_LTLIBRARIES += libmodel.la
libmodel_la_SOURCES = \
	model/families/families.h model/families/gemma3.c model/families/llama.c model/families/qwen2.c \
	model/family.c model/family.h model/footprint.c model/hparams.c model/model.c model/model.h model/slots.h \
	model/verify.c model/weights.c model/weights.h
libmodel_la_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
libmodel_la_LIBADD = -lm
