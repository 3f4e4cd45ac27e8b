/* packed - products with packed rows by AVX-VNNI, for cores that have vpdpbusd and no AVX-512.
 *
 * One instruction takes 4 codes of 8 rows and 4 broadcast bytes of a token to exact int32. Signed
 * codes are biased by 128, a flip of the top bit, and the bias leaves through the sums of the
 * activations. The other products of this level are AVX2's. */
#include "kernels/levels.h"
#include "kernels/avx2/packed.h"

INLINE int bias_shift(const enum qtype type)
{
	return type_is_signed(type) ? 7 : type_offset_shift(type);
}

INLINE void r16_dots(const enum qtype type, const __m256i c[2][4], const int8_t *x, __m256i d[2])
{
	UNROLL for (size_t h = 0; h < 2; h++)
		d[h] = _mm256_setzero_si256();
	UNROLL for (size_t i = 0; i < 4; i++) {
		const __m256i e = _mm256_set1_epi32(load32(x + 4 * i));

		UNROLL for (size_t h = 0; h < 2; h++) {
			__m256i u = c[h][i];

			if (type_is_signed(type))
				u = _mm256_xor_si256(u, _mm256_set1_epi8(-128));
			d[h] = _mm256_dpbusd_avx_epi32(d[h], u, e);
		}
	}
}

void avxvnni_fill_packed(struct kernels *k)
{
	packed_fill(k);
}
