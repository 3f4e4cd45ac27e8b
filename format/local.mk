noinst_LTLIBRARIES += libformat.la
libformat_la_SOURCES = \
	format/gguf.c format/gguf-get.c format/gguf.h format/gguf-priv.h format/packfile.c format/packfile.h format/tensors.h format/weightmap.c \
	format/weightmap.h
libformat_la_CFLAGS = $(AM_CFLAGS) $(XXHASH_CFLAGS)
