/* codes - bytes of blocks to vectors, shared by the AVX2 and AVX-512 products. `type` is a constant
 * in every call.
 *
 * A unit is 32 consecutive elements: a legacy block, or one eighth of a superblock. Its codes fill
 * one vector in order, so that the lower half is the even group of 16 and the upper half the odd
 * one.
 * Factors come for four rows at once as [r0 r1 r2 r3 of the even group | r0 r1 r2 r3 of the odd
 * group]. */
#pragma once
#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include "kernels/blocks.h"
#include "kernels/tables.h"

/* Large locals that are written before they are read: spares them -ftrivial-auto-var-init, a `rep
 * stos` a block. */
#define UNINIT __attribute__((uninitialized))
#define INLINE static inline __attribute__((always_inline, unused))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Codes that codes32() gives as signed bytes. */
INLINE bool type_is_signed(const enum qtype type)
{
	return type == QTYPE_Q8_0 || type == QTYPE_IQ4_NL || type == QTYPE_IQ4_XS;
}

/* Log2 of what is to be subtracted from the unsigned codes; -1: nothing. */
INLINE int type_offset_shift(const enum qtype type)
{
	switch (type) {
	case QTYPE_Q3_K: return 2;
	case QTYPE_Q4_0: return 3;
	case QTYPE_Q5_0: return 4;
	case QTYPE_Q6_K: return 5;
	default: return -1;
	}
}

INLINE __m256i load256(const void *p)
{
	return _mm256_loadu_si256((const __m256i *)p);
}

INLINE __m128i load128(const void *p)
{
	return _mm_loadu_si128((const __m128i *)p);
}

INLINE int32_t load32(const void *p)
{
	int32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

INLINE __m256i nibbles32(const uint8_t qs[16])
{
	const __m256i shift = _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4);
	const __m256i both = _mm256_broadcastsi128_si256(load128(qs));

	return _mm256_and_si256(_mm256_srlv_epi32(both, shift), _mm256_set1_epi8(15));
}

INLINE __m256i values32(const uint8_t qs[16])
{
	return _mm256_shuffle_epi8(_mm256_setr_epi8(IQ4_NL_VALUES, IQ4_NL_VALUES), nibbles32(qs));
}

/* 16 in byte j where bit j is set. */
INLINE __m256i fifth_bits(const uint8_t qh[4])
{
	const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,
	                                        2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
	const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
	const __m256i v = _mm256_shuffle_epi8(_mm256_set1_epi32(load32(qh)), spread);

	return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(v, bit), bit),
	                        _mm256_set1_epi8(16));
}

INLINE __m256i shift_right(__m256i v, size_t by)
{
	return _mm256_srl_epi16(v, _mm_cvtsi32_si128((int)by));
}

INLINE __m256i shift_left(__m256i v, size_t by)
{
	return _mm256_sll_epi16(v, _mm_cvtsi32_si128((int)by));
}

/* 2 bits a code at qs: element 128h + 32s + l is in byte 32h + l, bits 2s. */
INLINE __m256i pairs32(const uint8_t *qs, size_t unit)
{
	return _mm256_and_si256(shift_right(load256(qs + 32 * (unit / 4)), 2 * (unit % 4)),
	                        _mm256_set1_epi8(3));
}

INLINE __m256i nibbles32_k(const uint8_t qs[128], size_t unit)
{
	return _mm256_and_si256(shift_right(load256(qs + 32 * (unit / 2)), 4 * (unit % 2)),
	                        _mm256_set1_epi8(15));
}

/* Bit `unit` of each of 32 bytes, as bit `to`. */
INLINE __m256i plane32(const uint8_t plane[32], size_t unit, int to)
{
	const __m256i v = shift_right(load256(plane), unit);

	return _mm256_slli_epi16(_mm256_and_si256(v, _mm256_set1_epi8(1)), to);
}

INLINE __m256i codes_q6_k(const struct block_q6_k *b, size_t unit)
{
	const size_t half = unit / 4, s = unit % 4;
	const __m256i low = shift_right(load256(b->ql + 64 * half + 32 * (s & 1)), 4 * (s >> 1));
	const __m256i high = shift_right(load256(b->qh + 32 * half), 2 * s);

	return _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(15)),
	                       _mm256_slli_epi16(_mm256_and_si256(high, _mm256_set1_epi8(3)), 4));
}

