/* dequant - rows to float. */
#include "kernels/levels.h"
#include "kernels/avx2/dequant.h"
#include "kernels/f16.h"

#define DEFINE_DEQUANT(name, id) \
	static void dequant_##name(float *y, const void *row, size_t n) \
	{ \
		dequant(y, row, n, QTYPE_##id); \
	}
Q16_TYPES(DEFINE_DEQUANT)

static void dequant_f16(float *y, const void *row, size_t n)
{
	const uint16_t *h = row;
	size_t i;

	for (i = 0; i + 8 <= n; i += 8)
		_mm256_storeu_ps(y + i, _mm256_cvtph_ps(load128(h + i)));
	for (; i < n; i++) {
		uint16_t bits;

		memcpy(&bits, h + i, sizeof(bits));
		y[i] = f16_load(bits);
	}
}

void avx2_fill_dequant(struct kernels *k)
{
#define SET_DEQUANT(name, id) k->dequant[QTYPE_##id] = dequant_##name;
	Q16_TYPES(SET_DEQUANT)
	k->dequant[QTYPE_F16] = dequant_f16;
}
