/* mm - AVX2 products. Up to three tokens: rows where they lie (mm-decode.h). More: panels.
 *
 * A panel is 16 rows unpacked into scratch in the order {k / 4, 16 rows, 4 bytes}, with a and c as one vector of rows
 * a group, and then met by two tokens at a time: 4 bytes of a token are broadcast, vpmaddubsw adds 2 x 16 bits, as
 * many as stay exact are added in 16 bits, and one vpmaddwd a group gives the exact int32 of each row.
 * Invariants:
 * 1. Unsigned codes up to 31: four vpmaddubsw fit int16 (31 * 127 * 2 * 4 = 31496); up to 63: two (32004).
 * 2. Signed 8-bit codes: panels of int16 and vpmaddwd; in place |w| and x with w's sign (128 * 127 * 2 = 32512). */
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
		p[i] = type_is_signed(type) ? _mm256_maddubs_epi16(_mm256_abs_epi8(c[i]), _mm256_sign_epi8(x, c[i])) :
		                              _mm256_maddubs_epi16(c[i], x);
	if (type_is_signed(type) || type == QTYPE_Q6_K) {
		UNROLL for (size_t i = 0; i < 4; i++)
			p[i] = _mm256_madd_epi16(p[i], ones);
		return tree4(p[0], p[1], p[2], p[3]);
	}
	/* Four sums of a row still fit 16 bits (invariant 1): the tree runs on pairs, one madd ends it. */
	ab = _mm256_add_epi16(_mm256_unpacklo_epi32(p[0], p[1]), _mm256_unpackhi_epi32(p[0], p[1]));
	cd = _mm256_add_epi16(_mm256_unpacklo_epi32(p[2], p[3]), _mm256_unpackhi_epi32(p[2], p[3]));
	return _mm256_madd_epi16(_mm256_add_epi16(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd)), ones);
}

INLINE size_t code_bytes(const enum qtype type)
{
	return type_is_signed(type) ? 2 : 1;
}

/* 32 codes of eight rows, `half` (0 or 1) of the panel. */
INLINE void panel_store_codes(const enum qtype type, uint8_t *out, __m256i v[8], size_t half)
{
	const __m256i low = _mm256_setr_epi8(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13,
	                                     -1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13);
	const __m256i high = _mm256_add_epi8(low, _mm256_set1_epi16(0x0200));

	transpose8(v);
	UNROLL for (size_t k4 = 0; k4 < 8; k4++) {
		if (!type_is_signed(type)) {
			_mm256_storeu_si256((__m256i *)(out + 64 * k4 + 32 * half), v[k4]);
			continue;
		}
		/* Each byte becomes the upper one of a word and is shifted down with its sign. */
		_mm256_storeu_si256((__m256i *)(out + 128 * k4 + 32 * half),
		                    _mm256_srai_epi16(_mm256_shuffle_epi8(v[k4], low), 8));
		_mm256_storeu_si256((__m256i *)(out + 128 * k4 + 64 + 32 * half),
		                    _mm256_srai_epi16(_mm256_shuffle_epi8(v[k4], high), 8));
	}
}

