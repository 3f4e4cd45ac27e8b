/* elem - the scalar level's element-wise kernels, and the single-value functions that share their
 * bits. */
#include "kernels/scalar/vec.h"
#include "kernels/tmpl-actq.h"
#include "kernels/tmpl-elem.h"
#include "kernels/tmpl-screen.h"
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

/* 16 elements; returns the codes' sum. amax is compared as the integer of |x|: order does not
 * matter and NaN is the greatest. */
INLINE int32_t quantize16(const float *x, int8_t *q, float *ret_s)
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
	return sum;
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
	screen_fill(k);
	actq_fill(k);
	k->read_sum = read_sum;
}
