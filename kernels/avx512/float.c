/* float - the AVX-512 level's products with float rows. */
#include "kernels/avx512/vec.h"
#include "kernels/tmpl-float.h"
#include "kernels/levels.h"

void avx512_fill_float(struct kernels *k)
{
	float_fill(k, "avx512");
}
