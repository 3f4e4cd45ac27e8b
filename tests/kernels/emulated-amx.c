/* emulated-amx - kernels/amx through SIMDe and a model of the tiles. */
#include "tests/kernels/simde512.h"
#include "tests/kernels/tiles.h"
#include "kernels/amx/panel.c"
#include "kernels/amx/trust.c"

enum tile_fault tile_fault;
