# tests/hostile: clients that break the rules, and good ones that keep the score beside them; tests/system runs both.
check_PROGRAMS += tests/hostile/good tests/hostile/hostile
tests_hostile_good_SOURCES = tests/hostile/good.c
tests_hostile_good_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
tests_hostile_good_LDADD = libqllm.la $(JANSSON_LIBS)
tests_hostile_hostile_SOURCES = \
	tests/hostile/hostile.c tests/hostile/hostile-fds.c tests/hostile/hostile-frames.c tests/hostile/hostile-rings.c \
	tests/hostile/hostile.h
tests_hostile_hostile_CFLAGS = $(AM_CFLAGS) $(PROTOBUFC_CFLAGS)
tests_hostile_hostile_LDADD = libproto.la libbase.la
EXTRA_DIST += tests/hostile/run
$(tests_hostile_hostile_OBJECTS): | proto/qllm.pb-c.h
