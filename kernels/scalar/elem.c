/* elem - the scalar level's element-wise kernels, and the single-value functions that share their
 * bits. */
#include "kernels/scalar/vec.h"
#include "kernels/tmpl-elem.h"
#include "kernels/levels.h"

#include <float.h>

float k_expf(float x)
{
	return exp_one(x);
}

float k_tanhf(float x)
{
	return v_tanh(v_set1(x))[0];
}

float k_f16_to_f32(uint16_t h)
{
	return f16_load(h);
}

uint16_t k_f32_to_f16(float f)
{
	return f16_store(f);
}

/* amax is compared as the integer of |x|: order does not matter and NaN is the greatest. */
static void actq_block(const float *x, int8_t *q, float *ret_s, float *ret_t, int32_t *ret_sum)
{
	uint32_t max = 0;
	int32_t sum = 0;
	float inv;

	for (int i = 0; i < 16; i++) {
		const uint32_t mag = f32_bits(x[i]) & 0x7fffffff;

		max = mag > max ? mag : max;
	}
	inv = 127.0f / f32_from_bits(max);
	if (max < 0x7f800000 && inv <= FLT_MAX) {
		for (int i = 0; i < 16; i++) {
			/* Adding 1.5 * 2^23 leaves the rounded value in the low bits. */
			q[i] = (int8_t)(f32_bits(x[i] * inv + 0x1.8p23f) - 0x4b400000);
			sum += q[i];
		}
	} else {
		memset(q, 0, 16);
	}
	*ret_s = f32_from_bits(max) / 127.0f;
	*ret_t = *ret_s * (float)sum;
	*ret_sum = sum;
}

static void actq(const struct q16 *out, const float *x, size_t ldx, size_t t0, size_t t1)
{
	const size_t n_group = out->k / 16;

	for (size_t t = t0; t < t1; t++)
		for (size_t j = 0; j < n_group; j++) {
			const size_t g = t * n_group + j;

			actq_block(x + t * ldx + 16 * j, out->q + 16 * g, out->s + g, out->t + g,
			           out->sum + g);
		}
}

static void actq_pair(const struct q16 *out, const float *x, size_t row)
{
	const size_t n_group = out->k / 16;

	for (size_t j = 0; j < n_group; j++) {
		const size_t hi = row * n_group + j, lo = hi + n_group;
		float rest[16];

		actq_block(x + 16 * j, out->q + 16 * hi, out->s + hi, out->t + hi, out->sum + hi);
		for (int i = 0; i < 16; i++)
			rest[i] = __builtin_fmaf(-out->s[hi], (float)out->q[16 * hi + i],
			                         x[16 * j + i]);
		actq_block(rest, out->q + 16 * lo, out->s + lo, out->t + lo, out->sum + lo);
	}
}

static uint64_t read_sum(const void *p, size_t n)
{
	uint64_t sum[4] = { 0 }, word;
	const char *bytes = p;
	size_t i;

	for (i = 0; i + 32 <= n; i += 32)
		for (size_t l = 0; l < 4; l++) {
			memcpy(&word, bytes + i + 8 * l, 8);
			sum[l] += word;
		}
	for (; i + 8 <= n; i += 8) {
		memcpy(&word, bytes + i, 8);
		sum[0] += word;
	}
	return sum[0] + sum[1] + sum[2] + sum[3];
}

void scalar_fill_elem(struct kernels *k)
{
	elem_fill(k);
	k->actq = actq;
	k->actq_pair = actq_pair;
	k->read_sum = read_sum;
}
