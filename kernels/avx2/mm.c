/* mm - AVX2 products. Up to three tokens: rows where they lie (mm-decode.h). More: panels.
 *
 * A panel is 16 rows unpacked into scratch in the order {k / 4, 16 rows, 4 bytes}, with a and c as
 * vectors of rows for each group, and then met by two tokens at a time: 4 bytes of a token are
 * broadcast, vpmaddubsw adds 2 x 16 bits, as many as stay exact are added in 16 bits, and one
 * vpmaddwd a group gives the exact int32 of each row.
 * Invariants:
 * 1. Unsigned codes up to 31: four vpmaddubsw fit int16 (31 * 127 * 2 * 4 = 31496); up to 63: two
 *    (32004).
 * 2. Signed 8-bit codes: |w| and x with w's sign (128 * 127 * 2 = 32512), always in place, three
 *    tokens at a time: at 4 to 8 tokens about 1.5 times as fast as panels widened to int16. */
#include "kernels/levels.h"
#include "kernels/avx2/mm-decode.h"
#include "kernels/avx2/mm-panel.h"

INLINE int bias_shift(const enum qtype type)
{
	return type_offset_shift(type);
}

INLINE __m256i dots4(const enum qtype type, const __m256i c[4], __m256i x)
{
	const __m256i ones = _mm256_set1_epi16(1);
	UNINIT __m256i p[4];
	__m256i ab, cd;

	UNROLL for (size_t i = 0; i < 4; i++)
		p[i] = type_is_signed(type) ? _mm256_maddubs_epi16(_mm256_abs_epi8(c[i]),
	                                                           _mm256_sign_epi8(x, c[i]))
	                                    : _mm256_maddubs_epi16(c[i], x);
	if (type_is_signed(type) || type == QTYPE_Q6_K) {
		UNROLL for (size_t i = 0; i < 4; i++)
			p[i] = _mm256_madd_epi16(p[i], ones);
		return tree4(p[0], p[1], p[2], p[3]);
	}
	/* Four sums of a row still fit 16 bits (invariant 1): the tree runs on pairs, one madd ends
	 * it. */
	ab = _mm256_add_epi16(_mm256_unpacklo_epi32(p[0], p[1]), _mm256_unpackhi_epi32(p[0], p[1]));
	cd = _mm256_add_epi16(_mm256_unpacklo_epi32(p[2], p[3]), _mm256_unpackhi_epi32(p[2], p[3]));
	return _mm256_madd_epi16(
		_mm256_add_epi16(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd)),
		ones);
}

INLINE bool in_panels(const enum qtype type)
{
	return !type_is_signed(type);
}

/* 32 codes of eight rows, `half` (0 or 1) of the panel. */
INLINE void panel_store_codes(const enum qtype type, uint8_t *out, __m256i v[8], size_t half)
{
	(void)type;
	transpose8(v);
	UNROLL for (size_t k4 = 0; k4 < 8; k4++)
		_mm256_storeu_si256((__m256i *)(out + 64 * k4 + 32 * half), v[k4]);
}

/* d[t][h] += one group of 16: 8 rows of half h, token t. */
INLINE void panel_dots(const enum qtype type, const uint8_t *codes, const int8_t *const x[2],
                       const size_t n_tok, __m256i d[2][2])
{
	const __m256i ones = _mm256_set1_epi16(1);
	/* steps that may be added before they are widened */
	const size_t n_run = type == QTYPE_Q6_K ? 2 : 4;
	UNINIT __m256i w[2][2];

	UNROLL for (size_t step = 0; step < 4; step++) {
		const __m256i c0 = load256(codes + 64 * step), c1 = load256(codes + 64 * step + 32);

		UNROLL for (size_t t = 0; t < n_tok; t++) {
			const __m256i e = _mm256_set1_epi32(load32(x[t] + 4 * step));
			__m256i p0 = _mm256_maddubs_epi16(c0, e), p1 = _mm256_maddubs_epi16(c1, e);

			w[t][0] = step % n_run == 0 ? p0 : _mm256_add_epi16(w[t][0], p0);
			w[t][1] = step % n_run == 0 ? p1 : _mm256_add_epi16(w[t][1], p1);
			if (step % n_run != n_run - 1)
				continue;
			p0 = _mm256_madd_epi16(w[t][0], ones);
			p1 = _mm256_madd_epi16(w[t][1], ones);
			d[t][0] = step < n_run ? p0 : _mm256_add_epi32(d[t][0], p0);
			d[t][1] = step < n_run ? p1 : _mm256_add_epi32(d[t][1], p1);
		}
	}
}

