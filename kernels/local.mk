# One convenience library a level, compiled with that level's flags; dispatch.c decides at run time.
noinst_LTLIBRARIES += libkernels.la libkernels-base.la
libkernels_la_SOURCES =
libkernels_la_LIBADD = libkernels-base.la -lm

libkernels_base_la_SOURCES = \
	kernels/blocks.h kernels/dispatch.c kernels/f16.h kernels/kernels.h kernels/kvtype.c kernels/kvtype.h kernels/levels.h kernels/pack.c \
	kernels/pack.h kernels/qtype.c kernels/qtype.h kernels/r16.h kernels/tables.h kernels/tmpl-actq.h kernels/tmpl-attn.h kernels/tmpl-elem.h kernels/tmpl-float.h \
	kernels/tmpl-kv.h kernels/tmpl-math.h kernels/tmpl-screen.h \
	kernels/scalar/attn.c kernels/scalar/dequant.c kernels/scalar/elem.c kernels/scalar/mm.c \
	kernels/scalar/unpack.h kernels/scalar/vec.h
libkernels_base_la_CFLAGS = $(AM_CFLAGS)

# The SIMD levels are never instrumented: gcc needs minutes for a file of intrinsics with a check at every
# access, and tests/kernels shows their memory safety otherwise, with every operand against a guard page.
# The scalar level, which does the same work in plain C, keeps the sanitizers.
if ARCH_X86_64
noinst_LTLIBRARIES += libkernels-avx2.la libkernels-avxvnni.la libkernels-avx512.la
libkernels_la_LIBADD += libkernels-avx2.la libkernels-avxvnni.la libkernels-avx512.la
libkernels_avx2_la_SOURCES = \
	kernels/avx2/attn.c kernels/avx2/codes.h kernels/avx2/dequant.c kernels/avx2/dequant.h kernels/avx2/elem.c kernels/avx2/float.c \
	kernels/avx2/mm.c kernels/avx2/mm-decode.h kernels/avx2/mm-panel.h kernels/avx2/packed.c kernels/avx2/packed.h kernels/avx2/r16.h \
	kernels/avx2/vec.h
libkernels_avx2_la_CFLAGS = $(PLAIN_CFLAGS) $(KERNEL_CFLAGS) -mavx2 -mfma -mf16c
libkernels_avxvnni_la_SOURCES = kernels/avxvnni/packed.c
libkernels_avxvnni_la_CFLAGS = $(PLAIN_CFLAGS) $(KERNEL_CFLAGS) -mavx2 -mfma -mf16c -mavxvnni
libkernels_avx512_la_SOURCES = \
	kernels/avx512/attn.c kernels/avx512/elem.c kernels/avx512/float.c kernels/avx512/mm.c \
	kernels/avx512/packed.c kernels/avx512/r16.h kernels/avx512/vec.h
libkernels_avx512_la_CFLAGS = $(PLAIN_CFLAGS) $(KERNEL_CFLAGS) -mavx2 -mfma -mf16c \
	-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mprefer-vector-width=512
# Compilers that know tiles; others build all the rest.
if HAVE_AMX
libkernels_base_la_CPPFLAGS = $(AM_CPPFLAGS) -DQLLM_AMX=1
noinst_LTLIBRARIES += libkernels-amx.la
libkernels_la_LIBADD += libkernels-amx.la
libkernels_amx_la_SOURCES = kernels/amx/panel.c kernels/amx/tile.h kernels/amx/trust.c
libkernels_amx_la_CFLAGS = $(libkernels_avx512_la_CFLAGS) -mamx-tile -mamx-bf16
endif
endif
if ARCH_AARCH64
noinst_LTLIBRARIES += libkernels-neon.la
libkernels_la_LIBADD += libkernels-neon.la
libkernels_neon_la_SOURCES = kernels/neon/attn.c kernels/neon/elem.c kernels/neon/float.c kernels/neon/packed.c kernels/neon/vec.h
libkernels_neon_la_CFLAGS = $(PLAIN_CFLAGS) $(KERNEL_CFLAGS) -march=armv8.2-a+dotprod
endif
