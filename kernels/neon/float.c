/* float - the NEON level's products with float rows. */
#include "kernels/neon/vec.h"
#include "kernels/tmpl-float.h"
#include "kernels/levels.h"

void neon_fill_float(struct kernels *k)
{
	float_fill(k, "neon");
}
