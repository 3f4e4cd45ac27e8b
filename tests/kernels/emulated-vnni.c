/* emulated-vnni - kernels/avxvnni/packed.c in terms of AVX2. */
#include "tests/kernels/simde512.h"
#include "kernels/avxvnni/packed.c"
