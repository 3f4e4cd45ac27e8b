/* emulated-float - kernels/avx512/float.c through SIMDe. */
#include "tests/kernels/simde512.h"
#include "kernels/avx512/float.c"
