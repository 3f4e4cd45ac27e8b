/* emulated - the AVX-512 level of the emulated sources, over what AVX2 has filled. */
#include "tests/kernels/check.h"

void emulated_fill_mm(struct kernels *k);
void emulated_fill_packed(struct kernels *k);
void emulated_fill_float(struct kernels *k);
void emulated_fill_elem(struct kernels *k);
void emulated_fill_attn(struct kernels *k);

void emulated_fill_avx512(struct kernels *k)
{
	emulated_fill_mm(k);
	emulated_fill_packed(k);
	emulated_fill_float(k);
	emulated_fill_elem(k);
	emulated_fill_attn(k);
}
