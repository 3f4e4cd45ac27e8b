noinst_LTLIBRARIES += libbase.la
libbase_la_SOURCES = \
	base/beat.h base/cleanup.h base/cursor.c base/cursor.h base/err.c base/err.h base/fd.c base/fd.h base/list.h \
	base/log.c base/log.h base/map.c base/map.h base/mbox.c base/mbox.h base/mem.c base/mem.h base/num.h \
	base/pool.c base/pool.h base/poolsize.c base/roff.c base/roff.h base/str.c base/str.h base/sum.c base/sum.h base/vec.c base/vec.h
libbase_la_CFLAGS = $(AM_CFLAGS) $(XXHASH_CFLAGS)
libbase_la_LIBADD = $(XXHASH_LIBS)
