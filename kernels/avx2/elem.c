/* elem - the AVX2 level's element-wise kernels. */
#include "kernels/avx2/vec.h"
#include "kernels/tmpl-actq.h"
#include "kernels/tmpl-elem.h"
#include "kernels/tmpl-screen.h"
#include "kernels/levels.h"

#include <float.h>

/* 16 elements; see scalar/elem.c. Returns the codes' sum. */
INLINE int32_t quantize16(const float *x, int8_t *q, float *ret_s)
{
	const __m256i abs_mask = _mm256_set1_epi32(0x7fffffff);
	const __m256 x0 = _mm256_loadu_ps(x), x1 = _mm256_loadu_ps(x + 8);
	__m256i mag = _mm256_max_epu32(_mm256_and_si256(_mm256_castps_si256(x0), abs_mask),
	                               _mm256_and_si256(_mm256_castps_si256(x1), abs_mask));
	__m128i m = _mm_max_epu32(_mm256_castsi256_si128(mag), _mm256_extracti128_si256(mag, 1)),
		codes;
	__m256i q0, q1, words;
	float amax, inv;

	m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
	m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
	amax = _mm_cvtss_f32(_mm_castsi128_ps(m));
	inv = 127.0f / amax;
	*ret_s = amax / 127.0f;
	if (!(amax <= FLT_MAX && inv <= FLT_MAX)) {
		_mm_storeu_si128((__m128i *)q, _mm_setzero_si128());
		return 0;
	}
	q0 = _mm256_cvtps_epi32(_mm256_mul_ps(x0, _mm256_set1_ps(inv)));
	q1 = _mm256_cvtps_epi32(_mm256_mul_ps(x1, _mm256_set1_ps(inv)));
	words = _mm256_permute4x64_epi64(_mm256_packs_epi32(q0, q1), 0xd8);
	codes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
	_mm_storeu_si128((__m128i *)q, codes);
	/* Biased to unsigned, sad sums the bytes of each half. */
	m = _mm_sad_epu8(_mm_xor_si128(codes, _mm_set1_epi8(-128)), _mm_setzero_si128());
	return _mm_cvtsi128_si32(m) + _mm_extract_epi16(m, 4) - 16 * 128;
}

static uint64_t read_sum(const void *p, size_t n)
{
	__m256i sum[8] = { 0 };
	const char *bytes = p;
	uint64_t total = 0, words[4];
	size_t i;

	for (i = 0; i + 256 <= n; i += 256)
		UNROLL for (size_t l = 0; l < 8; l++) {
			_mm_prefetch(bytes + i + 4096 + 64 * (l / 2), _MM_HINT_T0);
			sum[l] = _mm256_add_epi64(
				sum[l], _mm256_loadu_si256((const __m256i *)(bytes + i + 32 * l)));
		}
	for (size_t l = 0; l < 8; l++) {
		_mm256_storeu_si256((__m256i *)words, sum[l]);
		total += words[0] + words[1] + words[2] + words[3];
	}
	for (; i + 8 <= n; i += 8) {
		memcpy(words, bytes + i, 8);
		total += words[0];
	}
	return total;
}

void avx2_fill_elem(struct kernels *k)
{
	elem_fill(k);
	screen_fill(k);
	actq_fill(k);
	k->read_sum = read_sum;
}
