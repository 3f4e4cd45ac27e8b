/* vec - the AVX2 level's vector of eight floats, for the templates. */
#pragma once
#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include "kernels/f16.h"

#define VL 8
typedef __m256 vf;
typedef int32_t vi __attribute__((vector_size(32)));
enum { ATTN_QUERIES = 3 };      /* 3 x 4 sums, 3 broadcasts, a loaded vector: all 16 registers */

static inline vf v_load(const float *p)
{
	return _mm256_loadu_ps(p);
}
static inline void v_store(float *p, vf v)
{
	_mm256_storeu_ps(p, v);
}
static inline vf v_set1(float x)
{
	return _mm256_set1_ps(x);
}
static inline vf v_fma(vf a, vf b, vf c)
{
	return _mm256_fmadd_ps(a, b, c);
}
/* The second operand where they are equal or either is NaN: a > b ? a : b, a < b ? a : b. */
static inline vf v_max(vf a, vf b)
{
	return _mm256_max_ps(a, b);
}
static inline vf v_min(vf a, vf b)
{
	return _mm256_min_ps(a, b);
}
static inline vf v_load_i8(const int8_t *p)
{
	return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
/* Low or high nibbles of eight bytes. */
static inline vf v_load_u4(const uint8_t *p, bool high)
{
	const __m256i x = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));

	return _mm256_cvtepi32_ps(high ? _mm256_srli_epi32(x, 4) :
	                          _mm256_and_si256(x, _mm256_set1_epi32(15)));
}
static inline vf v_load_f16(const uint16_t *p)
{
	return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
static inline void v_store_f16(uint16_t *p, vf v)
{
	_mm_storeu_si128((__m128i *)p,
	                 _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline vf v_load_bf16(const uint16_t *p)
{
	__m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));

	return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
