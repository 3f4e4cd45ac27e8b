/* emulated-elem - kernels/avx512/elem.c through SIMDe. */
#include "tests/kernels/simde512.h"
#include "kernels/avx512/elem.c"