INLINE __m256i codes32(const enum qtype type, const void *block, size_t unit)
{
	switch (type) {
	case QTYPE_Q4_0: return nibbles32(((const struct block_q4_0 *)block)->qs);
	case QTYPE_Q4_1: return nibbles32(((const struct block_q4_1 *)block)->qs);
	case QTYPE_Q5_0: {
		const struct block_q5_0 *b = block;

		return _mm256_or_si256(nibbles32(b->qs), fifth_bits(b->qh));
	}
	case QTYPE_Q5_1: {
		const struct block_q5_1 *b = block;

		return _mm256_or_si256(nibbles32(b->qs), fifth_bits(b->qh));
	}
	case QTYPE_Q8_0: return load256(((const struct block_q8_0 *)block)->qs);
	case QTYPE_IQ4_NL: return values32(((const struct block_iq4_nl *)block)->qs);
	case QTYPE_IQ4_XS:
		return values32(((const struct block_iq4_xs *)block)->qs + 16 * unit);
	case QTYPE_Q2_K: return pairs32(((const struct block_q2_k *)block)->qs, unit);
	case QTYPE_Q3_K: {
		const struct block_q3_k *b = block;

		return _mm256_or_si256(pairs32(b->qs, unit), plane32(b->hmask, unit, 2));
	}
	case QTYPE_Q4_K: return nibbles32_k(((const struct block_q4_k *)block)->qs, unit);
	case QTYPE_Q5_K: {
		const struct block_q5_k *b = block;

		return _mm256_or_si256(nibbles32_k(b->qs, unit), plane32(b->qh, unit, 4));
	}
	case QTYPE_Q6_K: return codes_q6_k(block, unit);
	default: __builtin_unreachable();
	}
}

/* Factors of four rows' superblocks: sc[4 * group + row], mn alike. */
struct factors {
	__m256 d, m;            /* d and -dmin of rows 0..3, twice; of a legacy block: a and c */
	int8_t sc[64], mn[64];
};

/* The f16 pairs at four places: *ret_lo of the first of each pair, *ret_hi of the second, each
 * twice. */
INLINE void load_f16_pairs(const uint8_t *const p[4], __m256 *ret_lo, __m256 *ret_hi)
{
	const __m128i split = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
	const __m128i v = _mm_setr_epi32(load32(p[0]), load32(p[1]), load32(p[2]), load32(p[3]));
	const __m256 f = _mm256_cvtph_ps(_mm_shuffle_epi8(v, split));

	*ret_lo = _mm256_permute2f128_ps(f, f, 0x00);
	*ret_hi = _mm256_permute2f128_ps(f, f, 0x11);
}

/* The f16 in the lower two of the four bytes at each place, twice. */
INLINE __m256 load_f16_low(const uint8_t *const p[4])
{
	const __m128i low = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5, 8, 9, 12, 13);
	const __m128i v = _mm_setr_epi32(load32(p[0]), load32(p[1]), load32(p[2]), load32(p[3]));

	return _mm256_cvtph_ps(_mm_shuffle_epi8(v, low));
}

/* As load_f16_low of the upper two bytes. */
INLINE __m256 load_f16_high(const uint8_t *const p[4])
{
	const __m128i high = _mm_setr_epi8(2, 3, 6, 7, 10, 11, 14, 15, 2, 3, 6, 7, 10, 11, 14, 15);
	const __m128i v = _mm_setr_epi32(load32(p[0]), load32(p[1]), load32(p[2]), load32(p[3]));

	return _mm256_cvtph_ps(_mm_shuffle_epi8(v, high));
}

INLINE __m256 negate(__m256 v)
{
	return _mm256_xor_ps(v, _mm256_set1_ps(-0.0f));
}

