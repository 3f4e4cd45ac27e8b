/* mm - AVX-512 VNNI products: the AVX2 scheme with vpdpbusd, which adds four products exactly in
 * int32.
 *
 * Signed 8-bit codes are biased by 128 (a flip of the top bit), so that every type has unsigned
 * codes and one offset, taken off through the sums of the activations. In place: 256-bit vectors
 * and AVX2's tree. Panels: 16 rows are one vector, {k / 4, 16 rows, 4 bytes}; four tokens share
 * each load of codes and factors. */
#include "kernels/levels.h"
#include "kernels/avx2/mm-decode.h"
#include "kernels/avx2/mm-panel.h"

INLINE int bias_shift(const enum qtype type)
{
	return type_is_signed(type) ? 7 : type_offset_shift(type);
}

INLINE __m256i unsigned_codes(const enum qtype type, __m256i v)
{
	return type_is_signed(type) ? _mm256_xor_si256(v, _mm256_set1_epi8(-128)) : v;
}

INLINE __m256i dots4(const enum qtype type, const __m256i c[4], __m256i x)
{
	UNINIT __m256i p[4];

	UNROLL for (size_t i = 0; i < 4; i++)
		p[i] = _mm256_dpbusd_epi32(_mm256_setzero_si256(), unsigned_codes(type, c[i]), x);
	return tree4(p[0], p[1], p[2], p[3]);
}

INLINE bool in_panels(const enum qtype type)
{
	(void)type;
	return true;
}

INLINE void panel_store_codes(const enum qtype type, uint8_t *out, __m256i v[8], size_t half)
{
	UNROLL for (size_t i = 0; i < 8; i++)
		v[i] = unsigned_codes(type, v[i]);
	transpose8(v);
	UNROLL for (size_t k4 = 0; k4 < 8; k4++)
		_mm256_storeu_si256((__m256i *)(out + 64 * k4 + 32 * half), v[k4]);
}

/* Group j of tokens [token, token + n_tok) into the sums of its parity. */
INLINE void panel_group(const enum qtype type, const struct panel *p, const struct q16 *x, size_t j,
                        size_t token, const size_t n_tok, __m512 acc[4])
{
	const uint8_t *codes = p->codes + j * 16 * PANEL_ROWS;
	const __m512 a = _mm512_loadu_ps(p->a + j * PANEL_ROWS);
	const __m512 c = type_has_min(type) ? _mm512_loadu_ps(p->c + j * PANEL_ROWS) : a;
	UNINIT __m512i d[4];

	UNROLL for (size_t t = 0; t < n_tok; t++) {
		const size_t g = (token + t) * (x->k / 16) + j;

		/* The sum starts from minus the bias of its activations. */
		d[t] = bias_shift(type) >= 0
		               ? _mm512_set1_epi32(-(x->sum[g] * (1 << bias_shift(type))))
		               : _mm512_setzero_si512();
	}
	UNROLL for (size_t step = 0; step < 4; step++) {
		const __m512i q = _mm512_loadu_si512(codes + 64 * step);

		UNROLL for (size_t t = 0; t < n_tok; t++) d[t] = _mm512_dpbusd_epi32(
			d[t], q,
			_mm512_set1_epi32(load32(x->q + (token + t) * x->k + 16 * j + 4 * step)));
	}
	UNROLL for (size_t t = 0; t < n_tok; t++) {
		const size_t g = (token + t) * (x->k / 16) + j;

		acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(d[t]),
		                         _mm512_mul_ps(a, _mm512_set1_ps(x->s[g])), acc[t]);
		if (type_has_min(type))
			acc[t] = _mm512_fmadd_ps(c, _mm512_set1_ps(x->t[g]), acc[t]);
	}
}

/* The panel of rows [r, r + n) with tokens [token, token + n_tok). */
INLINE void panel_tokens(const struct mm_args *m, const enum qtype type, const struct panel *p,
                         size_t r, size_t n, size_t token, const size_t n_tok)
{
	UNINIT __m512 even[4], odd[4];

	UNROLL for (size_t t = 0; t < n_tok; t++)
		even[t] = odd[t] = _mm512_setzero_ps();
	for (size_t j = 0; j < m->n_in / 16; j += 2) {
		panel_group(type, p, m->q16, j, token, n_tok, even);
		panel_group(type, p, m->q16, j + 1, token, n_tok, odd);
	}
	UNROLL for (size_t t = 0; t < n_tok; t++) {
		float *y = m->y + (token + t) * m->ldy + r;
		UNINIT float out[PANEL_ROWS];

		_mm512_storeu_ps(n == PANEL_ROWS ? y : out, _mm512_add_ps(even[t], odd[t]));
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
		for (; t + 4 <= m->n_tok; t += 4)
			panel_tokens(m, type, &p, r, n, t, 4);
		for (; t < m->n_tok; t++)
			panel_tokens(m, type, &p, r, n, t, 1);
	}
}

MM_ENTRIES

void avx512_fill_mm(struct kernels *k)
{
	MM_SET(k, "avx512")
}