/* d[t][h] += one group of 16: 8 rows of half h, token t. */
INLINE void panel_dots(const enum qtype type, const uint8_t *codes, const void *const x[2], const size_t n_tok,
                       __m256i d[2][2])
{
	const __m256i ones = _mm256_set1_epi16(1);
	/* Steps that may be added before they are widened. */
	const size_t n_step = type_is_signed(type) ? 8 : 4, n_run = type == QTYPE_Q6_K ? 2 : 4;
	UNINIT __m256i w[2][2];

	UNROLL for (size_t step = 0; step < n_step; step++) {
		const __m256i c0 = load256(codes + 64 * step), c1 = load256(codes + 64 * step + 32);

		UNROLL for (size_t t = 0; t < n_tok; t++) {
			const __m256i e = _mm256_set1_epi32(load32((const char *)x[t] + 4 * step));
			__m256i p0, p1;

			if (type_is_signed(type)) {
				p0 = _mm256_madd_epi16(c0, e);
				p1 = _mm256_madd_epi16(c1, e);
				d[t][0] = step == 0 ? p0 : _mm256_add_epi32(d[t][0], p0);
				d[t][1] = step == 0 ? p1 : _mm256_add_epi32(d[t][1], p1);
				continue;
			}
			p0 = _mm256_maddubs_epi16(c0, e);
			p1 = _mm256_maddubs_epi16(c1, e);
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
INLINE void panel_group(const enum qtype type, const struct panel *p, const struct q16 *q16, size_t j, size_t token,
                        const size_t n_tok, const void *const x[2], __m256 acc[2][2])
{
	const size_t group_bytes = 16 * PANEL_ROWS * code_bytes(type), n_group = q16->k / 16;
	const __m256 a[2] = { _mm256_loadu_ps(p->a + j * PANEL_ROWS), _mm256_loadu_ps(p->a + j * PANEL_ROWS + 8) };
	UNINIT __m256i d[2][2];

	panel_dots(type, p->codes + j * group_bytes, x, n_tok, d);
	UNROLL for (size_t t = 0; t < n_tok; t++) {
		const size_t g = (token + t) * n_group + j;
		const __m256 s = _mm256_set1_ps(q16->s[g]);

		UNROLL for (size_t h = 0; h < 2; h++) {
			if (bias_shift(type) >= 0)
				d[t][h] = _mm256_sub_epi32(d[t][h], _mm256_slli_epi32(_mm256_set1_epi32(q16->sum[g]), bias_shift(type)));
			acc[t][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(d[t][h]), _mm256_mul_ps(a[h], s), acc[t][h]);
			if (type_has_min(type))
				acc[t][h] = _mm256_fmadd_ps(_mm256_loadu_ps(p->c + j * PANEL_ROWS + 8 * h),
				                            _mm256_set1_ps(q16->t[g]), acc[t][h]);
		}
	}
}

INLINE void widen(int16_t *out, const int8_t *x, size_t n)
{
	for (size_t i = 0; i < n; i += 16)
		_mm256_storeu_si256((__m256i *)(out + i), _mm256_cvtepi8_epi16(load128(x + i)));
}

/* The panel of rows [r, r + n) with tokens [token, token + n_tok). */
INLINE void panel_tokens(const struct mm_args *m, const enum qtype type, const struct panel *p, size_t r, size_t n,
                         size_t token, const size_t n_tok)
{
	const size_t step = type_is_signed(type) ? 32 : 16;     /* bytes of a group of activations */
	UNINIT __m256 even[2][2], odd[2][2];
	const uint8_t *x[2];

	UNROLL for (size_t t = 0; t < n_tok; t++) {
		const int8_t *q = m->q16->q + (token + t) * m->n_in;

		x[t] = (const uint8_t *)q;
		if (type_is_signed(type)) {
			widen(p->x + t * m->n_in, q, m->n_in);
			x[t] = (const uint8_t *)(p->x + t * m->n_in);
		}
		UNROLL for (size_t h = 0; h < 2; h++)
			even[t][h] = odd[t][h] = _mm256_setzero_ps();
	}
	for (size_t j = 0; j < m->n_in / 16; j += 2) {
		const void *const x0[2] = { x[0], n_tok > 1 ? x[1] : NULL };
		const void *const x1[2] = { x[0] + step, n_tok > 1 ? x[1] + step : NULL };

		panel_group(type, p, m->q16, j, token, n_tok, x0, even);
		panel_group(type, p, m->q16, j + 1, token, n_tok, x1, odd);
		UNROLL for (size_t t = 0; t < n_tok; t++)
			x[t] += 2 * step;
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

	panel_bind(&p, m, type);
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
