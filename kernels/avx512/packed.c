/* packed - AVX-512 VNNI products with packed rows (kernels/pack.h): 16 rows are one vector.
 *
 * vpdpbusd takes 4 codes of 16 rows and 4 broadcast bytes of a token to the rows' exact int32; four
 * of them are a group of 16. Signed codes are biased by 128, so that every type has unsigned codes
 * and one offset, with which the sum starts. Sums of up to eight tokens stay in registers; more
 * tokens pass the group of rows, which stays in the first or second cache, by eights. */
#include "kernels/levels.h"
#include "kernels/avx512/r16.h"
#include "kernels/kernels.h"

enum {
	BLOCK_TOKENS = 8,
	AHEAD = 4096,           /* bytes of the stream asked for in advance */
};

/* Group `odd` of a unit into the sums of its parity; g is the group of the first token. */
INLINE void fold512(const enum qtype type, const struct factors512 *f, const uint8_t *unit,
                    size_t sub, const size_t odd, const struct q16 *x, size_t g,
                    const size_t n_tok, __m512 acc[BLOCK_TOKENS][2])
{
	const size_t scale = r16_scale(type, sub, odd), step = x->k / 16;
	__m512 a = f->d, c = a;
	UNINIT __m512i q[4];

	if (type_is_super(type))
		a = _mm512_mul_ps(a, signed_bytes512(f->f.sc[scale]));
	if (type_has_min(type))
		c = type_is_super(type) ? _mm512_mul_ps(f->m, signed_bytes512(f->f.mn[scale]))
		                        : f->m;
	UNROLL for (size_t i = 0; i < 4; i++)
		q[i] = codes512(type, unit, 4 * odd + i);
	UNROLL for (size_t t = 0; t < n_tok; t++, g += step) {
		const int8_t *e = x->q + 16 * g;
		__m512i d = _mm512_setzero_si512();

		if (bias_shift(type) >= 0)
			d = _mm512_set1_epi32(-(x->sum[g] * (1 << bias_shift(type))));
		UNROLL for (size_t i = 0; i < 4; i++)
			d = _mm512_dpbusd_epi32(d, q[i], _mm512_set1_epi32(load32(e + 4 * i)));
		acc[t][odd] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(d),
		                              _mm512_mul_ps(a, _mm512_set1_ps(x->s[g])),
		                              acc[t][odd]);
		if (type_has_min(type))
			acc[t][odd] = _mm512_fmadd_ps(c, _mm512_set1_ps(x->t[g]), acc[t][odd]);
	}
}

/* n rows from r on with tokens [token, token + n_tok). */
INLINE void rows512(const struct mm_args *m, const enum qtype type, size_t r, size_t n,
                    size_t token, const size_t n_tok)
{
	const uint8_t *group = (const uint8_t *)m->w + r * m->row_bytes;
	const size_t units = r16_units(type), n_blocks = m->n_in / (32 * units);
	const size_t first = token * (m->q16->k / 16);
	UNINIT __m512 acc[BLOCK_TOKENS][2];

	UNROLL for (size_t t = 0; t < n_tok; t++)
		acc[t][0] = acc[t][1] = _mm512_setzero_ps();
	for (size_t i = 0; i < n_blocks; i++) {
		const uint8_t *body = group + r16_body_at(type, i);
		const uint8_t *unit = body + PACK_ROWS * r16_fields(type).n_scales;
		UNINIT struct factors512 f;

		load_factors512(type, &f, group + r16_factor_at(type, i), body);
		for (size_t sub = 0; sub < units; sub++, unit += r16_unit_bytes(type)) {
			const size_t g = first + 2 * (i * units + sub);

			UNROLL for (size_t line = 0; line < r16_unit_bytes(type); line += 64)
				_mm_prefetch((const char *)unit + AHEAD + line, _MM_HINT_T0);
			fold512(type, &f, unit, sub, 0, m->q16, g, n_tok, acc);
			fold512(type, &f, unit, sub, 1, m->q16, g + 1, n_tok, acc);
		}
	}
	UNROLL for (size_t t = 0; t < n_tok; t++) {
		float *y = m->y + (token + t) * m->ldy + r;
		UNINIT float out[PACK_ROWS];

		_mm512_storeu_ps(n == PACK_ROWS ? y : out, _mm512_add_ps(acc[t][0], acc[t][1]));
		if (n < PACK_ROWS)
			memcpy(y, out, n * sizeof(*y));
	}
}

/* The rest of a block of tokens goes by powers of two. */
INLINE void mm512(const struct mm_args *m, const enum qtype type)
{
	for (size_t r = m->r0; r < m->r1; r += PACK_ROWS) {
		const size_t n = m->r1 - r < PACK_ROWS ? m->r1 - r : PACK_ROWS;
		size_t t = 0;

		for (; t + 8 <= m->n_tok; t += 8)
			rows512(m, type, r, n, t, 8);
		if (t + 4 <= m->n_tok) {
			rows512(m, type, r, n, t, 4);
			t += 4;
		}
		if (t + 2 <= m->n_tok) {
			rows512(m, type, r, n, t, 2);
			t += 2;
		}
		if (t < m->n_tok)
			rows512(m, type, r, n, t, 1);
	}
}

#define DEFINE_PACKED(name, id) \
	static void packed_##name(const struct mm_args *m) \
	{ \
		mm512(m, QTYPE_##id); \
	}
Q16_TYPES(DEFINE_PACKED)

void avx512_fill_packed(struct kernels *k)
{
#define SET_PACKED(name, id) k->mm_packed[QTYPE_##id] = packed_##name;
	Q16_TYPES(SET_PACKED)
}
