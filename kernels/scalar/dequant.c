/* dequant - rows to float. a * q has at most 24 bits, so the only rounding is that of the sum with
 * the minimum. */
#include "kernels/levels.h"
#include "kernels/scalar/unpack.h"

static inline __attribute__((always_inline)) void dequant(float *y, const void *row, size_t n,
                                                          const enum qtype type)
{
	const size_t block = type_is_super(type) ? 256 : 32, bytes = type_bytes(type);
	const uint8_t *b = row;
	struct unpacked u;

	for (size_t i = 0; i < n; i += block, b += bytes) {
		unpack_block(&u, type, b);
		for (size_t e = 0; e < block; e++) {
			y[i + e] = u.a[e / 16] * (float)u.q[e];
			if (type_has_min(type))
				y[i + e] += u.c[e / 16];
		}
	}
}

#define DEFINE_DEQUANT(name, id) \
	static void dequant_##name(float *y, const void *row, size_t n) \
	{ \
		dequant(y, row, n, QTYPE_##id); \
	}
Q16_TYPES(DEFINE_DEQUANT)

static void dequant_f32(float *y, const void *row, size_t n)
{
	memcpy(y, row, n * sizeof(*y));
}

static void dequant_f16(float *y, const void *row, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint16_t h;

		memcpy(&h, (const char *)row + 2 * i, 2);
		y[i] = f16_load(h);
	}
}

static void dequant_bf16(float *y, const void *row, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint16_t h;

		memcpy(&h, (const char *)row + 2 * i, 2);
		y[i] = bf16_load(h);
	}
}

void scalar_fill_dequant(struct kernels *k)
{
#define SET_DEQUANT(name, id) k->dequant[QTYPE_##id] = dequant_##name;
	Q16_TYPES(SET_DEQUANT)
	k->dequant[QTYPE_F32] = dequant_f32;
	k->dequant[QTYPE_F16] = dequant_f16;
	k->dequant[QTYPE_BF16] = dequant_bf16;
}
