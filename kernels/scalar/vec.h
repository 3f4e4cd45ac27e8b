/* vec - the scalar level's vector: one lane, so that the templates serve as the reference. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include "kernels/f16.h"

#define VL 1
typedef float vf __attribute__((vector_size(4)));
typedef int32_t vi __attribute__((vector_size(4)));
enum { ATTN_QUERIES = 1 };

static inline vf v_load(const float *p)
{
	return (vf){ *p };
}
static inline void v_store(float *p, vf v)
{
	*p = v[0];
}
static inline vf v_set1(float x)
{
	return (vf){ x };
}
static inline vf v_fma(vf a, vf b, vf c)
{
	return (vf){ __builtin_fmaf(a[0], b[0], c[0]) };
}
static inline vf v_max(vf a, vf b)
{
	return (vf){ a[0] > b[0] ? a[0] : b[0] };
}
static inline vf v_min(vf a, vf b)
{
	return (vf){ a[0] < b[0] ? a[0] : b[0] };
}
static inline vf v_load_i8(const int8_t *p)
{
	return (vf){ (float)*p };
}
static inline vf v_load_u4(const uint8_t *p, bool high)
{
	return (vf){ (float)(high ? *p >> 4 : *p & 15) };
}
static inline vf v_load_f16(const uint16_t *p)
{
	return (vf){ f16_load(*p) };
}
static inline void v_store_f16(uint16_t *p, vf v)
{
	*p = f16_store(v[0]);
}
static inline vf v_load_bf16(const uint16_t *p)
{
	return (vf){ bf16_load(*p) };
}
