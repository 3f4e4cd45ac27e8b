/* r16 - packed units to vectors of eight rows, one unpack routine for every width of code; shared
 * by the AVX2 and AVX-512 products. `type` is a constant in every call.
 *
 * A vector of codes is 4 elements (k4) of 8 rows (a half of the group): what 4 bytes of a token are
 * broadcast against. */
#pragma once
#include "kernels/avx2/codes.h"
#include "kernels/r16.h"

/* The bits of v under `mask` once bit `from` of every byte is moved to bit `to`. */
INLINE __m256i move_bits(__m256i v, const size_t from, const size_t to, const int mask)
{
	if (from > to)
		v = _mm256_srli_epi16(v, (int)(from - to));
	else if (from < to)
		v = _mm256_slli_epi16(v, (int)(to - from));
	return _mm256_and_si256(v, _mm256_set1_epi8((char)mask));
}

/* Codes k4 of the rows of `half`; p is the unit. Unsigned codes are as in the file, signed ones
 * (type_is_signed) are values. */
INLINE __m256i r16_codes(const enum qtype type, const uint8_t *p, const size_t half,
                         const size_t k4)
{
	const size_t high = r16_bits(type) == 6 ? 128 : r16_bits(type) & 1 ? 64 : 0;
	const uint8_t *q = p + 32 * half, *low = q + high;
	__m256i v;

	switch (r16_bits(type)) {
	case 8: return load256(q + 64 * k4);
	case 2: case 3:
		v = move_bits(load256(low + 64 * (k4 / 4)), 2 * (k4 % 4), 0, 3);
		break;
	default: v = move_bits(load256(low + 64 * (k4 % 4)), k4 / 4 * 4, 0, 15);
	}
	switch (r16_bits(type)) {
	case 3: return _mm256_or_si256(v, move_bits(load256(q), k4, 2, 4));
	case 5: return _mm256_or_si256(v, move_bits(load256(q), k4, 4, 16));
	case 6:
		return _mm256_or_si256(
			v, move_bits(load256(q + 64 * (k4 / 4)), 2 * (k4 % 4), 4, 0x30));
	default: break;
	}
	if (!type_is_signed(type))
		return v;
	return _mm256_shuffle_epi8(_mm256_setr_epi8(IQ4_NL_VALUES, IQ4_NL_VALUES), v);
}

/* Factors of one block of 16 rows: of superblocks sc[scale] and mn[scale], for 16 elements each, or
 * for 32 in the types whose scales are for 32. */
struct r16_factors {
	__m256 d[2], m[2];      /* by half; of a legacy block a and c */
	int8_t sc[16][PACK_ROWS], mn[16][PACK_ROWS];
};

INLINE bool scales_of_16(const enum qtype type)
{
	return type == QTYPE_Q2_K || type == QTYPE_Q3_K || type == QTYPE_Q6_K;
}

INLINE void store256(void *p, __m256i v)
{
	_mm256_storeu_si256((__m256i *)p, v);
}

/* Two scale bytes of all rows are one vector here: 8 groups, as in unpack_scale_min of scalar/. */
INLINE void r16_scales_6bit(struct r16_factors *f, const uint8_t *s)
{
	UNROLL for (size_t i = 0; i < 2; i++) {
		const __m256i s0 = load256(s + 32 * i), s1 = load256(s + 64 + 32 * i),
			      s2 = load256(s + 128 + 32 * i);

		store256(f->sc[2 * i], move_bits(s0, 0, 0, 63));
		store256(f->mn[2 * i], move_bits(s1, 0, 0, 63));
		store256(f->sc[4 + 2 * i],
		         _mm256_or_si256(move_bits(s2, 0, 0, 15), move_bits(s0, 6, 4, 0x30)));
		store256(f->mn[4 + 2 * i],
		         _mm256_or_si256(move_bits(s2, 4, 0, 15), move_bits(s1, 6, 4, 0x30)));
	}
}

