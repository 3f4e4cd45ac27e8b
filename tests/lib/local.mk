check_LTLIBRARIES += libggufgen.la
libggufgen_la_SOURCES = tests/lib/ggufgen.c tests/lib/ggufgen-tiny.c tests/lib/ggufgen.h