/* 16 bytes of each of four rows to out[4 * byte + row]. */
INLINE void store_bytes_4x16(int8_t out[64], __m128i r0, __m128i r1, __m128i r2, __m128i r3)
{
	const __m128i a = _mm_unpacklo_epi8(r0, r1), b = _mm_unpackhi_epi8(r0, r1);
	const __m128i c = _mm_unpacklo_epi8(r2, r3), d = _mm_unpackhi_epi8(r2, r3);

	_mm_storeu_si128((__m128i *)out, _mm_unpacklo_epi16(a, c));
	_mm_storeu_si128((__m128i *)(out + 16), _mm_unpackhi_epi16(a, c));
	_mm_storeu_si128((__m128i *)(out + 32), _mm_unpacklo_epi16(b, d));
	_mm_storeu_si128((__m128i *)(out + 48), _mm_unpackhi_epi16(b, d));
}

/* Byte 4 * group + row to out[8 * group + row] and again at + 4. */
INLINE void store_twice(int8_t out[32], __m128i v)
{
	_mm_storeu_si128((__m128i *)out, _mm_unpacklo_epi32(v, v));
	_mm_storeu_si128((__m128i *)(out + 16), _mm_unpackhi_epi32(v, v));
}

/* Lanes are rows, bytes of a lane are 4 groups of 32: to out as store_twice. */
INLINE void store_groups(int8_t out[32], __m128i v)
{
	const __m128i turn = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);

	store_twice(out, _mm_shuffle_epi8(v, turn));
}

/* Q4_K and Q5_K: d, dmin and 12 bytes of scales are the block's first 16 bytes. */
INLINE void factors_6bit(struct factors *f, const uint8_t *const p[4])
{
	const __m128i six = _mm_set1_epi8(0x3f), four = _mm_set1_epi8(0x0f),
		      top = _mm_set1_epi8(0x30);
	const __m128i a = _mm_unpacklo_epi32(load128(p[0]), load128(p[1]));
	const __m128i b = _mm_unpacklo_epi32(load128(p[2]), load128(p[3]));
	const __m128i c = _mm_unpackhi_epi32(load128(p[0]), load128(p[1]));
	const __m128i d = _mm_unpackhi_epi32(load128(p[2]), load128(p[3]));
	const __m128i s0 = _mm_unpackhi_epi64(a, b), s1 = _mm_unpacklo_epi64(c, d),
		      s2 = _mm_unpackhi_epi64(c, d);
	const __m128i sc = _mm_or_si128(_mm_and_si128(s2, four),
	                                _mm_and_si128(_mm_srli_epi16(s0, 2), top));
	const __m128i mn = _mm_or_si128(_mm_and_si128(_mm_srli_epi16(s2, 4), four),
	                                _mm_and_si128(_mm_srli_epi16(s1, 2), top));

	load_f16_pairs(p, &f->d, &f->m);
	f->m = negate(f->m);
	store_groups(f->sc, _mm_and_si128(s0, six));
	store_groups(f->sc + 32, sc);
	store_groups(f->mn, _mm_and_si128(s1, six));
	store_groups(f->mn + 32, mn);
}

INLINE __m128i scales_q3_k(const uint8_t s[12])
{
	const __m128i low = _mm_loadl_epi64((const __m128i *)s);
	const __m128i lows = _mm_and_si128(_mm_unpacklo_epi64(low, _mm_srli_epi16(low, 4)),
	                                   _mm_set1_epi8(15));
	const __m128i high = _mm_srlv_epi32(_mm_set1_epi32(load32(s + 8)),
	                                    _mm_setr_epi32(0, 2, 4, 6));
	const __m128i highs = _mm_slli_epi16(_mm_and_si128(high, _mm_set1_epi8(3)), 4);

	return _mm_sub_epi8(_mm_or_si128(lows, highs), _mm_set1_epi8(32));
}

/* Eight scales of 6 bits, a byte each. */
INLINE __m128i scales_iq4_xs(const struct block_iq4_xs *b)
{
	uint64_t low = (uint32_t)load32(b->scales_l), high = b->scales_h;

	low = (low | low << 16) & 0x0000ffff0000ffff;
	low = (low | low << 8) & 0x00ff00ff00ff00ff;
	low = (low | low << 4) & 0x0f0f0f0f0f0f0f0f;
	high = (high | high << 24) & 0x000000ff000000ff;
	high = (high | high << 12) & 0x000f000f000f000f;
	high = (high | high << 6) & 0x0303030303030303;
	return _mm_sub_epi8(_mm_cvtsi64_si128((long long)(low | high << 4)), _mm_set1_epi8(32));
}

