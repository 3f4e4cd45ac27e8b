/* attn - the AVX-512 level's attention. */
#include "kernels/avx512/vec.h"
#include "kernels/tmpl-attn.h"
#include "kernels/levels.h"

void avx512_fill_attn(struct kernels *k)
{
	attn_fill(k);
}
