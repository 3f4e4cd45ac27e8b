/* packed - products with packed rows (kernels/pack.h) in vectors of eight rows, 16 rows at a time;
 * one copy a level.
 *
 * One token: codes go from the stream to the sums of the rows in registers.
 * More: a group of 16 elements of 16 rows is unpacked to eight registers and met by every token;
 * the tokens' sums, 128 bytes each, stay in the first cache.
 * The level gives `r16_dots`, exact sums of one group: 4 x 4 codes of twice 8 rows and 16
 * activations, and `bias_shift`: log2 of what its codes are above the weights, or -1. No sum runs
 * across lanes. */
#pragma once
#include "kernels/avx2/r16.h"
#include "kernels/kernels.h"

enum {
	BLOCK_TOKENS = 64,      /* whose sums are half of scratch's fixed part */
	AHEAD = 2048,           /* bytes of the stream asked for in advance */
};

/* Both are done here, and what comes later is not begun: its loads would take registers from codes
 * that stay in them over all tokens. */
#define KEEP_ORDER(a, b) __asm__ volatile("" : "+x"(a), "+x"(b))

INLINE int bias_shift(const enum qtype type);
INLINE void r16_dots(const enum qtype type, const __m256i c[2][4], const int8_t *x, __m256i d[2]);

/* Group `odd` of a unit in registers, by half: factors and codes. */
struct r16_group {
	__m256 a[2], c[2];
	__m256i codes[2][4];
};

INLINE void r16_load_group(const enum qtype type, struct r16_group *p, const struct r16_factors *f,
                           const uint8_t *unit, size_t sub, const size_t odd)
{
	UNROLL for (size_t half = 0; half < 2; half++) {
		p->a[half] = r16_a(type, f, sub, odd, half);
		if (type_has_min(type))
			p->c[half] = r16_c(type, f, sub, odd, half);
		UNROLL for (size_t k4 = 0; k4 < 4; k4++)
			p->codes[half][k4] = r16_codes(type, unit, half, 4 * odd + k4);
	}
}

/* The sums y of a token plus the share of its group g. The halves go side by side and share what is
 * broadcast. */
INLINE void r16_fold(const enum qtype type, const struct r16_group *p, const struct q16 *x,
                     size_t g, __m256 y[2])
{
	const int shift = bias_shift(type);
	UNINIT __m256i d[2];

	r16_dots(type, p->codes, x->q + 16 * g, d);
	UNROLL for (size_t half = 0; half < 2; half++) {
		if (shift >= 0)
			d[half] = _mm256_sub_epi32(
				d[half], _mm256_slli_epi32(_mm256_set1_epi32(x->sum[g]), shift));
		y[half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(d[half]),
		                          _mm256_mul_ps(p->a[half], _mm256_set1_ps(x->s[g])),
		                          y[half]);
	}
	if (!type_has_min(type))
		return;
	KEEP_ORDER(y[0], y[1]);
	UNROLL for (size_t half = 0; half < 2; half++)
		y[half] = _mm256_fmadd_ps(p->c[half], _mm256_set1_ps(x->t[g]), y[half]);
}

/* Ask for the part of the stream that lies AHEAD of n bytes at p. */
INLINE void r16_prefetch(const uint8_t *p, const size_t n)
{
	UNROLL for (size_t line = 0; line < n; line += 64)
		_mm_prefetch((const char *)p + AHEAD + line, _MM_HINT_T0);
}

INLINE void store_rows(float *y, size_t n, __m256 lo, __m256 hi)
{
	UNINIT float out[PACK_ROWS];
	float *to = n == PACK_ROWS ? y : out;

	_mm256_storeu_ps(to, lo);
	_mm256_storeu_ps(to + 8, hi);
	if (n < PACK_ROWS)
		memcpy(y, out, n * sizeof(*y));
}

/* One token, n rows from r on. */
INLINE void r16_decode(const struct mm_args *m, const enum qtype type, size_t r, size_t n)
{
	const uint8_t *group = (const uint8_t *)m->w + r * m->row_bytes;
	const size_t units = r16_units(type), n_blocks = m->n_in / (32 * units);
	const struct q16 *x = m->q16;
	UNINIT __m256 acc[2][2];        /* [odd][half] */

	UNROLL for (size_t odd = 0; odd < 2; odd++)
		acc[odd][0] = acc[odd][1] = _mm256_setzero_ps();
	for (size_t i = 0; i < n_blocks; i++) {
		const uint8_t *body = group + r16_body_at(type, i);
		const uint8_t *unit = body + PACK_ROWS * r16_fields(type).n_scales;
		UNINIT struct r16_factors f;

		r16_load_factors(type, &f, group + r16_factor_at(type, i), body);
		for (size_t sub = 0; sub < units; sub++, unit += r16_unit_bytes(type)) {
			const size_t g = 2 * (i * units + sub);

			r16_prefetch(unit, r16_unit_bytes(type));
			UNROLL for (size_t odd = 0; odd < 2; odd++) {
				UNINIT struct r16_group p;

				r16_load_group(type, &p, &f, unit, sub, odd);
				r16_fold(type, &p, x, g + odd, acc[odd]);
			}
		}
	}
	store_rows(m->y + r, n, _mm256_add_ps(acc[0][0], acc[1][0]),
	           _mm256_add_ps(acc[0][1], acc[1][1]));
}

