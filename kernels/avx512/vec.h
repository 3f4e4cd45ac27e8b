/* vec - the AVX-512 level's vector of sixteen floats, for the templates. */
#pragma once
#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include "kernels/f16.h"

#define VL 16
typedef __m512 vf;
typedef int32_t vi __attribute__((vector_size(64)));
enum { ATTN_QUERIES = 6 };

static inline vf v_load(const float *p)
{
	return _mm512_loadu_ps(p);
}
static inline void v_store(float *p, vf v)
{
	_mm512_storeu_ps(p, v);
}
static inline vf v_set1(float x)
{
	return _mm512_set1_ps(x);
}
static inline vf v_fma(vf a, vf b, vf c)
{
	return _mm512_fmadd_ps(a, b, c);
}
/* The second operand where they are equal or either is NaN: a > b ? a : b, a < b ? a : b. */
static inline vf v_max(vf a, vf b)
{
	return _mm512_max_ps(a, b);
}
static inline vf v_min(vf a, vf b)
{
	return _mm512_min_ps(a, b);
}
static inline vf v_load_i8(const int8_t *p)
{
	return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
/* Low or high nibbles of sixteen bytes. */
static inline vf v_load_u4(const uint8_t *p, bool high)
{
	const __m128i x = _mm_loadu_si128((const __m128i *)p), low = _mm_set1_epi8(15);

	return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(
		_mm_and_si128(high ? _mm_srli_epi16(x, 4) : x, low)));
}
static inline vf v_load_f16(const uint16_t *p)
{
	return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
static inline void v_store_f16(uint16_t *p, vf v)
{
	_mm256_storeu_si256((__m256i *)p,
	                    _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline vf v_load_bf16(const uint16_t *p)
{
	__m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));

	return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
