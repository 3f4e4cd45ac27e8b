/* emulated-mm - kernels/avx512/mm.c through SIMDe. */
#include "tests/kernels/simde512.h"
#include "kernels/avx512/mm.c"