/* Factors of the blocks p[0..3]; of a superblock once for its eight units. */
INLINE void load_factors(const enum qtype type, struct factors *f, const uint8_t *const p[4])
{
	const uint8_t *tail[4];

	switch (type) {
	case QTYPE_Q4_0: case QTYPE_Q5_0: case QTYPE_Q8_0: case QTYPE_IQ4_NL:
		f->d = load_f16_low(p);
		break;
	case QTYPE_Q4_1: case QTYPE_Q5_1:
		load_f16_pairs(p, &f->d, &f->m);
		break;
	case QTYPE_Q2_K: {
		const __m128i four = _mm_set1_epi8(15);
		__m128i s[4];

		UNROLL for (size_t i = 0; i < 4; i++) {
			s[i] = load128(((const struct block_q2_k *)p[i])->scales);
			tail[i] = p[i] + offsetof(struct block_q2_k, d);
		}
		load_f16_pairs(tail, &f->d, &f->m);
		f->m = negate(f->m);
		store_bytes_4x16(f->sc, _mm_and_si128(s[0], four), _mm_and_si128(s[1], four),
		                 _mm_and_si128(s[2], four), _mm_and_si128(s[3], four));
		UNROLL for (size_t i = 0; i < 4; i++)
			s[i] = _mm_and_si128(_mm_srli_epi16(s[i], 4), four);
		store_bytes_4x16(f->mn, s[0], s[1], s[2], s[3]);
		break;
	}
	case QTYPE_Q3_K: {
		__m128i s[4];

		UNROLL for (size_t i = 0; i < 4; i++) {
			s[i] = scales_q3_k(((const struct block_q3_k *)p[i])->scales);
			tail[i] = p[i] + offsetof(struct block_q3_k, d) - 2;
		}
		f->d = load_f16_high(tail);
		store_bytes_4x16(f->sc, s[0], s[1], s[2], s[3]);
		break;
	}
	case QTYPE_Q4_K: case QTYPE_Q5_K:
		factors_6bit(f, p);
		break;
	case QTYPE_IQ4_XS: {
		const __m128i a = _mm_unpacklo_epi8(scales_iq4_xs((const void *)p[0]),
		                                    scales_iq4_xs((const void *)p[1]));
		const __m128i b = _mm_unpacklo_epi8(scales_iq4_xs((const void *)p[2]),
		                                    scales_iq4_xs((const void *)p[3]));

		f->d = load_f16_low(p);
		store_twice(f->sc, _mm_unpacklo_epi16(a, b));
		store_twice(f->sc + 32, _mm_unpackhi_epi16(a, b));
		break;
	}
	case QTYPE_Q6_K:
		UNROLL for (size_t i = 0; i < 4; i++)
			tail[i] = p[i] + offsetof(struct block_q6_k, d) - 2;
		f->d = load_f16_high(tail);
		store_bytes_4x16(f->sc, load128(((const struct block_q6_k *)p[0])->scales),
		                 load128(((const struct block_q6_k *)p[1])->scales),
		                 load128(((const struct block_q6_k *)p[2])->scales),
		                 load128(((const struct block_q6_k *)p[3])->scales));
		break;
	default:
		__builtin_unreachable();
	}
}

INLINE __m256 signed_bytes(const int8_t p[8])
{
	return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

/* a of a unit. */
INLINE __m256 unit_a(const enum qtype type, const struct factors *f, size_t unit)
{
	return type_is_super(type) ? _mm256_mul_ps(f->d, signed_bytes(f->sc + 8 * unit)) : f->d;
}

/* c of a unit; -(dmin * mn) and (-dmin) * mn are the same float. */
INLINE __m256 unit_c(const enum qtype type, const struct factors *f, size_t unit)
{
	return type_is_super(type) ? _mm256_mul_ps(f->m, signed_bytes(f->mn + 8 * unit)) : f->m;
}
