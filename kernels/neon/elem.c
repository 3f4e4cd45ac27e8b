/* elem - the NEON level's element-wise kernels. */
#include "kernels/neon/vec.h"
#include "kernels/tmpl-actq.h"
#include "kernels/tmpl-elem.h"
#include "kernels/tmpl-screen.h"
#include "kernels/levels.h"

#include <float.h>

/* 16 elements; see scalar/elem.c. Returns the codes' sum. */
INLINE int32_t quantize16(const float *x, int8_t *q, float *ret_s)
{
	UNINIT float32x4_t e[4];
	UNINIT int16x4_t c[4];
	uint32x4_t mag = vdupq_n_u32(0);
	int8x16_t codes = vdupq_n_s8(0);
	float amax, inv;

	UNROLL for (size_t i = 0; i < 4; i++) {
		e[i] = vld1q_f32(x + 4 * i);
		mag = vmaxq_u32(mag, vandq_u32(vreinterpretq_u32_f32(e[i]),
		                               vdupq_n_u32(0x7fffffff)));
	}
	amax = f32_from_bits(vmaxvq_u32(mag));
	inv = 127.0f / amax;
	*ret_s = amax / 127.0f;
	if (amax <= FLT_MAX && inv <= FLT_MAX) {
		UNROLL for (size_t i = 0; i < 4; i++)
			c[i] = vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(e[i], inv)));
		codes = vcombine_s8(vmovn_s16(vcombine_s16(c[0], c[1])),
		                    vmovn_s16(vcombine_s16(c[2], c[3])));
	}
	vst1q_s8(q, codes);
	return vaddlvq_s8(codes);
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
	screen_fill(k);
	actq_fill(k);
	k->read_sum = read_sum;
}
