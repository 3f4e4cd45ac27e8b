/* emulated-packed - kernels/avx512/packed.c through SIMDe. */
#include "tests/kernels/simde512.h"
#include "kernels/avx512/packed.c"
