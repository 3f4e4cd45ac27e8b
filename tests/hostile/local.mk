# tests/hostile: clients that break the rules, and good ones that keep the score beside them; tests/system runs both.
check_PROGRAMS += tests/hostile/good
tests_hostile_good_SOURCES = tests/hostile/good.c
tests_hostile_good_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
tests_hostile_good_LDADD = libqllm.la $(JANSSON_LIBS)
