/* mm-panel - unpacking 16 rows into scratch, shared by the levels.
 *
 * The level gives `panel_store_codes`, which writes 32 codes of eight rows as {k / 4, 16 rows, 4
 * bytes}, and `in_panels`: which types are worth it. */
#pragma once
#include "kernels/avx2/codes.h"
#include "kernels/kernels.h"

enum { PANEL_ROWS = 16 };

/* Scratch of a call: codes, then a and c as [group][16 rows]: 24 bytes an input. */
struct panel {
	uint8_t *codes;
	float *a, *c;
};

INLINE bool in_panels(const enum qtype type);
INLINE void panel_store_codes(const enum qtype type, uint8_t *out, __m256i v[8], size_t half);

/* v[row] has 8 lanes of 4 bytes; afterwards v[k4] has the rows' lanes. */
INLINE void transpose8(__m256i v[8])
{
	UNINIT __m256i t[8], u[8];

	UNROLL for (size_t i = 0; i < 8; i += 2) {
		t[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
		t[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
	}
	UNROLL for (size_t i = 0; i < 8; i += 4)
		UNROLL for (size_t j = 0; j < 2; j++) {
			u[i + 2 * j] = _mm256_unpacklo_epi64(t[i + j], t[i + j + 2]);
			u[i + 2 * j + 1] = _mm256_unpackhi_epi64(t[i + j], t[i + j + 2]);
		}
	UNROLL for (size_t i = 0; i < 4; i++) {
		v[i] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x20);
		v[i + 4] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x31);
	}
}

/* Factors of eight rows from those of two times four: one vector a group of 16. */
INLINE void panel_store_factors(float *out, __m256 lo, __m256 hi)
{
	_mm256_storeu_ps(out, _mm256_permute2f128_ps(lo, hi, 0x20));
	_mm256_storeu_ps(out + PANEL_ROWS, _mm256_permute2f128_ps(lo, hi, 0x31));
}

/* Unpack rows [r, r + n), n <= 16; missing rows repeat the last. */
INLINE void panel_unpack(const struct mm_args *m, const enum qtype type, const struct panel *p,
                         size_t r, size_t n)
{
	const size_t bytes = type_bytes(type), units = type_is_super(type) ? 8 : 1;

	for (size_t half = 0; half < 2; half++) {
		const uint8_t *row[8];

		for (size_t i = 0; i < 8; i++) {
			const size_t at = 8 * half + i;

			row[i] = (const uint8_t *)m->w + (r + (at < n ? at : n - 1)) * m->row_bytes;
		}
		for (size_t unit = 0; unit < m->n_in / 32; unit += units) {
			UNINIT struct factors f[2];

			load_factors(type, &f[0], row);
			load_factors(type, &f[1], row + 4);
			for (size_t sub = 0; sub < units; sub++) {
				const size_t at = unit + sub,
					     group = 2 * at * PANEL_ROWS + 8 * half;
				UNINIT __m256i v[8];

				UNROLL for (size_t i = 0; i < 8; i++)
					v[i] = codes32(type, row[i], sub);
				panel_store_codes(type, p->codes + at * 32 * PANEL_ROWS, v, half);
				panel_store_factors(p->a + group, unit_a(type, &f[0], sub),
				                    unit_a(type, &f[1], sub));
				if (type_has_min(type))
					panel_store_factors(p->c + group, unit_c(type, &f[0], sub),
					                    unit_c(type, &f[1], sub));
			}
			UNROLL for (size_t i = 0; i < 8; i++)
				row[i] += bytes;
		}
	}
}

INLINE void panel_bind(struct panel *p, const struct mm_args *m)
{
	p->codes = m->scratch;
	p->a = (float *)(p->codes + PANEL_ROWS * m->n_in);
	p->c = p->a + m->n_in;
}

/* One entry a type: in place below four tokens, from there on by the level's `panels`, or in place
 * by threes. */
#define MM_ENTRY(name, id)                                                                     \
	static __attribute__((noinline)) void decode_##name(const struct mm_args *m, size_t r, \
	                                                    size_t token, size_t n_tok)        \
	{                                                                                      \
		if (n_tok == 1)                                                                \
			decode_rows(m, QTYPE_##id, r, token, 1);                               \
		else if (n_tok == 2)                                                           \
			decode_rows(m, QTYPE_##id, r, token, 2);                               \
		else                                                                           \
			decode_rows(m, QTYPE_##id, r, token, 3);                               \
	}                                                                                      \
	static void mm_##name(const struct mm_args *m)                                         \
	{                                                                                      \
		if (m->n_tok > 3 && in_panels(QTYPE_##id)) {                                   \
			panels(m, QTYPE_##id);                                                 \
			return;                                                                \
		}                                                                              \
		for (size_t r = m->r0; r < m->r1; r += 8)                                      \
			for (size_t t = 0; t < m->n_tok; t += 3)                               \
				decode_##name(m, r, t, m->n_tok - t < 3 ? m->n_tok - t : 3);   \
	}
#define MM_ENTRIES Q16_TYPES(MM_ENTRY)
#define MM_SET_ONE(name, id) to_->mm[QTYPE_##id] = mm_##name, to_->mm_level[QTYPE_##id] = level_;
#define MM_SET(k, level) \
	struct kernels *const to_ = (k); \
	const char *const level_ = (level); \
	Q16_TYPES(MM_SET_ONE)
