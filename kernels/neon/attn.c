/* attn - the NEON level's attention. */
#include "kernels/neon/vec.h"
#include "kernels/tmpl-attn.h"
#include "kernels/levels.h"

void neon_fill_attn(struct kernels *k)
{
	attn_fill(k);
}
