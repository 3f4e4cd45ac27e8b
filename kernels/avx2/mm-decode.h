/* mm-decode - one to three tokens at a time against rows where they lie, eight rows at a time; one
 * copy a level.
 *
 * Each row's unit of 32 codes meets the token's 32 activations; a tree over four rows turns the
 * partial sums into [r0..r3 of the even group | r0..r3 of the odd group], whose two halves are
 * exactly the canonical acc[0] and acc[1]. The level gives `dots4`: exact int32 sums of four rows'
 * codes (biased by the type's offset) and activations. */
#pragma once
#include "kernels/avx2/codes.h"
#include "kernels/kernels.h"

enum { DECODE_GROUPS = 2 };     /* of four rows */

/* Sums of four vectors of int32, kept apart by 128-bit half. */
INLINE __m256i tree4(__m256i a, __m256i b, __m256i c, __m256i d)
{
	const __m256i ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b),
	                                    _mm256_unpackhi_epi32(a, b));
	const __m256i cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d),
	                                    _mm256_unpackhi_epi32(c, d));

	return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
}

/* [p[0] four times | p[1] four times] */
INLINE __m256 spread2(const void *p)
{
	double pair;

	memcpy(&pair, p, sizeof(pair));
	return _mm256_permutevar_ps(_mm256_castpd_ps(_mm256_set1_pd(pair)),
	                            _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
}

INLINE __m256i dots4(const enum qtype type, const __m256i c[4], __m256i x);
INLINE int bias_shift(const enum qtype type);

struct token_unit {
	__m256i x, bias;
	__m256 s, t;
};

INLINE void load_token(const enum qtype type, struct token_unit *u, const struct q16 *x,
                       size_t token, size_t unit)
{
	const size_t group = token * (x->k / 16) + 2 * unit;

	u->x = load256(x->q + token * x->k + 32 * unit);
	u->s = spread2(x->s + group);
	if (type_has_min(type))
		u->t = spread2(x->t + group);
	if (bias_shift(type) >= 0)
		u->bias = _mm256_slli_epi32(_mm256_castps_si256(spread2(x->sum + group)),
		                            bias_shift(type));
}

/* Rows [r, r + 8) and tokens [token, token + n_tok); rows past r1 are computed as copies of the
 * last, not stored. */
INLINE void decode_rows(const struct mm_args *m, const enum qtype type, size_t r, size_t token,
                        const size_t n_tok)
{
	const size_t n = m->r1 - r < 8 ? m->r1 - r : 8;
	const size_t bytes = type_bytes(type), n_unit = m->n_in / 32,
		     units = type_is_super(type) ? 8 : 1;
	const uint8_t *first = (const uint8_t *)m->w + r * m->row_bytes,
		      *ahead = first + 8 * m->row_bytes;
	const size_t ahead_step = 8 * bytes / units;
	UNINIT const uint8_t *row[DECODE_GROUPS][4];
	UNINIT __m256 acc[DECODE_GROUPS][3];

	UNROLL for (size_t i = 0; i < 4 * DECODE_GROUPS; i++)
		row[i / 4][i % 4] = first + (i < n ? i : n - 1) * m->row_bytes;
	UNROLL for (size_t g = 0; g < DECODE_GROUPS; g++)
		UNROLL for (size_t t = 0; t < n_tok; t++)
			acc[g][t] = _mm256_setzero_ps();
	for (size_t unit = 0; unit < n_unit; unit += units) {
		UNINIT struct factors f[DECODE_GROUPS];

		UNROLL for (size_t g = 0; g < DECODE_GROUPS; g++)
			load_factors(type, &f[g], row[g]);
		for (size_t sub = 0; sub < units; sub++) {
			UNINIT struct token_unit u[3];

			/* The next eight rows follow these in memory: ask for them evenly along the
			 * way. */
			UNROLL for (size_t line = 0; line < ahead_step; line += 64)
				_mm_prefetch((const char *)ahead + line, _MM_HINT_T0);
			ahead += ahead_step;
			UNROLL for (size_t t = 0; t < n_tok; t++)
				load_token(type, &u[t], m->q16, token + t, unit + sub);
			UNROLL for (size_t g = 0; g < DECODE_GROUPS; g++) {
				const __m256 a = unit_a(type, &f[g], sub);
				const __m256 c = type_has_min(type) ? unit_c(type, &f[g], sub) : a;
				UNINIT __m256i codes[4];

				UNROLL for (size_t i = 0; i < 4; i++)
					codes[i] = codes32(type, row[g][i], sub);
				UNROLL for (size_t t = 0; t < n_tok; t++) {
					__m256i d = dots4(type, codes, u[t].x);

					if (bias_shift(type) >= 0)
						d = _mm256_sub_epi32(d, u[t].bias);
					acc[g][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(d),
					                            _mm256_mul_ps(a, u[t].s),
					                            acc[g][t]);
					if (type_has_min(type))
						acc[g][t] = _mm256_fmadd_ps(c, u[t].t, acc[g][t]);
				}
			}
		}
		UNROLL for (size_t i = 0; i < 4 * DECODE_GROUPS; i++)
			row[i / 4][i % 4] += bytes;
	}
	UNROLL for (size_t t = 0; t < n_tok; t++) {
		float *y = m->y + (token + t) * m->ldy + r;
		UNINIT float out[8];

		UNROLL for (size_t g = 0; g < DECODE_GROUPS; g++)
			_mm_storeu_ps(out + 4 * g, _mm_add_ps(_mm256_castps256_ps128(acc[g][t]),
			                                      _mm256_extractf128_ps(acc[g][t], 1)));
		if (n == 8)
			_mm256_storeu_ps(y, _mm256_loadu_ps(out));
		else
			memcpy(y, out, n * sizeof(*y));
	}
}