INLINE void r16_scales_q3_k(struct r16_factors *f, const uint8_t *s)
{
	UNROLL for (size_t j = 0; j < 16; j += 2) {
		const __m256i low = move_bits(load256(s + 16 * (j % 8)), j / 8 * 4, 0, 15);
		const __m256i high = move_bits(load256(s + 128 + 16 * (j % 4)), j / 4 * 2, 4, 0x30);

		store256(f->sc[j],
		         _mm256_sub_epi8(_mm256_or_si256(low, high), _mm256_set1_epi8(32)));
	}
}

/* Rows' 16-bit words of top bits become bytes by packing, which keeps the order within 128 bits. */
INLINE void r16_scales_iq4_xs(struct r16_factors *f, const uint8_t *s, const uint8_t *high)
{
	const __m256i h = load256(high);

	UNROLL for (size_t j = 0; j < 8; j++) {
		__m256i top = _mm256_and_si256(_mm256_srli_epi16(h, (int)(2 * j)),
		                               _mm256_set1_epi16(3));
		__m128i v = _mm_packus_epi16(_mm256_castsi256_si128(top),
		                             _mm256_extracti128_si256(top, 1));
		__m128i low = _mm_srli_epi16(load128(s + 16 * (j / 2)), (int)(4 * (j % 2)));

		v = _mm_or_si128(_mm_and_si128(low, _mm_set1_epi8(15)), _mm_slli_epi16(v, 4));
		_mm_storeu_si128((__m128i *)f->sc[j], _mm_sub_epi8(v, _mm_set1_epi8(32)));
	}
}

/* sc and mn; `factors` and `body` as of r16_factor_at() and r16_body_at(). */
INLINE void r16_load_scales(const enum qtype type, struct r16_factors *f, const uint8_t *factors,
                            const uint8_t *body)
{
	switch (type) {
	case QTYPE_Q2_K:
		UNROLL for (size_t j = 0; j < 16; j += 2) {
			const __m256i v = load256(body + 16 * j);

			store256(f->sc[j], move_bits(v, 0, 0, 15));
			store256(f->mn[j], move_bits(v, 4, 0, 15));
		}
		break;
	case QTYPE_Q3_K: r16_scales_q3_k(f, body); break;
	case QTYPE_Q4_K: case QTYPE_Q5_K: r16_scales_6bit(f, body); break;
	case QTYPE_Q6_K: memcpy(f->sc, body, sizeof(f->sc)); break;
	case QTYPE_IQ4_XS: r16_scales_iq4_xs(f, body, factors + 64); break;
	default: break;
	}
}

/* All of it. */
INLINE void r16_load_factors(const enum qtype type, struct r16_factors *f, const uint8_t *factors,
                             const uint8_t *body)
{
	UNROLL for (size_t half = 0; half < 2; half++) {
		f->d[half] = _mm256_cvtph_ps(load128(factors + 16 * half));
		if (!type_has_min(type))
			continue;
		f->m[half] = _mm256_cvtph_ps(load128(factors + 64 + 16 * half));
		if (type_is_super(type))
			f->m[half] = negate(f->m[half]);
	}
	r16_load_scales(type, f, factors, body);
}

/* Where the scale of group `odd` of a unit stands in sc and mn. */
INLINE size_t r16_scale(const enum qtype type, size_t unit, const size_t odd)
{
	return scales_of_16(type) ? 2 * unit + odd : unit;
}

/* a and c of group `odd` of a unit. */
INLINE __m256 r16_a(const enum qtype type, const struct r16_factors *f, size_t unit,
                    const size_t odd, const size_t half)
{
	const size_t scale = r16_scale(type, unit, odd);

	return type_is_super(type)
	               ? _mm256_mul_ps(f->d[half], signed_bytes(f->sc[scale] + 8 * half))
	               : f->d[half];
}

INLINE __m256 r16_c(const enum qtype type, const struct r16_factors *f, size_t unit,
                    const size_t odd, const size_t half)
{
	const size_t scale = r16_scale(type, unit, odd);

	return type_is_super(type)
	               ? _mm256_mul_ps(f->m[half], signed_bytes(f->mn[scale] + 8 * half))
	               : f->m[half];
}
