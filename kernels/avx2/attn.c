/* attn - the AVX2 level's attention. */
#include "kernels/avx2/vec.h"
#include "kernels/tmpl-attn.h"
#include "kernels/levels.h"

void avx2_fill_attn(struct kernels *k)
{
	attn_fill(k);
}
