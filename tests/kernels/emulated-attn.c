/* emulated-attn - kernels/avx512/attn.c through SIMDe. */
#include "tests/kernels/simde512.h"
#include "kernels/avx512/attn.c"
