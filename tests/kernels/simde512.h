/* simde512 - the switch under which the AVX-512 sources are compiled a second time, in terms of
 * AVX2 (SIMDe), so that machines without AVX-512 check its arithmetic too. The fills get names of
 * their own. */
#pragma once
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wall"
#pragma GCC diagnostic ignored "-Wextra"
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#pragma GCC diagnostic pop

#define avx512_fill_mm emulated_fill_mm
#define avx512_fill_float emulated_fill_float
#define avx512_fill_elem emulated_fill_elem
#define avx512_fill_attn emulated_fill_attn

/* What SIMDe 0.7.4 lacks, by halves. */
static inline __attribute__((unused)) __m512 emulated_join(__m256 lo, __m256 hi)
{
	__m512 v;

	__builtin_memcpy(&v, &lo, sizeof(lo));
	__builtin_memcpy((char *)&v + sizeof(lo), &hi, sizeof(hi));
	return v;
}

static inline __attribute__((unused)) __m512 emulated_cvtepi32_ps(__m512i v)
{
	__m256i half[2];

	__builtin_memcpy(half, &v, sizeof(half));
	return emulated_join(_mm256_cvtepi32_ps(half[0]), _mm256_cvtepi32_ps(half[1]));
}

static inline __attribute__((unused)) __m512i emulated_cvtepu16_epi32(__m256i v)
{
	__m512i wide;
	__m256i half[2] = { _mm256_cvtepu16_epi32(_mm256_castsi256_si128(v)),
	                    _mm256_cvtepu16_epi32(_mm256_extracti128_si256(v, 1)) };

	__builtin_memcpy(&wide, half, sizeof(wide));
	return wide;
}

static inline __attribute__((unused)) __m512 emulated_cvtph_ps(__m256i v)
{
	return emulated_join(_mm256_cvtph_ps(_mm256_castsi256_si128(v)),
	                     _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1)));
}

static inline __attribute__((unused)) __m256i emulated_cvtps_ph(__m512 v)
{
	__m256 half[2];

	__builtin_memcpy(half, &v, sizeof(half));
	return _mm256_inserti128_si256(
		_mm256_castsi128_si256(_mm256_cvtps_ph(half[0], _MM_FROUND_TO_NEAREST_INT)),
		_mm256_cvtps_ph(half[1], _MM_FROUND_TO_NEAREST_INT), 1);
}
#define _mm512_cvtepi32_ps(v) emulated_cvtepi32_ps(v)
#define _mm512_cvtepu16_epi32(v) emulated_cvtepu16_epi32(v)
#define _mm512_cvtph_ps(v) emulated_cvtph_ps(v)
#define _mm512_cvtps_ph(v, rounding) emulated_cvtps_ph(v)
