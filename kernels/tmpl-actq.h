/* tmpl-actq - activations to Q16 (kernels.h), one copy a level: included after the level's vec.h.
 * The level gives `quantize16`: codes and factor of 16 elements; it returns the codes' sum. */
#pragma once
#include "kernels/kernels.h"
#include "kernels/tmpl-math.h"

INLINE int32_t quantize16(const float *x, int8_t *q, float *ret_s);

INLINE void put16(const struct q16 *out, size_t g, const float *x)
{
	const int32_t sum = quantize16(x, out->q + 16 * g, out->s + g);

	out->sum[g] = sum;
	out->t[g] = out->s[g] * (float)sum;
}

static void actq(const struct q16 *out, const float *x, size_t ldx, size_t t0, size_t t1)
{
	const size_t n_group = out->k / 16;

	for (size_t t = t0; t < t1; t++)
		for (size_t j = 0; j < n_group; j++)
			put16(out, t * n_group + j, x + t * ldx + 16 * j);
}

static void actq_pair(const struct q16 *out, const float *x, size_t row)
{
	const size_t n_group = out->k / 16;

	for (size_t j = 0; j < n_group; j++) {
		const size_t hi = row * n_group + j;
		UNINIT float rest[16];

		put16(out, hi, x + 16 * j);
		UNROLL for (size_t i = 0; i < 16; i += VL)
			v_store(rest + i, v_fma(v_set1(-out->s[hi]),
			                        v_load_i8(out->q + 16 * hi + i),
			                        v_load(x + 16 * j + i)));
		put16(out, hi + n_group, rest);
	}
}

static void actq_fill(struct kernels *k)
{
	k->actq = actq;
	k->actq_pair = actq_pair;
}
