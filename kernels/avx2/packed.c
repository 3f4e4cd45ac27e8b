/* packed - the AVX2 level's products with packed rows.
 *
 * 4 bytes of a token are broadcast against 4 codes of 8 rows: vpmaddubsw adds 2 x 16 bits, as many
 * as stay exact are added in 16 bits (limits: invariants of mm.c), and one vpmaddwd a group of 16
 * gives the exact int32 of each row. */
#include "kernels/levels.h"
#include "kernels/avx2/packed.h"

INLINE int bias_shift(const enum qtype type)
{
	return type_offset_shift(type);
}

INLINE void r16_dots(const enum qtype type, const __m256i c[2][4], const int8_t *x, __m256i d[2])
{
	const __m256i ones = _mm256_set1_epi16(1);
	/* steps that may be added before they are widened */
	const size_t run = type_is_signed(type) ? 1 : type == QTYPE_Q6_K ? 2 : 4;
	UNINIT __m256i w[2];

	UNROLL for (size_t i = 0; i < 4; i++) {
		const __m256i e = _mm256_set1_epi32(load32(x + 4 * i));

		UNROLL for (size_t h = 0; h < 2; h++) {
			__m256i u = c[h][i], v = e, p;

			if (type_is_signed(type)) {
				u = _mm256_abs_epi8(c[h][i]);
				v = _mm256_sign_epi8(e, c[h][i]);
			}
			p = _mm256_maddubs_epi16(u, v);
			w[h] = i % run == 0 ? p : _mm256_add_epi16(w[h], p);
			if (i % run != run - 1)
				continue;
			w[h] = _mm256_madd_epi16(w[h], ones);
			d[h] = i < run ? w[h] : _mm256_add_epi32(d[h], w[h]);
		}
		if (i % run != run - 1)
			KEEP_ORDER(w[0], w[1]);
	}
}

void avx2_fill_packed(struct kernels *k)
{
	packed_fill(k);
}