/* Group `odd` of a unit with tokens [token, token + n_tok), whose sums are at acc. */
INLINE void r16_tokens(const struct q16 *x, const enum qtype type, const struct r16_factors *f,
                       const uint8_t *unit, size_t sub, size_t g, const size_t odd, size_t token,
                       size_t n_tok, float *acc)
{
	const size_t step = x->k / 16;
	UNINIT struct r16_group p;

	r16_load_group(type, &p, f, unit, sub, odd);
	g += odd + token * step;
	acc += 16 * odd;
	for (const float *end = acc + 32 * n_tok; acc < end; g += step, acc += 32) {
		__m256 y[2] = { _mm256_load_ps(acc), _mm256_load_ps(acc + 8) };

		r16_fold(type, &p, x, g, y);
		_mm256_store_ps(acc, y[0]);
		_mm256_store_ps(acc + 8, y[1]);
	}
}

/* n rows from r on, BLOCK_TOKENS at most. */
INLINE void r16_small(const struct mm_args *m, const enum qtype type, size_t r, size_t n,
                      size_t token, size_t n_tok)
{
	const uint8_t *group = (const uint8_t *)m->w + r * m->row_bytes;
	const size_t units = r16_units(type), n_blocks = m->n_in / (32 * units);
	const struct q16 x = *m->q16;   /* no store through acc can change a copy */
	float *acc = m->scratch;        /* [token][odd][16 rows] */

	memset(acc, 0, n_tok * 32 * sizeof(*acc));
	for (size_t i = 0; i < n_blocks; i++) {
		const uint8_t *body = group + r16_body_at(type, i);
		const uint8_t *unit = body + PACK_ROWS * r16_fields(type).n_scales;
		UNINIT struct r16_factors f;

		r16_load_factors(type, &f, group + r16_factor_at(type, i), body);
		for (size_t sub = 0; sub < units; sub++, unit += r16_unit_bytes(type)) {
			const size_t g = 2 * (i * units + sub);

			r16_prefetch(unit, r16_unit_bytes(type));
			r16_tokens(&x, type, &f, unit, sub, g, 0, token, n_tok, acc);
			r16_tokens(&x, type, &f, unit, sub, g, 1, token, n_tok, acc);
		}
	}
	for (size_t t = 0; t < n_tok; t++, acc += 32)
		store_rows(m->y + (token + t) * m->ldy + r, n,
		           _mm256_add_ps(_mm256_load_ps(acc), _mm256_load_ps(acc + 16)),
		           _mm256_add_ps(_mm256_load_ps(acc + 8), _mm256_load_ps(acc + 24)));
}

/* Functions apart, for their registers' sake: one token, and more. */
INLINE void r16_one(const struct mm_args *m, const enum qtype type)
{
	for (size_t r = m->r0; r < m->r1; r += PACK_ROWS)
		r16_decode(m, type, r, m->r1 - r < PACK_ROWS ? m->r1 - r : PACK_ROWS);
}

INLINE void r16_many(const struct mm_args *m, const enum qtype type)
{
	for (size_t t = 0, n_tok; t < m->n_tok; t += n_tok) {
		n_tok = m->n_tok - t < BLOCK_TOKENS ? m->n_tok - t : BLOCK_TOKENS;
		for (size_t r = m->r0; r < m->r1; r += PACK_ROWS)
			r16_small(m, type, r, m->r1 - r < PACK_ROWS ? m->r1 - r : PACK_ROWS, t,
			          n_tok);
	}
}

#define DEFINE_PACKED(name, id) \
	static __attribute__((noinline)) void many_##name(const struct mm_args *m) \
	{ \
		r16_many(m, QTYPE_##id); \
	} \
	static void packed_##name(const struct mm_args *m) \
	{ \
		if (m->n_tok > 1) \
			many_##name(m); \
		else \
			r16_one(m, QTYPE_##id); \
	}
#define SET_PACKED(name, id) k->mm_packed[QTYPE_##id] = packed_##name;
Q16_TYPES(DEFINE_PACKED)

static void packed_fill(struct kernels *k)
{
	Q16_TYPES(SET_PACKED)
}
