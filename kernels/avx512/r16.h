/* r16 - packed units to vectors of sixteen rows, shared by the AVX-512 products and the expansion
 * to AMX panels. `type` is a constant in every call. */
#pragma once
#include "kernels/avx2/r16.h"

/* Log2 of the offset of codes512()'s codes; -1: none. */
INLINE int bias_shift(const enum qtype type)
{
	return type_is_signed(type) ? 7 : type_offset_shift(type);
}

INLINE __m512i load512(const void *p)
{
	return _mm512_loadu_si512(p);
}

/* As move_bits. */
INLINE __m512i move_bits512(__m512i v, const size_t from, const size_t to, const int mask)
{
	if (from > to)
		v = _mm512_srli_epi16(v, (unsigned)(from - to));
	else if (from < to)
		v = _mm512_slli_epi16(v, (unsigned)(to - from));
	return _mm512_and_si512(v, _mm512_set1_epi8((char)mask));
}

/* Codes k4 of all rows of the unit at p, unsigned. */
INLINE __m512i codes512(const enum qtype type, const uint8_t *p, const size_t k4)
{
	const __m128i values = _mm_xor_si128(_mm_setr_epi8(IQ4_NL_VALUES), _mm_set1_epi8(-128));
	const size_t high = r16_bits(type) == 6 ? 128 : r16_bits(type) & 1 ? 64 : 0;
	__m512i v;

	switch (r16_bits(type)) {
	case 8: return _mm512_xor_si512(load512(p + 64 * k4), _mm512_set1_epi8(-128));
	case 2: case 3:
		v = move_bits512(load512(p + high + 64 * (k4 / 4)), 2 * (k4 % 4), 0, 3);
		break;
	default: v = move_bits512(load512(p + high + 64 * (k4 % 4)), k4 / 4 * 4, 0, 15);
	}
	switch (r16_bits(type)) {
	case 3: return _mm512_or_si512(v, move_bits512(load512(p), k4, 2, 4));
	case 5: return _mm512_or_si512(v, move_bits512(load512(p), k4, 4, 16));
	case 6:
		return _mm512_or_si512(
			v, move_bits512(load512(p + 64 * (k4 / 4)), 2 * (k4 % 4), 4, 0x30));
	default: break;
	}
	if (!type_is_signed(type))
		return v;
	return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), v);
}

INLINE __m512 signed_bytes512(const int8_t p[16])
{
	return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load128(p)));
}

/* One block of 16 rows: d and, of types with a minimum, m; scales as bytes. */
struct factors512 {
	__m512 d, m;
	struct r16_factors f;
};

INLINE void load_factors512(const enum qtype type, struct factors512 *f, const uint8_t *factors,
                            const uint8_t *body)
{
	f->d = _mm512_cvtph_ps(load256(factors));
	if (type_has_min(type)) {
		f->m = _mm512_cvtph_ps(load256(factors + 64));
		if (type_is_super(type))
			f->m = -f->m;
	}
	r16_load_scales(type, &f->f, factors, body);
}
