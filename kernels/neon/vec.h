/* vec - the NEON level's vector of four floats, for the templates. */
#pragma once
#include <arm_neon.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include "kernels/f16.h"

#define VL 4
typedef float32x4_t vf;
typedef int32_t vi __attribute__((vector_size(16)));
enum { ATTN_QUERIES = 3 };      /* 3 x 8 sums, 3 broadcasts and a loaded vector, of 32 registers */

static inline vf v_load(const float *p)
{
	return vld1q_f32(p);
}
static inline void v_store(float *p, vf v)
{
	vst1q_f32(p, v);
}
static inline vf v_set1(float x)
{
	return vdupq_n_f32(x);
}
static inline vf v_fma(vf a, vf b, vf c)
{
	return vfmaq_f32(c, a, b);
}
/* The second operand where they are equal or either is NaN, which vmaxq does not do. */
static inline vf v_max(vf a, vf b)
{
	return vbslq_f32(vcgtq_f32(a, b), a, b);
}
static inline vf v_min(vf a, vf b)
{
	return vbslq_f32(vcltq_f32(a, b), a, b);
}
/* Four bytes, and no more, in the lower lanes. */
static inline uint8x8_t v_bytes4(const void *p)
{
	uint32_t x;

	memcpy(&x, p, sizeof(x));
	return vreinterpret_u8_u32(vdup_n_u32(x));
}
static inline vf v_load_i8(const int8_t *p)
{
	const int16x8_t x = vmovl_s8(vreinterpret_s8_u8(v_bytes4(p)));

	return vcvtq_f32_s32(vmovl_s16(vget_low_s16(x)));
}
/* Low or high nibbles of four bytes. */
static inline vf v_load_u4(const uint8_t *p, bool high)
{
	const uint8x8_t x = v_bytes4(p);
	const uint8x8_t v = high ? vshr_n_u8(x, 4) : vand_u8(x, vdup_n_u8(15));

	return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(v))));
}
static inline vf v_load_f16(const uint16_t *p)
{
	return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
static inline void v_store_f16(uint16_t *p, vf v)
{
	vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v)));
}
static inline vf v_load_bf16(const uint16_t *p)
{
	return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
