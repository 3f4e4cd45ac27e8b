/* elem - the AVX-512 level's element-wise kernels; quantizing activations stays AVX2's. */
#include "kernels/avx512/vec.h"
#include "kernels/tmpl-elem.h"
#include "kernels/tmpl-screen.h"
#include "kernels/levels.h"

void avx512_fill_elem(struct kernels *k)
{
	elem_fill(k);
	screen_fill(k);
}