/* One group into the sums of its parity. */
INLINE void panel_group(const enum qtype type, const struct panel *p, const struct q16 *q16,
                        size_t j, size_t token, const size_t n_tok, const int8_t *const x[2],
                        __m256 acc[2][2])
{
	const size_t n_group = q16->k / 16;
	const __m256 a[2] = { _mm256_loadu_ps(p->a + j * PANEL_ROWS),
		              _mm256_loadu_ps(p->a + j * PANEL_ROWS + 8) };
	UNINIT __m256i d[2][2];

	panel_dots(type, p->codes + j * 16 * PANEL_ROWS, x, n_tok, d);
	UNROLL for (size_t t = 0; t < n_tok; t++) {
		const size_t g = (token + t) * n_group + j;
		const __m256 s = _mm256_set1_ps(q16->s[g]);

		UNROLL for (size_t h = 0; h < 2; h++) {
			if (bias_shift(type) >= 0)
				d[t][h] = _mm256_sub_epi32(
					d[t][h], _mm256_slli_epi32(_mm256_set1_epi32(q16->sum[g]),
				                                   bias_shift(type)));
			acc[t][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(d[t][h]),
			                            _mm256_mul_ps(a[h], s), acc[t][h]);
			if (type_has_min(type))
				acc[t][h] = _mm256_fmadd_ps(
					_mm256_loadu_ps(p->c + j * PANEL_ROWS + 8 * h),
					_mm256_set1_ps(q16->t[g]), acc[t][h]);
		}
	}
}

/* The panel of rows [r, r + n) with tokens [token, token + n_tok). */
INLINE void panel_tokens(const struct mm_args *m, const enum qtype type, const struct panel *p,
                         size_t r, size_t n, size_t token, const size_t n_tok)
{
	UNINIT __m256 even[2][2], odd[2][2];
	UNINIT const int8_t *x[2];

	UNROLL for (size_t t = 0; t < n_tok; t++) {
		x[t] = m->q16->q + (token + t) * m->n_in;
		UNROLL for (size_t h = 0; h < 2; h++)
			even[t][h] = odd[t][h] = _mm256_setzero_ps();
	}
	for (size_t j = 0; j < m->n_in / 16; j += 2) {
		const int8_t *const x0[2] = { x[0], n_tok > 1 ? x[1] : NULL };
		const int8_t *const x1[2] = { x[0] + 16, n_tok > 1 ? x[1] + 16 : NULL };

		panel_group(type, p, m->q16, j, token, n_tok, x0, even);
		panel_group(type, p, m->q16, j + 1, token, n_tok, x1, odd);
		UNROLL for (size_t t = 0; t < n_tok; t++)
			x[t] += 32;
	}
	UNROLL for (size_t t = 0; t < n_tok; t++) {
		float *y = m->y + (token + t) * m->ldy + r;
		UNINIT float out[PANEL_ROWS];
		float *to = n == PANEL_ROWS ? y : out;


		UNROLL for (size_t h = 0; h < 2; h++)
			_mm256_storeu_ps(to + 8 * h, _mm256_add_ps(even[t][h], odd[t][h]));
		if (n < PANEL_ROWS)
			memcpy(y, out, n * sizeof(*y));
	}
}

INLINE void panels(const struct mm_args *m, const enum qtype type)
{
	struct panel p;

	panel_bind(&p, m);
	for (size_t r = m->r0; r < m->r1; r += PANEL_ROWS) {
		const size_t n = m->r1 - r < PANEL_ROWS ? m->r1 - r : PANEL_ROWS;
		size_t t = 0;

		panel_unpack(m, type, &p, r, n);
		for (; t + 2 <= m->n_tok; t += 2)
			panel_tokens(m, type, &p, r, n, t, 2);
		if (t < m->n_tok)
			panel_tokens(m, type, &p, r, n, t, 1);
	}
}

MM_ENTRIES

void avx2_fill_mm(struct kernels *k)
{
	MM_SET(k, "avx2")
}
