# checkkernels: all levels against scalar. With SIMDe the AVX-512 sources are built once more in terms of AVX2.
check_PROGRAMS += checkkernels
TESTS += checkkernels tests/kernels/cross.sh
EXTRA_DIST += tests/kernels/cross.sh
checkkernels_SOURCES = \
	tests/kernels/attn.c tests/kernels/bench.c tests/kernels/check.h tests/kernels/checkkernels.c \
	tests/kernels/dequant.c tests/kernels/elem.c tests/kernels/golden-dequant.h tests/kernels/mm.c \
	tests/kernels/pack.c tests/kernels/panel.c tests/kernels/screen.c
checkkernels_LDADD = libkernels.la -lm
if ARCH_X86_64
if HAVE_SIMDE
checkkernels_CPPFLAGS = $(AM_CPPFLAGS) -DQLLM_TEST_EMULATE=1
check_LTLIBRARIES += libemulated512.la
libemulated512_la_SOURCES = \
	tests/kernels/emulated.c tests/kernels/emulated-amx.c tests/kernels/emulated-attn.c tests/kernels/emulated-elem.c \
	tests/kernels/emulated-float.c tests/kernels/emulated-mm.c tests/kernels/emulated-packed.c \
	tests/kernels/emulated-vnni.c tests/kernels/simde512.h tests/kernels/tiles.h
libemulated512_la_CPPFLAGS = $(AM_CPPFLAGS) -DQLLM_TEST_EMULATE=1
# No sanitizers, as in kernels/local.mk.
libemulated512_la_CFLAGS = $(PLAIN_CFLAGS) $(KERNEL_CFLAGS) -mavx2 -mfma -mf16c -Wno-psabi
# Not faster, but compiled in a fifth of the time; after the CFLAGS of configure, which come last.
$(libemulated512_la_OBJECTS): CFLAGS += -Og
checkkernels_LDADD += libemulated512.la
endif
endif
