/* dequant - rows to float with the products' own unpacking. As in scalar, a * q is exact and the
 * sum with c is the only rounding. */
#pragma once
#include "kernels/avx2/codes.h"

/* The factor of the even (0) or the odd (1) group of a unit, to all lanes. */
INLINE __m256 spread_group(__m256 v, const int odd)
{
	const __m128 half = odd ? _mm256_extractf128_ps(v, 1) : _mm256_castps256_ps128(v);

	return _mm256_broadcastss_ps(half);
}

INLINE void dequant(float *y, const void *row, size_t n, const enum qtype type)
{
	const size_t units = type_is_super(type) ? 8 : 1;
	const uint8_t *block = row;

	for (size_t i = 0; i < n; block += type_bytes(type)) {
		const uint8_t *const same[4] = { block, block, block, block };
		UNINIT struct factors f;

		load_factors(type, &f, same);
		for (size_t unit = 0; unit < units; unit++, i += 32) {
			const __m256 a = unit_a(type, &f, unit),
				     c = type_has_min(type) ? unit_c(type, &f, unit) : a;
			UNINIT int8_t codes[32];
			__m256i q = codes32(type, block, unit);

			if (type_offset_shift(type) >= 0)
				q = _mm256_sub_epi8(
					q, _mm256_set1_epi8((char)(1 << type_offset_shift(type))));
			_mm256_storeu_si256((__m256i *)codes, q);
			UNROLL for (size_t part = 0; part < 4; part++) {
				__m256 w = _mm256_mul_ps(spread_group(a, part >= 2),
				                         signed_bytes(codes + 8 * part));

				if (type_has_min(type))
					w = _mm256_add_ps(w, spread_group(c, part >= 2));
				_mm256_storeu_ps(y + i + 8 * part, w);
			}
		}
	}
}
