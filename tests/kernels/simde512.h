/* simde512 - the switch under which the AVX-512 sources are compiled a second time, in terms of
 * AVX2 (SIMDe), so that machines without AVX-512 (or AVX-VNNI) check its arithmetic too. The fills
 * get names of their own. */
#pragma once
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wall"
#pragma GCC diagnostic ignored "-Wextra"
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#pragma GCC diagnostic pop

#define avxvnni_fill_packed emulated_fill_vnni
#define avx512_fill_mm emulated_fill_mm
#define avx512_fill_packed emulated_fill_packed
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

static inline __attribute__((unused)) __m512i emulated_cvtepi8_epi32(__m128i v)
{
	__m512i wide;
	__m256i half[2] = { _mm256_cvtepi8_epi32(v),
	                    _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(v, v)) };

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

static inline __attribute__((unused)) __m512i emulated_srai_epi32(__m512i v, int n)
{
	__m256i half[2];

	__builtin_memcpy(half, &v, sizeof(half));
	half[0] = _mm256_srai_epi32(half[0], n);
	half[1] = _mm256_srai_epi32(half[1], n);
	__builtin_memcpy(&v, half, sizeof(v));
	return v;
}

static inline __attribute__((unused)) __m256i emulated_cvtepi32_epi16(__m512i v)
{
	uint32_t wide[16];
	uint16_t narrow[16];
	__m256i out;

	__builtin_memcpy(wide, &v, sizeof(wide));
	for (int i = 0; i < 16; i++)
		narrow[i] = (uint16_t)wide[i];
	__builtin_memcpy(&out, narrow, sizeof(out));
	return out;
}

/* SIMDe spells these two out product by product, which costs a minute to compile: they are most of
 * what the matrix products consist of. Sums of four products of 8 bits fit in 32. */
static __attribute__((unused, noinline)) __m256i emulated_dpbusd_256(__m256i sum, __m256i u,
                                                                     __m256i s)
{
	const __m256i lo = _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm256_castsi256_si128(u)),
	                                     _mm256_cvtepi8_epi16(_mm256_castsi256_si128(s)));
	const __m256i hi = _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm256_extracti128_si256(u, 1)),
	                                     _mm256_cvtepi8_epi16(_mm256_extracti128_si256(s, 1)));

	return _mm256_add_epi32(sum, _mm256_permute4x64_epi64(_mm256_hadd_epi32(lo, hi), 0xd8));
}

static __attribute__((unused, noinline)) __m512i emulated_dpbusd_512(__m512i sum, __m512i u,
                                                                     __m512i s)
{
	__m256i d[2], a[2], b[2];

	__builtin_memcpy(d, &sum, sizeof(d));
	__builtin_memcpy(a, &u, sizeof(a));
	__builtin_memcpy(b, &s, sizeof(b));
	d[0] = emulated_dpbusd_256(d[0], a[0], b[0]);
	d[1] = emulated_dpbusd_256(d[1], a[1], b[1]);
	__builtin_memcpy(&sum, d, sizeof(sum));
	return sum;
}
#undef _mm256_dpbusd_epi32
#undef _mm512_dpbusd_epi32
#undef _mm256_dpbusd_avx_epi32
#define _mm256_dpbusd_epi32(sum, u, s) emulated_dpbusd_256(sum, u, s)
#define _mm256_dpbusd_avx_epi32(sum, u, s) emulated_dpbusd_256(sum, u, s)
#define _mm512_dpbusd_epi32(sum, u, s) emulated_dpbusd_512(sum, u, s)
#define _mm512_srai_epi32(v, n) emulated_srai_epi32(v, n)
#define _mm512_cvtepi32_epi16(v) emulated_cvtepi32_epi16(v)
#define _mm512_cvtepi32_ps(v) emulated_cvtepi32_ps(v)
#define _mm512_cvtepi8_epi32(v) emulated_cvtepi8_epi32(v)
#define _mm512_cvtepu16_epi32(v) emulated_cvtepu16_epi32(v)
#define _mm512_cvtph_ps(v) emulated_cvtph_ps(v)
#define _mm512_cvtps_ph(v, rounding) emulated_cvtps_ph(v)
