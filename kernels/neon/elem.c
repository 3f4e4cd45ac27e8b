/* elem - the NEON level's element-wise kernels. */
#include "kernels/neon/vec.h"
#include "kernels/tmpl-elem.h"
#include "kernels/levels.h"

#include <float.h>

/* Group g of out from 16 elements; see scalar/elem.c. */
INLINE void put16(const struct q16 *out, size_t g, const float *x)
{
	UNINIT float32x4_t e[4];
	UNINIT int16x4_t q[4];
	uint32x4_t mag = vdupq_n_u32(0);
	int8x16_t codes;
	int32_t sum;
	float amax, inv;

	UNROLL for (size_t i = 0; i < 4; i++) {
		e[i] = vld1q_f32(x + 4 * i);
		mag = vmaxq_u32(mag, vandq_u32(vreinterpretq_u32_f32(e[i]),
		                               vdupq_n_u32(0x7fffffff)));
	}
	amax = f32_from_bits(vmaxvq_u32(mag));
	inv = 127.0f / amax;
	out->s[g] = amax / 127.0f;
	if (amax <= FLT_MAX && inv <= FLT_MAX) {
		UNROLL for (size_t i = 0; i < 4; i++)
			q[i] = vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(e[i], inv)));
		codes = vcombine_s8(vmovn_s16(vcombine_s16(q[0], q[1])),
		                    vmovn_s16(vcombine_s16(q[2], q[3])));
	} else {
		codes = vdupq_n_s8(0);
	}
	vst1q_s8(out->q + 16 * g, codes);
	sum = vaddlvq_s8(codes);
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
		UNROLL for (size_t i = 0; i < 4; i++)
			vst1q_f32(rest + 4 * i,
			          vfmsq_n_f32(vld1q_f32(x + 16 * j + 4 * i),
			                      v_load_i8(out->q + 16 * hi + 4 * i), out->s[hi]));
		put16(out, hi + n_group, rest);
	}
}

static uint64_t read_sum(const void *p, size_t n)
{
	uint64x2_t sum[8];
	const uint8_t *bytes = p;
	uint64_t total = 0, word;
	size_t i;

	for (size_t l = 0; l < 8; l++)
		sum[l] = vdupq_n_u64(0);
	for (i = 0; i + 128 <= n; i += 128)
		UNROLL for (size_t l = 0; l < 8; l++)
			sum[l] = vaddq_u64(sum[l],
			                   vreinterpretq_u64_u8(vld1q_u8(bytes + i + 16 * l)));
	for (size_t l = 0; l < 8; l++)
		total += vaddvq_u64(sum[l]);
	for (; i + 8 <= n; i += 8) {
		memcpy(&word, bytes + i, 8);
		total += word;
	}
	return total;
}

void neon_fill_elem(struct kernels *k)
{
	elem_fill(k);
	k->actq = actq;
	k->actq_pair = actq_pair;
	k->read_sum = read_sum;
}
