/* float - the AVX2 level's products with float rows. */
#include "kernels/avx2/vec.h"
#include "kernels/tmpl-float.h"
#include "kernels/levels.h"

void avx2_fill_float(struct kernels *k)
{
	float_fill(k, "avx2");
}
