# text
noinst_LTLIBRARIES += libtext.la
libtext_la_SOURCES = \
	text/chat.c text/chat.h text/detok.c text/jinja-call.c text/jinja-eval.c text/jinja-filter.c text/jinja-lex.c \
	text/jinja-math.c text/jinja-parse.c text/jinja-priv.h text/jinja-str.c text/jinja-str.h text/jinja-value.c \
	text/merge.c text/merge.h text/pretok.c text/pretok.h text/tok.c text/tok.h text/tok-bpe.c text/tok-priv.h \
	text/tok-special.c text/tok-spm.c text/vocab.c text/vocab.h text/vocab-gguf.c
libtext_la_CFLAGS = $(AM_CFLAGS) $(XXHASH_CFLAGS) $(PCRE2_CFLAGS) $(JANSSON_CFLAGS) $(UTF8PROC_CFLAGS)
libtext_la_LIBADD = libbase.la $(XXHASH_LIBS) $(PCRE2_LIBS) $(JANSSON_LIBS) $(UTF8PROC_LIBS) -lm
