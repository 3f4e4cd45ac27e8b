/* attn - the scalar level's attention. */
#include "kernels/scalar/vec.h"
#include "kernels/tmpl-attn.h"
#include "kernels/levels.h"

void scalar_fill_attn(struct kernels *k)
{
	attn_fill(k);
}
